#ifndef PAVISE_LEDGER_MERKLE_TREE_H_
#define PAVISE_LEDGER_MERKLE_TREE_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// The Merkle tree of RFC 6962 (section 2.1) with SHA-256, and the proofs of RFC 9162 (sections
// 2.1.3 and 2.1.4). Nothing here is kept between calls but a MerkleFrontier: where nodes live is a
// NodeReader's matter.
namespace pavise::ledger {

// Entries of one tree. Far above what a broker writes; keeps all arithmetic on positions small.
inline constexpr uint64_t kMaxTreeSize = uint64_t{1} << 48;

// SHA-256 of 0x00 and the entry, of 0x01 and both children. Machine failures only.
absl::StatusOr<Digest32> LeafHash(ByteSpan entry);
absl::StatusOr<Digest32> NodeHash(const Digest32& left, const Digest32& right);

// Nodes are the hashes of complete subtrees: level 0 the leaves, node (l, i) that of the entries
// from i * 2^l to (i + 1) * 2^l. Storage numbers them in the order in which appending completes
// them (a leaf, then whatever it completes, upwards): the nodes of any tree are a prefix of the
// nodes of every later one, so that an append only ever adds rows at the end.
uint64_t NodePosition(uint32_t level, uint64_t index);
// How many nodes a tree of so many entries has: 2 * size less the number of ones in `size`.
uint64_t NodeCount(uint64_t size);

// Where nodes are read from. Whoever implements it says whether it is thread-safe; the functions
// below are as thread-safe as the reader that they are given.
class NodeReader {
 public:
  virtual ~NodeReader() = default;
  // The nodes at these positions, in their order. Each call is one round trip: every function below
  // makes at most one, for at most 128 positions. A position that is not there is a machine
  // failure.
  virtual absl::StatusOr<std::vector<Digest32>> ReadNodes(
      std::span<const uint64_t> positions) const = 0;
};

// What appending needs to know of a tree: its size and the roots of its complete subtrees, at most
// one a level. A value type; not thread-safe. A writer copies it, appends, writes the nodes in its
// transaction, and keeps the copy when that is committed.
class MerkleFrontier {
 public:
  MerkleFrontier() = default;  // of the empty tree
  // Of the tree of the first `size` entries. kLimitExceeded above kMaxTreeSize.
  static absl::StatusOr<MerkleFrontier> Read(uint64_t size, const NodeReader& reader);

  uint64_t size() const { return size_; }
  // Adds one leaf, and to `nodes` the nodes that it completes, the first of which belongs at
  // position NodeCount(size()) as it was before. kLimitExceeded: the tree is full. An error leaves
  // the frontier as it was.
  absl::Status Append(const Digest32& leaf_hash, std::vector<Digest32>& nodes);
  // SHA-256 of nothing for the empty tree.
  absl::StatusOr<Digest32> Root() const;

 private:
  uint64_t size_ = 0;
  std::vector<Digest32> peaks_;  // largest first
};

// The root of the first `size` entries.
absl::StatusOr<Digest32> RootOf(uint64_t size, const NodeReader& reader);
// That entry `index` is in the tree of the first `size`: siblings from the leaf up. A usage error
// unless index < size <= kMaxTreeSize.
absl::StatusOr<std::vector<Digest32>> InclusionProof(uint64_t index, uint64_t size,
                                                     const NodeReader& reader);
// That the tree of the first `old_size` entries is a prefix of that of the first `new_size`; empty
// where they are the same, or the old one is empty. A usage error unless old_size <= new_size <=
// kMaxTreeSize.
absl::StatusOr<std::vector<Digest32>> ConsistencyProof(uint64_t old_size, uint64_t new_size,
                                                       const NodeReader& reader);

// RFC 9162, 2.1.3.2 and 2.1.4.2. Anything but the one proof that there is is refused
// (kTransparencyInvalid, names `item`). The empty tree is a prefix of every other, its root is
// SHA-256 of nothing.
absl::Status VerifyInclusion(const Digest32& leaf_hash, uint64_t index, uint64_t size,
                             const Digest32& root, std::span<const Digest32> proof,
                             std::string_view item);
absl::Status VerifyConsistency(uint64_t old_size, const Digest32& old_root, uint64_t new_size,
                               const Digest32& new_root, std::span<const Digest32> proof,
                               std::string_view item);

}  // namespace pavise::ledger

#endif  // PAVISE_LEDGER_MERKLE_TREE_H_
