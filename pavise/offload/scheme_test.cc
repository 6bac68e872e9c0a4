#include "pavise/offload/scheme.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/checks/sketch.h"
#include "pavise/offload/none.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/sgd.h"
#include "pavise/offload/shared.h"
#include "pavise/offload/slalom.h"
#include "pavise/offload/tempo.h"
#include "pavise/offload/testing/plain_worker.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::offload {
namespace {

using testing::Geometry;
using testing::Product64;
using testing::RandomMatrix;
using testing::RelativeDifference;
using testing::StreamOf;

// Results in fp32 of values in fp32, over at most a few hundred terms: some roundings of 2^-24,
// and of ten to fifteen additions more under `orthogonal`.
constexpr double kTolerance = 4e-6;

std::vector<std::unique_ptr<Scheme>> FloatSchemes() {
  std::vector<std::unique_ptr<Scheme>> schemes;
  schemes.push_back(NewNoneScheme());
  schemes.push_back(NewTempoScheme().value());
  schemes.push_back(NewTempoScheme({.max_coefficient = 1}).value());
  schemes.push_back(NewOrthogonalScheme().value());
  schemes.push_back(NewOrthogonalScheme({.rounds = 3}).value());
  return schemes;
}

// Integers up to 127, which occurs: quantised with a scale of exactly 1.
Matrix IntegerMatrix(size_t rows, size_t columns, uint64_t seed) {
  std::mt19937_64 random(seed);
  Matrix out = Matrix::Create(rows, columns, "test").value();
  for (float& value : out.values())
    value = static_cast<float>(static_cast<int>(random() % 255) - 127);
  out.values()[random() % out.values().size()] = 127;
  return out;
}

struct Results {
  Matrix outputs, input_gradients, weight_gradients;
};

// One step of a layer by plain workers.
Results RunStep(const Scheme& scheme, const LayerShape& shape, const StepShape& step_shape,
                const Geometry& geometry, const Matrix& x, const Matrix& w, const Matrix& dy,
                uint64_t seed) {
  const auto layer = scheme.NewLayer("layer", shape, StreamOf(seed)).value();
  const Encoding weights = layer->EncodeWeights(w).value();
  const auto step = layer->NewStep(step_shape, Use::kTraining).value();
  const Encoding inputs = step->EncodeInputs(x).value();
  const Encoding gradients = step->EncodeOutputGradients(dy).value();
  EXPECT_EQ(weights.size(), scheme.workers());
  EXPECT_EQ(inputs.size(), scheme.workers());
  return {step->DecodeOutputs(testing::Forward(*layer, geometry, inputs, weights)).value(),
          step->DecodeInputGradients(testing::InputGradient(*layer, geometry, gradients, weights))
              .value(),
          step->DecodeWeightGradients(testing::WeightGradient(*layer, geometry, inputs, gradients))
              .value()};
}

TEST(SchemeTest, ProductsOfEveryOddShapeAreThePlainOnes) {
  const size_t sizes[] = {1, 3, 63, 64, 65, 197};
  int compared = 0;
  for (const auto& scheme : FloatSchemes()) {
    for (const size_t m : sizes) {
      for (const size_t k : sizes) {
        for (const size_t n : sizes) {
          const uint64_t seed = m + 1000 * (k + 1000 * n);
          SCOPED_TRACE(StrCat(scheme->name(), " ", m, " ", k, " ", n));
          const Matrix x = RandomMatrix(m, k, seed);
          const Matrix w = RandomMatrix(k, n, seed + 1);
          const Matrix dy = RandomMatrix(m, n, seed + 2);
          const Results results = RunStep(*scheme, {.inputs = k, .outputs = n, .max_rows = m},
                                          {.samples = m}, {}, x, w, dy, seed);
          const auto near = [](const Matrix& a, const Matrix& b) {
            // Sums of one or a few terms may cancel where those of the mixed operands do not.
            return RelativeDifference(a, b) < 10 * kTolerance;
          };
          ASSERT_TRUE(near(results.outputs, Product64(Operation::kPlain, x, w)));
          ASSERT_TRUE(near(results.input_gradients, Product64(Operation::kTransposeRight, dy, w)));
          ASSERT_TRUE(near(results.weight_gradients, Product64(Operation::kTransposeLeft, x, dy)));
          ++compared;
        }
      }
    }
  }
  EXPECT_EQ(compared, 5 * 216);
}

TEST(SchemeTest, SharedIsExact) {
  const auto scheme = NewSharedScheme().value();
  int compared = 0;
  for (const auto& [m, k, n] : std::vector<std::array<size_t, 3>>{{1, 1, 1},
                                                                  {3, 1, 63},
                                                                  {63, 64, 65},
                                                                  {65, 197, 3},
                                                                  {64, 448, 5},
                                                                  {5, 449, 64},
                                                                  {500, 7, 9}}) {
    for (const uint64_t seed : {1, 2, 3}) {
      SCOPED_TRACE(StrCat(m, " ", k, " ", n, " seed ", seed));
      const Matrix x = IntegerMatrix(m, k, seed);
      const Matrix w = IntegerMatrix(k, n, seed + 10);
      const Matrix dy = IntegerMatrix(m, n, seed + 20);
      const Results results = RunStep(*scheme, {.inputs = k, .outputs = n, .max_rows = m},
                                      {.samples = m}, {}, x, w, dy, seed);
      EXPECT_EQ(results.outputs, Product64(Operation::kPlain, x, w));
      EXPECT_EQ(results.input_gradients, Product64(Operation::kTransposeRight, dy, w));
      EXPECT_EQ(results.weight_gradients, Product64(Operation::kTransposeLeft, x, dy));
      ++compared;
    }
  }
  EXPECT_EQ(compared, 21);
  const auto layer = [&](size_t k, size_t rows) {
    return scheme->NewLayer("layer", {.inputs = k, .outputs = 2, .max_rows = rows}, StreamOf(1));
  };
  EXPECT_THAT((*layer(448, 448))->moduli(), ::testing::ElementsAre(251, 241, 239));
  EXPECT_THAT((*layer(449, 448))->moduli(), ::testing::ElementsAre(251, 241, 239, 233));
  EXPECT_THAT((*layer(448, 449))->moduli(), ::testing::SizeIs(4)) << "the weight gradient's sums";
  EXPECT_EQ(ReasonOf(layer(104'426, 1).status()), Reason::kLimitExceeded);
}

// What is no integer is off by its rounding: half a step in each factor.
TEST(SchemeTest, SharedQuantisesWithinItsLevel) {
  const size_t k = 197;
  const Matrix x = RandomMatrix(5, k, 1);
  const Matrix w = RandomMatrix(k, 7, 2);
  const Matrix dy = RandomMatrix(5, 7, 3);
  for (const int32_t level : {127, LargestLevel(k, 4)}) {
    const auto scheme = NewSharedScheme({.level = level}).value();
    const Results results = RunStep(*scheme, {.inputs = k, .outputs = 7, .max_rows = 5},
                                    {.samples = 5}, {}, x, w, dy, 9);
    // Errors of k terms of about 1 x 4.5 / (2 level sqrt(3)) each, in two factors; times 4.
    const double bound = 4 * std::sqrt(2.0 * k) * 4.5 / (2 * level * std::sqrt(3.0));
    const Matrix plain = Product64(Operation::kPlain, x, w);
    for (size_t i = 0; i < plain.values().size(); ++i) {
      EXPECT_NEAR(results.outputs.values()[i], plain.values()[i], bound) << level;
    }
  }
}

TEST(SchemeTest, SlalomIsExactAndForInferenceOnly) {
  const auto scheme = NewSlalomScheme().value();
  EXPECT_FALSE(scheme->supports(Use::kTraining));
  for (const auto& [m, k, n] :
       std::vector<std::array<size_t, 3>>{{1, 1, 1}, {3, 63, 65}, {65, 449, 3}}) {
    const Matrix x = IntegerMatrix(m, k, 1);
    const Matrix w = IntegerMatrix(k, n, 2);
    const auto layer =
        scheme->NewLayer("fc", {.inputs = k, .outputs = n, .max_rows = m}, StreamOf(m)).value();
    EXPECT_EQ(ExitCodeOf(layer->NewStep({.samples = m}, Use::kInference).status()), 2);
    const Encoding weights = layer->EncodeWeights(w).value();
    EXPECT_EQ(layer->DecodeWeights(weights).value(), w);
    EXPECT_EQ(ReasonOf(layer->NewStep({.samples = m}, Use::kTraining).status()),
              Reason::kUnsupported);
    const auto step = layer->NewStep({.samples = m}, Use::kInference).value();
    const Encoding inputs = step->EncodeInputs(x).value();
    const Encoding outputs = testing::Forward(*layer, {}, inputs, weights);
    EXPECT_EQ(step->DecodeOutputs(outputs).value(), Product64(Operation::kPlain, x, w));
    EXPECT_EQ(ReasonOf(step->EncodeInputs(x).status()), Reason::kKeyExhausted);
    EXPECT_EQ(ReasonOf(step->EncodeOutputGradients(x).status()), Reason::kUnsupported);
    EXPECT_EQ(ReasonOf(step->DecodeInputGradients(outputs).status()), Reason::kUnsupported);
    EXPECT_EQ(ReasonOf(step->DecodeWeightGradients(outputs).status()), Reason::kUnsupported);
  }
  EXPECT_EQ(ReasonOf(scheme
                         ->NewLayer("conv", {.inputs = 3, .outputs = 4, .taps = 9, .max_rows = 5},
                                    StreamOf(1))
                         .status()),
            Reason::kUnsupported);
}

// 1x1 as a product, k x k through im2col, and k x k done by the worker under keys of samples and
// channels: forward and both gradients against the plain im2col.
TEST(SchemeTest, ConvolutionsOfAllThreeKinds) {
  const ConvolutionShape shapes[] = {
      {.samples = 3, .height = 5, .width = 7, .channels = 3, .kernel_height = 1, .kernel_width = 1},
      {.samples = 65,
       .height = 4,
       .width = 3,
       .channels = 65,
       .kernel_height = 3,
       .kernel_width = 3,
       .padding = 1},
      {.samples = 2,
       .height = 9,
       .width = 6,
       .channels = 63,
       .kernel_height = 3,
       .kernel_width = 2,
       .stride = 2,
       .padding = 2},
      {.samples = 1, .height = 5, .width = 5, .channels = 1, .kernel_height = 5, .kernel_width = 5},
  };
  auto schemes = FloatSchemes();
  schemes.push_back(NewSharedScheme().value());
  int compared = 0;
  for (const auto& scheme : schemes) {
    for (const ConvolutionShape& c : shapes) {
      for (const bool is_native : {false, true}) {
        SCOPED_TRACE(StrCat(scheme->name(), " ", c.channels, is_native ? " native" : " im2col"));
        const size_t n = 66;
        const size_t pixels = c.height * c.width;
        const size_t positions = c.output_height() * c.output_width();
        const Matrix images = IntegerMatrix(c.samples * pixels, c.channels, 1);
        const Matrix w = IntegerMatrix(c.taps() * c.channels, n, 2);
        const Matrix dy = IntegerMatrix(c.samples * positions, n, 3);
        const Matrix columns = ImageToColumns(c, images, "conv").value();
        Results results;
        if (is_native) {
          const size_t rows = c.samples * std::max(pixels, positions);
          results = RunStep(
              *scheme, {.inputs = c.channels, .outputs = n, .taps = c.taps(), .max_rows = rows},
              {.samples = c.samples, .input_positions = pixels, .output_positions = positions},
              {true, c}, images, w, dy, 5);
        } else {
          results = RunStep(
              *scheme, {.inputs = c.taps() * c.channels, .outputs = n, .max_rows = columns.rows()},
              {.samples = columns.rows()}, {}, columns, w, dy, 5);
          results.input_gradients = ColumnsToImage(c, results.input_gradients, "conv").value();
        }
        const double tolerance = scheme->name() == "shared" ? 0 : kTolerance;
        EXPECT_LE(RelativeDifference(results.outputs, Product64(Operation::kPlain, columns, w)),
                  tolerance);
        EXPECT_LE(RelativeDifference(
                      results.input_gradients,
                      *ColumnsToImage(c, Product64(Operation::kTransposeRight, dy, w), "conv")),
                  tolerance);
        EXPECT_LE(RelativeDifference(results.weight_gradients,
                                     Product64(Operation::kTransposeLeft, columns, dy)),
                  tolerance);
        ++compared;
      }
    }
  }
  EXPECT_EQ(compared, 6 * 4 * 2);
  // What ImageToColumns itself does: one pixel in the middle of a 3x3 kernel.
  const ConvolutionShape one = {.samples = 1,
                                .height = 2,
                                .width = 2,
                                .channels = 1,
                                .kernel_height = 3,
                                .kernel_width = 3,
                                .padding = 1};
  Matrix image = Matrix::Create(4, 1, "image").value();
  for (size_t i = 0; i < 4; ++i) image(i, 0) = static_cast<float>(i + 1);
  const Matrix seen = ImageToColumns(one, image, "conv").value();
  EXPECT_THAT(seen.values().first(9), ::testing::ElementsAre(0, 0, 0, 0, 1, 2, 0, 3, 4));
  EXPECT_THAT(seen.values().last(9), ::testing::ElementsAre(1, 2, 0, 3, 4, 0, 0, 0, 0));
}

TEST(SchemeTest, ImpossibleConvolutionsAreRefused) {
  const ConvolutionShape good = {
      .samples = 1, .height = 4, .width = 4, .channels = 1, .kernel_height = 3, .kernel_width = 3};
  EXPECT_TRUE(CheckConvolution(good, "conv").ok());
  const std::function<void(ConvolutionShape&)> changes[] = {
      [](auto& c) { c.stride = 0; },
      [](auto& c) { c.samples = 0; },
      [](auto& c) { c.channels = 0; },
      [](auto& c) { c.kernel_height = 5; },
      [](auto& c) { c.padding = SIZE_MAX; },
      [](auto& c) { c.width = SIZE_MAX / 2; },
      [](auto& c) { c.height = c.width = c.samples = 1 << 16; }};
  for (const auto& change : changes) {
    ConvolutionShape bad = good;
    change(bad);
    EXPECT_EQ(ReasonOf(CheckConvolution(bad, "conv")), Reason::kLimitExceeded);
  }
}

// Q K^T and P V, where "weights" are activations too and keys serve one step: all four gradients.
TEST(SchemeTest, AttentionProducts) {
  auto schemes = FloatSchemes();
  int compared = 0;
  for (const auto& scheme : schemes) {
    for (const auto& [length, width] : {std::pair<size_t, size_t>{197, 64}, {65, 3}, {1, 63}}) {
      SCOPED_TRACE(StrCat(scheme->name(), " ", length, " ", width));
      const Matrix q = RandomMatrix(length, width, 1);
      const Matrix k_transposed = RandomMatrix(width, length, 2);
      const Matrix v = RandomMatrix(length, width, 3);
      const Matrix d_scores = RandomMatrix(length, length, 4);
      const Matrix d_context = RandomMatrix(length, width, 5);
      const Results scores =
          RunStep(*scheme, {.inputs = width, .outputs = length, .max_rows = length},
                  {.samples = length}, {}, q, k_transposed, d_scores, 6);
      const Results context =
          RunStep(*scheme, {.inputs = length, .outputs = width, .max_rows = length},
                  {.samples = length}, {}, scores.outputs, v, d_context, 7);
      const double tolerance = 10 * kTolerance;
      EXPECT_LT(RelativeDifference(scores.input_gradients,
                                   Product64(Operation::kTransposeRight, d_scores, k_transposed)),
                tolerance);
      EXPECT_LT(RelativeDifference(scores.weight_gradients,
                                   Product64(Operation::kTransposeLeft, q, d_scores)),
                tolerance);
      const Matrix plain_scores = Product64(Operation::kPlain, q, k_transposed);
      EXPECT_LT(RelativeDifference(context.outputs, Product64(Operation::kPlain, plain_scores, v)),
                tolerance);
      EXPECT_LT(RelativeDifference(context.weight_gradients,
                                   Product64(Operation::kTransposeLeft, plain_scores, d_context)),
                tolerance);
      ++compared;
    }
  }
  EXPECT_EQ(compared, 15);
}

// Twenty steps of SGD with momentum and decay on the worker's encoded weights end where plain ones
// do, under one key of k and n and a fresh key of m each step.
TEST(SchemeTest, EncodedWeightsAreUpdatedAsPlainOnes) {
  const SgdStep sgds[] = {{0.05f, 0, 0}, {0.05f, 0.9f, 0}, {0.02f, 0.9f, 0.01f}, {0.05f, 0, 0.1f}};
  int compared = 0;
  for (const auto& scheme : FloatSchemes()) {
    ASSERT_TRUE(scheme->updates_encoded_weights(Optimizer::kSgd));
    for (const SgdStep& sgd : sgds) {
      const size_t m = 33, k = 65, n = 70;
      Matrix w = RandomMatrix(k, n, 1);
      Matrix velocity = Matrix::Create(k, n, "v").value();
      const auto layer =
          scheme->NewLayer("layer", {.inputs = k, .outputs = n, .max_rows = m}, StreamOf(2))
              .value();
      Encoding encoded = layer->EncodeWeights(w).value();
      Matrix encoded_velocity = Matrix::Create(k, n, "v").value();
      for (uint64_t i = 0; i < 20; ++i) {
        const Matrix x = RandomMatrix(m, k, 100 + i);
        const Matrix dy = RandomMatrix(m, n, 200 + i);
        const auto step = layer->NewStep({.samples = m}, Use::kTraining).value();
        const Encoding inputs = step->EncodeInputs(x).value();
        const Encoding gradients = step->EncodeOutputGradients(dy).value();
        const Encoding dw = testing::WeightGradient(*layer, {}, inputs, gradients);
        ASSERT_TRUE(
            ApplySgd(sgd, dw[0].values, encoded_velocity.view(), encoded[0].values.view()).ok());
        ASSERT_TRUE(
            ApplySgd(sgd, Product64(Operation::kTransposeLeft, x, dy), velocity.view(), w.view())
                .ok());
      }
      EXPECT_LT(RelativeDifference(layer->DecodeWeights(encoded).value(), w), kTolerance)
          << scheme->name();
      EXPECT_EQ(layer->budget().spent().steps, 20u);
      ++compared;
    }
  }
  EXPECT_EQ(compared, 20);
  Matrix w = RandomMatrix(2, 3, 1);
  Matrix v = RandomMatrix(2, 3, 1);
  EXPECT_EQ(ExitCodeOf(ApplySgd({}, RandomMatrix(3, 2, 1), v.view(), w.view())), 2);
}

// AdamW works element by element: permutations commute with it, scales and rotations do not. Muon
// orthogonalises, f(Q V R^T) = Q f(V) R^T; its cubic polynomial stands for it.
TEST(SchemeTest, OtherOptimizersCommuteWhereTheSchemeSaysSo) {
  const Matrix v = RandomMatrix(70, 65, 1);
  const auto element = [](const Matrix& m) {
    Matrix out = m;
    for (float& value : out.values()) value = std::tanh(value);
    return out;
  };
  const auto cubic = [](const Matrix& m) {
    return Product64(Operation::kPlain, Product64(Operation::kTransposeRight, m, m), m);
  };
  int compared = 0;
  for (const auto& scheme : FloatSchemes()) {
    const auto commutes = [&](const auto& f) {
      const auto layer =
          scheme->NewLayer("layer", {.inputs = 70, .outputs = 65, .max_rows = 1}, StreamOf(3))
              .value();
      Encoding encoded = layer->EncodeWeights(v).value();
      encoded[0].values = f(encoded[0].values);
      ++compared;
      return RelativeDifference(layer->DecodeWeights(encoded).value(), f(v)) < 1e-5;
    };
    EXPECT_EQ(commutes(element), scheme->updates_encoded_weights(Optimizer::kAdamW))
        << scheme->name();
    EXPECT_EQ(commutes(cubic), scheme->updates_encoded_weights(Optimizer::kMuon)) << scheme->name();
  }
  EXPECT_EQ(compared, 10);
  EXPECT_FALSE(NewSharedScheme().value()->updates_encoded_weights(Optimizer::kSgd));
  EXPECT_FALSE(NewSlalomScheme().value()->updates_encoded_weights(Optimizer::kSgd));
}

TEST(SchemeTest, SharedWeightsAreSharedAnewEachTime) {
  const auto scheme = NewSharedScheme().value();
  const Matrix w = IntegerMatrix(20, 30, 1);
  const auto layer =
      scheme->NewLayer("layer", {.inputs = 20, .outputs = 30, .max_rows = 5}, StreamOf(1)).value();
  EXPECT_EQ(ExitCodeOf(layer->DecodeWeights({}).status()), 2);
  const Encoding first = layer->EncodeWeights(w).value();
  const Encoding second = layer->EncodeWeights(w).value();
  EXPECT_EQ(layer->DecodeWeights(second).value(), w);
  for (size_t worker = 0; worker < 3; ++worker) {
    for (size_t p = 0; p < 3; ++p) {
      EXPECT_NE(first[worker].residues[p], second[worker].residues[p]);
      EXPECT_NE(first[worker].residues[p], first[(worker + 1) % 3].residues[p]);
    }
  }
}

TEST(SchemeTest, KeysServeTheirStepsAndEquationsAndNoMore) {
  struct Case {
    std::unique_ptr<Scheme> scheme;
    uint64_t equations;
  };
  std::vector<Case> cases;
  cases.push_back({NewTempoScheme({.max_steps = 2}).value(), 0});
  cases.push_back({NewOrthogonalScheme({.max_steps = 2}).value(), 32});
  for (const Case& c : cases) {
    const LayerShape shape = {.inputs = 65, .outputs = 70, .max_rows = 9};
    const auto layer = c.scheme->NewLayer("layer", shape, StreamOf(1)).value();
    EXPECT_EQ(layer->budget().limits(), (KeyLimits{2, c.equations}));
    StepShape step = {.samples = 9};
    step.known_rows = c.equations + 1;
    EXPECT_EQ(ReasonOf(layer->NewStep(step, Use::kTraining).status()), Reason::kKeyExhausted);
    step.known_rows = c.equations;
    EXPECT_TRUE(layer->NewStep(step, Use::kTraining).ok());
    step.known_rows = 0;
    EXPECT_TRUE(layer->NewStep(step, Use::kInference).ok());
    EXPECT_EQ(ReasonOf(layer->NewStep(step, Use::kTraining).status()), Reason::kKeyExhausted);
  }
}

TEST(SchemeTest, AStepEncodesOneBatch) {
  auto schemes = FloatSchemes();
  schemes.push_back(NewSharedScheme().value());
  for (const auto& scheme : schemes) {
    const auto layer =
        scheme->NewLayer("layer", {.inputs = 5, .outputs = 6, .max_rows = 4}, StreamOf(1)).value();
    const auto step = layer->NewStep({.samples = 4}, Use::kTraining).value();
    const Matrix x = RandomMatrix(4, 5, 1);
    const Matrix dy = RandomMatrix(4, 6, 1);
    EXPECT_TRUE(step->EncodeInputs(x).ok());
    EXPECT_EQ(ReasonOf(step->EncodeInputs(x).status()), Reason::kKeyExhausted) << scheme->name();
    EXPECT_TRUE(step->EncodeOutputGradients(dy).ok());
    EXPECT_EQ(ReasonOf(step->EncodeOutputGradients(dy).status()), Reason::kKeyExhausted);
  }
}

TEST(SchemeTest, ShapesAndOptionsOutOfBoundsAreRefused) {
  auto schemes = FloatSchemes();
  schemes.push_back(NewSharedScheme().value());
  schemes.push_back(NewSlalomScheme().value());
  for (const auto& scheme : schemes) {
    SCOPED_TRACE(std::string(scheme->name()));
    for (const LayerShape& bad : std::vector<LayerShape>{
             {.inputs = 0, .outputs = 1, .max_rows = 1},
             {.inputs = 1, .outputs = 0, .max_rows = 1},
             {.inputs = 1, .outputs = 1, .max_rows = 0},
             {.inputs = 1, .outputs = 1, .taps = 0, .max_rows = 1},
             {.inputs = kMaxDimension + 1, .outputs = 1, .max_rows = 1},
             {.inputs = kMaxDimension, .outputs = kMaxDimension, .max_rows = 1},
             {.inputs = SIZE_MAX, .outputs = SIZE_MAX, .taps = SIZE_MAX, .max_rows = SIZE_MAX}}) {
      EXPECT_EQ(ReasonOf(scheme->NewLayer("layer", bad, StreamOf(1)).status()),
                Reason::kLimitExceeded);
    }
    const auto layer =
        scheme->NewLayer("layer", {.inputs = 5, .outputs = 6, .max_rows = 4}, StreamOf(1)).value();
    EXPECT_EQ(ExitCodeOf(layer->EncodeWeights(RandomMatrix(6, 5, 1)).status()), 2);
    Matrix bad = RandomMatrix(5, 6, 1);
    bad(2, 2) = NAN;
    EXPECT_EQ(ReasonOf(layer->EncodeWeights(bad).status()), Reason::kMalformed);
    ASSERT_TRUE(layer->EncodeWeights(RandomMatrix(5, 6, 1)).ok());
    EXPECT_EQ(ReasonOf(layer->NewStep({.samples = 5}, Use::kInference).status()),
              Reason::kLimitExceeded);
    EXPECT_EQ(ReasonOf(layer->NewStep({.samples = 0}, Use::kInference).status()),
              Reason::kLimitExceeded);
    EXPECT_EQ(
        ReasonOf(
            layer->NewStep({.samples = 4, .input_positions = SIZE_MAX}, Use::kInference).status()),
        Reason::kLimitExceeded);
    const auto step = layer->NewStep({.samples = 4}, Use::kInference).value();
    EXPECT_EQ(ExitCodeOf(step->EncodeInputs(RandomMatrix(3, 5, 1)).status()), 2);
    Matrix infinite = RandomMatrix(4, 5, 1);
    infinite(0, 0) = INFINITY;
    EXPECT_EQ(ReasonOf(step->EncodeInputs(infinite).status()), Reason::kMalformed);
  }
  EXPECT_EQ(ExitCodeOf(NewTempoScheme({.max_coefficient = 0}).status()), 2);
  EXPECT_EQ(ExitCodeOf(NewTempoScheme({.max_coefficient = 257}).status()), 2);
  EXPECT_EQ(ExitCodeOf(NewOrthogonalScheme({.rounds = 1}).status()), 2) << "undone by the worker";
  EXPECT_EQ(ExitCodeOf(NewOrthogonalScheme({.rounds = 5}).status()), 2);
  EXPECT_EQ(ExitCodeOf(NewSharedScheme({.level = 0}).status()), 2);
  EXPECT_EQ(ExitCodeOf(NewSlalomScheme({.level = kMaxLevel + 1}).status()), 2);
}

// Everything that comes back is hostile.
TEST(SchemeTest, ResultsOfAnotherFormAreRefused) {
  auto schemes = FloatSchemes();
  schemes.push_back(NewSharedScheme().value());
  schemes.push_back(NewSlalomScheme().value());
  int refused = 0;
  for (const auto& scheme : schemes) {
    SCOPED_TRACE(std::string(scheme->name()));
    const auto layer =
        scheme->NewLayer("layer", {.inputs = 5, .outputs = 6, .max_rows = 4}, StreamOf(1)).value();
    const Encoding weights = layer->EncodeWeights(IntegerMatrix(5, 6, 1)).value();
    const auto step = layer->NewStep({.samples = 4}, Use::kInference).value();
    const Encoding inputs = step->EncodeInputs(IntegerMatrix(4, 5, 2)).value();
    const Encoding good = testing::Forward(*layer, {}, inputs, weights);
    ASSERT_TRUE(step->DecodeOutputs(good).ok());
    const bool is_exact = !layer->moduli().empty();
    std::vector<std::pair<std::function<void(Encoding&)>, Reason>> changes = {
        {[](Encoding& e) { e.clear(); }, Reason::kMalformed},
        {[](Encoding& e) { e.push_back(e[0]); }, Reason::kMalformed},
        {[](Encoding& e) { e[0] = {}; }, Reason::kMalformed},
    };
    if (is_exact) {
      changes.push_back({[](Encoding& e) { e[0].residues.pop_back(); }, Reason::kMalformed});
      changes.push_back({[](Encoding& e) { e[0].residues[1] = *ResidueMatrix::Create(6, 4, "x"); },
                         Reason::kMalformed});
      changes.push_back({[](Encoding& e) { e[0].residues[0](1, 1) = 126; }, Reason::kMalformed});
      changes.push_back({[](Encoding& e) { e[0].residues[0](1, 1) = -128; }, Reason::kMalformed});
      // One residue moved by one: the integer is off by some 240 x 239 x a small number.
      changes.push_back({[](Encoding& e) {
                           int8_t& r = e[0].residues[0](1, 1);
                           r = static_cast<int8_t>(r == 125 ? 0 : r + 1);
                         },
                         Reason::kResultWrong});
    } else {
      changes.push_back({[](Encoding& e) { e[0].values(1, 1) = NAN; }, Reason::kMalformed});
      changes.push_back({[](Encoding& e) { e[0].values(3, 5) = -INFINITY; }, Reason::kMalformed});
      changes.push_back(
          {[](Encoding& e) { e[0].values = RandomMatrix(6, 4, 1); }, Reason::kMalformed});
    }
    for (const auto& [change, reason] : changes) {
      Encoding bad = good;
      change(bad);
      EXPECT_EQ(ReasonOf(step->DecodeOutputs(bad).status()), reason);
      ++refused;
    }
  }
  EXPECT_EQ(refused, 5 * 6 + 2 * 8);
}

// ---- What leaks, held against the profiles ----

std::vector<float> Magnitudes(const Matrix& matrix) {
  std::vector<float> sorted;
  for (const float value : matrix.values()) sorted.push_back(std::abs(value));
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

TEST(LeakageTest, ProfilesAreStatedForEveryUse) {
  auto schemes = FloatSchemes();
  schemes.push_back(NewSharedScheme().value());
  schemes.push_back(NewSlalomScheme().value());
  for (const auto& scheme : schemes) {
    for (const Use use : {Use::kInference, Use::kTraining}) {
      const LeakageProfile profile = scheme->leakage(use);
      EXPECT_EQ(profile.scheme, scheme->name());
      EXPECT_FALSE(profile.assumption.empty());
      EXPECT_THAT(Describe(profile), ::testing::HasSubstr(std::string(UseName(use))));
      EXPECT_EQ(profile.gradients == Exposure::kNotSent,
                use == Use::kInference || !scheme->supports(use));
    }
  }
  EXPECT_EQ(NewTempoScheme().value()->leakage(Use::kInference).weights, Exposure::kScaled);
  EXPECT_EQ(NewTempoScheme().value()->leakage(Use::kTraining).weights, Exposure::kPermuted);
}

TEST(LeakageTest, NoEncodingRepeatsAndAllComeFromTheKey) {
  auto schemes = FloatSchemes();
  schemes.erase(schemes.begin());  // `none` repeats everything
  schemes.push_back(NewSharedScheme().value());
  for (const auto& scheme : schemes) {
    SCOPED_TRACE(std::string(scheme->name()));
    const LayerShape shape = {.inputs = 65, .outputs = 64, .max_rows = 66};
    const Matrix w = RandomMatrix(65, 64, 1);
    const Matrix x = RandomMatrix(66, 65, 2);
    const auto encode = [&](uint64_t seed) {
      const auto layer = scheme->NewLayer("layer", shape, StreamOf(seed)).value();
      std::vector<Encoding> all = {layer->EncodeWeights(w).value()};
      for (int i = 0; i < 2; ++i) {
        all.push_back(
            layer->NewStep({.samples = 66}, Use::kTraining).value()->EncodeInputs(x).value());
      }
      return all;
    };
    const auto same = [](const Encoding& a, const Encoding& b) {
      return a[0].values == b[0].values && a[0].residues == b[0].residues;
    };
    const auto once = encode(1), again = encode(1), other = encode(2);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(same(once[i], again[i]));
      EXPECT_FALSE(same(once[i], other[i]));
    }
    EXPECT_FALSE(same(once[1], once[2])) << "the same batch in two steps";
    EXPECT_NE(once[0][0].values, w);
  }
}

// Half zeros, no negative number, some rows and columns alike: none of it shows.
TEST(LeakageTest, OrthogonalShowsNoZerosAndNoSigns) {
  const auto scheme = NewOrthogonalScheme().value();
  for (const size_t size : {65, 197, 256}) {
    Matrix x = RandomMatrix(size, size, 1);
    for (float& value : x.values()) value = std::max(value, 0.0f);
    const auto layer =
        scheme
            ->NewLayer("layer", {.inputs = size, .outputs = size, .max_rows = size}, StreamOf(size))
            .value();
    for (const Matrix& encoded : {layer->EncodeWeights(x).value()[0].values,
                                  layer->NewStep({.samples = size}, Use::kTraining)
                                      .value()
                                      ->EncodeInputs(x)
                                      .value()[0]
                                      .values}) {
      double negative = 0, tiny = 0, inner = 0, norm = 0, plain_norm = 0;
      for (size_t i = 0; i < encoded.values().size(); ++i) {
        const double value = encoded.values()[i];
        negative += value < 0;
        tiny += std::abs(value) < 1e-3;
        inner += value * x.values()[i];
        norm += value * value;
        plain_norm += x.values()[i] * x.values()[i];
      }
      const double n = static_cast<double>(encoded.values().size());
      EXPECT_NEAR(norm / plain_norm, 1, 1e-5) << "norms are kept, as the profile says";
      EXPECT_NEAR(negative / n, 0.5, 0.05);
      EXPECT_LT(tiny / n, 0.01) << "half were zero";
      EXPECT_LT(std::abs(inner) / norm, 0.05) << "elements do not stay where they were";
    }
  }
}

// No row or column is left alone: a matrix with one element spreads over at least half a block.
TEST(LeakageTest, OrthogonalMixesEveryRowAndColumnOfEverySize) {
  const auto scheme = NewOrthogonalScheme().value();
  int spread = 0;
  for (const size_t size : {63, 64, 65, 127, 197}) {
    for (size_t at = 0; at < size; ++at) {
      Matrix x = Matrix::Create(size, size, "x").value();
      x(at, (7 * at + 3) % size) = 1;
      const auto layer =
          scheme
              ->NewLayer("layer", {.inputs = size, .outputs = size, .max_rows = size}, StreamOf(at))
              .value();
      const Matrix encoded = layer->NewStep({.samples = size}, Use::kTraining)
                                 .value()
                                 ->EncodeInputs(x)
                                 .value()[0]
                                 .values;
      size_t rows = 0, columns = 0;
      float largest = 0;
      for (size_t i = 0; i < size; ++i) {
        bool in_row = false, in_column = false;
        for (size_t j = 0; j < size; ++j) {
          largest = std::max(largest, std::abs(encoded(i, j)));
          in_row |= std::abs(encoded(i, j)) > 1e-5;
          in_column |= std::abs(encoded(j, i)) > 1e-5;
        }
        rows += in_row;
        columns += in_column;
      }
      ASSERT_GE(rows, 16u) << size << " row " << at;
      ASSERT_GE(columns, 24u) << size << " column " << (7 * at + 3) % size;
      ASSERT_LT(largest, 0.5);
      ++spread;
    }
  }
  EXPECT_EQ(spread, 63 + 64 + 65 + 127 + 197);
}

// Whatever is shared, one worker's residues are uniform: chi-squared with p - 1 degrees of freedom,
// six deviations above its mean.
// The largest |cosine| of two rows.
double LargestCosine(MatrixView a, MatrixView b, bool is_same) {
  double largest = 0;
  for (size_t i = 0; i < a.rows; ++i) {
    for (size_t j = is_same ? i + 1 : 0; j < b.rows; ++j) {
      double dot = 0, aa = 0, bb = 0;
      for (size_t k = 0; k < a.columns; ++k) {
        dot += double{a(i, k)} * b(j, k);
        aa += double{a(i, k)} * a(i, k);
        bb += double{b(j, k)} * b(j, k);
      }
      largest = std::max(largest, std::abs(dot) / std::sqrt(aa * bb));
    }
  }
  return largest;
}

// One sample twice in a batch, in two batches of one key, and alone.
TEST(LeakageTest, WhoSeesThatASampleComesAgain) {
  constexpr size_t kWidth = 256;
  const auto encode = [](Layer& layer, const Matrix& x) {
    auto step = layer.NewStep({.samples = x.rows()}, Use::kInference).value();
    return std::move(step->EncodeInputs(x).value()[0].values);
  };
  Matrix twice = RandomMatrix(40, kWidth, 1);
  Matrix other = RandomMatrix(40, kWidth, 2);
  Matrix alone = Matrix::Create(1, kWidth, "x").value();
  for (size_t k = 0; k < kWidth; ++k) twice(31, k) = other(7, k) = alone(0, k) = twice(3, k);
  const std::unique_ptr<Scheme> tempo = NewTempoScheme().value();
  const std::unique_ptr<Scheme> orthogonal = NewOrthogonalScheme().value();
  for (const Scheme* scheme : {tempo.get(), orthogonal.get()}) {
    const bool shows = scheme == tempo.get();
    const auto layer =
        scheme
            ->NewLayer("layer", {.inputs = kWidth, .outputs = kWidth, .max_rows = 40}, StreamOf(5))
            .value();
    const Matrix first = encode(*layer, twice);
    const Matrix second = encode(*layer, other);
    const Matrix single = encode(*layer, alone);
    const Matrix again = encode(*layer, alone);
    // Rows without anything in common come to 0.3 among so many pairs.
    const double in_a_batch = LargestCosine(first, first, true);
    const double in_two = LargestCosine(first, second, false);
    EXPECT_EQ(in_a_batch > 0.999, shows) << in_a_batch;
    EXPECT_EQ(in_two > 0.999, shows) << in_two;
    EXPECT_GT(LargestCosine(single, again, false), 0.999) << "as documented";
    if (shows) continue;
    EXPECT_LT(in_a_batch, 0.5);
    EXPECT_LT(in_two, 0.5);
    EXPECT_LT(LargestCosine(single, first, false), 0.5);
  }
}

// The direction that rows have least of: power iteration with the inverse of their Gram matrix.
std::vector<double> LeastDirection(const Matrix& rows) {
  const size_t k = rows.columns();
  std::vector<std::vector<double>> gram(k, std::vector<double>(k));
  for (size_t r = 0; r < rows.rows(); ++r) {
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j < k; ++j) gram[i][j] += double{rows(r, i)} * rows(r, j);
    }
  }
  std::vector<double> direction(k);
  std::iota(direction.begin(), direction.end(), 1.0);
  for (int pass = 0; pass < 5; ++pass) {
    auto a = gram;
    for (size_t p = 0; p < k; ++p) {  // Gauss, without pivoting: the matrix is positive definite
      for (size_t i = p + 1; i < k; ++i) {
        const double factor = a[i][p] / a[p][p];
        for (size_t j = p; j < k; ++j) a[i][j] -= factor * a[p][j];
        direction[i] -= factor * direction[p];
      }
    }
    for (size_t i = k; i-- > 0;) {
      for (size_t j = i + 1; j < k; ++j) direction[i] -= a[i][j] * direction[j];
      direction[i] /= a[i][i];
    }
    const double norm = Norm(direction);
    for (double& value : direction) value /= norm;
  }
  return direction;
}

// Rows that sum to zero, as LayerNorm and gradients of a softmax make them, in one batch: what a
// worker has least of is the image of (1, ..., 1) under the key. Under tempo those are the
// coefficients, also in inference; under orthogonal one known equation, which no budget counts.
TEST(LeakageTest, RowsThatSumToZeroGiveOneDirectionOfTheKeyAway) {
  constexpr size_t kWidth = 96;
  constexpr size_t kSamples = 200;
  Matrix x = RandomMatrix(kSamples, kWidth, 1);
  for (size_t i = 0; i < kSamples; ++i) {
    double mean = 0;
    for (size_t j = 0; j < kWidth; ++j) mean += x(i, j) / double{kWidth};
    for (size_t j = 0; j < kWidth; ++j) x(i, j) -= static_cast<float>(mean);
  }
  Matrix ones = Matrix::Create(kWidth, 1, "ones").value();
  std::fill(ones.values().begin(), ones.values().end(), 1.0f);
  const std::unique_ptr<Scheme> tempo = NewTempoScheme().value();
  const std::unique_ptr<Scheme> orthogonal = NewOrthogonalScheme().value();
  for (const Scheme* scheme : {tempo.get(), orthogonal.get()}) {
    const auto layer =
        scheme
            ->NewLayer("layer", {.inputs = kWidth, .outputs = 1, .max_rows = kSamples}, StreamOf(5))
            .value();
    auto step = layer->NewStep({.samples = kSamples}, Use::kInference).value();
    const std::vector<double> found = LeastDirection(step->EncodeInputs(x).value()[0].values);
    const Matrix image = std::move(layer->EncodeWeights(ones).value()[0].values);
    const double norm = RowNorms({image.values().data(), 1, kWidth, kWidth})[0];
    double cosine = 0;
    for (size_t i = 0; i < kWidth; ++i) cosine += found[i] * image(i, 0) / norm;
    EXPECT_GT(std::abs(cosine), 0.9999) << scheme->name() << ": no longer as documented";
    if (scheme == orthogonal.get()) continue;
    // In units of a sixteenth of the largest one they are the integers that were drawn.
    double largest = 0;
    for (const double value : found) largest = std::max(largest, std::abs(value));
    for (const double value : found) {
      const double coefficient = 16 * std::abs(value) / largest;
      EXPECT_NEAR(coefficient, std::round(coefficient), 0.02);
    }
  }
}

TEST(LeakageTest, SharedShowsEachWorkerUniformResidues) {
  const auto scheme = NewSharedScheme().value();
  Matrix zeros = Matrix::Create(300, 200, "zeros").value();
  Matrix ones = zeros;
  for (float& value : ones.values()) value = 1;
  int compared = 0;
  for (const Matrix& x : {zeros, ones, RandomMatrix(300, 200, 1)}) {
    const auto layer =
        scheme->NewLayer("layer", {.inputs = 200, .outputs = 300, .max_rows = 300}, StreamOf(3))
            .value();
    const auto step = layer->NewStep({.samples = 300}, Use::kTraining).value();
    for (const Encoding& encoding :
         {step->EncodeInputs(x).value(), layer->EncodeWeights(*Transposed(x, "x")).value()}) {
      for (const Share& share : encoding) {
        for (size_t p = 0; p < share.residues.size(); ++p) {
          std::vector<double> counts(static_cast<size_t>(kModuli[p]));
          for (const int8_t r : share.residues[p].values())
            ++counts[static_cast<size_t>(r + kModuli[p] / 2)];
          const double expected = 60'000.0 / kModuli[p];
          double statistic = 0;
          for (const double count : counts)
            statistic += (count - expected) * (count - expected) / expected;
          const double freedom = kModuli[p] - 1;
          EXPECT_LT(statistic, freedom + 6 * std::sqrt(2 * freedom));
          EXPECT_GT(statistic, freedom - 6 * std::sqrt(2 * freedom));
          ++compared;
        }
      }
    }
  }
  EXPECT_EQ(compared, 3 * 2 * 3 * 3);
}

// What the profile says of tempo: in inference, zeros, signs and permuted scaled values; in
// training the key shift gives the scales away, and sorted magnitudes are those of the plain
// weights.
TEST(LeakageTest, TempoHidesByPermutationOnlyOnceTheShiftIsSeen) {
  const auto scheme = NewTempoScheme().value();
  Matrix w = RandomMatrix(65, 70, 1);
  for (size_t i = 0; i < 100; ++i) w.values()[11 * i] = 0;
  const auto layer =
      scheme->NewLayer("layer", {.inputs = 65, .outputs = 70, .max_rows = 1}, StreamOf(1)).value();
  Matrix seen = layer->EncodeWeights(w).value()[0].values;
  const auto count = [](const Matrix& m, auto is) {
    return std::count_if(m.values().begin(), m.values().end(), is);
  };
  EXPECT_EQ(count(seen, [](float v) { return v == 0; }), 100);
  EXPECT_EQ(count(seen, [](float v) { return v < 0; }), count(w, [](float v) { return v < 0; }));
  EXPECT_THAT(Magnitudes(seen),
              ::testing::Not(::testing::Pointwise(::testing::FloatNear(1e-3f), Magnitudes(w))));
  const KeyShift& shift = layer->key_shift();
  for (size_t i = 0; i < seen.rows(); ++i) {
    for (size_t j = 0; j < seen.columns(); ++j) {
      seen(i, j) /= std::sqrt(shift.rows[i] * shift.columns[j]);
    }
  }
  EXPECT_THAT(Magnitudes(seen), ::testing::Pointwise(::testing::FloatNear(1e-5f), Magnitudes(w)));
  EXPECT_NE(seen, w) << "still permuted";
}

TEST(LeakageTest, SlalomBlindsInputsAndShowsWeights) {
  const auto scheme = NewSlalomScheme().value();
  const Matrix w = IntegerMatrix(30, 20, 1);
  const auto layer =
      scheme->NewLayer("fc", {.inputs = 30, .outputs = 20, .max_rows = 2000}, StreamOf(1)).value();
  const Encoding weights = layer->EncodeWeights(w).value();
  EXPECT_EQ(weights[0].residues[0](3, 4), Centered(static_cast<int64_t>(w(3, 4)), 251));
  const Matrix zeros = Matrix::Create(2000, 30, "zeros").value();
  const auto encoding =
      layer->NewStep({.samples = 2000}, Use::kInference).value()->EncodeInputs(zeros).value();
  std::vector<double> counts(251);
  for (const int8_t r : encoding[0].residues[0].values()) ++counts[static_cast<size_t>(r + 125)];
  double statistic = 0;
  for (const double c : counts)
    statistic += (c - 60'000.0 / 251) * (c - 60'000.0 / 251) * 251 / 60'000.0;
  EXPECT_LT(statistic, 250 + 6 * std::sqrt(500.0));
}

}  // namespace
}  // namespace pavise::offload
