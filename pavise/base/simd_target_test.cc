#include "pavise/base/simd_target.h"

#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "hwy/targets.h"

namespace pavise {
namespace {

// Highway's shared library, which the program itself does without, is the judge.
TEST(SimdTarget, AgreesWithHighwayOnEveryTargetWithKernels) {
  const int64_t supported = hwy::SupportedTargets();
  int compared = 0;
  for (int64_t target :
       {int64_t{HWY_SSSE3}, int64_t{HWY_SSE4}, int64_t{HWY_AVX2}, int64_t{HWY_AVX3}}) {
#if HWY_ARCH_X86
    EXPECT_EQ(CpuSupports(target), (supported & target) != 0) << hwy::TargetName(target);
#else
    EXPECT_FALSE(CpuSupports(target)) << hwy::TargetName(target);
#endif
    ++compared;
  }
  EXPECT_EQ(compared, 4);
}

// The kernel's word for it is the judge: it lists what the CPU itself says.
TEST(SimdTarget, AgreesWithTheKernelOnShaInstructions) {
#if HWY_ARCH_X86
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && line.rfind("flags", 0) != 0) {
  }
  if (line.rfind("flags", 0) != 0) GTEST_SKIP() << "/proc/cpuinfo lists no flags";
  EXPECT_EQ(CpuSupportsSha256(), (line + " ").find(" sha_ni ") != std::string::npos);
#else
  EXPECT_FALSE(CpuSupportsSha256());
#endif
}

TEST(SimdTarget, TheBaselineIsAlwaysThere) { EXPECT_TRUE(CpuSupports(HWY_STATIC_TARGET)); }

TEST(SimdTarget, WhatNoKernelIsCompiledForIsRefused) {
  EXPECT_FALSE(CpuSupports(0));
  EXPECT_FALSE(CpuSupports(HWY_RVV));
  EXPECT_FALSE(CpuSupports(HWY_AVX3 | HWY_AVX2)) << "one target at a time";
}

}  // namespace
}  // namespace pavise
