#include "pavise/base/clock.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace pavise {
namespace {

TEST(ClockTest, AFixedClockStandsStill) {
  const absl::Time time = absl::FromUnixSeconds(1'700'000'000);
  const FixedClock clock(time);
  EXPECT_EQ(clock.Now(), time);
  EXPECT_EQ(clock.Now(), time);
}

TEST(ClockTest, TheSystemClockTellsThePresent) {
  // Later than this code was written; a clock that is unset is a misconfigured machine.
  EXPECT_GT(SystemClock().Now(), absl::FromUnixSeconds(1'600'000'000));
  EXPECT_EQ(&SystemClock(), &SystemClock());
}

}  // namespace
}  // namespace pavise
