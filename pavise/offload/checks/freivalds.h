#ifndef PAVISE_OFFLOAD_CHECKS_FREIVALDS_H_
#define PAVISE_OFFLOAD_CHECKS_FREIVALDS_H_

#include <cstddef>
#include <string_view>

#include "pavise/offload/checks/soundness.h"
#include "pavise/offload/residues.h"
#include "pavise/offload/secret_stream.h"
#include "pavise/offload/tensor.h"

#include "absl/status/status.h"

// Freivalds' check: Y = X W holds with high probability where Y r = X (W r) for a secret random r,
// which costs O(mk + kn + mn) for each vector and not O(mkn).
namespace pavise::offload {

// Five vectors modulo a prime near 2^8: a wrong product passes with at most p^-5, about 10^-12.
inline constexpr size_t kModularVectors = 5;

// `y` is a b, a b^T or a^T b modulo the odd prime `modulus`, exactly. kResultWrong: it is not; the
// finding names a row. Passes though wrong with probability at most modulus^-vectors. kMalformed: y
// has an element that is no residue. A usage error where shapes do not fit.
absl::Status CheckModularProduct(Operation operation, ViewOf<const int8_t> a,
                                 ViewOf<const int8_t> b, ViewOf<const int8_t> y, int modulus,
                                 size_t vectors, SecretStream& stream, std::string_view item);

// `y` is a b, a b^T or a^T b up to the rounding that `check` allows for results of `type`; a and b
// are the values that the worker was sent. kMalformed: NaN, infinities. kResultWrong: a row is off.
// Soundness: FloatCheck::PassProbability. A usage error where shapes do not fit.
absl::Status CheckProduct(const FloatCheck& check, Operation operation, MatrixView a, MatrixView b,
                          MatrixView y, DType type, SecretStream& stream, std::string_view item);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_CHECKS_FREIVALDS_H_
