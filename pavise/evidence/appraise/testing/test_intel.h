#ifndef PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_INTEL_H_
#define PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_INTEL_H_

#include <functional>
#include <string>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/evidence/appraise/intel/quote_appraiser.h"

// An Intel platform under a root of the test's: certificates, collateral and quotes.
namespace pavise::evidence::testing {

// What a quote is made of, before it is signed.
struct QuoteOptions {
  uint16_t version = 4;
  bool tdx = true;
  bool tdx_15 = false;  // the body of TDX 1.5, and a module of version 1.5
  std::function<void(Bytes& header)> header;
  std::function<void(Bytes& body)> body;
  std::function<void(Bytes& report)> quoting_enclave;  // before its report data is set
};

// The extension 1.2.840.113741.1.13.1 of the platform below.
Bytes SgxExtension();

struct IntelPlatform {
  IntelPlatform();

  std::string root_fingerprint() const { return root.certificate.Fingerprint(); }
  // PCK, CA, root; with another leaf where one is given.
  std::string PckChain(const crypto::Certificate* leaf = nullptr) const;
  Bytes Quote(const QuoteOptions& options) { return QuoteWith(options, pck, PckChain()); }
  Bytes QuoteWith(const QuoteOptions& options, crypto::testing::TestCertificate& by,
                  const std::string& chain);
  // Good for the platform's quotes.
  IntelCollateral Collateral(bool tdx);
  // {"member": body, "signature": "..."}, signed by `by` or the TCB signing key.
  Bytes Sign(std::string_view member, const OrderedJson& body,
             crypto::testing::TestCertificate* by = nullptr);
  static OrderedJson TcbInfo(bool tdx);
  static OrderedJson QeIdentity(bool tdx);

  crypto::testing::TestCertificate root;
  crypto::testing::TestCertificate pck_ca;
  crypto::testing::TestCertificate tcb_signing;
  crypto::testing::TestCertificate pck;
};

}  // namespace pavise::evidence::testing

#endif  // PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_INTEL_H_
