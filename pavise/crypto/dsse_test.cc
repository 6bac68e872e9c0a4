#include "pavise/crypto/dsse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "pavise/base/status.h"

namespace pavise::crypto {
namespace {

constexpr std::string_view kType = "application/vnd.pavise.agreement+json";

PrivateKey Generate(KeyType type) { return PrivateKey::Generate(type).value(); }

// The protocol's own example.
TEST(DsseTest, EncodingIsThatOfTheProtocol) {
  EXPECT_EQ(
      AsText(PreAuthenticationEncoding("http://example.com/HelloWorld", AsBytes("hello world"))),
      "DSSEv1 29 http://example.com/HelloWorld 11 hello world");
  EXPECT_EQ(AsText(PreAuthenticationEncoding("", {})), "DSSEv1 0  0 ");
}

TEST(DsseTest, EveryKindOfKeySignsAndVerifies) {
  for (const KeyType type :
       {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521, KeyType::kEd25519}) {
    PrivateKey key = Generate(type);
    const Envelope envelope = SignEnvelope(kType, AsBytes("{\"a\":1}"), key).value();
    const std::string text = FormatEnvelope(envelope);
    const Envelope read = ParseEnvelope(AsBytes(text), "envelope").value();
    EXPECT_EQ(read, envelope);
    EXPECT_EQ(read.signatures.at(0).key_id, key.public_key().Fingerprint());
    EXPECT_TRUE(VerifyEnvelope(read, kType, key.public_key(), "envelope").ok());

    EXPECT_EQ(ReasonOf(VerifyEnvelope(read, "application/vnd.pavise.approval+json",
                                      key.public_key(), "envelope")),
              Reason::kUnsupported);
    EXPECT_EQ(ReasonOf(VerifyEnvelope(read, kType, Generate(type).public_key(), "envelope")),
              Reason::kKeyMismatch);
    Envelope changed = read;
    changed.payload[0] ^= 1;
    EXPECT_EQ(ReasonOf(VerifyEnvelope(changed, kType, key.public_key(), "envelope")),
              Reason::kSignatureInvalid);
    changed = read;
    changed.signatures[0].signature[10] ^= 1;
    EXPECT_EQ(ReasonOf(VerifyEnvelope(changed, kType, key.public_key(), "envelope")),
              Reason::kSignatureInvalid);
    // Another's signature under this key's name, and a type that was not the signed one.
    changed = read;
    PrivateKey other = Generate(type);
    changed.signatures[0].signature =
        SignEnvelope(kType, read.payload, other)->signatures[0].signature;
    EXPECT_EQ(ReasonOf(VerifyEnvelope(changed, kType, key.public_key(), "envelope")),
              Reason::kSignatureInvalid);
    changed = read;
    changed.payload_type = "other";
    EXPECT_EQ(ReasonOf(VerifyEnvelope(changed, "other", key.public_key(), "envelope")),
              Reason::kSignatureInvalid);
  }
}

TEST(DsseTest, SeveralSignersEachVerify) {
  PrivateKey first = Generate(KeyType::kEd25519), second = Generate(KeyType::kEcP256);
  Envelope envelope = SignEnvelope(kType, AsBytes("x"), first).value();
  envelope.signatures.push_back(SignEnvelope(kType, AsBytes("x"), second)->signatures[0]);
  const Envelope read = EnvelopeFromJson(EnvelopeToJson(envelope), "envelope").value();
  EXPECT_TRUE(VerifyEnvelope(read, kType, first.public_key(), "envelope").ok());
  EXPECT_TRUE(VerifyEnvelope(read, kType, second.public_key(), "envelope").ok());
  std::swap(envelope.signatures[0].signature, envelope.signatures[1].signature);
  EXPECT_EQ(ReasonOf(VerifyEnvelope(envelope, kType, first.public_key(), "envelope")),
            Reason::kSignatureInvalid);
}

TEST(DsseTest, ReadsOneFormOnly) {
  PrivateKey key = Generate(KeyType::kEd25519);
  const Json good = EnvelopeToJson(SignEnvelope(kType, AsBytes("x"), key).value());
  const auto refused = [](const Json& json) {
    const absl::Status status = EnvelopeFromJson(json, "envelope").status();
    EXPECT_TRUE(ReasonOf(status).has_value()) << status << json;
    return ReasonOf(status).value_or(Reason::kPolicyDenied);
  };
  for (const char* name : {"payload", "payloadType", "signatures"}) {
    Json json = good;
    json.erase(name);
    EXPECT_EQ(refused(json), Reason::kMalformed) << name;
    json[name] = 7;
    EXPECT_EQ(refused(json), Reason::kMalformed) << name;
  }
  Json json = good;
  json["x"] = 1;
  EXPECT_EQ(refused(json), Reason::kMalformed);
  json = good;
  json["payloadType"] = "";
  EXPECT_EQ(refused(json), Reason::kMalformed);
  json = good;
  json["payload"] = "e";
  EXPECT_EQ(refused(json), Reason::kMalformed);
  json = good;
  json["signatures"] = Json::array();
  EXPECT_EQ(refused(json), Reason::kMalformed);
  json = good;
  json["signatures"].push_back(good["signatures"][0]);
  EXPECT_EQ(refused(json), Reason::kMalformed);
  json["signatures"] = Json(kMaxEnvelopeSignatures + 1, good["signatures"][0]);
  EXPECT_EQ(refused(json), Reason::kLimitExceeded);
  for (const auto& [name, value] :
       {std::pair("keyid", ""), std::pair("keyid", "ABCDEF"), std::pair("sig", ""),
        std::pair("sig", "a-_="), std::pair("more", "x")}) {
    json = good;
    json["signatures"][0][name] = value;
    EXPECT_EQ(refused(json), Reason::kMalformed) << name << value;
  }
  json = good;
  json["payload"] = std::string(kMaxEnvelopePayloadBytes / 3 * 4 + 8, 'A');
  EXPECT_EQ(refused(json), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(SignEnvelope(kType, Bytes(kMaxEnvelopePayloadBytes + 1), key).status()),
            Reason::kLimitExceeded);
  const std::string text = good.dump();
  for (size_t size_bytes = 0; size_bytes < text.size(); ++size_bytes) {
    EXPECT_FALSE(ParseEnvelope(AsBytes(text).first(size_bytes), "envelope").ok());
  }
  EXPECT_EQ(ReasonOf(ParseEnvelope(AsBytes(text + "x"), "envelope").status()), Reason::kMalformed);
}

}  // namespace
}  // namespace pavise::crypto
