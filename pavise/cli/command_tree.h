#ifndef PAVISE_CLI_COMMAND_TREE_H_
#define PAVISE_CLI_COMMAND_TREE_H_

#include <string>
#include <vector>

#include "pavise/cli/arguments.h"

namespace CLI {
class App;
}  // namespace CLI

// The program's verbs and options as plain data, read from the parser itself: completion scripts
// and the manual are made of it and so cannot fall behind --help.
namespace pavise::cli {

struct OptionDescription {
  std::vector<std::string> names;    // "-o", "--output"; the bare name for a positional
  std::string value;                 // "FILE", "p256|p384"; empty for a flag
  std::vector<std::string> choices;  // the alternatives, where the value is one of a few words
  std::string description;
  std::string group;
  bool required = false;
  bool repeatable = false;
};

struct CommandDescription {
  std::string name;
  std::string group;
  std::string summary;
  std::string examples;
  std::vector<OptionDescription> options;
  std::vector<OptionDescription> positionals;
  std::vector<CommandDescription> commands;
};

// Hidden verbs and options (those of the empty group) are left out.
CommandDescription DescribeCommand(const CLI::App& app);

// Which options take a value, all verbs together.
ArgumentSyntax SyntaxOf(const CommandDescription& program);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_COMMAND_TREE_H_
