// A session's messages from a hostile coordinator (first byte even) or worker (odd), each behind
// its length in two bytes. What is read as requests is computed, under a memory limit.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/engine.h"
#include "pavise/offload/grpc/messages.h"

#include "offload.pb.h"

namespace {

using pavise::offload::MemoryBudget;

constexpr uint64_t kLimitBytes = uint64_t{8} << 20;

template <typename Message, typename Take>
void ForEachMessage(const uint8_t* data, size_t size, const Take& take) {
  while (size >= 2) {
    const size_t length = std::min<size_t>(data[0] | (data[1] << 8), size - 2);
    Message message;
    if (!message.ParseFromArray(data + 2, static_cast<int>(length)) || !take(message)) return;
    data += 2 + length;
    size -= 2 + length;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise::offload;
  if (size == 0) return 0;
  if (data[0] % 2 == 1) {
    ReplyReader reader(kLimitBytes);
    ForEachMessage<v1::WorkerMessage>(data + 1, size - 1, [&](const v1::WorkerMessage& message) {
      if (message.has_hello()) return DescriptionOf(message.hello()).ok();
      return reader.Take(message).ok();
    });
    return 0;
  }
  const auto budget = std::make_shared<MemoryBudget>(kLimitBytes);
  {
    RequestReader reader([&](uint64_t bytes) { return budget->Charge(bytes, "request"); });
    WorkerEngine engine(NewCpuDevice(NewPlainProducts()), budget);
    ForEachMessage<v1::ClientMessage>(data + 1, size - 1, [&](const v1::ClientMessage& message) {
      auto request = reader.Take(message);
      if (!request.ok()) return false;
      if (!request->has_value() || !(*request)->request.ok()) return true;
      const auto reply = engine.Execute(*std::move((*request)->request));
      if (!reply.ok() && pavise::ExitCodeOf(reply.status()) != 1) abort();
      return true;
    });
  }
  if (budget->used_bytes() != 0) abort();
  return 0;
}
