#ifndef PAVISE_CRYPTO_JWE_H_
#define PAVISE_CRYPTO_JWE_H_

#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/crypto/keys.h"

#include "absl/status/statusor.h"

namespace pavise::crypto {

// JSON Web Encryption (RFC 7516) of a key or another short secret to one recipient, in the
// flattened JSON form (7.2.2): members protected, encrypted_key, iv, ciphertext, tag and, where
// given, aad. The recipient's key decides `alg` (RFC 7518): P-256, P-384 or P-521 ECDH-ES+A256KW
// with a key made for this message, RSA RSA-OAEP-256. `enc` is A256GCM. Thread-safe.
//
// `additional` binds the message to its purpose (an asset's id, an agreement): it is authenticated,
// not secret, and must be the same at both ends. A JWE says nothing about who made it.

constexpr size_t kMaxJwePlainBytes = 64 << 10;

// kKeyUnsupported: a recipient's key of another type; kLimitExceeded: a longer secret.
absl::StatusOr<Json> EncryptJwe(const SecretBytes& plain, const PublicKey& recipient,
                                std::string_view item, ByteSpan additional = {});

// The key made for the message (epk) may also stand alone in the unprotected `header`, where
// libjose writes it: another one gives another key. kMalformed: members that are missing, unknown
// or not base64url; header members other than alg, enc, epk, apu, apv, kid, typ and cty (so no
// crit, no zip); a point off the curve. kUnsupported: another alg or enc. kKeyUnsupported: an alg
// or curve that is not this key's. kBindingMismatch: made for another purpose (`additional`).
// kContentMismatch: changed, or made for another key. kLimitExceeded: a ciphertext over
// kMaxJwePlainBytes.
absl::StatusOr<SecretBytes> DecryptJwe(const Json& message, const PrivateKey& key,
                                       std::string_view item, ByteSpan additional = {});

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_JWE_H_
