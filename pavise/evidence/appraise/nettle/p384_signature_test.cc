#include "pavise/evidence/appraise/nettle/p384_signature.h"

#include <array>

#include "pavise/base/status.h"
#include "pavise/crypto/digest.h"
#include "pavise/evidence/appraise/testing/test_signatures.h"

#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using crypto::DigestAlgorithm;
using crypto::KeyType;
using crypto::PrivateKey;

constexpr size_t kFieldBytes = 48;

// n, the order of P-384's base point (SEC 2, 2.5.1), big-endian.
Bytes Order() {
  return FromHex(
             "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec1"
             "96a"
             "ccc52973",
             "n")
      .value();
}

Bytes Minus(const Bytes& a, ByteSpan b) {
  Bytes difference(a.size());
  int borrow = 0;
  for (size_t i = a.size(); i-- > 0;) {
    const int digit = a[i] - b[i] - borrow;
    borrow = digit < 0 ? 1 : 0;
    difference[i] = static_cast<uint8_t>(digit & 0xff);
  }
  return difference;
}

Bytes Joined(ByteSpan r, ByteSpan s) {
  Bytes pair(r.begin(), r.end());
  pair.insert(pair.end(), s.begin(), s.end());
  return pair;
}

// Nettle's answer must be OpenSSL's, to the last bit; so is that of both together.
class P384Signature : public ::testing::Test {
 protected:
  bool Verifies(const crypto::PublicKey& key, ByteSpan message, ByteSpan signature) {
    const absl::Status by_openssl =
        key.VerifyAs(crypto::SignatureScheme::kEcdsaRaw, DigestAlgorithm::kSha384, message,
                     signature, "signature");
    const Bytes digest = crypto::Digest(DigestAlgorithm::kSha384, message).value();
    EXPECT_EQ(nettle::AcceptsP384(testing::RawPoint(key, kFieldBytes), digest, signature),
              by_openssl.ok());
    EXPECT_EQ(VerifyP384(key, message, signature, "signature"), by_openssl);
    ++executed_;
    return by_openssl.ok();
  }

  PrivateKey key_ = PrivateKey::Generate(KeyType::kEcP384).value();
  const Bytes message_ = Bytes(672, 0x5a);
  const Bytes signature_ = testing::SignRaw(key_, message_, kFieldBytes);
  int executed_ = 0;
};

TEST_F(P384Signature, AnswersAsOpenssl) {
  for (int i = 0; i < 24; ++i) {
    PrivateKey key = PrivateKey::Generate(KeyType::kEcP384).value();
    const Bytes message(static_cast<size_t>(i) * 17, static_cast<uint8_t>(i));
    const Bytes signature = testing::SignRaw(key, message, kFieldBytes);
    EXPECT_TRUE(Verifies(key.public_key(), message, signature));
    EXPECT_FALSE(Verifies(key_.public_key(), message, signature));
    EXPECT_FALSE(Verifies(key.public_key(), message_, signature));
  }
  EXPECT_EQ(executed_, 72);
}

TEST_F(P384Signature, EveryBitCounts) {
  ASSERT_TRUE(Verifies(key_.public_key(), message_, signature_));
  for (size_t bit = 0; bit < 8 * signature_.size(); bit += 5) {
    Bytes changed = signature_;
    changed[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    EXPECT_FALSE(Verifies(key_.public_key(), message_, changed)) << bit;
  }
  for (size_t i = 0; i < message_.size(); i += 29) {
    Bytes changed = message_;
    changed[i] ^= 1;
    EXPECT_FALSE(Verifies(key_.public_key(), changed, signature_)) << i;
  }
  EXPECT_EQ(executed_, 179);
}

TEST_F(P384Signature, NumbersAtTheEdgesOfTheRange) {
  const ByteSpan r = ByteSpan(signature_).first(kFieldBytes);
  const ByteSpan s = ByteSpan(signature_).last(kFieldBytes);
  // The twin verifies, as ECDSA has it.
  EXPECT_TRUE(Verifies(key_.public_key(), message_, Joined(r, Minus(Order(), s))));
  Bytes one(kFieldBytes);
  one.back() = 1;
  const std::array<Bytes, 6> edges = {Bytes(kFieldBytes),
                                      one,
                                      Minus(Order(), one),
                                      Order(),
                                      Minus(Order(), Minus(Bytes(kFieldBytes), one)),  // n + 1
                                      Bytes(kFieldBytes, 0xff)};
  for (const Bytes& edge : edges) {
    EXPECT_FALSE(Verifies(key_.public_key(), message_, Joined(edge, s)));
    EXPECT_FALSE(Verifies(key_.public_key(), message_, Joined(r, edge)));
    for (const Bytes& other : edges) {
      EXPECT_FALSE(Verifies(key_.public_key(), message_, Joined(edge, other)));
    }
  }
  EXPECT_EQ(executed_, 49);
}

TEST_F(P384Signature, OtherLengthsKeysAndPoints) {
  const crypto::PublicKey& key = key_.public_key();
  EXPECT_FALSE(Verifies(key, message_, {}));
  EXPECT_FALSE(Verifies(key, message_, ByteSpan(signature_).first(95)));
  EXPECT_FALSE(Verifies(key, message_, Joined(signature_, Bytes(1))));
  PrivateKey p256 = PrivateKey::Generate(KeyType::kEcP256).value();
  EXPECT_EQ(ReasonOf(VerifyP384(p256.public_key(), message_, signature_, "signature")),
            Reason::kSignatureInvalid);
  const Bytes digest = crypto::Digest(DigestAlgorithm::kSha384, message_).value();
  Bytes point = testing::RawPoint(key, kFieldBytes);
  ASSERT_TRUE(nettle::AcceptsP384(point, digest, signature_));
  EXPECT_FALSE(nettle::AcceptsP384(point, ByteSpan(digest).first(47), signature_));
  EXPECT_FALSE(nettle::AcceptsP384(ByteSpan(point).first(95), digest, signature_));
  EXPECT_FALSE(nettle::AcceptsP384(Bytes(2 * kFieldBytes), digest, signature_));
  EXPECT_FALSE(nettle::AcceptsP384(Bytes(2 * kFieldBytes, 0xff), digest, signature_));
  point.back() ^= 1;  // off the curve
  EXPECT_FALSE(nettle::AcceptsP384(point, digest, signature_));
}

}  // namespace
}  // namespace pavise::evidence
