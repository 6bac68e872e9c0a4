#ifndef PAVISE_AUDIT_AUDIT_H_
#define PAVISE_AUDIT_AUDIT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/audit/recording.h"
#include "pavise/base/json.h"
#include "pavise/offload/leakage.h"
#include "pavise/offload/scheme.h"

#include "absl/status/statusor.h"

// Attacks on the recorded traffic of a run, scored against what the coordinator had, and held
// against what the scheme says of itself.
namespace pavise::audit {

// What is attacked of one layer: a worker's view, and for scoring the same run without protection.
struct AuditedLayer {
  std::string item;
  SeenLayer seen;
  // The run under `none` in fp32. Its steps are those of `seen`; step i + 2 repeats the samples of
  // step i, in any order, where there are so many.
  SeenLayer plain;
  // AuditedScheme::KeysOf, for scoring guesses of directions; nullptr: what is seen lies in no
  // space of the plain one's (residues), or in the plain one.
  offload::Layer* keys = nullptr;
  // A public model's weights of this layer, as `plain` has them; empty: the adversary has none.
  offload::Matrix base;
  // What the other workers saw, where the scheme has several.
  std::vector<SeenLayer> others;
  // A product of two secrets: each step has weights and keys of its own, and step 2 has the inputs
  // of step 0 in their order, and no outputs.
  bool is_product = false;
  // Whose first operand are probabilities: rows that sum to one.
  bool has_probabilities = false;
  // The class of each image of step 0; empty where inputs are no images' (products).
  std::vector<uint8_t> labels;
};

enum class Verdict {
  kHeld,                 // no better than chance
  kBrokenAsStated,       // and the scheme's profile says so
  kBrokenBeyondProfile,  // and the profile does not
  kNotRun,
};
// "held", "broken as stated", "BROKEN BEYOND ITS PROFILE", "not run".
std::string_view VerdictName(Verdict verdict);

// An attack is no better than chance while its share is not this much above chance's.
inline constexpr double kMargin = 0.1;

struct AttackResult {
  std::string attack;
  std::string needs;     // beside the traffic
  std::string recovers;  // what the share is of
  Verdict verdict = Verdict::kNotRun;
  std::string why;    // kNotRun
  std::string layer;  // of the following: the one where most was recovered, above chance
  double share = 0;
  double chance = 0;       // of the same attack on noise, or without the traffic
  double unprotected = 0;  // of the same attack on the run under `none`
  size_t layers = 0;       // that were attacked
};

struct AuditReport {
  std::string scheme;
  offload::Use use = offload::Use::kTraining;
  std::vector<std::string> layers;
  std::vector<AttackResult> attacks;

  bool is_beyond_profile() const;
};

// `on_attack` is told each attack before it begins. The same layers give the same report. A machine
// failure where memory runs out; a usage error where there are no layers, or seen and plain
// have other shapes.
absl::StatusOr<AuditReport> RunAttacks(
    const offload::LeakageProfile& profile, const std::vector<AuditedLayer>& layers,
    const std::function<void(std::string_view layer, std::string_view attack)>& on_attack);

OrderedJson ReportJson(const AuditReport& report);

}  // namespace pavise::audit

#endif  // PAVISE_AUDIT_AUDIT_H_
