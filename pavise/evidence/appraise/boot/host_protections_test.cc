#include "pavise/evidence/appraise/boot/host_protections.h"

#include <string>

#include "pavise/base/strings.h"

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

std::string Protected() {
  std::string line = "console=ttyS0";
  for (const HostProtection& protection : HostProtections()) {
    StrAppend(&line, " ", protection.parameter);
  }
  return line;
}

absl::Status Verdict(const std::string& line, const std::set<std::string>& exceptions = {}) {
  CheckList checks;
  CheckHostProtections(line, exceptions, checks);
  return checks.Verdict();
}

TEST(HostProtectionsTest, AllOfThemAreNeeded) {
  CheckList checks;
  CheckHostProtections(Protected(), {}, checks);
  EXPECT_TRUE(checks.all_passed());
  EXPECT_THAT(checks.checks(), SizeIs(HostProtections().size()));
  EXPECT_THAT(RefusalsOf(Verdict("quiet")), SizeIs(HostProtections().size()));

  size_t executed = 0;
  for (const HostProtection& protection : HostProtections()) {
    const std::string without =
        absl::StrReplaceAll(Protected(), {{std::string(protection.parameter), "quiet"}});
    const absl::Status status = Verdict(without);
    ASSERT_THAT(RefusalsOf(status), SizeIs(1)) << protection.name;
    EXPECT_EQ(ReasonOf(status), Reason::kPlatformInsecure);
    EXPECT_THAT(RefusalsOf(status)[0].detail, HasSubstr(protection.parameter));
    EXPECT_TRUE(Verdict(without, {std::string(protection.name)}).ok());
    ++executed;
  }
  EXPECT_EQ(executed, 8u);
}

TEST(HostProtectionsTest, ALaterWordDoesNotUndoOne) {
  size_t executed = 0;
  for (const std::string& line :
       {Protected() + " lockdown=none", "lockdown=integrity " + Protected(),
        Protected() + " module.sig-enforce=0", Protected() + " lockdown",
        Protected() + " x=\"a b\"",
        Protected() + " " + std::string(HostProtections()[0].parameter)}) {
    EXPECT_EQ(ReasonOf(Verdict(line)), Reason::kPlatformInsecure) << line;
    ++executed;
  }
  EXPECT_EQ(executed, 6u);
}

TEST(HostProtectionsTest, AnExceptionThatThereIsNotIsRefused) {
  EXPECT_EQ(ReasonOf(Verdict(Protected(), {"lock-down"})), Reason::kPolicyDenied);
}

}  // namespace
}  // namespace pavise::evidence
