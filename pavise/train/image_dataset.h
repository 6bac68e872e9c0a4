#ifndef PAVISE_TRAIN_IMAGE_DATASET_H_
#define PAVISE_TRAIN_IMAGE_DATASET_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Labelled images in the formats in which public datasets are published. Files are hostile: each
// parser has bounds that it holds before it allocates, and refuses what is left over.
namespace pavise::train {

inline constexpr uint64_t kMaxDatasetBytes = uint64_t{4}
                                             << 30;  // of a file, and of what it unpacks to
inline constexpr size_t kMaxImageSide = 1024;
inline constexpr size_t kMaxClasses = 256;

// Images as bytes, 0 black and 255 white, image by image, channel by channel, row by row (NCHW).
struct ImageDataset {
  size_t channels = 0;
  size_t height = 0;
  size_t width = 0;
  Bytes images;
  Bytes labels;  // one an image

  size_t count() const { return labels.size(); }
  size_t image_bytes() const { return channels * height * width; }
  // `count` images, evenly spaced, since datasets may be sorted by class; all, where there are
  // fewer.
  void Thin(size_t count);

  friend bool operator==(const ImageDataset&, const ImageDataset&) = default;
};

struct ImageSplits {
  std::string format;  // "CIFAR-10", "NPZ", "IDX"
  size_t classes = 0;
  ImageDataset train;
  ImageDataset test;
};

// Records of a label below 10 and 3,072 bytes, of 32 x 32 pixels: red, green, blue. Source:
// https://www.cs.toronto.edu/~kriz/cifar.html. kMalformed: no record, half a record, another label.
absl::StatusOr<ImageDataset> ParseCifar10(ByteSpan file, std::string_view item);

// A NumPy archive with train_images, train_labels, test_images and test_labels, as MedMNIST
// publishes them: images of uint8 [count, height, width] (grey) or [count, height, width, 3];
// labels [count] or [count, 1] of uint8, int32 or int64. Other members are not looked into. What is
// read of ZIP: stored and deflated members without encryption, ZIP64, comments or bytes that belong
// to no member. Sources: PKWARE's APPNOTE 6.3.10, numpy.lib.format versions 1 to 3. kMalformed,
// kUnsupported (another variant), kLimitExceeded, kFileMissing (a member), kContentMismatch (CRC).
absl::StatusOr<ImageSplits> ParseNpz(ByteSpan file, std::string_view item);

// The two files of a split, as MNIST has them: magic number 00 00 08 n, n lengths (big endian, 32
// bits), bytes; n = 3 for images, 1 for labels. Either may be compressed by gzip. Source:
// http://yann.lecun.com/exdb/mnist/. kMalformed, kUnsupported (other types and numbers of
// dimensions), kLimitExceeded.
absl::StatusOr<ImageDataset> ParseIdx(ByteSpan images, ByteSpan labels,
                                      std::string_view images_item, std::string_view labels_item);

// What lies at `path`: a file is an NPZ; a folder with data_batch_1.bin is CIFAR-10
// (data_batch_1.bin to data_batch_5.bin as far as they are there, and test_batch.bin); one with
// train-images-idx3-ubyte or train-images-idx3-ubyte.gz is IDX. The refusals above; kFileMissing;
// kUnsupported for anything else; kMalformed where splits disagree in shape, or the test split has
// a label that the training split has not.
absl::StatusOr<ImageSplits> ReadImageSplits(const std::string& path);

}  // namespace pavise::train

#endif  // PAVISE_TRAIN_IMAGE_DATASET_H_
