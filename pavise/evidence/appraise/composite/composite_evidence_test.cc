#include "pavise/evidence/appraise/composite/composite_evidence.h"

#include <functional>
#include <string>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwt.h"
#include "pavise/crypto/keys.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

EvidencePart Gpu() { return {"nvidia-spdm-1.1", {{"report", {1, 2}}, {"certificates", {3}}}}; }
EvidencePart Tpm() {
  return {"tpm-2.0",
          {{"quote", {4}}, {"signature", {5}}, {"attestation_key", {6}}, {"pcr_values", {7}}}};
}
EvidencePart Tee() { return {"amd-sev-snp", {{"report", Bytes(300, 8)}}}; }

CompositeEvidence Evidence() {
  CompositeEvidence evidence;
  evidence.nonce.fill(0xaa);
  evidence.session_key = {0x30, 0x00};
  evidence.parts = {Gpu(), Gpu(), Tpm(), Tee()};
  return evidence;
}

std::optional<Reason> CborRefused(ByteSpan bytes) {
  return ReasonOf(FromCbor(bytes, "evidence").status());
}
std::optional<Reason> JsonRefused(std::string_view text) {
  return ReasonOf(FromJson(AsBytes(text), "evidence").status());
}

TEST(CompositeEvidenceTest, BothEncodingsCarryIt) {
  const CompositeEvidence evidence = Evidence();
  EXPECT_EQ(FromCbor(ToCbor(evidence).value(), "evidence").value(), evidence);
  EXPECT_EQ(FromJson(AsBytes(ToJson(evidence).value()), "evidence").value(), evidence);
  EXPECT_EQ(FromJsonValue(Json::parse(ToJson(evidence).value()), "evidence").value(), evidence);
}

// Written by hand from RFC 8949.
TEST(CompositeEvidenceTest, CborIsAsDocumented) {
  CompositeEvidence evidence = Evidence();
  evidence.parts = {Gpu()};
  const std::string expected = StrCat("a4", "656e6f6e6365", "5820", std::string(64, 'a'),  // nonce
                                      "657061727473", "81",                                // parts
                                      "a2", "656974656d73", "a2",                          // items
                                      "667265706f7274", "420102",                          // report
                                      "6c636572746966696361746573", "4103",  // certificates
                                      "66666f726d6174", "6f6e76696469612d7370646d2d312e31",
                                      "6776657273696f6e", "01",               // version
                                      "6b73657373696f6e5f6b6579", "423000");  // session_key
  EXPECT_EQ(ToHex(ToCbor(evidence).value()), expected);
  EXPECT_EQ(ToJson(evidence).value(),
            "{\"nonce\":\"qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqo=\",\"parts\":["
            "{\"format\":\"nvidia-spdm-1.1\",\"items\":{\"certificates\":\"Aw==\","
            "\"report\":\"AQI=\"}}],\"session_key\":\"MAA=\",\"version\":1}");
}

TEST(CompositeEvidenceTest, CborHasOneEncoding) {
  const Bytes good = ToCbor(Evidence()).value();
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(CborRefused(ByteSpan(good).first(size)), Reason::kMalformed) << size;
  }
  Bytes longer = good;
  longer.push_back(0);
  EXPECT_EQ(CborRefused(longer), Reason::kMalformed);
  // A changed byte is refused, or is another value that is written as those bytes again.
  size_t accepted = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    Bytes other = good;
    other[i] ^= 1;
    const auto evidence = FromCbor(other, "evidence");
    if (!evidence.ok()) continue;
    EXPECT_NE(*evidence, Evidence());
    EXPECT_EQ(ToCbor(*evidence).value(), other);
    ++accepted;
  }
  EXPECT_EQ(accepted, 32u + 2 + 2 * 3 + 4 + 300);  // the contents of byte strings
  const std::string hex = ToHex(good);
  const auto with = [&](std::string from, std::string to) {
    std::string other = hex;
    const size_t at = other.find(from);
    EXPECT_NE(at, other.npos) << from;
    return FromHex(other.replace(at, from.size(), to), "test").value();
  };
  EXPECT_EQ(CborRefused(with("6776657273696f6e01", "6776657273696f6e1801")), Reason::kMalformed);
  EXPECT_EQ(CborRefused(with("6776657273696f6e01", "6776657273696f6e02")), Reason::kUnsupported);
  EXPECT_EQ(CborRefused(with("6776657273696f6e01", "6776657273696f6e20")), Reason::kMalformed);
  EXPECT_EQ(CborRefused(with("a4656e6f6e63655820", "bf656e6f6e63655820")), Reason::kMalformed);
  EXPECT_EQ(CborRefused(with("a4656e6f6e63655820", "a4656e6f6e6365581f")), Reason::kMalformed);
  EXPECT_EQ(CborRefused(with("a4656e6f6e6365", "c1a4656e6f6e6365")), Reason::kMalformed);
  EXPECT_EQ(CborRefused(with("65706172747384", "6570617274739b7fffffffffffffff")),
            Reason::kLimitExceeded);
  EXPECT_EQ(CborRefused(with("667265706f7274420102", "667265706f72745b7fffffffffffffff0102")),
            Reason::kMalformed);  // a length that is only claimed
}

TEST(CompositeEvidenceTest, ItemsStandOnceAndInOrder) {
  // certificates before report; report twice.
  const std::string head =
      StrCat("a4656e6f6e63655820", std::string(64, 'a'), "65706172747381a2", "656974656d73a2");
  const std::string tail = StrCat("66666f726d61746f6e76696469612d7370646d2d312e31",
                                  "6776657273696f6e01", "6b73657373696f6e5f6b6579423000");
  const std::string report = "667265706f7274420102";
  const std::string certificates = "6c6365727469666963617465734103";
  const auto refused = [&](const std::string& items) {
    return CborRefused(FromHex(head + items + tail, "test").value());
  };
  EXPECT_EQ(refused(report + certificates), std::nullopt);
  EXPECT_EQ(refused(certificates + report), Reason::kMalformed);
  EXPECT_EQ(refused(report + report), Reason::kEvidenceMissing);
}

TEST(CompositeEvidenceTest, JsonIsStrict) {
  const std::string good = ToJson(Evidence()).value();
  const auto with = [&](std::string from, std::string to) {
    std::string other = good;
    const size_t at = other.find(from);
    EXPECT_NE(at, other.npos) << from;
    return other.replace(at, from.size(), to);
  };
  EXPECT_EQ(JsonRefused(" " + good + "\n"), std::nullopt);
  EXPECT_EQ(JsonRefused(good + "x"), Reason::kMalformed);
  EXPECT_EQ(JsonRefused(with("\"version\":1", "\"version\":2")), Reason::kUnsupported);
  EXPECT_EQ(JsonRefused(with("\"version\":1", "\"version\":1,\"x\":1")), Reason::kMalformed);
  EXPECT_EQ(JsonRefused(with("\"version\":1", "\"version\":\"1\"")), Reason::kMalformed);
  EXPECT_EQ(JsonRefused(with(",\"version\":1", "")), Reason::kMalformed);
  EXPECT_EQ(JsonRefused(with("\"session_key\":\"MAA=\"", "\"session_key\":\"MAA\"")),
            Reason::kMalformed);
  EXPECT_EQ(JsonRefused(with("\"session_key\":\"MAA=\"", "\"session_key\":\"\"")),
            Reason::kMalformed);
  EXPECT_EQ(JsonRefused(with("\"nonce\":\"qqqq", "\"nonce\":\"")), Reason::kMalformed);
  EXPECT_EQ(JsonRefused(with("\"report\":\"AQI=\"", "\"report\":\"AQI=\",\"report\":\"AQI=\"")),
            Reason::kMalformed);
  EXPECT_EQ(JsonRefused(with("\"report\":\"AQI=\"", "\"report\":[1]")), Reason::kMalformed);
  for (size_t size = 0; size < good.size(); size += 3) {
    EXPECT_EQ(JsonRefused(good.substr(0, size)), Reason::kMalformed) << size;
  }
}

TEST(CompositeEvidenceTest, RefusesOtherForms) {
  const auto refused = [](const std::function<void(CompositeEvidence&)>& change) {
    CompositeEvidence evidence = Evidence();
    change(evidence);
    const absl::Status status = CheckForm(evidence);
    EXPECT_EQ(ToCbor(evidence).status(), status);
    EXPECT_EQ(ToJson(evidence).status(), status);
    return ReasonOf(status);
  };
  EXPECT_EQ(refused([](CompositeEvidence&) {}), std::nullopt);
  EXPECT_EQ(refused([](auto& e) { e.parts.clear(); }), Reason::kEvidenceMissing);
  EXPECT_EQ(refused([](auto& e) { e.parts.assign(33, Gpu()); }), Reason::kLimitExceeded);
  EXPECT_EQ(refused([](auto& e) { e.parts.assign(32, Gpu()); }), std::nullopt);
  EXPECT_EQ(refused([](auto& e) { std::swap(e.parts[1], e.parts[2]); }), Reason::kMalformed);
  EXPECT_EQ(refused([](auto& e) { std::swap(e.parts[2], e.parts[3]); }), Reason::kMalformed);
  EXPECT_EQ(refused([](auto& e) { e.parts.push_back(Tee()); }), Reason::kMalformed);
  EXPECT_EQ(refused([](auto& e) { e.parts[1] = Tpm(); }), Reason::kMalformed);
  EXPECT_EQ(refused([](auto& e) { e.parts[0].format = "nvidia"; }), Reason::kUnsupported);
  EXPECT_EQ(refused([](auto& e) { e.parts[0].items["x"] = {1}; }), Reason::kMalformed);
  EXPECT_EQ(refused([](auto& e) { e.parts[0].items["report"].clear(); }), Reason::kMalformed);
  EXPECT_EQ(refused([](auto& e) { e.parts[0].items.erase("report"); }), Reason::kEvidenceMissing);
  EXPECT_EQ(refused([](auto& e) { e.parts[2].items["ima_log"] = {1}; }), std::nullopt);
  EXPECT_EQ(refused([](auto& e) { e.parts[2].items["ima_log"] = Bytes((64 << 20) + 1); }),
            Reason::kLimitExceeded);
  EXPECT_EQ(refused([](auto& e) {
              e.parts[2].items["ima_log"] = Bytes(64 << 20);
              e.parts[2].items["event_log"] = Bytes(32 << 20);
            }),
            Reason::kLimitExceeded);  // with the rest, over 96 MiB
  EXPECT_EQ(refused([](auto& e) { e.session_key.clear(); }), Reason::kMalformed);
  EXPECT_EQ(refused([](auto& e) { e.session_key = Bytes(1025); }), Reason::kMalformed);
}

TEST(BindingTest, IsTheDigestOfTheDocumentedText) {
  const crypto::PublicKey key =
      crypto::PublicKey::FromEcCoordinates(
          crypto::KeyType::kEcP256,
          FromBase64Url("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "x").value(),
          FromBase64Url("4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "y").value(), "key")
          .value();
  Digest32 nonce, gpu;
  nonce.fill(0x11);
  gpu.fill(0x22);
  const std::string text = StrCat(
      "{\"binding\":\"pavise-1\",\"evidence\":[\"", ToHex(gpu), "\"],\"nonce\":\"", ToHex(nonce),
      "\",\"role\":\"tpm\",\"session_key\":{\"crv\":\"P-256\",\"kty\":\"EC\","
      "\"x\":\"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\","
      "\"y\":\"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\"}}");
  const auto binding = [&](PartKind role, const Digest32& with_nonce,
                           const std::vector<Digest32>& collected) {
    return BindingValue(role, with_nonce, key.der(), collected).value();
  };
  const Digest32 value = binding(PartKind::kTpm, nonce, {gpu});
  EXPECT_EQ(value, crypto::Sha256(AsBytes(text)).value());
  EXPECT_NE(value, binding(PartKind::kTee, nonce, {gpu}));
  EXPECT_NE(value, binding(PartKind::kTpm, gpu, {gpu}));
  EXPECT_NE(value, binding(PartKind::kTpm, nonce, {nonce}));
  EXPECT_NE(value, binding(PartKind::kTpm, nonce, {gpu, gpu}));
  EXPECT_NE(value, binding(PartKind::kTpm, nonce, {}));
  EXPECT_EQ(ReasonOf(BindingValue(PartKind::kTpm, nonce, Bytes{0x30, 0}, {}).status()),
            Reason::kMalformed);
}

}  // namespace
}  // namespace pavise::evidence
