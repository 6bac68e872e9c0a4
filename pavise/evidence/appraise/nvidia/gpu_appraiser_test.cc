#include "pavise/evidence/appraise/nvidia/gpu_appraiser.h"

#include <algorithm>
#include <functional>
#include <string>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/appraise/nvidia/device_certificate.h"
#include "pavise/evidence/appraise/nvidia/spdm_report.h"
#include "pavise/evidence/appraise/nvidia/testing/test_gpu.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using crypto::testing::ReadText;
using crypto::testing::VectorsDirectory;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::FirmwareIdForm;
using testing::GpuOptions;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kTestTime;
using testing::MakeTestGpu;
using testing::MakeTestRimPublisher;
using ::testing::Not;
using testing::ReportOptions;
using testing::RimOptions;
using ::testing::SizeIs;
using testing::TestGpu;
using testing::TestMeasurements;
using testing::TestRimPublisher;
using testing::VbiosRimOptions;

const TestRimPublisher& Publisher() {
  static const TestRimPublisher* const publisher = new TestRimPublisher(MakeTestRimPublisher());
  return *publisher;
}
TestGpu& SharedGpu() {
  static TestGpu* const gpu = new TestGpu(MakeTestGpu());
  return *gpu;
}

const std::string& DriverRim() {
  static const std::string* const rim = new std::string(Publisher().Rim());
  return *rim;
}
const std::string& VbiosRim() {
  static const std::string* const rim = new std::string(Publisher().Rim(VbiosRimOptions()));
  return *rim;
}

// One appraisal of test evidence, of which every part can be another.
struct Scene {
  TestGpu* gpu = &SharedGpu();
  std::vector<crypto::Certificate> certificates = SharedGpu().certificates;
  ReportOptions report_options;
  std::string driver_rim = DriverRim();
  std::string vbios_rim = VbiosRim();
  Digest32 nonce{};
  absl::Time at = kTestTime;
  std::string device_root = SharedGpu().root_fingerprint;
  std::function<void(Bytes&)> change_report = [](Bytes&) {};
  CheckList checks;

  void Use(TestGpu& other) {
    gpu = &other;
    certificates = other.certificates;
    device_root = other.root_fingerprint;
  }

  absl::StatusOr<VerifiedGpu> Appraise() {
    Bytes report = gpu->Report(report_options);
    change_report(report);
    return GpuAppraiser::Appraise(
        {report, certificates}, {AsBytes(driver_rim), AsBytes(vbios_rim)}, nonce, at,
        {.device_root = device_root, .rim_root = Publisher().root_fingerprint()}, checks);
  }

  // "check: reason" of each finding; the appraisal must refuse.
  std::vector<std::string> Findings() {
    const absl::Status status = Appraise().status();
    EXPECT_EQ(ExitCodeOf(status), 1) << status;
    std::vector<std::string> findings;
    for (const Check& check : checks.checks()) {
      if (!check.refusal.has_value()) continue;
      findings.push_back(StrCat(check.name, ": ", ReasonName(check.refusal->reason)));
      EXPECT_NE(check.refusal->item, "");
      EXPECT_NE(check.refusal->detail, "");
    }
    return findings;
  }
};

TEST(GpuAppraiserTest, AcceptsAMatchingGpu) {
  Scene scene;
  scene.report_options.nonce.fill(9);
  scene.nonce.fill(9);
  const VerifiedGpu gpu = scene.Appraise().value();
  EXPECT_EQ(gpu->architecture, GpuArchitecture::kHopper);
  EXPECT_EQ(gpu->product, "GH100");
  EXPECT_EQ(gpu->serial, "48B02D0000000001");
  EXPECT_EQ(gpu->device_certificate, scene.certificates[0].Fingerprint());
  EXPECT_EQ(gpu->nonce, scene.nonce);
  EXPECT_EQ(gpu->driver_version, "550.144.03");
  EXPECT_EQ(gpu->vbios_version, "96.00.5e.00.01");
  EXPECT_EQ(gpu->board_id, "b1030000");
  EXPECT_EQ(gpu->chip_sku, "882");
  EXPECT_EQ(gpu->project, "");
  EXPECT_EQ(gpu->firmware_id, Bytes(48, 0xf1));
  EXPECT_EQ(gpu->protected_pcie, std::nullopt);
  EXPECT_EQ(gpu->driver_rim, "tag-550.144.03");
  EXPECT_EQ(gpu->vbios_rim, "tag-96.00.5E.00.01");
  EXPECT_THAT(gpu->matched, ElementsAre(1, 2, 3, 4, 5, 35));
  EXPECT_THAT(gpu->uncovered, SizeIs(58));
  EXPECT_TRUE(scene.checks.all_passed());
  EXPECT_THAT(scene.checks.checks(), SizeIs(10));
}

TEST(GpuAppraiserTest, AcceptsBlackwellAndATrailingByte) {
  TestGpu gpu = MakeTestGpu({.device_name = "NVIDIA:GB100:1", .form = FirmwareIdForm::kTcbInfo});
  Scene scene;
  scene.Use(gpu);
  scene.report_options.more_fields = {{21, {0xaa}}, {33, {7, 7}}, {34, {0, 0}}};
  scene.change_report = [](Bytes& report) { report.push_back(0x00); };
  scene.driver_rim = Publisher().Rim({.product = "GB100"});
  RimOptions vbios = VbiosRimOptions();
  vbios.product = "GB100";
  scene.vbios_rim = Publisher().Rim(vbios);
  const VerifiedGpu claims = scene.Appraise().value();
  EXPECT_EQ(claims->architecture, GpuArchitecture::kBlackwell);
  EXPECT_EQ(claims->protected_pcie, true);
}

TEST(GpuAppraiserTest, RefusesAReplayedNonce) {
  Scene scene;
  scene.nonce.fill(1);
  EXPECT_THAT(scene.Findings(), ElementsAre("GPU nonce: nonce-mismatch"));
}

TEST(GpuAppraiserTest, EveryByteOfTheSignatureCounts) {
  const Bytes good = SharedGpu().Report({});
  size_t refused = 0;
  for (size_t i = good.size() - 96; i < good.size(); ++i) {
    Scene scene;
    scene.driver_rim = scene.vbios_rim = "";  // their absence is the same finding each time
    scene.change_report = [&](Bytes& report) {
      report = good;
      report[i] ^= 1;
    };
    const std::vector<std::string> findings = scene.Findings();
    refused += std::count(findings.begin(), findings.end(), "GPU signature: signature-invalid");
  }
  EXPECT_EQ(refused, 96u);
}

TEST(GpuAppraiserTest, EveryPartOfTheReportIsSigned) {
  const Bytes good = SharedGpu().Report({});
  size_t accepted = 0, executed = 0;
  for (size_t i = 0; i < good.size() - 96; i += 37) {
    Scene scene;
    scene.driver_rim = scene.vbios_rim = "";
    scene.change_report = [&](Bytes& report) {
      report = good;
      report[i] ^= 1;
    };
    // Where the change leaves the form whole, the signature finds it.
    (void)scene.Appraise().ok();
    const auto& checks = scene.checks.checks();
    accepted += std::none_of(checks.begin(), checks.end(), [](const Check& check) {
      return check.refusal.has_value() &&
             (check.name == "GPU signature" || check.name == "GPU report" ||
              check.name == "GPU versions");
    });
    ++executed;
  }
  EXPECT_EQ(accepted, 0u);
  EXPECT_GT(executed, 90u);
}

TEST(GpuAppraiserTest, RefusesCertificatesThatAreNotNvidias) {
  const auto findings = [](const std::function<void(Scene&)>& change) {
    Scene scene;
    change(scene);
    return scene.Findings();
  };
  const char* const kChain = "GPU certificate chain: certificate-invalid";
  EXPECT_THAT(findings([](Scene& s) { s.device_root = kNvidiaDeviceRoot; }), ElementsAre(kChain));
  EXPECT_THAT(findings([](Scene& s) { s.at = absl::FromUnixSeconds(2'100'000'000); }),
              Contains(kChain));
  EXPECT_THAT(findings([](Scene& s) { s.at = absl::FromUnixSeconds(1'500'000'000); }),
              Contains(kChain));
  EXPECT_THAT(findings([](Scene& s) { s.certificates.erase(s.certificates.begin() + 2); }),
              ElementsAre(kChain));
  EXPECT_THAT(findings([](Scene& s) { s.certificates.pop_back(); }), ElementsAre(kChain));
  EXPECT_THAT(findings([](Scene& s) { s.certificates.clear(); }),
              ElementsAre("GPU certificate chain: evidence-missing"));
  // Another GPU's chain, under the same kind of root: the root is not the pinned one, and the key
  // did not sign.
  TestGpu other = MakeTestGpu();
  EXPECT_THAT(findings([&](Scene& s) { s.certificates = other.certificates; }),
              ElementsAre(kChain, "GPU signature: signature-invalid"));
  EXPECT_THAT(findings([&](Scene& s) {
                s.certificates = other.certificates;
                s.device_root = other.root_fingerprint;
              }),
              ElementsAre("GPU signature: signature-invalid"));
  // A leaf that leads to another GPU's root through nobody.
  EXPECT_THAT(findings([&](Scene& s) {
                s.certificates = other.certificates;
                s.certificates[0] = SharedGpu().certificates[0];
                s.device_root = other.root_fingerprint;
              }),
              ElementsAre(kChain));
  // A shorter chain, one with a leaf that may not sign, one that is self-signed.
  TestGpu four = MakeTestGpu({.chain_length = 4});
  EXPECT_THAT(findings([&](Scene& s) { s.Use(four); }), ElementsAre(kChain));
  GpuOptions agreement;
  agreement.leaf.key_usage = "critical,keyAgreement";
  TestGpu no_signing = MakeTestGpu(agreement);
  EXPECT_THAT(findings([&](Scene& s) { s.Use(no_signing); }), ElementsAre(kChain));
  EXPECT_THAT(findings([](Scene& s) {
                s.certificates = {Publisher().root.certificate};
                s.device_root = Publisher().root_fingerprint();
              }),
              Contains(kChain));
}

TEST(GpuAppraiserTest, RefusesOtherDevices) {
  TestGpu ampere = MakeTestGpu({.device_name = "NVIDIA:GA100:1"});
  Scene scene;
  scene.Use(ampere);
  EXPECT_THAT(scene.Findings(),
              ElementsAre("GPU device: unsupported", "driver RIM: measurement-mismatch",
                          "VBIOS RIM: measurement-mismatch"));
  for (const char* name : {"AMD:GH100:1", "NVIDIA:GH100", "NVIDIA:GH100:", "NVIDIA::1", "",
                           "NVIDIA:GH100:1:2", "NVIDIA:GH100:\x1b[2J"}) {
    TestGpu other = MakeTestGpu({.device_name = name});
    Scene named;
    named.Use(other);
    EXPECT_THAT(named.Findings(), ElementsAre("GPU device: malformed")) << name;
  }
}

TEST(GpuAppraiserTest, TheFirmwareIsTheCertifiedOne) {
  Scene old_driver;
  old_driver.report_options.firmware_id = std::nullopt;
  EXPECT_EQ(old_driver.Appraise().value()->firmware_id, std::nullopt);
  Scene other;
  other.report_options.firmware_id = Bytes(48, 0xf2);
  EXPECT_THAT(other.Findings(), ElementsAre("GPU firmware ID: binding-mismatch"));
  Scene shorter;
  shorter.report_options.firmware_id = Bytes(47, 0xf1);
  EXPECT_THAT(shorter.Findings(), ElementsAre("GPU firmware ID: binding-mismatch"));
  TestGpu none = MakeTestGpu({.form = FirmwareIdForm::kNone});
  Scene uncertified;
  uncertified.Use(none);
  EXPECT_THAT(uncertified.Findings(), ElementsAre("GPU firmware ID: binding-mismatch"));
  TestGpu both = MakeTestGpu({.form = FirmwareIdForm::kBoth});
  Scene ambiguous;
  ambiguous.Use(both);
  EXPECT_THAT(ambiguous.Findings(), ElementsAre("GPU firmware ID: malformed"));
}

TEST(GpuAppraiserTest, RefusesManifestsThatAreMissingWrongOrUnsigned) {
  const auto findings = [](const std::function<void(Scene&)>& change) {
    Scene scene;
    change(scene);
    return scene.Findings();
  };
  EXPECT_THAT(findings([](Scene& s) { s.driver_rim = ""; }),
              ElementsAre("driver RIM: evidence-missing"));
  EXPECT_THAT(findings([](Scene& s) { s.vbios_rim = ""; }),
              ElementsAre("VBIOS RIM: evidence-missing"));
  EXPECT_THAT(findings([](Scene& s) { std::swap(s.driver_rim, s.vbios_rim); }),
              ElementsAre("driver RIM: measurement-mismatch", "VBIOS RIM: measurement-mismatch"));
  EXPECT_THAT(findings([](Scene& s) { s.driver_rim = Publisher().Rim({.version = "550.144.04"}); }),
              ElementsAre("driver RIM: measurement-mismatch"));
  // Of this version, and for another chip: NVIDIA publishes one for each.
  for (const char* product : {"GB100", "GH200", "GH10", ""}) {
    EXPECT_THAT(findings([&](Scene& s) { s.driver_rim = Publisher().Rim({.product = product}); }),
                ElementsAre("driver RIM: measurement-mismatch"))
        << product;
  }
  EXPECT_THAT(findings([](Scene& s) {
                RimOptions options = VbiosRimOptions();
                options.product = "GB100";
                s.vbios_rim = Publisher().Rim(options);
              }),
              ElementsAre("VBIOS RIM: measurement-mismatch"));
  EXPECT_THAT(findings([](Scene& s) { s.driver_rim[s.driver_rim.find("_1\"") + 1] = '7'; }),
              ElementsAre("driver RIM: signature-invalid"));
  EXPECT_THAT(findings([](Scene& s) { s.driver_rim = MakeTestRimPublisher().Rim(); }),
              ElementsAre("driver RIM: certificate-invalid"));
  EXPECT_THAT(findings([](Scene& s) { s.driver_rim = "no XML"; }),
              ElementsAre("driver RIM: malformed"));
}

TEST(GpuAppraiserTest, EveryGoldenValueMustBeMeasured) {
  for (const uint32_t index : {1u, 2u, 3u, 4u, 5u, 35u}) {
    Scene scene;
    scene.report_options.measurements = TestMeasurements();
    scene.report_options.measurements[index][47] ^= 1;
    EXPECT_THAT(scene.Findings(), ElementsAre("GPU measurements: measurement-mismatch"));
    EXPECT_THAT(RefusalsOf(scene.checks.Verdict())[0].item, HasSubstr(StrCat(" ", index, " ")));
  }
  // What no active value covers, NVIDIA's verifier does not look at.
  for (const uint32_t index : {0u, 6u, 34u, 63u}) {
    Scene scene;
    scene.report_options.measurements = TestMeasurements();
    scene.report_options.measurements[index][47] ^= 1;
    EXPECT_THAT(scene.Appraise().value()->uncovered, Contains(index));
  }
  Scene several;
  several.report_options.measurements = TestMeasurements();
  several.report_options.measurements[1] = Bytes(48, 0);
  several.report_options.measurements[4] = Bytes(48, 0);
  EXPECT_THAT(several.Findings(), ElementsAre("GPU measurements: measurement-mismatch",
                                              "GPU measurements: measurement-mismatch"));
}

TEST(GpuAppraiserTest, AlternativesAreComparedInValueAndLength) {
  Scene scene;
  scene.driver_rim = Publisher().Rim(
      {.measurements = {{1, true, {Bytes(48, 0), TestMeasurements()[1], Bytes(48, 9)}}}});
  EXPECT_TRUE(scene.Appraise().ok());
  Scene prefix;
  const Bytes full = TestMeasurements()[1];
  prefix.driver_rim =
      Publisher().Rim({.measurements = {{1, true, {Bytes(full.begin(), full.end() - 16)}}}});
  EXPECT_THAT(prefix.Findings(), ElementsAre("GPU measurements: measurement-mismatch"));
}

TEST(GpuAppraiserTest, ManifestsMayNotContradictEachOther) {
  Scene scene;
  RimOptions vbios = VbiosRimOptions();
  vbios.measurements.push_back({2});
  scene.vbios_rim = Publisher().Rim(vbios);
  EXPECT_THAT(scene.Findings(), ElementsAre("GPU measurements: measurement-mismatch"));
  // An inactive value contradicts nobody.
  Scene inactive;
  vbios.measurements.back().active = false;
  inactive.vbios_rim = Publisher().Rim(vbios);
  EXPECT_TRUE(inactive.Appraise().ok());
}

TEST(GpuAppraiserTest, GoldenValuesBeyondTheReportAreAMismatch) {
  Scene scene;
  scene.driver_rim = Publisher().Rim({.measurements = {{1}, {100, true, {Bytes(48, 1)}}}});
  EXPECT_THAT(scene.Findings(), ElementsAre("GPU measurements: measurement-mismatch"));
  Scene shorter;
  shorter.report_options.measurements = TestMeasurements();
  shorter.report_options.measurements.resize(35);
  EXPECT_THAT(shorter.Findings(), ElementsAre("GPU measurements: measurement-mismatch"));
}

TEST(GpuAppraiserTest, ManifestsWithoutActiveValuesProveNothing) {
  Scene scene;
  scene.driver_rim = Publisher().Rim({.measurements = {{1, false}}});
  RimOptions vbios = VbiosRimOptions();
  vbios.measurements = {{3, false}};
  scene.vbios_rim = Publisher().Rim(vbios);
  EXPECT_THAT(scene.Findings(), ElementsAre("GPU measurements: measurement-unknown"));
}

TEST(GpuAppraiserTest, Measurement35DependsOnNvdec0) {
  const auto with = [](std::optional<Bytes> nvdec0) {
    Scene scene;
    scene.report_options.nvdec0 = std::move(nvdec0);
    scene.report_options.measurements = TestMeasurements();
    scene.report_options.measurements[35] = Bytes(48, 0);
    return scene;
  };
  Scene off = with(Bytes{0x55});
  EXPECT_THAT(off.Appraise().value()->matched, Not(Contains(35u)));
  Scene on = with(Bytes{0xaa});
  EXPECT_THAT(on.Findings(), ElementsAre("GPU measurements: measurement-mismatch"));
  Scene other = with(Bytes{0x00});
  EXPECT_THAT(other.Findings(), ElementsAre("GPU NVDEC0: malformed"));
  Scene absent = with(std::nullopt);
  EXPECT_THAT(absent.Findings(), ElementsAre("GPU NVDEC0: evidence-missing"));
}

TEST(GpuAppraiserTest, RefusesReportsWithoutVersions) {
  Scene scene;
  scene.report_options.more_fields = {{6, Bytes(7)}};
  EXPECT_THAT(scene.Findings(), ElementsAre("GPU versions: malformed"));
}

// Reports with their chains, from NVIDIA's SDK. The manifests for their versions are not among the
// vectors, so that is what each appraisal ends with; everything before passes, or fails where the
// file's name says so. The certificates of the sample called expired are valid until 9999: what
// NVIDIA's test expects is its online status at that time, which is not asked here.
TEST(GpuAppraiserVectors, AgreeWithNvidiasExpectations) {
  const auto vectors = VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors (PAVISE_VECTORS)";
  const std::string folder = *vectors + "/attest/nvgpu/";
  struct Case {
    const char *report, *chain, *serial;
    std::vector<std::string> findings;
  };
  const std::vector<std::string> kNoRims = {"driver RIM: evidence-missing",
                                            "VBIOS RIM: evidence-missing"};
  const Case cases[] = {
      {"hopperAttestationReport.txt", "hopperCertChain.txt", "GH100 48B02D7A7CD27FC3", kNoRims},
      {"hopperAttestationReportExpired.txt", "hopperCertChainExpired.txt", "GH100 48B02D51C9C1070B",
       kNoRims},
      {"blackwellAttestationReport.txt", "blackwellCertChain.txt", "GB100 48B02DD4C0CB1539",
       kNoRims},
      {"hopperAttestationReportInvalidSignature.txt",
       "hopperCertChain.txt",
       "GH100 48B02D7A7CD27FC3",
       {"GPU signature: signature-invalid", "GPU firmware ID: binding-mismatch", kNoRims[0],
        kNoRims[1]}},
      {"hopperAttestationReport.txt",
       "hopperCertChainExpired.txt",
       "GH100 48B02D51C9C1070B",
       {"GPU signature: signature-invalid", kNoRims[0], kNoRims[1]}},
  };
  size_t executed = 0;
  for (const Case& each : cases) {
    const Bytes report = FromHex(ReadText(folder + each.report), each.report).value();
    const auto chain =
        crypto::Certificate::ListFromPem(ReadText(folder + each.chain), each.chain).value();
    ASSERT_THAT(chain, SizeIs(5));
    EXPECT_EQ(chain.back().Fingerprint(), kNvidiaDeviceRoot);
    const Digest32 nonce = ParseSpdmReport(report, each.report)->request_nonce;
    CheckList checks;
    const auto gpu =
        GpuAppraiser::Appraise({report, chain}, {}, nonce, kTestTime, GpuTrust(), checks);
    EXPECT_FALSE(gpu.ok());
    std::vector<std::string> findings, passed;
    for (const Check& check : checks.checks()) {
      if (check.refusal.has_value()) {
        findings.push_back(StrCat(check.name, ": ", ReasonName(check.refusal->reason)));
      } else {
        passed.push_back(check.detail);
      }
    }
    EXPECT_EQ(findings, each.findings) << each.report;
    EXPECT_THAT(passed, Contains(each.serial));
    ++executed;
  }
  EXPECT_EQ(executed, 5u);

  // NVIDIA's own manifest, held against a report of another driver.
  const Bytes report = FromHex(ReadText(folder + "hopperAttestationReport.txt"), "r").value();
  const auto chain =
      crypto::Certificate::ListFromPem(ReadText(folder + "hopperCertChain.txt"), "c").value();
  const std::string rim = ReadText(folder + "NV_GPU_DRIVER_GH100_550.144.03.xml");
  CheckList checks;
  (void)GpuAppraiser::Appraise({report, chain}, {.driver_rim = AsBytes(rim), .vbios_rim = {}},
                               ParseSpdmReport(report, "r")->request_nonce, kTestTime, GpuTrust(),
                               checks)
      .ok();
  const std::vector<Refusal> refusals = RefusalsOf(checks.Verdict());
  ASSERT_THAT(refusals, SizeIs(2));
  EXPECT_EQ(refusals[0].reason, Reason::kMeasurementMismatch);
  EXPECT_THAT(refusals[0].detail, HasSubstr("550.144.03, the GPU runs 535.86.09"));
}

}  // namespace
}  // namespace pavise::evidence
