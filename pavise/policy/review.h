#ifndef PAVISE_POLICY_REVIEW_H_
#define PAVISE_POLICY_REVIEW_H_

#include <string>
#include <vector>

#include "pavise/policy/agreement.h"
#include "pavise/policy/stage_evidence.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// For people who are to approve an agreement: what is likely a mistake, and what it means in plain
// words. Pure functions.
namespace pavise::policy {

struct Warning {
  std::string item;  // "stage train", "rule only-train", "asset scans"
  std::string detail;
  friend bool operator==(const Warning&, const Warning&) = default;
};

// Nothing that refuses an agreement, and everything that surprises: assets, stakeholders and rules
// that nothing uses; stages that nobody can run (a rule or an appraisal policy forbids every mode,
// or the time is over by `at`); reference values that others shadow; evidence that proves less
// than its mode says; owners whose assets others can put to other uses. Refused as by
// StageEvidence::Prepare, where an attachment is missing or does not parse.
absl::StatusOr<std::vector<Warning>> LintAgreement(const Agreement& agreement,
                                                   const AttachmentSource& attachments,
                                                   absl::Time at);

// Who may do what with whose assets, who gets what, who can change it, and what the agreement does
// not protect from. Text in lines of at most 100 columns where names are short.
std::string ExplainAgreement(const Agreement& agreement);

}  // namespace pavise::policy

#endif  // PAVISE_POLICY_REVIEW_H_
