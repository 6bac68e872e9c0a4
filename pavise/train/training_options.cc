#include "pavise/train/training_options.h"

#include <algorithm>
#include <cmath>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::train {

std::string_view OptimizerName(offload::Optimizer optimizer) {
  switch (optimizer) {
    case offload::Optimizer::kSgd:
      return "sgd";
    case offload::Optimizer::kAdamW:
      return "adamw";
    case offload::Optimizer::kMuon:
      return "muon";
  }
  return "";
}

OrderedJson OptionsJson(const TrainingOptions& options) {
  OrderedJson json;
  json["network"] = options.network;
  json["epochs"] = options.epochs;
  json["batch_size"] = options.batch_size;
  json["optimizer"] = OptimizerName(options.optimizer);
  json["learning_rate"] = options.learning_rate;
  json["momentum"] = options.momentum;
  json["weight_decay"] = options.weight_decay;
  json["warmup_steps"] = options.warmup_steps;
  json["cosine"] = options.cosine;
  json["seed"] = options.seed;
  json["flip"] = options.augmentation.flip;
  json["crop_padding"] = options.augmentation.crop_padding;
  json["threads"] = options.threads;
  json["scheme"] = options.scheme;
  json["convolutions"] = options.convolutions == ConvolutionForm::kNative ? "native" : "im2col";
  return json;
}

absl::Status CheckOptions(const TrainingOptions& options) {
  // Written so that NaN is refused too.
  const auto within = [](double value, double least, double most) {
    return value >= least && value <= most;
  };
  if (options.epochs < 1 || options.epochs > 100'000) return UsageError("epochs: 1 to 100000");
  if (options.batch_size < 2 || options.batch_size > 65'536) {
    return UsageError("batch size: 2 to 65536 images");
  }
  if (!(within(options.learning_rate, 0, 1000) && options.learning_rate > 0)) {
    return UsageError("learning rate: above 0, at most 1000");
  }
  if (!(within(options.momentum, 0, 1) && options.momentum < 1)) {
    return UsageError("momentum: 0 or more, below 1");
  }
  if (!within(options.weight_decay, 0, 1)) return UsageError("weight decay: 0 to 1");
  if (options.augmentation.crop_padding > kMaxImageSide)
    return UsageError("crop padding: at most 1024");
  if (options.threads < 1 || options.threads > 1024) return UsageError("threads: 1 to 1024");
  return absl::OkStatus();
}

double LearningRateAt(const TrainingOptions& options, uint64_t step, uint64_t steps) {
  if (step <= options.warmup_steps) {
    return options.learning_rate * static_cast<double>(step) /
           static_cast<double>(options.warmup_steps);
  }
  if (!options.cosine) return options.learning_rate;
  const double done = static_cast<double>(step - options.warmup_steps - 1);
  const double all = static_cast<double>(std::max<uint64_t>(1, steps - options.warmup_steps));
  return options.learning_rate * 0.5 * (1 + std::cos(M_PI * std::min(1.0, done / all)));
}

uint64_t BatchesOf(uint64_t images, uint64_t batch_size) {
  return images / batch_size + (images % batch_size >= 2 ? 1 : 0);
}

}  // namespace pavise::train
