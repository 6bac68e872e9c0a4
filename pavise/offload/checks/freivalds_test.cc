#include "pavise/offload/checks/freivalds.h"

#include <array>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/checks/sketch.h"
#include "pavise/offload/testing/plain_worker.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::offload {
namespace {

using testing::Product64;
using testing::RandomMatrix;
using testing::StreamOf;

// Passes of `trials` with probability `p` each: within five deviations, and one more.
void ExpectBinomial(size_t passed, size_t trials, double p, std::string_view what) {
  const double n = static_cast<double>(trials);
  EXPECT_NEAR(static_cast<double>(passed), n * p, 5 * std::sqrt(n * p * (1 - p)) + 1)
      << std::string(what) << ": " << passed << " of " << trials << ", expected " << n * p;
}

TEST(SoundnessTest, ChiSquaredIsTheTables) {
  EXPECT_NEAR(ChiSquaredCdf(1.386294, 2), 0.5, 1e-6);
  EXPECT_NEAR(ChiSquaredCdf(7.344121, 8), 0.5, 1e-6);
  EXPECT_NEAR(ChiSquaredCdf(15.507313, 8), 0.95, 1e-6);
  EXPECT_NEAR(ChiSquaredCdf(0.02, 8) / (std::pow(0.01, 4) / 24), 1, 0.01);  // small: x^4 / 384
  EXPECT_EQ(ChiSquaredCdf(0, 2), 0);
  for (const size_t vectors : {2, 4, 8}) {
    FloatCheck check;
    check.vectors = vectors;
    EXPECT_NEAR(1 - ChiSquaredCdf(check.Threshold(), vectors), 1e-12, 2e-13);
    check.false_alarm = 0.05;
    EXPECT_NEAR(1 - ChiSquaredCdf(check.Threshold(), vectors), 0.05, 1e-9);
  }
  EXPECT_EQ(FloatCheck::For(DType::kFp32).vectors, 2u);
  EXPECT_EQ(FloatCheck::For(DType::kBf16).vectors, 8u);
  EXPECT_EQ(FloatCheck::For(DType::kFp16).vectors, 8u);
}

TEST(SoundnessTest, IsPrintedAsSizesAndProbabilities) {
  for (const DType type : {DType::kFp32, DType::kFp16, DType::kBf16}) {
    const FloatCheck check = FloatCheck::For(type);
    const auto points = SoundnessOf(check, type, 768);
    ASSERT_GE(points.size(), 4u);
    EXPECT_NEAR(points[0].pass_probability, 1, 1e-11) << "an honest worker passes";
    EXPECT_LE(points.back().pass_probability, 1e-9);
    for (size_t i = 1; i < points.size(); ++i) {
      EXPECT_LT(points[i].pass_probability, points[i - 1].pass_probability + 1e-15);
    }
    EXPECT_THAT(DescribeSoundness(check, type, 768), ::testing::HasSubstr("found in 999 of 1000"));
  }
}

TEST(ModularFreivaldsTest, ProductsPassAndEveryChangedElementIsFound) {
  std::mt19937_64 random(1);
  SecretStream stream = StreamOf(1);
  int found = 0;
  for (const int modulus : kModuli) {
    auto a = ResidueMatrix::Create(17, 31, "a").value();
    auto b = ResidueMatrix::Create(31, 13, "b").value();
    ASSERT_TRUE(stream.FillResidues(modulus, a.values()).ok());
    ASSERT_TRUE(stream.FillResidues(modulus, b.values()).ok());
    for (const Operation operation :
         {Operation::kPlain, Operation::kTransposeRight, Operation::kTransposeLeft}) {
      // The operands of the three products of which y is the result.
      const auto product = ModularProduct(Operation::kPlain, a, b, modulus).value();
      const auto& left = operation == Operation::kTransposeRight ? product : a;
      const auto& right = operation == Operation::kTransposeLeft ? product : b;
      auto y = ModularProduct(operation, left, right, modulus).value();
      const auto check = [&] {
        return CheckModularProduct(operation, left, right, y, modulus, kModularVectors, stream,
                                   "layer 1");
      };
      ASSERT_TRUE(check().ok());
      for (int trial = 0; trial < 100; ++trial) {
        int8_t& value = y.values()[random() % y.values().size()];
        const int8_t before = value;
        value = Centered(
            before + 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(modulus - 1)),
            modulus);
        const absl::Status status = check();
        ASSERT_EQ(ReasonOf(status), Reason::kResultWrong);
        ASSERT_EQ(RefusalsOf(status)[0].item, "layer 1");
        value = before;
        ++found;
      }
      y.values()[5] = static_cast<int8_t>(modulus / 2 + 1);
      EXPECT_EQ(ReasonOf(check()), Reason::kMalformed);
      const auto wrong = ResidueMatrix::Create(y.rows() + 1, y.columns(), "y").value();
      EXPECT_EQ(
          ExitCodeOf(CheckModularProduct(operation, left, right, wrong, modulus, 5, stream, "x")),
          2);
    }
  }
  EXPECT_EQ(found, 4 * 3 * 100);
}

// The stated error of one vector, 1 / p; the worst case is a change in one column.
TEST(ModularFreivaldsTest, OneVectorPassesOneInP) {
  SecretStream stream = StreamOf(2);
  const int modulus = 239;
  auto a = ResidueMatrix::Create(3, 2, "a").value();
  auto b = ResidueMatrix::Create(2, 2, "b").value();
  ASSERT_TRUE(stream.FillResidues(modulus, a.values()).ok());
  ASSERT_TRUE(stream.FillResidues(modulus, b.values()).ok());
  auto y = ModularProduct(Operation::kPlain, a, b, modulus).value();
  // e0 - e1, which vectors of +-1 would miss half the time.
  y(1, 0) = Centered(y(1, 0) + 1, modulus);
  y(1, 1) = Centered(y(1, 1) - 1, modulus);
  const size_t trials = 100'000;
  for (const size_t vectors : {1, 2}) {
    size_t passed = 0;
    for (size_t i = 0; i < trials; ++i) {
      passed += CheckModularProduct(Operation::kPlain, a, b, y, modulus, vectors, stream, "x").ok();
    }
    ExpectBinomial(passed, trials, std::pow(239.0, -static_cast<double>(vectors)), "modular");
  }
}

// An honest worker: fp32 operands (rounded to `type` as they travel), sums in fp32 one after the
// other, the result rounded to `type`.
Matrix Rounded(const Matrix& m, DType type) {
  return UnpackMatrix(PackMatrix(m, type, "m").value(), type, m.rows(), m.columns(), "m").value();
}
Matrix HonestProduct(const Matrix& x, const Matrix& w, DType type) {
  Matrix y = Matrix::Create(x.rows(), w.columns(), "y").value();
  for (size_t i = 0; i < x.rows(); ++i) {
    for (size_t k = 0; k < x.columns(); ++k) {
      for (size_t j = 0; j < w.columns(); ++j) y(i, j) += x(i, k) * w(k, j);
    }
  }
  return Rounded(y, type);
}

TEST(FloatFreivaldsTest, HonestWorkersPassAtEveryShape) {
  SecretStream stream = StreamOf(3);
  int checked = 0;
  for (const DType type : {DType::kFp32, DType::kFp16, DType::kBf16}) {
    const FloatCheck check = FloatCheck::For(type);
    for (const auto& [m, k, n] : std::vector<std::array<size_t, 3>>{{1, 1, 1},
                                                                    {3, 1, 65},
                                                                    {1, 197, 1},
                                                                    {65, 63, 3},
                                                                    {64, 768, 64},
                                                                    {5, 4096, 9},
                                                                    {9, 5, 1000}}) {
      for (const bool is_positive : {false, true}) {
        Matrix x = RandomMatrix(m, k, m + k);
        Matrix w = RandomMatrix(k, n, k + n);
        // Positive operands: sums grow steadily, and so do their roundings.
        if (is_positive) {
          for (float& value : x.values()) value = std::abs(value);
          for (float& value : w.values()) value = std::abs(value);
        }
        x = Rounded(x, type);
        w = Rounded(w, type);
        const Matrix y = HonestProduct(x, w, type);
        // Sigma is a bound on the error itself, row by row.
        const double w_norm = Norm(RowNorms(w));
        for (size_t i = 0; i < m; ++i) {
          double square = 0;
          for (size_t j = 0; j < n; ++j) {
            double exact = 0;
            for (size_t l = 0; l < k; ++l) exact += double{x(i, l)} * w(l, j);
            square += std::pow(y(i, j) - exact, 2);
          }
          ASSERT_LE(std::sqrt(square),
                    check.Sigma(type, k, RowNorms(y)[i], RowNorms(x)[i], w_norm));
        }
        EXPECT_TRUE(CheckProduct(check, Operation::kPlain, x, w, y, type, stream, "layer").ok())
            << std::string(DTypeName(type)) << " " << m << " " << k << " " << n;
        ++checked;
      }
    }
  }
  EXPECT_EQ(checked, 3 * 7 * 2);
}

// The stated probabilities, at the stated sizes: tampering of one row by a multiple of its sigma,
// in a random direction, in one element, and in e0 - e1.
TEST(FloatFreivaldsTest, TamperingPassesAsOftenAsStated) {
  const size_t m = 2, k = 40, n = 32;
  size_t points_compared = 0;
  for (const DType type : {DType::kFp32, DType::kFp16, DType::kBf16}) {
    const FloatCheck check = FloatCheck::For(type);
    const Matrix x = RandomMatrix(m, k, 1);
    const Matrix w = RandomMatrix(k, n, 2);
    const double w_norm = Norm(RowNorms(w));
    SecretStream stream = StreamOf(4);
    for (const double sigmas : {2.0, 4.0, 8.0, 16.0, 64.0}) {
      for (int direction = 0; direction < 3; ++direction) {
        size_t passed = 0;
        double expected = 0;
        const size_t trials = 2000;
        for (size_t trial = 0; trial < trials; ++trial) {
          Matrix y = Product64(Operation::kPlain, x, w);
          Matrix e = Matrix::Create(1, n, "e").value();
          if (direction == 0) e = RandomMatrix(1, n, 100 + trial);
          if (direction == 1) e(0, trial % n) = 1;
          if (direction == 2) {
            e(0, 0) = 1;
            e(0, 1) = -1;
          }
          const double sigma = check.Sigma(type, k, RowNorms(y)[1], RowNorms(x)[1], w_norm);
          const double size = sigmas * sigma / RowNorms(e)[0];
          for (size_t j = 0; j < n; ++j) y(1, j) += static_cast<float>(size * e(0, j));
          // Its own norm decides the tolerance, and fp32 what was added: measure both.
          const Matrix honest = Product64(Operation::kPlain, x, w);
          double off = 0;
          for (size_t j = 0; j < n; ++j) off += std::pow(double{y(1, j)} - honest(1, j), 2);
          const double now = check.Sigma(type, k, RowNorms(y)[1], RowNorms(x)[1], w_norm);
          expected += check.PassProbability(std::sqrt(off) / now) / static_cast<double>(trials);
          passed += CheckProduct(check, Operation::kPlain, x, w, y, type, stream, "layer").ok();
        }
        ExpectBinomial(passed, trials, expected,
                       StrCat(DTypeName(type), " ", sigmas, " sigma, direction ", direction));
        ++points_compared;
      }
    }
  }
  EXPECT_EQ(points_compared, 3u * 5 * 3);
}

TEST(FloatFreivaldsTest, WhatIsNoNumberAndOtherShapesAreRefused) {
  SecretStream stream = StreamOf(5);
  const FloatCheck check;
  const Matrix x = RandomMatrix(3, 4, 1);
  const Matrix w = RandomMatrix(4, 5, 2);
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    Matrix y = Product64(Operation::kPlain, x, w);
    y(2, 4) = bad;
    EXPECT_EQ(ReasonOf(CheckProduct(check, Operation::kPlain, x, w, y, DType::kBf16, stream, "x")),
              Reason::kMalformed);
  }
  // Finite, but so large that the float64 sums are too: not a pass.
  Matrix huge = Product64(Operation::kPlain, x, w);
  for (float& value : huge.values()) value = 3e38f;
  EXPECT_EQ(ReasonOf(CheckProduct(check, Operation::kPlain, x, w, huge, DType::kBf16, stream, "x")),
            Reason::kResultWrong);
  EXPECT_EQ(ExitCodeOf(CheckProduct(check, Operation::kPlain, x, w, RandomMatrix(4, 5, 1),
                                    DType::kBf16, stream, "x")),
            2);
  EXPECT_EQ(ExitCodeOf(CheckProduct(check, Operation::kPlain, w, x, RandomMatrix(4, 4, 1),
                                    DType::kBf16, stream, "x")),
            2);
  // An all-zero product is exact.
  const Matrix zeros = Matrix::Create(3, 4, "zeros").value();
  Matrix nothing = Matrix::Create(3, 5, "zeros").value();
  EXPECT_TRUE(
      CheckProduct(check, Operation::kPlain, zeros, w, nothing, DType::kBf16, stream, "x").ok());
  nothing(0, 0) = 1e-30f;
  EXPECT_EQ(ReasonOf(CheckProduct(check, Operation::kPlain, zeros, w, nothing, DType::kFp32, stream,
                                  "x")),
            Reason::kResultWrong);
}

TEST(SketchTest, ProductsAreThoseOfPlainCode) {
  int compared = 0;
  for (const auto& [rows, columns] :
       std::vector<std::pair<size_t, size_t>>{{1, 1}, {3, 5}, {4, 64}, {65, 7}, {66, 197}}) {
    const Matrix m = RandomMatrix(rows, columns, rows);
    for (const size_t vectors : {1, 2, 3, 8, 10, 17}) {
      SecretStream stream = StreamOf(6);
      const Sketch right = DrawVectors(columns, vectors, stream).value();
      const Sketch left = DrawVectors(rows, vectors, stream).value();
      const Sketch product = Times(m, right);
      const Sketch transposed = TransposedTimes(m, left);
      for (size_t v = 0; v < vectors; ++v) {
        for (size_t i = 0; i < rows; ++i) {
          double sum = 0;
          for (size_t j = 0; j < columns; ++j) sum += double{m(i, j)} * right.Row(j)[v];
          ASSERT_NEAR(product.Row(i)[v], sum, 1e-12 * (1 + static_cast<double>(columns)));
        }
        for (size_t j = 0; j < columns; ++j) {
          double sum = 0;
          for (size_t i = 0; i < rows; ++i) sum += double{m(i, j)} * left.Row(i)[v];
          ASSERT_NEAR(transposed.Row(j)[v], sum, 1e-12 * (1 + static_cast<double>(rows)));
        }
      }
      ++compared;
    }
  }
  EXPECT_EQ(compared, 30);
}

TEST(FreivaldsTest, TransposedProductsInFloats) {
  SecretStream stream = StreamOf(8);
  const FloatCheck check = FloatCheck::For(DType::kBf16);
  int found = 0;
  for (const Operation operation : {Operation::kTransposeRight, Operation::kTransposeLeft}) {
    const bool right = operation == Operation::kTransposeRight;
    const Matrix a = RandomMatrix(9, 14, 1);
    const Matrix b = right ? RandomMatrix(11, 14, 2) : RandomMatrix(9, 11, 2);
    Matrix y = Product64(operation, a, b);
    EXPECT_TRUE(CheckProduct(check, operation, a, b, y, DType::kBf16, stream, "product").ok());
    y(3, 2) += 3;
    EXPECT_EQ(ReasonOf(CheckProduct(check, operation, a, b, y, DType::kBf16, stream, "product")),
              Reason::kResultWrong);
    EXPECT_EQ(ExitCodeOf(
                  CheckProduct(check, Operation::kPlain, a, b, y, DType::kBf16, stream, "product")),
              2);
    ++found;
  }
  EXPECT_EQ(found, 2);
}

}  // namespace
}  // namespace pavise::offload
