#ifndef PAVISE_CRYPTO_TESTING_TEST_CERTIFICATES_H_
#define PAVISE_CRYPTO_TESTING_TEST_CERTIFICATES_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/keys.h"
#include "pavise/crypto/x509.h"

#include "absl/time/time.h"

// Certificates made on the spot, for tests of this and higher areas. Every function aborts the
// program where OpenSSL fails: a test could not go on anyway.
namespace pavise::crypto::testing {

// What a certificate says. The defaults make a leaf that may sign models.
struct CertificateOptions {
  std::string common_name = "test signer";
  absl::Time not_before = absl::FromUnixSeconds(1'700'000'000);  // 2023-11-14
  absl::Time not_after = absl::FromUnixSeconds(2'000'000'000);   // 2033-05-18
  KeyType key_type = KeyType::kEcP256;                           // kRsa: 4096 bits, slow to make

  bool is_authority = false;       // basicConstraints CA:TRUE
  std::optional<int> path_length;  // with is_authority
  bool basic_constraints = true;   // false: the extension is left out
  // OpenSSL's configuration syntax; "" leaves the extension out.
  std::string key_usage = "critical,digitalSignature";
  std::string extended_key_usage = "codeSigning";
  // "email:a@b.example,URI:https://c.example", "otherName:1.3.6.1.4.1.57264.1.7;UTF8:name".
  std::string subject_alternative_name;
  // Further extensions, dotted OID and DER value, not critical, in this order; one that stands
  // twice is written twice.
  std::vector<std::pair<std::string, Bytes>> extensions;
  std::string digest = "SHA2-256";  // of the issuer's signature
  int version = 3;
};

// A certificate with its key.
struct TestCertificate {
  Certificate certificate;
  PrivateKey key;
};

// Options for a certificate authority: CA:TRUE, keyCertSign, no extended usage.
CertificateOptions AuthorityOptions(std::string common_name);

// Self-signed.
TestCertificate MakeRoot(const CertificateOptions& options);
// A new key, certified by `issuer` (whether or not that may issue).
TestCertificate Issue(const TestCertificate& issuer, const CertificateOptions& options);
// A certificate for a key held elsewhere (a token's, an RSA key): `options.key_type` is ignored.
Certificate IssueFor(const TestCertificate& issuer, const PublicKey& key,
                     const CertificateOptions& options);

// `count` certificate timestamps by `log_key` are embedded as RFC 6962 says: first the certificate
// without them is what the log signs. `timestamp` is theirs.
TestCertificate IssueWithScts(const TestCertificate& issuer, const CertificateOptions& options,
                              PrivateKey& log_key, absl::Time timestamp, int count = 1);

// What a revocation list says. `critical_extension` adds an issuingDistributionPoint of a partial
// list.
struct RevocationListOptions {
  absl::Time this_update = absl::FromUnixSeconds(1'700'000'000);
  std::optional<absl::Time> next_update = absl::FromUnixSeconds(2'000'000'000);
  std::vector<Certificate> revoked;
  bool critical_extension = false;
  std::string digest = "SHA2-256";
};
// A list under `issuer`'s name and key, as DER.
Bytes MakeRevocationList(const TestCertificate& issuer, const RevocationListOptions& options);

// The DER of a UTF8String, the form of Fulcio's extensions under 1.3.6.1.4.1.57264.1.8 and later.
Bytes Utf8StringDer(std::string_view text);

// The PEM texts one after the other.
std::string ChainPem(const std::vector<Certificate>& certificates);

}  // namespace pavise::crypto::testing

#endif  // PAVISE_CRYPTO_TESTING_TEST_CERTIFICATES_H_
