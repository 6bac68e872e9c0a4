#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/evidence/appraise/nvidia/rim.h"

// Any bytes: a refusal, or measurements within the limits. Nothing that is unsigned verifies.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;            // NOLINT: a fuzz target is one function
  using namespace pavise::evidence;  // NOLINT
  const auto rim = ParseUnverifiedRim({data, size}, "fuzz");
  if (ExitCodeOf(rim.status()) > 1) std::abort();
  if (rim.ok() && (rim->version.empty() || rim->measurements.rbegin()->first > 254)) std::abort();
  const auto verified =
      RimVerifier::Verify({data, size}, "fuzz", absl::FromUnixSeconds(1'750'000'000));
  if (verified.ok() || ExitCodeOf(verified.status()) != 1) std::abort();
  return 0;
}
