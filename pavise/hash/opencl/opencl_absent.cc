// In the place of opencl_device.cc where Pavise was built without OpenCL's headers.
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/hash/opencl/opencl_device.h"

namespace pavise::hash {
namespace {

absl::Status NoOpenCl(std::string_view item) {
  return Refuse(Reason::kUnsupported, item, "this program was built without OpenCL",
                "build it where OpenCL's headers are (Debian: opencl-c-headers)");
}

}  // namespace

std::vector<OpenClDeviceInfo> ListOpenClDevices() { return {}; }

absl::StatusOr<std::unique_ptr<Device>> NewOpenClDevice(unsigned index, const OpenClOptions&) {
  return NoOpenCl(StrCat("opencl:", index));
}

absl::StatusOr<std::unique_ptr<Device>> WrapOpenClQueue(void* /*command_queue*/,
                                                        const OpenClOptions&) {
  return NoOpenCl("opencl");
}

absl::StatusOr<std::unique_ptr<Buffer>> WrapOpenClBuffer(Device& /*device*/, void* /*memory*/,
                                                         uint64_t /*size_bytes*/) {
  return UsageError("opencl: the device is no OpenCL device");
}

}  // namespace pavise::hash
