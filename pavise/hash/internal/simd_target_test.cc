#include "pavise/hash/internal/simd_target.h"

#include <gtest/gtest.h>

#include "hwy/targets.h"

namespace pavise::hash::internal {
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

TEST(SimdTarget, TheBaselineIsAlwaysThere) { EXPECT_TRUE(CpuSupports(HWY_STATIC_TARGET)); }

TEST(SimdTarget, WhatNoKernelIsCompiledForIsRefused) {
  EXPECT_FALSE(CpuSupports(0));
  EXPECT_FALSE(CpuSupports(HWY_RVV));
  EXPECT_FALSE(CpuSupports(HWY_AVX3 | HWY_AVX2)) << "one target at a time";
}

}  // namespace
}  // namespace pavise::hash::internal
