#include "pavise/job/plan.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <set>
#include <utility>

#include "pavise/agent/remote_file.h"
#include "pavise/base/file.h"
#include "pavise/base/random.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/keys.h"
#include "pavise/job/agreement_folder.h"
#include "pavise/offload/scheme.h"
#include "pavise/offload/scheme_named.h"
#include "pavise/policy/decision.h"
#include "pavise/policy/history.h"
#include "pavise/policy/stage_evidence.h"
#include "pavise/vault/sealed_asset.h"

#include "absl/strings/str_join.h"

namespace pavise::job {
namespace {

constexpr int kWorkerTimeoutMs = 5'000;

// Whether something takes connections there. TLS and identities are the trainer's to check.
bool Answers(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found) != 0) return false;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> list(found, &freeaddrinfo);
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const FileDescriptor socket(
        ::socket(at->ai_family, at->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, at->ai_protocol));
    if (!socket.is_open()) continue;
    if (connect(socket.get(), at->ai_addr, at->ai_addrlen) == 0) return true;
    if (errno != EINPROGRESS) continue;
    pollfd wait = {.fd = socket.get(), .events = POLLOUT, .revents = 0};
    int error = 0;
    socklen_t size = sizeof error;
    if (poll(&wait, 1, kWorkerTimeoutMs) == 1 &&
        getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0) {
      return true;
    }
  }
  return false;
}

class Planner {
 public:
  Planner(const Job& job, const Machine& machine) : job_(job), machine_(machine) {}

  absl::StatusOr<Plan> Make() {
    PAVISE_RETURN_IF_ERROR(ReadAgreement());
    const auto found = agreement().stages.find(job_.stage);
    if (found == agreement().stages.end()) {
      std::vector<std::string> names;
      for (const auto& [name, stage] : agreement().stages) names.push_back(name);
      return Refuse(Reason::kPolicyDenied, Named("stage"),
                    StrCat(Printable(job_.stage), " is no stage of the agreement"),
                    StrCat("one of ", absl::StrJoin(names, ", ")));
    }
    stage_ = &found->second;
    CheckCommand();
    CheckAssets();
    CheckOutputs();
    CheckWorkers();
    CheckContainment();
    PAVISE_RETURN_IF_ERROR(CheckMachine());
    const absl::Status broker = AskBroker();
    if (!RefusalsOf(broker).empty()) Add(broker);
    if (!findings_.empty()) return Refuse(std::move(findings_));
    PAVISE_RETURN_IF_ERROR(broker);
    Describe();
    return std::move(plan_);
  }

 private:
  std::string Named(std::string_view member) const { return StrCat(job_.item, ": ", member); }
  const policy::Agreement& agreement() const { return *(*in_force_)->agreement; }
  void Add(Reason reason, std::string_view item, std::string_view detail,
           std::string_view remedy = "") {
    findings_.push_back({reason, std::string(item), std::string(detail), std::string(remedy)});
  }
  void Add(const absl::Status& status) {
    for (Refusal& finding : RefusalsOf(status)) findings_.push_back(std::move(finding));
  }
  // The same where it is no refusal: that a machine cannot is the plan's verdict.
  void AddUnsupported(std::string_view item, std::string_view what, const absl::Status& status,
                      std::string_view remedy) {
    const std::vector<Refusal> found = RefusalsOf(status);
    const std::string why = found.empty() ? std::string(FromAbsl(status.message()))
                                          : StrCat(found[0].item, ": ", found[0].detail);
    Add(Reason::kUnsupported, item, StrCat(what, ": ", why),
        found.empty() || found[0].remedy.empty() ? remedy : std::string_view(found[0].remedy));
  }

  absl::Status ReadAgreement() {
    PAVISE_ASSIGN_OR_RETURN(AgreementFolder folder, AgreementFolder::Read(job_.agreement));
    folder_.emplace(std::move(folder));
    const absl::Time now = machine_.clock->Now();
    PAVISE_ASSIGN_OR_RETURN(
        policy::AgreementHistory history,
        folder_->Replay(folder_->statements().size(),
                        [&](const AgreementFolder::Statement&) { return now; }));
    in_force_ = history.InForce();
    if (!in_force_.has_value()) {
      std::vector<std::string> missing;
      for (const policy::OpenProposal& open : history.Open()) {
        missing.insert(missing.end(), open.missing.begin(), open.missing.end());
      }
      return Refuse(
          Reason::kEvidenceMissing, job_.agreement,
          StrCat("no version of this agreement is in force: ", absl::StrJoin(missing, "; ")),
          "wait for the approvals, then write the folder anew (pavise policy show)");
    }
    plan_.agreement = history.IdHex();
    plan_.version = agreement().version;
    return absl::OkStatus();
  }

  void CheckCommand() {
    Add(policy::CheckCommand(*stage_, job_.command));
    if (job_.network && stage_->network.empty()) {
      Add(Reason::kPolicyDenied, Named("network"), "the stage grants no destination",
          "leave it out, or let the owners agree on destinations");
    }
    if (!job_.obfuscation.has_value()) return;
    for (const Worker& worker : job_.obfuscation->workers) {
      if (stage_->network.empty() || stage_->network.contains(worker.address)) continue;
      Add(Reason::kPolicyDenied, worker.address, "is no destination that the stage grants",
          StrCat("one of ", absl::StrJoin(stage_->network, ", ")));
    }
  }

  void CheckAssets() {
    const std::set<std::string> wanted = agreement().AssetsOf(*stage_);
    for (const std::string& name : wanted) {
      if (job_.assets.contains(name)) continue;
      Add(Reason::kFileMissing, Named("assets"),
          StrCat("the stage uses ", name, ", and no file is named for it"),
          StrCat("add ", name, ": FILE"));
    }
    for (const auto& [name, file] : job_.assets) {
      if (!wanted.contains(name)) {
        Add(Reason::kPolicyDenied, Named(StrCat("assets.", Printable(name))), "is not the stage's",
            "leave it out");
        continue;
      }
      if (agent::IsRemote(file)) continue;
      const absl::StatusOr<vault::SealedAsset> sealed = vault::SealedAsset::Open(file);
      if (!sealed.ok()) {
        if (RefusalsOf(sealed.status()).empty()) {
          AddUnsupported(file, "cannot be read", sealed.status(), "");
        }
        Add(sealed.status());
        continue;
      }
      const policy::Asset& asset = agreement().assets.at(name);
      if (sealed->asset_id() != ToHex(asset.sealed)) {
        Add(Reason::kContentMismatch, file,
            StrCat("is the sealed asset ", sealed->asset_id(), "; the agreement names ",
                   ToHex(asset.sealed), " for ", name),
            "take the file that its owner sealed for this agreement");
      } else if (sealed->header().statement_sha256 != asset.statement) {
        Add(Reason::kContentMismatch, file, "is sealed over another signed statement");
      }
      std::error_code ignored;
      sealed_bytes_ += std::filesystem::file_size(file, ignored);
    }
    if (sealed_bytes_ > job_.containment.limits.storage_bytes) {
      Add(Reason::kLimitExceeded, Named("containment.storage_mib"),
          StrCat("the assets take ", sealed_bytes_ >> 20, " MiB, more than the storage has"),
          "more storage: assets, outputs and scratch lie there together");
    }
  }

  void CheckOutputs() {
    for (const auto& [name, recipients] : job_.outputs) {
      const auto found = stage_->outputs.find(name);
      if (found == stage_->outputs.end()) {
        Add(Reason::kPolicyDenied, Named(StrCat("outputs.", Printable(name))),
            "is no output of the stage", "leave it out");
        continue;
      }
      if (recipients == found->second.recipients) continue;
      Add(Reason::kPolicyDenied, Named(StrCat("outputs.", name)),
          StrCat("goes to ", Printable(absl::StrJoin(recipients, ", ")),
                 " here, and by the agreement to ", absl::StrJoin(found->second.recipients, ", ")),
          "name the agreement's recipients: the broker gives the key to no others");
    }
    for (const auto& [name, output] : stage_->outputs) {
      if (job_.outputs.contains(name)) continue;
      Add(Reason::kFileMissing, Named("outputs"), StrCat("the stage gives ", name, " too"),
          StrCat("add ", name, ": [", absl::StrJoin(output.recipients, ", "), "]"));
    }
  }

  void CheckWorkers() {
    if (!job_.obfuscation.has_value()) return;
    const Obfuscation& obfuscation = *job_.obfuscation;
    const auto scheme = offload::NewSchemeNamed(obfuscation.scheme);
    if (!scheme.ok() || !job_.use.has_value()) return;
    if (!(*scheme)->supports(*job_.use)) {
      Add(Reason::kUnsupported, Named("scheme"),
          StrCat(obfuscation.scheme, " is not for ", offload::UseName(*job_.use)));
    }
    std::set<std::string> operators;
    for (const Worker& worker : obfuscation.workers) operators.insert(worker.operator_name);
    operators.erase("");
    const size_t workers = std::max<size_t>(obfuscation.workers.size(), obfuscation.in_process);
    const size_t distinct = obfuscation.in_process > 0 ? obfuscation.in_process : operators.size();
    if (workers < (*scheme)->workers()) {
      Add(Reason::kPolicyDenied, Named("workers"),
          StrCat(obfuscation.scheme, " needs ", (*scheme)->workers(), " workers, and ", workers,
                 " are named"),
          "name more workers");
    } else if ((*scheme)->workers() > 1 && distinct < (*scheme)->workers()) {
      Add(Reason::kPolicyDenied, Named("workers"),
          StrCat(obfuscation.scheme, " hides from operators that do not collude: ",
                 (*scheme)->workers(), " distinct ones, and ", distinct, " are named"),
          "name the operator of each worker, and take workers of different ones");
    }
    for (const Worker& worker : obfuscation.workers) {
      if (Answers(worker.address)) continue;
      Add(Reason::kStateMissing, worker.address, "no worker takes connections there",
          "start pavise-worker there, or name another one in its place");
    }
    plan_.leaks = LeakageLines((*scheme)->leakage(*job_.use));
  }

  void CheckContainment() {
    // Made as the run makes it, and dropped.
    const auto containment = agent::Containment::Create(job_.containment, job_.command);
    if (containment.ok()) {
      for (const agent::Shortfall& shortfall : (*containment)->shortfalls()) {
        plan_.trusted.push_back(
            StrCat("not enforced, as you accepted: ", shortfall.name, ", ", shortfall.detail));
      }
      return;
    }
    if (RefusalsOf(containment.status()).empty()) {
      AddUnsupported(Named("containment"), "the command cannot be contained", containment.status(),
                     "");
    }
    Add(containment.status());
  }

  // This machine's evidence of now, by the owners' rules: what the broker will ask, but for its
  // challenge.
  absl::Status CheckMachine() {
    const std::string_view mode = policy::ModeName(job_.machine);
    if (!stage_->modes.contains(job_.machine)) {
      Add(Reason::kPolicyDenied, Named("mode"),
          StrCat(mode, " is not allowed for stage ", job_.stage));
      return absl::OkStatus();
    }
    const absl::StatusOr<policy::StageEvidence> rules =
        policy::StageEvidence::Prepare(*in_force_, job_.stage, job_.machine, *folder_);
    if (!rules.ok()) {
      Add(rules.status());
      return RefusalsOf(rules.status()).empty() ? rules.status() : absl::OkStatus();
    }
    Digest32 nonce{};
    PAVISE_RETURN_IF_ERROR(SystemRandom().Fill(nonce));
    PAVISE_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
                            crypto::PrivateKey::Generate(crypto::KeyType::kEcP256));
    const absl::StatusOr<evidence::CompositeEvidence> evidence =
        machine_.evidence(nonce, key.public_key());
    if (!evidence.ok()) {
      AddUnsupported(mode, "this machine cannot offer it", evidence.status(),
                     "another mode, or another machine");
    }
    const absl::Time now = machine_.clock->Now();
    const policy::StageAppraisal appraisal = rules->Appraise(
        evidence.ok() ? *evidence : evidence::CompositeEvidence{.nonce = nonce}, nonce, now);
    const policy::Decision decision = policy::DecideRun(*in_force_, appraisal, {}, now);
    Add(decision.Verdict());
    plan_.checked.push_back(StrCat(
        "this machine's evidence, by the rules of ",
        appraisal->appraisals.size() == 1 ? "one set of owners' rules" : "each owner's rules", " (",
        decision.rules.size(), " rules)"));
    return absl::OkStatus();
  }

  absl::Status AskBroker() {
    PAVISE_ASSIGN_OR_RETURN(kbs::Client client, kbs::Client::Create(job_.broker));
    PAVISE_ASSIGN_OR_RETURN(const Json answer, client.RequestJson("GET", "/pavise/v1/broker"));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject broker, JsonObject::From(answer, "broker"));
    PAVISE_ASSIGN_OR_RETURN(const std::string pem, broker.GetString("signing_key"));
    PAVISE_ASSIGN_OR_RETURN(const std::string ledger, broker.GetString("ledger_key"));
    PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key,
                            crypto::PublicKey::FromPem(pem, "broker's signing key"));
    plan_.trusted.push_back(StrCat("the broker that signs with ", key.Fingerprint(),
                                   " and keeps the ledger ", Printable(ledger),
                                   ": it holds the keys; owners appraised it when they deposited"));
    return absl::OkStatus();
  }

  void Describe() {
    const std::vector<std::string> trust = TrustLines(policy::ModeName(job_.machine));
    plan_.trusted.insert(plan_.trusted.begin(), trust.begin(), trust.end());
    plan_.trusted.push_back(StrCat("the code of ", stage_->code, ", which its owner ",
                                   agreement().assets.at(stage_->code).owner, " signed"));
    if (job_.obfuscation.has_value() && job_.obfuscation->in_process > 0) {
      plan_.leaks.push_back(
          "workers within the command hide nothing from this machine: for trying out only");
    }
    if (!job_.obfuscation.has_value()) {
      plan_.leaks.push_back("to nobody beside those trusted: sizes of the sealed files, and time");
    }
    if (job_.network) {
      plan_.leaks.push_back(StrCat(
          "the command may reach ",
          absl::StrJoin(job_.destinations.empty() ? stage_->network : job_.destinations, ", "),
          ", from this machine's network"));
    }
    std::vector<std::string> seen = job_.containment.read_only;
    seen.insert(seen.end(), job_.containment.devices.begin(), job_.containment.devices.end());
    if (!seen.empty()) {
      plan_.leaks.push_back(
          StrCat("of this machine the command sees, beside programs and libraries: ",
                 absl::StrJoin(seen, ", ")));
    }
    for (const auto& [name, output] : stage_->outputs) {
      plan_.leaks.push_back(
          StrCat("output ", name, " goes to ", absl::StrJoin(output.recipients, ", "),
                 " after approvals; a model may remember what it was trained on"));
    }
    size_t remote = 0;
    for (const auto& [name, file] : job_.assets) remote += agent::IsRemote(file) ? 1 : 0;
    plan_.checked.push_back(
        "the agreement's signatures and approvals, stage, mode, command, "
        "outputs and recipients, each owner's rules, dates and withdrawals");
    plan_.checked.push_back(StrCat(
        job_.assets.size() - remote, " sealed files by id and length",
        remote > 0 ? StrCat("; ", remote, " at URLs are looked at in the run") : std::string()));
    plan_.checked.push_back(
        "in the run: each segment, each asset's signature, the machine again before outputs' keys");
    if (job_.guards_weights) {
      plan_.checked.push_back(
          "in the run: the weights in memory, again and again between batches; a change ends it");
    } else if (job_.use == offload::Use::kInference) {
      plan_.trusted.emplace_back(
          "this machine's memory: what changes the weights there is not noticed (guard_hash: "
          "none)");
    }
    plan_.cost.push_back(StrCat("one run of the ", stage_->limits.runs,
                                " that the agreement allows (the broker counts); every run that "
                                "is begun counts, also one that is cut off"));
    plan_.cost.push_back(StrCat(job_.assets.size(), " keys released, ", stage_->outputs.size(),
                                " deposited, each with a ledger entry"));
    plan_.cost.push_back(StrCat(sealed_bytes_, " bytes to unseal into memory"));
    const std::vector<std::string> expected = ExpectedCost(
        job_, machine_.figures.has_value() ? &*machine_.figures : nullptr, machine_.hardware);
    plan_.cost.insert(plan_.cost.end(), expected.begin(), expected.end());
  }

  const Job& job_;
  const Machine& machine_;
  std::optional<AgreementFolder> folder_;
  std::optional<policy::AgreementInForce> in_force_;
  const policy::Stage* stage_ = nullptr;
  uint64_t sealed_bytes_ = 0;
  std::vector<Refusal> findings_;
  Plan plan_;
};

}  // namespace

Machine ThisMachine(const Job& job) {
  return {.evidence = [options = job.evidence](const Digest32& nonce,
                                               const crypto::PublicKey& session_key) {
    return evidence::CollectEvidence(options, nonce, session_key);
  }};
}

std::vector<std::string> LeakageLines(const offload::LeakageProfile& profile) {
  std::vector<std::string> lines = {
      StrCat("to each worker, under ", profile.scheme, ": inputs ",
             offload::ExposureName(profile.inputs), ", weights ",
             offload::ExposureName(profile.weights), ", outputs ",
             offload::ExposureName(profile.outputs), ", gradients ",
             offload::ExposureName(profile.gradients), "; and shapes, number of steps, times"),
      StrCat("assumed: ", profile.assumption)};
  for (const std::string_view leak : profile.leaks) lines.push_back(StrCat("leaks ", leak));
  for (const offload::KnownAttack& attack : profile.attacks) {
    lines.push_back(StrCat("attack ", attack.name, ", with ", attack.needs, ": ", attack.recovers));
  }
  return lines;
}

std::vector<std::string> TrustLines(std::string_view mode) {
  if (mode == "measured") {
    return {
        "this machine's TPM, firmware, kernel and programs, by the digests that the owners "
        "accept; its hardware, and whoever has it in hand"};
  }
  std::vector<std::string> lines = {
      "the CPU's maker, its TEE and the guest's image, by the measurements that the owners accept; "
      "not the host, its operator or its memory"};
  if (mode == "confidential-gpu") {
    lines.emplace_back("the GPU's maker and firmware, in confidential mode");
  }
  return lines;
}

absl::StatusOr<Plan> MakePlan(const Job& job, const Machine& machine) {
  return Planner(job, machine).Make();
}

}  // namespace pavise::job
