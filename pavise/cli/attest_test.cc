// attest and appraise as their users run them, against software TPMs.
#include <filesystem>

#include "pavise/base/json.h"
#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"
#include "pavise/evidence/appraise/testing/test_snp.h"
#include "pavise/evidence/testing/swtpm.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using evidence::testing::Swtpm;
using evidence::testing::SwtpmAuthority;
using testing::CommandOutput;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kNonce(64, 'a');

class AttestTest : public testing::CommandTest {
 protected:
  void SetUp() override {
    if (const std::string missing = evidence::testing::SwtpmMissing(); !missing.empty()) {
      GTEST_SKIP() << missing;
    }
    tpm_ = Swtpm::Start(authority_);
    ASSERT_NE(tpm_, nullptr);
  }

  CommandOutput Attest(int exit_code, const Swtpm& tpm,
                       const std::vector<std::string>& more) const {
    std::vector<std::string> words = {"attest", "--tcti",         tpm.tcti(),
                                      "--json", "--no-event-log", "--no-ima-log"};
    words.insert(words.end(), more.begin(), more.end());
    return ExpectExit(exit_code, words);
  }
  // A policy for a TPM without logs.
  void WritePolicy(const Json& tpm) const {
    Json rules = {{"event_log", false}, {"ima", false}, {"host_protections", false}};
    if (!tpm.is_null()) rules.update(tpm);
    Write("policy.json",
          Json({{"pavise_appraisal_policy", 1}, {"required", {"tpm"}}, {"tpm", rules}}).dump());
  }
  CommandOutput Appraise(int exit_code, const std::string& file, const std::string& nonce,
                         const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words = {"appraise",    "evidence", file,  "--policy",
                                      "policy.json", "--nonce",  nonce, "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return ExpectExit(exit_code, words);
  }
  void WriteTrust() const {
    std::vector<crypto::Certificate> all = authority_.issuers();
    all.push_back(authority_.root());
    std::string pem;
    for (const crypto::Certificate& certificate : all) pem += certificate.ToPem();
    Write("trust/tpm/authority.pem", pem);
  }

  SwtpmAuthority authority_;
  std::unique_ptr<Swtpm> tpm_;
};

TEST_F(AttestTest, EvidenceIsForOneChallengeOneKeyAndOnePolicy) {
  MakeKey("p384", "session");
  MakeKey("p256", "verifier");
  Attest(0, *tpm_, {"--nonce", kNonce, "--session-key", "session.pub", "-o", "evidence.cbor"});
  Attest(0, *tpm_, {"--nonce", kNonce, "--session-key", "session.pub", "-o", "evidence.json"});

  WritePolicy({{"allow_unbound_key", true}});
  const Json result =
      Appraise(0, "evidence.cbor", kNonce,
               {"--private-key", "verifier.pem", "-o", "result.jwt", "--report", "report"})
          .json()["result"];
  EXPECT_EQ(result["ear_status"], "warning");  // by a key of nobody's
  const std::string key = result["submods"]["tpm"]["ear_attester_claims"]["attestation_key"];
  EXPECT_THAT(Read("report"), HasSubstr("ok       AK signature"));
  const std::string token = Read("result.jwt");
  EXPECT_EQ(std::count(token.begin(), token.end(), '.'), 2);
  Appraise(0, "evidence.json", kNonce);

  WritePolicy({{"attestation_keys", {key}}});
  EXPECT_EQ(Appraise(0, "evidence.cbor", kNonce).json()["result"]["ear_status"], "affirming");
  // Refused, each with its reason, and with a report.
  EXPECT_THAT(Appraise(1, "evidence.cbor", std::string(64, 'b'), {"--report", "refused"}).reasons(),
              ElementsAre("nonce-mismatch"));
  EXPECT_THAT(Read("refused"), HasSubstr("REFUSED  session nonce"));
  WritePolicy({});
  EXPECT_THAT(Appraise(1, "evidence.cbor", kNonce).reasons(), Contains("binding-mismatch"));
  WritePolicy({{"attestation_keys", {key}}, {"event_log", true}, {"ima", true}});
  EXPECT_THAT(Appraise(1, "evidence.cbor", kNonce).reasons(),
              ElementsAre("evidence-missing", "evidence-missing"));
  WritePolicy({{"attestation_keys", {key}}, {"registers", {{"sha256", {23}}}}});
  EXPECT_THAT(Appraise(1, "evidence.cbor", kNonce).reasons(), Contains("evidence-missing"));
  WritePolicy({{"attestation_keys", {key}}, {"unknown", 1}});
  EXPECT_THAT(Appraise(1, "evidence.cbor", kNonce).reasons(), ElementsAre("malformed"));

  WritePolicy({{"attestation_keys", {key}}});
  const std::string evidence = Read("evidence.cbor");
  size_t refused = 0;
  for (size_t i = 0; i < evidence.size(); i += 97) {
    std::string changed = evidence;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    Write("changed.cbor", changed);
    // Certificates of the endorsement key are for enrolment, and stand under no signature here;
    // what stands there counts for nothing.
    const CommandOutput output = Pavise({"appraise", "evidence", "changed.cbor", "--policy",
                                         "policy.json", "--nonce", kNonce, "--json"});
    const bool is_enrolment_only =
        i > evidence.find("endorsement_certificates") && i < evidence.find("attestation_key");
    if (output.exit_code == 1) ++refused;
    if (!is_enrolment_only && evidence.find("endorsement_key") > i) {
      EXPECT_NE(output.exit_code, 0) << i;
    }
    EXPECT_NE(output.exit_code, 3) << i;
  }
  EXPECT_GT(refused, 5u);
}

TEST_F(AttestTest, EnrolmentBindsTheKeyToTheTpm) {
  WriteTrust();
  Attest(0, *tpm_, {"-o", "evidence.cbor"});
  const std::vector<std::string> enrol = {"appraise", "enrol",    "evidence.cbor", "--trust",
                                          "trust",    "--secret", "kept.json",     "--json"};
  const auto with = [&](std::vector<std::string> words, const std::vector<std::string>& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const Json begun = ExpectExit(0, with(enrol, {"--challenge", "challenge.json"})).json();
  ExpectExit(0, {"attest", "--tcti", tpm_->tcti(), "--activate", "challenge.json", "-o",
                 "answer.json", "--json"});
  const Json finished = ExpectExit(0, with(enrol, {"--answer", "answer.json"})).json();
  EXPECT_EQ(finished["attestation_key"], begun["attestation_key"]);

  // Another TPM cannot open it; another answer, another key, no trust: refused.
  const std::unique_ptr<Swtpm> other = Swtpm::Start(authority_);
  ASSERT_NE(other, nullptr);
  EXPECT_THAT(ExpectExit(1, {"attest", "--tcti", other->tcti(), "--activate", "challenge.json",
                             "-o", "stolen.json", "--json"})
                  .reasons(),
              ElementsAre("binding-mismatch"));
  EXPECT_FALSE(Exists("stolen.json"));
  Json wrong = Json::parse(Read("answer.json"));
  wrong["activated"] = std::string(64, '0');
  Write("wrong.json", wrong.dump());
  EXPECT_THAT(ExpectExit(1, with(enrol, {"--answer", "wrong.json"})).reasons(),
              ElementsAre("binding-mismatch"));
  Attest(0, *other, {"-o", "other.cbor"});
  std::vector<std::string> of_other = with(enrol, {"--answer", "answer.json"});
  of_other[2] = "other.cbor";
  EXPECT_THAT(ExpectExit(1, of_other).reasons(), ElementsAre("binding-mismatch"));
  Write("empty/tpm/readme.pem", authority_.issuers().front().ToPem());
  std::vector<std::string> untrusted = with(enrol, {"--challenge", "c2.json"});
  untrusted[4] = "empty";
  EXPECT_THAT(ExpectExit(1, untrusted).reasons(), Contains("certificate-invalid"));
}

// A report request that exists already, as root hands it to who may not make one.
class GuestTest : public testing::CommandTest {
 protected:
  GuestTest() {
    Write("guest/inblob", "");
    Write("guest/outblob", std::string(AsText(platform_.Report())));
    Write("guest/provider", "sev_guest\n");
    Write("guest/generation", "1\n");
  }
  CommandOutput Attest(int exit_code) const {
    return ExpectExit(exit_code, {"attest", "--no-tpm", "--tee", "--tsm-report", "guest", "--nonce",
                                  kNonce, "-o", "evidence.cbor", "--json"});
  }
  evidence::testing::SnpPlatform platform_{evidence::SnpProduct::kMilan};
};

TEST_F(GuestTest, ReportsAreAskedForWhereTheRequestIs) {
  const Json parts = Attest(0).json()["parts"];
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0]["format"], "amd-sev-snp");
  EXPECT_EQ(parts[0]["items"]["report"], 1184);
  EXPECT_EQ(Read("guest/inblob").size(), 64u);
  // The report is whole, and for another session, by nobody's root.
  Write("trust/amd/authorities.pem", platform_.leaf.certificate.ToPem() +
                                         platform_.ask.certificate.ToPem() +
                                         platform_.ark.certificate.ToPem());
  Write("policy.json", R"({"pavise_appraisal_policy":1,"required":["tee"]})");
  EXPECT_THAT(ExpectExit(1, {"appraise", "evidence", "evidence.cbor", "--policy", "policy.json",
                             "--trust", "trust", "--nonce", kNonce, "--json"})
                  .reasons(),
              ::testing::UnorderedElementsAre("certificate-invalid", "nonce-mismatch"));
}

TEST_F(GuestTest, WhatIsNoGuestOfOursIsSaid) {
  Write("guest/provider", "arm_cca_guest\n");
  EXPECT_THAT(Attest(1).reasons(), ElementsAre("unsupported"));
  std::filesystem::remove(Path("guest/outblob"));
  EXPECT_THAT(Attest(1).reasons(), ElementsAre("file-unreadable"));
  std::filesystem::remove_all(Path("guest"));
  EXPECT_NE(
      Pavise({"attest", "--no-tpm", "--tee", "--tsm-report", "guest", "-o", "e.cbor"}).exit_code,
      0);
  EXPECT_FALSE(Exists("evidence.cbor"));
  ExpectExit(2, {"attest", "--tsm-report", "guest", "-o", "e.cbor"});
}

TEST_F(AttestTest, WhatIsNotThereIsSaid) {
  EXPECT_THAT(Attest(1, *tpm_, {"--tee", "-o", "x.cbor"}).reasons(), ElementsAre("unsupported"));
  EXPECT_FALSE(Exists("x.cbor"));
  ExpectExit(2, {"attest"});
  ExpectExit(2, {"attest", "--no-tpm", "-o", "x.cbor"});
  ExpectExit(3, {"attest", "--tcti", "swtpm:path=/nowhere/socket", "-o", "x.cbor"});
  EXPECT_THAT(ExpectExit(1, {"attest", "--tcti", tpm_->tcti(), "--event-log", "absent", "-o",
                             "x.cbor", "--json"})
                  .reasons(),
              ElementsAre("file-unreadable"));
}

}  // namespace
}  // namespace pavise::cli
