#ifndef PAVISE_HASH_TAG_H_
#define PAVISE_HASH_TAG_H_

#include <cstdint>
#include <span>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/hash/blake3.h"

#include "absl/status/statusor.h"

// Keyed tags of memory that is read again and again (docs/formats/tag.md): a universal hash that
// matrix units compute at the speed of memory, and keyed BLAKE3 above it. A MAC for re-checking
// resident bytes under a key that the checked party does not know; never a signature digest: who
// knows the key finds collisions by solving linear equations.
//
// Construction. The tagged bytes are cut into blocks of kTagBlockBytes, the last one padded with
// zeros. Each block has kTagRows sums: sum r is the exact dot product of the block's bytes (u8)
// with secret row r of the key (s8, uniform in -128..127), as a little-endian int32; 65,536 x 128 x
// 255 is below 2^31, so no sum overflows, in whichever order its products are added. The sums of
// the kTagBlocksPerRange blocks of a 1 MiB range, 1,024 bytes (fewer in the last range, which has
// only the sums of its existing blocks), are one chunk of keyed BLAKE3; the range's tag is that
// chunk's chaining value, its chunk counter the range's number. Rows and BLAKE3 key are derived
// from a secret, the number of the pass and the total length, so that the position of every block
// and the length are bound.
namespace pavise::hash {

inline constexpr size_t kTagRows = 16;
inline constexpr size_t kTagBlockBytes = size_t{64} << 10;
inline constexpr size_t kTagRangeBytes = kSubtreeBytes;
inline constexpr size_t kTagBlocksPerRange = kTagRangeBytes / kTagBlockBytes;

// Keys of one call: a pass that checks under one key and commits the next reads the bytes once.
inline constexpr size_t kMaxTagKeys = 2;

using RangeTag = ChainingValue;

// The key of one pass over one object. Move-only; wiped when it goes. Two passes must not share
// one, nor two objects: the sums of known blocks reveal rows by linear algebra, so sums leave no
// device and are wiped.
class TagKey {
 public:
  // `secret` is fresh for each object of each load: two objects of one length under one secret
  // would share a key, and their tags could be exchanged. BLAKE3's derive_key mode makes the BLAKE3
  // key and, as extended output, the rows from secret, pass number and length (docs/formats/tag.md
  // has the context strings). Takes about 2 ms: the rows are 1 MiB.
  static TagKey Derive(std::span<const uint8_t, 32> secret, uint64_t pass_number,
                       uint64_t total_size_bytes);

  // kTagRows x kTagBlockBytes, row after row.
  std::span<const int8_t> rows() const;
  std::span<const uint8_t, 32> blake3_key() const;
  uint64_t total_size_bytes() const { return total_size_bytes_; }

 private:
  friend struct TagKeyForTest;  // pavise/hash/testing/tag_key.h: rows of the test's choice
  TagKey(SecretBytes rows, SecretBytes blake3_key, uint64_t total_size_bytes);
  SecretBytes rows_;
  SecretBytes blake3_key_;
  uint64_t total_size_bytes_ = 0;
};

// How many ranges an object of that length has; 0 for an empty one.
uint64_t TagRangeCount(uint64_t total_size_bytes);

// The number of ranges that `size_bytes` bytes cover which begin with range number `first_range` of
// an object of `total_size_bytes`: whole ranges, but for the object's last. No bytes cover no range
// and may be placed anywhere up to the end. kInvalidArgument where the bytes cover anything else.
absl::StatusOr<uint64_t> TagRangesCovered(uint64_t total_size_bytes, uint64_t size_bytes,
                                          uint64_t first_range);
// What every device refuses in a call of Device::Tag besides the buffer's bounds; else the number
// of ranges. kInvalidArgument: no key or more than kMaxTagKeys, a null one, keys of different total
// lengths, bytes that TagRangesCovered refuses, `out_count` that is not ranges x keys.
absl::StatusOr<uint64_t> CheckTagCall(std::span<const TagKey* const> keys, uint64_t size_bytes,
                                      uint64_t first_range, size_t out_count);

// The tags of the ranges that `bytes` covers, as TagRangesCovered has it (and its refusals). On
// this thread, with the widest integer dot product that the CPU has (AVX-512 VNNI, else plain
// code).
absl::StatusOr<std::vector<RangeTag>> TagRanges(const TagKey& key, ByteSpan bytes,
                                                uint64_t first_range);

namespace reference {
// Plain code straight from the description above, which every device is held to. The arguments are
// those of hash::TagRanges and must be valid.
std::vector<RangeTag> TagRanges(const TagKey& key, ByteSpan bytes, uint64_t first_range);
}  // namespace reference

}  // namespace pavise::hash

#endif  // PAVISE_HASH_TAG_H_
