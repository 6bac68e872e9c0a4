#include <algorithm>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/model/tensor_table.h"

namespace pavise::model {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr std::string_view kMetadataKey = "__metadata__";
// The deepest legal value is a shape: root, tensor, array, number.
constexpr uint32_t kMaxJsonDepth = 4;
constexpr std::string_view kRemedy =
    "the file is damaged or was written by a faulty tool; get it again from where it comes";

struct DtypeBits {
  std::string_view name;
  uint64_t bits;
};
constexpr DtypeBits kDtypes[] = {
    {"BOOL", 8},        {"U8", 8},          {"I8", 8},      {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E5M2FNUZ", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E8M0", 8}, {"F4", 4},      {"F6_E2M3", 6},
    {"F6_E3M2", 6},     {"I16", 16},        {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},        {"F32", 32},    {"F64", 64},    {"I64", 64},
    {"U64", 64},        {"C64", 64},
};

std::optional<uint64_t> BitsOf(std::string_view dtype) {
  for (const DtypeBits& known : kDtypes) {
    if (known.name == dtype) return known.bits;
  }
  return std::nullopt;
}

// One tensor's entry; its range is still relative to the data.
class TensorReader {
 public:
  TensorReader(std::string_view item, const std::string& name, uint64_t data_bytes)
      : item_(StrCat(item, ": tensor ", name)), name_(name), data_bytes_(data_bytes) {}

  absl::StatusOr<TensorEntry> Read(const Json& value) const {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(value, item_));
    PAVISE_RETURN_IF_ERROR(object.RequireOnly({"dtype", "shape", "data_offsets"}));
    TensorEntry entry;
    entry.name = name_;
    PAVISE_ASSIGN_OR_RETURN(entry.dtype, object.GetString("dtype"));
    PAVISE_ASSIGN_OR_RETURN(entry.shape, ReadNumbers(object, "shape"));
    PAVISE_ASSIGN_OR_RETURN(const std::vector<uint64_t> offsets,
                            ReadNumbers(object, "data_offsets"));
    if (offsets.size() != 2) return Malformed("data_offsets are not two numbers");
    entry.begin_bytes = offsets[0];
    entry.end_bytes = offsets[1];
    if (entry.begin_bytes > entry.end_bytes) return Malformed("ends before it begins");
    if (entry.end_bytes > data_bytes_) {
      return Malformed(
          StrCat("ends at byte ", entry.end_bytes, " of the data, which has ", data_bytes_));
    }
    PAVISE_ASSIGN_OR_RETURN(const uint64_t size_bytes, SizeBytes(entry));
    if (entry.end_bytes - entry.begin_bytes != size_bytes) {
      return Malformed(StrCat("has ", entry.end_bytes - entry.begin_bytes,
                              " bytes, its shape and dtype need ", size_bytes));
    }
    return entry;
  }

 private:
  absl::Status Malformed(std::string_view detail) const {
    return Refuse(Reason::kMalformed, item_, detail, kRemedy);
  }

  absl::StatusOr<std::vector<uint64_t>> ReadNumbers(const JsonObject& object,
                                                    std::string_view key) const {
    PAVISE_ASSIGN_OR_RETURN(const Json* array, object.GetArray(key));
    std::vector<uint64_t> numbers;
    numbers.reserve(array->size());
    for (const Json& number : *array) {
      if (!number.is_number_unsigned()) {
        return Malformed(StrCat(key, " holds something that is no non-negative integer"));
      }
      numbers.push_back(number.get<uint64_t>());
    }
    return numbers;
  }

  absl::StatusOr<uint64_t> SizeBytes(const TensorEntry& entry) const {
    const std::optional<uint64_t> bits_per_element = BitsOf(entry.dtype);
    if (!bits_per_element.has_value()) {
      return Refuse(Reason::kUnsupported, item_, StrCat("unknown dtype \"", entry.dtype, "\""),
                    "a newer version may know it");
    }
    uint64_t bits = 1;
    for (const uint64_t dimension : entry.shape) {
      if (__builtin_mul_overflow(bits, dimension, &bits)) return Malformed("its shape overflows");
    }
    if (__builtin_mul_overflow(bits, *bits_per_element, &bits)) {
      return Malformed("its shape overflows");
    }
    if (bits % 8 != 0) return Malformed("its elements do not fill whole bytes");
    return bits / 8;
  }

  const std::string item_;
  const std::string& name_;
  const uint64_t data_bytes_;
};

absl::Status CheckMetadata(const Json& metadata, std::string_view item) {
  if (!metadata.is_object()) {
    return Refuse(Reason::kMalformed, item, "__metadata__ is not an object", kRemedy);
  }
  for (const auto& member : metadata.items()) {
    if (!member.value().is_string()) {
      return Refuse(Reason::kMalformed, item,
                    StrCat("__metadata__.", Printable(member.key()), " is not a string"), kRemedy);
    }
  }
  return absl::OkStatus();
}

// The ranges, in order, must follow each other from 0 to `data_bytes`.
absl::Status CheckCoverage(std::vector<TensorEntry>& tensors, uint64_t data_bytes,
                           std::string_view item) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin_bytes, a.end_bytes) < std::tie(b.begin_bytes, b.end_bytes);
  });
  uint64_t position = 0;
  for (const TensorEntry& tensor : tensors) {
    if (tensor.begin_bytes != position) {
      return Refuse(Reason::kMalformed, StrCat(item, ": tensor ", tensor.name),
                    StrCat("begins at byte ", tensor.begin_bytes, " of the data, ",
                           tensor.begin_bytes < position ? "inside another tensor" : "after a hole",
                           "; the one before it ends at ", position),
                    kRemedy);
    }
    position = tensor.end_bytes;
  }
  if (position != data_bytes) {
    return Refuse(
        Reason::kMalformed, item,
        StrCat("its tensors end at byte ", position, " of the data, which has ", data_bytes),
        kRemedy);
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<ElementUnit> SafetensorsElementUnit(std::string_view dtype) {
  const std::optional<uint64_t> bits = BitsOf(dtype);
  if (!bits.has_value()) return std::nullopt;
  const uint64_t elements = 8 / std::gcd(*bits, uint64_t{8});
  return ElementUnit{elements, *bits * elements / 8};
}

absl::StatusOr<uint64_t> SafetensorsHeaderBytes(ByteSpan first_8_bytes, uint64_t file_size_bytes,
                                                std::string_view item,
                                                const TensorTableLimits& limits) {
  if (first_8_bytes.size() < kLengthBytes || file_size_bytes < kLengthBytes) {
    return Refuse(Reason::kMalformed, item, "too short for a safetensors file", kRemedy);
  }
  const uint64_t length = LoadLittleEndian64(first_8_bytes, 0);
  if (length > file_size_bytes - kLengthBytes) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("claims a header of ", length, " bytes, the file has ", file_size_bytes),
                  kRemedy);
  }
  if (length > limits.max_header_bytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("a header of ", length, " bytes, the limit is ", limits.max_header_bytes));
  }
  return kLengthBytes + length;
}

absl::StatusOr<TensorTable> ParseSafetensorsHeader(ByteSpan header, uint64_t file_size_bytes,
                                                   std::string_view item,
                                                   const TensorTableLimits& limits) {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t header_bytes,
                          SafetensorsHeaderBytes(header, file_size_bytes, item, limits));
  if (header.size() != header_bytes) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("a header of ", header_bytes, " bytes, ", header.size(), " given"));
  }
  std::string_view text = AsText(header.subspan(kLengthBytes));
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  if (text.empty() || text.front() != '{' || text.back() != '}') {
    return Refuse(Reason::kMalformed, item, "its header is not a JSON object", kRemedy);
  }
  JsonLimits json_limits;
  json_limits.max_bytes = limits.max_header_bytes;
  json_limits.max_depth = kMaxJsonDepth;
  PAVISE_ASSIGN_OR_RETURN(const Json root, ParseJson(AsBytes(text), item, json_limits));

  TensorTable table;
  table.format = TensorFormat::kSafetensors;
  table.data_begin_bytes = header_bytes;
  const uint64_t data_bytes = file_size_bytes - header_bytes;
  const size_t tensor_count = root.size() - (root.contains(kMetadataKey) ? 1 : 0);
  if (tensor_count > limits.max_tensors) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat(tensor_count, " tensors, the limit is ", limits.max_tensors));
  }
  table.tensors.reserve(tensor_count);
  for (const auto& member : root.items()) {
    if (member.key() == kMetadataKey) {
      PAVISE_RETURN_IF_ERROR(CheckMetadata(member.value(), item));
      continue;
    }
    PAVISE_ASSIGN_OR_RETURN(TensorEntry entry,
                            TensorReader(item, member.key(), data_bytes).Read(member.value()));
    table.tensors.push_back(std::move(entry));
  }
  PAVISE_RETURN_IF_ERROR(CheckCoverage(table.tensors, data_bytes, item));
  // No overflow: every end is at most data_bytes.
  for (TensorEntry& entry : table.tensors) {
    entry.begin_bytes += header_bytes;
    entry.end_bytes += header_bytes;
  }
  std::sort(table.tensors.begin(), table.tensors.end(),
            [](const TensorEntry& a, const TensorEntry& b) {
              return std::tie(a.begin_bytes, a.name) < std::tie(b.begin_bytes, b.name);
            });
  return table;
}

}  // namespace pavise::model
