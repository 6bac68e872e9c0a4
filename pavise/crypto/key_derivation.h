#ifndef PAVISE_CRYPTO_KEY_DERIVATION_H_
#define PAVISE_CRYPTO_KEY_DERIVATION_H_

#include "pavise/base/bytes.h"
#include "pavise/base/secret_bytes.h"

#include "absl/status/statusor.h"

namespace pavise::crypto {

// Keys from secrets, with SHA-256. Thread-safe; fail as the machine unless they say otherwise.

// HKDF (RFC 5869), extract and expand. `info` says what the key is for: one purpose, one text.
// Usage error: no bytes asked for, or more than 255 * 32.
absl::StatusOr<SecretBytes> Hkdf(const SecretBytes& secret, ByteSpan salt, ByteSpan info,
                                 size_t size_bytes);

// The single-step derivation of JOSE's ECDH-ES (RFC 7518, 4.6.2; SP 800-56A, 5.8.1): `secret` is
// the agreed x, `algorithm` the key wrap's or the content encryption's name. Usage error as Hkdf's.
absl::StatusOr<SecretBytes> ConcatKdf(const SecretBytes& secret, std::string_view algorithm,
                                      ByteSpan party_u, ByteSpan party_v, size_t size_bytes);

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_KEY_DERIVATION_H_
