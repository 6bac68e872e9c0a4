#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/crypto/jwt.h"

// Any bytes under a key that signed none of them: a refusal, never an accept or a failure.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;          // NOLINT: a fuzz target is one function
  using namespace pavise::crypto;  // NOLINT
  static const PublicKey* const key =
      new PublicKey(PrivateKey::Generate(KeyType::kEcP256)->public_key());
  const auto claims = VerifyJwt(AsText({data, size}), *key, "fuzz");
  if (claims.ok() || ExitCodeOf(claims.status()) != 1) std::abort();
  return 0;
}
