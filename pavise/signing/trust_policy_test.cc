#include "pavise/signing/trust_policy.h"

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/crypto/testing/test_files.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::signing {
namespace {

using crypto::Certificate;
using crypto::KeyType;
using crypto::PrivateKey;
using crypto::PublicKey;
using crypto::testing::AuthorityOptions;
using crypto::testing::CertificateOptions;
using crypto::testing::ChainPem;
using crypto::testing::TestCertificate;
using pavise::testing::TemporaryDirectory;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// Inside the validity that test certificates have by default (2023-11 to 2033-05).
const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);
const absl::Time kMuchLater = absl::FromUnixSeconds(2'100'000'000);

std::string ReasonText(const absl::Status& status) {
  if (status.ok()) return "accepted";
  const std::optional<Reason> reason = ReasonOf(status);
  return reason.has_value() ? std::string(ReasonName(*reason)) : status.ToString();
}

std::string RemedyOf(const absl::Status& status) {
  const std::vector<Refusal> findings = RefusalsOf(status);
  return findings.empty() ? "" : findings[0].remedy;
}

std::string Repeated(std::string_view text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

PrivateKey NewKey(KeyType type = KeyType::kEcP256) { return *PrivateKey::Generate(type); }

// Any 32 bytes are a key on this curve.
PublicKey Ed25519Key() {
  Bytes der = *FromHex("302a300506032b6570032100", "prefix");
  der.resize(der.size() + 32, 0x11);
  return *PublicKey::FromDer(der, "Ed25519 key");
}

std::string StatementText(const std::string& name = "acme/llm-7b",
                          std::optional<uint64_t> version = std::nullopt) {
  Statement statement;
  statement.model_name = name;
  statement.model_version = version;
  Resource resource;
  resource.path = "weights.bin";
  resource.algorithm = "sha256";
  resource.digest = Bytes(32, 0x5a);
  statement.resources.push_back(resource);
  const absl::StatusOr<std::string> text = FormatStatement(statement);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.value_or("");
}

std::string Statement020Text() {
  const Json json = {{"_type", "https://in-toto.io/Statement/v1"},
                     {"subject",
                      {{{"name", "weights.bin"},
                        {"digest", {{"sha256", std::string(64, '1')}}},
                        {"annotations", {{"actual_hash_algorithm", "file-sha256"}}}}}},
                     {"predicateType", "https://model_signing/Digests/v0.1"},
                     {"predicate", {{"unused", "Unused, just passed due to API requirements"}}}};
  return json.dump();
}

Bundle EnvelopeOf(const std::string& payload, PrivateKey& key, bool encoding_020 = false) {
  Bundle bundle;
  bundle.payload_type = kInTotoPayloadType;
  bundle.payload = Bytes(payload.begin(), payload.end());
  bundle.signature =
      *key.Sign(encoding_020 ? PreAuthenticationEncoding020(bundle.payload_type, bundle.payload)
                             : PreAuthenticationEncoding(bundle.payload_type, bundle.payload));
  return bundle;
}

Bundle KeyBundle(PrivateKey& key, const std::string& payload = StatementText(),
                 bool encoding_020 = false) {
  Bundle bundle = EnvelopeOf(payload, key, encoding_020);
  bundle.method = Method::kKey;
  bundle.key_hint = key.public_key().OmsHint();
  return bundle;
}

TrustPolicy Trusting(const std::vector<PublicKey>& keys) {
  TrustedSigners signers;
  for (const PublicKey& key : keys) signers.keys.push_back({key});
  return TrustPolicy::ForSigners(std::move(signers));
}

absl::StatusOr<VerifiedStatement> Verify(const Bundle& bundle, const TrustPolicy& policy,
                                         absl::Time now = kNow) {
  return StatementVerifier::Verify(bundle, "model.sig", policy, FixedClock(now));
}

std::string Verdict(const Bundle& bundle, const TrustPolicy& policy, absl::Time now = kNow) {
  return ReasonText(Verify(bundle, policy, now).status());
}

// Keys.

TEST(KeyTrustTest, AcceptsATrustedKeyOnEveryCurve) {
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521}) {
    PrivateKey key = NewKey(type);
    const absl::StatusOr<VerifiedStatement> verified =
        Verify(KeyBundle(key), Trusting({key.public_key()}));
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_EQ((*verified)->signer.method, Method::kKey);
    EXPECT_EQ((*verified)->signer.key_fingerprint, key.public_key().Fingerprint());
    EXPECT_EQ((*verified)->signer.name, "");
    EXPECT_FALSE((*verified)->signer.signed_at.has_value());
    EXPECT_THAT((*verified)->signer.warnings, IsEmpty());
    EXPECT_EQ((*verified)->statement.model_name, "acme/llm-7b");
  }
}

TEST(KeyTrustTest, TheHintPicksTheKey) {
  PrivateKey key = NewKey();
  PrivateKey other = NewKey();
  const Bundle bundle = KeyBundle(key);
  EXPECT_EQ(Verdict(bundle, Trusting({other.public_key(), key.public_key()})), "accepted");
  // One key given as an option: it is the wrong one.
  const absl::Status wrong = Verify(bundle, Trusting({other.public_key()})).status();
  EXPECT_EQ(ReasonOf(wrong), Reason::kKeyMismatch);
  EXPECT_THAT(wrong.ToString(), AllOf(HasSubstr(key.public_key().OmsHint()),
                                      HasSubstr(other.public_key().OmsHint())));
  EXPECT_THAT(RemedyOf(wrong), HasSubstr("--public-key"));
  // A list that the signer is not on.
  EXPECT_EQ(Verdict(bundle, Trusting({other.public_key(), NewKey().public_key()})),
            "signer-untrusted");
  TrustPolicy policy = Trusting({other.public_key()});
  policy.trust_file = "trust.yaml";
  policy.expected_model_name = "acme/llm-7b";
  const absl::Status unknown = Verify(bundle, policy).status();
  EXPECT_EQ(ReasonOf(unknown), Reason::kSignerUntrusted);
  EXPECT_THAT(RemedyOf(unknown), HasSubstr("add it to trust.yaml"));
  // A hint is no proof.
  Bundle lying = KeyBundle(other);
  lying.key_hint = key.public_key().OmsHint();
  EXPECT_EQ(Verdict(lying, Trusting({key.public_key()})), "signature-invalid");
  // Nor is another spelling of it a hint.
  Bundle spelled = bundle;
  spelled.key_hint = "E" + *bundle.key_hint;
  EXPECT_EQ(Verdict(spelled, Trusting({key.public_key()})), "key-mismatch");
}

TEST(KeyTrustTest, WithoutAHintEachKeyIsTriedAndSaid) {
  PrivateKey key = NewKey(KeyType::kEcP384);
  PrivateKey other = NewKey();
  Bundle bundle = KeyBundle(key);
  bundle.key_hint.reset();
  const absl::StatusOr<VerifiedStatement> verified =
      Verify(bundle, Trusting({other.public_key(), Ed25519Key(), key.public_key()}));
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ((*verified)->signer.key_fingerprint, key.public_key().Fingerprint());
  EXPECT_THAT((*verified)->signer.warnings, ElementsAre(HasSubstr("no key hint")));
  EXPECT_EQ(Verdict(bundle, Trusting({other.public_key()})), "signature-invalid");
  const absl::Status none =
      Verify(bundle, Trusting({other.public_key(), NewKey().public_key()})).status();
  EXPECT_EQ(ReasonOf(none), Reason::kSignatureInvalid);
  EXPECT_THAT(none.ToString(), HasSubstr("none of the 2 trusted keys"));
}

TEST(KeyTrustTest, TheKeyInTheBundleIsComparedAndNeverTrusted) {
  PrivateKey key = NewKey();
  PrivateKey mallory = NewKey();
  const auto with_pem = [](Bundle bundle, const std::string& pem) {
    bundle.key_hint.reset();
    bundle.key_pem = Bytes(pem.begin(), pem.end());
    return bundle;
  };
  const Bundle good = with_pem(KeyBundle(key), key.public_key().ToPem());
  EXPECT_EQ(Verdict(good, Trusting({key.public_key()})), "accepted");
  EXPECT_EQ(Verdict(good, Trusting({mallory.public_key(), key.public_key()})), "accepted");
  // Mallory signs and brings her own key.
  const Bundle bad = with_pem(KeyBundle(mallory), mallory.public_key().ToPem());
  const absl::Status refused = Verify(bad, Trusting({key.public_key()})).status();
  EXPECT_EQ(ReasonOf(refused), Reason::kKeyMismatch);
  EXPECT_THAT(refused.ToString(), HasSubstr(mallory.public_key().Fingerprint()));
  EXPECT_EQ(Verdict(bad, Trusting({key.public_key(), NewKey().public_key()})), "signer-untrusted");
  TrustPolicy policy = Trusting({key.public_key()});
  policy.trust_file = "trust.yaml";
  policy.expected_model_name = "acme/llm-7b";
  const absl::Status unlisted = Verify(bad, policy).status();
  EXPECT_EQ(ReasonOf(unlisted), Reason::kSignerUntrusted);
  EXPECT_THAT(RemedyOf(unlisted),
              HasSubstr(StrCat("add its key ", mallory.public_key().Fingerprint(),
                               " to trust.yaml if you trust")));
  // The trusted key beside Mallory's signature.
  EXPECT_EQ(
      Verdict(with_pem(KeyBundle(mallory), key.public_key().ToPem()), Trusting({key.public_key()})),
      "signature-invalid");
  // Hint and key contradict each other.
  Bundle both = with_pem(KeyBundle(key), mallory.public_key().ToPem());
  both.key_hint = key.public_key().OmsHint();
  EXPECT_EQ(Verdict(both, Trusting({key.public_key()})), "key-mismatch");
  EXPECT_EQ(Verdict(with_pem(KeyBundle(key), "no key"), Trusting({key.public_key()})), "malformed");
}

TEST(KeyTrustTest, RefusesARevokedKey) {
  PrivateKey key = NewKey();
  TrustPolicy policy = Trusting({key.public_key()});
  policy.revoked_keys = {key.public_key().Fingerprint()};
  const absl::Status refused = Verify(KeyBundle(key), policy).status();
  EXPECT_EQ(ReasonOf(refused), Reason::kRevoked);
  EXPECT_THAT(refused.ToString(), HasSubstr(key.public_key().Fingerprint()));
  Bundle bundle = KeyBundle(key);
  bundle.key_hint.reset();
  EXPECT_EQ(Verdict(bundle, policy), "revoked");
  policy.revoked_keys = {NewKey().public_key().Fingerprint()};
  EXPECT_EQ(Verdict(bundle, policy), "accepted");
}

TEST(KeyTrustTest, RefusesKeysThatCannotSignModels) {
  PrivateKey key = NewKey();
  Bundle bundle = KeyBundle(key);
  bundle.key_hint = Ed25519Key().OmsHint();
  EXPECT_EQ(Verdict(bundle, Trusting({Ed25519Key()})), "key-unsupported");
}

TEST(KeyTrustTest, RefusesChangesToWhatWasSigned) {
  PrivateKey key = NewKey();
  const TrustPolicy policy = Trusting({key.public_key()});
  Bundle bundle = KeyBundle(key);
  bundle.payload.push_back(' ');
  EXPECT_EQ(Verdict(bundle, policy), "signature-invalid");
  bundle = KeyBundle(key);
  bundle.payload.pop_back();
  EXPECT_EQ(Verdict(bundle, policy), "signature-invalid");
  bundle = KeyBundle(key);
  bundle.payload_type = "application/vnd.in-toto+jsom";
  EXPECT_EQ(Verdict(bundle, policy), "signature-invalid");
  bundle = KeyBundle(key);
  bundle.signature.clear();
  EXPECT_EQ(Verdict(bundle, policy), "signature-invalid");
  // Signed and wrong all the same: only then is it read.
  EXPECT_EQ(Verdict(KeyBundle(key, "not JSON"), policy), "malformed");
  EXPECT_EQ(Verdict(KeyBundle(key, R"({"_type":"https://in-toto.io/Statement/v1"})"), policy),
            "malformed");
  bundle = KeyBundle(key, "not JSON");
  bundle.payload.push_back('!');
  EXPECT_EQ(Verdict(bundle, policy), "signature-invalid");
}

TEST(MethodTest, RefusesAMethodThatNobodyIsTrustedBy) {
  PrivateKey key = NewKey();
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  TrustedSigners certificates;
  certificates.certificates.push_back({{root.certificate}, {}});
  const TrustPolicy by_certificate = TrustPolicy::ForSigners(certificates);
  const absl::Status refused = Verify(KeyBundle(key), by_certificate).status();
  EXPECT_EQ(ReasonOf(refused), Reason::kSignerUntrusted);
  EXPECT_THAT(refused.ToString(), AllOf(HasSubstr("a bare key"), HasSubstr("certificates")));

  Bundle bundle = KeyBundle(key);
  bundle.method = Method::kCertificate;
  bundle.certificates = {root.certificate.der()};
  EXPECT_EQ(Verdict(bundle, Trusting({key.public_key()})), "signer-untrusted");
  bundle.method = Method::kSigstore;
  EXPECT_EQ(Verdict(bundle, Trusting({key.public_key()})), "signer-untrusted");
  EXPECT_EQ(Verdict(KeyBundle(key), TrustPolicy::ForSigners({})), "signer-untrusted");
}

TEST(MethodTest, RefusesSigstoreSignersThatAreNotNamed) {
  PrivateKey key = NewKey();
  Bundle bundle = KeyBundle(key);
  bundle.method = Method::kSigstore;
  TrustedSigners signers;
  signers.sigstore.push_back({nullptr, "a@b.example", "https://issuer.example"});
  EXPECT_EQ(ExitCodeOf(Verify(bundle, TrustPolicy::ForSigners(signers)).status()), 2);
  signers.sigstore[0] = {std::make_shared<const SigstoreTrustedRoot>(), "", "https://issuer"};
  EXPECT_EQ(ExitCodeOf(Verify(bundle, TrustPolicy::ForSigners(signers)).status()), 2);
}

// Release 0.2.0.

TEST(Release020Test, ItsEncodingIsForItsPredicateOnly) {
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384}) {
    PrivateKey key = NewKey(type);
    const TrustPolicy policy = Trusting({key.public_key()});
    const absl::StatusOr<VerifiedStatement> old =
        Verify(KeyBundle(key, Statement020Text(), /*encoding_020=*/true), policy);
    ASSERT_TRUE(old.ok()) << old.status();
    EXPECT_TRUE((*old)->statement.is_release_020);
    EXPECT_THAT((*old)->signer.warnings, ElementsAre(HasSubstr("release 0.2.0")));
    // Its Sigstore signatures were in the standard's encoding.
    EXPECT_EQ(Verdict(KeyBundle(key, Statement020Text()), policy), "accepted");
    // Today's statement in yesterday's encoding.
    EXPECT_EQ(Verdict(KeyBundle(key, StatementText(), /*encoding_020=*/true), policy),
              "signature-invalid");
    Bundle changed = KeyBundle(key, Statement020Text(), /*encoding_020=*/true);
    changed.payload[40] ^= 1;
    EXPECT_EQ(Verdict(changed, policy), "signature-invalid");
  }
}

TEST(Release020Test, NamesNoModel) {
  PrivateKey key = NewKey();
  TrustPolicy policy = Trusting({key.public_key()});
  policy.trust_file = "trust.yaml";
  policy.expected_model_name = "acme/llm-7b";
  const Bundle bundle = KeyBundle(key, Statement020Text(), /*encoding_020=*/true);
  EXPECT_EQ(Verdict(bundle, policy), "policy-denied");
  policy.expected_model_name = "";
  EXPECT_EQ(ExitCodeOf(Verify(bundle, policy).status()), 2);
}

// Names and versions.

TEST(ModelRuleTest, TheFirstRuleForTheExpectedNameDecides) {
  PrivateKey acme = NewKey();
  PrivateKey other = NewKey();
  TrustPolicy policy;
  policy.trust_file = "trust.yaml";
  policy.rules.push_back({"acme/llm-*", {.keys = {{acme.public_key()}}}, 0});
  policy.rules.push_back({"acme/*", {.keys = {{other.public_key()}}}, 0});
  policy.expected_model_name = "acme/llm-7b";
  EXPECT_EQ(Verdict(KeyBundle(acme), policy), "accepted");
  EXPECT_EQ(Verdict(KeyBundle(other), policy), "signer-untrusted");
  // The name in the statement does not choose the rule.
  const Bundle vision = KeyBundle(other, StatementText("acme/vision"));
  EXPECT_EQ(Verdict(vision, policy), "signer-untrusted");
  const absl::Status renamed =
      Verify(KeyBundle(acme, StatementText("acme/vision")), policy).status();
  EXPECT_EQ(ReasonOf(renamed), Reason::kPolicyDenied);
  EXPECT_THAT(renamed.ToString(), AllOf(HasSubstr("acme/vision"), HasSubstr("acme/llm-7b")));
  EXPECT_THAT(RemedyOf(renamed), HasSubstr("--model-name 'acme/vision'"));
  policy.expected_model_name = "acme/vision";
  EXPECT_EQ(Verdict(vision, policy), "accepted");
  EXPECT_EQ(Verdict(KeyBundle(acme, StatementText("acme/vision")), policy), "signer-untrusted");
  policy.expected_model_name = "evil/llm-7b";
  const absl::Status unknown = Verify(KeyBundle(acme), policy).status();
  EXPECT_EQ(ReasonOf(unknown), Reason::kPolicyDenied);
  EXPECT_THAT(unknown.ToString(), HasSubstr("has no rule for a model called \"evil/llm-7b\""));
  policy.expected_model_name.reset();
  EXPECT_EQ(ExitCodeOf(Verify(KeyBundle(acme), policy).status()), 2);
}

TEST(ModelRuleTest, AnUntrustedSignersNamesAreNotRepeated) {
  // The statement is not read before its signature: nothing of it is in the refusal.
  PrivateKey key = NewKey();
  PrivateKey mallory = NewKey();
  Bundle bundle = KeyBundle(mallory, StatementText("from-mallory"));
  bundle.key_hint = key.public_key().OmsHint();
  TrustPolicy policy = Trusting({key.public_key()});
  policy.expected_model_name = "acme/llm-7b";
  const absl::Status refused = Verify(bundle, policy).status();
  EXPECT_EQ(ReasonOf(refused), Reason::kSignatureInvalid);
  EXPECT_THAT(refused.ToString(), Not(HasSubstr("from-mallory")));
}

TEST(ModelRuleTest, TheMinimumVersionHolds) {
  PrivateKey key = NewKey();
  TrustPolicy policy = Trusting({key.public_key()});
  policy.rules[0].minimum_version = 3;
  struct Case {
    std::optional<uint64_t> version;
    std::string verdict;
  };
  const std::vector<Case> cases = {{std::nullopt, "version-too-old"},
                                   {0, "version-too-old"},
                                   {2, "version-too-old"},
                                   {3, "accepted"},
                                   {4, "accepted"}};
  for (const Case& c : cases) {
    EXPECT_EQ(Verdict(KeyBundle(key, StatementText("m", c.version)), policy), c.verdict);
  }
  policy.rules[0].minimum_version = 0;
  EXPECT_EQ(Verdict(KeyBundle(key, StatementText("m")), policy), "accepted");
  // What signed statements of release 0.2.0 cannot say either.
  policy.rules[0].minimum_version = 1;
  EXPECT_EQ(Verdict(KeyBundle(key, Statement020Text(), true), policy), "version-too-old");
}

TEST(ModelRuleTest, APolicyWithoutRulesTrustsNobody) {
  PrivateKey key = NewKey();
  EXPECT_EQ(Verdict(KeyBundle(key), TrustPolicy()), "policy-denied");
}

// Certificates.

class CertificateTrustTest : public ::testing::Test {
 protected:
  CertificateTrustTest()
      : root_(MakeRoot(AuthorityOptions("root"))),
        intermediate_(Issue(root_, AuthorityOptions("intermediate"))) {}

  static CertificateOptions Leaf(const std::string& name = "model-signer") {
    CertificateOptions options;
    options.common_name = name;
    options.subject_alternative_name = "email:signer@acme.example,URI:https://acme.example/signer";
    return options;
  }

  Bundle Sign(const CertificateOptions& options = Leaf()) const {
    TestCertificate leaf = Issue(intermediate_, options);
    return Sign(leaf);
  }
  Bundle Sign(TestCertificate& leaf) const {
    Bundle bundle = EnvelopeOf(StatementText(), leaf.key);
    bundle.method = Method::kCertificate;
    bundle.certificates = {leaf.certificate.der(), intermediate_.certificate.der()};
    return bundle;
  }

  TrustPolicy Policy(const std::vector<std::string>& identities = {}) const {
    TrustedSigners signers;
    signers.certificates.push_back({{root_.certificate}, identities});
    return TrustPolicy::ForSigners(std::move(signers));
  }

  TestCertificate root_;
  TestCertificate intermediate_;
};

TEST_F(CertificateTrustTest, AcceptsAChainToATrustedRoot) {
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521}) {
    CertificateOptions options = Leaf();
    options.key_type = type;
    TestCertificate leaf = Issue(intermediate_, options);
    const absl::StatusOr<VerifiedStatement> verified = Verify(Sign(leaf), Policy());
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_EQ((*verified)->signer.method, Method::kCertificate);
    EXPECT_EQ((*verified)->signer.name, "CN=model-signer");
    EXPECT_EQ((*verified)->signer.issuer, "CN=intermediate");
    EXPECT_EQ((*verified)->signer.key_fingerprint, leaf.key.public_key().Fingerprint());
    EXPECT_THAT((*verified)->signer.warnings, IsEmpty());
  }
}

TEST_F(CertificateTrustTest, RefusesChangesAndSwaps) {
  Bundle bundle = Sign();
  bundle.payload.push_back(' ');
  EXPECT_EQ(Verdict(bundle, Policy()), "signature-invalid");
  // Another certificate of the same authority and the same name.
  bundle = Sign();
  bundle.certificates[0] = Sign().certificates[0];
  EXPECT_EQ(Verdict(bundle, Policy()), "signature-invalid");
  bundle = Sign();
  bundle.certificates.pop_back();
  EXPECT_EQ(Verdict(bundle, Policy()), "certificate-invalid");
  bundle = Sign();
  std::swap(bundle.certificates[0], bundle.certificates[1]);
  EXPECT_EQ(Verdict(bundle, Policy()), "certificate-invalid");
  bundle = Sign();
  bundle.certificates.clear();
  EXPECT_EQ(Verdict(bundle, Policy()), "malformed");
  bundle.certificates = {Bytes{1, 2, 3}};
  EXPECT_EQ(Verdict(bundle, Policy()), "malformed");
}

TEST_F(CertificateTrustTest, TheRootInTheBundleIsNotTrusted) {
  const TestCertificate own_root = MakeRoot(AuthorityOptions("root"));
  TestCertificate leaf = Issue(own_root, Leaf());
  Bundle bundle = EnvelopeOf(StatementText(), leaf.key);
  bundle.method = Method::kCertificate;
  bundle.certificates = {leaf.certificate.der(), own_root.certificate.der()};
  EXPECT_EQ(Verdict(bundle, Policy()), "certificate-invalid");
  TestCertificate self_signed = MakeRoot(Leaf());
  bundle = EnvelopeOf(StatementText(), self_signed.key);
  bundle.method = Method::kCertificate;
  bundle.certificates = {self_signed.certificate.der()};
  EXPECT_EQ(Verdict(bundle, Policy()), "certificate-invalid");
}

TEST_F(CertificateTrustTest, RefusesCertificatesThatMayNotSignModels) {
  CertificateOptions options = Leaf();
  options.key_usage = "critical,keyAgreement";
  options.extended_key_usage = "serverAuth";
  EXPECT_EQ(Verdict(Sign(options), Policy()), "certificate-invalid");
  options.extended_key_usage = "codeSigning";
  EXPECT_EQ(Verdict(Sign(options), Policy()), "accepted");
  options.key_usage = "critical,digitalSignature";
  options.extended_key_usage = "";
  EXPECT_EQ(Verdict(Sign(options), Policy()), "accepted");
  options.key_usage = "";
  EXPECT_EQ(Verdict(Sign(options), Policy()), "certificate-invalid");
}

TEST_F(CertificateTrustTest, RefusesKeysThatOmsDoesNotSignWith) {
  Bundle bundle = Sign();
  bundle.certificates[0] = IssueFor(intermediate_, Ed25519Key(), Leaf()).der();
  EXPECT_EQ(Verdict(bundle, Policy()), "key-unsupported");
}

TEST_F(CertificateTrustTest, RefusesExpiredCertificatesUnlessAccepted) {
  TrustPolicy policy = Policy();
  const Bundle bundle = Sign();
  EXPECT_EQ(Verdict(bundle, policy, kMuchLater), "certificate-invalid");
  EXPECT_EQ(Verdict(bundle, policy, absl::FromUnixSeconds(1'600'000'000)), "certificate-invalid");
  policy.accept_expired_certificates = true;
  const absl::StatusOr<VerifiedStatement> accepted = Verify(bundle, policy, kMuchLater);
  ASSERT_TRUE(accepted.ok()) << accepted.status();
  EXPECT_THAT((*accepted)->signer.warnings, ElementsAre(HasSubstr("not valid now")));
  EXPECT_THAT((*Verify(bundle, policy))->signer.warnings, IsEmpty());
  // Not yet valid is another matter than expired.
  EXPECT_EQ(Verdict(bundle, policy, absl::FromUnixSeconds(1'600'000'000)), "certificate-invalid");
  // Nor does it help a chain that was never good.
  Bundle broken = bundle;
  broken.certificates.pop_back();
  EXPECT_EQ(Verdict(broken, policy, kMuchLater), "certificate-invalid");
  // An authority that had not begun when its certificate did.
  CertificateOptions early = Leaf();
  early.not_before = absl::FromUnixSeconds(1'650'000'000);
  EXPECT_EQ(Verdict(Sign(early), policy, kMuchLater), "certificate-invalid");
  EXPECT_EQ(Verdict(Sign(early), policy), "accepted");
}

TEST_F(CertificateTrustTest, ComparesIdentities) {
  struct Case {
    std::string identity;
    std::string verdict;
  };
  const std::vector<Case> cases = {
      {"CN=model-signer", "accepted"},
      // The common name speaks only where there are no alternative names.
      {"model-signer", "identity-mismatch"},
      {"signer@acme.example", "accepted"},
      {"https://acme.example/signer", "accepted"},
      {"Model-Signer", "identity-mismatch"},
      {"model", "identity-mismatch"},
      {"*", "identity-mismatch"},
      {"CN=*", "identity-mismatch"},
      {"CN=model-signer,O=Acme", "identity-mismatch"},
      {"acme.example", "identity-mismatch"},
      {"@acme.example", "identity-mismatch"},
  };
  const Bundle bundle = Sign();
  for (const Case& c : cases) {
    EXPECT_EQ(Verdict(bundle, Policy({c.identity})), c.verdict) << c.identity;
  }
  EXPECT_THAT(cases, SizeIs(11));
  EXPECT_EQ(Verdict(bundle, Policy({"somebody", "signer@acme.example"})), "accepted");
  const absl::Status refused = Verify(bundle, Policy({"somebody"})).status();
  EXPECT_THAT(refused.ToString(), AllOf(HasSubstr("CN=model-signer"), HasSubstr("somebody"),
                                        HasSubstr("signer@acme.example")));
}

TEST_F(CertificateTrustTest, ReadsCommonNamesAsTheyWereMeant) {
  struct Case {
    std::string common_name;
    std::string identity;
    std::string verdict;
  };
  const std::vector<Case> cases = {
      {"Acme, Inc.", "Acme, Inc.", "accepted"},
      {"a+b\\c\"d<e>;f", "a+b\\c\"d<e>;f", "accepted"},
      {"#hash", "#hash", "accepted"},
      {" space ", " space ", "accepted"},
      {"J\xc3\xbcrgen", "J\xc3\xbcrgen", "accepted"},
      // A common name that spells a distinguished name is only a common name.
      {"CN=model-signer", "CN=model-signer", "identity-mismatch"},
      {"x,CN=model-signer", "model-signer", "identity-mismatch"},
      {"x+CN=model-signer", "model-signer", "identity-mismatch"},
      {"model-signer,O=Acme", "CN=model-signer,O=Acme", "identity-mismatch"},
      {"model-signer", "model-signer ", "identity-mismatch"},
  };
  for (const Case& c : cases) {
    CertificateOptions options = Leaf(c.common_name);
    options.subject_alternative_name.clear();
    EXPECT_EQ(Verdict(Sign(options), Policy({c.identity})), c.verdict) << c.common_name;
  }
  EXPECT_THAT(cases, SizeIs(10));
}

TEST_F(CertificateTrustTest, ASubjectWithTwoCommonNamesHasNone) {
  if (!crypto::testing::HasProgram("openssl")) GTEST_SKIP() << "the openssl program is absent";
  const TemporaryDirectory directory;
  TestCertificate unused = Issue(intermediate_, Leaf());
  const std::string key_file =
      directory.Write("key.pem", unused.key.ToPem(SecretBytes())->RevealText());
  const auto verdict = [&](const std::string& subject, const std::string& identity) {
    const std::string out = directory / "certificate.pem";
    const crypto::testing::CommandResult made = crypto::testing::RunCommand(
        StrCat("openssl req -x509 -new -key ", key_file, " -subj '", subject,
               "' -days 30 -addext keyUsage=digitalSignature -out ", out));
    EXPECT_EQ(made.exit_code, 0) << made.output;
    const std::vector<Certificate> made_certificates =
        *Certificate::ListFromPem(crypto::testing::ReadText(out), "made");
    const Certificate& certificate = made_certificates[0];
    Bundle bundle = EnvelopeOf(StatementText(), unused.key);
    bundle.method = Method::kCertificate;
    bundle.certificates = {certificate.der()};
    TrustedSigners signers;
    signers.certificates.push_back({{certificate}, {identity}});
    return Verdict(bundle, TrustPolicy::ForSigners(std::move(signers)),
                   certificate.not_before() + absl::Hours(1));
  };
  EXPECT_EQ(verdict("/CN=alice", "alice"), "accepted");
  EXPECT_EQ(verdict("/O=Acme/CN=alice", "alice"), "accepted");
  EXPECT_EQ(verdict("/O=Acme/CN=alice", "CN=alice,O=Acme"), "accepted");
  EXPECT_EQ(verdict("/O=alice/CN=mallory", "alice"), "identity-mismatch");
  EXPECT_EQ(verdict("/CN=alice/CN=mallory", "alice"), "identity-mismatch");
  EXPECT_EQ(verdict("/CN=alice/CN=mallory", "mallory"), "identity-mismatch");
  EXPECT_EQ(verdict("/CN=alice/CN=mallory", "CN=mallory,CN=alice"), "accepted");
}

TEST_F(CertificateTrustTest, RefusesARevokedCertificateOrKeyAnywhereInTheChain) {
  TestCertificate leaf = Issue(intermediate_, Leaf());
  const Bundle bundle = Sign(leaf);
  int executed = 0;
  for (const Certificate* certificate :
       {&leaf.certificate, &intermediate_.certificate, &root_.certificate}) {
    TrustPolicy policy = Policy();
    policy.revoked_certificates = {certificate->Fingerprint()};
    EXPECT_EQ(Verdict(bundle, policy), "revoked") << certificate->subject();
    policy = Policy();
    policy.revoked_keys = {certificate->public_key()->Fingerprint()};
    EXPECT_EQ(Verdict(bundle, policy), "revoked") << certificate->subject();
    ++executed;
  }
  EXPECT_EQ(executed, 3);
  TrustPolicy policy = Policy();
  policy.revoked_certificates = {MakeRoot(AuthorityOptions("root")).certificate.Fingerprint()};
  EXPECT_EQ(Verdict(bundle, policy), "accepted");
  // Whoever else may be trusted.
  policy.revoked_certificates = {leaf.certificate.Fingerprint()};
  policy.rules[0].signers.certificates.push_back({{root_.certificate}, {}});
  EXPECT_EQ(Verdict(bundle, policy), "revoked");
}

TEST_F(CertificateTrustTest, AnIdentityCountsWhereAuthoritiesCertifyItsKind) {
  struct Case {
    std::string alternative_name;
    std::string identity;
    std::string verdict;
  };
  const std::vector<Case> cases = {
      {"email:release@acme.example", "release@acme.example", "accepted"},
      {"DNS:acme.example", "acme.example", "accepted"},
      {"URI:https://acme.example/x", "https://acme.example/x", "accepted"},
      // An authority that may only certify host names does not certify people.
      {"DNS:release@acme.example", "release@acme.example", "identity-mismatch"},
      {"URI:release@acme.example", "release@acme.example", "identity-mismatch"},
      {"email:acme.example@acme.example", "acme.example", "identity-mismatch"},
  };
  int accepted = 0;
  for (const Case& c : cases) {
    CertificateOptions options = Leaf("release@acme.example");
    options.subject_alternative_name = c.alternative_name;
    const auto verified = Verify(Sign(options), Policy({c.identity}));
    EXPECT_EQ(verified.ok(), c.verdict == "accepted") << c.alternative_name << verified.status();
    if (!verified.ok()) continue;
    EXPECT_THAT((*verified)->signer.name, HasSubstr(c.identity));
    ++accepted;
  }
  EXPECT_EQ(accepted, 3);
}

// (r, s) and (r, n - s) are both signatures of an ECDSA certificate; anybody can turn one into the
// other.
TEST_F(CertificateTrustTest, RevocationCoversTheTwinOfACertificate) {
  TestCertificate leaf = Issue(intermediate_, Leaf());
  const Bundle bundle = Sign(leaf);
  const std::string twin =
      *leaf.certificate.TwinFingerprint(*intermediate_.certificate.public_key());
  ASSERT_THAT(twin, SizeIs(64));
  EXPECT_NE(twin, leaf.certificate.Fingerprint());
  TrustPolicy policy = Policy();
  policy.revoked_certificates = {twin};
  EXPECT_EQ(Verdict(bundle, policy), "revoked");
  policy.revoked_certificates = {
      *intermediate_.certificate.TwinFingerprint(*root_.certificate.public_key())};
  EXPECT_EQ(Verdict(bundle, policy), "revoked");
  policy.revoked_certificates = {std::string(64, '0'), ""};
  EXPECT_EQ(Verdict(bundle, policy), "accepted");
}

TEST_F(CertificateTrustTest, TriesEveryTrustedAuthority) {
  const Certificate other = MakeRoot(AuthorityOptions("other")).certificate;
  TrustPolicy policy = Policy({"somebody else"});
  policy.rules[0].signers.certificates.insert(policy.rules[0].signers.certificates.begin(),
                                              {{other}, {}});
  // The refusal of the one that came furthest.
  EXPECT_EQ(Verdict(Sign(), policy), "identity-mismatch");
  policy.rules[0].signers.certificates.push_back({{root_.certificate}, {"CN=model-signer"}});
  EXPECT_EQ(Verdict(Sign(), policy), "accepted");
}

TEST_F(CertificateTrustTest, Release020SignedWithSha256OnEveryCurve) {
  if (!crypto::testing::HasProgram("openssl")) GTEST_SKIP() << "the openssl program is absent";
  CertificateOptions options = Leaf();
  options.key_type = KeyType::kEcP384;
  TestCertificate leaf = Issue(intermediate_, options);
  const TemporaryDirectory directory;
  const std::string payload = Statement020Text();
  const Bytes message = PreAuthenticationEncoding020(kInTotoPayloadType, AsBytes(payload));
  const std::string message_file = directory.Write("message", AsText(message));
  const std::string key_file =
      directory.Write("key.pem", leaf.key.ToPem(SecretBytes())->RevealText());
  const auto signed_with = [&](const std::string& digest) {
    const std::string out = directory / "signature";
    EXPECT_EQ(crypto::testing::RunCommand(StrCat("openssl dgst -", digest, " -sign ", key_file,
                                                 " -out ", out, " ", message_file))
                  .exit_code,
              0);
    const std::string signature = crypto::testing::ReadText(out);
    Bundle bundle = EnvelopeOf(payload, leaf.key);
    bundle.method = Method::kCertificate;
    bundle.certificates = {leaf.certificate.der(), intermediate_.certificate.der()};
    bundle.signature = Bytes(signature.begin(), signature.end());
    return bundle;
  };
  EXPECT_EQ(Verdict(signed_with("sha256"), Policy()), "accepted");
  EXPECT_EQ(Verdict(signed_with("sha384"), Policy()), "signature-invalid");
  // In the key method that release's signatures are read with the curve's digest.
  Bundle by_key = signed_with("sha256");
  by_key.method = Method::kKey;
  by_key.key_hint = leaf.key.public_key().OmsHint();
  EXPECT_EQ(Verdict(by_key, Trusting({leaf.key.public_key()})), "signature-invalid");
}

// The trust file.

class TrustFileTest : public ::testing::Test {
 protected:
  TrustFileTest()
      : root_(MakeRoot(AuthorityOptions("root"))),
        key_(NewKey()),
        other_(NewKey(KeyType::kEcP521)) {
    std::filesystem::create_directories(directory_ / "keys");
    directory_.Write("keys/acme.pub", key_.public_key().ToPem());
    directory_.Write("keys/other.pub", other_.public_key().ToPem());
    directory_.Write("keys/ed25519.pub", Ed25519Key().ToPem());
    directory_.Write("ca.pem", root_.certificate.ToPem());
    directory_.Write("two.pem", ChainPem({root_.certificate, root_.certificate}));
    directory_.Write("sigstore.json", TrustedRoot());
    directory_.Write("empty", "");
  }

  std::string TrustedRoot() const {
    const Bytes& spki = key_.public_key().der();
    const Json log = {
        {"publicKey", {{"rawBytes", ToBase64(spki)}}},
        {"logId", {{"keyId", ToBase64(*FromHex(key_.public_key().Fingerprint(), ""))}}}};
    const Json json = {
        {"mediaType", "application/vnd.dev.sigstore.trustedroot+json;version=0.1"},
        {"tlogs", {log}},
        {"certificateAuthorities",
         {{{"certChain",
            {{"certificates", {{{"rawBytes", ToBase64(root_.certificate.der())}}}}}}}}}};
    return json.dump();
  }

  absl::StatusOr<TrustPolicy> Load(const std::string& text) const {
    return LoadTrustPolicy(directory_.Write("trust.yaml", text));
  }
  std::string LoadVerdict(const std::string& text) const { return ReasonText(Load(text).status()); }

  static constexpr char kRule[] = "models:\n  - model: m\n    signers: [{key: keys/acme.pub}]\n";

  TemporaryDirectory directory_;
  TestCertificate root_;
  PrivateKey key_;
  PrivateKey other_;
};

TEST_F(TrustFileTest, ReadsEverything) {
  const std::string hex(64, 'A');
  const absl::StatusOr<TrustPolicy> policy = Load(StrCat(R"(# Whom we trust.
version: 1
models:
  - model: "acme/llm-*"
    minimum_version: 3
    signers:
      - key: keys/acme.pub
      - key: ')",
                                                         directory_.path(), R"(/keys/other.pub'
      - certificate: {roots: ca.pem, identities: ["CN=model-signer,O=Acme", signer@acme.example]}
      - certificate:
          roots: ca.pem
      - sigstore: {trusted_root: sigstore.json, identity: "a@b.example", issuer: "https://c.example"}
      - sigstore:
          trusted_root: sigstore.json
          identity: https://github.com/acme/models/.github/workflows/sign.yml@refs/heads/main
          issuer: https://token.actions.githubusercontent.com
  - model: '*'
    signers:
      - key: keys/other.pub
revoked:
  keys:
    - )",
                                                         hex, R"(
    - keys/other.pub
  certificates: [")",
                                                         hex, R"(", ca.pem]
)"));
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->trust_file, directory_ / "trust.yaml");
  EXPECT_FALSE(policy->expected_model_name.has_value());
  EXPECT_FALSE(policy->accept_expired_certificates);
  ASSERT_THAT(policy->rules, SizeIs(2));
  const ModelRule& rule = policy->rules[0];
  EXPECT_EQ(rule.model, "acme/llm-*");
  EXPECT_EQ(rule.minimum_version, 3u);
  ASSERT_THAT(rule.signers.keys, SizeIs(2));
  EXPECT_TRUE(rule.signers.keys[0].key == key_.public_key());
  EXPECT_TRUE(rule.signers.keys[1].key == other_.public_key());
  ASSERT_THAT(rule.signers.certificates, SizeIs(2));
  EXPECT_THAT(rule.signers.certificates[0].roots, SizeIs(1));
  EXPECT_THAT(rule.signers.certificates[0].identities,
              ElementsAre("CN=model-signer,O=Acme", "signer@acme.example"));
  EXPECT_THAT(rule.signers.certificates[1].identities, IsEmpty());
  ASSERT_THAT(rule.signers.sigstore, SizeIs(2));
  EXPECT_EQ(rule.signers.sigstore[0].identity, "a@b.example");
  EXPECT_EQ(rule.signers.sigstore[0].issuer, "https://c.example");
  EXPECT_EQ(rule.signers.sigstore[0].root, rule.signers.sigstore[1].root);
  EXPECT_EQ(policy->rules[1].model, "*");
  EXPECT_EQ(policy->rules[1].minimum_version, 0u);
  const std::string lower(64, 'a');
  EXPECT_THAT(policy->revoked_keys,
              ::testing::UnorderedElementsAre(lower, other_.public_key().Fingerprint()));
  EXPECT_THAT(policy->revoked_certificates,
              ::testing::UnorderedElementsAre(lower, root_.certificate.Fingerprint()));
}

TEST_F(TrustFileTest, DecidesFromEndToEnd) {
  absl::StatusOr<TrustPolicy> policy = Load(R"(version: 1
models:
  - model: "acme/llm-*"
    minimum_version: 3
    signers: [{key: keys/acme.pub}]
  - model: "acme/retired"
    signers: [{key: keys/other.pub}]
revoked: {keys: [keys/other.pub]}
)");
  ASSERT_TRUE(policy.ok()) << policy.status();
  const Bundle bundle = KeyBundle(key_, StatementText("acme/llm-7b", 3));
  EXPECT_EQ(ExitCodeOf(Verify(bundle, *policy).status()), 2);
  policy->expected_model_name = "acme/llm-7b";
  EXPECT_EQ(Verdict(bundle, *policy), "accepted");
  EXPECT_EQ(Verdict(KeyBundle(key_, StatementText("acme/llm-7b", 2)), *policy), "version-too-old");
  EXPECT_EQ(Verdict(KeyBundle(other_, StatementText("acme/llm-7b", 3)), *policy),
            "signer-untrusted");
  policy->expected_model_name = "acme/retired";
  EXPECT_EQ(Verdict(KeyBundle(other_, StatementText("acme/retired")), *policy), "revoked");
  policy->expected_model_name = "acme/unknown";
  EXPECT_EQ(Verdict(bundle, *policy), "policy-denied");
}

TEST_F(TrustFileTest, RelativePathsAreTakenFromTheFilesDirectory) {
  const std::string path = directory_.Write(
      "keys/trust.yaml", "version: 1\nmodels: [{model: m, signers: [{key: acme.pub}]}]\n");
  EXPECT_TRUE(LoadTrustPolicy(path).ok());
  const std::string wrong = directory_.Write("keys/wrong.yaml", StrCat("version: 1\n", kRule));
  EXPECT_EQ(ReasonOf(LoadTrustPolicy(wrong).status()), Reason::kFileUnreadable);
}

TEST_F(TrustFileTest, RefusesWhatTheFormatDoesNotKnow) {
  struct Case {
    std::string name;
    std::string text;
    std::string verdict = "malformed";
  };
  const std::string rule = kRule;
  const std::string head = "version: 1\n";
  const auto signer = [&](const std::string& text) {
    return StrCat(head, "models: [{model: m, signers: [", text, "]}]\n");
  };
  const auto revoked = [&](const std::string& text) {
    return StrCat(head, rule, "revoked: ", text, "\n");
  };
  const std::string sigstore = "trusted_root: sigstore.json, identity: a, issuer: b";
  const std::vector<Case> cases = {
      {"as it should be", head + rule, "accepted"},
      {"nothing", ""},
      {"a comment", "# nothing\n"},
      {"a text", "trust everybody\n"},
      {"a list", "- version: 1\n"},
      {"no version", rule},
      {"another version", "version: 2\n" + rule, "unsupported"},
      {"a version in quotes", "version: \"1\"\n" + rule},
      {"a version 1.0", "version: 1.0\n" + rule},
      {"a version 01", "version: 01\n" + rule},
      {"a version +1", "version: +1\n" + rule},
      {"a version 0x1", "version: 0x1\n" + rule},
      {"no models", head},
      {"null models", head + "models:\n"},
      {"empty models", head + "models: []\n"},
      {"models by name", head + "models: {m: {signers: [{key: keys/acme.pub}]}}\n"},
      {"unknown name", head + rule + "trusted: yes\n"},
      {"unknown name in a rule", head + "models: [{model: m, signer: [{key: keys/acme.pub}]}]\n"},
      {"unknown name in a certificate", signer("{certificate: {roots: ca.pem, identity: a}}")},
      {"unknown name in sigstore", signer("{sigstore: {" + sigstore + ", also: c}}")},
      {"unknown kind of signer", signer("{pgp: keys/acme.pub}")},
      {"a signer twice over", signer("{key: keys/acme.pub, certificate: {roots: ca.pem}}")},
      {"a signer that is a path", signer("keys/acme.pub")},
      {"an empty signer", signer("{}")},
      {"no signers", head + "models: [{model: m}]\n"},
      {"empty signers", signer("")},
      {"null signers", head + "models: [{model: m, signers: }]\n"},
      {"no model", head + "models: [{signers: [{key: keys/acme.pub}]}]\n"},
      {"an empty model", head + "models: [{model: '', signers: [{key: keys/acme.pub}]}]\n"},
      {"two rules for one pattern",
       head + rule + "  - model: m\n    signers: [{key: keys/other.pub}]\n"},
      {"a minimum below 0",
       head + "models: [{model: m, minimum_version: -1, signers: [{key: keys/acme.pub}]}]\n"},
      {"a minimum beyond 64 bits",
       head + "models: [{model: m, minimum_version: 18446744073709551616, signers: [{key: "
              "keys/acme.pub}]}]\n"},
      {"a minimum in words",
       head + "models: [{model: m, minimum_version: three, signers: [{key: keys/acme.pub}]}]\n"},
      {"a null minimum",
       head + "models: [{model: m, minimum_version: ~, signers: [{key: keys/acme.pub}]}]\n"},
      {"one key twice", "version: 1\nversion: 1\n" + rule},
      {"models twice", head + rule + rule},
      {"one key twice, deep down", signer("{key: keys/acme.pub, key: keys/other.pub}")},
      {"one key twice, in quotes", signer("{key: keys/acme.pub, 'key': keys/other.pub}")},
      {"no key file", signer("{key: keys/none.pub}"), "file-unreadable"},
      {"a directory as the key", signer("{key: keys}"), "file-type-refused"},
      {"an empty key file", signer("{key: empty}")},
      {"a certificate as the key", signer("{key: ca.pem}")},
      {"a key that cannot sign models", signer("{key: keys/ed25519.pub}"), "key-unsupported"},
      {"a list of keys", signer("{key: [keys/acme.pub]}")},
      {"a null key", signer("{key: }")},
      {"no roots", signer("{certificate: {identities: [a]}}")},
      {"a key as the root", signer("{certificate: {roots: keys/acme.pub}}")},
      {"empty roots", signer("{certificate: {roots: empty}}")},
      {"nobody's identity", signer("{certificate: {roots: ca.pem, identities: []}}")},
      {"an empty identity", signer("{certificate: {roots: ca.pem, identities: ['']}}")},
      {"an identity without a list", signer("{certificate: {roots: ca.pem, identities: a}}")},
      {"a null identity", signer("{certificate: {roots: ca.pem, identities: }}")},
      {"no Sigstore identity", signer("{sigstore: {trusted_root: sigstore.json, issuer: b}}")},
      {"no Sigstore issuer", signer("{sigstore: {trusted_root: sigstore.json, identity: a}}")},
      {"an empty Sigstore issuer",
       signer("{sigstore: {trusted_root: sigstore.json, identity: a, issuer: ''}}")},
      {"no trusted root", signer("{sigstore: {identity: a, issuer: b}}")},
      {"a trusted root that is none",
       signer("{sigstore: {trusted_root: ca.pem, identity: a, issuer: b}}")},
      {"revoked that is a list", revoked("[]")},
      {"revoked of an unknown kind", revoked("{people: [a]}")},
      {"empty revoked keys", revoked("{keys: []}")},
      {"a revoked fingerprint cut short", revoked("{keys: [" + std::string(63, 'a') + "]}"),
       "file-unreadable"},
      {"a revoked key that is none", revoked("{keys: [ca.pem]}")},
      {"revoked certificates in a chain", revoked("{certificates: [two.pem]}")},
      {"a revoked certificate that is none", revoked("{certificates: [keys/acme.pub]}")},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(LoadVerdict(c.text), c.verdict) << c.name << ": " << Load(c.text).status();
  }
  EXPECT_THAT(cases, SizeIs(64));
}

TEST_F(TrustFileTest, RefusesYamlThatReadsInTwoWays) {
  struct Case {
    std::string name;
    std::string text;
    std::string verdict = "malformed";
  };
  const std::string good = StrCat("version: 1\n", kRule);
  const std::vector<Case> cases = {
      {"an anchor", "version: &v 1\n" + std::string(kRule)},
      {"an alias", "version: 1\nmodels:\n  - model: &m m\n    signers: [{key: *m}]\n"},
      {"a merge key", good + "<<: {revoked: {}}\n"},
      {"a tag", "version: !!int 1\n" + std::string(kRule)},
      {"a tag of its own", good + "revoked: !!map {keys: [keys/other.pub]}\n"},
      {"a tagged list", good + "revoked: {keys: !x [keys/other.pub]}\n"},
      {"a second document", good + "---\nrevoked: {keys: [keys/other.pub]}\n"},
      {"a key that is a list", good + "? [a]\n: b\n"},
      {"a key that is null", good + "~: b\n"},
      {"not YAML", good + "}\n"},
      {"an open bracket", good + "revoked: {keys: [\n"},
      {"an open quote", good + "revoked: \"\n"},
      {"a tab", "version: 1\nmodels:\n\t- model: m\n"},
      {"the end of the file in its middle", good + "#\x04\nrevoked: {keys: [keys/other.pub]}\n"},
      {"a NUL", good + std::string("#\0\n", 3)},
      {"an escape sequence", good + "# \x1b[2J\n"},
      {"not UTF-8", good + "# \xff\n"},
      {"UTF-16", std::string("v\0e\0r\0s\0i\0o\0n\0:\0 \0001\0", 20)},
      {"levels beyond number", good + "revoked: " + std::string(17, '[') + std::string(17, ']'),
       "limit-exceeded"},
      {"very many levels", std::string(200'000, '[') + std::string(200'000, ']'), "limit-exceeded"},
      {"very many levels that nobody closes", std::string(200'000, '[')},
      {"very many levels of blocks", Repeated("- ", 200'000) + "a", "limit-exceeded"},
      {"very many keys of keys", Repeated("? ", 200'000) + "a"},
      {"very many empty values", "[" + std::string(400'000, ',') + "]", "limit-exceeded"},
      {"very many names",
       [] {
         std::string text = "{";
         for (int i = 0; i < 65; ++i) text += StrCat("a", i, ": 1, ");
         return text + "}";
       }(),
       "limit-exceeded"},
      {"more values than anybody has", "[" + Repeated("a,", 100'001) + "]", "limit-exceeded"},
      {"more than a MiB", good + std::string(1 << 20, '#'), "limit-exceeded"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(LoadVerdict(c.text), c.verdict) << c.name << ": " << Load(c.text).status();
  }
  EXPECT_THAT(cases, SizeIs(27));
}

// A few hundred bytes that unfold to 10^9 nodes where aliases are followed.
TEST_F(TrustFileTest, RefusesABillionLaughs) {
  std::string text = "version: 1\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 10; ++i) {
    text += StrCat("a", i, ": &a", i, " [");
    for (int j = 0; j < 10; ++j) StrAppend(&text, j == 0 ? "" : ",", "*a", i - 1);
    text += "]\n";
  }
  const absl::Status refused = Load(text).status();
  EXPECT_EQ(ReasonOf(refused), Reason::kMalformed);
  EXPECT_THAT(refused.ToString(), HasSubstr("an anchor"));
}

TEST_F(TrustFileTest, AcceptsOrdinaryYaml) {
  const std::string rule = kRule;
  EXPECT_EQ(LoadVerdict("\xef\xbb\xbfversion: 1\n" + rule), "accepted");
  EXPECT_EQ(LoadVerdict("%YAML 1.2\n---\nversion: 1\n" + rule), "accepted");
  EXPECT_EQ(LoadVerdict("version: 1\r\nmodels:\r\n  - model: m\r\n    signers:\r\n      - key: "
                        "keys/acme.pub\r\n"),
            "accepted");
  EXPECT_EQ(
      LoadVerdict(
          R"({"version": 1, "models": [{"model": "m", "signers": [{"key": "keys/acme.pub"}]}]})"),
      "accepted");
  EXPECT_EQ(LoadVerdict("version: 1\n" + rule + "...\n"), "accepted");
}

TEST_F(TrustFileTest, NamesTheLineAndTheMember) {
  const absl::Status refused =
      Load("version: 1\nmodels:\n  - model: m\n    signers:\n      - kee: a.pub\n").status();
  EXPECT_THAT(refused.ToString(),
              AllOf(HasSubstr("trust.yaml, line 5"), HasSubstr("models[0].signers[0].kee")));
}

TEST_F(TrustFileTest, RefusesAFileThatIsNotThere) {
  EXPECT_EQ(ReasonOf(LoadTrustPolicy(directory_ / "none.yaml").status()), Reason::kFileUnreadable);
  EXPECT_EQ(ReasonOf(LoadTrustPolicy(directory_.path()).status()), Reason::kFileTypeRefused);
}

}  // namespace
}  // namespace pavise::signing
