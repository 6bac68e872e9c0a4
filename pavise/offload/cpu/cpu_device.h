#ifndef PAVISE_OFFLOAD_CPU_CPU_DEVICE_H_
#define PAVISE_OFFLOAD_CPU_CPU_DEVICE_H_

#include <memory>

#include "pavise/offload/compute_device.h"
#include "pavise/offload/cpu/host_products.h"

namespace pavise::offload {

// The process's own memory; products by `products`. Convolutions that these do not do are im2col
// products, sample by sample.
std::shared_ptr<ComputeDevice> NewCpuDevice(std::unique_ptr<HostProducts> products);
// With oneDNN's products on so many threads (0: as OMP_NUM_THREADS or the machine says), or where
// Pavise was built without it with plain ones. Its name says which.
std::shared_ptr<ComputeDevice> OpenCpuDevice(int threads = 0);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_CPU_CPU_DEVICE_H_
