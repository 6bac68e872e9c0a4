#include "pavise/train/batches.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace pavise::train {
namespace {

// Deviations below this are those of a channel that is (nearly) constant.
constexpr double kLeastDeviation = 1.0 / 255;

// Sebastiano Vigna, https://prng.di.unimi.it/splitmix64.c
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t state) : state_(state) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // Biased by less than bound / 2^64.
  uint64_t Below(uint64_t bound) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(Next()) * bound) >> 64);
  }

 private:
  uint64_t state_;
};

// `row_shift`, `column_shift`: added to a place in the result, where it is taken from.
void Fill(const ImageDataset& dataset, size_t image, const Normalisation& normalisation, bool flip,
          ptrdiff_t row_shift, ptrdiff_t column_shift, std::span<float> out) {
  const ptrdiff_t height = static_cast<ptrdiff_t>(dataset.height);
  const ptrdiff_t width = static_cast<ptrdiff_t>(dataset.width);
  const uint8_t* const pixels = dataset.images.data() + image * dataset.image_bytes();
  float* next = out.data();
  for (size_t channel = 0; channel < dataset.channels; ++channel) {
    const float mean = normalisation.mean[channel];
    const float factor = 1 / normalisation.deviation[channel];
    const uint8_t* const plane = pixels + channel * dataset.height * dataset.width;
    for (ptrdiff_t row = 0; row < height; ++row) {
      const ptrdiff_t from_row = row + row_shift;
      for (ptrdiff_t column = 0; column < width; ++column) {
        const ptrdiff_t moved = column + column_shift;
        const ptrdiff_t from_column = flip ? width - 1 - moved : moved;
        const bool inside =
            from_row >= 0 && from_row < height && from_column >= 0 && from_column < width;
        const float value = inside ? plane[from_row * width + from_column] : 0;
        *next++ = (value / 255 - mean) * factor;
      }
    }
  }
}

}  // namespace

uint64_t MixSeed(uint64_t seed, uint64_t a, uint64_t b) {
  uint64_t mixed = SplitMix64(seed).Next();
  mixed = SplitMix64(mixed ^ a).Next();
  return SplitMix64(mixed ^ b).Next();
}

std::vector<uint32_t> EpochOrder(size_t count, uint64_t seed, uint64_t epoch) {
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  SplitMix64 random(MixSeed(seed, epoch, count));
  for (size_t left = count; left > 1; --left) std::swap(order[left - 1], order[random.Below(left)]);
  return order;
}

Normalisation MeasureNormalisation(const ImageDataset& dataset) {
  Normalisation normalisation;
  const size_t pixels = dataset.height * dataset.width;
  for (size_t channel = 0; channel < dataset.channels; ++channel) {
    uint64_t sum = 0;
    uint64_t squares = 0;
    for (size_t image = 0; image < dataset.count(); ++image) {
      const uint8_t* const plane =
          dataset.images.data() + (image * dataset.channels + channel) * pixels;
      for (size_t i = 0; i < pixels; ++i) {
        sum += plane[i];
        squares += uint64_t{plane[i]} * plane[i];
      }
    }
    const double count = std::max<double>(1, static_cast<double>(dataset.count() * pixels));
    const double mean = static_cast<double>(sum) / count / 255;
    const double variance = static_cast<double>(squares) / count / (255.0 * 255) - mean * mean;
    normalisation.mean.push_back(static_cast<float>(mean));
    normalisation.deviation.push_back(
        static_cast<float>(std::max(kLeastDeviation, std::sqrt(std::max(0.0, variance)))));
  }
  return normalisation;
}

void NormaliseImage(const ImageDataset& dataset, size_t image, const Normalisation& normalisation,
                    std::span<float> out) {
  Fill(dataset, image, normalisation, /*flip=*/false, 0, 0, out);
}

void AugmentImage(const ImageDataset& dataset, size_t image, const Normalisation& normalisation,
                  const Augmentation& augmentation, uint64_t seed, uint64_t epoch,
                  std::span<float> out) {
  SplitMix64 random(MixSeed(seed, ~epoch, image));
  const bool flip = augmentation.flip && random.Below(2) == 1;
  const ptrdiff_t padding = static_cast<ptrdiff_t>(augmentation.crop_padding);
  const uint64_t places = 2 * augmentation.crop_padding + 1;
  const ptrdiff_t row_shift = static_cast<ptrdiff_t>(random.Below(places)) - padding;
  const ptrdiff_t column_shift = static_cast<ptrdiff_t>(random.Below(places)) - padding;
  Fill(dataset, image, normalisation, flip, row_shift, column_shift, out);
}

}  // namespace pavise::train
