#ifndef PAVISE_BASE_BYTE_READER_H_
#define PAVISE_BASE_BYTE_READER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise {

// Reads the fields of a binary structure in order. Nothing is read beyond its end: a field that
// does not fit is refused (kMalformed) with the item, the field's name and its offset. A value
// type; the bytes must outlive it.
class ByteReader {
 public:
  // `offset`: where `bytes` lie in the item, for messages.
  ByteReader(ByteSpan bytes, std::string_view item, uint64_t offset = 0)
      : bytes_(bytes), item_(item), base_(offset) {}

  const std::string& item() const { return item_; }
  // Of the next byte, in the item.
  uint64_t offset() const { return base_ + next_; }
  size_t left() const { return bytes_.size() - next_; }

  absl::StatusOr<ByteSpan> Take(uint64_t size_bytes, std::string_view field);
  // A structure of that length inside this one, to be read on its own.
  absl::StatusOr<ByteReader> Sub(uint64_t size_bytes, std::string_view field);

  absl::StatusOr<uint8_t> Uint8(std::string_view field);
  absl::StatusOr<uint16_t> LittleEndian16(std::string_view field);
  absl::StatusOr<uint32_t> LittleEndian32(std::string_view field);
  absl::StatusOr<uint64_t> LittleEndian64(std::string_view field);
  absl::StatusOr<uint16_t> BigEndian16(std::string_view field);
  absl::StatusOr<uint32_t> BigEndian32(std::string_view field);
  absl::StatusOr<uint64_t> BigEndian64(std::string_view field);

  // Refuses trailing bytes.
  absl::Status RequireEnd() const;
  // A refusal (kMalformed) that names the item and where the reader stands.
  absl::Status Malformed(std::string_view detail) const;

 private:
  template <typename T>
  absl::StatusOr<T> Integer(bool big_endian, std::string_view field);

  ByteSpan bytes_;
  std::string item_;
  uint64_t base_;
  size_t next_ = 0;
};

}  // namespace pavise

#endif  // PAVISE_BASE_BYTE_READER_H_
