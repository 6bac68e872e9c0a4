#ifndef PAVISE_HASH_OPENCL_INTERNAL_TAG_PATHS_H_
#define PAVISE_HASH_OPENCL_INTERNAL_TAG_PATHS_H_

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/secret_bytes.h"
#include "pavise/hash/device.h"
#include "pavise/hash/tag.h"

#include "absl/status/statusor.h"

// The ways in which tag.cl computes tags, and what its keys look like in device memory.
namespace pavise::hash::opencl {

inline constexpr std::string_view kMatrixExtension = "cl_intel_subgroup_matrix_multiply_accumulate";
inline constexpr std::string_view kDotProductExtension = "cl_khr_integer_dot_product";
inline constexpr std::string_view kSubGroupSizeExtension = "cl_intel_required_subgroup_size";

// Whether `extensions`, a list with spaces between its words, names `extension`.
bool HasExtension(std::string_view extensions, std::string_view extension);

struct TagPath {
  std::string name;           // as the device's description says it
  std::string build_options;  // of tag.cl
  const char* kernel_name = nullptr;
  // Items of a work-group: exactly these, or as many as the device takes up to these, at least
  // kLeastTagItems.
  size_t group_items = 0;
  bool has_fixed_group = false;
};

// Four parts a key (arithmetic/tag.h), two keys.
inline constexpr size_t kLeastTagItems = 8;

// What a device with these extensions may have, the most specific first; the last one, plain code,
// every device has. `sub_group_sizes` are those that cl_intel_required_subgroup_size offers.
std::vector<TagPath> TagPathsOf(std::string_view extensions,
                                std::span<const size_t> sub_group_sizes);

// The keys as tag.cl reads them, PAVISE_TAG_KEY_BYTES each: rows, BLAKE3 key, padding.
SecretBytes PackTagKeys(std::span<const TagKey* const> keys);

enum class TagCheck { kRight, kWrong };
// Computes the tags of a short object, unaligned and under two keys, and compares them with
// reference::TagRanges. The keys are of no worth to anybody. An error is the device's.
absl::StatusOr<TagCheck> CheckTagsOf(Device& device);

}  // namespace pavise::hash::opencl

#endif  // PAVISE_HASH_OPENCL_INTERNAL_TAG_PATHS_H_
