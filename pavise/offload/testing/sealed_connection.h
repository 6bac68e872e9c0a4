#ifndef PAVISE_OFFLOAD_TESTING_SEALED_CONNECTION_H_
#define PAVISE_OFFLOAD_TESTING_SEALED_CONNECTION_H_

#include <memory>

#include "pavise/offload/worker.h"

namespace pavise::offload {

// CPU seconds of this thread.
double ThreadCpuSeconds();

// For benchmarks: what a transport that encrypts adds to the coordinator's thread, AES-256-GCM of
// every frame in records of 16 KiB, sent or received (opening costs what sealing does). The frames
// themselves pass through as they are. For one thread, as the coordinator is.
class SealedConnection final : public WorkerConnection {
 public:
  explicit SealedConnection(std::unique_ptr<WorkerConnection> inner);
  ~SealedConnection() override;
  const WorkerDescription& description() const override;
  std::unique_ptr<PendingReply> Send(Request request) override;

  // CPU seconds that it took so far.
  double seconds() const;

 private:
  class Pending;
  struct Cipher;
  const std::unique_ptr<WorkerConnection> inner_;
  const std::unique_ptr<Cipher> cipher_;
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_TESTING_SEALED_CONNECTION_H_
