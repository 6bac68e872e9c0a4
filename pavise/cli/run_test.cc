// run as its users call it, without a broker: what is refused before one is asked.
#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using testing::CommandOutput;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RunTest : public testing::CommandTest {
 protected:
  static std::vector<std::string> Words(const std::vector<std::string>& more) {
    std::vector<std::string> words = {
        "run",          "--json",          "--agreement", std::string(64, 'a'),
        "--stage",      "train",           "--broker",    "unix:/no/such/socket",
        "--provenance", "provenance.json", "--cgroup",    "/no/such/cgroup"};
    words.insert(words.end(), more.begin(), more.end());
    words.insert(words.end(), {"--", "true", "--json"});
    return words;
  }
};

TEST_F(RunTest, WhatMakesNoSenseIsAUsageError) {
  ExpectExit(2, {"run"});
  ExpectExit(2, {"run", "--", "true"});
  ExpectExit(2, Words({"--asset", "code"}));
  ExpectExit(2, Words({"--asset", "=code.sealed"}));
  ExpectExit(2, Words({"--asset", "a=x", "--asset", "a=y"}));
  ExpectExit(2, Words({"--processes", "0"}));
  ExpectExit(2, Words({"--no-tpm"}));
  ExpectExit(2, Words({"--mode", "trusted"}));
}

TEST_F(RunTest, ALimitThatIsNotEnforcedIsRefusedUnlessAccepted) {
  const CommandOutput refused = ExpectExit(1, Words({}));
  EXPECT_THAT(refused.reasons(), ::testing::Contains("unsupported"));
  EXPECT_THAT(refused.out, HasSubstr("--accept memory-limit"));
  // Then the broker is asked, which is not there.
  const CommandOutput failed =
      ExpectExit(3, Words({"--accept", "memory-limit", "--accept", "swap"}));
  EXPECT_THAT(failed.reasons(), ElementsAre("machine-failure"));
  EXPECT_FALSE(Exists("provenance.json"));
}

}  // namespace
}  // namespace pavise::cli
