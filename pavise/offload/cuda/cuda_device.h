#ifndef PAVISE_OFFLOAD_CUDA_CUDA_DEVICE_H_
#define PAVISE_OFFLOAD_CUDA_CUDA_DEVICE_H_

#include <memory>

#include "pavise/offload/compute_device.h"

#include "absl/status/statusor.h"

namespace pavise::offload {

// GPU number `ordinal` in CUDA's order (gpu_device.h says what it does): products by cuBLASLt, and
// convolutions by cuDNN where Pavise was built with its header and the machine has it. Both are
// found at run time. fp32 is fp32, never TF32, but for operands that TF32 holds exactly. Calls
// leave their thread's current CUDA device changed. After an error that CUDA does not recover from
// every later call fails.
//
// Refusal kUnsupported: this build has no CUDA device, there is no driver or it is too old, no such
// GPU or one older than compute capability 8.0, no cuBLASLt.
absl::StatusOr<std::shared_ptr<ComputeDevice>> OpenCudaDevice(int ordinal);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_CUDA_CUDA_DEVICE_H_
