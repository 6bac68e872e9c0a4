#include "pavise/job/run_job.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <utility>

#include "pavise/agent/attested_run.h"
#include "pavise/base/atomic_directory.h"
#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/job/agreement_folder.h"
#include "pavise/job/internal/folder_entries.h"

namespace pavise::job {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxStateBytes = 4096;
constexpr uint64_t kMostAttempts = 1'000'000;
constexpr std::string_view kSteps[] = {"planned",  "running",   "ran",
                                       "recorded", "assembled", "done"};

std::string_view RunStepName(agent::RunStep step) {
  constexpr std::string_view kNames[] = {"attested",         "agreed",        "key released",
                                         "unsealed",         "command ended", "output sealed",
                                         "output deposited", "run ended",     "stated"};
  return kNames[static_cast<size_t>(step)];
}

std::string StatePath(const Job& job) { return StrCat(job.output, "/state.json"); }

absl::Status Remove(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? FromErrno(error.value(), "remove", path) : absl::OkStatus();
}

absl::Status MakeFolder(const std::string& path) {
  return mkdir(path.c_str(), 0700) == 0 ? absl::OkStatus() : FromErrno(errno, "mkdir", path);
}

class JobRun {
 public:
  JobRun(const Job& job, const JobServices& services) : job_(job), services_(services) {}

  absl::StatusOr<VerifiedResult> Run(bool resume) {
    PAVISE_RETURN_IF_ERROR(Lock());
    absl::StatusOr<JobState> found = ReadJobState(job_);
    if (resume) {
      if (!found.ok()) return found.status();
      state_ = *std::move(found);
      PAVISE_RETURN_IF_ERROR(IsUnderThisAgreement());
      // Anew, since it was not verified: the ledger may have more by now, and the agreement's
      // folder.
      if (state_.step > JobStep::kRan && state_.step < JobStep::kDone) state_.step = JobStep::kRan;
    } else {
      PAVISE_RETURN_IF_ERROR(RequireNoState(found.status()));
      PAVISE_RETURN_IF_ERROR(PlanAnew());
    }
    return GoOn();
  }

  absl::StatusOr<VerifiedResult> Collect(const std::string& folder) {
    PAVISE_RETURN_IF_ERROR(Lock());
    PAVISE_RETURN_IF_ERROR(RequireNoState(ReadJobState(job_).status()));
    PAVISE_ASSIGN_OR_RETURN(const AgreementFolder agreement, AgreementFolder::Read(job_.agreement));
    const absl::Time now = services_.machine.clock->Now();
    PAVISE_ASSIGN_OR_RETURN(
        const policy::AgreementHistory history,
        agreement.Replay(agreement.statements().size(),
                         [&](const AgreementFolder::Statement&) { return now; }));
    state_.job = job_.digest;
    state_.agreement = history.IdHex();
    state_.attempt = 1;
    PAVISE_RETURN_IF_ERROR(MakeFolder(AttemptFolder()));
    std::vector<std::string> names = {kProvenanceFile, kEvidenceFile};
    for (const auto& [name, recipients] : job_.outputs)
      names.push_back(StrCat(name, kSealedSuffix));
    for (const std::string& name : names) {
      PAVISE_RETURN_IF_ERROR(internal::CopyEntry(StrCat(folder, "/", name), InAttempt(name)));
    }
    PAVISE_RETURN_IF_ERROR(Ran());
    return GoOn();
  }

 private:
  absl::StatusOr<VerifiedResult> GoOn() {
    if (state_.step < JobStep::kRan) PAVISE_RETURN_IF_ERROR(Attempt());
    if (state_.step < JobStep::kRecorded) PAVISE_RETURN_IF_ERROR(Record());
    if (state_.step < JobStep::kAssembled) PAVISE_RETURN_IF_ERROR(Assemble());
    PAVISE_ASSIGN_OR_RETURN(const ResultTrust trust, AskForTrust());
    PAVISE_ASSIGN_OR_RETURN(VerifiedResult result,
                            ResultVerifier::Verify(ResultFolder(job_), trust));
    PAVISE_RETURN_IF_ERROR(IsThisJobs(result->run));
    state_.run = result->run.run;
    PAVISE_RETURN_IF_ERROR(Save(JobStep::kDone));
    PAVISE_RETURN_IF_ERROR(Remove(AttemptFolder()));
    return result;
  }

  // Before a job that begins. It removes what an attempt of its own has left, and nothing else.
  absl::Status RequireNoState(const absl::Status& found) const {
    if (ReasonOf(found) != Reason::kFileMissing) {
      return UsageError(StrCat(job_.output,
                               " has a job already: pavise job resume goes on with it, or name "
                               "another output"));
    }
    for (const char* const name : {"result", "result.unfinished", "attempt-1"}) {
      const std::string path = StrCat(job_.output, "/", name);
      struct stat status {};
      if (lstat(path.c_str(), &status) == 0) {
        return UsageError(
            StrCat(path, " is there, and no job's: move it away, or name another output"));
      }
    }
    return absl::OkStatus();
  }

  std::string AttemptFolder() const { return StrCat(job_.output, "/attempt-", state_.attempt); }
  std::string InAttempt(std::string_view name) const { return StrCat(AttemptFolder(), "/", name); }
  void Tell(std::string_view step) const {
    if (services_.on_step) services_.on_step(step);
  }

  absl::Status Lock() {
    std::error_code error;
    fs::create_directories(job_.output, error);
    if (error) return FromErrno(error.value(), "create", job_.output);
    const std::string path = StrCat(job_.output, "/lock");
    lock_ = FileDescriptor(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock_.is_open()) return FromErrno(errno, "open", path);
    if (flock(lock_.get(), LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
    return Refuse(Reason::kPolicyDenied, job_.output, "another process runs this job",
                  "wait for it (pavise job status)");
  }

  absl::Status Save(JobStep step) {
    state_.step = step;
    PAVISE_RETURN_IF_ERROR(
        WriteFileAtomically(StatePath(job_), AsBytes(FormatJobState(state_)), 0600));
    Tell(JobStepName(step));
    return absl::OkStatus();
  }

  absl::Status IsUnderThisAgreement() const {
    PAVISE_ASSIGN_OR_RETURN(const AgreementFolder folder, AgreementFolder::Read(job_.agreement));
    PAVISE_ASSIGN_OR_RETURN(const policy::AgreementHistory first,
                            folder.Replay(1, [&](const AgreementFolder::Statement&) {
                              return services_.machine.clock->Now();
                            }));
    if (first.IdHex() == state_.agreement) return absl::OkStatus();
    return Refuse(
        Reason::kContentMismatch, job_.agreement,
        StrCat("is another agreement than the job began under: ", Printable(state_.agreement)));
  }

  absl::Status PlanAnew() {
    PAVISE_ASSIGN_OR_RETURN(const Plan plan, MakePlan(job_, services_.machine));
    state_.job = job_.digest;
    state_.agreement = plan.agreement;
    planned_version_ = plan.version;
    return Save(JobStep::kPlanned);
  }

  absl::Status Attempt() {
    if (state_.attempt > 0 && access(InAttempt(kProvenanceFile).c_str(), F_OK) == 0) {
      return Ran();  // cut off between the statement and the journal
    }
    // Not on the journal's word, which may be days old, or somebody else's.
    if (planned_version_ == 0) PAVISE_RETURN_IF_ERROR(PlanAnew());
    if (state_.attempt > 0) PAVISE_RETURN_IF_ERROR(Remove(AttemptFolder()));
    if (state_.attempt >= kMostAttempts) {
      return Refuse(Reason::kLimitExceeded, job_.output, "has had too many attempts");
    }
    ++state_.attempt;
    // What a crash before the journal's line may have left.
    PAVISE_RETURN_IF_ERROR(Remove(AttemptFolder()));
    PAVISE_RETURN_IF_ERROR(MakeFolder(AttemptFolder()));
    PAVISE_RETURN_IF_ERROR(Save(JobStep::kRunning));
    agent::RunOptions options;
    options.agreement = state_.agreement;
    options.stage = job_.stage;
    options.mode = job_.machine;
    options.assets = job_.assets;
    for (const auto& [name, recipients] : job_.outputs) {
      options.outputs[name] = InAttempt(StrCat(name, kSealedSuffix));
    }
    options.provenance = InAttempt(kProvenanceFile);
    options.evidence = InAttempt(kEvidenceFile);
    options.planned_version = planned_version_;
    options.command = job_.command;
    options.network = job_.network;
    options.needs_resident_weights = job_.guards_weights;
    options.destinations = job_.destinations;
    options.clock = services_.machine.clock;
    options.on_step = [&](agent::RunStep step) {
      Tell(RunStepName(step));
      return absl::OkStatus();
    };
    PAVISE_ASSIGN_OR_RETURN(
        const agent::RunResult result,
        agent::RunAttested(options, job_.containment, job_.broker, services_.machine.evidence));
    state_.run = result.run;
    return Ran();
  }

  absl::Status Ran() { return Save(JobStep::kRan); }

  absl::Status Record() {
    const std::string file = InAttempt(kLedgerFile);
    if (services_.fetch_ledger) {
      PAVISE_ASSIGN_OR_RETURN(const Bytes bundle, services_.fetch_ledger(state_.agreement));
      PAVISE_RETURN_IF_ERROR(WriteFileAtomically(file, bundle));
    } else if (access(file.c_str(), F_OK) != 0) {
      return Refuse(
          Reason::kEvidenceMissing, file,
          "the run is done, and nobody's key is here to ask for the ledger's entries",
          "name a stakeholder's key (ledger_reader, or --ledger-reader), or let one write this "
          "file (pavise ledger fetch); then pavise job resume");
    }
    return Save(JobStep::kRecorded);
  }

  absl::Status Assemble() {
    const std::string whole = ResultFolder(job_);
    const std::string made = StrCat(whole, ".unfinished");
    PAVISE_RETURN_IF_ERROR(Remove(made));
    PAVISE_RETURN_IF_ERROR(Remove(whole));
    const std::string statements = StrCat(made, "/", kAgreementFolder);
    const std::string attachments = StrCat(statements, "/attachments");
    const std::string outputs = StrCat(made, "/", kOutputsFolder);
    for (const std::string& folder : {made, statements, attachments, outputs}) {
      PAVISE_RETURN_IF_ERROR(MakeFolder(folder));
    }
    for (const char* name : {kProvenanceFile, kEvidenceFile, kLedgerFile}) {
      PAVISE_RETURN_IF_ERROR(internal::CopyEntry(InAttempt(name), StrCat(made, "/", name)));
    }
    PAVISE_ASSIGN_OR_RETURN(const AgreementFolder agreement, AgreementFolder::Read(job_.agreement));
    for (const AgreementFolder::Statement& statement : agreement.statements()) {
      PAVISE_RETURN_IF_ERROR(
          WriteFileAtomically(StrCat(statements, "/", statement.name), statement.text));
    }
    for (const auto& [digest, content] : agreement.attachments()) {
      PAVISE_RETURN_IF_ERROR(WriteFileAtomically(StrCat(attachments, "/", ToHex(digest)), content));
    }
    for (const auto& [name, recipients] : job_.outputs) {
      const std::string from = InAttempt(StrCat(name, kSealedSuffix));
      const std::string to = StrCat(outputs, "/", name, kSealedSuffix);
      // The same bytes under two names, until the attempt goes.
      if (link(from.c_str(), to.c_str()) != 0) return FromErrno(errno, "link", from);
    }
    for (const std::string& folder : {outputs, attachments, statements, made}) {
      const FileDescriptor opened(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      PAVISE_RETURN_IF_ERROR(FlushDirectory(opened, folder));
    }
    if (rename(made.c_str(), whole.c_str()) != 0) return FromErrno(errno, "rename", made);
    PAVISE_RETURN_IF_ERROR(FlushDirectoryOf(whole));
    return Save(JobStep::kAssembled);
  }

  // The workers may have been replaced in the file since it ran.
  bool IsThisCommand(const std::vector<std::string>& command) const {
    if (command.size() != job_.command.size()) return false;
    for (size_t i = 0; i < command.size(); ++i) {
      if (command[i] != job_.command[i] && (i == 0 || command[i - 1] != "--workers")) return false;
    }
    return true;
  }

  // A genuine result may be another job's, where somebody else can write to the folder.
  absl::Status IsThisJobs(const agent::Provenance& run) const {
    if (run.stage == job_.stage && run.mode == policy::ModeName(job_.machine) &&
        IsThisCommand(run.command) && (state_.run.empty() || state_.run == run.run)) {
      return absl::OkStatus();
    }
    return Refuse(Reason::kBindingMismatch, ResultFolder(job_),
                  StrCat("is of run ", run.run, " of stage ", run.stage, ", mode ", run.mode,
                         ", and not what this job ran"),
                  "put this job's own result back, or name another output and run it anew");
  }

  // What this machine takes for the broker: enough to notice that a result is not whole. Owners
  // have keys of their own.
  absl::StatusOr<ResultTrust> AskForTrust() const {
    PAVISE_ASSIGN_OR_RETURN(kbs::Client client, kbs::Client::Create(job_.broker));
    PAVISE_ASSIGN_OR_RETURN(const Json answer, client.RequestJson("GET", "/pavise/v1/broker"));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(answer, "broker"));
    PAVISE_ASSIGN_OR_RETURN(const std::string pem, object.GetString("signing_key"));
    PAVISE_ASSIGN_OR_RETURN(const std::string log, object.GetString("ledger_key"));
    PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey signing,
                            crypto::PublicKey::FromPem(pem, "broker's signing key"));
    PAVISE_ASSIGN_OR_RETURN(ledger::NoteKey note,
                            ledger::NoteKey::Parse(log, "broker's ledger key"));
    PAVISE_ASSIGN_OR_RETURN(const Digest32 agreement,
                            Digest32FromHex(state_.agreement, "agreement"));
    return ResultTrust{std::move(signing), {std::move(note), {}, 0}, agreement};
  }

  const Job& job_;
  const JobServices& services_;
  FileDescriptor lock_;
  JobState state_;
  uint64_t planned_version_ = 0;  // by this process; 0: it has not planned
};

}  // namespace

std::string_view JobStepName(JobStep step) { return kSteps[static_cast<size_t>(step)]; }

std::string ResultFolder(const Job& job) { return StrCat(job.output, "/result"); }

std::string FormatJobState(const JobState& state) {
  return DumpJson({{"pavise_job_state", 1},
                   {"job", ToHex(state.job)},
                   {"step", JobStepName(state.step)},
                   {"attempt", state.attempt},
                   {"agreement", state.agreement},
                   {"run", state.run}},
                  -1);
}

absl::StatusOr<JobState> ParseJobState(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, item, {.max_bytes = kMaxStateBytes}));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_RETURN_IF_ERROR(
      object.RequireOnly({"pavise_job_state", "job", "step", "attempt", "agreement", "run"}));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t format, object.GetUint("pavise_job_state"));
  if (format != 1) return Refuse(Reason::kUnsupported, item, "is of a later version");
  JobState state;
  PAVISE_ASSIGN_OR_RETURN(const std::string job, object.GetString("job"));
  PAVISE_ASSIGN_OR_RETURN(state.job, Digest32FromHex(job, object.PathOf("job")));
  PAVISE_ASSIGN_OR_RETURN(const std::string step, object.GetString("step"));
  const auto* const found = std::find(std::begin(kSteps), std::end(kSteps), step);
  if (found == std::end(kSteps)) {
    return Refuse(Reason::kMalformed, object.PathOf("step"), "is no step of a job");
  }
  state.step = static_cast<JobStep>(found - std::begin(kSteps));
  PAVISE_ASSIGN_OR_RETURN(state.attempt, object.GetUint("attempt"));
  PAVISE_ASSIGN_OR_RETURN(state.agreement, object.GetString("agreement"));
  PAVISE_ASSIGN_OR_RETURN(state.run, object.GetString("run"));
  if (AsText(text) != FormatJobState(state)) {
    return Refuse(Reason::kMalformed, item, "is not spelled as a job writes it");
  }
  return state;
}

absl::StatusOr<JobState> ReadJobState(const Job& job) {
  const std::string path = StatePath(job);
  if (access(path.c_str(), F_OK) != 0 && errno == ENOENT) {
    return Refuse(Reason::kFileMissing, path, "this job was not run yet", "pavise job run");
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path, kMaxStateBytes));
  PAVISE_ASSIGN_OR_RETURN(JobState state, ParseJobState(text, path));
  if (state.job != job.digest) {
    return Refuse(Reason::kContentMismatch, job.item,
                  StrCat("does not say what the job in ", job.output, " began with"),
                  "put that back, or name another output for this one; only workers and "
                  "worker_tls may change between attempts");
  }
  return state;
}

absl::StatusOr<VerifiedResult> RunJob(const Job& job, bool resume, const JobServices& services) {
  return JobRun(job, services).Run(resume);
}

absl::StatusOr<VerifiedResult> CollectJob(const Job& job, const std::string& folder,
                                          const JobServices& services) {
  return JobRun(job, services).Collect(folder);
}

}  // namespace pavise::job
