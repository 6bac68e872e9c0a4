#include "pavise/offload/slalom.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/internal/residue_shares.h"
#include "pavise/offload/internal/wipe.h"

namespace pavise::offload {
namespace {

using Residues = std::vector<ResidueMatrix>;

struct LayerState {
  std::string item;
  LayerShape shape;
  int32_t level = 0;
  size_t moduli = 0;
  double weight_scale = 0;
  Residues weights;  // empty before EncodeWeights
};

absl::Status InferenceOnly(std::string_view item) {
  return Refuse(Reason::kUnsupported, item, "slalom has no gradients: it serves inference only",
                "train under tempo, orthogonal or shared");
}

class SlalomStep final : public Step {
 public:
  SlalomStep(const LayerState& layer, size_t rows, Residues masks, Residues products)
      : layer_(layer),
        rows_(rows),
        weight_scale_(layer.weight_scale),
        masks_(std::move(masks)),
        products_(std::move(products)) {}
  ~SlalomStep() override {
    for (ResidueMatrix& mask : masks_) internal::Wipe(mask.values());
    for (ResidueMatrix& product : products_) internal::Wipe(product.values());
  }

  absl::StatusOr<Encoding> EncodeInputs(MatrixView inputs) override {
    if (inputs.rows != rows_ || inputs.columns != layer_.shape.inputs) {
      return UsageError(StrCat(layer_.item, ": inputs of another shape than the step's"));
    }
    if (input_scale_.has_value()) {
      return Refuse(Reason::kKeyExhausted, layer_.item, "these blinding factors were used",
                    "make a new step for every batch");
    }
    PAVISE_ASSIGN_OR_RETURN(const Quantised quantised, Quantise(inputs, layer_.level, layer_.item));
    PAVISE_ASSIGN_OR_RETURN(const auto values,
                            internal::ResiduesOf(quantised.integers, rows_, layer_.shape.inputs,
                                                 layer_.moduli, layer_.item));
    Encoding encoding(1);
    PAVISE_ASSIGN_OR_RETURN(encoding[0].residues, internal::Masked(values, 1, masks_, layer_.item));
    input_scale_ = quantised.scale;
    return encoding;
  }
  absl::StatusOr<Encoding> EncodeOutputGradients(MatrixView) override {
    return InferenceOnly(layer_.item);
  }
  absl::StatusOr<Matrix> DecodeOutputs(const Encoding& outputs) const override {
    if (!input_scale_.has_value()) return UsageError("no inputs were encoded");
    if (outputs.size() != 1) {
      return Refuse(Reason::kMalformed, layer_.item, "the result is not that of one worker");
    }
    const int64_t bound = static_cast<int64_t>(layer_.shape.inputs) * layer_.level * layer_.level;
    constexpr std::array kDifference = {1, -1};
    return internal::Combine({&outputs[0].residues, &products_}, kDifference, rows_,
                             layer_.shape.outputs, layer_.moduli, bound,
                             *input_scale_ * weight_scale_, layer_.item);
  }
  absl::StatusOr<Matrix> DecodeInputGradients(const Encoding&) const override {
    return InferenceOnly(layer_.item);
  }
  absl::StatusOr<Matrix> DecodeWeightGradients(const Encoding&) const override {
    return InferenceOnly(layer_.item);
  }

 private:
  const LayerState& layer_;
  const size_t rows_;
  const double weight_scale_;  // of the weights that products_ were made with
  Residues masks_;
  Residues products_;  // masks x weights
  std::optional<double> input_scale_;
};

class SlalomLayer final : public Layer {
 public:
  SlalomLayer(LayerState state, SecretStream stream, KeyLimits limits)
      : state_(std::move(state)), stream_(std::move(stream)), budget_(state_.item, limits) {}

  const LayerShape& shape() const override { return state_.shape; }
  std::vector<int> moduli() const override {
    return {kModuli.begin(), kModuli.begin() + static_cast<ptrdiff_t>(state_.moduli)};
  }
  const KeyShift& key_shift() const override { return shift_; }
  const KeyBudget& budget() const override { return budget_; }

  absl::StatusOr<Encoding> EncodeWeights(MatrixView weights) override {
    if (weights.rows != state_.shape.inputs || weights.columns != state_.shape.outputs) {
      return UsageError(StrCat(state_.item, ": weights of another shape than the layer's"));
    }
    PAVISE_ASSIGN_OR_RETURN(const Quantised quantised,
                            Quantise(weights, state_.level, state_.item));
    PAVISE_ASSIGN_OR_RETURN(auto residues,
                            internal::ResiduesOf(quantised.integers, weights.rows, weights.columns,
                                                 state_.moduli, state_.item));
    state_.weights = std::move(residues);
    state_.weight_scale = quantised.scale;
    Encoding encoding(1);
    encoding[0].residues = state_.weights;
    return encoding;
  }
  absl::StatusOr<Matrix> DecodeWeights(const Encoding& weights) const override {
    if (weights.size() != 1) {
      return Refuse(Reason::kMalformed, state_.item, "the weights are not those of one worker");
    }
    constexpr std::array kItself = {1};
    return internal::Combine({&weights[0].residues}, kItself, state_.shape.inputs,
                             state_.shape.outputs, state_.moduli, state_.level, state_.weight_scale,
                             state_.item);
  }
  absl::StatusOr<std::unique_ptr<Step>> NewStep(const StepShape& shape, Use use) override {
    if (use != Use::kInference) return InferenceOnly(state_.item);
    PAVISE_RETURN_IF_ERROR(CheckStepShape(state_.item, state_.shape, shape));
    if (state_.weights.empty()) return UsageError("slalom: weights are encoded before steps");
    if (shape.input_positions != shape.output_positions) {
      return UsageError("slalom: inputs and outputs have different rows");
    }
    PAVISE_RETURN_IF_ERROR(budget_.Spend(shape.known_rows));
    PAVISE_ASSIGN_OR_RETURN(SecretStream stream,
                            stream_.Derive(StrCat("step ", budget_.spent().steps)));
    const size_t rows = shape.samples * shape.input_positions;
    PAVISE_ASSIGN_OR_RETURN(
        Residues masks,
        internal::DrawMasks(rows, state_.shape.inputs, state_.moduli, stream, state_.item));
    Residues products;
    for (size_t p = 0; p < state_.moduli; ++p) {
      PAVISE_ASSIGN_OR_RETURN(
          auto product, ModularProduct(Operation::kPlain, masks[p], state_.weights[p], kModuli[p]));
      products.push_back(std::move(product));
    }
    return std::make_unique<SlalomStep>(state_, rows, std::move(masks), std::move(products));
  }

 private:
  LayerState state_;
  SecretStream stream_;
  KeyShift shift_;
  KeyBudget budget_;
};

class SlalomScheme final : public Scheme {
 public:
  explicit SlalomScheme(const SlalomOptions& options) : options_(options) {}

  std::string_view name() const override { return "slalom"; }
  size_t workers() const override { return 1; }
  bool supports(Use use) const override { return use == Use::kInference; }
  bool updates_encoded_weights(Optimizer) const override { return false; }
  KeyLimits limits(const LayerShape&) const override { return {}; }
  LeakageProfile leakage(Use use) const override {
    LeakageProfile profile;
    profile.scheme = name();
    profile.use = use;
    profile.assumption = "the weights are no secret";
    if (use == Use::kTraining) {
      profile.inputs = profile.weights = profile.outputs = profile.gradients = Exposure::kNotSent;
      profile.assumption = "none: training is refused";
      return profile;
    }
    profile.inputs = profile.outputs = Exposure::kUniform;
    profile.weights = Exposure::kVisible;
    profile.gradients = Exposure::kNotSent;
    profile.leaks = {"the weights, quantised"};
    profile.attacks = {{"subspace attack on reused noise", "two batches under one blinding factor",
                        "their difference: a factor is used once"}};
    return profile;
  }

  absl::StatusOr<std::unique_ptr<Layer>> NewLayer(std::string item, const LayerShape& shape,
                                                  SecretStream stream) const override {
    PAVISE_RETURN_IF_ERROR(CheckLayerShape(item, shape));
    if (shape.taps != 1) {
      return Refuse(Reason::kUnsupported, item, "slalom has no convolutions on the worker",
                    "turn the convolution into a product (im2col)");
    }
    LayerState state;
    state.item = std::move(item);
    state.shape = shape;
    state.level = options_.level;
    PAVISE_ASSIGN_OR_RETURN(state.moduli, ModuliFor(state.item, shape.inputs, state.level));
    return std::make_unique<SlalomLayer>(std::move(state), std::move(stream), limits(shape));
  }

 private:
  const SlalomOptions options_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> NewSlalomScheme(const SlalomOptions& options) {
  if (options.level < 1 || options.level > kMaxLevel) {
    return UsageError(StrCat("slalom: the level goes from 1 to ", kMaxLevel));
  }
  return std::make_unique<SlalomScheme>(options);
}

}  // namespace pavise::offload
