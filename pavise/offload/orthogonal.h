#ifndef PAVISE_OFFLOAD_ORTHOGONAL_H_
#define PAVISE_OFFLOAD_ORTHOGONAL_H_

#include <cstdint>
#include <memory>

#include "pavise/offload/scheme.h"

namespace pavise::offload {

struct OrthogonalOptions {
  // Rounds of permutation, signs and Hadamard blocks, 2 to 4. One is refused: a product of known
  // Hadamard matrices with one secret diagonal is undone by the worker.
  size_t rounds = 2;
  uint64_t max_steps = 1000;
};

// Secret orthogonal matrices on both sides of everything (internal/mixing.h says which):
// X' = A X Q^T,  W' = Q W R^T,  Y' = A Y R^T,  dY' = A dY R^T,  dX' = A dX Q^T,  dW' = Q dW R^T.
// Every result arrives under the right key, so that the worker keeps and updates W' for the
// lifetime of Q and R. A is fresh each step.
//
// A key serves min(k, n) / 2 known equations: k known rows of X and X' (n of Y and Y') determine Q
// (R).
//
// A usage error where an option is out of range.
absl::StatusOr<std::unique_ptr<Scheme>> NewOrthogonalScheme(const OrthogonalOptions& options = {});

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_ORTHOGONAL_H_
