#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/signing/bundle.h"

// Any bytes: a refusal, or a bundle that is written and read back as the same text.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;           // NOLINT: a fuzz target is one function
  using namespace pavise::signing;  // NOLINT
  const auto bundle = ParseBundle({data, size}, "fuzz");
  if (!bundle.ok()) return 0;
  const std::string text = FormatBundle(*bundle);
  const auto again = ParseBundle(AsBytes(text), "fuzz");
  if (!again.ok() || FormatBundle(*again) != text) std::abort();
  if (again->payload != bundle->payload || again->signature != bundle->signature) std::abort();
  const Bytes encoded = PreAuthenticationEncoding(bundle->payload_type, bundle->payload);
  const Bytes encoded_020 = PreAuthenticationEncoding020(bundle->payload_type, bundle->payload);
  if (encoded.size() <= bundle->payload.size() || encoded == encoded_020) std::abort();
  return 0;
}
