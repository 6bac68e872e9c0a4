#include "pavise/cli/guard_report.h"

#include <algorithm>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/cli/output.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

namespace pavise::cli {
namespace {

std::string Seconds(absl::Duration time) {
  return absl::StrFormat("%.3f s", absl::ToDoubleSeconds(time));
}

}  // namespace

absl::StatusOr<double> ParseGuardShare(const std::string& text) {
  double percent = 0;
  // Written so that NaN is refused too.
  if (!absl::SimpleAtod(text, &percent) || !(percent >= 0.001 && percent <= 100)) {
    return UsageError("--guard-share: a number from 0.001 to 100");
  }
  return percent / 100;
}

void AddGuardRows(const loading::GuardReport& report,
                  std::vector<std::pair<std::string, std::string>>& rows) {
  if (report.ranges == 0) {
    rows.emplace_back("guard", "the model has no bytes to check");
    return;
  }
  rows.emplace_back("guard",
                    StrCat(loading::GuardHashName(report.hash), ", nothing changed in ",
                           absl::StrFormat("%.1f s", absl::ToDoubleSeconds(report.running)), ": ",
                           report.passes_completed,
                           report.passes_completed == 1 ? " pass over " : " passes over ",
                           Counted(report.ranges, "range"), ", and ",
                           absl::StrFormat("%.0f%% of the next", 100 * report.coverage), "; ",
                           absl::StrFormat("%.2f%% of the time", 100 * report.share_of_time), ", ",
                           Counted(report.samples, "sample"), " on the CPU"));
  rows.emplace_back("unseen",
                    report.passes_completed > 0
                        ? StrCat("a change for at most ",
                                 Seconds(std::max(report.longest_unchecked, report.now_unchecked)),
                                 ", if it is not undone meanwhile")
                        : StrCat("no pass was completed: a change for more than ",
                                 Seconds(std::max(report.longest_unchecked, report.now_unchecked)),
                                 "; guard for longer, or with a larger share"));
}

OrderedJson GuardJson(const loading::GuardReport& report) {
  OrderedJson json;
  json["hash"] = loading::GuardHashName(report.hash);
  json["ranges"] = report.ranges;
  json["bytes"] = report.bytes;
  json["ranges_checked"] = report.ranges_checked;
  json["passes_completed"] = report.passes_completed;
  json["coverage"] = report.coverage;
  json["longest_unchecked_seconds"] = absl::ToDoubleSeconds(report.longest_unchecked);
  json["now_unchecked_seconds"] = absl::ToDoubleSeconds(report.now_unchecked);
  json["seconds"] = absl::ToDoubleSeconds(report.running);
  json["share_of_time"] = report.share_of_time;
  json["samples"] = report.samples;
  return json;
}

}  // namespace pavise::cli
