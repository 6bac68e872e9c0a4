#include "pavise/hash/tag.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/hash/cpu/range_tagger.h"
#include "pavise/hash/testing/tag_key.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash {
namespace {

using internal::BestTagTarget;
using internal::RangeTagger;
using internal::TagTarget;

constexpr size_t kBlock = kTagBlockBytes;
constexpr size_t kRange = kTagRangeBytes;
constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();

// Repeats at no power of two, so that exchanged blocks differ.
Bytes Repeating(size_t size_bytes) {
  Bytes bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<uint8_t>(i % 251);
  return bytes;
}

std::array<uint8_t, 32> Secret(uint8_t first = 0) {
  std::array<uint8_t, 32> secret;
  for (size_t i = 0; i < secret.size(); ++i) secret[i] = static_cast<uint8_t>(first + i);
  return secret;
}

TagKey KeyFor(uint64_t total_size_bytes, uint64_t pass = 1, uint8_t secret = 0) {
  return TagKey::Derive(Secret(secret), pass, total_size_bytes);
}

// The whole object's tags.
std::vector<RangeTag> Tags(const TagKey& key, ByteSpan bytes) {
  return TagRanges(key, bytes, 0).value();
}

std::vector<TagTarget> Targets() {
  std::vector<TagTarget> targets = {TagTarget::kPlain};
  if (BestTagTarget() != TagTarget::kPlain) targets.push_back(BestTagTarget());
  return targets;
}

// Which ranges' tags differ.
std::vector<size_t> Different(const std::vector<RangeTag>& a, const std::vector<RangeTag>& b) {
  EXPECT_EQ(a.size(), b.size());
  std::vector<size_t> ranges;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (a[i] != b[i]) ranges.push_back(i);
  }
  return ranges;
}

// ---- The key ----

// What `b3sum --derive-key "Pavise 2026 tag rows v1" --length 1048576` and the same with "... key
// v1" and 32 bytes make of 00..1f || 7 || 3,145,733, and tags that a program of its own computed.
TEST(TagTest, VectorsOfAnIndependentImplementation) {
  constexpr uint64_t kSize = 3 * kRange + 5;
  const TagKey key = TagKey::Derive(Secret(), 7, kSize);
  const ByteSpan rows(reinterpret_cast<const uint8_t*>(key.rows().data()), key.rows().size());
  ASSERT_EQ(rows.size(), kTagRows * kTagBlockBytes);
  EXPECT_EQ(ToHex(rows.first(32)),
            "707a0e60371ee9717253cadf755891ca26dfa8ad9147b44eb02f81bb6d42639c");
  EXPECT_EQ(ToHex(rows.last(32)),
            "6326bb46f551596e3b400e3a4db5d47901f009aaed317982f56bdd42632d060b");
  EXPECT_EQ(ToHex(reference::Blake3(rows)),
            "591440b686895badd7c1a025f2bb64d9de0d26c6322edf11fad83d04a5de4f2c");
  EXPECT_EQ(ToHex(key.blake3_key()),
            "142d5e5a9d2be09bf0652b255a7db33477f89519b03bcbe618c24de41c171cc3");
  const std::vector<std::string> expected = {
      "3505c8e7011217027381d35b4a88b067b36e1f842036f6d868a7fc4705e7e9f3",
      "cd1d78aeaf5287bcb20d9c12cefc94966884e75c6a736bba7b75a2a5bf6ce350",
      "c6e37f5efe5bbbaed99353f1be6b1d07751b7250707ec7b741bab110451e514e",
      "3ff34754f18425d73db98e63b370ffbc8da2e9a96b3c3aa47310ebf29ffc684b"};
  const Bytes bytes = Repeating(kSize);
  std::vector<std::string> tags;
  for (const RangeTag& tag : reference::TagRanges(key, bytes, 0)) tags.push_back(ToHex(tag));
  EXPECT_EQ(tags, expected);
  EXPECT_EQ(Tags(key, bytes), reference::TagRanges(key, bytes, 0));
}

TEST(TagTest, SecretPassAndLengthEachMakeAnotherKey) {
  std::set<std::string> keys;
  std::set<std::string> rows;
  const auto add = [&](const TagKey& key) {
    keys.insert(ToHex(key.blake3_key()));
    rows.insert(ToHex({reinterpret_cast<const uint8_t*>(key.rows().data()), 64}));
  };
  add(KeyFor(0, 0));
  add(KeyFor(1, 0));
  add(KeyFor(0, 1));
  add(KeyFor(1, 1));
  add(KeyFor(256, 0));  // 1, a byte further
  add(KeyFor(0, uint64_t{1} << 32));
  add(KeyFor(kHuge, kHuge));
  add(KeyFor(0, 0, 1));
  EXPECT_EQ(keys.size(), 8u);
  EXPECT_EQ(rows.size(), 8u);
  // The same again is the same key.
  add(KeyFor(1, 1));
  EXPECT_EQ(keys.size(), 8u);
}

// ---- The kernels ----

TEST(TagTest, EveryTargetAtEveryBoundary) {
  const std::vector<size_t> sizes = {
      1,          63,     64,         65,         1023,           1024,       1025,
      kBlock - 1, kBlock, kBlock + 1, 3 * kBlock, 4 * kBlock + 1, kRange - 1, kRange};
  const Bytes all = Repeating(kRange + 64);
  size_t executed = 0;
  for (size_t size : sizes) {
    const TagKey first = KeyFor(size, 1);
    const TagKey second = KeyFor(size, 2);
    const TagKey* const keys[] = {&first, &second};
    for (size_t offset : {0u, 1u, 63u}) {
      const ByteSpan bytes = ByteSpan(all).subspan(offset, size);
      const std::vector<RangeTag> expected = {reference::TagRanges(first, bytes, 9)[0],
                                              reference::TagRanges(second, bytes, 9)[0]};
      for (TagTarget target : Targets()) {
        ASSERT_EQ(RangeTagger({keys, 1}, target).Tag(bytes, 9)[0], expected[0])
            << size << " at " << offset << ", " << TagTargetName(target);
        const auto both = RangeTagger(keys, target).Tag(bytes, 9);
        ASSERT_EQ(both[0], expected[0]);
        ASSERT_EQ(both[1], expected[1]);
        ++executed;
      }
    }
  }
  EXPECT_EQ(executed, 14 * 3 * Targets().size());
  if (Targets().size() == 1) GTEST_SKIP() << "this CPU has no AVX-512 VNNI: plain code alone ran";
}

// The largest sums there are: nothing may wrap or saturate on the way.
TEST(TagTest, ExtremesAreExact) {
  struct Extreme {
    uint8_t row;
    uint8_t data;
  };
  for (const auto& [row, data] : std::vector<Extreme>{
           {0x80, 255}, {0x7F, 255}, {0xFF, 255}, {0x80, 1}, {0x80, 0}, {0, 255}}) {
    const TagKey key =
        TagKeyForTest::Make(Bytes(kTagRows * kTagBlockBytes, row), Bytes(32, 9), kRange);
    const Bytes bytes(kRange, data);
    const RangeTag expected = reference::TagRanges(key, bytes, 0)[0];
    const TagKey* const keys[] = {&key};
    for (TagTarget target : Targets()) {
      EXPECT_EQ(RangeTagger(keys, target).Tag(bytes, 0)[0], expected)
          << int{row} << " x " << int{data} << ", " << TagTargetName(target);
    }
  }
  // Half of a row at each extreme: what a kernel's partial sums may reach.
  Bytes rows(kTagRows * kTagBlockBytes, 0x80);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i % kTagBlockBytes >= kTagBlockBytes / 2) rows[i] = 0x7F;
  }
  const TagKey key = TagKeyForTest::Make(rows, Bytes(32, 9), kRange);
  const Bytes bytes(kRange, 255);
  EXPECT_EQ(Tags(key, bytes), reference::TagRanges(key, bytes, 0));
}

TEST(TagTest, SeveralRangesAndATail) {
  const std::vector<size_t> sizes = {
      0, 1, kRange - 1, kRange, kRange + 1, 2 * kRange + kBlock, 3 * kRange + 5 * kBlock + 77};
  const Bytes all = Repeating(sizes.back() + 3);
  size_t executed = 0;
  for (size_t size : sizes) {
    for (size_t offset : {0u, 3u}) {
      const ByteSpan bytes = ByteSpan(all).subspan(offset, size);
      const TagKey key = KeyFor(size);
      const std::vector<RangeTag> expected = reference::TagRanges(key, bytes, 0);
      ASSERT_EQ(expected.size(), TagRangeCount(size));
      EXPECT_EQ(Tags(key, bytes), expected) << size;
      // Range by range, and from the second on.
      for (size_t i = 0; i < expected.size(); ++i) {
        const ByteSpan range = bytes.subspan(i * kRange, std::min(kRange, size - i * kRange));
        EXPECT_EQ(TagRanges(key, range, i)->at(0), expected[i]) << size << " range " << i;
      }
      if (expected.size() > 1) {
        EXPECT_EQ(*TagRanges(key, bytes.subspan(kRange), 1),
                  std::vector<RangeTag>(expected.begin() + 1, expected.end()));
      }
      ++executed;
    }
  }
  EXPECT_EQ(executed, 14u);
}

TEST(TagTest, RandomBytesUnderRandomKeys) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  Bytes bytes(kRange);
  for (int i = 0; i < 4; ++i) {
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    const size_t size = std::uniform_int_distribution<size_t>(1, kRange)(random);
    const ByteSpan range = ByteSpan(bytes).first(size);
    const TagKey key = KeyFor(size, random(), static_cast<uint8_t>(random()));
    EXPECT_EQ(Tags(key, range), reference::TagRanges(key, range, 0)) << size;
  }
}

TEST(TagTest, RangeCounts) {
  EXPECT_EQ(TagRangeCount(0), 0u);
  EXPECT_EQ(TagRangeCount(1), 1u);
  EXPECT_EQ(TagRangeCount(kRange), 1u);
  EXPECT_EQ(TagRangeCount(kRange + 1), 2u);
  EXPECT_EQ(TagRangeCount(kHuge), uint64_t{1} << 44);
}

// ---- What a tag notices ----

class TamperTest : public ::testing::Test {
 protected:
  static constexpr size_t kSize = 3 * kRange + 2 * kBlock + 100;
  // The ranges whose tags change.
  std::vector<size_t> Changed() const { return Different(Tags(key_, bytes_), before_); }

  Bytes bytes_ = Repeating(kSize);
  TagKey key_ = KeyFor(kSize);
  std::vector<RangeTag> before_ = Tags(key_, bytes_);
};

TEST_F(TamperTest, AFlippedBitChangesTheTagOfItsRangeAlone) {
  std::set<size_t> positions;
  for (size_t part : {kBlock, kRange, kSize}) {
    for (size_t first : {size_t{0}, kRange, 3 * kRange, kSize - part}) {
      for (size_t at : {first, first + part / 2, first + part - 1}) {
        if (at < kSize) positions.insert(at);
      }
    }
  }
  size_t executed = 0;
  for (size_t at : positions) {
    for (int bit = 0; bit < 8; ++bit) {
      bytes_[at] ^= static_cast<uint8_t>(1 << bit);
      const size_t range = at / kRange;
      const size_t begin = range * kRange;
      const ByteSpan bytes = ByteSpan(bytes_).subspan(begin, std::min(kRange, kSize - begin));
      EXPECT_NE(TagRanges(key_, bytes, range)->at(0), before_[range])
          << "bit " << bit << " at " << at;
      if (bit == 3) {
        EXPECT_EQ(Changed(), std::vector<size_t>{range}) << at;
      }
      bytes_[at] ^= static_cast<uint8_t>(1 << bit);
      ++executed;
    }
  }
  EXPECT_EQ(executed, positions.size() * 8);
  EXPECT_GE(positions.size(), 16u);
  EXPECT_EQ(Changed(), std::vector<size_t>{});
}

TEST_F(TamperTest, ExchangedBlocks) {
  const auto swap_blocks = [&](size_t a, size_t b) {
    std::swap_ranges(bytes_.begin() + static_cast<ptrdiff_t>(a * kBlock),
                     bytes_.begin() + static_cast<ptrdiff_t>((a + 1) * kBlock),
                     bytes_.begin() + static_cast<ptrdiff_t>(b * kBlock));
  };
  swap_blocks(0, 1);  // of one range
  EXPECT_EQ(Changed(), std::vector<size_t>{0});
  swap_blocks(0, 1);
  swap_blocks(5, 21);  // at the same place of two ranges
  EXPECT_EQ(Changed(), (std::vector<size_t>{0, 1}));
  swap_blocks(5, 21);
  swap_blocks(15, 16);  // across a boundary
  EXPECT_EQ(Changed(), (std::vector<size_t>{0, 1}));
  swap_blocks(15, 16);
  swap_blocks(48, 49);  // of the last range
  EXPECT_EQ(Changed(), std::vector<size_t>{3});
}

TEST_F(TamperTest, ExchangedRanges) {
  std::swap_ranges(bytes_.begin(), bytes_.begin() + kRange, bytes_.begin() + 2 * kRange);
  EXPECT_EQ(Changed(), (std::vector<size_t>{0, 2}));
  // The tag of a range at another place is not that place's tag either: not even of equal bytes.
  const TagKey key = KeyFor(4 * kRange);
  const auto tags = Tags(key, Bytes(4 * kRange, 0x55));
  EXPECT_EQ(std::set<RangeTag>(tags.begin(), tags.end()).size(), 4u);
}

TEST_F(TamperTest, ABlockOfAnotherObject) {
  std::fill_n(bytes_.begin() + 17 * kBlock, kBlock, uint8_t{0});
  EXPECT_EQ(Changed(), std::vector<size_t>{1});
}

TEST_F(TamperTest, AnotherLengthChangesEveryTag) {
  const std::vector<size_t> all = {0, 1, 2, 3};
  const Bytes original = bytes_;
  // Truncated by a byte, and extended by zeros, which is what blocks are padded with.
  for (size_t size : {kSize - 1, kSize + 1}) {
    bytes_.resize(size, 0);
    EXPECT_EQ(Different(Tags(KeyFor(size), bytes_), before_), all) << size;
    bytes_ = original;
  }
  // To the end of the block: the sums' bytes are those of before.
  bytes_.resize(3 * kRange + 3 * kBlock, 0);
  EXPECT_EQ(Different(Tags(KeyFor(bytes_.size()), bytes_), before_), all);
  // Under the right length's key other lengths are refused.
  EXPECT_FALSE(TagRanges(key_, bytes_, 0).ok());
}

TEST_F(TamperTest, TruncatedByWholeRangesOrExtendedByZeros) {
  const Bytes original = bytes_;
  bytes_.resize(2 * kRange);
  const auto truncated = Tags(KeyFor(bytes_.size()), bytes_);
  for (size_t i = 0; i < truncated.size(); ++i) EXPECT_NE(truncated[i], before_[i]);
  bytes_ = original;
  bytes_.resize(5 * kRange, 0);
  const auto extended = Tags(KeyFor(bytes_.size()), bytes_);
  for (size_t i = 0; i < before_.size(); ++i) EXPECT_NE(extended[i], before_[i]);
}

TEST_F(TamperTest, WrongSecretWrongPass) {
  const std::vector<size_t> all = {0, 1, 2, 3};
  EXPECT_EQ(Different(Tags(KeyFor(kSize, 1, 1), bytes_), before_), all);
  EXPECT_EQ(Different(Tags(KeyFor(kSize, 2), bytes_), before_), all);
  EXPECT_EQ(Different(Tags(KeyFor(kSize, 1), bytes_), before_), std::vector<size_t>{});
  // Each half of the key alone.
  const TagKey other = KeyFor(kSize, 2);
  const auto bytes_of = [](auto span) { return Bytes(span.begin(), span.end()); };
  EXPECT_EQ(Different(Tags(TagKeyForTest::Make(bytes_of(other.rows()), bytes_of(key_.blake3_key()),
                                               kSize),
                           bytes_),
                      before_),
            all);
  EXPECT_EQ(Different(Tags(TagKeyForTest::Make(bytes_of(key_.rows()), bytes_of(other.blake3_key()),
                                               kSize),
                           bytes_),
                      before_),
            all);
}

// Under a known key a collision is a matter of arithmetic: why a tag is no digest. With 16 rows it
// takes an integer relation among a few dozen columns; with rows of this test's choice it can be
// seen.
TEST(TagTest, WhoKnowsTheKeyFindsCollisions) {
  Bytes rows(kTagRows * kTagBlockBytes, 0);
  for (size_t r = 0; r < kTagRows; ++r) {
    rows[r * kTagBlockBytes] = static_cast<uint8_t>(r);
    rows[r * kTagBlockBytes + 1] = static_cast<uint8_t>(2 * r);
  }
  const TagKey key = TagKeyForTest::Make(rows, Bytes(32, 9), 2);
  EXPECT_EQ(Tags(key, Bytes{2, 0}), Tags(key, Bytes{0, 1}));
}

// The bound of 2^-8 a row is nearly reached by blocks that differ in one byte by one, and never
// exceeded: counted over random keys of one byte (the other key bytes cancel).
TEST(TagTest, OneOf256KeyBytesAtMostHidesADifference) {
  for (int difference = -255; difference <= 255; ++difference) {
    if (difference == 0) continue;
    // How many key bytes give each possible difference of the sums.
    std::vector<int> count(2 * 255 * 128 + 1, 0);
    for (int key_byte = -128; key_byte <= 127; ++key_byte) {
      ++count[static_cast<size_t>(key_byte * difference + 255 * 128)];
    }
    EXPECT_EQ(*std::max_element(count.begin(), count.end()), 1) << difference;
  }
}

// ---- What is refused ----

TEST(TagTest, RefusesBytesThatAreNoWholeRanges) {
  constexpr uint64_t kSize = 2 * kRange + 10;
  struct Call {
    uint64_t size_bytes;
    uint64_t first_range;
  };
  const std::vector<Call> bad = {
      {kSize - 1, 0},   // the last byte is missing
      {kSize + 1, 0},   // one too many
      {kRange - 1, 0},  // a part of a range
      {kRange + 1, 0},  //
      {3 * kRange, 0},  // beyond the end
      {kRange, 2},      // the last range is shorter
      {9, 2},           //
      {11, 2},          //
      {10, 1},          // the tail at another place
      {10, 3},          // after the end
      {0, 4},           //
      {1, kHuge},       //
      {kRange, kHuge / kRange},
      {kHuge, 0},
      {kHuge - 10, 1},
  };
  const TagKey key = KeyFor(kSize);
  const Bytes bytes(3 * kRange);
  size_t executed = 0;
  for (const auto& [size_bytes, first_range] : bad) {
    EXPECT_EQ(TagRangesCovered(kSize, size_bytes, first_range).status().code(),
              absl::StatusCode::kInvalidArgument)
        << size_bytes << " from range " << first_range;
    if (size_bytes <= bytes.size()) {
      EXPECT_EQ(TagRanges(key, ByteSpan(bytes).first(size_bytes), first_range).status().code(),
                absl::StatusCode::kInvalidArgument);
    }
    ++executed;
  }
  EXPECT_EQ(executed, 15u);
  const std::vector<Call> good = {{kSize, 0},  {2 * kRange, 0}, {kRange, 0},
                                  {kRange, 1}, {10, 2},         {kRange + 10, 1},
                                  {0, 0},      {0, 1},          {0, 3}};
  const std::vector<uint64_t> counts = {3, 2, 1, 1, 1, 2, 0, 0, 0};
  for (size_t i = 0; i < good.size(); ++i) {
    EXPECT_EQ(TagRangesCovered(kSize, good[i].size_bytes, good[i].first_range).value(), counts[i])
        << i;
  }
  EXPECT_EQ(TagRangesCovered(0, 0, 0).value(), 0u);
  EXPECT_FALSE(TagRangesCovered(0, 1, 0).ok());
  EXPECT_FALSE(TagRangesCovered(0, 0, 1).ok());
  EXPECT_EQ(TagRangesCovered(kHuge, kHuge, 0).value(), uint64_t{1} << 44);
  EXPECT_EQ(TagRangesCovered(kHuge, 0, uint64_t{1} << 44).value(), 0u);
  EXPECT_FALSE(TagRangesCovered(kHuge, 1, uint64_t{1} << 44).ok());
}

// ---- The CPU as a device ----

struct Fixture {
  explicit Fixture(unsigned threads) : device(NewCpuDevice(threads)) {
    stream = device->NewStream().value();
  }
  absl::StatusOr<std::vector<RangeTag>> Tag(const std::vector<const TagKey*>& keys,
                                            const Buffer& buffer, Range range, uint64_t first_range,
                                            size_t out_count) {
    std::vector<RangeTag> out(out_count);
    PAVISE_RETURN_IF_ERROR(device->Tag(keys, buffer, range, first_range, *stream, out));
    PAVISE_RETURN_IF_ERROR(stream->Wait());
    return out;
  }
  std::unique_ptr<Device> device;
  std::unique_ptr<Stream> stream;
};

TEST(CpuDeviceTagTest, OneAndTwoKeysOnAnyNumberOfThreads) {
  constexpr size_t kSize = 5 * kRange + 3 * kBlock + 1;
  const Bytes all = Repeating(kSize + 7);
  const ByteSpan object = ByteSpan(all).subspan(7);
  const TagKey first = KeyFor(kSize, 1);
  const TagKey second = KeyFor(kSize, 2);
  std::vector<RangeTag> expected = reference::TagRanges(first, object, 0);
  const auto under_second = reference::TagRanges(second, object, 0);
  const auto both = [&] {
    auto joined = expected;
    joined.insert(joined.end(), under_second.begin(), under_second.end());
    return joined;
  }();
  for (unsigned threads : {1u, 2u, 5u}) {
    Fixture fixture(threads);
    ASSERT_TRUE(fixture.device->supports_tags());
    const auto buffer = WrapHostMemory(*fixture.device, all);
    EXPECT_EQ(*fixture.Tag({&first}, *buffer, {7, kSize}, 0, 6), expected);
    EXPECT_EQ(*fixture.Tag({&first, &second}, *buffer, {7, kSize}, 0, 12), both);
    // A part of it.
    EXPECT_EQ(*fixture.Tag({&first, &second}, *buffer, {7 + 4 * kRange, kSize - 4 * kRange}, 4, 4),
              (std::vector<RangeTag>{expected[4], expected[5], under_second[4], under_second[5]}));
    EXPECT_EQ(*fixture.Tag({&first}, *buffer, {7, 0}, 0, 0), std::vector<RangeTag>{});
  }
}

TEST(CpuDeviceTagTest, Refusals) {
  constexpr size_t kSize = kRange + 5;
  Fixture mine(1);
  Fixture other(1);
  const Bytes bytes = Repeating(kSize);
  const auto buffer = WrapHostMemory(*mine.device, bytes);
  const TagKey key = KeyFor(kSize);
  const TagKey longer = KeyFor(kSize + 1);
  TagKey moved = KeyFor(kSize);
  const TagKey taken = std::move(moved);
  ASSERT_TRUE(mine.Tag({&key}, *buffer, {0, kSize}, 0, 2).ok());
  size_t executed = 0;
  const auto refused = [&](const absl::StatusOr<std::vector<RangeTag>>& result) {
    ++executed;
    return result.status().code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(mine.Tag({}, *buffer, {0, kSize}, 0, 0)));
  EXPECT_TRUE(refused(mine.Tag({&key, &key, &key}, *buffer, {0, kSize}, 0, 6)));
  EXPECT_TRUE(refused(mine.Tag({nullptr}, *buffer, {0, kSize}, 0, 2)));
  EXPECT_TRUE(refused(mine.Tag({&key, nullptr}, *buffer, {0, kSize}, 0, 4)));
  EXPECT_TRUE(refused(mine.Tag({&moved}, *buffer, {0, kSize}, 0, 2)));  // NOLINT: on purpose
  EXPECT_TRUE(refused(mine.Tag({&key, &longer}, *buffer, {0, kSize}, 0, 4)));
  EXPECT_TRUE(refused(mine.Tag({&longer}, *buffer, {0, kSize}, 0, 2)));
  EXPECT_TRUE(refused(mine.Tag({&longer}, *buffer, {0, kSize + 1}, 0, 2)));  // leaves the buffer
  EXPECT_TRUE(refused(mine.Tag({&key}, *buffer, {1, kSize}, 0, 2)));
  EXPECT_TRUE(refused(mine.Tag({&key}, *buffer, {kHuge, kSize}, 0, 2)));
  EXPECT_TRUE(refused(mine.Tag({&key}, *buffer, {0, 5}, 0, 1)));
  EXPECT_TRUE(refused(mine.Tag({&key}, *buffer, {0, kRange}, 1, 1)));
  for (size_t wrong : {0u, 1u, 3u, 4u}) {
    EXPECT_TRUE(refused(mine.Tag({&key}, *buffer, {0, kSize}, 0, wrong))) << wrong;
  }
  for (size_t wrong : {2u, 3u, 5u}) {
    EXPECT_TRUE(refused(mine.Tag({&key, &taken}, *buffer, {0, kSize}, 0, wrong))) << wrong;
  }
  const auto other_buffer = WrapHostMemory(*other.device, bytes);
  EXPECT_TRUE(refused(mine.Tag({&key}, *other_buffer, {0, kSize}, 0, 2)));
  std::vector<RangeTag> out(2);
  const TagKey* const keys[] = {&key};
  EXPECT_EQ(mine.device->Tag(keys, *buffer, {0, kSize}, 0, *other.stream, out).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(executed, 20u);
}

}  // namespace
}  // namespace pavise::hash
