#include "pavise/agent/run.h"

#include <fcntl.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>

#include "pavise/agent/internal/reattestation.h"
#include "pavise/agent/provenance.h"
#include "pavise/agent/vault_files.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"
#include "pavise/crypto/jwt.h"
#include "pavise/kbs/testing/test_server.h"
#include "pavise/signing/bundle.h"
#include "pavise/signing/sign.h"
#include "pavise/vault/seal.h"
#include "pavise/vault/sealed_asset.h"

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

crypto::PrivateKey NewKey(crypto::KeyType type = crypto::KeyType::kEcP256) {
  return *crypto::PrivateKey::Generate(type);
}

void Write(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << text;
}

std::string Read(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// A broker that does as it is told.
class FakeBroker final : public RunBroker {
 public:
  absl::StatusOr<Digest32> Challenge() override {
    nonce[0] = static_cast<uint8_t>(++challenges);
    return nonce;
  }
  absl::StatusOr<std::string> Attest(const evidence::CompositeEvidence& evidence) override {
    EXPECT_EQ(evidence.nonce, nonce);
    if (challenges > accepts) return Refuse(Reason::kRevoked, "consent", "was withdrawn", "ask");
    const int64_t now = absl::ToUnixSeconds(absl::Now());
    const Json claims = {
        {"eat_profile", "tag:ietf.org,2026:rats/ear#04"},
        {"iat", now},
        {"exp", now + 600},
        {"ear_status", "affirming"},
        {"cnf", {{"jwk", *crypto::ToJwk(*session_key, "session")}}},
        {"pavise_agreement", decided},
        {"submods",
         {{"tee",
           {{"ear_status", status}, {"ear_appraisal_policy_ids", Json::array({policy_id})}}}}}};
    return crypto::SignJwt(claims, signing_key);
  }
  absl::StatusOr<Bytes> Agreement() override { return agreement; }
  absl::StatusOr<SecretBytes> Key(std::string_view asset) override {
    if (!key_failures.empty()) {
      const absl::Status failure = key_failures.front();
      key_failures.pop_front();
      return failure;
    }
    asked.emplace_back(asset);
    return SecretBytes(keys.at(std::string(asset)).Reveal());
  }
  absl::StatusOr<std::string> RunId() override { return std::string(32, 'a'); }
  absl::Status DepositOutput(std::string_view output, const Digest32&,
                             const SecretBytes& key) override {
    deposits.emplace(output, SecretBytes(key.Reveal()));
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> End(bool completed) override {
    ends.push_back(completed);
    return 17;
  }

  Bytes agreement;
  std::map<std::string, SecretBytes> keys;
  int accepts = 1000;  // attestations, before the verdict turns
  std::string status = "affirming";
  std::string policy_id;
  Json decided;                           // of tokens
  std::deque<absl::Status> key_failures;  // of the next calls of Key
  const crypto::PublicKey* session_key = nullptr;
  crypto::PrivateKey signing_key = NewKey();

  Digest32 nonce{};
  int challenges = 0;
  std::vector<std::string> asked;
  std::map<std::string, SecretBytes> deposits;
  std::vector<bool> ends;
};

// Alice's code reads Bob's data; both get the result.
class RunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Write(Path("code/train.sh"), "#!/bin/sh\n. /pavise/assets/data/script\n");
    Write(Path("data/script"), script_);
    alice_sealed_ = SealAsset("code", alice_);
    bob_sealed_ = SealAsset("data", bob_);

    agreement_.name = "story";
    agreement_.stakeholders.emplace("alice",
                                    policy::Stakeholder{alice_.public_key(), alice_.public_key()});
    agreement_.stakeholders.emplace("bob",
                                    policy::Stakeholder{bob_.public_key(), bob_.public_key()});
    agreement_.changes.approvals = 2;
    agreement_.changes.of = {"alice", "bob"};
    agreement_.assets["code"] = {policy::AssetKind::kCode, "alice", alice_sealed_.second,
                                 alice_sealed_.first};
    agreement_.assets["data"] = {policy::AssetKind::kData, "bob", bob_sealed_.second,
                                 bob_sealed_.first};
    policy::Stage& stage = agreement_.stages["train"];
    stage.purpose = "a test";
    stage.modes[policy::Mode::kMeasured].policy = {1};
    stage.code = "code";
    stage.command = {"sh", "/pavise/assets/code/train.sh"};
    stage.inputs = {"data"};
    stage.outputs["result"].recipients = {"alice", "bob"};
    stage.limits.not_after = absl::FromUnixSeconds(4'000'000'000);
    stage.limits.runs = 10;
    stage.reattest = absl::Seconds(60);
    stage.broker_grace = absl::Seconds(60);

    options_.stage = "train";
    options_.assets = {{"code", Path("code.sealed")}, {"data", Path("data.sealed")}};
    options_.outputs = {{"result", Path("result.sealed")}};
    options_.provenance = Path("provenance.json");
    options_.command = {"sh", "/pavise/assets/code/train.sh"};
    containment_.limits.storage_bytes = uint64_t{16} << 20;
    containment_.accepted_shortfalls = {"memory-limit", "cpu-limit", "swap"};
    containment_.limits.grace = absl::Milliseconds(100);
  }

  std::string Path(const std::string& name) const { return directory_.path() + "/" + name; }

  // Signs and seals a directory; the sealed asset's id and the statement's digest.
  std::pair<Digest32, Digest32> SealAsset(const std::string& name, crypto::PrivateKey& owner) {
    signing::SignOptions sign;
    sign.model_path = Path(name);
    sign.signature_path = Path(name + ".sig");
    sign.signer = &owner;
    EXPECT_TRUE(signing::SignModel(sign).ok());
    vault::SealOptions seal;
    seal.signature = *ReadFile(sign.signature_path, 1 << 20);
    seal.statement_sha256 = *crypto::Sha256(signing::ParseBundle(seal.signature, name)->payload);
    const FileDescriptor root(open(Path(name).c_str(), O_RDONLY | O_DIRECTORY));
    for (const auto& entry : std::filesystem::directory_iterator(Path(name))) {
      const std::string file = entry.path().filename().string();
      seal.files.push_back(
          {.path = file, .identity = *IdentityOf(*OpenBeneath(root, file, false), file)});
    }
    seal.open = [&](const std::string& path) { return OpenBeneath(root, path, false); };
    absl::StatusOr<vault::SealReport> report = vault::Seal(seal, Path(name + ".sealed"));
    EXPECT_TRUE(report.ok()) << report.status();
    broker_.keys[name] = std::move(report->content_key);
    return {*Digest32FromHex(report->asset_id, name), *seal.statement_sha256};
  }

  absl::StatusOr<RunResult> Run() {
    const std::string payload = *policy::FormatAgreement(agreement_);
    broker_.agreement = Bytes(AsBytes(payload).begin(), AsBytes(payload).end());
    if (options_.agreement.empty()) {
      options_.agreement = ToHex(*crypto::Sha256(broker_.agreement));
    }
    broker_.policy_id = StrCat(options_.agreement, "/1/train/measured");
    broker_.decided = {{"id", options_.agreement},
                       {"version", 1},
                       {"versions", {{"1", ToHex(*crypto::Sha256(broker_.agreement))}}}};
    broker_.session_key = &session_key_.public_key();
    VaultFiles vault;
    containment_.network = options_.network;
    const auto containment = Containment::Create(containment_, options_.command);
    if (!containment.ok()) return containment.status();
    return RunStage(options_, **containment, session_key_, broker_, vault,
                    [](const Digest32& nonce) {
                      evidence::CompositeEvidence evidence;
                      evidence.nonce = nonce;
                      evidence.session_key = Bytes(32, 1);
                      evidence.parts.push_back({"intel-sgx", {{"quote", Bytes(4, 2)}}});
                      return absl::StatusOr<evidence::CompositeEvidence>(evidence);
                    });
  }

  // Data is what the code runs: what it does is chosen here, without another signature of code.
  void UseScript(const std::string& script) {
    Write(Path("data/script"), script);
    std::filesystem::remove(Path("data.sealed"));
    bob_sealed_ = SealAsset("data", bob_);
    agreement_.assets["data"].sealed = bob_sealed_.first;
    agreement_.assets["data"].statement = bob_sealed_.second;
  }

  void ExpectRefused(Reason reason, const std::string& item) {
    const absl::StatusOr<RunResult> result = Run();
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(ReasonOf(result.status()), reason) << result.status();
    EXPECT_THAT(RefusalsOf(result.status()).at(0).item, HasSubstr(item));
    EXPECT_FALSE(std::filesystem::exists(Path("result.sealed")));
    EXPECT_FALSE(std::filesystem::exists(Path("provenance.json")));
    EXPECT_TRUE(broker_.deposits.empty());
    // A run that has begun at the broker has ended there, as failed.
    EXPECT_EQ(broker_.ends, std::vector<bool>(broker_.asked.empty() ? 0 : 1, false));
  }

  testing::TemporaryDirectory directory_;
  const std::string script_ = "mkdir /pavise/outputs/result; echo 42 > /pavise/outputs/result/w\n";
  crypto::PrivateKey alice_ = NewKey();
  crypto::PrivateKey bob_ = NewKey(crypto::KeyType::kEcP384);
  crypto::PrivateKey session_key_ = NewKey();
  std::pair<Digest32, Digest32> alice_sealed_;
  std::pair<Digest32, Digest32> bob_sealed_;
  policy::Agreement agreement_;
  RunOptions options_;
  ContainmentOptions containment_;
  FakeBroker broker_;
};

// Asked for, it is part of the statement; a command that leaves it out or writes anything else has
// no result.
TEST_F(RunTest, WhatTheCommandSaysOfItsWeightsIsStated) {
  const std::string weights = R"({"hash":"tag","passes":3,"ranges":44})";
  const auto writes = [&](const std::string& how) {
    return StrCat(script_, "cd /pavise/work\n", how, "\n");
  };
  UseScript(writes(StrCat("printf '", weights, "' > .resident-weights.json")));
  const auto stated = [&]() -> std::optional<ResidentWeights> {
    const absl::StatusOr<RunResult> result = Run();
    EXPECT_TRUE(result.ok()) << result.status();
    const std::string text = Read(Path("provenance.json"));
    const auto verified = ProvenanceVerifier::Verify(*crypto::ParseEnvelope(AsBytes(text), "p"),
                                                     broker_.signing_key.public_key(), "p");
    EXPECT_TRUE(verified.ok()) << verified.status();
    return (*verified)->resident_weights;
  };
  EXPECT_EQ(stated(), std::nullopt) << "nobody asked";
  std::filesystem::remove(Path("result.sealed"));
  std::filesystem::remove(Path("provenance.json"));
  options_.needs_resident_weights = true;
  EXPECT_EQ(stated(), (ResidentWeights{"tag", 3, 44}));
  const std::tuple<std::string, Reason> kCases[] = {
      {"true", Reason::kEvidenceMissing},
      {"mkdir .resident-weights.json", Reason::kFileTypeRefused},
      {"ln -s /etc/passwd .resident-weights.json", Reason::kFileTypeRefused},
      {"mkfifo .resident-weights.json", Reason::kFileTypeRefused},
      {StrCat("echo '", weights, "' > .resident-weights.json"), Reason::kMalformed},
      {"head -c 300 /dev/zero > .resident-weights.json", Reason::kLimitExceeded},
      {"printf '{}' > .resident-weights.json", Reason::kMalformed},
  };
  for (const auto& [how, reason] : kCases) {
    std::filesystem::remove(Path("result.sealed"));
    std::filesystem::remove(Path("provenance.json"));
    options_.agreement.clear();
    broker_.asked.clear();
    broker_.ends.clear();
    broker_.deposits.clear();
    session_key_ = NewKey();
    UseScript(writes(how));
    const absl::Status status = Run().status();
    EXPECT_EQ(ReasonOf(status), reason) << how << ": " << status;
    EXPECT_FALSE(std::filesystem::exists(Path("result.sealed"))) << how;
    EXPECT_EQ(broker_.ends, std::vector<bool>{false}) << how;
  }
}

TEST_F(RunTest, WeightsThatChangedAreARefusalAndOtherFailuresAreNot) {
  options_.needs_resident_weights = true;
  const auto fails = [&](const std::string& said) {
    UseScript(
        StrCat(script_, "printf '", said, "' > /pavise/work/.resident-weights.json; exit 1\n"));
    options_.agreement.clear();
    broker_.asked.clear();
    broker_.ends.clear();
    broker_.deposits.clear();
    return Run().status();
  };
  const absl::Status changed = fails(FormatResidentWeights({}));
  EXPECT_EQ(ReasonOf(changed), Reason::kContentMismatch) << changed;
  EXPECT_TRUE(broker_.deposits.empty());
  EXPECT_EQ(broker_.ends, std::vector<bool>{false});
  for (const char* said : {"", "{}", R"({"hash":"tag","passes":0,"ranges":0})",
                           R"({"hash":"tag","passes":1,"ranges":1})"}) {
    const absl::Status failed = fails(said);
    EXPECT_EQ(ExitCodeOf(failed), 3) << said << failed;
  }
}

TEST(ResidentWeightsTest, OneTextForEachAndNoOther) {
  const ResidentWeights most = {"blake3", ResidentWeights::kMost, 1};
  const std::string text = FormatResidentWeights(most);
  EXPECT_EQ(*ParseResidentWeights(AsBytes(text), "w"), most);
  EXPECT_THAT(Describe(most), HasSubstr("1048576 or more times by blake3, 1 ranges"));
  for (const char* wrong :
       {"", "{}", "[]", R"({"hash":"tag","passes":3})", R"({"hash":"tag","passes":0,"ranges":1})",
        R"({"hash":"tag","passes":1,"ranges":0})", R"({"hash":"tag","passes":1048577,"ranges":1})",
        R"({"hash":"tag","passes":1,"ranges":1048577})", R"({"hash":"md5","passes":1,"ranges":1})",
        R"({"hash":"tag","passes":1.0,"ranges":1})", R"({"hash":"tag","passes":"1","ranges":1})",
        R"({"hash":"tag", "passes":1,"ranges":1})", R"({"passes":1,"hash":"tag","ranges":1})",
        R"({"hash":"tag","note":1,"passes":1,"ranges":1})"}) {
    EXPECT_EQ(ReasonOf(ParseResidentWeights(AsBytes(wrong), "w").status()), Reason::kMalformed)
        << wrong;
  }
}

TEST_F(RunTest, FromSealedAssetsToASealedOutputAndItsProvenance) {
  options_.evidence = Path("evidence.cbor");
  const absl::StatusOr<RunResult> result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(broker_.asked, ElementsAre("code", "data"));
  EXPECT_THAT(broker_.ends, ElementsAre(true));
  EXPECT_EQ(broker_.challenges, 2) << "before the keys, and before the outputs";

  // Whoever gets the deposited key gets the output.
  const vault::SealedAsset sealed = *vault::SealedAsset::Open(Path("result.sealed"));
  EXPECT_TRUE(sealed.recipients().empty());
  const auto unlocked = sealed.Unlock(broker_.deposits.at("result"));
  ASSERT_TRUE(unlocked.ok()) << unlocked.status();
  ASSERT_TRUE(unlocked->Unseal({.directory = Path("result")}).ok());
  EXPECT_EQ(Read(Path("result/w")), "42\n");

  const std::string text = Read(Path("provenance.json"));
  const crypto::Envelope envelope = *crypto::ParseEnvelope(AsBytes(text), "provenance");
  const absl::StatusOr<VerifiedProvenance> verified =
      ProvenanceVerifier::Verify(envelope, broker_.signing_key.public_key(), "provenance");
  ASSERT_TRUE(verified.ok()) << verified.status();
  const Provenance& provenance = **verified;
  EXPECT_EQ(provenance.agreement, options_.agreement);
  EXPECT_EQ(provenance.version, 1u);
  EXPECT_EQ(provenance.run, std::string(32, 'a'));
  EXPECT_EQ(provenance.ledger_index, 17u);
  EXPECT_EQ(provenance.command, options_.command);
  EXPECT_EQ(ToHex(provenance.outputs.at("result").sealed), sealed.asset_id());
  EXPECT_EQ(provenance.outputs.at("result").file_sha256,
            *crypto::Sha256(AsBytes(Read(Path("result.sealed")))));
  EXPECT_EQ(provenance.evidence, *crypto::Sha256(AsBytes(Read(Path("evidence.cbor")))));
  ASSERT_EQ(provenance.materials.size(), 2u);
  EXPECT_EQ(provenance.materials[0],
            (ProvenanceMaterial{"code", "code", alice_sealed_.first, alice_sealed_.second}));
  EXPECT_EQ(provenance.materials[1],
            (ProvenanceMaterial{"data", "data", bob_sealed_.first, bob_sealed_.second}));

  // Its partners.
  EXPECT_EQ(ReasonOf(ProvenanceVerifier::Verify(envelope, alice_.public_key(), "p").status()),
            Reason::kKeyMismatch)
      << "another broker's token";
  crypto::Envelope changed = envelope;
  changed.signatures[0].signature.back() ^= 1;
  EXPECT_EQ(
      ReasonOf(ProvenanceVerifier::Verify(changed, broker_.signing_key.public_key(), "p").status()),
      Reason::kSignatureInvalid);
  Provenance other = provenance;
  other.outputs["result"].sealed[0] ^= 1;
  const std::string forged = *FormatProvenance(other);
  changed = envelope;
  changed.payload = Bytes(AsBytes(forged).begin(), AsBytes(forged).end());
  EXPECT_EQ(
      ReasonOf(ProvenanceVerifier::Verify(changed, broker_.signing_key.public_key(), "p").status()),
      Reason::kSignatureInvalid)
      << "another output under the same signature";
  const auto sign_by = [&](const Provenance& statement, crypto::PrivateKey& key) {
    return ProvenanceVerifier::Verify(
               *crypto::SignEnvelope(kProvenancePayloadType, AsBytes(*FormatProvenance(statement)),
                                     key),
               broker_.signing_key.public_key(), "p")
        .status();
  };
  EXPECT_EQ(ReasonOf(sign_by(provenance, alice_)), Reason::kKeyMismatch) << "not the session's key";
  other = provenance;
  other.stage = "infer";
  EXPECT_EQ(ReasonOf(sign_by(other, session_key_)), Reason::kBindingMismatch);
  other = provenance;
  other.version = 2;
  EXPECT_EQ(ReasonOf(sign_by(other, session_key_)), Reason::kBindingMismatch)
      << "appraised under an earlier version than the statement names";
  other = provenance;
  other.agreement_payload[0] ^= 1;
  EXPECT_EQ(ReasonOf(sign_by(other, session_key_)), Reason::kBindingMismatch)
      << "another text of that version";
  other = provenance;
  other.ended += absl::Hours(1);
  EXPECT_EQ(ReasonOf(sign_by(other, session_key_)), Reason::kPolicyDenied) << "the token was over";
  const std::string spaced = " " + *FormatProvenance(provenance);
  EXPECT_EQ(ReasonOf(ParseProvenance(AsBytes(spaced), "p").status()), Reason::kMalformed);
}

// The test's folder on a server.
class RemoteRunTest : public RunTest {
 protected:
  RemoteRunTest()
      : server_({}, [this](const kbs::testing::TestServer::Request& request) {
          if (request.method == "PUT") return kbs::testing::HttpAnswer(put_status_, "");
          if (request.target == absent_) return kbs::testing::HttpAnswer(404, "");
          return kbs::testing::HttpAnswer(200, Read(Path(request.target.substr(1))));
        }) {}
  void SetUp() override {
    RunTest::SetUp();
    const std::string server = StrCat("http://127.0.0.1:", server_.port(), "/");
    options_.assets = {{"code", server + "code.sealed"}, {"data", server + "data.sealed"}};
    options_.outputs = {{"result", server + "result.sealed"}};
    options_.provenance = server + "provenance.json";
  }

  int put_status_ = 201;
  std::string absent_;
  kbs::testing::TestServer server_;
};

TEST_F(RemoteRunTest, SealedFilesComeAndGoByUrl) {
  options_.evidence = StrCat("http://127.0.0.1:", server_.port(), "/evidence.cbor");
  const absl::StatusOr<RunResult> result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  const auto requests = server_.requests();
  ASSERT_EQ(requests.size(), 5u);
  EXPECT_EQ(requests[0].target, "/evidence.cbor");
  EXPECT_EQ(requests[3].target, "/result.sealed");
  EXPECT_EQ(requests[4].target, "/provenance.json");
  Write(Path("sent.sealed"), requests[3].body);
  const auto unlocked =
      vault::SealedAsset::Open(Path("sent.sealed"))->Unlock(broker_.deposits.at("result"));
  ASSERT_TRUE(unlocked.ok()) << unlocked.status();
  ASSERT_TRUE(unlocked->Unseal({.directory = Path("result")}).ok());
  EXPECT_EQ(Read(Path("result/w")), "42\n");
  const auto verified =
      ProvenanceVerifier::Verify(*crypto::ParseEnvelope(AsBytes(requests[4].body), "provenance"),
                                 broker_.signing_key.public_key(), "provenance");
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ((*verified)->outputs.at("result").file_sha256,
            *crypto::Sha256(AsBytes(requests[3].body)));
  EXPECT_EQ((*verified)->evidence, *crypto::Sha256(AsBytes(requests[0].body)));
}

TEST_F(RemoteRunTest, WhatDoesNotArriveCostsNoRun) {
  absent_ = "/data.sealed";
  ExpectRefused(Reason::kFileMissing, "/data.sealed");
  EXPECT_TRUE(broker_.asked.empty());
}

TEST_F(RemoteRunTest, WhatWasChangedOnTheWayIsRefused) {
  std::string sealed = Read(Path("data.sealed"));
  sealed.back() ^= 1;
  Write(Path("data.sealed"), sealed);
  ExpectRefused(Reason::kContentMismatch, "data");
  EXPECT_EQ(server_.requests().size(), 2u);
}

TEST_F(RemoteRunTest, AnOutputThatNobodyTookHasNoKeyAtTheBroker) {
  put_status_ = 507;
  ExpectRefused(Reason::kFileMissing, "/result.sealed");
}

TEST_F(RunTest, ATokenThatContraindicatesVouchesForNothing) {
  broker_.status = "contraindicated";
  ASSERT_TRUE(Run().ok());
  const crypto::Envelope envelope =
      *crypto::ParseEnvelope(AsBytes(Read(Path("provenance.json"))), "provenance");
  EXPECT_EQ(
      ReasonOf(
          ProvenanceVerifier::Verify(envelope, broker_.signing_key.public_key(), "p").status()),
      Reason::kPolicyDenied);
}

TEST_F(RunTest, AMachineThatIsNotAcceptedGetsNoKey) {
  broker_.accepts = 0;
  ExpectRefused(Reason::kRevoked, "consent");
  EXPECT_TRUE(broker_.asked.empty());
}

// The broker dies between two keys, and another one takes its place, which knows no session.
TEST_F(RunTest, AnotherBrokerGoesOnWithTheRun) {
  broker_.key_failures = {
      MachineFailure("broker", "connection lost"),
      Refuse(Reason::kEvidenceMissing, "session", "not attested, or forgotten since", "attest")};
  const absl::StatusOr<RunResult> result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(broker_.asked, ElementsAre("code", "data"));
  EXPECT_THAT(broker_.ends, ElementsAre(true));
  EXPECT_EQ(broker_.challenges, 3) << "once more";
}

TEST_F(RunTest, ASessionThatIsForgottenTwiceIsNoSession) {
  const absl::Status forgotten =
      Refuse(Reason::kEvidenceMissing, "session", "not attested, or forgotten since", "attest");
  broker_.key_failures = {forgotten, forgotten};
  ExpectRefused(Reason::kEvidenceMissing, "session");
}

TEST_F(RunTest, ARefusedKeyIsNotAskedForAgain) {
  broker_.key_failures = {Refuse(Reason::kRevoked, "session", "its run was stopped", "begin anew")};
  ExpectRefused(Reason::kRevoked, "session");
  EXPECT_EQ(broker_.challenges, 1);
}

TEST_F(RunTest, AVerdictThatTurnedBeforeTheEndKeepsTheOutputs) {
  broker_.accepts = 1;
  ExpectRefused(Reason::kRevoked, "consent");
}

TEST_F(RunTest, AnotherAgreementsTextIsRefused) {
  options_.agreement = std::string(64, 'f');
  ExpectRefused(Reason::kContentMismatch, "agreement");
}

TEST_F(RunTest, AnotherVersionThanWasPlannedUnderGetsNoKey) {
  options_.planned_version = 2;
  ExpectRefused(Reason::kContentMismatch, "agreement");
  agreement_.version = 2;
  agreement_.previous = Digest32{1};
  options_.planned_version = 1;
  ExpectRefused(Reason::kVersionTooOld, "agreement");
  EXPECT_TRUE(broker_.asked.empty());
}

TEST_F(RunTest, WhatTheStageDoesNotHaveIsRefused) {
  options_.command = {"sh", "-c", "cp -r /pavise/assets/data /pavise/outputs/result"};
  ExpectRefused(Reason::kPolicyDenied, "");
  options_.command = {"sh", "/pavise/assets/code/train.sh"};
  options_.mode = policy::Mode::kTee;
  ExpectRefused(Reason::kPolicyDenied, "tee");
  options_.mode = policy::Mode::kMeasured;
  options_.stage = "infer";
  ExpectRefused(Reason::kPolicyDenied, "infer");
  options_.stage = "train";
  options_.network = true;
  ExpectRefused(Reason::kPolicyDenied, "network");
  options_.network = false;
  options_.outputs["more"] = Path("more.sealed");
  ExpectRefused(Reason::kPolicyDenied, "more");
  options_.outputs.erase("more");
  options_.assets.erase("data");
  ExpectRefused(Reason::kFileMissing, "data");
}

// The stage grants one server, and the command finds another one silent.
TEST_F(RunTest, ANetworkIsTheStagesDestinations) {
  kbs::testing::TestServer granted(
      {}, [](const auto&) { return kbs::testing::HttpAnswer(200, "granted"); });
  kbs::testing::TestServer other(
      {}, [](const auto&) { return kbs::testing::HttpAnswer(200, "other"); });
  const auto ask = [](int port) {
    return StrCat(
        "python3 -c 'import socket; s = socket.create_connection((\"127.0.0.1\", 3128)); "
        "s.sendall(b\"CONNECT 127.0.0.1:",
        port,
        " HTTP/1.1\\r\\n\\r\\n\"); print(s.recv(100)); s.sendall(b\"GET / HTTP/1.1\\r\\nHost: "
        "h\\r\\n\\r\\n\"); print(s.recv(1000))' >> /pavise/outputs/result\n");
  };
  UseScript(StrCat(ask(granted.port()), ask(other.port()), "true\n"));
  agreement_.stages["train"].network = {StrCat("127.0.0.1:", granted.port())};
  options_.network = true;
  const absl::StatusOr<RunResult> result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(granted.requests().size(), 1u);
  EXPECT_TRUE(other.requests().empty());
}

// Whoever starts it may want less than the stage grants.
TEST_F(RunTest, ANetworkMayBeNarrowed) {
  kbs::testing::TestServer granted(
      {}, [](const auto&) { return kbs::testing::HttpAnswer(200, "granted"); });
  UseScript(
      StrCat("python3 -c 'import socket; s = socket.create_connection((\"127.0.0.1\", 3128)); "
             "s.sendall(b\"CONNECT 127.0.0.1:",
             granted.port(),
             " HTTP/1.1\\r\\n\\r\\n\"); print(s.recv(100)); s.sendall(b\"GET / HTTP/1.1\\r\\nHost: "
             "h\\r\\n\\r\\n\"); print(s.recv(1000))' > /pavise/outputs/result\ntrue\n"));
  agreement_.stages["train"].network = {StrCat("127.0.0.1:", granted.port()), "127.0.0.1:9"};
  options_.network = true;
  options_.destinations = {"127.0.0.1:10"};
  ExpectRefused(Reason::kPolicyDenied, "127.0.0.1:10");
  options_.destinations = {"127.0.0.1:9"};
  const absl::StatusOr<RunResult> result = Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(granted.requests().empty());
}

TEST_F(RunTest, CodeThatItsOwnerDidNotSignIsRefused) {
  std::filesystem::remove(Path("code.sealed"));
  const auto by_bob = SealAsset("code", bob_);
  agreement_.assets["code"].sealed = by_bob.first;
  agreement_.assets["code"].statement = by_bob.second;
  ExpectRefused(Reason::kKeyMismatch, "");
}

TEST_F(RunTest, SealedFilesInEachOthersPlaceAreRefused) {
  options_.assets["data"] = Path("code.sealed");
  ExpectRefused(Reason::kContentMismatch, "code.sealed");
}

TEST_F(RunTest, ASealedFileOverAnotherStatementIsRefused) {
  agreement_.assets["data"].statement[0] ^= 1;
  ExpectRefused(Reason::kContentMismatch, "data.sealed");
}

TEST_F(RunTest, AnotherAssetsKeyIsRefused) {
  broker_.keys["data"] = SecretBytes(broker_.keys["code"].Reveal());
  ExpectRefused(Reason::kContentMismatch, "");
}

TEST_F(RunTest, AnOutputThatIsNotThereIsRefused) {
  UseScript("true\n");
  ExpectRefused(Reason::kFileMissing, "result");
}

TEST_F(RunTest, OutputsThatLeadElsewhereAreRefused) {
  UseScript("ln -s /pavise/assets/data /pavise/outputs/result\n");
  ExpectRefused(Reason::kFileTypeRefused, "result");
}

TEST_F(RunTest, ALinkInsideOfAnOutputIsRefused) {
  UseScript("mkdir /pavise/outputs/result; ln -s /etc/shadow /pavise/outputs/result/x\n");
  ExpectRefused(Reason::kFileTypeRefused, "x");
}

TEST_F(RunTest, APipeInsideOfAnOutputIsNotWaitedFor) {
  UseScript("mkdir /pavise/outputs/result; mkfifo /pavise/outputs/result/x\n");
  ExpectRefused(Reason::kFileTypeRefused, "x");
}

TEST_F(RunTest, OfACommandThatFailsOnlyTheLogIsSealed) {
  UseScript("echo diagnosis; mkdir /pavise/outputs/result; exit 9\n");
  agreement_.stages["train"].outputs["log"].recipients = {"alice"};
  options_.outputs["log"] = Path("log.sealed");
  const absl::StatusOr<RunResult> result = Run();
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("ended with status 9"));
  EXPECT_THAT(broker_.ends, ElementsAre(false));
  ASSERT_EQ(broker_.deposits.size(), 1u);
  const auto unlocked =
      vault::SealedAsset::Open(Path("log.sealed"))->Unlock(broker_.deposits.at("log"));
  ASSERT_TRUE(unlocked.ok());
  Bytes text(10);
  ASSERT_TRUE(unlocked->ReadRange("log", 0, text).ok());
  EXPECT_EQ(AsText(text), "diagnosis\n");
}

// Reattestation, over a command that would go on for long.
class ReattestationTest : public ::testing::Test {
 protected:
  CommandEnd RunWith(absl::Duration interval, absl::Duration patience,
                     const std::function<absl::Status()>& attest) {
    ContainmentOptions options;
    options.accepted_shortfalls = {"memory-limit", "cpu-limit", "swap"};
    options.limits.wall_clock = absl::Minutes(5);
    options.limits.grace = absl::ZeroDuration();
    auto containment = Containment::Create(options, {"sleep", "600"});
    EXPECT_TRUE(containment.ok()) << containment.status();
    internal::Reattestation again(**containment, internal::SinceBoot() - accepted_ago_, interval,
                                  patience, attest);
    const absl::StatusOr<CommandEnd> end = (*containment)->Run();
    EXPECT_TRUE(end.ok()) << end.status();
    count_ = again.count();
    return *end;
  }
  absl::Duration accepted_ago_;
  uint64_t count_ = 0;
};

// What was done between the last accept and the command's beginning buys no more time.
TEST_F(ReattestationTest, PatienceBeganWithTheLastAccept) {
  accepted_ago_ = absl::Hours(2);
  const CommandEnd end = RunWith(absl::Hours(1), absl::Minutes(90),
                                 [] { return MachineFailure("broker", "no connection"); });
  EXPECT_EQ(ReasonOf(end.stopped), Reason::kEvidenceMissing);
  EXPECT_FALSE(end.time_limit);
}

TEST_F(ReattestationTest, ARefusalStopsTheCommandWithItsReason) {
  int calls = 0;
  const CommandEnd end = RunWith(absl::Milliseconds(5), absl::Hours(1), [&] {
    return ++calls <= 3 ? absl::OkStatus()
                        : Refuse(Reason::kMeasurementUnknown, "/usr/bin/x", "is not listed");
  });
  EXPECT_EQ(ReasonOf(end.stopped), Reason::kMeasurementUnknown);
  EXPECT_EQ(count_, 3u);
  EXPECT_FALSE(end.time_limit);
}

TEST_F(ReattestationTest, ABrokerThatIsNotReachedIsWaitedForAsLongAsAgreed) {
  int calls = 0;
  const CommandEnd end = RunWith(absl::Milliseconds(5), absl::Milliseconds(300), [&] {
    ++calls;
    return MachineFailure("broker", "no connection");
  });
  EXPECT_EQ(ReasonOf(end.stopped), Reason::kEvidenceMissing);
  EXPECT_EQ(count_, 0u);
  EXPECT_GT(calls, 1) << "it asks again";
}

TEST_F(ReattestationTest, ACallThatHangsDoesNotHoldTheLimitUp) {
  const CommandEnd end = RunWith(absl::Milliseconds(5), absl::Milliseconds(100), [&] {
    // Longer than there is patience; the command has ended before it returns.
    absl::SleepFor(absl::Seconds(2));
    return absl::OkStatus();
  });
  EXPECT_EQ(ReasonOf(end.stopped), Reason::kEvidenceMissing);
}

}  // namespace
}  // namespace pavise::agent
