#include "pavise/loading/load.h"

#include <signal.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <set>

#include "pavise/base/strings.h"
#include "pavise/cli/guard_report.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/statement_json.h"
#include "pavise/cli/verb.h"
#include "pavise/cli/verification_arguments.h"
#include "pavise/hash/devices.h"
#include "pavise/loading/guard.h"

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace pavise::cli {
namespace {

constexpr const char* kDeviceGroup = "Device";
constexpr const char* kGuardGroup = "Guard";
constexpr uint64_t kMostGuardSeconds = 1'000'000'000;

// Whether SIGINT or SIGTERM came while one of these lives; a signal that was ignored stays so. One
// at a time.
class Interruption {
 public:
  Interruption() {
    came_ = false;
    for (size_t i = 0; i < kSignals.size(); ++i) {
      struct sigaction action = {};
      action.sa_handler = [](int) { came_ = true; };
      sigemptyset(&action.sa_mask);
      sigaction(kSignals[i], nullptr, &before_[i]);
      if (before_[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &action, nullptr);
    }
  }
  ~Interruption() {
    for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
  }
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;

  static bool came() { return came_; }

 private:
  static constexpr std::array<int, 2> kSignals = {SIGINT, SIGTERM};
  static inline std::atomic<bool> came_{false};
  static_assert(std::atomic<bool>::is_always_lock_free);
  std::array<struct sigaction, kSignals.size()> before_ = {};
};

struct GuardArguments {
  bool guard = false;
  std::string hash;
  std::string share;
  std::string seconds;

  void Declare(CLI::App& app) {
    AddFlag(app, "--guard", guard,
            "after the load, check the bytes in memory again and again, and refuse if any changes",
            kGuardGroup);
    AddOption(app, "--guard-hash", hash, "tag|blake3",
              "tag: keyed tags at the speed of memory; blake3: the signed tree, which also holds "
              "against who reads the device's memory [tag]",
              kGuardGroup);
    AddOption(app, "--guard-share", share, "PERCENT", "of the time that it may take [1]",
              kGuardGroup);
    AddOption(app, "--guard-seconds", seconds, "N",
              "how long; 0: until it is interrupted (SIGINT, SIGTERM) [10]", kGuardGroup);
  }

  absl::Status Resolve() {
    if (!guard) {
      if (hash.empty() && share.empty() && seconds.empty()) return absl::OkStatus();
      return UsageError("--guard-hash, --guard-share and --guard-seconds go with --guard");
    }
    options.hash = hash == "blake3" ? loading::GuardHash::kBlake3 : loading::GuardHash::kTag;
    if (!share.empty()) {
      PAVISE_ASSIGN_OR_RETURN(options.share_of_time, ParseGuardShare(share));
    }
    if (!seconds.empty()) {
      PAVISE_ASSIGN_OR_RETURN(duration_seconds, ParseCount("--guard-seconds", seconds));
      if (duration_seconds > kMostGuardSeconds) {
        return UsageError(StrCat("--guard-seconds: at most ", kMostGuardSeconds));
      }
    }
    return absl::OkStatus();
  }

  loading::GuardOptions options;
  uint64_t duration_seconds = 10;
};

// "--slice GLOB:DIM" and "--rank R/N", for all slices together.
struct SliceArguments {
  std::vector<std::string> slices;
  std::string rank;

  void Declare(CLI::App& app) {
    AddOption(app, "--slice", slices, "GLOB:DIM",
              "of tensors of these names, load only the share of --rank along dimension DIM, "
              "counted from the outermost, 0 (repeatable); needs the tree file",
              "What is loaded");
    AddOption(app, "--rank", rank, "R/N",
              "whose share: of N equal ones that of rank R, from 0 [under mpirun: this rank's]",
              "What is loaded");
  }

  // `run`: not nullptr under mpirun, which knows the ranks itself.
  absl::StatusOr<std::vector<loading::Slice>> Resolve(const loading::RankedRun* run) const {
    std::vector<loading::Slice> resolved;
    if (run != nullptr && !rank.empty()) {
      return UsageError("--rank: mpirun says which rank this is; leave it out, or give --no-mpi");
    }
    if (run == nullptr && slices.empty() != rank.empty()) {
      return UsageError("--slice and --rank go together");
    }
    if (slices.empty()) return resolved;
    loading::Slice slice;
    if (run != nullptr) {
      slice.rank = run->rank();
      slice.ranks = run->size();
    } else {
      const size_t slash = rank.find('/');
      if (slash == std::string::npos) return UsageError("--rank: R/N, for example 0/8");
      PAVISE_ASSIGN_OR_RETURN(slice.rank, ParseCount("--rank", rank.substr(0, slash)));
      PAVISE_ASSIGN_OR_RETURN(slice.ranks, ParseCount("--rank", rank.substr(slash + 1)));
    }
    for (const std::string& text : slices) {
      // Names may hold colons.
      const size_t colon = text.rfind(':');
      if (colon == std::string::npos || colon == 0) {
        return UsageError("--slice: GLOB:DIM, for example '*.q_proj.weight:0'");
      }
      slice.tensors = text.substr(0, colon);
      PAVISE_ASSIGN_OR_RETURN(slice.dimension, ParseCount("--slice", text.substr(colon + 1)));
      resolved.push_back(slice);
    }
    return resolved;
  }
};

std::string ShapeText(const std::vector<uint64_t>& shape) {
  return StrCat("[", absl::StrJoin(shape, ","), "]");
}

void AddSliceRows(const loading::LoadedModel& model,
                  std::vector<std::pair<std::string, std::string>>& rows) {
  std::vector<std::string> shares;
  const loading::Slice* slice = nullptr;
  for (const loading::LoadedTensor& tensor : model.tensors) {
    if (!tensor.slice.has_value()) continue;
    slice = &*tensor.slice;
    shares.push_back(StrCat(Printable(tensor.entry.name), " ", ShapeText(tensor.view.shape),
                            " along ", slice->dimension));
  }
  if (shares.empty()) return;
  rows.emplace_back("slices", StrCat("rank ", slice->rank, " of ", slice->ranks, ", ",
                                     Counted(shares.size(), "share"), ": ", SomeOf(shares)));
}

OrderedJson SlicesJson(const loading::LoadedModel& model) {
  OrderedJson json = OrderedJson::array();
  for (const loading::LoadedTensor& tensor : model.tensors) {
    if (!tensor.slice.has_value()) continue;
    OrderedJson share;
    share["tensor"] = tensor.entry.name;
    share["file"] = tensor.file;
    share["dimension"] = tensor.slice->dimension;
    share["rank"] = tensor.slice->rank;
    share["ranks"] = tensor.slice->ranks;
    share["shape"] = tensor.view.shape;
    share["strides_elements"] = tensor.view.strides_elements;
    share["begin_bytes"] = tensor.view.begin_bytes;
    share["end_bytes"] = tensor.view.end_bytes;
    json.push_back(std::move(share));
  }
  return json;
}

// Guards until the time is over, somebody interrupts, or something is found: that is returned.
absl::StatusOr<loading::GuardReport> RunGuard(const loading::VerifiedLoad& loaded,
                                              hash::Device& device,
                                              const GuardArguments& arguments) {
  std::mutex mutex;
  std::condition_variable found;
  absl::Status finding;
  loading::GuardOptions options = arguments.options;
  options.on_mismatch = [&](const loading::GuardFinding& what) {
    const std::lock_guard lock(mutex);
    if (finding.ok()) finding = what.status;
    found.notify_all();
  };
  const Interruption interruption;
  PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<loading::Guard> guard,
                          loading::Guard::Start(loaded, device, std::move(options)));
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::seconds(arguments.duration_seconds);
  {
    std::unique_lock lock(mutex);
    while (finding.ok() && !Interruption::came() &&
           (arguments.duration_seconds == 0 || std::chrono::steady_clock::now() < end)) {
      // A signal handler may not notify: it is asked for now and then.
      found.wait_for(lock, std::chrono::milliseconds(50));
    }
  }
  const loading::GuardReport report = guard->Report();
  // It finishes the slice under way, which may still find something.
  guard = nullptr;
  const std::lock_guard lock(mutex);
  if (!finding.ok()) return finding;
  return report;
}

absl::StatusOr<hash::DirectReads> ParseDirectReads(std::string_view text) {
  if (text == "auto") return hash::DirectReads::kAuto;
  if (text == "on") return hash::DirectReads::kOn;
  if (text == "off") return hash::DirectReads::kOff;
  return UsageError("--gds: auto, on or off");
}

// How the bytes of the files came, each way once.
std::vector<std::string> ReadBy(const loading::LoadedModel& model) {
  std::set<std::string> ways;
  for (const hash::LoadedFile& file : model.files) {
    if (!file.spans.empty()) ways.emplace(file.read_by);
  }
  return {ways.begin(), ways.end()};
}

class LoadVerb final : public Verb {
 public:
  std::string_view name() const override { return "load"; }
  std::string_view group() const override { return "Verify"; }
  std::string_view summary() const override {
    return "Load a signed model into the memory of a device and hash it there: what is verified is "
           "what a program would run, not what was on the disk a moment before.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise load models/llm --signature llm.sig --public-key key.pub --device opencl:0\n"
           "  pavise load models/llm --trust trust.yaml --model-name acme/llm --device cpu\n"
           "  pavise load models/llm --public-key key.pub --tensors 'model.layers.0.*'\n"
           "  pavise load models/llm --public-key key.pub --slice '*.q_proj.weight:0' --rank 0/2\n"
           "  pavise load models/llm --public-key key.pub --guard --guard-seconds 60\n"
           "  mpirun -n 4 pavise load models/llm --public-key key.pub --device cuda:local\n"
           "\n"
           "Under mpirun, or srun --mpi=pmix, each process loads its share of the tensors to its "
           "own device, and all reach one verdict.\n"
           "\n"
           "The verb measures and reports, and gives the memory back at its end; programs that "
           "keep "
           "the tensors call the library (pavise/loading/load.h).\n"
           "\n"
           "Exit codes: 0 what is in memory is what was signed, 1 refused, 2 wrong usage, 3 the "
           "machine or the device failed. With --guard, "
           "1 also where bytes changed in memory afterwards.";
  }

  void Declare(CLI::App& app) override {
    arguments_.Declare(app, "load only tensors of these names, and read nothing else (repeatable)",
                       "What is loaded");
    AddOption(
        app, "--device", device_, "DEVICE",
        "where to: cpu, opencl:N, cuda:N (N may be local: the process's number on its machine, "
        "under mpirun), or auto, the first GPU and without one the CPU [auto]",
        kDeviceGroup);
    AddOption(app, "--sampled-answers", sampled_answers_, "N",
              "how many of the device's answers, chosen at random, the CPU computes again [8]",
              kDeviceGroup);
    slices_.Declare(app);
    AddOption(
        app, "--channel", channel_, "plain|confidential-gpu|host-memory",
        "refuse a device whose channel is weaker; confidential-gpu rests on the driver's word, "
        "not on attestation [plain]",
        kDeviceGroup);
    AddOption(
        app, "--gds", direct_reads_, "auto|on|off",
        "GPUDirect Storage: the device reads the files by itself; auto: where that bypasses the "
        "host's memory; on: also where cuFile stages the bytes, else refuse [auto]",
        kDeviceGroup);
    guard_.Declare(app);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override;
  bool RunsInRanks() const override { return !arguments_.no_mpi; }

  std::string RefusalHeadline(const std::vector<Refusal>& findings) const override {
    if (is_loaded_) return StrCat(arguments_.model.model(), " changed in memory after its load");
    return arguments_.RefusalHeadline(findings, "was not loaded");
  }

 private:
  VerificationArguments arguments_;
  std::string device_ = "auto";
  std::string sampled_answers_;
  SliceArguments slices_;
  std::string channel_ = "plain";
  std::string direct_reads_ = "auto";
  GuardArguments guard_;
  bool is_loaded_ = false;
};

absl::StatusOr<Outcome> LoadVerb::Run(const Session& session) {
  PAVISE_RETURN_IF_ERROR(arguments_.model.Resolve());
  PAVISE_RETURN_IF_ERROR(guard_.Resolve());
  loading::LoadOptions options;
  PAVISE_ASSIGN_OR_RETURN(options.verify, arguments_.Resolve());
  PAVISE_ASSIGN_OR_RETURN(options.slices, slices_.Resolve(session.ranks));
  options.verify.pass.progress = &session.progress;
  options.ranks = session.ranks;
  if (session.ranks != nullptr && guard_.guard) {
    return Refuse(Reason::kUnsupported, "--guard", "guards the memory of one process only",
                  "give --no-mpi, and each process loads and guards everything");
  }
  if (!sampled_answers_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(const uint64_t count,
                            ParseCount("--sampled-answers", sampled_answers_));
    if (count > 1'000'000) return UsageError("--sampled-answers: at most 1000000");
    options.pass.sampled_answers = static_cast<unsigned>(count);
  }
  const std::optional<loading::Channel> channel = loading::ChannelNamed(channel_);
  if (!channel.has_value()) {
    return UsageError("--channel: plain, confidential-gpu or host-memory");
  }
  options.least_channel = *channel;
  PAVISE_ASSIGN_OR_RETURN(options.pass.direct_reads, ParseDirectReads(direct_reads_));
  if (guard_.guard) options.pass.references = loading::ReferencesFor(guard_.options.hash);
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<hash::Device> device, OpenDeviceOfRank(device_));

  const auto begin = std::chrono::steady_clock::now();
  PAVISE_ASSIGN_OR_RETURN(const loading::VerifiedLoad loaded,
                          loading::Loader::Load(options, *device));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  is_loaded_ = true;
  std::optional<loading::GuardReport> guarded;
  if (guard_.guard) {
    PAVISE_ASSIGN_OR_RETURN(guarded, RunGuard(loaded, *device, guard_));
  }
  const loading::LoadedModel& model = *loaded;
  const signing::VerifyReport& report = model.report;
  const signing::SignedStatement& statement = report.signed_statement;

  Outcome outcome;
  outcome.verdict = report.partial ? "OK (partial)" : "OK";
  const std::string& name = arguments_.model.model();
  outcome.headline = AcceptHeadline(
      report.partial ? StrCat("the loaded tensors of ", Printable(name),
                              " are what was signed; nothing else was read")
                     : StrCat(Printable(name), " is in memory and is what was signed"),
      name, model.ranks);
  const std::vector<std::string> warnings = WarningsOf(report, model.ranks);
  auto rows = SignatureRows(statement, arguments_.files.signature);
  rows.emplace_back("loaded", StrCat(Counted(model.tensors.size(), "tensor"), " of ",
                                     Counted(report.files_checked, "file"), ", ",
                                     Throughput(report.bytes_checked, seconds)));
  AddSliceRows(model, rows);
  rows.emplace_back("digests", absl::StrJoin(report.digests_read, ", "));
  rows.emplace_back("device", report.device);
  rows.emplace_back(
      "channel", StrCat(loading::ChannelName(model.channel), ": ",
                        loading::ChannelMeaning(model.channel), " (", model.channel_because, ")"));
  rows.emplace_back("read by", absl::StrJoin(ReadBy(model), ", "));
  rows.emplace_back("sampled", StrCat(Counted(model.answers_sampled, "answer"),
                                      " of the device, computed again on the CPU"));
  AddRankRows(model.ranks, /*is_load=*/true, rows);
  if (guarded.has_value()) AddGuardRows(*guarded, rows);
  for (const std::string& warning : warnings) rows.emplace_back("warning", warning);
  outcome.text = AlignedRows(rows);

  AddSignatureJson(statement, arguments_.model.model(), arguments_.files.signature, outcome.json);
  outcome.json["partial"] = report.partial;
  outcome.json["digests_read"] = report.digests_read;
  outcome.json["files_checked"] = report.files_checked;
  outcome.json["bytes_checked"] = report.bytes_checked;
  outcome.json["tensors_loaded"] = model.tensors.size();
  outcome.json["slices"] = SlicesJson(model);
  outcome.json["device_bytes"] = model.device_bytes;
  outcome.json["device"] = report.device;
  outcome.json["channel"] = loading::ChannelName(model.channel);
  outcome.json["channel_because"] = model.channel_because;
  outcome.json["read_by"] = ReadBy(model);
  outcome.json["answers_sampled"] = model.answers_sampled;
  outcome.json["seconds"] = seconds;
  outcome.json["gigabytes_per_second"] = GigabytesPerSecond(report.bytes_checked, seconds);
  if (!model.ranks.empty()) AddRankJson(model.ranks, /*is_load=*/true, outcome.json);
  if (guarded.has_value()) outcome.json["guard"] = GuardJson(*guarded);
  outcome.json["warnings"] = warnings;
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewLoadVerb() { return std::make_unique<LoadVerb>(); }

}  // namespace pavise::cli
