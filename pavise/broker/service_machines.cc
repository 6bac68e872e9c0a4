#include "pavise/base/simdjson/long_json.h"
#include "pavise/broker/internal/service_state.h"
#include "pavise/crypto/jwe.h"
#include "pavise/evidence/appraise/composite/attestation_result.h"
#include "pavise/kbs/messages.h"
#include "pavise/kbs/resource_path.h"

// Calls of the machines: the key broker protocol, and runs.
namespace pavise::broker {
namespace {

constexpr size_t kMostVersionsInToken = 256;

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

}  // namespace

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

}  // namespace pavise::broker
