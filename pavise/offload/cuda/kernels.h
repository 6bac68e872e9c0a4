#ifndef PAVISE_OFFLOAD_CUDA_KERNELS_H_
#define PAVISE_OFFLOAD_CUDA_KERNELS_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <variant>

#include "pavise/offload/tensor.h"

// What the GPU does besides products: one call for each index below count, in any order and all at
// once. Functions of both sides, so that tests run on the CPU what the device runs.
#ifdef __CUDACC__
#define PAVISE_KERNEL __host__ __device__ inline
#else
#define PAVISE_KERNEL inline
#endif

namespace pavise::offload::cuda {

inline constexpr unsigned long long kNowhere = ~0ull;

// What kernels tell the host, in the device's memory.
struct Findings {
  unsigned long long first_unfit = kNowhere;      // index of a NaN, an infinity, or no residue
  unsigned long long first_too_large = kNowhere;  // index of what left the range of its new type
  unsigned int largest_bits = 0;                  // of the largest magnitude, as fp32
};

PAVISE_KERNEL void NoteFirst(unsigned long long* place, unsigned long long index) {
#ifdef __CUDA_ARCH__
  atomicMin(place, index);
#else
  if (index < *place) *place = index;
#endif
}

PAVISE_KERNEL uint32_t BitsOf(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
PAVISE_KERNEL float FloatOf(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
PAVISE_KERNEL bool IsFinite(float value) { return (BitsOf(value) & 0x7F800000u) != 0x7F800000u; }

// Round to nearest, ties to even; denormal numbers are kept, infinities and NaN stay such.
PAVISE_KERNEL uint16_t NarrowToBf16(float value) {
  const uint32_t bits = BitsOf(value);
  if (!IsFinite(value)) {
    return static_cast<uint16_t>((bits >> 16) | ((bits & 0xFFFFu) != 0 ? 0x40u : 0u));
  }
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}
PAVISE_KERNEL uint16_t NarrowToFp16(float value) {
  const uint32_t bits = BitsOf(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // from 65,520 on
  uint32_t rounded;
  if (magnitude < 0x38800000u) {
    // Below 2^-14: the last place of 0.5 is that of fp16's denormal numbers.
    rounded = BitsOf(FloatOf(magnitude) + 0.5f) - 0x3F000000u;
  } else {
    // The exponent's bias is smaller by 112.
    rounded = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return static_cast<uint16_t>(sign | rounded);
}
PAVISE_KERNEL float WidenBf16(uint16_t bits) { return FloatOf(static_cast<uint32_t>(bits) << 16); }
PAVISE_KERNEL float WidenFp16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  if ((bits & 0x7C00u) == 0x7C00u) {
    return FloatOf(sign | 0x7F800000u | (static_cast<uint32_t>(bits & 0x3FFu) << 13));
  }
  // Exact: the bits in fp32's place are too small by the difference of the biases.
  const float magnitude = FloatOf(static_cast<uint32_t>(bits & 0x7FFFu) << 13) * 0x1p112f;
  return FloatOf(BitsOf(magnitude) | sign);
}

PAVISE_KERNEL int8_t CenteredResidue(int64_t value, int modulus) {
  int rest = static_cast<int>(value % modulus);
  if (rest > modulus / 2) rest -= modulus;
  if (rest < -(modulus / 2)) rest += modulus;
  return static_cast<int8_t>(rest);
}

// to[i] = from[i] in another type, rounded to a third one on the way; without `to` values are only
// looked at. Of int8, `step` is what its integers are multiples of.
struct ConvertKernel {
  const void* from = nullptr;
  DType from_type = DType::kFp32;
  void* to = nullptr;
  DType to_type = DType::kFp32;
  DType round_to = DType::kFp32;  // bf16 or fp16, where to_type is fp32
  float step = 0;
  uint64_t first = 0;  // index that findings call the first
  uint64_t count = 0;
  Findings* findings = nullptr;  // null: nobody asks

  PAVISE_KERNEL void operator()(uint64_t i) const {
    float value = 0;
    switch (from_type) {
      case DType::kFp32:
        value = static_cast<const float*>(from)[i];
        break;
      case DType::kBf16:
        value = WidenBf16(static_cast<const uint16_t*>(from)[i]);
        break;
      case DType::kFp16:
        value = WidenFp16(static_cast<const uint16_t*>(from)[i]);
        break;
      case DType::kInt8:
        value = step * static_cast<float>(static_cast<const int8_t*>(from)[i]);
        break;
    }
    const bool is_finite = IsFinite(value);
    if (!is_finite && findings != nullptr) NoteFirst(&findings->first_unfit, first + i);
    if (to == nullptr) return;
    bool is_too_large = false;
    switch (to_type) {
      case DType::kFp32:
        if (round_to == DType::kBf16) value = WidenBf16(NarrowToBf16(value));
        if (round_to == DType::kFp16) value = WidenFp16(NarrowToFp16(value));
        static_cast<float*>(to)[i] = value;
        break;
      case DType::kBf16: {
        const uint16_t bits = NarrowToBf16(value);
        is_too_large = (bits & 0x7F80u) == 0x7F80u;
        static_cast<uint16_t*>(to)[i] = bits;
        break;
      }
      case DType::kFp16: {
        const uint16_t bits = NarrowToFp16(value);
        is_too_large = (bits & 0x7C00u) == 0x7C00u;
        static_cast<uint16_t*>(to)[i] = bits;
        break;
      }
      case DType::kInt8: {
        // As PackMatrix: the limit keeps what a denormal step makes of the largest value.
        const float multiple = step == 0 ? 0.0f : rintf(value / step);
        // 127 for no number, which is found unfit above.
        const float limited = multiple < 127 ? (multiple > -127 ? multiple : -127.0f) : 127.0f;
        static_cast<int8_t*>(to)[i] = static_cast<int8_t>(limited);
        break;
      }
    }
    if (is_finite && is_too_large && findings != nullptr) {
      NoteFirst(&findings->first_too_large, first + i);
    }
  }
};

struct LargestKernel {
  const float* values = nullptr;
  uint64_t count = 0;
  Findings* findings = nullptr;

  PAVISE_KERNEL void operator()(uint64_t i) const {
    const unsigned int bits = BitsOf(values[i]) & 0x7FFFFFFFu;
#ifdef __CUDA_ARCH__
    // Looking first leaves few to the atomic; what is seen there only ever grows.
    if (bits > *static_cast<volatile unsigned int*>(&findings->largest_bits)) {
      atomicMax(&findings->largest_bits, bits);
    }
#else
    if (bits > findings->largest_bits) findings->largest_bits = bits;
#endif
  }
};

struct CheckResiduesKernel {
  const int8_t* residues = nullptr;
  int modulus = 0;
  uint64_t first = 0;
  uint64_t count = 0;
  Findings* findings = nullptr;

  PAVISE_KERNEL void operator()(uint64_t i) const {
    const int value = residues[i];
    if (value > modulus / 2 || value < -(modulus / 2)) NoteFirst(&findings->first_unfit, first + i);
  }
};

struct AddFloatsKernel {
  float* sum = nullptr;
  const float* addend = nullptr;
  uint64_t count = 0;
  PAVISE_KERNEL void operator()(uint64_t i) const { sum[i] += addend[i]; }
};

struct AddResiduesKernel {
  int8_t* sum = nullptr;
  const int8_t* addend = nullptr;
  int modulus = 0;
  uint64_t count = 0;
  PAVISE_KERNEL void operator()(uint64_t i) const {
    sum[i] = CenteredResidue(int{sum[i]} + int{addend[i]}, modulus);
  }
};

// ComputeDevice::Update.
struct SgdKernel {
  const float* gradient = nullptr;
  float* velocity = nullptr;
  float* weights = nullptr;
  uint64_t columns = 1;
  uint64_t count = 0;
  const float* row_factors = nullptr;  // null: 1
  uint64_t row_factor_count = 1;       // they repeat
  const float* column_factors = nullptr;
  float learning_rate = 0;
  float momentum = 0;
  float weight_decay = 0;

  PAVISE_KERNEL void operator()(uint64_t i) const {
    float factor = 1;
    if (row_factors != nullptr) factor = row_factors[i / columns % row_factor_count];
    if (column_factors != nullptr) factor *= column_factors[i % columns];
    const float v = momentum * velocity[i] + gradient[i] * factor + weight_decay * weights[i];
    velocity[i] = v;
    weights[i] -= learning_rate * v;
  }
};

// A matrix, or its transpose, with zeros up to to_rows x to_columns. Neighbouring indices are
// neighbours in tiles, so that what a block of threads reads across rows it reads again from its
// cache.
template <typename T>
struct PackKernel {
  static constexpr uint64_t kTile = 32;
  const T* from = nullptr;
  uint64_t rows = 0;  // of `from`
  uint64_t columns = 0;
  bool is_transposed = false;
  T* to = nullptr;
  uint64_t to_rows = 0;
  uint64_t to_columns = 0;
  uint64_t count = 0;  // SizeOf

  static constexpr uint64_t SizeOf(uint64_t to_rows, uint64_t to_columns) {
    return (to_rows + kTile - 1) / kTile * ((to_columns + kTile - 1) / kTile) * kTile * kTile;
  }

  PAVISE_KERNEL void operator()(uint64_t i) const {
    const uint64_t tiles_across = (to_columns + kTile - 1) / kTile;
    const uint64_t tile = i / (kTile * kTile);
    const uint64_t row = tile / tiles_across * kTile + i / kTile % kTile;
    const uint64_t column = tile % tiles_across * kTile + i % kTile;
    if (row >= to_rows || column >= to_columns) return;
    const uint64_t from_row = is_transposed ? column : row;
    const uint64_t from_column = is_transposed ? row : column;
    to[row * to_columns + column] =
        from_row < rows && from_column < columns ? from[from_row * columns + from_column] : T{0};
  }
};

// Sums of a product, of which rows are `stride` apart, to residues without gaps.
struct ReduceKernel {
  const int32_t* sums = nullptr;
  uint64_t stride = 0;
  int8_t* residues = nullptr;
  uint64_t columns = 1;
  int modulus = 0;
  uint64_t count = 0;
  PAVISE_KERNEL void operator()(uint64_t i) const {
    residues[i] = CenteredResidue(sums[i / columns * stride + i % columns], modulus);
  }
};

// A ConvolutionShape of fewer than 2^32 elements on either side: 64-bit division takes a GPU
// several times as long.
struct Window {
  uint32_t height = 0, width = 0, channels = 0;
  uint32_t output_height = 0, output_width = 0;
  uint32_t kernel_height = 0, kernel_width = 0;
  uint32_t stride = 1, padding = 0;
};

// ImageToColumns (convolution.h), without gaps. T is as wide as an element.
template <typename T>
struct ImageToColumnsKernel {
  const T* images = nullptr;
  T* columns = nullptr;
  Window window;
  uint64_t count = 0;  // of `columns`

  PAVISE_KERNEL void operator()(uint64_t index) const {
    const Window& w = window;
    uint32_t i = static_cast<uint32_t>(index);
    const uint32_t channel = i % w.channels;
    i /= w.channels;
    const uint32_t kernel_column = i % w.kernel_width;
    i /= w.kernel_width;
    const uint32_t kernel_row = i % w.kernel_height;
    i /= w.kernel_height;
    const uint32_t x = i % w.output_width;
    i /= w.output_width;
    const uint32_t y = i % w.output_height;
    const uint32_t sample = i / w.output_height;
    // One that lies in the padding before the image wraps to a number over any size.
    const uint32_t row = y * w.stride + kernel_row - w.padding;
    const uint32_t column = x * w.stride + kernel_column - w.padding;
    columns[index] =
        row < w.height && column < w.width
            ? images[((uint64_t{sample} * w.height + row) * w.width + column) * w.channels +
                     channel]
            : T{0};
  }
};

// ColumnsToImage: each pixel gathers what the taps that saw it contribute. With a modulus, of
// residues and to residues.
template <typename T, typename Sum>
struct ColumnsToImageKernel {
  const T* columns = nullptr;
  T* images = nullptr;
  Window window;
  int modulus = 0;
  uint64_t count = 0;  // of `images`

  PAVISE_KERNEL void operator()(uint64_t index) const {
    const Window& w = window;
    uint32_t i = static_cast<uint32_t>(index);
    const uint32_t channel = i % w.channels;
    i /= w.channels;
    const uint32_t column = i % w.width + w.padding;
    i /= w.width;
    const uint32_t row = i % w.height + w.padding;
    const uint32_t sample = i / w.height;
    Sum sum = 0;
    for (uint32_t kernel_row = 0; kernel_row < w.kernel_height && kernel_row <= row; ++kernel_row) {
      const uint32_t y = (row - kernel_row) / w.stride;
      if ((row - kernel_row) % w.stride != 0 || y >= w.output_height) continue;
      for (uint32_t kernel_column = 0; kernel_column < w.kernel_width && kernel_column <= column;
           ++kernel_column) {
        const uint32_t x = (column - kernel_column) / w.stride;
        if ((column - kernel_column) % w.stride != 0 || x >= w.output_width) continue;
        const uint64_t output = (uint64_t{sample} * w.output_height + y) * w.output_width + x;
        const uint64_t tap = uint64_t{kernel_row} * w.kernel_width + kernel_column;
        sum += columns[(output * w.kernel_height * w.kernel_width + tap) * w.channels + channel];
      }
    }
    if constexpr (sizeof(T) == 1) {
      images[index] = CenteredResidue(sum, modulus);
    } else {
      images[index] = sum;
    }
  }
};

using Kernel =
    std::variant<ConvertKernel, LargestKernel, CheckResiduesKernel, AddFloatsKernel,
                 AddResiduesKernel, SgdKernel, PackKernel<int8_t>, PackKernel<float>, ReduceKernel,
                 ImageToColumnsKernel<uint8_t>, ImageToColumnsKernel<uint16_t>,
                 ImageToColumnsKernel<uint32_t>, ColumnsToImageKernel<int8_t, int32_t>,
                 ColumnsToImageKernel<float, float>>;

}  // namespace pavise::offload::cuda

#endif  // PAVISE_OFFLOAD_CUDA_KERNELS_H_
