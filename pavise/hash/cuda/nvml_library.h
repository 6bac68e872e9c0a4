#ifndef PAVISE_HASH_CUDA_NVML_LIBRARY_H_
#define PAVISE_HASH_CUDA_NVML_LIBRARY_H_

#include <string>

#include "pavise/hash/device.h"

#include "absl/status/statusor.h"

// What NVIDIA's management library (NVML) says of confidential computing. The library comes with
// the driver and is found at run time; the few declarations that are needed of its stable interface
// (NVML API Reference, "Confidential Computing") are here, so that no header of it is. They are a
// value, so that tests can put another machine in their place.
//
// All of it is the word of the driver and of whoever provides the library: no evidence.
namespace pavise::hash::cuda {

// nvmlConfComputeSystemState_t.
struct ConfComputeState {
  unsigned int environment = 0;     // 0 unavailable, 1 simulated, 2 production
  unsigned int feature = 0;         // 1: confidential computing is on
  unsigned int dev_tools_mode = 0;  // 1: on for developers, with debuggers let in
};
// nvmlConfComputeMemSizeInfo_t.
struct ConfComputeMemory {
  unsigned long long protected_kib = 0;
  unsigned long long unprotected_kib = 0;
};

// Each returns nvmlReturn_t, 0 for success. `device` is an nvmlDevice_t.
struct NvmlLibrary {
  int (*init)() = nullptr;
  int (*conf_compute_state)(ConfComputeState* state) = nullptr;
  int (*device_by_pci_bus_id)(const char* pci_bus_id, void** device) = nullptr;
  int (*conf_compute_memory)(void* device, ConfComputeMemory* memory) = nullptr;
};

// Opens and starts the library, which stays so as long as the process. kUnsupported where it is not
// there or too old to know of confidential computing; kInternal where it does not start.
absl::StatusOr<NvmlLibrary> OpenNvml(const char* file_name = "libnvidia-ml.so.1");

// The link of the GPU with that PCI address ("0000:3B:00.0"): kEncryptedUnattested where every one
// of these says so: confidential computing is on, in a production environment, not in developers'
// mode, and this GPU has protected memory. kPlain for anything else, failed calls and a library
// that is not there among them; never kHost. `because` has which it was.
MemoryLink LinkOfGpu(const absl::StatusOr<NvmlLibrary>& library, const std::string& pci_bus_id);

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_NVML_LIBRARY_H_
