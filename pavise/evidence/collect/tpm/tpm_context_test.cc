#include "pavise/evidence/collect/tpm/tpm_context.h"

#include <string>
#include <utility>
#include <vector>

#include "pavise/base/random.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/appraise/tpm/tpm_structures.h"
#include "pavise/evidence/testing/swtpm.h"

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

// Everything between a TPM and the appraisers, with two software TPMs of one authority.
namespace pavise::evidence {
namespace {

using crypto::testing::HasProgram;
using crypto::testing::RunCommand;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Swtpm;
using testing::SwtpmAuthority;

constexpr AkKind kAkKinds[] = {AkKind::kEcdsaP256, AkKind::kEcdsaP384, AkKind::kRsaSsa2048,
                               AkKind::kRsaPss2048};

// An endorsement key in its TPM with what the verifier thinks of it.
struct Endorsed {
  TpmKey key;
  VerifiedEk verified;
};

class TpmContextTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!testing::SwtpmMissing().empty()) return;
    authority_ = new SwtpmAuthority();
    tpm_ = Swtpm::Start(*authority_).release();
    other_tpm_ = Swtpm::Start(*authority_).release();
  }
  static void TearDownTestSuite() {
    delete std::exchange(other_tpm_, nullptr);
    delete std::exchange(tpm_, nullptr);
    delete std::exchange(authority_, nullptr);
  }

  void SetUp() override {
    const std::string missing = testing::SwtpmMissing();
    if (!missing.empty()) GTEST_SKIP() << missing;
    ASSERT_TRUE(tpm_ != nullptr && other_tpm_ != nullptr);
    context_ = Open(*tpm_);
    trust_.others = authority_->issuers();
    trust_.roots = {authority_->root()};
    nonce_ = Bytes(32, 0x5a);
  }

  static std::unique_ptr<TpmContext> Open(const Swtpm& tpm) {
    auto context = TpmContext::Open(tpm.tcti());
    EXPECT_TRUE(context.ok()) << context.status();
    return context.ok() ? *std::move(context) : nullptr;
  }

  // swtpm_setup certifies no P-256 key, so the test does.
  crypto::Certificate CertificateOf(TpmContext& context, const TpmKey& ek, EkTemplate ek_template) {
    const auto der = context.ReadEkCertificate(ek_template);
    EXPECT_TRUE(der.ok()) << der.status();
    EXPECT_EQ(der->has_value(), ek_template != EkTemplate::kEccP256);
    if (der->has_value()) return crypto::Certificate::FromDer(**der, "EK").value();
    const auto root = crypto::testing::MakeRoot(crypto::testing::AuthorityOptions("test"));
    trust_.roots.push_back(root.certificate);
    crypto::testing::CertificateOptions options;
    options.key_usage = "critical,keyAgreement";
    options.extended_key_usage = "2.23.133.8.1";
    return crypto::testing::IssueFor(root, ParseTpm2bPublic(ek.public_area(), "EK")->key, options);
  }

  Endorsed Endorse(TpmContext& context, EkTemplate ek_template) {
    TpmKey key = context.CreateEk(ek_template).value();
    const crypto::Certificate certificate = CertificateOf(context, key, ek_template);
    CheckList checks;
    auto verified =
        EkAppraiser::Appraise(key.public_area(), certificate, trust_, absl::Now(), checks);
    EXPECT_TRUE(verified.ok()) << EkTemplateName(ek_template) << ": " << verified.status();
    return {std::move(key), *std::move(verified)};
  }

  absl::StatusOr<VerifiedAk> Enrol(TpmContext& context, const Endorsed& ek, const TpmKey& ak) {
    CheckList checks;
    PAVISE_ASSIGN_OR_RETURN(AkEnrolment enrolment, AkEnroller::Begin(ek.verified, ak.public_area(),
                                                                     SystemRandom(), checks));
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes secret,
                            context.ActivateCredential(ak, ek.key, enrolment.challenge));
    return AkEnroller::Finish(std::move(enrolment), secret, checks);
  }

  std::vector<Reason> Findings(const QuoteEvidence& evidence, const VerifiedAk* enrolled) const {
    CheckList checks;
    QuoteExpectation expected;
    expected.nonce = nonce_;
    expected.pcrs = pcrs_;
    expected.enrolled = enrolled;
    const auto verdict = QuoteAppraiser::Appraise(evidence, expected, checks);
    EXPECT_EQ(verdict.ok(), checks.all_passed());
    std::vector<Reason> reasons;
    for (const Refusal& finding : RefusalsOf(verdict.status())) reasons.push_back(finding.reason);
    EXPECT_EQ(verdict.ok(), reasons.empty()) << verdict.status();
    return reasons;
  }

  static SwtpmAuthority* authority_;
  static Swtpm* tpm_;
  static Swtpm* other_tpm_;
  std::unique_ptr<TpmContext> context_;
  TpmTrust trust_;
  Bytes nonce_;
  // 24 PCRs of a bank take three commands to read.
  PcrIndices pcrs_ = {{PcrBank::kSha1, {10}},
                      {PcrBank::kSha256, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 17, 23}}};
};
SwtpmAuthority* TpmContextTest::authority_ = nullptr;
Swtpm* TpmContextTest::tpm_ = nullptr;
Swtpm* TpmContextTest::other_tpm_ = nullptr;

TEST_F(TpmContextTest, EveryKindOfKeyIsEnrolledAndQuotes) {
  int accepted = 0;
  for (const EkTemplate ek_template :
       {EkTemplate::kRsa2048, EkTemplate::kEccP256, EkTemplate::kEccP384}) {
    const Endorsed ek = Endorse(*context_, ek_template);
    for (const AkKind kind : kAkKinds) {
      const TpmKey ak = context_->CreateAk(kind).value();
      const auto enrolled = Enrol(*context_, ek, ak);
      ASSERT_TRUE(enrolled.ok()) << EkTemplateName(ek_template) << ": " << enrolled.status();
      const auto evidence = context_->Quote(ak, nonce_, pcrs_);
      ASSERT_TRUE(evidence.ok()) << evidence.status();
      QuoteExpectation expected;
      expected.nonce = nonce_;
      expected.pcrs = pcrs_;
      expected.enrolled = &*enrolled;
      CheckList checks;
      const auto verified = QuoteAppraiser::Appraise(*evidence, expected, checks);
      ASSERT_TRUE(verified.ok()) << verified.status();
      EXPECT_EQ((*verified)->ak_bound_to, AkBinding::kEk);
      EXPECT_EQ((*verified)->pcrs, evidence->pcrs);
      EXPECT_EQ((*verified)->tpm->certificate_fingerprint,
                (*enrolled)->ek.tpm.certificate_fingerprint);
      ++accepted;
    }
  }
  EXPECT_EQ(accepted, 12);
}

TEST_F(TpmContextTest, KeysAreTheTpmsOwnAndTheSameEachTime) {
  const auto other = Open(*other_tpm_);
  for (const AkKind kind : kAkKinds) {
    const Bytes area = context_->CreateAk(kind)->public_area();
    EXPECT_EQ(context_->CreateAk(kind)->public_area(), area);
    EXPECT_NE(other->CreateAk(kind)->public_area(), area);
    CheckList checks;
    CheckAkAttributes(ParseTpm2bPublic(area, "AK").value(), checks);
    EXPECT_TRUE(checks.all_passed());
  }
}

// The TPM has room for three keys: that none is left behind shows here.
TEST_F(TpmContextTest, KeysAndSessionsAreFlushed) {
  const Endorsed ek = Endorse(*context_, EkTemplate::kRsa2048);
  for (int i = 0; i < 8; ++i) {
    const auto ak = context_->CreateAk(AkKind::kEcdsaP256);
    ASSERT_TRUE(ak.ok()) << ak.status();
    ASSERT_TRUE(Enrol(*context_, ek, *ak).ok());
  }
}

TEST_F(TpmContextTest, ExtendedPcrsReadAsTheyReplay) {
  PcrValues before = context_->ReadPcrs(pcrs_).value();
  EXPECT_EQ(*before.Get(PcrBank::kSha256, 17), InitialPcrValue(PcrBank::kSha256, 17));
  const Bytes digest(32, 0xa5);
  ASSERT_TRUE(context_->ExtendPcr(PcrBank::kSha256, 23, digest).ok());
  ASSERT_TRUE(before.Extend(PcrBank::kSha256, 23, digest).ok());
  EXPECT_EQ(context_->ReadPcrs(pcrs_).value(), before);
  EXPECT_EQ(ExitCodeOf(context_->ExtendPcr(PcrBank::kSha256, 24, digest)), 2);
  EXPECT_EQ(ExitCodeOf(context_->ExtendPcr(PcrBank::kSha1, 23, digest)), 2);
  // A quote from before is of the old values.
  const TpmKey ak = context_->CreateAk(AkKind::kEcdsaP256).value();
  QuoteEvidence old = context_->Quote(ak, nonce_, pcrs_).value();
  EXPECT_THAT(Findings(old, nullptr), IsEmpty());
  ASSERT_TRUE(context_->ExtendPcr(PcrBank::kSha256, 23, digest).ok());
  old.pcrs = context_->ReadPcrs(pcrs_).value();
  EXPECT_THAT(Findings(old, nullptr), ElementsAre(Reason::kMeasurementMismatch));
}

TEST_F(TpmContextTest, OnlyTheTpmWithBothKeysOpensACredential) {
  const auto other = Open(*other_tpm_);
  const Endorsed ek = Endorse(*context_, EkTemplate::kRsa2048);
  const TpmKey ak = context_->CreateAk(AkKind::kEcdsaP256).value();
  const auto reason = [&](TpmContext& context, const TpmKey& with_ak, const TpmKey& with_ek,
                          const CredentialChallenge& challenge) {
    return ReasonOf(context.ActivateCredential(with_ak, with_ek, challenge).status());
  };
  CheckList checks;
  const AkEnrolment enrolment =
      AkEnroller::Begin(ek.verified, ak.public_area(), SystemRandom(), checks).value();
  const CredentialChallenge& good = enrolment.challenge;
  const auto opened = context_->ActivateCredential(ak, ek.key, good);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(opened->Equals(enrolment.secret));

  // Another key of the same TPM; another TPM.
  const TpmKey another = context_->CreateAk(AkKind::kEcdsaP384).value();
  EXPECT_EQ(reason(*context_, another, ek.key, good), Reason::kBindingMismatch);
  const TpmKey foreign_ek = other->CreateEk(EkTemplate::kRsa2048).value();
  const TpmKey foreign_ak = other->CreateAk(AkKind::kEcdsaP256).value();
  EXPECT_EQ(reason(*other, foreign_ak, foreign_ek, good), Reason::kBindingMismatch);
  // Changed on its way.
  for (const size_t at : {size_t{4}, size_t{20}, good.credential_blob.size() - 1}) {
    CredentialChallenge changed = good;
    changed.credential_blob[at] ^= 1;
    EXPECT_EQ(reason(*context_, ak, ek.key, changed), Reason::kBindingMismatch) << at;
  }
  CredentialChallenge cut = good;
  cut.credential_blob.pop_back();
  EXPECT_EQ(reason(*context_, ak, ek.key, cut), Reason::kMalformed);
  cut = good;
  cut.encrypted_secret.push_back(0);
  EXPECT_EQ(reason(*context_, ak, ek.key, cut), Reason::kMalformed);
  // The enrolment of another challenge.
  AkEnrolment second =
      AkEnroller::Begin(ek.verified, ak.public_area(), SystemRandom(), checks).value();
  EXPECT_EQ(ReasonOf(AkEnroller::Finish(std::move(second), *opened, checks).status()),
            Reason::kBindingMismatch);
}

TEST_F(TpmContextTest, EvidenceOfAnotherMachineOrSessionIsRefused) {
  const auto other = Open(*other_tpm_);
  const Endorsed ek = Endorse(*context_, EkTemplate::kEccP384);
  const TpmKey ak = context_->CreateAk(AkKind::kEcdsaP256).value();
  const TpmKey foreign_ak = other->CreateAk(AkKind::kEcdsaP256).value();
  const auto enrolled = Enrol(*context_, ek, ak);
  ASSERT_TRUE(enrolled.ok()) << enrolled.status();
  const QuoteEvidence good = context_->Quote(ak, nonce_, pcrs_).value();
  ASSERT_THAT(Findings(good, &*enrolled), IsEmpty());

  // Genuine, of this session's nonce, and of another machine.
  const QuoteEvidence foreign = other->Quote(foreign_ak, nonce_, pcrs_).value();
  EXPECT_THAT(Findings(foreign, nullptr), IsEmpty());
  EXPECT_THAT(Findings(foreign, &*enrolled), ElementsAre(Reason::kBindingMismatch));
  QuoteEvidence spliced = foreign;
  spliced.ak_public = good.ak_public;
  EXPECT_THAT(Findings(spliced, &*enrolled), ElementsAre(Reason::kSignatureInvalid));
  // A key of the same TPM that was not enrolled.
  const TpmKey another = context_->CreateAk(AkKind::kRsaPss2048).value();
  EXPECT_THAT(Findings(context_->Quote(another, nonce_, pcrs_).value(), &*enrolled),
              ElementsAre(Reason::kBindingMismatch));
  // Another session's.
  const QuoteEvidence replayed = context_->Quote(ak, Bytes(32, 0x5b), pcrs_).value();
  EXPECT_THAT(Findings(replayed, &*enrolled), ElementsAre(Reason::kNonceMismatch));
  // PCR 10 left out, and the bank swapped.
  PcrIndices fewer = pcrs_;
  fewer[PcrBank::kSha256].erase(10);
  EXPECT_THAT(Findings(context_->Quote(ak, nonce_, fewer).value(), &*enrolled),
              ElementsAre(Reason::kEvidenceMissing));
  const PcrIndices swapped = {{PcrBank::kSha1, pcrs_[PcrBank::kSha256]},
                              {PcrBank::kSha256, pcrs_[PcrBank::kSha1]}};
  const auto findings = Findings(context_->Quote(ak, nonce_, swapped).value(), &*enrolled);
  EXPECT_EQ(findings, std::vector<Reason>(14, Reason::kEvidenceMissing));
}

TEST_F(TpmContextTest, EachSignatureByteOfEachSchemeCounts) {
  int refused = 0;
  for (const AkKind kind : kAkKinds) {
    const TpmKey ak = context_->CreateAk(kind).value();
    QuoteEvidence evidence = context_->Quote(ak, nonce_, pcrs_).value();
    ASSERT_THAT(Findings(evidence, nullptr), IsEmpty());
    for (size_t i = 0; i < evidence.signature.size(); ++i) {
      evidence.signature[i] ^= 0x04;
      EXPECT_FALSE(Findings(evidence, nullptr).empty()) << i;
      evidence.signature[i] ^= 0x04;
      ++refused;
    }
  }
  EXPECT_EQ(refused, 8 + 64 + 8 + 96 + 6 + 256 + 6 + 256);
}

TEST_F(TpmContextTest, RefusesWhatTheTpmCannotDo) {
  const TpmKey ak = context_->CreateAk(AkKind::kEcdsaP256).value();
  EXPECT_EQ(ReasonOf(context_->ReadPcrs({{PcrBank::kSha512, {0}}}).status()), Reason::kUnsupported);
  EXPECT_EQ(ExitCodeOf(context_->ReadPcrs({}).status()), 2);
  EXPECT_EQ(ExitCodeOf(context_->ReadPcrs({{PcrBank::kSha256, {24}}}).status()), 2);
  EXPECT_EQ(ExitCodeOf(context_->Quote(ak, Bytes(33), pcrs_).status()), 2);
  EXPECT_EQ(ExitCodeOf(context_->Quote(ak, {}, pcrs_).status()), 2);
  const auto other = Open(*other_tpm_);
  EXPECT_EQ(ExitCodeOf(other->Quote(ak, nonce_, pcrs_).status()), 2);
  EXPECT_EQ(ExitCodeOf(TpmContext::Open("").status()), 2);
  const absl::Status absent = TpmContext::Open("device:/dev/no-such-tpm").status();
  EXPECT_EQ(ExitCodeOf(absent), 3);
  EXPECT_THAT(std::string(absent.message()), HasSubstr("check that the TPM is there"));
}

// tpm2-tools and OpenSSL see what Pavise sees.
TEST_F(TpmContextTest, OtherToolsAgree) {
  for (const char* program : {"tpm2_checkquote", "openssl"}) {
    if (!HasProgram(program)) GTEST_SKIP() << program << " is not installed";
  }
  const pavise::testing::TemporaryDirectory directory;
  int agreed = 0;
  for (const AkKind kind : {AkKind::kEcdsaP256, AkKind::kRsaSsa2048}) {
    const TpmKey ak = context_->CreateAk(kind).value();
    const QuoteEvidence evidence = context_->Quote(ak, nonce_, pcrs_).value();
    ASSERT_THAT(Findings(evidence, nullptr), IsEmpty());
    const auto key = ParseTpm2bPublic(evidence.ak_public, "AK")->key;
    const std::string command =
        StrCat("tpm2_checkquote -u ", directory.Write("ak.pem", key.ToPem()), " -m ",
               directory.Write("quote.msg", AsText(evidence.quote)), " -s ",
               directory.Write("quote.sig", AsText(evidence.signature)), " -g sha256 -q ");
    const auto accepted = RunCommand(command + ToHex(nonce_));
    EXPECT_EQ(accepted.exit_code, 0) << accepted.output;
    EXPECT_NE(RunCommand(command + ToHex(Bytes(32, 0x5b))).exit_code, 0);
    ++agreed;
  }
  EXPECT_EQ(agreed, 2);

  // tpm2_checkquote 5.4 takes RSAPSS for RSASSA.
  const TpmKey pss = context_->CreateAk(AkKind::kRsaPss2048).value();
  const QuoteEvidence evidence = context_->Quote(pss, nonce_, pcrs_).value();
  ASSERT_THAT(Findings(evidence, nullptr), IsEmpty());
  const std::string command = StrCat(
      "openssl dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:auto -verify ",
      directory.Write("pss.pem", ParseTpm2bPublic(evidence.ak_public, "AK")->key.ToPem()),
      " -signature ",
      directory.Write("pss.sig", AsText(ParseTpmtSignature(evidence.signature, "")->rsa)), " ");
  const auto accepted = RunCommand(command + directory.Write("pss.msg", AsText(evidence.quote)));
  EXPECT_EQ(accepted.exit_code, 0) << accepted.output;
  EXPECT_NE(RunCommand(command + directory.Write("none.msg", "")).exit_code, 0);

  const TpmKey ek = context_->CreateEk(EkTemplate::kRsa2048).value();
  const crypto::Certificate certificate = CertificateOf(*context_, ek, EkTemplate::kRsa2048);
  const std::string verify = StrCat(
      "openssl verify -CAfile ", authority_->path(), "/swtpm-localca-rootca-cert.pem -untrusted ",
      authority_->path(), "/issuercert.pem ", directory.Write("ek.pem", certificate.ToPem()));
  const auto verified = RunCommand(verify);
  EXPECT_EQ(verified.exit_code, 0) << verified.output;
}

}  // namespace
}  // namespace pavise::evidence
