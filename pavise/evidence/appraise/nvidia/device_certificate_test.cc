#include "pavise/evidence/appraise/nvidia/device_certificate.h"

#include <string>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_certificates.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

constexpr const char* kComposite = "2.23.133.5.4.1";
constexpr const char* kTcbInfo = "2.23.133.5.4.1.1";

crypto::Certificate With(const std::string& oid, std::string_view hex) {
  crypto::testing::CertificateOptions options;
  options.extensions = {{oid, FromHex(hex, "test").value()}};
  return crypto::testing::MakeRoot(options).certificate;
}

std::string Repeat(std::string_view hex, size_t count) {
  std::string out;
  while (count-- > 0) out += hex;
  return out;
}

// A firmware ID of 48 bytes ab, and the two structures that hold it.
const std::string kFirmwareId =
    "303d"
    "0609608648016503040202"
    "0430" +
    Repeat("ab", 48);
const std::string kCompositeDer =
    "3044"
    "020101"
    "3000" +
    kFirmwareId;
const std::string kTcbInfoDer =
    "3045"
    "80024e56"
    "a63f" +
    kFirmwareId;

TEST(FirmwareIdTest, IsReadFromBothStructures) {
  EXPECT_EQ(FirmwareIdOf(With(kComposite, kCompositeDer)).value(), Bytes(48, 0xab));
  EXPECT_EQ(FirmwareIdOf(With(kTcbInfo, kTcbInfoDer)).value(), Bytes(48, 0xab));
  EXPECT_EQ(FirmwareIdOf(With("1.2.3.4", kTcbInfoDer)).value(), std::nullopt);
}

TEST(FirmwareIdTest, RefusesOtherStructures) {
  const auto with = [](std::string text, std::string_view from, std::string_view to) {
    const size_t at = text.find(from);
    EXPECT_NE(at, text.npos) << from;
    return text.replace(at, from.size(), to);
  };
  const std::pair<const char*, std::string> cases[] = {
      {kComposite, kCompositeDer + "00"},                     // bytes follow
      {kComposite, with(kCompositeDer, "3044", "308144")},    // length in a longer form
      {kComposite, with(kCompositeDer, "3044", "3080")},      // indefinite length
      {kComposite, with(kCompositeDer, "3044", "3144")},      // a SET
      {kComposite, with(kCompositeDer, "3044", "3045")},      // a byte too many is claimed
      {kComposite, with(kCompositeDer, "020101", "040101")},  // no version
      {kComposite, with(kCompositeDer, "65030402020430", "65030402010430")},  // SHA-256
      {kComposite, with(kCompositeDer, "0430", "042f")},  // 47 bytes, one left over
      {kComposite, kTcbInfoDer},
      {kTcbInfo, kCompositeDer},
      {kTcbInfo, with(kTcbInfoDer, "a63f", "a53f")},  // no list of firmware IDs
      {kTcbInfo, "3002a600"},                         // an empty one
      {kTcbInfo, "3000"},
      {kTcbInfo, "30"},
      {kTcbInfo, "3003bf8101"},  // a tag of several bytes
  };
  size_t executed = 0;
  for (const auto& [oid, hex] : cases) {
    EXPECT_EQ(ReasonOf(FirmwareIdOf(With(oid, hex)).status()), Reason::kMalformed) << hex;
    ++executed;
  }
  EXPECT_EQ(executed, 15u);
  for (size_t size = 2; size < kTcbInfoDer.size(); size += 2) {
    EXPECT_FALSE(FirmwareIdOf(With(kTcbInfo, kTcbInfoDer.substr(0, size))).ok()) << size;
  }
}

TEST(GpuIdentityTest, IsTheDeviceInfoNameAndNoOther) {
  const std::string oid =
      "060a2b0601040183"
      "1c821201";
  const auto named = [](const std::string& names) {
    return GpuIdentityOf(With(
        "2.5.29.17", StrCat("30", ToHex(Bytes{static_cast<uint8_t>(names.size() / 2)}), names)));
  };
  const std::string text = "0c0e" + ToHex(AsBytes("NVIDIA:GH100:7"));
  const std::string device = "a01e" + oid + "a010" + text;
  const std::string dns = "8203" + ToHex(AsBytes("a.b"));
  const std::string other =
      "a00a"
      "06022a03"
      "a004"
      "0c027878";
  const auto identity = named(dns + other + device);
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_EQ(identity->product, "GH100");
  EXPECT_EQ(identity->serial, "7");
  EXPECT_EQ(ReasonOf(named(dns + other).status()), Reason::kEvidenceMissing);
  EXPECT_EQ(ReasonOf(GpuIdentityOf(With("1.2.3", "0500")).status()), Reason::kEvidenceMissing);
  EXPECT_EQ(ReasonOf(named("a01e" + oid +
                           "a010"
                           "160e" +
                           text.substr(4))
                         .status()),
            Reason::kMalformed);  // an IA5String
  EXPECT_EQ(ReasonOf(named("a020" + oid + "a010" + text + "0500").status()), Reason::kMalformed);
}

}  // namespace
}  // namespace pavise::evidence
