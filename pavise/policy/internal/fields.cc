#include "pavise/policy/internal/fields.h"

#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::policy::internal {
namespace {

constexpr size_t kMaxNameBytes = 64;
constexpr char kTimeFormat[] = "%Y-%m-%dT%H:%M:%SZ";

}  // namespace

bool IsName(std::string_view text) {
  constexpr std::string_view kAlphanumeric = "abcdefghijklmnopqrstuvwxyz0123456789";
  return !text.empty() && text.size() <= kMaxNameBytes &&
         kAlphanumeric.find(text[0]) != text.npos &&
         text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789._-") == text.npos;
}

absl::StatusOr<Digest32> LowerCaseDigest(std::string_view text, std::string_view path) {
  PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, Digest32FromHex(text, path));
  if (ToHex(digest) != text) {
    return Refuse(Reason::kMalformed, path, "lower-case hexadecimal belongs here");
  }
  return digest;
}

absl::StatusOr<Digest32> GetDigest(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString(key));
  return LowerCaseDigest(text, object.PathOf(key));
}

absl::StatusOr<std::string> GetName(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(std::string name, object.GetString(key));
  if (!IsName(name)) return Refuse(Reason::kMalformed, object.PathOf(key), kNameRule);
  return name;
}

absl::StatusOr<std::set<std::string>> GetNames(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const Json* array, object.GetArray(key));
  if (array->empty() || array->size() > kMaxListEntries) {
    return Refuse(Reason::kMalformed, object.PathOf(key),
                  StrCat("a list of 1 to ", kMaxListEntries, " names belongs here"));
  }
  std::set<std::string> names;
  for (const Json& value : *array) {
    if (!value.is_string() || !IsName(value.get_ref<const std::string&>())) {
      return Refuse(Reason::kMalformed, object.PathOf(key), kNameRule);
    }
    if (!names.insert(value.get<std::string>()).second) {
      return Refuse(Reason::kMalformed, object.PathOf(key),
                    StrCat("\"", value.get<std::string>(), "\" stands twice"));
    }
  }
  return names;
}

absl::StatusOr<absl::Time> GetTime(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString(key));
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(kTimeFormat, text, &time, &error) || EncodeTime(time) != text ||
      time < absl::FromUnixSeconds(946'684'800)) {
    return Refuse(Reason::kMalformed, object.PathOf(key),
                  "a time as 2026-11-21T12:00:00Z belongs here");
  }
  return time;
}

std::string EncodeTime(absl::Time time) {
  return absl::FormatTime(kTimeFormat, time, absl::UTCTimeZone());
}

}  // namespace pavise::policy::internal
