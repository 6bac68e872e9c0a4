#ifndef PAVISE_BASE_BYTES_H_
#define PAVISE_BASE_BYTES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace pavise {

using Bytes = std::vector<uint8_t>;
using ByteSpan = std::span<const uint8_t>;
using Digest32 = std::array<uint8_t, 32>;

inline ByteSpan AsBytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}
inline std::string_view AsText(ByteSpan bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Lower-case hexadecimal.
std::string ToHex(ByteSpan bytes);
// Accepts upper and lower case, an even number of digits, nothing else. Refusal: kMalformed.
absl::StatusOr<Bytes> FromHex(std::string_view hex, std::string_view item);
// Exactly 32 bytes of hexadecimal.
absl::StatusOr<Digest32> Digest32FromHex(std::string_view hex, std::string_view item);

// RFC 4648 section 4, with padding.
std::string ToBase64(ByteSpan bytes);
// Strict: canonical padding, no white space, no stray bits after the last byte. kMalformed.
absl::StatusOr<Bytes> FromBase64(std::string_view text, std::string_view item);

// RFC 4648 section 5 without padding: JOSE's encoding. Reading is as strict as FromBase64.
std::string ToBase64Url(ByteSpan bytes);
absl::StatusOr<Bytes> FromBase64Url(std::string_view text, std::string_view item);

// True for well-formed UTF-8 (RFC 3629: no overlong forms, no surrogates).
bool IsUtf8(std::string_view text);

// For the terminal: control characters (and with them terminal escapes), invisible and directional
// characters, and bytes that are not UTF-8 become \xNN, so that a file name from a hostile model
// cannot rewrite what the user reads. A backslash stays a backslash.
std::string Printable(std::string_view text);

// "1.50 GiB", "17 B".
std::string HumanBytes(uint64_t size_bytes);

// Little-endian integers at `offset`; the caller has checked that they lie inside.
uint32_t LoadLittleEndian32(ByteSpan bytes, size_t offset);
uint64_t LoadLittleEndian64(ByteSpan bytes, size_t offset);
void AppendLittleEndian32(uint32_t value, Bytes& out);
void AppendLittleEndian64(uint64_t value, Bytes& out);

}  // namespace pavise

#endif  // PAVISE_BASE_BYTES_H_
