#include "pavise/hash/internal/batch_checks.h"

#include <bit>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/hash/blake3.h"

namespace pavise::hash {
namespace {

absl::Status CheckInside(std::string_view device, const Range& range, uint64_t buffer_bytes) {
  if (range.offset_bytes > buffer_bytes || range.size_bytes > buffer_bytes - range.offset_bytes) {
    return UsageError(StrCat(device, ": the range of ", range.size_bytes, " bytes at ",
                             range.offset_bytes, " leaves the buffer of ", buffer_bytes, " bytes"));
  }
  return absl::OkStatus();
}

// That some input has a node over exactly these chunks.
absl::Status CheckSubtree(std::string_view device, const SubtreeRange& subtree) {
  const uint64_t size_bytes = subtree.range.size_bytes;
  if (size_bytes == 0 || size_bytes > kSubtreeBytes) {
    return UsageError(
        StrCat(device, ": a subtree has 1 to ", kSubtreeBytes, " bytes, not ", size_bytes));
  }
  const uint64_t chunks = (size_bytes - 1) / kBlake3ChunkBytes + 1;
  constexpr uint64_t kMaxChunks = uint64_t{1} << 54;
  if (subtree.first_chunk % std::bit_ceil(chunks) != 0 || subtree.first_chunk >= kMaxChunks) {
    return UsageError(StrCat(device, ": no subtree of ", chunks, " chunks begins at chunk ",
                             subtree.first_chunk));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckDigestBatch(std::string_view device, std::span<const Range> ranges,
                              uint64_t buffer_bytes, size_t digest_bytes, size_t out_bytes) {
  for (const Range& range : ranges) {
    PAVISE_RETURN_IF_ERROR(CheckInside(device, range, buffer_bytes));
  }
  if (out_bytes % digest_bytes != 0 || out_bytes / digest_bytes != ranges.size()) {
    return UsageError(StrCat(device, ": ", out_bytes, " bytes for ", ranges.size(), " digests of ",
                             digest_bytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckSubtreeBatch(std::string_view device, std::span<const SubtreeRange> ranges,
                               uint64_t buffer_bytes, size_t out_values) {
  for (const SubtreeRange& subtree : ranges) {
    PAVISE_RETURN_IF_ERROR(CheckInside(device, subtree.range, buffer_bytes));
    PAVISE_RETURN_IF_ERROR(CheckSubtree(device, subtree));
  }
  if (out_values != ranges.size()) {
    return UsageError(StrCat(device, ": room for ", out_values, " chaining values of ",
                             ranges.size(), " subtrees"));
  }
  return absl::OkStatus();
}

absl::Status CheckCopy(std::string_view device, const Range& range, uint64_t buffer_bytes,
                       size_t host_bytes) {
  PAVISE_RETURN_IF_ERROR(CheckInside(device, range, buffer_bytes));
  if (host_bytes != range.size_bytes) {
    return UsageError(
        StrCat(device, ": ", host_bytes, " bytes of host memory for ", range.size_bytes));
  }
  return absl::OkStatus();
}

absl::Status CheckCopyWithin(std::string_view device, const Buffer& from, const Range& range,
                             const Buffer& to, uint64_t offset_bytes) {
  if (&from == &to) return UsageError(StrCat(device, ": a copy from a buffer into itself"));
  PAVISE_RETURN_IF_ERROR(CheckInside(device, range, from.size_bytes()));
  return CheckInside(device, {offset_bytes, range.size_bytes}, to.size_bytes());
}

}  // namespace pavise::hash
