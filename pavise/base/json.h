#ifndef PAVISE_BASE_JSON_H_
#define PAVISE_BASE_JSON_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace pavise {

using Json = nlohmann::json;
// Keeps the order in which members were added; for text that people read.
using OrderedJson = nlohmann::ordered_json;

struct JsonLimits {
  uint64_t max_bytes = 64u << 20;
  uint32_t max_depth = 32;
  uint64_t max_values = 8'000'000;  // objects, arrays and scalars together
};

// Strict RFC 8259 with I-JSON's rules (RFC 7493): refuses duplicate keys, text after the value,
// comments, bytes that are not UTF-8, byte order marks and numbers out of range (kMalformed), and
// whatever exceeds `limits` (kLimitExceeded) before the memory for it is taken. `item` names the
// input in refusals.
absl::StatusOr<Json> ParseJson(ByteSpan text, std::string_view item, const JsonLimits& limits = {});

// Reads one JSON object's members, typed, with refusals (kMalformed) that name the path of the
// member ("statement.predicate.resources[3].name"). The JSON value must outlive it.
class JsonObject {
 public:
  static absl::StatusOr<JsonObject> From(const Json& value, std::string_view path);

  const std::string& path() const { return path_; }
  std::string PathOf(std::string_view key) const;

  bool Has(std::string_view key) const;
  // nullptr when absent.
  const Json* Find(std::string_view key) const;

  // Required members.
  absl::StatusOr<const Json*> Get(std::string_view key) const;
  absl::StatusOr<JsonObject> GetObject(std::string_view key) const;
  absl::StatusOr<const Json*> GetArray(std::string_view key) const;
  absl::StatusOr<std::string> GetString(std::string_view key) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  // Non-negative integers; accepts the floating spelling of an exact integer ("8.0") only with
  // `accept_float`, and nothing above 2^53 in that spelling.
  absl::StatusOr<uint64_t> GetUint(std::string_view key, bool accept_float = false) const;

  // Refuses any member that is not in `known` (kMalformed, names the member).
  absl::Status RequireOnly(std::initializer_list<std::string_view> known) const;

 private:
  JsonObject(const Json* value, std::string_view path) : value_(value), path_(path) {}
  const Json* value_;
  std::string path_;
};

// Text of a value; bytes that are not UTF-8 (file names) become U+FFFD.
std::string DumpJson(const OrderedJson& value, int indent = 2);

}  // namespace pavise

#endif  // PAVISE_BASE_JSON_H_
