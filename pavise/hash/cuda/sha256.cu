#include <cstdint>

#include "pavise/hash/cuda/kernels.h"
#include "pavise/hash/cuda/launch.cuh"
#include "pavise/hash/cuda/sha2_warp.h"

namespace pavise::hash::cuda {
namespace {

// Four blocks a multiprocessor: 65,536 ranges are four warps for each of an H200's 528 schedulers,
// so that more registers than 128 a thread would leave ranges waiting.
template <bool kStaged>
__global__ void __launch_bounds__(kThreadsPerBlock, 4) Sha256Kernel(Sha2Arguments arguments) {
  __shared__ Sha2Shared<kStaged> shared[kWarpsPerBlock];
  if (WarpIndex() * kLanes >= arguments.range_count) return;
  DeviceWarp warp;
  Sha2Ranges<Sha256, kStaged>(warp, arguments, WarpIndex(), shared[threadIdx.x / kLanes]);
}

}  // namespace

int LaunchSha256(const Sha2Arguments& arguments, Loads loads, void* stream) {
  const uint64_t warps = (uint64_t{arguments.range_count} - 1) / kLanes + 1;
  return Launch(loads == Loads::kStaged ? Sha256Kernel<true> : Sha256Kernel<false>, arguments,
                warps, stream);
}

}  // namespace pavise::hash::cuda
