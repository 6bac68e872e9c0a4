// Grid sizes and the result of a launch, shared by the launchers.
#ifndef PAVISE_HASH_CUDA_LAUNCH_CUH_
#define PAVISE_HASH_CUDA_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "pavise/hash/cuda/descriptors.h"

namespace pavise::hash::cuda {

inline constexpr uint32_t kThreadsPerBlock = kWarpsPerBlock * kLanes;

__device__ __forceinline__ uint64_t WarpIndex() {
  return uint64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kLanes;
}

// Launches `warps` warps of `kernel`, warps beyond them filling the last block.
template <class Arguments>
int Launch(void (*kernel)(Arguments), const Arguments& arguments, uint64_t warps, void* stream) {
  const uint64_t blocks = (warps - 1) / kWarpsPerBlock + 1;
  if (blocks > 0x7fffffffu) return cudaErrorInvalidConfiguration;
  // An error that somebody else's call left behind is not this launch's.
  (void)cudaGetLastError();
  kernel<<<static_cast<uint32_t>(blocks), kThreadsPerBlock, 0, static_cast<cudaStream_t>(stream)>>>(
      arguments);
  return cudaGetLastError();
}

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_LAUNCH_CUH_
