#include "pavise/offload/residues.h"

#include <random>

#include "pavise/base/status.h"

#include "gtest/gtest.h"

namespace pavise::offload {
namespace {

TEST(ResiduesTest, IntegersComeBackAtTheEndsOfTheRange) {
  std::mt19937_64 random(3);
  int compared = 0;
  for (const size_t count : {size_t{3}, size_t{4}}) {
    const int64_t largest = LargestInteger(count);
    EXPECT_EQ(largest, count == 3 ? 7'228'674 : 1'684'281'158);
    std::vector<int64_t> values = {0, 1, -1, 125, -126, largest - 1, largest, -largest};
    for (int i = 0; i < 2000; ++i) {
      values.push_back(static_cast<int64_t>(random() % static_cast<uint64_t>(2 * largest + 1)) -
                       largest);
    }
    for (const int64_t value : values) {
      std::vector<int8_t> residues;
      for (size_t p = 0; p < count; ++p) {
        residues.push_back(Centered(value, kModuli[p]));
        ASSERT_LE(std::abs(residues[p]), kModuli[p] / 2);
      }
      ASSERT_EQ(CombineResidues(residues), value);
      ++compared;
    }
  }
  EXPECT_EQ(compared, 2 * 2008);
}

TEST(ResiduesTest, WithoutDivisionIsTheSame) {
  constexpr int32_t kLimit = 1 << 20;
  size_t compared = 0;
  for (const int modulus : kModuli) {
    for (int32_t value = -kLimit; value <= kLimit; ++value) {
      ASSERT_EQ(CenteredSmall(value, modulus), Centered(value, modulus)) << value << modulus;
      ++compared;
    }
  }
  EXPECT_EQ(compared, kModuli.size() * (2 * kLimit + 1));
}

// The facts' example: 8 bits by 8 bits leave three moduli for more than 448 terms.
TEST(ResiduesTest, LayersThatLeaveTheRangeTakeAFourthModulusOrAreRefused) {
  EXPECT_EQ(ModuliFor("layer", 448, 127).value(), 3u);
  EXPECT_EQ(ModuliFor("layer", 449, 127).value(), 4u);
  EXPECT_EQ(ModuliFor("layer", 104'425, 127).value(), 4u);
  const auto refused = ModuliFor("layer", 104'426, 127);
  EXPECT_EQ(ReasonOf(refused.status()), Reason::kLimitExceeded);
  EXPECT_FALSE(RefusalsOf(refused.status())[0].remedy.empty());
  EXPECT_EQ(ModuliFor("layer", kMaxInnerResidues, 100).value(), 4u);
  EXPECT_EQ(ReasonOf(ModuliFor("layer", kMaxInnerResidues + 1, 1).status()),
            Reason::kLimitExceeded);
  for (const uint64_t inner : {1, 3, 448, 768, 100'000}) {
    const int64_t level = LargestLevel(inner, 4);
    const int64_t terms = static_cast<int64_t>(inner);
    EXPECT_LE(level * level * terms, LargestInteger(4));
    if (level < kMaxLevel) {
      EXPECT_GT((level + 1) * (level + 1) * terms, LargestInteger(4));
    }
  }
}

TEST(ResiduesTest, SumsAtTheirLongestAreExact) {
  auto a = ResidueMatrix::Create(1, kMaxInnerResidues, "a").value();
  for (int8_t& value : a.values()) value = 125;
  const auto product = ModularProduct(Operation::kTransposeRight, a, a, 251).value();
  EXPECT_EQ(product(0, 0), Centered(int64_t{125} * 125 * (int64_t{1} << 17), 251));
  const auto longer = ResidueMatrix::Create(1, kMaxInnerResidues + 1, "a").value();
  EXPECT_EQ(ReasonOf(ModularProduct(Operation::kTransposeRight, longer, longer, 251).status()),
            Reason::kLimitExceeded);
  EXPECT_EQ(ExitCodeOf(ModularProduct(Operation::kPlain, a, a, 251).status()), 2);
}

}  // namespace
}  // namespace pavise::offload
