#ifndef PAVISE_TRAIN_TRAINING_OPTIONS_H_
#define PAVISE_TRAIN_TRAINING_OPTIONS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "pavise/base/json.h"
#include "pavise/offload/scheme.h"
#include "pavise/train/batches.h"

#include "absl/status/status.h"

namespace pavise::train {

// How k x k convolutions are offloaded (offload::LayerSpec::is_native).
enum class ConvolutionForm { kNative, kIm2col };

// All that decides what a run computes, given its data. A checkpoint is gone on from under the same
// options only.
struct TrainingOptions {
  std::string network = "resnet18";  // torch/zoo.h
  uint64_t epochs = 10;
  uint64_t batch_size = 128;
  offload::Optimizer optimizer = offload::Optimizer::kSgd;
  double learning_rate = 0.05;
  double momentum = 0.9;  // of SGD and Muon
  double weight_decay = 5e-4;
  uint64_t warmup_steps = 0;
  bool cosine = true;  // down to 0 at the last step; else the rate stays
  uint64_t seed = 1;
  Augmentation augmentation;
  unsigned threads = 1;  // sums are rounded otherwise with another number
  // "" trains in the clear on this machine; else the name of the scheme under which products are
  // done by workers.
  std::string scheme;
  ConvolutionForm convolutions = ConvolutionForm::kIm2col;
};

// "sgd", "adamw", "muon".
std::string_view OptimizerName(offload::Optimizer optimizer);
// Members in a fixed order.
OrderedJson OptionsJson(const TrainingOptions& options);
// Usage errors: numbers out of range or not finite.
absl::Status CheckOptions(const TrainingOptions& options);
// Of step 1 ... `steps`: linear to learning_rate over the warm-up, then half a cosine down.
double LearningRateAt(const TrainingOptions& options, uint64_t step, uint64_t steps);
// The epoch's batches: the last may be smaller, but not of a single image, which batch
// normalisation cannot take.
uint64_t BatchesOf(uint64_t images, uint64_t batch_size);

}  // namespace pavise::train

#endif  // PAVISE_TRAIN_TRAINING_OPTIONS_H_
