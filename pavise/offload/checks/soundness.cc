#include "pavise/offload/checks/soundness.h"

#include <cmath>

#include "absl/strings/str_format.h"

namespace pavise::offload {

double ChiSquaredCdf(double x, size_t degrees) {
  if (x <= 0) return 0;
  // 1 - exp(-x/2) sum_{i < degrees/2} (x/2)^i / i!. Near 0 that difference cancels; there the same
  // probability is the rest of the exponential's series.
  const double half = x / 2;
  double term = std::exp(-half);
  double below = 0;
  for (size_t i = 0; i < degrees / 2; ++i) {
    below += term;
    term *= half / static_cast<double>(i + 1);
  }
  if (below < 0.5) return 1 - below;
  double rest = 0;
  for (size_t i = degrees / 2; i < degrees / 2 + 200; ++i) {
    rest += term;
    term *= half / static_cast<double>(i + 1);
  }
  return rest;
}

FloatCheck FloatCheck::For(DType type) {
  FloatCheck check;
  check.vectors = type == DType::kFp32 ? 2 : 8;
  return check;
}

double FloatCheck::Threshold() const {
  // The upper tail at x is sum_{i < vectors/2} of the terms above, which falls with x.
  const auto tail = [&](double x) {
    double term = std::exp(-x / 2);
    double sum = 0;
    for (size_t i = 0; i < vectors / 2; ++i) {
      sum += term;
      term *= x / 2 / static_cast<double>(i + 1);
    }
    return sum;
  };
  double low = 0;
  double high = 1000;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    (tail(middle) > false_alarm ? low : high) = middle;
  }
  return high;
}

double FloatCheck::SumError(size_t inner, double row_norm, double left_norm,
                            double right_norm) const {
  return 0x1p-24 * (accumulation * left_norm * right_norm +
                    std::sqrt(static_cast<double>(inner)) / 2 * row_norm);
}

double FloatCheck::Sigma(DType type, size_t inner, double row_norm, double left_norm,
                         double right_norm) const {
  return UnitRoundoff(type) * row_norm + SumError(inner, row_norm, left_norm, right_norm);
}

double LeastRounding(DType type, size_t columns) {
  return type == DType::kFp16 ? 0x1p-25 * std::sqrt(static_cast<double>(columns)) : 0;
}

double FloatCheck::PassProbability(double error_in_sigmas) const {
  return ChiSquaredCdf(Threshold() / (error_in_sigmas * error_in_sigmas), vectors);
}

std::vector<SoundnessPoint> SoundnessOf(const FloatCheck& check, DType type, size_t inner) {
  // Without structure |x| |W| is sqrt(inner) times the norm of the row x W.
  const double sigma = check.Sigma(type, inner, 1, 1, std::sqrt(static_cast<double>(inner)));
  std::vector<SoundnessPoint> points;
  for (double error = 1; points.empty() || points.back().pass_probability > 1e-9; error *= 2) {
    points.push_back({error, error * sigma, check.PassProbability(error)});
  }
  return points;
}

std::string DescribeSoundness(const FloatCheck& check, DType type, size_t inner) {
  std::string text;
  for (const SoundnessPoint& point : SoundnessOf(check, type, inner)) {
    absl::StrAppendFormat(&text, "a row off by %.2g of its norm (%g sigma) passes with %.2g\n",
                          point.relative_error, point.error_in_sigmas, point.pass_probability);
  }
  double error = 1;
  while (check.PassProbability(error) > 1e-3) error *= 1.01;
  const double sigma = check.Sigma(type, inner, 1, 1, std::sqrt(static_cast<double>(inner)));
  absl::StrAppendFormat(&text, "found in 999 of 1000 cases: %.2g of a row's norm\n", error * sigma);
  return text;
}

}  // namespace pavise::offload
