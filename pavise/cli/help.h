#ifndef PAVISE_CLI_HELP_H_
#define PAVISE_CLI_HELP_H_

#include <string>
#include <string_view>

namespace CLI {
class App;
}  // namespace CLI

namespace pavise::cli {

// Gives `app`, and the verbs added to it later, help texts that fit 100 columns.
void UseHelpLayout(CLI::App& app);

// Breaks `text` at spaces so that no line is wider than `columns` (longer words stay whole).
std::string WrapText(std::string_view text, size_t columns);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_HELP_H_
