// `mpirun -n N pavise verify` and `load`: real processes, on this machine.

#include <filesystem>
#include <string>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"
#include "pavise/hash/opencl/opencl_device.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::AllOf;
using testing::CommandOutput;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class RanksTest : public testing::CommandTest {
 protected:
  void SetUp() override {
    if (!crypto::testing::HasProgram("mpirun")) GTEST_SKIP() << "the mpirun program is absent";
    MakeSignedModel();
    // Open MPI's own memory and threads are not what sanitizers are here for.
    setting_.environment["ASAN_OPTIONS"] = "detect_leaks=0";
    setting_.environment["TSAN_OPTIONS"] = "ignore_noninstrumented_modules=1";
  }

  // `mpirun WORDS...` over shared memory and the loopback device.
  CommandOutput MpiRun(const std::vector<std::string>& words) const {
    std::vector<std::string> all = {"mpirun",
                                    "--allow-run-as-root",
                                    "--oversubscribe",
                                    "--quiet",
                                    "--mca",
                                    "btl",
                                    "self,vader,tcp",
                                    "--mca",
                                    "btl_tcp_if_include",
                                    "lo"};
    all.insert(all.end(), words.begin(), words.end());
    return testing::RunProgram(all, setting_);
  }
  std::vector<std::string> Ranks(unsigned size, const std::string& verb,
                                 const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words = {"-n",    StrCat(size),   PAVISE_PROGRAM, verb,
                                      "model", "--public-key", "key.pub"};
    if (verb == "load") words.insert(words.end(), {"--device", "cpu"});
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
};

TEST_F(RanksTest, OneResultIsPrintedForAll) {
  for (const unsigned size : {2U, 3U}) {
    for (const char* verb : {"verify", "load"}) {
      SCOPED_TRACE(StrCat(verb, " with ", size));
      const CommandOutput output = MpiRun(Ranks(size, verb, {"--json"}));
      EXPECT_EQ(output.exit_code, 0) << output.out << output.error;
      const Json object = output.json();  // one, whoever else could have printed
      EXPECT_EQ(object["ok"], true);
      EXPECT_EQ(object["files_checked"], 3);
      ASSERT_EQ(object["ranks"].size(), size);
      uint64_t tensors = 0;
      for (const Json& rank : object["ranks"]) {
        EXPECT_FALSE(rank["host"].get<std::string>().empty());
        EXPECT_GT(rank["bytes_read"].get<uint64_t>(), 0u);
        if (rank.contains("tensors_loaded")) tensors += rank["tensors_loaded"].get<uint64_t>();
      }
      EXPECT_EQ(tensors, std::string(verb) == "load" ? 3u : 0u);
    }
  }
  const CommandOutput people = MpiRun(Ranks(2, "load"));
  EXPECT_EQ(people.exit_code, 0) << people.error;
  EXPECT_THAT(people.out, AllOf(HasSubstr("OK: model is in memory"), HasSubstr("rank 0 of 2 on "),
                                HasSubstr("rank 1 of 2 on "), HasSubstr("of 3 tensors")));
}

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

TEST_F(RanksTest, TheVerdictsLineNamesTheRanksAndDoesNotSpeakForWhatNobodyRead) {
  for (const std::string verb : {"verify", "load"}) {
    SCOPED_TRACE(verb);
    CommandOutput output = MpiRun(Ranks(2, verb));
    EXPECT_EQ(output.exit_code, 0) << output.error;
    EXPECT_THAT(
        FirstLine(output.out),
        AllOf(HasSubstr("is what was signed (by 2 ranks: rank 0 on "), HasSubstr(", rank 1 on ")));
    EXPECT_THAT(output.out, Not(HasSubstr("warning")));
    output = MpiRun(Ranks(2, verb, {"--json"}));
    EXPECT_EQ(output.json()["one_copy"], true);
    // Without ranks there is no such word.
    output = ExpectExit(0, {verb, "model", "--public-key", "key.pub"});
    EXPECT_THAT(output.out, Not(HasSubstr("rank")));
  }
  // The second rank's copy is broken where the first reads.
  std::filesystem::copy(Path("model"), Path("copy"), std::filesystem::copy_options::recursive);
  FlipBit("copy/model.safetensors", 100);
  for (const std::string verb : {"verify", "load"}) {
    for (const bool json : {false, true}) {
      SCOPED_TRACE(verb);
      std::vector<std::string> words = Ranks(1, verb);
      if (json) words.push_back("--json");
      std::vector<std::string> second = words;
      second[4] = "copy";
      words.push_back(":");
      words.insert(words.end(), second.begin(), second.end());
      const CommandOutput output = MpiRun(words);
      ASSERT_EQ(output.exit_code, 0) << output.out << output.error;
      if (json) {
        EXPECT_EQ(output.json()["one_copy"], false);
        EXPECT_EQ(output.json()["warnings"].size(), 1u);
        continue;
      }
      EXPECT_THAT(FirstLine(output.out),
                  AllOf(HasSubstr("the parts of model that 2 ranks read are what was signed; no "
                                  "rank read its copy as a whole (by 2 ranks: rank 0 on "),
                        Not(HasSubstr("model is"))));
      EXPECT_THAT(output.out, HasSubstr("--no-mpi verifies each copy"));
    }
  }
}

TEST_F(RanksTest, RanksOfTwoVersionsEndInsteadOfWaiting) {
  // The foreign one ends at once: its signature is not there.
  for (const char* signature : {"none.sig", "model.sig"}) {
    for (const char* round : {"0", "1", "2"}) {
      SCOPED_TRACE(StrCat(signature, " in round ", round));
      std::vector<std::string> words = Ranks(1, "verify", {"--json"});
      words.insert(words.end(),
                   {":", "-n", "1", UNSOUND_RANK, "foreign", round, "model", signature, "key.pub"});
      const CommandOutput output = MpiRun(words);
      EXPECT_EQ(output.exit_code, 1) << output.out << output.error;
      EXPECT_EQ(output.json()["ok"], false);
    }
  }
}

TEST_F(RanksTest, AChangedByteIsRefusedByAll) {
  FlipBit("model/model.safetensors", 2'500'000);
  for (const unsigned size : {2U, 3U}) {
    for (const char* verb : {"verify", "load"}) {
      SCOPED_TRACE(StrCat(verb, " with ", size));
      const CommandOutput output = MpiRun(Ranks(size, verb, {"--json"}));
      EXPECT_EQ(output.exit_code, 1) << output.error;
      EXPECT_THAT(output.reasons(), Contains("content-mismatch"));
      EXPECT_THAT(output.out, HasSubstr("read by rank "));
    }
  }
}

TEST_F(RanksTest, WhatOneRankAloneMeetsIsSaidByTheFirst) {
  // Its command line names another key.
  ASSERT_EQ(Pavise({"keygen", "-o", "other.pem"}).exit_code, 0);
  for (const bool is_first : {false, true}) {
    std::vector<std::string> words = {
        "-n", "1", PAVISE_PROGRAM, "verify", "model", "--public-key", "key.pub",   "--json", ":",
        "-n", "1", PAVISE_PROGRAM, "verify", "model", "--public-key", "other.pub", "--json"};
    if (is_first) std::swap(words[6], words[15]);
    const CommandOutput output = MpiRun(words);
    EXPECT_EQ(output.exit_code, 1) << output.error;
    EXPECT_EQ(output.json()["ok"], false);
    EXPECT_THAT(output.out, HasSubstr(StrCat("(rank ", is_first ? 0 : 1, " on ")));
    EXPECT_THAT(output.error, Not(HasSubstr("REFUSED")));
  }
}

TEST_F(RanksTest, ARankThatDiesOrLiesLeavesNoAccept) {
  for (const char* fault : {"die", "lie"}) {
    for (const int round : {0, 1, 2}) {
      for (const bool is_first : {false, true}) {
        SCOPED_TRACE(StrCat(fault, " in round ", round, is_first ? ", first" : ", last"));
        const std::vector<std::string> unsound = {"-n",          "1",     UNSOUND_RANK, fault,
                                                  StrCat(round), "model", "model.sig",  "key.pub"};
        std::vector<std::string> words = Ranks(2, "verify");
        words.insert(is_first ? words.begin() : words.end(), ":");
        words.insert(is_first ? words.begin() : words.end(), unsound.begin(), unsound.end());
        const CommandOutput output = MpiRun(words);
        // The last byte of a verdict is of a number that is only printed.
        const bool is_harmless = std::string(fault) == "lie" && round == 2;
        EXPECT_EQ(output.exit_code == 0, is_harmless) << output.exit_code << output.error;
        if (!is_harmless) {
          EXPECT_THAT(output.out, Not(HasSubstr("OK")));
        }
      }
    }
  }
}

TEST_F(RanksTest, DevicesByTheNumberOfTheProcess) {
  // One rank more than there are devices: the last has none.
  const size_t devices = hash::ListOpenClDevices().size();
  const CommandOutput output =
      MpiRun({"-n", StrCat(devices + 1), PAVISE_PROGRAM, "load", "model", "--public-key", "key.pub",
              "--device", "opencl:local", "--json"});
  EXPECT_EQ(output.exit_code, 1) << output.out << output.error;
  EXPECT_THAT(output.reasons(), Contains("unsupported"));
  if (devices > 0) {
    EXPECT_THAT(output.out, HasSubstr(StrCat("(rank ", devices, " on ")));
  }
  ExpectExit(2, {"load", "model", "--public-key", "key.pub", "--device", "opencl:local"});
}

TEST_F(RanksTest, EachByItselfOnRequest) {
  const CommandOutput output = MpiRun(Ranks(2, "verify", {"--no-mpi"}));
  EXPECT_EQ(output.exit_code, 0) << output.error;
  EXPECT_EQ(output.out.find("OK: "), 0u);
  EXPECT_NE(output.out.find("OK: ", 1), std::string::npos) << "two verdicts";
}

TEST_F(RanksTest, WhatIsNotDividedIsRefused) {
  const CommandOutput fips = MpiRun(Ranks(2, "verify", {"--fips", "--json"}));
  EXPECT_EQ(fips.exit_code, 1) << fips.error;
  EXPECT_THAT(fips.reasons(), Contains("unsupported"));
  const CommandOutput guard = MpiRun(Ranks(2, "load", {"--guard", "--json"}));
  EXPECT_EQ(guard.exit_code, 1) << guard.error;
  EXPECT_THAT(guard.reasons(), Contains("unsupported"));
  // Several processes, and nothing that joins them.
  setting_.environment["SLURM_STEP_NUM_TASKS"] = "2";
  const CommandOutput alone =
      ExpectExit(1, {"verify", "model", "--public-key", "key.pub", "--json"});
  EXPECT_THAT(alone.reasons(), Contains("unsupported"));
  EXPECT_EQ(alone.json()["error"], "the model was not verified");
  ExpectExit(0, {"verify", "model", "--public-key", "key.pub", "--no-mpi"});
}

}  // namespace
}  // namespace pavise::cli
