#include "pavise/crypto/key_derivation.h"

#include <gtest/gtest.h>

#include "pavise/base/status.h"

namespace pavise::crypto {
namespace {

Bytes Hex(std::string_view hex) { return FromHex(hex, "test").value(); }

TEST(KeyDerivationTest, HkdfIsThatOfRfc5869) {
  // Appendix A.1 to A.3.
  EXPECT_EQ(ToHex(Hkdf(SecretBytes(Bytes(22, 0x0b)), Hex("000102030405060708090a0b0c"),
                       Hex("f0f1f2f3f4f5f6f7f8f9"), 42)
                      ->Reveal()),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
  const auto counting = [](uint8_t first) {
    Bytes bytes(80);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(first + i);
    return bytes;
  };
  EXPECT_EQ(
      ToHex(Hkdf(SecretBytes(counting(0)), counting(0x60), counting(0xb0), 82)->Reveal()),
      "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c6"
      "5e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87");
  EXPECT_EQ(ToHex(Hkdf(SecretBytes(Bytes(22, 0x0b)), {}, {}, 42)->Reveal()),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
}

TEST(KeyDerivationTest, EveryInputCounts) {
  const SecretBytes secret("a secret");
  const auto derive = [&](std::string_view salt, std::string_view info) {
    return ToHex(Hkdf(secret, AsBytes(salt), AsBytes(info), 32)->Reveal());
  };
  EXPECT_EQ(derive("s", "i"), derive("s", "i"));
  EXPECT_NE(derive("s", "i"), derive("t", "i"));
  EXPECT_NE(derive("s", "i"), derive("s", "j"));
  EXPECT_NE(derive("s", "i"), derive("si", ""));
  EXPECT_EQ(ExitCodeOf(Hkdf(secret, {}, {}, 0).status()), 2);
  EXPECT_EQ(ExitCodeOf(Hkdf(secret, {}, {}, 255 * 32 + 1).status()), 2);
  EXPECT_TRUE(Hkdf(secret, {}, {}, 255 * 32).ok());
}

TEST(KeyDerivationTest, ConcatKdfIsThatOfRfc7518) {
  // Appendix C.
  const SecretBytes shared(Hex("9e56d91d817135d372834283bf84269cfb316ea3da806a48f6daa7798cfe90c4"));
  EXPECT_EQ(
      ToBase64Url(ConcatKdf(shared, "A128GCM", AsBytes("Alice"), AsBytes("Bob"), 16)->Reveal()),
      "VqqN6vgjbSBcIijNcacQGg");
  EXPECT_NE(
      ToBase64Url(ConcatKdf(shared, "A128GCM", AsBytes("AliceB"), AsBytes("ob"), 16)->Reveal()),
      "VqqN6vgjbSBcIijNcacQGg");
  EXPECT_EQ(ExitCodeOf(ConcatKdf(shared, "A128GCM", {}, {}, 0).status()), 2);
}

}  // namespace
}  // namespace pavise::crypto
