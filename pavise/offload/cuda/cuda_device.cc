#include "pavise/offload/cuda/cuda_device.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/cuda/cublaslt_products.h"
#include "pavise/offload/cuda/cudnn_convolutions.h"
#include "pavise/offload/cuda/gpu_device.h"
#include "pavise/offload/cuda/launch.h"

namespace pavise::offload {
namespace {

using cuda::Findings;
using cuda::Gemm;
using cuda::GpuStream;

// The first with bf16 on its matrix units.
constexpr int kOldestMajor = 8;

absl::Status Check(int result, std::string_view call) {
  const auto error = static_cast<cudaError_t>(result);
  if (error == cudaSuccess) return absl::OkStatus();
  (void)cudaGetLastError();  // else the next call would return it again
  return MachineFailure(
      "CUDA", StrCat(call, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")"));
}

absl::Status NoGpu(std::string_view item, std::string_view why) {
  return Refuse(Reason::kUnsupported, item, why,
                "check nvidia-smi and CUDA_VISIBLE_DEVICES, or give cpu");
}

// A GPU's memory and libraries. Freed memory stays with the process for later tensors.
class CudaRuntime final : public cuda::GpuRuntime {
 public:
  explicit CudaRuntime(int ordinal) : ordinal_(ordinal) {}
  ~CudaRuntime() override {
    (void)cudaSetDevice(ordinal_);
    convolutions_.reset();
    products_.reset();
    if (memory_stream_ != nullptr) {
      (void)cudaStreamSynchronize(memory_stream_);
      (void)cudaStreamDestroy(memory_stream_);
    }
    if (pool_ != nullptr) (void)cudaMemPoolDestroy(pool_);
    (void)cudaGetLastError();
  }

  absl::Status Start();

  std::string_view name() const override { return name_; }
  absl::StatusOr<void*> Allocate(uint64_t size_bytes, std::string_view item) override {
    PAVISE_RETURN_IF_ERROR(Enter());
    void* memory = nullptr;
    const absl::Status status =
        Check(cudaMallocFromPoolAsync(&memory, size_bytes, pool_, memory_stream_),
              StrCat("cudaMallocFromPoolAsync of ", HumanBytes(size_bytes)));
    if (!status.ok()) return MachineFailure(item, FromAbsl(status.message()));
    // Then any stream may use it.
    if (const absl::Status ready =
            Check(cudaStreamSynchronize(memory_stream_), "cudaStreamSynchronize");
        !ready.ok()) {
      Free(memory);
      return ready;
    }
    return memory;
  }
  void Free(void* device) override {
    (void)cudaSetDevice(ordinal_);
    (void)cudaFreeAsync(device, memory_stream_);
    (void)cudaGetLastError();
  }
  absl::StatusOr<std::unique_ptr<GpuStream>> NewStream() override;
  std::optional<uint64_t> ConvolutionWorkspaceBytes(const HostConvolution& convolution) override {
    if (convolutions_ == nullptr || !Enter().ok()) return std::nullopt;
    return convolutions_->WorkspaceBytes(convolution);
  }

  absl::Status Enter() const { return Check(cudaSetDevice(ordinal_), "cudaSetDevice"); }
  cuda::CublasLtProducts& products() { return *products_; }
  cuda::CudnnConvolutions* convolutions() { return convolutions_.get(); }

 private:
  const int ordinal_;
  std::string name_;
  cudaMemPool_t pool_ = nullptr;
  cudaStream_t memory_stream_ = nullptr;
  std::unique_ptr<cuda::CublasLtProducts> products_;
  std::unique_ptr<cuda::CudnnConvolutions> convolutions_;  // null: no cuDNN
};

absl::Status CudaRuntime::Start() {
  const std::string item = StrCat("cuda:", ordinal_);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  if (error == cudaErrorInsufficientDriver || error == cudaErrorStubLibrary) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("no NVIDIA driver, or one that is too old for CUDA ",
                         CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10),
                  "install a newer NVIDIA driver, or give cpu");
  }
  if (error != cudaSuccess && error != cudaErrorNoDevice) {
    return Check(error, "cudaGetDeviceCount");
  }
  if (error == cudaErrorNoDevice || ordinal_ < 0 || ordinal_ >= count) {
    return NoGpu(item, StrCat(error == cudaErrorNoDevice ? 0 : count,
                              " NVIDIA GPUs are visible to this process"));
  }
  PAVISE_RETURN_IF_ERROR(Enter());
  cudaDeviceProp properties;
  PAVISE_RETURN_IF_ERROR(
      Check(cudaGetDeviceProperties(&properties, ordinal_), "cudaGetDeviceProperties"));
  if (properties.major < kOldestMajor) {
    return NoGpu(item, StrCat(properties.name, " is of compute capability ", properties.major, ".",
                              properties.minor, ", older than ", kOldestMajor, ".0"));
  }
  if (properties.memoryPoolsSupported == 0) {
    return NoGpu(item, StrCat(properties.name, " is offered without memory pools"));
  }
  cudaMemPoolProps pool = {};
  pool.allocType = cudaMemAllocationTypePinned;
  pool.location.type = cudaMemLocationTypeDevice;
  pool.location.id = ordinal_;
  PAVISE_RETURN_IF_ERROR(Check(cudaMemPoolCreate(&pool_, &pool), "cudaMemPoolCreate"));
  uint64_t keep_bytes = ~uint64_t{0};
  PAVISE_RETURN_IF_ERROR(
      Check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_bytes),
            "cudaMemPoolSetAttribute"));
  PAVISE_RETURN_IF_ERROR(Check(cudaStreamCreateWithFlags(&memory_stream_, cudaStreamNonBlocking),
                               "cudaStreamCreateWithFlags"));
  PAVISE_ASSIGN_OR_RETURN(products_, cuda::CublasLtProducts::Open());
  absl::StatusOr<std::unique_ptr<cuda::CudnnConvolutions>> convolutions =
      cuda::CudnnConvolutions::Open();
  if (convolutions.ok()) convolutions_ = std::move(*convolutions);
  name_ = StrCat(item, " (", properties.name, ", ", products_->name(), ", ",
                 convolutions_ == nullptr ? "no cuDNN" : convolutions_->name(), ")");
  return absl::OkStatus();
}

class CudaStream final : public GpuStream {
 public:
  explicit CudaStream(CudaRuntime& runtime) : runtime_(runtime) {}
  ~CudaStream() override {
    (void)runtime_.Enter();
    if (stream_ != nullptr) (void)cudaStreamSynchronize(stream_);
    for (void* const memory : pinned_) (void)cudaFreeHost(memory);
    for (void* const memory : pieces_) (void)cudaFree(memory);
    for (const cudaEvent_t event : transfers_) {
      if (event != nullptr) (void)cudaEventDestroy(event);
    }
    (void)cudaFreeHost(findings_);
    (void)cudaFree(device_findings_);
    (void)cudaFree(workspace_);
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
    (void)cudaGetLastError();
  }

  absl::Status Start() {
    PAVISE_RETURN_IF_ERROR(runtime_.Enter());
    PAVISE_RETURN_IF_ERROR(Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                                 "cudaStreamCreateWithFlags"));
    for (size_t i = 0; i < kPieces; ++i) {
      PAVISE_RETURN_IF_ERROR(NewPinned(kPieceBytes, pinned_[i]));
      PAVISE_RETURN_IF_ERROR(NewDevice(kPieceBytes, pieces_[i]));
      // Waiting for a transfer takes no CPU time from the others.
      PAVISE_RETURN_IF_ERROR(Check(
          cudaEventCreateWithFlags(&transfers_[i], cudaEventDisableTiming | cudaEventBlockingSync),
          "cudaEventCreateWithFlags"));
    }
    PAVISE_RETURN_IF_ERROR(NewPinned(sizeof(Findings), findings_));
    *static_cast<Findings*>(findings_) = Findings{};
    PAVISE_RETURN_IF_ERROR(NewDevice(sizeof(Findings), device_findings_));
    return NewDevice(cuda::CublasLtProducts::kWorkspaceBytes, workspace_);
  }

  uint8_t* pinned(int piece) override {
    return static_cast<uint8_t*>(pinned_[static_cast<size_t>(piece)]);
  }
  uint8_t* device_piece(int piece) override {
    return static_cast<uint8_t*>(pieces_[static_cast<size_t>(piece)]);
  }
  Findings* device_findings() override { return static_cast<Findings*>(device_findings_); }
  const Findings& findings() const override { return *static_cast<const Findings*>(findings_); }

  absl::Status CopyToDevice(void* device, const uint8_t* pinned, uint64_t size_bytes) override {
    return Copy(device, pinned, size_bytes, cudaMemcpyHostToDevice);
  }
  absl::Status CopyToHost(uint8_t* pinned, const void* device, uint64_t size_bytes) override {
    return Copy(pinned, device, size_bytes, cudaMemcpyDeviceToHost);
  }
  absl::Status MarkTransfer(int piece) override {
    PAVISE_RETURN_IF_ERROR(runtime_.Enter());
    return Check(cudaEventRecord(transfers_[static_cast<size_t>(piece)], stream_),
                 "cudaEventRecord");
  }
  absl::Status WaitForTransfer(int piece) override {
    PAVISE_RETURN_IF_ERROR(runtime_.Enter());
    return Check(cudaEventSynchronize(transfers_[static_cast<size_t>(piece)]),
                 "cudaEventSynchronize");
  }
  absl::Status Clear(void* device, uint64_t size_bytes) override {
    PAVISE_RETURN_IF_ERROR(runtime_.Enter());
    return Check(cudaMemsetAsync(device, 0, size_bytes, stream_), "cudaMemsetAsync");
  }
  absl::Status ClearFindings() override {
    // Only read by the copy: what Wait writes there comes after it in this stream.
    *static_cast<Findings*>(findings_) = Findings{};
    return Copy(device_findings_, findings_, sizeof(Findings), cudaMemcpyHostToDevice);
  }
  absl::Status Run(const cuda::Kernel& kernel) override {
    PAVISE_RETURN_IF_ERROR(runtime_.Enter());
    return Check(cuda::Launch(kernel, stream_), "a kernel's launch");
  }
  absl::Status Multiply(const Gemm& gemm, const void* first, const void* second, bool add,
                        void* result) override {
    PAVISE_RETURN_IF_ERROR(runtime_.Enter());
    return runtime_.products().Multiply(gemm, first, second, add, result, workspace_, stream_);
  }
  absl::Status Convolve(const HostConvolution& convolution, const float* a, const float* b,
                        float* out, void* workspace, uint64_t workspace_bytes) override {
    if (runtime_.convolutions() == nullptr) return UsageError("cuda: no cuDNN");
    PAVISE_RETURN_IF_ERROR(runtime_.Enter());
    return runtime_.convolutions()->Convolve(convolution, a, b, out, workspace, workspace_bytes,
                                             stream_);
  }
  absl::Status Wait() override {
    PAVISE_RETURN_IF_ERROR(
        Copy(findings_, device_findings_, sizeof(Findings), cudaMemcpyDeviceToHost));
    return Check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }

 private:
  static absl::Status NewPinned(size_t size_bytes, void*& memory) {
    return Check(cudaHostAlloc(&memory, size_bytes, cudaHostAllocDefault), "cudaHostAlloc");
  }
  static absl::Status NewDevice(size_t size_bytes, void*& memory) {
    return Check(cudaMalloc(&memory, size_bytes), StrCat("cudaMalloc of ", HumanBytes(size_bytes)));
  }
  absl::Status Copy(void* to, const void* from, uint64_t size_bytes, cudaMemcpyKind kind) {
    PAVISE_RETURN_IF_ERROR(runtime_.Enter());
    return Check(cudaMemcpyAsync(to, from, size_bytes, kind, stream_), "cudaMemcpyAsync");
  }

  CudaRuntime& runtime_;
  cudaStream_t stream_ = nullptr;
  std::array<void*, kPieces> pinned_ = {};
  std::array<void*, kPieces> pieces_ = {};
  std::array<cudaEvent_t, kPieces> transfers_ = {};
  void* findings_ = nullptr;  // pinned
  void* device_findings_ = nullptr;
  void* workspace_ = nullptr;
};

absl::StatusOr<std::unique_ptr<GpuStream>> CudaRuntime::NewStream() {
  auto stream = std::make_unique<CudaStream>(*this);
  PAVISE_RETURN_IF_ERROR(stream->Start());
  return stream;
}

}  // namespace

absl::StatusOr<std::shared_ptr<ComputeDevice>> OpenCudaDevice(int ordinal) {
  auto runtime = std::make_shared<CudaRuntime>(ordinal);
  PAVISE_RETURN_IF_ERROR(runtime->Start());
  return cuda::NewGpuDevice(std::move(runtime));
}

}  // namespace pavise::offload
