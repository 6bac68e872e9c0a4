// Any input: parsed or refused, never a crash. What is accepted says what its bytes say: with one
// more byte it is refused.

#include <cstdint>
#include <cstdlib>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/evidence/appraise/tpm/tpm_structures.h"

namespace {

using pavise::Bytes;
using pavise::ByteSpan;

template <typename T>
void Check(absl::StatusOr<T> (*parse)(ByteSpan, std::string_view), ByteSpan bytes) {
  const absl::StatusOr<T> value = parse(bytes, "input");
  if (!value.ok()) {
    if (pavise::ExitCodeOf(value.status()) != 1) abort();
    return;
  }
  Bytes longer(bytes.begin(), bytes.end());
  longer.push_back(0);
  if (parse(longer, "longer").ok()) abort();
}

}  // namespace

// The first byte chooses the structure.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const ByteSpan bytes(data + 1, size - 1);
  switch (data[0]) {
    case 'p':
      Check(pavise::evidence::ParseTpmtPublic, bytes);
      break;
    case 'b':
      Check(pavise::evidence::ParseTpm2bPublic, bytes);
      break;
    case 's':
      Check(pavise::evidence::ParseTpmtSignature, bytes);
      break;
    case 'q':
      Check(pavise::evidence::ParseTpmsAttestQuote, bytes);
      break;
    default:
      break;
  }
  return 0;
}
