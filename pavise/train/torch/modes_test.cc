#include "pavise/train/torch/modes.h"

#include <filesystem>
#include <memory>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/scheme_named.h"
#include "pavise/train/testing/datasets.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::train {
namespace {

using offload::Encoding;
using offload::Matrix;
using offload::MatrixView;
using pavise::testing::TemporaryDirectory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MakeHalves;

constexpr uint64_t kBatch = 8;

ImageSplits Images(size_t batches) {
  ImageSplits splits;
  splits.format = "synthetic";
  splits.classes = 2;
  splits.train = MakeHalves(batches * kBatch, 1, 8, 1);
  splits.test = MakeHalves(0, 1, 8, 2);
  return splits;
}

Mode Obfuscated(const std::string& name, std::shared_ptr<const offload::Scheme> scheme,
                size_t workers) {
  Mode mode;
  mode.name = name;
  mode.scheme = name;
  mode.connect = [scheme = std::move(scheme), workers]() -> absl::StatusOr<OffloadSetting> {
    OffloadSetting setting;
    setting.scheme = scheme;
    const std::shared_ptr<offload::ComputeDevice> device = offload::OpenCpuDevice(1);
    for (size_t i = 1; i <= workers; ++i) {
      offload::WorkerOptions options;
      options.name = StrCat("worker ", i);
      setting.workers.push_back({offload::ConnectInProcess(options, device), options.name});
    }
    return setting;
  };
  return mode;
}

Mode Named(const std::string& scheme) {
  std::shared_ptr<const offload::Scheme> made = offload::NewSchemeNamed(scheme).value();
  const size_t workers = made->workers();
  return Obfuscated(scheme, std::move(made), workers);
}

class ModesTest : public ::testing::Test {
 protected:
  ModesTest() {
    request_.options.network = "mlp";
    request_.options.batch_size = kBatch;
    request_.modes = {{.name = "tee"}};
    request_.folder = directory_ / "";
  }

  absl::StatusOr<std::vector<ModeFigures>> Compared(size_t batches = 3) {
    return CompareModes(request_, Images(batches), [this](std::string_view mode, uint64_t round) {
      turns_.push_back(StrCat(mode, " ", round));
    });
  }

  TemporaryDirectory directory_;
  ModesRequest request_;
  std::vector<std::string> turns_;
};

TEST_F(ModesTest, EveryModeIsTimedInTurnsAndComparedWithTheFirst) {
  request_.modes.push_back({.name = "again"});
  for (const char* scheme : {"none", "tempo", "orthogonal", "shared"}) {
    request_.modes.push_back(Named(scheme));
  }
  request_.rounds = 2;
  const auto figures = Compared();
  ASSERT_TRUE(figures.ok()) << figures.status();
  EXPECT_THAT(turns_, ElementsAre("warming up 0", "tee 1", "again 1", "none 1", "tempo 1",
                                  "orthogonal 1", "shared 1", "tee 2", "again 2", "none 2",
                                  "tempo 2", "orthogonal 2", "shared 2"));
  ASSERT_EQ(figures->size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    SCOPED_TRACE(request_.modes[i].name);
    const ModeFigures& mode = (*figures)[i];
    EXPECT_THAT(mode.why_not, IsEmpty());
    ASSERT_EQ(mode.turns.size(), 2u);
    // The middle one of three layers: 512 x 512.
    EXPECT_EQ(mode.offloaded_layers, i < 2 ? 0u : 1u);
    for (const ModeTurn& turn : mode.turns) {
      EXPECT_EQ(turn.images, 2 * kBatch);  // the first batch is set-up
      EXPECT_GT(turn.seconds, 0);
      EXPECT_GT(turn.setup_seconds, 0);
      EXPECT_GT(turn.coordinator_cpu_seconds, 0);
      ASSERT_TRUE(turn.worker_cpu_seconds.has_value());
      if (i < 2) {
        // One computation, one number of threads: the same bits.
        EXPECT_EQ(turn.loss_difference, 0);
        EXPECT_EQ(turn.update_difference, 0);
        EXPECT_EQ(*turn.worker_cpu_seconds, 0);
        EXPECT_EQ(turn.sent_bytes + turn.received_bytes + turn.setup_sent_bytes, 0u);
        continue;
      }
      EXPECT_GT(*turn.worker_cpu_seconds, 0);
      // Rounded otherwise, and close: bf16, or 8-bit operands.
      EXPECT_GT(turn.update_difference, 0);
      EXPECT_LT(turn.update_difference, 0.1);
      EXPECT_LT(turn.loss_difference, 0.01);
      EXPECT_GE(turn.setup_sent_bytes, 512u * 512u * 2);  // the weights
    }
    EXPECT_EQ(mode.turns[0].sent_bytes, mode.turns[1].sent_bytes);
  }
  // Two steps: X and dY of 8 x 512 in bf16 out, Y back, and dX, which the first layer wants.
  EXPECT_EQ((*figures)[2].turns[0].sent_bytes, 2u * 2 * kBatch * 512 * 2);
  EXPECT_EQ((*figures)[2].turns[0].received_bytes, 2u * 2 * kBatch * 512 * 2);
  EXPECT_THAT(std::filesystem::exists(directory_ / "run"), false);
}

// `shared`, but for what it makes of a result: `factor` times as much.
class WrongStep final : public offload::Step {
 public:
  WrongStep(std::unique_ptr<offload::Step> step, float outputs, float gradients)
      : step_(std::move(step)), outputs_(outputs), gradients_(gradients) {}
  absl::StatusOr<Encoding> EncodeInputs(MatrixView inputs) override {
    return step_->EncodeInputs(inputs);
  }
  absl::StatusOr<Encoding> EncodeOutputGradients(MatrixView gradients) override {
    return step_->EncodeOutputGradients(gradients);
  }
  absl::StatusOr<Matrix> DecodeOutputs(const Encoding& outputs) const override {
    return Times(step_->DecodeOutputs(outputs), outputs_);
  }
  absl::StatusOr<Matrix> DecodeInputGradients(const Encoding& gradients) const override {
    return Times(step_->DecodeInputGradients(gradients), gradients_);
  }
  absl::StatusOr<Matrix> DecodeWeightGradients(const Encoding& gradients) const override {
    return step_->DecodeWeightGradients(gradients);
  }

 private:
  static absl::StatusOr<Matrix> Times(absl::StatusOr<Matrix> matrix, float factor) {
    if (matrix.ok()) {
      for (float& value : matrix->values()) value *= factor;
    }
    return matrix;
  }
  const std::unique_ptr<offload::Step> step_;
  const float outputs_, gradients_;
};

class WrongLayer final : public offload::Layer {
 public:
  WrongLayer(std::unique_ptr<offload::Layer> layer, float outputs, float gradients)
      : layer_(std::move(layer)), outputs_(outputs), gradients_(gradients) {}
  const offload::LayerShape& shape() const override { return layer_->shape(); }
  std::vector<int> moduli() const override { return layer_->moduli(); }
  const offload::KeyShift& key_shift() const override { return layer_->key_shift(); }
  const offload::KeyBudget& budget() const override { return layer_->budget(); }
  absl::StatusOr<Encoding> EncodeWeights(MatrixView weights) override {
    return layer_->EncodeWeights(weights);
  }
  absl::StatusOr<Matrix> DecodeWeights(const Encoding& weights) const override {
    return layer_->DecodeWeights(weights);
  }
  absl::StatusOr<std::unique_ptr<offload::Step>> NewStep(const offload::StepShape& shape,
                                                         offload::Use use) override {
    PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<offload::Step> step, layer_->NewStep(shape, use));
    return std::make_unique<WrongStep>(std::move(step), outputs_, gradients_);
  }

 private:
  const std::unique_ptr<offload::Layer> layer_;
  const float outputs_, gradients_;
};

class WrongScheme final : public offload::Scheme {
 public:
  WrongScheme(float outputs, float gradients) : outputs_(outputs), gradients_(gradients) {}
  std::string_view name() const override { return "wrong"; }
  size_t workers() const override { return shared_->workers(); }
  bool supports(offload::Use) const override { return true; }
  bool updates_encoded_weights(offload::Optimizer optimizer) const override {
    return shared_->updates_encoded_weights(optimizer);
  }
  offload::LeakageProfile leakage(offload::Use use) const override { return shared_->leakage(use); }
  offload::KeyLimits limits(const offload::LayerShape& shape) const override {
    return shared_->limits(shape);
  }
  absl::StatusOr<std::unique_ptr<offload::Layer>> NewLayer(
      std::string item, const offload::LayerShape& shape,
      offload::SecretStream stream) const override {
    PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<offload::Layer> layer,
                            shared_->NewLayer(std::move(item), shape, std::move(stream)));
    return std::make_unique<WrongLayer>(std::move(layer), outputs_, gradients_);
  }

 private:
  const std::shared_ptr<const offload::Scheme> shared_ = offload::NewSchemeNamed("shared").value();
  const float outputs_, gradients_;
};

// Workers are honest, and every check of theirs passes: what is wrong is what the scheme decodes.
TEST_F(ModesTest, AWrongSchemeHasNoSpeed) {
  // Its wrapper changes nothing.
  request_.modes.push_back(Obfuscated("shared", std::make_shared<WrongScheme>(1.f, 1.f), 3));
  const auto right = Compared();
  ASSERT_TRUE(right.ok()) << right.status();
  const std::vector<std::pair<float, float>> planted = {
      {-1.f, 1.f}, {0.f, 1.f}, {3.f, 1.f}, {1.f, -1.f}, {1.f, 3.f}};
  for (const auto& [outputs, gradients] : planted) {
    SCOPED_TRACE(StrCat(outputs, " times the outputs, ", gradients, " times the gradients"));
    request_.modes.back() =
        Obfuscated("shared", std::make_shared<WrongScheme>(outputs, gradients), 3);
    const absl::Status status = Compared().status();
    EXPECT_EQ(ExitCodeOf(status), 3);
    EXPECT_THAT(status.message(), HasSubstr("shared: a wrong answer"));
  }
}

TEST_F(ModesTest, AModeThatIsNotOfferedSaysWhyAndOthersGoOn) {
  request_.modes.push_back(
      Obfuscated("shared", offload::NewSchemeNamed("shared").value(), 2));  // needs three
  request_.modes.push_back(Named("none"));
  request_.rounds = 2;
  const auto figures = Compared(2);
  ASSERT_TRUE(figures.ok()) << figures.status();
  EXPECT_THAT((*figures)[1].turns, IsEmpty());
  EXPECT_THAT((*figures)[1].why_not, HasSubstr("operators"));
  EXPECT_EQ((*figures)[2].turns.size(), 2u);
  EXPECT_THAT(turns_,
              ElementsAre("warming up 0", "tee 1", "shared 1", "none 1", "tee 2", "none 2"));
}

TEST_F(ModesTest, WhatCannotBeComparedIsRefused) {
  EXPECT_EQ(ExitCodeOf(Compared(1).status()), 2);  // nothing is left beside the set-up
  request_.options.network = "mpl";
  EXPECT_EQ(ExitCodeOf(Compared().status()), 2);
  request_.options.network = "mlp";
  request_.rounds = 0;
  EXPECT_EQ(ExitCodeOf(Compared().status()), 2);
  request_.rounds = 1;
  request_.modes = {Named("none")};  // nothing to compare with
  EXPECT_EQ(ExitCodeOf(Compared().status()), 2);
  request_.modes.clear();
  EXPECT_EQ(ExitCodeOf(Compared().status()), 2);
}

}  // namespace
}  // namespace pavise::train
