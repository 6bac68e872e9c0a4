// The input is a file of reference values. What is accepted is written and read again unchanged,
// and does not differ from itself.

#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/evidence/appraise/reference/reference_values.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise::evidence;
  const auto values = ParseReferenceValues({data, size}, "input");
  if (!values.ok()) {
    if (pavise::ExitCodeOf(values.status()) != 1) abort();
    return 0;
  }
  const std::string text = FormatReferenceValues(*values);
  const auto again = ParseReferenceValues(pavise::AsBytes(text), "output");
  if (!again.ok() || !(*again == *values) || FormatReferenceValues(*again) != text) abort();
  if (!DiffReferenceValues(*values, *again).empty()) abort();
  if (!ImaRulesOf(*values).ok()) abort();
  return 0;
}
