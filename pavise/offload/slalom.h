#ifndef PAVISE_OFFLOAD_SLALOM_H_
#define PAVISE_OFFLOAD_SLALOM_H_

#include <cstdint>
#include <memory>

#include "pavise/offload/scheme.h"

namespace pavise::offload {

struct SlalomOptions {
  int32_t level = 127;  // as SharedOptions::level
};

// Slalom (arXiv 1806.03287): inference with weights that the worker may see. Quantised inputs are
// blinded by uniform noise modulo the primes of residues.h:  X' = X + R,  Y = X' W - R W. NewStep
// draws R and computes R W, which is a trusted product of the size of the layer's: it is worth it
// only where it is done ahead of time. EncodeWeights comes before NewStep (usage error).
//
// kUnsupported: training, and convolutions with taps (use im2col).
//
// A usage error where an option is out of range.
absl::StatusOr<std::unique_ptr<Scheme>> NewSlalomScheme(const SlalomOptions& options = {});

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_SLALOM_H_
