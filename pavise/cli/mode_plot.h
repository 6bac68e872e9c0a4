#ifndef PAVISE_CLI_MODE_PLOT_H_
#define PAVISE_CLI_MODE_PLOT_H_

#include <optional>
#include <string>
#include <vector>

// What a job costs in each trust mode as one SVG 1.1 picture without any dependency: a line a mode,
// and beside each other how many images a second it does and how much CPU time an image takes, both
// on logarithmic axes. Text and colours follow the reader's light or dark scheme over a background
// of their own; marks differ in shape as well as in colour; title and description are there for
// screen readers.
namespace pavise::cli {

struct ModePlotRow {
  std::string name;
  std::string note;  // in the place of marks, where the mode has no figures
  // Above 0 where there are figures.
  double images_per_second = 0;
  double coordinator_cpu_ms = 0;        // an image
  std::optional<double> worker_cpu_ms;  // an image; nullopt or 0: no mark
};

struct ModePlot {
  std::string title;
  std::vector<std::string> lines;  // of hardware and settings, below the title
  std::vector<ModePlotRow> rows;
};

// Any text may stand in the plot: it is made Printable and escaped.
std::string RenderModePlot(const ModePlot& plot);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_MODE_PLOT_H_
