#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/evidence/appraise/composite/composite_evidence.h"

// Any bytes, as CBOR and as JSON: a refusal, or evidence that both encodings carry unchanged.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;            // NOLINT: a fuzz target is one function
  using namespace pavise::evidence;  // NOLINT
  const ByteSpan bytes(data, size);
  const auto check = [](const CompositeEvidence& evidence) {
    const auto cbor = ToCbor(evidence);
    const auto json = ToJson(evidence);
    if (!cbor.ok() || !json.ok()) std::abort();
    const auto from_cbor = FromCbor(*cbor, "fuzz");
    const auto from_json = FromJson(AsBytes(*json), "fuzz");
    if (!from_cbor.ok() || *from_cbor != evidence) std::abort();
    if (!from_json.ok() || *from_json != evidence) std::abort();
  };
  if (const auto evidence = FromCbor(bytes, "fuzz"); evidence.ok()) {
    const auto again = ToCbor(*evidence);
    if (!again.ok() || *again != Bytes(data, data + size)) std::abort();
    check(*evidence);
  }
  if (const auto evidence = FromJson(bytes, "fuzz"); evidence.ok()) check(*evidence);
  return 0;
}
