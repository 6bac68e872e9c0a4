// The bodies of BLAKE3's two kernels (blake3.cu), for device and host (warp.h).
//
// A lane hashes an item of up to eight chunks and joins them by itself, keeping the left siblings
// in shared memory: of the 8 x 16 + 7 compressions that eight chunks take, none has an idle lane,
// and a node of 8 KiB is all that device memory sees. Levels above are 1% of the work and take a
// kernel of their own, 256 nodes a warp. Pairing neighbours level by level, the last one of an odd
// level moving up as it is, gives BLAKE3's tree (paper, section 2.1: the left subtree is the
// largest power of two of chunks), so that eight and 256 may be cut anywhere but the range's start.
#ifndef PAVISE_HASH_CUDA_BLAKE3_WARP_H_
#define PAVISE_HASH_CUDA_BLAKE3_WARP_H_

#include <cstdint>

#include "pavise/hash/arithmetic/blake3.h"
#include "pavise/hash/cuda/block_loads.h"
#include "pavise/hash/cuda/descriptors.h"
#include "pavise/hash/cuda/warp.h"

namespace pavise::hash::cuda {

inline constexpr uint32_t kBlake3BlockBytes = 64;
inline constexpr uint32_t kBlocksPerChunk = kChunkBytes / kBlake3BlockBytes;

// Left siblings that wait for their right one, of each lane, word by word (a bank a lane).
template <uint32_t kLevels>
struct WaitingSiblings {
  uint32_t words[kLevels][8][kLanes];
};

// Node number `i` of the 2^kLevels (or fewer) that a lane joins is `chaining`: joins it to the
// siblings that wait for it, in place. The last node takes all that are left. `top_flags` are added
// at the topmost node.
template <uint32_t kLevels>
PAVISE_KERNEL_LOGIC void JoinNode(WaitingSiblings<kLevels>& waiting, uint32_t lane, uint32_t i,
                                  bool is_last, uint32_t top_flags, uint32_t* chaining) {
  // A sibling waits on each level whose bit is set in the number of nodes before this one.
  PAVISE_KERNEL_KEEP_LOOP
  for (uint32_t level = 0; level < kLevels; ++level) {
    if ((i >> level & 1) != 0) {
      uint32_t message[16];
      PAVISE_KERNEL_UNROLL
      for (uint32_t w = 0; w < 8; ++w) {
        message[w] = waiting.words[level][w][lane];
        message[8 + w] = chaining[w];
      }
      const bool is_top = is_last && (i >> level) == 1;
      pavise_blake3_start(chaining);
      pavise_blake3_compress(chaining, message, 0, kBlake3BlockBytes,
                             PAVISE_BLAKE3_PARENT | (is_top ? top_flags : 0));
    } else if (!is_last) {
      PAVISE_KERNEL_UNROLL
      for (uint32_t w = 0; w < 8; ++w) waiting.words[level][w][lane] = chaining[w];
      return;
    }
  }
}

PAVISE_KERNEL_LOGIC void WriteNode(const uint32_t* chaining, uint8_t* address) {
  PAVISE_KERNEL_UNROLL
  for (uint32_t i = 0; i < 2; ++i) {
    Piece piece;
    PAVISE_KERNEL_UNROLL
    for (uint32_t j = 0; j < 4; ++j) piece.words[j] = chaining[4 * i + j];
    WritePiece(piece, address + i * kPieceBytes);
  }
}

// ---- Level 0 ----

constexpr uint32_t LevelsOf(uint32_t nodes) { return nodes <= 1 ? 0 : 1 + LevelsOf(nodes / 2); }

template <uint32_t kChunksPerLane, bool kStaged>
struct Blake3LeafShared;
template <>
struct Blake3LeafShared<1, false> {};
template <>
struct Blake3LeafShared<1, true> {
  StagedRows staged;
};
template <uint32_t kChunksPerLane>
struct Blake3LeafShared<kChunksPerLane, false> {
  WaitingSiblings<LevelsOf(kChunksPerLane)> waiting;
};
template <uint32_t kChunksPerLane>
struct Blake3LeafShared<kChunksPerLane, true> {
  StagedRows staged;
  WaitingSiblings<LevelsOf(kChunksPerLane)> waiting;
};

struct Blake3LeafLane {
  const uint8_t* bytes;
  uint8_t* out;
  uint64_t first_chunk;
  uint32_t size_bytes;
  uint32_t readable_bytes;  // size_bytes, and up to 16 more of the same range
  uint32_t blocks;          // none: a lane after the last item
  uint32_t top_flags;
  uint32_t chaining[8];
};

template <uint32_t kChunksPerLane>
PAVISE_KERNEL_LOGIC void FindItem(const Blake3LeafArguments& arguments, uint64_t item,
                                  Blake3LeafLane& lane) {
  constexpr uint64_t kItemBytes = uint64_t{kChunksPerLane} * kChunkBytes;
  lane.bytes = arguments.base;
  lane.out = nullptr;
  lane.first_chunk = 0;
  lane.size_bytes = 0;
  lane.readable_bytes = 0;
  lane.blocks = 0;
  lane.top_flags = 0;
  if (item >= arguments.item_count) return;
  const uint32_t r = RangeOf(arguments.first_item, arguments.range_count, item);
  const RangeDescriptor& range = arguments.ranges[r];
  const uint64_t number = item - arguments.first_item[r];
  const uint64_t offset = number * kItemBytes;
  const uint64_t left = range.size_bytes - offset;
  const bool is_only = range.size_bytes <= kItemBytes && (range.flags & kRangeIsPart) == 0;
  lane.bytes = arguments.base + range.offset_bytes + offset;
  lane.out = is_only ? arguments.out + range.out * kNodeBytes : arguments.nodes + item * kNodeBytes;
  lane.first_chunk = range.first_chunk + number * kChunksPerLane;
  lane.size_bytes = static_cast<uint32_t>(left < kItemBytes ? left : kItemBytes);
  lane.readable_bytes =
      static_cast<uint32_t>(left < kItemBytes + kPieceBytes ? left : kItemBytes + kPieceBytes);
  // An empty range is one empty block.
  lane.blocks =
      lane.size_bytes == 0 ? 1 : (lane.size_bytes + kBlake3BlockBytes - 1) / kBlake3BlockBytes;
  lane.top_flags = is_only && (range.flags & kRangeIsRoot) != 0 ? PAVISE_BLAKE3_ROOT : 0;
}

// Warp `warp_index` of the launch: items kLanes * warp_index and on. Whole items side by side in
// one range come through shared memory (kStaged), others lane by lane. kChunksPerLane is a power
// of two.
template <uint32_t kChunksPerLane, bool kStaged, class Warp>
PAVISE_KERNEL_LOGIC void Blake3Leaves(Warp& warp, const Blake3LeafArguments& arguments,
                                      uint64_t warp_index,
                                      Blake3LeafShared<kChunksPerLane, kStaged>& shared) {
  constexpr uint32_t kItemBytes = kChunksPerLane * kChunkBytes;
  constexpr uint32_t kBlocksPerStep = kStepBytes / kBlake3BlockBytes;
  constexpr uint32_t kSteps = kItemBytes / kStepBytes;

  typename Warp::template PerLane<Blake3LeafLane> lanes;
  typename Warp::template PerLane<uint64_t> numbers;
  warp.ForEachLane([&](uint32_t lane) {
    FindItem<kChunksPerLane>(arguments, warp_index * kLanes + lane, lanes[lane]);
    numbers[lane] = AddressOf(lanes[lane].bytes);
  });

  bool is_staged = false;
  typename Warp::template PerLane<const uint8_t*> sources;
  if constexpr (kStaged) {
    const uint64_t first = warp.First(numbers);
    typename Warp::template PerLane<bool> fits;
    warp.ForEachLane([&](uint32_t lane) {
      fits[lane] = lanes[lane].size_bytes == kItemBytes && first % kPieceBytes == 0 &&
                   numbers[lane] == first + uint64_t{lane} * kItemBytes;
    });
    is_staged = warp.All(fits);
    warp.ForEachLane([&](uint32_t lane) {
      // The lane's piece of its first row; a copy later its row is kRowsPerCopy further on.
      if (!is_staged) return;
      sources[lane] = lanes[lane].bytes - uint64_t{lane - lane / kPiecesPerStep} * kItemBytes +
                      lane % kPiecesPerStep * kPieceBytes;
    });
  }
  const auto start_step = [&](uint32_t step) {
    if constexpr (kStaged) {
      warp.ForEachLane([&](uint32_t lane) {
        const uint8_t* const source = sources[lane] + step * kStepBytes;
        StartStep(warp, lane, shared.staged.bytes[step % 2],
                  [&](uint32_t i) { return source + i * (kRowsPerCopy * kItemBytes); });
      });
    }
  };

  warp.ForEachLane([&](uint32_t lane) { numbers[lane] = lanes[lane].blocks; });
  const uint32_t blocks = static_cast<uint32_t>(warp.Max(numbers));
  if (is_staged) {
    start_step(0);
    warp.CommitCopies();
  }
  PAVISE_KERNEL_KEEP_LOOP
  for (uint32_t block = 0; block < blocks; ++block) {
    const uint32_t step = block / kBlocksPerStep;
    if (is_staged && block % kBlocksPerStep == 0) {
      if (step + 1 < kSteps) start_step(step + 1);
      warp.CommitCopies();
      warp.WaitForCopies();
      warp.Sync();
    }
    warp.ForEachLane([&](uint32_t lane) {
      Blake3LeafLane& own = lanes[lane];
      if (block >= own.blocks) return;
      const uint32_t offset = block * kBlake3BlockBytes;
      const uint32_t left = own.size_bytes - offset;
      uint32_t message[16];
      if constexpr (kStaged) {
        if (is_staged) {
          ReadStagedBlock<kBlake3BlockBytes>(shared.staged.bytes[step % 2], lane,
                                             block % kBlocksPerStep, message);
        } else {
          LoadBlock<kBlake3BlockBytes>(own.bytes + offset, left, own.readable_bytes - offset,
                                       message);
        }
      } else {
        LoadBlock<kBlake3BlockBytes>(own.bytes + offset, left, own.readable_bytes - offset,
                                     message);
      }
      const uint32_t chunk = block / kBlocksPerChunk;
      const bool is_last = block + 1 == own.blocks;
      const bool ends_chunk = is_last || block % kBlocksPerChunk == kBlocksPerChunk - 1;
      uint32_t flags = 0;
      if (block % kBlocksPerChunk == 0) {
        pavise_blake3_start(own.chaining);
        flags |= PAVISE_BLAKE3_CHUNK_START;
      }
      if (ends_chunk) flags |= PAVISE_BLAKE3_CHUNK_END;
      // A lone chunk is the topmost node itself.
      if (is_last && chunk == 0) flags |= own.top_flags;
      pavise_blake3_compress(own.chaining, message, own.first_chunk + chunk,
                             left < kBlake3BlockBytes ? left : kBlake3BlockBytes, flags);
      if constexpr (kChunksPerLane > 1) {
        if (ends_chunk) {
          JoinNode(shared.waiting, lane, chunk, is_last, own.top_flags, own.chaining);
        }
      }
    });
    if (is_staged && block % kBlocksPerStep == kBlocksPerStep - 1) warp.Sync();
  }
  warp.ForEachLane([&](uint32_t lane) {
    if (lanes[lane].blocks != 0) WriteNode(lanes[lane].chaining, lanes[lane].out);
  });
}

// ---- Levels above ----

struct Blake3TreeShared {
  WaitingSiblings<LevelsOf(kNodesPerLane)> waiting;
  uint32_t nodes[kLanes][8];
};

// Warp `warp_index` of the launch, which is below group_count: that group.
template <class Warp>
PAVISE_KERNEL_LOGIC void Blake3Tree(Warp& warp, const Blake3TreeArguments& arguments,
                                    uint64_t warp_index, Blake3TreeShared& shared) {
  const uint32_t r = RangeOf(arguments.first_group, arguments.range_count, warp_index);
  const RangeDescriptor& range = arguments.ranges[r];
  const uint64_t range_nodes = arguments.first_node[r + 1] - arguments.first_node[r];
  const uint64_t first = (warp_index - arguments.first_group[r]) * kNodesPerWarp;
  const uint64_t left = range_nodes - first;
  const uint32_t count = static_cast<uint32_t>(left < kNodesPerWarp ? left : kNodesPerWarp);
  const bool is_only = range_nodes <= kNodesPerWarp;
  const uint32_t top_flags = is_only && (range.flags & kRangeIsRoot) != 0 ? PAVISE_BLAKE3_ROOT : 0;
  const uint8_t* const nodes =
      arguments.nodes + (arguments.first_node[r] + first) * uint64_t{kNodeBytes};
  const uint32_t used_lanes = (count + kNodesPerLane - 1) / kNodesPerLane;

  warp.ForEachLane([&](uint32_t lane) {
    if (lane >= used_lanes) return;
    const uint32_t before = lane * kNodesPerLane;
    const uint32_t own = count - before < kNodesPerLane ? count - before : kNodesPerLane;
    uint32_t chaining[8];
    PAVISE_KERNEL_KEEP_LOOP
    for (uint32_t i = 0; i < own; ++i) {
      PAVISE_KERNEL_UNROLL
      for (uint32_t half = 0; half < 2; ++half) {
        const Piece piece = ReadPiece(nodes + (before + i) * kNodeBytes + half * kPieceBytes);
        PAVISE_KERNEL_UNROLL
        for (uint32_t j = 0; j < 4; ++j) chaining[4 * half + j] = piece.words[j];
      }
      JoinNode(shared.waiting, lane, i, i + 1 == own, used_lanes == 1 ? top_flags : 0, chaining);
    }
    PAVISE_KERNEL_UNROLL
    for (uint32_t w = 0; w < 8; ++w) shared.nodes[lane][w] = chaining[w];
  });

  PAVISE_KERNEL_KEEP_LOOP
  for (uint32_t distance = 1; distance < used_lanes; distance *= 2) {
    warp.Sync();
    warp.ForEachLane([&](uint32_t lane) {
      // Lanes that read at an odd multiple of the distance what others wrote, and write at an even
      // one.
      if (lane % (2 * distance) != 0 || lane + distance >= used_lanes) return;
      uint32_t message[16];
      PAVISE_KERNEL_UNROLL
      for (uint32_t w = 0; w < 8; ++w) {
        message[w] = shared.nodes[lane][w];
        message[8 + w] = shared.nodes[lane + distance][w];
      }
      uint32_t chaining[8];
      pavise_blake3_start(chaining);
      pavise_blake3_compress(chaining, message, 0, kBlake3BlockBytes,
                             PAVISE_BLAKE3_PARENT | (2 * distance >= used_lanes ? top_flags : 0));
      PAVISE_KERNEL_UNROLL
      for (uint32_t w = 0; w < 8; ++w) shared.nodes[lane][w] = chaining[w];
    });
  }

  warp.ForEachLane([&](uint32_t lane) {
    if (lane != 0) return;
    WriteNode(shared.nodes[0], is_only ? arguments.out + range.out * kNodeBytes
                                       : arguments.out_nodes + warp_index * kNodeBytes);
  });
}

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_BLAKE3_WARP_H_
