#include "pavise/offload/cuda/gpu_runtime.h"

#include <algorithm>

namespace pavise::offload::cuda {
namespace {

constexpr uint64_t kAlignment = 16;

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
  gemm.padded_inner = Padded(inner);
  gemm.padded_columns = Padded(columns);
  gemm.rows_at_once = std::clamp<uint64_t>(sum_elements / gemm.padded_columns, 1, rows);
  gemm.left_bytes = rows * gemm.padded_inner;
  gemm.right_bytes = gemm.padded_columns * gemm.padded_inner;
  gemm.sums_bytes = gemm.rows_at_once * gemm.padded_columns * sizeof(int32_t);
  return gemm;
}

Gemm ResidueGemm::ForRows(uint64_t rows) const {
  return GemmOf(Operation::kTransposeRight, GemmType::kInt8, rows, padded_inner, padded_columns);
}

}  // namespace pavise::offload::cuda
