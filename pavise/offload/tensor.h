#ifndef PAVISE_OFFLOAD_TENSOR_H_
#define PAVISE_OFFLOAD_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload {

// Elements of a matrix, and of all that one product touches: 16 GiB of fp32.
inline constexpr uint64_t kMaxElements = uint64_t{1} << 32;

// A row-major matrix that somebody else owns. `stride` elements lie between the beginnings of two
// rows, so that a head's columns of a wider matrix are a view too.
template <typename T>
struct ViewOf {
  T* data = nullptr;
  size_t rows = 0;
  size_t columns = 0;
  size_t stride = 0;

  T* Row(size_t row) const { return data + row * stride; }
  T& operator()(size_t row, size_t column) const { return data[row * stride + column]; }
  operator ViewOf<const T>() const { return {data, rows, columns, stride}; }
};
using MatrixView = ViewOf<const float>;
using MutableMatrixView = ViewOf<float>;

// A matrix as it travels, read where it lies: one of the two.
struct WireView {
  MatrixView fp32;
  ViewOf<const uint16_t> bf16;
  size_t rows() const { return bf16.data != nullptr ? bf16.rows : fp32.rows; }
  size_t columns() const { return bf16.data != nullptr ? bf16.columns : fp32.columns; }
};

// kLimitExceeded over kMaxElements, or where the product of the two is no number.
absl::Status CheckShape(size_t rows, size_t columns, std::string_view item);

// A row-major matrix without gaps that owns its memory. Any number of readers, one writer.
template <typename T>
class MatrixOf {
 public:
  MatrixOf() = default;
  // Zeros. Refusals of CheckShape; a machine failure where there is no memory.
  static absl::StatusOr<MatrixOf> Create(size_t rows, size_t columns, std::string_view item);

  size_t rows() const { return rows_; }
  size_t columns() const { return columns_; }
  std::span<T> values() { return values_; }
  std::span<const T> values() const { return values_; }
  T& operator()(size_t row, size_t column) { return values_[row * columns_ + column]; }
  T operator()(size_t row, size_t column) const { return values_[row * columns_ + column]; }

  ViewOf<const T> view() const { return {values_.data(), rows_, columns_, columns_}; }
  ViewOf<T> view() { return {values_.data(), rows_, columns_, columns_}; }
  operator ViewOf<const T>() const { return view(); }

  friend bool operator==(const MatrixOf&, const MatrixOf&) = default;

 private:
  size_t rows_ = 0;
  size_t columns_ = 0;
  std::vector<T> values_;
};
using Matrix = MatrixOf<float>;
// Residues modulo an odd number p up to 255, each as the representative in [-(p-1)/2, (p-1)/2]:
// what int8 matrix units multiply.
using ResidueMatrix = MatrixOf<int8_t>;

extern template class MatrixOf<float>;
extern template class MatrixOf<int8_t>;

// A copy without gaps. As Create.
absl::StatusOr<Matrix> CopyOf(MatrixView view, std::string_view item);
absl::StatusOr<Matrix> Transposed(MatrixView view, std::string_view item);

// kMalformed where there is a NaN or an infinity; the finding names its row and column.
absl::Status CheckFinite(MatrixView values, std::string_view item);

// How numbers travel. Conversions round to nearest, ties to even, and keep denormal numbers.
//   kBf16  8 bits of significand, the range of fp32
//   kFp16  11 bits, up to 65,504
//   kInt8  multiples of (largest magnitude / 127), which travels in front as fp32
enum class DType : uint8_t { kFp32, kBf16, kFp16, kInt8 };
// "fp32", "bf16", "fp16", "int8".
std::string_view DTypeName(DType type);
size_t DTypeSizeBytes(DType type);
// The largest relative error of one rounding to the type: 2^-24, 2^-8, 2^-11; of kInt8 the error
// relative to the largest magnitude, 1/254.
double UnitRoundoff(DType type);

uint16_t Bf16FromFloat(float value);
inline float FloatFromBf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  static_assert(sizeof value == sizeof wide);
  __builtin_memcpy(&value, &wide, sizeof value);
  return value;
}
uint16_t Fp16FromFloat(float value);
float FloatFromFp16(uint16_t bits);

// Little-endian, row by row, without gaps. kMalformed for NaN and infinities, kLimitExceeded where
// rounding would make an infinity.
absl::StatusOr<Bytes> PackMatrix(MatrixView values, DType type, std::string_view item);
// The reverse. kMalformed: another length than the shape takes, NaN, infinities, an int8 scale that
// is negative or not finite. Refusals of CheckShape, before anything is allocated.
absl::StatusOr<Matrix> UnpackMatrix(ByteSpan bytes, DType type, size_t rows, size_t columns,
                                    std::string_view item);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_TENSOR_H_
