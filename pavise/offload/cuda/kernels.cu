#include <cuda_runtime.h>

#include <algorithm>

#include "pavise/offload/cuda/launch.h"

namespace pavise::offload::cuda {
namespace {

constexpr uint64_t kThreads = 256;
// Threads go on to indices a whole grid further, so that any count has a grid.
constexpr uint64_t kMostBlocks = uint64_t{1} << 20;

template <class Body>
__global__ void __launch_bounds__(kThreads) ForEachIndex(Body body) {
  const uint64_t step = uint64_t{gridDim.x} * kThreads;
  for (uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x; i < body.count; i += step) {
    body(i);
  }
}

}  // namespace

int Launch(const Kernel& kernel, void* stream) {
  return std::visit(
      [stream](const auto& body) -> int {
        if (body.count == 0) return cudaSuccess;
        const uint64_t blocks = std::min((body.count - 1) / kThreads + 1, kMostBlocks);
        // An error that somebody else's call left behind is not this launch's.
        (void)cudaGetLastError();
        ForEachIndex<<<static_cast<unsigned int>(blocks), static_cast<unsigned int>(kThreads), 0,
                       static_cast<cudaStream_t>(stream)>>>(body);
        return cudaGetLastError();
      },
      kernel);
}

}  // namespace pavise::offload::cuda
