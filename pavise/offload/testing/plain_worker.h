#ifndef PAVISE_OFFLOAD_TESTING_PLAIN_WORKER_H_
#define PAVISE_OFFLOAD_TESTING_PLAIN_WORKER_H_

#include <vector>

#include "pavise/offload/convolution.h"
#include "pavise/offload/residues.h"
#include "pavise/offload/scheme.h"

// What an honest worker does, in plain code: products of floats in float64, of residues exactly.
// Usage mistakes end the test.
namespace pavise::offload::testing {

Matrix Product64(Operation operation, MatrixView a, MatrixView b);

// Of every worker. Empty geometry: a layer with one tap. Else the worker does the convolution
// itself.
struct Geometry {
  bool is_native = false;
  ConvolutionShape convolution;
};
Encoding Forward(const Layer& layer, const Geometry& geometry, const Encoding& inputs,
                 const Encoding& weights);
Encoding InputGradient(const Layer& layer, const Geometry& geometry, const Encoding& gradients,
                       const Encoding& weights);
// With the layer's key shift applied.
Encoding WeightGradient(const Layer& layer, const Geometry& geometry, const Encoding& inputs,
                        const Encoding& gradients);

// Standard normal numbers from a seed (not a secret one).
Matrix RandomMatrix(size_t rows, size_t columns, uint64_t seed);
// A stream whose key is `seed`, padded.
SecretStream StreamOf(uint64_t seed);
// max |a - b| / max |b|.
double RelativeDifference(MatrixView a, MatrixView b);

}  // namespace pavise::offload::testing

#endif  // PAVISE_OFFLOAD_TESTING_PLAIN_WORKER_H_
