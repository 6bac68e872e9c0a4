#include "pavise/offload/shared.h"

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

constexpr size_t kWorkers = 3;
// The value at 0 of the polynomial of degree 2 through its values at 1, 2 and 3 (Lagrange).
constexpr std::array<int, kWorkers> kAtZero = {3, -3, 1};

// What the steps of a layer share with it.
struct LayerState {
  std::string item;
  LayerShape shape;
  int32_t level = 0;
  size_t moduli = 0;
  std::optional<double> weight_scale;
};

absl::StatusOr<Encoding> Share3(const LayerState& layer, MatrixView matrix, size_t rows,
                                size_t columns, SecretStream& stream, double& scale) {
  if (matrix.rows != rows || matrix.columns != columns) {
    return UsageError(StrCat(layer.item, ": ", matrix.rows, " x ", matrix.columns, " is not ", rows,
                             " x ", columns));
  }
  PAVISE_ASSIGN_OR_RETURN(const Quantised quantised, Quantise(matrix, layer.level, layer.item));
  PAVISE_ASSIGN_OR_RETURN(const auto values, internal::ResiduesOf(quantised.integers, rows, columns,
                                                                  layer.moduli, layer.item));
  PAVISE_ASSIGN_OR_RETURN(auto masks,
                          internal::DrawMasks(rows, columns, layer.moduli, stream, layer.item));
  Encoding encoding(kWorkers);
  for (size_t w = 0; w < kWorkers; ++w) {
    PAVISE_ASSIGN_OR_RETURN(encoding[w].residues,
                            internal::Masked(values, static_cast<int>(w + 1), masks, layer.item));
  }
  for (ResidueMatrix& mask : masks) internal::Wipe(mask.values());
  scale = quantised.scale;
  return encoding;
}

absl::StatusOr<Matrix> Unshare(const LayerState& layer, const Encoding& encoding, size_t rows,
                               size_t columns, int64_t bound, double scale) {
  if (encoding.size() != kWorkers) {
    return Refuse(Reason::kMalformed, layer.item,
                  StrCat(encoding.size(), " workers answered, not ", kWorkers));
  }
  std::vector<const std::vector<ResidueMatrix>*> shares;
  for (const Share& share : encoding) shares.push_back(&share.residues);
  return internal::Combine(shares, kAtZero, rows, columns, layer.moduli, bound, scale, layer.item);
}

class SharedStep final : public Step {
 public:
  SharedStep(const LayerState& layer, const StepShape& shape, SecretStream stream)
      : layer_(layer), shape_(shape), stream_(std::move(stream)) {}

  absl::StatusOr<Encoding> EncodeInputs(MatrixView inputs) override {
    return Encode(inputs, InputRows(), layer_.shape.inputs, input_scale_);
  }
  absl::StatusOr<Encoding> EncodeOutputGradients(MatrixView gradients) override {
    return Encode(gradients, OutputRows(), layer_.shape.outputs, gradient_scale_);
  }
  absl::StatusOr<Matrix> DecodeOutputs(const Encoding& outputs) const override {
    return Decode(outputs, OutputRows(), layer_.shape.outputs,
                  layer_.shape.taps * layer_.shape.inputs, input_scale_, layer_.weight_scale);
  }
  absl::StatusOr<Matrix> DecodeInputGradients(const Encoding& gradients) const override {
    return Decode(gradients, InputRows(), layer_.shape.inputs,
                  layer_.shape.taps * layer_.shape.outputs, gradient_scale_, layer_.weight_scale);
  }
  absl::StatusOr<Matrix> DecodeWeightGradients(const Encoding& gradients) const override {
    return Decode(gradients, layer_.shape.taps * layer_.shape.inputs, layer_.shape.outputs,
                  OutputRows(), input_scale_, gradient_scale_);
  }

 private:
  size_t InputRows() const { return shape_.samples * shape_.input_positions; }
  size_t OutputRows() const { return shape_.samples * shape_.output_positions; }

  absl::StatusOr<Encoding> Encode(MatrixView matrix, size_t rows, size_t columns,
                                  std::optional<double>& scale) {
    if (scale.has_value()) {
      return Refuse(Reason::kKeyExhausted, layer_.item, "this step has encoded a matrix",
                    "make a new step for every batch");
    }
    double found = 0;
    PAVISE_ASSIGN_OR_RETURN(auto encoding, Share3(layer_, matrix, rows, columns, stream_, found));
    scale = found;
    return encoding;
  }

  absl::StatusOr<Matrix> Decode(const Encoding& encoding, size_t rows, size_t columns, size_t inner,
                                std::optional<double> a, std::optional<double> b) const {
    if (!a.has_value() || !b.has_value()) {
      return UsageError(StrCat(layer_.item, ": a result of operands that were not encoded"));
    }
    const int64_t bound = static_cast<int64_t>(inner) * layer_.level * layer_.level;
    return Unshare(layer_, encoding, rows, columns, bound, *a * *b);
  }

  const LayerState& layer_;
  const StepShape shape_;
  SecretStream stream_;
  std::optional<double> input_scale_;
  std::optional<double> gradient_scale_;
};

class SharedLayer final : public Layer {
 public:
  SharedLayer(LayerState state, SecretStream stream, SecretStream weight_stream, KeyLimits limits)
      : state_(std::move(state)),
        stream_(std::move(stream)),
        weight_stream_(std::move(weight_stream)),
        budget_(state_.item, limits) {}

  const LayerShape& shape() const override { return state_.shape; }
  std::vector<int> moduli() const override {
    return {kModuli.begin(), kModuli.begin() + static_cast<ptrdiff_t>(state_.moduli)};
  }
  const KeyShift& key_shift() const override { return shift_; }
  const KeyBudget& budget() const override { return budget_; }

  absl::StatusOr<Encoding> EncodeWeights(MatrixView weights) override {
    double scale = 0;
    PAVISE_ASSIGN_OR_RETURN(auto encoding,
                            Share3(state_, weights, state_.shape.taps * state_.shape.inputs,
                                   state_.shape.outputs, weight_stream_, scale));
    state_.weight_scale = scale;
    return encoding;
  }
  absl::StatusOr<Matrix> DecodeWeights(const Encoding& weights) const override {
    if (!state_.weight_scale.has_value()) return UsageError("no weights were encoded");
    return Unshare(state_, weights, state_.shape.taps * state_.shape.inputs, state_.shape.outputs,
                   state_.level, *state_.weight_scale);
  }
  absl::StatusOr<std::unique_ptr<Step>> NewStep(const StepShape& shape, Use) override {
    PAVISE_RETURN_IF_ERROR(CheckStepShape(state_.item, state_.shape, shape));
    PAVISE_RETURN_IF_ERROR(budget_.Spend(shape.known_rows));
    PAVISE_ASSIGN_OR_RETURN(SecretStream stream,
                            stream_.Derive(StrCat("step ", budget_.spent().steps)));
    return std::make_unique<SharedStep>(state_, shape, std::move(stream));
  }

 private:
  LayerState state_;
  SecretStream stream_;
  SecretStream weight_stream_;  // goes on from one version of the weights to the next
  KeyShift shift_;
  KeyBudget budget_;
};

class SharedScheme final : public Scheme {
 public:
  explicit SharedScheme(const SharedOptions& options) : options_(options) {}

  std::string_view name() const override { return "shared"; }
  size_t workers() const override { return kWorkers; }
  bool supports(Use) const override { return true; }
  bool updates_encoded_weights(Optimizer) const override { return false; }
  // Masks are used once, and known plaintexts say nothing of other masks.
  KeyLimits limits(const LayerShape&) const override { return {}; }
  LeakageProfile leakage(Use use) const override {
    LeakageProfile profile;
    profile.scheme = name();
    profile.use = use;
    profile.inputs = profile.weights = profile.outputs = Exposure::kUniform;
    profile.gradients = use == Use::kTraining ? Exposure::kUniform : Exposure::kNotSent;
    profile.assumption = "no two of the three workers share what they see";
    profile.leaks = {"the number of moduli, from which a bound on a layer's sums follows"};
    profile.attacks = {{"collusion", "the shares of two workers", "everything: X = 2 x1 - x2"}};
    return profile;
  }

  absl::StatusOr<std::unique_ptr<Layer>> NewLayer(std::string item, const LayerShape& shape,
                                                  SecretStream stream) const override {
    PAVISE_RETURN_IF_ERROR(CheckLayerShape(item, shape));
    LayerState state;
    state.item = std::move(item);
    state.shape = shape;
    state.level = options_.level;
    // The longest sums: of the forward product, the input gradient and the weight gradient.
    const uint64_t inner =
        std::max<uint64_t>({shape.taps * shape.inputs, shape.taps * shape.outputs, shape.max_rows});
    PAVISE_ASSIGN_OR_RETURN(state.moduli, ModuliFor(state.item, inner, state.level));
    PAVISE_ASSIGN_OR_RETURN(SecretStream weight_stream, stream.Derive("weights"));
    return std::make_unique<SharedLayer>(std::move(state), std::move(stream),
                                         std::move(weight_stream), limits(shape));
  }

 private:
  const SharedOptions options_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> NewSharedScheme(const SharedOptions& options) {
  if (options.level < 1 || options.level > kMaxLevel) {
    return UsageError(StrCat("shared: the level goes from 1 to ", kMaxLevel));
  }
  return std::make_unique<SharedScheme>(options);
}

}  // namespace pavise::offload
