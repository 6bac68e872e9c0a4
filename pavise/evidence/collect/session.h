#ifndef PAVISE_EVIDENCE_COLLECT_SESSION_H_
#define PAVISE_EVIDENCE_COLLECT_SESSION_H_

#include <optional>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/appraise/composite/composite_evidence.h"
#include "pavise/evidence/collect/linux/kernel_logs.h"
#include "pavise/evidence/collect/tpm/tpm_context.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// Which devices are asked, and for what. A device that is asked and cannot answer refuses the
// whole: what is left out is left out by name.
struct CollectionOptions {
  bool gpus = false;
  bool tee = false;
  // A report request of configfs-tsm that exists already, as root gives it to who may not make one;
  // "": a new one.
  std::string tsm_request;
  std::optional<std::string> tcti = "device:/dev/tpmrm0";  // nullopt: no TPM
  AkKind ak_kind = AkKind::kEcdsaP256;
  PcrIndices pcrs = DefaultPcrs();
  bool event_log = true;
  bool ima_log = true;
  KernelLogPaths logs;

  // SHA-256 of 0 to 14: firmware, boot loader, kernel, IMA, what systemd's stub measures, keys of
  // shim.
  static PcrIndices DefaultPcrs();
};

// Evidence of this machine for one challenge and one session key, in the order that binds the parts
// to each other (docs/formats/evidence.md): GPUs, TPM, TEE. The logs are read after the quote, so
// that they hold at least what was quoted. Refusals of the collectors.
absl::StatusOr<CompositeEvidence> CollectEvidence(const CollectionOptions& options,
                                                  const Digest32& nonce,
                                                  const crypto::PublicKey& session_key);

// Opens a credential that AkEnroller made for this TPM's endorsement key (the one whose certificate
// CollectEvidence names) and attestation key. As TpmContext::ActivateCredential.
absl::StatusOr<SecretBytes> ActivateCredential(const CollectionOptions& options,
                                               const CredentialChallenge& challenge);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_COLLECT_SESSION_H_
