// What kernels compute, on the host: conversions of every 16-bit number and around every rounding,
// and what findings name.
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "pavise/offload/cuda/kernels.h"
#include "pavise/offload/residues.h"
#include "pavise/offload/sgd.h"
#include "pavise/offload/tensor.h"

#include "gtest/gtest.h"

namespace pavise::offload::cuda {
namespace {

template <typename Body>
void RunAll(const Body& body) {
  for (uint64_t i = 0; i < body.count; ++i) body(i);
}

TEST(KernelsHostTest, ConversionsAreThoseOfTheWire) {
  size_t compared = 0;
  const auto compare = [&](float value) {
    ASSERT_EQ(NarrowToBf16(value), Bf16FromFloat(value)) << value;
    ASSERT_EQ(NarrowToFp16(value), Fp16FromFloat(value)) << value;
    ++compared;
  };
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t narrow = static_cast<uint16_t>(bits);
    const float from_bf16 = WidenBf16(narrow), from_fp16 = WidenFp16(narrow);
    if (std::isfinite(from_bf16)) {
      ASSERT_EQ(from_bf16, FloatFromBf16(narrow));
    }
    if ((bits & 0x7C00) != 0x7C00) {
      ASSERT_EQ(from_fp16, FloatFromFp16(narrow));
    } else {
      ASSERT_FALSE(std::isfinite(from_fp16));
      ASSERT_EQ(std::isnan(from_fp16), (bits & 0x3FF) != 0);
      continue;
    }
    // The number, halfway to the next and a last place on either side.
    const uint32_t wide = std::bit_cast<uint32_t>(from_fp16);
    for (const uint32_t offset : {0u, 0xFFFu, 0x1000u, 0x1001u}) {
      compare(std::bit_cast<float>(wide + offset));
    }
  }
  EXPECT_EQ(compared, (65536u - 2048u) * 4);
  std::mt19937 random(7);
  for (int i = 0; i < 100000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isfinite(value)) compare(value);
  }
  // Not numbers stay so: a NaN whose significand would round away included.
  for (const uint32_t bits : {0x7F800000u, 0xFF800000u, 0x7F800001u, 0x7FFFFFFFu, 0xFFFFFFFFu}) {
    const float value = std::bit_cast<float>(bits);
    EXPECT_EQ(std::isnan(value), std::isnan(WidenBf16(NarrowToBf16(value)))) << bits;
    EXPECT_EQ(std::isnan(value), std::isnan(WidenFp16(NarrowToFp16(value)))) << bits;
    EXPECT_FALSE(std::isfinite(WidenBf16(NarrowToBf16(value))));
    EXPECT_FALSE(std::isfinite(WidenFp16(NarrowToFp16(value))));
  }
}

TEST(KernelsHostTest, FindingsNameTheFirst) {
  std::vector<float> values(100, 1.0f);
  values[70] = std::numeric_limits<float>::infinity();
  values[40] = std::numeric_limits<float>::quiet_NaN();
  values[20] = -70000;
  std::vector<uint16_t> narrow(100);
  Findings findings;
  ConvertKernel convert = {.from = values.data(),
                           .to = narrow.data(),
                           .to_type = DType::kFp16,
                           .first = 1000,
                           .count = 100,
                           .findings = &findings};
  RunAll(convert);
  EXPECT_EQ(findings.first_unfit, 1040u);
  EXPECT_EQ(findings.first_too_large, 1020u) << "only of finite numbers";
  findings = {};
  convert.to = nullptr;
  RunAll(convert);
  EXPECT_EQ(findings.first_unfit, 1040u);
  EXPECT_EQ(findings.first_too_large, kNowhere);
  findings = {};
  values[40] = values[70] = -70001;
  RunAll(convert);
  EXPECT_EQ(findings.first_unfit, kNowhere);
  RunAll(LargestKernel{values.data(), 100, &findings});
  EXPECT_EQ(std::bit_cast<float>(findings.largest_bits), 70001.0f);
  std::vector<int8_t> residues = {0, 125, -125, 126, -126, 127};
  for (const auto& [modulus, first] :
       {std::pair{255, kNowhere}, std::pair{253, 5ull}, std::pair{251, 3ull}, std::pair{3, 1ull}}) {
    findings = {};
    RunAll(CheckResiduesKernel{residues.data(), modulus, 0, residues.size(), &findings});
    EXPECT_EQ(findings.first_unfit, first) << modulus;
  }
}

TEST(KernelsHostTest, ResiduesAreCenteredAtEveryEdgeOfASum) {
  size_t compared = 0;
  for (const int modulus : {251, 241, 239, 233, 3, 255}) {
    const int32_t limit = std::numeric_limits<int32_t>::max();
    std::vector<int32_t> sums;
    for (int32_t offset = -2 * modulus; offset <= 2 * modulus; ++offset) {
      for (const int32_t base : {-limit + 600, 0, 1 << 20, limit - 600})
        sums.push_back(base + offset);
    }
    std::vector<int8_t> residues(sums.size());
    RunAll(ReduceKernel{sums.data(), 1, residues.data(), 1, modulus, sums.size()});
    for (size_t i = 0; i < sums.size(); ++i, ++compared) {
      ASSERT_EQ(residues[i], Centered(sums[i], modulus)) << sums[i] << " modulo " << modulus;
    }
  }
  EXPECT_EQ(compared, 4u * (4 * (251 + 241 + 239 + 233 + 3 + 255) + 6));
}

TEST(KernelsHostTest, PackingCutsAtTilesAndPadsWithZeros) {
  size_t compared = 0;
  for (const uint64_t rows : {1, 31, 32, 33, 64, 65}) {
    for (const uint64_t columns : {1, 31, 32, 33, 64, 65}) {
      for (const bool is_transposed : {false, true}) {
        for (const uint64_t padding : {0, 1, 15, 40}) {
          std::vector<float> from(rows * columns);
          for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i + 1);
          const uint64_t to_rows = (is_transposed ? columns : rows) + padding;
          const uint64_t to_columns = (is_transposed ? rows : columns) + padding;
          std::vector<float> to(to_rows * to_columns, -1.0f);
          RunAll(PackKernel<float>{from.data(), rows, columns, is_transposed, to.data(), to_rows,
                                   to_columns, PackKernel<float>::SizeOf(to_rows, to_columns)});
          for (uint64_t i = 0; i < to_rows; ++i) {
            for (uint64_t j = 0; j < to_columns; ++j) {
              const uint64_t row = is_transposed ? j : i, column = is_transposed ? i : j;
              const float expected =
                  row < rows && column < columns ? from[row * columns + column] : 0.0f;
              ASSERT_EQ(to[i * to_columns + j], expected);
            }
          }
          ++compared;
        }
      }
    }
  }
  EXPECT_EQ(compared, 6u * 6 * 2 * 4);
}

}  // namespace
}  // namespace pavise::offload::cuda
