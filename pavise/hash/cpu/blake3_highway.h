#ifndef PAVISE_HASH_CPU_BLAKE3_HIGHWAY_H_
#define PAVISE_HASH_CPU_BLAKE3_HIGHWAY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "pavise/hash/blake3.h"

// The compression function and tree of BLAKE3 on this CPU's SIMD unit; only the hash area includes
// this. Everything here is single-threaded, allocates nothing (about 40 KiB of stack), and may be
// called from any number of threads at once.
namespace pavise::hash::internal {

// Domain flags (BLAKE3 paper, table 3).
inline constexpr uint32_t kChunkStartFlag = 1u << 0;
inline constexpr uint32_t kChunkEndFlag = 1u << 1;
inline constexpr uint32_t kParentFlag = 1u << 2;
inline constexpr uint32_t kRootFlag = 1u << 3;
inline constexpr uint32_t kKeyedHashFlag = 1u << 4;
inline constexpr uint32_t kDeriveKeyContextFlag = 1u << 5;
inline constexpr uint32_t kDeriveKeyMaterialFlag = 1u << 6;

inline constexpr size_t kBlockBytes = 64;
// Most chunks that PairOfChunks takes and most chaining values that PairOfSubtrees takes.
inline constexpr size_t kMaxPairInputs = kSubtreeBytes / kBlake3ChunkBytes;

// What distinguishes plain hashing, keyed hashing and the two steps of key derivation.
struct Mode {
  ChainingValue key;   // the initialisation vector, the key, or the context key
  uint32_t flags = 0;  // one of the three mode flags, or none
};

// The two children of a (sub)tree's topmost node.
using ChildPair = std::array<ChainingValue, 2>;

// One compression, all 64 bytes of its output (paper, section 2.2). `block` is kBlockBytes long,
// zero after `block_size_bytes`. `out` may be `block`.
void CompressBlock(const ChainingValue& chaining, const uint8_t* block, uint32_t block_size_bytes,
                   uint64_t counter, uint32_t flags, uint8_t* out);

// The chaining value of one chunk of 0 to kBlake3ChunkBytes bytes; with `final_flags` = kRootFlag
// the root digest of an input that is one chunk.
ChainingValue HashChunk(const Mode& mode, ByteSpan bytes, uint64_t chunk_index,
                        uint32_t final_flags);

// The children of the node over `bytes`: more than one chunk, at most kSubtreeBytes. Chunk numbers
// start at `first_chunk`.
ChildPair PairOfChunks(const Mode& mode, ByteSpan bytes, uint64_t first_chunk);

// The children of the node over 2 to kMaxPairInputs neighbouring subtrees of equal size (the last
// may be smaller).
ChildPair PairOfSubtrees(const Mode& mode, std::span<const ChainingValue> subtrees);

// The target in use, by Highway's name.
std::string_view Target();
// The targets compiled in that this CPU can run, best first, by Highway's names.
std::vector<std::string_view> AvailableTargets();
// Makes everything above use `target` from now on; empty: the best again. False when it is not
// available. For tests: not to be called while other threads hash.
bool ForceTarget(std::string_view target);

}  // namespace pavise::hash::internal

#endif  // PAVISE_HASH_CPU_BLAKE3_HIGHWAY_H_
