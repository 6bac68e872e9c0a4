// The manual page, the help texts and the program's options tell the same.

#include <set>

#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"

#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::vector<std::vector<std::string>> kCommands = {{},
                                                         {"keygen"},
                                                         {"sign"},
                                                         {"verify"},
                                                         {"digest"},
                                                         {"inspect"},
                                                         {"diff"},
                                                         {"seal"},
                                                         {"unseal"},
                                                         {"run"},
                                                         {"doctor"},
                                                         {"bench"},
                                                         {"bench", "hash"},
                                                         {"bench", "file"},
                                                         {"bench", "load"},
                                                         {"completion"}};

class ManualTest : public testing::CommandTest {
 protected:
  std::string Help(std::vector<std::string> command) const {
    command.push_back("--help");
    return ExpectExit(0, command).out;
  }
};

// Every "--option" that a text mentions.
std::set<std::string> OptionsIn(const std::string& text) {
  std::set<std::string> options;
  for (size_t at = text.find("--"); at != std::string::npos; at = text.find("--", at + 2)) {
    size_t end = at + 2;
    while (end < text.size() && (isalnum(text[end]) != 0 || text[end] == '-')) ++end;
    if (end > at + 2) options.insert(text.substr(at, end - at));
  }
  return options;
}

TEST_F(ManualTest, TheCommittedPageIsThisProgramsPage) {
  const std::string page =
      crypto::testing::ReadText(StrCat(PAVISE_SOURCE_DIR, "/docs/man/pavise.1"));
  EXPECT_TRUE(page == ExpectExit(0, {"manual"}).out)
      << "docs/man/pavise.1 is out of date; renew it with: pavise manual > docs/man/pavise.1";
}

TEST_F(ManualTest, MentionsEveryOptionOfEveryVerb) {
  const std::string page =
      absl::StrReplaceAll(ExpectExit(0, {"manual"}).out, {{"\\-", "-"}, {"\\fR", " "}});
  const std::set<std::string> documented = OptionsIn(page);
  size_t options = 0;
  for (const std::vector<std::string>& command : kCommands) {
    for (const std::string& option : OptionsIn(Help(command))) {
      EXPECT_TRUE(documented.contains(option)) << option;
      ++options;
    }
  }
  EXPECT_GT(options, 100u);
}

TEST_F(ManualTest, EveryHelpHasAnExampleAndFitsTheTerminal) {
  for (const std::vector<std::string>& command : kCommands) {
    const std::string help = Help(command);
    EXPECT_THAT(help, HasSubstr("Usage: pavise"));
    EXPECT_THAT(help, HasSubstr("\nExample:\n  "));
    EXPECT_THAT(help, HasSubstr("--json"));
    const std::string before_examples = help.substr(0, help.find("Example:"));
    for (const absl::string_view line : absl::StrSplit(before_examples, '\n')) {
      EXPECT_LE(line.size(), 100u) << line;
    }
    EXPECT_EQ(before_examples.find("\n\n\n"), std::string::npos) << help;
  }
}

TEST_F(ManualTest, RoffIsClean) {
  if (!crypto::testing::HasProgram("groff")) GTEST_SKIP() << "groff is not installed";
  Write("pavise.1", ExpectExit(0, {"manual"}).out);
  const testing::CommandOutput output =
      testing::RunProgram({"groff", "-man", "-ww", "-z", Path("pavise.1")}, setting_);
  EXPECT_EQ(output.exit_code, 0);
  EXPECT_THAT(output.error, IsEmpty());
}

}  // namespace
}  // namespace pavise::cli
