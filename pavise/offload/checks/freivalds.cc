#include "pavise/offload/checks/freivalds.h"

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/checks/sketch.h"

namespace pavise::offload {
namespace {

// m v or m^T v modulo p. An int64 holds 2^49 products of residues.
std::vector<int8_t> ModularTimes(ViewOf<const int8_t> m, bool is_transposed,
                                 std::span<const int8_t> v, int modulus) {
  // An int32 holds kMaxInnerResidues of them.
  std::vector<int64_t> sums(is_transposed ? m.columns : m.rows);
  std::vector<int32_t> parts(is_transposed ? m.columns : 0);
  for (size_t i = 0; i < m.rows; ++i) {
    const int8_t* const row = m.Row(i);
    if (is_transposed) {
      const int factor = v[i];
      for (size_t j = 0; j < m.columns; ++j) parts[j] += row[j] * factor;
      if ((i + 1) % kMaxInnerResidues != 0 && i + 1 != m.rows) continue;
      for (size_t j = 0; j < m.columns; ++j) sums[j] += std::exchange(parts[j], 0);
      continue;
    }
    for (size_t first = 0; first < m.columns; first += kMaxInnerResidues) {
      const size_t last = std::min(m.columns, first + kMaxInnerResidues);
      int32_t part = 0;
      for (size_t j = first; j < last; ++j) part += row[j] * v[j];
      sums[i] += part;
    }
  }
  std::vector<int8_t> out;
  out.reserve(sums.size());
  for (const int64_t sum : sums) out.push_back(Centered(sum, modulus));
  return out;
}

template <typename T>
absl::Status CheckShapes(Operation operation, ViewOf<const T> a, ViewOf<const T> b,
                         ViewOf<const T> y, std::string_view item) {
  const bool left = operation == Operation::kTransposeLeft;
  const bool right = operation == Operation::kTransposeRight;
  if ((left ? a.rows : a.columns) == (right ? b.columns : b.rows) &&
      y.rows == (left ? a.columns : a.rows) && y.columns == (right ? b.rows : b.columns)) {
    return absl::OkStatus();
  }
  return UsageError(StrCat(item, ": the product's shapes do not fit"));
}

}  // namespace

absl::Status CheckModularProduct(Operation operation, ViewOf<const int8_t> a,
                                 ViewOf<const int8_t> b, ViewOf<const int8_t> y, int modulus,
                                 size_t vectors, SecretStream& stream, std::string_view item) {
  const bool left = operation == Operation::kTransposeLeft;
  const bool right = operation == Operation::kTransposeRight;
  PAVISE_RETURN_IF_ERROR(CheckShapes(operation, a, b, y, item));
  for (size_t i = 0; i < y.rows; ++i) {
    for (size_t j = 0; j < y.columns; ++j) {
      if (std::abs(y(i, j)) > modulus / 2) {
        return Refuse(Reason::kMalformed, item,
                      StrCat("row ", i, ", column ", j, " is no residue modulo ", modulus));
      }
    }
  }
  std::vector<int8_t> r(y.columns);
  for (size_t vector = 0; vector < vectors; ++vector) {
    PAVISE_RETURN_IF_ERROR(stream.FillResidues(modulus, r));
    const std::vector<int8_t> inner = ModularTimes(b, right, r, modulus);
    const std::vector<int8_t> expected = ModularTimes(a, left, inner, modulus);
    const std::vector<int8_t> actual = ModularTimes(y, false, r, modulus);
    for (size_t i = 0; i < y.rows; ++i) {
      if (actual[i] == expected[i]) continue;
      return Refuse(Reason::kResultWrong, item, StrCat("row ", i, " modulo ", modulus, " is wrong"),
                    "evict the worker, and do the step again");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckProduct(const FloatCheck& check, Operation operation, MatrixView a, MatrixView b,
                          MatrixView y, DType type, SecretStream& stream, std::string_view item) {
  const bool left = operation == Operation::kTransposeLeft;
  const bool right = operation == Operation::kTransposeRight;
  PAVISE_RETURN_IF_ERROR(CheckShapes(operation, a, b, y, item));
  PAVISE_RETURN_IF_ERROR(CheckFinite(y, item));
  PAVISE_ASSIGN_OR_RETURN(const Sketch r, DrawVectors(y.columns, check.vectors, stream));
  const std::vector<double> left_norms = left ? ColumnNorms(a) : RowNorms(a);
  const double right_norm = Norm(RowNorms(b));
  std::vector<double> sigmas = RowNorms(y);
  for (size_t i = 0; i < sigmas.size(); ++i) {
    sigmas[i] = check.Sigma(type, left ? a.rows : a.columns, sigmas[i], left_norms[i], right_norm) +
                LeastRounding(type, y.columns);
  }
  const Sketch inner = right ? TransposedTimes(b, r) : Times(b, r);
  return CheckResiduals(check, Times(y, r), left ? TransposedTimes(a, inner) : Times(a, inner),
                        sigmas, item);
}

}  // namespace pavise::offload
