#ifndef PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_TPM_H_
#define PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_TPM_H_

#include "pavise/base/bytes.h"
#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/evidence/appraise/tpm/ek.h"
#include "pavise/evidence/appraise/tpm/quote.h"

namespace pavise::evidence::testing {

// A TPM made on the spot: what one would send, signed by P-256 keys of the test's. Aborts the
// program where OpenSSL fails.
struct TestTpm {
  TestTpm();

  // TPM2B_PUBLIC.
  Bytes EkPublic() const;  // a restricted storage key, without a policy
  Bytes AkPublic() const;  // ECDSA with SHA-256
  // The EK's certificate leads over an intermediate to a root.
  TpmTrust trust() const;
  // Over every value that there is in `pcrs`.
  QuoteEvidence Quote(ByteSpan nonce, const PcrValues& pcrs);

  crypto::testing::TestCertificate root;
  crypto::testing::TestCertificate intermediate;
  crypto::PrivateKey ek;
  crypto::PrivateKey ak;
  crypto::Certificate ek_certificate;
};

}  // namespace pavise::evidence::testing

#endif  // PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_TPM_H_
