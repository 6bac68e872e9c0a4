#ifndef PAVISE_EVIDENCE_APPRAISE_TPM_CREDENTIAL_H_
#define PAVISE_EVIDENCE_APPRAISE_TPM_CREDENTIAL_H_

#include "pavise/base/bytes.h"
#include "pavise/base/random.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/base/status.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/evidence/appraise/tpm/ek.h"
#include "pavise/evidence/appraise/tpm/tpm_structures.h"

#include "absl/status/statusor.h"

// Enrolment: an attestation key is bound to an endorsement key by a secret that only the TPM with
// both can open (TPM 2.0 Library Part 1, 24: credential protection).
namespace pavise::evidence {

// What goes to the TPM: the arguments of TPM2_ActivateCredential (Part 3, 12.5).
struct CredentialChallenge {
  Bytes credential_blob;   // TPM2B_ID_OBJECT
  Bytes encrypted_secret;  // TPM2B_ENCRYPTED_SECRET
};

// TPM2_MakeCredential (Part 3, 12.6) in software: `credential`, at most as long as the digest of
// the EK's name algorithm (usage error), can be opened by the TPM that holds `ek`, and there only
// for a loaded key named `ak_name`. EKs: RSA, ECC P-256 and P-384, with AES-128 or AES-256 in CFB
// mode. kUnsupported: an EK without such a cipher. Machine failures of OpenSSL.
absl::StatusOr<CredentialChallenge> MakeCredential(const TpmPublic& ek, ByteSpan ak_name,
                                                   const SecretBytes& credential,
                                                   RandomSource& random);

// An attestation key that lives in the TPM of a certified endorsement key.
struct AkClaims {
  TpmPublic ak;
  EkClaims ek;
};

// An enrolment that waits for the TPM's answer. Move-only: it can be finished once.
struct AkEnrolment {
  CredentialChallenge challenge;  // to be sent
  SecretBytes secret;             // never leaves the verifier
  AkClaims claims;                // true once the secret comes back
};

// The verifier's side of an enrolment. The two steps are independent of each other but for the
// AkEnrolment that is carried between them. Thread-safe.
class AkEnroller {
 public:
  // `ak_public`: TPM2B_PUBLIC. kMalformed, kUnsupported, kLimitExceeded; kPlatformInsecure: not an
  // attestation key (CheckAkAttributes).
  static absl::StatusOr<AkEnrolment> Begin(const VerifiedEk& ek, ByteSpan ak_public,
                                           RandomSource& random, CheckList& checks);
  // `activated`: what TPM2_ActivateCredential returned. kBindingMismatch: anything but the secret.
  static absl::StatusOr<Verified<AkClaims, AkEnroller>> Finish(AkEnrolment enrolment,
                                                               const SecretBytes& activated,
                                                               CheckList& checks);
};
using VerifiedAk = Verified<AkClaims, AkEnroller>;

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_TPM_CREDENTIAL_H_
