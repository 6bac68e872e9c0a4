// The input is a whole safetensors file. Whatever is accepted must cover the data exactly.

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/model/tensor_table.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const pavise::ByteSpan file(data, size);
  const absl::StatusOr<uint64_t> header_bytes =
      pavise::model::SafetensorsHeaderBytes(file.first(std::min<size_t>(8, size)), size, "input");
  if (!header_bytes.ok()) return 0;
  if (*header_bytes > size) abort();
  const absl::StatusOr<pavise::model::TensorTable> table =
      pavise::model::ParseSafetensorsHeader(file.first(*header_bytes), size, "input");
  if (!table.ok()) {
    if (pavise::ExitCodeOf(table.status()) != 1) abort();
    return 0;
  }
  if (table->data_begin_bytes != *header_bytes) abort();
  uint64_t covered = *header_bytes;
  uint64_t last_begin = 0;
  for (const pavise::model::TensorEntry& tensor : table->tensors) {
    if (tensor.begin_bytes < last_begin || tensor.end_bytes < tensor.begin_bytes) abort();
    if (tensor.end_bytes > size) abort();
    last_begin = tensor.begin_bytes;
    covered += tensor.end_bytes - tensor.begin_bytes;
  }
  if (covered != size) abort();
  return 0;
}
