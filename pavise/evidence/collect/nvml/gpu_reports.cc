#include "pavise/evidence/collect/nvml/gpu_reports.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string_view>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::evidence {
namespace {

constexpr int kSuccess = 0;
constexpr int kNotSupported = 3;
constexpr unsigned kMostGpus = 256;

absl::Status Failed(const NvmlLibrary& library, std::string_view call, int code) {
  const char* text = library.error_string(code);
  if (code == kNotSupported) {
    return Refuse(Reason::kUnsupported, "GPU",
                  StrCat("gives no evidence: ", call, ": ", text == nullptr ? "" : text),
                  "switch the GPU's confidential mode on, or leave GPU evidence out");
  }
  return MachineFailure("NVML",
                        StrCat(call, ": ", text == nullptr ? "error" : text, " (", code, ")"));
}

template <typename Function>
bool Resolve(void* handle, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
  return function != nullptr;
}

}  // namespace

absl::StatusOr<NvmlLibrary> OpenNvml(const char* file_name) {
  // Stays open as long as the process: the driver does not like to be unloaded.
  void* handle = dlopen(file_name, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return Refuse(Reason::kUnsupported, file_name, "cannot be loaded: there is no NVIDIA driver",
                  "install NVIDIA's driver, or leave GPU evidence out");
  }
  NvmlLibrary library;
  if (!Resolve(handle, "nvmlInit_v2", library.init) ||
      !Resolve(handle, "nvmlShutdown", library.shutdown) ||
      !Resolve(handle, "nvmlErrorString", library.error_string) ||
      !Resolve(handle, "nvmlDeviceGetCount_v2", library.device_count) ||
      !Resolve(handle, "nvmlDeviceGetHandleByIndex_v2", library.device_by_index) ||
      !Resolve(handle, "nvmlDeviceGetUUID", library.device_uuid) ||
      !Resolve(handle, "nvmlDeviceGetConfComputeGpuAttestationReport",
               library.attestation_report) ||
      !Resolve(handle, "nvmlDeviceGetConfComputeGpuCertificate", library.certificate)) {
    return Refuse(Reason::kUnsupported, file_name, "knows nothing of confidential computing",
                  "install an NVIDIA driver of release 535 or later");
  }
  return library;
}

absl::StatusOr<std::vector<CollectedGpu>> CollectGpuReports(
    const NvmlLibrary& library,
    const std::function<absl::StatusOr<Digest32>(const std::vector<CollectedGpu>&)>& next_nonce) {
  if (const int code = library.init(); code != kSuccess) return Failed(library, "nvmlInit", code);
  struct Shutdown {
    const NvmlLibrary& library;
    ~Shutdown() { library.shutdown(); }
  } const shutdown{library};
  unsigned count = 0;
  if (const int code = library.device_count(&count); code != kSuccess) {
    return Failed(library, "nvmlDeviceGetCount", code);
  }
  if (count == 0) {
    return Refuse(Reason::kUnsupported, "GPU", "there is none", "leave GPU evidence out");
  }
  if (count > kMostGpus) return MachineFailure("NVML", StrCat("reports ", count, " GPUs"));
  std::vector<CollectedGpu> evidence;
  for (unsigned i = 0; i < count; ++i) {
    void* device = nullptr;
    if (const int code = library.device_by_index(i, &device); code != kSuccess) {
      return Failed(library, "nvmlDeviceGetHandleByIndex", code);
    }
    CollectedGpu gpu;
    std::array<char, NvmlLibrary::kUuidBytes> uuid = {};
    if (const int code = library.device_uuid(device, uuid.data(), uuid.size()); code != kSuccess) {
      return Failed(library, "nvmlDeviceGetUUID", code);
    }
    uuid.back() = 0;
    gpu.uuid = uuid.data();
    PAVISE_ASSIGN_OR_RETURN(const Digest32 nonce, next_nonce(evidence));
    auto report = std::make_unique<NvmlLibrary::Report>();
    std::copy(nonce.begin(), nonce.end(), report->nonce);
    if (const int code = library.attestation_report(device, report.get()); code != kSuccess) {
      return Failed(library, "nvmlDeviceGetConfComputeGpuAttestationReport", code);
    }
    auto certificate = std::make_unique<NvmlLibrary::Certificate>();
    if (const int code = library.certificate(device, certificate.get()); code != kSuccess) {
      return Failed(library, "nvmlDeviceGetConfComputeGpuCertificate", code);
    }
    if (report->report_size_bytes == 0 || report->report_size_bytes > sizeof(report->report) ||
        certificate->attestation_chain_size_bytes == 0 ||
        certificate->attestation_chain_size_bytes > sizeof(certificate->attestation_chain)) {
      return MachineFailure("NVML", StrCat("GPU ", i, ": a report of ", report->report_size_bytes,
                                           " bytes and a certificate chain of ",
                                           certificate->attestation_chain_size_bytes));
    }
    gpu.report.assign(report->report, report->report + report->report_size_bytes);
    gpu.certificate_chain_pem.assign(reinterpret_cast<const char*>(certificate->attestation_chain),
                                     certificate->attestation_chain_size_bytes);
    evidence.push_back(std::move(gpu));
  }
  return evidence;
}

}  // namespace pavise::evidence
