#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/crypto/dsse.h"

// What is read is written and read as the same, and no envelope was signed by this key.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;          // NOLINT: a fuzz target is one function
  using namespace pavise::crypto;  // NOLINT
  static const PublicKey* const key =
      new PublicKey(PrivateKey::Generate(KeyType::kEcP256)->public_key());
  const auto envelope = ParseEnvelope({data, size}, "fuzz");
  if (!envelope.ok()) return 0;
  const auto again = ParseEnvelope(AsBytes(FormatEnvelope(*envelope)), "fuzz");
  if (!again.ok() || *again != *envelope) std::abort();
  const absl::Status status = VerifyEnvelope(*envelope, envelope->payload_type, *key, "fuzz");
  if (ExitCodeOf(status) != 1) std::abort();
  return 0;
}
