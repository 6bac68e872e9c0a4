#include "pavise/cli/arguments.h"

#include <algorithm>
#include <numeric>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::cli {

Arguments RewriteArguments(const std::vector<std::string>& words, const ArgumentSyntax& syntax) {
  Arguments arguments;
  arguments.words = words;
  bool is_value = false;
  for (std::string& word : arguments.words) {
    if (is_value) {
      is_value = false;
      continue;
    }
    if (word == "--") break;
    if (word.size() < 2 || word[0] != '-') {
      if (arguments.verb.empty()) arguments.verb = word;
      continue;
    }
    if (word[1] != '-') {
      is_value = syntax.takes_value.contains(word);
      continue;
    }
    const size_t equals = word.find('=');
    const size_t name_end = equals == std::string::npos ? word.size() : equals;
    std::replace(word.begin(), word.begin() + static_cast<std::ptrdiff_t>(name_end), '_', '-');
    const std::string name = word.substr(0, name_end);
    if (name == "--json") arguments.json = true;
    if (!syntax.takes_value.contains(name)) continue;
    if (equals == std::string::npos) {
      is_value = true;
    } else if (equals + 1 == word.size() && arguments.status.ok()) {
      arguments.status = UsageError(StrCat(name, " is given an empty value"));
    }
  }
  return arguments;
}

namespace {

// Levenshtein distance.
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

}  // namespace

std::string ClosestWord(const std::string& word, const std::vector<std::string>& known) {
  constexpr size_t kMostEdits = 2;
  constexpr size_t kLongestWord = 64;
  std::string closest;
  if (word.size() > kLongestWord) return closest;
  size_t fewest = kMostEdits + 1;
  for (const std::string& candidate : known) {
    const size_t edits = EditDistance(word, candidate);
    if (edits < fewest) {
      fewest = edits;
      closest = candidate;
    }
  }
  return closest;
}

}  // namespace pavise::cli
