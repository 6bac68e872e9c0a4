#include "pavise/cli/help.h"

#include <memory>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/cli/options.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace pavise::cli {
namespace {

constexpr size_t kLineColumns = 100;
constexpr size_t kNameColumns = 36;

class HelpFormatter final : public CLI::Formatter {
 public:
  HelpFormatter() {
    column_width(kNameColumns);
    label("Positionals", "Arguments");
  }

  std::string make_description(const CLI::App* app) const override {
    return WrapText(app->get_description(), kLineColumns) + "\n\n";
  }

  std::string make_usage(const CLI::App* app, std::string name) const override {
    std::string usage = StrCat("Usage: ", name, " [OPTIONS]");
    for (const CLI::Option* option : app->get_options()) {
      if (!option->get_positional() || option->get_group().empty()) continue;
      const std::string positional = option->get_name(true, false);
      // MODEL is bare although the parser, which fills METHOD first, calls both optional.
      StrAppend(&usage, " ", positional == kMethodPositional ? "[" + positional + "]" : positional,
                option->get_expected_max() >= CLI::detail::expected_max_vector_size ? "..." : "");
    }
    if (!app->get_subcommands({}).empty()) StrAppend(&usage, " VERB");
    return usage + "\n\n";
  }

  // One empty line between blocks; the base class puts two.
  std::string make_group(std::string group, bool is_positional,
                         std::vector<const CLI::Option*> options) const override {
    return CLI::Formatter::make_group(std::move(group), is_positional, std::move(options))
        .substr(1);
  }

  std::string make_positionals(const CLI::App* app) const override {
    const std::string positionals = CLI::Formatter::make_positionals(app);
    return positionals.empty() ? positionals : positionals + "\n";
  }

  std::string make_option_name(const CLI::Option* option, bool is_positional) const override {
    if (is_positional) return option->get_name(true, false);
    std::vector<std::string> names;
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    return absl::StrJoin(names, ", ");
  }

  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_positional() || option->get_items_expected_max() == 0) return "";
    return StrCat(" ", option->get_type_name(), option->get_required() ? " (required)" : "");
  }

  std::string make_option_desc(const CLI::Option* option) const override {
    return WrapText(option->get_description(), kLineColumns - kNameColumns);
  }

  std::string make_subcommand(const CLI::App* verb) const override {
    constexpr size_t kVerbColumns = 14;
    std::stringstream out;
    CLI::detail::format_help(out, verb->get_name(),
                             WrapText(verb->get_description(), kLineColumns - kVerbColumns),
                             kVerbColumns);
    return out.str();
  }
};

}  // namespace

void UseHelpLayout(CLI::App& app) { app.formatter(std::make_shared<HelpFormatter>()); }

std::string WrapText(std::string_view text, size_t columns) {
  std::string wrapped;
  size_t column = 0;
  for (const absl::string_view word : absl::StrSplit(ToAbsl(text), ' ', absl::SkipEmpty())) {
    if (column > 0 && column + 1 + word.size() > columns) {
      wrapped += '\n';
      column = 0;
    } else if (column > 0) {
      wrapped += ' ';
      ++column;
    }
    wrapped.append(word.data(), word.size());
    column += word.size();
  }
  return wrapped;
}

}  // namespace pavise::cli
