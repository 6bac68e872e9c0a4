// What host and kernels agree on: the layout of descriptors in device memory and the sizes that
// their indices count in. Plain C++ for both.
#ifndef PAVISE_HASH_CUDA_DESCRIPTORS_H_
#define PAVISE_HASH_CUDA_DESCRIPTORS_H_

#include <cstdint>

namespace pavise::hash::cuda {

inline constexpr uint32_t kLanes = 32;  // of a warp
inline constexpr uint32_t kWarpsPerBlock = 4;

inline constexpr uint32_t kChunkBytes = 1024;  // of BLAKE3
inline constexpr uint32_t kNodeBytes = 32;     // a BLAKE3 chaining value or digest
inline constexpr uint32_t kNodesPerLane = 8;   // that a lane of the tree kernel joins
inline constexpr uint32_t kNodesPerWarp = kLanes * kNodesPerLane;

// One byte range to hash: 40 bytes, aligned to 8.
struct RangeDescriptor {
  uint64_t offset_bytes;  // from the launch's base pointer
  uint64_t size_bytes;
  uint64_t first_chunk;  // BLAKE3: the number of the range's first chunk in its input
  uint64_t out;          // which digest of the launch's output this is
  uint32_t flags;
  uint32_t reserved;
};
static_assert(sizeof(RangeDescriptor) == 40);

// BLAKE3: the range's topmost node is a root (a digest, not a chaining value).
inline constexpr uint32_t kRangeIsRoot = 1;
// BLAKE3: the range is part of a larger one, whose tree is finished elsewhere: its nodes are
// written as nodes, even a single one.
inline constexpr uint32_t kRangeIsPart = 2;

// BLAKE3, level 0. An item is what one lane hashes: up to `chunks_per_lane` chunks of one range.
// Items are numbered through all ranges: those of range r are first_item[r] up to
// first_item[r + 1]. A range's only item goes to `out`, other items to nodes[item].
struct Blake3LeafArguments {
  const uint8_t* base;
  const RangeDescriptor* ranges;
  const uint64_t* first_item;  // range_count + 1
  uint64_t item_count;         // first_item[range_count]
  uint32_t range_count;
  uint8_t* nodes;
  uint8_t* out;
};

// BLAKE3, a level above: a warp joins a group of up to kNodesPerWarp nodes of one range. A range's
// only group goes to `out`, other groups to out_nodes[group].
struct Blake3TreeArguments {
  const uint8_t* nodes;
  const RangeDescriptor* ranges;
  const uint64_t* first_node;   // range_count + 1: the level below
  const uint64_t* first_group;  // range_count + 1: this one; no groups for a finished range
  uint64_t group_count;
  uint32_t range_count;
  uint8_t* out_nodes;
  uint8_t* out;
};

// SHA-2: a lane hashes a range.
struct Sha2Arguments {
  const uint8_t* base;
  const RangeDescriptor* ranges;
  uint32_t range_count;
  uint8_t* out;
};

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_DESCRIPTORS_H_
