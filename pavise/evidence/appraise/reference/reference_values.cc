#include "pavise/evidence/appraise/reference/reference_values.h"

#include <algorithm>
#include <array>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"

#include "absl/strings/str_format.h"

namespace pavise::evidence {
namespace {

constexpr uint64_t kVersion = 1;
constexpr std::string_view kVersionMember = "pavise_reference_values";

std::optional<PcrBank> BankNamed(std::string_view name) {
  for (const PcrBank bank :
       {PcrBank::kSha1, PcrBank::kSha256, PcrBank::kSha384, PcrBank::kSha512}) {
    if (PcrBankName(bank) == name) return bank;
  }
  return std::nullopt;
}

bool IsLowerHex(std::string_view text, size_t size_bytes) {
  return text.size() == 2 * size_bytes && std::all_of(text.begin(), text.end(), [](char letter) {
           return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'f');
         });
}

absl::Status CheckDigest(std::string_view text, bool may_be_verity, const std::string& path) {
  constexpr std::string_view kVerity = "verity:";
  if (may_be_verity && text.starts_with(kVerity)) text.remove_prefix(kVerity.size());
  const size_t colon = text.find(':');
  const auto bank =
      colon == std::string_view::npos ? std::nullopt : BankNamed(text.substr(0, colon));
  if (bank.has_value() && IsLowerHex(text.substr(colon + 1), PcrSizeBytes(*bank))) {
    return absl::OkStatus();
  }
  return Refuse(Reason::kMalformed, path,
                "is no digest; write sha1, sha256, sha384 or sha512, a colon and lower-case "
                "hexadecimal");
}

absl::Status AddOnce(const std::string& value, const std::string& source, const std::string& path,
                     SourcedValues& values) {
  if (value.empty()) return Refuse(Reason::kMalformed, path, "is empty");
  if (values.emplace(value, source).second) return absl::OkStatus();
  return Refuse(Reason::kMalformed, path, "is listed twice");
}

// Calls `read` with each object of an array that may be absent.
template <typename Read>
absl::Status ForEach(const JsonObject& object, std::string_view member, const Read& read) {
  if (!object.Has(member)) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const Json* array, object.GetArray(member));
  for (size_t i = 0; i < array->size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(
        const JsonObject entry,
        JsonObject::From((*array)[i], StrCat(object.PathOf(member), "[", i, "]")));
    PAVISE_ASSIGN_OR_RETURN(const std::string source, entry.GetString("source"));
    PAVISE_RETURN_IF_ERROR(read(entry, source));
  }
  return absl::OkStatus();
}

// [{"NAME": value, "source": ...}]
absl::Status ReadValues(const JsonObject& object, std::string_view member, std::string_view name,
                        bool digests, SourcedValues& values) {
  return ForEach(object, member, [&](const JsonObject& entry, const std::string& source) {
    PAVISE_RETURN_IF_ERROR(entry.RequireOnly({name, "source"}));
    PAVISE_ASSIGN_OR_RETURN(const std::string value, entry.GetString(name));
    if (digests) PAVISE_RETURN_IF_ERROR(CheckDigest(value, false, entry.PathOf(name)));
    return AddOnce(value, source, entry.PathOf(name), values);
  });
}

absl::Status ReadRegister(const JsonObject& entry, const std::string& source,
                          ReferenceValues& values) {
  PAVISE_RETURN_IF_ERROR(entry.RequireOnly({"bank", "index", "value", "source"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string name, entry.GetString("bank"));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t index, entry.GetUint("index"));
  PAVISE_ASSIGN_OR_RETURN(const std::string value, entry.GetString("value"));
  const auto bank = BankNamed(name);
  if (!bank.has_value() || index >= kPcrCount || !IsLowerHex(value, PcrSizeBytes(*bank))) {
    return Refuse(
        Reason::kMalformed, entry.path(),
        "is no register: an unknown bank, an index above 23, or a value of another length");
  }
  return AddOnce(value, source, entry.path(),
                 values.registers[*bank][static_cast<uint32_t>(index)]);
}

absl::Status ReadFileValue(const JsonObject& entry, const std::string& source,
                           ReferenceValues& values) {
  PAVISE_RETURN_IF_ERROR(entry.RequireOnly({"path", "digest", "source"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string path, entry.GetString("path"));
  PAVISE_ASSIGN_OR_RETURN(const std::string digest, entry.GetString("digest"));
  PAVISE_RETURN_IF_ERROR(CheckDigest(digest, true, entry.PathOf("digest")));
  if (path.empty()) return Refuse(Reason::kMalformed, entry.PathOf("path"), "is empty");
  return AddOnce(digest, source, entry.path(), values.files[path]);
}

absl::Status ReadKey(const JsonObject& entry, const std::string& source, ReferenceValues& values) {
  PAVISE_RETURN_IF_ERROR(entry.RequireOnly({"pem", "key_id", "source"}));
  KeyReference reference;
  reference.source = source;
  PAVISE_ASSIGN_OR_RETURN(reference.pem, entry.GetString("pem"));
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key,
                          crypto::PublicKey::FromPem(reference.pem, entry.PathOf("pem")));
  if (entry.Has("key_id")) {
    PAVISE_ASSIGN_OR_RETURN(const std::string hex, entry.GetString("key_id"));
    if (!IsLowerHex(hex, 4)) {
      return Refuse(Reason::kMalformed, entry.PathOf("key_id"), "is not 8 hexadecimal digits");
    }
    uint32_t id = 0;
    PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, FromHex(hex, entry.PathOf("key_id")));
    for (const uint8_t byte : bytes) id = id << 8 | byte;
    reference.key_id = id;
  }
  if (!values.keys.emplace(key.Fingerprint(), std::move(reference)).second) {
    return Refuse(Reason::kMalformed, entry.path(), "is listed twice");
  }
  return absl::OkStatus();
}

Bytes WideText(std::string_view text) {
  // Command lines of Linux are ASCII; other texts keep their bytes and so match no digest.
  Bytes wide;
  for (const char letter : text) {
    wide.push_back(static_cast<uint8_t>(letter));
    wide.push_back(0);
  }
  wide.resize(wide.size() + 2);
  return wide;
}

// What two say of Secure Boot.
absl::StatusOr<std::optional<bool>> JoinSecureBoot(std::optional<bool> own,
                                                   std::optional<bool> other) {
  if (own.has_value() && other.has_value() && *own != *other) {
    return Refuse(Reason::kPolicyDenied, "secure_boot",
                  StrCat("is ", *own ? "on" : "off", " by one source and ", *other ? "on" : "off",
                         " by another"),
                  "take one of the two out of the reference values");
  }
  return own.has_value() ? own : other;
}

constexpr std::string_view kBootRemedy =
    "boot what was approved; if this state is wanted, make the reference values again and review "
    "the difference";

void AppraiseRegisters(const PcrValues& quoted, const ReferenceValues& values,
                       std::vector<std::string>& unused, CheckList& checks) {
  for (const auto& [bank, registers] : values.registers) {
    for (const auto& [index, sourced] : registers) {
      const std::string name = PcrName(bank, index);
      const Bytes* value = quoted.Get(bank, index);
      if (value == nullptr) {
        checks.Fail(name, Reason::kEvidenceMissing, name, "has a reference value and is not quoted",
                    "quote this register");
        continue;
      }
      const std::string hex = ToHex(*value);
      if (sourced.contains(hex)) {
        checks.Pass(name, StrCat("as in ", sourced.at(hex)));
      } else {
        checks.Fail(name, Reason::kMeasurementMismatch, name,
                    StrCat("is ", hex, ", which is none of the ", sourced.size(), " listed"),
                    kBootRemedy);
      }
      for (const auto& [listed, source] : sourced) {
        if (listed != hex) unused.push_back(StrCat(name, " ", listed));
      }
    }
  }
}

void AppraiseSecureBoot(const EventLogClaims& boot, const ReferenceValues& values,
                        CheckList& checks) {
  if (!values.secure_boot.has_value()) return;
  if (boot.secure_boot == values.secure_boot) {
    checks.Pass("Secure Boot", *values.secure_boot ? "on" : "off");
    return;
  }
  checks.Fail(
      "Secure Boot", Reason::kPlatformInsecure, "Secure Boot",
      boot.secure_boot.has_value() ? (*boot.secure_boot ? "is on" : "is off") : "was not measured",
      "set it in the firmware as the reference values have it");
}

void AppraiseImages(const EventLogClaims& boot, const ReferenceValues& values,
                    std::vector<std::string>& unused, CheckList& checks) {
  if (values.images.empty()) return;
  const std::string prefix = StrCat(PcrBankName(boot.bank), ":");
  SourcedValues left = values.images;
  bool seen = false;
  for (const BootImage& image : boot.images) {
    seen = seen || image.register_index == ImageRegister(boot.kind);
    const std::string digest = prefix + ToHex(image.digest);
    const std::string name = StrCat("boot image ", Printable(image.path));
    const auto listed = values.images.find(digest);
    left.erase(digest);
    if (listed != values.images.end()) {
      checks.Pass(name, StrCat(digest, ", as in ", listed->second));
    } else {
      checks.Fail(name, Reason::kMeasurementUnknown, name,
                  StrCat("is ", digest, ", which is not listed"), kBootRemedy);
    }
  }
  // Claims come from registers that replay, so an image is seen in one that does.
  if (!seen) {
    checks.Fail("boot images", Reason::kEvidenceMissing, "boot images",
                StrCat("are listed, and the log shows none in ",
                       PcrName(boot.bank, ImageRegister(boot.kind)), ", or that does not replay"),
                "quote this register, and send the whole event log");
  }
  for (const auto& [digest, source] : left) unused.push_back(StrCat("image ", digest));
}

// See AppraiseBoot.
void AppraiseCommandLines(const EventLogClaims& boot, const PcrValues& quoted,
                          const ReferenceValues& values, std::vector<std::string>& unused,
                          CheckList& checks) {
  SourcedValues left = values.command_lines;
  SourcedValues digests_left = values.command_line_digests;
  if (left.empty() && digests_left.empty()) return;
  const std::string prefix = StrCat(PcrBankName(boot.bank), ":");
  const auto is_listed = [&](const Bytes& digest, const std::optional<std::string>& proven) {
    const std::optional<std::string> text =
        proven.has_value() ? proven : ListedText(digest, boot.bank, values);
    const bool by_text = text.has_value() && values.command_lines.contains(*text);
    if (by_text) left.erase(*text);
    digests_left.erase(prefix + ToHex(digest));
    return by_text || values.command_line_digests.contains(prefix + ToHex(digest));
  };
  for (const CommandLine& line : boot.command_lines) {
    const std::string name = StrCat("command line (", line.source, ")");
    const std::string seen =
        line.text.has_value() ? Printable(*line.text) : prefix + ToHex(line.digest);
    if (is_listed(line.digest, line.text)) {
      checks.Pass(name, seen);
    } else {
      checks.Fail(name, Reason::kMeasurementUnknown, name,
                  StrCat("is '", seen, "', which is not listed"), kBootRemedy);
    }
  }
  if (boot.command_lines.empty()) {
    checks.Fail("command line", Reason::kEvidenceMissing, "command line",
                "the log has none in a register that replays", "quote PCR 8, 9 and 12");
  }
  const auto of_bank = values.registers.find(boot.bank);
  for (const uint32_t index : CommandLineRegisters(boot.kind)) {
    const std::string name = PcrName(boot.bank, index);
    const Bytes* const value = quoted.Get(boot.bank, index);
    if (value == nullptr ||
        (!boot.registers.contains(index) && *value != InitialPcrValue(boot.bank, index))) {
      checks.Fail("command line", Reason::kEvidenceMissing, name,
                  value == nullptr ? "may hold another command line, and is not quoted"
                                   : "may hold another command line: the log does not replay to it",
                  "quote this register, and send the whole event log");
    }
    const bool has_value = of_bank != values.registers.end() && of_bank->second.contains(index);
    for (const NamedMeasurement& measurement : boot.measurements) {
      if (measurement.register_index != index || has_value) continue;
      if (is_listed(measurement.digest, std::nullopt)) continue;
      checks.Fail(
          "command line", Reason::kMeasurementUnknown,
          StrCat(name, " \"", Printable(measurement.name), "\""),
          StrCat("is ", prefix, ToHex(measurement.digest),
                 ", which may be a command line: the label is not measured"),
          StrCat("list the value of ", name, ", or this digest among the command_line_digests"));
    }
  }
  for (const auto& [text, source] : left) unused.push_back(StrCat("command line ", text));
  for (const auto& [digest, source] : digests_left) {
    unused.push_back(StrCat("command line digest ", digest));
  }
}

// Item -> values, as Diff compares them.
std::map<std::string, std::set<std::string>> Flatten(const ReferenceValues& values) {
  std::map<std::string, std::set<std::string>> result;
  if (values.secure_boot.has_value()) {
    result["Secure Boot"] = {*values.secure_boot ? "on" : "off"};
  }
  for (const auto& [bank, registers] : values.registers) {
    for (const auto& [index, sourced] : registers) {
      for (const auto& [value, source] : sourced) result[PcrName(bank, index)].insert(value);
    }
  }
  for (const auto& [path, sourced] : values.files) {
    for (const auto& [value, source] : sourced) result[StrCat("file ", path)].insert(value);
  }
  const auto add = [&](std::string_view what, const SourcedValues& sourced) {
    for (const auto& [value, source] : sourced) result[StrCat(what, " ", value)] = {value};
  };
  add("image", values.images);
  add("command line", values.command_lines);
  add("command line digest", values.command_line_digests);
  add("exclude", values.excludes);
  add("violation", values.violations);
  for (const auto& [fingerprint, key] : values.keys) {
    result[StrCat("key ", fingerprint)] = {
        key.key_id.has_value() ? absl::StrFormat("%08x", *key.key_id) : "its own id"};
  }
  return result;
}

}  // namespace

absl::Status ReferenceValues::Merge(const ReferenceValues& other) {
  for (const auto& [fingerprint, key] : other.keys) {
    const auto own = keys.find(fingerprint);
    if (own == keys.end() || own->second.key_id == key.key_id) continue;
    return Refuse(Reason::kPolicyDenied, StrCat("key ", fingerprint),
                  StrCat("has one id by ", Printable(own->second.source), " and another by ",
                         Printable(key.source)),
                  "take one of the two out of the reference values");
  }
  PAVISE_ASSIGN_OR_RETURN(secure_boot, JoinSecureBoot(secure_boot, other.secure_boot));
  for (const auto& [bank, of_bank] : other.registers) {
    for (const auto& [index, sourced] : of_bank) {
      registers[bank][index].insert(sourced.begin(), sourced.end());
    }
  }
  images.insert(other.images.begin(), other.images.end());
  command_lines.insert(other.command_lines.begin(), other.command_lines.end());
  command_line_digests.insert(other.command_line_digests.begin(), other.command_line_digests.end());
  for (const auto& [path, sourced] : other.files) {
    files[path].insert(sourced.begin(), sourced.end());
  }
  excludes.insert(other.excludes.begin(), other.excludes.end());
  violations.insert(other.violations.begin(), other.violations.end());
  keys.insert(other.keys.begin(), other.keys.end());
  return absl::OkStatus();
}

absl::StatusOr<ReferenceValues> ParseReferenceValues(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json,
                          ParseJson(text, item, {.max_bytes = kMaxReferenceBytes, .max_depth = 4}));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t version, object.GetUint(kVersionMember));
  if (version != kVersion) {
    return Refuse(Reason::kUnsupported, object.PathOf(kVersionMember),
                  StrCat("version ", version, "; this program reads version 1"),
                  "use a newer Pavise");
  }
  PAVISE_RETURN_IF_ERROR(
      object.RequireOnly({kVersionMember, "secure_boot", "registers", "images", "command_lines",
                          "command_line_digests", "files", "excludes", "violations", "keys"}));
  ReferenceValues values;
  if (object.Has("secure_boot")) {
    PAVISE_ASSIGN_OR_RETURN(values.secure_boot, object.GetBool("secure_boot"));
  }
  PAVISE_RETURN_IF_ERROR(
      ForEach(object, "registers", [&](const JsonObject& entry, const std::string& source) {
        return ReadRegister(entry, source, values);
      }));
  PAVISE_RETURN_IF_ERROR(ReadValues(object, "images", "digest", true, values.images));
  PAVISE_RETURN_IF_ERROR(ReadValues(object, "command_lines", "text", false, values.command_lines));
  PAVISE_RETURN_IF_ERROR(
      ReadValues(object, "command_line_digests", "digest", true, values.command_line_digests));
  PAVISE_RETURN_IF_ERROR(
      ForEach(object, "files", [&](const JsonObject& entry, const std::string& source) {
        return ReadFileValue(entry, source, values);
      }));
  PAVISE_RETURN_IF_ERROR(ReadValues(object, "excludes", "pattern", false, values.excludes));
  PAVISE_RETURN_IF_ERROR(ReadValues(object, "violations", "pattern", false, values.violations));
  PAVISE_RETURN_IF_ERROR(
      ForEach(object, "keys", [&](const JsonObject& entry, const std::string& source) {
        return ReadKey(entry, source, values);
      }));
  return values;
}

std::string FormatReferenceValues(const ReferenceValues& values) {
  std::string text = StrCat("{\n  \"", kVersionMember, "\": ", kVersion);
  if (values.secure_boot.has_value()) {
    StrAppend(&text, ",\n  \"secure_boot\": ", *values.secure_boot ? "true" : "false");
  }
  const auto section = [&](std::string_view name, const std::vector<OrderedJson>& entries) {
    if (entries.empty()) return;
    StrAppend(&text, ",\n  \"", name, "\": [");
    for (size_t i = 0; i < entries.size(); ++i) {
      StrAppend(&text, i == 0 ? "\n    " : ",\n    ", DumpJson(entries[i], -1));
    }
    StrAppend(&text, "\n  ]");
  };
  const auto simple = [&](std::string_view name, const char* member, const SourcedValues& sourced) {
    std::vector<OrderedJson> entries;
    for (const auto& [value, source] : sourced) {
      entries.push_back({{member, value}, {"source", source}});
    }
    section(name, entries);
  };
  std::vector<OrderedJson> registers;
  for (const auto& [bank, of_bank] : values.registers) {
    for (const auto& [index, sourced] : of_bank) {
      for (const auto& [value, source] : sourced) {
        registers.push_back({{"bank", std::string(PcrBankName(bank))},
                             {"index", index},
                             {"value", value},
                             {"source", source}});
      }
    }
  }
  section("registers", registers);
  simple("images", "digest", values.images);
  simple("command_lines", "text", values.command_lines);
  simple("command_line_digests", "digest", values.command_line_digests);
  std::vector<OrderedJson> files;
  for (const auto& [path, sourced] : values.files) {
    for (const auto& [digest, source] : sourced) {
      files.push_back({{"path", path}, {"digest", digest}, {"source", source}});
    }
  }
  section("files", files);
  simple("excludes", "pattern", values.excludes);
  simple("violations", "pattern", values.violations);
  std::vector<OrderedJson> keys;
  for (const auto& [fingerprint, key] : values.keys) {
    OrderedJson entry = {{"pem", key.pem}};
    if (key.key_id.has_value()) entry["key_id"] = absl::StrFormat("%08x", *key.key_id);
    entry["source"] = key.source;
    keys.push_back(std::move(entry));
  }
  section("keys", keys);
  return text + "\n}\n";
}

std::vector<ReferenceDifference> DiffReferenceValues(const ReferenceValues& before,
                                                     const ReferenceValues& after) {
  const auto old_values = Flatten(before);
  const auto new_values = Flatten(after);
  std::map<std::string, ReferenceDifference> differences;
  const auto compare = [&](const auto& from, const auto& to, auto member) {
    for (const auto& [item, values] : from) {
      const auto other = to.find(item);
      for (const std::string& value : values) {
        if (other != to.end() && other->second.contains(value)) continue;
        ReferenceDifference& difference = differences[item];
        difference.item = item;
        (difference.*member).insert(value);
      }
    }
  };
  compare(old_values, new_values, &ReferenceDifference::removed);
  compare(new_values, old_values, &ReferenceDifference::added);
  std::vector<ReferenceDifference> result;
  for (auto& [item, difference] : differences) result.push_back(std::move(difference));
  return result;
}

absl::StatusOr<ImaRules> ImaRulesOf(const ReferenceValues& values) {
  ImaRules rules;
  for (const auto& [path, sourced] : values.files) {
    for (const auto& [digest, source] : sourced) rules.files[path].insert(digest);
  }
  for (const auto& [pattern, source] : values.excludes) rules.excludes.push_back(pattern);
  for (const auto& [pattern, source] : values.violations) rules.violations.push_back(pattern);
  for (const auto& [fingerprint, reference] : values.keys) {
    PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey key,
                            crypto::PublicKey::FromPem(reference.pem, StrCat("key ", fingerprint)));
    rules.keys.push_back({std::move(key), reference.key_id});
  }
  return rules;
}

std::vector<std::string> AppraiseBoot(const VerifiedEventLog* boot, const PcrValues& quoted,
                                      const ReferenceValues& values, CheckList& checks) {
  std::vector<std::string> unused;
  AppraiseRegisters(quoted, values, unused, checks);
  if (boot != nullptr) {
    AppraiseSecureBoot(**boot, values, checks);
    AppraiseImages(**boot, values, unused, checks);
    AppraiseCommandLines(**boot, quoted, values, unused, checks);
  } else if (values.secure_boot.has_value() || !values.images.empty() ||
             !values.command_lines.empty() || !values.command_line_digests.empty()) {
    checks.Fail(
        "boot", Reason::kEvidenceMissing, "event log",
        "Secure Boot, boot images or command lines are listed, and there is no verified log "
        "to see them in",
        "send the event log of this boot");
  }
  return unused;
}

std::optional<std::string> ListedText(ByteSpan digest, PcrBank bank,
                                      const ReferenceValues& values) {
  for (const auto& [text, source] : values.command_lines) {
    const auto listed = crypto::Digest(PcrBankDigest(bank), WideText(text));
    if (listed.ok() && std::equal(listed->begin(), listed->end(), digest.begin(), digest.end())) {
      return text;
    }
  }
  return std::nullopt;
}

std::vector<std::string> AddImaLog(const ImaLog& log, size_t entries, const std::string& source,
                                   ReferenceValues& values) {
  std::vector<std::string> left_out;
  for (size_t i = 0; i < std::min(entries, log.entries.size()); ++i) {
    const ImaEntry& entry = log.entries[i];
    if (i == 0 && entry.name == "boot_aggregate") continue;
    const std::string digest = entry.DigestText();
    if (entry.is_violation()) {
      left_out.push_back(StrCat(Printable(entry.name), ": a violation"));
    } else if (!IsUtf8(entry.name) || entry.name.empty()) {
      left_out.push_back(StrCat(Printable(entry.name), ": its name is not UTF-8"));
    } else if (!CheckDigest(digest, true, "").ok()) {
      left_out.push_back(StrCat(Printable(entry.name), ": measured by ", entry.algorithm));
    } else {
      const bool is_buffer = entry.kind == ImaTemplate::kImaBuf;
      values.files[StrCat(is_buffer ? kBufferPrefix : "", entry.name)].emplace(digest, source);
    }
  }
  return left_out;
}

absl::Status AddBoot(const VerifiedEventLog& boot, const std::string& source,
                     ReferenceValues& values) {
  const std::string prefix = StrCat(PcrBankName(boot->bank), ":");
  PAVISE_ASSIGN_OR_RETURN(values.secure_boot,
                          JoinSecureBoot(values.secure_boot, boot->secure_boot));
  for (const BootImage& image : boot->images) {
    values.images.emplace(prefix + ToHex(image.digest), source);
  }
  for (const CommandLine& line : boot->command_lines) {
    if (line.text.has_value() && !line.text->empty()) {
      values.command_lines.emplace(*line.text, source);
    } else {
      values.command_line_digests.emplace(prefix + ToHex(line.digest), source);
    }
  }
  const std::set<uint32_t> line_registers = CommandLineRegisters(boot->kind);
  for (const NamedMeasurement& measurement : boot->measurements) {
    if (!line_registers.contains(measurement.register_index)) continue;
    values.command_line_digests.emplace(prefix + ToHex(measurement.digest), source);
  }
  return absl::OkStatus();
}

void AddRegisters(const PcrValues& quoted, PcrBank bank, const std::set<uint32_t>& indices,
                  const std::string& source, ReferenceValues& values) {
  for (const uint32_t index : indices) {
    if (const Bytes* value = quoted.Get(bank, index)) {
      values.registers[bank][index].emplace(ToHex(*value), source);
    }
  }
}

}  // namespace pavise::evidence
