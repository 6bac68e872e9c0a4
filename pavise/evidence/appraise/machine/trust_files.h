#ifndef PAVISE_EVIDENCE_APPRAISE_MACHINE_TRUST_FILES_H_
#define PAVISE_EVIDENCE_APPRAISE_MACHINE_TRUST_FILES_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/machine/machine_appraiser.h"

#include "absl/status/statusor.h"

// The files of a trust folder (docs/formats/appraisal_policy.md, "Trust folder"), wherever they
// come from:
//   tpm/*                     certificates of TPM vendors' authorities: the self-signed are anchors
//   tpm/revoked               fingerprints (lower-case hex SHA-256) of certificates, one a line
//   amd/*                     ASK, ASVK, ARK, and (*.crl) AMD's revocation lists
//   intel/tdx/, intel/sgx/    tcb_info.json, tcb_info_chain.pem, qe_identity.json,
//                             qe_identity_chain.pem
//   intel/root.crl, intel/pck.crl
//   nvidia/*                  certificates that GPUs do not bring along
namespace pavise::evidence {

inline constexpr uint64_t kMaxTrustFileBytes = uint64_t{64} << 20;

// Whether a path from the folder is one of those above.
bool IsTrustFile(std::string_view name);

// All are optional; what is missing is missed by the appraiser that needs it. A file that does not
// parse refuses all, kMalformed a name that is none of the above; refusals name `folder`/name.
absl::StatusOr<MachineTrust> ParseTrustFiles(const std::map<std::string, Bytes>& files,
                                             std::string_view folder);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_MACHINE_TRUST_FILES_H_
