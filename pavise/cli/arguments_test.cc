#include "pavise/cli/arguments.h"

#include "pavise/base/status.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

const ArgumentSyntax kSyntax = {{"--private-key", "--password", "-o", "--log-level"}};

std::vector<std::string> Rewritten(const std::vector<std::string>& words) {
  const Arguments arguments = RewriteArguments(words, kSyntax);
  EXPECT_TRUE(arguments.status.ok()) << arguments.status;
  return arguments.words;
}

TEST(ArgumentsTest, BothSpellingsAreOne) {
  EXPECT_THAT(Rewritten({"sign", "--private_key", "k_1.pem", "--no-ignore_unsigned_files", "a_b"}),
              ElementsAre("sign", "--private-key", "k_1.pem", "--no-ignore-unsigned-files", "a_b"));
  EXPECT_THAT(Rewritten({"--private_key=k_1.pem"}), ElementsAre("--private-key=k_1.pem"));
}

TEST(ArgumentsTest, ValuesStayAsTheyAre) {
  // A password may look like an option.
  EXPECT_THAT(Rewritten({"--password", "--my_pass_word", "--private_key", "-x_y"}),
              ElementsAre("--password", "--my_pass_word", "--private-key", "-x_y"));
  EXPECT_THAT(Rewritten({"-o", "--a_b"}), ElementsAre("-o", "--a_b"));
}

TEST(ArgumentsTest, NothingIsRewrittenAfterTwoDashes) {
  EXPECT_THAT(Rewritten({"sign", "--", "--private_key"}),
              ElementsAre("sign", "--", "--private_key"));
}

TEST(ArgumentsTest, FindsTheVerb) {
  EXPECT_EQ(RewriteArguments({"--log-level", "debug", "verify", "key"}, kSyntax).verb, "verify");
  EXPECT_EQ(RewriteArguments({"--help"}, kSyntax).verb, "");
  EXPECT_EQ(RewriteArguments({}, kSyntax).verb, "");
}

TEST(ArgumentsTest, FindsJson) {
  EXPECT_TRUE(RewriteArguments({"sign", "--nonsense", "--json"}, kSyntax).json);
  EXPECT_FALSE(RewriteArguments({"sign", "--password", "--json"}, kSyntax).json);
  EXPECT_FALSE(RewriteArguments({"sign", "--", "--json"}, kSyntax).json);
}

TEST(ArgumentsTest, RefusesEmptyValues) {
  const Arguments arguments = RewriteArguments({"sign", "--private_key=", "model"}, kSyntax);
  EXPECT_EQ(ExitCodeOf(arguments.status), 2) << arguments.status;
  EXPECT_TRUE(RewriteArguments({"sign", "--private-key", ""}, kSyntax).status.ok());
}

TEST(ArgumentsTest, OddWordsPass) {
  const std::vector<std::string> words = {"", "-", "--=", "-_", "[x]", "\xff"};
  EXPECT_THAT(Rewritten(words), ElementsAreArray(words));
}

TEST(ClosestWordTest, SuggestsOnlyWhatIsNear) {
  const std::vector<std::string> verbs = {"sign", "verify", "digest"};
  EXPECT_EQ(ClosestWord("sing", verbs), "sign");
  EXPECT_EQ(ClosestWord("verfy", verbs), "verify");
  EXPECT_EQ(ClosestWord("frobnicate", verbs), "");
  EXPECT_EQ(ClosestWord(std::string(100'000, 'a'), verbs), "");
}

}  // namespace
}  // namespace pavise::cli
