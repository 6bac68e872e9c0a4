#ifndef PAVISE_CLI_RESULT_ARGUMENTS_H_
#define PAVISE_CLI_RESULT_ARGUMENTS_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pavise/agent/provenance.h"
#include "pavise/base/json.h"
#include "pavise/cli/log_trust.h"
#include "pavise/cli/verb.h"
#include "pavise/job/result.h"

#include "absl/status/statusor.h"

namespace CLI {
class App;
}  // namespace CLI

namespace pavise::cli {

// What an owner holds a job's result against.
struct ResultArguments {
  std::string agreement;
  std::string broker_key;
  LogTrust log;

  void Declare(CLI::App& app);
  absl::StatusOr<job::ResultTrust> Resolve() const;
};

// What a run's statement says of the weights that its command kept in memory.
void AddResidentWeights(const agent::Provenance& run,
                        std::vector<std::pair<std::string, std::string>>& rows, OrderedJson& json);

// Adds what was verified to the outcome's text and JSON.
void DescribeResult(const job::VerifiedResult& result, Outcome& outcome);

std::unique_ptr<Verb> NewReportVerb();

}  // namespace pavise::cli

#endif  // PAVISE_CLI_RESULT_ARGUMENTS_H_
