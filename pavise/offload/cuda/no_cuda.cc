// cuda_device.h for a build without CUDA's compiler.
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/cuda/cuda_device.h"

namespace pavise::offload {

absl::StatusOr<std::shared_ptr<ComputeDevice>> OpenCudaDevice(int ordinal) {
  return Refuse(Reason::kUnsupported, StrCat("cuda:", ordinal), "this build has no CUDA device",
                "build it where nvcc is (CUDA 12.8 or later), or give cpu");
}

}  // namespace pavise::offload
