#include <filesystem>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/yaml.h"
#include "pavise/crypto/digest.h"
#include "pavise/evidence/appraise/machine/trust_files.h"
#include "pavise/policy/agreement.h"
#include "pavise/policy/internal/fields.h"
#include "pavise/policy/internal/prepared_rules.h"
#include "pavise/signing/bundle.h"

#include "absl/strings/numbers.h"

namespace pavise::policy {
namespace {

constexpr uint64_t kMaxKeyFileBytes = 64 << 10;
constexpr YamlLimits kLimits = {
    .max_bytes = kMaxAgreementBytes, .max_depth = 12, .max_nodes = 50'000, .max_keys = 1024};

// Members whose values are no text, wherever they stand as scalars.
constexpr std::string_view kIntegers[] = {
    "version", "approvals",        "veto_seconds",        "runs",
    "epochs",  "reattest_seconds", "broker_grace_seconds"};
constexpr std::string_view kBooleans[] = {"findings_to_host", "forbid_network"};

class Attachments final : public AttachmentSource {
 public:
  explicit Attachments(const std::map<Digest32, Bytes>& files) : files_(files) {}
  absl::StatusOr<Bytes> Read(const Digest32& digest) const override {
    const auto found = files_.find(digest);
    if (found == files_.end()) {
      return Refuse(Reason::kFileMissing, ToHex(digest), "is not among the attachments");
    }
    return found->second;
  }

 private:
  const std::map<Digest32, Bytes>& files_;
};

// From YAML to the members of an agreement's JSON: first as text, numbers and truth values, then
// what names files.
class AgreementWriter {
 public:
  AgreementWriter(std::string_view item, const FileSource& files) : item_(item), files_(files) {}

  absl::StatusOr<WrittenAgreement> Write(ByteSpan yaml, std::optional<std::string_view> previous) {
    PAVISE_ASSIGN_OR_RETURN(const YamlNode root, ParseYaml(yaml, item_, kLimits));
    PAVISE_ASSIGN_OR_RETURN(Json json, Convert(root, "", ""));
    if (!json.is_object()) return Malformed("", "names and values (name: value) belong here");
    for (const char* member : {"format", "previous"}) {
      if (json.contains(member)) {
        return Malformed(member, "is not for people to write: it follows from the rest");
      }
    }
    json["format"] = "pavise-agreement/1";
    PAVISE_RETURN_IF_ERROR(Number(json, previous));
    PAVISE_RETURN_IF_ERROR(ResolveStakeholders(json));
    PAVISE_RETURN_IF_ERROR(ResolveAssets(json));
    PAVISE_RETURN_IF_ERROR(ResolveEvidence(json));
    absl::StatusOr<Agreement> agreement = internal::AgreementFromJson(json, kRoot);
    if (!agreement.ok()) return WithLines(agreement.status());
    written_.agreement = *std::move(agreement);
    PAVISE_ASSIGN_OR_RETURN(written_.payload, FormatAgreement(written_.agreement));
    PAVISE_RETURN_IF_ERROR(CheckEvidence());
    return std::move(written_);
  }

 private:
  static constexpr char kRoot[] = "agreement";

  std::string Where(std::string_view path) const {
    std::string_view known = path;
    auto line = lines_.find(std::string(known));
    while (line == lines_.end() && !known.empty()) {
      const size_t cut = known.find_last_of(".[");
      known = known.substr(0, cut == known.npos ? 0 : cut);
      line = lines_.find(std::string(known));
    }
    const std::string start = line == lines_.end() ? item_ : StrCat(item_, ", line ", line->second);
    return path.empty() ? start : StrCat(start, ", ", path);
  }
  absl::Status Malformed(std::string_view path, std::string_view detail) const {
    return Refuse(Reason::kMalformed, Where(path), detail,
                  "the format is described in docs/formats/agreement.md");
  }
  // "agreement.stages.train" becomes "lungs.yaml, line 12, stages.train".
  absl::Status WithLines(const absl::Status& status) const {
    std::vector<Refusal> findings = RefusalsOf(status);
    if (findings.empty()) return status;
    for (Refusal& finding : findings) {
      const std::string_view path = finding.item;
      if (path == kRoot) {
        finding.item = Where("");
      } else if (path.starts_with(StrCat(kRoot, "."))) {
        finding.item = Where(path.substr(sizeof(kRoot)));
      }
    }
    return Refuse(std::move(findings));
  }

  absl::StatusOr<Json> Convert(const YamlNode& node, const std::string& path,
                               std::string_view key) {
    lines_.emplace(path, node.line);
    switch (node.kind) {
      case YamlNode::Kind::kNull:
        return Malformed(path, "has no value");
      case YamlNode::Kind::kScalar:
        return Scalar(node, path, key);
      case YamlNode::Kind::kSequence: {
        Json array = Json::array();
        for (size_t i = 0; i < node.items.size(); ++i) {
          PAVISE_ASSIGN_OR_RETURN(Json value,
                                  Convert(node.items[i], StrCat(path, "[", i, "]"), ""));
          array.push_back(std::move(value));
        }
        return array;
      }
      case YamlNode::Kind::kMap:
        break;
    }
    Json object = Json::object();
    for (size_t i = 0; i < node.keys.size(); ++i) {
      const std::string& name = node.keys[i];
      const std::string member =
          path.empty() ? Printable(name) : StrCat(path, ".", Printable(name));
      if (i >= node.items.size()) return Malformed(member, "has no value");
      PAVISE_ASSIGN_OR_RETURN(object[name], Convert(node.items[i], member, name));
    }
    return object;
  }

  absl::StatusOr<Json> Scalar(const YamlNode& node, const std::string& path,
                              std::string_view key) const {
    const auto is_one_of = [&](const auto& names) {
      return std::find(std::begin(names), std::end(names), key) != std::end(names);
    };
    if (is_one_of(kIntegers)) {
      uint64_t value = 0;
      // One spelling: no sign, no leading zero, no quotes.
      if (!node.is_plain || !absl::SimpleAtoi(node.text, &value) || StrCat(value) != node.text) {
        return Malformed(path, "an integer belongs here");
      }
      return Json(value);
    }
    if (is_one_of(kBooleans)) {
      if (!node.is_plain || (node.text != "true" && node.text != "false")) {
        return Malformed(path, "true or false belongs here");
      }
      return Json(node.text == "true");
    }
    return Json(node.text);
  }

  absl::Status Number(Json& json, std::optional<std::string_view> previous) const {
    uint64_t version = 1;
    if (previous.has_value()) {
      PAVISE_ASSIGN_OR_RETURN(const Agreement before,
                              ParseAgreement(AsBytes(*previous), "previous version"));
      version = before.version + 1;
      PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, crypto::Sha256(AsBytes(*previous)));
      json["previous"] = ToHex(digest);
    }
    if (json.contains("version") && json["version"] != version) {
      return Malformed("version",
                       StrCat("is not ", version, ", which follows from the version ", "before"));
    }
    json["version"] = version;
    return absl::OkStatus();
  }

  // The objects below json[key]; what is no object is left to AgreementFromJson to refuse.
  template <typename Each>
  absl::Status ForEachObject(Json& json, const char* key, const std::string& path,
                             const Each& each) {
    if (!json.contains(key) || !json[key].is_object()) return absl::OkStatus();
    for (const auto& [name, value] : json[key].items()) {
      if (!value.is_object()) continue;
      PAVISE_RETURN_IF_ERROR(each(name, value, StrCat(path, key, ".", Printable(name))));
    }
    return absl::OkStatus();
  }

  absl::Status ResolveStakeholders(Json& json) {
    return ForEachObject(
        json, "stakeholders", "",
        [&](const std::string&, Json& value, const std::string& path) -> absl::Status {
          for (const char* member : {"signing_key", "encryption_key"}) {
            if (!value.contains(member) || !value[member].is_string()) continue;
            const std::string file = value[member].get<std::string>();
            PAVISE_ASSIGN_OR_RETURN(const Bytes pem,
                                    ReadNamed(file, StrCat(path, ".", member), kMaxKeyFileBytes));
            PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key,
                                    crypto::PublicKey::FromPem(AsText(pem), file));
            value[member] = ToBase64(key.der());
          }
          return absl::OkStatus();
        });
  }

  absl::Status ResolveAssets(Json& json) {
    return ForEachObject(
        json, "assets", "",
        [&](const std::string&, Json& value, const std::string& path) -> absl::Status {
          if (!value.contains("signature") || !value["signature"].is_string()) {
            return absl::OkStatus();
          }
          if (value.contains("statement")) {
            return Malformed(path, "signature and statement say the same: give one");
          }
          const std::string file = value["signature"].get<std::string>();
          PAVISE_ASSIGN_OR_RETURN(const Bytes text,
                                  ReadNamed(file, path + ".signature", signing::kMaxBundleBytes));
          PAVISE_ASSIGN_OR_RETURN(const signing::Bundle bundle, signing::ParseBundle(text, file));
          PAVISE_ASSIGN_OR_RETURN(const Digest32 statement, crypto::Sha256(bundle.payload));
          value.erase("signature");
          value["statement"] = ToHex(statement);
          return absl::OkStatus();
        });
  }

  absl::Status ResolveEvidence(Json& json) {
    PAVISE_RETURN_IF_ERROR(ForEachObject(
        json, "stages", "",
        [&](const std::string&, Json& stage, const std::string& path) -> absl::Status {
          return ForEachObject(stage, "modes", path + ".",
                               [&](const std::string&, Json& rules, const std::string& below) {
                                 return ResolveRules(rules, below);
                               });
        }));
    return ForEachObject(
        json, "rules", "",
        [&](const std::string&, Json& rule, const std::string& path) -> absl::Status {
          if (!rule.contains("evidence") || !rule["evidence"].is_object()) return absl::OkStatus();
          return ResolveRules(rule["evidence"], path + ".evidence");
        });
  }

  // {policy: FILE, trust: FOLDER} becomes {policy, files, anchors}, by digest.
  absl::Status ResolveRules(Json& rules, const std::string& path) {
    for (const auto& [name, value] : rules.items()) {
      if ((name != "policy" && name != "trust") || !value.is_string()) {
        return Malformed(StrCat(path, ".", Printable(name)),
                         "policy (a file) and trust (a folder) belong here");
      }
    }
    if (!rules.contains("policy")) return Malformed(path, "names no policy");
    const std::string policy_file = rules["policy"].get<std::string>();
    PAVISE_ASSIGN_OR_RETURN(const Bytes policy_text,
                            ReadNamed(policy_file, path + ".policy", internal::kMaxPolicyBytes));
    PAVISE_ASSIGN_OR_RETURN(const evidence::AppraisalPolicy policy,
                            evidence::ParseAppraisalPolicy(policy_text, policy_file));
    Json resolved;
    PAVISE_ASSIGN_OR_RETURN(resolved["policy"], Pin(policy_text));
    const std::filesystem::path folder = std::filesystem::path(policy_file).parent_path();
    const auto pin = [&](const std::vector<std::string>& names,
                         uint64_t max_bytes) -> absl::Status {
      for (const std::string& name : names) {
        PAVISE_ASSIGN_OR_RETURN(const Bytes content,
                                ReadNamed((folder / name).string(), path + ".policy", max_bytes));
        PAVISE_ASSIGN_OR_RETURN(resolved["files"][name], Pin(content));
      }
      return absl::OkStatus();
    };
    PAVISE_RETURN_IF_ERROR(pin(policy.reference_values, evidence::kMaxReferenceBytes));
    PAVISE_RETURN_IF_ERROR(pin(policy.driver_rims, internal::kMaxRimBytes));
    PAVISE_RETURN_IF_ERROR(pin(policy.vbios_rims, internal::kMaxRimBytes));
    if (rules.contains("trust")) {
      const std::string trust = rules["trust"].get<std::string>();
      PAVISE_ASSIGN_OR_RETURN(const std::vector<std::string> names, files_.List(trust));
      for (const std::string& name : names) {
        if (!evidence::IsTrustFile(name)) continue;
        PAVISE_ASSIGN_OR_RETURN(const Bytes content,
                                ReadNamed((std::filesystem::path(trust) / name).string(),
                                          path + ".trust", evidence::kMaxTrustFileBytes));
        PAVISE_ASSIGN_OR_RETURN(resolved["anchors"][name], Pin(content));
      }
    }
    rules = std::move(resolved);
    return absl::OkStatus();
  }

  absl::Status CheckEvidence() const {
    const Attachments attachments(written_.attachments);
    for (const auto& [name, stage] : written_.agreement.stages) {
      for (const auto& [mode, rules] : stage.modes) {
        const std::string item = Where(StrCat("stages.", name, ".modes.", ModeName(mode)));
        PAVISE_ASSIGN_OR_RETURN(const internal::PreparedRules prepared,
                                internal::PrepareRules(rules, attachments, item));
        PAVISE_RETURN_IF_ERROR(internal::CheckMode(prepared.policy, mode, item));
      }
    }
    for (const auto& [name, rule] : written_.agreement.rules) {
      if (!rule.evidence.has_value()) continue;
      PAVISE_RETURN_IF_ERROR(internal::PrepareRules(*rule.evidence, attachments,
                                                    Where(StrCat("rules.", name, ".evidence")))
                                 .status());
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Bytes> ReadNamed(const std::string& name, std::string_view path,
                                  uint64_t max_bytes) const {
    if (name.empty()) return Malformed(path, "the name of a file belongs here");
    return files_.Read(name, max_bytes);
  }
  absl::StatusOr<std::string> Pin(const Bytes& content) {
    PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, crypto::Sha256(content));
    written_.attachments.emplace(digest, content);
    return ToHex(digest);
  }

  const std::string item_;
  const FileSource& files_;
  std::map<std::string, int> lines_;
  WrittenAgreement written_;
};

}  // namespace

absl::StatusOr<WrittenAgreement> AgreementFromYaml(ByteSpan yaml, std::string_view item,
                                                   const FileSource& files,
                                                   std::optional<std::string_view> previous) {
  return AgreementWriter(item, files).Write(yaml, previous);
}

}  // namespace pavise::policy
