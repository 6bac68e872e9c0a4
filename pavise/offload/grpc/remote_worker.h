#ifndef PAVISE_OFFLOAD_GRPC_REMOTE_WORKER_H_
#define PAVISE_OFFLOAD_GRPC_REMOTE_WORKER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "pavise/offload/grpc/tls.h"
#include "pavise/offload/worker.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::offload {

struct RemoteWorkerOptions {
  std::string address;  // "worker-0.example:7443"
  // Authorities: of workers' certificates, or one worker's own certificate.
  std::shared_ptr<const TlsIdentity> identity;
  // The name that the worker's certificate must be for; empty: the address's host.
  std::string certificate_name;
  // Lower-case hex SHA-256 of the certificate's DER, where one certain worker is meant.
  std::string certificate_fingerprint;
  // "host:port" of a proxy that is asked by HTTP CONNECT, which then carries TLS between the two;
  // empty: none is used.
  std::string proxy;
  uint64_t reply_limit_bytes = uint64_t{4} << 30;  // of one reply
};

// A session on a worker over gRPC with mutual TLS 1.3. Nothing is sent before the worker's
// certificate was verified. No other proxy is used, whatever the environment says. A worker that
// disconnects, breaks the protocol, or is broken off ends the session: every request under way then
// fails, and so do later ones; there is no second attempt behind the caller's back. Refusals: of
// CheckIdentity; kIdentityMismatch: another certificate than that of the fingerprint; kUnsupported,
// kMalformed: its hello. Machine failures: no connection, or a certificate that does not verify, or
// no hello by the deadline.
absl::StatusOr<std::unique_ptr<WorkerConnection>> ConnectToWorker(
    const RemoteWorkerOptions& options, absl::Time deadline);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_GRPC_REMOTE_WORKER_H_
