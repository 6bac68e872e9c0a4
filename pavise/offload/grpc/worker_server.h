#ifndef PAVISE_OFFLOAD_GRPC_WORKER_SERVER_H_
#define PAVISE_OFFLOAD_GRPC_WORKER_SERVER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "pavise/offload/compute_device.h"
#include "pavise/offload/grpc/tls.h"
#include "pavise/offload/in_process.h"

#include "absl/status/statusor.h"

namespace pavise::offload {

struct WorkerServerOptions {
  WorkerOptions worker;
  std::string address = "127.0.0.1:7443";  // port 0: the system chooses
  TlsIdentity identity;                    // authorities: of coordinators' certificates
  size_t max_sessions = 4;
};

// A worker that serves coordinators over gRPC with mutual TLS 1.3 (docs/formats/offload.md). Every
// certificate of the authorities may open sessions; what sessions keep is theirs alone, their
// memory one limit, of which an eighth is for requests that are read while others are computed. A
// session that breaks the protocol ends; the worker and other sessions go on.
// Besides the limit gRPC's buffers take up to 64 MiB a session. Thread-safe.
class WorkerServer {
 public:
  // Listens when it returns. Refusals of CheckIdentity; a machine failure: the address is taken.
  static absl::StatusOr<std::unique_ptr<WorkerServer>> Start(const WorkerServerOptions& options,
                                                             std::shared_ptr<ComputeDevice> device);
  virtual ~WorkerServer() = default;  // as Stop

  virtual uint16_t port() const = 0;
  virtual size_t sessions() const = 0;
  virtual uint64_t used_bytes() const = 0;
  // Sessions end after the request that is being computed; waits for them.
  virtual void Stop() = 0;
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_GRPC_WORKER_SERVER_H_
