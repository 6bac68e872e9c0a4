#include "pavise/evidence/appraise/snp/snp_appraiser.h"

#include <algorithm>
#include <functional>
#include <memory>

#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/appraise/testing/test_signatures.h"
#include "pavise/evidence/appraise/testing/test_snp.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using crypto::KeyType;
using crypto::testing::CertificateOptions;
using crypto::testing::Issue;
using crypto::testing::MakeRevocationList;
using crypto::testing::MakeRoot;
using crypto::testing::ReadText;
using crypto::testing::TestCertificate;
using crypto::testing::VectorsDirectory;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::Fill;
using ::testing::IsEmpty;
using testing::kTestSnpTcb;
using ::testing::Not;
using testing::Put;
using testing::ReasonsOf;
using testing::SignSnpReport;
using testing::SnpAuthority;
using testing::SnpPlatform;
using testing::SnpSigningOptions;
using testing::SnpTcbVersion;
using testing::UnsignedSnpReport;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

SnpExpectations Expectations() {
  SnpExpectations expectations;
  expectations.report_data = Bytes(64, 0xd0);
  expectations.measurement = {{Bytes(48, 0x3e)}};
  return expectations;
}

std::vector<Reason> Refused(ByteSpan report, const SnpEndorsements& endorsements,
                            const SnpExpectations& expectations, const std::vector<SnpRoot>& roots,
                            absl::Time at = kNow) {
  CheckList checks;
  const auto verified =
      SnpAppraiser::Appraise(report, endorsements, expectations, at, checks, roots);
  // What is remembered of all appraisals before, of this test and others, changes nothing.
  static crypto::CertificateMemory memory;
  CheckList remembered;
  EXPECT_EQ(
      SnpAppraiser::Appraise(report, endorsements, expectations, at, remembered, roots, &memory)
          .status(),
      verified.status());
  EXPECT_EQ(verified.ok(), checks.all_passed());
  EXPECT_EQ(ExitCodeOf(verified.status()), verified.ok() ? 0 : 1) << verified.status();
  for (const Refusal& refusal : RefusalsOf(verified.status())) {
    EXPECT_FALSE(refusal.item.empty());
    EXPECT_FALSE(refusal.detail.empty());
  }
  return ReasonsOf(checks);
}

TEST(SnpAppraiserTest, AcceptsEveryProductVersionAndKindOfKey) {
  int executed = 0;
  for (const SnpProduct product : {SnpProduct::kMilan, SnpProduct::kGenoa, SnpProduct::kTurin}) {
    for (const bool vlek : {false, true}) {
      SnpPlatform platform(product, vlek);
      for (const uint32_t version : {2u, 3u, 4u, 5u}) {
        platform.options.version = version;
        CheckList checks;
        const auto verified =
            SnpAppraiser::Appraise(platform.Report(), platform.endorsements(), Expectations(), kNow,
                                   checks, platform.roots());
        ASSERT_TRUE(verified.ok())
            << SnpProductName(product) << vlek << version << ": " << verified.status();
        const SnpClaims& claims = **verified;
        EXPECT_EQ(claims.product, product);
        SnpTcb tcb = kTestSnpTcb;
        if (product != SnpProduct::kTurin) tcb.fmc = 0;
        EXPECT_EQ(claims.reported_tcb, tcb);
        EXPECT_EQ(claims.committed_tcb, tcb);
        EXPECT_EQ(claims.current_tcb, tcb);
        EXPECT_EQ(claims.launch_tcb, tcb);
        EXPECT_EQ(claims.provider_id, vlek ? "cloud.example" : "");
        EXPECT_EQ(claims.report.version, version);
        EXPECT_EQ(claims.report.guest_svn, 7u);
        EXPECT_EQ(claims.report.committed_firmware.build, 3);
        EXPECT_EQ(claims.report.committed_firmware.minor, 55);
        EXPECT_EQ(claims.report.committed_firmware.major, 1);
        EXPECT_EQ(claims.report.launch_mitigations, version == 5 ? 3u : 0u);
        EXPECT_FALSE(claims.revocation_checked);
        ++executed;
      }
    }
  }
  EXPECT_EQ(executed, 24);
}

TEST(SnpAppraiserTest, EveryByteCounts) {
  SnpPlatform platform(SnpProduct::kTurin);
  platform.options.version = 5;
  const Bytes good = platform.Report();
  const SnpEndorsements endorsements = platform.endorsements();
  ASSERT_THAT(Refused(good, endorsements, Expectations(), platform.roots()), IsEmpty());
  for (size_t i = 0; i < good.size(); ++i) {
    Bytes changed = good;
    changed[i] ^= 0x01;
    const auto reasons = Refused(changed, endorsements, Expectations(), platform.roots());
    ASSERT_THAT(reasons, Not(IsEmpty())) << i;
    const bool is_signature = (i >= 0x2a0 && i < 0x2a0 + 48) || (i >= 0x2e8 && i < 0x2e8 + 48);
    if (is_signature) {
      ASSERT_THAT(reasons, ElementsAre(Reason::kSignatureInvalid)) << i;
    } else if (i < kSnpSignedBytes) {
      // What the form does not refuse, the signature does.
      ASSERT_TRUE(reasons == std::vector{Reason::kMalformed} ||
                  reasons == std::vector{Reason::kUnsupported} ||
                  reasons[0] == Reason::kSignatureInvalid)
          << i;
    } else {
      ASSERT_THAT(reasons, ElementsAre(Reason::kMalformed)) << i;
    }
  }
  for (size_t size_bytes = 0; size_bytes < good.size(); ++size_bytes) {
    ASSERT_THAT(
        Refused(ByteSpan(good).first(size_bytes), endorsements, Expectations(), platform.roots()),
        ElementsAre(Reason::kMalformed));
  }
  Bytes longer = good;
  longer.push_back(0);
  EXPECT_THAT(Refused(longer, endorsements, Expectations(), platform.roots()),
              ElementsAre(Reason::kMalformed));
}

TEST(SnpAppraiserTest, OddFormsAreRefused) {
  SnpPlatform platform(SnpProduct::kMilan);
  const struct {
    size_t offset;
    size_t size_bytes;
    uint64_t value;
    Reason reason;
  } cases[] = {
      {0x00, 4, 1, Reason::kUnsupported},      // version
      {0x00, 4, 6, Reason::kUnsupported},      //
      {0x08, 8, 0x10000, Reason::kMalformed},  // policy without bit 17
      {0x08, 8, 1u << 26 | 0x20000, Reason::kUnsupported},
      {0x08, 8, uint64_t{1} << 63 | 0x20000, Reason::kUnsupported},
      {0x34, 4, 2, Reason::kUnsupported},        // signature algorithm
      {0x48, 4, 2, Reason::kUnsupported},        // chip key masked
      {0x48, 4, 2u << 2, Reason::kUnsupported},  // signing key
      {0x48, 4, 7u << 2, Reason::kUnsupported},  // not signed
      {0x48, 4, 1u << 5, Reason::kMalformed},
      {0x4c, 4, 1, Reason::kMalformed},
      {0x188, 1, 0x17, Reason::kUnsupported},  // CPU family
      {0x189, 1, 0x20, Reason::kUnsupported},  // CPU model
      {0x18b, 1, 1, Reason::kMalformed},
      {0x1eb, 1, 1, Reason::kMalformed},
      {0x1f8, 8, 1, Reason::kMalformed},  // mitigations before version 5
      {0x29f, 1, 1, Reason::kMalformed},
  };
  for (const auto& c : cases) {
    const Bytes report =
        platform.Report([&](Bytes& bytes) { Put(bytes, c.offset, c.value, c.size_bytes); });
    EXPECT_THAT(Refused(report, platform.endorsements(), Expectations(), platform.roots()),
                ElementsAre(c.reason))
        << c.offset;
  }
}

TEST(SnpAppraiserTest, WhatTheGuestMayNotBe) {
  SnpPlatform platform(SnpProduct::kGenoa);
  const uint64_t policy = platform.options.policy;
  const auto tcb = [](const SnpTcb& value) { return SnpTcbVersion(SnpProduct::kGenoa, value); };
  const struct {
    const char* what;
    std::function<void(Bytes&)> change;
    std::function<void(SnpExpectations&)> ask;
    Reason reason;
  } cases[] = {
      {"debug", [&](Bytes& r) { Put(r, 8, policy | 1 << 19, 8); }, nullptr,
       Reason::kPlatformInsecure},
      {"migration", [&](Bytes& r) { Put(r, 8, policy | 1 << 18, 8); }, nullptr,
       Reason::kPlatformInsecure},
      {"SMT", nullptr, [](auto& e) { e.allow_smt = false; }, Reason::kPlatformInsecure},
      {"sockets", nullptr, [](auto& e) { e.require_single_socket = true; },
       Reason::kPlatformInsecure},
      {"ciphertext", nullptr, [](auto& e) { e.require_ciphertext_hiding = true; },
       Reason::kPlatformInsecure},
      {"VMPL", [](Bytes& r) { Put(r, 0x30, 1, 4); }, nullptr, Reason::kPlatformInsecure},
      {"host's VMPL", [](Bytes& r) { Put(r, 0x30, 0xffffffff, 4); }, nullptr,
       Reason::kPlatformInsecure},
      {"guest SVN", nullptr, [](auto& e) { e.min_guest_svn = 8; }, Reason::kPlatformOutOfDate},
      {"ABI minor", nullptr, [](auto& e) { e.min_abi_major = 1, e.min_abi_minor = 56; },
       Reason::kPlatformOutOfDate},
      {"ABI major", nullptr, [](auto& e) { e.min_abi_major = 2; }, Reason::kPlatformOutOfDate},
      {"replay", nullptr, [](auto& e) { e.report_data[63] ^= 1; }, Reason::kNonceMismatch},
      {"short challenge", nullptr, [](auto& e) { e.report_data.pop_back(); },
       Reason::kNonceMismatch},
      {"measurement", [](Bytes& r) { r[0x90] ^= 1; }, nullptr, Reason::kMeasurementMismatch},
      {"no measurement", nullptr, [](auto& e) { e.measurement->clear(); },
       Reason::kMeasurementUnknown},
      {"host data", nullptr, [](auto& e) { e.host_data = {{Bytes(32)}}; },
       Reason::kMeasurementMismatch},
      {"ID key", nullptr, [](auto& e) { e.id_key_digest = {{Bytes(48)}}; },
       Reason::kMeasurementMismatch},
      {"author key", nullptr, [](auto& e) { e.author_key_digest = {{Bytes(48)}}; },
       Reason::kMeasurementMismatch},
      {"family", nullptr, [](auto& e) { e.family_id = {{Bytes(16)}}; },
       Reason::kMeasurementMismatch},
      {"image", nullptr, [](auto& e) { e.image_id = {{Bytes(16)}}; }, Reason::kMeasurementMismatch},
      {"chip", nullptr, [](auto& e) { e.chip_id = {{Bytes(64)}}; }, Reason::kMeasurementMismatch},
      {"product", nullptr, [](auto& e) { e.tcb_floors.erase(SnpProduct::kGenoa); },
       Reason::kPlatformOutOfDate},
      {"committed TCB", [&](Bytes& r) { Put(r, 0x1e0, tcb({.boot_loader = 8, .snp = 22}), 8); },
       [](auto& e) { e.tcb_floors[SnpProduct::kGenoa] = {.snp = 23}; }, Reason::kPlatformOutOfDate},
      {"current TCB", [&](Bytes& r) { Put(r, 0x38, tcb({.boot_loader = 8, .snp = 23}), 8); },
       [](auto& e) { e.tcb_floors[SnpProduct::kGenoa] = {.boot_loader = 9}; },
       Reason::kPlatformOutOfDate},
      {"launch TCB", [&](Bytes& r) { Put(r, 0x1f0, tcb({.tee = 2, .snp = 23}), 8); },
       [](auto& e) { e.tcb_floors[SnpProduct::kGenoa] = {.tee = 3}; }, Reason::kPlatformOutOfDate},
  };
  int executed = 0;
  for (const auto& c : cases) {
    SnpExpectations expectations = Expectations();
    if (c.ask) c.ask(expectations);
    const Bytes report = platform.Report(c.change ? c.change : [](Bytes&) {});
    EXPECT_THAT(Refused(report, platform.endorsements(), expectations, platform.roots()),
                ElementsAre(c.reason))
        << c.what;
    ++executed;
  }
  EXPECT_EQ(executed, 24);
  // The floor is held part by part, in all four.
  for (const SnpTcb& floor :
       {SnpTcb{.boot_loader = 10}, SnpTcb{.tee = 4}, SnpTcb{.snp = 24}, SnpTcb{.microcode = 73}}) {
    SnpExpectations expectations = Expectations();
    expectations.tcb_floors[SnpProduct::kGenoa] = floor;
    EXPECT_THAT(Refused(platform.Report(), platform.endorsements(), expectations, platform.roots()),
                ElementsAre(Reason::kPlatformOutOfDate, Reason::kPlatformOutOfDate,
                            Reason::kPlatformOutOfDate, Reason::kPlatformOutOfDate));
  }
  // What may be allowed is.
  SnpExpectations lenient = Expectations();
  lenient.allow_migration_agent = true;
  lenient.max_vmpl = 3;
  EXPECT_THAT(Refused(platform.Report([&](Bytes& r) {
                Put(r, 8, policy | 1 << 18, 8);
                Put(r, 0x30, 3, 4);
              }),
                      platform.endorsements(), lenient, platform.roots()),
              IsEmpty());
}

TEST(SnpAppraiserTest, WrongCertificatesAreRefused) {
  SnpPlatform platform(SnpProduct::kMilan);
  const Bytes report = platform.Report();
  const SnpExpectations expectations = Expectations();
  // The report again, signed by the key of a certificate made for the case.
  const auto refused_with = [&](TestCertificate leaf,
                                std::function<void(Bytes&)> change = nullptr) {
    Bytes bytes = UnsignedSnpReport(platform.options);
    if (change) change(bytes);
    SignSnpReport(leaf.key, bytes);
    return Refused(bytes, platform.With(leaf), expectations, platform.roots());
  };
  const CertificateOptions good = SnpSigningOptions(SnpProduct::kMilan, false);
  EXPECT_THAT(refused_with(Issue(platform.ask, good)), IsEmpty());

  // Not pinned; AMD's own roots by default.
  EXPECT_THAT(Refused(report, platform.endorsements(), expectations, PinnedSnpRoots()),
              ElementsAre(Reason::kCertificateInvalid));
  // Under another pinned root's name and product.
  EXPECT_THAT(Refused(report, platform.endorsements(), expectations,
                      {{SnpProduct::kGenoa, platform.ark.certificate.Fingerprint()}}),
              ElementsAre(Reason::kBindingMismatch));
  EXPECT_THAT(refused_with(MakeRoot(good)), ElementsAre(Reason::kCertificateInvalid));
  // By the ARK itself, past the ASK; and one level too deep.
  EXPECT_THAT(refused_with(Issue(platform.ark, good)), ElementsAre(Reason::kCertificateInvalid));
  const TestCertificate deeper = Issue(platform.ask, SnpAuthority("deeper"));
  const TestCertificate deep_leaf = Issue(deeper, good);
  SnpEndorsements deep = platform.With(deep_leaf);
  deep.authorities.push_back(deeper.certificate);
  EXPECT_THAT(Refused(report, deep, expectations, platform.roots()),
              Contains(Reason::kCertificateInvalid));
  SnpEndorsements no_ask = platform.endorsements();
  no_ask.authorities.erase(no_ask.authorities.begin());
  EXPECT_THAT(Refused(report, no_ask, expectations, platform.roots()),
              ElementsAre(Reason::kCertificateInvalid));
  SnpEndorsements no_ark = platform.endorsements();
  no_ark.authorities.pop_back();
  EXPECT_THAT(Refused(report, no_ark, expectations, platform.roots()),
              ElementsAre(Reason::kCertificateInvalid));
  for (const absl::Time at :
       {absl::FromUnixSeconds(2'000'000'001), absl::FromUnixSeconds(1'699'999'999)}) {
    EXPECT_THAT(Refused(report, platform.endorsements(), expectations, platform.roots(), at),
                ElementsAre(Reason::kCertificateInvalid));
  }
  // Another chip's key, certified just as well.
  EXPECT_THAT(
      Refused(report, platform.With(Issue(platform.ask, good)), expectations, platform.roots()),
      ElementsAre(Reason::kSignatureInvalid));
  CertificateOptions p256 = good;
  p256.key_type = KeyType::kEcP256;
  EXPECT_THAT(
      Refused(report, platform.With(Issue(platform.ask, p256)), expectations, platform.roots()),
      ElementsAre(Reason::kSignatureInvalid));

  // Extensions: each is needed, and held against the report.
  for (size_t i = 1; i < good.extensions.size(); ++i) {
    CertificateOptions lacking = good;
    lacking.extensions.erase(lacking.extensions.begin() + static_cast<std::ptrdiff_t>(i));
    const bool is_chip = i + 1 == good.extensions.size();
    EXPECT_THAT(refused_with(Issue(platform.ask, lacking)),
                ElementsAre(is_chip ? Reason::kBindingMismatch : Reason::kCertificateInvalid))
        << i;
    CertificateOptions garbled = good;
    garbled.extensions[i].second = {0x02, 0x02, 0x00};
    EXPECT_THAT(refused_with(Issue(platform.ask, garbled)),
                ElementsAre(is_chip ? Reason::kBindingMismatch : Reason::kMalformed))
        << i;
  }
  for (const SnpTcb& other : {SnpTcb{.boot_loader = 8, .tee = 3, .snp = 23, .microcode = 72},
                              SnpTcb{.boot_loader = 9, .tee = 2, .snp = 23, .microcode = 72},
                              SnpTcb{.boot_loader = 9, .tee = 3, .snp = 24, .microcode = 72},
                              SnpTcb{.boot_loader = 9, .tee = 3, .snp = 23, .microcode = 71}}) {
    EXPECT_THAT(
        refused_with(Issue(platform.ask, SnpSigningOptions(SnpProduct::kMilan, false, other))),
        ElementsAre(Reason::kBindingMismatch));
  }
  // Of another product, of another chip, of the other kind of key.
  EXPECT_THAT(refused_with(Issue(platform.ask, SnpSigningOptions(SnpProduct::kGenoa, false))),
              ElementsAre(Reason::kBindingMismatch));
  EXPECT_THAT(refused_with(Issue(platform.ask, good), [](Bytes& r) { Put(r, 0x189, 0x11, 1); }),
              ElementsAre(Reason::kBindingMismatch));
  EXPECT_THAT(refused_with(Issue(platform.ask, good), [](Bytes& r) { r[0x1df] ^= 1; }),
              ElementsAre(Reason::kBindingMismatch));
  EXPECT_THAT(refused_with(Issue(platform.ask, good), [](Bytes& r) { Fill(r, 0x1a0, 64, 0); }),
              ElementsAre(Reason::kBindingMismatch));
  EXPECT_THAT(refused_with(Issue(platform.ask, SnpSigningOptions(SnpProduct::kMilan, true))),
              ElementsAre(Reason::kBindingMismatch));
  EXPECT_THAT(refused_with(Issue(platform.ask, good), [](Bytes& r) { Put(r, 0x48, 1u << 2, 4); }),
              ElementsAre(Reason::kBindingMismatch));
  CertificateOptions both = good;
  both.extensions.push_back(SnpSigningOptions(SnpProduct::kMilan, true).extensions.back());
  EXPECT_THAT(refused_with(Issue(platform.ask, both)), ElementsAre(Reason::kBindingMismatch));
}

TEST(SnpAppraiserTest, GivenRevocationListsMustCoverTheAsk) {
  SnpPlatform platform(SnpProduct::kMilan);
  const Bytes report = platform.Report();
  const auto refused = [&](const TestCertificate& issuer,
                           const crypto::testing::RevocationListOptions& options) {
    SnpEndorsements endorsements = platform.endorsements();
    endorsements.revocation_lists = {
        *crypto::RevocationList::FromDer(MakeRevocationList(issuer, options), "ARK CRL")};
    return Refused(report, endorsements, Expectations(), platform.roots());
  };
  EXPECT_THAT(refused(platform.ark, {}), IsEmpty());
  EXPECT_THAT(refused(platform.ark, {.revoked = {platform.ask.certificate}}),
              ElementsAre(Reason::kRevoked));
  EXPECT_THAT(refused(platform.ask, {}), ElementsAre(Reason::kEvidenceMissing));
  EXPECT_THAT(refused(MakeRoot(SnpAuthority("ARK-Milan")), {}),
              ElementsAre(Reason::kSignatureInvalid));
  EXPECT_THAT(refused(platform.ark, {.next_update = kNow - absl::Seconds(1)}),
              ElementsAre(Reason::kCertificateInvalid));
}

TEST(SnpAppraiserTest, ARememberedChainIsHeldAgainstEverythingAgain) {
  SnpPlatform platform(SnpProduct::kGenoa);
  const Bytes report = platform.Report();
  crypto::CertificateMemory memory;
  const auto refused = [&](const SnpEndorsements& endorsements, const std::vector<SnpRoot>& roots,
                           absl::Time at = kNow) {
    // Accepted right before, so that the chain is remembered.
    CheckList before, checks;
    EXPECT_TRUE(SnpAppraiser::Appraise(report, platform.endorsements(), Expectations(), kNow,
                                       before, platform.roots(), &memory)
                    .ok());
    const auto verified =
        SnpAppraiser::Appraise(report, endorsements, Expectations(), at, checks, roots, &memory);
    EXPECT_EQ(verified.ok(), checks.all_passed());
    return ReasonsOf(checks);
  };
  EXPECT_THAT(refused(platform.endorsements(), platform.roots()), IsEmpty());
  // Expired since, and before it began.
  const crypto::Certificate& leaf = platform.leaf.certificate;
  EXPECT_THAT(refused(platform.endorsements(), platform.roots(), leaf.not_after()),
              ElementsAre(Reason::kCertificateInvalid));
  EXPECT_THAT(
      refused(platform.endorsements(), platform.roots(), leaf.not_before() - absl::Seconds(1)),
      ElementsAre(Reason::kCertificateInvalid));
  // Other roots, the root of another product, other authorities of the same names.
  EXPECT_THAT(refused(platform.endorsements(), PinnedSnpRoots()),
              ElementsAre(Reason::kCertificateInvalid));
  std::vector<SnpRoot> of_milan = platform.roots();
  of_milan[0].product = SnpProduct::kMilan;
  EXPECT_THAT(refused(platform.endorsements(), of_milan), Contains(Reason::kBindingMismatch));
  SnpPlatform other(SnpProduct::kGenoa);
  SnpEndorsements mixed = other.endorsements();
  mixed.signing_certificate = leaf;
  EXPECT_THAT(refused(mixed, other.roots()), ElementsAre(Reason::kCertificateInvalid));
  mixed = platform.endorsements();
  mixed.authorities.erase(mixed.authorities.begin());
  EXPECT_THAT(refused(mixed, platform.roots()), ElementsAre(Reason::kCertificateInvalid));
  // Revoked since.
  SnpEndorsements revoked = platform.endorsements();
  const auto list = [&](const std::vector<crypto::Certificate>& of) {
    return std::vector{*crypto::RevocationList::FromDer(
        MakeRevocationList(platform.ark, {.revoked = of}), "ARK CRL")};
  };
  revoked.revocation_lists = list({});
  EXPECT_THAT(refused(revoked, platform.roots()), IsEmpty());
  revoked.revocation_lists = list({platform.ask.certificate});
  EXPECT_THAT(refused(revoked, platform.roots()), ElementsAre(Reason::kRevoked));
}

// The report of a real Milan machine. Its guest allows debugging, so it is refused, for that alone.
TEST(SnpAppraiserTest, ARealReportIsRefusedForItsDebugPolicyAlone) {
  const auto vectors = VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no ../shared/vectors: no real report is read";
  const std::string folder = *vectors + "/attest/snp/";
  const std::string report = ReadText(folder + "milan_report.bin");
  const auto vcek = crypto::Certificate::FromDer(AsBytes(ReadText(folder + "milan_vcek.der")), "v");
  ASSERT_TRUE(vcek.ok()) << vcek.status();
  SnpExpectations expectations;
  expectations.report_data = Bytes(64);
  for (uint8_t i = 0; i < 5; ++i) expectations.report_data[i] = static_cast<uint8_t>(i + 1);
  const absl::Time at = absl::FromCivil(absl::CivilDay(2024, 1, 1), absl::UTCTimeZone());
  int executed = 0;
  for (const char* chain : {"ask_ark_milan.pem", "ask_ark_genoa.pem", "ask_ark_turin_vcek.pem"}) {
    const auto authorities = crypto::Certificate::ListFromPem(ReadText(folder + chain), chain);
    ASSERT_TRUE(authorities.ok()) << authorities.status();
    // Every chain ends at a pinned root.
    EXPECT_THAT(PinnedSnpRoots(), Contains(::testing::Field(&SnpRoot::fingerprint,
                                                            authorities->back().Fingerprint())));
    const SnpEndorsements endorsements = {*vcek, *authorities, {}};
    const std::vector<Reason> reasons =
        Refused(AsBytes(report), endorsements, expectations, PinnedSnpRoots(), at);
    if (std::string_view(chain) == "ask_ark_milan.pem") {
      EXPECT_THAT(reasons, ElementsAre(Reason::kPlatformInsecure));
      SnpExpectations replayed = expectations;
      replayed.report_data[0] ^= 1;
      EXPECT_THAT(Refused(AsBytes(report), endorsements, replayed, PinnedSnpRoots(), at),
                  ElementsAre(Reason::kNonceMismatch, Reason::kPlatformInsecure));
      Bytes changed(report.begin(), report.end());
      changed[0x90] ^= 1;
      EXPECT_THAT(Refused(changed, endorsements, expectations, PinnedSnpRoots(), at),
                  ElementsAre(Reason::kSignatureInvalid, Reason::kPlatformInsecure));
      EXPECT_THAT(Refused(AsBytes(report), endorsements, expectations, PinnedSnpRoots(),
                          vcek->not_after() + absl::Seconds(1)),
                  ElementsAre(Reason::kCertificateInvalid, Reason::kPlatformInsecure));
      // VCEK, TCB and chip are the report's own.
      const auto parsed = ParseSnpReport(AsBytes(report), "report");
      ASSERT_TRUE(parsed.ok());
      EXPECT_EQ(DecodeTcb(SnpProduct::kMilan, parsed->reported_tcb),
                (SnpTcb{.boot_loader = 2, .snp = 5, .microcode = 68}));
    } else {
      EXPECT_THAT(reasons, ElementsAre(Reason::kCertificateInvalid, Reason::kPlatformInsecure));
    }
    ++executed;
  }
  EXPECT_EQ(executed, 3);
}

}  // namespace
}  // namespace pavise::evidence
