#include "pavise/ledger/merkle_tree.h"

#include <algorithm>
#include <array>
#include <bit>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"

namespace pavise::ledger {
namespace {

constexpr std::string_view kAskAgain =
    "ask for the proof again; a log that has none to give does not hold what it says";

// The entries from `begin` to `end`. Where `begin` is a multiple of the largest power of two that
// fits, as in all ranges of proofs, the range is a subtree, and greedily cut into complete ones.
struct Range {
  uint64_t begin;
  uint64_t end;
};

void AppendPositions(Range range, std::vector<uint64_t>& positions) {
  while (range.begin < range.end) {
    const auto level = static_cast<uint32_t>(std::bit_width(range.end - range.begin) - 1);
    positions.push_back(NodePosition(level, range.begin >> level));
    range.begin += uint64_t{1} << level;
  }
}

// The root over subtrees of falling size.
absl::StatusOr<Digest32> Fold(std::span<const Digest32> peaks) {
  if (peaks.empty()) return crypto::Sha256({});
  Digest32 root = peaks.back();
  for (size_t i = peaks.size() - 1; i-- > 0;) {
    PAVISE_ASSIGN_OR_RETURN(root, NodeHash(peaks[i], root));
  }
  return root;
}

absl::StatusOr<std::vector<Digest32>> Read(std::span<const uint64_t> positions,
                                           const NodeReader& reader) {
  if (positions.empty()) return std::vector<Digest32>();
  PAVISE_ASSIGN_OR_RETURN(std::vector<Digest32> nodes, reader.ReadNodes(positions));
  if (nodes.size() != positions.size()) {
    return MachineFailure("ledger", "other nodes were read than were asked for");
  }
  return nodes;
}

// One hash a range, all read at once.
absl::StatusOr<std::vector<Digest32>> RootsOf(const std::vector<Range>& ranges,
                                              const NodeReader& reader) {
  std::vector<uint64_t> positions;
  std::vector<size_t> ends;
  for (const Range& range : ranges) {
    AppendPositions(range, positions);
    ends.push_back(positions.size());
  }
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Digest32> nodes, Read(positions, reader));
  std::vector<Digest32> roots;
  size_t begin = 0;
  for (const size_t end : ends) {
    PAVISE_ASSIGN_OR_RETURN(const Digest32 root,
                            Fold(std::span(nodes).subspan(begin, end - begin)));
    roots.push_back(root);
    begin = end;
  }
  return roots;
}

// Where RFC 6962 cuts a range of two or more: the largest power of two below its length.
uint64_t CutOf(Range range) { return range.begin + std::bit_floor(range.end - range.begin - 1); }

absl::Status RefuseProof(std::string_view item, std::string_view detail,
                         std::string_view remedy = kAskAgain) {
  return Refuse(Reason::kTransparencyInvalid, item, detail, remedy);
}

}  // namespace

absl::StatusOr<Digest32> LeafHash(ByteSpan entry) {
  Bytes input;
  input.reserve(1 + entry.size());
  input.push_back(0x00);
  input.insert(input.end(), entry.begin(), entry.end());
  return crypto::Sha256(input);
}

absl::StatusOr<Digest32> NodeHash(const Digest32& left, const Digest32& right) {
  std::array<uint8_t, 65> input{0x01};
  std::copy(left.begin(), left.end(), input.begin() + 1);
  std::copy(right.begin(), right.end(), input.begin() + 33);
  return crypto::Sha256(input);
}

uint64_t NodeCount(uint64_t size) { return 2 * size - static_cast<uint64_t>(std::popcount(size)); }

uint64_t NodePosition(uint32_t level, uint64_t index) {
  // Completed by the leaf `last`, after that leaf itself and the levels between.
  const uint64_t last = ((index + 1) << level) - 1;
  return NodeCount(last) + level;
}

absl::StatusOr<MerkleFrontier> MerkleFrontier::Read(uint64_t size, const NodeReader& reader) {
  if (size > kMaxTreeSize) {
    return Refuse(Reason::kLimitExceeded, "ledger",
                  StrCat("has ", size, " entries, more than ", kMaxTreeSize));
  }
  std::vector<uint64_t> positions;
  AppendPositions({0, size}, positions);
  MerkleFrontier frontier;
  PAVISE_ASSIGN_OR_RETURN(frontier.peaks_, ledger::Read(positions, reader));
  frontier.size_ = size;
  return frontier;
}

absl::Status MerkleFrontier::Append(const Digest32& leaf_hash, std::vector<Digest32>& nodes) {
  if (size_ >= kMaxTreeSize) {
    return Refuse(Reason::kLimitExceeded, "ledger", StrCat("is full, at ", kMaxTreeSize));
  }
  // One level for each one at the end of the old size.
  const auto completed = static_cast<size_t>(std::countr_one(size_));
  std::array<Digest32, 49> added{leaf_hash};
  for (size_t level = 0; level < completed; ++level) {
    PAVISE_ASSIGN_OR_RETURN(added[level + 1],
                            NodeHash(peaks_[peaks_.size() - 1 - level], added[level]));
  }
  nodes.insert(nodes.end(), added.begin(), added.begin() + 1 + static_cast<ptrdiff_t>(completed));
  peaks_.resize(peaks_.size() - completed);
  peaks_.push_back(added[completed]);
  ++size_;
  return absl::OkStatus();
}

absl::StatusOr<Digest32> MerkleFrontier::Root() const { return Fold(peaks_); }

absl::StatusOr<Digest32> RootOf(uint64_t size, const NodeReader& reader) {
  PAVISE_ASSIGN_OR_RETURN(const MerkleFrontier frontier, MerkleFrontier::Read(size, reader));
  return frontier.Root();
}

absl::StatusOr<std::vector<Digest32>> InclusionProof(uint64_t index, uint64_t size,
                                                     const NodeReader& reader) {
  if (index >= size || size > kMaxTreeSize) {
    return UsageError(StrCat("no entry ", index, " in a ledger of ", size));
  }
  std::vector<Range> siblings;  // from the root down
  Range range{0, size};
  while (range.end - range.begin > 1) {
    const uint64_t cut = CutOf(range);
    if (index < cut) {
      siblings.push_back({cut, range.end});
      range.end = cut;
    } else {
      siblings.push_back({range.begin, cut});
      range.begin = cut;
    }
  }
  std::reverse(siblings.begin(), siblings.end());
  return RootsOf(siblings, reader);
}

absl::StatusOr<std::vector<Digest32>> ConsistencyProof(uint64_t old_size, uint64_t new_size,
                                                       const NodeReader& reader) {
  if (old_size > new_size || new_size > kMaxTreeSize) {
    return UsageError(StrCat("a ledger of ", new_size, " does not continue one of ", old_size));
  }
  if (old_size == 0 || old_size == new_size) return std::vector<Digest32>();
  std::vector<Range> parts;  // from the root down
  Range range{0, new_size};
  while (old_size != range.end) {
    const uint64_t cut = CutOf(range);
    if (old_size <= cut) {
      parts.push_back({cut, range.end});
      range.end = cut;
    } else {
      parts.push_back({range.begin, cut});
      range.begin = cut;
    }
  }
  // The verifier knows the old root itself.
  if (range.begin != 0) parts.push_back(range);
  std::reverse(parts.begin(), parts.end());
  return RootsOf(parts, reader);
}

absl::Status VerifyInclusion(const Digest32& leaf_hash, uint64_t index, uint64_t size,
                             const Digest32& root, std::span<const Digest32> proof,
                             std::string_view item) {
  if (index >= size || size > kMaxTreeSize) {
    return RefuseProof(item, StrCat("is said to be entry ", index, " of ", size));
  }
  uint64_t at = index;
  uint64_t last = size - 1;
  Digest32 hash = leaf_hash;
  for (const Digest32& sibling : proof) {
    if (last == 0) return RefuseProof(item, "has an inclusion proof that is too long");
    if ((at & 1) != 0 || at == last) {
      PAVISE_ASSIGN_OR_RETURN(hash, NodeHash(sibling, hash));
      while ((at & 1) == 0 && at != 0) {
        at >>= 1;
        last >>= 1;
      }
    } else {
      PAVISE_ASSIGN_OR_RETURN(hash, NodeHash(hash, sibling));
    }
    at >>= 1;
    last >>= 1;
  }
  if (last != 0) return RefuseProof(item, "has an inclusion proof that is too short");
  if (hash != root) {
    return RefuseProof(item, StrCat("is not entry ", index, " of the log at ", size, " entries"),
                       "get the entry from the log again; one that was changed since proves "
                       "nothing");
  }
  return absl::OkStatus();
}

absl::Status VerifyConsistency(uint64_t old_size, const Digest32& old_root, uint64_t new_size,
                               const Digest32& new_root, std::span<const Digest32> proof,
                               std::string_view item) {
  constexpr std::string_view kKeepBoth =
      "keep both checkpoints: if the log cannot prove that one continues the other, it told its "
      "readers different histories";
  if (old_size > new_size || new_size > kMaxTreeSize) {
    return RefuseProof(
        item, StrCat("a log of ", new_size, " entries does not continue one of ", old_size),
        kKeepBoth);
  }
  if (old_size == 0 || old_size == new_size) {
    if (!proof.empty()) return RefuseProof(item, "has a consistency proof that is too long");
    const Digest32* expected = &new_root;
    Digest32 nothing{};
    if (old_size == 0) {
      PAVISE_ASSIGN_OR_RETURN(nothing, crypto::Sha256({}));
      if (new_size == 0 && new_root != nothing) {
        return RefuseProof(item, "names a root for an empty log", kKeepBoth);
      }
      expected = &nothing;
    }
    if (old_root == *expected) return absl::OkStatus();
    return RefuseProof(item, StrCat("two roots for a log of ", old_size, " entries"), kKeepBoth);
  }
  uint64_t at = old_size - 1;
  uint64_t last = new_size - 1;
  const int complete = std::countr_one(at);
  at >>= complete;
  last >>= complete;
  Digest32 old_hash = old_root;
  // An old tree that is complete is itself where the proof begins.
  if (at != 0) {
    if (proof.empty()) return RefuseProof(item, "has a consistency proof that is too short");
    old_hash = proof.front();
    proof = proof.subspan(1);
  }
  Digest32 new_hash = old_hash;
  for (const Digest32& part : proof) {
    if (last == 0) return RefuseProof(item, "has a consistency proof that is too long");
    if ((at & 1) != 0 || at == last) {
      PAVISE_ASSIGN_OR_RETURN(old_hash, NodeHash(part, old_hash));
      PAVISE_ASSIGN_OR_RETURN(new_hash, NodeHash(part, new_hash));
      while ((at & 1) == 0 && at != 0) {
        at >>= 1;
        last >>= 1;
      }
    } else {
      PAVISE_ASSIGN_OR_RETURN(new_hash, NodeHash(new_hash, part));
    }
    at >>= 1;
    last >>= 1;
  }
  if (last != 0) return RefuseProof(item, "has a consistency proof that is too short");
  if (old_hash != old_root || new_hash != new_root) {
    return RefuseProof(
        item,
        StrCat("the log of ", new_size, " entries is not proven to continue that of ", old_size),
        kKeepBoth);
  }
  return absl::OkStatus();
}

}  // namespace pavise::ledger
