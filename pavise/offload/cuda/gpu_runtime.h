#ifndef PAVISE_OFFLOAD_CUDA_GPU_RUNTIME_H_
#define PAVISE_OFFLOAD_CUDA_GPU_RUNTIME_H_

#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "pavise/offload/cpu/host_products.h"
#include "pavise/offload/cuda/kernels.h"
#include "pavise/offload/residues.h"
#include "pavise/offload/tensor.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// What gpu_device.h asks of a GPU. CUDA is behind it, and in tests the CPU, which does what is
// queued only when it is waited for.
namespace pavise::offload::cuda {

enum class GemmType : uint8_t { kFp32, kBf16, kFp16, kInt8 };

// result = op(first) op(second), of column-major matrices as BLAS has them: m x n with sums of k
// terms. Sums are fp32, without TF32, or int32, and the result is.
//
// A row-major matrix is the transpose of a column-major one, so that  out = a b  of row-major
// matrices is  out^T = b^T a^T  here: `first` is b.
struct Gemm {
  GemmType type = GemmType::kFp32;
  bool first_transposed = false;
  bool second_transposed = false;
  uint64_t m = 0;
  uint64_t n = 0;
  uint64_t k = 0;
  uint64_t first_stride = 0;  // elements between columns, as all three
  uint64_t second_stride = 0;
  uint64_t result_stride = 0;
  auto operator<=>(const Gemm&) const = default;
};

// Of row-major matrices without gaps: rows x columns with sums of `inner` terms.
Gemm GemmOf(Operation operation, GemmType type, uint64_t rows, uint64_t inner, uint64_t columns);

// What int8 matrix units take of a product of residues: both operands with the terms of a sum side
// by side, the right one transposed, and zeros up to multiples of 32 (cuBLASLt asks for multiples
// of 4 of some sizes, its kernels for 16 and for more than 16 rows).
struct ResidueGemm {
  uint64_t padded_rows = 0;
  uint64_t padded_inner = 0;
  uint64_t padded_columns = 0;
  uint64_t rows_at_once = 0;  // of padded_rows, whose int32 sums are in memory at a time
  uint64_t left_bytes() const { return padded_rows * padded_inner; }
  uint64_t right_bytes() const { return padded_columns * padded_inner; }
  uint64_t sums_bytes() const { return rows_at_once * padded_columns * sizeof(int32_t); }
  uint64_t total_bytes() const { return left_bytes() + right_bytes() + sums_bytes(); }
  // Of so many of its padded rows.
  Gemm ForRows(uint64_t rows) const;
};
// `sum_elements`: of sums in memory at a time, but of 32 rows at least.
ResidueGemm ResidueGemmOf(uint64_t rows, uint64_t inner, uint64_t columns, uint64_t sum_elements);

// A queue of work on the GPU, done in order, with two buffers for transfers. One thread's at a
// time. Everything but Wait and WaitForTransfer only queues. Errors of a driver or library are
// machine failures.
class GpuStream {
 public:
  static constexpr uint64_t kPieceBytes = uint64_t{4} << 20;
  static constexpr int kPieces = 2;

  virtual ~GpuStream() = default;
  // Pinned host memory and device memory of kPieceBytes each.
  virtual uint8_t* pinned(int piece) = 0;
  virtual uint8_t* device_piece(int piece) = 0;
  // In device memory; Wait makes them findings().
  virtual Findings* device_findings() = 0;
  virtual const Findings& findings() const = 0;

  // From and to pinned memory of this stream, at most kPieceBytes.
  virtual absl::Status CopyToDevice(void* device, const uint8_t* pinned, uint64_t size_bytes) = 0;
  virtual absl::Status CopyToHost(uint8_t* pinned, const void* device, uint64_t size_bytes) = 0;
  // WaitForTransfer returns when what was queued before the last MarkTransfer of that piece is
  // done; at once where there was none.
  virtual absl::Status MarkTransfer(int piece) = 0;
  virtual absl::Status WaitForTransfer(int piece) = 0;
  virtual absl::Status Clear(void* device, uint64_t size_bytes) = 0;
  virtual absl::Status ClearFindings() = 0;
  virtual absl::Status Run(const Kernel& kernel) = 0;
  // With `add` the product is added to the result.
  virtual absl::Status Multiply(const Gemm& gemm, const void* first, const void* second, bool add,
                                void* result) = 0;
  // As compute_device.h says, but for weights, which are transposed: a row for each output channel.
  // All are fp32; with another type than fp32 operands hold its values only, and products may use
  // what keeps these exact (TF32).
  virtual absl::Status Convolve(const HostConvolution& convolution, const float* a, const float* b,
                                float* out, void* workspace, uint64_t workspace_bytes) = 0;
  virtual absl::Status Wait() = 0;
};

// One GPU. Thread-safe; outlives its streams.
class GpuRuntime {
 public:
  virtual ~GpuRuntime() = default;
  // "cuda:0 (NVIDIA H200, cuBLASLt 13.0, cuDNN 9.19)"
  virtual std::string_view name() const = 0;
  // Ready for any stream; of any content. `item` is what it is for.
  virtual absl::StatusOr<void*> Allocate(uint64_t size_bytes, std::string_view item) = 0;
  // What used it has been waited for.
  virtual void Free(void* device) = 0;
  virtual absl::StatusOr<std::unique_ptr<GpuStream>> NewStream() = 0;
  // Nothing: Convolve does not do this one.
  virtual std::optional<uint64_t> ConvolutionWorkspaceBytes(const HostConvolution& convolution) = 0;
};

}  // namespace pavise::offload::cuda

#endif  // PAVISE_OFFLOAD_CUDA_GPU_RUNTIME_H_
