#include "pavise/base/bytes.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"

namespace pavise {
namespace {

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The value of each character of base64, 0xff where it has none.
using SixBits = std::array<uint8_t, 256>;
constexpr SixBits SixBitsOf(const char (&last_two)[3]) {
  SixBits values{};
  values.fill(0xff);
  uint8_t value = 0;
  for (const auto& [first, last] : {std::pair{'A', 'Z'}, {'a', 'z'}, {'0', '9'}}) {
    for (char c = first; c <= last; ++c) values[static_cast<uint8_t>(c)] = value++;
  }
  for (const char c : {last_two[0], last_two[1]}) values[static_cast<uint8_t>(c)] = value++;
  return values;
}

// The one spelling only, without padding: no other characters, no bits behind the last byte.
bool DecodeBase64(std::string_view text, const SixBits& values, Bytes& out) {
  const size_t rest = text.size() % 4;
  if (rest == 1) return false;
  const auto value = [&](size_t i) { return values[static_cast<uint8_t>(text[i])]; };
  out.resize(text.size() / 4 * 3 + (rest == 0 ? 0 : rest - 1));
  uint8_t* to = out.data();
  uint8_t seen = 0;  // the first bit is set where a character has no value
  size_t i = 0;
  for (; i + 4 <= text.size(); i += 4) {
    const uint8_t a = value(i), b = value(i + 1), c = value(i + 2), d = value(i + 3);
    seen |= a | b | c | d;
    *to++ = static_cast<uint8_t>(a << 2 | b >> 4);
    *to++ = static_cast<uint8_t>(b << 4 | c >> 2);
    *to++ = static_cast<uint8_t>(c << 6 | d);
  }
  if (rest != 0) {
    const uint8_t a = value(i), b = value(i + 1), c = rest == 3 ? value(i + 2) : uint8_t{0};
    seen |= a | b | c;
    *to++ = static_cast<uint8_t>(a << 2 | b >> 4);
    if (rest == 3) *to++ = static_cast<uint8_t>(b << 4 | c >> 2);
    if (((rest == 3 ? c << 6 : b << 4) & 0xff) != 0) return false;
  }
  return (seen & 0x80) == 0;
}

// Length of the well-formed UTF-8 sequence at the start of `text`, 0 if there is none.
size_t Utf8SequenceLength(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const auto continues = [&](size_t i, uint8_t low = 0x80, uint8_t high = 0xbf) {
    return i < text.size() && byte(i) >= low && byte(i) <= high;
  };
  if (text.empty()) return 0;
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return continues(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    const uint8_t low = first == 0xe0 ? 0xa0 : 0x80;
    const uint8_t high = first == 0xed ? 0x9f : 0xbf;
    return continues(1, low, high) && continues(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const uint8_t low = first == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = first == 0xf4 ? 0x8f : 0xbf;
    return continues(1, low, high) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

// The code point of one well-formed sequence.
uint32_t DecodeUtf8(std::string_view sequence) {
  const uint8_t first = static_cast<uint8_t>(sequence[0]);
  if (sequence.size() == 1) return first;
  uint32_t code_point = first & (0x7fu >> sequence.size());
  for (const char c : sequence.substr(1)) {
    code_point = code_point << 6 | (static_cast<uint8_t>(c) & 0x3f);
  }
  return code_point;
}

// Characters that a reader cannot see, or that change how others are shown.
bool IsUnseen(uint32_t code_point) {
  struct Range {
    uint32_t first;
    uint32_t last;
  };
  constexpr Range kUnseen[] = {
      {0x00, 0x1f},        // C0 controls
      {0x7f, 0x9f},        // DEL and C1 controls
      {0xad, 0xad},        // soft hyphen
      {0x61c, 0x61c},      // Arabic letter mark
      {0x180e, 0x180e},    // Mongolian vowel separator
      {0x200b, 0x200f},    // zero width, directional marks
      {0x2028, 0x202e},    // line and paragraph separators, directional embeddings
      {0x2060, 0x206f},    // word joiner, directional isolates
      {0xfeff, 0xfeff},    // byte order mark
      {0xfff9, 0xfffb},    // interlinear annotations
      {0xe0000, 0xe0fff},  // tags, further variation selectors
  };
  for (const Range& range : kUnseen) {
    if (code_point >= range.first && code_point <= range.last) return true;
  }
  return false;
}

}  // namespace

std::string ToHex(ByteSpan bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out(bytes.size() * 2, '0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    out[2 * i] = kDigits[bytes[i] >> 4];
    out[2 * i + 1] = kDigits[bytes[i] & 15];
  }
  return out;
}

absl::StatusOr<Bytes> FromHex(std::string_view hex, std::string_view item) {
  if (hex.size() % 2 != 0) {
    return Refuse(Reason::kMalformed, item, "an odd number of hexadecimal digits");
  }
  Bytes out(hex.size() / 2);
  for (size_t i = 0; i < out.size(); ++i) {
    const int high = HexValue(hex[2 * i]);
    const int low = HexValue(hex[2 * i + 1]);
    if (high < 0 || low < 0) return Refuse(Reason::kMalformed, item, "not hexadecimal");
    out[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return out;
}

absl::StatusOr<Digest32> Digest32FromHex(std::string_view hex, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, FromHex(hex, item));
  Digest32 out;
  if (bytes.size() != out.size()) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("a digest of ", bytes.size(), " bytes where 32 belong"));
  }
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return out;
}

std::string ToBase64(ByteSpan bytes) { return absl::Base64Escape(ToAbsl(AsText(bytes))); }

absl::StatusOr<Bytes> FromBase64(std::string_view text, std::string_view item) {
  static constexpr SixBits kSixBits = SixBitsOf("+/");
  std::string_view digits = text;
  for (int padding = 0; padding < 2 && digits.ends_with('='); ++padding) digits.remove_suffix(1);
  Bytes decoded;
  if (text.size() % 4 != 0 || !DecodeBase64(digits, kSixBits, decoded)) {
    return Refuse(Reason::kMalformed, item, "not canonical base64 (RFC 4648, section 4)");
  }
  return decoded;
}

std::string ToBase64Url(ByteSpan bytes) { return absl::WebSafeBase64Escape(ToAbsl(AsText(bytes))); }

absl::StatusOr<Bytes> FromBase64Url(std::string_view text, std::string_view item) {
  static constexpr SixBits kSixBits = SixBitsOf("-_");
  Bytes decoded;
  if (!DecodeBase64(text, kSixBits, decoded)) {
    return Refuse(Reason::kMalformed, item, "not canonical base64url (RFC 4648, section 5)");
  }
  return decoded;
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = Utf8SequenceLength(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string Printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t sequence = Utf8SequenceLength(text);
    const size_t length = std::max<size_t>(sequence, 1);
    if (sequence == 0 || IsUnseen(DecodeUtf8(text.substr(0, sequence)))) {
      for (size_t i = 0; i < length; ++i) {
        absl::StrAppendFormat(&out, "\\x%02x", static_cast<uint8_t>(text[i]));
      }
    } else {
      out.append(text.substr(0, length));
    }
    text.remove_prefix(length);
  }
  return out;
}

std::string HumanBytes(uint64_t size_bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(size_bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return StrCat(size_bytes, " B");
  return absl::StrFormat("%.*f %s", value < 10 ? 2 : value < 100 ? 1 : 0, value, kUnits[unit]);
}

uint32_t LoadLittleEndian32(ByteSpan bytes, size_t offset) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | bytes[offset + static_cast<size_t>(i)];
  return value;
}

uint64_t LoadLittleEndian64(ByteSpan bytes, size_t offset) {
  return static_cast<uint64_t>(LoadLittleEndian32(bytes, offset)) |
         static_cast<uint64_t>(LoadLittleEndian32(bytes, offset + 4)) << 32;
}

void AppendLittleEndian32(uint32_t value, Bytes& out) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

void AppendLittleEndian64(uint64_t value, Bytes& out) {
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

}  // namespace pavise
