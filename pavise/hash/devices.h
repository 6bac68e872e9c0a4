#ifndef PAVISE_HASH_DEVICES_H_
#define PAVISE_HASH_DEVICES_H_

#include <memory>
#include <string_view>

#include "pavise/hash/device.h"

#include "absl/status/statusor.h"

namespace pavise::hash {

// The device of that name: "cpu" (all usable CPUs), "cuda:N", "opencl:N", or "auto", which is the
// first NVIDIA GPU, else the first OpenCL GPU, and where this machine has neither, the CPU. What is
// chosen and then fails is an error; no other device steps in. kInvalidArgument for what is no
// device's name, kUnsupported for a device that is not there or that this build does not drive,
// kInternal for one that does not start.
absl::StatusOr<std::unique_ptr<Device>> OpenDevice(std::string_view name);

}  // namespace pavise::hash

#endif  // PAVISE_HASH_DEVICES_H_
