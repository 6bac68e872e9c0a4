#include "pavise/crypto/key_wrap.h"

#include <gtest/gtest.h>

#include "pavise/base/status.h"

namespace pavise::crypto {
namespace {

SecretBytes Secret(std::string_view hex) { return SecretBytes(FromHex(hex, "test").value()); }

TEST(KeyWrapTest, IsThatOfRfc3394) {
  const SecretBytes wrapping =
      Secret("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
  int executed = 0;
  // Sections 4.3, 4.5 and 4.6.
  for (const auto& [key, wrapped] :
       {std::pair("00112233445566778899aabbccddeeff",
                  "64e8c3f9ce0f5ba263e9777905818a2a93c8191e7d6e8ae7"),
        std::pair("00112233445566778899aabbccddeeff0001020304050607",
                  "a8f9bc1612c68b3ff6e6f4fbe30e71e4769c8b80a32cb8958cd5d17d6b254da1"),
        std::pair("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f",
                  "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd2"
                  "1")}) {
    const Bytes result = WrapKey(wrapping, Secret(key)).value();
    EXPECT_EQ(ToHex(result), wrapped);
    EXPECT_EQ(ToHex(UnwrapKey(wrapping, result, "x").value().Reveal()), key);
    ++executed;
  }
  EXPECT_EQ(executed, 3);
}

TEST(KeyWrapTest, RefusesWhatWasNotWrappedSo) {
  const SecretBytes wrapping(Bytes(32, 7));
  const Bytes wrapped = WrapKey(wrapping, SecretBytes(Bytes(32, 9))).value();
  ASSERT_EQ(wrapped.size(), 40u);
  for (size_t bit = 0; bit < 8 * wrapped.size(); ++bit) {
    Bytes other = wrapped;
    other[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    EXPECT_EQ(ReasonOf(UnwrapKey(wrapping, other, "x").status()), Reason::kContentMismatch) << bit;
  }
  EXPECT_EQ(ReasonOf(UnwrapKey(SecretBytes(Bytes(32, 8)), wrapped, "x").status()),
            Reason::kContentMismatch);
  for (const size_t size_bytes : {0, 7, 8, 16, 23, 25, 39, 41, 528}) {
    EXPECT_EQ(ReasonOf(UnwrapKey(wrapping, Bytes(size_bytes), "x").status()), Reason::kMalformed)
        << size_bytes;
  }
  EXPECT_EQ(ReasonOf(UnwrapKey(wrapping, ByteSpan(wrapped).first(32), "x").status()),
            Reason::kContentMismatch);
  for (const size_t size_bytes : {0, 8, 17, 520}) {
    EXPECT_EQ(ExitCodeOf(WrapKey(wrapping, SecretBytes(Bytes(size_bytes))).status()), 2);
  }
  EXPECT_EQ(ExitCodeOf(WrapKey(SecretBytes(Bytes(16)), SecretBytes(Bytes(32))).status()), 2);
}

}  // namespace
}  // namespace pavise::crypto
