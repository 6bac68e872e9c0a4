// Any input, as a signed document and as what is inside one: read or refused, never a crash. The
// signed text is a part of the document.

#include <cstdint>
#include <cstdlib>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/evidence/appraise/intel/collateral.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using pavise::AsText;
  const pavise::ByteSpan input(data, size);
  const auto check = [](pavise::ByteSpan body) {
    const auto parsed = pavise::evidence::ParseIntelTcbInfo(body, "body");
    if (!parsed.ok() && pavise::ExitCodeOf(parsed.status()) != 1) abort();
  };
  check(input);
  const auto split = pavise::evidence::SplitSignedCollateral(input, "tcbInfo", "input");
  if (!split.ok()) {
    if (pavise::ExitCodeOf(split.status()) != 1) abort();
    return 0;
  }
  if (AsText(input).find(AsText(split->body)) == std::string_view::npos) abort();
  check(split->body);
  return 0;
}
