#ifndef PAVISE_CLI_EVIDENCE_ARGUMENTS_H_
#define PAVISE_CLI_EVIDENCE_ARGUMENTS_H_

#include <string>

#include "pavise/evidence/collect/session.h"

#include "absl/status/statusor.h"

namespace CLI {
class App;
}  // namespace CLI

namespace pavise::cli {

// Which evidence of this machine is collected.
class EvidenceArguments {
 public:
  void Declare(CLI::App& app);
  // Usage errors: options that contradict each other or leave nothing to collect.
  absl::StatusOr<evidence::CollectionOptions> Resolve() const;

 private:
  std::string tcti_;
  std::string ak_ = "ecc";
  bool no_tpm_ = false;
  bool no_event_log_ = false;
  bool no_ima_log_ = false;
  evidence::CollectionOptions options_;
};

}  // namespace pavise::cli

#endif  // PAVISE_CLI_EVIDENCE_ARGUMENTS_H_
