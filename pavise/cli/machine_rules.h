#ifndef PAVISE_CLI_MACHINE_RULES_H_
#define PAVISE_CLI_MACHINE_RULES_H_

#include <string>

#include "pavise/evidence/appraise/machine/machine_appraiser.h"

#include "absl/status/statusor.h"

namespace pavise::cli {

// What evidence is held against: a policy, and the files that it names, from its own folder.
struct MachineRules {
  evidence::AppraisalPolicy policy;
  evidence::ReferenceValues references;
  evidence::MachineTrust trust;
};

// `trust_folder`: as ReadTrustFolder, "" for none. Refusals of files that cannot be read or do not
// parse.
absl::StatusOr<MachineRules> ReadMachineRules(const std::string& policy_path,
                                              const std::string& trust_folder);
// One file of reference values.
absl::StatusOr<evidence::ReferenceValues> ReadReferences(const std::string& path);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_MACHINE_RULES_H_
