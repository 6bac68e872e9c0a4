// Any message with any shape: read or refused, never a crash. What is accepted in a type without a
// scale packs to the same bytes; int8 to as many.

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/offload/tensor.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using pavise::offload::DType;
  if (size < 3) return 0;
  const DType type = static_cast<DType>(data[0]);
  const size_t rows = data[1];
  const size_t columns = data[2];
  const pavise::ByteSpan message(data + 3, size - 3);
  const auto matrix = pavise::offload::UnpackMatrix(message, type, rows, columns, "input");
  if (!matrix.ok()) {
    if (pavise::ExitCodeOf(matrix.status()) != 1) abort();
    return 0;
  }
  const auto again = pavise::offload::PackMatrix(*matrix, type, "again");
  if (!again.ok() || again->size() != message.size()) abort();
  if (type != DType::kInt8 && !std::equal(message.begin(), message.end(), again->begin())) abort();
  return 0;
}
