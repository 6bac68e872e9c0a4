#ifndef PAVISE_BASE_SIMDJSON_LONG_JSON_H_
#define PAVISE_BASE_SIMDJSON_LONG_JSON_H_

#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"

#include "absl/status/statusor.h"

namespace pavise {

// ParseJson's values and refusals, in a sixth of the time where strings are long, as those of
// evidence are. simdjson reads objects of up to 4 MiB without escapes, and takes up to 13 times
// their size in memory meanwhile; StrictJsonBuilder makes the value of what it read. Everything
// else, and what either refuses, ParseJson reads, which thus has the last word. Thread-safe.
absl::StatusOr<Json> ParseLongJson(ByteSpan text, std::string_view item,
                                   const JsonLimits& limits = {});

}  // namespace pavise

#endif  // PAVISE_BASE_SIMDJSON_LONG_JSON_H_
