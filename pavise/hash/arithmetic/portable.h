// What C++20, CUDA C++ and OpenCL C 1.2 need to read one source: the arithmetic of each algorithm
// is written once, in the language that all three share, and unit-tested on the host
// (arithmetic_test.cc). So it has no namespaces, references, overloads or tables: names begin with
// pavise_, constants are literals in unrolled rounds, arrays live in registers, and loading bytes
// is the caller's part.
#ifndef PAVISE_HASH_ARITHMETIC_PORTABLE_H_
#define PAVISE_HASH_ARITHMETIC_PORTABLE_H_

#if defined(__OPENCL_C_VERSION__)
#define PAVISE_ARITHMETIC static inline
typedef uint pavise_u32;
typedef ulong pavise_u64;
typedef uchar pavise_u8;
typedef char pavise_s8;
typedef int pavise_s32;
#else
#include <stdint.h>
#if defined(__CUDACC__)
#define PAVISE_ARITHMETIC static __host__ __device__ __forceinline__
#else
#define PAVISE_ARITHMETIC static inline
#endif
typedef uint32_t pavise_u32;
typedef uint64_t pavise_u64;
typedef uint8_t pavise_u8;
typedef int8_t pavise_s8;
typedef int32_t pavise_s32;
#endif

// Compilers of all three languages make one instruction of these for a literal `n`.
PAVISE_ARITHMETIC pavise_u32 pavise_rotate_right_32(pavise_u32 x, int n) {
  return (x >> n) | (x << (32 - n));
}
PAVISE_ARITHMETIC pavise_u64 pavise_rotate_right_64(pavise_u64 x, int n) {
  return (x >> n) | (x << (64 - n));
}
// Between big-endian bytes, as SHA-2 has them, and the little-endian words that devices load.
PAVISE_ARITHMETIC pavise_u32 pavise_swap_bytes_32(pavise_u32 x) {
  return (pavise_rotate_right_32(x, 8) & 0xff00ff00u) |
         (pavise_rotate_right_32(x, 24) & 0x00ff00ffu);
}
PAVISE_ARITHMETIC pavise_u64 pavise_swap_bytes_64(pavise_u64 x) {
  return ((pavise_u64)pavise_swap_bytes_32((pavise_u32)x) << 32) |
         pavise_swap_bytes_32((pavise_u32)(x >> 32));
}

#endif  // PAVISE_HASH_ARITHMETIC_PORTABLE_H_
