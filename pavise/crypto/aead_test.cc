#include "pavise/crypto/aead.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>

#include "pavise/base/status.h"

namespace pavise::crypto {
namespace {

using Nonce = std::array<uint8_t, Aes256Gcm::kNonceBytes>;
using Tag = std::array<uint8_t, Aes256Gcm::kTagBytes>;

Bytes Hex(std::string_view hex) { return FromHex(hex, "test").value(); }

Nonce NonceOf(std::string_view hex) {
  Nonce nonce;
  std::ranges::copy(Hex(hex), nonce.begin());
  return nonce;
}

struct Vector {
  std::string_view key, nonce, additional, plain, encrypted, tag;
};

// Test cases 13 to 16 of "The Galois/Counter Mode of Operation" (McGrew and Viega), which NIST's
// SP 800-38D refers to.
constexpr std::string_view kZeroKey =
    "0000000000000000000000000000000000000000000000000000000000000000";
constexpr std::string_view kKey =
    "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
constexpr Vector kVectors[] = {
    {kZeroKey, "000000000000000000000000", "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"},
    {kZeroKey, "000000000000000000000000", "", "00000000000000000000000000000000",
     "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"},
    {kKey, "cafebabefacedbaddecaf888", "",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
     "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
     "b094dac5d93471bdec1a502270e3cc6c"},
    {kKey, "cafebabefacedbaddecaf888", "feedfacedeadbeeffeedfacedeadbeefabaddad2",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
     "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
     "76fc6ece0f4e1768cddf8853bb2d551b"},
};

TEST(AeadTest, PublishedVectorsInAndOutOfPlace) {
  int executed = 0;
  for (const Vector& vector : kVectors) {
    Aes256Gcm cipher = Aes256Gcm::Create(SecretBytes(Hex(vector.key))).value();
    const Nonce nonce = NonceOf(vector.nonce);
    const Bytes additional = Hex(vector.additional);
    const Bytes plain = Hex(vector.plain);
    // Twice: the second message under a key must not know of the first.
    for (int round = 0; round < 2; ++round) {
      Bytes encrypted(plain.size());
      Tag tag;
      ASSERT_TRUE(cipher.Seal(nonce, additional, plain, encrypted, tag).ok());
      EXPECT_EQ(ToHex(encrypted), vector.encrypted);
      EXPECT_EQ(ToHex(tag), vector.tag);
      Bytes opened(plain.size());
      ASSERT_TRUE(cipher.Open(nonce, additional, encrypted, tag, opened, "x").ok());
      EXPECT_EQ(opened, plain);

      Bytes in_place = plain;
      ASSERT_TRUE(cipher.Seal(nonce, additional, in_place, in_place, tag).ok());
      EXPECT_EQ(in_place, encrypted);
      ASSERT_TRUE(cipher.Open(nonce, additional, in_place, tag, in_place, "x").ok());
      EXPECT_EQ(in_place, plain);
    }
    ++executed;
  }
  EXPECT_EQ(executed, 4);
}

TEST(AeadTest, RefusesEveryFlippedBitAndLeavesNothing) {
  const Vector& vector = kVectors[3];
  Aes256Gcm cipher = Aes256Gcm::Create(SecretBytes(Hex(vector.key))).value();
  const Nonce nonce = NonceOf(vector.nonce);
  const Bytes additional = Hex(vector.additional), encrypted = Hex(vector.encrypted);
  Tag tag;
  std::ranges::copy(Hex(vector.tag), tag.begin());
  Bytes plain(encrypted.size());
  const auto refuse = [&](const Nonce& n, const Bytes& a, const Bytes& e, const Tag& t) {
    plain.assign(e.size(), 0xee);
    const absl::Status status = cipher.Open(n, a, e, t, plain, "segment 7");
    EXPECT_EQ(ReasonOf(status), Reason::kContentMismatch) << status;
    EXPECT_EQ(RefusalsOf(status).at(0).item, "segment 7");
    EXPECT_EQ(plain, Bytes(e.size()));
  };
  size_t flipped = 0;
  const auto each_bit = [&](auto bytes, auto&& check) {
    for (size_t bit = 0; bit < 8 * bytes.size(); ++bit, ++flipped) {
      bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      check(bytes);
      bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    }
  };
  each_bit(nonce, [&](const Nonce& n) { refuse(n, additional, encrypted, tag); });
  each_bit(additional, [&](const Bytes& a) { refuse(nonce, a, encrypted, tag); });
  each_bit(encrypted, [&](const Bytes& e) { refuse(nonce, additional, e, tag); });
  each_bit(tag, [&](const Tag& t) { refuse(nonce, additional, encrypted, t); });
  EXPECT_EQ(flipped, 8u * (12 + 20 + 60 + 16));
  refuse(nonce, {}, encrypted, tag);
  refuse(nonce, additional, Bytes(encrypted.begin(), encrypted.end() - 1), tag);
  plain.resize(encrypted.size());
  Aes256Gcm other = Aes256Gcm::Create(SecretBytes(Bytes(32, 1))).value();
  EXPECT_EQ(ReasonOf(other.Open(nonce, additional, encrypted, tag, plain, "x")),
            Reason::kContentMismatch);
  // And still opens what is whole.
  EXPECT_TRUE(cipher.Open(nonce, additional, encrypted, tag, plain, "x").ok());
}

TEST(AeadTest, OtherSizesAreUsageErrors) {
  for (const size_t size_bytes : {0, 16, 31, 33}) {
    EXPECT_EQ(ExitCodeOf(Aes256Gcm::Create(SecretBytes(Bytes(size_bytes))).status()), 2);
  }
  Aes256Gcm cipher = Aes256Gcm::Create(SecretBytes(Bytes(32))).value();
  Bytes out(15);
  Tag tag{};
  EXPECT_EQ(ExitCodeOf(cipher.Seal(Nonce{}, {}, Bytes(16), out, tag)), 2);
  EXPECT_EQ(ExitCodeOf(cipher.Open(Nonce{}, {}, Bytes(16), tag, out, "x")), 2);
}

}  // namespace
}  // namespace pavise::crypto
