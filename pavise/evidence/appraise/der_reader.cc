#include "pavise/evidence/appraise/der_reader.h"

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::evidence {

absl::Status DerReader::Malformed(std::string_view detail) const {
  return Refuse(Reason::kMalformed, item_, detail);
}

absl::StatusOr<ByteSpan> DerReader::NextElement(std::string_view field) {
  if (bytes_.size() < 2) return Malformed(StrCat(field, " is cut short"));
  size_t header_bytes = 2;
  size_t content_bytes = bytes_[1];
  if (content_bytes >= 0x80) {
    // 65,535 bytes are more than any extension of a certificate has.
    const size_t length_bytes = content_bytes & 0x7f;
    if (length_bytes < 1 || length_bytes > 2 || bytes_.size() < 2 + length_bytes) {
      return Malformed(StrCat(field, " has no valid length"));
    }
    content_bytes = 0;
    for (size_t i = 0; i < length_bytes; ++i) content_bytes = content_bytes << 8 | bytes_[2 + i];
    if (content_bytes < (length_bytes == 1 ? 0x80u : 0x100u)) {
      return Malformed(StrCat(field, " has a length that is not in its shortest form"));
    }
    header_bytes += length_bytes;
  }
  if (content_bytes > bytes_.size() - header_bytes) {
    return Malformed(StrCat(field, " is cut short"));
  }
  const ByteSpan element = bytes_.first(header_bytes + content_bytes);
  bytes_ = bytes_.subspan(element.size());
  return element;
}

absl::StatusOr<ByteSpan> DerReader::Next(DerTag tag, std::string_view field) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan element, NextElement(field));
  if (element[0] != static_cast<uint8_t>(tag)) {
    return Malformed(StrCat(field, " is of another type (tag ", element[0], ")"));
  }
  const size_t header_bytes = element[1] < 0x80 ? 2 : 2 + (element[1] & 0x7f);
  return element.subspan(header_bytes);
}

absl::StatusOr<uint32_t> DerReader::NextUint(uint32_t max, std::string_view field) {
  PAVISE_ASSIGN_OR_RETURN(ByteSpan content, Next(DerTag::kInteger, field));
  const bool is_padded = content.size() > 1 && content[0] == 0;
  if (content.empty() || content[0] >= 0x80 || content.size() > 5 ||
      (is_padded && content[1] < 0x80)) {
    return Malformed(StrCat(field, " is not a number from 0 to ", max));
  }
  uint64_t value = 0;
  for (const uint8_t byte : content) value = value << 8 | byte;
  if (value > max) return Malformed(StrCat(field, " is ", value, ", more than ", max));
  return static_cast<uint32_t>(value);
}

absl::Status DerReader::RequireEnd() const {
  return done() ? absl::OkStatus() : Malformed("bytes after its last field");
}

}  // namespace pavise::evidence
