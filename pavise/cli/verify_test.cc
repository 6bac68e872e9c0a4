// `pavise verify`: what it accepts, what it must refuse, and how it says so.

#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class VerifyTest : public testing::CommandTest {
 protected:
  void SetUp() override { MakeSignedModel(); }

  std::vector<std::string> Verify(std::vector<std::string> more = {}) const {
    std::vector<std::string> words = {"verify", "model", "--public-key", "key.pub"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  // Refused for this reason, in JSON and in words.
  Json ExpectRefused(const std::string& reason, std::vector<std::string> more = {}) const {
    const testing::CommandOutput people = ExpectExit(1, Verify(more));
    EXPECT_THAT(people.out, IsEmpty());
    EXPECT_THAT(people.error, HasSubstr("REFUSED: "));
    EXPECT_THAT(people.error, HasSubstr(reason));
    more.push_back("--json");
    const testing::CommandOutput output = ExpectExit(1, Verify(more));
    EXPECT_THAT(output.reasons(), Contains(reason));
    const Json object = output.json();
    EXPECT_EQ(object["ok"], false);
    EXPECT_EQ(object["exit_code"], 1);
    EXPECT_EQ(object["verb"], "verify");
    return object;
  }
};

TEST_F(VerifyTest, SaysWhatItChecked) {
  const testing::CommandOutput output = ExpectExit(0, Verify());
  EXPECT_THAT(output.error, IsEmpty());
  for (const char* part : {"OK: model is what was signed", "signed by", "blake3-annotation",
                           "3 files", "device", "CPU"}) {
    EXPECT_THAT(output.out, HasSubstr(part));
  }
  EXPECT_THAT(output.out, Not(HasSubstr("\x1b")));  // no terminal, no colour
}

TEST_F(VerifyTest, QuietSaysNothingOnSuccess) {
  const testing::CommandOutput output = ExpectExit(0, Verify({"--quiet"}));
  EXPECT_THAT(output.out + output.error, IsEmpty());
  FlipBit("model/config.json", 1);
  EXPECT_THAT(ExpectExit(1, Verify({"-q"})).error, HasSubstr("REFUSED"));
}

TEST_F(VerifyTest, NamesFileTensorAndRange) {
  const uint64_t size_bytes = fs::file_size(Path("model/model.safetensors"));
  FlipBit("model/model.safetensors", size_bytes - 1'000'000);  // in b.weight
  const Json object = ExpectRefused("content-mismatch");
  const Json& finding = object["findings"][0];
  EXPECT_EQ(finding["item"], "model.safetensors");
  EXPECT_THAT(finding["detail"].get<std::string>(), HasSubstr("(MiB 1)"));
  EXPECT_THAT(finding["detail"].get<std::string>(), HasSubstr("b.weight (F32 [400000]"));
  EXPECT_THAT(finding["detail"].get<std::string>(), Not(HasSubstr("a.weight")));
  EXPECT_THAT(finding["remedy"].get<std::string>(), Not(IsEmpty()));
  EXPECT_EQ(object["error"], "model does not match its signature");
}

TEST_F(VerifyTest, ListsEveryFinding) {
  fs::remove(Path("model/config.json"));
  Write("model/extra.bin", "x");
  FlipBit("model/tokenizer/vocabulary.txt", 0);
  const testing::CommandOutput output = ExpectExit(1, Verify({"--json"}));
  EXPECT_THAT(output.reasons(),
              ::testing::UnorderedElementsAre("file-missing", "file-unsigned", "content-mismatch"));
}

// Each change to a signed model, and the reason it must be refused for.
TEST_F(VerifyTest, TamperMatrix) {
  const std::string safetensors = Read("model/model.safetensors");
  const std::string signature = Read("model.sig");
  const std::string tree = Read("model.sig.tree");
  struct Case {
    const char* what;
    std::function<void()> tamper;
    const char* reason;
  };
  const std::vector<Case> cases = {
      {"header bit", [&] { FlipBit("model/model.safetensors", 20); }, "content-mismatch"},
      {"last bit", [&] { FlipBit("model/model.safetensors", safetensors.size() - 1); },
       "content-mismatch"},
      {"truncated",
       [&] { Write("model/model.safetensors", safetensors.substr(0, safetensors.size() - 1)); },
       "content-mismatch"},
      {"extended", [&] { Write("model/model.safetensors", safetensors + "x"); },
       "content-mismatch"},
      {"emptied", [&] { Write("model/config.json", ""); }, "content-mismatch"},
      {"removed", [&] { fs::remove(Path("model/config.json")); }, "file-missing"},
      {"renamed", [&] { fs::rename(Path("model/config.json"), Path("model/config2.json")); },
       "file-missing"},
      {"swapped",
       [&] {
         const std::string config = Read("model/config.json");
         Write("model/config.json", Read("model/tokenizer/vocabulary.txt"));
         Write("model/tokenizer/vocabulary.txt", config);
       },
       "content-mismatch"},
      {"added", [&] { Write("model/extra.bin", ""); }, "file-unsigned"},
      {"hidden file added", [&] { Write("model/.hidden", "x"); }, "file-unsigned"},
      {"link",
       [&] {
         fs::rename(Path("model/config.json"), Path("config.json"));
         fs::create_symlink("../config.json", Path("model/config.json"));
       },
       "file-type-refused"},
      {"pipe", [&] { mkfifo(Path("model/pipe").c_str(), 0600); }, "file-type-refused"},
      {"directory for file",
       [&] {
         fs::remove(Path("model/config.json"));
         fs::create_directory(Path("model/config.json"));
       },
       "file-missing"},
      {"signature not JSON", [&] { Write("model.sig", "nonsense"); }, "malformed"},
      {"signature cut", [&] { Write("model.sig", signature.substr(0, signature.size() / 2)); },
       "malformed"},
      {"signature with more after it", [&] { Write("model.sig", signature + "{}"); }, "malformed"},
      {"signature gone", [&] { fs::remove(Path("model.sig")); }, "file-unreadable"},
      {"payload changed",
       [&] {
         Json bundle = Json::parse(signature);
         std::string payload = bundle["dsseEnvelope"]["payload"];
         payload[payload.size() / 2] = payload[payload.size() / 2] == 'A' ? 'B' : 'A';
         bundle["dsseEnvelope"]["payload"] = payload;
         Write("model.sig", bundle.dump());
       },
       "signature-invalid"},
      {"tree bit", [&] { FlipBit("model.sig.tree", tree.size() - 1); }, "content-mismatch"},
      {"tree cut", [&] { Write("model.sig.tree", tree.substr(0, tree.size() - 1)); }, "malformed"},
  };
  for (const Case& tampered : cases) {
    SCOPED_TRACE(tampered.what);
    fs::remove_all(Path("model"));
    fs::remove(Path("config.json"));
    MakeModel();
    Write("model.sig", signature);
    Write("model.sig.tree", tree);
    ExpectExit(0, Verify());
    tampered.tamper();
    ExpectRefused(tampered.reason);
  }
  EXPECT_EQ(cases.size(), 20u);
}

TEST_F(VerifyTest, AnotherModelsSignature) {
  fs::copy(Path("model"), Path("other"), fs::copy_options::recursive);
  Write("other/config.json", "other");
  ExpectExit(0, {"sign", "other", "--private-key", "key.pem", "--signature", "other.sig"});
  ExpectRefused("content-mismatch", {"--signature", "other.sig"});
  ExpectRefused("content-mismatch", {"--tree", "other.sig.tree"});
  ExpectRefused("policy-denied", {"--model-name", "other"});
  ExpectExit(0, Verify({"--model-name", "model"}));
}

TEST_F(VerifyTest, AnotherKey) {
  MakeKey("p256", "other");
  EXPECT_THAT(ExpectExit(1, {"verify", "model", "--public-key", "other.pub", "--json"}).reasons(),
              ElementsAre(::testing::AnyOf("key-mismatch", "signer-untrusted")));
  ExpectExit(1, {"verify", "model", "--public-key", "absent.pub"});
  ExpectExit(1, {"verify", "model", "--public-key", "model/config.json"});
  // A private key is none to trust.
  ExpectExit(1, {"verify", "model", "--public-key", "key.pem"});
}

TEST_F(VerifyTest, ExactlyOneWayToTrust) {
  Write("roots.json", "{}");
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "say whom to trust"},
      {{"--public-key", "key.pub", "--certificate-chain", "c.pem"}, "more than one way"},
      {{"--public-key", "key.pub", "--trust", "t.yaml"}, "more than one way"},
      {{"--public-key", "key.pub", "--system-roots"}, "more than one way"},
      {{"--public-key", "key.pub", "--trusted-root", "roots.json"}, "more than one way"},
      {{"--public-key", "key.pub", "--identity", "a@b"}, "more than one way"},
      {{"--identity", "a@b"}, "--identity-provider --trusted-root"},
      {{"--identity", "a@b", "--identity-provider", "https://c"}, "missing: --trusted-root"},
      {{"--trusted-root", "roots.json"}, "missing: --identity --identity-provider"},
      {{"--system-roots"}, "--identity"},
      {{"--trust", "t.yaml", "--identity", "a@b"}, "more than one way"},
      {{"--certificate-chain", "c.pem", "--identity-provider", "https://c"}, "more than one way"},
  };
  for (const auto& [words, expected] : cases) {
    std::vector<std::string> all = {"verify", "model"};
    all.insert(all.end(), words.begin(), words.end());
    EXPECT_THAT(ExpectExit(2, all).error, HasSubstr(expected));
    all.push_back("--json");
    EXPECT_THAT(ExpectExit(2, all).reasons(), ElementsAre("usage"));
  }
}

TEST_F(VerifyTest, PartsAndOnlyThose) {
  const uint64_t size_bytes = fs::file_size(Path("model/model.safetensors"));
  FlipBit("model/model.safetensors", size_bytes - 1'000'000);  // b.weight, MiB 1
  ExpectExit(1, Verify());
  const Json tensors = ExpectExit(0, Verify({"--tensors", "[ac].*", "--json"})).json();
  EXPECT_EQ(tensors["partial"], true);
  EXPECT_EQ(tensors["tensors_checked"], Json::parse(R"(["a.weight", "c.bias"])"));
  EXPECT_LT(tensors["bytes_checked"].get<uint64_t>(), size_bytes);
  ExpectRefused("content-mismatch", {"--tensors", "b.weight"});
  ExpectRefused("content-mismatch", {"--tensors", "a.*", "--tensors", "b.*"});
  ExpectRefused("file-missing", {"--tensors", "no.such.tensor"});

  const Json range =
      ExpectExit(0, Verify({"--range", "model.safetensors:10:1000", "--json"})).json();
  EXPECT_EQ(range["partial"], true);
  EXPECT_EQ(range["ranges_checked"], Json::parse(R"(["model.safetensors:10:1000"])"));
  ExpectRefused("content-mismatch", {"--range", "model.safetensors:1100000:1100001"});
  ExpectRefused("file-missing", {"--range", "no-such-file:0:1"});
  EXPECT_THAT(ExpectExit(0, Verify({"--tensors", "a.*"})).out, HasSubstr("OK (partial): "));
  fs::remove(Path("model.sig.tree"));
  ExpectRefused("file-missing", {"--range", "model.safetensors:10:1000"});
}

TEST_F(VerifyTest, RangesThatAreNone) {
  for (const char* range : {"model.safetensors", "model.safetensors:1", ":1:2", "f:2:1", "f:1:1",
                            "f:a:b", "f:-1:5", "f:0:99999999999999999999", "f::"}) {
    ExpectExit(2, Verify({"--range", range}));
  }
  // Past the end of the file.
  ExpectExit(2, Verify({"--range", "config.json:0:4096"}));
  for (const char* digests : {"--all-digests", "--oms-digests-only", "--fips"}) {
    ExpectExit(2, Verify({"--tensors", "a.*", digests}));
  }
  ExpectExit(2, Verify({"--all-digests", "--oms-digests-only"}));
}

TEST_F(VerifyTest, WhichDigestsAreRead) {
  const auto read = [&](std::vector<std::string> more) {
    more.push_back("--json");
    return ExpectExit(0, Verify(more)).json()["digests_read"];
  };
  EXPECT_EQ(read({}), Json::parse(R"(["blake3-annotation"])"));
  EXPECT_EQ(read({"--oms-digests-only"}), Json::parse(R"(["oms"])"));
  EXPECT_EQ(read({"--all-digests"}),
            Json::parse(R"(["blake3-annotation", "oms", "tensor-digests"])"));
}

TEST_F(VerifyTest, ReadModesAndThreadsAgree) {
  for (const char* mode : {"auto", "mapped", "buffered", "direct"}) {
    for (const char* threads : {"0", "1", "3"}) {
      ExpectExit(0, Verify({"--read-mode", mode, "--threads", threads}));
    }
  }
  FlipBit("model/model.safetensors", 100'000);
  for (const char* mode : {"auto", "mapped", "buffered", "direct"}) {
    ExpectRefused("content-mismatch", {"--read-mode", mode});
  }
}

TEST_F(VerifyTest, UnsignedFilesCanBeIgnored) {
  Write("model/extra.bin", "x");
  ExpectRefused("file-unsigned");
  ExpectExit(0, Verify({"--ignore-unsigned-files"}));
  ExpectExit(0, Verify({"--ignore_unsigned_files"}));
  ExpectRefused("file-unsigned", {"--no-ignore-unsigned-files"});
  Write("model/.gitignore", "y");
  fs::remove(Path("model/extra.bin"));
  ExpectExit(0, Verify());
}

TEST_F(VerifyTest, TrustFile) {
  Write("trust/trust.yaml",
        "version: 1\n"
        "models:\n"
        "  - model: \"acme/*\"\n"
        "    minimum_version: 3\n"
        "    signers:\n"
        "      - key: ../key.pub\n");
  const std::vector<std::string> verify = {
      "verify", "model", "--trust", "trust/trust.yaml", "--model-name", "acme/llm", "--json"};
  const auto sign = [&](const std::string& name, const std::string& version) {
    ExpectExit(0, {"sign", "model", "--private-key", "key.pem", "--model-name", name,
                   "--model-version", version});
  };
  sign("acme/llm", "3");
  EXPECT_EQ(ExpectExit(0, verify).json()["model_version"], 3);
  sign("acme/llm", "2");
  EXPECT_THAT(ExpectExit(1, verify).reasons(), ElementsAre("version-too-old"));
  sign("acme/other", "3");
  EXPECT_THAT(ExpectExit(1, verify).reasons(), ElementsAre("policy-denied"));
  // Without --model-name the directory's name picks the rule, and none is there.
  EXPECT_THAT(ExpectExit(1, {"verify", "model", "--trust", "trust/trust.yaml", "--json"}).reasons(),
              ElementsAre("policy-denied"));
  Write("trust/trust.yaml", "nonsense: true\n");
  EXPECT_THAT(ExpectExit(1, verify).reasons(), ElementsAre("malformed"));
  ExpectExit(1, {"verify", "model", "--trust", "absent.yaml"});
}

TEST_F(VerifyTest, HostileFileNames) {
  const std::string hostile = "x\x1b[2J\x1b[31mOK: all is well\rfine\n\x7f.bin";
  Write("model/" + hostile, "x");
  for (const std::vector<std::string>& words :
       {Verify(), Verify({"--json"}), Verify({"--ignore-unsigned-files"}),
        std::vector<std::string>{"digest", "model", "--json"},
        std::vector<std::string>{"sign", "model", "--private-key", "key.pem"},
        std::vector<std::string>{"inspect", "model.sig"},
        std::vector<std::string>{"inspect", "model.sig", "--json"},
        std::vector<std::string>{"verify", "model/" + hostile, "--public-key", "key.pub"}}) {
    const testing::CommandOutput output = Pavise(words);
    const std::string all = output.out + output.error;
    EXPECT_TRUE(std::none_of(all.begin(), all.end(), [](char c) {
      return (static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7f;
    })) << all;
    EXPECT_THAT(all, Not(HasSubstr("\nOK: all is well")));
    EXPECT_GE(output.exit_code, 0);
    EXPECT_LE(output.exit_code, 1) << all;
  }
}

// The reference tool's own releases, by all three methods.
TEST_F(VerifyTest, SignaturesOfTheReferenceTool) {
  const std::optional<std::string> vectors = crypto::testing::VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors at hand";
  const std::string oms = *vectors + "/oms/";
  int cases = 0;
  for (const std::string release : {"v0.3.1", "v1.1.0"}) {
    for (const std::string method : {"elliptic-key", "certificate", "sigstore"}) {
      SCOPED_TRACE(StrCat(release, "-", method));
      fs::remove_all(Path("sample"));
      fs::copy(oms + "releases/" + release + "-" + method, Path("sample"),
               fs::copy_options::recursive);
      const std::string word = method == "elliptic-key" ? "key" : method;
      // One of the releases signed a single file here.
      const bool single_file = !fs::exists(Path("sample/signme-2"));
      const std::string model = single_file ? "sample/signme-1" : "sample";
      std::vector<std::string> words = {"verify",           word,    model, "--signature",
                                        "sample/model.sig", "--json"};
      if (method == "elliptic-key") {
        words.insert(words.end(), {"--public-key", oms + "keys/signing-key-pub.pem"});
      } else if (method == "certificate") {
        words.insert(words.end(), {"--certificate-chain", oms + "keys/ca-cert.pem",
                                   "--accept-expired-certificates"});
      } else {
        const Json inspected =
            ExpectExit(0, {"inspect", "sample/model.sig", "--json"}).json()["certificates"][0];
        words.insert(words.end(),
                     {"--identity", inspected["alternative_names"].get<std::string>(),
                      "--identity-provider", inspected["oidc_issuer"].get<std::string>(),
                      "--trust_config", oms + "sigstore_trusted_root.json"});
      }
      if (!single_file && fs::exists(Path("sample/ignore-me"))) {
        words.insert(words.end(), {"--ignore-paths", "sample/ignore-me"});
      }
      EXPECT_EQ(ExpectExit(0, words).json()["ok"], true);
      FlipBit("sample/signme-1", 0);
      EXPECT_THAT(ExpectExit(1, words).reasons(), ElementsAre("content-mismatch"));
      ++cases;
    }
  }
  EXPECT_EQ(cases, 6);
}

}  // namespace
}  // namespace pavise::cli
