#ifndef PAVISE_VAULT_FORMAT_H_
#define PAVISE_VAULT_FORMAT_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Sealed assets as they lie on disk (docs/formats/sealed.md). Form only: nothing here is believed
// before a key opened it.
namespace pavise::vault {

inline constexpr uint64_t kSegmentBytes = 1 << 20;
inline constexpr uint64_t kTagBytes = 16;
inline constexpr uint64_t kMaxPayloadBytes = uint64_t{1} << 48;
inline constexpr size_t kMaxHeaderBytes = 16 << 10;
inline constexpr size_t kMaxRecipients = 256;
inline constexpr size_t kMaxRecipientsBytes = 1 << 20;
inline constexpr uint64_t kMaxIndexBytes = 256 << 20;
inline constexpr uint64_t kMaxSignatureBytes = 128 << 20;

// The part that never changes; the SHA-256 of its text is the asset's id.
struct Header {
  std::array<uint8_t, 32> salt{};
  std::array<uint8_t, 32> commitment{};  // of the content key
  uint64_t payload_bytes = 0;            // of the plain payload, padding included
  bool is_padded = false;
  std::string name;  // "": none given
  std::optional<Digest32>
      statement_sha256;  // of the OMS statement that the payload's signature signs

  friend bool operator==(const Header&, const Header&) = default;
};

// RFC 8785's text. kMalformed: a name that is not UTF-8 or over 1,024 bytes.
absl::StatusOr<std::string> FormatHeader(const Header& header, std::string_view item);
// Strict: only that text. kMalformed, kLimitExceeded, kUnsupported (another format).
absl::StatusOr<Header> ParseHeader(ByteSpan text, std::string_view item);

// A content key wrapped for one key.
struct Recipient {
  std::string key_id;  // PublicKey::Fingerprint()
  Json message;        // JWE, whose additional data is RecipientBinding
};
std::string RecipientBinding(std::string_view asset_id);
std::string FormatRecipients(const std::vector<Recipient>& recipients);
// kMalformed (a key named twice among it), kLimitExceeded.
absl::StatusOr<std::vector<Recipient>> ParseRecipients(ByteSpan text, std::string_view item);

// Where things lie in the file.
struct Prefix {
  uint32_t header_bytes = 0;
  uint32_t recipients_bytes = 0;
};
inline constexpr size_t kPrefixBytes = 20;
Bytes FormatPrefix(const Prefix& prefix);
// kMalformed: not a sealed asset; kUnsupported: another version; kLimitExceeded.
absl::StatusOr<Prefix> ParsePrefix(ByteSpan bytes, std::string_view item);

uint64_t SegmentCount(uint64_t payload_bytes);
// Of the plain bytes of segment `index`.
uint64_t SegmentSize(uint64_t payload_bytes, uint64_t index);

// What the payload holds, encrypted with it: the index, the signature, then the files' bytes.
struct IndexEntry {
  std::string path;
  uint64_t size_bytes = 0;
  bool is_executable = false;
  uint64_t offset_bytes = 0;  // in the payload; not written, it follows from the sizes

  friend bool operator==(const IndexEntry&, const IndexEntry&) = default;
};
struct Index {
  uint64_t signature_bytes = 0;
  uint64_t signature_offset_bytes = 0;
  std::vector<IndexEntry> files;
  uint64_t end_bytes = 0;  // of the payload without padding

  // Where a piece of the payload begins in the file that its middle belongs to, modulo 2^64: the
  // file may begin within the piece.
  uint64_t FileOffsetAt(uint64_t offset_bytes, uint64_t size_bytes) const;
  friend bool operator==(const Index&, const Index&) = default;
};
inline constexpr size_t kIndexLengthBytes = 8;
// The index after its length, as at the payload's begin; fills in the offsets. Paths as ParseIndex
// wants them, else its refusals.
absl::StatusOr<Bytes> FormatIndex(Index& index, std::string_view item);
// `bytes` is the index without its length. kPathUnsafe: paths that are absolute, not UTF-8, over
// 4,096 bytes, or with an empty, "." or ".." component; kMalformed: not in strictly ascending
// order, one a directory of another; kLimitExceeded: beyond kMaxPayloadBytes.
absl::StatusOr<Index> ParseIndex(ByteSpan bytes, std::string_view item);

// PADME (Nikitin et al., PETS 2019, section 4): the next length with at most 12% more, of which so
// few exist that a length tells O(log log size) bits.
uint64_t PaddedSize(uint64_t size_bytes);

}  // namespace pavise::vault

#endif  // PAVISE_VAULT_FORMAT_H_
