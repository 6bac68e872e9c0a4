#include "pavise/ledger/entry.h"

#include <algorithm>
#include <utility>

#include "pavise/base/canonical_json.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::ledger {
namespace {

constexpr std::string_view kFormat = "pavise-ledger-entry/1";
constexpr uint64_t kMostExact = (uint64_t{1} << 53) - 1;
// The one spelling of a time.
constexpr const char* kTimeFormat = "%Y-%m-%dT%H:%M:%E6SZ";
constexpr int64_t kMostSeconds = 253'402'300'799;  // the end of 9999

// Members that not every kind has, a bit each.
enum Member : uint32_t {
  kAgreement = 1u << 0,  // with sequence
  kVersion = 1u << 1,
  kStage = 1u << 2,
  kMode = 1u << 3,
  kRun = 1u << 4,
  kAsset = 1u << 5,
  kSealed = 1u << 6,
  kActor = 1u << 7,
  kOwners = 1u << 8,
  kRecipients = 1u << 9,
  kSession = 1u << 10,
  kMachine = 1u << 11,
  kEvidence = 1u << 12,
  kDecision = 1u << 13,
  kStatement = 1u << 14,
  kKey = 1u << 15,
  kPreviousKey = 1u << 16,
  kReasons = 1u << 17,
};
constexpr uint32_t kInAgreement = kAgreement | kVersion;
constexpr uint32_t kInStage = kInAgreement | kStage | kMode;
constexpr uint32_t kOfSession = kRun | kSession;

struct KindRule {
  EntryKind kind;
  std::string_view name;
  uint32_t required;
  uint32_t optional;
};

// The table of docs/formats/ledger.md, in the order of EntryKind.
constexpr KindRule kKinds[] = {
    {EntryKind::kAgreementProposed, "agreement-proposed", kInAgreement | kActor | kStatement,
     kOwners},
    {EntryKind::kApproval, "approval", kInAgreement | kActor | kStatement, kOwners},
    {EntryKind::kAgreementInForce, "agreement-in-force", kInAgreement, kOwners | kDecision},
    {EntryKind::kWithdrawal, "withdrawal", kAgreement | kActor | kStatement,
     kVersion | kStage | kAsset | kOwners},
    {EntryKind::kDeposit, "deposit", kAgreement | kAsset | kActor | kStatement,
     kVersion | kSealed | kOwners},
    {EntryKind::kRunBegun, "run-begun", kInStage | kOfSession | kEvidence,
     kOwners | kMachine | kDecision},
    {EntryKind::kRelease, "release", kInStage | kOfSession | kAsset | kEvidence | kDecision,
     kOwners | kSealed | kMachine},
    {EntryKind::kRefusal, "refusal", kReasons,
     kInStage | kOfSession | kAsset | kSealed | kActor | kOwners | kRecipients | kMachine |
         kEvidence | kDecision | kStatement},
    {EntryKind::kReattested, "reattested", kInStage | kOfSession | kEvidence,
     kOwners | kMachine | kDecision},
    {EntryKind::kRevocation, "revocation", kAgreement | kOfSession | kReasons,
     kVersion | kStage | kMode | kAsset | kSealed | kActor | kOwners | kMachine | kEvidence |
         kDecision | kStatement},
    {EntryKind::kRunEnded, "run-ended", kAgreement | kOfSession,
     kVersion | kStage | kMode | kOwners | kMachine | kReasons},
    {EntryKind::kOutputDeposited, "output-deposited", kAgreement | kOfSession | kAsset,
     kVersion | kStage | kMode | kSealed | kOwners | kMachine | kStatement},
    {EntryKind::kOutputApproval, "output-approval",
     kAgreement | kRun | kAsset | kActor | kStatement, kVersion | kStage | kSealed | kOwners},
    {EntryKind::kOutputReleased, "output-released", kAgreement | kRun | kAsset | kRecipients,
     kVersion | kStage | kSealed | kActor | kOwners | kDecision},
    {EntryKind::kKeyRotation, "key-rotation", kKey | kPreviousKey, kActor | kStatement},
    {EntryKind::kBrokerStarted, "broker-started", kKey, kMachine | kEvidence | kStatement},
    {EntryKind::kCheckpointCosigned, "checkpoint-cosigned", kActor | kStatement, 0},
};

const KindRule& RuleOf(EntryKind kind) { return kKinds[static_cast<size_t>(kind)]; }

constexpr bool InOrder() {
  for (size_t i = 0; i < std::size(kKinds); ++i) {
    if (static_cast<size_t>(kKinds[i].kind) != i) return false;
  }
  return true;
}
static_assert(InOrder());

constexpr std::pair<Member, std::string_view> kMemberNames[] = {
    {kAgreement, "agreement"},
    {kVersion, "version"},
    {kStage, "stage"},
    {kMode, "mode"},
    {kRun, "run"},
    {kAsset, "asset"},
    {kSealed, "sealed"},
    {kActor, "actor"},
    {kOwners, "owners"},
    {kRecipients, "recipients"},
    {kSession, "session"},
    {kMachine, "machine"},
    {kEvidence, "evidence"},
    {kDecision, "decision"},
    {kStatement, "statement"},
    {kKey, "key"},
    {kPreviousKey, "previous_key"},
    {kReasons, "reasons"},
};

uint32_t MembersOf(const LedgerEntry& entry) {
  uint32_t members = 0;
  const auto set = [&](Member member, bool there) { members |= there ? member : 0u; };
  set(kAgreement, entry.agreement.has_value());
  set(kVersion, entry.version != 0);
  set(kStage, !entry.stage.empty());
  set(kMode, !entry.mode.empty());
  set(kRun, entry.run.has_value());
  set(kAsset, !entry.asset.empty());
  set(kSealed, entry.sealed.has_value());
  set(kActor, !entry.actor.empty());
  set(kOwners, !entry.owners.empty());
  set(kRecipients, !entry.recipients.empty());
  set(kSession, !entry.session.empty());
  set(kMachine, !entry.machine.empty());
  set(kEvidence, entry.evidence.has_value());
  set(kDecision, entry.decision.has_value());
  set(kStatement, entry.statement.has_value());
  set(kKey, !entry.key.empty());
  set(kPreviousKey, !entry.previous_key.empty());
  set(kReasons, !entry.reasons.empty());
  return members;
}

bool IsKeyId(const std::string& text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

// One-line text that is safe to print as it is.
bool IsText(const std::string& text, size_t max_bytes) {
  return text.size() <= max_bytes && Printable(text) == text;
}

// "" for an entry that may be written, else what is wrong with it.
std::string FaultOf(const LedgerEntry& entry) {
  const KindRule& rule = RuleOf(entry.kind);
  const uint32_t members = MembersOf(entry);
  for (const auto& [member, name] : kMemberNames) {
    if ((rule.required & ~members & member) != 0) {
      return StrCat("an entry of kind ", rule.name, " needs a member ", name);
    }
    if ((members & ~rule.required & ~rule.optional & member) != 0) {
      return StrCat("an entry of kind ", rule.name, " has no member ", name);
    }
  }
  if (entry.agreement.has_value() != (entry.sequence != 0)) {
    return "agreement and sequence go together";
  }
  if (entry.version > kMostExact || entry.sequence > kMostExact) return "a number is too large";
  const int64_t seconds = absl::ToUnixSeconds(entry.time);
  if (seconds < 0 || seconds > kMostSeconds ||
      absl::FromUnixMicros(absl::ToUnixMicros(entry.time)) != entry.time) {
    return "its time is not in whole microseconds from 1970 to 9999";
  }
  for (const std::string* name : {&entry.stage, &entry.mode, &entry.asset}) {
    if (!IsText(*name, kMaxEntryNameBytes)) return "a name is too long or no printable text";
  }
  if (!IsText(entry.machine, kMaxEntryTextBytes)) return "its machine is no short printable text";
  for (const std::string* key : {&entry.actor, &entry.session, &entry.key, &entry.previous_key}) {
    if (!key->empty() && !IsKeyId(*key)) return "a key id is not 64 lower-case hex digits";
  }
  for (const std::vector<std::string>* keys : {&entry.owners, &entry.recipients}) {
    if (keys->size() > kMaxEntryKeys) return "names too many keys";
    if (!std::all_of(keys->begin(), keys->end(), IsKeyId)) {
      return "a key id is not 64 lower-case hex digits";
    }
    if (std::adjacent_find(keys->begin(), keys->end(), std::greater_equal<>()) != keys->end()) {
      return "key ids are not sorted, or one is there twice";
    }
  }
  if (entry.reasons.size() > kMaxEntryReasons) return "has too many reasons";
  for (const EntryReason& reason : entry.reasons) {
    if (reason.reason.empty() || !IsText(reason.reason, kMaxEntryNameBytes) ||
        !IsText(reason.rule, kMaxEntryTextBytes) || !IsText(reason.detail, kMaxEntryTextBytes)) {
      return "a reason is too long or no printable text";
    }
  }
  return "";
}

Json ToJson(const LedgerEntry& entry) {
  Json json = {{"format", kFormat},
               {"kind", RuleOf(entry.kind).name},
               {"salt", ToHex(entry.salt)},
               {"time", absl::FormatTime(kTimeFormat, entry.time, absl::UTCTimeZone())}};
  const auto text = [&](const char* name, const std::string& value) {
    if (!value.empty()) json[name] = value;
  };
  const auto number = [&](const char* name, uint64_t value) {
    if (value != 0) json[name] = value;
  };
  const auto hex = [&](const char* name, const auto& value) {
    if (value.has_value()) json[name] = ToHex(*value);
  };
  hex("agreement", entry.agreement);
  number("sequence", entry.sequence);
  number("version", entry.version);
  text("stage", entry.stage);
  text("mode", entry.mode);
  hex("run", entry.run);
  text("asset", entry.asset);
  hex("sealed", entry.sealed);
  text("actor", entry.actor);
  if (!entry.owners.empty()) json["owners"] = entry.owners;
  if (!entry.recipients.empty()) json["recipients"] = entry.recipients;
  text("session", entry.session);
  text("machine", entry.machine);
  hex("evidence", entry.evidence);
  hex("decision", entry.decision);
  hex("statement", entry.statement);
  text("key", entry.key);
  text("previous_key", entry.previous_key);
  for (const EntryReason& reason : entry.reasons) {
    Json one = {{"reason", reason.reason}};
    if (!reason.rule.empty()) one["rule"] = reason.rule;
    if (!reason.detail.empty()) one["detail"] = reason.detail;
    json["reasons"].push_back(std::move(one));
  }
  return json;
}

// Members that may be absent; an empty one is not the canonical text, which the caller sees.
absl::Status ReadText(const JsonObject& object, std::string_view name, std::string& value) {
  if (!object.Has(name)) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(value, object.GetString(name));
  return absl::OkStatus();
}

absl::Status ReadNumber(const JsonObject& object, std::string_view name, uint64_t& value) {
  if (!object.Has(name)) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(value, object.GetUint(name));
  return absl::OkStatus();
}

template <size_t N>
absl::Status ReadHex(const JsonObject& object, std::string_view name,
                     std::optional<std::array<uint8_t, N>>& value) {
  if (!object.Has(name)) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const std::string hex, object.GetString(name));
  PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, FromHex(hex, object.PathOf(name)));
  if (bytes.size() != N) {
    return Refuse(Reason::kMalformed, object.PathOf(name), StrCat("is not ", N, " bytes"));
  }
  std::copy(bytes.begin(), bytes.end(), value.emplace().begin());
  return absl::OkStatus();
}

absl::Status ReadTexts(const JsonObject& object, std::string_view name,
                       std::vector<std::string>& values) {
  if (!object.Has(name)) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const Json* const array, object.GetArray(name));
  for (const Json& value : *array) {
    if (!value.is_string()) {
      return Refuse(Reason::kMalformed, object.PathOf(name), "is no list of strings");
    }
    values.push_back(value.get<std::string>());
  }
  return absl::OkStatus();
}

absl::Status ReadReasons(const JsonObject& object, std::vector<EntryReason>& reasons) {
  if (!object.Has("reasons")) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const Json* const array, object.GetArray("reasons"));
  for (const Json& value : *array) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject one,
                            JsonObject::From(value, object.PathOf("reasons")));
    PAVISE_RETURN_IF_ERROR(one.RequireOnly({"reason", "rule", "detail"}));
    EntryReason& reason = reasons.emplace_back();
    PAVISE_ASSIGN_OR_RETURN(reason.reason, one.GetString("reason"));
    PAVISE_RETURN_IF_ERROR(ReadText(one, "rule", reason.rule));
    PAVISE_RETURN_IF_ERROR(ReadText(one, "detail", reason.detail));
  }
  return absl::OkStatus();
}

absl::Status ReadMembers(const JsonObject& object, LedgerEntry& entry) {
  PAVISE_RETURN_IF_ERROR(object.RequireOnly(
      {"format",   "kind",      "salt",       "time",         "agreement", "sequence",
       "version",  "stage",     "mode",       "run",          "asset",     "sealed",
       "actor",    "owners",    "recipients", "session",      "machine",   "evidence",
       "decision", "statement", "key",        "previous_key", "reasons"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string kind, object.GetString("kind"));
  PAVISE_ASSIGN_OR_RETURN(entry.kind, EntryKindFrom(kind, object.PathOf("kind")));
  std::optional<std::array<uint8_t, 16>> salt;
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "salt", salt));
  // Without one, the canonical text has one that this text does not.
  entry.salt = salt.value_or(std::array<uint8_t, 16>{});
  PAVISE_ASSIGN_OR_RETURN(const std::string time, object.GetString("time"));
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, time, &entry.time, &error)) {
    return Refuse(Reason::kMalformed, object.PathOf("time"), "is no RFC 3339 time");
  }
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "agreement", entry.agreement));
  PAVISE_RETURN_IF_ERROR(ReadNumber(object, "sequence", entry.sequence));
  PAVISE_RETURN_IF_ERROR(ReadNumber(object, "version", entry.version));
  PAVISE_RETURN_IF_ERROR(ReadText(object, "stage", entry.stage));
  PAVISE_RETURN_IF_ERROR(ReadText(object, "mode", entry.mode));
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "run", entry.run));
  PAVISE_RETURN_IF_ERROR(ReadText(object, "asset", entry.asset));
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "sealed", entry.sealed));
  PAVISE_RETURN_IF_ERROR(ReadText(object, "actor", entry.actor));
  PAVISE_RETURN_IF_ERROR(ReadTexts(object, "owners", entry.owners));
  PAVISE_RETURN_IF_ERROR(ReadTexts(object, "recipients", entry.recipients));
  PAVISE_RETURN_IF_ERROR(ReadText(object, "session", entry.session));
  PAVISE_RETURN_IF_ERROR(ReadText(object, "machine", entry.machine));
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "evidence", entry.evidence));
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "decision", entry.decision));
  PAVISE_RETURN_IF_ERROR(ReadHex(object, "statement", entry.statement));
  PAVISE_RETURN_IF_ERROR(ReadText(object, "key", entry.key));
  PAVISE_RETURN_IF_ERROR(ReadText(object, "previous_key", entry.previous_key));
  return ReadReasons(object, entry.reasons);
}

// Printable, at most so many bytes, cut between characters.
std::string Shortened(std::string_view text, size_t max_bytes) {
  std::string printable = Printable(text);
  if (printable.size() <= max_bytes) return printable;
  constexpr std::string_view kCut = "...";
  size_t end = max_bytes - kCut.size();
  while (end > 0 && (static_cast<uint8_t>(printable[end]) & 0xc0) == 0x80) --end;
  return StrCat(std::string_view(printable).substr(0, end), kCut);
}

}  // namespace

std::string_view EntryKindName(EntryKind kind) { return RuleOf(kind).name; }

absl::StatusOr<EntryKind> EntryKindFrom(std::string_view name, std::string_view item) {
  for (const KindRule& rule : kKinds) {
    if (rule.name == name) return rule.kind;
  }
  return Refuse(Reason::kMalformed, item, "is no kind of ledger entry");
}

std::vector<EntryReason> EntryReasons(std::span<const Refusal> findings) {
  std::vector<EntryReason> reasons;
  for (const Refusal& finding : findings.first(std::min(findings.size(), kMaxEntryReasons))) {
    reasons.push_back({std::string(ReasonName(finding.reason)),
                       Shortened(finding.item, kMaxEntryTextBytes),
                       Shortened(finding.detail, kMaxEntryTextBytes)});
  }
  return reasons;
}

absl::StatusOr<std::array<uint8_t, 16>> NewSalt(RandomSource& random) {
  std::array<uint8_t, 16> salt{};
  PAVISE_RETURN_IF_ERROR(random.Fill(salt));
  return salt;
}

absl::StatusOr<std::string> FormatEntry(const LedgerEntry& entry) {
  if (const std::string fault = FaultOf(entry); !fault.empty()) {
    return UsageError(StrCat("a ledger entry: ", fault));
  }
  PAVISE_ASSIGN_OR_RETURN(std::string text, CanonicalJson(ToJson(entry), "ledger entry"));
  if (text.size() > kMaxEntryBytes) {
    return UsageError(StrCat("a ledger entry: larger than ", kMaxEntryBytes, " bytes"));
  }
  return text;
}

absl::StatusOr<LedgerEntry> ParseEntry(ByteSpan text, std::string_view item) {
  JsonLimits limits;
  limits.max_bytes = kMaxEntryBytes;
  limits.max_depth = 4;
  limits.max_values = 1000;
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, item, limits));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_ASSIGN_OR_RETURN(const std::string format, object.GetString("format"));
  if (format != kFormat) {
    return Refuse(Reason::kUnsupported, object.PathOf("format"), StrCat("is not ", kFormat),
                  "a later version of pavise may read it");
  }
  LedgerEntry entry;
  PAVISE_RETURN_IF_ERROR(ReadMembers(object, entry));
  if (const std::string fault = FaultOf(entry); !fault.empty()) {
    return Refuse(Reason::kMalformed, item, fault);
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string canonical, CanonicalJson(ToJson(entry), item));
  if (canonical != AsText(text)) {
    return Refuse(Reason::kMalformed, item, "is not written as RFC 8785 and the format say");
  }
  return entry;
}

}  // namespace pavise::ledger
