#include "pavise/policy/decision.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/dsse.h"
#include "pavise/policy/testing/test_agreement.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::policy {
namespace {

using ::testing::Contains;
using testing::Deposited;
using ::testing::ElementsAre;
using testing::InForceHistory;
using ::testing::IsEmpty;
using testing::kTestTime;
using testing::NextOf;
using testing::Payload;
using testing::Proposed;
using testing::TestFiles;
using testing::TestMachine;
using testing::ThreeOwners;
using testing::Voted;
using testing::Withdrawn;

constexpr std::string_view kBroker =
    "00000000000000000000000000000000000000000000000000000000000000b0";

// The agreed machine, the agreement, and the appraisal of what the machine sent.
struct Story {
  explicit Story(const std::function<void(Agreement&, Story&)>& alter = [](Agreement&, Story&) {})
      : agreement(ThreeOwners(machine.Rules(files))) {
    alter(agreement, *this);
    history = std::make_unique<AgreementHistory>(InForceHistory(agreement));
  }

  AgreementInForce InForce() const { return *history->InForce(); }
  StageAppraisal Appraise(const std::string& stage = "train", Mode mode = Mode::kMeasured) const {
    return AppraiseOf(machine, stage, mode);
  }
  StageAppraisal AppraiseOf(const TestMachine& sender, const std::string& stage = "train",
                            Mode mode = Mode::kMeasured) const {
    return StageEvidence::Prepare(InForce(), stage, mode, files)
        .value()
        .Appraise(sender.Evidence(nonce), nonce, kTestTime);
  }
  VerifiedDeposit Deposit(const std::string& asset, const std::string& owner) const {
    return DepositVerifier::Verify(Deposited(*history, asset, owner, kBroker), InForce(), kBroker)
        .value();
  }
  std::vector<std::string> Refused(const Decision& decision) const {
    std::vector<std::string> refused;
    for (const RuleResult& rule : decision.rules) {
      if (!rule.refusal.has_value()) continue;
      refused.push_back(StrCat(rule.owner, "|", rule.rule, "|", ReasonName(rule.refusal->reason)));
    }
    EXPECT_EQ(refused.empty(), decision.allowed());
    EXPECT_EQ(decision.Verdict().ok(), decision.allowed());
    return refused;
  }
  std::vector<std::string> Run(const StageAppraisal& appraisal, const RunCounters& counters = {},
                               absl::Time now = kTestTime) const {
    return Refused(DecideRun(InForce(), appraisal, counters, now));
  }

  TestFiles files;
  TestMachine machine;
  Digest32 nonce{9};
  Agreement agreement;
  std::unique_ptr<AgreementHistory> history;
};

TEST(DecisionTest, ReleasesWhereEveryOwnerAgrees) {
  const Story story;
  const StageAppraisal appraisal = story.Appraise();
  EXPECT_TRUE(appraisal->accepted()) << appraisal->appraisals[0].appraisal.status;
  EXPECT_NE(appraisal->composite(), nullptr);
  EXPECT_EQ(appraisal->scope.PolicyId(), StrCat(story.history->IdHex(), "/1/train/measured"));
  const VerifiedDeposit deposit = story.Deposit("scans-a", "clinic-a");
  const Decision decision =
      DecideKeyRelease(story.InForce(), appraisal, "scans-a", &deposit, {}, kTestTime);
  EXPECT_THAT(story.Refused(decision), IsEmpty());
  const OrderedJson json = decision.ToJson();
  EXPECT_EQ(json["allowed"], true);
  EXPECT_EQ(json["rules"].size(), decision.rules.size());
}

TEST(DecisionTest, ReleasesNoKeyWithoutItsDeposit) {
  const Story story;
  const StageAppraisal appraisal = story.Appraise();
  const VerifiedDeposit deposit = story.Deposit("scans-a", "clinic-a");
  const auto refused = [&](const char* asset, const VerifiedDeposit* given) {
    return story.Refused(DecideKeyRelease(story.InForce(), appraisal, asset, given, {}, kTestTime));
  };
  EXPECT_THAT(refused("scans-a", nullptr), ElementsAre("clinic-a|deposit|file-missing"));
  EXPECT_THAT(refused("scans-b", &deposit),
              ElementsAre("clinic-b|deposit is of the sealed asset|binding-mismatch",
                          "clinic-b|deposit is the owner's|signer-untrusted"));
  EXPECT_THAT(refused("nothing", &deposit), ElementsAre("|asset of the stage|policy-denied"));
  // Of another stage of the same agreement.
  const StageAppraisal audit = story.Appraise("audit");
  const VerifiedDeposit other = story.Deposit("scans-b", "clinic-b");
  EXPECT_THAT(
      story.Refused(DecideKeyRelease(story.InForce(), audit, "scans-b", &other, {}, kTestTime)),
      ElementsAre("|asset of the stage|policy-denied"));
}

TEST(DecisionTest, RefusesAppraisalsForAnotherAgreementOrVersion) {
  Story story;
  const Story elsewhere([](Agreement& agreement, Story&) { agreement.name = "another"; });
  EXPECT_THAT(story.Run(elsewhere.Appraise()), Contains("|agreement|binding-mismatch"));
  const StageAppraisal before = story.Appraise();
  Agreement next = NextOf(Payload(story.agreement));
  next.stages["train"].limits.runs = 5;
  ASSERT_TRUE(story.history->Append(Proposed(next, "vendor"), kTestTime).ok());
  for (const char* name : {"vendor", "clinic-a"}) {
    ASSERT_TRUE(
        story.history->Append(Voted(*story.history, next, name, kTestTime), kTestTime).ok());
  }
  EXPECT_THAT(story.Run(before), ElementsAre("|version|version-too-old"));
  EXPECT_THAT(story.Run(story.Appraise()), IsEmpty());
}

TEST(DecisionTest, RefusesOtherMachinesStagesAndModes) {
  Story story;
  const TestMachine other("a changed image");
  const StageAppraisal refused = story.AppraiseOf(other);
  EXPECT_FALSE(refused->accepted());
  EXPECT_EQ(refused->composite(), nullptr);
  EXPECT_THAT(story.Run(refused),
              ElementsAre("clinic-a, clinic-b, vendor|evidence: stage train, measured|"
                          "binding-mismatch"));
  story.machine.Boot("a changed image");
  EXPECT_THAT(story.Run(story.Appraise()),
              Contains("clinic-a, clinic-b, vendor|evidence: stage train, measured|"
                       "measurement-mismatch"));
  story.machine.Boot("the agreed image");
  EXPECT_EQ(
      ReasonOf(StageEvidence::Prepare(story.InForce(), "train", Mode::kTee, story.files).status()),
      Reason::kPolicyDenied);
  EXPECT_EQ(
      ReasonOf(
          StageEvidence::Prepare(story.InForce(), "infer", Mode::kMeasured, story.files).status()),
      Reason::kPolicyDenied);
  // Another challenge.
  const StageAppraisal replayed =
      StageEvidence::Prepare(story.InForce(), "train", Mode::kMeasured, story.files)
          .value()
          .Appraise(story.machine.Evidence(Digest32{1}), story.nonce, kTestTime);
  EXPECT_THAT(story.Run(replayed), Contains("clinic-a, clinic-b, vendor|evidence: stage train, "
                                            "measured|nonce-mismatch"));
}

TEST(DecisionTest, HoldsEveryOwnersOwnEvidenceRules) {
  // clinic-b accepts another machine only, everybody else the first.
  const Story story([](Agreement& agreement, Story& self) {
    const TestMachine other("another image");
    OwnerRule rule;
    rule.owner = "clinic-b";
    rule.evidence = other.Rules(self.files, "of-b");
    agreement.rules["our-hosts"] = rule;
    OwnerRule same;
    same.owner = "clinic-a";
    same.evidence = agreement.stages["train"].modes[Mode::kMeasured];
    agreement.rules["same"] = same;
  });
  const StageAppraisal appraisal = story.Appraise();
  ASSERT_EQ(appraisal->appraisals.size(), 2u);  // equal rules once
  EXPECT_FALSE(appraisal->accepted());
  const std::vector<std::string> why = story.Run(appraisal);
  EXPECT_THAT(why, Contains("clinic-b|evidence: rule our-hosts|binding-mismatch"));
  for (const std::string& line : why) EXPECT_TRUE(line.starts_with("clinic-b|")) << line;
  // The stage without clinic-b's data does not ask.
  EXPECT_THAT(story.Run(story.Appraise("audit")), IsEmpty());
}

TEST(DecisionTest, KeepsLimits) {
  const Story story;
  const StageAppraisal appraisal = story.Appraise();
  EXPECT_THAT(story.Run(appraisal, {.runs_begun = 1}), IsEmpty());
  EXPECT_THAT(story.Run(appraisal, {.runs_begun = 2}),
              ElementsAre("|stage train: runs|policy-denied"));
  // A run that has begun is not counted again.
  const RunCounters open = {.runs_begun = 2, .run_is_open = true, .epochs_reported = 10};
  EXPECT_THAT(story.Run(appraisal, open), IsEmpty());
  EXPECT_THAT(story.Refused(DecideReattestation(story.InForce(), appraisal, open, kTestTime)),
              IsEmpty());
  EXPECT_THAT(story.Refused(DecideReattestation(
                  story.InForce(), appraisal,
                  {.runs_begun = 2, .run_is_open = true, .epochs_reported = 11}, kTestTime)),
              ElementsAre("|stage train: epochs|policy-denied"));
  // The appraisal's age, and a clock that went back.
  EXPECT_THAT(story.Run(appraisal, {}, kTestTime + absl::Minutes(5)), IsEmpty());
  for (const absl::Duration off : {absl::Minutes(5) + absl::Seconds(1), absl::Seconds(-1)}) {
    EXPECT_THAT(story.Run(appraisal, {}, kTestTime + off),
                ElementsAre("|the machine's appraisal is recent|policy-denied"));
  }
  EXPECT_THAT(story.Run(appraisal, {}, kTestTime + absl::Hours(24 * 31)),
              Contains("|stage train: not after|policy-denied"));
}

TEST(DecisionTest, StopsWhereAnOwnerWithdraws) {
  Story story;
  const StageAppraisal train = story.Appraise();
  const StageAppraisal audit = story.Appraise("audit");
  ASSERT_TRUE(
      story.history
          ->Append(Withdrawn(*story.history, {"scans-b"}, "clinic-b", kTestTime + absl::Seconds(1)),
                   kTestTime + absl::Seconds(1))
          .ok());
  EXPECT_THAT(story.Run(train, {.runs_begun = 1, .run_is_open = true}, kTestTime),
              ElementsAre("clinic-b|consent to the use of scans-b|policy-denied"));
  EXPECT_THAT(story.Run(audit), IsEmpty());
}

TEST(DecisionTest, OwnersRulesNarrow) {
  struct Case {
    const char* what;
    std::function<void(OwnerRule&)> narrow;
    bool holds;
  };
  const Digest32 code = testing::DigestOf("statement of trainer");
  const std::vector<Case> cases = {
      {"stages", [](OwnerRule& rule) { rule.stages = {"train"}; }, true},
      {"stages", [](OwnerRule& rule) { rule.stages = {"audit"}; }, false},
      {"modes", [](OwnerRule& rule) { rule.modes = {Mode::kMeasured}; }, true},
      {"modes", [](OwnerRule& rule) { rule.modes = {Mode::kTee}; }, false},
      {"purposes", [](OwnerRule& rule) { rule.purposes = {"lung nodule model"}; }, true},
      {"purposes", [](OwnerRule& rule) { rule.purposes = {"anything"}; }, false},
      {"code", [&](OwnerRule& rule) { rule.code = {code}; }, true},
      {"code", [](OwnerRule& rule) { rule.code = {Digest32{}}; }, false},
      {"recipients", [](OwnerRule& rule) { rule.recipients = {"vendor"}; }, true},
      {"recipients", [](OwnerRule& rule) { rule.recipients = {"clinic-b"}; }, false},
      {"not after", [](OwnerRule& rule) { rule.not_after = kTestTime; }, true},
      {"not after", [](OwnerRule& rule) { rule.not_after = kTestTime - absl::Seconds(1); }, false},
      {"runs", [](OwnerRule& rule) { rule.runs = 2; }, true},
      {"runs", [](OwnerRule& rule) { rule.runs = 1; }, false},
      {"no network", [](OwnerRule& rule) { rule.forbid_network = true; }, true},
  };
  for (const Case& each : cases) {
    const Story story([&](Agreement& agreement, Story&) {
      OwnerRule rule;
      rule.owner = "clinic-b";
      each.narrow(rule);
      agreement.rules["of-b"] = rule;
    });
    const std::vector<std::string> refused = story.Run(story.Appraise(), {.runs_begun = 1});
    if (each.holds) {
      EXPECT_THAT(refused, IsEmpty()) << each.what;
    } else {
      EXPECT_THAT(refused,
                  ElementsAre(StrCat("clinic-b|rule of-b: ", each.what, "|policy-denied")));
    }
  }
  const Story networked([](Agreement& agreement, Story&) {
    agreement.stages["train"].network = {"example.org:443"};
    OwnerRule rule;
    rule.owner = "clinic-b";
    rule.forbid_network = true;
    agreement.rules["of-b"] = rule;
  });
  EXPECT_THAT(networked.Run(networked.Appraise()),
              ElementsAre("clinic-b|rule of-b: no network|policy-denied"));
}

// What an owner allows is what it allows in all: else whoever adds a stage adds as many runs.
TEST(DecisionTest, AnOwnersRunsAreThoseOfAllStagesThatUseItsAssets) {
  const auto refused = [](const std::string& owner, std::set<std::string> assets,
                          const RunCounters& counters) {
    const Story story([&](Agreement& agreement, Story&) {
      OwnerRule rule;
      rule.owner = owner;
      rule.assets = std::move(assets);
      rule.runs = 3;
      agreement.rules["three"] = rule;
      agreement.stages["train"].limits.runs = 100;
    });
    return story.Run(story.Appraise(), counters);
  };
  // "audit" uses scans-a and the trainer, and neither scans-b nor the base.
  const RunCounters counters = {.runs_begun = 1, .of_stages = {{"train", 1}, {"audit", 2}}};
  EXPECT_THAT(refused("clinic-a", {}, counters),
              ElementsAre("clinic-a|rule three: runs|policy-denied"));
  EXPECT_THAT(refused("vendor", {"trainer"}, counters),
              ElementsAre("vendor|rule three: runs|policy-denied"));
  EXPECT_THAT(refused("vendor", {"base"}, counters), IsEmpty());
  EXPECT_THAT(refused("clinic-b", {}, counters), IsEmpty());
  EXPECT_THAT(refused("clinic-a", {}, {.runs_begun = 1, .of_stages = {{"train", 1}}}), IsEmpty());
  // A run that has begun goes on.
  RunCounters open = counters;
  open.run_is_open = true;
  EXPECT_THAT(refused("clinic-a", {}, open), IsEmpty());
}

struct OutputStory : Story {
  using Story::Story;
  VerifiedOutputApproval Approve(
      const std::string& name, absl::Time at = kTestTime, bool approved = true,
      const std::function<void(OutputApproval&)>& alter = [](OutputApproval&) {}) const {
    OutputApproval approval = {.agreement = history->id(),
                               .run = "run-1",
                               .output = "tuned",
                               .sealed = Digest32{5},
                               .recipients = {"vendor"},
                               .approved = approved,
                               .time = at};
    alter(approval);
    return OutputApprovalVerifier::Verify(
               testing::Signed(kOutputApprovalType, Format(approval).value(), name), InForce())
        .value();
  }
  std::vector<std::string> Release(const std::vector<VerifiedOutputApproval>& approvals,
                                   const std::string& recipient = "vendor") const {
    return Refused(DecideOutputRelease(InForce(), output, recipient, approvals, kTestTime));
  }

  OutputOfRun output = {.run = "run-1",
                        .first_version = 1,
                        .version = 1,
                        .stage = "train",
                        .mode = Mode::kMeasured,
                        .output = "tuned",
                        .sealed = Digest32{5}};
};

TEST(DecisionTest, OutputsNeedEveryDataOwner) {
  const OutputStory story;
  const auto a = story.Approve("clinic-a");
  const auto b = story.Approve("clinic-b");
  EXPECT_THAT(story.Release({a, b}), IsEmpty());
  EXPECT_THAT(story.Release({a}), ElementsAre("clinic-b|approval of the output|policy-denied"));
  EXPECT_THAT(story.Release({b, story.Approve("vendor")}),
              ElementsAre("clinic-a|approval of the output|policy-denied"));
  EXPECT_THAT(story.Release({a, b}, "clinic-a"), Contains("|version 1: recipient|policy-denied"));
  // The latest word counts; an approval of another run, output, file or recipient does not.
  const auto no = story.Approve("clinic-b", kTestTime + absl::Seconds(1), false);
  EXPECT_THAT(story.Release({a, no, b}),
              ElementsAre("clinic-b|approval of the output|policy-denied"));
  EXPECT_THAT(story.Release({a, no, story.Approve("clinic-b", kTestTime + absl::Seconds(2))}),
              IsEmpty());
  const std::vector<std::function<void(OutputApproval&)>> others = {
      [](OutputApproval& each) { each.run = "run-2"; },
      [](OutputApproval& each) { each.output = "report"; },
      [](OutputApproval& each) { each.sealed[0] ^= 1; },
      [](OutputApproval& each) { each.recipients = {"clinic-a"}; },
  };
  for (const auto& alter : others) {
    EXPECT_THAT(story.Release({a, story.Approve("clinic-b", kTestTime, true, alter)}),
                ElementsAre("clinic-b|approval of the output|policy-denied"));
  }
  OutputStory unknown;
  unknown.output.version = 2;
  EXPECT_THAT(unknown.Release({a, b}), ElementsAre("|versions of the run|policy-denied"));
}

TEST(DecisionTest, OutputsHeedRulesWithdrawalAndLaterVersions) {
  const OutputStory narrow([](Agreement& agreement, Story&) {
    OwnerRule rule;
    rule.owner = "clinic-b";
    rule.recipients = {"clinic-b"};
    agreement.rules["home"] = rule;
  });
  EXPECT_THAT(narrow.Release({narrow.Approve("clinic-a"), narrow.Approve("clinic-b")}),
              ElementsAre("clinic-b|version 1: rule home: recipients|policy-denied"));
  OutputStory later;
  const auto a = later.Approve("clinic-a");
  const auto b = later.Approve("clinic-b");
  Agreement next = NextOf(Payload(later.agreement));
  next.stages["train"].outputs["tuned"] = {.recipients = {"clinic-a"}, .approvals = {"vendor"}};
  ASSERT_TRUE(later.history->Append(Proposed(next, "vendor"), kTestTime).ok());
  for (const char* name : {"vendor", "clinic-a"}) {
    ASSERT_TRUE(
        later.history->Append(Voted(*later.history, next, name, kTestTime), kTestTime).ok());
  }
  EXPECT_THAT(later.Release({a, b}), ElementsAre("|version 2: recipient|policy-denied",
                                                 "vendor|approval of the output|policy-denied"));
  OutputStory withdrawn;
  ASSERT_TRUE(withdrawn.history
                  ->Append(Withdrawn(*withdrawn.history, {"scans-a"}, "clinic-a",
                                     kTestTime + absl::Seconds(1)),
                           kTestTime + absl::Seconds(1))
                  .ok());
  EXPECT_THAT(withdrawn.Release({withdrawn.Approve("clinic-a"), withdrawn.Approve("clinic-b")}),
              ElementsAre("clinic-a|consent to the use of scans-a|policy-denied"));
}

}  // namespace
}  // namespace pavise::policy
