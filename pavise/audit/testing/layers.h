#ifndef PAVISE_AUDIT_TESTING_LAYERS_H_
#define PAVISE_AUDIT_TESTING_LAYERS_H_

#include <memory>
#include <optional>
#include <vector>

#include "pavise/audit/audit.h"
#include "pavise/audit/recording.h"
#include "pavise/offload/convolution.h"

// Layers to attack: synthetic weights and inputs, run by a real coordinator and worker.
namespace pavise::audit::testing {

// Weights of k x n, and three batches of `rows` inputs as a layer after a ReLU has them: not
// negative, correlated, of a power-law spectrum. The third batch repeats the first in another
// order.
struct PlainRun {
  offload::Matrix weights;
  std::vector<offload::Matrix> inputs;
  std::vector<offload::Matrix> output_gradients;
  std::optional<offload::ConvolutionShape> convolution;  // the worker does it
};
PlainRun MakeRun(size_t rows, size_t k, size_t n, uint64_t seed);

// A 3x3 convolution of stride 1: channels that know nothing of each other, each zero in most places
// and smooth where it is not.
PlainRun MakeConvolutionRun(size_t samples, size_t side, size_t channels, uint64_t seed);

// What a worker would see of it in the clear, without a run.
SeenLayer InTheClear(const PlainRun& run);

// The run's traffic under a scheme. Where training, with an update after each batch so small that
// weights stay as they are.
struct RecordedRun {
  std::shared_ptr<AuditedScheme> scheme;
  AuditedLayer layer;  // without a base
};
RecordedRun Record(const PlainRun& run, std::shared_ptr<const offload::Scheme> scheme,
                   offload::Use use, offload::DType type = offload::DType::kFp32);

// weights + `distance` times noise of their norm.
offload::Matrix Perturbed(const offload::Matrix& weights, double distance, uint64_t seed);

offload::Matrix Multiplied(const offload::Matrix& a, const offload::Matrix& b);
offload::Matrix MultipliedByTransposed(const offload::Matrix& a, const offload::Matrix& b);
// Orthogonal, of any size.
offload::Matrix RandomRotation(size_t size, uint64_t seed);
// A weak scheme: W' = Q W and X' = X Q^T, with RandomRotation(k, seed) for all steps and rows left
// alone.
SeenLayer Rotated(const SeenLayer& plain, uint64_t seed);

}  // namespace pavise::audit::testing

#endif  // PAVISE_AUDIT_TESTING_LAYERS_H_
