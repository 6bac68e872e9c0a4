#include <cuda_runtime.h>

#include "pavise/hash/cuda/tag_kernel.h"
#include "pavise/hash/cuda/tag_tile.h"

// The instructions and the thread block around tag_tile.h, which has the arithmetic.
namespace pavise::hash::cuda {
namespace {

constexpr uint32_t kMaxThreads = 512;

// The machine that TagWarp runs on: each thread is one lane, so what is "of each lane" is a
// variable of the thread.
struct Gpu {
  template <typename T>
  struct Lanes {
    T value;
    __device__ __forceinline__ T& operator[](uint32_t /*lane*/) { return value; }
    __device__ __forceinline__ const T& operator[](uint32_t /*lane*/) const { return value; }
  };

  template <typename F>
  static __device__ __forceinline__ void Each(F&& f) {
    f(threadIdx.x % kLanes);
  }

  // Data is read once: it would only displace the rows from the L1 cache, and the L2 cache fetches
  // all 256 bytes that the warp's next loads ask for. Volatile, so that loads stay ahead of the
  // arithmetic.
  static __device__ __forceinline__ Word4 Load(const uint8_t* p) {
    Word4 v;
#if __CUDA_ARCH__ >= 800
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(__cvta_generic_to_global(p)));
#else
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(__cvta_generic_to_global(p)));
#endif
    return v;
  }

  static __device__ __forceinline__ Word4 LoadKey(const uint8_t* p) {
    const uint4 v = *reinterpret_cast<const uint4*>(p);
    return {{v.x, v.y, v.z, v.w}};
  }

#if __CUDA_ARCH__ < 800
  static __device__ __forceinline__ void MmaQuarter(uint32_t& c0, uint32_t& c1, uint32_t a,
                                                    uint32_t b) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.u8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(c0), "+r"(c1)
                 : "r"(a), "r"(b));
  }
#endif

  template <typename Sums, typename A, typename B>
  static __device__ __forceinline__ void Mma(Sums& sums, const A& a, const B& b) {
    uint32_t* c = sums.value;
    const uint32_t* ar = a.value.word;
    const uint32_t* br = b.value.word;
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(ar[0]), "r"(ar[1]), "r"(ar[2]), "r"(ar[3]), "r"(br[0]), "r"(br[1]));
#else
    // Turing has the quarter of it: 8 rows and 16 bytes, the registers as above.
    MmaQuarter(c[0], c[1], ar[0], br[0]);
    MmaQuarter(c[0], c[1], ar[2], br[1]);
    MmaQuarter(c[2], c[3], ar[1], br[0]);
    MmaQuarter(c[2], c[3], ar[3], br[1]);
#endif
  }

  static __device__ __forceinline__ void Add(int32_t* shared, int32_t value) {
    atomicAdd(shared, value);
  }
};

// Begins to copy 16 bytes to shared memory; WaitForCopies waits for those of this thread.
__device__ __forceinline__ void BeginCopy(uint8_t* shared, const uint8_t* global) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(__cvta_generic_to_global(global))
               : "memory");
#else
  *reinterpret_cast<uint4*>(shared) = *reinterpret_cast<const uint4*>(global);
#endif
}
__device__ __forceinline__ void WaitForCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Stores that the compiler may not leave out because nothing reads them.
__device__ __forceinline__ void WipeShared(uint8_t* shared, uint32_t size_bytes) {
  for (uint32_t i = 4 * threadIdx.x; i < size_bytes; i += 4 * blockDim.x) {
    asm volatile("st.volatile.shared.u32 [%0], %1;" ::"r"(
                     static_cast<uint32_t>(__cvta_generic_to_shared(shared + i))),
                 "r"(0)
                 : "memory");
  }
}

struct KernelArguments {
  const uint8_t* data;
  uint64_t size_bytes;
  uint64_t first_range;
  uint64_t ranges;
  const uint8_t* keys;
  uint32_t* tags;
  TileShape shape;
};

__device__ __forceinline__ void BeginSlice(const KernelArguments& arguments, uint32_t slice,
                                           uint8_t* shared) {
  const TileShape& shape = arguments.shape;
  const uint32_t key_bytes = shape.slice_windows * kKeyWindowBytes;
  for (uint32_t key = 0; key < shape.keys; ++key) {
    const uint8_t* from = arguments.keys + key * kTagKeyDeviceBytes + slice * key_bytes;
    for (uint32_t i = 16 * threadIdx.x; i < key_bytes; i += 16 * blockDim.x) {
      BeginCopy(shared + key * key_bytes + i, from + i);
    }
  }
}

// A thread block: shape.ranges() ranges of the data, under all keys.
template <uint32_t kKeys>
__global__ void __launch_bounds__(kMaxThreads, 1) TagKernel(const KernelArguments arguments) {
  extern __shared__ __align__(16) uint8_t shared[];
  const TileShape& shape = arguments.shape;
  uint8_t* const slices[2] = {shared, shared + shape.slice_bytes()};
  int32_t* const sums = reinterpret_cast<int32_t*>(shared + 2 * shape.slice_bytes());
  const uint64_t first_range = static_cast<uint64_t>(blockIdx.x) * shape.ranges();

  BeginSlice(arguments, 0, slices[0]);
  for (uint32_t i = threadIdx.x; i < shape.sums_bytes() / 4; i += blockDim.x) sums[i] = 0;
  const uint32_t warp_number = threadIdx.x / kLanes;
  const uint32_t range_in_tile = warp_number / shape.splits;
  TagWarp<Gpu, kKeys> warp(arguments.data, arguments.size_bytes, first_range + range_in_tile,
                           shape.splits, warp_number % shape.splits);
  for (uint32_t slice = 0; slice < shape.slices(); ++slice) {
    // After this everyone has copied this slice and is done with the one before it.
    WaitForCopies();
    __syncthreads();
    if (slice + 1 < shape.slices()) BeginSlice(arguments, slice + 1, slices[(slice + 1) % 2]);
    warp.AddSlice(slices[slice % 2], slice, shape.slice_windows);
  }
  warp.Store(sums, range_in_tile);
  __syncthreads();

  const uint32_t item = threadIdx.x;  // a range and a key
  const uint64_t range = first_range + item / kKeys;
  if (item < shape.ranges() * kKeys && range < arguments.ranges) {
    const uint32_t key = item % kKeys;
    TagOfSums(reinterpret_cast<const uint32_t*>(sums) + SumIndex(kKeys, item / kKeys, key, 0, 0),
              BlocksOfRange(arguments.size_bytes, range),
              reinterpret_cast<const uint32_t*>(arguments.keys + key * kTagKeyDeviceBytes +
                                                kPackedRowsBytes),
              arguments.first_range + range, arguments.tags + (key * arguments.ranges + range) * 8);
  }
  __syncthreads();
  WipeShared(shared, shape.shared_bytes());
}

cudaError_t Launch(const TagLaunch& launch, cudaStream_t stream) {
  const uint64_t ranges =
      launch.size_bytes / kRangeBytes + (launch.size_bytes % kRangeBytes != 0 ? 1 : 0);
  if (ranges == 0) return cudaSuccess;
  if (launch.key_count < 1 || launch.key_count > 2) return cudaErrorInvalidValue;
  int device = 0;
  int shared_limit = 0;
  int multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const TileShape shape =
      ChooseTileShape(ranges, launch.key_count, static_cast<uint32_t>(shared_limit),
                      static_cast<uint32_t>(multiprocessors));
  if (shape.warps == 0) return cudaErrorNotSupported;
  const uint64_t blocks = (ranges - 1) / shape.ranges() + 1;
  if (blocks > 0x7fffffffu) return cudaErrorInvalidValue;  // 8 PiB
  const auto kernel = launch.key_count == 1 ? TagKernel<1> : TagKernel<2>;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes()));
  if (error != cudaSuccess) return error;
  kernel<<<static_cast<uint32_t>(blocks), shape.warps * kLanes, shape.shared_bytes(), stream>>>(
      {launch.data, launch.size_bytes, launch.first_range, ranges, launch.keys,
       reinterpret_cast<uint32_t*>(launch.tags), shape});
  return cudaGetLastError();
}

}  // namespace

int LaunchTag(const TagLaunch& launch, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const cudaError_t error = Launch(launch, cuda_stream);
  const cudaError_t wiped =
      cudaMemsetAsync(launch.keys, 0, launch.key_count * kTagKeyDeviceBytes, cuda_stream);
  return error != cudaSuccess ? error : wiped;
}

}  // namespace pavise::hash::cuda
