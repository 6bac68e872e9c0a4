#include "pavise/evidence/appraise/intel/quote_appraiser.h"

#include <algorithm>

#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/appraise/testing/test_intel.h"
#include "pavise/evidence/appraise/testing/test_signatures.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using crypto::testing::AuthorityOptions;
using crypto::testing::CertificateOptions;
using crypto::testing::ChainPem;
using crypto::testing::Issue;
using crypto::testing::MakeRevocationList;
using crypto::testing::MakeRoot;
using crypto::testing::ReadText;
using crypto::testing::TestCertificate;
using crypto::testing::VectorsDirectory;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::IntelPlatform;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::QuoteOptions;
using testing::ReasonsOf;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);  // 2027-01-15

IntelPlatform& Platform() {
  static IntelPlatform& platform = *new IntelPlatform;
  return platform;
}

IntelExpectations Expectations() {
  IntelExpectations expectations;
  expectations.report_data = Bytes(64, 0xd0);
  expectations.td.mr_td = {{Bytes(48, 0x3d)}};
  expectations.sgx.mr_enclave = {{Bytes(32, 0x3e)}};
  return expectations;
}

std::vector<Reason> Refused(ByteSpan quote, const IntelCollateral& collateral,
                            const IntelExpectations& expectations = Expectations(),
                            absl::Time at = kNow, std::string root = "") {
  CheckList checks;
  if (root.empty()) root = Platform().root_fingerprint();
  const auto verified =
      IntelQuoteAppraiser::Appraise(quote, collateral, expectations, at, checks, root);
  // What is remembered of all appraisals before, of this test and others, changes nothing.
  static crypto::CertificateMemory memory;
  CheckList remembered;
  EXPECT_EQ(
      IntelQuoteAppraiser::Appraise(quote, collateral, expectations, at, remembered, root, &memory)
          .status(),
      verified.status());
  EXPECT_EQ(verified.ok(), checks.all_passed());
  EXPECT_EQ(ExitCodeOf(verified.status()), verified.ok() ? 0 : 1) << verified.status();
  return ReasonsOf(checks);
}

Bytes Text(const std::string& text) { return {text.begin(), text.end()}; }

TEST(IntelQuoteAppraiserTest, AcceptsEveryVersionAndBody) {
  const struct {
    uint16_t version;
    bool tdx;
    bool tdx_15;
  } cases[] = {{3, false, false}, {4, false, false}, {4, true, false},
               {5, false, false}, {5, true, false},  {5, true, true}};
  int executed = 0;
  for (const auto& c : cases) {
    const QuoteOptions options = {.version = c.version, .tdx = c.tdx, .tdx_15 = c.tdx_15};
    CheckList checks;
    const auto verified =
        IntelQuoteAppraiser::Appraise(Platform().Quote(options), Platform().Collateral(c.tdx),
                                      Expectations(), kNow, checks, Platform().root_fingerprint());
    ASSERT_TRUE(verified.ok()) << c.version << c.tdx << c.tdx_15 << ": " << verified.status();
    const IntelQuoteClaims& claims = **verified;
    EXPECT_EQ(claims.quote.version, c.version);
    EXPECT_EQ(claims.quote.is_tdx(), c.tdx);
    EXPECT_EQ(ToHex(claims.platform.fmspc), "50806f000000");
    EXPECT_EQ(claims.platform.pce_svn, 13);
    EXPECT_EQ(claims.platform_tcb.status, IntelTcbStatus::kUpToDate);
    EXPECT_EQ(claims.quoting_enclave_tcb.status, IntelTcbStatus::kUpToDate);
    EXPECT_EQ(claims.tdx_module_tcb.has_value(), c.tdx_15);
    EXPECT_EQ(claims.tcb_evaluation_data_number, 17u);
    EXPECT_EQ(absl::FormatTime("%Y-%m-%d", claims.collateral_expires, absl::UTCTimeZone()),
              "2027-01-30");
    if (c.tdx) {
      const auto& body = std::get<TdReportBody>(claims.quote.body);
      EXPECT_EQ(body.mr_service_td.has_value(), c.tdx_15);
      EXPECT_EQ(body.rtmr[3][0], 0x73);
    } else {
      EXPECT_EQ(std::get<SgxReportBody>(claims.quote.body).isv_product_id, 11);
    }
    ++executed;
  }
  EXPECT_EQ(executed, 6);
  // SGX's TCB info of version 2.
  OrderedJson info = IntelPlatform::TcbInfo(false);
  info.erase("id");
  info["version"] = 2;
  OrderedJson tcb = {{"pcesvn", 13}};
  for (int i = 1; i <= 16; ++i) tcb[StrCat("sgxtcbcomp", i < 10 ? "0" : "", i, "svn")] = 0;
  info["tcbLevels"] = OrderedJson::array(
      {{{"tcb", tcb}, {"tcbDate", "2026-06-01T00:00:00Z"}, {"tcbStatus", "UpToDate"}}});
  IntelCollateral collateral = Platform().Collateral(false);
  collateral.tcb_info = Platform().Sign("tcbInfo", info);
  EXPECT_THAT(Refused(Platform().Quote({.version = 3, .tdx = false}), collateral), IsEmpty());
  EXPECT_THAT(Refused(Platform().Quote({}), collateral), Contains(Reason::kBindingMismatch));
}

// A bit is flipped in every byte of the quote, but for the certificates' text (whose white space
// means nothing) and for most bytes of TD and QE report, which are alike under their signatures.
TEST(IntelQuoteAppraiserTest, EveryByteCounts) {
  const IntelCollateral collateral = Platform().Collateral(true);
  const Bytes good = Platform().Quote({.version = 5, .tdx_15 = true});
  ASSERT_THAT(Refused(good, collateral), IsEmpty());
  const size_t pem = AsText(good).find("-----BEGIN");
  ASSERT_NE(pem, std::string::npos);
  const size_t body = 48 + 6;
  const size_t signature = body + 648 + 4;
  const size_t enclave = signature + 128 + 6;
  for (size_t i = 0; i < pem; ++i) {
    const bool is_alike = (i > body && i < body + 648) || (i > enclave && i < enclave + 384);
    if (is_alike && i % 7 != 0) continue;
    Bytes changed = good;
    changed[i] ^= 0x80;
    const std::vector<Reason> reasons = Refused(changed, collateral);
    ASSERT_THAT(reasons, Not(IsEmpty())) << i;
    if (i >= signature && i < signature + 64) {
      ASSERT_THAT(reasons, ElementsAre(Reason::kSignatureInvalid)) << i;
    }
  }
  for (size_t size_bytes = 0; size_bytes < good.size(); ++size_bytes) {
    ASSERT_FALSE(ParseIntelQuote(ByteSpan(good).first(size_bytes), "quote").ok()) << size_bytes;
  }
  // The buffer's padding is zero or nothing.
  Bytes padded = good;
  padded.resize(8000);
  EXPECT_THAT(Refused(padded, collateral), IsEmpty());
  padded.back() = 1;
  EXPECT_THAT(Refused(padded, collateral), ElementsAre(Reason::kMalformed));
  EXPECT_THAT(Refused(Bytes(64 * 1024 + 1), collateral), ElementsAre(Reason::kLimitExceeded));
}

TEST(IntelQuoteAppraiserTest, OddFormsAreRefused) {
  const auto put = [](Bytes quote, size_t offset, uint64_t value, size_t size_bytes) {
    for (size_t i = 0; i < size_bytes; ++i) {
      quote[offset + i] = static_cast<uint8_t>(value >> (8 * i));
    }
    return quote;
  };
  const auto reason = [](const Bytes& quote) {
    return ReasonOf(ParseIntelQuote(quote, "quote").status());
  };
  const Bytes v3 = Platform().Quote({.version = 3, .tdx = false});
  const Bytes v4 = Platform().Quote({});
  const Bytes v5 = Platform().Quote({.version = 5, .tdx_15 = true});
  EXPECT_EQ(reason(put(v4, 0, 2, 2)), Reason::kUnsupported);
  EXPECT_EQ(reason(put(v4, 0, 6, 2)), Reason::kUnsupported);
  EXPECT_EQ(reason(put(v4, 2, 3, 2)), Reason::kUnsupported);     // P-384
  EXPECT_EQ(reason(put(v4, 4, 0x82, 4)), Reason::kUnsupported);  // TEE
  EXPECT_EQ(reason(put(v3, 4, 0x81, 4)), Reason::kUnsupported);
  EXPECT_EQ(reason(put(v4, 12, 0, 1)), Reason::kUnsupported);  // vendor
  EXPECT_EQ(reason(put(v5, 48, 4, 2)), Reason::kUnsupported);  // body
  EXPECT_EQ(reason(put(v5, 48, 2, 2)), Reason::kMalformed);
  EXPECT_EQ(reason(put(v5, 48, 1, 2)), Reason::kMalformed);
  EXPECT_EQ(reason(put(v3, 48 + 20, 1, 1)), Reason::kMalformed);  // reserved
  // Each length field, up, down and out.
  const size_t data4 = 48 + 584;
  const size_t certification = data4 + 4 + 128;
  const size_t authentication = certification + 6 + 384 + 64;
  const size_t chain = authentication + 2 + 32;
  const struct {
    const Bytes& quote;
    size_t offset;
    size_t size_bytes;
  } lengths[] = {{v5, 50, 4},
                 {v4, data4, 4},
                 {v4, certification + 2, 4},
                 {v4, authentication, 2},
                 {v4, chain + 2, 4},
                 {v3, 48 + 384, 4},
                 {v3, 48 + 384 + 4 + 128 + 384 + 64, 2},
                 {v3, 48 + 384 + 4 + 128 + 384 + 64 + 2 + 32 + 2, 4}};
  int executed = 0;
  for (const auto& c : lengths) {
    uint64_t value = 0;
    for (size_t i = c.size_bytes; i-- > 0;) value = value << 8 | c.quote[c.offset + i];
    for (const uint64_t other : {value - 1, value + 1, uint64_t{0}, uint64_t{0xffffffff}}) {
      const Bytes changed = put(c.quote, c.offset, other, c.size_bytes);
      EXPECT_THAT(Refused(changed, Platform().Collateral(true)), Not(IsEmpty())) << c.offset;
      EXPECT_TRUE(reason(changed).has_value()) << c.offset;
      ++executed;
    }
  }
  EXPECT_EQ(executed, 32);
  EXPECT_EQ(reason(put(v4, certification, 5, 2)), Reason::kUnsupported);
  EXPECT_EQ(reason(put(v4, chain, 4, 2)), Reason::kUnsupported);
}

TEST(IntelQuoteAppraiserTest, WhatATrustDomainMayNotBe) {
  const IntelCollateral collateral = Platform().Collateral(true);
  const auto body_byte = [](size_t offset, uint8_t value) {
    return [offset, value](Bytes& body) { body[offset] = value; };
  };
  const struct {
    const char* what;
    std::function<void(Bytes&)> body;
    std::function<void(IntelExpectations&)> ask;
    Reason reason;
  } cases[] = {
      {"debug", body_byte(120, 1), nullptr, Reason::kPlatformInsecure},
      {"under debug", body_byte(120, 0x80), nullptr, Reason::kPlatformInsecure},
      {"no SEPT_VE_DISABLE", body_byte(123, 0), nullptr, Reason::kPlatformInsecure},
      {"migratable", body_byte(123, 0x30), nullptr, Reason::kPlatformInsecure},
      {"replay", body_byte(583, 0), nullptr, Reason::kNonceMismatch},
      {"challenge", nullptr, [](auto& e) { e.report_data.clear(); }, Reason::kNonceMismatch},
      {"MRTD", body_byte(136, 0), nullptr, Reason::kMeasurementMismatch},
      {"no MRTD", nullptr, [](auto& e) { e.td.mr_td->clear(); }, Reason::kMeasurementUnknown},
      {"MRCONFIGID", nullptr, [](auto& e) { e.td.mr_config_id = {{Bytes(48)}}; },
       Reason::kMeasurementMismatch},
      {"MROWNER", nullptr, [](auto& e) { e.td.mr_owner = {{Bytes(48)}}; },
       Reason::kMeasurementMismatch},
      {"MROWNERCONFIG", nullptr, [](auto& e) { e.td.mr_owner_config = {{Bytes(48)}}; },
       Reason::kMeasurementMismatch},
      {"RTMR 0", nullptr, [](auto& e) { e.td.rtmr[0] = {{Bytes(48)}}; },
       Reason::kMeasurementMismatch},
      {"RTMR 3", nullptr, [](auto& e) { e.td.rtmr[3] = {{Bytes(48)}}; },
       Reason::kMeasurementMismatch},
      {"MRSEAM", nullptr, [](auto& e) { e.td.mr_seam = {{Bytes(48)}}; },
       Reason::kMeasurementMismatch},
      {"XFAM", nullptr, [](auto& e) { e.td.xfam = {{Bytes(8)}}; }, Reason::kMeasurementMismatch},
      {"TDX", nullptr, [](auto& e) { e.accept_tdx = false; }, Reason::kUnsupported},
      {"module's signer", body_byte(64, 1), nullptr, Reason::kMeasurementMismatch},
      {"module's attributes", body_byte(112, 1), nullptr, Reason::kMeasurementMismatch},
      {"TDX SVN", body_byte(2, 4), nullptr, Reason::kPlatformOutOfDate},
      {"TDX module SVN", body_byte(0, 2), nullptr, Reason::kPlatformOutOfDate},
      {"TDX SVN below all", body_byte(2, 3), nullptr, Reason::kPlatformOutOfDate},
      {"evaluation number", nullptr, [](auto& e) { e.min_tcb_evaluation_data_number = 18; },
       Reason::kPlatformOutOfDate},
      {"status", nullptr, [](auto& e) { e.accepted_statuses = {}; }, Reason::kPlatformOutOfDate},
  };
  int executed = 0;
  for (const auto& c : cases) {
    IntelExpectations expectations = Expectations();
    if (c.ask) c.ask(expectations);
    EXPECT_THAT(Refused(Platform().Quote({.body = c.body}), collateral, expectations),
                ::testing::AllOf(Not(IsEmpty()), ::testing::Each(c.reason)))
        << c.what;
    ++executed;
  }
  EXPECT_EQ(executed, 23);
  IntelExpectations lenient = Expectations();
  lenient.accepted_statuses.insert(IntelTcbStatus::kOutOfDate);
  lenient.td.attributes_required = 0;
  EXPECT_THAT(Refused(Platform().Quote({.body =
                                            [](Bytes& body) {
                                              body[2] = 4;
                                              body[123] = 0;
                                            }}),
                      collateral, lenient),
              IsEmpty());
  // Modules after 1.0 are held against their own identity.
  const auto with_svn = [&](uint8_t svn, uint8_t version) {
    return Refused(Platform().Quote({.version = 5,
                                     .tdx_15 = true,
                                     .body =
                                         [=](Bytes& body) {
                                           body[0] = svn;
                                           body[1] = version;
                                         }}),
                   collateral);
  };
  EXPECT_THAT(with_svn(4, 1), IsEmpty());
  EXPECT_THAT(with_svn(2, 1), ElementsAre(Reason::kPlatformOutOfDate));
  EXPECT_THAT(with_svn(1, 1), ElementsAre(Reason::kPlatformOutOfDate));
  EXPECT_THAT(with_svn(3, 2), ElementsAre(Reason::kMeasurementUnknown));
}

TEST(IntelQuoteAppraiserTest, WhatAnEnclaveMayNotBe) {
  const IntelCollateral collateral = Platform().Collateral(false);
  const auto refused = [&](std::function<void(Bytes&)> body,
                           std::function<void(IntelExpectations&)> ask) {
    IntelExpectations expectations = Expectations();
    if (ask) ask(expectations);
    return Refused(Platform().Quote({.version = 3, .tdx = false, .body = std::move(body)}),
                   collateral, expectations);
  };
  const auto flags = [](uint8_t value) { return [=](Bytes& body) { body[48] = value; }; };
  EXPECT_THAT(refused(flags(0x07), nullptr), ElementsAre(Reason::kPlatformInsecure));  // debug
  EXPECT_THAT(refused(flags(0x04), nullptr), ElementsAre(Reason::kPlatformInsecure));
  EXPECT_THAT(refused(flags(0x15), nullptr), ElementsAre(Reason::kPlatformInsecure));
  EXPECT_THAT(refused(flags(0x25), nullptr), ElementsAre(Reason::kPlatformInsecure));
  EXPECT_THAT(refused([](Bytes& b) { b[64] ^= 1; }, nullptr),
              ElementsAre(Reason::kMeasurementMismatch));
  EXPECT_THAT(refused([](Bytes& b) { b[320] ^= 1; }, nullptr), ElementsAre(Reason::kNonceMismatch));
  EXPECT_THAT(refused(nullptr, [](auto& e) { e.sgx.mr_signer = {{Bytes(32)}}; }),
              ElementsAre(Reason::kMeasurementMismatch));
  EXPECT_THAT(refused(nullptr, [](auto& e) { e.sgx.config_id = {{Bytes(64, 1)}}; }),
              ElementsAre(Reason::kMeasurementMismatch));
  EXPECT_THAT(refused(nullptr, [](auto& e) { e.sgx.isv_product_id = 12; }),
              ElementsAre(Reason::kMeasurementMismatch));
  EXPECT_THAT(refused(nullptr, [](auto& e) { e.sgx.min_isv_svn = 5; }),
              ElementsAre(Reason::kPlatformOutOfDate));
  EXPECT_THAT(refused(nullptr, [](auto& e) { e.accept_sgx = false; }),
              ElementsAre(Reason::kUnsupported));
  EXPECT_THAT(refused(nullptr,
                      [](auto& e) {
                        e.sgx.isv_product_id = 11;
                        e.sgx.min_isv_svn = 4;
                        e.sgx.mr_signer = {{Bytes(32, 0x35)}};
                      }),
              IsEmpty());
}

TEST(IntelQuoteAppraiserTest, OnlyIntelsQuotingEnclaveCounts) {
  const IntelCollateral collateral = Platform().Collateral(true);
  const auto refused = [&](std::function<void(Bytes&)> enclave) {
    return Refused(Platform().Quote({.quoting_enclave = std::move(enclave)}), collateral);
  };
  EXPECT_THAT(refused([](Bytes& r) { r[128] ^= 1; }), ElementsAre(Reason::kMeasurementMismatch));
  EXPECT_THAT(refused([](Bytes& r) { r[256] = 1; }), ElementsAre(Reason::kMeasurementMismatch));
  EXPECT_THAT(refused([](Bytes& r) { r[16] = 1; }), ElementsAre(Reason::kMeasurementMismatch));
  EXPECT_THAT(refused([](Bytes& r) { r[48] |= 2; }), ElementsAre(Reason::kMeasurementMismatch));
  EXPECT_THAT(refused([](Bytes& r) { r[258] = 7; }), ElementsAre(Reason::kPlatformOutOfDate));
  EXPECT_THAT(refused([](Bytes& r) { r[258] = 5; }), ElementsAre(Reason::kPlatformOutOfDate));
  // Its report data certifies the attestation key, and is zero beyond the digest.
  EXPECT_THAT(refused([](Bytes& r) { r[320] ^= 1; }), ElementsAre(Reason::kBindingMismatch));
  EXPECT_THAT(refused([](Bytes& r) { r[383] = 1; }), ElementsAre(Reason::kBindingMismatch));
}

TEST(IntelQuoteAppraiserTest, WrongCertificatesAreRefused) {
  IntelPlatform& platform = Platform();
  const IntelCollateral collateral = platform.Collateral(true);
  CertificateOptions good;
  good.common_name = "Intel SGX PCK Certificate";
  good.extensions = {{"1.2.840.113741.1.13.1", testing::SgxExtension()}};
  const auto refused_with = [&](TestCertificate leaf) {
    return Refused(platform.QuoteWith({}, leaf, platform.PckChain(&leaf.certificate)), collateral);
  };
  EXPECT_THAT(refused_with(Issue(platform.pck_ca, good)), IsEmpty());
  EXPECT_THAT(Refused(platform.Quote({}), collateral, Expectations(), kNow,
                      std::string(kIntelRootFingerprint)),
              Contains(Reason::kCertificateInvalid));
  EXPECT_THAT(refused_with(MakeRoot(good)), ElementsAre(Reason::kCertificateInvalid));
  EXPECT_THAT(refused_with(Issue(platform.root, good)), ElementsAre(Reason::kCertificateInvalid));
  CertificateOptions expired = good;
  expired.not_after = kNow - absl::Seconds(1);
  EXPECT_THAT(refused_with(Issue(platform.pck_ca, expired)),
              ElementsAre(Reason::kCertificateInvalid));
  CertificateOptions foreign = good;
  foreign.common_name = "Intel SGX TCB Signing";
  EXPECT_THAT(refused_with(Issue(platform.pck_ca, foreign)),
              ElementsAre(Reason::kCertificateInvalid));
  // Names that only look like the right one when the subject is written out.
  for (const char* name : {"x CN=Intel SGX PCK Certificate", "Intel SGX PCK Certificate,x",
                           "CN=Intel SGX PCK Certificate"}) {
    CertificateOptions other_name = good;
    other_name.common_name = name;
    EXPECT_THAT(refused_with(Issue(platform.pck_ca, other_name)),
                ElementsAre(Reason::kCertificateInvalid))
        << name;
  }
  CertificateOptions plain = good;
  plain.extensions.clear();
  EXPECT_THAT(refused_with(Issue(platform.pck_ca, plain)),
              ElementsAre(Reason::kCertificateInvalid));
  // Another platform's key, certified just as well, did not sign this QE report.
  const TestCertificate other = Issue(platform.pck_ca, good);
  EXPECT_THAT(Refused(platform.QuoteWith({}, platform.pck, platform.PckChain(&other.certificate)),
                      collateral),
              ElementsAre(Reason::kSignatureInvalid));
  // The whole chain under a root of the attacker's, with and without Intel's beside it.
  IntelPlatform fake;
  EXPECT_THAT(Refused(fake.Quote({}), collateral), ElementsAre(Reason::kCertificateInvalid));
  EXPECT_THAT(
      Refused(fake.QuoteWith({}, fake.pck, fake.PckChain() + platform.root.certificate.ToPem()),
              collateral),
      ElementsAre(Reason::kCertificateInvalid));

  // The SGX extension, cut short at every byte and with its fields misnamed.
  const Bytes extension = testing::SgxExtension();
  const auto read = [&](const Bytes& value) {
    CertificateOptions options = good;
    options.extensions[0].second = value;
    return ReadPckPlatform(
        crypto::testing::IssueFor(platform.pck_ca, platform.pck.key.public_key(), options),
        "PCK certificate");
  };
  ASSERT_TRUE(read(extension).ok());
  EXPECT_EQ(ToHex(read(extension)->platform_instance_id.value()), std::string(32, '6'));
  for (size_t i = 0; i < extension.size(); ++i) {
    EXPECT_EQ(
        ReasonOf(read(Bytes(extension.begin(), extension.begin() + static_cast<std::ptrdiff_t>(i)))
                     .status()),
        Reason::kMalformed)
        << i;
  }
  const Bytes fmspc = {0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01, 0x04};
  const auto found = std::ranges::search(extension, fmspc);
  ASSERT_FALSE(found.empty());
  const auto begin = static_cast<size_t>(found.begin() - extension.begin());
  const struct {
    size_t offset;
    uint8_t value;
  } changes[] = {{begin + 9, 0x03},   // the PCEID a second time
                 {begin + 9, 0x08},   // no FMSPC
                 {begin + 9, 0x84},   // a name of several bytes
                 {begin + 8, 0x02},   // not of the SGX extension
                 {begin + 10, 0x0c},  // not octets
                 {begin - 1, 0x09},   // a name that ends early
                 {0, 0x31}};
  for (const auto& change : changes) {
    Bytes changed = extension;
    changed[change.offset] = change.value;
    EXPECT_EQ(ReasonOf(read(changed).status()), Reason::kMalformed)
        << change.offset << " " << int{change.value};
  }
}

TEST(IntelQuoteAppraiserTest, RevocationIsLookedUp) {
  IntelPlatform& platform = Platform();
  const Bytes quote = platform.Quote({});
  const auto refused = [&](const std::function<void(IntelCollateral&)>& change) {
    IntelCollateral collateral = platform.Collateral(true);
    change(collateral);
    return Refused(quote, collateral);
  };
  const auto list = [](const TestCertificate& issuer, const crypto::Certificate& revoked) {
    return MakeRevocationList(issuer, {.revoked = {revoked}});
  };
  EXPECT_THAT(
      refused([&](auto& c) { c.pck_crl = list(platform.pck_ca, platform.pck.certificate); }),
      ElementsAre(Reason::kRevoked));
  EXPECT_THAT(
      refused([&](auto& c) { c.root_crl = list(platform.root, platform.pck_ca.certificate); }),
      ElementsAre(Reason::kRevoked));
  // TCB info and QE identity rest on the signing certificate.
  EXPECT_THAT(
      refused([&](auto& c) { c.root_crl = list(platform.root, platform.tcb_signing.certificate); }),
      ElementsAre(Reason::kRevoked, Reason::kRevoked));
  EXPECT_THAT(refused([](auto& c) { c.pck_crl.clear(); }),
              ElementsAre(Reason::kEvidenceMissing, Reason::kEvidenceMissing));
  EXPECT_THAT(refused([](auto& c) { c.root_crl.clear(); }),
              ::testing::AllOf(::testing::SizeIs(4), ::testing::Each(Reason::kEvidenceMissing)));
  EXPECT_THAT(refused([&](auto& c) {
                c.pck_crl =
                    MakeRevocationList(platform.pck_ca, {.next_update = kNow - absl::Seconds(1)});
              }),
              ElementsAre(Reason::kCertificateInvalid));
  EXPECT_THAT(refused([&](auto& c) { c.pck_crl.back() ^= 1; }), Not(IsEmpty()));
  EXPECT_THAT(refused([&](auto& c) { std::swap(c.pck_crl, c.root_crl); }), IsEmpty());
}

TEST(IntelQuoteAppraiserTest, CollateralIsIntelsCurrentAndOfThisPlatform) {
  IntelPlatform& platform = Platform();
  const Bytes quote = platform.Quote({});
  const IntelCollateral good = platform.Collateral(true);
  const auto with = [&](const std::function<void(IntelCollateral&)>& change, absl::Time at = kNow) {
    IntelCollateral collateral = good;
    change(collateral);
    return Refused(quote, collateral, Expectations(), at);
  };
  const auto with_info = [&](const std::function<void(OrderedJson&)>& change) {
    OrderedJson info = IntelPlatform::TcbInfo(true);
    change(info);
    return with([&](auto& c) { c.tcb_info = platform.Sign("tcbInfo", info); });
  };
  const auto with_identity = [&](const std::function<void(OrderedJson&)>& change) {
    OrderedJson identity = IntelPlatform::QeIdentity(true);
    change(identity);
    return with([&](auto& c) { c.qe_identity = platform.Sign("enclaveIdentity", identity); });
  };
  EXPECT_THAT(with([](auto&) {}), IsEmpty());
  EXPECT_THAT(with([](auto& c) { c.tcb_info.clear(); }), ElementsAre(Reason::kEvidenceMissing));
  EXPECT_THAT(with([](auto& c) { c.qe_identity.clear(); }), ElementsAre(Reason::kEvidenceMissing));
  EXPECT_THAT(with([](auto& c) { c.tcb_info_issuer_chain.clear(); }),
              ElementsAre(Reason::kEvidenceMissing, Reason::kEvidenceMissing));
  // Dates of the collateral (January 2027), its first and last second.
  for (const int64_t seconds : {1'798'848'000, 1'801'267'200}) {  // 2027-01-02, 2027-01-30
    EXPECT_THAT(with([](auto&) {}, absl::FromUnixSeconds(seconds)), IsEmpty()) << seconds;
  }
  EXPECT_THAT(with([](auto&) {}, absl::FromUnixSeconds(1'798'847'999)),
              ElementsAre(Reason::kCertificateInvalid));
  EXPECT_THAT(with([](auto&) {}, absl::FromUnixSeconds(1'801'267'201)),
              ElementsAre(Reason::kCertificateInvalid));
  // Of another platform or TEE.
  EXPECT_THAT(with_info([](auto& i) { i["fmspc"] = "00906ED50000"; }),
              ElementsAre(Reason::kBindingMismatch));
  EXPECT_THAT(with_info([](auto& i) { i["pceId"] = "0100"; }),
              ElementsAre(Reason::kBindingMismatch));
  EXPECT_THAT(with([&](auto& c) { c.tcb_info = platform.Collateral(false).tcb_info; }),
              ElementsAre(Reason::kBindingMismatch));
  EXPECT_THAT(with([&](auto& c) { c.qe_identity = platform.Collateral(false).qe_identity; }),
              ElementsAre(Reason::kBindingMismatch, Reason::kMeasurementMismatch));
  // Intel's verdicts.
  for (const char* status :
       {"SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
        "OutOfDate", "OutOfDateConfigurationNeeded"}) {
    EXPECT_THAT(with_info([&](auto& i) { i["tcbLevels"][0]["tcbStatus"] = status; }),
                ElementsAre(Reason::kPlatformOutOfDate))
        << status;
  }
  EXPECT_THAT(with_info([](auto& i) { i["tcbLevels"][0]["tcbStatus"] = "Revoked"; }),
              ElementsAre(Reason::kRevoked));
  EXPECT_THAT(with_identity([](auto& i) { i["tcbLevels"][0]["tcbStatus"] = "Revoked"; }),
              ElementsAre(Reason::kRevoked));
  EXPECT_THAT(with_info([](auto& i) { i["tcbLevels"][0]["tcbStatus"] = "Fine"; }),
              ElementsAre(Reason::kUnsupported));
  for (int component = 0; component < 3; ++component) {
    EXPECT_THAT(with_info([&](auto& i) {
                  i["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][component]["svn"] = 8;
                }),
                ElementsAre(Reason::kPlatformOutOfDate));
  }
  EXPECT_THAT(with_info([](auto& i) { i["tcbLevels"][0]["tcb"]["pcesvn"] = 14; }),
              ElementsAre(Reason::kPlatformOutOfDate));
  EXPECT_THAT(with_info([](auto& i) { i["tcbLevels"].clear(); }),
              ElementsAre(Reason::kPlatformOutOfDate));
  EXPECT_THAT(with_info([](auto& i) { i.erase("tdxModule"); }),
              ElementsAre(Reason::kMeasurementUnknown));
  IntelExpectations all = Expectations();
  all.accepted_statuses.insert(IntelTcbStatus::kRevoked);
  OrderedJson revoked = IntelPlatform::TcbInfo(true);
  revoked["tcbLevels"][0]["tcbStatus"] = "Revoked";
  IntelCollateral revoked_collateral = good;
  revoked_collateral.tcb_info = platform.Sign("tcbInfo", revoked);
  EXPECT_THAT(Refused(quote, revoked_collateral, all), ElementsAre(Reason::kRevoked));
  // Form.
  for (const char* member : {"version", "id", "issueDate", "nextUpdate", "fmspc", "pceId",
                             "tcbType", "tcbEvaluationDataNumber", "tcbLevels"}) {
    EXPECT_THAT(with_info([&](auto& i) { i.erase(member); }), ElementsAre(Reason::kMalformed))
        << member;
  }
  for (const char* member :
       {"version", "id", "issueDate", "nextUpdate", "miscselect", "miscselectMask", "attributes",
        "attributesMask", "mrsigner", "isvprodid", "tcbEvaluationDataNumber", "tcbLevels"}) {
    EXPECT_THAT(with_identity([&](auto& i) { i.erase(member); }), ElementsAre(Reason::kMalformed))
        << member;
  }
  EXPECT_THAT(with_info([](auto& i) { i["version"] = 4; }), ElementsAre(Reason::kUnsupported));
  EXPECT_THAT(with_info([](auto& i) { i["tcbType"] = 1; }), ElementsAre(Reason::kUnsupported));
  EXPECT_THAT(with_info([](auto& i) { i["id"] = "SEV"; }), ElementsAre(Reason::kUnsupported));
  EXPECT_THAT(with_info([](auto& i) { i["issueDate"] = "2027-01-01"; }),
              ElementsAre(Reason::kMalformed));
  EXPECT_THAT(with_info([](auto& i) { i["tcbLevels"][0]["tcb"]["sgxtcbcomponents"].erase(0); }),
              ElementsAre(Reason::kMalformed));
  EXPECT_THAT(with_info([](auto& i) {
                const OrderedJson level = i["tcbLevels"][0];
                for (int n = 0; n < 255; ++n) i["tcbLevels"].push_back(level);
              }),
              ElementsAre(Reason::kLimitExceeded));
  // Who signed: not Intel's TCB signing key.
  const OrderedJson info = IntelPlatform::TcbInfo(true);
  EXPECT_THAT(with([&](auto& c) { c.tcb_info = platform.Sign("tcbInfo", info, &platform.pck); }),
              ElementsAre(Reason::kSignatureInvalid));
  EXPECT_THAT(with([&](auto& c) {
                c.tcb_info = platform.Sign("tcbInfo", info, &platform.pck);
                c.tcb_info_issuer_chain = Text(platform.PckChain());
                c.qe_identity_issuer_chain = good.tcb_info_issuer_chain;
              }),
              ElementsAre(Reason::kCertificateInvalid));
  // A certificate of the right name by a CA that is for PCKs only.
  CertificateOptions named;
  named.common_name = "Intel SGX TCB Signing";
  TestCertificate by_pck_ca = Issue(platform.pck_ca, named);
  EXPECT_THAT(with([&](auto& c) {
                c.tcb_info = platform.Sign("tcbInfo", info, &by_pck_ca);
                c.tcb_info_issuer_chain = Text(platform.PckChain(&by_pck_ca.certificate));
                c.qe_identity_issuer_chain = good.tcb_info_issuer_chain;
              }),
              ElementsAre(Reason::kCertificateInvalid));
  IntelPlatform fake;
  EXPECT_THAT(with([&](auto& c) {
                c.tcb_info = fake.Sign("tcbInfo", info);
                c.tcb_info_issuer_chain =
                    Text(ChainPem({fake.tcb_signing.certificate, fake.root.certificate}));
                c.qe_identity_issuer_chain = good.tcb_info_issuer_chain;
              }),
              ElementsAre(Reason::kCertificateInvalid));
}

// What is signed is the text between the member's name and the signature, to the byte.
TEST(IntelCollateralTest, EveryByteOfTheDocumentCounts) {
  IntelPlatform& platform = Platform();
  const Bytes quote = platform.Quote({});
  const IntelCollateral good = platform.Collateral(true);
  for (size_t i = 0; i < good.tcb_info.size(); ++i) {
    // The middle is alike under the signature.
    if (i > 20 && i + 160 < good.tcb_info.size() && i % 31 != 0) continue;
    IntelCollateral changed = good;
    changed.tcb_info[i] ^= 0x01;
    ASSERT_THAT(Refused(quote, changed), Not(IsEmpty())) << i;
  }
  for (size_t i = 0; i < good.qe_identity.size(); ++i) {
    IntelCollateral changed = good;
    changed.qe_identity[i] ^= 0x01;
    ASSERT_THAT(Refused(quote, changed), Not(IsEmpty())) << i;
    ASSERT_FALSE(
        SplitSignedCollateral(ByteSpan(good.qe_identity).first(i), "enclaveIdentity", "i").ok());
  }
  const auto split = [](const std::string& text) {
    return SplitSignedCollateral(AsBytes(text), "tcbInfo", "TCB info");
  };
  const std::string hex(128, 'a');
  const auto read = split("\n{ \"signature\" : \"" + hex +
                          "\",\"tcbInfo\" : {\"a\":\"}\\\"{\",\"tcbInfo\":[{ }]} }\n");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(AsText(read->body), "{\"a\":\"}\\\"{\",\"tcbInfo\":[{ }]}");
  for (const std::string& text :
       std::vector<std::string>{"{}", "{\"tcbInfo\":{}}", "{\"tcbInfo\":{},\"signature\":\"\"}",
                                "{\"tcbInfo\":1,\"signature\":\"" + hex + "\"}",
                                "{\"tcbInfo\":{},\"signature\":\"" + hex + "aa\"}",
                                "{\"tcbInfo\":{},\"signature\":\"" + hex + "\",\"more\":1}",
                                "{\"tcbInfo\":{},\"tcbInfo\":{},\"signature\":\"" + hex + "\"}",
                                "{\"tcb\\u0049nfo\":{},\"signature\":\"" + hex + "\"}",
                                "{\"tcbInfo\":{},\"signature\":\"" + hex + "\"}x"}) {
    EXPECT_EQ(ReasonOf(split(text).status()), Reason::kMalformed) << text;
  }
}

struct Vectors {
  std::string folder;
  Bytes Read(const std::string& name) const { return Text(ReadText(folder + name)); }
};

// Real quotes and collateral. Intel's TCB signing chain is not among them, so no document that it
// signed can be believed: the verdict is a refusal that names it, and everything else is checked.
TEST(IntelQuoteAppraiserTest, RealQuotes) {
  const auto directory = VectorsDirectory();
  if (!directory.has_value()) GTEST_SKIP() << "no ../shared/vectors: no real quote is read";
  const Vectors vectors = {*directory + "/attest/"};
  const absl::Time at = absl::FromCivil(absl::CivilDay(2023, 6, 25), absl::UTCTimeZone());
  int executed = 0;
  {
    Bytes quote = vectors.Read("tdx/tdx_prod_quote_SPR_E4.dat");
    const std::string root(kIntelRootFingerprint);
    IntelCollateral collateral = {.tcb_info = vectors.Read("tdx/sample_tcbInfo_response"),
                                  .tcb_info_issuer_chain = {},
                                  .qe_identity = vectors.Read("tdx/sample_qeIdentity_response"),
                                  .qe_identity_issuer_chain = {},
                                  .root_crl = vectors.Read("tdx/rootcrl.der"),
                                  .pck_crl = vectors.Read("tdx/pckcrl")};
    // "extra bytes(only for testing purpose)" follow the quote.
    EXPECT_THAT(Refused(quote, collateral, {}, at, root), ElementsAre(Reason::kMalformed));
    quote.resize(4935);
    const auto parsed = ParseIntelQuote(quote, "quote");
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    IntelExpectations expectations;
    const auto& body = std::get<TdReportBody>(parsed->body);
    expectations.report_data.assign(body.report_data.begin(), body.report_data.end());
    // Launched without SEPT_VE_DISABLE; TCB info and QE identity lack their issuer.
    EXPECT_THAT(
        Refused(quote, collateral, expectations, at, root),
        ElementsAre(Reason::kEvidenceMissing, Reason::kEvidenceMissing, Reason::kPlatformInsecure));
    // The lists had expired by then.
    EXPECT_THAT(Refused(quote, collateral, expectations, at + absl::Hours(24 * 30), root),
                ElementsAre(Reason::kCertificateInvalid, Reason::kEvidenceMissing,
                            Reason::kEvidenceMissing, Reason::kPlatformInsecure));
    for (size_t i = 48 + 584 + 4; i < 48 + 584 + 4 + 64; ++i) {
      Bytes changed = quote;
      changed[i] ^= 0x10;
      ASSERT_THAT(Refused(changed, collateral, expectations, at, root),
                  Contains(Reason::kSignatureInvalid))
          << i;
    }
    // TCB info is of this platform, which lies below every level of it.
    const auto split = SplitSignedCollateral(collateral.tcb_info, "tcbInfo", "TCB info");
    ASSERT_TRUE(split.ok()) << split.status();
    const auto info = ParseIntelTcbInfo(split->body, "TCB info");
    ASSERT_TRUE(info.ok()) << info.status();
    const auto platform = ReadPckPlatform(parsed->certificates[0], "PCK");
    ASSERT_TRUE(platform.ok()) << platform.status();
    EXPECT_EQ(info->fmspc, platform->fmspc);
    EXPECT_EQ(info->levels.size(), 2u);
    EXPECT_EQ(platform->pce_svn, 11);
    EXPECT_LT(platform->tcb_component_svns[0], info->levels[1].sgx_components[0]);
    const auto identity_split =
        SplitSignedCollateral(collateral.qe_identity, "enclaveIdentity", "QE identity");
    ASSERT_TRUE(identity_split.ok()) << identity_split.status();
    const auto identity = ParseIntelEnclaveIdentity(identity_split->body, "QE identity");
    ASSERT_TRUE(identity.ok()) << identity.status();
    EXPECT_EQ(identity->mr_signer, parsed->quoting_enclave.mr_signer);
    ++executed;
  }
  const absl::Time later = absl::FromCivil(absl::CivilDay(2025, 1, 1), absl::UTCTimeZone());
  for (const char* name : {"tdx/cos-113-tdx-quote.dat", "sgx/quote_v3.dat"}) {
    const Bytes quote = vectors.Read(name);
    const auto parsed = ParseIntelQuote(quote, name);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    IntelExpectations expectations;
    if (parsed->is_tdx()) {
      expectations.report_data = vectors.Read("tdx/nonce.dat");
    } else {
      expectations.report_data = Text("test");
      expectations.report_data.resize(64);
    }
    CheckList checks;
    EXPECT_FALSE(IntelQuoteAppraiser::Appraise(quote, {}, expectations, later, checks).ok());
    std::vector<std::string> failed;
    for (const Check& check : checks.checks()) {
      if (check.refusal.has_value()) failed.push_back(check.name);
    }
    // Chain, both signatures, report data and attributes hold; the enclave runs under debug.
    std::vector<std::string> expected = {"root CA CRL", "PCK CA CRL", "PCK revocation",
                                         "TCB info signature", "QE identity signature"};
    if (!parsed->is_tdx()) expected.push_back("debug");
    EXPECT_EQ(failed, expected) << name;
    ++executed;
  }
  EXPECT_EQ(executed, 3);
}

}  // namespace
}  // namespace pavise::evidence
