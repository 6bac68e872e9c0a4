#include "pavise/audit/attacks.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "pavise/audit/internal/eigen.h"
#include "pavise/train/batches.h"

namespace pavise::audit {
namespace {

using internal::EigenOf;
using internal::Floats;
using internal::MatrixFrom;

constexpr float kTiny = 1e-12f;
constexpr int kMostIterations = 80;  // of FastICA
constexpr int kMostCoefficient = 16;

// Each row of length 1; rows of zeros stay.
Floats UnitRows(Floats m) {
  for (Eigen::Index i = 0; i < m.rows(); ++i) {
    const float norm = m.row(i).norm();
    if (norm > kTiny) m.row(i) /= norm;
  }
  return m;
}

float MedianOf(std::vector<float> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void SubtractRowMedians(Floats& m) {
  for (Eigen::Index i = 0; i < m.rows(); ++i) {
    const Eigen::RowVectorXf row = m.row(i);
    m.row(i).array() -= MedianOf({row.data(), row.data() + row.size()});
  }
}

// m with each row and column divided by the middle of its magnitudes, twice in turns: what no scale
// changes. Zeros count as a thousandth of the middle magnitude.
Floats WithoutScales(const Floats& m) {
  std::vector<float> magnitudes(m.data(), m.data() + m.size());
  for (float& value : magnitudes) value = std::abs(value);
  const float least = std::max(1e-3f * MedianOf(std::move(magnitudes)), 1e-30f);
  Floats logs = m.array().abs().max(least).log();
  for (int i = 0; i < 2; ++i) {
    SubtractRowMedians(logs);
    Floats columns = logs.transpose();
    SubtractRowMedians(columns);
    logs = columns.transpose();
  }
  return logs.array().exp() * m.array().sign();
}

// For each row of `wanted` the row of `offered` with the largest inner product.
std::vector<Eigen::Index> BestRows(const Floats& wanted, const Floats& offered, bool by_magnitude) {
  const Floats products = wanted * offered.transpose();
  std::vector<Eigen::Index> best(static_cast<size_t>(wanted.rows()));
  for (Eigen::Index i = 0; i < wanted.rows(); ++i) {
    if (by_magnitude) {
      products.row(i).array().abs().maxCoeff(&best[static_cast<size_t>(i)]);
    } else {
      products.row(i).maxCoeff(&best[static_cast<size_t>(i)]);
    }
  }
  return best;
}

Floats RowsAt(const Floats& m, const std::vector<Eigen::Index>& which) {
  Floats out(static_cast<Eigen::Index>(which.size()), m.cols());
  for (Eigen::Index i = 0; i < out.rows(); ++i) out.row(i) = m.row(which[static_cast<size_t>(i)]);
  return out;
}

// Rows of `seen` in the order of those of `base` that they lie along, at their scale.
Floats MatchRowDirections(const Floats& seen, const Floats& base) {
  const auto best = BestRows(UnitRows(base), UnitRows(seen), /*by_magnitude=*/true);
  Floats guess = RowsAt(seen, best);
  for (Eigen::Index i = 0; i < guess.rows(); ++i) {
    const float norm = guess.row(i).squaredNorm();
    if (norm > kTiny) guess.row(i) *= base.row(i).dot(guess.row(i)) / norm;
  }
  return guess;
}

Floats Stacked(const std::vector<const Matrix*>& parts) {
  size_t rows = 0;
  for (const Matrix* part : parts) rows += part->rows();
  Floats out(static_cast<Eigen::Index>(rows), EigenOf(*parts.at(0)).cols());
  Eigen::Index at = 0;
  for (const Matrix* part : parts) {
    out.middleRows(at, EigenOf(*part).rows()) = EigenOf(*part);
    at += EigenOf(*part).rows();
  }
  return out;
}

// Eigenvectors of m^T m (less the mean where `centred`), largest first, one a row, and eigenvalues.
struct Components {
  Eigen::MatrixXd vectors;
  Eigen::VectorXd values;
};
Components PrincipalComponents(const Floats& m, Eigen::Index count, bool centred) {
  Eigen::MatrixXd gram = (m.transpose() * m).cast<double>();
  const double rows = static_cast<double>(std::max<Eigen::Index>(m.rows(), 1));
  if (centred) {
    const Eigen::VectorXd mean = m.colwise().mean().transpose().cast<double>();
    gram -= rows * mean * mean.transpose();
  }
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(gram / rows);
  count = std::min(count, gram.rows());
  Components components;
  components.vectors = solver.eigenvectors().rightCols(count).rowwise().reverse().transpose();
  components.values = solver.eigenvalues().tail(count).reverse();
  return components;
}

}  // namespace

Matrix MatchDirections(const Matrix& seen, const Matrix& base) {
  const Floats base_rows = EigenOf(base);
  const Floats by_columns =
      MatchRowDirections(EigenOf(seen).transpose(), base_rows.transpose()).transpose();
  return MatrixFrom(MatchRowDirections(by_columns, base_rows));
}

Matrix MatchSignatures(const Matrix& seen, const Matrix& base) {
  const Floats plain = EigenOf(base);
  const Floats offered = WithoutScales(EigenOf(seen)), wanted = WithoutScales(plain);
  const auto sorted = [](Floats m) {
    for (Eigen::Index i = 0; i < m.rows(); ++i) {
      std::sort(m.row(i).data(), m.row(i).data() + m.cols());
    }
    return m;
  };
  // The nearest sorted row.
  const Floats sorted_offered = sorted(offered);
  Floats products = sorted(wanted) * sorted_offered.transpose();
  products.rowwise() -= 0.5f * sorted_offered.rowwise().squaredNorm().transpose();
  std::vector<Eigen::Index> rows(static_cast<size_t>(plain.rows())), columns;
  for (Eigen::Index i = 0; i < plain.rows(); ++i)
    products.row(i).maxCoeff(&rows[static_cast<size_t>(i)]);
  for (int round = 0; round < 4; ++round) {
    columns =
        BestRows(UnitRows(wanted.transpose()), UnitRows(RowsAt(offered, rows).transpose()), false);
    rows = BestRows(UnitRows(wanted), UnitRows(RowsAt(offered.transpose(), columns).transpose()),
                    false);
  }
  Floats guess = RowsAt(RowsAt(EigenOf(seen), rows).transpose(), columns).transpose();
  // The scale of each row and column, by the medians of ratios.
  const auto ratio_logs = [&] {
    return Floats((guess.array().abs().max(1e-30f) / plain.array().abs().max(1e-30f)).log());
  };
  for (int round = 0; round < 3; ++round) {
    const Floats by_row = ratio_logs();
    for (Eigen::Index i = 0; i < guess.rows(); ++i) {
      const Eigen::RowVectorXf row = by_row.row(i);
      guess.row(i) /= std::exp(MedianOf({row.data(), row.data() + row.size()}));
    }
    const Floats by_column = ratio_logs().transpose();
    for (Eigen::Index j = 0; j < guess.cols(); ++j) {
      const Eigen::RowVectorXf column = by_column.row(j);
      guess.col(j) /= std::exp(MedianOf({column.data(), column.data() + column.size()}));
    }
  }
  return MatrixFrom(guess);
}

DirectionGuess AlignSingularVectors(const Matrix& seen, const Matrix& base, size_t count) {
  // Left singular vectors of W are the components of W^T.
  const Eigen::Index wanted =
      static_cast<Eigen::Index>(std::min({count, seen.rows(), seen.columns()}));
  const auto left = [wanted](const Matrix& m) {
    return Floats(PrincipalComponents(EigenOf(m).transpose(), wanted, false).vectors.cast<float>());
  };
  return {MatrixFrom(left(base)), MatrixFrom(left(seen))};
}

SeenLayer RemoveShiftedScales(const SeenLayer& seen) {
  SeenLayer plain = seen;
  const offload::KeyShift& shift = seen.shift;
  if (shift.rows.empty()) return plain;
  const auto factor = [](float squared) { return std::sqrt(squared); };
  const size_t inputs = shift.rows.size();
  // W' = Dk W Dn^-1 with shift Dk^2 and Dn^-2; X' = X Dk^-1; Y' = Y Dn^-1; dY' = dY Dn.
  for (size_t i = 0; i < plain.weights.rows(); ++i) {
    for (size_t j = 0; j < plain.weights.columns(); ++j) {
      plain.weights(i, j) /= factor(shift.rows[i % inputs]) * factor(shift.columns[j]);
    }
  }
  const auto scale = [&](Matrix& m, const std::vector<float>& squared, bool divides) {
    for (size_t i = 0; i < m.rows(); ++i) {
      for (size_t j = 0; j < m.columns(); ++j) {
        m(i, j) = divides ? m(i, j) / factor(squared[j]) : m(i, j) * factor(squared[j]);
      }
    }
  };
  for (SeenStep& step : plain.steps) {
    scale(step.inputs, shift.rows, false);
    scale(step.outputs, shift.columns, true);
    scale(step.output_gradients, shift.columns, false);
  }
  plain.shift = {};
  return plain;
}

Matrix DivideByCommonDivisors(const Matrix& seen) {
  Matrix out = seen;
  for (size_t i = 0; i < out.rows(); ++i) {
    // Euclid's algorithm in floats: what is a thousandth of the largest is a zero.
    double largest = 0;
    for (size_t j = 0; j < out.columns(); ++j) {
      largest = std::max<double>(largest, std::abs(out(i, j)));
    }
    double divisor = 0;
    for (size_t j = 0; j < out.columns(); ++j) {
      double a = std::abs(out(i, j)), b = divisor;
      while (a > 1e-3 * largest) {
        const double rest = b - a * std::round(b / a);
        b = a;
        a = std::abs(rest);
      }
      divisor = b;
    }
    if (divisor < 4e-3 * largest || divisor == 0) continue;
    for (size_t j = 0; j < out.columns(); ++j) {
      out(i, j) = static_cast<float>(out(i, j) / divisor);
    }
  }
  return out;
}

Matrix UndoHadamard(const Matrix& seen) {
  Matrix out = seen;
  size_t block = 64;
  while (block > seen.columns()) block /= 2;
  if (block == 0) return out;
  const float norm = 1 / std::sqrt(static_cast<float>(block));
  for (size_t i = 0; i < out.rows(); ++i) {
    for (size_t begin = 0; begin + block <= out.columns(); begin += block) {
      const std::span<float> values = out.values().subspan(i * out.columns() + begin, block);
      for (size_t half = 1; half < block; half *= 2) {
        for (size_t j = 0; j < block; ++j) {
          if ((j & half) != 0) continue;
          const float a = values[j], b = values[j + half];
          values[j] = a + b;
          values[j + half] = a - b;
        }
      }
      for (float& value : values) value *= norm;
    }
  }
  return out;
}

Matrix IndependentComponents(const std::vector<const Matrix*>& seen, size_t count, uint64_t seed) {
  const Floats rows = Stacked(seen);
  const Components principal =
      PrincipalComponents(rows, static_cast<Eigen::Index>(count), /*centred=*/true);
  Eigen::Index used = 0;
  while (used < principal.values.size() &&
         principal.values[used] > 1e-6 * std::max(principal.values[0], 1e-30)) {
    ++used;
  }
  if (used == 0) return Matrix();
  Eigen::MatrixXd whitening = principal.vectors.topRows(used);
  for (Eigen::Index i = 0; i < used; ++i) whitening.row(i) /= std::sqrt(principal.values[i]);
  const Floats centred = rows.rowwise() - rows.colwise().mean();
  const Eigen::MatrixXf white = whitening.cast<float>() * centred.transpose();  // used x samples
  Eigen::MatrixXd unmixing(used, used);
  for (Eigen::Index i = 0; i < unmixing.size(); ++i) {
    unmixing.data()[i] =
        static_cast<double>(train::MixSeed(seed, static_cast<uint64_t>(i), 0) >> 11) * 0x1p-52 - 1;
  }
  const auto orthogonalised = [](const Eigen::MatrixXd& m) -> Eigen::MatrixXd {
    // (m m^T)^(-1/2) m
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(m * m.transpose());
    const Eigen::VectorXd roots = solver.eigenvalues().cwiseMax(1e-30).cwiseSqrt().cwiseInverse();
    return solver.eigenvectors() * roots.asDiagonal() * solver.eigenvectors().transpose() * m;
  };
  unmixing = orthogonalised(unmixing);
  const double samples = static_cast<double>(white.cols());
  for (int iteration = 0; iteration < kMostIterations; ++iteration) {
    const Eigen::MatrixXf bent = (unmixing.cast<float>() * white).array().tanh();
    const Eigen::VectorXd slope =
        (1 - bent.array().square()).rowwise().mean().matrix().cast<double>();
    const Eigen::MatrixXd next =
        orthogonalised((bent * white.transpose()).cast<double>() / samples -
                       Eigen::MatrixXd(slope.asDiagonal()) * unmixing);
    const double change =
        ((next * unmixing.transpose()).diagonal().array().abs() - 1).abs().maxCoeff();
    unmixing = next;
    if (change < 1e-5) break;
  }
  return MatrixFrom(UnitRows((unmixing * whitening).cast<float>()));
}

Matrix LessImageMeans(const Matrix& seen, size_t places) {
  Floats out = EigenOf(seen);
  const auto height = static_cast<Eigen::Index>(places);
  for (Eigen::Index image = 0; image + height <= out.rows(); image += height) {
    const Eigen::RowVectorXf mean = out.middleRows(image, height).colwise().mean();
    out.middleRows(image, height).rowwise() -= mean;
  }
  return MatrixFrom(out);
}

Matrix PlaceProducts(const Matrix& seen, size_t places) {
  // A row for each place, with the channels of all samples.
  const auto height = static_cast<Eigen::Index>(places);
  const Eigen::Index images = EigenOf(seen).rows() / height, width = EigenOf(seen).cols();
  Floats of_places(height, images * width);
  for (Eigen::Index i = 0; i < images; ++i) {
    of_places.middleCols(i * width, width) = EigenOf(seen).middleRows(i * height, height);
  }
  Floats products = of_places * of_places.transpose();
  const Eigen::RowVectorXf means = products.colwise().mean();
  const float mean = means.mean();
  products.rowwise() -= means;
  products.colwise() -= means.transpose();
  products.array() += mean;
  return MatrixFrom(products);
}

DirectionGuess GuessConstantDirection(const std::vector<const Matrix*>& seen) {
  const Eigen::Index width = EigenOf(*seen.at(0)).cols();
  const Components all = PrincipalComponents(Stacked(seen), width, false);
  Floats directions(2, width);
  directions.row(0) = all.vectors.row(0).cast<float>();
  directions.row(1) = all.vectors.row(width - 1).cast<float>();
  return {MatrixFrom(UnitRows(Floats::Ones(2, width))), MatrixFrom(directions)};
}

std::vector<size_t> ClusterRows(const Matrix& rows, size_t count) {
  const Floats units = UnitRows(EigenOf(rows));
  const auto is_zero = [&](Eigen::Index i) { return units.row(i).squaredNorm() < 0.5f; };
  std::vector<size_t> clusters(rows.rows(), count);
  Floats centres = Floats::Zero(static_cast<Eigen::Index>(count), units.cols());
  // The first row, and then in turns the one that is least like any of those before.
  for (Eigen::Index c = 0; c < centres.rows(); ++c) {
    Eigen::Index farthest = -1;
    float least = 2;
    for (Eigen::Index i = 0; i < units.rows(); ++i) {
      if (is_zero(i)) continue;
      const float nearest =
          c == 0 ? 1.0f : (centres.topRows(c) * units.row(i).transpose()).maxCoeff();
      if (nearest < least) {
        least = nearest;
        farthest = i;
      }
    }
    if (farthest < 0) return clusters;
    centres.row(c) = units.row(farthest);
  }
  for (int round = 0; round < 20; ++round) {
    Floats sums = Floats::Zero(centres.rows(), centres.cols());
    for (Eigen::Index i = 0; i < units.rows(); ++i) {
      if (is_zero(i)) continue;
      Eigen::Index best = 0;
      (centres * units.row(i).transpose()).maxCoeff(&best);
      clusters[static_cast<size_t>(i)] = static_cast<size_t>(best);
      sums.row(best) += units.row(i);
    }
    centres = UnitRows(std::move(sums));
  }
  return clusters;
}

Matrix RemoveProbabilityScales(const Matrix& seen) {
  Floats out = EigenOf(seen);
  // log x = log c_i - log d_j + log p_ij, with p nearly the same everywhere.
  Floats logs = out.array().abs().max(1e-30f).log();
  Eigen::RowVectorXf columns(out.cols());
  SubtractRowMedians(logs);
  for (Eigen::Index j = 0; j < out.cols(); ++j) {
    const Eigen::VectorXf column = logs.col(j);
    columns[j] = std::exp(-MedianOf({column.data(), column.data() + column.size()}));
  }
  // The largest factor is one of 1 to 16: that for which the others are most nearly integers.
  const Eigen::RowVectorXf relative = columns / columns.maxCoeff();
  Eigen::RowVectorXf factors = relative;
  float least = std::numeric_limits<float>::infinity();
  for (int largest = 1; largest <= kMostCoefficient; ++largest) {
    const Eigen::RowVectorXf scaled = relative * static_cast<float>(largest);
    const Eigen::RowVectorXf rounded = scaled.array().round().max(1.0f);
    const float error = (scaled.array() / rounded.array()).log().square().mean();
    if (error < least) {
      least = error;
      factors = rounded;
    }
  }
  out *= factors.asDiagonal();
  for (Eigen::Index i = 0; i < out.rows(); ++i)
    out.row(i) /= std::max(std::abs(out.row(i).sum()), 1e-30f);
  return MatrixFrom(out);
}

Matrix CombineShares(const Matrix& first, const Matrix& second, int modulus) {
  const int half = (modulus - 1) / 2;
  const auto centred = [&](int value) {
    value %= modulus;
    if (value > half) value -= modulus;
    if (value < -half) value += modulus;
    return value;
  };
  Matrix best;
  double most = -1;
  for (int a = 1; a <= 3; ++a) {
    for (int b = 1; b <= 3; ++b) {
      if (a == b) continue;
      // x = (b first - a second) / (b - a), by the inverse of 1, 2 or their opposites.
      int inverse = b - a > 0 ? b - a : a - b;
      inverse = inverse == 1 ? 1 : (modulus + 1) / 2;
      if (b < a) inverse = -inverse;
      Matrix guess = first;
      std::vector<double> counts(static_cast<size_t>(modulus));
      for (size_t i = 0; i < guess.values().size(); ++i) {
        const int difference = centred(b * static_cast<int>(first.values()[i]) -
                                       a * static_cast<int>(second.values()[i]));
        const int value = centred(difference * inverse);
        guess.values()[i] = static_cast<float>(value);
        ++counts[static_cast<size_t>(value + half)];
      }
      double squares = 0;
      for (const double count : counts) squares += count * count;
      if (squares > most) {
        most = squares;
        best = std::move(guess);
      }
    }
  }
  return best;
}

std::vector<double> LinkRows(const Matrix& first, const Matrix& second) {
  const Floats cosines =
      (UnitRows(EigenOf(first)) * UnitRows(EigenOf(second)).transpose()).array().abs();
  std::vector<double> links(first.rows());
  for (Eigen::Index i = 0; i < cosines.rows(); ++i) {
    Eigen::Index there = 0, back = 0;
    const float best = cosines.row(i).maxCoeff(&there);
    const float best_back = cosines.col(there).maxCoeff(&back);
    if (best >= best_back) links[static_cast<size_t>(i)] = best;
  }
  return links;
}

Matrix ProjectOut(const std::vector<const Matrix*>& all, const Matrix& seen, size_t dimensions) {
  if (dimensions == 0) return seen;
  const Floats directions =
      PrincipalComponents(Stacked(all), static_cast<Eigen::Index>(dimensions), false)
          .vectors.cast<float>();
  const Floats m = EigenOf(seen);
  return MatrixFrom(m - (m * directions.transpose()) * directions);
}

DirectionGuess AlignPrincipalComponents(const Matrix& seen, const Matrix& known, size_t count) {
  const auto components = [count](const Matrix& m) {
    return Floats(PrincipalComponents(EigenOf(m), static_cast<Eigen::Index>(count), false)
                      .vectors.cast<float>());
  };
  return {MatrixFrom(components(known)), MatrixFrom(components(seen))};
}

Matrix SortColumns(const Matrix& seen_known, const Matrix& known, const Matrix& seen) {
  const auto sorted = [](Floats m) {
    for (Eigen::Index i = 0; i < m.rows(); ++i) {
      std::sort(m.row(i).data(), m.row(i).data() + m.cols());
    }
    return m;
  };
  const Floats wanted = UnitRows(EigenOf(known)), offered = UnitRows(EigenOf(seen_known));
  const auto matches = BestRows(sorted(wanted), sorted(offered), false);
  // A column is now known by its values in all known rows.
  const Floats columns = wanted.transpose();
  const Floats seen_columns = RowsAt(offered, matches).transpose();
  Floats products = columns * seen_columns.transpose();
  products.rowwise() -= 0.5f * seen_columns.rowwise().squaredNorm().transpose();
  Floats guess(EigenOf(seen).rows(), EigenOf(seen).cols());
  for (Eigen::Index j = 0; j < guess.cols(); ++j) {
    Eigen::Index nearest = 0;
    products.row(j).maxCoeff(&nearest);
    guess.col(j) = EigenOf(seen).col(nearest);
  }
  return MatrixFrom(guess);
}

Matrix InvertActivations(const Matrix& seen_known, const Matrix& known, const Matrix& seen) {
  const Floats from = EigenOf(seen_known);
  // A little of the mean square on the diagonal, for inputs that do not span.
  Eigen::MatrixXd gram = (from.transpose() * from).cast<double>();
  gram.diagonal().array() += 1e-4 * gram.trace() / static_cast<double>(gram.rows()) + 1e-30;
  const Eigen::MatrixXd cross = (from.transpose() * EigenOf(known)).cast<double>();
  const Floats map = gram.ldlt().solve(cross).cast<float>();
  return MatrixFrom(EigenOf(seen) * map);
}

Matrix FineTune(const Matrix& weights, const Matrix& known_inputs, const Matrix& known_outputs) {
  if (known_inputs.rows() == 0) return weights;
  const Floats x = EigenOf(known_inputs);
  const Floats missing = EigenOf(known_outputs) - x * EigenOf(weights);
  Eigen::MatrixXd gram = (x * x.transpose()).cast<double>();
  gram.diagonal().array() += 1e-4 * gram.trace() / static_cast<double>(gram.rows()) + 1e-30;
  const Floats step =
      (x.transpose().cast<double>() * gram.ldlt().solve(missing.cast<double>())).cast<float>();
  return MatrixFrom(EigenOf(weights) + step);
}

}  // namespace pavise::audit
