#ifndef PAVISE_KBS_RESOURCE_PATH_H_
#define PAVISE_KBS_RESOURCE_PATH_H_

#include <string>
#include <string_view>

#include "pavise/base/bytes.h"

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

// What a released key is bound to (the JWE's `aad`): the text that the machine has to obey, by the
// SHA-256 of its payload, and the broker's keys: outputs' keys go to the one, the other signs what
// tells a run to go on. The client of a machine computes it from what it was shown. Else whoever
// stands between the two, and is the one who names the broker on the machine's command line, would
// hand it another agreement, other code and a key of his own for the outputs, and pass on the real
// broker's keys.
std::string ReleaseBinding(const ResourcePath& path, std::string_view mode,
                           const Digest32& agreement_payload,
                           std::string_view broker_encryption_key_id,
                           std::string_view broker_signing_key_id);

}  // namespace pavise::kbs

#endif  // PAVISE_KBS_RESOURCE_PATH_H_
