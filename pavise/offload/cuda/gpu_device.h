#ifndef PAVISE_OFFLOAD_CUDA_GPU_DEVICE_H_
#define PAVISE_OFFLOAD_CUDA_GPU_DEVICE_H_

#include <memory>

#include "pavise/offload/compute_device.h"
#include "pavise/offload/cuda/gpu_runtime.h"

namespace pavise::offload::cuda {

// A GPU as a worker's device. Operands are fp32, bf16, fp16 or residues; sums fp32, or exact.
// Convolutions are the runtime's where it does them, else im2col products of some samples at a
// time.
//
// Each call waits for its own work only: what several sessions ask for runs on kStreams streams
// side by side, so that one's transfers overlap with another's products. Within a call, copies to
// and from pinned memory overlap with transfers and conversions, piece by piece.
//
// Nobody's account holds a stream's buffers (8 MiB pinned, 8 MiB on the device and its library's
// workspace); everything else is what forms and WorkspaceBytes say.
inline constexpr size_t kStreams = 4;

// Enough for the GPU to be full, and little beside what a worker holds.
struct GpuLimits {
  uint64_t sum_elements = uint64_t{1} << 26;     // int32 sums of residues at a time
  uint64_t column_elements = uint64_t{1} << 26;  // of im2col at a time, but of one sample at least
};
std::shared_ptr<ComputeDevice> NewGpuDevice(std::shared_ptr<GpuRuntime> runtime,
                                            const GpuLimits& limits = {});

}  // namespace pavise::offload::cuda

#endif  // PAVISE_OFFLOAD_CUDA_GPU_DEVICE_H_
