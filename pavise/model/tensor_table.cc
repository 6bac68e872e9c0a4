#include "pavise/model/tensor_table.h"

#include <algorithm>
#include <span>
#include <utility>

#include "pavise/base/status.h"

namespace pavise::model {
namespace {

constexpr std::string_view kGgufMagic = "GGUF";
// Most GGUF headers are a few MiB (the tokenizer's words).
constexpr uint64_t kFirstGgufPrefixBytes = 1u << 20;

absl::StatusOr<std::optional<TensorTable>> ReadGguf(const FileDescriptor& file,
                                                    std::string_view path, uint64_t file_size_bytes,
                                                    const TensorTableLimits& limits) {
  const uint64_t largest = std::min(file_size_bytes, limits.max_header_bytes);
  Bytes prefix;
  uint64_t wanted = std::min(kFirstGgufPrefixBytes, largest);
  while (true) {
    const uint64_t have = prefix.size();
    prefix.resize(wanted);
    PAVISE_RETURN_IF_ERROR(ReadExactly(file, have, std::span<uint8_t>(prefix).subspan(have), path));
    PAVISE_ASSIGN_OR_RETURN(std::optional<TensorTable> table,
                            ParseGgufHeader(prefix, file_size_bytes, path, limits));
    if (table.has_value()) return table;
    if (wanted == largest) {
      return Refuse(Reason::kLimitExceeded, path, "a GGUF header longer than the limit");
    }
    wanted = wanted > largest / 2 ? largest : wanted * 2;
  }
}

}  // namespace

std::string_view TensorFormatName(TensorFormat format) {
  switch (format) {
    case TensorFormat::kSafetensors:
      return "safetensors";
    case TensorFormat::kGguf:
      return "gguf";
  }
  return "unknown";
}

std::optional<TensorFormat> TensorFormatFromName(std::string_view name) {
  for (const TensorFormat format : {TensorFormat::kSafetensors, TensorFormat::kGguf}) {
    if (TensorFormatName(format) == name) return format;
  }
  return std::nullopt;
}

std::optional<ElementUnit> ElementUnitOf(TensorFormat format, std::string_view dtype) {
  return format == TensorFormat::kGguf ? GgufElementUnit(dtype) : SafetensorsElementUnit(dtype);
}

std::optional<TensorFormat> DetectTensorFormat(std::string_view path, ByteSpan first_bytes) {
  if (path.ends_with(".safetensors")) return TensorFormat::kSafetensors;
  if (AsText(first_bytes).starts_with(kGgufMagic)) return TensorFormat::kGguf;
  return std::nullopt;
}

absl::StatusOr<std::optional<TensorTable>> ReadTensorTable(const FileDescriptor& file,
                                                           std::string_view path,
                                                           uint64_t file_size_bytes,
                                                           const TensorTableLimits& limits) {
  Bytes start(std::min<uint64_t>(8, file_size_bytes));
  PAVISE_RETURN_IF_ERROR(ReadExactly(file, 0, start, path));
  const std::optional<TensorFormat> format = DetectTensorFormat(path, start);
  if (!format.has_value()) return std::nullopt;
  if (*format == TensorFormat::kGguf) return ReadGguf(file, path, file_size_bytes, limits);
  PAVISE_ASSIGN_OR_RETURN(const uint64_t header_bytes,
                          SafetensorsHeaderBytes(start, file_size_bytes, path, limits));
  Bytes header(header_bytes);
  PAVISE_RETURN_IF_ERROR(ReadExactly(file, 0, header, path));
  PAVISE_ASSIGN_OR_RETURN(TensorTable table,
                          ParseSafetensorsHeader(header, file_size_bytes, path, limits));
  return table;
}

}  // namespace pavise::model
