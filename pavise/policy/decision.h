#ifndef PAVISE_POLICY_DECISION_H_
#define PAVISE_POLICY_DECISION_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/policy/history.h"
#include "pavise/policy/stage_evidence.h"

#include "absl/status/status.h"
#include "absl/time/time.h"

// Whether the owners' rules allow something, rule by rule. Pure functions of what is passed in:
// nothing is read, no clock, thread-safe, at most 100 microseconds for an agreement of ordinary
// size (policy_bench).
namespace pavise::policy {

// One rule and what became of it.
struct RuleResult {
  std::string owner;  // whose rule; "" for the agreement's own
  std::string rule;   // "stage train: not after", "rule scans-stay-here: modes"
  // nullopt: passed. Else what is wrong, and what would change it.
  std::optional<Refusal> refusal;
};

struct Decision {
  std::string act;  // "release of scans for train", ..
  Scope scope;
  absl::Time at;
  std::vector<RuleResult> rules;  // in the order in which they were looked at; never empty

  bool allowed() const;
  // OK, or a refusal with every finding, each with its rule and whose it is.
  absl::Status Verdict() const;
  // For stores, logs of owners and the terminal.
  OrderedJson ToJson() const;
};

// What the broker has counted for one stage of one agreement, over all versions.
struct RunCounters {
  uint64_t runs_begun = 0;
  // Of every stage by its name, this one included: owners count the runs that use what is theirs.
  std::map<std::string, uint64_t> of_stages;
  // Of the run at hand.
  bool run_is_open = false;  // it has begun, under this session
  uint64_t epochs_reported = 0;
};

// One more run of the stage on the machine that was appraised: the agreement and version are those
// in force, nobody has withdrawn, every owner's rules allow stage, mode, purpose, code, network and
// recipients, the time and the number of runs are within limits, the appraisal is recent and every
// set of evidence rules accepts.
Decision DecideRun(const AgreementInForce& agreement, const StageAppraisal& appraisal,
                   const RunCounters& counters, absl::Time now);

// The asset's key to the appraised session. Where the run has not begun yet, this begins it: the
// rules of DecideRun, and that the asset belongs to the stage and `deposit` (nullptr: none) is its
// owner's for the sealed asset that the agreement names.
Decision DecideKeyRelease(const AgreementInForce& agreement, const StageAppraisal& appraisal,
                          std::string_view asset, const VerifiedDeposit* deposit,
                          const RunCounters& counters, absl::Time now);

// Whether a run may go on: as DecideRun, without counting it again; epochs within limits.
Decision DecideReattestation(const AgreementInForce& agreement, const StageAppraisal& appraisal,
                             const RunCounters& counters, absl::Time now);

// An output of a finished or running run.
struct OutputOfRun {
  std::string run;
  // That the run began under, and that it was under when the output was deposited.
  uint64_t first_version = 0;
  uint64_t version = 0;
  std::string stage;
  Mode mode = Mode::kMeasured;  // for the record
  std::string output;
  Digest32 sealed{};
};

// The output's key to `recipient` (a stakeholder): the output and recipient stand in the version in
// force and in every one from the run's first to its last, since a change that drops an asset asks
// its owner nothing and the run may have its key; no rule of an owner of the run's assets forbids
// the recipient; and everybody who must approve (owners of data used, and those whom one of the
// versions names) has, for this run, this sealed output and this recipient, and none of them
// refused later. Withdrawal stops releases of outputs, too.
Decision DecideOutputRelease(const AgreementInForce& agreement, const OutputOfRun& output,
                             std::string_view recipient,
                             const std::vector<VerifiedOutputApproval>& approvals, absl::Time now);

}  // namespace pavise::policy

#endif  // PAVISE_POLICY_DECISION_H_
