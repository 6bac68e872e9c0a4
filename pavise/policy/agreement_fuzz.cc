// The input is an agreement's payload. What is accepted has no other spelling, and refers to
// nothing that is not there.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "pavise/base/status.h"
#include "pavise/policy/agreement.h"
#include "pavise/policy/review.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;
  const auto agreement = policy::ParseAgreement({data, size}, "input");
  if (!agreement.ok()) {
    if (ExitCodeOf(agreement.status()) != 1) abort();
    return 0;
  }
  const auto again = policy::FormatAgreement(*agreement);
  if (!again.ok() || AsText({data, size}) != *again) abort();
  for (const auto& [name, stage] : agreement->stages) {
    if (agreement->OwnersOf(stage).empty()) abort();
    (void)agreement->RulesOn(agreement->AssetsOf(stage));
  }
  if (policy::ExplainAgreement(*agreement).empty()) abort();
  return 0;
}
