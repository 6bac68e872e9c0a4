#include "pavise/offload/checks/weight_sketch.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/cpu/sketch_products.h"
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

// Row i scaled by factors[i], for each tap again; as it is where there are no factors.
Sketch Scaled(Sketch sketch, std::span<const float> factors) {
  if (factors.empty()) return sketch;
  for (size_t i = 0; i < sketch.rows; ++i) {
    const double factor = factors[i % factors.size()];
    for (size_t j = 0; j < sketch.vectors; ++j) sketch.values[i * sketch.vectors + j] *= factor;
  }
  return sketch;
}

void ScaleNorms(std::span<const float> factors, std::vector<double>& norms) {
  for (size_t i = 0; i < factors.size(); ++i) norms[i] *= factors[i];
}

Sketch Zeros(size_t rows, size_t vectors) {
  return {rows, vectors, std::vector<double>(rows * vectors)};
}

// The part of a sketch that belongs to a tap.
Sketch OfTap(const Sketch& sketch, size_t tap, size_t taps) {
  if (taps == 1) return sketch;
  const size_t rows = sketch.rows / taps;
  const auto first = sketch.values.begin() + static_cast<ptrdiff_t>(tap * rows * sketch.vectors);
  return {rows, sketch.vectors, {first, first + static_cast<ptrdiff_t>(rows * sketch.vectors)}};
}

void Append(const Sketch& part, Sketch& to) {
  to.rows += part.rows;
  to.vectors = part.vectors;
  to.values.insert(to.values.end(), part.values.begin(), part.values.end());
}

}  // namespace

WeightSketch::Side::~Side() {
  internal::Wipe(vectors.values);
  internal::Wipe(weights.values);
  internal::Wipe(velocity.values);
  internal::Wipe(gradient.values);
}

absl::StatusOr<size_t> WeightSketch::Taps::Images(size_t rows, bool is_input,
                                                  std::string_view item) const {
  const size_t positions = is_input ? inputs : outputs;
  if (rows % positions == 0) return rows / positions;
  return UsageError(StrCat(item, ": ", rows, " rows are no images of ", positions, " positions"));
}

void WeightSketch::Taps::Add(size_t tap, bool to_outputs, const Sketch& from, Sketch& to) const {
  if (seen.empty()) {
    for (size_t i = 0; i < from.values.size(); ++i) to.values[i] += from.values[i];
    return;
  }
  const size_t images = from.rows / (to_outputs ? inputs : outputs);
  for (size_t image = 0; image < images; ++image) {
    for (size_t position = 0; position < outputs; ++position) {
      const int64_t other = seen[position * count + tap];
      if (other < 0) continue;
      const size_t output = image * outputs + position;
      const size_t input = image * inputs + static_cast<size_t>(other);
      const double* const source = &from.values[(to_outputs ? input : output) * from.vectors];
      double* const sum = &to.values[(to_outputs ? output : input) * from.vectors];
      for (size_t j = 0; j < from.vectors; ++j) sum[j] += source[j];
    }
  }
}

absl::StatusOr<WeightSketch> WeightSketch::Create(std::string item, MatrixView encoded_weights,
                                                  MatrixView encoded_velocity,
                                                  const WeightSketchOptions& options,
                                                  SecretStream stream) {
  if (options.check.vectors < 2 || options.check.vectors % 2 != 0) {
    return UsageError("a sketch takes an even number of vectors");
  }
  if (UnitRoundoff(options.operand_type) > UnitRoundoff(options.type)) {
    return UsageError("operands are rounded to a narrower type than they travel in");
  }
  WeightSketch sketch(std::move(item), options, std::move(stream));
  PAVISE_RETURN_IF_ERROR(CheckFinite(encoded_weights, sketch.item_));
  if (options.convolution.has_value()) {
    ConvolutionShape shape = *options.convolution;
    shape.samples = 1;
    PAVISE_RETURN_IF_ERROR(CheckConvolution(shape, sketch.item_));
    Taps& taps = sketch.taps_;
    taps = {
        shape.taps(), shape.height * shape.width, shape.output_height() * shape.output_width(), {}};
    for (size_t row = 0; row < shape.output_height(); ++row) {
      for (size_t column = 0; column < shape.output_width(); ++column) {
        for (size_t tap = 0; tap < taps.count; ++tap) {
          const size_t y = row * shape.stride + tap / shape.kernel_width;
          const size_t x = column * shape.stride + tap % shape.kernel_width;
          const bool is_inside = y >= shape.padding && y - shape.padding < shape.height &&
                                 x >= shape.padding && x - shape.padding < shape.width;
          taps.seen.push_back(is_inside ? static_cast<int64_t>((y - shape.padding) * shape.width +
                                                               (x - shape.padding))
                                        : -1);
        }
      }
    }
  }
  if (encoded_weights.rows % sketch.taps_.count != 0) {
    return UsageError(StrCat(sketch.item_, ": the weights have no rows for each tap"));
  }
  sketch.inputs_ = encoded_weights.rows / sketch.taps_.count;
  sketch.columns_ = encoded_weights.columns;
  sketch.drift_spent_ = options.drift_spent;
  Matrix zeros;
  if (encoded_velocity.rows == 0) {
    PAVISE_ASSIGN_OR_RETURN(
        zeros, Matrix::Create(encoded_weights.rows, encoded_weights.columns, sketch.item_));
    encoded_velocity = zeros;
  }
  PAVISE_RETURN_IF_ERROR(
      CheckGiven(encoded_velocity, encoded_weights.rows, encoded_weights.columns, sketch.item_));
  PAVISE_RETURN_IF_ERROR(CheckFinite(encoded_velocity, sketch.item_));
  PAVISE_RETURN_IF_ERROR(sketch.Take(encoded_weights, encoded_velocity));
  return sketch;
}

Sketch WeightSketch::ColumnSketch(MatrixView weights) const {
  Sketch out;
  for (size_t tap = 0; tap < taps_.count; ++tap) {
    const MatrixView block = {weights.Row(tap * inputs_), inputs_, columns_, weights.stride};
    Append(TransposedTimes(block, by_column_.vectors), out);
  }
  return out;
}

absl::Status WeightSketch::Take(MatrixView weights, MatrixView velocity) {
  internal::Wipe(by_row_.vectors.values);
  internal::Wipe(by_column_.vectors.values);
  PAVISE_ASSIGN_OR_RETURN(by_row_.vectors, DrawVectors(columns_, options_.check.vectors, stream_));
  PAVISE_ASSIGN_OR_RETURN(by_column_.vectors,
                          DrawVectors(inputs_, options_.check.vectors, stream_));
  // As fp32 has them, so that products in fp32 and in float64 are with the same vectors; where
  // values travel as bf16, as that has them, which is multiplied in one part.
  for (Sketch* vectors : {&by_row_.vectors, &by_column_.vectors}) {
    for (double& value : vectors->values) {
      const float narrow = static_cast<float>(value);
      value = options_.type == DType::kBf16 ? FloatFromBf16(Bf16FromFloat(narrow)) : narrow;
    }
  }
  by_row_.weights = RowSketch(weights);
  by_row_.velocity = RowSketch(velocity);
  by_column_.weights = ColumnSketch(weights);
  by_column_.velocity = ColumnSketch(velocity);
  for (Side* side : {&by_row_, &by_column_}) {
    side->weights_drift.assign(side->weights.rows, 0);
    side->velocity_drift.assign(side->weights.rows, 0);
  }
  ForgetGradient();
  return absl::OkStatus();
}

void WeightSketch::ForgetGradient() {
  for (Side* side : {&by_row_, &by_column_}) {
    side->gradient = Zeros(side->weights.rows, side->weights.vectors);
    side->gradient_error.assign(side->weights.rows, 0);
  }
}

// result = left W (by_row_) or left W^T (by_column_), summed over taps.
absl::Status WeightSketch::CheckSide(const Side& side, bool is_forward, MatrixView left,
                                     MatrixView result) const {
  PAVISE_ASSIGN_OR_RETURN(const size_t images, taps_.Images(left.rows, is_forward, item_));
  const size_t rows = images * (is_forward ? taps_.outputs : taps_.inputs);
  PAVISE_RETURN_IF_ERROR(CheckGiven(left, left.rows, is_forward ? inputs_ : columns_, item_));
  PAVISE_RETURN_IF_ERROR(CheckGiven(result, rows, is_forward ? columns_ : inputs_, item_));
  PAVISE_RETURN_IF_ERROR(CheckFinite(result, item_));
  const bool rounds_weights = options_.operand_type != DType::kFp32;
  const std::vector<double> weight_norms =
      rounds_weights ? EstimatedNorms(side.weights) : std::vector<double>();
  const auto squares = [](std::vector<double> norms) {
    for (double& norm : norms) norm *= norm;
    return Sketch{norms.size(), 1, std::move(norms)};
  };
  const Sketch left_squares = squares(RowNorms(left));
  Sketch expected = Zeros(rows, side.weights.vectors);
  Sketch seen = Zeros(rows, 1);  // |left|^2, of all that a result's row is made of
  // The same, each element times the norm of its weights.
  Sketch weighted = Zeros(rounds_weights ? rows : 0, 1);
  for (size_t tap = 0; tap < taps_.count; ++tap) {
    taps_.Add(tap, is_forward, Times(left, OfTap(side.weights, tap, taps_.count)), expected);
    taps_.Add(tap, is_forward, left_squares, seen);
    if (!rounds_weights) continue;
    const std::span<const double> norms =
        std::span(weight_norms).subspan(tap * left.columns, left.columns);
    taps_.Add(tap, is_forward, squares(RowNorms(left, norms)), weighted);
  }
  return CheckRows(options_.check, side, taps_.count * left.columns, seen.values, weighted.values,
                   /*sketch_rest=*/0, expected, RowNorms(result), Times(result, side.vectors));
}

absl::Status WeightSketch::CheckRows(const FloatCheck& check, const Side& side, size_t inner,
                                     std::span<const double> left_squares,
                                     std::span<const double> left_weighted, double sketch_rest,
                                     const Sketch& expected, std::vector<double> result_norms,
                                     const Sketch& actual) const {
  const double weights_norm =
      Norm(side.weights.values) / std::sqrt(static_cast<double>(side.weights.vectors));
  // A row times what was not multiplied of the sketch adds at most this to its residuals' norm.
  const double drift = Norm(side.weights_drift) + sketch_rest / std::sqrt(check.Threshold());
  std::vector<double> sigmas = std::move(result_norms);
  for (size_t i = 0; i < sigmas.size(); ++i) {
    const double left_norm = std::sqrt(left_squares[i]);
    // Twice the estimated norm of W: with few vectors and few rows an estimate is a rough one.
    sigmas[i] = check.Sigma(options_.type, inner, sigmas[i], left_norm, 2 * weights_norm) +
                left_norm * drift + LeastRounding(options_.type, side.vectors.rows);
    // Roundings of the weights are as good as independent of each other.
    if (!left_weighted.empty()) {
      sigmas[i] += UnitRoundoff(options_.operand_type) * std::sqrt(left_weighted[i]);
    }
  }
  return CheckResiduals(check, actual, expected, sigmas, item_);
}

// ---- In parts ----

namespace {

// What the sums of a product in fp32 add to those of the worker (cpu/sketch_products.h), twice
// where its result is multiplied again.
FloatCheck WithNarrowSums(FloatCheck check, WireView m) {
  if (m.bf16.data != nullptr) check.accumulation += 1;
  return check;
}

bool AllFinite(std::span<const double> values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

absl::StatusOr<Matrix> Widened(ViewOf<const uint16_t> m, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(Matrix wide, Matrix::Create(m.rows, m.columns, item));
  for (size_t i = 0; i < m.rows; ++i) {
    for (size_t j = 0; j < m.columns; ++j) wide(i, j) = FloatFromBf16(m(i, j));
  }
  return wide;
}

}  // namespace

absl::StatusOr<WeightSketch::RowNormsSquared> WeightSketch::MultiplyRows(
    WireView m, std::span<cpu::RowVectors> vectors, std::span<const double> weight_norms) const {
  RowNormsSquared out = {std::vector<double>(m.rows()),
                         std::vector<double>(weight_norms.empty() ? 0 : m.rows())};
  Matrix wide;
  MatrixView fp32 = m.fp32;
  if (m.bf16.data != nullptr) {
    std::vector<float> factors;
    for (const double norm : weight_norms) factors.push_back(static_cast<float>(norm * norm));
    cpu::MultiplyVectors(
        m.bf16, vectors,
        {out.plain.data(), factors.empty() ? nullptr : factors.data(), out.weighted.data()});
    if (AllFinite(out.plain) && AllFinite(out.weighted) &&
        std::all_of(vectors.begin(), vectors.end(), [&](const cpu::RowVectors& some) {
          return AllFinite({some.products, m.rows() * some.vectors});
        })) {
      return out;
    }
    // Too large for sums in fp32, or not finite.
    PAVISE_ASSIGN_OR_RETURN(wide, Widened(m.bf16, item_));
    fp32 = wide;
  }
  cpu::MultiplyVectors(fp32, vectors, out.plain.data());
  // float64 holds the squares of all that fp32 does.
  if (!AllFinite(out.plain)) PAVISE_RETURN_IF_ERROR(CheckFinite(fp32, item_));
  if (!weight_norms.empty()) {
    out.weighted = RowNorms(fp32, weight_norms);
    for (double& square : out.weighted) square *= square;
  }
  return out;
}

absl::StatusOr<Sketch> WeightSketch::MultiplyColumns(WireView m, const Sketch& v,
                                                     std::vector<double>& norms) const {
  Sketch out = Zeros(m.columns(), v.vectors);
  norms.resize(m.columns());
  Matrix wide;
  MatrixView fp32 = m.fp32;
  if (m.bf16.data != nullptr) {
    const std::vector<float> narrow(v.values.begin(), v.values.end());
    cpu::MultiplyTransposedVectors(m.bf16, narrow.data(), v.vectors, out.values.data(),
                                   norms.data());
    if (AllFinite(out.values) && AllFinite(norms)) {
      for (double& norm : norms) norm = std::sqrt(norm);
      return out;
    }
    PAVISE_ASSIGN_OR_RETURN(wide, Widened(m.bf16, item_));
    fp32 = wide;
  }
  cpu::MultiplyTransposedVectors(fp32, v.values.data(), v.vectors, out.values.data(), norms.data());
  for (double& norm : norms) norm = std::sqrt(norm);
  return out;
}

absl::StatusOr<WeightSketch::Sent> WeightSketch::Read(bool is_forward, const KeyShift& shift,
                                                      bool wants_gradient, WireView sent) const {
  const Side& side = is_forward ? by_row_ : by_column_;
  const Side& other = is_forward ? by_column_ : by_row_;
  if (taps_.count != 1 || sent.columns() != side.weights.rows) {
    return UsageError(StrCat(item_, ": not the columns of the sketch"));
  }
  const size_t vectors = side.weights.vectors;
  Sent out;
  out.expected = Zeros(sent.rows(), vectors);
  // In two parts of bf16 the weights' sketch lacks 2^-18 of it, for which the check allows.
  cpu::RowVectors products[2] = {
      {side.weights.values.data(), vectors, out.expected.values.data(), /*bf16_parts=*/2}};
  Sketch scaled;
  if (wants_gradient) {
    scaled = Scaled(other.vectors, is_forward ? shift.rows : shift.columns);
    out.gradient = Zeros(sent.rows(), vectors);
    products[1] = {scaled.values.data(), vectors, out.gradient.values.data()};
  }
  auto read = MultiplyRows(
      sent, {products, wants_gradient ? size_t{2} : size_t{1}},
      options_.operand_type != DType::kFp32 ? EstimatedNorms(side.weights) : std::vector<double>());
  internal::Wipe(scaled.values);
  PAVISE_RETURN_IF_ERROR(read.status());
  out.squares = std::move(read->plain);
  out.weighted = std::move(read->weighted);
  out.sketch_rest = products[0].rest_norm;
  return out;
}

absl::Status WeightSketch::CheckResult(bool is_forward, const Sent& sent, WireView result) const {
  const Side& side = is_forward ? by_row_ : by_column_;
  if (result.rows() != sent.expected.rows || result.columns() != side.vectors.rows) {
    return UsageError(StrCat(item_, ": the result is of another shape"));
  }
  Sketch actual = Zeros(result.rows(), side.vectors.vectors);
  cpu::RowVectors products = {side.vectors.values.data(), actual.vectors, actual.values.data()};
  PAVISE_ASSIGN_OR_RETURN(RowNormsSquared read, MultiplyRows(result, {&products, 1}, {}));
  for (double& norm : read.plain) norm = std::sqrt(norm);
  return CheckRows(WithNarrowSums(options_.check, result), side, side.weights.rows, sent.squares,
                   sent.weighted, sent.sketch_rest, sent.expected, std::move(read.plain), actual);
}

absl::Status WeightSketch::AddGradient(const KeyShift& shift, WireView inputs,
                                       const Sent& sent_inputs, WireView output_gradients,
                                       const Sent& sent_gradients) {
  if (inputs.rows() != output_gradients.rows() || sent_inputs.gradient.rows != inputs.rows() ||
      sent_gradients.gradient.rows != inputs.rows()) {
    return UsageError(StrCat(item_, ": inputs and output gradients of different batches"));
  }
  std::vector<double> row_norms;
  std::vector<double> column_norms;
  PAVISE_ASSIGN_OR_RETURN(Sketch row_gradient,
                          MultiplyColumns(inputs, sent_gradients.gradient, row_norms));
  PAVISE_ASSIGN_OR_RETURN(Sketch column_gradient,
                          MultiplyColumns(output_gradients, sent_inputs.gradient, column_norms));
  ScaleNorms(shift.rows, row_norms);
  ScaleNorms(shift.columns, column_norms);
  AddGradient(WithNarrowSums(options_.check, inputs), shift, inputs.rows(), std::move(row_gradient),
              std::move(column_gradient), std::move(row_norms), std::move(column_norms));
  return absl::OkStatus();
}

absl::Status WeightSketch::CheckOutputs(MatrixView inputs, MatrixView outputs) const {
  return CheckSide(by_row_, true, inputs, outputs);
}

absl::Status WeightSketch::CheckInputGradients(MatrixView output_gradients,
                                               MatrixView input_gradients) const {
  return CheckSide(by_column_, false, output_gradients, input_gradients);
}

absl::Status WeightSketch::AddGradient(const KeyShift& shift, MatrixView inputs,
                                       MatrixView output_gradients) {
  PAVISE_ASSIGN_OR_RETURN(const size_t images, taps_.Images(inputs.rows, true, item_));
  PAVISE_RETURN_IF_ERROR(CheckGiven(inputs, inputs.rows, inputs_, item_));
  PAVISE_RETURN_IF_ERROR(CheckGiven(output_gradients, images * taps_.outputs, columns_, item_));
  // dW' = a (X'^T dY') b, with a and b on rows and columns. Norms are those of the whole matrices,
  // of which a tap sees a part.
  std::vector<double> row_norms = ColumnNorms(inputs);
  std::vector<double> column_norms = ColumnNorms(output_gradients);
  ScaleNorms(shift.rows, row_norms);
  ScaleNorms(shift.columns, column_norms);
  const Sketch right = Times(output_gradients, Scaled(by_row_.vectors, shift.columns));
  const Sketch left = Times(inputs, Scaled(by_column_.vectors, shift.rows));
  Sketch row_gradient;
  Sketch column_gradient;
  for (size_t tap = 0; tap < taps_.count; ++tap) {
    Sketch shifted_right = Zeros(inputs.rows, right.vectors);
    Sketch shifted_left = Zeros(output_gradients.rows, left.vectors);
    taps_.Add(tap, false, right, shifted_right);
    taps_.Add(tap, true, left, shifted_left);
    Append(TransposedTimes(inputs, shifted_right), row_gradient);
    Append(TransposedTimes(output_gradients, shifted_left), column_gradient);
  }
  AddGradient(options_.check, shift, output_gradients.rows, std::move(row_gradient),
              std::move(column_gradient), std::move(row_norms), std::move(column_norms));
  return absl::OkStatus();
}

void WeightSketch::AddGradient(const FloatCheck& check, const KeyShift& shift, size_t rows,
                               Sketch row_gradient, Sketch column_gradient,
                               std::vector<double> row_norms, std::vector<double> column_norms) {
  const auto add = [&](Side& side, const Sketch& gradient, std::span<const double> norms,
                       double other_norm) {
    for (size_t i = 0; i < gradient.values.size(); ++i)
      side.gradient.values[i] += gradient.values[i];
    const std::vector<double> added = EstimatedNorms(gradient);
    const std::vector<double> sums = EstimatedNorms(side.gradient);
    for (size_t i = 0; i < added.size(); ++i) {
      side.gradient_error[i] +=
          check.SumError(rows, added[i], norms[i % norms.size()], other_norm) + kUnit * sums[i];
    }
  };
  const double rows_norm = Norm(row_norms);
  const double columns_norm = Norm(column_norms);
  add(by_row_, Scaled(std::move(row_gradient), shift.rows), row_norms, columns_norm);
  add(by_column_, Scaled(std::move(column_gradient), shift.columns), column_norms, rows_norm);
}

absl::Status WeightSketch::TakeGradient(MatrixView encoded_gradient) {
  PAVISE_RETURN_IF_ERROR(CheckHandedBack(encoded_gradient, Kept::kGradient));
  ForgetGradient();
  return absl::OkStatus();
}

void WeightSketch::Update(const SgdStep& step) {
  last_step_ = step;
  for (Side* side : {&by_row_, &by_column_}) {
    for (size_t i = 0; i < side->gradient.values.size(); ++i) {
      double& v = side->velocity.values[i];
      double& w = side->weights.values[i];
      v = double{step.momentum} * v + side->gradient.values[i] + double{step.weight_decay} * w;
      w -= double{step.learning_rate} * v;
    }
    const std::vector<double> weight_norms = EstimatedNorms(side->weights);
    const std::vector<double> velocity_norms = EstimatedNorms(side->velocity);
    const std::vector<double> gradient_norms = EstimatedNorms(side->gradient);
    for (size_t i = 0; i < weight_norms.size(); ++i) {
      // Bounds add up as if all roundings had one sign. The update itself rounds some four times.
      double& v = side->velocity_drift[i];
      double& w = side->weights_drift[i];
      v = std::abs(step.momentum) * v + side->gradient_error[i] + 3 * kUnit * gradient_norms[i] +
          std::abs(step.weight_decay) * w +
          4 * kUnit * (velocity_norms[i] + std::abs(step.weight_decay) * weight_norms[i]);
      w += std::abs(step.learning_rate) * (v + 2 * kUnit * velocity_norms[i]) +
           kUnit * weight_norms[i];
    }
  }
  ForgetGradient();
}

absl::Status WeightSketch::CheckHandedBack(MatrixView matrix, Kept kept) const {
  PAVISE_RETURN_IF_ERROR(CheckGiven(matrix, taps_.count * inputs_, columns_, item_));
  PAVISE_RETURN_IF_ERROR(CheckFinite(matrix, item_));
  const auto check = [&](const Side& side, const Sketch& actual) {
    const Sketch* expected = &side.weights;
    std::vector<double> sigmas = side.weights_drift;
    if (kept == Kept::kVelocity) {
      expected = &side.velocity;
      sigmas = side.velocity_drift;
    }
    if (kept == Kept::kGradient) {
      expected = &side.gradient;
      sigmas = side.gradient_error;
    }
    const std::vector<double> norms = EstimatedNorms(*expected);
    // float64 sums round too, and weights that were never updated have no drift at all. A gradient
    // was multiplied by two factors in fp32.
    const double rounding = kept == Kept::kGradient ? 3 * kUnit : 0x1p-40;
    for (size_t i = 0; i < sigmas.size(); ++i) sigmas[i] += rounding * norms[i];
    return CheckResiduals(options_.check, actual, *expected, sigmas, item_);
  };
  PAVISE_RETURN_IF_ERROR(check(by_row_, RowSketch(matrix)));
  return check(by_column_, ColumnSketch(matrix));
}

absl::Status WeightSketch::CheckWeights(MatrixView encoded_weights) const {
  return CheckHandedBack(encoded_weights, Kept::kWeights);
}

absl::Status WeightSketch::Resynchronise(MatrixView encoded_weights, MatrixView encoded_velocity) {
  PAVISE_RETURN_IF_ERROR(CheckHandedBack(encoded_weights, Kept::kWeights));
  PAVISE_RETURN_IF_ERROR(CheckHandedBack(encoded_velocity, Kept::kVelocity));
  const double vectors = static_cast<double>(options_.check.vectors);
  // A velocity that is off goes on moving the weights: by its sum over all steps to come.
  const double momentum = std::abs(double{last_step_.momentum});
  const double velocity_drift =
      std::abs(double{last_step_.learning_rate}) * momentum * Norm(by_row_.velocity_drift);
  const double drift = Norm(by_row_.weights_drift) +
                       (velocity_drift == 0 ? 0 : velocity_drift / std::max(0.0, 1 - momentum));
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
