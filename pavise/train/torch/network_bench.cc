// What a coordinator pays for a step of training a network at 224 x 224: CPU seconds of the process
// less those of the worker in it, or of "tee" mode, which has none; libtorch with one thread. One
// mode a process: bench/offload.py runs them and compares. Random images; a scheme's first loss
// must be that of "tee". One line of JSON:
//
//   train_network_bench resnet50|vit_base|... tee|tempo|orthogonal bf16|fp32 BATCH STEPS
//                       [im2col|native [attention]]
//
// Checks, AES-256-GCM of all that travels (offload/testing/sealed_connection.h) and updates are in
// it; checkpoints, of which CoordinatorOptions takes one in 16 steps, are not.

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "pavise/base/process_memory.h"
#include "pavise/base/random.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/devices.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/tempo.h"
#include "pavise/offload/testing/sealed_connection.h"
#include "pavise/train/torch/protect.h"
#include "pavise/train/torch/zoo.h"

#include "torch/nn/functional/loss.h"
#include "torch/optim/sgd.h"
#include "torch/utils.h"

namespace pavise::train {
namespace {

using torch::Tensor;

constexpr int64_t kClasses = 1000;
constexpr offload::SgdStep kSgd = {.learning_rate = 1e-4f, .momentum = 0.9f, .weight_decay = 1e-4f};

std::set<std::string> Threads() {
  std::set<std::string> threads;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    threads.insert(entry.path().filename().string());
  }
  return threads;
}

// Of the process, without the threads of the worker.
double CpuSeconds(const std::set<std::string>& of_worker) {
  timespec now = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  double seconds = static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  for (const std::string& thread : of_worker) {
    double nanoseconds = 0;
    std::ifstream("/proc/self/task/" + thread + "/schedstat") >> nanoseconds;
    seconds -= 1e-9 * nanoseconds;
  }
  return seconds;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// What libtorch's BLAS does here: without a real one "tee" is no comparison.
double BlasGflops() {
  constexpr int64_t kSize = 512;
  const Tensor a = torch::randn({kSize, kSize});
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const double begin = CpuSeconds({});
    const Tensor product = a.matmul(a);
    best = std::max(best, 2e-9 * kSize * kSize * kSize / (CpuSeconds({}) - begin));
  }
  return best;
}

struct Arguments {
  std::string network;
  std::string mode;
  std::string type;
  int64_t batch = 0;
  int steps = 0;
  std::string convolutions = "im2col";
  bool attention = false;
};

absl::Status Run(const Arguments& arguments) {
  torch::set_num_threads(1);
  const double blas_gflops = BlasGflops();
  torch::manual_seed(1);
  PAVISE_ASSIGN_OR_RETURN(
      const std::shared_ptr<Network> network,
      MakeNetwork(arguments.network, {.channels = 3, .height = 224, .width = 224}, kClasses));
  const Tensor images = torch::randn({arguments.batch, 3, 224, 224});
  const Tensor labels = torch::randint(kClasses, {arguments.batch}, torch::kInt64);

  std::shared_ptr<offload::SealedConnection> connection;
  std::unique_ptr<offload::Coordinator> coordinator;
  std::unique_ptr<ProtectedModel> model;
  std::set<std::string> of_worker;
  std::set<std::string> on_workers;
  if (arguments.mode != "tee") {
    PAVISE_ASSIGN_OR_RETURN(
        std::shared_ptr<const offload::Scheme> scheme,
        arguments.mode == "tempo" ? offload::NewTempoScheme() : offload::NewOrthogonalScheme());
    PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<offload::ComputeDevice> device,
                            offload::OpenComputeDevice("cpu"));
    const std::set<std::string> before = Threads();
    connection = std::make_shared<offload::SealedConnection>(offload::ConnectInProcess(
        {.name = "worker", .memory_limit_bytes = uint64_t{64} << 30}, device));
    for (const std::string& thread : Threads()) {
      if (!before.contains(thread)) of_worker.insert(thread);
    }
    offload::CoordinatorOptions options;
    options.type = arguments.type == "bf16" ? offload::DType::kBf16 : offload::DType::kFp32;
    options.updates_per_checkpoint = 1 << 20;
    options.reply_timeout = absl::Minutes(60);
    PAVISE_ASSIGN_OR_RETURN(offload::SecretStream stream,
                            offload::SecretStream::Random(SystemRandom()));
    PAVISE_ASSIGN_OR_RETURN(
        coordinator,
        offload::Coordinator::Create(scheme, {{connection, "bench"}}, std::move(stream), options));
    ProtectOptions protect;
    protect.attention = arguments.attention;
    protect.convolutions =
        arguments.convolutions == "native" ? ConvolutionForm::kNative : ConvolutionForm::kIm2col;
    PAVISE_ASSIGN_OR_RETURN(
        model, ProtectedModel::Protect(
                   network, [&](Tensor batch) { return network->forward(std::move(batch)); },
                   images, *coordinator, protect));
    on_workers = {model->parameters().begin(), model->parameters().end()};
  }
  std::vector<Tensor> here;
  for (const auto& parameter : network->named_parameters()) {
    if (!on_workers.contains(parameter.key())) here.push_back(parameter.value());
  }
  torch::optim::SGD optimizer(here, torch::optim::SGDOptions(kSgd.learning_rate)
                                        .momentum(kSgd.momentum)
                                        .weight_decay(kSgd.weight_decay));
  network->train();
  const auto check_seconds = [&] {
    double sum = 0;
    if (coordinator == nullptr) return sum;
    for (const offload::LayerReport& report : coordinator->Report().layers) {
      sum += report.check_cpu_seconds;
    }
    return sum;
  };
  std::optional<double> first_loss;
  std::vector<double> taken, checks, wire;
  for (int step = -1; step < arguments.steps; ++step) {
    const double checked = check_seconds();
    const double sealed = connection == nullptr ? 0 : connection->seconds();
    const double begin = CpuSeconds(of_worker);
    try {
      network->zero_grad();
      const Tensor loss = torch::nn::functional::cross_entropy(network->forward(images), labels);
      loss.backward();
      optimizer.step();
      if (!first_loss.has_value()) first_loss = loss.item<double>();
    } catch (const std::exception& error) {
      if (model != nullptr && !model->status().ok()) return model->status();
      return MachineFailure(arguments.network, error.what());
    }
    if (model != nullptr) PAVISE_RETURN_IF_ERROR(model->Update(kSgd));
    if (step < 0) continue;  // makes plans, and gets its memory
    taken.push_back(CpuSeconds(of_worker) - begin);
    checks.push_back((check_seconds() - checked) / taken.back());
    wire.push_back(connection == nullptr ? 0 : (connection->seconds() - sealed) / taken.back());
  }
  std::printf(
      "{\"network\":\"%s\",\"mode\":\"%s\",\"type\":\"%s\",\"batch\":%lld,\"steps\":%d,"
      "\"convolutions\":\"%s\",\"attention\":%s,\"layers\":%zu,\"kept\":%zu,\"step_s\":%.5f,"
      "\"checks\":%.4f,\"wire\":%.4f,\"blas_gflops\":%.1f,\"first_loss\":%.6f}\n",
      arguments.network.c_str(), arguments.mode.c_str(), arguments.type.c_str(),
      static_cast<long long>(arguments.batch), arguments.steps, arguments.convolutions.c_str(),
      arguments.attention ? "true" : "false", on_workers.size(),
      model == nullptr ? 0 : model->kept().size(), Median(taken), Median(checks), Median(wire),
      blas_gflops, *first_loss);
  return absl::OkStatus();
}

}  // namespace
}  // namespace pavise::train

int main(int count, char** given) {
  pavise::train::Arguments arguments;
  const std::vector<std::string> words(given + 1, given + count);
  if (words.size() >= 5) {
    arguments = {words[0], words[1], words[2], std::atoll(words[3].c_str()),
                 std::atoi(words[4].c_str())};
    if (words.size() > 5) arguments.convolutions = words[5];
    arguments.attention = words.size() > 6 && words[6] == "attention";
  }
  const std::set<std::string> modes = {"tee", "tempo", "orthogonal"};
  if (arguments.batch < 1 || arguments.steps < 1 || !modes.contains(arguments.mode) ||
      (arguments.type != "bf16" && arguments.type != "fp32") ||
      (arguments.convolutions != "im2col" && arguments.convolutions != "native")) {
    std::fprintf(stderr,
                 "usage: train_network_bench NETWORK tee|tempo|orthogonal bf16|fp32 BATCH STEPS "
                 "[im2col|native [attention]]\n");
    return 2;
  }
  pavise::KeepFreedMemory();
  try {
    const absl::Status status = pavise::train::Run(arguments);
    if (status.ok()) return 0;
    std::fprintf(stderr, "train_network_bench: %s\n", std::string(status.message()).c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "train_network_bench: %s\n", error.what());
  }
  return 1;
}
