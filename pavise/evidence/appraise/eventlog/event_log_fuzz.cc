// The input is an event log. What is accepted replays in every bank, and appraised against its own
// registers it never says of Secure Boot what another appraisal does not.

#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/evidence/appraise/eventlog/event_log_appraiser.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise::evidence;
  const auto log = ParseEventLog({data, size}, "input");
  if (!log.ok()) {
    if (pavise::ExitCodeOf(log.status()) != 1) abort();
    return 0;
  }
  for (const PcrBank bank : log->banks) {
    const auto values = ReplayEventLog(*log, bank, "input");
    if (!values.ok()) abort();
    for (const LogRegisters kind : {LogRegisters::kTpm, LogRegisters::kTdx}) {
      CheckList checks;
      const EventLogRequest request = {bank, kind, {}};
      const auto verified = EventLogAppraiser::Appraise(*log, request, *values, "input", checks);
      if (verified.ok() != checks.all_passed()) abort();
      if (!verified.ok() && pavise::ExitCodeOf(verified.status()) != 1) abort();
    }
  }
  return 0;
}
