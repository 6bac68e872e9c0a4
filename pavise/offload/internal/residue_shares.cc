#include "pavise/offload/internal/residue_shares.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::offload::internal {

absl::StatusOr<std::vector<ResidueMatrix>> ResiduesOf(std::span<const int32_t> integers,
                                                      size_t rows, size_t columns, size_t moduli,
                                                      std::string_view item) {
  std::vector<ResidueMatrix> residues;
  for (size_t p = 0; p < moduli; ++p) {
    PAVISE_ASSIGN_OR_RETURN(auto matrix, ResidueMatrix::Create(rows, columns, item));
    for (size_t i = 0; i < integers.size(); ++i) {
      matrix.values()[i] = Centered(integers[i], kModuli[p]);
    }
    residues.push_back(std::move(matrix));
  }
  return residues;
}

absl::StatusOr<std::vector<ResidueMatrix>> DrawMasks(size_t rows, size_t columns, size_t moduli,
                                                     SecretStream& stream, std::string_view item) {
  std::vector<ResidueMatrix> masks;
  for (size_t p = 0; p < moduli; ++p) {
    PAVISE_ASSIGN_OR_RETURN(auto matrix, ResidueMatrix::Create(rows, columns, item));
    PAVISE_RETURN_IF_ERROR(stream.FillResidues(kModuli[p], matrix.values()));
    masks.push_back(std::move(matrix));
  }
  return masks;
}

absl::StatusOr<std::vector<ResidueMatrix>> Masked(const std::vector<ResidueMatrix>& values,
                                                  int multiple,
                                                  const std::vector<ResidueMatrix>& masks,
                                                  std::string_view item) {
  std::vector<ResidueMatrix> out;
  for (size_t p = 0; p < values.size(); ++p) {
    PAVISE_ASSIGN_OR_RETURN(auto matrix,
                            ResidueMatrix::Create(values[p].rows(), values[p].columns(), item));
    const int8_t* const value = values[p].values().data();
    const int8_t* const mask = masks[p].values().data();
    int8_t* const to = matrix.values().data();
    for (size_t i = 0; i < matrix.values().size(); ++i) {
      to[i] = static_cast<int8_t>(CenteredSmall(value[i] + multiple * mask[i], kModuli[p]));
    }
    out.push_back(std::move(matrix));
  }
  return out;
}

absl::StatusOr<Matrix> Combine(const std::vector<const std::vector<ResidueMatrix>*>& shares,
                               std::span<const int> weights, size_t rows, size_t columns,
                               size_t moduli, int64_t bound, double scale, std::string_view item) {
  for (const auto* share : shares) {
    if (share->size() != moduli) {
      return Refuse(Reason::kMalformed, item,
                    StrCat("a share has ", share->size(), " moduli, not ", moduli));
    }
    for (size_t p = 0; p < moduli; ++p) {
      const ResidueMatrix& matrix = (*share)[p];
      if (matrix.rows() != rows || matrix.columns() != columns) {
        return Refuse(Reason::kMalformed, item,
                      StrCat("a share is not a matrix of ", rows, " x ", columns));
      }
      int largest = 0;
      for (const int8_t value : matrix.values()) largest = std::max(largest, std::abs(value));
      for (const int8_t value : matrix.values()) {
        if (largest <= kModuli[p] / 2) break;
        if (std::abs(value) <= kModuli[p] / 2) continue;
        return Refuse(Reason::kMalformed, item,
                      StrCat(static_cast<int>(value), " is no residue modulo ", kModuli[p]));
      }
    }
  }
  PAVISE_ASSIGN_OR_RETURN(Matrix out, Matrix::Create(rows, columns, item));
  // As many at once as stay in a cache.
  constexpr size_t kAtOnce = 1024;
  std::array<std::array<int32_t, kAtOnce>, kModuli.size()> sums;
  std::array<int32_t, kAtOnce> integers;
  std::array<std::span<int32_t>, kModuli.size()> residues;
  for (size_t first = 0; first < out.values().size(); first += kAtOnce) {
    const size_t count = std::min(kAtOnce, out.values().size() - first);
    for (size_t p = 0; p < moduli; ++p) {
      residues[p] = std::span(sums[p]).first(count);
      std::fill(residues[p].begin(), residues[p].end(), 0);
      for (size_t s = 0; s < shares.size(); ++s) {
        const int8_t* const share = (*shares[s])[p].values().data() + first;
        for (size_t i = 0; i < count; ++i) sums[p][i] += weights[s] * share[i];
      }
      for (size_t i = 0; i < count; ++i) sums[p][i] = CenteredSmall(sums[p][i], kModuli[p]);
    }
    CombineResidues(std::span(residues).first(moduli), std::span(integers).first(count));
    for (size_t i = 0; i < count; ++i) {
      if (std::abs(int64_t{integers[i]}) > bound) {
        return Refuse(Reason::kResultWrong, item,
                      StrCat("row ", (first + i) / columns, ", column ", (first + i) % columns,
                             ": no operands in range have this product"),
                      "evict the worker, and do the step again");
      }
      out.values()[first + i] = static_cast<float>(integers[i] * scale);
    }
  }
  return out;
}

}  // namespace pavise::offload::internal
