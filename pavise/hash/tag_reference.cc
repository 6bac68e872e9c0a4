#include <algorithm>
#include <array>

#include "pavise/hash/arithmetic/blake3.h"
#include "pavise/hash/tag.h"

// Shares no code with the kernels: the sums one product at a time, BLAKE3 from arithmetic/.
namespace pavise::hash::reference {
namespace {

// The chaining value of one chunk of keyed BLAKE3 (paper, sections 2.1 and 2.4).
ChainingValue KeyedChunk(std::span<const uint8_t, 32> key, ByteSpan chunk, uint64_t counter) {
  std::array<uint32_t, 8> chaining;
  for (size_t w = 0; w < 8; ++w) chaining[w] = LoadLittleEndian32(key, 4 * w);
  for (size_t begin = 0; begin < chunk.size(); begin += 64) {
    Bytes block(64, 0);
    const size_t size = std::min<size_t>(64, chunk.size() - begin);
    std::ranges::copy(chunk.subspan(begin, size), block.begin());
    std::array<uint32_t, 16> message;
    for (size_t w = 0; w < 16; ++w) message[w] = LoadLittleEndian32(block, 4 * w);
    uint32_t flags = PAVISE_BLAKE3_KEYED_HASH;
    if (begin == 0) flags |= PAVISE_BLAKE3_CHUNK_START;
    if (begin + size == chunk.size()) flags |= PAVISE_BLAKE3_CHUNK_END;
    pavise_blake3_compress(chaining.data(), message.data(), counter, static_cast<uint32_t>(size),
                           flags);
  }
  Bytes bytes;
  for (uint32_t word : chaining) AppendLittleEndian32(word, bytes);
  ChainingValue value;
  std::ranges::copy(bytes, value.begin());
  return value;
}

}  // namespace

std::vector<RangeTag> TagRanges(const TagKey& key, ByteSpan bytes, uint64_t first_range) {
  std::vector<RangeTag> tags;
  for (size_t begin = 0; begin < bytes.size(); begin += kTagRangeBytes) {
    const ByteSpan range = bytes.subspan(begin, std::min(kTagRangeBytes, bytes.size() - begin));
    Bytes sums;
    for (size_t block = 0; block * kTagBlockBytes < range.size(); ++block) {
      for (size_t row = 0; row < kTagRows; ++row) {
        int64_t sum = 0;  // wider than needed, so that an overflow would be a difference
        for (size_t i = 0; i < kTagBlockBytes; ++i) {
          const size_t at = block * kTagBlockBytes + i;
          const int data = at < range.size() ? range[at] : 0;
          sum += int64_t{key.rows()[row * kTagBlockBytes + i]} * data;
        }
        AppendLittleEndian32(static_cast<uint32_t>(sum), sums);
      }
    }
    tags.push_back(KeyedChunk(key.blake3_key(), sums, first_range + begin / kTagRangeBytes));
  }
  return tags;
}

}  // namespace pavise::hash::reference
