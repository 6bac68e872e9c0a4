#include "pavise/agent/run_verifier.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"
#include "pavise/kbs/token.h"
#include "pavise/policy/agreement.h"
#include "pavise/policy/owner_statement.h"

namespace pavise::agent {
namespace {

using ledger::EntryKind;
using ledger::LedgerEntry;

// What one verification finds.
class Findings {
 public:
  explicit Findings(std::string_view item) : item_(item) {}

  void Add(Reason reason, std::string_view of, std::string_view detail,
           std::string_view remedy = "") {
    found_.push_back(
        {reason, StrCat(item_, ": ", Printable(of)), std::string(detail), std::string(remedy)});
  }
  void Expect(bool holds, Reason reason, std::string_view of, std::string_view detail) {
    if (!holds) Add(reason, of, detail);
  }
  absl::Status Verdict() { return found_.empty() ? absl::OkStatus() : Refuse(std::move(found_)); }

 private:
  const std::string item_;
  std::vector<Refusal> found_;
};

void HoldAgainstAgreement(const Provenance& run, const policy::Agreement& agreement,
                          Findings& findings) {
  constexpr Reason kReason = Reason::kBindingMismatch;
  const auto found = agreement.stages.find(run.stage);
  if (found == agreement.stages.end()) {
    findings.Add(kReason, run.stage, "is no stage of the agreement");
    return;
  }
  const policy::Stage& stage = found->second;
  const auto mode = policy::ModeNamed(run.mode);
  findings.Expect(mode.has_value() && stage.modes.contains(*mode), kReason, run.mode,
                  "is no mode that the agreement allows for the stage");
  findings.Expect(run.purpose == stage.purpose, kReason, "purpose", "is not the agreement's");
  findings.Expect(policy::CheckCommand(stage, run.command).ok(), kReason, "command",
                  "is not one that the agreement allows");
  std::set<std::string> inputs = agreement.AssetsOf(stage);
  for (const ProvenanceMaterial& material : run.materials) {
    const auto asset = agreement.assets.find(material.name);
    findings.Expect(inputs.erase(material.name) == 1 &&
                        material.kind == policy::AssetKindName(asset->second.kind) &&
                        material.sealed == asset->second.sealed &&
                        material.statement == asset->second.statement,
                    kReason, material.name, "is not the input that the agreement names");
  }
  for (const std::string& name : inputs) {
    findings.Add(kReason, name, "is an input of the stage that the statement lacks");
  }
  for (const auto& [name, output] : run.outputs) {
    findings.Expect(stage.outputs.contains(name), kReason, name, "is no output of the stage");
  }
  for (const auto& [name, output] : stage.outputs) {
    findings.Expect(run.outputs.contains(name), kReason, name,
                    "is an output of the stage that the statement lacks");
  }
}

void HoldAgainstLedger(const Provenance& run, const Digest32& agreement_id,
                       const std::string& session, const Digest32& envelope,
                       const ledger::LedgerExtract& extract, Findings& findings) {
  constexpr Reason kReason = Reason::kTransparencyInvalid;
  const auto missing = extract.missing.find(agreement_id);
  if (missing == extract.missing.end() || missing->second != 0) {
    findings.Add(Reason::kEvidenceMissing, "ledger", "entries of the agreement are not here",
                 "ask the broker for all of them (pavise ledger fetch)");
  }
  const auto is_of_run = [&](const LedgerEntry& entry) {
    return entry.agreement == agreement_id && entry.run.has_value() && ToHex(*entry.run) == run.run;
  };
  // Where the run begins and ends, as far as that is here.
  uint64_t begin = 0;
  uint64_t end = std::numeric_limits<uint64_t>::max();
  for (const ledger::ProvenEntry& proven : extract.entries) {
    if (!is_of_run(proven.entry)) continue;
    if (proven.entry.kind == EntryKind::kRunBegun) begin = proven.index;
    if (proven.entry.kind == EntryKind::kRunEnded) end = std::min(end, proven.index);
  }
  std::set<std::string> inputs;
  std::set<std::string> outputs;
  bool proposed = run.version == 1;  // whose text the agreement's id is the digest of
  bool in_force = false;
  bool begun = false;
  bool ended = false;
  for (const ledger::ProvenEntry& proven : extract.entries) {
    const LedgerEntry& entry = proven.entry;
    if (entry.agreement != agreement_id) continue;
    const std::string of = StrCat("ledger entry ", proven.index);
    if (entry.version == run.version) {
      proposed |= entry.kind == EntryKind::kAgreementProposed && entry.statement == envelope;
      in_force |= entry.kind == EntryKind::kAgreementInForce;
    }
    if (!is_of_run(entry)) continue;
    const bool is_open = proven.index >= begin && proven.index < end;
    switch (entry.kind) {
      case EntryKind::kRunBegun:
        begun = true;
        findings.Expect(entry.session == session, kReason, of, "begins it for another session");
        findings.Expect(entry.evidence == run.evidence, kReason, of, "is on other evidence");
        findings.Expect(
            entry.version == run.version && entry.stage == run.stage && entry.mode == run.mode,
            kReason, of, "begins it for another version, stage or mode");
        break;
      case EntryKind::kRelease: {
        inputs.insert(entry.asset);
        const auto material =
            std::find_if(run.materials.begin(), run.materials.end(),
                         [&](const ProvenanceMaterial& each) { return each.name == entry.asset; });
        findings.Expect(material != run.materials.end() && entry.sealed == material->sealed,
                        kReason, of, "releases an asset that the statement does not name so");
        findings.Expect(entry.session == session, kReason, of, "releases to another session");
        findings.Expect(entry.stage == run.stage && entry.mode == run.mode, kReason, of,
                        "releases for another stage or mode");
        findings.Expect(is_open, kReason, of, "releases before the run's begin or after its end");
        break;
      }
      case EntryKind::kReattested:
        findings.Expect(entry.session == session, kReason, of, "appraises another session");
        break;
      case EntryKind::kOutputDeposited: {
        outputs.insert(entry.asset);
        findings.Expect(entry.session == session, kReason, of, "is of another session");
        findings.Expect(is_open, kReason, of, "stands before the run's begin or after its end");
        const auto output = run.outputs.find(entry.asset);
        findings.Expect(output != run.outputs.end() && entry.sealed == output->second.sealed,
                        kReason, of, "is of an output that the statement does not name so");
        break;
      }
      case EntryKind::kRunEnded:
        ended = proven.index == run.ledger_index;
        findings.Expect(entry.session == session, kReason, of, "ends it for another session");
        findings.Expect(entry.reasons.empty(), kReason, of, "says that the command failed");
        break;
      case EntryKind::kRevocation:
        findings.Add(Reason::kRevoked, of, "stopped the run");
        break;
      default:  // what becomes of outputs
        break;
    }
  }
  const auto need = [&](bool there, std::string_view what) {
    if (there) return;
    findings.Add(Reason::kEvidenceMissing, what, "is not in the ledger, as far as it is here",
                 "ask the broker for all entries of the agreement, up to the run's end");
  };
  need(proposed, StrCat("proposal of version ", run.version, " in these words"));
  need(in_force, StrCat("version ", run.version, " in force"));
  need(begun, StrCat("begin of run ", run.run));
  need(ended, StrCat("end of run ", run.run, " at ", run.ledger_index));
  for (const ProvenanceMaterial& material : run.materials) {
    need(inputs.contains(material.name), StrCat("release of ", material.name));
  }
  for (const auto& [name, output] : run.outputs) {
    need(outputs.contains(name), StrCat("deposit of ", name));
  }
}

}  // namespace

absl::StatusOr<VerifiedRun> RunVerifier::Verify(const VerifiedProvenance& statement,
                                                ByteSpan agreement_text,
                                                const ledger::VerifiedBundle& ledger,
                                                std::string_view item) {
  const Provenance& run = *statement;
  PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                          crypto::ParseEnvelope(agreement_text, "agreement"));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 payload, crypto::Sha256(envelope.payload));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 id, Digest32FromHex(run.agreement, item));
  if (envelope.payload_type != policy::kAgreementType || payload != run.agreement_payload ||
      (run.version == 1 && payload != id)) {
    return Refuse(Reason::kBindingMismatch, StrCat(item, ": agreement"),
                  StrCat("the statement is for version ", run.version, " of ", run.agreement,
                         ", and this is another text"),
                  "take the envelope of that version (pavise policy show --output)");
  }
  PAVISE_ASSIGN_OR_RETURN(const policy::Agreement agreement,
                          policy::ParseAgreement(envelope.payload, "agreement"));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 envelope_digest, crypto::Sha256(agreement_text));
  // Its signature is among what `statement` verified.
  PAVISE_ASSIGN_OR_RETURN(const kbs::TokenClaims token,
                          kbs::ReadToken(run.token, run.ended, StrCat(item, ": token")));
  Findings findings(item);
  findings.Expect(agreement.version == run.version, Reason::kBindingMismatch, "version",
                  "is not the one of the agreement that it names");
  HoldAgainstAgreement(run, agreement, findings);
  HoldAgainstLedger(run, id, token.confirmed_key.Fingerprint(), envelope_digest, *ledger, findings);
  PAVISE_RETURN_IF_ERROR(findings.Verdict());
  return VerifiedRun(run);
}

}  // namespace pavise::agent
