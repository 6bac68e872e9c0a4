// The kernels' bodies on the host, warp by warp with the indices of a launch: every table, tail and
// padding that the device would use, held against OpenSSL and the BLAKE3 written for reading.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "pavise/crypto/digest.h"
#include "pavise/hash/blake3.h"
#include "pavise/hash/cuda/blake3_warp.h"
#include "pavise/hash/cuda/launch_plan.h"
#include "pavise/hash/cuda/sha2_warp.h"
#include "pavise/hash/cuda/testing/host_warp.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace pavise::hash::cuda {
namespace {

// As cudaMalloc gives it: aligned to 256, and with nothing readable behind it.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t size_bytes, uint8_t fill = 0)
      : size_bytes_(size_bytes),
        bytes_(static_cast<uint8_t*>(::operator new (size_bytes, std::align_val_t{256}))) {
    std::memset(bytes_, fill, size_bytes);
  }
  ~AlignedBytes() { ::operator delete (bytes_, std::align_val_t{256}); }
  AlignedBytes(const AlignedBytes&) = delete;
  AlignedBytes& operator=(const AlignedBytes&) = delete;

  uint8_t* data() { return bytes_; }
  const uint8_t* data() const { return bytes_; }
  ByteSpan span() const { return {bytes_, size_bytes_}; }

 private:
  size_t size_bytes_;
  uint8_t* bytes_;
};

std::unique_ptr<AlignedBytes> Pattern(size_t size_bytes) {
  auto bytes = std::make_unique<AlignedBytes>(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes->data()[i] = static_cast<uint8_t>(i % 251);
  return bytes;
}

// What hardware is free to do, in all combinations.
struct Schedule {
  HostWarp::Order order;
  HostWarp::Copies copies;
};
constexpr Schedule kSchedules[] = {{HostWarp::Order::kAscending, HostWarp::Copies::kEarly},
                                   {HostWarp::Order::kAscending, HostWarp::Copies::kLate},
                                   {HostWarp::Order::kDescending, HostWarp::Copies::kEarly},
                                   {HostWarp::Order::kDescending, HostWarp::Copies::kLate}};

struct Outcome {
  std::vector<Bytes> digests;
  uint64_t copies_started = 0;  // 0: nothing went through shared memory
};

// The warps that a launch would have, those that only fill its last block left out.
template <class Body>
uint64_t RunWarps(uint64_t warps, const Schedule& schedule, Body body) {
  uint64_t copies = 0;
  for (uint64_t i = 0; i < warps; ++i) {
    HostWarp warp(schedule.order, schedule.copies);
    body(warp, i);
    copies += warp.copies_started();
  }
  return copies;
}

std::vector<Bytes> Cut(const uint8_t* out, size_t count, size_t digest_bytes) {
  std::vector<Bytes> digests;
  for (size_t i = 0; i < count; ++i) {
    digests.emplace_back(out + i * digest_bytes, out + (i + 1) * digest_bytes);
  }
  return digests;
}

template <uint32_t kChunksPerLane, bool kStaged>
Outcome RunBlake3As(const uint8_t* base, const std::vector<RangeDescriptor>& ranges,
                    const Blake3Plan& plan, const Schedule& schedule) {
  const auto range_count = static_cast<uint32_t>(ranges.size());
  AlignedBytes out(ranges.size() * kNodeBytes, 0xEE);
  std::vector<std::unique_ptr<AlignedBytes>> nodes;
  for (size_t level = 0; level < plan.levels.size(); ++level) {
    nodes.push_back(std::make_unique<AlignedBytes>(plan.count(level) * kNodeBytes + 16, 0xDD));
  }
  Outcome run;
  const Blake3LeafArguments leaf = {.base = base,
                                    .ranges = ranges.data(),
                                    .first_item = plan.levels[0].data(),
                                    .item_count = plan.count(0),
                                    .range_count = range_count,
                                    .nodes = nodes[0]->data(),
                                    .out = out.data()};
  run.copies_started =
      RunWarps((leaf.item_count - 1) / kLanes + 1, schedule, [&](HostWarp& warp, uint64_t index) {
        Blake3LeafShared<kChunksPerLane, kStaged> shared;
        std::memset(static_cast<void*>(&shared), 0xAA, sizeof(shared));
        Blake3Leaves<kChunksPerLane, kStaged>(warp, leaf, index, shared);
      });
  for (size_t level = 1; level < plan.levels.size(); ++level) {
    const Blake3TreeArguments tree = {.nodes = nodes[level - 1]->data(),
                                      .ranges = ranges.data(),
                                      .first_node = plan.levels[level - 1].data(),
                                      .first_group = plan.levels[level].data(),
                                      .group_count = plan.count(level),
                                      .range_count = range_count,
                                      .out_nodes = nodes[level]->data(),
                                      .out = out.data()};
    RunWarps(tree.group_count, schedule, [&](HostWarp& warp, uint64_t index) {
      Blake3TreeShared shared;
      std::memset(static_cast<void*>(&shared), 0xAA, sizeof(shared));
      Blake3Tree(warp, tree, index, shared);
    });
  }
  run.digests = Cut(out.data(), ranges.size(), kNodeBytes);
  return run;
}

Outcome RunBlake3(const uint8_t* base, const std::vector<RangeDescriptor>& ranges,
                  uint64_t wanted_lanes, bool staged, const Schedule& schedule) {
  const Blake3Plan plan = PlanBlake3(ranges, wanted_lanes);
  if (plan.chunks_per_lane == 1) {
    return staged ? RunBlake3As<1, true>(base, ranges, plan, schedule)
                  : RunBlake3As<1, false>(base, ranges, plan, schedule);
  }
  return staged ? RunBlake3As<8, true>(base, ranges, plan, schedule)
                : RunBlake3As<8, false>(base, ranges, plan, schedule);
}

template <class Hash, bool kStaged>
Outcome RunSha2As(const uint8_t* base, std::vector<RangeDescriptor> ranges,
                  const Schedule& schedule) {
  SortForSha2(ranges);
  AlignedBytes out(ranges.size() * Hash::kDigestBytes, 0xEE);
  const Sha2Arguments arguments = {.base = base,
                                   .ranges = ranges.data(),
                                   .range_count = static_cast<uint32_t>(ranges.size()),
                                   .out = out.data()};
  Outcome run;
  run.copies_started =
      RunWarps((ranges.size() - 1) / kLanes + 1, schedule, [&](HostWarp& warp, uint64_t index) {
        Sha2Shared<kStaged> shared;
        std::memset(static_cast<void*>(&shared), 0xAA, sizeof(shared));
        Sha2Ranges<Hash, kStaged>(warp, arguments, index, shared);
      });
  run.digests = Cut(out.data(), ranges.size(), Hash::kDigestBytes);
  return run;
}

Outcome RunSha2(bool is_sha384, const uint8_t* base, const std::vector<RangeDescriptor>& ranges,
                bool staged, const Schedule& schedule) {
  if (is_sha384) {
    return staged ? RunSha2As<Sha384, true>(base, ranges, schedule)
                  : RunSha2As<Sha384, false>(base, ranges, schedule);
  }
  return staged ? RunSha2As<Sha256, true>(base, ranges, schedule)
                : RunSha2As<Sha256, false>(base, ranges, schedule);
}

Bytes ToBytes(const Digest32& digest) { return {digest.begin(), digest.end()}; }

Bytes ExpectedSha2(bool is_sha384, ByteSpan bytes) {
  return *crypto::Digest(
      is_sha384 ? crypto::DigestAlgorithm::kSha384 : crypto::DigestAlgorithm::kSha256, bytes);
}

RangeDescriptor Root(uint64_t offset, uint64_t size, uint64_t out) {
  return {offset, size, 0, out, kRangeIsRoot, 0};
}

constexpr size_t kMiB = size_t{1} << 20;

// Around blocks, padding, chunks, steps of 128 bytes, items of 8 chunks, groups of 256 nodes.
const std::vector<size_t> kLengths = {0,
                                      1,
                                      3,
                                      55,
                                      56,
                                      63,
                                      64,
                                      65,
                                      111,
                                      112,
                                      127,
                                      128,
                                      129,
                                      191,
                                      192,
                                      1023,
                                      1024,
                                      1025,
                                      2047,
                                      2048,
                                      2049,
                                      3072,
                                      3073,
                                      5 * 1024,
                                      7 * 1024,
                                      8191,
                                      8192,
                                      8193,
                                      3 * 8192,
                                      65535,
                                      65536,
                                      65537,
                                      262143,
                                      262144,
                                      262145,
                                      270336 + 9,
                                      kMiB - 1,
                                      kMiB,
                                      kMiB + 1,
                                      2 * kMiB,
                                      2 * kMiB + 1024,
                                      2 * kMiB + 8193,
                                      3 * kMiB + 77};
constexpr size_t kOffsets[] = {0, 1, 4, 7, 8, 12, 15, 16};

TEST(KernelsHostTest, Blake3AtEveryBoundaryAndAlignment) {
  const auto all = Pattern(3 * kMiB + 77 + 16);
  size_t executed = 0;
  for (const size_t length : kLengths) {
    for (const size_t offset : kOffsets) {
      // The long ones at two alignments: host time.
      if (length > 300000 && offset != 0 && offset != 7) continue;
      const Bytes expected = ToBytes(Blake3(all->span().subspan(offset, length)));
      for (const uint64_t wanted_lanes : {uint64_t{0}, ~uint64_t{0}}) {
        for (const bool staged : {false, true}) {
          const Schedule& schedule = kSchedules[executed % std::size(kSchedules)];
          const Outcome run =
              RunBlake3(all->data(), {Root(offset, length, 0)}, wanted_lanes, staged, schedule);
          ASSERT_EQ(run.digests[0], expected)
              << length << " bytes at " << offset << (staged ? " staged" : "");
          ++executed;
        }
      }
    }
  }
  EXPECT_EQ(executed, (36u * 8 + 7 * 2) * 2 * 2);
  // The comparison's other side is the SIMD code; it is held to the reference elsewhere, and here.
  EXPECT_EQ(Blake3(all->span()), reference::Blake3(all->span()));
}

TEST(KernelsHostTest, Blake3OfThreeLevelsOfTree) {
  // 65,536 and more nodes: a group of groups of groups, with tails on every level.
  const size_t length = 67 * kMiB + 3 * 1024 + 5;
  const auto all = Pattern(length);
  const Bytes expected = ToBytes(Blake3(all->span()));
  const std::vector<RangeDescriptor> ranges = {Root(0, length, 0)};
  EXPECT_EQ(PlanBlake3(ranges, ~uint64_t{0}).levels.size(), 4u);
  EXPECT_EQ(PlanBlake3(ranges, 0).levels.size(), 3u);
  const Outcome small = RunBlake3(all->data(), ranges, ~uint64_t{0}, true, kSchedules[1]);
  EXPECT_EQ(small.digests[0], expected);
  EXPECT_GT(small.copies_started, 0u);
  EXPECT_EQ(RunBlake3(all->data(), ranges, 0, true, kSchedules[2]).digests[0], expected);
}

TEST(KernelsHostTest, WholeWarpsGoThroughSharedMemoryUnderEverySchedule) {
  // Three warps of full items, and a tail that goes lane by lane.
  const size_t length = 3 * 32 * 8192 + 4000;
  const auto all = Pattern(length + 16);
  size_t executed = 0;
  for (const Schedule& schedule : kSchedules) {
    for (const uint64_t wanted_lanes : {uint64_t{0}, ~uint64_t{0}}) {
      const Outcome run =
          RunBlake3(all->data(), {Root(16, length, 0)}, wanted_lanes, true, schedule);
      EXPECT_EQ(run.digests[0], ToBytes(Blake3(all->span().subspan(16, length))));
      // Every whole warp copies all of its bytes once, 16 at a time.
      EXPECT_EQ(run.copies_started, uint64_t{3 * 32 * 8192} / 16);
      // At another alignment none does.
      EXPECT_EQ(
          RunBlake3(all->data(), {Root(8, length, 0)}, wanted_lanes, true, schedule).copies_started,
          0u);
      ++executed;
    }
    std::vector<RangeDescriptor> ranges;
    for (uint64_t i = 0; i < 33; ++i) ranges.push_back(Root(i * 16, 1000 + 128 * i, i));
    for (const bool is_sha384 : {false, true}) {
      const Outcome run = RunSha2(is_sha384, all->data(), ranges, true, schedule);
      EXPECT_GT(run.copies_started, 0u);
      for (size_t i = 0; i < ranges.size(); ++i) {
        EXPECT_EQ(run.digests[i],
                  ExpectedSha2(is_sha384,
                               all->span().subspan(ranges[i].offset_bytes, ranges[i].size_bytes)));
      }
      ++executed;
    }
  }
  EXPECT_EQ(executed, 4u * 4);
}

TEST(KernelsHostTest, Sha2AtEveryBoundaryAndAlignment) {
  const auto all = Pattern(3 * kMiB + 77 + 16);
  size_t executed = 0;
  for (const size_t length : kLengths) {
    if (length > 300000) continue;
    for (const size_t offset : kOffsets) {
      for (const bool is_sha384 : {false, true}) {
        const Bytes expected = ExpectedSha2(is_sha384, all->span().subspan(offset, length));
        for (const bool staged : {false, true}) {
          const Schedule& schedule = kSchedules[executed % std::size(kSchedules)];
          const Outcome run =
              RunSha2(is_sha384, all->data(), {Root(offset, length, 0)}, staged, schedule);
          ASSERT_EQ(run.digests[0], expected)
              << length << " bytes at " << offset << (staged ? " staged" : "");
          ++executed;
        }
      }
    }
  }
  EXPECT_EQ(executed, 36u * 8 * 2 * 2);
}

TEST(KernelsHostTest, BatchesOfMixedRangesKeepTheirPlaces) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  const auto all = Pattern(kMiB + 123);
  const auto uniform = [&](uint64_t most) {
    return std::uniform_int_distribution<uint64_t>(0, most)(random);
  };
  size_t executed = 0;
  for (const size_t count : {1u, 2u, 31u, 32u, 33u, 129u, 1000u}) {
    for (const bool aligned : {false, true}) {
      std::vector<RangeDescriptor> ranges;
      for (size_t i = 0; i < count; ++i) {
        const uint64_t size = uniform(i % 97 == 5 ? 400000 : i % 3 == 0 ? 20000 : 300);
        uint64_t offset = uniform(kMiB + 123 - size);
        if (aligned) offset -= offset % 16;
        ranges.push_back(Root(offset, size, i));
      }
      // Digests go where they belong whatever the order.
      std::shuffle(ranges.begin(), ranges.end(), random);
      const auto expect_all = [&](const Outcome& run, auto expected) {
        for (const RangeDescriptor& range : ranges) {
          ASSERT_EQ(run.digests[range.out],
                    expected(all->span().subspan(range.offset_bytes, range.size_bytes)))
              << range.size_bytes << " bytes at " << range.offset_bytes;
          ++executed;
        }
      };
      const Schedule& schedule = kSchedules[random() % std::size(kSchedules)];
      for (const uint64_t wanted_lanes : {uint64_t{0}, ~uint64_t{0}}) {
        expect_all(RunBlake3(all->data(), ranges, wanted_lanes, true, schedule),
                   [](ByteSpan bytes) { return ToBytes(Blake3(bytes)); });
      }
      for (const bool is_sha384 : {false, true}) {
        expect_all(RunSha2(is_sha384, all->data(), ranges, true, schedule),
                   [&](ByteSpan bytes) { return ExpectedSha2(is_sha384, bytes); });
      }
    }
  }
  EXPECT_EQ(executed, (1u + 2 + 31 + 32 + 33 + 129 + 1000) * 2 * 4);
}

TEST(KernelsHostTest, SubtreesAtAnyPlaceOfAnInput) {
  const auto all = Pattern(kMiB);
  const std::vector<RangeDescriptor> ranges = {
      {0, 1, 0, 0, 0, 0},
      {5, 1024, 77, 1, 0, 0},
      {1, 2048, 2, 2, 0, 0},
      {0, 3000, uint64_t{1} << 30, 3, 0, 0},
      {0, 33 * 1024, uint64_t{1} << 53, 4, 0, 0},
      {0, kMiB, 1024, 5, 0, 0},
      {0, kMiB - 500, 5 * 1024, 6, 0, 0},
      {0, 8192, 8, 7, 0, 0},
      {0, 8193, 16, 8, 0, 0},
  };
  size_t executed = 0;
  for (const uint64_t wanted_lanes : {uint64_t{0}, ~uint64_t{0}}) {
    const Outcome run = RunBlake3(all->data(), ranges, wanted_lanes, true, kSchedules[3]);
    for (const RangeDescriptor& range : ranges) {
      const ChainingValue expected = reference::Blake3Subtree(
          all->span().subspan(range.offset_bytes, range.size_bytes), range.first_chunk);
      EXPECT_EQ(run.digests[range.out], ToBytes(expected)) << range.size_bytes;
      ++executed;
    }
  }
  EXPECT_EQ(executed, ranges.size() * 2);
}

// As host memory is hashed: pieces of a range in launches of their own, one tree above them.
TEST(KernelsHostTest, PartsOfARangeMakeItsTree) {
  const size_t length = 40 * 8192 + 100;
  const auto all = Pattern(length);
  const std::vector<RangeDescriptor> whole = {Root(0, length, 0)};
  const Blake3Plan plan = PlanBlake3(whole, 0);
  ASSERT_EQ(plan.chunks_per_lane, 8u);
  ASSERT_EQ(plan.count(0), 41u);
  AlignedBytes nodes(41 * kNodeBytes, 0xDD);
  AlignedBytes out(kNodeBytes, 0xEE);
  // The last part is a single item, which must not become the root.
  const std::vector<std::pair<uint64_t, uint64_t>> parts = {{0, 33}, {33, 40}, {40, 41}};
  for (const auto& [first, last] : parts) {
    const uint64_t end = std::min<uint64_t>(last * 8192, length);
    const RangeDescriptor part = {
        first * 8192, end - first * 8192, first * 8, 0, kRangeIsRoot | kRangeIsPart, 0};
    const std::vector<uint64_t> first_item = {0, last - first};
    const Blake3LeafArguments leaf = {.base = all->data(),
                                      .ranges = &part,
                                      .first_item = first_item.data(),
                                      .item_count = last - first,
                                      .range_count = 1,
                                      .nodes = nodes.data() + first * kNodeBytes,
                                      .out = out.data()};
    RunWarps((leaf.item_count - 1) / kLanes + 1, kSchedules[1],
             [&](HostWarp& warp, uint64_t index) {
               Blake3LeafShared<8, true> shared;
               Blake3Leaves<8, true>(warp, leaf, index, shared);
             });
  }
  EXPECT_EQ(Cut(out.data(), 1, kNodeBytes)[0], Bytes(kNodeBytes, 0xEE));
  const Blake3TreeArguments tree = {.nodes = nodes.data(),
                                    .ranges = whole.data(),
                                    .first_node = plan.levels[0].data(),
                                    .first_group = plan.levels[1].data(),
                                    .group_count = plan.count(1),
                                    .range_count = 1,
                                    .out_nodes = nullptr,
                                    .out = out.data()};
  RunWarps(1, kSchedules[2], [&](HostWarp& warp, uint64_t index) {
    Blake3TreeShared shared;
    Blake3Tree(warp, tree, index, shared);
  });
  EXPECT_EQ(Cut(out.data(), 1, kNodeBytes)[0], ToBytes(reference::Blake3(all->span())));
}

TEST(KernelsHostTest, AFlippedBitOrASwapChangesTheDigest) {
  auto all = Pattern(300 * 1024);
  const std::vector<RangeDescriptor> ranges = {Root(0, 300 * 1024, 0)};
  const auto digest = [&] {
    return RunBlake3(all->data(), ranges, 0, true, kSchedules[1]).digests[0];
  };
  const Bytes right = digest();
  for (const size_t at : {size_t{0}, size_t{1023}, size_t{1024}, size_t{8192}, size_t{262143},
                          size_t{262144}, size_t{300 * 1024 - 1}}) {
    all->data()[at] ^= 0x40;
    EXPECT_NE(digest(), right) << at;
    all->data()[at] ^= 0x40;
  }
  std::swap_ranges(all->data(), all->data() + 8192, all->data() + 8192);
  EXPECT_NE(digest(), right);
}

// Every lane's bank in every access of eight lanes, which the hardware serves together.
TEST(KernelsHostTest, StagedRowsMeetNoBankTwice) {
  size_t executed = 0;
  for (uint32_t group = 0; group < kLanes; group += 8) {
    for (uint32_t piece = 0; piece < kPiecesPerStep; ++piece) {
      uint32_t read = 0;
      uint32_t written = 0;
      for (uint32_t i = 0; i < 8; ++i) {
        read |= 1u << (StagedOffset(group + i, piece) / kPieceBytes % 8);
        written |= 1u << (StagedOffset(group / 8 + 4 * piece, i) / kPieceBytes % 8);
      }
      EXPECT_EQ(read, 0xFFu);
      EXPECT_EQ(written, 0xFFu);
      ++executed;
    }
  }
  EXPECT_EQ(executed, 4u * 8);
}

TEST(KernelsHostTest, PlansCountWhatTheTreeHas) {
  const std::vector<RangeDescriptor> ranges = {Root(0, 0, 0), Root(0, 8192, 1), Root(0, 8193, 2),
                                               Root(0, 256 * 8192, 3), Root(0, 256 * 8192 + 1, 4)};
  const Blake3Plan plan = PlanBlake3(ranges, 0);
  using Level = std::vector<uint64_t>;
  ASSERT_EQ(plan.levels.size(), 3u);
  EXPECT_EQ(plan.levels[0], (Level{0, 1, 2, 4, 260, 517}));
  EXPECT_EQ(plan.levels[1], (Level{0, 0, 0, 1, 2, 4}));
  EXPECT_EQ(plan.levels[2], (Level{0, 0, 0, 0, 0, 1}));
  const Level& first = plan.levels[1];
  EXPECT_EQ(RangeOf(first.data(), 5, 0), 2u);
  EXPECT_EQ(RangeOf(first.data(), 5, 1), 3u);
  EXPECT_EQ(RangeOf(first.data(), 5, 2), 4u);
  EXPECT_EQ(RangeOf(first.data(), 5, 3), 4u);
  EXPECT_EQ(PlanBlake3(ranges, 517).chunks_per_lane, 8u);
  EXPECT_EQ(PlanBlake3(ranges, 518).chunks_per_lane, 1u);
}

}  // namespace
}  // namespace pavise::hash::cuda
