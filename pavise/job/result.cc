#include "pavise/job/result.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "pavise/agent/run_verifier.h"
#include "pavise/agent/vault_files.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"
#include "pavise/evidence/appraise/composite/composite_evidence.h"
#include "pavise/job/agreement_folder.h"
#include "pavise/job/internal/folder_entries.h"
#include "pavise/kbs/token.h"
#include "pavise/ledger/bundle.h"
#include "pavise/policy/history.h"
#include "pavise/policy/owner_statement.h"
#include "pavise/policy/pinned_files.h"
#include "pavise/policy/stage_evidence.h"
#include "pavise/vault/sealed_asset.h"

#include "absl/strings/str_format.h"

namespace pavise::job {
namespace {

using ledger::EntryKind;

constexpr uint64_t kMaxEnvelopeBytes = uint64_t{6} << 20;  // 4 MiB in base64
constexpr uint64_t kMaxEvidenceBytes = uint64_t{96} << 20;

absl::Status HasExactly(const std::string& folder, const std::map<std::string, bool>& wanted) {
  PAVISE_ASSIGN_OR_RETURN(const auto entries, internal::EntriesOf(folder));
  std::vector<Refusal> findings;
  for (const auto& [name, is_folder] : wanted) {
    const auto found = entries.find(name);
    if (found == entries.end()) {
      findings.push_back({Reason::kFileMissing, StrCat(folder, "/", name),
                          "a result has it, and it is not here", "take the whole folder"});
    } else if (found->second != is_folder) {
      findings.push_back({Reason::kFileTypeRefused, StrCat(folder, "/", name),
                          is_folder ? "is no folder" : "is a folder", ""});
    }
  }
  for (const auto& [name, is_folder] : entries) {
    if (wanted.contains(name)) continue;
    findings.push_back({Reason::kFileUnsigned, StrCat(folder, "/", Printable(name)),
                        "is no part of a result: nothing vouches for it", "remove it"});
  }
  return findings.empty() ? absl::OkStatus() : Refuse(std::move(findings));
}

// One spelling, so that no byte of a result is nobody's.
absl::Status IsSpelled(ByteSpan text, std::string_view spelling, std::string_view item) {
  if (AsText(text) == spelling) return absl::OkStatus();
  return Refuse(Reason::kMalformed, item, "is not spelled as a job writes it",
                "take the file that the job wrote");
}

bool IsStatement(EntryKind kind) {
  return kind == EntryKind::kAgreementProposed || kind == EntryKind::kApproval ||
         kind == EntryKind::kWithdrawal;
}

// One result, between the steps of its verification.
class Verification {
 public:
  Verification(const std::string& folder, const ResultTrust& trust)
      : folder_(folder), trust_(trust) {}

  absl::StatusOr<ResultClaims> Run() {
    PAVISE_RETURN_IF_ERROR(HasExactly(folder_, {{kProvenanceFile, false},
                                                {kEvidenceFile, false},
                                                {kLedgerFile, false},
                                                {kAgreementFolder, true},
                                                {kOutputsFolder, true}}));
    PAVISE_RETURN_IF_ERROR(ReadStatement());
    PAVISE_RETURN_IF_ERROR(ReadLedger());
    PAVISE_RETURN_IF_ERROR(ReplayAgreement());
    PAVISE_RETURN_IF_ERROR(HoldRun());
    PAVISE_RETURN_IF_ERROR(AppraiseEvidence());
    PAVISE_RETURN_IF_ERROR(HoldOutputs());
    return std::move(claims_);
  }

 private:
  std::string Path(std::string_view name) const { return StrCat(folder_, "/", name); }
  const agent::Provenance& run() const { return claims_.run; }
  bool IsOfRun(const ledger::LedgerEntry& entry) const {
    return entry.agreement == trust_.agreement && entry.run.has_value() &&
           ToHex(*entry.run) == run().run;
  }

  absl::Status ReadStatement() {
    const std::string path = Path(kProvenanceFile);
    PAVISE_ASSIGN_OR_RETURN(const Bytes text, internal::ReadEntry(path, kMaxEnvelopeBytes));
    PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope, crypto::ParseEnvelope(text, path));
    PAVISE_RETURN_IF_ERROR(IsSpelled(text, crypto::FormatEnvelope(envelope), path));
    PAVISE_ASSIGN_OR_RETURN(agent::VerifiedProvenance statement,
                            agent::ProvenanceVerifier::Verify(envelope, trust_.broker, path));
    claims_.run = *statement;
    statement_.emplace(std::move(statement));
    if (run().agreement != ToHex(trust_.agreement)) {
      return Refuse(Reason::kBindingMismatch, path,
                    StrCat("is of a run under agreement ", run().agreement, ", not ",
                           ToHex(trust_.agreement)),
                    "look at what you approved: its id is the one to give");
    }
    PAVISE_ASSIGN_OR_RETURN(const kbs::TokenClaims token,
                            kbs::ReadToken(run().token, run().ended, StrCat(path, ": token")));
    claims_.session_key = token.confirmed_key.Fingerprint();
    claims_.broker_key = trust_.broker.Fingerprint();
    return absl::OkStatus();
  }

  absl::Status ReadLedger() {
    const std::string path = Path(kLedgerFile);
    PAVISE_ASSIGN_OR_RETURN(const Bytes text, internal::ReadEntry(path, ledger::kMaxBundleBytes));
    PAVISE_ASSIGN_OR_RETURN(const ledger::LedgerBundle bundle, ledger::ParseBundle(text, path));
    PAVISE_RETURN_IF_ERROR(IsSpelled(text, ledger::FormatBundle(bundle), path));
    PAVISE_ASSIGN_OR_RETURN(ledger::VerifiedBundle verified,
                            ledger::BundleVerifier::Verify(bundle, trust_.log, path));
    ledger_.emplace(std::move(verified));
    const ledger::SignedCheckpoint& checkpoint = (*ledger_)->checkpoint;
    claims_.log = checkpoint.checkpoint().origin;
    claims_.log_key = trust_.log.log.Format();
    claims_.log_size = checkpoint.checkpoint().size;
    for (const ledger::Cosignature& cosignature : checkpoint.cosignatures) {
      claims_.cosigners.push_back(cosignature.key.name());
    }
    for (const ledger::ProvenEntry& proven : (*ledger_)->entries) {
      const ledger::LedgerEntry& entry = proven.entry;
      if (!IsOfRun(entry)) continue;
      if (entry.kind == EntryKind::kRunBegun) {
        begun_ = &proven;
        claims_.machine = entry.machine;
      }
      claims_.entries.push_back(
          {proven.index, std::string(ledger::EntryKindName(entry.kind)), entry.time, entry.asset});
    }
    if (begun_ == nullptr) {
      return Refuse(Reason::kEvidenceMissing, path, StrCat("has no begin of run ", run().run),
                    "ask the broker for all entries of the agreement (pavise ledger fetch)");
    }
    return absl::OkStatus();
  }

  // The owners' statements, at the times that the ledger has, make the version of the run be in
  // force when it began.
  absl::Status ReplayAgreement() {
    PAVISE_ASSIGN_OR_RETURN(AgreementFolder read, AgreementFolder::Read(Path(kAgreementFolder)));
    agreement_.emplace(std::move(read));
    std::map<Digest32, const ledger::ProvenEntry*> logged;
    for (const ledger::ProvenEntry& proven : (*ledger_)->entries) {
      const ledger::LedgerEntry& entry = proven.entry;
      if (entry.agreement != trust_.agreement || !IsStatement(entry.kind)) continue;
      logged.emplace(*entry.statement, &proven);
    }
    std::vector<SignedStep> steps;
    size_t before_run = 0;
    uint64_t last = 0;
    std::set<Digest32> here;
    for (const AgreementFolder::Statement& statement : agreement_->statements()) {
      const std::string item = StrCat(Path(kAgreementFolder), "/", statement.name);
      const auto found = logged.find(statement.digest);
      if (found == logged.end()) {
        return Refuse(Reason::kTransparencyInvalid, item, "is not what the ledger has",
                      "take what the broker took (pavise policy show --output)");
      }
      const ledger::ProvenEntry& proven = *found->second;
      PAVISE_ASSIGN_OR_RETURN(SignedStep step, StepOf(statement, proven, steps.size() + 1, item));
      steps.push_back(std::move(step));
      if (!here.insert(statement.digest).second || (last != 0 && proven.index <= last)) {
        return Refuse(Reason::kTransparencyInvalid, item,
                      "does not stand where the ledger has it: names count statements in order");
      }
      last = proven.index;
      if (proven.index < begun_->index) ++before_run;
    }
    for (const auto& [digest, proven] : logged) {
      if (proven->index > run().ledger_index || here.contains(digest)) continue;
      return Refuse(Reason::kFileMissing, Path(kAgreementFolder),
                    StrCat("lacks the ", ledger::EntryKindName(proven->entry.kind),
                           " of ledger entry ", proven->index),
                    "write the folder anew (pavise policy show --output)");
    }
    for (const auto& [digest, content] : agreement_->attachments()) {
      if (pinned_.contains(digest)) continue;
      return Refuse(
          Reason::kFileUnsigned, StrCat(Path(kAgreementFolder), "/attachments/", ToHex(digest)),
          "is pinned by no version of the agreement: nothing vouches for it", "remove it");
    }
    const auto received = [&](const AgreementFolder::Statement& statement) {
      return logged.at(statement.digest)->entry.time;
    };
    PAVISE_ASSIGN_OR_RETURN(policy::AgreementHistory history,
                            agreement_->Replay(before_run, received));
    (void)history.Settle(begun_->entry.time);
    in_force_ = history.InForce();
    const std::string item = Path(kAgreementFolder);
    if (history.id() != trust_.agreement) {
      return Refuse(Reason::kBindingMismatch, item,
                    StrCat("is of agreement ", history.IdHex(), ", not ", run().agreement));
    }
    if (!in_force_.has_value() || (*in_force_)->payload != run().agreement_payload) {
      return Refuse(Reason::kPolicyDenied, item,
                    StrCat("the owners' statements do not put version ", run().version,
                           " in force before the run began"));
    }
    for (size_t i = 0; i < before_run; ++i) {
      const std::string key = std::move(steps[i].stakeholder);
      // A key that a later version replaced belongs to the name that an earlier one gave it.
      std::string name = (*in_force_)->agreement->StakeholderWithKey(key);
      for (const auto& [number, version] : (*in_force_)->versions) {
        if (name.empty()) name = version->StakeholderWithKey(key);
      }
      steps[i].stakeholder = name.empty() ? key : std::move(name);
      claims_.agreement.push_back(std::move(steps[i]));
    }
    return HoldConsent(before_run, steps, received);
  }

  // What a statement says of itself, which the ledger must say too; its signer's key id stands for
  // the stakeholder.
  absl::StatusOr<SignedStep> StepOf(const AgreementFolder::Statement& statement,
                                    const ledger::ProvenEntry& proven, size_t number,
                                    const std::string& item) {
    PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                            crypto::ParseEnvelope(statement.text, item));
    const ledger::LedgerEntry& entry = proven.entry;
    SignedStep step{.file = statement.name,
                    .kind = std::string(ledger::EntryKindName(entry.kind)),
                    .stakeholder = entry.actor,
                    .version = entry.version,
                    .received = entry.time,
                    .ledger_index = proven.index};
    EntryKind kind = EntryKind::kWithdrawal;
    std::string_view name = "withdrawal";
    Digest32 payload = run().agreement_payload;  // of the text that it is about
    uint64_t version = entry.version;
    if (envelope.payload_type == policy::kAgreementType) {
      kind = EntryKind::kAgreementProposed;
      name = "agreement";
      PAVISE_ASSIGN_OR_RETURN(const policy::Agreement agreement,
                              policy::ParseAgreement(envelope.payload, item));
      PAVISE_ASSIGN_OR_RETURN(payload, crypto::Sha256(envelope.payload));
      version = agreement.version;
      pinned_.merge(policy::PinnedFiles(agreement));
    } else if (envelope.payload_type == policy::kApprovalType) {
      kind = EntryKind::kApproval;
      name = "approval";
      PAVISE_ASSIGN_OR_RETURN(const policy::Approval approval,
                              policy::ParseApproval(envelope.payload, item));
      payload = approval.payload;
      version = approval.version;
      if (approval.vote == policy::Vote::kAbstain) step.kind = "abstention";
      if (approval.vote == policy::Vote::kVeto) step.kind = "veto";
    }
    if (entry.kind != kind || entry.version != version || envelope.signatures.size() != 1 ||
        envelope.signatures[0].key_id != entry.actor) {
      return Refuse(Reason::kTransparencyInvalid, item,
                    StrCat("is another's, or of another kind or version, than ledger entry ",
                           proven.index, " says"));
    }
    if (statement.name != absl::StrFormat("%03d-%s.json", number, name)) {
      return Refuse(Reason::kFileUnsigned, item, "is not named as the number and kind that it is",
                    "write the folder anew (pavise policy show --output)");
    }
    if (version == run().version && payload != run().agreement_payload) {
      step.kind += " of another text";
    }
    return step;
  }

  // Nobody had withdrawn when a key moved to the run, or an output's was deposited.
  absl::Status HoldConsent(
      size_t before_run, const std::vector<SignedStep>& steps,
      const std::function<absl::Time(const AgreementFolder::Statement&)>& received) {
    size_t replayed = before_run;
    for (const ledger::ProvenEntry& proven : (*ledger_)->entries) {
      const ledger::LedgerEntry& entry = proven.entry;
      if (!IsOfRun(entry) ||
          (entry.kind != EntryKind::kRelease && entry.kind != EntryKind::kOutputDeposited)) {
        continue;
      }
      const auto before = static_cast<size_t>(
          std::count_if(steps.begin(), steps.end(),
                        [&](const SignedStep& step) { return step.ledger_index < proven.index; }));
      if (before <= replayed) continue;
      replayed = before;
      PAVISE_ASSIGN_OR_RETURN(policy::AgreementHistory history,
                              agreement_->Replay(before, received));
      (void)history.Settle(entry.time);
      const std::optional<policy::AgreementInForce> then = history.InForce();
      const policy::Agreement& text = *(*then)->agreement;
      const auto stage = text.stages.find(run().stage);
      if (stage == text.stages.end()) {
        return Refuse(Reason::kRevoked, StrCat("ledger entry ", proven.index),
                      StrCat("version ", text.version, " was in force, which has no such stage"));
      }
      for (const std::string& asset : text.AssetsOf(stage->second)) {
        if (!(*then)->withdrawn.contains(asset)) continue;
        return Refuse(Reason::kRevoked, StrCat("ledger entry ", proven.index),
                      StrCat("was made after ", text.assets.at(asset).owner,
                             " withdrew its consent to the use of ", asset));
      }
    }
    return absl::OkStatus();
  }

  absl::Status HoldRun() {
    for (const AgreementFolder::Statement& statement : agreement_->statements()) {
      PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                              crypto::ParseEnvelope(statement.text, statement.name));
      PAVISE_ASSIGN_OR_RETURN(const Digest32 payload, crypto::Sha256(envelope.payload));
      if (payload != run().agreement_payload) continue;
      return agent::RunVerifier::Verify(*statement_, statement.text, *ledger_,
                                        Path(kProvenanceFile))
          .status();
    }
    return Refuse(Reason::kFileMissing, Path(kAgreementFolder),
                  StrCat("lacks version ", run().version, " of the agreement"));
  }

  absl::Status AppraiseEvidence() {
    const std::string path = Path(kEvidenceFile);
    PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, internal::ReadEntry(path, kMaxEvidenceBytes));
    PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, crypto::Sha256(bytes));
    if (digest != run().evidence) {
      return Refuse(Reason::kContentMismatch, path,
                    StrCat("has the digest ", ToHex(digest), "; the run was begun on ",
                           ToHex(run().evidence)));
    }
    PAVISE_ASSIGN_OR_RETURN(const evidence::CompositeEvidence evidence,
                            evidence::FromCbor(bytes, path));
    const std::optional<policy::Mode> mode = policy::ModeNamed(run().mode);
    if (!mode.has_value()) return Refuse(Reason::kMalformed, path, "is of no mode");
    PAVISE_ASSIGN_OR_RETURN(
        const policy::StageEvidence rules,
        policy::StageEvidence::Prepare(*in_force_, run().stage, *mode, *agreement_));
    // The challenge was the broker's: that it was fresh is what its ledger entry says.
    const policy::StageAppraisal appraisal =
        rules.Appraise(evidence, evidence.nonce, begun_->entry.time);
    if (appraisal->session_key_id != claims_.session_key) {
      return Refuse(Reason::kBindingMismatch, path,
                    "is of another session than the one whose key signed the statement");
    }
    claims_.network = (*in_force_)->agreement->stages.at(run().stage).network;
    policy::RunCounters counters;
    for (const ledger::ProvenEntry& proven : (*ledger_)->entries) {
      const ledger::LedgerEntry& entry = proven.entry;
      if (entry.agreement == trust_.agreement && entry.kind == EntryKind::kRunBegun &&
          proven.index < begun_->index) {
        ++counters.of_stages[entry.stage];
      }
    }
    counters.runs_begun = counters.of_stages[run().stage];
    claims_.decision = policy::DecideRun(*in_force_, appraisal, counters, begun_->entry.time);
    return claims_.decision.Verdict();
  }

  absl::Status HoldOutputs() {
    std::map<std::string, bool> wanted;
    for (const auto& [name, output] : run().outputs) wanted[StrCat(name, kSealedSuffix)] = false;
    PAVISE_RETURN_IF_ERROR(HasExactly(Path(kOutputsFolder), wanted));
    for (const auto& [name, output] : run().outputs) {
      const std::string path = StrCat(Path(kOutputsFolder), "/", name, kSealedSuffix);
      // First, since it knows the file's length: of another one nothing is read.
      PAVISE_ASSIGN_OR_RETURN(const vault::SealedAsset sealed, vault::SealedAsset::Open(path));
      if (sealed.asset_id() != ToHex(output.sealed)) {
        return Refuse(Reason::kContentMismatch, path, "is another sealed asset than was deposited");
      }
      PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, agent::DigestOfFile(path));
      if (digest != output.file_sha256) {
        return Refuse(Reason::kContentMismatch, path,
                      StrCat("has the digest ", ToHex(digest), "; the run's output has ",
                             ToHex(output.file_sha256)),
                      "take the file that the run wrote");
      }
    }
    return absl::OkStatus();
  }

  const std::string& folder_;
  const ResultTrust& trust_;
  std::optional<agent::VerifiedProvenance> statement_;
  std::optional<ledger::VerifiedBundle> ledger_;
  std::optional<AgreementFolder> agreement_;
  std::optional<policy::AgreementInForce> in_force_;
  std::set<Digest32> pinned_;  // by any of the statements
  const ledger::ProvenEntry* begun_ = nullptr;
  ResultClaims claims_;
};

}  // namespace

absl::StatusOr<VerifiedResult> ResultVerifier::Verify(const std::string& folder,
                                                      const ResultTrust& trust) {
  PAVISE_ASSIGN_OR_RETURN(ResultClaims claims, Verification(folder, trust).Run());
  return VerifiedResult(std::move(claims));
}

}  // namespace pavise::job
