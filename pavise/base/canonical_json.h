#ifndef PAVISE_BASE_CANONICAL_JSON_H_
#define PAVISE_BASE_CANONICAL_JSON_H_

#include <string>
#include <string_view>

#include "pavise/base/json.h"

#include "absl/status/statusor.h"

namespace pavise {

// The one text of a JSON value that RFC 8785 (JSON Canonicalization Scheme) defines, for values
// that are hashed or signed: no white space, members sorted by their names' UTF-16 code units, one
// spelling of each string. kUnsupported: numbers that are no integers within +-(2^53 - 1), whose
// spelling RFC 8785 takes from ECMAScript; kMalformed: text that is not UTF-8; kLimitExceeded:
// deeper than 64. Names `item`.
absl::StatusOr<std::string> CanonicalJson(const Json& value, std::string_view item);

}  // namespace pavise

#endif  // PAVISE_BASE_CANONICAL_JSON_H_
