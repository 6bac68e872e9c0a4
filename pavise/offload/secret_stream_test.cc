#include "pavise/offload/secret_stream.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/offload/testing/plain_worker.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::offload {
namespace {

using testing::StreamOf;

// RFC 8439, appendix A.1, test vectors 1 and 2: key and nonce of zeros, block counters 0 and 1.
TEST(SecretStreamTest, IsTheKeyStreamOfRfc8439) {
  SecretStream stream = SecretStream::FromKey(SecretBytes(Bytes(32))).value();
  Bytes drawn(128);
  ASSERT_TRUE(stream.Fill(std::span(drawn).first(7)).ok());
  ASSERT_TRUE(stream.Fill(std::span(drawn).subspan(7)).ok());
  EXPECT_EQ(ToHex(drawn),
            "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
            "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
            "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
            "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f");
}

TEST(SecretStreamTest, TheKeyDecidesEverything) {
  SecretStream a = StreamOf(1);
  SecretStream b = StreamOf(1);
  SecretStream c = StreamOf(2);
  EXPECT_EQ(a.Permutation(100).value(), b.Permutation(100).value());
  EXPECT_EQ(a.Gaussians(9).value(), b.Gaussians(9).value());
  EXPECT_NE(a.Signs(100).value(), c.Signs(100).value());
  // Derived streams depend on key and label, not on what was drawn.
  SecretStream layer = a.Derive("layer").value();
  EXPECT_EQ(layer.Below(1000, 20).value(), StreamOf(1).Derive("layer")->Below(1000, 20).value());
  EXPECT_NE(layer.Below(1000, 20).value(), StreamOf(1).Derive("layer2")->Below(1000, 20).value());
  EXPECT_NE(StreamOf(2).Derive("layer")->Below(1000, 20).value(),
            StreamOf(1).Derive("layer")->Below(1000, 20).value());
}

TEST(SecretStreamTest, OtherKeysAndBoundsAreUsageErrors) {
  for (const size_t size_bytes : {0, 31, 33}) {
    EXPECT_EQ(ExitCodeOf(SecretStream::FromKey(SecretBytes(Bytes(size_bytes))).status()), 2);
  }
  SecretStream stream = StreamOf(1);
  std::array<int8_t, 4> residues;
  EXPECT_EQ(ExitCodeOf(stream.Below(0, 1).status()), 2);
  for (const int modulus : {-1, 1, 250, 257}) {
    EXPECT_EQ(ExitCodeOf(stream.FillResidues(modulus, residues)), 2) << modulus;
  }
}

class FailingSource final : public RandomSource {
 public:
  absl::Status Fill(std::span<uint8_t>) override { return MachineFailure("random", "none"); }
};

TEST(SecretStreamTest, WithoutRandomnessThereIsNoStream) {
  FailingSource source;
  EXPECT_EQ(ExitCodeOf(SecretStream::Random(source).status()), 3);
  SecretStream a = SecretStream::Random(SystemRandom()).value();
  SecretStream b = SecretStream::Random(SystemRandom()).value();
  EXPECT_NE(a.Below(1000, 20).value(), b.Below(1000, 20).value());
}

// The statistic's mean is `cells` - 1 and its variance twice that; six deviations above it.
void ExpectUniform(const std::vector<size_t>& counts) {
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  const double expected = total / static_cast<double>(counts.size());
  double statistic = 0;
  for (const size_t count : counts) {
    statistic += std::pow(static_cast<double>(count) - expected, 2) / expected;
  }
  const double freedom = static_cast<double>(counts.size() - 1);
  EXPECT_LT(statistic, freedom + 6 * std::sqrt(2 * freedom));
}

TEST(SecretStreamTest, DrawsAreUniform) {
  SecretStream stream = StreamOf(7);
  for (const uint32_t bound : {2u, 3u, 100u}) {
    std::vector<size_t> counts(bound);
    const auto numbers = stream.Below(bound, 100'000).value();
    for (const uint32_t number : numbers) ++counts[number];
    ExpectUniform(counts);
  }
  for (const int modulus : {3, 233, 251, 255}) {
    std::vector<int8_t> residues(100'000);
    ASSERT_TRUE(stream.FillResidues(modulus, residues).ok());
    std::vector<size_t> counts(static_cast<size_t>(modulus));
    for (const int8_t residue : residues) ++counts[static_cast<size_t>(residue + modulus / 2)];
    ExpectUniform(counts);
  }
  std::map<std::vector<uint32_t>, size_t> orders;
  for (int i = 0; i < 24'000; ++i) ++orders[stream.Permutation(4).value()];
  std::vector<size_t> counts;
  for (const auto& [order, count] : orders) counts.push_back(count);
  ASSERT_EQ(counts.size(), 24u);
  ExpectUniform(counts);
  std::vector<size_t> signs(2);
  const auto drawn = stream.Signs(100'000).value();
  for (const float sign : drawn) {
    ASSERT_EQ(std::abs(sign), 1);
    ++signs[sign > 0];
  }
  ExpectUniform(signs);
}

TEST(SecretStreamTest, GaussiansHaveTheirMomentsAndTails) {
  const auto numbers = StreamOf(11).Gaussians(200'001).value();
  double sum = 0, square = 0, fourth = 0;
  size_t beyond_two = 0;
  for (const double x : numbers) {
    sum += x;
    square += x * x;
    fourth += x * x * x * x;
    beyond_two += std::abs(x) > 2;
  }
  const double n = static_cast<double>(numbers.size());
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(square / n, 1, 5 * std::sqrt(2 / n));
  EXPECT_NEAR(fourth / n, 3, 5 * std::sqrt(96 / n));
  EXPECT_NEAR(static_cast<double>(beyond_two) / n, 0.0455, 5 * std::sqrt(0.0434 / n));
}

}  // namespace
}  // namespace pavise::offload
