#include "pavise/cli/result_arguments.h"

#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/clock.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/crypto/keys.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {

void ResultArguments::Declare(CLI::App& app) {
  constexpr const char* kGroup = "Whom to believe";
  AddOption(app, "--agreement", agreement, "ID", "of what you approved: 64 hexadecimal digits",
            kGroup)
      ->required();
  AddOption(app, "--broker-key", broker_key, "FILE",
            "the key that the broker signs tokens with (pavise broker status --signing-key-out)",
            kGroup)
      ->required();
  log.Declare(app);
}

absl::StatusOr<job::ResultTrust> ResultArguments::Resolve() const {
  PAVISE_ASSIGN_OR_RETURN(const Digest32 id, Digest32FromHex(agreement, "--agreement"));
  PAVISE_ASSIGN_OR_RETURN(const Bytes pem, ReadFile(broker_key, kMaxKeyFileBytes));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey key,
                          crypto::PublicKey::FromPem(AsText(pem), broker_key));
  PAVISE_ASSIGN_OR_RETURN(ledger::CheckpointTrust trust, log.Resolve());
  return job::ResultTrust{std::move(key), std::move(trust), id};
}

void AddResidentWeights(const agent::Provenance& run,
                        std::vector<std::pair<std::string, std::string>>& rows, OrderedJson& json) {
  json["resident_weights"] = nullptr;
  if (!run.resident_weights.has_value()) return;
  const agent::ResidentWeights& weights = *run.resident_weights;
  rows.emplace_back("weights in memory", agent::Describe(weights));
  json["resident_weights"] = {
      {"hash", weights.hash}, {"passes", weights.passes}, {"ranges", weights.ranges}};
}

void DescribeResult(const job::VerifiedResult& result, Outcome& outcome) {
  const agent::Provenance& run = result->run;
  std::vector<std::pair<std::string, std::string>> rows = {
      {"run", run.run},
      {"agreement", StrCat(run.agreement, ", version ", run.version)},
      {"stage", StrCat(run.stage, ", mode ", run.mode)},
      {"evidence",
       StrCat(ToHex(run.evidence), ", accepted by ", result->decision.rules.size(), " rules")},
      {"ledger", StrCat(result->log, ", ", result->log_size, " entries")}};
  outcome.json["run"] = run.run;
  outcome.json["agreement"] = run.agreement;
  outcome.json["version"] = run.version;
  outcome.json["stage"] = run.stage;
  outcome.json["mode"] = run.mode;
  outcome.json["evidence"] = ToHex(run.evidence);
  outcome.json["approvals"] = OrderedJson::array();
  for (const job::SignedStep& step : result->agreement) {
    rows.emplace_back(step.kind,
                      StrCat(Printable(step.stakeholder), ", version ", step.version, ", ",
                             FormatUtc(step.received), ", ledger entry ", step.ledger_index));
    outcome.json["approvals"].push_back({{"kind", step.kind},
                                         {"stakeholder", step.stakeholder},
                                         {"version", step.version},
                                         {"ledger_index", step.ledger_index}});
  }
  outcome.json["inputs"] = OrderedJson::array();
  for (const agent::ProvenanceMaterial& material : run.materials) {
    rows.emplace_back("input", StrCat(material.name, ", asset ", ToHex(material.sealed)));
    outcome.json["inputs"].push_back(
        {{"name", material.name}, {"asset_id", ToHex(material.sealed)}});
  }
  outcome.json["outputs"] = OrderedJson::array();
  for (const auto& [name, output] : run.outputs) {
    rows.emplace_back("output", StrCat(name, ", asset ", ToHex(output.sealed)));
    outcome.json["outputs"].push_back({{"name", name}, {"asset_id", ToHex(output.sealed)}});
  }
  AddResidentWeights(run, rows, outcome.json);
  outcome.json["not_enforced"] = run.not_enforced;
  for (const std::string& name : run.not_enforced) rows.emplace_back("not enforced", name);
  outcome.text += AlignedRows(rows);
}

}  // namespace pavise::cli
