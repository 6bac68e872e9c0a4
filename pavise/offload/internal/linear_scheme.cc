#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/fused_pass.h"
#include "pavise/offload/internal/axis_key.h"

namespace pavise::offload::internal {
namespace {

absl::Status CheckGiven(MatrixView matrix, size_t rows, size_t columns, std::string_view item) {
  if (matrix.rows != rows || matrix.columns != columns) {
    return UsageError(
        StrCat(item, ": ", matrix.rows, " x ", matrix.columns, " is not ", rows, " x ", columns));
  }
  return CheckFinite(matrix, item);
}

// A worker's word.
absl::Status CheckShare(const Encoding& encoding, size_t rows, size_t columns,
                        std::string_view item) {
  if (encoding.size() != 1 || !encoding[0].residues.empty() || encoding[0].values.rows() != rows ||
      encoding[0].values.columns() != columns) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("the result is not one matrix of ", rows, " x ", columns));
  }
  return CheckFinite(encoding[0].values, item);
}

Encoding EncodingOf(Matrix values) {
  Encoding encoding(1);
  encoding[0].values = std::move(values);
  return encoding;
}

// What the steps of a layer share with it.
struct LayerKeys {
  std::string item;
  LayerShape shape;
  std::unique_ptr<AxisKey> input;
  std::unique_ptr<AxisKey> output;
};

class LinearStep final : public Step {
 public:
  LinearStep(const LayerKeys& keys, const StepShape& shape, std::unique_ptr<AxisKey> sample)
      : keys_(keys), shape_(shape), sample_(std::move(sample)) {}

  absl::StatusOr<Encoding> EncodeInputs(MatrixView inputs) override {
    return Encode(Wire::kInputs, inputs, has_encoded_inputs_);
  }
  absl::StatusOr<Encoding> EncodeOutputGradients(MatrixView gradients) override {
    return Encode(Wire::kOutputGradients, gradients, has_encoded_gradients_);
  }
  absl::StatusOr<Matrix> DecodeOutputs(const Encoding& outputs) const override {
    return Decode(Wire::kOutputs, outputs);
  }
  absl::StatusOr<Matrix> DecodeInputGradients(const Encoding& gradients) const override {
    return Decode(Wire::kInputGradients, gradients);
  }
  absl::StatusOr<Matrix> DecodeWeightGradients(const Encoding& gradients) const override;

  WireKeys keys(Wire wire) const override {
    const bool is_input = wire == Wire::kInputs || wire == Wire::kInputGradients;
    const AxisKey* const features = (is_input ? keys_.input : keys_.output).get();
    if (features->is_identity()) return {};
    const bool is_gradient = wire == Wire::kOutputGradients || wire == Wire::kInputGradients;
    return {sample_.get(), features, is_gradient ? Variant::kContragredient : Variant::kDirect,
            is_gradient ? Variant::kDirect : Variant::kContragredient, PositionsOf(wire)};
  }

 private:
  size_t PositionsOf(Wire wire) const {
    const bool is_input = wire == Wire::kInputs || wire == Wire::kInputGradients;
    return is_input ? shape_.input_positions : shape_.output_positions;
  }
  size_t ColumnsOf(Wire wire) const {
    const bool is_input = wire == Wire::kInputs || wire == Wire::kInputGradients;
    return is_input ? keys_.shape.inputs : keys_.shape.outputs;
  }

  absl::StatusOr<Encoding> Encode(Wire wire, MatrixView matrix, bool& is_used) {
    const size_t rows = shape_.samples * PositionsOf(wire);
    PAVISE_RETURN_IF_ERROR(CheckGiven(matrix, rows, ColumnsOf(wire), keys_.item));
    if (is_used) {
      return Refuse(Reason::kKeyExhausted, keys_.item, "this step's key has encoded a matrix",
                    "make a new step for every batch");
    }
    is_used = true;
    FusedPass pass;
    pass.in = matrix;
    pass.encode = keys(wire);
    PAVISE_ASSIGN_OR_RETURN(Matrix values, Run(std::move(pass)));
    return EncodingOf(std::move(values));
  }

  absl::StatusOr<Matrix> Decode(Wire wire, const Encoding& encoding) const {
    const size_t rows = shape_.samples * PositionsOf(wire);
    PAVISE_RETURN_IF_ERROR(CheckShare(encoding, rows, ColumnsOf(wire), keys_.item));
    FusedPass pass;
    pass.in = encoding[0].values;
    pass.decode = keys(wire);
    return Run(std::move(pass));
  }

  // By the kernel where there is one.
  absl::StatusOr<Matrix> Run(FusedPass pass) const {
    pass.rows = pass.in.rows;
    pass.columns = pass.in.columns;
    PAVISE_ASSIGN_OR_RETURN(Matrix values, Matrix::Create(pass.rows, pass.columns, keys_.item));
    pass.out = values.view();
    FusedWorkspace workspace;
    PAVISE_RETURN_IF_ERROR(RunPass(pass, workspace));
    return values;
  }

  const LayerKeys& keys_;
  const StepShape shape_;
  const std::unique_ptr<AxisKey> sample_;
  bool has_encoded_inputs_ = false;
  bool has_encoded_gradients_ = false;
};

absl::StatusOr<Matrix> DecodeWeightsUnder(const LayerKeys& keys, const Encoding& encoding) {
  const LayerShape& shape = keys.shape;
  const size_t rows = shape.taps * shape.inputs;
  PAVISE_RETURN_IF_ERROR(CheckShare(encoding, rows, shape.outputs, keys.item));
  PAVISE_ASSIGN_OR_RETURN(Matrix values, CopyOf(encoding[0].values, keys.item));
  keys.input->Decode(Variant::kDirect, {shape.taps, shape.inputs, shape.outputs}, values.values());
  keys.output->Decode(Variant::kContragredient, {rows, shape.outputs, 1}, values.values());
  return values;
}

absl::StatusOr<Matrix> LinearStep::DecodeWeightGradients(const Encoding& gradients) const {
  return DecodeWeightsUnder(keys_, gradients);
}

class LinearLayer final : public Layer {
 public:
  LinearLayer(const LinearScheme& scheme, LayerKeys keys, SecretStream stream, KeyLimits limits)
      : scheme_(scheme),
        keys_(std::move(keys)),
        stream_(std::move(stream)),
        budget_(keys_.item, limits) {
    shift_.rows = keys_.input->ContragredientToDirect();
    // The gradient's columns carry P, the weights' P^-T.
    shift_.columns = keys_.output->ContragredientToDirect();
    for (float& factor : shift_.columns) factor = 1 / factor;
  }

  const LayerShape& shape() const override { return keys_.shape; }
  std::vector<int> moduli() const override { return {}; }
  const KeyShift& key_shift() const override { return shift_; }
  const KeyBudget& budget() const override { return budget_; }

  absl::StatusOr<Encoding> EncodeWeights(MatrixView weights) override {
    const LayerShape& shape = keys_.shape;
    const size_t rows = shape.taps * shape.inputs;
    PAVISE_RETURN_IF_ERROR(CheckGiven(weights, rows, shape.outputs, keys_.item));
    PAVISE_ASSIGN_OR_RETURN(Matrix values, CopyOf(weights, keys_.item));
    keys_.output->Encode(Variant::kContragredient, {rows, shape.outputs, 1}, values.values());
    keys_.input->Encode(Variant::kDirect, {shape.taps, shape.inputs, shape.outputs},
                        values.values());
    return EncodingOf(std::move(values));
  }

  absl::StatusOr<Matrix> DecodeWeights(const Encoding& weights) const override {
    return DecodeWeightsUnder(keys_, weights);
  }

  absl::StatusOr<std::unique_ptr<Step>> NewStep(const StepShape& shape, Use) override {
    PAVISE_RETURN_IF_ERROR(CheckStepShape(keys_.item, keys_.shape, shape));
    PAVISE_RETURN_IF_ERROR(budget_.Spend(shape.known_rows));
    PAVISE_ASSIGN_OR_RETURN(SecretStream stream,
                            stream_.Derive(StrCat("step ", budget_.spent().steps)));
    PAVISE_ASSIGN_OR_RETURN(auto sample, scheme_.NewSampleKey(shape, stream));
    return std::make_unique<LinearStep>(keys_, shape, std::move(sample));
  }

 private:
  const LinearScheme& scheme_;
  const LayerKeys keys_;
  SecretStream stream_;
  KeyShift shift_;
  KeyBudget budget_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Layer>> LinearScheme::NewLayer(std::string item,
                                                              const LayerShape& shape,
                                                              SecretStream stream) const {
  PAVISE_RETURN_IF_ERROR(CheckLayerShape(item, shape));
  LayerKeys keys;
  keys.item = std::move(item);
  keys.shape = shape;
  PAVISE_ASSIGN_OR_RETURN(SecretStream input_stream, stream.Derive("inputs"));
  PAVISE_ASSIGN_OR_RETURN(SecretStream output_stream, stream.Derive("outputs"));
  PAVISE_ASSIGN_OR_RETURN(keys.input, NewFeatureKey(shape.inputs, input_stream));
  PAVISE_ASSIGN_OR_RETURN(keys.output, NewFeatureKey(shape.outputs, output_stream));
  return std::make_unique<LinearLayer>(*this, std::move(keys), std::move(stream), limits(shape));
}

}  // namespace pavise::offload::internal
