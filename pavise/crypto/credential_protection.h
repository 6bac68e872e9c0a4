#ifndef PAVISE_CRYPTO_CREDENTIAL_PROTECTION_H_
#define PAVISE_CRYPTO_CREDENTIAL_PROTECTION_H_

#include <memory>
#include <span>

#include "pavise/base/bytes.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/keys.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::crypto {

// The primitives that a TPM's credential protection (TPM 2.0 Library Part 1, 24) is made of; the
// protocol itself is evidence/appraise/tpm/credential.h. All functions are thread-safe and fail as
// the machine unless they say otherwise.

// RSAES-OAEP (RFC 8017, 7.1), `digest` for the label and for MGF1. kKeyUnsupported: no RSA key,
// one with an exponent below 65,537, or one too short for `plain`.
absl::StatusOr<Bytes> EncryptRsaOaep(const PublicKey& key, DigestAlgorithm digest, ByteSpan label,
                                     const SecretBytes& plain, std::string_view item);

// An ECDH agreement of a key made for it with a peer's (SP 800-56A, 6.2.2). Coordinates are
// big-endian and as long as the curve's field.
struct EphemeralAgreement {
  Bytes ephemeral_x, ephemeral_y;
  Bytes peer_x;
  SecretBytes shared_x;
};
// kKeyUnsupported: `peer` is not on P-256, P-384 or P-521.
absl::StatusOr<EphemeralAgreement> AgreeEphemerally(const PublicKey& peer, std::string_view item);

// AES-CFB with segments of 128 bits (SP 800-38A, 6.3) and an initial vector of zeros, so a key may
// encrypt one message only. `key` has 16 or 32 bytes (usage error).
absl::StatusOr<Bytes> EncryptAesCfb(const SecretBytes& key, const SecretBytes& plain);

// HMAC (RFC 2104). The result is secret: it may be a derived key.
absl::StatusOr<SecretBytes> Hmac(DigestAlgorithm digest, const SecretBytes& key, ByteSpan message);

// The same under one key, which is prepared once: for many short messages. For one thread at a
// time.
class HmacKey {
 public:
  static absl::StatusOr<HmacKey> Create(DigestAlgorithm digest, const SecretBytes& key);
  ~HmacKey();
  HmacKey(HmacKey&&) noexcept;
  HmacKey& operator=(HmacKey&&) noexcept;

  // `mac` has the digest's length (usage error).
  absl::Status Compute(ByteSpan message, std::span<uint8_t> mac);

 private:
  struct Context;
  explicit HmacKey(std::unique_ptr<Context> context);
  std::unique_ptr<Context> context_;
};

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_CREDENTIAL_PROTECTION_H_
