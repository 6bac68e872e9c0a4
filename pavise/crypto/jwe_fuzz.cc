#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/crypto/jwe.h"

// Any JSON under a key that nothing was encrypted to: a refusal, never an accept or a failure.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;          // NOLINT: a fuzz target is one function
  using namespace pavise::crypto;  // NOLINT
  static const PrivateKey* const key = new PrivateKey(*PrivateKey::Generate(KeyType::kEcP256));
  const auto json = ParseJson({data, size}, "fuzz", {.max_bytes = 1 << 20});
  if (!json.ok()) return 0;
  const auto secret = DecryptJwe(*json, *key, "fuzz");
  if (secret.ok() || ExitCodeOf(secret.status()) != 1) std::abort();
  return 0;
}
