#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/kbs/jwk.h"

// What is read as a key is written as the same key.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;       // NOLINT: a fuzz target is one function
  using namespace pavise::kbs;  // NOLINT
  const auto jwk = ParseJson({data, size}, "fuzz", {.max_bytes = 64 << 10});
  if (!jwk.ok()) return 0;
  const auto key = ParseTeePublicKey(*jwk, "fuzz");
  if (!key.ok()) {
    if (ExitCodeOf(key.status()) != 1) std::abort();
    return 0;
  }
  const auto written = FormatTeePublicKey(*key, "fuzz");
  if (!written.ok() || !(ParseTeePublicKey(*written, "fuzz").value() == *key)) std::abort();
  return 0;
}
