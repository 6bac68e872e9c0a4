#ifndef PAVISE_MODEL_TENSOR_TABLE_H_
#define PAVISE_MODEL_TENSOR_TABLE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"

#include "absl/status/statusor.h"

namespace pavise::model {

enum class TensorFormat { kSafetensors, kGguf };
std::string_view TensorFormatName(TensorFormat format);  // "safetensors", "gguf"
std::optional<TensorFormat> TensorFormatFromName(std::string_view name);

// The fewest elements of a dtype that are whole bytes by themselves: a block of a quantised type,
// two F4, one F16. nullopt: no dtype of the format.
struct ElementUnit {
  uint64_t elements = 1;
  uint64_t bytes = 0;

  friend bool operator==(const ElementUnit&, const ElementUnit&) = default;
};
std::optional<ElementUnit> ElementUnitOf(TensorFormat format, std::string_view dtype);
std::optional<ElementUnit> SafetensorsElementUnit(std::string_view dtype);
std::optional<ElementUnit> GgufElementUnit(std::string_view dtype);

struct TensorEntry {
  std::string name;
  std::string dtype;            // the format's own name: "BF16", "F32", "Q4_K", ...
  std::vector<uint64_t> shape;  // in the file's order: safetensors outermost first, GGUF innermost
  uint64_t begin_bytes = 0;     // absolute offsets in the file, [begin, end)
  uint64_t end_bytes = 0;

  friend bool operator==(const TensorEntry&, const TensorEntry&) = default;
};

struct TensorTable {
  TensorFormat format = TensorFormat::kSafetensors;
  uint64_t data_begin_bytes = 0;  // where the header ends
  // Ascending by begin, then name; names are unique and the ranges do not overlap. An empty tensor
  // (begin == end) may lie before or after one that begins at the same byte.
  std::vector<TensorEntry> tensors;

  friend bool operator==(const TensorTable&, const TensorTable&) = default;
};

struct TensorTableLimits {
  uint64_t max_header_bytes = 100'000'000;  // the safetensors library's own limit
  uint64_t max_tensors = 4'000'000;
};

// The format by name and content: ".safetensors" files (whatever they hold), else files that start
// with "GGUF". nullopt: a file without a tensor table.
std::optional<TensorFormat> DetectTensorFormat(std::string_view path, ByteSpan first_bytes);

// Parses a safetensors header (exactly the file's first 8 + n bytes) for a file of
// `file_size_bytes`, with the rules of the format's reference reader and nothing looser: the JSON
// text begins with '{' and may be followed by spaces only; no duplicate or unknown members;
// __metadata__ maps strings to strings; known dtypes; size = product(shape) x dtype bits / 8, a
// whole number of bytes; the ranges cover the data exactly, without holes or overlaps. A zero in a
// shape makes an empty tensor. Refusals name the tensor: kMalformed, kLimitExceeded, kUnsupported
// (an unknown dtype). Source: the format section of the safetensors README.
absl::StatusOr<TensorTable> ParseSafetensorsHeader(ByteSpan header, uint64_t file_size_bytes,
                                                   std::string_view item,
                                                   const TensorTableLimits& limits = {});
// 8 + the header length that the first 8 bytes claim, checked against file size (kMalformed) and
// limits (kLimitExceeded).
absl::StatusOr<uint64_t> SafetensorsHeaderBytes(ByteSpan first_8_bytes, uint64_t file_size_bytes,
                                                std::string_view item,
                                                const TensorTableLimits& limits = {});

// Parses a GGUF header (versions 2 and 3, little-endian): key-value metadata skipped with bounds,
// tensor infos, general.alignment. `header` is a prefix of the file; nullopt when it is cut short
// and more is needed (the caller doubles the prefix; a prefix of the limit's size that is still too
// short is kLimitExceeded). Refused as kMalformed: metadata or tensors that claim more than the
// file holds, duplicate keys and names, names that are not UTF-8, a first dimension that is no
// whole number of blocks, offsets that are not aligned, outside the data or overlapping, an
// alignment that is no power of two. kUnsupported: other versions, big-endian files, unknown or
// withdrawn ggml types. kLimitExceeded: more than 4 dimensions, arrays nested deeper than 4. Bytes
// between tensors and after the last (padding) are not looked at. Source: docs/gguf.md in the ggml
// repository.
absl::StatusOr<std::optional<TensorTable>> ParseGgufHeader(ByteSpan header,
                                                           uint64_t file_size_bytes,
                                                           std::string_view item,
                                                           const TensorTableLimits& limits = {});

// Reads and parses the table of an open file. nullopt: no tensor format.
absl::StatusOr<std::optional<TensorTable>> ReadTensorTable(const FileDescriptor& file,
                                                           std::string_view path,
                                                           uint64_t file_size_bytes,
                                                           const TensorTableLimits& limits = {});

}  // namespace pavise::model

#endif  // PAVISE_MODEL_TENSOR_TABLE_H_
