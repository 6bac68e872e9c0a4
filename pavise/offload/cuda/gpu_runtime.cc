#include "pavise/offload/cuda/gpu_runtime.h"

#include <algorithm>

namespace pavise::offload::cuda {
namespace {

constexpr uint64_t kAlignment = 32;

uint64_t Padded(uint64_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

Gemm GemmOf(Operation operation, GemmType type, uint64_t rows, uint64_t inner, uint64_t columns) {
  Gemm gemm;
  gemm.type = type;
  gemm.first_transposed = operation == Operation::kTransposeRight;
  gemm.second_transposed = operation == Operation::kTransposeLeft;
  gemm.m = columns;
  gemm.n = rows;
  gemm.k = inner;
  gemm.first_stride = gemm.first_transposed ? inner : columns;
  gemm.second_stride = gemm.second_transposed ? rows : inner;
  gemm.result_stride = columns;
  return gemm;
}

ResidueGemm ResidueGemmOf(uint64_t rows, uint64_t inner, uint64_t columns, uint64_t sum_elements) {
  ResidueGemm gemm;
  gemm.padded_rows = Padded(rows);
  gemm.padded_inner = Padded(inner);
  gemm.padded_columns = Padded(columns);
  gemm.rows_at_once = std::clamp(sum_elements / gemm.padded_columns / kAlignment * kAlignment,
                                 kAlignment, gemm.padded_rows);
  return gemm;
}

Gemm ResidueGemm::ForRows(uint64_t rows) const {
  return GemmOf(Operation::kTransposeRight, GemmType::kInt8, rows, padded_inner, padded_columns);
}

}  // namespace pavise::offload::cuda
