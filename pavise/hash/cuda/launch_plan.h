#ifndef PAVISE_HASH_CUDA_LAUNCH_PLAN_H_
#define PAVISE_HASH_CUDA_LAUNCH_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pavise/hash/cuda/descriptors.h"

// What the host works out before it launches: the tables that kernels find their work in. Free of
// CUDA, so that it is tested together with the kernels' bodies where there is no GPU.
namespace pavise::hash::cuda {

// BLAKE3 of a batch: one launch of the leaf kernel, then one of the tree kernel a level.
struct Blake3Plan {
  uint32_t chunks_per_lane = 0;  // 1 or 8
  // levels[0] counts items, levels[k] the groups of level k: entry r is the number of the first one
  // of range r, the last entry their total. Beyond level 0, finished ranges have none.
  std::vector<std::vector<uint64_t>> levels;

  uint64_t count(size_t level) const { return levels[level].back(); }
};

// `wanted_lanes` keep the device busy: below it, lanes take one chunk each instead of eight.
Blake3Plan PlanBlake3(const std::vector<RangeDescriptor>& ranges, uint64_t wanted_lanes);
uint64_t Blake3ItemsOf(uint64_t size_bytes, uint32_t chunks_per_lane);

// The longest ranges first, so that a warp's lanes end together. Digests keep their places (`out`).
void SortForSha2(std::vector<RangeDescriptor>& ranges);

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_LAUNCH_PLAN_H_
