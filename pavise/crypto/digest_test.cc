#include "pavise/crypto/digest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <span>
#include <string>

#include "pavise/base/status.h"

namespace pavise::crypto {
namespace {

struct KnownAnswer {
  DigestAlgorithm algorithm;
  std::string_view message;
  std::string_view hex;
};

// FIPS 180-4 examples and RFC 7693, appendix A.
constexpr std::string_view kTwoBlocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
const KnownAnswer kKnownAnswers[] = {
    {DigestAlgorithm::kSha1, "", "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
    {DigestAlgorithm::kSha1, "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"},
    {DigestAlgorithm::kSha256, "",
     "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {DigestAlgorithm::kSha256, "abc",
     "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {DigestAlgorithm::kSha256, kTwoBlocks,
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    {DigestAlgorithm::kSha384, "",
     "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da"
     "274edebfe76f65fbd51ad2f14898b95b"},
    {DigestAlgorithm::kSha384, "abc",
     "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
     "8086072ba1e7cc2358baeca134c825a7"},
    {DigestAlgorithm::kSha512, "",
     "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
     "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"},
    {DigestAlgorithm::kSha512, "abc",
     "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
     "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"},
    {DigestAlgorithm::kBlake2b512, "",
     "786a02f742015903c6c6fd852552d272912f4740e15847618a86e217f71f5419"
     "d25e1031afee585313896444934eb04b903a685b1448b755d56f701afe9be2ce"},
    {DigestAlgorithm::kBlake2b512, "abc",
     "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
     "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"},
};

TEST(DigestTest, KnownAnswers) {
  int executed = 0;
  for (const KnownAnswer& answer : kKnownAnswers) {
    const auto digest = Digest(answer.algorithm, AsBytes(answer.message));
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(ToHex(*digest), answer.hex) << DigestName(answer.algorithm);
    EXPECT_EQ(digest->size(), DigestSizeBytes(answer.algorithm));
    ++executed;
  }
  EXPECT_EQ(executed, 11);
}

TEST(DigestTest, PiecesGiveTheSameDigestAsTheWhole) {
  Bytes message(1000);
  for (size_t i = 0; i < message.size(); ++i) message[i] = static_cast<uint8_t>(i % 251);
  for (const DigestAlgorithm algorithm :
       {DigestAlgorithm::kSha1, DigestAlgorithm::kSha256, DigestAlgorithm::kSha384,
        DigestAlgorithm::kSha512, DigestAlgorithm::kBlake2b512}) {
    const Bytes whole = Digest(algorithm, message).value();
    // One below, at and one above the block sizes of 64 and 128 bytes.
    for (const size_t cut : {0u, 1u, 63u, 64u, 65u, 127u, 128u, 129u, 999u, 1000u}) {
      Digester digester = Digester::Create(algorithm).value();
      ASSERT_TRUE(digester.Update(ByteSpan(message).first(cut)).ok());
      ASSERT_TRUE(digester.Update(ByteSpan(message).subspan(cut)).ok());
      EXPECT_EQ(digester.Finish().value(), whole) << DigestName(algorithm) << " cut at " << cut;
    }
  }
}

TEST(DigestTest, ReusableAfterFinish) {
  Digester digester = Digester::Create(DigestAlgorithm::kSha256).value();
  ASSERT_TRUE(digester.Update(AsBytes("something else")).ok());
  ASSERT_TRUE(digester.Finish().ok());
  ASSERT_TRUE(digester.Update(AsBytes("abc")).ok());
  Digester moved = std::move(digester);
  EXPECT_EQ(ToHex(moved.Finish().value()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(DigestTest, FinishIntoTakesTheRightSizeOnly) {
  Digester digester = Digester::Create(DigestAlgorithm::kSha256).value();
  Bytes digest(33);
  ASSERT_TRUE(digester.Update(AsBytes("abc")).ok());
  EXPECT_EQ(ExitCodeOf(digester.FinishInto(digest)), 2);
  EXPECT_EQ(ExitCodeOf(digester.FinishInto(std::span(digest).first(31))), 2);
  // Nothing was finished by those.
  ASSERT_TRUE(digester.FinishInto(std::span(digest).first(32)).ok());
  digest.pop_back();
  EXPECT_EQ(ToHex(digest), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  // Over its own input, as a register is extended.
  ASSERT_TRUE(digester.Update(digest).ok());
  ASSERT_TRUE(digester.FinishInto(digest).ok());
  EXPECT_EQ(digest, Digest(DigestAlgorithm::kSha256,
                           FromHex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015"
                                   "ad",
                                   "abc's")
                               .value())
                        .value());
}

TEST(DigestTest, OneBitChangesTheDigest) {
  Bytes message(65, 7);
  const Digest32 original = Sha256(message).value();
  for (size_t bit = 0; bit < message.size() * 8; ++bit) {
    message[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    EXPECT_NE(Sha256(message).value(), original) << "bit " << bit;
    message[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
  }
  EXPECT_EQ(Sha256(message).value(), original);
}

TEST(DigestTest, NamesAreTheOmsSpelling) {
  EXPECT_EQ(DigestName(DigestAlgorithm::kSha256), "sha256");
  EXPECT_EQ(DigestName(DigestAlgorithm::kSha384), "sha384");
  EXPECT_EQ(DigestName(DigestAlgorithm::kSha512), "sha512");
  EXPECT_EQ(DigestName(DigestAlgorithm::kBlake2b512), "blake2b");
}

TEST(FipsProviderDescriptionTest, SaysWhetherTheModuleIsValidated) {
  EXPECT_THAT(FipsProviderDescription(),
              ::testing::MatchesRegex(
                  "OpenSSL 3\\.[0-9.]+ (FIPS provider \\(validated module\\)|default provider "
                  "\\(FIPS 180-4 / 186-5 algorithms, not a validated module\\))"));
}

}  // namespace
}  // namespace pavise::crypto
