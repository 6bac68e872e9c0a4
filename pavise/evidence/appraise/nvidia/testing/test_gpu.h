#ifndef PAVISE_EVIDENCE_APPRAISE_NVIDIA_TESTING_TEST_GPU_H_
#define PAVISE_EVIDENCE_APPRAISE_NVIDIA_TESTING_TEST_GPU_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/evidence/appraise/nvidia/gpu_appraiser.h"

// A GPU and a publisher of manifests made on the spot, for tests of this and other parts.
namespace pavise::evidence::testing {

// A moment at which the certificates of the tests are valid.
inline const absl::Time kTestTime = absl::FromUnixSeconds(1'750'000'000);

// What a report says. The defaults are a Hopper GPU whose RIMs (below) match.
struct ReportOptions {
  Digest32 nonce{};
  std::string driver_version = "550.144.03";
  std::optional<Bytes> nvdec0 = Bytes{0xaa};  // nullopt: the field is left out
  std::optional<Bytes> firmware_id = Bytes(48, 0xf1);
  std::map<uint16_t, Bytes> more_fields;  // added, or in place of the defaults
  std::vector<Bytes> measurements;        // empty: TestMeasurements()
  // Changes the signed bytes before they are signed.
  std::function<void(Bytes&)> before_signing = [](Bytes&) {};
};

// 64 values of 48 bytes, each another one.
std::vector<Bytes> TestMeasurements();

struct TestGpu {
  std::vector<crypto::Certificate> certificates;  // leaf first, five
  crypto::PrivateKey key;
  std::string root_fingerprint;

  Bytes Report(const ReportOptions& options);
};

enum class FirmwareIdForm { kCompositeDeviceId, kTcbInfo, kBoth, kNone };
struct GpuOptions {
  std::string device_name = "NVIDIA:GH100:48B02D0000000001";
  FirmwareIdForm form = FirmwareIdForm::kCompositeDeviceId;
  crypto::testing::CertificateOptions leaf = {};  // key type, times, usage
  size_t chain_length = 5;
};
TestGpu MakeTestGpu(const GpuOptions& options = {});

// One <Resource>; the value of SPDM index + 1 in TestMeasurements() by default.
struct TestGolden {
  uint32_t index;
  bool active = true;
  std::vector<Bytes> alternatives = {};
};

struct RimOptions {
  std::string product = "GH100";
  std::string version = "550.144.03";
  std::vector<TestGolden> measurements = {{0, false}, {1}, {2}, {35}};
  // Change the text before it is signed, and after.
  std::function<void(std::string&)> before_signing = [](std::string&) {};
  std::function<void(std::string&)> after_signing = [](std::string&) {};
};

struct TestRimPublisher {
  crypto::testing::TestCertificate root;
  crypto::testing::TestCertificate signer;

  std::string root_fingerprint() const { return root.certificate.Fingerprint(); }
  // Signed by libxmlsec1, certificates of signer and root in KeyInfo; "" where it refuses to sign.
  std::string Rim(const RimOptions& options = {}) const;
};
TestRimPublisher MakeTestRimPublisher(const crypto::testing::CertificateOptions& signer = {
                                          .key_type = crypto::KeyType::kEcP384,
                                          .digest = "SHA2-384"});

// Of a VBIOS that goes with TestGpu's reports: "96.00.5e.00.01", indices 3 to 5.
RimOptions VbiosRimOptions();

// `text` with the only occurrence of `from` replaced; aborts the program where there is not one.
void ReplaceOnce(std::string& text, std::string_view from, std::string_view to);

}  // namespace pavise::evidence::testing

#endif  // PAVISE_EVIDENCE_APPRAISE_NVIDIA_TESTING_TEST_GPU_H_
