#include "pavise/policy/testing/test_agreement.h"

#include <algorithm>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"
#include "pavise/evidence/appraise/testing/test_composite.h"
#include "pavise/evidence/appraise/testing/test_tpm.h"
#include "pavise/evidence/appraise/tpm/pcr_json.h"
#include "pavise/evidence/appraise/tpm/tpm_structures.h"

namespace pavise::policy::testing {
namespace {

constexpr evidence::PcrBank kSha256 = evidence::PcrBank::kSha256;

Bytes ToBytes(std::string_view text) {
  const ByteSpan bytes = AsBytes(text);
  return {bytes.begin(), bytes.end()};
}

crypto::PrivateKey& KeyNamed(const std::string& name) {
  static auto& keys = *new std::map<std::string, crypto::PrivateKey>();
  const auto found = keys.find(name);
  if (found != keys.end()) return found->second;
  return keys.emplace(name, crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value())
      .first->second;
}

}  // namespace

crypto::PrivateKey& SigningKey(const std::string& name) { return KeyNamed(name + " signing"); }
crypto::PrivateKey& EncryptionKey(const std::string& name) {
  return KeyNamed(name + " encryption");
}
Stakeholder StakeholderOf(const std::string& name) {
  return {SigningKey(name).public_key(), EncryptionKey(name).public_key()};
}

void TestFiles::Add(const std::string& name, std::string_view content) {
  by_name_[name] = ToBytes(content);
  by_digest_[policy::testing::DigestOf(content)] = ToBytes(content);
}

absl::StatusOr<Bytes> TestFiles::Read(const std::string& name, uint64_t max_bytes) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return Refuse(Reason::kFileUnreadable, name, "is not there");
  if (found->second.size() > max_bytes) return Refuse(Reason::kLimitExceeded, name, "is too large");
  return found->second;
}

absl::StatusOr<std::vector<std::string>> TestFiles::List(const std::string& folder) const {
  std::vector<std::string> names;
  for (const auto& [name, content] : by_name_) {
    if (name.starts_with(folder + "/")) names.push_back(name.substr(folder.size() + 1));
  }
  return names;
}

absl::StatusOr<Bytes> TestFiles::Read(const Digest32& digest) const {
  const auto found = by_digest_.find(digest);
  if (found == by_digest_.end()) return Refuse(Reason::kFileMissing, ToHex(digest), "is missing");
  return found->second;
}

Digest32 TestFiles::DigestOf(const std::string& name) const {
  return policy::testing::DigestOf(AsText(by_name_.at(name)));
}

struct TestMachine::State {
  evidence::testing::TestTpm tpm;
  evidence::PcrValues pcrs;
};

TestMachine::TestMachine(std::string_view booted) : state_(std::make_unique<State>()) {
  Boot(booted);
}

void TestMachine::Boot(std::string_view booted) {
  state_->pcrs = evidence::PcrValues();
  for (const uint32_t index : {4u, 7u}) {
    const Digest32 value = policy::testing::DigestOf(StrCat(booted, index));
    if (!state_->pcrs.Set(kSha256, index, Bytes(value.begin(), value.end())).ok()) abort();
  }
}
TestMachine::~TestMachine() = default;

EvidenceRules TestMachine::Rules(TestFiles& files, const std::string& name) const {
  evidence::ReferenceValues references;
  evidence::AddRegisters(state_->pcrs, kSha256, {4, 7}, "image", references);
  files.Add(name + "-reference.json", evidence::FormatReferenceValues(references));
  const std::string key =
      ToHex(evidence::ParseTpm2bPublic(state_->tpm.AkPublic(), "AK").value().name);
  const Json policy = {{"pavise_appraisal_policy", 1},
                       {"required", {"tpm"}},
                       {"reference_values", {name + "-reference.json"}},
                       {"tpm",
                        {{"attestation_keys", {key}},
                         {"registers", {{"sha256", {4, 7}}}},
                         {"event_log", false},
                         {"ima", false},
                         {"host_protections", false}}}};
  files.Add(name + ".json", policy.dump());
  return {.policy = files.DigestOf(name + ".json"),
          .files = {{name + "-reference.json", files.DigestOf(name + "-reference.json")}},
          .anchors = {}};
}

evidence::CompositeEvidence TestMachine::Evidence(const Digest32& nonce) const {
  return Evidence(nonce, evidence::testing::SessionKey().public_key());
}

evidence::CompositeEvidence TestMachine::Evidence(const Digest32& nonce,
                                                  const crypto::PublicKey& session_key) const {
  evidence::CompositeEvidence composite;
  composite.nonce = nonce;
  composite.session_key = session_key.der();
  const Digest32 bound =
      evidence::BindingValue(evidence::PartKind::kTpm, nonce, composite.session_key, {}).value();
  const evidence::QuoteEvidence quote = state_->tpm.Quote(bound, state_->pcrs);
  composite.parts.push_back({"tpm-2.0",
                             {{"attestation_key", quote.ak_public},
                              {"quote", quote.quote},
                              {"signature", quote.signature},
                              {"pcr_values", ToBytes(evidence::FormatPcrValues(state_->pcrs))}}});
  return composite;
}

Agreement ThreeOwners(const EvidenceRules& rules) {
  Agreement agreement;
  agreement.name = "three owners";
  for (const char* name : {"vendor", "clinic-a", "clinic-b"}) {
    agreement.stakeholders.emplace(name, StakeholderOf(name));
    agreement.changes.of.insert(name);
  }
  agreement.changes.approvals = 2;
  const auto add = [&](const char* name, AssetKind kind, const char* owner) {
    agreement.assets[name] = {.kind = kind,
                              .owner = owner,
                              .statement = DigestOf(StrCat("statement of ", name)),
                              .sealed = DigestOf(StrCat("sealed ", name))};
  };
  add("trainer", AssetKind::kCode, "vendor");
  add("base", AssetKind::kModel, "vendor");
  add("scans-a", AssetKind::kData, "clinic-a");
  add("scans-b", AssetKind::kData, "clinic-b");
  Stage train;
  train.purpose = "lung nodule model";
  train.modes[Mode::kMeasured] = rules;
  train.code = "trainer";
  train.command = {"/code/train", "--epochs", "*"};
  train.inputs = {"base", "scans-a", "scans-b"};
  train.outputs["tuned"] = {.recipients = {"vendor"}, .approvals = {}};
  train.limits = {.not_after = kTestTime + absl::Hours(24 * 30), .runs = 2, .epochs = 10};
  train.reattest = absl::Minutes(5);
  Stage audit = train;
  audit.purpose = "audit of the scans";
  audit.inputs = {"scans-a"};
  audit.outputs = {{"report", {.recipients = {"clinic-a"}, .approvals = {}}}};
  agreement.stages = {{"train", train}, {"audit", audit}};
  return agreement;
}

Agreement NextOf(const std::string& payload) {
  Agreement next = ParseAgreement(AsBytes(payload), "agreement").value();
  ++next.version;
  next.previous = DigestOf(payload);
  return next;
}

std::string Payload(const Agreement& agreement) { return FormatAgreement(agreement).value(); }
Digest32 DigestOf(std::string_view payload) { return crypto::Sha256(AsBytes(payload)).value(); }

Bytes Signed(std::string_view type, const std::string& payload, const std::string& name) {
  return ToBytes(crypto::FormatEnvelope(
      crypto::SignEnvelope(type, AsBytes(payload), SigningKey(name)).value()));
}

Bytes Proposed(const Agreement& agreement, const std::string& name) {
  return Signed(kAgreementType, Payload(agreement), name);
}

Bytes Voted(const AgreementHistory& history, const Agreement& agreement, const std::string& name,
            absl::Time at, Vote vote) {
  const Approval approval = {.agreement = history.id(),
                             .version = agreement.version,
                             .payload = DigestOf(Payload(agreement)),
                             .vote = vote,
                             .time = at};
  return Signed(kApprovalType, Format(approval).value(), name);
}

Bytes Withdrawn(const AgreementHistory& history, const std::set<std::string>& assets,
                const std::string& name, absl::Time at) {
  const Withdrawal withdrawal = {
      .agreement = history.id(), .assets = assets, .explanation = "", .time = at};
  return Signed(kWithdrawalType, Format(withdrawal).value(), name);
}

Bytes Deposited(const AgreementHistory& history, const std::string& asset, const std::string& name,
                std::string_view broker_key_id) {
  const Deposit deposit = {.agreement = history.id(),
                           .asset = asset,
                           .sealed = DigestOf(StrCat("sealed ", asset)),
                           .broker = std::string(broker_key_id),
                           .encrypted_key = "{}",
                           .time = kTestTime};
  return Signed(kDepositType, Format(deposit).value(), name);
}

AgreementHistory InForceHistory(const Agreement& agreement) {
  AgreementHistory history =
      AgreementHistory::Begin(Proposed(agreement, agreement.stakeholders.begin()->first), kTestTime)
          .value();
  std::set<std::string> owners;
  for (const auto& [name, asset] : agreement.assets) owners.insert(asset.owner);
  for (const std::string& owner : owners) {
    if (!history.Append(Voted(history, agreement, owner, kTestTime), kTestTime).ok()) abort();
  }
  return history;
}

}  // namespace pavise::policy::testing
