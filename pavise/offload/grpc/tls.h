#ifndef PAVISE_OFFLOAD_GRPC_TLS_H_
#define PAVISE_OFFLOAD_GRPC_TLS_H_

#include <string>

#include "pavise/base/secret_bytes.h"

#include "absl/status/status.h"

namespace pavise::offload {

// One side of mutual TLS, PEM. There is no other way to talk to a worker, on loopback neither.
struct TlsIdentity {
  std::string certificate_chain;  // its own, leaf first
  SecretBytes private_key;        // not encrypted; the TLS library keeps copies of its own
  std::string authorities;        // whose certificates the other side may have
};

// kMalformed, kKeyUnsupported: PEM that does not parse; kKeyMismatch: the key is not the leaf's.
absl::Status CheckIdentity(const TlsIdentity& identity);

// gRPC 1.51 has no setting for TLS's least version: this leaves TLS 1.2 without a cipher suite that
// could be agreed on, for the whole process, by a variable of its environment that gRPC reads when
// it first makes credentials. To be called before them, and before other threads that read the
// environment.
void RequireTls13();

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_GRPC_TLS_H_
