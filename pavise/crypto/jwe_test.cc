#include "pavise/crypto/jwe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/core_names.h>

#include <functional>
#include <string>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/internal/openssl.h"
#include "pavise/crypto/jwt.h"
#include "pavise/crypto/testing/test_files.h"

namespace pavise::crypto {
namespace {

using ::testing::HasSubstr;

PrivateKey Generate(KeyType type) { return PrivateKey::Generate(type).value(); }

// One RSA key for all tests: making one takes a while.
const PrivateKey& RsaKey() {
  static const PrivateKey* const key = [] {
    const internal::OwnedKey raw_key(EVP_RSA_gen(2048));
    const internal::OwnedBio bio(BIO_new(BIO_s_mem()));
    PEM_write_bio_PKCS8PrivateKey(bio.get(), raw_key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    char* text = nullptr;
    const long size_bytes = BIO_get_mem_data(bio.get(), &text);
    const SecretBytes pem(std::string_view(text, static_cast<size_t>(size_bytes)));
    return new PrivateKey(PrivateKey::FromPemOfAnyType(pem, SecretBytes(), "rsa").value());
  }();
  return *key;
}

Reason Refused(const Json& message, const PrivateKey& key, std::string_view additional = "") {
  const absl::Status status = DecryptJwe(message, key, "jwe", AsBytes(additional)).status();
  EXPECT_TRUE(ReasonOf(status).has_value()) << status << " " << message;
  return ReasonOf(status).value_or(Reason::kPolicyDenied);
}

Json HeaderOf(const Json& message) {
  return Json::parse(AsText(FromBase64Url(message["protected"].get<std::string>(), "").value()));
}

// The message with its header changed; what is under it stays.
Json WithHeader(const Json& message, const std::function<void(Json&)>& change) {
  Json header = HeaderOf(message);
  change(header);
  Json changed = message;
  changed["protected"] = ToBase64Url(AsBytes(header.dump()));
  return changed;
}

TEST(JweTest, EveryKindOfKeyOpensItsOwn) {
  const SecretBytes secret("0123456789abcdef0123456789abcdef");
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521}) {
    const PrivateKey key = Generate(type);
    for (const std::string_view additional : {"", "asset 1"}) {
      const Json message = EncryptJwe(secret, key.public_key(), "jwe", AsBytes(additional)).value();
      EXPECT_EQ(HeaderOf(message)["alg"], "ECDH-ES+A256KW");
      EXPECT_EQ(HeaderOf(message)["enc"], "A256GCM");
      EXPECT_TRUE(DecryptJwe(message, key, "jwe", AsBytes(additional))->Equals(secret));
      EXPECT_EQ(Refused(message, Generate(type), additional), Reason::kContentMismatch);
      EXPECT_EQ(Refused(message, key, "asset 2"), Reason::kBindingMismatch);
      EXPECT_EQ(Refused(message, RsaKey(), additional), Reason::kKeyUnsupported);
    }
  }
  const Json message = EncryptJwe(secret, RsaKey().public_key(), "jwe").value();
  EXPECT_EQ(HeaderOf(message)["alg"], "RSA-OAEP-256");
  EXPECT_TRUE(DecryptJwe(message, RsaKey(), "jwe")->Equals(secret));
  EXPECT_EQ(Refused(message, Generate(KeyType::kEcP256)), Reason::kKeyUnsupported);
  // Of another curve.
  const PrivateKey small = Generate(KeyType::kEcP256), large = Generate(KeyType::kEcP384);
  EXPECT_EQ(Refused(EncryptJwe(secret, small.public_key(), "jwe").value(), large),
            Reason::kKeyUnsupported);
  EXPECT_EQ(ReasonOf(EncryptJwe(secret, Generate(KeyType::kEd25519).public_key(), "jwe").status()),
            Reason::kKeyUnsupported);
  // Lengths at the bound.
  EXPECT_EQ(DecryptJwe(EncryptJwe(SecretBytes(), small.public_key(), "jwe").value(), small, "jwe")
                ->size_bytes(),
            0u);
  const SecretBytes longest{Bytes(kMaxJwePlainBytes)};
  EXPECT_TRUE(DecryptJwe(EncryptJwe(longest, small.public_key(), "jwe").value(), small, "jwe")
                  ->Equals(longest));
  EXPECT_EQ(
      ReasonOf(EncryptJwe(SecretBytes(Bytes(kMaxJwePlainBytes + 1)), small.public_key(), "jwe")
                   .status()),
      Reason::kLimitExceeded);
}

TEST(JweTest, RefusesEveryChangedCharacter) {
  const PrivateKey key = Generate(KeyType::kEcP256);
  const Json message =
      EncryptJwe(SecretBytes("secret"), key.public_key(), "jwe", AsBytes("asset")).value();
  size_t changed = 0;
  for (const auto& [name, value] : message.items()) {
    const std::string text = value.get<std::string>();
    for (size_t i = 0; i < text.size(); ++i) {
      Json other = message;
      std::string changed_text = text;
      changed_text[i] = text[i] == 'A' ? 'B' : 'A';
      other[name] = changed_text;
      EXPECT_FALSE(DecryptJwe(other, key, "jwe", AsBytes("asset")).ok()) << name << i;
      other[name] = text.substr(0, i);
      EXPECT_FALSE(DecryptJwe(other, key, "jwe", AsBytes("asset")).ok()) << name << i;
      ++changed;
    }
    Json other = message;
    other.erase(name);
    EXPECT_EQ(Refused(other, key, "asset"),
              name == "aad" ? Reason::kBindingMismatch : Reason::kMalformed)
        << name;
  }
  EXPECT_GT(changed, 200u);
  // A part of another message to the same recipient.
  const Json second =
      EncryptJwe(SecretBytes("secret"), key.public_key(), "jwe", AsBytes("asset")).value();
  for (const char* name : {"protected", "encrypted_key", "iv", "ciphertext", "tag"}) {
    Json mixed = message;
    mixed[name] = second[name];
    EXPECT_EQ(Refused(mixed, key, "asset"), Reason::kContentMismatch) << name;
  }
}

TEST(JweTest, RefusesHeadersThatAskForMore) {
  const PrivateKey key = Generate(KeyType::kEcP256);
  const Json message = EncryptJwe(SecretBytes("secret"), key.public_key(), "jwe").value();
  const auto with = [&](const char* name, const Json& value) {
    return WithHeader(message, [&](Json& header) { header[name] = value; });
  };
  for (const auto& [name, value] : {std::pair<const char*, Json>("crit", {"exp"}),
                                    {"zip", "DEF"},
                                    {"jku", "https://x.example"},
                                    {"jwk", Json::object()},
                                    {"epk", "x"},
                                    {"alg", 7},
                                    {"apu", "="}}) {
    EXPECT_EQ(Refused(with(name, value), key), Reason::kMalformed) << name;
  }
  for (const char* name : {"dir", "A256KW", "ECDH-ES", "ECDH-ES+A128KW", "RSA1_5", "RSA-OAEP",
                           "none", "PBES2-HS256+A128KW"}) {
    EXPECT_EQ(Refused(with("alg", name), key), Reason::kUnsupported) << name;
  }
  for (const char* name : {"A128GCM", "A256CBC-HS512", "none", ""}) {
    EXPECT_EQ(Refused(with("enc", name), key), Reason::kUnsupported) << name;
  }
  EXPECT_EQ(Refused(with("alg", "RSA-OAEP-256"), key), Reason::kKeyUnsupported);
  // Off the curve: an attacker's way to a static key's bits.
  Json point = HeaderOf(message)["epk"];
  point["y"] = point["x"];
  EXPECT_EQ(Refused(with("epk", point), key), Reason::kMalformed);
  Json private_point = HeaderOf(message)["epk"];
  private_point["d"] = private_point["x"];
  EXPECT_EQ(Refused(with("epk", private_point), key), Reason::kMalformed);
  // Members that change nothing but the tag.
  EXPECT_EQ(Refused(with("kid", "x"), key), Reason::kContentMismatch);

  // The point may stand outside of what is authenticated, alone and once.
  Json moved = WithHeader(message, [](Json& header) { header.erase("epk"); });
  EXPECT_EQ(Refused(moved, key), Reason::kMalformed);
  moved["header"]["epk"] = HeaderOf(message)["epk"];
  EXPECT_EQ(Refused(moved, key), Reason::kContentMismatch);
  moved["header"]["alg"] = "dir";
  EXPECT_EQ(Refused(moved, key), Reason::kMalformed);
  Json twice = message;
  twice["header"]["epk"] = HeaderOf(message)["epk"];
  EXPECT_EQ(Refused(twice, key), Reason::kMalformed);
  for (const char* name : {"header", "unprotected", "recipients", "x"}) {
    Json more = message;
    more[name] = Json::object();
    EXPECT_EQ(Refused(more, key), Reason::kMalformed) << name;
  }
  for (const Json& value : {Json("x"), Json::array(), Json(nullptr), Json::object()}) {
    EXPECT_EQ(Refused(value, key), Reason::kMalformed) << value;
  }
  Json long_text = message;
  long_text["ciphertext"] = std::string(100'000, 'A');
  EXPECT_EQ(Refused(long_text, key), Reason::kLimitExceeded);
  Json empty_additional = message;
  empty_additional["aad"] = "";
  EXPECT_EQ(Refused(empty_additional, key), Reason::kMalformed);
}

// A private key in JOSE's form, for the other implementation.
std::string PrivateJwk(const PrivateKey& key) {
  const SecretBytes pem = key.ToPem(SecretBytes()).value();
  const internal::OwnedBio bio = internal::ReadBio(pem.Reveal());
  const internal::OwnedKey raw_key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  Json jwk = ToJwk(key.public_key(), "key").value();
  const auto add = [&](const char* member, const char* parameter, size_t size_bytes) {
    BIGNUM* raw_number = nullptr;
    EXPECT_EQ(EVP_PKEY_get_bn_param(raw_key.get(), parameter, &raw_number), 1);
    const internal::OwnedBignum number(raw_number);
    Bytes bytes(size_bytes == 0 ? static_cast<size_t>(BN_num_bytes(number.get())) : size_bytes);
    BN_bn2binpad(number.get(), bytes.data(), static_cast<int>(bytes.size()));
    jwk[member] = ToBase64Url(bytes);
  };
  if (key.public_key().type() == KeyType::kRsa) {
    add("d", OSSL_PKEY_PARAM_RSA_D, 0);
    add("p", OSSL_PKEY_PARAM_RSA_FACTOR1, 0);
    add("q", OSSL_PKEY_PARAM_RSA_FACTOR2, 0);
    add("dp", OSSL_PKEY_PARAM_RSA_EXPONENT1, 0);
    add("dq", OSSL_PKEY_PARAM_RSA_EXPONENT2, 0);
    add("qi", OSSL_PKEY_PARAM_RSA_COEFFICIENT1, 0);
  } else {
    add("d", OSSL_PKEY_PARAM_PRIV_KEY, internal::EcFieldSizeBytes(key.public_key().type()));
  }
  return jwk.dump();
}

// José (libjose), an implementation that shares no code with this one, reads what is written here
// and writes what is read here.
TEST(JweTest, JoseReadsAndWritesTheSame) {
  if (!testing::HasProgram("jose")) GTEST_SKIP() << "jose is not installed (package jose)";
  const pavise::testing::TemporaryDirectory directory;
  const auto path = [&](std::string_view name) {
    return directory.path() + "/" + std::string(name);
  };
  const std::string text = "a secret of some length";
  int executed = 0;
  const auto check = [&](const PrivateKey& key, const std::string& algorithm) {
    ASSERT_TRUE(WriteFileAtomically(path("key.jwk"), AsBytes(PrivateJwk(key))).ok());
    ASSERT_TRUE(WriteFileAtomically(path("key.pub.jwk"),
                                    AsBytes(ToJwk(key.public_key(), "key").value().dump()))
                    .ok());
    ASSERT_TRUE(WriteFileAtomically(path("plain"), AsBytes(text)).ok());
    const Json ours = EncryptJwe(SecretBytes(text), key.public_key(), "jwe").value();
    ASSERT_TRUE(WriteFileAtomically(path("ours.jwe"), AsBytes(ours.dump())).ok());
    const testing::CommandResult read = testing::RunCommand("jose jwe dec -i " + path("ours.jwe") +
                                                            " -k " + path("key.jwk") + " -O -");
    EXPECT_EQ(read.exit_code, 0) << read.output;
    EXPECT_EQ(read.output, text) << algorithm;
    ++executed;
    const testing::CommandResult written = testing::RunCommand(
        "jose jwe enc -i '{\"protected\":{\"alg\":\"" + algorithm +
        "\",\"enc\":\"A256GCM\"}}' -k " + path("key.pub.jwk") + " -I " + path("plain") + " -o -");
    ASSERT_EQ(written.exit_code, 0) << written.output;
    const Json theirs = ParseJson(AsBytes(written.output), "theirs").value();
    const auto plain = DecryptJwe(theirs, key, "theirs");
    ASSERT_TRUE(plain.ok()) << plain.status() << theirs;
    EXPECT_EQ(plain->RevealText(), text);
    ++executed;
  };
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521}) {
    check(Generate(type), "ECDH-ES+A256KW");
  }
  EXPECT_EQ(executed, 6);
}

// jwcrypto: RSA too, which Debian's libjose lacks, and additional data, with which version 11 of it
// cannot read its own.
TEST(JweTest, JwcryptoReadsAndWritesTheSame) {
  const std::string python = "/usr/bin/python3 ";
  if (testing::RunCommand(python + "-c 'import jwcrypto'").exit_code != 0) {
    GTEST_SKIP() << "jwcrypto is not installed (package python3-jwcrypto)";
  }
  const pavise::testing::TemporaryDirectory directory;
  directory.Write("read.py", R"(
import sys
from jwcrypto import jwe, jwk
message = jwe.JWE()
message.deserialize(open(sys.argv[1]).read(), jwk.JWK.from_json(open(sys.argv[2]).read()))
sys.stdout.write(message.payload.decode())
)");
  directory.Write("write.py", R"(
import sys
from jwcrypto import jwe, jwk
header = '{"alg":"%s","enc":"A256GCM"}' % sys.argv[2]
message = jwe.JWE(sys.argv[3].encode(), header, aad=sys.argv[4].encode() or None)
message.add_recipient(jwk.JWK.from_json(open(sys.argv[1]).read()))
sys.stdout.write(message.serialize())
)");
  int executed = 0;
  const auto check = [&](const PrivateKey& key, const std::string& algorithm) {
    const std::string private_path = directory.Write("key.jwk", PrivateJwk(key));
    const std::string public_path =
        directory.Write("key.pub.jwk", ToJwk(key.public_key(), "key").value().dump());
    for (const std::string additional : {"", "purpose"}) {
      const Json ours =
          EncryptJwe(SecretBytes("text"), key.public_key(), "jwe", AsBytes(additional)).value();
      const testing::CommandResult read =
          testing::RunCommand(python + directory / "read.py" + " " +
                              directory.Write("ours.jwe", ours.dump()) + " " + private_path);
      EXPECT_EQ(read.output, "text") << algorithm;
      const testing::CommandResult written =
          testing::RunCommand(python + directory / "write.py" + " " + public_path + " " +
                              algorithm + " text '" + additional + "'");
      ASSERT_EQ(written.exit_code, 0) << written.output;
      const Json theirs = ParseJson(AsBytes(written.output), "theirs").value();
      const auto plain = DecryptJwe(theirs, key, "theirs", AsBytes(additional));
      ASSERT_TRUE(plain.ok()) << plain.status() << theirs;
      EXPECT_EQ(plain->RevealText(), "text");
      EXPECT_FALSE(DecryptJwe(theirs, key, "theirs", AsBytes("other")).ok());
      ++executed;
    }
  };
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521}) {
    check(Generate(type), "ECDH-ES+A256KW");
  }
  check(RsaKey(), "RSA-OAEP-256");
  EXPECT_EQ(executed, 8);
}

// RFC 7518, appendix C: both sides agree on the x of the standard.
TEST(JweTest, AgreementIsThatOfRfc7518) {
  const auto coordinate = [](std::string_view text) { return FromBase64Url(text, "").value(); };
  const PublicKey alice =
      PublicKey::FromEcCoordinates(KeyType::kEcP256,
                                   coordinate("gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0"),
                                   coordinate("SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps"), "")
          .value();
  // Bob's scalar and point as SEC 1's ECPrivateKey.
  Bytes der = FromHex("30770201010420", "").value();
  const auto append = [&](const Bytes& bytes) {
    der.insert(der.end(), bytes.begin(), bytes.end());
  };
  append(coordinate("VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw"));
  append(FromHex("a00a06082a8648ce3d030107a14403420004", "").value());
  append(coordinate("weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ"));
  append(coordinate("e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck"));
  const PrivateKey bob =
      PrivateKey::FromPem(SecretBytes(internal::EncodePemBlock(der, "EC PRIVATE KEY")),
                          SecretBytes(), "bob")
          .value();
  EXPECT_EQ(ToHex(bob.Agree(alice, "alice")->Reveal()),
            "9e56d91d817135d372834283bf84269cfb316ea3da806a48f6daa7798cfe90c4");
  for (const KeyType type : {KeyType::kEcP384, KeyType::kEd25519}) {
    const absl::Status status = bob.Agree(Generate(type).public_key(), "peer").status();
    EXPECT_EQ(ReasonOf(status), Reason::kKeyUnsupported);
    EXPECT_THAT(status.message(), HasSubstr("P-256"));
    EXPECT_EQ(ReasonOf(Generate(type).Agree(alice, "peer").status()), Reason::kKeyUnsupported);
  }
}

}  // namespace
}  // namespace pavise::crypto
