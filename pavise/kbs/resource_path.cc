#include "pavise/kbs/resource_path.h"

#include <algorithm>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::kbs {
namespace {

constexpr size_t kMaxPartBytes = 128;

bool IsPartCharacter(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-' || c == '.';
}

}  // namespace

absl::Status CheckPathPart(std::string_view part, std::string_view item) {
  if (part.size() > kMaxPartBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("a part of ", part.size(), " characters, the limit is ", kMaxPartBytes));
  }
  if (part.empty() || part.front() == '.' ||
      !std::all_of(part.begin(), part.end(), IsPartCharacter)) {
    return Refuse(Reason::kPathUnsafe, item,
                  StrCat("\"", Printable(part), "\" cannot be part of a resource's path"),
                  "use letters, digits, - and _, and dots but in front");
  }
  return absl::OkStatus();
}

absl::StatusOr<ResourcePath> ParseResourcePath(std::string_view text, std::string_view item) {
  const size_t first = text.find('/');
  const size_t second = first == text.npos ? first : text.find('/', first + 1);
  if (second == text.npos || text.find('/', second + 1) != text.npos) {
    return Refuse(Reason::kMalformed, item, "not repository/type/tag");
  }
  const std::string_view parts[] = {
      text.substr(0, first), text.substr(first + 1, second - first - 1), text.substr(second + 1)};
  for (const std::string_view part : parts) PAVISE_RETURN_IF_ERROR(CheckPathPart(part, item));
  return ResourcePath{std::string(parts[0]), std::string(parts[1]), std::string(parts[2])};
}

absl::StatusOr<std::string> FormatResourcePath(const ResourcePath& path) {
  std::string text = StrCat(path.repository, "/", path.type, "/", path.tag);
  PAVISE_RETURN_IF_ERROR(ParseResourcePath(text, "resource").status());
  return text;
}

std::string ReleaseBinding(const ResourcePath& path, std::string_view mode,
                           const Digest32& agreement_payload,
                           std::string_view broker_encryption_key_id,
                           std::string_view broker_signing_key_id) {
  return StrCat("pavise-release/1 ", path.repository, " ", ToHex(agreement_payload), " ", path.type,
                " ", mode, " ", path.tag, " ", broker_encryption_key_id, " ",
                broker_signing_key_id);
}

}  // namespace pavise::kbs
