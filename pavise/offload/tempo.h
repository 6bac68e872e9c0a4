#ifndef PAVISE_OFFLOAD_TEMPO_H_
#define PAVISE_OFFLOAD_TEMPO_H_

#include <cstdint>
#include <memory>

#include "pavise/offload/scheme.h"

namespace pavise::offload {

struct TempoOptions {
  // Coefficients are uniform integers from 1 to this, at most 256. 1 leaves permutations only, with
  // which the steps of AdamW and Muon commute too.
  uint32_t max_coefficient = 16;
  uint64_t max_steps = 1000;
};

// Tempo (arXiv 2401.11531): each dimension's key is a secret permutation times secret positive
// integers, P = D Pi;  X' = Pm X Pk^-1,  W' = Pk W Pn^-1,  Y' = Pm Y Pn^-1.
//
// Gradients of the output are sent as  dY' = Pm^-T dY Pn^T, so that one encoding serves both
// products:  dX' = dY' W'^T = Pm^-T dX Pk^T, and X'^T dY' = Pk^-T dW Pn^T, which the key shift
// (rows by Dk^2, columns by Dn^-2) brings under W's key: the worker updates W' itself. Against the
// paper's shift (X'' = Pm X Pk^T) it saves a second encoding of X and of dY, and does not show Dm.
// Like the paper's it shows Dk and Dn: in training weights hide behind permutations only.
//
// A usage error where an option is out of range.
absl::StatusOr<std::unique_ptr<Scheme>> NewTempoScheme(const TempoOptions& options = {});

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_TEMPO_H_
