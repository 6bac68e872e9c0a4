#ifndef PAVISE_OFFLOAD_DEVICES_H_
#define PAVISE_OFFLOAD_DEVICES_H_

#include <memory>
#include <string_view>

#include "pavise/offload/compute_device.h"

#include "absl/status/statusor.h"

namespace pavise::offload {

// "cpu" (OpenCpuDevice with so many threads), or "cuda:N" (OpenCudaDevice; "cuda" is "cuda:0"). A
// usage error for other names. Nothing else is ever opened in place of what was named.
absl::StatusOr<std::shared_ptr<ComputeDevice>> OpenComputeDevice(std::string_view name,
                                                                 int threads = 0);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_DEVICES_H_
