#include "pavise/offload/tempo.h"

#include "pavise/base/status.h"
#include "pavise/offload/internal/scaled_permutation.h"

namespace pavise::offload {
namespace {

using internal::ScaledPermutation;

class TempoScheme final : public internal::LinearScheme {
 public:
  explicit TempoScheme(const TempoOptions& options) : options_(options) {}

  std::string_view name() const override { return "tempo"; }
  bool updates_encoded_weights(Optimizer optimizer) const override {
    return optimizer == Optimizer::kSgd || options_.max_coefficient == 1;
  }
  // One known row of X is found again by its sorted values, and gives the permutation.
  KeyLimits limits(const LayerShape&) const override {
    return {.steps = options_.max_steps, .known_equations = 0};
  }
  LeakageProfile leakage(Use use) const override;

  absl::StatusOr<std::unique_ptr<internal::AxisKey>> NewFeatureKey(
      size_t size, SecretStream& stream) const override {
    return ScaledPermutation::Draw(size, options_.max_coefficient, stream);
  }
  absl::StatusOr<std::unique_ptr<internal::AxisKey>> NewSampleKey(
      const StepShape& shape, SecretStream& stream) const override {
    return ScaledPermutation::Draw(shape.samples, options_.max_coefficient, stream);
  }

 private:
  const TempoOptions options_;
};

LeakageProfile TempoScheme::leakage(Use use) const {
  LeakageProfile profile;
  profile.scheme = name();
  profile.use = use;
  const bool is_permutation = use == Use::kTraining || options_.max_coefficient == 1;
  profile.inputs = profile.weights = profile.outputs =
      is_permutation ? Exposure::kPermuted : Exposure::kScaled;
  profile.gradients = use == Use::kTraining ? Exposure::kPermuted : Exposure::kNotSent;
  profile.assumption = "the worker knows neither the weights' base model nor any row of the inputs";
  profile.leaks = {
      "zeros and signs of every element, and how many there are in each row and column",
      "histograms of values, up to scale",
      "which rows of a key's batches are equal: the same sample, or the same question, again",
      "the geometry of images, where convolutions are done by the worker (native)",
  };
  profile.attacks = {
      {"row and column matching", "a public base model, fine-tuned by up to 20%",
       "all rows and columns of 512 x 512 Gaussian weights, values within 0.3 to 2.3%"},
      {"direction matching (ArrowMatch)", "a public base model", "over 98% of the weights"},
      {"greatest common divisors", "inputs that are integers or of few values",
       "the coefficients of inference"},
      {"linear relations", "inputs of LayerNorm, or of others whose rows satisfy one",
       "the coefficients of inference"},
      {"sorting", "one known row of the inputs", "the permutation of the inputs' columns"},
      {"linking of steps", "the traffic of two steps under one key",
       "which rows are of one sample: they differ by a factor"},
      {"geometry of images", "convolutions by the worker (native)",
       "each channel's image, in another order"},
      {"probabilities that sum to one", "the products of attention, near to uniform",
       "the coefficients of P V, and so the values of P"},
  };
  if (use == Use::kTraining) {
    profile.leaks.push_back(
        "the coefficients of the k and n dimensions, by the key shift: only permutations are left");
    profile.attacks.push_back({"scale ratio", "the traffic alone",
                               "the coefficients, exactly: sorted weights are in the clear"});
    profile.attacks.push_back(
        {"labels from gradients", "the traffic alone",
         "which rows are of one class: their gradients have the same signs in the same places"});
  }
  return profile;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> NewTempoScheme(const TempoOptions& options) {
  if (options.max_coefficient < 1 || options.max_coefficient > 256 || options.max_steps < 1) {
    return UsageError(
        "tempo: coefficients go from 1 to at most 256, and a key serves 1 step or more");
  }
  return std::make_unique<TempoScheme>(options);
}

}  // namespace pavise::offload
