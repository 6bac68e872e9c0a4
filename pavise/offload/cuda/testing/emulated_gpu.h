#ifndef PAVISE_OFFLOAD_CUDA_TESTING_EMULATED_GPU_H_
#define PAVISE_OFFLOAD_CUDA_TESTING_EMULATED_GPU_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "pavise/offload/cuda/gpu_runtime.h"

namespace pavise::offload::testing {

// The CPU in a GPU's place: kernels are loops, products what BLAS defines. Queued work is done as
// late as the interface allows, so that whoever does not wait reads what was there before; memory
// is never zero when it is given out. Products that cuBLASLt would refuse are refused.
class EmulatedGpu final : public cuda::GpuRuntime {
 public:
  explicit EmulatedGpu(bool convolves) : convolves_(convolves) {}

  std::string_view name() const override { return "an emulated GPU"; }
  absl::StatusOr<void*> Allocate(uint64_t size_bytes, std::string_view item) override;
  void Free(void* device) override;
  absl::StatusOr<std::unique_ptr<cuda::GpuStream>> NewStream() override;
  std::optional<uint64_t> ConvolutionWorkspaceBytes(const HostConvolution& convolution) override;

  uint64_t allocated_bytes() const { return allocated_bytes_; }
  // The most since the last call.
  uint64_t TakePeakBytes() { return peak_bytes_.exchange(allocated_bytes_); }
  uint64_t convolutions() const { return convolutions_; }
  // The device's memory; the rest is refused as a driver would.
  void set_memory_bytes(uint64_t bytes) { memory_bytes_ = bytes; }

 private:
  friend class EmulatedStream;
  const bool convolves_;
  std::atomic<uint64_t> allocated_bytes_ = 0;
  std::atomic<uint64_t> peak_bytes_ = 0;
  std::atomic<uint64_t> convolutions_ = 0;
  uint64_t memory_bytes_ = ~uint64_t{0};
};

}  // namespace pavise::offload::testing

#endif  // PAVISE_OFFLOAD_CUDA_TESTING_EMULATED_GPU_H_
