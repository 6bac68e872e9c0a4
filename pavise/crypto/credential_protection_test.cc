#include "pavise/crypto/credential_protection.h"

#include <openssl/core_names.h>
#include <openssl/rsa.h>

#include <string>

#include "pavise/base/status.h"
#include "pavise/crypto/internal/openssl.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::crypto {
namespace {

PublicKey PublicOf(EVP_PKEY* key) {
  unsigned char* der = nullptr;
  const int size_bytes = i2d_PUBKEY(key, &der);
  internal::OwnedBuffer owned(der);
  return *PublicKey::FromDer({der, static_cast<size_t>(size_bytes)}, "key");
}

SecretBytes Secret(std::string_view hex) { return SecretBytes(*FromHex(hex, "test")); }

// What the private key makes of it; empty where OpenSSL refuses.
Bytes DecryptOaep(EVP_PKEY* key, const char* digest, std::string_view label, const Bytes& text) {
  internal::OwnedKeyContext context(EVP_PKEY_CTX_new_from_pkey(nullptr, key, nullptr));
  EXPECT_EQ(EVP_PKEY_decrypt_init(context.get()), 1);
  EXPECT_EQ(EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_OAEP_PADDING), 1);
  EXPECT_EQ(EVP_PKEY_CTX_set_rsa_oaep_md_name(context.get(), digest, nullptr), 1);
  EXPECT_EQ(EVP_PKEY_CTX_set_rsa_mgf1_md_name(context.get(), digest, nullptr), 1);
  EXPECT_EQ(
      EVP_PKEY_CTX_set0_rsa_oaep_label(context.get(), OPENSSL_memdup(label.data(), label.size()),
                                       static_cast<int>(label.size())),
      1);
  Bytes plain(512);
  size_t size_bytes = plain.size();
  const int verdict =
      EVP_PKEY_decrypt(context.get(), plain.data(), &size_bytes, text.data(), text.size());
  ERR_clear_error();
  plain.resize(verdict == 1 ? size_bytes : 0);
  return plain;
}

TEST(CredentialProtectionTest, RsaOaepOpensUnderItsLabelAndDigestOnly) {
  const internal::OwnedKey key(EVP_RSA_gen(2048));
  const PublicKey public_key = PublicOf(key.get());
  const std::string label("IDENTITY", 9);  // with its NUL
  const SecretBytes secret("0123456789abcdef");
  const auto text =
      EncryptRsaOaep(public_key, DigestAlgorithm::kSha256, AsBytes(label), secret, "");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(AsText(DecryptOaep(key.get(), "SHA256", label, *text)), secret.RevealText());
  EXPECT_TRUE(DecryptOaep(key.get(), "SHA256", "IDENTITY", *text).empty());
  EXPECT_TRUE(DecryptOaep(key.get(), "SHA384", label, *text).empty());

  // 2,048 bits hold at most 190 bytes with SHA-256.
  EXPECT_TRUE(
      EncryptRsaOaep(public_key, DigestAlgorithm::kSha256, {}, SecretBytes(Bytes(190)), "").ok());
  EXPECT_EQ(
      ReasonOf(EncryptRsaOaep(public_key, DigestAlgorithm::kSha256, {}, SecretBytes(Bytes(191)), "")
                   .status()),
      Reason::kKeyUnsupported);
  const auto ec = PrivateKey::Generate(KeyType::kEcP256);
  EXPECT_EQ(
      ReasonOf(EncryptRsaOaep(ec->public_key(), DigestAlgorithm::kSha256, {}, secret, "").status()),
      Reason::kKeyUnsupported);
  EXPECT_EQ(
      ExitCodeOf(EncryptRsaOaep(public_key, DigestAlgorithm::kBlake2b512, {}, secret, "").status()),
      2);
}

TEST(CredentialProtectionTest, TheOtherSideAgreesOnTheSameSecret) {
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521}) {
    const internal::OwnedKey key(EVP_EC_gen(std::string(KeyTypeName(type)).c_str()));
    const auto agreed = AgreeEphemerally(PublicOf(key.get()), "peer");
    ASSERT_TRUE(agreed.ok()) << agreed.status();
    const auto ephemeral =
        PublicKey::FromEcCoordinates(type, agreed->ephemeral_x, agreed->ephemeral_y, "ephemeral");
    ASSERT_TRUE(ephemeral.ok()) << ephemeral.status();
    internal::OwnedKeyContext context(EVP_PKEY_CTX_new_from_pkey(nullptr, key.get(), nullptr));
    Bytes shared(internal::EcFieldSizeBytes(type));
    size_t size_bytes = shared.size();
    ASSERT_EQ(EVP_PKEY_derive_init(context.get()), 1);
    ASSERT_EQ(EVP_PKEY_derive_set_peer(context.get(), ephemeral->native().key.get()), 1);
    ASSERT_EQ(EVP_PKEY_derive(context.get(), shared.data(), &size_bytes), 1);
    EXPECT_TRUE(SecretBytes(std::move(shared)).Equals(agreed->shared_x));
    EXPECT_EQ(agreed->peer_x.size(), internal::EcFieldSizeBytes(type));
    // Another agreement is another secret.
    EXPECT_FALSE(AgreeEphemerally(PublicOf(key.get()), "peer")->shared_x.Equals(agreed->shared_x));
  }
  const internal::OwnedKey rsa(EVP_RSA_gen(2048));
  EXPECT_EQ(ReasonOf(AgreeEphemerally(PublicOf(rsa.get()), "peer").status()),
            Reason::kKeyUnsupported);
}

TEST(CredentialProtectionTest, AesCfbIsThatOfTheStandard) {
  // The first block is E(iv) ^ plain: of zeros, E(0) under the all-zero key, a known value.
  const auto small = EncryptAesCfb(SecretBytes(Bytes(16)), SecretBytes(Bytes(16)));
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_EQ(ToHex(*small), "66e94bd4ef8a2c3b884cfa59ca342b2e");
  const auto large = EncryptAesCfb(SecretBytes(Bytes(32)), SecretBytes(Bytes(16)));
  ASSERT_TRUE(large.ok()) << large.status();
  EXPECT_EQ(ToHex(*large), "dc95c078a2408989ad48a21492842087");
  // The second block is E(first cipher block) ^ plain, and a part of a block keeps its length.
  const auto longer = EncryptAesCfb(SecretBytes(Bytes(16)), SecretBytes(Bytes(21)));
  EXPECT_EQ(ToHex(*longer), "66e94bd4ef8a2c3b884cfa59ca342b2ef795bd4a52");
  EXPECT_EQ(ExitCodeOf(EncryptAesCfb(SecretBytes(Bytes(24)), SecretBytes()).status()), 2);
}

TEST(CredentialProtectionTest, HmacIsThatOfRfc4231) {
  // Test cases 1 and 2.
  const SecretBytes key = Secret("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b");
  EXPECT_EQ(ToHex(Hmac(DigestAlgorithm::kSha256, key, AsBytes("Hi There"))->Reveal()),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(ToHex(Hmac(DigestAlgorithm::kSha384, SecretBytes("Jefe"),
                       AsBytes("what do ya want for nothing?"))
                      ->Reveal()),
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e"
            "8e2240ca5e69e2c78b3239ecfab21649");
  EXPECT_EQ(ToHex(Hmac(DigestAlgorithm::kSha256, SecretBytes(), {})->Reveal()),
            "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

TEST(CredentialProtectionTest, APreparedKeyComputesTheSameEachTime) {
  HmacKey prepared = HmacKey::Create(DigestAlgorithm::kSha256, SecretBytes("Jefe")).value();
  Bytes mac(32);
  for (const std::string_view message : {"what do ya want for nothing?", "", "another", ""}) {
    ASSERT_TRUE(prepared.Compute(AsBytes(message), mac).ok());
    const auto once = Hmac(DigestAlgorithm::kSha256, SecretBytes("Jefe"), AsBytes(message));
    EXPECT_EQ(ToHex(mac), ToHex(once->Reveal()));
  }
  EXPECT_EQ(ExitCodeOf(prepared.Compute({}, std::span(mac).first(16))), 2);
}

}  // namespace
}  // namespace pavise::crypto
