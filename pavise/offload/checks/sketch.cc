#include "pavise/offload/checks/sketch.h"

#include <cmath>

#include "pavise/base/status.h"
#include "pavise/offload/cpu/sketch_products.h"

#include "absl/strings/str_format.h"

namespace pavise::offload {

absl::StatusOr<Sketch> DrawVectors(size_t rows, size_t vectors, SecretStream& stream) {
  Sketch sketch = {rows, vectors, {}};
  PAVISE_ASSIGN_OR_RETURN(sketch.values, stream.Gaussians(rows * vectors));
  return sketch;
}

Sketch Times(MatrixView m, const Sketch& v) {
  Sketch out = {m.rows, v.vectors, std::vector<double>(m.rows * v.vectors)};
  cpu::RowVectors vectors = {v.values.data(), v.vectors, out.values.data()};
  cpu::MultiplyVectors(m, {&vectors, 1}, nullptr);
  return out;
}

Sketch TransposedTimes(MatrixView m, const Sketch& v) {
  Sketch out = {m.columns, v.vectors, std::vector<double>(m.columns * v.vectors)};
  std::vector<double> squares(m.columns);
  cpu::MultiplyTransposedVectors(m, v.values.data(), v.vectors, out.values.data(), squares.data());
  return out;
}

std::vector<double> RowNorms(MatrixView m, std::span<const double> factors) {
  std::vector<double> norms(m.rows);
  // In float64: squares of floats that fp32 holds may leave its range, and an infinite norm would
  // excuse everything.
  const auto sum_rows = [&](const auto& value_of) {
    for (size_t i = 0; i < m.rows; ++i) {
      // Sixteen sums side by side, which vector units add.
      double sums[16] = {};
      size_t j = 0;
      for (; j + 16 <= m.columns; j += 16) {
        for (size_t lane = 0; lane < 16; ++lane) {
          const double value = value_of(i, j + lane);
          sums[lane] += value * value;
        }
      }
      for (; j < m.columns; ++j) sums[0] += value_of(i, j) * value_of(i, j);
      double sum = 0;
      for (const double part : sums) sum += part;
      norms[i] = std::sqrt(sum);
    }
  };
  if (factors.empty()) {
    sum_rows([&](size_t i, size_t j) { return double{m(i, j)}; });
  } else {
    sum_rows([&](size_t i, size_t j) { return m(i, j) * factors[j]; });
  }
  return norms;
}

std::vector<double> ColumnNorms(MatrixView m) {
  std::vector<double> norms(m.columns);
  for (size_t i = 0; i < m.rows; ++i) {
    for (size_t j = 0; j < m.columns; ++j) norms[j] += double{m(i, j)} * m(i, j);
  }
  for (double& norm : norms) norm = std::sqrt(norm);
  return norms;
}

double Norm(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

absl::Status CheckResiduals(const FloatCheck& check, const Sketch& actual, const Sketch& expected,
                            std::span<const double> sigmas, std::string_view item) {
  const double threshold = check.Threshold();
  size_t worst_row = 0;
  double worst = -1;
  for (size_t i = 0; i < actual.rows; ++i) {
    double sum = 0;
    for (size_t j = 0; j < actual.vectors; ++j) {
      const double residual = actual.Row(i)[j] - expected.Row(i)[j];
      sum += residual * residual;
    }
    // A row that must be zero has no error. NaN compares with nothing, so the test is for "within".
    double ratio = sum == 0 ? 0 : sum / (sigmas[i] * sigmas[i]);
    if (!std::isfinite(sigmas[i])) ratio = NAN;  // not all is an excuse
    if (!(ratio <= threshold) && !(ratio <= worst)) {
      worst_row = i;
      worst = ratio;
    }
  }
  if (worst == -1) return absl::OkStatus();
  const double sigmas_off = std::sqrt(worst / static_cast<double>(actual.vectors));
  return Refuse(Reason::kResultWrong, item,
                absl::StrFormat("row %d is off by about %.3g times what rounding explains",
                                worst_row, sigmas_off),
                "evict the worker, draw new vectors, and do the step again");
}

}  // namespace pavise::offload
