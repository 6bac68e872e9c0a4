#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "pavise/hash/cuda/tag_kernel.h"
#include "pavise/hash/cuda/tag_tile.h"
#include "pavise/hash/tag.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

// The tag kernel without a GPU: tag_tile.h as it is compiled for CUDA, on an emulated machine, and
// the thread block of tag.cu around it. What remains for a GPU to show are the instructions.
namespace pavise::hash::cuda {
namespace {

static_assert(kRows == kTagRows && kBlockBytes == kTagBlockBytes &&
              kBlocksPerRange == kTagBlocksPerRange && kRangeBytes == kTagRangeBytes);
static_assert(kTagKeyDeviceBytes >= kPackedRowsBytes + 32 && kTagKeyDeviceBytes % 16 == 0);

// Word `r` of a fragment, byte `i` of it.
uint8_t ByteOf(uint32_t word, uint32_t i) { return static_cast<uint8_t>(word >> (8 * i)); }

// A warp whose lanes act one after the other.
struct Emulated {
  template <typename T>
  struct Lanes {
    std::array<T, kLanes> value;
    T& operator[](uint32_t lane) { return value[lane]; }
    const T& operator[](uint32_t lane) const { return value[lane]; }
  };

  template <typename F>
  static void Each(F&& f) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) f(lane);
  }

  static Word4 Load(const uint8_t* p) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % kLoadBytes, 0u);
    return LoadKey(p);
  }
  static Word4 LoadKey(const uint8_t* p) {
    Word4 words;
    std::memcpy(&words, p, sizeof(words));
    return words;
  }

  // PTX ISA, "Warp-level matrix fragment for mma.m16n8k32" (.s8 / .u8). groupID = lane >> 2,
  // threadID_in_group = lane % 4.
  //   A: register i / 4, i = 0..15: row = groupID for i < 4 and 8 <= i < 12, else groupID + 8;
  //      column = threadID_in_group * 4 + (i & 3), + 16 for i >= 8
  //   B: register i / 4, i = 0..7: row = threadID_in_group * 4 + (i & 3), + 16 for i >= 4;
  //      column = groupID
  //   C: i = 0..3: row = groupID, + 8 for i >= 2; column = threadID_in_group * 2 + (i & 1)
  template <typename Sums, typename A, typename B>
  static void Mma(Sums& sums, const A& a, const B& b) {
    int32_t matrix_a[16][32];
    int32_t matrix_b[32][8];
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const uint32_t group = lane >> 2;
      const uint32_t thread = lane % 4;
      for (uint32_t i = 0; i < 16; ++i) {
        const uint32_t row = i < 4 || (i >= 8 && i < 12) ? group : group + 8;
        const uint32_t column = thread * 4 + (i & 3) + (i >= 8 ? 16 : 0);
        matrix_a[row][column] = static_cast<int8_t>(ByteOf(a[lane].word[i / 4], i % 4));
      }
      for (uint32_t i = 0; i < 8; ++i) {
        const uint32_t row = thread * 4 + (i & 3) + (i >= 4 ? 16 : 0);
        matrix_b[row][group] = ByteOf(b[lane].word[i / 4], i % 4);
      }
    }
    for (uint32_t lane = 0; lane < 32; ++lane) {
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = (lane >> 2) + (i >= 2 ? 8 : 0);
        const uint32_t column = lane % 4 * 2 + (i & 1);
        int64_t sum = static_cast<int32_t>(sums[lane][i]);
        for (uint32_t k = 0; k < 32; ++k) sum += matrix_a[row][k] * matrix_b[k][column];
        EXPECT_EQ(sum, static_cast<int32_t>(sum)) << "overflow";
        sums[lane][i] = static_cast<uint32_t>(sum);
      }
    }
  }

  static void Add(int32_t* shared, int32_t value) { *shared += value; }
};

// mma.m8n8k16 (PTX ISA): A row = groupID, column = threadID_in_group * 4 + i; B row =
// threadID_in_group * 4 + i, column = groupID; C row = groupID, column = threadID_in_group * 2 + i.
struct EmulatedTuring : Emulated {
  template <typename Sums, typename A, typename B>
  static void Mma(Sums& sums, const A& a, const B& b) {
    Quarter(sums, a, b, 0, 0, 0);
    Quarter(sums, a, b, 0, 2, 1);
    Quarter(sums, a, b, 2, 1, 0);
    Quarter(sums, a, b, 2, 3, 1);
  }
  template <typename Sums, typename A, typename B>
  static void Quarter(Sums& sums, const A& a, const B& b, uint32_t c, uint32_t ar, uint32_t br) {
    int32_t matrix_a[8][16];
    int32_t matrix_b[16][8];
    for (uint32_t lane = 0; lane < 32; ++lane) {
      for (uint32_t i = 0; i < 4; ++i) {
        matrix_a[lane >> 2][lane % 4 * 4 + i] = static_cast<int8_t>(ByteOf(a[lane].word[ar], i));
        matrix_b[lane % 4 * 4 + i][lane >> 2] = ByteOf(b[lane].word[br], i);
      }
    }
    for (uint32_t lane = 0; lane < 32; ++lane) {
      for (uint32_t i = 0; i < 2; ++i) {
        int32_t sum = static_cast<int32_t>(sums[lane][c + i]);
        for (uint32_t k = 0; k < 16; ++k) {
          sum += matrix_a[lane >> 2][k] * matrix_b[k][lane % 4 * 2 + i];
        }
        sums[lane][c + i] = static_cast<uint32_t>(sum);
      }
    }
  }
};

// TagKernel of tag.cu for one thread block. Writes the tags of its ranges.
template <typename Machine, uint32_t kKeys>
void RunThreadBlock(const TagLaunch& launch, const TileShape& shape, uint64_t ranges,
                    uint64_t thread_block, std::vector<RangeTag>& tags) {
  std::vector<Word4> room(shape.slice_bytes() / sizeof(Word4));
  auto* rows = reinterpret_cast<uint8_t*>(room.data());
  std::vector<int32_t> sums(shape.sums_bytes() / 4, 0);
  const uint64_t first_range = thread_block * shape.ranges();
  std::vector<TagWarp<Machine, kKeys>> warps;
  for (uint32_t w = 0; w < shape.warps; ++w) {
    warps.emplace_back(launch.data, launch.size_bytes, first_range + w / shape.splits, shape.splits,
                       w % shape.splits);
  }
  const uint32_t key_bytes = shape.slice_windows * kKeyWindowBytes;
  for (uint32_t slice = 0; slice < shape.slices(); ++slice) {
    for (uint32_t key = 0; key < kKeys; ++key) {
      std::memcpy(rows + key * key_bytes,
                  launch.keys + key * kTagKeyDeviceBytes + slice * key_bytes, key_bytes);
    }
    for (auto& warp : warps) warp.AddSlice(rows, slice, shape.slice_windows);
  }
  for (uint32_t w = 0; w < shape.warps; ++w) warps[w].Store(sums.data(), w / shape.splits);
  for (uint32_t item = 0; item < shape.ranges() * kKeys; ++item) {
    const uint64_t range = first_range + item / kKeys;
    if (range >= ranges) continue;
    const uint32_t key = item % kKeys;
    uint32_t blake3_key[8];
    std::memcpy(blake3_key, launch.keys + key * kTagKeyDeviceBytes + kPackedRowsBytes, 32);
    uint32_t tag[8];
    TagOfSums(
        reinterpret_cast<const uint32_t*>(sums.data()) + SumIndex(kKeys, item / kKeys, key, 0, 0),
        BlocksOfRange(launch.size_bytes, range), blake3_key, launch.first_range + range, tag);
    std::memcpy(tags[key * ranges + range].data(), tag, 32);
  }
}

template <typename Machine>
std::vector<RangeTag> EmulatedTags(const std::vector<const TagKey*>& keys, ByteSpan bytes,
                                   uint64_t first_range, const TileShape& shape) {
  Bytes packed(keys.size() * kTagKeyDeviceBytes);
  for (size_t k = 0; k < keys.size(); ++k) {
    PackTagKey(keys[k]->rows(), keys[k]->blake3_key(),
               std::span<uint8_t, kTagKeyDeviceBytes>(&packed[k * kTagKeyDeviceBytes],
                                                      kTagKeyDeviceBytes));
  }
  const uint64_t ranges = TagRangeCount(bytes.size());
  std::vector<RangeTag> tags(keys.size() * ranges);
  const TagLaunch launch = {.data = bytes.data(),
                            .size_bytes = bytes.size(),
                            .first_range = first_range,
                            .keys = packed.data(),
                            .key_count = static_cast<uint32_t>(keys.size())};
  for (uint64_t block = 0; block * shape.ranges() < ranges; ++block) {
    if (keys.size() == 1) {
      RunThreadBlock<Machine, 1>(launch, shape, ranges, block, tags);
    } else {
      RunThreadBlock<Machine, 2>(launch, shape, ranges, block, tags);
    }
  }
  return tags;
}

std::vector<RangeTag> ReferenceTags(const std::vector<const TagKey*>& keys, ByteSpan bytes,
                                    uint64_t first_range) {
  std::vector<RangeTag> tags;
  for (const TagKey* key : keys) {
    const auto more = reference::TagRanges(*key, bytes, first_range);
    tags.insert(tags.end(), more.begin(), more.end());
  }
  return tags;
}

// Bytes that begin `misalignment` after a multiple of 16.
struct Data {
  Data(size_t size_bytes, size_t misalignment) : room(size_bytes + 64) {
    for (size_t i = 0; i < room.size(); ++i) room[i] = static_cast<uint8_t>(i % 251 ^ (i >> 16));
    const size_t at = reinterpret_cast<uintptr_t>(room.data()) % 16;
    bytes = ByteSpan(room).subspan((16 - at) % 16 + misalignment, size_bytes);
  }
  Bytes room;
  ByteSpan bytes;
};

TagKey Key(uint64_t size_bytes, uint64_t pass) {
  const std::array<uint8_t, 32> secret = {7};
  return TagKey::Derive(secret, pass, size_bytes);
}

TEST(TagTileTest, PackedRowsAreAPermutation) {
  std::vector<bool> taken(kPackedRowsBytes, false);
  for (uint32_t row = 0; row < kRows; ++row) {
    for (uint32_t k = 0; k < kBlockBytes; ++k) {
      const uint32_t at = PackedRowOffset(row, k);
      ASSERT_LT(at, kPackedRowsBytes);
      ASSERT_FALSE(taken[at]);
      taken[at] = true;
    }
  }
}

TEST(TagTileTest, WindowsAreEachTakenOnceAndInTheirSlice) {
  for (uint32_t splits : {1u, 2u, 4u}) {
    for (uint32_t slice_windows : {16u, 32u}) {
      std::set<uint32_t> taken;
      const uint32_t own = slice_windows / splits;
      for (uint32_t split = 0; split < splits; ++split) {
        for (uint32_t i = 0; i < kWindowsPerBlock / splits; ++i) {
          const uint32_t window = WindowOf(i, splits, split);
          EXPECT_EQ(window / slice_windows, i / own);
          EXPECT_TRUE(taken.insert(window).second);
        }
      }
      EXPECT_EQ(taken.size(), kWindowsPerBlock);
      EXPECT_EQ(*taken.rbegin(), kWindowsPerBlock - 1);
    }
  }
}

TEST(TagTileTest, EveryDeviceGetsAShapeThatFits) {
  size_t executed = 0;
  // 7.5, 8.6 and 8.9, 8.0, 9.0, and the 48 KiB of every device.
  for (uint32_t limit : {48u << 10, 64u << 10, 99u << 10, 163u << 10, 227u << 10}) {
    for (uint32_t keys : {1u, 2u}) {
      for (uint64_t ranges : {1ull, 16ull, 600ull, 2000ull, 5000ull, 1ull << 44}) {
        const TileShape shape = ChooseTileShape(ranges, keys, limit, 132);
        EXPECT_EQ(shape.keys, keys);
        ASSERT_GE(shape.warps, 1u);
        EXPECT_LE(shape.warps, 16u);
        EXPECT_EQ(shape.warps % shape.splits, 0u);
        EXPECT_LE(shape.shared_bytes(), limit);
        EXPECT_EQ(shape.slice_windows % (shape.splits * kWindowsInFlight), 0u);
        EXPECT_EQ(kWindowsPerBlock % shape.slice_windows, 0u);
        // The hashing gives each range and key a thread.
        EXPECT_LE(shape.ranges() * keys, shape.warps * kLanes);
        ++executed;
      }
    }
  }
  EXPECT_EQ(executed, 60u);
  EXPECT_EQ(ChooseTileShape(1 << 20, 1, 227 << 10, 132).splits, 1u);
  EXPECT_EQ(ChooseTileShape(1, 1, 227 << 10, 132).splits, 4u);
  EXPECT_EQ(ChooseTileShape(1, 1, 1 << 10, 132).warps, 0u);
}

TEST(TagTileTest, UnalignedLoads) {
  std::array<uint8_t, 64> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(37 * i + 1);
  for (size_t at = 0; at < 32; ++at) {
    // In a room of its own, so that a sanitizer sees what is read outside.
    auto room = std::make_unique<uint8_t[]>(at + 16);
    std::copy_n(bytes.begin(), at + 16, room.get());
    const Word4 words = LoadUnaligned(room.get() + at);
    EXPECT_EQ(std::memcmp(&words, &bytes[at], 16), 0) << at;
  }
}

template <typename Machine>
class TagKernelTest : public ::testing::Test {};
using Machines = ::testing::Types<Emulated, EmulatedTuring>;
TYPED_TEST_SUITE(TagKernelTest, Machines);

TYPED_TEST(TagKernelTest, OneRangeAtEveryBoundaryAndAlignment) {
  constexpr uint32_t kBlock = kBlockBytes;
  struct Case {
    size_t size_bytes;
    size_t misalignment;
  };
  const std::vector<Case> cases = {{1, 0},
                                   {15, 0},
                                   {16, 0},
                                   {17, 1},
                                   {63, 2},
                                   {64, 0},
                                   {65, 3},
                                   {kBlock - 1, 0},
                                   {kBlock, 0},
                                   {kBlock + 1, 5},
                                   {8 * kBlock, 0},
                                   {9 * kBlock, 8},
                                   {kRangeBytes - 1, 0},
                                   {kRangeBytes, 0},
                                   {kRangeBytes, 13}};
  size_t executed = 0;
  for (const auto& [size, misalignment] : cases) {
    const Data data(size, misalignment);
    const TagKey key = Key(size, 1);
    const TileShape shape = {1, 1, 1, 32};
    ASSERT_EQ(EmulatedTags<TypeParam>({&key}, data.bytes, 3, shape),
              ReferenceTags({&key}, data.bytes, 3))
        << size << " at " << misalignment;
    ++executed;
  }
  EXPECT_EQ(executed, 15u);
}

TYPED_TEST(TagKernelTest, SeveralRangesKeysAndSplits) {
  constexpr size_t kSize = 2 * kRangeBytes + 3 * kBlockBytes + 77;
  const Data data(kSize, 0);
  const TagKey first = Key(kSize, 1);
  const TagKey second = Key(kSize, 2);
  const auto expected = ReferenceTags({&first, &second}, data.bytes, 0);
  const auto expected_first = ReferenceTags({&first}, data.bytes, 0);
  for (const TileShape& shape :
       {TileShape{2, 2, 1, 16}, TileShape{2, 4, 2, 32}, TileShape{2, 16, 4, 16}}) {
    EXPECT_EQ(EmulatedTags<TypeParam>({&first, &second}, data.bytes, 0, shape), expected)
        << shape.warps << " warps, " << shape.splits << " splits";
  }
  for (const TileShape& shape : {TileShape{1, 8, 1, 32}, TileShape{1, 8, 4, 32}}) {
    EXPECT_EQ(EmulatedTags<TypeParam>({&first}, data.bytes, 0, shape), expected_first)
        << shape.warps << " warps, " << shape.splits << " splits";
  }
}

TYPED_TEST(TagKernelTest, AFlippedBitChangesTheTag) {
  Data data(kRangeBytes, 0);
  const TagKey key = Key(kRangeBytes, 1);
  const TileShape shape = {1, 1, 1, 32};
  const auto before = EmulatedTags<TypeParam>({&key}, data.bytes, 0, shape);
  auto* bytes = const_cast<uint8_t*>(data.bytes.data());
  for (size_t at : {size_t{0}, size_t{kBlockBytes} * 7 + 33333, size_t{kRangeBytes} - 1}) {
    bytes[at] ^= 0x80;
    EXPECT_NE(EmulatedTags<TypeParam>({&key}, data.bytes, 0, shape), before) << at;
    bytes[at] ^= 0x80;
  }
}

}  // namespace
}  // namespace pavise::hash::cuda
