#include "pavise/offload/none.h"

#include "pavise/offload/internal/axis_key.h"

namespace pavise::offload {
namespace {

class Identity final : public internal::AxisKey {
 public:
  explicit Identity(size_t size) : size_(size) {}
  size_t size() const override { return size_; }
  bool is_identity() const override { return true; }
  void Encode(internal::Variant, const internal::AxisLayout&, std::span<float>) const override {}
  void Decode(internal::Variant, const internal::AxisLayout&, std::span<float>) const override {}

 private:
  const size_t size_;
};

class NoneScheme final : public internal::LinearScheme {
 public:
  std::string_view name() const override { return "none"; }
  bool updates_encoded_weights(Optimizer) const override { return true; }
  KeyLimits limits(const LayerShape&) const override { return {}; }
  LeakageProfile leakage(Use use) const override {
    LeakageProfile profile;
    profile.scheme = name();
    profile.use = use;
    if (use == Use::kInference) profile.gradients = Exposure::kNotSent;
    profile.assumption = "the worker is trusted with everything but the correctness of its results";
    profile.leaks = {"inputs, weights, outputs and gradients, in the clear"};
    return profile;
  }
  absl::StatusOr<std::unique_ptr<internal::AxisKey>> NewFeatureKey(size_t size,
                                                                   SecretStream&) const override {
    return std::make_unique<Identity>(size);
  }
  absl::StatusOr<std::unique_ptr<internal::AxisKey>> NewSampleKey(const StepShape& shape,
                                                                  SecretStream&) const override {
    return std::make_unique<Identity>(shape.samples);
  }
};

}  // namespace

std::unique_ptr<Scheme> NewNoneScheme() { return std::make_unique<NoneScheme>(); }

}  // namespace pavise::offload
