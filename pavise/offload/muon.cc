#include "pavise/offload/muon.h"

#include <algorithm>
#include <cmath>

#include "pavise/base/status.h"

namespace pavise::offload {
namespace {

constexpr int kIterations = 5;
// x (a + b s + c s^2), s = x^2, for singular values x in (0, 1].
constexpr float kA = 3.4445f;
constexpr float kB = -4.7750f;
constexpr float kC = 2.0315f;
constexpr double kLeastNorm = 1e-7;

// x = a x + y, of one shape.
void ScaleAndAdd(float a, const Matrix& y, Matrix& x) {
  for (size_t i = 0; i < x.values().size(); ++i) x.values()[i] = a * x.values()[i] + y.values()[i];
}

}  // namespace

absl::Status ApplyMuon(const MuonStep& step, MatrixView gradient, MutableMatrixView momentum,
                       MutableMatrixView weights, const MuonProduct& multiply) {
  for (const MatrixView other : {gradient, MatrixView(momentum)}) {
    if (other.rows != weights.rows || other.columns != weights.columns) {
      return UsageError("gradient, momentum and weights have different shapes");
    }
  }
  PAVISE_ASSIGN_OR_RETURN(Matrix x, Matrix::Create(weights.rows, weights.columns, "muon"));
  double square = 0;
  for (size_t i = 0; i < weights.rows; ++i) {
    for (size_t j = 0; j < weights.columns; ++j) {
      float& m = momentum(i, j);
      m = step.momentum * m + (1 - step.momentum) * gradient(i, j);
      x(i, j) = (1 - step.momentum) * gradient(i, j) + step.momentum * m;
      square += double{x(i, j)} * x(i, j);
    }
  }
  const float scale = static_cast<float>(1 / std::max(std::sqrt(square), kLeastNorm));
  for (float& value : x.values()) value *= scale;
  // The square of the shorter side: x (x^T x) or (x x^T) x.
  const bool is_wide = x.rows() < x.columns();
  for (int i = 0; i < kIterations; ++i) {
    PAVISE_ASSIGN_OR_RETURN(
        const Matrix squares,
        multiply(is_wide ? Operation::kTransposeRight : Operation::kTransposeLeft, x, x));
    PAVISE_ASSIGN_OR_RETURN(Matrix polynomial, multiply(Operation::kPlain, squares, squares));
    for (size_t j = 0; j < squares.values().size(); ++j) {
      polynomial.values()[j] = kB * squares.values()[j] + kC * polynomial.values()[j];
    }
    PAVISE_ASSIGN_OR_RETURN(const Matrix added, is_wide
                                                    ? multiply(Operation::kPlain, polynomial, x)
                                                    : multiply(Operation::kPlain, x, polynomial));
    ScaleAndAdd(kA, added, x);
  }
  const float rate =
      step.learning_rate * std::sqrt(std::max(1.0f, static_cast<float>(weights.columns) /
                                                        static_cast<float>(weights.rows)));
  const float decay = 1 - step.learning_rate * step.weight_decay;
  for (size_t i = 0; i < weights.rows; ++i) {
    for (size_t j = 0; j < weights.columns; ++j) {
      weights(i, j) = decay * weights(i, j) - rate * x(i, j);
    }
  }
  return absl::OkStatus();
}

}  // namespace pavise::offload
