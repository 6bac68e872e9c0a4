#include "pavise/offload/layer_chain.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/none.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/shared.h"
#include "pavise/offload/tempo.h"
#include "pavise/offload/testing/plain_worker.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::offload {
namespace {

using ::testing::HasSubstr;
using testing::Product64;
using testing::RandomMatrix;
using testing::RelativeDifference;
using testing::StreamOf;

constexpr size_t kRows = 130;
constexpr size_t kWidth = 70;
constexpr size_t kInner = 129;
constexpr SgdStep kSgd = {0.001f, 0.9f, 0.01f};

// Changes one number of every answer to `command`, once it is told to.
class LyingConnection final : public WorkerConnection {
 public:
  explicit LyingConnection(std::unique_ptr<WorkerConnection> inner) : inner_(std::move(inner)) {}
  const WorkerDescription& description() const override { return inner_->description(); }
  std::unique_ptr<PendingReply> Send(Request request) override {
    const bool lies = lies_about.has_value() && request.command == *lies_about;
    return std::make_unique<Pending>(inner_->Send(std::move(request)), lies);
  }
  std::optional<Command> lies_about;

 private:
  class Pending final : public PendingReply {
   public:
    Pending(std::unique_ptr<PendingReply> inner, bool lies)
        : inner_(std::move(inner)), lies_(lies) {}
    absl::StatusOr<Reply> Wait(absl::Time deadline) override {
      auto reply = inner_->Wait(deadline);
      // The sign of one number in bf16 is in its second byte.
      if (lies_ && reply.ok() && !reply->frames.empty()) reply->frames[0].bytes[41] ^= 0x80;
      return reply;
    }

   private:
    const std::unique_ptr<PendingReply> inner_;
    const bool lies_;
  };
  const std::unique_ptr<WorkerConnection> inner_;
};

Matrix Zeros(size_t rows, size_t columns) { return Matrix::Create(rows, columns, "test").value(); }
std::vector<float> Vector(size_t size, uint64_t seed) {
  const Matrix values = RandomMatrix(1, size, seed);
  return {values.values().begin(), values.values().end()};
}

// y = x + (gelu(norm(x) W1 + b1) W2 + b2), and what training makes of it.
struct Results {
  Matrix y = Zeros(kRows, kWidth);
  Matrix dx = Zeros(kRows, kWidth);
  Matrix inner = Zeros(kRows, kInner);
  std::vector<float> b1 = std::vector<float>(kInner);
  std::vector<float> b2 = std::vector<float>(kWidth);
  std::vector<float> gamma = std::vector<float>(kWidth);
  std::vector<float> beta = std::vector<float>(kWidth);
};

struct Parameters {
  std::vector<float> b1 = Vector(kInner, 1);
  std::vector<float> b2 = Vector(kWidth, 2);
  std::vector<float> gamma = Vector(kWidth, 3);
  std::vector<float> beta = Vector(kWidth, 4);
};

// The glue of each hop, one way for the chain and for the plain course.
struct Glue {
  FusedPass norm, gelu, last;     // forward
  FusedPass first, dgelu, dnorm;  // backward
  Glue(const Parameters& p, const Matrix& x, const Matrix& dy, Results& r) {
    norm.in = x;
    norm.gamma = p.gamma;
    norm.beta = p.beta;
    gelu.bias = p.b1;
    gelu.activation = Activation::kGelu;
    gelu.sum = r.inner.view();
    last.bias = p.b2;
    last.residual = x;
    last.plain = r.y.view();
    first.in = dy;
    first.bias_gradient = r.b2;
    dgelu.activation = Activation::kGelu;
    dgelu.saved = r.inner;
    dgelu.bias_gradient = r.b1;
    dnorm.gamma = p.gamma;
    dnorm.beta = p.beta;
    dnorm.saved = x;
    dnorm.gamma_gradient = r.gamma;
    dnorm.beta_gradient = r.beta;
    dnorm.residual = dy;
    dnorm.plain = r.dx.view();
  }
};

Matrix RunPlainly(FusedPass pass, MatrixView in, bool is_backward) {
  Matrix out = Zeros(in.rows, in.columns);
  pass.rows = in.rows;
  pass.columns = in.columns;
  pass.in = in;
  pass.is_backward = is_backward;
  pass.out = out.view();
  EXPECT_TRUE(RunPlainPass(pass).ok());
  return out;
}

// So that products are about as large as their inputs.
Matrix Weights(size_t rows, size_t columns, uint64_t seed) {
  Matrix weights = RandomMatrix(rows, columns, seed);
  for (float& value : weights.values()) value /= std::sqrt(static_cast<float>(rows));
  return weights;
}

// In float64, layer by layer.
struct PlainCourse {
  Matrix w1 = Weights(kWidth, kInner, 5), w2 = Weights(kInner, kWidth, 6);
  Matrix v1 = Zeros(kWidth, kInner), v2 = Zeros(kInner, kWidth);
  void Step(const Glue& glue, const Matrix& x, const Matrix& dy) {
    const Matrix x1 = RunPlainly(glue.norm, x, false);
    const Matrix x2 = RunPlainly(glue.gelu, Product64(Operation::kPlain, x1, w1), false);
    RunPlainly(glue.last, Product64(Operation::kPlain, x2, w2), false);
    const Matrix d2 = RunPlainly(glue.first, dy, true);
    const Matrix d1 = RunPlainly(glue.dgelu, Product64(Operation::kTransposeRight, d2, w2), true);
    RunPlainly(glue.dnorm, Product64(Operation::kTransposeRight, d1, w1), true);
    ASSERT_TRUE(
        ApplySgd(kSgd, Product64(Operation::kTransposeLeft, x1, d1), v1.view(), w1.view()).ok());
    ASSERT_TRUE(
        ApplySgd(kSgd, Product64(Operation::kTransposeLeft, x2, d2), v2.view(), w2.view()).ok());
  }
};

struct Offloaded {
  Offloaded(std::shared_ptr<const Scheme> scheme, const CoordinatorOptions& options,
            size_t workers = 1) {
    std::vector<WorkerSeat> seats;
    for (size_t i = 0; i < workers; ++i) {
      auto connection = std::make_shared<LyingConnection>(
          ConnectInProcess({.name = StrCat("w", i)}, NewCpuDevice(NewPlainProducts())));
      connections.push_back(connection);
      seats.push_back({connection, StrCat("o", i)});
    }
    coordinator =
        Coordinator::Create(std::move(scheme), std::move(seats), StreamOf(1), options).value();
    PlainCourse initial;
    layer1 = Add("fc1", std::move(initial.w1));
    layer2 = Add("fc2", std::move(initial.w2));
  }
  OffloadedLayer* Add(const std::string& item, Matrix weights) {
    LayerSpec spec;
    spec.item = item;
    spec.inputs = weights.rows();
    spec.outputs = weights.columns();
    spec.max_samples = kRows;
    LayerState state;
    state.weights = std::move(weights);
    return coordinator->AddLayer(spec, std::move(state)).value();
  }
  absl::Status Forward(LayerChain& chain, const Glue& glue) {
    PAVISE_RETURN_IF_ERROR(chain.Forward({nullptr, layer1, glue.norm}));
    PAVISE_RETURN_IF_ERROR(chain.Forward({layer1, layer2, glue.gelu}));
    return chain.Forward({layer2, nullptr, glue.last});
  }
  absl::Status Backward(LayerChain& chain, const Glue& glue) {
    PAVISE_RETURN_IF_ERROR(chain.Backward({nullptr, layer2, glue.first}));
    PAVISE_RETURN_IF_ERROR(chain.Backward({layer2, layer1, glue.dgelu}));
    return chain.Backward({layer1, nullptr, glue.dnorm});
  }
  absl::Status Step(const Glue& glue) {
    PAVISE_ASSIGN_OR_RETURN(LayerChain chain,
                            LayerChain::Begin(*coordinator, kRows, Use::kTraining));
    PAVISE_RETURN_IF_ERROR(Forward(chain, glue));
    PAVISE_RETURN_IF_ERROR(Backward(chain, glue));
    PAVISE_RETURN_IF_ERROR(layer1->Update(kSgd));
    return layer2->Update(kSgd);
  }
  std::vector<std::shared_ptr<LyingConnection>> connections;
  std::unique_ptr<Coordinator> coordinator;
  OffloadedLayer* layer1 = nullptr;
  OffloadedLayer* layer2 = nullptr;
};

MatrixView RowOf(const std::vector<float>& values) {
  return {values.data(), 1, values.size(), values.size()};
}

void ExpectSame(const Results& got, const Results& expected, double tolerance) {
  EXPECT_LT(RelativeDifference(got.y, expected.y), tolerance);
  EXPECT_LT(RelativeDifference(got.dx, expected.dx), tolerance);
  EXPECT_LT(RelativeDifference(got.inner, expected.inner), tolerance);
  EXPECT_LT(RelativeDifference(RowOf(got.b1), RowOf(expected.b1)), tolerance);
  EXPECT_LT(RelativeDifference(RowOf(got.b2), RowOf(expected.b2)), tolerance);
  EXPECT_LT(RelativeDifference(RowOf(got.gamma), RowOf(expected.gamma)), tolerance);
  EXPECT_LT(RelativeDifference(RowOf(got.beta), RowOf(expected.beta)), tolerance);
}

std::vector<std::shared_ptr<const Scheme>> Schemes() {
  return {NewNoneScheme(), NewTempoScheme().value(), NewOrthogonalScheme().value()};
}

TEST(LayerChainTest, TrainsLikePlainFloat64) {
  int compared = 0;
  for (const auto& scheme : Schemes()) {
    for (const DType type : {DType::kFp32, DType::kBf16}) {
      for (const size_t micro_batches : {1, 2}) {
        SCOPED_TRACE(StrCat(scheme->name(), " ", DTypeName(type), " ", micro_batches));
        CoordinatorOptions options;
        options.type = type;
        options.micro_batches = micro_batches;
        options.updates_per_checkpoint = 2;
        Offloaded offloaded(scheme, options);
        PlainCourse plain;
        const Parameters parameters;
        const double tolerance = type == DType::kFp32 ? 5e-5 : 6e-2;
        for (uint64_t step = 0; step < 3; ++step) {
          const Matrix x = RandomMatrix(kRows, kWidth, 100 + step);
          const Matrix dy = RandomMatrix(kRows, kWidth, 200 + step);
          Results got;
          Results expected;
          const absl::Status status = offloaded.Step(Glue(parameters, x, dy, got));
          ASSERT_TRUE(status.ok()) << status;
          plain.Step(Glue(parameters, x, dy, expected), x, dy);
          ExpectSame(got, expected, tolerance);
        }
        EXPECT_LT(RelativeDifference(offloaded.layer1->Weights().value(), plain.w1), tolerance);
        EXPECT_LT(RelativeDifference(offloaded.layer2->Weights().value(), plain.w2), tolerance);
        for (const LayerReport& report : offloaded.coordinator->Report().layers) {
          // Two products a step and micro-batch, and the weights.
          EXPECT_EQ(report.checks, 6 * micro_batches + 1);
          EXPECT_EQ(report.updates, 3u);
          EXPECT_EQ(report.recoveries, 0u);
        }
        ++compared;
      }
    }
  }
  EXPECT_EQ(compared, 3 * 2 * 2);
}

// Layer by layer, under the same keys' schemes: what fusing changes is rounding in between alone.
TEST(LayerChainTest, GivesWhatTheLayersGiveOneByOne) {
  for (const auto& scheme : Schemes()) {
    SCOPED_TRACE(scheme->name());
    CoordinatorOptions options;
    options.type = DType::kFp32;
    Offloaded fused(scheme, options);
    Offloaded apart(scheme, options);
    const Parameters parameters;
    const Matrix x = RandomMatrix(kRows, kWidth, 100);
    const Matrix dy = RandomMatrix(kRows, kWidth, 200);
    Results got;
    Results expected;
    ASSERT_TRUE(fused.Step(Glue(parameters, x, dy, got)).ok());
    const Glue glue(parameters, x, dy, expected);
    const auto y1 = apart.layer1->Forward(RunPlainly(glue.norm, x, false), Use::kTraining);
    ASSERT_TRUE(y1.ok()) << y1.status();
    const auto y2 = apart.layer2->Forward(RunPlainly(glue.gelu, y1->values, false), Use::kTraining);
    RunPlainly(glue.last, y2->values, false);
    const auto d2 = apart.layer2->Backward(y2->pass, RunPlainly(glue.first, dy, true), true);
    const auto d1 = apart.layer1->Backward(y1->pass, RunPlainly(glue.dgelu, *d2, true), true);
    RunPlainly(glue.dnorm, *d1, true);
    ExpectSame(got, expected, 2e-5);
  }
}

TEST(LayerChainTest, InferenceLeavesNothingOpen) {
  Offloaded offloaded(NewOrthogonalScheme().value(), {});
  const Parameters parameters;
  const Matrix x = RandomMatrix(kRows, kWidth, 100);
  Results got;
  const Glue glue(parameters, x, x, got);
  LayerChain chain = LayerChain::Begin(*offloaded.coordinator, kRows, Use::kInference).value();
  ASSERT_TRUE(offloaded.Forward(chain, glue).ok());
  Results expected;
  PlainCourse plain;
  plain.Step(Glue(parameters, x, x, expected), x, x);
  EXPECT_LT(RelativeDifference(got.y, expected.y), 6e-2);
  EXPECT_TRUE(offloaded.layer1->Weights().ok());  // refused while passes are open
  EXPECT_FALSE(chain.Backward({nullptr, offloaded.layer2, glue.first}).ok());
}

// A worker that lies about one number is named and evicted, and the next one's result is used.
TEST(LayerChainTest, AWorkerThatLiesIsEvictedAndTheStepIsRight) {
  for (const auto& scheme : Schemes()) {
    for (const Command command : {Command::kForward, Command::kBackward}) {
      SCOPED_TRACE(StrCat(scheme->name(), " ", static_cast<int>(command)));
      Offloaded offloaded(scheme, {}, 2);
      const Parameters parameters;
      PlainCourse plain;
      for (uint64_t step = 0; step < 3; ++step) {
        if (step == 1) {
          for (const auto& connection : offloaded.connections) {
            if (connection->description().name == offloaded.layer2->Report().workers[0]) {
              connection->lies_about = command;
            }
          }
        }
        const Matrix x = RandomMatrix(kRows, kWidth, 100 + step);
        const Matrix dy = RandomMatrix(kRows, kWidth, 200 + step);
        Results got;
        Results expected;
        const absl::Status status = offloaded.Step(Glue(parameters, x, dy, got));
        ASSERT_TRUE(status.ok()) << status;
        plain.Step(Glue(parameters, x, dy, expected), x, dy);
        ExpectSame(got, expected, 6e-2);
      }
      EXPECT_LT(RelativeDifference(offloaded.layer2->Weights().value(), plain.w2), 6e-2);
      size_t evicted = 0;
      for (const WorkerReport& worker : offloaded.coordinator->Report().workers) {
        if (worker.evicted_because.empty()) continue;
        EXPECT_THAT(worker.evicted_because, HasSubstr("rounding explains"));
        ++evicted;
      }
      EXPECT_EQ(evicted, 1u);
    }
  }
}

TEST(LayerChainTest, WithNobodyLeftTheBatchIsDroppedAndNothingElse) {
  Offloaded offloaded(NewTempoScheme().value(), {});
  const Parameters parameters;
  const Matrix x = RandomMatrix(kRows, kWidth, 100);
  Results got;
  const Glue glue(parameters, x, x, got);
  ASSERT_TRUE(offloaded.Step(glue).ok());
  const Matrix before = offloaded.layer1->Weights().value();
  offloaded.connections[0]->lies_about = Command::kBackward;
  EXPECT_EQ(ReasonOf(offloaded.Step(glue)), Reason::kResultWrong);
  EXPECT_LT(RelativeDifference(offloaded.layer1->Weights().value(), before), 1e-5);
}

TEST(LayerChainTest, MisuseIsRefused) {
  Offloaded offloaded(NewTempoScheme().value(), {});
  const Parameters parameters;
  const Matrix x = RandomMatrix(kRows, kWidth, 100);
  Results got;
  const Glue glue(parameters, x, x, got);
  const auto chain = [&] {
    return LayerChain::Begin(*offloaded.coordinator, kRows, Use::kTraining).value();
  };
  OffloadedLayer* const layer1 = offloaded.layer1;
  OffloadedLayer* const layer2 = offloaded.layer2;
  EXPECT_FALSE(LayerChain::Begin(*offloaded.coordinator, 0, Use::kTraining).ok());
  EXPECT_FALSE(chain().Forward({nullptr, nullptr, glue.norm}).ok());
  EXPECT_FALSE(chain().Forward({layer1, layer2, glue.gelu}).ok()) << "nothing was sent";
  EXPECT_FALSE(chain().Backward({nullptr, layer2, glue.first}).ok()) << "no forward pass";
  EXPECT_FALSE(chain().Forward({nullptr, layer2, glue.norm}).ok()) << "another width";
  FusedPass no_input = glue.norm;
  no_input.in = {};
  EXPECT_FALSE(chain().Forward({nullptr, layer1, no_input}).ok());
  LayerChain twice = chain();
  ASSERT_TRUE(twice.Forward({nullptr, layer1, glue.norm}).ok());
  EXPECT_FALSE(twice.Forward({nullptr, layer1, glue.norm}).ok());
  LayerChain too_long =
      LayerChain::Begin(*offloaded.coordinator, 2 * kRows, Use::kTraining).value();
  FusedPass wide = glue.norm;
  const Matrix more = RandomMatrix(2 * kRows, kWidth, 1);
  wide.in = more;
  EXPECT_EQ(ReasonOf(too_long.Forward({nullptr, layer1, wide})), Reason::kLimitExceeded);

  Matrix infinite = x;
  infinite(3, 4) = std::numeric_limits<float>::infinity();
  FusedPass bad = glue.norm;
  bad.gamma = bad.beta = {};
  bad.in = infinite;
  EXPECT_EQ(ReasonOf(chain().Forward({nullptr, layer1, bad})), Reason::kMalformed);

  // After all that the layers work.
  EXPECT_TRUE(offloaded.Step(glue).ok());

  // Residues are not fused, and a layer belongs to its coordinator.
  Offloaded other(NewTempoScheme().value(), {});
  EXPECT_FALSE(chain().Forward({nullptr, other.layer1, glue.norm}).ok());
  Offloaded in_residues(NewSharedScheme({.level = 1000}).value(), {}, 3);
  EXPECT_FALSE(LayerChain::Supports(*in_residues.layer1));
  EXPECT_TRUE(LayerChain::Supports(*layer1));
}

}  // namespace
}  // namespace pavise::offload
