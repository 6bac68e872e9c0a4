#include "pavise/audit/audit.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <new>
#include <optional>
#include <set>
#include <utility>

#include "pavise/audit/attacks.h"
#include "pavise/audit/internal/eigen.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/convolution.h"
#include "pavise/train/batches.h"

namespace pavise::audit {
namespace {

using internal::EigenOf;
using internal::Floats;
using internal::MatrixFrom;
using offload::Exposure;

constexpr size_t kDirections = 32;
constexpr size_t kComponents = 16;
constexpr size_t kKnownRows = 16;
// Truth rows that guesses of inputs are scored by, evenly spaced.
constexpr size_t kScoredRows = 256;
// Rows that attacks by regression and components read of one step.
constexpr size_t kMostRows = 4096;
// FastICA looks for all directions of layers that are so narrow, where a run has 64 rows for each.
constexpr size_t kNarrow = 128;
constexpr size_t kComponentRows = 65536;
// Places of an image whose inner products are compared, and gradients that are told classes by.
constexpr size_t kMostPlaces = 1024;
constexpr size_t kMostClustered = 512;
// A guess is right where its cosine with the truth is at least this.
constexpr double kRight = 0.9;
// Rows of one sample, whose values differ by one or two updates of the layers before and by
// rounding.
constexpr double kSameRow = 0.99;

// What one scoring of an attack is given.
struct Evidence {
  const SeenLayer& seen;            // coefficients that the key shift shows are taken off
  const SeenLayer& plain;           // the truth
  offload::Layer* keys;             // nullptr: directions are compared as they are
  std::vector<float> coefficients;  // that were taken off the k dimension; empty: none
  const AuditedLayer& layer;
};

// Places of an image, where the worker does the convolution; else 1.
size_t PlacesOf(const SeenLayer& layer) {
  const auto& convolution = layer.form.convolution;
  return convolution.has_value() ? convolution->height * convolution->width : 1;
}

size_t TapsOf(const SeenLayer& layer) {
  const auto& convolution = layer.form.convolution;
  return convolution.has_value() ? convolution->taps() : 1;
}

// Weights with a row for each input channel, and the taps' columns side by side: k x (taps * n).
Matrix Unfolded(const Matrix& weights, size_t taps) {
  if (taps == 1) return weights;
  const Eigen::Index inputs = EigenOf(weights).rows() / static_cast<Eigen::Index>(taps);
  const Eigen::Index outputs = EigenOf(weights).cols();
  Floats out(inputs, static_cast<Eigen::Index>(taps) * outputs);
  for (Eigen::Index tap = 0; tap < static_cast<Eigen::Index>(taps); ++tap) {
    out.middleCols(tap * outputs, outputs) = EigenOf(weights).middleRows(tap * inputs, inputs);
  }
  return MatrixFrom(out);
}

// ---- Scores
// --------------------------------------------------------------------------------------

// Every so many rows that at most `most` are left.
Matrix Thinned(const Matrix& m, size_t most) {
  if (m.rows() <= most) return m;
  Floats out(static_cast<Eigen::Index>(most), EigenOf(m).cols());
  for (size_t i = 0; i < most; ++i) {
    out.row(static_cast<Eigen::Index>(i)) =
        EigenOf(m).row(static_cast<Eigen::Index>(i * m.rows() / most));
  }
  return MatrixFrom(out);
}

Matrix Stacked(const std::vector<const Matrix*>& parts) {
  Floats out(0, EigenOf(*parts.at(0)).cols());
  for (const Matrix* part : parts) {
    const Eigen::Index at = out.rows();
    out.conservativeResize(at + EigenOf(*part).rows(), Eigen::NoChange);
    out.bottomRows(out.rows() - at) = EigenOf(*part);
  }
  return MatrixFrom(out);
}

double Cosine(const Eigen::RowVectorXf& a, const Eigen::RowVectorXf& b) {
  const double norms = static_cast<double>(a.norm()) * static_cast<double>(b.norm());
  return norms > 1e-20 ? static_cast<double>(a.dot(b)) / norms : 0;
}

// Of rows that are not zero in the truth, those that the guess has in their place, `less` taken off
// both: what the adversary had anyway.
double RowsRecovered(const Floats& guess, const Floats& truth, const Floats& less) {
  Eigen::Index right = 0, rows = 0;
  for (Eigen::Index i = 0; i < truth.rows(); ++i) {
    const auto known = less.row(less.rows() == 1 ? 0 : i);
    const Eigen::RowVectorXf wanted = truth.row(i) - known;
    if (wanted.norm() < 1e-9f) continue;
    ++rows;
    right += Cosine(guess.row(i) - known, wanted) >= kRight;
  }
  return rows == 0 ? 0 : static_cast<double>(right) / static_cast<double>(rows);
}

Floats MeanRow(const Matrix& m) { return EigenOf(m).colwise().mean(); }

// Of rows of the truth (a few, evenly spaced), those that the guess has anywhere, up to a factor:
// what is off is small against how far the row is from the mean.
double RowsFound(const Matrix& guess, const Matrix& truth) {
  const Floats wanted = EigenOf(Thinned(truth, kScoredRows));
  const Floats mean = MeanRow(truth);
  Floats offered = EigenOf(guess);
  for (Eigen::Index i = 0; i < offered.rows(); ++i)
    offered.row(i) /= std::max(offered.row(i).norm(), 1e-9f);
  const Floats products = wanted * offered.transpose();
  Eigen::Index right = 0, rows = 0;
  for (Eigen::Index i = 0; i < wanted.rows(); ++i) {
    const float own = (wanted.row(i) - mean.row(0)).squaredNorm();
    if (own < 1e-9f) continue;
    ++rows;
    const float closest = products.row(i).cwiseAbs2().maxCoeff();
    right += wanted.row(i).squaredNorm() - closest <= (1 - kSameRow * kSameRow) * own;
  }
  return rows == 0 ? 0 : static_cast<double>(right) / static_cast<double>(rows);
}

// Of rows of the truth that are not zero, those whose values the guess has in one row, in any
// order; up to a factor where `up_to_scale`.
double RowsOfValues(const Matrix& guess, const Matrix& truth, bool up_to_scale) {
  const auto sorted = [&](const Matrix& m) {
    Floats rows = EigenOf(m);
    for (Eigen::Index i = 0; i < rows.rows(); ++i) {
      std::sort(rows.row(i).data(), rows.row(i).data() + rows.cols());
      if (up_to_scale) rows.row(i) /= std::max(rows.row(i).norm(), 1e-9f);
    }
    return rows;
  };
  const Floats wanted = sorted(Thinned(truth, kScoredRows)), offered = sorted(guess);
  Eigen::Index right = 0, rows = 0;
  for (Eigen::Index i = 0; i < wanted.rows(); ++i) {
    if (wanted.row(i).norm() < 1e-9f) continue;
    ++rows;
    const float error = (offered.rowwise() - wanted.row(i)).rowwise().norm().minCoeff();
    right += error <= 0.005f * wanted.row(i).norm();
  }
  return static_cast<double>(right) / static_cast<double>(std::max<Eigen::Index>(rows, 1));
}

Matrix Magnitudes(const Matrix& m) { return MatrixFrom(EigenOf(m).cwiseAbs()); }

// The plain direction that a worker's direction of the k dimension is, by the keys.
absl::StatusOr<Eigen::RowVectorXf> PlainDirection(const Evidence& evidence,
                                                  Eigen::RowVectorXf direction) {
  for (Eigen::Index j = 0; j < direction.size() && !evidence.coefficients.empty(); ++j) {
    direction[j] *= evidence.coefficients[static_cast<size_t>(j)];
  }
  if (evidence.keys == nullptr) return direction;
  // An input gradient is such a direction: dX' = .. dX P^T.
  PAVISE_ASSIGN_OR_RETURN(const auto step,
                          evidence.keys->NewStep({.samples = 1}, offload::Use::kTraining));
  offload::Encoding encoding(1);
  encoding[0].values = MatrixFrom(direction);
  PAVISE_ASSIGN_OR_RETURN(const Matrix plain, step->DecodeInputGradients(encoding));
  return Eigen::RowVectorXf(EigenOf(plain).row(0));
}

absl::StatusOr<double> DirectionsRecovered(const Evidence& evidence, const DirectionGuess& guess) {
  const size_t count = std::min(guess.plain.rows(), guess.seen.rows());
  size_t right = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto at = static_cast<Eigen::Index>(i);
    PAVISE_ASSIGN_OR_RETURN(const Eigen::RowVectorXf direction,
                            PlainDirection(evidence, EigenOf(guess.seen).row(at)));
    right += std::abs(Cosine(direction, EigenOf(guess.plain).row(at))) >= kRight;
  }
  return count == 0 ? 0 : static_cast<double>(right) / static_cast<double>(count);
}

// ---- Attacks
// -------------------------------------------------------------------------------------

double MatchesBase(const Evidence& evidence, Matrix (*attack)(const Matrix&, const Matrix&)) {
  const size_t taps = TapsOf(evidence.plain);
  const Matrix base = Unfolded(evidence.layer.base, taps);
  const Matrix guess = attack(Unfolded(evidence.seen.weights, taps), base);
  return RowsRecovered(EigenOf(guess), EigenOf(Unfolded(evidence.plain.weights, taps)),
                       EigenOf(base));
}

absl::StatusOr<double> Components(const Evidence& evidence) {
  const size_t places = PlacesOf(evidence.plain), width = evidence.plain.steps[0].inputs.columns();
  size_t rows = 0;
  for (const SeenStep& step : evidence.seen.steps) rows += step.inputs.rows();
  const bool is_all = width <= kNarrow && rows >= 64 * width && !evidence.layer.is_product;
  std::vector<Matrix> prepared;
  std::vector<const Matrix*> all;
  for (const SeenStep& step : evidence.seen.steps) {
    prepared.push_back(
        Thinned(places > 1 ? LessImageMeans(step.inputs, places) : step.inputs,
                is_all ? kComponentRows / evidence.seen.steps.size() : kMostRows / 2));
    if (evidence.layer.is_product) break;  // other keys
  }
  for (const Matrix& step : prepared) all.push_back(&step);
  const size_t count = is_all ? width : std::min(kComponents, width);
  const Matrix found = IndependentComponents(all, count, /*seed=*/7);
  std::set<Eigen::Index> features;
  for (Eigen::Index i = 0; i < EigenOf(found).rows(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(Eigen::RowVectorXf direction,
                            PlainDirection(evidence, EigenOf(found).row(i)));
    Eigen::Index feature = 0;
    if (direction.cwiseAbs().maxCoeff(&feature) >= kRight * direction.norm())
      features.insert(feature);
  }
  return static_cast<double>(features.size()) / static_cast<double>(count);
}

// Normalised rows sum to zero, and those after a ReLU are positive.
absl::StatusOr<double> ConstantDirection(const Evidence& evidence) {
  std::vector<Matrix> thinned;
  std::vector<const Matrix*> all;
  for (const SeenStep& step : evidence.seen.steps) {
    thinned.push_back(Thinned(step.inputs, kMostRows));
    if (evidence.layer.is_product) break;
  }
  for (const Matrix& step : thinned) all.push_back(&step);
  const DirectionGuess guess = GuessConstantDirection(all);
  double best = 0;
  for (Eigen::Index i = 0; i < 2; ++i) {
    PAVISE_ASSIGN_OR_RETURN(const Eigen::RowVectorXf direction,
                            PlainDirection(evidence, EigenOf(guess.seen).row(i)));
    best = std::max(best, std::abs(Cosine(direction, EigenOf(guess.plain).row(i))));
  }
  return best >= kRight ? 1.0 : 0.0;
}

// How much of how the inner products of places differ is seen.
absl::StatusOr<double> Geometry(const Evidence& evidence) {
  const size_t places = PlacesOf(evidence.plain);
  const auto products = [&](const SeenLayer& layer) -> Floats {
    const Matrix& inputs = layer.steps[0].inputs;
    const size_t every = (places + kMostPlaces - 1) / kMostPlaces;
    const size_t kept = places / every;
    Floats some(static_cast<Eigen::Index>(inputs.rows() / places * kept), EigenOf(inputs).cols());
    for (Eigen::Index i = 0; i < some.rows(); ++i) {
      const size_t image = static_cast<size_t>(i) / kept, place = static_cast<size_t>(i) % kept;
      some.row(i) = EigenOf(inputs).row(static_cast<Eigen::Index>(image * places + place * every));
    }
    Floats pairs = EigenOf(PlaceProducts(MatrixFrom(some), kept));
    pairs.diagonal().setZero();  // large in noise, too
    return pairs;
  };
  const Floats seen = products(evidence.seen), plain = products(evidence.plain);
  const double norms = static_cast<double>(seen.norm()) * static_cast<double>(plain.norm());
  if (norms < 1e-20) return 0.0;
  const double correlation = seen.cast<double>().cwiseProduct(plain.cast<double>()).sum() / norms;
  return correlation * correlation;
}

// Rows that are not zero, so many at most, and which they are.
std::pair<Matrix, std::vector<size_t>> SomeRows(const Matrix& m, size_t most) {
  const float largest = EigenOf(m).rowwise().norm().maxCoeff();
  std::vector<size_t> which;
  for (Eigen::Index i = 0; i < EigenOf(m).rows(); ++i) {
    if (EigenOf(m).row(i).norm() > 1e-3f * largest) which.push_back(static_cast<size_t>(i));
  }
  std::vector<size_t> some;
  for (size_t i = 0; i < std::min(which.size(), most); ++i)
    some.push_back(which[i * which.size() / std::min(which.size(), most)]);
  Floats rows(static_cast<Eigen::Index>(some.size()), EigenOf(m).cols());
  for (Eigen::Index i = 0; i < rows.rows(); ++i)
    rows.row(i) = EigenOf(m).row(static_cast<Eigen::Index>(some[static_cast<size_t>(i)]));
  return {MatrixFrom(rows), std::move(some)};
}

// The label of the image that row `row` of the gradients is of.
size_t LabelOf(const Evidence& evidence, size_t row) {
  const size_t rows = evidence.plain.steps[0].output_gradients.rows();
  return evidence.layer.labels[row * evidence.layer.labels.size() / rows];
}

size_t ClassesOf(const Evidence& evidence) {
  return std::set<uint8_t>(evidence.layer.labels.begin(), evidence.layer.labels.end()).size();
}

// Gradients' rows in as many clusters as there are classes. A row's image is the one that has its
// values; one that has no row's values tells nobody's label.
absl::StatusOr<double> Labels(const Evidence& evidence) {
  const auto [some, unused] = SomeRows(evidence.seen.steps[0].output_gradients, kMostClustered);
  const auto [truth, places] = SomeRows(evidence.plain.steps[0].output_gradients, kMostRows);
  const size_t classes = ClassesOf(evidence);
  const std::vector<size_t> clusters = ClusterRows(some, classes);
  const auto sorted = [](Floats rows) {
    for (Eigen::Index i = 0; i < rows.rows(); ++i) {
      std::sort(rows.row(i).data(), rows.row(i).data() + rows.cols());
      rows.row(i) /= std::max(rows.row(i).norm(), 1e-20f);
    }
    return rows;
  };
  const Floats products = sorted(EigenOf(some)) * sorted(EigenOf(truth)).transpose();
  std::map<size_t, std::map<size_t, size_t>> counts;  // cluster, label
  for (Eigen::Index i = 0; i < products.rows(); ++i) {
    Eigen::Index nearest = 0;
    if (products.row(i).maxCoeff(&nearest) < static_cast<float>(kSameRow)) continue;
    ++counts[clusters[static_cast<size_t>(i)]]
            [LabelOf(evidence, places[static_cast<size_t>(nearest)])];
  }
  // Of each class the share of its rows, so that a frequent one counts no more than a rare one.
  std::map<size_t, double> expected, right;
  for (const size_t place : places) {
    expected[LabelOf(evidence, place)] +=
        static_cast<double>(some.rows()) / static_cast<double>(places.size());
  }
  for (const auto& [cluster, labels] : counts) {
    const auto likeliest =
        std::max_element(labels.begin(), labels.end(), [&](const auto& a, const auto& b) {
          return static_cast<double>(a.second) / expected[a.first] <
                 static_cast<double>(b.second) / expected[b.first];
        });
    right[likeliest->first] += static_cast<double>(likeliest->second);
  }
  double shares = 0;
  for (const auto& [label, count] : right) shares += std::min(count / expected[label], 1.0);
  return shares / static_cast<double>(classes);
}

// Who calls all rows by one label.
absl::StatusOr<double> OneLabel(const Evidence& evidence) {
  return 1 / static_cast<double>(ClassesOf(evidence));
}

// Rows of inputs and of weights, in their place, of what two workers' residues give together.
double Collusion(const Evidence& evidence, bool with_another) {
  const SeenLayer& other = evidence.layer.others[0];
  const auto recovered = [&](const Matrix& first, const Matrix& second, const Matrix& truth) {
    const Floats zero = Floats::Zero(1, EigenOf(truth).cols());
    const Matrix guess =
        with_another ? CombineShares(first, second, evidence.seen.form.moduli[0]) : first;
    return RowsRecovered(EigenOf(guess), EigenOf(truth), zero);
  };
  return (recovered(evidence.seen.steps[0].inputs, other.steps[0].inputs,
                    evidence.plain.steps[0].inputs) +
          recovered(evidence.seen.weights, other.weights, evidence.plain.weights)) /
         2;
}

// As they are, and with rows of length 1: a scheme that scales rows, or mixes them, is open to one.
absl::StatusOr<double> KnownSample(const Evidence& evidence, size_t known_step) {
  // Steps 0, 2, ... show other images than the one that is known.
  std::vector<Matrix> parts;
  std::vector<const Matrix*> all;
  for (size_t i = 0; i < evidence.seen.steps.size(); i += 2) {
    parts.push_back(Thinned(evidence.seen.steps[i].inputs, kMostRows));
    if (known_step == 0 || evidence.layer.is_product) break;
  }
  for (const Matrix& part : parts) all.push_back(&part);
  const Matrix seen = Stacked(all);
  double best = 0;
  for (const bool unit : {false, true}) {
    const auto prepared = [&](const Matrix& m) {
      Floats rows = EigenOf(m);
      for (Eigen::Index i = 0; unit && i < rows.rows(); ++i)
        rows.row(i) /= std::max(rows.row(i).norm(), 1e-9f);
      return MatrixFrom(rows);
    };
    PAVISE_ASSIGN_OR_RETURN(
        const double share,
        DirectionsRecovered(
            evidence, AlignPrincipalComponents(
                          prepared(seen),
                          prepared(Thinned(evidence.plain.steps[known_step].inputs, kMostRows)),
                          kDirections)));
    best = std::max(best, share);
  }
  return best;
}

double KnownRows(const Evidence& evidence) {
  return RowsFound(SortColumns(evidence.seen.steps[0].inputs,
                               Thinned(evidence.plain.steps[0].inputs, kKnownRows),
                               evidence.seen.steps[1].inputs),
                   evidence.plain.steps[1].inputs);
}

double Inversion(const Evidence& evidence) {
  const Matrix guess = InvertActivations(Thinned(evidence.seen.steps[0].inputs, kMostRows),
                                         Thinned(evidence.plain.steps[0].inputs, kMostRows),
                                         Thinned(evidence.seen.steps[1].inputs, kMostRows));
  return RowsRecovered(EigenOf(guess), EigenOf(Thinned(evidence.plain.steps[1].inputs, kMostRows)),
                       MeanRow(evidence.plain.steps[0].inputs));
}

double Subspace(const Evidence& evidence) {
  std::vector<Matrix> thinned;
  std::vector<const Matrix*> all;
  for (const SeenStep& step : evidence.seen.steps)
    thinned.push_back(Thinned(step.inputs, kMostRows / 2));
  for (const Matrix& step : thinned) all.push_back(&step);
  const Matrix truth = Thinned(evidence.plain.steps[0].inputs, kMostRows / 2);
  const Floats zero = Floats::Zero(1, EigenOf(truth).cols());
  double best = 0;
  for (const size_t dimensions : {0, 1, 2, 4, 8, 16}) {
    if (dimensions >= truth.columns()) break;
    best = std::max(best, RowsRecovered(EigenOf(ProjectOut(all, thinned[0], dimensions)),
                                        EigenOf(truth), zero));
  }
  // One mask for two batches is gone from their difference.
  if (thinned[0].rows() != thinned[1].rows()) return best;
  const Matrix second = Thinned(evidence.plain.steps[1].inputs, kMostRows / 2);
  return std::max(best, RowsRecovered(EigenOf(thinned[0]) - EigenOf(thinned[1]),
                                      EigenOf(truth) - EigenOf(second), zero));
}

double Linked(const Evidence& evidence, size_t other) {
  const std::vector<double> links = LinkRows(Thinned(evidence.seen.steps[0].inputs, kScoredRows),
                                             evidence.seen.steps[other].inputs);
  const auto right =
      std::count_if(links.begin(), links.end(), [](double link) { return link >= kSameRow; });
  return static_cast<double>(right) / static_cast<double>(std::max<size_t>(links.size(), 1));
}

// So many rows of a step as the layer's product takes them, and their outputs.
absl::StatusOr<std::pair<Matrix, Matrix>> PairsOf(const SeenLayer& layer, size_t step,
                                                  size_t most) {
  const Matrix& outputs = layer.steps[step].outputs;
  if (!layer.form.convolution.has_value()) {
    return std::pair(Thinned(layer.steps[step].inputs, most), Thinned(outputs, most));
  }
  offload::ConvolutionShape shape = *layer.form.convolution;
  shape.samples = layer.steps[step].inputs.rows() / (shape.height * shape.width);
  PAVISE_ASSIGN_OR_RETURN(
      const Matrix columns,
      offload::ImageToColumns(shape, layer.steps[step].inputs.view(), "inputs"));
  return std::pair(Thinned(columns, most), Thinned(outputs, most));
}

// The explained share of the variance of outputs for inputs that were not queried; with a base, of
// what the weights' outputs are beside the base's.
absl::StatusOr<double> Theft(const Evidence& evidence, const Matrix& begin, size_t queries,
                             const Matrix* base = nullptr) {
  PAVISE_ASSIGN_OR_RETURN(const auto known, PairsOf(evidence.plain, 0, queries));
  PAVISE_ASSIGN_OR_RETURN(const auto fresh, PairsOf(evidence.plain, 1, kScoredRows));
  const Matrix guess = queries == 0 ? begin : FineTune(begin, known.first, known.second);
  const Floats inputs = EigenOf(fresh.first), outputs = EigenOf(fresh.second);
  const Floats error = outputs - inputs * EigenOf(guess);
  const Floats whole = base != nullptr ? Floats(outputs - inputs * EigenOf(*base))
                                       : Floats(outputs.rowwise() - outputs.colwise().mean());
  return std::clamp(
      1 - static_cast<double>(error.squaredNorm()) / std::max<double>(whole.squaredNorm(), 1e-20),
      0.0, 1.0);
}

size_t QueriesOf(const Evidence& evidence) {
  return std::max<size_t>(evidence.plain.weights.rows() / 4, 1);
}

// From what either kind of matching makes of what was seen; the better of the two.
absl::StatusOr<double> TheftFromBase(const Evidence& evidence, size_t queries) {
  const size_t taps = TapsOf(evidence.plain);
  const Matrix& base = evidence.layer.base;
  double best = 0;
  for (Matrix (*attack)(const Matrix&, const Matrix&) : {MatchSignatures, MatchDirections}) {
    const Matrix unfolded = attack(Unfolded(evidence.seen.weights, taps), Unfolded(base, taps));
    Matrix guess = base;
    const size_t inputs = base.rows() / taps;
    for (size_t row = 0; row < base.rows(); ++row) {
      for (size_t j = 0; j < base.columns(); ++j)
        guess(row, j) = unfolded(row % inputs, row / inputs * base.columns() + j);
    }
    PAVISE_ASSIGN_OR_RETURN(const double share, Theft(evidence, guess, queries, &base));
    best = std::max(best, share);
  }
  return best;
}

// Of the matrices of residues, those that are not uniform: chi-squared with p - 1 degrees of
// freedom, six standard deviations off. Differences of neighbours, and of steps, show masks that
// are used twice.
double NotUniform(const SeenLayer& seen) {
  const int modulus = seen.form.moduli[0];
  const auto is_odd = [&](const std::vector<int>& residues) {
    std::vector<double> counts(static_cast<size_t>(modulus));
    for (const int r : residues) ++counts[static_cast<size_t>((r % modulus + modulus) % modulus)];
    const double expected = static_cast<double>(residues.size()) / modulus;
    double statistic = 0;
    for (const double count : counts)
      statistic += (count - expected) * (count - expected) / expected;
    return std::abs(statistic - (modulus - 1)) > 6 * std::sqrt(2.0 * (modulus - 1));
  };
  struct Tested {
    std::vector<int> residues;
    bool is_odd = false;
  };
  const auto test = [&](const Matrix& m) {
    Tested tested = {{m.values().begin(), m.values().end()}, false};
    std::vector<int> differences;
    for (size_t i = 1; i < tested.residues.size(); ++i)
      differences.push_back(tested.residues[i] - tested.residues[i - 1]);
    tested.is_odd = is_odd(tested.residues) || is_odd(differences);
    return tested;
  };
  size_t matrices = 1, odd = test(seen.weights).is_odd ? 1 : 0;
  for (Matrix SeenStep::*const which : {&SeenStep::inputs, &SeenStep::output_gradients}) {
    std::vector<Tested> tested;
    for (const SeenStep& step : seen.steps) {
      if (!(step.*which).values().empty()) tested.push_back(test(step.*which));
    }
    for (size_t i = 1; i < tested.size(); ++i) {
      std::vector<int> differences;
      for (size_t j = 0; j < std::min(tested[i].residues.size(), tested[i - 1].residues.size());
           ++j) {
        differences.push_back(tested[i].residues[j] - tested[i - 1].residues[j]);
      }
      if (is_odd(differences)) tested[i].is_odd = tested[i - 1].is_odd = true;
    }
    matrices += tested.size();
    odd += static_cast<size_t>(
        std::count_if(tested.begin(), tested.end(), [](const Tested& t) { return t.is_odd; }));
  }
  return static_cast<double>(odd) / static_cast<double>(matrices);
}

// What an attack asks for before it can run.
enum class Asks {
  kTraffic,
  kBase,
  kKeyShift,
  kResidues,
  kAnotherWorker,
  kConvolution,
  kLabels,
  kProbabilities,
  kLastingWeights,
};
enum class Target { kWeights, kInputs, kGradients };

struct Attack {
  std::string_view name;
  std::string_view needs;
  std::string_view recovers;
  Asks asks = Asks::kTraffic;
  size_t steps = 0;
  Target target = Target::kWeights;
  // Success is stated by a profile that exposes the target so far, or that lists one of these.
  Exposure exposure = Exposure::kVisible;
  std::vector<std::string_view> stated_as;
  absl::StatusOr<double> (*score)(const Evidence& evidence);
  // Instead of the score on noise.
  absl::StatusOr<double> (*chance)(const Evidence& evidence) = nullptr;
};

const std::vector<Attack>& Attacks() {
  // A profile that names one attack by a base says that a base is not to be.
  static const std::vector<std::string_view> by_base = {"row and column matching",
                                                        "direction matching (ArrowMatch)",
                                                        "alignment of singular vectors"};
  static const std::vector<std::string_view> by_samples = {
      "known plaintext", "sorting", "independent components, principal components"};
  static const std::vector<Attack> attacks = {
      {"scale ratio",
       "nothing",
       "rows of weights, in another order",
       Asks::kKeyShift,
       0,
       Target::kWeights,
       Exposure::kPermuted,
       {"scale ratio"},
       [](const Evidence& e) -> absl::StatusOr<double> {
         return RowsOfValues(e.seen.weights, e.plain.weights, false);
       }},
      {"greatest common divisors",
       "nothing",
       "rows of inputs, in another order",
       Asks::kTraffic,
       1,
       Target::kInputs,
       Exposure::kPermuted,
       {"greatest common divisors"},
       [](const Evidence& e) -> absl::StatusOr<double> {
         const Matrix columns = MatrixFrom(EigenOf(e.seen.steps[0].inputs).transpose());
         const Matrix rows = MatrixFrom(EigenOf(DivideByCommonDivisors(columns)).transpose());
         return RowsOfValues(DivideByCommonDivisors(rows), e.plain.steps[0].inputs, true);
       }},
      {"undoing public Hadamards",
       "nothing",
       "rows of inputs, without signs",
       Asks::kTraffic,
       1,
       Target::kInputs,
       Exposure::kScaled,
       {},
       [](const Evidence& e) -> absl::StatusOr<double> {
         const Matrix& seen = e.seen.steps[0].inputs;
         const Matrix truth = Magnitudes(e.plain.steps[0].inputs);
         return std::max(RowsOfValues(Magnitudes(seen), truth, true),
                         RowsOfValues(Magnitudes(UndoHadamard(seen)), truth, true));
       }},
      {"independent components (FastICA)",
       "nothing",
       "of 16 components: single features",
       Asks::kTraffic,
       1,
       Target::kInputs,
       Exposure::kScaled,
       {"independent components, principal components"},
       Components},
      {"constant direction",
       "nothing",
       "of a layer: where the constant vector is",
       Asks::kTraffic,
       1,
       Target::kInputs,
       Exposure::kScaled,
       {"linear relations"},
       ConstantDirection},
      {"geometry of images",
       "nothing",
       "how inner products of places differ",
       Asks::kConvolution,
       1,
       Target::kInputs,
       Exposure::kVisible,
       {"geometry of images"},
       Geometry},
      {"labels from gradients",
       "nothing",
       "labels of rows, up to names, by class",
       Asks::kLabels,
       1,
       Target::kGradients,
       Exposure::kVisible,
       {"labels from gradients"},
       Labels,
       OneLabel},
      {"probabilities that sum to one",
       "nothing",
       "rows of attention's probabilities, in another order",
       Asks::kProbabilities,
       1,
       Target::kInputs,
       Exposure::kPermuted,
       {"probabilities that sum to one"},
       [](const Evidence& e) -> absl::StatusOr<double> {
         return RowsOfValues(RemoveProbabilityScales(e.seen.steps[0].inputs),
                             e.plain.steps[0].inputs, false);
       }},
      {"subspace attack on reused masks",
       "nothing",
       "rows of inputs",
       Asks::kTraffic,
       2,
       Target::kInputs,
       Exposure::kVisible,
       {"subspace attack on reused noise"},
       [](const Evidence& e) -> absl::StatusOr<double> { return Subspace(e); }},
      {"linking successive steps",
       "nothing",
       "rows of inputs that come again",
       Asks::kTraffic,
       3,
       Target::kInputs,
       Exposure::kVisible,
       {"linking of steps"},
       [](const Evidence& e) -> absl::StatusOr<double> { return Linked(e, 2); },
       [](const Evidence& e) -> absl::StatusOr<double> { return Linked(e, 1); }},
      {"residues that are not uniform",
       "nothing",
       "matrices told from noise",
       Asks::kResidues,
       0,
       Target::kWeights,
       Exposure::kMixed,
       {},
       [](const Evidence& e) -> absl::StatusOr<double> {
         double most = NotUniform(e.seen);
         for (const SeenLayer& other : e.layer.others) most = std::max(most, NotUniform(other));
         return most;
       },
       [](const Evidence&) -> absl::StatusOr<double> { return 0.0; }},
      {"collusion of two workers",
       "what a second worker saw",
       "rows of inputs and weights",
       Asks::kAnotherWorker,
       1,
       Target::kInputs,
       Exposure::kVisible,
       {"collusion"},
       [](const Evidence& e) -> absl::StatusOr<double> { return Collusion(e, true); },
       [](const Evidence& e) -> absl::StatusOr<double> { return Collusion(e, false); }},
      {"model theft, no queries",
       "nothing",
       "variance of the layer's outputs explained",
       Asks::kLastingWeights,
       2,
       Target::kWeights,
       Exposure::kVisible,
       {},
       [](const Evidence& e) -> absl::StatusOr<double> { return Theft(e, e.seen.weights, 0); },
       [](const Evidence&) -> absl::StatusOr<double> { return 0.0; }},
      {"direction matching (ArrowMatch)", "a public base model", "rows of what fine-tuning changed",
       Asks::kBase, 0, Target::kWeights, Exposure::kVisible, by_base,
       [](const Evidence& e) -> absl::StatusOr<double> { return MatchesBase(e, MatchDirections); }},
      {"row and column matching", "a public base model", "rows of what fine-tuning changed",
       Asks::kBase, 0, Target::kWeights, Exposure::kVisible, by_base,
       [](const Evidence& e) -> absl::StatusOr<double> { return MatchesBase(e, MatchSignatures); }},
      {"alignment of singular vectors", "a public base model", "the 32 largest directions",
       Asks::kBase, 0, Target::kWeights, Exposure::kVisible, by_base,
       [](const Evidence& e) {
         const size_t taps = TapsOf(e.plain);
         return DirectionsRecovered(
             e, AlignSingularVectors(Unfolded(e.seen.weights, taps), Unfolded(e.layer.base, taps),
                                     kDirections));
       }},
      {"model theft from a base, no queries", "a public base model",
       "variance beside the base's explained", Asks::kBase, 2, Target::kWeights, Exposure::kVisible,
       by_base, [](const Evidence& e) -> absl::StatusOr<double> { return TheftFromBase(e, 0); },
       [](const Evidence&) -> absl::StatusOr<double> { return 0.0; }},
      {"model theft from a base, k/4 queries",
       "a public base model, inputs and outputs of k/4 rows",
       "variance beside the base's explained", Asks::kBase, 2, Target::kWeights, Exposure::kVisible,
       by_base,
       [](const Evidence& e) -> absl::StatusOr<double> { return TheftFromBase(e, QueriesOf(e)); },
       [](const Evidence& e) -> absl::StatusOr<double> {
         return Theft(e, e.layer.base, QueriesOf(e), &e.layer.base);
       }},
      {"principal components, a known sample", "other inputs of the same kind",
       "the 32 largest directions", Asks::kTraffic, 2, Target::kInputs, Exposure::kVisible,
       by_samples, [](const Evidence& e) { return KnownSample(e, 1); }},
      {"principal components, a known batch", "all inputs of one step", "the 32 largest directions",
       Asks::kTraffic, 1, Target::kInputs, Exposure::kVisible, by_samples,
       [](const Evidence& e) { return KnownSample(e, 0); }},
      {"sorting",
       "16 rows of the inputs",
       "rows of another step's inputs",
       Asks::kTraffic,
       2,
       Target::kInputs,
       Exposure::kVisible,
       {"sorting"},
       [](const Evidence& e) -> absl::StatusOr<double> { return KnownRows(e); }},
      {"activation inversion (regression)", "all inputs of one step, in order",
       "rows of another step's inputs", Asks::kTraffic, 2, Target::kInputs, Exposure::kVisible,
       by_samples, [](const Evidence& e) -> absl::StatusOr<double> { return Inversion(e); }},
      {"model theft, k/4 queries",
       "inputs and outputs of k/4 rows",
       "variance of the layer's outputs explained",
       Asks::kLastingWeights,
       2,
       Target::kWeights,
       Exposure::kVisible,
       {},
       [](const Evidence& e) -> absl::StatusOr<double> {
         return Theft(e, e.seen.weights, QueriesOf(e));
       },
       [](const Evidence& e) -> absl::StatusOr<double> {
         Matrix zeros = e.plain.weights;
         std::fill(zeros.values().begin(), zeros.values().end(), 0.0f);
         return Theft(e, zeros, QueriesOf(e));
       }},
  };
  return attacks;
}

// ---- The audit
// -----------------------------------------------------------------------------------

// Gaussian noise of each matrix's shape and size of elements: no direction of it is another's.
SeenLayer NoiseLike(const SeenLayer& seen) {
  SeenLayer noise = seen;
  uint64_t drawn = 0;
  const auto uniform = [&] {
    return (static_cast<float>(train::MixSeed(0x5ea1, ++drawn, 0) >> 40) + 0.5f) * 0x1p-24f;
  };
  const auto fill = [&](Matrix& m) {
    if (m.values().empty()) return;
    const float size = std::sqrt(EigenOf(m).squaredNorm() / static_cast<float>(m.values().size()));
    for (float& value : m.values()) {  // Box and Muller
      const float radius = std::sqrt(-2 * std::log(uniform()));
      value = size * radius * std::cos(6.2831853f * uniform());
    }
  };
  fill(noise.weights);
  for (SeenStep& step : noise.steps) {
    fill(step.inputs);
    fill(step.outputs);
    fill(step.output_gradients);
  }
  return noise;
}

bool IsStated(const offload::LeakageProfile& profile, const Attack& attack) {
  const Exposure exposed = attack.target == Target::kWeights  ? profile.weights
                           : attack.target == Target::kInputs ? profile.inputs
                                                              : profile.gradients;
  if (exposed != Exposure::kNotSent && exposed >= attack.exposure) return true;
  return std::any_of(profile.attacks.begin(), profile.attacks.end(), [&](const auto& known) {
    return std::find(attack.stated_as.begin(), attack.stated_as.end(), known.name) !=
           attack.stated_as.end();
  });
}

// "" where the attack can run on the layer.
std::string WhyNot(const Attack& attack, const AuditedLayer& layer) {
  if (attack.asks == Asks::kBase && layer.base.values().empty()) return "no base model was given";
  if (attack.asks == Asks::kKeyShift && layer.seen.shift.rows.empty())
    return "no key shift is sent";
  if (attack.asks == Asks::kResidues && layer.seen.form.moduli.empty())
    return "nothing is sent in residues";
  if (attack.asks == Asks::kAnotherWorker && layer.others.empty())
    return "the scheme has one worker for each product";
  if (attack.asks == Asks::kConvolution && PlacesOf(layer.plain) == 1)
    return "no convolution is done by the worker";
  if (attack.asks == Asks::kLabels && (layer.labels.empty() || layer.seen.steps.empty() ||
                                       layer.seen.steps[0].output_gradients.values().empty()))
    return "no gradients of images are sent";
  if (attack.asks == Asks::kLabels &&
      std::set<uint8_t>(layer.labels.begin(), layer.labels.end()).size() < 2)
    return "all images of the step are of one class";
  if (attack.asks == Asks::kProbabilities && !layer.has_probabilities)
    return "no probabilities of attention are sent";
  if (attack.asks == Asks::kLastingWeights && layer.is_product)
    return "the weights of a product serve once";
  if (layer.seen.steps.size() < attack.steps) return StrCat("needs ", attack.steps, " steps");
  return "";
}

std::vector<float> CoefficientsOf(const offload::KeyShift& shift) {
  std::vector<float> coefficients = shift.rows;
  for (float& c : coefficients) c = std::sqrt(c);
  return coefficients;
}

absl::Status CheckLayer(const AuditedLayer& layer) {
  const auto same = [](const Matrix& a, const Matrix& b) {
    return a.rows() == b.rows() && a.columns() == b.columns();
  };
  bool fits = same(layer.seen.weights, layer.plain.weights) &&
              layer.seen.steps.size() == layer.plain.steps.size() &&
              (layer.base.values().empty() || same(layer.base, layer.plain.weights));
  for (size_t i = 0; fits && i < layer.seen.steps.size(); ++i) {
    fits = same(layer.seen.steps[i].inputs, layer.plain.steps[i].inputs) &&
           layer.plain.steps[i].inputs.rows() > 0 &&
           layer.plain.steps[i].inputs.rows() % PlacesOf(layer.plain) == 0 &&
           (layer.plain.steps[i].inputs.columns() * TapsOf(layer.plain) ==
                layer.plain.weights.rows() ||
            (layer.is_product && i > 0)) &&
           same(layer.seen.steps[i].outputs, layer.plain.steps[i].outputs) &&
           (layer.seen.steps[i].output_gradients.values().empty() ||
            same(layer.seen.steps[i].output_gradients, layer.plain.steps[i].output_gradients));
  }
  for (size_t i = 0; fits && i < layer.others.size(); ++i) {
    const SeenLayer& other = layer.others[i];
    fits = same(other.weights, layer.plain.weights) && !layer.seen.form.moduli.empty() &&
           other.form.moduli == layer.seen.form.moduli &&
           other.steps.size() == layer.seen.steps.size();
    for (size_t step = 0; fits && step < other.steps.size(); ++step)
      fits = same(other.steps[step].inputs, layer.plain.steps[step].inputs);
  }
  if (fits && layer.plain.weights.rows() > 0) return absl::OkStatus();
  return UsageError(StrCat(layer.item, ": what was seen has another shape than what was there"));
}

absl::Status Add(const Attack& attack, const AuditedLayer& layer, const SeenLayer& seen,
                 const SeenLayer& noise, AttackResult& result) {
  const std::vector<float> coefficients = CoefficientsOf(layer.seen.shift);
  const Evidence evidence = {seen, layer.plain, layer.keys, coefficients, layer};
  const Evidence of_noise = {noise, layer.plain, layer.keys, coefficients, layer};
  const Evidence of_none = {layer.plain, layer.plain, nullptr, {}, layer};
  PAVISE_ASSIGN_OR_RETURN(const double share, attack.score(evidence));
  PAVISE_ASSIGN_OR_RETURN(const double chance, attack.chance != nullptr ? attack.chance(evidence)
                                                                        : attack.score(of_noise));
  double unprotected = 1;
  if (attack.asks != Asks::kResidues && attack.asks != Asks::kAnotherWorker) {
    PAVISE_ASSIGN_OR_RETURN(unprotected, attack.score(of_none));
  }
  if (result.layers++ == 0 || share - chance > result.share - result.chance) {
    result.layer = layer.item;
    result.share = share;
    result.chance = chance;
    result.unprotected = unprotected;
  }
  return absl::OkStatus();
}

absl::StatusOr<AuditReport> Run(
    const offload::LeakageProfile& profile, const std::vector<AuditedLayer>& layers,
    const std::function<void(std::string_view, std::string_view)>& on_attack) {
  if (layers.empty()) return UsageError("there is no layer to attack");
  AuditReport report;
  report.scheme = profile.scheme;
  report.use = profile.use;
  for (const Attack& attack : Attacks()) {
    AttackResult& result = report.attacks.emplace_back();
    result.attack = attack.name;
    result.needs = attack.needs;
    result.recovers = attack.recovers;
  }
  for (const AuditedLayer& layer : layers) {
    PAVISE_RETURN_IF_ERROR(CheckLayer(layer));
    report.layers.push_back(layer.item);
    const SeenLayer seen = RemoveShiftedScales(layer.seen);
    const SeenLayer noise = NoiseLike(seen);
    for (size_t i = 0; i < Attacks().size(); ++i) {
      const Attack& attack = Attacks()[i];
      const std::string why = WhyNot(attack, layer);
      if (!why.empty()) {
        report.attacks[i].why = why;
        continue;
      }
      on_attack(layer.item, attack.name);
      PAVISE_RETURN_IF_ERROR(Add(attack, layer, seen, noise, report.attacks[i]));
    }
  }
  for (size_t i = 0; i < Attacks().size(); ++i) {
    AttackResult& result = report.attacks[i];
    if (result.layers == 0) continue;
    result.why.clear();
    result.verdict = result.share - result.chance < kMargin ? Verdict::kHeld
                     : IsStated(profile, Attacks()[i])      ? Verdict::kBrokenAsStated
                                                            : Verdict::kBrokenBeyondProfile;
  }
  return report;
}

}  // namespace

std::string_view VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kHeld:
      return "held";
    case Verdict::kBrokenAsStated:
      return "broken as stated";
    case Verdict::kBrokenBeyondProfile:
      return "BROKEN BEYOND ITS PROFILE";
    case Verdict::kNotRun:
      return "not run";
  }
  return "";
}

bool AuditReport::is_beyond_profile() const {
  return std::any_of(attacks.begin(), attacks.end(), [](const AttackResult& attack) {
    return attack.verdict == Verdict::kBrokenBeyondProfile;
  });
}

absl::StatusOr<AuditReport> RunAttacks(
    const offload::LeakageProfile& profile, const std::vector<AuditedLayer>& layers,
    const std::function<void(std::string_view, std::string_view)>& on_attack) {
  try {
    return Run(profile, layers, on_attack);
  } catch (const std::bad_alloc&) {
    return MachineFailure("audit", "memory ran out: record fewer layers or smaller batches");
  }
}

OrderedJson ReportJson(const AuditReport& report) {
  OrderedJson json;
  json["scheme"] = report.scheme;
  json["use"] = offload::UseName(report.use);
  json["beyond_profile"] = report.is_beyond_profile();
  json["layers"] = report.layers;
  json["attacks"] = OrderedJson::array();
  for (const AttackResult& attack : report.attacks) {
    OrderedJson& entry = json["attacks"].emplace_back();
    entry["attack"] = attack.attack;
    entry["needs"] = attack.needs;
    entry["recovers"] = attack.recovers;
    entry["verdict"] = VerdictName(attack.verdict);
    if (attack.verdict == Verdict::kNotRun) {
      entry["why"] = attack.why;
      continue;
    }
    entry["layers"] = attack.layers;
    entry["layer"] = attack.layer;
    entry["share"] = attack.share;
    entry["chance"] = attack.chance;
    entry["unprotected"] = attack.unprotected;
  }
  return json;
}

}  // namespace pavise::audit
