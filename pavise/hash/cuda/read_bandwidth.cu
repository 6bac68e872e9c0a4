// What reading device memory alone can reach, for the benchmark to stand its figures beside.
#include <cstdint>

#include "pavise/hash/cuda/launch.cuh"

namespace pavise::hash::cuda {
namespace {

struct ReadArguments {
  const uint4* pieces;
  uint64_t count;
  uint32_t* out;
};

__global__ void ReadKernel(ReadArguments arguments) {
  const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;
  uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  uint32_t sum = 0;
  for (; i + 3 * stride < arguments.count; i += 4 * stride) {
    // Four loads in flight.
    const uint4 a = __ldg(arguments.pieces + i);
    const uint4 b = __ldg(arguments.pieces + i + stride);
    const uint4 c = __ldg(arguments.pieces + i + 2 * stride);
    const uint4 d = __ldg(arguments.pieces + i + 3 * stride);
    sum ^= (a.x ^ a.y ^ a.z ^ a.w) ^ (b.x ^ b.y ^ b.z ^ b.w) ^ (c.x ^ c.y ^ c.z ^ c.w) ^
           (d.x ^ d.y ^ d.z ^ d.w);
  }
  for (; i < arguments.count; i += stride) {
    const uint4 a = __ldg(arguments.pieces + i);
    sum ^= a.x ^ a.y ^ a.z ^ a.w;
  }
  atomicXor(arguments.out, sum);
}

}  // namespace

// Sets *out, which is 0, to the XOR of all 32-bit words of `size_bytes` (a multiple of 16).
int LaunchRead(const uint8_t* bytes, uint64_t size_bytes, uint32_t* out, uint32_t multiprocessors,
               void* stream) {
  const ReadArguments arguments = {reinterpret_cast<const uint4*>(bytes), size_bytes / 16, out};
  return Launch(ReadKernel, arguments, uint64_t{multiprocessors} * 16 * kWarpsPerBlock, stream);
}

}  // namespace pavise::hash::cuda
