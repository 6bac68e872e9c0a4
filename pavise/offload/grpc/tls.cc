#include "pavise/offload/grpc/tls.h"

#include <cstdlib>
#include <mutex>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/crypto/keys.h"
#include "pavise/crypto/x509.h"

namespace pavise::offload {

absl::Status CheckIdentity(const TlsIdentity& identity) {
  PAVISE_ASSIGN_OR_RETURN(
      const std::vector<crypto::Certificate> chain,
      crypto::Certificate::ListFromPem(identity.certificate_chain, "certificate"));
  PAVISE_RETURN_IF_ERROR(
      crypto::Certificate::ListFromPem(identity.authorities, "authorities").status());
  PAVISE_ASSIGN_OR_RETURN(
      const crypto::PrivateKey key,
      crypto::PrivateKey::FromPemOfAnyType(identity.private_key, SecretBytes(), "private key"));
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey of_certificate, chain[0].public_key());
  if (of_certificate.Fingerprint() != key.public_key().Fingerprint()) {
    return Refuse(Reason::kKeyMismatch, "private key", "it is not the certificate's",
                  "give the key that the certificate was made for");
  }
  return absl::OkStatus();
}

void RequireTls13() {
  static std::once_flag once;
  // Usable only with a key that both sides share beforehand, which they do not.
  std::call_once(once, [] { setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-PSK-CHACHA20-POLY1305", 1); });
}

}  // namespace pavise::offload
