#ifndef PAVISE_CLI_VERB_H_
#define PAVISE_CLI_VERB_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/progress.h"
#include "pavise/base/status.h"

#include "absl/status/statusor.h"

namespace CLI {
class App;
}  // namespace CLI

namespace pavise::loading {
class RankedRun;
}  // namespace pavise::loading

// A verb of the program: `pavise sign`, `pavise verify`, ... One file each, and one line each in
// all_verbs.cc's list.
namespace pavise::cli {

// What a verb found. Names in `headline` and `text` are Printable already.
struct Outcome {
  std::string verdict;   // "OK": coloured on a terminal; empty for plain output
  std::string headline;  // follows the verdict on its line
  std::string text;      // the rest for people, lines ending in "\n"
  OrderedJson json;      // an object: members beside "ok", "exit_code" and "verb"
};

// What a verb is told of the run it is part of.
struct Session {
  Progress& progress;
  // The ranks that a launcher started this process among, which the verb is to conclude with; else
  // nullptr.
  loading::RankedRun* ranks = nullptr;
};

// Declared once, run at most once. Not thread-safe.
class Verb {
 public:
  virtual ~Verb() = default;
  virtual std::string_view name() const = 0;
  // The heading it is listed under in the program's help.
  virtual std::string_view group() const = 0;
  virtual std::string_view summary() const = 0;
  // Below the options in its help: command lines, one a line, then any notes.
  virtual std::string_view examples() const = 0;
  // Adds options and positionals; values are read in Run.
  virtual void Declare(CLI::App& app) = 0;
  virtual absl::StatusOr<Outcome> Run(const Session& session) = 0;
  // Whether processes that a launcher started together make one run of it.
  virtual bool RunsInRanks() const { return false; }
  // One line of what did not happen, shown above the findings of a refusal.
  virtual std::string RefusalHeadline(const std::vector<Refusal>& findings) const = 0;
};

std::unique_ptr<Verb> NewKeygenVerb();
std::unique_ptr<Verb> NewSignVerb();
std::unique_ptr<Verb> NewVerifyVerb();
std::unique_ptr<Verb> NewLoadVerb();
std::unique_ptr<Verb> NewDigestVerb();
std::unique_ptr<Verb> NewInspectVerb();
std::unique_ptr<Verb> NewDiffVerb();
std::unique_ptr<Verb> NewSealVerb();
std::unique_ptr<Verb> NewUnsealVerb();
std::unique_ptr<Verb> NewAttestVerb();
std::unique_ptr<Verb> NewAppraiseVerb();
std::unique_ptr<Verb> NewHostImageVerb();
std::unique_ptr<Verb> NewLedgerVerb();
std::unique_ptr<Verb> NewBrokerVerb();
std::unique_ptr<Verb> NewPolicyVerb();
std::unique_ptr<Verb> NewRunVerb();
std::unique_ptr<Verb> NewJobVerb();
std::unique_ptr<Verb> NewDoctorVerb();
std::unique_ptr<Verb> NewBenchVerb();
std::unique_ptr<Verb> NewCompletionVerb();
std::unique_ptr<Verb> NewManualVerb();

}  // namespace pavise::cli

#endif  // PAVISE_CLI_VERB_H_
