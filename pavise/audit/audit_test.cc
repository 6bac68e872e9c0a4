// Real runs of a coordinator and a worker, recorded and attacked: what each scheme's profile says
// against what was found.
#include "pavise/audit/audit.h"

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
using ::testing::IsEmpty;
using testing::MakeRun;
using testing::Perturbed;
using testing::PlainRun;
using testing::Record;
using testing::RecordedRun;
using ::testing::UnorderedElementsAre;

using SchemePointer = std::shared_ptr<const offload::Scheme>;

constexpr size_t kAttacks = 16;

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
                ElementsAre("scale ratio", "residues that are not uniform"));
  }
}

TEST(AuditTest, TempoInTrainingHidesByPermutationOnly) {
  const AuditReport report =
      Attack(offload::NewTempoScheme().value(), Use::kTraining, 0.01, DType::kBf16);
  EXPECT_THAT(Having(report, Verdict::kBrokenAsStated),
              UnorderedElementsAre("scale ratio", "greatest common divisors",
                                   "undoing public Hadamards", "linking successive steps",
                                   "row and column matching", "alignment of singular vectors",
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
                UnorderedElementsAre("alignment of singular vectors",
                                     "principal components, a known batch"));
  }
  EXPECT_THAT(Having(Attack(scheme, Use::kTraining, 0, DType::kFp32), Verdict::kBrokenAsStated),
              ElementsAre("principal components, a known batch"));
}

TEST(AuditTest, OneWorkerOfSharedSeesNoise) {
  for (const Use use : {Use::kTraining, Use::kInference}) {
    const AuditReport report = Attack(offload::NewSharedScheme().value(), use, 0.01, DType::kFp32);
    EXPECT_THAT(Having(report, Verdict::kBrokenAsStated), IsEmpty());
    EXPECT_THAT(Having(report, Verdict::kNotRun), ElementsAre("scale ratio"));
  }
}

TEST(AuditTest, AReportIsReproduced) {
  const auto attack = [] {
    return ReportJson(
        Attack(offload::NewOrthogonalScheme().value(), Use::kTraining, 0.01, DType::kBf16));
  };
  EXPECT_EQ(attack(), attack());
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
