#ifndef PAVISE_OFFLOAD_IN_PROCESS_H_
#define PAVISE_OFFLOAD_IN_PROCESS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "pavise/offload/compute_device.h"
#include "pavise/offload/worker.h"

namespace pavise::offload {

struct WorkerOptions {
  std::string name = "worker";
  uint64_t memory_limit_bytes = uint64_t{8} << 30;
};

// What a worker of that device says of itself.
WorkerDescription DescribeWorker(const WorkerOptions& options, const ComputeDevice& device);

// A worker in this process, with one session and a thread of its own: for tests, and for a
// coordinator's own accelerators. Frames are handed over, not copied. Destroying the connection
// waits for the request that is being computed; those after it get a machine failure.
std::unique_ptr<WorkerConnection> ConnectInProcess(const WorkerOptions& options,
                                                   std::shared_ptr<ComputeDevice> device);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_IN_PROCESS_H_
