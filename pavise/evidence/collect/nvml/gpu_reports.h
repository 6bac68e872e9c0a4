#ifndef PAVISE_EVIDENCE_COLLECT_NVML_GPU_REPORTS_H_
#define PAVISE_EVIDENCE_COLLECT_NVML_GPU_REPORTS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

// Evidence of NVIDIA GPUs in confidential mode, through the driver's management library (NVML),
// which is found at run time.
namespace pavise::evidence {

struct CollectedGpu {
  std::string uuid;  // as the driver calls it; the report says who it is
  Bytes report;      // SPDM GET_MEASUREMENTS request and response
  std::string certificate_chain_pem;
};

// NVML's functions that are called, so that tests can stand in for a driver. Structures as in NVML
// API Reference, "Confidential Computing".
struct NvmlLibrary {
  static constexpr size_t kNonceBytes = 32;
  static constexpr size_t kUuidBytes = 96;
  struct Report {
    unsigned int has_cec_report;
    unsigned int report_size_bytes;
    unsigned int cec_report_size_bytes;
    unsigned char nonce[kNonceBytes];
    unsigned char report[0x2000];
    unsigned char cec_report[0x1000];
  };
  struct Certificate {
    unsigned int chain_size_bytes;
    unsigned int attestation_chain_size_bytes;
    unsigned char chain[0x1000];
    unsigned char attestation_chain[0x1400];
  };
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  const char* (*error_string)(int) = nullptr;
  int (*device_count)(unsigned int*) = nullptr;
  int (*device_by_index)(unsigned int, void**) = nullptr;
  int (*device_uuid)(void*, char*, unsigned int) = nullptr;
  int (*attestation_report)(void*, Report*) = nullptr;
  int (*certificate)(void*, Certificate*) = nullptr;
};

// kUnsupported: no driver, or one too old for confidential computing.
absl::StatusOr<NvmlLibrary> OpenNvml(const char* file_name = "libnvidia-ml.so.1");

// A report of every GPU, in the driver's order; `next_nonce` is asked before each, with those that
// were collected. kUnsupported: there is none, or not in confidential mode; machine failure: a call
// failed, or answered with lengths that cannot be. Errors of `next_nonce`.
absl::StatusOr<std::vector<CollectedGpu>> CollectGpuReports(
    const NvmlLibrary& library,
    const std::function<absl::StatusOr<Digest32>(const std::vector<CollectedGpu>&)>& next_nonce);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_COLLECT_NVML_GPU_REPORTS_H_
