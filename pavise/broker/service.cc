#include "pavise/broker/service.h"

#include <malloc.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/simdjson/long_json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/broker/agreement_reader.h"
#include "pavise/broker/owner_request.h"
#include "pavise/broker/refusal_budget.h"
#include "pavise/broker/run_record.h"
#include "pavise/broker/session_table.h"
#include "pavise/broker/store_ledger.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"
#include "pavise/crypto/jwe.h"
#include "pavise/evidence/appraise/composite/attestation_result.h"
#include "pavise/kbs/messages.h"
#include "pavise/kbs/problem.h"
#include "pavise/kbs/resource_path.h"
#include "pavise/ledger/bundle.h"
#include "pavise/ledger/entry.h"
#include "pavise/policy/decision.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace pavise::broker {
namespace {

using kbs::ProblemKind;
using ledger::EntryKind;
using ledger::LedgerEntry;
using policy::AgreementInForce;
using ResponseOr = absl::StatusOr<HttpResponse>;
using ViewPointer = std::shared_ptr<const AgreementView>;

constexpr std::string_view kOwnerPrefix = "/pavise/v1/";
constexpr uint64_t kSmallBodyBytes = 64u << 10;
constexpr uint64_t kStatementBodyBytes = 24u << 20;  // base64 of an envelope of 16 MiB
constexpr uint64_t kAttachmentBytes = 16u << 20;
constexpr size_t kMostListed = 200;
constexpr size_t kMostListedAgreements = 50;
constexpr size_t kMostProposingPeers = 100'000;
constexpr size_t kMostVersionsInToken = 256;
constexpr size_t kMostPrepared = 256;
constexpr size_t kMostDeposits = 1024;
constexpr size_t kMostEarlier = 100;
// Rows of Table::kMeta.
constexpr std::string_view kClock = "clock";
constexpr std::string_view kLatest = "latest";
constexpr std::string_view kAgreementsGroup = "agreements";
constexpr std::string_view kSequenceGroup = "sequence";
// In place of an agreement, of requests for the broker's evidence.
constexpr std::string_view kOwnEvidence = "evidence";
constexpr std::string_view kInForceGroup = "in-force";

// A refusal with what it is to HTTP. Carried through StatusOr by its payload-free twin: handlers
// set `kind` before they return an error.
struct Call {
  const HttpRequest& request;
  std::string route = "unknown";  // for metrics and logs: a pattern, never what the client sent
  ProblemKind kind = ProblemKind::kSerdeError;  // of the next error
  OrderedJson log = OrderedJson::object();
  // To whom its refusal counts: an attested session's key, else the peer. So nobody who shares an
  // address with a machine keeps it from being appraised again.
  std::string source = request.peer;
};

absl::Status NotFound(std::string_view item) {
  return Refuse(Reason::kFileMissing, item, "is not there, or is not yours to read");
}

HttpResponse JsonResponse(const OrderedJson& body, int status = 200) {
  HttpResponse response;
  response.status = status;
  response.body = DumpJson(body, -1);
  return response;
}

std::string GroupOf(std::string_view kind, std::string_view agreement) {
  return StrCat(kind, "/", agreement);
}

std::array<uint8_t, 16> RunBytes(const std::string& hex) {
  std::array<uint8_t, 16> bytes{};
  const auto parsed = FromHex(hex, "run");
  if (parsed.ok() && parsed->size() == bytes.size()) {
    std::copy(parsed->begin(), parsed->end(), bytes.begin());
  }
  return bytes;
}

// Text that may come from hostile evidence, as an entry takes it.
std::string Bounded(std::string_view text, size_t max_bytes) {
  std::string printable = Printable(text);
  if (printable.size() > max_bytes) {
    printable.resize(max_bytes);
    // Not in the middle of a character.
    while (!IsUtf8(printable)) printable.pop_back();
  }
  return printable;
}

std::vector<ledger::EntryReason> ReasonsOf(const policy::Decision& decision) {
  std::vector<ledger::EntryReason> reasons;
  for (const policy::RuleResult& rule : decision.rules) {
    if (!rule.refusal.has_value() || reasons.size() == ledger::kMaxEntryReasons) continue;
    reasons.push_back({std::string(ReasonName(rule.refusal->reason)),
                       Bounded(rule.rule, ledger::kMaxEntryNameBytes),
                       Bounded(StrCat(rule.refusal->item, ": ", rule.refusal->detail),
                               ledger::kMaxEntryTextBytes)});
  }
  return reasons;
}

std::vector<std::string> KeyIdsOf(const policy::Agreement& agreement,
                                  const std::set<std::string>& stakeholders) {
  std::set<std::string> ids;
  for (const std::string& name : stakeholders) {
    if (const auto found = agreement.stakeholders.find(name);
        found != agreement.stakeholders.end()) {
      ids.insert(found->second.signing_key.Fingerprint());
    }
  }
  return {ids.begin(), ids.end()};
}

// Every version that was in force, by number, so that a run under one of them can name it. A text
// carries its predecessor's digest.
Json VersionsOf(const AgreementInForce& in_force) {
  Json versions = Json::object();
  Digest32 payload = in_force->payload;
  for (auto each = in_force->versions.rbegin(); each != in_force->versions.rend(); ++each) {
    versions[std::to_string(each->first)] = ToHex(payload);
    if (!each->second->previous.has_value() || versions.size() == kMostVersionsInToken) break;
    payload = *each->second->previous;
  }
  return versions;
}

// That refusals were not recorded one by one.
LedgerEntry EntryOf(const RefusalBudget::Unrecorded& unrecorded) {
  const auto text = [](absl::Time time) {
    return absl::FormatTime(absl::RFC3339_sec, time, absl::UTCTimeZone());
  };
  LedgerEntry entry;
  entry.kind = EntryKind::kRefusal;
  entry.reasons.push_back({std::string(ReasonName(Reason::kLimitExceeded)), "refusals",
                           StrCat(unrecorded.count, " more from ", text(unrecorded.first), " to ",
                                  text(unrecorded.last), ", too many to record one by one")});
  return entry;
}

// Devices of an accepted machine.
std::set<std::string> MachinesOf(const policy::StageAppraisal& appraisal) {
  std::set<std::string> machines;
  for (const evidence::PartClaims& part : (*appraisal->composite())->parts) {
    machines.insert(part.machine_ids.begin(), part.machine_ids.end());
  }
  return machines;
}

std::string MachineOf(const policy::StageAppraisal& appraisal) {
  const evidence::VerifiedComposite* const composite = appraisal->composite();
  return composite == nullptr ? "" : Bounded((*composite)->machine, ledger::kMaxEntryTextBytes);
}

}  // namespace

std::string DepositBinding(std::string_view agreement, std::string_view asset,
                           const Digest32& sealed, std::string_view depositor) {
  return StrCat("pavise-deposit/2 ", agreement, " ", asset, " ", ToHex(sealed), " ", depositor);
}

std::string OutputBinding(std::string_view run, std::string_view output, const Digest32& sealed) {
  return StrCat("pavise-output/1 ", run, " ", output, " ", ToHex(sealed));
}

absl::StatusOr<Digest32> BrokerEvidenceNonce(const Digest32& challenge, std::string_view signing,
                                             std::string_view ledger) {
  return crypto::Sha256(
      AsBytes(StrCat("pavise-broker-evidence/1 ", ToHex(challenge), " ", signing, " ", ledger)));
}

// One transaction's writes, and the ledger entries that go with them.
class Act {
 public:
  Act(StoreTransaction& store, absl::Time clock, RandomSource& random)
      : store_(store), clock_(clock), random_(random) {}

  // The time of everything in it: never before that of the last one.
  absl::Status Begin() {
    PAVISE_ASSIGN_OR_RETURN(const auto latest, store_.Get(Table::kMeta, kClock, kLatest));
    int64_t micros = absl::ToUnixMicros(clock_);
    if (latest.has_value()) {
      int64_t last = 0;
      if (!absl::SimpleAtoi(ToAbsl(latest->RevealText()), &last)) {
        return MachineFailure("store", "the time of the last entry does not parse");
      }
      micros = std::max(micros, last);
    }
    now_ = absl::FromUnixMicros(micros);
    return store_.Put(Table::kMeta, kClock, kLatest, SecretBytes(std::to_string(micros)));
  }

  StoreTransaction& store() { return store_; }
  absl::Time now() const { return now_; }

  void Add(LedgerEntry entry) { entries_.push_back(std::move(entry)); }

  // A record beside the owners' decision, under the decision's digest, which is returned.
  absl::StatusOr<Digest32> Keep(const std::string& agreement, const OrderedJson& decision) {
    const std::string text = DumpJson(decision, -1);
    PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, crypto::Sha256(AsBytes(text)));
    PAVISE_RETURN_IF_ERROR(
        store_.Put(Table::kDecisions, agreement, ToHex(digest), SecretBytes(text)));
    return digest;
  }

  // That the version is in force stands in the ledger before anything that rests on it.
  absl::Status NoteInForce(const AgreementView& view) {
    if (!view.in_force.has_value()) return absl::OkStatus();
    const AgreementInForce& in_force = *view.in_force;
    const std::string version = std::to_string(in_force->agreement->version);
    PAVISE_ASSIGN_OR_RETURN(const auto noted, store_.Get(Table::kMeta, kInForceGroup, view.id));
    if (noted.has_value() && noted->RevealText() == version) return absl::OkStatus();
    LedgerEntry entry;
    entry.kind = EntryKind::kAgreementInForce;
    entry.agreement = in_force->id;
    entry.version = in_force->agreement->version;
    Add(std::move(entry));
    return store_.Put(Table::kMeta, kInForceGroup, view.id, SecretBytes(version));
  }

  // Writes the entries. `first_index`: of the first of them.
  absl::Status Finish(uint64_t* first_index, std::vector<EntryKind>* kinds) {
    kinds->clear();
    if (entries_.empty()) return absl::OkStatus();
    std::vector<std::string> texts;
    for (LedgerEntry& entry : entries_) {
      entry.time = now_;
      PAVISE_ASSIGN_OR_RETURN(entry.salt, ledger::NewSalt(random_));
      if (entry.agreement.has_value()) {
        const std::string id = ToHex(*entry.agreement);
        PAVISE_ASSIGN_OR_RETURN(const auto last, store_.Get(Table::kMeta, kSequenceGroup, id));
        uint64_t sequence = 0;
        if (last.has_value() && !absl::SimpleAtoi(ToAbsl(last->RevealText()), &sequence)) {
          return MachineFailure("store", "an agreement's count of entries does not parse");
        }
        entry.sequence = sequence + 1;
        PAVISE_RETURN_IF_ERROR(store_.Put(Table::kMeta, kSequenceGroup, id,
                                          SecretBytes(std::to_string(entry.sequence))));
      }
      PAVISE_ASSIGN_OR_RETURN(std::string text, ledger::FormatEntry(entry));
      texts.push_back(std::move(text));
      kinds->push_back(entry.kind);
    }
    PAVISE_ASSIGN_OR_RETURN(const LedgerState state, AppendToLedger(store_, texts));
    *first_index = state.size - texts.size();
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (!entries_[i].agreement.has_value()) continue;
      const std::string index = std::to_string(*first_index + i);
      PAVISE_RETURN_IF_ERROR(store_.Put(Table::kMeta,
                                        GroupOf("ledger", ToHex(*entries_[i].agreement)), index,
                                        SecretBytes(index)));
    }
    return absl::OkStatus();
  }
  size_t entry_count() const { return entries_.size(); }

 private:
  StoreTransaction& store_;
  const absl::Time clock_;
  RandomSource& random_;
  absl::Time now_;
  std::vector<LedgerEntry> entries_;
};

class Service::State {
 public:
  State(const ServiceOptions& options, BrokerKeys keys, absl::Time start)
      : options_(options),
        keys_(std::move(keys)),
        signing_id_(keys_.signing.public_key().Fingerprint()),
        sessions_(options.max_challenges, options.max_sessions),
        requests_(start),
        refusal_budget_(options.refusals_recorded_of_source,
                        options.refusals_recorded_of_agreement) {}
  ~State() {
    for (const auto& [agreement, unrecorded] : refusal_budget_.DrainAll()) {
      (void)Record(agreement, unrecorded);
    }
  }

  static const Clock& ClockOf(const ServiceOptions& options) {
    return options.clock != nullptr ? *options.clock : SystemClock();
  }
  static RandomSource& RandomOf(const ServiceOptions& options) {
    return options.random != nullptr ? *options.random : SystemRandom();
  }
  // One transaction with its entries. `first_index` and `kinds` may be looked at after an OK.
  static absl::Status Commit(const ServiceOptions& options,
                             const std::function<absl::Status(Act&)>& work, uint64_t* first_index);

  HttpResponse Handle(const HttpRequest& request);
  void UpdateMetrics();
  const BrokerKeys& keys() const { return keys_; }
  const ServiceOptions& options() const { return options_; }

 private:
  // The machine's side.
  ResponseOr Auth(Call& call);
  ResponseOr Attest(Call& call);
  ResponseOr Resource(Call& call, std::string_view path);
  ResponseOr ShowSession(Call& call);
  ResponseOr ShowSessionAgreement(Call& call);
  ResponseOr DepositOutput(Call& call, const std::string& run);
  ResponseOr ReportProgress(Call& call, const std::string& run);
  ResponseOr EndRun(Call& call, const std::string& run);
  // Everybody's.
  ResponseOr Health(Call& call);
  ResponseOr ShowBroker();
  ResponseOr AttestBroker(Call& call);
  ResponseOr ShowCheckpoint();
  ResponseOr ShowConsistency(Call& call);
  // Owners'.
  ResponseOr RouteOwner(Call& call, const std::vector<std::string>& parts);
  ResponseOr TakeStatement(Call& call, const std::string& agreement, std::string_view payload_type);
  ResponseOr TakeDeposit(Call& call, const std::string& agreement);
  ResponseOr TakeOutputApproval(Call& call, const std::string& agreement);
  ResponseOr ListAgreements(Call& call, const VerifiedOwnerCall& owner);
  ResponseOr ShowAgreement(const AgreementView& view);
  ResponseOr ShowStatements(const AgreementView& view);
  ResponseOr TakeAttachment(Call& call, const AgreementView& view, const std::string& digest);
  ResponseOr ShowDecisions(Call& call, const AgreementView& view);
  ResponseOr ShowDecision(const AgreementView& view, const std::string& digest);
  ResponseOr ShowAttachment(const AgreementView& view, const std::string& name);
  ResponseOr ShowRuns(const AgreementView& view);
  ResponseOr ReleaseOutput(Call& call, const AgreementView& view, const std::string& owner_key_id,
                           const std::string& run, const std::string& output);
  ResponseOr ShowLedger(Call& call, const AgreementView& view);

  ResponseOr Route(Call& call);
  absl::Time Now() const { return ClockOf(options_).Now(); }
  absl::Status Commit(const std::function<absl::Status(Act&)>& work, uint64_t* first_index);
  absl::StatusOr<ViewPointer> View(const std::string& agreement);
  // Who signed the call: anybody with a key.
  absl::StatusOr<VerifiedOwnerCall> Authenticate(Call& call);
  // That it is neither old nor a replay. Asked once the caller is known to be a stakeholder, so
  // that keys which anybody can make do not fill the memory that this takes.
  absl::Status TakeOnce(Call& call, const VerifiedOwnerCall& owner);
  absl::StatusOr<std::shared_ptr<const AttestedSession>> SessionOf(Call& call);
  // What was prepared for the version in force, or nullptr.
  std::shared_ptr<const policy::StageEvidence> FindPrepared(const ViewPointer& view,
                                                            const std::string& stage,
                                                            policy::Mode mode);
  absl::StatusOr<std::shared_ptr<const policy::StageEvidence>> Prepare(StoreReader& reader,
                                                                       const ViewPointer& view,
                                                                       const std::string& stage,
                                                                       policy::Mode mode);
  // nullopt: it does not verify. The same text under the same view is not verified again.
  std::optional<policy::VerifiedDeposit> CheckDeposit(const ViewPointer& view,
                                                      const std::string& asset,
                                                      const DepositRecord& record);
  absl::StatusOr<SecretBytes> OpenForBroker(const Json& message, const std::string& key_id,
                                            std::string_view item, std::string_view binding);
  // That the key was ever a stakeholder's of the agreement, as a row of the store says: before
  // anything is replayed for whoever asks.
  absl::StatusOr<crypto::PublicKey> ReaderKey(const std::string& agreement,
                                              const std::string& key_id);
  // That the envelope's one signature is such a key's. Whose, and what it may say, the agreement's
  // history knows.
  absl::Status CheckSigned(const std::string& agreement, const crypto::Envelope& envelope);
  // All statements are replayed with each new one, while other tenants wait.
  absl::Status CheckStatementsOf(const crypto::Envelope& envelope,
                                 const std::vector<StoredStatement>& statements) const;
  // Refused requests cost an appraisal each: one source makes so many a minute, and no more.
  absl::Status CheckRefusals(Call& call, const std::string& agreement);
  void CountRefusal(const Call& call, const std::string& agreement);
  // Writes the entry for refusals that have none, where it is due. Nothing is lost where that
  // fails.
  void NoteUnrecorded(const std::string& agreement, bool at_once);
  absl::Status Record(const std::string& agreement, const RefusalBudget::Unrecorded& unrecorded);
  // `digest`: of the decision, where it was kept.
  absl::Status ForHost(const AgreementView& view, const std::string& stage,
                       const policy::Decision& decision,
                       const std::optional<Digest32>& digest) const;
  // That this peer may bring one more agreement; counts it.
  absl::Status TakeProposal(Call& call);
  absl::StatusOr<ledger::CheckpointNote> SignedCheckpoint(uint64_t size, const Digest32& root);

  const ServiceOptions options_;
  BrokerKeys keys_;
  const std::string signing_id_;
  SessionTable sessions_;
  RequestMemory requests_;
  AgreementReader agreements_;
  std::mutex key_mutex_;  // keys are for one thread at a time
  std::mutex attester_mutex_;
  std::mutex prepared_mutex_;
  std::map<std::string, std::shared_ptr<const policy::StageEvidence>> prepared_;
  struct CheckedDeposit {
    ViewPointer view;
    std::string envelope;
    policy::VerifiedDeposit deposit;
  };
  std::mutex deposits_mutex_;
  std::map<std::pair<std::string, std::string>, CheckedDeposit> deposits_;  // agreement, asset
  std::mutex refusals_mutex_;
  absl::Time refusals_since_;
  std::map<std::pair<std::string, std::string>, uint32_t> refusals_;
  RefusalBudget refusal_budget_;
  std::mutex proposals_mutex_;
  absl::Time proposals_since_;
  std::map<std::string, uint32_t> proposals_;  // by peer, since then
};

absl::Status Service::State::Commit(const ServiceOptions& options,
                                    const std::function<absl::Status(Act&)>& work,
                                    uint64_t* first_index) {
  std::vector<EntryKind> kinds;
  uint64_t index = 0;
  const absl::Status committed = options.store->Commit([&](StoreTransaction& store) {
    Act act(store, ClockOf(options).Now(), RandomOf(options));
    PAVISE_RETURN_IF_ERROR(act.Begin());
    PAVISE_RETURN_IF_ERROR(work(act));
    return act.Finish(&index, &kinds);
  });
  PAVISE_RETURN_IF_ERROR(committed);
  if (first_index != nullptr) *first_index = index;
  if (options.metrics != nullptr) {
    for (const EntryKind kind : kinds) options.metrics->CountEvent(ledger::EntryKindName(kind));
  }
  return absl::OkStatus();
}

absl::Status Service::State::Commit(const std::function<absl::Status(Act&)>& work,
                                    uint64_t* first_index) {
  return Commit(options_, work, first_index);
}

absl::StatusOr<ViewPointer> Service::State::View(const std::string& agreement) {
  ViewPointer view;
  const absl::Status read = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(view, agreements_.Load(reader, agreement, Now(), /*is_durable=*/true));
    return absl::OkStatus();
  });
  PAVISE_RETURN_IF_ERROR(read);
  return view;
}

// ---- who calls ----

absl::StatusOr<VerifiedOwnerCall> Service::State::Authenticate(Call& call) {
  call.kind = ProblemKind::kAdminAuth;
  const HttpRequest& request = call.request;
  const auto header = request.headers.find(std::string(kRequestHeader));
  if (header == request.headers.end()) {
    return Refuse(Reason::kEvidenceMissing, "Pavise-Request", "the call is not signed",
                  "sign it with an owner's key");
  }
  const std::string target =
      request.query.empty() ? request.path : StrCat(request.path, "?", request.query);
  PAVISE_ASSIGN_OR_RETURN(VerifiedOwnerCall owner,
                          VerifyOwnerCall(header->second, {signing_id_, request.method, target,
                                                           AsBytes(request.body)}));
  call.log["owner"] = owner.key_id;
  call.kind = ProblemKind::kSerdeError;
  return owner;
}

absl::Status Service::State::TakeOnce(Call& call, const VerifiedOwnerCall& owner) {
  call.kind = ProblemKind::kAdminAuth;
  PAVISE_RETURN_IF_ERROR(requests_.Take(owner, Now()));
  call.kind = ProblemKind::kSerdeError;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const AttestedSession>> Service::State::SessionOf(Call& call) {
  call.kind = ProblemKind::kTokenNotFound;
  std::shared_ptr<const AttestedSession> session;
  constexpr std::string_view kBearer = "Bearer ";
  const auto authorization = call.request.headers.find("authorization");
  if (authorization != call.request.headers.end() &&
      absl::StartsWith(authorization->second, ToAbsl(kBearer))) {
    PAVISE_ASSIGN_OR_RETURN(
        const Digest32 digest,
        crypto::Sha256(AsBytes(std::string_view(authorization->second).substr(kBearer.size()))));
    session = sessions_.FindByToken(digest);
  } else if (const auto cookie = call.request.headers.find("cookie");
             cookie != call.request.headers.end()) {
    PAVISE_ASSIGN_OR_RETURN(const std::string id, kbs::SessionIdOfCookie(cookie->second, "cookie"));
    session = sessions_.Find(id);
  }
  if (session == nullptr) {
    return Refuse(Reason::kEvidenceMissing, "session", "not attested, or forgotten since",
                  "attest again: auth, then attest, with the same session key");
  }
  call.log["session"] = session->key_id;
  call.log["agreement"] = session->purpose.agreement;
  call.source = session->key_id;
  call.kind = ProblemKind::kSerdeError;
  return session;
}

// What a decision tells the attesting machine: all of it where the agreement says so, else the
// typed reasons, and under which digest an owner reads the rest.
absl::Status Service::State::ForHost(const AgreementView& view, const std::string& stage,
                                     const policy::Decision& decision,
                                     const std::optional<Digest32>& digest) const {
  const policy::Agreement& agreement = *(*view.in_force)->agreement;
  const auto found = agreement.stages.find(stage);
  if (found != agreement.stages.end() && found->second.findings_to_host) return decision.Verdict();
  std::vector<Refusal> findings;
  std::set<Reason> told;
  for (const policy::RuleResult& rule : decision.rules) {
    if (!rule.refusal.has_value() || !told.insert(rule.refusal->reason).second) continue;
    const bool is_evidence = absl::StartsWith(rule.rule, "evidence");
    findings.push_back({rule.refusal->reason, is_evidence ? "evidence" : "agreement",
                        is_evidence ? "an owner's evidence rule refuses this machine"
                                    : "a rule of the agreement says no",
                        digest.has_value()
                            ? StrCat("an owner can read why in decision ", ToHex(*digest))
                            : "an owner can read why in the decisions before this one"});
  }
  if (findings.empty()) return decision.Verdict();
  return Refuse(std::move(findings));
}

absl::StatusOr<crypto::PublicKey> Service::State::ReaderKey(const std::string& agreement,
                                                            const std::string& key_id) {
  std::optional<SecretBytes> pem;
  PAVISE_RETURN_IF_ERROR(options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(pem,
                            reader.Get(Table::kMeta, GroupOf(kAgreementsGroup, key_id), agreement));
    return absl::OkStatus();
  }));
  if (!pem.has_value()) {
    return Refuse(Reason::kSignerUntrusted, StrCat("key ", Printable(key_id)),
                  "is no stakeholder's of such an agreement here",
                  "sign with the key that the agreement names for you");
  }
  return crypto::PublicKey::FromPem(pem->RevealText(), "stakeholder's key");
}

absl::Status Service::State::CheckSigned(const std::string& agreement,
                                         const crypto::Envelope& envelope) {
  if (envelope.signatures.size() != 1) {
    return Refuse(Reason::kMalformed, "statement", "exactly one signature belongs here");
  }
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key,
                          ReaderKey(agreement, envelope.signatures.front().key_id));
  return crypto::VerifyEnvelope(envelope, envelope.payload_type, key, "statement");
}

absl::Status Service::State::CheckStatementsOf(
    const crypto::Envelope& envelope, const std::vector<StoredStatement>& statements) const {
  // Nobody fills an agreement so that its owners could not withdraw from it.
  constexpr size_t kMostWithdrawalsOfKey = 50;
  if (statements.size() < std::min(options_.statements_of_key, options_.statements_of_agreement)) {
    return absl::OkStatus();
  }
  const std::string& signer = envelope.signatures.front().key_id;
  size_t count = 0;
  size_t withdrawals = 0;
  for (const StoredStatement& statement : statements) {
    PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope each,
                            crypto::ParseEnvelope(AsBytes(statement.envelope), "statement"));
    if (each.signatures.front().key_id != signer) continue;
    ++count;
    withdrawals += each.payload_type == policy::kWithdrawalType;
  }
  if (envelope.payload_type == policy::kWithdrawalType && withdrawals < kMostWithdrawalsOfKey) {
    return absl::OkStatus();
  }
  if (statements.size() >= options_.statements_of_agreement) {
    return Refuse(Reason::kLimitExceeded, "statement",
                  StrCat("the agreement has ", statements.size(), " statements"),
                  "have the owners go on with a new agreement");
  }
  if (count < options_.statements_of_key) return absl::OkStatus();
  return Refuse(Reason::kLimitExceeded, "statement",
                StrCat("this key has signed ", count, " statements of the agreement"),
                "have the owners put a version with another key in force");
}

absl::Status Service::State::CheckRefusals(Call& call, const std::string& agreement) {
  const std::scoped_lock lock(refusals_mutex_);
  const absl::Time now = Now();
  if (now - refusals_since_ > absl::Minutes(1) || now < refusals_since_) {
    refusals_since_ = now;
    refusals_.clear();
  }
  const auto found = refusals_.find({agreement, call.source});
  if (found == refusals_.end() || found->second < options_.refusals_a_minute) {
    return absl::OkStatus();
  }
  call.kind = ProblemKind::kTooManyRequests;
  return Refuse(Reason::kLimitExceeded, "requests", "too many of their kind in this minute",
                "try again in a minute");
}

void Service::State::CountRefusal(const Call& call, const std::string& agreement) {
  const std::scoped_lock lock(refusals_mutex_);
  ++refusals_[{agreement, call.source}];
}

absl::Status Service::State::Record(const std::string& agreement,
                                    const RefusalBudget::Unrecorded& unrecorded) {
  return Commit(
      [&](Act& act) -> absl::Status {
        LedgerEntry entry = EntryOf(unrecorded);
        PAVISE_ASSIGN_OR_RETURN(entry.agreement, Digest32FromHex(agreement, "agreement"));
        act.Add(std::move(entry));
        return absl::OkStatus();
      },
      nullptr);
}

void Service::State::NoteUnrecorded(const std::string& agreement, bool at_once) {
  const auto unrecorded = refusal_budget_.Drain(agreement, Now(), at_once);
  if (!unrecorded.has_value() || Record(agreement, *unrecorded).ok()) return;
  refusal_budget_.Restore(agreement, *unrecorded);
}

absl::Status Service::State::TakeProposal(Call& call) {
  if (!options_.proposers.empty()) return absl::OkStatus();
  const std::scoped_lock lock(proposals_mutex_);
  const absl::Time now = Now();
  if (now - proposals_since_ >= absl::Hours(1)) {
    proposals_since_ = now;
    proposals_.clear();
  }
  const auto found = proposals_.find(call.request.peer);
  if (found == proposals_.end() ? proposals_.size() >= kMostProposingPeers
                                : found->second >= options_.agreements_an_hour) {
    call.kind = ProblemKind::kTooManyRequests;
    return Refuse(Reason::kLimitExceeded, "agreement", "too many new ones came from here",
                  "try again in an hour, or ask the broker's operator for proposers");
  }
  ++proposals_[call.request.peer];
  return absl::OkStatus();
}

std::shared_ptr<const policy::StageEvidence> Service::State::FindPrepared(const ViewPointer& view,
                                                                          const std::string& stage,
                                                                          policy::Mode mode) {
  if (view == nullptr || !view->in_force.has_value()) return nullptr;
  const AgreementInForce& in_force = *view->in_force;
  const std::scoped_lock lock(prepared_mutex_);
  const auto found = prepared_.find(
      policy::Scope{in_force->id, in_force->agreement->version, stage, mode}.PolicyId());
  return found == prepared_.end() ? nullptr : found->second;
}

absl::StatusOr<std::shared_ptr<const policy::StageEvidence>> Service::State::Prepare(
    StoreReader& reader, const ViewPointer& view, const std::string& stage, policy::Mode mode) {
  if (auto prepared = FindPrepared(view, stage, mode); prepared != nullptr) return prepared;
  const AgreementInForce& in_force = *view->in_force;
  PAVISE_ASSIGN_OR_RETURN(
      policy::StageEvidence evidence,
      policy::StageEvidence::Prepare(in_force, stage, mode, StoredAttachments(reader, view->id)));
  auto prepared = std::make_shared<const policy::StageEvidence>(std::move(evidence));
  const std::scoped_lock lock(prepared_mutex_);
  if (prepared_.size() >= kMostPrepared) prepared_.clear();
  prepared_[prepared->scope().PolicyId()] = prepared;
  return prepared;
}

std::optional<policy::VerifiedDeposit> Service::State::CheckDeposit(const ViewPointer& view,
                                                                    const std::string& asset,
                                                                    const DepositRecord& record) {
  const std::pair<std::string, std::string> name(view->id, asset);
  {
    const std::scoped_lock lock(deposits_mutex_);
    if (const auto found = deposits_.find(name);
        found != deposits_.end() && found->second.view == view &&
        found->second.envelope == record.envelope &&
        found->second.deposit->deposit.broker == record.broker_key_id) {
      return found->second.deposit;
    }
  }
  auto checked = policy::DepositVerifier::Verify(AsBytes(record.envelope), *view->in_force,
                                                 record.broker_key_id);
  if (!checked.ok()) return std::nullopt;
  const std::scoped_lock lock(deposits_mutex_);
  if (deposits_.size() >= kMostDeposits) deposits_.clear();
  deposits_.insert_or_assign(name, CheckedDeposit{view, record.envelope, *checked});
  return *std::move(checked);
}

absl::StatusOr<SecretBytes> Service::State::OpenForBroker(const Json& message,
                                                          const std::string& key_id,
                                                          std::string_view item,
                                                          std::string_view binding) {
  const std::scoped_lock lock(key_mutex_);
  const auto found = keys_.encryption.find(key_id);
  if (found == keys_.encryption.end()) {
    return Refuse(Reason::kKeyMismatch, item, "encrypted to a key that is not this broker's",
                  StrCat("encrypt to ", keys_.encryption_id));
  }
  return crypto::DecryptJwe(message, found->second, item, AsBytes(binding));
}

// ---- the key broker protocol ----

ResponseOr Service::State::Auth(Call& call) {
  call.kind = ProblemKind::kAttestationError;
  PAVISE_ASSIGN_OR_RETURN(const kbs::AuthRequest request,
                          kbs::ParseAuthRequest(AsBytes(call.request.body), "auth request"));
  if (request.tee != kbs::Tee::kPavise) {
    return Refuse(Reason::kUnsupported, kbs::TeeName(request.tee),
                  "a raw report names neither agreement nor the parts that it belongs to",
                  "send it as a part of composite evidence, under tee pavise");
  }
  if (!request.purpose.has_value()) {
    return Refuse(Reason::kEvidenceMissing, "extra-params", "no agreement, stage and mode",
                  "name them in extra-params");
  }
  if (!policy::ModeNamed(request.purpose->mode).has_value()) {
    return Refuse(Reason::kUnsupported, request.purpose->mode, "no such mode",
                  "measured, tee or confidential-gpu");
  }
  PendingChallenge pending;
  pending.tee = request.tee;
  pending.purpose = *request.purpose;
  pending.expires = Now() + options_.challenge_lifetime;
  pending.source = call.request.peer;
  PAVISE_RETURN_IF_ERROR(RandomOf(options_).Fill(pending.challenge.nonce));
  PAVISE_ASSIGN_OR_RETURN(pending.challenge.hash_algorithm, kbs::ChooseHashAlgorithm(request));
  // A session that attests again keeps its cookie.
  std::string id;
  if (const auto cookie = call.request.headers.find("cookie");
      cookie != call.request.headers.end()) {
    PAVISE_ASSIGN_OR_RETURN(id, kbs::SessionIdOfCookie(cookie->second, "cookie"));
    if (sessions_.Find(id) == nullptr) id.clear();
  }
  if (id.empty()) {
    std::array<uint8_t, 32> random;
    PAVISE_RETURN_IF_ERROR(RandomOf(options_).Fill(random));
    id = ToBase64Url(random);
  }
  HttpResponse response;
  response.body = kbs::FormatChallenge(pending.challenge);
  response.headers.emplace_back(
      "Set-Cookie", StrCat(kbs::kSessionCookie, "=", id, "; Path=/; HttpOnly; SameSite=Strict"));
  sessions_.Challenge(id, std::move(pending));
  return response;
}

ResponseOr Service::State::Attest(Call& call) {
  call.kind = ProblemKind::kAttestationError;
  const auto cookie = call.request.headers.find("cookie");
  std::string id;
  if (cookie != call.request.headers.end()) {
    PAVISE_ASSIGN_OR_RETURN(id, kbs::SessionIdOfCookie(cookie->second, "cookie"));
  }
  // Used up now, whatever becomes of the evidence.
  const auto pending = sessions_.TakeChallenge(id, Now());
  if (!pending.has_value()) {
    return Refuse(Reason::kNonceMismatch, "session", "no challenge is open, or it has expired",
                  "begin with auth, and answer its nonce once");
  }
  const kbs::Purpose& purpose = pending->purpose;
  call.log["agreement"] = purpose.agreement;
  const auto attested = sessions_.Find(id);
  if (attested != nullptr) call.source = attested->key_id;
  PAVISE_RETURN_IF_ERROR(CheckRefusals(call, purpose.agreement));
  NoteUnrecorded(purpose.agreement, /*at_once=*/false);
  PAVISE_ASSIGN_OR_RETURN(Json message,
                          ParseLongJson(AsBytes(call.request.body), "attestation",
                                        kbs::AttestationLimits(options_.max_evidence_bytes)));
  PAVISE_ASSIGN_OR_RETURN(const kbs::Attestation attestation,
                          kbs::ReadAttestation(std::move(message), "attestation"));
  if (attestation.runtime_data.nonce != pending->challenge.nonce) {
    return Refuse(Reason::kNonceMismatch, "runtime-data", "answers another challenge",
                  "answer the nonce of this session's auth");
  }
  PAVISE_ASSIGN_OR_RETURN(const evidence::CompositeEvidence composite,
                          evidence::FromJsonValue(attestation.primary_evidence, "evidence"));
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key,
                          crypto::PublicKey::FromDer(composite.session_key, "session key"));
  if (!(key == attestation.runtime_data.key)) {
    return Refuse(Reason::kBindingMismatch, "tee-pubkey", "the evidence is for another session key",
                  "collect evidence for this key");
  }
  const std::string key_id = key.Fingerprint();
  call.log["session"] = key_id;
  const policy::Mode mode = *policy::ModeNamed(purpose.mode);

  // What this view of the store says decides whether the appraisal is worth a transaction.
  ViewPointer view;
  std::shared_ptr<const policy::StageEvidence> rules;
  const auto read_rules = [&]() -> absl::Status {
    const absl::Status read = options_.store->Read([&](StoreReader& reader) -> absl::Status {
      PAVISE_ASSIGN_OR_RETURN(view, agreements_.Load(reader, purpose.agreement, Now(), true));
      if (view == nullptr || !view->in_force.has_value()) {
        return Refuse(Reason::kPolicyDenied, "agreement", "no such agreement is in force here",
                      "its owners propose and approve it at this broker");
      }
      PAVISE_ASSIGN_OR_RETURN(rules, Prepare(reader, view, purpose.stage, mode));
      return absl::OkStatus();
    });
    // Files are parsed before this fails: as dear as an appraisal.
    if (!read.ok() && view != nullptr) CountRefusal(call, purpose.agreement);
    return read;
  };
  const auto appraise = [&] {
    return rules->Appraise(composite, pending->challenge.nonce, Now(), options_.recorded_tee);
  };
  // Where rules are known they most likely stand; the store is asked behind the appraisal.
  rules = FindPrepared(agreements_.Known(purpose.agreement), purpose.stage, mode);
  if (rules == nullptr) PAVISE_RETURN_IF_ERROR(read_rules());
  policy::StageAppraisal appraisal = appraise();

  // Who knows a session's public key, as every host does that relays for it, can send evidence that
  // names it. What stops a run is provably of its session: it comes with the session's own cookie,
  // or is signed by the machine that the run is on.
  const bool has_cookie = attested != nullptr && attested->key_id == key_id &&
                          attested->purpose.agreement == purpose.agreement;
  std::optional<policy::Decision> decision;
  Digest32 digest{};
  bool run_is_open = false;
  bool is_revocation = false;
  std::optional<bool> recorded;
  const auto is_recorded = [&] {
    if (!recorded.has_value()) {
      recorded = refusal_budget_.Take(purpose.agreement, call.source, Now());
    }
    return *recorded;
  };
  const auto decide = [&](StoreReader& reader, absl::Time now,
                          std::optional<RunRecord>& run) -> absl::Status {
    PAVISE_RETURN_IF_ERROR(CheckNotRevoked(reader, view->id, key_id));
    PAVISE_ASSIGN_OR_RETURN(run,
                            FindOpenRun(reader, view->id, purpose.stage, purpose.mode, key_id));
    PAVISE_ASSIGN_OR_RETURN(const policy::RunCounters counters,
                            ReadCounters(reader, view->id, purpose.stage, run));
    run_is_open = run.has_value();
    decision = run_is_open ? policy::DecideReattestation(*view->in_force, appraisal, counters, now)
                           : policy::DecideRun(*view->in_force, appraisal, counters, now);
    const std::set<std::string> signed_by = appraisal->SignedBy();
    is_revocation = run_is_open && !decision->allowed() &&
                    (has_cookie || std::any_of(signed_by.begin(), signed_by.end(),
                                               [&](const std::string& device) {
                                                 return run->machines.contains(device);
                                               }));
    return absl::OkStatus();
  };
  std::optional<RunRecord> run;
  bool is_another_version = false;
  const auto read_again = [&] {
    return options_.store->Read([&](StoreReader& reader) -> absl::Status {
      PAVISE_ASSIGN_OR_RETURN(view, agreements_.Load(reader, purpose.agreement, Now(), true));
      is_another_version = view == nullptr || !view->in_force.has_value() ||
                           appraisal->scope.version != (*view->in_force)->agreement->version;
      return is_another_version ? absl::OkStatus() : decide(reader, Now(), run);
    });
  };
  PAVISE_RETURN_IF_ERROR(read_again());
  if (is_another_version) {
    PAVISE_RETURN_IF_ERROR(read_rules());
    appraisal = appraise();
    PAVISE_RETURN_IF_ERROR(read_again());
    if (is_another_version) {
      return Refuse(Reason::kVersionTooOld, "agreement", "another version came in force meanwhile",
                    "attest again");
    }
  }
  if (!decision->allowed() && !is_revocation && !is_recorded()) {
    sessions_.Forget(id);
    CountRefusal(call, purpose.agreement);
    return ForHost(*view, purpose.stage, *decision, std::nullopt);
  }
  if (run_is_open || !decision->allowed()) {
    const absl::Status committed = Commit(
        [&](Act& act) -> absl::Status {
          PAVISE_ASSIGN_OR_RETURN(
              view, agreements_.Load(act.store(), purpose.agreement, act.now(), false));
          PAVISE_RETURN_IF_ERROR(decide(act.store(), act.now(), run));
          PAVISE_RETURN_IF_ERROR(act.NoteInForce(*view));
          PAVISE_ASSIGN_OR_RETURN(digest,
                                  act.Keep(view->id, {{"decision", decision->ToJson()},
                                                      {"session", key_id},
                                                      {"run", run_is_open ? Json(run->id) : Json()},
                                                      {"evidence", ToHex(appraisal->evidence)}}));
          if (!run_is_open && decision->allowed()) return absl::OkStatus();
          LedgerEntry entry;
          entry.agreement = (*view->in_force)->id;
          entry.version = appraisal->scope.version;
          entry.stage = purpose.stage;
          entry.mode = purpose.mode;
          entry.session = key_id;
          entry.machine = MachineOf(appraisal);
          entry.evidence = appraisal->evidence;
          entry.decision = digest;
          if (decision->allowed()) {
            entry.kind = EntryKind::kReattested;
            run->appraised = act.now();
            run->version = appraisal->scope.version;
          } else {
            entry.kind = is_revocation ? EntryKind::kRevocation : EntryKind::kRefusal;
            entry.reasons = ReasonsOf(*decision);
          }
          if (is_revocation) {
            entry.run = RunBytes(run->id);
            PAVISE_RETURN_IF_ERROR(CloseRun(act.store(), view->id, *run, RunState::kRevoked));
          } else if (decision->allowed()) {
            entry.run = RunBytes(run->id);
            PAVISE_RETURN_IF_ERROR(PutRun(act.store(), view->id, *run));
          }
          act.Add(std::move(entry));
          return absl::OkStatus();
        },
        nullptr);
    PAVISE_RETURN_IF_ERROR(committed);
  }
  if (!decision->allowed()) {
    sessions_.Forget(id);
    CountRefusal(call, purpose.agreement);
    call.kind = ProblemKind::kAttestationError;
    return ForHost(*view, purpose.stage, *decision, digest);
  }
  std::string token;
  {
    const std::scoped_lock lock(key_mutex_);
    PAVISE_ASSIGN_OR_RETURN(
        token, evidence::SignEar(*appraisal->composite(),
                                 {.policy_id = appraisal->scope.PolicyId(),
                                  .more = {{"pavise_agreement",
                                            {{"id", view->id},
                                             {"version", appraisal->scope.version},
                                             {"versions", VersionsOf(*view->in_force)}}}}},
                                 keys_.signing));
  }
  PAVISE_ASSIGN_OR_RETURN(const Digest32 token_digest, crypto::Sha256(AsBytes(token)));
  sessions_.Attest(
      id, token_digest,
      std::make_shared<const AttestedSession>(AttestedSession{
          purpose, key, key_id, appraisal, MachineOf(appraisal), MachinesOf(appraisal)}));
  HttpResponse response;
  response.body = kbs::FormatTokenResponse(token);
  return response;
}

ResponseOr Service::State::Resource(Call& call, std::string_view path) {
  PAVISE_ASSIGN_OR_RETURN(const auto session, SessionOf(call));
  call.kind = ProblemKind::kInvalidRequestPath;
  PAVISE_ASSIGN_OR_RETURN(const kbs::ResourcePath resource,
                          kbs::ParseResourcePath(path, "resource"));
  call.kind = ProblemKind::kPolicyDeny;
  const kbs::Purpose& purpose = session->purpose;
  if (resource.repository != purpose.agreement || resource.type != purpose.stage) {
    return Refuse(Reason::kBindingMismatch, "resource", "of another agreement or stage",
                  "attest for that agreement and stage");
  }
  PAVISE_RETURN_IF_ERROR(CheckRefusals(call, purpose.agreement));
  NoteUnrecorded(purpose.agreement, /*at_once=*/false);
  const std::string& asset = resource.tag;
  std::array<uint8_t, 16> new_run;
  PAVISE_RETURN_IF_ERROR(RandomOf(options_).Fill(new_run));

  ViewPointer view;
  std::optional<policy::Decision> decision;
  Digest32 digest{};
  SecretBytes content_key;
  std::string run_id;
  uint64_t entry_offset = 0;
  uint64_t first_index = 0;
  std::optional<bool> recorded;
  const absl::Status committed = Commit(
      [&](Act& act) -> absl::Status {
        StoreTransaction& store = act.store();
        content_key = SecretBytes();
        PAVISE_ASSIGN_OR_RETURN(view, agreements_.Load(store, purpose.agreement, act.now(), false));
        if (view == nullptr || !view->in_force.has_value()) {
          return Refuse(Reason::kPolicyDenied, "agreement", "no such agreement is in force here");
        }
        PAVISE_RETURN_IF_ERROR(CheckNotRevoked(store, view->id, session->key_id));
        PAVISE_ASSIGN_OR_RETURN(
            std::optional<RunRecord> run,
            FindOpenRun(store, view->id, purpose.stage, purpose.mode, session->key_id));
        if (!run.has_value()) {
          PAVISE_RETURN_IF_ERROR(CheckNotEnded(store, view->id, purpose.stage, session->key_id));
        }
        PAVISE_ASSIGN_OR_RETURN(policy::RunCounters counters,
                                ReadCounters(store, view->id, purpose.stage, run));
        PAVISE_ASSIGN_OR_RETURN(std::optional<DepositRecord> deposit,
                                ReadDeposit(store, view->id, asset));
        std::optional<policy::VerifiedDeposit> verified;
        if (deposit.has_value()) {
          // One that a later version of the agreement no longer fits counts as none.
          verified = CheckDeposit(view, asset, *deposit);
        }
        decision = policy::DecideKeyRelease(*view->in_force, session->appraisal, asset,
                                            verified.has_value() ? &*verified : nullptr, counters,
                                            act.now());
        if (!decision->allowed()) {
          if (!recorded.has_value()) {
            recorded = refusal_budget_.Take(purpose.agreement, call.source, Now());
          }
          if (!*recorded) return ForHost(*view, purpose.stage, *decision, std::nullopt);
        }
        PAVISE_RETURN_IF_ERROR(act.NoteInForce(*view));
        const AgreementInForce& in_force = *view->in_force;
        const policy::Agreement& agreement = *in_force->agreement;
        LedgerEntry entry;
        entry.agreement = in_force->id;
        entry.version = session->appraisal->scope.version;
        entry.stage = purpose.stage;
        entry.mode = purpose.mode;
        entry.session = session->key_id;
        entry.machine = session->machine;
        entry.evidence = session->appraisal->evidence;
        if (decision->allowed() && !run.has_value()) {
          run = RunRecord{.id = ToHex(new_run),
                          .stage = purpose.stage,
                          .mode = purpose.mode,
                          .first_version = agreement.version,
                          .version = agreement.version,
                          .session = session->key_id,
                          .machines = session->machines,
                          .begun = act.now(),
                          .appraised = session->appraisal->at};
          PAVISE_RETURN_IF_ERROR(BeginRun(store, view->id, *run, counters.runs_begun + 1));
          LedgerEntry begun = entry;
          begun.kind = EntryKind::kRunBegun;
          begun.run = new_run;
          act.Add(std::move(begun));
        }
        run_id = run.has_value() ? run->id : "";
        PAVISE_ASSIGN_OR_RETURN(
            digest, act.Keep(view->id, {{"decision", decision->ToJson()},
                                        {"session", session->key_id},
                                        {"asset", asset},
                                        {"run", run.has_value() ? Json(run_id) : Json()},
                                        {"evidence", ToHex(session->appraisal->evidence)}}));
        entry.decision = digest;
        entry.asset = Bounded(asset, ledger::kMaxEntryNameBytes);
        if (run.has_value()) entry.run = RunBytes(run->id);
        if (const auto named = agreement.assets.find(asset); named != agreement.assets.end()) {
          entry.sealed = named->second.sealed;
          entry.owners = KeyIdsOf(agreement, {named->second.owner});
        }
        if (decision->allowed()) {
          entry.kind = EntryKind::kRelease;
          content_key = std::move(deposit->content_key);
        } else {
          entry.kind = EntryKind::kRefusal;
          entry.reasons = ReasonsOf(*decision);
        }
        entry_offset = act.entry_count();
        act.Add(std::move(entry));
        return absl::OkStatus();
      },
      &first_index);
  if (decision.has_value() && !decision->allowed()) CountRefusal(call, purpose.agreement);
  PAVISE_RETURN_IF_ERROR(committed);
  if (!decision->allowed()) return ForHost(*view, purpose.stage, *decision, digest);
  // Durable: now it may leave.
  const std::string binding = kbs::ReleaseBinding(
      resource, purpose.mode, (*view->in_force)->payload, keys_.encryption_id, signing_id_);
  PAVISE_ASSIGN_OR_RETURN(const Json message, crypto::EncryptJwe(content_key, session->key,
                                                                 "session key", AsBytes(binding)));
  HttpResponse response;
  response.body = message.dump();
  response.headers.emplace_back("Pavise-Run", run_id);
  response.headers.emplace_back("Pavise-Ledger-Index", std::to_string(first_index + entry_offset));
  return response;
}

// ---- sessions and runs ----

ResponseOr Service::State::ShowSession(Call& call) {
  PAVISE_ASSIGN_OR_RETURN(const auto session, SessionOf(call));
  const kbs::Purpose& purpose = session->purpose;
  PAVISE_ASSIGN_OR_RETURN(const ViewPointer view, View(purpose.agreement));
  if (view == nullptr || !view->in_force.has_value()) return NotFound("agreement");
  const policy::Agreement& agreement = *(*view->in_force)->agreement;
  const auto stage = agreement.stages.find(purpose.stage);
  if (stage == agreement.stages.end()) return NotFound("stage");
  OrderedJson body = {{"agreement", view->id},
                      {"version", agreement.version},
                      {"stage", purpose.stage},
                      {"mode", purpose.mode},
                      {"session", session->key_id},
                      {"run", nullptr},
                      {"run_state", nullptr},
                      {"appraised", absl::FormatTime(absl::RFC3339_sec, session->appraisal->at,
                                                     absl::UTCTimeZone())},
                      {"reattest_seconds", absl::ToInt64Seconds(stage->second.reattest)},
                      {"broker_grace_seconds", absl::ToInt64Seconds(stage->second.broker_grace)}};
  const absl::Status read = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const auto run, FindOpenRun(reader, view->id, purpose.stage,
                                                        purpose.mode, session->key_id));
    if (run.has_value()) {
      body["run"] = run->id;
      body["run_state"] = RunStateName(run->state);
    } else if (!CheckNotRevoked(reader, view->id, session->key_id).ok()) {
      body["run_state"] = RunStateName(RunState::kRevoked);
    }
    return absl::OkStatus();
  });
  PAVISE_RETURN_IF_ERROR(read);
  return JsonResponse(body);
}

ResponseOr Service::State::ShowSessionAgreement(Call& call) {
  PAVISE_ASSIGN_OR_RETURN(const auto session, SessionOf(call));
  PAVISE_ASSIGN_OR_RETURN(const ViewPointer view, View(session->purpose.agreement));
  if (view == nullptr || !view->in_force.has_value()) return NotFound("agreement");
  HttpResponse response;
  const absl::Status read_again = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const std::vector<StoredStatement> statements,
                            ReadStatements(reader, view->id));
    for (const StoredStatement& statement : statements) {
      PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                              crypto::ParseEnvelope(AsBytes(statement.envelope), "statement"));
      PAVISE_ASSIGN_OR_RETURN(const Digest32 payload, crypto::Sha256(envelope.payload));
      if (envelope.payload_type == policy::kAgreementType &&
          payload == (*view->in_force)->payload) {
        response.body = statement.envelope;
        return absl::OkStatus();
      }
    }
    return MachineFailure("agreement", "the version in force is not in the store");
  });
  PAVISE_RETURN_IF_ERROR(read_again);
  return response;
}

// What a session may do with an open run of its own.
absl::StatusOr<RunRecord> OwnRun(StoreReader& reader, const AttestedSession& session,
                                 const std::string& run) {
  PAVISE_RETURN_IF_ERROR(CheckNotRevoked(reader, session.purpose.agreement, session.key_id));
  PAVISE_ASSIGN_OR_RETURN(const auto open,
                          FindOpenRun(reader, session.purpose.agreement, session.purpose.stage,
                                      session.purpose.mode, session.key_id));
  if (!open.has_value() || open->id != run) {
    return Refuse(Reason::kPolicyDenied, "run", "is not an open run of this session",
                  "the first key of the stage begins one");
  }
  return *open;
}

LedgerEntry EntryOfRun(EntryKind kind, const AttestedSession& session, const RunRecord& run) {
  LedgerEntry entry;
  entry.kind = kind;
  entry.agreement = session.appraisal->scope.agreement;
  entry.version = run.version;
  entry.stage = run.stage;
  entry.mode = run.mode;
  entry.run = RunBytes(run.id);
  entry.session = session.key_id;
  entry.machine = session.machine;
  return entry;
}

ResponseOr Service::State::DepositOutput(Call& call, const std::string& run_id) {
  PAVISE_ASSIGN_OR_RETURN(const auto session, SessionOf(call));
  PAVISE_RETURN_IF_ERROR(CheckRefusals(call, session->purpose.agreement));
  NoteUnrecorded(session->purpose.agreement, /*at_once=*/false);
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(AsBytes(call.request.body), "output"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, "output"));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"output", "sealed", "encrypted_key"}));
  OutputRecord output;
  PAVISE_ASSIGN_OR_RETURN(output.output, object.GetString("output"));
  PAVISE_ASSIGN_OR_RETURN(const std::string sealed, object.GetString("sealed"));
  PAVISE_ASSIGN_OR_RETURN(output.sealed, Digest32FromHex(sealed, "sealed"));
  PAVISE_ASSIGN_OR_RETURN(const Json* const message, object.Get("encrypted_key"));
  // A run uses the key that its first release named, also where it was rotated since.
  const std::string binding = OutputBinding(run_id, output.output, output.sealed);
  absl::StatusOr<SecretBytes> opened =
      OpenForBroker(*message, keys_.encryption_id, "encrypted_key", binding);
  for (auto key = keys_.encryption.begin(); key != keys_.encryption.end() && !opened.ok(); ++key) {
    if (key->first == keys_.encryption_id) continue;
    auto again = OpenForBroker(*message, key->first, "encrypted_key", binding);
    if (again.ok()) opened = std::move(again);
  }
  PAVISE_RETURN_IF_ERROR(opened.status());
  const SecretBytes content_key = *std::move(opened);
  call.kind = ProblemKind::kPolicyDeny;
  uint64_t index = 0;
  const std::string& agreement_id = session->purpose.agreement;
  ViewPointer view;
  std::optional<policy::Decision> decision;
  Digest32 digest{};
  std::optional<bool> recorded;
  const absl::Status committed = Commit(
      [&](Act& act) -> absl::Status {
        PAVISE_ASSIGN_OR_RETURN(const RunRecord run, OwnRun(act.store(), *session, run_id));
        PAVISE_ASSIGN_OR_RETURN(view,
                                agreements_.Load(act.store(), agreement_id, act.now(), false));
        if (view == nullptr || !view->in_force.has_value()) return NotFound("agreement");
        // What is deposited is this machine's as it was appraised, not as it was hours ago.
        PAVISE_ASSIGN_OR_RETURN(
            const policy::RunCounters counters,
            ReadCounters(act.store(), agreement_id, run.stage, std::optional<RunRecord>(run)));
        decision =
            policy::DecideReattestation(*view->in_force, session->appraisal, counters, act.now());
        if (!decision->allowed()) {
          if (!recorded.has_value()) {
            recorded = refusal_budget_.Take(agreement_id, call.source, Now());
          }
          if (!*recorded) return ForHost(*view, run.stage, *decision, std::nullopt);
          PAVISE_ASSIGN_OR_RETURN(digest, act.Keep(agreement_id, {{"decision", decision->ToJson()},
                                                                  {"session", session->key_id},
                                                                  {"run", run.id}}));
          LedgerEntry entry = EntryOfRun(EntryKind::kRefusal, *session, run);
          entry.decision = digest;
          entry.reasons = ReasonsOf(*decision);
          act.Add(std::move(entry));
          return absl::OkStatus();
        }
        const auto& versions = (*view->in_force)->versions;
        const auto version = versions.find(run.version);
        const policy::Agreement& agreement =
            version != versions.end() ? *version->second : *(*view->in_force)->agreement;
        const auto stage = agreement.stages.find(run.stage);
        if (stage == agreement.stages.end() || !stage->second.outputs.contains(output.output)) {
          return Refuse(Reason::kPolicyDenied, output.output, "the stage has no such output",
                        "deposit an output that the agreement names");
        }
        output.run = run.id;
        output.stage = run.stage;
        output.mode = run.mode;
        output.first_version = run.first_version;
        output.version = run.version;
        PAVISE_RETURN_IF_ERROR(PutOutput(act.store(), agreement_id, output, content_key));
        LedgerEntry entry = EntryOfRun(EntryKind::kOutputDeposited, *session, run);
        entry.asset = output.output;
        entry.sealed = output.sealed;
        entry.owners = KeyIdsOf(agreement, agreement.OwnersOf(stage->second));
        act.Add(std::move(entry));
        return absl::OkStatus();
      },
      &index);
  if (decision.has_value() && !decision->allowed()) CountRefusal(call, agreement_id);
  PAVISE_RETURN_IF_ERROR(committed);
  if (!decision->allowed()) return ForHost(*view, session->purpose.stage, *decision, digest);
  return JsonResponse({{"output", output.output}, {"ledger_index", index}}, 201);
}

ResponseOr Service::State::ReportProgress(Call& call, const std::string& run_id) {
  PAVISE_ASSIGN_OR_RETURN(const auto session, SessionOf(call));
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(AsBytes(call.request.body), "progress"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, "progress"));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"epochs"}));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t epochs, object.GetUint("epochs"));
  call.kind = ProblemKind::kPolicyDeny;
  const std::string& agreement_id = session->purpose.agreement;
  ViewPointer view;
  std::optional<policy::Decision> decision;
  Digest32 digest{};
  const absl::Status committed = Commit(
      [&](Act& act) -> absl::Status {
        PAVISE_ASSIGN_OR_RETURN(RunRecord run, OwnRun(act.store(), *session, run_id));
        PAVISE_ASSIGN_OR_RETURN(view,
                                agreements_.Load(act.store(), agreement_id, act.now(), false));
        if (view == nullptr || !view->in_force.has_value()) return NotFound("agreement");
        run.epochs = std::max(run.epochs, epochs);
        PAVISE_ASSIGN_OR_RETURN(
            const policy::RunCounters counters,
            ReadCounters(act.store(), agreement_id, run.stage, std::optional<RunRecord>(run)));
        decision =
            policy::DecideReattestation(*view->in_force, session->appraisal, counters, act.now());
        if (decision->allowed()) return PutRun(act.store(), agreement_id, run);
        PAVISE_ASSIGN_OR_RETURN(digest, act.Keep(agreement_id, {{"decision", decision->ToJson()},
                                                                {"session", session->key_id},
                                                                {"run", run.id}}));
        PAVISE_RETURN_IF_ERROR(CloseRun(act.store(), agreement_id, run, RunState::kRevoked));
        LedgerEntry entry = EntryOfRun(EntryKind::kRevocation, *session, run);
        entry.decision = digest;
        entry.reasons = ReasonsOf(*decision);
        act.Add(std::move(entry));
        return absl::OkStatus();
      },
      nullptr);
  PAVISE_RETURN_IF_ERROR(committed);
  if (!decision->allowed()) return ForHost(*view, session->purpose.stage, *decision, digest);
  return JsonResponse({{"run", run_id}, {"run_state", RunStateName(RunState::kOpen)}});
}

ResponseOr Service::State::EndRun(Call& call, const std::string& run_id) {
  PAVISE_ASSIGN_OR_RETURN(const auto session, SessionOf(call));
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(AsBytes(call.request.body), "end"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, "end"));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"outcome"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string outcome, object.GetString("outcome"));
  if (outcome != "completed" && outcome != "failed") {
    return Refuse(Reason::kMalformed, "outcome", "completed or failed");
  }
  call.kind = ProblemKind::kPolicyDeny;
  uint64_t index = 0;
  const absl::Status committed = Commit(
      [&](Act& act) -> absl::Status {
        const std::string& agreement = session->purpose.agreement;
        // Asked again, where the answer was lost.
        PAVISE_ASSIGN_OR_RETURN(const auto there, FindRun(act.store(), agreement, run_id));
        if (there.has_value() && there->state == RunState::kEnded &&
            there->session == session->key_id) {
          index = there->ended_index;
          return absl::OkStatus();
        }
        PAVISE_ASSIGN_OR_RETURN(RunRecord run, OwnRun(act.store(), *session, run_id));
        PAVISE_ASSIGN_OR_RETURN(const LedgerState state, ReadLedgerState(act.store()));
        run.ended_index = index = state.size;
        PAVISE_RETURN_IF_ERROR(CloseRun(act.store(), agreement, run, RunState::kEnded));
        LedgerEntry entry = EntryOfRun(EntryKind::kRunEnded, *session, run);
        if (outcome == "failed") {
          entry.reasons.push_back({std::string(ReasonName(Reason::kPolicyDenied)), "command",
                                   "the session says that it failed"});
        }
        act.Add(std::move(entry));
        return absl::OkStatus();
      },
      nullptr);
  PAVISE_RETURN_IF_ERROR(committed);
  return JsonResponse({{"ledger_index", index}});
}

// ---- everybody ----

ResponseOr Service::State::Health(Call& call) {
  call.kind = ProblemKind::kUnavailable;
  PAVISE_RETURN_IF_ERROR(options_.store->Read(
      [](StoreReader& reader) { return reader.Get(Table::kMeta, kClock, kLatest).status(); }));
  return JsonResponse({{"status", "ok"}});
}

ResponseOr Service::State::ShowBroker() {
  PAVISE_ASSIGN_OR_RETURN(const ledger::NoteKey ledger_key, keys_.LedgerNoteKey());
  return JsonResponse({{"format", "pavise-broker/1"},
                       {"name", keys_.name},
                       {"signing_key", keys_.signing.public_key().ToPem()},
                       {"encryption_key", keys_.current_encryption().public_key().ToPem()},
                       {"ledger_key", ledger_key.Format()},
                       {"version", PAVISE_VERSION}});
}

ResponseOr Service::State::AttestBroker(Call& call) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(AsBytes(call.request.body), "request"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, "request"));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"nonce"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString("nonce"));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 nonce, Digest32FromHex(text, "nonce"));
  if (options_.attester == nullptr) {
    call.kind = ProblemKind::kPluginNotFound;
    return Refuse(Reason::kUnsupported, "broker", "this broker was started without attestation",
                  "its operator starts it with attestation in its configuration");
  }
  // A TPM answers one at a time, and slowly, while the store's counter waits for it, too: one peer
  // does not keep it from the others, and whoever comes meanwhile comes back later.
  PAVISE_RETURN_IF_ERROR(CheckRefusals(call, std::string(kOwnEvidence)));
  CountRefusal(call, std::string(kOwnEvidence));
  const std::unique_lock lock(attester_mutex_, std::try_to_lock);
  if (!lock.owns_lock()) {
    call.kind = ProblemKind::kTooManyRequests;
    return Refuse(Reason::kLimitExceeded, "attestation", "another one is on its way", "try again");
  }
  call.kind = ProblemKind::kUnavailable;
  PAVISE_ASSIGN_OR_RETURN(const ledger::NoteKey ledger_key, keys_.LedgerNoteKey());
  PAVISE_ASSIGN_OR_RETURN(const Digest32 bound,
                          BrokerEvidenceNonce(nonce, signing_id_, ledger_key.Format()));
  PAVISE_ASSIGN_OR_RETURN(
      const evidence::CompositeEvidence composite,
      options_.attester->Collect(bound, keys_.current_encryption().public_key()));
  HttpResponse response;
  PAVISE_ASSIGN_OR_RETURN(response.body, evidence::ToJson(composite));
  return response;
}

absl::StatusOr<ledger::CheckpointNote> Service::State::SignedCheckpoint(uint64_t size,
                                                                        const Digest32& root) {
  const std::scoped_lock lock(key_mutex_);
  return ledger::SignCheckpoint({keys_.name, size, root}, keys_.ledger);
}

ResponseOr Service::State::ShowCheckpoint() {
  LedgerState state;
  const absl::Status read = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(state, ReadLedgerState(reader));
    return absl::OkStatus();
  });
  PAVISE_RETURN_IF_ERROR(read);
  PAVISE_ASSIGN_OR_RETURN(const ledger::CheckpointNote note,
                          SignedCheckpoint(state.size, state.root));
  HttpResponse response;
  response.content_type = "text/plain; charset=utf-8";
  response.body = note.Format();
  return response;
}

// "a=1&b=2" with each name at most once.
absl::StatusOr<std::map<std::string, std::string>> ParseQuery(const std::string& query) {
  std::map<std::string, std::string> parameters;
  for (const absl::string_view part : absl::StrSplit(query, '&', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(part, absl::MaxSplits('=', 1));
    if (!parameters.insert(pair).second) {
      return Refuse(Reason::kMalformed, "query", "a parameter is there twice");
    }
  }
  return parameters;
}

absl::StatusOr<uint64_t> Number(const std::map<std::string, std::string>& parameters,
                                const std::string& name, std::optional<uint64_t> otherwise) {
  const auto found = parameters.find(name);
  if (found == parameters.end() && otherwise.has_value()) return *otherwise;
  uint64_t value = 0;
  if (found == parameters.end() || !absl::SimpleAtoi(found->second, &value)) {
    return Refuse(Reason::kMalformed, name, "a number is needed");
  }
  return value;
}

ResponseOr Service::State::ShowConsistency(Call& call) {
  PAVISE_ASSIGN_OR_RETURN(const auto parameters, ParseQuery(call.request.query));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t old_size, Number(parameters, "old", std::nullopt));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t new_size, Number(parameters, "new", std::nullopt));
  OrderedJson proof = OrderedJson::array();
  const absl::Status read_again = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const LedgerState state, ReadLedgerState(reader));
    if (old_size > new_size || new_size > state.size) {
      return Refuse(Reason::kMalformed, "query", StrCat("old <= new <= ", state.size));
    }
    PAVISE_ASSIGN_OR_RETURN(const std::vector<Digest32> nodes,
                            ledger::ConsistencyProof(old_size, new_size, StoreNodes(reader)));
    for (const Digest32& node : nodes) proof.push_back(ToHex(node));
    return absl::OkStatus();
  });
  PAVISE_RETURN_IF_ERROR(read_again);
  return JsonResponse({{"proof", proof}});
}

// ---- owners ----

ResponseOr Service::State::TakeStatement(Call& call, const std::string& agreement,
                                         std::string_view payload_type) {
  PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                          crypto::ParseEnvelope(AsBytes(call.request.body), "statement"));
  if (envelope.payload_type != payload_type) {
    return Refuse(Reason::kUnsupported, "statement", StrCat("this path takes ", payload_type));
  }
  const std::string text = crypto::FormatEnvelope(envelope);
  PAVISE_ASSIGN_OR_RETURN(const Digest32 statement, crypto::Sha256(AsBytes(text)));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 payload, crypto::Sha256(envelope.payload));
  const std::string signer = envelope.signatures.empty() ? "" : envelope.signatures.front().key_id;
  std::string id = agreement;
  bool is_first = false;
  if (payload_type == policy::kAgreementType) {
    PAVISE_ASSIGN_OR_RETURN(const policy::Agreement proposed,
                            policy::ParseAgreement(envelope.payload, "agreement"));
    is_first = proposed.version == 1;
    if (is_first) {
      id = ToHex(payload);
      if (!options_.proposers.empty() && !options_.proposers.contains(signer)) {
        call.kind = ProblemKind::kPolicyDeny;
        return Refuse(Reason::kSignerUntrusted, "agreement",
                      "this broker takes new agreements from named keys only",
                      "ask its operator to add the key to proposers");
      }
    } else {
      // Which agreement it continues is what its predecessor's digest says.
      const absl::Status read = options_.store->Read([&](StoreReader& reader) -> absl::Status {
        PAVISE_ASSIGN_OR_RETURN(const auto found,
                                reader.Get(Table::kMeta, "payloads", ToHex(*proposed.previous)));
        if (!found.has_value()) return NotFound("previous version");
        id = std::string(found->RevealText());
        return absl::OkStatus();
      });
      PAVISE_RETURN_IF_ERROR(read);
    }
  }
  call.log["agreement"] = id;
  call.log["signer"] = signer;
  call.kind = ProblemKind::kConflict;
  if (!is_first) PAVISE_RETURN_IF_ERROR(CheckSigned(id, envelope));
  OrderedJson events = OrderedJson::array();
  ViewPointer view;
  std::set<Digest32> missing_files;
  bool is_counted = false;
  const absl::Status committed = Commit(
      [&](Act& act) -> absl::Status {
        StoreTransaction& store = act.store();
        events = OrderedJson::array();
        PAVISE_ASSIGN_OR_RETURN(std::vector<StoredStatement> statements, ReadStatements(store, id));
        if (statements.empty() && !is_first) return NotFound("agreement");
        const bool is_known =
            std::any_of(statements.begin(), statements.end(),
                        [&](const StoredStatement& each) { return each.envelope == text; });
        std::vector<policy::HistoryEvent> happened;
        std::optional<policy::AgreementHistory> history;
        if (statements.empty()) {
          PAVISE_ASSIGN_OR_RETURN(history,
                                  policy::AgreementHistory::Begin(AsBytes(text), act.now()));
          // Signed by one of those whom it names: but anybody can make keys.
          if (!is_counted) PAVISE_RETURN_IF_ERROR(TakeProposal(call));
          is_counted = true;
          const std::string of_key = GroupOf("proposed-by", signer);
          PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> earlier,
                                  store.List(Table::kMeta, of_key, 0, options_.agreements_of_key));
          if (options_.proposers.empty() && earlier.size() >= options_.agreements_of_key) {
            return Refuse(Reason::kLimitExceeded, "agreement",
                          StrCat("this key has brought ", earlier.size(), " agreements"),
                          "propose with another stakeholder's key, or ask the broker's operator "
                          "for proposers");
          }
          PAVISE_RETURN_IF_ERROR(
              store.Put(Table::kMeta, of_key, id, SecretBytes(std::string_view("1"))));
          policy::HistoryEvent proposed;
          proposed.version = 1;
          proposed.payload = payload;
          proposed.key_id = signer;
          happened.push_back(proposed);
        } else {
          PAVISE_ASSIGN_OR_RETURN(history, Replay(statements));
          if (!is_known) {
            PAVISE_RETURN_IF_ERROR(CheckStatementsOf(envelope, statements));
            PAVISE_ASSIGN_OR_RETURN(happened, history->Append(AsBytes(text), act.now()));
          }
        }
        history->Settle(act.now());
        if (!is_known) {
          PAVISE_RETURN_IF_ERROR(PutStatement(store, id, ToHex(statement), {act.now(), text}));
        }
        if (payload_type == policy::kAgreementType) {
          PAVISE_RETURN_IF_ERROR(
              store.Put(Table::kMeta, "payloads", ToHex(payload), SecretBytes(id)));
        }
        view = std::make_shared<const AgreementView>(ViewOf(*history));
        // By whom it is found (ListAgreements, ReaderKey). Only proposals bring stakeholders.
        if (payload_type == policy::kAgreementType && !is_known) {
          for (const auto& [reader, key] : view->readers) {
            const std::string of_reader = GroupOf(kAgreementsGroup, reader);
            PAVISE_ASSIGN_OR_RETURN(const auto there, store.Get(Table::kMeta, of_reader, id));
            if (there.has_value()) continue;
            PAVISE_RETURN_IF_ERROR(
                store.Put(Table::kMeta, of_reader, id, SecretBytes(key.ToPem())));
          }
        }
        for (const policy::HistoryEvent& event : happened) {
          events.push_back({{"kind", policy::HistoryEventKindName(event.kind)},
                            {"version", event.version},
                            {"payload", ToHex(event.payload)}});
          LedgerEntry entry;
          entry.agreement = history->id();
          entry.version = event.version;
          entry.actor = signer;
          entry.statement = statement;
          switch (event.kind) {
            case policy::HistoryEventKind::kProposed:
              entry.kind = EntryKind::kAgreementProposed;
              break;
            case policy::HistoryEventKind::kVote:
              entry.kind = EntryKind::kApproval;
              break;
            case policy::HistoryEventKind::kWithdrawn:
              entry.kind = EntryKind::kWithdrawal;
              if (event.withdrawn.size() == 1) entry.asset = *event.withdrawn.begin();
              break;
            case policy::HistoryEventKind::kInForce:
            case policy::HistoryEventKind::kDiscarded:
              continue;
          }
          act.Add(std::move(entry));
        }
        PAVISE_RETURN_IF_ERROR(act.NoteInForce(*view));
        // Runs that use what was withdrawn stop now, not at their next attestation.
        std::set<std::string> withdrawn;
        for (const policy::HistoryEvent& event : happened) {
          withdrawn.insert(event.withdrawn.begin(), event.withdrawn.end());
        }
        if (!withdrawn.empty() && view->in_force.has_value()) {
          PAVISE_ASSIGN_OR_RETURN(const std::vector<RunRecord> runs, ReadRuns(store, id));
          for (const RunRecord& run : runs) {
            if (run.state != RunState::kOpen) continue;
            const auto& versions = (*view->in_force)->versions;
            const auto version = versions.find(run.version);
            const policy::Agreement& text_of_run =
                version != versions.end() ? *version->second : *(*view->in_force)->agreement;
            const auto stage = text_of_run.stages.find(run.stage);
            if (stage == text_of_run.stages.end()) continue;
            const std::set<std::string> used = text_of_run.AssetsOf(stage->second);
            const auto hit = std::find_if(withdrawn.begin(), withdrawn.end(),
                                          [&](const auto& each) { return used.contains(each); });
            if (hit == withdrawn.end()) continue;
            PAVISE_RETURN_IF_ERROR(CloseRun(store, id, run, RunState::kRevoked));
            LedgerEntry entry;
            entry.kind = EntryKind::kRevocation;
            entry.agreement = history->id();
            entry.version = run.version;
            entry.stage = run.stage;
            entry.mode = run.mode;
            entry.run = RunBytes(run.id);
            entry.session = run.session;
            entry.asset = *hit;
            entry.actor = signer;
            entry.statement = statement;
            entry.reasons.push_back({std::string(ReasonName(Reason::kPolicyDenied)), "consent",
                                     StrCat(*hit, ": its owner's consent is withdrawn")});
            act.Add(std::move(entry));
          }
        }
        missing_files.clear();
        for (const Digest32& file : view->PinnedFiles()) {
          PAVISE_ASSIGN_OR_RETURN(const auto row,
                                  store.Get(Table::kMeta, GroupOf("attached", id), ToHex(file)));
          if (!row.has_value()) missing_files.insert(file);
        }
        return absl::OkStatus();
      },
      nullptr);
  PAVISE_RETURN_IF_ERROR(committed);
  OrderedJson missing = OrderedJson::array();
  for (const policy::OpenProposal& proposal : view->open) {
    for (const std::string& what : proposal.missing) missing.push_back(what);
  }
  OrderedJson files = OrderedJson::array();
  for (const Digest32& file : missing_files) files.push_back(ToHex(file));
  return JsonResponse({{"agreement", id},
                       {"events", events},
                       {"missing", missing},
                       {"attachments_missing", files}});
}

ResponseOr Service::State::TakeDeposit(Call& call, const std::string& id) {
  PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                          crypto::ParseEnvelope(AsBytes(call.request.body), "deposit"));
  PAVISE_RETURN_IF_ERROR(CheckSigned(id, envelope));
  PAVISE_ASSIGN_OR_RETURN(const ViewPointer view, View(id));
  if (view == nullptr || !view->in_force.has_value()) {
    call.kind = ProblemKind::kConflict;
    return Refuse(Reason::kPolicyDenied, "agreement", "no such agreement is in force here",
                  "deposit when every owner has approved it");
  }
  const std::string text = crypto::FormatEnvelope(envelope);
  PAVISE_ASSIGN_OR_RETURN(const Digest32 statement, crypto::Sha256(AsBytes(text)));
  PAVISE_ASSIGN_OR_RETURN(
      const policy::VerifiedDeposit verified,
      policy::DepositVerifier::Verify(AsBytes(text), *view->in_force, keys_.encryption_id));
  const policy::Deposit& deposit = verified->deposit;
  PAVISE_ASSIGN_OR_RETURN(const Json message,
                          ParseJson(AsBytes(deposit.encrypted_key), "encrypted_key"));
  PAVISE_ASSIGN_OR_RETURN(
      SecretBytes content_key,
      OpenForBroker(message, keys_.encryption_id, "encrypted_key",
                    DepositBinding(id, deposit.asset, deposit.sealed, verified->key_id)));
  call.log["agreement"] = id;
  uint64_t index = 0;
  const absl::Status committed_again = Commit(
      [&](Act& act) -> absl::Status {
        PAVISE_ASSIGN_OR_RETURN(const auto there, ReadDeposit(act.store(), id, deposit.asset));
        if (there.has_value() && there->envelope == text) return absl::OkStatus();
        // What a replaced key deposited stays; it deposits nothing more, since it may be a thief's.
        PAVISE_ASSIGN_OR_RETURN(const ViewPointer now_in_force,
                                agreements_.Load(act.store(), id, act.now(), false));
        const policy::Agreement& agreement = *(*now_in_force->in_force)->agreement;
        const auto asset = agreement.assets.find(deposit.asset);
        if (asset == agreement.assets.end() ||
            agreement.StakeholderWithKey(verified->key_id) != asset->second.owner) {
          return Refuse(Reason::kSignerUntrusted, deposit.asset,
                        "is not signed with its owner's key of the version in force",
                        "the owner deposits it with the key that the agreement names");
        }
        if (deposit.time > act.now() + kRequestWindow) {
          return Refuse(Reason::kPolicyDenied, deposit.asset, "is dated after it was received",
                        "set the signing machine's clock and sign again");
        }
        // An older deposit, kept by somebody, must not come back.
        if (there.has_value()) {
          PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope earlier,
                                  crypto::ParseEnvelope(AsBytes(there->envelope), "deposit"));
          if (earlier.signatures.front().key_id == verified->key_id &&
              there->time >= deposit.time) {
            return Refuse(Reason::kVersionTooOld, deposit.asset,
                          "a deposit of the same time or later is here", "sign a new one");
          }
        }
        DepositRecord record{text, keys_.encryption_id, deposit.time,
                             SecretBytes(content_key.Reveal())};
        PAVISE_RETURN_IF_ERROR(PutDeposit(act.store(), id, deposit.asset, record));
        LedgerEntry entry;
        entry.kind = EntryKind::kDeposit;
        entry.agreement = (*view->in_force)->id;
        entry.asset = deposit.asset;
        entry.sealed = deposit.sealed;
        entry.actor = verified->key_id;
        entry.statement = statement;
        act.Add(std::move(entry));
        return absl::OkStatus();
      },
      &index);
  PAVISE_RETURN_IF_ERROR(committed_again);
  return JsonResponse({{"agreement", id}, {"asset", deposit.asset}}, 201);
}

ResponseOr Service::State::TakeOutputApproval(Call& call, const std::string& id) {
  PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                          crypto::ParseEnvelope(AsBytes(call.request.body), "approval"));
  PAVISE_RETURN_IF_ERROR(CheckSigned(id, envelope));
  PAVISE_ASSIGN_OR_RETURN(const ViewPointer view, View(id));
  if (view == nullptr || !view->in_force.has_value()) return NotFound("agreement");
  const std::string text = crypto::FormatEnvelope(envelope);
  PAVISE_ASSIGN_OR_RETURN(const Digest32 statement, crypto::Sha256(AsBytes(text)));
  PAVISE_ASSIGN_OR_RETURN(const policy::VerifiedOutputApproval verified,
                          policy::OutputApprovalVerifier::Verify(AsBytes(text), *view->in_force));
  const policy::OutputApproval& approval = verified->approval;
  call.log["agreement"] = id;
  call.kind = ProblemKind::kConflict;
  const absl::Status committed = Commit(
      [&](Act& act) -> absl::Status {
        PAVISE_ASSIGN_OR_RETURN(const auto output,
                                ReadOutput(act.store(), id, approval.run, approval.output));
        if (!output.has_value() || output->record.sealed != approval.sealed) {
          return Refuse(Reason::kBindingMismatch, approval.output,
                        "no run has deposited such an output here",
                        "approve what GET .../runs lists");
        }
        if (approval.time > act.now() + kRequestWindow) {
          return Refuse(Reason::kPolicyDenied, approval.output, "is dated after it was received",
                        "set the signing machine's clock and sign again");
        }
        // The last word of each key is kept, so that nobody makes a release wade through thousands.
        const std::string group = StrCat(id, "/", approval.run, "/", approval.output);
        PAVISE_ASSIGN_OR_RETURN(const auto there,
                                act.store().Get(Table::kApprovals, group, verified->key_id));
        if (there.has_value()) {
          if (there->RevealText() == text) return absl::OkStatus();
          PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope_there,
                                  crypto::ParseEnvelope(there->Reveal(), "approval"));
          PAVISE_ASSIGN_OR_RETURN(const policy::OutputApproval earlier,
                                  policy::ParseOutputApproval(envelope_there.payload, "approval"));
          // Of the same second, a refusal counts.
          if (earlier.time > approval.time ||
              (earlier.time == approval.time && (approval.approved || !earlier.approved))) {
            return Refuse(Reason::kVersionTooOld, approval.output,
                          "a word of the same time or later is here", "sign a new one");
          }
        }
        PAVISE_RETURN_IF_ERROR(
            act.store().Put(Table::kApprovals, group, verified->key_id, SecretBytes(text)));
        LedgerEntry entry;
        entry.kind = EntryKind::kOutputApproval;
        entry.agreement = (*view->in_force)->id;
        entry.run = RunBytes(approval.run);
        entry.asset = approval.output;
        entry.sealed = approval.sealed;
        entry.actor = verified->key_id;
        entry.statement = statement;
        act.Add(std::move(entry));
        return absl::OkStatus();
      },
      nullptr);
  PAVISE_RETURN_IF_ERROR(committed);
  return JsonResponse({{"agreement", id}, {"run", approval.run}, {"output", approval.output}}, 201);
}

ResponseOr Service::State::ListAgreements(Call& call, const VerifiedOwnerCall& owner) {
  PAVISE_ASSIGN_OR_RETURN(const auto parameters, ParseQuery(call.request.query));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t after, Number(parameters, "after", 0));
  OrderedJson ids = OrderedJson::array();
  OrderedJson next = nullptr;
  const absl::Status read = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows,
                            reader.List(Table::kMeta, GroupOf(kAgreementsGroup, owner.key_id),
                                        after, kMostListedAgreements));
    // A stranger's replay says nothing, and is in nobody's memory.
    if (!rows.empty()) PAVISE_RETURN_IF_ERROR(TakeOnce(call, owner));
    for (const Row& row : rows) {
      PAVISE_ASSIGN_OR_RETURN(const ViewPointer view,
                              agreements_.Load(reader, row.name, Now(), true));
      // A proposal that came to nothing gives nobody a say.
      if (view != nullptr && view->readers.contains(owner.key_id)) ids.push_back(row.name);
    }
    if (rows.size() == kMostListedAgreements) next = rows.back().sequence;
    return absl::OkStatus();
  });
  PAVISE_RETURN_IF_ERROR(read);
  return JsonResponse({{"agreements", ids}, {"next", next}});
}

ResponseOr Service::State::ShowAgreement(const AgreementView& view) {
  OrderedJson body = {{"agreement", view.id},
                      {"in_force", nullptr},
                      {"open", OrderedJson::array()},
                      {"deposits", OrderedJson::array()},
                      {"attachments_missing", OrderedJson::array()}};
  if (view.in_force.has_value()) {
    const auto& claims = **view.in_force;
    OrderedJson withdrawn = OrderedJson::array();
    for (const auto& [asset, time] : claims.withdrawn) withdrawn.push_back(asset);
    body["in_force"] = {
        {"version", claims.agreement->version},
        {"payload", ToHex(claims.payload)},
        {"since", absl::FormatTime(absl::RFC3339_sec, claims.since, absl::UTCTimeZone())},
        {"withdrawn", withdrawn}};
  }
  for (const policy::OpenProposal& proposal : view.open) {
    body["open"].push_back({{"version", proposal.version},
                            {"payload", ToHex(proposal.payload)},
                            {"proposer", proposal.proposer},
                            {"missing", proposal.missing}});
  }
  const absl::Status read_again = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    if (view.in_force.has_value()) {
      for (const auto& [asset, rule] : (*view.in_force)->agreement->assets) {
        PAVISE_ASSIGN_OR_RETURN(const auto deposit, ReadDeposit(reader, view.id, asset));
        if (deposit.has_value()) body["deposits"].push_back(asset);
      }
    }
    for (const Digest32& file : view.PinnedFiles()) {
      PAVISE_ASSIGN_OR_RETURN(const auto row,
                              reader.Get(Table::kMeta, GroupOf("attached", view.id), ToHex(file)));
      if (!row.has_value()) body["attachments_missing"].push_back(ToHex(file));
    }
    return absl::OkStatus();
  });
  PAVISE_RETURN_IF_ERROR(read_again);
  return JsonResponse(body);
}

ResponseOr Service::State::ShowStatements(const AgreementView& view) {
  OrderedJson list = OrderedJson::array();
  const absl::Status read = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const std::vector<StoredStatement> statements,
                            ReadStatements(reader, view.id));
    for (const StoredStatement& statement : statements) {
      list.push_back({{"received", absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", statement.received,
                                                    absl::UTCTimeZone())},
                      {"envelope", statement.envelope}});
    }
    return absl::OkStatus();
  });
  PAVISE_RETURN_IF_ERROR(read);
  return JsonResponse({{"statements", list}});
}

ResponseOr Service::State::TakeAttachment(Call& call, const AgreementView& view,
                                          const std::string& name) {
  PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, Digest32FromHex(name, "attachment"));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 actual, crypto::Sha256(AsBytes(call.request.body)));
  if (digest != actual) {
    return Refuse(Reason::kContentMismatch, name, StrCat("these bytes are ", ToHex(actual)));
  }
  if (!view.PinnedFiles().contains(digest)) {
    return Refuse(Reason::kPolicyDenied, name, "no version of the agreement pins this file");
  }
  const absl::Status committed = Commit(
      [&](Act& act) -> absl::Status {
        StoreTransaction& store = act.store();
        const std::string attached = GroupOf("attached", view.id);
        PAVISE_ASSIGN_OR_RETURN(const auto there, store.Get(Table::kMeta, attached, ToHex(digest)));
        if (there.has_value()) return absl::OkStatus();
        // Anybody can propose an agreement that pins files; nobody has agreed to keep them yet.
        uint64_t total_bytes = call.request.body.size();
        for (uint64_t after = 0; !view.in_force.has_value();) {
          PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows,
                                  store.List(Table::kMeta, attached, after));
          if (rows.empty()) break;
          for (const Row& row : rows) {
            uint64_t size_bytes = 0;
            if (!absl::SimpleAtoi(ToAbsl(row.value.RevealText()), &size_bytes)) {
              return MachineFailure("store", "an attachment's size does not parse");
            }
            total_bytes += size_bytes;
          }
          after = rows.back().sequence;
        }
        if (!view.in_force.has_value() && total_bytes > options_.proposed_attachment_bytes) {
          call.kind = ProblemKind::kTooManyRequests;
          return Refuse(Reason::kLimitExceeded, name,
                        StrCat("more than ", HumanBytes(options_.proposed_attachment_bytes),
                               " of files before the agreement is in force"),
                        "have its owners approve it first");
        }
        PAVISE_RETURN_IF_ERROR(
            store.Put(Table::kAttachments, view.id, ToHex(digest), SecretBytes(call.request.body)));
        return store.Put(Table::kMeta, attached, ToHex(digest),
                         SecretBytes(std::to_string(call.request.body.size())));
      },
      nullptr);
  PAVISE_RETURN_IF_ERROR(committed);
  return JsonResponse({{"attachment", ToHex(digest)}}, 201);
}

ResponseOr Service::State::ShowAttachment(const AgreementView& view, const std::string& name) {
  HttpResponse response;
  response.content_type = "application/octet-stream";
  const absl::Status read = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const auto row, reader.Get(Table::kAttachments, view.id, name));
    if (!row.has_value()) return NotFound("attachment");
    response.body = std::string(row->RevealText());
    return absl::OkStatus();
  });
  PAVISE_RETURN_IF_ERROR(read);
  return response;
}

ResponseOr Service::State::ShowDecisions(Call& call, const AgreementView& view) {
  PAVISE_ASSIGN_OR_RETURN(const auto parameters, ParseQuery(call.request.query));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t after, Number(parameters, "after", 0));
  OrderedJson list = OrderedJson::array();
  const absl::Status read = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows,
                            reader.List(Table::kDecisions, view.id, after, kMostListed));
    for (const Row& row : rows) {
      PAVISE_ASSIGN_OR_RETURN(const Json decision, ParseJson(row.value.Reveal(), "decision"));
      list.push_back({{"sequence", row.sequence}, {"digest", row.name}, {"decision", decision}});
    }
    return absl::OkStatus();
  });
  PAVISE_RETURN_IF_ERROR(read);
  return JsonResponse({{"decisions", list}});
}

// The text whose SHA-256 the ledger holds.
ResponseOr Service::State::ShowDecision(const AgreementView& view, const std::string& digest) {
  HttpResponse response;
  const absl::Status read_again = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const auto row, reader.Get(Table::kDecisions, view.id, digest));
    if (!row.has_value()) return NotFound("decision");
    response.body = std::string(row->RevealText());
    return absl::OkStatus();
  });
  PAVISE_RETURN_IF_ERROR(read_again);
  return response;
}

ResponseOr Service::State::ShowRuns(const AgreementView& view) {
  OrderedJson list = OrderedJson::array();
  const absl::Status read = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const std::vector<RunRecord> runs, ReadRuns(reader, view.id));
    for (const RunRecord& run : runs) {
      OrderedJson json = run.ToJson();
      json["outputs"] = OrderedJson::array();
      PAVISE_ASSIGN_OR_RETURN(const std::vector<OutputRecord> outputs,
                              ReadOutputs(reader, view.id, run.id));
      for (const OutputRecord& output : outputs) {
        json["outputs"].push_back({{"output", output.output}, {"sealed", ToHex(output.sealed)}});
      }
      list.push_back(std::move(json));
    }
    return absl::OkStatus();
  });
  PAVISE_RETURN_IF_ERROR(read);
  return JsonResponse({{"runs", list}});
}

ResponseOr Service::State::ReleaseOutput(Call& call, const AgreementView& known,
                                         const std::string& owner_key_id, const std::string& run_id,
                                         const std::string& name) {
  call.kind = ProblemKind::kPolicyDeny;
  std::optional<policy::Decision> decision;
  std::optional<policy::Stakeholder> recipient;
  SecretBytes content_key;
  std::optional<bool> recorded;
  const absl::Status committed = Commit(
      [&](Act& act) -> absl::Status {
        StoreTransaction& store = act.store();
        content_key = SecretBytes();
        PAVISE_ASSIGN_OR_RETURN(const ViewPointer view,
                                agreements_.Load(store, known.id, act.now(), false));
        if (view == nullptr || !view->in_force.has_value()) return NotFound("agreement");
        // Who a name stands for is what the version in force says. A proposal may put any key
        // beside a recipient's name.
        const policy::Agreement& agreement = *(*view->in_force)->agreement;
        const std::string recipient_name = agreement.StakeholderWithKey(owner_key_id);
        if (recipient_name.empty()) return NotFound("output");
        recipient = agreement.stakeholders.at(recipient_name);
        PAVISE_ASSIGN_OR_RETURN(std::optional<KeptOutput> kept,
                                ReadOutput(store, view->id, run_id, name));
        if (!kept.has_value()) return NotFound("output");
        std::vector<policy::VerifiedOutputApproval> approvals;
        const std::string group = StrCat(view->id, "/", run_id, "/", name);
        // All of them: the last one may be a refusal.
        for (uint64_t after = 0;;) {
          PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows,
                                  store.List(Table::kApprovals, group, after));
          if (rows.empty()) break;
          for (const Row& row : rows) {
            // Of somebody who is no stakeholder any more: does not count.
            auto verified =
                policy::OutputApprovalVerifier::Verify(row.value.Reveal(), *view->in_force);
            if (verified.ok()) approvals.push_back(*std::move(verified));
          }
          after = rows.back().sequence;
        }
        policy::OutputOfRun output;
        output.run = run_id;
        output.first_version = kept->record.first_version;
        output.version = kept->record.version;
        output.stage = kept->record.stage;
        output.output = name;
        output.sealed = kept->record.sealed;
        if (const auto mode = policy::ModeNamed(kept->record.mode)) output.mode = *mode;
        decision = policy::DecideOutputRelease(*view->in_force, output, recipient_name, approvals,
                                               act.now());
        if (!decision->allowed()) {
          if (!recorded.has_value()) {
            recorded = refusal_budget_.Take(known.id, owner_key_id, Now());
          }
          if (!*recorded) return decision->Verdict();
        }
        PAVISE_RETURN_IF_ERROR(act.NoteInForce(*view));
        PAVISE_ASSIGN_OR_RETURN(const Digest32 digest,
                                act.Keep(view->id, {{"decision", decision->ToJson()},
                                                    {"run", run_id},
                                                    {"output", name},
                                                    {"recipient", recipient_name}}));
        LedgerEntry entry;
        entry.kind = decision->allowed() ? EntryKind::kOutputReleased : EntryKind::kRefusal;
        entry.agreement = (*view->in_force)->id;
        entry.version = kept->record.version;
        entry.stage = kept->record.stage;
        entry.run = RunBytes(run_id);
        entry.asset = name;
        entry.sealed = kept->record.sealed;
        entry.recipients = {owner_key_id};
        entry.decision = digest;
        if (decision->allowed()) {
          content_key = std::move(kept->content_key);
        } else {
          entry.reasons = ReasonsOf(*decision);
        }
        act.Add(std::move(entry));
        return absl::OkStatus();
      },
      nullptr);
  PAVISE_RETURN_IF_ERROR(committed);
  // The recipient is an owner's equal here: every rule is shown.
  PAVISE_RETURN_IF_ERROR(decision->Verdict());
  PAVISE_ASSIGN_OR_RETURN(const Json message,
                          crypto::EncryptJwe(content_key, recipient->encryption_key, "recipient"));
  HttpResponse response;
  response.body = message.dump();
  return response;
}

ResponseOr Service::State::ShowLedger(Call& call, const AgreementView& view) {
  NoteUnrecorded(view.id, /*at_once=*/true);
  PAVISE_ASSIGN_OR_RETURN(const auto parameters, ParseQuery(call.request.query));
  std::set<uint64_t> earlier;
  if (const auto found = parameters.find("earlier"); found != parameters.end()) {
    for (const absl::string_view part : absl::StrSplit(found->second, ',')) {
      uint64_t size = 0;
      if (!absl::SimpleAtoi(part, &size) || earlier.size() == kMostEarlier) {
        return Refuse(Reason::kMalformed, "earlier", "sizes of checkpoints, as 10,20");
      }
      earlier.insert(size);
    }
  }
  std::optional<ledger::LedgerBundle> bundle;
  const absl::Status read = options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const LedgerState state, ReadLedgerState(reader));
    bundle.emplace();
    PAVISE_ASSIGN_OR_RETURN(bundle->checkpoint, SignedCheckpoint(state.size, state.root));
    const StoreNodes nodes(reader);
    for (const uint64_t size : earlier) {
      if (size > state.size) return Refuse(Reason::kMalformed, "earlier", "larger than the ledger");
      PAVISE_ASSIGN_OR_RETURN(const Digest32 root, ledger::RootOf(size, nodes));
      PAVISE_ASSIGN_OR_RETURN(ledger::CheckpointNote note, SignedCheckpoint(size, root));
      PAVISE_ASSIGN_OR_RETURN(ledger::EarlierCheckpoint proven,
                              ledger::MakeEarlierCheckpoint(std::move(note), state.size, nodes));
      bundle->earlier.push_back(std::move(proven));
    }
    uint64_t after = 0;
    while (true) {
      PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows,
                              reader.List(Table::kMeta, GroupOf("ledger", view.id), after));
      if (rows.empty()) return absl::OkStatus();
      std::vector<uint64_t> indices;
      for (const Row& row : rows) {
        uint64_t index = 0;
        if (!absl::SimpleAtoi(row.name, &index)) return MachineFailure("ledger", "an odd index");
        indices.push_back(index);
      }
      PAVISE_ASSIGN_OR_RETURN(std::vector<std::string> texts, ReadLedgerEntries(reader, indices));
      for (size_t i = 0; i < indices.size(); ++i) {
        PAVISE_ASSIGN_OR_RETURN(
            ledger::BundleEntry entry,
            ledger::MakeBundleEntry(indices[i], std::move(texts[i]), state.size, nodes));
        bundle->entries.push_back(std::move(entry));
      }
      after = rows.back().sequence;
    }
  });
  PAVISE_RETURN_IF_ERROR(read);
  HttpResponse response;
  response.body = ledger::FormatBundle(*bundle);
  return response;
}

// ---- routes ----

ResponseOr Service::State::RouteOwner(Call& call, const std::vector<std::string>& parts) {
  // parts: "agreements", then the rest of the path.
  const std::string& method = call.request.method;
  if (parts.size() == 1) {
    call.route = "agreements";
    if (method == "POST") return TakeStatement(call, "", policy::kAgreementType);
    PAVISE_ASSIGN_OR_RETURN(const VerifiedOwnerCall owner, Authenticate(call));
    return ListAgreements(call, owner);
  }
  const std::string& id = parts[1];
  PAVISE_RETURN_IF_ERROR(Digest32FromHex(id, "agreement").status());
  if (method == "POST" && parts.size() == 3) {
    call.route = parts[2];
    if (parts[2] == "approvals") return TakeStatement(call, id, policy::kApprovalType);
    if (parts[2] == "withdrawals") return TakeStatement(call, id, policy::kWithdrawalType);
    if (parts[2] == "deposits") return TakeDeposit(call, id);
    if (parts[2] == "output-approvals") return TakeOutputApproval(call, id);
    call.route = "unknown";
  }
  PAVISE_ASSIGN_OR_RETURN(const VerifiedOwnerCall owner, Authenticate(call));
  call.kind = ProblemKind::kPluginNotFound;
  call.log["agreement"] = id;
  if (!ReaderKey(id, owner.key_id).ok()) return NotFound("agreement");
  PAVISE_ASSIGN_OR_RETURN(const ViewPointer view, View(id));
  // One answer for what is not there and for what is another tenant's.
  if (view == nullptr || !view->readers.contains(owner.key_id)) return NotFound("agreement");
  PAVISE_RETURN_IF_ERROR(TakeOnce(call, owner));
  const auto is = [&](std::string_view wanted, size_t size, std::string_view name) {
    if (method != wanted || parts.size() != size || (size > 2 && parts[2] != name)) return false;
    call.route = size > 2 ? std::string(name) : "agreement";
    return true;
  };
  if (is("GET", 2, "")) return ShowAgreement(*view);
  if (is("GET", 3, "statements")) return ShowStatements(*view);
  if (is("PUT", 4, "attachments")) return TakeAttachment(call, *view, parts[3]);
  if (is("GET", 4, "attachments")) return ShowAttachment(*view, parts[3]);
  if (is("GET", 3, "decisions")) return ShowDecisions(call, *view);
  if (is("GET", 4, "decisions")) return ShowDecision(*view, parts[3]);
  if (is("GET", 3, "runs")) return ShowRuns(*view);
  if (is("GET", 3, "ledger")) return ShowLedger(call, *view);
  if (is("GET", 7, "runs") && parts[4] == "outputs" && parts[6] == "key") {
    return ReleaseOutput(call, *view, owner.key_id, parts[3], parts[5]);
  }
  call.kind = ProblemKind::kInvalidRequestPath;
  return NotFound("path");
}

ResponseOr Service::State::Route(Call& call) {
  const std::string& method = call.request.method;
  const std::string& path = call.request.path;
  const auto is = [&](std::string_view wanted, std::string_view name, std::string_view route) {
    if (method != wanted || path != name) return false;
    call.route = route;
    return true;
  };
  if (is("POST", kbs::kAuthPath, "auth")) return Auth(call);
  if (is("POST", kbs::kAttestPath, "attest")) return Attest(call);
  if (method == "GET" && absl::StartsWith(path, ToAbsl(kbs::kResourcePrefix))) {
    call.route = "resource";
    return Resource(call, std::string_view(path).substr(kbs::kResourcePrefix.size()));
  }
  if (is("GET", "/healthz", "healthz")) return Health(call);
  if (is("GET", "/pavise/v1/broker", "broker")) return ShowBroker();
  if (is("POST", "/pavise/v1/broker/attestation", "broker-attestation")) return AttestBroker(call);
  if (is("GET", "/pavise/v1/ledger/checkpoint", "checkpoint")) return ShowCheckpoint();
  if (is("GET", "/pavise/v1/ledger/consistency", "consistency")) return ShowConsistency(call);
  if (is("GET", "/pavise/v1/session", "session")) return ShowSession(call);
  if (is("GET", "/pavise/v1/session/agreement", "session-agreement")) {
    return ShowSessionAgreement(call);
  }
  if (absl::StartsWith(path, ToAbsl(kOwnerPrefix))) {
    const std::vector<std::string> parts =
        absl::StrSplit(absl::string_view(path).substr(kOwnerPrefix.size()), '/');
    if (parts[0] == "agreements") return RouteOwner(call, parts);
    if (method == "POST" && parts.size() == 3 && parts[0] == "runs") {
      call.route = StrCat("run-", parts[2]);
      if (parts[2] == "outputs") return DepositOutput(call, parts[1]);
      if (parts[2] == "progress") return ReportProgress(call, parts[1]);
      if (parts[2] == "end") return EndRun(call, parts[1]);
      call.route = "unknown";
    }
  }
  call.kind = ProblemKind::kInvalidRequestPath;
  return NotFound("path");
}

HttpResponse Service::State::Handle(const HttpRequest& request) {
  const absl::Time begun = absl::Now();
  Call call{request};
  ResponseOr outcome = Route(call);
  HttpResponse response;
  if (outcome.ok()) {
    response = *std::move(outcome);
  } else {
    const kbs::Problem problem = kbs::ProblemOf(call.kind, outcome.status());
    response.status = problem.status;
    response.content_type = std::string(kbs::kProblemContentType);
    response.body = kbs::FormatProblem(problem);
    if (const auto reason = ReasonOf(outcome.status())) {
      call.log["reason"] = ReasonName(*reason);
      if (options_.metrics != nullptr) options_.metrics->CountRefusal(ReasonName(*reason));
    } else {
      if (options_.metrics != nullptr) options_.metrics->CountRefusal("machine-failure");
      // Not for the client, and of the machine only: no message holds key material.
      call.log["failure"] = Printable(FromAbsl(outcome.status().message()));
    }
  }
  const absl::Duration took = absl::Now() - begun;
  if (options_.metrics != nullptr) {
    options_.metrics->CountRequest(call.route, response.status, took);
  }
  if (options_.log) {
    OrderedJson event = {{"event", "request"},
                         {"route", call.route},
                         {"status", response.status},
                         {"milliseconds", absl::ToInt64Milliseconds(took)},
                         {"peer", request.peer}};
    event.update(call.log);
    options_.log(event);
  }
  return response;
}

void Service::State::UpdateMetrics() {
  if (options_.metrics == nullptr) return;
  options_.metrics->Set("open_challenges", static_cast<double>(sessions_.challenges()));
  options_.metrics->Set("attested_sessions", static_cast<double>(sessions_.attested()));
  if (const auto status = options_.store->GetStatus(); status.ok()) {
    options_.metrics->Set("store_commits", static_cast<double>(status->commits));
    options_.metrics->Set("rollback_detected",
                          status->rollback == RollbackDetection::kNone ? 0 : 1);
  }
}

absl::Status Service::Initialize(const ServiceOptions& options, const std::string& name) {
  return State::Commit(
      options,
      [&](Act& act) -> absl::Status {
        PAVISE_RETURN_IF_ERROR(MakeBrokerKeys(act.store(), name));
        PAVISE_ASSIGN_OR_RETURN(const BrokerKeys keys, ReadBrokerKeys(act.store()));
        PAVISE_RETURN_IF_ERROR(keys.LedgerNoteKey().status());
        return absl::OkStatus();
      },
      nullptr);
}

absl::StatusOr<RotatedKey> Service::Rotate(const ServiceOptions& options, BrokerKeyUse use) {
  RotatedKey rotated;
  const absl::Status committed = State::Commit(
      options,
      [&](Act& act) -> absl::Status {
        PAVISE_ASSIGN_OR_RETURN(rotated, RotateBrokerKey(act.store(), use));
        LedgerEntry entry;
        entry.kind = EntryKind::kKeyRotation;
        entry.key = rotated.current;
        entry.previous_key = rotated.previous;
        act.Add(std::move(entry));
        return absl::OkStatus();
      },
      nullptr);
  PAVISE_RETURN_IF_ERROR(committed);
  return rotated;
}

absl::StatusOr<std::unique_ptr<Service>> Service::Create(const ServiceOptions& options) {
  if (options.store == nullptr) return UsageError("a broker needs a store");
  std::optional<BrokerKeys> keys;
  const absl::Status read = options.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_RETURN_IF_ERROR(CheckLedger(reader, {}));
    PAVISE_ASSIGN_OR_RETURN(BrokerKeys own, ReadBrokerKeys(reader));
    keys.emplace(std::move(own));
    return absl::OkStatus();
  });
  PAVISE_RETURN_IF_ERROR(read);
  const std::string signing = keys->signing.public_key().Fingerprint();
  absl::Time start;
  PAVISE_RETURN_IF_ERROR(State::Commit(
      options,
      [&](Act& act) -> absl::Status {
        LedgerEntry entry;
        entry.kind = EntryKind::kBrokerStarted;
        entry.key = signing;
        act.Add(std::move(entry));
        start = act.now();
        return absl::OkStatus();
      },
      nullptr));
  return std::unique_ptr<Service>(
      new Service(std::make_unique<State>(options, *std::move(keys), start)));
}

Service::Service(std::unique_ptr<State> state) : state_(std::move(state)) {}
Service::~Service() = default;

HttpResponse Service::Handle(const HttpRequest& request) { return state_->Handle(request); }

uint64_t Service::BodyLimit(std::string_view method, std::string_view path) const {
  if (path == kbs::kAttestPath) return state_->options().max_evidence_bytes;
  if (!absl::StartsWith(ToAbsl(path), "/pavise/v1/agreements")) return kSmallBodyBytes;
  if (method == "PUT") return kAttachmentBytes;
  return method == "POST" ? kStatementBodyBytes : kSmallBodyBytes;
}

void Service::UpdateMetrics() { state_->UpdateMetrics(); }
const BrokerKeys& Service::keys() const { return state_->keys(); }

void KeepRequestMemory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 4 << 20);
  mallopt(M_TRIM_THRESHOLD, 8 << 20);
#endif
}

}  // namespace pavise::broker
