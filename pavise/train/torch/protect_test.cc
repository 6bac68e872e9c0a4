#include "pavise/train/torch/protect.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <iterator>
#include <set>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/none.h"
#include "pavise/offload/onednn/onednn_products.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/shared.h"
#include "pavise/offload/tempo.h"
#include "pavise/train/tensor_file.h"
#include "pavise/train/testing/datasets.h"
#include "pavise/train/torch/training.h"
#include "pavise/train/torch/zoo.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "torch/nn/modules/container/sequential.h"
#include "torch/nn/modules/conv.h"
#include "torch/nn/modules/linear.h"
#include "torch/utils.h"

namespace pavise::train {
namespace {

using pavise::testing::TemporaryDirectory;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Lt;
using torch::Tensor;
namespace nn = torch::nn;

std::shared_ptr<const offload::Scheme> NewScheme(std::string_view name) {
  if (name == "tempo") return *offload::NewTempoScheme();
  if (name == "orthogonal") return *offload::NewOrthogonalScheme();
  if (name == "shared") return *offload::NewSharedScheme();
  return offload::NewNoneScheme();
}

OffloadSetting SettingFor(std::string_view scheme) {
  OffloadSetting setting;
  setting.scheme = NewScheme(scheme);
  for (size_t i = 0; i < setting.scheme->workers(); ++i) {
    std::unique_ptr<offload::HostProducts> products = offload::NewOneDnnProducts(1);
    if (products == nullptr) products = offload::NewPlainProducts();
    offload::WorkerOptions options;
    options.name = StrCat("worker ", i);
    setting.workers.push_back(
        {offload::ConnectInProcess(options, offload::NewCpuDevice(std::move(products))),
         options.name});
  }
  setting.options.type = offload::DType::kFp32;
  return setting;
}

std::unique_ptr<offload::Coordinator> NewCoordinator(const OffloadSetting& setting) {
  auto stream =
      offload::SecretStream::FromKey(SecretBytes(Bytes(offload::SecretStream::kKeyBytes, 7)));
  auto coordinator = offload::Coordinator::Create(setting.scheme, setting.workers,
                                                  *std::move(stream), setting.options);
  EXPECT_TRUE(coordinator.ok()) << coordinator.status();
  return coordinator.ok() ? *std::move(coordinator) : nullptr;
}

// A model of stock modules that this project has not written: convolutions of each kind, a linear
// layer with positions, and what stays.
struct Stock final : nn::Module {
  Stock() {
    first = register_module("first", nn::Conv2d(nn::Conv2dOptions(3, 16, 3).padding(1)));
    spatial = register_module(
        "spatial", nn::Conv2d(nn::Conv2dOptions(16, 24, 3).stride(2).padding(1).bias(false)));
    grouped =
        register_module("grouped", nn::Conv2d(nn::Conv2dOptions(24, 24, 3).padding(1).groups(2)));
    channels = register_module("channels", nn::Conv2d(nn::Conv2dOptions(24, 32, 1)));
    tokens = register_module(
        "tokens",
        nn::Sequential(nn::Linear(32, 20), nn::Linear(nn::LinearOptions(20, 18).bias(false))));
    head = register_module("head", nn::Linear(18, 3));
  }
  Tensor forward(const Tensor& images) {
    Tensor out = torch::relu(first->forward(images));
    out = grouped->forward(spatial->forward(out));
    out = torch::tanh(channels->forward(out)).flatten(2).transpose(1, 2);
    return head->forward(tokens->forward(out)).mean(1);
  }
  nn::Conv2d first{nullptr}, spatial{nullptr}, grouped{nullptr}, channels{nullptr};
  nn::Sequential tokens{nullptr};
  nn::Linear head{nullptr};
};

double Distance(const Tensor& a, const Tensor& b) {
  return (a - b).norm().item<double>() / (1e-12 + b.norm().item<double>());
}

absl::StatusOr<std::unique_ptr<ProtectedModel>> ProtectStock(const std::shared_ptr<Stock>& stock,
                                                             offload::Coordinator& coordinator,
                                                             ConvolutionForm form) {
  ProtectOptions options;
  options.least_width = 16;
  options.convolutions = form;
  return ProtectedModel::Protect(
      stock, [stock](Tensor images) { return stock->forward(images); }, torch::zeros({4, 3, 9, 9}),
      coordinator, options);
}

TEST(ProtectTest, AnyModelComputesWhatItComputedBefore) {
  for (const char* scheme : {"none", "tempo", "orthogonal"}) {
    for (const ConvolutionForm form : {ConvolutionForm::kIm2col, ConvolutionForm::kNative}) {
      torch::manual_seed(1);
      const auto plain = std::make_shared<Stock>();
      torch::manual_seed(1);
      const auto model = std::make_shared<Stock>();
      const Tensor images = torch::randn({4, 3, 9, 9});
      const OffloadSetting setting = SettingFor(scheme);
      const auto coordinator = NewCoordinator(setting);
      ASSERT_NE(coordinator, nullptr);
      auto hidden = ProtectStock(model, *coordinator, form);
      ASSERT_TRUE(hidden.ok()) << scheme << hidden.status();
      EXPECT_THAT((*hidden)->parameters(), ElementsAre("spatial.weight", "channels.weight",
                                                       "tokens.0.weight", "tokens.1.weight"));
      EXPECT_EQ((*hidden)->kept().size(), 3u);
      EXPECT_TRUE(model->named_parameters()["spatial.weight"].isnan().all().item<bool>());
      EXPECT_EQ(model->spatial->weight.sizes(), plain->spatial->weight.sizes());

      // Twice, so that what the first update did shows. Sums of fp32 in another order: 1e-6 of the
      // norm each, a few of them one after the other.
      constexpr double kTolerance = 1e-4;
      for (int step = 0; step < 2; ++step) {
        for (const auto& module : {plain, model}) {
          module->zero_grad();
          module->forward(images).square().sum().backward();
        }
        EXPECT_LT(Distance(model->first->weight.grad(), plain->first->weight.grad()), kTolerance)
            << scheme;
        EXPECT_LT(Distance(model->channels->bias.grad(), plain->channels->bias.grad()), kTolerance)
            << scheme;
        const torch::NoGradGuard no_grad;
        EXPECT_LT(Distance(model->forward(images), plain->forward(images)), kTolerance) << scheme;
        for (const auto& item : plain->named_parameters()) {
          item.value().add_(item.value().grad(), -0.01);
          const Tensor own = model->named_parameters()[item.key()];
          if (own.grad().defined()) own.add_(own.grad(), -0.01);
        }
        ASSERT_TRUE((*hidden)->Update(offload::SgdStep{.learning_rate = 0.01f}).ok());
      }
      ASSERT_TRUE((*hidden)->Unprotect().ok());
      for (const auto& item : plain->named_parameters()) {
        EXPECT_LT(Distance(model->named_parameters()[item.key()], item.value()), kTolerance)
            << item.key();
      }
      const torch::NoGradGuard no_grad;
      EXPECT_LT(Distance(model->forward(images), plain->forward(images)), kTolerance) << scheme;
      EXPECT_TRUE(model->spatial->weight.device().is_cpu());
    }
  }
}

TEST(ProtectTest, NothingElseCanBeDoneWithAnOffloadedWeight) {
  const auto model = std::make_shared<Stock>();
  const OffloadSetting setting = SettingFor("none");
  const auto coordinator = NewCoordinator(setting);
  ASSERT_NE(coordinator, nullptr);
  auto hidden = ProtectStock(model, *coordinator, ConvolutionForm::kIm2col);
  ASSERT_TRUE(hidden.ok()) << hidden.status();
  const Tensor& weight = model->spatial->weight;
  EXPECT_ANY_THROW(weight.add(1));
  EXPECT_ANY_THROW(weight.sum());
  EXPECT_ANY_THROW(weight.clone());
  EXPECT_ANY_THROW(torch::matmul(torch::ones({1, 16}), weight));
  // What throws within libtorch is told as a status.
  const Tensor wrong = torch::full({4, 3, 9, 9}, INFINITY);
  EXPECT_ANY_THROW(model->forward(wrong));
  EXPECT_EQ(ReasonOf((*hidden)->status()), Reason::kMalformed);
  (*hidden)->Abandon();
  EXPECT_TRUE((*hidden)->status().ok());
  // Without Unprotect the model is useless, and shows it.
  hidden->reset();
  const torch::NoGradGuard no_grad;
  EXPECT_TRUE(model->forward(torch::ones({1, 3, 9, 9})).isnan().any().item<bool>());
}

TEST(ProtectTest, AModelWithoutSuchLayersIsRefused) {
  const auto model = std::make_shared<nn::SequentialImpl>(nn::Linear(4, 3));
  const OffloadSetting setting = SettingFor("none");
  const auto coordinator = NewCoordinator(setting);
  ASSERT_NE(coordinator, nullptr);
  const auto hidden = ProtectedModel::Protect(model, [&](Tensor x) { return model->forward(x); },
                                              torch::zeros({2, 4}), *coordinator, {});
  EXPECT_EQ(ExitCodeOf(hidden.status()), 2);
  EXPECT_EQ(model->forward(torch::ones({2, 4})).size(1), 3);
}

TEST(ProtectTest, AttentionIsThatOfThePlainModel) {
  torch::manual_seed(1);
  const auto plain = std::make_shared<Attention>(64, 2);
  torch::manual_seed(1);
  const auto model = std::make_shared<Attention>(64, 2);
  const Tensor tokens = torch::randn({2, 5, 64});
  const OffloadSetting setting = SettingFor("orthogonal");
  const auto coordinator = NewCoordinator(setting);
  ASSERT_NE(coordinator, nullptr);
  ProtectOptions options;
  options.keep_first = false;
  const auto hidden = ProtectedModel::Protect(
      model, [&](Tensor x) { return model->forward(x); }, tokens, *coordinator, options);
  ASSERT_TRUE(hidden.ok()) << hidden.status();
  EXPECT_THAT((*hidden)->parameters(), ElementsAre("qkv.weight", "proj.weight"));
  for (const auto& module : {plain, model}) module->forward(tokens).square().sum().backward();
  for (const char* name : {"qkv.bias", "proj.bias"}) {
    EXPECT_LT(
        Distance(model->named_parameters()[name].grad(), plain->named_parameters()[name].grad()),
        1e-4)
        << name;
  }
}

// The passes of a whole block in one, against libtorch's own operators, and against the same layers
// without fusing: outputs, and gradients of the tokens and of every parameter that stayed.
TEST(ProtectTest, AFusedBlockIsThePlainOne) {
  int compared = 0;
  for (const char* scheme : {"none", "tempo", "orthogonal"}) {
    for (const bool fuse : {true, false}) {
      SCOPED_TRACE(StrCat(scheme, fuse ? ", fused" : ""));
      torch::manual_seed(1);
      const auto plain = std::make_shared<TransformerBlock>(64, 2);
      torch::manual_seed(1);
      const auto model = std::make_shared<TransformerBlock>(64, 2);
      for (const auto& block : {plain, model}) {
        const torch::NoGradGuard no_grad;
        torch::manual_seed(2);
        for (Tensor& parameter : block->parameters())
          parameter.add_(0.1 * torch::randn_like(parameter));
      }
      const OffloadSetting setting = SettingFor(scheme);
      const auto coordinator = NewCoordinator(setting);
      ASSERT_NE(coordinator, nullptr);
      ProtectOptions options;
      options.keep_first = false;
      options.attention = false;
      options.fuse = fuse;
      const auto hidden = ProtectedModel::Protect(
          model, [&](Tensor x) { return model->forward(x); }, torch::randn({3, 5, 64}),
          *coordinator, options);
      ASSERT_TRUE(hidden.ok()) << hidden.status();
      EXPECT_EQ((*hidden)->fused_blocks(), fuse ? 1u : 0u);
      for (const int64_t batch : {3, 2}) {  // the last batch of an epoch is a small one
        const Tensor tokens = torch::randn({batch, 5, 64});
        Tensor inputs[2], outputs[2];
        for (const int i : {0, 1}) {
          const auto& block = i == 0 ? plain : model;
          block->zero_grad();
          inputs[i] = tokens.clone().requires_grad_();
          outputs[i] = block->forward(inputs[i]);
          outputs[i].square().sum().backward();
        }
        EXPECT_LT(Distance(outputs[1], outputs[0]), 1e-4);
        EXPECT_LT(Distance(inputs[1].grad(), inputs[0].grad()), 1e-4);
        for (const auto& parameter : plain->named_parameters()) {
          const Tensor& other = model->named_parameters()[parameter.key()];
          const bool stayed = parameter.value().dim() == 1;
          ASSERT_EQ(other.grad().defined(), stayed) << parameter.key();
          if (!stayed) continue;
          EXPECT_LT(Distance(other.grad(), parameter.value().grad()), 1e-4) << parameter.key();
          ++compared;
        }
        ASSERT_TRUE((*hidden)->Update(offload::SgdStep{0.01f, 0.9f, 0}).ok());
        const torch::NoGradGuard no_grad;
        for (const auto& parameter : plain->named_parameters()) {
          if (parameter.value().dim() == 2) parameter.value().sub_(0.01 * parameter.value().grad());
        }
      }
      // Without gradients nothing stays open; and without a backward pass, until it is dropped.
      {
        const torch::NoGradGuard no_grad;
        const Tensor tokens = torch::randn({1, 5, 64});
        // The second update had momentum, which the plain block's had not: the weights are put
        // back.
        const auto weights = (*hidden)->Weights();
        ASSERT_TRUE(weights.ok()) << weights.status();
        for (const auto& [name, weight] : *weights) plain->named_parameters()[name].copy_(weight);
        EXPECT_LT(Distance(model->forward(tokens), plain->forward(tokens)), 1e-4);
      }
      EXPECT_TRUE((*hidden)->Weights().ok());
      const Tensor dropped = model->forward(torch::randn({1, 5, 64}));
      EXPECT_FALSE((*hidden)->Weights().ok());
      (*hidden)->Abandon();
      EXPECT_THROW(dropped.sum().backward(), std::exception);
      (*hidden)->Abandon();
      EXPECT_TRUE((*hidden)->Unprotect().ok());
      EXPECT_EQ((*hidden)->fused_blocks(), 0u);
      const Tensor tokens = torch::randn({1, 5, 64});
      EXPECT_LT(Distance(model->forward(tokens), plain->forward(tokens)), 1e-4);
    }
  }
  EXPECT_EQ(compared, 3 * 2 * 2 * 8);
}

class LossRecorder : public TrainingObserver {
 public:
  void OnStep(const StepReport& report) override { losses.push_back(report.loss); }
  std::vector<double> losses;
};

std::vector<double> LossesOf(const TrainingOptions& options, const ImageSplits& splits,
                             const OffloadSetting* offload) {
  const TemporaryDirectory directory;
  TrainingRequest request;
  request.options = options;
  request.folder = directory.path();
  request.offload = offload;
  LossRecorder recorder;
  const auto result = Train(request, splits, recorder);
  EXPECT_TRUE(result.ok()) << options.scheme << result.status();
  return recorder.losses;
}

// The largest distance of two runs' losses, step by step.
void ExpectFollows(const TrainingOptions& plain_options, const ImageSplits& splits,
                   double tolerance, double tolerance_of_shared) {
  const std::vector<double> plain = LossesOf(plain_options, splits, nullptr);
  ASSERT_FALSE(plain.empty());
  for (const char* scheme : {"none", "tempo", "orthogonal", "shared"}) {
    TrainingOptions options = plain_options;
    options.scheme = scheme;
    const OffloadSetting setting = SettingFor(scheme);
    const std::vector<double> losses = LossesOf(options, splits, &setting);
    ASSERT_EQ(losses.size(), plain.size()) << scheme;
    double worst = 0;
    for (size_t i = 0; i < plain.size(); ++i)
      worst = std::max(worst, std::abs(losses[i] - plain[i]));
    EXPECT_LT(worst, scheme == std::string_view("shared") ? tolerance_of_shared : tolerance)
        << scheme;
    ::testing::Test::RecordProperty(scheme, std::to_string(worst));
  }
}

// Roundings of fp32 in another order, of which training makes more with each step; `shared` works
// with operands of 8 bits.
TEST(RealTrainingTest, Cifar10FollowsPlainTraining) {
  const TemporaryDirectory scratch;
  const auto path = testing::CifarFolder(scratch.path());
  if (!path.has_value())
    GTEST_SKIP() << "no CIFAR-10, or not the programs to unpack it (PAVISE_DATA)";
  auto splits = ReadImageSplits(*path);
  ASSERT_TRUE(splits.ok()) << splits.status();
  splits->train.Thin(320);
  splits->test.Thin(32);
  TrainingOptions options;
  options.network = "mlp";
  options.epochs = 2;
  options.batch_size = 32;
  options.learning_rate = 0.01;
  options.augmentation = {.flip = true, .crop_padding = 4};
  ExpectFollows(options, *splits, 1e-4, 0.1);
}

TEST(RealTrainingTest, PneumoniaMnistFollowsPlainTraining) {
  const auto path = testing::PneumoniaFile();
  if (!path.has_value()) GTEST_SKIP() << "no PneumoniaMNIST (PAVISE_DATA)";
  auto splits = ReadImageSplits(*path);
  ASSERT_TRUE(splits.ok()) << splits.status();
  splits->train.Thin(8);
  splits->test.Thin(2);
  TrainingOptions options;
  options.network = "resnet18";
  options.epochs = 1;
  options.batch_size = 4;
  options.learning_rate = 0.01;
  ExpectFollows(options, *splits, 2e-3, 0.3);
}

// Keeps what a kill after step 5 would have left.
class Bystander final : public LossRecorder {
 public:
  Bystander(std::string from, std::string to) : from_(std::move(from)), to_(std::move(to)) {}
  void OnStep(const StepReport& report) override {
    LossRecorder::OnStep(report);
    if (report.step == 5)
      std::filesystem::copy(from_, to_, std::filesystem::copy_options::recursive);
  }

 private:
  std::string from_, to_;
};

// A worker that keeps what it is sent.
struct Kept {
  std::set<std::string> weights;
  size_t least_rows = SIZE_MAX;  // of inputs
};
class Curious final : public offload::WorkerConnection {
 public:
  Curious(std::shared_ptr<offload::WorkerConnection> inner, Kept& kept)
      : inner_(std::move(inner)), kept_(kept) {}
  const offload::WorkerDescription& description() const override { return inner_->description(); }
  std::unique_ptr<offload::PendingReply> Send(offload::Request request) override {
    if (request.command == offload::Command::kPutWeights) {
      kept_.weights.emplace(AsText(request.frames[0].bytes));
    }
    if (request.command == offload::Command::kForward) {
      kept_.least_rows = std::min(kept_.least_rows, request.frames[0].rows);
    }
    return inner_->Send(std::move(request));
  }

 private:
  const std::shared_ptr<offload::WorkerConnection> inner_;
  Kept& kept_;
};

OffloadSetting CuriousSetting(std::string_view scheme, Kept& kept) {
  OffloadSetting setting = SettingFor(scheme);
  for (offload::WorkerSeat& seat : setting.workers) {
    seat.connection = std::make_shared<Curious>(std::move(seat.connection), kept);
  }
  return setting;
}

ImageSplits HalvesOf(size_t train, size_t test) {
  ImageSplits splits;
  splits.format = "NPZ";
  splits.classes = 2;
  splits.train = testing::MakeHalves(train, 1, 8, 1);
  splits.test = testing::MakeHalves(test, 1, 8, 2);
  return splits;
}

TrainingRequest ProtectedRequest(const std::string& folder, const std::string& scheme,
                                 const OffloadSetting& setting) {
  TrainingRequest request;
  request.options.network = "mlp";
  request.options.epochs = 2;
  request.options.batch_size = 8;
  request.options.learning_rate = 0.01;
  request.options.scheme = scheme;
  request.folder = folder;
  request.checkpoint_steps = 4;
  request.offload = &setting;
  std::filesystem::create_directory(request.folder);
  return request;
}

// What is sent under the keys of the killed run must be what it sent: where anything else that
// decides it is another, so are the keys.
TEST(ProtectedTrainingTest, ARunResumedOtherwiseHasOtherKeys) {
  const ImageSplits splits = HalvesOf(40, 8);
  const TemporaryDirectory directory;
  Kept whole;
  const OffloadSetting setting = CuriousSetting("orthogonal", whole);
  Bystander observer(directory / "whole", directory / "cut");
  ASSERT_TRUE(
      Train(ProtectedRequest(directory / "whole", "orthogonal", setting), splits, observer).ok());
  const auto common = [&](const std::string& name, auto change) {
    Kept kept;
    OffloadSetting again = CuriousSetting("orthogonal", kept);
    ImageSplits data = splits;
    change(again, data);
    std::filesystem::copy(directory / "cut", directory / name,
                          std::filesystem::copy_options::recursive);
    TrainingRequest request = ProtectedRequest(directory / name, "orthogonal", again);
    request.resume = true;
    LossRecorder rest;
    const auto resumed = Train(request, data, rest);
    EXPECT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_GE(kept.weights.size(), 2u);
    std::vector<std::string> both;
    std::set_intersection(whole.weights.begin(), whole.weights.end(), kept.weights.begin(),
                          kept.weights.end(), std::back_inserter(both));
    return both.size();
  };
  EXPECT_GE(common("same", [](OffloadSetting&, ImageSplits&) {}), 1u);
  EXPECT_EQ(common("wire",
                   [](OffloadSetting& s, ImageSplits&) { s.options.type = offload::DType::kBf16; }),
            0u);
  EXPECT_EQ(common("parts", [](OffloadSetting& s, ImageSplits&) { s.options.micro_batches = 2; }),
            0u);
  EXPECT_EQ(common("width", [](OffloadSetting& s, ImageSplits&) { s.least_width = 16; }), 0u);
  EXPECT_EQ(common("tests", [](OffloadSetting&, ImageSplits& d) { d.test.images[0] ^= 1; }), 0u);
  // And a run that begins anew with the same --seed has nothing of it.
  EXPECT_EQ(common("anew",
                   [&](OffloadSetting&, ImageSplits&) {
                     std::filesystem::remove(directory / "cut/checkpoint.safetensors");
                     std::filesystem::remove(directory / "cut/metrics.jsonl");
                   }),
            0u);
}

// Nothing but its sign would hide the only image of a batch.
TEST(ProtectedTrainingTest, NoImageIsEvaluatedAlone) {
  const ImageSplits splits = HalvesOf(40, 9);
  const TemporaryDirectory directory;
  Kept kept;
  const OffloadSetting setting = CuriousSetting("orthogonal", kept);
  LossRecorder observer;
  ASSERT_TRUE(
      Train(ProtectedRequest(directory / "out", "orthogonal", setting), splits, observer).ok());
  EXPECT_EQ(kept.least_rows, 4u);
}

// A digest says that a file is whole, not whose it is: whoever can write the folder can make a
// checkpoint. What contradicts itself is refused all the same.
TEST(ProtectedTrainingTest, CheckpointsCannotGiveBackWhatWasSpent) {
  const ImageSplits splits = HalvesOf(40, 8);
  const TemporaryDirectory directory;
  const OffloadSetting setting = SettingFor("tempo");
  Bystander observer(directory / "whole", directory / "cut");
  ASSERT_TRUE(
      Train(ProtectedRequest(directory / "whole", "tempo", setting), splits, observer).ok());
  const std::string path = directory / "cut/checkpoint.safetensors";
  const TensorFile file = ReadTensorFile(path).value();
  const auto resume_with = [&](const std::function<void(OrderedJson&)>& change) {
    std::vector<NamedTensor> tensors;
    for (const model::TensorEntry& entry : file.table.tensors) {
      tensors.push_back({entry.name, entry.dtype, entry.shape, file.BytesOf(entry)});
    }
    OrderedJson state = OrderedJson::parse(file.metadata.at("state"));
    change(state);
    EXPECT_TRUE(WriteTensorFile(path, tensors, {{"state", DumpJson(state, -1)}}, true, 0600).ok());
    const OffloadSetting again = SettingFor("tempo");
    TrainingRequest request = ProtectedRequest(directory / "cut", "tempo", again);
    request.resume = true;
    LossRecorder rest;
    return ReasonOf(Train(request, splits, rest).status());
  };
  const auto layer = [](const char* key, auto value) {
    return [=](OrderedJson& state) { state["layers"][0][key] = value; };
  };
  EXPECT_EQ(resume_with(layer("drift_spent", -1.0)), Reason::kMalformed);
  EXPECT_EQ(resume_with(layer("drift_spent", "0")), Reason::kMalformed);
  EXPECT_EQ(resume_with(layer("updates", 5)), Reason::kMalformed);
  EXPECT_EQ(resume_with(layer("keys", UINT64_MAX)), Reason::kMalformed);
  EXPECT_EQ(resume_with(layer("drift_spent", 1.0)), Reason::kLimitExceeded) << "it is spent";
  EXPECT_EQ(resume_with([](OrderedJson&) {}), std::nullopt);
}

TEST(ProtectedTrainingTest, GoesOnFromACheckpointToTheSameResult) {
  ImageSplits splits;
  splits.format = "NPZ";
  splits.classes = 2;
  splits.train = testing::MakeHalves(40, 1, 8, 1);
  splits.test = testing::MakeHalves(8, 1, 8, 2);
  for (const char* scheme : {"tempo", "orthogonal", "shared"}) {
    const TemporaryDirectory directory;
    const OffloadSetting setting = SettingFor(scheme);
    TrainingRequest request;
    request.options.network = "mlp";
    request.options.epochs = 2;
    request.options.batch_size = 8;
    request.options.learning_rate = 0.01;
    request.options.scheme = scheme;
    request.folder = directory / "whole";
    request.checkpoint_steps = 4;
    request.offload = &setting;
    std::filesystem::create_directory(request.folder);
    Bystander observer(request.folder, directory / "cut");
    const auto whole = Train(request, splits, observer);
    ASSERT_TRUE(whole.ok()) << scheme << whole.status();
    EXPECT_THAT(whole->offload_report, HasSubstr("layers.2.weight"));

    const OffloadSetting again = SettingFor(scheme);
    request.folder = directory / "cut";
    request.resume = true;
    request.offload = &again;
    LossRecorder rest;
    const auto resumed = Train(request, splits, rest);
    ASSERT_TRUE(resumed.ok()) << scheme << resumed.status();
    EXPECT_EQ(resumed->resumed_at_step, 4u);
    EXPECT_EQ(rest.losses, std::vector<double>(observer.losses.begin() + 4, observer.losses.end()))
        << scheme;
    EXPECT_EQ(pavise::testing::ContentOf(directory / "cut/model/model.safetensors"),
              pavise::testing::ContentOf(directory / "whole/model/model.safetensors"))
        << scheme;
  }
}

}  // namespace
}  // namespace pavise::train
