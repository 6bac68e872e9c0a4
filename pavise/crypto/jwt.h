#ifndef PAVISE_CRYPTO_JWT_H_
#define PAVISE_CRYPTO_JWT_H_

#include <string>
#include <string_view>

#include "pavise/base/json.h"
#include "pavise/crypto/keys.h"

#include "absl/status/statusor.h"

namespace pavise::crypto {

// JSON Web Tokens (RFC 7519) as compact JWS (RFC 7515): header.claims.signature, each base64url
// without padding. The key decides the algorithm (RFC 7518, 3.4): P-256 ES256, P-384 ES384, P-521
// ES512. The header is `{"alg":...,"kid":...,"typ":"JWT"}`, where kid is the key's JWK thumbprint.

// `claims` must be an object: a usage error otherwise. Text that is not UTF-8: kMalformed.
absl::StatusOr<std::string> SignJwt(const Json& claims, Signer& signer);

// The claims of a token that `key` signed. What they say (times, issuer, audience) is the caller's
// to check. kLimitExceeded: over 1 MiB; kMalformed: not three parts, not base64url, not strict
// JSON, a header with other members (crit, jwk, x5c ...); kKeyUnsupported: an algorithm that is not
// the key's ("none" is nobody's); kKeyMismatch: the kid of another key; kSignatureInvalid.
absl::StatusOr<Json> VerifyJwt(std::string_view token, const PublicKey& key, std::string_view item);

// A P-256, P-384, P-521 or RSA key as JSON Web Key (RFC 7517; RFC 7518, 6.2.1 and 6.3.1): kty, crv,
// x, y or kty, n, e, and nothing else. kKeyUnsupported.
absl::StatusOr<Json> ToJwk(const PublicKey& key, std::string_view item);
// The same from outside: members alg, use, key_ops and kid are passed over, coordinates are as long
// as the curve's field. kMalformed: other members (those of a private key among them), not
// base64url, off the curve; kKeyUnsupported: another kty or crv, an RSA key that
// PublicKey::FromRsaModulus refuses, or with an exponent over four bytes.
absl::StatusOr<PublicKey> PublicKeyFromJwk(const Json& jwk, std::string_view item);
// SHA-256 of the JWK in canonical form, base64url (RFC 7638).
absl::StatusOr<std::string> JwkThumbprint(const PublicKey& key, std::string_view item);

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_JWT_H_
