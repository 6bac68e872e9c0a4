#ifndef PAVISE_OFFLOAD_ADAMW_H_
#define PAVISE_OFFLOAD_ADAMW_H_

#include <cstdint>

#include "pavise/offload/tensor.h"

#include "absl/status/status.h"

namespace pavise::offload {

// One step of torch.optim.AdamW (without AMSGrad), with its defaults. Elementwise, so that it
// commutes with few encodings: the coordinator does it.
struct AdamWStep {
  float learning_rate = 0;
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float epsilon = 1e-8f;
  float weight_decay = 0.01f;
};

// In place; both moments are zeros before the first step, whose `number` is 1. All have one shape
// (usage error).
absl::Status ApplyAdamW(const AdamWStep& step, uint64_t number, MatrixView gradient,
                        MutableMatrixView first_moment, MutableMatrixView second_moment,
                        MutableMatrixView weights);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_ADAMW_H_
