#ifndef PAVISE_CLI_LOG_TRUST_H_
#define PAVISE_CLI_LOG_TRUST_H_

#include <string>
#include <vector>

#include "pavise/ledger/checkpoint.h"

#include "absl/status/statusor.h"

namespace CLI {
class App;
}  // namespace CLI

namespace pavise::cli {

// The keys of a ledger and of whoever cosigns its checkpoints, as options.
struct LogTrust {
  std::string log_key;
  std::vector<std::string> cosigners;
  std::string required;

  void Declare(CLI::App& app);
  absl::StatusOr<ledger::CheckpointTrust> Resolve() const;
};

}  // namespace pavise::cli

#endif  // PAVISE_CLI_LOG_TRUST_H_
