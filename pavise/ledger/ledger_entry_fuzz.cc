#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/ledger/entry.h"

// Any input: an entry or a refusal. An entry has one text.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;          // NOLINT: a fuzz target is one function
  using namespace pavise::ledger;  // NOLINT
  const ByteSpan input(data, size);
  const auto entry = ParseEntry(input, "fuzz");
  if (!entry.ok()) {
    if (ExitCodeOf(entry.status()) != 1) std::abort();
    return 0;
  }
  const auto text = FormatEntry(*entry);
  if (!text.ok() || *text != AsText(input)) std::abort();
  return 0;
}
