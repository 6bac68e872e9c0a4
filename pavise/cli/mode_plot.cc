#include "pavise/cli/mode_plot.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "pavise/base/markup.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_format.h"

namespace pavise::cli {
namespace {

constexpr double kMargin = 20;
constexpr double kPanelWidth = 340;
constexpr double kPanelGap = 40;
constexpr double kRowHeight = 30;
constexpr double kLineHeight = 18;
// Of a character, at most but for the widest.
constexpr double kCharacterWidth = 7.6;

// Light and dark, both at a contrast of at least 4.5 to their background.
constexpr const char* kStyle = R"(
  svg { --page: #ffffff; --ink: #1a1a1a; --faint: #d0d0d0; --c0: #005a9e; --c1: #0e7c7b; --c2: #b34700; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #14161a; --ink: #ececec; --faint: #3a3d44; --c0: #6cb8ff; --c1: #4dd6d4; --c2: #ffa04d; } }
  text { fill: var(--ink); font-family: sans-serif; font-size: 13px; }
  .title { font-size: 17px; font-weight: bold; } .panel { font-weight: bold; }
  .page { fill: var(--page); } .grid { stroke: var(--faint); stroke-width: 1; }
)";
// A circle, a square and a triangle.
constexpr const char* kShapes[] = {"m-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z", "m-4.5,-4.5h9v9h-9z",
                                   "m0,-6l6,10h-12z"};

std::string Mark(int shape, double x, double y, std::string_view what) {
  return StrCat(absl::StrFormat("<path d=\"M%.1f,%.1f%s\" style=\"fill: var(--c%d)\">", x, y,
                                kShapes[shape], shape),
                "<title>", MarkupText(what), "</title></path>\n");
}

// Whole powers of ten around all values.
struct Axis {
  int low = 0;
  int high = 1;

  static Axis Around(const std::vector<double>& values) {
    if (values.empty()) return {};
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    Axis axis;
    axis.low = static_cast<int>(std::floor(std::log10(*least)));
    axis.high = std::max(axis.low + 1, static_cast<int>(std::ceil(std::log10(*most))));
    return axis;
  }
  double x(double value) const { return (std::log10(value) - low) / (high - low) * kPanelWidth; }
};

std::string Grid(const Axis& axis, std::string_view name, double height) {
  std::string out = SvgText(0, -14, "class=\"panel\"", name);
  for (int power = axis.low; power <= axis.high; ++power) {
    const double x = axis.x(std::pow(10, power));
    StrAppend(&out, absl::StrFormat("<path class=\"grid\" d=\"M%.1f,0v%.1f\"/>\n", x, height),
              SvgText(x, height + 18, "text-anchor=\"middle\"",
                      absl::StrFormat("%g", std::pow(10, power))));
  }
  return out;
}

}  // namespace

std::string RenderModePlot(const ModePlot& plot) {
  std::vector<double> rates;
  std::vector<double> times;
  double name_width = 0;
  for (const ModePlotRow& row : plot.rows) {
    name_width = std::max(name_width, kCharacterWidth * static_cast<double>(row.name.size()));
    if (!row.note.empty()) continue;
    rates.push_back(row.images_per_second);
    times.push_back(row.coordinator_cpu_ms);
    if (row.worker_cpu_ms.value_or(0) > 0) times.push_back(*row.worker_cpu_ms);
  }
  const Axis rate_axis = Axis::Around(rates);
  const Axis time_axis = Axis::Around(times);
  const double left = kMargin + name_width + kMargin;
  double width = left + 2 * kPanelWidth + kPanelGap + 2 * kMargin;
  for (const std::string& line : plot.lines) {
    width = std::max(width, 2 * kMargin + kCharacterWidth * static_cast<double>(line.size()));
  }
  const double top = 44 + kLineHeight * static_cast<double>(plot.lines.size()) + 46;
  const double panel_height = kRowHeight * static_cast<double>(plot.rows.size());
  const double height = top + panel_height + 60;

  std::string out = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f "
      "%.0f\" role=\"img\" aria-labelledby=\"title desc\">\n",
      width, height, width, height);
  StrAppend(&out, "<title id=\"title\">", MarkupText(plot.title),
            "</title>\n<desc id=\"desc\">For each trust mode: images a second, and milliseconds of "
            "CPU time an image takes, here and on workers; both logarithmic.</desc>\n<style>",
            kStyle, "</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n",
            SvgText(kMargin, 30, "class=\"title\"", plot.title));
  for (size_t i = 0; i < plot.lines.size(); ++i) {
    StrAppend(&out, SvgText(kMargin, 52 + kLineHeight * static_cast<double>(i), "", plot.lines[i]));
  }
  StrAppend(&out, absl::StrFormat("<g transform=\"translate(%.1f,%.1f)\">\n", left, top),
            Grid(rate_axis, "images a second", panel_height),
            absl::StrFormat("<g transform=\"translate(%.1f,0)\">\n", kPanelWidth + kPanelGap),
            Grid(time_axis, "CPU ms an image", panel_height), Mark(1, 160, -18, "here"),
            SvgText(172, -14, "", "here"), Mark(2, 230, -18, "workers"),
            SvgText(242, -14, "", "workers"), "</g>\n");
  for (size_t i = 0; i < plot.rows.size(); ++i) {
    const ModePlotRow& row = plot.rows[i];
    const double y = kRowHeight * (static_cast<double>(i) + 0.5);
    StrAppend(&out, SvgText(-kMargin, y + 4, "text-anchor=\"end\"", row.name));
    if (!row.note.empty()) {
      StrAppend(&out, SvgText(6, y + 4, "", row.note));
      continue;
    }
    const double second = kPanelWidth + kPanelGap;
    StrAppend(&out,
              Mark(0, rate_axis.x(row.images_per_second), y,
                   absl::StrFormat("%s: %.3g images a second", row.name, row.images_per_second)),
              Mark(1, second + time_axis.x(row.coordinator_cpu_ms), y,
                   absl::StrFormat("%s: %.3g ms here", row.name, row.coordinator_cpu_ms)));
    if (row.worker_cpu_ms.value_or(0) > 0) {
      StrAppend(&out,
                Mark(2, second + time_axis.x(*row.worker_cpu_ms), y,
                     absl::StrFormat("%s: %.3g ms on workers", row.name, *row.worker_cpu_ms)));
    }
  }
  return out + "</g>\n</svg>\n";
}

}  // namespace pavise::cli
