#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class CompletionTest : public testing::CommandTest {
 protected:
  // What bash would offer for the last word.
  std::vector<std::string> Offered(const std::vector<std::string>& words) const {
    std::string list;
    for (const std::string& word : words) StrAppend(&list, " '", word, "'");
    Write("ask.sh", StrCat(ExpectExit(0, {"completion", "bash"}).out, "COMP_WORDS=(", list,
                           ")\nCOMP_CWORD=", words.size() - 1,
                           "\n_pavise\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"));
    const testing::CommandOutput output =
        testing::RunProgram({"bash", "--norc", Path("ask.sh")}, setting_);
    EXPECT_EQ(output.exit_code, 0);
    EXPECT_THAT(output.error, IsEmpty());
    return absl::StrSplit(output.out, '\n', absl::SkipEmpty());
  }
};

TEST_F(CompletionTest, BashOffersVerbsOptionsAndChoices) {
  EXPECT_THAT(Offered({"pavise", "si"}), ElementsAre("sign"));
  EXPECT_THAT(Offered({"pavise", ""}), Contains("doctor"));
  EXPECT_THAT(Offered({"pavise", ""}), Not(Contains("manual")));
  EXPECT_THAT(Offered({"pavise", "--ver"}), ElementsAre("--version"));
  EXPECT_THAT(Offered({"pavise", "sign", "--priv"}), ElementsAre("--private-key"));
  EXPECT_THAT(Offered({"pavise", "sign", "model", "--hash", ""}),
              ElementsAre("sha256", "blake2b", "blake3"));
  EXPECT_THAT(Offered({"pavise", "verify", "--read-mode", "d"}), ElementsAre("direct"));
  EXPECT_THAT(Offered({"pavise", "completion", ""}), ElementsAre("bash", "zsh", "fish"));
  EXPECT_THAT(Offered({"pavise", "bench", ""}), ElementsAre("hash", "file", "load", "modes"));
  EXPECT_THAT(Offered({"pavise", "bench", "hash", "--stop"}), ElementsAre("--stop-after"));
  EXPECT_THAT(Offered({"pavise", "verify", "--public-key", ""}), IsEmpty());  // files, by default
}

TEST_F(CompletionTest, ScriptsAreAccepted) {
  for (const std::string shell : {"bash", "zsh", "fish"}) {
    Write("script", ExpectExit(0, {"completion", shell}).out);
    EXPECT_THAT(Read("script"), HasSubstr("private-key"));
    EXPECT_THAT(Read("script"), Not(HasSubstr("manual")));
    if (!crypto::testing::HasProgram(shell)) continue;
    const testing::CommandOutput output =
        testing::RunProgram({shell, "-n", Path("script")}, setting_);
    EXPECT_EQ(output.exit_code, 0) << shell << ": " << output.error;
  }
  EXPECT_EQ(ExpectExit(0, {"completion", "fish", "--json"}).json()["shell"], "fish");
  ExpectExit(2, {"completion", "csh"});
  ExpectExit(2, {"completion"});
}

}  // namespace
}  // namespace pavise::cli
