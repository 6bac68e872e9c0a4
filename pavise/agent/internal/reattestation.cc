#include "pavise/agent/internal/reattestation.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::agent::internal {
namespace {

// Asked again after this, where the broker could not be reached.
constexpr absl::Duration kRetry = absl::Seconds(5);

}  // namespace

absl::Duration SinceBoot() {
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return absl::DurationFromTimespec(now);
}

Reattestation::Reattestation(Containment& containment, absl::Duration accepted,
                             absl::Duration interval, absl::Duration patience,
                             std::function<absl::Status()> attest)
    : containment_(containment),
      interval_(interval),
      patience_(patience),
      attest_(std::move(attest)),
      last_(accepted),
      attester_([this] { Attest(); }),
      watch_([this] { Watch(); }) {}

Reattestation::~Reattestation() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    done_ = true;
  }
  changed_.notify_all();
  attester_.join();
  watch_.join();
}

uint64_t Reattestation::count() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return count_;
}

bool Reattestation::WaitUntilDone(std::unique_lock<std::mutex>& lock, absl::Duration time) {
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(time), [this] { return done_; });
}

void Reattestation::Attest() {
  std::unique_lock<std::mutex> lock(mutex_);
  absl::Duration wait = std::max(last_ + interval_ - SinceBoot(), absl::ZeroDuration());
  while (!WaitUntilDone(lock, wait)) {
    lock.unlock();
    const absl::Duration asked = SinceBoot();
    const absl::Status verdict = attest_();
    lock.lock();
    if (ReasonOf(verdict).has_value()) {
      containment_.Stop(verdict);
      return;
    }
    if (verdict.ok()) {
      last_ = asked;
      ++count_;
    }
    wait = verdict.ok() ? interval_ : std::min(kRetry, interval_);
  }
}

// By itself, since a call to the broker may take longer than there is patience.
void Reattestation::Watch() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    const absl::Duration left = last_ + patience_ - SinceBoot();
    if (left <= absl::ZeroDuration()) {
      containment_.Stop(
          Refuse(Reason::kEvidenceMissing, "broker",
                 StrCat("did not appraise this machine again within ",
                        FromAbsl(absl::FormatDuration(patience_)), ", as the agreement asks"),
                 "make the broker reachable from this machine, and run the stage again"));
      return;
    }
    if (WaitUntilDone(lock, std::min(left, absl::Seconds(1)))) return;
  }
}

}  // namespace pavise::agent::internal
