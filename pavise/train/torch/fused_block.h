#ifndef PAVISE_TRAIN_TORCH_FUSED_BLOCK_H_
#define PAVISE_TRAIN_TORCH_FUSED_BLOCK_H_

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "pavise/offload/layer_chain.h"
#include "pavise/train/torch/zoo.h"

#include "absl/status/status.h"
#include "torch/types.h"

namespace pavise::train {

// A block of zoo.h whose four layers are offloaded: norms, biases, GELU and residuals, and their
// gradients, lie in the same pass over memory as decoding and encoding (offload/layer_chain.h),
// with autograd functions of its own. Must not outlive the coordinator; graphs that it made must
// not be run backwards once it is gone or was abandoned. Not thread-safe.
class FusedBlock final : public BlockPasses {
 public:
  struct Layers {
    offload::OffloadedLayer* qkv = nullptr;
    offload::OffloadedLayer* proj = nullptr;
    offload::OffloadedLayer* fc1 = nullptr;
    offload::OffloadedLayer* fc2 = nullptr;
  };
  // All four can be fused.
  static bool Supports(const Layers& layers);
  // Of the block's norms and biases. `status` takes the first refusal, where a pass throws.
  FusedBlock(offload::Coordinator& coordinator, const Layers& layers, const TransformerBlock& block,
             absl::Status& status);
  ~FusedBlock() override;

  torch::Tensor QueriesKeysValues(const torch::Tensor& tokens) override;
  torch::Tensor Rest(const torch::Tensor& tokens, const torch::Tensor& attended) override;

  // Forgets passes that got no backward.
  void Abandon();

  // What a pass keeps until it is run backwards.
  struct Pass;
  // For the autograd functions. They throw where a layer refuses.
  std::pair<torch::Tensor, int64_t> ForwardOfQkv(const torch::Tensor& tokens, bool trains);
  std::vector<torch::Tensor> BackwardOfQkv(int64_t pass, const torch::Tensor& gradient);
  std::pair<torch::Tensor, int64_t> ForwardOfRest(const torch::Tensor& tokens,
                                                  const torch::Tensor& attended, bool trains);
  std::vector<torch::Tensor> BackwardOfRest(int64_t pass, const torch::Tensor& gradient);

 private:
  std::unique_ptr<Pass> NewPass(const torch::Tensor& tokens, bool trains);
  std::unique_ptr<Pass> Take(int64_t pass);
  int64_t Keep(std::unique_ptr<Pass> pass, bool trains);
  void Must(absl::Status status);

  offload::Coordinator& coordinator_;
  const Layers layers_;
  absl::Status& status_;
  struct Parameters {
    torch::Tensor gamma1, beta1, qkv_bias, proj_bias, gamma2, beta2, fc1_bias, fc2_bias;
  };
  Parameters parameters_;
  std::map<int64_t, std::unique_ptr<Pass>> passes_;
  int64_t last_pass_ = 0;
};

}  // namespace pavise::train

#endif  // PAVISE_TRAIN_TORCH_FUSED_BLOCK_H_
