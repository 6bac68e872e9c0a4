// Any input: read or refused, never a crash. What is read keeps the bytes that were signed, and its
// certificates' SGX extensions are read or refused as well.

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/evidence/appraise/intel/pck_certificate.h"
#include "pavise/evidence/appraise/intel/quote.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto quote = pavise::evidence::ParseIntelQuote({data, size}, "input");
  if (!quote.ok()) {
    if (pavise::ExitCodeOf(quote.status()) != 1) abort();
    return 0;
  }
  if (!std::equal(quote->signed_bytes.begin(), quote->signed_bytes.end(), data)) abort();
  for (const pavise::crypto::Certificate& certificate : quote->certificates) {
    const auto platform = pavise::evidence::ReadPckPlatform(certificate, "certificate");
    if (!platform.ok() && pavise::ExitCodeOf(platform.status()) != 1) abort();
  }
  return 0;
}
