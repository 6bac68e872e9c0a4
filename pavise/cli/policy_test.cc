#include <stdlib.h>

#include <fstream>
#include <regex>
#include <string>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"
#include "pavise/evidence/appraise/composite/composite_evidence.h"
#include "pavise/policy/testing/test_agreement.h"

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

class PolicyCommandTest : public testing::CommandTest {
 protected:
  void SetUp() override {
    for (const char* name : {"vendor", "clinic-a", "clinic-b"}) {
      MakeKey("p256", name);
      Write(StrCat("keys/", name, ".pub"), Read(StrCat(name, ".pub")));
      Write(StrCat("keys/", name, "-enc.pub"), Read(StrCat(name, ".pub")));
    }
    policy::testing::TestFiles files;
    (void)machine_.Rules(files);
    for (const char* name : {"policy.json", "policy-reference.json"}) {
      Write(StrCat("hosts/", name), std::string(AsText(files.Read(name, 1 << 20).value())));
    }
    Write("lungs.yaml", crypto::testing::ReadText(
                            StrCat(PAVISE_SOURCE_DIR, "/pavise/policy/testing/golden/lungs.yaml")));
    Write("evidence.json", evidence::ToJson(machine_.Evidence(Digest32{7})).value());
  }
  std::string Vote(const std::string& name, const std::string& vote = "approve") const {
    ExpectExit(0, {"policy", "approve", "proposal.json", "--vote", vote, "--private-key",
                   name + ".pem", "-o", StrCat(name, "-", vote, ".json")});
    return StrCat(name, "-", vote, ".json");
  }

  policy::testing::TestMachine machine_;
};

TEST_F(PolicyCommandTest, FromAFileToAnAgreementInForce) {
  EXPECT_THAT(ExpectExit(0, {"policy", "lint", "lungs.yaml"}).out, HasSubstr("others can replace"));
  EXPECT_THAT(ExpectExit(0, {"policy", "explain", "lungs.yaml"}).out, HasSubstr("memorised"));
  ExpectExit(0, {"policy", "propose", "lungs.yaml", "--private-key", "vendor.pem", "-o",
                 "proposal.json", "--attachments", "attached"});
  EXPECT_THAT(ExpectExit(0, {"policy", "explain", "proposal.json"}).out, HasSubstr("memorised"));
  std::vector<std::string> show = {"policy",        "show",         "--json",
                                   "proposal.json", Vote("vendor"), Vote("clinic-a")};
  const Json waiting = ExpectExit(0, show).json();
  EXPECT_EQ(waiting["open"][0]["missing"].size(), 1u) << waiting;
  show.push_back(Vote("clinic-b"));
  const Json in_force = ExpectExit(0, show).json();
  EXPECT_EQ(in_force["version"], 1);
  ExpectExit(0, {"policy", "withdraw", "--agreement", in_force["agreement"], "--asset", "scans-a",
                 "--private-key", "clinic-a.pem", "-o", "withdrawal.json"});
  show.push_back("withdrawal.json");
  EXPECT_EQ(ExpectExit(0, show).json()["withdrawn"], Json({"scans-a"}));
  // By a stranger; a veto without the right to it, of what is in force.
  MakeKey("p256", "stranger");
  show.back() = Vote("stranger");
  EXPECT_THAT(ExpectExit(1, show).reasons(), Contains("signer-untrusted"));
  show.back() = Vote("vendor", "veto");
  EXPECT_THAT(ExpectExit(1, show).reasons(), Contains("policy-denied"));
}

TEST_F(PolicyCommandTest, TestsAnAgreementOnEvidence) {
  std::vector<std::string> test = {"policy",     "test",
                                   "lungs.yaml", "--json",
                                   "--evidence", "evidence.json",
                                   "--nonce",    "07" + std::string(62, '0'),
                                   "--stage",    "train",
                                   "--mode",     "measured",
                                   "--at",       "2027-01-15T08:00:00Z"};
  const Json allowed = ExpectExit(0, test).json();
  EXPECT_EQ(allowed["decision"]["allowed"], true) << allowed;
  test.back() = "2028-01-15T08:00:00Z";
  EXPECT_THAT(ExpectExit(1, test).reasons(), Contains("policy-denied"));
  test.back() = "2027-01-15T08:00:00Z";
  test[7] = "08" + std::string(62, '0');
  EXPECT_THAT(ExpectExit(1, test).reasons(), Contains("nonce-mismatch"));
  test[11] = "tee";
  EXPECT_THAT(ExpectExit(1, test).reasons(), Contains("policy-denied"));
  test[11] = "none";
  ExpectExit(2, test);
}

// What is decided, and in which words, shows in the diff of the golden file when it changes;
// PAVISE_WRITE_GOLDEN writes it anew.
TEST_F(PolicyCommandTest, DecidesAsTheGoldenFileSays) {
  const std::string agreement = Read("lungs.yaml");
  const std::string agreed_evidence = Read("evidence.json");
  const std::string rule = "    stages: [train]\n";
  ASSERT_NE(agreement.find(rule), agreement.npos);
  machine_.Boot("another image");
  const std::string other_evidence = evidence::ToJson(machine_.Evidence(Digest32{7})).value();
  struct Case {
    std::string_view title;
    std::string agreement;
    std::string evidence;
    std::string nonce = "07" + std::string(62, '0');
    std::string at = "2027-01-15T08:00:00Z";
    int exit_code = 1;
  };
  Case accepted{.title = "Everything as agreed",
                .agreement = agreement,
                .evidence = agreed_evidence,
                .exit_code = 0};
  Case rule_of_owner{.title = "clinic-b allows other modes and stages only",
                     .agreement = absl::StrReplaceAll(
                         agreement, {{rule, "    stages: [audit]\n    modes: [tee]\n"}}),
                     .evidence = agreed_evidence};
  Case expired{.title = "After the stage's last day",
               .agreement = agreement,
               .evidence = agreed_evidence,
               .at = "2028-01-15T08:00:00Z"};
  Case other_image{.title = "The machine booted another image",
                   .agreement = agreement,
                   .evidence = other_evidence};
  Case replayed{.title = "Evidence for another challenge",
                .agreement = agreement,
                .evidence = agreed_evidence,
                .nonce = "08" + std::string(62, '0')};
  std::string text;
  for (const Case& each : {accepted, rule_of_owner, expired, other_image, replayed}) {
    SCOPED_TRACE(each.title);
    Write("lungs.yaml", each.agreement);
    Write("evidence.json", each.evidence);
    const testing::CommandOutput output = ExpectExit(
        each.exit_code, {"policy", "test", "lungs.yaml", "--evidence", "evidence.json", "--nonce",
                         each.nonce, "--stage", "train", "--mode", "measured", "--at", each.at});
    StrAppend(&text, text.empty() ? "" : "\n", "# ", each.title, "\n", output.out, output.error);
  }
  // Keys and digests of files differ from run to run.
  text = std::regex_replace(text, std::regex("[0-9a-f]{16,}"), "<hex>");
  const std::string path = StrCat(PAVISE_SOURCE_DIR, "/pavise/policy/testing/golden/decisions.txt");
  if (getenv("PAVISE_WRITE_GOLDEN") != nullptr) std::ofstream(path) << text;
  EXPECT_EQ(text, crypto::testing::ReadText(path));
}

}  // namespace
}  // namespace pavise::cli
