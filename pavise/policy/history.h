#ifndef PAVISE_POLICY_HISTORY_H_
#define PAVISE_POLICY_HISTORY_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/crypto/keys.h"
#include "pavise/policy/agreement.h"
#include "pavise/policy/owner_statement.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::policy {

// An agreement as it stands: the version in force, and what has been withdrawn.
struct AgreementInForceClaims {
  Digest32 id{};  // SHA-256 of version 1's payload
  Digest32 payload{};
  std::shared_ptr<const Agreement> agreement;
  absl::Time since;
  // This and the earlier versions that were in force, by number: outputs of their runs.
  std::map<uint64_t, std::shared_ptr<const Agreement>> versions;
  // Assets whose owner's consent is withdrawn, and when.
  std::map<std::string, absl::Time> withdrawn;
  // Key ids whose deposits of the asset count: its owner's, also those replaced by the change rule
  // while the asset stayed the same.
  std::map<std::string, std::set<std::string>> depositors;
};

class AgreementHistory;
// Approved by everybody who had to: comes from AgreementHistory only.
using AgreementInForce = Verified<AgreementInForceClaims, AgreementHistory>;

enum class HistoryEventKind { kProposed, kVote, kInForce, kWithdrawn, kDiscarded };
std::string_view HistoryEventKindName(HistoryEventKind kind);  // "proposed", "vote", "in-force", ..

// What an envelope, or the passing of time, has changed.
struct HistoryEvent {
  HistoryEventKind kind = HistoryEventKind::kProposed;
  uint64_t version = 0;
  Digest32 payload{};               // of the version concerned
  std::string stakeholder;          // who signed; empty for kInForce and kDiscarded
  std::string key_id;               // of the signer
  std::optional<Vote> vote;         // of kVote
  std::set<std::string> withdrawn;  // assets, of kWithdrawn
};

// A version that waits.
struct OpenProposal {
  uint64_t version = 0;
  Digest32 payload{};
  std::shared_ptr<const Agreement> agreement;
  std::string proposer;
  absl::Time received;
  std::map<std::string, Vote> votes;  // by key id
  std::vector<std::string> missing;   // what must still happen, in words
};

// One agreement's versions, votes and withdrawals: a pure function of the envelopes and the times
// at which they were received, so that replaying a store gives the same state. Nothing is ever
// removed. Not thread-safe; AgreementInForce is.
//
// Version 1 is in force when every owner of an asset has approved it. Version n + 1 names version
// n, the one in force, as its predecessor and is in force when
// - as many approve as version n's `changes` asks for, of those it names, with their keys of n;
// - nobody whom it gives a veto has used it, and each has answered or the veto period is over;
// - owners of new or altered assets approve; of an asset that stays under another description, its
//   owner in n with the key of n, too;
// - whoever owns a rule that is altered or gone approves with the key of n, unless nothing of
// theirs
//   is left, and of a new rule with the key of n + 1. A rule is altered also where a stage that it
//   names, or an asset of that stage, is another, or where a recipient that it names (other than
//   its owner) gets another key: who names them ties consent to them;
// - stakeholders that had other keys in n approve with the new signing key: whoever lost a key gets
//   a new one by the change rule and by nothing else.
// Other proposals for the same number are then discarded.
//
// An owner's withdrawal holds until the owner approves a later version with a later time, received
// after the withdrawal, and that version is in force.
class AgreementHistory {
 public:
  ~AgreementHistory();
  AgreementHistory(AgreementHistory&&) noexcept;
  AgreementHistory& operator=(AgreementHistory&&) noexcept;

  // From the envelope that proposes version 1, signed by one of its stakeholders.
  static absl::StatusOr<AgreementHistory> Begin(ByteSpan envelope, absl::Time received);

  // An envelope of an agreement (a proposal), an approval or a withdrawal, with one signature; as
  // Settle(received) before it. Refused without effect: kSignatureInvalid; kSignerUntrusted: by
  // nobody who has a say in it; kBindingMismatch: of another agreement or another text of that
  // version; kVersionTooOld: of a version that a later one has replaced; kPolicyDenied: vetoed, in
  // force already, not later than what the same key said before, dated more than 10 minutes after
  // `received`, a veto without the right to it (those whom `changes` gives one, and the proposer);
  // kLimitExceeded: more than 4 open proposals of one stakeholder; kMalformed, kUnsupported. Votes
  // may be changed by later ones until the version is in force. A `received` that goes back counts
  // as the last one.
  absl::StatusOr<std::vector<HistoryEvent>> Append(ByteSpan envelope, absl::Time received);

  // Lets veto periods end: what comes in force by `now` with nobody signing anything.
  std::vector<HistoryEvent> Settle(absl::Time now);

  const Digest32& id() const;
  std::string IdHex() const;
  // nullopt: version 1 waits for approvals. As of the last Append or Settle.
  std::optional<AgreementInForce> InForce() const;
  std::vector<OpenProposal> Open() const;
  // By key id, everybody who was ever a stakeholder of any version in force or open: who may read.
  std::map<std::string, crypto::PublicKey> Readers() const;

 private:
  struct State;
  explicit AgreementHistory(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// The owner's deposit of an asset's key, checked against the agreement: signed by the asset's
// owner, for this agreement, asset and sealed file, and encrypted to the broker `broker_key_id`.
// kSignatureInvalid, kSignerUntrusted, kBindingMismatch, kPolicyDenied (no such asset).
class DepositVerifier;
struct DepositClaims {
  Deposit deposit;
  std::string key_id;  // who signed
};
using VerifiedDeposit = Verified<DepositClaims, DepositVerifier>;
class DepositVerifier {
 public:
  static absl::StatusOr<VerifiedDeposit> Verify(ByteSpan envelope,
                                                const AgreementInForce& agreement,
                                                std::string_view broker_key_id);
};

// A data owner's word on one output of one run. kSignerUntrusted: by no stakeholder of the version
// in force.
class OutputApprovalVerifier;
struct OutputApprovalClaims {
  OutputApproval approval;
  std::string stakeholder;
  std::string key_id;
};
using VerifiedOutputApproval = Verified<OutputApprovalClaims, OutputApprovalVerifier>;
class OutputApprovalVerifier {
 public:
  static absl::StatusOr<VerifiedOutputApproval> Verify(ByteSpan envelope,
                                                       const AgreementInForce& agreement);
};

}  // namespace pavise::policy

#endif  // PAVISE_POLICY_HISTORY_H_
