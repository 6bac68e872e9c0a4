#include "pavise/hash/opencl/internal/tag_paths.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/hash/arithmetic/tag.h"

namespace pavise::hash::opencl {
namespace {

constexpr size_t kRowsBytes = kTagRows * kTagBlockBytes;
static_assert(kRowsBytes + 32 <= PAVISE_TAG_KEY_BYTES);
constexpr size_t kPlainGroupItems = 256;
constexpr size_t kSubGroupsOfMatrixGroup = 8;  // tag.cl

}  // namespace

bool HasExtension(std::string_view extensions, std::string_view extension) {
  while (!extensions.empty()) {
    const size_t end = std::min(extensions.find(' '), extensions.size());
    if (extensions.substr(0, end) == extension) return true;
    extensions.remove_prefix(std::min(end + 1, extensions.size()));
  }
  return false;
}

std::vector<TagPath> TagPathsOf(std::string_view extensions,
                                std::span<const size_t> sub_group_sizes) {
  std::vector<TagPath> paths;
  if (HasExtension(extensions, kMatrixExtension) &&
      HasExtension(extensions, kSubGroupSizeExtension) && !sub_group_sizes.empty()) {
    // The extension works on sub-groups of the device's smallest size only.
    const size_t lanes = *std::ranges::min_element(sub_group_sizes);
    if (lanes == 8 || lanes == 16) {
      paths.push_back({.name = "matrix engines",
                       .build_options = StrCat("-cl-std=CL1.2 -DPAVISE_TAG_MATRIX_LANES=", lanes),
                       .kernel_name = "pavise_tag_matrix",
                       .group_items = kSubGroupsOfMatrixGroup * lanes,
                       .has_fixed_group = true});
    }
  }
  if (HasExtension(extensions, kDotProductExtension)) {
    // Its functions came with OpenCL C 3.0: compilers do not declare them for 1.2.
    paths.push_back({.name = "integer dot products",
                     .build_options = "-cl-std=CL3.0 -DPAVISE_TAG_DOT_PRODUCT",
                     .kernel_name = "pavise_tag",
                     .group_items = kPlainGroupItems});
  }
  paths.push_back({.name = "plain code",
                   .build_options = "-cl-std=CL1.2",
                   .kernel_name = "pavise_tag",
                   .group_items = kPlainGroupItems});
  return paths;
}

SecretBytes PackTagKeys(std::span<const TagKey* const> keys) {
  Bytes packed(keys.size() * PAVISE_TAG_KEY_BYTES);
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto to = packed.begin() + static_cast<ptrdiff_t>(i * PAVISE_TAG_KEY_BYTES);
    std::ranges::copy(keys[i]->blake3_key(), std::ranges::copy(keys[i]->rows(), to).out);
  }
  return SecretBytes(std::move(packed));
}

absl::StatusOr<TagCheck> CheckTagsOf(Device& device) {
  // Fifteen blocks and a piece: all columns of a matrix, and padding. Bytes from 0 to 250 under
  // rows from -128 to 127 have every sign.
  constexpr size_t kSizeBytes = 15 * kTagBlockBytes + 1001;
  constexpr size_t kOffsetBytes = 4;  // words stay aligned, as the wide loads want them
  constexpr uint64_t kFirstRange = 5;
  constexpr std::array<uint8_t, 32> kSecret = {};
  const uint64_t total_bytes = kFirstRange * kTagRangeBytes + kSizeBytes;
  const TagKey first = TagKey::Derive(kSecret, 1, total_bytes);
  const TagKey second = TagKey::Derive(kSecret, 2, total_bytes);
  const std::array<const TagKey*, 2> keys = {&first, &second};
  Bytes bytes(kOffsetBytes + kSizeBytes);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i % 251);

  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<Buffer> buffer, device.Upload(bytes));
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<Stream> stream, device.NewStream());
  std::array<RangeTag, 2> tags = {};
  PAVISE_RETURN_IF_ERROR(
      device.Tag(keys, *buffer, {kOffsetBytes, kSizeBytes}, kFirstRange, *stream, tags));
  PAVISE_RETURN_IF_ERROR(stream->Wait());
  const ByteSpan tagged = ByteSpan(bytes).subspan(kOffsetBytes);
  for (size_t k = 0; k < keys.size(); ++k) {
    if (tags[k] != reference::TagRanges(*keys[k], tagged, kFirstRange).at(0)) {
      return TagCheck::kWrong;
    }
  }
  return TagCheck::kRight;
}

}  // namespace pavise::hash::opencl
