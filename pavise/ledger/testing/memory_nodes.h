#ifndef PAVISE_LEDGER_TESTING_MEMORY_NODES_H_
#define PAVISE_LEDGER_TESTING_MEMORY_NODES_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/ledger/merkle_tree.h"

#include "gtest/gtest.h"

namespace pavise::ledger::testing {

// A tree in memory, for tests of this and higher areas.
class MemoryLog final : public NodeReader {
 public:
  void Append(std::string_view entry) {
    const auto leaf = LeafHash(AsBytes(entry));
    ASSERT_TRUE(leaf.ok());
    ASSERT_TRUE(frontier_.Append(*leaf, nodes_).ok());
  }
  absl::StatusOr<std::vector<Digest32>> ReadNodes(
      std::span<const uint64_t> positions) const override {
    ++reads_;
    most_positions_ = std::max(most_positions_, positions.size());
    std::vector<Digest32> nodes;
    for (const uint64_t position : positions) {
      if (position >= nodes_.size()) return MachineFailure("memory log", "no such node");
      nodes.push_back(nodes_[position]);
    }
    return nodes;
  }

  uint64_t size() const { return frontier_.size(); }
  const MerkleFrontier& frontier() const { return frontier_; }
  const std::vector<Digest32>& nodes() const { return nodes_; }
  size_t reads() const { return reads_; }
  size_t most_positions() const { return most_positions_; }

 private:
  MerkleFrontier frontier_;
  std::vector<Digest32> nodes_;
  mutable size_t reads_ = 0;
  mutable size_t most_positions_ = 0;
};

}  // namespace pavise::ledger::testing

#endif  // PAVISE_LEDGER_TESTING_MEMORY_NODES_H_
