#include "pavise/hash/blake3.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/hash/algorithm.h"
#include "pavise/hash/cpu/blake3_highway.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash {
namespace {

// Bytes that repeat every 251: a prime next to no block, chunk or subtree length, so that swapped
// or repeated pieces show.
Bytes Repeating(size_t size_bytes) {
  Bytes bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<uint8_t>(i % 251);
  return bytes;
}

// Goes back to the best target whatever happens in a test.
class Blake3Test : public testing::Test {
 protected:
  ~Blake3Test() override { internal::ForceTarget(""); }

  // Runs `check` under every target of this CPU.
  template <typename Check>
  void ForEachTarget(const Check& check) {
    const auto targets = internal::AvailableTargets();
    ASSERT_FALSE(targets.empty());
    for (std::string_view target : targets) {
      SCOPED_TRACE(target);
      ASSERT_TRUE(internal::ForceTarget(target));
      ASSERT_EQ(Blake3Target(), target);
      check();
    }
    ASSERT_TRUE(internal::ForceTarget(""));
    EXPECT_EQ(Blake3Target(), targets.front());
  }
};

// Reference digests of the same long inputs are asked for again under every target.
const Digest32& ReferenceRoot(size_t size_bytes) {
  static auto& known = *new std::map<size_t, Digest32>();
  const auto [at, is_new] = known.try_emplace(size_bytes);
  if (is_new) at->second = reference::Blake3(Repeating(size_bytes));
  return at->second;
}

// ---- Official vectors ----

std::filesystem::path VectorsFolder() {
  if (const char* folder = std::getenv("PAVISE_VECTORS")) return folder;
  return std::filesystem::path(PAVISE_SOURCE_DIR) / ".." / "shared" / "vectors";
}

TEST_F(Blake3Test, OfficialVectors) {
  const std::filesystem::path path = VectorsFolder() / "blake3" / "test_vectors.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no BLAKE3 vectors at " << path;
  const absl::StatusOr<Bytes> text = ReadFile(path.string(), 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  const absl::StatusOr<Json> vectors = ParseJson(*text, "test_vectors.json");
  ASSERT_TRUE(vectors.ok()) << vectors.status();

  const std::string key_text = vectors->at("key").get<std::string>();
  std::array<uint8_t, 32> key;
  ASSERT_EQ(key_text.size(), key.size());
  std::copy(key_text.begin(), key_text.end(), key.begin());
  const std::string context = vectors->at("context_string").get<std::string>();

  const auto first_32 = [](const Bytes& bytes) {
    Digest32 digest;
    std::copy_n(bytes.begin(), digest.size(), digest.begin());
    return digest;
  };
  const auto extended = [](Blake3Hasher hasher, ByteSpan input, size_t size_bytes) {
    hasher.Update(input);
    Bytes out(size_bytes);
    hasher.FinishExtended(out);
    return out;
  };
  size_t executed = 0;
  size_t targets = 0;
  ForEachTarget([&] {
    ++targets;
    for (const Json& vector : vectors->at("cases")) {
      const Bytes input = Repeating(vector.at("input_len").get<size_t>());
      SCOPED_TRACE(input.size());
      const auto expected = [&](const char* mode) {
        return *FromHex(vector.at(mode).get<std::string>(), mode);
      };
      const Bytes hash = expected("hash");
      ASSERT_EQ(hash.size(), 131u);
      EXPECT_EQ(extended(Blake3Hasher(), input, hash.size()), hash);
      EXPECT_EQ(Blake3(input), first_32(hash));
      EXPECT_EQ(reference::Blake3(input), first_32(hash));
      ++executed;
      const Bytes keyed = expected("keyed_hash");
      EXPECT_EQ(extended(Blake3Hasher::Keyed(key), input, keyed.size()), keyed);
      EXPECT_EQ(Blake3Keyed(key, input), first_32(keyed));
      ++executed;
      const Bytes derived = expected("derive_key");
      EXPECT_EQ(extended(Blake3Hasher::DeriveKey(context), input, derived.size()), derived);
      EXPECT_EQ(Blake3DeriveKey(context, input), first_32(derived));
      ++executed;
    }
  });
  EXPECT_EQ(executed, targets * 35 * 3);
  RecordProperty("executed_cases", static_cast<int>(executed));
}

// ---- Every target against the reference ----

std::set<size_t> BoundaryLengths() {
  constexpr size_t kMiB = size_t{1} << 20;
  std::set<size_t> lengths = {0, 1, 2, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025};
  // Every count of chunks up to beyond two of the widest groups: each way of splitting a remainder
  // over vector widths.
  for (size_t chunks = 1; chunks <= 40; ++chunks) {
    for (size_t length : {chunks * 1024 - 1, chunks * 1024, chunks * 1024 + 1}) {
      lengths.insert(length);
    }
  }
  for (size_t chunks : {47, 48, 63, 64, 65, 100, 255, 256, 257, 511, 1000, 1023}) {
    for (size_t length : {chunks * 1024 - 1, chunks * 1024, chunks * 1024 + 1}) {
      lengths.insert(length);
    }
  }
  for (size_t length : {kMiB - 1, kMiB, kMiB + 1, kMiB + 1025, 2 * kMiB - 1, 2 * kMiB, 2 * kMiB + 1,
                        3 * kMiB + 5}) {
    lengths.insert(length);
  }
  return lengths;
}

TEST_F(Blake3Test, EveryTargetAgreesWithTheReferenceAtEveryBoundary) {
  const std::set<size_t> lengths = BoundaryLengths();
  const Bytes all = Repeating(*lengths.rbegin());
  size_t executed = 0;
  ForEachTarget([&] {
    for (size_t length : lengths) {
      ASSERT_EQ(Blake3(ByteSpan(all).first(length)), ReferenceRoot(length)) << length << " bytes";
      ++executed;
    }
  });
  EXPECT_EQ(executed, lengths.size() * internal::AvailableTargets().size());
}

TEST_F(Blake3Test, ABaselineTargetIsAlwaysThereAndUnknownOnesAreRefused) {
  const auto targets = internal::AvailableTargets();
  EXPECT_THAT(targets, testing::AnyOf(testing::Contains("SCALAR"), testing::Contains("EMU128"),
                                      testing::Contains("NEON")));
  EXPECT_FALSE(internal::ForceTarget("AVX4"));
}

TEST_F(Blake3Test, UnalignedInputAndNothingBeyondItCounts) {
  const size_t length = 37 * 1024 + 5;
  const Bytes input = Repeating(length);
  ForEachTarget([&] {
    for (size_t shift : {1, 3, 4, 17, 63}) {
      Bytes shifted(length + shift + 64, 0xA5);
      std::copy(input.begin(), input.end(), shifted.begin() + static_cast<ptrdiff_t>(shift));
      EXPECT_EQ(Blake3(ByteSpan(shifted).subspan(shift, length)), ReferenceRoot(length));
    }
  });
}

TEST_F(Blake3Test, SubtreesCountTheirChunksFromTheGivenOne) {
  // The counters cross 32 bits within one vector in the last cases.
  const std::vector<std::pair<size_t, uint64_t>> cases = {
      {1, 0},
      {1024, 1},
      {1, 7},
      {2048, 2},
      {2049, 4},
      {16 * 1024, 16},
      {64 * 1024, 64},
      {kSubtreeBytes, 1024},
      {kSubtreeBytes - 3, 2048},
      {kSubtreeBytes, (uint64_t{1} << 32) - 1024},
      {17 * 1024, (uint64_t{1} << 32) - 5},
      {17 * 1024, (uint64_t{1} << 32) - 16},
      {1025, (uint64_t{1} << 32) - 1},
      {1000, uint64_t{1} << 40},
      {2 * kSubtreeBytes, 2048}};
  const Bytes all = Repeating(2 * kSubtreeBytes);
  ForEachTarget([&] {
    for (const auto& [length, first_chunk] : cases) {
      const ByteSpan bytes = ByteSpan(all).first(length);
      EXPECT_EQ(Blake3Subtree(bytes, first_chunk), reference::Blake3Subtree(bytes, first_chunk))
          << length << " bytes at chunk " << first_chunk;
    }
  });
}

TEST_F(Blake3Test, ParentsAgreeWithTheReference) {
  const Bytes bytes = Repeating(2048);
  const ChainingValue left = reference::Blake3Subtree(ByteSpan(bytes).first(1024), 0);
  const ChainingValue right = reference::Blake3Subtree(ByteSpan(bytes).subspan(1024), 1);
  ForEachTarget([&] {
    EXPECT_EQ(Blake3Parent(left, right), reference::Blake3Parent(left, right));
    EXPECT_EQ(Blake3RootParent(left, right), reference::Blake3RootParent(left, right));
    EXPECT_EQ(Blake3RootParent(left, right), Blake3(bytes));
    EXPECT_NE(Blake3RootParent(left, right), Blake3Parent(left, right));
    EXPECT_NE(Blake3RootParent(left, right), Blake3RootParent(right, left));
  });
}

// ---- The tree laid open ----

std::vector<ChainingValue> SubtreesOf(ByteSpan bytes) {
  std::vector<ChainingValue> subtrees;
  for (size_t offset = 0; offset < bytes.size(); offset += kSubtreeBytes) {
    subtrees.push_back(
        Blake3Subtree(bytes.subspan(offset, std::min(kSubtreeBytes, bytes.size() - offset)),
                      offset / kBlake3ChunkBytes));
  }
  return subtrees;
}

TEST_F(Blake3Test, RootFromSubtreesIsTheRootOfTheWhole) {
  const Bytes all = Repeating(70 * kSubtreeBytes);
  const std::vector<ChainingValue> whole_subtrees = SubtreesOf(all);
  // Has taken all subtrees but the last of each count.
  Blake3Hasher hasher;
  size_t executed = 0;
  for (size_t count = 2; count <= 70; ++count) {
    const size_t before_last = (count - 1) * kSubtreeBytes;
    hasher.Update(ByteSpan(all).subspan(before_last - kSubtreeBytes, kSubtreeBytes));
    // The last one whole, short by one byte, of several chunks, and of one byte.
    for (size_t last_bytes : {kSubtreeBytes, kSubtreeBytes - 1, size_t{5000}, size_t{1}}) {
      const ByteSpan last = ByteSpan(all).subspan(before_last, last_bytes);
      std::vector<ChainingValue> subtrees(whole_subtrees.begin(),
                                          whole_subtrees.begin() + static_cast<ptrdiff_t>(count));
      subtrees.back() = Blake3Subtree(last, before_last / kBlake3ChunkBytes);
      Blake3Hasher whole = hasher;
      whole.Update(last);
      const Digest32 root = Blake3RootFromSubtrees(subtrees);
      ASSERT_EQ(root, whole.Finish()) << count << " subtrees, the last of " << last_bytes;
      if (count < 6 || count == 16 || count == 17) {
        ASSERT_EQ(root, Blake3(ByteSpan(all).first(before_last + last_bytes)));
      }
      ++executed;
    }
  }
  EXPECT_EQ(executed, 69u * 4);
}

// Joins any values as the subtrees of one input.
ChainingValue ReferenceTree(std::span<const ChainingValue> values, bool is_root) {
  if (values.size() == 1) return values[0];
  const size_t left = std::bit_floor(values.size() - 1);
  const ChainingValue left_value = ReferenceTree(values.first(left), false);
  const ChainingValue right_value = ReferenceTree(values.subspan(left), false);
  return is_root ? reference::Blake3RootParent(left_value, right_value)
                 : reference::Blake3Parent(left_value, right_value);
}

TEST_F(Blake3Test, RootFromManySubtreesAgreesWithTheReference) {
  std::vector<ChainingValue> values(4097);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint8_t byte = static_cast<uint8_t>(i % 251);
    values[i] = reference::Blake3Subtree({&byte, 1}, i);
  }
  ForEachTarget([&] {
    for (size_t count : {2, 3, 4, 5, 15, 16, 17, 31, 33, 100, 1023, 1024, 1025, 2047, 2048, 2049,
                         3000, 4096, 4097}) {
      const auto some = std::span<const ChainingValue>(values).first(count);
      EXPECT_EQ(Blake3RootFromSubtrees(some), ReferenceTree(some, true)) << count;
    }
  });
}

TEST_F(Blake3Test, SwappedFlippedMissingAndRepeatedSubtreesChangeTheRoot) {
  const Bytes bytes = Repeating(9 * kSubtreeBytes + 17);
  const std::vector<ChainingValue> subtrees = SubtreesOf(bytes);
  ASSERT_EQ(subtrees.size(), 10u);
  const Digest32 root = Blake3RootFromSubtrees(subtrees);
  std::set<Digest32> roots = {root};
  size_t changes = 0;
  const auto expect_new = [&](const std::vector<ChainingValue>& changed, const std::string& what) {
    EXPECT_TRUE(roots.insert(Blake3RootFromSubtrees(changed)).second) << what;
    ++changes;
  };
  for (size_t i = 0; i < subtrees.size(); ++i) {
    for (size_t j = i + 1; j < subtrees.size(); ++j) {
      std::vector<ChainingValue> changed = subtrees;
      std::swap(changed[i], changed[j]);
      expect_new(changed, "swapped " + std::to_string(i) + " and " + std::to_string(j));
    }
    for (size_t bit : {0, 7, 100, 255}) {
      std::vector<ChainingValue> changed = subtrees;
      changed[i][bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
      expect_new(changed, "flipped bit " + std::to_string(bit) + " of " + std::to_string(i));
    }
    std::vector<ChainingValue> shorter = subtrees;
    shorter.erase(shorter.begin() + static_cast<ptrdiff_t>(i));
    expect_new(shorter, "without " + std::to_string(i));
    std::vector<ChainingValue> longer = subtrees;
    longer.insert(longer.begin() + static_cast<ptrdiff_t>(i), subtrees[i]);
    expect_new(longer, "twice " + std::to_string(i));
  }
  EXPECT_EQ(changes, 45u + 10 * 4 + 10 + 10);
}

TEST_F(Blake3Test, ARootIsNeverTheChainingValueOfTheSameBytes) {
  const Bytes all = Repeating(2 * kSubtreeBytes);
  for (size_t length : {size_t{1}, size_t{64}, size_t{1023}, size_t{1024}, size_t{1025},
                        size_t{16384}, kSubtreeBytes - 1, kSubtreeBytes, 2 * kSubtreeBytes}) {
    const ByteSpan bytes = ByteSpan(all).first(length);
    EXPECT_NE(Blake3(bytes), Blake3Subtree(bytes, 0)) << length;
  }
}

TEST_F(Blake3Test, EveryBitOfAnInputCounts) {
  const size_t length = 3 * 1024 + 100;
  Bytes bytes = Repeating(length);
  ForEachTarget([&] {
    std::set<Digest32> digests = {Blake3(bytes)};
    size_t flips = 0;
    // Bit 0 to 7 in turn, every byte.
    for (size_t i = 0; i < length; ++i) {
      const uint8_t bit = static_cast<uint8_t>(1u << (i % 8));
      bytes[i] ^= bit;
      digests.insert(Blake3(bytes));
      bytes[i] ^= bit;
      ++flips;
    }
    EXPECT_EQ(digests.size(), flips + 1);
  });
}

TEST_F(Blake3Test, SwappedBlocksChunksAndShortenedInputsDiffer) {
  const Bytes bytes = Repeating(32 * 1024);
  const Digest32 digest = Blake3(bytes);
  for (size_t unit : {size_t{64}, size_t{1024}, size_t{16 * 1024}}) {
    Bytes swapped = bytes;
    std::swap_ranges(swapped.begin(), swapped.begin() + static_cast<ptrdiff_t>(unit),
                     swapped.begin() + static_cast<ptrdiff_t>(unit));
    ASSERT_NE(swapped, bytes);
    EXPECT_NE(Blake3(swapped), digest) << unit;
  }
  Bytes zero_padded = bytes;
  zero_padded.push_back(0);
  EXPECT_NE(Blake3(zero_padded), digest);
  EXPECT_NE(Blake3(ByteSpan(bytes).first(bytes.size() - 1)), digest);
}

// ---- Keys ----

TEST_F(Blake3Test, KeysAndContextsAndModesAreApart) {
  const Bytes bytes = Repeating(5000);
  std::array<uint8_t, 32> key = {};
  std::set<Digest32> outputs = {Blake3(bytes), Blake3Keyed(key, bytes),
                                Blake3DeriveKey("one context", bytes),
                                Blake3DeriveKey("another context", bytes)};
  for (size_t bit = 0; bit < 256; ++bit) {
    std::array<uint8_t, 32> wrong = key;
    wrong[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    outputs.insert(Blake3Keyed(wrong, bytes));
  }
  EXPECT_EQ(outputs.size(), 4u + 256);
}

// ---- Incremental ----

TEST_F(Blake3Test, UpdatesMayBeCutAnywhere) {
  const uint32_t seed = std::random_device()();
  RecordProperty("seed", static_cast<int64_t>(seed));
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const Bytes all = Repeating(3 * kSubtreeBytes + 5);
  size_t executed = 0;
  for (size_t length :
       {size_t{0}, size_t{1}, size_t{1024}, size_t{1025}, size_t{2048}, size_t{2049}, size_t{3072},
        size_t{4096}, size_t{70000}, kSubtreeBytes - 1, kSubtreeBytes, kSubtreeBytes + 1,
        2 * kSubtreeBytes, 3 * kSubtreeBytes + 5}) {
    const ByteSpan bytes = ByteSpan(all).first(length);
    for (size_t largest : {1u, 64u, 1000u, 1024u, 1025u, 5000u, 1u << 18, 1u << 22}) {
      if (length / largest > 5000) continue;
      Blake3Hasher hasher;
      for (size_t offset = 0; offset < length;) {
        const size_t part = std::min<size_t>(
            length - offset, std::uniform_int_distribution<size_t>(0, largest)(random));
        hasher.Update(bytes.subspan(offset, part));
        offset += part;
      }
      ASSERT_EQ(hasher.Finish(), ReferenceRoot(length)) << length << " in parts of " << largest;
      ++executed;
    }
  }
  EXPECT_EQ(executed, 14u * 8 - 11);
}

TEST_F(Blake3Test, FinishDoesNotEndAHasherAndCopiesGoTheirOwnWay) {
  const Bytes all = Repeating(10 * 1024);
  Blake3Hasher hasher;
  for (size_t length = 0; length < all.size(); length += 512) {
    ASSERT_EQ(hasher.Finish(), reference::Blake3(ByteSpan(all).first(length))) << length;
    hasher.Update(ByteSpan(all).subspan(length, 512));
  }
  Blake3Hasher copy = hasher;
  copy.Update(AsBytes("x"));
  EXPECT_EQ(hasher.Finish(), reference::Blake3(all));
  EXPECT_NE(copy.Finish(), hasher.Finish());
}

TEST_F(Blake3Test, ExtendedOutputBeginsWithTheDigest) {
  Blake3Hasher hasher;
  hasher.Update(Repeating(3000));
  Bytes longest(1000);
  hasher.FinishExtended(longest);
  for (size_t size : {0, 1, 31, 32, 33, 63, 64, 65, 128, 999}) {
    Bytes out(size);
    hasher.FinishExtended(out);
    EXPECT_TRUE(std::equal(out.begin(), out.end(), longest.begin())) << size;
  }
  const Digest32 digest = hasher.Finish();
  EXPECT_TRUE(std::equal(digest.begin(), digest.end(), longest.begin()));
}

// ---- Names ----

TEST(AlgorithmTest, NamesGoBothWays) {
  for (Algorithm algorithm :
       {Algorithm::kSha256, Algorithm::kSha384, Algorithm::kBlake2b, Algorithm::kBlake3}) {
    EXPECT_EQ(AlgorithmFromName(AlgorithmName(algorithm)), algorithm);
  }
  EXPECT_EQ(AlgorithmName(Algorithm::kBlake2b), "blake2b");
  EXPECT_EQ(DigestSizeBytes(Algorithm::kSha256), 32u);
  EXPECT_EQ(DigestSizeBytes(Algorithm::kSha384), 48u);
  EXPECT_EQ(DigestSizeBytes(Algorithm::kBlake2b), 64u);
  EXPECT_EQ(DigestSizeBytes(Algorithm::kBlake3), 32u);
  for (const char* name : {"", "SHA256", "sha-256", "sha512", "md5", "blake3 "}) {
    EXPECT_EQ(AlgorithmFromName(name), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace pavise::hash
