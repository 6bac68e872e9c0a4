#ifndef PAVISE_EVIDENCE_APPRAISE_MACHINE_MACHINE_APPRAISER_H_
#define PAVISE_EVIDENCE_APPRAISE_MACHINE_MACHINE_APPRAISER_H_

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/crypto/certificate_memory.h"
#include "pavise/crypto/x509.h"
#include "pavise/evidence/appraise/composite/attestation_result.h"
#include "pavise/evidence/appraise/composite/composite_appraiser.h"
#include "pavise/evidence/appraise/composite/composite_evidence.h"
#include "pavise/evidence/appraise/ima/ima_policy.h"
#include "pavise/evidence/appraise/ima/ima_prefixes.h"
#include "pavise/evidence/appraise/intel/collateral.h"
#include "pavise/evidence/appraise/machine/appraisal_policy.h"
#include "pavise/evidence/appraise/machine/recorded_tee.h"
#include "pavise/evidence/appraise/nvidia/gpu_appraiser.h"
#include "pavise/evidence/appraise/reference/reference_values.h"
#include "pavise/evidence/appraise/tpm/ek.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::evidence {

// What the relying party brings along: anchors and endorsements (RFC 9334), as read from a trust
// folder. Roots of AMD, Intel and NVIDIA are known by fingerprint, wherever their certificates come
// from; of a TPM's maker only where the policy says so (accept_pinned_roots).
struct MachineTrust {
  TpmTrust tpm;
  std::vector<crypto::Certificate> amd;  // ASK, ASVK and ARK, of any product
  std::vector<crypto::RevocationList> amd_revocation_lists;
  IntelCollateral tdx;
  IntelCollateral sgx;
  std::vector<Bytes> driver_rims;
  std::vector<Bytes> vbios_rims;
  GpuTrust gpu;
};

// The outcome of an appraisal, accepted or not.
struct MachineAppraisal {
  // OK exactly where `accepted` is there; else every finding of every part (a refusal), or what
  // failed.
  absl::Status status;
  std::optional<VerifiedComposite> accepted;
  std::vector<ReportSection> sections;  // for FormatReport: every check that was made
  // Reference values and rules that no measurement needed. Not a reason to refuse.
  std::vector<std::string> unused;
  // Devices (PartClaims::machine_ids) whose trusted keys signed this nonce and this session key,
  // also where the rest is refused: whatever is wrong, it is wrong with them. TPMs only: a TEE
  // whose measurement is another is not told apart from one that signed nothing.
  std::set<std::string> signed_by;
};

// Appraises all of a machine's evidence: each part by its appraiser, bound to `nonce` and to the
// session key, then the parts together. A pure function (but for what is kept); thread-safe. A part
// that is refused does not keep the others from being looked at, so that the report is whole.
// `ima`: ImaPolicyOf the same references, from whoever appraises many machines by them; nullptr
// makes it on the spot. `recorded`: nullptr but in tests. `prefixes`: with `ima`, what was accepted
// under it so far, to which this log is added. `certificates`: what is known of the certificates of
// SNP, TDX, SGX and of attestation keys. Both change what an appraisal costs, and no verdict.
MachineAppraisal AppraiseMachine(const CompositeEvidence& evidence, const AppraisalPolicy& policy,
                                 const ReferenceValues& references, const MachineTrust& trust,
                                 const Digest32& nonce, absl::Time at,
                                 const ImaPolicy* ima = nullptr,
                                 const RecordedTee* recorded = nullptr,
                                 ImaPrefixes* prefixes = nullptr,
                                 crypto::CertificateMemory* certificates = nullptr);

// What IMA may have measured. Refusals of ImaRulesOf and of ImaPolicy::Create.
absl::StatusOr<ImaPolicy> ImaPolicyOf(const ReferenceValues& references);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_MACHINE_MACHINE_APPRAISER_H_
