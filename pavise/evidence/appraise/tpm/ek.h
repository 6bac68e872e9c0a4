#ifndef PAVISE_EVIDENCE_APPRAISE_TPM_EK_H_
#define PAVISE_EVIDENCE_APPRAISE_TPM_EK_H_

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/crypto/certificate_memory.h"
#include "pavise/crypto/x509.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/evidence/appraise/tpm/tpm_structures.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::evidence {

// A TPM vendor's root that the product knows.
struct PinnedTpmRoot {
  std::string_view name;
  std::string_view fingerprint;  // lower-case hex SHA-256 of the certificate
};
const std::vector<PinnedTpmRoot>& PinnedTpmRoots();

// Whose certificates of TPM keys are believed.
struct TpmTrust {
  // Anchors that the user gave.
  std::vector<crypto::Certificate> roots;
  // Certificates that the user gave, too. One of these is an anchor where its fingerprint is
  // pinned, and an intermediate otherwise.
  std::vector<crypto::Certificate> others;
  // Certificates that came with the evidence: intermediates, never anchors.
  std::vector<crypto::Certificate> sent;
  // Fingerprints (lower-case hex SHA-256) of certificates that are believed no more.
  std::set<std::string> revoked;
};

// What a certificate says of a TPM. The vendor's words, not checked any further.
struct TpmIdentity {
  std::string manufacturer;  // "id:00001014" (TCG Vendor ID Registry); "" where it is not stated
  std::string model, version;
  std::string certificate_fingerprint;
  std::string root;  // subject of the anchor
  std::string root_fingerprint;
};

// An endorsement key: it lives in a TPM that the manufacturer certified.
struct EkClaims {
  TpmPublic ek;
  TpmIdentity tpm;
};

// Holds an endorsement key against its certificate: its chain ends at an anchor and none of it is
// revoked; it certifies an endorsement key (2.23.133.8.1, where it states usages) and this one; the
// public area is that of a restricted storage key that never leaves its TPM. That the machine which
// sent this also holds the key shows in the enrolment only (credential.h).
// Source: TCG EK Credential Profile 2.5. Reasons: kMalformed, kUnsupported, kLimitExceeded,
// kCertificateInvalid, kRevoked, kBindingMismatch, kPlatformInsecure. Pure and thread-safe.
class EkAppraiser {
 public:
  // `ek_public`: TPM2B_PUBLIC. Certificates are held against `at`.
  static absl::StatusOr<Verified<EkClaims, EkAppraiser>> Appraise(
      ByteSpan ek_public, const crypto::Certificate& certificate, const TpmTrust& trust,
      absl::Time at, CheckList& checks);
};
using VerifiedEk = Verified<EkClaims, EkAppraiser>;

// An attestation key with a certificate of its own, as cloud providers issue them.
struct CertifiedAkClaims {
  TpmPublic ak;
  TpmIdentity tpm;
};

// The same for an attestation key's certificate (usage 2.23.133.8.3; or 2.23.133.8.1, which Google
// writes). It is the certificate's issuer who says that the key cannot leave its TPM and signs only
// what the TPM made: the attributes in `ak_public` are checked, and are the sender's word.
class AkCertificateAppraiser {
 public:
  // `ak_public`: TPM2B_PUBLIC. `memory`: may be nullptr; changes what this costs, and no verdict.
  static absl::StatusOr<Verified<CertifiedAkClaims, AkCertificateAppraiser>> Appraise(
      ByteSpan ak_public, const crypto::Certificate& certificate, const TpmTrust& trust,
      absl::Time at, CheckList& checks, crypto::CertificateMemory* memory = nullptr);
};
using VerifiedCertifiedAk = Verified<CertifiedAkClaims, AkCertificateAppraiser>;

// That `ak` can be an attestation key: restricted, signs and does not decrypt, made in the TPM and
// bound to it, with a scheme. Records the check "AK attributes".
void CheckAkAttributes(const TpmPublic& ak, CheckList& checks);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_TPM_EK_H_
