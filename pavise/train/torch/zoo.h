#ifndef PAVISE_TRAIN_TORCH_ZOO_H_
#define PAVISE_TRAIN_TORCH_ZOO_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "torch/nn/module.h"
#include "torch/nn/modules/linear.h"
#include "torch/nn/modules/normalization.h"
#include "torch/types.h"

// The networks that the papers on offloaded training use, with the parameter names of torchvision
// (ResNet, VGG) and timm (ViT), so that what is trained here loads there.
namespace pavise::train {

struct ImageShape {
  int64_t channels = 3;
  int64_t height = 32;
  int64_t width = 32;
};

// From images [count, channels, height, width] to logits [count, classes].
class Network : public torch::nn::Module {
 public:
  using torch::nn::Module::Module;
  virtual torch::Tensor forward(torch::Tensor images) = 0;
};

// a b of attention, [batch, heads, m, k] and [batch, heads, k, n]: by whoever is put there.
class AttentionProduct {
 public:
  virtual ~AttentionProduct() = default;
  virtual torch::Tensor Multiply(const torch::Tensor& a, const torch::Tensor& b) = 0;
};

// Self-attention of ViT blocks, whose products may be done elsewhere.
class Attention : public torch::nn::Module {
 public:
  Attention(int64_t width, int64_t heads);
  torch::Tensor forward(const torch::Tensor& tokens);
  // What lies between its two layers: [batch, tokens, 3 width] to [batch, tokens, width].
  torch::Tensor Mix(const torch::Tensor& qkv);
  // nullptr: by libtorch.
  void set_product(std::shared_ptr<AttentionProduct> product) { product_ = std::move(product); }

 private:
  torch::Tensor Multiply(const torch::Tensor& a, const torch::Tensor& b);
  int64_t heads_;
  torch::nn::Linear qkv_{nullptr};
  torch::nn::Linear proj_{nullptr};
  std::shared_ptr<AttentionProduct> product_;
};

// All of a ViT block but its attention's products and softmax, by whoever is put there. Tokens are
// [batch, tokens, width].
class BlockPasses {
 public:
  virtual ~BlockPasses() = default;
  // attn.qkv(norm1(tokens))
  virtual torch::Tensor QueriesKeysValues(const torch::Tensor& tokens) = 0;
  // x + mlp(norm2(x)) with x = tokens + attn.proj(attended)
  virtual torch::Tensor Rest(const torch::Tensor& tokens, const torch::Tensor& attended) = 0;
};

inline constexpr double kVitNormEpsilon = 1e-6;

class FeedForward;

// A ViT block. Its parameters are norm1, attn.qkv, attn.proj, norm2, mlp.fc1 and mlp.fc2.
class TransformerBlock : public torch::nn::Module {
 public:
  TransformerBlock(int64_t width, int64_t heads);
  torch::Tensor forward(const torch::Tensor& tokens);
  // nullptr: by libtorch.
  void set_passes(std::shared_ptr<BlockPasses> passes) { passes_ = std::move(passes); }

 private:
  torch::nn::LayerNorm norm1_{nullptr}, norm2_{nullptr};
  std::shared_ptr<Attention> attn_;
  std::shared_ptr<FeedForward> mlp_;
  std::shared_ptr<BlockPasses> passes_;
};

// "mlp", "resnet18", "resnet50", "vgg11", "vgg16", "vit_tiny", "vit_small", "vit_base".
const std::vector<std::string_view>& NetworkNames();

// Weights are drawn from libtorch's generator. Images of less than 64 pixels a side get the usual
// stems for CIFAR: ResNets begin with one 3x3 convolution and no pooling, VGGs (always with batch
// normalisation) end in one linear layer, ViTs take patches of 4 pixels instead of 16. A usage
// error: no such network, or images that it cannot take.
absl::StatusOr<std::shared_ptr<Network>> MakeNetwork(std::string_view name, const ImageShape& shape,
                                                     int64_t classes);

}  // namespace pavise::train

#endif  // PAVISE_TRAIN_TORCH_ZOO_H_
