#include "pavise/signing/bundle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/crypto/testing/test_files.h"

namespace pavise::signing {
namespace {

using ::testing::HasSubstr;
using ::testing::Optional;

constexpr std::string_view kPayload = R"({"any":"bytes"})";

Bytes Copy(std::string_view text) { return Bytes(text.begin(), text.end()); }
Bytes Filled(size_t count, uint8_t value) { return Bytes(count, value); }

Bundle KeyBundle() {
  Bundle bundle;
  bundle.method = Method::kKey;
  bundle.key_hint = "e8450dec";
  bundle.payload_type = std::string(kInTotoPayloadType);
  bundle.payload = Copy(kPayload);
  bundle.signature = Filled(70, 0x30);
  return bundle;
}

Bundle CertificateBundle() {
  Bundle bundle = KeyBundle();
  bundle.method = Method::kCertificate;
  bundle.key_hint.reset();
  bundle.certificates = {Filled(300, 1), Filled(301, 2)};
  return bundle;
}

Bundle SigstoreBundle() {
  Bundle bundle = KeyBundle();
  bundle.method = Method::kSigstore;
  bundle.key_hint.reset();
  bundle.certificates = {Filled(300, 1)};
  TlogEntry entry;
  entry.log_index = 206342049;
  entry.log_key_id = Filled(32, 3);
  entry.kind = "dsse";
  entry.kind_version = "0.0.1";
  entry.integrated_time_s = 1746234602;
  entry.signed_entry_timestamp = Filled(71, 4);
  InclusionProof proof;
  proof.log_index = 84437787;
  proof.tree_size = 84437788;
  proof.root_hash = Filled(32, 5);
  proof.hashes = {Filled(32, 6), Filled(32, 7)};
  proof.checkpoint = "log.example - 1\n84437788\nBQU=\n\n\u2014 log.example AAAA\n";
  entry.inclusion_proof = proof;
  entry.canonicalized_body = Copy("{}");
  bundle.tlog_entries = {entry};
  bundle.rfc3161_timestamps = {Filled(500, 8)};
  return bundle;
}

absl::StatusOr<Bundle> Parse(std::string_view text) {
  return ParseBundle(AsBytes(text), "model.sig");
}

// The bundle as JSON, for changing.
Json AsJson(const Bundle& bundle) { return Json::parse(FormatBundle(bundle)); }

void ExpectSame(const Bundle& a, const Bundle& b) {
  EXPECT_EQ(a.method, b.method);
  EXPECT_EQ(a.key_hint, b.key_hint);
  EXPECT_EQ(a.key_pem, b.key_pem);
  EXPECT_EQ(a.certificates, b.certificates);
  EXPECT_EQ(a.rfc3161_timestamps, b.rfc3161_timestamps);
  EXPECT_EQ(a.payload_type, b.payload_type);
  EXPECT_EQ(a.payload, b.payload);
  EXPECT_EQ(a.signature, b.signature);
  ASSERT_EQ(a.tlog_entries.size(), b.tlog_entries.size());
  for (size_t i = 0; i < a.tlog_entries.size(); ++i) {
    const TlogEntry& left = a.tlog_entries[i];
    const TlogEntry& right = b.tlog_entries[i];
    EXPECT_EQ(left.log_index, right.log_index);
    EXPECT_EQ(left.log_key_id, right.log_key_id);
    EXPECT_EQ(left.kind, right.kind);
    EXPECT_EQ(left.kind_version, right.kind_version);
    EXPECT_EQ(left.integrated_time_s, right.integrated_time_s);
    EXPECT_EQ(left.signed_entry_timestamp, right.signed_entry_timestamp);
    EXPECT_EQ(left.canonicalized_body, right.canonicalized_body);
    ASSERT_EQ(left.inclusion_proof.has_value(), right.inclusion_proof.has_value());
    if (!left.inclusion_proof.has_value()) continue;
    EXPECT_EQ(left.inclusion_proof->log_index, right.inclusion_proof->log_index);
    EXPECT_EQ(left.inclusion_proof->tree_size, right.inclusion_proof->tree_size);
    EXPECT_EQ(left.inclusion_proof->root_hash, right.inclusion_proof->root_hash);
    EXPECT_EQ(left.inclusion_proof->hashes, right.inclusion_proof->hashes);
    EXPECT_EQ(left.inclusion_proof->checkpoint, right.inclusion_proof->checkpoint);
  }
}

TEST(BundleTest, FormattedBundlesReadBackTheSame) {
  for (const Bundle& bundle : {KeyBundle(), CertificateBundle(), SigstoreBundle()}) {
    SCOPED_TRACE(MethodName(bundle.method));
    const std::string text = FormatBundle(bundle);
    const auto parsed = Parse(text);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ExpectSame(bundle, *parsed);
    EXPECT_EQ(FormatBundle(*parsed), text);
  }
}

// The text itself is what the reference tool's strict reader was seen to accept.
TEST(BundleTest, KeyBundleText) {
  Bundle bundle = KeyBundle();
  bundle.payload = Copy("{}");
  bundle.signature = {0x30, 0x00};
  EXPECT_EQ(FormatBundle(bundle),
            R"({"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",)"
            R"("verificationMaterial":{"publicKey":{"hint":"e8450dec"},"tlogEntries":[]},)"
            R"("dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json",)"
            R"("signatures":[{"sig":"MAA=","keyid":""}]}})");
}

struct Change {
  const char* what;
  std::function<void(Json&)> apply;
  Reason reason = Reason::kMalformed;
};

Json& Material(Json& json) { return json["verificationMaterial"]; }
Json& Envelope(Json& json) { return json["dsseEnvelope"]; }
Json& Entry(Json& json) { return Material(json)["tlogEntries"][0]; }
Json& Proof(Json& json) { return Entry(json)["inclusionProof"]; }

void ExpectRefused(const Bundle& bundle, const std::vector<Change>& changes) {
  for (const Change& change : changes) {
    SCOPED_TRACE(change.what);
    Json json = AsJson(bundle);
    change.apply(json);
    const std::string text = json.dump();
    ASSERT_NE(text, AsJson(bundle).dump());
    const auto parsed = Parse(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(ReasonOf(parsed.status()), Optional(change.reason)) << parsed.status();
    EXPECT_THAT(RefusalsOf(parsed.status())[0].item, HasSubstr("model.sig"));
  }
}

TEST(BundleTest, RefusesWhatAKeyBundleMustNotHold) {
  ExpectRefused(
      KeyBundle(),
      {
          {"unknown member", [](Json& j) { j["extra"] = 1; }},
          {"blob signature beside the envelope",
           [](Json& j) {
             j["messageSignature"] = {{"a", 1}};
           }},
          {"no media type", [](Json& j) { j.erase("mediaType"); }},
          {"media type v0.1",
           [](Json& j) {
             j["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1";
           }},
          {"media type with a tail",
           [](Json& j) { j["mediaType"] = std::string(kBundleMediaType) + ";x=1"; }},
          {"media type of another JSON type", [](Json& j) { j["mediaType"] = 3; }},
          {"no material", [](Json& j) { j.erase("verificationMaterial"); }},
          {"material is an array", [](Json& j) { Material(j) = Json::array(); }},
          {"unknown material", [](Json& j) { Material(j)["x"] = 1; }},
          {"no key material", [](Json& j) { Material(j).erase("publicKey"); }},
          {"two key materials",
           [](Json& j) { Material(j)["x509CertificateChain"]["certificates"] = Json::array(); }},
          {"a null as second key material", [](Json& j) { Material(j)["certificate"] = nullptr; }},
          {"null key", [](Json& j) { Material(j)["publicKey"] = nullptr; }},
          {"unknown member of the key", [](Json& j) { Material(j)["publicKey"]["x"] = 1; }},
          {"hint is a number", [](Json& j) { Material(j)["publicKey"]["hint"] = 1; }},
          {"key bytes are not base64", [](Json& j) { Material(j)["publicKey"]["rawBytes"] = "*"; }},
          {"key details are a number", [](Json& j) { Material(j)["publicKey"]["keyDetails"] = 1; }},
          {"log entries are an object",
           [](Json& j) {
             Material(j)["tlogEntries"] = {{"a", 1}};
           }},
          {"log entries are null", [](Json& j) { Material(j)["tlogEntries"] = nullptr; }},
          {"timestamps are an array",
           [](Json& j) { Material(j)["timestampVerificationData"] = Json::array(); }},
          {"unknown timestamp member",
           [](Json& j) { Material(j)["timestampVerificationData"]["x"] = 1; }},
          {"no envelope", [](Json& j) { j.erase("dsseEnvelope"); }},
          {"unknown member of the envelope", [](Json& j) { Envelope(j)["x"] = 1; }},
          {"no payload", [](Json& j) { Envelope(j).erase("payload"); }},
          {"empty payload", [](Json& j) { Envelope(j)["payload"] = ""; }},
          {"payload with white space", [](Json& j) { Envelope(j)["payload"] = "e3 0="; }},
          {"payload without padding", [](Json& j) { Envelope(j)["payload"] = "e30"; }},
          {"payload with stray bits", [](Json& j) { Envelope(j)["payload"] = "e31="; }},
          {"payload in the web alphabet", [](Json& j) { Envelope(j)["payload"] = "_-8="; }},
          {"other payload type", [](Json& j) { Envelope(j)["payloadType"] = "application/json"; },
           Reason::kUnsupported},
          {"no payload type", [](Json& j) { Envelope(j).erase("payloadType"); }},
          {"no signatures", [](Json& j) { Envelope(j).erase("signatures"); }},
          {"empty signatures", [](Json& j) { Envelope(j)["signatures"] = Json::array(); }},
          {"two signatures",
           [](Json& j) {
             const Json first = Envelope(j)["signatures"][0];
             Envelope(j)["signatures"].push_back(first);
           }},
          {"signature is text", [](Json& j) { Envelope(j)["signatures"][0] = "MAA="; }},
          {"no sig", [](Json& j) { Envelope(j)["signatures"][0].erase("sig"); }},
          {"empty sig", [](Json& j) { Envelope(j)["signatures"][0]["sig"] = ""; }},
          {"unknown member of the signature",
           [](Json& j) { Envelope(j)["signatures"][0]["x"] = 1; }},
          {"keyid is a number", [](Json& j) { Envelope(j)["signatures"][0]["keyid"] = 1; }},
      });
}

TEST(BundleTest, RefusesWhatACertificateBundleMustNotHold) {
  const auto chain = [](Json& j) -> Json& { return Material(j)["x509CertificateChain"]; };
  ExpectRefused(
      CertificateBundle(),
      {
          {"no certificates", [&](Json& j) { chain(j).erase("certificates"); }},
          {"empty chain", [&](Json& j) { chain(j)["certificates"] = Json::array(); }},
          {"unknown member of the chain", [&](Json& j) { chain(j)["x"] = 1; }},
          {"unknown member of a certificate",
           [&](Json& j) { chain(j)["certificates"][1]["x"] = 1; }},
          {"empty certificate", [&](Json& j) { chain(j)["certificates"][1]["rawBytes"] = ""; }},
          {"certificate is text", [&](Json& j) { chain(j)["certificates"][0] = "MAA="; }},
          {"33 certificates",
           [&](Json& j) {
             const Json first = chain(j)["certificates"][0];
             chain(j)["certificates"] = Json(33, first);
           },
           Reason::kLimitExceeded},
      });
}

TEST(BundleTest, RefusesWhatASigstoreBundleMustNotHold) {
  const std::string hash_31 = ToBase64(Filled(31, 1));
  ExpectRefused(
      SigstoreBundle(),
      {
          {"no log entries", [](Json& j) { Material(j).erase("tlogEntries"); }},
          {"empty log entries", [](Json& j) { Material(j)["tlogEntries"] = Json::array(); }},
          {"33 log entries",
           [](Json& j) {
             const Json first = Entry(j);
             Material(j)["tlogEntries"] = Json(33, first);
           },
           Reason::kLimitExceeded},
          {"unknown member of an entry", [](Json& j) { Entry(j)["x"] = 1; }},
          {"negative log index", [](Json& j) { Entry(j)["logIndex"] = "-1"; }},
          {"log index with a sign", [](Json& j) { Entry(j)["logIndex"] = "+1"; }},
          {"log index with a zero", [](Json& j) { Entry(j)["logIndex"] = "01"; }},
          {"log index with a space", [](Json& j) { Entry(j)["logIndex"] = " 1"; }},
          {"log index in hexadecimal", [](Json& j) { Entry(j)["logIndex"] = "0x1"; }},
          {"log index above int64", [](Json& j) { Entry(j)["logIndex"] = "9223372036854775808"; }},
          {"log index above uint64",
           [](Json& j) { Entry(j)["logIndex"] = "18446744073709551616"; }},
          {"log index is a fraction", [](Json& j) { Entry(j)["logIndex"] = 1.5; }},
          {"negative time", [](Json& j) { Entry(j)["integratedTime"] = -1; }},
          {"no log id", [](Json& j) { Entry(j).erase("logId"); }},
          {"unknown member of the log id", [](Json& j) { Entry(j)["logId"]["x"] = 1; }},
          {"no kind", [](Json& j) { Entry(j).erase("kindVersion"); }},
          {"no body", [](Json& j) { Entry(j).erase("canonicalizedBody"); }},
          {"promise without a timestamp",
           [](Json& j) { Entry(j)["inclusionPromise"] = Json::object(); }},
          {"unknown member of the proof", [](Json& j) { Proof(j)["x"] = 1; }},
          {"leaf outside the tree", [](Json& j) { Proof(j)["treeSize"] = "84437787"; }},
          {"no tree size", [](Json& j) { Proof(j).erase("treeSize"); }},
          {"short root", [&](Json& j) { Proof(j)["rootHash"] = hash_31; }},
          {"short hash", [&](Json& j) { Proof(j)["hashes"][1] = hash_31; }},
          {"hash is a number", [](Json& j) { Proof(j)["hashes"][1] = 1; }},
          {"65 hashes",
           [](Json& j) {
             const Json first = Proof(j)["hashes"][0];
             Proof(j)["hashes"] = Json(65, first);
           },
           Reason::kLimitExceeded},
          {"unknown member of the checkpoint", [](Json& j) { Proof(j)["checkpoint"]["x"] = 1; }},
          {"checkpoint is text", [](Json& j) { Proof(j)["checkpoint"] = "x"; }},
          {"timestamp without bytes",
           [](Json& j) {
             Material(j)["timestampVerificationData"]["rfc3161Timestamps"][0] = Json::object();
           }},
          {"33 timestamps",
           [](Json& j) {
             Json& all = Material(j)["timestampVerificationData"]["rfc3161Timestamps"];
             const Json first = all[0];
             all = Json(33, first);
           },
           Reason::kLimitExceeded},
      });
}

TEST(BundleTest, AcceptsTheVariantsOfOlderReleases) {
  const std::vector<Change> changes = {
      {"no log entries beside a key", [](Json& j) { Material(j).erase("tlogEntries"); }},
      {"no keyid", [](Json& j) { Envelope(j)["signatures"][0].erase("keyid"); }},
      {"null keyid", [](Json& j) { Envelope(j)["signatures"][0]["keyid"] = nullptr; }},
      {"some keyid", [](Json& j) { Envelope(j)["signatures"][0]["keyid"] = "k"; }},
      {"empty timestamps",
       [](Json& j) { Material(j)["timestampVerificationData"] = Json::object(); }},
  };
  for (const Change& change : changes) {
    SCOPED_TRACE(change.what);
    Json json = AsJson(KeyBundle());
    change.apply(json);
    const auto parsed = Parse(json.dump());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ExpectSame(*parsed, KeyBundle());
  }
  for (const Json& hint : {Json(nullptr), Json("")}) {
    Json json = AsJson(KeyBundle());
    Material(json)["publicKey"]["hint"] = hint;
    const auto parsed = Parse(json.dump());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_FALSE(parsed->key_hint.has_value());
  }
  Json json = AsJson(KeyBundle());
  Material(json)["publicKey"] = {{"rawBytes", ToBase64(AsBytes("-----BEGIN"))},
                                 {"keyDetails", "PKIX_ECDSA_P384_SHA_384"}};
  const auto parsed = Parse(json.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_FALSE(parsed->key_hint.has_value());
  EXPECT_EQ(parsed->key_pem, Copy("-----BEGIN"));
}

TEST(BundleTest, ReadsProtobufIntegersAndDefaults) {
  Json json = AsJson(SigstoreBundle());
  Entry(json)["logIndex"] = 206342049;  // a number in place of a string
  auto parsed = Parse(json.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tlog_entries[0].log_index, 206342049u);

  Entry(json)["logIndex"] = "9223372036854775807";
  parsed = Parse(json.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tlog_entries[0].log_index, uint64_t{9223372036854775807u});

  // The first leaf of a log of one: protobuf leaves zeros and empty lists out.
  Entry(json).erase("logIndex");
  Entry(json).erase("integratedTime");
  Entry(json).erase("inclusionPromise");
  Proof(json).erase("logIndex");
  Proof(json)["treeSize"] = "1";
  Proof(json).erase("hashes");
  Proof(json).erase("checkpoint");
  parsed = Parse(json.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const TlogEntry& entry = parsed->tlog_entries[0];
  EXPECT_EQ(entry.log_index, 0u);
  EXPECT_EQ(entry.integrated_time_s, 0);
  EXPECT_FALSE(entry.signed_entry_timestamp.has_value());
  EXPECT_EQ(entry.inclusion_proof->log_index, 0u);
  EXPECT_TRUE(entry.inclusion_proof->hashes.empty());
  EXPECT_EQ(entry.inclusion_proof->checkpoint, "");
}

TEST(BundleTest, RefusesDuplicateKeysAtEveryLevel) {
  const std::string text = FormatBundle(SigstoreBundle());
  ASSERT_TRUE(Parse(text).ok());
  size_t cases = 0;
  // Behind every "{", the first member again.
  for (size_t at = text.find("{\""); at != std::string::npos; at = text.find("{\"", at + 1)) {
    const size_t name_end = text.find('"', at + 2);
    const std::string name = text.substr(at + 1, name_end - at);
    std::string twice = text;
    twice.insert(at + 1, name + ":0,");
    const auto parsed = Parse(twice);
    ASSERT_FALSE(parsed.ok()) << twice;
    EXPECT_THAT(ReasonOf(parsed.status()), Optional(Reason::kMalformed));
    EXPECT_THAT(parsed.status().message(), HasSubstr("duplicate key")) << parsed.status();
    ++cases;
  }
  EXPECT_EQ(cases, 13u);
}

TEST(BundleTest, RefusesTruncationAndTextAfterTheEnd) {
  const std::string text = FormatBundle(SigstoreBundle());
  for (size_t length = 0; length < text.size(); ++length) {
    ASSERT_FALSE(Parse(text.substr(0, length)).ok()) << length;
  }
  EXPECT_TRUE(Parse(text + "\n").ok());
  EXPECT_FALSE(Parse(text + "x").ok());
  EXPECT_FALSE(Parse(text + text).ok());
  EXPECT_FALSE(Parse(std::string("\xef\xbb\xbf") + text).ok());
  EXPECT_FALSE(Parse(text + std::string(1, '\0')).ok());
}

// A flipped bit either breaks the form or lands in a value that the signature check will see.
TEST(BundleTest, FlippedBitsAreRefusedOrChangeTheValue) {
  const Bundle bundle = KeyBundle();
  const std::string text = FormatBundle(bundle);
  size_t accepted = 0;
  for (size_t i = 0; i < text.size() * 8; ++i) {
    std::string flipped = text;
    flipped[i / 8] = static_cast<char>(flipped[i / 8] ^ 1 << i % 8);
    const auto parsed = Parse(flipped);
    if (!parsed.ok()) continue;
    ++accepted;
    const bool changed = parsed->payload != bundle.payload ||
                         parsed->signature != bundle.signature ||
                         parsed->key_hint != bundle.key_hint;
    EXPECT_TRUE(changed) << flipped;
  }
  EXPECT_GT(accepted, 0u);
}

TEST(BundleTest, RefusesJsonBombs) {
  for (const char* piece : {"[", "{\"a\":", "[[],"}) {
    std::string bomb;
    while (bomb.size() < (size_t{1} << 20)) bomb += piece;
    const auto parsed = Parse(bomb);
    ASSERT_FALSE(parsed.ok());
    EXPECT_THAT(ReasonOf(parsed.status()), Optional(Reason::kLimitExceeded));
  }
  std::string wide = "[";
  for (int i = 0; i < 100'000; ++i) wide += "0,";
  EXPECT_THAT(ReasonOf(Parse(wide).status()), Optional(Reason::kLimitExceeded));

  const std::string huge(kMaxBundleBytes + 1, '[');
  EXPECT_THAT(ReasonOf(Parse(huge).status()), Optional(Reason::kLimitExceeded));
}

TEST(BundleTest, PreAuthenticationEncoding) {
  const auto encode = [](std::string_view payload) {
    const Bytes bytes = PreAuthenticationEncoding(kInTotoPayloadType, AsBytes(payload));
    return std::string(AsText(bytes));
  };
  EXPECT_EQ(encode(""), "DSSEv1 28 application/vnd.in-toto+json 0 ");
  EXPECT_EQ(encode("{\"a\":1}"), "DSSEv1 28 application/vnd.in-toto+json 7 {\"a\":1}");
  // Lengths are of bytes, and the payload is not interpreted.
  EXPECT_EQ(encode("\xc3\xa9"), "DSSEv1 28 application/vnd.in-toto+json 2 \xc3\xa9");
  // The example of the DSSE specification (protocol.md, version 1.0.0).
  const Bytes example =
      PreAuthenticationEncoding("http://example.com/HelloWorld", AsBytes("hello world"));
  EXPECT_EQ(AsText(example), "DSSEv1 29 http://example.com/HelloWorld 11 hello world");
}

// The expected strings were printed by pae_compat() of model-signing 1.1.1 under CPython 3.11.
TEST(BundleTest, PreAuthenticationEncodingOfRelease020) {
  const struct {
    std::string payload;
    const char* expected;
  } cases[] = {
      {"", R"(0 b'')"},
      {R"({"a":1})", R"(7 b'{"a":1}')"},
      {"it's", R"(4 b"it's")"},
      {R"("it's")", R"(6 b'"it\'s"')"},
      {R"(\)", R"(1 b'\\')"},
      {"\t\n\r", R"(3 b'\t\n\r')"},
      {std::string("\x00\x1f\x7f\x80\xff", 5), R"(5 b'\x00\x1f\x7f\x80\xff')"},
      {"\xc3\xa9", R"(2 b'\xc3\xa9')"},
      {"a'b\\\"c\n\x0b ~", R"(10 b'a\'b\\"c\n\x0b ~')"},
      {"''", R"(2 b"''")"},
      {"\"\"", R"(2 b'""')"},
  };
  for (const auto& [payload, expected] : cases) {
    const Bytes encoded = PreAuthenticationEncoding020(kInTotoPayloadType, AsBytes(payload));
    EXPECT_EQ(AsText(encoded), std::string("DSSEV1 28 application/vnd.in-toto+json ") + expected);
  }
}

TEST(BundleTest, Vectors) {
  const std::optional<std::string> vectors = crypto::testing::VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors";
  const std::string oms = *vectors + "/oms";
  const auto parse_file = [](const std::string& path) {
    const auto bytes = ReadFile(path, kMaxBundleBytes);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return ParseBundle(*bytes, path);
  };

  size_t accepted = 0;
  std::vector<size_t> of_method(3);
  std::vector<std::string> good = crypto::testing::FilesBelow(oms + "/releases", "/model.sig");
  for (const auto& folder : {"valid", "invalid-payload"}) {
    const auto more = crypto::testing::FilesBelow(oms + "/spec/v1.0/" + folder, ".json");
    good.insert(good.end(), more.begin(), more.end());
  }
  for (const std::string& path : good) {
    SCOPED_TRACE(path);
    const auto bundle = parse_file(path);
    ASSERT_TRUE(bundle.ok()) << bundle.status();
    ++accepted;
    ++of_method[static_cast<size_t>(bundle->method)];
    EXPECT_EQ(bundle->payload_type, kInTotoPayloadType);
    EXPECT_EQ(bundle->signature[0], 0x30);
    const auto again = Parse(FormatBundle(*bundle));
    ASSERT_TRUE(again.ok()) << again.status();
    ExpectSame(*bundle, *again);
    if (bundle->method == Method::kSigstore) {
      EXPECT_EQ(bundle->tlog_entries.size(), 1u);
      EXPECT_EQ(bundle->tlog_entries[0].kind, "dsse");
      EXPECT_TRUE(bundle->tlog_entries[0].inclusion_proof.has_value());
    }
  }
  EXPECT_EQ(accepted, 10u);  // 6 releases, 3 valid, 1 of which only the payload is invalid
  EXPECT_EQ(of_method, (std::vector<size_t>{4, 3, 3}));

  size_t refused = 0;
  for (const std::string& path : crypto::testing::FilesBelow(oms + "/spec/v1.0/invalid", ".json")) {
    SCOPED_TRACE(path);
    const auto bundle = parse_file(path);
    ASSERT_FALSE(bundle.ok());
    EXPECT_THAT(ReasonOf(bundle.status()), Optional(Reason::kMalformed));
    ++refused;
  }
  EXPECT_EQ(refused, 4u);
}

}  // namespace
}  // namespace pavise::signing
