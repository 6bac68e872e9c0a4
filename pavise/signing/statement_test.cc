#include "pavise/signing/statement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/signing/bundle.h"

namespace pavise::signing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Optional;

Digest32 Filled32(uint8_t value) {
  Digest32 digest;
  digest.fill(value);
  return digest;
}

Resource File(std::string path, uint8_t fill, size_t digest_bytes = 32) {
  Resource resource;
  resource.path = std::move(path);
  resource.digest = Bytes(digest_bytes, fill);
  return resource;
}

Resource Shard(std::string path, uint64_t begin, uint64_t end, uint8_t fill) {
  Resource resource = File(std::move(path), fill);
  resource.begin_bytes = begin;
  resource.end_bytes = end;
  return resource;
}

TensorDigest Tensor(std::string name, uint64_t begin, uint64_t end) {
  TensorDigest digest;
  digest.tensor = {std::move(name), "F32", {(end - begin) / 4}, begin, end};
  digest.blake3 = Filled32(9);
  return digest;
}

FileAnnotation Annotation() {
  FileAnnotation annotation;
  annotation.size_bytes = 100;
  annotation.blake3 = Filled32(7);
  annotation.tensor_format = model::TensorFormat::kSafetensors;
  annotation.tensor_data_begin_bytes = 20;
  annotation.tensors = {Tensor("b", 20, 60), Tensor("a", 60, 60), Tensor("c", 60, 100)};
  return annotation;
}

Statement FilesStatement() {
  Statement statement;
  statement.model_name = "model";
  statement.model_version = 3;
  statement.serialization.ignore_paths = {".git", "model.sig"};
  statement.resources = {File("b", 2), File("a/b", 1), File("a-b", 3)};
  statement.resources[0].annotation = Annotation();
  return statement;
}

Statement ShardsStatement() {
  Statement statement;
  statement.model_name = "model";
  statement.serialization.method = SerializationMethod::kShards;
  statement.serialization.shard_size_bytes = 8;
  statement.resources = {Shard("f", 0, 8, 1), Shard("f", 16, 20, 2), Shard("f", 8, 16, 3),
                         Shard("e:1", 0, 8, 4)};
  FileAnnotation annotation;
  annotation.size_bytes = 20;
  annotation.blake3 = Filled32(7);
  statement.resources[0].annotation = annotation;
  return statement;
}

absl::StatusOr<Statement> Parse(std::string_view text) {
  return ParseStatement(AsBytes(text), "statement");
}

std::string Format(Statement statement) {
  const auto text = FormatStatement(statement);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.value_or("");
}

// The statement with its root made good again, so that the change under test alone decides.
std::string WithRoot(Json json) {
  std::string concatenated;
  for (const Json& resource : json["predicate"]["resources"]) {
    if (!resource.is_object() || !resource.contains("digest")) continue;
    const Json& digest = resource["digest"];
    if (!digest.is_string()) continue;
    const auto bytes = FromHex(digest.get<std::string>(), "");
    if (bytes.ok()) concatenated += AsText(*bytes);
  }
  json["subject"][0]["digest"]["sha256"] = ToHex(*crypto::Sha256(AsBytes(concatenated)));
  return json.dump();
}

Json& Subject(Json& json) { return json["subject"][0]; }
Json& Parameters(Json& json) { return json["predicate"]["serialization"]; }
Json& Resources(Json& json) { return json["predicate"]["resources"]; }

struct Change {
  const char* what;
  std::function<void(Json&)> apply;
  Reason reason = Reason::kMalformed;
};

void ExpectRefused(const Statement& statement, const std::vector<Change>& changes) {
  const Json original = Json::parse(Format(statement));
  ASSERT_TRUE(Parse(WithRoot(original)).ok());
  for (const Change& change : changes) {
    SCOPED_TRACE(change.what);
    Json json = original;
    change.apply(json);
    ASSERT_NE(json.dump(), original.dump());
    const bool keeps_subject = json.contains("subject") && json["subject"].is_array() &&
                               !json["subject"].empty() && json["subject"][0].is_object() &&
                               json["subject"][0]["digest"] == original["subject"][0]["digest"];
    const bool keeps_resources = json.contains("predicate") && json["predicate"].is_object() &&
                                 json["predicate"].contains("resources") &&
                                 json["predicate"]["resources"].is_array();
    const std::string text = keeps_subject && keeps_resources ? WithRoot(json) : json.dump();
    const auto parsed = Parse(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(ReasonOf(parsed.status()), Optional(change.reason)) << parsed.status();
    EXPECT_THAT(RefusalsOf(parsed.status())[0].item, HasSubstr("statement"));
  }
}

void ExpectAccepted(const Statement& statement, const std::vector<Change>& changes) {
  for (const Change& change : changes) {
    SCOPED_TRACE(change.what);
    Json json = Json::parse(Format(statement));
    change.apply(json);
    const auto parsed = Parse(WithRoot(json));
    EXPECT_TRUE(parsed.ok()) << parsed.status();
  }
}

TEST(StatementTest, TextOfAStatement) {
  Statement statement;
  statement.model_name = "m\"\n";
  statement.model_version = 3;
  statement.resources = {File("b", 0xbb), File("a", 0xaa)};
  statement.resources[1].annotation = Annotation();
  statement.resources[1].annotation->tensors.resize(1);
  const auto text = FormatStatement(statement);
  ASSERT_TRUE(text.ok()) << text.status();
  const std::string a(64, 'a');
  const std::string b(64, 'b');
  const std::string root =
      ToHex(*crypto::Sha256(AsBytes(std::string(32, '\xaa') + std::string(32, '\xbb'))));
  EXPECT_EQ(ToHex(statement.root), root);
  std::string seven;
  std::string nine;
  for (int i = 0; i < 32; ++i) {
    seven += "07";
    nine += "09";
  }
  EXPECT_EQ(*text,
            R"({"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m\"\n",)"
            R"("digest":{"sha256":")" +
                root +
                R"("},"annotations":{"pavise":{"version":1,"model_version":3}}}],)"
                R"("predicateType":"https://model_signing/signature/v1.0","predicate":{)"
                R"("serialization":{"method":"files","hash_type":"sha256","allow_symlinks":false},)"
                R"("resources":[{"name":"a","algorithm":"sha256","digest":")" +
                a + R"(","annotations":{"pavise":{"version":1,"length":100,"blake3":")" + seven +
                R"(","tensors":{"format":"safetensors","data_begin":20,"entries":[{"name":"b",)"
                R"("dtype":"F32","shape":[10],"begin":20,"end":60,"blake3":")" +
                nine + R"("}]}}}},{"name":"b","algorithm":"sha256","digest":")" + b + R"("}]}})");
}

TEST(StatementTest, FilesReadBack) {
  const std::string text = Format(FilesStatement());
  const auto parsed = Parse(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->model_name, "model");
  EXPECT_THAT(parsed->model_version, Optional(3u));
  EXPECT_FALSE(parsed->is_release_020);
  EXPECT_EQ(parsed->serialization.method, SerializationMethod::kFiles);
  EXPECT_EQ(parsed->serialization.hash_type, hash::Algorithm::kSha256);
  EXPECT_FALSE(parsed->serialization.allow_symlinks);
  EXPECT_THAT(parsed->serialization.ignore_paths, ElementsAre(".git", "model.sig"));
  ASSERT_EQ(parsed->resources.size(), 3u);
  // Code points: "a-b" comes before "a/b".
  EXPECT_EQ(parsed->resources[0].path, "a-b");
  EXPECT_EQ(parsed->resources[1].path, "a/b");
  EXPECT_EQ(parsed->resources[2].path, "b");
  EXPECT_EQ(parsed->resources[2].digest, Bytes(32, 2));
  EXPECT_FALSE(parsed->resources[0].annotation.has_value());
  ASSERT_TRUE(parsed->resources[2].annotation.has_value());
  const FileAnnotation& annotation = *parsed->resources[2].annotation;
  EXPECT_EQ(annotation.size_bytes, 100u);
  EXPECT_EQ(annotation.blake3, Filled32(7));
  EXPECT_THAT(annotation.tensor_format, Optional(model::TensorFormat::kSafetensors));
  EXPECT_EQ(annotation.tensor_data_begin_bytes, 20u);
  ASSERT_EQ(annotation.tensors.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(annotation.tensors[i].tensor, Annotation().tensors[i].tensor);
    EXPECT_EQ(annotation.tensors[i].blake3, Filled32(9));
  }
  EXPECT_EQ(Format(*parsed), text);
}

TEST(StatementTest, ShardsReadBack) {
  const std::string text = Format(ShardsStatement());
  const auto parsed = Parse(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->serialization.method, SerializationMethod::kShards);
  EXPECT_EQ(parsed->serialization.shard_size_bytes, 8u);
  ASSERT_EQ(parsed->resources.size(), 4u);
  // By path, then offset: 8 comes before 16.
  EXPECT_EQ(parsed->resources[0].name, "e:1:0:8");
  EXPECT_EQ(parsed->resources[0].path, "e:1");
  EXPECT_EQ(parsed->resources[2].name, "f:8:16");
  EXPECT_EQ(parsed->resources[2].begin_bytes, 8u);
  EXPECT_EQ(parsed->resources[3].name, "f:16:20");
  EXPECT_EQ(parsed->resources[3].end_bytes, 20u);
  EXPECT_EQ(parsed->resources[3].algorithm, "sha256-sharded-8");
  EXPECT_TRUE(parsed->resources[1].annotation.has_value());
  EXPECT_EQ(Format(*parsed), text);
}

TEST(StatementTest, EveryHashTypeReadsBack) {
  using hash::Algorithm;
  for (const Algorithm algorithm : {Algorithm::kSha256, Algorithm::kBlake2b, Algorithm::kBlake3}) {
    for (const bool sharded : {false, true}) {
      Statement statement;
      statement.model_name = "model";
      statement.serialization.hash_type = algorithm;
      statement.resources = {File(".", 1, hash::DigestSizeBytes(algorithm))};
      if (sharded) {
        statement.serialization.method = SerializationMethod::kShards;
        statement.resources[0].end_bytes = 5;
      }
      const auto parsed = Parse(Format(statement));
      ASSERT_TRUE(parsed.ok()) << parsed.status();
      EXPECT_EQ(parsed->serialization.hash_type, algorithm);
      EXPECT_EQ(parsed->resources[0].name, sharded ? ".:0:5" : ".");
      EXPECT_EQ(parsed->resources[0].path, ".");
      EXPECT_EQ(parsed->resources[0].algorithm, std::string(hash::AlgorithmName(algorithm)) +
                                                    (sharded ? "-sharded-1000000000" : ""));
    }
  }
}

TEST(StatementTest, RefusesWrongHeads) {
  ExpectRefused(
      FilesStatement(),
      {
          {"unknown member", [](Json& j) { j["x"] = 1; }},
          {"no _type", [](Json& j) { j.erase("_type"); }},
          {"other _type", [](Json& j) { j["_type"] = "https://in-toto.io/Statement/v0.1"; },
           Reason::kUnsupported},
          {"_type is a number", [](Json& j) { j["_type"] = 1; }},
          {"no predicate type", [](Json& j) { j.erase("predicateType"); }},
          {"other predicate",
           [](Json& j) { j["predicateType"] = "https://slsa.dev/provenance/v1"; },
           Reason::kUnsupported},
          {"later predicate",
           [](Json& j) { j["predicateType"] = "https://model_signing/signature/v1.1"; },
           Reason::kUnsupported},
          {"no subject", [](Json& j) { j.erase("subject"); }},
          {"empty subject", [](Json& j) { j["subject"] = Json::array(); }},
          {"subject is an object", [](Json& j) { j["subject"] = Json::object(); }},
          {"subject holds text", [](Json& j) { j["subject"][0] = "x"; }},
          {"two subjects",
           [](Json& j) {
             const Json first = Subject(j);
             j["subject"].push_back(first);
           }},
          {"subject without a name", [](Json& j) { Subject(j).erase("name"); }},
          {"subject with an empty name", [](Json& j) { Subject(j)["name"] = ""; }},
          {"subject name with NUL", [](Json& j) { Subject(j)["name"] = std::string("a\0b", 3); }},
          {"subject name of 4,097 bytes",
           [](Json& j) { Subject(j)["name"] = std::string(4097, 'a'); }, Reason::kLimitExceeded},
          {"subject without a digest", [](Json& j) { Subject(j).erase("digest"); }},
          {"digest without sha256",
           [](Json& j) {
             Subject(j)["digest"] = {{"sha512", "00"}};
           }},
          {"root of 31 bytes",
           [](Json& j) { Subject(j)["digest"]["sha256"] = std::string(62, 'a'); }},
          {"root is a number", [](Json& j) { Subject(j)["digest"]["sha256"] = 1; }},
          {"wrong root", [](Json& j) { Subject(j)["digest"]["sha256"] = std::string(64, 'a'); }},
          {"upper-case root",
           [](Json& j) {
             std::string root = Subject(j)["digest"]["sha256"];
             for (char& c : root) c = static_cast<char>(std::toupper(c));
             Subject(j)["digest"]["sha256"] = root;
           }},
          {"no predicate", [](Json& j) { j.erase("predicate"); }},
          {"predicate is an array", [](Json& j) { j["predicate"] = Json::array(); }},
          {"unknown member of the predicate", [](Json& j) { j["predicate"]["x"] = 1; }},
          {"no resources", [](Json& j) { j["predicate"].erase("resources"); }},
          {"resources are an object", [](Json& j) { Resources(j) = Json::object(); }},
          {"no serialization", [](Json& j) { j["predicate"].erase("serialization"); }},
      });
}

TEST(StatementTest, RefusesWrongSerialization) {
  ExpectRefused(
      FilesStatement(),
      {
          {"unknown member", [](Json& j) { Parameters(j)["x"] = 1; }},
          {"no method", [](Json& j) { Parameters(j).erase("method"); }},
          {"unknown method", [](Json& j) { Parameters(j)["method"] = "digest-of-digests"; },
           Reason::kUnsupported},
          {"no hash type", [](Json& j) { Parameters(j).erase("hash_type"); }},
          {"unknown hash type", [](Json& j) { Parameters(j)["hash_type"] = "md5"; },
           Reason::kUnsupported},
          {"hash type of ours that OMS lacks",
           [](Json& j) { Parameters(j)["hash_type"] = "sha384"; }, Reason::kUnsupported},
          {"hash type in capitals", [](Json& j) { Parameters(j)["hash_type"] = "SHA256"; },
           Reason::kUnsupported},
          {"shard size with files", [](Json& j) { Parameters(j)["shard_size"] = 8; }},
          {"no allow_symlinks", [](Json& j) { Parameters(j).erase("allow_symlinks"); }},
          {"allow_symlinks is text", [](Json& j) { Parameters(j)["allow_symlinks"] = "false"; }},
          {"allow_symlinks is a number", [](Json& j) { Parameters(j)["allow_symlinks"] = 0; }},
          {"ignore_paths is text", [](Json& j) { Parameters(j)["ignore_paths"] = ".git"; }},
          {"ignore_paths is null", [](Json& j) { Parameters(j)["ignore_paths"] = nullptr; }},
          {"empty ignored path", [](Json& j) { Parameters(j)["ignore_paths"][0] = ""; }},
          {"ignored path is a number", [](Json& j) { Parameters(j)["ignore_paths"][0] = 1; }},
          {"ignored path with NUL",
           [](Json& j) { Parameters(j)["ignore_paths"][0] = std::string("a\0", 2); }},
          {"files called shards",
           [](Json& j) {
             Parameters(j)["method"] = "shards";
             Parameters(j)["shard_size"] = 8;
           }},
      });
  ExpectRefused(ShardsStatement(),
                {
                    {"no shard size", [](Json& j) { Parameters(j).erase("shard_size"); }},
                    {"shard size 0", [](Json& j) { Parameters(j)["shard_size"] = 0; }},
                    {"shard size -8", [](Json& j) { Parameters(j)["shard_size"] = -8; }},
                    {"shard size 8.5", [](Json& j) { Parameters(j)["shard_size"] = 8.5; }},
                    {"shard size as text", [](Json& j) { Parameters(j)["shard_size"] = "8"; }},
                    {"shard size 2^53",
                     [](Json& j) {
                       Parameters(j)["shard_size"] = uint64_t{1} << 53;
                       for (Json& resource : Resources(j)) resource["algorithm"] = "sha256";
                     }},
                    {"another shard size", [](Json& j) { Parameters(j)["shard_size"] = 16; }},
                    {"shards called files",
                     [](Json& j) {
                       Parameters(j)["method"] = "files";
                       Parameters(j).erase("shard_size");
                     }},
                });
}

TEST(StatementTest, RefusesWrongResources) {
  ExpectRefused(
      FilesStatement(),
      {
          {"resource is text", [](Json& j) { Resources(j)[0] = "x"; }},
          {"no name", [](Json& j) { Resources(j)[0].erase("name"); }},
          {"name is a number", [](Json& j) { Resources(j)[0]["name"] = 1; }},
          {"no algorithm", [](Json& j) { Resources(j)[0].erase("algorithm"); }},
          {"another algorithm", [](Json& j) { Resources(j)[0]["algorithm"] = "blake3"; }},
          {"unknown algorithm", [](Json& j) { Resources(j)[0]["algorithm"] = "md5"; },
           Reason::kUnsupported},
          {"shard algorithm with files",
           [](Json& j) { Resources(j)[0]["algorithm"] = "sha256-sharded-8"; }},
          {"no digest", [](Json& j) { Resources(j)[0].erase("digest"); }},
          {"digest of 31 bytes", [](Json& j) { Resources(j)[0]["digest"] = std::string(62, 'a'); }},
          {"digest of 64 bytes",
           [](Json& j) { Resources(j)[0]["digest"] = std::string(128, 'a'); }},
          {"digest of 63 digits",
           [](Json& j) { Resources(j)[0]["digest"] = std::string(63, 'a'); }},
          {"empty digest", [](Json& j) { Resources(j)[0]["digest"] = ""; }},
          {"upper-case digest", [](Json& j) { Resources(j)[0]["digest"] = std::string(64, 'A'); }},
          {"digest is not hexadecimal",
           [](Json& j) { Resources(j)[0]["digest"] = std::string(64, 'g'); }},
          {"one name twice", [](Json& j) { Resources(j)[0]["name"] = "b"; }},
          {"a file that is a directory too", [](Json& j) { Resources(j)[0]["name"] = "a"; },
           Reason::kPathUnsafe},
          {"a directory far above", [](Json& j) { Resources(j)[0]["name"] = "b/c/d/e"; },
           Reason::kPathUnsafe},
          {"\".\" beside other files", [](Json& j) { Resources(j)[0]["name"] = "."; },
           Reason::kPathUnsafe},
      });
  const std::string unsafe[] = {"",
                                "..",
                                "../a",
                                "a/..",
                                "a/../b",
                                "/a",
                                "/",
                                "a//b",
                                "./a",
                                "a/.",
                                "a/./b",
                                "a/",
                                "//a",
                                "../../etc/passwd",
                                std::string("a\0b", 3),
                                std::string(4097, 'a')};
  for (const std::string& name : unsafe) {
    SCOPED_TRACE(name);
    ExpectRefused(
        FilesStatement(),
        {{"unsafe name", [&](Json& j) { Resources(j)[0]["name"] = name; }, Reason::kPathUnsafe}});
  }
}

TEST(StatementTest, RefusesWrongShards) {
  const auto rename = [](const char* from, const char* to) {
    return [from, to](Json& j) {
      for (Json& resource : Resources(j)) {
        if (resource["name"] == from) resource["name"] = to;
      }
    };
  };
  const auto all_algorithms = [](const char* algorithm) {
    return [algorithm](Json& j) {
      for (Json& resource : Resources(j)) resource["algorithm"] = algorithm;
    };
  };
  ExpectRefused(
      ShardsStatement(),
      {
          {"no offsets", rename("f:0:8", "f")},
          {"one offset", rename("f:0:8", "f:0")},
          {"only offsets", rename("f:0:8", ":0:8"), Reason::kPathUnsafe},
          {"only colons", rename("f:0:8", "::")},
          {"one colon", rename("f:0:8", ":")},
          {"empty begin", rename("f:0:8", "f::8")},
          {"empty end", rename("f:0:8", "f:0:")},
          {"begin with a sign", rename("f:0:8", "f:+0:8")},
          {"negative begin", rename("f:0:8", "f:-0:8")},
          {"begin with a zero", rename("f:0:8", "f:00:8")},
          {"end with a space", rename("f:0:8", "f:0: 8")},
          {"end with an underscore", rename("f:16:20", "f:16:2_0")},
          {"end in hexadecimal", rename("f:0:8", "f:0:0x8")},
          {"end beyond 64 bits", rename("f:16:20", "f:16:18446744073709551616")},
          {"end beyond 2^53", rename("f:16:20", "f:16:9007199254740992"), Reason::kLimitExceeded},
          {"empty shard", rename("f:16:20", "f:16:16")},
          {"backward shard", rename("f:16:20", "f:16:12")},
          {"gap", rename("f:16:20", "f:17:20")},
          {"overlap", rename("f:8:16", "f:7:16")},
          {"short in the middle", rename("f:8:16", "f:8:15")},
          {"last too long", rename("f:16:20", "f:16:25")},
          {"does not start at 0", rename("e:1:0:8", "e:1:8:16")},
          {"same shard twice", rename("f:16:20", "f:8:16")},
          {"first missing", rename("f:0:8", "g:0:8")},
          {"unsafe path", rename("e:1:0:8", "../e:0:8"), Reason::kPathUnsafe},
          {"file and directory", rename("e:1:0:8", "f/e:0:8"), Reason::kPathUnsafe},
          {"algorithm of another size", all_algorithms("sha256-sharded-9")},
          {"algorithm with a zero", all_algorithms("sha256-sharded-08")},
          {"algorithm with a fraction", all_algorithms("sha256-sharded-8.0")},
          {"another algorithm", all_algorithms("blake2b-sharded-8")},
          {"unknown algorithm", all_algorithms("md5-sharded-8"), Reason::kUnsupported},
          {"annotation on a later shard",
           [](Json& j) {
             const Json annotations = Resources(j)[1]["annotations"];
             Resources(j)[1].erase("annotations");
             Resources(j)[2]["annotations"] = annotations;
           }},
          {"annotated length is not the shards'",
           [](Json& j) { Resources(j)[1]["annotations"]["pavise"]["length"] = 21; }},
      });
}

TEST(StatementTest, RefusesWrongAnnotations) {
  const auto pavise = [](Json& j) -> Json& { return Resources(j)[2]["annotations"]["pavise"]; };
  const auto tensors = [pavise](Json& j) -> Json& { return pavise(j)["tensors"]; };
  const auto entry = [tensors](Json& j, size_t i) -> Json& { return tensors(j)["entries"][i]; };
  static constexpr uint64_t kTooLong = uint64_t{1} << 53;
  ExpectRefused(
      FilesStatement(),
      {
          {"annotations are an array",
           [](Json& j) { Resources(j)[2]["annotations"] = Json::array(); }},
          {"ours is text", [&](Json& j) { pavise(j) = "x"; }},
          {"ours is null", [&](Json& j) { pavise(j) = nullptr; }},
          {"no version", [&](Json& j) { pavise(j).erase("version"); }},
          {"version 2", [&](Json& j) { pavise(j)["version"] = 2; }, Reason::kUnsupported},
          {"version 2 with new members",
           [&](Json& j) {
             pavise(j)["version"] = 2;
             pavise(j)["new"] = 2;
           },
           Reason::kUnsupported},
          {"version 1.0", [&](Json& j) { pavise(j)["version"] = 1.0; }},
          {"unknown member", [&](Json& j) { pavise(j)["x"] = 1; }},
          {"no length", [&](Json& j) { pavise(j).erase("length"); }},
          {"negative length", [&](Json& j) { pavise(j)["length"] = -1; }},
          {"length 2^53", [&](Json& j) { pavise(j)["length"] = kTooLong; }, Reason::kLimitExceeded},
          {"length 100.0", [&](Json& j) { pavise(j)["length"] = 100.0; }},
          {"no digest", [&](Json& j) { pavise(j).erase("blake3"); }},
          {"short digest", [&](Json& j) { pavise(j)["blake3"] = "00"; }},
          {"upper-case digest", [&](Json& j) { pavise(j)["blake3"] = std::string(64, 'A'); }},
          {"tensors are null", [&](Json& j) { tensors(j) = nullptr; }},
          {"unknown member of tensors", [&](Json& j) { tensors(j)["x"] = 1; }},
          {"no format", [&](Json& j) { tensors(j).erase("format"); }},
          {"unknown format", [&](Json& j) { tensors(j)["format"] = "pickle"; },
           Reason::kUnsupported},
          {"no data_begin", [&](Json& j) { tensors(j).erase("data_begin"); }},
          {"data begins beyond the end", [&](Json& j) { tensors(j)["data_begin"] = 101; }},
          {"data begins behind the first tensor", [&](Json& j) { tensors(j)["data_begin"] = 21; }},
          {"no entries", [&](Json& j) { tensors(j).erase("entries"); }},
          {"entries are an object", [&](Json& j) { tensors(j)["entries"] = Json::object(); }},
          {"entry is text", [&](Json& j) { entry(j, 0) = "x"; }},
          {"unknown member of an entry", [&](Json& j) { entry(j, 0)["x"] = 1; }},
          {"entry without a name", [&](Json& j) { entry(j, 0).erase("name"); }},
          {"name with NUL", [&](Json& j) { entry(j, 0)["name"] = std::string("b\0", 2); }},
          {"no dtype", [&](Json& j) { entry(j, 0).erase("dtype"); }},
          {"empty dtype", [&](Json& j) { entry(j, 0)["dtype"] = ""; }},
          {"long dtype", [&](Json& j) { entry(j, 0)["dtype"] = std::string(65, 'F'); },
           Reason::kLimitExceeded},
          {"no shape", [&](Json& j) { entry(j, 0).erase("shape"); }},
          {"shape is a number", [&](Json& j) { entry(j, 0)["shape"] = 10; }},
          {"negative dimension", [&](Json& j) { entry(j, 0)["shape"] = {-1}; }},
          {"fractional dimension", [&](Json& j) { entry(j, 0)["shape"] = {1.0}; }},
          {"dimension 2^53", [&](Json& j) { entry(j, 0)["shape"] = {kTooLong}; },
           Reason::kLimitExceeded},
          {"1,025 dimensions", [&](Json& j) { entry(j, 0)["shape"] = Json(1025, 1); },
           Reason::kLimitExceeded},
          {"no begin", [&](Json& j) { entry(j, 0).erase("begin"); }},
          {"no end", [&](Json& j) { entry(j, 0).erase("end"); }},
          {"no tensor digest", [&](Json& j) { entry(j, 0).erase("blake3"); }},
          {"begins in the header", [&](Json& j) { entry(j, 0)["begin"] = 19; }},
          {"ends before it begins", [&](Json& j) { entry(j, 2)["end"] = 59; }},
          {"ends beyond the file", [&](Json& j) { entry(j, 2)["end"] = 101; }},
          {"end 2^64 - 1", [&](Json& j) { entry(j, 2)["end"] = uint64_t{0xffffffffffffffff}; },
           Reason::kLimitExceeded},
          {"overlap", [&](Json& j) { entry(j, 0)["end"] = 61; }},
          {"same range twice",
           [&](Json& j) {
             entry(j, 0)["begin"] = 60;
             entry(j, 0)["end"] = 100;
             entry(j, 0)["name"] = "A";
           }},
          {"out of order", [&](Json& j) { std::swap(entry(j, 0), entry(j, 2)); }},
          {"names at one offset out of order",
           [&](Json& j) { std::swap(entry(j, 1), entry(j, 2)); }},
          {"one name twice", [&](Json& j) { entry(j, 2)["name"] = "b"; }},
          {"model version without a version",
           [](Json& j) { Subject(j)["annotations"]["pavise"].erase("version"); }},
          {"model version of annotation version 2",
           [](Json& j) { Subject(j)["annotations"]["pavise"]["version"] = 2; },
           Reason::kUnsupported},
          {"no model version",
           [](Json& j) { Subject(j)["annotations"]["pavise"].erase("model_version"); }},
          {"negative model version",
           [](Json& j) { Subject(j)["annotations"]["pavise"]["model_version"] = -1; }},
          {"model version 2^53",
           [](Json& j) { Subject(j)["annotations"]["pavise"]["model_version"] = kTooLong; },
           Reason::kLimitExceeded},
          {"unknown member beside the model version",
           [](Json& j) { Subject(j)["annotations"]["pavise"]["x"] = 1; }},
      });
}

// Two signed digests of the same bytes that contradict each other.
TEST(StatementTest, RefusesAnAnnotationThatContradictsTheDigest) {
  Statement statement = FilesStatement();
  statement.serialization.hash_type = hash::Algorithm::kBlake3;
  const auto refused = FormatStatement(statement);
  EXPECT_THAT(ReasonOf(refused.status()), Optional(Reason::kMalformed));

  statement.resources[0].digest = Bytes(32, 7);  // the annotation's root
  const std::string text = Format(statement);
  ASSERT_TRUE(Parse(text).ok());
  ExpectRefused(statement, {{"other root", [](Json& j) {
                               Resources(j)[2]["annotations"]["pavise"]["blake3"] =
                                   std::string(64, '8');
                             }}});
}

TEST(StatementTest, AcceptsWhatTheSpecificationLeavesOpen) {
  ExpectAccepted(
      FilesStatement(),
      {
          {"further members of a descriptor",
           [](Json& j) {
             Resources(j)[0]["mediaType"] = "text/plain";
             Resources(j)[0]["annotations"]["other"] = {{"deep", {1, 2}}};
           }},
          {"further members of the subject",
           [](Json& j) {
             Subject(j)["uri"] = "https://example.com";
             Subject(j)["annotations"]["other"] = 1;
             Subject(j)["digest"]["sha512"] = "00";
           }},
          {"no annotations",
           [](Json& j) {
             Subject(j).erase("annotations");
             Resources(j)[2].erase("annotations");
           }},
          {"no tensors",
           [](Json& j) { Resources(j)[2]["annotations"]["pavise"].erase("tensors"); }},
          {"no ignored paths", [](Json& j) { Parameters(j).erase("ignore_paths"); }},
          {"empty ignored paths", [](Json& j) { Parameters(j)["ignore_paths"] = Json::array(); }},
          {"symbolic links allowed", [](Json& j) { Parameters(j)["allow_symlinks"] = true; }},
          {"another order of resources",
           [](Json& j) { std::swap(Resources(j)[0], Resources(j)[2]); }},
          {"no resources", [](Json& j) { Resources(j) = Json::array(); }},
          {"names that need care",
           [](Json& j) { Resources(j)[0]["name"] = "...\\ \n\x1b[31m\u00e9:0:8"; }},
          {"single file under its base name",
           [](Json& j) {
             Resources(j) = Json::array({Resources(j)[0]});
             Resources(j)[0]["name"] = "model";
           }},
      });
  ExpectAccepted(ShardsStatement(),
                 {
                     {"plain algorithm names",
                      [](Json& j) {
                        for (Json& resource : Resources(j)) resource["algorithm"] = "sha256";
                      }},
                     {"shard size 8.0", [](Json& j) { Parameters(j)["shard_size"] = 8.0; }},
                     {"order of names",
                      [](Json& j) {
                        std::sort(
                            Resources(j).begin(), Resources(j).end(),
                            [](const Json& a, const Json& b) { return a["name"] < b["name"]; });
                      }},
                 });
}

// A reader that took the digests in any other order than the listed one would accept this.
TEST(StatementTest, RootDependsOnTheOrderListed) {
  Json json = Json::parse(Format(FilesStatement()));
  std::swap(Resources(json)[0], Resources(json)[1]);
  const auto parsed = Parse(json.dump());
  ASSERT_FALSE(parsed.ok());
  EXPECT_EQ(RefusalsOf(parsed.status())[0].item, "statement.subject[0].digest.sha256");
  EXPECT_TRUE(Parse(WithRoot(json)).ok());
}

TEST(StatementTest, RefusesDuplicateKeysAtEveryLevel) {
  const std::string text = Format(FilesStatement());
  size_t cases = 0;
  for (size_t at = text.find("{\""); at != std::string::npos; at = text.find("{\"", at + 1)) {
    const size_t name_end = text.find('"', at + 2);
    const std::string name = text.substr(at + 1, name_end - at);
    std::string twice = text;
    twice.insert(at + 1, name + ":0,");
    const auto parsed = Parse(twice);
    ASSERT_FALSE(parsed.ok()) << twice;
    EXPECT_THAT(parsed.status().message(), HasSubstr("duplicate key")) << parsed.status();
    ++cases;
  }
  // Statement, subject, its digest and 2 annotations, predicate, serialization, 3 resources, 2
  // annotations, tensors, 3 tensors.
  EXPECT_EQ(cases, 16u);
}

TEST(StatementTest, RefusesTruncationFlippedBitsAndBombs) {
  const std::string text = Format(ShardsStatement());
  for (size_t length = 0; length < text.size(); ++length) {
    ASSERT_FALSE(Parse(text.substr(0, length)).ok()) << length;
  }
  EXPECT_FALSE(Parse(text + "x").ok());
  EXPECT_FALSE(Parse(text + text).ok());
  // The signature covers every byte of it; here it must only never crash.
  for (size_t i = 0; i < text.size() * 8; ++i) {
    std::string flipped = text;
    flipped[i / 8] = static_cast<char>(flipped[i / 8] ^ 1 << i % 8);
    (void)Parse(flipped);
  }
  for (const char* piece : {"[", "{\"a\":"}) {
    std::string bomb;
    while (bomb.size() < (size_t{1} << 20)) bomb += piece;
    EXPECT_THAT(ReasonOf(Parse(bomb).status()), Optional(Reason::kLimitExceeded));
  }
  const std::string huge(kMaxStatementBytes + 1, '[');
  EXPECT_THAT(ReasonOf(Parse(huge).status()), Optional(Reason::kLimitExceeded));
}

TEST(StatementTest, RefusesTextThatIsNotUtf8) {
  std::string text = Format(FilesStatement());
  for (const char* bytes : {"\xff", "\xc0\xaf", "\xed\xa0\x80"}) {
    std::string broken = text;
    broken.replace(broken.find("a-b"), 3, std::string("a") + bytes);
    EXPECT_THAT(ReasonOf(Parse(broken).status()), Optional(Reason::kMalformed));
  }
}

TEST(StatementTest, WritesNothingItWouldNotRead) {
  const std::vector<std::pair<const char*, std::function<void(Statement&)>>> changes = {
      {"no model name", [](Statement& s) { s.model_name.clear(); }},
      {"model name that is not UTF-8", [](Statement& s) { s.model_name = "\xff\xfe"; }},
      {"no files", [](Statement& s) { s.resources.clear(); }},
      {"one path twice", [](Statement& s) { s.resources[0].path = "a/b"; }},
      {"path that leaves the model", [](Statement& s) { s.resources[0].path = "../a"; }},
      {"path that is not UTF-8", [](Statement& s) { s.resources[0].path = "\xff\xfe"; }},
      {"file and directory", [](Statement& s) { s.resources[0].path = std::string("a"); }},
      {"\".\" beside files", [](Statement& s) { s.resources[0].path = std::string("."); }},
      {"short digest", [](Statement& s) { s.resources[0].digest.pop_back(); }},
      {"SHA-384",
       [](Statement& s) {
         s.serialization.hash_type = hash::Algorithm::kSha384;
         for (Resource& resource : s.resources) resource.digest.resize(48);
       }},
      {"release 0.2.0", [](Statement& s) { s.is_release_020 = true; }},
      {"model version 2^53", [](Statement& s) { s.model_version = uint64_t{1} << 53; }},
      {"empty ignored path", [](Statement& s) { s.serialization.ignore_paths = {""}; }},
      {"shards of a file that has none",
       [](Statement& s) { s.serialization.method = SerializationMethod::kShards; }},
      {"tensors without a format",
       [](Statement& s) { s.resources[0].annotation->tensor_format.reset(); }},
      {"tensors that overlap",
       [](Statement& s) { s.resources[0].annotation->tensors[0].tensor.end_bytes = 61; }},
      {"tensor name that is not UTF-8",
       [](Statement& s) { s.resources[0].annotation->tensors[0].tensor.name = "\xff\xfe"; }},
  };
  for (const auto& [what, apply] : changes) {
    SCOPED_TRACE(what);
    Statement statement = FilesStatement();
    apply(statement);
    const std::string first_path = statement.resources.empty() ? "" : statement.resources[0].path;
    const auto text = FormatStatement(statement);
    EXPECT_FALSE(text.ok()) << *text;
    EXPECT_TRUE(ReasonOf(text.status()).has_value()) << text.status();
    // A refusal leaves the statement as it was.
    if (!statement.resources.empty()) {
      EXPECT_EQ(statement.resources[0].path, first_path);
      EXPECT_EQ(statement.resources[0].name, "");
    }
  }
}

// ---- Release 0.2.0 ----

Json Statement020() {
  const auto subject = [](const char* name, char digit) {
    return Json{{"name", name},
                {"digest", {{"sha256", std::string(64, digit)}}},
                {"annotations", {{"actual_hash_algorithm", "file-sha256"}}}};
  };
  return Json{{"_type", "https://in-toto.io/Statement/v1"},
              {"subject", {subject("d/f0", '1'), subject("d/f1", '2')}},
              {"predicateType", "https://model_signing/Digests/v0.1"},
              {"predicate", {{"unused", "Unused, just passed due to API requirements"}}}};
}

TEST(StatementTest, ReadsRelease020) {
  const auto parsed = Parse(Statement020().dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->is_release_020);
  EXPECT_EQ(parsed->model_name, "");
  EXPECT_EQ(parsed->serialization.method, SerializationMethod::kFiles);
  EXPECT_EQ(parsed->serialization.hash_type, hash::Algorithm::kSha256);
  EXPECT_FALSE(parsed->serialization.allow_symlinks);
  ASSERT_EQ(parsed->resources.size(), 2u);
  EXPECT_EQ(parsed->resources[1].path, "d/f1");
  EXPECT_EQ(parsed->resources[1].algorithm, "sha256");
  EXPECT_EQ(parsed->resources[1].digest, Bytes(32, 0x22));
  const std::string digests = std::string(32, '\x11') + std::string(32, '\x22');
  EXPECT_EQ(parsed->root, *crypto::Sha256(AsBytes(digests)));
}

TEST(StatementTest, RefusesWrongRelease020) {
  const std::vector<Change> changes = {
      {"no subjects", [](Json& j) { j["subject"] = Json::array(); }},
      {"one name twice", [](Json& j) { j["subject"][1]["name"] = "d/f0"; }},
      {"traversal", [](Json& j) { j["subject"][1]["name"] = "../f1"; }, Reason::kPathUnsafe},
      {"file and directory", [](Json& j) { j["subject"][1]["name"] = "d"; }, Reason::kPathUnsafe},
      {"no sha256",
       [](Json& j) {
         j["subject"][1]["digest"] = {{"blake2b", "00"}};
       }},
      {"short digest", [](Json& j) { j["subject"][1]["digest"]["sha256"] = "00"; }},
      {"another hash under the name sha256",
       [](Json& j) { j["subject"][1]["annotations"]["actual_hash_algorithm"] = "file-blake2b"; },
       Reason::kUnsupported},
      {"algorithm is a number",
       [](Json& j) { j["subject"][1]["annotations"]["actual_hash_algorithm"] = 1; }},
      {"no predicate", [](Json& j) { j.erase("predicate"); }},
      {"predicate is text", [](Json& j) { j["predicate"] = "x"; }},
      {"unknown member", [](Json& j) { j["x"] = 1; }},
      // Digests of one release under the predicate of the other.
      {"current predicate",
       [](Json& j) { j["predicateType"] = "https://model_signing/signature/v1.0"; }},
  };
  for (const Change& change : changes) {
    SCOPED_TRACE(change.what);
    Json json = Statement020();
    change.apply(json);
    const auto parsed = Parse(json.dump());
    ASSERT_FALSE(parsed.ok());
    EXPECT_THAT(ReasonOf(parsed.status()), Optional(change.reason)) << parsed.status();
  }
}

// ---- Third-party vectors ----

Bytes Read(const std::string& path) {
  auto bytes = ReadFile(path, kMaxBundleBytes);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.value_or(Bytes());
}

TEST(StatementTest, GoldenPayloads) {
  const std::optional<std::string> vectors = crypto::testing::VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors";
  const std::string folder = *vectors + "/oms/golden_payloads";
  size_t parsed_count = 0;
  size_t empty = 0;
  size_t sharded = 0;
  for (const std::string& path : crypto::testing::FilesBelow(folder, ".json")) {
    SCOPED_TRACE(path);
    auto statement = ParseStatement(Read(path), path);
    ASSERT_TRUE(statement.ok()) << statement.status();
    ++parsed_count;
    if (statement->serialization.method == SerializationMethod::kShards) ++sharded;
    if (statement->resources.empty()) {
      ++empty;
      EXPECT_FALSE(FormatStatement(*statement).ok());
      continue;
    }
    // Our order of these names is the reference tool's, so the root is the same.
    const Digest32 root = statement->root;
    ASSERT_TRUE(FormatStatement(*statement).ok());
    EXPECT_EQ(statement->root, root);
    if (path.ends_with("/sample_model_folder.json")) {
      EXPECT_EQ(ToHex(root), "143cc682e555951649f18e2761c3d526d2502996f5e32dc187ef7f8a614f8df7");
    }
  }
  EXPECT_EQ(parsed_count, 21u);
  EXPECT_EQ(sharded, 14u);
  EXPECT_EQ(empty, 7u);
}

TEST(StatementTest, PayloadsOfSampleBundles) {
  const std::optional<std::string> vectors = crypto::testing::VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors";
  const std::string oms = *vectors + "/oms";
  const auto parse_payload = [](const std::string& path) -> absl::StatusOr<Statement> {
    PAVISE_ASSIGN_OR_RETURN(const Bundle bundle, ParseBundle(Read(path), path));
    return ParseStatement(bundle.payload, path);
  };
  std::vector<std::string> good = crypto::testing::FilesBelow(oms + "/releases", "/model.sig");
  const auto valid = crypto::testing::FilesBelow(oms + "/spec/v1.0/valid", ".json");
  good.insert(good.end(), valid.begin(), valid.end());
  size_t accepted = 0;
  for (const std::string& path : good) {
    SCOPED_TRACE(path);
    const auto statement = parse_payload(path);
    ASSERT_TRUE(statement.ok()) << statement.status();
    EXPECT_FALSE(statement->resources.empty());
    EXPECT_FALSE(statement->is_release_020);
    ++accepted;
  }
  EXPECT_EQ(accepted, 9u);  // 6 releases, 3 bundles of the specification

  size_t refused = 0;
  for (const std::string& path :
       crypto::testing::FilesBelow(oms + "/spec/v1.0/invalid-payload", ".json")) {
    SCOPED_TRACE(path);
    EXPECT_THAT(ReasonOf(parse_payload(path).status()), Optional(Reason::kUnsupported));
    ++refused;
  }
  EXPECT_EQ(refused, 1u);
}

}  // namespace
}  // namespace pavise::signing
