// Any input: read or refused, never a crash; what is read is as long as a report.

#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/evidence/appraise/snp/report.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto report = pavise::evidence::ParseSnpReport({data, size}, "input");
  if (!report.ok()) {
    if (pavise::ExitCodeOf(report.status()) != 1) abort();
    return 0;
  }
  if (size != pavise::evidence::kSnpReportBytes || report->version != data[0]) abort();
  return 0;
}
