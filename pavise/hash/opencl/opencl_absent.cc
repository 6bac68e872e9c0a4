// In the place of opencl_device.cc where Pavise was built without OpenCL's headers.
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/hash/opencl/opencl_device.h"

namespace pavise::hash {

std::vector<OpenClDeviceInfo> ListOpenClDevices() { return {}; }

absl::StatusOr<std::unique_ptr<Device>> NewOpenClDevice(unsigned index, const OpenClOptions&) {
  return Refuse(Reason::kUnsupported, StrCat("opencl:", index),
                "this program was built without OpenCL",
                "build it where OpenCL's headers are (Debian: opencl-c-headers)");
}

}  // namespace pavise::hash
