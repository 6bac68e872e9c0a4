#include "pavise/agent/run.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pavise/agent/attested_run.h"
#include "pavise/agent/containment.h"
#include "pavise/agent/remote_file.h"
#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/cli/evidence_arguments.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/keys.h"
#include "pavise/kbs/client.h"
#include "pavise/policy/agreement.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kAgreementGroup = "Agreement";
constexpr const char* kBrokerGroup = "Broker";
constexpr const char* kContainmentGroup = "Containment";

class RunVerb final : public Verb {
 public:
  std::string_view name() const override { return "run"; }
  std::string_view group() const override { return "Agreements"; }
  std::string_view summary() const override {
    return "Run a stage of an agreement: attest this machine, obtain the keys, run the command "
           "contained over the unsealed assets in memory, seal what comes out.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise run --agreement $ID --stage train --broker https://broker.example:8443 "
           "--broker-ca ca.pem --asset code=code.sealed --asset scans=scans.sealed --output "
           "weights=weights.sealed --provenance weights.json -- python3 "
           "/pavise/assets/code/train.py\n"
           "\n"
           "The command sees its assets below /pavise/assets, writes /pavise/outputs/NAME, and "
           "prints to a log that stays in the containment unless the agreement has an output named "
           "log. docs/guides/run.md says what the containment stops.";
  }

  void Declare(CLI::App& app) override {
    AddOption(app, "--agreement", agreement_, "ID",
              "the agreement's id, 64 hexadecimal digits; or where it is, for an image whose "
              "reference values the agreement pins: that cannot name it",
              kAgreementGroup);
    AddOption(app, "--stage", options_.stage, "NAME", "which of its stages", kAgreementGroup);
    AddOption(app, "--mode", mode_, "measured|tee|confidential-gpu",
              "which of the stage's modes this machine is to be accepted under [measured]",
              kAgreementGroup);
    AddOption(app, "--asset", assets_, "NAME=FILE",
              "an asset's sealed file; once for each. URLs are http[s]://HOST[:PORT]/PATH: what is "
              "sealed needs no trust in the way",
              kAgreementGroup);
    AddOption(app, "--output", outputs_, "NAME=FILE",
              "where to seal an output to; once for each. To URLs it is sent with PUT",
              kAgreementGroup);
    AddOption(app, "--provenance", options_.provenance, "FILE",
              "where to write the signed statement of the outputs' origin", kAgreementGroup);
    AddOption(
        app, "--evidence", options_.evidence, "FILE",
        "where to write the evidence that the run begins on, for pavise job collect [nowhere]",
        kAgreementGroup);
    AddOption(app, "--broker", broker_.base_url, "URL[,URL]",
              "https://HOST[:PORT], unix:/PATH, or with --plain-loopback http://127.0.0.1:PORT; "
              "several are brokers side by side, of which one is used while it answers",
              kBrokerGroup);
    AddOption(app, "--broker-ca", broker_.authority_file, "FILE",
              "PEM certificates of the broker's authority", kBrokerGroup);
    AddOption(app, "--broker-certificate", broker_.server_certificate, "HEX",
              "SHA-256 of the broker's certificate (DER), in place of an authority", kBrokerGroup);
    AddFlag(app, "--plain-loopback", broker_.allow_plain_loopback,
            "allow HTTP without TLS to this machine itself", kBrokerGroup);
    AddOption(app, "--memory", memory_, "SIZE", "of all processes together [4GiB]",
              kContainmentGroup);
    AddOption(app, "--storage", storage_, "SIZE",
              "memory for assets, outputs and scratch together [4GiB]", kContainmentGroup);
    AddOption(app, "--processes", processes_, "N", "processes and threads [1024]",
              kContainmentGroup);
    AddOption(app, "--cpu-percent", cpu_percent_, "N", "100 is one CPU [no limit]",
              kContainmentGroup);
    AddOption(app, "--seconds", seconds_, "N", "the longest that the command may run [no limit]",
              kContainmentGroup);
    AddFlag(app, "--network", options_.network,
            "let the command reach what the stage grants, through HTTPS_PROXY", kContainmentGroup);
    AddOption(app, "--read-only", containment_.read_only, "PATH",
              "show a file or directory of this machine to the command", kContainmentGroup);
    AddOption(app, "--device", containment_.devices, "FILE",
              "give the command a device file below /dev", kContainmentGroup);
    AddOption(app, "--cgroup", containment_.cgroup_parent, "DIRECTORY",
              "a cgroup v2 that may be divided [this process's]", kContainmentGroup);
    AddOption(app, "--accept", accepted_, "NAME",
              "go on without a limit that this machine does not enforce", kContainmentGroup);
    evidence_.Declare(app);
    app.add_option("COMMAND", options_.command, "after --: the program and its arguments")
        ->required();
  }

  absl::StatusOr<Outcome> Run(const Session&) override;

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return StrCat("stage ", Printable(options_.stage), " did not run to its end");
  }

 private:
  absl::Status Resolve();

  agent::RunOptions options_;
  agent::ContainmentOptions containment_;
  kbs::ClientOptions broker_;
  EvidenceArguments evidence_;
  std::string agreement_;
  std::string mode_ = "measured";
  std::vector<std::string> assets_;
  std::vector<std::string> outputs_;
  std::vector<std::string> accepted_;
  std::string memory_ = "4GiB";
  std::string storage_ = "4GiB";
  std::string processes_ = "1024";
  std::string cpu_percent_ = "0";
  std::string seconds_ = "0";
};

absl::Status RunVerb::Resolve() {
  if (options_.stage.empty() || broker_.base_url.empty() || options_.provenance.empty()) {
    return UsageError("--agreement, --stage, --broker and --provenance are needed");
  }
  if (agent::IsRemote(agreement_)) {
    PAVISE_ASSIGN_OR_RETURN(agreement_, agent::FetchText(agreement_));
    while (!agreement_.empty() && agreement_.back() == '\n') agreement_.pop_back();
  }
  PAVISE_ASSIGN_OR_RETURN(const Digest32 id, Digest32FromHex(agreement_, "--agreement"));
  options_.agreement = ToHex(id);
  options_.mode = mode_ == "tee"                ? policy::Mode::kTee
                  : mode_ == "confidential-gpu" ? policy::Mode::kConfidentialGpu
                                                : policy::Mode::kMeasured;
  PAVISE_ASSIGN_OR_RETURN(options_.assets, ParseNamedPaths("--asset", assets_));
  PAVISE_ASSIGN_OR_RETURN(options_.outputs, ParseNamedPaths("--output", outputs_));
  containment_.accepted_shortfalls = {accepted_.begin(), accepted_.end()};
  agent::ContainmentLimits& limits = containment_.limits;
  PAVISE_ASSIGN_OR_RETURN(limits.memory_bytes, ParseSize("--memory", memory_));
  PAVISE_ASSIGN_OR_RETURN(limits.storage_bytes, ParseSize("--storage", storage_));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t processes, ParseCount("--processes", processes_));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t percent, ParseCount("--cpu-percent", cpu_percent_));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t seconds, ParseCount("--seconds", seconds_));
  constexpr uint64_t kMost = 1'000'000'000;
  if (processes == 0 || processes > kMost || percent > kMost || seconds > kMost) {
    return UsageError("--processes, --cpu-percent or --seconds is out of range");
  }
  limits.processes = static_cast<uint32_t>(processes);
  limits.cpu_percent = static_cast<uint32_t>(percent);
  if (seconds > 0) limits.wall_clock = absl::Seconds(static_cast<int64_t>(seconds));
  return absl::OkStatus();
}

absl::StatusOr<Outcome> RunVerb::Run(const Session&) {
  PAVISE_RETURN_IF_ERROR(Resolve());
  PAVISE_ASSIGN_OR_RETURN(const evidence::CollectionOptions collection, evidence_.Resolve());
  PAVISE_ASSIGN_OR_RETURN(
      const agent::RunResult result,
      agent::RunAttested(options_, containment_, broker_,
                         [&](const Digest32& nonce, const crypto::PublicKey& key) {
                           return evidence::CollectEvidence(collection, nonce, key);
                         }));

  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat("stage ", Printable(options_.stage), " ran, its outputs are sealed");
  std::vector<std::pair<std::string, std::string>> rows = {
      {"agreement", StrCat(options_.agreement, ", version ", result.version)},
      {"run", result.run},
      {"ledger entry", StrCat(result.ledger_index)},
      {"re-attested", StrCat(result.reattestations)}};
  OrderedJson outputs = OrderedJson::object();
  for (const auto& [name, sealed] : result.outputs) {
    rows.emplace_back("output", StrCat(name, ", asset ", ToHex(sealed.id)));
    outputs[name] = {{"sealed", options_.outputs.at(name)},
                     {"asset_id", ToHex(sealed.id)},
                     {"sha256", ToHex(sealed.file_sha256)}};
  }
  rows.emplace_back("provenance", options_.provenance);
  OrderedJson not_enforced = OrderedJson::array();
  for (const agent::Shortfall& shortfall : result.shortfalls) {
    rows.emplace_back("not enforced", StrCat(shortfall.name, ": ", shortfall.detail));
    not_enforced.push_back(shortfall.name);
  }
  outcome.text = AlignedRows(rows);
  outcome.json = {{"agreement", options_.agreement},
                  {"version", result.version},
                  {"stage", options_.stage},
                  {"run", result.run},
                  {"ledger_index", result.ledger_index},
                  {"reattestations", result.reattestations},
                  {"outputs", outputs},
                  {"provenance", options_.provenance},
                  {"not_enforced", not_enforced}};
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewRunVerb() { return std::make_unique<RunVerb>(); }

}  // namespace pavise::cli
