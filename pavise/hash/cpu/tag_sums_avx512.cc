#include "pavise/hash/cpu/tag_sums_avx512.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <array>
#include <cstring>

#include "pavise/base/secret_bytes.h"

// vpdpbusd multiplies 64 unsigned with 64 signed bytes and adds each four products to one of
// sixteen int32, without saturation. Two of them a cycle want more operands than the caches
// deliver, so a tile of four rows and four blocks shares its eight operands among sixteen products.
//
// All blocks of a range begin 64 KiB apart, in the same sets of the L1 cache: rows are packed
// (consecutive in the order of use), and a slice of the blocks is used up, by all rows, before the
// next four blocks' slice comes in.
namespace pavise::hash::internal {
namespace {

constexpr size_t kVectorBytes = 64;
constexpr size_t kTileRows = 4;
constexpr size_t kTileBlocks = 4;
constexpr size_t kTileSums = kTileRows * kTileBlocks;
constexpr size_t kSliceBytes = 512;
constexpr size_t kSteps = kSliceBytes / kVectorBytes;
constexpr size_t kSlices = kTagBlockBytes / kSliceBytes;
constexpr size_t kRowGroups = kTagRows / kTileRows;  // of a key
constexpr size_t kBlockGroups = kTagBlocksPerRange / kTileBlocks;
constexpr size_t kPackedTileBytes = kTileRows * kSliceBytes;

// A tile's sums, still spread over sixteen lanes each.
struct alignas(kVectorBytes) TileSums {
  int32_t lanes[kTileSums][kVectorBytes / 4];
};

#define PAVISE_HASH_AVX512_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

// sum += the dot products of unsigned `data` and signed `row`. Not the intrinsic: GCC 12 copies
// every sum to another register and back around it, which takes as long as the arithmetic.
PAVISE_HASH_AVX512_VNNI inline void AddProducts(__m512i& sum, __m512i data, __m512i row) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(data), "v"(row));
}

// Adds the dot products of a slice of four blocks with the same slice of four rows, fetching
// meanwhile what comes kSliceBytes further in each block. The sums are variables, not an array: an
// array stays in memory.
template <bool kFetchNext>
PAVISE_HASH_AVX512_VNNI void AddTile(const uint8_t* const* blocks, const int8_t* packed_rows,
                                     TileSums& sums) {
  static_assert(kTileRows == 4 && kTileBlocks == 4);
  const uint8_t* const block0 = blocks[0];
  const uint8_t* const block1 = blocks[1];
  const uint8_t* const block2 = blocks[2];
  const uint8_t* const block3 = blocks[3];
#define PAVISE_HASH_EACH_ROW(do_row) do_row(0) do_row(1) do_row(2) do_row(3)
#define PAVISE_HASH_LOAD_SUMS(r)                                  \
  __m512i sum##r##0 = _mm512_load_si512(sums.lanes[4 * (r) + 0]); \
  __m512i sum##r##1 = _mm512_load_si512(sums.lanes[4 * (r) + 1]); \
  __m512i sum##r##2 = _mm512_load_si512(sums.lanes[4 * (r) + 2]); \
  __m512i sum##r##3 = _mm512_load_si512(sums.lanes[4 * (r) + 3]);
#define PAVISE_HASH_ADD_ROW(r)                                                            \
  {                                                                                       \
    const __m512i row = _mm512_load_si512(packed_rows + (4 * step + (r)) * kVectorBytes); \
    AddProducts(sum##r##0, data0, row);                                                   \
    AddProducts(sum##r##1, data1, row);                                                   \
    AddProducts(sum##r##2, data2, row);                                                   \
    AddProducts(sum##r##3, data3, row);                                                   \
  }
#define PAVISE_HASH_STORE_SUMS(r)                         \
  _mm512_store_si512(sums.lanes[4 * (r) + 0], sum##r##0); \
  _mm512_store_si512(sums.lanes[4 * (r) + 1], sum##r##1); \
  _mm512_store_si512(sums.lanes[4 * (r) + 2], sum##r##2); \
  _mm512_store_si512(sums.lanes[4 * (r) + 3], sum##r##3);
  PAVISE_HASH_EACH_ROW(PAVISE_HASH_LOAD_SUMS)
  for (size_t step = 0; step < kSteps; ++step) {
    const size_t at = step * kVectorBytes;
    // To the L2 cache: in the L1 it would displace, or be displaced by, the other blocks' slices.
    // Addresses past the end are not accessed: a prefetch of nothing does nothing.
    if (kFetchNext) {
      _mm_prefetch(reinterpret_cast<const char*>(block0 + at + kSliceBytes), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(block1 + at + kSliceBytes), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(block2 + at + kSliceBytes), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(block3 + at + kSliceBytes), _MM_HINT_T1);
    }
    const __m512i data0 = _mm512_loadu_si512(block0 + at);
    const __m512i data1 = _mm512_loadu_si512(block1 + at);
    const __m512i data2 = _mm512_loadu_si512(block2 + at);
    const __m512i data3 = _mm512_loadu_si512(block3 + at);
    PAVISE_HASH_EACH_ROW(PAVISE_HASH_ADD_ROW)
  }
  PAVISE_HASH_EACH_ROW(PAVISE_HASH_STORE_SUMS)
#undef PAVISE_HASH_EACH_ROW
#undef PAVISE_HASH_LOAD_SUMS
#undef PAVISE_HASH_ADD_ROW
#undef PAVISE_HASH_STORE_SUMS
}

int32_t SumOfLanes(const int32_t* lanes) {
  int32_t sum = 0;
  for (size_t i = 0; i < kVectorBytes / 4; ++i) sum += lanes[i];
  return sum;
}

// The slices at one position of all blocks of a range. Where the range ends inside one, its bytes
// are copied and padded with zeros, which add nothing to a sum.
struct Slices {
  alignas(kVectorBytes) uint8_t padded[kSliceBytes];
  alignas(kVectorBytes) uint8_t zeros[kSliceBytes] = {};
  std::array<const uint8_t*, kTagBlocksPerRange> at;

  void Find(ByteSpan range, size_t offset_in_block) {
    for (size_t block = 0; block < kTagBlocksPerRange; ++block) {
      const size_t begin = block * kTagBlockBytes + offset_in_block;
      if (begin >= range.size()) {
        at[block] = zeros;
      } else if (range.size() - begin >= kSliceBytes) {
        at[block] = range.data() + begin;
      } else {
        const size_t left = range.size() - begin;
        std::memcpy(padded, range.data() + begin, left);
        std::memset(padded + left, 0, kSliceBytes - left);
        at[block] = padded;
      }
    }
  }
};

}  // namespace

void PackTagRowsAvx512(const int8_t* const* key_rows, size_t key_count, int8_t* out) {
  for (size_t slice = 0; slice < kSlices; ++slice) {
    for (size_t row_group = 0; row_group < key_count * kRowGroups; ++row_group) {
      const int8_t* rows = key_rows[row_group / kRowGroups] +
                           row_group % kRowGroups * kTileRows * kTagBlockBytes +
                           slice * kSliceBytes;
      for (size_t step = 0; step < kSteps; ++step) {
        for (size_t r = 0; r < kTileRows; ++r) {
          std::memcpy(out, rows + r * kTagBlockBytes + step * kVectorBytes, kVectorBytes);
          out += kVectorBytes;
        }
      }
    }
  }
}

void TagSumsAvx512(const int8_t* packed_rows, size_t key_count, ByteSpan range, int32_t* sums) {
  const size_t blocks = (range.size() - 1) / kTagBlockBytes + 1;
  const size_t block_groups = (blocks - 1) / kTileBlocks + 1;
  const size_t row_groups = key_count * kRowGroups;
  TileSums tiles[kMaxTagKeys * kRowGroups][kBlockGroups];
  for (size_t row_group = 0; row_group < row_groups; ++row_group) {
    std::memset(tiles[row_group], 0, sizeof(tiles[row_group]));
  }
  Slices slices;
  for (size_t slice = 0; slice < kSlices; ++slice) {
    slices.Find(range, slice * kSliceBytes);
    const int8_t* rows = packed_rows + slice * row_groups * kPackedTileBytes;
    for (size_t block_group = 0; block_group < block_groups; ++block_group) {
      const uint8_t* const* at = &slices.at[block_group * kTileBlocks];
      AddTile<true>(at, rows, tiles[0][block_group]);
      for (size_t row_group = 1; row_group < row_groups; ++row_group) {
        AddTile<false>(at, rows + row_group * kPackedTileBytes, tiles[row_group][block_group]);
      }
    }
  }
  for (size_t row_group = 0; row_group < row_groups; ++row_group) {
    const size_t key = row_group / kRowGroups;
    for (size_t block = 0; block < blocks; ++block) {
      const TileSums& tile = tiles[row_group][block / kTileBlocks];
      for (size_t r = 0; r < kTileRows; ++r) {
        const size_t row = row_group % kRowGroups * kTileRows + r;
        sums[(key * kTagBlocksPerRange + block) * kTagRows + row] =
            SumOfLanes(tile.lanes[r * kTileBlocks + block % kTileBlocks]);
      }
    }
  }
  for (size_t row_group = 0; row_group < row_groups; ++row_group) {
    WipeMemory({reinterpret_cast<uint8_t*>(tiles[row_group]), sizeof(tiles[row_group])});
  }
}

}  // namespace pavise::hash::internal

#else

namespace pavise::hash::internal {

void PackTagRowsAvx512(const int8_t* const* /*key_rows*/, size_t /*key_count*/, int8_t* /*out*/) {}

void TagSumsAvx512(const int8_t* /*packed_rows*/, size_t /*key_count*/, ByteSpan /*range*/,
                   int32_t* /*sums*/) {}

}  // namespace pavise::hash::internal

#endif
