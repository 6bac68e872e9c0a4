#include "pavise/hash/cuda/launch_plan.h"

#include <algorithm>
#include <utility>

namespace pavise::hash::cuda {
namespace {

// From counts to the number of each range's first one, and the total.
void SumBefore(std::vector<uint64_t>& counts) {
  uint64_t sum = 0;
  for (uint64_t& count : counts) sum += std::exchange(count, sum);
  counts.push_back(sum);
}

}  // namespace

uint64_t Blake3ItemsOf(uint64_t size_bytes, uint32_t chunks_per_lane) {
  const uint64_t item_bytes = uint64_t{chunks_per_lane} * kChunkBytes;
  return size_bytes == 0 ? 1 : (size_bytes - 1) / item_bytes + 1;
}

Blake3Plan PlanBlake3(const std::vector<RangeDescriptor>& ranges, uint64_t wanted_lanes) {
  Blake3Plan plan;
  uint64_t large_items = 0;
  for (const RangeDescriptor& range : ranges) {
    large_items += Blake3ItemsOf(range.size_bytes, kNodesPerLane);
  }
  plan.chunks_per_lane = large_items >= wanted_lanes ? kNodesPerLane : 1;
  std::vector<uint64_t> nodes;
  nodes.reserve(ranges.size() + 1);
  for (const RangeDescriptor& range : ranges) {
    nodes.push_back(Blake3ItemsOf(range.size_bytes, plan.chunks_per_lane));
  }
  while (true) {
    std::vector<uint64_t> groups;
    groups.reserve(nodes.size() + 1);
    bool is_done = true;
    for (const uint64_t count : nodes) {
      groups.push_back(count <= 1 ? 0 : (count - 1) / kNodesPerWarp + 1);
      is_done = is_done && count <= 1;
    }
    SumBefore(nodes);
    plan.levels.push_back(std::move(nodes));
    if (is_done) return plan;
    nodes = std::move(groups);
  }
}

void SortForSha2(std::vector<RangeDescriptor>& ranges) {
  const auto is_longer = [](const RangeDescriptor& a, const RangeDescriptor& b) {
    return a.size_bytes > b.size_bytes;
  };
  if (std::is_sorted(ranges.begin(), ranges.end(), is_longer)) return;
  std::stable_sort(ranges.begin(), ranges.end(), is_longer);
}

}  // namespace pavise::hash::cuda
