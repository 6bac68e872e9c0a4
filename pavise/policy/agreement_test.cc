#include "pavise/policy/agreement.h"

#include <string>
#include <utility>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/policy/owner_statement.h"
#include "pavise/policy/review.h"
#include "pavise/policy/testing/test_agreement.h"

#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::policy {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kTestTime;
using testing::Payload;
using testing::TestFiles;
using testing::TestMachine;
using testing::ThreeOwners;

const EvidenceRules kRules = {.policy = {1}, .files = {{"a.json", {2}}}, .anchors = {}};

std::optional<Reason> ReasonFor(const Json& json) {
  return ReasonOf(ParseAgreement(AsBytes(json.dump()), "agreement").status());
}

TEST(AgreementTest, ReadsWhatItWrites) {
  Agreement agreement = ThreeOwners(kRules);
  agreement.changes.vetoes = {"vendor"};
  agreement.changes.veto_period = absl::Hours(2);
  OwnerRule rule;
  rule.owner = "clinic-a";
  rule.assets = {"scans-a"};
  rule.stages = {"train"};
  rule.modes = {Mode::kMeasured, Mode::kTee};
  rule.purposes = {"lung nodule model"};
  rule.code = {Digest32{3}};
  rule.recipients = {"vendor"};
  rule.evidence = kRules;
  rule.not_after = kTestTime;
  rule.runs = 3;
  rule.forbid_network = true;
  agreement.rules["of-a"] = rule;
  Stage& train = agreement.stages["train"];
  train.network = {"example.org:443"};
  train.broker_grace = absl::Seconds(30);
  train.findings_to_host = true;
  train.outputs["tuned"].approvals = {"clinic-b"};
  const std::string payload = Payload(agreement);
  const auto read = ParseAgreement(AsBytes(payload), "agreement");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(Payload(*read), payload);
  EXPECT_EQ(read->rules.at("of-a"), rule);
  EXPECT_EQ(read->stages.at("train"), train);
  EXPECT_THAT(read->OwnersOf(read->stages.at("train")),
              ElementsAre("clinic-a", "clinic-b", "vendor"));
  EXPECT_THAT(read->OwnersOf(read->stages.at("train"), AssetKind::kData),
              ElementsAre("clinic-a", "clinic-b"));
}

TEST(AgreementTest, HasOneSpelling) {
  const std::string payload = Payload(ThreeOwners(kRules));
  for (const std::string& other :
       {payload + " ", " " + payload, Json::parse(payload).dump(1),
        absl::StrReplaceAll(payload, {{"\"runs\":2", "\"runs\":2.0"}}),
        absl::StrReplaceAll(payload, {{"[\"base\",\"scans-a\"", "[\"scans-a\",\"base\""}}),
        payload.substr(0, payload.size() - 1)}) {
    ASSERT_NE(other, payload);
    EXPECT_EQ(ReasonOf(ParseAgreement(AsBytes(other), "agreement").status()), Reason::kMalformed);
  }
}

TEST(AgreementTest, RefusesWhatDoesNotFitTogether) {
  const Json good = Json::parse(Payload(ThreeOwners(kRules)));
  ASSERT_EQ(ReasonFor(good), std::nullopt);
  struct Case {
    const char* pointer;
    Json value;
    Reason reason = Reason::kMalformed;
  };
  const std::vector<Case> cases = {
      {"/format", "pavise-agreement/2", Reason::kUnsupported},
      {"/surprise", 1},
      {"/version", 0},
      {"/version", 2},
      {"/previous", std::string(64, '0')},
      {"/name", ""},
      {"/name", "two\nlines"},
      {"/changes/approvals", 4},
      {"/changes/approvals", 0},
      {"/changes/of", Json::array()},
      {"/changes/of", {"vendor", "vendor"}},
      {"/changes/of/0", "stranger"},
      {"/changes/vetoes", {"vendor"}},
      {"/changes/veto_seconds", 7200},
      {"/stakeholders/vendor/signing_key", good["stakeholders"]["clinic-a"]["signing_key"]},
      {"/stakeholders/vendor/signing_key", "AAAA"},
      {"/stakeholders/vendor/name", "x"},
      {"/stakeholders/Vendor", good["stakeholders"]["vendor"]},
      {"/assets/base/kind", "weights"},
      {"/assets/base/owner", "stranger"},
      {"/assets/base/statement", std::string(63, '0')},
      {"/assets/base/statement", std::string(64, 'A')},
      {"/stages", Json::object()},
      {"/stages/train/code", "base"},
      {"/stages/train/inputs", {"trainer"}},
      {"/stages/train/inputs", {"nothing"}},
      {"/stages/train/inputs", Json::array()},
      {"/stages/train/modes", Json::object()},
      {"/stages/train/modes/untrusted", good["stages"]["train"]["modes"]["measured"]},
      {"/stages/train/command", Json::array()},
      {"/stages/train/outputs/tuned/recipients", {"stranger"}},
      {"/stages/train/outputs/tuned/approvals", Json::array()},
      {"/stages/train/limits/not_after", "2027-02-30T00:00:00Z"},
      {"/stages/train/limits/not_after", "2027-02-14T08:00:00+00:00"},
      {"/stages/train/limits/runs", 0},
      {"/stages/train/limits/runs", -1},
      {"/stages/train/network", {"example.org"}},
      {"/stages/train/network", {"example.org:0443"}},
      {"/stages/train/reattest_seconds", 1},
      {"/stages/train/reattest_seconds", 1000000},
      {"/stages/train/findings_to_host", "true"},
      {"/rules", Json::object()},
      {"/rules/r", {{"owner", "stranger"}}},
      {"/rules/r", {{"owner", "vendor"}, {"assets", {"scans-a"}}}},
      {"/rules/r", {{"owner", "vendor"}, {"recipients", {"stranger"}}}},
  };
  for (const Case& each : cases) {
    Json changed = good;
    changed[Json::json_pointer(each.pointer)] = each.value;
    EXPECT_EQ(ReasonFor(changed), each.reason) << each.pointer << " " << each.value;
  }
  for (const char* member : {"name", "version", "stakeholders", "changes", "assets", "stages"}) {
    Json changed = good;
    changed.erase(member);
    EXPECT_EQ(ReasonFor(changed), Reason::kMalformed) << member;
  }
  const crypto::PrivateKey large = crypto::PrivateKey::Generate(crypto::KeyType::kEcP521).value();
  Json unsupported = good;
  unsupported["stakeholders"]["vendor"]["encryption_key"] = ToBase64(large.public_key().der());
  EXPECT_EQ(ReasonFor(unsupported), Reason::kKeyUnsupported);
  Json many = good;
  for (int i = 0; i < 300; ++i) many["assets"][StrCat("a", i)] = good["assets"]["base"];
  EXPECT_EQ(ReasonFor(many), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(ParseAgreement(Bytes(kMaxAgreementBytes + 1, ' '), "agreement").status()),
            Reason::kLimitExceeded);
}

TEST(AgreementTest, HoldsTheCommandAgainstItsPattern) {
  const Stage stage = ThreeOwners(kRules).stages["train"];
  EXPECT_TRUE(CheckCommand(stage, {"/code/train", "--epochs", "3"}).ok());
  for (const std::vector<std::string>& other :
       std::vector<std::vector<std::string>>{{},
                                             {"/code/train", "--epochs"},
                                             {"/code/train", "--epochs", "3", "--upload"},
                                             {"/bin/sh", "--epochs", "3"}}) {
    EXPECT_EQ(ReasonOf(CheckCommand(stage, other)), Reason::kPolicyDenied);
  }
}

TEST(OwnerStatementTest, ReadWhatTheyWriteAndNothingElse) {
  const Approval approval = {.agreement = {1}, .version = 2, .payload = {3}, .time = kTestTime};
  const std::string text = Format(approval).value();
  EXPECT_EQ(Format(ParseApproval(AsBytes(text), "approval").value()).value(), text);
  const Withdrawal withdrawal = {
      .agreement = {1}, .assets = {"a", "b"}, .explanation = "why", .time = kTestTime};
  const std::string other = Format(withdrawal).value();
  EXPECT_EQ(Format(ParseWithdrawal(AsBytes(other), "withdrawal").value()).value(), other);
  EXPECT_EQ(ReasonOf(ParseApproval(AsBytes(other), "approval").status()), Reason::kUnsupported);
  for (const std::string& changed :
       {text + " ", absl::StrReplaceAll(text, {{"\"version\":2", "\"version\":\"2\""}}),
        absl::StrReplaceAll(text, {{"approve", "maybe"}}),
        absl::StrReplaceAll(text, {{"\"vote\"", "\"note\""}}), text.substr(1)}) {
    EXPECT_EQ(ReasonOf(ParseApproval(AsBytes(changed), "approval").status()), Reason::kMalformed)
        << changed;
  }
}

TEST(AgreementTest, SeedsOfTheFuzzTargetsAreWhatTheyAreCalled) {
  const auto seed = [](const char* name) {
    const std::string text =
        crypto::testing::ReadText(StrCat(PAVISE_SOURCE_DIR, "/fuzz/corpus/", name));
    EXPECT_FALSE(text.empty()) << name;
    return Bytes(text.begin(), text.end());
  };
  for (const char* name : {"agreement_fuzz/one", "agreement_fuzz/full"}) {
    const auto agreement = ParseAgreement(seed(name), name);
    EXPECT_TRUE(agreement.ok()) << agreement.status();
  }
  EXPECT_FALSE(ParseAgreement(seed("agreement_fuzz/spaced"), "spaced").ok());
  EXPECT_TRUE(ParseApproval(seed("owner_statement_fuzz/approval"), "seed").ok());
  EXPECT_TRUE(ParseWithdrawal(seed("owner_statement_fuzz/withdrawal"), "seed").ok());
  EXPECT_TRUE(ParseDeposit(seed("owner_statement_fuzz/deposit"), "seed").ok());
  EXPECT_TRUE(ParseOutputApproval(seed("owner_statement_fuzz/output-approval"), "seed").ok());
}

// The YAML form of the golden file, over the test's keys and machine.
struct YamlStory {
  YamlStory() {
    rules = machine.Rules(files, "hosts/policy");
    // Names in a policy are from the policy's own folder.
    std::string policy(AsText(files.Read("hosts/policy.json", 1 << 20).value()));
    files.Add("hosts/policy.json",
              absl::StrReplaceAll(policy, {{"hosts/policy-reference", "policy-reference"}}));
    for (const char* name : {"vendor", "clinic-a", "clinic-b"}) {
      files.Add(StrCat("keys/", name, ".pub"), testing::SigningKey(name).public_key().ToPem());
      files.Add(StrCat("keys/", name, "-enc.pub"),
                testing::EncryptionKey(name).public_key().ToPem());
    }
    yaml = crypto::testing::ReadText(
        StrCat(PAVISE_SOURCE_DIR, "/pavise/policy/testing/golden/lungs.yaml"));
    EXPECT_FALSE(yaml.empty());
  }
  absl::StatusOr<WrittenAgreement> Write(
      std::optional<std::string_view> previous = std::nullopt) const {
    return AgreementFromYaml(AsBytes(yaml), "lungs.yaml", files, previous);
  }
  absl::StatusOr<WrittenAgreement> With(const char* from, const std::string& to) {
    EXPECT_NE(yaml.find(from), yaml.npos) << from;
    const std::string changed = absl::StrReplaceAll(yaml, {{from, to}});
    return AgreementFromYaml(AsBytes(changed), "lungs.yaml", files, std::nullopt);
  }

  TestFiles files;
  TestMachine machine;
  EvidenceRules rules;
  std::string yaml;
};

TEST(AgreementYamlTest, PinsKeysAndFiles) {
  const YamlStory story;
  const auto written = story.Write();
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(written->payload, Payload(written->agreement));
  EXPECT_EQ(written->agreement.stakeholders.at("vendor").signing_key,
            testing::SigningKey("vendor").public_key());
  const EvidenceRules& rules = written->agreement.stages.at("train").modes.at(Mode::kMeasured);
  EXPECT_EQ(written->attachments.size(), 2u);
  EXPECT_TRUE(written->attachments.contains(rules.policy));
  EXPECT_TRUE(written->attachments.contains(rules.files.at("policy-reference.json")));
  const auto second = story.Write(written->payload);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->agreement.version, 2u);
  EXPECT_EQ(second->agreement.previous, testing::DigestOf(written->payload));
}

TEST(AgreementYamlTest, RefusesWhatReadsInTwoWays) {
  YamlStory story;
  struct Case {
    const char* from;
    std::string to;
    const char* says;
  };
  const std::vector<Case> cases = {
      {"runs: 3", "runs: \"3\"", "line 33, stages.train.limits.runs"},
      {"runs: 3", "runs: 03", "an integer"},
      {"runs: 3", "runs: 3\n      runs: 4", "twice"},
      {"forbid_network: true", "forbid_network: yes", "true or false"},
      {"forbid_network: true", "forbid_network: True", "true or false"},
      {"owner: vendor", "owner: &v vendor", "anchor"},
      {"code: trainer", "code: !!str trainer", "tag"},
      {"code: trainer", "code: base", "stages.train.code"},
      {"code: trainer", "code: ", "has no value"},
      {"approvals: 2", "approvals: 2\n  of_all: 3", "of_all"},
      {"keys/vendor.pub", "keys/none.pub", "keys/none.pub"},
      {"policy: hosts/policy.json", "policy: hosts/policy.json, references: x", "references"},
      {"name: Lung nodules", "name: Lung nodules\nprevious: x", "previous"},
      {"name: Lung nodules", "name: Lung nodules\nversion: 2", "version"},
      {"measured:", "tee:", "required"},
  };
  for (const Case& each : cases) {
    const auto refused = story.With(each.from, each.to);
    EXPECT_EQ(ExitCodeOf(refused.status()), 1) << each.to;
    EXPECT_THAT(refused.status().ToString(), HasSubstr(each.says)) << each.to;
  }
}

// Changes of the words or of what an agreement means show in the diff of the golden file;
// PAVISE_WRITE_GOLDEN writes it anew.
TEST(AgreementReviewTest, ExplainsAsTheGoldenFileSays) {
  const YamlStory story;
  const auto written = story.Write();
  ASSERT_TRUE(written.ok()) << written.status();
  std::string text = ExplainAgreement(written->agreement);
  // Keys and digests of files differ from run to run.
  for (const auto& [name, stakeholder] : written->agreement.stakeholders) {
    text = absl::StrReplaceAll(text, {{stakeholder.signing_key.Fingerprint().substr(0, 16),
                                       StrCat("<key of ", name, ">")}});
  }
  const Digest32& policy = written->agreement.stages.at("train").modes.at(Mode::kMeasured).policy;
  text = absl::StrReplaceAll(text, {{ToHex(policy).substr(0, 16), "<policy>"}});
  struct Attached final : AttachmentSource {
    explicit Attached(const WrittenAgreement& from) : written(from) {}
    absl::StatusOr<Bytes> Read(const Digest32& digest) const override {
      return written.attachments.at(digest);
    }
    const WrittenAgreement& written;
  };
  const auto warnings = LintAgreement(written->agreement, Attached(*written), kTestTime);
  ASSERT_TRUE(warnings.ok()) << warnings.status();
  StrAppend(&text, "\nWarnings\n");
  for (const Warning& warning : *warnings) {
    StrAppend(&text, "  ", warning.item, ": ", warning.detail, "\n");
  }
  const std::string path = StrCat(PAVISE_SOURCE_DIR, "/pavise/policy/testing/golden/lungs.txt");
  if (getenv("PAVISE_WRITE_GOLDEN") != nullptr) {
    FILE* file = fopen(path.c_str(), "w");
    ASSERT_NE(file, nullptr);
    fputs(text.c_str(), file);
    fclose(file);
  }
  EXPECT_EQ(text, crypto::testing::ReadText(path));
}

std::vector<std::string> Warnings(const Agreement& agreement, const TestFiles& files,
                                  absl::Time at = kTestTime) {
  std::vector<std::string> lines;
  const auto warnings = LintAgreement(agreement, files, at);
  EXPECT_TRUE(warnings.ok()) << warnings.status();
  if (!warnings.ok()) return lines;
  for (const Warning& warning : *warnings) {
    lines.push_back(StrCat(warning.item, ": ", warning.detail));
  }
  return lines;
}

TEST(AgreementReviewTest, WarnsOfWhatSurprises) {
  TestFiles files;
  const TestMachine machine;
  const Agreement good = ThreeOwners(machine.Rules(files));
  const std::vector<std::string> usual = Warnings(good, files);
  const auto more = [&](const std::function<void(Agreement&)>& alter) {
    Agreement changed = good;
    alter(changed);
    std::vector<std::string> lines = Warnings(changed, files);
    std::erase_if(lines, [&](const std::string& line) {
      return std::find(usual.begin(), usual.end(), line) != usual.end();
    });
    return absl::StrJoin(lines, "\n");
  };
  EXPECT_THAT(usual, Contains(HasSubstr("others can replace its keys, and put its assets")));
  EXPECT_THAT(more([](Agreement& agreement) { agreement.stages["train"].inputs.erase("base"); }),
              HasSubstr("asset base: no stage uses it"));
  EXPECT_THAT(more([](Agreement& agreement) {
                agreement.stakeholders.emplace("guest", testing::StakeholderOf("guest"));
              }),
              HasSubstr("stakeholder guest: owns nothing"));
  const auto with_rule = [](const std::function<void(OwnerRule&)>& alter) {
    return [alter](Agreement& agreement) {
      OwnerRule rule;
      rule.owner = "clinic-b";
      alter(rule);
      agreement.rules["r"] = rule;
    };
  };
  EXPECT_THAT(more(with_rule([](OwnerRule&) {})),
              HasSubstr("rule r: is unused: it narrows nothing"));
  EXPECT_THAT(more(with_rule([](OwnerRule& rule) { rule.modes = {Mode::kTee}; })),
              HasSubstr("stage train: nobody can run it (measured: rule r of clinic-b does not "
                        "allow the mode)"));
  EXPECT_THAT(more(with_rule([](OwnerRule& rule) {
                rule.stages = {"train", "gone"};
              })),
              HasSubstr("rule r: names the stage gone"));
  EXPECT_THAT(more(with_rule([&](OwnerRule& rule) {
                rule.evidence = good.stages.at("train").modes.at(Mode::kMeasured);
              })),
              HasSubstr("changes nothing there"));
  EXPECT_THAT(more([](Agreement& agreement) { agreement.changes.approvals = 3; }), IsEmpty());
  EXPECT_THAT(absl::StrJoin(Warnings(good, files, kTestTime + absl::Hours(24 * 365)), "\n"),
              HasSubstr("stage train: nobody can run it: it ended"));
  // Shadowed reference values: the same twice under two names.
  TestFiles shadowed = files;
  std::string policy(AsText(files.Read("policy.json", 1 << 20).value()));
  shadowed.Add("twice.json",
               absl::StrReplaceAll(policy, {{"[\"policy-reference.json\"]",
                                             "[\"policy-reference.json\",\"b.json\"]"}}));
  shadowed.Add("b.json", AsText(files.Read("policy-reference.json", 1 << 20).value()));
  Agreement twice = good;
  EvidenceRules& rules = twice.stages["train"].modes[Mode::kMeasured];
  rules.policy = shadowed.DigestOf("twice.json");
  rules.files["b.json"] = shadowed.DigestOf("b.json");
  EXPECT_THAT(absl::StrJoin(Warnings(twice, shadowed), "\n"),
              HasSubstr("the reference values in b.json are shadowed"));
}

}  // namespace
}  // namespace pavise::policy
