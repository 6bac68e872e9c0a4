#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/bench_hash.h"
#include "pavise/cli/broker_connection.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/result_arguments.h"
#include "pavise/cli/sub_verbs.h"
#include "pavise/cli/verb.h"
#include "pavise/job/cost.h"
#include "pavise/job/job_file.h"
#include "pavise/job/plan.h"
#include "pavise/job/result.h"
#include "pavise/job/run_job.h"
#include "pavise/kbs/client.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

void DeclareJob(CLI::App& app, std::string& path) {
  app.add_option("JOB", path, "the job: docs/formats/job.md")
      ->required()
      ->type_name("FILE")
      ->group("Arguments");
}

void AddLines(const char* label, const std::vector<std::string>& lines,
              std::vector<std::pair<std::string, std::string>>& rows, OrderedJson& json) {
  json = OrderedJson::array();
  for (const std::string& line : lines) {
    rows.emplace_back(label, Printable(line));
    json.push_back(line);
  }
}

struct PlanArguments {
  std::string path;
  std::string figures;

  void Declare(CLI::App& app) {
    DeclareJob(app, path);
    AddOption(app, "--figures", figures, "FILE",
              "what `pavise bench modes --report-json` measured, for the cost of training "
              "[not measured]",
              "Options");
  }

  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const job::Job job, job::ReadJob(path));
    job::Machine machine = job::ThisMachine(job);
    if (!figures.empty()) {
      PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(figures, job::kMaxFiguresBytes));
      PAVISE_ASSIGN_OR_RETURN(machine.figures, job::ParseFigures(text, figures));
      machine.hardware = MachineLine();
    }
    PAVISE_ASSIGN_OR_RETURN(const job::Plan plan, job::MakePlan(job, machine));
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat("stage ", Printable(job.stage), " may run here in mode ",
                              job::TrustModeName(job.mode), "; no key has moved");
    std::vector<std::pair<std::string, std::string>> rows = {
        {"agreement", StrCat(plan.agreement, ", version ", plan.version)}};
    outcome.json = {{"agreement", plan.agreement},
                    {"version", plan.version},
                    {"stage", job.stage},
                    {"mode", job::TrustModeName(job.mode)},
                    {"command", job.command}};
    std::string command;
    for (const std::string& word : job.command)
      StrAppend(&command, command.empty() ? "" : " ", word);
    rows.emplace_back("command", Printable(command));
    AddLines("trusted", plan.trusted, rows, outcome.json["trusted"]);
    AddLines("leaks", plan.leaks, rows, outcome.json["leaks"]);
    AddLines("checked", plan.checked, rows, outcome.json["checked"]);
    AddLines("cost", plan.cost, rows, outcome.json["cost"]);
    outcome.text = AlignedRows(rows);
    return outcome;
  }
};

enum class Begin { kAnew, kResume, kCollect };

// `run`, `resume` and `collect`.
struct RunJobArguments {
  explicit RunJobArguments(Begin how) : begin(how) {}

  Begin begin;
  std::string path;
  std::string folder;
  std::string ledger_reader;

  void Declare(CLI::App& app) {
    DeclareJob(app, path);
    if (begin == Begin::kCollect) {
      app.add_option("FOLDER", folder, "with provenance.json, evidence.cbor and NAME.sealed")
          ->required()
          ->type_name("FOLDER")
          ->group("Arguments");
    }
    AddOption(app, "--ledger-reader", ledger_reader, "KEY.pem",
              "a stakeholder's signing key, to fetch the ledger's entries with [the job's]",
              "Options");
  }

  absl::StatusOr<Outcome> Run(const Session& session) const {
    PAVISE_ASSIGN_OR_RETURN(const job::Job job, job::ReadJob(path));
    job::JobServices services;
    services.machine = job::ThisMachine(job);
    const bool quiet = &session.progress == &NoProgress();
    services.on_step = [quiet](std::string_view step) {
      if (!quiet) std::fputs(StrCat("  ", step, "\n").c_str(), stderr);
    };
    SignerOptions reader;
    reader.private_key = ledger_reader.empty() ? job.ledger_reader : ledger_reader;
    if (!reader.private_key.empty()) {
      // Before the run, not after it.
      PAVISE_RETURN_IF_ERROR(reader.Read().status());
      services.fetch_ledger = [&job,
                               &reader](const std::string& agreement) -> absl::StatusOr<Bytes> {
        PAVISE_ASSIGN_OR_RETURN(const std::string target, AgreementTarget(agreement, "/ledger"));
        PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> key, reader.Read());
        kbs::ClientOptions options = job.broker;
        options.max_response_bytes = uint64_t{256} << 20;
        PAVISE_ASSIGN_OR_RETURN(kbs::Client client, kbs::Client::Create(options));
        PAVISE_ASSIGN_OR_RETURN(const BrokerDescription broker, DescribeBroker(client));
        PAVISE_ASSIGN_OR_RETURN(kbs::HttpResponse answer,
                                SignedRequest(client, broker, "GET", target, {}, *key));
        return std::move(answer.body);
      };
    }
    PAVISE_ASSIGN_OR_RETURN(const job::VerifiedResult result,
                            begin == Begin::kCollect
                                ? job::CollectJob(job, folder, services)
                                : job::RunJob(job, begin == Begin::kResume, services));
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat("stage ", Printable(job.stage), " ran; ",
                              Printable(job::ResultFolder(job)), " was verified");
    DescribeResult(result, outcome);
    outcome.text += AlignedRows({{"result", job::ResultFolder(job)}});
    outcome.json["result"] = job::ResultFolder(job);
    return outcome;
  }
};

struct StatusArguments {
  std::string path;

  void Declare(CLI::App& app) { DeclareJob(app, path); }

  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const job::Job job, job::ReadJob(path));
    PAVISE_ASSIGN_OR_RETURN(const job::JobState state, job::ReadJobState(job));
    Outcome outcome;
    outcome.headline = StrCat(Printable(path), " is ", job::JobStepName(state.step));
    outcome.text = AlignedRows({{"agreement", state.agreement},
                                {"attempts", StrCat(state.attempt)},
                                {"run", state.run},
                                {"next", state.step == job::JobStep::kDone
                                             ? StrCat("pavise job verify ", job::ResultFolder(job))
                                             : std::string("pavise job resume, where nobody runs "
                                                           "it")}});
    outcome.json = {{"step", job::JobStepName(state.step)},
                    {"attempts", state.attempt},
                    {"agreement", state.agreement},
                    {"run", TextOrNull(state.run)}};
    return outcome;
  }
};

struct VerifyResultArguments {
  std::string folder;
  ResultArguments trust;

  void Declare(CLI::App& app) {
    app.add_option("RESULT", folder, "the folder that a job made")
        ->required()
        ->type_name("FOLDER")
        ->group("Arguments");
    trust.Declare(app);
  }

  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const job::ResultTrust roots, trust.Resolve());
    PAVISE_ASSIGN_OR_RETURN(const job::VerifiedResult result,
                            job::ResultVerifier::Verify(folder, roots));
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat(Printable(folder), " is what the agreed run made");
    DescribeResult(result, outcome);
    return outcome;
  }
};

class JobVerb final : public Verb {
 public:
  std::string_view name() const override { return "job"; }
  std::string_view group() const override { return "Agreements"; }
  std::string_view summary() const override {
    return "One run from sealed assets to a signed, sealed result: say what it would trust, leak "
           "and cost (job plan), run it (job run), see where it stands (job status), go on after "
           "it was cut off (job resume), take in what a measured host ran (job collect), check a "
           "result without a network (job verify).";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise job plan job.yaml\n"
           "  pavise job run job.yaml\n"
           "  pavise job resume job.yaml\n"
           "  pavise job verify out/result --agreement $ID --broker-key broker.pub --log-key "
           "broker.vkey\n"
           "\n"
           "Nothing is asked of the broker's keys before the plan holds. A run that was cut off "
           "begins anew under another session key, and counts as another run of the agreement's.";
  }

  void Declare(CLI::App& app) override {
    verbs_.Add(app, "plan", "say what would be trusted, leaked, checked and spent, or refuse",
               plan_);
    verbs_.Add(app, "run", "plan, run, record and verify", run_);
    verbs_.Add(app, "status", "say which steps are behind", status_);
    verbs_.Add(app, "resume", "go on with a job that was cut off", resume_);
    verbs_.Add(app, "collect", "make the result of a run that a measured host's agent did",
               collect_);
    verbs_.Add(app, "verify", "check a result from its folder and the owner's trust alone",
               verify_);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override { return verbs_.Run(session); }

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    const std::string given = verbs_.given();
    if (given == "plan") return StrCat(Printable(plan_.path), " may not run; no key has moved");
    if (given == "verify") return StrCat(Printable(verify_.folder), " is refused");
    if (given == "status") return StrCat(Printable(status_.path), " has no state");
    const RunJobArguments& job = given == "run" ? run_ : given == "resume" ? resume_ : collect_;
    return StrCat(Printable(job.path), " did not come to its end");
  }

 private:
  SubVerbs verbs_;
  PlanArguments plan_;
  RunJobArguments run_{Begin::kAnew};
  StatusArguments status_;
  RunJobArguments resume_{Begin::kResume};
  RunJobArguments collect_{Begin::kCollect};
  VerifyResultArguments verify_;
};

}  // namespace

std::unique_ptr<Verb> NewJobVerb() { return std::make_unique<JobVerb>(); }

}  // namespace pavise::cli
