#ifndef PAVISE_OFFLOAD_CUDA_CUBLASLT_PRODUCTS_H_
#define PAVISE_OFFLOAD_CUDA_CUBLASLT_PRODUCTS_H_

#include <cstdint>
#include <memory>
#include <string_view>

#include "pavise/offload/cuda/gpu_runtime.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload::cuda {

// cuBLASLt's products on one GPU. Which algorithm does a shape is asked of the library once and
// kept, for up to a few thousand shapes. Sums that several blocks share are added in one order, so
// that a product done again is the same. Thread-safe.
class CublasLtProducts {
 public:
  // Of each stream that products are queued on, on the device.
  static constexpr uint64_t kWorkspaceBytes = uint64_t{32} << 20;

  virtual ~CublasLtProducts() = default;
  // kUnsupported where the library is not there. With the GPU current, as below.
  static absl::StatusOr<std::unique_ptr<CublasLtProducts>> Open();
  // "cuBLASLt 13.1"
  virtual std::string_view name() const = 0;
  // Queues GpuStream::Multiply on a cudaStream_t.
  virtual absl::Status Multiply(const Gemm& gemm, const void* first, const void* second, bool add,
                                void* result, void* workspace, void* stream) = 0;
};

}  // namespace pavise::offload::cuda

#endif  // PAVISE_OFFLOAD_CUDA_CUBLASLT_PRODUCTS_H_
