#include <array>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/train/image_dataset.h"
#include "pavise/train/internal/inflate.h"

namespace pavise::train {
namespace {

// The dimensions of a file of unsigned bytes; the reader stands behind them, `unpacked` holds what
// it reads.
template <size_t kDimensions>
absl::StatusOr<std::array<uint32_t, kDimensions>> ReadHeader(ByteReader& reader) {
  PAVISE_ASSIGN_OR_RETURN(const uint16_t zeros, reader.BigEndian16("magic number"));
  PAVISE_ASSIGN_OR_RETURN(const uint8_t type, reader.Uint8("type"));
  PAVISE_ASSIGN_OR_RETURN(const uint8_t dimensions, reader.Uint8("number of dimensions"));
  if (zeros != 0) return reader.Malformed("is no IDX file");
  if (type != 8 || dimensions != kDimensions) {
    return Refuse(Reason::kUnsupported, reader.item(),
                  StrCat("is not of unsigned bytes in ", kDimensions, " dimensions"));
  }
  std::array<uint32_t, kDimensions> lengths;
  for (uint32_t& length : lengths) {
    PAVISE_ASSIGN_OR_RETURN(length, reader.BigEndian32("length"));
  }
  return lengths;
}

absl::StatusOr<Bytes> Unpacked(ByteSpan file, std::string_view item) {
  if (internal::IsGzip(file)) return internal::Gunzip(file, kMaxDatasetBytes - 2, item);
  return Bytes(file.begin(), file.end());
}

}  // namespace

absl::StatusOr<ImageDataset> ParseIdx(ByteSpan images, ByteSpan labels,
                                      std::string_view images_item, std::string_view labels_item) {
  ImageDataset dataset;
  PAVISE_ASSIGN_OR_RETURN(const Bytes images_file, Unpacked(images, images_item));
  ByteReader reader(images_file, images_item);
  PAVISE_ASSIGN_OR_RETURN(const auto lengths, ReadHeader<3>(reader));
  const auto [count, height, width] = lengths;
  if (count == 0 || height == 0 || width == 0) return reader.Malformed("has no images");
  if (height > kMaxImageSide || width > kMaxImageSide) {
    return Refuse(Reason::kLimitExceeded, images_item,
                  StrCat("has images wider or higher than ", kMaxImageSide, " pixels"));
  }
  dataset.channels = 1;
  dataset.height = height;
  dataset.width = width;
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan pixels,
                          reader.Take(uint64_t{count} * dataset.image_bytes(), "pixels"));
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  dataset.images.assign(pixels.begin(), pixels.end());

  PAVISE_ASSIGN_OR_RETURN(const Bytes labels_file, Unpacked(labels, labels_item));
  ByteReader label_reader(labels_file, labels_item);
  PAVISE_ASSIGN_OR_RETURN(const auto label_lengths, ReadHeader<1>(label_reader));
  if (label_lengths[0] != count) return label_reader.Malformed("is not one label for each image");
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan values, label_reader.Take(count, "labels"));
  PAVISE_RETURN_IF_ERROR(label_reader.RequireEnd());
  dataset.labels.assign(values.begin(), values.end());
  return dataset;
}

}  // namespace pavise::train
