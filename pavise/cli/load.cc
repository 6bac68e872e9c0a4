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

#include "pavise/base/strings.h"
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
      double percent = 0;
      // Written so that NaN is refused too.
      if (!absl::SimpleAtod(share, &percent) || !(percent >= 0.001 && percent <= 100)) {
        return UsageError("--guard-share: a number from 0.001 to 100");
      }
      options.share_of_time = percent / 100;
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

std::string Seconds(absl::Duration time) {
  return absl::StrFormat("%.3f s", absl::ToDoubleSeconds(time));
}

void AddGuardRows(const loading::GuardReport& report,
                  std::vector<std::pair<std::string, std::string>>& rows) {
  if (report.ranges == 0) {
    rows.emplace_back("guard", "the model has no bytes to check");
    return;
  }
  rows.emplace_back("guard",
                    StrCat(loading::GuardHashName(report.hash), ", nothing changed in ",
                           absl::StrFormat("%.1f s", absl::ToDoubleSeconds(report.running)), ": ",
                           report.passes_completed,
                           report.passes_completed == 1 ? " pass over " : " passes over ",
                           Counted(report.ranges, "range"), ", and ",
                           absl::StrFormat("%.0f%% of the next", 100 * report.coverage), "; ",
                           absl::StrFormat("%.2f%% of the time", 100 * report.share_of_time), ", ",
                           Counted(report.samples, "sample"), " on the CPU"));
  rows.emplace_back("unseen",
                    report.passes_completed > 0
                        ? StrCat("a change for at most ",
                                 Seconds(std::max(report.longest_unchecked, report.now_unchecked)),
                                 ", if it is not undone meanwhile")
                        : StrCat("no pass was completed: a change for more than ",
                                 Seconds(std::max(report.longest_unchecked, report.now_unchecked)),
                                 "; guard for longer, or with a larger share"));
}

OrderedJson GuardJson(const loading::GuardReport& report) {
  OrderedJson json;
  json["hash"] = loading::GuardHashName(report.hash);
  json["ranges"] = report.ranges;
  json["bytes"] = report.bytes;
  json["ranges_checked"] = report.ranges_checked;
  json["passes_completed"] = report.passes_completed;
  json["coverage"] = report.coverage;
  json["longest_unchecked_seconds"] = absl::ToDoubleSeconds(report.longest_unchecked);
  json["now_unchecked_seconds"] = absl::ToDoubleSeconds(report.now_unchecked);
  json["seconds"] = absl::ToDoubleSeconds(report.running);
  json["share_of_time"] = report.share_of_time;
  json["samples"] = report.samples;
  return json;
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
  GuardArguments guard_;
  bool is_loaded_ = false;
};

absl::StatusOr<Outcome> LoadVerb::Run(const Session& session) {
  PAVISE_RETURN_IF_ERROR(arguments_.model.Resolve());
  PAVISE_RETURN_IF_ERROR(guard_.Resolve());
  loading::LoadOptions options;
  PAVISE_ASSIGN_OR_RETURN(options.verify, arguments_.Resolve());
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
  outcome.headline =
      report.partial
          ? StrCat("the loaded tensors of ", Printable(arguments_.model.model()),
                   " are what was signed; nothing else was read")
          : StrCat(Printable(arguments_.model.model()), " is in memory and is what was signed");
  auto rows = SignatureRows(statement, arguments_.files.signature);
  rows.emplace_back("loaded", StrCat(Counted(model.tensors.size(), "tensor"), " of ",
                                     Counted(report.files_checked, "file"), ", ",
                                     Throughput(report.bytes_checked, seconds)));
  rows.emplace_back("digests", absl::StrJoin(report.digests_read, ", "));
  rows.emplace_back("device", report.device);
  rows.emplace_back("channel", StrCat(loading::ChannelName(model.channel), ": ",
                                      loading::ChannelMeaning(model.channel)));
  rows.emplace_back("sampled", StrCat(Counted(model.answers_sampled, "answer"),
                                      " of the device, computed again on the CPU"));
  AddRankRows(model.ranks, /*is_load=*/true, rows);
  if (guarded.has_value()) AddGuardRows(*guarded, rows);
  for (const std::string& warning : report.warnings) rows.emplace_back("warning", warning);
  outcome.text = AlignedRows(rows);

  AddSignatureJson(statement, arguments_.model.model(), arguments_.files.signature, outcome.json);
  outcome.json["partial"] = report.partial;
  outcome.json["digests_read"] = report.digests_read;
  outcome.json["files_checked"] = report.files_checked;
  outcome.json["bytes_checked"] = report.bytes_checked;
  outcome.json["tensors_loaded"] = model.tensors.size();
  outcome.json["device_bytes"] = model.device_bytes;
  outcome.json["device"] = report.device;
  outcome.json["channel"] = loading::ChannelName(model.channel);
  outcome.json["answers_sampled"] = model.answers_sampled;
  outcome.json["seconds"] = seconds;
  outcome.json["gigabytes_per_second"] = GigabytesPerSecond(report.bytes_checked, seconds);
  if (!model.ranks.empty()) AddRankJson(model.ranks, /*is_load=*/true, outcome.json);
  if (guarded.has_value()) outcome.json["guard"] = GuardJson(*guarded);
  outcome.json["warnings"] = report.warnings;
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewLoadVerb() { return std::make_unique<LoadVerb>(); }

}  // namespace pavise::cli
