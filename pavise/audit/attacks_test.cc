// Planted weak schemes, each broken by the attack that is meant for it; and beside each one for
// which the same attack gets nowhere.
#include "pavise/audit/attacks.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "pavise/audit/testing/layers.h"
#include "pavise/offload/testing/plain_worker.h"

#include "gtest/gtest.h"

namespace pavise::audit {
namespace {

using offload::testing::RandomMatrix;
using offload::testing::StreamOf;
using testing::Multiplied;
using testing::Perturbed;
using testing::RandomRotation;

constexpr size_t kRows = 160, kInputs = 96, kOutputs = 80;

double Norm(const float* values, size_t size) {
  return std::sqrt(std::inner_product(values, values + size, values, 0.0));
}

// Rows of the two that lie along one line.
double SameRows(const Matrix& guess, const Matrix& truth, double cosine = 0.95) {
  size_t right = 0;
  const size_t n = truth.columns();
  for (size_t i = 0; i < truth.rows(); ++i) {
    const float* const a = &guess.values()[i * n];
    const float* const b = &truth.values()[i * n];
    right += std::inner_product(a, a + n, b, 0.0) >= cosine * Norm(a, n) * Norm(b, n);
  }
  return static_cast<double>(right) / static_cast<double>(truth.rows());
}

Matrix Less(Matrix a, const Matrix& b) {
  for (size_t i = 0; i < a.values().size(); ++i) a.values()[i] -= b.values()[i];
  return a;
}

// Columns in another order, and rows and columns scaled by integers.
Matrix Permuted(const Matrix& m, bool rows_too, uint32_t coefficients, uint64_t seed) {
  auto stream = StreamOf(seed);
  const auto columns = stream.Permutation(m.columns()).value();
  std::vector<uint32_t> rows(m.rows());
  std::iota(rows.begin(), rows.end(), 0);
  if (rows_too) rows = stream.Permutation(m.rows()).value();
  const auto row_factors = stream.Below(coefficients, m.rows()).value();
  const auto column_factors = stream.Below(coefficients, m.columns()).value();
  Matrix out = m;
  for (size_t i = 0; i < m.rows(); ++i) {
    for (size_t j = 0; j < m.columns(); ++j) {
      out(i, j) = m(rows[i], columns[j]) * static_cast<float>(row_factors[i] + 1) /
                  static_cast<float>(column_factors[j] + 1);
    }
  }
  return out;
}

TEST(AttacksTest, DirectionsAreMatchedWhereOneSideIsPermuted) {
  const Matrix weights = RandomMatrix(kInputs, kOutputs, 1);
  const Matrix base = Perturbed(weights, 0.05, 2);
  Matrix one_sided = Permuted(weights, false, 1, 3);
  for (size_t i = 0; i < one_sided.rows(); ++i) {
    for (size_t j = 0; j < kOutputs; ++j) one_sided(i, j) *= static_cast<float>(1 + j % 7);
  }
  EXPECT_EQ(SameRows(MatchDirections(one_sided, base), weights), 1);
  const Matrix two_sided = Permuted(weights, true, 16, 3);
  EXPECT_LE(SameRows(Less(MatchDirections(two_sided, base), base), Less(weights, base)), 0.05);
}

TEST(AttacksTest, SignaturesAreMatchedWhereBothSidesArePermutedAndScaled) {
  // More of the weights are needed where they are further off.
  for (const auto& [distance, size] :
       {std::pair(0.01, kOutputs), std::pair(0.05, kOutputs), std::pair(0.2, size_t{320})}) {
    const Matrix weights = RandomMatrix(size, size, 1);
    const Matrix base = Perturbed(weights, distance, 2);
    const Matrix guess = MatchSignatures(Permuted(weights, true, 16, 3), base);
    EXPECT_GE(SameRows(Less(guess, base), Less(weights, base), 0.8), 0.95) << distance;
  }
  const Matrix weights = RandomMatrix(kInputs, kOutputs, 1);
  const Matrix base = Perturbed(weights, 0.05, 2);
  const Matrix rotated = Multiplied(RandomRotation(kInputs, 4), weights);
  EXPECT_LE(SameRows(Less(MatchSignatures(rotated, base), base), Less(weights, base)), 0.05);
}

// What the worker has of direction v of the k dimension is Q v.
double Aligned(const DirectionGuess& guess, const Matrix& rotation) {
  Matrix truth = guess.plain;
  for (size_t i = 0; i < truth.rows(); ++i) {
    for (size_t j = 0; j < truth.columns(); ++j) {
      double sum = 0;
      for (size_t l = 0; l < truth.columns(); ++l) sum += rotation(j, l) * guess.plain(i, l);
      truth(i, j) = static_cast<float>(sum);
    }
  }
  Matrix turned = guess.seen;
  for (size_t i = 0; i < turned.rows(); ++i) {
    double sum = 0;
    for (size_t j = 0; j < turned.columns(); ++j) sum += turned(i, j) * truth(i, j);
    for (size_t j = 0; j < turned.columns(); ++j) turned(i, j) *= sum < 0 ? -1.0f : 1.0f;
  }
  return SameRows(turned, truth, 0.9);
}

TEST(AttacksTest, SingularVectorsAreAlignedUnderRotations) {
  const Matrix weights = RandomMatrix(kInputs, kOutputs, 1);
  const Matrix left = RandomRotation(kInputs, 2), right = RandomRotation(kOutputs, 3);
  const Matrix seen = Multiplied(Multiplied(left, weights), right);
  EXPECT_EQ(Aligned(AlignSingularVectors(seen, weights, 32), left), 1);
  EXPECT_GE(Aligned(AlignSingularVectors(seen, Perturbed(weights, 0.01, 4), 32), left), 0.8);
  EXPECT_EQ(Aligned(AlignSingularVectors(seen, RandomMatrix(kInputs, kOutputs, 5), 32), left), 0);
}

TEST(AttacksTest, KnownInputsGiveAStaticRotationAway) {
  const testing::PlainRun run = testing::MakeRun(kRows, kInputs, kOutputs, 1);
  SeenLayer plain = testing::InTheClear(run);
  const SeenLayer seen = testing::Rotated(plain, 5);
  const Matrix rotation = RandomRotation(kInputs, 5);
  EXPECT_GE(Aligned(AlignPrincipalComponents(seen.steps[0].inputs, run.inputs[0], 32), rotation),
            0.95);
  EXPECT_LE(Aligned(AlignPrincipalComponents(RandomMatrix(kRows, kInputs, 9), run.inputs[0], 32),
                    rotation),
            0.05);
  EXPECT_GE(SameRows(InvertActivations(seen.steps[0].inputs, run.inputs[0], seen.steps[1].inputs),
                     run.inputs[1]),
            0.95);
  EXPECT_LE(SameRows(InvertActivations(RandomMatrix(kRows, kInputs, 9), run.inputs[0],
                                       RandomMatrix(kRows, kInputs, 10)),
                     run.inputs[1]),
            0.05);
}

TEST(AttacksTest, StepsUnderAStaticKeyAreLinked) {
  const testing::PlainRun run = testing::MakeRun(kRows, kInputs, kOutputs, 1);
  const SeenLayer seen = testing::Rotated(testing::InTheClear(run), 5);
  const auto linked = [&](size_t first, size_t second) {
    const auto links = LinkRows(seen.steps[first].inputs, seen.steps[second].inputs);
    return std::count_if(links.begin(), links.end(), [](double link) { return link > 0.999; });
  };
  EXPECT_EQ(linked(0, 2), kRows) << "the same samples";
  EXPECT_EQ(linked(0, 1), 0) << "others";
}

TEST(AttacksTest, IndependentComponentsAreFoundUnderAStaticRotation) {
  // Sources that are mostly zero.
  Matrix sources = RandomMatrix(4000, 12, 1);
  for (float& value : sources.values()) value = std::abs(value) > 1.2f ? 2 * value : 0;
  const Matrix rotation = RandomRotation(12, 2);
  const auto isolated = [&](const Matrix& components) {
    size_t right = 0;
    for (size_t i = 0; i < components.rows(); ++i) {
      // X' = X Q^T, so that X' b is X (Q^T b): one source, where that has one element.
      double most = 0;
      for (size_t j = 0; j < 12; ++j) {
        double sum = 0;
        for (size_t l = 0; l < 12; ++l) sum += components(i, l) * rotation(l, j);
        most = std::max(most, std::abs(sum));
      }
      right += most > 0.95;
    }
    return right;
  };
  const Matrix seen = testing::MultipliedByTransposed(sources, rotation);
  EXPECT_EQ(isolated(IndependentComponents({&seen}, 12, 3)), 12u);
  EXPECT_EQ(IndependentComponents({&seen}, 12, 3), IndependentComponents({&seen}, 12, 3));
  const Matrix gaussian = RandomMatrix(4000, 12, 1);
  EXPECT_LE(isolated(IndependentComponents({&gaussian}, 12, 3)), 2u);
}

// What rows are mixed with makes them less unlike Gaussian noise, not as much: the fewer they are,
// and the more rows there are under a key, the less it helps.
TEST(AttacksTest, IndependentComponentsAreFoundAmongMixedRows) {
  constexpr size_t kAll = 12000, kWidth = 12;
  Matrix sources = RandomMatrix(kAll, kWidth, 1);
  for (float& value : sources.values()) value = std::abs(value) > 1.5f ? 2 * value : 0;
  const Matrix rotation = RandomRotation(kWidth, 2);
  const auto found = [&](size_t group, size_t rows) {
    Matrix mixed = Matrix::Create(rows, kWidth, "x").value();
    for (size_t begin = 0; begin < rows; begin += group) {
      Matrix some = Matrix::Create(group, kWidth, "x").value();
      std::copy_n(&sources.values()[begin * kWidth], group * kWidth, some.values().begin());
      some = testing::MultipliedByTransposed(Multiplied(RandomRotation(group, 3 + begin), some),
                                             rotation);
      std::copy_n(some.values().begin(), group * kWidth, &mixed.values()[begin * kWidth]);
    }
    const Matrix components = IndependentComponents({&mixed}, kWidth, 3);
    size_t right = 0;
    for (size_t i = 0; i < components.rows(); ++i) {
      double most = 0;
      for (size_t j = 0; j < kWidth; ++j) {
        double sum = 0;
        for (size_t l = 0; l < kWidth; ++l) sum += components(i, l) * rotation(l, j);
        most = std::max(most, std::abs(sum));
      }
      right += most > 0.9;
    }
    return right;
  };
  EXPECT_EQ(found(8, kAll), kWidth);
  EXPECT_EQ(found(20, kAll), kWidth);
  EXPECT_LE(found(60, kAll / 20), kWidth / 4);
}

TEST(AttacksTest, ImagesLessTheirMeans) {
  const Matrix less = LessImageMeans(RandomMatrix(12, 3, 1), 4);
  for (size_t image = 0; image < 3; ++image) {
    for (size_t j = 0; j < 3; ++j) {
      double sum = 0;
      for (size_t place = 0; place < 4; ++place) sum += less(image * 4 + place, j);
      EXPECT_NEAR(sum, 0, 1e-5);
    }
  }
}

double Correlation(const Matrix& a, const Matrix& b) {
  const double inner =
      std::inner_product(a.values().begin(), a.values().end(), b.values().begin(), 0.0);
  return inner / Norm(a.values().data(), a.values().size()) /
         Norm(b.values().data(), b.values().size());
}

TEST(AttacksTest, RotationsOfSamplesAndChannelsKeepInnerProductsOfPlaces) {
  constexpr size_t kSamples = 6, kSide = 5, kChannels = 8, kPlaces = kSide * kSide;
  const Matrix plain = testing::MakeConvolutionRun(kSamples, kSide, kChannels, 1).inputs[0];
  const Matrix samples = RandomRotation(kSamples, 2), channels = RandomRotation(kChannels, 3);
  Matrix seen = Matrix::Create(plain.rows(), kChannels, "seen").value();
  for (size_t to = 0; to < kSamples; ++to) {
    for (size_t from = 0; from < kSamples; ++from) {
      for (size_t i = 0; i < kPlaces * kChannels; ++i) {
        seen.values()[to * kPlaces * kChannels + i] +=
            samples(to, from) * plain.values()[from * kPlaces * kChannels + i];
      }
    }
  }
  seen = testing::MultipliedByTransposed(seen, channels);
  const Matrix truth = PlaceProducts(plain, kPlaces);
  EXPECT_GT(Correlation(PlaceProducts(seen, kPlaces), truth), 0.9999);
  EXPECT_LT(std::abs(Correlation(seen, plain)), 0.5);
  // Places in another order in each sample.
  Matrix shuffled = plain;
  for (size_t sample = 0; sample < kSamples; ++sample) {
    const auto order = StreamOf(4 + sample).Permutation(kPlaces).value();
    for (size_t place = 0; place < kPlaces; ++place) {
      for (size_t j = 0; j < kChannels; ++j)
        shuffled(sample * kPlaces + place, j) = plain(sample * kPlaces + order[place], j);
    }
  }
  EXPECT_LT(Correlation(PlaceProducts(shuffled, kPlaces), truth), 0.9);
}

TEST(AttacksTest, TheConstantDirectionIsFoundUnderRotations) {
  const Matrix rotation = RandomRotation(kInputs, 2);
  const auto cosine = [&](const Matrix& inputs, size_t which) {
    const Matrix seen = testing::MultipliedByTransposed(inputs, rotation);
    const DirectionGuess guess = GuessConstantDirection({&seen});
    // The constant vector's image.
    double sum = 0;
    for (size_t j = 0; j < kInputs; ++j) {
      for (size_t l = 0; l < kInputs; ++l)
        sum += guess.seen(which, j) * rotation(j, l) * guess.plain(which, l);
    }
    return std::abs(sum);
  };
  Matrix positive = RandomMatrix(kRows, kInputs, 1), normalised = positive;
  for (float& value : positive.values()) value = std::max(value, 0.0f);
  for (size_t i = 0; i < kRows; ++i) {
    float mean = 0;
    for (size_t j = 0; j < kInputs; ++j) mean += normalised(i, j) / kInputs;
    for (size_t j = 0; j < kInputs; ++j) normalised(i, j) -= mean;
  }
  EXPECT_GT(cosine(positive, 0), 0.95);
  EXPECT_GT(cosine(normalised, 1), 0.999);
  const Matrix neither = RandomMatrix(kRows, kInputs, 1);
  EXPECT_LT(cosine(neither, 0), 0.5);
  EXPECT_LT(cosine(neither, 1), 0.5);
}

TEST(AttacksTest, GradientsOfOneClassPointOneWay) {
  constexpr size_t kClasses = 4;
  const Matrix directions = RandomMatrix(kClasses, kOutputs, 1);
  Matrix gradients = RandomMatrix(kRows, kOutputs, 2);
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < kOutputs; ++j)
      gradients(i, j) = 0.3f * gradients(i, j) + directions(i % 7 % kClasses, j);
  }
  std::fill_n(gradients.values().begin(), kOutputs, 0.0f);
  const std::vector<size_t> clusters = ClusterRows(gradients, kClasses);
  EXPECT_EQ(clusters[0], kClasses) << "no gradient";
  size_t same = 0;
  for (size_t i = 1; i < kRows; ++i) {
    for (size_t j = 1; j < kRows; ++j) {
      same += (clusters[i] == clusters[j]) == (i % 7 % kClasses == j % 7 % kClasses);
    }
  }
  EXPECT_EQ(same, (kRows - 1) * (kRows - 1));
  const Matrix mixed = Multiplied(RandomRotation(kRows, 3), gradients);
  const std::vector<size_t> guessed = ClusterRows(mixed, kClasses);
  same = 0;
  for (size_t i = 1; i < kRows; ++i) {
    for (size_t j = 1; j < kRows; ++j) {
      same += (guessed[i] == guessed[j]) == (i % 7 % kClasses == j % 7 % kClasses);
    }
  }
  EXPECT_LT(same, (kRows - 1) * (kRows - 1) * 8 / 10);
}

TEST(AttacksTest, ProbabilitiesAreRidOfTheirScales) {
  constexpr size_t kTokens = 50;
  const auto probabilities = [](float spread) {
    Matrix p = RandomMatrix(kTokens, kTokens, 1);
    for (size_t i = 0; i < kTokens; ++i) {
      float sum = 0;
      for (size_t j = 0; j < kTokens; ++j) sum += p(i, j) = std::exp(spread * p(i, j));
      for (size_t j = 0; j < kTokens; ++j) p(i, j) /= sum;
    }
    return p;
  };
  const auto off = [&](float spread) {
    const Matrix p = probabilities(spread);
    const auto rows = StreamOf(2).Below(16, kTokens).value();
    const auto columns = StreamOf(3).Below(16, kTokens).value();
    Matrix seen = p;
    for (size_t i = 0; i < kTokens; ++i) {
      for (size_t j = 0; j < kTokens; ++j) {
        seen(i, j) *= static_cast<float>(rows[i] + 1) / static_cast<float>(columns[j] + 1);
      }
    }
    const Matrix guess = RemoveProbabilityScales(seen);
    return Norm(Less(guess, p).values().data(), p.values().size()) /
           Norm(p.values().data(), p.values().size());
  };
  EXPECT_LT(off(0.05f), 1e-4);
  EXPECT_GT(off(3), 0.05) << "attention that is far from uniform";
}

TEST(AttacksTest, TwoSharesGiveEverythingAndOneNothing) {
  constexpr int kModulus = 251;
  Matrix secret = RandomMatrix(kRows, kInputs, 1);
  for (float& value : secret.values()) value = std::round(30 * value);
  const auto masks = StreamOf(2).Below(kModulus, kRows * kInputs).value();
  const auto share = [&](int a) {
    Matrix out = secret;
    for (size_t i = 0; i < masks.size(); ++i) {
      const int residue =
          ((static_cast<int>(secret.values()[i]) + a * static_cast<int>(masks[i])) % kModulus +
           kModulus) %
          kModulus;
      out.values()[i] = static_cast<float>(residue > kModulus / 2 ? residue - kModulus : residue);
    }
    return out;
  };
  for (const auto& [a, b] : {std::pair(1, 2), {2, 1}, {1, 3}, {3, 1}, {2, 3}, {3, 2}})
    EXPECT_EQ(CombineShares(share(a), share(b), kModulus), secret) << a << b;
  EXPECT_LE(SameRows(CombineShares(share(1), share(1), kModulus), secret, 0.5), 0.01);
  EXPECT_LE(SameRows(share(1), secret, 0.5), 0.01);
}

TEST(AttacksTest, ALowRankMaskIsProjectedOut) {
  const Matrix inputs = RandomMatrix(kRows, kInputs, 1);
  const auto masked = [&](size_t rank) {
    Matrix mask = Multiplied(RandomMatrix(kRows, rank, 2), RandomMatrix(rank, kInputs, 3));
    for (size_t i = 0; i < mask.values().size(); ++i)
      mask.values()[i] = 30 * mask.values()[i] + inputs.values()[i];
    return mask;
  };
  const Matrix weak = masked(4);
  EXPECT_LE(SameRows(weak, inputs, 0.9), 0.05);
  EXPECT_GE(SameRows(ProjectOut({&weak}, weak, 4), inputs, 0.9), 0.99);
  const Matrix full = masked(kInputs);
  EXPECT_LE(SameRows(ProjectOut({&full}, full, 4), inputs, 0.9), 0.05);
}

TEST(AttacksTest, OneRoundOfPublicHadamardsIsUndone) {
  Matrix inputs = RandomMatrix(kRows, 128, 1);
  const auto signs = StreamOf(2).Signs(128).value();
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < 128; ++j) inputs(i, j) *= signs[j];
  }
  const Matrix mixed = UndoHadamard(inputs);  // its own inverse
  EXPECT_LE(SameRows(mixed, inputs), 0.01);
  EXPECT_EQ(SameRows(UndoHadamard(mixed), inputs, 0.9999), 1);
  EXPECT_LE(SameRows(UndoHadamard(Multiplied(inputs, RandomRotation(128, 3))), inputs), 0.01);
}

TEST(AttacksTest, IntegerScalesOfIntegersAreDividedOut) {
  Matrix integers = RandomMatrix(kRows, kInputs, 1);
  for (float& value : integers.values()) value = std::round(3 * value);
  Matrix seen = integers;
  const auto factors = StreamOf(2).Below(16, kRows).value();
  for (size_t i = 0; i < kRows; ++i) {
    for (size_t j = 0; j < kInputs; ++j) seen(i, j) *= static_cast<float>(factors[i] + 1) / 16;
  }
  EXPECT_EQ(SameRows(seen, integers, 0.9999), 1) << "scales change no direction";
  const auto exact = [](const Matrix& a, const Matrix& b) {
    size_t same = 0;
    for (size_t i = 0; i < a.rows(); ++i) {
      bool row = true;
      for (size_t j = 0; j < a.columns(); ++j) row = row && std::abs(a(i, j) - b(i, j)) < 1e-3;
      same += row;
    }
    return same;
  };
  EXPECT_LE(exact(seen, integers), kRows / 8);
  EXPECT_EQ(exact(DivideByCommonDivisors(seen), integers), kRows);
  const Matrix floats = RandomMatrix(kRows, kInputs, 3);
  EXPECT_EQ(exact(DivideByCommonDivisors(floats), floats), kRows) << "rows that are none stay";
}

TEST(AttacksTest, TheKeyShiftTakesCoefficientsOff) {
  SeenLayer plain = testing::InTheClear(testing::MakeRun(kRows, kInputs, kOutputs, 1));
  SeenLayer seen = plain;
  for (size_t i = 0; i < kInputs; ++i) {
    const float factor = static_cast<float>(1 + i % 16);
    seen.shift.rows.push_back(factor * factor);
    for (size_t j = 0; j < kOutputs; ++j) seen.weights(i, j) *= factor;
    for (size_t r = 0; r < kRows; ++r) seen.steps[1].inputs(r, i) /= factor;
  }
  seen.shift.columns.assign(kOutputs, 1.0f / 9);
  for (float& value : seen.weights.values()) value /= 3;
  for (float& value : seen.steps[1].outputs.values()) value /= 3;
  for (float& value : seen.steps[1].output_gradients.values()) value *= 3;
  const SeenLayer guess = RemoveShiftedScales(seen);
  const auto close = [](const Matrix& a, const Matrix& b) {
    double most = 0;
    for (size_t i = 0; i < a.values().size(); ++i)
      most = std::max<double>(most, std::abs(a.values()[i] - b.values()[i]));
    return most < 1e-4;
  };
  EXPECT_TRUE(close(guess.weights, plain.weights));
  EXPECT_TRUE(close(guess.steps[1].inputs, plain.steps[1].inputs));
  EXPECT_TRUE(close(guess.steps[1].outputs, plain.steps[1].outputs));
  EXPECT_TRUE(close(guess.steps[1].output_gradients, plain.steps[1].output_gradients));
  EXPECT_FALSE(close(seen.weights, plain.weights));
  SeenLayer without = seen;
  without.shift = {};
  EXPECT_EQ(RemoveShiftedScales(without).weights, seen.weights);
}

TEST(AttacksTest, KnownRowsGiveAPermutationOfColumnsAway) {
  const testing::PlainRun run = testing::MakeRun(kRows, kInputs, kOutputs, 1);
  Matrix seen = Permuted(run.inputs[0], false, 1, 4), other = Permuted(run.inputs[1], false, 1, 4);
  Matrix known = Matrix::Create(16, kInputs, "known").value();
  std::copy_n(run.inputs[0].values().begin() + 7 * kInputs, 16 * kInputs, known.values().begin());
  EXPECT_EQ(SameRows(SortColumns(seen, known, other), run.inputs[1], 0.999), 1);
  EXPECT_LE(SameRows(other, run.inputs[1], 0.999), 0.01);
  const Matrix rotation = RandomRotation(kInputs, 5);
  EXPECT_LE(SameRows(SortColumns(Multiplied(run.inputs[0], rotation), known,
                                 Multiplied(run.inputs[1], rotation)),
                     run.inputs[1], 0.999),
            0.01);
}

TEST(AttacksTest, FineTuningFitsWhatWasQueried) {
  const Matrix weights = RandomMatrix(kInputs, kOutputs, 1);
  const Matrix inputs = RandomMatrix(2 * kInputs, kInputs, 2);
  const Matrix outputs = Multiplied(inputs, weights);
  const Matrix nothing = Matrix::Create(kInputs, kOutputs, "w").value();
  EXPECT_EQ(SameRows(FineTune(nothing, inputs, outputs), weights), 1) << "queries for all of it";
  Matrix few = Matrix::Create(kInputs / 4, kInputs, "x").value();
  std::copy_n(inputs.values().begin(), few.values().size(), few.values().begin());
  const Matrix answers = Multiplied(few, weights);
  EXPECT_LE(SameRows(FineTune(nothing, few, answers), weights), 0.05);
  EXPECT_EQ(SameRows(FineTune(Perturbed(weights, 0.2, 3), few, answers), weights), 1);
  EXPECT_EQ(FineTune(weights, Matrix(), Matrix()), weights);
}

}  // namespace
}  // namespace pavise::audit
