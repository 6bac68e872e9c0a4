// Any input: ParseLongJson and ParseJson say the same, in value and in words.

#include <cstdint>
#include <cstdlib>

#include "pavise/base/simdjson/long_json.h"
#include "pavise/base/testing/same_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const pavise::JsonLimits limits = {.max_depth = 16, .max_values = 10'000};
  const pavise::ByteSpan text(data, size);
  const absl::StatusOr<pavise::Json> value = pavise::ParseLongJson(text, "input", limits);
  const absl::StatusOr<pavise::Json> plain = pavise::ParseJson(text, "input", limits);
  if (value.status() != plain.status()) abort();
  if (value.ok() && !pavise::testing::SameJson(*value, *plain)) abort();
  return 0;
}
