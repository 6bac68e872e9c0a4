#include "pavise/cli/machine_rules.h"

#include <filesystem>
#include <utility>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/cli/trust_folder.h"

namespace pavise::cli {
namespace {

constexpr uint64_t kMostPolicyBytes = uint64_t{1} << 20;
constexpr uint64_t kMostRimBytes = uint64_t{4} << 20;

// A name in a policy, from the policy's own folder.
std::string Beside(const std::string& policy_path, const std::string& name) {
  if (!name.empty() && name[0] == '/') return name;
  return (std::filesystem::path(policy_path).parent_path() / name).string();
}

}  // namespace

absl::StatusOr<evidence::ReferenceValues> ReadReferences(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(path, evidence::kMaxReferenceBytes));
  return evidence::ParseReferenceValues(content, path);
}

absl::StatusOr<MachineRules> ReadMachineRules(const std::string& policy_path,
                                              const std::string& trust_folder) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(policy_path, kMostPolicyBytes));
  MachineRules rules;
  PAVISE_ASSIGN_OR_RETURN(rules.policy, evidence::ParseAppraisalPolicy(text, policy_path));
  if (!trust_folder.empty()) {
    PAVISE_ASSIGN_OR_RETURN(rules.trust, ReadTrustFolder(trust_folder));
  }
  for (const std::string& name : rules.policy.driver_rims) {
    PAVISE_ASSIGN_OR_RETURN(Bytes rim, ReadFile(Beside(policy_path, name), kMostRimBytes));
    rules.trust.driver_rims.push_back(std::move(rim));
  }
  for (const std::string& name : rules.policy.vbios_rims) {
    PAVISE_ASSIGN_OR_RETURN(Bytes rim, ReadFile(Beside(policy_path, name), kMostRimBytes));
    rules.trust.vbios_rims.push_back(std::move(rim));
  }
  for (const std::string& name : rules.policy.reference_values) {
    PAVISE_ASSIGN_OR_RETURN(const evidence::ReferenceValues more,
                            ReadReferences(Beside(policy_path, name)));
    PAVISE_RETURN_IF_ERROR(rules.references.Merge(more));
  }
  return rules;
}

}  // namespace pavise::cli
