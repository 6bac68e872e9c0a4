#include "pavise/broker/service.h"

#include <malloc.h>

#include "pavise/broker/internal/service_state.h"
#include "pavise/crypto/jwe.h"
#include "pavise/kbs/messages.h"
#include "pavise/kbs/resource_path.h"

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"

namespace pavise::broker {
namespace {

constexpr std::string_view kOwnerPrefix = "/pavise/v1/";
constexpr uint64_t kSmallBodyBytes = 64u << 10;
constexpr uint64_t kStatementBodyBytes = 24u << 20;  // base64 of an envelope of 16 MiB
constexpr uint64_t kAttachmentBytes = 16u << 20;
constexpr size_t kMostProposingPeers = 100'000;
constexpr size_t kMostPrepared = 256;
constexpr size_t kMostDeposits = 1024;
// In place of an agreement, of requests for the broker's evidence.
constexpr std::string_view kOwnEvidence = "evidence";

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

}  // namespace

absl::Status NotFound(std::string_view item) {
  return Refuse(Reason::kFileMissing, item, "is not there, or is not yours to read");
}

HttpResponse JsonResponse(const OrderedJson& body, int status) {
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

absl::StatusOr<absl::Time> NewestEntry(StoreReader& reader) {
  PAVISE_ASSIGN_OR_RETURN(const auto latest, reader.Get(Table::kMeta, kClock, kLatest));
  int64_t micros = 0;
  if (latest.has_value() && !absl::SimpleAtoi(ToAbsl(latest->RevealText()), &micros)) {
    return MachineFailure("store", "the time of the last entry does not parse");
  }
  return absl::FromUnixMicros(micros);
}

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

// ---- everybody ----

ResponseOr Service::State::Health(Call& call) {
  call.kind = ProblemKind::kUnavailable;
  absl::Time newest;
  PAVISE_RETURN_IF_ERROR(options_.store->Read([&](StoreReader& reader) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(newest, NewestEntry(reader));
    return absl::OkStatus();
  }));
  // Limits are past by the ledger's time, owners' calls and appraisals are old by it.
  if (newest > Now() + kRequestWindow) return ClockBehindLedger(newest, Now());
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
  const absl::Duration behind = start - State::ClockOf(options).Now();
  if (options.log && behind > kRequestWindow) {
    options.log({{"event", "clock-behind-ledger"}, {"seconds", absl::ToInt64Seconds(behind)}});
  }
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
