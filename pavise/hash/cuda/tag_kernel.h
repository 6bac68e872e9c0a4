#ifndef PAVISE_HASH_CUDA_TAG_KERNEL_H_
#define PAVISE_HASH_CUDA_TAG_KERNEL_H_

#include <cstddef>
#include <cstdint>
#include <span>

// The tag kernel (pavise/hash/tag.h) on CUDA's matrix units, as the CUDA device calls it. Plain
// C++: pointers marked "device" are CUDA device pointers, a stream is a cudaStream_t, results are
// cudaError_t (0: success).
namespace pavise::hash::cuda {

// A key as the kernel reads it: packed rows (tag_tile.h), the BLAKE3 key, padding.
inline constexpr size_t kTagKeyDeviceBytes = (size_t{1} << 20) + 256;

// Writes that form of a key; `rows` and `blake3_key` are TagKey's. The caller uploads `out` and
// wipes it.
void PackTagKey(std::span<const int8_t> rows, std::span<const uint8_t, 32> blake3_key,
                std::span<uint8_t, kTagKeyDeviceBytes> out);

struct TagLaunch {
  const uint8_t* data = nullptr;  // device; any alignment, fastest at a multiple of 16
  uint64_t size_bytes = 0;        // from the first byte of `first_range` on; whole ranges, but for
                                  // the object's last
  uint64_t first_range = 0;
  uint8_t* keys = nullptr;  // device; key_count x kTagKeyDeviceBytes, a multiple of 16
  uint32_t key_count = 0;   // 1 or 2
  uint8_t* tags = nullptr;  // device; key_count x ranges x 32 bytes, a multiple of 4
};

// Queues on `stream` of the current device: the tags, then the wiping of `keys`, even if the kernel
// could not be launched. Sums exist in registers and shared memory only; the kernel wipes what it
// had in shared memory. Nothing to do for size_bytes = 0 but to wipe. For devices of compute
// capability 7.5 and later; error 801 (not supported) where there is too little shared memory.
int LaunchTag(const TagLaunch& launch, void* stream);

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_TAG_KERNEL_H_
