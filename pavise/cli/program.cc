#include "pavise/cli/program.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/log.h"
#include "pavise/base/progress.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/base/strings.h"
#include "pavise/cli/arguments.h"
#include "pavise/cli/command_tree.h"
#include "pavise/cli/help.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/verb.h"
#include "pavise/loading/mpi/mpi_ranks.h"
#include "pavise/loading/ranked_run.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr int kMachineFailed = 3;
constexpr const char* kOutputGroup = "Output";

class Program {
 public:
  explicit Program(std::vector<std::unique_ptr<Verb>> verbs);
  int Run(const std::vector<std::string>& words);
  // Overwrites the values of --password in `argv`: every user can read a process's command line.
  static void WipePasswords(int argc, char** argv);

 private:
  absl::Status Parse(const Arguments& arguments);
  void ApplyLogLevel() const;
  void DeclareOutputOptions(CLI::App& app);
  int Fail(const absl::Status& status, const Verb* verb);
  int Print(const std::string& text);
  Verb* ChosenVerb() const;

  CLI::App app_;
  std::vector<std::unique_ptr<Verb>> verbs_;
  bool json_ = false;
  bool quiet_ = false;
  std::string log_level_ = "warning";
  std::string information_;  // help or version, asked for instead of a verb's run
};

Program::Program(std::vector<std::unique_ptr<Verb>> verbs)
    : app_(
          "Signs machine-learning models and verifies them where they are used: OpenSSF Model "
          "Signing (OMS) signatures, compatible with the reference tool.",
          "pavise"),
      verbs_(std::move(verbs)) {
  UseHelpLayout(app_);
  DeclareOutputOptions(app_);
  app_.set_version_flag("--version", "pavise " PAVISE_VERSION, "show the version")
      ->group(kOutputGroup);
  app_.require_subcommand(1);
  app_.footer(
      "Example:\n"
      "  pavise keygen -o key.pem\n"
      "  pavise sign MODEL --private-key key.pem\n"
      "  pavise verify MODEL --public-key key.pub\n"
      "\n"
      "Exit codes: 0 done, 1 refused, 2 wrong usage, 3 the machine failed.\n"
      "Options may be spelled with - or _ between words. pavise VERB --help tells more.");
  for (const std::unique_ptr<Verb>& verb : verbs_) {
    CLI::App* app = app_.add_subcommand(std::string(verb->name()), std::string(verb->summary()));
    app->group(std::string(verb->group()));
    app->footer(std::string(verb->examples()));
    verb->Declare(*app);
    DeclareOutputOptions(*app);
    for (CLI::App* below : app->get_subcommands(std::function<bool(CLI::App*)>())) {
      DeclareOutputOptions(*below);
    }
  }
}

void Program::DeclareOutputOptions(CLI::App& app) {
  app.set_help_flag("-h,--help", "show this help")->group(kOutputGroup);
  AddFlag(app, "--json", json_,
          "print one JSON object on standard output, for refusals and errors too", kOutputGroup);
  AddFlag(app, "-q,--quiet", quiet_, "print nothing but refusals and errors", kOutputGroup);
  AddOption(app, "--log-level", log_level_, "debug|info|warning|error",
            "the lowest level of messages on standard error [warning]", kOutputGroup)
      ->transform([](std::string level) {
        std::transform(level.begin(), level.end(), level.begin(),
                       [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
        return level == "critical" ? std::string("error") : level;  // the reference tool's highest
      });
}

void Program::ApplyLogLevel() const {
  SetLogLevel(log_level_ == "debug"             ? LogLevel::kDebug
              : log_level_ == "info"            ? LogLevel::kInfo
              : log_level_ == "error" || quiet_ ? LogLevel::kError
                                                : LogLevel::kWarning);
}

Verb* Program::ChosenVerb() const {
  const std::vector<CLI::App*> chosen = app_.get_subcommands();
  if (chosen.empty()) return nullptr;
  for (const std::unique_ptr<Verb>& verb : verbs_) {
    if (chosen.front()->get_name() == verb->name()) return verb.get();
  }
  return nullptr;
}

absl::Status Program::Parse(const Arguments& arguments) {
  if (!arguments.verb.empty()) {
    std::vector<std::string> names;
    for (const std::unique_ptr<Verb>& verb : verbs_) names.emplace_back(verb->name());
    if (std::find(names.begin(), names.end(), arguments.verb) == names.end()) {
      const std::string closest = ClosestWord(arguments.verb, names);
      return UsageError(StrCat("there is no verb '", arguments.verb, "'",
                               closest.empty() ? "" : StrCat("; did you mean '", closest, "'?")));
    }
  }
  std::vector<std::string> reversed(arguments.words.rbegin(), arguments.words.rend());
  try {
    app_.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    information_ = app_.help();
  } catch (const CLI::CallForVersion&) {
    information_ = app_.version() + "\n";
  } catch (const CLI::ParseError& e) {
    // An option without its value upsets the parser later, and it complains of something else.
    if (!arguments.status.ok()) return arguments.status;
    if (arguments.verb.empty()) {
      const std::vector<std::string> unknown = app_.remaining();
      return UsageError(unknown.empty() ? std::string("no verb given: what is to be done?")
                                        : StrCat("there is no option ", unknown.front()));
    }
    return UsageError(e.what());
  }
  return arguments.status;
}

int Program::Print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) {
    return 0;
  }
  const int error = errno;
  if (error == EPIPE) {
    // Nobody reads on: end as programs do that never heard of SIGPIPE.
    signal(SIGPIPE, SIG_DFL);
    raise(SIGPIPE);
  }
  std::fprintf(stderr, "FAILED: the result could not be written: %s\n", std::strerror(error));
  return kMachineFailed;
}

int Program::Fail(const absl::Status& status, const Verb* verb) {
  const std::string_view name = verb == nullptr ? std::string_view() : verb->name();
  const std::string headline =
      verb == nullptr || ExitCodeOf(status) != 1 ? "" : verb->RefusalHeadline(RefusalsOf(status));
  if (json_) {
    const int printed = Print(RenderErrorJson(status, name, headline));
    return printed != 0 ? printed : ExitCodeOf(status);
  }
  const std::string text = RenderError(status, name, headline, WantsColour(stderr));
  std::fwrite(text.data(), 1, text.size(), stderr);
  return ExitCodeOf(status);
}

int Program::Run(const std::vector<std::string>& words) {
  const Arguments arguments = RewriteArguments(words, SyntaxOf(DescribeCommand(app_)));
  json_ = arguments.json;
  const absl::Status status = Parse(arguments);
  json_ = json_ || arguments.json;  // parsing may have stopped before it came to --json
  Verb* const verb = ChosenVerb();
  if (!status.ok()) return Fail(status, verb);
  if (!information_.empty()) return Print(information_);
  ApplyLogLevel();
  if (verb == nullptr) return Fail(UsageError("no verb given"), nullptr);

  // Left after everything is printed: a launcher ends the job when the first process has gone.
  std::unique_ptr<loading::RankGroup> group;
  std::optional<loading::RankedRun> ranks;
  if (verb->RunsInRanks()) {
    absl::StatusOr<std::unique_ptr<loading::RankGroup>> joined = loading::JoinLaunchedRanks();
    if (!joined.ok()) return Fail(joined.status(), verb);
    group = *std::move(joined);
    if (group != nullptr) ranks.emplace(*group);
  }
  const bool is_spokesman = !ranks.has_value() || ranks->rank() == 0;
  const std::unique_ptr<Progress> bar = quiet_ || !is_spokesman ? nullptr : TerminalProgress();
  const Session session = {bar == nullptr ? NoProgress() : *bar,
                           ranks.has_value() ? &*ranks : nullptr};
  absl::StatusOr<Outcome> outcome = verb->Run(session);
  session.progress.Finish();
  if (ranks.has_value() && !ranks->is_concluded()) {
    // It ended before it came to speak for itself. The others hear of it here.
    if (outcome.ok()) outcome = MachineFailure(verb->name(), "the ranks have not agreed");
    if (const auto parts = ranks->Conclude(outcome.status(), {}, {}); !parts.ok()) {
      outcome = parts.status();
    }
  }
  if (!is_spokesman && !ranks->is_cut_off()) return ExitCodeOf(outcome.status());
  if (!outcome.ok()) return Fail(outcome.status(), verb);
  if (json_) return Print(RenderOutcomeJson(*outcome, verb->name()));
  if (quiet_) return 0;
  return Print(RenderOutcome(*outcome, WantsColour(stdout)));
}

void Program::WipePasswords(int argc, char** argv) {
  constexpr std::string_view kOption = "--password";
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    size_t keep_bytes = word.size();
    if (i > 1 && argv[i - 1] == kOption) keep_bytes = 0;
    if (word.starts_with(kOption) && word.size() > kOption.size() && word[kOption.size()] == '=') {
      keep_bytes = kOption.size() + 1;
    }
    WipeMemory({reinterpret_cast<uint8_t*>(argv[i]) + keep_bytes, word.size() - keep_bytes});
  }
}

}  // namespace

int RunProgram(int argc, char** argv, std::vector<std::unique_ptr<Verb>> verbs) {
  // A closed pipe must not end the program while temporary files lie about; Print deals with it.
  signal(SIGPIPE, SIG_IGN);
  // A file size limit (ulimit -f) is an error to report, not an end.
  signal(SIGXFSZ, SIG_IGN);
  RemoveUnfinishedFilesOnSignals();
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  Program::WipePasswords(argc, argv);
  Program program(std::move(verbs));
  const int exit_code = program.Run(words);
  for (std::string& word : words) WipeMemory(word);
  return exit_code;
}

int ReportOutOfMemory(int argc, char** argv) noexcept {
  bool json = false;
  for (int i = 1; i < argc; ++i) json = json || std::strcmp(argv[i], "--json") == 0;
  constexpr std::string_view kJson =
      "{\"ok\": false, \"exit_code\": 3, \"error\": \"out of memory\", \"findings\": [{\"reason\": "
      "\"machine-failure\", \"item\": \"\", \"detail\": \"out of memory\", \"remedy\": \"\"}]}\n";
  constexpr std::string_view kText = "FAILED: out of memory\n";
  const std::string_view text = json ? kJson : kText;
  if (write(json ? STDOUT_FILENO : STDERR_FILENO, text.data(), text.size()) < 0) {
    return kMachineFailed;  // nothing is left to say it with
  }
  return kMachineFailed;
}

}  // namespace pavise::cli
