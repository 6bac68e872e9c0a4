#ifndef PAVISE_EVIDENCE_APPRAISE_MACHINE_APPRAISAL_POLICY_H_
#define PAVISE_EVIDENCE_APPRAISE_MACHINE_APPRAISAL_POLICY_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/composite/composite_appraiser.h"
#include "pavise/evidence/appraise/intel/quote_appraiser.h"
#include "pavise/evidence/appraise/snp/snp_appraiser.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// What is asked of a machine's TPM and of what it measured.
struct TpmRules {
  // Names of attestation keys (lower-case hex) that the owners enrolled.
  std::set<std::string> attestation_keys;
  // Accept a quote of which nothing says that a TPM made it. For experiments.
  bool allow_unbound_key = false;
  // Roots of TPM vendors that the product knows by fingerprint are anchors also where their
  // certificates came with the evidence, not from the trust folder.
  bool accept_pinned_roots = false;
  PcrIndices registers;  // must be quoted
  bool event_log = true;
  bool ima = true;
  // Hold the kernel's command line against HostProtections(). Needs reference values of PCR 4, 9,
  // 11, 12 and 13, without which others could stand in for the line that is checked.
  bool host_protections = true;
  std::set<std::string> protection_exceptions;
};

// How a machine's evidence is appraised (docs/formats/appraisal_policy.md). A value type.
struct AppraisalPolicy {
  CompositePolicy composite;
  TpmRules tpm;
  // report_data and the rest that one session decides are the appraisal's to fill in.
  SnpExpectations snp;
  IntelExpectations intel;
  // Names of files, for whoever reads them: reference values, and RIMs of NVIDIA GPUs.
  std::vector<std::string> reference_values;
  std::vector<std::string> driver_rims;
  std::vector<std::string> vbios_rims;
};

// Strict JSON: unknown members, doubled entries, names in the wrong case are kMalformed;
// kUnsupported for a later version.
absl::StatusOr<AppraisalPolicy> ParseAppraisalPolicy(ByteSpan text, std::string_view item);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_MACHINE_APPRAISAL_POLICY_H_
