#ifndef PAVISE_EVIDENCE_APPRAISE_TPM_QUOTE_H_
#define PAVISE_EVIDENCE_APPRAISE_TPM_QUOTE_H_

#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/evidence/appraise/tpm/credential.h"
#include "pavise/evidence/appraise/tpm/ek.h"
#include "pavise/evidence/appraise/tpm/pcr.h"
#include "pavise/evidence/appraise/tpm/tpm_structures.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// A TPM's statement about its PCRs, as it was sent.
struct QuoteEvidence {
  Bytes ak_public;  // TPM2B_PUBLIC
  Bytes quote;      // TPMS_ATTEST
  Bytes signature;  // TPMT_SIGNATURE
  PcrValues pcrs;   // believed as far as the quote's digest covers them
};

// Why the attestation key is believed to be a TPM's.
enum class AkBinding {
  kNone,         // it is not: anybody's key may have signed
  kEk,           // enrolled: in the TPM of a certified endorsement key
  kCertificate,  // certified itself
  kPinned,       // its name is one that the owners listed
};
// "none", "ek", "certificate", "pinned".
std::string_view AkBindingName(AkBinding binding);

// What a quote is held against. At most one of `enrolled` and `certified` is taken: `enrolled`
// first. A key given by any of the three must be the one that signed.
struct QuoteExpectation {
  Bytes nonce;      // not empty (usage error)
  PcrIndices pcrs;  // must be among those that are quoted; others may be quoted as well
  const VerifiedAk* enrolled = nullptr;            // must outlive the call
  const VerifiedCertifiedAk* certified = nullptr;  // must outlive the call
  std::set<std::string> pinned_ak_names;           // lower-case hex; empty: none is pinned
};

struct QuoteClaims {
  TpmPublic ak;
  // What the key's trust rests on. kNone is for the caller to judge: such a quote says nothing
  // about which TPM signed, or whether one did.
  AkBinding ak_bound_to = AkBinding::kNone;
  std::optional<TpmIdentity> tpm;  // with kEk and kCertificate
  PcrValues pcrs;                  // the quoted ones, and no others
  Bytes qualified_signer;
  TpmClock clock;
  uint64_t firmware_version = 0;
};

// Appraises a quote (TPM2_Quote; TPM 2.0 Library Part 3, 18.4): the key is an attestation key, it
// signed this quote with its own scheme, for this nonce, and the reported values are those that it
// digested. What the values mean is for event logs and reference values to say.
// Reasons: kMalformed, kUnsupported, kLimitExceeded (form), kPlatformInsecure (key),
// kKeyUnsupported, kSignatureInvalid, kNonceMismatch, kMeasurementMismatch (values),
// kEvidenceMissing (a wanted PCR is not quoted, or a quoted one not reported), kBindingMismatch
// (another key than the bound one). Pure and thread-safe.
class QuoteAppraiser {
 public:
  static absl::StatusOr<Verified<QuoteClaims, QuoteAppraiser>> Appraise(
      const QuoteEvidence& evidence, const QuoteExpectation& expected, CheckList& checks);
};
using VerifiedQuote = Verified<QuoteClaims, QuoteAppraiser>;

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_TPM_QUOTE_H_
