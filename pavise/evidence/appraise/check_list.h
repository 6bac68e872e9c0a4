#ifndef PAVISE_EVIDENCE_APPRAISE_CHECK_LIST_H_
#define PAVISE_EVIDENCE_APPRAISE_CHECK_LIST_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/status.h"

#include "absl/status/status.h"

namespace pavise::evidence {

// One thing that an appraiser held against something else.
struct Check {
  std::string name;                // what was checked: "AK signature", "PCR 10 (sha256)"
  std::string detail;              // what was seen, for people
  std::optional<Refusal> refusal;  // nullopt: passed
};

// All checks of an appraisal in the order they were made, so that a report shows what was looked at
// also where it refuses. Appraisers take one by reference, go on after a failed check where the
// next one still means something, and return Verdict(). Not thread-safe.
class CheckList {
 public:
  void Pass(std::string_view name, std::string_view detail);
  void Fail(std::string_view name, Reason reason, std::string_view item, std::string_view detail,
            std::string_view remedy = "");
  // OK: Pass with `detail`. A refusal: its findings, one check each. Any other error is no check,
  // but no verdict can pass after it. Returned as it came.
  absl::Status Add(std::string_view name, std::string_view detail, const absl::Status& status);

  // As Add, for an appraiser that goes on: OK after a refusal too, since that is in the list. Any
  // other error is returned, to end the appraisal.
  [[nodiscard]] absl::Status Record(std::string_view name, std::string_view detail,
                                    const absl::Status& status);

  const std::vector<Check>& checks() const { return checks_; }
  bool all_passed() const;
  // OK where all passed; the first error that was no refusal, where Add or Record was given one;
  // else a refusal with every finding.
  absl::Status Verdict() const;

 private:
  std::vector<Check> checks_;
  absl::Status failure_;
};

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_CHECK_LIST_H_
