// What owners do at a broker, from a proposal to an output, by the command line alone: `pavise
// broker serve` on a loopback port, SQLite, three owners. Machines are played by the test.

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pavise/agent/kbs_broker.h"
#include "pavise/base/strings.h"
#include "pavise/cli/testing/broker_process.h"
#include "pavise/cli/testing/command.h"
#include "pavise/evidence/appraise/composite/composite_evidence.h"
#include "pavise/evidence/testing/swtpm.h"
#include "pavise/policy/testing/test_agreement.h"
#include "pavise/vault/sealed_asset.h"

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using testing::BrokerProcess;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

using Words = std::vector<std::string>;

Words operator+(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

class OwnerTest : public testing::CommandTest {
 protected:
  void SetUp() override {
    for (const char* name : {"vendor", "clinic-a", "clinic-b", "stranger"}) {
      for (const char* use : {"", "-enc"}) {
        MakeKey("p256", StrCat(name, use));
        Write(StrCat("keys/", name, use, ".pub"), Read(StrCat(name, use, ".pub")));
      }
    }
    policy::testing::TestFiles files;
    (void)machine_.Rules(files);
    for (const char* name : {"policy.json", "policy-reference.json"}) {
      Write(StrCat("hosts/", name), std::string(AsText(files.Read(name, 1 << 20).value())));
    }
    std::string text = crypto::testing::ReadText(
        StrCat(PAVISE_SOURCE_DIR, "/pavise/policy/testing/golden/lungs.yaml"));
    const std::vector<std::pair<std::string, char>> places = {
        {"trainer", '2'}, {"base", '4'}, {"scans-a", '6'}, {"scans-b", '8'}};
    for (const auto& [asset, digit] : places) {
      Write(StrCat(asset, "/content"), StrCat("what is in ", asset));
      const Json sealed = ExpectExit(0, {"seal", asset, "-o", asset + ".sealed", "--recipient",
                                         StrCat("keys/", OwnerOf(asset), "-enc.pub"), "--json"})
                              .json();
      text = absl::StrReplaceAll(text,
                                 {{std::string(64, digit), sealed["asset_id"].get<std::string>()}});
    }
    Write("lungs.yaml", absl::StrReplaceAll(text, {{"2027-12-31", "2099-12-31"}}));
  }

  static std::string OwnerOf(const std::string& asset) {
    return asset == "scans-a" ? "clinic-a" : asset == "scans-b" ? "clinic-b" : "vendor";
  }

  void StartBroker(const Json& more = Json::object()) {
    Json configuration = {{"pavise_broker", 1},          {"name", "broker.example/ledger"},
                          {"listen", "127.0.0.1:0"},     {"metrics", ""},
                          {"sqlite", Path("broker.db")}, {"root_key", Path("root_key.json")}};
    configuration.update(more);
    Write("broker.json", configuration.dump());
    ExpectExit(0, {"broker", "init", "--config", "broker.json"});
    broker_ = std::make_unique<BrokerProcess>(directory_.path(), "broker.json");
  }

  // The words of a command to the broker, signed by the owner ("": by nobody).
  testing::CommandOutput Ask(int exit_code, const std::string& owner, const Words& words) const {
    Words all = words + Words{"--broker", broker_->url(), "--plain-loopback", "--json"};
    if (!owner.empty()) all = all + Words{"--private-key", owner + ".pem"};
    return ExpectExit(exit_code, all);
  }
  // The same, of the agreement.
  testing::CommandOutput AskOf(int exit_code, const std::string& owner, const Words& words) const {
    return Ask(exit_code, owner, words + Words{"--agreement", id_});
  }

  void Propose() {
    const Json proposed = Ask(0, "vendor", {"policy", "propose", "lungs.yaml"}).json();
    id_ = proposed["broker"]["agreement"];
    EXPECT_EQ(proposed["digest"], id_);
    EXPECT_THAT(proposed["broker"]["attachments_missing"], IsEmpty());
  }
  void Agree() {
    Propose();
    AskOf(0, "clinic-a", {"policy", "show", "-o", "received"});
    for (const char* owner : {"vendor", "clinic-a", "clinic-b"}) {
      Ask(0, owner, {"policy", "approve", "received/001-agreement.json"});
    }
  }
  testing::CommandOutput Deposit(int exit_code, const std::string& asset, const std::string& owner,
                                 const Words& more) const {
    return AskOf(exit_code, owner,
                 Words{"broker", "deposit", asset + ".sealed", "--asset", asset, "--encryption-key",
                       OwnerOf(asset) + "-enc.pem"} +
                     more);
  }
  void DepositAll() const {
    for (const char* asset : {"trainer", "base", "scans-a", "scans-b"}) {
      const Json deposited =
          Deposit(0, asset, OwnerOf(asset), {"--accept-unattested-broker"}).json();
      EXPECT_EQ(deposited["broker_appraised"], false);
    }
  }

  // A machine with a session of its own.
  struct Machine {
    Machine(const std::string& url, const std::string& agreement)
        : client(kbs::Client::Create({.base_url = url, .allow_plain_loopback = true}).value()),
          key(crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value()),
          session(client, key, {.agreement = agreement, .stage = "train"}) {}
    absl::Status Attest(const policy::testing::TestMachine& machine) {
      PAVISE_ASSIGN_OR_RETURN(const Digest32 nonce, session.Challenge());
      return session.Attest(machine.Evidence(nonce, key.public_key())).status();
    }
    kbs::Client client;
    crypto::PrivateKey key;
    agent::KbsBroker session;
  };

  SecretBytes ContentKeyOf(const std::string& sealed, const std::string& key) const {
    const crypto::PrivateKey opener =
        crypto::PrivateKey::FromPem(SecretBytes(Read(key)), SecretBytes(), key).value();
    return vault::SealedAsset::Open(Path(sealed))->ContentKey(opener).value();
  }

  policy::testing::TestMachine machine_;
  std::unique_ptr<BrokerProcess> broker_;
  std::string id_;
};

TEST_F(OwnerTest, FromAProposalToAnOutput) {
  StartBroker();
  Propose();
  // To a stranger there is no such agreement.
  AskOf(1, "stranger", {"policy", "show"});
  const Json waiting = AskOf(0, "clinic-a", {"policy", "show", "-o", "received"}).json();
  EXPECT_EQ(waiting["open"][0]["missing"].size(), 3u) << waiting;
  // With what it pins, to be read before it is approved.
  EXPECT_EQ(waiting["attachments"], 2) << waiting;
  const std::string digest = ToHex(policy::testing::DigestOf(Read("hosts/policy.json")));
  EXPECT_EQ(Read(StrCat("received/attachments/", digest)), Read("hosts/policy.json"));
  const Words approve = {"policy", "approve", "received/001-agreement.json"};
  EXPECT_THAT(Ask(1, "stranger", approve).reasons(), ElementsAre("signer-untrusted"));
  const Json first = Ask(0, "clinic-a", approve + Words{"-o", "approval.json"}).json();
  EXPECT_EQ(first["broker"]["missing"].size(), 2u) << first;
  // Replayed, it counts once. Changed, it is refused, and so is a deposit before all agreed.
  const Json again = Ask(0, "", {"broker", "send", "approval.json"}).json();
  EXPECT_EQ(again["answers"][0]["missing"].size(), 2u) << again;
  Json forged = Json::parse(Read("approval.json"));
  forged["signatures"][0]["keyid"] =
      Json::parse(Read("received/001-agreement.json"))["signatures"][0]["keyid"];
  Write("forged.json", forged.dump());
  Ask(1, "", {"broker", "send", "forged.json"});
  EXPECT_THAT(Deposit(1, "scans-a", "clinic-a", {"--accept-unattested-broker"}).reasons(),
              ElementsAre("policy-denied"));
  Ask(0, "vendor", approve);
  EXPECT_THAT(ExpectExit(0, approve + Words{"--private-key", "clinic-b.pem", "--broker",
                                            broker_->url(), "--plain-loopback"})
                  .out,
              HasSubstr(StrCat("now in force  ", id_)));
  EXPECT_EQ(AskOf(0, "clinic-b", {"policy", "show"}).json()["version"], 1);

  // Whoever does not say what to make of the broker gives it nothing, and this one has no evidence.
  Deposit(2, "scans-a", "clinic-a", {});
  Deposit(1, "scans-a", "clinic-a", {"--policy", "hosts/policy.json"});
  // Not by another owner, of another file, or with a key that opens nothing.
  const Words unattested = {"--accept-unattested-broker"};
  EXPECT_THAT(Deposit(1, "scans-a", "vendor", unattested).reasons(),
              ElementsAre("signer-untrusted"));
  EXPECT_THAT(AskOf(1, "vendor",
                    Words{"broker", "deposit", "base.sealed", "--asset", "trainer",
                          "--encryption-key", "vendor-enc.pem"} +
                        unattested)
                  .reasons(),
              ElementsAre("binding-mismatch"));
  EXPECT_THAT(AskOf(1, "clinic-a",
                    Words{"broker", "deposit", "scans-a.sealed", "--asset", "scans-a",
                          "--encryption-key", "vendor-enc.pem"} +
                        unattested)
                  .reasons(),
              ElementsAre("key-mismatch"));
  EXPECT_THAT(AskOf(0, "vendor", {"policy", "show"}).json()["deposits"], IsEmpty());
  DepositAll();
  EXPECT_THAT(AskOf(0, "vendor", {"policy", "show"}).json()["deposits"],
              UnorderedElementsAre("trainer", "base", "scans-a", "scans-b"));

  // A changed machine gets nothing, and every owner reads why.
  Machine changed(broker_->url(), id_);
  machine_.Boot("another image");
  EXPECT_FALSE(changed.Attest(machine_).ok());
  machine_.Boot("the agreed image");
  const Json why = AskOf(0, "clinic-b", {"policy", "decisions", "--refused"}).json();
  ASSERT_EQ(why["decisions"].size(), 1u) << why;
  EXPECT_THAT(why.dump(), HasSubstr("measurement-"));
  EXPECT_THAT(
      ExpectExit(0, {"broker", "show", "--what", "runs", "--agreement", id_, "--private-key",
                     "vendor.pem", "--broker", broker_->url(), "--plain-loopback"})
          .out,
      HasSubstr("\n  \"runs\": []\n"));
  const testing::CommandOutput told =
      ExpectExit(0, {"policy", "decisions", "--agreement", id_, "--private-key", "vendor.pem",
                     "--broker", broker_->url(), "--plain-loopback"});
  EXPECT_THAT(told.out, HasSubstr("what would change it"));
  AskOf(1, "stranger", {"policy", "decisions"});

  // The agreed one gets the keys that were deposited, and leaves an output.
  Machine machine(broker_->url(), id_);
  ASSERT_TRUE(machine.Attest(machine_).ok());
  EXPECT_FALSE(machine.session.Key("scans-a").ok());  // not before the text that it is bound to
  ASSERT_TRUE(machine.session.Agreement().ok());
  const auto key = machine.session.Key("scans-a");
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ(key->RevealText(), ContentKeyOf("scans-a.sealed", "clinic-a-enc.pem").RevealText());
  Write("weights/model", "what was learned");
  const Json output = ExpectExit(0, {"seal", "weights", "-o", "tuned.sealed", "--recipient",
                                     "keys/stranger-enc.pub", "--json"})
                          .json();
  const std::string sealed = output["asset_id"];
  ASSERT_TRUE(machine.session
                  .DepositOutput("tuned", Digest32FromHex(sealed, "sealed").value(),
                                 ContentKeyOf("tuned.sealed", "stranger-enc.pem"))
                  .ok());
  const std::string run = machine.session.RunId().value();
  EXPECT_TRUE(machine.session.End(true).ok());

  const auto fetch = [&](int exit_code, const std::string& owner, const std::string& directory) {
    return AskOf(exit_code, owner,
                 {"broker", "fetch-output", "tuned.sealed", "--run", run, "--name", "tuned",
                  "--encryption-key", owner + "-enc.pem", "-o", directory});
  };
  const Words let_go = {"policy", "approve-output", "--run",       run,
                        "--name", "tuned",          "--recipient", "vendor"};
  EXPECT_THAT(fetch(1, "vendor", "tuned").reasons(), Contains("policy-denied"));
  EXPECT_EQ(AskOf(0, "clinic-a", let_go).json()["sealed"], sealed);
  fetch(1, "vendor", "tuned");
  EXPECT_THAT(AskOf(1, "clinic-b", let_go + Words{"--sealed", std::string(64, '0')}).reasons(),
              ElementsAre("binding-mismatch"));
  AskOf(1, "stranger", let_go + Words{"--sealed", sealed});
  AskOf(0, "clinic-b", let_go + Words{"--sealed", sealed});
  fetch(1, "clinic-a", "tuned");
  fetch(1, "stranger", "tuned");
  AskOf(1, "vendor",
        {"broker", "fetch-output", "tuned.sealed", "--run", run, "--name", "tuned",
         "--encryption-key", "clinic-a-enc.pem", "-o", "tuned"});
  EXPECT_FALSE(Exists("tuned"));
  fetch(0, "vendor", "tuned");
  EXPECT_EQ(Read("tuned/model"), "what was learned");

  // Withdrawn by whoever owns it, and by nobody else.
  const Words withdraw = {"policy", "withdraw", "--asset", "scans-b"};
  EXPECT_THAT(AskOf(1, "vendor", withdraw).reasons(), Not(IsEmpty()));
  AskOf(0, "clinic-b", withdraw);
  EXPECT_EQ(AskOf(0, "vendor", {"policy", "show"}).json()["withdrawn"], Json({"scans-b"}));
  Machine late(broker_->url(), id_);
  EXPECT_FALSE(late.Attest(machine_).ok());
  EXPECT_THAT(fetch(1, "vendor", "tuned-again").reasons(), Contains("policy-denied"));
}

// The signing key stays on a machine that has no network.
TEST_F(OwnerTest, WhatWasSignedElsewhereIsSent) {
  StartBroker();
  ExpectExit(2, {"policy", "propose", "lungs.yaml", "--private-key", "vendor.pem"});
  ExpectExit(0, {"policy", "propose", "lungs.yaml", "--private-key", "vendor.pem", "-o",
                 "proposal.json", "--attachments", "pinned"});
  const Json sent = Ask(0, "", {"broker", "send", "proposal.json"}).json();
  id_ = sent["answers"][0]["agreement"];
  EXPECT_EQ(sent["answers"][0]["attachments_missing"].size(), 2u);
  // What the broker does not have is named, not made up.
  const Json shown = AskOf(0, "clinic-b", {"policy", "show", "-o", "received"}).json();
  EXPECT_EQ(shown["attachments"], 0);
  EXPECT_EQ(shown["attachments_missing"].size(), 2u);
  const std::string file = sent["answers"][0]["attachments_missing"][0];
  const Words attach = {"broker", "send", "--attachment", "pinned/" + file};
  AskOf(1, "stranger", attach);
  AskOf(0, "clinic-b", attach);
  AskOf(1, "clinic-b", {"broker", "send", "--attachment", "lungs.yaml"});
  EXPECT_EQ(AskOf(0, "clinic-b", {"policy", "show", "-o", "received"}).json()["attachments"], 1);
  EXPECT_EQ(Read("received/attachments/" + file), Read("pinned/" + file));
  ExpectExit(0, {"policy", "approve", "received/001-agreement.json", "--private-key",
                 "clinic-b.pem", "-o", "approval.json"});
  EXPECT_EQ(Ask(0, "", {"broker", "send", "approval.json"}).json()["answers"][0]["missing"].size(),
            2u);
  // Another agreement's id is not what the broker has.
  id_ = std::string(64, '0');
  AskOf(1, "clinic-b", {"policy", "show"});
}

// An owner whose signing key never leaves a token.
TEST_F(OwnerTest, ATokenSignsWhatAnOwnerSays) {
  const std::string uri = MakeToken("clinic-a");
  if (uri.empty()) GTEST_SKIP() << "SoftHSM is not installed";
  const Words token = {"--pkcs11-uri", uri};
  std::filesystem::remove(Path("clinic-a.pem"));
  StartBroker();
  Propose();
  AskOf(0, "", Words{"policy", "show", "-o", "received"} + token);
  const Words approve = {"policy", "approve", "received/001-agreement.json"};
  // Not with two keys, none, a password of a file's, another PIN, or a key that is not there.
  Ask(2, "vendor", approve + token);
  Ask(2, "", approve);
  Ask(2, "", approve + token + Words{"--password-file", "pin.txt"});
  const std::string nobody = absl::StrReplaceAll(uri, {{"object=clinic-a", "object=nobody"}});
  EXPECT_THAT(Ask(1, "", approve + Words{"--pkcs11-uri", nobody}).reasons(),
              ElementsAre("key-unsupported"));
  Write("pin.txt", "4321");
  EXPECT_THAT(Ask(1, "", approve + token).reasons(), ElementsAre("key-unsupported"));
  Write("pin.txt", "1234");
  EXPECT_EQ(Ask(0, "", approve + token).json()["broker"]["missing"].size(), 2u);
  for (const char* owner : {"vendor", "clinic-b"}) Ask(0, owner, approve);

  EXPECT_EQ(AskOf(0, "",
                  Words{"broker", "deposit", "scans-a.sealed", "--asset", "scans-a",
                        "--encryption-key", "clinic-a-enc.pem", "--accept-unattested-broker"} +
                      token)
                .json()["asset"],
            "scans-a");
  // A key in a token is no owner by that.
  const std::string stranger = MakeToken("stranger");
  EXPECT_THAT(Ask(1, "", approve + Words{"--pkcs11-uri", stranger}).reasons(),
              ElementsAre("signer-untrusted"));
  AskOf(1, "", Words{"policy", "decisions", "--pkcs11-uri", stranger});
  AskOf(0, "", Words{"policy", "withdraw", "--asset", "scans-a"} + token);
  EXPECT_EQ(AskOf(0, "vendor", {"policy", "show"}).json()["withdrawn"], Json({"scans-a"}));
}

TEST_F(OwnerTest, TheLedgerIsFetchedRememberedAndCosigned) {
  StartBroker();
  Agree();
  const Words log = {"--log-key", "broker.vkey"};
  EXPECT_THAT(Ask(0, "", {"broker", "status", "--ledger-key-out", "broker.vkey"}).out,
              HasSubstr("broker.example/ledger"));
  const Words fetch = Words{"ledger", "fetch", "-o", "bundle.json", "--remember", "seen.txt"} + log;
  const uint64_t before = AskOf(0, "clinic-a", fetch).json()["size"];
  ExpectExit(0, Words{"ledger", "fetch", "-o", "b.json", "--agreement", id_, "--private-key",
                      "clinic-b.pem", "--broker", broker_->url(), "--plain-loopback"} +
                    log);
  AskOf(1, "stranger", fetch);
  // As a thief of the database would put it back.
  broker_.reset();
  for (const char* name : {"broker.db", "broker.db-wal", "broker.db-shm"}) {
    if (Exists(name)) std::filesystem::copy_file(Path(name), Path(StrCat("old-", name)));
  }
  broker_ = std::make_unique<BrokerProcess>(directory_.path(), "broker.json");
  DepositAll();
  const Json fetched = AskOf(0, "clinic-a", fetch).json();
  EXPECT_GE(fetched["size"].get<uint64_t>(), before + 4);
  EXPECT_EQ(fetched["earlier"][0]["size"], before);
  EXPECT_EQ(fetched["agreements"][0]["missing"], 0);
  // Offline: what became of a key, and that two owners were shown one history.
  ExpectExit(0, Words{"ledger", "who-had", "scans-a", "bundle.json"} + log);
  ExpectExit(0, Words{"ledger", "compare", "bundle.json", "b.json"} + log);

  MakeKey("ed25519", "witness");
  const Words cosign =
      Words{"ledger",       "cosign",        "bundle.json", "--name",    "clinic-a.example", "-o",
            "cosigned.txt", "--private-key", "witness.pem", "--key-out", "witness.vkey"} +
      log;
  ExpectExit(2, cosign);
  ExpectExit(0, cosign + Words{"--remember", "seen.txt"});
  const Words believed = Words{"ledger", "verify", "cosigned.txt", "--cosigner", "witness.vkey"};
  const Json cosigned = ExpectExit(0, believed + log + Words{"--json"}).json();
  EXPECT_EQ(cosigned["cosignatures"][0]["name"], "clinic-a.example");
  EXPECT_THAT(
      ExpectExit(
          1, Words{"ledger", "verify", "bundle.json", "--cosigner", "witness.vkey", "--json"} + log)
          .reasons(),
      ElementsAre("signer-untrusted"));
  // An ECDSA key makes no cosignature.
  Words wrong = cosign + Words{"--remember", "seen.txt"};
  wrong[8] = "clinic-a.pem";
  ExpectExit(1, wrong);

  broker_.reset();
  for (const char* name : {"broker.db", "broker.db-wal", "broker.db-shm"}) {
    std::filesystem::remove(Path(name));
    if (Exists(StrCat("old-", name))) {
      std::filesystem::copy_file(Path(StrCat("old-", name)), Path(name));
    }
  }
  const std::string seen = Read("seen.txt");
  broker_ = std::make_unique<BrokerProcess>(directory_.path(), "broker.json");
  EXPECT_THAT(AskOf(1, "clinic-a", fetch).reasons(), ElementsAre("version-too-old"));
  EXPECT_EQ(Read("seen.txt"), seen);
}

TEST_F(OwnerTest, KeysGoToABrokerWhoseEvidenceThePolicyAccepts) {
  if (const std::string missing = evidence::testing::SwtpmMissing(); !missing.empty()) {
    GTEST_SKIP() << missing;
  }
  const evidence::testing::SwtpmAuthority authority;
  const auto tpm = evidence::testing::Swtpm::Start(authority);
  ASSERT_NE(tpm, nullptr);
  StartBroker({{"tpm", tpm->tcti()}, {"attest", true}, {"attest_logs", false}});
  Agree();
  evidence::PcrValues pcrs;
  for (const uint32_t index : {4u, 7u}) {
    ASSERT_TRUE(pcrs.Set(evidence::PcrBank::kSha256, index, Bytes(32)).ok());
  }
  evidence::ReferenceValues references;
  evidence::AddRegisters(pcrs, evidence::PcrBank::kSha256, {4, 7}, "nothing", references);
  Write("nothing.json", evidence::FormatReferenceValues(references));
  Json policy = {{"pavise_appraisal_policy", 1},
                 {"required", {"tpm"}},
                 {"reference_values", {"nothing.json"}},
                 {"tpm",
                  {{"allow_unbound_key", true},
                   {"registers", {{"sha256", {4, 7}}}},
                   {"event_log", false},
                   {"ima", false},
                   {"host_protections", false}}}};
  Write("broker-policy.json", policy.dump());
  const Json deposited =
      Deposit(0, "scans-a", "clinic-a", {"--policy", "broker-policy.json"}).json();
  EXPECT_EQ(deposited["broker_appraised"], true);
  // Evidence of the challenge, in files, says the same.
  const std::string challenge(64, 'a');
  const Json attested = Ask(0, "",
                            {"broker", "attest", "--nonce", challenge, "-o", "broker-evidence.json",
                             "--key-out", "broker.pub", "--ledger-key-out", "ledger.pub"})
                            .json();
  const std::string nonce = attested["nonce"];
  EXPECT_EQ(attested["ledger_key"], deposited["broker_ledger_key"]);
  ExpectExit(0, {"appraise", "evidence", "broker-evidence.json", "--nonce", nonce, "--policy",
                 "broker-policy.json"});
  // Of the challenge alone it says nothing: the broker's other keys are in it.
  ExpectExit(1, {"appraise", "evidence", "broker-evidence.json", "--nonce", challenge, "--policy",
                 "broker-policy.json"});
  // Booted into something else; and saying both.
  Deposit(2, "scans-b", "clinic-b",
          {"--policy", "broker-policy.json", "--accept-unattested-broker"});
  pcrs = evidence::PcrValues();
  for (const uint32_t index : {4u, 7u}) {
    ASSERT_TRUE(pcrs.Set(evidence::PcrBank::kSha256, index, Bytes(32, 1)).ok());
  }
  references = evidence::ReferenceValues();
  evidence::AddRegisters(pcrs, evidence::PcrBank::kSha256, {4, 7}, "something", references);
  Write("nothing.json", evidence::FormatReferenceValues(references));
  EXPECT_THAT(Deposit(1, "scans-b", "clinic-b", {"--policy", "broker-policy.json"}).reasons(),
              Not(IsEmpty()));
  EXPECT_THAT(AskOf(0, "vendor", {"policy", "show"}).json()["deposits"], ElementsAre("scans-a"));
}

}  // namespace
}  // namespace pavise::cli
