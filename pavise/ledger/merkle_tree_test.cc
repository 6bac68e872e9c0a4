#include "pavise/ledger/merkle_tree.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/ledger/testing/memory_nodes.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::ledger {
namespace {

using ::testing::IsEmpty;
using testing::MemoryLog;

constexpr uint64_t kMostEntries = 130;  // above two complete subtrees of 64

Digest32 Hash(std::string_view text) { return *crypto::Sha256(AsBytes(text)); }
std::string TextOf(const Digest32& digest) { return std::string(AsText(digest)); }

// RFC 6962, 2.1 word for word: recursion over lists of entries, nothing shared with the tree.
using Entries = std::span<const std::string>;

size_t Split(size_t n) {
  size_t k = 1;
  while (2 * k < n) k *= 2;
  return k;
}

Digest32 Root(Entries entries) {
  if (entries.empty()) return Hash("");
  if (entries.size() == 1) return Hash(StrCat(std::string(1, '\0'), entries[0]));
  // Entries stay where they are and as they are: what was computed once need not be again.
  static std::map<std::pair<const std::string*, size_t>, Digest32> known;
  const auto [at, is_new] = known.try_emplace({entries.data(), entries.size()});
  if (is_new) {
    const size_t k = Split(entries.size());
    at->second =
        Hash(StrCat("\x01", TextOf(Root(entries.first(k))), TextOf(Root(entries.subspan(k)))));
  }
  return at->second;
}

std::vector<Digest32> Path(size_t m, Entries entries) {
  if (entries.size() <= 1) return {};
  const size_t k = Split(entries.size());
  std::vector<Digest32> path = m < k ? Path(m, entries.first(k)) : Path(m - k, entries.subspan(k));
  path.push_back(m < k ? Root(entries.subspan(k)) : Root(entries.first(k)));
  return path;
}

std::vector<Digest32> SubProof(size_t m, Entries entries, bool known) {
  if (m == entries.size()) {
    return known ? std::vector<Digest32>() : std::vector<Digest32>{Root(entries)};
  }
  const size_t k = Split(entries.size());
  std::vector<Digest32> proof =
      m <= k ? SubProof(m, entries.first(k), known) : SubProof(m - k, entries.subspan(k), false);
  proof.push_back(m <= k ? Root(entries.subspan(k)) : Root(entries.first(k)));
  return proof;
}

struct Tree {
  Tree() {
    entries.reserve(kMostEntries);
    roots.push_back(Root(entries));
    for (uint64_t i = 0; i < kMostEntries; ++i) {
      entries.push_back(StrCat("entry ", i));
      log.Append(entries.back());
      roots.push_back(Root(entries));
    }
  }
  Entries First(uint64_t size) const { return Entries(entries).first(size); }

  std::vector<std::string> entries;
  std::vector<Digest32> roots;
  MemoryLog log;
};

const Tree& TheTree() {
  static const Tree* const tree = new Tree();
  return *tree;
}

void ExpectRefused(const absl::Status& status) {
  EXPECT_EQ(ReasonOf(status), Reason::kTransparencyInvalid) << status;
}

TEST(MerkleTree, RootsOfTheCertificateTransparencyProject) {
  const std::vector<std::string> inputs = {"",
                                           "00",
                                           "10",
                                           "2021",
                                           "3031",
                                           "40414243",
                                           "5051525354555657",
                                           "606162636465666768696a6b6c6d6e6f"};
  const std::vector<std::string> roots = {
      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
      "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
      "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
      "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
      "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
      "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
      "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
      "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
      "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"};
  MemoryLog log;
  EXPECT_EQ(ToHex(*log.frontier().Root()), roots[0]);
  for (size_t i = 0; i < inputs.size(); ++i) {
    log.Append(AsText(*FromHex(inputs[i], "entry")));
    EXPECT_EQ(ToHex(*log.frontier().Root()), roots[i + 1]) << i;
  }
}

TEST(MerkleTree, NodesAreNumberedInTheOrderOfAppending) {
  const MemoryLog& log = TheTree().log;
  EXPECT_EQ(log.nodes().size(), NodeCount(kMostEntries));
  for (uint32_t level = 0; level < 8; ++level) {
    for (uint64_t index = 0; ((index + 1) << level) <= kMostEntries; ++index) {
      const Entries below = Entries(TheTree().entries).subspan(index << level, size_t{1} << level);
      EXPECT_EQ(log.nodes()[NodePosition(level, index)], Root(below)) << level << ", " << index;
    }
  }
  EXPECT_EQ(NodePosition(0, 0), 0u);
  EXPECT_EQ(NodePosition(1, 0), 2u);
  EXPECT_EQ(NodeCount(kMaxTreeSize), 2 * kMaxTreeSize - 1);
}

TEST(MerkleTree, EverySizeHasTheReferencesRoot) {
  const Tree& tree = TheTree();
  for (uint64_t size = 0; size <= kMostEntries; ++size) {
    EXPECT_EQ(*RootOf(size, tree.log), tree.roots[size]) << size;
    const auto frontier = MerkleFrontier::Read(size, tree.log);
    ASSERT_TRUE(frontier.ok());
    EXPECT_EQ(frontier->size(), size);
  }
}

TEST(MerkleTree, AFrontierThatIsReadGoesOnAsTheOneThatWrote) {
  const Tree& tree = TheTree();
  for (uint64_t size = 0; size < kMostEntries; ++size) {
    MerkleFrontier frontier = *MerkleFrontier::Read(size, tree.log);
    std::vector<Digest32> nodes;
    for (uint64_t i = size; i < kMostEntries; ++i) {
      ASSERT_TRUE(frontier.Append(*LeafHash(AsBytes(tree.entries[i])), nodes).ok());
    }
    EXPECT_EQ(*frontier.Root(), tree.roots[kMostEntries]);
    EXPECT_TRUE(std::equal(nodes.begin(), nodes.end(),
                           tree.log.nodes().begin() + static_cast<ptrdiff_t>(NodeCount(size)),
                           tree.log.nodes().end()));
  }
}

// 8,515 proofs, each held against the reference's; then everything about each changed.
TEST(MerkleTree, InclusionOfEveryEntryInEverySize) {
  const Tree& tree = TheTree();
  size_t proofs = 0;
  for (uint64_t size = 1; size <= kMostEntries; ++size) {
    const Digest32& root = tree.roots[size];
    for (uint64_t index = 0; index < size; ++index) {
      const Digest32 leaf = *LeafHash(AsBytes(tree.entries[index]));
      std::vector<Digest32> proof = *InclusionProof(index, size, tree.log);
      ASSERT_EQ(proof, Path(index, tree.First(size))) << index << " of " << size;
      ASSERT_TRUE(VerifyInclusion(leaf, index, size, root, proof, "entry").ok());
      ++proofs;

      ExpectRefused(VerifyInclusion(tree.roots[0], index, size, root, proof, "another entry"));
      if (size > 1) {
        ExpectRefused(
            VerifyInclusion(leaf, index == 0 ? 1 : index - 1, size, root, proof, "entry"));
        ExpectRefused(VerifyInclusion(leaf, index, size, tree.roots[size - 1], proof, "entry"));
      }
      ExpectRefused(VerifyInclusion(leaf, size, size, root, proof, "entry"));
      ExpectRefused(VerifyInclusion(leaf, index, 2 * size + 1, root, proof, "entry"));
      for (Digest32& hash : proof) {
        hash[index % 32] ^= 1;
        ExpectRefused(VerifyInclusion(leaf, index, size, root, proof, "entry"));
        hash[index % 32] ^= 1;
      }
      proof.push_back(root);
      ExpectRefused(VerifyInclusion(leaf, index, size, root, proof, "entry"));
      proof.pop_back();
      if (!proof.empty()) {
        ExpectRefused(VerifyInclusion(leaf, index, size, root,
                                      std::span(proof).first(proof.size() - 1), "entry"));
        ExpectRefused(
            VerifyInclusion(leaf, index, size, root, std::span(proof).subspan(1), "entry"));
      }
    }
  }
  EXPECT_EQ(proofs, 8515u);
}

TEST(MerkleTree, ConsistencyOfEveryTwoSizes) {
  const Tree& tree = TheTree();
  size_t proofs = 0;
  for (uint64_t size = 0; size <= kMostEntries; ++size) {
    const Digest32& root = tree.roots[size];
    for (uint64_t old_size = 0; old_size <= size; ++old_size) {
      const Digest32& old_root = tree.roots[old_size];
      std::vector<Digest32> proof = *ConsistencyProof(old_size, size, tree.log);
      const std::vector<Digest32> expected =
          old_size == 0 ? std::vector<Digest32>() : SubProof(old_size, tree.First(size), true);
      ASSERT_EQ(proof, expected) << old_size << " to " << size;
      ASSERT_TRUE(VerifyConsistency(old_size, old_root, size, root, proof, "log").ok());
      ++proofs;

      Digest32 other = root;
      other[old_size % 32] ^= 1;
      if (old_size > 0) {
        ExpectRefused(VerifyConsistency(old_size, old_root, size, other, proof, "log"));
      }
      ExpectRefused(VerifyConsistency(old_size, other, size, root, proof, "log"));
      if (old_size < size) {
        if (old_size > 0) {
          ExpectRefused(VerifyConsistency(old_size, root, size, root, proof, "log"));
        }
        ExpectRefused(VerifyConsistency(size, root, old_size, old_root, proof, "log"));
        ExpectRefused(VerifyConsistency(old_size + 1, old_root, size, root, proof, "log"));
      }
      for (Digest32& hash : proof) {
        hash[old_size % 32] ^= 1;
        ExpectRefused(VerifyConsistency(old_size, old_root, size, root, proof, "log"));
        hash[old_size % 32] ^= 1;
      }
      proof.push_back(root);
      ExpectRefused(VerifyConsistency(old_size, old_root, size, root, proof, "log"));
      proof.pop_back();
      if (!proof.empty()) {
        ExpectRefused(VerifyConsistency(old_size, old_root, size, root,
                                        std::span(proof).first(proof.size() - 1), "log"));
        ExpectRefused(
            VerifyConsistency(old_size, old_root, size, root, std::span(proof).subspan(1), "log"));
      }
    }
  }
  EXPECT_EQ(proofs, 8646u);
}

TEST(MerkleTree, AForkHasNoProof) {
  MemoryLog one;
  MemoryLog other;
  for (int i = 0; i < 20; ++i) {
    one.Append(StrCat("entry ", i));
    other.Append(i == 7 ? "another entry 7" : StrCat("entry ", i));
  }
  for (uint64_t size = 8; size < 20; ++size) {
    const Digest32 old_root = *RootOf(size, one);
    for (const MemoryLog* log : {&one, &other}) {
      ExpectRefused(VerifyConsistency(size, old_root, 20, *other.frontier().Root(),
                                      *ConsistencyProof(size, 20, *log), "log"));
    }
  }
  EXPECT_TRUE(VerifyConsistency(7, *RootOf(7, one), 20, *other.frontier().Root(),
                                *ConsistencyProof(7, 20, other), "log")
                  .ok());
}

TEST(MerkleTree, AProofIsOneRead) {
  MemoryLog log;
  for (int i = 0; i < 1000; ++i) log.Append(StrCat("entry ", i));
  ASSERT_TRUE(InclusionProof(513, 1000, log).ok());
  EXPECT_EQ(log.reads(), 1u);
  ASSERT_TRUE(ConsistencyProof(513, 1000, log).ok());
  EXPECT_EQ(log.reads(), 2u);
  ASSERT_TRUE(MerkleFrontier::Read(1000, log).ok());
  EXPECT_EQ(log.reads(), 3u);
  EXPECT_LE(log.most_positions(), 20u);
  EXPECT_THAT(*InclusionProof(0, 1, log), IsEmpty());
  EXPECT_EQ(log.reads(), 3u);
}

// Says yes to every position of the largest tree.
class AnyNode final : public NodeReader {
 public:
  absl::StatusOr<std::vector<Digest32>> ReadNodes(
      std::span<const uint64_t> positions) const override {
    EXPECT_LE(positions.size(), 128u);
    EXPECT_LT(*std::max_element(positions.begin(), positions.end()), NodeCount(kMaxTreeSize));
    return std::vector<Digest32>(positions.size());
  }
};

class NoNodes final : public NodeReader {
 public:
  absl::StatusOr<std::vector<Digest32>> ReadNodes(std::span<const uint64_t>) const override {
    return std::vector<Digest32>();
  }
};

TEST(MerkleTree, Limits) {
  const AnyNode any;
  for (const uint64_t size : {kMaxTreeSize, kMaxTreeSize - 1, kMaxTreeSize / 2 + 1}) {
    for (const uint64_t other : {uint64_t{1}, size / 2 - 1, size / 2 + 1, size - 1}) {
      EXPECT_TRUE(InclusionProof(other, size, any).ok());
      EXPECT_TRUE(ConsistencyProof(other, size, any).ok());
    }
  }
  EXPECT_EQ(ReasonOf(MerkleFrontier::Read(kMaxTreeSize + 1, any).status()), Reason::kLimitExceeded);
  MerkleFrontier full = *MerkleFrontier::Read(kMaxTreeSize, any);
  std::vector<Digest32> nodes;
  EXPECT_EQ(ReasonOf(full.Append(Digest32{}, nodes)), Reason::kLimitExceeded);
  EXPECT_THAT(nodes, IsEmpty());
  MerkleFrontier almost = *MerkleFrontier::Read(kMaxTreeSize - 1, any);
  EXPECT_TRUE(almost.Append(Digest32{}, nodes).ok());
  EXPECT_EQ(nodes.size(), 49u);

  EXPECT_EQ(ExitCodeOf(InclusionProof(5, 5, any).status()), 2);
  EXPECT_EQ(ExitCodeOf(InclusionProof(5, kMaxTreeSize + 1, any).status()), 2);
  EXPECT_EQ(ExitCodeOf(ConsistencyProof(6, 5, any).status()), 2);
  EXPECT_EQ(ExitCodeOf(ConsistencyProof(6, kMaxTreeSize + 1, any).status()), 2);
  ExpectRefused(VerifyInclusion({}, 0, 0, {}, {}, "entry"));
  ExpectRefused(VerifyInclusion({}, 0, kMaxTreeSize + 1, {}, {}, "entry"));
  ExpectRefused(VerifyConsistency(1, {}, kMaxTreeSize + 1, {}, {}, "log"));
  ExpectRefused(VerifyConsistency(0, Hash(""), 0, {}, {}, "log"));

  const NoNodes none;
  EXPECT_EQ(ExitCodeOf(RootOf(5, none).status()), 3);
  EXPECT_EQ(ExitCodeOf(InclusionProof(2, 5, none).status()), 3);
}

}  // namespace
}  // namespace pavise::ledger
