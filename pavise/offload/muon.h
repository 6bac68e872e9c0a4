#ifndef PAVISE_OFFLOAD_MUON_H_
#define PAVISE_OFFLOAD_MUON_H_

#include <functional>

#include "pavise/offload/residues.h"
#include "pavise/offload/tensor.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload {

// One step of Muon (Jordan et al. 2024; torch.optim.Muon of PyTorch 2.9 with its "original"
// scaling): momentum after Nesterov, made nearly orthogonal by five Newton-Schulz iterations of
// fifth order, and weights that decay on their own.
//
// It commutes with rotations of both sides, so that a worker could do it under `orthogonal`. But no
// sketch follows it: it is not linear, and what a worker makes of W' could be checked by doing it
// over only. So the coordinator does it, from gradients that were checked.
struct MuonStep {
  float learning_rate = 0;
  float momentum = 0.95f;
  float weight_decay = 0;
};

using MuonProduct =
    std::function<absl::StatusOr<Matrix>(Operation operation, MatrixView a, MatrixView b)>;

// In place; the momentum is zeros before the first step. All have one shape (usage error), with a
// row for each input and a column for each output. The products go to `multiply`: fifteen, with the
// shorter side's square. A gradient of zeros only decays.
absl::Status ApplyMuon(const MuonStep& step, MatrixView gradient, MutableMatrixView momentum,
                       MutableMatrixView weights, const MuonProduct& multiply);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_MUON_H_
