#include "pavise/policy/owner_statement.h"

#include <initializer_list>

#include "pavise/base/canonical_json.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/policy/internal/fields.h"

namespace pavise::policy {
namespace {

using internal::EncodeTime;
using internal::GetDigest;
using internal::GetName;
using internal::GetNames;
using internal::GetTime;

constexpr uint64_t kMaxStatementBytes = 64 << 10;
constexpr size_t kMaxExplanationBytes = 1024;
constexpr size_t kMaxRunBytes = 128;

constexpr char kApprovalFormat[] = "pavise-approval/1";
constexpr char kWithdrawalFormat[] = "pavise-withdrawal/1";
constexpr char kDepositFormat[] = "pavise-deposit/1";
constexpr char kOutputApprovalFormat[] = "pavise-output-approval/1";

// Parses the payload, reads it by `read`, and refuses it where writing what was read gives other
// bytes: one statement has one payload.
template <typename Statement, typename Read>
absl::StatusOr<Statement> Parse(ByteSpan payload, std::string_view item, const char* format,
                                const Read& read) {
  PAVISE_ASSIGN_OR_RETURN(
      const Json json,
      ParseJson(payload, item,
                {.max_bytes = kMaxStatementBytes, .max_depth = 8, .max_values = 1000}));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_ASSIGN_OR_RETURN(const std::string found, object.GetString("format"));
  if (found != format) {
    return Refuse(Reason::kUnsupported, object.PathOf("format"),
                  StrCat("\"", Printable(found), "\" where ", format, " belongs"));
  }
  Statement statement;
  PAVISE_ASSIGN_OR_RETURN(statement.agreement, GetDigest(object, "agreement"));
  PAVISE_ASSIGN_OR_RETURN(statement.time, GetTime(object, "time"));
  PAVISE_RETURN_IF_ERROR(read(object, statement));
  PAVISE_ASSIGN_OR_RETURN(const std::string canonical, Format(statement));
  if (AsText(payload) != canonical) {
    return Refuse(Reason::kMalformed, item, "is not the canonical form of this statement");
  }
  return statement;
}

}  // namespace

std::string_view VoteName(Vote vote) {
  switch (vote) {
    case Vote::kApprove:
      return "approve";
    case Vote::kAbstain:
      return "abstain";
    case Vote::kVeto:
      return "veto";
  }
  return "";
}

absl::StatusOr<Approval> ParseApproval(ByteSpan payload, std::string_view item) {
  return Parse<Approval>(
      payload, item, kApprovalFormat,
      [](const JsonObject& object, Approval& approval) -> absl::Status {
        PAVISE_RETURN_IF_ERROR(
            object.RequireOnly({"format", "agreement", "version", "payload", "vote", "time"}));
        PAVISE_ASSIGN_OR_RETURN(approval.version, object.GetUint("version"));
        PAVISE_ASSIGN_OR_RETURN(approval.payload, GetDigest(object, "payload"));
        PAVISE_ASSIGN_OR_RETURN(const std::string vote, object.GetString("vote"));
        for (const Vote each : {Vote::kApprove, Vote::kAbstain, Vote::kVeto}) {
          if (VoteName(each) != vote) continue;
          approval.vote = each;
          return absl::OkStatus();
        }
        return Refuse(Reason::kMalformed, object.PathOf("vote"),
                      "is none of approve, abstain, veto");
      });
}

absl::StatusOr<std::string> Format(const Approval& approval) {
  return CanonicalJson({{"format", kApprovalFormat},
                        {"agreement", ToHex(approval.agreement)},
                        {"version", approval.version},
                        {"payload", ToHex(approval.payload)},
                        {"vote", VoteName(approval.vote)},
                        {"time", EncodeTime(approval.time)}},
                       "approval");
}

absl::StatusOr<Withdrawal> ParseWithdrawal(ByteSpan payload, std::string_view item) {
  return Parse<Withdrawal>(
      payload, item, kWithdrawalFormat,
      [](const JsonObject& object, Withdrawal& withdrawal) -> absl::Status {
        PAVISE_RETURN_IF_ERROR(
            object.RequireOnly({"format", "agreement", "assets", "explanation", "time"}));
        PAVISE_ASSIGN_OR_RETURN(withdrawal.assets, GetNames(object, "assets"));
        PAVISE_ASSIGN_OR_RETURN(withdrawal.explanation, object.GetString("explanation"));
        if (withdrawal.explanation.size() > kMaxExplanationBytes) {
          return Refuse(Reason::kLimitExceeded, object.PathOf("explanation"),
                        StrCat("is longer than ", kMaxExplanationBytes, " bytes"));
        }
        return absl::OkStatus();
      });
}

absl::StatusOr<std::string> Format(const Withdrawal& withdrawal) {
  return CanonicalJson({{"format", kWithdrawalFormat},
                        {"agreement", ToHex(withdrawal.agreement)},
                        {"assets", withdrawal.assets},
                        {"explanation", withdrawal.explanation},
                        {"time", EncodeTime(withdrawal.time)}},
                       "withdrawal");
}

absl::StatusOr<Deposit> ParseDeposit(ByteSpan payload, std::string_view item) {
  return Parse<Deposit>(
      payload, item, kDepositFormat,
      [](const JsonObject& object, Deposit& deposit) -> absl::Status {
        PAVISE_RETURN_IF_ERROR(object.RequireOnly(
            {"format", "agreement", "asset", "sealed", "broker", "encrypted_key", "time"}));
        PAVISE_ASSIGN_OR_RETURN(deposit.asset, GetName(object, "asset"));
        PAVISE_ASSIGN_OR_RETURN(deposit.sealed, GetDigest(object, "sealed"));
        PAVISE_ASSIGN_OR_RETURN(const Digest32 broker, GetDigest(object, "broker"));
        deposit.broker = ToHex(broker);
        PAVISE_ASSIGN_OR_RETURN(deposit.encrypted_key, object.GetString("encrypted_key"));
        return absl::OkStatus();
      });
}

absl::StatusOr<std::string> Format(const Deposit& deposit) {
  return CanonicalJson({{"format", kDepositFormat},
                        {"agreement", ToHex(deposit.agreement)},
                        {"asset", deposit.asset},
                        {"sealed", ToHex(deposit.sealed)},
                        {"broker", deposit.broker},
                        {"encrypted_key", deposit.encrypted_key},
                        {"time", EncodeTime(deposit.time)}},
                       "deposit");
}

absl::StatusOr<OutputApproval> ParseOutputApproval(ByteSpan payload, std::string_view item) {
  return Parse<OutputApproval>(
      payload, item, kOutputApprovalFormat,
      [](const JsonObject& object, OutputApproval& approval) -> absl::Status {
        PAVISE_RETURN_IF_ERROR(object.RequireOnly(
            {"format", "agreement", "run", "output", "sealed", "recipients", "approved", "time"}));
        PAVISE_ASSIGN_OR_RETURN(approval.run, object.GetString("run"));
        if (approval.run.empty() || approval.run.size() > kMaxRunBytes) {
          return Refuse(Reason::kMalformed, object.PathOf("run"),
                        StrCat("1 to ", kMaxRunBytes, " bytes belong here"));
        }
        PAVISE_ASSIGN_OR_RETURN(approval.output, GetName(object, "output"));
        PAVISE_ASSIGN_OR_RETURN(approval.sealed, GetDigest(object, "sealed"));
        PAVISE_ASSIGN_OR_RETURN(approval.recipients, GetNames(object, "recipients"));
        PAVISE_ASSIGN_OR_RETURN(approval.approved, object.GetBool("approved"));
        return absl::OkStatus();
      });
}

absl::StatusOr<std::string> Format(const OutputApproval& approval) {
  return CanonicalJson({{"format", kOutputApprovalFormat},
                        {"agreement", ToHex(approval.agreement)},
                        {"run", approval.run},
                        {"output", approval.output},
                        {"sealed", ToHex(approval.sealed)},
                        {"recipients", approval.recipients},
                        {"approved", approval.approved},
                        {"time", EncodeTime(approval.time)}},
                       "output approval");
}

}  // namespace pavise::policy
