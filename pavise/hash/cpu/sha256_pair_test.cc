#include "pavise/hash/cpu/sha256_pair.h"

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"

#include "gtest/gtest.h"

namespace pavise::hash::internal {
namespace {

constexpr uint64_t kSeed = 20240610;

class Sha256PairTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!Sha256PairAvailable()) GTEST_SKIP() << "this CPU has no SHA instructions";
  }

  static Bytes RandomBytes(size_t size_bytes, uint64_t seed) {
    std::mt19937_64 random(seed);
    Bytes bytes(size_bytes);
    std::generate(bytes.begin(), bytes.end(), [&] { return static_cast<uint8_t>(random()); });
    return bytes;
  }

  static std::string Expected(ByteSpan bytes) {
    auto digester = crypto::Digester::Create(crypto::DigestAlgorithm::kSha256);
    EXPECT_TRUE(digester.ok() && digester->Update(bytes).ok());
    const auto digest = digester->Finish();
    EXPECT_TRUE(digest.ok()) << digest.status();
    return ToHex(*digest);
  }

  static std::string Digest(ByteSpan bytes) {
    Sha256Stream stream;
    stream.Update(bytes);
    return ToHex(stream.Finish());
  }
};

// The messages of FIPS 180-4 (SHA256.pdf of NIST's "Examples with Intermediate Values") and of the
// Secure Hash Standard's earlier editions.
TEST_F(Sha256PairTest, KnownAnswers) {
  const std::string million(1'000'000, 'a');
  const std::pair<std::string_view, std::string_view> answers[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmn"
       "o"
       "pqrsmnopqrstnopqrstu",
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  int compared = 0;
  for (const auto& [message, digest] : answers) {
    EXPECT_EQ(Digest(AsBytes(message)), digest);
    for (const auto& [other_message, other_digest] : answers) {
      Sha256Stream a;
      Sha256Stream b;
      UpdatePair(a, AsBytes(message), b, AsBytes(other_message));
      EXPECT_EQ(ToHex(a.Finish()), digest);
      EXPECT_EQ(ToHex(b.Finish()), other_digest);
      ++compared;
    }
  }
  EXPECT_EQ(compared, 25);
}

TEST_F(Sha256PairTest, EveryShortLengthAndTheBordersOfBlocks) {
  const Bytes bytes = RandomBytes(70'000, kSeed);
  const Bytes other_bytes = RandomBytes(70'000, kSeed + 1);
  std::vector<size_t> lengths;
  for (size_t length = 0; length <= 300; ++length) lengths.push_back(length);
  for (const size_t blocks : std::array<size_t, 6>{8, 15, 16, 17, 64, 1024}) {
    for (size_t length = 64 * blocks - 9; length <= 64 * blocks + 1; ++length) {
      lengths.push_back(length);
    }
  }
  int compared = 0;
  Sha256Stream a;  // Finish starts anew
  Sha256Stream b;
  for (const size_t length : lengths) {
    const ByteSpan message = ByteSpan(bytes).first(length);
    const ByteSpan other = ByteSpan(other_bytes).subspan(3, length);  // not aligned
    ASSERT_EQ(Digest(message), Expected(message)) << length;
    UpdatePair(a, message, b, other);
    ASSERT_EQ(ToHex(a.Finish()), Expected(message)) << length;
    ASSERT_EQ(ToHex(b.Finish()), Expected(other)) << length;
    ++compared;
  }
  EXPECT_EQ(compared, 301 + 6 * 11);
}

TEST_F(Sha256PairTest, PairsOfUnequalLengths) {
  const Bytes bytes = RandomBytes(2'000, kSeed);
  const Bytes other_bytes = RandomBytes(2'000, kSeed + 1);
  // None, less than a block, the padding's borders, and more blocks than the other has.
  const size_t lengths[] = {0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 129, 1000, 1999};
  int compared = 0;
  for (const size_t length : lengths) {
    for (const size_t other_length : lengths) {
      Sha256Stream a;
      Sha256Stream b;
      UpdatePair(a, ByteSpan(bytes).first(length), b, ByteSpan(other_bytes).first(other_length));
      ASSERT_EQ(ToHex(a.Finish()), Expected(ByteSpan(bytes).first(length)));
      ASSERT_EQ(ToHex(b.Finish()), Expected(ByteSpan(other_bytes).first(other_length)));
      ++compared;
    }
  }
  EXPECT_EQ(compared, 14 * 14);
}

// Streams that are anywhere in a block, advanced alone and with any of the others.
TEST_F(Sha256PairTest, RandomSplits) {
  SCOPED_TRACE(StrCat("seed ", kSeed));
  std::mt19937_64 random(kSeed);
  constexpr size_t kStreams = 4;
  int compared = 0;
  for (int round = 0; round < 300; ++round) {
    std::array<Bytes, kStreams> messages;
    std::array<Sha256Stream, kStreams> streams;
    std::array<size_t, kStreams> done = {};
    for (size_t i = 0; i < kStreams; ++i) {
      messages[i] = RandomBytes(random() % 3'000, random());
    }
    // Mostly a few blocks; nothing and single bytes among them.
    const auto next = [&](size_t i) {
      const size_t most = std::array<size_t, 4>{2, 64, 200, 1'000}[random() % 4];
      const size_t count = std::min(messages[i].size() - done[i], random() % most);
      done[i] += count;
      return ByteSpan(messages[i]).subspan(done[i] - count, count);
    };
    for (int step = 0; step < 20; ++step) {
      const size_t i = random() % kStreams;
      const size_t j = random() % kStreams;
      const ByteSpan bytes = next(i);
      if (i == j) {
        streams[i].Update(bytes);
      } else {
        UpdatePair(streams[i], bytes, streams[j], next(j));
      }
    }
    for (size_t i = 0; i < kStreams; ++i) {
      streams[i].Update(ByteSpan(messages[i]).subspan(done[i]));
      ASSERT_EQ(ToHex(streams[i].Finish()), Expected(messages[i])) << "round " << round;
      ++compared;
    }
  }
  EXPECT_EQ(compared, 1'200);
}

// What has been hashed stays with a copy.
TEST_F(Sha256PairTest, CopiesGoTheirOwnWays) {
  const Bytes bytes = RandomBytes(150, kSeed);
  Sha256Stream a;
  a.Update(ByteSpan(bytes).first(100));
  Sha256Stream b = a;
  UpdatePair(a, ByteSpan(bytes).subspan(100), b, {});
  EXPECT_EQ(ToHex(a.Finish()), Expected(bytes));
  EXPECT_EQ(ToHex(b.Finish()), Expected(ByteSpan(bytes).first(100)));
  EXPECT_EQ(ToHex(a.Finish()), Expected({}));
}

}  // namespace
}  // namespace pavise::hash::internal
