#ifndef PAVISE_POLICY_INTERNAL_PREPARED_RULES_H_
#define PAVISE_POLICY_INTERNAL_PREPARED_RULES_H_

#include <optional>
#include <string_view>

#include "pavise/evidence/appraise/machine/machine_appraiser.h"
#include "pavise/policy/agreement.h"
#include "pavise/policy/stage_evidence.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::policy::internal {

inline constexpr uint64_t kMaxPolicyBytes = uint64_t{1} << 20;
inline constexpr uint64_t kMaxRimBytes = uint64_t{4} << 20;

// A set of evidence rules with its files read and parsed.
struct PreparedRules {
  evidence::AppraisalPolicy policy;
  evidence::ReferenceValues references;
  evidence::MachineTrust trust;
  std::optional<evidence::ImaPolicy> ima;  // where the policy looks at IMA logs
};

// kFileMissing, kContentMismatch, refusals of the files' parsers; kMalformed: a file that the
// policy names and the rules do not pin, or the other way round. `item` names the rules.
absl::StatusOr<PreparedRules> PrepareRules(const EvidenceRules& rules,
                                           const AttachmentSource& attachments,
                                           std::string_view item);

// kPolicyDenied: the policy does not require the evidence that the mode is named after.
absl::Status CheckMode(const evidence::AppraisalPolicy& policy, Mode mode, std::string_view item);

}  // namespace pavise::policy::internal

#endif  // PAVISE_POLICY_INTERNAL_PREPARED_RULES_H_
