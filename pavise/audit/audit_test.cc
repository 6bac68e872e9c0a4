// Real runs of a coordinator and a worker, recorded and attacked: what each scheme's profile says
// against what was found.
#include "pavise/audit/audit.h"

#include <cmath>
#include <set>
#include <utility>

#include "pavise/audit/testing/layers.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/none.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/shared.h"
#include "pavise/offload/tempo.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::audit {
namespace {

using offload::DType;
using offload::Use;
using ::testing::ElementsAre;
using testing::MakeRun;
using testing::Perturbed;
using testing::PlainRun;
using testing::Record;
using testing::RecordedRun;
using ::testing::UnorderedElementsAre;

using SchemePointer = std::shared_ptr<const offload::Scheme>;

constexpr size_t kAttacks = 23;

const PlainRun& SampleRun() {
  static const PlainRun run = MakeRun(192, 128, 96, 1);
  return run;
}

AuditReport Attack(const SchemePointer& scheme, Use use, double base_distance, DType type) {
  RecordedRun recorded = Record(SampleRun(), scheme, use, type);
  if (base_distance > 0) recorded.layer.base = Perturbed(SampleRun().weights, base_distance, 99);
  std::set<std::string> told;
  AuditReport report = RunAttacks(scheme->leakage(use), {recorded.layer},
                                  [&](std::string_view layer, std::string_view attack) {
                                    EXPECT_EQ(layer, "layer");
                                    EXPECT_TRUE(told.insert(std::string(attack)).second);
                                  })
                           .value();
  EXPECT_EQ(report.attacks.size(), kAttacks);
  for (const AttackResult& attack : report.attacks) {
    EXPECT_EQ(told.contains(attack.attack), attack.verdict != Verdict::kNotRun) << attack.attack;
    EXPECT_EQ(attack.why.empty(), attack.verdict != Verdict::kNotRun) << attack.attack;
  }
  EXPECT_FALSE(report.is_beyond_profile()) << ReportJson(report).dump(1);
  return report;
}

std::vector<std::string> Having(const AuditReport& report, Verdict verdict) {
  std::vector<std::string> names;
  for (const AttackResult& attack : report.attacks) {
    if (attack.verdict == verdict) names.push_back(attack.attack);
  }
  return names;
}

double ShareOf(const AuditReport& report, std::string_view attack) {
  for (const AttackResult& result : report.attacks) {
    if (result.attack == attack) return result.share;
  }
  ADD_FAILURE() << attack;
  return -1;
}

// Everything works on what is not protected, but for components, which a layer's inputs are not
// independent enough for, and a sample of their kind, which is too small here.
TEST(AuditTest, NoneIsBrokenByEveryAttackThatItsTrafficAllows) {
  for (const Use use : {Use::kTraining, Use::kInference}) {
    const AuditReport report = Attack(offload::NewNoneScheme(), use, 0.05, DType::kBf16);
    EXPECT_THAT(
        Having(report, Verdict::kHeld),
        ElementsAre("independent components (FastICA)", "principal components, a known sample"));
    EXPECT_THAT(Having(report, Verdict::kNotRun),
                ElementsAre("scale ratio", "geometry of images", "labels from gradients",
                            "probabilities that sum to one", "residues that are not uniform",
                            "collusion of two workers"));
  }
}

TEST(AuditTest, TempoInTrainingHidesByPermutationOnly) {
  const AuditReport report =
      Attack(offload::NewTempoScheme().value(), Use::kTraining, 0.01, DType::kBf16);
  EXPECT_THAT(Having(report, Verdict::kBrokenAsStated),
              UnorderedElementsAre("scale ratio", "greatest common divisors",
                                   "undoing public Hadamards", "linking successive steps",
                                   "row and column matching", "alignment of singular vectors",
                                   "constant direction", "model theft from a base, no queries",
                                   "model theft from a base, k/4 queries",
                                   "principal components, a known batch", "sorting"));
  EXPECT_EQ(ShareOf(report, "scale ratio"), 1);
  EXPECT_GE(ShareOf(report, "row and column matching"), 0.98);
  EXPECT_EQ(ShareOf(report, "linking successive steps"), 1);
}

TEST(AuditTest, TempoInInferenceHidesScalesFromWhoHasNoBase) {
  const SchemePointer scheme = offload::NewTempoScheme().value();
  const AuditReport report = Attack(scheme, Use::kInference, 0, DType::kFp32);
  EXPECT_THAT(Having(report, Verdict::kBrokenAsStated),
              UnorderedElementsAre("independent components (FastICA)", "linking successive steps"));
  const AuditReport with_base = Attack(scheme, Use::kInference, 0.05, DType::kFp32);
  EXPECT_THAT(Having(with_base, Verdict::kBrokenAsStated),
              ::testing::Contains("row and column matching"));
}

TEST(AuditTest, OrthogonalIsBrokenByABaseAndByAKnownBatch) {
  const SchemePointer scheme = offload::NewOrthogonalScheme().value();
  for (const Use use : {Use::kTraining, Use::kInference}) {
    EXPECT_THAT(Having(Attack(scheme, use, 0.01, DType::kBf16), Verdict::kBrokenAsStated),
                UnorderedElementsAre("constant direction", "alignment of singular vectors",
                                     "principal components, a known batch"));
  }
  EXPECT_THAT(Having(Attack(scheme, Use::kTraining, 0, DType::kFp32), Verdict::kBrokenAsStated),
              ElementsAre("constant direction", "principal components, a known batch"));
}

TEST(AuditTest, OneWorkerOfSharedSeesNoise) {
  for (const Use use : {Use::kTraining, Use::kInference}) {
    const AuditReport report = Attack(offload::NewSharedScheme().value(), use, 0.01, DType::kFp32);
    EXPECT_THAT(Having(report, Verdict::kBrokenAsStated), ElementsAre("collusion of two workers"));
    EXPECT_THAT(Having(report, Verdict::kNotRun),
                ElementsAre("scale ratio", "geometry of images", "labels from gradients",
                            "probabilities that sum to one"));
  }
}

TEST(AuditTest, AReportIsReproduced) {
  const auto attack = [] {
    return ReportJson(
        Attack(offload::NewOrthogonalScheme().value(), Use::kTraining, 0.01, DType::kBf16));
  };
  EXPECT_EQ(attack(), attack());
}

AuditReport AttackLayer(const offload::LeakageProfile& profile, const AuditedLayer& layer) {
  return RunAttacks(profile, {layer}, [](auto, auto) {}).value();
}

AttackResult ResultOf(const AuditReport& report, std::string_view attack) {
  for (const AttackResult& result : report.attacks) {
    if (result.attack == attack) return result;
  }
  ADD_FAILURE() << attack;
  return {};
}

TEST(AuditTest, TwoWorkersOfSharedSeeEverything) {
  const SchemePointer scheme = offload::NewSharedScheme().value();
  const RecordedRun recorded = Record(SampleRun(), scheme, Use::kTraining);
  ASSERT_EQ(recorded.layer.others.size(), 2u);
  for (const size_t other : {0, 1}) {
    AuditedLayer layer = recorded.layer;
    std::swap(layer.others[0], layer.others[other]);
    const AuditReport report = AttackLayer(scheme->leakage(Use::kTraining), layer);
    const AttackResult collusion = ResultOf(report, "collusion of two workers");
    EXPECT_EQ(collusion.verdict, Verdict::kBrokenAsStated);
    EXPECT_GE(collusion.share, 0.98) << "by the first modulus; all of them give the rest";
    EXPECT_LE(collusion.chance, 0.01) << "one worker";
    EXPECT_EQ(ShareOf(report, "residues that are not uniform"), 0) << "of three workers";
  }
}

// Masks that are used for two steps: their difference is that of the inputs.
TEST(AuditTest, MasksUsedTwiceAreBeyondTheProfileOfShared) {
  const SchemePointer scheme = offload::NewSharedScheme().value();
  AuditedLayer layer = Record(SampleRun(), scheme, Use::kTraining).layer;
  layer.others.clear();
  const int modulus = layer.seen.form.moduli[0];
  for (size_t i = 0; i < layer.seen.steps[1].inputs.values().size(); ++i) {
    const int residue = static_cast<int>(layer.seen.steps[0].inputs.values()[i]) +
                        static_cast<int>(i % 3);  // a difference of small integers
    layer.seen.steps[1].inputs.values()[i] =
        static_cast<float>(residue > modulus / 2 ? residue - modulus : residue);
  }
  const AuditReport report = AttackLayer(scheme->leakage(Use::kTraining), layer);
  EXPECT_THAT(Having(report, Verdict::kBrokenBeyondProfile),
              ElementsAre("residues that are not uniform"));
}

// Of images, keys of samples and channels leave what is where; and of few samples and many places
// the key of channels, too.
TEST(AuditTest, ConvolutionsByTheWorkerShowGeometry) {
  const PlainRun run = testing::MakeConvolutionRun(8, 12, 16, 1);
  const auto attack = [&](const SchemePointer& scheme, double distance) {
    RecordedRun recorded = Record(run, scheme, Use::kTraining);
    if (distance > 0) recorded.layer.base = Perturbed(run.weights, distance, 99);
    return AttackLayer(scheme->leakage(Use::kTraining), recorded.layer);
  };
  for (const SchemePointer& scheme :
       {SchemePointer(offload::NewNoneScheme()), SchemePointer(offload::NewTempoScheme().value()),
        SchemePointer(offload::NewOrthogonalScheme().value())}) {
    SCOPED_TRACE(scheme->name());
    const AuditReport report = attack(scheme, 0.01);
    EXPECT_FALSE(report.is_beyond_profile()) << ReportJson(report).dump(1);
    const AttackResult geometry = ResultOf(report, "geometry of images");
    EXPECT_EQ(geometry.verdict, Verdict::kBrokenAsStated);
    EXPECT_GE(geometry.share, scheme->name() == "tempo" ? 0.6 : 0.99) << "samples are scaled";
    EXPECT_LE(geometry.chance, 0.01);
    EXPECT_GE(ShareOf(report, "independent components (FastICA)"), 0.9);
    EXPECT_EQ(ResultOf(report, "alignment of singular vectors").verdict, Verdict::kBrokenAsStated);
    EXPECT_EQ(ResultOf(report, "row and column matching").verdict,
              scheme->name() == "orthogonal" ? Verdict::kHeld : Verdict::kBrokenAsStated);
  }
}

TEST(AuditTest, GradientsTellLabelsUnderTempo) {
  PlainRun run = SampleRun();
  AuditedLayer labelled;
  for (size_t i = 0; i < run.inputs[0].rows(); ++i) {
    labelled.labels.push_back(static_cast<uint8_t>(i % 3 % 2));
    // As one weight vector gives them, where there are two classes.
    for (size_t j = 0; j < run.output_gradients[0].columns(); ++j) {
      const float size = std::abs(run.output_gradients[0](i, j));
      run.output_gradients[0](i, j) = labelled.labels[i] == j % 2 ? size : -size;
    }
  }
  for (const auto& [scheme, verdict] :
       {std::pair(SchemePointer(offload::NewNoneScheme()), Verdict::kBrokenAsStated),
        std::pair(SchemePointer(offload::NewTempoScheme().value()), Verdict::kBrokenAsStated),
        std::pair(SchemePointer(offload::NewOrthogonalScheme().value()), Verdict::kHeld),
        std::pair(SchemePointer(offload::NewSharedScheme().value()), Verdict::kHeld)}) {
    RecordedRun recorded = Record(run, scheme, Use::kTraining, DType::kBf16);
    recorded.layer.labels = labelled.labels;
    const AttackResult labels = ResultOf(
        AttackLayer(scheme->leakage(Use::kTraining), recorded.layer), "labels from gradients");
    EXPECT_EQ(labels.verdict, verdict) << scheme->name();
    EXPECT_EQ(labels.chance, 0.5);
    EXPECT_EQ(labels.unprotected, 1);
    if (verdict == Verdict::kBrokenAsStated) EXPECT_EQ(labels.share, 1) << scheme->name();
  }
}

// Whoever has the base, or answers, and no traffic is what theft is measured against.
TEST(AuditTest, TheftIsWhatTrafficAdds) {
  for (const auto& [scheme, gains] :
       {std::pair(SchemePointer(offload::NewNoneScheme()), true),
        std::pair(SchemePointer(offload::NewTempoScheme().value()), true),
        std::pair(SchemePointer(offload::NewOrthogonalScheme().value()), false),
        std::pair(SchemePointer(offload::NewSharedScheme().value()), false)}) {
    SCOPED_TRACE(scheme->name());
    const AuditReport report = Attack(scheme, Use::kTraining, 0.01, DType::kFp32);
    const AttackResult none = ResultOf(report, "model theft from a base, no queries");
    const AttackResult some = ResultOf(report, "model theft from a base, k/4 queries");
    EXPECT_EQ(none.chance, 0) << "the base alone";
    EXPECT_GT(some.chance, 0.2) << "queries of who has the base";
    EXPECT_GT(none.unprotected, 0.95);
    EXPECT_EQ(none.share > 0.9, gains) << none.share;
    EXPECT_EQ(some.share > some.chance + kMargin, gains) << some.share;
    EXPECT_EQ(some.chance, ResultOf(Attack(scheme, Use::kTraining, 0.01, DType::kFp32),
                                    "model theft from a base, k/4 queries")
                               .chance);
  }
}

// What is found is held against what is stated, not against which scheme it is.
TEST(AuditTest, AProfileThatSaysLessIsBroken) {
  for (const SchemePointer& scheme : {SchemePointer(offload::NewTempoScheme().value()),
                                      SchemePointer(offload::NewOrthogonalScheme().value())}) {
    RecordedRun recorded = Record(SampleRun(), scheme, Use::kTraining);
    recorded.layer.base = Perturbed(SampleRun().weights, 0.01, 99);
    offload::LeakageProfile profile = scheme->leakage(Use::kTraining);
    const AuditReport honest = AttackLayer(profile, recorded.layer);
    EXPECT_FALSE(honest.is_beyond_profile());
    profile.attacks.clear();
    profile.inputs = profile.weights = profile.outputs = profile.gradients =
        offload::Exposure::kUniform;
    const AuditReport silent = AttackLayer(profile, recorded.layer);
    EXPECT_TRUE(silent.is_beyond_profile());
    EXPECT_EQ(Having(silent, Verdict::kBrokenBeyondProfile),
              Having(honest, Verdict::kBrokenAsStated));
  }
}

// An attack that breaks nothing would say nothing.
TEST(AuditTest, EveryAttackBreaksSomething) {
  std::set<std::string> all, broken;
  const auto note = [&](const SchemePointer& scheme, RecordedRun recorded) {
    recorded.layer.base = Perturbed(recorded.layer.plain.weights, 0.01, 99);
    for (const AttackResult& attack :
         AttackLayer(scheme->leakage(Use::kTraining), recorded.layer).attacks) {
      all.insert(attack.attack);
      if (attack.verdict == Verdict::kBrokenAsStated ||
          attack.verdict == Verdict::kBrokenBeyondProfile)
        broken.insert(attack.attack);
    }
  };
  const SchemePointer none = offload::NewNoneScheme(), tempo = offload::NewTempoScheme().value(),
                      shared = offload::NewSharedScheme().value();
  RecordedRun labelled = Record(SampleRun(), none, Use::kTraining);
  labelled.layer.plain = labelled.layer.seen;
  for (size_t i = 0; i < SampleRun().inputs[0].rows(); ++i) {
    labelled.layer.labels.push_back(static_cast<uint8_t>(i % 2));
    for (SeenLayer* const layer : {&labelled.layer.seen, &labelled.layer.plain}) {
      for (size_t j = 0; j < layer->weights.columns(); ++j)
        layer->steps[0].output_gradients(i, j) =
            (i % 2 == 0 ? 1.0f : -1.0f) * static_cast<float>(1 + j + i);
    }
  }
  note(none, std::move(labelled));
  note(tempo, Record(SampleRun(), tempo, Use::kTraining));
  note(none, Record(testing::MakeConvolutionRun(8, 12, 16, 1), none, Use::kTraining));
  // Many inputs of one kind.
  note(none, Record(MakeRun(3000, 40, 30, 1), none, Use::kTraining));
  RecordedRun reused = Record(SampleRun(), shared, Use::kTraining);
  reused.layer.seen.steps[1].inputs = reused.layer.seen.steps[0].inputs;
  note(shared, std::move(reused));
  RecordedRun attention = Record(SampleRun(), none, Use::kTraining);
  attention.layer.has_probabilities = true;
  for (SeenLayer* const layer : {&attention.layer.seen, &attention.layer.plain}) {
    offload::Matrix& probabilities = layer->steps[0].inputs;
    for (size_t i = 0; i < probabilities.values().size(); ++i) {
      probabilities.values()[i] = (1 + 0.0005f * static_cast<float>(i * i % 97)) /
                                  static_cast<float>(probabilities.columns());
    }
    for (size_t i = 0; i < probabilities.rows(); ++i) {
      float sum = 0;
      for (size_t j = 0; j < probabilities.columns(); ++j) sum += probabilities(i, j);
      for (size_t j = 0; j < probabilities.columns(); ++j) probabilities(i, j) /= sum;
    }
  }
  note(none, std::move(attention));
  EXPECT_EQ(all.size(), kAttacks);
  EXPECT_EQ(broken, all);
}

// A scheme that rotates inputs by one key and leaves rows alone, under a profile that does not say
// so.
TEST(AuditTest, AStaticKeyIsBeyondTheProfileOfOrthogonal) {
  AuditedLayer layer;
  layer.item = "weak";
  layer.plain = testing::InTheClear(SampleRun());
  layer.seen = testing::Rotated(layer.plain, 5);
  const auto report = RunAttacks(offload::NewOrthogonalScheme().value()->leakage(Use::kTraining),
                                 {layer}, [](auto, auto) {});
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->is_beyond_profile());
  EXPECT_THAT(Having(*report, Verdict::kBrokenBeyondProfile),
              ElementsAre("linking successive steps"));
  EXPECT_EQ(ReportJson(*report)["beyond_profile"], true);
  EXPECT_GE(ShareOf(*report, "activation inversion (regression)"), 0.9);
}

TEST(AuditTest, WhatDoesNotFitIsRefused) {
  const auto profile = offload::NewNoneScheme()->leakage(Use::kTraining);
  const auto run = [&](const std::vector<AuditedLayer>& layers) {
    return RunAttacks(profile, layers, [](auto, auto) {}).status();
  };
  AuditedLayer layer;
  layer.item = "layer";
  layer.plain = layer.seen = testing::InTheClear(MakeRun(8, 4, 3, 1));
  EXPECT_EQ(ExitCodeOf(run({})), 2);
  AuditedLayer other = layer;
  other.seen.steps.pop_back();
  EXPECT_EQ(ExitCodeOf(run({other})), 2);
  other = layer;
  other.seen.weights = SampleRun().weights;
  EXPECT_EQ(ExitCodeOf(run({other})), 2);
  other = layer;
  other.base = SampleRun().weights;
  EXPECT_EQ(ExitCodeOf(run({other})), 2);
  other = layer;
  other.seen.steps[1].inputs = offload::Matrix();
  EXPECT_EQ(ExitCodeOf(run({other})), 2);
  EXPECT_TRUE(run({layer}).ok());
}

}  // namespace
}  // namespace pavise::audit
