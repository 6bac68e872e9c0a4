// `pavise ledger`: what owners check of a broker's ledger, as they do it.

#include "pavise/agent/testing/example_run.h"
#include "pavise/cli/testing/command.h"
#include "pavise/ledger/testing/example_log.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ledger::testing::CosignerKey;
using ledger::testing::ExampleHistory;
using ledger::testing::ExampleLog;
using ledger::testing::KeyOfSeed;
using ledger::testing::LogKey;
using ledger::testing::LogOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LedgerTest : public testing::CommandTest {
 protected:
  void SetUp() override {
    log_ = LogOf(ExampleHistory());
    Write("log.vkey", LogKey().Format() + "\n");
    Write("other.vkey", LogKey(2).Format() + "\n");
    WriteBundle("bundle.json", log_.BundleAt(17, {10}));
    WriteBundle("ten.json", log_.BundleAt(10));
    Write("five.txt", log_.CheckpointAt(5).Format());
  }
  void WriteBundle(const std::string& name, const ledger::LedgerBundle& bundle) const {
    Write(name, ledger::FormatBundle(bundle));
  }
  // `pavise ledger WORDS --log-key log.vkey --json`.
  testing::CommandOutput Ledger(int exit_code, std::vector<std::string> words) const {
    words.insert(words.begin(), "ledger");
    words.insert(words.end(), {"--log-key", "log.vkey", "--json"});
    return ExpectExit(exit_code, words);
  }

  ExampleLog log_;
};

TEST_F(LedgerTest, Verify) {
  const Json object = Ledger(0, {"verify", "bundle.json", "--complete"}).json();
  EXPECT_EQ(object["size"], 17);
  EXPECT_EQ(object["entries"].size(), 17u);
  EXPECT_EQ(object["entries"][6]["entry"]["kind"], "release");
  EXPECT_EQ(object["earlier"][0]["size"], 10);
  EXPECT_EQ(object["agreements"][0]["missing"], 0);
  EXPECT_EQ(Ledger(0, {"verify", "five.txt"}).json()["size"], 5);
  EXPECT_THAT(ExpectExit(0, {"ledger", "verify", "bundle.json", "--log-key", "log.vkey"}).out,
              HasSubstr("output-approval"));

  EXPECT_THAT(
      ExpectExit(1, {"ledger", "verify", "bundle.json", "--log-key", "other.vkey", "--json"})
          .reasons(),
      ElementsAre("signer-untrusted"));
  ledger::LedgerBundle changed = log_.BundleAt(17);
  changed.entries[6].text.replace(changed.entries[6].text.find("scans"), 5, "brain");
  WriteBundle("changed.json", changed);
  EXPECT_THAT(Ledger(1, {"verify", "changed.json"}).reasons(), ElementsAre("transparency-invalid"));
  changed = log_.BundleAt(17);
  changed.entries.erase(changed.entries.begin() + 6);
  WriteBundle("missing.json", changed);
  EXPECT_EQ(Ledger(0, {"verify", "missing.json"}).json()["agreements"][0]["missing"], 1);
  EXPECT_THAT(Ledger(1, {"verify", "missing.json", "--complete"}).reasons(),
              ElementsAre("transparency-invalid"));
  ExpectExit(2, {"ledger", "verify", "bundle.json"});
  ExpectExit(2, {"ledger"});
}

TEST_F(LedgerTest, ProvenanceIsOfARunThatTheLedgerShows) {
  agent::testing::ExampleRun run;
  const auto write = [&] {
    WriteBundle("run.json", run.Bundle());
    Write("provenance.json", crypto::FormatEnvelope(run.Statement()));
  };
  write();
  Write("agreement.json", std::string(AsText(run.proposal)));
  Write("broker.pub", run.broker.public_key().ToPem());
  Write("tuned.sealed", run.output);
  const std::vector<std::string> words = {
      "verify",      "run.json",       "--complete", "--provenance",      "provenance.json",
      "--agreement", "agreement.json", "--output",   "tuned=tuned.sealed"};
  const auto with = [&](const std::string& broker, std::vector<std::string> more = {}) {
    std::vector<std::string> all = words;
    all.insert(all.end(), {"--broker-key", broker});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const Json accepted = Ledger(0, with("broker.pub")).json()["provenance"];
  EXPECT_EQ(accepted["run"], run.run.run);
  EXPECT_EQ(accepted["agreement"], run.run.agreement);
  EXPECT_EQ(accepted["inputs"].size(), 4u);
  EXPECT_EQ(accepted["outputs"][0]["file_verified"], true);
  EXPECT_EQ(Ledger(0, {"verify", "run.json"}).json().contains("provenance"), false);

  // Another broker's key, another log's.
  Write("other.pub", run.session.public_key().ToPem());
  EXPECT_THAT(Ledger(1, with("other.pub")).reasons(), ElementsAre("key-mismatch"));
  std::vector<std::string> other_log = with("broker.pub", {"--log-key", "other.vkey", "--json"});
  other_log.insert(other_log.begin(), "ledger");
  EXPECT_THAT(ExpectExit(1, other_log).reasons(), ElementsAre("signer-untrusted"));
  // Each byte of the statement, but for those that base64 and JSON do not count.
  const std::string statement = Read("provenance.json");
  size_t refused = 0;
  for (size_t i = 0; i < statement.size(); i += 131) {
    FlipBit("provenance.json", i);
    Ledger(1, with("broker.pub"));
    FlipBit("provenance.json", i);
    ++refused;
  }
  EXPECT_GT(refused, 20u);
  // Another ledger, agreement or output.
  EXPECT_THAT(Ledger(1, with("broker.pub", {"--output", "more=tuned.sealed"})).reasons(),
              ElementsAre("binding-mismatch"));
  Write("tuned.sealed", run.output + "more");
  const testing::CommandOutput changed = Ledger(1, with("broker.pub"));
  EXPECT_THAT(changed.reasons(), ElementsAre("content-mismatch"));
  EXPECT_THAT(changed.out, HasSubstr("tuned.sealed"));
  Write("tuned.sealed", run.output);
  WriteBundle("run.json", log_.BundleAt(17));
  EXPECT_THAT(Ledger(1, {"verify", "run.json", "--provenance", "provenance.json", "--agreement",
                         "agreement.json", "--broker-key", "broker.pub"})
                  .reasons(),
              ::testing::Each("evidence-missing"));
  write();
  policy::Agreement another = run.agreement;
  another.name = "another";
  Write("agreement.json", std::string(AsText(policy::testing::Proposed(another, "vendor"))));
  EXPECT_THAT(Ledger(1, with("broker.pub")).reasons(), ElementsAre("binding-mismatch"));

  Ledger(2, {"verify", "run.json", "--provenance", "provenance.json"});
  Ledger(2, {"verify", "run.json", "--output", "tuned=tuned.sealed"});
}

TEST_F(LedgerTest, Cosigners) {
  ledger::LedgerBundle bundle = log_.BundleAt(17);
  crypto::PrivateKey key = KeyOfSeed(7);
  const auto verified =
      ledger::CheckpointVerifier::Verify(bundle.checkpoint, {LogKey(), {}, 0}, "checkpoint");
  bundle.checkpoint.signatures.push_back(
      *ledger::Cosign(*verified, "hospital.example", key, absl::FromUnixSeconds(1'800'000'000)));
  WriteBundle("cosigned.json", bundle);
  Write("hospital.vkey", CosignerKey(7, "hospital.example").Format());
  Write("witness.vkey", CosignerKey(8, "witness.example").Format());
  const Json object = Ledger(0, {"verify", "cosigned.json", "--cosigner", "hospital.vkey"}).json();
  EXPECT_EQ(object["cosignatures"][0]["name"], "hospital.example");
  EXPECT_EQ(object["cosignatures"][0]["time"], "2027-01-15T08:00:00Z");
  const std::vector<std::string> both = {"verify",        "cosigned.json", "--cosigner",
                                         "hospital.vkey", "--cosigner",    "witness.vkey"};
  EXPECT_THAT(Ledger(1, both).reasons(), ElementsAre("signer-untrusted"));
  std::vector<std::string> one = both;
  one.insert(one.end(), {"--cosigners-required", "1"});
  Ledger(0, one);
  one.back() = "3";
  Ledger(2, one);
}

TEST_F(LedgerTest, RememberedCheckpointsShowARollback) {
  Ledger(0, {"verify", "ten.json", "--remember", "seen.txt"});
  EXPECT_EQ(Read("seen.txt"), log_.CheckpointAt(10).Format());
  Ledger(0, {"verify", "ten.json", "--remember", "seen.txt"});
  Ledger(0, {"verify", "bundle.json", "--remember", "seen.txt"});
  EXPECT_EQ(Read("seen.txt"), log_.CheckpointAt(17).Format());
  // Back to ten entries; and nothing is forgotten by a refusal.
  EXPECT_THAT(Ledger(1, {"verify", "ten.json", "--remember", "seen.txt"}).reasons(),
              ElementsAre("version-too-old"));
  EXPECT_EQ(Read("seen.txt"), log_.CheckpointAt(17).Format());
  // Written anew.
  std::vector<ledger::LedgerEntry> entries = ExampleHistory();
  entries[6].machine = "tpm:another";
  WriteBundle("fork.json", LogOf(entries).BundleAt(17));
  EXPECT_THAT(Ledger(1, {"verify", "fork.json", "--remember", "seen.txt"}).reasons(),
              ElementsAre("transparency-invalid"));
}

TEST_F(LedgerTest, Prove) {
  Ledger(0, {"prove", "bundle.json", "--entry", "6", "-o", "release.json"});
  const Json object = Ledger(0, {"verify", "release.json"}).json();
  EXPECT_EQ(object["entries"].size(), 1u);
  EXPECT_EQ(object["entries"][0]["index"], 6);
  Ledger(2, {"prove", "bundle.json", "--entry", "17", "-o", "no.json"});
  EXPECT_FALSE(Exists("no.json"));
}

TEST_F(LedgerTest, WhoHad) {
  const Json object = Ledger(0, {"who-had", "scans", "bundle.json"}).json();
  ASSERT_EQ(object["entries"].size(), 1u);
  EXPECT_EQ(object["entries"][0]["entry"]["session"], std::string(64, '5'));
  EXPECT_EQ(object["entries"][0]["entry"]["machine"], "tpm:3b7a");
  const std::string text =
      ExpectExit(0, {"ledger", "who-had", "scans", "bundle.json", "--log-key", "log.vkey"}).out;
  EXPECT_THAT(text, HasSubstr("1 release, 0 refusals, 0 revocations"));
  EXPECT_THAT(text, HasSubstr("tpm:3b7a"));
  EXPECT_THAT(Ledger(0, {"who-had", "nothing", "bundle.json"}).json()["entries"],
              ::testing::IsEmpty());
}

TEST_F(LedgerTest, Compare) {
  Ledger(0, {"compare", "ten.json", "bundle.json"});
  Ledger(0, {"compare", "bundle.json", "ten.json"});
  EXPECT_THAT(Ledger(1, {"compare", "five.txt", "bundle.json"}).reasons(),
              ElementsAre("transparency-invalid"));
  WriteBundle("bridge.json", log_.BundleAt(17, {5}));
  Ledger(0, {"compare", "five.txt", "bundle.json", "--proof", "bridge.json"});

  std::vector<ledger::LedgerEntry> entries = ExampleHistory();
  entries[6].machine = "tpm:another";
  Write("fork.txt", LogOf(entries).CheckpointAt(17).Format());
  const testing::CommandOutput output =
      ExpectExit(1, {"ledger", "compare", "bundle.json", "fork.txt", "--log-key", "log.vkey"});
  EXPECT_THAT(output.error, HasSubstr("two roots"));
  EXPECT_THAT(output.error, HasSubstr("keep both files"));
}

}  // namespace
}  // namespace pavise::cli
