#include "pavise/train/torch/training.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <new>
#include <optional>
#include <set>
#include <system_error>

#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/random.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/model/tensor_table.h"
#include "pavise/train/batches.h"
#include "pavise/train/tensor_file.h"
#include "pavise/train/torch/protect.h"
#include "pavise/train/torch/zoo.h"

#include "ATen/Parallel.h"
#include "torch/csrc/autograd/grad_mode.h"
#include "torch/nn/functional/loss.h"
#include "torch/utils.h"

namespace pavise::train {
namespace {

using torch::Tensor;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kCheckpointVersion = 1;
constexpr uint64_t kModelVersion = 1;
constexpr uint64_t kMostKeys = uint64_t{1} << 62;  // of a layer
constexpr const char* kCheckpointName = "/checkpoint.safetensors";
constexpr const char* kMetricsName = "/metrics.jsonl";
constexpr double kAdamBeta1 = 0.9;
constexpr double kAdamBeta2 = 0.999;
constexpr double kAdamEpsilon = 1e-8;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// libtorch's exceptions as statuses.
template <typename Run>
auto Guarded(std::string_view item, const Run& run) -> decltype(run()) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    return MachineFailure(item, "memory ran out: take smaller batches or a smaller network");
  } catch (const c10::Error& e) {
    return MachineFailure(item, e.what_without_backtrace());
  } catch (const std::exception& e) {
    return MachineFailure(item, e.what());
  }
}

// ---- Tensors in files ------------------------------------------------------------------------

std::string TypeOf(const Tensor& tensor) {
  return tensor.scalar_type() == torch::kInt64 ? "I64" : "F32";
}

std::vector<uint64_t> ShapeOf(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

// Tensors that go into a file, which must live until it is written.
class TensorList {
 public:
  void Add(std::string name, const Tensor& tensor) {
    const Tensor& kept = kept_.emplace_back(tensor.detach().contiguous());
    named_.push_back({std::move(name),
                      TypeOf(kept),
                      ShapeOf(kept),
                      {static_cast<const uint8_t*>(kept.data_ptr()), kept.nbytes()}});
  }
  const std::vector<NamedTensor>& named() const { return named_; }

 private:
  std::vector<Tensor> kept_;
  std::vector<NamedTensor> named_;
};

// Whether an entry of a file is one for a tensor like that.
absl::Status CheckEntry(const model::TensorEntry* entry, uint64_t size_bytes,
                        const std::string& name, std::string_view item, const Tensor& like) {
  if (entry != nullptr && entry->dtype == TypeOf(like) && entry->shape == ShapeOf(like) &&
      size_bytes == like.nbytes()) {
    return absl::OkStatus();
  }
  return Refuse(Reason::kMalformed, StrCat(item, ": ", name),
                entry == nullptr ? "is missing" : "has another shape or type than the network's");
}

// Copies an entry of a file into a tensor of its shape.
absl::Status CopyInto(const model::TensorEntry* entry, ByteSpan bytes, const std::string& name,
                      std::string_view item, const Tensor& out) {
  PAVISE_RETURN_IF_ERROR(CheckEntry(entry, bytes.size(), name, item, out));
  if (!bytes.empty()) std::memcpy(out.data_ptr(), bytes.data(), bytes.size());
  return absl::OkStatus();
}

// The network's parameters and buffers by their plain names.
std::vector<std::pair<std::string, Tensor>> NamedTensors(const Network& network) {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& item : network.named_parameters())
    tensors.emplace_back(item.key(), item.value());
  for (const auto& item : network.named_buffers()) tensors.emplace_back(item.key(), item.value());
  return tensors;
}

// ---- The optimizer, on the coordinator -------------------------------------------------------

struct Slot {
  std::string name;
  Tensor parameter;
  Tensor velocity;       // of SGD; AdamW's first moment, Muon's momentum
  Tensor second_moment;  // of AdamW
};

// As offload::ApplyMuon, whose weights are these transposed.
void ApplyMuonStep(const offload::MuonStep& step, Slot& slot) {
  const auto matrix = [](const Tensor& tensor) { return tensor.flatten(1); };
  slot.velocity.lerp_(slot.parameter.grad(), 1 - step.momentum);
  Tensor x = matrix(slot.parameter.grad().lerp(slot.velocity, step.momentum));
  x = x / x.norm().clamp_min(1e-7);
  const bool is_tall = x.size(0) > x.size(1);
  if (is_tall) x = x.t();
  for (int i = 0; i < 5; ++i) {
    const Tensor squares = x.mm(x.t());
    x = 3.4445 * x + (-4.7750 * squares + 2.0315 * squares.mm(squares)).mm(x);
  }
  if (is_tall) x = x.t();
  const double scale =
      std::sqrt(std::max(1.0, static_cast<double>(x.size(0)) / static_cast<double>(x.size(1))));
  slot.parameter.mul_(1 - step.learning_rate * step.weight_decay)
      .add_(x.reshape(slot.parameter.sizes()), -step.learning_rate * scale);
}

// As torch.optim.SGD and torch.optim.AdamW do it. Muon is for matrices; all else takes SGD's step.
void Apply(const TrainingOptions& options, double rate, uint64_t number, Slot& slot) {
  const Tensor& gradient = slot.parameter.grad();
  if (!gradient.defined()) return;
  if (options.optimizer == offload::Optimizer::kMuon && slot.parameter.dim() > 1) {
    ApplyMuonStep({static_cast<float>(rate), static_cast<float>(options.momentum),
                   static_cast<float>(options.weight_decay)},
                  slot);
    return;
  }
  if (options.optimizer != offload::Optimizer::kAdamW) {
    slot.velocity.mul_(options.momentum).add_(gradient).add_(slot.parameter, options.weight_decay);
    slot.parameter.add_(slot.velocity, -rate);
    return;
  }
  const double count = static_cast<double>(number);
  slot.parameter.mul_(1 - rate * options.weight_decay);
  slot.velocity.mul_(kAdamBeta1).add_(gradient, 1 - kAdamBeta1);
  slot.second_moment.mul_(kAdamBeta2).addcmul_(gradient, gradient, 1 - kAdamBeta2);
  const Tensor denominator =
      slot.second_moment.sqrt().div_(std::sqrt(1 - std::pow(kAdamBeta2, count))).add_(kAdamEpsilon);
  slot.parameter.addcdiv_(slot.velocity, denominator, -rate / (1 - std::pow(kAdamBeta1, count)));
}

// ---- Batches ---------------------------------------------------------------------------------

struct Batch {
  Tensor images;
  Tensor labels;
};

template <typename Fill>
Batch MakeBatch(const ImageDataset& dataset, std::span<const uint32_t> which, const Fill& fill) {
  const int64_t count = static_cast<int64_t>(which.size());
  Batch batch;
  batch.images =
      torch::empty({count, static_cast<int64_t>(dataset.channels),
                    static_cast<int64_t>(dataset.height), static_cast<int64_t>(dataset.width)});
  batch.labels = torch::empty({count}, torch::kInt64);
  float* const pixels = batch.images.data_ptr<float>();
  int64_t* const labels = batch.labels.data_ptr<int64_t>();
  at::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t image = which[static_cast<size_t>(i)];
      fill(image, std::span(pixels + i * static_cast<int64_t>(dataset.image_bytes()),
                            dataset.image_bytes()));
      labels[i] = dataset.labels[image];
    }
  });
  return batch;
}

struct Evaluation {
  double loss = 0;
  double accuracy = 0;
  std::vector<Prediction> predictions;
};

// In evaluation, without gradients. Stops where `after_batch` refuses.
absl::StatusOr<Evaluation> Evaluate(
    Network& network, const ImageDataset& images, const Normalisation& normalisation,
    uint64_t batch_size, const std::function<absl::Status(uint64_t batch)>& after_batch = nullptr) {
  const torch::NoGradGuard no_grad;
  network.eval();
  Evaluation evaluation;
  double correct = 0;
  // In batches of one size, or nearly: keys that mix a batch's images hide little of a single one.
  const size_t batches = (images.count() + batch_size - 1) / batch_size;
  for (size_t number = 0; number < batches; ++number) {
    std::vector<uint32_t> which;
    const size_t end = images.count() * (number + 1) / batches;
    for (size_t i = images.count() * number / batches; i < end; ++i) {
      which.push_back(static_cast<uint32_t>(i));
    }
    const Batch batch = MakeBatch(images, which, [&](uint32_t image, std::span<float> out) {
      NormaliseImage(images, image, normalisation, out);
    });
    const Tensor probabilities = torch::log_softmax(network.forward(batch.images), 1);
    evaluation.loss += torch::nll_loss(probabilities, batch.labels).item<double>() *
                       static_cast<double>(which.size());
    const auto [most, labels] = probabilities.exp().max(1);
    correct += labels.eq(batch.labels).sum().item<double>();
    for (size_t i = 0; i < which.size(); ++i) {
      const int64_t row = static_cast<int64_t>(i);
      evaluation.predictions.push_back(
          {static_cast<uint32_t>(labels[row].item<int64_t>()), most[row].item<float>()});
    }
    if (after_batch) PAVISE_RETURN_IF_ERROR(after_batch(number));
  }
  const double count = std::max<double>(1, static_cast<double>(images.count()));
  evaluation.loss /= count;
  evaluation.accuracy = correct / count;
  return evaluation;
}

// ---- A model's description -------------------------------------------------------------------

struct ModelDescription {
  std::string network;
  ImageShape shape;
  int64_t classes = 0;
  Normalisation normalisation;
};

std::string DescriptionText(const ModelDescription& description) {
  OrderedJson json;
  json["version"] = kModelVersion;
  json["network"] = description.network;
  json["channels"] = description.shape.channels;
  json["height"] = description.shape.height;
  json["width"] = description.shape.width;
  json["classes"] = description.classes;
  json["mean"] = description.normalisation.mean;
  json["deviation"] = description.normalisation.deviation;
  return DumpJson(json) + "\n";
}

absl::StatusOr<std::vector<float>> ReadFloats(const JsonObject& object, std::string_view key,
                                              size_t count) {
  PAVISE_ASSIGN_OR_RETURN(const Json* const array, object.GetArray(key));
  std::vector<float> values;
  for (const Json& value : *array) {
    if (value.is_number()) values.push_back(value.get<float>());
    if (!value.is_number() || !std::isfinite(values.back()) || values.size() > count) break;
  }
  if (values.size() != count || array->size() != count) {
    return Refuse(Reason::kMalformed, object.PathOf(key), "is not one number for each channel");
  }
  return values;
}

absl::StatusOr<ModelDescription> ParseDescription(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, item));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly(
      {"version", "network", "channels", "height", "width", "classes", "mean", "deviation"}));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t version, object.GetUint("version"));
  if (version != kModelVersion) {
    return Refuse(Reason::kUnsupported, item, StrCat("has version ", version),
                  "this program reads version 1");
  }
  ModelDescription description;
  PAVISE_ASSIGN_OR_RETURN(description.network, object.GetString("network"));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t channels, object.GetUint("channels"));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t height, object.GetUint("height"));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t width, object.GetUint("width"));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t classes, object.GetUint("classes"));
  if (channels < 1 || channels > 3 || height > kMaxImageSide || width > kMaxImageSide ||
      classes > kMaxClasses) {
    return Refuse(Reason::kLimitExceeded, item, "describes images or classes beyond what is read");
  }
  description.shape = {static_cast<int64_t>(channels), static_cast<int64_t>(height),
                       static_cast<int64_t>(width)};
  description.classes = static_cast<int64_t>(classes);
  PAVISE_ASSIGN_OR_RETURN(description.normalisation.mean, ReadFloats(object, "mean", channels));
  PAVISE_ASSIGN_OR_RETURN(description.normalisation.deviation,
                          ReadFloats(object, "deviation", channels));
  for (const float deviation : description.normalisation.deviation) {
    if (!(deviation > 0)) return Refuse(Reason::kMalformed, item, "a deviation is not above 0");
  }
  return description;
}

// ---- Offload ---------------------------------------------------------------------------------

// What decides, besides the options of a run, what its workers are sent. A run that is resumed with
// any of it changed has other keys: two batches under one key would be one too many.
absl::StatusOr<std::string> CourseOf(const OffloadSetting& setting, const ImageDataset& tests) {
  const offload::CoordinatorOptions& options = setting.options;
  std::string course =
      StrCat("course: ", offload::DTypeName(options.type), ", ",
             offload::DTypeName(options.operand_type), ", ", options.micro_batches, " parts, from ",
             setting.least_width, ", attention ", setting.attention ? "there" : "here");
  // Devices that round alike.
  std::set<std::string> devices;
  for (const offload::WorkerSeat& seat : setting.workers) {
    devices.insert(seat.connection->description().device);
  }
  for (const std::string& device : devices) StrAppend(&course, ", ", ToHex(AsBytes(device)));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 images, crypto::Sha256(tests.images));
  StrAppend(&course, ", ", ToHex(images));
  // Which layers are offloaded, or where layers of unlike devices go, is measured: no two runs need
  // take one course.
  if (setting.plan || devices.size() > 1) {
    Bytes nonce(offload::SecretStream::kKeyBytes);
    PAVISE_RETURN_IF_ERROR(SystemRandom().Fill(nonce));
    StrAppend(&course, ", ", ToHex(nonce));
  }
  return course;
}

// A coordinator and the model whose layers it has. `key` and the course give all secrets.
struct Offloaded {
  std::unique_ptr<offload::Coordinator> coordinator;
  std::unique_ptr<ProtectedModel> model;
};

absl::StatusOr<Offloaded> ProtectNetwork(const std::shared_ptr<Network>& network,
                                         const ImageShape& shape, uint64_t batch_size,
                                         const OffloadSetting& setting,
                                         const TrainingOptions& options, const SecretBytes& key,
                                         const ImageDataset& tests,
                                         const std::map<std::string, ProtectedState>& states) {
  Offloaded offloaded;
  PAVISE_ASSIGN_OR_RETURN(const offload::SecretStream secret, offload::SecretStream::FromKey(key));
  PAVISE_ASSIGN_OR_RETURN(const std::string course, CourseOf(setting, tests));
  PAVISE_ASSIGN_OR_RETURN(offload::SecretStream stream, secret.Derive(course));
  PAVISE_ASSIGN_OR_RETURN(offloaded.coordinator,
                          offload::Coordinator::Create(setting.scheme, setting.workers,
                                                       std::move(stream), setting.options));
  ProtectOptions protect;
  protect.least_width = setting.least_width;
  protect.convolutions = options.convolutions;
  protect.attention = setting.attention;
  protect.plan = setting.plan;
  // What is not linear, no sketch follows.
  protect.updates_on_worker = options.optimizer == offload::Optimizer::kSgd;
  PAVISE_ASSIGN_OR_RETURN(
      offloaded.model,
      ProtectedModel::Protect(
          network, [&](Tensor images) { return network->forward(std::move(images)); },
          torch::zeros(
              {static_cast<int64_t>(batch_size), shape.channels, shape.height, shape.width}),
          *offloaded.coordinator, protect, states));
  return offloaded;
}

// ---- The run ---------------------------------------------------------------------------------

// What a checkpoint holds beside tensors.
struct Progress {
  uint64_t step = 0;   // done
  uint64_t batch = 0;  // of the epoch, done
  uint64_t epoch = 1;
  double loss_sum = 0;  // of the epoch's images so far
  uint64_t correct = 0;
  uint64_t seen = 0;
  uint64_t metrics_bytes = 0;
  EpochMetrics last;
};

class TrainingRun {
 public:
  TrainingRun(const TrainingRequest& request, const ImageSplits& splits, TrainingObserver& observer)
      : request_(request), options_(request.options), splits_(splits), observer_(observer) {}

  absl::StatusOr<TrainingResult> Run();

 private:
  absl::Status Prepare();
  absl::Status ReadCheckpoint(const std::string& path);
  absl::Status ReadTensors(const TensorFile& file, const JsonObject& state,
                           const std::string& path);
  absl::Status WriteCheckpoint();
  absl::StatusOr<std::map<std::string, ProtectedState>> OffloadedStates();
  void AdmitWorkers();
  absl::Status Step(std::span<const uint32_t> which);
  absl::Status FinishEpoch();
  absl::Status WriteModel();
  absl::Status DrawCurves();

  const TrainingRequest& request_;
  const TrainingOptions& options_;
  const ImageSplits& splits_;
  TrainingObserver& observer_;

  std::string data_;  // digests of the training images and their labels
  ModelDescription description_;
  std::shared_ptr<Network> network_;
  std::vector<Slot> slots_;  // of every parameter; those that are offloaded are the workers'
  SecretBytes key_;          // of all secrets of the offload
  std::map<std::string, ProtectedState> resumed_;
  std::optional<Offloaded> offloaded_;
  std::optional<MetricsFile> metrics_;
  Progress progress_;
  uint64_t batches_ = 0;  // an epoch
  uint64_t steps_ = 0;    // of the whole run
  uint64_t resumed_at_ = 0;
  Clock::time_point begin_;
  uint64_t images_since_begin_ = 0;
  Clock::time_point epoch_begin_;
  uint64_t images_this_epoch_ = 0;
};

absl::Status TrainingRun::Prepare() {
  PAVISE_RETURN_IF_ERROR(CheckOptions(options_));
  if ((request_.offload == nullptr) != options_.scheme.empty()) {
    return UsageError("a scheme and workers go together");
  }
  batches_ = BatchesOf(splits_.train.count(), options_.batch_size);
  steps_ = batches_ * options_.epochs;
  if (batches_ == 0) {
    return Refuse(Reason::kMalformed, splits_.format, "has fewer than two training images",
                  "give it more");
  }
  PAVISE_ASSIGN_OR_RETURN(const Digest32 images, crypto::Sha256(splits_.train.images));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 labels, crypto::Sha256(splits_.train.labels));
  data_ = ToHex(images) + ToHex(labels);
  at::set_num_threads(static_cast<int>(options_.threads));
  torch::manual_seed(options_.seed);
  description_.network = options_.network;
  description_.shape = {static_cast<int64_t>(splits_.train.channels),
                        static_cast<int64_t>(splits_.train.height),
                        static_cast<int64_t>(splits_.train.width)};
  description_.classes = static_cast<int64_t>(splits_.classes);
  description_.normalisation = MeasureNormalisation(splits_.train);
  PAVISE_ASSIGN_OR_RETURN(network_,
                          MakeNetwork(options_.network, description_.shape, description_.classes));
  if (request_.base != nullptr) {
    for (const auto& [name, tensor] : NamedTensors(*network_)) {
      const model::TensorEntry* const entry = request_.base->Find(name);
      PAVISE_RETURN_IF_ERROR(
          CopyInto(entry, entry == nullptr ? ByteSpan() : request_.base->BytesOf(*entry), name,
                   "base", tensor));
    }
  }
  for (const auto& item : network_->named_parameters()) {
    Slot& slot = slots_.emplace_back();
    slot.name = item.key();
    slot.parameter = item.value();
    slot.velocity = torch::zeros_like(slot.parameter);
    if (options_.optimizer == offload::Optimizer::kAdamW)
      slot.second_moment = torch::zeros_like(slot.parameter);
  }
  const std::string path = request_.folder + kCheckpointName;
  std::error_code ignored;
  const bool is_there = std::filesystem::exists(path, ignored);
  if (is_there && !request_.resume) {
    return Refuse(Reason::kPolicyDenied, path, "there is a checkpoint of an earlier run",
                  "go on from it (--resume), or train into another folder");
  }
  if (is_there) {
    PAVISE_RETURN_IF_ERROR(ReadCheckpoint(path));
  } else if (request_.offload != nullptr) {
    Bytes key(offload::SecretStream::kKeyBytes);
    PAVISE_RETURN_IF_ERROR(SystemRandom().Fill(key));
    key_ = SecretBytes(std::move(key));
  }
  PAVISE_ASSIGN_OR_RETURN(MetricsFile metrics, MetricsFile::Open(request_.folder + kMetricsName,
                                                                 progress_.metrics_bytes));
  metrics_.emplace(std::move(metrics));
  // Of writers that were killed: nobody else writes here while the metrics are locked.
  for (const auto& entry : std::filesystem::directory_iterator(request_.folder, ignored)) {
    if (entry.path().filename().string().starts_with("checkpoint.safetensors.tmp-")) {
      std::filesystem::remove(entry.path(), ignored);
    }
  }
  if (request_.offload == nullptr) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(
      Offloaded offloaded,
      ProtectNetwork(network_, description_.shape, options_.batch_size, *request_.offload, options_,
                     key_, splits_.test, resumed_));
  offloaded_.emplace(std::move(offloaded));
  observer_.OnProtected(offloaded_->model->parameters(), offloaded_->model->kept());
  resumed_.clear();
  // What the workers keep is not kept here.
  const auto& parameters = offloaded_->model->parameters();
  std::erase_if(slots_, [&](const Slot& slot) {
    return std::find(parameters.begin(), parameters.end(), slot.name) != parameters.end();
  });
  return absl::OkStatus();
}

absl::Status TrainingRun::ReadTensors(const TensorFile& file, const JsonObject& state,
                                      const std::string& path) {
  const auto read = [&](const std::string& name, const Tensor& out) {
    const model::TensorEntry* const entry = file.Find(name);
    return CopyInto(entry, entry == nullptr ? ByteSpan() : file.BytesOf(*entry), name, path, out);
  };
  const torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : NamedTensors(*network_)) {
    PAVISE_RETURN_IF_ERROR(read(StrCat("model.", name), tensor));
  }
  for (const Slot& slot : slots_) {
    PAVISE_RETURN_IF_ERROR(read(StrCat("velocity.", slot.name), slot.velocity));
    if (!slot.second_moment.defined()) continue;
    PAVISE_RETURN_IF_ERROR(read(StrCat("second_moment.", slot.name), slot.second_moment));
  }
  PAVISE_ASSIGN_OR_RETURN(const Json* const layers, state.GetArray("layers"));
  for (const Json& json : *layers) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject layer, JsonObject::From(json, state.PathOf("layers")));
    PAVISE_ASSIGN_OR_RETURN(const std::string name, layer.GetString("parameter"));
    const auto slot =
        std::find_if(slots_.begin(), slots_.end(), [&](const Slot& s) { return s.name == name; });
    if (slot == slots_.end()) {
      return Refuse(Reason::kMalformed, layer.PathOf("parameter"),
                    "is no parameter of the network");
    }
    ProtectedState& resumed = resumed_[name];
    resumed.weight = slot->parameter.detach().clone();
    resumed.velocity = slot->velocity;
    resumed.second_moment = slot->second_moment;
    PAVISE_ASSIGN_OR_RETURN(resumed.updates, layer.GetUint("updates"));
    PAVISE_ASSIGN_OR_RETURN(resumed.keys, layer.GetUint("keys"));
    PAVISE_ASSIGN_OR_RETURN(const Json* const drift, layer.Get("drift_spent"));
    if (drift->is_number()) resumed.drift_spent = drift->get<double>();
    // What was spent stays spent.
    if (!drift->is_number() || !(resumed.drift_spent >= 0)) {
      return Refuse(Reason::kMalformed, layer.PathOf("drift_spent"), "is not a number from 0 on");
    }
    if (resumed.updates > progress_.step || resumed.keys > kMostKeys) {
      return Refuse(Reason::kMalformed, layer.PathOf("parameter"),
                    "had more updates than the run has steps, or more keys than any");
    }
  }
  return absl::OkStatus();
}

absl::Status TrainingRun::ReadCheckpoint(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const TensorFile file, ReadTensorFile(path));
  const auto text = file.metadata.find("state");
  if (text == file.metadata.end()) {
    return Refuse(Reason::kMalformed, path, "is no checkpoint of a training run");
  }
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(AsBytes(text->second), path));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject state, JsonObject::From(json, path));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t version, state.GetUint("version"));
  if (version != kCheckpointVersion) {
    return Refuse(Reason::kUnsupported, path, StrCat("is a checkpoint of version ", version),
                  "this program reads version 1");
  }
  PAVISE_ASSIGN_OR_RETURN(const Json* const options, state.Get("options"));
  const Json own = Json::parse(DumpJson(OptionsJson(options_)));
  for (const auto& [key, value] : own.items()) {
    if (options->is_object() && options->contains(key) && (*options)[key] == value) continue;
    return Refuse(
        Reason::kPolicyDenied, path,
        StrCat("was made with another ", key, ": ",
               options->is_object() && options->contains(key) ? Printable((*options)[key].dump())
                                                              : "none",
               " instead of ", value.dump()),
        "give the options of the run that is to go on");
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string data, state.GetString("data"));
  if (data != data_) {
    return Refuse(Reason::kPolicyDenied, path, "was made with other training images",
                  "give the data of the run that is to go on");
  }
  PAVISE_ASSIGN_OR_RETURN(progress_.step, state.GetUint("step"));
  PAVISE_ASSIGN_OR_RETURN(progress_.batch, state.GetUint("batch"));
  PAVISE_ASSIGN_OR_RETURN(progress_.epoch, state.GetUint("epoch"));
  PAVISE_ASSIGN_OR_RETURN(progress_.correct, state.GetUint("correct"));
  PAVISE_ASSIGN_OR_RETURN(progress_.seen, state.GetUint("seen"));
  PAVISE_ASSIGN_OR_RETURN(progress_.metrics_bytes, state.GetUint("metrics_bytes"));
  PAVISE_ASSIGN_OR_RETURN(const Json* const loss, state.Get("loss_sum"));
  PAVISE_ASSIGN_OR_RETURN(const std::string key, state.GetString("offload_key"));
  if (!loss->is_number() || progress_.epoch < 1 || progress_.batch > batches_ ||
      progress_.step != (progress_.epoch - 1) * batches_ + progress_.batch) {
    return Refuse(Reason::kMalformed, path, "its place in the run contradicts itself");
  }
  progress_.loss_sum = loss->get<double>();
  PAVISE_ASSIGN_OR_RETURN(Bytes key_bytes, FromHex(key, path));
  if (key_bytes.size() != (request_.offload == nullptr ? 0 : offload::SecretStream::kKeyBytes)) {
    return Refuse(Reason::kMalformed, path, "its offload key has another length");
  }
  key_ = SecretBytes(std::move(key_bytes));
  resumed_at_ = progress_.step;
  return ReadTensors(file, state, path);
}

absl::StatusOr<std::map<std::string, ProtectedState>> TrainingRun::OffloadedStates() {
  if (!offloaded_.has_value()) return std::map<std::string, ProtectedState>();
  return offloaded_->model->States();
}

absl::Status TrainingRun::WriteCheckpoint() {
  PAVISE_RETURN_IF_ERROR(metrics_->Sync());
  progress_.metrics_bytes = metrics_->size_bytes();
  PAVISE_ASSIGN_OR_RETURN(const auto states, OffloadedStates());
  TensorList tensors;
  for (const auto& [name, tensor] : NamedTensors(*network_)) {
    const auto state = states.find(name);
    tensors.Add(StrCat("model.", name), state == states.end() ? tensor : state->second.weight);
  }
  for (const Slot& slot : slots_) {
    tensors.Add(StrCat("velocity.", slot.name), slot.velocity);
    if (slot.second_moment.defined())
      tensors.Add(StrCat("second_moment.", slot.name), slot.second_moment);
  }
  OrderedJson state;
  state["version"] = kCheckpointVersion;
  state["options"] = OptionsJson(options_);
  state["data"] = data_;
  state["step"] = progress_.step;
  state["epoch"] = progress_.epoch;
  state["batch"] = progress_.batch;
  state["loss_sum"] = progress_.loss_sum;
  state["correct"] = progress_.correct;
  state["seen"] = progress_.seen;
  state["metrics_bytes"] = progress_.metrics_bytes;
  state["offload_key"] = ToHex(key_.Reveal());
  state["layers"] = OrderedJson::array();
  for (const auto& [name, layer] : states) {
    const auto or_zeros = [&](const Tensor& tensor) {
      return tensor.defined() ? tensor : torch::zeros_like(layer.weight);
    };
    tensors.Add(StrCat("velocity.", name), or_zeros(layer.velocity));
    if (options_.optimizer == offload::Optimizer::kAdamW) {
      tensors.Add(StrCat("second_moment.", name), or_zeros(layer.second_moment));
    }
    OrderedJson& json = state["layers"].emplace_back();
    json["parameter"] = name;
    json["updates"] = layer.updates;
    json["keys"] = layer.keys;
    json["drift_spent"] = layer.drift_spent;
  }
  // Weights in the clear, and under a scheme its key: for the owner's eyes.
  return WriteTensorFile(request_.folder + kCheckpointName, tensors.named(),
                         {{"state", DumpJson(state, -1)}},
                         /*with_digest=*/true, 0600);
}

void TrainingRun::AdmitWorkers() {
  if (!offloaded_.has_value() || !request_.offload->new_workers) return;
  NewWorkers came = request_.offload->new_workers();
  for (const std::string& failure : came.failures) observer_.OnWorker(failure);
  for (offload::WorkerSeat& seat : came.seats) {
    const std::string name = seat.name;
    const absl::Status status = offloaded_->coordinator->AddWorker(std::move(seat));
    observer_.OnWorker(status.ok() ? StrCat("worker ", name, " joined")
                                   : std::string(FromAbsl(status.message())));
  }
}

absl::Status TrainingRun::Step(std::span<const uint32_t> which) {
  const uint64_t number = progress_.step + 1;
  AdmitWorkers();
  const double rate = LearningRateAt(options_, number, steps_);
  torch::manual_seed(MixSeed(options_.seed, number, 0));  // dropout's
  const Batch batch = MakeBatch(splits_.train, which, [&](uint32_t image, std::span<float> out) {
    AugmentImage(splits_.train, image, description_.normalisation, options_.augmentation,
                 options_.seed, progress_.epoch, out);
  });
  network_->train();
  network_->zero_grad();
  const Tensor logits = network_->forward(batch.images);
  const Tensor loss = torch::nn::functional::cross_entropy(logits, batch.labels);
  const double value = loss.item<double>();
  if (!std::isfinite(value)) {
    return Refuse(Reason::kMalformed, StrCat("step ", number), "the loss is no number any more",
                  "lower the learning rate, or begin with a warm-up");
  }
  loss.backward();
  {
    const torch::NoGradGuard no_grad;
    for (Slot& slot : slots_) Apply(options_, rate, number, slot);
    progress_.correct +=
        static_cast<uint64_t>(logits.argmax(1).eq(batch.labels).sum().item<int64_t>());
  }
  if (offloaded_.has_value()) {
    const float rate32 = static_cast<float>(rate);
    const float decay = static_cast<float>(options_.weight_decay);
    const float momentum = static_cast<float>(options_.momentum);
    switch (options_.optimizer) {
      case offload::Optimizer::kSgd:
        PAVISE_RETURN_IF_ERROR(
            offloaded_->model->Update(offload::SgdStep{rate32, momentum, decay}));
        break;
      case offload::Optimizer::kAdamW:
        PAVISE_RETURN_IF_ERROR(offloaded_->model->Update(
            offload::AdamWStep{.learning_rate = rate32, .weight_decay = decay}));
        break;
      case offload::Optimizer::kMuon:
        PAVISE_RETURN_IF_ERROR(
            offloaded_->model->Update(offload::MuonStep{rate32, momentum, decay}));
        break;
    }
  }
  progress_.step = number;
  ++progress_.batch;
  progress_.seen += which.size();
  progress_.loss_sum += value * static_cast<double>(which.size());
  images_since_begin_ += which.size();
  images_this_epoch_ += which.size();
  PAVISE_RETURN_IF_ERROR(
      metrics_->Append(MetricsLine(StepMetrics{number, progress_.epoch, value, rate})));

  StepReport report;
  report.step = number;
  report.steps = steps_;
  report.epoch = progress_.epoch;
  report.epochs = options_.epochs;
  report.loss = value;
  report.accuracy = static_cast<double>(progress_.correct) / static_cast<double>(progress_.seen);
  const double seconds = SecondsSince(begin_);
  report.images_per_second = static_cast<double>(images_since_begin_) / std::max(seconds, 1e-9);
  report.seconds_left =
      seconds * static_cast<double>(steps_ - number) / static_cast<double>(number - resumed_at_);
  observer_.OnStep(report);
  return absl::OkStatus();
}

absl::Status TrainingRun::DrawCurves() {
  PAVISE_ASSIGN_OR_RETURN(const Bytes lines,
                          ReadFile(request_.folder + kMetricsName, kMaxMetricsBytes));
  PAVISE_ASSIGN_OR_RETURN(const Metrics metrics,
                          ParseMetrics(lines, request_.folder + kMetricsName));
  const std::string title = StrCat(options_.network, " on ", splits_.format, ", ",
                                   options_.scheme.empty() ? "in the clear" : options_.scheme);
  return WriteFileAtomically(request_.folder + "/curves.svg",
                             AsBytes(RenderCurves(title, metrics)));
}

absl::Status TrainingRun::FinishEpoch() {
  EpochMetrics& epoch = progress_.last;
  epoch.epoch = progress_.epoch;
  epoch.step = progress_.step;
  epoch.train_loss = progress_.loss_sum / static_cast<double>(progress_.seen);
  epoch.train_accuracy =
      static_cast<double>(progress_.correct) / static_cast<double>(progress_.seen);
  epoch.images_per_second =
      static_cast<double>(images_this_epoch_) / std::max(SecondsSince(epoch_begin_), 1e-9);
  PAVISE_ASSIGN_OR_RETURN(
      const Evaluation test,
      Evaluate(*network_, splits_.test, description_.normalisation, options_.batch_size));
  epoch.test_loss = test.loss;
  epoch.test_accuracy = test.accuracy;
  PAVISE_RETURN_IF_ERROR(metrics_->Append(MetricsLine(epoch)));
  PAVISE_RETURN_IF_ERROR(DrawCurves());
  observer_.OnEpoch(epoch);
  ++progress_.epoch;
  progress_.batch = progress_.seen = progress_.correct = 0;
  progress_.loss_sum = 0;
  epoch_begin_ = Clock::now();
  images_this_epoch_ = 0;
  return WriteCheckpoint();
}

absl::Status TrainingRun::WriteModel() {
  const std::string folder = request_.folder + "/model";
  std::error_code error;
  std::filesystem::create_directory(folder, error);
  if (error) return FromErrno(error.value(), "create", folder);
  std::map<std::string, Tensor> weights;
  if (offloaded_.has_value()) {
    PAVISE_ASSIGN_OR_RETURN(weights, offloaded_->model->Weights());
  }
  TensorList tensors;
  for (const auto& [name, tensor] : NamedTensors(*network_)) {
    const auto offloaded = weights.find(name);
    tensors.Add(name, offloaded == weights.end() ? tensor : offloaded->second);
  }
  PAVISE_RETURN_IF_ERROR(WriteTensorFile(folder + "/model.safetensors", tensors.named(),
                                         {{"format", "pt"}},
                                         /*with_digest=*/false, 0644));
  return WriteFileAtomically(folder + "/network.json", AsBytes(DescriptionText(description_)));
}

absl::StatusOr<TrainingResult> TrainingRun::Run() {
  PAVISE_RETURN_IF_ERROR(Prepare());
  begin_ = epoch_begin_ = Clock::now();
  while (progress_.epoch <= options_.epochs) {
    const std::vector<uint32_t> order =
        EpochOrder(splits_.train.count(), options_.seed, progress_.epoch);
    while (progress_.batch < batches_) {
      const size_t first = progress_.batch * options_.batch_size;
      const absl::Status stepped = Guarded(StrCat("step ", progress_.step + 1), [&] {
        return Step(std::span(order).subspan(
            first, std::min<size_t>(options_.batch_size, order.size() - first)));
      });
      if (offloaded_.has_value() && !offloaded_->model->status().ok())
        return offloaded_->model->status();
      PAVISE_RETURN_IF_ERROR(stepped);
      if (request_.checkpoint_steps != 0 && progress_.step % request_.checkpoint_steps == 0 &&
          progress_.batch < batches_) {
        PAVISE_RETURN_IF_ERROR(WriteCheckpoint());
      }
    }
    const absl::Status finished = Guarded("evaluation", [&] { return FinishEpoch(); });
    if (offloaded_.has_value() && !offloaded_->model->status().ok())
      return offloaded_->model->status();
    PAVISE_RETURN_IF_ERROR(finished);
  }
  PAVISE_RETURN_IF_ERROR(WriteModel());
  TrainingResult result;
  result.steps = progress_.step;
  result.resumed_at_step = resumed_at_;
  result.model_folder = request_.folder + "/model";
  PAVISE_ASSIGN_OR_RETURN(const Bytes lines,
                          ReadFile(request_.folder + kMetricsName, kMaxMetricsBytes));
  PAVISE_ASSIGN_OR_RETURN(const Metrics metrics,
                          ParseMetrics(lines, request_.folder + kMetricsName));
  if (!metrics.epochs.empty()) result.last = metrics.epochs.back();
  if (offloaded_.has_value())
    result.offload_report = offload::Describe(offloaded_->coordinator->Report());
  return result;
}

}  // namespace

absl::StatusOr<TrainingResult> Train(const TrainingRequest& request, const ImageSplits& splits,
                                     TrainingObserver& observer) {
  return Guarded("training", [&] { return TrainingRun(request, splits, observer).Run(); });
}

namespace {

absl::StatusOr<ByteSpan> FileBytes(const loading::LoadedModel& model, std::string_view name) {
  for (const hash::LoadedFile& file : model.files) {
    if (file.name != name) continue;
    const auto range = file.Find(0, file.size_bytes);
    if (!range.has_value() || file.buffer == nullptr) break;
    return ByteSpan(file.buffer->host_bytes()).subspan(range->offset_bytes, file.size_bytes);
  }
  return Refuse(Reason::kFileMissing, name, "the model has no such file",
                "give a folder that `pavise train` wrote");
}

// The loaded bytes themselves, as a tensor of the shape and type of `like`.
absl::StatusOr<Tensor> ResidentTensor(const loading::LoadedTensor* loaded, const std::string& name,
                                      const Tensor& like) {
  PAVISE_RETURN_IF_ERROR(CheckEntry(loaded == nullptr ? nullptr : &loaded->entry,
                                    loaded == nullptr ? 0 : loaded->size_bytes(), name,
                                    "model.safetensors", like));
  if (like.nbytes() == 0) return torch::empty_like(like);
  uint8_t* const bytes =
      const_cast<hash::Buffer*>(loaded->buffer)->host_bytes().data() + loaded->buffer_offset_bytes;
  if (reinterpret_cast<uintptr_t>(bytes) % like.element_size() != 0) {
    return Refuse(Reason::kUnsupported, StrCat("model.safetensors: ", name),
                  "does not lie aligned in its file",
                  "write the file with a header whose length is a multiple of 8");
  }
  return torch::from_blob(bytes, like.sizes(), like.options());
}

// Checks the weights between batches: see WeightsGuard.
class BetweenBatches {
 public:
  static absl::StatusOr<std::unique_ptr<BetweenBatches>> Start(const loading::VerifiedLoad& model,
                                                               const WeightsGuard& guard) {
    std::unique_ptr<BetweenBatches> made(new BetweenBatches(guard));
    loading::GuardOptions options = guard.options;
    options.own_thread = false;
    options.on_mismatch = [found = &made->found_,
                           tell = guard.options.on_mismatch](const loading::GuardFinding& finding) {
      found->Update(finding.status);
      if (tell) tell(finding);
    };
    PAVISE_ASSIGN_OR_RETURN(made->guard_,
                            loading::Guard::Start(model, *guard.device, std::move(options)));
    return made;
  }

  absl::Status After(uint64_t batch) {
    if (wanted_.after_batch) wanted_.after_batch(batch);
    if (wanted_.options.clock->Now() >= due_) Check();
    return found_;
  }

  // Once more all ranges, from the first to the last: what is given out was computed between two
  // readings of each.
  absl::StatusOr<loading::GuardReport> Finish() {
    const loading::GuardReport before = guard_->Report();
    const uint64_t passes = before.passes_completed + (before.coverage > 0 ? 2 : 1);
    while (found_.ok() && before.ranges > 0 && guard_->Report().passes_completed < passes) Check();
    PAVISE_RETURN_IF_ERROR(found_);
    return guard_->Report();
  }

 private:
  explicit BetweenBatches(const WeightsGuard& guard) : wanted_(guard) {}

  void Check() {
    const absl::Duration rest = guard_->Step();
    due_ = wanted_.options.clock->Now() + rest;
  }

  const WeightsGuard& wanted_;
  absl::Status found_;
  std::unique_ptr<loading::Guard> guard_;
  absl::Duration due_;
};

absl::StatusOr<InferenceResult> RunInference(const loading::VerifiedLoad& verified,
                                             const ImageDataset& images, uint64_t batch_size,
                                             unsigned threads, const OffloadSetting* offload,
                                             const WeightsGuard* guard) {
  const loading::LoadedModel& model = *verified;
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan text, FileBytes(model, "network.json"));
  PAVISE_ASSIGN_OR_RETURN(const ModelDescription description,
                          ParseDescription(text, "network.json"));
  const ImageShape& shape = description.shape;
  if (images.channels != static_cast<size_t>(shape.channels) ||
      images.height != static_cast<size_t>(shape.height) ||
      images.width != static_cast<size_t>(shape.width)) {
    return Refuse(Reason::kUnsupported, "images",
                  "have another shape than those that the model was trained on");
  }
  at::set_num_threads(static_cast<int>(threads));
  PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<Network> network,
                          MakeNetwork(description.network, shape, description.classes));
  {
    const torch::NoGradGuard no_grad;
    for (auto& [name, tensor] : NamedTensors(*network)) {
      PAVISE_ASSIGN_OR_RETURN(const Tensor resident,
                              ResidentTensor(model.Find("model.safetensors", name), name, tensor));
      tensor.set_data(resident);
    }
  }
  std::unique_ptr<BetweenBatches> checks;
  if (guard != nullptr) {
    PAVISE_ASSIGN_OR_RETURN(checks, BetweenBatches::Start(verified, *guard));
  }
  std::optional<Offloaded> offloaded;
  if (offload != nullptr) {
    Bytes key(offload::SecretStream::kKeyBytes);
    PAVISE_RETURN_IF_ERROR(SystemRandom().Fill(key));
    PAVISE_ASSIGN_OR_RETURN(offloaded, ProtectNetwork(network, shape, batch_size, *offload, {},
                                                      SecretBytes(std::move(key)), images, {}));
  }
  const Clock::time_point begin = Clock::now();
  absl::StatusOr<Evaluation> evaluation = Guarded("inference", [&]() -> absl::StatusOr<Evaluation> {
    return Evaluate(*network, images, description.normalisation, batch_size, [&](uint64_t batch) {
      return checks ? checks->After(batch) : absl::OkStatus();
    });
  });
  if (offloaded.has_value() && !offloaded->model->status().ok()) return offloaded->model->status();
  PAVISE_RETURN_IF_ERROR(evaluation.status());
  InferenceResult result;
  if (checks) {
    PAVISE_ASSIGN_OR_RETURN(result.guarded, checks->Finish());
  }
  result.network = description.network;
  result.images = images.count();
  result.loss = evaluation->loss;
  result.accuracy = evaluation->accuracy;
  result.images_per_second =
      static_cast<double>(images.count()) / std::max(SecondsSince(begin), 1e-9);
  result.predictions = std::move(evaluation->predictions);
  if (offloaded.has_value())
    result.offload_report = offload::Describe(offloaded->coordinator->Report());
  return result;
}

}  // namespace

absl::StatusOr<InferenceResult> Infer(const loading::VerifiedLoad& model,
                                      const ImageDataset& images, uint64_t batch_size,
                                      unsigned threads, const OffloadSetting* offload,
                                      const WeightsGuard* guard) {
  return Guarded("inference",
                 [&] { return RunInference(model, images, batch_size, threads, offload, guard); });
}

}  // namespace pavise::train
