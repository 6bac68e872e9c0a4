#include "pavise/broker/service.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <set>
#include <utility>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/broker/http_server.h"
#include "pavise/broker/owner_request.h"
#include "pavise/broker/refusal_budget.h"
#include "pavise/broker/run_record.h"
#include "pavise/broker/testing/test_broker.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwe.h"
#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/kbs/client.h"
#include "pavise/kbs/messages.h"
#include "pavise/kbs/resource_path.h"
#include "pavise/kbs/token.h"
#include "pavise/ledger/bundle.h"
#include "pavise/ledger/checkpoint.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::broker {
namespace {

using policy::testing::EncryptionKey;
using policy::testing::SigningKey;
using policy::testing::TestMachine;
using ::testing::Contains;
using testing::ContentKeyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::HeaderOf;
using ::testing::IsEmpty;
using testing::JsonOf;
using ::testing::Not;
using testing::ReasonOfProblem;
using testing::TestBroker;
using testing::TestSession;

std::string Text(const SecretBytes& key) { return std::string(key.RevealText()); }
std::string KeyIdOf(const std::string& owner) {
  return SigningKey(owner).public_key().Fingerprint();
}

// The kinds of the agreement's entries, as an owner proves them offline.
std::vector<std::string> ProvenKinds(TestBroker& broker, const std::string& owner = "clinic-a") {
  const HttpResponse response = broker.Ask(owner, "GET", broker.Target("/ledger"));
  EXPECT_EQ(response.status, 200) << response.body;
  const auto bundle = ledger::ParseBundle(AsBytes(response.body), "bundle");
  if (!bundle.ok()) {
    ADD_FAILURE() << bundle.status();
    return {};
  }
  const ledger::CheckpointTrust trust{broker.service().keys().LedgerNoteKey().value(), {}, 0};
  const auto proven = ledger::BundleVerifier::Verify(*bundle, trust, "bundle");
  if (!proven.ok()) {
    ADD_FAILURE() << proven.status();
    return {};
  }
  for (const auto& [agreement, count] : (*proven)->missing) EXPECT_EQ(count, 0u);
  std::vector<std::string> kinds;
  for (const ledger::ProvenEntry& entry : (*proven)->entries) {
    kinds.emplace_back(ledger::EntryKindName(entry.entry.kind));
  }
  return kinds;
}

class ServiceTest : public ::testing::Test {
 protected:
  ServiceTest() { broker.Agree(broker.agreement); }
  HttpResponse Withdraw(const std::string& asset, const std::string& owner) {
    broker.clock.Advance(absl::Seconds(1));
    return broker.Post(
        broker.Target("/withdrawals"),
        policy::testing::Withdrawn(broker.history(), {asset}, owner, broker.clock.Now()));
  }
  TestBroker broker;
};

TEST_F(ServiceTest, AMachineThatTheOwnersAgreedOnGetsItsKeys) {
  TestSession session(broker);
  const HttpResponse attested = session.AuthAndAttest();
  ASSERT_EQ(attested.status, 200) << attested.body;
  const std::string token = kbs::ParseTokenResponse(AsBytes(attested.body), "token").value();
  const auto claims = kbs::VerifyToken(token, broker.service().keys().signing.public_key(),
                                       broker.clock.Now(), "token");
  ASSERT_TRUE(claims.ok()) << claims.status();
  EXPECT_TRUE(claims->confirmed_key == session.key.public_key());
  // Which text was decided on.
  const Json& decided_on = claims->claims["pavise_agreement"];
  EXPECT_EQ(decided_on,
            Json({{"id", broker.id}, {"version", 1}, {"versions", {{"1", broker.id}}}}));
  std::set<std::string> runs;
  for (const char* asset : {"trainer", "base", "scans-a", "scans-b"}) {
    const HttpResponse response = session.Get(asset);
    EXPECT_EQ(session.Key(response), Text(ContentKeyOf(asset)));
    runs.insert(HeaderOf(response, "Pavise-Run"));
    EXPECT_THAT(HeaderOf(response, "Pavise-Ledger-Index"), Not(IsEmpty()));
  }
  EXPECT_EQ(runs.size(), 1u);
  // By token in place of the cookie.
  const HttpResponse by_token =
      broker.Send("GET", StrCat("/kbs/v0/resource/", broker.id, "/train/base"), "",
                  {{"authorization", StrCat("Bearer ", token)}});
  EXPECT_EQ(session.Key(by_token), Text(ContentKeyOf("base")));
  const Json shown = JsonOf(session.Send("GET", "/pavise/v1/session"));
  EXPECT_EQ(shown["run"], *runs.begin());
  EXPECT_EQ(shown["reattest_seconds"], 300);
  EXPECT_THAT(session.Send("GET", "/pavise/v1/session/agreement").body,
              HasSubstr("application/vnd.pavise.agreement+json"));
  EXPECT_THAT(ProvenKinds(broker),
              ElementsAre("agreement-proposed", "approval", "approval", "approval",
                          "agreement-in-force", "deposit", "deposit", "deposit", "deposit",
                          "run-begun", "release", "release", "release", "release", "release"));
  const Json decisions = broker.Decisions("vendor");
  // Of five releases: that of "base" twice, while the clock stands, is one decision.
  ASSERT_EQ(decisions.size(), 4u);
  EXPECT_EQ(decisions[0]["decision"]["decision"]["allowed"], true);
  // The digest in the ledger is that of the text that an owner reads.
  const std::string digest = decisions[0]["digest"];
  const HttpResponse one = broker.Ask("vendor", "GET", broker.Target("/decisions/" + digest));
  EXPECT_EQ(ToHex(crypto::Sha256(AsBytes(one.body)).value()), digest);
}

// Whoever relays to the machine cannot show it another agreement, stage or mode, or a key of his
// own for the outputs: the release opens for what the broker has in force only.
TEST_F(ServiceTest, AReleaseIsBoundToTheTextThatTheMachineObeys) {
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  const Json message = JsonOf(session.Get("base"));
  const std::string signer = broker.service().keys().signing.public_key().Fingerprint();
  const auto open = [&](const std::string& agreement, const std::string& stage,
                        const std::string& asset, const std::string& mode, const Digest32& payload,
                        const std::string& encryption_key) {
    const std::string binding =
        kbs::ReleaseBinding({agreement, stage, asset}, mode, payload, encryption_key, signer);
    return ReasonOf(
        crypto::DecryptJwe(message, session.key, "resource", AsBytes(binding)).status());
  };
  const Digest32 payload = broker.history().id();  // version 1
  const Digest32 other = policy::testing::DigestOf("another text");
  const std::string key = broker.service().keys().encryption_id;
  const std::string thief = EncryptionKey("thief").public_key().Fingerprint();
  EXPECT_EQ(open(broker.id, "train", "base", "measured", payload, key), std::nullopt);
  constexpr Reason kMismatch = Reason::kBindingMismatch;
  EXPECT_EQ(open(ToHex(other), "train", "base", "measured", payload, key), kMismatch);
  EXPECT_EQ(open(broker.id, "train", "base", "measured", other, key), kMismatch);
  EXPECT_EQ(open(broker.id, "audit", "base", "measured", payload, key), kMismatch);
  EXPECT_EQ(open(broker.id, "train", "trainer", "measured", payload, key), kMismatch);
  EXPECT_EQ(open(broker.id, "train", "base", "tee", payload, key), kMismatch);
  EXPECT_EQ(open(broker.id, "train", "base", "measured", payload, thief), kMismatch);
  // And in the client.
  EXPECT_EQ(ReasonOf(crypto::DecryptJwe(message, session.key, "resource").status()), kMismatch);
}

TEST_F(ServiceTest, EvidenceAnswersOneChallengeOnce) {
  TestSession session(broker);
  // Without auth.
  EXPECT_EQ(session.Attest(session.Attestation(broker.machine)).status, 401);
  ASSERT_EQ(session.Auth().status, 200);
  const std::string first = session.Attestation(broker.machine);
  ASSERT_EQ(session.Attest(first).status, 200);
  // Replayed: the challenge is used up.
  EXPECT_EQ(ReasonOfProblem(session.Attest(first)), "nonce-mismatch");
  // Replayed to a new challenge, of this session and of another.
  ASSERT_EQ(session.Auth().status, 200);
  EXPECT_EQ(ReasonOfProblem(session.Attest(first)), "nonce-mismatch");
  TestSession other(broker);
  ASSERT_EQ(other.Auth().status, 200);
  EXPECT_EQ(ReasonOfProblem(other.Attest(session.Attestation(broker.machine))), "nonce-mismatch");
  // Evidence inside of an older challenge than the message around it.
  ASSERT_EQ(other.Auth().status, 200);
  Json mixed = Json::parse(other.Attestation(broker.machine));
  mixed["tee-evidence"]["primary_evidence"] =
      Json::parse(first)["tee-evidence"]["primary_evidence"];
  EXPECT_NE(other.Attest(mixed.dump()).status, 200);
  // Too late.
  ASSERT_EQ(other.Auth().status, 200);
  const std::string late = other.Attestation(broker.machine);
  broker.clock.Advance(absl::Minutes(6));
  EXPECT_EQ(ReasonOfProblem(other.Attest(late)), "nonce-mismatch");
}

TEST_F(ServiceTest, SessionsAreNotMixed) {
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  // No session, a cookie nobody has, one before attestation.
  TestSession other(broker);
  EXPECT_EQ(other.Get("base").status, 401);
  other.cookie = "kbs-session-id=" + std::string(43, 'A');
  EXPECT_EQ(other.Get("base").status, 401);
  other.cookie.clear();
  ASSERT_EQ(other.Auth().status, 200);
  EXPECT_EQ(other.Get("base").status, 401);
  // A stolen cookie gives a key that only the session's machine can open.
  other.cookie = session.cookie;
  const HttpResponse stolen = other.Get("base");
  ASSERT_EQ(stolen.status, 200);
  const Bytes bound = FromBase64Url(std::string(JsonOf(stolen)["aad"]), "aad").value();
  EXPECT_FALSE(crypto::DecryptJwe(JsonOf(stolen), other.key, "resource", bound).ok());
  EXPECT_EQ(session.Key(stolen), Text(ContentKeyOf("base")));
  // Evidence for one key in a message with another.
  TestSession third(broker);
  ASSERT_EQ(third.Auth().status, 200);
  Json mixed = Json::parse(third.Attestation(broker.machine));
  other.nonce = third.nonce;
  mixed["runtime-data"]["tee-pubkey"] =
      Json::parse(other.Attestation(broker.machine))["runtime-data"]["tee-pubkey"];
  EXPECT_EQ(ReasonOfProblem(third.Attest(mixed.dump())), "binding-mismatch");
}

TEST_F(ServiceTest, AChangedMachineGetsNothingAndOwnersReadWhy) {
  const TestMachine changed("another image");
  TestSession session(broker);
  ASSERT_EQ(session.Auth().status, 200);
  const HttpResponse refused = session.Attest(session.Attestation(changed));
  EXPECT_EQ(refused.status, 401);
  // The host learns the reason and where an owner reads more, not the reference values.
  EXPECT_THAT(refused.body, HasSubstr("an owner can read why in decision"));
  EXPECT_THAT(refused.body, Not(HasSubstr("PCR")));
  EXPECT_EQ(session.Get("base").status, 401);
  for (const char* owner : {"vendor", "clinic-a", "clinic-b"}) {
    const Json decisions = broker.Decisions(owner);
    ASSERT_EQ(decisions.size(), 1u);
    EXPECT_EQ(decisions[0]["decision"]["decision"]["allowed"], false);
    EXPECT_THAT(decisions[0]["decision"].dump(), HasSubstr("remedy"));
    EXPECT_THAT(ProvenKinds(broker, owner), Contains("refusal"));
  }
}

TEST_F(ServiceTest, TheAgreementMayLetTheHostReadEverything) {
  TestBroker open;
  policy::Agreement agreement = open.agreement;
  agreement.stages.at("train").findings_to_host = true;
  open.Agree(agreement);
  TestSession session(open);
  ASSERT_EQ(session.Auth().status, 200);
  const HttpResponse refused = session.Attest(session.Attestation(TestMachine("another image")));
  EXPECT_EQ(refused.status, 401);
  EXPECT_THAT(refused.body, Not(HasSubstr("an owner can read why in decision")));
}

TEST_F(ServiceTest, EvidenceForOneAgreementOpensNoOther) {
  policy::Agreement second = broker.agreement;
  second.name = "another";
  const std::string first_id = broker.id;
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  broker.Agree(second);
  ASSERT_NE(broker.id, first_id);
  for (const std::string& path :
       {StrCat(broker.id, "/train/base"), StrCat(first_id, "/audit/scans-a"),
        StrCat(broker.id, "/audit/scans-a")}) {
    const HttpResponse refused = session.Send("GET", "/kbs/v0/resource/" + path);
    EXPECT_EQ(refused.status, 403) << path;
    EXPECT_EQ(ReasonOfProblem(refused), "binding-mismatch");
  }
  for (const char* path : {"", "a", "a/b", "a/b/c/d", "../../x", "a//c", "a/b/%2e%2e"}) {
    EXPECT_EQ(session.Send("GET", StrCat("/kbs/v0/resource/", path)).status, 404) << path;
  }
  EXPECT_EQ(session.Get("no-such-asset").status, 403);
  EXPECT_EQ(session.Key(session.Get("base")), Text(ContentKeyOf("base")));
}

TEST_F(ServiceTest, StagesThatDoNotExistAreRefused) {
  for (const char* stage : {"deploy", "tr"}) {
    TestSession session(broker, stage);
    ASSERT_EQ(session.Auth().status, 200);
    EXPECT_NE(session.Attest(session.Attestation(broker.machine)).status, 200);
  }
  TestSession session(broker);
  session.agreement = std::string(64, '0');
  ASSERT_EQ(session.Auth().status, 200);
  EXPECT_NE(session.Attest(session.Attestation(broker.machine)).status, 200);
}

TEST_F(ServiceTest, AWithdrawalStopsRunsAtOnce) {
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  ASSERT_EQ(session.Get("base").status, 200);
  // Not by somebody who does not own it.
  EXPECT_NE(Withdraw("scans-b", "vendor").status, 200);
  EXPECT_EQ(session.Get("scans-a").status, 200);
  ASSERT_EQ(Withdraw("scans-b", "clinic-b").status, 200);
  EXPECT_EQ(ReasonOfProblem(session.Get("scans-a")), "revoked");
  // With the same key, and with a new one.
  EXPECT_EQ(session.AuthAndAttest().status, 401);
  TestSession next(broker);
  EXPECT_EQ(next.AuthAndAttest().status, 401);
  // A stage that does not use it goes on.
  TestSession audit(broker, "audit");
  EXPECT_EQ(audit.AuthAndAttest().status, 200);
  EXPECT_EQ(audit.Key(audit.Get("scans-a")), Text(ContentKeyOf("scans-a")));
  const std::vector<std::string> kinds = ProvenKinds(broker);
  EXPECT_THAT(kinds, Contains("withdrawal"));
  EXPECT_THAT(kinds, Contains("revocation"));
}

TEST_F(ServiceTest, RunsAreCounted) {
  for (int run = 0; run < 2; ++run) {
    TestSession session(broker);
    ASSERT_EQ(session.AuthAndAttest().status, 200);
    // Several keys are one run.
    EXPECT_EQ(session.Get("base").status, 200);
    EXPECT_EQ(session.Get("scans-a").status, 200);
  }
  TestSession third(broker);
  EXPECT_EQ(third.AuthAndAttest().status, 401);
  const Json runs = JsonOf(broker.Ask("vendor", "GET", broker.Target("/runs")))["runs"];
  EXPECT_EQ(runs.size(), 2u);
  // Attested while there was one left, and asked when there was none.
  TestBroker other;
  other.Agree(other.agreement);
  TestSession a(other), b(other), c(other);
  for (TestSession* session : {&a, &b, &c}) ASSERT_EQ(session->AuthAndAttest().status, 200);
  EXPECT_EQ(a.Get("base").status, 200);
  EXPECT_EQ(b.Get("base").status, 200);
  EXPECT_EQ(c.Get("base").status, 403);
}

TEST_F(ServiceTest, ARunGoesOnWhileItsMachineIsAppraisedAgain) {
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  const std::string run = HeaderOf(session.Get("base"), "Pavise-Run");
  for (int i = 0; i < 5; ++i) {
    broker.clock.Advance(absl::Minutes(4));
    ASSERT_EQ(session.AuthAndAttest().status, 200);
    EXPECT_EQ(HeaderOf(session.Get("base"), "Pavise-Run"), run);
  }
  // An old appraisal is worth nothing, also where the clock is set back.
  broker.clock.Advance(absl::Minutes(6));
  EXPECT_EQ(session.Get("base").status, 403);
  broker.clock.Advance(-absl::Minutes(6));
  EXPECT_EQ(session.Get("base").status, 403);
  // The verdict turns: the run is over, and its key with it.
  broker.clock.Advance(absl::Minutes(7));
  ASSERT_EQ(session.Auth().status, 200);
  EXPECT_EQ(session.Attest(session.Attestation(TestMachine("another image"))).status, 401);
  EXPECT_EQ(session.Get("base").status, 401);
  EXPECT_EQ(session.AuthAndAttest().status, 401);
  const std::vector<std::string> kinds = ProvenKinds(broker);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "reattested"), 5);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "revocation"), 1);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "run-begun"), 1);
}

TEST_F(ServiceTest, ARunSurvivesARestartOfTheBroker) {
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  const std::string run = HeaderOf(session.Get("base"), "Pavise-Run");
  broker.Restart();
  EXPECT_EQ(session.Get("base").status, 401);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  EXPECT_EQ(HeaderOf(session.Get("base"), "Pavise-Run"), run);
}

// The token of a run is in its provenance. Whoever reads it there begins no other run with it.
TEST_F(ServiceTest, APublishedTokenBeginsNoRun) {
  TestSession session(broker);
  const std::string token =
      kbs::ParseTokenResponse(AsBytes(session.AuthAndAttest().body), "token").value();
  const std::string run = HeaderOf(session.Get("base"), "Pavise-Run");
  const std::string end = StrCat("/pavise/v1/runs/", run, "/end");
  const HttpResponse ended = session.Send("POST", end, "{\"outcome\":\"completed\"}");
  ASSERT_EQ(ended.status, 200);
  // The answer was lost: the same again.
  EXPECT_EQ(session.Send("POST", end, "{\"outcome\":\"completed\"}").body, ended.body);
  const HttpResponse by_reader =
      broker.Send("GET", StrCat("/kbs/v0/resource/", broker.id, "/train/base"), "",
                  {{"authorization", StrCat("Bearer ", token)}});
  EXPECT_EQ(by_reader.status, 403);
  EXPECT_EQ(ReasonOfProblem(by_reader), "policy-denied");
  EXPECT_EQ(session.Get("base").status, 403);
  const Json runs = JsonOf(broker.Ask("vendor", "GET", broker.Target("/runs")))["runs"];
  EXPECT_EQ(runs.size(), 1u);
  const std::vector<std::string> kinds = ProvenKinds(broker);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "run-begun"), 1);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "run-ended"), 1);
}

TEST_F(ServiceTest, EpochsHaveALimit) {
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  const std::string run = HeaderOf(session.Get("base"), "Pavise-Run");
  const auto report = [&](int epochs) {
    return session.Send("POST", StrCat("/pavise/v1/runs/", run, "/progress"),
                        StrCat("{\"epochs\":", epochs, "}"));
  };
  EXPECT_EQ(report(1).status, 200);
  EXPECT_EQ(report(9).status, 200);
  EXPECT_EQ(report(11).status, 403);
  EXPECT_EQ(ReasonOfProblem(session.Get("base")), "revoked");
  EXPECT_EQ(ReasonOfProblem(report(1)), "revoked");
}

TEST_F(ServiceTest, OutputsGoToTheirRecipientsWhenTheDataOwnersApprove) {
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  const std::string run = HeaderOf(session.Get("base"), "Pavise-Run");
  const Digest32 sealed = policy::testing::DigestOf("sealed output");
  const SecretBytes output_key = ContentKeyOf("output");
  const auto deposit = [&](const std::string& output, const std::string& bound_run) {
    const Json message =
        crypto::EncryptJwe(output_key, broker.service().keys().current_encryption().public_key(),
                           "broker", AsBytes(OutputBinding(bound_run, output, sealed)))
            .value();
    const Json body = {{"output", output}, {"sealed", ToHex(sealed)}, {"encrypted_key", message}};
    return session.Send("POST", StrCat("/pavise/v1/runs/", run, "/outputs"), body.dump());
  };
  EXPECT_EQ(ReasonOfProblem(deposit("tuned", std::string(32, '0'))), "binding-mismatch");
  EXPECT_EQ(deposit("report", run).status, 403);
  ASSERT_EQ(deposit("tuned", run).status, 201);
  const std::string key_path = broker.Target(StrCat("/runs/", run, "/outputs/tuned/key"));
  const auto approve = [&](const std::string& owner, bool approved) {
    broker.clock.Advance(absl::Seconds(1));
    const policy::OutputApproval approval{
        broker.history().id(), run, "tuned", sealed, {"vendor"}, approved, broker.clock.Now()};
    return broker
        .Post(broker.Target("/output-approvals"),
              policy::testing::Signed(policy::kOutputApprovalType, policy::Format(approval).value(),
                                      owner))
        .status;
  };
  EXPECT_EQ(broker.Ask("vendor", "GET", key_path).status, 403);
  EXPECT_EQ(approve("clinic-a", true), 201);
  EXPECT_EQ(broker.Ask("vendor", "GET", key_path).status, 403);
  EXPECT_NE(approve("stranger", true), 201);
  EXPECT_EQ(approve("clinic-b", true), 201);
  const HttpResponse released = broker.Ask("vendor", "GET", key_path);
  ASSERT_EQ(released.status, 200) << released.body;
  EXPECT_EQ(crypto::DecryptJwe(JsonOf(released), EncryptionKey("vendor"), "output")->RevealText(),
            output_key.RevealText());
  // Not to others, approved or not; and no more once an owner says no.
  EXPECT_EQ(broker.Ask("clinic-a", "GET", key_path).status, 403);
  EXPECT_EQ(broker.Ask("stranger", "GET", key_path).status, 404);
  EXPECT_EQ(approve("clinic-b", false), 201);
  EXPECT_EQ(broker.Ask("vendor", "GET", key_path).status, 403);
  EXPECT_EQ(
      session.Send("POST", StrCat("/pavise/v1/runs/", run, "/end"), "{\"outcome\":\"completed\"}")
          .status,
      200);
  EXPECT_EQ(deposit("tuned", run).status, 403);
  EXPECT_THAT(ProvenKinds(broker), Contains("output-released"));
}

// A run whose output was deposited, and its owners.
class OutputTest : public ServiceTest {
 protected:
  OutputTest() : session(broker) {
    EXPECT_EQ(session.AuthAndAttest().status, 200);
    run = HeaderOf(session.Get("base"), "Pavise-Run");
  }
  HttpResponse Deposit(const std::string& output = "tuned") {
    const Json message =
        crypto::EncryptJwe(ContentKeyOf("output"),
                           broker.service().keys().current_encryption().public_key(), "broker",
                           AsBytes(OutputBinding(run, output, sealed)))
            .value();
    const Json body = {{"output", output}, {"sealed", ToHex(sealed)}, {"encrypted_key", message}};
    return session.Send("POST", StrCat("/pavise/v1/runs/", run, "/outputs"), body.dump());
  }
  int Approve(const std::string& owner, bool approved = true) {
    broker.clock.Advance(absl::Seconds(1));
    const policy::OutputApproval approval{
        broker.history().id(), run, "tuned", sealed, {"vendor"}, approved, broker.clock.Now()};
    return broker
        .Post(broker.Target("/output-approvals"),
              policy::testing::Signed(policy::kOutputApprovalType, policy::Format(approval).value(),
                                      owner))
        .status;
  }
  HttpResponse Fetch(const std::string& owner) {
    return broker.Ask(owner, "GET", broker.Target(StrCat("/runs/", run, "/outputs/tuned/key")));
  }
  // The next version, approved by these.
  void Change(const policy::Agreement& next, const std::vector<std::string>& owners) {
    broker.clock.Advance(absl::Seconds(1));
    ASSERT_EQ(broker.Post("/pavise/v1/agreements", policy::testing::Proposed(next, owners.front()))
                  .status,
              200);
    for (const std::string& owner : owners) {
      broker.clock.Advance(absl::Seconds(1));
      const HttpResponse voted =
          broker.Post(broker.Target("/approvals"),
                      policy::testing::Voted(broker.history(), next, owner, broker.clock.Now()));
      ASSERT_EQ(voted.status, 200) << voted.body;
    }
    ASSERT_EQ(JsonOf(broker.Ask("vendor", "GET", broker.Target()))["in_force"]["version"],
              next.version);
  }
  policy::Agreement Next() const {
    return policy::testing::NextOf(policy::testing::Payload(broker.agreement));
  }

  TestSession session;
  std::string run;
  const Digest32 sealed = policy::testing::DigestOf("sealed output");
};

// A proposal that nobody else approved puts the thief's keys beside the recipient's name.
TEST_F(OutputTest, AnOpenProposalNamesNoRecipient) {
  ASSERT_EQ(Deposit().status, 201);
  ASSERT_EQ(Approve("clinic-a"), 201);
  ASSERT_EQ(Approve("clinic-b"), 201);
  policy::Agreement next = Next();
  next.stakeholders.erase("vendor");
  next.stakeholders.emplace("vendor", policy::testing::StakeholderOf("thief"));
  ASSERT_EQ(
      broker.Post("/pavise/v1/agreements", policy::testing::Proposed(next, "clinic-a")).status,
      200);
  EXPECT_EQ(Fetch("thief").status, 403);
  EXPECT_EQ(Fetch("vendor").status, 200);
}

// More words than one page of the store, and the refusal behind them.
TEST_F(OutputTest, ARefusalCountsBehindAThousandApprovals) {
  ASSERT_EQ(Deposit().status, 201);
  ASSERT_EQ(Approve("clinic-a"), 201);
  ASSERT_EQ(Approve("clinic-b"), 201);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(Approve("vendor"), 201);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  ASSERT_EQ(Fetch("vendor").status, 200);
  ASSERT_EQ(Approve("clinic-b", false), 201);
  EXPECT_EQ(Fetch("vendor").status, 403);
}

TEST_F(OutputTest, AnOldApprovalDoesNotComeBack) {
  ASSERT_EQ(Deposit().status, 201);
  ASSERT_EQ(Approve("clinic-a"), 201);
  const auto say = [&](bool approved, absl::Duration ahead) {
    const policy::OutputApproval approval{
        broker.history().id(),     run, "tuned", sealed, {"vendor"}, approved,
        broker.clock.Now() + ahead};
    return broker.Post(broker.Target("/output-approvals"),
                       policy::testing::Signed(policy::kOutputApprovalType,
                                               policy::Format(approval).value(), "clinic-b"));
  };
  broker.clock.Advance(absl::Minutes(1));
  EXPECT_EQ(say(true, absl::ZeroDuration()).status, 201);
  EXPECT_EQ(Fetch("vendor").status, 200);
  EXPECT_EQ(say(false, absl::ZeroDuration()).status, 201);
  EXPECT_EQ(Fetch("vendor").status, 403);
  EXPECT_EQ(ReasonOfProblem(say(true, absl::ZeroDuration())), "version-too-old");
  EXPECT_EQ(ReasonOfProblem(say(true, -absl::Seconds(30))), "version-too-old");
  EXPECT_EQ(ReasonOfProblem(say(true, absl::Hours(1))), "policy-denied");
  EXPECT_EQ(Fetch("vendor").status, 403);
  EXPECT_EQ(say(true, absl::Seconds(1)).status, 201);
  EXPECT_EQ(Fetch("vendor").status, 200);
}

// Two of three change the agreement under a run that has the third one's data.
TEST_F(OutputTest, AnOwnerWhoseDataWereDroppedStillApproves) {
  ASSERT_EQ(session.Get("scans-a").status, 200);
  policy::Agreement next = Next();
  next.stages.at("train").inputs.erase("scans-a");
  Change(next, {"vendor", "clinic-b"});
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  EXPECT_EQ(HeaderOf(session.Get("base"), "Pavise-Run"), run);
  ASSERT_EQ(Deposit().status, 201);
  ASSERT_EQ(Approve("clinic-b"), 201);
  EXPECT_EQ(Fetch("vendor").status, 403);
  ASSERT_EQ(Approve("clinic-a"), 201);
  EXPECT_EQ(Fetch("vendor").status, 200);
}

TEST_F(OutputTest, AMachineThatWasNotAppraisedLatelyDepositsNothing) {
  broker.clock.Advance(absl::Minutes(6));
  EXPECT_EQ(Deposit().status, 403);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  EXPECT_EQ(Deposit().status, 201);
  // Nor one that was appraised for the version before.
  Change(Next(), {"vendor", "clinic-b"});
  EXPECT_EQ(Deposit().status, 403);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  EXPECT_EQ(Deposit().status, 201);
}

// A run stays in the mode that it is recorded in.
TEST(RunModeTest, DoesNotChange) {
  TestBroker broker;
  policy::Agreement agreement = broker.agreement;
  auto& modes = agreement.stages.at("train").modes;
  // The same machine, which has no TEE: the mode is what counts here.
  ASSERT_TRUE(modes.contains(policy::Mode::kMeasured));
  broker.Agree(agreement);
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  ASSERT_EQ(session.Get("base").status, 200);
  const std::string key_id = session.key.public_key().Fingerprint();
  const absl::Status found = broker.store().Read([&](StoreReader& reader) -> absl::Status {
    EXPECT_TRUE(FindOpenRun(reader, broker.id, "train", "measured", key_id).value().has_value());
    return FindOpenRun(reader, broker.id, "train", "tee", key_id).status();
  });
  EXPECT_EQ(ReasonOf(found), Reason::kBindingMismatch);
}

TEST_F(ServiceTest, TenantsAreApart) {
  EXPECT_EQ(broker.Ask("stranger", "GET", broker.Target()).status, 404);
  EXPECT_EQ(broker.Ask("stranger", "GET", broker.Target("/decisions")).status, 404);
  EXPECT_EQ(broker.Ask("stranger", "GET", broker.Target("/ledger")).status, 404);
  EXPECT_THAT(JsonOf(broker.Ask("stranger", "GET", "/pavise/v1/agreements"))["agreements"],
              IsEmpty());
  EXPECT_THAT(JsonOf(broker.Ask("vendor", "GET", "/pavise/v1/agreements"))["agreements"],
              ElementsAre(broker.id));
  // Nobody deposits for another, and no file that the agreement does not pin gets in.
  EXPECT_NE(broker.Deposit("scans-a", "vendor").status, 201);
  EXPECT_NE(broker.Deposit("scans-a", "stranger").status, 201);
  const std::string file = "something";
  const std::string digest = ToHex(policy::testing::DigestOf(file));
  EXPECT_NE(broker.Ask("vendor", "PUT", broker.Target("/attachments/" + digest), file).status, 201);
  EXPECT_NE(broker.Ask("vendor", "PUT", broker.Target("/attachments/" + digest), "other").status,
            201);
}

// A key that was encrypted for one agreement, copied into the thief's own.
TEST_F(ServiceTest, ADepositOfAnothersKeyDoesNotOpen) {
  const std::string first_id = broker.id;
  const Digest32 sealed = broker.agreement.assets.at("scans-a").sealed;
  const crypto::PublicKey broker_key = broker.service().keys().current_encryption().public_key();
  const std::string stolen =
      crypto::EncryptJwe(ContentKeyOf("scans-a"), broker_key, "broker",
                         AsBytes(DepositBinding(first_id, "scans-a", sealed, KeyIdOf("clinic-a"))))
          .value()
          .dump();
  policy::Agreement own = broker.agreement;
  own.name = "the vendor's own";
  own.assets.at("scans-a").owner = "vendor";
  own.assets.at("scans-b").owner = "vendor";
  broker.Agree(own);
  broker.clock.Advance(absl::Seconds(1));
  const policy::Deposit deposit{broker.history().id(),    "scans-a", sealed,
                                broker_key.Fingerprint(), stolen,    broker.clock.Now()};
  const HttpResponse refused = broker.Post(
      broker.Target("/deposits"),
      policy::testing::Signed(policy::kDepositType, policy::Format(deposit).value(), "vendor"));
  EXPECT_EQ(ReasonOfProblem(refused), "binding-mismatch");
}

// Two of three drop clinic-a's scans and add them again as clinic-b's own, with the key that
// clinic-a encrypted to this broker: for this agreement, this asset and this sealed file.
TEST_F(OutputTest, ADepositIsItsDepositorsAlone) {
  const Digest32 scans = broker.agreement.assets.at("scans-a").sealed;
  const crypto::PublicKey broker_key = broker.service().keys().current_encryption().public_key();
  const auto encrypted_by = [&](const std::string& owner) {
    return crypto::EncryptJwe(ContentKeyOf("scans-a"), broker_key, "broker",
                              AsBytes(DepositBinding(broker.id, "scans-a", scans, KeyIdOf(owner))))
        .value()
        .dump();
  };
  policy::Agreement dropped = Next();
  const policy::Asset asset = dropped.assets.at("scans-a");
  dropped.assets.erase("scans-a");
  dropped.stages.erase("audit");
  dropped.stages.at("train").inputs.erase("scans-a");
  Change(dropped, {"vendor", "clinic-b"});
  policy::Agreement taken = policy::testing::NextOf(policy::testing::Payload(dropped));
  taken.assets["scans-a"] = asset;
  taken.assets.at("scans-a").owner = "clinic-b";
  taken.stages.at("train").inputs.insert("scans-a");
  Change(taken, {"vendor", "clinic-b"});
  const auto deposit = [&](const std::string& signer, const std::string& encrypted) {
    broker.clock.Advance(absl::Seconds(1));
    const policy::Deposit statement{broker.history().id(),    "scans-a", scans,
                                    broker_key.Fingerprint(), encrypted, broker.clock.Now()};
    return broker.Post(
        broker.Target("/deposits"),
        policy::testing::Signed(policy::kDepositType, policy::Format(statement).value(), signer));
  };
  EXPECT_EQ(ReasonOfProblem(deposit("clinic-b", encrypted_by("clinic-a"))), "binding-mismatch");
  EXPECT_EQ(ReasonOfProblem(deposit("clinic-a", encrypted_by("clinic-a"))), "signer-untrusted");
  // What lies there since version 1 is clinic-a's and counts for nothing.
  TestSession thief(broker);
  ASSERT_EQ(thief.AuthAndAttest().status, 200);
  EXPECT_EQ(thief.Get("scans-a").status, 403);
  // Who knows the key deposits it.
  EXPECT_EQ(deposit("clinic-b", encrypted_by("clinic-b")).status, 201);
}

TEST_F(ServiceTest, OldDepositsDoNotComeBack) {
  EXPECT_EQ(ReasonOfProblem(broker.Deposit("base", "vendor")), "version-too-old");
  broker.clock.Advance(absl::Seconds(1));
  EXPECT_EQ(broker.Deposit("base", "vendor").status, 201);
}

TEST_F(ServiceTest, ADepositOfTomorrowIsRefused) {
  broker.clock.Advance(absl::Hours(1));
  const absl::Time before = broker.clock.Now();
  const policy::Deposit deposit = [&] {
    const crypto::PublicKey key = broker.service().keys().current_encryption().public_key();
    const Digest32 sealed = broker.agreement.assets.at("base").sealed;
    return policy::Deposit{
        broker.history().id(),
        "base",
        sealed,
        key.Fingerprint(),
        crypto::EncryptJwe(ContentKeyOf("base"), key, "broker",
                           AsBytes(DepositBinding(broker.id, "base", sealed, KeyIdOf("vendor"))))
            .value()
            .dump(),
        before + absl::Hours(24 * 365)};
  }();
  EXPECT_EQ(broker
                .Post(broker.Target("/deposits"),
                      policy::testing::Signed(policy::kDepositType, policy::Format(deposit).value(),
                                              "vendor"))
                .status,
            400);
  EXPECT_EQ(broker.Deposit("base", "vendor").status, 201);
}

// A service of its own on the same store stands for another broker. What this one knows of the
// agreement is old when the machine comes again.
TEST(VersionsTest, OneThatAnotherBrokerPutInForceIsAppraised) {
  TestBroker broker;
  broker.Agree(broker.agreement);
  TestSession session(broker);
  const auto version = [&]() -> Json {
    const HttpResponse attested = session.AuthAndAttest();
    EXPECT_EQ(attested.status, 200) << attested.body;
    const std::string token = JsonOf(attested)["token"];
    const size_t begin = token.find('.') + 1;
    const Bytes claims =
        FromBase64Url(std::string_view(token).substr(begin, token.find('.', begin) - begin),
                      "token")
            .value();
    return Json::parse(AsText(claims))["pavise_agreement"]["version"];
  };
  EXPECT_EQ(version(), 1);
  const auto other = Service::Create(broker.options());
  ASSERT_TRUE(other.ok()) << other.status();
  const auto post = [&](const std::string& target, ByteSpan body) {
    broker.clock.Advance(absl::Seconds(1));
    HttpRequest request;
    request.method = "POST";
    request.path = target;
    request.body = std::string(AsText(body));
    request.peer = broker.peer;
    return (*other)->Handle(request).status;
  };
  const policy::Agreement next =
      policy::testing::NextOf(policy::testing::Payload(broker.agreement));
  ASSERT_EQ(post("/pavise/v1/agreements", policy::testing::Proposed(next, "vendor")), 200);
  for (const char* const owner : {"vendor", "clinic-b"}) {
    broker.clock.Advance(absl::Seconds(1));
    ASSERT_EQ(post(broker.Target("/approvals"),
                   policy::testing::Voted(broker.history(), next, owner, broker.clock.Now())),
              200)
        << owner;
  }
  EXPECT_EQ(version(), 2);
  EXPECT_EQ(session.Get("base").status, 200);
}

// The vendor proposes a next version; what comes back abstains from it as an owner, each time anew.
auto VotesOnNext(TestBroker& broker) {
  policy::Agreement next = policy::testing::NextOf(policy::testing::Payload(broker.agreement));
  next.name = "next";
  broker.clock.Advance(absl::Seconds(1));
  EXPECT_EQ(broker.Post("/pavise/v1/agreements", policy::testing::Proposed(next, "vendor")).status,
            200);
  return [&broker, next](const std::string& owner) {
    broker.clock.Advance(absl::Seconds(1));
    return broker.Post(broker.Target("/approvals"),
                       policy::testing::Voted(broker.history(), next, owner, broker.clock.Now(),
                                              policy::Vote::kAbstain));
  };
}

// Each new statement replays those before it: nobody piles them up.
TEST(StatementsTest, OneKeySignsABoundedNumber) {
  TestBroker broker;
  broker.limits.statements_of_key = 5;
  broker.Agree(broker.agreement);
  const auto vote = VotesOnNext(broker);
  int taken = 0;
  while (taken < 10 && vote("vendor").status == 200) ++taken;
  EXPECT_EQ(taken, 3);  // beside its approval of version 1 and its proposal
  EXPECT_EQ(ReasonOfProblem(vote("vendor")), "limit-exceeded");
  // Others are not kept from speaking.
  EXPECT_EQ(vote("clinic-b").status, 200);
}

TEST(StatementsTest, WhoFillsAnAgreementStopsNoWithdrawal) {
  TestBroker broker;
  broker.limits.statements_of_agreement = 8;
  broker.Agree(broker.agreement);
  const auto vote = VotesOnNext(broker);
  int taken = 0;
  while (taken < 10 && vote("vendor").status == 200) ++taken;
  EXPECT_EQ(taken, 3);  // beside four statements of version 1 and the proposal
  EXPECT_EQ(ReasonOfProblem(vote("clinic-b")), "limit-exceeded");
  broker.clock.Advance(absl::Seconds(1));
  EXPECT_EQ(broker
                .Post(broker.Target("/withdrawals"),
                      policy::testing::Withdrawn(broker.history(), {"scans-b"}, "clinic-b",
                                                 broker.clock.Now()))
                .status,
            200);
  TestSession session(broker);
  EXPECT_EQ(session.AuthAndAttest().status, 401);
}

// Nothing is replayed for a signature that is none of the agreement's.
TEST_F(ServiceTest, StatementsOfStrangersAreRefusedBeforeTheyAreLookedAt) {
  for (const char* path : {"/approvals", "/withdrawals", "/deposits", "/output-approvals"}) {
    const std::string_view type = path[1] == 'a'   ? policy::kApprovalType
                                  : path[1] == 'w' ? policy::kWithdrawalType
                                  : path[1] == 'd' ? policy::kDepositType
                                                   : policy::kOutputApprovalType;
    EXPECT_EQ(ReasonOfProblem(broker.Post(broker.Target(path),
                                          policy::testing::Signed(type, "{}", "stranger"))),
              "signer-untrusted");
    // In a stakeholder's name.
    Json forged = Json::parse(AsText(policy::testing::Signed(type, "{}", "stranger")));
    forged["signatures"][0]["keyid"] = KeyIdOf("vendor");
    const std::string reason =
        ReasonOfProblem(broker.Send("POST", broker.Target(path), forged.dump()));
    EXPECT_TRUE(reason == "signature-invalid" || reason == "key-mismatch") << reason;
    // Of an agreement that is not there, as of another tenant's.
    EXPECT_EQ(
        ReasonOfProblem(broker.Post(StrCat("/pavise/v1/agreements/", std::string(64, '0'), path),
                                    policy::testing::Signed(type, "{}", "stranger"))),
        "signer-untrusted");
  }
}

// Anybody can make keys, and sign calls that nobody answers.
TEST(RequestMemoryTest, OneKeyLeavesRoomForOthers) {
  const absl::Time now = policy::testing::kTestTime;
  RequestMemory memory(now);
  VerifiedOwnerCall call{SigningKey("vendor").public_key(), "loud", "", now};
  for (int i = 0; i < 10'000; ++i) {
    call.request_id = std::to_string(i);
    ASSERT_TRUE(memory.Take(call, now).ok());
  }
  call.request_id = "one more";
  EXPECT_EQ(ReasonOf(memory.Take(call, now)), Reason::kLimitExceeded);
  call.key_id = "quiet";
  EXPECT_TRUE(memory.Take(call, now).ok());
  call.time = now + absl::Minutes(5);
  call.key_id = "loud";
  EXPECT_TRUE(memory.Take(call, call.time).ok());
}

TEST_F(ServiceTest, OnlyNamedKeysProposeWhereTheBrokerSaysSo) {
  TestBroker strict;
  strict.proposers = {SigningKey("vendor").public_key().Fingerprint()};
  const HttpResponse refused =
      strict.Post("/pavise/v1/agreements", policy::testing::Proposed(strict.agreement, "clinic-a"));
  EXPECT_EQ(ReasonOfProblem(refused), "signer-untrusted");
  EXPECT_EQ(
      strict.Post("/pavise/v1/agreements", policy::testing::Proposed(strict.agreement, "vendor"))
          .status,
      200);
}

TEST_F(ServiceTest, AStatementIsTakenOnce) {
  const Json before =
      JsonOf(broker.Ask("vendor", "GET", broker.Target("/statements")))["statements"];
  EXPECT_EQ(before.size(), 4u);
  for (const Json& statement : before) {
    const std::string envelope = statement["envelope"];
    const bool is_agreement = envelope.find("agreement+json") != std::string::npos;
    const HttpResponse again = broker.Post(
        is_agreement ? "/pavise/v1/agreements" : broker.Target("/approvals"), AsBytes(envelope));
    EXPECT_EQ(again.status, 200) << again.body;
    EXPECT_THAT(JsonOf(again)["events"], IsEmpty());
  }
  EXPECT_EQ(JsonOf(broker.Ask("vendor", "GET", broker.Target("/statements")))["statements"],
            before);
  // To the wrong path.
  EXPECT_EQ(broker.Post(broker.Target("/withdrawals"), AsBytes(std::string(before[1]["envelope"])))
                .status,
            400);
}

TEST_F(ServiceTest, AnOwnersCallIsTakenOnceAndForThisBrokerOnly) {
  const std::string target = broker.Target();
  const std::string broker_id = broker.service().keys().signing.public_key().Fingerprint();
  const auto header = [&](std::string_view broker_key, std::string_view method,
                          std::string_view path, std::string_view body, absl::Time at) {
    return SignOwnerCall({broker_key, method, path, AsBytes(body)}, at, SystemRandom(),
                         SigningKey("vendor"))
        .value();
  };
  const auto send = [&](const std::string& value) {
    return broker.Send("GET", target, "", {{"pavise-request", value}});
  };
  const absl::Time now = broker.clock.Now();
  const std::string good = header(broker_id, "GET", target, "", now);
  EXPECT_EQ(send(good).status, 200);
  EXPECT_EQ(ReasonOfProblem(send(good)), "nonce-mismatch");
  EXPECT_EQ(broker.Send("GET", target).status, 401);
  EXPECT_EQ(ReasonOfProblem(send(header(std::string(64, 'a'), "GET", target, "", now))),
            "binding-mismatch");
  EXPECT_EQ(ReasonOfProblem(send(header(broker_id, "PUT", target, "", now))), "binding-mismatch");
  EXPECT_EQ(ReasonOfProblem(send(header(broker_id, "GET", target + "/runs", "", now))),
            "binding-mismatch");
  EXPECT_EQ(ReasonOfProblem(send(header(broker_id, "GET", target, "body", now))),
            "binding-mismatch");
  EXPECT_EQ(ReasonOfProblem(send(header(broker_id, "GET", target, "", now + absl::Minutes(3)))),
            "policy-denied");
  EXPECT_EQ(ReasonOfProblem(send(header(broker_id, "GET", target, "", now - absl::Minutes(3)))),
            "policy-denied");
  std::string flipped = header(broker_id, "GET", target, "", now);
  flipped[flipped.size() / 2] = flipped[flipped.size() / 2] == 'A' ? 'B' : 'A';
  EXPECT_EQ(send(flipped).status, 401);
  // What was signed before a restart is nothing afterwards.
  const std::string held = header(broker_id, "GET", target, "", broker.clock.Now());
  broker.clock.Advance(absl::Seconds(5));
  broker.Restart();
  EXPECT_EQ(ReasonOfProblem(send(held)), "policy-denied");
}

// A database whose file a test changes for another.
class MovableDatabase final : public testing::TestDatabase {
 public:
  explicit MovableDatabase(std::string path) : path(std::move(path)) {}
  StoreOptions options() const override {
    StoreOptions options;
    options.location = path;
    return options;
  }
  void Execute(const std::string&) override { ADD_FAILURE() << "not here"; }
  std::string Content() override { return ""; }
  std::string path;
};

TEST(ClockTest, DrillTheClockJumpedAhead) {
  const pavise::testing::TemporaryDirectory directory;
  auto made = std::make_unique<MovableDatabase>(directory / "broker.db");
  MovableDatabase* const database = made.get();
  TestBroker broker(std::move(made));
  broker.Agree(broker.agreement);
  EXPECT_EQ(broker.Send("GET", "/healthz").status, 200);
  for (const std::string end : {"", "-wal"}) {
    std::filesystem::copy_file(directory / ("broker.db" + end), directory / ("copy.db" + end));
  }
  // One entry of next year's, then the clock is right again.
  constexpr absl::Duration kYear = absl::Hours(24 * 365);
  broker.clock.Advance(kYear);
  broker.Restart();
  broker.clock.Advance(-kYear);
  for (const bool restarted : {false, true}) {
    if (restarted) broker.Restart();
    EXPECT_EQ(broker.Send("GET", "/healthz").status, 503);
    const HttpResponse refused = broker.Ask("vendor", "GET", broker.Target());
    EXPECT_EQ(ReasonOfProblem(refused), "platform-insecure") << refused.body;
    TestSession session(broker);
    if (session.AuthAndAttest().status == 200) EXPECT_NE(session.Get("base").status, 200);
  }
  EXPECT_THAT(broker.log, HasSubstr("clock-behind-ledger"));
  // The copy from before, back in place.
  database->path = directory / "copy.db";
  broker.clock.Advance(absl::Seconds(1));
  broker.Restart();
  EXPECT_EQ(broker.Send("GET", "/healthz").status, 200);
  EXPECT_EQ(broker.Ask("vendor", "GET", broker.Target()).status, 200);
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  EXPECT_EQ(session.Key(session.Get("base")), Text(ContentKeyOf("base")));
}

TEST_F(ServiceTest, DrillKeyRotation) {
  const std::string old_key = broker.service().keys().encryption_id;
  const auto rotated = Service::Rotate(broker.options(), BrokerKeyUse::kEncryption);
  ASSERT_TRUE(rotated.ok()) << rotated.status();
  EXPECT_EQ(rotated->previous, old_key);
  ASSERT_TRUE(Service::Rotate(broker.options(), BrokerKeyUse::kSigning).ok());
  // Encrypted to the old key, by an owner who does not know yet.
  broker.clock.Advance(absl::Seconds(1));
  broker.Restart();
  EXPECT_EQ(broker.service().keys().encryption_id, rotated->current);
  // What was deposited before is still released; what is deposited now goes to the new key.
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  EXPECT_EQ(session.Key(session.Get("base")), Text(ContentKeyOf("base")));
  EXPECT_EQ(broker.Deposit("base", "vendor").status, 201);
  EXPECT_EQ(session.Key(session.Get("base")), Text(ContentKeyOf("base")));
}

TEST_F(ServiceTest, DrillAnOwnersLostKey) {
  // clinic-a lost its keys: version 2 has new ones, which the change rule (2 of 3) puts in force.
  policy::Agreement next = policy::testing::NextOf(policy::testing::Payload(broker.agreement));
  next.stakeholders.erase("clinic-a");
  next.stakeholders.emplace("clinic-a", policy::testing::StakeholderOf("clinic-a again"));
  const auto vote = [&](const std::string& key) {
    broker.clock.Advance(absl::Seconds(1));
    return broker.Post(broker.Target("/approvals"),
                       policy::testing::Voted(broker.history(), next, key, broker.clock.Now()));
  };
  broker.clock.Advance(absl::Seconds(1));
  const HttpResponse proposed =
      broker.Post("/pavise/v1/agreements", policy::testing::Proposed(next, "vendor"));
  ASSERT_EQ(proposed.status, 200) << proposed.body;
  EXPECT_EQ(JsonOf(proposed)["agreement"], broker.id);
  EXPECT_EQ(vote("vendor").status, 200);
  EXPECT_EQ(vote("clinic-b").status, 200);
  // Approved by enough, but not yet by the new key.
  EXPECT_EQ(JsonOf(broker.Ask("vendor", "GET", broker.Target()))["in_force"]["version"], 1);
  EXPECT_EQ(vote("clinic-a again").status, 200);
  EXPECT_EQ(JsonOf(broker.Ask("vendor", "GET", broker.Target()))["in_force"]["version"], 2);
  // The old key speaks for nobody, what it deposited stays.
  EXPECT_NE(Withdraw("scans-a", "clinic-a").status, 200);
  EXPECT_EQ(ReasonOfProblem(broker.Deposit("scans-a", "clinic-a")), "signer-untrusted");
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  EXPECT_EQ(session.Key(session.Get("scans-a")), Text(ContentKeyOf("scans-a")));
  EXPECT_EQ(Withdraw("scans-a", "clinic-a again").status, 200);
}

TEST_F(ServiceTest, TenThousandHalfOpenSessionsKeepNobodyOut) {
  TestSession early(broker);
  ASSERT_EQ(early.Auth().status, 200);
  for (int i = 0; i < 10'000; ++i) {
    kbs::AuthRequest request;
    request.purpose = {broker.id, "train", "measured"};
    ASSERT_EQ(broker.Send("POST", kbs::kAuthPath, kbs::FormatAuthRequest(request)).status, 200);
  }
  EXPECT_EQ(early.Attest(early.Attestation(broker.machine)).status, 200);
  // Bounded: beyond the limit the oldest goes, the newest stays.
  TestBroker small;
  small.limits.max_challenges = 10;
  small.Agree(small.agreement);
  TestSession first(small);
  ASSERT_EQ(first.Auth().status, 200);
  std::vector<std::unique_ptr<TestSession>> later;
  for (int i = 0; i < 10; ++i) {
    later.push_back(std::make_unique<TestSession>(small));
    ASSERT_EQ(later.back()->Auth().status, 200);
  }
  EXPECT_EQ(ReasonOfProblem(first.Attest(first.Attestation(small.machine))), "nonce-mismatch");
  EXPECT_EQ(later.back()->Attest(later.back()->Attestation(small.machine)).status, 200);
}

// Evidence that names the session of somebody else's run.
TEST_F(ServiceTest, NobodyElseStopsARun) {
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  ASSERT_EQ(session.Get("base").status, 200);
  const TestMachine changed("another image");
  const auto evidence_of = [&](const TestMachine& machine, const Digest32& nonce) {
    kbs::Attestation attestation{
        kbs::MakeRuntimeData(nonce, session.key.public_key()).value(), {}, "", {}};
    attestation.primary_evidence =
        Json::parse(evidence::ToJson(machine.Evidence(nonce, session.key.public_key())).value());
    return kbs::FormatAttestation(attestation);
  };
  const auto forge = [&](const std::function<std::string(const Digest32&)>& make) {
    TestSession forger(broker);
    EXPECT_EQ(forger.Auth().status, 200);
    const HttpResponse refused = forger.Attest(make(forger.nonce));
    EXPECT_EQ(refused.status, 401);
    EXPECT_EQ(session.Get("base").status, 200);
  };
  // Of a machine of the forger's own, whose key nobody enrolled.
  forge([&](const Digest32& nonce) { return evidence_of(changed, nonce); });
  // Of the run's machine, with a signature that it did not make.
  forge([&](const Digest32& nonce) {
    Json message = Json::parse(evidence_of(broker.machine, nonce));
    std::string text = message["tee-evidence"]["primary_evidence"].dump();
    const evidence::CompositeEvidence other = broker.machine.Evidence(nonce);
    evidence::CompositeEvidence composite = evidence::FromJson(AsBytes(text), "evidence").value();
    composite.parts[0].items["signature"] = other.parts[0].items.at("signature");
    message["tee-evidence"]["primary_evidence"] = Json::parse(evidence::ToJson(composite).value());
    return message.dump();
  });
  // Of the run's machine for an earlier challenge, dressed up for this one.
  TestSession earlier(broker);
  ASSERT_EQ(earlier.Auth().status, 200);
  broker.machine.Boot("another image");
  const Json old_evidence =
      Json::parse(evidence_of(broker.machine, earlier.nonce))["tee-evidence"]["primary_evidence"];
  broker.machine.Boot("the agreed image");
  forge([&](const Digest32& nonce) {
    Json message = Json::parse(evidence_of(broker.machine, nonce));
    message["tee-evidence"]["primary_evidence"] = old_evidence;
    return message.dump();
  });
  std::vector<std::string> kinds = ProvenKinds(broker);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "refusal"), 3);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "revocation"), 0);
  // The machine's own word stops it, also where its cookie is forgotten.
  broker.machine.Boot("another image");
  TestSession again(broker);
  ASSERT_EQ(again.Auth().status, 200);
  EXPECT_EQ(again.Attest(evidence_of(broker.machine, again.nonce)).status, 401);
  EXPECT_EQ(ReasonOfProblem(session.Get("base")), "revoked");
  kinds = ProvenKinds(broker);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "revocation"), 1);
}

TEST_F(ServiceTest, RefusalsBeyondALimitShareAnEntry) {
  broker.limits.refusals_recorded_of_source = 2;
  broker.limits.refusals_recorded_of_agreement = 3;
  broker.Restart();
  const TestMachine changed("another image");
  const auto refuse = [&](int times) {
    for (int i = 0; i < times; ++i) {
      TestSession session(broker);
      ASSERT_EQ(session.Auth().status, 200);
      ASSERT_EQ(session.Attest(session.Attestation(changed)).status, 401);
    }
  };
  const auto refusals = [&] {
    const std::vector<std::string> kinds = ProvenKinds(broker);
    return std::count(kinds.begin(), kinds.end(), "refusal");
  };
  refuse(2);
  EXPECT_EQ(refusals(), 2);
  refuse(5);
  // Two and one for the five; asking again adds nothing.
  EXPECT_EQ(refusals(), 3);
  EXPECT_EQ(refusals(), 3);
  EXPECT_EQ(broker.Decisions("vendor").size(), 2u);
  const HttpResponse ledger = broker.Ask("vendor", "GET", broker.Target("/ledger"));
  EXPECT_THAT(ledger.body, HasSubstr("5 more from"));
  // What is released has its entry, whatever was refused.
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  ASSERT_EQ(session.Get("base").status, 200);
  EXPECT_THAT(ProvenKinds(broker), Contains("release"));
  // Another source has its own share, and the agreement has no more after it.
  EXPECT_EQ(session.Get("no-such-asset").status, 403);
  EXPECT_EQ(session.Get("no-such-asset").status, 403);
  // The service's end, and an hour's.
  refuse(3);
  broker.Restart();
  EXPECT_EQ(refusals(), 5);
  EXPECT_THAT(broker.Ask("vendor", "GET", broker.Target("/ledger")).body, HasSubstr("4 more from"));
  refuse(1);
  broker.clock.Advance(absl::Hours(2));
  refuse(1);
  EXPECT_EQ(refusals(), 7);
}

// So can a stakeholder who asks for an output that is not released.
TEST_F(OutputTest, ARecipientsRefusalsShareAnEntryToo) {
  broker.limits.refusals_recorded_of_source = 2;
  broker.Restart();
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  ASSERT_EQ(Deposit().status, 201);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Fetch("vendor").status, 403);
  const std::vector<std::string> kinds = ProvenKinds(broker);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "refusal"), 3);
}

TEST(RefusalBudgetTest, CountsByHourSourceAndAgreement) {
  const absl::Time now = policy::testing::kTestTime;
  RefusalBudget budget(2, 3);
  EXPECT_TRUE(budget.Take("a", "x", now));
  EXPECT_TRUE(budget.Take("a", "x", now));
  EXPECT_FALSE(budget.Take("a", "x", now));
  EXPECT_TRUE(budget.Take("a", "y", now));
  EXPECT_FALSE(budget.Take("a", "z", now));
  EXPECT_TRUE(budget.Take("b", "x", now));
  EXPECT_EQ(budget.Drain("b", now, true), std::nullopt);
  EXPECT_EQ(budget.Drain("a", now, false), std::nullopt);
  // A clock that is set back begins no new hour.
  EXPECT_FALSE(budget.Take("a", "x", now - absl::Hours(3)));
  const auto drained = budget.Drain("a", now, true);
  ASSERT_TRUE(drained.has_value());
  EXPECT_EQ(drained->count, 3u);
  EXPECT_EQ(budget.Drain("a", now, true), std::nullopt);
  budget.Restore("a", *drained);
  EXPECT_EQ(budget.Drain("a", now + absl::Seconds(59), true), std::nullopt);
  EXPECT_EQ(budget.Drain("a", now + absl::Minutes(1), true)->count, 3u);
  EXPECT_TRUE(budget.Take("a", "x", now + absl::Hours(1)));
}

// A stranger behind the machine's own address does not keep it from being appraised again.
TEST_F(ServiceTest, AnotherSessionsRefusalsAreNotThisOnes) {
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  ASSERT_EQ(session.Get("base").status, 200);
  const TestMachine changed("another image");
  for (int i = 0; i < 61; ++i) {
    TestSession stranger(broker);
    ASSERT_EQ(stranger.Auth().status, 200);
    EXPECT_EQ(stranger.Attest(stranger.Attestation(changed)).status, i < 60 ? 401 : 429);
  }
  EXPECT_EQ(session.AuthAndAttest().status, 200);
  EXPECT_EQ(session.Get("scans-a").status, 200);
  for (int i = 0; i < 60; ++i) EXPECT_EQ(session.Get("no-such-asset").status, 403);
  EXPECT_EQ(session.Get("no-such-asset").status, 429);
}

// A stage that cannot be prepared costs as much as an appraisal.
TEST_F(ServiceTest, WhatCannotBeAppraisedCountsAsRefused) {
  int refused = 0;
  int turned_away = 0;
  for (int i = 0; i < 70; ++i) {
    TestSession session(broker, "no-such-stage");
    ASSERT_EQ(session.Auth().status, 200);
    const int status = session.Attest(session.Attestation(broker.machine)).status;
    refused += status == 401;
    turned_away += status == 429;
  }
  EXPECT_EQ(refused, 60);
  EXPECT_EQ(turned_away, 10);
  EXPECT_THAT(broker.metrics.Serialize(),
              HasSubstr("pavise_broker_refusals_total{reason=\"policy-denied\"} 60"));
}

TEST_F(ServiceTest, StrangersBringAFewAgreementsOnly) {
  broker.limits.agreements_an_hour = 3;
  broker.limits.agreements_of_key = 2;
  broker.Restart();
  const auto propose = [&](const std::string& name, const std::string& owner) {
    policy::Agreement next = broker.agreement;
    next.name = name;
    return broker.Post("/pavise/v1/agreements", policy::testing::Proposed(next, owner));
  };
  // clinic-a brought one before. What is there already is no new one.
  policy::Agreement first = broker.agreement;
  first.name = "first";
  const Bytes envelope_of_first = policy::testing::Proposed(first, "clinic-a");
  EXPECT_EQ(broker.Post("/pavise/v1/agreements", envelope_of_first).status, 200);
  EXPECT_EQ(broker.Post("/pavise/v1/agreements", envelope_of_first).status, 200);
  EXPECT_EQ(ReasonOfProblem(propose("second", "clinic-a")), "limit-exceeded");
  EXPECT_EQ(propose("second", "clinic-b").status, 200);
  const HttpResponse refused = propose("third", "vendor");
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(ReasonOfProblem(refused), "limit-exceeded");
  broker.clock.Advance(absl::Hours(1));
  EXPECT_EQ(propose("third", "vendor").status, 200);
  // Signed by nobody, or by somebody whom the agreement does not name.
  policy::Agreement next = broker.agreement;
  next.name = "unsigned";
  Json envelope = Json::parse(AsText(policy::testing::Proposed(next, "vendor")));
  envelope["signatures"] = Json::array();
  EXPECT_EQ(broker.Send("POST", "/pavise/v1/agreements", envelope.dump()).status, 400);
  EXPECT_EQ(ReasonOfProblem(propose("unsigned", "stranger")), "signer-untrusted");
}

TEST_F(ServiceTest, AProposalsFilesAreBoundedUntilItIsInForce) {
  TestBroker small;
  small.limits.proposed_attachment_bytes = 10;
  const HttpResponse proposed =
      small.Post("/pavise/v1/agreements", policy::testing::Proposed(small.agreement, "clinic-a"));
  const Json answer = JsonOf(proposed);
  small.id = answer["agreement"];
  const std::string file = answer["attachments_missing"][0];
  const Bytes content = small.files.Read(Digest32FromHex(file, "file").value()).value();
  EXPECT_EQ(ReasonOfProblem(
                small.Ask("vendor", "PUT", small.Target("/attachments/" + file), AsText(content))),
            "limit-exceeded");
}

// Of a list an owner gets what is theirs, a page at a time; a stranger costs one look.
TEST_F(ServiceTest, AgreementsAreListedByPages) {
  broker.limits.agreements_an_hour = 1'000;
  broker.Restart();
  for (int i = 0; i < 60; ++i) {
    policy::Agreement next = broker.agreement;
    next.name = StrCat("agreement ", i);
    ASSERT_EQ(
        broker.Post("/pavise/v1/agreements", policy::testing::Proposed(next, "vendor")).status,
        200);
  }
  const Json first = JsonOf(broker.Ask("clinic-b", "GET", "/pavise/v1/agreements"));
  EXPECT_EQ(first["agreements"].size(), 50u);
  ASSERT_TRUE(first["next"].is_number());
  const Json second = JsonOf(broker.Ask(
      "clinic-b", "GET", StrCat("/pavise/v1/agreements?after=", first["next"].get<uint64_t>())));
  EXPECT_EQ(second["agreements"].size(), 11u);
  EXPECT_TRUE(second["next"].is_null());
  const Json none = JsonOf(broker.Ask("stranger", "GET", "/pavise/v1/agreements"));
  EXPECT_THAT(none["agreements"], IsEmpty());
  EXPECT_TRUE(none["next"].is_null());
  EXPECT_EQ(broker.Ask("clinic-b", "GET", "/pavise/v1/agreements?after=x").status, 400);
}

// One peer's challenges push out its own, not those that others are about to answer.
TEST_F(ServiceTest, AFloodOfChallengesIsItsSendersOnly) {
  broker.limits.max_challenges = 40;
  broker.Restart();
  TestSession session(broker);
  ASSERT_EQ(session.Auth().status, 200);
  broker.peer = "198.51.100.7";
  TestSession first(broker);
  ASSERT_EQ(first.Auth().status, 200);
  for (int i = 0; i < 100; ++i) {
    TestSession flood(broker);
    ASSERT_EQ(flood.Auth().status, 200);
  }
  TestSession last(broker);
  ASSERT_EQ(last.Auth().status, 200);
  EXPECT_EQ(ReasonOfProblem(first.Attest(first.Attestation(broker.machine))), "nonce-mismatch");
  EXPECT_EQ(last.Attest(last.Attestation(broker.machine)).status, 200);
  broker.peer = "192.0.2.1";
  EXPECT_EQ(session.Attest(session.Attestation(broker.machine)).status, 200);
}

TEST_F(ServiceTest, AFloodOfRefusedEvidenceIsNotRecordedForEver) {
  const TestMachine changed("another image");
  int refused = 0;
  int turned_away = 0;
  for (int i = 0; i < 70; ++i) {
    TestSession session(broker);
    ASSERT_EQ(session.Auth().status, 200);
    const int status = session.Attest(session.Attestation(changed)).status;
    refused += status == 401;
    turned_away += status == 429;
  }
  EXPECT_EQ(refused, 60);
  EXPECT_EQ(turned_away, 10);
  broker.clock.Advance(absl::Minutes(2));
  TestSession session(broker);
  EXPECT_EQ(session.AuthAndAttest().status, 200);
}

TEST_F(ServiceTest, LogsAndMetricsHoldNoSecrets) {
  TestSession session(broker);
  ASSERT_EQ(session.AuthAndAttest().status, 200);
  for (const char* asset : {"trainer", "base", "scans-a", "scans-b"}) session.Get(asset);
  session.Get("../../etc/passwd");
  broker.service().UpdateMetrics();
  const std::string metrics = broker.metrics.Serialize();
  EXPECT_THAT(metrics, HasSubstr("pavise_broker_events_total{event=\"release\"} 4"));
  EXPECT_THAT(metrics,
              HasSubstr("pavise_broker_requests_total{route=\"resource\",status=\"200\"}"));
  EXPECT_THAT(broker.log, HasSubstr("\"route\":\"attest\""));
  const std::string cookie = session.cookie.substr(session.cookie.find('=') + 1);
  for (const std::string& text : {broker.log, metrics}) {
    EXPECT_THAT(text, Not(HasSubstr(cookie)));
    EXPECT_THAT(text, Not(HasSubstr("passwd")));
    EXPECT_THAT(text, Not(HasSubstr("PRIVATE KEY")));
    for (const char* asset : {"trainer", "base", "scans-a", "scans-b"}) {
      const SecretBytes key = ContentKeyOf(asset);
      EXPECT_THAT(text, Not(HasSubstr(std::string(key.RevealText()))));
      EXPECT_THAT(text, Not(HasSubstr(ToHex(key.Reveal()))));
      EXPECT_THAT(text, Not(HasSubstr(ToBase64(key.Reveal()))));
      EXPECT_THAT(text, Not(HasSubstr(ToBase64Url(key.Reveal()))));
    }
  }
}

TEST_F(ServiceTest, AnybodyMaySeeKeysAndCheckpoints) {
  const Json shown = JsonOf(broker.Send("GET", "/pavise/v1/broker"));
  EXPECT_EQ(shown["name"], "broker.example/ledger");
  EXPECT_EQ(broker.Send("GET", "/healthz").status, 200);
  const auto note = ledger::ParseCheckpointNote(
      AsBytes(broker.Send("GET", "/pavise/v1/ledger/checkpoint").body), "checkpoint");
  ASSERT_TRUE(note.ok()) << note.status();
  const ledger::CheckpointTrust trust{
      ledger::NoteKey::Parse(std::string(shown["ledger_key"]), "key").value(), {}, 0};
  EXPECT_TRUE(ledger::CheckpointVerifier::Verify(*note, trust, "checkpoint").ok());
  EXPECT_EQ(broker.Send("GET", "/pavise/v1/ledger/consistency?old=1&new=5").status, 200);
  for (const char* query : {"", "?old=1", "?old=5&new=1", "?old=1&new=999999", "?old=1&old=1&new=5",
                            "?old=-1&new=5", "?old=x&new=5"}) {
    EXPECT_EQ(broker.Send("GET", StrCat("/pavise/v1/ledger/consistency", query)).status, 400)
        << query;
  }
  for (const char* path : {"/", "/pavise", "/pavise/v1/", "/pavise/v1/x", "/kbs/v0/auth",
                           "/pavise/v1/runs/a/b", "/kbs/v1/auth"}) {
    EXPECT_EQ(broker.Send("GET", path).status, 404) << path;
  }
  EXPECT_EQ(broker.Send("GET", "/pavise/v1/agreements/zz").status, 400);
  for (const char* body : {"", "{", "[]", "{\"version\":\"0.4.0\"}", "{\"version\":\"9.0.0\"}"}) {
    EXPECT_NE(broker.Send("POST", "/kbs/v0/auth", body).status, 200) << body;
  }
}

// Composite evidence as a machine would collect it.
class TestAttester final : public BrokerAttester {
 public:
  absl::StatusOr<evidence::CompositeEvidence> Collect(const Digest32& nonce,
                                                      const crypto::PublicKey& key) override {
    return machine_.Evidence(nonce, key);
  }

 private:
  const TestMachine machine_;
};

TEST(BrokerAttestationTest, TheBrokersEvidenceIsForItsEncryptionKey) {
  TestBroker broker;
  const std::string nonce(64, '7');
  const auto ask = [&](std::string_view body) {
    return broker.Send("POST", "/pavise/v1/broker/attestation", body);
  };
  EXPECT_EQ(ask(StrCat("{\"nonce\":\"", nonce, "\"}")).status, 404);
  TestAttester attester;
  broker.attester = &attester;
  broker.Restart();
  const HttpResponse answer = ask(StrCat("{\"nonce\":\"", nonce, "\"}"));
  ASSERT_EQ(answer.status, 200) << answer.body;
  const auto composite = evidence::FromJson(AsBytes(answer.body), "evidence");
  ASSERT_TRUE(composite.ok()) << composite.status();
  // The challenge, and the keys that the session key says nothing of.
  const std::string signing = broker.service().keys().signing.public_key().Fingerprint();
  const std::string ledger = broker.service().keys().LedgerNoteKey()->Format();
  const Digest32 challenge = Digest32FromHex(nonce, "nonce").value();
  EXPECT_EQ(composite->nonce, BrokerEvidenceNonce(challenge, signing, ledger).value());
  EXPECT_NE(composite->nonce, BrokerEvidenceNonce(challenge, signing, "another+key").value());
  EXPECT_NE(composite->nonce, BrokerEvidenceNonce(challenge, nonce, ledger).value());
  EXPECT_EQ(composite->session_key,
            broker.service().keys().current_encryption().public_key().der());
  EXPECT_EQ(ask("{}").status, 400);
  EXPECT_EQ(ask("{\"nonce\":\"77\"}").status, 400);
  // One peer has so many a minute of a TPM's time.
  for (int i = 1; i < 60; ++i) ASSERT_EQ(ask(StrCat("{\"nonce\":\"", nonce, "\"}")).status, 200);
  EXPECT_EQ(ask(StrCat("{\"nonce\":\"", nonce, "\"}")).status, 429);
  broker.peer = "198.51.100.7";
  EXPECT_EQ(ask(StrCat("{\"nonce\":\"", nonce, "\"}")).status, 200);
}

TEST(BrokerInitializationTest, IsOnce) {
  TestBroker broker;
  broker.Restart();
  EXPECT_EQ(ReasonOf(Service::Initialize(broker.options(), "again")), Reason::kPolicyDenied);
}

// The same story with the client that the agent uses, over TLS.
TEST(ServiceOverTlsTest, AClientGetsItsKey) {
  TestBroker broker;
  broker.Agree(broker.agreement);
  const pavise::testing::TemporaryDirectory directory;
  crypto::testing::CertificateOptions names;
  names.subject_alternative_name = "DNS:localhost,IP:127.0.0.1";
  names.extended_key_usage = "serverAuth";
  const crypto::testing::TestCertificate certificate = crypto::testing::MakeRoot(names);
  HttpServerOptions server_options;
  server_options.address = "127.0.0.1:0";
  server_options.certificate_file =
      directory.Write("tls.pem", crypto::testing::ChainPem({certificate.certificate}));
  server_options.private_key_file =
      directory.Write("tls.key", certificate.key.ToPem(SecretBytes())->RevealText());
  server_options.body_limit = [&](std::string_view method, std::string_view path) {
    return broker.service().BodyLimit(method, path);
  };
  const auto server = HttpServer::Start(
      server_options, [&](const HttpRequest& request) { return broker.service().Handle(request); });
  ASSERT_TRUE(server.ok()) << server.status();

  kbs::ClientOptions options;
  options.base_url = StrCat("https://127.0.0.1:", (*server)->port());
  options.server_certificate = certificate.certificate.Fingerprint();
  auto client = kbs::Client::Create(options);
  ASSERT_TRUE(client.ok()) << client.status();
  const crypto::PrivateKey key = crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value();
  kbs::Session session(*client, key);
  kbs::AuthRequest request;
  request.purpose = {broker.id, "train", "measured"};
  const auto challenge = session.Auth(request);
  ASSERT_TRUE(challenge.ok()) << challenge.status();
  const std::string evidence =
      evidence::ToJson(broker.machine.Evidence(challenge->nonce, key.public_key())).value();
  const auto token = session.Attest(Json::parse(evidence));
  ASSERT_TRUE(token.ok()) << token.status();
  const kbs::ResourcePath base{broker.id, "train", "base"};
  const auto secret = session.Resource(
      base, kbs::ReleaseBinding(base, "measured", broker.history().id(),
                                broker.service().keys().encryption_id,
                                broker.service().keys().signing.public_key().Fingerprint()));
  ASSERT_TRUE(secret.ok()) << secret.status();
  EXPECT_TRUE(secret->Equals(ContentKeyOf("base")));
  const auto refused = session.Resource({broker.id, "audit", "scans-a"});
  EXPECT_EQ(ReasonOf(refused.status()), Reason::kBindingMismatch);
}

}  // namespace
}  // namespace pavise::broker
