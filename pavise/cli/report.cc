#include "pavise/job/report.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/result_arguments.h"
#include "pavise/cli/verb.h"
#include "pavise/job/result.h"
#include "pavise/train/metrics.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

class ReportVerb final : public Verb {
 public:
  std::string_view name() const override { return "report"; }
  std::string_view group() const override { return "Agreements"; }
  std::string_view summary() const override {
    return "Verify a job's result and write what was found as one page for a browser: trust chain, "
           "verdicts, curves, leakage, cost. A result that is refused gets a page that says why.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise report out/result --agreement $ID --broker-key broker.pub --log-key "
           "broker.vkey -o report.html\n"
           "  pavise report out/result --agreement $ID --broker-key broker.pub --log-key "
           "broker.vkey \\\n"
           "    --metrics tuned/metrics.jsonl -o report.html\n"
           "\n"
           "The page needs no network and runs no script. Exit codes: 0 accepted, 1 refused, 2 "
           "wrong usage, 3 the machine failed.";
  }

  void Declare(CLI::App& app) override {
    app.add_option("RESULT", folder_, "the folder that a job made")
        ->required()
        ->type_name("FOLDER")
        ->group("Arguments");
    trust_.Declare(app);
    AddOption(app, "--metrics", metrics_, "FILE",
              "metrics.jsonl of an output that you unsealed, for its curves", "Result");
    AddOption(app, "-o,--output", output_, "FILE", "where to write the page", "Result")->required();
  }

  absl::StatusOr<Outcome> Run(const Session&) override {
    PAVISE_ASSIGN_OR_RETURN(const job::ResultTrust trust, trust_.Resolve());
    std::optional<train::Metrics> metrics;
    if (!metrics_.empty()) {
      PAVISE_ASSIGN_OR_RETURN(const Bytes lines, ReadFile(metrics_, train::kMaxMetricsBytes));
      PAVISE_ASSIGN_OR_RETURN(metrics, train::ParseMetrics(lines, metrics_));
    }
    const job::ReportInput input{folder_, job::ResultVerifier::Verify(folder_, trust),
                                 std::move(metrics)};
    const std::string page = job::RenderReport(input);
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(output_, AsBytes(page)));
    if (!input.verified.ok()) return input.verified.status();
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline =
        StrCat(Printable(folder_), " holds; ", Printable(output_), " says what was verified");
    outcome.json = {{"report", output_}, {"bytes", page.size()}};
    return outcome;
  }

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return StrCat(Printable(folder_), " is refused, as ", Printable(output_), " says");
  }

 private:
  std::string folder_;
  std::string output_;
  std::string metrics_;
  ResultArguments trust_;
};

}  // namespace

std::unique_ptr<Verb> NewReportVerb() { return std::make_unique<ReportVerb>(); }

}  // namespace pavise::cli
