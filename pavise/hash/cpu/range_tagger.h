#ifndef PAVISE_HASH_CPU_RANGE_TAGGER_H_
#define PAVISE_HASH_CPU_RANGE_TAGGER_H_

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/hash/tag.h"

// The tags of single ranges on this CPU; only the hash area includes this.
namespace pavise::hash::internal {

enum class TagTarget { kPlain, kAvx512Vnni };

// The widest that this CPU has.
TagTarget BestTagTarget();
// "plain", "AVX-512 VNNI".
std::string_view TagTargetName(TagTarget target);

// Keeps the rows of one or two keys in the order in which the dot products read them; wiped when it
// goes. The keys must outlive it. Thread-safe; 50 KiB of stack a call.
class RangeTagger {
 public:
  // `target` must be one that this CPU can run.
  explicit RangeTagger(std::span<const TagKey* const> keys, TagTarget target = BestTagTarget());

  // The tags under each key, in one reading, of range `number`, whose bytes are 1 to
  // kTagRangeBytes. The sums are wiped.
  std::array<RangeTag, kMaxTagKeys> Tag(ByteSpan range, uint64_t number) const;

 private:
  const std::vector<const TagKey*> keys_;
  const TagTarget target_;
  SecretBytes packed_rows_;  // of kAvx512Vnni, and room to align them
};

}  // namespace pavise::hash::internal

#endif  // PAVISE_HASH_CPU_RANGE_TAGGER_H_
