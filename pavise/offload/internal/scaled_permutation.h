#ifndef PAVISE_OFFLOAD_INTERNAL_SCALED_PERMUTATION_H_
#define PAVISE_OFFLOAD_INTERNAL_SCALED_PERMUTATION_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "pavise/offload/internal/axis_key.h"

namespace pavise::offload::internal {

// Tempo's key P = D Pi:  (P v)_i = coefficient_i v_{order_i},  (P^-T v)_i = v_{order_i} /
// coefficient_i.
class ScaledPermutation final : public AxisKey {
 public:
  ~ScaledPermutation() override;
  // Coefficients are uniform integers from 1 to `max_coefficient`.
  static absl::StatusOr<std::unique_ptr<ScaledPermutation>> Draw(size_t size,
                                                                 uint32_t max_coefficient,
                                                                 SecretStream& stream);

  void Encode(Variant variant, const AxisLayout& layout, std::span<float> values) const override;
  void Decode(Variant variant, const AxisLayout& layout, std::span<float> values) const override;
  std::vector<float> ContragredientToDirect() const override;

  size_t size() const override { return order_.size(); }
  const std::vector<uint32_t>& order() const { return order_; }
  // What element i of an encoded vector was multiplied by.
  float Factor(Variant variant, size_t i) const {
    return variant == Variant::kDirect ? coefficients_[i] : 1 / coefficients_[i];
  }

  // What undoes it.
  float DecodeFactor(Variant variant, size_t i) const {
    return variant == Variant::kDirect ? 1 / coefficients_[i] : coefficients_[i];
  }

 private:
  std::vector<uint32_t> order_;
  std::vector<float> coefficients_;
};

}  // namespace pavise::offload::internal

#endif  // PAVISE_OFFLOAD_INTERNAL_SCALED_PERMUTATION_H_
