#include "pavise/audit/torch/recorded_run.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/none.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/shared.h"
#include "pavise/offload/tempo.h"
#include "pavise/train/testing/datasets.h"
#include "pavise/train/torch/zoo.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::audit {
namespace {

using ::testing::HasSubstr;

constexpr size_t kSide = 8, kClasses = 2;

class RecordedRunTest : public ::testing::Test {
 protected:
  RecordedRunTest() : images_(train::testing::MakeHalves(16, 1, kSide, 3)) {
    request_.network = "mlp";
    request_.batch_size = 8;
    request_.type = offload::DType::kFp32;
    request_.learning_rate = 0;  // steps repeat exactly
    request_.scheme = offload::NewTempoScheme().value();
    request_.new_worker = [](const std::string& name) {
      return offload::ConnectInProcess({.name = name},
                                       offload::NewCpuDevice(offload::NewPlainProducts()));
    };
  }

  absl::StatusOr<RecordedRun> Record() {
    return RecordRun(request_, images_, kClasses, [](auto) {});
  }

  // Weights of the MLP as a file has them, each element `value` or its opposite: sums of equal
  // numbers would all be rounded one way, which checks take for tampering.
  train::TensorFile ModelOf(float value) {
    const auto network = train::MakeNetwork("mlp", {1, kSide, kSide}, kClasses).value();
    std::vector<train::NamedTensor> tensors;
    for (const auto& parameter : network->named_parameters()) {
      const torch::NoGradGuard no_grad;
      torch::Tensor tensor = parameter.value();
      torch::manual_seed(5);
      tensor.copy_(torch::randint(0, 2, tensor.sizes()).mul(2).sub(1).mul(value));
      tensors.push_back({parameter.key(),
                         "F32",
                         {tensor.sizes().begin(), tensor.sizes().end()},
                         {static_cast<const uint8_t*>(tensor.data_ptr()), tensor.nbytes()}});
    }
    EXPECT_TRUE(train::WriteTensorFile(directory_ / "m", tensors, {}, true, 0600).ok());
    return train::ReadTensorFile(directory_ / "m").value();
  }

  pavise::testing::TemporaryDirectory directory_;
  train::ImageDataset images_;
  RunRequest request_;
};

double Difference(const offload::Matrix& a, const offload::Matrix& b) {
  if (a.rows() != b.rows() || a.columns() != b.columns()) return INFINITY;
  double most = 0;
  for (size_t i = 0; i < a.values().size(); ++i)
    most = std::max<double>(most, std::abs(a.values()[i] - b.values()[i]));
  return most;
}

TEST_F(RecordedRunTest, TheTruthIsWhatTheTrafficDecodesTo) {
  for (const std::shared_ptr<const offload::Scheme>& scheme :
       {std::shared_ptr<const offload::Scheme>(offload::NewTempoScheme().value()),
        std::shared_ptr<const offload::Scheme>(offload::NewOrthogonalScheme().value())}) {
    request_.scheme = scheme;
    const RecordedRun run = Record().value();
    ASSERT_EQ(run.layers.size(), 1u);
    EXPECT_EQ(run.not_attacked.size(), 2u);
    const AuditedLayer& layer = run.layers[0];
    EXPECT_EQ(layer.item, "layers.2.weight");
    offload::Encoding weights(1);
    weights[0].values = layer.seen.weights;
    EXPECT_LT(Difference(layer.keys->DecodeWeights(weights).value(), layer.plain.weights), 1e-5);
    EXPECT_GT(Difference(layer.seen.weights, layer.plain.weights), 0.01);
    ASSERT_EQ(layer.seen.steps.size(), 3u);
    for (const SeenStep& step : layer.seen.steps) {
      EXPECT_EQ(step.inputs.rows(), 8u);
      EXPECT_EQ(step.inputs.columns(), 512u);
      EXPECT_EQ(step.outputs.columns(), 512u);
      EXPECT_EQ(step.output_gradients.rows(), 8u);
    }
    EXPECT_EQ(layer.seen.shift.rows.empty(), scheme->name() != "tempo");
    // Step 3 has the images of step 1 in another order, and step 2 others.
    const auto farthest = [&](size_t other) {
      double most = 0;
      for (size_t i = 0; i < 8; ++i) {
        double nearest = INFINITY;
        for (size_t j = 0; j < 8; ++j) {
          double sum = 0;
          for (size_t c = 0; c < 512; ++c) {
            sum +=
                std::abs(layer.plain.steps[0].inputs(i, c) - layer.plain.steps[other].inputs(j, c));
          }
          nearest = std::min(nearest, sum);
        }
        most = std::max(most, nearest);
      }
      return most;
    };
    EXPECT_LT(farthest(2), 1e-3);
    EXPECT_GT(farthest(1), 1e-3);
    EXPECT_GT(Difference(layer.plain.steps[0].inputs, layer.plain.steps[2].inputs), 1e-3);
  }
}

TEST_F(RecordedRunTest, InferenceSendsNoGradients) {
  request_.use = offload::Use::kInference;
  const RecordedRun run = Record().value();
  for (const SeenStep& step : run.layers.at(0).seen.steps)
    EXPECT_TRUE(step.output_gradients.values().empty());
  EXPECT_TRUE(run.layers[0].seen.shift.rows.empty());
}

TEST_F(RecordedRunTest, OneWorkerOfSharedIsRecordedInResidues) {
  request_.scheme = offload::NewSharedScheme().value();
  const RecordedRun run = Record().value();
  EXPECT_EQ(run.layers.at(0).keys, nullptr);
  EXPECT_GE(run.layers[0].seen.form.moduli.size(), 3u);
  for (const float residue : run.layers[0].seen.weights.values()) ASSERT_LE(std::abs(residue), 125);
}

TEST_F(RecordedRunTest, EveryWorkerOfSharedHasAViewOfItsOwn) {
  request_.scheme = offload::NewSharedScheme().value();
  const RecordedRun run = Record().value();
  const AuditedLayer& layer = run.layers.at(0);
  ASSERT_EQ(layer.others.size(), 2u);
  for (const SeenLayer& other : layer.others) {
    EXPECT_EQ(other.steps.size(), 3u);
    EXPECT_GT(Difference(other.steps[0].inputs, layer.seen.steps[0].inputs), 0);
  }
  EXPECT_EQ(layer.labels.size(), 8u);
}

TEST_F(RecordedRunTest, ARunIsRepeatedByItsSeed) {
  for (const std::shared_ptr<const offload::Scheme>& scheme :
       {std::shared_ptr<const offload::Scheme>(offload::NewOrthogonalScheme().value()),
        std::shared_ptr<const offload::Scheme>(offload::NewSharedScheme().value())}) {
    request_.scheme = scheme;
    const auto inputs = [&] { return Record().value().layers.at(0).seen.steps.at(2).inputs; };
    const offload::Matrix once = inputs();
    EXPECT_EQ(inputs(), once) << scheme->name();
    ++request_.seed;
    EXPECT_NE(inputs(), once) << scheme->name();
  }
}

TEST_F(RecordedRunTest, ProductsOfAttentionAreRecorded) {
  request_.network = "vit_tiny";
  request_.batch_size = 2;
  request_.steps = 1;
  request_.max_layers = 2;
  constexpr size_t kTokens = 5, kHead = 64;
  for (const bool trains : {true, false}) {
    for (const bool is_shared : {false, true}) {
      if (is_shared && !trains) continue;
      request_.use = trains ? offload::Use::kTraining : offload::Use::kInference;
      request_.scheme =
          is_shared
              ? std::shared_ptr<const offload::Scheme>(offload::NewSharedScheme().value())
              : std::shared_ptr<const offload::Scheme>(offload::NewOrthogonalScheme().value());
      const RecordedRun run = Record().value();
      ASSERT_EQ(run.layers.size(), 6u);
      size_t products = 0;
      for (const AuditedLayer& layer : run.layers) {
        if (!layer.is_product) continue;
        ++products;
        SCOPED_TRACE(layer.item);
        ASSERT_EQ(layer.plain.steps.size(), trains ? 3u : 2u);
        const offload::Matrix& a = layer.plain.steps[0].inputs;
        EXPECT_EQ(a.rows(), kTokens);
        EXPECT_EQ(a.columns(), layer.has_probabilities ? kTokens : kHead);
        EXPECT_EQ(layer.plain.weights.rows(), a.columns());
        EXPECT_EQ(layer.others.size(), is_shared ? 2u : 0u);
        EXPECT_EQ(layer.keys == nullptr, is_shared);
        for (size_t i = 0; layer.has_probabilities && i < kTokens; ++i) {
          float sum = 0;
          for (size_t j = 0; j < kTokens; ++j) sum += a(i, j);
          EXPECT_NEAR(sum, 1, 1e-5);
        }
        if (trains) {
          // The first operand once more, for the gradient of the second.
          EXPECT_EQ(layer.plain.steps[2].inputs, a);
          EXPECT_GT(Difference(layer.seen.steps[2].inputs, layer.seen.steps[0].inputs), 0.01);
        }
        EXPECT_GT(Difference(layer.plain.steps[1].inputs, a), 1e-6) << "another image";
        EXPECT_GT(Difference(layer.seen.steps[0].inputs, a), 0.01);
        if (is_shared) continue;
        offload::Encoding operand(1);
        operand[0].values = layer.seen.weights;
        EXPECT_LT(Difference(layer.keys->DecodeWeights(operand).value(), layer.plain.weights),
                  1e-3);
      }
      EXPECT_EQ(products, 4u) << "of the first and of the last block";
    }
  }
  request_.attention = false;
  EXPECT_EQ(Record().value().layers.size(), 2u);
}

TEST_F(RecordedRunTest, ConvolutionsByTheWorkerAreRecorded) {
  request_.network = "resnet18";
  request_.batch_size = 2;
  request_.steps = 1;
  request_.max_layers = 1;
  images_ = train::testing::MakeHalves(4, 1, kSide, 3);
  for (const bool is_native : {true, false}) {
    request_.convolutions =
        is_native ? train::ConvolutionForm::kNative : train::ConvolutionForm::kIm2col;
    const RecordedRun run = Record().value();
    const AuditedLayer& layer = run.layers.at(0);
    EXPECT_EQ(layer.item, "layer1.0.conv1.weight");
    EXPECT_EQ(layer.seen.form.convolution.has_value(), is_native);
    EXPECT_EQ(layer.plain.weights.rows(), 9 * 64u);
    EXPECT_EQ(layer.plain.steps[0].inputs.rows(), 2 * kSide * kSide);
    EXPECT_EQ(layer.plain.steps[0].inputs.columns(), is_native ? 64u : 9 * 64u);
  }
}

TEST_F(RecordedRunTest, ModelAndBaseAreReadByName) {
  const train::TensorFile model = ModelOf(0.25f), base = ModelOf(0.5f);
  request_.model = &model;
  request_.base = &base;
  const RecordedRun run = Record().value();
  for (const float weight : run.layers.at(0).plain.weights.values())
    ASSERT_EQ(std::abs(weight), 0.25f);
  for (const float weight : run.layers[0].base.values()) ASSERT_EQ(std::abs(weight), 0.5f);
  request_.base = nullptr;
  request_.assumed_base_distance = 0.1;
  const RecordedRun assumed = Record().value();
  double distance = 0;
  const offload::Matrix& weights = assumed.layers.at(0).plain.weights;
  for (size_t i = 0; i < weights.values().size(); ++i) {
    const double off = assumed.layers[0].base.values()[i] - weights.values()[i];
    distance += off * off;
  }
  EXPECT_NEAR(std::sqrt(distance), 0.1 * 0.25 * 512, 0.01);
}

TEST_F(RecordedRunTest, Refusals) {
  const auto refused = [&](Reason reason, std::string_view text) {
    const absl::Status status = Record().status();
    EXPECT_EQ(ReasonOf(status), reason) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(text)));
  };
  const RunRequest good = request_;
  train::TensorFile model = ModelOf(1);
  model.table.tensors.pop_back();
  request_.model = &model;
  refused(Reason::kMalformed, "is missing");
  request_ = good;
  model = ModelOf(1);
  model.table.tensors[0].shape = {1};
  request_.base = &model;
  refused(Reason::kMalformed, "another shape");
  request_ = good;
  request_.batch_size = 9;
  refused(Reason::kMalformed, "two batches");
  request_ = good;
  request_.least_width = 4096;
  EXPECT_EQ(ExitCodeOf(Record().status()), 2);
  request_ = good;
  request_.network = "mpl";
  EXPECT_EQ(ExitCodeOf(Record().status()), 2);
  request_ = good;
  request_.steps = 0;
  EXPECT_EQ(ExitCodeOf(Record().status()), 2);
}

}  // namespace
}  // namespace pavise::audit
