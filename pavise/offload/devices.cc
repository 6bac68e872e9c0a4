#include "pavise/offload/devices.h"

#include <charconv>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/cuda/cuda_device.h"

namespace pavise::offload {

absl::StatusOr<std::shared_ptr<ComputeDevice>> OpenComputeDevice(std::string_view name,
                                                                 int threads) {
  constexpr std::string_view kCuda = "cuda:";
  if (name == "cpu") return OpenCpuDevice(threads);
  if (name == "cuda") return OpenCudaDevice(0);
  unsigned short ordinal = 0;  // more than any machine has
  if (name.starts_with(kCuda)) {
    const char* const end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + kCuda.size(), end, ordinal);
    if (error == std::errc() && stop == end) return OpenCudaDevice(ordinal);
  }
  return UsageError(StrCat("there is no device named '", Printable(name), "': cpu, cuda:0, ..."));
}

}  // namespace pavise::offload
