#ifndef PAVISE_HASH_CUDA_CUDA_DEVICE_H_
#define PAVISE_HASH_CUDA_CUDA_DEVICE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/hash/algorithm.h"
#include "pavise/hash/device.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// NVIDIA GPUs as devices. Computes SHA-256 and SHA-384 (a thread a range: give it tens of thousands
// of ranges) and BLAKE3 (as parallel as the input is long). Every failure of a CUDA call is a
// machine failure that names the call, the device and CUDA's error; after one that CUDA itself does
// not recover from (an illegal access, an uncorrectable memory error), the device is lost: every
// later call fails. Nothing is ever computed on the CPU instead.
namespace pavise::hash {

struct CudaDeviceInfo {
  int ordinal = 0;
  std::string name;  // "NVIDIA H200"
  int compute_capability_major = 0;
  int compute_capability_minor = 0;
  int multiprocessors = 0;
  uint64_t memory_bytes = 0;
};

// The GPUs that this process sees, in CUDA's order. Refusal kUnsupported: this build has no CUDA,
// there is no driver or it is too old for this build, or no GPU.
absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices();

// GPU number `ordinal`, named "cuda:<ordinal>". Refusal kUnsupported as above, and where there is
// no such GPU or it is older than compute capability 7.5. Thread-safe; must outlive its buffers and
// streams. Leaves the calling thread's current CUDA device as it was, in every call.
//
// Digest and Blake3Subtrees only queue: they wait for the GPU just to take more device memory than
// before. A stream keeps what its operations need (for BLAKE3 0.4% of the hashed bytes) from one
// Wait to the next.
//
// Its MemoryLink is what the driver says through NVML (nvml_library.h); it has a DirectReader where
// libcufile.so.0 is there (cufile_library.h), which bypasses the host's memory with nvidia-fs.
absl::StatusOr<std::unique_ptr<Device>> NewCudaDevice(int ordinal);

// The caller's cudaStream_t (or CUstream), on which work is queued after what is already there; it
// must outlive the result. kInvalidArgument where `device` is no CUDA device.
absl::StatusOr<std::unique_ptr<Stream>> WrapCudaStream(Device& device, void* stream);
// Memory that the caller has on the device, without a copy; it must outlive the work that reads it.
// It must be cudaMalloc's or be aligned like it inside such memory: up to 15 bytes before an
// unaligned range are read (never used). kInvalidArgument where `device` is no CUDA device or the
// memory is not on it.
absl::StatusOr<std::unique_ptr<Buffer>> WrapDeviceMemory(Device& device, const void* device_pointer,
                                                         uint64_t size_bytes);

struct HostDigestOptions {
  // Of host memory that travels at a time; three such pieces are in flight, each in pinned memory
  // and on the device.
  uint64_t piece_bytes = uint64_t{64} << 20;
};

// The digests of ranges of host memory, of any size (BLAKE3 also of ranges larger than the device's
// memory), laid out as Device::Digest does: copies to pinned memory, transfers and kernels overlap.
// Waits for the result. A SHA-2 range must fit into the device's memory as a whole. Errors as
// Device::Digest; kInvalidArgument where `device` is no CUDA device.
absl::Status DigestHostMemory(Device& device, Algorithm algorithm, ByteSpan host,
                              std::span<const Range> ranges, std::span<uint8_t> out,
                              const HostDigestOptions& options = {});

}  // namespace pavise::hash

#endif  // PAVISE_HASH_CUDA_CUDA_DEVICE_H_
