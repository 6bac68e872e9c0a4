#ifndef PAVISE_OFFLOAD_CPU_SKETCH_PRODUCTS_H_
#define PAVISE_OFFLOAD_CPU_SKETCH_PRODUCTS_H_

#include <cstddef>
#include <cstdint>

#include "pavise/offload/tensor.h"

// Products of an fp32 matrix with a few vectors in float64, with vector instructions. `v` and `out`
// are row-major with `vectors` columns. Sums have the same terms in another order than plain
// code's.
namespace pavise::offload::cpu {

// out (m.rows) = m v.
void MultiplyVectors(MatrixView m, const double* v, size_t vectors, double* out);
// out (m.columns) = m^T v.
void MultiplyTransposedVectors(MatrixView m, const double* v, size_t vectors, double* out);

// The same of a bf16 matrix, read where it lies, in fp32: lanes of a vector are summed one after
// another, and then each other; transposed 128 rows in fp32, and the rest in float64. That is off
// by less than 0.5 x 2^-24 |row| |vector| for terms of both signs. `v` of the first lies vector by
// vector (vectors x m.columns), of the second row by row (m.rows x vectors). Squares take the sum
// of squares of each row, or of each column. They are not finite where a value is not, and where
// fp32 does not hold them.
struct RowSquares {
  double* plain = nullptr;         // m.rows
  const float* factors = nullptr;  // m.columns: of the squares in `weighted`; or none
  double* weighted = nullptr;
};
void MultiplyVectors(ViewOf<const uint16_t> m, const float* v, size_t vectors, double* out,
                     const RowSquares& squares);
void MultiplyTransposedVectors(ViewOf<const uint16_t> m, const float* v, size_t vectors,
                               double* out, double* squares);

}  // namespace pavise::offload::cpu

#endif  // PAVISE_OFFLOAD_CPU_SKETCH_PRODUCTS_H_
