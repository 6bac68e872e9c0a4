// The input is an appraisal policy. What is accepted asks for evidence, and never accepts a host
// without an event log to see its protections in; it is read the same way twice.

#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/evidence/appraise/machine/appraisal_policy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise::evidence;
  const auto policy = ParseAppraisalPolicy({data, size}, "input");
  if (!policy.ok()) {
    if (pavise::ExitCodeOf(policy.status()) != 1) abort();
    return 0;
  }
  if (policy->composite.required.empty()) abort();
  if (policy->tpm.host_protections && !policy->tpm.event_log) abort();
  for (const auto& [bank, indices] : policy->tpm.registers) {
    for (const uint32_t index : indices) {
      if (index >= kPcrCount) abort();
    }
  }
  if (policy->intel.accepted_statuses.contains(IntelTcbStatus::kRevoked)) abort();
  const auto again = ParseAppraisalPolicy({data, size}, "input");
  if (!again.ok() || again->tpm.registers != policy->tpm.registers ||
      again->tpm.attestation_keys != policy->tpm.attestation_keys) {
    abort();
  }
  return 0;
}
