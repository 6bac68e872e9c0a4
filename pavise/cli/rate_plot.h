#ifndef PAVISE_CLI_RATE_PLOT_H_
#define PAVISE_CLI_RATE_PLOT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

// GB/s against size as one SVG 1.1 picture without any dependency: a panel a device, side by side,
// on the same axes, a line a kind of work. Text and colours follow the reader's light or dark
// scheme (prefers-color-scheme) over a background of their own; lines differ in marker and dashes
// as well as in colour; title and description are there for screen readers.
namespace pavise::cli {

struct RateSeries {
  size_t panel = 0;                                 // index into RatePlot::panels
  std::string name;                                 // one in the legend for all panels
  std::vector<std::pair<uint64_t, double>> points;  // (bytes, GB/s), both above 0, sizes ascending
};

struct RatePlot {
  std::string title;
  std::vector<std::string> lines;   // of hardware, below the title
  std::vector<std::string> panels;  // what stands above each
  std::vector<RateSeries> series;   // at most kMostRateNames different names
};
inline constexpr size_t kMostRateNames = 8;

// Any text may stand in the plot: it is made Printable and escaped.
std::string RenderRatePlot(const RatePlot& plot);

// "1 MiB", "64 GiB", "1000 B": exact.
std::string SizeLabel(uint64_t size_bytes);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_RATE_PLOT_H_
