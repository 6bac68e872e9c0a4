#ifndef PAVISE_AUDIT_TORCH_RECORDED_RUN_H_
#define PAVISE_AUDIT_TORCH_RECORDED_RUN_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/audit/audit.h"
#include "pavise/audit/recording.h"
#include "pavise/offload/scheme.h"
#include "pavise/offload/tensor.h"
#include "pavise/offload/worker.h"
#include "pavise/train/image_dataset.h"
#include "pavise/train/tensor_file.h"
#include "pavise/train/training_options.h"

#include "absl/status/statusor.h"

// Real runs of a network under a scheme, recorded at a worker, without libtorch's types. The
// process sets libtorch's number of threads and its generator's seed: one run at a time.
namespace pavise::audit {

struct RunRequest {
  std::string network;  // train/torch/zoo.h
  // Weights by name; nullptr: drawn from the seed.
  const train::TensorFile* model = nullptr;
  // What the adversary has of another model of the network; nullptr: nothing.
  const train::TensorFile* base = nullptr;
  // Not 0: the adversary has weights this far from the run's, in their norm. Not with `base`.
  double assumed_base_distance = 0;
  offload::Use use = offload::Use::kTraining;
  // Steps s and s + 2 have the same images, in another order.
  uint64_t steps = 3;
  uint64_t batch_size = 32;
  double learning_rate = 0.01;  // of SGD with momentum 0.9
  uint64_t seed = 1;            // of weights and keys
  unsigned threads = 1;
  offload::DType type = offload::DType::kBf16;
  int64_t least_width = 32;  // train::ProtectOptions::least_width
  train::ConvolutionForm convolutions = train::ConvolutionForm::kIm2col;
  // The products of attention go to workers: of the last block, and with two layers or more of the
  // first, one of scores and one of values are attacked.
  bool attention = true;
  // Layers that are recorded and attacked, evenly spaced among those that can be.
  size_t max_layers = 4;
  std::shared_ptr<const offload::Scheme> scheme;
  std::function<std::unique_ptr<offload::WorkerConnection>(const std::string& name)> new_worker;
};

// More inputs of a layer than this make its eigenvectors a matter of minutes.
inline constexpr size_t kMaxAttackedInputs = 1024;
// Of what is kept of one layer.
inline constexpr uint64_t kMaxRecordedBytes = uint64_t{1} << 30;

struct RecordedRun {
  std::shared_ptr<AuditedScheme> scheme;  // owns the layers' keys
  std::vector<AuditedLayer> layers;
  std::vector<std::string> not_attacked;  // "name: why"
};

// Runs the network twice, under `none` for the truth and under the scheme; `on_phase` is told what
// begins. All randomness comes from the seed. Of several workers (`shared`) each has a view.
// Images are the first two batches. Usage errors: no such network, batches or steps of 0;
// kMalformed: `model` or `base` has not the network's tensors, or there are too few images;
// refusals of the coordinator.
absl::StatusOr<RecordedRun> RecordRun(const RunRequest& request, const train::ImageDataset& images,
                                      size_t classes,
                                      const std::function<void(std::string_view)>& on_phase);

}  // namespace pavise::audit

#endif  // PAVISE_AUDIT_TORCH_RECORDED_RUN_H_
