#ifndef PAVISE_TRAIN_BATCHES_H_
#define PAVISE_TRAIN_BATCHES_H_

#include <cstdint>
#include <span>
#include <vector>

#include "pavise/train/image_dataset.h"

// What a training step is given. Everything depends on (seed, epoch, image) alone and not on what
// was drawn before, so that a run that was cut off goes on as if it had not been. The random
// numbers are SplitMix64's: they make data vary and hide nothing.
namespace pavise::train {

// Mixes numbers into one from which another stream of random numbers begins.
uint64_t MixSeed(uint64_t seed, uint64_t a, uint64_t b);

// The images of an epoch in the order in which they are taken.
std::vector<uint32_t> EpochOrder(size_t count, uint64_t seed, uint64_t epoch);

// Mean and standard deviation of each channel, of values from 0 to 1.
struct Normalisation {
  std::vector<float> mean;
  std::vector<float> deviation;  // above 0

  friend bool operator==(const Normalisation&, const Normalisation&) = default;
};
Normalisation MeasureNormalisation(const ImageDataset& dataset);

// As torchvision's RandomHorizontalFlip (one in two) and RandomCrop with zero padding.
struct Augmentation {
  bool flip = false;
  size_t crop_padding = 0;  // pixels on each side; 0: no cropping

  friend bool operator==(const Augmentation&, const Augmentation&) = default;
};

// One image as floats, (value / 255 - mean) / deviation. `out` has image_bytes() elements.
void NormaliseImage(const ImageDataset& dataset, size_t image, const Normalisation& normalisation,
                    std::span<float> out);
// The same, moved as `seed` and `epoch` say.
void AugmentImage(const ImageDataset& dataset, size_t image, const Normalisation& normalisation,
                  const Augmentation& augmentation, uint64_t seed, uint64_t epoch,
                  std::span<float> out);

}  // namespace pavise::train

#endif  // PAVISE_TRAIN_BATCHES_H_
