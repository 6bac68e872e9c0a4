#ifndef PAVISE_EVIDENCE_APPRAISE_NVIDIA_GPU_APPRAISER_H_
#define PAVISE_EVIDENCE_APPRAISE_NVIDIA_GPU_APPRAISER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/crypto/certificate_memory.h"
#include "pavise/crypto/x509.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/evidence/appraise/nvidia/rim.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::evidence {

// SHA-256 fingerprint of "NVIDIA Device Identity CA", the root of Hopper's and Blackwell's chains.
inline constexpr std::string_view kNvidiaDeviceRoot =
    "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48";

enum class GpuArchitecture { kHopper, kBlackwell };
std::string_view GpuArchitectureName(GpuArchitecture architecture);  // "Hopper"

// What a verified report says.
struct GpuClaims {
  GpuArchitecture architecture = GpuArchitecture::kHopper;
  std::string product;                         // "GH100"
  std::string serial;                          // of the device, from its certificate
  std::string device_certificate;              // SHA-256 fingerprint of the attestation certificate
  Digest32 nonce;                              // the challenge that was answered
  std::string driver_version;                  // "550.144.03"
  std::string vbios_version;                   // "96.00.5e.00.01"
  std::string board_id;                        // hex, as reported
  std::string project, project_sku, chip_sku;  // "" where absent
  std::optional<Bytes> firmware_id;            // FWID; drivers before 560 do not report it
  std::optional<bool> protected_pcie;          // protected PCIe mode (several GPUs, NVSwitch)
  std::string driver_rim, vbios_rim;           // tagId of the manifests it was held against
  std::vector<uint32_t> matched;               // indices that equal a golden value
  std::vector<uint32_t> uncovered;             // indices that no active golden value covers
};

// What the machine sent. `certificates`: leaf first, as the driver gives them. Must outlive the
// call.
struct GpuEvidence {
  ByteSpan report;
  const std::vector<crypto::Certificate>& certificates;
};

// What the report is held against: the two manifests as signed XML; empty: not given.
struct GpuReferences {
  ByteSpan driver_rim;
  ByteSpan vbios_rim;
};

// Fingerprints of the roots, and certificates from the trust folder (a root that the evidence does
// not bring along).
struct GpuTrust {
  std::string_view device_root = kNvidiaDeviceRoot;
  std::string_view rim_root = kNvidiaRimRoot;
  std::vector<crypto::Certificate> endorsements = {};
};

class GpuAppraiser;
using VerifiedGpu = Verified<GpuClaims, GpuAppraiser>;

// Appraises the report of one Hopper or Blackwell GPU offline. Pure; thread-safe.
class GpuAppraiser {
 public:
  // In this order, each a check in `checks`, which holds this GPU's alone:
  // - "GPU report": the form (spdm_report.h). A refusal ends the appraisal.
  // - "GPU nonce": the request's nonce is `nonce`. kNonceMismatch.
  // - "GPU certificate chain": five certificates, leaf to pinned root, valid at `at`, a leaf that
  //   may sign. kCertificateInvalid. Whether one was revoked is not looked up (NVIDIA answers that
  //   online only).
  // - "GPU device": product and serial of the certificate; kUnsupported for another architecture.
  // - "GPU signature": ECDSA P-384 with SHA-384 over request and response. kSignatureInvalid.
  // - "GPU firmware ID": the report's is the one the certificate was issued for. kBindingMismatch.
  //   Reports of old drivers have none, which NVIDIA's verifier passes over, and so does this one;
  //   the report is signed, so nobody but the driver can leave it out.
  // - "driver RIM", "VBIOS RIM": verified (rim.h), and of the version that the report names.
  //   kEvidenceMissing: not given; kMeasurementMismatch: of another version.
  // - "GPU measurements": as NVIDIA's verifier does it. Both manifests may not have an active value
  //   for one index (kMeasurementMismatch). Every active golden value must have a measurement at
  //   its index (RIM index i is SPDM index i + 1) that equals one alternative in value and length,
  //   else kMeasurementMismatch, a finding for each index; index 35 is skipped where the report
  //   says that NVDEC0 is off. Measurements without an active golden value mean nothing to NVIDIA;
  //   they are listed as `uncovered` and are no reason to refuse.
  static absl::StatusOr<VerifiedGpu> Appraise(const GpuEvidence& evidence,
                                              const GpuReferences& references,
                                              const Digest32& nonce, absl::Time at,
                                              const GpuTrust& trust, CheckList& checks,
                                              crypto::CertificateMemory* memory = nullptr);
};

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_NVIDIA_GPU_APPRAISER_H_
