#include "pavise/kbs/token.h"

#include <string>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/jwt.h"
#include "pavise/kbs/jwk.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::kbs {
namespace {

using crypto::KeyType;
using crypto::PrivateKey;

const absl::Time kNow = absl::FromUnixSeconds(1'750'000'100);

const PrivateKey& SessionKey() {
  static const auto* const key = new PrivateKey(PrivateKey::Generate(KeyType::kEcP256).value());
  return *key;
}
PrivateKey& Issuer() {
  static auto* const key = new PrivateKey(PrivateKey::Generate(KeyType::kEcP384).value());
  return *key;
}

Json Claims() {
  return {{"eat_profile", "tag:ietf.org,2026:rats/ear#04"},
          {"iat", 1'750'000'000},
          {"exp", 1'750'000'300},
          {"eat_nonce", "AQI"},
          {"ear_status", "warning"},
          {"cnf", {{"jwk", crypto::ToJwk(SessionKey().public_key(), "key").value()}}},
          {"submods",
           {{"tpm",
             {{"ear_status", "affirming"},
              {"ear_trustworthiness_vector", {{"hardware", 2}, {"executables", -1}}},
              {"ear_appraisal_policy_ids", {"id/1/train/measured"}}}},
            {"tee", {{"ear_status", "warning"}}}}}};
}

std::string Token(const Json& claims) { return crypto::SignJwt(claims, Issuer()).value(); }

std::optional<Reason> RefusalOf(const Json& claims, absl::Time now = kNow) {
  const std::string token = Token(claims);
  const auto read = ReadToken(token, now, "token");
  const auto verified = VerifyToken(token, Issuer().public_key(), now, "token");
  EXPECT_EQ(read.status(), verified.status());
  return ReasonOf(read.status());
}

TEST(TokenTest, ReadsTheDraftsNames) {
  const TokenClaims token =
      VerifyToken(Token(Claims()), Issuer().public_key(), kNow, "token").value();
  EXPECT_EQ(token.issued_at, absl::FromUnixSeconds(1'750'000'000));
  EXPECT_EQ(token.expires, absl::FromUnixSeconds(1'750'000'300));
  EXPECT_EQ(token.status, "warning");
  EXPECT_EQ(token.nonce, (Bytes{1, 2}));
  EXPECT_EQ(token.confirmed_key, SessionKey().public_key());
  ASSERT_EQ(token.parts.size(), 2u);
  EXPECT_EQ(token.parts.at("tpm").status, "affirming");
  EXPECT_EQ(token.parts.at("tpm").policy_id, "id/1/train/measured");
  EXPECT_EQ(token.parts.at("tpm").trust_vector,
            (std::map<std::string, int>{{"hardware", 2}, {"executables", -1}}));
  EXPECT_EQ(token.parts.at("tee").policy_id, "");
  EXPECT_EQ(token.claims, Claims());
}

TEST(TokenTest, ReadsTheEarlierNames) {
  const Json claims = {{"eat_profile", "tag:github.com,2023:veraison/ear"},
                       {"iat", 1'750'000'000},
                       {"exp", 1'750'000'300},
                       {"tee-pubkey", FormatTeePublicKey(SessionKey().public_key(), "key").value()},
                       {"submods",
                        {{"cpu0",
                          {{"ear.status", "contraindicated"},
                           {"ear.trustworthiness-vector", {{"hardware", 97}}},
                           {"ear.appraisal-policy-id", "default"}}}}}};
  const TokenClaims token = ReadToken(Token(claims), kNow, "token").value();
  EXPECT_EQ(token.status, "");
  EXPECT_EQ(token.nonce, Bytes{});
  EXPECT_EQ(token.confirmed_key, SessionKey().public_key());
  EXPECT_EQ(token.parts.at("cpu0").status, "contraindicated");
  EXPECT_EQ(token.parts.at("cpu0").trust_vector.at("hardware"), 97);
  EXPECT_EQ(token.parts.at("cpu0").policy_id, "default");

  // One profile's names under the other's are missing, not guessed.
  Json mixed = claims;
  mixed["eat_profile"] = "tag:ietf.org,2026:rats/ear#04";
  EXPECT_EQ(RefusalOf(mixed), Reason::kMalformed);
}

TEST(TokenTest, HoldsToItsTimes) {
  EXPECT_EQ(RefusalOf(Claims(), absl::FromUnixSeconds(1'750'000'299)), std::nullopt);
  EXPECT_EQ(RefusalOf(Claims(), absl::FromUnixSeconds(1'750'000'300)), Reason::kPolicyDenied);
  EXPECT_EQ(RefusalOf(Claims(), absl::FromUnixSeconds(1'750'000'000 - 60)), std::nullopt);
  EXPECT_EQ(RefusalOf(Claims(), absl::FromUnixSeconds(1'750'000'000 - 61)), Reason::kPolicyDenied);
  for (const char* key : {"iat", "exp"}) {
    for (const Json& value : {Json(-1), Json("1750000000"), Json(1.5), Json(uint64_t{1} << 40)}) {
      Json claims = Claims();
      claims[key] = value;
      EXPECT_EQ(RefusalOf(claims), Reason::kMalformed) << key << " " << value;
    }
  }
}

TEST(TokenTest, RefusesOtherClaims) {
  const auto refusal_with = [](const char* pointer, Json value) {
    Json claims = Claims();
    claims[Json::json_pointer(pointer)] = std::move(value);
    return RefusalOf(claims);
  };
  EXPECT_EQ(refusal_with("/eat_profile", "tag:example.org:ear"), Reason::kUnsupported);
  EXPECT_EQ(refusal_with("/ear_status", "fine"), Reason::kMalformed);
  EXPECT_EQ(refusal_with("/submods/tpm/ear_status", "fine"), Reason::kMalformed);
  EXPECT_EQ(refusal_with("/submods/tpm/ear_status", 2), Reason::kMalformed);
  EXPECT_EQ(refusal_with("/submods", Json::object()), Reason::kMalformed);
  EXPECT_EQ(refusal_with("/submods/tpm", "eyJ"), Reason::kMalformed);
  EXPECT_EQ(refusal_with("/submods/tpm/ear_trustworthiness_vector/hardware", 128),
            Reason::kMalformed);
  EXPECT_EQ(refusal_with("/submods/tpm/ear_trustworthiness_vector/hardware", 2.5),
            Reason::kMalformed);
  EXPECT_EQ(refusal_with("/submods/tpm/ear_appraisal_policy_ids", Json::array()),
            Reason::kMalformed);
  EXPECT_EQ(refusal_with("/eat_nonce", "="), Reason::kMalformed);
  EXPECT_EQ(refusal_with("/cnf", Json::object()), Reason::kMalformed);
  EXPECT_EQ(refusal_with("/cnf/jwk/x", "AAAA"), Reason::kMalformed);
  Json unconfirmed = Claims();
  unconfirmed.erase("cnf");
  EXPECT_EQ(RefusalOf(unconfirmed), Reason::kMalformed);
}

TEST(TokenTest, SignatureAndFormAreHeld) {
  const std::string token = Token(Claims());
  EXPECT_EQ(ReasonOf(VerifyToken(token, SessionKey().public_key(), kNow, "token").status()),
            Reason::kKeyUnsupported);  // ES384 under a P-256 key
  const PrivateKey other = PrivateKey::Generate(KeyType::kEcP384).value();
  EXPECT_EQ(ReasonOf(VerifyToken(token, other.public_key(), kNow, "token").status()),
            Reason::kKeyMismatch);
  std::string changed = token;
  changed[changed.rfind('.') + 3] ^= 1;
  EXPECT_FALSE(VerifyToken(changed, Issuer().public_key(), kNow, "token").ok());
  for (const std::string& bad :
       {std::string(), std::string("a"), std::string("a.b"), token + ".x", "." + token}) {
    EXPECT_EQ(ReasonOf(ReadToken(bad, kNow, "token").status()), Reason::kMalformed) << bad;
  }
  EXPECT_EQ(ReasonOf(ReadToken(std::string((1 << 20) + 1, 'a'), kNow, "token").status()),
            Reason::kLimitExceeded);
}

}  // namespace
}  // namespace pavise::kbs
