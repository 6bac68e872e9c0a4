#include "pavise/evidence/appraise/nvidia/rim.h"

#include <functional>
#include <string>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/appraise/nvidia/testing/test_gpu.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using crypto::testing::CertificateOptions;
using crypto::testing::ReadText;
using crypto::testing::VectorsDirectory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::kTestTime;
using testing::MakeTestRimPublisher;
using ::testing::Not;
using testing::ReplaceOnce;
using testing::RimOptions;
using ::testing::SizeIs;
using testing::TestRimPublisher;

const TestRimPublisher& Publisher() {
  static const TestRimPublisher* const publisher = new TestRimPublisher(MakeTestRimPublisher());
  return *publisher;
}

absl::StatusOr<VerifiedRim> Verify(std::string_view xml, absl::Time at = kTestTime) {
  return RimVerifier::Verify(AsBytes(xml), "driver.xml", at, Publisher().root_fingerprint());
}

std::optional<Reason> Refused(std::string_view xml) { return ReasonOf(Verify(xml).status()); }

// What a change of the text does after it was signed, and what it does where it is signed along.
std::optional<Reason> RefusedAfterSigning(const std::function<void(std::string&)>& change) {
  RimOptions options;
  options.after_signing = change;
  return Refused(Publisher().Rim(options));
}
std::optional<Reason> RefusedSigned(const std::function<void(std::string&)>& change) {
  RimOptions options;
  options.before_signing = change;
  const std::string xml = Publisher().Rim(options);
  EXPECT_NE(xml, "") << "the test could not sign";
  return Refused(xml);
}

TEST(RimTest, ReadsASignedManifest) {
  RimOptions options;
  options.measurements = {{0, false}, {7, true, {Bytes(48, 1), Bytes(48, 2)}}};
  const VerifiedRim rim = Verify(Publisher().Rim(options)).value();
  EXPECT_EQ(rim->version, "550.144.03");
  EXPECT_EQ(rim->name, "GH100");
  EXPECT_EQ(rim->tag_id, "tag-550.144.03");
  EXPECT_EQ(rim->signer_fingerprint, Publisher().signer.certificate.Fingerprint());
  ASSERT_THAT(rim->measurements, SizeIs(2));
  EXPECT_FALSE(rim->measurements.at(0).active);
  EXPECT_TRUE(rim->measurements.at(7).active);
  EXPECT_THAT(rim->measurements.at(7).alternatives, ElementsAre(Bytes(48, 1), Bytes(48, 2)));
}

TEST(RimTest, EveryByteOfTheSignatureCounts) {
  const std::string xml = Publisher().Rim();
  const size_t begin = xml.find("SignatureValue>") + 15;
  const size_t end = xml.find("</ds:SignatureValue>");
  ASSERT_LT(begin, end);
  const std::string base64 = xml.substr(begin, end - begin);
  std::string plain;
  for (const char c : base64) {
    if (c != '\n') plain.push_back(c);
  }
  const Bytes signature = FromBase64(plain, "signature").value();
  ASSERT_THAT(signature, SizeIs(96));
  size_t refused = 0;
  for (size_t i = 0; i < signature.size(); ++i) {
    Bytes other = signature;
    other[i] ^= 1;
    const std::string changed = xml.substr(0, begin) + ToBase64(other) + xml.substr(end);
    refused += Refused(changed) == Reason::kSignatureInvalid;
  }
  EXPECT_EQ(refused, 96u);
  for (const std::string& other :
       {std::string(), ToBase64(Bytes(96, 0)), ToBase64(ByteSpan(signature).first(95)),
        ToBase64(ByteSpan(signature).first(48))}) {
    EXPECT_EQ(Refused(xml.substr(0, begin) + other + xml.substr(end)), Reason::kSignatureInvalid);
  }
}

TEST(RimTest, EverythingOutsideTheSignatureIsSigned) {
  const std::string xml = Publisher().Rim();
  const size_t signature = xml.find("<ds:Signature ");
  size_t digits = 0, changed = 0, accepted = 0;
  // The XML declaration before the root is not part of the canonical form.
  for (size_t i = xml.find("<SoftwareIdentity"); i < signature; ++i) {
    if (xml[i] < '0' || xml[i] > '9') continue;  // of versions, indices, values and names
    if (++digits % 5 != 0) continue;
    std::string other = xml;
    other[i] = xml[i] == '9' ? '8' : static_cast<char>(xml[i] + 1);
    ++changed;
    accepted += Verify(other).ok();
  }
  EXPECT_GT(changed, 50u);
  EXPECT_EQ(accepted, 0u);
  for (size_t size = 0; size + 2 < xml.size(); size += 29) {
    EXPECT_FALSE(Verify(xml.substr(0, size)).ok()) << size;
  }
}

TEST(RimTest, RefusesAnythingElseThanTheOneSignature) {
  const auto replace = [](std::string from, std::string to) {
    return [=](std::string& text) { ReplaceOnce(text, from, to); };
  };
  const std::string ds = "http://www.w3.org/2000/09/xmldsig#";
  // Each is signed as it stands, by the right key, where the library signs such things.
  const std::pair<std::function<void(std::string&)>, Reason> cases[] = {
      {replace("<ds:Reference URI=\"\">", "<ds:Reference URI=\"#xpointer(/)\">"),
       Reason::kUnsupported},
      {replace("<ds:Transform Algorithm=\"" + ds + "enveloped-signature\"/>", ""),
       Reason::kMalformed},
      {replace("xmldsig-more#sha384", "xmldsig-more#sha224"), Reason::kUnsupported},
      {replace("xmldsig-more#ecdsa-sha384", "xmldsig-more#ecdsa-sha256"), Reason::kUnsupported},
      {replace("<ds:CanonicalizationMethod Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"/>",
               "<ds:CanonicalizationMethod "
               "Algorithm=\"http://www.w3.org/2006/12/xml-c14n11#WithComments\"/>"),
       Reason::kUnsupported},
      {replace("</ds:KeyInfo>", "</ds:KeyInfo><ds:Object/>"), Reason::kUnsupported},
      {replace("</ds:Transforms>",
               "<ds:Transform Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"/>"
               "</ds:Transforms>"),
       Reason::kUnsupported},
  };
  size_t executed = 0;
  for (const auto& [change, reason] : cases) {
    RimOptions options;
    options.before_signing = change;
    std::string xml = Publisher().Rim(options);
    if (xml.empty()) {  // the library would not even sign it
      options.before_signing = [](std::string&) {};
      options.after_signing = change;
      xml = Publisher().Rim(options);
    }
    EXPECT_EQ(Refused(xml), reason) << executed;
    ++executed;
  }
  EXPECT_EQ(executed, 7u);
}

TEST(RimTest, ExclusiveCanonicalisationIsAccepted) {
  RimOptions options;
  options.before_signing = [](std::string& text) {
    ReplaceOnce(text, "<ds:Transform Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"/>",
                "<ds:Transform Algorithm=\"http://www.w3.org/2001/10/xml-exc-c14n#\"/>");
  };
  EXPECT_TRUE(Verify(Publisher().Rim(options)).ok());
}

// Signature wrapping: what is verified must be what is read.
TEST(RimTest, RefusesWrappedSignatures) {
  const std::string good = Publisher().Rim();
  const size_t root = good.find("<SoftwareIdentity");
  const std::string inner = good.substr(root);
  const size_t signature_begin = good.find("<ds:Signature ");
  const size_t signature_end = good.find("</ds:Signature>") + 15;
  const std::string signature = good.substr(signature_begin, signature_end - signature_begin);

  RimOptions evil_options;
  evil_options.measurements = {{1, true, {Bytes(48, 0xee)}}};
  std::string evil = Publisher().Rim(evil_options);
  evil = evil.substr(evil.find("<SoftwareIdentity"));
  const size_t evil_begin = evil.find("<ds:Signature ");
  const size_t evil_end = evil.find("</ds:Signature>") + 15;
  const auto evil_with = [&](const std::string& in_place) {
    return evil.substr(0, evil_begin) + in_place + evil.substr(evil_end);
  };

  // The signed document inside a forged one, whose own signature is left out or stolen.
  EXPECT_EQ(Refused(evil_with(inner)), Reason::kUnsupported);
  EXPECT_EQ(Refused(evil_with(signature + inner)), Reason::kUnsupported);
  EXPECT_EQ(Refused(evil_with("<ds:Object xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\">" +
                              inner + "</ds:Object>" + signature)),
            Reason::kUnsupported);
  // The signature of one document on another, two signatures, none, one deeper down.
  EXPECT_EQ(Refused(evil_with(signature)), Reason::kSignatureInvalid);
  EXPECT_EQ(Refused(evil_with(signature + signature)), Reason::kUnsupported);
  EXPECT_EQ(Refused(evil_with("")), Reason::kSignatureInvalid);
  EXPECT_EQ(Refused(evil_with("<x>" + signature + "</x>")), Reason::kUnsupported);
  // A reference to the signed one by its ID.
  std::string by_id = signature;
  ReplaceOnce(by_id, "URI=\"\"", "URI=\"#tag\"");
  EXPECT_EQ(Refused(evil_with(by_id + inner)), Reason::kUnsupported);
  // A second payload and a second Meta, unsigned.
  EXPECT_EQ(RefusedAfterSigning([](std::string& text) {
              ReplaceOnce(text, "<ds:Signature ", "<ns0:Payload/><ds:Signature ");
            }),
            Reason::kSignatureInvalid);
}

TEST(RimTest, RefusesDeclarationsEntitiesAndOtherText) {
  const std::string good = Publisher().Rim();
  const std::string body = good.substr(good.find("<SoftwareIdentity"));
  EXPECT_TRUE(Verify(body).ok());
  for (const std::string& declaration :
       {std::string("<!DOCTYPE SoftwareIdentity>"),
        std::string("<!DOCTYPE SoftwareIdentity SYSTEM \"file:///etc/passwd\">"),
        std::string("<!DOCTYPE SoftwareIdentity [<!ENTITY a \"550\">]>"),
        std::string("<!DOCTYPE SoftwareIdentity [<!ATTLIST SoftwareIdentity x CDATA \"y\">]>")}) {
    EXPECT_EQ(Refused(declaration + body), Reason::kUnsupported) << declaration;
  }
  EXPECT_EQ(RefusedAfterSigning(
                [](std::string& text) { ReplaceOnce(text, "<ns0:Payload>", "&x;<ns0:Payload>"); }),
            Reason::kMalformed);
  EXPECT_EQ(RefusedAfterSigning([](std::string& text) {
              ReplaceOnce(text, "<ns0:Payload>", "<?php x ?><ns0:Payload>");
            }),
            Reason::kUnsupported);
  EXPECT_EQ(Refused(body + "<x/>"), Reason::kMalformed);
  EXPECT_EQ(Refused(""), Reason::kMalformed);
  EXPECT_EQ(Refused("<a/>"), Reason::kMalformed);
  EXPECT_EQ(Refused("\xff\xfe<\0a\0"), Reason::kMalformed);
  EXPECT_EQ(Refused(std::string(5 << 20, ' ') + body), Reason::kLimitExceeded);
  std::string deep;
  for (int i = 0; i < 300; ++i) deep += "<a>";
  EXPECT_EQ(RefusedAfterSigning([&](std::string& text) {
              ReplaceOnce(text, "<ns0:Payload>", deep + "<ns0:Payload>");
            }),
            Reason::kMalformed);
}

// Signed by the right key, so it is the reading that refuses.
TEST(RimTest, RefusesSignedContentsThatAreNotUnderstood) {
  const auto replace = [](std::string from, std::string to) {
    return [=](std::string& text) { ReplaceOnce(text, from, to); };
  };
  EXPECT_EQ(RefusedSigned(replace("colloquialVersion=\"550.144.03\"", "x=\"y\"")),
            Reason::kMalformed);
  EXPECT_EQ(RefusedSigned(replace("colloquialVersion=\"550.144.03\"", "colloquialVersion=\"\"")),
            Reason::kMalformed);
  EXPECT_EQ(RefusedSigned(replace("<ns0:Payload>", "<ns0:Payload/><ns0:Payload>")),
            Reason::kMalformed);
  EXPECT_EQ(RefusedSigned(replace("<ns0:Payload>", "<ns0:Evidence/><ns0:Payload>")),
            Reason::kUnsupported);
  EXPECT_EQ(RefusedSigned(replace("<ns0:Payload>", "<ns0:Payload><ns0:File/>")),
            Reason::kUnsupported);
  EXPECT_EQ(RefusedSigned(replace(
                "<ns0:Payload>",
                "<ns0:Payload><ns0:Resource type=\"OpaqueData\" index=\"9\" name=\"minSvn\"/>")),
            Reason::kUnsupported);
  const std::pair<const char*, const char*> attributes[] = {
      {"index=\"1\"", "index=\"2\""},    // twice
      {"index=\"1\"", "index=\"255\""},  // none of SPDM's
      {"index=\"1\"", "index=\"-1\""},
      {"index=\"1\"", "index=\"1 \""},
      {"index=\"1\"", "index=\"\""},
      {"index=\"1\"", "i=\"1\""},
      {"name=\"Measurement_1\" size=\"48\"", "name=\"Measurement_1\" size=\"32\""},
      {"name=\"Measurement_1\" size=\"48\"", "name=\"Measurement_1\" size=\"4294967344\""},
      {"name=\"Measurement_1\" ", ""},
      {"index=\"1\" active=\"True\"", "index=\"1\" active=\"true\""},
      {"index=\"1\" active=\"True\" alternatives=\"1\"",
       "index=\"1\" active=\"True\" alternatives=\"2\""},
      {"index=\"1\" active=\"True\" alternatives=\"1\"",
       "index=\"1\" active=\"True\" alternatives=\"0\""},
      {"index=\"1\" active=\"True\" alternatives=\"1\"",
       "index=\"1\" active=\"True\" alternatives=\"1000\""},
      {"index=\"1\" active=\"True\" alternatives=\"1\" ns2:Hash0=",
       "index=\"1\" active=\"True\" alternatives=\"1\" Hash0="},
      {"index=\"1\" active=\"True\" alternatives=\"1\" ns2:Hash0=\"80",
       "index=\"1\" active=\"True\" alternatives=\"1\" ns2:Hash0=\"zz"},
  };
  size_t executed = 0;
  for (const auto& [from, to] : attributes) {
    EXPECT_EQ(RefusedSigned(replace(from, to)), Reason::kMalformed) << to;
    ++executed;
  }
  EXPECT_EQ(executed, 15u);
  RimOptions empty;
  empty.measurements = {};
  EXPECT_EQ(Refused(Publisher().Rim(empty)), Reason::kMalformed);
}

TEST(RimTest, TheSignerMustBeCertifiedByThePinnedRoot) {
  const std::string xml = Publisher().Rim();
  EXPECT_EQ(ReasonOf(RimVerifier::Verify(AsBytes(xml), "x", kTestTime).status()),
            Reason::kCertificateInvalid);  // NVIDIA's root is not among its certificates
  const TestRimPublisher other = MakeTestRimPublisher();
  EXPECT_EQ(Refused(other.Rim()), Reason::kCertificateInvalid);
  // The root in the trust folder does not make the other's chain good.
  EXPECT_EQ(
      ReasonOf(RimVerifier::Verify(AsBytes(other.Rim()), "x", kTestTime,
                                   Publisher().root_fingerprint(), {Publisher().root.certificate})
                   .status()),
      Reason::kCertificateInvalid);
  EXPECT_EQ(ReasonOf(Verify(xml, absl::FromUnixSeconds(1'600'000'000)).status()),
            Reason::kCertificateInvalid);  // not valid yet
  EXPECT_EQ(ReasonOf(Verify(xml, absl::FromUnixSeconds(2'100'000'000)).status()),
            Reason::kCertificateInvalid);  // expired
  // The root left out of the file, and given.
  RimOptions options;
  options.after_signing = [](std::string& text) {
    ReplaceOnce(text,
                "<ds:X509Certificate>" + ToBase64(Publisher().root.certificate.der()) +
                    "</ds:X509Certificate>",
                "");
  };
  const std::string without_root = Publisher().Rim(options);
  EXPECT_EQ(Refused(without_root), Reason::kCertificateInvalid);
  EXPECT_TRUE(RimVerifier::Verify(AsBytes(without_root), "x", kTestTime,
                                  Publisher().root_fingerprint(), {Publisher().root.certificate})
                  .ok());
}

TEST(RimTest, TheSignersCertificateMustAllowIt) {
  const auto refused = [](const CertificateOptions& signer) {
    const TestRimPublisher publisher = MakeTestRimPublisher(signer);
    return ReasonOf(
        RimVerifier::Verify(AsBytes(publisher.Rim()), "x", kTestTime, publisher.root_fingerprint())
            .status());
  };
  CertificateOptions signer = {.key_type = crypto::KeyType::kEcP384, .digest = "SHA2-384"};
  EXPECT_EQ(refused(signer), std::nullopt);
  signer.key_usage = "critical,keyAgreement";
  signer.extended_key_usage = "";
  EXPECT_EQ(refused(signer), Reason::kCertificateInvalid);
  signer = {.key_type = crypto::KeyType::kEcP256};
  EXPECT_EQ(refused(signer), Reason::kKeyUnsupported);
}

TEST(RimTest, CertificatesAreBoundedAndThere) {
  const std::string one = "<ds:X509Certificate>" + ToBase64(Publisher().root.certificate.der()) +
                          "</ds:X509Certificate>";
  EXPECT_EQ(RefusedAfterSigning([&](std::string& text) {
              std::string many;
              for (int i = 0; i < 8; ++i) many += one;
              ReplaceOnce(text, "</ds:X509Data>", many + "</ds:X509Data>");
            }),
            Reason::kLimitExceeded);
  EXPECT_EQ(RefusedAfterSigning([](std::string& text) {
              const size_t begin = text.find("<ds:X509Data>");
              const size_t end = text.find("</ds:KeyInfo>");
              text.erase(begin, end - begin);
            }),
            Reason::kMalformed);
  EXPECT_EQ(RefusedAfterSigning([&](std::string& text) {
              ReplaceOnce(text, one, one.substr(0, 200) + "</ds:X509Certificate>");
            }),
            Reason::kMalformed);
}

// NVIDIA's manifest of driver 550.144.03 for GH100; the signing certificate is valid from
// 2024-12-30 to 2026-12-30. In the second file, one character of the signature is another.
TEST(RimVectors, VerifiesNvidiasManifest) {
  const auto vectors = VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors (PAVISE_VECTORS)";
  const std::string folder = *vectors + "/attest/nvgpu/";
  const std::string good = ReadText(folder + "NV_GPU_DRIVER_GH100_550.144.03.xml");
  const std::string bad = ReadText(folder + "incorrect_signature_driver_rim.xml");
  const auto roots =
      crypto::Certificate::ListFromPem(ReadText(folder + "rim_root.crt"), "root").value();
  EXPECT_EQ(roots.front().Fingerprint(), kNvidiaRimRoot);

  const VerifiedRim rim = RimVerifier::Verify(AsBytes(good), "RIM", kTestTime).value();
  EXPECT_EQ(rim->version, "550.144.03");
  EXPECT_EQ(rim->name, "GH100");
  EXPECT_THAT(rim->signer, HasSubstr("HCC RIM L4 Signer"));
  ASSERT_THAT(rim->measurements, SizeIs(64));
  size_t active = 0;
  for (const auto& [index, measurement] : rim->measurements) active += measurement.active;
  EXPECT_EQ(active, 21u);
  EXPECT_THAT(rim->measurements.at(35).alternatives, SizeIs(4));

  EXPECT_EQ(ReasonOf(RimVerifier::Verify(AsBytes(bad), "RIM", kTestTime).status()),
            Reason::kSignatureInvalid);
  const auto expired =
      RimVerifier::Verify(AsBytes(good), "RIM", absl::FromUnixSeconds(1'800'000'000));
  EXPECT_EQ(ReasonOf(expired.status()), Reason::kCertificateInvalid);
  std::string changed = good;
  ReplaceOnce(changed, "4a5e4b3d501fe31f", "4a5e4b3d501fe31e");
  EXPECT_EQ(ReasonOf(RimVerifier::Verify(AsBytes(changed), "RIM", kTestTime).status()),
            Reason::kSignatureInvalid);
}

}  // namespace
}  // namespace pavise::evidence
