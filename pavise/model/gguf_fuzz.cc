// The input is a whole GGUF file. Whatever is accepted must lie inside the file, without overlaps,
// and a prefix of an accepted file must ask for more or give the same table.

#include <cstdint>
#include <cstdlib>
#include <optional>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/model/tensor_table.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const pavise::ByteSpan file(data, size);
  const absl::StatusOr<std::optional<pavise::model::TensorTable>> table =
      pavise::model::ParseGgufHeader(file, size, "input");
  if (!table.ok()) {
    if (pavise::ExitCodeOf(table.status()) != 1) abort();
    return 0;
  }
  if (!table->has_value()) abort();  // the whole file was there
  uint64_t position = (*table)->data_begin_bytes;
  uint64_t last_begin = 0;
  for (const pavise::model::TensorEntry& tensor : (*table)->tensors) {
    if (tensor.begin_bytes < last_begin || tensor.end_bytes < tensor.begin_bytes) abort();
    last_begin = tensor.begin_bytes;
    if (tensor.begin_bytes == tensor.end_bytes) continue;
    if (tensor.begin_bytes < position) abort();
    position = tensor.end_bytes;
  }
  if (position > size) abort();
  const absl::StatusOr<std::optional<pavise::model::TensorTable>> of_prefix =
      pavise::model::ParseGgufHeader(file.first(size / 2), size, "input");
  if (!of_prefix.ok()) abort();
  if (of_prefix->has_value() && !(*of_prefix == *table)) abort();
  return 0;
}
