#ifndef PAVISE_KBS_PROBLEM_H_
#define PAVISE_KBS_PROBLEM_H_

#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"

#include "absl/status/statusor.h"

namespace pavise::kbs {

// Why a request failed, as problem details (RFC 7807): the protocol's `type` and `detail`, the HTTP
// status, and in members of ours the findings, so that a refusal reads the same at both ends of the
// wire. A caller who may not know more gets a finding that says less, not an empty one.

inline constexpr std::string_view kProblemContentType = "application/problem+json";
inline constexpr std::string_view kProblemTypePrefix =
    "https://github.com/confidential-containers/kbs/errors/";

struct Problem {
  int status = 0;     // HTTP's: 400 to 599
  std::string type;   // kProblemTypePrefix and one of the protocol's names, or any URI
  std::string title;  // may be empty
  std::string detail;
  std::vector<Refusal> findings;  // empty: no verdict, the broker failed
  friend bool operator==(const Problem&, const Problem&) = default;
};

// For the broker. The protocol's names for what went wrong, each with its HTTP status.
enum class ProblemKind {
  kAttestationError,    // 401: auth or attest refused
  kTokenNotFound,       // 401: no session, or one that is not attested
  kTokenVerifierError,  // 401: a token that does not verify
  kAdminAuth,           // 401: an owner's call that is not signed as it must be
  kPolicyDeny,          // 403: a rule says no
  kInvalidRequestPath,  // 404
  kPluginNotFound,      // 404: no such resource
  kSerdeError,          // 400: a body that is not what the path takes
  kPayloadTooLarge,     // 413
  kTooManyRequests,     // 429
  kConflict,            // 409: the state does not allow it (an older version, a duplicate)
  kUnavailable,         // 503: the machine failed; try again
};
// Of a status: its findings, or for whatever is no refusal kUnavailable without findings and
// without its text, which is for the broker's log.
Problem ProblemOf(ProblemKind kind, const absl::Status& status);

// One line of JSON: type, title, status, detail; where there are findings reason, item and remedy
// of the first; where there are several, `findings` with all.
std::string FormatProblem(const Problem& problem);
// At most 256 KiB, 64 findings; unknown members are passed over (RFC 7807, 3.2). kMalformed,
// kLimitExceeded.
absl::StatusOr<Problem> ParseProblem(ByteSpan text, int http_status, std::string_view item);

// For the client: a refusal with the problem's findings, their items prefixed by nothing and their
// texts made printable. Without findings: 4xx is one of reason policy-denied, 5xx (and 429) a
// machine failure. A reason that this version does not know becomes policy-denied and is named in
// the detail.
absl::Status StatusOf(const Problem& problem, std::string_view item);

}  // namespace pavise::kbs

#endif  // PAVISE_KBS_PROBLEM_H_
