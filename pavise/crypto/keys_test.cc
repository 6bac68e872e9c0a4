#include "pavise/crypto/keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/credential_protection.h"
#include "pavise/crypto/internal/openssl.h"
#include "pavise/crypto/testing/test_files.h"

namespace pavise::crypto {
namespace {

using pavise::testing::TemporaryDirectory;
using testing::HasProgram;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ReadText;
using testing::RunCommand;
using ::testing::StartsWith;
using testing::VectorsDirectory;

constexpr KeyType kCurves[] = {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521};
const Bytes kMessage = {'m', 'o', 'd', 'e', 'l'};

Bytes Hex(std::string_view text) { return FromHex(text, "test").value(); }

std::string DigestOption(KeyType type) {
  return type == KeyType::kEcP256 ? "-sha256" : type == KeyType::kEcP384 ? "-sha384" : "-sha512";
}

// ECDSA vectors with the deterministic nonces of RFC 6979, A.2.5 to A.2.7, message "sample".
struct EcdsaAnswer {
  KeyType type;
  std::string_view x, y, r, s;
};
constexpr EcdsaAnswer kRfc6979[] = {
    {KeyType::kEcP256, "60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6",
     "7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299",
     "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716",
     "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8"},
    {KeyType::kEcP384,
     "EC3A4E415B4E19A4568618029F427FA5DA9A8BC4AE92E02E06AAE5286B300C64DEF8F0EA9055866064A25451"
     "5480BC13",
     "8015D9B72D7D57244EA8EF9AC0C621896708A59367F9DFB9F54CA84B3F1C9DB1288B231C3AE0D4FE7344FD25"
     "33264720",
     "94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E"
     "80FABE46",
     "99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A"
     "38628AC8"},
    {KeyType::kEcP521,
     "01894550D0785932E00EAA23B694F213F8C3121F86DC97A04E5A7167DB4E5BCD371123D46E45DB6B5D5370A7"
     "F20FB633155D38FFA16D2BD761DCAC474B9A2F5023A4",
     "00493101C962CD4D2FDDF782285E64584139C2F91B47F87FF82354D6630F746A28A0DB25741B5B34A828008B"
     "22ACC23F924FAAFBD4D33F81EA66956DFEAA2BFDFCF5",
     "00C328FAFCBD79DD77850370C46325D987CB525569FB63C5D3BC53950E6D4C5F174E25A1EE9017B5D450606A"
     "DD152B534931D7D4E8455CC91F9B15BF05EC36E377FA",
     "00617CCE7CF5064806C467F678D3B4080D6F1CC50AF26CA209417308281B68AF282623EAA63E5B5C0723D8B8"
     "C37FF0777B1A20F8CCB1DCCC43997F1EE0E44DA4A67A"},
};

PublicKey KeyOf(const EcdsaAnswer& answer) {
  Bytes point = {0x04};
  for (const std::string_view part : {answer.x, answer.y}) {
    const Bytes bytes = Hex(part);
    point.insert(point.end(), bytes.begin(), bytes.end());
  }
  return internal::EcPublicKeyFromPoint(answer.type, point, "vector").value();
}

Bytes SignatureOf(const EcdsaAnswer& answer) {
  Bytes raw = Hex(answer.r);
  const Bytes s = Hex(answer.s);
  raw.insert(raw.end(), s.begin(), s.end());
  return internal::EcdsaDerFromRaw(answer.type, raw, "vector").value();
}

TEST(PublicKeyTest, Rfc6979Vectors) {
  int executed = 0;
  for (const EcdsaAnswer& answer : kRfc6979) {
    const PublicKey key = KeyOf(answer);
    EXPECT_EQ(key.type(), answer.type);
    EXPECT_TRUE(key.Verify(AsBytes("sample"), SignatureOf(answer), "vector").ok())
        << KeyTypeName(answer.type);
    EXPECT_EQ(ReasonOf(key.Verify(AsBytes("samplf"), SignatureOf(answer), "vector")),
              Reason::kSignatureInvalid);
    EXPECT_EQ(ReasonOf(key.Verify({}, SignatureOf(answer), "vector")), Reason::kSignatureInvalid);
    ++executed;
  }
  EXPECT_EQ(executed, 3);
}

TEST(PublicKeyTest, Rfc8032Vectors) {
  struct {
    std::string_view key, message, signature;
  } const answers[] = {
      {"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
       "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e3970"
       "1cf9b46bd25bf5f0595bbe24655141438e7a100b"},
      {"3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
       "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613"
       "d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"},
  };
  int executed = 0;
  for (const auto& answer : answers) {
    Bytes der = Hex("302a300506032b6570032100");
    const Bytes raw = Hex(answer.key);
    der.insert(der.end(), raw.begin(), raw.end());
    const PublicKey key = PublicKey::FromDer(der, "vector").value();
    EXPECT_EQ(key.type(), KeyType::kEd25519);
    EXPECT_FALSE(IsOmsKey(key.type()));
    Bytes signature = Hex(answer.signature);
    EXPECT_TRUE(key.Verify(Hex(answer.message), signature, "vector").ok());
    for (size_t i = 0; i < signature.size(); ++i) {
      signature[i] ^= 1;
      EXPECT_EQ(ReasonOf(key.Verify(Hex(answer.message), signature, "vector")),
                Reason::kSignatureInvalid);
      signature[i] ^= 1;
    }
    signature.push_back(0);
    EXPECT_EQ(ReasonOf(key.Verify(Hex(answer.message), signature, "vector")),
              Reason::kSignatureInvalid);
    EXPECT_EQ(ReasonOf(key.VerifyEcdsaSha256(Hex(answer.message), signature, "vector")),
              Reason::kKeyUnsupported);
    ++executed;
  }
  EXPECT_EQ(executed, 2);
}

TEST(PublicKeyTest, EveryFlippedBitOfASignatureIsRefused) {
  size_t executed = 0;
  size_t bits = 0;
  for (const EcdsaAnswer& answer : kRfc6979) {
    const PublicKey key = KeyOf(answer);
    Bytes signature = SignatureOf(answer);
    bits += signature.size() * 8;
    for (size_t bit = 0; bit < signature.size() * 8; ++bit) {
      signature[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
      EXPECT_EQ(ReasonOf(key.Verify(AsBytes("sample"), signature, "vector")),
                Reason::kSignatureInvalid)
          << KeyTypeName(answer.type) << " bit " << bit;
      signature[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
      ++executed;
    }
    for (size_t length = 0; length < signature.size(); ++length) {
      EXPECT_EQ(
          ReasonOf(key.Verify(AsBytes("sample"), ByteSpan(signature).first(length), "vector")),
          Reason::kSignatureInvalid);
    }
  }
  EXPECT_EQ(executed, bits);
  EXPECT_GE(executed, 2000u);
}

// All spellings hold the right r and s; only the first is DER.
TEST(PublicKeyTest, OnlyCanonicalDerIsAccepted) {
  const EcdsaAnswer& answer = kRfc6979[0];
  const PublicKey key = KeyOf(answer);
  const std::string r(answer.r), s(answer.s);
  const auto accepts = [&](const std::string& hex) {
    return key.Verify(AsBytes("sample"), Hex(hex), "vector").ok();
  };
  // Both have their high bit set, hence the 00.
  ASSERT_TRUE(accepts("3046022100" + r + "022100" + s));
  EXPECT_EQ(Hex("3046022100" + r + "022100" + s), SignatureOf(answer));
  const std::string spellings[] = {
      "3044"
      "0220" +
          r + "0220" + s,  // negative
      "3045"
      "0220" +
          r + "022100" + s,               // r negative
      "304702220000" + r + "022100" + s,  // r padded
      "3047022100" + r + "02220000" + s,  // s padded
      "308146022100" + r + "022100" + s,  // long form of a short length
      "30820046022100" + r + "022100" + s,
      "304702812100" + r + "022100" + s,           // of r's length
      "3080022100" + r + "022100" + s + "0000",    // indefinite length
      "3046022100" + r + "022100" + s + "00",      // after the end
      "3048022100" + r + "022100" + s + "0500",    // inside the sequence
      "3049022100" + r + "022100" + s + "020100",  // a third integer
      "3146022100" + r + "022100" + s,             // SET
      r + s,                                       // raw
      "3046022100" + s + "022100" + r,             // swapped
      "",
      "00",
      "30",
      "3000",
      "3023022100" + r,  // no s
  };
  int executed = 0;
  for (const std::string& spelling : spellings) {
    EXPECT_EQ(ReasonOf(key.Verify(AsBytes("sample"), Hex(spelling), "vector")),
              Reason::kSignatureInvalid)
        << spelling;
    EXPECT_EQ(ReasonOf(key.VerifyEcdsaSha256(AsBytes("sample"), Hex(spelling), "vector")),
              Reason::kSignatureInvalid)
        << spelling;
    ++executed;
  }
  EXPECT_EQ(executed, 19);
}

TEST(PublicKeyTest, RAndSLieInsideTheCurvesRange) {
  const EcdsaAnswer& answer = kRfc6979[0];
  const PublicKey key = KeyOf(answer);
  const std::string order = "FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551";
  const std::string r(answer.r), s(answer.s);
  // r + n and s + n, which a verifier that reduces without a check takes for r and s.
  const auto plus_order = [&](const std::string& hex) {
    const Bytes left = Hex(hex), right = Hex(order);
    Bytes sum(33);
    int carry = 0;
    for (int i = 31; i >= 0; --i) {
      carry += left[i] + right[i];
      sum[i + 1] = static_cast<uint8_t>(carry);
      carry >>= 8;
    }
    sum[0] = static_cast<uint8_t>(carry);
    return ToHex(sum);
  };
  const std::string candidates[] = {
      "3026020100022100" + s,                     // r = 0
      "3026022100" + r + "020100",                // s = 0
      "3006020100020100",                         // both
      "3046022100" + order + "022100" + s,        // r = n
      "3046022100" + r + "022100" + order,        // s = n
      "30460221" + plus_order(r) + "022100" + s,  // r + n
      "3046022100" + r + "0221" + plus_order(s),  // s + n
      "30060201ff022100" + s,
  };
  int executed = 0;
  for (const std::string& candidate : candidates) {
    EXPECT_EQ(ReasonOf(key.Verify(AsBytes("sample"), Hex(candidate), "vector")),
              Reason::kSignatureInvalid)
        << candidate;
    ++executed;
  }
  EXPECT_EQ(executed, 8);
}

TEST(PublicKeyTest, WrongKeyAndWrongHashAreRefused) {
  for (const KeyType type : kCurves) {
    PrivateKey key = PrivateKey::Generate(type).value();
    PrivateKey other = PrivateKey::Generate(type).value();
    const Bytes signature = key.Sign(kMessage).value();
    EXPECT_TRUE(key.public_key().Verify(kMessage, signature, "model").ok());
    const absl::Status wrong_key = other.public_key().Verify(kMessage, signature, "model");
    EXPECT_EQ(ReasonOf(wrong_key), Reason::kSignatureInvalid);
    EXPECT_EQ(RefusalsOf(wrong_key)[0].item, "model");
    for (const KeyType other_type : kCurves) {
      if (other_type == type) continue;
      PrivateKey other_curve = PrivateKey::Generate(other_type).value();
      EXPECT_EQ(ReasonOf(other_curve.public_key().Verify(kMessage, signature, "model")),
                Reason::kSignatureInvalid);
    }
    // The hash belongs to the curve: only on P-256 is SHA-256 the same thing.
    EXPECT_EQ(key.public_key().VerifyEcdsaSha256(kMessage, signature, "model").ok(),
              type == KeyType::kEcP256);
  }
}

TEST(PublicKeyTest, OmsVectorsHint) {
  const auto vectors = VectorsDirectory();
  if (!vectors) GTEST_SKIP() << "no folder of vectors";
  const std::string path = *vectors + "/oms/keys/signing-key-pub.pem";
  const auto key = PublicKey::FromPem(ReadText(path), path);
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ(key->type(), KeyType::kEcP384);
  EXPECT_THAT(key->OmsHint(), StartsWith("e8450dec"));
  // The file has certtool's explanations before the block; the hint is that of the block alone.
  EXPECT_THAT(ReadText(path), HasSubstr(key->ToPem()));
  EXPECT_THAT(ReadText(*vectors + "/oms/releases/v1.1.0-elliptic-key/model.sig"),
              HasSubstr(key->OmsHint()));
}

TEST(PublicKeyTest, PemIsReadStrictly) {
  const PrivateKey first = PrivateKey::Generate(KeyType::kEcP256).value();
  const PrivateKey second = PrivateKey::Generate(KeyType::kEcP256).value();
  const std::string pem = first.public_key().ToPem();
  const std::string good[] = {pem, "\n " + pem + "\r\n\t ", "Explained before\n" + pem,
                              pem.substr(0, pem.size() - 1)};
  for (const std::string& text : good) {
    const auto key = PublicKey::FromPem(text, "key.pem");
    ASSERT_TRUE(key.ok()) << key.status();
    EXPECT_EQ(*key, first.public_key());
    EXPECT_EQ(key->ToPem(), pem);
  }
  std::string crlf;
  for (const char c : pem) crlf += c == '\n' ? std::string("\r\n") : std::string(1, c);
  EXPECT_TRUE(PublicKey::FromPem(crlf, "key.pem").ok());

  const std::string private_pem(first.ToPem(SecretBytes()).value().RevealText());
  const std::string bad[] = {
      "",
      "\n",
      "not a key",
      pem + second.public_key().ToPem(),
      second.public_key().ToPem() + pem,
      private_pem + pem,
      pem + private_pem,
      private_pem,
      pem + "garbage",
      pem + std::string(1, '\0'),
      pem.substr(0, pem.size() / 2),
      pem.substr(pem.size() / 2),
      "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
      "-----BEGIN PUBLIC KEY-----\nProc-Type: 4,ENCRYPTED\n\n" + pem.substr(27),
      "-----BEGIN CERTIFICATE-----" + pem.substr(26),
  };
  int executed = 0;
  for (const std::string& text : bad) {
    EXPECT_EQ(ReasonOf(PublicKey::FromPem(text, "key.pem").status()), Reason::kMalformed) << text;
    ++executed;
  }
  EXPECT_EQ(executed, 15);
  EXPECT_EQ(ReasonOf(PublicKey::FromPem(std::string(100'000, ' ') + pem, "key.pem").status()),
            Reason::kLimitExceeded);
}

TEST(PublicKeyTest, EveryFlippedBitOfAPemKeyIsRefused) {
  for (const KeyType type : kCurves) {
    const PublicKey key = PrivateKey::Generate(type).value().public_key();
    std::string pem = key.ToPem();
    for (size_t bit = 0; bit < pem.size() * 8; ++bit) {
      pem[bit / 8] = static_cast<char>(pem[bit / 8] ^ (1 << (bit % 8)));
      EXPECT_FALSE(PublicKey::FromPem(pem, "key.pem").ok()) << "bit " << bit << "\n" << pem;
      pem[bit / 8] = static_cast<char>(pem[bit / 8] ^ (1 << (bit % 8)));
    }
    ASSERT_TRUE(PublicKey::FromPem(pem, "key.pem").ok());
  }
}

TEST(PublicKeyTest, DerIsReadWhole) {
  Bytes der = PrivateKey::Generate(KeyType::kEcP256).value().public_key().der();
  ASSERT_TRUE(PublicKey::FromDer(der, "key").ok());
  for (size_t length = 0; length < der.size(); ++length) {
    EXPECT_FALSE(PublicKey::FromDer(ByteSpan(der).first(length), "key").ok());
  }
  der.push_back(0);
  EXPECT_EQ(ReasonOf(PublicKey::FromDer(der, "key").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(PublicKey::FromDer(Bytes(20'000), "key").status()), Reason::kLimitExceeded);
}

TEST(PublicKeyTest, PointsOffTheCurveAreRefused) {
  for (const EcdsaAnswer& answer : kRfc6979) {
    Bytes der = KeyOf(answer).der();
    der.back() ^= 1;
    EXPECT_EQ(ReasonOf(PublicKey::FromDer(der, "key").status()), Reason::kMalformed);
    Bytes point(1 + 2 * internal::EcFieldSizeBytes(answer.type), 0);
    point[0] = 0x04;  // (0, 0)
    EXPECT_EQ(ReasonOf(internal::EcPublicKeyFromPoint(answer.type, point, "key").status()),
              Reason::kMalformed);
    EXPECT_EQ(ReasonOf(internal::EcPublicKeyFromPoint(answer.type, Bytes{0}, "key").status()),
              Reason::kMalformed);  // the point at infinity
  }
}

// What OpenSSL reads and cannot write again is the input's fault: a refusal, no machine failure.
TEST(PublicKeyTest, ThePointAtInfinityIsRefused) {
  const auto der = FromHex(
      "301a301306072a8648ce3d020106082a8648ce3d030107"
      "03030000"
      "",
      "key");
  ASSERT_TRUE(der.ok());
  const absl::Status status = PublicKey::FromDer(*der, "key").status();
  EXPECT_TRUE(ReasonOf(status).has_value()) << status;
}

// DER in its usual spelling is read without OpenSSL's decoder: what is written is the same.
TEST(PublicKeyTest, AKeyIsReadAsOpensslWritesIt) {
  for (const KeyType type : kCurves) {
    const PrivateKey generated = PrivateKey::Generate(type).value();
    const Bytes& der = generated.public_key().der();
    internal::OwnedKey key(EVP_PKEY_dup(generated.public_key().native().key.get()));
    unsigned char* encoded = nullptr;
    const int size_bytes = i2d_PUBKEY(key.get(), &encoded);
    ASSERT_GT(size_bytes, 0);
    const internal::OwnedBuffer owned(encoded);
    EXPECT_EQ(der, Bytes(encoded, encoded + size_bytes)) << KeyTypeName(type);
    EXPECT_EQ(PublicKey::FromDer(der, "key").value(), generated.public_key());
    for (size_t bit = 0; bit < der.size() * 8; ++bit) {
      Bytes flipped = der;
      flipped[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      const auto read = PublicKey::FromDer(flipped, "key");
      // An object identifier of another algorithm or curve may be known to OpenSSL.
      EXPECT_TRUE(!read.ok() || read->type() == KeyType::kOther) << KeyTypeName(type) << bit;
    }
  }
}

// x and x + p are the same element of the field; only one of them is a coordinate.
TEST(PublicKeyTest, CoordinatesLieBelowThePrime) {
  Bytes compressed(33, 0);
  compressed[0] = 0x02;
  const PublicKey key = internal::EcPublicKeyFromPoint(KeyType::kEcP256, compressed, "key").value();
  const Bytes prime = Hex("ffffffff00000001000000000000000000000000ffffffffffffffffffffffff");
  Bytes der = key.der();
  EXPECT_TRUE(PublicKey::FromDer(der, "key").ok());
  std::copy(prime.begin(), prime.end(), der.end() - 64);
  EXPECT_EQ(ReasonOf(PublicKey::FromDer(der, "key").status()), Reason::kMalformed);
  EXPECT_EQ(
      ReasonOf(PublicKey::FromEcCoordinates(KeyType::kEcP256, prime, ByteSpan(der).last(32), "key")
                   .status()),
      Reason::kMalformed);
}

TEST(PublicKeyTest, ACompressedPointIsTheSameKey) {
  for (const EcdsaAnswer& answer : kRfc6979) {
    const PublicKey key = KeyOf(answer);
    Bytes compressed = Hex(answer.x);
    compressed.insert(compressed.begin(), (Hex(answer.y).back() & 1) != 0 ? 0x03 : 0x02);
    const PublicKey same = internal::EcPublicKeyFromPoint(answer.type, compressed, "key").value();
    EXPECT_EQ(same, key);
    EXPECT_EQ(same.Fingerprint(), key.Fingerprint());
    EXPECT_EQ(same.OmsHint(), key.OmsHint());
  }
}

TEST(PrivateKeyTest, OtherTypesAreAUsageError) {
  for (const KeyType type : {KeyType::kRsa, KeyType::kOther}) {
    EXPECT_EQ(ExitCodeOf(PrivateKey::Generate(type).status()), 2);
  }
}

TEST(PrivateKeyTest, RoundTripsThroughPem) {
  const SecretBytes password("p\xc3\xa4ss word");
  for (const KeyType type : kCurves) {
    const PrivateKey key = PrivateKey::Generate(type).value();
    const SecretBytes plain = key.ToPem(SecretBytes()).value();
    const SecretBytes encrypted = key.ToPem(password).value();
    EXPECT_THAT(std::string(plain.RevealText()), StartsWith("-----BEGIN PRIVATE KEY-----\n"));
    EXPECT_THAT(std::string(encrypted.RevealText()),
                StartsWith("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
    // A password given for a key that needs none does no harm.
    for (const SecretBytes* pem : {&plain, &encrypted}) {
      auto read = PrivateKey::FromPem(*pem, password, "key.pem");
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ(read->public_key(), key.public_key());
      const Bytes signature = read->Sign(kMessage).value();
      EXPECT_TRUE(key.public_key().Verify(kMessage, signature, "model").ok());
    }
    EXPECT_TRUE(PrivateKey::FromPem(plain, SecretBytes(), "key.pem").ok());

    const absl::Status none = PrivateKey::FromPem(encrypted, SecretBytes(), "key.pem").status();
    EXPECT_EQ(ReasonOf(none), Reason::kKeyUnsupported);
    EXPECT_THAT(RefusalsOf(none)[0].remedy, HasSubstr("--password"));
    const absl::Status wrong =
        PrivateKey::FromPem(encrypted, SecretBytes("other"), "key.pem").status();
    EXPECT_EQ(ReasonOf(wrong), Reason::kKeyUnsupported);
    EXPECT_THAT(RefusalsOf(wrong)[0].detail, HasSubstr("password"));
    EXPECT_EQ(
        ReasonOf(PrivateKey::FromPem(encrypted, SecretBytes(std::string(5000, 'x')), "key.pem")
                     .status()),
        Reason::kKeyUnsupported);
  }
  EXPECT_EQ(ExitCodeOf(PrivateKey::Generate(KeyType::kEcP256)
                           .value()
                           .ToPem(SecretBytes(std::string(5000, 'x')))
                           .status()),
            2);
}

TEST(PrivateKeyTest, BadPemIsRefused) {
  const PrivateKey key = PrivateKey::Generate(KeyType::kEcP256).value();
  const std::string pem(key.ToPem(SecretBytes()).value().RevealText());
  const std::string bad[] = {
      "",
      "no key",
      pem + pem,
      key.public_key().ToPem(),
      pem + key.public_key().ToPem(),
      pem.substr(0, pem.size() / 2),
      "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
  };
  int executed = 0;
  for (const std::string& text : bad) {
    EXPECT_EQ(ReasonOf(PrivateKey::FromPem(SecretBytes(text), SecretBytes(), "key.pem").status()),
              Reason::kMalformed)
        << text;
    ++executed;
  }
  EXPECT_EQ(executed, 7);
  EXPECT_EQ(
      ReasonOf(PrivateKey::FromPem(SecretBytes(std::string(100'000, 'x')), SecretBytes(), "key.pem")
                   .status()),
      Reason::kLimitExceeded);
}

TEST(PrivateKeyTest, AMismatchedPublicHalfIsRefused) {
  const PrivateKey first = PrivateKey::Generate(KeyType::kEcP256).value();
  const PrivateKey second = PrivateKey::Generate(KeyType::kEcP256).value();
  const auto der = [](const PrivateKey& key) {
    return internal::DecodePemBlock(key.ToPem(SecretBytes()).value().RevealText(), "PRIVATE KEY",
                                    "key")
        .value();
  };
  // The public point is the end of the PKCS #8 encoding.
  Bytes mixed = der(first);
  const Bytes other = der(second);
  ASSERT_EQ(mixed.size(), other.size());
  std::copy(other.end() - 65, other.end(), mixed.end() - 65);
  EXPECT_EQ(
      ReasonOf(PrivateKey::FromPem(SecretBytes(internal::EncodePemBlock(mixed, "PRIVATE KEY")),
                                   SecretBytes(), "key.pem")
                   .status()),
      Reason::kMalformed);
}

TEST(PrivateKeyTest, EmptyAndLongMessages) {
  PrivateKey key = PrivateKey::Generate(KeyType::kEcP384).value();
  for (const size_t size_bytes : {0u, 1u, 111u, 112u, 127u, 128u, 129u, 100'000u}) {
    const Bytes message(size_bytes, 0x5a);
    const Bytes signature = key.Sign(message).value();
    EXPECT_TRUE(key.public_key().Verify(message, signature, "model").ok());
    Bytes longer = message;
    longer.push_back(0x5a);
    EXPECT_EQ(ReasonOf(key.public_key().Verify(longer, signature, "model")),
              Reason::kSignatureInvalid);
  }
}

// The openssl program as the oracle, in both directions.
class OpensslTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasProgram("openssl")) GTEST_SKIP() << "the openssl program is not installed";
  }
  void Run(const std::string& arguments) {
    const auto result = RunCommand("cd " + directory_.path() + " && openssl " + arguments);
    ASSERT_EQ(result.exit_code, 0) << arguments << "\n" << result.output;
  }
  absl::StatusOr<PrivateKey> ReadPrivate(const std::string& name,
                                         const std::string& password = "") {
    return PrivateKey::FromPem(SecretBytes(ReadText(directory_ / name)), SecretBytes(password),
                               name);
  }
  absl::StatusOr<PublicKey> ReadPublic(const std::string& name) {
    return PublicKey::FromPem(ReadText(directory_ / name), name);
  }
  TemporaryDirectory directory_;
};

TEST_F(OpensslTest, ReadsOurKeysAndSignatures) {
  directory_.Write("message", AsText(kMessage));
  for (const KeyType type : kCurves) {
    PrivateKey key = PrivateKey::Generate(type).value();
    directory_.Write("plain.pem", key.ToPem(SecretBytes()).value().RevealText());
    directory_.Write("encrypted.pem", key.ToPem(SecretBytes("secret")).value().RevealText());
    directory_.Write("public.pem", key.public_key().ToPem());
    directory_.Write("signature", AsText(key.Sign(kMessage).value()));
    Run("pkey -in plain.pem -pubout -out plain_public.pem");
    Run("pkey -in encrypted.pem -passin pass:secret -pubout -out encrypted_public.pem");
    EXPECT_EQ(ReadText(directory_ / "plain_public.pem"), key.public_key().ToPem());
    EXPECT_EQ(ReadText(directory_ / "encrypted_public.pem"), key.public_key().ToPem());
    Run("dgst " + DigestOption(type) + " -verify public.pem -signature signature message");
    const auto structure =
        RunCommand("cd " + directory_.path() + " && openssl asn1parse -in encrypted.pem");
    EXPECT_THAT(structure.output, HasSubstr("PBES2"));
    EXPECT_THAT(structure.output, HasSubstr("hmacWithSHA256"));
    EXPECT_THAT(structure.output, HasSubstr("aes-256-cbc"));
    EXPECT_THAT(structure.output, HasSubstr(":0927C0"));  // 600,000 iterations
  }
}

TEST_F(OpensslTest, WeReadItsKeysAndSignatures) {
  directory_.Write("message", AsText(kMessage));
  const std::pair<KeyType, std::string> curves[] = {{KeyType::kEcP256, "prime256v1"},
                                                    {KeyType::kEcP384, "secp384r1"},
                                                    {KeyType::kEcP521, "secp521r1"}};
  int executed = 0;
  for (const auto& [type, name] : curves) {
    Run("ecparam -name " + name + " -genkey -out sec1.pem");  // with an EC PARAMETERS block
    Run("ec -in sec1.pem -out sec1_bare.pem");
    Run("ec -in sec1.pem -aes128 -passout pass:secret -out sec1_encrypted.pem");
    Run("pkcs8 -topk8 -nocrypt -in sec1.pem -out pkcs8.pem");
    Run("pkcs8 -topk8 -passout pass:secret -in sec1.pem -out pkcs8_encrypted.pem");
    Run("ec -in sec1.pem -pubout -out public.pem");
    Run("ec -in sec1.pem -pubout -conv_form compressed -out compressed.pem");
    Run("dgst " + DigestOption(type) + " -sign sec1.pem -out signature message");
    const PublicKey key = ReadPublic("public.pem").value();
    EXPECT_EQ(key.type(), type);
    EXPECT_EQ(key.ToPem(), ReadText(directory_ / "public.pem"));
    EXPECT_EQ(ReadPublic("compressed.pem").value(), key);
    EXPECT_TRUE(key.Verify(kMessage, AsBytes(ReadText(directory_ / "signature")), "model").ok());
    for (const std::string file : {"sec1.pem", "sec1_bare.pem", "pkcs8.pem"}) {
      auto read = ReadPrivate(file);
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ(read->public_key(), key) << file;
      ++executed;
    }
    for (const std::string file : {"sec1_encrypted.pem", "pkcs8_encrypted.pem"}) {
      auto read = ReadPrivate(file, "secret");
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ(read->public_key(), key) << file;
      EXPECT_EQ(ReasonOf(ReadPrivate(file).status()), Reason::kKeyUnsupported);
      EXPECT_EQ(ReasonOf(ReadPrivate(file, "wrong").status()), Reason::kKeyUnsupported);
      ++executed;
    }
    // 0.2.0 of the reference tool: SHA-256 on every curve.
    Run("dgst -sha256 -sign sec1.pem -out signature256 message");
    const std::string signature = ReadText(directory_ / "signature256");
    EXPECT_TRUE(key.VerifyEcdsaSha256(kMessage, AsBytes(signature), "model").ok());
    EXPECT_EQ(key.Verify(kMessage, AsBytes(signature), "model").ok(), type == KeyType::kEcP256);
  }
  EXPECT_EQ(executed, 15);
}

TEST_F(OpensslTest, KeysThatDoNotSignModels) {
  Run("ecparam -name secp256k1 -genkey -noout -out koblitz.pem");
  Run("ec -in koblitz.pem -pubout -out koblitz_public.pem");
  Run("ecparam -name prime256v1 -param_enc explicit -genkey -noout -out explicit.pem");
  Run("ec -in explicit.pem -param_enc explicit -pubout -out explicit_public.pem");
  Run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem");
  Run("genpkey -algorithm ed25519 -out ed25519.pem");
  Run("genpkey -algorithm x25519 -out x25519.pem");
  Run("pkey -in x25519.pem -pubout -out x25519_public.pem");
  int executed = 0;
  for (const std::string file :
       {"koblitz.pem", "explicit.pem", "rsa.pem", "ed25519.pem", "x25519.pem"}) {
    const absl::Status status = ReadPrivate(file).status();
    EXPECT_EQ(ReasonOf(status), Reason::kKeyUnsupported) << file << " " << status;
    EXPECT_THAT(RefusalsOf(status)[0].remedy, HasSubstr("P-256")) << file;
    ++executed;
  }
  EXPECT_EQ(executed, 5);
  EXPECT_EQ(ReasonOf(ReadPublic("explicit_public.pem").status()), Reason::kKeyUnsupported);
  for (const std::string file : {"koblitz_public.pem", "x25519_public.pem"}) {
    const PublicKey key = ReadPublic(file).value();
    EXPECT_EQ(key.type(), KeyType::kOther);
    EXPECT_FALSE(IsOmsKey(key.type()));
    EXPECT_EQ(ReasonOf(key.Verify(kMessage, Hex("3006020101020101"), "model")),
              Reason::kKeyUnsupported);
  }
}

TEST_F(OpensslTest, RsaSignatures) {
  directory_.Write("message", AsText(kMessage));
  Run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem");
  Run("pkey -in rsa.pem -pubout -out public.pem");
  Run("dgst -sha256 -sign rsa.pem -out signature message");
  Run("dgst -sha1 -sign rsa.pem -out signature_sha1 message");
  Run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out short.pem");
  Run("pkey -in short.pem -pubout -out short_public.pem");
  const PublicKey key = ReadPublic("public.pem").value();
  EXPECT_EQ(key.type(), KeyType::kRsa);
  const std::string text = ReadText(directory_ / "signature");
  Bytes signature(text.begin(), text.end());
  EXPECT_TRUE(key.Verify(kMessage, signature, "model").ok());
  for (size_t i = 0; i < signature.size(); ++i) {
    signature[i] ^= 0x10;
    EXPECT_EQ(ReasonOf(key.Verify(kMessage, signature, "model")), Reason::kSignatureInvalid);
    signature[i] ^= 0x10;
  }
  EXPECT_EQ(
      ReasonOf(key.Verify(kMessage, AsBytes(ReadText(directory_ / "signature_sha1")), "model")),
      Reason::kSignatureInvalid);
  EXPECT_EQ(ReasonOf(key.Verify(kMessage, {}, "model")), Reason::kSignatureInvalid);
  EXPECT_EQ(ReasonOf(ReadPublic("short_public.pem").status()), Reason::kKeyUnsupported);
}

TEST(PublicKeyTest, EcdsaUnderNamedSchemes) {
  int executed = 0;
  for (const EcdsaAnswer& answer : kRfc6979) {
    const PublicKey key =
        PublicKey::FromEcCoordinates(answer.type, Hex(answer.x), Hex(answer.y), "vector").value();
    EXPECT_EQ(key, KeyOf(answer));
    const DigestAlgorithm digest = answer.type == KeyType::kEcP256   ? DigestAlgorithm::kSha256
                                   : answer.type == KeyType::kEcP384 ? DigestAlgorithm::kSha384
                                                                     : DigestAlgorithm::kSha512;
    Bytes raw = Hex(answer.r);
    const Bytes s = Hex(answer.s);
    raw.insert(raw.end(), s.begin(), s.end());
    const auto verdict = [&](SignatureScheme scheme, DigestAlgorithm by, ByteSpan signature) {
      const absl::Status status = key.VerifyAs(scheme, by, AsBytes("sample"), signature, "vector");
      return status.ok() ? "ok" : std::string(ReasonName(*ReasonOf(status)));
    };
    EXPECT_EQ(verdict(SignatureScheme::kEcdsaRaw, digest, raw), "ok");
    EXPECT_EQ(verdict(SignatureScheme::kEcdsaDer, digest, SignatureOf(answer)), "ok");
    Bytes hashed = *Digest(digest, AsBytes("sample"));
    const auto over_digest = [&](SignatureScheme scheme) {
      return ReasonOf(key.VerifyDigest(scheme, digest, hashed, SignatureOf(answer), "vector"));
    };
    EXPECT_EQ(over_digest(SignatureScheme::kEcdsaDer), std::nullopt);
    EXPECT_EQ(over_digest(SignatureScheme::kEcdsaRaw), Reason::kUnsupported);
    EXPECT_EQ(over_digest(SignatureScheme::kRsaPkcs1), Reason::kKeyUnsupported);
    hashed[0] ^= 1;
    EXPECT_EQ(over_digest(SignatureScheme::kEcdsaDer), Reason::kSignatureInvalid);
    hashed.pop_back();
    EXPECT_EQ(over_digest(SignatureScheme::kEcdsaDer), Reason::kMalformed);
    for (size_t i = 0; i < raw.size(); ++i) {
      raw[i] ^= 1;
      EXPECT_EQ(verdict(SignatureScheme::kEcdsaRaw, digest, raw), "signature-invalid") << i;
      raw[i] ^= 1;
    }
    EXPECT_EQ(verdict(SignatureScheme::kEcdsaDer, digest, raw), "signature-invalid");
    EXPECT_EQ(verdict(SignatureScheme::kEcdsaRaw, digest, SignatureOf(answer)),
              "signature-invalid");
    EXPECT_EQ(verdict(SignatureScheme::kEcdsaRaw, digest, ByteSpan(raw).first(raw.size() - 1)),
              "signature-invalid");
    EXPECT_EQ(verdict(SignatureScheme::kEcdsaRaw,
                      digest == DigestAlgorithm::kSha256 ? DigestAlgorithm::kSha384
                                                         : DigestAlgorithm::kSha256,
                      raw),
              "signature-invalid");
    EXPECT_EQ(verdict(SignatureScheme::kEcdsaRaw, DigestAlgorithm::kSha1, raw), "unsupported");
    EXPECT_EQ(verdict(SignatureScheme::kRsaPss, digest, raw), "key-unsupported");

    Bytes x = Hex(answer.x);
    x.back() ^= 1;
    EXPECT_EQ(ReasonOf(PublicKey::FromEcCoordinates(answer.type, x, Hex(answer.y), "v").status()),
              Reason::kMalformed);
    x.push_back(0);
    EXPECT_EQ(ReasonOf(PublicKey::FromEcCoordinates(answer.type, x, Hex(answer.y), "v").status()),
              Reason::kMalformed);
    ++executed;
  }
  EXPECT_EQ(executed, 3);
}

TEST_F(OpensslTest, RsaUnderNamedSchemes) {
  directory_.Write("message", AsText(kMessage));
  Run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem");
  Run("pkey -in rsa.pem -pubout -out public.pem");
  const PublicKey read = ReadPublic("public.pem").value();
  // SubjectPublicKeyInfo of a 2,048 bit key with exponent 65,537: the modulus stands at 33.
  const PublicKey key =
      PublicKey::FromRsaModulus(ByteSpan(read.der()).subspan(33, 256), 65537, "key").value();
  EXPECT_EQ(key, read);
  EXPECT_EQ(ReasonOf(PublicKey::FromRsaModulus(Bytes(128, 0xc5), 65537, "key").status()),
            Reason::kKeyUnsupported);
  EXPECT_EQ(ReasonOf(PublicKey::FromRsaModulus(Bytes(4096, 0xc5), 65537, "key").status()),
            Reason::kKeyUnsupported);
  // A key that certificates may have; nothing is wrapped to it, and it is not made of its numbers.
  Run(std::string("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 ") +
      "-pkeyopt rsa_keygen_pubexp:3 -out three.pem");
  Run("pkey -in three.pem -pubout -out three.pub");
  const PublicKey three = ReadPublic("three.pub").value();
  EXPECT_EQ(
      ReasonOf(
          EncryptRsaOaep(three, DigestAlgorithm::kSha256, {}, SecretBytes("key"), "key").status()),
      Reason::kKeyUnsupported);
  EXPECT_TRUE(EncryptRsaOaep(read, DigestAlgorithm::kSha256, {}, SecretBytes("key"), "key").ok());
  for (const uint32_t exponent : {0u, 1u, 2u, 3u, 65535u, 65538u}) {
    EXPECT_EQ(ReasonOf(PublicKey::FromRsaModulus(Bytes(256, 0xc5), exponent, "key").status()),
              Reason::kKeyUnsupported)
        << exponent;
  }
  // The exponent stands at the end of the encoding; 1 and even ones, of which anybody has the rest.
  for (const uint8_t last : {0, 2}) {
    Bytes der = read.der();
    der.back() = last;
    EXPECT_EQ(ReasonOf(PublicKey::FromDer(der, "key").status()), Reason::kKeyUnsupported);
  }
  Bytes one = three.der();
  one.back() = 1;
  EXPECT_EQ(ReasonOf(PublicKey::FromDer(one, "key").status()), Reason::kKeyUnsupported);

  int executed = 0;
  for (const auto& [name, digest] : {std::pair("sha256", DigestAlgorithm::kSha256),
                                     std::pair("sha384", DigestAlgorithm::kSha384),
                                     std::pair("sha512", DigestAlgorithm::kSha512)}) {
    for (const bool pss : {false, true}) {
      Run(std::string("dgst -") + name + " -sign rsa.pem " +
          (pss ? "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest " : "") +
          "-out signature message");
      const std::string text = ReadText(directory_ / "signature");
      Bytes signature(text.begin(), text.end());
      const SignatureScheme right = pss ? SignatureScheme::kRsaPss : SignatureScheme::kRsaPkcs1;
      const SignatureScheme wrong = pss ? SignatureScheme::kRsaPkcs1 : SignatureScheme::kRsaPss;
      EXPECT_TRUE(key.VerifyAs(right, digest, kMessage, signature, "quote").ok());
      EXPECT_EQ(ReasonOf(key.VerifyAs(wrong, digest, kMessage, signature, "quote")),
                Reason::kSignatureInvalid);
      EXPECT_EQ(
          ReasonOf(key.VerifyAs(SignatureScheme::kEcdsaRaw, digest, kMessage, signature, "q")),
          Reason::kKeyUnsupported);
      if (right == SignatureScheme::kRsaPkcs1) {
        Bytes hashed = *Digest(digest, kMessage);
        EXPECT_TRUE(key.VerifyDigest(right, digest, hashed, signature, "quote").ok());
        hashed[0] ^= 1;
        EXPECT_EQ(ReasonOf(key.VerifyDigest(right, digest, hashed, signature, "quote")),
                  Reason::kSignatureInvalid);
      }
      signature[100] ^= 1;
      EXPECT_EQ(ReasonOf(key.VerifyAs(right, digest, kMessage, signature, "quote")),
                Reason::kSignatureInvalid);
      ++executed;
    }
  }
  EXPECT_EQ(executed, 6);
}

TEST(ErrorQueueTest, NothingIsLeftBehind) {
  (void)PublicKey::FromDer(Bytes{0x30, 0x03, 0x02, 0x01, 0x01}, "key");
  (void)PrivateKey::FromPem(
      SecretBytes("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"), SecretBytes(),
      "key");
  EXPECT_EQ(ERR_peek_error(), 0u);
}

TEST(EcdsaRawTest, IsWhatVerifiesAsRaw) {
  for (const KeyType type : kCurves) {
    PrivateKey key = PrivateKey::Generate(type).value();
    const Bytes der = key.Sign(kMessage).value();
    const Bytes raw = EcdsaRawFromDer(type, der, "s").value();
    EXPECT_EQ(raw.size(), 2 * internal::EcFieldSizeBytes(type));
    const DigestAlgorithm digest = type == KeyType::kEcP256   ? DigestAlgorithm::kSha256
                                   : type == KeyType::kEcP384 ? DigestAlgorithm::kSha384
                                                              : DigestAlgorithm::kSha512;
    EXPECT_TRUE(
        key.public_key().VerifyAs(SignatureScheme::kEcdsaRaw, digest, kMessage, raw, "s").ok());
    EXPECT_EQ(internal::EcdsaDerFromRaw(type, raw, "s").value(), der);
    EXPECT_EQ(ReasonOf(EcdsaRawFromDer(type, ByteSpan(der).first(der.size() - 1), "s").status()),
              Reason::kSignatureInvalid);
    EXPECT_EQ(ReasonOf(EcdsaRawFromDer(type, {}, "s").status()), Reason::kSignatureInvalid);
    EXPECT_EQ(ReasonOf(EcdsaRawFromDer(KeyType::kRsa, der, "s").status()), Reason::kKeyUnsupported);
  }
}

// RFC 8032, 7.1: tests 1 to 3.
TEST(KeysTest, Ed25519IsThatOfRfc8032) {
  struct Answer {
    std::string_view seed, public_key, message, signature;
  };
  constexpr Answer kAnswers[] = {
      {"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
       "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
       "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701c"
       "f9b46bd25bf5f0595bbe24655141438e7a100b"},
      {"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
       "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
       "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0"
       "f11d8c387b2eaeb4302aeeb00d291612bb0c00"},
      {"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
       "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
       "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f76098"
       "4dc6594a7c15e9716ed28dc027beceea1ec40a"},
  };
  int executed = 0;
  for (const Answer& answer : kAnswers) {
    const Bytes der = Hex("302e020100300506032b657004220420" + std::string(answer.seed));
    const SecretBytes pem(internal::EncodePemBlock(der, "PRIVATE KEY"));
    PrivateKey key = PrivateKey::FromPemOfAnyType(pem, SecretBytes(), "key").value();
    EXPECT_EQ(key.public_key().type(), KeyType::kEd25519);
    EXPECT_EQ(ToHex(ByteSpan(key.public_key().der()).last(32)), answer.public_key);
    const Bytes message = Hex(answer.message);
    const Bytes signature = key.Sign(message).value();
    EXPECT_EQ(ToHex(signature), answer.signature);
    EXPECT_TRUE(key.public_key().Verify(message, signature, "x").ok());
    // Models are signed with other keys.
    EXPECT_EQ(ReasonOf(PrivateKey::FromPem(pem, SecretBytes(), "key").status()),
              Reason::kKeyUnsupported);
    ++executed;
  }
  EXPECT_EQ(executed, 3);
}

TEST(KeysTest, Ed25519KeysAreMadeWrittenAndRead) {
  PrivateKey key = PrivateKey::Generate(KeyType::kEd25519).value();
  const SecretBytes password("correct horse");
  const SecretBytes pem = key.ToPem(password).value();
  PrivateKey read = PrivateKey::FromPemOfAnyType(pem, password, "key").value();
  EXPECT_EQ(read.public_key(), key.public_key());
  Bytes signature = read.Sign(kMessage).value();
  ASSERT_EQ(signature.size(), 64u);
  EXPECT_TRUE(key.public_key().Verify(kMessage, signature, "x").ok());
  EXPECT_EQ(
      ReasonOf(
          PrivateKey::Generate(KeyType::kEd25519)->public_key().Verify(kMessage, signature, "x")),
      Reason::kSignatureInvalid);
  for (size_t i = 0; i < signature.size(); ++i) {
    signature[i] ^= 1;
    EXPECT_EQ(ReasonOf(key.public_key().Verify(kMessage, signature, "x")),
              Reason::kSignatureInvalid);
    signature[i] ^= 1;
  }
  signature.push_back(0);
  EXPECT_EQ(ReasonOf(key.public_key().Verify(kMessage, signature, "x")), Reason::kSignatureInvalid);
  EXPECT_EQ(ReasonOf(PrivateKey::FromPemOfAnyType(pem, SecretBytes("wrong"), "key").status()),
            Reason::kKeyUnsupported);
}

TEST_F(OpensslTest, RsaKeysDecryptWhatWasEncryptedToThem) {
  Run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem");
  const std::string pem = ReadText(directory_.path() + "/rsa.pem");
  PrivateKey key = PrivateKey::FromPemOfAnyType(SecretBytes(pem), SecretBytes(), "key").value();
  EXPECT_EQ(key.public_key().type(), KeyType::kRsa);
  Bytes encrypted =
      EncryptRsaOaep(key.public_key(), DigestAlgorithm::kSha256, {}, SecretBytes("secret"), "x")
          .value();
  EXPECT_EQ(key.DecryptRsaOaep(DigestAlgorithm::kSha256, encrypted, "x")->RevealText(), "secret");
  EXPECT_EQ(ReasonOf(key.DecryptRsaOaep(DigestAlgorithm::kSha384, encrypted, "x").status()),
            Reason::kContentMismatch);
  encrypted[100] ^= 1;
  EXPECT_EQ(ReasonOf(key.DecryptRsaOaep(DigestAlgorithm::kSha256, encrypted, "x").status()),
            Reason::kContentMismatch);
  encrypted.pop_back();
  EXPECT_EQ(ReasonOf(key.DecryptRsaOaep(DigestAlgorithm::kSha256, encrypted, "x").status()),
            Reason::kContentMismatch);
  EXPECT_EQ(ReasonOf(PrivateKey::Generate(KeyType::kEcP256)
                         ->DecryptRsaOaep(DigestAlgorithm::kSha256, encrypted, "x")
                         .status()),
            Reason::kKeyUnsupported);
}

}  // namespace
}  // namespace pavise::crypto
