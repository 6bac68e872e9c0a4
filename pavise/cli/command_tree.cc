#include "pavise/cli/command_tree.h"

#include "pavise/base/strings.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_split.h"

namespace pavise::cli {
namespace {

OptionDescription DescribeOption(const CLI::Option& option) {
  OptionDescription described;
  if (option.get_positional()) {
    described.names.push_back(option.get_name(true, false));
  } else {
    for (const std::string& name : option.get_snames()) described.names.push_back("-" + name);
    for (const std::string& name : option.get_lnames()) described.names.push_back("--" + name);
  }
  if (option.get_items_expected_max() != 0) {
    described.value = option.get_type_name();
    if (described.value.find('|') != std::string::npos) {
      described.choices = absl::StrSplit(described.value, '|');
    }
  }
  described.description = option.get_description();
  described.group = option.get_group();
  described.required = option.get_required();
  described.repeatable = option.get_expected_max() >= CLI::detail::expected_max_vector_size;
  return described;
}

}  // namespace

CommandDescription DescribeCommand(const CLI::App& app) {
  CommandDescription described;
  described.name = app.get_name();
  described.group = app.get_group();
  described.summary = app.get_description();
  described.examples = app.get_footer();
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) continue;
    (option->get_positional() ? described.positionals : described.options)
        .push_back(DescribeOption(*option));
  }
  for (const CLI::App* command : app.get_subcommands({})) {
    if (command->get_group().empty()) continue;
    described.commands.push_back(DescribeCommand(*command));
  }
  return described;
}

ArgumentSyntax SyntaxOf(const CommandDescription& program) {
  ArgumentSyntax syntax;
  for (const OptionDescription& option : program.options) {
    if (!option.value.empty()) {
      syntax.takes_value.insert(option.names.begin(), option.names.end());
    }
  }
  for (const CommandDescription& command : program.commands) {
    syntax.takes_value.merge(SyntaxOf(command).takes_value);
  }
  return syntax;
}

}  // namespace pavise::cli
