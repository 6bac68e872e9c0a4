#ifndef PAVISE_OFFLOAD_CPU_SKETCH_PRODUCTS_H_
#define PAVISE_OFFLOAD_CPU_SKETCH_PRODUCTS_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "pavise/offload/tensor.h"

// Products of a matrix with the vectors of checks, with vector instructions. Sums have the same
// terms in another order than plain code's. Vectors and products are row-major in float64.
namespace pavise::offload::cpu {

// Some vectors, and what they are multiplied to.
struct RowVectors {
  const double* values = nullptr;  // m.columns x vectors
  size_t vectors = 0;
  double* products = nullptr;  // m.rows x vectors
  // For matrices of bf16: of how many numbers of bf16, each the rest of those before, an element is
  // made where the CPU multiplies these (AVX-512 BF16). Three hold all of fp32. Elsewhere an
  // element is rounded to fp32.
  size_t bf16_parts = 3;
  // What that leaves of them: its Frobenius norm. Only of what fewer parts than three do not hold.
  double rest_norm = 0;
};

// Sums of squares of each row: infinite or NaN where a value is, and in fp32 where the sum is.
struct RowSquares {
  double* plain = nullptr;         // m.rows
  const float* factors = nullptr;  // m.columns: of the squares in `weighted`; or none
  double* weighted = nullptr;
};

// m v, in float64: squares are those of float64 too. There are no factors.
void MultiplyVectors(MatrixView m, std::span<RowVectors> vectors, double* squares);
// The same of a bf16 matrix, read where it lies, in fp32: a sum is one of parts of at most 512
// columns, or of those in each lane of a vector. That is off by less than 0.5 x 2^-24 |row|
// |vector| for terms of both signs. Denormal numbers may be taken for zero.
void MultiplyVectors(ViewOf<const uint16_t> m, std::span<RowVectors> vectors,
                     const RowSquares& squares);

// out (m.columns x vectors) = m^T v for v of m.rows x vectors, and the squares of each column; in
// float64, or where m is bf16 128 rows in fp32 and the rest in float64.
void MultiplyTransposedVectors(MatrixView m, const double* v, size_t vectors, double* out,
                               double* squares);
void MultiplyTransposedVectors(ViewOf<const uint16_t> m, const float* v, size_t vectors,
                               double* out, double* squares);

}  // namespace pavise::offload::cpu

#endif  // PAVISE_OFFLOAD_CPU_SKETCH_PRODUCTS_H_
