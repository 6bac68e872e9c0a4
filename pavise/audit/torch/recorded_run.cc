#include "pavise/audit/torch/recorded_run.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "pavise/base/random.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/coordinator.h"
#include "pavise/offload/none.h"
#include "pavise/train/batches.h"
#include "pavise/train/torch/protect.h"
#include "pavise/train/torch/zoo.h"

#include "ATen/Parallel.h"
#include "torch/nn/functional/loss.h"
#include "torch/utils.h"

namespace pavise::audit {
namespace {

using offload::Matrix;
using torch::Tensor;

constexpr uint64_t kHeadWidth = 64;  // of the zoo's ViTs

absl::Status CopyWeights(const train::TensorFile& file, std::string_view item,
                         train::Network& network) {
  const torch::NoGradGuard no_grad;
  std::map<std::string, Tensor> tensors;
  for (const auto& parameter : network.named_parameters())
    tensors[parameter.key()] = parameter.value();
  for (const auto& buffer : network.named_buffers()) tensors[buffer.key()] = buffer.value();
  for (const auto& [name, tensor] : tensors) {
    const auto* const entry = file.Find(name);
    const std::vector<uint64_t> shape(tensor.sizes().begin(), tensor.sizes().end());
    const std::string_view dtype = tensor.scalar_type() == torch::kInt64 ? "I64" : "F32";
    if (entry == nullptr || entry->dtype != dtype || entry->shape != shape ||
        file.BytesOf(*entry).size() != tensor.nbytes()) {
      return Refuse(
          Reason::kMalformed, StrCat(item, ": ", name),
          entry == nullptr ? "is missing" : "has another shape or type than the network's",
          "give a model of this network, trained for these images and classes");
    }
    if (tensor.nbytes() != 0)
      std::memcpy(tensor.data_ptr(), file.BytesOf(*entry).data(), tensor.nbytes());
  }
  return absl::OkStatus();
}

// One run at the recorded worker.
struct Run {
  std::vector<std::string> items;
  std::vector<std::shared_ptr<Recording>> recordings;  // one for each worker
  std::vector<std::string> kept;
  uint64_t blocks = 0;  // with attention
  uint64_t heads = 0;   // of each
};

// What of a run is kept.
struct Recorded {
  std::set<size_t> layers;
  std::set<uint64_t> products;  // by number
};

// From the request's seed: masks and the keys of products come again in the next audit.
class SeededRandom final : public RandomSource {
 public:
  explicit SeededRandom(uint64_t seed) : seed_(seed) {}
  absl::Status Fill(std::span<uint8_t> out) override {
    const std::scoped_lock lock(mutex_);
    for (uint8_t& byte : out) byte = static_cast<uint8_t>(train::MixSeed(seed_, drawn_++, 9));
    return absl::OkStatus();
  }

 private:
  const uint64_t seed_;
  std::mutex mutex_;
  uint64_t drawn_ = 0;
};

class Runs {
 public:
  Runs(const RunRequest& request, const train::ImageDataset& images, size_t classes)
      : request_(request),
        images_(images),
        classes_(static_cast<int64_t>(classes)),
        normalisation_(train::MeasureNormalisation(images)) {}

  absl::StatusOr<Run> Do(const train::TensorFile* weights,
                         std::shared_ptr<const offload::Scheme> scheme, offload::DType type,
                         uint64_t steps, const Recorded& recorded) const {
    try {
      return DoUnguarded(weights, std::move(scheme), type, steps, recorded);
    } catch (const std::bad_alloc&) {
      return MachineFailure("audit", "memory ran out: take smaller batches or fewer layers");
    } catch (const c10::Error& e) {
      return MachineFailure("audit", e.what_without_backtrace());
    } catch (const std::exception& e) {
      return MachineFailure("audit", e.what());
    }
  }

 private:
  absl::StatusOr<Run> DoUnguarded(const train::TensorFile* weights,
                                  std::shared_ptr<const offload::Scheme> scheme,
                                  offload::DType type, uint64_t steps,
                                  const Recorded& recorded) const;
  absl::Status Step(uint64_t step, train::Network& network, train::ProtectedModel& model) const;
  std::pair<Tensor, Tensor> Batch(uint64_t step) const;

  const RunRequest& request_;
  const train::ImageDataset& images_;
  const int64_t classes_;
  const train::Normalisation normalisation_;
};

std::pair<Tensor, Tensor> Runs::Batch(uint64_t step) const {
  const uint64_t count = request_.batch_size;
  Tensor pixels =
      torch::empty({static_cast<int64_t>(count), static_cast<int64_t>(images_.channels),
                    static_cast<int64_t>(images_.height), static_cast<int64_t>(images_.width)});
  Tensor labels = torch::empty({static_cast<int64_t>(count)}, torch::kInt64);
  for (uint64_t i = 0; i < count; ++i) {
    // Every other image, since files may be sorted by class. The same come in another order.
    const size_t image = 2 * ((i + (step / 2) * (count / 3 + 1)) % count) + step % 2;
    train::NormaliseImage(
        images_, image, normalisation_,
        std::span(pixels.data_ptr<float>() + i * images_.image_bytes(), images_.image_bytes()));
    labels.data_ptr<int64_t>()[i] = images_.labels[image];
  }
  return {pixels, labels};
}

absl::Status Runs::Step(uint64_t step, train::Network& network,
                        train::ProtectedModel& model) const {
  const auto [pixels, labels] = Batch(step);
  if (request_.use == offload::Use::kInference) {
    const torch::NoGradGuard no_grad;
    network.eval();
    network.forward(pixels);
    return absl::OkStatus();
  }
  network.train();
  network.zero_grad();
  torch::nn::functional::cross_entropy(network.forward(pixels), labels).backward();
  {
    const torch::NoGradGuard no_grad;
    for (const auto& parameter : network.parameters()) {
      if (parameter.grad().defined())
        Tensor(parameter).add_(parameter.grad(), -request_.learning_rate);
    }
  }
  return model.Update(offload::SgdStep{static_cast<float>(request_.learning_rate), 0.9f, 0});
}

absl::StatusOr<Run> Runs::DoUnguarded(const train::TensorFile* weights,
                                      std::shared_ptr<const offload::Scheme> scheme,
                                      offload::DType type, uint64_t steps,
                                      const Recorded& recorded) const {
  at::set_num_threads(static_cast<int>(request_.threads));
  torch::manual_seed(request_.seed);
  const train::ImageShape shape = {static_cast<int64_t>(images_.channels),
                                   static_cast<int64_t>(images_.height),
                                   static_cast<int64_t>(images_.width)};
  PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<train::Network> network,
                          train::MakeNetwork(request_.network, shape, classes_));
  if (weights != nullptr) {
    PAVISE_RETURN_IF_ERROR(
        CopyWeights(*weights, weights == request_.base ? "base" : "model", *network));
  }
  Run run;
  for (const auto& parameter : network->named_parameters()) {
    if (!parameter.key().ends_with("attn.qkv.weight")) continue;
    ++run.blocks;
    run.heads = static_cast<uint64_t>(parameter.value().size(1)) / kHeadWidth;
  }
  std::vector<offload::WorkerSeat> seats;
  for (size_t i = 0; i < scheme->workers(); ++i) {
    const std::string name = StrCat("worker ", i + 1);
    std::unique_ptr<offload::WorkerConnection> worker = request_.new_worker(name);
    run.recordings.push_back(std::make_shared<Recording>(
        [layers = recorded.layers](size_t layer) { return layers.contains(layer); }, steps,
        [products = recorded.products](uint64_t number) { return products.contains(number); }));
    worker = RecordConnection(std::move(worker), run.recordings.back());
    seats.push_back({std::move(worker), name});
  }
  // Keys come from the seed, so that an audit can be repeated.
  Bytes key(offload::SecretStream::kKeyBytes);
  for (size_t i = 0; i < key.size(); ++i)
    key[i] = static_cast<uint8_t>(train::MixSeed(request_.seed, i, 1));
  PAVISE_ASSIGN_OR_RETURN(offload::SecretStream stream,
                          offload::SecretStream::FromKey(SecretBytes(std::move(key))));
  offload::CoordinatorOptions options;
  options.type = type;
  SeededRandom random(request_.seed);
  options.random = &random;
  PAVISE_ASSIGN_OR_RETURN(
      const std::unique_ptr<offload::Coordinator> coordinator,
      offload::Coordinator::Create(scheme, std::move(seats), std::move(stream), options));
  train::ProtectOptions protect;
  protect.least_width = request_.least_width;
  protect.attention = request_.attention;
  protect.convolutions = request_.convolutions;
  protect.updates_on_worker = scheme->updates_encoded_weights(offload::Optimizer::kSgd);
  PAVISE_ASSIGN_OR_RETURN(
      const std::unique_ptr<train::ProtectedModel> model,
      train::ProtectedModel::Protect(
          network, [&](Tensor pixels) { return network->forward(std::move(pixels)); },
          torch::zeros({static_cast<int64_t>(request_.batch_size), shape.channels, shape.height,
                        shape.width}),
          *coordinator, protect));
  run.items = model->parameters();
  run.kept = model->kept();
  for (uint64_t step = 0; step < steps; ++step) {
    absl::Status stepped;
    try {
      stepped = Step(step, *network, *model);
    } catch (const std::exception& e) {
      if (!model->status().ok()) return model->status();
      throw;
    }
    PAVISE_RETURN_IF_ERROR(stepped);
  }
  for (const auto& recording : run.recordings) {
    if (recording->layers().size() != run.items.size()) {
      return MachineFailure("audit", "a worker was not given a part of every layer");
    }
  }
  return run;
}

// One product of attention, and those that are its steps.
struct AttackedProduct {
  std::string item;
  bool has_probabilities = false;
  std::vector<uint64_t> steps;  // their numbers
};

// Of the first image and head. A step of training asks for the products of all images and heads:
// block by block Q K^T and P V; then, from the last block on, dO V^T and P^T dO, dS K and Q^T dS.
std::vector<AttackedProduct> ChooseProducts(const RunRequest& request, const Run& forms) {
  std::vector<AttackedProduct> chosen;
  const uint64_t each = request.batch_size * forms.heads;
  for (uint64_t block = 0; block < forms.blocks; ++block) {
    if (block + 1 != forms.blocks && (block != 0 || request.max_layers < 2)) continue;
    for (const bool has_probabilities : {false, true}) {
      AttackedProduct& product = chosen.emplace_back();
      product.item = StrCat("blocks.", block, ".attn: ", has_probabilities ? "P V" : "Q K^T");
      product.has_probabilities = has_probabilities;
      const uint64_t forward = (2 * block + (has_probabilities ? 1 : 0)) * each + 1;
      // The next image's.
      product.steps = {forward, forward + forms.heads};
      if (request.use == offload::Use::kInference) continue;
      const uint64_t backward = 2 * forms.blocks + 4 * (forms.blocks - 1 - block);
      product.steps.push_back((backward + (has_probabilities ? 1 : 3)) * each + 1);
    }
  }
  return chosen;
}

std::string ProductItem(uint64_t number) { return StrCat("product ", number); }

// Which worker is given which share is a matter of its speed: the views in an order that is not.
bool IsBefore(const Matrix& a, const Matrix& b) {
  return std::lexicographical_compare(a.values().begin(), a.values().end(), b.values().begin(),
                                      b.values().end());
}

// Each worker's view of it.
absl::StatusOr<std::vector<SeenLayer>> ViewsOf(const Run& run, const AttackedProduct& product) {
  std::vector<SeenLayer> views(run.recordings.size());
  for (size_t i = 0; i < product.steps.size(); ++i) {
    const bool is_first = i < 2;
    std::vector<const SeenProduct*> seen;
    for (const auto& recording : run.recordings) {
      seen.push_back(recording->product(product.steps[i]));
      if (seen.back() == nullptr ||
          seen.back()->operation !=
              (is_first ? offload::Operation::kPlain : offload::Operation::kTransposeLeft)) {
        return MachineFailure("audit", "the products of attention came in another order");
      }
    }
    std::sort(seen.begin(), seen.end(),
              [](const SeenProduct* a, const SeenProduct* b) { return IsBefore(a->a, b->a); });
    for (size_t worker = 0; worker < seen.size(); ++worker) {
      SeenLayer& view = views[worker];
      if (i == 0) {
        const Matrix& b = seen[worker]->b;
        view.form.shape = {b.rows(), b.columns(), 1, seen[worker]->a.rows()};
        view.form.moduli = seen[worker]->moduli;
        view.weights = b;
      }
      SeenStep& step = view.steps.emplace_back();
      step.step = product.steps[i];
      step.inputs = seen[worker]->a;
      if (is_first) step.outputs = seen[worker]->result;
    }
  }
  return views;
}

std::vector<SeenLayer> ViewsOf(const Run& run, size_t layer) {
  std::vector<SeenLayer> views;
  for (const auto& recording : run.recordings) views.push_back(recording->layers()[layer]);
  std::sort(views.begin(), views.end(),
            [](const SeenLayer& a, const SeenLayer& b) { return IsBefore(a.weights, b.weights); });
  return views;
}

// Weights as the adversary's base might be: the run's, and noise of a size.
Matrix Perturbed(const Matrix& weights, double distance, uint64_t seed) {
  Matrix out = weights;
  std::vector<double> noise(weights.values().size());
  double norm = 0, noise_norm = 0;
  for (size_t i = 0; i < noise.size(); ++i) {
    // A sum of uniform numbers, near enough to a Gaussian one.
    for (uint64_t j = 0; j < 4; ++j) {
      noise[i] += static_cast<double>(train::MixSeed(seed, i, 2 + j) >> 11) * 0x1p-53 - 0.5;
    }
    norm += static_cast<double>(weights.values()[i]) * weights.values()[i];
    noise_norm += noise[i] * noise[i];
  }
  const double size = distance * std::sqrt(norm / std::max(noise_norm, 1e-30));
  for (size_t i = 0; i < noise.size(); ++i) out.values()[i] += static_cast<float>(size * noise[i]);
  return out;
}

}  // namespace

absl::StatusOr<RecordedRun> RecordRun(const RunRequest& request, const train::ImageDataset& images,
                                      size_t classes,
                                      const std::function<void(std::string_view)>& on_phase) {
  if (request.batch_size < 2 || request.batch_size > 4096 || request.steps < 1 ||
      request.steps > 100 || request.max_layers < 1) {
    return UsageError("an audit takes 1 to 100 steps of 2 to 4096 images, and 1 layer or more");
  }
  if (images.count() < 2 * request.batch_size) {
    return Refuse(Reason::kMalformed, "data",
                  StrCat("has ", images.count(), " images, and two batches of ", request.batch_size,
                         " are needed"),
                  "take smaller batches (--batch-size)");
  }
  const Runs runs(request, images, classes);
  const std::shared_ptr<const offload::Scheme> none = offload::NewNoneScheme();
  on_phase("looking at the layers");
  PAVISE_ASSIGN_OR_RETURN(const Run forms,
                          runs.Do(request.model, none, offload::DType::kFp32, 0, {}));
  RecordedRun result;
  for (const std::string& kept : forms.kept)
    result.not_attacked.push_back(StrCat(kept, " (stays on the coordinator)"));
  std::vector<size_t> able;
  for (size_t i = 0; i < forms.items.size(); ++i) {
    const offload::LayerShape& shape = forms.recordings[0]->layers()[i].form.shape;
    const uint64_t size_bytes =
        2 * request.steps * shape.max_rows * sizeof(float) * (shape.inputs + 2 * shape.outputs);
    if (shape.inputs > kMaxAttackedInputs || shape.outputs > 4 * kMaxAttackedInputs) {
      result.not_attacked.push_back(StrCat(forms.items[i], ": ", shape.inputs, " x ", shape.outputs,
                                           " is beyond ", kMaxAttackedInputs, " inputs"));
    } else if (size_bytes > kMaxRecordedBytes) {
      result.not_attacked.push_back(
          StrCat(forms.items[i], ": its traffic is beyond 1 GiB; take smaller batches"));
    } else {
      able.push_back(i);
    }
  }
  if (able.empty()) {
    return Refuse(Reason::kUnsupported, request.network, "no layer of it can be attacked",
                  "take smaller batches or another network");
  }
  Recorded recorded;
  const size_t count = std::min(request.max_layers, able.size());
  for (size_t i = 0; i < count; ++i)
    recorded.layers.insert(able[count == 1 ? 0 : i * (able.size() - 1) / (count - 1)]);
  for (const size_t i : able) {
    if (!recorded.layers.contains(i))
      result.not_attacked.push_back(StrCat(forms.items[i], ": not chosen (--layers)"));
  }
  const std::vector<AttackedProduct> attacked =
      request.attention ? ChooseProducts(request, forms) : std::vector<AttackedProduct>();
  std::set<std::string> keyed(forms.items.begin(), forms.items.end());
  for (const AttackedProduct& product : attacked) {
    recorded.products.insert(product.steps.begin(), product.steps.end());
    keyed.insert(ProductItem(product.steps[0]));
  }

  on_phase("the run without protection");
  PAVISE_ASSIGN_OR_RETURN(const Run plain, runs.Do(request.model, none, offload::DType::kFp32,
                                                   request.steps, recorded));
  on_phase(StrCat("the run under ", request.scheme->name()));
  result.scheme = std::make_shared<AuditedScheme>(
      request.scheme, [keyed](const std::string& item) { return keyed.contains(item); });
  PAVISE_ASSIGN_OR_RETURN(
      const Run seen, runs.Do(request.model, result.scheme, request.type, request.steps, recorded));
  std::optional<Run> base;
  if (request.base != nullptr) {
    PAVISE_ASSIGN_OR_RETURN(base, runs.Do(request.base, none, offload::DType::kFp32, 0, {}));
  }
  for (const size_t i : recorded.layers) {
    AuditedLayer& layer = result.layers.emplace_back();
    layer.item = seen.items[i];
    layer.others = ViewsOf(seen, i);
    layer.seen = std::move(layer.others.front());
    layer.others.erase(layer.others.begin());
    layer.plain = plain.recordings[0]->layers()[i];
    for (uint64_t image = 0; image < request.batch_size; ++image)
      layer.labels.push_back(images.labels[2 * image]);  // as Batch takes them
    if (layer.seen.form.moduli.empty()) layer.keys = result.scheme->KeysOf(layer.item);
    if (base.has_value()) layer.base = base->recordings[0]->layers()[i].weights;
    if (request.assumed_base_distance > 0) {
      layer.base = Perturbed(layer.plain.weights, request.assumed_base_distance, request.seed);
    }
  }
  for (const AttackedProduct& product : attacked) {
    AuditedLayer& layer = result.layers.emplace_back();
    layer.item = product.item;
    layer.is_product = true;
    layer.has_probabilities = product.has_probabilities;
    PAVISE_ASSIGN_OR_RETURN(layer.others, ViewsOf(seen, product));
    layer.seen = std::move(layer.others.front());
    layer.others.erase(layer.others.begin());
    PAVISE_ASSIGN_OR_RETURN(std::vector<SeenLayer> truth, ViewsOf(plain, product));
    layer.plain = std::move(truth.front());
    if (layer.seen.form.moduli.empty())
      layer.keys = result.scheme->KeysOf(ProductItem(product.steps[0]));
  }
  return result;
}

}  // namespace pavise::audit
