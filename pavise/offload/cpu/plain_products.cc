#include <algorithm>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/offload/cpu/host_products.h"

namespace pavise::offload {
namespace {

// Row by row of the result; the innermost loop runs along a row of b (and of the result), or where
// b is transposed along rows of a and b both.
template <typename Element, typename Sum>
void Multiply(Operation operation, ViewOf<const Element> a, ViewOf<const Element> b, bool add,
              ViewOf<Sum> out) {
  const bool left = operation == Operation::kTransposeLeft;
  const size_t inner = left ? a.rows : a.columns;
  for (size_t i = 0; i < out.rows; ++i) {
    Sum* const row = out.Row(i);
    if (!add) std::fill_n(row, out.columns, Sum{0});
    if (operation == Operation::kTransposeRight) {
      for (size_t j = 0; j < out.columns; ++j) {
        const Element* const left_row = a.Row(i);
        const Element* const right_row = b.Row(j);
        Sum sum = 0;
        for (size_t k = 0; k < inner; ++k) sum += Sum{left_row[k]} * Sum{right_row[k]};
        row[j] += sum;
      }
      continue;
    }
    for (size_t k = 0; k < inner; ++k) {
      const Sum factor = left ? a(k, i) : a(i, k);
      const Element* const right_row = b.Row(k);
      for (size_t j = 0; j < out.columns; ++j) row[j] += factor * Sum{right_row[j]};
    }
  }
}

class PlainProducts final : public HostProducts {
 public:
  std::string_view name() const override { return "plain loops, 1 thread"; }
  bool multiplies_bf16() const override { return false; }
  absl::Status Floats(Operation operation, MatrixView a, MatrixView b, bool add,
                      MutableMatrixView out) const override {
    Multiply<float, float>(operation, a, b, add, out);
    return absl::OkStatus();
  }
  absl::Status Bf16(Operation, ViewOf<const uint16_t>, ViewOf<const uint16_t>,
                    MutableMatrixView) const override {
    return UsageError("plain products take fp32");
  }
  absl::Status Residues(Operation operation, ViewOf<const int8_t> a, ViewOf<const int8_t> b,
                        ViewOf<int32_t> out) const override {
    Multiply<int8_t, int32_t>(operation, a, b, /*add=*/false, out);
    return absl::OkStatus();
  }
  std::optional<uint64_t> ConvolutionWorkspaceBytes(const HostConvolution&) const override {
    return std::nullopt;
  }
  absl::Status Convolve(const HostConvolution&, const void*, const void*, float*) const override {
    return UsageError("plain products are no convolutions");
  }
};

}  // namespace

std::unique_ptr<HostProducts> NewPlainProducts() { return std::make_unique<PlainProducts>(); }

}  // namespace pavise::offload
