#include "pavise/agent/run_verifier.h"

#include <functional>
#include <string>
#include <vector>

#include "pavise/agent/testing/example_run.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::agent {
namespace {

using ledger::EntryKind;
using ::testing::ElementsAre;
using testing::ExampleRun;
using ::testing::IsEmpty;

std::vector<Reason> Refused(ExampleRun& of, const ledger::LedgerBundle& bundle) {
  const auto statement =
      ProvenanceVerifier::Verify(of.Statement(), of.broker.public_key(), "provenance");
  EXPECT_TRUE(statement.ok()) << statement.status();
  const auto entries =
      ledger::BundleVerifier::Verify(bundle, {ledger::testing::LogKey(), {}, 0}, "bundle");
  EXPECT_TRUE(entries.ok()) << entries.status();
  const auto run = RunVerifier::Verify(*statement, of.proposal, *entries, "provenance");
  std::vector<Reason> reasons;
  for (const Refusal& refusal : RefusalsOf(run.status())) reasons.push_back(refusal.reason);
  EXPECT_EQ(run.ok(), reasons.empty()) << run.status();
  if (run.ok()) {
    EXPECT_EQ(**run, of.run);
  }
  return reasons;
}
std::vector<Reason> Refused(ExampleRun& of) { return Refused(of, of.Bundle()); }

TEST(RunVerifierTest, AcceptsARunThatAgreementAndLedgerBearOut) {
  ExampleRun run;
  EXPECT_THAT(Refused(run), IsEmpty());
  // What happens to other runs and afterwards is no matter of its.
  run.AddOfRun(EntryKind::kRunBegun).run->fill(0x66);
  run.entries.back().evidence = Digest32{1};
  run.AddOfRun(EntryKind::kRevocation).run->fill(0x66);
  run.entries.back().reasons = {{"policy-denied", "withdrawal", ""}};
  EXPECT_THAT(Refused(run), IsEmpty());
}

TEST(RunVerifierTest, RefusesWhatTheAgreementIsNot) {
  const std::pair<const char*, std::function<void(ExampleRun&)>> cases[] = {
      {"another text",
       [](ExampleRun& of) {
         of.agreement.name = "another";
         of.proposal = policy::testing::Proposed(of.agreement, "vendor");
       }},
      {"the same digest under another id",
       [](ExampleRun& of) {
         of.run.agreement = std::string(64, 'a');
         of.run.token = of.Token(of.run.agreement + "/1/train/measured");
       }},
      {"a vote",
       [](ExampleRun& of) {
         of.proposal = policy::testing::Signed(policy::kApprovalType,
                                               policy::testing::Payload(of.agreement), "vendor");
       }},
      {"purpose", [](ExampleRun& of) { of.run.purpose = "another"; }},
      {"command", [](ExampleRun& of) { of.run.command[0] = "/bin/sh"; }},
      {"an input's bytes", [](ExampleRun& of) { of.run.materials[3].statement[0] ^= 1; }},
      {"an input's kind", [](ExampleRun& of) { of.run.materials[0].kind = "code"; }},
  };
  for (const auto& [what, change] : cases) {
    ExampleRun run;
    change(run);
    EXPECT_THAT(Refused(run), ElementsAre(Reason::kBindingMismatch)) << what;
  }
  ExampleRun lacks;
  lacks.run.materials.pop_back();
  EXPECT_THAT(Refused(lacks), ElementsAre(Reason::kBindingMismatch, Reason::kTransparencyInvalid));
  ExampleRun twice;
  twice.run.materials.push_back(twice.run.materials[0]);
  EXPECT_THAT(Refused(twice), ElementsAre(Reason::kBindingMismatch));
  ExampleRun mode;
  mode.run.mode = "tee";
  mode.run.token = mode.Token(mode.run.agreement + "/1/train/tee");
  std::vector<Reason> reasons(1 + 4, Reason::kTransparencyInvalid);  // begin and releases
  reasons.insert(reasons.begin(), Reason::kBindingMismatch);
  EXPECT_EQ(Refused(mode), reasons);
}

TEST(RunVerifierTest, RefusesWhatTheLedgerSaysOtherwise) {
  const struct {
    const char* what;
    std::function<void(ExampleRun&)> change;
    std::vector<Reason> reasons;
  } cases[] = {
      {"another session began it",
       [](ExampleRun& of) { of.Entry(EntryKind::kRunBegun).session = std::string(64, 'a'); },
       {Reason::kTransparencyInvalid}},
      {"another session ended it",
       [](ExampleRun& of) { of.Entry(EntryKind::kRunEnded).session = std::string(64, 'a'); },
       {Reason::kTransparencyInvalid}},
      {"other evidence",
       [](ExampleRun& of) { of.run.evidence[0] ^= 1; },
       {Reason::kTransparencyInvalid}},
      {"another version's run",
       [](ExampleRun& of) { of.Entry(EntryKind::kRunBegun).version = 2; },
       {Reason::kTransparencyInvalid}},
      {"another sealed input",
       [](ExampleRun& of) { of.Entry(EntryKind::kRelease).sealed = Digest32{3}; },
       {Reason::kTransparencyInvalid}},
      {"another output",
       [](ExampleRun& of) { of.run.outputs["tuned"].sealed[0] ^= 1; },
       {Reason::kTransparencyInvalid}},
      {"an output more",
       [](ExampleRun& of) {
         const ledger::LedgerEntry deposit = of.Entry(EntryKind::kOutputDeposited);
         of.entries.insert(of.entries.end() - 1, deposit);
         of.entries.end()[-2].asset = "log";
         of.run.ledger_index += 1;
       },
       {Reason::kTransparencyInvalid}},
      {"a key to another session",
       [](ExampleRun& of) { of.Entry(EntryKind::kRelease).session = std::string(64, 'a'); },
       {Reason::kTransparencyInvalid}},
      {"a key for another mode",
       [](ExampleRun& of) { of.Entry(EntryKind::kRelease).mode = "tee"; },
       {Reason::kTransparencyInvalid}},
      {"a key more, of what the statement does not name",
       [](ExampleRun& of) {
         const ledger::LedgerEntry release = of.Entry(EntryKind::kRelease);
         of.entries.insert(of.entries.end() - 1, release);
         of.entries.end()[-2].asset = "more";
         of.run.ledger_index += 1;
       },
       {Reason::kTransparencyInvalid}},
      {"a key that moved after the end",
       [](ExampleRun& of) { of.entries.push_back(of.Entry(EntryKind::kRelease)); },
       {Reason::kTransparencyInvalid}},
      {"a key that moved before the begin",
       [](ExampleRun& of) {
         std::swap(of.Entry(EntryKind::kRelease), of.Entry(EntryKind::kRunBegun));
       },
       {Reason::kTransparencyInvalid}},
      {"another session's appraisal",
       [](ExampleRun& of) { of.Entry(EntryKind::kReattested).session = std::string(64, 'a'); },
       {Reason::kTransparencyInvalid}},
      {"another session's output",
       [](ExampleRun& of) { of.Entry(EntryKind::kOutputDeposited).session = std::string(64, 'a'); },
       {Reason::kTransparencyInvalid}},
      {"a command that failed",
       [](ExampleRun& of) {
         of.Entry(EntryKind::kRunEnded).reasons = {{"policy-denied", "command", "failed"}};
       },
       {Reason::kTransparencyInvalid}},
      {"a run that was stopped",
       [](ExampleRun& of) {
         of.AddOfRun(EntryKind::kRevocation).reasons = {{"policy-denied", "withdrawal", ""}};
       },
       {Reason::kRevoked}},
      {"another run", [](ExampleRun& of) { of.run.run = std::string(32, '6'); },
       std::vector<Reason>(2 + 4 + 1, Reason::kEvidenceMissing)},
      {"an end elsewhere",
       [](ExampleRun& of) { of.run.ledger_index -= 1; },
       {Reason::kEvidenceMissing}},
      {"a version that was never in force",
       [](ExampleRun& of) { of.Entry(EntryKind::kAgreementInForce).version = 2; },
       {Reason::kEvidenceMissing}},
  };
  for (const auto& [what, change, reasons] : cases) {
    ExampleRun run;
    change(run);
    EXPECT_EQ(Refused(run), reasons) << what;
  }
}

TEST(RunVerifierTest, RefusesABundleThatLacksEntries) {
  ExampleRun run;
  const ledger::LedgerBundle whole = run.Bundle();
  for (size_t lacking = 0; lacking < whole.entries.size(); ++lacking) {
    ledger::LedgerBundle bundle = whole;
    bundle.entries.erase(bundle.entries.begin() + static_cast<ptrdiff_t>(lacking));
    const std::vector<Reason> reasons = Refused(run, bundle);
    EXPECT_THAT(reasons, ::testing::Each(Reason::kEvidenceMissing)) << lacking;
    EXPECT_FALSE(reasons.empty()) << lacking;
  }
}

// The id is of version 1; a later one is known by the envelope that the ledger names.
TEST(RunVerifierTest, ALaterVersionIsTheOneThatWasProposed) {
  ExampleRun run;
  const std::string first = policy::testing::Payload(run.agreement);
  run.agreement = policy::testing::NextOf(first);
  run.proposal = policy::testing::Proposed(run.agreement, "vendor");
  run.run.version = 2;
  run.run.agreement_payload = policy::testing::DigestOf(policy::testing::Payload(run.agreement));
  run.run.token = run.Token(run.run.agreement + "/2/train/measured");
  for (ledger::LedgerEntry& entry : run.entries) entry.version = 2;
  EXPECT_THAT(Refused(run), ElementsAre(Reason::kEvidenceMissing));
  run.Entry(EntryKind::kAgreementProposed).statement = crypto::Sha256(run.proposal).value();
  EXPECT_THAT(Refused(run), IsEmpty());
}

// Whoever carries a statement could write below it.
TEST(ProvenanceVerifierTest, OneSignature) {
  ExampleRun run;
  crypto::Envelope envelope = run.Statement();
  ASSERT_TRUE(ProvenanceVerifier::Verify(envelope, run.broker.public_key(), "provenance").ok());
  envelope.signatures.push_back({std::string(64, 'a'), {1, 2, 3}});
  EXPECT_EQ(
      ReasonOf(
          ProvenanceVerifier::Verify(envelope, run.broker.public_key(), "provenance").status()),
      Reason::kMalformed);
}

TEST(ProvenanceParserTest, TimesAreTimes) {
  ExampleRun run;
  const std::string text = FormatProvenance(run.run).value();
  ASSERT_TRUE(ParseProvenance(AsBytes(text), "p").ok());
  size_t executed = 0;
  for (const char* time : {"infinite-future", "infinite-past", "2027-01-15T08:00:00+00:00", ""}) {
    std::string changed = text;
    const std::string began = "\"startedOn\":\"2027-01-15T08:00:00Z\"";
    ASSERT_NE(changed.find(began), changed.npos);
    changed.replace(changed.find(began), began.size(), StrCat("\"startedOn\":\"", time, "\""));
    EXPECT_EQ(ReasonOf(ParseProvenance(AsBytes(changed), "p").status()), Reason::kMalformed)
        << time;
    ++executed;
  }
  EXPECT_EQ(executed, 4u);
}

}  // namespace
}  // namespace pavise::agent
