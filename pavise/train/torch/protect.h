#ifndef PAVISE_TRAIN_TORCH_PROTECT_H_
#define PAVISE_TRAIN_TORCH_PROTECT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "pavise/offload/coordinator.h"
#include "pavise/train/training_options.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "torch/nn/module.h"
#include "torch/types.h"

// Offloading the layers of any libtorch model. Modules of libtorch have no virtual forward that
// another module could take the place of, and parents hold their children by type. What is replaced
// is therefore the weight of the stock layers: with a tensor of a device of its own, that has a
// shape and no values, and whose linear maps and convolutions are those of an OffloadedLayer, with
// their own backward pass. Whatever else is asked of it fails. The parameter that the module lists
// keeps name and shape, holds NaN, and gets no gradient.
namespace pavise::train {

struct ProtectOptions {
  // Layers with fewer inputs or outputs (channels, features) stay: there is next to nothing to mix.
  int64_t least_width = 32;
  // The layer that the model runs first stays, whatever its width: its inputs are the data.
  bool keep_first = true;
  ConvolutionForm convolutions = ConvolutionForm::kIm2col;
  // The products of Attention modules (zoo.h) go to workers too.
  bool attention = true;
  // What lies between the offloaded layers of a TransformerBlock (zoo.h) is done in one pass over
  // memory where all four are offloaded (offload::LayerChain); else by libtorch, as for all other
  // modules.
  bool fuse = true;
  // Leaves on the coordinator what Coordinator::PlanLayer finds no gain in.
  bool plan = false;
  // The worker does the optimizer's step, where the scheme lets it: SGD.
  bool updates_on_worker = true;
};

// What is known of an offloaded layer beside its weights, in libtorch's layout.
struct ProtectedState {
  torch::Tensor weight;
  torch::Tensor velocity;       // undefined: zeros; AdamW's first moment, Muon's momentum
  torch::Tensor second_moment;  // undefined: zeros
  uint64_t updates = 0;
  uint64_t keys = 0;
  double drift_spent = 0;
};

// A model some of whose layers are offloaded. Must not outlive the coordinator. Not thread-safe;
// the model is used by one thread at a time. Where this goes without Unprotect, the model
// is left with NaN for the weights that the workers had.
class ProtectedModel {
 public:
  // Runs the model once on `example`, in evaluation and without gradients, to learn which Linear
  // and Conv2d it uses, in which order and on which shapes; the example's first dimension is the
  // largest batch. Offloaded are those that run once a pass, in float32, with zero padding, square
  // stride, without groups and dilation, and that the options do not keep. A layer of `states` goes
  // on from there. The refusals of Coordinator::AddLayer; the model is as before then. A usage
  // error: no layer could be offloaded.
  static absl::StatusOr<std::unique_ptr<ProtectedModel>> Protect(
      std::shared_ptr<torch::nn::Module> module,
      const std::function<torch::Tensor(torch::Tensor)>& forward, const torch::Tensor& example,
      offload::Coordinator& coordinator, const ProtectOptions& options,
      const std::map<std::string, ProtectedState>& states = {});
  ~ProtectedModel();

  // Parameters whose weights are on workers, in the order in which they run:
  // "layer1.0.conv1.weight".
  const std::vector<std::string>& parameters() const;
  // Blocks whose passes are fused.
  size_t fused_blocks() const;
  // The layers that stayed, and why.
  const std::vector<std::string>& kept() const;

  // libtorch's passes throw where a layer refuses. This is why: OK where none did. Cleared by
  // Abandon.
  const absl::Status& status() const;
  // As OffloadedLayer's, for each layer.
  absl::Status Update(const offload::SgdStep& step);
  absl::Status Update(const offload::AdamWStep& step);
  absl::Status Update(const offload::MuonStep& step);
  void Abandon();
  // By parameter.
  absl::StatusOr<std::map<std::string, ProtectedState>> States();
  // For evaluation and export: the plain weight of each parameter, checked.
  absl::StatusOr<std::map<std::string, torch::Tensor>> Weights();

  // Puts the plain weights back into the model. Afterwards nothing is offloaded.
  absl::Status Unprotect();

 private:
  struct State;
  explicit ProtectedModel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pavise::train

#endif  // PAVISE_TRAIN_TORCH_PROTECT_H_
