#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/vault/format.h"

// A header has one text; a recipient list that is read is written and read as the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;         // NOLINT: a fuzz target is one function
  using namespace pavise::vault;  // NOLINT
  const ByteSpan input(data, size);
  if (const auto header = ParseHeader(input, "fuzz"); header.ok()) {
    const auto text = FormatHeader(*header, "fuzz");
    if (!text.ok() || *text != AsText(input)) std::abort();
  }
  if (const auto recipients = ParseRecipients(input, "fuzz"); recipients.ok()) {
    const std::string text = FormatRecipients(*recipients);
    const auto again = ParseRecipients(AsBytes(text), "fuzz");
    if (text.size() <= kMaxRecipientsBytes && (!again.ok() || FormatRecipients(*again) != text)) {
      std::abort();
    }
  }
  if (const auto prefix = ParsePrefix(input, "fuzz"); prefix.ok()) {
    if (AsText(FormatPrefix(*prefix)) != AsText(input)) std::abort();
  }
  return 0;
}
