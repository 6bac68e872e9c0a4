#include "pavise/hash/devices.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/hash/cuda/cuda_device.h"
#include "pavise/hash/opencl/opencl_device.h"

namespace pavise::hash {
namespace {

// Above any GPU's number; CUDA counts in int.
constexpr unsigned kMostOrdinals = 1u << 20;

// The N of "prefix:N": decimal digits without leading zeros.
std::optional<unsigned> NumberAfter(std::string_view prefix, std::string_view name) {
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  if (name.empty() || (name.size() > 1 && name[0] == '0')) return std::nullopt;
  unsigned number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return number;
}

absl::StatusOr<std::unique_ptr<Device>> OpenBest() {
  const absl::StatusOr<std::vector<CudaDeviceInfo>> gpus = ListCudaDevices();
  if (gpus.ok() && !gpus->empty()) return NewCudaDevice(gpus->front().ordinal);
  if (!gpus.ok() && ReasonOf(gpus.status()) != Reason::kUnsupported) return gpus.status();
  const std::vector<OpenClDeviceInfo> devices = ListOpenClDevices();
  for (size_t i = 0; i < devices.size(); ++i) {
    // OpenCL on a CPU is no match for the code that was written for CPUs.
    if (devices[i].kind == OpenClDeviceInfo::Kind::kGpu) {
      return NewOpenClDevice(static_cast<unsigned>(i));
    }
  }
  if (devices.empty()) {
    // A driver that fails to list its devices is not a machine without any.
    const absl::Status why = NewOpenClDevice(0).status();
    if (!why.ok() && ReasonOf(why) != Reason::kUnsupported) return why;
  }
  return NewCpuDevice();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> OpenDevice(std::string_view name) {
  if (name == "auto") return OpenBest();
  if (name == "cpu") return NewCpuDevice();
  if (const auto number = NumberAfter("opencl:", name)) return NewOpenClDevice(*number);
  if (const auto number = NumberAfter("cuda:", name)) {
    return NewCudaDevice(static_cast<int>(std::min(*number, kMostOrdinals)));
  }
  return UsageError(
      StrCat("there is no device named '", name, "': cpu, cuda:0, opencl:0, ... or auto"));
}

}  // namespace pavise::hash
