// How much of cuBLASLt's rate a worker's product keeps: the same shapes once as ComputeDevice does
// them, with what that allocates, checks and waits for, and once queued one after the other. Both
// are compared with each other first.
//
// Usage: offload_cuda_bench [ORDINAL]

#include <cuda_runtime_api.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/cuda/cublaslt_products.h"
#include "pavise/offload/cuda/cuda_device.h"

namespace pavise::offload {
namespace {

constexpr int kTimes = 50;

absl::Status Check(cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  return MachineFailure("CUDA", cudaGetErrorString(error));
}

// Small, so that no sum of bf16 products loses anything to its order.
absl::StatusOr<Frame> FrameOf(size_t rows, size_t columns, DType type) {
  PAVISE_ASSIGN_OR_RETURN(Matrix matrix, Matrix::Create(rows, columns, "bench"));
  uint32_t state = 1;
  for (float& value : matrix.values()) {
    state = state * 1664525 + 1013904223;
    value = static_cast<float>(static_cast<int>(state >> 24) % 4);
  }
  PAVISE_ASSIGN_OR_RETURN(Bytes bytes, PackMatrix(matrix, type, "bench"));
  return Frame{type, 0, rows, columns, std::move(bytes)};
}

class DeviceBytes {
 public:
  explicit DeviceBytes(size_t size_bytes) { status_ = Check(cudaMalloc(&data_, size_bytes)); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  ~DeviceBytes() { (void)cudaFree(data_); }
  const absl::Status& status() const { return status_; }
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  absl::Status status_;
};

template <typename Work>
absl::StatusOr<double> SecondsOf(const Work& work) {
  const auto before = std::chrono::steady_clock::now();
  PAVISE_RETURN_IF_ERROR(work());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
}

absl::Status Compare(ComputeDevice& device, cuda::CublasLtProducts& products, size_t m, size_t k,
                     size_t n, DType type, DType weights_type) {
  PAVISE_ASSIGN_OR_RETURN(const Frame a_frame, FrameOf(m, k, type));
  PAVISE_ASSIGN_OR_RETURN(const Frame b_frame, FrameOf(k, n, type));
  const Multiplication multiplication = {Operation::kPlain, type, std::nullopt};
  const cuda::Gemm gemm =
      cuda::GemmOf(Operation::kPlain,
                   type == DType::kFp32 ? cuda::GemmType::kFp32 : cuda::GemmType::kBf16, m, k, n);
  std::vector<float> bare_result(m * n);
  double bare_seconds = 0;
  {
    const DeviceBytes a(a_frame.bytes.size()), b(b_frame.bytes.size()), out(m * n * sizeof(float)),
        workspace(cuda::CublasLtProducts::kWorkspaceBytes);
    for (const DeviceBytes* const bytes : {&a, &b, &out, &workspace}) {
      PAVISE_RETURN_IF_ERROR(bytes->status());
    }
    PAVISE_RETURN_IF_ERROR(Check(
        cudaMemcpy(a.data(), a_frame.bytes.data(), a_frame.bytes.size(), cudaMemcpyHostToDevice)));
    PAVISE_RETURN_IF_ERROR(Check(
        cudaMemcpy(b.data(), b_frame.bytes.data(), b_frame.bytes.size(), cudaMemcpyHostToDevice)));
    const auto multiply = [&](int times) -> absl::Status {
      for (int i = 0; i < times; ++i) {
        PAVISE_RETURN_IF_ERROR(products.Multiply(gemm, b.data(), a.data(), /*add=*/false,
                                                 out.data(), workspace.data(), nullptr));
      }
      return Check(cudaDeviceSynchronize());
    };
    PAVISE_RETURN_IF_ERROR(multiply(5));
    PAVISE_ASSIGN_OR_RETURN(bare_seconds, SecondsOf([&] { return multiply(kTimes); }));
    PAVISE_RETURN_IF_ERROR(
        Check(cudaMemcpy(bare_result.data(), out.data(), bare_result.size() * sizeof(float),
                         cudaMemcpyDeviceToHost)));
  }
  PAVISE_ASSIGN_OR_RETURN(const auto a, device.Upload(a_frame, type, "a"));
  PAVISE_ASSIGN_OR_RETURN(const auto b, device.Upload(b_frame, weights_type, "b"));
  Frame result;
  const auto multiply = [&](int times) -> absl::Status {
    for (int i = 0; i < times; ++i) {
      PAVISE_ASSIGN_OR_RETURN(const auto product,
                              device.Multiply(multiplication, *a, *b, "product"));
      if (times == 1) {
        PAVISE_ASSIGN_OR_RETURN(result, device.Download(*product, DType::kFp32, "product"));
      }
    }
    return absl::OkStatus();
  };
  PAVISE_RETURN_IF_ERROR(multiply(1));
  if (std::memcmp(result.bytes.data(), bare_result.data(), result.bytes.size()) != 0) {
    return MachineFailure("product", "the two differ");
  }
  PAVISE_RETURN_IF_ERROR(multiply(5));
  PAVISE_ASSIGN_OR_RETURN(const double seconds, SecondsOf([&] { return multiply(kTimes); }));
  const double operations = 2.0 * static_cast<double>(m) * static_cast<double>(k) *
                            static_cast<double>(n) * kTimes * 1e-12;
  std::printf("| %s | %s | %zu x %zu x %zu | %.1f | %.1f | %.0f %% |\n",
              std::string(DTypeName(type)).c_str(), std::string(DTypeName(weights_type)).c_str(), m,
              k, n, operations / seconds, operations / bare_seconds, 100 * bare_seconds / seconds);
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::Status Main(int ordinal) {
  PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<ComputeDevice> device, OpenCudaDevice(ordinal));
  PAVISE_RETURN_IF_ERROR(Check(cudaSetDevice(ordinal)));
  PAVISE_ASSIGN_OR_RETURN(const auto products, cuda::CublasLtProducts::Open());
  std::printf(
      "%s\n\n| type | rows x inner x columns | worker, TFLOP/s | cuBLASLt | |\n"
      "|---|---|---|---|---|\n",
      std::string(device->name()).c_str());
  // ViT-Base at batch 64, a block of width 4096, and ResNet-50's 1x1 convolutions.
  constexpr std::array<std::array<size_t, 3>, 6> kShapes = {{{12608, 768, 3072},
                                                             {12608, 3072, 768},
                                                             {4096, 4096, 12288},
                                                             {4096, 16384, 4096},
                                                             {50176, 256, 512},
                                                             {12544, 1024, 512}}};
  // Weights are kept in fp32 and rounded for each product; attention's operands come as they
  // travel.
  for (const auto& [type, weights_type] :
       {std::pair{DType::kBf16, DType::kBf16}, std::pair{DType::kBf16, DType::kFp32},
        std::pair{DType::kFp32, DType::kFp32}}) {
    for (const auto& [m, k, n] : kShapes) {
      PAVISE_RETURN_IF_ERROR(Compare(*device, *products, m, k, n, type, weights_type));
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace pavise::offload

int main(int argc, char** argv) {
  const absl::Status status = pavise::offload::Main(argc > 1 ? std::atoi(argv[1]) : 0);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return pavise::ExitCodeOf(status);
}
