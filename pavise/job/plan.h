#ifndef PAVISE_JOB_PLAN_H_
#define PAVISE_JOB_PLAN_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/agent/attested_run.h"
#include "pavise/base/clock.h"
#include "pavise/job/cost.h"
#include "pavise/job/job_file.h"
#include "pavise/offload/leakage.h"

#include "absl/status/statusor.h"

// What a job would do, looked at before any key moves.
namespace pavise::job {

// What of this machine a job uses; tests put their own here.
struct Machine {
  agent::MachineEvidence evidence;
  const Clock* clock = &SystemClock();
  // What the cost is expected from, and this machine as such figures name it; "": not said.
  std::optional<RecordedFigures> figures = {};
  std::string hardware = {};
};
// Collects as the job says.
Machine ThisMachine(const Job& job);

struct Plan {
  std::string agreement;  // id
  uint64_t version = 0;
  std::vector<std::string> trusted;  // whom and what, without which nothing holds
  std::vector<std::string> leaks;    // to whom
  std::vector<std::string> checked;  // by this plan, and by the run
  std::vector<std::string> cost;
};

// Holds the job against the agreement of its folder, the files, the workers, the broker and this
// machine, whose evidence is collected for a challenge of our own and appraised by the agreement's
// rules. Sends no evidence to anybody and asks for no key. All findings together:
// - those of AgreementFolder, and kEvidenceMissing: no version is in force;
// - kPolicyDenied: a stage, mode, command, destination, output or recipient that is not the
//   agreement's, and whatever DecideRun refuses (over, withdrawn, an owner's rule), with its
//   reasons; operators that are too few for the scheme;
// - kFileMissing, kContentMismatch, kMalformed: a sealed file is not there, is cut or damaged where
//   that shows without its key, or is another; one that lies at a URL is not looked at;
// - kUnsupported: this machine cannot offer the mode or contain the command;
// - kStateMissing: a worker does not answer at its address; kLimitExceeded: the assets are larger
//   than the storage.
// A broker that does not answer is a machine failure. What only the broker counts (runs), and
// changes within a sealed file, show in the run.
absl::StatusOr<Plan> MakePlan(const Job& job, const Machine& machine);

// Who sees what where a scheme hides it, in lines.
std::vector<std::string> LeakageLines(const offload::LeakageProfile& profile);
// Who is trusted where the stage ran in that mode of the agreement's.
std::vector<std::string> TrustLines(std::string_view mode);

}  // namespace pavise::job

#endif  // PAVISE_JOB_PLAN_H_
