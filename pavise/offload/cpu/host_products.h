#ifndef PAVISE_OFFLOAD_CPU_HOST_PRODUCTS_H_
#define PAVISE_OFFLOAD_CPU_HOST_PRODUCTS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "pavise/offload/convolution.h"
#include "pavise/offload/residues.h"
#include "pavise/offload/tensor.h"

#include "absl/status/status.h"

namespace pavise::offload {

// A convolution whose operands are fp32 or bf16; compute_device.h says what the operations are.
struct HostConvolution {
  Operation operation = Operation::kPlain;
  DType type = DType::kFp32;
  ConvolutionShape shape;
  size_t outputs = 0;  // channels
};

// Products in the process's own memory: a b, a b^T or a^T b. Callers have checked that shapes fit.
// Thread-safe.
class HostProducts {
 public:
  virtual ~HostProducts() = default;
  // "oneDNN 2.6.3, 2 threads"
  virtual std::string_view name() const = 0;
  // Whether operands may be bf16.
  virtual bool multiplies_bf16() const = 0;
  // With `add` the product is added to `out`. Sums are fp32.
  virtual absl::Status Floats(Operation operation, MatrixView a, MatrixView b, bool add,
                              MutableMatrixView out) const = 0;
  // Operands are bf16, sums fp32.
  virtual absl::Status Bf16(Operation operation, ViewOf<const uint16_t> a, ViewOf<const uint16_t> b,
                            MutableMatrixView out) const = 0;
  // Exact: sums of at most kMaxInnerResidues products of centred residues.
  virtual absl::Status Residues(Operation operation, ViewOf<const int8_t> a, ViewOf<const int8_t> b,
                                ViewOf<int32_t> out) const = 0;

  // What Convolve allocates; nothing: it does not do this one.
  virtual std::optional<uint64_t> ConvolutionWorkspaceBytes(
      const HostConvolution& convolution) const = 0;
  // `a` and `b` are matrices of the convolution's type without gaps, as is `out`.
  virtual absl::Status Convolve(const HostConvolution& convolution, const void* a, const void* b,
                                float* out) const = 0;
};

// Loops, one thread; no bf16, no convolutions.
std::unique_ptr<HostProducts> NewPlainProducts();

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_CPU_HOST_PRODUCTS_H_
