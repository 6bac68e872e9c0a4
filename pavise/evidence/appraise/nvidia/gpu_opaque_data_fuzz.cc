#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/evidence/appraise/nvidia/spdm_report.h"

// Any bytes: a refusal, or fields that account for every byte; the typed readers answer on all.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise::evidence;  // NOLINT: a fuzz target is one function
  const auto opaque = GpuOpaqueData::Parse({data, size}, "fuzz");
  if (!opaque.ok()) return 0;
  size_t total = 0;
  for (const auto& [id, value] : opaque->fields()) {
    total += 4 + value.size();
    const auto text = opaque->Text(static_cast<GpuField>(id));
    if (text.ok() && text->size() > value.size()) std::abort();
    (void)opaque->Switch(static_cast<GpuField>(id)).ok();
  }
  if (total != size) std::abort();
  const auto version = opaque->VbiosVersion();
  if (version.ok() && version->size() != 14) std::abort();
  return 0;
}
