#ifndef PAVISE_OFFLOAD_CPU_SKETCH_PRODUCTS_H_
#define PAVISE_OFFLOAD_CPU_SKETCH_PRODUCTS_H_

#include <cstddef>

#include "pavise/offload/tensor.h"

// Products of an fp32 matrix with a few vectors in float64, with vector instructions. `v` and `out`
// are row-major with `vectors` columns. Sums have the same terms in another order than plain
// code's.
namespace pavise::offload::cpu {

// out (m.rows) = m v.
void MultiplyVectors(MatrixView m, const double* v, size_t vectors, double* out);
// out (m.columns) = m^T v.
void MultiplyTransposedVectors(MatrixView m, const double* v, size_t vectors, double* out);

}  // namespace pavise::offload::cpu

#endif  // PAVISE_OFFLOAD_CPU_SKETCH_PRODUCTS_H_
