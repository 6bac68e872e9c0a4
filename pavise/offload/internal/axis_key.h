#ifndef PAVISE_OFFLOAD_INTERNAL_AXIS_KEY_H_
#define PAVISE_OFFLOAD_INTERNAL_AXIS_KEY_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pavise/offload/scheme.h"

namespace pavise::offload::internal {

// The secret invertible matrix P of one dimension, and its contragredient P^-T. Where a dimension
// is summed over by a product, one operand carries P and the other P^-T, so that they cancel.
enum class Variant { kDirect, kContragredient };

// A tensor [outer][size][inner] without gaps, whose middle axis the key acts on.
struct AxisLayout {
  size_t outer = 1;
  size_t size = 1;
  size_t inner = 1;
};

// Immutable, thread-safe.
class AxisKey {
 public:
  virtual ~AxisKey() = default;
  virtual size_t size() const = 0;
  virtual bool is_identity() const { return false; }
  // In place, plain code. layout.size is the key's dimension.
  virtual void Encode(Variant variant, const AxisLayout& layout, std::span<float> values) const = 0;
  virtual void Decode(Variant variant, const AxisLayout& layout, std::span<float> values) const = 0;
  // What brings P^-T v to P v by a factor for each element; empty where P = P^-T.
  virtual std::vector<float> ContragredientToDirect() const { return {}; }
};

// A scheme whose encodings are  left key x matrix x right key: one worker, floats, all operations.
class LinearScheme : public Scheme {
 public:
  size_t workers() const final { return 1; }
  bool supports(Use) const final { return true; }
  absl::StatusOr<std::unique_ptr<Layer>> NewLayer(std::string item, const LayerShape& shape,
                                                  SecretStream stream) const final;
  // Keys of the k and n dimensions, which live as long as the layer.
  virtual absl::StatusOr<std::unique_ptr<AxisKey>> NewFeatureKey(size_t size,
                                                                 SecretStream& stream) const = 0;
  // Of the m dimension: fresh each step.
  virtual absl::StatusOr<std::unique_ptr<AxisKey>> NewSampleKey(const StepShape& shape,
                                                                SecretStream& stream) const = 0;
};

}  // namespace pavise::offload::internal

#endif  // PAVISE_OFFLOAD_INTERNAL_AXIS_KEY_H_
