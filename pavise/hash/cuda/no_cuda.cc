// cuda_device.h for a build without CUDA's compiler.
#include "pavise/base/status.h"
#include "pavise/hash/cuda/cuda_device.h"

#include "absl/strings/str_cat.h"

namespace pavise::hash {
namespace {

absl::Status NoCuda(const std::string& item) {
  return Refuse(Reason::kUnsupported, item, "this build of Pavise has no CUDA",
                "build it where nvcc is (CUDA 12.8 or later), or name another device");
}

absl::Status NotACudaDevice() { return UsageError("cuda: the device is no CUDA device"); }

}  // namespace

absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices() { return NoCuda("cuda"); }

absl::StatusOr<std::unique_ptr<Device>> NewCudaDevice(int ordinal) {
  return NoCuda(absl::StrCat("cuda:", ordinal));
}

absl::StatusOr<std::unique_ptr<Stream>> WrapCudaStream(Device& /*device*/, void* /*stream*/) {
  return NotACudaDevice();
}

absl::StatusOr<std::unique_ptr<Buffer>> WrapDeviceMemory(Device& /*device*/,
                                                         const void* /*device_pointer*/,
                                                         uint64_t /*size_bytes*/) {
  return NotACudaDevice();
}

absl::Status DigestHostMemory(Device& /*device*/, Algorithm /*algorithm*/, ByteSpan /*host*/,
                              std::span<const Range> /*ranges*/, std::span<uint8_t> /*out*/,
                              const HostDigestOptions& /*options*/) {
  return NotACudaDevice();
}

}  // namespace pavise::hash
