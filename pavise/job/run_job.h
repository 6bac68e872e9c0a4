#ifndef PAVISE_JOB_RUN_JOB_H_
#define PAVISE_JOB_RUN_JOB_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/job/job_file.h"
#include "pavise/job/plan.h"
#include "pavise/job/result.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// A job from its plan to its verified result, with a journal: `output`/state.json is replaced
// atomically and made durable before each step that follows from it.
namespace pavise::job {

enum class JobStep {
  kPlanned,    // nothing was refused; no key has moved
  kRunning,    // an attempt has begun: keys may have moved, each with a ledger entry
  kRan,        // outputs sealed, their keys deposited, the statement signed
  kRecorded,   // the ledger's entries are here
  kAssembled,  // `output`/result is whole
  kDone,       // and was verified as an owner would
};
std::string_view JobStepName(JobStep step);  // "planned", "running", ...

// What state.json holds.
struct JobState {
  Digest32 job{};  // Job::digest: what says something else is another job
  JobStep step = JobStep::kPlanned;
  uint64_t attempt = 0;  // from 1; each one is a run of the agreement's
  std::string agreement;
  std::string run;  // of the attempt that ran
  friend bool operator==(const JobState&, const JobState&) = default;
};
std::string FormatJobState(const JobState& state);
// Strict: what FormatJobState writes. kMalformed, kUnsupported.
absl::StatusOr<JobState> ParseJobState(ByteSpan text, std::string_view item);
// Of the job's output folder. kFileMissing: the job was not run yet; kContentMismatch: it is
// another job's.
absl::StatusOr<JobState> ReadJobState(const Job& job);

struct JobServices {
  Machine machine;
  // The ledger's bundle of that agreement, as a stakeholder gets it; empty: nobody asks.
  std::function<absl::StatusOr<Bytes>(const std::string& agreement)> fetch_ledger;
  // The name of each step when it is behind, those of agent::RunStep among them. May be empty.
  std::function<void(std::string_view)> on_step;
};

// Runs the job, or where `resume`, goes on where it was cut off. A run that was cut off before its
// statement was signed cannot go on, since its session key and what it had unsealed were in memory
// only: it begins anew, as another attempt under another key, and what the broker releases then
// stands in the ledger like the first time. An attempt whose statement is there is never repeated.
//
// One process at a time (kPolicyDenied). A usage error: the folder has a job already (without
// `resume`). Refusals of MakePlan, RunStage and ResultVerifier; kEvidenceMissing: all is done but
// the ledger's entries, which nobody can ask for.
absl::StatusOr<VerifiedResult> RunJob(const Job& job, bool resume, const JobServices& services);

// A job whose run was another machine's, a measured host's with the agent alone: takes what that
// sent, `folder`/provenance.json, evidence.cbor and NAME.sealed of each output, and goes on as
// RunJob does behind kRan. `folder` needs no trust: the result is verified. kContentMismatch: it is
// whole, and of another stage or mode than the job's. kFileMissing; otherwise as RunJob.
absl::StatusOr<VerifiedResult> CollectJob(const Job& job, const std::string& folder,
                                          const JobServices& services);

// `output`/result.
std::string ResultFolder(const Job& job);

}  // namespace pavise::job

#endif  // PAVISE_JOB_RUN_JOB_H_
