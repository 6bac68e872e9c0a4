#include "pavise/hash/cpu/sha256_pair.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <utility>

#include "pavise/base/simd_target.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pavise::hash::internal {
namespace {

constexpr size_t kBlockBytes = 64;
// The last block ends with the message's length in bits.
constexpr size_t kLengthOffset = kBlockBytes - 8;

using Words = std::array<uint32_t, 8>;

#if defined(__x86_64__)

constexpr bool kHasKernels = true;

#define PAVISE_SHA_TARGET __attribute__((target("sha,sse4.1,ssse3")))
#define PAVISE_SHA_INLINE __attribute__((target("sha,sse4.1,ssse3"), always_inline)) inline

// FIPS 180-4, section 4.2.2.
alignas(16) constexpr uint32_t kRoundConstants[64] = {
    0x428A2F98u, 0x71374491u, 0xB5C0FBCFu, 0xE9B5DBA5u, 0x3956C25Bu, 0x59F111F1u, 0x923F82A4u,
    0xAB1C5ED5u, 0xD807AA98u, 0x12835B01u, 0x243185BEu, 0x550C7DC3u, 0x72BE5D74u, 0x80DEB1FEu,
    0x9BDC06A7u, 0xC19BF174u, 0xE49B69C1u, 0xEFBE4786u, 0x0FC19DC6u, 0x240CA1CCu, 0x2DE92C6Fu,
    0x4A7484AAu, 0x5CB0A9DCu, 0x76F988DAu, 0x983E5152u, 0xA831C66Du, 0xB00327C8u, 0xBF597FC7u,
    0xC6E00BF3u, 0xD5A79147u, 0x06CA6351u, 0x14292967u, 0x27B70A85u, 0x2E1B2138u, 0x4D2C6DFCu,
    0x53380D13u, 0x650A7354u, 0x766A0ABBu, 0x81C2C92Eu, 0x92722C85u, 0xA2BFE8A1u, 0xA81A664Bu,
    0xC24B8B70u, 0xC76C51A3u, 0xD192E819u, 0xD6990624u, 0xF40E3585u, 0x106AA070u, 0x19A4C116u,
    0x1E376C08u, 0x2748774Cu, 0x34B0BCB5u, 0x391C0CB3u, 0x4ED8AA4Au, 0x5B9CCA4Fu, 0x682E6FF3u,
    0x748F82EEu, 0x78A5636Fu, 0x84C87814u, 0x8CC70208u, 0x90BEFFFAu, 0xA4506CEBu, 0xBEF9A3F7u,
    0xC67178F2u};

// One message in registers: the eight working variables in the order that sha256rnds2 wants (the
// highest word first), the last sixteen words of the message schedule, and the sums of words and
// constants for a group of four rounds.
struct Registers {
  __m128i abef;
  __m128i cdgh;
  __m128i schedule[4];
  __m128i inputs;
};

PAVISE_SHA_INLINE void LoadState(const Words& words, Registers& r) {
  const __m128i abcd = _mm_loadu_si128(reinterpret_cast<const __m128i*>(words.data()));
  const __m128i efgh = _mm_loadu_si128(reinterpret_cast<const __m128i*>(words.data() + 4));
  const __m128i badc = _mm_shuffle_epi32(abcd, 0xB1);
  const __m128i hgfe = _mm_shuffle_epi32(efgh, 0x1B);
  r.abef = _mm_alignr_epi8(badc, hgfe, 8);
  r.cdgh = _mm_blend_epi16(hgfe, badc, 0xF0);
}

PAVISE_SHA_INLINE void StoreState(const Registers& r, Words& words) {
  const __m128i feba = _mm_shuffle_epi32(r.abef, 0x1B);
  const __m128i dchg = _mm_shuffle_epi32(r.cdgh, 0xB1);
  const __m128i abcd = _mm_blend_epi16(feba, dchg, 0xF0);
  const __m128i efgh = _mm_alignr_epi8(dchg, feba, 8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words.data()), abcd);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words.data() + 4), efgh);
}

// Rounds 4 * kGroup and the one after it.
template <size_t kGroup>
PAVISE_SHA_INLINE void FirstTwoRounds(const uint8_t* block, Registers& r) {
  __m128i& words = r.schedule[kGroup % 4];
  if constexpr (kGroup < 4) {
    const __m128i big_endian =
        _mm_set_epi64x(int64_t{0x0C0D0E0F08090A0B}, int64_t{0x0405060700010203});
    words = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 16 * kGroup)),
                             big_endian);
  }
  const __m128i* constants = reinterpret_cast<const __m128i*>(&kRoundConstants[4 * kGroup]);
  r.inputs = _mm_add_epi32(words, _mm_load_si128(constants));
  r.cdgh = _mm_sha256rnds2_epu32(r.cdgh, r.abef, r.inputs);
}

// The other two rounds of the group.
PAVISE_SHA_INLINE void LastTwoRounds(Registers& r) {
  r.abef = _mm_sha256rnds2_epu32(r.abef, r.cdgh, _mm_shuffle_epi32(r.inputs, 0x0E));
}

// Ends the next group's words of the message schedule, and begins those of the group that comes
// three later, in the place of the words that nobody needs after that.
template <size_t kGroup>
PAVISE_SHA_INLINE void ExtendSchedule(Registers& r) {
  const __m128i words = r.schedule[kGroup % 4];
  __m128i& before = r.schedule[(kGroup + 3) % 4];
  if constexpr (kGroup >= 3 && kGroup < 15) {
    __m128i& next = r.schedule[(kGroup + 1) % 4];
    next = _mm_add_epi32(next, _mm_alignr_epi8(words, before, 4));
    next = _mm_sha256msg2_epu32(next, words);
  }
  if constexpr (kGroup >= 1 && kGroup < 13) before = _mm_sha256msg1_epu32(before, words);
}

template <size_t... kGroups>
PAVISE_SHA_INLINE void CompressBlock(const uint8_t* block, Registers& r,
                                     std::index_sequence<kGroups...>) {
  const __m128i abef = r.abef;
  const __m128i cdgh = r.cdgh;
  ((FirstTwoRounds<kGroups>(block, r), ExtendSchedule<kGroups>(r), LastTwoRounds(r)), ...);
  r.abef = _mm_add_epi32(r.abef, abef);
  r.cdgh = _mm_add_epi32(r.cdgh, cdgh);
}

// The two messages take turns every other round. The schedules come before the last rounds of a
// group, which nothing but the rounds waits for: that order was the best measured.
template <size_t... kGroups>
PAVISE_SHA_INLINE void CompressBlocks(const uint8_t* block_a, Registers& a, const uint8_t* block_b,
                                      Registers& b, std::index_sequence<kGroups...>) {
  const __m128i abef_a = a.abef;
  const __m128i cdgh_a = a.cdgh;
  const __m128i abef_b = b.abef;
  const __m128i cdgh_b = b.cdgh;
  ((FirstTwoRounds<kGroups>(block_a, a), FirstTwoRounds<kGroups>(block_b, b),
    ExtendSchedule<kGroups>(a), ExtendSchedule<kGroups>(b), LastTwoRounds(a), LastTwoRounds(b)),
   ...);
  a.abef = _mm_add_epi32(a.abef, abef_a);
  a.cdgh = _mm_add_epi32(a.cdgh, cdgh_a);
  b.abef = _mm_add_epi32(b.abef, abef_b);
  b.cdgh = _mm_add_epi32(b.cdgh, cdgh_b);
}

constexpr std::make_index_sequence<16> kGroups;

PAVISE_SHA_TARGET void Compress(Words& words, const uint8_t* blocks, size_t count) {
  Registers r;
  LoadState(words, r);
  for (size_t i = 0; i < count; ++i) CompressBlock(blocks + i * kBlockBytes, r, kGroups);
  StoreState(r, words);
}

PAVISE_SHA_TARGET void CompressPair(Words& words_a, const uint8_t* blocks_a, Words& words_b,
                                    const uint8_t* blocks_b, size_t count) {
  Registers a;
  Registers b;
  LoadState(words_a, a);
  LoadState(words_b, b);
  for (size_t i = 0; i < count; ++i) {
    CompressBlocks(blocks_a + i * kBlockBytes, a, blocks_b + i * kBlockBytes, b, kGroups);
  }
  StoreState(a, words_a);
  StoreState(b, words_b);
}

#else

constexpr bool kHasKernels = false;

// Nobody may come here: Sha256PairAvailable() is false.
void Compress(Words&, const uint8_t*, size_t) { std::abort(); }
void CompressPair(Words&, const uint8_t*, Words&, const uint8_t*, size_t) { std::abort(); }

#endif  // __x86_64__

void StoreBigEndian(uint64_t value, size_t size_bytes, uint8_t* out) {
  for (size_t i = 0; i < size_bytes; ++i) {
    out[i] = static_cast<uint8_t>(value >> (8 * (size_bytes - 1 - i)));
  }
}

}  // namespace

bool Sha256PairAvailable() { return kHasKernels && CpuSupportsSha256(); }

ByteSpan Sha256Stream::FillBuffer(ByteSpan bytes) {
  const size_t filled = size_bytes_ % kBlockBytes;
  if (filled == 0) return bytes;
  const size_t count = std::min(kBlockBytes - filled, bytes.size());
  std::copy_n(bytes.begin(), count, buffer_.begin() + filled);
  size_bytes_ += count;
  if (filled + count == kBlockBytes) Compress(words_, buffer_.data(), 1);
  return bytes.subspan(count);
}

void Sha256Stream::Update(ByteSpan bytes) {
  bytes = FillBuffer(bytes);
  if (bytes.empty()) return;
  Compress(words_, bytes.data(), bytes.size() / kBlockBytes);
  const ByteSpan rest = bytes.last(bytes.size() % kBlockBytes);
  std::copy(rest.begin(), rest.end(), buffer_.begin());
  size_bytes_ += bytes.size();
}

void UpdatePair(Sha256Stream& a, ByteSpan bytes_a, Sha256Stream& b, ByteSpan bytes_b) {
  bytes_a = a.FillBuffer(bytes_a);
  bytes_b = b.FillBuffer(bytes_b);
  // Where blocks are left, FillBuffer has completed what was begun.
  const size_t blocks = std::min(bytes_a.size(), bytes_b.size()) / kBlockBytes;
  if (blocks > 0) {
    CompressPair(a.words_, bytes_a.data(), b.words_, bytes_b.data(), blocks);
    a.size_bytes_ += blocks * kBlockBytes;
    b.size_bytes_ += blocks * kBlockBytes;
  }
  a.Update(bytes_a.subspan(blocks * kBlockBytes));
  b.Update(bytes_b.subspan(blocks * kBlockBytes));
}

// Padding as of FIPS 180-4, section 5.1.1.
Digest32 Sha256Stream::Finish() {
  const uint64_t size_bits = size_bytes_ * 8;
  size_t filled = size_bytes_ % kBlockBytes;
  buffer_[filled++] = 0x80;
  if (filled > kLengthOffset) {
    std::fill(buffer_.begin() + filled, buffer_.end(), uint8_t{0});
    Compress(words_, buffer_.data(), 1);
    filled = 0;
  }
  std::fill(buffer_.begin() + filled, buffer_.begin() + kLengthOffset, uint8_t{0});
  StoreBigEndian(size_bits, 8, &buffer_[kLengthOffset]);
  Compress(words_, buffer_.data(), 1);
  Digest32 digest;
  for (size_t i = 0; i < words_.size(); ++i) StoreBigEndian(words_[i], 4, &digest[4 * i]);
  *this = Sha256Stream();
  return digest;
}

}  // namespace pavise::hash::internal
