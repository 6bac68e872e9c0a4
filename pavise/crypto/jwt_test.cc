#include "pavise/crypto/jwt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "pavise/base/status.h"

namespace pavise::crypto {
namespace {

PrivateKey Generate(KeyType type) { return PrivateKey::Generate(type).value(); }

std::string Part(std::string_view json) { return ToBase64Url(AsBytes(json)); }

// A token with that header, properly signed otherwise.
std::string WithHeader(std::string_view header, PrivateKey& key) {
  const std::string signing_input = Part(header) + "." + Part(R"({"a":1})");
  const Bytes der = key.Sign(AsBytes(signing_input)).value();
  return signing_input + "." +
         ToBase64Url(EcdsaRawFromDer(key.public_key().type(), der, "test").value());
}

Reason Refused(std::string_view token, const PublicKey& key) {
  const absl::Status status = VerifyJwt(token, key, "token").status();
  EXPECT_TRUE(ReasonOf(status).has_value()) << status << " " << token;
  return ReasonOf(status).value_or(Reason::kPolicyDenied);
}

TEST(JwtTest, EveryCurveSignsAndVerifies) {
  for (const auto& [type, name] :
       {std::pair(KeyType::kEcP256, "ES256"), std::pair(KeyType::kEcP384, "ES384"),
        std::pair(KeyType::kEcP521, "ES512")}) {
    PrivateKey key = Generate(type);
    const Json claims = {{"iat", 17}, {"submods", {{"x", "y"}}}};
    const std::string token = SignJwt(claims, key).value();
    EXPECT_EQ(VerifyJwt(token, key.public_key(), "token").value(), claims);
    const Json header =
        Json::parse(AsText(FromBase64Url(token.substr(0, token.find('.')), "header").value()));
    EXPECT_EQ(header["alg"], name);
    EXPECT_EQ(header["typ"], "JWT");
    EXPECT_EQ(header["kid"], JwkThumbprint(key.public_key(), "key").value());
    EXPECT_EQ(Refused(token, Generate(type).public_key()), Reason::kKeyMismatch);
  }
}

// RFC 7515, A.3: a token of another maker.
TEST(JwtTest, VerifiesTheStandardsToken) {
  const PublicKey key =
      PublicKey::FromEcCoordinates(
          KeyType::kEcP256,
          FromBase64Url("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x").value(),
          FromBase64Url("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", "y").value(), "key")
          .value();
  const std::string token =
      "eyJhbGciOiJFUzI1NiJ9."
      "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVl"
      "fQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
  const Json claims = VerifyJwt(token, key, "token").value();
  EXPECT_EQ(claims["iss"], "joe");
  EXPECT_EQ(claims["exp"], 1300819380);
}

// RFC 7638, 3.1 has an RSA key only; this is RFC 7517's example key (A.1), its thumbprint computed
// by hand from the canonical text.
TEST(JwtTest, ThumbprintIsOfTheCanonicalKey) {
  const Bytes x = FromBase64Url("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "x").value();
  const Bytes y = FromBase64Url("4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "y").value();
  const PublicKey key = PublicKey::FromEcCoordinates(KeyType::kEcP256, x, y, "key").value();
  EXPECT_EQ(ToJwk(key, "key").value(),
            (Json{{"crv", "P-256"}, {"kty", "EC"}, {"x", ToBase64Url(x)}, {"y", ToBase64Url(y)}}));
  const Digest32 digest = Sha256(AsBytes("{\"crv\":\"P-256\",\"kty\":\"EC\","
                                         "\"x\":\"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\","
                                         "\"y\":\"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\"}"))
                              .value();
  EXPECT_EQ(JwkThumbprint(key, "key").value(), ToBase64Url(digest));
}

TEST(JwtTest, RefusesEveryChangedCharacter) {
  PrivateKey key = Generate(KeyType::kEcP256);
  const std::string token = SignJwt({{"a", 1}}, key).value();
  size_t changed = 0;
  for (size_t i = 0; i < token.size(); ++i) {
    std::string other = token;
    other[i] = token[i] == 'A' ? 'B' : 'A';
    EXPECT_FALSE(VerifyJwt(other, key.public_key(), "token").ok()) << i;
    ++changed;
    EXPECT_FALSE(VerifyJwt(token.substr(0, i), key.public_key(), "token").ok()) << i;
  }
  EXPECT_EQ(changed, token.size());
  EXPECT_EQ(Refused(token + "A", key.public_key()), Reason::kSignatureInvalid);
  EXPECT_EQ(Refused(token + ".", key.public_key()), Reason::kMalformed);
  EXPECT_EQ(Refused(std::string(1 << 20, 'A') + token, key.public_key()), Reason::kLimitExceeded);
}

TEST(JwtTest, TheKeyDecidesTheAlgorithm) {
  PrivateKey key = Generate(KeyType::kEcP256);
  EXPECT_TRUE(VerifyJwt(WithHeader(R"({"alg":"ES256"})", key), key.public_key(), "token").ok());
  for (const char* name : {"none", "None", "NONE", "", "HS256", "RS256", "ES384", "es256"}) {
    const std::string header = std::string(R"({"alg":")") + name + "\"}";
    EXPECT_EQ(Refused(WithHeader(header, key), key.public_key()), Reason::kKeyUnsupported) << name;
  }
  const std::string unsigned_token = Part(R"({"alg":"none"})") + "." + Part(R"({"a":1})") + ".";
  EXPECT_EQ(Refused(unsigned_token, key.public_key()), Reason::kKeyUnsupported);
  // Without a signature under the right name.
  EXPECT_EQ(Refused(Part(R"({"alg":"ES256"})") + "." + Part(R"({"a":1})") + ".", key.public_key()),
            Reason::kSignatureInvalid);
}

TEST(JwtTest, RefusesHeadersThatAskForMore) {
  PrivateKey key = Generate(KeyType::kEcP256);
  for (const char* header :
       {R"({"alg":"ES256","crit":["exp"]})", R"({"alg":"ES256","jwk":{}})",
        R"({"alg":"ES256","b64":false})", R"({"alg":"ES256","typ":"dpop+jwt"})", R"({"typ":"JWT"})",
        R"({"alg":"ES256","alg":"ES256"})", R"({"alg":7})", "[]", "", R"({"alg":"ES256"}x)"}) {
    EXPECT_EQ(Refused(WithHeader(header, key), key.public_key()), Reason::kMalformed) << header;
  }
  EXPECT_EQ(Refused(WithHeader(R"({"alg":"ES256","kid":"x"})", key), key.public_key()),
            Reason::kKeyMismatch);
}

TEST(JwtTest, SignsObjectsOfTextOnly) {
  PrivateKey key = Generate(KeyType::kEcP256);
  EXPECT_EQ(ExitCodeOf(SignJwt(Json::array(), key).status()), 2);
  EXPECT_EQ(ReasonOf(SignJwt({{"a", "\xff"}}, key).status()), Reason::kMalformed);
}

// RFC 7638, 3.1.
TEST(JwtTest, RsaKeysAreJwksToo) {
  const Json jwk = {
      {"kty", "RSA"},
      {"n",
       "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJEC"
       "PebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_"
       "FDW2Qvzq"
       "Y368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-"
       "bFTWhAI4vMQFh6WeZu0"
       "fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"},
      {"e", "AQAB"}};
  Json with_more = jwk;
  with_more["alg"] = "RS256";
  with_more["kid"] = "2011-04-29";
  const PublicKey key = PublicKeyFromJwk(with_more, "key").value();
  EXPECT_EQ(ToJwk(key, "key").value(), jwk);
  EXPECT_EQ(JwkThumbprint(key, "key").value(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
}

TEST(JwtTest, JwksOfEveryCurveAreReadAndNothingElse) {
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521}) {
    const PublicKey key = Generate(type).public_key();
    const Json good = ToJwk(key, "key").value();
    EXPECT_EQ(PublicKeyFromJwk(good, "key").value(), key);
    const auto refused = [&](const char* name, const Json& value) {
      Json jwk = good;
      jwk[name] = value;
      const absl::Status status = PublicKeyFromJwk(jwk, "key").status();
      EXPECT_TRUE(ReasonOf(status).has_value()) << status << jwk;
      return ReasonOf(status).value_or(Reason::kPolicyDenied);
    };
    EXPECT_EQ(refused("d", good["x"]), Reason::kMalformed);
    EXPECT_EQ(refused("x5c", Json::array()), Reason::kMalformed);
    EXPECT_EQ(refused("y", good["x"]), Reason::kMalformed);
    EXPECT_EQ(refused("y", ""), Reason::kMalformed);
    EXPECT_EQ(refused("x", good["x"].get<std::string>() + "AAAA"), Reason::kMalformed);
    EXPECT_EQ(refused("x", 7), Reason::kMalformed);
    EXPECT_EQ(refused("kty", "OKP"), Reason::kKeyUnsupported);
    EXPECT_EQ(refused("kty", "RSA"), Reason::kMalformed);
    EXPECT_EQ(refused("crv", "secp256k1"), Reason::kKeyUnsupported);
    EXPECT_EQ(refused("crv", type == KeyType::kEcP256 ? "P-384" : "P-256"), Reason::kMalformed);
    Json without = good;
    without.erase("y");
    EXPECT_EQ(ReasonOf(PublicKeyFromJwk(without, "key").status()), Reason::kMalformed);
  }
  const auto rsa = [](const char* n, const char* e) {
    return ReasonOf(PublicKeyFromJwk({{"kty", "RSA"}, {"n", n}, {"e", e}}, "key").status());
  };
  EXPECT_EQ(rsa("", "AQAB"), Reason::kMalformed);
  EXPECT_EQ(rsa("AAAA", "AQAB"), Reason::kMalformed);
  EXPECT_EQ(rsa("_____w", "AAEAAQ"), Reason::kMalformed);
  EXPECT_EQ(rsa("_____w", "AQABAQAB"), Reason::kKeyUnsupported);
  EXPECT_EQ(rsa("_____w", "AQAB"), Reason::kKeyUnsupported);
}

// SP 800-56B revision 2, 6.2: odd, from 65,537 on; 6.1.6.2: moduli of 2,048 bits and more.
TEST(JwtTest, RsaJwksWithSmallOrEvenExponentsOrShortModuliAreRefused) {
  const auto parse = [](const Bytes& n, const Bytes& e) {
    return PublicKeyFromJwk({{"kty", "RSA"}, {"n", ToBase64Url(n)}, {"e", ToBase64Url(e)}}, "key");
  };
  const Bytes modulus(256, 0xc5);  // odd; whether it is a product of primes is not looked at
  for (const Bytes& good : {Bytes{1, 0, 1}, Bytes{1, 0, 3}, Bytes{0xff, 0xff, 0xff, 0xff}}) {
    EXPECT_EQ(parse(modulus, good).value().type(), KeyType::kRsa) << ToHex(good);
  }
  for (const Bytes& bad : {Bytes{1}, Bytes{2}, Bytes{3}, Bytes{17}, Bytes{0xff, 0xff},
                           Bytes{1, 0, 0}, Bytes{1, 0, 2}, Bytes{0xff, 0xff, 0xff, 0xfe}}) {
    const absl::Status status = parse(modulus, bad).status();
    EXPECT_EQ(ReasonOf(status), Reason::kKeyUnsupported) << ToHex(bad);
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("exponent")) << ToHex(bad);
  }
  Bytes short_modulus = modulus;
  short_modulus[0] = 0x7f;  // 2,047 bits
  EXPECT_EQ(ReasonOf(parse(short_modulus, {1, 0, 1}).status()), Reason::kKeyUnsupported);
  EXPECT_EQ(ReasonOf(parse(Bytes(128, 0xc5), {1, 0, 1}).status()), Reason::kKeyUnsupported);
  EXPECT_EQ(ReasonOf(parse(Bytes(2049, 0xc5), {1, 0, 1}).status()), Reason::kKeyUnsupported);
}

}  // namespace
}  // namespace pavise::crypto
