#include "pavise/kbs/problem.h"

#include <optional>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/strings.h"

namespace pavise::kbs {
namespace {

constexpr JsonLimits kProblemLimits{.max_bytes = 256 << 10, .max_depth = 8, .max_values = 4096};
constexpr size_t kMaxFindings = 64;

struct KindText {
  std::string_view name;
  int status;
  std::string_view title;
};

KindText TextOf(ProblemKind kind) {
  switch (kind) {
    case ProblemKind::kAttestationError:
      return {"AttestationError", 401, "Attestation refused"};
    case ProblemKind::kTokenNotFound:
      return {"TokenNotFound", 401, "No attested session"};
    case ProblemKind::kTokenVerifierError:
      return {"TokenVerifierError", 401, "Token refused"};
    case ProblemKind::kAdminAuth:
      return {"AdminAuth", 401, "Request not authenticated"};
    case ProblemKind::kPolicyDeny:
      return {"PolicyDeny", 403, "Refused by a rule"};
    case ProblemKind::kInvalidRequestPath:
      return {"InvalidRequestPath", 404, "No such path"};
    case ProblemKind::kPluginNotFound:
      return {"PluginNotFound", 404, "No such resource"};
    case ProblemKind::kSerdeError:
      return {"SerdeError", 400, "Request not understood"};
    case ProblemKind::kPayloadTooLarge:
      return {"PayloadTooLarge", 413, "Request too large"};
    case ProblemKind::kTooManyRequests:
      return {"TooManyRequests", 429, "Too many requests"};
    case ProblemKind::kConflict:
      return {"Conflict", 409, "Not in this state"};
    case ProblemKind::kUnavailable:
      break;
  }
  return {"Unavailable", 503, "The broker cannot answer now"};
}

OrderedJson FindingJson(const Refusal& finding) {
  return {{"reason", std::string(ReasonName(finding.reason))},
          {"item", finding.item},
          {"detail", finding.detail},
          {"remedy", finding.remedy}};
}

// "" where the member is missing.
absl::StatusOr<std::string> GetOptionalString(const JsonObject& object, std::string_view key) {
  if (!object.Has(key)) return std::string();
  return object.GetString(key);
}

absl::StatusOr<Refusal> ReadFinding(const JsonObject& object) {
  Refusal finding;
  PAVISE_ASSIGN_OR_RETURN(const std::string name, object.GetString("reason"));
  PAVISE_ASSIGN_OR_RETURN(finding.item, GetOptionalString(object, "item"));
  PAVISE_ASSIGN_OR_RETURN(finding.detail, GetOptionalString(object, "detail"));
  PAVISE_ASSIGN_OR_RETURN(finding.remedy, GetOptionalString(object, "remedy"));
  const std::optional<Reason> reason = ReasonFromName(name);
  finding.reason = reason.value_or(Reason::kPolicyDenied);
  if (!reason.has_value()) finding.detail = StrCat(name, ": ", finding.detail);
  return finding;
}

}  // namespace

Problem ProblemOf(ProblemKind kind, const absl::Status& status) {
  std::vector<Refusal> findings = RefusalsOf(status);
  if (findings.empty()) kind = ProblemKind::kUnavailable;
  const KindText text = TextOf(kind);
  Problem problem{text.status, StrCat(kProblemTypePrefix, text.name), std::string(text.title),
                  findings.empty() ? "the broker failed; its log says why"
                                   : std::string(FromAbsl(status.message())),
                  std::move(findings)};
  if (problem.findings.size() > kMaxFindings) problem.findings.resize(kMaxFindings);
  return problem;
}

std::string FormatProblem(const Problem& problem) {
  OrderedJson json = {{"type", problem.type},
                      {"title", problem.title},
                      {"status", problem.status},
                      {"detail", problem.detail}};
  if (!problem.findings.empty()) {
    const Refusal& first = problem.findings.front();
    json["reason"] = std::string(ReasonName(first.reason));
    json["item"] = first.item;
    json["remedy"] = first.remedy;
    for (const Refusal& finding : problem.findings)
      json["findings"].push_back(FindingJson(finding));
  }
  return DumpJson(json, -1);
}

absl::StatusOr<Problem> ParseProblem(ByteSpan text, int http_status, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, item, kProblemLimits));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  Problem problem;
  problem.status = http_status;
  PAVISE_ASSIGN_OR_RETURN(problem.type, GetOptionalString(object, "type"));
  PAVISE_ASSIGN_OR_RETURN(problem.title, GetOptionalString(object, "title"));
  PAVISE_ASSIGN_OR_RETURN(problem.detail, GetOptionalString(object, "detail"));
  if (object.Has("findings")) {
    PAVISE_ASSIGN_OR_RETURN(const Json* findings, object.GetArray("findings"));
    if (findings->size() > kMaxFindings) {
      return Refuse(Reason::kLimitExceeded, object.PathOf("findings"),
                    StrCat("more than ", kMaxFindings));
    }
    for (const Json& element : *findings) {
      PAVISE_ASSIGN_OR_RETURN(const JsonObject finding_object,
                              JsonObject::From(element, object.PathOf("findings")));
      PAVISE_ASSIGN_OR_RETURN(Refusal finding, ReadFinding(finding_object));
      problem.findings.push_back(std::move(finding));
    }
  } else if (object.Has("reason")) {
    PAVISE_ASSIGN_OR_RETURN(Refusal finding, ReadFinding(object));
    problem.findings.push_back(std::move(finding));
  }
  return problem;
}

absl::Status StatusOf(const Problem& problem, std::string_view item) {
  constexpr int kTooManyRequests = 429;
  std::string detail = StrCat("HTTP status ", problem.status);
  for (const std::string& text : {problem.title, problem.detail}) {
    if (!text.empty()) StrAppend(&detail, ": ", Printable(text));
  }
  if (problem.status >= 500 || problem.status == kTooManyRequests) {
    return MachineFailure(item, detail);
  }
  if (problem.findings.empty()) return Refuse(Reason::kPolicyDenied, item, detail);
  std::vector<Refusal> findings = problem.findings;
  for (Refusal& finding : findings) {
    for (std::string* text : {&finding.item, &finding.detail, &finding.remedy}) {
      *text = Printable(*text);
    }
  }
  return Refuse(std::move(findings));
}

}  // namespace pavise::kbs
