#ifndef PAVISE_OFFLOAD_LEAKAGE_H_
#define PAVISE_OFFLOAD_LEAKAGE_H_

#include <string>
#include <string_view>
#include <vector>

namespace pavise::offload {

enum class Use { kInference, kTraining };
// "inference", "training".
std::string_view UseName(Use use);

// What a worker sees of a matrix, the least first.
enum class Exposure {
  kUniform,   // uniform noise, whatever the matrix is
  kMixed,     // sums of many elements with secret signs in a secret order
  kScaled,    // each element, in a secret place, times a secret positive factor
  kPermuted,  // each element's value, in a secret place
  kVisible,   // all of it
  kNotSent,   // the scheme has no such operand on a worker
};
// "uniform", "mixed", ...
std::string_view ExposureName(Exposure exposure);

struct KnownAttack {
  std::string_view name;
  std::string_view needs;     // what the attacker has besides the traffic
  std::string_view recovers;  // as measured or proven
};

// What a scheme leaks to the workers, stated so that an audit can be held against it. Shapes,
// dtypes, the time and the number of steps are visible under every scheme.
struct LeakageProfile {
  std::string_view scheme;
  Use use = Use::kInference;
  Exposure inputs = Exposure::kVisible;
  Exposure weights = Exposure::kVisible;
  Exposure outputs = Exposure::kVisible;
  Exposure gradients = Exposure::kVisible;  // of outputs, inputs and weights
  std::string_view assumption;              // without which none of it holds
  std::vector<std::string_view> leaks;
  std::vector<KnownAttack> attacks;
};

// Several lines, for people.
std::string Describe(const LeakageProfile& profile);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_LEAKAGE_H_
