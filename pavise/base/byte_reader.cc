#include "pavise/base/byte_reader.h"

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise {

absl::StatusOr<ByteSpan> ByteReader::Take(uint64_t size_bytes, std::string_view field) {
  if (size_bytes > left()) {
    return Malformed(StrCat(field, " takes ", size_bytes, " bytes, and ", left(), " are left"));
  }
  const ByteSpan taken = bytes_.subspan(next_, size_bytes);
  next_ += size_bytes;
  return taken;
}

absl::StatusOr<ByteReader> ByteReader::Sub(uint64_t size_bytes, std::string_view field) {
  const uint64_t begin = offset();
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, Take(size_bytes, field));
  return ByteReader(bytes, item_, begin);
}

template <typename T>
absl::StatusOr<T> ByteReader::Integer(bool big_endian, std::string_view field) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, Take(sizeof(T), field));
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value |= uint64_t{bytes[i]} << (8 * (big_endian ? sizeof(T) - 1 - i : i));
  }
  return static_cast<T>(value);
}

absl::StatusOr<uint8_t> ByteReader::Uint8(std::string_view field) {
  return Integer<uint8_t>(false, field);
}
absl::StatusOr<uint16_t> ByteReader::LittleEndian16(std::string_view field) {
  return Integer<uint16_t>(false, field);
}
absl::StatusOr<uint32_t> ByteReader::LittleEndian32(std::string_view field) {
  return Integer<uint32_t>(false, field);
}
absl::StatusOr<uint64_t> ByteReader::LittleEndian64(std::string_view field) {
  return Integer<uint64_t>(false, field);
}
absl::StatusOr<uint16_t> ByteReader::BigEndian16(std::string_view field) {
  return Integer<uint16_t>(true, field);
}
absl::StatusOr<uint32_t> ByteReader::BigEndian32(std::string_view field) {
  return Integer<uint32_t>(true, field);
}
absl::StatusOr<uint64_t> ByteReader::BigEndian64(std::string_view field) {
  return Integer<uint64_t>(true, field);
}

absl::Status ByteReader::RequireEnd() const {
  if (left() == 0) return absl::OkStatus();
  return Malformed(
      StrCat(left(), left() == 1 ? " byte follows" : " bytes follow", " where it should end"));
}

absl::Status ByteReader::Malformed(std::string_view detail) const {
  return Refuse(Reason::kMalformed, item_, StrCat("at offset ", offset(), ": ", detail));
}

}  // namespace pavise
