#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/kbs/problem.h"

// Whatever a server says, the client gets an error of a known kind.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;       // NOLINT: a fuzz target is one function
  using namespace pavise::kbs;  // NOLINT
  const auto problem = ParseProblem({data, size}, 403, "fuzz");
  if (!problem.ok()) {
    if (ExitCodeOf(problem.status()) != 1) std::abort();
    return 0;
  }
  if (ExitCodeOf(StatusOf(*problem, "fuzz")) != 1) std::abort();
  const auto again = ParseProblem(AsBytes(FormatProblem(*problem)), 403, "fuzz");
  if (again.ok() ? *again != *problem : ReasonOf(again.status()) != Reason::kLimitExceeded) {
    std::abort();
  }
  return 0;
}
