#include "pavise/offload/residues.h"

#include <algorithm>
#include <cmath>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::offload {
namespace {

// Garner's constants: inverse[i][j] = kModuli[j]^-1 mod kModuli[i], j < i.
constexpr int Inverse(int value, int modulus) {
  for (int x = 1; x < modulus; ++x) {
    if (value % modulus * x % modulus == 1) return x;
  }
  return 0;
}
constexpr auto MakeInverses() {
  std::array<std::array<int, kModuli.size()>, kModuli.size()> inverses = {};
  for (size_t i = 0; i < kModuli.size(); ++i) {
    for (size_t j = 0; j < i; ++j) inverses[i][j] = Inverse(kModuli[j], kModuli[i]);
  }
  return inverses;
}
constexpr auto kInverses = MakeInverses();

constexpr int64_t Product(size_t count) {
  int64_t product = 1;
  for (size_t i = 0; i < count; ++i) product *= kModuli[i];
  return product;
}

}  // namespace

int64_t LargestInteger(size_t count) { return (Product(count) - 1) / 2; }

int32_t LargestLevel(uint64_t inner, size_t count) {
  if (inner == 0 || inner > kMaxInnerResidues) return 0;
  const int64_t square = LargestInteger(count) / static_cast<int64_t>(inner);
  int64_t level = static_cast<int64_t>(std::sqrt(static_cast<double>(square)));
  while (level * level > square) --level;
  while ((level + 1) * (level + 1) <= square) ++level;
  return static_cast<int32_t>(std::min<int64_t>(level, kMaxLevel));
}

absl::StatusOr<size_t> ModuliFor(std::string_view item, uint64_t inner, int32_t level) {
  for (size_t count = kLeastModuli; count <= kModuli.size(); ++count) {
    if (LargestLevel(inner, count) >= level) return count;
  }
  return Refuse(Reason::kLimitExceeded, item,
                StrCat("sums of ", inner, " products of integers up to ", level,
                       " leave the range of ", kModuli.size(), " moduli"),
                StrCat("use levels up to ", LargestLevel(inner, kModuli.size()), " and at most ",
                       kMaxInnerResidues, " terms"));
}

absl::StatusOr<Quantised> Quantise(MatrixView values, int32_t level, std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckFinite(values, item));
  float largest = 0;
  for (size_t i = 0; i < values.rows; ++i) {
    for (size_t j = 0; j < values.columns; ++j) largest = std::max(largest, std::abs(values(i, j)));
  }
  Quantised out;
  if (largest > 0) out.scale = static_cast<double>(largest) / level;
  out.integers.reserve(values.rows * values.columns);
  for (size_t i = 0; i < values.rows; ++i) {
    for (size_t j = 0; j < values.columns; ++j) {
      const double multiple = std::nearbyint(static_cast<double>(values(i, j)) / out.scale);
      out.integers.push_back(static_cast<int32_t>(
          std::clamp(multiple, -static_cast<double>(level), static_cast<double>(level))));
    }
  }
  return out;
}

absl::StatusOr<ResidueMatrix> ModularProduct(Operation operation, ViewOf<const int8_t> a,
                                             ViewOf<const int8_t> b, int modulus) {
  const bool left = operation == Operation::kTransposeLeft;
  const bool right = operation == Operation::kTransposeRight;
  const size_t rows = left ? a.columns : a.rows;
  const size_t inner = left ? a.rows : a.columns;
  const size_t columns = right ? b.rows : b.columns;
  if (inner != (right ? b.columns : b.rows)) return UsageError("the product's shapes do not fit");
  if (inner > kMaxInnerResidues) {
    return Refuse(Reason::kLimitExceeded, "product of residues",
                  StrCat(inner, " terms, over ", kMaxInnerResidues), "split the layer");
  }
  PAVISE_ASSIGN_OR_RETURN(auto out, ResidueMatrix::Create(rows, columns, "product of residues"));
  std::vector<int32_t> sums(columns);
  for (size_t i = 0; i < rows; ++i) {
    std::fill(sums.begin(), sums.end(), 0);
    for (size_t k = 0; k < inner; ++k) {
      const int32_t factor = left ? a(k, i) : a(i, k);
      if (right) {
        for (size_t j = 0; j < columns; ++j) sums[j] += factor * b(j, k);
      } else {
        const int8_t* const row = b.Row(k);
        for (size_t j = 0; j < columns; ++j) sums[j] += factor * row[j];
      }
    }
    for (size_t j = 0; j < columns; ++j) out(i, j) = Centered(sums[j], modulus);
  }
  return out;
}

void CombineResidues(std::span<const std::span<int32_t>> residues, std::span<int32_t> integers) {
  // Garner: value = d_0 + p_0 (d_1 + p_1 (d_2 + ...)), each digit from the residue of its modulus.
  // Of centred digits it is centred as well, at most half the moduli's product, and so are its
  // parts.
  static_assert(Product(kModuli.size()) / 2 <= INT32_MAX);
  const size_t count = integers.size();
  for (size_t i = 0; i < residues.size(); ++i) {
    int32_t* const digits = residues[i].data();
    for (size_t j = 0; j < i; ++j) {
      const int32_t* const before = residues[j].data();
      const int inverse = kInverses[i][j];
      for (size_t n = 0; n < count; ++n) {
        digits[n] = CenteredSmall((digits[n] - before[n]) * inverse, kModuli[i]);
      }
    }
  }
  std::fill(integers.begin(), integers.end(), 0);
  for (size_t i = residues.size(); i-- > 0;) {
    const int32_t* const digits = residues[i].data();
    for (size_t n = 0; n < count; ++n) integers[n] = integers[n] * kModuli[i] + digits[n];
  }
}

int64_t CombineResidues(std::span<const int8_t> residues) {
  std::array<int32_t, kModuli.size()> values = {};
  std::array<std::span<int32_t>, kModuli.size()> each;
  for (size_t p = 0; p < residues.size(); ++p) {
    values[p] = residues[p];
    each[p] = std::span(&values[p], 1);
  }
  int32_t integer = 0;
  CombineResidues(std::span(each).first(residues.size()), std::span(&integer, 1));
  return integer;
}

}  // namespace pavise::offload
