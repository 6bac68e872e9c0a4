#ifndef PAVISE_OFFLOAD_CUDA_LAUNCH_H_
#define PAVISE_OFFLOAD_CUDA_LAUNCH_H_

#include "pavise/offload/cuda/kernels.h"

namespace pavise::offload::cuda {

// Queues the kernel on a cudaStream_t of the current device; a cudaError_t.
int Launch(const Kernel& kernel, void* stream);

}  // namespace pavise::offload::cuda

#endif  // PAVISE_OFFLOAD_CUDA_LAUNCH_H_
