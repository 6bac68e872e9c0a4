#include "pavise/hash/devices.h"

#include <charconv>
#include <optional>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/hash/opencl/opencl_device.h"

namespace pavise::hash {
namespace {

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
  if (NumberAfter("cuda:", name).has_value()) {
    return Refuse(Reason::kUnsupported, name, "this version does not drive CUDA devices",
                  "name another device (pavise doctor lists them)");
  }
  return UsageError(
      StrCat("there is no device named '", name, "': cpu, opencl:0, opencl:1, ... or auto"));
}

}  // namespace pavise::hash
