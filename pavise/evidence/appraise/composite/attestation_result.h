#ifndef PAVISE_EVIDENCE_APPRAISE_COMPOSITE_ATTESTATION_RESULT_H_
#define PAVISE_EVIDENCE_APPRAISE_COMPOSITE_ATTESTATION_RESULT_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/evidence/appraise/composite/composite_appraiser.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// The result of an appraisal, for machines (an EAR) and for people. docs/formats/evidence.md lists
// the members. Pure.
namespace pavise::evidence {

inline constexpr std::string_view kEarProfile = "tag:ietf.org,2026:rats/ear#04";

// Under which names the claims stand. Draft 04 renamed them, and what reads tokens of the key
// broker protocol today (Trustee, go-ear, rust-ear before its draft-04 release) knows the earlier
// ones.
enum class EarProfile {
  kIetf04,        // kEarProfile: ear_status, ear_trustworthiness_vector, ...
  kVeraison2023,  // kVeraisonEarProfile: ear.status, ear.trustworthiness-vector, ...
};
inline constexpr std::string_view kVeraisonEarProfile = "tag:github.com,2023:veraison/ear";

struct EarOptions {
  std::string policy_id;                       // what was appraised against; "" leaves it out
  absl::Duration lifetime = absl::Minutes(5);  // from the appraisal's time
  EarProfile profile = EarProfile::kIetf04;
  // Members beside those of the profile. Their names begin with "pavise_".
  Json more = Json::object();
};

// The claims set of an EAT attestation result (draft-ietf-rats-ear-04, RFC 9711): a submodule a
// part, the session key as confirmation key (cnf, RFC 7800) and in the earlier profile as
// tee-pubkey too. kKeyUnsupported cannot occur for a verified composite.
absl::StatusOr<Json> EarClaims(const VerifiedComposite& composite, const EarOptions& options);
// Signed as a JSON Web Token (crypto/jwt.h).
absl::StatusOr<std::string> SignEar(const VerifiedComposite& composite, const EarOptions& options,
                                    crypto::Signer& signer);

// One device, or the composite itself, in a report.
struct ReportSection {
  std::string title;
  std::vector<std::pair<std::string, std::string>> facts;
  std::vector<Check> checks;
};

// Text for people, of accepted and refused evidence alike: the verdict, then each check with its
// result; for a failed one its reason, the offending item and what would change the verdict.
// Control characters of hostile evidence are escaped.
std::string FormatReport(const std::vector<ReportSection>& sections);
std::vector<ReportSection> ReportOf(const VerifiedComposite& composite);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_COMPOSITE_ATTESTATION_RESULT_H_
