#include "pavise/audit/audit.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <optional>

#include "pavise/audit/attacks.h"
#include "pavise/audit/internal/eigen.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
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
  const Matrix& base;
};

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

// Of rows of the truth, those whose values the guess has in one row, in any order; up to a factor
// where `up_to_scale`.
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
  Eigen::Index right = 0;
  for (Eigen::Index i = 0; i < wanted.rows(); ++i) {
    const float error = (offered.rowwise() - wanted.row(i)).rowwise().norm().minCoeff();
    right += error <= 0.005f * wanted.row(i).norm();
  }
  return static_cast<double>(right) / static_cast<double>(std::max<Eigen::Index>(wanted.rows(), 1));
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
  const Matrix guess = attack(evidence.seen.weights, evidence.base);
  return RowsRecovered(EigenOf(guess), EigenOf(evidence.plain.weights), EigenOf(evidence.base));
}

absl::StatusOr<double> Components(const Evidence& evidence) {
  std::vector<Matrix> thinned;
  std::vector<const Matrix*> all;
  for (const SeenStep& step : evidence.seen.steps)
    thinned.push_back(Thinned(step.inputs, kMostRows / 2));
  for (const Matrix& step : thinned) all.push_back(&step);
  const Matrix found = IndependentComponents(all, kComponents, /*seed=*/7);
  Eigen::Index right = 0;
  for (Eigen::Index i = 0; i < EigenOf(found).rows(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(Eigen::RowVectorXf direction,
                            PlainDirection(evidence, EigenOf(found).row(i)));
    right += direction.cwiseAbs().maxCoeff() >= kRight * direction.norm();
  }
  return static_cast<double>(right) / static_cast<double>(std::max<size_t>(found.rows(), 1));
}

// As they are, and with rows of length 1: a scheme that scales rows, or mixes them, is open to one.
absl::StatusOr<double> KnownSample(const Evidence& evidence, size_t known_step) {
  double best = 0;
  for (const bool unit : {false, true}) {
    const auto prepared = [&](const Matrix& m) {
      Floats rows = EigenOf(Thinned(m, kMostRows));
      for (Eigen::Index i = 0; unit && i < rows.rows(); ++i)
        rows.row(i) /= std::max(rows.row(i).norm(), 1e-9f);
      return MatrixFrom(rows);
    };
    PAVISE_ASSIGN_OR_RETURN(
        const double share,
        DirectionsRecovered(
            evidence, AlignPrincipalComponents(prepared(evidence.seen.steps[0].inputs),
                                               prepared(evidence.plain.steps[known_step].inputs),
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

// The explained share of the variance of outputs for inputs that were not queried.
double Theft(const Evidence& evidence, const Matrix& begin, size_t queries) {
  const SeenStep& known = evidence.plain.steps[0];
  const Matrix guess =
      FineTune(begin, Thinned(known.inputs, queries), Thinned(known.outputs, queries));
  const Floats inputs = EigenOf(Thinned(evidence.plain.steps[1].inputs, kScoredRows));
  const Floats outputs = EigenOf(Thinned(evidence.plain.steps[1].outputs, kScoredRows));
  const Floats error = outputs - inputs * EigenOf(guess);
  const Floats centred = outputs.rowwise() - outputs.colwise().mean();
  return std::clamp(
      1 - static_cast<double>(error.squaredNorm()) / std::max<double>(centred.squaredNorm(), 1e-20),
      0.0, 1.0);
}

// Of the matrices of residues, those that are not uniform: chi-squared with p - 1 degrees of
// freedom, six standard deviations off.
double NotUniform(const SeenLayer& seen) {
  const double modulus = seen.form.moduli[0];
  size_t matrices = 0, odd = 0;
  const auto look = [&](const Matrix& m) {
    if (m.values().empty()) return;
    ++matrices;
    std::vector<double> counts(static_cast<size_t>(modulus));
    for (const float r : m.values()) {
      ++counts[static_cast<size_t>(std::clamp(r + (modulus - 1) / 2, 0.0, modulus - 1))];
    }
    const double expected = static_cast<double>(m.values().size()) / modulus;
    double statistic = 0;
    for (const double count : counts)
      statistic += (count - expected) * (count - expected) / expected;
    odd += std::abs(statistic - (modulus - 1)) > 6 * std::sqrt(2 * (modulus - 1));
  };
  look(seen.weights);
  for (const SeenStep& step : seen.steps) {
    look(step.inputs);
    look(step.output_gradients);
  }
  return static_cast<double>(odd) / static_cast<double>(std::max<size_t>(matrices, 1));
}

// What an attack asks for before it can run.
enum class Asks { kTraffic, kBase, kKeyShift, kResidues };
enum class Target { kWeights, kInputs };

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
       [](const Evidence& e) -> absl::StatusOr<double> { return NotUniform(e.seen); },
       [](const Evidence&) -> absl::StatusOr<double> { return 0.0; }},
      {"model theft, no queries",
       "nothing",
       "variance of the layer's outputs explained",
       Asks::kTraffic,
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
         return DirectionsRecovered(e, AlignSingularVectors(e.seen.weights, e.base, kDirections));
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
       Asks::kTraffic,
       2,
       Target::kWeights,
       Exposure::kVisible,
       {},
       [](const Evidence& e) -> absl::StatusOr<double> {
         return Theft(e, e.seen.weights, std::max<size_t>(e.seen.weights.rows() / 4, 1));
       },
       [](const Evidence& e) -> absl::StatusOr<double> {
         Matrix zeros = e.plain.weights;
         std::fill(zeros.values().begin(), zeros.values().end(), 0.0f);
         return Theft(e, zeros, std::max<size_t>(zeros.rows() / 4, 1));
       }},
  };
  return attacks;
}

// ---- The audit
// -----------------------------------------------------------------------------------

// Noise of each matrix's shape and size of elements.
SeenLayer NoiseLike(const SeenLayer& seen) {
  SeenLayer noise = seen;
  uint64_t drawn = 0;
  const auto fill = [&](Matrix& m) {
    if (m.values().empty()) return;
    const float size = std::sqrt(EigenOf(m).squaredNorm() / static_cast<float>(m.values().size()));
    for (float& value : m.values()) {
      const uint64_t bits = train::MixSeed(0x5ea1, ++drawn, 0);
      value = size * 1.73f * (static_cast<float>(bits >> 40) * 0x1p-23f - 1);
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
  const Exposure exposed = attack.target == Target::kWeights ? profile.weights : profile.inputs;
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
           layer.plain.steps[i].inputs.columns() == layer.plain.weights.rows() &&
           same(layer.seen.steps[i].outputs, layer.plain.steps[i].outputs);
  }
  if (fits && layer.plain.weights.rows() > 0) return absl::OkStatus();
  return UsageError(StrCat(layer.item, ": what was seen has another shape than what was there"));
}

absl::Status Add(const Attack& attack, const AuditedLayer& layer, const SeenLayer& seen,
                 const SeenLayer& noise, AttackResult& result) {
  const std::vector<float> coefficients = CoefficientsOf(layer.seen.shift);
  const Evidence evidence = {seen, layer.plain, layer.keys, coefficients, layer.base};
  const Evidence of_noise = {noise, layer.plain, layer.keys, coefficients, layer.base};
  const Evidence of_none = {layer.plain, layer.plain, nullptr, {}, layer.base};
  PAVISE_ASSIGN_OR_RETURN(const double share, attack.score(evidence));
  PAVISE_ASSIGN_OR_RETURN(const double chance, attack.chance != nullptr ? attack.chance(evidence)
                                                                        : attack.score(of_noise));
  double unprotected = 1;
  if (attack.asks != Asks::kResidues) {
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
