#include <algorithm>
#include <bit>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/model/tensor_table.h"

#include "absl/container/flat_hash_set.h"

namespace pavise::model {
namespace {

constexpr std::string_view kAlignmentKey = "general.alignment";
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint32_t kMaxDimensions = 4;  // GGML_MAX_DIMS
constexpr uint32_t kMaxArrayDepth = 4;
constexpr uint64_t kMaxKeyBytes = 65535;  // the specification's limit for keys; also for names here
// The least that a key-value pair (length, type, one byte) and a tensor info (length, dimensions,
// type, offset) take: bounds for counts.
constexpr uint64_t kLeastPairBytes = 8 + 4 + 1;
constexpr uint64_t kLeastInfoBytes = 8 + 4 + 4 + 8;
constexpr std::string_view kRemedy =
    "the file is damaged or was written by a faulty tool; get it again from where it comes";

enum ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// Bytes of a value of fixed size; 0 for strings and arrays, nullopt for unknown types.
std::optional<uint64_t> FixedBytes(uint32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kUint64:
    case kInt64:
    case kFloat64:
      return 8;
    case kString:
    case kArray:
      return 0;
    default:
      return std::nullopt;
  }
}

// ggml's tensor types, by number: elements and bytes of a block. Numbers that are missing were
// withdrawn (4, 5, 31 to 33, 36 to 38) or are not known here.
struct GgmlType {
  uint32_t number;
  std::string_view name;
  uint64_t block_elements;
  uint64_t block_bytes;
};
constexpr GgmlType kGgmlTypes[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},
    {3, "Q4_1", 32, 20},      {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},
    {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},      {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},  {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},  {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},   {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},    {40, "NVFP4", 64, 36},
};

const GgmlType* FindGgmlType(uint32_t number) {
  for (const GgmlType& type : kGgmlTypes) {
    if (type.number == number) return &type;
  }
  return nullptr;
}

// The prefix ends before the header does. Never leaves this file.
absl::Status NeedMore() { return absl::OutOfRangeError("more of the header is needed"); }
bool IsNeedMore(const absl::Status& status) { return absl::IsOutOfRange(status); }

// Reads on from a position in a prefix of the file. What the file cannot hold is malformed, what
// only the prefix does not hold is NeedMore.
class PrefixReader {
 public:
  PrefixReader(ByteSpan prefix, uint64_t file_size_bytes, std::string_view item)
      : prefix_(prefix), file_size_bytes_(file_size_bytes), item_(item) {}

  uint64_t position() const { return position_; }
  uint64_t left_in_file() const { return file_size_bytes_ - position_; }

  absl::StatusOr<ByteSpan> Take(uint64_t size_bytes) {
    if (size_bytes > left_in_file()) {
      return Refuse(Reason::kMalformed, item_,
                    StrCat("its header claims ", size_bytes, " bytes at byte ", position_,
                           ", the file has ", file_size_bytes_),
                    kRemedy);
    }
    if (size_bytes > prefix_.size() - position_) return NeedMore();
    const ByteSpan taken = prefix_.subspan(position_, size_bytes);
    position_ += size_bytes;
    return taken;
  }
  absl::StatusOr<uint32_t> Take32() {
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, Take(4));
    return LoadLittleEndian32(bytes, 0);
  }
  absl::StatusOr<uint64_t> Take64() {
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, Take(8));
    return LoadLittleEndian64(bytes, 0);
  }
  absl::StatusOr<std::string_view> TakeString() {
    PAVISE_ASSIGN_OR_RETURN(const uint64_t length, Take64());
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, Take(length));
    return AsText(bytes);
  }

 private:
  ByteSpan prefix_;
  uint64_t file_size_bytes_;
  std::string_view item_;
  uint64_t position_ = 0;
};

class HeaderParser {
 public:
  HeaderParser(ByteSpan prefix, uint64_t file_size_bytes, std::string_view item,
               const TensorTableLimits& limits)
      : reader_(prefix, file_size_bytes, item),
        file_size_bytes_(file_size_bytes),
        item_(item),
        limits_(limits) {}

  absl::StatusOr<TensorTable> Parse() {
    PAVISE_RETURN_IF_ERROR(ReadVersion());
    PAVISE_ASSIGN_OR_RETURN(const uint64_t tensor_count, reader_.Take64());
    PAVISE_ASSIGN_OR_RETURN(const uint64_t pair_count, reader_.Take64());
    if (tensor_count > reader_.left_in_file() / kLeastInfoBytes ||
        pair_count > reader_.left_in_file() / kLeastPairBytes) {
      return Malformed(StrCat("claims ", tensor_count, " tensors and ", pair_count,
                              " metadata values, more than the file can hold"));
    }
    if (tensor_count > limits_.max_tensors) {
      return Refuse(Reason::kLimitExceeded, item_,
                    StrCat(tensor_count, " tensors, the limit is ", limits_.max_tensors));
    }
    for (uint64_t i = 0; i < pair_count; ++i) PAVISE_RETURN_IF_ERROR(ReadPair());

    TensorTable table;
    table.format = TensorFormat::kGguf;
    // Not reserved from the count: the infos that are really there decide.
    for (uint64_t i = 0; i < tensor_count; ++i) {
      PAVISE_ASSIGN_OR_RETURN(TensorEntry entry, ReadInfo());
      table.tensors.push_back(std::move(entry));
    }
    PAVISE_RETURN_IF_ERROR(Place(table));
    return table;
  }

 private:
  absl::Status Malformed(std::string_view detail) const {
    return Refuse(Reason::kMalformed, item_, detail, kRemedy);
  }
  std::string TensorItem(std::string_view name) const { return StrCat(item_, ": tensor ", name); }

  absl::Status ReadVersion() {
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan magic, reader_.Take(4));
    if (AsText(magic) != "GGUF") return Malformed("does not start with \"GGUF\"");
    PAVISE_ASSIGN_OR_RETURN(const uint32_t version, reader_.Take32());
    if (version == 2 || version == 3) return absl::OkStatus();
    if ((version & 0xffff) == 0) {
      return Refuse(Reason::kUnsupported, item_, "a big-endian GGUF file",
                    "convert it to little-endian");
    }
    return Refuse(Reason::kUnsupported, item_,
                  StrCat("GGUF version ", version, "; 2 and 3 are read"),
                  "convert it to version 3");
  }

  absl::Status ReadPair() {
    PAVISE_ASSIGN_OR_RETURN(const std::string_view key, reader_.TakeString());
    if (key.size() > kMaxKeyBytes) return Malformed("a metadata key of more than 65,535 bytes");
    if (!keys_.insert(ToAbsl(key)).second) {
      return Malformed(StrCat("metadata key \"", Printable(key), "\" appears twice"));
    }
    PAVISE_ASSIGN_OR_RETURN(const uint32_t type, reader_.Take32());
    if (key != kAlignmentKey) return SkipValue(type, key, 0);
    if (type != kUint32) return Malformed("general.alignment is not a uint32");
    PAVISE_ASSIGN_OR_RETURN(alignment_, reader_.Take32());
    if (!std::has_single_bit(alignment_)) {
      return Malformed(StrCat("general.alignment is ", alignment_, ", not a power of two"));
    }
    return absl::OkStatus();
  }

  absl::Status SkipValue(uint32_t type, std::string_view key, uint32_t array_depth) {
    if (type == kArray) return SkipArray(key, array_depth + 1);
    return SkipScalars(type, 1, key);
  }

  // Strings, or values of fixed size.
  absl::Status SkipScalars(uint32_t type, uint64_t count, std::string_view key) {
    const std::optional<uint64_t> element_bytes = FixedBytes(type);
    if (!element_bytes.has_value()) {
      return Refuse(Reason::kUnsupported, item_,
                    StrCat("metadata key \"", Printable(key), "\" has the unknown type ", type));
    }
    if (type == kString) {
      for (uint64_t i = 0; i < count; ++i) {
        PAVISE_RETURN_IF_ERROR(reader_.TakeString().status());
      }
      return absl::OkStatus();
    }
    uint64_t size_bytes = 0;
    if (__builtin_mul_overflow(count, *element_bytes, &size_bytes)) {
      return Malformed(StrCat("metadata key \"", Printable(key), "\" claims ", count, " values"));
    }
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan values, reader_.Take(size_bytes));
    if (type == kBool &&
        std::any_of(values.begin(), values.end(), [](uint8_t value) { return value > 1; })) {
      return Malformed(StrCat("metadata key \"", Printable(key),
                              "\" holds a truth value that is neither 0 nor 1"));
    }
    return absl::OkStatus();
  }

  absl::Status SkipArray(std::string_view key, uint32_t depth) {
    if (depth > kMaxArrayDepth) {
      return Refuse(Reason::kLimitExceeded, item_,
                    StrCat("metadata key \"", Printable(key), "\" nests arrays deeper than ",
                           kMaxArrayDepth));
    }
    PAVISE_ASSIGN_OR_RETURN(const uint32_t type, reader_.Take32());
    PAVISE_ASSIGN_OR_RETURN(const uint64_t count, reader_.Take64());
    if (type != kArray) return SkipScalars(type, count, key);
    for (uint64_t i = 0; i < count; ++i) PAVISE_RETURN_IF_ERROR(SkipArray(key, depth + 1));
    return absl::OkStatus();
  }

  // One tensor info; begin_bytes is still relative to the data, end_bytes - begin_bytes the size.
  absl::StatusOr<TensorEntry> ReadInfo() {
    PAVISE_ASSIGN_OR_RETURN(const std::string_view name, reader_.TakeString());
    if (name.size() > kMaxKeyBytes) return Malformed("a tensor name of more than 65,535 bytes");
    if (!IsUtf8(name)) {
      return Malformed(StrCat("tensor name \"", Printable(name), "\" is not UTF-8"));
    }
    const std::string item = TensorItem(name);
    const auto malformed = [&](std::string_view detail) {
      return Refuse(Reason::kMalformed, item, detail, kRemedy);
    };
    if (!names_.insert(ToAbsl(name)).second) return malformed("appears twice");
    TensorEntry entry;
    entry.name = std::string(name);
    PAVISE_ASSIGN_OR_RETURN(const uint32_t dimensions, reader_.Take32());
    if (dimensions > kMaxDimensions) {
      return Refuse(Reason::kLimitExceeded, item,
                    StrCat("has ", dimensions, " dimensions, the limit is ", kMaxDimensions));
    }
    for (uint32_t i = 0; i < dimensions; ++i) {
      PAVISE_ASSIGN_OR_RETURN(const uint64_t dimension, reader_.Take64());
      entry.shape.push_back(dimension);
    }
    PAVISE_ASSIGN_OR_RETURN(const uint32_t type_number, reader_.Take32());
    const GgmlType* const type = FindGgmlType(type_number);
    if (type == nullptr) {
      return Refuse(Reason::kUnsupported, item, StrCat("unknown ggml type ", type_number),
                    "a newer version may know it");
    }
    entry.dtype = std::string(type->name);

    const uint64_t row_elements = entry.shape.empty() ? 1 : entry.shape.front();
    if (row_elements % type->block_elements != 0) {
      return malformed(StrCat("its rows of ", row_elements, " elements are no whole number of ",
                              type->name, " blocks of ", type->block_elements));
    }
    uint64_t size_bytes = row_elements / type->block_elements;
    bool overflows = __builtin_mul_overflow(size_bytes, type->block_bytes, &size_bytes);
    for (size_t i = 1; i < entry.shape.size(); ++i) {
      overflows |= __builtin_mul_overflow(size_bytes, entry.shape[i], &size_bytes);
    }
    if (overflows) return malformed("its shape overflows");

    PAVISE_ASSIGN_OR_RETURN(entry.begin_bytes, reader_.Take64());
    if (__builtin_add_overflow(entry.begin_bytes, size_bytes, &entry.end_bytes) ||
        entry.end_bytes > file_size_bytes_) {
      return malformed(StrCat("claims ", size_bytes, " bytes at byte ", entry.begin_bytes,
                              " of the data, the file has ", file_size_bytes_));
    }
    return entry;
  }

  // Makes the ranges absolute and checks them against the file and each other.
  absl::Status Place(TensorTable& table) const {
    // No overflow: the position is at most the file's size, the alignment below 2^32.
    uint64_t data_begin = (reader_.position() + alignment_ - 1) / alignment_ * alignment_;
    // A file without tensors need not pad its header.
    if (table.tensors.empty()) data_begin = std::min(data_begin, file_size_bytes_);
    if (data_begin > file_size_bytes_) return Malformed("ends before its tensor data begins");
    table.data_begin_bytes = data_begin;
    for (TensorEntry& entry : table.tensors) {
      if (entry.begin_bytes % alignment_ != 0) {
        return Refuse(Reason::kMalformed, TensorItem(entry.name),
                      StrCat("its offset ", entry.begin_bytes, " is no multiple of ", alignment_),
                      kRemedy);
      }
      if (entry.end_bytes > file_size_bytes_ - data_begin) {
        return Refuse(Reason::kMalformed, TensorItem(entry.name),
                      StrCat("ends at byte ", entry.end_bytes, " of the data, which has ",
                             file_size_bytes_ - data_begin),
                      kRemedy);
      }
      entry.begin_bytes += data_begin;
      entry.end_bytes += data_begin;
    }
    // Empty tensors first where several begin at one byte, so that neighbours show every overlap.
    std::sort(table.tensors.begin(), table.tensors.end(),
              [](const TensorEntry& a, const TensorEntry& b) {
                return std::tie(a.begin_bytes, a.end_bytes) < std::tie(b.begin_bytes, b.end_bytes);
              });
    for (size_t i = 1; i < table.tensors.size(); ++i) {
      if (table.tensors[i].begin_bytes < table.tensors[i - 1].end_bytes) {
        return Refuse(Reason::kMalformed, TensorItem(table.tensors[i].name),
                      StrCat("lies inside tensor ", table.tensors[i - 1].name), kRemedy);
      }
    }
    std::sort(table.tensors.begin(), table.tensors.end(),
              [](const TensorEntry& a, const TensorEntry& b) {
                return std::tie(a.begin_bytes, a.name) < std::tie(b.begin_bytes, b.name);
              });
    return absl::OkStatus();
  }

  PrefixReader reader_;
  const uint64_t file_size_bytes_;
  const std::string_view item_;
  const TensorTableLimits& limits_;
  uint64_t alignment_ = kDefaultAlignment;
  // Views into the prefix.
  absl::flat_hash_set<absl::string_view> keys_;
  absl::flat_hash_set<absl::string_view> names_;
};

}  // namespace

std::optional<ElementUnit> GgufElementUnit(std::string_view dtype) {
  for (const GgmlType& type : kGgmlTypes) {
    if (type.name == dtype) return ElementUnit{type.block_elements, type.block_bytes};
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<TensorTable>> ParseGgufHeader(ByteSpan header,
                                                           uint64_t file_size_bytes,
                                                           std::string_view item,
                                                           const TensorTableLimits& limits) {
  if (header.size() > file_size_bytes) {
    return Refuse(Reason::kMalformed, item, "a header longer than its file");
  }
  absl::StatusOr<TensorTable> table = HeaderParser(header, file_size_bytes, item, limits).Parse();
  if (table.ok()) return *std::move(table);
  if (!IsNeedMore(table.status())) return table.status();
  if (header.size() >= limits.max_header_bytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("a header of more than ", limits.max_header_bytes, " bytes"));
  }
  return std::nullopt;
}

}  // namespace pavise::model
