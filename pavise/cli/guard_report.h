#ifndef PAVISE_CLI_GUARD_REPORT_H_
#define PAVISE_CLI_GUARD_REPORT_H_

#include <string>
#include <utility>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/loading/guard.h"

#include "absl/status/statusor.h"

// What `load --guard` and `infer` share.
namespace pavise::cli {

// "--guard-share": percent as a share of 1. A usage error: not from 0.001 to 100.
absl::StatusOr<double> ParseGuardShare(const std::string& text);

// Of a guard that found nothing.
void AddGuardRows(const loading::GuardReport& report,
                  std::vector<std::pair<std::string, std::string>>& rows);
OrderedJson GuardJson(const loading::GuardReport& report);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_GUARD_REPORT_H_
