#ifndef PAVISE_OFFLOAD_CHECKS_WEIGHT_SKETCH_H_
#define PAVISE_OFFLOAD_CHECKS_WEIGHT_SKETCH_H_

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pavise/offload/checks/sketch.h"
#include "pavise/offload/checks/soundness.h"
#include "pavise/offload/convolution.h"
#include "pavise/offload/scheme.h"
#include "pavise/offload/secret_stream.h"
#include "pavise/offload/sgd.h"
#include "pavise/offload/tensor.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload {

namespace cpu {
struct RowVectors;
}

struct WeightSketchOptions {
  DType type = DType::kBf16;  // in which products travel; the worker keeps weights in fp32
  // What the worker rounds its weights to before it multiplies; not narrower than `type`.
  DType operand_type = DType::kFp32;
  FloatCheck check = FloatCheck::For(DType::kBf16);
  // The worker does the convolution; `samples` is not read.
  std::optional<ConvolutionShape> convolution;
  // All that resynchronisations may have let pass, as a part of the weights' norm.
  double drift_budget = 0.01;
  double drift_spent = 0;  // by the layer's earlier sketches
};

// Checks a worker that keeps and updates encoded weights W' (k x n, one tap), without holding them:
//   s = W' r,  t = W'^T q,  for secret Gaussian vectors r (n) and q (k)
// check  Y' r = X' s,  dX' q = dY' t,  and at the end  W' r = s  and  W'^T q = t. SGD is linear,
// and dW' r = a (X'^T (dY' (b r))), so both are updated in O(mk + mn) from what the worker was
// sent.
//
// A convolution is a sum over its taps of such products, of images that are shifted. With a sketch
// for each tap, Y' r is the sum of the shifted X' s, and so on: O((mk + mn) taps).
//
// Sketches are float64, so that only the worker's rounding drifts; how far it may have is kept for
// each row and column of W'. Resynchronising (which bounds that drift) takes weights that passed,
// with vectors of its own, and charges what could have passed to a budget: of the weights, and of
// what the velocity will move them by at the last step's rate and momentum. After an eviction, make
// a new one from weights that are trusted: the old vectors are spent once a worker saw a refusal.
// Movable, not thread-safe.
class WeightSketch {
 public:
  // Of weights and a velocity as the coordinator encoded them, or as they passed; a velocity of no
  // rows is zeros. A usage error where vectors are odd or none, or types contradict each other.
  static absl::StatusOr<WeightSketch> Create(std::string item, MatrixView encoded_weights,
                                             MatrixView encoded_velocity,
                                             const WeightSketchOptions& options,
                                             SecretStream stream);

  // Y' = X' W' and dX' = dY' W'^T, from the values as they travelled. kMalformed: NaN, infinities.
  // kResultWrong. Usage errors where shapes do not fit.
  absl::Status CheckOutputs(MatrixView inputs, MatrixView outputs) const;
  absl::Status CheckInputGradients(MatrixView output_gradients, MatrixView input_gradients) const;
  // Adds a step's weight gradient to the batch's.
  absl::Status AddGradient(const KeyShift& shift, MatrixView inputs, MatrixView output_gradients);

  // The same for products (one tap) in parts, each matrix read as it travels and as seldom as can
  // be: once for all that checks and gradients need of its rows, and once for its columns. bf16 is
  // multiplied in fp32 (cpu/sketch_products.h), for whose rounding the check allows; s and t
  // themselves stay float64. `Sent` belongs to the vectors of this sketch.
  struct Sent {
    Sketch expected;  // X' s, dY' t
    Sketch gradient;  // X' (a q), dY' (b r); empty where it is not wanted
    std::vector<double> squares;
    std::vector<double> weighted;
    double sketch_rest = 0;  // |s| or |t| of what was not multiplied
  };
  // Of X' (forward) or dY'. kMalformed: NaN, infinities.
  absl::StatusOr<Sent> Read(bool is_forward, const KeyShift& shift, bool wants_gradient,
                            WireView sent) const;
  // Y' or dX'. As CheckOutputs.
  absl::Status CheckResult(bool is_forward, const Sent& sent, WireView result) const;
  absl::Status AddGradient(const KeyShift& shift, WireView inputs, const Sent& sent_inputs,
                           WireView output_gradients, const Sent& sent_gradients);

  // The batch's gradient, as the worker handed it back and under the key shift. Forgets it.
  absl::Status TakeGradient(MatrixView encoded_gradient);
  // What the worker's step (sgd.h) with the batch's gradient makes of both sketches.
  void Update(const SgdStep& step);
  // Weights that were handed back.
  absl::Status CheckWeights(MatrixView encoded_weights) const;
  // Refusals of CheckWeights; kLimitExceeded: the drift budget is spent. Only after both passed are
  // new vectors drawn and sketches taken, of the weights and of the worker's velocity, which is
  // checked in the same way.
  absl::Status Resynchronise(MatrixView encoded_weights, MatrixView encoded_velocity);

  double drift_spent() const { return drift_spent_; }

 private:
  // One side: W' times vectors, or W'^T times vectors; a row for each row or column of each tap.
  struct Side {
    Sketch vectors;
    Sketch weights;
    Sketch velocity;
    Sketch gradient;
    // What the worker's rows may be off by, by rounding.
    std::vector<double> weights_drift;
    std::vector<double> velocity_drift;
    std::vector<double> gradient_error;

    Side() = default;
    Side(Side&&) = default;
    Side& operator=(Side&&) = default;
    ~Side();  // wipes
  };

  // Which position of an image an output position sees through each tap: outputs x taps, and -1
  // for padding. Empty where each sees its own.
  struct Taps {
    size_t count = 1;
    size_t inputs = 1;
    size_t outputs = 1;
    std::vector<int64_t> seen;

    // Images, for rows of inputs or of outputs; no number of them is a usage error.
    absl::StatusOr<size_t> Images(size_t rows, bool is_input, std::string_view item) const;
    // Adds rows of positions to those that see them through the tap (to_outputs), or the reverse.
    void Add(size_t tap, bool to_outputs, const Sketch& from, Sketch& to) const;
  };

  WeightSketch(std::string item, const WeightSketchOptions& options, SecretStream stream)
      : item_(std::move(item)), options_(options), stream_(std::move(stream)) {}
  absl::Status Take(MatrixView weights, MatrixView velocity);
  // W' r, and W'^T q tap by tap.
  Sketch RowSketch(MatrixView weights) const { return Times(weights, by_row_.vectors); }
  Sketch ColumnSketch(MatrixView weights) const;
  void ForgetGradient();
  absl::Status CheckSide(const Side& side, bool is_forward, MatrixView left,
                         MatrixView result) const;
  struct RowNormsSquared {
    std::vector<double> plain;
    std::vector<double> weighted;
  };
  absl::StatusOr<RowNormsSquared> MultiplyRows(WireView m, std::span<cpu::RowVectors> vectors,
                                               std::span<const double> weight_norms) const;
  absl::StatusOr<Sketch> MultiplyColumns(WireView m, const Sketch& v,
                                         std::vector<double>& norms) const;
  absl::Status CheckRows(const FloatCheck& check, const Side& side, size_t inner,
                         std::span<const double> left_squares,
                         std::span<const double> left_weighted, double sketch_rest,
                         const Sketch& expected, std::vector<double> result_norms,
                         const Sketch& actual) const;
  void AddGradient(const FloatCheck& check, const KeyShift& shift, size_t rows, Sketch row_gradient,
                   Sketch column_gradient, std::vector<double> row_norms,
                   std::vector<double> column_norms);
  enum class Kept { kWeights, kVelocity, kGradient };
  absl::Status CheckHandedBack(MatrixView matrix, Kept kept) const;

  std::string item_;
  WeightSketchOptions options_;
  SecretStream stream_;
  Taps taps_;
  size_t inputs_ = 0;
  size_t columns_ = 0;
  Side by_row_;     // W' r: checks outputs
  Side by_column_;  // W'^T q: checks input gradients
  double drift_spent_ = 0;
  SgdStep last_step_ = {0, 0, 0};
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_CHECKS_WEIGHT_SKETCH_H_
