#include <cstdint>

#include "pavise/hash/cuda/kernels.h"
#include "pavise/hash/cuda/launch.cuh"
#include "pavise/hash/cuda/sha2_warp.h"

namespace pavise::hash::cuda {
namespace {

// As many blocks as SHA-256 has, with twice the state.
template <bool kStaged>
__global__ void __launch_bounds__(kThreadsPerBlock, 4) Sha384Kernel(Sha2Arguments arguments) {
  __shared__ Sha2Shared<kStaged> shared[kWarpsPerBlock];
  if (WarpIndex() * kLanes >= arguments.range_count) return;
  DeviceWarp warp;
  Sha2Ranges<Sha384, kStaged>(warp, arguments, WarpIndex(), shared[threadIdx.x / kLanes]);
}

}  // namespace

int LaunchSha384(const Sha2Arguments& arguments, Loads loads, void* stream) {
  const uint64_t warps = (uint64_t{arguments.range_count} - 1) / kLanes + 1;
  return Launch(loads == Loads::kStaged ? Sha384Kernel<true> : Sha384Kernel<false>, arguments,
                warps, stream);
}

}  // namespace pavise::hash::cuda
