#include "pavise/cli/sub_verbs.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {

CLI::App& SubVerbs::NewApp(CLI::App& verb, const std::string& name,
                           const std::string& description) {
  verb.require_subcommand(1);
  CLI::App* const app = verb.add_subcommand(name, description);
  app->group("What to do");
  return *app;
}

absl::StatusOr<Outcome> SubVerbs::Run(const Session& session) const {
  for (const auto& [app, run] : verbs_) {
    if (app->parsed()) return run(session);
  }
  return UsageError("what to do?");
}

std::string SubVerbs::given() const {
  for (const auto& [app, run] : verbs_) {
    if (app->parsed()) return app->get_name();
  }
  return "";
}

}  // namespace pavise::cli
