#include "pavise/evidence/appraise/intel/collateral.h"

#include <algorithm>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::evidence {
namespace {

constexpr JsonLimits kLimits = {.max_bytes = 1 << 20, .max_depth = 12, .max_values = 100'000};
constexpr size_t kMaxLevels = 256;
constexpr size_t kMaxModules = 64;
constexpr size_t kMaxAdvisories = 256;
constexpr size_t kComponents = 16;

constexpr IntelTcbStatus kStatuses[] = {IntelTcbStatus::kUpToDate,
                                        IntelTcbStatus::kSwHardeningNeeded,
                                        IntelTcbStatus::kConfigurationNeeded,
                                        IntelTcbStatus::kConfigurationAndSwHardeningNeeded,
                                        IntelTcbStatus::kOutOfDate,
                                        IntelTcbStatus::kOutOfDateConfigurationNeeded,
                                        IntelTcbStatus::kRevoked};

absl::Status Malformed(std::string_view item, std::string_view detail) {
  return Refuse(Reason::kMalformed, item, detail);
}

// The text of a top-level member's value in a JSON object that ParseJson has accepted, which leaves
// no more to do than to step over strings and count brackets.
ByteSpan MemberText(ByteSpan document, std::string_view member) {
  const std::string_view text = AsText(document);
  const std::string key = StrCat("\"", member, "\"");
  int depth = 0;
  bool is_value = false;  // of the member wanted
  size_t value_begin = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '"') {
      const size_t begin = at;
      for (++at; text[at] != '"'; ++at) {
        if (text[at] == '\\') ++at;
      }
      // A string before a colon is a key; as a value it is followed by a comma or bracket.
      if (depth == 1 && !is_value && text.substr(begin, at + 1 - begin) == key) {
        const size_t next = text.find_first_not_of(" \t\r\n", at + 1);
        if (text[next] == ':') {
          is_value = true;
          value_begin = text.find_first_not_of(" \t\r\n", next + 1);
          at = value_begin - 1;
        }
      }
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      --depth;
      if (is_value && depth == 1) return document.subspan(value_begin, at + 1 - value_begin);
    }
  }
  return {};
}

template <size_t kSize>
absl::Status ReadHex(const JsonObject& object, std::string_view key,
                     std::array<uint8_t, kSize>& out) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString(key));
  PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, FromHex(text, object.PathOf(key)));
  if (bytes.size() != kSize) {
    return Malformed(object.PathOf(key),
                     StrCat("has ", bytes.size(), " bytes where ", kSize, " are due"));
  }
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return absl::OkStatus();
}

// Four bytes, most significant first.
absl::StatusOr<uint32_t> ReadHex32(const JsonObject& object, std::string_view key) {
  std::array<uint8_t, 4> bytes{};
  PAVISE_RETURN_IF_ERROR(ReadHex(object, key, bytes));
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

absl::StatusOr<uint32_t> ReadUint(const JsonObject& object, std::string_view key, uint32_t max) {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t value, object.GetUint(key));
  if (value > max) return Malformed(object.PathOf(key), StrCat("is more than ", max));
  return static_cast<uint32_t>(value);
}

// "2023-06-18T08:42:58Z" and nothing else.
absl::StatusOr<absl::Time> ReadTime(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString(key));
  absl::Time time;
  std::string error;
  if (text.size() != 20 || !absl::ParseTime("%Y-%m-%dT%H:%M:%SZ", text, &time, &error)) {
    return Malformed(object.PathOf(key), "is not a date and time in UTC");
  }
  return time;
}

absl::StatusOr<const Json*> ReadArray(const JsonObject& object, std::string_view key, size_t max) {
  PAVISE_ASSIGN_OR_RETURN(const Json* array, object.GetArray(key));
  if (array->size() > max) {
    return Refuse(Reason::kLimitExceeded, object.PathOf(key),
                  StrCat("has ", array->size(), " entries, more than ", max));
  }
  return array;
}

absl::StatusOr<IntelTcbVerdict> ReadVerdict(const JsonObject& level) {
  IntelTcbVerdict verdict;
  PAVISE_ASSIGN_OR_RETURN(verdict.date, ReadTime(level, "tcbDate"));
  PAVISE_ASSIGN_OR_RETURN(const std::string status, level.GetString("tcbStatus"));
  const auto* found = std::ranges::find(kStatuses, status, IntelTcbStatusName);
  if (found == std::end(kStatuses)) {
    return Refuse(Reason::kUnsupported, level.PathOf("tcbStatus"),
                  StrCat("\"", Printable(status), "\" is no status that is known"));
  }
  verdict.status = *found;
  if (level.Has("advisoryIDs")) {
    PAVISE_ASSIGN_OR_RETURN(const Json* advisories,
                            ReadArray(level, "advisoryIDs", kMaxAdvisories));
    for (const Json& advisory : *advisories) {
      if (!advisory.is_string()) return Malformed(level.PathOf("advisoryIDs"), "holds no names");
      verdict.advisory_ids.push_back(Printable(advisory.get_ref<const std::string&>()));
    }
  }
  return verdict;
}

// The objects of an array of levels, with their paths.
absl::StatusOr<std::vector<JsonObject>> ReadObjects(const JsonObject& object, std::string_view key,
                                                    size_t max) {
  PAVISE_ASSIGN_OR_RETURN(const Json* array, ReadArray(object, key, max));
  std::vector<JsonObject> objects;
  for (size_t i = 0; i < array->size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(JsonObject entry,
                            JsonObject::From((*array)[i], StrCat(object.PathOf(key), "[", i, "]")));
    objects.push_back(std::move(entry));
  }
  return objects;
}

absl::StatusOr<std::vector<IsvSvnLevel>> ReadIsvSvnLevels(const JsonObject& object) {
  PAVISE_ASSIGN_OR_RETURN(const std::vector<JsonObject> entries,
                          ReadObjects(object, "tcbLevels", kMaxLevels));
  std::vector<IsvSvnLevel> levels;
  for (const JsonObject& entry : entries) {
    IsvSvnLevel level;
    PAVISE_ASSIGN_OR_RETURN(const JsonObject tcb, entry.GetObject("tcb"));
    PAVISE_ASSIGN_OR_RETURN(level.isv_svn, ReadUint(tcb, "isvsvn", 65535));
    PAVISE_ASSIGN_OR_RETURN(level.verdict, ReadVerdict(entry));
    levels.push_back(std::move(level));
  }
  return levels;
}

absl::Status ReadComponents(const JsonObject& tcb, std::string_view key,
                            std::array<uint8_t, kComponents>& out) {
  PAVISE_ASSIGN_OR_RETURN(const std::vector<JsonObject> components,
                          ReadObjects(tcb, key, kComponents));
  if (components.size() != kComponents) {
    return Malformed(tcb.PathOf(key), StrCat("has ", components.size(), " components, not 16"));
  }
  for (size_t i = 0; i < kComponents; ++i) {
    PAVISE_ASSIGN_OR_RETURN(const uint32_t svn, ReadUint(components[i], "svn", 255));
    out[i] = static_cast<uint8_t>(svn);
  }
  return absl::OkStatus();
}

absl::StatusOr<IntelTcbLevel> ReadTcbLevel(const JsonObject& entry,
                                           const CollateralHeader& header) {
  IntelTcbLevel level;
  PAVISE_ASSIGN_OR_RETURN(const JsonObject tcb, entry.GetObject("tcb"));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t pce_svn, ReadUint(tcb, "pcesvn", 65535));
  level.pce_svn = static_cast<uint16_t>(pce_svn);
  if (header.version == 2) {
    for (size_t i = 0; i < kComponents; ++i) {
      const std::string key = StrCat("sgxtcbcomp", i < 9 ? "0" : "", i + 1, "svn");
      PAVISE_ASSIGN_OR_RETURN(const uint32_t svn, ReadUint(tcb, key, 255));
      level.sgx_components[i] = static_cast<uint8_t>(svn);
    }
  } else {
    PAVISE_RETURN_IF_ERROR(ReadComponents(tcb, "sgxtcbcomponents", level.sgx_components));
    if (header.id == "TDX") {
      PAVISE_RETURN_IF_ERROR(ReadComponents(tcb, "tdxtcbcomponents", level.tdx_components));
    }
  }
  PAVISE_ASSIGN_OR_RETURN(level.verdict, ReadVerdict(entry));
  return level;
}

absl::StatusOr<TdxModuleIdentity> ReadModule(const JsonObject& object) {
  TdxModuleIdentity module;
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "mrsigner", module.mr_signer));
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "attributes", module.attributes));
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "attributesMask", module.attributes_mask));
  return module;
}

absl::StatusOr<CollateralHeader> ReadHeader(const JsonObject& object) {
  CollateralHeader header;
  PAVISE_ASSIGN_OR_RETURN(header.version, ReadUint(object, "version", 1000));
  PAVISE_ASSIGN_OR_RETURN(header.issue_date, ReadTime(object, "issueDate"));
  PAVISE_ASSIGN_OR_RETURN(header.next_update, ReadTime(object, "nextUpdate"));
  PAVISE_ASSIGN_OR_RETURN(header.tcb_evaluation_data_number,
                          ReadUint(object, "tcbEvaluationDataNumber", UINT32_MAX));
  return header;
}

absl::Status UnsupportedVersion(std::string_view item, uint32_t version) {
  return Refuse(Reason::kUnsupported, item, StrCat("version ", version, " is not read"));
}

}  // namespace

std::string_view IntelTcbStatusName(IntelTcbStatus status) {
  switch (status) {
    case IntelTcbStatus::kUpToDate:
      return "UpToDate";
    case IntelTcbStatus::kSwHardeningNeeded:
      return "SWHardeningNeeded";
    case IntelTcbStatus::kConfigurationNeeded:
      return "ConfigurationNeeded";
    case IntelTcbStatus::kConfigurationAndSwHardeningNeeded:
      return "ConfigurationAndSWHardeningNeeded";
    case IntelTcbStatus::kOutOfDate:
      return "OutOfDate";
    case IntelTcbStatus::kOutOfDateConfigurationNeeded:
      return "OutOfDateConfigurationNeeded";
    case IntelTcbStatus::kRevoked:
      break;
  }
  return "Revoked";
}

absl::StatusOr<SignedCollateral> SplitSignedCollateral(ByteSpan document, std::string_view member,
                                                       std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(document, item, kLimits));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({member, "signature"}));
  PAVISE_RETURN_IF_ERROR(object.GetObject(member).status());
  SignedCollateral result;
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "signature", result.signature));
  const ByteSpan body = MemberText(document, member);
  // A key may be spelt with escapes; Intel's is not.
  if (body.empty()) return Malformed(item, StrCat("its member \"", member, "\" is spelt oddly"));
  result.body.assign(body.begin(), body.end());
  return result;
}

absl::StatusOr<IntelTcbInfo> ParseIntelTcbInfo(ByteSpan body, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(body, item, kLimits));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  IntelTcbInfo info;
  PAVISE_ASSIGN_OR_RETURN(info.header, ReadHeader(object));
  if (info.header.version == 3) {
    PAVISE_ASSIGN_OR_RETURN(info.header.id, object.GetString("id"));
    if (info.header.id != "SGX" && info.header.id != "TDX") {
      return Refuse(Reason::kUnsupported, object.PathOf("id"), "is neither SGX nor TDX");
    }
  } else if (info.header.version != 2) {
    return UnsupportedVersion(item, info.header.version);
  }
  PAVISE_ASSIGN_OR_RETURN(const uint32_t tcb_type, ReadUint(object, "tcbType", 1000));
  if (tcb_type != 0) {
    return Refuse(Reason::kUnsupported, object.PathOf("tcbType"),
                  StrCat("is ", tcb_type, "; how to compare TCBs is known for type 0"));
  }
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "fmspc", info.fmspc));
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "pceId", info.pce_id));
  if (info.is_tdx()) {
    if (object.Has("tdxModule")) {
      PAVISE_ASSIGN_OR_RETURN(const JsonObject module, object.GetObject("tdxModule"));
      PAVISE_ASSIGN_OR_RETURN(info.tdx_module, ReadModule(module));
    }
    if (object.Has("tdxModuleIdentities")) {
      PAVISE_ASSIGN_OR_RETURN(const std::vector<JsonObject> entries,
                              ReadObjects(object, "tdxModuleIdentities", kMaxModules));
      for (const JsonObject& entry : entries) {
        PAVISE_ASSIGN_OR_RETURN(TdxModuleIdentity module, ReadModule(entry));
        PAVISE_ASSIGN_OR_RETURN(module.id, entry.GetString("id"));
        PAVISE_ASSIGN_OR_RETURN(module.levels, ReadIsvSvnLevels(entry));
        info.tdx_module_identities.push_back(std::move(module));
      }
    }
  }
  PAVISE_ASSIGN_OR_RETURN(const std::vector<JsonObject> entries,
                          ReadObjects(object, "tcbLevels", kMaxLevels));
  for (const JsonObject& entry : entries) {
    PAVISE_ASSIGN_OR_RETURN(IntelTcbLevel level, ReadTcbLevel(entry, info.header));
    info.levels.push_back(std::move(level));
  }
  return info;
}

absl::StatusOr<IntelEnclaveIdentity> ParseIntelEnclaveIdentity(ByteSpan body,
                                                               std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(body, item, kLimits));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  IntelEnclaveIdentity identity;
  PAVISE_ASSIGN_OR_RETURN(identity.header, ReadHeader(object));
  if (identity.header.version != 2) return UnsupportedVersion(item, identity.header.version);
  PAVISE_ASSIGN_OR_RETURN(identity.header.id, object.GetString("id"));
  PAVISE_ASSIGN_OR_RETURN(identity.misc_select, ReadHex32(object, "miscselect"));
  PAVISE_ASSIGN_OR_RETURN(identity.misc_select_mask, ReadHex32(object, "miscselectMask"));
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "attributes", identity.attributes));
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "attributesMask", identity.attributes_mask));
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "mrsigner", identity.mr_signer));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t product_id, ReadUint(object, "isvprodid", 65535));
  identity.isv_product_id = static_cast<uint16_t>(product_id);
  PAVISE_ASSIGN_OR_RETURN(identity.levels, ReadIsvSvnLevels(object));
  return identity;
}

}  // namespace pavise::evidence
