// The program as a whole: what holds for every verb.

#include <csignal>
#include <filesystem>

#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"
#include "pavise/crypto/testing/test_files.h"

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

using ProgramTest = testing::CommandTest;

TEST_F(ProgramTest, HelpAndVersion) {
  const testing::CommandOutput help = ExpectExit(0, {"--help"});
  EXPECT_THAT(help.error, IsEmpty());
  // Verbs are listed in groups, the hidden one is not.
  EXPECT_LT(help.out.find("\nSign:"), help.out.find("\nVerify:"));
  EXPECT_LT(help.out.find("\nVerify:"), help.out.find("\nThis machine:"));
  EXPECT_THAT(help.out, Not(HasSubstr("manual")));
  EXPECT_EQ(ExpectExit(0, {"-h"}).out, help.out);
  EXPECT_THAT(ExpectExit(0, {"--version"}).out, StartsWith("pavise "));
  EXPECT_THAT(ExpectExit(0, {"sign", "--help"}).out, HasSubstr("Usage: pavise sign"));
}

// Mapping what brokers and evidence need takes longer than verifying a tensor (decision 12).
TEST_F(ProgramTest, VerifyingMapsNoLibraryOfBrokersOrEvidence) {
  const auto libraries = [](const std::string& program) {
    const auto listed = crypto::testing::RunCommand(StrCat("ldd ", program));
    EXPECT_EQ(listed.exit_code, 0);
    return listed.output;
  };
  const std::string lean = libraries(PAVISE_PROGRAM);
  const std::string whole = libraries(StrCat(PAVISE_PROGRAM, "-all"));
  EXPECT_THAT(lean, HasSubstr("libcrypto.so"));
  for (const char* name : {"libpq.so", "libsqlite3.so", "libxml2.so", "libtss2-esys.so",
                           "libarchive.so", "libprometheus-cpp-core.so"}) {
    EXPECT_THAT(whole, HasSubstr(name));
    EXPECT_THAT(lean, Not(HasSubstr(name)));
  }
  for (const char* name : {"libtorch", "libc10.so", "libopenblas", "libdnnl.so"}) {
    EXPECT_THAT(whole, Not(HasSubstr(name)));
    EXPECT_THAT(lean, Not(HasSubstr(name)));
  }
}

// libgrpc has an Abseil of its own, as shared libraries; what we export would take its place there,
// and one's sampled Cord ends the program in the other.
TEST_F(ProgramTest, ExportsNoAbseil) {
  const auto symbols = [](const std::string& words) {
    const auto listed = crypto::testing::RunCommand(StrCat("nm --defined-only ", words));
    EXPECT_EQ(listed.exit_code, 0) << listed.output;
    return listed.output;
  };
  size_t looked_at = 0;
  for (const char* const suffix : {"-train", "-worker"}) {
    const std::string program = StrCat(PAVISE_PROGRAM, suffix);
    if (!fs::exists(program)) continue;
    ++looked_at;
    EXPECT_TRUE(absl::StrContains(symbols(program), "4absl"))
        << program << " has none, or no names";
    EXPECT_THAT(symbols(StrCat("-D ", program)), Not(HasSubstr("4absl"))) << program;
  }
  if (looked_at == 0) GTEST_SKIP() << "no program here is linked to libgrpc";
}

TEST_F(ProgramTest, OtherVerbsNeedTheOtherProgram) {
  MakeSignedModel();
  fs::copy_file(PAVISE_PROGRAM, Path("pavise"));
  const auto run = [&](std::vector<std::string> words) {
    words.insert(words.begin(), Path("pavise"));
    return testing::RunProgram(words, setting_);
  };
  EXPECT_EQ(run({"--json", "verify", "model", "--public-key", "key.pub"}).exit_code, 0);
  for (const std::vector<std::string>& words : {std::vector<std::string>{"doctor"},
                                                {"--help"},
                                                {},
                                                {"--frobnicate", "verify"},
                                                {"bench"},
                                                {"bench", "hash"},
                                                {"bench", "file", "modes"}}) {
    const testing::CommandOutput output = run(words);
    EXPECT_EQ(output.exit_code, 3);
    EXPECT_THAT(output.error, HasSubstr("pavise-all"));
  }
  for (const std::vector<std::string>& verb : std::vector<std::vector<std::string>>{
           {"train"}, {"infer"}, {"audit"}, {"bench", "modes"}, {"bench", "--json", "modes"}}) {
    std::vector<std::string> words = {"-q"};
    words.insert(words.end(), verb.begin(), verb.end());
    words.emplace_back("--help");
    const testing::CommandOutput output = run(words);
    EXPECT_EQ(output.exit_code, 3);
    EXPECT_THAT(output.error, HasSubstr("install it there (Debian package pavise-train)"));
  }
  fs::create_symlink(StrCat(PAVISE_PROGRAM, "-all"), Path("pavise-all"));
  EXPECT_THAT(run({"--help"}).out, HasSubstr("\nVerify:"));
}

TEST_F(ProgramTest, UsageErrors) {
  EXPECT_THAT(ExpectExit(2, {}).error, HasSubstr("pavise --help"));
  EXPECT_THAT(ExpectExit(2, {"verfy"}).error, HasSubstr("did you mean 'verify'"));
  EXPECT_THAT(ExpectExit(2, {"frobnicate"}).error, Not(HasSubstr("did you mean")));
  EXPECT_THAT(ExpectExit(2, {"--frobnicate"}).error, HasSubstr("--frobnicate"));
  EXPECT_THAT(ExpectExit(2, {"doctor", "extra"}).error, HasSubstr("extra"));
  EXPECT_THAT(ExpectExit(2, {"doctor", "--log-level", "loud"}).error, HasSubstr("loud"));
  EXPECT_THAT(ExpectExit(2, {"bench"}).error, HasSubstr("pavise bench --help"));
  for (const std::vector<std::string>& words : {std::vector<std::string>{"--json"},
                                                {"--json", "frobnicate"},
                                                {"frobnicate", "--json"},
                                                {"doctor", "--frobnicate", "--json"},
                                                {"sign", "--json"},
                                                {"bench", "--json"}}) {
    const testing::CommandOutput output = ExpectExit(2, words);
    EXPECT_THAT(output.reasons(), ElementsAre("usage"));
    EXPECT_THAT(output.error, IsEmpty());
  }
}

TEST_F(ProgramTest, JsonOfEveryVerbIsOneObject) {
  MakeSignedModel();
  const std::vector<std::vector<std::string>> commands = {
      {"keygen", "-o", "new.pem"},
      {"sign", "model", "--private-key", "key.pem"},
      {"verify", "model", "--public-key", "key.pub"},
      {"digest", "model"},
      {"inspect", "model.sig"},
      {"diff", "model.sig", "model.sig"},
      {"doctor"},
      {"bench", "hash", "--sizes", "1MiB", "--seconds", "0"},
      {"bench", "file", "model/config.json"},
      {"completion", "bash"},
  };
  for (const std::vector<std::string>& command : commands) {
    std::vector<std::string> words = command;
    words.push_back("--json");
    const testing::CommandOutput output = ExpectExit(0, words);
    const Json object = output.json();
    EXPECT_EQ(object["ok"], true);
    EXPECT_EQ(object["exit_code"], 0);
    EXPECT_EQ(object["verb"], command.front());
    EXPECT_THAT(output.error, IsEmpty());
    // The option may stand before the verb as well.
    words.pop_back();
    words.insert(words.begin(), "--json");
    if (command.front() == "keygen") words.push_back("--force");
    EXPECT_EQ(ExpectExit(0, words).json()["verb"], command.front());
  }
}

TEST_F(ProgramTest, AnUnwrittenResultIsAFailure) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  setting_.stdout_path = "/dev/full";
  EXPECT_THAT(ExpectExit(3, {"doctor"}).error, HasSubstr("FAILED"));
  ExpectExit(3, {"doctor", "--json"});
  ExpectExit(3, {"--help"});
}

TEST_F(ProgramTest, AClosedPipeEndsItQuietly) {
  setting_.close_stdout_reader = true;
  const testing::CommandOutput output = Pavise({"completion", "bash"});
  EXPECT_EQ(output.signal, SIGPIPE);
  EXPECT_THAT(output.error, IsEmpty());
}

TEST_F(ProgramTest, Digest) {
  MakeModel();
  const testing::CommandOutput output = ExpectExit(0, {"digest", "model"});
  const Json object = ExpectExit(0, {"digest", "model", "--json"}).json();
  EXPECT_EQ(output.out, object["root_digest"].get<std::string>() + "\n");
  EXPECT_EQ(object["resources"].size(), 3u);
  MakeKey();
  const Json signed_result =
      ExpectExit(0, {"sign", "model", "--private-key", "key.pem", "--json"}).json();
  EXPECT_EQ(signed_result["root_digest"], object["root_digest"]);
  EXPECT_NE(ExpectExit(0, {"digest", "model", "--hash", "blake3"}).out, output.out);
  FlipBit("model/config.json", 3);
  EXPECT_NE(ExpectExit(0, {"digest", "model"}).out, output.out);
  ExpectExit(1, {"digest", "absent"});
  ExpectExit(2, {"digest"});
}

TEST_F(ProgramTest, DigestOfTheReferenceToolsSample) {
  // Its signatures say which root it found.
  const auto vectors = crypto::testing::VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors at hand";
  int cases = 0;
  for (const std::string release : {"v0.3.1-elliptic-key", "v1.1.0-elliptic-key"}) {
    const std::string folder = *vectors + "/oms/releases/" + release;
    const Json signature = ExpectExit(0, {"inspect", folder + "/model.sig", "--json"}).json();
    std::vector<std::string> words = {"digest", folder, "--signature", folder + "/model.sig"};
    if (fs::exists(folder + "/ignore-me")) {
      words.insert(words.end(), {"--ignore-paths", folder + "/ignore-me"});
    }
    EXPECT_EQ(ExpectExit(0, words).out, signature["root_digest"].get<std::string>() + "\n");
    ++cases;
  }
  EXPECT_EQ(cases, 2);
}

TEST_F(ProgramTest, Bench) {
  Write("a.bin", "abc");
  EXPECT_THAT(
      ExpectExit(0, {"bench", "file", "a.bin", "--algorithm", "sha256"}).out,
      StartsWith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a.bin\n"));
  EXPECT_THAT(
      ExpectExit(0, {"bench", "file", "a.bin", "a.bin", "--threads", "1"}).out,
      StartsWith("6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85  a.bin\n"));
  ExpectExit(1, {"bench", "file", "absent.bin"});
}

TEST_F(ProgramTest, DoctorNamesWhatIsThere) {
  const Json object = ExpectExit(0, {"doctor", "--json"}).json();
  std::vector<std::string> items;
  for (const Json& finding : object["machine"]) items.push_back(finding["item"].get<std::string>());
  for (const char* item : {"CPU", "memory", "io_uring", "FIPS", "system roots", "GPU", "TPM"}) {
    EXPECT_THAT(items, ::testing::Contains(item));
  }
  EXPECT_EQ(object["verbs"].size(), 11u);
}

TEST_F(ProgramTest, RunningOutOfMemoryIsNoVerdict) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers need more address space than the limit of this test";
#endif
  setting_.address_space_bytes = uint64_t{300} << 20;
  const testing::CommandOutput measured = Pavise({"bench", "hash", "--sizes", "1GiB", "--json"});
  EXPECT_EQ(measured.exit_code, 3) << measured.error;
  EXPECT_THAT(measured.reasons(), ElementsAre("machine-failure"));
  // Too large to be read under the limit, and malformed besides: that is not found out.
  Write("large.sig", "{\"a\": \"" + std::string(100 << 20, 'A') + "\", \"a\": 1}");
  const testing::CommandOutput inspected = Pavise({"inspect", "large.sig", "--json"});
  EXPECT_EQ(inspected.exit_code, 3) << inspected.error;
  EXPECT_THAT(inspected.reasons(), ElementsAre("machine-failure"));
  setting_.address_space_bytes = 0;
  EXPECT_THAT(ExpectExit(1, {"inspect", "large.sig", "--json"}).reasons(),
              ElementsAre("malformed"));
}

}  // namespace
}  // namespace pavise::cli
