#include "pavise/train/image_dataset.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::train {
namespace {

constexpr size_t kCifarSide = 32;
constexpr size_t kCifarClasses = 10;
constexpr size_t kCifarRecordBytes = 1 + 3 * kCifarSide * kCifarSide;
constexpr int kMostCifarBatches = 5;

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

absl::StatusOr<ImageDataset> ReadCifarFile(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes file, ReadFile(path, kMaxDatasetBytes));
  return ParseCifar10(file, path);
}

absl::StatusOr<ImageSplits> ReadCifar(const std::string& folder) {
  ImageSplits splits;
  splits.format = "CIFAR-10";
  splits.classes = kCifarClasses;
  PAVISE_ASSIGN_OR_RETURN(splits.train, ReadCifarFile(folder + "/data_batch_1.bin"));
  for (int batch = 2; batch <= kMostCifarBatches; ++batch) {
    const std::string path = StrCat(folder, "/data_batch_", batch, ".bin");
    if (!Exists(path)) continue;
    PAVISE_ASSIGN_OR_RETURN(const ImageDataset more, ReadCifarFile(path));
    splits.train.images.insert(splits.train.images.end(), more.images.begin(), more.images.end());
    splits.train.labels.insert(splits.train.labels.end(), more.labels.begin(), more.labels.end());
  }
  PAVISE_ASSIGN_OR_RETURN(splits.test, ReadCifarFile(folder + "/test_batch.bin"));
  return splits;
}

absl::StatusOr<ImageDataset> ReadIdxSplit(const std::string& folder, const std::string& name) {
  const auto path_of = [&](const std::string& file) {
    const std::string path = StrCat(folder, "/", name, file);
    return Exists(path) ? path : path + ".gz";
  };
  const std::string images_path = path_of("-images-idx3-ubyte");
  const std::string labels_path = path_of("-labels-idx1-ubyte");
  PAVISE_ASSIGN_OR_RETURN(const Bytes images, ReadFile(images_path, kMaxDatasetBytes));
  PAVISE_ASSIGN_OR_RETURN(const Bytes labels, ReadFile(labels_path, kMaxDatasetBytes));
  return ParseIdx(images, labels, images_path, labels_path);
}

absl::StatusOr<ImageSplits> ReadIdx(const std::string& folder) {
  ImageSplits splits;
  splits.format = "IDX";
  PAVISE_ASSIGN_OR_RETURN(splits.train, ReadIdxSplit(folder, "train"));
  PAVISE_ASSIGN_OR_RETURN(splits.test, ReadIdxSplit(folder, "t10k"));
  return splits;
}

absl::StatusOr<ImageSplits> ReadAny(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(path, ignored)) {
    PAVISE_ASSIGN_OR_RETURN(const Bytes file, ReadFile(path, kMaxDatasetBytes));
    return ParseNpz(file, path);
  }
  if (!Exists(path)) return Refuse(Reason::kFileMissing, path, "there is no such dataset");
  if (Exists(path + "/data_batch_1.bin")) return ReadCifar(path);
  for (const char* end : {"", ".gz"}) {
    if (Exists(StrCat(path, "/train-images-idx3-ubyte", end))) return ReadIdx(path);
  }
  return Refuse(
      Reason::kUnsupported, path, "holds no dataset that is known",
      "give an .npz file, or a folder with CIFAR-10's binary files (data_batch_1.bin, ...) "
      "or IDX files (train-images-idx3-ubyte, ...)");
}

}  // namespace

void ImageDataset::Thin(size_t count) {
  const size_t all = this->count();
  if (count >= all) return;
  for (size_t i = 0; i < count; ++i) {
    const size_t from = i * all / count;
    std::copy_n(images.begin() + static_cast<ptrdiff_t>(from * image_bytes()), image_bytes(),
                images.begin() + static_cast<ptrdiff_t>(i * image_bytes()));
    labels[i] = labels[from];
  }
  images.resize(count * image_bytes());
  labels.resize(count);
}

absl::StatusOr<ImageDataset> ParseCifar10(ByteSpan file, std::string_view item) {
  if (file.empty() || file.size() % kCifarRecordBytes != 0) {
    return Refuse(
        Reason::kMalformed, item,
        StrCat("its length, ", file.size(), ", is no multiple of a record's, ", kCifarRecordBytes),
        "it takes the binary version of CIFAR-10, not the Python or Matlab one");
  }
  ImageDataset dataset;
  dataset.channels = 3;
  dataset.height = dataset.width = kCifarSide;
  const size_t count = file.size() / kCifarRecordBytes;
  dataset.labels.reserve(count);
  dataset.images.reserve(count * dataset.image_bytes());
  for (size_t i = 0; i < count; ++i) {
    const ByteSpan record = file.subspan(i * kCifarRecordBytes, kCifarRecordBytes);
    if (record[0] >= kCifarClasses) {
      return Refuse(
          Reason::kMalformed, item,
          StrCat("record ", i, " has label ", static_cast<int>(record[0]), " of 10 classes"));
    }
    dataset.labels.push_back(record[0]);
    dataset.images.insert(dataset.images.end(), record.begin() + 1, record.end());
  }
  return dataset;
}

absl::StatusOr<ImageSplits> ReadImageSplits(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(ImageSplits splits, ReadAny(path));
  const ImageDataset& train = splits.train;
  const ImageDataset& test = splits.test;
  if (train.channels != test.channels || train.height != test.height || train.width != test.width) {
    return Refuse(Reason::kMalformed, path, "training and test images differ in shape");
  }
  if (splits.classes == 0) {
    splits.classes = size_t{*std::max_element(train.labels.begin(), train.labels.end())} + 1;
  }
  for (size_t i = 0; i < test.count(); ++i) {
    if (test.labels[i] < splits.classes) continue;
    return Refuse(Reason::kMalformed, path,
                  StrCat("test image ", i, " has label ", static_cast<int>(test.labels[i]),
                         ", training has ", splits.classes, " classes"));
  }
  return splits;
}

}  // namespace pavise::train
