#ifndef PAVISE_CLI_VERIFICATION_ARGUMENTS_H_
#define PAVISE_CLI_VERIFICATION_ARGUMENTS_H_

#include <string>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/cli/options.h"
#include "pavise/loading/ranked_run.h"
#include "pavise/signing/verify.h"

#include "absl/status/statusor.h"

namespace CLI {
class App;
}  // namespace CLI

namespace pavise::cli {

// What `verify` and `load` are both told: the model, its signature, whom to trust, which files and
// tensors count.
struct VerificationArguments {
  ModelArguments model;
  SignatureOptions files;
  SelectionOptions selection;
  TrustOptions trust;
  bool ignore_unsigned_files = false;
  std::vector<std::string> tensors;
  bool no_mpi = false;

  // Adds the options; `tensors_meaning` describes --tensors. Its group is returned, for options of
  // the verb that belong there too.
  void Declare(CLI::App& app, const std::string& tensors_meaning, const std::string& tensors_group);
  // Everything but how files are read and what is the verb's own.
  absl::StatusOr<signing::VerifyOptions> Resolve() const;

  // `not_done`: "was not verified".
  std::string RefusalHeadline(const std::vector<Refusal>& findings,
                              const std::string& not_done) const;
};

// An accept's line, as `alone` says it without ranks. With ranks it names them, so that no verdict
// that rests on others looks like one of this process alone; and where they may have read parts of
// several copies, that is all it says. `model`: the model's name.
std::string AcceptHeadline(const std::string& alone, const std::string& model,
                           const std::vector<loading::RankPart>& ranks);
// The report's, and that there may be several copies.
std::vector<std::string> WarningsOf(const signing::VerifyReport& report,
                                    const std::vector<loading::RankPart>& ranks);
// The rows that say which rank did what, none without ranks; and the JSON members "ranks" and
// "one_copy" (ReadOneCopy). `is_load`: what each holds.
void AddRankRows(const std::vector<loading::RankPart>& ranks, bool is_load,
                 std::vector<std::pair<std::string, std::string>>& rows);
void AddRankJson(const std::vector<loading::RankPart>& ranks, bool is_load, OrderedJson& json);

// At most ten names, and how many more there are.
std::string SomeOf(const std::vector<std::string>& names);

// The rows that say who signed what, for results to people.
std::vector<std::pair<std::string, std::string>> SignatureRows(
    const signing::SignedStatement& statement, const std::string& signature_path);
// The members of the JSON result that say it.
void AddSignatureJson(const signing::SignedStatement& statement, const std::string& model_path,
                      const std::string& signature_path, OrderedJson& json);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_VERIFICATION_ARGUMENTS_H_
