#ifndef PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_SNP_H_
#define PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_SNP_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/evidence/appraise/snp/snp_appraiser.h"

// An AMD platform under a root of the test's: certificates and reports. Functions abort the program
// where OpenSSL fails.
namespace pavise::evidence::testing {

// All four TCBs of the reports, and that of the certificates.
inline constexpr SnpTcb kTestSnpTcb = {
    .fmc = 1, .boot_loader = 9, .tee = 3, .snp = 23, .microcode = 72};

// What a report says before it is signed, but for what tests write over it.
struct SnpReportOptions {
  SnpProduct product = SnpProduct::kMilan;
  uint32_t version = 3;
  bool vlek = false;
  uint64_t policy = 0x30000 | 1u << 8 | 55;  // SMT allowed, ABI 1.55
};

uint64_t SnpTcbVersion(SnpProduct product, const SnpTcb& tcb);
// Report data 0xd0..., measurement 0x3e...
Bytes UnsignedSnpReport(const SnpReportOptions& options);
void SignSnpReport(crypto::PrivateKey& key, Bytes& report);

// Of a VCEK or VLEK.
crypto::testing::CertificateOptions SnpSigningOptions(SnpProduct product, bool vlek,
                                                      const SnpTcb& tcb = kTestSnpTcb);
// SHA-384; a P-384 key, or RSA-4096 as AMD's, which takes seconds to make.
crypto::testing::CertificateOptions SnpAuthority(
    std::string name, crypto::KeyType key_type = crypto::KeyType::kEcP384);

// A product's chain under a root of the test's.
struct SnpPlatform {
  explicit SnpPlatform(SnpProduct of, bool vlek = false,
                       crypto::KeyType authorities = crypto::KeyType::kEcP384);

  SnpEndorsements endorsements() const { return With(leaf); }
  SnpEndorsements With(const crypto::testing::TestCertificate& signing) const {
    return {signing.certificate, {ask.certificate, ark.certificate}, {}};
  }
  std::vector<SnpRoot> roots() const { return {{product, ark.certificate.Fingerprint()}}; }
  // Changed before it is signed.
  Bytes Report(const std::function<void(Bytes&)>& change = [](Bytes&) {});

  SnpProduct product;
  crypto::testing::TestCertificate ark;
  crypto::testing::TestCertificate ask;
  crypto::testing::TestCertificate leaf;
  SnpReportOptions options;
};

}  // namespace pavise::evidence::testing

#endif  // PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_SNP_H_
