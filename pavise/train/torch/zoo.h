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
  // nullptr: by libtorch.
  void set_product(std::shared_ptr<AttentionProduct> product) { product_ = std::move(product); }

 private:
  torch::Tensor Multiply(const torch::Tensor& a, const torch::Tensor& b);
  int64_t heads_;
  torch::nn::Linear qkv_{nullptr};
  torch::nn::Linear proj_{nullptr};
  std::shared_ptr<AttentionProduct> product_;
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
