#ifndef PAVISE_POLICY_AGREEMENT_H_
#define PAVISE_POLICY_AGREEMENT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/keys.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// What several owners agree on: whose assets may meet, for what purpose, on which machines, and who
// gets what comes out. docs/formats/agreement.md has the format member by member. Values; parsing
// says nothing about who approved (history.h does). Names are labels within one agreement: 1 to 64
// of a-z 0-9 . _ -, beginning with a letter or digit.
namespace pavise::policy {

inline constexpr uint64_t kMaxAgreementBytes = uint64_t{1} << 20;

struct Stakeholder {
  crypto::PublicKey signing_key;     // Ed25519, P-256 or P-384
  crypto::PublicKey encryption_key;  // P-256 or P-384
};

enum class AssetKind { kCode, kModel, kData };
std::string_view AssetKindName(AssetKind kind);  // "code", "model", "data"

struct Asset {
  AssetKind kind = AssetKind::kData;
  std::string owner;     // a stakeholder
  Digest32 statement{};  // SHA-256 of the payload of its OMS signature
  Digest32 sealed{};     // the sealed asset's id
  friend bool operator==(const Asset&, const Asset&) = default;
};

// What a machine's evidence is held against, pinned by SHA-256; the files travel beside the
// agreement as attachments.
struct EvidenceRules {
  Digest32 policy{};                        // an appraisal policy
  std::map<std::string, Digest32> files;    // the names in that policy -> reference values, RIMs
  std::map<std::string, Digest32> anchors;  // names as in a trust folder -> files
  friend auto operator<=>(const EvidenceRules&, const EvidenceRules&) = default;
};

enum class Mode {
  kMeasured,         // a measured host with a TPM: the operator's root is kept out by measurement
  kTee,              // a confidential VM (SEV-SNP, TDX)
  kConfidentialGpu,  // a confidential VM with a GPU in confidential mode
};
std::string_view ModeName(Mode mode);  // "measured", "tee", "confidential-gpu"
std::optional<Mode> ModeNamed(std::string_view name);

struct Output {
  std::set<std::string> recipients;  // stakeholders; not empty
  // Who must approve the release beside the owners of the stage's data, who always must.
  std::set<std::string> approvals;
  friend bool operator==(const Output&, const Output&) = default;
};

struct StageLimits {
  absl::Time not_after;            // no key after this
  uint64_t runs = 0;               // at least 1
  std::optional<uint64_t> epochs;  // of one run
  friend bool operator==(const StageLimits&, const StageLimits&) = default;
};

struct Stage {
  std::string purpose;
  std::map<Mode, EvidenceRules> modes;  // not empty
  std::string code;                     // an asset of kind code
  // One pattern (base/glob.h) an argument, the program first.
  std::vector<std::string> command;
  std::set<std::string> inputs;  // assets of kind model or data
  std::map<std::string, Output> outputs;
  StageLimits limits;
  std::set<std::string> network;  // "host:port" that the command may reach; empty: none
  absl::Duration reattest;        // how old an appraisal may be, 10 s to 1 day
  // How much longer a run may go on while the broker cannot be reached.
  absl::Duration broker_grace;
  // Whether the attesting machine is told every finding, or its typed reason only.
  bool findings_to_host = false;
  friend bool operator==(const Stage&, const Stage&) = default;
};

// What one owner asks in addition. A rule only narrows; an absent member narrows nothing.
struct OwnerRule {
  std::string owner;
  std::set<std::string> assets;  // of this owner's; empty: all of them
  std::optional<std::set<std::string>> stages;
  std::optional<std::set<Mode>> modes;
  std::optional<std::set<std::string>> purposes;
  std::optional<std::set<Digest32>> code;  // statements of code
  std::optional<std::set<std::string>> recipients;
  std::optional<EvidenceRules> evidence;  // appraised beside the stage's own
  std::optional<absl::Time> not_after;
  std::optional<uint64_t> runs;  // of all stages that use these assets, together
  bool forbid_network = false;
  friend bool operator==(const OwnerRule&, const OwnerRule&) = default;
};

// Who can put the next version in force (history.h has the whole rule).
struct ChangeRule {
  uint64_t approvals = 0;  // at least 1, at most of.size()
  std::set<std::string> of;
  std::set<std::string> vetoes;
  // How long those with a veto have time to answer; 1 hour to 90 days where there are any.
  absl::Duration veto_period;
};

struct Agreement {
  std::string name;
  uint64_t version = 1;
  // SHA-256 of the previous version's payload; of none for version 1.
  std::optional<Digest32> previous;
  std::map<std::string, Stakeholder> stakeholders;
  ChangeRule changes;
  std::map<std::string, Asset> assets;
  std::map<std::string, Stage> stages;
  std::map<std::string, OwnerRule> rules;

  // The stage's code and inputs.
  std::set<std::string> AssetsOf(const Stage& stage) const;
  // Owners of those; of those of one kind.
  std::set<std::string> OwnersOf(const Stage& stage) const;
  std::set<std::string> OwnersOf(const Stage& stage, AssetKind kind) const;
  // Those that apply where these assets are used: "rule name" -> rule.
  std::map<std::string, const OwnerRule*> RulesOn(const std::set<std::string>& assets) const;
  // The stakeholder's name with that signing key (crypto::PublicKey::Fingerprint()); "" for none.
  std::string StakeholderWithKey(std::string_view key_id) const;
};

// The payload that is signed: RFC 8785 JSON, and no other spelling of it. Unknown members, names
// that refer to nothing, two stakeholders with one signing key, empty lists that would read as
// "nobody" are kMalformed; keys of other types kKeyUnsupported; another format version
// kUnsupported; kLimitExceeded: above kMaxAgreementBytes, 64 stakeholders or stages, 256 assets or
// rules, 64 entries of a list, 1,024 files.
absl::StatusOr<Agreement> ParseAgreement(ByteSpan payload, std::string_view item);
// ParseAgreement gives the same agreement back.
absl::StatusOr<std::string> FormatAgreement(const Agreement& agreement);

// Where files named in an agreement's YAML come from.
class FileSource {
 public:
  virtual ~FileSource() = default;
  // At most `max_bytes`; kFileUnreadable, kLimitExceeded.
  virtual absl::StatusOr<Bytes> Read(const std::string& name, uint64_t max_bytes) const = 0;
  // Regular files below a folder, as paths from it, sorted.
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& folder) const = 0;
};

struct WrittenAgreement {
  Agreement agreement;
  std::string payload;
  std::map<Digest32, Bytes> attachments;  // every file that the agreement pins
};

// From what a person writes: the strict subset of YAML (base/yaml.h), with files by name in place
// of keys and digests. Reads and pins them; an appraisal policy, reference values or trust folder
// that does not parse is refused here, not by a broker. Refusals name the line. `previous`: the
// payload of the version that this one follows; then `version` may be left out.
absl::StatusOr<WrittenAgreement> AgreementFromYaml(ByteSpan yaml, std::string_view item,
                                                   const FileSource& files,
                                                   std::optional<std::string_view> previous);

// Whether the stage's command pattern covers these arguments. kPolicyDenied names the argument.
absl::Status CheckCommand(const Stage& stage, const std::vector<std::string>& arguments);

}  // namespace pavise::policy

#endif  // PAVISE_POLICY_AGREEMENT_H_
