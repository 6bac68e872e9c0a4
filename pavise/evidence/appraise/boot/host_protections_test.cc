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
        absl::StrReplaceAll(Protected(), {{std::string(protection.parameter), "ro"}});
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

// Each was seen to take protections out of force, or is documented to (Linux,
// kernel-parameters.txt), while all their words stand on the line.
TEST(HostProtectionsTest, WhatUndoesThemIsRefused) {
  std::string all;
  for (const HostProtection& protection : HostProtections()) {
    StrAppend(&all, " ", protection.parameter);
  }
  ASSERT_TRUE(Verdict("console=ttyS0 quiet loglevel=3 intel_iommu=on" + all).ok());
  size_t executed = 0;
  for (const std::string& line :
       {"quiet --" + all, "x\xc2\xa0--" + all, all + " x\xc2\xa0iommu.passthrough=1",
        all + " lsm=lockdown,integrity", all + " iommu=pt", all + " intel_iommu=off",
        all + " amd_iommu=off", all + " initcall_blacklist=init_ima", all + " bootconfig",
        all + " security=none", all + " sysctl/kernel/kexec_load_disabled=0", all + " init=/bin/sh",
        all + " rdinit=/bin/sh", all + " debug=\x01", all + "\tlockdown=none"}) {
    EXPECT_EQ(ReasonOf(Verdict(line)), Reason::kPlatformInsecure) << line;
    ++executed;
  }
  EXPECT_EQ(executed, 15u);
}

TEST(HostProtectionsTest, AnExceptionThatThereIsNotIsRefused) {
  EXPECT_EQ(ReasonOf(Verdict(Protected(), {"lock-down"})), Reason::kPolicyDenied);
}

}  // namespace
}  // namespace pavise::evidence
