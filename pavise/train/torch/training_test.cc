#include "pavise/train/torch/training.h"

#include <csignal>
#include <filesystem>
#include <map>
#include <memory>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/model/tensor_table.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/tempo.h"
#include "pavise/train/tensor_file.h"
#include "pavise/train/testing/datasets.h"
#include "pavise/train/torch/zoo.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "torch/nn/functional/loss.h"
#include "torch/optim/adamw.h"
#include "torch/optim/sgd.h"
#include "torch/utils.h"

namespace pavise::train {
namespace {

using pavise::testing::ContentOf;
using pavise::testing::TemporaryDirectory;
using ::testing::HasSubstr;
using testing::MakeHalves;

ImageSplits Halves() {
  ImageSplits splits;
  splits.format = "NPZ";
  splits.classes = 2;
  splits.train = MakeHalves(41, 1, 8, 1);
  splits.test = MakeHalves(20, 1, 8, 2);
  return splits;
}

TrainingOptions SmallOptions() {
  TrainingOptions options;
  options.network = "mlp";
  options.epochs = 2;
  options.batch_size = 8;
  options.learning_rate = 0.01;
  options.augmentation = {.flip = false, .crop_padding = 1};
  return options;
}

class LossRecorder final : public TrainingObserver {
 public:
  void OnStep(const StepReport& report) override { losses.push_back(report.loss); }
  std::vector<double> losses;
};

TrainingRequest RequestFor(const std::string& folder, const TrainingOptions& options) {
  std::filesystem::create_directories(folder);
  TrainingRequest request;
  request.options = options;
  request.folder = folder;
  return request;
}

// The losses of a run that must succeed.
std::vector<double> LossesOf(const TrainingRequest& request, const ImageSplits& splits) {
  LossRecorder recorder;
  const auto result = Train(request, splits, recorder);
  EXPECT_TRUE(result.ok()) << result.status();
  return recorder.losses;
}

TEST(TrainingTest, LearnsAndWritesWhatItDid) {
  const TemporaryDirectory directory;
  TrainingOptions options = SmallOptions();
  options.epochs = 4;
  LossRecorder recorder;
  const auto result = Train(RequestFor(directory / "out", options), Halves(), recorder);
  ASSERT_TRUE(result.ok()) << result.status();
  // 41 images: five batches of eight, and the one that is left is left out.
  EXPECT_EQ(result->steps, 20u);
  ASSERT_EQ(recorder.losses.size(), 20u);
  EXPECT_LT(recorder.losses.back(), 0.1 * recorder.losses.front());
  EXPECT_EQ(result->last.test_accuracy, 1);
  const auto metrics = ParseMetrics(AsBytes(ContentOf(directory / "out/metrics.jsonl")), "metrics");
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  ASSERT_EQ(metrics->steps.size(), 20u);
  ASSERT_EQ(metrics->epochs.size(), 4u);
  EXPECT_EQ(metrics->steps[7].loss, recorder.losses[7]);
  EXPECT_THAT(ContentOf(directory / "out/curves.svg"), HasSubstr("mlp on NPZ, in the clear"));
  EXPECT_THAT(ContentOf(directory / "out/model/network.json"), HasSubstr("\"network\": \"mlp\""));
  const std::string model = ContentOf(directory / "out/model/model.safetensors");
  const ByteSpan bytes = AsBytes(model);
  const auto header = model::SafetensorsHeaderBytes(bytes.first(8), bytes.size(), "model");
  ASSERT_TRUE(header.ok());
  const auto table = model::ParseSafetensorsHeader(bytes.first(*header), bytes.size(), "model");
  ASSERT_TRUE(table.ok()) << table.status();
  std::map<std::string, std::vector<uint64_t>> shapes;
  for (const auto& tensor : table->tensors) shapes[tensor.name] = tensor.shape;
  EXPECT_THAT(shapes, ::testing::ElementsAre(
                          ::testing::Pair("layers.0.bias", ::testing::ElementsAre(512)),
                          ::testing::Pair("layers.0.weight", ::testing::ElementsAre(512, 64)),
                          ::testing::Pair("layers.2.bias", ::testing::ElementsAre(512)),
                          ::testing::Pair("layers.2.weight", ::testing::ElementsAre(512, 512)),
                          ::testing::Pair("layers.4.bias", ::testing::ElementsAre(2)),
                          ::testing::Pair("layers.4.weight", ::testing::ElementsAre(2, 512))));
}

TEST(TrainingTest, GoesOnFromAModelThatIsItsBase) {
  const TemporaryDirectory directory;
  TrainingOptions options = SmallOptions();
  options.epochs = 4;
  LossesOf(RequestFor(directory / "base", options), Halves());
  const std::string model = ContentOf(directory / "base/model/model.safetensors");
  TensorFile base;
  base.bytes.assign(AsBytes(model).begin(), AsBytes(model).end());
  const auto header =
      model::SafetensorsHeaderBytes(AsBytes(model).first(8), base.bytes.size(), "base");
  base.table =
      model::ParseSafetensorsHeader(AsBytes(model).first(header.value()), base.bytes.size(), "base")
          .value();

  const double from_nothing =
      LossesOf(RequestFor(directory / "from-nothing", options), Halves()).front();
  TrainingRequest request = RequestFor(directory / "tuned", options);
  request.base = &base;
  EXPECT_LT(LossesOf(request, Halves()).front(), 0.5 * from_nothing);
  // The same under a key that nobody else has.
  OffloadSetting setting;
  setting.scheme = *offload::NewOrthogonalScheme();
  setting.workers.push_back(
      {offload::ConnectInProcess({.name = "worker", .memory_limit_bytes = uint64_t{1} << 30},
                                 offload::OpenCpuDevice(1)),
       "operator"});
  options.scheme = "orthogonal";
  request = RequestFor(directory / "hidden", options);
  request.base = &base;
  request.offload = &setting;
  EXPECT_LT(LossesOf(request, Halves()).front(), 0.5 * from_nothing);

  // Of another network, or not all of one.
  TrainingObserver observer;
  options.scheme = "";
  ImageSplits wider = Halves();
  wider.train = MakeHalves(41, 1, 12, 1);
  wider.test = MakeHalves(20, 1, 12, 2);
  request = RequestFor(directory / "wider", options);
  request.base = &base;
  const absl::Status other = Train(request, wider, observer).status();
  EXPECT_EQ(ReasonOf(other), Reason::kMalformed) << other;
  EXPECT_THAT(other.ToString(), HasSubstr("base: layers.0.weight"));
  std::erase_if(base.table.tensors,
                [](const model::TensorEntry& entry) { return entry.name == "layers.4.bias"; });
  const absl::Status missing = Train(request, Halves(), observer).status();
  EXPECT_EQ(ReasonOf(missing), Reason::kMalformed) << missing;
  EXPECT_THAT(missing.ToString(), HasSubstr("base: layers.4.bias: is missing"));
}

// libtorch's own optimizers, on the same batches.
TEST(TrainingTest, StepsAreThoseOfLibtorchsOptimizers) {
  for (const bool adam : {false, true}) {
    TrainingOptions options = SmallOptions();
    options.augmentation = {};
    options.cosine = false;
    options.epochs = 1;
    options.learning_rate = adam ? 1e-3 : 0.05;
    options.optimizer = adam ? offload::Optimizer::kAdamW : offload::Optimizer::kSgd;
    const ImageSplits splits = Halves();
    const TemporaryDirectory directory;
    const std::vector<double> losses = LossesOf(RequestFor(directory / "out", options), splits);
    ASSERT_EQ(losses.size(), 5u);

    torch::manual_seed(options.seed);
    auto network = *MakeNetwork("mlp", {1, 8, 8}, 2);
    std::unique_ptr<torch::optim::Optimizer> optimizer;
    if (adam) {
      optimizer = std::make_unique<torch::optim::AdamW>(
          network->parameters(),
          torch::optim::AdamWOptions(1e-3).weight_decay(options.weight_decay));
    } else {
      optimizer = std::make_unique<torch::optim::SGD>(
          network->parameters(),
          torch::optim::SGDOptions(0.05).momentum(0.9).weight_decay(options.weight_decay));
    }
    const Normalisation normalisation = MeasureNormalisation(splits.train);
    const auto order = EpochOrder(splits.train.count(), options.seed, 1);
    for (size_t step = 0; step < losses.size(); ++step) {
      torch::Tensor images = torch::empty({8, 1, 8, 8});
      torch::Tensor labels = torch::empty({8}, torch::kInt64);
      for (int64_t i = 0; i < 8; ++i) {
        const uint32_t image = order[step * 8 + static_cast<size_t>(i)];
        NormaliseImage(splits.train, image, normalisation, {images.data_ptr<float>() + i * 64, 64});
        labels[i] = static_cast<int64_t>(splits.train.labels[image]);
      }
      optimizer->zero_grad();
      const torch::Tensor loss =
          torch::nn::functional::cross_entropy(network->forward(images), labels);
      loss.backward();
      optimizer->step();
      // Roundings of the same formulas in another order of operations.
      EXPECT_NEAR(losses[step], loss.item<double>(), 1e-5 * (1 + losses[0])) << adam << step;
    }
  }
}

// In the clear by libtorch, offloaded by the coordinator from gradients that came from workers.
TEST(TrainingTest, MuonOnWorkersFollowsMuonHere) {
  TrainingOptions options = SmallOptions();
  options.optimizer = offload::Optimizer::kMuon;
  options.momentum = 0.95;
  options.batch_size = 20;
  options.epochs = 5;
  const ImageSplits splits = Halves();
  const TemporaryDirectory directory;
  const std::vector<double> plain = LossesOf(RequestFor(directory / "plain", options), splits);
  ASSERT_EQ(plain.size(), 10u);
  EXPECT_LT(plain.back(), 0.8 * plain.front());
  size_t compared = 0;
  for (const std::string& scheme : {std::string("tempo"), std::string("orthogonal")}) {
    OffloadSetting setting;
    setting.scheme = scheme == "tempo"
                         ? std::shared_ptr<offload::Scheme>(*offload::NewTempoScheme())
                         : *offload::NewOrthogonalScheme();
    setting.workers.push_back(
        {offload::ConnectInProcess({.name = "worker", .memory_limit_bytes = uint64_t{1} << 30},
                                   offload::OpenCpuDevice(1)),
         "operator"});
    setting.options.type = offload::DType::kFp32;
    setting.options.local_product = [](offload::Operation operation, offload::MatrixView a,
                                       offload::MatrixView b) -> absl::StatusOr<offload::Matrix> {
      const auto tensor = [](offload::MatrixView m) {
        return torch::from_blob(const_cast<float*>(m.data),
                                {static_cast<int64_t>(m.rows), static_cast<int64_t>(m.columns)});
      };
      const torch::Tensor product =
          torch::matmul(
              operation == offload::Operation::kTransposeLeft ? tensor(a).t() : tensor(a),
              operation == offload::Operation::kTransposeRight ? tensor(b).t() : tensor(b))
              .contiguous();
      const size_t columns = static_cast<size_t>(product.size(1));
      return offload::CopyOf(
          {product.data_ptr<float>(), static_cast<size_t>(product.size(0)), columns, columns},
          "product");
    };
    setting.least_width = 2;
    options.scheme = scheme;
    TrainingRequest request = RequestFor(directory / scheme, options);
    request.offload = &setting;
    const std::vector<double> losses = LossesOf(request, splits);
    ASSERT_EQ(losses.size(), plain.size());
    // The iterations bring the smallest singular values up, with their roundings.
    for (size_t i = 0; i < losses.size(); ++i)
      EXPECT_NEAR(losses[i], plain[i], 2e-2) << scheme << i;
    ++compared;
  }
  EXPECT_EQ(compared, 2u);
}

// Kills itself with a signal that nothing can catch.
class SuddenDeath final : public TrainingObserver {
 public:
  explicit SuddenDeath(uint64_t step) : step_(step) {}
  void OnStep(const StepReport& report) override {
    if (report.step == step_) raise(SIGKILL);
  }

 private:
  uint64_t step_;
};

TEST(TrainingDeathTest, ARunThatWasKilledGoesOnToTheSameResult) {
  const TemporaryDirectory place;
  const std::string folder = place / "killed";
  for (const bool adam : {false, true}) {
    TrainingOptions options = SmallOptions();
    if (adam) options.optimizer = offload::Optimizer::kAdamW;
    TrainingRequest killed = RequestFor(folder, options);
    killed.checkpoint_steps = 3;
    EXPECT_EXIT(
        {
          std::filesystem::remove_all(folder);
          std::filesystem::create_directories(folder);
          SuddenDeath observer(8);
          (void)Train(killed, Halves(), observer);
        },
        ::testing::KilledBySignal(SIGKILL), "");
    // What a writer leaves behind that was killed at another place.
    std::filesystem::copy_file(folder + "/checkpoint.safetensors",
                               folder + "/checkpoint.safetensors.tmp-abcdef");

    const TemporaryDirectory directory;
    TrainingRequest whole = RequestFor(directory / "whole", options);
    const std::vector<double> losses = LossesOf(whole, Halves());
    LossRecorder rest;
    EXPECT_EQ(ReasonOf(Train(killed, Halves(), rest).status()),
              Reason::kPolicyDenied);  // without --resume
    killed.resume = true;
    const auto resumed = Train(killed, Halves(), rest);
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_EQ(resumed->resumed_at_step, 6u);
    EXPECT_EQ(rest.losses, std::vector<double>(losses.begin() + 6, losses.end()));
    EXPECT_EQ(ContentOf(folder + "/model/model.safetensors"),
              ContentOf(directory / "whole/model/model.safetensors"));
    const auto metrics = ParseMetrics(AsBytes(ContentOf(folder + "/metrics.jsonl")), "metrics");
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    ASSERT_EQ(metrics->steps.size(), 10u);
    for (size_t i = 0; i < 10; ++i) EXPECT_EQ(metrics->steps[i].loss, losses[i]);
    EXPECT_FALSE(std::filesystem::exists(folder + "/checkpoint.safetensors.tmp-abcdef"));
    // A run that was over writes its model again.
    std::filesystem::remove(folder + "/model/model.safetensors");
    EXPECT_TRUE(Train(killed, Halves(), rest).ok());
    EXPECT_EQ(ContentOf(folder + "/model/model.safetensors"),
              ContentOf(directory / "whole/model/model.safetensors"));
    std::filesystem::remove_all(folder);
  }
}

TEST(TrainingTest, RefusesCheckpointsThatAreNotItsOwn) {
  const TemporaryDirectory directory;
  TrainingOptions options = SmallOptions();
  options.epochs = 1;
  TrainingRequest request = RequestFor(directory / "out", options);
  const ImageSplits splits = Halves();
  LossesOf(request, splits);
  request.resume = true;
  TrainingObserver quiet;
  const auto reason = [&](const TrainingRequest& tried, const ImageSplits& data) {
    return ReasonOf(Train(tried, data, quiet).status());
  };
  TrainingRequest other = request;
  other.options.seed = 2;
  EXPECT_EQ(reason(other, splits), Reason::kPolicyDenied);
  other = request;
  other.options.learning_rate = 0.02;
  EXPECT_EQ(reason(other, splits), Reason::kPolicyDenied);
  ImageSplits changed = splits;
  changed.train.images[0] ^= 1;
  EXPECT_EQ(reason(request, changed), Reason::kPolicyDenied);
  const std::string path = directory / "out/checkpoint.safetensors";
  const std::string good = ContentOf(path);
  std::string flipped = good;
  flipped[good.size() - 3] ^= 1;
  directory.Write("out/checkpoint.safetensors", flipped);
  EXPECT_EQ(reason(request, splits), Reason::kContentMismatch);
  directory.Write("out/checkpoint.safetensors", good.substr(0, good.size() / 2));
  EXPECT_EQ(reason(request, splits), Reason::kMalformed);
  directory.Write("out/checkpoint.safetensors", good);
  const std::string metrics = ContentOf(directory / "out/metrics.jsonl");
  directory.Write("out/metrics.jsonl", metrics.substr(1));
  EXPECT_EQ(reason(request, splits), Reason::kContentMismatch);
  directory.Write("out/metrics.jsonl", metrics);
  EXPECT_EQ(reason(request, splits), std::nullopt);
}

TEST(TrainingTest, RefusesWhatCannotBeTrained) {
  const TemporaryDirectory directory;
  TrainingObserver quiet;
  TrainingRequest request = RequestFor(directory / "out", SmallOptions());
  request.options.learning_rate = 1000;
  request.options.momentum = 0.99;
  request.options.epochs = 100;
  EXPECT_EQ(ReasonOf(Train(request, Halves(), quiet).status()), Reason::kMalformed);  // diverges
  request = RequestFor(directory / "b", SmallOptions());
  request.options.network = "alexnet";
  EXPECT_EQ(ExitCodeOf(Train(request, Halves(), quiet).status()), 2);
  request = RequestFor(directory / "c", SmallOptions());
  request.options.scheme = "tempo";
  EXPECT_EQ(ExitCodeOf(Train(request, Halves(), quiet).status()), 2);  // no workers
  ImageSplits one = Halves();
  one.train.Thin(1);
  EXPECT_EQ(ExitCodeOf(Train(RequestFor(directory / "d", SmallOptions()), one, quiet).status()), 1);
}

}  // namespace
}  // namespace pavise::train
