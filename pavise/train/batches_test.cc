#include "pavise/train/batches.h"

#include <algorithm>
#include <set>

#include "pavise/train/testing/datasets.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::train {
namespace {

using ::testing::Each;
using ::testing::FloatNear;

TEST(BatchesTest, AnEpochTakesEachImageOnce) {
  for (const size_t count : {0u, 1u, 2u, 1000u}) {
    std::vector<uint32_t> order = EpochOrder(count, 7, 3);
    EXPECT_EQ(order, EpochOrder(count, 7, 3));
    if (count == 1000) {
      EXPECT_NE(order, EpochOrder(count, 7, 4));
      EXPECT_NE(order, EpochOrder(count, 8, 3));
    }
    std::sort(order.begin(), order.end());
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(order[i], i);
  }
}

TEST(BatchesTest, NormalisedImagesHaveMeanZeroAndDeviationOne) {
  const ImageDataset dataset = testing::MakeHalves(50, 3, 8, 1);
  const Normalisation normalisation = MeasureNormalisation(dataset);
  ASSERT_EQ(normalisation.mean.size(), 3u);
  std::vector<float> image(dataset.image_bytes());
  std::vector<double> sum(3), squares(3);
  for (size_t i = 0; i < dataset.count(); ++i) {
    NormaliseImage(dataset, i, normalisation, image);
    for (size_t j = 0; j < image.size(); ++j) {
      sum[j / 64] += image[j];
      squares[j / 64] += image[j] * image[j];
    }
  }
  for (int channel = 0; channel < 3; ++channel) {
    EXPECT_NEAR(sum[channel] / (50 * 64), 0, 1e-5);
    EXPECT_NEAR(squares[channel] / (50 * 64), 1, 1e-5);
  }
  // A black channel is not divided by zero.
  ImageDataset black = dataset;
  std::fill(black.images.begin(), black.images.end(), uint8_t{0});
  NormaliseImage(black, 0, MeasureNormalisation(black), image);
  EXPECT_THAT(image, Each(FloatNear(0, 1e-6f)));
}

// Every move is a place and a direction that torchvision's transforms can give, and all come up.
TEST(BatchesTest, AugmentedImagesAreMovedOnes) {
  ImageDataset dataset;
  dataset.channels = 1;
  dataset.height = 3;
  dataset.width = 4;
  dataset.labels = {0};
  for (uint8_t i = 1; i <= 12; ++i) dataset.images.push_back(i);
  const Normalisation plain = {{0}, {1.0f / 255}};
  const Augmentation augmentation = {.flip = true, .crop_padding = 1};
  std::set<std::vector<float>> seen;
  for (uint64_t epoch = 0; epoch < 400; ++epoch) {
    std::vector<float> image(12), again(12);
    AugmentImage(dataset, 0, plain, augmentation, 5, epoch, image);
    AugmentImage(dataset, 0, plain, augmentation, 5, epoch, again);
    EXPECT_EQ(image, again);
    for (float& value : image) value = std::round(value);
    seen.insert(image);
  }
  std::set<std::vector<float>> expected;
  for (int flip = 0; flip < 2; ++flip) {
    for (int down = -1; down <= 1; ++down) {
      for (int right = -1; right <= 1; ++right) {
        std::vector<float> image;
        for (int row = down; row < down + 3; ++row) {
          for (int column = right; column < right + 4; ++column) {
            const bool inside = row >= 0 && row < 3 && column >= 0 && column < 4;
            const int from = flip ? 3 - column : column;
            image.push_back(inside ? static_cast<float>(row * 4 + from + 1) : 0);
          }
        }
        expected.insert(image);
      }
    }
  }
  EXPECT_EQ(seen, expected);

  std::vector<float> still(12), image(12);
  NormaliseImage(dataset, 0, plain, still);
  AugmentImage(dataset, 0, plain, {}, 5, 1, image);
  EXPECT_EQ(still, image);
}

}  // namespace
}  // namespace pavise::train
