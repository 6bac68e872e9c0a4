#include "pavise/offload/engine.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/cuda/cuda_device.h"
#include "pavise/offload/cuda/gpu_device.h"
#include "pavise/offload/cuda/testing/emulated_gpu.h"
#include "pavise/offload/none.h"
#include "pavise/offload/onednn/onednn_products.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/shared.h"
#include "pavise/offload/tempo.h"
#include "pavise/offload/testing/frames.h"
#include "pavise/offload/testing/plain_worker.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::offload {
namespace {

using testing::FloatsOf;
using testing::FrameOf;
using testing::FramesOf;
using testing::Geometry;
using ::testing::IsEmpty;
using testing::Product64;
using testing::RandomMatrix;
using testing::RelativeDifference;
using testing::ResiduesOf;
using testing::ShareOf;
using ::testing::SizeIs;
using testing::StreamOf;

std::shared_ptr<ComputeDevice> PlainDevice() { return NewCpuDevice(NewPlainProducts()); }
std::shared_ptr<ComputeDevice> OneDnnDevice() {
  auto products = NewOneDnnProducts(2);
  return products == nullptr ? nullptr : NewCpuDevice(std::move(products));
}
// What a GPU is asked to do, done by the CPU; few sums and columns at a time, so that products and
// convolutions take several.
std::shared_ptr<ComputeDevice> EmulatedGpuDevice(bool convolves) {
  return cuda::NewGpuDevice(std::make_shared<testing::EmulatedGpu>(convolves),
                            {.sum_elements = 3000, .column_elements = 600});
}
std::shared_ptr<ComputeDevice> EmulatedDevice() { return EmulatedGpuDevice(false); }
std::shared_ptr<ComputeDevice> EmulatedDeviceWithConvolutions() { return EmulatedGpuDevice(true); }
std::shared_ptr<ComputeDevice> CudaDevice() {
  auto device = OpenCudaDevice(0);
  if (device.ok()) return *device;
  // Anything but a GPU that is not there is a failure.
  EXPECT_EQ(ReasonOf(device.status()), Reason::kUnsupported) << device.status();
  return nullptr;
}

constexpr uint64_t kMemoryBytes = uint64_t{1} << 28;

struct Session {
  explicit Session(std::shared_ptr<ComputeDevice> device, uint64_t memory_bytes = kMemoryBytes)
      : budget(std::make_shared<MemoryBudget>(memory_bytes)), engine(std::move(device), budget) {}
  absl::StatusOr<Reply> Do(Request request) { return engine.Execute(std::move(request)); }

  std::shared_ptr<MemoryBudget> budget;
  WorkerEngine engine;
};

Request ProductOf(Operation operation, Frame a, Frame b) {
  Request request;
  request.command = Command::kProduct;
  request.operation = operation;
  request.frames = {std::move(a), std::move(b)};
  return request;
}

Request PutOf(uint64_t layer, uint64_t version, const LayerShape& shape, Frames weights) {
  Request request;
  request.command = Command::kPutWeights;
  request.layer = layer;
  request.version = version;
  request.layer_shape.shape = shape;
  for (const Frame& frame : weights) {
    if (frame.modulus != 0) request.layer_shape.moduli.push_back(frame.modulus);
  }
  request.frames = std::move(weights);
  return request;
}

Request StepOf(Command command, uint64_t layer, uint64_t version, uint64_t step,
               Frames frames = {}) {
  Request request;
  request.command = command;
  request.layer = layer;
  request.version = version;
  request.step = step;
  request.frames = std::move(frames);
  request.keep_inputs = true;
  return request;
}

Matrix Transpose(const Matrix& matrix) { return Transposed(matrix, "test").value(); }

// Operands of which `operation` makes m x n with sums of k terms.
std::pair<Matrix, Matrix> OperandsOf(Operation operation, size_t m, size_t k, size_t n,
                                     uint64_t seed) {
  Matrix a = RandomMatrix(m, k, seed);
  Matrix b = RandomMatrix(k, n, seed + 1);
  if (operation == Operation::kTransposeLeft) a = Transpose(a);
  if (operation == Operation::kTransposeRight) b = Transpose(b);
  return {std::move(a), std::move(b)};
}

constexpr Operation kOperations[] = {Operation::kPlain, Operation::kTransposeRight,
                                     Operation::kTransposeLeft};

class DeviceTest : public ::testing::TestWithParam<std::shared_ptr<ComputeDevice> (*)()> {
 protected:
  void SetUp() override {
    if (device == nullptr) GTEST_SKIP() << "this device is not built, or not there";
  }
  const std::shared_ptr<ComputeDevice> device = GetParam()();
  Session session{device};
};

TEST_P(DeviceTest, ProductsAreTheReferences) {
  int compared = 0;
  for (const auto& [m, k, n] : std::vector<std::array<size_t, 3>>{
           {1, 1, 1}, {1, 197, 3}, {3, 1, 65}, {63, 64, 65}, {65, 63, 1}, {128, 300, 97}}) {
    for (const Operation operation : kOperations) {
      for (const DType type : {DType::kFp32, DType::kBf16, DType::kFp16, DType::kInt8}) {
        for (const DType operand_type : {DType::kFp32, DType::kBf16}) {
          SCOPED_TRACE(StrCat(m, " ", k, " ", n, " ", static_cast<int>(operation), " ",
                              DTypeName(type), " ", DTypeName(operand_type)));
          const auto [a, b] = OperandsOf(operation, m, k, n, m + 1000 * k);
          Request request = ProductOf(operation, FrameOf(a, type), FrameOf(b, type));
          request.operand_type = operand_type;
          // The values that products are made of.
          Matrix left = FloatsOf(request.frames[0]);
          Matrix right = FloatsOf(request.frames[1]);
          if (operand_type == DType::kBf16) {
            left = FloatsOf(FrameOf(left, DType::kBf16));
            right = FloatsOf(FrameOf(right, DType::kBf16));
          }
          const Reply reply = session.Do(std::move(request)).value();
          ASSERT_THAT(reply.frames, SizeIs(1));
          // Sums of up to 300 terms in fp32.
          ASSERT_LT(
              RelativeDifference(FloatsOf(reply.frames[0]), Product64(operation, left, right)),
              4e-6);
          ++compared;
        }
      }
    }
  }
  EXPECT_EQ(compared, 6 * 3 * 4 * 2);
}

TEST_P(DeviceTest, ProductsOfResiduesAreExact) {
  int compared = 0;
  for (const auto& [m, k, n] : std::vector<std::array<size_t, 3>>{{1, 1, 1},
                                                                  {3, 1, 65},
                                                                  {63, 64, 65},
                                                                  {65, 197, 1},
                                                                  {2, kMaxInnerResidues, 3},
                                                                  {1500, 5, 800}}) {
    for (const Operation operation : kOperations) {
      for (const int modulus : {251, 241, 239, 233, 3}) {
        for (const bool extreme : {false, true}) {
          SCOPED_TRACE(StrCat(m, " ", k, " ", n, " ", static_cast<int>(operation), " ", modulus));
          std::mt19937_64 random(m + k + n);
          const int limit = modulus / 2;
          const auto fill = [&](ResidueMatrix& matrix) {
            for (int8_t& value : matrix.values()) {
              value = static_cast<int8_t>(
                  extreme ? limit
                          : static_cast<int>(random() % static_cast<uint64_t>(modulus)) - limit);
            }
          };
          const bool left = operation == Operation::kTransposeLeft;
          const bool right = operation == Operation::kTransposeRight;
          ResidueMatrix a = ResidueMatrix::Create(left ? k : m, left ? m : k, "test").value();
          ResidueMatrix b = ResidueMatrix::Create(right ? n : k, right ? k : n, "test").value();
          fill(a);
          fill(b);
          const Reply reply =
              session.Do(ProductOf(operation, FrameOf(a, modulus), FrameOf(b, modulus))).value();
          ASSERT_EQ(ResiduesOf(reply.frames.at(0)),
                    ModularProduct(operation, a.view(), b.view(), modulus).value());
          ++compared;
        }
      }
    }
  }
  EXPECT_EQ(compared, 6 * 3 * 5 * 2);
}

struct TrainedLayer {
  LayerShape shape;
  Geometry geometry;
  size_t samples = 0;
  size_t input_positions = 1;
  size_t output_positions = 1;
};

TrainedLayer LinearLayer(size_t k, size_t n, size_t samples) {
  return {{.inputs = k, .outputs = n, .max_rows = samples}, {}, samples};
}
TrainedLayer NativeLayer(size_t kernel, size_t stride, size_t padding) {
  ConvolutionShape shape = {.samples = 3,
                            .height = 6,
                            .width = 5,
                            .channels = 3,
                            .kernel_height = kernel,
                            .kernel_width = kernel,
                            .stride = stride,
                            .padding = padding};
  const size_t outputs = shape.output_height() * shape.output_width();
  return {{.inputs = 3,
           .outputs = 4,
           .taps = shape.taps(),
           .max_rows = 3 * std::max<size_t>(30, outputs)},
          {true, shape},
          3,
          30,
          outputs};
}
std::vector<TrainedLayer> TrainedLayers() {
  return {LinearLayer(1, 1, 1), LinearLayer(65, 33, 17), NativeLayer(3, 1, 1),
          NativeLayer(3, 2, 1), NativeLayer(1, 2, 0),    NativeLayer(2, 1, 0),
          NativeLayer(1, 1, 1), NativeLayer(3, 1, 4)};  // more padding than the kernel covers
}

// The weights that live on a worker are, after updates of two micro-batches each, the encoding of
// those that plain SGD makes.
TEST_P(DeviceTest, WeightsAreTrainedUnderEveryScheme) {
  std::vector<std::unique_ptr<Scheme>> schemes;
  schemes.push_back(NewNoneScheme());
  schemes.push_back(NewTempoScheme().value());
  schemes.push_back(NewOrthogonalScheme().value());
  const SgdStep sgd = {.learning_rate = 0.01f, .momentum = 0.9f, .weight_decay = 0.05f};
  uint64_t id = 0;
  int compared = 0;
  for (const auto& scheme : schemes) {
    for (const TrainedLayer& trained : TrainedLayers()) {
      ++id;
      SCOPED_TRACE(StrCat(scheme->name(), " ", id));
      const LayerShape& shape = trained.shape;
      const auto layer = scheme->NewLayer("layer", shape, StreamOf(id)).value();
      const auto none = NewNoneScheme()->NewLayer("plain", shape, StreamOf(id)).value();
      Matrix weights = RandomMatrix(shape.taps * shape.inputs, shape.outputs, id);
      Matrix velocity = Matrix::Create(weights.rows(), weights.columns(), "test").value();
      Request put = PutOf(id, 7, shape, FramesOf(layer->EncodeWeights(weights).value()[0], {}));
      if (trained.geometry.is_native) put.layer_shape.convolution = trained.geometry.convolution;
      ASSERT_TRUE(session.Do(put).ok());
      uint64_t step_number = 0;
      for (uint64_t version = 7; version < 10; ++version) {
        Matrix sum = Matrix::Create(weights.rows(), weights.columns(), "test").value();
        for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
          ++step_number;
          const Matrix x = RandomMatrix(trained.samples * trained.input_positions, shape.inputs,
                                        100 * id + step_number);
          const Matrix dy = RandomMatrix(trained.samples * trained.output_positions, shape.outputs,
                                         200 * id + step_number);
          const auto step = layer
                                ->NewStep({.samples = trained.samples,
                                           .input_positions = trained.input_positions,
                                           .output_positions = trained.output_positions},
                                          Use::kTraining)
                                .value();
          Request forward = StepOf(Command::kForward, id, version, step_number,
                                   FramesOf(step->EncodeInputs(x).value()[0], {}));
          forward.samples = trained.samples;
          const Reply y = session.Do(forward).value();
          const Encoding plain_x = {{x, {}}}, plain_w = {{weights, {}}}, plain_dy = {{dy, {}}};
          EXPECT_LT(RelativeDifference(
                        step->DecodeOutputs({ShareOf(y.frames)}).value(),
                        testing::Forward(*none, trained.geometry, plain_x, plain_w)[0].values),
                    4e-5);
          const Reply dx = session
                               .Do(StepOf(Command::kBackward, id, version, step_number,
                                          FramesOf(step->EncodeOutputGradients(dy).value()[0], {})))
                               .value();
          EXPECT_LT(
              RelativeDifference(
                  step->DecodeInputGradients({ShareOf(dx.frames)}).value(),
                  testing::InputGradient(*none, trained.geometry, plain_dy, plain_w)[0].values),
              4e-5);
          const Matrix dw =
              testing::WeightGradient(*none, trained.geometry, plain_x, plain_dy)[0].values;
          for (size_t i = 0; i < dw.values().size(); ++i) sum.values()[i] += dw.values()[i];
        }
        Request update = StepOf(Command::kUpdate, id, version, 0);
        update.sgd = sgd;
        update.shift = layer->key_shift();
        EXPECT_EQ(session.Do(update).value().version, version + 1);
        ASSERT_TRUE(ApplySgd(sgd, sum, velocity.view(), weights.view()).ok());
      }
      const Reply kept = session.Do(StepOf(Command::kGetWeights, id, 10, 0)).value();
      ASSERT_THAT(kept.frames, SizeIs(2));
      EXPECT_LT(RelativeDifference(layer->DecodeWeights({{FloatsOf(kept.frames[0]), {}}}).value(),
                                   weights),
                4e-5);
      EXPECT_LT(RelativeDifference(layer->DecodeWeights({{FloatsOf(kept.frames[1]), {}}}).value(),
                                   velocity),
                4e-5);
      ++compared;
    }
  }
  EXPECT_EQ(compared, 3 * 8);
}

// All three, in bf16: the values that travelled are exact, the weights are rounded before they are
// multiplied.
TEST_P(DeviceTest, ConvolutionsOfRoundedOperandsAreThoseOfTheirValues) {
  uint64_t id = 0;
  for (const TrainedLayer& trained : TrainedLayers()) {
    if (!trained.geometry.is_native) continue;
    ++id;
    SCOPED_TRACE(StrCat("layer ", id));
    const LayerShape& shape = trained.shape;
    const auto none = NewNoneScheme()->NewLayer("plain", shape, StreamOf(id)).value();
    const auto rounded = [](const Matrix& values) {
      return FloatsOf(FrameOf(values, DType::kBf16));
    };
    const Matrix weights = RandomMatrix(shape.taps * shape.inputs, shape.outputs, id);
    const Matrix x =
        rounded(RandomMatrix(trained.samples * trained.input_positions, shape.inputs, 10 + id));
    const Matrix dy =
        rounded(RandomMatrix(trained.samples * trained.output_positions, shape.outputs, 20 + id));
    Request put = PutOf(id, 1, shape, {FrameOf(weights)});
    put.layer_shape.convolution = trained.geometry.convolution;
    ASSERT_TRUE(session.Do(put).ok());
    Request forward = StepOf(Command::kForward, id, 1, 1, {FrameOf(x, DType::kBf16)});
    forward.samples = trained.samples;
    forward.operand_type = DType::kBf16;
    Request backward = StepOf(Command::kBackward, id, 1, 1, {FrameOf(dy)});
    backward.operand_type = DType::kBf16;
    const Encoding plain_x = {{x, {}}}, plain_w = {{rounded(weights), {}}}, plain_dy = {{dy, {}}};
    const auto near = [&](const Request& request, const Encoding& expected) {
      const Reply reply = session.Do(request).value();
      EXPECT_LT(RelativeDifference(FloatsOf(reply.frames.at(0)), expected[0].values), 4e-6);
    };
    near(forward, testing::Forward(*none, trained.geometry, plain_x, plain_w));
    near(backward, testing::InputGradient(*none, trained.geometry, plain_dy, plain_w));
    near(StepOf(Command::kUpdate, id, 1, 0),
         testing::WeightGradient(*none, trained.geometry, plain_x, plain_dy));
  }
  EXPECT_EQ(id, 6u);
}

TEST_P(DeviceTest, SharesOfResiduesAreExactAndTheirGradientsReturned) {
  const auto scheme = NewSharedScheme().value();
  uint64_t id = 0;
  for (const TrainedLayer& trained : TrainedLayers()) {
    ++id;
    SCOPED_TRACE(StrCat("layer ", id));
    const LayerShape& shape = trained.shape;
    const auto layer = scheme->NewLayer("layer", shape, StreamOf(id)).value();
    const std::vector<int> moduli = layer->moduli();
    const Encoding weights =
        layer->EncodeWeights(RandomMatrix(shape.taps * shape.inputs, shape.outputs, id)).value();
    Request put = PutOf(id, 1, shape, FramesOf(weights[0], moduli));
    if (trained.geometry.is_native) put.layer_shape.convolution = trained.geometry.convolution;
    ASSERT_TRUE(session.Do(put).ok());
    Share sum;
    for (uint64_t number = 1; number <= 2; ++number) {
      const auto step = layer
                            ->NewStep({.samples = trained.samples,
                                       .input_positions = trained.input_positions,
                                       .output_positions = trained.output_positions},
                                      Use::kTraining)
                            .value();
      const Encoding x = step->EncodeInputs(RandomMatrix(trained.samples * trained.input_positions,
                                                         shape.inputs, 10 * id + number))
                             .value();
      const Encoding dy =
          step->EncodeOutputGradients(RandomMatrix(trained.samples * trained.output_positions,
                                                   shape.outputs, 20 * id + number))
              .value();
      Request forward = StepOf(Command::kForward, id, 1, number, FramesOf(x[0], moduli));
      forward.samples = trained.samples;
      EXPECT_EQ(ShareOf(session.Do(forward).value().frames).residues,
                testing::Forward(*layer, trained.geometry, x, weights)[0].residues);
      EXPECT_EQ(
          ShareOf(session.Do(StepOf(Command::kBackward, id, 1, number, FramesOf(dy[0], moduli)))
                      .value()
                      .frames)
              .residues,
          testing::InputGradient(*layer, trained.geometry, dy, weights)[0].residues);
      const Encoding gradient = testing::WeightGradient(*layer, trained.geometry, x, dy);
      if (number == 1) sum = gradient[0];
      for (size_t p = 0; number == 2 && p < moduli.size(); ++p) {
        for (size_t i = 0; i < sum.residues[p].values().size(); ++i) {
          int8_t& value = sum.residues[p].values()[i];
          value = Centered(value + gradient[0].residues[p].values()[i], moduli[p]);
        }
      }
    }
    Request update = StepOf(Command::kUpdate, id, 1, 0);
    update.sgd = SgdStep{};
    EXPECT_EQ(ReasonOf(session.Do(update).status()), Reason::kUnsupported);
    update.sgd.reset();
    const Reply reply = session.Do(update).value();
    EXPECT_EQ(reply.version, 1u);
    EXPECT_EQ(ShareOf(reply.frames).residues, sum.residues);
    EXPECT_EQ(ReasonOf(session.Do(update).status()), Reason::kStateMissing) << "forgotten";
  }
}

// What leaves a type's range is refused, and the session goes on.
TEST_P(DeviceTest, OverflowsAreRefused) {
  Matrix large = Matrix::Create(1, 1, "test").value();
  large(0, 0) = 3e38f;
  const Frame frame = FrameOf(large);
  EXPECT_EQ(ReasonOf(session.Do(ProductOf(Operation::kPlain, frame, frame)).status()),
            Reason::kMalformed);
  Matrix one = large;
  one(0, 0) = 1;
  for (const auto& [type, limit] :
       {std::pair{DType::kFp16, 65504.0f}, std::pair{DType::kBf16, 0x1.FEp127f}}) {
    Matrix value = large;
    for (const bool over : {false, true}) {
      value(0, 0) = over ? (type == DType::kFp16 ? 65520.0f : 0x1.FFp127f) : limit;
      Request request = ProductOf(Operation::kPlain, FrameOf(value), FrameOf(one));
      request.reply_type = type;
      const auto reply = session.Do(request);
      if (over) {
        EXPECT_EQ(ReasonOf(reply.status()), Reason::kLimitExceeded) << DTypeName(type);
      } else {
        EXPECT_EQ(FloatsOf(reply.value().frames[0])(0, 0), limit);
      }
    }
  }
  // A gradient that overflows is not added.
  const LayerShape shape = {.inputs = 1, .outputs = 1, .max_rows = 1};
  ASSERT_TRUE(session.Do(PutOf(1, 1, shape, {FrameOf(one)})).ok());
  ASSERT_TRUE(session.Do(StepOf(Command::kForward, 1, 1, 1, {frame})).ok());
  ASSERT_EQ(ReasonOf(session.Do(StepOf(Command::kBackward, 1, 1, 1, {frame})).status()),
            Reason::kMalformed);
  EXPECT_EQ(ReasonOf(session.Do(StepOf(Command::kUpdate, 1, 1, 0)).status()),
            Reason::kStateMissing);
  ASSERT_TRUE(session.Do(StepOf(Command::kBackward, 1, 1, 1, {FrameOf(one)})).ok());
  EXPECT_EQ(FloatsOf(session.Do(StepOf(Command::kUpdate, 1, 1, 0)).value().frames[0])(0, 0), 3e38f);
}

INSTANTIATE_TEST_SUITE_P(Plain, DeviceTest, ::testing::Values(&PlainDevice));
INSTANTIATE_TEST_SUITE_P(OneDnn, DeviceTest, ::testing::Values(&OneDnnDevice));
INSTANTIATE_TEST_SUITE_P(EmulatedGpu, DeviceTest, ::testing::Values(&EmulatedDevice));
INSTANTIATE_TEST_SUITE_P(EmulatedGpuWithConvolutions, DeviceTest,
                         ::testing::Values(&EmulatedDeviceWithConvolutions));
INSTANTIATE_TEST_SUITE_P(Cuda, DeviceTest, ::testing::Values(&CudaDevice));

// A layer of 4 x 3 with a step whose inputs (2 x 4) are kept, and a gradient from an earlier step.
class EngineTest : public ::testing::Test {
 protected:
  EngineTest() { Prepare(session); }

  static void Prepare(Session& session) {
    const LayerShape shape = {.inputs = 4, .outputs = 3, .max_rows = 8};
    for (const Request& request : {PutOf(5, 2, shape, {FrameOf(RandomMatrix(4, 3, 1))}), Forward(3),
                                   Forward(4), Backward(3)}) {
      EXPECT_TRUE(session.Do(request).ok());
    }
  }

  static Request Forward(uint64_t step) {
    return StepOf(Command::kForward, 5, 2, step, {FrameOf(RandomMatrix(2, 4, step))});
  }
  static Request Backward(uint64_t step) {
    return StepOf(Command::kBackward, 5, 2, step, {FrameOf(RandomMatrix(2, 3, step))});
  }
  static Request Update() { return StepOf(Command::kUpdate, 5, 2, 0); }
  static Request Sgd() {
    Request request = Update();
    request.sgd = SgdStep{.learning_rate = 0.5f};
    return request;
  }

  Session session{PlainDevice()};
};

// Every one is refused for its reason, changes nothing, and what follows is answered as without it.
TEST_F(EngineTest, HostileRequestsAreRefusedAndLeaveTheSessionAsItWas) {
  const auto with = [](Request request, const std::function<void(Request&)>& change) {
    change(request);
    return request;
  };
  const LayerShape shape = {.inputs = 4, .outputs = 3, .max_rows = 8};
  const Request put = PutOf(5, 9, shape, {FrameOf(RandomMatrix(4, 3, 2))});
  const Request product =
      ProductOf(Operation::kPlain, FrameOf(RandomMatrix(2, 3, 1)), FrameOf(RandomMatrix(3, 2, 1)));
  ConvolutionShape native = {
      .height = 4, .width = 4, .channels = 4, .kernel_height = 2, .kernel_width = 2};
  const auto put_native = [&](const std::function<void(Request&)>& change) {
    Request request = PutOf(5, 9, {.inputs = 4, .outputs = 3, .taps = 4, .max_rows = 64},
                            {FrameOf(RandomMatrix(16, 3, 2))});
    request.layer_shape.convolution = native;
    change(request);
    return request;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto poison = [](Request& r) {
    r.frames[0].bytes[3] = 0x7F;
    r.frames[0].bytes[2] = 0x80;
  };
  struct Case {
    const char* what;
    Request request;
    Reason reason;
  };
  const std::vector<Case> cases = {
      {"no such command", with(product, [](Request& r) { r.command = static_cast<Command>(77); }),
       Reason::kMalformed},
      {"no such layer", with(Forward(5), [](Request& r) { r.layer = 6; }), Reason::kStateMissing},
      {"stale version", with(Forward(5), [](Request& r) { r.version = 1; }), Reason::kStateMissing},
      {"version to come", with(Backward(4), [](Request& r) { r.version = 3; }),
       Reason::kStateMissing},
      {"step 0", Forward(0), Reason::kStateMissing},
      {"repeated step", Forward(4), Reason::kStateMissing},
      {"replayed step", Forward(3), Reason::kStateMissing},
      {"repeated backward pass", Backward(3), Reason::kStateMissing},
      {"backward pass without inputs", Backward(5), Reason::kStateMissing},
      {"version that is there", with(put, [](Request& r) { r.version = 2; }),
       Reason::kStateMissing},
      {"update of another version", with(Sgd(), [](Request& r) { r.version = 1; }),
       Reason::kStateMissing},
      {"weights of another version", StepOf(Command::kGetWeights, 5, 1, 0), Reason::kStateMissing},
      {"no frames", with(Forward(5), [](Request& r) { r.frames.clear(); }), Reason::kMalformed},
      {"two frames", with(Forward(5), [](Request& r) { r.frames.push_back(r.frames[0]); }),
       Reason::kMalformed},
      {"no rows",
       with(Forward(5),
            [](Request& r) {
              r.frames[0].rows = 0;
              r.frames[0].bytes.clear();
            }),
       Reason::kMalformed},
      {"another number of columns",
       with(Forward(5), [](Request& r) { r.frames[0] = FrameOf(RandomMatrix(2, 5, 1)); }),
       Reason::kMalformed},
      {"transposed shape",
       with(Forward(5), [](Request& r) { std::swap(r.frames[0].rows, r.frames[0].columns); }),
       Reason::kMalformed},
      {"a byte too few", with(Forward(5), [](Request& r) { r.frames[0].bytes.pop_back(); }),
       Reason::kMalformed},
      {"a byte too many", with(Forward(5), [](Request& r) { r.frames[0].bytes.push_back(0); }),
       Reason::kMalformed},
      {"infinity", with(Forward(5), poison), Reason::kMalformed},
      {"infinite gradient", with(Backward(4), poison), Reason::kMalformed},
      {"infinite weights", with(put, poison), Reason::kMalformed},
      {"infinite bf16",
       with(Forward(5),
            [](Request& r) {
              r.frames[0] = FrameOf(RandomMatrix(2, 4, 1), DType::kBf16);
              r.frames[0].bytes[1] = 0x7F;
              r.frames[0].bytes[0] = 0x80;
            }),
       Reason::kMalformed},
      {"infinite fp16",
       with(Forward(5),
            [](Request& r) {
              r.frames[0] = FrameOf(RandomMatrix(2, 4, 1), DType::kFp16);
              r.frames[0].bytes[1] = 0x7C;
            }),
       Reason::kMalformed},
      {"negative int8 scale",
       with(Forward(5),
            [](Request& r) {
              r.frames[0] = FrameOf(RandomMatrix(2, 4, 1), DType::kInt8);
              r.frames[0].bytes[3] |= 0x80;
            }),
       Reason::kMalformed},
      {"no such type",
       with(Forward(5), [](Request& r) { r.frames[0].type = static_cast<DType>(9); }),
       Reason::kMalformed},
      {"no such reply type",
       with(Forward(5), [](Request& r) { r.reply_type = static_cast<DType>(9); }),
       Reason::kMalformed},
      {"int8 operands", with(Forward(5), [](Request& r) { r.operand_type = DType::kInt8; }),
       Reason::kUnsupported},
      {"no such operand type",
       with(Forward(5), [](Request& r) { r.operand_type = static_cast<DType>(9); }),
       Reason::kUnsupported},
      {"residues in a layer of floats",
       with(Forward(5),
            [](Request& r) {
              r.frames[0].modulus = 251;
              r.frames[0].bytes.resize(8);
            }),
       Reason::kMalformed},
      {"more rows than the layer's",
       with(Forward(5), [](Request& r) { r.frames[0] = FrameOf(RandomMatrix(9, 4, 1)); }),
       Reason::kLimitExceeded},
      {"gradients of another number of rows",
       with(Backward(4), [](Request& r) { r.frames[0] = FrameOf(RandomMatrix(3, 3, 1)); }),
       Reason::kMalformed},
      {"update with frames",
       with(Sgd(), [](Request& r) { r.frames = {FrameOf(RandomMatrix(1, 1, 1))}; }),
       Reason::kMalformed},
      {"learning rate NaN", with(Sgd(), [&](Request& r) { r.sgd->learning_rate = nan; }),
       Reason::kMalformed},
      {"momentum NaN", with(Sgd(), [&](Request& r) { r.sgd->momentum = nan; }), Reason::kMalformed},
      {"decay NaN", with(Sgd(), [&](Request& r) { r.sgd->weight_decay = nan; }),
       Reason::kMalformed},
      {"shift NaN",
       with(Sgd(),
            [&](Request& r) {
              r.shift.rows = {1, nan, 1, 1};
            }),
       Reason::kMalformed},
      {"shift too short",
       with(Sgd(),
            [](Request& r) {
              r.shift.columns = {1, 1};
            }),
       Reason::kMalformed},
      {"shift too long",
       with(Sgd(),
            [](Request& r) {
              r.shift.rows = {1, 1, 1, 1, 1};
            }),
       Reason::kMalformed},
      {"weights of another shape",
       with(put, [](Request& r) { r.frames[0] = FrameOf(RandomMatrix(3, 4, 1)); }),
       Reason::kMalformed},
      {"velocity of another shape",
       with(put, [](Request& r) { r.frames.push_back(FrameOf(RandomMatrix(3, 4, 1))); }),
       Reason::kMalformed},
      {"no inputs", with(put, [](Request& r) { r.layer_shape.shape.inputs = 0; }),
       Reason::kLimitExceeded},
      {"outputs beyond any", with(put, [](Request& r) { r.layer_shape.shape.outputs = SIZE_MAX; }),
       Reason::kLimitExceeded},
      {"an even modulus", with(put, [](Request& r) { r.layer_shape.moduli = {250}; }),
       Reason::kMalformed},
      {"five moduli",
       with(put,
            [](Request& r) {
              r.layer_shape.moduli = {251, 241, 239, 233, 229};
            }),
       Reason::kMalformed},
      {"no residues",
       with(put,
            [](Request& r) {
              r.layer_shape.moduli = {251};
              r.frames[0] = {DType::kFp32, 251, 4, 3, Bytes(12, 0x80)};
            }),
       Reason::kMalformed},
      {"taps without a convolution", with(put, [](Request& r) { r.layer_shape.shape.taps = 2; }),
       Reason::kMalformed},
      {"other taps than the kernel's",
       put_native([](Request& r) { r.layer_shape.convolution->kernel_width = 1; }),
       Reason::kMalformed},
      {"stride 0", put_native([](Request& r) { r.layer_shape.convolution->stride = 0; }),
       Reason::kLimitExceeded},
      {"padding beyond any",
       put_native([](Request& r) { r.layer_shape.convolution->padding = SIZE_MAX; }),
       Reason::kLimitExceeded},
      {"kernel over the image",
       put_native([](Request& r) { r.layer_shape.convolution->height = 1; }),
       Reason::kLimitExceeded},
      {"products that do not fit",
       with(product, [](Request& r) { r.operation = Operation::kTransposeLeft; }),
       Reason::kMalformed},
      {"no such operation",
       with(product, [](Request& r) { r.operation = static_cast<Operation>(3); }),
       Reason::kMalformed},
      {"one operand", with(product, [](Request& r) { r.frames.pop_back(); }), Reason::kMalformed},
      {"three operands", with(product, [](Request& r) { r.frames.push_back(r.frames[0]); }),
       Reason::kMalformed},
      {"sums of too many residues",
       with(product,
            [](Request& r) {
              const size_t inner = kMaxInnerResidues + 1;
              r.frames = {{DType::kFp32, 251, 1, inner, Bytes(inner)},
                          {DType::kFp32, 251, inner, 1, Bytes(inner)}};
            }),
       Reason::kLimitExceeded},
      {"two moduli",
       with(product,
            [](Request& r) {
              r.frames = {{DType::kFp32, 251, 1, 1, Bytes(1)}, {DType::kFp32, 241, 1, 1, Bytes(1)}};
            }),
       Reason::kMalformed},
  };
  const Bytes weights =
      session.Do(StepOf(Command::kGetWeights, 5, 2, 0)).value().frames.at(0).bytes;
  session.Do(StepOf(Command::kForget, 99, 0, 0)).IgnoreError();  // lets the last answer go
  const uint64_t used_bytes = session.budget->used_bytes();
  size_t refused = 0;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    const absl::Status status = session.Do(c.request).status();
    EXPECT_EQ(ReasonOf(status), c.reason) << status;
    refused += status.ok() ? 0 : 1;
    session.Do(StepOf(Command::kForget, 99, 0, 0)).IgnoreError();
    EXPECT_EQ(session.budget->used_bytes(), used_bytes);
  }
  EXPECT_EQ(refused, 57u);
  // All of it is as in a session that never saw them.
  Session other(PlainDevice());
  Prepare(other);
  for (const Request& request : {Forward(5), Backward(4), Backward(5), Sgd()}) {
    const Reply a = session.Do(request).value();
    const Reply b = other.Do(request).value();
    ASSERT_EQ(a.frames.size(), b.frames.size());
    for (size_t i = 0; i < a.frames.size(); ++i) EXPECT_EQ(a.frames[i].bytes, b.frames[i].bytes);
  }
}

TEST_F(EngineTest, AnUpdateMakesTheNextVersionAndLetsInputsGo) {
  const Reply updated = session.Do(Sgd()).value();
  EXPECT_EQ(updated.version, 3u);
  EXPECT_EQ(ReasonOf(session.Do(Sgd()).status()), Reason::kStateMissing) << "replayed";
  Request late = Backward(4);
  late.version = 3;
  EXPECT_EQ(ReasonOf(session.Do(late).status()), Reason::kStateMissing) << "of older weights";
  Request again = Sgd();
  again.version = 3;
  EXPECT_EQ(ReasonOf(session.Do(again).status()), Reason::kStateMissing) << "nothing was added";
}

TEST_F(EngineTest, ForgottenStepsAndLayersAreGoneAndGivenBack) {
  ASSERT_TRUE(session.Do(StepOf(Command::kForget, 5, 0, 4)).ok());
  EXPECT_EQ(ReasonOf(session.Do(Backward(4)).status()), Reason::kStateMissing);
  ASSERT_TRUE(session.Do(Forward(5)).ok());
  ASSERT_TRUE(session.Do(StepOf(Command::kForget, 5, 0, 0)).ok());
  EXPECT_EQ(session.budget->used_bytes(), 0u);
  EXPECT_EQ(ReasonOf(session.Do(Forward(6)).status()), Reason::kStateMissing);
}

TEST_F(EngineTest, WeightsPutAgainKeepTheStepsNumbersAndTheVelocityThatComesWithThem) {
  const LayerShape shape = {.inputs = 4, .outputs = 3, .max_rows = 8};
  const Frame velocity = FrameOf(RandomMatrix(4, 3, 7));
  ASSERT_TRUE(session.Do(PutOf(5, 1, shape, {FrameOf(RandomMatrix(4, 3, 6)), velocity})).ok());
  Request forward = Forward(4);
  forward.version = 1;
  EXPECT_EQ(ReasonOf(session.Do(forward).status()), Reason::kStateMissing);
  forward.step = 5;
  EXPECT_TRUE(session.Do(forward).ok());
  const Reply kept = session.Do(StepOf(Command::kGetWeights, 5, 1, 0)).value();
  ASSERT_THAT(kept.frames, SizeIs(2));
  EXPECT_EQ(kept.frames[1].bytes, velocity.bytes);
}

TEST_F(EngineTest, LayersAndKeptStepsHaveBounds) {
  const LayerShape shape = {.inputs = 1, .outputs = 1, .max_rows = 1};
  const Frame one = FrameOf(RandomMatrix(1, 1, 1));
  for (uint64_t layer = 100; layer < 100 + kMaxWorkerLayers - 1; ++layer) {
    ASSERT_TRUE(session.Do(PutOf(layer, 1, shape, {one})).ok());
  }
  EXPECT_EQ(ReasonOf(session.Do(PutOf(99, 1, shape, {one})).status()), Reason::kLimitExceeded);
  EXPECT_TRUE(session.Do(PutOf(100, 2, shape, {one})).ok()) << "one that is there";
  // One step is kept already.
  for (uint64_t step = 1; step < kMaxKeptSteps; ++step) {
    ASSERT_TRUE(session.Do(StepOf(Command::kForward, 101, 1, step, {one})).ok());
  }
  Request next = StepOf(Command::kForward, 102, 1, 1, {one});
  EXPECT_EQ(ReasonOf(session.Do(next).status()), Reason::kLimitExceeded);
  ASSERT_TRUE(session.Do(StepOf(Command::kForget, 101, 1, 9)).ok());
  EXPECT_TRUE(session.Do(next).ok());
  ASSERT_TRUE(session.Do(StepOf(Command::kForget, 101, 1, 0)).ok());
  next.step = 2;
  EXPECT_TRUE(session.Do(next).ok()) << "a layer's steps are forgotten with it";
}

// A device that holds what lives in it against what was charged.
class CountingDevice final : public ComputeDevice {
 public:
  CountingDevice(std::shared_ptr<ComputeDevice> device, const MemoryBudget& budget)
      : device_(std::move(device)), budget_(budget) {}
  std::string_view name() const override { return device_->name(); }
  bool multiplies(DType type) const override { return device_->multiplies(type); }
  bool multiplies_residues() const override { return true; }
  bool convolves() const override { return true; }
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Upload(Frame frame, DType type,
                                                       std::string_view item) override {
    const MatrixForm form = {type, frame.modulus, frame.rows, frame.columns};
    CheckCharged(form.size_bytes());
    return Counted(device_->Upload(std::move(frame), type, item));
  }
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Create(const MatrixForm& form,
                                                       std::string_view item) override {
    CheckCharged(form.size_bytes());
    return Counted(device_->Create(form, item));
  }
  absl::StatusOr<Frame> Download(const DeviceMatrix& matrix, DType type,
                                 std::string_view item) override {
    auto frame = device_->Download(*Of(matrix).inner, type, item);
    if (frame.ok()) CheckCharged(frame->bytes.size());
    return frame;
  }
  uint64_t WorkspaceBytes(const Multiplication& multiplication, const MatrixForm& a,
                          const MatrixForm& b) const override {
    return device_->WorkspaceBytes(multiplication, a, b);
  }
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Multiply(const Multiplication& multiplication,
                                                         const DeviceMatrix& a,
                                                         const DeviceMatrix& b,
                                                         std::string_view item) override {
    CheckCharged(WorkspaceBytes(multiplication, a.form(), b.form()) +
                 ResultForm(multiplication, a.form(), b.form(), item)->size_bytes());
    return Counted(device_->Multiply(multiplication, *Of(a).inner, *Of(b).inner, item));
  }
  absl::Status CheckFinite(const DeviceMatrix& matrix, std::string_view item) override {
    return device_->CheckFinite(*Of(matrix).inner, item);
  }
  absl::Status Add(DeviceMatrix& sum, const DeviceMatrix& addend) override {
    return device_->Add(*Of(sum).inner, *Of(addend).inner);
  }
  absl::Status Update(const SgdStep& step, const KeyShift& shift, const DeviceMatrix& gradient,
                      DeviceMatrix& velocity, DeviceMatrix& weights) override {
    return device_->Update(step, shift, *Of(gradient).inner, *Of(velocity).inner,
                           *Of(weights).inner);
  }

  int checks = 0;
  uint64_t live_bytes = 0;

 private:
  struct Matrix final : DeviceMatrix {
    Matrix(std::unique_ptr<DeviceMatrix> matrix, uint64_t& live)
        : DeviceMatrix(matrix->form()), inner(std::move(matrix)), live_bytes(live) {
      live_bytes += form().size_bytes();
    }
    ~Matrix() override { live_bytes -= form().size_bytes(); }
    const std::unique_ptr<DeviceMatrix> inner;
    uint64_t& live_bytes;
  };
  static const Matrix& Of(const DeviceMatrix& matrix) { return static_cast<const Matrix&>(matrix); }
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Counted(
      absl::StatusOr<std::unique_ptr<DeviceMatrix>> matrix) {
    if (!matrix.ok()) return matrix;
    return std::make_unique<Matrix>(*std::move(matrix), live_bytes);
  }
  void CheckCharged(uint64_t size_bytes) {
    ++checks;
    EXPECT_LE(live_bytes + size_bytes, budget_.used_bytes());
  }

  const std::shared_ptr<ComputeDevice> device_;
  const MemoryBudget& budget_;
};

// A training session under every limit from nothing to enough: what does not fit is refused, no
// more is ever in use than was charged, and a worker with enough does it all.
TEST(EngineMemoryTest, WhatDoesNotFitIsRefusedBeforeItIsAllocated) {
  const LayerShape shape = {.inputs = 64, .outputs = 32, .taps = 9, .max_rows = 128};
  Request put = PutOf(1, 1, shape, {FrameOf(RandomMatrix(9 * 64, 32, 1), DType::kBf16)});
  put.layer_shape.convolution = {
      .height = 8, .width = 8, .channels = 64, .kernel_height = 3, .kernel_width = 3, .padding = 1};
  Request forward =
      StepOf(Command::kForward, 1, 1, 1, {FrameOf(RandomMatrix(128, 64, 2), DType::kBf16)});
  forward.samples = 2;
  Request update = StepOf(Command::kUpdate, 1, 1, 0);
  update.sgd = SgdStep{.learning_rate = 1};
  const std::vector<Request> requests = {
      put, forward,
      StepOf(Command::kBackward, 1, 1, 1, {FrameOf(RandomMatrix(128, 32, 3), DType::kBf16)}),
      update, StepOf(Command::kGetWeights, 1, 2, 0)};
  size_t most_done = 0;
  bool was_refused_at[5] = {};
  for (uint64_t limit_bytes = 0; most_done < requests.size(); limit_bytes += 4096) {
    ASSERT_LT(limit_bytes, kMemoryBytes);
    const auto budget = std::make_shared<MemoryBudget>(limit_bytes);
    const auto device = std::make_shared<CountingDevice>(PlainDevice(), *budget);
    size_t done = 0;
    {
      WorkerEngine engine(device, budget);
      for (const Request& request : requests) {
        const absl::Status status = engine.Execute(request).status();
        if (!status.ok()) {
          EXPECT_EQ(ReasonOf(status), Reason::kLimitExceeded) << status;
          was_refused_at[done] = true;
          break;
        }
        ++done;
      }
      EXPECT_GT(device->checks, done == 0 ? -1 : 0);
    }
    EXPECT_EQ(device->live_bytes, 0u);
    EXPECT_EQ(budget->used_bytes(), 0u);
    EXPECT_GE(done, most_done) << "more memory does no less";
    most_done = done;
  }
  EXPECT_THAT(was_refused_at, ::testing::ElementsAre(true, true, true, false, false))
      << "the backward pass takes most";
}

TEST(EngineMemoryTest, SessionsShareTheirWorkersLimit) {
  const auto budget = std::make_shared<MemoryBudget>(4 * 16 * 16 + 100);
  const LayerShape shape = {.inputs = 16, .outputs = 16, .max_rows = 1};
  const Request put = PutOf(1, 1, shape, {FrameOf(RandomMatrix(16, 16, 1))});
  auto first = std::make_unique<WorkerEngine>(PlainDevice(), budget);
  WorkerEngine second(PlainDevice(), budget);
  ASSERT_TRUE(first->Execute(put).ok());
  EXPECT_EQ(ReasonOf(second.Execute(put).status()), Reason::kLimitExceeded);
  first.reset();
  EXPECT_TRUE(second.Execute(put).ok());
}

}  // namespace
}  // namespace pavise::offload
