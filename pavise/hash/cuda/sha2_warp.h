// The body of the SHA-2 kernels (sha256.cu, sha384.cu), for device and host (warp.h): a lane
// hashes a range. A digest is one serial chain, so that a launch is as parallel as it has ranges.
#ifndef PAVISE_HASH_CUDA_SHA2_WARP_H_
#define PAVISE_HASH_CUDA_SHA2_WARP_H_

#include <cstdint>

#include "pavise/hash/arithmetic/sha256.h"
#include "pavise/hash/arithmetic/sha512.h"
#include "pavise/hash/cuda/block_loads.h"
#include "pavise/hash/cuda/descriptors.h"
#include "pavise/hash/cuda/warp.h"

namespace pavise::hash::cuda {

// One instruction of the device, which its compiler does not find by itself (it makes three).
PAVISE_KERNEL_LOGIC uint32_t SwapBytes(uint32_t x) {
#if defined(__CUDACC__)
  return __byte_perm(x, 0, 0x0123);
#else
  return pavise_swap_bytes_32(x);
#endif
}

// FIPS 180-4. Words are numbers: big-endian bytes already turned around.
struct Sha256 {
  using Word = uint32_t;
  static constexpr uint32_t kBlockBytes = 64;
  static constexpr uint32_t kLengthBytes = 8;  // of the length field that ends the padding
  static constexpr uint32_t kDigestBytes = 32;

  static PAVISE_KERNEL_LOGIC void Start(Word* state) { pavise_sha256_start(state); }
  static PAVISE_KERNEL_LOGIC void Compress(Word* state, Word* words) {
    pavise_sha256_compress(state, words);
  }
  // From the little-endian 32-bit words that memory holds, and back.
  static PAVISE_KERNEL_LOGIC Word FromMemory(const uint32_t* loaded) {
    return SwapBytes(loaded[0]);
  }
  static PAVISE_KERNEL_LOGIC void ToMemory(Word word, uint32_t* stored) {
    stored[0] = SwapBytes(word);
  }
};

struct Sha384 {
  using Word = uint64_t;
  static constexpr uint32_t kBlockBytes = 128;
  static constexpr uint32_t kLengthBytes = 16;
  static constexpr uint32_t kDigestBytes = 48;

  static PAVISE_KERNEL_LOGIC void Start(Word* state) { pavise_sha384_start(state); }
  static PAVISE_KERNEL_LOGIC void Compress(Word* state, Word* words) {
    pavise_sha512_compress(state, words);
  }
  static PAVISE_KERNEL_LOGIC Word FromMemory(const uint32_t* loaded) {
    return (static_cast<uint64_t>(SwapBytes(loaded[0])) << 32) | SwapBytes(loaded[1]);
  }
  static PAVISE_KERNEL_LOGIC void ToMemory(Word word, uint32_t* stored) {
    stored[0] = SwapBytes(static_cast<uint32_t>(word >> 32));
    stored[1] = SwapBytes(static_cast<uint32_t>(word));
  }
};

// Where each lane's row begins, for the lanes that copy it.
struct Sha2Rows {
  StagedRows staged;
  const uint8_t* rows[kLanes];
};
struct Sha2NoRows {};

template <bool kStaged>
struct Sha2SharedOf {
  using Type = Sha2NoRows;
};
template <>
struct Sha2SharedOf<true> {
  using Type = Sha2Rows;
};
template <bool kStaged>
using Sha2Shared = typename Sha2SharedOf<kStaged>::Type;

template <class Hash>
struct Sha2Lane {
  const uint8_t* bytes;
  uint64_t size_bytes;
  uint64_t blocks;  // padding included; none: a lane after the last range
  uint64_t out;
  typename Hash::Word state[8];
};

// Puts the padding (section 5.1) into a block of which the message fills `left` bytes, fewer than
// all, and which is zero behind them. `has_one`: the one bit belongs into this block; `is_last`: so
// does the length.
template <class Hash>
PAVISE_KERNEL_LOGIC void Pad(uint64_t size_bytes, uint32_t left, bool has_one, bool is_last,
                             typename Hash::Word* words) {
  using Word = typename Hash::Word;
  constexpr uint32_t kBits = 8 * sizeof(Word);
  const uint32_t at = has_one ? left / static_cast<uint32_t>(sizeof(Word)) : 16;
  const Word one = Word{0x80} << (kBits - 8 - 8 * (left % sizeof(Word)));
  PAVISE_KERNEL_UNROLL
  for (uint32_t i = 0; i < 16; ++i) {
    // A selection: a conditional store would let the compiler move all words to memory, to index
    // them.
    words[i] |= at == i ? one : Word{0};
  }
  if (is_last) {
    words[14] = static_cast<Word>(size_bytes >> (kBits - 3));
    words[15] = static_cast<Word>(size_bytes << 3);
  }
}

// Warp `warp_index` of the launch: ranges kLanes * warp_index and on. As far as all its ranges
// reach, and where all begin at multiples of 16, their bytes come through shared memory (kStaged).
template <class Hash, bool kStaged, class Warp>
PAVISE_KERNEL_LOGIC void Sha2Ranges(Warp& warp, const Sha2Arguments& arguments, uint64_t warp_index,
                                    Sha2Shared<kStaged>& shared) {
  using Word = typename Hash::Word;
  constexpr uint32_t kBlockBytes = Hash::kBlockBytes;
  constexpr uint32_t kBlocksPerStep = kStepBytes / kBlockBytes;

  typename Warp::template PerLane<Sha2Lane<Hash>> lanes;
  typename Warp::template PerLane<uint64_t> numbers;
  warp.ForEachLane([&](uint32_t lane) {
    Sha2Lane<Hash>& own = lanes[lane];
    const uint64_t index = warp_index * kLanes + lane;
    const bool is_used = index < arguments.range_count;
    // A lane without a range copies the bytes of the last one, so that every row can be read.
    const RangeDescriptor& range =
        arguments.ranges[is_used ? index : uint64_t{arguments.range_count} - 1];
    own.bytes = arguments.base + range.offset_bytes;
    own.size_bytes = range.size_bytes;
    own.out = range.out;
    own.blocks = is_used ? (range.size_bytes + Hash::kLengthBytes) / kBlockBytes + 1 : 0;
    Hash::Start(own.state);
    numbers[lane] = own.blocks;
  });
  const uint64_t blocks = warp.Max(numbers);

  uint64_t staged_blocks = 0;
  if constexpr (kStaged) {
    warp.ForEachLane([&](uint32_t lane) {
      const Sha2Lane<Hash>& own = lanes[lane];
      shared.rows[lane] = own.bytes;
      numbers[lane] = AddressOf(own.bytes) % kPieceBytes == 0 ? own.size_bytes / kStepBytes : 0;
    });
    warp.Sync();
    staged_blocks = warp.Min(numbers) * kBlocksPerStep;
  }
  const auto start_step = [&](uint64_t step) {
    if constexpr (kStaged) {
      warp.ForEachLane([&](uint32_t lane) {
        const uint64_t offset = step * kStepBytes + lane % kPiecesPerStep * kPieceBytes;
        StartStep(warp, lane, shared.staged.bytes[step % 2], [&](uint32_t i) {
          return shared.rows[lane / kPiecesPerStep + i * kRowsPerCopy] + offset;
        });
      });
    }
  };

  if (staged_blocks != 0) {
    start_step(0);
    warp.CommitCopies();
  }
  PAVISE_KERNEL_KEEP_LOOP
  for (uint64_t block = 0; block < blocks; ++block) {
    const bool is_staged = kStaged && block < staged_blocks;
    const uint32_t step_parity = static_cast<uint32_t>(block / kBlocksPerStep) % 2;
    if (is_staged && block % kBlocksPerStep == 0) {
      if (block + kBlocksPerStep < staged_blocks) start_step(block / kBlocksPerStep + 1);
      warp.CommitCopies();
      warp.WaitForCopies();
      warp.Sync();
    }
    warp.ForEachLane([&](uint32_t lane) {
      Sha2Lane<Hash>& own = lanes[lane];
      if (block >= own.blocks) return;
      const uint64_t offset = block * kBlockBytes;
      uint32_t loaded[kBlockBytes / 4];
      Word words[16];
      // The message may end before the last block begins.
      const uint64_t left = own.size_bytes > offset ? own.size_bytes - offset : 0;
      if (is_staged) {
        if constexpr (kStaged) {
          ReadStagedBlock<kBlockBytes>(shared.staged.bytes[step_parity], lane,
                                       static_cast<uint32_t>(block % kBlocksPerStep), loaded);
        }
      } else {
        LoadBlock<kBlockBytes>(own.bytes + offset, left, left, loaded);
      }
      PAVISE_KERNEL_UNROLL
      for (uint32_t i = 0; i < 16; ++i) {
        words[i] = Hash::FromMemory(loaded + i * (sizeof(Word) / 4));
      }
      if (left < kBlockBytes) {
        Pad<Hash>(own.size_bytes, static_cast<uint32_t>(left), offset <= own.size_bytes,
                  block + 1 == own.blocks, words);
      }
      Hash::Compress(own.state, words);
    });
    if (is_staged && block % kBlocksPerStep == kBlocksPerStep - 1) warp.Sync();
  }

  warp.ForEachLane([&](uint32_t lane) {
    Sha2Lane<Hash>& own = lanes[lane];
    if (own.blocks == 0) return;
    uint32_t digest[16];
    PAVISE_KERNEL_UNROLL
    for (uint32_t i = 0; i < Hash::kDigestBytes / sizeof(Word); ++i) {
      Hash::ToMemory(own.state[i], digest + i * (sizeof(Word) / 4));
    }
    PAVISE_KERNEL_UNROLL
    for (uint32_t i = 0; i < Hash::kDigestBytes / kPieceBytes; ++i) {
      Piece piece;
      PAVISE_KERNEL_UNROLL
      for (uint32_t j = 0; j < 4; ++j) piece.words[j] = digest[4 * i + j];
      WritePiece(piece, arguments.out + own.out * Hash::kDigestBytes + i * kPieceBytes);
    }
  });
}

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_SHA2_WARP_H_
