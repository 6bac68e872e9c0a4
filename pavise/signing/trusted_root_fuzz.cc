#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/signing/sigstore.h"

// Any bytes: a refusal, or a trusted root that could judge a signature.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise::signing;  // NOLINT: a fuzz target is one function
  const auto root = ParseSigstoreTrustedRoot({data, size}, "fuzz");
  if (!root.ok()) return 0;
  if (root->rekor_logs.empty() || root->fulcio.empty()) std::abort();
  for (const TransparencyLog& log : root->rekor_logs) {
    if (log.valid_until < log.valid_from) std::abort();
  }
  for (const CertificateAuthority& authority : root->fulcio) {
    if (authority.chain.empty() || authority.valid_until < authority.valid_from) std::abort();
  }
  return 0;
}
