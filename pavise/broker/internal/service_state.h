#ifndef PAVISE_BROKER_INTERNAL_SERVICE_STATE_H_
#define PAVISE_BROKER_INTERNAL_SERVICE_STATE_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/broker/agreement_reader.h"
#include "pavise/broker/owner_request.h"
#include "pavise/broker/refusal_budget.h"
#include "pavise/broker/run_record.h"
#include "pavise/broker/service.h"
#include "pavise/broker/session_table.h"
#include "pavise/broker/store_ledger.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"
#include "pavise/kbs/problem.h"
#include "pavise/ledger/entry.h"
#include "pavise/policy/decision.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/time/time.h"

// What the service's calls share: service.cc has the routes and everybody's calls,
// service_machines.cc those of attested machines, service_owners.cc those of owners.
namespace pavise::broker {

using kbs::ProblemKind;
using ledger::EntryKind;
using ledger::LedgerEntry;
using policy::AgreementInForce;
using ResponseOr = absl::StatusOr<HttpResponse>;
using ViewPointer = std::shared_ptr<const AgreementView>;

// Rows of Table::kMeta.
inline constexpr std::string_view kClock = "clock";
inline constexpr std::string_view kLatest = "latest";
inline constexpr std::string_view kAgreementsGroup = "agreements";
inline constexpr std::string_view kSequenceGroup = "sequence";
inline constexpr std::string_view kInForceGroup = "in-force";

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

absl::Status NotFound(std::string_view item);
HttpResponse JsonResponse(const OrderedJson& body, int status = 200);
std::string GroupOf(std::string_view kind, std::string_view agreement);
std::array<uint8_t, 16> RunBytes(const std::string& hex);
// Text that may come from hostile evidence, as an entry takes it.
std::string Bounded(std::string_view text, size_t max_bytes);
std::vector<ledger::EntryReason> ReasonsOf(const policy::Decision& decision);
// "a=1&b=2" with each name at most once.
absl::StatusOr<std::map<std::string, std::string>> ParseQuery(const std::string& query);
absl::StatusOr<uint64_t> Number(const std::map<std::string, std::string>& parameters,
                                const std::string& name, std::optional<uint64_t> otherwise);
// The time that no entry's is before. The epoch where there is none.
absl::StatusOr<absl::Time> NewestEntry(StoreReader& reader);

// One transaction's writes, and the ledger entries that go with them.
class Act {
 public:
  Act(StoreTransaction& store, absl::Time clock, RandomSource& random)
      : store_(store), clock_(clock), random_(random) {}

  // The time of everything in it: never before that of the last one.
  absl::Status Begin() {
    PAVISE_ASSIGN_OR_RETURN(const absl::Time latest, NewestEntry(store_));
    now_ = std::max(absl::FromUnixMicros(absl::ToUnixMicros(clock_)), latest);
    return store_.Put(Table::kMeta, kClock, kLatest,
                      SecretBytes(std::to_string(absl::ToUnixMicros(now_))));
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

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_INTERNAL_SERVICE_STATE_H_
