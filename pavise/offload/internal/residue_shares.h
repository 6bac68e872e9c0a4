#ifndef PAVISE_OFFLOAD_INTERNAL_RESIDUE_SHARES_H_
#define PAVISE_OFFLOAD_INTERNAL_RESIDUE_SHARES_H_

#include <string_view>
#include <vector>

#include "pavise/offload/residues.h"
#include "pavise/offload/scheme.h"

namespace pavise::offload::internal {

// The residues of `integers` modulo the first `moduli` of kModuli.
absl::StatusOr<std::vector<ResidueMatrix>> ResiduesOf(std::span<const int32_t> integers,
                                                      size_t rows, size_t columns, size_t moduli,
                                                      std::string_view item);

// As many uniform matrices as there are moduli.
absl::StatusOr<std::vector<ResidueMatrix>> DrawMasks(size_t rows, size_t columns, size_t moduli,
                                                     SecretStream& stream, std::string_view item);

// values + multiple * masks, modulus by modulus.
absl::StatusOr<std::vector<ResidueMatrix>> Masked(const std::vector<ResidueMatrix>& values,
                                                  int multiple,
                                                  const std::vector<ResidueMatrix>& masks,
                                                  std::string_view item);

// A linear combination of workers' shares (or of a share and a mask), put together to integers and
// scaled. kMalformed: a share has another form or a residue that is none; kResultWrong: an integer
// is over `bound`.
absl::StatusOr<Matrix> Combine(const std::vector<const std::vector<ResidueMatrix>*>& shares,
                               std::span<const int> weights, size_t rows, size_t columns,
                               size_t moduli, int64_t bound, double scale, std::string_view item);

}  // namespace pavise::offload::internal

#endif  // PAVISE_OFFLOAD_INTERNAL_RESIDUE_SHARES_H_
