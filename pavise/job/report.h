#ifndef PAVISE_JOB_REPORT_H_
#define PAVISE_JOB_REPORT_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/job/result.h"
#include "pavise/train/metrics.h"

#include "absl/status/statusor.h"

// A job's result as a page for people. Pure functions.
namespace pavise::job {

struct ReportInput {
  std::string result;  // its folder, as the reader knows it
  // The verifier's; else the result is refused for `findings`, and nothing of it is shown.
  absl::StatusOr<VerifiedResult> verified;
  // Of the trainer, where the reader has unsealed them: nothing here vouches for them.
  std::optional<train::Metrics> metrics;
};

// One HTML 5 page that needs no network and runs no script: the trust chain as a picture, verdicts
// with their reasons, inputs, outputs, approvals, learning curves, leakage, cost and ledger
// entries. Whatever comes from files is escaped, control characters included. A status that is no
// refusal shows as the machine's failure.
std::string RenderReport(const ReportInput& input);

}  // namespace pavise::job

#endif  // PAVISE_JOB_REPORT_H_
