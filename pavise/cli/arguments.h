#ifndef PAVISE_CLI_ARGUMENTS_H_
#define PAVISE_CLI_ARGUMENTS_H_

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"

// The command line before it is parsed: spellings made one, so that `--private_key` of the
// reference tool and `--private-key` are the same option everywhere.
namespace pavise::cli {

struct ArgumentSyntax {
  // Spelled with dashes, as "--signature" and "-o": options whose next word is their value.
  std::set<std::string> takes_value;
};

struct Arguments {
  std::vector<std::string> words;
  bool json = false;  // --json was given: errors of parsing are printed that way, too
  // The first word that is neither an option nor an option's value; empty when there is none.
  std::string verb;
  // A usage error found on the way: an option with an empty value ("--identity="), which the parser
  // would fill with the word that follows it.
  absl::Status status;
};

// Replaces "_" by "-" in the names of long options; values and what follows "--" stay as they are.
Arguments RewriteArguments(const std::vector<std::string>& words, const ArgumentSyntax& syntax);

// The entry of `known` that `word` most looks like (at most two edits); empty when none does.
std::string ClosestWord(const std::string& word, const std::vector<std::string>& known);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_ARGUMENTS_H_
