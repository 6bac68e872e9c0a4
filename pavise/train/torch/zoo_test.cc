#include "pavise/train/torch/zoo.h"

#include <cmath>
#include <set>
#include <string>

#include "pavise/base/status.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "torch/utils.h"

namespace pavise::train {
namespace {

int64_t Parameters(std::string_view name, const ImageShape& shape, int64_t classes) {
  const auto network = MakeNetwork(name, shape, classes);
  if (!network.ok()) {
    ADD_FAILURE() << network.status();
    return 0;
  }
  int64_t count = 0;
  for (const torch::Tensor& parameter : (*network)->parameters()) count += parameter.numel();
  return count;
}

// torchvision's and timm's counts for ImageNet.
TEST(ZooTest, HasThePublishedNumbersOfParameters) {
  const ImageShape shape = {3, 224, 224};
  EXPECT_EQ(Parameters("resnet18", shape, 1000), 11'689'512);
  EXPECT_EQ(Parameters("resnet50", shape, 1000), 25'557'032);
  EXPECT_EQ(Parameters("vgg11", shape, 1000), 132'868'840);
  EXPECT_EQ(Parameters("vgg16", shape, 1000), 138'365'992);
  EXPECT_EQ(Parameters("vit_tiny", shape, 1000), 5'717'416);
  EXPECT_EQ(Parameters("vit_small", shape, 1000), 22'050'664);
  EXPECT_EQ(Parameters("vit_base", shape, 1000), 86'567'656);
}

// Those of the usual variants for CIFAR-10 (github kuangliu/pytorch-cifar).
TEST(ZooTest, HasTheUsualStemsForSmallImages) {
  const ImageShape shape = {3, 32, 32};
  EXPECT_EQ(Parameters("resnet18", shape, 10), 11'173'962);
  EXPECT_EQ(Parameters("resnet50", shape, 10), 23'520'842);
  EXPECT_EQ(Parameters("vgg11", shape, 10), 9'231'114);
  EXPECT_EQ(Parameters("vgg16", shape, 10), 14'728'266);
  EXPECT_EQ(Parameters("mlp", shape, 10), (3072 + 1) * 512 + 513 * 512 + 513 * 10);
}

TEST(ZooTest, NamesAreThoseOfTorchvisionAndTimm) {
  const auto names_of = [](std::string_view name, const ImageShape& shape) {
    std::set<std::string> names;
    const auto network = MakeNetwork(name, shape, 10);
    for (const auto& item : (*network)->named_parameters()) names.insert(item.key());
    for (const auto& item : (*network)->named_buffers()) names.insert(item.key());
    return names;
  };
  using ::testing::IsSupersetOf;
  const std::set<std::string> resnet = names_of("resnet18", {3, 32, 32});
  EXPECT_EQ(resnet.size(), 122u);  // len(torchvision.models.resnet18().state_dict())
  EXPECT_THAT(resnet, IsSupersetOf({"conv1.weight", "bn1.running_mean", "bn1.num_batches_tracked",
                                    "layer1.0.conv1.weight", "layer2.0.downsample.0.weight",
                                    "layer4.1.bn2.bias", "fc.weight", "fc.bias"}));
  EXPECT_THAT(names_of("vgg11", {3, 32, 32}),
              IsSupersetOf({"features.0.weight", "features.1.running_var", "features.4.weight",
                            "classifier.0.weight"}));
  const std::set<std::string> vit = names_of("vit_tiny", {3, 32, 32});
  EXPECT_EQ(vit.size(), 152u);  // of timm's vit_tiny_patch16_224
  EXPECT_THAT(vit, IsSupersetOf({"cls_token", "pos_embed", "patch_embed.proj.weight",
                                 "blocks.11.attn.qkv.bias", "blocks.0.mlp.fc1.weight",
                                 "blocks.0.norm1.weight", "norm.bias", "head.weight"}));
}

TEST(ZooTest, ImagesBecomeLogits) {
  const torch::NoGradGuard no_grad;
  for (const ImageShape& shape : {ImageShape{3, 32, 32}, ImageShape{1, 28, 28}}) {
    for (const std::string_view name :
         {"mlp", "resnet18", "resnet50", "vgg11", "vgg16", "vit_tiny"}) {
      const auto network = MakeNetwork(name, shape, 7);
      ASSERT_TRUE(network.ok()) << name << network.status();
      (*network)->eval();
      const torch::Tensor logits =
          (*network)->forward(torch::zeros({2, shape.channels, shape.height, shape.width}));
      EXPECT_EQ(logits.sizes(), (torch::IntArrayRef{2, 7})) << name;
    }
  }
}

// By differences of the loss along the gradient: what it predicts is what happens.
TEST(ZooTest, GradientsAreThoseOfTheLoss) {
  for (const std::string_view name : {"mlp", "resnet18", "vgg11", "vit_tiny"}) {
    torch::manual_seed(1);
    const auto network = *MakeNetwork(name, {1, 28, 28}, 7);
    network->eval();
    const torch::Tensor images = torch::randn({2, 1, 28, 28});
    const auto loss = [&] { return network->forward(images).square().sum(); };
    loss().backward();
    double squares = 0;
    for (const torch::Tensor& parameter : network->parameters()) {
      squares += parameter.grad().square().sum().item<double>();
    }
    ASSERT_TRUE(std::isfinite(squares) && squares > 0) << name;
    const torch::NoGradGuard no_grad;
    const double before = loss().item<double>();
    // A step that is to lower the loss by a hundredth. Curvature takes a part of that.
    const double step = 0.01 * before / squares;
    for (const torch::Tensor& parameter : network->parameters())
      parameter.add_(parameter.grad(), -step);
    EXPECT_NEAR((before - loss().item<double>()) / before, 0.01, 0.003) << name;
  }
}

TEST(ZooTest, RefusesWhatItCannotBuild) {
  EXPECT_EQ(ExitCodeOf(MakeNetwork("alexnet", {}, 10).status()), 2);
  EXPECT_EQ(ExitCodeOf(MakeNetwork("mlp", {}, 0).status()), 2);
  EXPECT_EQ(ExitCodeOf(MakeNetwork("resnet18", {3, 4, 4}, 10).status()), 2);
  EXPECT_EQ(ExitCodeOf(MakeNetwork("vit_tiny", {3, 30, 30}, 10).status()), 2);
}

}  // namespace
}  // namespace pavise::train
