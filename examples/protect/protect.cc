// Trains a model of one's own twice, from the same weights over the same batches: here, and with
// its products done by a worker that sees neither inputs nor weights. docs/guides/own_model.md
// explains it line by line.
// Exits with 0 where both come out alike.
#include "pavise/train/torch/protect.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/random.h"
#include "pavise/offload/coordinator.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/orthogonal.h"

#include "absl/status/statusor.h"
#include "torch/torch.h"

namespace {

namespace offload = pavise::offload;
namespace train = pavise::train;

// Any libtorch module: stock layers within, no base class of Pavise's.
struct Classifier final : torch::nn::Module {
  Classifier() {
    in = register_module("in", torch::nn::Linear(20, 128));
    middle = register_module("middle", torch::nn::Linear(128, 128));
    out = register_module("out", torch::nn::Linear(128, 2));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return out->forward(torch::relu(middle->forward(torch::relu(in->forward(x)))));
  }
  torch::nn::Linear in{nullptr}, middle{nullptr}, out{nullptr};
};

constexpr float kLearningRate = 0.1f;
constexpr int kSteps = 60;
constexpr int kBatch = 64;

// Points inside and outside of a sphere.
std::pair<torch::Tensor, torch::Tensor> Batch() {
  const torch::Tensor x = torch::randn({kBatch, 20});
  return {x, (x.square().sum(1) > 20).to(torch::kLong)};
}

// What both runs share: an ordinary loop with an ordinary optimizer. Returns the last loss.
double RunSteps(Classifier& model, train::ProtectedModel* hidden) {
  torch::manual_seed(2);
  torch::optim::SGD optimizer(model.parameters(), torch::optim::SGDOptions(kLearningRate));
  double last = 0;
  for (int step = 0; step < kSteps; ++step) {
    const auto [x, labels] = Batch();
    optimizer.zero_grad();
    torch::Tensor loss = torch::nn::functional::cross_entropy(model.forward(x), labels);
    loss.backward();
    optimizer.step();  // of what stayed here: biases, the first and the last layer
    if (hidden != nullptr) {
      const absl::Status updated = hidden->Update(offload::SgdStep{.learning_rate = kLearningRate});
      if (!updated.ok()) {
        std::fprintf(stderr, "%s\n", updated.ToString().c_str());
        std::exit(1);
      }
    }
    last = loss.item<double>();
  }
  return last;
}

template <typename T>
T OrExit(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
  std::exit(1);
}

}  // namespace

int main() {
  torch::manual_seed(1);
  const auto plain = std::make_shared<Classifier>();
  torch::manual_seed(1);
  const auto model = std::make_shared<Classifier>();

  // A worker, and whose it is.
  std::vector<offload::WorkerSeat> workers;
  workers.push_back({offload::ConnectInProcess(offload::WorkerOptions{}, offload::OpenCpuDevice(1)),
                     "this process"});

  // The scheme, and the secrets it draws.
  const std::shared_ptr<const offload::Scheme> scheme = OrExit(offload::NewOrthogonalScheme());
  std::fputs(Describe(scheme->leakage(offload::Use::kTraining)).c_str(), stdout);
  offload::CoordinatorOptions options;
  options.type = offload::DType::kFp32;
  const auto coordinator = OrExit(offload::Coordinator::Create(
      scheme, std::move(workers), OrExit(offload::SecretStream::Random(pavise::SystemRandom())),
      options));

  // Protect learns from one example which layers run, on which shapes.
  const auto hidden = OrExit(train::ProtectedModel::Protect(
      model, [&](torch::Tensor x) { return model->forward(x); }, torch::zeros({kBatch, 20}),
      *coordinator, train::ProtectOptions{}));
  for (const std::string& name : hidden->parameters()) std::printf("offloaded: %s\n", name.c_str());
  for (const std::string& why : hidden->kept()) std::printf("stays here: %s\n", why.c_str());

  const double here = RunSteps(*plain, nullptr);
  const double there = RunSteps(*model, hidden.get());
  const absl::Status back = hidden->Unprotect();
  if (!back.ok()) {
    std::fprintf(stderr, "%s\n", back.ToString().c_str());
    return 1;
  }
  const double apart = (model->middle->weight - plain->middle->weight).norm().item<double>() /
                       plain->middle->weight.norm().item<double>();
  std::printf(
      "loss after %d steps: here %.6f, with the worker %.6f; weights differ by %.1e of their "
      "norm\n",
      kSteps, here, there, apart);
  std::fputs(offload::Describe(coordinator->Report()).c_str(), stdout);
  // Sums of fp32 in another order, over sixty steps.
  return std::abs(here - there) < 1e-3 && apart < 1e-3 ? 0 : 1;
}
