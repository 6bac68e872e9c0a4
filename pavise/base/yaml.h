#ifndef PAVISE_BASE_YAML_H_
#define PAVISE_BASE_YAML_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

namespace pavise {

// A value of the strict subset of YAML 1.2 that Pavise's files are written in. Scalars are text;
// which of them are numbers or truth values is for the file's own format to say ("no" is no boolean
// here).
struct YamlNode {
  enum class Kind { kNull, kScalar, kSequence, kMap };
  Kind kind = Kind::kNull;
  int line = 0;           // from 1
  bool is_plain = false;  // a scalar without quotes
  std::string text;
  std::vector<YamlNode> items;
  std::vector<std::string> keys;  // of a map, beside `items`
};

struct YamlLimits {
  uint64_t max_bytes = uint64_t{1} << 20;
  size_t max_depth = 16;
  size_t max_nodes = 100'000;
  size_t max_keys = 64;  // of one map
};

// One document of UTF-8 text. kMalformed: duplicate keys, keys that are no text, anchors, aliases,
// tags, a second document, control characters, not YAML; kLimitExceeded. Refusals name `file` and
// the line.
absl::StatusOr<YamlNode> ParseYaml(ByteSpan bytes, const std::string& file,
                                   const YamlLimits& limits = {});

}  // namespace pavise

#endif  // PAVISE_BASE_YAML_H_
