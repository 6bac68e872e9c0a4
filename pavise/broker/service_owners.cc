#include "pavise/broker/internal/service_state.h"
#include "pavise/crypto/jwe.h"
#include "pavise/ledger/bundle.h"

#include "absl/strings/str_split.h"

// Calls of owners, each of which a statement or a request's signature authenticates.
namespace pavise::broker {
namespace {

constexpr size_t kMostListed = 200;
constexpr size_t kMostListedAgreements = 50;
constexpr size_t kMostEarlier = 100;

}  // namespace

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

}  // namespace pavise::broker
