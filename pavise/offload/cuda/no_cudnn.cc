// cudnn_convolutions.h for a build without cuDNN's header.
#include "pavise/base/status.h"
#include "pavise/offload/cuda/cudnn_convolutions.h"

namespace pavise::offload::cuda {

absl::StatusOr<std::unique_ptr<CudnnConvolutions>> CudnnConvolutions::Open() {
  return Refuse(Reason::kUnsupported, "cuDNN", "this build has none",
                "build it where cudnn.h of version 9 is");
}

}  // namespace pavise::offload::cuda
