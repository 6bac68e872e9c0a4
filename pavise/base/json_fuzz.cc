// Any input: parsed or refused, never a crash. What is accepted reads back as the same value.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pavise::JsonLimits limits;
  limits.max_depth = 16;
  limits.max_values = 10'000;
  const absl::StatusOr<pavise::Json> value =
      pavise::ParseJson(pavise::ByteSpan(data, size), "input", limits);
  if (!value.ok()) {
    if (pavise::ExitCodeOf(value.status()) != 1) abort();
    return 0;
  }
  // Accepted strings are UTF-8, so writing them cannot fail.
  const std::string text = value->dump(-1, ' ', false, pavise::Json::error_handler_t::strict);
  limits.max_bytes = text.size();
  const absl::StatusOr<pavise::Json> again =
      pavise::ParseJson(pavise::AsBytes(text), "again", limits);
  if (!again.ok() || *again != *value) abort();
  return 0;
}
