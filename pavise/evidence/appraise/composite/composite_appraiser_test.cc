#include "pavise/evidence/appraise/composite/composite_appraiser.h"

#include <functional>
#include <string>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/jwt.h"
#include "pavise/evidence/appraise/composite/attestation_result.h"
#include "pavise/evidence/appraise/nvidia/testing/test_gpu.h"
#include "pavise/evidence/appraise/testing/test_composite.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using testing::AddGpu;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::kTestTime;
using ::testing::Not;
using testing::SessionKey;
using ::testing::StartsWith;

// A session and how it is appraised.
struct Scene : testing::TestSession {
  CompositePolicy policy;
  CheckList checks;

  absl::StatusOr<VerifiedComposite> Appraise() {
    return CompositeAppraiser::Appraise(evidence, parts, nonce, policy, kTestTime, checks);
  }
  std::vector<std::string> Findings() {
    const absl::Status status = Appraise().status();
    EXPECT_EQ(ExitCodeOf(status), 1) << status;
    std::vector<std::string> findings;
    for (const Check& check : checks.checks()) {
      if (!check.refusal.has_value()) continue;
      findings.push_back(StrCat(check.name, ": ", ReasonName(check.refusal->reason)));
    }
    return findings;
  }
};

std::vector<std::string> Findings(const std::function<void(Scene&)>& change) {
  Scene scene;
  change(scene);
  return scene.Findings();
}

TEST(CompositeAppraiserTest, JoinsPartsOfOneSession) {
  Scene scene;
  scene.policy.required = {PartKind::kGpu, PartKind::kTpm, PartKind::kTee};
  const VerifiedComposite composite = scene.Appraise().value();
  EXPECT_EQ(composite->nonce, scene.nonce);
  EXPECT_TRUE(composite->session_key == SessionKey().public_key());
  EXPECT_EQ(composite->co_location, CoLocation::kNotProven);
  EXPECT_EQ(composite->machine, "gpu:48B02D0000000001, ek:1234, chip:5678");
  EXPECT_TRUE(scene.checks.all_passed());
}

TEST(CompositeAppraiserTest, RefusesAnotherSession) {
  EXPECT_THAT(Findings([](Scene& s) { s.nonce.fill(0x78); }),
              ElementsAre("session nonce: nonce-mismatch"));
  // The whole evidence relabelled to another challenge: every part was bound to the old one.
  EXPECT_THAT(Findings([](Scene& s) {
                s.nonce.fill(0x78);
                s.evidence.nonce = s.nonce;
              }),
              ElementsAre("binding of gpu0: binding-mismatch", "binding of tpm: binding-mismatch",
                          "binding of tee: binding-mismatch"));
  // Another session key under the same nonce.
  EXPECT_THAT(Findings([](Scene& s) {
                s.evidence.session_key =
                    crypto::PrivateKey::Generate(crypto::KeyType::kEcP256)->public_key().der();
              }),
              ElementsAre("binding of gpu0: binding-mismatch", "binding of tpm: binding-mismatch",
                          "binding of tee: binding-mismatch"));
}

TEST(CompositeAppraiserTest, EveryPartSignsForThoseBeforeIt) {
  EXPECT_THAT(Findings([](Scene& s) { s.evidence.parts[0].items["report"][50] ^= 1; }),
              ElementsAre("binding of tpm: binding-mismatch", "binding of tee: binding-mismatch"));
  EXPECT_THAT(Findings([](Scene& s) { s.evidence.parts[1].items["event_log"] = {1}; }),
              ElementsAre("binding of tee: binding-mismatch"));
  EXPECT_THAT(Findings([](Scene& s) {
                s.evidence.parts.erase(s.evidence.parts.begin());
                s.parts.erase(s.parts.begin());
              }),
              ElementsAre("binding of tpm: binding-mismatch", "binding of tee: binding-mismatch"));
  for (size_t i = 0; i < 3; ++i) {
    Scene scene;
    scene.parts[i].bound[31] ^= 1;
    EXPECT_THAT(scene.Findings(),
                ElementsAre(StrCat("binding of ", scene.parts[i].label, ": binding-mismatch")));
  }
  // One part's value in the place of another's: the role is part of it.
  EXPECT_THAT(Findings([](Scene& s) { std::swap(s.parts[1].bound, s.parts[2].bound); }),
              ElementsAre("binding of tpm: binding-mismatch", "binding of tee: binding-mismatch"));
}

TEST(CompositeAppraiserTest, PartsThatAreLeftOutAreMissedWhereRequired) {
  const auto without_tee = [](Scene& s) {
    s.evidence.parts.pop_back();
    s.parts.pop_back();
  };
  Scene optional;
  without_tee(optional);
  EXPECT_TRUE(optional.Appraise().ok());
  EXPECT_THAT(Findings([&](Scene& s) {
                without_tee(s);
                s.policy.required = {PartKind::kTpm, PartKind::kTee};
              }),
              ElementsAre("required parts: evidence-missing"));
  EXPECT_THAT(Findings([](Scene& s) { s.parts.pop_back(); }),
              ElementsAre("composite form: evidence-missing"));
}

TEST(CompositeAppraiserTest, ClaimsBelongToTheirParts) {
  EXPECT_THAT(Findings([](Scene& s) { std::swap(s.parts[1], s.parts[2]); }),
              ElementsAre("composite form: binding-mismatch"));
  EXPECT_THAT(Findings([](Scene& s) { s.parts[2].label = "tpm"; }),
              ElementsAre("composite form: binding-mismatch"));
  EXPECT_THAT(Findings([](Scene& s) { s.parts[2].label = ""; }),
              ElementsAre("composite form: binding-mismatch"));
  EXPECT_THAT(Findings([](Scene& s) {
                s.evidence.session_key = {0x30, 0x00};
              }),
              ElementsAre("session key: malformed"));
  EXPECT_THAT(Findings([](Scene& s) { s.parts[1].machine_ids.clear(); }),
              ElementsAre("identity of tpm: binding-mismatch"));
}

TEST(CompositeAppraiserTest, ADeviceCountsOnce) {
  CompositeEvidence evidence;
  evidence.session_key = SessionKey().public_key().der();
  CheckList gpu_checks, checks;
  std::vector<PartClaims> parts = {AddGpu(evidence, gpu_checks)};
  CheckList second_checks;
  parts.push_back(AddGpu(evidence, second_checks));
  parts[1].label = "gpu1";
  const absl::Status status =
      CompositeAppraiser::Appraise(evidence, parts, evidence.nonce, {}, kTestTime, checks).status();
  ASSERT_EQ(RefusalsOf(status).size(), 2u);
  EXPECT_EQ(ReasonOf(status), Reason::kBindingMismatch);
  EXPECT_EQ(RefusalsOf(status)[1].detail, "it is the same device as gpu0");
}

TEST(CompositeAppraiserTest, CoLocationIsClaimedOnlyWhereItIsProven) {
  const std::vector<std::string> all = {"gpu:48B02D0000000001", "ek:1234", "chip:5678"};
  const auto located = [](const std::function<void(Scene&)>& change) {
    Scene scene;
    change(scene);
    return scene.Appraise().value()->co_location;
  };
  EXPECT_EQ(located([&](Scene& s) { s.policy.machines = {{"rack 7", all}}; }), CoLocation::kPinned);
  EXPECT_EQ(located([&](Scene& s) {
              s.policy.machines = {{"rack 7", {all[0], all[1]}}};
            }),
            CoLocation::kNotProven);
  // Each listed, but of two machines.
  EXPECT_EQ(located([&](Scene& s) {
              s.policy.machines = {{"rack 7", {all[0], all[1]}}, {"rack 8", {all[2]}}};
            }),
            CoLocation::kNotProven);
  EXPECT_EQ(located([&](Scene& s) {
              s.parts[2].vouched_ids = {all[0], all[1]};
            }),
            CoLocation::kTeeBound);
  EXPECT_EQ(located([&](Scene& s) { s.parts[2].vouched_ids = {all[0]}; }), CoLocation::kNotProven);
  // Only a TEE can vouch.
  EXPECT_EQ(located([&](Scene& s) { s.parts[1].vouched_ids = all; }), CoLocation::kNotProven);
  EXPECT_EQ(located([&](Scene& s) {
              s.evidence.parts.resize(1);
              s.parts.resize(1);
            }),
            CoLocation::kSinglePart);
  EXPECT_THAT(Findings([](Scene& s) { s.policy.require_co_location = true; }),
              ElementsAre("co-location: binding-mismatch"));
  Scene pinned;
  pinned.policy = {.machines = {{"rack 7", all}}, .require_co_location = true};
  EXPECT_EQ(pinned.Appraise().value()->machine, "rack 7");
}

TEST(TrustVectorTest, TheWorstClaimDecides) {
  const auto tier = [](int8_t executables, int8_t hardware) {
    return TierOf({.executables = executables, .hardware = hardware});
  };
  EXPECT_EQ(tier(0, 0), TrustTier::kNone);
  EXPECT_EQ(tier(1, -1), TrustTier::kNone);
  EXPECT_EQ(tier(2, 0), TrustTier::kAffirming);
  EXPECT_EQ(tier(31, -32), TrustTier::kAffirming);
  EXPECT_EQ(tier(0, -2), TrustTier::kAffirming);
  EXPECT_EQ(tier(2, 32), TrustTier::kWarning);
  EXPECT_EQ(tier(-33, 95), TrustTier::kWarning);
  EXPECT_EQ(tier(-96, 2), TrustTier::kWarning);
  EXPECT_EQ(tier(96, 2), TrustTier::kContraindicated);
  EXPECT_EQ(tier(2, -97), TrustTier::kContraindicated);
  EXPECT_EQ(tier(127, -128), TrustTier::kContraindicated);
}

// The same values under the names that earlier readers know, and no member that would stop them.
TEST(AttestationResultTest, TheEarlierProfileHasItsOwnNames) {
  Scene scene;
  const VerifiedComposite composite = scene.Appraise().value();
  const Json ietf = EarClaims(composite, {.policy_id = "policy:1"}).value();
  const Json ear =
      EarClaims(composite, {.policy_id = "policy:1", .profile = EarProfile::kVeraison2023}).value();
  EXPECT_EQ(ear["eat_profile"], "tag:github.com,2023:veraison/ear");
  EXPECT_EQ(ear["ear.verifier-id"], ietf["ear_verifier_id"]);
  EXPECT_EQ(ear["ear.status"], "affirming");
  EXPECT_FALSE(ear.contains("ear_status"));
  EXPECT_EQ(ear["cnf"], ietf["cnf"]);
  Json wrapping_key = ietf["cnf"]["jwk"];
  wrapping_key["alg"] = "ECDH-ES+A256KW";
  EXPECT_EQ(ear["tee-pubkey"], wrapping_key);
  EXPECT_FALSE(ietf.contains("tee-pubkey"));
  ASSERT_EQ(ear["submods"].size(), 3u);
  for (const auto& part : ear["submods"].items()) {
    const Json& other = ietf["submods"][part.key()];
    EXPECT_EQ(part.value(),
              (Json{{"ear.status", other["ear_status"]},
                    {"ear.trustworthiness-vector", other["ear_trustworthiness_vector"]},
                    {"ear.appraisal-policy-id", "policy:1"},
                    {"ear.veraison.annotated-evidence", other["ear_attester_claims"]},
                    {"ear.veraison.policy-claims", other["ear_verifier_claims"]}}));
  }
}

TEST(AttestationResultTest, TheTokenNamesMachineKeyAndParts) {
  Scene scene;
  const VerifiedComposite composite = scene.Appraise().value();
  crypto::PrivateKey verifier = crypto::PrivateKey::Generate(crypto::KeyType::kEcP384).value();
  const std::string token = SignEar(composite, {.policy_id = "policy:1"}, verifier).value();
  const Json ear = crypto::VerifyJwt(token, verifier.public_key(), "token").value();
  EXPECT_EQ(ear["eat_profile"], "tag:ietf.org,2026:rats/ear#04");
  EXPECT_EQ(ear["iat"], 1'750'000'000);
  EXPECT_EQ(ear["exp"], 1'750'000'300);
  EXPECT_EQ(ear["eat_nonce"], ToBase64Url(scene.nonce));
  EXPECT_EQ(ear["ear_status"], "affirming");
  EXPECT_EQ(ear["ear_verifier_id"]["developer"], "Pavise");
  EXPECT_EQ(ear["cnf"]["jwk"], crypto::ToJwk(SessionKey().public_key(), "key").value());
  EXPECT_EQ(ear["pavise_co_location"], "co-location not proven");
  EXPECT_EQ(ear["pavise_machine"], "gpu:48B02D0000000001, ek:1234, chip:5678");
  ASSERT_EQ(ear["submods"].size(), 3u);
  const Json& gpu = ear["submods"]["gpu0"];
  EXPECT_EQ(gpu["ear_status"], "affirming");
  EXPECT_EQ(gpu["ear_trustworthiness_vector"],
            (Json{{"instance-identity", 2}, {"hardware", 2}, {"executables", 3}}));
  EXPECT_EQ(gpu["ear_appraisal_policy_ids"], Json::array({"policy:1"}));
  EXPECT_EQ(gpu["ear_attester_claims"]["driver_version"], "550.144.03");
  EXPECT_EQ(gpu["ear_verifier_claims"]["machine_ids"], Json::array({"gpu:48B02D0000000001"}));
  EXPECT_EQ(gpu["ear_verifier_claims"]["checks"].size(), 10u);
  EXPECT_EQ(ear["submods"]["tpm"]["ear_attester_claims"], (Json{{"from", "test"}}));
  EXPECT_FALSE(crypto::VerifyJwt(token, SessionKey().public_key(), "token").ok());

  scene.parts[1].trust.executables = 33;
  CheckList again;
  const VerifiedComposite warned =
      CompositeAppraiser::Appraise(scene.evidence, scene.parts, scene.nonce, {}, kTestTime, again)
          .value();
  const Json warning = EarClaims(warned, {}).value();
  EXPECT_EQ(warning["ear_status"], "warning");
  EXPECT_EQ(warning["submods"]["tpm"]["ear_status"], "warning");
  EXPECT_EQ(warning["submods"]["tee"]["ear_status"], "affirming");
  EXPECT_FALSE(warning["submods"]["tpm"].contains("ear_appraisal_policy_ids"));

  // A part of which nothing is claimed is not affirmed by the others, and hides no warning.
  const auto status_with = [&](int8_t tpm) {
    scene.parts[1].trust = {.executables = tpm};
    scene.parts[2].trust = {};
    CheckList checks;
    return EarClaims(CompositeAppraiser::Appraise(scene.evidence, scene.parts, scene.nonce, {},
                                                  kTestTime, checks)
                         .value(),
                     {})
        .value()["ear_status"];
  };
  EXPECT_EQ(status_with(2), "none");
  EXPECT_EQ(status_with(33), "warning");
  EXPECT_EQ(status_with(96), "contraindicated");
}

TEST(AttestationResultTest, TheReportIsForPeople) {
  Scene scene;
  const std::string report = FormatReport(ReportOf(scene.Appraise().value()));
  EXPECT_THAT(report, StartsWith("accepted: all "));
  EXPECT_THAT(report, HasSubstr("co-location: co-location not proven"));
  EXPECT_THAT(report, HasSubstr(SessionKey().public_key().Fingerprint()));
  EXPECT_THAT(report, HasSubstr("appraised at: 2025-06-15T15:06:40+00:00"));
  EXPECT_THAT(report, HasSubstr("\ngpu0\n  status: affirming\n"));
  EXPECT_THAT(report, HasSubstr("driver_version: 550.144.03"));
  EXPECT_THAT(report, HasSubstr("ok       GPU signature: ECDSA P-384 with SHA-384"));
  EXPECT_THAT(report, Not(HasSubstr("REFUSED")));

  Scene refused;
  refused.nonce.fill(1);
  EXPECT_FALSE(refused.Appraise().ok());
  const std::string text =
      FormatReport({{"machine", {{"name", "\x1b[31mred"}}, refused.checks.checks()}});
  EXPECT_THAT(text, StartsWith("REFUSED: 1 of "));
  EXPECT_THAT(text, HasSubstr("REFUSED  session nonce (nonce-mismatch): composite evidence: it "
                              "answers 7777"));
  EXPECT_THAT(text, HasSubstr("to change this: collect the evidence anew, for this challenge"));
  EXPECT_THAT(text, HasSubstr("name: \\x1b[31mred"));
  EXPECT_THAT(FormatReport({}), StartsWith("REFUSED"));
}

}  // namespace
}  // namespace pavise::evidence
