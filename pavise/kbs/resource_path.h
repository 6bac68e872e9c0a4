#ifndef PAVISE_KBS_RESOURCE_PATH_H_
#define PAVISE_KBS_RESOURCE_PATH_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace pavise::kbs {

// The name of a secret resource: repository/type/tag. Pavise's broker uses the agreement's id, the
// stage's name and the asset's name. Each of the three is 1 to 128 characters out of A-Z a-z 0-9 _
// - and, but for the first character, the dot: so no "..", no escapes, no empty part.
struct ResourcePath {
  std::string repository;
  std::string type;
  std::string tag;
  friend bool operator==(const ResourcePath&, const ResourcePath&) = default;
};

// One part of a path. kPathUnsafe, kLimitExceeded.
absl::Status CheckPathPart(std::string_view part, std::string_view item);
// "repository/type/tag", without a slash in front. kMalformed: not three parts; kPathUnsafe,
// kLimitExceeded.
absl::StatusOr<ResourcePath> ParseResourcePath(std::string_view text, std::string_view item);
// "repository/type/tag"; refused as by ParseResourcePath.
absl::StatusOr<std::string> FormatResourcePath(const ResourcePath& path);

}  // namespace pavise::kbs

#endif  // PAVISE_KBS_RESOURCE_PATH_H_
