#ifndef PAVISE_CRYPTO_KEY_WRAP_H_
#define PAVISE_CRYPTO_KEY_WRAP_H_

#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/secret_bytes.h"

#include "absl/status/statusor.h"

namespace pavise::crypto {

// AES key wrap (RFC 3394) with a key-encryption key of 32 bytes. Deterministic: one key wrapped
// twice looks the same. Thread-safe.

// Keys of 16 to 512 bytes, in steps of 8; eight bytes longer when wrapped. Usage error otherwise.
absl::StatusOr<Bytes> WrapKey(const SecretBytes& key_encryption_key, const SecretBytes& key);
// kContentMismatch: changed, or wrapped under another key; kMalformed: a length that no wrapped key
// has. Both name `item`.
absl::StatusOr<SecretBytes> UnwrapKey(const SecretBytes& key_encryption_key, ByteSpan wrapped,
                                      std::string_view item);

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_KEY_WRAP_H_
