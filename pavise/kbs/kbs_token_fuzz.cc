#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/kbs/token.h"

// The input as a token, and as the claims of one.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;       // NOLINT: a fuzz target is one function
  using namespace pavise::kbs;  // NOLINT
  const absl::Time now = absl::FromUnixSeconds(1'750'000'100);
  for (const std::string& token :
       {std::string(AsText({data, size})), StrCat("e30.", ToBase64Url({data, size}), ".AA")}) {
    const auto claims = ReadToken(token, now, "fuzz");
    if (!claims.ok() && ExitCodeOf(claims.status()) != 1) std::abort();
    if (claims.ok() && claims->expires <= now) std::abort();
  }
  return 0;
}
