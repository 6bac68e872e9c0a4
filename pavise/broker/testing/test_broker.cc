#include "pavise/broker/testing/test_broker.h"

#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/broker/owner_request.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwe.h"
#include "pavise/kbs/messages.h"

#include "absl/strings/str_split.h"
#include "gtest/gtest.h"

namespace pavise::broker::testing {

using policy::testing::SigningKey;

SecretBytes ContentKeyOf(std::string_view asset) {
  return SecretBytes(ByteSpan(crypto::Sha256(AsBytes(StrCat("canary ", asset))).value()));
}

TestBroker::TestBroker(std::unique_ptr<TestDatabase> database) : database_(std::move(database)) {
  agreement = policy::testing::ThreeOwners(machine.Rules(files));
}

ServiceOptions TestBroker::options() {
  ServiceOptions options = limits;
  options.store = store_.get();
  options.clock = &clock;
  options.attester = attester;
  options.recorded_tee = recorded_tee;
  options.metrics = &metrics;
  options.proposers = proposers;
  options.log = [this](const OrderedJson& event) {
    if (log_requests) StrAppend(&log, DumpJson(event, -1), "\n");
  };
  return options;
}

void TestBroker::Restart() {
  const bool is_new = store_ == nullptr;
  service_.reset();
  store_.reset();
  StoreOptions store_options = database_->options();
  store_options.create = is_new;
  auto store = Store::Open(store_options, TestRootKey(1));
  ASSERT_TRUE(store.ok()) << store.status();
  store_ = *std::move(store);
  if (is_new) {
    ASSERT_TRUE(Service::Initialize(options(), "broker.example/ledger").ok());
  }
  auto service = Service::Create(options());
  ASSERT_TRUE(service.ok()) << service.status();
  service_ = *std::move(service);
}

HttpResponse TestBroker::Send(std::string_view method, std::string_view target,
                              std::string_view body, std::map<std::string, std::string> headers) {
  if (service_ == nullptr) Restart();
  HttpRequest request;
  request.method = std::string(method);
  const std::pair<std::string, std::string> parts =
      absl::StrSplit(ToAbsl(target), absl::MaxSplits('?', 1));
  request.path = parts.first;
  request.query = parts.second;
  request.body = std::string(body);
  request.headers = std::move(headers);
  request.peer = peer;
  return service_->Handle(request);
}

HttpResponse TestBroker::Ask(const std::string& owner, std::string_view method,
                             std::string_view target, std::string_view body) {
  if (service_ == nullptr) Restart();
  const std::string broker = service_->keys().signing.public_key().Fingerprint();
  const std::string header = SignOwnerCall({broker, method, target, AsBytes(body)}, clock.Now(),
                                           SystemRandom(), SigningKey(owner))
                                 .value();
  return Send(method, target, body, {{std::string(kRequestHeader), header}});
}

HttpResponse TestBroker::Post(std::string_view target, ByteSpan body) {
  return Send("POST", target, AsText(body));
}

std::string TestBroker::Target(std::string_view rest) const {
  return StrCat("/pavise/v1/agreements/", id, rest);
}

void TestBroker::Agree(const policy::Agreement& wanted) {
  agreement = wanted;
  const Bytes proposal = policy::testing::Proposed(agreement, "clinic-a");
  const HttpResponse proposed = Post("/pavise/v1/agreements", proposal);
  ASSERT_EQ(proposed.status, 200) << proposed.body;
  id = JsonOf(proposed)["agreement"];
  history_ = policy::AgreementHistory::Begin(proposal, clock.Now()).value();
  const Json answer = JsonOf(proposed);
  for (const Json& missing : answer["attachments_missing"]) {
    const Digest32 digest = Digest32FromHex(std::string(missing), "file").value();
    const Bytes content = files.Read(digest).value();
    const HttpResponse put = Ask(
        "clinic-b", "PUT", Target(StrCat("/attachments/", std::string(missing))), AsText(content));
    ASSERT_EQ(put.status, 201) << put.body;
  }
  std::set<std::string> owners;
  for (const auto& [name, asset] : agreement.assets) owners.insert(asset.owner);
  for (const std::string& owner : owners) {
    const Bytes vote = policy::testing::Voted(*history_, agreement, owner, clock.Now());
    const HttpResponse voted = Post(Target("/approvals"), vote);
    ASSERT_EQ(voted.status, 200) << voted.body;
    ASSERT_TRUE(history_->Append(vote, clock.Now()).ok());
  }
  for (const auto& [name, asset] : agreement.assets) {
    const HttpResponse deposited = Deposit(name, asset.owner);
    ASSERT_EQ(deposited.status, 201) << deposited.body;
  }
}

HttpResponse TestBroker::Deposit(const std::string& asset, const std::string& owner) {
  const crypto::PublicKey& broker = service_->keys().current_encryption().public_key();
  const auto found = agreement.assets.find(asset);
  const Digest32 sealed = found != agreement.assets.end() ? found->second.sealed : Digest32{};
  policy::Deposit deposit;
  deposit.agreement = history_->id();
  deposit.asset = asset;
  deposit.sealed = sealed;
  deposit.broker = broker.Fingerprint();
  const std::string binding =
      DepositBinding(id, asset, sealed, SigningKey(owner).public_key().Fingerprint());
  const auto sealed_with = content_keys.find(asset);
  const SecretBytes key = sealed_with != content_keys.end()
                              ? SecretBytes(sealed_with->second.Reveal())
                              : ContentKeyOf(asset);
  deposit.encrypted_key =
      crypto::EncryptJwe(key, broker, "broker", AsBytes(binding)).value().dump();
  deposit.time = clock.Now();
  return Post(Target("/deposits"), policy::testing::Signed(policy::kDepositType,
                                                           policy::Format(deposit).value(), owner));
}

Json TestBroker::Decisions(const std::string& owner) {
  return JsonOf(Ask(owner, "GET", Target("/decisions")))["decisions"];
}

TestSession::TestSession(TestBroker& of, std::string wanted)
    : broker(of),
      stage(std::move(wanted)),
      agreement(of.id),
      key(crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value()) {}

HttpResponse TestSession::Send(std::string_view method, std::string_view target,
                               std::string_view body) {
  std::map<std::string, std::string> headers;
  if (!cookie.empty()) headers["cookie"] = cookie;
  return broker.Send(method, target, body, std::move(headers));
}

HttpResponse TestSession::Auth() {
  kbs::AuthRequest request;
  request.purpose = {agreement, stage, mode};
  HttpResponse response = Send("POST", kbs::kAuthPath, kbs::FormatAuthRequest(request));
  if (response.status != 200) return response;
  const std::string header = HeaderOf(response, "Set-Cookie");
  cookie = header.substr(0, header.find(';'));
  nonce = kbs::ParseChallenge(AsBytes(response.body), "challenge").value().nonce;
  return response;
}

std::string TestSession::Attestation(const policy::testing::TestMachine& of) const {
  kbs::Attestation attestation{kbs::MakeRuntimeData(nonce, key.public_key()).value(), {}, "", {}};
  const std::string evidence = evidence::ToJson(of.Evidence(nonce, key.public_key())).value();
  attestation.primary_evidence = Json::parse(evidence);
  return kbs::FormatAttestation(attestation);
}

HttpResponse TestSession::Attest(std::string_view body) {
  return Send("POST", kbs::kAttestPath, body);
}

HttpResponse TestSession::AuthAndAttest() {
  const HttpResponse response = Auth();
  if (response.status != 200) return response;
  return Attest(Attestation(broker.machine));
}

HttpResponse TestSession::Get(const std::string& asset) {
  return Send("GET", StrCat(kbs::kResourcePrefix, agreement, "/", stage, "/", asset));
}

std::string TestSession::Key(const HttpResponse& response) const {
  if (response.status != 200) {
    ADD_FAILURE() << response.status << " " << response.body;
    return "";
  }
  const Json message = Json::parse(response.body);
  const Bytes binding = FromBase64Url(std::string(message["aad"]), "aad").value();
  const auto secret = crypto::DecryptJwe(message, key, "resource", binding);
  EXPECT_TRUE(secret.ok()) << secret.status();
  return secret.ok() ? std::string(secret->RevealText()) : "";
}

std::string ReasonOfProblem(const HttpResponse& response) {
  if (response.content_type != "application/problem+json") return "";
  return JsonOf(response).value("reason", "");
}

std::string HeaderOf(const HttpResponse& response, std::string_view name) {
  for (const auto& [each, value] : response.headers) {
    if (each == name) return value;
  }
  return "";
}

Json JsonOf(const HttpResponse& response) {
  const auto json = ParseJson(AsBytes(response.body), "response");
  EXPECT_TRUE(json.ok()) << response.body;
  return json.ok() ? *json : Json::object();
}

}  // namespace pavise::broker::testing
