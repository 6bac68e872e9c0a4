#include "pavise/cli/output.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "pavise/base/bytes.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_format.h"

namespace pavise::cli {
namespace {

constexpr std::string_view kGreen = "\x1b[1;32m";
constexpr std::string_view kRed = "\x1b[1;31m";
constexpr std::string_view kPlain = "\x1b[0m";
constexpr std::string_view kUsageReason = "usage";
constexpr std::string_view kMachineReason = "machine-failure";

std::string Coloured(std::string_view word, std::string_view colour_code, bool colour) {
  return colour ? StrCat(colour_code, word, kPlain) : std::string(word);
}

// Columns that a Printable text takes on a terminal, near enough: code points.
size_t Width(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

// Keeps lines apart, makes each Printable.
std::string PrintableLines(std::string_view text) {
  std::string out;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    out += Printable(text.substr(begin, end - begin));
    if (end < text.size()) out += '\n';
    begin = end + 1;
  }
  return out;
}

std::string MessageOf(const absl::Status& status) {
  return std::string(FromAbsl(status.message()));
}

}  // namespace

bool WantsColour(std::FILE* stream) {
  const char* no_colour = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return isatty(fileno(stream)) != 0 && (no_colour == nullptr || *no_colour == '\0') &&
         terminal != nullptr && std::string_view(terminal) != "dumb";
}

std::string AlignedRows(const std::vector<std::pair<std::string, std::string>>& rows) {
  size_t width = 0;
  for (const auto& [label, value] : rows) {
    if (!value.empty()) width = std::max(width, label.size());
  }
  std::string out;
  for (const auto& [label, value] : rows) {
    if (value.empty()) continue;
    StrAppend(&out, "  ", label, std::string(width - label.size() + 2, ' '), Printable(value),
              "\n");
  }
  return out;
}

std::string AlignedTable(const std::vector<std::vector<std::string>>& rows,
                         const std::vector<size_t>& right_aligned) {
  std::vector<size_t> widths;
  std::vector<std::vector<std::string>> printable;
  for (const std::vector<std::string>& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    printable.emplace_back();
    for (size_t i = 0; i < row.size(); ++i) {
      printable.back().push_back(Printable(row[i]));
      widths[i] = std::max(widths[i], Width(printable.back().back()));
    }
  }
  std::string out;
  for (const std::vector<std::string>& row : printable) {
    std::string line = " ";
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - Width(row[i]), ' ');
      const bool right =
          std::find(right_aligned.begin(), right_aligned.end(), i) != right_aligned.end();
      StrAppend(&line, i == 0 ? " " : "  ", right ? padding + row[i] : row[i] + padding);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    StrAppend(&out, line, "\n");
  }
  return out;
}

std::string Counted(uint64_t count, std::string_view noun) {
  return StrCat(count, " ", noun, count == 1 ? "" : "s");
}

double GigabytesPerSecond(uint64_t size_bytes, double seconds) {
  return seconds > 0 ? static_cast<double>(size_bytes) / 1e9 / seconds : 0;
}

std::string Throughput(uint64_t size_bytes, double seconds) {
  // Below this the rate says more about starting up than about hashing.
  constexpr double kShortestRated_s = 0.05;
  std::string text = absl::StrFormat("%s in %.2f s", HumanBytes(size_bytes), seconds);
  if (seconds >= kShortestRated_s) {
    absl::StrAppendFormat(&text, " (%.2f GB/s)", GigabytesPerSecond(size_bytes, seconds));
  }
  return text;
}

std::string FormatUtc(absl::Time time) {
  if (time == absl::InfinitePast()) return "always";
  if (time == absl::InfiniteFuture()) return "never";
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
}

OrderedJson TextOrNull(std::string_view text) {
  return text.empty() ? OrderedJson(nullptr) : OrderedJson(std::string(text));
}

std::string RenderJson(const OrderedJson& value) {
  return value.dump(2, ' ', /*ensure_ascii=*/true, OrderedJson::error_handler_t::replace) + "\n";
}

std::string RenderOutcome(const Outcome& outcome, bool colour) {
  std::string out;
  if (!outcome.verdict.empty()) {
    StrAppend(&out, Coloured(outcome.verdict, kGreen, colour), ": ");
  }
  if (!outcome.headline.empty()) StrAppend(&out, outcome.headline, "\n");
  return out + outcome.text;
}

std::string RenderOutcomeJson(const Outcome& outcome, std::string_view verb) {
  OrderedJson object = {{"ok", true}, {"exit_code", 0}, {"verb", std::string(verb)}};
  for (const auto& member : outcome.json.items()) object[member.key()] = member.value();
  return RenderJson(object);
}

std::string RenderError(const absl::Status& status, std::string_view verb,
                        std::string_view headline, bool colour) {
  const std::string command = verb.empty() ? "pavise" : StrCat("pavise ", verb);
  switch (ExitCodeOf(status)) {
    case 2:
      return StrCat(command, ": ", PrintableLines(MessageOf(status)), "\nTry: ", command,
                    " --help\n");
    case 1:
      break;
    default:
      return StrCat(Coloured("FAILED", kRed, colour), ": ", Printable(MessageOf(status)), "\n");
  }
  const std::vector<Refusal> findings = RefusalsOf(status);
  const size_t shown = std::min(findings.size(), kMostFindingsShown);
  size_t width = 0;
  for (size_t i = 0; i < shown; ++i) {
    width = std::max(width, ReasonName(findings[i].reason).size());
  }
  std::string out = StrCat(Coloured("REFUSED", kRed, colour), ": ", Printable(headline), "\n");
  for (size_t i = 0; i < shown; ++i) {
    const Refusal& finding = findings[i];
    const std::string_view reason = ReasonName(finding.reason);
    StrAppend(&out, "  ", reason, std::string(width - reason.size() + 2, ' '),
              Printable(finding.item), finding.item.empty() ? "" : ": ", Printable(finding.detail),
              "\n");
    // Once for findings in a row that share it.
    const bool last = i + 1 == shown || findings[i + 1].remedy != finding.remedy;
    if (last && !finding.remedy.empty()) {
      StrAppend(&out, "      what to do: ", Printable(finding.remedy), "\n");
    }
  }
  if (shown < findings.size()) {
    StrAppend(&out, "  and ", findings.size() - shown, " more (--json lists all)\n");
  }
  return out;
}

std::string RenderErrorJson(const absl::Status& status, std::string_view verb,
                            std::string_view headline) {
  const int exit_code = ExitCodeOf(status);
  OrderedJson findings = OrderedJson::array();
  for (const Refusal& finding : RefusalsOf(status)) {
    findings.push_back({{"reason", std::string(ReasonName(finding.reason))},
                        {"item", finding.item},
                        {"detail", finding.detail},
                        {"remedy", finding.remedy}});
  }
  std::string error(headline);
  if (exit_code != 1) {
    error = MessageOf(status);
    findings.push_back(
        {{"reason", std::string(exit_code == 2 ? kUsageReason : kMachineReason)},
         {"item", ""},
         {"detail", error},
         {"remedy", exit_code == 2 ? StrCat("pavise ", verb, verb.empty() ? "" : " ", "--help")
                                   : std::string()}});
  }
  OrderedJson object = {{"ok", false}, {"exit_code", exit_code}};
  if (!verb.empty()) object["verb"] = std::string(verb);
  object["error"] = error;
  object["findings"] = findings;
  return RenderJson(object);
}

}  // namespace pavise::cli
