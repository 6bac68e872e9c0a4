#ifndef PAVISE_CRYPTO_X509_H_
#define PAVISE_CRYPTO_X509_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/keys.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::crypto {

struct SubjectAlternativeName {
  enum class Kind { kEmail, kUri, kDns, kOtherName } kind;
  std::string
      value;  // kOtherName: the UTF-8 string of the Fulcio otherName (1.3.6.1.4.1.57264.1.7)
};

// An immutable X.509 certificate (RFC 5280). Copies share it; thread-safe.
class Certificate {
 public:
  // kMalformed: not DER (the encoding is held to the letter), bytes after it, an extension that
  // stands twice. kLimitExceeded: over 64 KiB.
  static absl::StatusOr<Certificate> FromDer(ByteSpan der, std::string_view item);
  // Every "CERTIFICATE" block of a PEM file, in order, at least one, at most 1,000. Text between
  // blocks is passed over, blocks of other kinds are kMalformed. kLimitExceeded: more blocks, or
  // over 16 MiB.
  static absl::StatusOr<std::vector<Certificate>> ListFromPem(std::string_view pem,
                                                              std::string_view item);

  const Bytes& der() const;
  std::string ToPem() const;
  std::string subject() const;  // RFC 2253
  // The subject's common name as UTF-8; "" where it has none or more than one. Names of purposes
  // are to be compared with this: in subject() another attribute may look like one.
  std::string CommonName() const;
  std::string issuer() const;
  std::string SerialHex() const;  // lower case
  // Lower-case hex SHA-256 of the DER.
  std::string Fingerprint() const;
  // An ECDSA signature (r, s) has a twin (r, n - s) that verifies as well, and anybody can put it
  // into a certificate: the fingerprint of that other certificate, "" where the signature is not
  // ECDSA. Whoever looks a fingerprint up in a list of refused ones must look both up.
  absl::StatusOr<std::string> TwinFingerprint(const PublicKey& issuer_key) const;
  absl::Time not_before() const;
  absl::Time not_after() const;
  absl::StatusOr<PublicKey> public_key() const;
  bool is_self_issued() const;

  // Empty without the extension; kinds of names that no signer goes by (IP addresses, directory
  // names, foreign otherNames) are left out. kMalformed: not DER; kCertificateInvalid: a name with
  // control characters (NUL among them), not ASCII, or (otherName) not UTF-8.
  absl::StatusOr<std::vector<SubjectAlternativeName>> SubjectAlternativeNames() const;
  // The attributes of the directory names among the alternative names, dotted OID and text, in
  // order: how TPM vendors name their TPMs (TCG EK Credential Profile 2.5, 3.2.9). Empty without
  // any. Refused as by SubjectAlternativeNames.
  absl::StatusOr<std::vector<std::pair<std::string, std::string>>> DirectoryNameAttributes() const;
  // Extended key usages as dotted OIDs; nullopt without the extension. kMalformed.
  absl::StatusOr<std::optional<std::vector<std::string>>> ExtendedKeyUsages() const;
  // The raw value of an extension by dotted OID; nullopt when absent.
  std::optional<Bytes> Extension(const std::string& oid) const;
  // KeyUsage digitalSignature, or (where that is absent or without it) EKU codeSigning: the OMS
  // rule.
  bool MaySignModels() const;
  bool HasCodeSigningUsage() const;

  struct Native;
  const Native& native() const { return *native_; }
  explicit Certificate(std::shared_ptr<const Native> native) : native_(std::move(native)) {}

 private:
  std::shared_ptr<const Native> native_;
};

// The operating system's trusted roots (/etc/ssl/certs/ca-certificates.crt).
absl::StatusOr<std::vector<Certificate>> SystemRoots();

// RFC 5280 path validation of `leaf` through any of `intermediates` to any of `roots`, all validity
// periods held against `at`. Trust anchors need not be self-signed when `partial_chain`. Returns
// the chain found, leaf first. At most 16 intermediates; at least 112 bits of security, so no MD5
// or SHA-1 signatures and no RSA keys under 2,048 bits. The leaf's purpose is the caller's to check
// (MaySignModels). kCertificateInvalid says which certificate and why ("expired on ...").
absl::StatusOr<std::vector<Certificate>> VerifyChain(const Certificate& leaf,
                                                     const std::vector<Certificate>& intermediates,
                                                     const std::vector<Certificate>& roots,
                                                     absl::Time at, bool partial_chain = false);

// An immutable certificate revocation list (RFC 5280, section 5) of the complete kind: partial,
// indirect and delta lists are refused. Copies share it; thread-safe.
class RevocationList {
 public:
  // kMalformed: not DER to the letter, bytes after it, no nextUpdate, a date that is none.
  // kUnsupported: a critical extension of the list or of an entry. kLimitExceeded: over 16 MiB.
  static absl::StatusOr<RevocationList> FromDer(ByteSpan der, std::string_view item);
  // One "X509 CRL" block.
  static absl::StatusOr<RevocationList> FromPem(std::string_view pem, std::string_view item);

  std::string issuer() const;  // RFC 2253
  absl::Time this_update() const;
  absl::Time next_update() const;

  struct Native;
  const Native& native() const { return *native_; }
  explicit RevocationList(std::shared_ptr<const Native> native) : native_(std::move(native)) {}

 private:
  std::shared_ptr<const Native> native_;
};

// Holds every certificate of `chain` but the last against a list of its issuer, the next one in
// `chain` (what VerifyChain returned, or a part of it that ends with an issuer). A list counts
// where it has the issuer's name, verifies under its key with SHA-256 or longer
// (kSignatureInvalid), the issuer may sign lists (kCertificateInvalid), and `at` lies between its
// dates (kCertificateInvalid). kEvidenceMissing: no list of an issuer. kRevoked names the
// certificate. Where several lists of one issuer are given, each must pass.
absl::Status CheckRevocation(const std::vector<Certificate>& chain,
                             const std::vector<RevocationList>& lists, absl::Time at);

// A certificate transparency log's key (RFC 6962) and the period it is trusted for.
struct CtLog {
  PublicKey key;
  absl::Time valid_from = absl::InfinitePast();
  absl::Time valid_until = absl::InfiniteFuture();
};

// At least one signed certificate timestamp embedded in `leaf` (RFC 6962, 3.3) verifies under one
// of `logs` within that log's period. `issuer` is the certificate that signed `leaf`.
// kTransparencyInvalid.
absl::Status VerifyEmbeddedScts(const Certificate& leaf, const Certificate& issuer,
                                const std::vector<CtLog>& logs);

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_X509_H_
