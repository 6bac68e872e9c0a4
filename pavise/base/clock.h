#ifndef PAVISE_BASE_CLOCK_H_
#define PAVISE_BASE_CLOCK_H_

#include "absl/time/time.h"

namespace pavise {

// The time of day, injectable so that expiry can be tested. Implementations are thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

// The machine's clock; lives for the whole program.
const Clock& SystemClock();

// Stands still.
class FixedClock final : public Clock {
 public:
  explicit FixedClock(absl::Time now) : now_(now) {}
  absl::Time Now() const override { return now_; }

 private:
  absl::Time now_;
};

}  // namespace pavise

#endif  // PAVISE_BASE_CLOCK_H_
