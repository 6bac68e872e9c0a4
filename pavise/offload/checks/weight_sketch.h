#ifndef PAVISE_OFFLOAD_CHECKS_WEIGHT_SKETCH_H_
#define PAVISE_OFFLOAD_CHECKS_WEIGHT_SKETCH_H_

#include <string>
#include <vector>

#include "pavise/offload/checks/sketch.h"
#include "pavise/offload/checks/soundness.h"
#include "pavise/offload/scheme.h"
#include "pavise/offload/secret_stream.h"
#include "pavise/offload/sgd.h"
#include "pavise/offload/tensor.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload {

struct WeightSketchOptions {
  DType type = DType::kBf16;  // in which products travel; the worker keeps weights in fp32
  FloatCheck check = FloatCheck::For(DType::kBf16);
  // All that resynchronisations may have let pass, as a part of the weights' norm.
  double drift_budget = 0.01;
};

// Checks a worker that keeps and updates encoded weights W' (k x n, one tap), without holding them:
//   s = W' r,  t = W'^T q,  for secret Gaussian vectors r (n) and q (k)
// check  Y' r = X' s,  dX' q = dY' t,  and at the end  W' r = s  and  W'^T q = t. SGD is linear,
// and dW' r = a (X'^T (dY' (b r))), so both are updated in O(mk + mn) from what the worker was
// sent.
//
// Sketches are float64, so that only the worker's rounding drifts; how far it may have is kept for
// each row and column of W'. Resynchronising (which bounds that drift) takes weights that passed,
// with vectors of its own, and charges what could have passed to a budget. After an eviction, make
// a new one from weights that are trusted: the old vectors are spent once a worker saw a refusal.
// Movable, not thread-safe.
class WeightSketch {
 public:
  // Of weights as the coordinator encoded them. A usage error where vectors are odd or none.
  static absl::StatusOr<WeightSketch> Create(std::string item, MatrixView encoded_weights,
                                             const WeightSketchOptions& options,
                                             SecretStream stream);

  // Y' = X' W' and dX' = dY' W'^T, from the values as they travelled. kMalformed: NaN, infinities.
  // kResultWrong. Usage errors where shapes do not fit.
  absl::Status CheckOutputs(MatrixView inputs, MatrixView outputs) const;
  absl::Status CheckInputGradients(MatrixView output_gradients, MatrixView input_gradients) const;
  // What the worker's step (sgd.h) makes of both sketches.
  absl::Status Update(const SgdStep& step, const KeyShift& shift, MatrixView inputs,
                      MatrixView output_gradients);
  // Weights that were handed back.
  absl::Status CheckWeights(MatrixView encoded_weights) const;
  // Refusals of CheckWeights; kLimitExceeded: the drift budget is spent. Only after both passed are
  // new vectors drawn and sketches taken, of the weights and of the worker's velocity, which is
  // checked in the same way.
  absl::Status Resynchronise(MatrixView encoded_weights, MatrixView encoded_velocity);

  double drift_spent() const { return drift_spent_; }

 private:
  // One side: W' times vectors (rows of W'), or W'^T times vectors.
  struct Side {
    Sketch vectors;
    Sketch weights;
    Sketch velocity;
    // What the worker's rows may be off by, by rounding.
    std::vector<double> weights_drift;
    std::vector<double> velocity_drift;

    Side() = default;
    Side(Side&&) = default;
    Side& operator=(Side&&) = default;
    ~Side();  // wipes
  };

  WeightSketch(std::string item, const WeightSketchOptions& options, SecretStream stream)
      : item_(std::move(item)), options_(options), stream_(std::move(stream)) {}
  absl::Status Take(MatrixView weights, MatrixView velocity);
  absl::Status CheckSide(const Side& side, MatrixView left, MatrixView result) const;
  absl::Status CheckHandedBack(MatrixView matrix, bool is_velocity) const;

  std::string item_;
  WeightSketchOptions options_;
  SecretStream stream_;
  size_t rows_ = 0;
  size_t columns_ = 0;
  Side by_row_;     // W' r: checks outputs
  Side by_column_;  // W'^T q: checks input gradients
  double drift_spent_ = 0;
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_CHECKS_WEIGHT_SKETCH_H_
