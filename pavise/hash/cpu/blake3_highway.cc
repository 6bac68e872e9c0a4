#include "pavise/hash/cpu/blake3_highway.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <utility>

#include "pavise/base/simd_target.h"

// Highway compiles the part below HWY_BEFORE_NAMESPACE once per target by including this file
// again. The scalable vectors of SVE are left out: the kernels want a width known when they are
// compiled, which NEON has.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE_256 | HWY_SVE2 | HWY_SVE2_128)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "pavise/hash/cpu/blake3_highway.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

static_assert(std::endian::native == std::endian::little,
              "message words are loaded as they lie in memory");

// What all targets share.
#ifndef PAVISE_HASH_CPU_BLAKE3_HIGHWAY_SHARED_
#define PAVISE_HASH_CPU_BLAKE3_HIGHWAY_SHARED_

namespace pavise::hash::internal {
namespace {

constexpr size_t kWordsPerBlock = kBlockBytes / 4;
constexpr size_t kBlocksPerChunk = kBlake3ChunkBytes / kBlockBytes;
constexpr size_t kRounds = 7;
// No kernel uses more lanes than fill a 64-byte vector.
constexpr size_t kMaxLanes = 16;
constexpr size_t kVectorBytes = 64;

// How far ahead of the hashed bytes memory is fetched. Sixteen chunks at stride 1,024 are a pattern
// that hardware prefetchers miss; the next group of chunks asked for in address order is one that
// they follow (measured: 6.4 against 5.3 GB/s on memory that is in no cache).
constexpr size_t kPrefetchDistanceBytes = 16 * kBlake3ChunkBytes;

// The initialisation vector: that of SHA-256.
constexpr uint32_t kInitialWords[8] = {0x6A09E667u, 0xBB67AE85u, 0x3C6EF372u, 0xA54FF53Au,
                                       0x510E527Fu, 0x9B05688Cu, 0x1F83D9ABu, 0x5BE0CD19u};

using Schedule = std::array<std::array<uint8_t, kWordsPerBlock>, kRounds>;

// Which message word each of a round's sixteen inputs is: the permutation of the paper's table 2,
// applied once more every round.
constexpr Schedule MakeSchedule() {
  constexpr uint8_t kPermutation[kWordsPerBlock] = {2, 6,  3,  10, 7, 0,  4,  13,
                                                    1, 11, 12, 5,  9, 14, 15, 8};
  Schedule schedule = {};
  for (size_t i = 0; i < kWordsPerBlock; ++i) schedule[0][i] = static_cast<uint8_t>(i);
  for (size_t round = 1; round < kRounds; ++round) {
    for (size_t i = 0; i < kWordsPerBlock; ++i) {
      schedule[round][i] = schedule[round - 1][kPermutation[i]];
    }
  }
  return schedule;
}
constexpr Schedule kSchedule = MakeSchedule();

// Chaining values word by word: word w of value i is at words[w * kStride + i], so that a vector
// holds the same word of neighbouring values and parents need no transposition.
struct ChainingColumns {
  // Not a multiple of 4 KiB apart: stores to the eight rows would alias in the L1 cache.
  static constexpr size_t kStride = kMaxPairInputs + 2 * kMaxLanes;
  // Left uninitialised: every function states which columns it writes.
  alignas(kVectorBytes) uint32_t words[8 * kStride];

  void Set(size_t column, const ChainingValue& value) {
    for (size_t w = 0; w < 8; ++w) std::memcpy(&words[w * kStride + column], &value[4 * w], 4);
  }
  ChainingValue Get(size_t column) const {
    ChainingValue value;
    for (size_t w = 0; w < 8; ++w) std::memcpy(&value[4 * w], &words[w * kStride + column], 4);
    return value;
  }
};

// What one target offers.
struct Kernels {
  int64_t target;  // HWY_AVX3, ...
  void (*compress_block)(const ChainingValue& chaining, const uint8_t* block,
                         uint32_t block_size_bytes, uint64_t counter, uint32_t flags, uint8_t* out);
  void (*hash_chunk)(const Mode& mode, const uint8_t* bytes, size_t size_bytes,
                     uint64_t chunk_index, uint32_t final_flags, ChainingValue& out);
  void (*pair_of_chunks)(const Mode& mode, const uint8_t* bytes, size_t size_bytes,
                         uint64_t first_chunk, ChildPair& out);
  void (*pair_of_subtrees)(const Mode& mode, const ChainingValue* subtrees, size_t count,
                           ChildPair& out);
};

}  // namespace
}  // namespace pavise::hash::internal

#endif  // PAVISE_HASH_CPU_BLAKE3_HIGHWAY_SHARED_

HWY_BEFORE_NAMESPACE();
namespace pavise::hash::internal {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// AVX-512 alone has 32 registers and a rotate instruction.
#undef PAVISE_HASH_IS_AVX512
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
#define PAVISE_HASH_IS_AVX512 1
#else
#define PAVISE_HASH_IS_AVX512 0
#endif

// ---- Rotations ----

// `kBits` / 8 bytes to the right in each 32-bit lane, as a byte shuffle (one instruction where a
// rotation is three).
template <size_t kBytes, class D>
HWY_INLINE hn::Vec<D> RotateRightBytes(D d, hn::Vec<D> v) {
#if PAVISE_HASH_IS_AVX512 || HWY_TARGET == HWY_SCALAR
  (void)d;
  return hn::RotateRight<8 * kBytes>(v);
#else
  static_assert(kBytes == 1 || kBytes == 2);
  const hn::Repartition<uint8_t, D> d8;
  alignas(16) static constexpr uint8_t kByOne[16] = {1, 2,  3,  0, 5,  6,  7,  4,
                                                     9, 10, 11, 8, 13, 14, 15, 12};
  alignas(16) static constexpr uint8_t kByTwo[16] = {2,  3,  0, 1, 6,  7,  4,  5,
                                                     10, 11, 8, 9, 14, 15, 12, 13};
  const auto indices = hn::LoadDup128(d8, kBytes == 1 ? kByOne : kByTwo);
  return hn::BitCast(d, hn::TableLookupBytes(hn::BitCast(d8, v), indices));
#endif
}

// The quarter round G (paper, section 2.2), on as many columns as there are lanes.
template <class D, class V>
HWY_INLINE void QuarterRound(D d, V& a, V& b, V& c, V& d_, V message_x, V message_y) {
  // The message is added first: `b` is what the chain of dependent instructions waits for.
  a = hn::Add(hn::Add(a, message_x), b);
  d_ = RotateRightBytes<2>(d, hn::Xor(d_, a));
  c = hn::Add(c, d_);
  b = hn::RotateRight<12>(hn::Xor(b, c));
  a = hn::Add(hn::Add(a, message_y), b);
  d_ = RotateRightBytes<1>(d, hn::Xor(d_, a));
  c = hn::Add(c, d_);
  b = hn::RotateRight<7>(hn::Xor(b, c));
}

// ---- One compression, its rows in four-lane vectors ----

#if HWY_TARGET == HWY_SCALAR

// state[0..7] becomes the chaining value, state[8..15] the rest of the extended output.
void Compress(const uint32_t* chaining, const uint8_t* block, uint32_t block_size_bytes,
              uint64_t counter, uint32_t flags, uint32_t* state) {
  const hn::CappedTag<uint32_t, 1> d;
  using V = hn::Vec<decltype(d)>;
  uint32_t message[kWordsPerBlock];
  std::memcpy(message, block, kBlockBytes);
  V v[kWordsPerBlock];
  for (size_t i = 0; i < 8; ++i) v[i] = hn::Set(d, chaining[i]);
  for (size_t i = 0; i < 4; ++i) v[8 + i] = hn::Set(d, kInitialWords[i]);
  v[12] = hn::Set(d, static_cast<uint32_t>(counter));
  v[13] = hn::Set(d, static_cast<uint32_t>(counter >> 32));
  v[14] = hn::Set(d, block_size_bytes);
  v[15] = hn::Set(d, flags);
  for (const auto& order : kSchedule) {
    const auto word = [&](size_t i) { return hn::Set(d, message[order[i]]); };
    for (size_t i = 0; i < 4; ++i) {
      QuarterRound(d, v[i], v[4 + i], v[8 + i], v[12 + i], word(2 * i), word(2 * i + 1));
    }
    for (size_t i = 0; i < 4; ++i) {
      QuarterRound(d, v[i], v[4 + (i + 1) % 4], v[8 + (i + 2) % 4], v[12 + (i + 3) % 4],
                   word(8 + 2 * i), word(8 + 2 * i + 1));
    }
  }
  for (size_t i = 0; i < 8; ++i) {
    const uint32_t first = chaining[i];
    state[i] = hn::GetLane(hn::Xor(v[i], v[8 + i]));
    state[8 + i] = hn::GetLane(v[8 + i]) ^ first;
  }
}

// Compresses `count` whole blocks one after the other into `chaining`.
HWY_INLINE void CompressBlocks(uint32_t* chaining, const uint8_t* blocks, size_t count,
                               uint64_t counter, uint32_t first_flags, uint32_t flags) {
  uint32_t state[kWordsPerBlock];
  for (size_t i = 0; i < count; ++i) {
    Compress(chaining, blocks + i * kBlockBytes, kBlockBytes, counter, i == 0 ? first_flags : flags,
             state);
    std::memcpy(chaining, state, 8 * sizeof(uint32_t));
  }
}

#else

// The order in which a round's rows take message words: x and y of the columns, then x and y of the
// diagonals, these begun at the fourth because the rows turn around `b`, which stays in place (it
// is ready last).
constexpr std::array<uint8_t, kWordsPerBlock> kRowOrder = {0,  2, 4,  6,  1,  3, 5,  7,
                                                           14, 8, 10, 12, 15, 9, 11, 13};

#if PAVISE_HASH_IS_AVX512

struct RowIndices {
  alignas(kVectorBytes) int32_t index[kRounds][kWordsPerBlock];
};
constexpr RowIndices MakeRowIndices() {
  RowIndices indices = {};
  for (size_t round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < kWordsPerBlock; ++i) {
      indices.index[round][i] = kSchedule[round][kRowOrder[i]];
    }
  }
  return indices;
}
inline constexpr RowIndices kRowIndices = MakeRowIndices();

// All rounds' message words in row order: one permutation of a whole block each.
HWY_INLINE void OrderMessage(const uint8_t* block, uint32_t* rows) {
  const hn::CappedTag<uint32_t, kWordsPerBlock> d;
  const auto message = hn::LoadU(d, reinterpret_cast<const uint32_t*>(block));
  for (size_t round = 0; round < kRounds; ++round) {
    const auto indices = hn::SetTableIndices(d, kRowIndices.index[round]);
    hn::Store(hn::TableLookupLanes(message, indices), d, rows + round * kWordsPerBlock);
  }
}

#else

template <size_t kAt>
HWY_INLINE void CopyMessageWord(const uint8_t* block, uint32_t* rows) {
  constexpr size_t kWord = kSchedule[kAt / kWordsPerBlock][kRowOrder[kAt % kWordsPerBlock]];
  std::memcpy(rows + kAt, block + 4 * kWord, 4);
}
template <size_t... kAt>
HWY_INLINE void CopyMessageWords(const uint8_t* block, uint32_t* rows,
                                 std::index_sequence<kAt...> /*all*/) {
  (CopyMessageWord<kAt>(block, rows), ...);
}
// All rounds' message words in row order, moved one by one: the integer units are idle anyway.
HWY_INLINE void OrderMessage(const uint8_t* block, uint32_t* rows) {
  CopyMessageWords(block, rows, std::make_index_sequence<kRounds * kWordsPerBlock>());
}

#endif  // PAVISE_HASH_IS_AVX512

// One compression. `low` and `high`: the chaining value in, the new one out; `c` and `e` become the
// other two rows of the state, of which extended output is made; `e` brings the last row in.
template <class D, class V>
HWY_INLINE void CompressRows(D d, V& low, V& high, V& c, V& e, const uint8_t* block) {
  alignas(kVectorBytes) uint32_t rows[kRounds * kWordsPerBlock];
  OrderMessage(block, rows);
  V a = low;
  V b = high;
  c = hn::LoadU(d, kInitialWords);
  for (size_t round = 0; round < kRounds; ++round) {
    const uint32_t* row = rows + round * kWordsPerBlock;
    QuarterRound(d, a, b, c, e, hn::Load(d, row), hn::Load(d, row + 4));
    a = hn::Shuffle2103(a);
    e = hn::Shuffle1032(e);
    c = hn::Shuffle0321(c);
    QuarterRound(d, a, b, c, e, hn::Load(d, row + 8), hn::Load(d, row + 12));
    a = hn::Shuffle0321(a);
    e = hn::Shuffle1032(e);
    c = hn::Shuffle2103(c);
  }
  low = hn::Xor(a, c);
  high = hn::Xor(b, e);
}

// The last row of a compression's state.
template <class D>
HWY_INLINE hn::Vec<D> LastRow(D d, uint32_t block_size_bytes, uint64_t counter, uint32_t flags) {
  alignas(16)
      const uint32_t row[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                               block_size_bytes, flags};
  return hn::Load(d, row);
}

// state[0..7] becomes the chaining value, state[8..15] the rest of the extended output.
void Compress(const uint32_t* chaining, const uint8_t* block, uint32_t block_size_bytes,
              uint64_t counter, uint32_t flags, uint32_t* state) {
  const hn::FixedTag<uint32_t, 4> d;
  const auto first_low = hn::LoadU(d, chaining);
  const auto first_high = hn::LoadU(d, chaining + 4);
  auto low = first_low;
  auto high = first_high;
  auto c = hn::Zero(d);
  auto e = LastRow(d, block_size_bytes, counter, flags);
  CompressRows(d, low, high, c, e, block);
  hn::StoreU(low, d, state);
  hn::StoreU(high, d, state + 4);
  hn::StoreU(hn::Xor(c, first_low), d, state + 8);
  hn::StoreU(hn::Xor(e, first_high), d, state + 12);
}

// Compresses `count` whole blocks one after the other into `chaining`.
HWY_INLINE void CompressBlocks(uint32_t* chaining, const uint8_t* blocks, size_t count,
                               uint64_t counter, uint32_t first_flags, uint32_t flags) {
  const hn::FixedTag<uint32_t, 4> d;
  auto low = hn::LoadU(d, chaining);
  auto high = hn::LoadU(d, chaining + 4);
  auto c = hn::Zero(d);
  // Made before the loop: assembled from words in it, the row would wait for their stores.
  auto e = LastRow(d, kBlockBytes, counter, first_flags);
  const auto last_row = LastRow(d, kBlockBytes, counter, flags);
  for (size_t i = 0; i < count; ++i) {
    CompressRows(d, low, high, c, e, blocks + i * kBlockBytes);
    e = last_row;
  }
  hn::StoreU(low, d, chaining);
  hn::StoreU(high, d, chaining + 4);
}

#endif  // HWY_TARGET == HWY_SCALAR

// ---- As many compressions as there are lanes ----

// Message words of one block of each lane, word by word: word w of lane l at [w * lanes + l].
struct StagedMessage {
  alignas(kVectorBytes) uint32_t words[kWordsPerBlock * kMaxLanes];
};

// Half a round each: the quarter rounds of the columns, then of the diagonals. Message words are
// added from memory, so that the sixteen vectors of state stay in registers (where there are 32).
template <size_t kRound, class D, class V>
HWY_INLINE void MixColumns(D d, const uint32_t* message, V& v0, V& v1, V& v2, V& v3, V& v4, V& v5,
                           V& v6, V& v7, V& v8, V& v9, V& v10, V& v11, V& v12, V& v13, V& v14,
                           V& v15) {
  const size_t lanes = hn::Lanes(d);
  constexpr auto kOrder = kSchedule[kRound];
  QuarterRound(d, v0, v4, v8, v12, hn::Load(d, message + kOrder[0] * lanes),
               hn::Load(d, message + kOrder[1] * lanes));
  QuarterRound(d, v1, v5, v9, v13, hn::Load(d, message + kOrder[2] * lanes),
               hn::Load(d, message + kOrder[3] * lanes));
  QuarterRound(d, v2, v6, v10, v14, hn::Load(d, message + kOrder[4] * lanes),
               hn::Load(d, message + kOrder[5] * lanes));
  QuarterRound(d, v3, v7, v11, v15, hn::Load(d, message + kOrder[6] * lanes),
               hn::Load(d, message + kOrder[7] * lanes));
}
template <size_t kRound, class D, class V>
HWY_INLINE void MixDiagonals(D d, const uint32_t* message, V& v0, V& v1, V& v2, V& v3, V& v4, V& v5,
                             V& v6, V& v7, V& v8, V& v9, V& v10, V& v11, V& v12, V& v13, V& v14,
                             V& v15) {
  const size_t lanes = hn::Lanes(d);
  constexpr auto kOrder = kSchedule[kRound];
  QuarterRound(d, v0, v5, v10, v15, hn::Load(d, message + kOrder[8] * lanes),
               hn::Load(d, message + kOrder[9] * lanes));
  QuarterRound(d, v1, v6, v11, v12, hn::Load(d, message + kOrder[10] * lanes),
               hn::Load(d, message + kOrder[11] * lanes));
  QuarterRound(d, v2, v7, v8, v13, hn::Load(d, message + kOrder[12] * lanes),
               hn::Load(d, message + kOrder[13] * lanes));
  QuarterRound(d, v3, v4, v9, v14, hn::Load(d, message + kOrder[14] * lanes),
               hn::Load(d, message + kOrder[15] * lanes));
}

// Compresses one block a lane. v0..v7: chaining values in, new chaining values out.
// `while_mixing()` is called early on, for work that the execution units left idle can do.
template <class D, class V, class WhileMixing>
HWY_INLINE void CompressLanes(D d, const uint32_t* message, V& v0, V& v1, V& v2, V& v3, V& v4,
                              V& v5, V& v6, V& v7, V counter_low, V counter_high,
                              uint32_t block_size_bytes, uint32_t flags,
                              const WhileMixing& while_mixing) {
  V v8 = hn::Set(d, kInitialWords[0]);
  V v9 = hn::Set(d, kInitialWords[1]);
  V v10 = hn::Set(d, kInitialWords[2]);
  V v11 = hn::Set(d, kInitialWords[3]);
  V v12 = counter_low;
  V v13 = counter_high;
  V v14 = hn::Set(d, block_size_bytes);
  V v15 = hn::Set(d, flags);
#define PAVISE_HASH_STATE v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15
  MixColumns<0>(d, message, PAVISE_HASH_STATE);
  while_mixing();
  MixDiagonals<0>(d, message, PAVISE_HASH_STATE);
  MixColumns<1>(d, message, PAVISE_HASH_STATE);
  MixDiagonals<1>(d, message, PAVISE_HASH_STATE);
  MixColumns<2>(d, message, PAVISE_HASH_STATE);
  MixDiagonals<2>(d, message, PAVISE_HASH_STATE);
  MixColumns<3>(d, message, PAVISE_HASH_STATE);
  MixDiagonals<3>(d, message, PAVISE_HASH_STATE);
  MixColumns<4>(d, message, PAVISE_HASH_STATE);
  MixDiagonals<4>(d, message, PAVISE_HASH_STATE);
  MixColumns<5>(d, message, PAVISE_HASH_STATE);
  MixDiagonals<5>(d, message, PAVISE_HASH_STATE);
  MixColumns<6>(d, message, PAVISE_HASH_STATE);
  MixDiagonals<6>(d, message, PAVISE_HASH_STATE);
#undef PAVISE_HASH_STATE
  v0 = hn::Xor(v0, v8);
  v1 = hn::Xor(v1, v9);
  v2 = hn::Xor(v2, v10);
  v3 = hn::Xor(v3, v11);
  v4 = hn::Xor(v4, v12);
  v5 = hn::Xor(v5, v13);
  v6 = hn::Xor(v6, v14);
  v7 = hn::Xor(v7, v15);
}

#if HWY_TARGET != HWY_SCALAR && !HWY_HAVE_SCALABLE

// Stores the 16-byte blocks of `v` apart: block i at out + 4 * i * lanes.
template <class D, class V>
HWY_INLINE void StoreBlocksApart(D d, V v, uint32_t* out) {
  constexpr size_t kLanes = hn::MaxLanes(D());
  if constexpr (kLanes == 4) {
    hn::Store(v, d, out);
  } else if constexpr (kLanes == 8) {
    const hn::Half<D> half;
    hn::Store(hn::LowerHalf(half, v), half, out);
    hn::Store(hn::UpperHalf(half, v), half, out + 4 * kLanes);
  } else {
    static_assert(kLanes == 16);
#if PAVISE_HASH_IS_AVX512
    // An extraction straight to memory costs no shuffle; Highway would go through two registers.
    _mm_store_si128(reinterpret_cast<__m128i*>(out), _mm512_castsi512_si128(v.raw));
    _mm_store_si128(reinterpret_cast<__m128i*>(out + 4 * kLanes),
                    _mm512_extracti32x4_epi32(v.raw, 1));
    _mm_store_si128(reinterpret_cast<__m128i*>(out + 8 * kLanes),
                    _mm512_extracti32x4_epi32(v.raw, 2));
    _mm_store_si128(reinterpret_cast<__m128i*>(out + 12 * kLanes),
                    _mm512_extracti32x4_epi32(v.raw, 3));
#endif
  }
}

// Stages one block of every lane: `lanes_at[l] + offset_bytes` is where lane l's block lies.
// Transposes four by four words inside 16-byte blocks (eight shuffles for four lanes' vectors) and
// lets the stores put the blocks where they belong.
template <class D>
HWY_INLINE void StageMessage(D d, const uint8_t* const* lanes_at, size_t offset_bytes,
                             uint32_t* message) {
  constexpr size_t kLanes = hn::MaxLanes(D());
  const hn::Repartition<uint64_t, D> d64;
  for (size_t lane = 0; lane < kLanes; lane += 4) {
    for (size_t word = 0; word < kWordsPerBlock; word += kLanes) {
      const auto row = [&](size_t i) HWY_ATTR {
        return hn::LoadU(
            d, reinterpret_cast<const uint32_t*>(lanes_at[lane + i] + offset_bytes) + word);
      };
      const auto row0 = row(0);
      const auto row1 = row(1);
      const auto row2 = row(2);
      const auto row3 = row(3);
      const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, row0, row1));
      const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d, row0, row1));
      const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, row2, row3));
      const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d, row2, row3));
      uint32_t* out = message + word * kLanes + lane;
      StoreBlocksApart(d, hn::BitCast(d, hn::InterleaveLower(d64, low01, low23)), out);
      StoreBlocksApart(d, hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23)), out + kLanes);
      StoreBlocksApart(d, hn::BitCast(d, hn::InterleaveLower(d64, high01, high23)),
                       out + 2 * kLanes);
      StoreBlocksApart(d, hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23)),
                       out + 3 * kLanes);
    }
  }
}

#else

template <class D>
HWY_INLINE void StageMessage(D d, const uint8_t* const* lanes_at, size_t offset_bytes,
                             uint32_t* message) {
  const size_t lanes = hn::Lanes(d);
  for (size_t lane = 0; lane < lanes; ++lane) {
    for (size_t word = 0; word < kWordsPerBlock; ++word) {
      std::memcpy(message + word * lanes + lane, lanes_at[lane] + offset_bytes + 4 * word, 4);
    }
  }
}

#endif

template <class D, class V>
HWY_INLINE void StoreColumns(D d, V v0, V v1, V v2, V v3, V v4, V v5, V v6, V v7, uint32_t* out) {
  constexpr size_t kStride = ChainingColumns::kStride;
  hn::StoreU(v0, d, out);
  hn::StoreU(v1, d, out + kStride);
  hn::StoreU(v2, d, out + 2 * kStride);
  hn::StoreU(v3, d, out + 3 * kStride);
  hn::StoreU(v4, d, out + 4 * kStride);
  hn::StoreU(v5, d, out + 5 * kStride);
  hn::StoreU(v6, d, out + 6 * kStride);
  hn::StoreU(v7, d, out + 7 * kStride);
}

// Chaining values of `count` > 0 whole chunks into columns [first_column, first_column + count
// rounded up to lanes); the columns after `count` repeat the last chunk.
template <class D>
HWY_NOINLINE void ChunksInLanes(D d, const Mode& mode, const uint8_t* chunks, size_t count,
                                uint64_t first_chunk, ChainingColumns& columns,
                                size_t first_column) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d);
  const size_t groups = (count + lanes - 1) / lanes;
  uint32_t key[8];
  std::memcpy(key, mode.key.data(), sizeof(key));

  // While one block is compressed the next is staged: stores of 16 bytes that a load of 64 had to
  // wait for would stall it, and the shuffles fill what the arithmetic leaves idle.
  StagedMessage staged[2];
  const uint8_t* lanes_at[kMaxLanes];
  const auto enter_group = [&](size_t group) {
    for (size_t lane = 0; lane < lanes; ++lane) {
      const size_t chunk = HWY_MIN(group * lanes + lane, count - 1);
      lanes_at[lane] = chunks + chunk * kBlake3ChunkBytes;
    }
  };
  enter_group(0);
  StageMessage(d, lanes_at, 0, staged[0].words);

  for (size_t group = 0; group < groups; ++group) {
    alignas(kVectorBytes) uint32_t counter_low[kMaxLanes];
    alignas(kVectorBytes) uint32_t counter_high[kMaxLanes];
    for (size_t lane = 0; lane < lanes; ++lane) {
      const uint64_t counter = first_chunk + group * lanes + lane;
      counter_low[lane] = static_cast<uint32_t>(counter);
      counter_high[lane] = static_cast<uint32_t>(counter >> 32);
    }
    // As an address, not a pointer: it may lie past the input, where fetching is harmless.
    uintptr_t fetched = reinterpret_cast<uintptr_t>(chunks + group * lanes * kBlake3ChunkBytes) +
                        kPrefetchDistanceBytes;
    V v0 = hn::Set(d, key[0]);
    V v1 = hn::Set(d, key[1]);
    V v2 = hn::Set(d, key[2]);
    V v3 = hn::Set(d, key[3]);
    V v4 = hn::Set(d, key[4]);
    V v5 = hn::Set(d, key[5]);
    V v6 = hn::Set(d, key[6]);
    V v7 = hn::Set(d, key[7]);
    for (size_t block = 0; block < kBlocksPerChunk; ++block) {
      size_t next_offset_bytes = (block + 1) * kBlockBytes;
      if (block + 1 == kBlocksPerChunk) {
        // The last group stages a block again that nobody reads: cheaper than a branch around it.
        if (group + 1 < groups) enter_group(group + 1);
        next_offset_bytes = 0;
      }
      uint32_t flags = mode.flags;
      if (block == 0) flags |= kChunkStartFlag;
      if (block + 1 == kBlocksPerChunk) flags |= kChunkEndFlag;
      const auto stage_next = [&]() HWY_ATTR {
        for (size_t lane = 0; lane < lanes; ++lane, fetched += kBlockBytes) {
          hwy::Prefetch(reinterpret_cast<const uint8_t*>(fetched));
        }
        StageMessage(d, lanes_at, next_offset_bytes, staged[(block + 1) % 2].words);
      };
      // With 16 registers staging amid the rounds would push the state out of them.
      if constexpr (!PAVISE_HASH_IS_AVX512) stage_next();
      CompressLanes(d, staged[block % 2].words, v0, v1, v2, v3, v4, v5, v6, v7,
                    hn::Load(d, counter_low), hn::Load(d, counter_high), kBlockBytes, flags,
                    [&]() HWY_ATTR {
                      if constexpr (PAVISE_HASH_IS_AVX512) stage_next();
                    });
    }
    StoreColumns(d, v0, v1, v2, v3, v4, v5, v6, v7, columns.words + first_column + group * lanes);
  }
}

// Replaces columns [2 * first, 2 * (first + count)) by their parents at [first, first + count);
// columns up to first + count rounded up to lanes, and up to twice that, are overwritten too. In
// place: a group of parents lies below all children that are still to be read.
template <class D>
HWY_NOINLINE void ParentsInLanes(D d, const Mode& mode, ChainingColumns& columns, size_t first,
                                 size_t count) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d);
  const size_t groups = (count + lanes - 1) / lanes;
  for (size_t w = 0; w < 8; ++w) {
    uint32_t* row = columns.words + w * ChainingColumns::kStride;
    std::fill(row + 2 * (first + count), row + 2 * (first + groups * lanes), 0);
  }
  uint32_t key[8];
  std::memcpy(key, mode.key.data(), sizeof(key));
  StagedMessage staged;
  for (size_t group = 0; group < groups; ++group) {
    const size_t parent = first + group * lanes;
    for (size_t w = 0; w < 8; ++w) {
      const uint32_t* children = columns.words + w * ChainingColumns::kStride + 2 * parent;
#if HWY_TARGET == HWY_SCALAR
      staged.words[w] = children[0];
      staged.words[8 + w] = children[1];
#else
      V left;
      V right;
      hn::LoadInterleaved2(d, children, left, right);
      hn::Store(left, d, staged.words + w * lanes);
      hn::Store(right, d, staged.words + (8 + w) * lanes);
#endif
    }
    V v0 = hn::Set(d, key[0]);
    V v1 = hn::Set(d, key[1]);
    V v2 = hn::Set(d, key[2]);
    V v3 = hn::Set(d, key[3]);
    V v4 = hn::Set(d, key[4]);
    V v5 = hn::Set(d, key[5]);
    V v6 = hn::Set(d, key[6]);
    V v7 = hn::Set(d, key[7]);
    CompressLanes(d, staged.words, v0, v1, v2, v3, v4, v5, v6, v7, hn::Zero(d), hn::Zero(d),
                  kBlockBytes, mode.flags | kParentFlag, [] {});
    StoreColumns(d, v0, v1, v2, v3, v4, v5, v6, v7, columns.words + parent);
  }
}

// ---- The tree ----

void CompressBlockImpl(const ChainingValue& chaining, const uint8_t* block,
                       uint32_t block_size_bytes, uint64_t counter, uint32_t flags, uint8_t* out) {
  uint32_t words[8];
  uint32_t state[kWordsPerBlock];
  std::memcpy(words, chaining.data(), sizeof(words));
  Compress(words, block, block_size_bytes, counter, flags, state);
  std::memcpy(out, state, sizeof(state));
}

void HashChunkImpl(const Mode& mode, const uint8_t* bytes, size_t size_bytes, uint64_t chunk_index,
                   uint32_t final_flags, ChainingValue& out) {
  uint32_t words[8];
  std::memcpy(words, mode.key.data(), sizeof(words));
  // All blocks but the last, which may be short and is flagged.
  const size_t before_last = size_bytes == 0 ? 0 : (size_bytes - 1) / kBlockBytes;
  uint32_t flags = mode.flags | kChunkStartFlag;
  if (before_last > 0) {
    CompressBlocks(words, bytes, before_last, chunk_index, flags, mode.flags);
    flags = mode.flags;
  }
  const size_t last_bytes = size_bytes - before_last * kBlockBytes;
  const uint8_t* last = bytes + before_last * kBlockBytes;
  uint8_t padded[kBlockBytes] = {};
  if (last_bytes < kBlockBytes) {
    if (last_bytes > 0) std::memcpy(padded, last, last_bytes);
    last = padded;
  }
  uint32_t state[kWordsPerBlock];
  Compress(words, last, static_cast<uint32_t>(last_bytes), chunk_index,
           flags | kChunkEndFlag | final_flags, state);
  std::memcpy(out.data(), state, out.size());
}

// `count` whole chunks into columns from `first_column` on, in vectors of at most kLanes: many
// chunks fill the widest vectors, what is left goes to the narrowest that hold it.
template <size_t kLanes>
void HashChunks(const Mode& mode, const uint8_t* chunks, size_t count, uint64_t first_chunk,
                ChainingColumns& columns, size_t first_column) {
  if (count == 0) return;
  if (count == 1) {
    ChainingValue value;
    HashChunkImpl(mode, chunks, kBlake3ChunkBytes, first_chunk, 0, value);
    columns.Set(first_column, value);
    return;
  }
  const hn::CappedTag<uint32_t, kLanes> d;
  const size_t lanes = hn::Lanes(d);
  size_t taken = count - count % lanes;
  if constexpr (kLanes > 4) {
    if (count - taken > lanes / 2) taken = count;
  } else {
    if (count - taken > 1) taken = count;
  }
  if (taken > 0) ChunksInLanes(d, mode, chunks, taken, first_chunk, columns, first_column);
  HashChunks<(kLanes > 4 ? kLanes / 2 : 4)>(mode, chunks + taken * kBlake3ChunkBytes, count - taken,
                                            first_chunk + taken, columns, first_column + taken);
}

template <size_t kLanes>
void HashParents(const Mode& mode, ChainingColumns& columns, size_t first, size_t count) {
  if (count == 0) return;
  if (count == 1) {
    uint8_t block[kBlockBytes];
    const ChainingValue left = columns.Get(2 * first);
    const ChainingValue right = columns.Get(2 * first + 1);
    std::memcpy(block, left.data(), left.size());
    std::memcpy(block + left.size(), right.data(), right.size());
    CompressBlockImpl(mode.key, block, kBlockBytes, 0, mode.flags | kParentFlag, block);
    ChainingValue value;
    std::memcpy(value.data(), block, value.size());
    columns.Set(first, value);
    return;
  }
  const hn::CappedTag<uint32_t, kLanes> d;
  const size_t lanes = hn::Lanes(d);
  size_t taken = count - count % lanes;
  if constexpr (kLanes > 4) {
    if (count - taken > lanes / 2) taken = count;
  } else {
    if (count - taken > 1) taken = count;
  }
  if (taken > 0) ParentsInLanes(d, mode, columns, first, taken);
  HashParents<(kLanes > 4 ? kLanes / 2 : 4)>(mode, columns, first + taken, count - taken);
}

// Level by level from `count` >= 2 columns to the last two. A column without a partner goes up as
// it is, which gives the tree of the paper (section 2.1): left subtrees are complete.
ChildPair ReduceToPair(const Mode& mode, ChainingColumns& columns, size_t count) {
  while (count > 2) {
    const ChainingValue last = columns.Get(count - 1);
    const size_t parents = count / 2;
    HashParents<kMaxLanes>(mode, columns, 0, parents);
    if (count % 2 == 1) columns.Set(parents, last);
    count = parents + count % 2;
  }
  return {columns.Get(0), columns.Get(1)};
}

void PairOfChunksImpl(const Mode& mode, const uint8_t* bytes, size_t size_bytes,
                      uint64_t first_chunk, ChildPair& out) {
  ChainingColumns columns;
  const size_t whole = size_bytes / kBlake3ChunkBytes;
  const size_t tail_bytes = size_bytes % kBlake3ChunkBytes;
  HashChunks<kMaxLanes>(mode, bytes, whole, first_chunk, columns, 0);
  if (tail_bytes > 0) {
    ChainingValue value;
    HashChunkImpl(mode, bytes + whole * kBlake3ChunkBytes, tail_bytes, first_chunk + whole, 0,
                  value);
    columns.Set(whole, value);
  }
  out = ReduceToPair(mode, columns, whole + (tail_bytes > 0 ? 1 : 0));
}

void PairOfSubtreesImpl(const Mode& mode, const ChainingValue* subtrees, size_t count,
                        ChildPair& out) {
  ChainingColumns columns;
  for (size_t i = 0; i < count; ++i) columns.Set(i, subtrees[i]);
  out = ReduceToPair(mode, columns, count);
}

constexpr Kernels kKernels = {HWY_TARGET, &CompressBlockImpl, &HashChunkImpl, &PairOfChunksImpl,
                              &PairOfSubtreesImpl};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace pavise::hash::internal
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace pavise::hash::internal {
namespace {

// Best first. Highway's own dispatch would do, but Debian has it in a shared library alone, which
// calibrates a timer for 4.5 ms whenever it is loaded: a third of the time of verifying a tensor.
constexpr const Kernels* kCompiled[] = {
#if HWY_TARGETS & HWY_AVX3
    &N_AVX3::kKernels,
#endif
#if HWY_TARGETS & HWY_AVX2
    &N_AVX2::kKernels,
#endif
#if HWY_TARGETS & HWY_SSE4
    &N_SSE4::kKernels,
#endif
#if HWY_TARGETS & HWY_SSSE3
    &N_SSSE3::kKernels,
#endif
#if HWY_TARGETS & HWY_NEON
    &N_NEON::kKernels,
#endif
#if HWY_TARGETS & HWY_EMU128
    &N_EMU128::kKernels,
#endif
#if HWY_TARGETS & HWY_SCALAR
    &N_SCALAR::kKernels,
#endif
};

const Kernels* Best() {
  for (const Kernels* kernels : kCompiled) {
    if (CpuSupports(kernels->target)) return kernels;
  }
  return &HWY_STATIC_DISPATCH(kKernels);
}

std::atomic<const Kernels*>& Chosen() {
  static std::atomic<const Kernels*> chosen{Best()};
  return chosen;
}

const Kernels& Current() { return *Chosen().load(std::memory_order_relaxed); }

}  // namespace

void CompressBlock(const ChainingValue& chaining, const uint8_t* block, uint32_t block_size_bytes,
                   uint64_t counter, uint32_t flags, uint8_t* out) {
  Current().compress_block(chaining, block, block_size_bytes, counter, flags, out);
}

ChainingValue HashChunk(const Mode& mode, ByteSpan bytes, uint64_t chunk_index,
                        uint32_t final_flags) {
  ChainingValue out;
  Current().hash_chunk(mode, bytes.data(), bytes.size(), chunk_index, final_flags, out);
  return out;
}

ChildPair PairOfChunks(const Mode& mode, ByteSpan bytes, uint64_t first_chunk) {
  ChildPair out;
  Current().pair_of_chunks(mode, bytes.data(), bytes.size(), first_chunk, out);
  return out;
}

ChildPair PairOfSubtrees(const Mode& mode, std::span<const ChainingValue> subtrees) {
  ChildPair out;
  Current().pair_of_subtrees(mode, subtrees.data(), subtrees.size(), out);
  return out;
}

std::string_view Target() { return hwy::TargetName(Current().target); }

std::vector<std::string_view> AvailableTargets() {
  std::vector<std::string_view> names;
  for (const Kernels* kernels : kCompiled) {
    if (CpuSupports(kernels->target)) names.push_back(hwy::TargetName(kernels->target));
  }
  return names;
}

bool ForceTarget(std::string_view target) {
  Chosen() = Best();
  if (target.empty()) return true;
  for (const Kernels* kernels : kCompiled) {
    if (target != hwy::TargetName(kernels->target) || !CpuSupports(kernels->target)) continue;
    Chosen() = kernels;
    return true;
  }
  return false;
}

}  // namespace pavise::hash::internal

#endif  // HWY_ONCE
