#include "pavise/base/secret_bytes.h"

#include <string>
#include <type_traits>
#include <utility>

#include "gtest/gtest.h"

namespace pavise {
namespace {

static_assert(!std::is_copy_constructible_v<SecretBytes>);
static_assert(!std::is_copy_assignable_v<SecretBytes>);
static_assert(std::is_nothrow_move_constructible_v<SecretBytes>);
static_assert(std::is_nothrow_move_assignable_v<SecretBytes>);
static_assert(!std::is_convertible_v<SecretBytes, std::string>);
static_assert(!std::is_convertible_v<SecretBytes, Bytes>);

TEST(SecretBytesTest, HoldsWhatItWasGiven) {
  const SecretBytes secret("password");
  EXPECT_EQ(secret.RevealText(), "password");
  EXPECT_EQ(secret.size_bytes(), 8u);
  EXPECT_FALSE(secret.empty());
  EXPECT_TRUE(SecretBytes().empty());
  EXPECT_EQ(AsText(SecretBytes(Bytes{'a', 'b'}).Reveal()), "ab");
}

TEST(SecretBytesTest, MovingLeavesNothingBehind) {
  SecretBytes first("password");
  SecretBytes second(std::move(first));
  EXPECT_TRUE(first.empty());  // NOLINT(bugprone-use-after-move): what it promises
  EXPECT_EQ(second.RevealText(), "password");
  SecretBytes third("other");
  third = std::move(second);
  EXPECT_TRUE(second.empty());  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(third.RevealText(), "password");
  SecretBytes& same = third;
  third = std::move(same);
  EXPECT_EQ(third.RevealText(), "password");
}

TEST(SecretBytesTest, ComparesContent) {
  const SecretBytes secret("password");
  EXPECT_TRUE(secret.Equals(SecretBytes("password")));
  EXPECT_FALSE(secret.Equals(SecretBytes("passwore")));
  EXPECT_FALSE(secret.Equals(SecretBytes("Password")));
  EXPECT_FALSE(secret.Equals(SecretBytes("passwor")));
  EXPECT_FALSE(secret.Equals(SecretBytes()));
  EXPECT_TRUE(SecretBytes().Equals(SecretBytes()));
}

TEST(ConstantTimeEqualsTest, SeesEveryBit) {
  const Bytes bytes(33, 0x5a);
  EXPECT_TRUE(ConstantTimeEquals(bytes, bytes));
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    Bytes other = bytes;
    other[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    EXPECT_FALSE(ConstantTimeEquals(bytes, other)) << bit;
  }
  EXPECT_FALSE(ConstantTimeEquals(bytes, ByteSpan(bytes).first(32)));
}

TEST(WipeMemoryTest, Overwrites) {
  Bytes bytes = {1, 2, 3};
  WipeMemory(bytes);
  EXPECT_EQ(bytes, Bytes(3, 0));
  std::string text = "secret";
  WipeMemory(text);
  EXPECT_TRUE(text.empty());
  WipeMemory(std::span<uint8_t>());
}

}  // namespace
}  // namespace pavise
