#include "pavise/hash/cpu/range_tagger.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <utility>

#include "pavise/base/simd_target.h"
#include "pavise/hash/cpu/blake3_highway.h"
#include "pavise/hash/cpu/tag_sums_avx512.h"

namespace pavise::hash::internal {
namespace {

static_assert(std::endian::native == std::endian::little, "sums are hashed as they lie in memory");

constexpr size_t kRowsBytes = kTagRows * kTagBlockBytes;
constexpr size_t kSumsOfRange = kTagBlocksPerRange * kTagRows;

// What the rows of the first key begin at, in the room that was made for aligning them.
template <typename T>
T* Aligned(T* bytes) {
  const auto address = reinterpret_cast<uintptr_t>(bytes);
  return bytes + (kPackedRowsAlignment - address % kPackedRowsAlignment) % kPackedRowsAlignment;
}

void TagSumsPlain(const int8_t* rows, ByteSpan range, int32_t* sums) {
  for (size_t begin = 0; begin < range.size(); begin += kTagBlockBytes) {
    const uint8_t* data = range.data() + begin;
    const size_t size = std::min(kTagBlockBytes, range.size() - begin);
    for (size_t r = 0; r < kTagRows; ++r) {
      const int8_t* row = rows + r * kTagBlockBytes;
      int32_t sum = 0;
      for (size_t i = 0; i < size; ++i) sum += row[i] * data[i];
      *sums++ = sum;
    }
  }
}

}  // namespace

TagTarget BestTagTarget() {
  static const TagTarget best =
      CpuSupportsAvx512Vnni() ? TagTarget::kAvx512Vnni : TagTarget::kPlain;
  return best;
}

std::string_view TagTargetName(TagTarget target) {
  return target == TagTarget::kAvx512Vnni ? "AVX-512 VNNI" : "plain";
}

RangeTagger::RangeTagger(std::span<const TagKey* const> keys, TagTarget target)
    : keys_(keys.begin(), keys.end()), target_(target) {
  if (target_ == TagTarget::kPlain) return;
  std::array<const int8_t*, kMaxTagKeys> rows = {};
  for (size_t k = 0; k < keys_.size(); ++k) rows[k] = keys_[k]->rows().data();
  Bytes packed(keys_.size() * kRowsBytes + kPackedRowsAlignment - 1);
  PackTagRowsAvx512(rows.data(), keys_.size(), reinterpret_cast<int8_t*>(Aligned(packed.data())));
  packed_rows_ = SecretBytes(std::move(packed));
}

std::array<RangeTag, kMaxTagKeys> RangeTagger::Tag(ByteSpan range, uint64_t number) const {
  alignas(64) std::array<int32_t, kMaxTagKeys * kSumsOfRange> sums;
  if (target_ == TagTarget::kAvx512Vnni) {
    const auto* rows = reinterpret_cast<const int8_t*>(Aligned(packed_rows_.Reveal().data()));
    TagSumsAvx512(rows, keys_.size(), range, sums.data());
  } else {
    for (size_t k = 0; k < keys_.size(); ++k) {
      TagSumsPlain(keys_[k]->rows().data(), range, &sums[k * kSumsOfRange]);
    }
  }
  const size_t blocks = (range.size() - 1) / kTagBlockBytes + 1;
  std::array<RangeTag, kMaxTagKeys> tags = {};
  for (size_t k = 0; k < keys_.size(); ++k) {
    Mode mode = {.flags = kKeyedHashFlag};
    std::ranges::copy(keys_[k]->blake3_key(), mode.key.begin());
    const auto* bytes = reinterpret_cast<const uint8_t*>(&sums[k * kSumsOfRange]);
    tags[k] = HashChunk(mode, {bytes, blocks * kTagRows * sizeof(int32_t)}, number, 0);
    WipeMemory(mode.key);
  }
  // All of it: what the last range does not fill was never written, and wiping it costs nothing.
  WipeMemory({reinterpret_cast<uint8_t*>(sums.data()), sizeof(sums)});
  return tags;
}

}  // namespace pavise::hash::internal
