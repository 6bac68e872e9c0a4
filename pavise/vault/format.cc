#include "pavise/vault/format.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "pavise/base/byte_reader.h"
#include "pavise/base/canonical_json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_split.h"

namespace pavise::vault {
namespace {

constexpr std::string_view kFormat = "pavise-sealed/1";
constexpr std::string_view kMagic = "PAVISESL";
constexpr uint32_t kVersion = 1;
constexpr size_t kMaxNameBytes = 1024;
constexpr size_t kMaxPathBytes = 4096;
// An entry without its path: its length, flags and size.
constexpr size_t kEntryBytes = 2 + 1 + 8;
constexpr uint8_t kExecutable = 1;

absl::StatusOr<std::array<uint8_t, 32>> GetHex32(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString(key));
  return Digest32FromHex(text, object.PathOf(key));
}

absl::Status CheckPath(std::string_view path, std::string_view item) {
  const auto refuse = [&](std::string_view detail) {
    return Refuse(Reason::kPathUnsafe, StrCat(item, ": ", Printable(path.substr(0, 200))), detail);
  };
  if (path.empty() || path.size() > kMaxPathBytes) return refuse("a path of such a length");
  if (path.front() == '/') return refuse("absolute");
  if (!IsUtf8(path) || path.find('\0') != path.npos) return refuse("not UTF-8, or holds a NUL");
  for (const absl::string_view component : absl::StrSplit(ToAbsl(path), '/')) {
    if (component.empty() || component == "." || component == "..") {
      return refuse("has an empty, \".\" or \"..\" component");
    }
    if (component.size() > 255) return refuse("has a component of over 255 bytes");
  }
  return absl::OkStatus();
}

// Ascending order does not put "a" right before "a/b" ("a.b" lies between), so that every directory
// above a path is looked up among the files.
bool IsFile(const std::vector<IndexEntry>& files, std::string_view path) {
  const auto found = std::ranges::lower_bound(files, path, {}, &IndexEntry::path);
  return found != files.end() && found->path == path;
}

// Offsets, sums and the rules for paths.
absl::Status Complete(Index& index, uint64_t index_bytes, std::string_view item) {
  if (index_bytes > kMaxIndexBytes || index.signature_bytes > kMaxSignatureBytes) {
    return Refuse(Reason::kLimitExceeded, item, "an index or a signature beyond the limit");
  }
  index.signature_offset_bytes = kIndexLengthBytes + index_bytes;
  index.end_bytes = index.signature_offset_bytes + index.signature_bytes;
  for (size_t i = 0; i < index.files.size(); ++i) {
    IndexEntry& entry = index.files[i];
    PAVISE_RETURN_IF_ERROR(CheckPath(entry.path, item));
    if (i > 0 && entry.path <= index.files[i - 1].path) {
      return Refuse(Reason::kMalformed, StrCat(item, ": ", Printable(entry.path)),
                    "paths are not in strictly ascending order");
    }
    if (entry.size_bytes > kMaxPayloadBytes - index.end_bytes) {
      return Refuse(Reason::kLimitExceeded, StrCat(item, ": ", Printable(entry.path)),
                    StrCat("more than ", HumanBytes(kMaxPayloadBytes), " together"));
    }
    entry.offset_bytes = index.end_bytes;
    index.end_bytes += entry.size_bytes;
  }
  for (const IndexEntry& entry : index.files) {
    for (size_t at = entry.path.find('/'); at != std::string::npos;
         at = entry.path.find('/', at + 1)) {
      if (IsFile(index.files, std::string_view(entry.path).substr(0, at))) {
        return Refuse(Reason::kMalformed, StrCat(item, ": ", Printable(entry.path)),
                      "lies below a file");
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> FormatHeader(const Header& header, std::string_view item) {
  if (header.name.size() > kMaxNameBytes) {
    return Refuse(Reason::kMalformed, item, StrCat("a name of ", header.name.size(), " bytes"));
  }
  Json json = {{"format", std::string(kFormat)},
               {"commitment", ToHex(header.commitment)},
               {"padded", header.is_padded},
               {"payload_bytes", header.payload_bytes},
               {"salt", ToHex(header.salt)}};
  if (!header.name.empty()) json["name"] = header.name;
  if (header.statement_sha256.has_value()) {
    json["statement_sha256"] = ToHex(*header.statement_sha256);
  }
  return CanonicalJson(json, item);
}

absl::StatusOr<Header> ParseHeader(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json,
                          ParseJson(text, item, {.max_bytes = kMaxHeaderBytes, .max_depth = 2}));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_ASSIGN_OR_RETURN(const std::string format, object.GetString("format"));
  if (format != kFormat) {
    return Refuse(Reason::kUnsupported, object.PathOf("format"),
                  StrCat("\"", Printable(format), "\" where \"", kFormat, "\" belongs"));
  }
  PAVISE_RETURN_IF_ERROR(object.RequireOnly(
      {"format", "commitment", "padded", "payload_bytes", "salt", "name", "statement_sha256"}));
  Header header;
  PAVISE_ASSIGN_OR_RETURN(header.commitment, GetHex32(object, "commitment"));
  PAVISE_ASSIGN_OR_RETURN(header.salt, GetHex32(object, "salt"));
  PAVISE_ASSIGN_OR_RETURN(header.is_padded, object.GetBool("padded"));
  PAVISE_ASSIGN_OR_RETURN(header.payload_bytes, object.GetUint("payload_bytes"));
  if (header.payload_bytes == 0 || header.payload_bytes > kMaxPayloadBytes) {
    return Refuse(Reason::kLimitExceeded, object.PathOf("payload_bytes"),
                  StrCat("a payload of ", header.payload_bytes, " bytes"));
  }
  if (object.Has("name")) {
    PAVISE_ASSIGN_OR_RETURN(header.name, object.GetString("name"));
  }
  if (object.Has("statement_sha256")) {
    PAVISE_ASSIGN_OR_RETURN(header.statement_sha256, GetHex32(object, "statement_sha256"));
  }
  // One header, one text, one id.
  PAVISE_ASSIGN_OR_RETURN(const std::string canonical, FormatHeader(header, item));
  if (AsText(text) != canonical) {
    return Refuse(Reason::kMalformed, item, "not the canonical text of its header");
  }
  return header;
}

std::string RecipientBinding(std::string_view asset_id) { return StrCat(kFormat, " ", asset_id); }

std::string FormatRecipients(const std::vector<Recipient>& recipients) {
  Json list = Json::array();
  for (const Recipient& recipient : recipients) {
    list.push_back({{"key_id", recipient.key_id}, {"jwe", recipient.message}});
  }
  return list.dump();
}

absl::StatusOr<std::vector<Recipient>> ParseRecipients(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(
      const Json json, ParseJson(text, item, {.max_bytes = kMaxRecipientsBytes, .max_depth = 6}));
  if (!json.is_array()) return Refuse(Reason::kMalformed, item, "not a list");
  if (json.size() > kMaxRecipients) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat(json.size(), " recipients, the limit is ", kMaxRecipients));
  }
  std::vector<Recipient> recipients;
  for (const Json& value : json) {
    const std::string path = StrCat(item, "[", recipients.size(), "]");
    PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(value, path));
    PAVISE_RETURN_IF_ERROR(object.RequireOnly({"key_id", "jwe"}));
    Recipient recipient;
    PAVISE_ASSIGN_OR_RETURN(recipient.key_id, object.GetString("key_id"));
    if (recipient.key_id.size() != 64 ||
        recipient.key_id.find_first_not_of("0123456789abcdef") != std::string::npos) {
      return Refuse(Reason::kMalformed, object.PathOf("key_id"), "not the SHA-256 of a key");
    }
    if (std::ranges::find(recipients, recipient.key_id, &Recipient::key_id) != recipients.end()) {
      return Refuse(Reason::kMalformed, object.PathOf("key_id"), "a recipient stands twice");
    }
    PAVISE_RETURN_IF_ERROR(object.GetObject("jwe").status());
    recipient.message = **object.Get("jwe");
    recipients.push_back(std::move(recipient));
  }
  return recipients;
}

Bytes FormatPrefix(const Prefix& prefix) {
  Bytes bytes(kMagic.begin(), kMagic.end());
  AppendLittleEndian32(kVersion, bytes);
  AppendLittleEndian32(prefix.header_bytes, bytes);
  AppendLittleEndian32(prefix.recipients_bytes, bytes);
  return bytes;
}

absl::StatusOr<Prefix> ParsePrefix(ByteSpan bytes, std::string_view item) {
  ByteReader reader(bytes, item);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan magic, reader.Take(kMagic.size(), "magic"));
  if (AsText(magic) != kMagic) {
    return Refuse(Reason::kMalformed, item, "not a sealed asset",
                  "give a file that pavise seal wrote");
  }
  PAVISE_ASSIGN_OR_RETURN(const uint32_t version, reader.LittleEndian32("version"));
  if (version != kVersion) {
    return Refuse(Reason::kUnsupported, item, StrCat("version ", version),
                  "open it with a later version of this program");
  }
  Prefix prefix;
  PAVISE_ASSIGN_OR_RETURN(prefix.header_bytes, reader.LittleEndian32("header size"));
  PAVISE_ASSIGN_OR_RETURN(prefix.recipients_bytes, reader.LittleEndian32("recipients size"));
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  if (prefix.header_bytes > kMaxHeaderBytes || prefix.recipients_bytes > kMaxRecipientsBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("a header of ", prefix.header_bytes, " and recipients of ",
                         prefix.recipients_bytes, " bytes"));
  }
  return prefix;
}

uint64_t SegmentCount(uint64_t payload_bytes) {
  return (payload_bytes + kSegmentBytes - 1) / kSegmentBytes;
}

uint64_t SegmentSize(uint64_t payload_bytes, uint64_t index) {
  return std::min(kSegmentBytes, payload_bytes - index * kSegmentBytes);
}

absl::StatusOr<Bytes> FormatIndex(Index& index, std::string_view item) {
  Bytes bytes;
  AppendLittleEndian64(0, bytes);  // its length, below
  AppendLittleEndian64(index.signature_bytes, bytes);
  AppendLittleEndian64(index.files.size(), bytes);
  for (const IndexEntry& entry : index.files) {
    PAVISE_RETURN_IF_ERROR(CheckPath(entry.path, item));
    bytes.push_back(static_cast<uint8_t>(entry.path.size()));
    bytes.push_back(static_cast<uint8_t>(entry.path.size() >> 8));
    bytes.insert(bytes.end(), entry.path.begin(), entry.path.end());
    bytes.push_back(entry.is_executable ? kExecutable : 0);
    AppendLittleEndian64(entry.size_bytes, bytes);
  }
  const uint64_t index_bytes = bytes.size() - kIndexLengthBytes;
  Bytes length;
  AppendLittleEndian64(index_bytes, length);
  std::ranges::copy(length, bytes.begin());
  PAVISE_RETURN_IF_ERROR(Complete(index, index_bytes, item));
  return bytes;
}

absl::StatusOr<Index> ParseIndex(ByteSpan bytes, std::string_view item) {
  ByteReader reader(bytes, item);
  Index index;
  PAVISE_ASSIGN_OR_RETURN(index.signature_bytes, reader.LittleEndian64("signature size"));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t count, reader.LittleEndian64("number of files"));
  if (count > reader.left() / kEntryBytes) {
    return Refuse(Reason::kMalformed, item,
                  StrCat(count, " files in an index of ", bytes.size(), " bytes"));
  }
  index.files.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    IndexEntry entry;
    PAVISE_ASSIGN_OR_RETURN(const uint16_t path_bytes, reader.LittleEndian16("path size"));
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan path, reader.Take(path_bytes, "path"));
    entry.path = AsText(path);
    PAVISE_ASSIGN_OR_RETURN(const uint8_t flags, reader.Uint8("flags"));
    if (flags > kExecutable) return reader.Malformed("unknown flags");
    entry.is_executable = flags == kExecutable;
    PAVISE_ASSIGN_OR_RETURN(entry.size_bytes, reader.LittleEndian64("size"));
    index.files.push_back(std::move(entry));
  }
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  PAVISE_RETURN_IF_ERROR(Complete(index, bytes.size(), item));
  return index;
}

uint64_t Index::FileOffsetAt(uint64_t offset_bytes, uint64_t size_bytes) const {
  const auto after =
      std::ranges::upper_bound(files, offset_bytes + size_bytes / 2, {}, &IndexEntry::offset_bytes);
  return after == files.begin() ? 0 : offset_bytes - std::prev(after)->offset_bytes;
}

uint64_t PaddedSize(uint64_t size_bytes) {
  if (size_bytes < 2) return size_bytes;
  const int exponent = std::bit_width(size_bytes) - 1;
  const int kept_bits = std::bit_width(static_cast<unsigned>(exponent));
  const uint64_t mask = exponent > kept_bits ? (uint64_t{1} << (exponent - kept_bits)) - 1 : 0;
  return (size_bytes + mask) & ~mask;
}

}  // namespace pavise::vault
