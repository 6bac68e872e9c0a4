// How a kernel's body is written so that it also runs on the host, index by index, where there is
// no GPU (kernels_host_test.cc). The body is a function template over a Warp. What a lane keeps is
// in a Warp::PerLane, what lanes exchange is in memory that they share; code of one lane runs in
// ForEachLane, and between a lane's write and another lane's read there must be the end of a
// ForEachLane *and* a Sync. On the device ForEachLane runs the function once, for the calling lane;
// testing/host_warp.h runs it for each lane in turn, in either order, so that a body that needs
// lanes to run side by side fails its test.
#ifndef PAVISE_HASH_CUDA_WARP_H_
#define PAVISE_HASH_CUDA_WARP_H_

#include <cstdint>
#include <cstring>

#include "pavise/hash/cuda/descriptors.h"

#if defined(__CUDACC__)
#define PAVISE_KERNEL_LOGIC __device__ __forceinline__
#define PAVISE_KERNEL_UNROLL _Pragma("unroll")
#define PAVISE_KERNEL_KEEP_LOOP _Pragma("unroll 1")
#else
#define PAVISE_KERNEL_LOGIC inline
#define PAVISE_KERNEL_UNROLL
#define PAVISE_KERNEL_KEEP_LOOP
#endif

namespace pavise::hash::cuda {

// What one memory instruction moves at most.
struct alignas(16) Piece {
  uint32_t words[4];
};
inline constexpr uint32_t kPieceBytes = 16;

PAVISE_KERNEL_LOGIC uint64_t AddressOf(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer);
}

// A piece of the hashed bytes, which nothing writes while a kernel runs. `address` is aligned.
PAVISE_KERNEL_LOGIC Piece LoadPiece(const uint8_t* address) {
  Piece piece;
#if defined(__CUDACC__)
  const uint4 loaded = __ldg(reinterpret_cast<const uint4*>(address));
  piece.words[0] = loaded.x;
  piece.words[1] = loaded.y;
  piece.words[2] = loaded.z;
  piece.words[3] = loaded.w;
#else
  std::memcpy(&piece, address, sizeof(piece));
#endif
  return piece;
}

// A piece of memory that the kernel, or one before it, wrote. `address` is aligned.
PAVISE_KERNEL_LOGIC Piece ReadPiece(const uint8_t* address) {
  Piece piece;
#if defined(__CUDACC__)
  const uint4 loaded = *reinterpret_cast<const uint4*>(address);
  piece.words[0] = loaded.x;
  piece.words[1] = loaded.y;
  piece.words[2] = loaded.z;
  piece.words[3] = loaded.w;
#else
  std::memcpy(&piece, address, sizeof(piece));
#endif
  return piece;
}
PAVISE_KERNEL_LOGIC void WritePiece(const Piece& piece, uint8_t* address) {
#if defined(__CUDACC__)
  *reinterpret_cast<uint4*>(address) =
      make_uint4(piece.words[0], piece.words[1], piece.words[2], piece.words[3]);
#else
  std::memcpy(address, &piece, sizeof(piece));
#endif
}

// Bits `shift` (0, 8, 16 or 24) and up of the 64 bits high:low.
PAVISE_KERNEL_LOGIC uint32_t FunnelRight(uint32_t low, uint32_t high, uint32_t shift) {
#if defined(__CUDACC__)
  return __funnelshift_r(low, high, shift);
#else
  return static_cast<uint32_t>(((uint64_t{high} << 32) | low) >> shift);
#endif
}

// The range that `index` belongs to: the last r with first[r] <= index, where first[count] is
// above index. Ranges may be empty.
PAVISE_KERNEL_LOGIC uint32_t RangeOf(const uint64_t* first, uint32_t count, uint64_t index) {
  uint32_t low = 0;
  uint32_t high = count;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    if (first[middle] <= index) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

#if defined(__CUDACC__)

// The calling warp, all of whose lanes are in every call.
class DeviceWarp {
 public:
  template <class T>
  struct PerLane {
    T value;
    __device__ __forceinline__ T& operator[](uint32_t /*lane*/) { return value; }
    __device__ __forceinline__ const T& operator[](uint32_t /*lane*/) const { return value; }
  };

  template <class Function>
  __device__ __forceinline__ void ForEachLane(Function function) {
    function(threadIdx.x % kLanes);
  }
  __device__ __forceinline__ void Sync() { __syncwarp(); }

  __device__ __forceinline__ bool All(const PerLane<bool>& values) {
    return __all_sync(kEveryLane, values.value) != 0;
  }
  __device__ __forceinline__ uint64_t Min(PerLane<uint64_t> values) {
    for (int distance = 16; distance > 0; distance /= 2) {
      const uint64_t other = __shfl_xor_sync(kEveryLane, values.value, distance);
      if (other < values.value) values.value = other;
    }
    return values.value;
  }
  __device__ __forceinline__ uint64_t Max(PerLane<uint64_t> values) {
    for (int distance = 16; distance > 0; distance /= 2) {
      const uint64_t other = __shfl_xor_sync(kEveryLane, values.value, distance);
      if (other > values.value) values.value = other;
    }
    return values.value;
  }
  __device__ __forceinline__ uint64_t First(const PerLane<uint64_t>& values) {
    return __shfl_sync(kEveryLane, values.value, 0);
  }

  // Copies that run beside the arithmetic: a lane starts copies of pieces into shared memory, then
  // CommitCopies ends a group. After WaitForCopies, which waits for all groups but the newest, and
  // a Sync, every lane may read them.
  __device__ __forceinline__ void StartCopy(uint8_t* shared, const uint8_t* source) {
#if __CUDA_ARCH__ >= 800
    // Fetches 256 bytes from DRAM into L2: the other half is the next step's.
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(
                     static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
                 "l"(__cvta_generic_to_global(source))
                 : "memory");
#else
    WritePiece(LoadPiece(source), shared);
#endif
  }
  __device__ __forceinline__ void CommitCopies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
  }
  __device__ __forceinline__ void WaitForCopies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
  }

 private:
  static constexpr uint32_t kEveryLane = 0xffffffffu;
};

#endif  // __CUDACC__

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_WARP_H_
