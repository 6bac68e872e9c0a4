// The input is a job file. What is accepted names a command, an agreement and a folder, and reads
// the same again.

#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/job/job_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;
  const auto parsed = job::ParseJob({data, size}, "input", "/folder");
  if (!parsed.ok()) {
    if (ExitCodeOf(parsed.status()) != 1) abort();
    return 0;
  }
  const auto again = job::ParseJob({data, size}, "input", "/folder");
  if (!again.ok() || again->digest != parsed->digest || again->command != parsed->command ||
      parsed->command.empty() || parsed->agreement.empty() || parsed->output.empty() ||
      parsed->obfuscation.has_value() != (parsed->mode == job::TrustMode::kObfuscated)) {
    abort();
  }
  return 0;
}
