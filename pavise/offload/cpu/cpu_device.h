#ifndef PAVISE_OFFLOAD_CPU_CPU_DEVICE_H_
#define PAVISE_OFFLOAD_CPU_CPU_DEVICE_H_

#include <memory>

#include "pavise/offload/compute_device.h"
#include "pavise/offload/cpu/host_products.h"

namespace pavise::offload {

// The process's own memory; products by `products`. Convolutions are im2col products, sample by
// sample.
std::shared_ptr<ComputeDevice> NewCpuDevice(std::unique_ptr<HostProducts> products);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_CPU_CPU_DEVICE_H_
