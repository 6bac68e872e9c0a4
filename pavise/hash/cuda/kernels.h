#ifndef PAVISE_HASH_CUDA_KERNELS_H_
#define PAVISE_HASH_CUDA_KERNELS_H_

#include <cstdint>

#include "pavise/hash/cuda/descriptors.h"

// Launchers of the kernels, free of CUDA types. Each queues one launch on `stream` (a cudaStream_t)
// of the current device and returns the launch's cudaError_t. All pointers in the arguments are
// device memory; outputs and nodes are aligned to 16; counts are above zero.
namespace pavise::hash::cuda {

// How full warps bring aligned bytes in: each lane its own 16 bytes at a time, or all lanes
// together through shared memory. The same digests either way.
enum class Loads { kByLane, kStaged };
// The one that devices use.
inline constexpr Loads kDefaultLoads = Loads::kStaged;

int LaunchSha256(const Sha2Arguments& arguments, Loads loads, void* stream);
int LaunchSha384(const Sha2Arguments& arguments, Loads loads, void* stream);

// `chunks_per_lane` is 1 or 8.
int LaunchBlake3Leaves(const Blake3LeafArguments& arguments, uint32_t chunks_per_lane, Loads loads,
                       void* stream);
int LaunchBlake3Tree(const Blake3TreeArguments& arguments, void* stream);

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_KERNELS_H_
