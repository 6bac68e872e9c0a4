#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/signing/outboard.h"

// Any bytes: a refusal, or an outboard that is written back byte for byte.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto outboard = pavise::signing::ParseOutboard({data, size}, "fuzz");
  if (!outboard.ok()) return 0;
  const auto bytes = pavise::signing::FormatOutboard(*outboard);
  if (!bytes.ok() || !std::equal(bytes->begin(), bytes->end(), data, data + size)) std::abort();
  return 0;
}
