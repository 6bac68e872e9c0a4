#ifndef PAVISE_OFFLOAD_KEY_BUDGET_H_
#define PAVISE_OFFLOAD_KEY_BUDGET_H_

#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/status.h"

namespace pavise::offload {

inline constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

// What one key may serve. A *known equation* is a row of a protected operand whose plaintext the
// worker may know (a padding token, a published sample): each says something of the key.
struct KeyLimits {
  uint64_t steps = kUnlimited;
  uint64_t known_equations = kUnlimited;

  friend bool operator==(const KeyLimits&, const KeyLimits&) = default;
};

// What one key has served, as a privacy budget: spending beyond the limits is refused and leaves
// the budget as it was. Not thread-safe.
class KeyBudget {
 public:
  KeyBudget(std::string item, KeyLimits limits) : item_(std::move(item)), limits_(limits) {}

  // One more step, in which the worker may know `known_equations` rows. kKeyExhausted: the step or
  // an equation is one too many; the remedy is a new key.
  absl::Status Spend(uint64_t known_equations);

  const std::string& item() const { return item_; }
  const KeyLimits& limits() const { return limits_; }
  const KeyLimits& spent() const { return spent_; }
  // "layer 3: 12 of 1000 steps, 0 of 384 known equations"
  std::string Report() const;

 private:
  std::string item_;
  KeyLimits limits_;
  KeyLimits spent_ = {0, 0};
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_KEY_BUDGET_H_
