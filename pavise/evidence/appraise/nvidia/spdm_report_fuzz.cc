#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/evidence/appraise/nvidia/spdm_report.h"

// Any bytes: a refusal, or a report whose parts lie inside them and in order.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto report = pavise::evidence::ParseSpdmReport({data, size}, "fuzz");
  if (!report.ok()) return 0;
  const size_t parsed = report->signed_bytes.size() + report->signature.size();
  if (parsed != size && parsed + 1 != size) std::abort();
  if (report->signature.size() != 96 || report->measurements.empty()) std::abort();
  const auto again = pavise::evidence::GpuOpaqueData::Parse(report->opaque_bytes, "fuzz");
  if (!again.ok() || again->fields() != report->opaque.fields()) std::abort();
  return 0;
}
