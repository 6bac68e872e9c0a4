#include "pavise/offload/fused_pass.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/cpu/sketch_products.h"
#include "pavise/offload/none.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/shared.h"
#include "pavise/offload/tempo.h"
#include "pavise/offload/testing/plain_worker.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::offload {
namespace {

using testing::RandomMatrix;
using testing::RelativeDifference;
using testing::StreamOf;

// Activations in fp32 with the normal distribution within 2e-7, norms in fp32, Hadamard sums in
// another order.
constexpr double kTolerance = 3e-6;

// Two layers of one batch, whose steps share their grouping: `columns` is the first's outputs and
// the second's inputs.
struct TwoLayers {
  TwoLayers(const Scheme& scheme, size_t rows, size_t columns, uint64_t seed,
            size_t positions = 1) {
    const auto step_of = [&](std::unique_ptr<Layer>& layer, uint64_t s) {
      layer = scheme
                  .NewLayer("layer", {.inputs = columns, .outputs = columns, .max_rows = rows},
                            StreamOf(s))
                  .value();
      StepShape shape = {
          .samples = rows / positions, .input_positions = positions, .output_positions = positions};
      shape.grouping = StreamOf(seed).Permutation(shape.samples).value();
      return layer->NewStep(shape, Use::kTraining).value();
    };
    before = step_of(layer_before, seed + 1);
    after = step_of(layer_after, seed + 2);
  }
  std::unique_ptr<Layer> layer_before, layer_after;
  std::unique_ptr<Step> before, after;
};

Matrix Zeros(size_t rows, size_t columns) { return Matrix::Create(rows, columns, "test").value(); }
std::vector<float> Vector(size_t size, uint64_t seed) {
  const Matrix values = RandomMatrix(1, size, seed);
  return {values.values().begin(), values.values().end()};
}
MatrixView RowOf(const std::vector<float>& values) {
  return {values.data(), 1, values.size(), values.size()};
}

struct Outputs {
  Matrix out, sum, plain;
  std::vector<uint16_t> bf16;
  std::vector<float> bias, gamma, beta;
};

enum class Kind { kForward, kForwardNorm, kBackward, kBackwardNorm };

// One pass with everything that its kind allows, by the kernel or by plain code.
Outputs RunPass(const TwoLayers& layers, size_t rows, size_t columns, Kind kind,
                Activation activation, bool is_bf16, bool is_kernel) {
  const Matrix in = RandomMatrix(rows, columns, 10);
  const Matrix residual = RandomMatrix(rows, columns, 11);
  const Matrix saved = RandomMatrix(rows, columns, 12);
  const std::vector<float> bias = Vector(columns, 13);
  const std::vector<float> gamma = Vector(columns, 14);
  const std::vector<float> beta = Vector(columns, 15);
  Outputs o = {Zeros(rows, columns),
               Zeros(rows, columns),
               Zeros(rows, columns),
               std::vector<uint16_t>(rows * columns),
               {},
               {},
               {}};
  FusedPass pass;
  pass.rows = rows;
  pass.columns = columns;
  pass.in = in;
  pass.residual = residual;
  pass.plain = o.plain.view();
  const bool is_norm = kind == Kind::kForwardNorm || kind == Kind::kBackwardNorm;
  if (is_norm) {
    pass.gamma = gamma;
    pass.beta = beta;
  } else {
    pass.activation = activation;
  }
  pass.is_backward = kind == Kind::kBackward || kind == Kind::kBackwardNorm;
  if (pass.is_backward) {
    if (is_norm || activation != Activation::kNone) pass.saved = saved;
    o.bias.resize(columns);
    pass.bias_gradient = o.bias;
    if (is_norm) {
      o.gamma.resize(columns);
      o.beta.resize(columns);
      pass.gamma_gradient = o.gamma;
      pass.beta_gradient = o.beta;
    }
  } else {
    pass.bias = bias;
    // With and without `sum` are two ways through the kernel.
    if (activation != Activation::kRelu) pass.sum = o.sum.view();
  }
  // Backward the second layer's input gradients become the first's output gradients.
  pass.decode = pass.is_backward ? layers.after->keys(Wire::kInputGradients)
                                 : layers.before->keys(Wire::kOutputs);
  pass.encode = pass.is_backward ? layers.before->keys(Wire::kOutputGradients)
                                 : layers.after->keys(Wire::kInputs);
  if (is_bf16) {
    pass.out_bf16 = {o.bf16.data(), rows, columns, columns};
  } else {
    pass.out = o.out.view();
  }
  if (!is_kernel) {
    EXPECT_TRUE(RunPlainPass(pass).ok());
    return o;
  }
  EXPECT_TRUE(KernelSupports(pass));
  // In two calls, as two threads would.
  FusedWorkspace workspace;
  const size_t parts = PartsOf(pass);
  EXPECT_TRUE(RunFusedPass(pass, parts / 2, parts, workspace).ok());
  EXPECT_TRUE(RunFusedPass(pass, 0, parts / 2, workspace).ok());
  return o;
}

class FusedPassTest : public ::testing::Test {
 protected:
  ~FusedPassTest() override { ForceFusedPassTarget(""); }
};

TEST_F(FusedPassTest, KernelsAgreeWithPlainCode) {
  std::vector<std::unique_ptr<Scheme>> schemes;
  schemes.push_back(NewNoneScheme());
  schemes.push_back(NewTempoScheme().value());
  schemes.push_back(NewOrthogonalScheme().value());
  schemes.push_back(NewOrthogonalScheme({.rounds = 3}).value());
  ASSERT_FALSE(ForceFusedPassTarget("no such target"));
  size_t compared = 0;
  const auto targets = FusedPassTargets();
  for (const std::string_view target : targets) {
    ASSERT_TRUE(ForceFusedPassTarget(target));
    EXPECT_EQ(FusedPassTarget(), target);
    for (const auto& scheme : schemes) {
      for (const auto& [samples, columns, positions] :
           std::vector<std::array<size_t, 3>>{{64, 64, 1},
                                              {65, 80, 1},
                                              {63 + 64, 65, 1},
                                              {197, 197, 1},
                                              {128, 129, 1},
                                              {1, 1, 1},
                                              {3, 17, 1},
                                              {16, 15, 1},
                                              {64, 80, 2},
                                              {65, 64, 3},
                                              {3, 17, 7}}) {
        if (scheme->name() == "orthogonal" && samples < 64) continue;
        const size_t rows = samples * positions;
        const TwoLayers layers(*scheme, rows, columns, 5, positions);
        for (const Kind kind :
             {Kind::kForward, Kind::kForwardNorm, Kind::kBackward, Kind::kBackwardNorm}) {
          for (const Activation activation :
               {Activation::kNone, Activation::kRelu, Activation::kGelu}) {
            SCOPED_TRACE(StrCat(target, " ", scheme->name(), " ", rows, " x ", columns, " kind ",
                                static_cast<int>(kind), " activation ",
                                static_cast<int>(activation)));
            const Outputs kernel = RunPass(layers, rows, columns, kind, activation, false, true);
            const Outputs plain = RunPass(layers, rows, columns, kind, activation, false, false);
            // A norm over one column is 0 times a rounding error.
            const double tolerance = columns == 1 ? 1e-2 : kTolerance;
            ASSERT_LT(RelativeDifference(kernel.out, plain.out), tolerance);
            ASSERT_LT(RelativeDifference(kernel.plain, plain.plain), tolerance);
            ASSERT_LT(RelativeDifference(kernel.sum, plain.sum), kTolerance);
            ASSERT_LT(RelativeDifference(RowOf(kernel.bias), RowOf(plain.bias)), 4 * tolerance);
            ASSERT_LT(RelativeDifference(RowOf(kernel.gamma), RowOf(plain.gamma)), 4 * tolerance);
            ASSERT_LT(RelativeDifference(RowOf(kernel.beta), RowOf(plain.beta)), 4 * kTolerance);
            ++compared;
          }
        }
      }
    }
  }
  EXPECT_EQ(compared, targets.size() * (2 * 11 + 2 * 7) * 4 * 3);
}

// Memory that ends where the next page, which nobody may touch, begins.
template <typename T>
class Guarded {
 public:
  explicit Guarded(size_t count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t used = (count * sizeof(T) + page - 1) / page * page;
    size_ = used + page;
    void* const mapped =
        mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(mapped, MAP_FAILED);
    base_ = static_cast<uint8_t*>(mapped);
    EXPECT_EQ(mprotect(base_ + used, page, PROT_NONE), 0);
    data = reinterpret_cast<T*>(base_ + used) - count;
  }
  ~Guarded() { munmap(base_, size_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data = nullptr;

 private:
  uint8_t* base_ = nullptr;
  size_t size_ = 0;
};

TEST_F(FusedPassTest, KernelsStayInsideOfWhatTheyAreGiven) {
  std::vector<std::unique_ptr<Scheme>> schemes;
  schemes.push_back(NewNoneScheme());
  schemes.push_back(NewTempoScheme().value());
  schemes.push_back(NewOrthogonalScheme().value());
  size_t ran = 0;
  const auto targets = FusedPassTargets();
  for (const std::string_view target : targets) {
    ASSERT_TRUE(ForceFusedPassTarget(target));
    for (const auto& scheme : schemes) {
      for (const auto& [rows, columns] :
           std::vector<std::pair<size_t, size_t>>{{64, 64}, {65, 65}, {127, 79}, {197, 130}}) {
        const TwoLayers layers(*scheme, rows, columns, 5);
        const size_t count = rows * columns;
        const Guarded<float> in(count), residual(count), kept(count), out(count), vector(columns);
        const Guarded<float> gradients(columns);
        const Guarded<uint16_t> out_bf16(count);
        const auto view = [&, r = rows, c = columns](const auto& memory) {
          return ViewOf<std::remove_pointer_t<decltype(memory.data)>>{memory.data, r, c, c};
        };
        for (const bool is_backward : {false, true}) {
          FusedPass pass;
          pass.rows = rows;
          pass.columns = columns;
          pass.in = view(in);
          pass.residual = view(residual);
          pass.is_backward = is_backward;
          pass.gamma = pass.beta = {vector.data, columns};
          if (is_backward) {
            pass.saved = view(kept);
            pass.bias_gradient = pass.gamma_gradient =
                pass.beta_gradient = {gradients.data, columns};
            pass.out = view(out);
          } else {
            pass.bias = {vector.data, columns};
            pass.sum = view(kept);
            pass.plain = view(out);
            pass.out_bf16 = view(out_bf16);
          }
          pass.decode = layers.before->keys(is_backward ? Wire::kInputGradients : Wire::kOutputs);
          pass.encode = layers.after->keys(is_backward ? Wire::kOutputGradients : Wire::kInputs);
          FusedWorkspace workspace;
          ASSERT_TRUE(RunFusedPass(pass, 0, PartsOf(pass), workspace).ok());
          ++ran;
        }
      }
    }
  }
  EXPECT_EQ(ran, targets.size() * 3 * 4 * 2);
}

// bf16 is the kernel's own fp32, rounded.
TEST_F(FusedPassTest, Bf16IsTheRoundedResult) {
  for (const std::string_view target : FusedPassTargets()) {
    ASSERT_TRUE(ForceFusedPassTarget(target));
    const auto scheme = NewOrthogonalScheme().value();
    const TwoLayers layers(*scheme, 100, 77, 5);
    for (const Kind kind : {Kind::kForward, Kind::kBackwardNorm}) {
      const Outputs wide = RunPass(layers, 100, 77, kind, Activation::kGelu, false, true);
      const Outputs narrow = RunPass(layers, 100, 77, kind, Activation::kGelu, true, true);
      for (size_t i = 0; i < narrow.bf16.size(); ++i) {
        ASSERT_EQ(narrow.bf16[i], Bf16FromFloat(wide.out.values()[i])) << target << " " << i;
      }
    }
  }
}

// A pass that only encodes is EncodeInputs, one that only decodes DecodeOutputs; and both are what
// plain code makes of them.
TEST_F(FusedPassTest, HalvesOfAPassAreTheSchemesOwn) {
  std::vector<std::unique_ptr<Scheme>> schemes;
  schemes.push_back(NewTempoScheme().value());
  schemes.push_back(NewOrthogonalScheme().value());
  for (const auto& scheme : schemes) {
    const size_t rows = 130, columns = 70;
    const TwoLayers layers(*scheme, rows, columns, 3);
    const Matrix x = RandomMatrix(rows, columns, 1);
    Matrix out = Zeros(rows, columns);
    FusedPass pass;
    pass.rows = rows;
    pass.columns = columns;
    pass.in = x;
    pass.encode = layers.after->keys(Wire::kInputs);
    pass.out = out.view();
    FusedWorkspace workspace;
    ASSERT_TRUE(RunFusedPass(pass, 0, PartsOf(pass), workspace).ok());
    const Matrix encoded = layers.after->EncodeInputs(x).value()[0].values;
    EXPECT_EQ(out, encoded);
    ASSERT_TRUE(RunPlainPass(pass).ok());
    EXPECT_LT(RelativeDifference(out, encoded), kTolerance);
    pass.encode = {};
    pass.decode = layers.before->keys(Wire::kOutputs);
    ASSERT_TRUE(RunFusedPass(pass, 0, PartsOf(pass), workspace).ok());
    Encoding encoding(1);
    encoding[0].values = x;
    const Matrix decoded = layers.before->DecodeOutputs(encoding).value();
    EXPECT_EQ(out, decoded);
    ASSERT_TRUE(RunPlainPass(pass).ok());
    EXPECT_LT(RelativeDifference(out, decoded), kTolerance);
  }
}

// GELU and its derivative between -12 and 12: the kernel's own error, and no NaN far out.
TEST_F(FusedPassTest, GeluIsAccurateEverywhere) {
  const size_t columns = 4801;
  Matrix x = Zeros(2, columns);
  for (size_t j = 0; j < columns; ++j) x(0, j) = static_cast<float>(j) / 200.0f - 12.0f;
  x(1, 0) = 1e30f;
  x(1, 1) = -1e30f;
  Matrix ones = x;
  for (float& value : ones.values()) value = 1;
  for (const std::string_view target : FusedPassTargets()) {
    ASSERT_TRUE(ForceFusedPassTarget(target));
    for (const bool is_backward : {false, true}) {
      Matrix kernel = Zeros(2, columns);
      Matrix plain = Zeros(2, columns);
      FusedPass pass;
      pass.rows = 2;
      pass.columns = columns;
      pass.in = is_backward ? ones : x;
      pass.activation = Activation::kGelu;
      pass.is_backward = is_backward;
      if (is_backward) pass.saved = x;
      pass.out = kernel.view();
      FusedWorkspace workspace;
      ASSERT_TRUE(RunFusedPass(pass, 0, 1, workspace).ok());
      pass.out = plain.view();
      ASSERT_TRUE(RunPlainPass(pass).ok());
      for (size_t i = 0; i < kernel.values().size(); ++i) {
        const float size = std::max(1.0f, std::abs(plain.values()[i]));
        ASSERT_NEAR(kernel.values()[i], plain.values()[i], 1e-6f * size) << x.values()[i];
      }
    }
  }
}

// What was read as bf16 gives, bit for bit, what its values in fp32 give.
TEST_F(FusedPassTest, ReadsBf16AsTheNumbersThatItStandsFor) {
  int compared = 0;
  for (const auto& scheme : {std::shared_ptr<const Scheme>(NewNoneScheme()),
                             std::shared_ptr<const Scheme>(NewTempoScheme().value()),
                             std::shared_ptr<const Scheme>(NewOrthogonalScheme().value())}) {
    for (const auto& [rows, columns] :
         {std::pair<size_t, size_t>{70, 67}, {64, 128}, {3, 5}, {129, 64}}) {
      const TwoLayers layers(*scheme, rows, columns, 5);
      const Matrix values = RandomMatrix(rows, columns, 1);
      std::vector<uint16_t> narrow;
      Matrix wide = Zeros(rows, columns);
      for (size_t i = 0; i < values.values().size(); ++i) {
        narrow.push_back(Bf16FromFloat(values.values()[i]));
        wide.values()[i] = FloatFromBf16(narrow.back());
      }
      for (const std::string_view target : FusedPassTargets()) {
        ASSERT_TRUE(ForceFusedPassTarget(target));
        Matrix from_wide = Zeros(rows, columns);
        Matrix from_narrow = Zeros(rows, columns);
        FusedPass pass;
        pass.rows = rows;
        pass.columns = columns;
        pass.decode = layers.before->keys(Wire::kOutputs);
        pass.encode = layers.after->keys(Wire::kInputs);
        pass.activation = Activation::kGelu;
        FusedWorkspace workspace;
        pass.in = wide;
        pass.out = from_wide.view();
        ASSERT_TRUE(RunPass(pass, workspace).ok());
        pass.in = {};
        pass.in_bf16 = {narrow.data(), rows, columns, columns};
        pass.out = from_narrow.view();
        ASSERT_TRUE(RunPass(pass, workspace).ok());
        EXPECT_EQ(from_narrow, from_wide) << scheme->name() << " " << rows;
        Matrix plain = Zeros(rows, columns);
        pass.out = plain.view();
        ASSERT_TRUE(RunPlainPass(pass).ok());
        EXPECT_LT(RelativeDifference(from_narrow, plain), kTolerance);
        pass.in = wide;  // both
        EXPECT_FALSE(CheckFusedPass(pass).ok());
        ++compared;
      }
    }
  }
  EXPECT_EQ(compared, 3 * 4 * static_cast<int>(FusedPassTargets().size()));
}

// Products of bf16 with the vectors of checks, against float64; odd shapes leave tails everywhere.
TEST_F(FusedPassTest, ProductsOfBf16WithVectorsAreWithinWhatChecksAllowFor) {
  for (const std::string_view target : FusedPassTargets()) {
    ASSERT_TRUE(ForceFusedPassTarget(target));
    for (const auto& [rows, columns, vectors] : {std::tuple<size_t, size_t, size_t>{1, 1, 2},
                                                 {5, 33, 8},
                                                 {131, 67, 16},
                                                 {260, 129, 10},
                                                 {9, 512, 8},
                                                 {12, 1055, 24}}) {
      SCOPED_TRACE(StrCat(target, " ", rows, " x ", columns, ", ", vectors));
      const Matrix values = RandomMatrix(rows, columns, 1);
      std::vector<uint16_t> m;
      for (const float value : values.values()) m.push_back(Bf16FromFloat(value));
      const Matrix right = RandomMatrix(columns, vectors, 2);
      const Matrix left = RandomMatrix(rows, vectors, 3);
      const std::vector<double> wide(right.values().begin(), right.values().end());
      // As bf16 has them, and those times a factor: one part, and two.
      std::vector<double> narrow, scaled;
      for (const double value : wide) {
        narrow.push_back(FloatFromBf16(Bf16FromFloat(static_cast<float>(value))));
        scaled.push_back(narrow.back() * 225);
      }
      const std::vector<float> factors = Vector(columns, 4);
      std::vector<double> products(rows * vectors), squares(rows), weighted(rows);
      std::vector<double> of_narrow(products.size()), of_scaled(products.size());
      std::vector<double> transposed(columns * vectors), column_squares(columns);
      const ViewOf<const uint16_t> view = {m.data(), rows, columns, columns};
      const auto multiply = [&] {
        cpu::RowVectors given[] = {{wide.data(), vectors, products.data()},
                                   {narrow.data(), vectors, of_narrow.data(), 1},
                                   {scaled.data(), vectors, of_scaled.data(), 2}};
        cpu::MultiplyVectors(view, given, {squares.data(), factors.data(), weighted.data()});
        for (const cpu::RowVectors& some : given) EXPECT_EQ(some.rest_norm, 0);
      };
      multiply();
      cpu::MultiplyTransposedVectors(view, left.values().data(), vectors, transposed.data(),
                                     column_squares.data());
      // The error of 0.5 x 2^-24 that is allowed for, times five for the largest of many.
      constexpr double kUnit = 5 * 0.5 * 0x1p-24;
      const auto check = [&](size_t terms, const auto& a, const auto& b, double product,
                             double square) {
        double sum = 0, norm_a = 0, norm_b = 0;
        for (size_t t = 0; t < terms; ++t) {
          sum += a(t) * b(t);
          norm_a += a(t) * a(t);
          norm_b += b(t) * b(t);
        }
        // FloatCheck::SumError's second term: of sums of one sign.
        const double one_sign = 0x1p-24 * std::sqrt(static_cast<double>(terms)) / 2 * std::abs(sum);
        EXPECT_NEAR(product, sum, kUnit * std::sqrt(norm_a * norm_b) + one_sign);
        EXPECT_NEAR(square, norm_a, 1e-5 * norm_a);
      };
      const auto at = [&](size_t i, size_t j) { return double{FloatFromBf16(m[i * columns + j])}; };
      for (size_t c = 0; c < vectors; ++c) {
        for (size_t i = 0; i < rows; ++i) {
          check(
              columns, [&](size_t t) { return at(i, t); },
              [&](size_t t) { return wide[t * vectors + c]; }, products[i * vectors + c],
              squares[i]);
          check(
              columns, [&](size_t t) { return at(i, t); },
              [&](size_t t) { return narrow[t * vectors + c]; }, of_narrow[i * vectors + c],
              squares[i]);
          check(
              columns, [&](size_t t) { return at(i, t); },
              [&](size_t t) { return scaled[t * vectors + c]; }, of_scaled[i * vectors + c],
              squares[i]);
        }
        for (size_t j = 0; j < columns; ++j) {
          check(
              rows, [&](size_t t) { return at(t, j); },
              [&](size_t t) { return double{left(t, c)}; }, transposed[j * vectors + c],
              column_squares[j]);
        }
      }
      for (size_t i = 0; i < rows; ++i) {
        double sum = 0, size = 0;
        for (size_t j = 0; j < columns; ++j) {
          sum += at(i, j) * at(i, j) * double{factors[j]};
          size += at(i, j) * at(i, j) * std::abs(double{factors[j]});
        }
        EXPECT_NEAR(weighted[i], sum, 1e-5 * size);
      }
      // Not a number, and infinity, wherever they are.
      for (const uint16_t bad : {uint16_t{0x7FC0}, uint16_t{0xFF80}}) {
        for (const size_t place : {size_t{0}, m.size() / 2, m.size() - 1}) {
          const uint16_t good = std::exchange(m[place], bad);
          multiply();
          EXPECT_FALSE(std::isfinite(squares[place / columns])) << place;
          m[place] = good;
        }
      }
      multiply();
      EXPECT_TRUE(
          std::all_of(squares.begin(), squares.end(), [](double s) { return std::isfinite(s); }));
    }
  }
}

// Vectors in fewer parts than hold them: products are off by no more than the rest explains.
TEST_F(FusedPassTest, WhatPartsDoNotHoldIsBoundedByTheRest) {
  constexpr size_t kRows = 13, kColumns = 200, kVectors = 8;
  const std::vector<float> values = Vector(kRows * kColumns, 1);
  std::vector<uint16_t> m;
  for (const float value : values) m.push_back(Bf16FromFloat(value));
  const ViewOf<const uint16_t> view = {m.data(), kRows, kColumns, kColumns};
  const std::vector<float> drawn = Vector(kColumns * kVectors, 2);
  const std::vector<double> v(drawn.begin(), drawn.end());
  double norm = 0;
  for (const double value : v) norm += value * value;
  norm = std::sqrt(norm);
  for (const std::string_view target : FusedPassTargets()) {
    ASSERT_TRUE(ForceFusedPassTarget(target));
    std::vector<double> whole(kRows * kVectors), squares(kRows);
    cpu::RowVectors all = {v.data(), kVectors, whole.data()};
    cpu::MultiplyVectors(view, {&all, 1}, {squares.data(), nullptr, nullptr});
    EXPECT_EQ(all.rest_norm, 0);
    for (const size_t parts : {size_t{1}, size_t{2}}) {
      std::vector<double> products(whole.size());
      cpu::RowVectors some = {v.data(), kVectors, products.data(), parts};
      cpu::MultiplyVectors(view, {&some, 1}, {squares.data(), nullptr, nullptr});
      EXPECT_LT(some.rest_norm, (parts == 1 ? 0x1p-8 : 0x1p-16) * norm) << target;
      EXPECT_EQ(some.rest_norm > 0, target == "AVX3_BF16") << parts;
      for (size_t i = 0; i < kRows; ++i) {
        double off = 0;
        for (size_t c = 0; c < kVectors; ++c) {
          off += std::pow(products[i * kVectors + c] - whole[i * kVectors + c], 2);
        }
        const double rounding = 0x1p-21 * std::sqrt(squares[i]) * norm;
        EXPECT_LE(std::sqrt(off), std::sqrt(squares[i]) * some.rest_norm + rounding) << target;
      }
    }
  }
}

// What travels as fp32, in float64: few vectors and many, tails everywhere.
TEST_F(FusedPassTest, ProductsOfFp32WithVectorsAreThoseOfFloat64) {
  for (const std::string_view target : FusedPassTargets()) {
    ASSERT_TRUE(ForceFusedPassTarget(target));
    for (const auto& [rows, columns, vectors] :
         {std::tuple<size_t, size_t, size_t>{1, 1, 2}, {5, 33, 2}, {37, 67, 8}, {19, 129, 11}}) {
      SCOPED_TRACE(StrCat(target, " ", rows, " x ", columns, ", ", vectors));
      const Matrix m = RandomMatrix(rows, columns, 1);
      const std::vector<float> drawn = Vector((rows + columns) * vectors, 2);
      const std::vector<double> v(drawn.begin(), drawn.end());
      const double* const left = &v[columns * vectors];
      std::vector<double> products(rows * vectors), again(products), squares(rows);
      std::vector<double> transposed(columns * vectors), column_squares(columns);
      cpu::RowVectors both[] = {{v.data(), vectors, products.data()},
                                {v.data(), vectors, again.data()}};
      cpu::MultiplyVectors(m, both, squares.data());
      EXPECT_EQ(products, again);
      cpu::MultiplyTransposedVectors(m, left, vectors, transposed.data(), column_squares.data());
      for (size_t c = 0; c < vectors; ++c) {
        for (size_t i = 0; i < rows; ++i) {
          double sum = 0, square = 0;
          for (size_t j = 0; j < columns; ++j) {
            sum += double{m(i, j)} * v[j * vectors + c];
            square += double{m(i, j)} * m(i, j);
          }
          EXPECT_NEAR(products[i * vectors + c], sum, 1e-10);
          EXPECT_NEAR(squares[i], square, 1e-10);
        }
        for (size_t j = 0; j < columns; ++j) {
          double sum = 0, square = 0;
          for (size_t i = 0; i < rows; ++i) {
            sum += double{m(i, j)} * left[i * vectors + c];
            square += double{m(i, j)} * m(i, j);
          }
          EXPECT_NEAR(transposed[j * vectors + c], sum, 1e-10);
          EXPECT_NEAR(column_squares[j], square, 1e-10);
        }
      }
    }
  }
}

TEST_F(FusedPassTest, DenormalNumbersAreZerosInsideAndOnlyInside) {
  Matrix x = Zeros(1, 2);
  x(0, 0) = 1e-40f;
  x(0, 1) = 1;
  Matrix out = x;
  FusedPass pass;
  pass.rows = 1;
  pass.columns = 2;
  pass.in = x;
  pass.out = out.view();
  FusedWorkspace workspace;
  ASSERT_TRUE(RunFusedPass(pass, 0, 1, workspace).ok());
  EXPECT_EQ(out(0, 1), 1);
#if defined(__x86_64__)
  EXPECT_EQ(out(0, 0), 0);
#endif
  volatile float small = 1e-38f;
  EXPECT_NE(small / 16, 0) << "the thread's own arithmetic is as before";
}

TEST_F(FusedPassTest, WhatMakesNoSenseIsAUsageError) {
  const auto scheme = NewOrthogonalScheme().value();
  const TwoLayers layers(*scheme, 64, 64, 3);
  const TwoLayers others(*scheme, 64, 64, 4);
  const TwoLayers small(*scheme, 63, 64, 4);
  const Matrix in = RandomMatrix(64, 64, 1);
  const std::vector<float> vector(64);
  std::vector<float> gradient(64);
  Matrix out = Zeros(64, 64);
  FusedPass good;
  good.rows = good.columns = 64;
  good.in = in;
  good.out = out.view();
  good.decode = layers.before->keys(Wire::kOutputs);
  good.encode = layers.after->keys(Wire::kInputs);
  FusedWorkspace workspace;
  EXPECT_TRUE(RunFusedPass(good, 0, 1, workspace).ok());
  EXPECT_EQ(ExitCodeOf(RunFusedPass(good, 0, 2, workspace)), 2);
  const std::function<void(FusedPass&)> changes[] = {
      [](FusedPass& p) { p.rows = 63; },
      [](FusedPass& p) { p.columns = 0; },
      [](FusedPass& p) { p.in.stride = 63; },
      [](FusedPass& p) { p.in.data = nullptr; },
      [&](FusedPass& p) { p.bias = std::span(vector).first(63); },
      [&](FusedPass& p) { p.gamma = vector; },
      [&](FusedPass& p) {
        p.gamma = p.beta = vector;
        p.activation = Activation::kRelu;
      },
      [&](FusedPass& p) { p.saved = in; },
      [&](FusedPass& p) { p.bias_gradient = gradient; },
      [&](FusedPass& p) {
        p.is_backward = true;
        p.bias = vector;
      },
      [&](FusedPass& p) {
        p.is_backward = true;
        p.activation = Activation::kGelu;
      },
      [&](FusedPass& p) {
        p.is_backward = true;
        p.gamma_gradient = p.beta_gradient = gradient;
      },
      [&](FusedPass& p) { p.encode = small.after->keys(Wire::kInputs); },
      [&](FusedPass& p) { p.encode.features = nullptr; },
      [&](FusedPass& p) { p.encode.positions = 2; },
  };
  for (const auto& change : changes) {
    FusedPass bad = good;
    change(bad);
    EXPECT_EQ(ExitCodeOf(RunPlainPass(bad)), 2);
    EXPECT_EQ(ExitCodeOf(RunFusedPass(bad, 0, 1, workspace)), 2);
    EXPECT_FALSE(KernelSupports(bad));
  }
  // Groups that differ, and dense keys: plain code only.
  FusedPass ungrouped = good;
  ungrouped.encode = others.after->keys(Wire::kInputs);
  EXPECT_FALSE(KernelSupports(ungrouped));
  EXPECT_EQ(ExitCodeOf(RunFusedPass(ungrouped, 0, 1, workspace)), 2);
  EXPECT_TRUE(RunPlainPass(ungrouped).ok());
  // Groupings that are no permutations.
  for (const std::vector<uint32_t>& bad :
       std::vector<std::vector<uint32_t>>{{0}, {0, 0}, {0, 2}, {0, 1, 2}}) {
    StepShape shape = {.samples = 2};
    shape.grouping = bad;
    EXPECT_EQ(ExitCodeOf(layers.layer_before->NewStep(shape, Use::kTraining).status()), 2);
  }
  const auto shared = NewSharedScheme().value();
  const auto layer =
      shared->NewLayer("layer", {.inputs = 2, .outputs = 2, .max_rows = 2}, StreamOf(1)).value();
  EXPECT_EQ(layer->NewStep({.samples = 2}, Use::kTraining).value()->keys(Wire::kInputs).samples,
            nullptr);
}

}  // namespace
}  // namespace pavise::offload
