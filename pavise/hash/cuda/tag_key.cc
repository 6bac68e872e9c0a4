#include <algorithm>

#include "pavise/hash/cuda/tag_kernel.h"
#include "pavise/hash/cuda/tag_tile.h"

namespace pavise::hash::cuda {

void PackTagKey(std::span<const int8_t> rows, std::span<const uint8_t, 32> blake3_key,
                std::span<uint8_t, kTagKeyDeviceBytes> out) {
  for (uint32_t row = 0; row < kRows; ++row) {
    for (uint32_t k = 0; k < kBlockBytes; k += kLoadBytes) {
      const int8_t* from = &rows[size_t{row} * kBlockBytes + k];
      std::copy(from, from + kLoadBytes, &out[PackedRowOffset(row, k)]);
    }
  }
  std::ranges::copy(blake3_key, &out[kPackedRowsBytes]);
  std::fill(out.begin() + kPackedRowsBytes + blake3_key.size(), out.end(), uint8_t{0});
}

}  // namespace pavise::hash::cuda
