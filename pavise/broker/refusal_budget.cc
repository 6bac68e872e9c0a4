#include "pavise/broker/refusal_budget.h"

#include <algorithm>
#include <utility>

namespace pavise::broker {
namespace {

constexpr absl::Duration kWindow = absl::Hours(1);
constexpr absl::Duration kDrainPause = absl::Minutes(1);

}  // namespace

bool RefusalBudget::Take(const std::string& agreement, const std::string& source, absl::Time now) {
  const std::scoped_lock lock(mutex_);
  const auto [found, is_new] = windows_.try_emplace(agreement);
  Window& window = found->second;
  // A clock that is set back begins no new hour: it would be one for whoever sets it.
  if (is_new || now - window.begun >= kWindow) {
    window.begun = now;
    window.recorded = 0;
    window.of_source.clear();
  }
  const auto known = window.of_source.find(source);
  const uint32_t count = known == window.of_source.end() ? 0 : known->second;
  if (window.recorded < of_agreement_ && count < of_source_) {
    ++window.recorded;
    ++window.of_source[source];
    return true;
  }
  if (!window.unrecorded.has_value()) window.unrecorded = Unrecorded{.first = now, .last = now};
  ++window.unrecorded->count;
  window.unrecorded->last = std::max(window.unrecorded->last, now);
  return false;
}

std::optional<RefusalBudget::Unrecorded> RefusalBudget::Drain(const std::string& agreement,
                                                              absl::Time now, bool at_once) {
  const std::scoped_lock lock(mutex_);
  const auto found = windows_.find(agreement);
  if (found == windows_.end() || !found->second.unrecorded.has_value()) return std::nullopt;
  Window& window = found->second;
  const absl::Time due =
      at_once ? window.drained + kDrainPause : window.unrecorded->first + kWindow;
  if (now < due) return std::nullopt;
  window.drained = now;
  return std::exchange(window.unrecorded, std::nullopt);
}

std::map<std::string, RefusalBudget::Unrecorded> RefusalBudget::DrainAll() {
  const std::scoped_lock lock(mutex_);
  std::map<std::string, Unrecorded> all;
  for (auto& [agreement, window] : windows_) {
    if (window.unrecorded.has_value()) all[agreement] = *window.unrecorded;
    window.unrecorded.reset();
  }
  return all;
}

void RefusalBudget::Restore(const std::string& agreement, const Unrecorded& unrecorded) {
  const std::scoped_lock lock(mutex_);
  std::optional<Unrecorded>& now = windows_[agreement].unrecorded;
  if (!now.has_value()) {
    now = unrecorded;
    return;
  }
  now->count += unrecorded.count;
  now->first = std::min(now->first, unrecorded.first);
  now->last = std::max(now->last, unrecorded.last);
}

}  // namespace pavise::broker
