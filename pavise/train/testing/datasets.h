#ifndef PAVISE_TRAIN_TESTING_DATASETS_H_
#define PAVISE_TRAIN_TESTING_DATASETS_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/train/image_dataset.h"

namespace pavise::train::testing {

// The folder of public datasets: $PAVISE_DATA, else ../shared/data beside the source tree; nullopt
// where it is absent (the test skips then, and says so).
std::optional<std::string> DataDirectory();
// PneumoniaMNIST's file in there.
std::optional<std::string> PneumoniaFile();
// CIFAR-10's binary files in there ("cifar-10-batches-bin"), or what the folder's
// unpack_cifar10.py writes into `scratch`: 100 images of each file.
std::optional<std::string> CifarFolder(const std::string& scratch);

// Two easily told classes (a bright left or right half, with noise), by a seed.
ImageDataset MakeHalves(size_t count, size_t channels, size_t side, uint64_t seed);

// "descr", "fortran_order" and "shape" in front of the values, as numpy.save writes version 1.
Bytes MakeNpy(std::string_view type, std::string_view shape, const Bytes& values);
struct ZipMember {
  std::string name;
  Bytes content;
  bool deflated = false;
};
Bytes MakeZip(const std::vector<ZipMember>& members);
Bytes MakeNpz(const ImageDataset& train, const ImageDataset& test, bool deflated);
// CIFAR-10's records of 32 x 32 x 3 images.
Bytes MakeCifar(const ImageDataset& dataset);
Bytes MakeIdxImages(const ImageDataset& dataset);
Bytes MakeIdxLabels(const ImageDataset& dataset);
Bytes MakeGzip(const Bytes& content);

}  // namespace pavise::train::testing

#endif  // PAVISE_TRAIN_TESTING_DATASETS_H_
