#include <cstdint>

#include "pavise/hash/cuda/blake3_warp.h"
#include "pavise/hash/cuda/kernels.h"
#include "pavise/hash/cuda/launch.cuh"

namespace pavise::hash::cuda {
namespace {

// Five blocks a multiprocessor is what a Hopper's shared memory holds of the staged form: five
// warps a scheduler, each with four independent quarter rounds.
template <uint32_t kChunksPerLane, bool kStaged>
__global__ void __launch_bounds__(kThreadsPerBlock, 5)
    Blake3LeafKernel(Blake3LeafArguments arguments) {
  __shared__ Blake3LeafShared<kChunksPerLane, kStaged> shared[kWarpsPerBlock];
  if (WarpIndex() * kLanes >= arguments.item_count) return;
  DeviceWarp warp;
  Blake3Leaves<kChunksPerLane, kStaged>(warp, arguments, WarpIndex(), shared[threadIdx.x / kLanes]);
}

__global__ void __launch_bounds__(kThreadsPerBlock)
    Blake3TreeKernel(Blake3TreeArguments arguments) {
  __shared__ Blake3TreeShared shared[kWarpsPerBlock];
  if (WarpIndex() >= arguments.group_count) return;
  DeviceWarp warp;
  Blake3Tree(warp, arguments, WarpIndex(), shared[threadIdx.x / kLanes]);
}

}  // namespace

int LaunchBlake3Leaves(const Blake3LeafArguments& arguments, uint32_t chunks_per_lane, Loads loads,
                       void* stream) {
  const bool is_staged = loads == Loads::kStaged;
  void (*kernel)(Blake3LeafArguments) = nullptr;
  if (chunks_per_lane == 1) {
    kernel = is_staged ? Blake3LeafKernel<1, true> : Blake3LeafKernel<1, false>;
  } else if (chunks_per_lane == kNodesPerLane) {
    kernel =
        is_staged ? Blake3LeafKernel<kNodesPerLane, true> : Blake3LeafKernel<kNodesPerLane, false>;
  } else {
    return cudaErrorInvalidValue;
  }
  return Launch(kernel, arguments, (arguments.item_count - 1) / kLanes + 1, stream);
}

int LaunchBlake3Tree(const Blake3TreeArguments& arguments, void* stream) {
  return Launch(Blake3TreeKernel, arguments, arguments.group_count, stream);
}

}  // namespace pavise::hash::cuda
