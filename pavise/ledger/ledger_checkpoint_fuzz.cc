#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/ledger/checkpoint.h"

// Any input: a note or a refusal. What is read is written the same; a key, too.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;          // NOLINT: a fuzz target is one function
  using namespace pavise::ledger;  // NOLINT
  const ByteSpan input(data, size);
  const auto note = ParseCheckpointNote(input, "fuzz");
  if (note.ok() ? note->Format() != AsText(input) : ExitCodeOf(note.status()) != 1) std::abort();
  const auto key = NoteKey::Parse(AsText(input), "fuzz");
  if (!key.ok()) {
    if (ExitCodeOf(key.status()) != 1) std::abort();
  } else if (!AsText(input).starts_with(key->Format()) || size > key->Format().size() + 1) {
    std::abort();
  }
  return 0;
}
