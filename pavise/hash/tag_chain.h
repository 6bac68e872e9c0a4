#ifndef PAVISE_HASH_TAG_CHAIN_H_
#define PAVISE_HASH_TAG_CHAIN_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "pavise/base/random.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/hash/tag.h"

#include "absl/status/statusor.h"

namespace pavise::hash {

// The tags of one object in memory from pass to pass: its secret, the tags in force, and the number
// of the pass whose key made them. Numbers are given out once each and never again, also where a
// pass is given up half-way, so that no two readings are tagged under one key; nothing else makes
// keys of the secret. Not thread-safe but for Acquire and Release; neither copied nor moved.
class TagChain {
 public:
  // A secret of its own from `random`; no tags are in force yet.
  static absl::StatusOr<std::unique_ptr<TagChain>> Create(uint64_t size_bytes,
                                                          RandomSource& random);
  TagChain(const TagChain&) = delete;
  TagChain& operator=(const TagChain&) = delete;

  uint64_t size_bytes() const { return size_bytes_; }
  uint64_t ranges() const { return TagRangeCount(size_bytes_); }

  // The key of a reading to come: the first key has number 0. 2 ms, as CommittedKey.
  TagKey IssueKey();
  // The key under which the tags in force were made. Not before the first Commit.
  TagKey CommittedKey() const;
  // Puts the tags of all ranges, made under the latest issued key, in force. Condemned ranges stay
  // so. kInvalidArgument for another number of tags, and where those of that key are in force.
  absl::Status Commit(std::vector<RangeTag> tags);

  // Whether this is the tag in force of the range, in time that does not depend on the tags. Never
  // for a condemned range.
  bool Matches(uint64_t range, const RangeTag& tag) const;
  // The range was found changed: no later tag of it may be believed.
  void Condemn(uint64_t range);

  bool has_tags() const { return has_tags_; }
  uint64_t keys_issued() const { return keys_issued_; }
  uint64_t committed_pass() const { return committed_pass_; }
  // The tags in force; for tests and for recomputing samples.
  const std::vector<RangeTag>& tags() const { return tags_; }

  // One user at a time: false where somebody has it.
  bool Acquire() { return !in_use_.exchange(true); }
  void Release() { in_use_ = false; }

 private:
  TagChain(uint64_t size_bytes, SecretBytes secret);
  TagKey KeyOf(uint64_t pass) const;

  const uint64_t size_bytes_;
  const SecretBytes secret_;
  uint64_t keys_issued_ = 0;
  uint64_t committed_pass_ = 0;
  bool has_tags_ = false;
  std::vector<RangeTag> tags_;
  std::vector<bool> condemned_;
  std::atomic<bool> in_use_ = false;
};

}  // namespace pavise::hash

#endif  // PAVISE_HASH_TAG_CHAIN_H_
