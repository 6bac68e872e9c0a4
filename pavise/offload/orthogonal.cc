#include "pavise/offload/orthogonal.h"

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/offload/internal/mixing.h"

namespace pavise::offload {
namespace {

using internal::Mixing;

class OrthogonalScheme final : public internal::LinearScheme {
 public:
  explicit OrthogonalScheme(const OrthogonalOptions& options) : options_(options) {}

  std::string_view name() const override { return "orthogonal"; }
  // Muon's orthogonalisation f(Q V R^T) = Q f(V) R^T; AdamW works element by element.
  bool updates_encoded_weights(Optimizer optimizer) const override {
    return optimizer != Optimizer::kAdamW;
  }
  KeyLimits limits(const LayerShape& shape) const override {
    return {.steps = options_.max_steps,
            .known_equations = std::min(shape.inputs, shape.outputs) / 2};
  }
  LeakageProfile leakage(Use use) const override;

  absl::StatusOr<std::unique_ptr<internal::AxisKey>> NewFeatureKey(
      size_t size, SecretStream& stream) const override {
    return Mixing::DrawForFeatures(size, options_.rounds, stream);
  }
  absl::StatusOr<std::unique_ptr<internal::AxisKey>> NewSampleKey(
      const StepShape& shape, SecretStream& stream) const override {
    std::vector<uint32_t> grouping = shape.grouping;
    if (grouping.empty()) {
      PAVISE_ASSIGN_OR_RETURN(grouping, stream.Permutation(shape.samples));
    }
    return Mixing::DrawForSamples(std::move(grouping), options_.rounds, stream);
  }

 private:
  const OrthogonalOptions options_;
};

LeakageProfile OrthogonalScheme::leakage(Use use) const {
  LeakageProfile profile;
  profile.scheme = name();
  profile.use = use;
  profile.inputs = profile.weights = profile.outputs = Exposure::kMixed;
  profile.gradients = use == Use::kTraining ? Exposure::kMixed : Exposure::kNotSent;
  profile.assumption =
      "the weights have no public base model, and the worker knows fewer rows of the inputs than "
      "the "
      "key's limit of known equations";
  profile.leaks = {
      "singular values of every matrix, and so norms and ranks",
      "over the steps of a key, the Gram matrices of inputs and gradients up to a rotation",
      "the sign alone hides a dimension of size 1 (and the only sample of a batch: norms and inner "
      "products of such batches show), and a rotation of few angles one of size 2 or 3",
      "the geometry of images, where convolutions are done by the worker (native)",
  };
  profile.attacks = {
      {"alignment of singular vectors", "a public base model, fine-tuned by 1%",
       "the top 32 directions of 512 x 512 weights; with 5% and a power-law spectrum too"},
      {"linear relations",
       "inputs of LayerNorm, gradients of a softmax: rows that satisfy one; inputs after a ReLU, "
       "whose mean is known",
       "one direction of the key for each, which counts as a known equation and is not charged"},
      {"geometry of images", "convolutions by the worker (native)",
       "the inner products of all pairs of places, over a batch's samples and channels"},
      {"known plaintext", "all r rows of a step's inputs, or of its outputs",
       "the key on the r directions that they span, and so all of it once r is k, or n"},
      {"independent components, principal components",
       "other inputs of the same kind; or, where features are nearly independent, many rows under "
       "one key and nothing else",
       "the key on the inputs' largest directions: 11 of 32 in a ViT, from one step; of "
       "independent "
       "features all of it, the sooner the fewer samples are mixed"},
  };
  return profile;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> NewOrthogonalScheme(const OrthogonalOptions& options) {
  if (options.rounds < 2 || options.rounds > 4 || options.max_steps < 1) {
    return UsageError("orthogonal: 2 to 4 rounds, and a key serves 1 step or more");
  }
  return std::make_unique<OrthogonalScheme>(options);
}

}  // namespace pavise::offload
