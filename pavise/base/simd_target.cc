#include "pavise/base/simd_target.h"

#include <cstddef>

#include "hwy/detect_targets.h"

#if HWY_ARCH_X86
#include <cpuid.h>
#endif

namespace pavise {
namespace {

#if HWY_ARCH_X86

// Features that not every compiler's __builtin_cpu_supports knows. Registers: EAX, EBX, ECX, EDX.
bool HasCpuidBit(unsigned leaf, size_t which, unsigned bit) {
  unsigned registers[4] = {};
  return __get_cpuid_count(leaf, 0, &registers[0], &registers[1], &registers[2], &registers[3]) !=
             0 &&
         (registers[which] & bit) != 0;
}
bool HasF16c() { return HasCpuidBit(1, 2, bit_F16C); }
bool HasLzcnt() { return HasCpuidBit(0x80000001, 2, bit_LZCNT); }
bool HasSha() { return HasCpuidBit(7, 1, bit_SHA); }

// The built-in answers yes to AVX and AVX-512 only where the operating system keeps the registers.
bool HasSsse3() { return __builtin_cpu_supports("ssse3"); }

bool HasSse4() {
  return HasSsse3() && __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("sse4.2") &&
         __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("aes");
}

bool HasAvx2() {
  return HasSse4() && __builtin_cpu_supports("avx") && __builtin_cpu_supports("avx2") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("fma") && HasF16c() && HasLzcnt();
}

bool HasAvx3() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}

#endif  // HWY_ARCH_X86

}  // namespace

bool CpuSupports(int64_t target) {
  if (target == HWY_STATIC_TARGET) return true;
#if HWY_ARCH_X86
  __builtin_cpu_init();
  if (target == HWY_SSSE3) return HasSsse3();
  if (target == HWY_SSE4) return HasSse4();
  if (target == HWY_AVX2) return HasAvx2();
  if (target == HWY_AVX3) return HasAvx3();
#endif
  return false;
}

bool CpuSupportsAvx512Vnni() {
#if HWY_ARCH_X86
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

bool CpuSupportsAvx512Bf16() {
#if HWY_ARCH_X86
  __builtin_cpu_init();
  return HasAvx3() && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

bool CpuSupportsSha256() {
#if HWY_ARCH_X86
  __builtin_cpu_init();
  return HasSha() && HasSsse3() && __builtin_cpu_supports("sse4.1");
#else
  return false;
#endif
}

}  // namespace pavise
