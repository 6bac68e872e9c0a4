#include "pavise/offload/key_budget.h"

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::offload {
namespace {

std::string Share(uint64_t spent, uint64_t limit, std::string_view unit) {
  if (limit == kUnlimited) return StrCat(spent, " ", unit, " (no limit)");
  return StrCat(spent, " of ", limit, " ", unit);
}

}  // namespace

absl::Status KeyBudget::Spend(uint64_t known_equations) {
  // Written so that no sum can wrap: what is spent is within the limits.
  if (spent_.steps >= limits_.steps) {
    return Refuse(Reason::kKeyExhausted, item_,
                  StrCat("its key has served all ", limits_.steps, " steps"),
                  "draw a new key and encode the weights again");
  }
  if (known_equations > limits_.known_equations - spent_.known_equations) {
    return Refuse(Reason::kKeyExhausted, item_,
                  StrCat(known_equations, " more known equations, with ", spent_.known_equations,
                         " of ", limits_.known_equations, " spent"),
                  "draw a new key and encode the weights again, or send fewer known rows");
  }
  ++spent_.steps;
  spent_.known_equations += known_equations;
  return absl::OkStatus();
}

std::string KeyBudget::Report() const {
  return StrCat(item_, ": ", Share(spent_.steps, limits_.steps, "steps"), ", ",
                Share(spent_.known_equations, limits_.known_equations, "known equations"));
}

}  // namespace pavise::offload
