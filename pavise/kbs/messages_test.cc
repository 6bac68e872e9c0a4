#include "pavise/kbs/messages.h"

#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/kbs/jwk.h"
#include "pavise/kbs/resource_path.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::kbs {
namespace {

using crypto::DigestAlgorithm;
using crypto::KeyType;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kAgreement(64, 'a');
const Digest32 kNonce = {1, 2, 3};

const crypto::PrivateKey& SessionKey() {
  static const auto* const key =
      new crypto::PrivateKey(crypto::PrivateKey::Generate(KeyType::kEcP256).value());
  return *key;
}

std::optional<Reason> AuthRefusal(std::string_view text) {
  return ReasonOf(ParseAuthRequest(AsBytes(text), "auth").status());
}

// The request's text with a piece of it replaced.
std::string With(std::string text, std::string_view piece, std::string_view replacement) {
  const size_t at = text.find(piece);
  EXPECT_NE(at, text.npos) << piece << " is not in " << text;
  return text.replace(at, piece.size(), replacement);
}

TEST(AuthRequestTest, TravelsAndComesBack) {
  const AuthRequest requests[] = {
      {},
      {"0.1.1", Tee::kSnp, std::nullopt, std::vector<DigestAlgorithm>{}},
      {"0.4.0", Tee::kTdx, Purpose{kAgreement, "train", "measured"},
       std::vector{DigestAlgorithm::kSha256, DigestAlgorithm::kSha512}}};
  for (const AuthRequest& request : requests) {
    EXPECT_EQ(ParseAuthRequest(AsBytes(FormatAuthRequest(request)), "auth").value(), request);
  }
}

// As clients of other makers write it: extra-params "" or an object with members of theirs.
TEST(AuthRequestTest, ReadsWhatOtherClientsSend) {
  EXPECT_EQ(
      ParseAuthRequest(AsBytes(R"({"version":"0.1.1","tee":"snp","extra-params":""})"), "auth")
          .value(),
      (AuthRequest{"0.1.1", Tee::kSnp, std::nullopt, std::nullopt}));
  const AuthRequest request =
      ParseAuthRequest(
          AsBytes(
              R"({"version":"0.4.0","tee":"tdx","extra-params":{"attestation-policy-selector":"x",)"
              R"("supported-hash-algorithms":["sha256","sm3","sha384"]}})"),
          "auth")
          .value();
  EXPECT_EQ(request.purpose, std::nullopt);
  EXPECT_THAT(request.hash_algorithms.value(),
              ElementsAre(DigestAlgorithm::kSha256, DigestAlgorithm::kSha384));
}

TEST(AuthRequestTest, AcceptsTheDocumentedVersionsOnly) {
  const auto with_version = [](std::string_view version) {
    return StrCat(R"({"version":")", version, R"(","tee":"snp","extra-params":""})");
  };
  for (const char* version : {"0.1.1", "0.1.2", "0.2.0", "0.3.10", "0.4.0"}) {
    EXPECT_EQ(AuthRefusal(with_version(version)), std::nullopt) << version;
  }
  for (const char* version :
       {"0.1.0", "0.0.9", "0.4.1", "0.5.0", "1.0.0", "0.4", "0.4.0.0", "0.04.0", "0.4.0-rc1",
        "0.+4.0", "-0.4.0", "0.4.", ".4.0", "", " 0.4.0", "0.4.00000"}) {
    const absl::Status status = ParseAuthRequest(AsBytes(with_version(version)), "auth").status();
    EXPECT_EQ(ReasonOf(status), Reason::kUnsupported) << version;
    EXPECT_THAT(RefusalsOf(status)[0].remedy, HasSubstr("0.1.1 to 0.4.0")) << version;
  }
}

TEST(AuthRequestTest, RefusesWhatTheProtocolDoesNotHave) {
  const std::string good =
      FormatAuthRequest({"0.4.0", Tee::kPavise, Purpose{kAgreement, "train", "tee"}, std::nullopt});
  ASSERT_EQ(AuthRefusal(good), std::nullopt);
  EXPECT_EQ(AuthRefusal(With(good, "\"tee\":\"pavise\"", "\"tee\":\"sample\"")),
            Reason::kUnsupported);
  EXPECT_EQ(AuthRefusal(With(good, "\"tee\":\"pavise\"", "\"tee\":7")), Reason::kMalformed);
  EXPECT_EQ(AuthRefusal(With(good, "{", "{\"more\":1,")), Reason::kMalformed);
  EXPECT_EQ(AuthRefusal(With(good, "{", "{\"tee\":\"snp\",")), Reason::kMalformed);  // twice
  EXPECT_EQ(AuthRefusal(good + " {}"), Reason::kMalformed);
  EXPECT_EQ(AuthRefusal(good.substr(0, good.size() - 1)), Reason::kMalformed);
  EXPECT_EQ(AuthRefusal(With(good, "aaaa", "aaaA")), Reason::kMalformed);
  EXPECT_EQ(AuthRefusal(With(good, "aaaa", "aaa")), Reason::kMalformed);
  EXPECT_EQ(AuthRefusal(With(good, "\"train\"", "\"../train\"")), Reason::kPathUnsafe);
  EXPECT_EQ(AuthRefusal(With(good, "\"stage\"", "\"sage\"")), Reason::kMalformed);
  EXPECT_EQ(AuthRefusal(R"({"version":"0.4.0","tee":"snp"})"), Reason::kMalformed);
  EXPECT_EQ(AuthRefusal(R"({"version":"0.4.0","tee":"snp","extra-params":"x"})"),
            Reason::kMalformed);
  EXPECT_EQ(AuthRefusal(R"({"version":"0.4.0","tee":"snp","extra-params":null})"),
            Reason::kMalformed);
  EXPECT_EQ(
      AuthRefusal(
          R"({"version":"0.4.0","tee":"snp","extra-params":{"supported-hash-algorithms":[1]}})"),
      Reason::kMalformed);
  EXPECT_EQ(AuthRefusal(With(good, "{", "{" + std::string(64 << 10, ' '))), Reason::kLimitExceeded);
}

TEST(ChallengeTest, HashAlgorithmIsTheProtocolsDefaultWhereTheClientCan) {
  const auto choice = [](std::optional<std::vector<DigestAlgorithm>> offered) {
    return ChooseHashAlgorithm({"0.4.0", Tee::kSnp, std::nullopt, std::move(offered)});
  };
  EXPECT_EQ(choice(std::nullopt).value(), DigestAlgorithm::kSha384);
  EXPECT_EQ(choice(std::vector{DigestAlgorithm::kSha512, DigestAlgorithm::kSha384}).value(),
            DigestAlgorithm::kSha384);
  EXPECT_EQ(choice(std::vector{DigestAlgorithm::kSha256, DigestAlgorithm::kSha512}).value(),
            DigestAlgorithm::kSha512);
  EXPECT_EQ(choice(std::vector{DigestAlgorithm::kSha256}).value(), DigestAlgorithm::kSha256);
  EXPECT_EQ(ReasonOf(choice(std::vector<DigestAlgorithm>{}).status()), Reason::kUnsupported);
}

TEST(ChallengeTest, TravelsAndComesBack) {
  const Challenge challenge{kNonce, DigestAlgorithm::kSha512};
  const std::string text = FormatChallenge(challenge);
  EXPECT_EQ(ParseChallenge(AsBytes(text), "challenge").value(), challenge);
  const std::string plain = StrCat(R"({"nonce":")", FormatNonce(kNonce), R"(","extra-params":""})");
  EXPECT_EQ(ParseChallenge(AsBytes(plain), "challenge").value(),
            (Challenge{kNonce, DigestAlgorithm::kSha384}));

  const auto refusal = [](std::string_view changed) {
    return ReasonOf(ParseChallenge(AsBytes(changed), "challenge").status());
  };
  EXPECT_EQ(refusal(With(text, "AQID", "AQI")), Reason::kMalformed);
  EXPECT_EQ(refusal(With(plain, "AQID", "")), Reason::kMalformed);  // 29 bytes
  EXPECT_EQ(refusal(With(text, "sha512", "md5")), Reason::kUnsupported);
  EXPECT_EQ(refusal(With(text, "{", "{\"more\":1,")), Reason::kMalformed);
  EXPECT_EQ(refusal(text + "x"), Reason::kMalformed);
}

Attestation TestAttestation() {
  return {MakeRuntimeData(kNonce, SessionKey().public_key()).value(), Json{{"parts", {1, 2}}}, "",
          InitData{"toml", "version = \"0.1.0\"\n"}};
}

TEST(AttestationTest, TravelsAndComesBack) {
  const Attestation sent = TestAttestation();
  const Attestation got = ParseAttestation(AsBytes(FormatAttestation(sent)), "attestation").value();
  EXPECT_EQ(got.runtime_data.nonce, kNonce);
  EXPECT_EQ(got.runtime_data.key, SessionKey().public_key());
  EXPECT_EQ(got.runtime_data.tee_pubkey, sent.runtime_data.tee_pubkey);
  EXPECT_EQ(got.primary_evidence, sent.primary_evidence);
  EXPECT_EQ(got.additional_evidence, "");
  EXPECT_EQ(got.init_data->body, "version = \"0.1.0\"\n");

  const std::string null_init_data =
      With(FormatAttestation(sent),
           Json{{"body", sent.init_data->body}, {"format", sent.init_data->format}}.dump(), "null");
  EXPECT_FALSE(
      ParseAttestation(AsBytes(null_init_data), "attestation").value().init_data.has_value());
}

TEST(AttestationTest, RefusesOtherForms) {
  const std::string good = FormatAttestation(TestAttestation());
  const auto refusal = [](std::string_view text) {
    return ReasonOf(ParseAttestation(AsBytes(text), "attestation").status());
  };
  ASSERT_EQ(refusal(good), std::nullopt);
  EXPECT_EQ(refusal(With(good, "\"additional_evidence\":\"\"", "\"additional_evidence\":\"{}\"")),
            std::nullopt);
  EXPECT_EQ(refusal(With(good, "\"additional_evidence\":\"\"",
                         "\"additional_evidence\":\"{\\\"nvidia\\\":1}\"")),
            Reason::kUnsupported);
  EXPECT_EQ(refusal(With(good, "{\"parts\":[1,2]}", "null")), Reason::kEvidenceMissing);
  EXPECT_EQ(refusal(With(good, "\"primary_evidence\":{\"parts\":[1,2]}", "\"x\":1")),
            Reason::kMalformed);
  EXPECT_EQ(refusal(With(good, "{", "{\"more\":1,")), Reason::kMalformed);
  EXPECT_EQ(refusal(With(good, "\"runtime-data\":{", "\"runtime-data\":{\"more\":1,")),
            Reason::kMalformed);
  EXPECT_EQ(refusal(With(good, "\"tee-evidence\":{", "\"tee-evidence\":{\"more\":1,")),
            Reason::kMalformed);
  EXPECT_EQ(refusal(With(good, "AQID", "AQIE")), std::nullopt);  // whose nonce: not form
  EXPECT_EQ(refusal(With(good, "AQIDAAAA", "AQID")), Reason::kMalformed);
  EXPECT_EQ(refusal(With(good, "\"P-256\"", "\"P-384\"")), Reason::kMalformed);
  EXPECT_EQ(refusal(good.substr(0, good.size() - 1)), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(ParseAttestation(AsBytes(good), "attestation", good.size() - 1).status()),
            Reason::kLimitExceeded);
}

// The canonical text, spelled out: what a stranger's client hashes.
TEST(RuntimeDataTest, IsHashedInCanonicalForm) {
  const RuntimeData runtime_data{kNonce, Json{{"kty", "EC"}, {"alg", "A"}, {"x", "1"}},
                                 SessionKey().public_key()};
  const std::string nonce = "AQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
  const std::string tail =
      StrCat(R"("nonce":")", nonce, R"(","tee-pubkey":{"alg":"A","kty":"EC","x":"1"}})");
  EXPECT_EQ(RuntimeDataDigest(runtime_data, std::nullopt, DigestAlgorithm::kSha256).value(),
            crypto::Digest(DigestAlgorithm::kSha256, AsBytes("{" + tail)).value());
  EXPECT_EQ(
      RuntimeDataDigest(runtime_data, "", DigestAlgorithm::kSha384).value(),
      crypto::Digest(DigestAlgorithm::kSha384, AsBytes(R"({"additional-evidence":"",)" + tail))
          .value());
}

TEST(RuntimeDataTest, ReportDataBindsNonceAndKey) {
  const Attestation attestation = TestAttestation();
  const auto report_data = [](const RuntimeData& runtime_data,
                              std::optional<std::string> additional, DigestAlgorithm algorithm) {
    Bytes bytes = RuntimeDataDigest(runtime_data, additional, algorithm).value();
    bytes.resize(64);
    return bytes;
  };
  for (const DigestAlgorithm algorithm :
       {DigestAlgorithm::kSha256, DigestAlgorithm::kSha384, DigestAlgorithm::kSha512}) {
    const auto check = [&](ByteSpan bytes) {
      return ReasonOf(CheckReportData(attestation, algorithm, bytes, "report"));
    };
    const Bytes good = report_data(attestation.runtime_data, "", algorithm);
    EXPECT_EQ(check(good), std::nullopt);
    EXPECT_EQ(check(report_data(attestation.runtime_data, std::nullopt, algorithm)), std::nullopt);
    EXPECT_EQ(check(report_data(attestation.runtime_data, "{}", algorithm)),
              Reason::kBindingMismatch);
    for (size_t i = 0; i < good.size(); ++i) {
      Bytes flipped = good;
      flipped[i] ^= 1;
      EXPECT_EQ(check(flipped), Reason::kBindingMismatch) << "byte " << i;
    }
    EXPECT_EQ(check(ByteSpan(good).first(63)), Reason::kBindingMismatch);
    EXPECT_EQ(check({}), Reason::kBindingMismatch);
    EXPECT_EQ(check(Bytes(64)), Reason::kBindingMismatch);
  }
  // Another nonce, another key, another algorithm.
  const auto refusal = [&](ByteSpan bytes) {
    return ReasonOf(CheckReportData(attestation, DigestAlgorithm::kSha384, bytes, "report"));
  };
  const crypto::PublicKey other =
      crypto::PrivateKey::Generate(KeyType::kEcP256).value().public_key();
  EXPECT_EQ(refusal(report_data(MakeRuntimeData({9}, SessionKey().public_key()).value(), "",
                                DigestAlgorithm::kSha384)),
            Reason::kBindingMismatch);
  EXPECT_EQ(
      refusal(report_data(MakeRuntimeData(kNonce, other).value(), "", DigestAlgorithm::kSha384)),
      Reason::kBindingMismatch);
  EXPECT_EQ(refusal(report_data(attestation.runtime_data, "", DigestAlgorithm::kSha512)),
            Reason::kBindingMismatch);
}

TEST(TeeEvidenceTest, ReadsReportsAndQuotes) {
  const TeeEvidence snp =
      ParseTeeEvidence(Tee::kSnp, Json{{"report", "AQI="}, {"certificates", "Aw=="}}, "snp")
          .value();
  EXPECT_EQ(snp.statement, (Bytes{1, 2}));
  EXPECT_EQ(snp.supplement, Bytes{3});
  const TeeEvidence tdx =
      ParseTeeEvidence(Tee::kTdx, Json{{"quote", "AQI="}, {"cc_eventlog", nullptr}}, "tdx").value();
  EXPECT_EQ(tdx.statement, (Bytes{1, 2}));
  EXPECT_EQ(tdx.supplement, Bytes{});

  const auto refusal = [](Tee tee, const Json& json) {
    return ReasonOf(ParseTeeEvidence(tee, json, "evidence").status());
  };
  EXPECT_EQ(refusal(Tee::kTdx, Json{{"quote", "AQI="}}), std::nullopt);
  EXPECT_EQ(refusal(Tee::kTdx, Json{{"report", "AQI="}}), Reason::kMalformed);
  EXPECT_EQ(refusal(Tee::kSnp, Json{{"report", "AQI"}}), Reason::kMalformed);
  EXPECT_EQ(refusal(Tee::kSnp, Json{{"report", "AQI="}, {"more", 1}}), Reason::kMalformed);
  EXPECT_EQ(refusal(Tee::kSnp, Json{{"certificates", "AQI="}}), Reason::kMalformed);
  EXPECT_EQ(refusal(Tee::kSnp, Json("AQI=")), Reason::kMalformed);
  EXPECT_EQ(refusal(Tee::kPavise, Json{{"report", "AQI="}}), Reason::kUnsupported);
}

TEST(TokenResponseTest, CarriesACompactToken) {
  EXPECT_EQ(ParseTokenResponse(AsBytes(FormatTokenResponse("aA0-.b_.c")), "token").value(),
            "aA0-.b_.c");
  const auto refusal = [](std::string_view text) {
    return ReasonOf(ParseTokenResponse(AsBytes(text), "token").status());
  };
  EXPECT_EQ(refusal(FormatTokenResponse("a.b")), Reason::kMalformed);
  EXPECT_EQ(refusal(FormatTokenResponse("a.b.c.d")), Reason::kMalformed);
  EXPECT_EQ(refusal(FormatTokenResponse("a.b.c\r\nX: y")), Reason::kMalformed);
  EXPECT_EQ(refusal(R"({"token":"a.b.c","more":1})"), Reason::kMalformed);
  EXPECT_EQ(refusal(R"({"token":7})"), Reason::kMalformed);
  EXPECT_EQ(refusal("{}"), Reason::kMalformed);
  EXPECT_EQ(refusal(FormatTokenResponse(std::string(2 << 20, 'a') + ".b.c")),
            Reason::kLimitExceeded);
}

TEST(CookieTest, SessionIdIsFoundAmongOthers) {
  const auto id = [](std::string_view header) { return SessionIdOfCookie(header, "Cookie"); };
  EXPECT_EQ(id("kbs-session-id=abc-_9").value(), "abc-_9");
  EXPECT_EQ(id("kbs-session-id=abc; Path=/; HttpOnly").value(), "abc");
  EXPECT_EQ(id("other=1; kbs-session-id=abc").value(), "abc");
  EXPECT_EQ(id("").value(), "");
  EXPECT_EQ(id("other=1").value(), "");
  EXPECT_EQ(id("xkbs-session-id=1").value(), "");
  EXPECT_EQ(id(std::string("kbs-session-id=") + std::string(128, 'a')).value().size(), 128u);
  for (const std::string& bad :
       {std::string("kbs-session-id="), std::string("kbs-session-id=a b"),
        std::string("kbs-session-id=\"a\""), std::string("kbs-session-id=a\r\nX: y"),
        std::string("kbs-session-id=a; kbs-session-id=b"),
        "kbs-session-id=" + std::string(129, 'a')}) {
    EXPECT_EQ(ReasonOf(id(bad).status()), Reason::kMalformed) << bad;
  }
}

TEST(ResourcePathTest, HasThreeSafeParts) {
  const ResourcePath path{kAgreement, "train", "weights.v2"};
  EXPECT_EQ(FormatResourcePath(path).value(), kAgreement + "/train/weights.v2");
  EXPECT_EQ(ParseResourcePath(kAgreement + "/train/weights.v2", "path").value(), path);
  EXPECT_EQ(ParseResourcePath("1.ok/2ok./3...", "path").value(),
            (ResourcePath{"1.ok", "2ok.", "3..."}));
  const auto refusal = [](std::string_view text) {
    return ReasonOf(ParseResourcePath(text, "path").status());
  };
  for (const char* text : {"", "a", "a/b", "a/b/c/d", "/a/b/c", "a/b/c/"}) {
    EXPECT_EQ(refusal(text), Reason::kMalformed) << text;
  }
  for (const char* text : {"a//c", "//", "../b/c", "a/../c", "a/./c", "a/.b/c", "a/b/%2e",
                           "a/b/c?x", "a/b/c d", "a/b/c\n", "a/b/\xc3\xa9", "a\\/b/c"}) {
    EXPECT_EQ(refusal(text), Reason::kPathUnsafe) << text;
  }
  EXPECT_EQ(refusal(std::string_view("a/b/c\0d", 7)), Reason::kPathUnsafe);
  EXPECT_EQ(refusal("a/b/" + std::string(128, 'c')), std::nullopt);
  EXPECT_EQ(refusal("a/b/" + std::string(129, 'c')), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(FormatResourcePath({"a/b", "c", "d"}).status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(FormatResourcePath({"a", "", "d"}).status()), Reason::kPathUnsafe);
}

TEST(TeePublicKeyTest, EcKeysTravelAndComeBack) {
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521}) {
    const crypto::PublicKey key = crypto::PrivateKey::Generate(type).value().public_key();
    Json jwk = FormatTeePublicKey(key, "key").value();
    EXPECT_EQ(jwk["alg"], "ECDH-ES+A256KW");
    EXPECT_EQ(ParseTeePublicKey(jwk, "key").value(), key);
    jwk.erase("alg");
    EXPECT_EQ(ParseTeePublicKey(jwk, "key").value(), key);
  }
}

TEST(TeePublicKeyTest, RefusesOtherEcKeys) {
  const Json good = FormatTeePublicKey(SessionKey().public_key(), "key").value();
  const auto refusal_with = [&](std::string_view member, Json value) {
    Json jwk = good;
    if (value.is_null()) {
      jwk.erase(std::string(member));
    } else {
      jwk[std::string(member)] = std::move(value);
    }
    return ReasonOf(ParseTeePublicKey(jwk, "key").status());
  };
  ASSERT_EQ(refusal_with("kty", "EC"), std::nullopt);
  for (const char* member : {"kty", "crv", "x", "y"}) {
    EXPECT_EQ(refusal_with(member, nullptr), Reason::kMalformed) << member;
    EXPECT_EQ(refusal_with(member, 7), Reason::kMalformed) << member;
  }
  EXPECT_EQ(refusal_with("kty", "oct"), Reason::kKeyUnsupported);
  EXPECT_EQ(refusal_with("crv", "secp256k1"), Reason::kKeyUnsupported);
  EXPECT_EQ(refusal_with("crv", "P-384"), Reason::kMalformed);
  EXPECT_EQ(refusal_with("alg", "dir"), Reason::kKeyUnsupported);
  EXPECT_EQ(refusal_with("alg", "RSA-OAEP-256"), Reason::kKeyUnsupported);
  EXPECT_EQ(refusal_with("d", good["x"]), Reason::kMalformed);  // a private key
  EXPECT_EQ(refusal_with("x", good["y"]), Reason::kMalformed);  // off the curve
  EXPECT_EQ(refusal_with("x", good["x"].get<std::string>() + "="), Reason::kMalformed);
  EXPECT_EQ(refusal_with("x", ToBase64Url(Bytes(31, 1))), Reason::kMalformed);
  EXPECT_EQ(refusal_with("x", ToBase64Url(Bytes(33, 1))), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(ParseTeePublicKey(Json("key"), "key").status()), Reason::kMalformed);
}

TEST(TeePublicKeyTest, RsaKeysOfSaneSize) {
  Bytes modulus(256, 0xc5);  // odd; whether it is a product of primes is not looked at
  const auto jwk = [](const Bytes& n, const Bytes& e) {
    return Json{
        {"kty", "RSA"}, {"alg", "RSA-OAEP-256"}, {"n", ToBase64Url(n)}, {"e", ToBase64Url(e)}};
  };
  const Bytes exponent = {1, 0, 1};
  EXPECT_EQ(ParseTeePublicKey(jwk(modulus, exponent), "key").value().type(), KeyType::kRsa);
  const auto refusal = [&](const Bytes& n, const Bytes& e) {
    return ReasonOf(ParseTeePublicKey(jwk(n, e), "key").status());
  };
  EXPECT_EQ(refusal(Bytes(128, 0xc5), exponent), Reason::kKeyUnsupported);
  EXPECT_EQ(refusal(Bytes(4096, 0xc5), exponent), Reason::kKeyUnsupported);
  modulus.insert(modulus.begin(), 0);
  EXPECT_EQ(refusal(modulus, exponent), Reason::kMalformed);
  EXPECT_EQ(refusal({}, exponent), Reason::kMalformed);
  const Bytes sound(256, 0xc5);
  for (const Bytes& bad : {Bytes{}, Bytes{0, 1, 0, 1}}) {
    EXPECT_EQ(refusal(sound, bad), Reason::kMalformed) << ToHex(bad);
  }
  for (const Bytes& bad : {Bytes{1}, Bytes{2}, Bytes{3}, Bytes{1, 0, 0}, Bytes{1, 0, 0, 0, 1}}) {
    EXPECT_EQ(refusal(sound, bad), Reason::kKeyUnsupported) << ToHex(bad);
  }
  Json with_curve = jwk(sound, exponent);
  with_curve["crv"] = "P-256";
  EXPECT_EQ(ReasonOf(ParseTeePublicKey(with_curve, "key").status()), Reason::kMalformed);
  Json pkcs1 = jwk(sound, exponent);
  pkcs1["alg"] = "RSA1_5";
  EXPECT_EQ(ReasonOf(ParseTeePublicKey(pkcs1, "key").status()), Reason::kKeyUnsupported);
}

}  // namespace
}  // namespace pavise::kbs
