#ifndef PAVISE_TRAIN_TORCH_MODES_H_
#define PAVISE_TRAIN_TORCH_MODES_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/train/image_dataset.h"
#include "pavise/train/torch/training.h"
#include "pavise/train/training_options.h"

#include "absl/status/statusor.h"

// What one training job costs in several trust modes: each is the same call of Train, from the same
// weights over the same batches, in turns. What a mode computes is held against the first mode's.
namespace pavise::train {

struct Mode {
  std::string name;      // "tee", "obfuscated: tempo": of findings
  unsigned threads = 1;  // of the coordinator
  std::string scheme;    // "": all of it here
  // Workers for one run, anew for each; exactly where there is a scheme.
  std::function<absl::StatusOr<OffloadSetting>()> connect;
};

struct ModesRequest {
  // Epochs, threads, scheme, learning rate and decay are set here: one epoch, and steps so small
  // that the sum of gradients is what is compared.
  TrainingOptions options;
  std::vector<Mode> modes;  // the first is what others are compared with; it has no scheme
  uint64_t rounds = 1;      // turns of each mode
  std::string folder;       // that exists, for what runs write; theirs is removed after each
};

// One run. The first step makes plans and allocates: it counts as set-up.
struct ModeTurn {
  uint64_t images = 0;
  double seconds = 0;
  double setup_seconds = 0;
  // Of this process without its workers' threads, and of these; the latter is nullopt where a
  // worker is elsewhere.
  double coordinator_cpu_seconds = 0;
  std::optional<double> worker_cpu_seconds;
  // Frames of requests and answers, without heads and transport.
  uint64_t sent_bytes = 0;
  uint64_t received_bytes = 0;
  uint64_t setup_sent_bytes = 0;
  uint64_t setup_received_bytes = 0;
  double loss_difference = 0;  // the largest of a step, from the first mode's
  // |w - w1| / |w1 - w0| of the parameter tensor where that is most: how far it ends from the first
  // mode's, as a part of how far that one went. 0: all of them are the same, bit for bit. (But for
  // those tensors that go less than a hundredth as far as the farthest.)
  double update_difference = 0;
};
struct ModeFigures {
  std::vector<ModeTurn> turns;  // empty exactly where `why_not` says something
  std::string why_not;          // the mode is refused here, and why
  size_t offloaded_layers = 0;
};

// An answer is a wrong one from here on. Under bf16 and 8-bit operands a shallow network's tensors
// come to some hundredths of the latter, the worst of ResNet-18's in small batches to a half; a
// layer that computes something else to 1 or more.
inline constexpr double kMostLossDifference = 0.05;  // of the larger of 1 and the loss
inline constexpr double kMostUpdateDifference = 0.8;

// In the modes' order. `on_turn` is told which mode is next. A mode whose first run is refused as
// kUnsupported or kPolicyDenied is left out, with its finding; other refusals and failures are
// those of Train and end it. Machine failure: a mode gave a wrong answer, of whose speed nothing
// is told.
absl::StatusOr<std::vector<ModeFigures>> CompareModes(
    const ModesRequest& request, const ImageSplits& splits,
    const std::function<void(std::string_view mode, uint64_t round)>& on_turn);

}  // namespace pavise::train

#endif  // PAVISE_TRAIN_TORCH_MODES_H_
