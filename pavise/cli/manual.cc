#include <memory>

#include "pavise/base/strings.h"
#include "pavise/cli/command_tree.h"
#include "pavise/cli/options.h"
#include "pavise/cli/verb.h"

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace pavise::cli {
namespace {

std::string Escaped(const std::string& text) {
  std::string escaped = absl::StrReplaceAll(text, {{"\\", "\\e"}, {"-", "\\-"}});
  if (escaped.starts_with('.') || escaped.starts_with('\'')) escaped.insert(0, "\\&");
  return escaped;
}

std::string OptionsText(const std::vector<OptionDescription>& options) {
  std::string out;
  std::string group;
  for (const OptionDescription& option : options) {
    if (option.group != group) {
      group = option.group;
      StrAppend(&out, ".P\n.I ", Escaped(group), "\n");
    }
    std::vector<std::string> names;
    for (const std::string& name : option.names) names.push_back("\\fB" + Escaped(name) + "\\fR");
    const bool positional = !option.names.front().starts_with('-');
    StrAppend(&out, ".TP\n", absl::StrJoin(names, ", "));
    if (!option.value.empty() && !positional) {
      StrAppend(&out, " \\fI", Escaped(option.value), "\\fR");
    }
    StrAppend(&out, "\n", Escaped(option.description), option.required ? " (required)" : "", "\n");
  }
  return out;
}

// "Example:\n  command\n\nnotes": the indented lines as they stand, the others as text.
std::string ExamplesText(const std::string& examples) {
  std::string out;
  bool verbatim = false;
  for (const absl::string_view view : absl::StrSplit(examples, '\n')) {
    const std::string line(view);
    const bool indented = absl::StartsWith(line, "  ");
    if (indented != verbatim) StrAppend(&out, indented ? ".P\n.nf\n" : ".fi\n");
    verbatim = indented;
    if (line.empty()) {
      StrAppend(&out, ".P\n");
    } else {
      StrAppend(&out, Escaped(indented ? line.substr(2) : line), "\n");
    }
  }
  return verbatim ? out + ".fi\n" : out;
}

std::string CommandText(const CommandDescription& command, const std::string& prefix) {
  const std::string name = StrCat(prefix, " ", command.name);
  std::string synopsis = StrCat(name, " [OPTIONS]");
  for (const OptionDescription& positional : command.positionals) {
    const std::string& argument = positional.names.front();
    StrAppend(&synopsis, " ", argument == kMethodPositional ? "[" + argument + "]" : argument,
              positional.repeatable ? "..." : "");
  }
  std::string out =
      StrCat(".SS ", Escaped(name), "\n.B ", Escaped(synopsis), "\n.P\n", Escaped(command.summary),
             "\n", OptionsText(command.positionals), OptionsText(command.options));
  if (!command.examples.empty()) StrAppend(&out, ".P\n", ExamplesText(command.examples));
  for (const CommandDescription& below : command.commands) {
    StrAppend(&out, CommandText(below, name));
  }
  return out;
}

std::string ManualPage(const CommandDescription& program) {
  std::string verbs;
  std::string group;
  for (const CommandDescription& verb : program.commands) {
    if (verb.group != group) {
      group = verb.group;
      StrAppend(&verbs, ".P\n.I ", Escaped(group), "\n");
    }
    StrAppend(&verbs, ".TP\n.B ", Escaped(verb.name), "\n", Escaped(verb.summary), "\n");
  }
  std::string commands;
  for (const CommandDescription& verb : program.commands) {
    StrAppend(&commands, CommandText(verb, program.name));
  }
  return StrCat(
      ".\\\" Made by `pavise manual` from the program's own options; a test holds it to them.\n"
      ".TH PAVISE 1 \"\" \"pavise " PAVISE_VERSION
      "\" \"User Commands\"\n"
      ".SH NAME\n"
      "pavise \\- sign machine\\-learning models, and verify them where they are used\n"
      ".SH SYNOPSIS\n"
      ".B pavise\n"
      ".I VERB\n"
      "[OPTIONS] ...\n"
      ".SH DESCRIPTION\n",
      Escaped(program.summary),
      "\n.P\n"
      "Results go to standard output; refusals, errors, messages and the progress bar (on a "
      "terminal, "
      "after a second) to standard error. With \\fB\\-\\-json\\fR standard output holds exactly "
      "one "
      "JSON object, for refusals and errors too:\n"
      ".P\n.nf\n"
      "{\"ok\": false, \"exit_code\": 1, \"verb\": \"verify\", \"error\": ...,\n"
      " \"findings\": [{\"reason\": ..., \"item\": ..., \"detail\": ..., \"remedy\": ...}]}\n"
      ".fi\n"
      ".P\n"
      "Words of long options may be joined by \\- or _. Control bytes in file names are shown as "
      "\\exNN.\n"
      ".SH VERBS\n",
      verbs, ".SH OPTIONS OF THE PROGRAM\n", OptionsText(program.options), ".SH VERBS IN DETAIL\n",
      commands,
      ".SH EXIT STATUS\n"
      ".TP\n.B 0\nDone: signed, verified, printed.\n"
      ".TP\n.B 1\nRefused: the input breaks a rule, and every finding is listed.\n"
      ".TP\n.B 2\nWrong usage.\n"
      ".TP\n.B 3\nThe machine failed (I/O, memory, device); this is no verdict on the input.\n"
      ".SH ENVIRONMENT\n"
      ".TP\n.B PAVISE_KEY_PASSWORD\nThe password of the private key, where no option gives one.\n"
      ".TP\n.B NO_COLOR\nSet and not empty: no colour on terminals.\n"
      ".P\nNo variable changes whom a verification trusts.\n"
      ".SH FILES\n"
      ".TP\n.I model.sig\nThe signature file, unless \\fB\\-\\-signature\\fR names another: a "
      "Sigstore "
      "bundle (JSON).\n"
      ".TP\n.I model.sig.tree\nThe outboard tree file beside it.\n");
}

// Hidden: it serves the one who builds a release, through docs/man.
class ManualVerb final : public Verb {
 public:
  std::string_view name() const override { return "manual"; }
  std::string_view group() const override { return ""; }
  std::string_view summary() const override { return "Print the manual page (roff)."; }
  std::string_view examples() const override {
    return "Example:\n  pavise manual > docs/man/pavise.1";
  }
  void Declare(CLI::App& app) override { program_ = app.get_parent(); }
  absl::StatusOr<Outcome> Run(const Session&) override {
    Outcome outcome;
    outcome.text = ManualPage(DescribeCommand(*program_));
    outcome.json = {{"page", outcome.text}};
    return outcome;
  }
  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return "no manual page was made";
  }

 private:
  const CLI::App* program_ = nullptr;
};

}  // namespace

std::unique_ptr<Verb> NewManualVerb() { return std::make_unique<ManualVerb>(); }

}  // namespace pavise::cli
