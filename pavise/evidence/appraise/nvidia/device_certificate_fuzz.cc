#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/evidence/appraise/nvidia/device_certificate.h"

// Any bytes that are a certificate: a refusal, or a device and firmware of the stated form.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;            // NOLINT: a fuzz target is one function
  using namespace pavise::evidence;  // NOLINT
  const auto certificate = crypto::Certificate::FromDer({data, size}, "fuzz");
  if (!certificate.ok()) return 0;
  const auto identity = GpuIdentityOf(*certificate);
  if (!identity.ok() && ExitCodeOf(identity.status()) != 1) std::abort();
  if (identity.ok() && (identity->product.empty() || identity->serial.empty())) std::abort();
  const auto firmware_id = FirmwareIdOf(*certificate);
  if (!firmware_id.ok() && ExitCodeOf(firmware_id.status()) != 1) std::abort();
  if (firmware_id.ok() && firmware_id->has_value() && (*firmware_id)->size() != 48) std::abort();
  return 0;
}
