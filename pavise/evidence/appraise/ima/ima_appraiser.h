#ifndef PAVISE_EVIDENCE_APPRAISE_IMA_IMA_APPRAISER_H_
#define PAVISE_EVIDENCE_APPRAISE_IMA_IMA_APPRAISER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/evidence/appraise/ima/ima_log.h"
#include "pavise/evidence/appraise/ima/ima_policy.h"
#include "pavise/evidence/appraise/ima/ima_replay.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// Counts are of all entries that the quote covers, those of earlier appraisals included.
struct ImaClaims {
  PcrBank bank = PcrBank::kSha256;
  std::optional<ImaBankRule> rule;  // nullopt for the SHA-1 bank
  uint64_t entries = 0;
  uint64_t later_entries = 0;  // in the log, after the quote; not appraised
  uint64_t listed = 0;
  uint64_t signed_by_key = 0;
  uint64_t excluded = 0;
  uint64_t violations = 0;     // allowed ones
  std::string boot_aggregate;  // "sha256:..."
};

// How far a machine's log was accepted, so that the next appraisal costs only what was added. A
// value; changed only by an appraisal that accepts. After a reboot, and for other rules, begin with
// a new one: one of another boot is refused.
class ImaState {
 public:
  // Entries to leave out of the next log.
  uint64_t entries() const { return replay_.entries(); }
  // Rules of the policy that no entry needed so far.
  std::vector<std::string> UnusedRules(const ImaPolicy& policy) const;

 private:
  friend class ImaAppraiser;
  ImaReplay replay_;
  ImaClaims claims_;
  std::optional<Digest32> policy_;
  std::vector<bool> used_;  // by rule of the policy
  // boot_aggregate, which ties the log to one boot.
  std::optional<PcrBank> aggregate_bank_;
  Bytes aggregate_;
};

// Holds an IMA log against a verified quote's registers and a policy. Stateless, thread-safe.
class ImaAppraiser {
 public:
  // At most so many entries are listed in the checks; one more says how many there are.
  static constexpr size_t kMaxFindings = 100;

  // `log`: the entries after state.entries(). `quoted`: a verified quote's registers, with PCR 10
  // in `bank` and PCR 0 to 9 (0 to 7 for SHA-1) in the bank that boot_aggregate is of.
  // Checks, each with its reasons: the replay (ImaReplay::Continue); boot_aggregate, which must be
  // the first entry and no other, and agree with the quoted registers, also where `state` already
  // has it (kMeasurementMismatch, kEvidenceMissing, kPlatformInsecure: a
  // second one comes of kexec); the digest of each measured buffer (kMeasurementMismatch); each
  // entry by the policy. kBindingMismatch: a state of another policy.
  static absl::StatusOr<Verified<ImaClaims, ImaAppraiser>> Appraise(
      const ImaLog& log, PcrBank bank, const PcrValues& quoted, const ImaPolicy& policy,
      std::string_view item, ImaState& state, CheckList& checks);
};

using VerifiedImaLog = Verified<ImaClaims, ImaAppraiser>;

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_IMA_IMA_APPRAISER_H_
