#include "pavise/kbs/token.h"

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/jwt.h"
#include "pavise/kbs/jwk.h"

namespace pavise::kbs {
namespace {

constexpr size_t kMaxTokenBytes = 1 << 20;
constexpr size_t kMaxParts = 64;
constexpr absl::Duration kClockSkew = absl::Minutes(1);

// What the two profiles call the same claims.
struct Names {
  std::string_view profile;
  std::string_view status;
  std::string_view trust_vector;
};
constexpr Names kProfiles[] = {
    {"tag:ietf.org,2026:rats/ear#04", "ear_status", "ear_trustworthiness_vector"},
    {"tag:github.com,2023:veraison/ear", "ear.status", "ear.trustworthiness-vector"}};

absl::StatusOr<std::string> GetStatus(const JsonObject& object, const Names& names) {
  PAVISE_ASSIGN_OR_RETURN(std::string status, object.GetString(names.status));
  for (const std::string_view known : {"none", "affirming", "warning", "contraindicated"}) {
    if (status == known) return status;
  }
  return Refuse(Reason::kMalformed, object.PathOf(names.status),
                StrCat("status ", Printable(status)));
}

absl::StatusOr<std::string> GetPolicyId(const JsonObject& part) {
  if (part.Has("ear.appraisal-policy-id")) return part.GetString("ear.appraisal-policy-id");
  if (!part.Has("ear_appraisal_policy_ids")) return std::string();
  PAVISE_ASSIGN_OR_RETURN(const Json* ids, part.GetArray("ear_appraisal_policy_ids"));
  if (ids->size() != 1 || !ids->front().is_string()) {
    return Refuse(Reason::kMalformed, part.PathOf("ear_appraisal_policy_ids"), "not one policy");
  }
  return ids->front().get<std::string>();
}

absl::StatusOr<TokenAppraisal> ReadPart(const JsonObject& part, const Names& names) {
  TokenAppraisal appraisal;
  PAVISE_ASSIGN_OR_RETURN(appraisal.status, GetStatus(part, names));
  PAVISE_ASSIGN_OR_RETURN(appraisal.policy_id, GetPolicyId(part));
  if (!part.Has(names.trust_vector)) return appraisal;
  PAVISE_ASSIGN_OR_RETURN(const JsonObject vector, part.GetObject(names.trust_vector));
  for (const auto& claim : (*part.Find(names.trust_vector)).items()) {
    // AR4SI: -128 to 127.
    if (!claim.value().is_number_integer() || claim.value() < -128 || claim.value() > 127) {
      return Refuse(Reason::kMalformed, vector.PathOf(claim.key()), "no trustworthiness claim");
    }
    appraisal.trust_vector[claim.key()] = claim.value().get<int>();
  }
  return appraisal;
}

// Seconds since 1970, as NumericDate (RFC 7519) without fractions.
absl::StatusOr<absl::Time> GetTime(const JsonObject& claims, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t seconds, claims.GetUint(key));
  if (seconds >= uint64_t{1} << 40) {
    return Refuse(Reason::kMalformed, claims.PathOf(key), "no time of this age");
  }
  return absl::FromUnixSeconds(static_cast<int64_t>(seconds));
}

absl::StatusOr<crypto::PublicKey> GetConfirmedKey(const JsonObject& claims) {
  if (!claims.Has("cnf")) {
    PAVISE_ASSIGN_OR_RETURN(const Json* jwk, claims.Get("tee-pubkey"));
    return ParseTeePublicKey(*jwk, claims.PathOf("tee-pubkey"));
  }
  PAVISE_ASSIGN_OR_RETURN(const JsonObject confirmation, claims.GetObject("cnf"));
  PAVISE_ASSIGN_OR_RETURN(const Json* jwk, confirmation.Get("jwk"));
  return ParseTeePublicKey(*jwk, confirmation.PathOf("jwk"));
}

absl::StatusOr<TokenClaims> ReadClaims(Json json, absl::Time now, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject claims, JsonObject::From(json, item));
  PAVISE_ASSIGN_OR_RETURN(const std::string profile, claims.GetString("eat_profile"));
  const Names* names = std::find_if(std::begin(kProfiles), std::end(kProfiles),
                                    [&](const Names& known) { return known.profile == profile; });
  if (names == std::end(kProfiles)) {
    return Refuse(Reason::kUnsupported, claims.PathOf("eat_profile"),
                  StrCat("profile ", Printable(profile)));
  }
  PAVISE_ASSIGN_OR_RETURN(const absl::Time issued_at, GetTime(claims, "iat"));
  PAVISE_ASSIGN_OR_RETURN(const absl::Time expires, GetTime(claims, "exp"));
  if (now >= expires) {
    return Refuse(Reason::kPolicyDenied, item,
                  StrCat("expired at ", absl::FormatTime(expires, absl::UTCTimeZone())),
                  "attest again");
  }
  if (issued_at > now + kClockSkew) {
    return Refuse(Reason::kPolicyDenied, item,
                  StrCat("issued at ", absl::FormatTime(issued_at, absl::UTCTimeZone()),
                         ", which is still to come"),
                  "set this machine's clock");
  }
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey key, GetConfirmedKey(claims));
  TokenClaims token{profile, issued_at, expires, {}, {}, std::move(key), {}, {}};
  if (claims.Has(names->status)) {
    PAVISE_ASSIGN_OR_RETURN(token.status, GetStatus(claims, *names));
  }
  if (claims.Has("eat_nonce")) {
    PAVISE_ASSIGN_OR_RETURN(const std::string nonce, claims.GetString("eat_nonce"));
    PAVISE_ASSIGN_OR_RETURN(token.nonce, FromBase64Url(nonce, claims.PathOf("eat_nonce")));
  }
  PAVISE_ASSIGN_OR_RETURN(const JsonObject parts, claims.GetObject("submods"));
  const Json& parts_json = *claims.Find("submods");
  if (parts_json.empty() || parts_json.size() > kMaxParts) {
    return Refuse(Reason::kMalformed, parts.path(), StrCat("not 1 to ", kMaxParts, " parts"));
  }
  for (const auto& member : parts_json.items()) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject part, parts.GetObject(member.key()));
    PAVISE_ASSIGN_OR_RETURN(token.parts[member.key()], ReadPart(part, *names));
  }
  token.claims = std::move(json);
  return token;
}

}  // namespace

absl::StatusOr<TokenClaims> ReadToken(std::string_view token, absl::Time now,
                                      std::string_view item) {
  if (token.size() > kMaxTokenBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("a token of ", HumanBytes(token.size()), ", the limit is ",
                         HumanBytes(kMaxTokenBytes)));
  }
  const size_t first = token.find('.');
  const size_t second = first == token.npos ? first : token.find('.', first + 1);
  if (second == token.npos || token.find('.', second + 1) != token.npos) {
    return Refuse(Reason::kMalformed, item, "not three parts");
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes payload,
                          FromBase64Url(token.substr(first + 1, second - first - 1), item));
  PAVISE_ASSIGN_OR_RETURN(Json claims, ParseJson(payload, item));
  return ReadClaims(std::move(claims), now, item);
}

absl::StatusOr<TokenClaims> VerifyToken(std::string_view token, const crypto::PublicKey& issuer,
                                        absl::Time now, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(Json claims, crypto::VerifyJwt(token, issuer, item));
  return ReadClaims(std::move(claims), now, item);
}

}  // namespace pavise::kbs
