#include <algorithm>
#include <memory>

#include "pavise/base/strings.h"
#include "pavise/cli/command_tree.h"
#include "pavise/cli/options.h"
#include "pavise/cli/verb.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace pavise::cli {
namespace {

// The part of a description that fits beside a completion.
std::string Short(const std::string& description) {
  return description.substr(0, description.find_first_of(";["));
}

// Options of a verb together with those of the verbs below it (`bench hash`).
std::vector<OptionDescription> AllOptions(const CommandDescription& command) {
  std::vector<OptionDescription> options = command.options;
  for (const CommandDescription& below : command.commands) {
    for (const OptionDescription& option : AllOptions(below)) {
      const bool known = std::any_of(
          options.begin(), options.end(),
          [&](const OptionDescription& earlier) { return earlier.names == option.names; });
      if (!known) options.push_back(option);
    }
  }
  return options;
}

// Words that may stand where the verb's arguments stand, where those are a few fixed ones.
std::vector<std::string> ArgumentWords(const CommandDescription& command) {
  std::vector<std::string> words;
  for (const CommandDescription& below : command.commands) words.push_back(below.name);
  for (const OptionDescription& positional : command.positionals) {
    words.insert(words.end(), positional.choices.begin(), positional.choices.end());
  }
  return words;
}

std::vector<std::string> OptionNames(const CommandDescription& command) {
  std::vector<std::string> names;
  for (const OptionDescription& option : AllOptions(command)) {
    names.insert(names.end(), option.names.begin(), option.names.end());
  }
  return names;
}

std::vector<std::string> VerbNames(const CommandDescription& program) {
  std::vector<std::string> names;
  for (const CommandDescription& verb : program.commands) names.push_back(verb.name);
  return names;
}

std::string BashScript(const CommandDescription& program) {
  std::string values;
  std::string options;
  std::string words;
  const std::string verbs = absl::StrJoin(VerbNames(program), " ");
  const auto offer = [](const std::vector<std::string>& choices) {
    return StrCat("COMPREPLY=($(compgen -W \"", absl::StrJoin(choices, " "),
                  "\" -- \"$current\"))");
  };
  for (const CommandDescription& verb : program.commands) {
    for (const OptionDescription& option : AllOptions(verb)) {
      if (option.value.empty()) continue;
      for (const std::string& name : option.names) {
        StrAppend(&values, "    ", verb.name, ":", name, ") ",
                  option.choices.empty() ? "" : offer(option.choices) + "; ", "return ;;\n");
      }
    }
    StrAppend(&options, "      ", verb.name, ") ", offer(OptionNames(verb)), " ;;\n");
    if (const std::vector<std::string> fixed = ArgumentWords(verb); !fixed.empty()) {
      StrAppend(&words, "      ", verb.name, ") ", offer(fixed), " ;;\n");
    }
  }
  // An empty COMPREPLY makes bash offer files (-o default).
  return StrCat(
      "# bash completion for pavise; made by: pavise completion bash\n"
      "_pavise() {\n"
      "  local current=\"${COMP_WORDS[COMP_CWORD]}\" previous=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
      "  local verb= word\n"
      "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
      "    case \"$word\" in ",
      absl::StrJoin(VerbNames(program), "|"),
      ") verb=\"$word\"; break ;; esac\n"
      "  done\n"
      "  COMPREPLY=()\n"
      "  case \"$verb:$previous\" in\n",
      values,
      "  esac\n"
      "  if [[ \"$current\" == -* ]]; then\n"
      "    case \"$verb\" in\n",
      options, "      *) ", offer(OptionNames({.options = program.options})), " ;;\n",
      "    esac\n"
      "  elif [[ -z \"$verb\" ]]; then\n"
      "    COMPREPLY=($(compgen -W \"",
      verbs,
      "\" -- \"$current\"))\n"
      "  else\n"
      "    case \"$verb\" in\n",
      words,
      "      *) ;;\n"
      "    esac\n"
      "  fi\n"
      "}\n"
      "complete -o default -F _pavise pavise\n");
}

std::string ZshScript(const CommandDescription& program) {
  const auto quoted = [](const std::string& text) {
    return absl::StrReplaceAll(
        text, {{"'", "'\\''"}, {"[", "\\["}, {"]", "\\]"}, {":", "\\:"}, {"\\", "\\\\"}});
  };
  const auto arguments = [&](const CommandDescription& command) {
    std::string out;
    for (const OptionDescription& option : AllOptions(command)) {
      for (const std::string& name : option.names) {
        StrAppend(&out, "        '", option.repeatable ? "*" : "", name, "[",
                  quoted(Short(option.description)), "]");
        if (!option.choices.empty()) {
          StrAppend(&out, ":value:(", absl::StrJoin(option.choices, " "), ")");
        } else if (!option.value.empty()) {
          StrAppend(&out, ":", quoted(option.value), ":_files");
        }
        StrAppend(&out, "' \\\n");
      }
    }
    const std::vector<std::string> fixed = ArgumentWords(command);
    return StrCat(out, "        '*:argument:",
                  fixed.empty() ? "_files" : StrCat("(", absl::StrJoin(fixed, " "), ")"), "'");
  };
  std::string verbs;
  std::string cases;
  for (const CommandDescription& verb : program.commands) {
    StrAppend(&verbs, "    '", verb.name, ":", quoted(Short(verb.summary)), "'\n");
    StrAppend(&cases, "      ", verb.name, ")\n        _arguments \\\n", arguments(verb), " ;;\n");
  }
  return StrCat(
      "#compdef pavise\n"
      "# zsh completion for pavise; made by: pavise completion zsh\n"
      "_pavise() {\n"
      "  local curcontext=\"$curcontext\" state line\n"
      "  local -a verbs\n"
      "  verbs=(\n",
      verbs,
      "  )\n"
      "  _arguments -C '1: :->verb' '*:: :->arguments'\n"
      "  case \"$state\" in\n"
      "    verb) _describe -t verbs verb verbs ;;\n"
      "    arguments)\n"
      "      case \"$words[1]\" in\n",
      cases,
      "      esac ;;\n"
      "  esac\n"
      "}\n"
      "compdef _pavise pavise\n");
}

std::string FishScript(const CommandDescription& program) {
  const auto quoted = [](const std::string& text) {
    return absl::StrReplaceAll(text, {{"'", "\\'"}, {"\\", "\\\\"}});
  };
  std::string out =
      "# fish completion for pavise; made by: pavise completion fish\n"
      "complete -c pavise -n __fish_use_subcommand -f\n";
  for (const CommandDescription& verb : program.commands) {
    StrAppend(&out, "complete -c pavise -n __fish_use_subcommand -f -a ", verb.name, " -d '",
              quoted(Short(verb.summary)), "'\n");
  }
  for (const CommandDescription& verb : program.commands) {
    const std::string condition =
        StrCat("complete -c pavise -n '__fish_seen_subcommand_from ", verb.name, "'");
    for (const OptionDescription& option : AllOptions(verb)) {
      StrAppend(&out, condition);
      for (const std::string& name : option.names) {
        const bool is_long = name.starts_with("--");
        StrAppend(&out, is_long ? " -l " : " -s ", name.substr(is_long ? 2 : 1));
      }
      if (!option.choices.empty()) {
        StrAppend(&out, " -x -a '", absl::StrJoin(option.choices, " "), "'");
      } else if (!option.value.empty()) {
        StrAppend(&out, " -r");
      }
      StrAppend(&out, " -d '", quoted(Short(option.description)), "'\n");
    }
    if (const std::vector<std::string> fixed = ArgumentWords(verb); !fixed.empty()) {
      StrAppend(&out, condition, " -f -a '", absl::StrJoin(fixed, " "), "'\n");
    }
  }
  return out;
}

class CompletionVerb final : public Verb {
 public:
  std::string_view name() const override { return "completion"; }
  std::string_view group() const override { return "This machine"; }
  std::string_view summary() const override {
    return "Print the completion script for a shell, made from the options of this very version.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  source <(pavise completion bash)\n"
           "  pavise completion zsh > ~/.zfunc/_pavise\n"
           "  pavise completion fish > ~/.config/fish/completions/pavise.fish";
  }

  void Declare(CLI::App& app) override {
    program_ = app.get_parent();
    AddOption(app, "SHELL", shell_, "bash|zsh|fish", "bash, zsh or fish", "Arguments")->required();
  }

  absl::StatusOr<Outcome> Run(const Session&) override {
    const CommandDescription program = DescribeCommand(*program_);
    Outcome outcome;
    outcome.text = shell_ == "bash"  ? BashScript(program)
                   : shell_ == "zsh" ? ZshScript(program)
                                     : FishScript(program);
    outcome.json = {{"shell", shell_}, {"script", outcome.text}};
    return outcome;
  }

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return "no script was made";
  }

 private:
  const CLI::App* program_ = nullptr;
  std::string shell_;
};

}  // namespace

std::unique_ptr<Verb> NewCompletionVerb() { return std::make_unique<CompletionVerb>(); }

}  // namespace pavise::cli
