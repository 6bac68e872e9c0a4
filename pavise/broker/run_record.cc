#include "pavise/broker/run_record.h"

#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/numbers.h"

namespace pavise::broker {
namespace {

constexpr std::string_view kItem = "stored row";
constexpr size_t kPage = 1000;

std::string OpenRuns(const std::string& agreement, const std::string& stage) {
  return StrCat("open-run/", agreement, "/", stage);
}
std::string Counts(const std::string& agreement) { return StrCat("runs-begun/", agreement); }
std::string Revoked(const std::string& agreement) { return StrCat("revoked/", agreement); }
std::string Ended(const std::string& agreement, const std::string& stage) {
  return StrCat("ended/", agreement, "/", stage);
}
std::string OutputsOf(const std::string& agreement, const std::string& run) {
  return StrCat(agreement, "/", run);
}

absl::StatusOr<absl::Time> GetTime(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t micros, object.GetUint(key));
  return absl::FromUnixMicros(static_cast<int64_t>(micros));
}

absl::StatusOr<RunRecord> ParseRun(const std::string& id, const SecretBytes& text) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text.Reveal(), kItem));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, kItem));
  RunRecord run;
  run.id = id;
  PAVISE_ASSIGN_OR_RETURN(run.stage, object.GetString("stage"));
  PAVISE_ASSIGN_OR_RETURN(run.mode, object.GetString("mode"));
  PAVISE_ASSIGN_OR_RETURN(run.first_version, object.GetUint("first_version"));
  PAVISE_ASSIGN_OR_RETURN(run.version, object.GetUint("version"));
  PAVISE_ASSIGN_OR_RETURN(run.session, object.GetString("session"));
  PAVISE_ASSIGN_OR_RETURN(const Json* const machines, object.GetArray("machines"));
  for (const Json& machine : *machines) {
    if (!machine.is_string()) return MachineFailure(kItem, "a run on an odd machine");
    run.machines.insert(machine.get<std::string>());
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string state, object.GetString("state"));
  PAVISE_ASSIGN_OR_RETURN(run.begun, GetTime(object, "begun"));
  PAVISE_ASSIGN_OR_RETURN(run.appraised, GetTime(object, "appraised"));
  PAVISE_ASSIGN_OR_RETURN(run.epochs, object.GetUint("epochs"));
  PAVISE_ASSIGN_OR_RETURN(run.ended_index, object.GetUint("ended_index"));
  for (const RunState each : {RunState::kOpen, RunState::kEnded, RunState::kRevoked}) {
    if (state != RunStateName(each)) continue;
    run.state = each;
    return run;
  }
  return MachineFailure(kItem, "a run in no known state");
}

absl::StatusOr<OutputRecord> ParseOutput(const JsonObject& object) {
  OutputRecord output;
  PAVISE_ASSIGN_OR_RETURN(output.run, object.GetString("run"));
  PAVISE_ASSIGN_OR_RETURN(output.output, object.GetString("output"));
  PAVISE_ASSIGN_OR_RETURN(const std::string sealed, object.GetString("sealed"));
  PAVISE_ASSIGN_OR_RETURN(output.sealed, Digest32FromHex(sealed, kItem));
  PAVISE_ASSIGN_OR_RETURN(output.stage, object.GetString("stage"));
  PAVISE_ASSIGN_OR_RETURN(output.mode, object.GetString("mode"));
  PAVISE_ASSIGN_OR_RETURN(output.first_version, object.GetUint("first_version"));
  PAVISE_ASSIGN_OR_RETURN(output.version, object.GetUint("version"));
  return output;
}

// The key lies behind the JSON text and a line feed, so that it is in no string that nobody wipes.
SecretBytes WithKey(const OrderedJson& json, const SecretBytes& key) {
  const std::string text = DumpJson(json, -1);
  Bytes bytes;
  bytes.reserve(text.size() + 1 + key.size_bytes());
  bytes.insert(bytes.end(), text.begin(), text.end());
  bytes.push_back('\n');
  bytes.insert(bytes.end(), key.Reveal().begin(), key.Reveal().end());
  return SecretBytes(std::move(bytes));
}

struct Split {
  Json json;
  SecretBytes key;
};
absl::StatusOr<Split> SplitKey(const SecretBytes& row) {
  const std::string_view text = row.RevealText();
  const size_t end = text.find('\n');
  if (end == std::string_view::npos) return MachineFailure(kItem, "no key behind the record");
  Split split;
  PAVISE_ASSIGN_OR_RETURN(split.json, ParseJson(AsBytes(text.substr(0, end)), kItem));
  split.key = SecretBytes(text.substr(end + 1));
  return split;
}

}  // namespace

std::string_view RunStateName(RunState state) {
  switch (state) {
    case RunState::kOpen:
      return "open";
    case RunState::kEnded:
      return "ended";
    case RunState::kRevoked:
      break;
  }
  return "revoked";
}

OrderedJson RunRecord::ToJson() const {
  const auto text = [](absl::Time time) {
    return absl::FormatTime(absl::RFC3339_sec, time, absl::UTCTimeZone());
  };
  return {{"run", id},
          {"stage", stage},
          {"mode", mode},
          {"first_version", first_version},
          {"version", version},
          {"session", session},
          {"state", RunStateName(state)},
          {"begun", text(begun)},
          {"appraised", text(appraised)},
          {"epochs", epochs}};
}

absl::StatusOr<std::vector<RunRecord>> ReadRuns(StoreReader& reader, const std::string& agreement) {
  std::vector<RunRecord> runs;
  uint64_t after = 0;
  while (true) {
    PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows,
                            reader.List(Table::kRuns, agreement, after, kPage));
    for (const Row& row : rows) {
      PAVISE_ASSIGN_OR_RETURN(RunRecord run, ParseRun(row.name, row.value));
      runs.push_back(std::move(run));
    }
    if (rows.size() < kPage) return runs;
    after = rows.back().sequence;
  }
}

absl::StatusOr<std::optional<RunRecord>> FindRun(StoreReader& reader, const std::string& agreement,
                                                 const std::string& id) {
  PAVISE_ASSIGN_OR_RETURN(const auto row, reader.Get(Table::kRuns, agreement, id));
  if (!row.has_value()) return std::nullopt;
  PAVISE_ASSIGN_OR_RETURN(RunRecord run, ParseRun(id, *row));
  return run;
}

absl::StatusOr<std::optional<RunRecord>> FindOpenRun(StoreReader& reader,
                                                     const std::string& agreement,
                                                     const std::string& stage,
                                                     std::string_view mode,
                                                     const std::string& session) {
  PAVISE_ASSIGN_OR_RETURN(const auto id,
                          reader.Get(Table::kMeta, OpenRuns(agreement, stage), session));
  if (!id.has_value()) return std::nullopt;
  PAVISE_ASSIGN_OR_RETURN(std::optional<RunRecord> run,
                          FindRun(reader, agreement, std::string(id->RevealText())));
  if (!run.has_value()) return MachineFailure(kItem, "an open run is missing");
  if (run->mode != mode) {
    return Refuse(Reason::kBindingMismatch, "mode",
                  StrCat("the session's run began in mode ", run->mode),
                  "attest in that mode, or begin anew with a new session key");
  }
  return run;
}

absl::StatusOr<policy::RunCounters> ReadCounters(StoreReader& reader, const std::string& agreement,
                                                 const std::string& stage,
                                                 const std::optional<RunRecord>& run) {
  policy::RunCounters counters;
  for (uint64_t after = 0;;) {
    PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows,
                            reader.List(Table::kMeta, Counts(agreement), after, kPage));
    for (const Row& row : rows) {
      if (!absl::SimpleAtoi(ToAbsl(row.value.RevealText()), &counters.of_stages[row.name])) {
        return MachineFailure(kItem, "a count of runs does not parse");
      }
    }
    if (rows.size() < kPage) break;
    after = rows.back().sequence;
  }
  if (const auto count = counters.of_stages.find(stage); count != counters.of_stages.end()) {
    counters.runs_begun = count->second;
  }
  counters.run_is_open = run.has_value();
  counters.epochs_reported = run.has_value() ? run->epochs : 0;
  return counters;
}

absl::Status BeginRun(StoreTransaction& transaction, const std::string& agreement,
                      const RunRecord& run, uint64_t runs_begun) {
  PAVISE_RETURN_IF_ERROR(PutRun(transaction, agreement, run));
  PAVISE_RETURN_IF_ERROR(transaction.Put(Table::kMeta, OpenRuns(agreement, run.stage), run.session,
                                         SecretBytes(run.id)));
  return transaction.Put(Table::kMeta, Counts(agreement), run.stage,
                         SecretBytes(std::to_string(runs_begun)));
}

absl::Status PutRun(StoreTransaction& transaction, const std::string& agreement,
                    const RunRecord& run) {
  const OrderedJson json = {{"stage", run.stage},
                            {"mode", run.mode},
                            {"first_version", run.first_version},
                            {"version", run.version},
                            {"session", run.session},
                            {"machines", run.machines},
                            {"state", RunStateName(run.state)},
                            {"begun", absl::ToUnixMicros(run.begun)},
                            {"appraised", absl::ToUnixMicros(run.appraised)},
                            {"epochs", run.epochs},
                            {"ended_index", run.ended_index}};
  return transaction.Put(Table::kRuns, agreement, run.id, SecretBytes(DumpJson(json, -1)));
}

absl::Status CloseRun(StoreTransaction& transaction, const std::string& agreement, RunRecord run,
                      RunState state) {
  run.state = state;
  PAVISE_RETURN_IF_ERROR(PutRun(transaction, agreement, run));
  if (state == RunState::kRevoked) {
    PAVISE_RETURN_IF_ERROR(
        transaction.Put(Table::kMeta, Revoked(agreement), run.session, SecretBytes(run.id)));
  }
  if (state == RunState::kEnded) {
    PAVISE_RETURN_IF_ERROR(transaction.Put(Table::kMeta, Ended(agreement, run.stage), run.session,
                                           SecretBytes(run.id)));
  }
  return transaction.Delete(Table::kMeta, OpenRuns(agreement, run.stage), run.session);
}

absl::Status CheckNotEnded(StoreReader& reader, const std::string& agreement,
                           const std::string& stage, const std::string& session) {
  PAVISE_ASSIGN_OR_RETURN(const auto row,
                          reader.Get(Table::kMeta, Ended(agreement, stage), session));
  if (!row.has_value()) return absl::OkStatus();
  return Refuse(Reason::kPolicyDenied, "session", "its run has ended",
                "begin anew with a new session key");
}

absl::Status CheckNotRevoked(StoreReader& reader, const std::string& agreement,
                             const std::string& session) {
  PAVISE_ASSIGN_OR_RETURN(const auto row, reader.Get(Table::kMeta, Revoked(agreement), session));
  if (!row.has_value()) return absl::OkStatus();
  return Refuse(Reason::kRevoked, "session", "its run was stopped",
                "the owners' decisions say why; begin anew with a new session key");
}

absl::StatusOr<std::optional<DepositRecord>> ReadDeposit(StoreReader& reader,
                                                         const std::string& agreement,
                                                         const std::string& asset) {
  PAVISE_ASSIGN_OR_RETURN(const auto row, reader.Get(Table::kDeposits, agreement, asset));
  if (!row.has_value()) return std::nullopt;
  PAVISE_ASSIGN_OR_RETURN(Split split, SplitKey(*row));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(split.json, kItem));
  DepositRecord deposit;
  PAVISE_ASSIGN_OR_RETURN(deposit.envelope, object.GetString("envelope"));
  PAVISE_ASSIGN_OR_RETURN(deposit.broker_key_id, object.GetString("broker_key"));
  PAVISE_ASSIGN_OR_RETURN(deposit.time, GetTime(object, "time"));
  deposit.content_key = std::move(split.key);
  return deposit;
}

absl::Status PutDeposit(StoreTransaction& transaction, const std::string& agreement,
                        const std::string& asset, const DepositRecord& deposit) {
  const OrderedJson json = {{"envelope", deposit.envelope},
                            {"broker_key", deposit.broker_key_id},
                            {"time", absl::ToUnixMicros(deposit.time)}};
  return transaction.Put(Table::kDeposits, agreement, asset, WithKey(json, deposit.content_key));
}

absl::StatusOr<std::optional<KeptOutput>> ReadOutput(StoreReader& reader,
                                                     const std::string& agreement,
                                                     const std::string& run,
                                                     const std::string& output) {
  PAVISE_ASSIGN_OR_RETURN(const auto row,
                          reader.Get(Table::kOutputs, OutputsOf(agreement, run), output));
  if (!row.has_value()) return std::nullopt;
  PAVISE_ASSIGN_OR_RETURN(Split split, SplitKey(*row));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(split.json, kItem));
  KeptOutput kept;
  PAVISE_ASSIGN_OR_RETURN(kept.record, ParseOutput(object));
  kept.content_key = std::move(split.key);
  return kept;
}

absl::StatusOr<std::vector<OutputRecord>> ReadOutputs(StoreReader& reader,
                                                      const std::string& agreement,
                                                      const std::string& run) {
  std::vector<OutputRecord> outputs;
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows,
                          reader.List(Table::kOutputs, OutputsOf(agreement, run)));
  for (const Row& row : rows) {
    PAVISE_ASSIGN_OR_RETURN(const Split split, SplitKey(row.value));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(split.json, kItem));
    PAVISE_ASSIGN_OR_RETURN(OutputRecord output, ParseOutput(object));
    outputs.push_back(std::move(output));
  }
  return outputs;
}

absl::Status PutOutput(StoreTransaction& transaction, const std::string& agreement,
                       const OutputRecord& output, const SecretBytes& content_key) {
  const OrderedJson json = {{"run", output.run},
                            {"output", output.output},
                            {"sealed", ToHex(output.sealed)},
                            {"stage", output.stage},
                            {"mode", output.mode},
                            {"first_version", output.first_version},
                            {"version", output.version}};
  return transaction.Put(Table::kOutputs, OutputsOf(agreement, output.run), output.output,
                         WithKey(json, content_key));
}

}  // namespace pavise::broker
