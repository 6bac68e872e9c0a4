// Signatures made by the reference tool and the samples of the OMS specification, verified as far
// as the statement, and refused after every change.

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "pavise/base/clock.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/signing/bundle.h"
#include "pavise/signing/sigstore.h"
#include "pavise/signing/trust_policy.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::signing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

constexpr char kIdentity[] = "stefanb@us.ibm.com";
constexpr char kIssuer[] = "https://sigstore.verify.ibm.com/oauth2";

absl::Time At(int year) { return absl::FromCivil(absl::CivilDay(year, 7, 1), absl::UTCTimeZone()); }

struct Sample {
  std::string name;
  Bundle bundle;
  std::string model_name;
};

class VectorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::optional<std::string> directory = crypto::testing::VectorsDirectory();
    if (!directory.has_value()) {
      GTEST_SKIP() << "the folder of third-party vectors is absent (PAVISE_VECTORS)";
    }
    oms_ = *directory + "/oms";
  }

  Bytes Read(const std::string& path) const {
    absl::StatusOr<Bytes> bytes = ReadFile(oms_ + "/" + path, 16 << 20);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return bytes.ok() ? *std::move(bytes) : Bytes();
  }

  Sample Load(const std::string& path, const std::string& model_name) const {
    absl::StatusOr<Bundle> bundle = ParseBundle(Read(path), path);
    EXPECT_TRUE(bundle.ok()) << bundle.status();
    return {path, bundle.ok() ? *std::move(bundle) : Bundle(), model_name};
  }

  std::vector<Sample> Releases() const {
    std::vector<Sample> samples;
    for (const std::string release : {"v0.3.1", "v1.1.0"}) {
      for (const std::string method : {"elliptic-key", "certificate", "sigstore"}) {
        const std::string name = release + "-" + method;
        // Release 0.3.1's key sample is of a single file.
        samples.push_back(Load("releases/" + name + "/model.sig",
                               name == "v0.3.1-elliptic-key" ? "signme-1" : name));
      }
    }
    return samples;
  }

  std::vector<Sample> ValidSpecificationSamples() const {
    const std::string folder = "spec/v1.0/valid/";
    return {Load(folder + "key.bundle.json", "model"),
            Load(folder + "certificate.bundle.json", "model"),
            Load(folder + "sigstore.bundle.json", "v1.1.0-sigstore")};
  }

  std::vector<Sample> AllValid() const {
    std::vector<Sample> samples = Releases();
    for (Sample& sample : ValidSpecificationSamples()) samples.push_back(std::move(sample));
    return samples;
  }

  crypto::PublicKey SampleKey() const {
    return *crypto::PublicKey::FromPem(AsText(Read("keys/signing-key-pub.pem")), "sample key");
  }
  std::vector<crypto::Certificate> SampleCertificates(const std::string& name) const {
    return *crypto::Certificate::ListFromPem(AsText(Read("keys/" + name)), name);
  }
  SigstoreTrustedRoot SampleRoot() const {
    absl::StatusOr<SigstoreTrustedRoot> root =
        ParseSigstoreTrustedRoot(Read("sigstore_trusted_root.json"), "trusted root");
    EXPECT_TRUE(root.ok()) << root.status();
    return root.ok() ? *std::move(root) : SigstoreTrustedRoot();
  }

  // Trusts whoever signed the samples, by each of the methods.
  TrustPolicy Policy() const {
    TrustedSigners signers;
    signers.keys.push_back({SampleKey()});
    signers.certificates.push_back({SampleCertificates("ca-cert.pem"), {}});
    signers.sigstore.push_back(
        {std::make_shared<const SigstoreTrustedRoot>(SampleRoot()), kIdentity, kIssuer});
    return TrustPolicy::ForSigners(std::move(signers));
  }

  std::string oms_;
};

absl::StatusOr<VerifiedStatement> Verify(const Bundle& bundle, const TrustPolicy& policy,
                                         absl::Time now = At(2026)) {
  return StatementVerifier::Verify(bundle, "model.sig", policy, FixedClock(now));
}

std::string ReasonText(const absl::Status& status) {
  if (status.ok()) return "accepted";
  const std::optional<Reason> reason = ReasonOf(status);
  return reason.has_value() ? std::string(ReasonName(*reason)) : status.ToString();
}

// Flips one bit of every `stride`th byte of `field`, a different one each time, and holds the
// verdicts against `allowed`. Returns how many were tried.
size_t FlipEveryByte(const Sample& sample, const TrustPolicy& policy,
                     const std::function<std::span<uint8_t>(Bundle&)>& field,
                     const std::set<std::string>& allowed, std::string_view what,
                     size_t stride = 1) {
  Bundle changed = sample.bundle;
  const std::span<uint8_t> bytes = field(changed);
  size_t tried = 0;
  for (size_t i = 0; i < bytes.size(); i += stride, ++tried) {
    const uint8_t before = bytes[i];
    bytes[i] ^= static_cast<uint8_t>(1u << (tried % 8));
    const std::string verdict = ReasonText(Verify(changed, policy).status());
    EXPECT_TRUE(allowed.contains(verdict))
        << sample.name << ": byte " << i << " of " << what << " flipped: " << verdict;
    bytes[i] = before;
  }
  return tried;
}

std::span<uint8_t> AsMutable(std::string& text) {
  return {reinterpret_cast<uint8_t*>(text.data()), text.size()};
}

TEST_F(VectorsTest, TheReferenceToolsReleasesVerify) {
  const TrustPolicy policy = Policy();
  const std::string key = SampleKey().Fingerprint();
  std::map<Method, int> executed;
  for (const Sample& sample : Releases()) {
    const absl::StatusOr<VerifiedStatement> verified = Verify(sample.bundle, policy);
    ASSERT_TRUE(verified.ok()) << sample.name << ": " << verified.status();
    EXPECT_EQ((*verified)->statement.model_name, sample.model_name);
    EXPECT_FALSE((*verified)->statement.is_release_020);
    EXPECT_EQ(Bytes((*verified)->payload_sha256.begin(), (*verified)->payload_sha256.end()),
              *crypto::Digest(crypto::DigestAlgorithm::kSha256, sample.bundle.payload));
    const SignerIdentity& signer = (*verified)->signer;
    EXPECT_EQ(signer.method, sample.bundle.method);
    switch (signer.method) {
      case Method::kKey:
        EXPECT_EQ(signer.key_fingerprint, key);
        // Release 0.3.1 carries the key itself and no hint.
        EXPECT_THAT(signer.warnings, SizeIs(sample.bundle.key_hint.has_value() ? 0 : 1));
        break;
      case Method::kCertificate:
        EXPECT_EQ(signer.key_fingerprint, key);
        EXPECT_EQ(signer.name, "CN=intermediate-ca");
        EXPECT_EQ(signer.issuer, "CN=intermediate-ca");
        EXPECT_THAT(signer.warnings, IsEmpty());
        break;
      case Method::kSigstore:
        EXPECT_EQ(signer.name, kIdentity);
        EXPECT_EQ(signer.issuer, kIssuer);
        EXPECT_EQ(signer.signed_at,
                  absl::FromUnixSeconds(
                      sample.name.find("v0.3.1") != std::string::npos ? 1746234602 : 1760062340));
        break;
    }
    ++executed[signer.method];
  }
  EXPECT_EQ(executed, (std::map<Method, int>{
                          {Method::kKey, 2}, {Method::kCertificate, 2}, {Method::kSigstore, 2}}));
}

TEST_F(VectorsTest, TheSpecificationsValidBundlesVerify) {
  const TrustPolicy policy = Policy();
  int executed = 0;
  for (const Sample& sample : ValidSpecificationSamples()) {
    const absl::StatusOr<VerifiedStatement> verified = Verify(sample.bundle, policy);
    ASSERT_TRUE(verified.ok()) << sample.name << ": " << verified.status();
    EXPECT_EQ((*verified)->statement.model_name, sample.model_name);
    EXPECT_THAT((*verified)->statement.resources, SizeIs(2));
    ++executed;
  }
  EXPECT_EQ(executed, 3);
}

TEST_F(VectorsTest, TheSpecificationsInvalidBundlesAreRefused) {
  int executed = 0;
  for (const std::string name :
       {"empty", "missing-envelope", "missing-tlog-entries", "missing-verification-material"}) {
    const std::string path = "spec/v1.0/invalid/" + name + ".bundle.json";
    EXPECT_EQ(ReasonOf(ParseBundle(Read(path), path).status()), Reason::kMalformed) << name;
    ++executed;
  }
  EXPECT_EQ(executed, 4);
}

TEST_F(VectorsTest, TheSpecificationsInvalidPayloadIsRefused) {
  const Sample sample = Load("spec/v1.0/invalid-payload/wrong-predicate.bundle.json", "model");
  // The sample was edited after signing, so that its signature is what falls first.
  EXPECT_EQ(ReasonOf(Verify(sample.bundle, Policy()).status()), Reason::kSignatureInvalid);
  EXPECT_EQ(ReasonOf(ParseStatement(sample.bundle.payload, sample.name).status()),
            Reason::kUnsupported);
}

TEST_F(VectorsTest, AFlippedBitInThePayloadIsRefused) {
  const TrustPolicy policy = Policy();
  size_t samples = 0;
  for (const Sample& sample : AllValid()) {
    // Sigstore: the log's entry is about another payload, which is checked first.
    const std::string expected =
        sample.bundle.method == Method::kSigstore ? "transparency-invalid" : "signature-invalid";
    EXPECT_EQ(FlipEveryByte(
                  sample, policy, [](Bundle& b) { return std::span(b.payload); }, {expected},
                  "the payload", 7),
              (sample.bundle.payload.size() + 6) / 7);
    ++samples;
  }
  EXPECT_EQ(samples, 9u);
}

TEST_F(VectorsTest, AFlippedBitInTheSignatureIsRefused) {
  const TrustPolicy policy = Policy();
  size_t samples = 0;
  for (const Sample& sample : AllValid()) {
    const std::string expected =
        sample.bundle.method == Method::kSigstore ? "transparency-invalid" : "signature-invalid";
    EXPECT_GT(FlipEveryByte(
                  sample, policy, [](Bundle& b) { return std::span(b.signature); }, {expected},
                  "the signature"),
              60u);
    ++samples;
  }
  EXPECT_EQ(samples, 9u);
}

TEST_F(VectorsTest, AFlippedBitInACertificateIsRefused) {
  const TrustPolicy policy = Policy();
  size_t certificates = 0;
  for (const Sample& sample : AllValid()) {
    for (size_t i = 0; i < sample.bundle.certificates.size(); ++i) {
      const std::set<std::string> allowed =
          sample.bundle.method == Method::kSigstore
              ? std::set<std::string>{"transparency-invalid"}
              : std::set<std::string>{"malformed", "certificate-invalid"};
      EXPECT_GT(FlipEveryByte(
                    sample, policy, [i](Bundle& b) { return std::span(b.certificates[i]); },
                    allowed, StrCat("certificate ", i)),
                700u);
      ++certificates;
    }
  }
  // Three Sigstore leaves, three chains of two.
  EXPECT_EQ(certificates, 9u);
}

TEST_F(VectorsTest, AFlippedBitInTheLogEntryIsRefused) {
  const TrustPolicy policy = Policy();
  size_t samples = 0;
  const std::set<std::string> allowed = {"transparency-invalid"};
  for (const Sample& sample : AllValid()) {
    if (sample.bundle.method != Method::kSigstore) continue;
    ++samples;
    const auto flip = [&](std::string_view what, std::function<std::span<uint8_t>(Bundle&)> field) {
      return FlipEveryByte(sample, policy, field, allowed, what);
    };
    const auto entry = [](Bundle& b) -> TlogEntry& { return b.tlog_entries[0]; };
    EXPECT_EQ(
        flip("the log's identifier", [&](Bundle& b) { return std::span(entry(b).log_key_id); }),
        32u);
    EXPECT_GT(
        flip("the SET", [&](Bundle& b) { return std::span(*entry(b).signed_entry_timestamp); }),
        60u);
    EXPECT_GT(flip("the body", [&](Bundle& b) { return std::span(entry(b).canonicalized_body); }),
              1000u);
    EXPECT_EQ(
        flip("the root", [&](Bundle& b) { return std::span(entry(b).inclusion_proof->root_hash); }),
        32u);
    EXPECT_GT(flip("the checkpoint",
                   [&](Bundle& b) { return AsMutable(entry(b).inclusion_proof->checkpoint); }),
              200u);
    for (size_t i = 0; i < sample.bundle.tlog_entries[0].inclusion_proof->hashes.size(); ++i) {
      EXPECT_EQ(flip(StrCat("hash ", i),
                     [&, i](Bundle& b) { return std::span(entry(b).inclusion_proof->hashes[i]); }),
                32u);
    }
    for (int bit = 0; bit < 62; ++bit) {
      const uint64_t mask = uint64_t{1} << bit;
      Bundle changed = sample.bundle;
      changed.tlog_entries[0].log_index ^= mask;
      EXPECT_EQ(ReasonOf(Verify(changed, policy).status()), Reason::kTransparencyInvalid) << bit;
      changed = sample.bundle;
      changed.tlog_entries[0].integrated_time_s ^= static_cast<int64_t>(mask);
      EXPECT_EQ(ReasonOf(Verify(changed, policy).status()), Reason::kTransparencyInvalid) << bit;
      changed = sample.bundle;
      changed.tlog_entries[0].inclusion_proof->log_index ^= mask;
      EXPECT_EQ(ReasonOf(Verify(changed, policy).status()), Reason::kTransparencyInvalid) << bit;
      changed = sample.bundle;
      changed.tlog_entries[0].inclusion_proof->tree_size ^= mask;
      EXPECT_EQ(ReasonOf(Verify(changed, policy).status()), Reason::kTransparencyInvalid) << bit;
    }
  }
  EXPECT_EQ(samples, 3u);
}

// The whole file, as it lies on disk: a flipped bit is refused wherever it means anything.
TEST_F(VectorsTest, AFlippedBitInAKeyBundlesFileIsRefused) {
  const TrustPolicy policy = Policy();
  Bytes text = Read("releases/v1.1.0-elliptic-key/model.sig");
  ASSERT_FALSE(text.empty());
  std::vector<size_t> accepted;
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t before = text[i];
    text[i] ^= static_cast<uint8_t>(1u << (i % 7));
    const absl::StatusOr<Bundle> bundle = ParseBundle(text, "model.sig");
    if (bundle.ok() && Verify(*bundle, policy).ok()) accepted.push_back(i);
    text[i] = before;
  }
  EXPECT_THAT(accepted, IsEmpty());
}

TEST_F(VectorsTest, SwappedPartsAreRefused) {
  const TrustPolicy policy = Policy();
  const std::vector<Sample> samples = Releases();
  int executed = 0;
  for (const Sample& a : samples) {
    for (const Sample& b : samples) {
      if (a.name == b.name || a.bundle.method != b.bundle.method) continue;
      Bundle changed = a.bundle;
      changed.payload = b.bundle.payload;
      EXPECT_FALSE(Verify(changed, policy).ok()) << a.name;
      changed = a.bundle;
      changed.signature = b.bundle.signature;
      EXPECT_FALSE(Verify(changed, policy).ok()) << a.name;
      if (a.bundle.method == Method::kSigstore) {
        changed = a.bundle;
        changed.certificates = b.bundle.certificates;
        EXPECT_EQ(ReasonOf(Verify(changed, policy).status()), Reason::kTransparencyInvalid);
        changed = a.bundle;
        changed.tlog_entries = b.bundle.tlog_entries;
        EXPECT_EQ(ReasonOf(Verify(changed, policy).status()), Reason::kTransparencyInvalid);
        changed = a.bundle;
        changed.tlog_entries[0].inclusion_proof = b.bundle.tlog_entries[0].inclusion_proof;
        EXPECT_EQ(ReasonOf(Verify(changed, policy).status()), Reason::kTransparencyInvalid);
        changed = a.bundle;
        changed.tlog_entries[0].inclusion_proof->checkpoint =
            b.bundle.tlog_entries[0].inclusion_proof->checkpoint;
        EXPECT_EQ(ReasonOf(Verify(changed, policy).status()), Reason::kTransparencyInvalid);
      }
      ++executed;
    }
  }
  EXPECT_EQ(executed, 6);
}

TEST_F(VectorsTest, CertificatesAreJudgedNowUnlessExpiredOnesAreAccepted) {
  TrustPolicy policy = Policy();
  int executed = 0;
  for (const Sample& sample : AllValid()) {
    if (sample.bundle.method != Method::kCertificate) continue;
    ++executed;
    // Valid from 2025-05-02 to 2035-04-30.
    policy.accept_expired_certificates = false;
    EXPECT_EQ(ReasonText(Verify(sample.bundle, policy, At(2026)).status()), "accepted");
    EXPECT_EQ(ReasonOf(Verify(sample.bundle, policy, At(2024)).status()),
              Reason::kCertificateInvalid);
    const absl::Status expired = Verify(sample.bundle, policy, At(2036)).status();
    EXPECT_EQ(ReasonOf(expired), Reason::kCertificateInvalid);
    EXPECT_THAT(expired.ToString(), HasSubstr("expired on 2035-04-30"));

    policy.accept_expired_certificates = true;
    const absl::StatusOr<VerifiedStatement> accepted = Verify(sample.bundle, policy, At(2036));
    ASSERT_TRUE(accepted.ok()) << accepted.status();
    EXPECT_THAT((*accepted)->signer.warnings,
                ElementsAre(HasSubstr("was judged at 2025-05-02 23:36:28 UTC")));
    EXPECT_THAT((*Verify(sample.bundle, policy, At(2026)))->signer.warnings, IsEmpty());
    EXPECT_EQ(ReasonOf(Verify(sample.bundle, policy, At(2024)).status()),
              Reason::kCertificateInvalid);
  }
  EXPECT_EQ(executed, 3);
}

TEST_F(VectorsTest, SigstoreCertificatesAreJudgedWhenTheyWereLogged) {
  const TrustPolicy policy = Policy();
  int executed = 0;
  for (const Sample& sample : AllValid()) {
    if (sample.bundle.method != Method::kSigstore) continue;
    ++executed;
    // The certificates lived for ten minutes in 2025.
    EXPECT_EQ(ReasonText(Verify(sample.bundle, policy, At(2040)).status()), "accepted");
  }
  EXPECT_EQ(executed, 3);
}

TEST_F(VectorsTest, TheSampleCertificateNeedsItsIntermediateAndItsRoot) {
  TrustPolicy policy = Policy();
  const Sample sample = Load("releases/v1.1.0-certificate/model.sig", "v1.1.0-certificate");
  Bundle changed = sample.bundle;
  changed.certificates.resize(1);
  EXPECT_EQ(ReasonOf(Verify(changed, policy).status()), Reason::kCertificateInvalid);
  changed = sample.bundle;
  std::swap(changed.certificates[0], changed.certificates[1]);
  // The intermediate's key is RSA and may not sign models.
  EXPECT_EQ(ReasonOf(Verify(changed, policy).status()), Reason::kCertificateInvalid);
  policy.rules[0].signers.certificates[0].roots = {SampleRoot().fulcio[0].chain.back()};
  EXPECT_EQ(ReasonOf(Verify(sample.bundle, policy).status()), Reason::kCertificateInvalid);
}

TEST_F(VectorsTest, RevokedSampleSignersAreRefused) {
  const std::string key = SampleKey().Fingerprint();
  int executed = 0;
  for (const Sample& sample : AllValid()) {
    TrustPolicy policy = Policy();
    const std::string signer = (*Verify(sample.bundle, policy))->signer.key_fingerprint;
    policy.revoked_keys = {signer};
    EXPECT_EQ(ReasonOf(Verify(sample.bundle, policy).status()), Reason::kRevoked) << sample.name;
    policy = Policy();
    for (const Bytes& der : sample.bundle.certificates) {
      policy.revoked_certificates = {crypto::Certificate::FromDer(der, "leaf")->Fingerprint()};
      EXPECT_EQ(ReasonOf(Verify(sample.bundle, policy).status()), Reason::kRevoked) << sample.name;
    }
    // The authorities, which no bundle holds.
    const crypto::Certificate root = sample.bundle.method == Method::kSigstore
                                         ? SampleRoot().fulcio[1].chain.back()
                                         : SampleCertificates("ca-cert.pem")[0];
    if (sample.bundle.method != Method::kKey) {
      policy.revoked_certificates = {root.Fingerprint()};
      EXPECT_EQ(ReasonOf(Verify(sample.bundle, policy).status()), Reason::kRevoked) << sample.name;
      policy.revoked_certificates.clear();
      policy.revoked_keys = {root.public_key()->Fingerprint()};
      EXPECT_EQ(ReasonOf(Verify(sample.bundle, policy).status()), Reason::kRevoked) << sample.name;
    }
    ++executed;
  }
  EXPECT_EQ(executed, 9);
}

TEST_F(VectorsTest, TheSigstoreSamplesNeedTheirTrustedRoot) {
  const SigstoreTrustedRoot root = SampleRoot();
  EXPECT_THAT(root.rekor_logs, SizeIs(2));
  EXPECT_THAT(root.ct_logs, SizeIs(2));
  EXPECT_THAT(root.fulcio, SizeIs(2));
  const absl::Time before = absl::FromUnixSeconds(1'700'000'000);
  const absl::Time after = absl::FromUnixSeconds(1'800'000'000);
  struct Case {
    std::string name;
    std::function<void(SigstoreTrustedRoot&)> change;
    std::string verdict;
  };
  const std::vector<Case> cases = {
      {"as it is", [](auto&) {}, "accepted"},
      {"no log", [](auto& r) { r.rekor_logs.clear(); }, "transparency-invalid"},
      {"the other log only", [](auto& r) { r.rekor_logs.erase(r.rekor_logs.begin()); },
       "transparency-invalid"},
      {"another log's key under this identifier",
       [](auto& r) { r.rekor_logs[0].key = r.ct_logs[0].key; }, "transparency-invalid"},
      {"the log was closed before", [=](auto& r) { r.rekor_logs[0].valid_until = before; },
       "transparency-invalid"},
      {"the log was opened later", [=](auto& r) { r.rekor_logs[0].valid_from = after; },
       "transparency-invalid"},
      {"no certificate log", [](auto& r) { r.ct_logs.clear(); }, "transparency-invalid"},
      {"the other certificate log only", [](auto& r) { r.ct_logs.pop_back(); },
       "transparency-invalid"},
      {"the certificate log was closed before", [=](auto& r) { r.ct_logs[1].valid_until = before; },
       "transparency-invalid"},
      {"no authority", [](auto& r) { r.fulcio.clear(); }, "certificate-invalid"},
      {"the other authority only", [](auto& r) { r.fulcio.pop_back(); }, "certificate-invalid"},
      {"the authority was closed before", [=](auto& r) { r.fulcio[1].valid_until = before; },
       "certificate-invalid"},
      {"the authority was opened later", [=](auto& r) { r.fulcio[1].valid_from = after; },
       "certificate-invalid"},
      {"the root without its intermediate",
       [](auto& r) { r.fulcio[1].chain.erase(r.fulcio[1].chain.begin()); }, "certificate-invalid"},
  };
  int executed = 0;
  for (const Sample& sample : AllValid()) {
    if (sample.bundle.method != Method::kSigstore) continue;
    for (const Case& c : cases) {
      SigstoreTrustedRoot changed = root;
      c.change(changed);
      EXPECT_EQ(ReasonText(VerifySigstoreBundle(sample.bundle, changed).status()), c.verdict)
          << sample.name << ": " << c.name;
      ++executed;
    }
  }
  EXPECT_EQ(executed, 3 * 14);
}

TEST_F(VectorsTest, AnotherIdentityOrIssuerIsRefused) {
  int executed = 0;
  for (const Sample& sample : AllValid()) {
    if (sample.bundle.method != Method::kSigstore) continue;
    TrustPolicy policy = Policy();
    policy.rules[0].signers.sigstore[0].identity = "mallory@us.ibm.com";
    EXPECT_EQ(ReasonOf(Verify(sample.bundle, policy).status()), Reason::kIdentityMismatch);
    policy = Policy();
    policy.rules[0].signers.sigstore[0].issuer = "https://accounts.google.com";
    EXPECT_EQ(ReasonOf(Verify(sample.bundle, policy).status()), Reason::kIdentityMismatch);
    policy = Policy();
    // A prefix is another name.
    policy.rules[0].signers.sigstore[0].identity = "stefanb@us.ibm.co";
    EXPECT_EQ(ReasonOf(Verify(sample.bundle, policy).status()), Reason::kIdentityMismatch);
    ++executed;
  }
  EXPECT_EQ(executed, 3);
}

}  // namespace
}  // namespace pavise::signing
