// Wall-clock of training with a GPU that is not trusted: on this machine's CPU alone ("tee"), under
// each scheme with a worker in this process, and on the GPU in the clear where libtorch has it. Of
// networks at 224 x 224 and of the four linear layers of a transformer block. Random images; every
// mode starts from the same weights, and its first loss is compared with that of "tee".
//
// Usage: train_gpu_bench [--device cuda:0] [--networks resnet50,vit_base] [--schemes
// tempo,orthogonal]
//        [--batch 64] [--steps 5] [--width 4096] [--rows 4096] [--micro-batches 1]

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "pavise/base/random.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/devices.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/none.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/shared.h"
#include "pavise/offload/tempo.h"
#include "pavise/train/torch/protect.h"
#include "pavise/train/torch/zoo.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "torch/cuda.h"
#include "torch/nn/functional/loss.h"
#include "torch/optim/sgd.h"
#include "torch/utils.h"

namespace pavise::train {
namespace {

using torch::Tensor;

constexpr int64_t kClasses = 1000;
constexpr offload::SgdStep kSgd = {.learning_rate = 1e-4f, .momentum = 0.9f, .weight_decay = 1e-4f};
// Numbers travel as bf16, and a network is deep.
constexpr double kLossTolerance = 0.05;

struct Arguments {
  std::string device = "cuda:0";
  std::string networks = "resnet50,vit_base";
  std::string schemes = "tempo,orthogonal,shared";
  int64_t batch = 64;
  int64_t steps = 5;
  int64_t width = 4096;
  int64_t rows = 4096;
  int64_t micro_batches = 1;
};

absl::StatusOr<Arguments> Parse(int argc, char** argv) {
  Arguments arguments;
  const std::map<std::string_view, std::string*> texts = {{"--device", &arguments.device},
                                                          {"--networks", &arguments.networks},
                                                          {"--schemes", &arguments.schemes}};
  const std::map<std::string_view, int64_t*> numbers = {
      {"--batch", &arguments.batch},
      {"--steps", &arguments.steps},
      {"--width", &arguments.width},
      {"--rows", &arguments.rows},
      {"--micro-batches", &arguments.micro_batches}};
  for (int i = 1; i < argc; i += 2) {
    const auto text = texts.find(argv[i]);
    const auto number = numbers.find(argv[i]);
    if (i + 1 < argc && text != texts.end()) {
      *text->second = argv[i + 1];
    } else if (i + 1 >= argc || number == numbers.end() ||
               !absl::SimpleAtoi(argv[i + 1], number->second) || *number->second < 1) {
      return UsageError(StrCat("not understood: ", argv[i], "; the source says what is"));
    }
  }
  return arguments;
}

absl::StatusOr<std::shared_ptr<const offload::Scheme>> NewScheme(std::string_view name) {
  if (name == "none") return offload::NewNoneScheme();
  if (name == "tempo") return offload::NewTempoScheme();
  if (name == "orthogonal") return offload::NewOrthogonalScheme();
  if (name == "shared") return offload::NewSharedScheme();
  return UsageError(StrCat("there is no scheme ", name));
}

absl::StatusOr<std::unique_ptr<offload::Coordinator>> NewCoordinator(
    const Arguments& arguments, std::string_view scheme_name,
    const std::shared_ptr<offload::ComputeDevice>& device) {
  PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<const offload::Scheme> scheme,
                          NewScheme(scheme_name));
  std::vector<offload::WorkerSeat> seats;
  for (size_t i = 1; i <= scheme->workers(); ++i) {
    offload::WorkerOptions options;
    options.name = StrCat("worker ", i);
    options.memory_limit_bytes = uint64_t{64} << 30;
    seats.push_back({offload::ConnectInProcess(options, device), options.name});
  }
  offload::CoordinatorOptions options;
  options.micro_batches = static_cast<size_t>(arguments.micro_batches);
  PAVISE_ASSIGN_OR_RETURN(offload::SecretStream stream,
                          offload::SecretStream::Random(SystemRandom()));
  return offload::Coordinator::Create(scheme, std::move(seats), std::move(stream), options);
}

struct Measured {
  double seconds = 0;  // of a step, the median
  double first_loss = 0;
};

// The first step, which makes plans and allocates, is not timed.
absl::StatusOr<Measured> Time(int64_t steps, const std::function<absl::StatusOr<double>()>& step) {
  Measured measured;
  PAVISE_ASSIGN_OR_RETURN(measured.first_loss, step());
  std::vector<double> seconds;
  for (int64_t i = 0; i < steps; ++i) {
    const auto before = std::chrono::steady_clock::now();
    PAVISE_RETURN_IF_ERROR(step().status());
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<ptrdiff_t>(seconds.size() / 2),
                   seconds.end());
  measured.seconds = seconds[seconds.size() / 2];
  return measured;
}

// `mode`: "tee", "gpu" or a scheme.
absl::StatusOr<Measured> TrainNetwork(const Arguments& arguments, std::string_view name,
                                      const std::string& mode,
                                      const std::shared_ptr<offload::ComputeDevice>& device) {
  torch::manual_seed(1);
  const ImageShape shape = {.channels = 3, .height = 224, .width = 224};
  PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<Network> network,
                          MakeNetwork(name, shape, kClasses));
  Tensor images = torch::randn({arguments.batch, 3, 224, 224});
  Tensor labels = torch::randint(kClasses, {arguments.batch}, torch::kInt64);
  const bool is_gpu = mode == "gpu";
  if (is_gpu) {
    network->to(torch::kCUDA);
    images = images.to(torch::kCUDA);
    labels = labels.to(torch::kCUDA);
  }
  std::unique_ptr<offload::Coordinator> coordinator;
  std::unique_ptr<ProtectedModel> model;
  std::set<std::string> on_workers;
  if (!is_gpu && mode != "tee") {
    PAVISE_ASSIGN_OR_RETURN(coordinator, NewCoordinator(arguments, mode, device));
    ProtectOptions options;
    options.updates_on_worker = mode != "shared";
    PAVISE_ASSIGN_OR_RETURN(
        model, ProtectedModel::Protect(
                   network, [&](Tensor batch) { return network->forward(std::move(batch)); },
                   images, *coordinator, options));
    on_workers = {model->parameters().begin(), model->parameters().end()};
  }
  std::vector<Tensor> here;
  for (const auto& parameter : network->named_parameters()) {
    if (on_workers.count(parameter.key()) == 0) here.push_back(parameter.value());
  }
  torch::optim::SGD optimizer(here, torch::optim::SGDOptions(kSgd.learning_rate)
                                        .momentum(kSgd.momentum)
                                        .weight_decay(kSgd.weight_decay));
  network->train();
  return Time(arguments.steps, [&]() -> absl::StatusOr<double> {
    double value = 0;
    try {
      network->zero_grad();
      const Tensor loss = torch::nn::functional::cross_entropy(network->forward(images), labels);
      loss.backward();
      optimizer.step();
      value = loss.item<double>();
      if (is_gpu) torch::cuda::synchronize();
    } catch (const std::exception& error) {
      if (model != nullptr && !model->status().ok()) return model->status();
      return MachineFailure(name, error.what());
    }
    if (model != nullptr) PAVISE_RETURN_IF_ERROR(model->Update(kSgd));
    return value;
  });
}

// The four linear layers alone; for "tee" and "gpu" by libtorch. What is returned as the loss is
// the last layer's sum of squares a number.
absl::StatusOr<Measured> TrainBlock(const Arguments& arguments, const std::string& mode,
                                    const std::shared_ptr<offload::ComputeDevice>& device) {
  torch::manual_seed(1);
  const int64_t width = arguments.width;
  const int64_t rows = arguments.rows;
  struct Part {
    Tensor x, dy, weights, velocity;
    offload::OffloadedLayer* layer = nullptr;
  };
  const auto view = [](const Tensor& tensor) -> offload::MatrixView {
    const auto columns = static_cast<size_t>(tensor.size(1));
    return {tensor.data_ptr<float>(), static_cast<size_t>(tensor.size(0)), columns, columns};
  };
  const bool is_plain = mode == "tee" || mode == "gpu";
  std::unique_ptr<offload::Coordinator> coordinator;
  if (!is_plain) {
    PAVISE_ASSIGN_OR_RETURN(coordinator, NewCoordinator(arguments, mode, device));
  }
  std::vector<Part> parts;
  for (const auto& [inputs, outputs] : {std::pair{width, 3 * width}, std::pair{width, width},
                                        std::pair{width, 4 * width}, std::pair{4 * width, width}}) {
    Part part;
    part.x = torch::randn({rows, inputs});
    part.dy = torch::randn({rows, outputs});
    part.weights = torch::randn({inputs, outputs}) / std::sqrt(static_cast<double>(inputs));
    part.velocity = torch::zeros_like(part.weights);
    if (mode == "gpu") {
      for (Tensor* const tensor : {&part.x, &part.dy, &part.weights, &part.velocity}) {
        *tensor = tensor->to(torch::kCUDA);
      }
    }
    if (!is_plain) {
      offload::LayerSpec spec;
      spec.item = StrCat("layer ", parts.size());
      spec.inputs = static_cast<size_t>(inputs);
      spec.outputs = static_cast<size_t>(outputs);
      spec.max_samples = static_cast<size_t>(rows);
      spec.updates_on_worker = mode != "shared";
      offload::LayerState state;
      PAVISE_ASSIGN_OR_RETURN(state.weights, offload::CopyOf(view(part.weights), spec.item));
      PAVISE_ASSIGN_OR_RETURN(part.layer, coordinator->AddLayer(std::move(spec), std::move(state)));
    }
    parts.push_back(std::move(part));
  }
  const torch::NoGradGuard no_gradients;
  return Time(arguments.steps, [&]() -> absl::StatusOr<double> {
    double value = 0;
    for (Part& part : parts) {
      if (is_plain) {
        const Tensor y = part.x.matmul(part.weights);
        const Tensor dx = part.dy.matmul(part.weights.t());
        part.velocity.mul_(kSgd.momentum)
            .add_(part.x.t().matmul(part.dy))
            .add_(part.weights, kSgd.weight_decay);
        part.weights.sub_(part.velocity, kSgd.learning_rate);
        value = y.square().mean().item<double>();
        continue;
      }
      PAVISE_ASSIGN_OR_RETURN(const auto outputs,
                              part.layer->Forward(view(part.x), offload::Use::kTraining));
      PAVISE_RETURN_IF_ERROR(
          part.layer->Backward(outputs.pass, view(part.dy), /*want_input_gradients=*/true)
              .status());
      PAVISE_RETURN_IF_ERROR(part.layer->Update(kSgd));
      value = 0;
      for (const float y : outputs.values.values()) value += double{y} * y;
      value /= static_cast<double>(outputs.values.values().size());
    }
    if (mode == "gpu") torch::cuda::synchronize();
    return value;
  });
}

using Run = std::function<absl::StatusOr<Measured>(const std::string& mode)>;

// A table with a row for each mode. False where one failed or was wrong.
bool Print(const std::string& title, double per_step, const std::string& unit,
           const std::vector<std::string>& modes, const Run& run) {
  std::printf("\n%s\n\n| mode | %s a second | against tee | first loss |\n|---|---|---|---|\n",
              title.c_str(), unit.c_str());
  bool is_right = true;
  std::optional<Measured> tee;
  for (const std::string& mode : modes) {
    absl::StatusOr<Measured> measured;
    try {
      measured = run(mode);
    } catch (const std::exception& error) {
      measured = MachineFailure(mode, error.what());
    }
    if (!measured.ok()) {
      std::printf("| %s | failed: %s | | |\n", mode.c_str(),
                  Printable(FromAbsl(measured.status().message())).c_str());
      is_right = false;
      continue;
    }
    if (mode == "tee") tee = *measured;
    const bool is_near =
        tee.has_value() && std::abs(measured->first_loss - tee->first_loss) <=
                               kLossTolerance * std::max(1.0, std::abs(tee->first_loss));
    is_right = is_right && is_near;
    std::printf("| %s | %.3g | %.2f | %.4f%s |\n", mode.c_str(), per_step / measured->seconds,
                tee.has_value() ? tee->seconds / measured->seconds : 0.0, measured->first_loss,
                is_near ? "" : ", WRONG");
    std::fflush(stdout);
  }
  return is_right;
}

int Main(int argc, char** argv) {
  const absl::StatusOr<Arguments> arguments = Parse(argc, argv);
  if (!arguments.ok()) {
    std::fprintf(stderr, "%s\n", std::string(arguments.status().message()).c_str());
    return 2;
  }
  const absl::StatusOr<std::shared_ptr<offload::ComputeDevice>> device =
      offload::OpenComputeDevice(arguments->device);
  if (!device.ok()) {
    std::fprintf(stderr, "%s\n", std::string(device.status().message()).c_str());
    return ExitCodeOf(device.status());
  }
  std::vector<std::string> modes = {"tee"};
  for (const absl::string_view scheme : absl::StrSplit(arguments->schemes, ',')) {
    modes.emplace_back(scheme);
  }
  if (torch::cuda::is_available()) {
    modes.emplace_back("gpu");
  } else {
    std::printf("libtorch has no GPU: training on it in the clear is not measured\n");
  }
  std::printf("worker: %s; coordinator: %d threads\n", std::string((*device)->name()).c_str(),
              torch::get_num_threads());
  bool is_right =
      Print(StrCat("Transformer block's linear layers, width ", arguments->width, ", ",
                   arguments->rows, " rows"),
            static_cast<double>(arguments->rows), "rows", modes,
            [&](const std::string& mode) { return TrainBlock(*arguments, mode, *device); });
  for (const absl::string_view name : absl::StrSplit(arguments->networks, ',')) {
    if (name.empty()) continue;
    is_right &=
        Print(StrCat(FromAbsl(name), ", 224 x 224, batch ", arguments->batch),
              static_cast<double>(arguments->batch), "images", modes, [&](const std::string& mode) {
                return TrainNetwork(*arguments, FromAbsl(name), mode, *device);
              });
  }
  return is_right ? 0 : 1;
}

}  // namespace
}  // namespace pavise::train

int main(int argc, char** argv) {
  try {
    return pavise::train::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
  }
}
