#ifndef PAVISE_OFFLOAD_SGD_H_
#define PAVISE_OFFLOAD_SGD_H_

#include "pavise/offload/tensor.h"

#include "absl/status/status.h"

namespace pavise::offload {

// One step of stochastic gradient descent as PyTorch's torch.optim.SGD defines it (without
// dampening and Nesterov's variant):  v = momentum v + gradient + weight_decay w,  w = w -
// learning_rate v. Linear in (w, v, gradient), so that it commutes with every linear encoding of
// the three.
struct SgdStep {
  float learning_rate = 0;
  float momentum = 0;
  float weight_decay = 0;
};

// In place; `velocity` is zeros before the first step. All three have one shape (usage error).
absl::Status ApplySgd(const SgdStep& step, MatrixView gradient, MutableMatrixView velocity,
                      MutableMatrixView weights);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_SGD_H_
