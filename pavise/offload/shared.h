#ifndef PAVISE_OFFLOAD_SHARED_H_
#define PAVISE_OFFLOAD_SHARED_H_

#include <cstdint>
#include <memory>

#include "pavise/offload/scheme.h"

namespace pavise::offload {

struct SharedOptions {
  // Operands are quantised to integers from -level to level, 1 to kMaxLevel. 127 is int8's; a layer
  // of few terms has room for more (LargestLevel).
  int32_t level = 127;
};

// Secret sharing over three workers that do not collude. Operands are quantised; their residues
// modulo 251, 241, 239 and, where a layer's sums need it, 233 are shared as X + a R and W + a S
// with uniform R and S, at a = 1, 2, 3 for the three workers. Each multiplies its shares, and Y = 3
// y1 - 3 y2 + y3, exactly. One worker sees uniform noise, whatever the values are.
//
// A layer whose sums leave the range of four moduli is refused (kLimitExceeded). Weights are shared
// anew in each EncodeWeights: the coordinator updates them. DecodeX refuses results that no
// operands within the level give (kResultWrong): shares do not fit together.
//
// A usage error where an option is out of range.
absl::StatusOr<std::unique_ptr<Scheme>> NewSharedScheme(const SharedOptions& options = {});

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_SHARED_H_
