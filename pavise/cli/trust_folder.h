#ifndef PAVISE_CLI_TRUST_FOLDER_H_
#define PAVISE_CLI_TRUST_FOLDER_H_

#include <string>

#include "pavise/evidence/appraise/machine/machine_appraiser.h"

#include "absl/status/statusor.h"

namespace pavise::cli {

// Endorsements on disk, for appraisals without a network (docs/formats/appraisal_policy.md, "Trust
// folder"). All files are optional; what is missing is missed by the appraiser that needs it:
//   tpm/*.pem, *.crt, *.der   certificates of TPM vendors' authorities: the self-signed are anchors
//   tpm/revoked               fingerprints (lower-case hex SHA-256) of certificates, one a line
//   amd/*.pem, *.der, *.crl   ASK, ASVK, ARK, and AMD's revocation lists
//   intel/tdx/, intel/sgx/    tcb_info.json, tcb_info_chain.pem, qe_identity.json,
//                             qe_identity_chain.pem
//   intel/root.crl, intel/pck.crl
//   nvidia/*.pem              roots that GPUs do not bring along
// A file that does not parse refuses the whole folder.
absl::StatusOr<evidence::MachineTrust> ReadTrustFolder(const std::string& folder);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_TRUST_FOLDER_H_
