#ifndef PAVISE_BROKER_REFUSAL_BUDGET_H_
#define PAVISE_BROKER_REFUSAL_BUDGET_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "absl/time/time.h"

namespace pavise::broker {

// Which refusals get a ledger entry of their own. Anybody can have a request refused, with as many
// session keys as they like, and what is in the ledger stays: so an agreement has so many entries
// for refusals an hour, and each source (an address, or a stakeholder's key) a share of them. The
// others are counted, and one entry says how many they were. Memory is bounded by what is recorded.
// Thread-safe.
class RefusalBudget {
 public:
  struct Unrecorded {
    uint64_t count = 0;
    absl::Time first;
    absl::Time last;
  };

  RefusalBudget(uint32_t of_source, uint32_t of_agreement)
      : of_source_(of_source), of_agreement_(of_agreement) {}

  // Counts a refusal. Whether it is recorded by itself.
  bool Take(const std::string& agreement, const std::string& source, absl::Time now);
  // What was counted only, and is forgotten hereby: once its hour is over, or where `at_once`, a
  // minute after the last time. nullopt: nothing.
  std::optional<Unrecorded> Drain(const std::string& agreement, absl::Time now, bool at_once);
  // Everything that was counted only, for the end of the service.
  std::map<std::string, Unrecorded> DrainAll();
  // What Drain gave and nobody could write down.
  void Restore(const std::string& agreement, const Unrecorded& unrecorded);

 private:
  struct Window {
    absl::Time begun;
    absl::Time drained = absl::InfinitePast();
    uint32_t recorded = 0;
    std::map<std::string, uint32_t> of_source;  // with a recorded one only
    std::optional<Unrecorded> unrecorded;
  };

  const uint32_t of_source_;
  const uint32_t of_agreement_;
  std::mutex mutex_;
  std::map<std::string, Window> windows_;
};

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_REFUSAL_BUDGET_H_
