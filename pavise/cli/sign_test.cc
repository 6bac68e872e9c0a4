// `pavise sign`, and verify where that shows what was signed.

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"
#include "pavise/crypto/testing/test_certificates.h"

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

namespace fs = std::filesystem;
using crypto::testing::AuthorityOptions;
using crypto::testing::CertificateOptions;
using crypto::testing::Issue;
using crypto::testing::MakeRoot;
using crypto::testing::TestCertificate;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class SignTest : public testing::CommandTest {
 protected:
  void SetUp() override {
    MakeModel();
    MakeKey();
  }
  // Private key and certificates, in files.
  void WriteCertificates() {
    const TestCertificate root = MakeRoot(AuthorityOptions("test root"));
    const TestCertificate middle = Issue(root, AuthorityOptions("test middle"));
    CertificateOptions options;
    options.common_name = "model signer";
    const TestCertificate leaf = Issue(middle, options);
    Write("leaf-key.pem", std::string(leaf.key.ToPem(SecretBytes())->RevealText()));
    Write("leaf.pem", leaf.certificate.ToPem());
    Write("middle.pem", middle.certificate.ToPem());
    Write("root.pem", root.certificate.ToPem());
    Write("other-root.pem", MakeRoot(AuthorityOptions("other root")).certificate.ToPem());
  }
};

TEST_F(SignTest, SignsAndVerifies) {
  const Json signed_result =
      ExpectExit(0, {"sign", "model", "--private-key", "key.pem", "--json"}).json();
  EXPECT_EQ(signed_result["ok"], true);
  EXPECT_EQ(signed_result["files"], 3);
  EXPECT_EQ(signed_result["signature"], "model.sig");
  EXPECT_EQ(signed_result["tree"], "model.sig.tree");
  EXPECT_EQ(signed_result["model"], "model");
  EXPECT_EQ(signed_result["bytes_hashed"], signed_result["model_bytes"]);
  const Json verified =
      ExpectExit(0, {"verify", "model", "--public-key", "key.pub", "--json"}).json();
  EXPECT_EQ(verified["ok"], true);
  EXPECT_EQ(verified["partial"], false);
  EXPECT_EQ(verified["files_checked"], 3);
  EXPECT_EQ(verified["bytes_checked"], signed_result["model_bytes"]);
  EXPECT_EQ(verified["root_digest"], signed_result["root_digest"]);
  EXPECT_EQ(verified["signer"]["key_sha256"], signed_result["signer"]["key_sha256"]);
  EXPECT_THAT(TemporaryFiles(), IsEmpty());
}

TEST_F(SignTest, EveryCurveHashAndMethod) {
  int cases = 0;
  for (const std::string curve : {"p256", "p384", "p521"}) {
    MakeKey(curve, curve);
    for (const std::string hash : {"sha256", "blake2b", "blake3"}) {
      for (const std::string method : {"files", "shards"}) {
        std::vector<std::string> words = {"sign",   "model", "--private-key", curve + ".pem",
                                          "--hash", hash,    "--method",      method};
        if (method == "shards") words.insert(words.end(), {"--shard-size", "1MiB"});
        ++cases;
        if (method == "shards" && hash == "blake3") {  // the reference tool has no such thing
          EXPECT_THAT(ExpectExit(2, words).error, HasSubstr("BLAKE3 shards"));
          continue;
        }
        ExpectExit(0, words);
        ExpectExit(0, {"verify", "model", "--public-key", curve + ".pub"});
        ExpectExit(0, {"verify", "model", "--public-key", curve + ".pub", "--all-digests"});
        EXPECT_THAT(
            ExpectExit(1, {"verify", "model", "--public-key", "key.pub", "--json"}).reasons(),
            Not(IsEmpty()));
      }
    }
  }
  EXPECT_EQ(cases, 18);
}

TEST_F(SignTest, BothSpellingsOfOptions) {
  ExpectExit(0, {"sign", "model", "--private_key", "key.pem", "--model_name=my_model"});
  const Json verified = ExpectExit(0, {"verify", "model", "--public_key=key.pub",
                                       "--ignore_unsigned_files", "--json"})
                            .json();
  EXPECT_EQ(verified["model"], "my_model");
}

TEST_F(SignTest, TheReferenceToolsMethodWord) {
  ExpectExit(0, {"sign", "key", "model", "--private_key", "key.pem"});
  ExpectExit(0, {"verify", "key", "model", "--signature", "model.sig", "--public_key", "key.pub"});
  // It is held against the options.
  EXPECT_THAT(ExpectExit(2, {"sign", "certificate", "model", "--private-key", "key.pem"}).error,
              HasSubstr("'certificate'"));
  EXPECT_THAT(ExpectExit(2, {"verify", "sigstore", "model", "--public-key", "key.pub"}).error,
              HasSubstr("'sigstore'"));
  EXPECT_THAT(ExpectExit(2, {"verify", "pkcs11-key", "model", "--public-key", "key.pub"}).error,
              HasSubstr("'key'"));
  EXPECT_THAT(ExpectExit(2, {"sign", "sigstore", "model"}).error, HasSubstr("--private-key"));
  EXPECT_THAT(ExpectExit(2, {"sign", "key", "--private-key", "key.pem"}).error, HasSubstr("./key"));
  EXPECT_THAT(ExpectExit(2, {"sign", "model", "other", "--private-key", "key.pem"}).error,
              HasSubstr("two"));
  // A model of that name.
  Write("key/weights.bin", "w");
  ExpectExit(0, {"sign", "./key", "--private-key", "key.pem"});
  ExpectExit(0, {"sign", "key", "key", "--private-key", "key.pem"});
  ExpectExit(0, {"verify", "./key", "--public-key", "key.pub"});
  ExpectExit(0, {"digest", "key"});
}

TEST_F(SignTest, ModelsWithOddNames) {
  for (const std::string name : {"[x]", "sign", "a b", "-dash", "m=1", "\xc3\xa9"}) {
    Write(name + "/weights.bin", "w");
    const std::string path = name[0] == '-' ? "./" + name : name;
    ExpectExit(0, {"sign", path, "--private-key", "key.pem"});
    const Json verified =
        ExpectExit(0, {"verify", path, "--public-key", "key.pub", "--json"}).json();
    EXPECT_EQ(verified["model"], name);
  }
}

TEST_F(SignTest, OneFileAsModel) {
  ExpectExit(0, {"sign", "model/model.safetensors", "--private-key", "key.pem"});
  ExpectExit(0, {"verify", "model/model.safetensors", "--public-key", "key.pub"});
  FlipBit("model/model.safetensors", 2'000'000);
  ExpectExit(1, {"verify", "model/model.safetensors", "--public-key", "key.pub"});
}

TEST_F(SignTest, SignatureInsideTheModel) {
  ExpectExit(0, {"sign", "model", "--private-key", "key.pem", "--signature", "model/model.sig"});
  EXPECT_TRUE(Exists("model/model.sig.tree"));
  ExpectExit(0, {"verify", "model", "--public-key", "key.pub", "--signature", "model/model.sig"});
  ExpectExit(0, {"sign", "model", "--private-key", "key.pem", "--signature", "model/model.sig"});
}

TEST_F(SignTest, UsageErrorsExplainThemselves) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"sign"}, "no model"},
      {{"sign", "model"}, "--private-key or --pkcs11-uri"},
      {{"sign", "model", "--private-key", "key.pem", "--pkcs11-uri", "pkcs11:object=a"},
       "not both"},
      {{"sign", "model", "--private-key", "key.pem", "--certificate-chain", "c.pem"},
       "--signing-certificate"},
      {{"sign", "model", "--private-key", "key.pem", "--hash", "md5"}, "md5"},
      {{"sign", "model", "--private-key", "key.pem", "--shard-size", "5"}, "--method shards"},
      {{"sign", "model", "--private-key", "key.pem", "--method", "shards", "--shard-size", "0"},
       "shard size"},
      {{"sign", "model", "--private-key", "key.pem", "--method", "shards", "--shard-size", "5e3"},
       "whole number"},
      {{"sign", "model", "--private-key", "key.pem", "--method", "shards", "--shard-size",
        "99999999999999999999GB"},
       "whole number"},
      {{"sign", "model", "--private-key", "key.pem", "--model-version", "-1"}, "whole number"},
      {{"sign", "model", "--private-key", "key.pem", "--threads", "5000"}, "4096"},
      {{"sign", "model", "--private-key", "key.pem", "--changed-tensors", "a*"}, "--incremental"},
      {{"sign", "model", "--private-key", "key.pem", "--fips", "--hash", "blake3"}, "sha256 only"},
      {{"sign", "model", "--private-key", "key.pem", "--device", "abacus"}, "no such kind"},
      {{"sign", "model", "--private-key", "key.pem", "--ignore-paths", "/etc"}, "inside the model"},
      {{"sign", "model", "--private-key", "key.pem", "--ignore-paths", "model"},
       "inside the model"},
      {{"sign", "model", "--private-key", "key.pem", "--private-key", "key.pem"}, "--private-key"},
      {{"sign", "model", "--private-key="}, "empty value"},
      {{"sign", "model", "--private-key"}, "--private-key"},
      {{"sign", "model", "--private-key", "key.pem", "--no-such-option"}, "--no-such-option"},
      {{"sign", "model", "--pkcs11-uri", "pkcs11:object=a", "--password", "p"}, "PIN"},
      {{"sign", "model", "--private-key", "key.pem", "--password", "p", "--password-file", "f"},
       "not both"},
  };
  for (const auto& [words, expected] : cases) {
    const testing::CommandOutput output = ExpectExit(2, words);
    EXPECT_THAT(output.error, HasSubstr(expected));
    EXPECT_THAT(output.out, IsEmpty());
    std::vector<std::string> with_json = words;
    with_json.push_back("--json");
    if (words.back() == "--private-key") continue;  // takes --json for its value
    const testing::CommandOutput json = ExpectExit(2, with_json);
    EXPECT_THAT(json.reasons(), ElementsAre("usage"));
    EXPECT_THAT(json.error, IsEmpty());
  }
  EXPECT_FALSE(Exists("model.sig"));
}

TEST_F(SignTest, OtherDevicesAreRefusedNotReplaced) {
  const testing::CommandOutput output =
      ExpectExit(1, {"sign", "model", "--private-key", "key.pem", "--device", "cuda:0", "--json"});
  EXPECT_THAT(output.reasons(), ElementsAre("unsupported"));
  ExpectExit(0, {"sign", "model", "--private-key", "key.pem", "--device", "cpu"});
}

TEST_F(SignTest, Passwords) {
  Write("password.txt", "correct_horse");
  ExpectExit(0, {"keygen", "-o", "locked.pem", "--password-file", "password.txt"});
  const std::vector<std::string> sign = {"sign", "model", "--private-key", "locked.pem"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> words = sign;
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  EXPECT_THAT(ExpectExit(1, with({"--json"})).reasons(), ElementsAre("key-unsupported"));
  EXPECT_THAT(ExpectExit(1, with({"--password", "wrong", "--json"})).reasons(),
              ElementsAre("key-unsupported"));
  EXPECT_FALSE(Exists("model.sig"));
  ExpectExit(0, with({"--password", "correct_horse"}));
  ExpectExit(0, with({"--password=correct_horse"}));
  ExpectExit(0, with({"--password-file", "password.txt"}));
  setting_.environment["PAVISE_KEY_PASSWORD"] = "correct_horse";
  ExpectExit(0, sign);
  // An option goes before the variable.
  ExpectExit(1, with({"--password", "wrong"}));
  // The password shows up nowhere.
  setting_.environment["PAVISE_KEY_PASSWORD"] = "hunter2";
  const testing::CommandOutput output = ExpectExit(1, with({"--log-level", "debug"}));
  EXPECT_THAT(output.out + output.error, Not(HasSubstr("hunter2")));
}

TEST_F(SignTest, UnusableKeys) {
  Write("garbage.pem", "not a key");
  Write("huge.pem", std::string(1 << 20, 'A'));
  mkfifo(Path("pipe.pem").c_str(), 0600);
  for (const char* key :
       {"garbage.pem", "huge.pem", "pipe.pem", "absent.pem", "model", "key.pub"}) {
    const testing::CommandOutput output =
        ExpectExit(1, {"sign", "model", "--private-key", key, "--json"});
    EXPECT_THAT(output.reasons(), Not(IsEmpty())) << key;
    EXPECT_FALSE(Exists("model.sig")) << key;
  }
}

TEST_F(SignTest, UnreadableKeyNamesTheFile) {
  if (geteuid() == 0) {
    // Root may read every file, so somebody else runs the program.
    constexpr uint32_t kNobody = 65534;
    setting_.user_id = kNobody;
    fs::permissions(directory_.path(), fs::perms::all);
    // Where the build directory is root's own, nobody can start the program from it.
    fs::copy_file(PAVISE_PROGRAM, Path("pavise"));
    const testing::CommandOutput output = testing::RunProgram(
        {Path("pavise"), "sign", "model", "--private-key", "key.pem", "--json"}, setting_);
    if (output.exit_code == 127) GTEST_SKIP() << "another user cannot run programs here";
    EXPECT_THAT(output.reasons(), ElementsAre("file-unreadable"));
    EXPECT_EQ(output.json()["findings"][0]["item"], "key.pem");
    return;
  }
  chmod(Path("key.pem").c_str(), 0);
  EXPECT_THAT(ExpectExit(1, {"sign", "model", "--private-key", "key.pem"}).error,
              HasSubstr("file-unreadable  key.pem"));
}

TEST_F(SignTest, IgnoredPaths) {
  Write("model/.cache/a", "1");
  Write("model/notes.txt", "2");
  Write("model/.git/HEAD", "3");
  const auto names = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {"digest", "model", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    std::vector<std::string> found;
    const Json result = ExpectExit(0, words).json();
    for (const Json& resource : result["resources"]) {
      found.push_back(resource["name"].get<std::string>());
    }
    return found;
  };
  EXPECT_THAT(names({}), Contains(".cache/a"));
  EXPECT_THAT(names({}), Not(Contains(".git/HEAD")));
  EXPECT_THAT(names({"--no-ignore-git-paths"}), Contains(".git/HEAD"));
  // From the current directory, as the reference tool takes it; and from the model's.
  EXPECT_THAT(names({"--ignore-paths", "model/.cache"}), Not(Contains(".cache/a")));
  EXPECT_THAT(names({"--ignore-paths", "model/.cache/"}), Not(Contains(".cache/a")));
  EXPECT_THAT(names({"--ignore-paths", ".cache"}), Not(Contains(".cache/a")));
  EXPECT_THAT(names({"--ignore-paths", Path("model/.cache")}), Not(Contains(".cache/a")));
  EXPECT_THAT(names({"--ignore-paths", ".cache", "--ignore-paths", "notes.txt"}),
              ElementsAre("config.json", "model.safetensors", "tokenizer/vocabulary.txt"));
  ExpectExit(2, {"digest", "model", "--ignore-paths", "../elsewhere"});

  ExpectExit(0, {"sign", "model", "--private-key", "key.pem", "--ignore-paths", ".cache"});
  Write("model/.cache/b", "later");
  ExpectExit(0, {"verify", "model", "--public-key", "key.pub"});
  Write("model/later.txt", "later");
  ExpectExit(1, {"verify", "model", "--public-key", "key.pub"});
  ExpectExit(0, {"verify", "model", "--public-key", "key.pub", "--ignore-paths", "later.txt"});
  // What is signed cannot be hidden.
  FlipBit("model/notes.txt", 0);
  ExpectExit(1, {"verify", "model", "--public-key", "key.pub", "--ignore-paths", "notes.txt",
                 "--ignore-unsigned-files"});
}

TEST_F(SignTest, SymbolicLinks) {
  fs::create_symlink("config.json", Path("model/link.json"));
  EXPECT_THAT(ExpectExit(1, {"sign", "model", "--private-key", "key.pem", "--json"}).reasons(),
              ElementsAre("file-type-refused"));
  ExpectExit(0, {"sign", "model", "--private-key", "key.pem", "--allow-symlinks"});
  ExpectExit(1, {"verify", "model", "--public-key", "key.pub"});
  ExpectExit(0, {"verify", "model", "--public-key", "key.pub", "--allow_symlinks"});
}

TEST_F(SignTest, FipsNamesItsProvider) {
  const Json result =
      ExpectExit(0, {"sign", "model", "--private-key", "key.pem", "--fips", "--json"}).json();
  EXPECT_THAT(result["fips_provider"].get<std::string>(), HasSubstr("OpenSSL"));
  EXPECT_EQ(result["sha256_by"], "OpenSSL");
  EXPECT_TRUE(result["tree"].is_null());
  EXPECT_FALSE(Exists("model.sig.tree"));
  const Json verified =
      ExpectExit(0, {"verify", "model", "--public-key", "key.pub", "--fips", "--json"}).json();
  EXPECT_EQ(verified["digests_read"], Json::parse(R"(["oms"])"));
  EXPECT_FALSE(verified["fips_provider"].is_null());
  EXPECT_EQ(verified["sha256_by"], "OpenSSL");
  EXPECT_EQ(ExpectExit(0, {"digest", "model", "--fips", "--json"}).json()["sha256_by"], "OpenSSL");
  ExpectExit(0, {"sign", "model", "--private-key", "key.pem", "--hash", "blake3"});
  EXPECT_THAT(
      ExpectExit(1, {"verify", "model", "--public-key", "key.pub", "--fips", "--json"}).reasons(),
      ElementsAre("unsupported"));
}

TEST_F(SignTest, SignsAgainIncrementally) {
  std::vector<std::pair<std::string, uint64_t>> tensors;
  for (const char* name :
       {"a.weight", "b.weight", "c.weight", "d.weight", "e.weight", "f.weight"}) {
    tensors.emplace_back(name, 400'000);
  }
  Write("model/model.safetensors", testing::SafetensorsBytes(tensors, 2));
  const std::vector<std::string> sign = {"sign",   "model",  "--private-key", "key.pem",
                                         "--hash", "blake3", "--incremental"};
  EXPECT_EQ(ExpectExit(1, {"sign", "model", "--private-key", "key.pem", "--incremental", "--json"})
                .reasons()
                .front(),
            "file-unreadable");
  ExpectExit(0, {"sign", "model", "--private-key", "key.pem", "--hash", "blake3"});
  const uint64_t size_bytes = fs::file_size(Path("model/model.safetensors"));
  FlipBit("model/model.safetensors", size_bytes - 3);  // f.weight
  std::vector<std::string> words = sign;
  words.insert(words.end(), {"--changed-tensors", "f.*", "--json"});
  const Json result = ExpectExit(0, words).json();
  EXPECT_LT(result["bytes_hashed"].get<uint64_t>(), result["model_bytes"].get<uint64_t>());
  ExpectExit(0, {"verify", "model", "--public-key", "key.pub", "--all-digests"});
  // The previous signature must be one's own.
  MakeKey("p256", "other");
  EXPECT_THAT(ExpectExit(1, {"sign", "model", "--private-key", "other.pem", "--hash", "blake3",
                             "--incremental", "--json"})
                  .reasons(),
              ElementsAre("signature-invalid"));
  ExpectExit(0, {"verify", "model", "--public-key", "key.pub"});
}

TEST_F(SignTest, CertificateMethod) {
  WriteCertificates();
  const std::vector<std::string> sign = {"sign",
                                         "model",
                                         "--private-key",
                                         "leaf-key.pem",
                                         "--signing-certificate",
                                         "leaf.pem",
                                         "--certificate-chain",
                                         "middle.pem"};
  const Json signed_result = [&] {
    std::vector<std::string> words = sign;
    words.push_back("--json");
    return ExpectExit(0, words).json();
  }();
  EXPECT_EQ(signed_result["signer"]["method"], "certificate");
  const testing::CommandOutput verified = ExpectExit(
      0, {"verify", "certificate", "model", "--certificate-chain", "root.pem", "--json"});
  EXPECT_THAT(verified.json()["signer"]["name"].get<std::string>(), HasSubstr("model signer"));
  ExpectExit(0,
             {"verify", "model", "--certificate-chain", "root.pem", "--identity", "model signer"});
  ExpectExit(0, {"verify", "model", "--certificate-chain", "other-root.pem", "--certificate-chain",
                 "root.pem"});

  EXPECT_THAT(ExpectExit(1, {"verify", "model", "--certificate-chain", "other-root.pem", "--json"})
                  .reasons(),
              Contains(::testing::AnyOf("certificate-invalid", "signer-untrusted")));
  EXPECT_THAT(ExpectExit(1, {"verify", "model", "--certificate-chain", "root.pem", "--identity",
                             "somebody else", "--json"})
                  .reasons(),
              Not(IsEmpty()));
  ExpectExit(1, {"verify", "model", "--public-key", "key.pub"});
  ExpectExit(1, {"verify", "model", "--system-roots", "--identity", "model signer"});
  // The key must be the certificate's.
  EXPECT_THAT(ExpectExit(1, {"sign", "model", "--private-key", "key.pem", "--signing-certificate",
                             "leaf.pem", "--json"})
                  .reasons(),
              ElementsAre("key-mismatch"));
  // A chain file that repeats the leaf.
  Write("full.pem", Read("leaf.pem") + Read("middle.pem"));
  ExpectExit(0, {"sign", "model", "--private-key", "leaf-key.pem", "--signing-certificate",
                 "full.pem", "--certificate-chain", "full.pem"});
  ExpectExit(0, {"verify", "model", "--certificate-chain", "root.pem"});
  const Json inspected = ExpectExit(0, {"inspect", "model.sig", "--json"}).json();
  EXPECT_EQ(inspected["certificates"].size(), 2u);
}

// A token of its own for each test.
class TokenTest : public SignTest {
 protected:
  void SetUp() override {
    SignTest::SetUp();
    uri_ = MakeToken("key");
    if (uri_.empty()) GTEST_SKIP() << "SoftHSM is not installed";
  }
  std::string uri_;
};

TEST_F(TokenTest, SignsWithAToken) {
  const Json result = ExpectExit(0, {"sign", "model", "--pkcs11-uri", uri_, "--json"}).json();
  EXPECT_EQ(result["signer"]["method"], "key");
  ExpectExit(0, {"verify", "model", "--public-key", "key.pub"});
  ExpectExit(0, {"sign", "pkcs11-key", "model", "--pkcs11_uri", uri_});
  FlipBit("model/config.json", 0);
  ExpectExit(1, {"verify", "model", "--public-key", "key.pub"});
}

TEST_F(TokenTest, SignsWithATokenAndACertificate) {
  const TestCertificate root = MakeRoot(AuthorityOptions("token root"));
  const auto key = crypto::PublicKey::FromPem(Read("key.pub"), "key");
  ASSERT_TRUE(key.ok());
  Write("leaf.pem", crypto::testing::IssueFor(root, *key, CertificateOptions()).ToPem());
  Write("root.pem", root.certificate.ToPem());
  ExpectExit(0, {"sign", "pkcs11-certificate", "model", "--pkcs11-uri", uri_,
                 "--signing-certificate", "leaf.pem"});
  ExpectExit(0, {"verify", "model", "--certificate-chain", "root.pem"});
  ExpectExit(2, {"sign", "pkcs11-key", "model", "--pkcs11-uri", uri_, "--signing-certificate",
                 "leaf.pem"});
}

TEST_F(TokenTest, RefusesWrongPinsAndUnknownKeys) {
  Write("pin.txt", "9999");
  EXPECT_THAT(ExpectExit(1, {"sign", "model", "--pkcs11-uri", uri_, "--json"}).reasons(),
              ElementsAre("key-unsupported"));
  Write("pin.txt", "1234");
  const std::string other = absl::StrReplaceAll(uri_, {{"object=key", "object=nobody"}});
  EXPECT_THAT(ExpectExit(1, {"sign", "model", "--pkcs11-uri", other, "--json"}).reasons(),
              ElementsAre("key-unsupported"));
  EXPECT_THAT(ExpectExit(1, {"sign", "model", "--pkcs11-uri", "nonsense", "--json"}).reasons(),
              ElementsAre("malformed"));
  EXPECT_FALSE(Exists("model.sig"));
}

// A small file system that can be filled.
class FullDiskTest : public SignTest {
 protected:
  void SetUp() override {
    SignTest::SetUp();
    fs::create_directory(Path("disk"));
    if (mount("tmpfs", Path("disk").c_str(), "tmpfs", 0, "size=256k") != 0) {
      GTEST_SKIP() << "a small tmpfs cannot be mounted here (not root, or not allowed)";
    }
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) umount2(Path("disk").c_str(), MNT_DETACH);
  }
  // Leaves no byte free.
  void Fill() const {
    std::ofstream filler(Path("disk/filler"), std::ios::binary);
    const std::string block(4096, 'x');
    while (filler.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
    }
  }
  bool mounted_ = false;
};

TEST_F(FullDiskTest, LeavesTheOldSignatureWhole) {
  const std::vector<std::string> sign = {
      "sign", "model", "--private-key", "key.pem", "--signature", "disk/model.sig", "--json"};
  ExpectExit(0, sign);
  const std::string signature = Read("disk/model.sig");
  const std::string tree = Read("disk/model.sig.tree");
  Fill();
  Write("model/config.json", "changed");
  EXPECT_THAT(ExpectExit(1, sign).reasons(), ElementsAre("storage-full"));
  EXPECT_EQ(Read("disk/model.sig"), signature);
  EXPECT_EQ(Read("disk/model.sig.tree"), tree);
  EXPECT_THAT(TemporaryFiles(), IsEmpty());
}

TEST_F(FullDiskTest, LeavesNothingOfAFirstSignature) {
  Fill();
  EXPECT_THAT(ExpectExit(1, {"sign", "model", "--private-key", "key.pem", "--signature",
                             "disk/model.sig", "--json"})
                  .reasons(),
              ElementsAre("storage-full"));
  EXPECT_THAT(ExpectExit(1, {"keygen", "-o", "disk/key.pem", "--json"}).reasons(),
              ElementsAre("storage-full"));
  EXPECT_FALSE(Exists("disk/model.sig"));
  EXPECT_FALSE(Exists("disk/key.pem"));
  EXPECT_FALSE(Exists("disk/key.pub"));
  EXPECT_THAT(TemporaryFiles(), IsEmpty());
}

}  // namespace
}  // namespace pavise::cli
