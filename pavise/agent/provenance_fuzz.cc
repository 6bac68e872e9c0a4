// The input is a statement's payload. What is accepted has one spelling, and says something of an
// output.

#include <cstdint>
#include <cstdlib>

#include "pavise/agent/provenance.h"
#include "pavise/base/status.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;
  const auto provenance = agent::ParseProvenance({data, size}, "input");
  if (!provenance.ok()) {
    if (ExitCodeOf(provenance.status()) != 1) abort();
    return 0;
  }
  const auto again = agent::FormatProvenance(*provenance);
  if (!again.ok() || AsText({data, size}) != *again || provenance->outputs.empty()) abort();
  return 0;
}
