#ifndef PAVISE_OFFLOAD_RESIDUES_H_
#define PAVISE_OFFLOAD_RESIDUES_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/offload/tensor.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Integers by their residues: exact products on int8 matrix units.
namespace pavise::offload {

// Primes. Three hold integers up to +-7,228,674, four up to +-1,684,281,158.
inline constexpr std::array<int, 4> kModuli = {251, 241, 239, 233};
inline constexpr size_t kLeastModuli = 3;
// Terms of a sum of products of residues that an int32 holds: 125^2 * 2^17 < 2^31.
inline constexpr size_t kMaxInnerResidues = size_t{1} << 17;
inline constexpr int32_t kMaxLevel = 32767;

// The largest magnitude that the first `count` of kModuli represent: (product - 1) / 2.
int64_t LargestInteger(size_t count);

// The representative of `value` modulo `modulus` in [-(modulus-1)/2, (modulus-1)/2].
inline int8_t Centered(int64_t value, int modulus) {
  int rest = static_cast<int>(value % modulus);
  if (rest > modulus / 2) rest -= modulus;
  if (rest < -(modulus / 2)) rest += modulus;
  return static_cast<int8_t>(rest);
}

// The same of values up to +-2^20, without a division: what loops over residues take. Adding and
// subtracting 1.5 * 2^23 rounds the quotient, which is never near the middle of two integers: the
// modulus is odd.
inline int32_t CenteredSmall(int32_t value, int modulus) {
  constexpr float kRound = 0x1.8p23f;
  const float quotient =
      (static_cast<float>(value) * (1.0f / static_cast<float>(modulus)) + kRound) - kRound;
  return value - static_cast<int32_t>(quotient) * modulus;
}

// How many of kModuli products need whose sums have `inner` terms and whose factors are at most
// `level`: 3 or 4. kLimitExceeded: not even four are enough, or inner is over kMaxInnerResidues.
absl::StatusOr<size_t> ModuliFor(std::string_view item, uint64_t inner, int32_t level);
// The largest level with which `inner` terms stay in the range of `count` moduli; at most
// kMaxLevel, 0 where there is none.
int32_t LargestLevel(uint64_t inner, size_t count);

// Integers times a scale: values = scale * integers, |integer| <= level, rounded to nearest, ties
// to even. The scale is (largest magnitude) / level; 1 for zeros.
struct Quantised {
  std::vector<int32_t> integers;
  double scale = 1;
};
// kMalformed where a value is not finite.
absl::StatusOr<Quantised> Quantise(MatrixView values, int32_t level, std::string_view item);

// a b, a b^T or a^T b modulo `modulus`. A usage error where shapes do not fit; kLimitExceeded over
// kMaxInnerResidues.
enum class Operation { kPlain, kTransposeRight, kTransposeLeft };
absl::StatusOr<ResidueMatrix> ModularProduct(Operation operation, ViewOf<const int8_t> a,
                                             ViewOf<const int8_t> b, int modulus);

// The integer of least magnitude with these residues modulo the first residues.size() of kModuli.
int64_t CombineResidues(std::span<const int8_t> residues);
// Many at once: of integer i residues[p][i], all as long as `integers`. What is in them is used up.
void CombineResidues(std::span<const std::span<int32_t>> residues, std::span<int32_t> integers);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_RESIDUES_H_
