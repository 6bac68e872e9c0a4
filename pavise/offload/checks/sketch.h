#ifndef PAVISE_OFFLOAD_CHECKS_SKETCH_H_
#define PAVISE_OFFLOAD_CHECKS_SKETCH_H_

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "pavise/offload/checks/soundness.h"
#include "pavise/offload/secret_stream.h"
#include "pavise/offload/tensor.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload {

// A tall matrix of a few columns in float64: random vectors, or a matrix times such.
struct Sketch {
  size_t rows = 0;
  size_t vectors = 0;
  std::vector<double> values;  // rows x vectors

  std::span<const double> Row(size_t row) const { return {&values[row * vectors], vectors}; }
};

absl::StatusOr<Sketch> DrawVectors(size_t rows, size_t vectors, SecretStream& stream);
// m v, and m^T v, in float64. O(rows x columns x vectors). Shapes must fit.
Sketch Times(MatrixView m, const Sketch& v);
Sketch TransposedTimes(MatrixView m, const Sketch& v);
// Of rows whose elements are multiplied by `factors` first, where there are any.
std::vector<double> RowNorms(MatrixView m, std::span<const double> factors = {});
std::vector<double> ColumnNorms(MatrixView m);
double Norm(std::span<const double> values);

// kResultWrong where a row's residuals are larger than errors of `sigmas` explain; the finding
// names the worst row. NaN and infinities are wrong too.
absl::Status CheckResiduals(const FloatCheck& check, const Sketch& actual, const Sketch& expected,
                            std::span<const double> sigmas, std::string_view item);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_CHECKS_SKETCH_H_
