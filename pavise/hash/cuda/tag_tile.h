// The matrix-unit tag kernel (tag.h) as a program of one warp: which bytes each lane loads, what
// the fragments of mma.m16n8k32 hold (PTX ISA, "Matrix fragments for mma.m16n8k32"), how partial
// blocks are padded, where sums go. Everything but the instructions themselves is here and also
// compiles for the host, where tag_kernel_host_test.cc runs the same code with all 32 lanes and an
// emulated mma.
//
// One mma multiplies 16 key rows (A, s8) with 32 bytes of 8 data blocks (B, u8). The order in which
// the bytes of a block are summed is free, as long as key and data agree, so a lane loads 16
// neighbouring bytes and they serve two mma: of a window of 64 bytes, the four lanes of a column
// hold 16 each, and mma number m takes bytes 8m to 8m + 7 of each lane's 16.
//
//   window w of 64 bytes           lane = 4 g + t
//   data:  lane loads bytes 64 w + 16 t .. + 15 of blocks g and g + 8 of its range
//   key:   lane holds the same bytes of rows g and g + 8
//
// A warp sums one range (16 blocks: two B fragments), or, where a range is split among warps for
// more parallelism, every kSplits-th group of windows of it.
#ifndef PAVISE_HASH_CUDA_TAG_TILE_H_
#define PAVISE_HASH_CUDA_TAG_TILE_H_

#include <stdint.h>

#include "pavise/hash/arithmetic/blake3.h"

#if defined(__CUDACC__)
#define PAVISE_TAG_INLINE __host__ __device__ __forceinline__
#define PAVISE_TAG_LANE __device__ __forceinline__
#define PAVISE_TAG_RARE static __device__ __noinline__
#define PAVISE_TAG_UNROLL _Pragma("unroll")
#else
#define PAVISE_TAG_INLINE inline
#define PAVISE_TAG_LANE inline
#define PAVISE_TAG_RARE inline
#define PAVISE_TAG_UNROLL
#endif

namespace pavise::hash::cuda {

// Those of tag.h, which device code does not include; the host test compares them.
inline constexpr uint32_t kRows = 16;
inline constexpr uint32_t kBlockBytes = 65536;
inline constexpr uint32_t kBlocksPerRange = 16;
inline constexpr uint32_t kRangeBytes = kBlockBytes * kBlocksPerRange;

inline constexpr uint32_t kLanes = 32;
inline constexpr uint32_t kLoadBytes = 16;  // a lane's load
inline constexpr uint32_t kWindowBytes =
    4 * kLoadBytes;  // of a block, by the four lanes of a column
inline constexpr uint32_t kWindowsPerBlock = kBlockBytes / kWindowBytes;
inline constexpr uint32_t kColumns = 8;                             // of an mma
inline constexpr uint32_t kHalves = kBlocksPerRange / kColumns;     // B fragments a window
inline constexpr uint32_t kKeyWindowBytes = kRows * kWindowBytes;   // packed rows of a window
inline constexpr uint32_t kPackedRowsBytes = kRows * kBlockBytes;   // of a key
inline constexpr uint32_t kSumsPerRange = kBlocksPerRange * kRows;  // of a key
// One more, so that lanes which hash neighbouring ranges read different banks.
inline constexpr uint32_t kSumsStride = kSumsPerRange + 1;
// Windows that a lane has in flight. 2 x 16 bytes each: with 512 lanes on a multiprocessor 64 KiB,
// more than twice what 4.8 TB/s x 700 ns over 132 of them ask for.
inline constexpr uint32_t kWindowsInFlight = 4;

// Sixteen bytes as four little-endian words.
struct alignas(16) Word4 {
  uint32_t word[4];
};

// ---- Packed rows ----

// Where byte `k` of row `row` lies in packed rows: window after window; in each, rows 0 to 7 and
// then 8 to 15, lane after lane, so that a warp's load is 512 neighbouring bytes (no bank conflict)
// and a slice of windows is one piece.
PAVISE_TAG_INLINE uint32_t PackedRowOffset(uint32_t row, uint32_t k) {
  const uint32_t lane = row % 8 * 4 + k % kWindowBytes / kLoadBytes;
  return k / kWindowBytes * kKeyWindowBytes + (row / 8 * kLanes + lane) * kLoadBytes +
         k % kLoadBytes;
}

// ---- How a thread block divides the work ----

struct TileShape {
  uint32_t keys;           // 1 or 2
  uint32_t warps;          // a thread block
  uint32_t splits;         // warps that share a range: 1, 2 or 4; divides `warps`
  uint32_t slice_windows;  // windows whose packed rows are in shared memory at once: a power of
                           // two, a multiple of splits x kWindowsInFlight
  PAVISE_TAG_INLINE uint32_t ranges() const { return warps / splits; }
  PAVISE_TAG_INLINE uint32_t slices() const { return kWindowsPerBlock / slice_windows; }
  PAVISE_TAG_INLINE uint32_t slice_bytes() const { return keys * slice_windows * kKeyWindowBytes; }
  PAVISE_TAG_INLINE uint32_t sums_bytes() const { return ranges() * keys * kSumsStride * 4; }
  // Two slices, one in use while the next is fetched, and the sums.
  PAVISE_TAG_INLINE uint32_t shared_bytes() const { return 2 * slice_bytes() + sums_bytes(); }
};

// The window that a warp sums as its `i`-th: groups of kWindowsInFlight neighbouring windows (256
// bytes of a block) in turn, so that warps of one range read neighbouring memory.
PAVISE_TAG_INLINE uint32_t WindowOf(uint32_t i, uint32_t splits, uint32_t split) {
  return (i / kWindowsInFlight * splits + split) * kWindowsInFlight + i % kWindowsInFlight;
}

// Where the sum of `row` and `block` is among a thread block's sums: as keyed BLAKE3 takes them.
PAVISE_TAG_INLINE uint32_t SumIndex(uint32_t keys, uint32_t range, uint32_t key, uint32_t block,
                                    uint32_t row) {
  return (range * keys + key) * kSumsStride + block * kRows + row;
}

// The shape for a call on a device that allows `shared_limit` bytes of shared memory a thread block
// (48 KiB at least). All warps of a thread block read the same rows, so more ranges a block mean
// fewer reads of them, which come from the L2 cache: 1 MiB a key for each 8 or 16 MiB of data. One
// key leaves room for two blocks a multiprocessor, so that one reads while the other waits.
PAVISE_TAG_INLINE TileShape ChooseTileShape(uint64_t ranges, uint32_t keys, uint32_t shared_limit,
                                            uint32_t multiprocessors) {
  TileShape shape = {keys, keys == 1 ? 8u : 16u, 1, 0};
  const uint64_t blocks_wanted = uint64_t{multiprocessors} * (keys == 1 ? 2 : 1);
  while (shape.splits < 4 && ranges < blocks_wanted * shape.ranges()) shape.splits *= 2;
  const uint32_t wanted_splits = shape.splits;
  for (; shape.warps >= wanted_splits; shape.warps /= 2) {
    for (shape.splits = wanted_splits; shape.splits > 0; shape.splits /= 2) {
      const uint32_t least = shape.splits * kWindowsInFlight;
      for (shape.slice_windows = 32; shape.slice_windows >= least; shape.slice_windows /= 2) {
        if (shape.shared_bytes() <= shared_limit) return shape;
      }
    }
  }
  return {keys, 0, 1, 0};  // no room at all; not on any device that has mma
}

// The tag of a range of `blocks` blocks: the chaining value of a chunk of keyed BLAKE3 over their
// sums. `key` and `tag` are 8 words each.
PAVISE_TAG_INLINE void TagOfSums(const uint32_t* sums, uint32_t blocks, const uint32_t* key,
                                 uint64_t range_number, uint32_t* tag) {
  uint32_t chaining[8];
  PAVISE_TAG_UNROLL
  for (uint32_t w = 0; w < 8; ++w) chaining[w] = key[w];
  for (uint32_t block = 0; block < blocks; ++block) {
    uint32_t message[kRows];
    PAVISE_TAG_UNROLL
    for (uint32_t row = 0; row < kRows; ++row) message[row] = sums[block * kRows + row];
    uint32_t flags = PAVISE_BLAKE3_KEYED_HASH;
    if (block == 0) flags |= PAVISE_BLAKE3_CHUNK_START;
    if (block + 1 == blocks) flags |= PAVISE_BLAKE3_CHUNK_END;
    pavise_blake3_compress(chaining, message, range_number, 4 * kRows, flags);
  }
  PAVISE_TAG_UNROLL
  for (uint32_t w = 0; w < 8; ++w) tag[w] = chaining[w];
}

// The blocks of range `range` of `size_bytes` bytes, of which range 0 begins at byte 0.
PAVISE_TAG_INLINE uint32_t BlocksOfRange(uint64_t size_bytes, uint64_t range) {
  const uint64_t left = size_bytes - range * kRangeBytes;
  return left >= kRangeBytes ? kBlocksPerRange
                             : static_cast<uint32_t>((left - 1) / kBlockBytes + 1);
}

// The 16 bytes at any `bytes`, none outside them read: three words, and what is left and right of
// them byte by byte.
PAVISE_TAG_INLINE Word4 LoadUnaligned(const uint8_t* bytes) {
  const uint32_t head = static_cast<uint32_t>(-reinterpret_cast<uintptr_t>(bytes) % 4);
  if (head == 0) {
    const uint32_t* words = reinterpret_cast<const uint32_t*>(bytes);
    return {{words[0], words[1], words[2], words[3]}};
  }
  // The bytes as 32-bit pieces between aligned addresses: 4 - head bytes of padding come first.
  const uint32_t* words = reinterpret_cast<const uint32_t*>(bytes + head);
  uint32_t pieces[5] = {0, words[0], words[1], words[2], 0};
  PAVISE_TAG_UNROLL
  for (uint32_t i = 0; i < 3; ++i) {
    if (i < head) pieces[0] |= static_cast<uint32_t>(bytes[i]) << (8 * (4 - head + i));
    if (i < 4 - head) pieces[4] |= static_cast<uint32_t>(bytes[head + 12 + i]) << (8 * i);
  }
  const uint32_t shift = 8 * (4 - head);  // 8, 16 or 24
  Word4 result;
  PAVISE_TAG_UNROLL
  for (uint32_t i = 0; i < 4; ++i) {
    result.word[i] = (pieces[i] >> shift) | (pieces[i + 1] << (32 - shift));
  }
  return result;
}

// Row and column (within the B fragment) of element `i` of a lane's accumulators.
PAVISE_TAG_INLINE uint32_t AccumulatorRow(uint32_t lane, uint32_t i) {
  return lane / 4 + i / 2 * 8;
}
PAVISE_TAG_INLINE uint32_t AccumulatorColumn(uint32_t lane, uint32_t i) {
  return lane % 4 * 2 + i % 2;
}

// The 16 bytes at any `bytes`, of which only `left` exist: zeros for the others.
PAVISE_TAG_RARE Word4 LoadPadded(const uint8_t* bytes, uint32_t left) {
  if (left >= kLoadBytes) return LoadUnaligned(bytes);
  Word4 words = {{0, 0, 0, 0}};
  PAVISE_TAG_UNROLL
  for (uint32_t i = 0; i < kLoadBytes; ++i) {
    if (i < left) words.word[i / 4] |= static_cast<uint32_t>(bytes[i]) << (8 * (i % 4));
  }
  return words;
}

// ---- One warp ----

// `Machine` is the GPU (tag.cu) or its emulation. It has, all static:
//   Lanes<T>                      a T of each lane; [lane]
//   Each(f)                       calls f(lane) for each lane
//   Load(p)                       the 16 bytes at p, which is a multiple of 16
//   LoadKey(p)                    16 bytes of shared memory
//   Mma(acc, a, b)                mma.m16n8k32: acc[lane] (pointers to 4) += a (4) x b (2)
//   Add(int32_t* shared, int32_t) adds to a sum that other lanes may add to
template <typename Machine, uint32_t kKeys>
class TagWarp {
 public:
  // `data`: the object's bytes from the call's first range on. `range` is counted from there;
  // where it begins at or after `size_bytes` this warp has nothing to sum.
  PAVISE_TAG_LANE TagWarp(const uint8_t* data, uint64_t size_bytes, uint64_t range, uint32_t splits,
                          uint32_t split)
      : range_(data + range * kRangeBytes), splits_(splits), split_(split) {
    const uint64_t begin = range * kRangeBytes;
    const uint64_t left = begin < size_bytes ? size_bytes - begin : 0;
    left_ = left < kRangeBytes ? static_cast<uint32_t>(left) : kRangeBytes;
    is_whole_ = left_ == kRangeBytes && reinterpret_cast<uintptr_t>(data) % kLoadBytes == 0;
    Machine::Each([&](uint32_t lane) {
      PAVISE_TAG_UNROLL
      for (uint32_t i = 0; i < kKeys * kHalves * 4; ++i) sums_[lane].value[i] = 0;
    });
    if (idle()) return;
    PAVISE_TAG_UNROLL
    for (uint32_t u = 0; u < kWindowsInFlight; ++u) {
      if (is_whole_) {
        Fetch<true>(u, u);
      } else {
        Fetch<false>(u, u);
      }
    }
  }

  PAVISE_TAG_LANE bool idle() const { return left_ == 0; }

  // Sums this warp's windows of slice number `slice`, whose packed rows are in shared memory: those
  // of the first key, then those of the second. Slices come in order.
  PAVISE_TAG_LANE void AddSlice(const uint8_t* shared_rows, uint32_t slice,
                                uint32_t slice_windows) {
    if (idle()) return;
    // Two loops, because a branch at each load would wait for it.
    if (is_whole_) {
      AddSliceAs<true>(shared_rows, slice, slice_windows);
    } else {
      AddSliceAs<false>(shared_rows, slice, slice_windows);
    }
  }

  // Adds this warp's sums to the thread block's, of which this is range number `range_in_tile`.
  PAVISE_TAG_LANE void Store(int32_t* shared_sums, uint32_t range_in_tile) {
    if (idle()) return;
    Machine::Each([&](uint32_t lane) {
      PAVISE_TAG_UNROLL
      for (uint32_t i = 0; i < kKeys * kHalves * 4; ++i) {
        const uint32_t key = i / (kHalves * 4);
        const uint32_t block = i / 4 % kHalves * kColumns + AccumulatorColumn(lane, i % 4);
        const uint32_t row = AccumulatorRow(lane, i % 4);
        Machine::Add(&shared_sums[SumIndex(kKeys, range_in_tile, key, block, row)],
                     static_cast<int32_t>(sums_[lane].value[i]));
        sums_[lane].value[i] = 0;
      }
    });
  }

 private:
  struct Fragments {
    Word4 half[kHalves];
  };
  struct Sums {
    uint32_t value[kKeys * kHalves * 4];
  };
  struct A {
    uint32_t word[4];
  };
  struct B {
    uint32_t word[2];
  };

  // `kWhole`: the range is whole and aligned.
  template <bool kWhole>
  PAVISE_TAG_LANE void AddSliceAs(const uint8_t* shared_rows, uint32_t slice,
                                  uint32_t slice_windows) {
    const uint32_t own_windows = slice_windows / splits_;
    const uint32_t first = slice * own_windows;
    for (uint32_t i = first; i < first + own_windows; i += kWindowsInFlight) {
      PAVISE_TAG_UNROLL
      for (uint32_t u = 0; u < kWindowsInFlight; ++u) {
        const uint32_t in_slice = WindowOf(i + u, splits_, split_) - slice * slice_windows;
        PAVISE_TAG_UNROLL
        for (uint32_t key = 0; key < kKeys; ++key) {
          AddWindow(shared_rows + (key * slice_windows + in_slice) * kKeyWindowBytes, key, u);
        }
        // Its place is free for what comes kWindowsInFlight later, beyond the slice too.
        Fetch<kWhole>(i + u + kWindowsInFlight, u);
      }
    }
  }

  // The two mma of a window and a key on each half of the blocks.
  PAVISE_TAG_LANE void AddWindow(const uint8_t* rows, uint32_t key, uint32_t u) {
    typename Machine::template Lanes<Word4> low;   // rows 0 to 7
    typename Machine::template Lanes<Word4> high;  // rows 8 to 15
    Machine::Each([&](uint32_t lane) {
      low[lane] = Machine::LoadKey(rows + lane * kLoadBytes);
      high[lane] = Machine::LoadKey(rows + (kLanes + lane) * kLoadBytes);
    });
    PAVISE_TAG_UNROLL
    for (uint32_t m = 0; m < 2; ++m) {
      typename Machine::template Lanes<A> a;
      Machine::Each([&](uint32_t lane) {
        a[lane] = {{low[lane].word[2 * m], high[lane].word[2 * m], low[lane].word[2 * m + 1],
                    high[lane].word[2 * m + 1]}};
      });
      PAVISE_TAG_UNROLL
      for (uint32_t half = 0; half < kHalves; ++half) {
        typename Machine::template Lanes<B> b;
        typename Machine::template Lanes<uint32_t*> sums;
        Machine::Each([&](uint32_t lane) {
          const Word4& data = data_[u][lane].half[half];
          b[lane] = {{data.word[2 * m], data.word[2 * m + 1]}};
          sums[lane] = &sums_[lane].value[(key * kHalves + half) * 4];
        });
        Machine::Mma(sums, a, b);
      }
    }
  }

  // Loads the warp's `i`-th window into place `u`. After the last group that one is loaded once
  // more, from the cache: a load is cheaper than a branch.
  template <bool kWhole>
  PAVISE_TAG_LANE void Fetch(uint32_t i, uint32_t u) {
    uint32_t window = WindowOf(i, splits_, split_);
    if (window >= kWindowsPerBlock) window -= kWindowsInFlight * splits_;
    Machine::Each([&](uint32_t lane) {
      PAVISE_TAG_UNROLL
      for (uint32_t half = 0; half < kHalves; ++half) {
        const uint32_t block = half * kColumns + lane / 4;
        const uint32_t offset = block * kBlockBytes + window * kWindowBytes + lane % 4 * kLoadBytes;
        data_[u][lane].half[half] =
            kWhole ? Machine::Load(range_ + offset)
                   : LoadPadded(range_ + offset, offset < left_ ? left_ - offset : 0);
      }
    });
  }

  const uint8_t* range_;
  uint32_t left_;  // bytes of the range
  const uint32_t splits_;
  const uint32_t split_;
  bool is_whole_;  // and aligned
  typename Machine::template Lanes<Fragments> data_[kWindowsInFlight];
  typename Machine::template Lanes<Sums> sums_;
};

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_TAG_TILE_H_
