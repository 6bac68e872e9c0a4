#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "pavise/base/simd_target.h"
#include "pavise/base/status.h"
#include "pavise/offload/cpu/bf16_dot_products.h"
#include "pavise/offload/cpu/sketch_products.h"
#include "pavise/offload/fused_pass.h"
#include "pavise/offload/internal/mixing.h"
#include "pavise/offload/internal/scaled_permutation.h"
#include "pavise/offload/internal/wipe.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

// The parts below HWY_BEFORE_NAMESPACE are compiled once per target. Of x86's, those that servers
// have had since 2013, and the compiler's baseline.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE_256 | HWY_SVE2 | HWY_SVE2_128)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "pavise/offload/cpu/fused_pass_highway.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
// After foreach_target: it is compiled once per target too.
#include "hwy/contrib/math/math-inl.h"

#ifndef PAVISE_OFFLOAD_CPU_FUSED_PASS_HIGHWAY_SHARED_
#define PAVISE_OFFLOAD_CPU_FUSED_PASS_HIGHWAY_SHARED_

namespace pavise::offload::cpu {
namespace {

using internal::AxisKey;
using internal::Mixing;
using internal::ScaledPermutation;
using internal::Variant;

// A panel holds 16 rows, column after column: 16 values of one column fill an AVX-512 vector, so
// that permutations and Hadamard matrices of columns load, add and store whole vectors.
constexpr size_t kLanes = 16;
constexpr size_t kMaxPanels = internal::kMixingBlock / kLanes;
constexpr size_t kVectorBytes = 64;

// One end of a pass: how rows and columns lie on the wire.
struct End {
  const ScaledPermutation* row_scale = nullptr;  // both, or neither
  const ScaledPermutation* column_scale = nullptr;
  const Mixing* row_mixing = nullptr;  // both, or neither
  const Mixing* column_mixing = nullptr;
  Variant row_variant = Variant::kDirect;
  Variant column_variant = Variant::kDirect;
  std::vector<uint32_t> row_place;     // of tempo: where plain row i lies
  std::vector<float> row_factor;       // and what its values are multiplied by
  std::vector<uint32_t> column_place;  // of decoding tempo: the same for columns
  std::vector<float> column_factor;

  End() = default;
  End(const End&) = delete;
  End& operator=(const End&) = delete;
  ~End() {
    internal::Wipe(row_place);
    internal::Wipe(row_factor);
    internal::Wipe(column_place);
    internal::Wipe(column_factor);
  }
};

struct Prepared {
  const FusedPass* pass = nullptr;
  End in;
  End out;
  const Mixing* grouping = nullptr;  // the samples' groups; nullptr: 16 rows after another
  size_t positions = 1;              // rows of each sample, of which a part has one; of `grouping`
};

struct Kernels {
  int64_t target;
  const char* name;  // where it is not that of the target
  void (*run)(const Prepared& prepared, size_t first, size_t last, float* workspace);
  void (*multiply)(MatrixView m, std::span<RowVectors> vectors, double* squares);
  void (*multiply_bf16)(ViewOf<const uint16_t> m, std::span<RowVectors> vectors,
                        const RowSquares& squares);
  void (*multiply_transposed)(MatrixView m, const double* v, size_t vectors, double* out,
                              double* squares);
  void (*multiply_transposed_bf16)(ViewOf<const uint16_t> m, const float* v, size_t vectors,
                                   double* out, double* squares);

  std::string_view Name() const { return name != nullptr ? name : hwy::TargetName(target); }
  bool IsSupported() const {
    return name != nullptr ? CpuSupportsAvx512Bf16() : CpuSupports(target);
  }
};

size_t RoundedColumns(size_t columns) { return (columns + kLanes - 1) / kLanes * kLanes; }
size_t PanelFloats(size_t columns) { return RoundedColumns(columns) * kLanes; }
// The panels of a part, two to work in, the saved values of one, and three for sums over rows.
size_t WorkspaceFloats(size_t columns) { return (kMaxPanels + 6) * PanelFloats(columns); }

}  // namespace
}  // namespace pavise::offload::cpu

#endif  // PAVISE_OFFLOAD_CPU_FUSED_PASS_HIGHWAY_SHARED_

HWY_BEFORE_NAMESPACE();
namespace pavise::offload::cpu {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
const hn::CappedTag<float, kLanes> kFloats;
using Floats = hn::Vec<decltype(kFloats)>;
HWY_INLINE size_t N() { return hn::Lanes(kFloats); }

// ---- Transposition ----

HWY_INLINE Floats LoadFloats(const float* from) { return hn::LoadU(kFloats, from); }
HWY_INLINE Floats LoadFloats(const uint16_t* from) {
  const hn::Rebind<uint16_t, decltype(kFloats)> halves;
  const hn::RebindToUnsigned<decltype(kFloats)> words;
  return hn::BitCast(kFloats, hn::ShiftLeft<16>(hn::PromoteTo(words, hn::LoadU(halves, from))));
}

// out[c * 16 + r] = in[r][c], times factors[r] where there are any; 16 x 16. `out` is aligned.
// Of fp32 or bf16.
template <typename T>
HWY_INLINE void Transpose(const T* const* in, const float* factors, float* HWY_RESTRICT out) {
  const auto load = [&](size_t r, size_t c) HWY_ATTR {
    const Floats v = LoadFloats(in[r] + c);
    return factors == nullptr ? v : hn::Mul(v, hn::Set(kFloats, factors[r]));
  };
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  const hn::Repartition<double, decltype(kFloats)> doubles;
  // In each 128-bit block a transposition of 4 x 4: of rows 4q ... 4q + 3, column 4B + j in block
  // B.
  const auto four = [&](size_t r, size_t c, Floats* n) HWY_ATTR {
    const Floats r0 = load(r, c), r1 = load(r + 1, c), r2 = load(r + 2, c), r3 = load(r + 3, c);
    const auto a = hn::BitCast(doubles, hn::InterleaveLower(kFloats, r0, r1));
    const auto b = hn::BitCast(doubles, hn::InterleaveUpper(kFloats, r0, r1));
    const auto cc = hn::BitCast(doubles, hn::InterleaveLower(kFloats, r2, r3));
    const auto d = hn::BitCast(doubles, hn::InterleaveUpper(kFloats, r2, r3));
    n[0] = hn::BitCast(kFloats, hn::InterleaveLower(doubles, a, cc));
    n[1] = hn::BitCast(kFloats, hn::InterleaveUpper(doubles, a, cc));
    n[2] = hn::BitCast(kFloats, hn::InterleaveLower(doubles, b, d));
    n[3] = hn::BitCast(kFloats, hn::InterleaveUpper(doubles, b, d));
  };
#endif
#if HWY_TARGET == HWY_AVX3
  Floats n[4][4];
  for (size_t q = 0; q < 4; ++q) four(4 * q, 0, n[q]);
  // Then of the 4 x 4 blocks themselves.
  for (size_t j = 0; j < 4; ++j) {
    const Floats y0 = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(n[1][j]), n[0][j]);
    const Floats y1 = hn::OddEvenBlocks(n[1][j], hn::SwapAdjacentBlocks(n[0][j]));
    const Floats y2 = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(n[3][j]), n[2][j]);
    const Floats y3 = hn::OddEvenBlocks(n[3][j], hn::SwapAdjacentBlocks(n[2][j]));
    hn::Store(hn::ConcatLowerLower(kFloats, y2, y0), kFloats, out + j * kLanes);
    hn::Store(hn::ConcatLowerLower(kFloats, y3, y1), kFloats, out + (4 + j) * kLanes);
    hn::Store(hn::ConcatUpperUpper(kFloats, y2, y0), kFloats, out + (8 + j) * kLanes);
    hn::Store(hn::ConcatUpperUpper(kFloats, y3, y1), kFloats, out + (12 + j) * kLanes);
  }
#elif HWY_TARGET == HWY_AVX2
  for (size_t r = 0; r < kLanes; r += 8) {
    for (size_t c = 0; c < kLanes; c += 8) {
      Floats low[4], high[4];
      four(r, c, low);
      four(r + 4, c, high);
      for (size_t j = 0; j < 4; ++j) {
        hn::Store(hn::ConcatLowerLower(kFloats, high[j], low[j]), kFloats,
                  out + (c + j) * kLanes + r);
        hn::Store(hn::ConcatUpperUpper(kFloats, high[j], low[j]), kFloats,
                  out + (c + 4 + j) * kLanes + r);
      }
    }
  }
#else
  alignas(kVectorBytes) float row[kLanes];
  for (size_t r = 0; r < kLanes; ++r) {
    for (size_t h = 0; h < kLanes; h += N()) hn::Store(load(r, h), kFloats, row + h);
    for (size_t c = 0; c < kLanes; ++c) out[c * kLanes + r] = row[c];
  }
#endif
}

// Rows of memory by 16 columns. Past the last column zeros are read and nothing is written.
struct Chunk {
  size_t begin;
  size_t count;  // up to 16
};

// 16 row pointers at a chunk; a row that is nullptr reads as zeros. `spare` holds 16 x 16 values.
template <typename T>
HWY_INLINE void ReadRows(const Chunk& chunk, const T* const* rows, T* spare, const T** out) {
  alignas(kVectorBytes) static constexpr T kZeros[kLanes] = {};
  for (size_t r = 0; r < kLanes; ++r) {
    if (rows[r] == nullptr) {
      out[r] = kZeros;
    } else if (chunk.count == kLanes) {
      out[r] = rows[r] + chunk.begin;
    } else {
      std::memset(spare + r * kLanes, 0, kLanes * sizeof(T));
      std::memcpy(spare + r * kLanes, rows[r] + chunk.begin, chunk.count * sizeof(T));
      out[r] = spare + r * kLanes;
    }
  }
}

HWY_INLINE void WriteFloats(const Chunk& chunk, const float* HWY_RESTRICT values, float factor,
                            float* HWY_RESTRICT row) {
  alignas(kVectorBytes) float scaled[kLanes];
  float* const to = chunk.count == kLanes ? row + chunk.begin : scaled;
  for (size_t h = 0; h < kLanes; h += N()) {
    hn::StoreU(hn::Mul(hn::Load(kFloats, values + h), hn::Set(kFloats, factor)), kFloats, to + h);
  }
  if (chunk.count < kLanes) std::memcpy(row + chunk.begin, scaled, chunk.count * sizeof(float));
}

HWY_INLINE void WriteBf16(const Chunk& chunk, const float* HWY_RESTRICT values, float factor,
                          uint16_t* HWY_RESTRICT row) {
  const hn::RebindToUnsigned<decltype(kFloats)> words;
  const hn::RebindToSigned<decltype(kFloats)> integers;
  const hn::Rebind<uint16_t, decltype(kFloats)> halves;
  uint16_t narrowed[kLanes];
  uint16_t* const to = chunk.count == kLanes ? row + chunk.begin : narrowed;
  for (size_t h = 0; h < kLanes; h += N()) {
    const Floats value = hn::Mul(hn::Load(kFloats, values + h), hn::Set(kFloats, factor));
    const auto bits = hn::BitCast(words, value);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1u));
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(words, 0x7FFFu))));
    hn::StoreU(hn::DemoteTo(halves, hn::BitCast(integers, rounded)), halves, to + h);
  }
  if (chunk.count < kLanes) std::memcpy(row + chunk.begin, narrowed, chunk.count * 2);
}

// ---- Hadamard matrices on vectors of 16 ----

HWY_INLINE void Pair(Floats& a, Floats& b) {
  const Floats sum = hn::Add(a, b);
  b = hn::Sub(a, b);
  a = sum;
}
HWY_INLINE void Eight(Floats* v) {
  for (size_t i = 0; i < 8; i += 2) Pair(v[i], v[i + 1]);
  for (size_t i = 0; i < 8; i += 4) {
    Pair(v[i], v[i + 2]);
    Pair(v[i + 1], v[i + 3]);
  }
  for (size_t i = 0; i < 4; ++i) Pair(v[i], v[i + 4]);
}

// Of kSize vectors: load(i, h) gives lanes h ... of vector i, store(i, h, v) takes them. Not
// scaled: load or store multiply by 1 / sqrt(kSize). All loads come before the first store.
template <size_t kSize, class Load, class Store>
HWY_INLINE void Hadamard(const Load& load, const Store& store) {
  constexpr size_t kRuns = kSize / 8;
  static_assert(kRuns == 8 || kRuns == 4);
  alignas(kVectorBytes) float between[kSize * kLanes];
  for (size_t h = 0; h < kLanes; h += N()) {
    for (size_t i = 0; i < kRuns; ++i) {
      Floats v[8];
      for (size_t j = 0; j < 8; ++j) v[j] = load(i + kRuns * j, h);
      Eight(v);
      for (size_t j = 0; j < 8; ++j) {
        hn::Store(v[j], kFloats, between + (i + kRuns * j) * kLanes + h);
      }
    }
  }
  for (size_t h = 0; h < kLanes; h += N()) {
    for (size_t i = 0; i < 8; ++i) {
      Floats v[kRuns];
      for (size_t j = 0; j < kRuns; ++j) {
        v[j] = hn::Load(kFloats, between + (kRuns * i + j) * kLanes + h);
      }
      if constexpr (kRuns == 8) {
        Eight(v);
      } else {
        Pair(v[0], v[1]);
        Pair(v[2], v[3]);
        Pair(v[0], v[2]);
        Pair(v[1], v[3]);
      }
      for (size_t j = 0; j < kRuns; ++j) store(kRuns * i + j, h, v[j]);
    }
  }
}

constexpr float kScale64 = 0.125f;
constexpr float kScale32 = 0.17677669529663687f;

HWY_INLINE Floats Scaled(const float* from, float factor) {
  return hn::Mul(hn::Load(kFloats, from), hn::Set(kFloats, factor));
}

// A part of a dimension that its rounds stay within: a group of rows, or all columns. `blocks` are
// those in it; only the last one overlaps another.
struct Segment {
  const Mixing* key;
  size_t begin;
  size_t count;
  std::span<const Mixing::Block> blocks;

  // Of the segment's elements; those of order() count from `begin`.
  size_t Order(const Mixing::Round& round, size_t i) const {
    return round.order[begin + i] - begin;
  }
  float Sign(const Mixing::Round& round, size_t i) const { return round.signs[begin + i]; }
};

Segment AllColumns(const Mixing& key) { return {&key, 0, key.size(), key.blocks()}; }
Segment Group(const Mixing& key, size_t group_begin, size_t count) {
  const auto& blocks = key.blocks();
  const auto first = std::partition_point(
      blocks.begin(), blocks.end(), [&](const auto& block) { return block.begin < group_begin; });
  const auto last = std::partition_point(
      first, blocks.end(), [&](const auto& block) { return block.begin < group_begin + count; });
  return {&key, group_begin, count, {first, last}};
}

// The overlapping block in place, with its signs before it (encoding) or after it (decoding).
template <size_t kSize, bool kIsDecode>
HWY_INLINE void OverlappingBlock(const Mixing::Round& round, const Mixing::Block& block,
                                 float scale, float* at) {
  const float* const signs = &round.overlap_signs[block.begin];
  Hadamard<kSize>(
      [&](size_t i, size_t h) HWY_ATTR {
        const Floats v = hn::Load(kFloats, at + i * kLanes + h);
        return kIsDecode ? v : hn::Mul(v, hn::Set(kFloats, scale * signs[i]));
      },
      [&](size_t i, size_t h, Floats v) HWY_ATTR {
        if (kIsDecode) v = hn::Mul(v, hn::Set(kFloats, scale * signs[i]));
        hn::Store(v, kFloats, at + i * kLanes + h);
      });
}
template <bool kIsDecode>
HWY_INLINE void OverlappingBlock(const Segment& segment, const Mixing::Round& round,
                                 float* values) {
  const Mixing::Block& block = segment.blocks.back();
  if (!block.overlaps) return;
  float* const at = values + (block.begin - segment.begin) * kLanes;
  if (block.size == 64) {
    OverlappingBlock<64, kIsDecode>(round, block, kScale64, at);
  } else {
    OverlappingBlock<32, kIsDecode>(round, block, kScale32, at);
  }
}

template <size_t kSize>
HWY_INLINE void EncodeBlock(const Segment& segment, const Mixing::Round& round, size_t first,
                            float scale, const float* from, float* to) {
  Hadamard<kSize>(
      [&](size_t i, size_t h) HWY_ATTR {
        return Scaled(from + segment.Order(round, first + i) * kLanes + h,
                      segment.Sign(round, first + i) * scale);
      },
      [&](size_t i, size_t h, Floats v)
          HWY_ATTR { hn::Store(v, kFloats, to + (first + i) * kLanes + h); });
}
template <size_t kSize>
HWY_INLINE void DecodeBlock(const Segment& segment, const Mixing::Round& round, size_t first,
                            float scale, const float* from, float* to) {
  Hadamard<kSize>([&](size_t i, size_t h)
                      HWY_ATTR { return hn::Load(kFloats, from + (first + i) * kLanes + h); },
                  [&](size_t i, size_t h, Floats v) HWY_ATTR {
                    const float factor = segment.Sign(round, first + i) * scale;
                    hn::Store(hn::Mul(v, hn::Set(kFloats, factor)), kFloats,
                              to + segment.Order(round, first + i) * kLanes + h);
                  });
}

// One round; both buffers hold the whole segment.
void EncodeRound(const Segment& segment, const Mixing::Round& round, const float* from, float* to) {
  size_t covered = 0;
  for (const Mixing::Block& block : segment.blocks) {
    if (block.overlaps) continue;
    const size_t first = block.begin - segment.begin;
    if (block.size == 64) {
      EncodeBlock<64>(segment, round, first, kScale64, from, to);
    } else {
      EncodeBlock<32>(segment, round, first, kScale32, from, to);
    }
    covered = first + block.size;
  }
  for (size_t i = covered; i < segment.count; ++i) {
    for (size_t h = 0; h < kLanes; h += N()) {
      hn::Store(Scaled(from + segment.Order(round, i) * kLanes + h, segment.Sign(round, i)),
                kFloats, to + i * kLanes + h);
    }
  }
  OverlappingBlock<false>(segment, round, to);
}

// Undoes it; `from` is used up.
void DecodeRound(const Segment& segment, const Mixing::Round& round, float* from, float* to) {
  OverlappingBlock<true>(segment, round, from);
  size_t covered = 0;
  for (const Mixing::Block& block : segment.blocks) {
    if (block.overlaps) continue;
    const size_t first = block.begin - segment.begin;
    if (block.size == 64) {
      DecodeBlock<64>(segment, round, first, kScale64, from, to);
    } else {
      DecodeBlock<32>(segment, round, first, kScale32, from, to);
    }
    covered = first + block.size;
  }
  for (size_t i = covered; i < segment.count; ++i) {
    for (size_t h = 0; h < kLanes; h += N()) {
      hn::Store(Scaled(from + i * kLanes + h, segment.Sign(round, i)), kFloats,
                to + segment.Order(round, i) * kLanes + h);
    }
  }
}

// All rounds, to and fro between two buffers. Returns the one that the result is in.
float* EncodeRounds(const Segment& segment, float* values, float* other) {
  for (const Mixing::Round& round : segment.key->rounds()) {
    EncodeRound(segment, round, values, other);
    std::swap(values, other);
  }
  return values;
}
float* DecodeRounds(const Segment& segment, float* values, float* other) {
  const auto& rounds = segment.key->rounds();
  for (size_t r = rounds.size(); r-- > 0;) {
    DecodeRound(segment, rounds[r], values, other);
    std::swap(values, other);
  }
  return values;
}

// ---- Activations ----

// The normal distribution's function: 1/2 + x P(x^2) / Q(x^2), a rational fit to within 4e-9 up to
// 5.25 (2e-7 with fp32's roundings), beyond which it is 0 or 1 to within 8e-8.
HWY_INLINE Floats NormalCdf(Floats x) {
  constexpr float kLimit = 5.25f;
  constexpr float kP[] = {2.438967250384394e-08f, 6.392269369825954e-06f, 1.5852587239351124e-4f,
                          4.617835395038128e-3f,  3.273366764187813e-2f,  3.989422619342804e-1f};
  constexpr float kQ[] = {1.2479121096475865e-06f, 7.089808786986396e-05f, 1.8264626851305366e-3f,
                          2.80288215726614e-2f,    2.4871742725372314e-1f, 1.0f};
  const Floats square = hn::Min(hn::Mul(x, x), hn::Set(kFloats, kLimit * kLimit));
  Floats p = hn::Set(kFloats, kP[0]);
  Floats q = hn::Set(kFloats, kQ[0]);
  for (size_t i = 1; i < std::size(kP); ++i) {
    p = hn::MulAdd(p, square, hn::Set(kFloats, kP[i]));
    q = hn::MulAdd(q, square, hn::Set(kFloats, kQ[i]));
  }
  const Floats half = hn::Set(kFloats, 0.5f);
  const auto is_near = hn::Lt(hn::Abs(x), hn::Set(kFloats, kLimit));
  const Floats off = hn::IfThenElse(is_near, hn::Div(hn::Mul(x, p), q), hn::CopySign(half, x));
  return hn::Add(half, off);
}

HWY_INLINE Floats Activate(Activation activation, Floats v) {
  if (activation == Activation::kRelu) return hn::Max(v, hn::Zero(kFloats));
  if (activation == Activation::kGelu) return hn::Mul(v, NormalCdf(v));
  return v;
}
HWY_INLINE Floats TimesDerivative(Activation activation, Floats g, Floats x) {
  if (activation == Activation::kRelu) {
    return hn::IfThenElseZero(hn::Gt(x, hn::Zero(kFloats)), g);
  }
  if (activation == Activation::kGelu) {
    const Floats density = hn::Exp(kFloats, hn::Mul(hn::Mul(x, x), hn::Set(kFloats, -0.5f)));
    const Floats scaled = hn::Mul(x, hn::Set(kFloats, 0.39894228040143268f));
    return hn::Mul(g, hn::MulAdd(scaled, density, NormalCdf(x)));
  }
  return g;
}

HWY_INLINE float Sum(Floats v) { return hn::GetLane(hn::SumOfLanes(kFloats, v)); }

// ---- A part of the pass ----

class Part {
 public:
  Part(const Prepared& prepared, float* workspace)
      : p_(prepared), pass_(*prepared.pass), columns_(prepared.pass->columns) {
    for (size_t i = 0; i < kMaxPanels; ++i) panels_[i] = workspace + i * PanelFloats(columns_);
    spare_ = workspace + kMaxPanels * PanelFloats(columns_);
    other_ = spare_ + PanelFloats(columns_);
    saved_ = other_ + PanelFloats(columns_);
    float* next = saved_ + PanelFloats(columns_);
    for (ColumnSums* sums : {&bias_, &gamma_, &beta_}) {
      sums->lanes = next;
      next += PanelFloats(columns_);
    }
    bias_.out = pass_.bias_gradient;
    gamma_.out = pass_.gamma_gradient;
    beta_.out = pass_.beta_gradient;
    for (const ColumnSums* sums : {&bias_, &gamma_, &beta_}) {
      if (!sums->out.empty()) std::memset(sums->lanes, 0, PanelFloats(columns_) * sizeof(float));
    }
  }

  // After the last part.
  void Finish() {
    for (const ColumnSums* sums : {&bias_, &gamma_, &beta_}) {
      for (size_t j = 0; j < sums->out.size(); ++j) {
        for (size_t h = 0; h < kLanes; h += N()) {
          sums->out[j] += Sum(hn::Load(kFloats, sums->lanes + j * kLanes + h));
        }
      }
    }
  }

  void Run(size_t part) {
    if (p_.grouping != nullptr) {
      const size_t group = part / p_.positions;
      position_ = part % p_.positions;
      begin_ = internal::GroupBegin(p_.grouping->size(), group);
      count_ = internal::GroupBegin(p_.grouping->size(), group + 1) - begin_;
      for (size_t i = 0; i < count_; ++i) rows_[i] = RowOf(p_.grouping->grouping()[begin_ + i]);
    } else {
      begin_ = part * kLanes;
      count_ = std::min(kLanes, pass_.rows - begin_);
      for (size_t i = 0; i < count_; ++i) rows_[i] = begin_ + i;
    }
    panel_count_ = (count_ + kLanes - 1) / kLanes;
    if (pass_.in.data != nullptr) {
      Read(pass_.in);
    } else {
      Read(pass_.in_bf16);
    }
    for (size_t panel = 0; panel < panel_count_; ++panel) {
      first_ = panel * kLanes;
      // Where the panel's columns are, and which buffer is free.
      float* at = DecodeColumnsOf(panels_[panel]);
      at = pass_.is_backward ? Backward(at) : Forward(at);
      StorePlain(at, pass_.plain);
      at = EncodeColumnsOf(at);
      if (at != panels_[panel]) {
        // The buffers are all alike: the panel takes the one that its values are in.
        (at == spare_ ? spare_ : other_) = panels_[panel];
        panels_[panel] = at;
      }
    }
    if (pass_.out.data != nullptr || pass_.out_bf16.data != nullptr) Write();
  }

 private:
  // Sums over rows, lane by lane until the end: adding lanes up costs more than memory does.
  struct ColumnSums {
    std::span<float> out;
    float* lanes = nullptr;
    HWY_INLINE void Add(size_t j, size_t h, Floats v) const {
      float* const to = lanes + j * kLanes + h;
      hn::Store(hn::Add(hn::Load(kFloats, to), v), kFloats, to);
    }
  };

  size_t LanesOf(size_t first) const { return std::min(kLanes, count_ - first); }
  // Of a sample, at this part's position.
  size_t RowOf(size_t sample) const { return sample * p_.positions + position_; }
  Chunk ChunkAt(size_t column) const { return {column, std::min(kLanes, columns_ - column)}; }
  // A buffer other than `at`.
  float* Free(const float* at) const { return at == spare_ ? other_ : spare_; }

  // Into panels, with rows decoded and columns as they are on the wire.
  template <typename T>
  void Read(const ViewOf<const T>& in) {
    alignas(kVectorBytes) float a[internal::kMixingBlock * kLanes];
    alignas(kVectorBytes) float b[internal::kMixingBlock * kLanes];
    alignas(kVectorBytes) T edge[kLanes * kLanes];
    const Segment in_group =
        p_.in.row_mixing == nullptr ? Segment{} : Group(*p_.in.row_mixing, begin_, count_);
    const T* rows[internal::kMixingBlock] = {};
    float factors[internal::kMixingBlock] = {};
    for (size_t i = 0; i < count_; ++i) {
      size_t place = rows_[i];
      if (p_.in.row_mixing != nullptr) place = RowOf(p_.in.row_mixing->destination()[begin_ + i]);
      if (p_.in.row_scale != nullptr) {
        place = p_.in.row_place[rows_[i]];
        factors[i] = p_.in.row_factor[rows_[i]];
      }
      rows[i] = in.Row(place);
    }
    for (size_t column = 0; column < columns_; column += kLanes) {
      const Chunk chunk = ChunkAt(column);
      const T* from[kLanes];
      if (p_.in.row_mixing == nullptr) {
        for (size_t panel = 0; panel < panel_count_; ++panel) {
          ReadRows(chunk, rows + panel * kLanes, edge, from);
          Transpose(from, p_.in.row_scale == nullptr ? nullptr : factors + panel * kLanes,
                    panels_[panel] + column * kLanes);
        }
        continue;
      }
      for (size_t i = 0; i < panel_count_ * kLanes; i += kLanes) {
        ReadRows(chunk, rows + i, edge, from);
        for (size_t r = 0; r < kLanes; ++r) {
          for (size_t h = 0; h < kLanes; h += N()) {
            hn::Store(LoadFloats(from[r] + h), kFloats, a + (i + r) * kLanes + h);
          }
        }
      }
      float* const decoded = DecodeRounds(in_group, a, b);
      std::memset(decoded + count_ * kLanes, 0,
                  (panel_count_ * kLanes - count_) * kLanes * sizeof(float));
      for (size_t panel = 0; panel < panel_count_; ++panel) {
        const float* row[kLanes];
        for (size_t r = 0; r < kLanes; ++r) row[r] = decoded + (panel * kLanes + r) * kLanes;
        Transpose(row, nullptr, panels_[panel] + column * kLanes);
      }
    }
  }

  float* DecodeColumnsOf(float* at) {
    if (p_.in.column_mixing == nullptr) return at;
    return DecodeRounds(AllColumns(*p_.in.column_mixing), at, Free(at));
  }

  float* EncodeColumnsOf(float* at) {
    if (p_.out.column_mixing == nullptr) return at;
    return EncodeRounds(AllColumns(*p_.out.column_mixing), at, Free(at));
  }

  // The decoded column j: tempo's columns are only now put in order.
  HWY_INLINE Floats Column(const float* at, size_t j, size_t h) const {
    if (p_.in.column_scale == nullptr) return hn::Load(kFloats, at + j * kLanes + h);
    return Scaled(at + p_.in.column_place[j] * kLanes + h, p_.in.column_factor[j]);
  }

  // 16 columns of a plain matrix, transposed; zeros where there are no rows.
  void LoadPlain(MatrixView from, size_t column, float* out) const {
    alignas(kVectorBytes) float edge[kLanes * kLanes];
    const float* rows[kLanes] = {};
    const float* chunk[kLanes];
    for (size_t i = 0; i < LanesOf(first_); ++i) rows[i] = from.Row(rows_[first_ + i]);
    ReadRows(ChunkAt(column), rows, edge, chunk);
    Transpose(chunk, nullptr, out);
  }

  void StorePlain(const float* at, MutableMatrixView to) const {
    if (to.data == nullptr) return;
    alignas(kVectorBytes) float values[kLanes * kLanes];
    for (size_t column = 0; column < columns_; column += kLanes) {
      const Chunk chunk = ChunkAt(column);
      const float* from[kLanes];
      for (size_t c = 0; c < kLanes; ++c) from[c] = at + (column + c) * kLanes;
      Transpose(from, nullptr, values);
      for (size_t i = 0; i < LanesOf(first_); ++i) {
        WriteFloats(chunk, values + i * kLanes, 1, to.Row(rows_[first_ + i]));
      }
    }
  }

  float* Forward(float* at) {
    // In place, but for tempo, whose columns change their places.
    float* const to = p_.in.column_scale == nullptr ? at : Free(at);
    alignas(kVectorBytes) float residual[kLanes * kLanes];
    const bool is_simple = pass_.gamma.empty() && pass_.sum.data == nullptr;
    for (size_t column = 0; column < columns_; column += kLanes) {
      if (pass_.residual.data != nullptr) LoadPlain(pass_.residual, column, residual);
      for (size_t j = column; j < std::min(column + kLanes, columns_); ++j) {
        const Floats bias = hn::Set(kFloats, pass_.bias.empty() ? 0.0f : pass_.bias[j]);
        for (size_t h = 0; h < kLanes; h += N()) {
          Floats v = hn::Add(Column(at, j, h), bias);
          if (pass_.residual.data != nullptr) {
            v = hn::Add(v, hn::Load(kFloats, residual + (j - column) * kLanes + h));
          }
          if (is_simple) v = Activate(pass_.activation, v);
          hn::Store(v, kFloats, to + j * kLanes + h);
        }
      }
    }
    if (is_simple) return to;
    StorePlain(to, pass_.sum);
    if (!pass_.gamma.empty()) {
      for (size_t h = 0; h < kLanes; h += N()) {
        const auto [mean, scale] = MomentsOf(to, h);
        for (size_t j = 0; j < columns_; ++j) {
          float* const v = to + j * kLanes + h;
          const Floats normalised = hn::Mul(hn::Sub(hn::Load(kFloats, v), mean), scale);
          hn::Store(hn::MulAdd(normalised, hn::Set(kFloats, pass_.gamma[j]),
                               hn::Set(kFloats, pass_.beta[j])),
                    kFloats, v);
        }
      }
    } else if (pass_.activation != Activation::kNone) {
      for (size_t i = 0; i < columns_ * kLanes; i += N()) {
        hn::Store(Activate(pass_.activation, hn::Load(kFloats, to + i)), kFloats, to + i);
      }
    }
    return to;
  }

  struct Moments {
    Floats mean;
    Floats scale;
  };
  // Of each row, from lane h on. The mean first: the difference of squares would cancel.
  Moments MomentsOf(const float* at, size_t h) const {
    const Floats inverse = hn::Set(kFloats, 1 / static_cast<float>(columns_));
    Floats sums[4] = {hn::Zero(kFloats), hn::Zero(kFloats), hn::Zero(kFloats), hn::Zero(kFloats)};
    for (size_t j = 0; j < columns_; ++j) {
      sums[j % 4] = hn::Add(sums[j % 4], hn::Load(kFloats, at + j * kLanes + h));
    }
    const Floats mean =
        hn::Mul(hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])), inverse);
    for (Floats& sum : sums) sum = hn::Zero(kFloats);
    for (size_t j = 0; j < columns_; ++j) {
      const Floats off = hn::Sub(hn::Load(kFloats, at + j * kLanes + h), mean);
      sums[j % 4] = hn::MulAdd(off, off, sums[j % 4]);
    }
    const Floats square = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
    const Floats variance = hn::MulAdd(square, inverse, hn::Set(kFloats, pass_.epsilon));
    return {mean, hn::Div(hn::Set(kFloats, 1.0f), hn::Sqrt(variance))};
  }

  float* Backward(float* at) {
    float* const to = p_.in.column_scale == nullptr ? at : Free(at);
    const bool has_saved = pass_.saved.data != nullptr;
    const bool has_norm = !pass_.gamma.empty();
    if (has_norm) {
      for (size_t column = 0; column < columns_; column += kLanes) {
        LoadPlain(pass_.saved, column, saved_ + column * kLanes);
      }
      NormGradient(at, to);
    }
    alignas(kVectorBytes) float other[kLanes * kLanes];
    alignas(kVectorBytes) float residual[kLanes * kLanes];
    for (size_t column = 0; column < columns_; column += kLanes) {
      if (has_saved && !has_norm) LoadPlain(pass_.saved, column, other);
      if (pass_.residual.data != nullptr) LoadPlain(pass_.residual, column, residual);
      for (size_t j = column; j < std::min(column + kLanes, columns_); ++j) {
        for (size_t h = 0; h < kLanes; h += N()) {
          const size_t local = (j - column) * kLanes + h;
          Floats g = has_norm ? hn::Load(kFloats, to + j * kLanes + h) : Column(at, j, h);
          if (has_saved && !has_norm) {
            g = TimesDerivative(pass_.activation, g, hn::Load(kFloats, other + local));
          }
          if (pass_.residual.data != nullptr) g = hn::Add(g, hn::Load(kFloats, residual + local));
          if (!bias_.out.empty()) bias_.Add(j, h, g);
          hn::Store(g, kFloats, to + j * kLanes + h);
        }
      }
    }
    return to;
  }

  // d/dv of the norm at saved_: with g = v gamma and x the normalised value,
  // scale (g - mean(g) - x mean(g x)).
  void NormGradient(const float* at, float* to) {
    const Floats inverse = hn::Set(kFloats, 1 / static_cast<float>(columns_));
    for (size_t h = 0; h < kLanes; h += N()) {
      const auto [mean, scale] = MomentsOf(saved_, h);
      const auto normalised = [&, m = mean, s = scale](size_t j) HWY_ATTR {
        return hn::Mul(hn::Sub(hn::Load(kFloats, saved_ + j * kLanes + h), m), s);
      };
      Floats sum = hn::Zero(kFloats);
      Floats dot = hn::Zero(kFloats);
      for (size_t j = 0; j < columns_; ++j) {
        const Floats v = Column(at, j, h);
        const Floats x = normalised(j);
        const Floats g = hn::Mul(v, hn::Set(kFloats, pass_.gamma[j]));
        sum = hn::Add(sum, g);
        dot = hn::MulAdd(g, x, dot);
        hn::Store(g, kFloats, to + j * kLanes + h);
        if (!gamma_.out.empty()) {
          gamma_.Add(j, h, hn::Mul(v, x));
          beta_.Add(j, h, v);
        }
      }
      sum = hn::Mul(sum, inverse);
      dot = hn::Mul(dot, inverse);
      for (size_t j = 0; j < columns_; ++j) {
        float* const g = to + j * kLanes + h;
        const Floats off = hn::NegMulAdd(normalised(j), dot, hn::Sub(hn::Load(kFloats, g), sum));
        hn::Store(hn::Mul(off, scale), kFloats, g);
      }
    }
  }

  // From panels to rows on the wire.
  void Write() const {
    alignas(kVectorBytes) float a[internal::kMixingBlock * kLanes];
    alignas(kVectorBytes) float b[internal::kMixingBlock * kLanes];
    const Segment out_group =
        p_.out.row_mixing == nullptr ? Segment{} : Group(*p_.out.row_mixing, begin_, count_);
    for (size_t column = 0; column < columns_; column += kLanes) {
      const Chunk chunk = ChunkAt(column);
      for (size_t panel = 0; panel < panel_count_; ++panel) {
        const float* from[kLanes];
        float factors[kLanes] = {};
        for (size_t c = 0; c < kLanes; ++c) {
          // Past the last column anything will do: it is not written.
          const size_t e = std::min(column + c, columns_ - 1);
          from[c] = panels_[panel] + e * kLanes;
          if (p_.out.column_scale == nullptr) continue;
          from[c] = panels_[panel] + p_.out.column_scale->order()[e] * kLanes;
          factors[c] = p_.out.column_scale->Factor(p_.out.column_variant, e);
        }
        Transpose(from, p_.out.column_scale == nullptr ? nullptr : factors,
                  a + panel * kLanes * kLanes);
      }
      const float* const rows = p_.out.row_mixing == nullptr ? a : EncodeRounds(out_group, a, b);
      for (size_t i = 0; i < count_; ++i) {
        size_t place = rows_[i];
        float factor = 1;
        if (p_.out.row_mixing != nullptr) {
          place = RowOf(p_.out.row_mixing->destination()[begin_ + i]);
        }
        if (p_.out.row_scale != nullptr) {
          place = p_.out.row_place[rows_[i]];
          factor = p_.out.row_factor[rows_[i]];
        }
        if (pass_.out.data != nullptr) {
          WriteFloats(chunk, rows + i * kLanes, factor, pass_.out.Row(place));
        } else {
          WriteBf16(chunk, rows + i * kLanes, factor, pass_.out_bf16.Row(place));
        }
      }
    }
  }

  const Prepared& p_;
  const FusedPass& pass_;
  const size_t columns_;
  float* panels_[kMaxPanels];
  float* spare_;
  float* other_;
  float* saved_;
  ColumnSums bias_, gamma_, beta_;
  size_t begin_ = 0;
  size_t count_ = 0;
  size_t position_ = 0;
  size_t panel_count_ = 0;
  size_t first_ = 0;  // of the panel at hand, in the part
  size_t rows_[internal::kMixingBlock] = {};
};

void Run(const Prepared& prepared, size_t first, size_t last, float* workspace) {
  Part part(prepared, workspace);
  for (size_t i = first; i < last; ++i) part.Run(i);
  part.Finish();
}

// ---- Products with a few vectors ----

// Of several, vector by vector, with those of one after those of another; wiped.
template <typename T>
struct VectorByVector {
  VectorByVector(std::span<const RowVectors> vectors, size_t columns) {
    for (const RowVectors& some : vectors) count += some.vectors;
    values.resize(count * columns);
    T* to = values.data();
    for (const RowVectors& some : vectors) {
      for (size_t c = 0; c < some.vectors; ++c) {
        for (size_t j = 0; j < columns; ++j) {
          *to++ = static_cast<T>(some.values[j * some.vectors + c]);
        }
      }
    }
  }
  ~VectorByVector() { internal::Wipe(values); }
  VectorByVector(const VectorByVector&) = delete;
  VectorByVector& operator=(const VectorByVector&) = delete;

  size_t count = 0;
  std::vector<T> values;
};

// A row's products go where they belong.
void Scatter(std::span<const RowVectors> vectors, size_t row, const double* products) {
  for (const RowVectors& some : vectors) {
    std::copy_n(products, some.vectors, some.products + row * some.vectors);
    products += some.vectors;
  }
}

HWY_INLINE hn::Vec<hn::CappedTag<double, 8>> LoadDoubles(const float* from) {
  const hn::CappedTag<double, 8> doubles;
  return hn::PromoteTo(doubles, hn::LoadU(hn::Rebind<float, decltype(doubles)>(), from));
}

template <size_t kRows, size_t kVectors>
HWY_INLINE void RowsTimes(MatrixView m, size_t row, const double* v, double* out, size_t stride,
                          double* squares) {
  const hn::CappedTag<double, 8> doubles;
  using Doubles = hn::Vec<decltype(doubles)>;
  const size_t lanes = hn::Lanes(doubles);
  Doubles sums[kRows][kVectors];
  Doubles square[kRows];
  for (size_t r = 0; r < kRows; ++r) {
    square[r] = hn::Zero(doubles);
    for (size_t c = 0; c < kVectors; ++c) sums[r][c] = hn::Zero(doubles);
  }
  size_t j = 0;
  for (; j + lanes <= m.columns; j += lanes) {
    Doubles x[kRows];
    for (size_t r = 0; r < kRows; ++r) {
      x[r] = LoadDoubles(m.Row(row + r) + j);
      if (squares != nullptr) square[r] = hn::MulAdd(x[r], x[r], square[r]);
    }
    for (size_t c = 0; c < kVectors; ++c) {
      const Doubles y = hn::LoadU(doubles, v + c * m.columns + j);
      for (size_t r = 0; r < kRows; ++r) sums[r][c] = hn::MulAdd(x[r], y, sums[r][c]);
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    double last_square = 0;
    double last[kVectors] = {};
    for (size_t t = j; t < m.columns; ++t) {
      const double x = m(row + r, t);
      last_square += x * x;
      for (size_t c = 0; c < kVectors; ++c) last[c] += x * v[c * m.columns + t];
    }
    for (size_t c = 0; c < kVectors; ++c) {
      out[r * stride + c] = last[c] + hn::GetLane(hn::SumOfLanes(doubles, sums[r][c]));
    }
    if (squares != nullptr) {
      squares[row + r] = last_square + hn::GetLane(hn::SumOfLanes(doubles, square[r]));
    }
  }
}

void Multiply(MatrixView m, std::span<RowVectors> vectors, double* squares) {
  const VectorByVector<double> v(vectors, m.columns);
  constexpr size_t kRows = HWY_TARGET == HWY_AVX3 ? 4 : 2;
  std::vector<double> products(kRows * v.count);
  size_t row = 0;
  const auto rows = [&](auto count) HWY_ATTR {
    constexpr size_t kCount = decltype(count)::value;
    for (; row + kCount <= m.rows; row += kCount) {
      double* to_squares = squares;
      size_t c = 0;
      const auto some = [&](auto some_vectors) HWY_ATTR {
        constexpr size_t kVectors = decltype(some_vectors)::value;
        for (; c + kVectors <= v.count; c += kVectors) {
          RowsTimes<kCount, kVectors>(m, row, &v.values[c * m.columns], &products[c], v.count,
                                      to_squares);
          to_squares = nullptr;  // once is enough
        }
      };
      some(std::integral_constant<size_t, 4>());
      some(std::integral_constant<size_t, 2>());
      some(std::integral_constant<size_t, 1>());
      for (size_t r = 0; r < kCount; ++r) Scatter(vectors, row + r, &products[r * v.count]);
    }
  };
  rows(std::integral_constant<size_t, kRows>());
  rows(std::integral_constant<size_t, 1>());
}

// Rows that are read before sums are stored again, and how far ahead of the sums they are asked
// for: rows lie far apart, where the hardware does not foresee them.
constexpr size_t kSweptRows = 16;
constexpr size_t kAheadBytes = 512;

void MultiplyTransposed(MatrixView m, const double* v, size_t vectors, double* out,
                        double* squares) {
  const hn::CappedTag<double, 8> doubles;
  using Doubles = hn::Vec<decltype(doubles)>;
  const size_t lanes = hn::Lanes(doubles);
  const size_t whole = m.columns / lanes * lanes;
  // For each `lanes` columns the sums of all vectors, and the squares.
  std::vector<double> sums((vectors + 1) * whole);
  std::fill_n(out, m.columns * vectors, 0.0);
  std::fill_n(squares, m.columns, 0.0);
  for (size_t first = 0; first < m.rows; first += kSweptRows) {
    const size_t last = std::min(first + kSweptRows, m.rows);
    for (size_t j = 0; j < whole; j += lanes) {
      double* const at = &sums[j * (vectors + 1)];
      size_t c = 0;
      const auto some = [&](auto some_vectors) HWY_ATTR {
        constexpr size_t kVectors = decltype(some_vectors)::value;
        for (; c + kVectors <= vectors; c += kVectors) {
          Doubles part[kVectors];
          Doubles square = hn::LoadU(doubles, at + vectors * lanes);
          for (size_t k = 0; k < kVectors; ++k) part[k] = hn::LoadU(doubles, at + (c + k) * lanes);
          for (size_t i = first; i < last; ++i) {
            __builtin_prefetch(m.Row(i) + j + kAheadBytes / sizeof(float));
            const Doubles x = LoadDoubles(m.Row(i) + j);
            if (c == 0) square = hn::MulAdd(x, x, square);
            for (size_t k = 0; k < kVectors; ++k) {
              part[k] = hn::MulAdd(x, hn::Set(doubles, v[i * vectors + c + k]), part[k]);
            }
          }
          for (size_t k = 0; k < kVectors; ++k) hn::StoreU(part[k], doubles, at + (c + k) * lanes);
          hn::StoreU(square, doubles, at + vectors * lanes);
        }
      };
      some(std::integral_constant<size_t, 8>());
      some(std::integral_constant<size_t, 2>());
      some(std::integral_constant<size_t, 1>());
    }
    for (size_t j = whole; j < m.columns; ++j) {
      for (size_t i = first; i < last; ++i) {
        const double x = m(i, j);
        squares[j] += x * x;
        for (size_t c = 0; c < vectors; ++c) out[j * vectors + c] += x * v[i * vectors + c];
      }
    }
  }
  for (size_t j = 0; j < whole; ++j) {
    const double* const at = &sums[j / lanes * lanes * (vectors + 1) + j % lanes];
    for (size_t c = 0; c < vectors; ++c) out[j * vectors + c] = at[c * lanes];
    squares[j] = at[vectors * lanes];
  }
}

// ---- The same of bf16, in fp32 ----

// kRows rows by kVectors vectors, whose elements lie one after another.
template <size_t kRows, size_t kVectors>
HWY_INLINE void RowsTimes(ViewOf<const uint16_t> m, size_t row, const float* v, double* out,
                          size_t stride, const RowSquares* squares) {
  const float* const factors = squares == nullptr ? nullptr : squares->factors;
  Floats sums[kRows][kVectors];
  Floats square[kRows];
  Floats weighted[kRows];
  for (size_t r = 0; r < kRows; ++r) {
    square[r] = weighted[r] = hn::Zero(kFloats);
    for (size_t c = 0; c < kVectors; ++c) sums[r][c] = hn::Zero(kFloats);
  }
  size_t j = 0;
  for (; j + N() <= m.columns; j += N()) {
    Floats x[kRows];
    for (size_t r = 0; r < kRows; ++r) {
      x[r] = LoadFloats(m.Row(row + r) + j);
      if (squares != nullptr) {
        square[r] = hn::MulAdd(x[r], x[r], square[r]);
        if (factors != nullptr) {
          weighted[r] =
              hn::MulAdd(hn::Mul(x[r], x[r]), hn::LoadU(kFloats, factors + j), weighted[r]);
        }
      }
    }
    for (size_t c = 0; c < kVectors; ++c) {
      const Floats y = hn::LoadU(kFloats, v + c * m.columns + j);
      for (size_t r = 0; r < kRows; ++r) sums[r][c] = hn::MulAdd(x[r], y, sums[r][c]);
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    double last[kVectors] = {};
    double last_square = 0;
    double last_weighted = 0;
    for (size_t e = j; e < m.columns; ++e) {
      const double x = FloatFromBf16(m(row + r, e));
      last_square += x * x;
      if (factors != nullptr) last_weighted += x * x * double{factors[e]};
      for (size_t c = 0; c < kVectors; ++c) last[c] += x * double{v[c * m.columns + e]};
    }
    for (size_t c = 0; c < kVectors; ++c) out[r * stride + c] = last[c] + double{Sum(sums[r][c])};
    if (squares == nullptr) continue;
    squares->plain[row + r] = last_square + double{Sum(square[r])};
    if (factors != nullptr) squares->weighted[row + r] = last_weighted + double{Sum(weighted[r])};
  }
}

// As many rows and vectors as there are registers for their sums. Vectors come from L2: the more
// rows share one that was loaded the better.
constexpr size_t kRowsAtOnce = HWY_TARGET == HWY_AVX3 ? 4 : 2;
constexpr size_t kRowVectors = 4;
// Of the transposed product, by two vectors of columns.
constexpr size_t kVectorsAtOnce = HWY_TARGET == HWY_AVX3 ? 8 : 4;

void MultiplyBf16(ViewOf<const uint16_t> m, std::span<RowVectors> vectors,
                  const RowSquares& squares) {
  const VectorByVector<float> v(vectors, m.columns);
  std::vector<double> products(kRowsAtOnce * v.count);
  size_t row = 0;
  const auto rows = [&](auto count) HWY_ATTR {
    constexpr size_t kRows = decltype(count)::value;
    for (; row + kRows <= m.rows; row += kRows) {
      const RowSquares* to_squares = &squares;
      size_t c = 0;
      const auto some = [&](auto some_vectors) HWY_ATTR {
        constexpr size_t kVectors = decltype(some_vectors)::value;
        for (; c + kVectors <= v.count; c += kVectors) {
          RowsTimes<kRows, kVectors>(m, row, &v.values[c * m.columns], &products[c], v.count,
                                     to_squares);
          to_squares = nullptr;  // once is enough
        }
      };
      some(std::integral_constant<size_t, kRowVectors>());
      some(std::integral_constant<size_t, 1>());
      for (size_t r = 0; r < kRows; ++r) Scatter(vectors, row + r, &products[r * v.count]);
    }
  };
  rows(std::integral_constant<size_t, kRowsAtOnce>());
  rows(std::integral_constant<size_t, 1>());
}

HWY_INLINE hn::Vec<hn::RebindToUnsigned<decltype(kFloats)>> LoadPairs(const uint16_t* from) {
  const hn::RebindToUnsigned<decltype(kFloats)> words;
#if HWY_TARGET == HWY_SCALAR
  uint32_t pair = 0;
  std::memcpy(&pair, from, sizeof pair);
  return hn::Set(words, pair);
#else
  const hn::Repartition<uint16_t, decltype(kFloats)> halves;
  return hn::BitCast(words, hn::LoadU(halves, from));
#endif
}

// Rows of a block are summed in fp32, blocks in float64.
constexpr size_t kSummedRows = 128;

void MultiplyTransposedBf16(ViewOf<const uint16_t> m, const float* v, size_t vectors, double* out,
                            double* squares) {
  const hn::RebindToUnsigned<decltype(kFloats)> words;
  const hn::CappedTag<double, kLanes / 2> doubles;
  // A register of bf16: the even columns are the lower halves of its words, the odd ones the upper.
  const size_t step = 2 * N();
  const size_t whole = m.columns / step * step;
  // For each `step` columns the sums of all vectors, and the squares: even columns, then odd ones.
  const size_t step_sums = (vectors + 1) * step;
  std::vector<float> parts(whole / step * step_sums);
  std::vector<double> sums(parts.size());
  std::fill_n(out, m.columns * vectors, 0.0);
  std::fill_n(squares, m.columns, 0.0);
  for (size_t first = 0; first < m.rows; first += kSweptRows) {
    const size_t last = std::min(first + kSweptRows, m.rows);
    for (size_t j = 0; j < whole; j += step) {
      float* const at = &parts[j / step * step_sums];
      float* const at_squares = at + vectors * step;
      size_t c = 0;
      const auto some = [&](auto some_vectors) HWY_ATTR {
        constexpr size_t kVectors = decltype(some_vectors)::value;
        for (; c + kVectors <= vectors; c += kVectors) {
          float* const to = at + c * step;
          Floats even[kVectors], odd[kVectors];
          for (size_t k = 0; k < kVectors; ++k) {
            even[k] = hn::LoadU(kFloats, to + k * step);
            odd[k] = hn::LoadU(kFloats, to + k * step + N());
          }
          Floats even_square = hn::LoadU(kFloats, at_squares);
          Floats odd_square = hn::LoadU(kFloats, at_squares + N());
          for (size_t i = first; i < last; ++i) {
            __builtin_prefetch(m.Row(i) + j + kAheadBytes / sizeof(uint16_t));
            const auto both = LoadPairs(m.Row(i) + j);
            const Floats x = hn::BitCast(kFloats, hn::ShiftLeft<16>(both));
            const Floats y = hn::BitCast(kFloats, hn::And(both, hn::Set(words, 0xFFFF0000u)));
            if (c == 0) {
              even_square = hn::MulAdd(x, x, even_square);
              odd_square = hn::MulAdd(y, y, odd_square);
            }
            for (size_t k = 0; k < kVectors; ++k) {
              const Floats factor = hn::Set(kFloats, v[i * vectors + c + k]);
              even[k] = hn::MulAdd(x, factor, even[k]);
              odd[k] = hn::MulAdd(y, factor, odd[k]);
            }
          }
          for (size_t k = 0; k < kVectors; ++k) {
            hn::StoreU(even[k], kFloats, to + k * step);
            hn::StoreU(odd[k], kFloats, to + k * step + N());
          }
          hn::StoreU(even_square, kFloats, at_squares);
          hn::StoreU(odd_square, kFloats, at_squares + N());
        }
      };
      some(std::integral_constant<size_t, kVectorsAtOnce>());
      some(std::integral_constant<size_t, 1>());
    }
    for (size_t j = whole; j < m.columns; ++j) {
      for (size_t i = first; i < last; ++i) {
        const double x = FloatFromBf16(m(i, j));
        squares[j] += x * x;
        for (size_t c = 0; c < vectors; ++c) out[j * vectors + c] += x * double{v[i * vectors + c]};
      }
    }
    if (last % kSummedRows != 0 && last != m.rows) continue;
    for (size_t t = 0; t < parts.size(); t += hn::Lanes(doubles)) {
      hn::StoreU(hn::Add(hn::LoadU(doubles, &sums[t]), LoadDoubles(&parts[t])), doubles, &sums[t]);
    }
    std::fill(parts.begin(), parts.end(), 0.0f);
  }
  for (size_t j = 0; j < whole; ++j) {
    const size_t lane = j % 2 * N() + j % step / 2;
    const double* const at = &sums[j / step * step_sums + lane];
    for (size_t c = 0; c < vectors; ++c) out[j * vectors + c] = at[c * step];
    squares[j] = at[vectors * step];
  }
}

constexpr Kernels kKernels = {
    HWY_TARGET, nullptr, Run, Multiply, MultiplyBf16, MultiplyTransposed, MultiplyTransposedBf16};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace pavise::offload::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace pavise::offload {
namespace cpu {
namespace {

#if HWY_TARGETS & HWY_AVX3
constexpr Kernels WithDotProducts(Kernels kernels) {
  kernels.name = "AVX3_BF16";
  kernels.multiply_bf16 = MultiplyVectorsByDotProducts;
  return kernels;
}
constexpr Kernels kAvx3Bf16 = WithDotProducts(N_AVX3::kKernels);
#endif

constexpr const Kernels* kCompiled[] = {
#if HWY_TARGETS & HWY_AVX3
    &kAvx3Bf16,
    &N_AVX3::kKernels,
#endif
#if HWY_TARGETS & HWY_AVX2
    &N_AVX2::kKernels,
#endif
    &HWY_STATIC_DISPATCH(kKernels),
};

const Kernels* Best() {
  for (const Kernels* kernels : kCompiled) {
    if (kernels->IsSupported()) return kernels;
  }
  return &HWY_STATIC_DISPATCH(kKernels);
}

std::atomic<const Kernels*>& Chosen() {
  static std::atomic<const Kernels*> chosen{Best()};
  return chosen;
}

// Whether there is a kernel for this end; fills it in.
bool PrepareEnd(const WireKeys& keys, bool is_decode, End& end) {
  if (keys.samples == nullptr) return true;
  end.row_variant = keys.samples_variant;
  end.column_variant = keys.features_variant;
  end.row_scale = dynamic_cast<const ScaledPermutation*>(keys.samples);
  end.column_scale = dynamic_cast<const ScaledPermutation*>(keys.features);
  end.row_mixing = dynamic_cast<const Mixing*>(keys.samples);
  end.column_mixing = dynamic_cast<const Mixing*>(keys.features);
  if (end.row_mixing != nullptr && end.column_mixing != nullptr) {
    // Dense keys have no rounds; and a key of features has no groups that rows could be read in.
    return !end.row_mixing->grouping().empty() && !end.column_mixing->is_dense() &&
           end.column_mixing->grouping().empty();
  }
  if (end.row_scale == nullptr || end.column_scale == nullptr) return false;
  const auto invert = [&](const ScaledPermutation& key, Variant variant, size_t positions,
                          std::vector<uint32_t>& place, std::vector<float>& factor) {
    place.resize(key.size() * positions);
    factor.resize(key.size() * positions);
    for (size_t e = 0; e < key.size(); ++e) {
      for (size_t p = 0; p < positions; ++p) {
        const size_t plain = key.order()[e] * positions + p;
        place[plain] = static_cast<uint32_t>(e * positions + p);
        factor[plain] = is_decode ? key.DecodeFactor(variant, e) : key.Factor(variant, e);
      }
    }
  };
  invert(*end.row_scale, end.row_variant, keys.positions, end.row_place, end.row_factor);
  if (is_decode) {
    invert(*end.column_scale, end.column_variant, 1, end.column_place, end.column_factor);
  }
  return true;
}

bool Prepare(const FusedPass& pass, Prepared& prepared) {
  prepared.pass = &pass;
  if (!PrepareEnd(pass.decode, true, prepared.in)) return false;
  if (!PrepareEnd(pass.encode, false, prepared.out)) return false;
  const Mixing* const in = prepared.in.row_mixing;
  const Mixing* const out = prepared.out.row_mixing;
  prepared.grouping = in != nullptr ? in : out;
  prepared.positions = in != nullptr ? pass.decode.positions : pass.encode.positions;
  return in == nullptr || out == nullptr ||
         (in->grouping() == out->grouping() && pass.decode.positions == pass.encode.positions);
}

// Denormal numbers are zeros, on the way in and out, while this lives.
class FlushToZero {
 public:
#if defined(__x86_64__)
  FlushToZero() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushToZero() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

}  // namespace

void MultiplyVectors(MatrixView m, std::span<RowVectors> vectors, double* squares) {
  Chosen().load(std::memory_order_relaxed)->multiply(m, vectors, squares);
}
void MultiplyVectors(ViewOf<const uint16_t> m, std::span<RowVectors> vectors,
                     const RowSquares& squares) {
  Chosen().load(std::memory_order_relaxed)->multiply_bf16(m, vectors, squares);
}
void MultiplyTransposedVectors(MatrixView m, const double* v, size_t vectors, double* out,
                               double* squares) {
  Chosen().load(std::memory_order_relaxed)->multiply_transposed(m, v, vectors, out, squares);
}
void MultiplyTransposedVectors(ViewOf<const uint16_t> m, const float* v, size_t vectors,
                               double* out, double* squares) {
  Chosen().load(std::memory_order_relaxed)->multiply_transposed_bf16(m, v, vectors, out, squares);
}

}  // namespace cpu

bool KernelSupports(const FusedPass& pass) {
  cpu::Prepared prepared;
  return CheckFusedPass(pass).ok() && cpu::Prepare(pass, prepared);
}

size_t PartsOf(const FusedPass& pass) {
  for (const WireKeys& keys : {pass.decode, pass.encode}) {
    if (dynamic_cast<const internal::Mixing*>(keys.samples) != nullptr) {
      return internal::GroupCount(keys.samples->size()) * keys.positions;
    }
  }
  return (pass.rows + cpu::kLanes - 1) / cpu::kLanes;
}

absl::Status RunFusedPass(const FusedPass& pass, size_t first, size_t last,
                          FusedWorkspace& workspace) {
  PAVISE_RETURN_IF_ERROR(CheckFusedPass(pass));
  cpu::Prepared prepared;
  if (!cpu::Prepare(pass, prepared))
    return UsageError("fused pass: there is no kernel for its keys");
  if (first > last || last > PartsOf(pass)) return UsageError("fused pass: no such parts");
  const size_t floats = cpu::WorkspaceFloats(pass.columns);
  constexpr size_t kSlack = cpu::kVectorBytes / sizeof(float);
  try {
    if (workspace.values.size() < floats + kSlack) workspace.values.resize(floats + kSlack);
  } catch (const std::bad_alloc&) {
    return MachineFailure("fused pass", "no memory to work in");
  }
  void* aligned = workspace.values.data();
  size_t space = workspace.values.size() * sizeof(float);
  std::align(cpu::kVectorBytes, floats * sizeof(float), aligned, space);
  [[maybe_unused]] const cpu::FlushToZero flush{};
  cpu::Chosen()
      .load(std::memory_order_relaxed)
      ->run(prepared, first, last, static_cast<float*>(aligned));
  return absl::OkStatus();
}

std::string_view FusedPassTarget() { return cpu::Chosen().load(std::memory_order_relaxed)->Name(); }

std::vector<std::string_view> FusedPassTargets() {
  std::vector<std::string_view> names;
  for (const cpu::Kernels* kernels : cpu::kCompiled) {
    if (kernels->IsSupported()) names.push_back(kernels->Name());
  }
  return names;
}

bool ForceFusedPassTarget(std::string_view target) {
  cpu::Chosen() = cpu::Best();
  if (target.empty()) return true;
  for (const cpu::Kernels* kernels : cpu::kCompiled) {
    if (target != kernels->Name() || !kernels->IsSupported()) continue;
    cpu::Chosen() = kernels;
    return true;
  }
  return false;
}

}  // namespace pavise::offload

#endif  // HWY_ONCE
