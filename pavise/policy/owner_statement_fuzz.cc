// The input is the payload of an owner's statement, of any kind: at most one kind accepts it, and
// writes the same bytes again.

#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/policy/owner_statement.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;
  int accepted = 0;
  const auto check = [&](const auto& parsed) {
    if (!parsed.ok()) {
      if (ExitCodeOf(parsed.status()) != 1) abort();
      return;
    }
    ++accepted;
    const auto again = policy::Format(*parsed);
    if (!again.ok() || AsText({data, size}) != *again) abort();
  };
  check(policy::ParseApproval({data, size}, "input"));
  check(policy::ParseWithdrawal({data, size}, "input"));
  check(policy::ParseDeposit({data, size}, "input"));
  check(policy::ParseOutputApproval({data, size}, "input"));
  if (accepted > 1) abort();
  return 0;
}
