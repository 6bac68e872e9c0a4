#include "pavise/offload/checks/weight_sketch.h"

#include <cmath>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/internal/wipe.h"

namespace pavise::offload {
namespace {

constexpr double kUnit = 0x1p-24;  // fp32, in which workers keep weights and velocities

absl::Status CheckGiven(MatrixView m, size_t rows, size_t columns, std::string_view item) {
  if (m.rows == rows && m.columns == columns) return absl::OkStatus();
  return UsageError(StrCat(item, ": ", m.rows, " x ", m.columns, " is not ", rows, " x ", columns));
}

// |row| of the sketched matrix, from its products with Gaussian vectors. An estimate from a few
// vectors may come out small, so the rows' mean is added.
std::vector<double> EstimatedNorms(const Sketch& sketch) {
  const double per_vector = 1 / std::sqrt(static_cast<double>(sketch.vectors));
  const double mean =
      Norm(sketch.values) * per_vector / std::sqrt(static_cast<double>(sketch.rows));
  std::vector<double> norms(sketch.rows);
  for (size_t i = 0; i < sketch.rows; ++i) norms[i] = Norm(sketch.Row(i)) * per_vector + mean;
  return norms;
}

// values[i] scaled by factors[i] in every row; as they are where there are no factors.
Sketch Scaled(Sketch sketch, std::span<const float> factors) {
  if (factors.empty()) return sketch;
  for (size_t i = 0; i < sketch.rows; ++i) {
    for (size_t j = 0; j < sketch.vectors; ++j) sketch.values[i * sketch.vectors + j] *= factors[i];
  }
  return sketch;
}

void ScaleNorms(std::span<const float> factors, std::vector<double>& norms) {
  for (size_t i = 0; i < factors.size(); ++i) norms[i] *= factors[i];
}

}  // namespace

WeightSketch::Side::~Side() {
  internal::Wipe(vectors.values);
  internal::Wipe(weights.values);
  internal::Wipe(velocity.values);
}

absl::StatusOr<WeightSketch> WeightSketch::Create(std::string item, MatrixView encoded_weights,
                                                  const WeightSketchOptions& options,
                                                  SecretStream stream) {
  if (options.check.vectors < 2 || options.check.vectors % 2 != 0) {
    return UsageError("a sketch takes an even number of vectors");
  }
  WeightSketch sketch(std::move(item), options, std::move(stream));
  PAVISE_RETURN_IF_ERROR(CheckFinite(encoded_weights, sketch.item_));
  sketch.rows_ = encoded_weights.rows;
  sketch.columns_ = encoded_weights.columns;
  PAVISE_ASSIGN_OR_RETURN(const Matrix zeros,
                          Matrix::Create(sketch.rows_, sketch.columns_, sketch.item_));
  PAVISE_RETURN_IF_ERROR(sketch.Take(encoded_weights, zeros));
  return sketch;
}

absl::Status WeightSketch::Take(MatrixView weights, MatrixView velocity) {
  internal::Wipe(by_row_.vectors.values);
  internal::Wipe(by_column_.vectors.values);
  PAVISE_ASSIGN_OR_RETURN(by_row_.vectors, DrawVectors(columns_, options_.check.vectors, stream_));
  PAVISE_ASSIGN_OR_RETURN(by_column_.vectors, DrawVectors(rows_, options_.check.vectors, stream_));
  by_row_.weights = Times(weights, by_row_.vectors);
  by_row_.velocity = Times(velocity, by_row_.vectors);
  by_column_.weights = TransposedTimes(weights, by_column_.vectors);
  by_column_.velocity = TransposedTimes(velocity, by_column_.vectors);
  by_row_.weights_drift.assign(rows_, 0);
  by_row_.velocity_drift.assign(rows_, 0);
  by_column_.weights_drift.assign(columns_, 0);
  by_column_.velocity_drift.assign(columns_, 0);
  return absl::OkStatus();
}

// result = left W (by_row_) or left W^T (by_column_).
absl::Status WeightSketch::CheckSide(const Side& side, MatrixView left, MatrixView result) const {
  PAVISE_RETURN_IF_ERROR(CheckGiven(left, result.rows, side.weights.rows, item_));
  PAVISE_RETURN_IF_ERROR(CheckGiven(result, left.rows, side.vectors.rows, item_));
  PAVISE_RETURN_IF_ERROR(CheckFinite(result, item_));
  const double weights_norm =
      Norm(side.weights.values) / std::sqrt(static_cast<double>(side.weights.vectors));
  const double drift = Norm(side.weights_drift);
  const std::vector<double> left_norms = RowNorms(left);
  std::vector<double> sigmas = RowNorms(result);
  for (size_t i = 0; i < sigmas.size(); ++i) {
    // Twice the estimated norm of W: with few vectors and few rows an estimate is a rough one.
    sigmas[i] = options_.check.Sigma(options_.type, left.columns, sigmas[i], left_norms[i],
                                     2 * weights_norm) +
                left_norms[i] * drift;
  }
  return CheckResiduals(options_.check, Times(result, side.vectors), Times(left, side.weights),
                        sigmas, item_);
}

absl::Status WeightSketch::CheckOutputs(MatrixView inputs, MatrixView outputs) const {
  return CheckSide(by_row_, inputs, outputs);
}

absl::Status WeightSketch::CheckInputGradients(MatrixView output_gradients,
                                               MatrixView input_gradients) const {
  return CheckSide(by_column_, output_gradients, input_gradients);
}

absl::Status WeightSketch::Update(const SgdStep& step, const KeyShift& shift, MatrixView inputs,
                                  MatrixView output_gradients) {
  PAVISE_RETURN_IF_ERROR(CheckGiven(inputs, output_gradients.rows, rows_, item_));
  PAVISE_RETURN_IF_ERROR(CheckGiven(output_gradients, inputs.rows, columns_, item_));
  // dW' = a (X'^T dY') b, with a and b on rows and columns.
  std::vector<double> row_norms = ColumnNorms(inputs);
  std::vector<double> column_norms = ColumnNorms(output_gradients);
  ScaleNorms(shift.rows, row_norms);
  ScaleNorms(shift.columns, column_norms);
  const double rows_norm = Norm(row_norms);
  const double columns_norm = Norm(column_norms);
  const Sketch row_gradient = Scaled(
      TransposedTimes(inputs, Times(output_gradients, Scaled(by_row_.vectors, shift.columns))),
      shift.rows);
  const Sketch column_gradient = Scaled(
      TransposedTimes(output_gradients, Times(inputs, Scaled(by_column_.vectors, shift.rows))),
      shift.columns);

  const auto advance = [&](Side& side, const Sketch& gradient, std::span<const double> norms,
                           double other_norm) {
    for (size_t i = 0; i < gradient.values.size(); ++i) {
      double& v = side.velocity.values[i];
      double& w = side.weights.values[i];
      v = double{step.momentum} * v + gradient.values[i] + double{step.weight_decay} * w;
      w -= double{step.learning_rate} * v;
    }
    const std::vector<double> weight_norms = EstimatedNorms(side.weights);
    const std::vector<double> velocity_norms = EstimatedNorms(side.velocity);
    const std::vector<double> gradient_norms = EstimatedNorms(gradient);
    for (size_t i = 0; i < norms.size(); ++i) {
      // Bounds add up as if all roundings had one sign. The update itself rounds some four times.
      double& v = side.velocity_drift[i];
      double& w = side.weights_drift[i];
      const double gradient_error =
          options_.check.SumError(inputs.rows, gradient_norms[i], norms[i], other_norm) +
          3 * kUnit * gradient_norms[i];
      v = std::abs(step.momentum) * v + gradient_error + std::abs(step.weight_decay) * w +
          4 * kUnit * (velocity_norms[i] + std::abs(step.weight_decay) * weight_norms[i]);
      w += std::abs(step.learning_rate) * (v + 2 * kUnit * velocity_norms[i]) +
           kUnit * weight_norms[i];
    }
  };
  advance(by_row_, row_gradient, row_norms, columns_norm);
  advance(by_column_, column_gradient, column_norms, rows_norm);
  return absl::OkStatus();
}

absl::Status WeightSketch::CheckHandedBack(MatrixView matrix, bool is_velocity) const {
  PAVISE_RETURN_IF_ERROR(CheckGiven(matrix, rows_, columns_, item_));
  PAVISE_RETURN_IF_ERROR(CheckFinite(matrix, item_));
  const auto check = [&](const Side& side, const Sketch& actual) {
    const Sketch& expected = is_velocity ? side.velocity : side.weights;
    std::vector<double> sigmas = is_velocity ? side.velocity_drift : side.weights_drift;
    const std::vector<double> norms = EstimatedNorms(expected);
    // float64 sums round too, and weights that were never updated have no drift at all.
    for (size_t i = 0; i < sigmas.size(); ++i) sigmas[i] += 0x1p-40 * norms[i];
    return CheckResiduals(options_.check, actual, expected, sigmas, item_);
  };
  PAVISE_RETURN_IF_ERROR(check(by_row_, Times(matrix, by_row_.vectors)));
  return check(by_column_, TransposedTimes(matrix, by_column_.vectors));
}

absl::Status WeightSketch::CheckWeights(MatrixView encoded_weights) const {
  return CheckHandedBack(encoded_weights, false);
}

absl::Status WeightSketch::Resynchronise(MatrixView encoded_weights, MatrixView encoded_velocity) {
  PAVISE_RETURN_IF_ERROR(CheckHandedBack(encoded_weights, false));
  PAVISE_RETURN_IF_ERROR(CheckHandedBack(encoded_velocity, true));
  const double vectors = static_cast<double>(options_.check.vectors);
  const double drift = Norm(by_row_.weights_drift);
  const double norm = Norm(by_row_.weights.values) / std::sqrt(vectors);
  // Weights that were never updated, which may all be zero, have not drifted.
  const double charge =
      drift == 0 ? 0 : std::sqrt(options_.check.Threshold() / vectors) * drift / norm;
  if (!(drift_spent_ + charge <= options_.drift_budget)) {
    return Refuse(Reason::kLimitExceeded, item_,
                  StrCat("its weights may have drifted by ", drift_spent_ + charge,
                         " of their norm, over the budget of ", options_.drift_budget),
                  "go back to trusted weights, or raise the drift budget");
  }
  drift_spent_ += charge;
  return Take(encoded_weights, encoded_velocity);
}

}  // namespace pavise::offload
