#ifndef PAVISE_POLICY_OWNER_STATEMENT_H_
#define PAVISE_POLICY_OWNER_STATEMENT_H_

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// What owners sign beside agreements: payloads of DSSE envelopes (crypto/dsse.h), canonical JSON
// with a "format" member (docs/formats/agreement.md). Parsing checks form only; unknown members and
// other spellings are kMalformed, other formats kUnsupported, more than 64 KiB kLimitExceeded. Each
// names the agreement by its id (hex SHA-256 of version 1's payload), so that none can be replayed
// to another, and the time at which it was signed, to the second.
namespace pavise::policy {

inline constexpr std::string_view kAgreementType = "application/vnd.pavise.agreement+json";
inline constexpr std::string_view kApprovalType = "application/vnd.pavise.approval+json";
inline constexpr std::string_view kWithdrawalType = "application/vnd.pavise.withdrawal+json";
inline constexpr std::string_view kDepositType = "application/vnd.pavise.deposit+json";
inline constexpr std::string_view kOutputApprovalType =
    "application/vnd.pavise.output-approval+json";

enum class Vote { kApprove, kAbstain, kVeto };
std::string_view VoteName(Vote vote);  // "approve", "abstain", "veto"

// Of one version of an agreement, by its digest: approving another text is not possible.
struct Approval {
  Digest32 agreement{};
  uint64_t version = 0;
  Digest32 payload{};  // SHA-256 of the version's payload
  Vote vote = Vote::kApprove;
  absl::Time time;
};

// Of an owner's consent: no key is released any more for a stage that uses one of the assets.
struct Withdrawal {
  Digest32 agreement{};
  std::set<std::string> assets;  // not empty
  std::string explanation;       // for the other owners; at most 1,024 bytes
  absl::Time time;
};

// An asset's content key for the broker.
struct Deposit {
  Digest32 agreement{};
  std::string asset;
  Digest32 sealed{};
  std::string broker;         // key id of the broker's encryption key
  std::string encrypted_key;  // flattened JWE to it
  absl::Time time;
};

// Of one output of one run: what was sealed, to whom.
struct OutputApproval {
  Digest32 agreement{};
  std::string run;  // at most 128 bytes
  std::string output;
  Digest32 sealed{};                 // the sealed output's id
  std::set<std::string> recipients;  // not empty
  bool approved = false;
  absl::Time time;
};

absl::StatusOr<Approval> ParseApproval(ByteSpan payload, std::string_view item);
absl::StatusOr<Withdrawal> ParseWithdrawal(ByteSpan payload, std::string_view item);
absl::StatusOr<Deposit> ParseDeposit(ByteSpan payload, std::string_view item);
absl::StatusOr<OutputApproval> ParseOutputApproval(ByteSpan payload, std::string_view item);
// Payloads that the parsers above read back.
absl::StatusOr<std::string> Format(const Approval& approval);
absl::StatusOr<std::string> Format(const Withdrawal& withdrawal);
absl::StatusOr<std::string> Format(const Deposit& deposit);
absl::StatusOr<std::string> Format(const OutputApproval& approval);

}  // namespace pavise::policy

#endif  // PAVISE_POLICY_OWNER_STATEMENT_H_
