#include "pavise/offload/leakage.h"

#include "pavise/base/strings.h"

namespace pavise::offload {

std::string_view UseName(Use use) { return use == Use::kInference ? "inference" : "training"; }

std::string_view ExposureName(Exposure exposure) {
  switch (exposure) {
    case Exposure::kUniform:
      return "uniform";
    case Exposure::kMixed:
      return "mixed";
    case Exposure::kScaled:
      return "scaled";
    case Exposure::kPermuted:
      return "permuted";
    case Exposure::kVisible:
      return "visible";
    case Exposure::kNotSent:
      return "not sent";
  }
  return "unknown";
}

std::string Describe(const LeakageProfile& profile) {
  std::string text = StrCat(
      profile.scheme, ", ", UseName(profile.use), ": inputs ", ExposureName(profile.inputs),
      ", weights ", ExposureName(profile.weights), ", outputs ", ExposureName(profile.outputs),
      ", gradients ", ExposureName(profile.gradients), "\n  assumes: ", profile.assumption, "\n");
  for (const std::string_view leak : profile.leaks) StrAppend(&text, "  leaks: ", leak, "\n");
  for (const KnownAttack& attack : profile.attacks) {
    StrAppend(&text, "  attack: ", attack.name, ", with ", attack.needs, ": ", attack.recovers,
              "\n");
  }
  return text;
}

}  // namespace pavise::offload
