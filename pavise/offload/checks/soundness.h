#ifndef PAVISE_OFFLOAD_CHECKS_SOUNDNESS_H_
#define PAVISE_OFFLOAD_CHECKS_SOUNDNESS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "pavise/offload/tensor.h"

// What a check in floats promises. With Gaussian vectors r_1 ... r_v, a row of a result that is off
// by the vector e shows residuals e r_j that are independent and normal with variance |e|^2,
// whatever the direction of e. So  S = sum_j (e r_j)^2 / |e|^2  is chi-squared with v degrees of
// freedom, both for rounding errors and for tampering, and the check is: S |e|^2 <= threshold *
// sigma^2, where sigma bounds the |e| of an honest worker.
namespace pavise::offload {

// P(X <= x) of chi-squared with an even number of degrees of freedom.
double ChiSquaredCdf(double x, size_t degrees);

struct FloatCheck {
  size_t vectors = 8;  // even
  // An honest row whose error is all of sigma is refused with this probability.
  double false_alarm = 1e-12;
  // Sums are kept in fp32. Where terms have both signs, partial sums wander, and the error of a sum
  // of products x w is at most this times 2^-24 |x| |w|: 0.4 for a sequential sum, more where
  // hardware truncates. Where all have one sign they grow to the sum itself, which SumError adds.
  double accumulation = 2;

  // 8 vectors for bf16 and fp16, 2 for fp32, whose sigma is thousands of times smaller.
  static FloatCheck For(DType type);

  // Of S |e|^2 / sigma^2.
  double Threshold() const;
  // The error of a row of sums of `inner` products in fp32: 2^-24 (accumulation |left| |right| +
  // sqrt(inner) / 2 |row|). Norms are Euclidean: of the returned row, of the row of the left
  // operand, of the whole right operand.
  double SumError(size_t inner, double row_norm, double left_norm, double right_norm) const;
  // The error of a row that an honest worker may have: its sums, and the rounding of what it
  // returns.
  double Sigma(DType type, size_t inner, double row_norm, double left_norm,
               double right_norm) const;
  // Of a row that is off by `error_in_sigmas` x sigma.
  double PassProbability(double error_in_sigmas) const;
};

// What rounding may add to a row of `columns` elements where these are smaller than the type's
// least normal number: half of a step of 2^-24 an element for fp16. Others reach down to fp32's.
double LeastRounding(DType type, size_t columns);

struct SoundnessPoint {
  double error_in_sigmas = 0;
  double relative_error = 0;  // of a row's norm, for operands without structure
  double pass_probability = 0;
};
// From 1 sigma on, in steps of a factor of 2, until less than one in a billion passes.
std::vector<SoundnessPoint> SoundnessOf(const FloatCheck& check, DType type, size_t inner);
// A line for each point, and the smallest tampering of which 999 in 1,000 are found.
std::string DescribeSoundness(const FloatCheck& check, DType type, size_t inner);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_CHECKS_SOUNDNESS_H_
