#include "pavise/offload/checks/weight_sketch.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/checks/freivalds.h"
#include "pavise/offload/none.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/tempo.h"
#include "pavise/offload/testing/plain_worker.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::offload {
namespace {

using testing::Product64;
using testing::RandomMatrix;
using testing::StreamOf;

constexpr size_t kRows = 37;
constexpr size_t kInputs = 65;
constexpr size_t kOutputs = 70;

WeightSketchOptions OptionsFor(DType type) {
  WeightSketchOptions options;
  options.type = type;
  options.check = FloatCheck::For(type);
  return options;
}

Matrix Rounded(const Matrix& m, DType type) {
  return UnpackMatrix(PackMatrix(m, type, "m").value(), type, m.rows(), m.columns(), "m").value();
}

// A worker with weights of its own, in fp32, and the coordinator's sketches of them.
class Training {
 public:
  Training(const Scheme& scheme, DType type, WeightSketchOptions options)
      : type_(type),
        layer_(scheme
                   .NewLayer("layer", {.inputs = kInputs, .outputs = kOutputs, .max_rows = kRows},
                             StreamOf(1))
                   .value()),
        weights(layer_->EncodeWeights(RandomMatrix(kInputs, kOutputs, 2)).value()[0].values),
        velocity(Matrix::Create(kInputs, kOutputs, "v").value()),
        sketch(WeightSketch::Create("layer", weights, {}, options, StreamOf(3)).value()) {}

  // What travels in one step, and what an honest worker answers.
  void Send(uint64_t seed) {
    step_ = layer_->NewStep({.samples = kRows}, Use::kTraining).value();
    inputs =
        Rounded(step_->EncodeInputs(RandomMatrix(kRows, kInputs, seed)).value()[0].values, type_);
    gradients = Rounded(
        step_->EncodeOutputGradients(RandomMatrix(kRows, kOutputs, seed + 1)).value()[0].values,
        type_);
    outputs = Rounded(Product64(Operation::kPlain, inputs, weights), type_);
    input_gradients = Rounded(Product64(Operation::kTransposeRight, gradients, weights), type_);
  }
  void UpdateWorker(const SgdStep& sgd) {
    Encoding x(1), dy(1);
    x[0].values = inputs;
    dy[0].values = gradients;
    const Encoding dw = testing::WeightGradient(*layer_, {}, x, dy);
    ASSERT_TRUE(ApplySgd(sgd, dw[0].values, velocity.view(), weights.view()).ok());
  }
  absl::Status UpdateSketch(const SgdStep& sgd) {
    PAVISE_RETURN_IF_ERROR(sketch.AddGradient(layer_->key_shift(), inputs, gradients));
    sketch.Update(sgd);
    return absl::OkStatus();
  }

  const KeyShift& key_shift() const { return layer_->key_shift(); }

 private:
  const DType type_;
  std::unique_ptr<Layer> layer_;
  std::unique_ptr<Step> step_;

 public:
  Matrix weights, velocity, inputs, gradients, outputs, input_gradients;
  WeightSketch sketch;
};

std::vector<std::unique_ptr<Scheme>> Schemes() {
  std::vector<std::unique_ptr<Scheme>> schemes;
  schemes.push_back(NewNoneScheme());
  schemes.push_back(NewTempoScheme().value());
  schemes.push_back(NewOrthogonalScheme().value());
  return schemes;
}

constexpr SgdStep kSgd = {0.01f, 0.9f, 0.01f};

TEST(WeightSketchTest, AnHonestWorkerPassesFortySteps) {
  int passed = 0;
  for (const auto& scheme : Schemes()) {
    for (const DType type : {DType::kFp32, DType::kFp16, DType::kBf16}) {
      SCOPED_TRACE(StrCat(scheme->name(), " ", DTypeName(type)));
      Training t(*scheme, type, OptionsFor(type));
      for (uint64_t i = 0; i < 40; ++i) {
        t.Send(100 + 2 * i);
        ASSERT_TRUE(t.sketch.CheckOutputs(t.inputs, t.outputs).ok()) << i;
        ASSERT_TRUE(t.sketch.CheckInputGradients(t.gradients, t.input_gradients).ok()) << i;
        t.UpdateWorker(kSgd);
        ASSERT_TRUE(t.UpdateSketch(kSgd).ok());
        if (i % 10 == 9) {
          ASSERT_TRUE(t.sketch.Resynchronise(t.weights, t.velocity).ok());
        }
      }
      EXPECT_TRUE(t.sketch.CheckWeights(t.weights).ok());
      EXPECT_GT(t.sketch.drift_spent(), 0);
      EXPECT_LT(t.sketch.drift_spent(), 0.002);
      ++passed;
    }
  }
  EXPECT_EQ(passed, 9);
}

// A worker that leaves out a step, does it twice, with another rate, without decay or momentum, or
// changes one weight is found in what it does next and in what it hands back.
TEST(WeightSketchTest, WrongUpdatesAreFound) {
  const std::function<void(Training&)> updates[] = {
      [](Training&) {},
      [](Training& t) {
        t.UpdateWorker(kSgd);
        t.UpdateWorker(kSgd);
      },
      [](Training& t) {
        t.UpdateWorker({0.0101f, 0.9f, 0.01f});
      },
      [](Training& t) {
        t.UpdateWorker({0.01f, 0.9f, 0});
      },
      [](Training& t) {
        t.UpdateWorker({0.01f, 0, 0.01f});
      },
      [](Training& t) {
        t.UpdateWorker(kSgd);
        t.weights(3, 5) += 0.01f;
      },
      [](Training& t) {
        t.UpdateWorker(kSgd);
        t.weights(3, 5) = NAN;
      },
  };
  int found = 0;
  for (const auto& scheme : Schemes()) {
    for (const auto& update : updates) {
      Training t(*scheme, DType::kFp32, OptionsFor(DType::kFp32));
      for (uint64_t i = 0; i < 3; ++i) {
        t.Send(50 + 2 * i);
        t.UpdateWorker(kSgd);
        ASSERT_TRUE(t.UpdateSketch(kSgd).ok());
      }
      t.Send(90);
      update(t);
      ASSERT_TRUE(t.UpdateSketch(kSgd).ok());
      const absl::Status handed_back = t.sketch.CheckWeights(t.weights);
      ASSERT_FALSE(handed_back.ok()) << scheme->name() << " " << found;
      EXPECT_THAT(*ReasonOf(handed_back),
                  ::testing::AnyOf(Reason::kResultWrong, Reason::kMalformed));
      EXPECT_FALSE(t.sketch.Resynchronise(t.weights, t.velocity).ok()) << "nothing is laundered";
      EXPECT_EQ(t.sketch.drift_spent(), 0);
      ++found;
    }
  }
  EXPECT_EQ(found, 3 * 7);
}

TEST(WeightSketchTest, WrongAnswersAreFound) {
  int found = 0;
  for (const DType type : {DType::kFp32, DType::kBf16}) {
    const auto scheme = NewOrthogonalScheme().value();
    Training t(*scheme, type, OptionsFor(type));
    t.Send(5);
    const auto wrong = [&](absl::Status status, Reason reason) {
      EXPECT_EQ(ReasonOf(status), reason);
      ++found;
    };
    Matrix y = t.outputs;
    for (float& value : y.values().subspan(7 * kOutputs, kOutputs)) value *= 1.1f;
    wrong(t.sketch.CheckOutputs(t.inputs, y), Reason::kResultWrong);
    Matrix dx = t.input_gradients;
    dx(0, 0) += 3;
    wrong(t.sketch.CheckInputGradients(t.gradients, dx), Reason::kResultWrong);
    // Rows exchanged; the answer to another step; nothing.
    Matrix exchanged = t.outputs;
    std::swap_ranges(exchanged.view().Row(0), exchanged.view().Row(1), exchanged.view().Row(1));
    wrong(t.sketch.CheckOutputs(t.inputs, exchanged), Reason::kResultWrong);
    const Matrix stale = t.outputs;
    t.Send(9);
    wrong(t.sketch.CheckOutputs(t.inputs, stale), Reason::kResultWrong);
    wrong(t.sketch.CheckOutputs(t.inputs, Matrix::Create(kRows, kOutputs, "zeros").value()),
          Reason::kResultWrong);
    Matrix nan = t.outputs;
    nan(1, 1) = NAN;
    wrong(t.sketch.CheckOutputs(t.inputs, nan), Reason::kMalformed);
    nan(1, 1) = INFINITY;
    wrong(t.sketch.CheckOutputs(t.inputs, nan), Reason::kMalformed);
    EXPECT_EQ(ExitCodeOf(t.sketch.CheckOutputs(t.inputs, t.input_gradients)), 2);
    EXPECT_EQ(ExitCodeOf(t.sketch.AddGradient({}, t.inputs, t.inputs)), 2);
  }
  EXPECT_EQ(found, 14);
}

// Against a worker that adds, before each resynchronisation, what it hopes the tolerance lets pass:
// what passed in all stays within the budget, which then ends the training.
// Matrices as frames have them, and the sketch's parts over them.
struct Travelling {
  Travelling(const Matrix& m, DType type) : fp32(m), is_bf16(type == DType::kBf16) {
    for (const float value : m.values()) bf16.push_back(Bf16FromFloat(value));
  }
  WireView view() const {
    if (!is_bf16) return {fp32, {}};
    return {{}, {bf16.data(), fp32.rows(), fp32.columns(), fp32.columns()}};
  }
  Matrix fp32;
  std::vector<uint16_t> bf16;
  bool is_bf16;
};

TEST(WeightSketchTest, InPartsAnHonestWorkerPassesAndTheSameIsFound) {
  int passed = 0;
  int found = 0;
  for (const auto& scheme : Schemes()) {
    for (const DType type : {DType::kFp32, DType::kBf16}) {
      SCOPED_TRACE(StrCat(scheme->name(), " ", DTypeName(type)));
      Training t(*scheme, type, OptionsFor(type));
      for (uint64_t i = 0; i < 20; ++i) {
        t.Send(100 + 2 * i);
        const Travelling x(t.inputs, type), dy(t.gradients, type);
        const Travelling y(t.outputs, type), dx(t.input_gradients, type);
        const KeyShift& shift = t.key_shift();
        const auto sent_x = t.sketch.Read(true, shift, true, x.view());
        const auto sent_dy = t.sketch.Read(false, shift, true, dy.view());
        ASSERT_TRUE(sent_x.ok() && sent_dy.ok());
        ASSERT_TRUE(t.sketch.CheckResult(true, *sent_x, y.view()).ok()) << i;
        ASSERT_TRUE(t.sketch.CheckResult(false, *sent_dy, dx.view()).ok()) << i;
        const auto refused = [&](bool is_forward, const Matrix& m, size_t at, float value,
                                 Reason reason) {
          Matrix changed = m;
          changed.values()[at] = value;
          EXPECT_EQ(ReasonOf(t.sketch.CheckResult(is_forward, is_forward ? *sent_x : *sent_dy,
                                                  Travelling(changed, type).view())),
                    reason)
              << value;
          ++found;
        };
        refused(true, t.outputs, 7, t.outputs.values()[7] + 8, Reason::kResultWrong);
        refused(false, t.input_gradients, 7, t.input_gradients.values()[7] + 8,
                Reason::kResultWrong);
        // Squares of which are no numbers in fp32.
        refused(true, t.outputs, 70, 1e30f, Reason::kResultWrong);
        refused(false, t.input_gradients, 3, -1e38f, Reason::kResultWrong);
        refused(true, t.outputs, 0, NAN, Reason::kMalformed);
        refused(false, t.input_gradients, 64, INFINITY, Reason::kMalformed);
        Matrix infinite = t.inputs;
        infinite(3, 4) = INFINITY;
        EXPECT_EQ(
            ReasonOf(t.sketch.Read(true, shift, true, Travelling(infinite, type).view()).status()),
            Reason::kMalformed);
        t.UpdateWorker(kSgd);
        ASSERT_TRUE(t.sketch.AddGradient(shift, x.view(), *sent_x, dy.view(), *sent_dy).ok());
        t.sketch.Update(kSgd);
        if (i % 10 == 9) {
          ASSERT_TRUE(t.sketch.Resynchronise(t.weights, t.velocity).ok());
        }
      }
      // An update that the worker leaves out.
      t.Send(7);
      const Travelling x(t.inputs, type), dy(t.gradients, type);
      const auto sent_x = t.sketch.Read(true, t.key_shift(), true, x.view());
      const auto sent_dy = t.sketch.Read(false, t.key_shift(), true, dy.view());
      ASSERT_TRUE(t.sketch.AddGradient(t.key_shift(), x.view(), *sent_x, dy.view(), *sent_dy).ok());
      t.sketch.Update(kSgd);
      EXPECT_EQ(ReasonOf(t.sketch.CheckWeights(t.weights)), Reason::kResultWrong);
      ++passed;
    }
  }
  EXPECT_EQ(passed, 6);
  EXPECT_EQ(found, 6 * 20 * 6);
}

TEST(WeightSketchTest, TamperingBelowTheToleranceEndsWithTheBudget) {
  WeightSketchOptions options = OptionsFor(DType::kFp32);
  options.drift_budget = 2e-4;
  const auto scheme = NewNoneScheme();
  Training t(*scheme, DType::kFp32, options);
  const double norm = Norm(RowNorms(t.weights));
  const Matrix direction = RandomMatrix(kInputs, kOutputs, 7);
  absl::Status last;
  int resynchronised = 0;
  size_t refusals = 0;
  double moved = 0;
  for (uint64_t i = 0; i < 400 && last.ok(); ++i) {
    t.Send(1000 + 2 * i);
    t.UpdateWorker({0.001f, 0, 0});
    ASSERT_TRUE(t.UpdateSketch({0.001f, 0, 0}).ok());
    // Twice the drift of one step's roundings, as a part of each weight.
    const Matrix before = t.weights;
    for (size_t j = 0; j < t.weights.values().size(); ++j)
      t.weights.values()[j] += 3e-7f * direction.values()[j];
    last = t.sketch.Resynchronise(t.weights, t.velocity);
    if (ReasonOf(last) == Reason::kResultWrong) {
      // Caught: this time it takes the honest way.
      ++refusals;
      t.weights = before;
      last = t.sketch.Resynchronise(t.weights, t.velocity);
    } else if (last.ok()) {
      moved += 3e-7 * Norm(RowNorms(direction));
    }
    if (last.ok()) ++resynchronised;
  }
  EXPECT_EQ(ReasonOf(last), Reason::kLimitExceeded) << resynchronised;
  EXPECT_GT(resynchronised, 10);
  EXPECT_LE(t.sketch.drift_spent(), options.drift_budget);
  EXPECT_GT(moved, 0) << "some of it did pass";
  EXPECT_LE(moved / norm, options.drift_budget) << refusals << " refusals";
}

// Against one that adds it to the velocity, which moves the weights long after it was adopted.
TEST(WeightSketchTest, TamperingWithTheVelocityIsChargedWithAllThatItWillMove) {
  WeightSketchOptions options = OptionsFor(DType::kFp32);
  options.drift_budget = 1;
  const SgdStep sgd = {0.01f, 0.99f, 0};
  const auto scheme = NewNoneScheme();
  Training t(*scheme, DType::kFp32, options);
  Matrix honest = CopyOf(t.weights, "w").value();
  Matrix honest_velocity = CopyOf(t.velocity, "v").value();
  const Matrix direction = RandomMatrix(kInputs, kOutputs, 7);
  int adopted = 0;
  for (uint64_t i = 0; i < 400; ++i) {
    t.Send(1000 + 2 * i);
    // Gradients that cancel out, so that sums may have rounded far more than they come to.
    for (size_t r = 0; r < kRows / 2; ++r) {
      for (size_t j = 0; j < kInputs; ++j) t.inputs(r + kRows / 2, j) = t.inputs(r, j);
      for (size_t j = 0; j < kOutputs; ++j) t.gradients(r + kRows / 2, j) = -t.gradients(r, j);
    }
    std::fill_n(t.gradients.view().Row(kRows - 1), kOutputs, 0.0f);
    t.UpdateWorker(sgd);
    ASSERT_TRUE(t.UpdateSketch(sgd).ok());
    const Matrix dw = Product64(Operation::kTransposeLeft, t.inputs, t.gradients);
    ASSERT_TRUE(ApplySgd(sgd, dw, honest_velocity.view(), honest.view()).ok());
    const Matrix before = t.velocity;
    // About the drift of a step's roundings.
    for (size_t j = 0; j < t.velocity.values().size() && i < 100; ++j) {
      t.velocity.values()[j] += 5e-6f * direction.values()[j];
    }
    if (t.sketch.Resynchronise(t.weights, t.velocity).ok()) {
      adopted += i < 100 ? 1 : 0;
      continue;
    }
    t.velocity = before;
    ASSERT_TRUE(t.sketch.Resynchronise(t.weights, t.velocity).ok());
  }
  EXPECT_GT(adopted, 90);
  Matrix moved = CopyOf(t.weights, "w").value();
  for (size_t j = 0; j < moved.values().size(); ++j) moved.values()[j] -= honest.values()[j];
  const double part = Norm(RowNorms(moved)) / Norm(RowNorms(honest));
  EXPECT_GT(part, 1e-6) << "it did move them";
  EXPECT_LE(part, t.sketch.drift_spent());
}

// A worker that adds one sigma to every row, always in the same direction, is never refused; what a
// model that was trained with it is off by is what the documentation says.
TEST(WeightSketchTest, ABiasBelowTheToleranceIsNotFoundAndBounded) {
  const Matrix direction = RandomMatrix(1, kOutputs, 7);
  const double direction_norm = RowNorms(direction)[0];
  for (const DType type : {DType::kBf16, DType::kFp32}) {
    WeightSketchOptions options = OptionsFor(type);
    options.drift_budget = 0.5;
    // Regression of targets that a linear layer reaches: dY = Y - X T.
    const Matrix target = RandomMatrix(kInputs, kOutputs, 3);
    Matrix weights = RandomMatrix(kInputs, kOutputs, 2);
    Matrix velocity = Matrix::Create(kInputs, kOutputs, "v").value();
    WeightSketch sketch = WeightSketch::Create("layer", weights, {}, options, StreamOf(5)).value();
    const SgdStep sgd = {0.005f, 0, 0};
    const double u = UnitRoundoff(type);
    for (uint64_t i = 0; i < 400; ++i) {
      const Matrix x = Rounded(RandomMatrix(kRows, kInputs, 100 + i), type);
      Matrix y = Product64(Operation::kPlain, x, weights);
      const std::vector<double> norms = RowNorms(y);
      for (size_t r = 0; r < kRows; ++r) {
        for (size_t j = 0; j < kOutputs; ++j) {
          y(r, j) += static_cast<float>(u * norms[r] * direction(0, j) / direction_norm);
        }
      }
      y = Rounded(y, type);
      ASSERT_TRUE(sketch.CheckOutputs(x, y).ok()) << i;
      Matrix dy = Product64(Operation::kPlain, x, target);
      for (size_t j = 0; j < dy.values().size(); ++j) {
        dy.values()[j] = y.values()[j] - dy.values()[j];
      }
      dy = Rounded(dy, type);
      const Matrix dw = Product64(Operation::kTransposeLeft, x, dy);
      ASSERT_TRUE(ApplySgd(sgd, dw, velocity.view(), weights.view()).ok());
      ASSERT_TRUE(sketch.AddGradient({}, x, dy).ok());
      sketch.Update(sgd);
      if (i % 16 == 15) {
        ASSERT_TRUE(sketch.Resynchronise(weights, velocity).ok());
      }
    }
    for (size_t j = 0; j < weights.values().size(); ++j) {
      weights.values()[j] -= target.values()[j];
    }
    const double off = Norm(RowNorms(weights)) / Norm(RowNorms(target));
    EXPECT_LT(off, 2 * u) << DTypeName(type);
    RecordProperty(std::string(DTypeName(type)), std::to_string(off / u));
    EXPECT_LT(sketch.drift_spent(), 1e-3) << "none of it is drift of the weights that are kept";
  }
}

// Steps towards one direction, each somewhat larger: every one that passes makes the next likelier,
// and the worker comes as far as with one tampering of the last size, and no further.
TEST(WeightSketchTest, TamperingStepByStepGainsNothing) {
  const FloatCheck check = FloatCheck::For(DType::kBf16);
  const Matrix weights = RandomMatrix(kInputs, kOutputs, 2);
  constexpr int kTrials = 3000;
  constexpr double kSizes[] = {1, 1.5, 2, 2.5, 3, 3.5, 4};
  int arrived = 0;
  const Matrix x = Rounded(RandomMatrix(2, kInputs, 4), DType::kBf16);
  const Matrix honest = Product64(Operation::kPlain, x, weights);
  const std::vector<double> norms = RowNorms(honest);
  const double sigma =
      check.Sigma(DType::kBf16, kInputs, norms[0], RowNorms(x)[0], 2 * Norm(RowNorms(weights)));
  for (int trial = 0; trial < kTrials; ++trial) {
    const WeightSketch sketch = WeightSketch::Create("layer", weights, {}, OptionsFor(DType::kBf16),
                                                     StreamOf(1000 + static_cast<uint64_t>(trial)))
                                    .value();
    bool passed = true;
    for (const double size : kSizes) {
      Matrix y = CopyOf(honest, "y").value();
      y(0, 3) += static_cast<float>(size * sigma);
      passed = passed && sketch.CheckOutputs(x, y).ok();
    }
    arrived += passed ? 1 : 0;
  }
  const double expected = check.PassProbability(kSizes[6]);
  EXPECT_GT(expected, 0.05);
  EXPECT_NEAR(arrived / double{kTrials}, expected,
              0.03 + 5 * std::sqrt(expected * (1 - expected) / kTrials));
}

// Gradients are often smaller than what fp16 resolves: rounding them is no lie, and larger things
// are found all the same.
TEST(WeightSketchTest, RoundingToTheLeastNumbersOfFp16IsNoTampering) {
  const Matrix weights = RandomMatrix(kInputs, kOutputs, 2);
  const WeightSketchOptions options = OptionsFor(DType::kFp16);
  const WeightSketch sketch =
      WeightSketch::Create("layer", weights, {}, options, StreamOf(3)).value();
  for (const float scale : {1e-4f, 1e-5f, 1e-6f, 1e-7f}) {
    Matrix dy = RandomMatrix(kRows, kOutputs, 4);
    for (float& value : dy.values()) value *= scale;
    dy = Rounded(dy, DType::kFp16);
    Matrix dx = Rounded(Product64(Operation::kTransposeRight, dy, weights), DType::kFp16);
    EXPECT_TRUE(sketch.CheckInputGradients(dy, dx).ok()) << scale;
    SecretStream stream = StreamOf(9);
    EXPECT_TRUE(CheckProduct(options.check, Operation::kTransposeRight, dy, weights, dx,
                             DType::kFp16, stream, "product")
                    .ok())
        << scale;
    dx(3, 5) += 2e-5f + 10 * scale;
    EXPECT_EQ(ReasonOf(sketch.CheckInputGradients(dy, dx)), Reason::kResultWrong) << scale;
  }
}

// Where squares leave fp32's range, the allowance for rounded weights must not become infinite.
TEST(WeightSketchTest, LargeInputsExcuseNothing) {
  WeightSketchOptions options = OptionsFor(DType::kBf16);
  options.operand_type = DType::kBf16;
  const Matrix weights = RandomMatrix(kInputs, kOutputs, 2);
  const WeightSketch sketch =
      WeightSketch::Create("layer", weights, {}, options, StreamOf(3)).value();
  Matrix x = RandomMatrix(kRows, kInputs, 4);
  for (float& value : x.values()) value *= 1e21f;
  x = Rounded(x, DType::kBf16);
  Matrix y = Rounded(Product64(Operation::kPlain, x, Rounded(weights, DType::kBf16)), DType::kBf16);
  EXPECT_TRUE(sketch.CheckOutputs(x, y).ok());
  for (float& value : y.values()) value = -value;
  EXPECT_EQ(ReasonOf(sketch.CheckOutputs(x, y)), Reason::kResultWrong);
  // Nor any other infinite allowance.
  const double infinite[] = {INFINITY};
  EXPECT_EQ(ReasonOf(CheckResiduals(options.check, Sketch{1, 1, {1}}, Sketch{1, 1, {0}}, infinite,
                                    "layer")),
            Reason::kResultWrong);
}

TEST(WeightSketchTest, OddNumbersOfVectorsAreUsageErrors) {
  WeightSketchOptions options;
  for (const size_t vectors : {0, 1, 3}) {
    options.check.vectors = vectors;
    EXPECT_EQ(
        ExitCodeOf(
            WeightSketch::Create("x", RandomMatrix(2, 2, 1), {}, options, StreamOf(1)).status()),
        2);
  }
  Matrix nan = RandomMatrix(2, 2, 1);
  nan(0, 1) = NAN;
  EXPECT_EQ(ReasonOf(WeightSketch::Create("x", nan, {}, {}, StreamOf(1)).status()),
            Reason::kMalformed);
}

// A convolution that the worker does itself: honest answers pass over several updates of two steps
// each, and wrong ones in every place do not.
TEST(WeightSketchTest, NativeConvolutionsAreChecked) {
  int honest = 0;
  int found = 0;
  const ConvolutionShape shapes[] = {
      {3, 5, 4, 6, 3, 3, 1, 1}, {2, 7, 7, 5, 3, 3, 2, 1}, {4, 4, 4, 3, 2, 1, 2, 0}};
  const size_t outputs = 7;
  for (const auto& scheme : Schemes()) {
    for (const ConvolutionShape& shape : shapes) {
      for (const DType type : {DType::kFp32, DType::kBf16}) {
        SCOPED_TRACE(StrCat(scheme->name(), " ", shape.channels, " ", DTypeName(type)));
        const size_t in = shape.height * shape.width;
        const size_t out = shape.output_height() * shape.output_width();
        const LayerShape layer_shape = {.inputs = shape.channels,
                                        .outputs = outputs,
                                        .taps = shape.taps(),
                                        .max_rows = shape.samples * in};
        const auto layer = scheme->NewLayer("layer", layer_shape, StreamOf(1)).value();
        Encoding weights =
            layer->EncodeWeights(RandomMatrix(shape.taps() * shape.channels, outputs, 2)).value();
        Matrix velocity = Matrix::Create(weights[0].values.rows(), outputs, "velocity").value();
        WeightSketchOptions options = OptionsFor(type);
        options.convolution = shape;
        WeightSketch sketch =
            WeightSketch::Create("layer", weights[0].values, {}, options, StreamOf(3)).value();
        const testing::Geometry geometry = {true, shape};
        for (uint64_t update = 0; update < 3; ++update) {
          Matrix sum = Matrix::Create(velocity.rows(), outputs, "sum").value();
          for (uint64_t pass = 0; pass < 2; ++pass) {
            const uint64_t seed = 10 * update + pass;
            const auto step =
                layer
                    ->NewStep(
                        {.samples = shape.samples, .input_positions = in, .output_positions = out},
                        Use::kTraining)
                    .value();
            Encoding x =
                step->EncodeInputs(RandomMatrix(shape.samples * in, shape.channels, seed)).value();
            Encoding dy =
                step->EncodeOutputGradients(RandomMatrix(shape.samples * out, outputs, seed + 5))
                    .value();
            x[0].values = Rounded(x[0].values, type);
            dy[0].values = Rounded(dy[0].values, type);
            Matrix y = Rounded(testing::Forward(*layer, geometry, x, weights)[0].values, type);
            Matrix dx =
                Rounded(testing::InputGradient(*layer, geometry, dy, weights)[0].values, type);
            ASSERT_TRUE(sketch.CheckOutputs(x[0].values, y).ok());
            ASSERT_TRUE(sketch.CheckInputGradients(dy[0].values, dx).ok());
            y(out + 1, 3) += 0.5f * static_cast<float>(Norm(RowNorms(y)));
            dx(1, 2) += 0.5f * static_cast<float>(Norm(RowNorms(dx)));
            EXPECT_EQ(ReasonOf(sketch.CheckOutputs(x[0].values, y)), Reason::kResultWrong);
            EXPECT_EQ(ReasonOf(sketch.CheckInputGradients(dy[0].values, dx)), Reason::kResultWrong);
            found += 2;
            const Encoding dw = testing::WeightGradient(*layer, geometry, x, dy);
            for (size_t i = 0; i < sum.values().size(); ++i) {
              sum.values()[i] += dw[0].values.values()[i];
            }
            ASSERT_TRUE(sketch.AddGradient(layer->key_shift(), x[0].values, dy[0].values).ok());
          }
          if (update == 1) {
            // Handed back, where the coordinator does the updates.
            Matrix wrong = sum;
            wrong(2, 1) *= 1.01f;
            EXPECT_EQ(ReasonOf(sketch.TakeGradient(wrong)), Reason::kResultWrong);
            ASSERT_TRUE(sketch.TakeGradient(sum).ok());
            ++found;
            continue;
          }
          sketch.Update(kSgd);
          ASSERT_TRUE(ApplySgd(kSgd, sum, velocity.view(), weights[0].values.view()).ok());
        }
        Matrix wrong = weights[0].values;
        wrong(wrong.rows() - 1, 0) += 0.01f;
        EXPECT_EQ(ReasonOf(sketch.CheckWeights(wrong)), Reason::kResultWrong);
        ++found;
        EXPECT_TRUE(sketch.Resynchronise(weights[0].values, velocity).ok());
        ++honest;
      }
    }
  }
  EXPECT_EQ(honest, 18);
  EXPECT_EQ(found, 18 * (2 * 6 + 2));
}

// Matrix units take bf16 operands: the worker's products are with rounded weights.
TEST(WeightSketchTest, RoundedOperandsAreAllowedForWhereTheyWereAskedFor) {
  WeightSketchOptions options = OptionsFor(DType::kBf16);
  options.operand_type = DType::kBf16;
  const auto scheme = NewOrthogonalScheme().value();
  const Matrix exact =
      scheme
          ->NewLayer("layer", {.inputs = kInputs, .outputs = kOutputs, .max_rows = kRows},
                     StreamOf(1))
          .value()
          ->EncodeWeights(RandomMatrix(kInputs, kOutputs, 2))
          .value()[0]
          .values;
  const WeightSketch sketch =
      WeightSketch::Create("layer", exact, {}, options, StreamOf(3)).value();
  const Matrix rounded = Rounded(exact, DType::kBf16);
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const Matrix x = Rounded(RandomMatrix(kRows, kInputs, seed), DType::kBf16);
    Matrix y = Rounded(Product64(Operation::kPlain, x, rounded), DType::kBf16);
    ASSERT_TRUE(sketch.CheckOutputs(x, y).ok()) << seed;
    for (float& value : y.values().subspan(5 * kOutputs, kOutputs)) value *= 1.2f;
    ASSERT_EQ(ReasonOf(sketch.CheckOutputs(x, y)), Reason::kResultWrong) << seed;
  }
  options.type = DType::kFp32;
  EXPECT_EQ(ExitCodeOf(WeightSketch::Create("layer", exact, {}, options, StreamOf(3)).status()), 2);
}

}  // namespace
}  // namespace pavise::offload
