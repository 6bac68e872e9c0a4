#include "pavise/job/job_file.h"

#include <algorithm>
#include <filesystem>
#include <tuple>
#include <utility>

#include "pavise/agent/remote_file.h"
#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/yaml.h"
#include "pavise/crypto/digest.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"

namespace pavise::job {
namespace {

constexpr YamlLimits kLimits = {
    .max_bytes = kMaxJobBytes, .max_depth = 6, .max_nodes = 4096, .max_keys = 256};
constexpr size_t kMaxTextBytes = 4096;
// Members of `worker_tls`, and the trainer's options for them.
constexpr std::pair<const char*, const char*> kWorkerTlsFiles[] = {
    {"authority", "--worker-ca"}, {"certificate", "--cert"}, {"key", "--key"}};
constexpr uint64_t kMostSeconds = 1'000'000'000;

// One map of the file. Each member is asked for once; what nobody asked for is refused at the end.
class Members {
 public:
  static absl::StatusOr<Members> Of(const YamlNode& node, const std::string& item,
                                    const std::string& path) {
    if (node.kind != YamlNode::Kind::kMap) {
      return Wrong(item, node.line, path, "names and values (name: value) belong here");
    }
    return Members(node, item, path);
  }

  static absl::Status Wrong(const std::string& item, int line, std::string_view path,
                            std::string_view detail) {
    return Refuse(Reason::kMalformed, StrCat(item, ", line ", line, path.empty() ? "" : ", ", path),
                  detail, "the format is described in docs/formats/job.md");
  }
  absl::Status Wrong(std::string_view key, std::string_view detail) const {
    const YamlNode* const node = Look(key);
    return Wrong(item_, node != nullptr ? node->line : node_.line, PathOf(key), detail);
  }

  bool Has(std::string_view key) const { return Look(key) != nullptr; }
  std::string PathOf(std::string_view key) const {
    return path_.empty() ? Printable(key) : StrCat(path_, ".", Printable(key));
  }

  absl::StatusOr<const YamlNode*> Get(std::string_view key) {
    known_.insert(std::string(key));
    const YamlNode* const node = Look(key);
    if (node == nullptr) return Wrong(item_, node_.line, PathOf(key), "is missing");
    return node;
  }
  absl::StatusOr<Members> Map(std::string_view key) {
    PAVISE_ASSIGN_OR_RETURN(const YamlNode* const node, Get(key));
    return Of(*node, item_, PathOf(key));
  }
  absl::StatusOr<std::string> Text(std::string_view key) {
    PAVISE_ASSIGN_OR_RETURN(const YamlNode* const node, Get(key));
    return TextOf(*node, PathOf(key));
  }
  absl::StatusOr<std::string> Text(std::string_view key, std::string_view otherwise) {
    known_.insert(std::string(key));
    return Has(key) ? Text(key) : absl::StatusOr<std::string>(std::string(otherwise));
  }
  absl::StatusOr<std::string> OneOf(std::string_view key, std::string_view otherwise,
                                    const std::vector<std::string>& values) {
    PAVISE_ASSIGN_OR_RETURN(std::string text, Text(key, otherwise));
    if (std::find(values.begin(), values.end(), text) == values.end()) {
      return Wrong(key, StrCat("one of ", absl::StrJoin(values, ", "), " belongs here"));
    }
    return text;
  }
  absl::StatusOr<uint64_t> Integer(std::string_view key, uint64_t otherwise, uint64_t least,
                                   uint64_t most) {
    known_.insert(std::string(key));
    const YamlNode* const node = Look(key);
    if (node == nullptr) return otherwise;
    uint64_t value = 0;
    // One spelling: no sign, no leading zero, no quotes.
    if (node->kind != YamlNode::Kind::kScalar || !node->is_plain ||
        !absl::SimpleAtoi(node->text, &value) || StrCat(value) != node->text || value < least ||
        value > most) {
      return Wrong(key, StrCat("an integer from ", least, " to ", most, " belongs here"));
    }
    return value;
  }
  absl::StatusOr<bool> Flag(std::string_view key) {
    known_.insert(std::string(key));
    const YamlNode* const node = Look(key);
    if (node == nullptr) return false;
    if (node->kind != YamlNode::Kind::kScalar || !node->is_plain ||
        (node->text != "true" && node->text != "false")) {
      return Wrong(key, "true or false belongs here");
    }
    return node->text == "true";
  }
  absl::StatusOr<std::vector<std::string>> Texts(std::string_view key) {
    known_.insert(std::string(key));
    const YamlNode* const node = Look(key);
    std::vector<std::string> texts;
    if (node == nullptr) return texts;
    if (node->kind != YamlNode::Kind::kSequence || node->items.empty()) {
      return Wrong(key, "a list [a, b] belongs here");
    }
    for (const YamlNode& each : node->items) {
      PAVISE_ASSIGN_OR_RETURN(std::string text, TextOf(each, PathOf(key)));
      texts.push_back(std::move(text));
    }
    return texts;
  }
  const std::vector<std::string>& keys() const { return node_.keys; }

  absl::Status NothingElse() const {
    for (size_t i = 0; i < node_.keys.size(); ++i) {
      if (known_.contains(node_.keys[i])) continue;
      return Wrong(item_, node_.items[i].line, PathOf(node_.keys[i]),
                   StrCat("is not known here; there are ", absl::StrJoin(known_, ", ")));
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> TextOf(const YamlNode& node, const std::string& path) const {
    if (node.kind != YamlNode::Kind::kScalar || node.text.empty()) {
      return Wrong(item_, node.line, path, "a text belongs here");
    }
    if (node.text.size() > kMaxTextBytes) {
      return Refuse(Reason::kLimitExceeded, StrCat(item_, ", line ", node.line, ", ", path),
                    StrCat("is longer than ", kMaxTextBytes, " bytes"));
    }
    return node.text;
  }
  const std::string& item() const { return item_; }

 private:
  Members(const YamlNode& node, std::string item, std::string path)
      : node_(node), item_(std::move(item)), path_(std::move(path)) {}
  const YamlNode* Look(std::string_view key) const {
    for (size_t i = 0; i < node_.keys.size() && i < node_.items.size(); ++i) {
      if (node_.keys[i] == key) return &node_.items[i];
    }
    return nullptr;
  }

  const YamlNode& node_;
  std::string item_;
  std::string path_;
  std::set<std::string> known_;
};

// "host:port", "[::1]:port".
bool IsAddress(std::string_view text) {
  const size_t colon = text.rfind(':');
  uint64_t port = 0;
  return colon != text.npos && colon > 0 &&
         absl::SimpleAtoi(ToAbsl(text.substr(colon + 1)), &port) && port >= 1 && port <= 65'535 &&
         text.find_first_of(" ,=/@\t\n") == text.npos;
}

// What the file says, however it is written. Scalars are texts.
Json AsJson(const YamlNode& node) {
  Json json;
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      break;
    case YamlNode::Kind::kScalar:
      json = node.text;
      break;
    case YamlNode::Kind::kSequence:
      json = Json::array();
      for (const YamlNode& item : node.items) json.push_back(AsJson(item));
      break;
    case YamlNode::Kind::kMap:
      json = Json::object();
      for (size_t i = 0; i < node.keys.size(); ++i) json[node.keys[i]] = AsJson(node.items[i]);
      break;
  }
  return json;
}

// Attempts of one job may have other workers: those that are gone must not be the end of it, and
// each attempt is planned anew.
absl::StatusOr<Digest32> IdentityOf(const YamlNode& root) {
  Json json = AsJson(root);
  json.erase("workers");
  json.erase("worker_tls");
  return crypto::Sha256(AsBytes(DumpJson(json, -1)));
}

class JobReader {
 public:
  JobReader(const std::string& item, const std::string& folder) {
    job_.item = item;
    job_.folder = folder;
  }

  absl::StatusOr<Job> Read(const YamlNode& node) {
    PAVISE_ASSIGN_OR_RETURN(Members root, Members::Of(node, job_.item, ""));
    PAVISE_ASSIGN_OR_RETURN(const std::string agreement, root.Text("agreement"));
    job_.agreement = Resolved(agreement);
    PAVISE_ASSIGN_OR_RETURN(job_.stage, root.Text("stage"));
    PAVISE_RETURN_IF_ERROR(ReadMode(root));
    PAVISE_RETURN_IF_ERROR(ReadBroker(root));
    PAVISE_RETURN_IF_ERROR(ReadAssets(root));
    PAVISE_RETURN_IF_ERROR(ReadOutputs(root));
    PAVISE_RETURN_IF_ERROR(ReadCommand(root));
    PAVISE_RETURN_IF_ERROR(ReadContainment(root));
    PAVISE_RETURN_IF_ERROR(ReadEvidence(root));
    PAVISE_ASSIGN_OR_RETURN(const std::string output, root.Text("output"));
    job_.output = Resolved(output);
    PAVISE_ASSIGN_OR_RETURN(const std::string reader, root.Text("ledger_reader", ""));
    if (!reader.empty()) job_.ledger_reader = Resolved(reader);
    PAVISE_RETURN_IF_ERROR(root.NothingElse());
    return std::move(job_);
  }

 private:
  std::string Resolved(const std::string& path) const {
    return (std::filesystem::path(job_.folder) / path).lexically_normal().string();
  }

  absl::Status ReadMode(Members& root) {
    static const auto& kModes =
        *new std::vector<std::string>{"measured", "tee", "confidential-gpu", "obfuscated"};
    PAVISE_RETURN_IF_ERROR(root.Get("mode").status());
    PAVISE_ASSIGN_OR_RETURN(const std::string mode, root.OneOf("mode", "", kModes));
    job_.mode =
        static_cast<TrustMode>(std::find(kModes.begin(), kModes.end(), mode) - kModes.begin());
    if (job_.mode != TrustMode::kObfuscated) {
      job_.machine = *policy::ModeNamed(mode);
      for (const char* member : {"machine", "scheme", "workers", "worker_tls"}) {
        if (root.Has(member)) return root.Wrong(member, "goes with mode obfuscated only");
      }
      return absl::OkStatus();
    }
    PAVISE_ASSIGN_OR_RETURN(
        const std::string machine,
        root.OneOf("machine", "measured", {"measured", "tee", "confidential-gpu"}));
    job_.machine = *policy::ModeNamed(machine);
    Obfuscation& obfuscation = job_.obfuscation.emplace();
    PAVISE_RETURN_IF_ERROR(root.Get("scheme").status());
    PAVISE_ASSIGN_OR_RETURN(obfuscation.scheme,
                            root.OneOf("scheme", "", {"none", "tempo", "orthogonal", "shared"}));
    PAVISE_ASSIGN_OR_RETURN(const YamlNode* const workers, root.Get("workers"));
    if (workers->kind == YamlNode::Kind::kScalar) {
      constexpr std::string_view kInProcess = "in-process:";
      const std::string_view text = workers->text;
      if (!text.starts_with(kInProcess) ||
          !absl::SimpleAtoi(ToAbsl(text.substr(kInProcess.size())), &obfuscation.in_process) ||
          obfuscation.in_process < 1 || obfuscation.in_process > kMaxWorkers ||
          StrCat(kInProcess, obfuscation.in_process) != text) {
        return root.Wrong("workers", "a list of workers, or in-process:1 to in-process:64");
      }
      if (root.Has("worker_tls")) return root.Wrong("worker_tls", "goes with workers at addresses");
      return absl::OkStatus();
    }
    return ReadWorkers(root, *workers);
  }

  absl::Status ReadWorkers(Members& root, const YamlNode& list) {
    if (list.kind != YamlNode::Kind::kSequence || list.items.empty() ||
        list.items.size() > kMaxWorkers) {
      return root.Wrong("workers", "a list of 1 to 64 workers, or in-process:N");
    }
    std::set<std::string> seen;
    for (size_t i = 0; i < list.items.size(); ++i) {
      PAVISE_ASSIGN_OR_RETURN(Members entry,
                              Members::Of(list.items[i], job_.item, StrCat("workers[", i, "]")));
      Worker worker;
      PAVISE_ASSIGN_OR_RETURN(worker.address, entry.Text("address"));
      if (!IsAddress(worker.address)) return entry.Wrong("address", "HOST:PORT belongs here");
      if (!seen.insert(worker.address).second) return entry.Wrong("address", "is named twice");
      PAVISE_ASSIGN_OR_RETURN(worker.operator_name, entry.Text("operator", ""));
      if (worker.operator_name.find_first_of(",=") != std::string::npos) {
        return entry.Wrong("operator", "has a comma or an equals sign");
      }
      PAVISE_RETURN_IF_ERROR(entry.NothingElse());
      job_.obfuscation->workers.push_back(std::move(worker));
    }
    PAVISE_ASSIGN_OR_RETURN(Members tls, root.Map("worker_tls"));
    for (const auto& [member, option] : kWorkerTlsFiles) {
      PAVISE_ASSIGN_OR_RETURN(const std::string file, tls.Text(member));
      job_.containment.files[StrCat("worker-", member)] = Resolved(file);
    }
    return tls.NothingElse();
  }

  absl::Status ReadBroker(Members& root) {
    PAVISE_ASSIGN_OR_RETURN(Members broker, root.Map("broker"));
    PAVISE_ASSIGN_OR_RETURN(job_.broker.base_url, broker.Text("url"));
    PAVISE_ASSIGN_OR_RETURN(const std::string authority, broker.Text("authority", ""));
    if (!authority.empty()) job_.broker.authority_file = Resolved(authority);
    PAVISE_ASSIGN_OR_RETURN(job_.broker.server_certificate, broker.Text("certificate", ""));
    PAVISE_ASSIGN_OR_RETURN(job_.broker.allow_plain_loopback, broker.Flag("plain_loopback"));
    return broker.NothingElse();
  }

  absl::Status ReadAssets(Members& root) {
    PAVISE_ASSIGN_OR_RETURN(Members assets, root.Map("assets"));
    for (const std::string& name : assets.keys()) {
      PAVISE_ASSIGN_OR_RETURN(const std::string file, assets.Text(name));
      job_.assets[name] = agent::IsRemote(file) ? file : Resolved(file);
    }
    return absl::OkStatus();
  }

  absl::Status ReadOutputs(Members& root) {
    PAVISE_ASSIGN_OR_RETURN(Members outputs, root.Map("outputs"));
    if (outputs.keys().empty()) return root.Wrong("outputs", "names no output");
    for (const std::string& name : outputs.keys()) {
      // It becomes a file's name, also where no plan has held it against the agreement yet.
      if (name.starts_with('.') || name.find('/') != std::string::npos) {
        return outputs.Wrong(name, "is no output's name: a-z 0-9 . _ -, not beginning with a dot");
      }
      PAVISE_ASSIGN_OR_RETURN(const std::vector<std::string> recipients, outputs.Texts(name));
      job_.outputs[name] = {recipients.begin(), recipients.end()};
      if (job_.outputs[name].size() != recipients.size() || recipients.empty()) {
        return outputs.Wrong(name, "a list of recipients, each once, belongs here");
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadCommand(Members& root) {
    const int given = root.Has("command") + root.Has("train") + root.Has("infer");
    if (given != 1) {
      return Members::Wrong(job_.item, 1, "", "one of command, train and infer belongs here");
    }
    if (root.Has("command")) {
      if (job_.obfuscation.has_value()) {
        return root.Wrong("command",
                          "mode obfuscated goes with train or infer, which say to the "
                          "trainer who multiplies");
      }
      PAVISE_ASSIGN_OR_RETURN(job_.command, root.Texts("command"));
      return absl::OkStatus();
    }
    return root.Has("train") ? ReadTrain(root) : ReadInfer(root);
  }

  // "/pavise/assets/NAME", or a file in it.
  static absl::StatusOr<std::string> AssetPath(Members& members, const std::string& asset,
                                               std::string_view file_key) {
    PAVISE_ASSIGN_OR_RETURN(const std::string name, members.Text(asset));
    PAVISE_ASSIGN_OR_RETURN(const std::string file, members.Text(file_key, ""));
    return file.empty() ? StrCat("/pavise/assets/", name)
                        : StrCat("/pavise/assets/", name, "/", file);
  }

  // "batch_size: 64" as "--batch-size 64", which the trainer's own parser reads.
  absl::Status AddSettings(Members& members, const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      PAVISE_ASSIGN_OR_RETURN(const std::string value, members.Text(name, ""));
      if (value.empty()) continue;
      if (value[0] == '-') return members.Wrong(name, "begins with a minus sign");
      std::string option = "--" + name;
      std::replace(option.begin(), option.end(), '_', '-');
      job_.command.insert(job_.command.end(), {option, value});
    }
    return absl::OkStatus();
  }

  void AddObfuscation() {
    if (!job_.obfuscation.has_value()) return;
    const Obfuscation& obfuscation = *job_.obfuscation;
    std::string workers;
    for (const Worker& worker : obfuscation.workers) {
      StrAppend(&workers, workers.empty() ? "" : ",", worker.address,
                worker.operator_name.empty() ? "" : "=", worker.operator_name);
    }
    if (obfuscation.in_process > 0) workers = StrCat("in-process:", obfuscation.in_process);
    job_.command.insert(job_.command.end(), {"--mode", "obfuscated", "--scheme", obfuscation.scheme,
                                             "--workers", workers});
    if (obfuscation.workers.empty()) return;
    for (const auto& [member, option] : kWorkerTlsFiles) {
      job_.command.insert(job_.command.end(),
                          {option, StrCat("/pavise/assets/.host/worker-", member)});
    }
    job_.network = true;
    for (const Worker& worker : obfuscation.workers) job_.destinations.insert(worker.address);
  }

  absl::Status ReadTrain(Members& root) {
    PAVISE_ASSIGN_OR_RETURN(Members train, root.Map("train"));
    job_.use = offload::Use::kTraining;
    PAVISE_ASSIGN_OR_RETURN(const std::string program, train.Text("program", "pavise-train"));
    PAVISE_ASSIGN_OR_RETURN(const std::string data, AssetPath(train, "data", "data_file"));
    PAVISE_ASSIGN_OR_RETURN(const std::string output, train.Text("output"));
    // Who made the result is what the run's statement says, so that the trainer signs nothing; its
    // checkpoint holds the offload's key, which is no recipient's.
    job_.command = {program,          "train",
                    "--data",         data,
                    "--output",       StrCat("/pavise/outputs/", output),
                    "--no-signature", "--discard-checkpoint"};
    PAVISE_ASSIGN_OR_RETURN(const std::string base, train.Text("base", ""));
    if (!base.empty())
      job_.command.insert(job_.command.end(), {"--base", StrCat("/pavise/assets/", base)});
    PAVISE_RETURN_IF_ERROR(AddSettings(
        train, {"network", "epochs", "batch_size", "optimizer", "learning_rate", "momentum",
                "weight_decay", "warmup_steps", "schedule", "seed", "crop", "train_images",
                "test_images", "threads", "wire", "micro_batches", "convolutions", "least_width"}));
    PAVISE_ASSIGN_OR_RETURN(const bool flip, train.Flag("flip"));
    if (flip) job_.command.emplace_back("--flip");
    AddObfuscation();
    return train.NothingElse();
  }

  absl::Status ReadInfer(Members& root) {
    PAVISE_ASSIGN_OR_RETURN(Members infer, root.Map("infer"));
    job_.use = offload::Use::kInference;
    PAVISE_ASSIGN_OR_RETURN(const std::string program, infer.Text("program", "pavise-train"));
    PAVISE_ASSIGN_OR_RETURN(const std::string model, infer.Text("model"));
    PAVISE_ASSIGN_OR_RETURN(const std::string data, AssetPath(infer, "data", "data_file"));
    PAVISE_ASSIGN_OR_RETURN(const std::string output, infer.Text("output"));
    // Verified again where it is used, by the signature and key that the run leaves there.
    job_.command = {program,
                    "infer",
                    StrCat("/pavise/assets/", model),
                    "--signature",
                    StrCat("/pavise/assets/.signatures/", model),
                    "--public-key",
                    StrCat("/pavise/assets/.owners/", model),
                    "--data",
                    data,
                    "--predictions",
                    StrCat("/pavise/outputs/", output)};
    PAVISE_RETURN_IF_ERROR(
        AddSettings(infer, {"split", "images", "batch_size", "threads", "guard_share", "wire",
                            "micro_batches", "convolutions", "least_width"}));
    PAVISE_ASSIGN_OR_RETURN(const std::string hash,
                            infer.OneOf("guard_hash", "tag", {"tag", "blake3", "none"}));
    // What the trainer does of itself takes no words, which the agreement would have to allow.
    if (hash != "tag") job_.command.insert(job_.command.end(), {"--guard-hash", hash});
    job_.guards_weights = hash != "none";
    AddObfuscation();
    return infer.NothingElse();
  }

  absl::Status ReadContainment(Members& root) {
    PAVISE_ASSIGN_OR_RETURN(const bool network, root.Flag("network"));
    job_.network |= network;
    // Workers are no leave to reach whatever else the stage grants.
    if (network) job_.destinations.clear();
    job_.containment.network = job_.network;
    if (!root.Has("containment")) return absl::OkStatus();
    PAVISE_ASSIGN_OR_RETURN(Members contain, root.Map("containment"));
    agent::ContainmentLimits& limits = job_.containment.limits;
    PAVISE_ASSIGN_OR_RETURN(const uint64_t memory,
                            contain.Integer("memory_mib", 4096, 1, uint64_t{1} << 30));
    PAVISE_ASSIGN_OR_RETURN(const uint64_t storage,
                            contain.Integer("storage_mib", 4096, 1, uint64_t{1} << 30));
    limits.memory_bytes = memory << 20;
    limits.storage_bytes = storage << 20;
    PAVISE_ASSIGN_OR_RETURN(const uint64_t processes,
                            contain.Integer("processes", limits.processes, 1, 1'000'000));
    PAVISE_ASSIGN_OR_RETURN(const uint64_t percent,
                            contain.Integer("cpu_percent", 0, 1, 1'000'000));
    PAVISE_ASSIGN_OR_RETURN(const uint64_t seconds, contain.Integer("seconds", 0, 1, kMostSeconds));
    limits.processes = static_cast<uint32_t>(processes);
    limits.cpu_percent = static_cast<uint32_t>(percent);
    if (seconds > 0) limits.wall_clock = absl::Seconds(static_cast<int64_t>(seconds));
    PAVISE_ASSIGN_OR_RETURN(const std::vector<std::string> accepted, contain.Texts("accept"));
    job_.containment.accepted_shortfalls = {accepted.begin(), accepted.end()};
    PAVISE_ASSIGN_OR_RETURN(const std::vector<std::string> read_only, contain.Texts("read_only"));
    for (const std::string& path : read_only) job_.containment.read_only.push_back(Resolved(path));
    PAVISE_ASSIGN_OR_RETURN(job_.containment.devices, contain.Texts("devices"));
    PAVISE_ASSIGN_OR_RETURN(job_.containment.cgroup_parent, contain.Text("cgroup", ""));
    return contain.NothingElse();
  }

  absl::Status ReadEvidence(Members& root) {
    evidence::CollectionOptions& options = job_.evidence;
    options.tee = job_.machine != policy::Mode::kMeasured;
    options.gpus = job_.machine == policy::Mode::kConfidentialGpu;
    // A guest may have a TPM beside its report, or none.
    if (options.tee) options.tcti.reset();
    if (!root.Has("evidence")) return absl::OkStatus();
    PAVISE_ASSIGN_OR_RETURN(Members evidence, root.Map("evidence"));
    PAVISE_ASSIGN_OR_RETURN(const std::string tcti, evidence.Text("tcti", ""));
    if (!tcti.empty()) options.tcti = tcti;
    PAVISE_ASSIGN_OR_RETURN(const bool no_event_log, evidence.Flag("no_event_log"));
    PAVISE_ASSIGN_OR_RETURN(const bool no_ima_log, evidence.Flag("no_ima_log"));
    options.event_log = !no_event_log;
    options.ima_log = !no_ima_log;
    for (const auto& [member, log, is_left_out] :
         {std::tuple("event_log", &options.logs.event_log, no_event_log),
          std::tuple("ima_log", &options.logs.ima_log, no_ima_log)}) {
      PAVISE_ASSIGN_OR_RETURN(const std::string file, evidence.Text(member, ""));
      if (file.empty()) continue;
      if (is_left_out) return evidence.Wrong(member, "is left out, by the line beside it");
      *log = Resolved(file);
    }
    PAVISE_ASSIGN_OR_RETURN(const std::string request, evidence.Text("tsm_report", ""));
    if (!request.empty()) {
      if (!options.tee) return evidence.Wrong("tsm_report", "goes with modes of a guest");
      options.tsm_request = Resolved(request);
    }
    return evidence.NothingElse();
  }

  Job job_;
};

}  // namespace

std::string_view TrustModeName(TrustMode mode) {
  switch (mode) {
    case TrustMode::kMeasured:
      return "measured";
    case TrustMode::kTee:
      return "tee";
    case TrustMode::kConfidentialGpu:
      return "confidential-gpu";
    case TrustMode::kObfuscated:
      return "obfuscated";
  }
  return "unknown";
}

absl::StatusOr<Job> ParseJob(ByteSpan yaml, const std::string& item, const std::string& folder) {
  PAVISE_ASSIGN_OR_RETURN(const YamlNode root, ParseYaml(yaml, item, kLimits));
  PAVISE_ASSIGN_OR_RETURN(Job job, JobReader(item, folder).Read(root));
  PAVISE_ASSIGN_OR_RETURN(job.digest, IdentityOf(root));
  return job;
}

absl::StatusOr<Job> ReadJob(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path, kMaxJobBytes));
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error) return FromErrno(error.value(), "absolute path of", path);
  return ParseJob(text, path, absolute.parent_path().string());
}

}  // namespace pavise::job
