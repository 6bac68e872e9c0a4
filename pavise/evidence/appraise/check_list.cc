#include "pavise/evidence/appraise/check_list.h"

#include <algorithm>
#include <utility>

namespace pavise::evidence {

void CheckList::Pass(std::string_view name, std::string_view detail) {
  checks_.push_back({std::string(name), std::string(detail), std::nullopt});
}

void CheckList::Fail(std::string_view name, Reason reason, std::string_view item,
                     std::string_view detail, std::string_view remedy) {
  checks_.push_back({std::string(name), std::string(detail),
                     Refusal{reason, std::string(item), std::string(detail), std::string(remedy)}});
}

absl::Status CheckList::Add(std::string_view name, std::string_view detail,
                            const absl::Status& status) {
  if (status.ok()) Pass(name, detail);
  if (!status.ok() && !ReasonOf(status).has_value()) failure_.Update(status);
  for (Refusal& refusal : RefusalsOf(status)) {
    std::string what = refusal.detail;
    checks_.push_back({std::string(name), std::move(what), std::move(refusal)});
  }
  return status;
}

absl::Status CheckList::Record(std::string_view name, std::string_view detail,
                               const absl::Status& status) {
  (void)Add(name, detail, status);
  return ReasonOf(status).has_value() ? absl::OkStatus() : status;
}

bool CheckList::all_passed() const {
  return failure_.ok() && std::none_of(checks_.begin(), checks_.end(), [](const Check& check) {
           return check.refusal.has_value();
         });
}

absl::Status CheckList::Verdict() const {
  if (!failure_.ok()) return failure_;
  std::vector<Refusal> findings;
  for (const Check& check : checks_) {
    if (check.refusal.has_value()) findings.push_back(*check.refusal);
  }
  return findings.empty() ? absl::OkStatus() : Refuse(std::move(findings));
}

}  // namespace pavise::evidence
