#ifndef PAVISE_CRYPTO_PKCS11_H_
#define PAVISE_CRYPTO_PKCS11_H_

#include <memory>
#include <string>
#include <vector>

#include "pavise/crypto/keys.h"

#include "absl/status/statusor.h"

namespace pavise::crypto {

// Opens the EC private key that a PKCS#11 URI (RFC 7512) names, through p11-kit, and signs with it
// (CKM_ECDSA over the digest; raw r||s turned into DER). `module_path`, else `module-path` in the
// URI, loads that module; without either all modules registered with p11-kit are searched, or the
// one of `module-name`. The PIN comes from `pin-value` or `pin-source` (file:) in the URI. These
// attributes may stand before or after "?". The URI must match exactly one token (checked before a
// PIN is tried on any) and exactly one key on it, named by `object` or `id`.
// kMalformed (URI; an attribute that is unknown or stands twice), kKeyUnsupported (no or several
// matches, not on P-256, P-384 or P-521, wrong PIN, no public key beside it), machine failure
// (module does not load, token fails). Sign verifies every signature before it returns it:
// kKeyMismatch where the public key stored in the token is another one's. Several signers may be
// open at once; a token's login is shared by the whole program.
absl::StatusOr<std::unique_ptr<Signer>> OpenPkcs11Signer(const std::string& uri,
                                                         const std::string& module_path = "");

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_PKCS11_H_
