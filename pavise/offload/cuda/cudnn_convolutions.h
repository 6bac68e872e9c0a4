#ifndef PAVISE_OFFLOAD_CUDA_CUDNN_CONVOLUTIONS_H_
#define PAVISE_OFFLOAD_CUDA_CUDNN_CONVOLUTIONS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "pavise/offload/cpu/host_products.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload::cuda {

// cuDNN's convolutions on one GPU. Of its algorithms those that are deterministic and add up the
// products themselves (no Winograd, no FFT: their errors are not those of sums). fp32 operands are
// multiplied as such, others, which TF32 holds exactly, on matrix units. Thread-safe, calls take
// turns.
class CudnnConvolutions {
 public:
  virtual ~CudnnConvolutions() = default;
  // kUnsupported where Pavise was built without its header, or the library is not there. With the
  // GPU current, as below.
  static absl::StatusOr<std::unique_ptr<CudnnConvolutions>> Open();
  // "cuDNN 9.19.0"
  virtual std::string_view name() const = 0;
  // Nothing: it has no such algorithm for this one. Asked once a shape.
  virtual std::optional<uint64_t> WorkspaceBytes(const HostConvolution& convolution) = 0;
  // Queues GpuStream::Convolve on a cudaStream_t.
  virtual absl::Status Convolve(const HostConvolution& convolution, const float* a, const float* b,
                                float* out, void* workspace, uint64_t workspace_bytes,
                                void* stream) = 0;
};

}  // namespace pavise::offload::cuda

#endif  // PAVISE_OFFLOAD_CUDA_CUDNN_CONVOLUTIONS_H_
