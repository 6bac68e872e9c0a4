#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/vault/format.h"

// An index has one form: what is read is written as the same bytes.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;         // NOLINT: a fuzz target is one function
  using namespace pavise::vault;  // NOLINT
  const ByteSpan input(data, size);
  auto index = ParseIndex(input, "fuzz");
  if (!index.ok()) {
    if (ExitCodeOf(index.status()) != 1) std::abort();
    return 0;
  }
  const Index read = *index;
  const auto bytes = FormatIndex(*index, "fuzz");
  if (!bytes.ok() || AsText(ByteSpan(*bytes).subspan(kIndexLengthBytes)) != AsText(input) ||
      !(*index == read)) {
    std::abort();
  }
  return 0;
}
