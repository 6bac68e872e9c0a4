#include "pavise/offload/in_process.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/testing/frames.h"
#include "pavise/offload/testing/plain_worker.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::offload {
namespace {

using testing::FloatsOf;
using testing::FrameOf;
using testing::RandomMatrix;

// Products that wait until they are let go.
class Gate final : public HostProducts {
 public:
  explicit Gate(std::shared_ptr<bool> is_open) : is_open_(std::move(is_open)) {}
  std::string_view name() const override { return "gate"; }
  bool multiplies_bf16() const override { return false; }
  absl::Status Floats(Operation operation, MatrixView a, MatrixView b, bool add,
                      MutableMatrixView out) const override {
    std::unique_lock lock(mutex);
    is_waiting = true;
    changed.notify_all();
    changed.wait(lock, [this] { return *is_open_; });
    return NewPlainProducts()->Floats(operation, a, b, add, out);
  }
  absl::Status Bf16(Operation, ViewOf<const uint16_t>, ViewOf<const uint16_t>,
                    MutableMatrixView) const override {
    return absl::OkStatus();
  }
  absl::Status Residues(Operation, ViewOf<const int8_t>, ViewOf<const int8_t>,
                        ViewOf<int32_t>) const override {
    return absl::OkStatus();
  }
  std::optional<uint64_t> ConvolutionWorkspaceBytes(const HostConvolution&) const override {
    return std::nullopt;
  }
  absl::Status Convolve(const HostConvolution&, const void*, const void*, float*) const override {
    return absl::OkStatus();
  }

  static inline std::mutex mutex;
  static inline std::condition_variable changed;
  static inline bool is_waiting = false;

 private:
  const std::shared_ptr<bool> is_open_;
};

Request Product(float a, float b) {
  Request request;
  Matrix left = Matrix::Create(1, 1, "test").value();
  Matrix right = left;
  left(0, 0) = a;
  right(0, 0) = b;
  request.frames = {FrameOf(left), FrameOf(right)};
  return request;
}

TEST(InProcessTest, AnswersComeInOrderAndMayBeWaitedForInAny) {
  const auto worker = ConnectInProcess({.name = "here", .memory_limit_bytes = 1 << 20},
                                       NewCpuDevice(NewPlainProducts()));
  EXPECT_EQ(worker->description().name, "here");
  EXPECT_EQ(worker->description().device, "cpu (plain loops, 1 thread)");
  EXPECT_EQ(worker->description().memory_limit_bytes, uint64_t{1} << 20);
  std::vector<std::unique_ptr<PendingReply>> pending;
  for (int i = 0; i < 20; ++i) {
    Request request = Product(static_cast<float>(i), 3);
    request.step = static_cast<uint64_t>(i);
    if (i == 7) request.frames.pop_back();
    pending.push_back(worker->Send(std::move(request)));
  }
  pending[3].reset();  // nobody waits
  for (int i = 19; i >= 0; --i) {
    if (i == 3) continue;
    const auto reply = pending[static_cast<size_t>(i)]->Wait(absl::InfiniteFuture());
    if (i == 7) {
      EXPECT_EQ(ReasonOf(reply.status()), Reason::kMalformed);
      continue;
    }
    EXPECT_EQ(reply->step, static_cast<uint64_t>(i));
    EXPECT_EQ(FloatsOf(reply->frames.at(0))(0, 0), static_cast<float>(3 * i));
  }
}

TEST(InProcessTest, ALateAnswerIsAMachineFailureAndSoIsAClosedConnection) {
  const auto is_open = std::make_shared<bool>(false);
  auto worker = ConnectInProcess({}, NewCpuDevice(std::make_unique<Gate>(is_open)));
  const auto first = worker->Send(Product(2, 3));
  const auto second = worker->Send(Product(2, 3));
  const absl::Status late = first->Wait(absl::InfinitePast()).status();
  EXPECT_EQ(ExitCodeOf(late), 3) << late;
  {
    std::unique_lock lock(Gate::mutex);
    Gate::changed.wait(lock, [] { return Gate::is_waiting; });
  }
  std::thread closing([&] { worker.reset(); });
  {
    const std::scoped_lock lock(Gate::mutex);
    *is_open = true;
    Gate::changed.notify_all();
  }
  closing.join();
  EXPECT_EQ(FloatsOf(first->Wait(absl::InfiniteFuture()).value().frames.at(0))(0, 0), 6)
      << "was being computed";
  // Closing may have begun before or after the thread took it.
  const auto last = second->Wait(absl::InfiniteFuture());
  if (!last.ok()) EXPECT_EQ(ExitCodeOf(last.status()), 3) << last.status();
}

}  // namespace
}  // namespace pavise::offload
