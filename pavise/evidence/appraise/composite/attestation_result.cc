#include "pavise/evidence/appraise/composite/attestation_result.h"

#include <algorithm>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/jwt.h"

#include "absl/strings/str_join.h"

namespace pavise::evidence {
namespace {

Json VectorJson(const TrustVector& vector) {
  Json json = Json::object();
  const std::pair<const char*, int8_t> claims[] = {{"instance-identity", vector.instance_identity},
                                                   {"configuration", vector.configuration},
                                                   {"executables", vector.executables},
                                                   {"file-system", vector.file_system},
                                                   {"hardware", vector.hardware},
                                                   {"runtime-opaque", vector.runtime_opaque},
                                                   {"storage-opaque", vector.storage_opaque},
                                                   {"sourced-data", vector.sourced_data}};
  for (const auto& [name, claim] : claims) {
    if (claim != 0) json[name] = claim;  // 0 is "no claim"
  }
  return json;
}

Json ChecksJson(const std::vector<Check>& checks) {
  Json json = Json::array();
  for (const Check& check : checks) {
    json.push_back({{"check", Printable(check.name)}, {"detail", Printable(check.detail)}});
  }
  return json;
}

std::string FactText(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

absl::StatusOr<Json> EarClaims(const VerifiedComposite& composite, const EarOptions& options) {
  PAVISE_ASSIGN_OR_RETURN(const Json session_key,
                          crypto::ToJwk(composite->session_key, "session key"));
  const bool ietf = options.profile == EarProfile::kIetf04;
  // A part of which nothing is claimed keeps the whole from being affirmed, and hides no warning.
  TrustTier worst = TrustTier::kAffirming;
  Json submodules = Json::object();
  for (const PartClaims& part : composite->parts) {
    const TrustTier tier = TierOf(part.trust);
    if (tier > worst || (tier == TrustTier::kNone && worst == TrustTier::kAffirming)) worst = tier;
    const Json verifier_claims = {{"machine_ids", part.machine_ids},
                                  {"checks", ChecksJson(part.checks)}};
    Json submodule = {
        {ietf ? "ear_status" : "ear.status", std::string(TrustTierName(tier))},
        {ietf ? "ear_trustworthiness_vector" : "ear.trustworthiness-vector",
         VectorJson(part.trust)},
        {ietf ? "ear_attester_claims" : "ear.veraison.annotated-evidence", part.claims},
        {ietf ? "ear_verifier_claims" : "ear.veraison.policy-claims", verifier_claims}};
    if (!options.policy_id.empty()) {
      if (ietf) {
        submodule["ear_appraisal_policy_ids"] = {options.policy_id};
      } else {
        submodule["ear.appraisal-policy-id"] = options.policy_id;
      }
    }
    submodules[part.label] = std::move(submodule);
  }
  const int64_t issued_at = absl::ToUnixSeconds(composite->at);
  Json claims = {{"eat_profile", std::string(ietf ? kEarProfile : kVeraisonEarProfile)},
                 {"iat", issued_at},
                 {"exp", issued_at + absl::ToInt64Seconds(options.lifetime)},
                 {"eat_nonce", ToBase64Url(composite->nonce)},
                 {ietf ? "ear_verifier_id" : "ear.verifier-id",
                  {{"developer", "Pavise"}, {"build", StrCat("pavise ", PAVISE_VERSION)}}},
                 {ietf ? "ear_status" : "ear.status", std::string(TrustTierName(worst))},
                 {"cnf", {{"jwk", session_key}}},
                 {"pavise_machine", composite->machine},
                 {"pavise_co_location", std::string(CoLocationName(composite->co_location))},
                 {"pavise_checks", ChecksJson(composite->checks)},
                 {"submods", std::move(submodules)}};
  if (!ietf) {
    Json& wrapping_key = claims["tee-pubkey"] = session_key;
    wrapping_key["alg"] = "ECDH-ES+A256KW";  // its readers require the member
  }
  claims.update(options.more);
  return claims;
}

absl::StatusOr<std::string> SignEar(const VerifiedComposite& composite, const EarOptions& options,
                                    crypto::Signer& signer) {
  PAVISE_ASSIGN_OR_RETURN(const Json claims, EarClaims(composite, options));
  return crypto::SignJwt(claims, signer);
}

std::string FormatReport(const std::vector<ReportSection>& sections) {
  size_t total = 0, failed = 0;
  for (const ReportSection& section : sections) {
    total += section.checks.size();
    failed += static_cast<size_t>(
        std::count_if(section.checks.begin(), section.checks.end(),
                      [](const Check& check) { return check.refusal.has_value(); }));
  }
  // Nothing that was looked at is nothing to accept.
  std::string out = total == 0    ? "REFUSED: nothing was checked\n"
                    : failed == 0 ? StrCat("accepted: all ", total, " checks passed\n")
                                  : StrCat("REFUSED: ", failed, " of ", total, " checks failed\n");
  for (const ReportSection& section : sections) {
    StrAppend(&out, "\n", Printable(section.title), "\n");
    for (const auto& [name, value] : section.facts) {
      StrAppend(&out, "  ", Printable(name), ": ", Printable(value), "\n");
    }
    for (const Check& check : section.checks) {
      if (!check.refusal.has_value()) {
        StrAppend(&out, "  ok       ", Printable(check.name), check.detail.empty() ? "" : ": ",
                  Printable(check.detail), "\n");
        continue;
      }
      const Refusal& refusal = *check.refusal;
      StrAppend(&out, "  REFUSED  ", Printable(check.name), " (", ReasonName(refusal.reason),
                "): ", Printable(refusal.item), ": ", Printable(refusal.detail), "\n");
      if (!refusal.remedy.empty()) {
        StrAppend(&out, "           to change this: ", Printable(refusal.remedy), "\n");
      }
    }
  }
  return out;
}

std::vector<ReportSection> ReportOf(const VerifiedComposite& composite) {
  std::vector<ReportSection> sections;
  sections.push_back(
      {"machine",
       {{"machine", composite->machine},
        {"co-location", std::string(CoLocationName(composite->co_location))},
        {"nonce", ToHex(composite->nonce)},
        {"session key", composite->session_key.Fingerprint()},
        {"appraised at", absl::FormatTime(absl::RFC3339_sec, composite->at, absl::UTCTimeZone())}},
       composite->checks});
  for (const PartClaims& part : composite->parts) {
    ReportSection section{
        part.label, {{"status", std::string(TrustTierName(TierOf(part.trust)))}}, part.checks};
    for (const auto& claim : part.claims.items()) {
      section.facts.emplace_back(claim.key(), FactText(claim.value()));
    }
    sections.push_back(std::move(section));
  }
  return sections;
}

}  // namespace pavise::evidence
