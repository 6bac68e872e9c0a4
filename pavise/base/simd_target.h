#ifndef PAVISE_BASE_SIMD_TARGET_H_
#define PAVISE_BASE_SIMD_TARGET_H_

#include <cstdint>

namespace pavise {

// Whether this CPU, and the operating system for its registers, can run what Highway compiled for
// `target` (HWY_AVX3, HWY_AVX2, ...; one bit). True for the baseline that the compiler may use
// anywhere, false for targets of other architectures. The features of each target are those of
// Highway's own `hwy::SupportedTargets`, which is in a shared library that is slow to load.
bool CpuSupports(int64_t target);
// Whether they can run AVX-512 F, BW, VL and VNNI (vpdpbusd): no target of its own in Highway.
bool CpuSupportsAvx512Vnni();
// And of BF16 (vdpbf16ps) with F, BW, DQ and VL.
bool CpuSupportsAvx512Bf16();

// Whether this CPU has the instructions of x86 for SHA-256 (and SSE4.1, which code around them
// uses). They work on registers that every operating system keeps.
bool CpuSupportsSha256();

}  // namespace pavise

#endif  // PAVISE_BASE_SIMD_TARGET_H_
