#include "pavise/offload/adamw.h"

#include <cmath>

#include "pavise/base/status.h"

namespace pavise::offload {

absl::Status ApplyAdamW(const AdamWStep& step, uint64_t number, MatrixView gradient,
                        MutableMatrixView first_moment, MutableMatrixView second_moment,
                        MutableMatrixView weights) {
  for (const MatrixView other : {gradient, MatrixView(first_moment), MatrixView(second_moment)}) {
    if (other.rows != weights.rows || other.columns != weights.columns) {
      return UsageError("gradient, moments and weights have different shapes");
    }
  }
  const double t = static_cast<double>(number);
  const double correction1 = 1 - std::pow(double{step.beta1}, t);
  const double correction2 = 1 - std::pow(double{step.beta2}, t);
  const float rate = static_cast<float>(step.learning_rate / correction1);
  const float root = static_cast<float>(std::sqrt(correction2));
  const float decay = 1 - step.learning_rate * step.weight_decay;
  for (size_t i = 0; i < weights.rows; ++i) {
    for (size_t j = 0; j < weights.columns; ++j) {
      const float g = gradient(i, j);
      float& m = first_moment(i, j);
      float& v = second_moment(i, j);
      m = step.beta1 * m + (1 - step.beta1) * g;
      v = step.beta2 * v + (1 - step.beta2) * g * g;
      weights(i, j) = decay * weights(i, j) - rate * m / (std::sqrt(v) / root + step.epsilon);
    }
  }
  return absl::OkStatus();
}

}  // namespace pavise::offload
