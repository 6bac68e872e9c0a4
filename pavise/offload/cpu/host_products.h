#ifndef PAVISE_OFFLOAD_CPU_HOST_PRODUCTS_H_
#define PAVISE_OFFLOAD_CPU_HOST_PRODUCTS_H_

#include <cstdint>
#include <memory>
#include <string_view>

#include "pavise/offload/residues.h"
#include "pavise/offload/tensor.h"

#include "absl/status/status.h"

namespace pavise::offload {

// Products in the process's own memory: a b, a b^T or a^T b. Callers have checked that shapes fit.
// Thread-safe.
class HostProducts {
 public:
  virtual ~HostProducts() = default;
  // "oneDNN 2.6, 2 threads"
  virtual std::string_view name() const = 0;
  // Whether Bf16 is there.
  virtual bool multiplies_bf16() const = 0;
  // With `add` the product is added to `out`. Sums are fp32.
  virtual absl::Status Floats(Operation operation, MatrixView a, MatrixView b, bool add,
                              MutableMatrixView out) const = 0;
  // Operands are bf16.
  virtual absl::Status Bf16(Operation operation, ViewOf<const uint16_t> a, ViewOf<const uint16_t> b,
                            bool add, MutableMatrixView out) const = 0;
  // Exact: sums of at most kMaxInnerResidues products of centred residues.
  virtual absl::Status Residues(Operation operation, ViewOf<const int8_t> a, ViewOf<const int8_t> b,
                                ViewOf<int32_t> out) const = 0;
};

// Loops, one thread.
std::unique_ptr<HostProducts> NewPlainProducts();

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_CPU_HOST_PRODUCTS_H_
