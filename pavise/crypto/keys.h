#ifndef PAVISE_CRYPTO_KEYS_H_
#define PAVISE_CRYPTO_KEYS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/crypto/digest.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::crypto {

enum class KeyType { kEcP256, kEcP384, kEcP521, kEd25519, kRsa, kOther };

// "P-256", "Ed25519", ...
std::string_view KeyTypeName(KeyType type);
// P-256, P-384 or P-521: the only keys that OMS signs with.
bool IsOmsKey(KeyType type);

// How a signature of evidence was made. ECDSA in two encodings: DER (RFC 3279), or r || s,
// big-endian and each as long as the curve's field.
enum class SignatureScheme {
  kEcdsaDer,
  kEcdsaRaw,
  kRsaPkcs1,  // RFC 8017, 8.2
  kRsaPss,    // RFC 8017, 8.1, MGF1 with the message's digest, salt of any length
};

// An immutable public key (SubjectPublicKeyInfo). Copies share the key; thread-safe.
class PublicKey {
 public:
  // One "PUBLIC KEY" PEM block; explanatory text may come before it (RFC 7468, section 2), only
  // white space after. Refused: points off the curve, explicit curve parameters, RSA under 2,048
  // bits or with an exponent that is 1, even or over 256 bits; EC keys on other curves and other
  // algorithms are kOther. kMalformed, kKeyUnsupported, kLimitExceeded (over 16 KiB of DER).
  static absl::StatusOr<PublicKey> FromPem(std::string_view pem, std::string_view item);
  static absl::StatusOr<PublicKey> FromDer(ByteSpan spki, std::string_view item);

  KeyType type() const;
  // DER and PEM (64 columns, trailing newline) of the SubjectPublicKeyInfo, encoded anew with EC
  // points uncompressed: one key has one encoding, whatever spelling was read.
  const Bytes& der() const;
  std::string ToPem() const;
  // Lower-case hex SHA-256 of the PEM text: the OMS `publicKey.hint`.
  std::string OmsHint() const;
  // Lower-case hex SHA-256 of the DER: what trust policies and messages name keys by.
  std::string Fingerprint() const;

  // Verifies over the message (hashed here). EC: ECDSA, `signature` in DER, hash fixed by the curve
  // (P-256 SHA-256, P-384 SHA-384, P-521 SHA-512); Ed25519: RFC 8032; RSA: PKCS #1 v1.5 with
  // SHA-256. kSignatureInvalid names `item`. ECDSA signatures must be canonical DER.
  absl::Status Verify(ByteSpan message, ByteSpan signature, std::string_view item) const;
  // ECDSA with SHA-256 whatever the curve: OMS release 0.2.0 only.
  absl::Status VerifyEcdsaSha256(ByteSpan message, ByteSpan signature, std::string_view item) const;

  // Verifies over the message under a scheme and digest that its format names: SHA-1 and BLAKE2b
  // are kUnsupported. kKeyUnsupported: a scheme that is not this key's; kSignatureInvalid.
  absl::Status VerifyAs(SignatureScheme scheme, DigestAlgorithm digest, ByteSpan message,
                        ByteSpan signature, std::string_view item) const;

  // The same over a message's digest, for formats that sign a digest which they already hold:
  // kEcdsaDer and kRsaPkcs1 only. kMalformed: a digest of another length than its algorithm's.
  absl::Status VerifyDigest(SignatureScheme scheme, DigestAlgorithm algorithm, ByteSpan digest,
                            ByteSpan signature, std::string_view item) const;

  // From big-endian coordinates, each at most as long as the curve's field (P-256, P-384, P-521).
  // kMalformed off the curve.
  static absl::StatusOr<PublicKey> FromEcCoordinates(KeyType type, ByteSpan x, ByteSpan y,
                                                     std::string_view item);
  // From a big-endian modulus; refused as by FromDer, and with an exponent below 65,537.
  static absl::StatusOr<PublicKey> FromRsaModulus(ByteSpan modulus, uint32_t exponent,
                                                  std::string_view item);

  friend bool operator==(const PublicKey& a, const PublicKey& b);

  struct Native;  // holds the library's key; defined in internal/
  const Native& native() const { return *native_; }
  explicit PublicKey(std::shared_ptr<const Native> native) : native_(std::move(native)) {}

 private:
  std::shared_ptr<const Native> native_;
};

// An ECDSA signature in DER as r || s, each as long as the curve's field: JOSE's and SPDM's form.
// kSignatureInvalid: not DER, or r or s out of range; kKeyUnsupported: no key on such a curve.
absl::StatusOr<Bytes> EcdsaRawFromDer(KeyType type, ByteSpan der, std::string_view item);

// Something that signs: a key in memory, or one in a PKCS#11 token.
class Signer {
 public:
  virtual ~Signer() = default;
  virtual const PublicKey& public_key() const = 0;
  // What PublicKey::Verify accepts: DER ECDSA over the message, hash fixed by the curve; Ed25519.
  virtual absl::StatusOr<Bytes> Sign(ByteSpan message) = 0;
};

// A private key in memory. Move-only; not thread-safe.
class PrivateKey final : public Signer {
 public:
  // kEcP256, kEcP384, kEcP521 or kEd25519; others are a usage error.
  static absl::StatusOr<PrivateKey> Generate(KeyType type);
  // PKCS#8 (plain or encrypted) or SEC 1 PEM of an EC key: what signs models. kKeyUnsupported:
  // wrong curve, wrong or missing password (never asked for on the terminal); kMalformed.
  static absl::StatusOr<PrivateKey> FromPem(const SecretBytes& pem, const SecretBytes& password,
                                            std::string_view item);
  // The same, of an Ed25519 or RSA key too: what signs statements and opens wrapped keys.
  static absl::StatusOr<PrivateKey> FromPemOfAnyType(const SecretBytes& pem,
                                                     const SecretBytes& password,
                                                     std::string_view item);
  ~PrivateKey() override;
  PrivateKey(PrivateKey&&) noexcept;
  PrivateKey& operator=(PrivateKey&&) noexcept;

  // PKCS#8; with a password: PBES2, AES-256-CBC, PBKDF2 with HMAC-SHA-256.
  absl::StatusOr<SecretBytes> ToPem(const SecretBytes& password) const;

  const PublicKey& public_key() const override { return public_key_; }
  absl::StatusOr<Bytes> Sign(ByteSpan message) override;

  // ECDH (SP 800-56A, 5.7.1.2): the x coordinate, as long as the curve's field. kKeyUnsupported:
  // this key or `peer` is not EC, or they lie on different curves. (A PublicKey is a point on its
  // curve.)
  absl::StatusOr<SecretBytes> Agree(const PublicKey& peer, std::string_view item) const;
  // RSAES-OAEP (RFC 8017, 7.1.2), `digest` for the label and MGF1, an empty label.
  // kKeyUnsupported: not an RSA key; kContentMismatch: does not decrypt.
  absl::StatusOr<SecretBytes> DecryptRsaOaep(DigestAlgorithm digest, ByteSpan encrypted,
                                             std::string_view item) const;

 private:
  struct Native;
  PrivateKey(std::unique_ptr<Native> native, PublicKey public_key);
  std::unique_ptr<Native> native_;
  PublicKey public_key_;
};

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_KEYS_H_
