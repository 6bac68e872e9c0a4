#ifndef PAVISE_KBS_JWK_H_
#define PAVISE_KBS_JWK_H_

#include <string_view>

#include "pavise/base/json.h"
#include "pavise/crypto/keys.h"

#include "absl/status/statusor.h"

namespace pavise::kbs {

// Public keys as the protocol's `tee-pubkey` (RFC 7517; RFC 7518, 6.2.1 and 6.3.1): kty, alg and
// the key's own members, nothing else. `alg` is the algorithm by which secrets are wrapped to the
// key.

inline constexpr std::string_view kEcWrapAlgorithm = "ECDH-ES+A256KW";
inline constexpr std::string_view kRsaWrapAlgorithm = "RSA-OAEP-256";

// As crypto::PublicKeyFromJwk, of these members only; `alg` may be missing, another one than the
// type's is kKeyUnsupported.
absl::StatusOr<crypto::PublicKey> ParseTeePublicKey(const Json& jwk, std::string_view item);

// kKeyUnsupported: neither of these types.
absl::StatusOr<Json> FormatTeePublicKey(const crypto::PublicKey& key, std::string_view item);

}  // namespace pavise::kbs

#endif  // PAVISE_KBS_JWK_H_
