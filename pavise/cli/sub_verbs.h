#ifndef PAVISE_CLI_SUB_VERBS_H_
#define PAVISE_CLI_SUB_VERBS_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "pavise/cli/verb.h"

#include "absl/status/statusor.h"

namespace pavise::cli {

// The verbs below a verb (`pavise policy lint`), of which one must be given. Declared once; not
// thread-safe.
class SubVerbs {
 public:
  // `arguments` has Declare(CLI::App&), and Run() or Run(const Session&); it outlives this object.
  template <typename Arguments>
  void Add(CLI::App& verb, const std::string& name, const std::string& description,
           Arguments& arguments) {
    CLI::App& app = NewApp(verb, name, description);
    arguments.Declare(app);
    verbs_.emplace_back(&app, [&arguments](const Session& session) -> absl::StatusOr<Outcome> {
      if constexpr (requires { arguments.Run(session); }) {
        return arguments.Run(session);
      } else {
        return arguments.Run();
      }
    });
  }

  // Runs the one that was given.
  absl::StatusOr<Outcome> Run(const Session& session) const;
  // Its name; "" before the command line was parsed.
  std::string given() const;

 private:
  static CLI::App& NewApp(CLI::App& verb, const std::string& name, const std::string& description);

  std::vector<std::pair<CLI::App*, std::function<absl::StatusOr<Outcome>(const Session&)>>> verbs_;
};

}  // namespace pavise::cli

#endif  // PAVISE_CLI_SUB_VERBS_H_
