#include "pavise/evidence/appraise/ima/ima_log.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::evidence {
namespace {

constexpr size_t kTemplateHashBytes = 20;
// With a path, a digest and no signature; an ImaEntry is about as long.
constexpr size_t kUsualEntryBytes = 150;
// The path of the legacy template is hashed as a buffer of that size (IMA_EVENT_NAME_LEN_MAX + 1).
constexpr size_t kLegacyNameBytes = 256;

constexpr std::array<std::string_view, 7> kTemplates = {
    "ima", "ima-ng", "ima-sig", "ima-ngv2", "ima-sigv2", "ima-buf", "ima-modsig"};

// Linux's names of digests (crypto/hash_info.c) and their lengths.
constexpr std::array<std::pair<std::string_view, size_t>, 12> kDigests = {{{"md5", 16},
                                                                           {"sha1", 20},
                                                                           {"rmd160", 20},
                                                                           {"sha224", 28},
                                                                           {"sha256", 32},
                                                                           {"sha384", 48},
                                                                           {"sha512", 64},
                                                                           {"sm3", 32},
                                                                           {"sm3-256", 32},
                                                                           {"streebog256", 32},
                                                                           {"streebog512", 64},
                                                                           {"wp512", 64}}};

bool HasType(ImaTemplate kind) {
  return kind == ImaTemplate::kImaNgv2 || kind == ImaTemplate::kImaSigv2;
}

std::optional<ImaTemplate> TemplateOf(std::string_view name) {
  const auto found = std::find(kTemplates.begin(), kTemplates.end(), name);
  if (found == kTemplates.end()) return std::nullopt;
  return static_cast<ImaTemplate>(found - kTemplates.begin());
}

// "sha256" or, of templates with a type, "ima:sha256" and "verity:sha256".
absl::Status ReadAlgorithm(std::string_view text, const ByteReader& reader, ImaEntry& entry) {
  if (HasType(entry.kind)) {
    const size_t colon = text.find(':');
    const std::string_view type = text.substr(0, colon);
    if (colon == std::string_view::npos || (type != "ima" && type != "verity")) {
      return reader.Malformed("a digest without its type");
    }
    entry.is_verity = type == "verity";
    text.remove_prefix(colon + 1);
  }
  for (const auto& [name, size_bytes] : kDigests) {
    if (name == text && size_bytes == entry.digest.size()) {
      entry.algorithm = name;
      return absl::OkStatus();
    }
  }
  return reader.Malformed(
      StrCat("a digest of ", entry.digest.size(), " bytes of algorithm '", Printable(text), "'"));
}

class Parser {
 public:
  Parser(ByteSpan log, std::string_view item, const ImaLogLimits& limits)
      : reader_(log, item), log_(log), limits_(limits) {}

  absl::StatusOr<ImaLog> Binary(bool big_endian) {
    result_.entries.reserve(
        std::min<uint64_t>(limits_.max_entries, log_.size() / kUsualEntryBytes));
    while (reader_.left() > 0) {
      PAVISE_RETURN_IF_ERROR(CheckCount());
      ImaEntry entry;
      PAVISE_ASSIGN_OR_RETURN(entry.register_index, Uint32(reader_, big_endian, "PCR"));
      PAVISE_ASSIGN_OR_RETURN(entry.template_hash,
                              reader_.Take(kTemplateHashBytes, "template hash"));
      PAVISE_ASSIGN_OR_RETURN(const uint32_t name_bytes,
                              Uint32(reader_, big_endian, "template name length"));
      PAVISE_ASSIGN_OR_RETURN(const ByteSpan name, reader_.Take(name_bytes, "template name"));
      PAVISE_RETURN_IF_ERROR(SetTemplate(AsText(name), entry));
      if (entry.kind == ImaTemplate::kIma) {
        PAVISE_ASSIGN_OR_RETURN(entry.digest, reader_.Take(20, "digest"));
        PAVISE_ASSIGN_OR_RETURN(const uint32_t path_bytes,
                                Uint32(reader_, big_endian, "path length"));
        PAVISE_ASSIGN_OR_RETURN(const ByteSpan path, reader_.Take(path_bytes, "path"));
        PAVISE_RETURN_IF_ERROR(FinishLegacy(AsText(path), entry));
      } else {
        PAVISE_ASSIGN_OR_RETURN(const uint32_t data_bytes,
                                Uint32(reader_, big_endian, "template data length"));
        PAVISE_RETURN_IF_ERROR(CheckTemplateSize(data_bytes));
        PAVISE_ASSIGN_OR_RETURN(entry.template_data, reader_.Take(data_bytes, "template data"));
        PAVISE_RETURN_IF_ERROR(ReadFields(big_endian, reader_.offset() - data_bytes, entry));
      }
      result_.entries.push_back(std::move(entry));
    }
    return std::move(result_);
  }

  absl::StatusOr<ImaLog> Ascii() {
    while (reader_.left() > 0) {
      PAVISE_RETURN_IF_ERROR(CheckCount());
      std::string_view rest = AsText(log_.subspan(reader_.offset()));
      const size_t end = rest.find('\n');
      if (end == std::string_view::npos) return reader_.Malformed("a line without its end");
      PAVISE_RETURN_IF_ERROR(CheckTemplateSize(end));
      PAVISE_RETURN_IF_ERROR(ReadLine(rest.substr(0, end)));
      PAVISE_RETURN_IF_ERROR(reader_.Take(end + 1, "line").status());
    }
    return std::move(result_);
  }

 private:
  static absl::StatusOr<uint32_t> Uint32(ByteReader& reader, bool big_endian,
                                         std::string_view field) {
    return big_endian ? reader.BigEndian32(field) : reader.LittleEndian32(field);
  }

  absl::Status CheckCount() const {
    if (result_.entries.size() < limits_.max_entries) return absl::OkStatus();
    return Refuse(Reason::kLimitExceeded, reader_.item(),
                  StrCat("more than ", limits_.max_entries, " entries"));
  }

  absl::Status CheckTemplateSize(uint64_t size_bytes) const {
    if (size_bytes <= limits_.max_template_bytes) return absl::OkStatus();
    return Refuse(Reason::kLimitExceeded, reader_.item(),
                  StrCat("entry ", result_.entries.size(), " is longer than ",
                         HumanBytes(limits_.max_template_bytes)));
  }

  absl::Status SetTemplate(std::string_view name, ImaEntry& entry) const {
    const std::optional<ImaTemplate> kind = TemplateOf(name);
    if (!kind.has_value()) {
      return Refuse(Reason::kUnsupported, reader_.item(),
                    StrCat("entry ", result_.entries.size(), " is of template '",
                           Printable(name.substr(0, 64)), "'"),
                    "boot with ima_template=ima-sig or another of the kernel's named templates");
    }
    entry.kind = *kind;
    return absl::OkStatus();
  }

  absl::Status CheckPath(std::string_view path) const {
    if (path.size() <= limits_.max_path_bytes && path.find('\0') == std::string_view::npos) {
      return absl::OkStatus();
    }
    return reader_.Malformed(StrCat("entry ", result_.entries.size(),
                                    " has a path with a NUL or longer than ",
                                    limits_.max_path_bytes, " bytes"));
  }

  absl::Status FinishLegacy(std::string_view path, ImaEntry& entry) {
    PAVISE_RETURN_IF_ERROR(CheckPath(path));
    if (path.size() >= kLegacyNameBytes) return reader_.Malformed("a path of 256 bytes or more");
    Bytes& data = result_.owned.emplace_back(kTemplateHashBytes + kLegacyNameBytes);
    std::copy(entry.digest.begin(), entry.digest.end(), data.begin());
    std::copy(path.begin(), path.end(), data.begin() + kTemplateHashBytes);
    entry.template_data = data;
    entry.name = path;
    entry.algorithm = "sha1";
    return absl::OkStatus();
  }

  // The fields of `template_data`, for all templates but the legacy one; `offset`: for messages.
  absl::Status ReadFields(bool big_endian, uint64_t offset, ImaEntry& entry) const {
    ByteReader fields(entry.template_data, reader_.item(), offset);
    const auto next = [&](std::string_view name) -> absl::StatusOr<ByteSpan> {
      PAVISE_ASSIGN_OR_RETURN(const uint32_t size_bytes, Uint32(fields, big_endian, name));
      return fields.Take(size_bytes, name);
    };
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan digest, next("digest field"));
    const std::string_view text = AsText(digest);
    const size_t nul = text.find('\0');
    if (nul == std::string_view::npos || nul == 0 || text[nul - 1] != ':') {
      return fields.Malformed("a digest without its algorithm");
    }
    entry.digest = digest.subspan(nul + 1);
    PAVISE_RETURN_IF_ERROR(ReadAlgorithm(text.substr(0, nul - 1), fields, entry));
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan path, next("path field"));
    if (path.empty() || path.back() != 0) return fields.Malformed("a path without its NUL");
    entry.name = AsText(path.first(path.size() - 1));
    PAVISE_RETURN_IF_ERROR(CheckPath(entry.name));
    switch (entry.kind) {
      case ImaTemplate::kImaSig:
      case ImaTemplate::kImaSigv2: {
        PAVISE_ASSIGN_OR_RETURN(entry.signature, next("signature field"));
        break;
      }
      case ImaTemplate::kImaBuf: {
        PAVISE_ASSIGN_OR_RETURN(entry.buffer, next("buffer field"));
        break;
      }
      case ImaTemplate::kImaModsig: {
        PAVISE_ASSIGN_OR_RETURN(entry.signature, next("signature field"));
        PAVISE_RETURN_IF_ERROR(next("digest without the appended signature").status());
        PAVISE_RETURN_IF_ERROR(next("appended signature").status());
        break;
      }
      case ImaTemplate::kIma:
      case ImaTemplate::kImaNg:
      case ImaTemplate::kImaNgv2:
        break;
    }
    return fields.RequireEnd();
  }

  static std::optional<std::string_view> Cut(std::string_view& text) {
    const size_t space = text.find(' ');
    if (space == std::string_view::npos) return std::nullopt;
    const std::string_view field = text.substr(0, space);
    text.remove_prefix(space + 1);
    return field;
  }

  static std::optional<std::string_view> CutLast(std::string_view& text) {
    const size_t space = text.rfind(' ');
    if (space == std::string_view::npos) return std::nullopt;
    const std::string_view field = text.substr(space + 1);
    text.remove_suffix(text.size() - space);
    return field;
  }

  absl::StatusOr<Bytes> Hex(std::string_view text) const {
    auto bytes = FromHex(text, reader_.item());
    if (!bytes.ok()) return BadLine();
    return bytes;
  }

  absl::Status BadLine() const {
    return reader_.Malformed(StrCat("entry ", result_.entries.size(), " is no line of an IMA log"));
  }

  static void AppendField(ByteSpan content, Bytes& data) {
    AppendLittleEndian32(static_cast<uint32_t>(content.size()), data);
    data.insert(data.end(), content.begin(), content.end());
  }

  // "ALGORITHM:HEX" as a field.
  absl::Status AppendDigest(std::string_view text, Bytes& data) const {
    const size_t colon = text.rfind(':');
    if (colon == std::string_view::npos) return BadLine();
    PAVISE_ASSIGN_OR_RETURN(const Bytes digest, Hex(text.substr(colon + 1)));
    Bytes field(text.begin(), text.begin() + static_cast<ptrdiff_t>(colon) + 1);
    field.push_back(0);
    field.insert(field.end(), digest.begin(), digest.end());
    AppendField(field, data);
    return absl::OkStatus();
  }

  // Builds the template data that the kernel printed, and reads it as the binary form is read.
  absl::Status ReadLine(std::string_view line) {
    ImaEntry entry;
    const auto pcr = Cut(line);
    const auto hash = Cut(line);
    const auto name = Cut(line);
    const auto digest = Cut(line);
    if (!digest.has_value()) return BadLine();
    const auto [end, error] =
        std::from_chars(pcr->data(), pcr->data() + pcr->size(), entry.register_index);
    if (error != std::errc() || end != pcr->data() + pcr->size()) return BadLine();
    PAVISE_ASSIGN_OR_RETURN(Bytes hash_bytes, Hex(*hash));
    if (hash_bytes.size() != kTemplateHashBytes) return BadLine();
    entry.template_hash = result_.owned.emplace_back(std::move(hash_bytes));
    PAVISE_RETURN_IF_ERROR(SetTemplate(*name, entry));
    if (entry.kind == ImaTemplate::kIma) {
      PAVISE_ASSIGN_OR_RETURN(Bytes sha1, Hex(*digest));
      if (sha1.size() != 20) return BadLine();
      entry.digest = result_.owned.emplace_back(std::move(sha1));
      PAVISE_RETURN_IF_ERROR(FinishLegacy(line, entry));
    } else {
      Bytes data;
      PAVISE_RETURN_IF_ERROR(AppendDigest(*digest, data));
      std::vector<std::string_view> last;  // the fields after the path, in reverse
      const size_t fields = entry.kind == ImaTemplate::kImaNg || entry.kind == ImaTemplate::kImaNgv2
                                ? 0
                                : (entry.kind == ImaTemplate::kImaModsig ? 3 : 1);
      for (size_t i = 0; i < fields; ++i) {
        const auto field = CutLast(line);
        if (!field.has_value()) return BadLine();
        last.push_back(*field);
      }
      Bytes path(line.begin(), line.end());
      path.push_back(0);
      AppendField(path, data);
      for (size_t i = 0; i < fields; ++i) {
        const std::string_view field = last[fields - 1 - i];
        if (field.find(':') != std::string_view::npos) {
          PAVISE_RETURN_IF_ERROR(AppendDigest(field, data));
        } else {
          PAVISE_ASSIGN_OR_RETURN(const Bytes content, Hex(field));
          AppendField(content, data);
        }
      }
      entry.template_data = result_.owned.emplace_back(std::move(data));
      PAVISE_RETURN_IF_ERROR(ReadFields(false, reader_.offset(), entry));
    }
    result_.entries.push_back(std::move(entry));
    return absl::OkStatus();
  }

  ByteReader reader_;
  ByteSpan log_;
  ImaLogLimits limits_;
  ImaLog result_;
};

}  // namespace

bool ImaEntry::is_violation() const {
  return std::all_of(template_hash.begin(), template_hash.end(),
                     [](uint8_t byte) { return byte == 0; });
}

std::string ImaEntry::DigestText() const {
  return StrCat(is_verity ? "verity:" : "", algorithm, ":", ToHex(digest));
}

absl::StatusOr<ImaLog> ParseImaLog(ByteSpan log, ImaForm form, std::string_view item,
                                   const ImaLogLimits& limits) {
  if (log.size() > limits.max_bytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("an IMA log of ", HumanBytes(log.size()), "; at most ",
                         HumanBytes(limits.max_bytes), " are read"));
  }
  Parser parser(log, item, limits);
  return form == ImaForm::kAscii ? parser.Ascii() : parser.Binary(form == ImaForm::kBigEndian);
}

}  // namespace pavise::evidence
