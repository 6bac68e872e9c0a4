#include "pavise/hash/cuda/nvml_library.h"

#include <dlfcn.h>

#include <string_view>
#include <type_traits>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::hash::cuda {
namespace {

constexpr int kSuccess = 0;                  // NVML_SUCCESS
constexpr unsigned int kProduction = 2;      // NVML_CC_SYSTEM_ENVIRONMENT_PROD
constexpr unsigned int kFeatureEnabled = 1;  // NVML_CC_SYSTEM_FEATURE_ENABLED
constexpr unsigned int kDevToolsOff = 0;     // NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF

absl::Status Absent(std::string_view why) {
  return Refuse(Reason::kUnsupported, "nvml", why, "install the driver's libnvidia-ml.so.1");
}

MemoryLink Plain(std::string because) { return {MemoryLink::Kind::kPlain, std::move(because)}; }

}  // namespace

absl::StatusOr<NvmlLibrary> OpenNvml(const char* file_name) {
  // Never closed: it keeps what nvmlInit opened.
  void* const handle = dlopen(file_name, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return Absent(StrCat("this machine has no ", file_name));
  NvmlLibrary library;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
    return function != nullptr;
  };
  if (!find(library.init, "nvmlInit_v2") ||
      !find(library.conf_compute_state, "nvmlSystemGetConfComputeState") ||
      !find(library.device_by_pci_bus_id, "nvmlDeviceGetHandleByPciBusId_v2") ||
      !find(library.conf_compute_memory, "nvmlDeviceGetConfComputeMemSizeInfo")) {
    return Absent(StrCat(file_name, " knows nothing of confidential computing"));
  }
  if (const int code = library.init(); code != kSuccess) {
    return MachineFailure("nvml", StrCat("nvmlInit_v2: error ", code));
  }
  return library;
}

MemoryLink LinkOfGpu(const absl::StatusOr<NvmlLibrary>& library, const std::string& pci_bus_id) {
  if (!library.ok()) return Plain(std::string(library.status().message()));
  const auto failed = [](std::string_view call, int code) {
    return Plain(StrCat("the driver does not say (", call, ": error ", code, ")"));
  };
  ConfComputeState state;
  if (const int code = library->conf_compute_state(&state); code != kSuccess) {
    return failed("nvmlSystemGetConfComputeState", code);
  }
  if (state.feature != kFeatureEnabled) {
    return Plain("the driver says that confidential computing is off");
  }
  if (state.dev_tools_mode != kDevToolsOff) {
    return Plain("confidential computing is in developers' mode, which lets debuggers in");
  }
  if (state.environment != kProduction) {
    return Plain("the environment of confidential computing is not a production one");
  }
  void* device = nullptr;
  if (const int code = library->device_by_pci_bus_id(pci_bus_id.c_str(), &device);
      code != kSuccess) {
    return failed("nvmlDeviceGetHandleByPciBusId_v2", code);
  }
  ConfComputeMemory memory;
  if (const int code = library->conf_compute_memory(device, &memory); code != kSuccess) {
    return failed("nvmlDeviceGetConfComputeMemSizeInfo", code);
  }
  if (memory.protected_kib == 0) return Plain("this GPU has no protected memory");
  return {MemoryLink::Kind::kEncryptedUnattested,
          StrCat("the driver says that confidential computing is on for the GPU at ", pci_bus_id)};
}

}  // namespace pavise::hash::cuda
