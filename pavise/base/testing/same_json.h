#ifndef PAVISE_BASE_TESTING_SAME_JSON_H_
#define PAVISE_BASE_TESTING_SAME_JSON_H_

#include <algorithm>

#include "pavise/base/json.h"

namespace pavise::testing {

// Equal, and of the same types throughout: 1, 1.0 and -0 are three values here.
inline bool SameJson(const Json& a, const Json& b) {
  if (a.type() != b.type() || a.size() != b.size()) return false;
  if (a.is_array()) return std::equal(a.begin(), a.end(), b.begin(), SameJson);
  if (!a.is_object()) return a.dump() == b.dump();
  const auto other = b.items();
  auto at = other.begin();
  for (const auto& member : a.items()) {
    if (member.key() != at.key() || !SameJson(member.value(), at.value())) return false;
    ++at;
  }
  return true;
}

}  // namespace pavise::testing

#endif  // PAVISE_BASE_TESTING_SAME_JSON_H_
