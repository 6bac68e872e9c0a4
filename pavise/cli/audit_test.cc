// `pavise audit`: pavise-train, on noise for images.
#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

using AuditTest = testing::CommandTest;

TEST_F(AuditTest, ReportsEveryAttackForPeopleAndForMachines) {
  const testing::CommandOutput people =
      ExpectExit(0, {"audit", "--scheme", "tempo", "--batch-size", "8", "--assume-base", "1",
                     "--threads", "1", "--report-json", "report.json"});
  EXPECT_THAT(people.out,
              AllOf(HasSubstr("OK: tempo, training"), HasSubstr("scale ratio"),
                    HasSubstr("broken as stated"), HasSubstr("held"), HasSubstr("Not run:"),
                    HasSubstr("layers.2.weight"), HasSubstr("synthetic noise")));
  EXPECT_THAT(people.out, Not(HasSubstr("BEYOND")));
  const Json report = Json::parse(Read("report.json"));
  EXPECT_EQ(report.at("scheme"), "tempo");
  EXPECT_EQ(report.at("beyond_profile"), false);
  EXPECT_EQ(report.at("attacks").size(), 23u);
  for (const Json& attack : report.at("attacks")) {
    if (attack.at("attack") != "scale ratio") continue;
    EXPECT_EQ(attack.at("verdict"), "broken as stated");
    EXPECT_EQ(attack.at("share"), 1.0);
    EXPECT_EQ(attack.at("chance"), 0.0);
  }
  // The same options give the same report.
  const Json machine = ExpectExit(0, {"--json", "audit", "--scheme", "tempo", "--batch-size", "8",
                                      "--assume-base", "1", "--threads", "1"})
                           .json();
  EXPECT_EQ(machine.at("attacks"), report.at("attacks"));
}

TEST_F(AuditTest, WhatCannotBeAuditedIsRefused) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{},
        {"--scheme", "rot13"},
        {"--scheme", "tempo", "--base", "a", "--assume-base", "1"},
        {"--scheme", "tempo", "--assume-base", "0"},
        {"--scheme", "tempo", "--assume-base", "much"},
        {"--scheme", "tempo", "--steps", "0"},
        {"--scheme", "tempo", "--batch-size", "1"},
        {"--scheme", "tempo", "--learning-rate", "-1"},
        {"--scheme", "tempo", "--convolutions", "winograd"},
        {"--scheme", "tempo", "--network", "mpl"}}) {
    std::vector<std::string> all = {"--json", "audit"};
    all.insert(all.end(), words.begin(), words.end());
    EXPECT_THAT(ExpectExit(2, all).reasons(), ElementsAre("usage"));
  }
  Write("short.safetensors", "abc");
  EXPECT_THAT(
      ExpectExit(1, {"--json", "audit", "--scheme", "tempo", "--model", "short.safetensors"})
          .reasons(),
      ElementsAre("malformed"));
  MakeModel();
  const auto other =
      ExpectExit(1, {"--json", "audit", "--scheme", "tempo", "--base", "model/model.safetensors"});
  EXPECT_THAT(other.reasons(), ElementsAre("malformed"));
  EXPECT_THAT(other.out, HasSubstr("layers."));
}

}  // namespace
}  // namespace pavise::cli
