#include "pavise/offload/internal/scaled_permutation.h"

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/offload/internal/wipe.h"

namespace pavise::offload::internal {

absl::StatusOr<std::unique_ptr<ScaledPermutation>> ScaledPermutation::Draw(size_t size,
                                                                           uint32_t max_coefficient,
                                                                           SecretStream& stream) {
  auto key = std::make_unique<ScaledPermutation>();
  PAVISE_ASSIGN_OR_RETURN(key->order_, stream.Permutation(size));
  PAVISE_ASSIGN_OR_RETURN(const auto drawn, stream.Below(max_coefficient, size));
  key->coefficients_.reserve(size);
  for (const uint32_t value : drawn) key->coefficients_.push_back(static_cast<float>(value + 1));
  return key;
}

ScaledPermutation::~ScaledPermutation() {
  Wipe(order_);
  Wipe(coefficients_);
}

void ScaledPermutation::Encode(Variant variant, const AxisLayout& layout,
                               std::span<float> values) const {
  std::vector<float> plain(layout.size * layout.inner);
  for (size_t o = 0; o < layout.outer; ++o) {
    float* const block = &values[o * plain.size()];
    std::copy_n(block, plain.size(), plain.data());
    for (size_t i = 0; i < layout.size; ++i) {
      const float factor = Factor(variant, i);
      const float* const from = &plain[order_[i] * layout.inner];
      for (size_t j = 0; j < layout.inner; ++j) block[i * layout.inner + j] = factor * from[j];
    }
  }
}

void ScaledPermutation::Decode(Variant variant, const AxisLayout& layout,
                               std::span<float> values) const {
  std::vector<float> encoded(layout.size * layout.inner);
  for (size_t o = 0; o < layout.outer; ++o) {
    float* const block = &values[o * encoded.size()];
    std::copy_n(block, encoded.size(), encoded.data());
    for (size_t i = 0; i < layout.size; ++i) {
      const float factor = DecodeFactor(variant, i);
      float* const to = &block[order_[i] * layout.inner];
      for (size_t j = 0; j < layout.inner; ++j) to[j] = factor * encoded[i * layout.inner + j];
    }
  }
}

std::vector<float> ScaledPermutation::ContragredientToDirect() const {
  std::vector<float> factors(coefficients_);
  for (float& factor : factors) factor *= factor;
  return factors;
}

}  // namespace pavise::offload::internal
