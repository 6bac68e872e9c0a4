#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "pavise/base/markup.h"
#include "pavise/base/strings.h"
#include "pavise/train/metrics.h"

#include "absl/strings/str_format.h"

namespace pavise::train {
namespace {

constexpr double kPanelWidth = 400;
constexpr double kPanelHeight = 260;
constexpr double kLeft = 60;
constexpr double kGap = 80;
constexpr double kTop = 70;
constexpr double kHeight = kTop + kPanelHeight + 60;
constexpr double kMostTicks = 6;
// More points than pixels say nothing: neighbours are averaged.
constexpr size_t kMostPoints = 400;

constexpr const char* kStyle = R"(
  svg { --page: #ffffff; --ink: #1a1a1a; --faint: #d0d0d0; --c0: #005a9e; --c1: #b34700; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #14161a; --ink: #ececec; --faint: #3a3d44; --c0: #6cb8ff; --c1: #ffa04d; } }
  text { fill: var(--ink); font-family: sans-serif; font-size: 13px; }
  .title { font-size: 17px; font-weight: bold; }
  .page { fill: var(--page); } .grid { stroke: var(--faint); stroke-width: 1; }
  .line { fill: none; stroke-width: 2; }
)";

using Points = std::vector<std::pair<double, double>>;

struct Line {
  std::string name;
  Points points;
};

Points Averaged(const Points& points) {
  const size_t each = (points.size() + kMostPoints - 1) / kMostPoints;
  if (each <= 1) return points;
  Points averaged;
  for (size_t begin = 0; begin < points.size(); begin += each) {
    const size_t end = std::min(points.size(), begin + each);
    std::pair<double, double> sum;
    for (size_t i = begin; i < end; ++i) {
      sum.first += points[i].first;
      sum.second += points[i].second;
    }
    averaged.emplace_back(sum.first / static_cast<double>(end - begin),
                          sum.second / static_cast<double>(end - begin));
  }
  return averaged;
}

// 1, 2 or 5 times a power of ten, of which at most six make the range.
double TickStep(double range) {
  double step = std::pow(10, std::floor(std::log10(range)) - 1);
  for (const double factor : {2.0, 2.5, 2.0}) {
    if (range / step <= kMostTicks) break;
    step *= factor;
  }
  return range / step <= kMostTicks ? step : step * 2;
}

// From 0 to the first tick that is not below `most`, and from 0 to the last x.
std::string Panel(double left, std::string_view title, std::string_view axis, double most,
                  const std::vector<Line>& lines) {
  double last = 1;
  for (const Line& line : lines) {
    for (const auto& point : line.points) last = std::max(last, point.first);
  }
  const double y_step = TickStep(most);
  const double top = std::ceil(most / y_step - 1e-9) * y_step;
  const double x_step = std::max(1.0, TickStep(last));  // steps and epochs are whole
  std::string svg = SvgText(left, kTop - 26, "", title);
  for (double value = 0; value <= top * (1 + 1e-9); value += y_step) {
    const double y = kTop + (1 - value / top) * kPanelHeight;
    StrAppend(&svg, absl::StrFormat("<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>\n", left, y,
                                    left + kPanelWidth));
    StrAppend(&svg,
              SvgText(left - 8, y + 4, "text-anchor=\"end\"", absl::StrFormat("%.3g", value)));
  }
  for (double value = 0; value <= last * (1 + 1e-9); value += x_step) {
    const double x = left + value / last * kPanelWidth;
    StrAppend(&svg, absl::StrFormat("<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>\n", x, kTop,
                                    kTop + kPanelHeight));
    StrAppend(&svg, SvgText(x, kTop + kPanelHeight + 18, "text-anchor=\"middle\"",
                            absl::StrFormat("%.6g", value)));
  }
  StrAppend(&svg, SvgText(left + kPanelWidth / 2, kTop + kPanelHeight + 40,
                          "text-anchor=\"middle\"", axis));
  for (size_t i = 0; i < lines.size(); ++i) {
    std::string points;
    for (const auto& [x, y] : lines[i].points) {
      StrAppend(&points,
                absl::StrFormat("%.1f,%.1f ", left + x / last * kPanelWidth,
                                kTop + (1 - std::clamp(y / top, 0.0, 1.0)) * kPanelHeight));
    }
    const std::string stroke = absl::StrFormat("stroke=\"var(--c%d)\" stroke-dasharray=\"%s\"",
                                               static_cast<int>(i), i == 0 ? "none" : "8 3");
    // One point alone would be no line.
    if (lines[i].points.size() == 1) points += std::string(points);
    StrAppend(&svg, "<polyline class=\"line\" stroke-linecap=\"round\" ", stroke, " points=\"",
              points, "\"/>\n");
    const double x = left + 200 + 110 * static_cast<double>(i);
    StrAppend(
        &svg,
        absl::StrFormat("<path class=\"line\" %s d=\"M%.1f %.1fh24\"/>\n", stroke, x, kTop - 30),
        SvgText(x + 30, kTop - 26, "", lines[i].name));
  }
  return svg;
}

}  // namespace

std::string RenderCurves(std::string_view title, const Metrics& metrics) {
  Line loss = {"training", {}};
  Line test_loss = {"test", {}};
  Line train = {"training", {}};
  Line test = {"test", {}};
  double most_loss = 0;
  for (const StepMetrics& step : metrics.steps) {
    loss.points.emplace_back(static_cast<double>(step.step), step.loss);
  }
  loss.points = Averaged(loss.points);
  for (const EpochMetrics& epoch : metrics.epochs) {
    test_loss.points.emplace_back(static_cast<double>(epoch.step), epoch.test_loss);
    train.points.emplace_back(static_cast<double>(epoch.epoch), 100 * epoch.train_accuracy);
    test.points.emplace_back(static_cast<double>(epoch.epoch), 100 * epoch.test_accuracy);
  }
  for (const Line* line : {&loss, &test_loss}) {
    for (const auto& point : line->points) most_loss = std::max(most_loss, point.second);
  }
  const double width = kLeft + 2 * kPanelWidth + kGap + 30;
  return StrCat(
      absl::StrFormat(
          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" role=\"img\">\n",
          width, kHeight),
      "<style>", kStyle, "</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n",
      SvgText(kLeft, 24, "class=\"title\"", title),
      Panel(kLeft, "Loss", "step", most_loss > 0 ? most_loss : 1, {loss, test_loss}),
      Panel(kLeft + kPanelWidth + kGap, "Accuracy (%)", "epoch", 100, {train, test}), "</svg>\n");
}

}  // namespace pavise::train
