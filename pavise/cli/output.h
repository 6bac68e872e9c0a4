#ifndef PAVISE_CLI_OUTPUT_H_
#define PAVISE_CLI_OUTPUT_H_

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/cli/verb.h"

#include "absl/status/status.h"
#include "absl/time/time.h"

// How results and refusals look. Everything here is safe to print whatever a file is called:
// control bytes and terminal escapes come out as \xNN, or \u escapes in JSON.
namespace pavise::cli {

// True when `stream` is a terminal that wants colour (https://no-color.org, TERM other than dumb).
bool WantsColour(std::FILE* stream);

// Labels in one column, values in the next, indented by two. Values are made Printable; a label may
// be empty to continue the row above it. Rows without a value are left out.
std::string AlignedRows(const std::vector<std::pair<std::string, std::string>>& rows);

// Columns as wide as their widest cell; cells of `right_aligned` columns are set to the right.
// Every row has the same number of cells. Cells are made Printable.
std::string AlignedTable(const std::vector<std::vector<std::string>>& rows,
                         const std::vector<size_t>& right_aligned);

// "1 file", "3 files".
std::string Counted(uint64_t count, std::string_view noun);
// "1.50 GiB in 0.42 s (3.83 GB/s)"; the rate is of decimal gigabytes and left out for short times.
std::string Throughput(uint64_t size_bytes, double seconds);
// bytes / 1e9 / seconds, 0 where no time passed.
double GigabytesPerSecond(uint64_t size_bytes, double seconds);
// "2026-03-01T12:00:00Z"; "always" for the infinite past, "never" for the infinite future.
std::string FormatUtc(absl::Time time);
// A string, or null for an empty one.
OrderedJson TextOrNull(std::string_view text);

// Results for people, and as JSON text with a newline.
std::string RenderOutcome(const Outcome& outcome, bool colour);
std::string RenderOutcomeJson(const Outcome& outcome, std::string_view verb);

// A refusal, failure or usage error. `headline` is used for refusals. Of many findings the first
// kMostFindingsShown are shown; JSON holds them all.
inline constexpr size_t kMostFindingsShown = 50;
std::string RenderError(const absl::Status& status, std::string_view verb,
                        std::string_view headline, bool colour);
std::string RenderErrorJson(const absl::Status& status, std::string_view verb,
                            std::string_view headline);

// JSON text in ASCII (everything else as \u escapes), with a newline.
std::string RenderJson(const OrderedJson& value);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_OUTPUT_H_
