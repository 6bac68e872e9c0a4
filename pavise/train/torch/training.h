#ifndef PAVISE_TRAIN_TORCH_TRAINING_H_
#define PAVISE_TRAIN_TORCH_TRAINING_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pavise/hash/device.h"
#include "pavise/loading/guard.h"
#include "pavise/loading/load.h"
#include "pavise/offload/coordinator.h"
#include "pavise/train/image_dataset.h"
#include "pavise/train/metrics.h"
#include "pavise/train/tensor_file.h"
#include "pavise/train/training_options.h"

#include "absl/status/statusor.h"

// Training and using the networks of zoo.h, without libtorch's types. The process sets libtorch's
// number of threads and its generator's seed: one run at a time.
namespace pavise::train {

struct StepReport {
  uint64_t step = 0;
  uint64_t steps = 0;  // of the whole run
  uint64_t epoch = 0;
  uint64_t epochs = 0;
  double loss = 0;
  double accuracy = 0;  // of the epoch so far
  double images_per_second = 0;
  double seconds_left = 0;
};

class TrainingObserver {
 public:
  virtual ~TrainingObserver() = default;
  virtual void OnStep(const StepReport&) {}
  virtual void OnEpoch(const EpochMetrics&) {}
  // Which layers were offloaded, and which stayed and why, before the first step.
  virtual void OnProtected(const std::vector<std::string>& /*offloaded*/,
                           const std::vector<std::string>& /*kept*/) {}
  // Of workers that came, or could not come, while the run goes on.
  virtual void OnWorker(const std::string& /*what*/) {}
};

// Workers that came since it was asked last, and what there is to say of those that could not.
struct NewWorkers {
  std::vector<offload::WorkerSeat> seats;
  std::vector<std::string> failures;
};

// The workers of a run under a scheme.
struct OffloadSetting {
  std::shared_ptr<const offload::Scheme> scheme;
  std::vector<offload::WorkerSeat> workers;
  offload::CoordinatorOptions options;
  int64_t least_width = 32;  // ProtectOptions::least_width
  bool attention = true;
  bool plan = false;
  std::function<NewWorkers()> new_workers;  // asked before each step of training; may be empty
};

struct TrainingRequest {
  TrainingOptions options;
  // A folder that exists. In it (docs/formats/training.md): checkpoint.safetensors, metrics.jsonl,
  // curves.svg, and at the end model/model.safetensors.
  std::string folder;
  // Weights to begin with; nullptr: drawn from the seed. A checkpoint that is gone on from has its
  // own.
  const TensorFile* base = nullptr;
  // From the folder's checkpoint, where there is one.
  bool resume = false;
  // A checkpoint after so many steps, besides those after each epoch; 0: no others.
  uint64_t checkpoint_steps = 0;
  // Not nullptr exactly where the options name a scheme.
  const OffloadSetting* offload = nullptr;
};

struct TrainingResult {
  uint64_t steps = 0;
  uint64_t resumed_at_step = 0;  // 0: from the beginning
  EpochMetrics last;
  std::string model_folder;
  std::string offload_report;  // offload::Describe; "" without a scheme
};

// Trains on splits.train, evaluates splits.test after each epoch, and writes the model. Refusals:
// kMalformed (a base of another network), kContentMismatch and kMalformed (checkpoint),
// kPolicyDenied (a checkpoint of other options or data, or a folder with one and no `resume`),
// kMalformed (the loss is no number any more), those of the coordinator; usage errors of
// CheckOptions and MakeNetwork. The checkpoint is that of the last whole step that was due.
absl::StatusOr<TrainingResult> Train(const TrainingRequest& request, const ImageSplits& splits,
                                     TrainingObserver& observer);

struct Prediction {
  uint32_t label = 0;
  float probability = 0;
};
// How the weights are checked while Infer uses them.
struct WeightsGuard {
  hash::Device* device = nullptr;  // the load's
  // `own_thread` is not used, `on_mismatch` may be empty: Infer checks a slice after a batch, where
  // the rest for its share of time is over, and all ranges once more after the last batch.
  loading::GuardOptions options;
  // Called after each batch, before the check that may follow it. May be empty.
  std::function<void(uint64_t batch)> after_batch;
};

struct InferenceResult {
  std::string network;
  uint64_t images = 0;
  double loss = 0;
  double accuracy = 0;
  double images_per_second = 0;
  std::vector<Prediction> predictions;
  std::string offload_report;
  std::optional<loading::GuardReport> guarded;  // exactly with a guard: all that it checked held
};

// Runs a verified model, as Train wrote it, on images. The network computes with the load's own
// buffers, not with a copy of them, so that what `guard` checks is what is used. kMalformed: no
// such model; kUnsupported: images of another shape, tensors that do not lie aligned in their file.
//
// With `guard` the refusals of loading::Guard, too: kContentMismatch, with file, MiB and tensor,
// where resident weights are not those that were verified. The run stops there, and gives no
// result. Not covered: what oneDNN or a scheme makes of the weights (packed or encoded copies),
// activations, code; what workers hold is checked by the coordinator, product by product.
absl::StatusOr<InferenceResult> Infer(const loading::VerifiedLoad& model,
                                      const ImageDataset& images, uint64_t batch_size,
                                      unsigned threads, const OffloadSetting* offload,
                                      const WeightsGuard* guard = nullptr);

}  // namespace pavise::train

#endif  // PAVISE_TRAIN_TORCH_TRAINING_H_
