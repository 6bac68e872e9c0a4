#include "pavise/cli/rate_plot.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "pavise/base/bytes.h"
#include "pavise/base/markup.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace pavise::cli {
namespace {

constexpr double kPanelWidth = 400;
constexpr double kPanelHeight = 320;
constexpr double kPanelGap = 40;
constexpr double kLeft = 90;
constexpr double kRight = 30;
constexpr double kLineHeight = 18;
constexpr double kLegendColumnWidth = 140;
// Of a character of the text, at most but for the widest: lines must not run out of the picture.
constexpr double kCharacterWidth = 7.6;
constexpr double kTitleCharacterWidth = 11;
constexpr double kMargin = 20;
// Between the middles of two sizes that are written out.
constexpr double kSizeLabelDistance = 66;
// Above so many lines only powers of ten have their own.
constexpr int kMostRounds = 13;

// Light and dark, both at a contrast of at least 4.5 to their background.
constexpr const char* kStyle = R"(
  svg { --page: #ffffff; --ink: #1a1a1a; --faint: #d0d0d0;
        --c0: #005a9e; --c1: #0e7c7b; --c2: #b34700; --c3: #8a2be2; --c4: #2e7d32; --c5: #b00057; --c6: #555555; --c7: #7a5c00; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #14161a; --ink: #ececec; --faint: #3a3d44;
          --c0: #6cb8ff; --c1: #4dd6d4; --c2: #ffa04d; --c3: #c79bff; --c4: #7ddc82; --c5: #ff86bd; --c6: #b8b8b8; --c7: #e6c65a; } }
  text { fill: var(--ink); font-family: sans-serif; font-size: 13px; }
  .title { font-size: 17px; font-weight: bold; } .panel { font-weight: bold; }
  .page { fill: var(--page); } .grid { stroke: var(--faint); stroke-width: 1; }
  .frame { fill: none; stroke: var(--ink); stroke-width: 1; }
  .line { fill: none; stroke-width: 2; }
)";
constexpr const char* kDashes[kMostRateNames] = {"none", "8 3", "none", "8 3",
                                                 "none", "8 3", "2 3",  "2 3"};

// 1, 2, 5, 10, 20, ... GB/s: the k-th.
double Round(int k) {
  constexpr double kMantissas[] = {1, 2, 5};
  const int decade = k >= 0 ? k / 3 : -((2 - k) / 3);
  return kMantissas[k - 3 * decade] * std::pow(10, decade);
}

struct Axes {
  double low_size = 1;  // logarithms to base 2
  double high_size = 2;
  int low_round = 0;  // of Round
  int high_round = 1;

  double x(uint64_t size_bytes) const {
    return (std::log2(static_cast<double>(size_bytes)) - low_size) / (high_size - low_size) *
           kPanelWidth;
  }
  double y(double rate) const {
    const double low = std::log(Round(low_round));
    return kPanelHeight * (1 - (std::log(rate) - low) / (std::log(Round(high_round)) - low));
  }
};

Axes AxesOf(const RatePlot& plot, std::vector<uint64_t>& sizes) {
  double least = 1e300;
  double most = 0;
  for (const RateSeries& series : plot.series) {
    for (const auto& [size_bytes, rate] : series.points) {
      sizes.push_back(size_bytes);
      least = std::min(least, rate);
      most = std::max(most, rate);
    }
  }
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  Axes axes;
  if (sizes.empty()) return axes;
  axes.low_size = std::log2(static_cast<double>(sizes.front())) - 0.5;
  axes.high_size = std::log2(static_cast<double>(sizes.back())) + 0.5;
  axes.low_round = -18;  // a byte in a second is less than anybody measures
  while (axes.low_round < 18 && Round(axes.low_round + 1) <= least) ++axes.low_round;
  axes.high_round = axes.low_round + 1;
  while (axes.high_round < 18 && Round(axes.high_round) < most) ++axes.high_round;
  return axes;
}

// A shape for each name, so that colour is not all that tells them apart.
std::string Marker(size_t name, double x, double y) {
  constexpr const char* kShapes[kMostRateNames] = {"m-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
                                                   "m-4,-4h8v8h-8z",
                                                   "m0,-5l5,5l-5,5l-5,-5z",
                                                   "m0,-5l5,9h-10z",
                                                   "m0,5l5,-9h-10z",
                                                   "m-5,-2h10v4h-10z",
                                                   "m-2,-5h4v10h-4z",
                                                   "m-4,-4l8,8l0,-8l-8,8z"};
  return absl::StrFormat("<path d=\"M%.1f,%.1f%s\" style=\"fill: var(--c%d)\"/>\n", x, y,
                         kShapes[name], name);
}

std::string PathStyle(size_t name) {
  return absl::StrFormat("class=\"line\" style=\"stroke: var(--c%d); stroke-dasharray: %s\"", name,
                         kDashes[name]);
}

}  // namespace

std::string SizeLabel(uint64_t size_bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (size_bytes != 0 && size_bytes % 1024 == 0 && unit + 1 < std::size(kUnits)) {
    size_bytes /= 1024;
    ++unit;
  }
  return StrCat(size_bytes, " ", kUnits[unit]);
}

std::string RenderRatePlot(const RatePlot& plot) {
  std::vector<uint64_t> sizes;
  const Axes axes = AxesOf(plot, sizes);
  std::vector<std::string> names;
  for (const RateSeries& series : plot.series) {
    if (std::find(names.begin(), names.end(), series.name) == names.end() &&
        names.size() < kMostRateNames) {
      names.push_back(series.name);
    }
  }
  const size_t panels = std::max<size_t>(plot.panels.size(), 1);
  double width = kLeft + kRight + static_cast<double>(panels) * kPanelWidth +
                 static_cast<double>(panels - 1) * kPanelGap;
  width = std::max(width, 2 * kMargin + kTitleCharacterWidth *
                                            static_cast<double>(Printable(plot.title).size()));
  for (const std::string& line : plot.lines) {
    width = std::max(width,
                     2 * kMargin + kCharacterWidth * static_cast<double>(Printable(line).size()));
  }
  const size_t legend_columns =
      std::max<size_t>(1, static_cast<size_t>((width - kLeft) / kLegendColumnWidth));
  const size_t legend_rows = (names.size() + legend_columns - 1) / legend_columns;
  const double top = 48 + kLineHeight * static_cast<double>(plot.lines.size()) + 30;
  const double legend_top = top + kPanelHeight + 66;
  const double height = legend_top + kLineHeight * static_cast<double>(legend_rows) + 8;

  std::string out = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f "
      "%.0f\" role=\"img\" aria-labelledby=\"title desc\">\n",
      width, height, width, height);
  StrAppend(&out, "<title id=\"title\">", MarkupText(plot.title), "</title>\n<desc id=\"desc\">",
            MarkupText(StrCat("Gigabytes a second against size, both logarithmic. Devices: ",
                              absl::StrJoin(plot.panels, ", "),
                              ". Lines: ", absl::StrJoin(names, ", "), ".")),
            "</desc>\n<style>", kStyle, "</style>\n",
            "<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n");
  StrAppend(&out, SvgText(kMargin, 30, "class=\"title\"", plot.title));
  for (size_t i = 0; i < plot.lines.size(); ++i) {
    StrAppend(&out, SvgText(kMargin, 52 + kLineHeight * static_cast<double>(i), "", plot.lines[i]));
  }
  for (size_t panel = 0; panel < panels; ++panel) {
    const double left = kLeft + static_cast<double>(panel) * (kPanelWidth + kPanelGap);
    StrAppend(&out, absl::StrFormat("<g transform=\"translate(%.1f,%.1f)\">\n", left, top));
    if (panel < plot.panels.size()) {
      StrAppend(&out, SvgText(kPanelWidth / 2, -10, "class=\"panel\" text-anchor=\"middle\"",
                              plot.panels[panel]));
    }
    for (int k = axes.low_round; k <= axes.high_round; ++k) {
      if (axes.high_round - axes.low_round >= kMostRounds && k % 3 != 0) continue;
      const double y = axes.y(Round(k));
      StrAppend(&out,
                absl::StrFormat("<path class=\"grid\" d=\"M0,%.1fh%.0f\"/>\n", y, kPanelWidth));
      if (panel == 0) {
        StrAppend(&out, SvgText(-8, y + 4, "text-anchor=\"end\"", absl::StrFormat("%g", Round(k))));
      }
    }
    // Every size has its line; those that find room are written out.
    double labelled_up_to = -kPanelWidth;
    for (const uint64_t size_bytes : sizes) {
      const double x = axes.x(size_bytes);
      StrAppend(&out,
                absl::StrFormat("<path class=\"grid\" d=\"M%.1f,0v%.0f\"/>\n", x, kPanelHeight));
      if (x >= labelled_up_to) {
        labelled_up_to = x + kSizeLabelDistance;
        StrAppend(&out,
                  SvgText(x, kPanelHeight + 18, "text-anchor=\"middle\"", SizeLabel(size_bytes)));
      }
    }
    StrAppend(
        &out,
        absl::StrFormat("<rect class=\"frame\" width=\"%.0f\" height=\"%.0f\"/>\n", kPanelWidth,
                        kPanelHeight),
        SvgText(kPanelWidth / 2, kPanelHeight + 40, "text-anchor=\"middle\"", "size (bytes)"));
    if (panel == 0) {
      StrAppend(&out,
                SvgText(-kPanelHeight / 2, -64, "transform=\"rotate(-90)\" text-anchor=\"middle\"",
                        "GB/s (1,000,000,000 bytes a second)"));
    }
    for (const RateSeries& series : plot.series) {
      const auto found = std::find(names.begin(), names.end(), series.name);
      if (series.panel != panel || series.points.empty() || found == names.end()) continue;
      const size_t name = static_cast<size_t>(found - names.begin());
      std::string line;
      std::string markers;
      for (const auto& [size_bytes, rate] : series.points) {
        const double x = axes.x(size_bytes);
        const double y = axes.y(rate);
        StrAppend(&line, absl::StrFormat("%s%.1f,%.1f", line.empty() ? "M" : " L", x, y));
        StrAppend(&markers, Marker(name, x, y));
      }
      StrAppend(&out, "<g><title>", MarkupText(StrCat(series.name, ", ", plot.panels[panel])),
                "</title>\n<path ", PathStyle(name), " d=\"", line, "\"/>\n", markers, "</g>\n");
    }
    out += "</g>\n";
  }
  for (size_t i = 0; i < names.size(); ++i) {
    const double x = kLeft + kLegendColumnWidth * static_cast<double>(i % legend_columns);
    const double y = legend_top + kLineHeight * static_cast<double>(i / legend_columns);
    StrAppend(&out, absl::StrFormat("<path %s d=\"M%.1f,%.1fh24\"/>\n", PathStyle(i), x, y - 4),
              Marker(i, x + 12, y - 4), SvgText(x + 30, y, "", names[i]));
  }
  out += "</svg>\n";
  return out;
}

}  // namespace pavise::cli
