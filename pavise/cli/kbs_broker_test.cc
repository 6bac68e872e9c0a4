// agent::KbsBroker against a broker behind its HTTP server, and against whoever answers in its
// place: the operator of the machine names the broker on the command line.

#include "pavise/agent/kbs_broker.h"

#include <functional>

#include "pavise/base/strings.h"
#include "pavise/broker/http_server.h"
#include "pavise/broker/testing/test_broker.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwt.h"
#include "pavise/kbs/messages.h"
#include "pavise/kbs/token.h"

#include "gtest/gtest.h"

namespace pavise::agent {
namespace {

using broker::HttpRequest;
using broker::HttpResponse;
using broker::testing::ContentKeyOf;
using broker::testing::JsonOf;
using broker::testing::TestBroker;

class KbsBrokerTest : public ::testing::Test {
 protected:
  KbsBrokerTest() {
    broker_.Agree(broker_.agreement);
    broker::HttpServerOptions server;
    server.address = "127.0.0.1:0";
    server.body_limit = [&](std::string_view method, std::string_view path) {
      return broker_.service().BodyLimit(method, path);
    };
    server_ = broker::HttpServer::Start(server, [&](const HttpRequest& request) {
                const HttpResponse answer = broker_.service().Handle(request);
                return between_ ? between_(request, answer) : answer;
              }).value();
    kbs::ClientOptions client;
    client.base_url = StrCat("http://127.0.0.1:", server_->port());
    client.allow_plain_loopback = true;
    client_.emplace(kbs::Client::Create(client).value());
    options_.agreement = broker_.id;
    options_.stage = "train";
    options_.mode = policy::Mode::kMeasured;
    options_.clock = &broker_.clock;
    run_ = std::make_unique<KbsBroker>(*client_, key_, options_);
  }

  absl::StatusOr<std::string> Attest() {
    const auto nonce = run_->Challenge();
    if (!nonce.ok()) return nonce.status();
    return run_->Attest(broker_.machine.Evidence(*nonce, key_.public_key()));
  }

  TestBroker broker_;
  std::function<HttpResponse(const HttpRequest&, HttpResponse)> between_;
  std::unique_ptr<broker::HttpServer> server_;
  std::optional<kbs::Client> client_;
  const crypto::PrivateKey key_ = crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value();
  RunOptions options_;
  std::unique_ptr<KbsBroker> run_;
};

TEST_F(KbsBrokerTest, ARunFromItsChallengeToItsEnd) {
  ASSERT_TRUE(Attest().ok());
  // A key is asked for under a text.
  EXPECT_FALSE(run_->Key("base").ok());
  const auto payload = run_->Agreement();
  ASSERT_TRUE(payload.ok()) << payload.status();
  EXPECT_EQ(ToHex(crypto::Sha256(*payload).value()), broker_.id);
  const auto key = run_->Key("base");
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_TRUE(key->Equals(ContentKeyOf("base")));
  ASSERT_TRUE(run_->RunId().ok());
  ASSERT_TRUE(Attest().ok());
  const absl::Status deposited = run_->DepositOutput("tuned", Digest32{7}, ContentKeyOf("output"));
  EXPECT_TRUE(deposited.ok()) << deposited;
  EXPECT_TRUE(run_->End(true).ok());
}

// Another text than the one in force, with the attacker's code in it.
TEST_F(KbsBrokerTest, AForgedAgreementOpensNoKey) {
  policy::Agreement forged = policy::testing::NextOf(policy::testing::Payload(broker_.agreement));
  forged.stages.at("train").command = {"*"};
  between_ = [&](const HttpRequest& request, HttpResponse answer) {
    if (request.path == "/pavise/v1/session/agreement") {
      answer.body = AsText(policy::testing::Proposed(forged, "thief"));
    }
    return answer;
  };
  forged.stakeholders.emplace("thief", policy::testing::StakeholderOf("thief"));
  ASSERT_TRUE(Attest().ok());
  EXPECT_EQ(ReasonOf(run_->Agreement().status()), Reason::kBindingMismatch);
  // Nor does a token of the attacker's own for it.
  crypto::PrivateKey thief = crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value();
  between_ = [&, before = between_](const HttpRequest& request, HttpResponse answer) {
    if (request.path == "/pavise/v1/broker") {
      Json body = JsonOf(answer);
      body["signing_key"] = thief.public_key().ToPem();
      answer.body = body.dump();
    }
    if (request.path == "/kbs/v0/attest") {
      const std::string token = kbs::ParseTokenResponse(AsBytes(answer.body), "token").value();
      Json claims = kbs::ReadToken(token, broker_.clock.Now(), "token")->claims;
      const Digest32 payload = crypto::Sha256(AsBytes(policy::testing::Payload(forged))).value();
      claims["pavise_agreement"]["version"] = 2;
      claims["pavise_agreement"]["versions"]["2"] = ToHex(payload);
      answer.body = kbs::FormatTokenResponse(crypto::SignJwt(claims, thief).value());
    }
    return before(request, std::move(answer));
  };
  run_ = std::make_unique<KbsBroker>(*client_, key_, options_);
  ASSERT_TRUE(Attest().ok());
  ASSERT_TRUE(run_->Agreement().ok());
  EXPECT_EQ(ReasonOf(run_->Key("base").status()), Reason::kBindingMismatch);
}

// A broker that was started anew, as one that takes another's place: the same session key goes on
// with its run.
TEST_F(KbsBrokerTest, ARunGoesOnAtABrokerThatForgotItsSession) {
  ASSERT_TRUE(Attest().ok());
  ASSERT_TRUE(run_->Agreement().ok());
  ASSERT_TRUE(run_->Key("base").ok());
  const std::string run = run_->RunId().value();
  broker_.Restart();
  EXPECT_EQ(ReasonOf(run_->Key("scans-a").status()), Reason::kEvidenceMissing);
  ASSERT_TRUE(Attest().ok());
  const auto key = run_->Key("scans-a");
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_TRUE(key->Equals(ContentKeyOf("scans-a")));
  const Json session = client_->RequestJson("GET", "/pavise/v1/session").value();
  EXPECT_EQ(session["run"], run);
  // The end, whose answer was lost, asked for again.
  const auto end = run_->End(true);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(*run_->End(true), *end);
}

// Two brokers side by side on one store; that of the run dies.
TEST_F(KbsBrokerTest, ARunGoesOnAtTheNextBroker) {
  const auto other = broker::Service::Create(broker_.options());
  ASSERT_TRUE(other.ok()) << other.status();
  broker::HttpServerOptions listening;
  listening.address = "127.0.0.1:0";
  listening.body_limit = [&](std::string_view method, std::string_view path) {
    return (*other)->BodyLimit(method, path);
  };
  const auto other_server = broker::HttpServer::Start(
      listening, [&](const HttpRequest& request) { return (*other)->Handle(request); });
  ASSERT_TRUE(other_server.ok()) << other_server.status();
  kbs::ClientOptions both;
  both.base_url =
      StrCat("http://127.0.0.1:", server_->port(), ",http://127.0.0.1:", (*other_server)->port());
  both.allow_plain_loopback = true;
  client_.emplace(kbs::Client::Create(both).value());
  run_ = std::make_unique<KbsBroker>(*client_, key_, options_);
  ASSERT_TRUE(Attest().ok());
  ASSERT_TRUE(run_->Agreement().ok());
  ASSERT_TRUE(run_->Key("base").ok());
  const std::string run = run_->RunId().value();
  server_.reset();
  // It knows no session, and says so: RunAttested attests again then.
  EXPECT_EQ(ReasonOf(run_->Key("scans-a").status()), Reason::kEvidenceMissing);
  ASSERT_TRUE(Attest().ok());
  const auto key = run_->Key("scans-a");
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_TRUE(key->Equals(ContentKeyOf("scans-a")));
  EXPECT_EQ(client_->RequestJson("GET", "/pavise/v1/session").value()["run"], run);
  EXPECT_TRUE(run_->End(true).ok());
}

// A key of the attacker's own for the outputs.
TEST_F(KbsBrokerTest, AnotherEncryptionKeyOpensNoKey) {
  between_ = [&](const HttpRequest& request, HttpResponse answer) {
    if (request.path == "/pavise/v1/broker") {
      Json body = JsonOf(answer);
      body["encryption_key"] = policy::testing::EncryptionKey("thief").public_key().ToPem();
      answer.body = body.dump();
    }
    return answer;
  };
  ASSERT_TRUE(Attest().ok());
  ASSERT_TRUE(run_->Agreement().ok());
  EXPECT_EQ(ReasonOf(run_->Key("base").status()), Reason::kBindingMismatch);
}

// The broker's earlier word, where it would say no by now.
TEST_F(KbsBrokerTest, AnOldTokenKeepsNoRunGoing) {
  std::string first;
  between_ = [&](const HttpRequest& request, HttpResponse answer) {
    if (request.path != "/kbs/v0/attest") return answer;
    if (first.empty()) first = answer.body;
    answer.body = first;
    return answer;
  };
  ASSERT_TRUE(Attest().ok());
  EXPECT_EQ(ReasonOf(Attest().status()), Reason::kBindingMismatch);
}

}  // namespace
}  // namespace pavise::agent
