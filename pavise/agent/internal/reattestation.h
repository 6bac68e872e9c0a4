#ifndef PAVISE_AGENT_INTERNAL_REATTESTATION_H_
#define PAVISE_AGENT_INTERNAL_REATTESTATION_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include "pavise/agent/containment.h"

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace pavise::agent::internal {

// The machine's time since its boot, sleep included; nobody sets it.
absl::Duration SinceBoot();

// Has the machine appraised again while a command runs, and stops the command when the verdict
// turns. Two threads, which end with the object.
class Reattestation {
 public:
  // Calls `attest` each `interval`, from one thread; where it fails without a verdict, again after
  // at most 5 seconds. A refusal stops `containment` with it. So does `patience` since the last
  // accept was asked for: kEvidenceMissing. `accepted`: when the last one before this object was
  // (SinceBoot), so that what was done in between does not count as an accept.
  Reattestation(Containment& containment, absl::Duration accepted, absl::Duration interval,
                absl::Duration patience, std::function<absl::Status()> attest);
  // Waits for a call of `attest` that is under way.
  ~Reattestation();
  Reattestation(const Reattestation&) = delete;
  Reattestation& operator=(const Reattestation&) = delete;

  // How often it was accepted.
  uint64_t count() const;

 private:
  bool WaitUntilDone(std::unique_lock<std::mutex>& lock, absl::Duration time);
  void Attest();
  void Watch();

  Containment& containment_;
  const absl::Duration interval_;
  const absl::Duration patience_;
  const std::function<absl::Status()> attest_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  absl::Duration last_;
  uint64_t count_ = 0;
  std::thread attester_;
  std::thread watch_;
};

}  // namespace pavise::agent::internal

#endif  // PAVISE_AGENT_INTERNAL_REATTESTATION_H_
