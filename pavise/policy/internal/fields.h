#ifndef PAVISE_POLICY_INTERNAL_FIELDS_H_
#define PAVISE_POLICY_INTERNAL_FIELDS_H_

#include <set>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/policy/agreement.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// Members that agreements and owners' statements share. Refusals: kMalformed, with the path.
namespace pavise::policy::internal {

inline constexpr size_t kMaxListEntries = 64;
inline constexpr std::string_view kNameRule =
    "names are 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit";

bool IsName(std::string_view text);
// 64 digits in lower case: one spelling.
absl::StatusOr<Digest32> LowerCaseDigest(std::string_view text, std::string_view path);
absl::StatusOr<Digest32> GetDigest(const JsonObject& object, std::string_view key);
absl::StatusOr<std::string> GetName(const JsonObject& object, std::string_view key);
// 1 to kMaxListEntries names, each once.
absl::StatusOr<std::set<std::string>> GetNames(const JsonObject& object, std::string_view key);
// "2026-11-21T12:00:00Z", in this one spelling, from 2000 to 9999.
absl::StatusOr<absl::Time> GetTime(const JsonObject& object, std::string_view key);
std::string EncodeTime(absl::Time time);

// An agreement's members in any order and spacing, checked as by ParseAgreement.
absl::StatusOr<Agreement> AgreementFromJson(const Json& value, const std::string& item);

}  // namespace pavise::policy::internal

#endif  // PAVISE_POLICY_INTERNAL_FIELDS_H_
