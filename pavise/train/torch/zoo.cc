#include "pavise/train/torch/zoo.h"

#include <algorithm>
#include <cmath>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_join.h"
#include "torch/nn/init.h"
#include "torch/nn/modules/activation.h"
#include "torch/nn/modules/batchnorm.h"
#include "torch/nn/modules/container/sequential.h"
#include "torch/nn/modules/conv.h"
#include "torch/nn/modules/dropout.h"
#include "torch/nn/modules/linear.h"
#include "torch/nn/modules/normalization.h"
#include "torch/nn/modules/pooling.h"

namespace pavise::train {
namespace {

using torch::Tensor;
namespace nn = torch::nn;

constexpr int64_t kSmallSide = 64;

nn::Conv2d Convolution(int64_t inputs, int64_t outputs, int64_t kernel, int64_t stride,
                       bool bias = false) {
  return nn::Conv2d(
      nn::Conv2dOptions(inputs, outputs, kernel).stride(stride).padding(kernel / 2).bias(bias));
}

// He's initialisation as torchvision does it, for networks of convolutions with ReLU.
void InitialiseConvolutions(nn::Module& module) {
  for (const auto& child : module.modules(/*include_self=*/false)) {
    if (auto* const convolution = child->as<nn::Conv2d>()) {
      nn::init::kaiming_normal_(convolution->weight, 0, torch::kFanOut, torch::kReLU);
      if (convolution->bias.defined()) nn::init::zeros_(convolution->bias);
    }
  }
}

class Mlp final : public Network {
 public:
  Mlp(const ImageShape& shape, int64_t classes) {
    const int64_t inputs = shape.channels * shape.height * shape.width;
    layers_ = register_module(
        "layers", nn::Sequential(nn::Linear(inputs, kWidth), nn::ReLU(), nn::Linear(kWidth, kWidth),
                                 nn::ReLU(), nn::Linear(kWidth, classes)));
  }
  Tensor forward(Tensor images) override { return layers_->forward(images.flatten(1)); }

 private:
  static constexpr int64_t kWidth = 512;
  nn::Sequential layers_{nullptr};
};

// Two 3x3 convolutions, or (bottleneck) 1x1, 3x3, 1x1 with four times the channels at the end.
class ResidualBlock final : public nn::Module {
 public:
  ResidualBlock(int64_t inputs, int64_t width, int64_t stride, bool is_bottleneck) {
    const int64_t outputs = is_bottleneck ? 4 * width : width;
    conv1_ = register_module("conv1", is_bottleneck ? Convolution(inputs, width, 1, 1)
                                                    : Convolution(inputs, width, 3, stride));
    bn1_ = register_module("bn1", nn::BatchNorm2d(width));
    conv2_ = register_module("conv2", Convolution(width, width, 3, is_bottleneck ? stride : 1));
    bn2_ = register_module("bn2", nn::BatchNorm2d(width));
    if (is_bottleneck) {
      conv3_ = register_module("conv3", Convolution(width, outputs, 1, 1));
      bn3_ = register_module("bn3", nn::BatchNorm2d(outputs));
    }
    if (stride != 1 || inputs != outputs) {
      downsample_ = register_module(
          "downsample",
          nn::Sequential(Convolution(inputs, outputs, 1, stride), nn::BatchNorm2d(outputs)));
    }
  }
  Tensor forward(const Tensor& in) {
    Tensor out = bn2_->forward(conv2_->forward(torch::relu(bn1_->forward(conv1_->forward(in)))));
    if (!conv3_.is_empty()) out = bn3_->forward(conv3_->forward(torch::relu(out)));
    return torch::relu(out + (downsample_.is_empty() ? in : downsample_->forward(in)));
  }

 private:
  nn::Conv2d conv1_{nullptr}, conv2_{nullptr}, conv3_{nullptr};
  nn::BatchNorm2d bn1_{nullptr}, bn2_{nullptr}, bn3_{nullptr};
  nn::Sequential downsample_{nullptr};
};

class ResNet final : public Network {
 public:
  ResNet(const ImageShape& shape, int64_t classes, const std::vector<int64_t>& depths,
         bool is_bottleneck)
      : is_small_(std::min(shape.height, shape.width) < kSmallSide) {
    conv1_ = register_module("conv1", is_small_ ? Convolution(shape.channels, 64, 3, 1)
                                                : Convolution(shape.channels, 64, 7, 2));
    bn1_ = register_module("bn1", nn::BatchNorm2d(64));
    int64_t channels = 64;
    for (size_t stage = 0; stage < depths.size(); ++stage) {
      const int64_t width = int64_t{64} << stage;
      nn::Sequential blocks;
      for (int64_t block = 0; block < depths[stage]; ++block) {
        blocks->push_back(std::make_shared<ResidualBlock>(
            channels, width, block == 0 && stage > 0 ? 2 : 1, is_bottleneck));
        channels = is_bottleneck ? 4 * width : width;
      }
      layers_.push_back(register_module(StrCat("layer", stage + 1), blocks));
    }
    fc_ = register_module("fc", nn::Linear(channels, classes));
    InitialiseConvolutions(*this);
  }
  Tensor forward(Tensor images) override {
    Tensor out = torch::relu(bn1_->forward(conv1_->forward(images)));
    if (!is_small_) out = torch::max_pool2d(out, 3, 2, 1);
    for (nn::Sequential& layer : layers_) out = layer->forward(out);
    return fc_->forward(torch::adaptive_avg_pool2d(out, {1, 1}).flatten(1));
  }

 private:
  bool is_small_;
  nn::Conv2d conv1_{nullptr};
  nn::BatchNorm2d bn1_{nullptr};
  std::vector<nn::Sequential> layers_;
  nn::Linear fc_{nullptr};
};

class Vgg final : public Network {
 public:
  // 0: a 2x2 maximum.
  Vgg(const ImageShape& shape, int64_t classes, const std::vector<int64_t>& widths)
      : is_small_(std::min(shape.height, shape.width) < kSmallSide) {
    int64_t channels = shape.channels;
    for (const int64_t width : widths) {
      if (width == 0) {
        features_->push_back(nn::MaxPool2d(nn::MaxPool2dOptions(2).stride(2).ceil_mode(is_small_)));
        continue;
      }
      features_->push_back(Convolution(channels, width, 3, 1, /*bias=*/true));
      features_->push_back(nn::BatchNorm2d(width));
      features_->push_back(nn::ReLU());
      channels = width;
    }
    register_module("features", features_);
    if (is_small_) {
      classifier_ = nn::Sequential(nn::Linear(channels, classes));
    } else {
      classifier_ = nn::Sequential(nn::Linear(channels * 7 * 7, 4096), nn::ReLU(), nn::Dropout(),
                                   nn::Linear(4096, 4096), nn::ReLU(), nn::Dropout(),
                                   nn::Linear(4096, classes));
    }
    register_module("classifier", classifier_);
    InitialiseConvolutions(*this);
  }
  Tensor forward(Tensor images) override {
    const Tensor features = features_->forward(images);
    return classifier_->forward(torch::adaptive_avg_pool2d(features, is_small_
                                                                         ? torch::IntArrayRef{1, 1}
                                                                         : torch::IntArrayRef{7, 7})
                                    .flatten(1));
  }

 private:
  bool is_small_;
  nn::Sequential features_;
  nn::Sequential classifier_{nullptr};
};

// x Phi(x). Not torch::gelu: the backward pass of Debian's libtorch 1.13, by oneDNN, gives
// infinities.
Tensor Gelu(const Tensor& x) { return 0.5 * x * torch::erfc(x * -M_SQRT1_2); }

nn::LayerNorm Norm(int64_t width) {
  return nn::LayerNorm(nn::LayerNormOptions({width}).eps(kVitNormEpsilon));
}

class PatchEmbedding final : public nn::Module {
 public:
  PatchEmbedding(int64_t channels, int64_t width, int64_t patch) {
    proj_ = register_module("proj",
                            nn::Conv2d(nn::Conv2dOptions(channels, width, patch).stride(patch)));
  }
  Tensor forward(const Tensor& images) { return proj_->forward(images).flatten(2).transpose(1, 2); }

 private:
  nn::Conv2d proj_{nullptr};
};

class VisionTransformer final : public Network {
 public:
  VisionTransformer(const ImageShape& shape, int64_t classes, int64_t width, int64_t patch) {
    const int64_t tokens = (shape.height / patch) * (shape.width / patch) + 1;
    cls_token_ = register_parameter("cls_token", torch::zeros({1, 1, width}));
    pos_embed_ = register_parameter("pos_embed", torch::zeros({1, tokens, width}));
    patch_embed_ = register_module("patch_embed",
                                   std::make_shared<PatchEmbedding>(shape.channels, width, patch));
    for (int block = 0; block < 12; ++block) {
      blocks_->push_back(std::make_shared<TransformerBlock>(width, width / 64));
    }
    register_module("blocks", blocks_);
    norm_ = register_module("norm", Norm(width));
    head_ = register_module("head", nn::Linear(width, classes));
    const torch::NoGradGuard no_grad;
    cls_token_.normal_(0, 0.02);
    pos_embed_.normal_(0, 0.02);
    for (const auto& child : modules(/*include_self=*/false)) {
      if (auto* const linear = child->as<nn::Linear>()) {
        linear->weight.normal_(0, 0.02);
        linear->bias.zero_();
      }
    }
  }
  Tensor forward(Tensor images) override {
    const Tensor patches = patch_embed_->forward(images);
    const Tensor token = cls_token_.expand({patches.size(0), -1, -1});
    const Tensor out = blocks_->forward(torch::cat({token, patches}, 1) + pos_embed_);
    return head_->forward(norm_->forward(out).select(1, 0));
  }

 private:
  Tensor cls_token_, pos_embed_;
  std::shared_ptr<PatchEmbedding> patch_embed_;
  nn::Sequential blocks_;
  nn::LayerNorm norm_{nullptr};
  nn::Linear head_{nullptr};
};

}  // namespace

Attention::Attention(int64_t width, int64_t heads) : heads_(heads) {
  qkv_ = register_module("qkv", nn::Linear(width, 3 * width));
  proj_ = register_module("proj", nn::Linear(width, width));
}

torch::Tensor Attention::Multiply(const torch::Tensor& a, const torch::Tensor& b) {
  return product_ == nullptr ? torch::matmul(a, b) : product_->Multiply(a, b);
}

torch::Tensor Attention::forward(const torch::Tensor& tokens) {
  return proj_->forward(Mix(qkv_->forward(tokens)));
}

torch::Tensor Attention::Mix(const torch::Tensor& all) {
  const int64_t width = all.size(2) / 3;
  const auto qkv = all.reshape({all.size(0), all.size(1), 3, heads_, width / heads_})
                       .permute({2, 0, 3, 1, 4})
                       .unbind(0);
  const double scale = 1 / std::sqrt(static_cast<double>(width / heads_));
  const Tensor weights = torch::softmax(Multiply(qkv[0] * scale, qkv[1].transpose(-2, -1)), -1);
  return Multiply(weights, qkv[2]).transpose(1, 2).reshape({all.size(0), all.size(1), width});
}

class FeedForward final : public nn::Module {
 public:
  explicit FeedForward(int64_t width) {
    fc1_ = register_module("fc1", nn::Linear(width, 4 * width));
    fc2_ = register_module("fc2", nn::Linear(4 * width, width));
  }
  Tensor forward(const Tensor& tokens) { return fc2_->forward(Gelu(fc1_->forward(tokens))); }

 private:
  nn::Linear fc1_{nullptr}, fc2_{nullptr};
};

TransformerBlock::TransformerBlock(int64_t width, int64_t heads) {
  norm1_ = register_module("norm1", Norm(width));
  attn_ = register_module("attn", std::make_shared<Attention>(width, heads));
  norm2_ = register_module("norm2", Norm(width));
  mlp_ = register_module("mlp", std::make_shared<FeedForward>(width));
}

torch::Tensor TransformerBlock::forward(const torch::Tensor& tokens) {
  if (passes_ != nullptr) {
    return passes_->Rest(tokens, attn_->Mix(passes_->QueriesKeysValues(tokens)));
  }
  const Tensor mixed = tokens + attn_->forward(norm1_->forward(tokens));
  return mixed + mlp_->forward(norm2_->forward(mixed));
}

const std::vector<std::string_view>& NetworkNames() {
  static const std::vector<std::string_view> names = {"mlp",   "resnet18", "resnet50",  "vgg11",
                                                      "vgg16", "vit_tiny", "vit_small", "vit_base"};
  return names;
}

absl::StatusOr<std::shared_ptr<Network>> MakeNetwork(std::string_view name, const ImageShape& shape,
                                                     int64_t classes) {
  if (std::find(NetworkNames().begin(), NetworkNames().end(), name) == NetworkNames().end()) {
    return UsageError(StrCat(
        "there is no network '", name, "'; there are ",
        absl::StrJoin(NetworkNames(), ", ",
                      [](std::string* out, std::string_view known) { out->append(known); })));
  }
  const int64_t side = std::min(shape.height, shape.width);
  const int64_t patch = side < kSmallSide ? 4 : 16;
  const bool is_transformer = name.starts_with("vit");
  if (classes < 1 || shape.channels < 1 || side < (is_transformer ? patch : 8) ||
      (is_transformer && (shape.height % patch != 0 || shape.width % patch != 0))) {
    return UsageError(
        StrCat(name, " takes no images of ", shape.height, " x ", shape.width,
               is_transformer ? StrCat(", which are no multiple of patches of ", patch) : ""));
  }
  if (name == "mlp") return std::make_shared<Mlp>(shape, classes);
  if (name == "resnet18")
    return std::make_shared<ResNet>(shape, classes, std::vector<int64_t>{2, 2, 2, 2}, false);
  if (name == "resnet50")
    return std::make_shared<ResNet>(shape, classes, std::vector<int64_t>{3, 4, 6, 3}, true);
  if (name == "vgg11") {
    return std::make_shared<Vgg>(
        shape, classes, std::vector<int64_t>{64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0});
  }
  if (name == "vgg16") {
    return std::make_shared<Vgg>(shape, classes,
                                 std::vector<int64_t>{64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512,
                                                      512, 512, 0, 512, 512, 512, 0});
  }
  const int64_t width = name == "vit_tiny" ? 192 : name == "vit_small" ? 384 : 768;
  return std::make_shared<VisionTransformer>(shape, classes, width, patch);
}

}  // namespace pavise::train
