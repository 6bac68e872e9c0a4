#ifndef PAVISE_HASH_INTERNAL_BATCH_CHECKS_H_
#define PAVISE_HASH_INTERNAL_BATCH_CHECKS_H_

#include <cstdint>
#include <span>
#include <string_view>

#include "pavise/hash/device.h"

#include "absl/status/status.h"

// What device.h says a batch must be, the same for every device. `device` is the name in messages.
namespace pavise::hash {

// kInvalidArgument for a range that leaves the buffer, or an `out_bytes` that does not hold exactly
// one digest a range.
absl::Status CheckDigestBatch(std::string_view device, std::span<const Range> ranges,
                              uint64_t buffer_bytes, size_t digest_bytes, size_t out_bytes);

// kInvalidArgument for a range that leaves the buffer or is no subtree, or an `out_values` that is
// not the number of ranges.
absl::Status CheckSubtreeBatch(std::string_view device, std::span<const SubtreeRange> ranges,
                               uint64_t buffer_bytes, size_t out_values);

// kInvalidArgument for a range that leaves the buffer, or another number of bytes in host memory.
absl::Status CheckCopy(std::string_view device, const Range& range, uint64_t buffer_bytes,
                       size_t host_bytes);

// kInvalidArgument for one buffer twice, or a range that leaves its buffer.
absl::Status CheckCopyWithin(std::string_view device, const Buffer& from, const Range& range,
                             const Buffer& to, uint64_t offset_bytes);

}  // namespace pavise::hash

#endif  // PAVISE_HASH_INTERNAL_BATCH_CHECKS_H_
