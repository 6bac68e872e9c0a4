#include "pavise/evidence/appraise/tpm/ek.h"

#include <optional>
#include <string>
#include <vector>

#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/appraise/testing/test_tpm.h"
#include "pavise/evidence/appraise/tpm/credential.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using crypto::testing::AuthorityOptions;
using crypto::testing::CertificateOptions;
using crypto::testing::Issue;
using crypto::testing::IssueFor;
using crypto::testing::MakeRoot;
using crypto::testing::ReadText;
using crypto::testing::TestCertificate;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

// A TPM2B_PUBLIC of the fuzz corpus (fuzz/make_corpus.py): "rsa_ek" or "ecc_ak".
Bytes Sized(const std::string& name) {
  const std::string text = ReadText(PAVISE_SOURCE_DIR "/fuzz/corpus/tpm_structures_fuzz/" + name);
  Bytes area(text.begin() + 1, text.end());
  area.insert(area.begin(),
              {static_cast<uint8_t>(area.size() >> 8), static_cast<uint8_t>(area.size())});
  return area;
}

class EkTest : public ::testing::Test {
 protected:
  EkTest()
      : root_(MakeRoot(AuthorityOptions("TPM root"))),
        intermediate_(Issue(root_, AuthorityOptions("TPM intermediate"))) {
    trust_.roots = {root_.certificate};
    trust_.others = {intermediate_.certificate};
    options_.common_name = "EK";
    options_.key_usage = "critical,keyEncipherment";
    options_.extended_key_usage = "2.23.133.8.1";
  }

  crypto::Certificate Certify(const TestCertificate& issuer, const Bytes& key_area) const {
    return IssueFor(issuer, ParseTpm2bPublic(key_area, "key")->key, options_);
  }

  std::vector<Reason> Findings(const Bytes& ek_public, const crypto::Certificate& certificate,
                               absl::Time at = kNow) const {
    CheckList checks;
    const auto ek = EkAppraiser::Appraise(ek_public, certificate, trust_, at, checks);
    EXPECT_EQ(ek.ok(), checks.all_passed());
    std::vector<Reason> reasons;
    for (const Refusal& finding : RefusalsOf(ek.status())) reasons.push_back(finding.reason);
    EXPECT_EQ(ek.ok(), reasons.empty()) << ek.status();
    return reasons;
  }

  TestCertificate root_, intermediate_;
  TpmTrust trust_;
  CertificateOptions options_;
  const Bytes ek_ = Sized("rsa_ek");
};

TEST_F(EkTest, ACertifiedKeyIsAccepted) {
  CheckList checks;
  const auto ek = EkAppraiser::Appraise(ek_, Certify(intermediate_, ek_), trust_, kNow, checks);
  ASSERT_TRUE(ek.ok()) << ek.status();
  EXPECT_EQ((*ek)->tpm.root_fingerprint, root_.certificate.Fingerprint());
  EXPECT_EQ((*ek)->tpm.manufacturer, "");
  options_.extended_key_usage = "";  // older vendors' certificates state none
  EXPECT_THAT(Findings(ek_, Certify(intermediate_, ek_)), IsEmpty());
}

TEST_F(EkTest, ChainsThatDoNotHoldAreRefused) {
  const crypto::Certificate good = Certify(intermediate_, ek_);
  const absl::Time early = absl::FromUnixSeconds(1'600'000'000);
  const absl::Time late = absl::FromUnixSeconds(2'100'000'000);
  EXPECT_THAT(Findings(ek_, good, early), ElementsAre(Reason::kCertificateInvalid));
  EXPECT_THAT(Findings(ek_, good, late), ElementsAre(Reason::kCertificateInvalid));
  // An issuer of the same name that nobody trusts.
  const TestCertificate forged_root = MakeRoot(AuthorityOptions("TPM root"));
  const TestCertificate forged = Issue(forged_root, AuthorityOptions("TPM intermediate"));
  EXPECT_THAT(Findings(ek_, Certify(forged, ek_)), ElementsAre(Reason::kCertificateInvalid));
  // Itself, whether or not somebody put it among the roots.
  CertificateOptions self = options_;
  self.key_usage = "";
  const TestCertificate self_signed = MakeRoot(self);
  EXPECT_THAT(Findings(ek_, self_signed.certificate),
              ElementsAre(Reason::kCertificateInvalid, Reason::kBindingMismatch));
  trust_.roots.push_back(self_signed.certificate);
  EXPECT_THAT(Findings(ek_, self_signed.certificate),
              ElementsAre(Reason::kCertificateInvalid, Reason::kBindingMismatch));
  // A root that only came with the evidence.
  trust_.sent = {forged_root.certificate, forged.certificate};
  EXPECT_THAT(Findings(ek_, Certify(forged, ek_)), ElementsAre(Reason::kCertificateInvalid));
  // An intermediate may come with the evidence, its root not.
  trust_.others.clear();
  trust_.sent = {intermediate_.certificate};
  EXPECT_THAT(Findings(ek_, good), IsEmpty());
  trust_.roots.clear();
  trust_.sent.push_back(root_.certificate);
  EXPECT_THAT(Findings(ek_, good), ElementsAre(Reason::kCertificateInvalid));
}

TEST_F(EkTest, NamesBySha1AreRefused) {
  testing::TestTpm tpm;
  Bytes ek = tpm.EkPublic();
  trust_ = tpm.trust();
  EXPECT_THAT(Findings(ek, tpm.ek_certificate), IsEmpty());
  ek[5] = 0x04;  // nameAlg, after the length and the type
  EXPECT_THAT(Findings(ek, tpm.ek_certificate), ElementsAre(Reason::kUnsupported));
  Bytes ak = tpm.AkPublic();
  CheckList good;
  CheckAkAttributes(*ParseTpm2bPublic(ak, "AK"), good);
  EXPECT_TRUE(good.all_passed());
  ak[5] = 0x04;
  CheckList checks;
  CheckAkAttributes(*ParseTpm2bPublic(ak, "AK"), checks);
  EXPECT_EQ(ReasonOf(checks.Verdict()), Reason::kUnsupported);
}

TEST_F(EkTest, RevokedCertificatesAreRefused) {
  const crypto::Certificate good = Certify(intermediate_, ek_);
  const std::vector<std::string> fingerprints = {
      good.Fingerprint(), intermediate_.certificate.Fingerprint(), root_.certificate.Fingerprint(),
      // ECDSA signatures have twins.
      good.TwinFingerprint(intermediate_.key.public_key()).value(),
      intermediate_.certificate.TwinFingerprint(root_.key.public_key()).value()};
  for (const std::string& fingerprint : fingerprints) {
    trust_.revoked = {fingerprint};
    EXPECT_THAT(Findings(ek_, good), ElementsAre(Reason::kRevoked)) << fingerprint;
  }
  trust_.revoked = {std::string(64, '0')};
  EXPECT_THAT(Findings(ek_, good), IsEmpty());
}

TEST_F(EkTest, CertificatesOfOtherKeysOrForOtherUsesAreRefused) {
  EXPECT_THAT(Findings(ek_, Issue(intermediate_, options_).certificate),
              ElementsAre(Reason::kBindingMismatch));
  for (const char* usage : {"2.23.133.8.3", "serverAuth", "2.23.133.8.2,codeSigning"}) {
    options_.extended_key_usage = usage;
    EXPECT_THAT(Findings(ek_, Certify(intermediate_, ek_)),
                ElementsAre(Reason::kCertificateInvalid))
        << usage;
  }
}

TEST_F(EkTest, OnlyAStorageKeyOfTheTpmIsAnEndorsementKey) {
  const crypto::Certificate good = Certify(intermediate_, ek_);
  ASSERT_THAT(Findings(ek_, good), IsEmpty());
  for (const uint32_t bit : {kTpmRestricted, kTpmDecrypt, kTpmFixedTpm, kTpmFixedParent,
                             kTpmSensitiveDataOrigin, kTpmSign}) {
    Bytes changed = ek_;
    for (size_t i = 0; i < 4; ++i) changed[6 + i] ^= static_cast<uint8_t>(bit >> (24 - 8 * i));
    EXPECT_THAT(Findings(changed, good), ElementsAre(Reason::kPlatformInsecure)) << bit;
  }
  const Bytes ak = Sized("ecc_ak");
  EXPECT_THAT(Findings(ak, Certify(intermediate_, ak)),
              ElementsAre(Reason::kPlatformInsecure, Reason::kPlatformInsecure));
  EXPECT_THAT(Findings(Bytes(ek_.begin(), ek_.end() - 1), good), ElementsAre(Reason::kMalformed));
}

// Always the same bytes, so that a test can be replayed.
class FixedRandom final : public RandomSource {
 public:
  absl::Status Fill(std::span<uint8_t> out) override {
    for (uint8_t& byte : out) byte = static_cast<uint8_t>(++next_);
    return absl::OkStatus();
  }

 private:
  int next_ = 0;
};

TEST_F(EkTest, AnEnrolmentEndsWithItsSecretOnly) {
  FixedRandom random;
  CheckList checks;
  const auto ek = EkAppraiser::Appraise(ek_, Certify(intermediate_, ek_), trust_, kNow, checks);
  ASSERT_TRUE(ek.ok()) << ek.status();
  const Bytes ak = Sized("ecc_ak");
  const auto begin = [&] { return AkEnroller::Begin(*ek, ak, random, checks).value(); };
  AkEnrolment enrolment = begin();
  // Sizes of Part 1, 24: outer HMAC, and the encrypted credential with its length.
  EXPECT_EQ(enrolment.challenge.credential_blob.size(), 2u + 2 + 32 + 2 + 32);
  EXPECT_EQ(enrolment.challenge.encrypted_secret.size(), 2u + 256);
  const SecretBytes secret(enrolment.secret.Reveal());
  const auto verified = AkEnroller::Finish(std::move(enrolment), secret, checks);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ((*verified)->ak.name, ParseTpm2bPublic(ak, "AK")->name);

  const auto reason = [&](const SecretBytes& answer) {
    CheckList own;
    return ReasonOf(AkEnroller::Finish(begin(), answer, own).status());
  };
  EXPECT_EQ(reason(secret), Reason::kBindingMismatch);  // of the enrolment before
  EXPECT_EQ(reason(SecretBytes()), Reason::kBindingMismatch);
  EXPECT_EQ(reason(SecretBytes(Bytes(32))), Reason::kBindingMismatch);
  CheckList own;
  EXPECT_EQ(
      ReasonOf(
          AkEnroller::Finish({{}, SecretBytes(), begin().claims}, SecretBytes(), own).status()),
      Reason::kBindingMismatch);
  // Not an attestation key.
  Bytes unrestricted = ak;
  unrestricted[7] ^= static_cast<uint8_t>(kTpmRestricted >> 16);
  CheckList third;
  EXPECT_EQ(ReasonOf(AkEnroller::Begin(*ek, unrestricted, random, third).status()),
            Reason::kPlatformInsecure);
  EXPECT_EQ(
      ExitCodeOf(
          MakeCredential((*ek)->ek, (*verified)->ak.name, SecretBytes(Bytes(33)), random).status()),
      2);
}

// EK certificates that swtpm_localca issued; the public area of the RSA key is there as well.
TEST(EkVectorTest, SwtpmCertificatesLeadToTheirAuthority) {
  const auto vectors = crypto::testing::VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no vectors (PAVISE_VECTORS)";
  const std::string folder = *vectors + "/attest/measured_boot/";
  const auto read = [&](const std::string& name) {
    return crypto::Certificate::ListFromPem(ReadText(folder + "ca/" + name), name).value()[0];
  };
  const auto bytes = [&](const std::string& name) {
    const std::string text = ReadText(folder + name);
    return Bytes(text.begin(), text.end());
  };
  const absl::Time at = absl::FromUnixSeconds(1'797'000'000);  // December 2026
  TpmTrust trust;
  trust.roots = {read("swtpm-localca-rootca-cert.pem")};
  trust.others = {read("issuercert.pem")};
  int accepted = 0;
  for (const std::string name : {"clean/", "viol/"}) {
    const auto rsa = crypto::Certificate::FromDer(bytes(name + "ek-rsa2048.crt"), "EK").value();
    const auto ecc = crypto::Certificate::FromDer(bytes(name + "ek-secp384r1.crt"), "EK").value();
    const Bytes ek_public = bytes(name + "ek.pub");
    CheckList checks;
    const auto ek = EkAppraiser::Appraise(ek_public, rsa, trust, at, checks);
    ASSERT_TRUE(ek.ok()) << ek.status();
    EXPECT_EQ((*ek)->tpm.manufacturer, "id:00001014");
    EXPECT_EQ((*ek)->tpm.model, "swtpm");
    EXPECT_EQ((*ek)->tpm.version, "id:20191023");
    ++accepted;
    CheckList others;
    EXPECT_EQ(ReasonOf(EkAppraiser::Appraise(ek_public, ecc, trust, at, others).status()),
              Reason::kBindingMismatch);
    CheckList untrusted;
    EXPECT_EQ(
        ReasonOf(
            EkAppraiser::Appraise(ek_public, rsa, {{}, trust.others, {}}, at, untrusted).status()),
        Reason::kCertificateInvalid);
  }
  EXPECT_EQ(accepted, 2);
}

}  // namespace
}  // namespace pavise::evidence
