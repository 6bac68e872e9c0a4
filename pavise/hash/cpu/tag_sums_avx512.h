#ifndef PAVISE_HASH_CPU_TAG_SUMS_AVX512_H_
#define PAVISE_HASH_CPU_TAG_SUMS_AVX512_H_

#include <cstddef>
#include <cstdint>

#include "pavise/base/bytes.h"
#include "pavise/hash/tag.h"

// The sums of a tag (tag.h) with AVX-512 VNNI; only the hash area includes this.
namespace pavise::hash::internal {

inline constexpr size_t kPackedRowsAlignment = 64;

// Reorders `key_count` keys' rows to how TagSumsAvx512 reads them. `out` is aligned to
// kPackedRowsAlignment and holds key_count x kTagRows x kTagBlockBytes.
void PackTagRowsAvx512(const int8_t* const* key_rows, size_t key_count, int8_t* out);

// The sums of one range under one or two keys: sums[(key x kTagBlocksPerRange + block) x kTagRows +
// row], for the blocks that `range` (1 to kTagRangeBytes bytes, the last block padded with zeros)
// has. Only for CPUs with AVX-512 F, BW, VL and VNNI; on others never to be called. Wipes what it
// keeps of the sums.
void TagSumsAvx512(const int8_t* packed_rows, size_t key_count, ByteSpan range, int32_t* sums);

}  // namespace pavise::hash::internal

#endif  // PAVISE_HASH_CPU_TAG_SUMS_AVX512_H_
