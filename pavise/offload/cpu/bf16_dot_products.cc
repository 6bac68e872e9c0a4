#include "pavise/offload/cpu/bf16_dot_products.h"

#if defined(__x86_64__)

// GCC 12 takes what its own intrinsics leave undefined on purpose for a mistake (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "pavise/offload/internal/wipe.h"

#define PAVISE_AVX512_BF16 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")))

namespace pavise::offload::cpu {
namespace {

// A column of eight vectors is eight numbers of bf16; four columns of them are a register of pairs:
// columns 0 and 1 of vector 0 ... 7, then columns 2 and 3. It is multiplied by two pairs of a row's
// elements, each in eight lanes. So nothing is widened, and lanes are added up once for each part.
constexpr size_t kWidth = 8;
constexpr size_t kStep = 32;       // columns of bf16 in a register
constexpr size_t kSummed = 512;    // columns of which products are summed in fp32
constexpr size_t kMostGroups = 4;  // registers of vectors that one pass over the rows multiplies
constexpr size_t kMostParts = 3;
constexpr size_t kAheadBytes = 512;

// Eight vectors, as one of the parts of bf16 that their elements are made of.
struct Group {
  RowVectors* of;
  size_t first;  // vector
  size_t part;
};

// One column's elements of eight vectors, in parts; past the last vector zeros.
struct Parts {
  __m128i of[kMostParts];
  __m256 rest[kMostParts];  // what is left after each
};
PAVISE_AVX512_BF16 inline __m256 Widened(__m128i bf16) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16));
}
PAVISE_AVX512_BF16 inline Parts Split(const RowVectors& vectors, size_t column, size_t first) {
  const auto lanes =
      static_cast<__mmask8>(0xFF >> (kWidth - std::min(kWidth, vectors.vectors - first)));
  __m256 rest = _mm512_cvtpd_ps(
      _mm512_maskz_loadu_pd(lanes, vectors.values + column * vectors.vectors + first));
  Parts parts;
  for (size_t p = 0; p < kMostParts; ++p) {
    parts.of[p] = reinterpret_cast<__m128i>(_mm256_cvtneps_pbh(rest));
    rest = _mm256_sub_ps(rest, Widened(parts.of[p]));
    parts.rest[p] = rest;
  }
  return parts;
}

// As many parts as hold the vectors, if not more than they may have.
PAVISE_AVX512_BF16 size_t CountParts(RowVectors& vectors, size_t columns) {
  __m256i left[kMostParts] = {};
  const size_t most = std::clamp<size_t>(vectors.bf16_parts, 1, kMostParts);
  __m512d lost = _mm512_setzero_pd();
  for (size_t j = 0; j < columns; ++j) {
    for (size_t first = 0; first < vectors.vectors; first += kWidth) {
      const Parts parts = Split(vectors, j, first);
      for (size_t p = 0; p < kMostParts; ++p) {
        left[p] = _mm256_or_si256(left[p], _mm256_castps_si256(parts.rest[p]));
      }
      const __m512d rest = _mm512_cvtps_pd(parts.rest[most - 1]);
      lost = _mm512_fmadd_pd(rest, rest, lost);
    }
  }
  vectors.rest_norm = most == kMostParts ? 0 : std::sqrt(_mm512_reduce_add_pd(lost));
  for (size_t p = 0; p + 1 < most; ++p) {
    // A rest of -0 counts as one, which costs time only.
    if (_mm256_testz_si256(left[p], left[p]) != 0) return p + 1;
  }
  return most;
}

// Group after group for each four columns; columns rounded up to whole steps.
PAVISE_AVX512_BF16 void Pack(std::span<const Group> groups, size_t columns, uint32_t* packed) {
  for (size_t j = 0; j < columns; j += 4) {
    for (const Group& group : groups) {
      __m128i of[4] = {};
      for (size_t c = 0; c < std::min<size_t>(4, columns - j); ++c) {
        of[c] = Split(*group.of, j + c, group.first).of[group.part];
      }
      const __m128i pairs[4] = {_mm_unpacklo_epi16(of[0], of[1]), _mm_unpackhi_epi16(of[0], of[1]),
                                _mm_unpacklo_epi16(of[2], of[3]), _mm_unpackhi_epi16(of[2], of[3])};
      std::memcpy(packed, pairs, sizeof pairs);
      packed += 2 * kWidth;
    }
  }
}

template <size_t kRows, size_t kGroups>
PAVISE_AVX512_BF16 inline __attribute__((always_inline)) void Step(
    const uint16_t* const (&rows)[kRows], size_t column, const uint32_t* packed,
    __m512 (&sums)[kRows][kGroups], __m512 (&squares)[kRows]) {
  __m512i values[kRows];
  for (size_t r = 0; r < kRows; ++r) {
    // Rows lie far apart: ahead of the hardware, and of a row's end too.
    _mm_prefetch(
        reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(rows[r] + column) + kAheadBytes),
        _MM_HINT_T0);
    values[r] = _mm512_loadu_si512(rows[r] + column);
    const auto pairs = reinterpret_cast<__m512bh>(values[r]);
    squares[r] = _mm512_dpbf16_ps(squares[r], pairs, pairs);
  }
  __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  for (size_t quad = 0; quad < kStep / 4; ++quad) {
    __m512bh v[kGroups];
    for (size_t g = 0; g < kGroups; ++g) {
      v[g] = reinterpret_cast<__m512bh>(
          _mm512_loadu_si512(packed + (quad * kGroups + g) * 2 * kWidth));
    }
    for (size_t r = 0; r < kRows; ++r) {
      const auto x = reinterpret_cast<__m512bh>(_mm512_permutexvar_epi32(lanes, values[r]));
      for (size_t g = 0; g < kGroups; ++g) sums[r][g] = _mm512_dpbf16_ps(sums[r][g], x, v[g]);
    }
    lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(2));
  }
}

// kRows rows by groups; their products are added to what is there.
template <size_t kRows, size_t kGroups>
PAVISE_AVX512_BF16 void Rows(ViewOf<const uint16_t> m, size_t first, std::span<const Group> groups,
                             const uint32_t* packed, double* squares) {
  const uint16_t* rows[kRows];
  alignas(64) uint16_t edge[kRows][kStep] = {};
  const uint16_t* edges[kRows];
  const size_t whole = m.columns / kStep * kStep;
  for (size_t r = 0; r < kRows; ++r) {
    rows[r] = m.Row(first + r);
    std::memcpy(edge[r], rows[r] + whole, (m.columns - whole) * sizeof(uint16_t));
    edges[r] = edge[r];
  }
  __m512 square[kRows];
  for (size_t r = 0; r < kRows; ++r) square[r] = _mm512_setzero_ps();
  for (size_t begin = 0; begin < m.columns; begin += kSummed) {
    __m512 sums[kRows][kGroups];
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t g = 0; g < kGroups; ++g) sums[r][g] = _mm512_setzero_ps();
    }
    const size_t end = std::min(begin + kSummed, whole);
    size_t j = begin;
    for (; j < end; j += kStep) {
      Step<kRows, kGroups>(rows, j, packed + j * kGroups * kWidth / 2, sums, square);
    }
    if (j == whole && whole < m.columns && m.columns - begin <= kSummed) {
      Step<kRows, kGroups>(edges, 0, packed + j * kGroups * kWidth / 2, sums, square);
    }
    for (size_t g = 0; g < kGroups; ++g) {
      const RowVectors& of = *groups[g].of;
      const auto lanes =
          static_cast<__mmask8>(0xFF >> (kWidth - std::min(kWidth, of.vectors - groups[g].first)));
      for (size_t r = 0; r < kRows; ++r) {
        const __m256 sum = _mm256_add_ps(_mm512_castps512_ps256(sums[r][g]),
                                         _mm512_extractf32x8_ps(sums[r][g], 1));
        double* const to = of.products + (first + r) * of.vectors + groups[g].first;
        _mm512_mask_storeu_pd(
            to, lanes, _mm512_add_pd(_mm512_maskz_loadu_pd(lanes, to), _mm512_cvtps_pd(sum)));
      }
    }
  }
  if (squares == nullptr) return;
  for (size_t r = 0; r < kRows; ++r) {
    squares[first + r] = static_cast<double>(_mm512_reduce_add_ps(square[r]));
  }
}

template <size_t kRows, size_t kGroups>
void AllRows(ViewOf<const uint16_t> m, std::span<const Group> groups, const uint32_t* packed,
             double* squares) {
  size_t row = 0;
  for (; row + kRows <= m.rows; row += kRows) {
    Rows<kRows, kGroups>(m, row, groups, packed, squares);
  }
  for (; row < m.rows; ++row) Rows<1, kGroups>(m, row, groups, packed, squares);
}

PAVISE_AVX512_BF16 double WeightedSquares(const uint16_t* row, const float* factors, size_t count) {
  __m512 sum = _mm512_setzero_ps();
  for (size_t j = 0; j < count; j += 16) {
    const auto lanes = static_cast<__mmask16>(0xFFFF >> (16 - std::min<size_t>(16, count - j)));
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, row + j));
    const __m512 x = _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
    sum = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_maskz_loadu_ps(lanes, factors + j), sum);
  }
  return static_cast<double>(_mm512_reduce_add_ps(sum));
}

}  // namespace

void MultiplyVectorsByDotProducts(ViewOf<const uint16_t> m, std::span<RowVectors> vectors,
                                  const RowSquares& squares) {
  std::vector<Group> groups;
  for (RowVectors& some : vectors) {
    std::fill_n(some.products, m.rows * some.vectors, 0.0);
    const size_t parts = CountParts(some, m.columns);
    for (size_t first = 0; first < some.vectors; first += kWidth) {
      for (size_t part = 0; part < parts; ++part) groups.push_back({&some, first, part});
    }
  }
  const size_t steps = (m.columns + kStep - 1) / kStep;
  std::vector<uint32_t> packed;
  double* to_squares = squares.plain;
  for (size_t at = 0; at < groups.size();) {
    const size_t count = std::min(kMostGroups, groups.size() - at);
    const auto some = std::span(groups).subspan(at, count);
    packed.assign(steps * kStep / 2 * count * kWidth, 0);
    Pack(some, m.columns, packed.data());
    // The sums of all rows are in registers.
    switch (count) {
      case 1:
        AllRows<8, 1>(m, some, packed.data(), to_squares);
        break;
      case 2:
        AllRows<8, 2>(m, some, packed.data(), to_squares);
        break;
      case 3:
        AllRows<4, 3>(m, some, packed.data(), to_squares);
        break;
      default:
        AllRows<4, 4>(m, some, packed.data(), to_squares);
    }
    internal::Wipe(packed);
    to_squares = nullptr;  // once is enough
    at += count;
  }
  if (squares.factors == nullptr) return;
  for (size_t i = 0; i < m.rows; ++i) {
    squares.weighted[i] = WeightedSquares(m.Row(i), squares.factors, m.columns);
  }
}

}  // namespace pavise::offload::cpu

#endif  // defined(__x86_64__)
