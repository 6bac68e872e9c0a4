#include "pavise/policy/agreement.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <utility>

#include "pavise/base/canonical_json.h"
#include "pavise/base/glob.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/policy/internal/fields.h"

namespace pavise::policy {
namespace {

using internal::EncodeTime;
using internal::GetDigest;
using internal::GetNames;
using internal::GetTime;
using internal::IsName;
using internal::kMaxListEntries;

constexpr std::string_view kFormat = "pavise-agreement/1";
constexpr size_t kMaxStakeholders = 64;
constexpr size_t kMaxStages = 64;
constexpr size_t kMaxAssets = 256;
constexpr size_t kMaxRules = 256;
constexpr size_t kMaxFiles = 1024;
constexpr size_t kMaxTextBytes = 1024;
constexpr int64_t kMinReattestSeconds = 10;
constexpr int64_t kMaxReattestSeconds = 24 * 60 * 60;
constexpr int64_t kMinVetoSeconds = 60 * 60;
constexpr int64_t kMaxVetoSeconds = 90 * 24 * 60 * 60;
constexpr uint64_t kMaxCount = uint64_t{1} << 53;

absl::Status Malformed(std::string_view path, std::string_view detail,
                       std::string_view remedy = "") {
  return Refuse(Reason::kMalformed, path, detail, remedy);
}

// ---- reading ----

// Calls `read(name, member)` for each member of the object `key`; absent: none.
absl::Status ForEachNamed(
    const JsonObject& parent, std::string_view key, size_t most, bool required,
    const std::function<absl::Status(const std::string&, const JsonObject&)>& read) {
  if (!required && !parent.Has(key)) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const Json* members, parent.Get(key));
  const std::string path = parent.PathOf(key);
  if (!members->is_object() || members->empty()) {
    return Malformed(path, "an object with at least one member belongs here");
  }
  if (members->size() > most) {
    return Refuse(Reason::kLimitExceeded, path, StrCat("more than ", most, " members"));
  }
  for (const auto& [name, value] : members->items()) {
    const std::string member = StrCat(path, ".", Printable(name));
    if (!IsName(name)) return Malformed(member, internal::kNameRule);
    PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(value, member));
    PAVISE_RETURN_IF_ERROR(read(name, object));
  }
  return absl::OkStatus();
}

absl::StatusOr<crypto::PublicKey> GetKey(const JsonObject& object, std::string_view key,
                                         bool allow_ed25519) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString(key));
  const std::string path = object.PathOf(key);
  PAVISE_ASSIGN_OR_RETURN(const Bytes der, FromBase64(text, path));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey parsed, crypto::PublicKey::FromDer(der, path));
  const crypto::KeyType type = parsed.type();
  if (type != crypto::KeyType::kEcP256 && type != crypto::KeyType::kEcP384 &&
      !(allow_ed25519 && type == crypto::KeyType::kEd25519)) {
    return Refuse(
        Reason::kKeyUnsupported, path, StrCat("a key of type ", crypto::KeyTypeName(type)),
        allow_ed25519 ? "take an Ed25519, P-256 or P-384 key" : "take a P-256 or P-384 key");
  }
  if (parsed.der() != der) return Malformed(path, "is not this key's one encoding");
  return parsed;
}

absl::StatusOr<uint64_t> GetCount(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t count, object.GetUint(key));
  if (count == 0 || count > kMaxCount) {
    return Malformed(object.PathOf(key), "a number from 1 to 2^53 belongs here");
  }
  return count;
}

absl::StatusOr<absl::Duration> GetSeconds(const JsonObject& object, std::string_view key,
                                          int64_t least, int64_t most) {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t seconds, object.GetUint(key));
  if (seconds < static_cast<uint64_t>(least) || seconds > static_cast<uint64_t>(most)) {
    return Malformed(object.PathOf(key), StrCat("seconds from ", least, " to ", most));
  }
  return absl::Seconds(static_cast<int64_t>(seconds));
}

absl::StatusOr<std::string> GetText(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(std::string text, object.GetString(key));
  if (text.empty() || text.size() > kMaxTextBytes || Printable(text) != text) {
    return Malformed(object.PathOf(key),
                     StrCat("1 to ", kMaxTextBytes, " bytes of printable text belong here"));
  }
  return text;
}

absl::StatusOr<std::map<std::string, Digest32>> GetFiles(const JsonObject& object,
                                                         std::string_view key) {
  std::map<std::string, Digest32> files;
  if (!object.Has(key)) return files;
  PAVISE_ASSIGN_OR_RETURN(const JsonObject members, object.GetObject(key));
  PAVISE_ASSIGN_OR_RETURN(const Json* value, object.Get(key));
  if (value->size() > kMaxFiles) {
    return Refuse(Reason::kLimitExceeded, members.path(),
                  StrCat("more than ", kMaxFiles, " files"));
  }
  for (const auto& [name, unused] : value->items()) {
    if (name.empty() || name.size() > kMaxTextBytes || Printable(name) != name) {
      return Malformed(members.path(), "names of files are printable text");
    }
    PAVISE_ASSIGN_OR_RETURN(files[name], GetDigest(members, name));
  }
  return files;
}

absl::StatusOr<EvidenceRules> ReadEvidence(const JsonObject& object) {
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"policy", "files", "anchors"}));
  EvidenceRules rules;
  PAVISE_ASSIGN_OR_RETURN(rules.policy, GetDigest(object, "policy"));
  PAVISE_ASSIGN_OR_RETURN(rules.files, GetFiles(object, "files"));
  PAVISE_ASSIGN_OR_RETURN(rules.anchors, GetFiles(object, "anchors"));
  return rules;
}

absl::StatusOr<Mode> ReadMode(std::string_view name, std::string_view path) {
  if (const std::optional<Mode> mode = ModeNamed(name)) return *mode;
  return Malformed(
      path, StrCat("\"", Printable(name), "\" is none of measured, tee, ", "confidential-gpu"));
}

absl::StatusOr<std::set<std::string>> GetTexts(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const Json* array, object.GetArray(key));
  std::set<std::string> texts;
  if (array->empty() || array->size() > kMaxListEntries) {
    return Malformed(object.PathOf(key), StrCat("a list of 1 to ", kMaxListEntries, " texts"));
  }
  for (const Json& value : *array) {
    if (!value.is_string() || value.get_ref<const std::string&>().empty() ||
        value.get_ref<const std::string&>().size() > kMaxTextBytes ||
        Printable(value.get<std::string>()) != value.get_ref<const std::string&>() ||
        !texts.insert(value.get<std::string>()).second) {
      return Malformed(object.PathOf(key), "texts, each once, belong here");
    }
  }
  return texts;
}

// host:port, the host a name or an address; what the command may reach is enforced elsewhere.
bool IsEndpoint(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == text.npos || colon == 0 || text.size() - colon > 6) return false;
  uint32_t port = 0;
  for (const char c : text.substr(colon + 1)) {
    if (c < '0' || c > '9') return false;
    port = port * 10 + static_cast<uint32_t>(c - '0');
  }
  return port > 0 && port < 65536 && text[colon + 1] != '0' &&
         text.substr(0, colon).find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.-:[]") ==
             text.npos;
}

absl::Status ReadOutput(const JsonObject& object, Output& output) {
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"recipients", "approvals"}));
  PAVISE_ASSIGN_OR_RETURN(output.recipients, GetNames(object, "recipients"));
  if (object.Has("approvals")) {
    PAVISE_ASSIGN_OR_RETURN(output.approvals, GetNames(object, "approvals"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Stage> ReadStage(const JsonObject& object) {
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"purpose", "modes", "code", "command", "inputs",
                                             "outputs", "limits", "network", "reattest_seconds",
                                             "broker_grace_seconds", "findings_to_host"}));
  Stage stage;
  PAVISE_ASSIGN_OR_RETURN(stage.purpose, GetText(object, "purpose"));
  PAVISE_RETURN_IF_ERROR(
      ForEachNamed(object, "modes", 3, /*required=*/true,
                   [&](const std::string& name, const JsonObject& member) -> absl::Status {
                     PAVISE_ASSIGN_OR_RETURN(const Mode mode, ReadMode(name, member.path()));
                     PAVISE_ASSIGN_OR_RETURN(stage.modes[mode], ReadEvidence(member));
                     return absl::OkStatus();
                   }));
  PAVISE_ASSIGN_OR_RETURN(stage.code, object.GetString("code"));
  PAVISE_ASSIGN_OR_RETURN(const Json* command, object.GetArray("command"));
  if (command->empty() || command->size() > kMaxListEntries) {
    return Malformed(object.PathOf("command"),
                     StrCat("a list of 1 to ", kMaxListEntries, " patterns"));
  }
  for (const Json& argument : *command) {
    if (!argument.is_string() || argument.get_ref<const std::string&>().size() > kMaxTextBytes ||
        Printable(argument.get<std::string>()) != argument.get_ref<const std::string&>()) {
      return Malformed(object.PathOf("command"), "patterns of printable text belong here");
    }
    stage.command.push_back(argument.get<std::string>());
  }
  if (stage.command.front().empty()) return Malformed(object.PathOf("command"), "no program");
  PAVISE_ASSIGN_OR_RETURN(stage.inputs, GetNames(object, "inputs"));
  PAVISE_RETURN_IF_ERROR(ForEachNamed(object, "outputs", kMaxListEntries, /*required=*/false,
                                      [&](const std::string& name, const JsonObject& member) {
                                        return ReadOutput(member, stage.outputs[name]);
                                      }));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject limits, object.GetObject("limits"));
  PAVISE_RETURN_IF_ERROR(limits.RequireOnly({"not_after", "runs", "epochs"}));
  PAVISE_ASSIGN_OR_RETURN(stage.limits.not_after, GetTime(limits, "not_after"));
  PAVISE_ASSIGN_OR_RETURN(stage.limits.runs, GetCount(limits, "runs"));
  if (limits.Has("epochs")) {
    PAVISE_ASSIGN_OR_RETURN(stage.limits.epochs, GetCount(limits, "epochs"));
  }
  if (object.Has("network")) {
    PAVISE_ASSIGN_OR_RETURN(stage.network, GetTexts(object, "network"));
    for (const std::string& endpoint : stage.network) {
      if (!IsEndpoint(endpoint)) {
        return Malformed(object.PathOf("network"),
                         StrCat("\"", endpoint, "\" is no host:port in lower case"));
      }
    }
  }
  PAVISE_ASSIGN_OR_RETURN(stage.reattest, GetSeconds(object, "reattest_seconds",
                                                     kMinReattestSeconds, kMaxReattestSeconds));
  if (object.Has("broker_grace_seconds")) {
    PAVISE_ASSIGN_OR_RETURN(stage.broker_grace,
                            GetSeconds(object, "broker_grace_seconds", 1, kMaxReattestSeconds));
  }
  if (object.Has("findings_to_host")) {
    PAVISE_ASSIGN_OR_RETURN(stage.findings_to_host, object.GetBool("findings_to_host"));
  }
  return stage;
}

absl::StatusOr<OwnerRule> ReadRule(const JsonObject& object) {
  PAVISE_RETURN_IF_ERROR(
      object.RequireOnly({"owner", "assets", "stages", "modes", "purposes", "code", "recipients",
                          "evidence", "not_after", "runs", "forbid_network"}));
  OwnerRule rule;
  PAVISE_ASSIGN_OR_RETURN(rule.owner, object.GetString("owner"));
  if (object.Has("assets")) {
    PAVISE_ASSIGN_OR_RETURN(rule.assets, GetNames(object, "assets"));
  }
  if (object.Has("stages")) {
    PAVISE_ASSIGN_OR_RETURN(rule.stages, GetNames(object, "stages"));
  }
  if (object.Has("modes")) {
    PAVISE_ASSIGN_OR_RETURN(const std::set<std::string> names, GetNames(object, "modes"));
    rule.modes.emplace();
    for (const std::string& name : names) {
      PAVISE_ASSIGN_OR_RETURN(const Mode mode, ReadMode(name, object.PathOf("modes")));
      rule.modes->insert(mode);
    }
  }
  if (object.Has("purposes")) {
    PAVISE_ASSIGN_OR_RETURN(rule.purposes, GetTexts(object, "purposes"));
  }
  if (object.Has("code")) {
    PAVISE_ASSIGN_OR_RETURN(const std::set<std::string> texts, GetTexts(object, "code"));
    rule.code.emplace();
    for (const std::string& text : texts) {
      PAVISE_ASSIGN_OR_RETURN(const Digest32 digest,
                              internal::LowerCaseDigest(text, object.PathOf("code")));
      rule.code->insert(digest);
    }
  }
  if (object.Has("recipients")) {
    PAVISE_ASSIGN_OR_RETURN(rule.recipients, GetNames(object, "recipients"));
  }
  if (object.Has("evidence")) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject evidence, object.GetObject("evidence"));
    PAVISE_ASSIGN_OR_RETURN(rule.evidence, ReadEvidence(evidence));
  }
  if (object.Has("not_after")) {
    PAVISE_ASSIGN_OR_RETURN(rule.not_after, GetTime(object, "not_after"));
  }
  if (object.Has("runs")) {
    PAVISE_ASSIGN_OR_RETURN(rule.runs, GetCount(object, "runs"));
  }
  if (object.Has("forbid_network")) {
    PAVISE_ASSIGN_OR_RETURN(rule.forbid_network, object.GetBool("forbid_network"));
  }
  return rule;
}

absl::StatusOr<Stakeholder> ReadStakeholder(const JsonObject& object) {
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"signing_key", "encryption_key"}));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey signing, GetKey(object, "signing_key", true));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey encryption, GetKey(object, "encryption_key", false));
  return Stakeholder{std::move(signing), std::move(encryption)};
}

absl::StatusOr<Asset> ReadAsset(const JsonObject& object) {
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"kind", "owner", "statement", "sealed"}));
  Asset asset;
  PAVISE_ASSIGN_OR_RETURN(const std::string kind, object.GetString("kind"));
  bool is_known = false;
  for (const AssetKind each : {AssetKind::kCode, AssetKind::kModel, AssetKind::kData}) {
    if (AssetKindName(each) != kind) continue;
    asset.kind = each;
    is_known = true;
  }
  if (!is_known) return Malformed(object.PathOf("kind"), "is none of code, model, data");
  PAVISE_ASSIGN_OR_RETURN(asset.owner, object.GetString("owner"));
  PAVISE_ASSIGN_OR_RETURN(asset.statement, GetDigest(object, "statement"));
  PAVISE_ASSIGN_OR_RETURN(asset.sealed, GetDigest(object, "sealed"));
  return asset;
}

absl::StatusOr<ChangeRule> ReadChanges(const JsonObject& object) {
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"approvals", "of", "vetoes", "veto_seconds"}));
  ChangeRule changes;
  PAVISE_ASSIGN_OR_RETURN(changes.approvals, GetCount(object, "approvals"));
  PAVISE_ASSIGN_OR_RETURN(changes.of, GetNames(object, "of"));
  if (changes.approvals > changes.of.size()) {
    return Malformed(object.PathOf("approvals"),
                     StrCat(changes.approvals, " of ", changes.of.size(), " can never approve"));
  }
  if (object.Has("vetoes") != object.Has("veto_seconds")) {
    return Malformed(object.path(), "vetoes and veto_seconds go together");
  }
  if (object.Has("vetoes")) {
    PAVISE_ASSIGN_OR_RETURN(changes.vetoes, GetNames(object, "vetoes"));
    PAVISE_ASSIGN_OR_RETURN(changes.veto_period,
                            GetSeconds(object, "veto_seconds", kMinVetoSeconds, kMaxVetoSeconds));
  }
  return changes;
}

// ---- what the parts must be to each other ----

absl::Status RequireStakeholders(const Agreement& agreement, const std::set<std::string>& names,
                                 std::string_view path) {
  for (const std::string& name : names) {
    if (!agreement.stakeholders.contains(name)) {
      return Malformed(path, StrCat("\"", Printable(name), "\" is no stakeholder"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckStage(const Agreement& agreement, const Stage& stage, const std::string& path) {
  const auto code = agreement.assets.find(stage.code);
  if (code == agreement.assets.end() || code->second.kind != AssetKind::kCode) {
    return Malformed(path + ".code",
                     StrCat("\"", Printable(stage.code), "\" is no asset of kind code"));
  }
  for (const std::string& input : stage.inputs) {
    const auto asset = agreement.assets.find(input);
    if (asset == agreement.assets.end() || asset->second.kind == AssetKind::kCode) {
      return Malformed(path + ".inputs",
                       StrCat("\"", Printable(input), "\" is no asset of kind model or data"));
    }
  }
  for (const auto& [name, output] : stage.outputs) {
    const std::string output_path = StrCat(path, ".outputs.", name);
    PAVISE_RETURN_IF_ERROR(
        RequireStakeholders(agreement, output.recipients, output_path + ".recipients"));
    PAVISE_RETURN_IF_ERROR(
        RequireStakeholders(agreement, output.approvals, output_path + ".approvals"));
  }
  return absl::OkStatus();
}

absl::Status CheckRule(const Agreement& agreement, const OwnerRule& rule, const std::string& path) {
  const bool owns_anything =
      std::any_of(agreement.assets.begin(), agreement.assets.end(),
                  [&](const auto& asset) { return asset.second.owner == rule.owner; });
  if (!owns_anything) {
    return Malformed(path + ".owner", StrCat("\"", Printable(rule.owner), "\" owns no asset"));
  }
  for (const std::string& name : rule.assets) {
    const auto asset = agreement.assets.find(name);
    if (asset == agreement.assets.end() || asset->second.owner != rule.owner) {
      return Malformed(path + ".assets",
                       StrCat("\"", name, "\" is no asset of ", Printable(rule.owner)));
    }
  }
  if (rule.recipients.has_value()) {
    PAVISE_RETURN_IF_ERROR(RequireStakeholders(agreement, *rule.recipients, path + ".recipients"));
  }
  // Names of stages are not held against those that exist: an owner may rule for stages to come,
  // and lint warns of the others.
  return absl::OkStatus();
}

absl::Status CheckParts(const Agreement& agreement, const std::string& item) {
  std::map<std::string, std::string> keys;
  for (const auto& [name, stakeholder] : agreement.stakeholders) {
    const auto [other, is_new] = keys.emplace(stakeholder.signing_key.Fingerprint(), name);
    if (!is_new) {
      return Malformed(
          StrCat(item, ".stakeholders.", name, ".signing_key"),
          StrCat("is also the key of \"", other->second, "\": one person would approve as two"));
    }
  }
  PAVISE_RETURN_IF_ERROR(
      RequireStakeholders(agreement, agreement.changes.of, item + ".changes.of"));
  PAVISE_RETURN_IF_ERROR(
      RequireStakeholders(agreement, agreement.changes.vetoes, item + ".changes.vetoes"));
  for (const auto& [name, asset] : agreement.assets) {
    PAVISE_RETURN_IF_ERROR(
        RequireStakeholders(agreement, {asset.owner}, StrCat(item, ".assets.", name, ".owner")));
  }
  for (const auto& [name, stage] : agreement.stages) {
    PAVISE_RETURN_IF_ERROR(CheckStage(agreement, stage, StrCat(item, ".stages.", name)));
  }
  for (const auto& [name, rule] : agreement.rules) {
    PAVISE_RETURN_IF_ERROR(CheckRule(agreement, rule, StrCat(item, ".rules.", name)));
  }
  if (agreement.previous.has_value() != (agreement.version > 1)) {
    return Malformed(item + ".previous",
                     "every version but the first names its predecessor, and the first has none");
  }
  return absl::OkStatus();
}

// ---- writing ----

Json ToJson(const EvidenceRules& rules) {
  Json json = {{"policy", ToHex(rules.policy)}};
  for (const auto& [name, digest] : rules.files) json["files"][name] = ToHex(digest);
  for (const auto& [name, digest] : rules.anchors) json["anchors"][name] = ToHex(digest);
  return json;
}

Json ToJson(const Stage& stage) {
  Json json = {
      {"purpose", stage.purpose},
      {"code", stage.code},
      {"command", stage.command},
      {"inputs", stage.inputs},
      {"limits", {{"not_after", EncodeTime(stage.limits.not_after)}, {"runs", stage.limits.runs}}},
      {"reattest_seconds", absl::ToInt64Seconds(stage.reattest)}};
  for (const auto& [mode, evidence] : stage.modes) {
    json["modes"][std::string(ModeName(mode))] = ToJson(evidence);
  }
  for (const auto& [name, output] : stage.outputs) {
    Json& member = json["outputs"][name];
    member["recipients"] = output.recipients;
    if (!output.approvals.empty()) member["approvals"] = output.approvals;
  }
  if (stage.limits.epochs.has_value()) json["limits"]["epochs"] = *stage.limits.epochs;
  if (!stage.network.empty()) json["network"] = stage.network;
  if (stage.broker_grace > absl::ZeroDuration()) {
    json["broker_grace_seconds"] = absl::ToInt64Seconds(stage.broker_grace);
  }
  if (stage.findings_to_host) json["findings_to_host"] = true;
  return json;
}

Json ToJson(const OwnerRule& rule) {
  Json json = {{"owner", rule.owner}};
  if (!rule.assets.empty()) json["assets"] = rule.assets;
  if (rule.stages.has_value()) json["stages"] = *rule.stages;
  if (rule.modes.has_value()) {
    std::set<std::string> names;
    for (const Mode mode : *rule.modes) names.emplace(ModeName(mode));
    json["modes"] = names;
  }
  if (rule.purposes.has_value()) json["purposes"] = *rule.purposes;
  if (rule.code.has_value()) {
    std::set<std::string> digests;
    for (const Digest32& digest : *rule.code) digests.insert(ToHex(digest));
    json["code"] = digests;
  }
  if (rule.recipients.has_value()) json["recipients"] = *rule.recipients;
  if (rule.evidence.has_value()) json["evidence"] = ToJson(*rule.evidence);
  if (rule.not_after.has_value()) json["not_after"] = EncodeTime(*rule.not_after);
  if (rule.runs.has_value()) json["runs"] = *rule.runs;
  if (rule.forbid_network) json["forbid_network"] = true;
  return json;
}

}  // namespace

namespace internal {

absl::StatusOr<Agreement> AgreementFromJson(const Json& value, const std::string& item) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject root, JsonObject::From(value, item));
  PAVISE_ASSIGN_OR_RETURN(const std::string format, root.GetString("format"));
  if (format != kFormat) {
    return Refuse(Reason::kUnsupported, root.PathOf("format"),
                  StrCat("\"", Printable(format), "\"; this program knows ", kFormat));
  }
  PAVISE_RETURN_IF_ERROR(root.RequireOnly({"format", "name", "version", "previous", "stakeholders",
                                           "changes", "assets", "stages", "rules"}));
  Agreement agreement;
  PAVISE_ASSIGN_OR_RETURN(agreement.name, GetText(root, "name"));
  PAVISE_ASSIGN_OR_RETURN(agreement.version, GetCount(root, "version"));
  if (root.Has("previous")) {
    PAVISE_ASSIGN_OR_RETURN(agreement.previous, GetDigest(root, "previous"));
  }
  PAVISE_RETURN_IF_ERROR(
      ForEachNamed(root, "stakeholders", kMaxStakeholders, /*required=*/true,
                   [&](const std::string& name, const JsonObject& member) -> absl::Status {
                     PAVISE_ASSIGN_OR_RETURN(Stakeholder stakeholder, ReadStakeholder(member));
                     agreement.stakeholders.emplace(name, std::move(stakeholder));
                     return absl::OkStatus();
                   }));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject changes, root.GetObject("changes"));
  PAVISE_ASSIGN_OR_RETURN(agreement.changes, ReadChanges(changes));
  PAVISE_RETURN_IF_ERROR(
      ForEachNamed(root, "assets", kMaxAssets, /*required=*/true,
                   [&](const std::string& name, const JsonObject& member) -> absl::Status {
                     PAVISE_ASSIGN_OR_RETURN(agreement.assets[name], ReadAsset(member));
                     return absl::OkStatus();
                   }));
  PAVISE_RETURN_IF_ERROR(
      ForEachNamed(root, "stages", kMaxStages, /*required=*/true,
                   [&](const std::string& name, const JsonObject& member) -> absl::Status {
                     PAVISE_ASSIGN_OR_RETURN(agreement.stages[name], ReadStage(member));
                     return absl::OkStatus();
                   }));
  PAVISE_RETURN_IF_ERROR(
      ForEachNamed(root, "rules", kMaxRules, /*required=*/false,
                   [&](const std::string& name, const JsonObject& member) -> absl::Status {
                     PAVISE_ASSIGN_OR_RETURN(agreement.rules[name], ReadRule(member));
                     return absl::OkStatus();
                   }));
  PAVISE_RETURN_IF_ERROR(CheckParts(agreement, item));
  return agreement;
}

}  // namespace internal

std::string_view AssetKindName(AssetKind kind) {
  switch (kind) {
    case AssetKind::kCode:
      return "code";
    case AssetKind::kModel:
      return "model";
    case AssetKind::kData:
      return "data";
  }
  return "";
}

std::string_view ModeName(Mode mode) {
  switch (mode) {
    case Mode::kMeasured:
      return "measured";
    case Mode::kTee:
      return "tee";
    case Mode::kConfidentialGpu:
      return "confidential-gpu";
  }
  return "";
}

std::optional<Mode> ModeNamed(std::string_view name) {
  for (const Mode mode : {Mode::kMeasured, Mode::kTee, Mode::kConfidentialGpu}) {
    if (ModeName(mode) == name) return mode;
  }
  return std::nullopt;
}

std::set<std::string> Agreement::AssetsOf(const Stage& stage) const {
  std::set<std::string> used = stage.inputs;
  used.insert(stage.code);
  return used;
}

std::set<std::string> Agreement::OwnersOf(const Stage& stage) const {
  std::set<std::string> owners;
  for (const std::string& each : AssetsOf(stage)) owners.insert(assets.at(each).owner);
  return owners;
}

std::set<std::string> Agreement::OwnersOf(const Stage& stage, AssetKind kind) const {
  std::set<std::string> owners;
  for (const std::string& each : AssetsOf(stage)) {
    const Asset& asset = assets.at(each);
    if (asset.kind == kind) owners.insert(asset.owner);
  }
  return owners;
}

std::map<std::string, const OwnerRule*> Agreement::RulesOn(
    const std::set<std::string>& names) const {
  std::map<std::string, const OwnerRule*> found;
  for (const auto& [rule_name, rule] : rules) {
    const bool applies =
        std::any_of(names.begin(), names.end(), [this, &rule = rule](const std::string& each) {
          return rule.assets.empty() ? assets.at(each).owner == rule.owner
                                     : rule.assets.contains(each);
        });
    if (applies) found[rule_name] = &rule;
  }
  return found;
}

std::string Agreement::StakeholderWithKey(std::string_view key_id) const {
  for (const auto& [each, stakeholder] : stakeholders) {
    if (stakeholder.signing_key.Fingerprint() == key_id) return each;
  }
  return "";
}

absl::StatusOr<Agreement> ParseAgreement(ByteSpan payload, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(
      const Json json,
      ParseJson(payload, item, {.max_bytes = kMaxAgreementBytes, .max_values = 100'000}));
  PAVISE_ASSIGN_OR_RETURN(Agreement agreement,
                          internal::AgreementFromJson(json, std::string(item)));
  PAVISE_ASSIGN_OR_RETURN(const std::string canonical, FormatAgreement(agreement));
  if (AsText(payload) != canonical) {
    return Malformed(item, "is not the canonical form of this agreement: two texts would be one",
                     "write it with pavise policy propose");
  }
  return agreement;
}

absl::StatusOr<std::string> FormatAgreement(const Agreement& agreement) {
  Json json = {
      {"format", kFormat},
      {"name", agreement.name},
      {"version", agreement.version},
      {"changes", {{"approvals", agreement.changes.approvals}, {"of", agreement.changes.of}}}};
  if (agreement.previous.has_value()) json["previous"] = ToHex(*agreement.previous);
  if (!agreement.changes.vetoes.empty()) {
    json["changes"]["vetoes"] = agreement.changes.vetoes;
    json["changes"]["veto_seconds"] = absl::ToInt64Seconds(agreement.changes.veto_period);
  }
  for (const auto& [name, stakeholder] : agreement.stakeholders) {
    json["stakeholders"][name] = {{"signing_key", ToBase64(stakeholder.signing_key.der())},
                                  {"encryption_key", ToBase64(stakeholder.encryption_key.der())}};
  }
  for (const auto& [name, asset] : agreement.assets) {
    json["assets"][name] = {{"kind", AssetKindName(asset.kind)},
                            {"owner", asset.owner},
                            {"statement", ToHex(asset.statement)},
                            {"sealed", ToHex(asset.sealed)}};
  }
  for (const auto& [name, stage] : agreement.stages) json["stages"][name] = ToJson(stage);
  for (const auto& [name, rule] : agreement.rules) json["rules"][name] = ToJson(rule);
  PAVISE_ASSIGN_OR_RETURN(std::string text, CanonicalJson(json, "agreement"));
  if (text.size() > kMaxAgreementBytes) {
    return Refuse(Reason::kLimitExceeded, "agreement",
                  StrCat("is larger than ", kMaxAgreementBytes, " bytes"));
  }
  return text;
}

absl::Status CheckCommand(const Stage& stage, const std::vector<std::string>& arguments) {
  if (arguments.size() != stage.command.size()) {
    return Refuse(Reason::kPolicyDenied, "command",
                  StrCat("has ", arguments.size(), " arguments; the agreement's pattern has ",
                         stage.command.size()),
                  "give the command that the agreement names");
  }
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (!GlobMatches(stage.command[i], arguments[i])) {
      return Refuse(Reason::kPolicyDenied, StrCat("command, argument ", i),
                    StrCat("\"", Printable(arguments[i]), "\" is not \"", stage.command[i], "\""),
                    "give the command that the agreement names");
    }
  }
  return absl::OkStatus();
}

}  // namespace pavise::policy
