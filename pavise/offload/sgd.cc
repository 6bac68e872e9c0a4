#include "pavise/offload/sgd.h"

#include "pavise/base/status.h"

namespace pavise::offload {

absl::Status ApplySgd(const SgdStep& step, MatrixView gradient, MutableMatrixView velocity,
                      MutableMatrixView weights) {
  if (gradient.rows != weights.rows || gradient.columns != weights.columns ||
      velocity.rows != weights.rows || velocity.columns != weights.columns) {
    return UsageError("gradient, velocity and weights have different shapes");
  }
  for (size_t i = 0; i < weights.rows; ++i) {
    for (size_t j = 0; j < weights.columns; ++j) {
      float& w = weights(i, j);
      float& v = velocity(i, j);
      v = step.momentum * v + gradient(i, j) + step.weight_decay * w;
      w -= step.learning_rate * v;
    }
  }
  return absl::OkStatus();
}

}  // namespace pavise::offload
