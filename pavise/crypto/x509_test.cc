#include "pavise/crypto/x509.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/internal/openssl.h"
#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/crypto/testing/test_files.h"

namespace pavise::crypto {
namespace {

using pavise::testing::TemporaryDirectory;
using testing::AuthorityOptions;
using testing::CertificateOptions;
using testing::ChainPem;
using testing::CommandResult;
using testing::HasProgram;
using ::testing::HasSubstr;
using testing::Issue;
using testing::IssueFor;
using testing::IssueWithScts;
using testing::MakeRoot;
using testing::ReadText;
using testing::RunCommand;
using testing::TestCertificate;
using testing::Utf8StringDer;
using testing::VectorsDirectory;
using Kind = SubjectAlternativeName::Kind;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);  // 2027-01-15

std::string DetailOf(const absl::Status& status) {
  const auto findings = RefusalsOf(status);
  return findings.empty() ? StrCat("not a refusal: ", status.ToString()) : findings[0].detail;
}

// Root, intermediate, leaf.
struct Chain {
  TestCertificate root = MakeRoot(AuthorityOptions("root"));
  TestCertificate intermediate = Issue(root, AuthorityOptions("intermediate"));
  TestCertificate leaf = Issue(intermediate, CertificateOptions{});
};

TEST(CertificateTest, SaysWhatItHolds) {
  CertificateOptions options;
  options.common_name = "signer one";
  options.extensions = {
      {"1.3.6.1.4.1.57264.1.8", testing::Utf8StringDer("https://issuer.example")}};
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  const TestCertificate leaf = Issue(root, options);
  const Certificate& certificate = leaf.certificate;
  EXPECT_EQ(certificate.subject(), "CN=signer one");
  EXPECT_EQ(certificate.CommonName(), "signer one");
  EXPECT_EQ(certificate.issuer(), "CN=root");
  EXPECT_EQ(certificate.not_before(), options.not_before);
  EXPECT_EQ(certificate.not_after(), options.not_after);
  EXPECT_EQ(certificate.public_key().value(), leaf.key.public_key());
  EXPECT_FALSE(certificate.is_self_issued());
  EXPECT_TRUE(root.certificate.is_self_issued());
  EXPECT_THAT(certificate.SerialHex(), ::testing::MatchesRegex("[0-9a-f]+"));
  EXPECT_EQ(certificate.SerialHex().size(), 32u);
  EXPECT_EQ(certificate.Fingerprint().size(), 64u);
  EXPECT_EQ(certificate.Extension("1.3.6.1.4.1.57264.1.8"),
            testing::Utf8StringDer("https://issuer.example"));
  EXPECT_EQ(certificate.Extension("1.3.6.1.4.1.57264.1.9"), std::nullopt);
  EXPECT_EQ(certificate.Extension("nonsense"), std::nullopt);

  const auto list = Certificate::ListFromPem(
      StrCat("explained\n", ChainPem({certificate, root.certificate}), "afterwards"), "chain.pem");
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->size(), 2u);
  EXPECT_EQ((*list)[0].der(), certificate.der());
  EXPECT_EQ((*list)[1].der(), root.certificate.der());
}

TEST(CertificateTest, AgreesWithTheOpensslProgram) {
  if (!HasProgram("openssl")) GTEST_SKIP() << "the openssl program is not installed";
  const TemporaryDirectory directory;
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  directory.Write("c.pem", root.certificate.ToPem());
  const auto show = [&](const std::string& what) {
    return RunCommand("openssl x509 -in " + directory / "c.pem" + " -noout " + what).output;
  };
  std::string colons;
  for (size_t i = 0; i < 64; i += 2) {
    StrAppend(&colons, i == 0 ? "" : ":", root.certificate.Fingerprint().substr(i, 2));
  }
  std::string fingerprint = show("-fingerprint -sha256");
  for (char& c : fingerprint) c = static_cast<char>(std::tolower(c));
  EXPECT_THAT(fingerprint, HasSubstr(colons));
  EXPECT_THAT(show("-enddate"), HasSubstr("May 18 03:33:20 2033 GMT"));
  EXPECT_EQ(show("-pubkey"), root.key.public_key().ToPem());
}

TEST(CertificateTest, DerIsReadWhole) {
  const Bytes der = MakeRoot(AuthorityOptions("root")).certificate.der();
  for (size_t length = 0; length < der.size(); ++length) {
    EXPECT_EQ(ReasonOf(Certificate::FromDer(ByteSpan(der).first(length), "c").status()),
              Reason::kMalformed);
  }
  Bytes longer = der;
  longer.push_back(0);
  EXPECT_EQ(ReasonOf(Certificate::FromDer(longer, "c").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(Certificate::FromDer(Bytes(100'000), "c").status()), Reason::kLimitExceeded);

  // Indefinite length: BER, not DER.
  Bytes indefinite = {0x30, 0x80};
  indefinite.insert(indefinite.end(), der.begin() + 4, der.end());
  indefinite.insert(indefinite.end(), {0, 0});
  EXPECT_EQ(ReasonOf(Certificate::FromDer(indefinite, "c").status()), Reason::kMalformed);
}

TEST(CertificateTest, PemIsBounded) {
  const Certificate certificate = MakeRoot(AuthorityOptions("root")).certificate;
  const std::string pem = certificate.ToPem();
  const std::string key(
      PrivateKey::Generate(KeyType::kEcP256).value().ToPem(SecretBytes()).value().RevealText());
  std::string many;
  for (int i = 0; i < 1000; ++i) many += pem;
  EXPECT_EQ(Certificate::ListFromPem(many, "c.pem").value().size(), 1000u);
  EXPECT_EQ(ReasonOf(Certificate::ListFromPem(many + pem, "c.pem").status()),
            Reason::kLimitExceeded);
  const std::string bad[] = {"",
                             "no certificate",
                             key,
                             pem + key,
                             pem.substr(0, pem.size() / 2),
                             pem + "-----BEGIN CERTIFICATE-----\nAAAA\n",
                             "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
                             "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
                             "-----BEGIN TRUSTED CERTIFICATE-----\n" + pem.substr(28)};
  int executed = 0;
  for (const std::string& text : bad) {
    EXPECT_EQ(ReasonOf(Certificate::ListFromPem(text, "c.pem").status()), Reason::kMalformed)
        << text;
    ++executed;
  }
  EXPECT_EQ(executed, 9);
}

TEST(CertificateTest, AnExtensionThatStandsTwiceIsRefused) {
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  // Written under two names of equal length, then made one: the certificate's signature no longer
  // matters here.
  CertificateOptions options;
  options.extensions = {{"1.3.6.1.4.1.57264.1.8", testing::Utf8StringDer("https://good.example")},
                        {"1.3.6.1.4.1.57264.1.9", testing::Utf8StringDer("https://evil.example")}};
  Bytes der = Issue(root, options).certificate.der();
  const Bytes second = {0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbf, 0x30, 0x01, 0x09};
  const auto at = std::search(der.begin(), der.end(), second.begin(), second.end());
  ASSERT_NE(at, der.end());
  at[9] = 0x08;
  const absl::Status status = Certificate::FromDer(der, "c").status();
  EXPECT_EQ(ReasonOf(status), Reason::kMalformed);
  EXPECT_THAT(DetailOf(status), HasSubstr("twice"));
}

// How a TPM's maker names it: SEQUENCE { [4] { Name } }, each attribute a set of its own.
TEST(CertificateTest, DirectoryNames) {
  const auto tlv = [](uint8_t tag, const Bytes& content) {
    Bytes out = content;
    out.insert(out.begin(), {tag, static_cast<uint8_t>(content.size())});
    return out;
  };
  const auto attribute = [&](uint8_t last, const Bytes& value) {
    Bytes content = {0x06, 0x05, 0x67, 0x81, 0x05, 0x02, last};  // 2.23.133.2.x
    content.insert(content.end(), value.begin(), value.end());
    return tlv(0x31, tlv(0x30, content));
  };
  const auto certificate = [&](const Bytes& model) {
    Bytes sets = attribute(1, Utf8StringDer("id:00001014"));
    const Bytes second = attribute(2, model);
    sets.insert(sets.end(), second.begin(), second.end());
    CertificateOptions options;
    options.extensions = {{"2.5.29.17", tlv(0x30, tlv(0xa4, tlv(0x30, sets)))}};
    return Issue(MakeRoot(AuthorityOptions("root")), options).certificate;
  };
  EXPECT_THAT(certificate(Utf8StringDer("swtpm")).DirectoryNameAttributes().value(),
              ::testing::ElementsAre(::testing::Pair("2.23.133.2.1", "id:00001014"),
                                     ::testing::Pair("2.23.133.2.2", "swtpm")));
  // Names of other kinds are looked for elsewhere, and these are none of a signer's.
  EXPECT_THAT(certificate(Utf8StringDer("swtpm")).SubjectAlternativeNames().value(),
              ::testing::IsEmpty());
  EXPECT_EQ(ReasonOf(certificate(Utf8StringDer("a\x1b[2J")).DirectoryNameAttributes().status()),
            Reason::kCertificateInvalid);
  CertificateOptions none;
  none.subject_alternative_name = "DNS:e.example";
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  EXPECT_THAT(Issue(root, none).certificate.DirectoryNameAttributes().value(),
              ::testing::IsEmpty());
  CertificateOptions broken;
  broken.extensions = {{"2.5.29.17", {0x30, 0x05, 0xa4}}};
  EXPECT_EQ(ReasonOf(Issue(root, broken).certificate.DirectoryNameAttributes().status()),
            Reason::kMalformed);
}

TEST(CertificateTest, ExtendedKeyUsages) {
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  CertificateOptions options;
  options.extended_key_usage = "2.23.133.8.1,codeSigning";
  EXPECT_THAT(Issue(root, options).certificate.ExtendedKeyUsages().value().value(),
              ::testing::ElementsAre("2.23.133.8.1", "1.3.6.1.5.5.7.3.3"));
  options.extended_key_usage = "";
  EXPECT_EQ(Issue(root, options).certificate.ExtendedKeyUsages().value(), std::nullopt);
  options.extensions = {{"2.5.29.37", {0x30, 0x03, 0x06}}};
  EXPECT_EQ(ReasonOf(Issue(root, options).certificate.ExtendedKeyUsages().status()),
            Reason::kMalformed);
}

TEST(CertificateTest, AlternativeNames) {
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  CertificateOptions options;
  EXPECT_THAT(Issue(root, options).certificate.SubjectAlternativeNames().value(),
              ::testing::IsEmpty());
  options.subject_alternative_name =
      "email:a@b.example,URI:https://c.example/d,DNS:e.example,IP:127.0.0.1,"
      "otherName:1.3.6.1.4.1.57264.1.7;UTF8:user name,otherName:1.2.3.4;UTF8:ignored";
  const auto names = Issue(root, options).certificate.SubjectAlternativeNames().value();
  ASSERT_EQ(names.size(), 4u);
  EXPECT_EQ(names[0].kind, Kind::kEmail);
  EXPECT_EQ(names[0].value, "a@b.example");
  EXPECT_EQ(names[1].kind, Kind::kUri);
  EXPECT_EQ(names[1].value, "https://c.example/d");
  EXPECT_EQ(names[2].kind, Kind::kDns);
  EXPECT_EQ(names[2].value, "e.example");
  EXPECT_EQ(names[3].kind, Kind::kOtherName);
  EXPECT_EQ(names[3].value, "user name");
}

TEST(CertificateTest, NamesThatDeceiveAreRefused) {
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  const auto names_of = [&](const Bytes& general_names) {
    CertificateOptions options;
    options.extensions = {{"2.5.29.17", general_names}};
    return Issue(root, options).certificate.SubjectAlternativeNames();
  };
  // GeneralNames with one rfc822Name.
  const auto email = [](std::string_view text) {
    std::string der = {0x30, static_cast<char>(text.size() + 2), static_cast<char>(0x81),
                       static_cast<char>(text.size())};
    der += text;
    return Bytes(der.begin(), der.end());
  };
  ASSERT_TRUE(names_of(email("a@b.example")).ok());
  for (const std::string_view text :
       {std::string_view("a@good.example\0.evil.example", 28), std::string_view("\0", 1),
        std::string_view("a@b\n.example"), std::string_view("a@b\x1b[2J"),
        std::string_view("\xc3\xa4@b.example"), std::string_view("a@b\x7f")}) {
    EXPECT_EQ(ReasonOf(names_of(email(text)).status()), Reason::kCertificateInvalid);
  }
  // A name cut short, and bytes after the names.
  EXPECT_EQ(ReasonOf(names_of({0x30, 0x03, 0x81, 0x05, 'a'}).status()), Reason::kMalformed);
  Bytes trailing = email("a@b.example");
  trailing.resize(trailing.size() + 1);
  EXPECT_EQ(ReasonOf(names_of(trailing).status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(names_of({}).status()), Reason::kMalformed);
  // The Sigstore name as a PrintableString.
  CertificateOptions printable;
  printable.subject_alternative_name = "otherName:1.3.6.1.4.1.57264.1.7;PRINTABLESTRING:name";
  EXPECT_EQ(ReasonOf(Issue(root, printable).certificate.SubjectAlternativeNames().status()),
            Reason::kCertificateInvalid);
}

TEST(CertificateTest, WhoMaySignModels) {
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  struct {
    std::string key_usage, extended;
    bool may, code_signing;
  } const cases[] = {
      {"critical,digitalSignature", "codeSigning", true, true},
      {"critical,digitalSignature", "", true, false},
      {"digitalSignature", "serverAuth", true, false},
      {"", "codeSigning", true, true},
      {"critical,keyAgreement", "codeSigning", true, true},
      {"", "", false, false},
      {"", "serverAuth,clientAuth,emailProtection,timeStamping", false, false},
      {"critical,keyCertSign,cRLSign", "", false, false},
      {"critical,nonRepudiation", "serverAuth", false, false},
      {"", "anyExtendedKeyUsage", false, false},
  };
  int executed = 0;
  for (const auto& expected : cases) {
    CertificateOptions options;
    options.key_usage = expected.key_usage;
    options.extended_key_usage = expected.extended;
    const Certificate certificate = Issue(root, options).certificate;
    EXPECT_EQ(certificate.MaySignModels(), expected.may)
        << expected.key_usage << " / " << expected.extended;
    EXPECT_EQ(certificate.HasCodeSigningUsage(), expected.code_signing)
        << expected.key_usage << " / " << expected.extended;
    ++executed;
  }
  EXPECT_EQ(executed, 10);
}

TEST(VerifyChainTest, FindsTheChain) {
  const Chain chain;
  const TestCertificate unrelated = MakeRoot(AuthorityOptions("unrelated"));
  const auto found =
      VerifyChain(chain.leaf.certificate, {unrelated.certificate, chain.intermediate.certificate},
                  {unrelated.certificate, chain.root.certificate}, kNow);
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), 3u);
  EXPECT_EQ((*found)[0].der(), chain.leaf.certificate.der());
  EXPECT_EQ((*found)[1].der(), chain.intermediate.certificate.der());
  EXPECT_EQ((*found)[2].der(), chain.root.certificate.der());
}

TEST(VerifyChainTest, WhatIsNotTrustedIsRefused) {
  const Chain chain;
  const TestCertificate impostor = MakeRoot(AuthorityOptions("root"));
  const auto verify = [&](const std::vector<Certificate>& intermediates,
                          const std::vector<Certificate>& roots, bool partial_chain = false) {
    return VerifyChain(chain.leaf.certificate, intermediates, roots, kNow, partial_chain).status();
  };
  // Missing links and foreign roots.
  EXPECT_EQ(ReasonOf(verify({}, {chain.root.certificate})), Reason::kCertificateInvalid);
  EXPECT_EQ(ReasonOf(verify({chain.intermediate.certificate}, {})), Reason::kCertificateInvalid);
  EXPECT_EQ(ReasonOf(verify({chain.intermediate.certificate}, {impostor.certificate})),
            Reason::kCertificateInvalid);
  EXPECT_THAT(DetailOf(verify({}, {chain.root.certificate})), HasSubstr("CN=intermediate"));
  // A root among the intermediates is no anchor.
  EXPECT_EQ(ReasonOf(verify({chain.intermediate.certificate, chain.root.certificate}, {})),
            Reason::kCertificateInvalid);
  EXPECT_EQ(ReasonOf(verify({chain.intermediate.certificate, chain.root.certificate},
                            {impostor.certificate})),
            Reason::kCertificateInvalid);
  EXPECT_EQ(ReasonOf(verify({chain.intermediate.certificate, chain.root.certificate}, {}, true)),
            Reason::kCertificateInvalid);
  // An intermediate as the anchor: with partial_chain only.
  EXPECT_EQ(ReasonOf(verify({}, {chain.intermediate.certificate})), Reason::kCertificateInvalid);
  EXPECT_TRUE(verify({}, {chain.intermediate.certificate}, true).ok());
  // A self-signed leaf vouches for nobody.
  const TestCertificate lonely = MakeRoot(CertificateOptions{});
  EXPECT_EQ(ReasonOf(VerifyChain(lonely.certificate, {}, {chain.root.certificate}, kNow).status()),
            Reason::kCertificateInvalid);
  EXPECT_EQ(
      ReasonOf(VerifyChain(lonely.certificate, {lonely.certificate}, {chain.root.certificate}, kNow)
                   .status()),
      Reason::kCertificateInvalid);
  EXPECT_TRUE(VerifyChain(lonely.certificate, {}, {lonely.certificate}, kNow).ok());
}

TEST(VerifyChainTest, EveryPeriodCounts) {
  const absl::Time begin = absl::FromUnixSeconds(1'750'000'000);
  const absl::Time end = absl::FromUnixSeconds(1'850'000'000);
  // The narrow certificate at each place of the chain in turn.
  for (int narrow = 0; narrow < 3; ++narrow) {
    CertificateOptions options[3] = {AuthorityOptions("root"), AuthorityOptions("intermediate"),
                                     CertificateOptions{}};
    options[narrow].not_before = begin;
    options[narrow].not_after = end;
    const TestCertificate root = MakeRoot(options[0]);
    const TestCertificate intermediate = Issue(root, options[1]);
    const TestCertificate leaf = Issue(intermediate, options[2]);
    const auto verify = [&](absl::Time at) {
      return VerifyChain(leaf.certificate, {intermediate.certificate}, {root.certificate}, at)
          .status();
    };
    EXPECT_TRUE(verify(begin).ok());
    EXPECT_TRUE(verify(end - absl::Seconds(1)).ok());
    const absl::Status early = verify(begin - absl::Seconds(1));
    EXPECT_EQ(ReasonOf(early), Reason::kCertificateInvalid);
    EXPECT_THAT(DetailOf(early), HasSubstr("not valid before 2025-06-15 15:06:40 UTC"));
    const absl::Status late = verify(end + absl::Seconds(1));
    EXPECT_EQ(ReasonOf(late), Reason::kCertificateInvalid);
    EXPECT_THAT(DetailOf(late), HasSubstr("expired on 2028-08-16 00:53:20 UTC"));
    EXPECT_THAT(RefusalsOf(late)[0].item, HasSubstr(narrow == 0   ? "CN=root"
                                                    : narrow == 1 ? "CN=intermediate"
                                                                  : "CN=test signer"));
    EXPECT_EQ(ReasonOf(verify(absl::InfinitePast())), Reason::kCertificateInvalid);
    EXPECT_EQ(ReasonOf(verify(absl::InfiniteFuture())), Reason::kCertificateInvalid);
  }
}

TEST(VerifyChainTest, WhoMayNotIssueIsRefused) {
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  std::vector<std::pair<std::string, CertificateOptions>> issuers;
  CertificateOptions options = AuthorityOptions("issuer");
  options.is_authority = false;
  issuers.emplace_back("CA:FALSE", options);
  options = AuthorityOptions("issuer");
  options.basic_constraints = false;
  issuers.emplace_back("no basicConstraints, but keyCertSign", options);
  options.key_usage = "";
  issuers.emplace_back("neither", options);
  options = AuthorityOptions("issuer");
  options.key_usage = "critical,digitalSignature";
  issuers.emplace_back("CA:TRUE without keyCertSign", options);
  options = AuthorityOptions("issuer");
  options.version = 1;
  issuers.emplace_back("version 1", options);
  issuers.emplace_back("a signer", CertificateOptions{});
  int executed = 0;
  for (const auto& [what, issuer_options] : issuers) {
    const TestCertificate issuer = Issue(root, issuer_options);
    const TestCertificate leaf = Issue(issuer, CertificateOptions{});
    const absl::Status status =
        VerifyChain(leaf.certificate, {issuer.certificate}, {root.certificate}, kNow).status();
    EXPECT_EQ(ReasonOf(status), Reason::kCertificateInvalid) << what;
    ++executed;
  }
  EXPECT_EQ(executed, 6);
}

TEST(VerifyChainTest, PathLengthIsHeld) {
  CertificateOptions none_below = AuthorityOptions("root");
  none_below.path_length = 0;
  const TestCertificate root = MakeRoot(none_below);
  const TestCertificate direct = Issue(root, CertificateOptions{});
  EXPECT_TRUE(VerifyChain(direct.certificate, {}, {root.certificate}, kNow).ok());
  const TestCertificate intermediate = Issue(root, AuthorityOptions("intermediate"));
  const TestCertificate leaf = Issue(intermediate, CertificateOptions{});
  EXPECT_EQ(
      ReasonOf(VerifyChain(leaf.certificate, {intermediate.certificate}, {root.certificate}, kNow)
                   .status()),
      Reason::kCertificateInvalid);
}

TEST(VerifyChainTest, LongChainsAreRefused) {
  TestCertificate root = MakeRoot(AuthorityOptions("root"));
  std::vector<Certificate> intermediates;
  TestCertificate issuer = Issue(root, AuthorityOptions("step 0"));
  for (int i = 1; i <= 20; ++i) {
    intermediates.push_back(issuer.certificate);
    if (i == 10) {
      const TestCertificate leaf = Issue(issuer, CertificateOptions{});
      EXPECT_TRUE(VerifyChain(leaf.certificate, intermediates, {root.certificate}, kNow).ok());
    }
    issuer = Issue(issuer, AuthorityOptions(StrCat("step ", i)));
  }
  intermediates.push_back(issuer.certificate);
  const TestCertificate leaf = Issue(issuer, CertificateOptions{});
  EXPECT_EQ(
      ReasonOf(VerifyChain(leaf.certificate, intermediates, {root.certificate}, kNow).status()),
      Reason::kCertificateInvalid);
}

// OpenSSL gives up on more than 2^20 comparisons of names with constraints, without saying why:
// that is the input's fault, and no failure of the machine.
TEST(VerifyChainTest, TooManyNameConstraintsAreRefused) {
  constexpr int kCount = 1100;  // its square is above 2^20
  Bytes subtrees;
  std::string names;
  for (int i = 0; i < kCount; ++i) {
    const std::string name = StrCat("h", i, ".example");
    StrAppend(&names, i > 0 ? "," : "", "DNS:", name);
    // GeneralSubtree: a SEQUENCE of the dNSName [2].
    const auto size = static_cast<uint8_t>(name.size());
    subtrees.insert(subtrees.end(), {0x30, static_cast<uint8_t>(size + 2), 0x82, size});
    subtrees.insert(subtrees.end(), name.begin(), name.end());
  }
  const auto header = [](uint8_t tag, size_t size) {
    return Bytes{tag, 0x83, static_cast<uint8_t>(size >> 16), static_cast<uint8_t>(size >> 8),
                 static_cast<uint8_t>(size)};
  };
  const Bytes permitted = header(0xa0, subtrees.size());
  Bytes constraints = header(0x30, permitted.size() + subtrees.size());
  constraints.insert(constraints.end(), permitted.begin(), permitted.end());
  constraints.insert(constraints.end(), subtrees.begin(), subtrees.end());

  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  CertificateOptions authority = AuthorityOptions("constrained");
  authority.extensions.emplace_back("2.5.29.30", constraints);
  const TestCertificate intermediate = Issue(root, authority);
  CertificateOptions options;
  options.subject_alternative_name = names;
  const TestCertificate leaf = Issue(intermediate, options);
  const absl::Status status =
      VerifyChain(leaf.certificate, {intermediate.certificate}, {root.certificate}, kNow).status();
  EXPECT_EQ(ReasonOf(status), Reason::kCertificateInvalid) << status;
  EXPECT_THAT(status.ToString(), HasSubstr("unspecified certificate verification error"));
}

TEST(VerifyChainTest, BrokenSignaturesAreRefused) {
  const Chain chain;
  Bytes der = chain.leaf.certificate.der();
  int executed = 0;
  // From the end: the signature's bytes.
  for (size_t back = 1; back <= 60; ++back) {
    Bytes changed = der;
    changed[changed.size() - back] ^= 1;
    const auto leaf = Certificate::FromDer(changed, "leaf");
    if (!leaf.ok()) continue;
    const absl::Status status =
        VerifyChain(*leaf, {chain.intermediate.certificate}, {chain.root.certificate}, kNow)
            .status();
    EXPECT_EQ(ReasonOf(status), Reason::kCertificateInvalid);
    ++executed;
  }
  EXPECT_GE(executed, 50);
}

TEST(VerifyChainTest, AnotherKeyUnderTheSameNameIsRefused) {
  const Chain chain;
  const TestCertificate twin = Issue(chain.root, AuthorityOptions("intermediate"));
  EXPECT_EQ(ReasonOf(VerifyChain(chain.leaf.certificate, {twin.certificate},
                                 {chain.root.certificate}, kNow)
                         .status()),
            Reason::kCertificateInvalid);
  // With both given, the right one is found.
  EXPECT_TRUE(VerifyChain(chain.leaf.certificate,
                          {twin.certificate, chain.intermediate.certificate},
                          {chain.root.certificate}, kNow)
                  .ok());
}

TEST(VerifyChainTest, WeakDigestsAndKeysAreRefused) {
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  CertificateOptions sha1;
  sha1.digest = "SHA1";
  const absl::Status by_sha1 =
      VerifyChain(Issue(root, sha1).certificate, {}, {root.certificate}, kNow).status();
  EXPECT_EQ(ReasonOf(by_sha1), Reason::kCertificateInvalid);
  EXPECT_THAT(DetailOf(by_sha1), HasSubstr("digest"));
  // The digest of a root's own signature means nothing: it is trusted by name.
  CertificateOptions old_root = AuthorityOptions("old root");
  old_root.digest = "SHA1";
  const TestCertificate old = MakeRoot(old_root);
  EXPECT_TRUE(
      VerifyChain(Issue(old, CertificateOptions{}).certificate, {}, {old.certificate}, kNow).ok());

  if (!HasProgram("openssl")) GTEST_SKIP() << "the openssl program is not installed";
  const TemporaryDirectory directory;
  const auto made = RunCommand(
      "cd " + directory.path() +
      " && openssl req -x509 -newkey rsa:1024 -nodes -subj /CN=short -days 99 -keyout k.pem"
      " -out short.pem"
      " && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=root -days 99 -keyout r.key"
      " -out r.pem"
      " && openssl req -newkey rsa:2048 -nodes -subj /CN=md5 -keyout m.key -out m.csr"
      " && openssl x509 -req -md5 -in m.csr -CA r.pem -CAkey r.key -CAcreateserial -out md5.pem");
  ASSERT_EQ(made.exit_code, 0) << made.output;
  const auto read = [&](const std::string& name) {
    return Certificate::ListFromPem(ReadText(directory / name), name).value()[0];
  };
  const Certificate short_key = read("short.pem");
  const absl::Time at = short_key.not_before() + absl::Hours(1);
  const absl::Status by_short = VerifyChain(short_key, {}, {short_key}, at).status();
  EXPECT_EQ(ReasonOf(by_short), Reason::kCertificateInvalid);
  EXPECT_THAT(DetailOf(by_short), HasSubstr("short"));
  const absl::Status by_md5 = VerifyChain(read("md5.pem"), {}, {read("r.pem")}, at).status();
  EXPECT_EQ(ReasonOf(by_md5), Reason::kCertificateInvalid);
  EXPECT_THAT(DetailOf(by_md5), HasSubstr("digest"));
}

TEST(VerifyChainTest, CertificatesOfTheOpensslProgramPass) {
  if (!HasProgram("openssl")) GTEST_SKIP() << "the openssl program is not installed";
  const TemporaryDirectory directory;
  // As in tutorials: no key identifiers in what `openssl x509 -req` writes.
  directory.Write("ca.ext", "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n");
  directory.Write("leaf.ext", "keyUsage=critical,digitalSignature\nextendedKeyUsage=codeSigning\n");
  const auto made = RunCommand(
      "cd " + directory.path() +
      " && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=root -keyout r.key -out r.pem -days "
      "99"
      " && openssl req -newkey rsa:2048 -nodes -subj /CN=inter -keyout i.key -out i.csr"
      " && openssl x509 -req -in i.csr -CA r.pem -CAkey r.key -CAcreateserial -extfile ca.ext"
      " -out i.pem -days 99"
      " && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=leaf"
      " -keyout l.key -out l.csr"
      " && openssl x509 -req -in l.csr -CA i.pem -CAkey i.key -CAcreateserial -extfile leaf.ext"
      " -out l.pem -days 99");
  ASSERT_EQ(made.exit_code, 0) << made.output;
  const auto read = [&](const std::string& name) {
    return Certificate::ListFromPem(ReadText(directory / name), name).value()[0];
  };
  const Certificate leaf = read("l.pem");
  const absl::Time at = leaf.not_before() + absl::Hours(1);
  const auto found = VerifyChain(leaf, {read("i.pem")}, {read("r.pem")}, at);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_TRUE(leaf.MaySignModels());
  EXPECT_EQ(
      ReasonOf(
          VerifyChain(leaf, {read("i.pem")}, {read("r.pem")}, at + absl::Hours(24 * 200)).status()),
      Reason::kCertificateInvalid);
}

TEST(VerifyChainTest, NothingIsLeftOnTheErrorQueue) {
  const Chain chain;
  (void)VerifyChain(chain.leaf.certificate, {}, {}, kNow);
  (void)Certificate::FromDer(Bytes{0x30, 0x00}, "c");
  EXPECT_TRUE(VerifyChain(chain.leaf.certificate, {chain.intermediate.certificate},
                          {chain.root.certificate}, kNow)
                  .ok());
}

TEST(SystemRootsTest, AllAreRead) {
  const auto roots = SystemRoots();
  if (!roots.ok() && ReasonOf(roots.status()) == Reason::kFileUnreadable) {
    GTEST_SKIP() << "this machine has no file of trusted roots";
  }
  ASSERT_TRUE(roots.ok()) << roots.status();
  EXPECT_GT(roots->size(), 50u);
  for (const Certificate& root : *roots) {
    EXPECT_TRUE(root.public_key().ok()) << root.subject() << root.public_key().status();
    EXPECT_TRUE(VerifyChain(root, {}, {root}, root.not_before() + absl::Hours(1)).ok())
        << root.subject();
  }
}

TEST(EmbeddedSctsTest, OneTimestampOfATrustedLogIsEnough) {
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  const TestCertificate other_issuer = MakeRoot(AuthorityOptions("root"));
  PrivateKey log = PrivateKey::Generate(KeyType::kEcP256).value();
  PrivateKey other_log = PrivateKey::Generate(KeyType::kEcP256).value();
  const absl::Time at = absl::FromUnixSeconds(1'760'000'000);
  for (const int count : {1, 2, 5}) {
    const TestCertificate leaf = IssueWithScts(root, CertificateOptions{}, log, at, count);
    const auto verify = [&](const TestCertificate& issuer, const std::vector<CtLog>& logs) {
      return VerifyEmbeddedScts(leaf.certificate, issuer.certificate, logs);
    };
    const CtLog good{.key = log.public_key()};
    EXPECT_TRUE(verify(root, {good}).ok());
    EXPECT_TRUE(verify(root, {{.key = other_log.public_key()}, good}).ok());
    EXPECT_TRUE(
        verify(root,
               {{.key = log.public_key(), .valid_from = at, .valid_until = at + absl::Hours(1)}})
            .ok());
    // An expired entry for the log does not hide a good one.
    EXPECT_TRUE(
        verify(root, {{.key = log.public_key(), .valid_until = at - absl::Hours(1)}, good}).ok());

    EXPECT_EQ(ReasonOf(verify(root, {})), Reason::kTransparencyInvalid);
    EXPECT_EQ(ReasonOf(verify(root, {{.key = other_log.public_key()}})),
              Reason::kTransparencyInvalid);
    EXPECT_EQ(ReasonOf(verify(other_issuer, {good})), Reason::kTransparencyInvalid);
    EXPECT_EQ(ReasonOf(verify(
                  root, {{.key = log.public_key(), .valid_until = at - absl::Milliseconds(1)}})),
              Reason::kTransparencyInvalid);
    EXPECT_EQ(
        ReasonOf(verify(root, {{.key = log.public_key(), .valid_from = at + absl::Seconds(1)}})),
        Reason::kTransparencyInvalid);
  }
  const TestCertificate plain = Issue(root, CertificateOptions{});
  EXPECT_EQ(ReasonOf(VerifyEmbeddedScts(plain.certificate, root.certificate,
                                        {{.key = log.public_key()}})),
            Reason::kTransparencyInvalid);
}

TEST(EmbeddedSctsTest, ATimestampOfAnotherCertificateIsRefused) {
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  PrivateKey log = PrivateKey::Generate(KeyType::kEcP256).value();
  const absl::Time at = absl::FromUnixSeconds(1'760'000'000);
  constexpr char kSctOid[] = "1.3.6.1.4.1.11129.2.4.2";
  const Certificate logged = IssueWithScts(root, CertificateOptions{}, log, at).certificate;
  CertificateOptions options;
  options.extensions = {{kSctOid, logged.Extension(kSctOid).value()}};
  const Certificate copied = Issue(root, options).certificate;
  EXPECT_TRUE(VerifyEmbeddedScts(logged, root.certificate, {{.key = log.public_key()}}).ok());
  EXPECT_EQ(ReasonOf(VerifyEmbeddedScts(copied, root.certificate, {{.key = log.public_key()}})),
            Reason::kTransparencyInvalid);
  // Every flipped bit of the list of timestamps.
  Bytes list = logged.Extension(kSctOid).value();
  const Bytes der = logged.der();
  const auto start = std::search(der.begin(), der.end(), list.begin(), list.end());
  ASSERT_NE(start, der.end());
  size_t executed = 0;
  for (size_t bit = 0; bit < list.size() * 8; ++bit) {
    Bytes changed = der;
    changed[static_cast<size_t>(start - der.begin()) + bit / 8] ^=
        static_cast<uint8_t>(1u << (bit % 8));
    ++executed;
    const auto certificate = Certificate::FromDer(changed, "leaf");
    if (!certificate.ok()) continue;
    EXPECT_EQ(
        ReasonOf(VerifyEmbeddedScts(*certificate, root.certificate, {{.key = log.public_key()}})),
        Reason::kTransparencyInvalid)
        << "bit " << bit;
  }
  EXPECT_EQ(executed, list.size() * 8);
}

// The reference tool's samples.
class OmsVectorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto vectors = VectorsDirectory();
    if (!vectors) GTEST_SKIP() << "no folder of vectors";
    directory_ = *vectors + "/oms";
  }
  Json Read(const std::string& name) const {
    return ParseJson(AsBytes(ReadText(directory_ + "/" + name)), name).value();
  }
  static Certificate FromBase64Der(const Json& raw) {
    return Certificate::FromDer(FromBase64(raw.get<std::string>(), "sample").value(), "sample")
        .value();
  }
  std::string directory_;
};

TEST_F(OmsVectorsTest, CertificateChains) {
  const Certificate root =
      Certificate::ListFromPem(ReadText(directory_ + "/keys/ca-cert.pem"), "ca").value()[0];
  int executed = 0;
  for (const std::string sample : {"v0.3.1-certificate", "v1.1.0-certificate"}) {
    const Json bundle = Read("releases/" + sample + "/model.sig");
    std::vector<Certificate> chain;
    for (const Json& entry :
         bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]) {
      chain.push_back(FromBase64Der(entry["rawBytes"]));
    }
    const Certificate leaf = chain[0];
    chain.erase(chain.begin());
    const auto verify = [&](const std::vector<Certificate>& roots, absl::Time at) {
      return VerifyChain(leaf, chain, roots, at).status();
    };
    EXPECT_TRUE(verify({root}, leaf.not_before()).ok()) << verify({root}, leaf.not_before());
    EXPECT_TRUE(leaf.MaySignModels());
    EXPECT_EQ(
        leaf.public_key().value(),
        PublicKey::FromPem(ReadText(directory_ + "/keys/signing-key-pub.pem"), "key").value());
    EXPECT_EQ(ReasonOf(verify({}, leaf.not_before())), Reason::kCertificateInvalid);
    EXPECT_EQ(ReasonOf(verify({root}, leaf.not_after() + absl::Seconds(1))),
              Reason::kCertificateInvalid);
    const auto system = SystemRoots();
    if (system.ok()) {
      EXPECT_EQ(ReasonOf(verify(*system, leaf.not_before())), Reason::kCertificateInvalid);
    }
    ++executed;
  }
  EXPECT_EQ(executed, 2);
}

TEST_F(OmsVectorsTest, SigstoreCertificates) {
  const Json trusted = Read("sigstore_trusted_root.json");
  std::vector<Certificate> authorities;
  for (const Json& authority : trusted["certificateAuthorities"]) {
    for (const Json& entry : authority["certChain"]["certificates"]) {
      authorities.push_back(FromBase64Der(entry["rawBytes"]));
    }
  }
  std::vector<Certificate> roots, intermediates;
  for (const Certificate& authority : authorities) {
    (authority.is_self_issued() ? roots : intermediates).push_back(authority);
  }
  ASSERT_EQ(roots.size(), 2u);
  ASSERT_EQ(intermediates.size(), 1u);
  std::vector<CtLog> logs;
  for (const Json& log : trusted["ctlogs"]) {
    const Json& period = log["publicKey"]["validFor"];
    absl::Time from = absl::InfinitePast(), until = absl::InfiniteFuture();
    std::string error;
    ASSERT_TRUE(
        absl::ParseTime(absl::RFC3339_full, period["start"].get<std::string>(), &from, &error));
    if (period.contains("end")) {
      ASSERT_TRUE(
          absl::ParseTime(absl::RFC3339_full, period["end"].get<std::string>(), &until, &error));
    }
    const Bytes der = FromBase64(log["publicKey"]["rawBytes"].get<std::string>(), "log").value();
    logs.push_back({PublicKey::FromDer(der, "log").value(), from, until});
  }
  ASSERT_EQ(logs.size(), 2u);

  int executed = 0;
  for (const std::string sample :
       {"releases/v0.3.1-sigstore/model.sig", "releases/v1.1.0-sigstore/model.sig"}) {
    const Json bundle = Read(sample);
    const Certificate leaf =
        FromBase64Der(bundle["verificationMaterial"]["certificate"]["rawBytes"]);
    const auto chain = VerifyChain(leaf, intermediates, roots, leaf.not_before());
    ASSERT_TRUE(chain.ok()) << chain.status();
    ASSERT_EQ(chain->size(), 3u);
    EXPECT_TRUE(leaf.HasCodeSigningUsage());
    EXPECT_TRUE(leaf.MaySignModels());
    EXPECT_EQ(leaf.public_key().value().type(), KeyType::kEcP256);
    const auto names = leaf.SubjectAlternativeNames().value();
    ASSERT_EQ(names.size(), 1u);
    EXPECT_THAT(names[0].kind, ::testing::AnyOf(Kind::kEmail, Kind::kUri));
    EXPECT_NE(leaf.Extension("1.3.6.1.4.1.57264.1.1"), std::nullopt);
    // Fulcio's certificates live for ten minutes.
    EXPECT_EQ(
        ReasonOf(VerifyChain(leaf, intermediates, roots, leaf.not_before() + absl::Minutes(11))
                     .status()),
        Reason::kCertificateInvalid);
    EXPECT_EQ(ReasonOf(VerifyChain(leaf, authorities, {intermediates}, leaf.not_before()).status()),
              Reason::kCertificateInvalid);

    const absl::Status scts = VerifyEmbeddedScts(leaf, (*chain)[1], logs);
    EXPECT_TRUE(scts.ok()) << scts;
    EXPECT_EQ(ReasonOf(VerifyEmbeddedScts(leaf, (*chain)[2], logs)), Reason::kTransparencyInvalid);
    EXPECT_EQ(ReasonOf(VerifyEmbeddedScts(leaf, (*chain)[1], {logs[0]})),
              Reason::kTransparencyInvalid);
    std::vector<CtLog> ended = {logs[1]};
    ended[0].valid_until = leaf.not_before() - absl::Hours(1);
    EXPECT_EQ(ReasonOf(VerifyEmbeddedScts(leaf, (*chain)[1], ended)), Reason::kTransparencyInvalid);
    ++executed;
  }
  EXPECT_EQ(executed, 2);
}

Reason ReasonFrom(const absl::Status& status) {
  return ReasonOf(status).value_or(Reason::kPolicyDenied);
}

TEST(RevocationListTest, EachCertificateOfAChainIsLookedUp) {
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  const TestCertificate middle = Issue(root, AuthorityOptions("middle"));
  const TestCertificate leaf = Issue(middle, CertificateOptions{});
  const TestCertificate sibling = Issue(middle, CertificateOptions{});
  const std::vector<Certificate> chain = {leaf.certificate, middle.certificate, root.certificate};
  const auto list = [](const TestCertificate& issuer, const testing::RevocationListOptions& options,
                       std::string_view item) {
    auto read = RevocationList::FromDer(MakeRevocationList(issuer, options), item);
    EXPECT_TRUE(read.ok()) << read.status();
    return *std::move(read);
  };
  const RevocationList of_root = list(root, {}, "root.crl");
  const RevocationList of_middle = list(middle, {.revoked = {sibling.certificate}}, "middle.crl");
  EXPECT_EQ(of_middle.issuer(), "CN=middle");
  EXPECT_EQ(of_middle.this_update(), absl::FromUnixSeconds(1'700'000'000));
  EXPECT_EQ(of_middle.next_update(), absl::FromUnixSeconds(2'000'000'000));
  EXPECT_TRUE(CheckRevocation(chain, {of_root, of_middle}, kNow).ok());

  const auto refused = [&](const std::vector<RevocationList>& lists, absl::Time at = kNow) {
    return CheckRevocation(chain, lists, at);
  };
  // The leaf, then its issuer.
  const absl::Status revoked = refused(
      {of_root, list(middle, {.revoked = {sibling.certificate, leaf.certificate}}, "middle.crl")});
  EXPECT_EQ(ReasonFrom(revoked), Reason::kRevoked);
  EXPECT_EQ(RefusalsOf(revoked)[0].item, "certificate CN=test signer");
  EXPECT_EQ(
      RefusalsOf(refused({list(root, {.revoked = {middle.certificate}}, "r"), of_middle}))[0].item,
      "certificate CN=middle");
  EXPECT_EQ(ReasonFrom(refused({of_root})), Reason::kEvidenceMissing);
  EXPECT_EQ(ReasonFrom(refused({of_middle})), Reason::kEvidenceMissing);
  EXPECT_EQ(ReasonFrom(refused({of_root, of_middle}, absl::FromUnixSeconds(2'000'000'001))),
            Reason::kCertificateInvalid);
  EXPECT_EQ(ReasonFrom(refused({of_root, of_middle}, absl::FromUnixSeconds(1'699'999'999))),
            Reason::kCertificateInvalid);
  // Another key under the issuer's name.
  const TestCertificate twin = Issue(root, AuthorityOptions("middle"));
  EXPECT_EQ(ReasonFrom(refused({of_root, list(twin, {}, "twin.crl")})), Reason::kSignatureInvalid);
  EXPECT_EQ(ReasonFrom(refused({of_root, list(middle, {.digest = "SHA1"}, "sha1.crl")})),
            Reason::kSignatureInvalid);
  CertificateOptions no_lists = AuthorityOptions("middle");
  no_lists.key_usage = "critical,keyCertSign";
  const Certificate mute = IssueFor(root, middle.key.public_key(), no_lists);
  EXPECT_EQ(ReasonFrom(CheckRevocation({leaf.certificate, mute, root.certificate},
                                       {of_root, of_middle}, kNow)),
            Reason::kCertificateInvalid);
}

TEST(RevocationListTest, OnlyCompleteListsInDerAreRead) {
  const TestCertificate root = MakeRoot(AuthorityOptions("root"));
  const Bytes good = MakeRevocationList(root, {.revoked = {root.certificate}});
  const auto reason = [](const Bytes& der) {
    return ReasonFrom(RevocationList::FromDer(der, "list").status());
  };
  ASSERT_TRUE(RevocationList::FromDer(good, "list").ok());
  const std::string pem = internal::EncodePemBlock(good, "X509 CRL");
  EXPECT_TRUE(RevocationList::FromPem(pem, "list").ok());
  EXPECT_FALSE(RevocationList::FromPem(pem + pem, "list").ok());
  EXPECT_EQ(reason(MakeRevocationList(root, {.next_update = std::nullopt})), Reason::kMalformed);
  EXPECT_EQ(reason(MakeRevocationList(root, {.critical_extension = true})), Reason::kUnsupported);
  for (size_t size_bytes = 0; size_bytes < good.size(); ++size_bytes) {
    EXPECT_EQ(reason(Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size_bytes))),
              Reason::kMalformed);
  }
  Bytes longer = good;
  longer.push_back(0);
  EXPECT_EQ(reason(longer), Reason::kMalformed);
  EXPECT_EQ(reason(Bytes((16 << 20) + 1)), Reason::kLimitExceeded);
}

// AMD signs its lists with RSA-PSS, where the digest is a parameter and SHA-1 the default.
TEST(RevocationListTest, RsaPssListsOfTheOpensslProgram) {
  if (!HasProgram("openssl")) GTEST_SKIP() << "no openssl program on this machine";
  const TemporaryDirectory directory;
  const std::string at = directory.path() + "/";
  const CommandResult made = RunCommand(
      "cd " + directory.path() +
      " && printf "
      "'[ca]\\ndefault_ca=d\\n[d]\\ndatabase=index\\ncrlnumber=n\\ndefault_crl_days=30\\n'"
      " > c.cnf && touch index && echo 01 > n"
      " && openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out r.pem -days 30 -sha384"
      " -sigopt rsa_padding_mode:pss -subj /CN=ARK"
      " && for d in sha384 sha1; do openssl ca -config c.cnf -gencrl -md $d -keyfile k.pem"
      " -cert r.pem -sigopt rsa_padding_mode:pss -out $d.pem || exit 1; done");
  ASSERT_EQ(made.exit_code, 0) << made.output;
  const auto root = Certificate::ListFromPem(ReadText(at + "r.pem"), "r.pem");
  ASSERT_TRUE(root.ok()) << root.status();
  const std::vector<Certificate> chain = {root->front(), root->front()};
  for (const auto& [name, accepted] :
       {std::pair("sha384.pem", true), std::pair("sha1.pem", false)}) {
    const auto list = RevocationList::FromPem(ReadText(at + name), name);
    ASSERT_TRUE(list.ok()) << list.status();
    const absl::Status verdict =
        CheckRevocation(chain, {*list}, list->this_update() + absl::Minutes(1));
    EXPECT_EQ(verdict.ok(), accepted) << name << ": " << verdict;
    if (!accepted) {
      EXPECT_EQ(ReasonFrom(verdict), Reason::kSignatureInvalid);
    }
  }
}

TEST(RevocationListTest, IntelsListsAreRead) {
  const auto vectors = VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no ../shared/vectors: Intel's lists are not read";
  int executed = 0;
  for (const char* name : {"rootcrl.der", "pckcrl"}) {
    const auto list =
        RevocationList::FromDer(AsBytes(ReadText(*vectors + "/attest/tdx/" + name)), name);
    ASSERT_TRUE(list.ok()) << list.status();
    EXPECT_THAT(list->issuer(), HasSubstr("O=Intel Corporation"));
    EXPECT_LT(list->this_update(), list->next_update());
    ++executed;
  }
  EXPECT_EQ(executed, 2);
}

}  // namespace
}  // namespace pavise::crypto
