#include "pavise/base/status.h"

#include <cerrno>
#include <cstring>

#include "pavise/base/strings.h"

#include "absl/strings/cord.h"
#include "nlohmann/json.hpp"

namespace pavise {
namespace {

constexpr std::string_view kRefusalPayload = "pavise/refusal.v1";
constexpr std::string_view kMachinePayload = "pavise/machine.v1";
constexpr std::string_view kUsagePayload = "pavise/usage.v1";

constexpr size_t kMostTextBytes = 4096;

// In the order of the enumeration.
constexpr std::string_view kReasonNames[] = {
    "signature-invalid",
    "signer-untrusted",
    "key-mismatch",
    "key-unsupported",
    "certificate-invalid",
    "identity-mismatch",
    "transparency-invalid",
    "revoked",
    "version-too-old",
    "content-mismatch",
    "file-missing",
    "file-unsigned",
    "file-unreadable",
    "file-unstable",
    "file-type-refused",
    "path-unsafe",
    "malformed",
    "limit-exceeded",
    "unsupported",
    "storage-full",
    "policy-denied",
    "ranks-disagree",
    "key-exhausted",
    "result-wrong",
    "state-missing",
    "evidence-missing",
    "nonce-mismatch",
    "binding-mismatch",
    "measurement-mismatch",
    "measurement-unknown",
    "platform-insecure",
    "platform-out-of-date",
};
constexpr int kReasonCount = static_cast<int>(std::size(kReasonNames));
static_assert(static_cast<int>(Reason::kPlatformOutOfDate) == kReasonCount - 1);

}  // namespace

std::string_view ReasonName(Reason reason) {
  const int index = static_cast<int>(reason);
  return index >= 0 && index < kReasonCount ? kReasonNames[index] : "unknown";
}

std::optional<Reason> ReasonFromName(std::string_view name) {
  for (int index = 0; index < kReasonCount; ++index) {
    if (kReasonNames[index] == name) return static_cast<Reason>(index);
  }
  return std::nullopt;
}

absl::Status Refuse(std::vector<Refusal> findings) {
  // Names and values out of hostile files go into these texts: cut, so that refusing stays cheap.
  for (Refusal& finding : findings) {
    for (std::string* text : {&finding.item, &finding.detail, &finding.remedy}) {
      if (text->size() > kMostTextBytes) {
        text->resize(kMostTextBytes);
        *text += "...";
      }
    }
  }
  if (findings.empty()) return MachineFailure("refusal", "a refusal without a finding");
  const Refusal& first = findings.front();
  std::string message = StrCat(first.item, first.item.empty() ? "" : ": ", first.detail);
  if (findings.size() > 1) StrAppend(&message, " (and ", findings.size() - 1, " more)");
  absl::Status status = absl::FailedPreconditionError(message);
  nlohmann::json payload = nlohmann::json::array();
  for (const Refusal& finding : findings) {
    payload.push_back(
        {static_cast<int>(finding.reason), finding.item, finding.detail, finding.remedy});
  }
  // File names may hold any bytes: replaced, not thrown on.
  status.SetPayload(
      ToAbsl(kRefusalPayload),
      absl::Cord(payload.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  return status;
}

absl::Status Refuse(Reason reason, std::string_view item, std::string_view detail,
                    std::string_view remedy) {
  return Refuse({Refusal{reason, std::string(item), std::string(detail), std::string(remedy)}});
}

absl::Status MachineFailure(std::string_view item, std::string_view detail) {
  absl::Status status = absl::InternalError(StrCat(item, item.empty() ? "" : ": ", detail));
  status.SetPayload(ToAbsl(kMachinePayload), absl::Cord());
  return status;
}

absl::Status FromErrno(int error_number, std::string_view operation, std::string_view item) {
  const std::string detail = StrCat(operation, ": ", strerror(error_number));
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
    case EACCES:
    case EPERM:
    case EISDIR:
      return Refuse(Reason::kFileUnreadable, item, detail, "check the path and its permissions");
    case ELOOP:
    case EXDEV:
      return Refuse(Reason::kFileTypeRefused, item,
                    StrCat(operation, ": a symbolic link stands where none is allowed"),
                    "replace the link by the file it points to");
    case EAGAIN:  // somebody holds a lease on it
    case ETXTBSY:
      return Refuse(Reason::kFileUnstable, item, StrCat(detail, ": another program holds it"),
                    "stop the program that uses it and try again");
    case ENAMETOOLONG:
      return Refuse(Reason::kPathUnsafe, item, detail);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return Refuse(Reason::kStorageFull, item, detail, "free some space, or write elsewhere");
    default:
      return MachineFailure(item, detail);
  }
}

absl::Status UsageError(std::string_view detail) {
  absl::Status status = absl::InvalidArgumentError(ToAbsl(detail));
  status.SetPayload(ToAbsl(kUsagePayload), absl::Cord());
  return status;
}

std::vector<Refusal> RefusalsOf(const absl::Status& status) {
  std::vector<Refusal> findings;
  const auto payload = status.GetPayload(ToAbsl(kRefusalPayload));
  if (!payload.has_value()) return findings;
  const nlohmann::json parsed = nlohmann::json::parse(std::string(*payload));
  for (const auto& entry : parsed) {
    findings.push_back({static_cast<Reason>(entry[0].get<int>()), entry[1].get<std::string>(),
                        entry[2].get<std::string>(), entry[3].get<std::string>()});
  }
  return findings;
}

std::optional<Reason> ReasonOf(const absl::Status& status) {
  const std::vector<Refusal> findings = RefusalsOf(status);
  if (findings.empty()) return std::nullopt;
  return findings.front().reason;
}

int ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return 0;
  if (status.GetPayload(ToAbsl(kRefusalPayload)).has_value()) return 1;
  if (status.GetPayload(ToAbsl(kUsagePayload)).has_value()) return 2;
  return 3;
}

}  // namespace pavise
