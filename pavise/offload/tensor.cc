#include "pavise/offload/tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::offload {
namespace {

// `value`'s significand cut to what is left of it after `shift` bits, to nearest, ties to even.
uint32_t RoundShift(uint32_t value, int shift) {
  if (shift > 31) return 0;
  const uint32_t half = uint32_t{1} << (shift - 1);
  const uint32_t rest = value & ((uint32_t{1} << shift) - 1);
  const uint32_t kept = value >> shift;
  return kept + (rest > half || (rest == half && (kept & 1) != 0) ? 1 : 0);
}

template <typename Bits>
void AppendBits(Bits bits, Bytes& out) {
  for (size_t i = 0; i < sizeof bits; ++i) out.push_back(static_cast<uint8_t>(bits >> (8 * i)));
}

uint16_t LoadLittleEndian16(ByteSpan bytes, size_t offset) {
  return static_cast<uint16_t>(bytes[offset] | (bytes[offset + 1] << 8));
}

constexpr size_t PrefixBytes(DType type) { return type == DType::kInt8 ? sizeof(float) : 0; }

bool IsInfinite16(uint16_t bits, uint16_t exponent) { return (bits & exponent) == exponent; }

absl::Status TooLarge(std::string_view item, std::string_view type) {
  return Refuse(Reason::kLimitExceeded, item, StrCat("a value is too large for ", type),
                "send it as bf16 or fp32");
}

}  // namespace

absl::Status CheckShape(size_t rows, size_t columns, std::string_view item) {
  if (columns != 0 && rows > kMaxElements / columns) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat(rows, " x ", columns, " elements are more than ", kMaxElements),
                  "split the batch or the layer");
  }
  return absl::OkStatus();
}

template <typename T>
absl::StatusOr<MatrixOf<T>> MatrixOf<T>::Create(size_t rows, size_t columns,
                                                std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckShape(rows, columns, item));
  MatrixOf matrix;
  try {
    matrix.values_.resize(rows * columns);
  } catch (const std::bad_alloc&) {
    return MachineFailure(item, StrCat("no memory for ", rows, " x ", columns, " elements"));
  } catch (const std::length_error&) {
    return MachineFailure(item, StrCat("no memory for ", rows, " x ", columns, " elements"));
  }
  matrix.rows_ = rows;
  matrix.columns_ = columns;
  return matrix;
}

template class MatrixOf<float>;
template class MatrixOf<int8_t>;

absl::StatusOr<Matrix> CopyOf(MatrixView view, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(Matrix copy, Matrix::Create(view.rows, view.columns, item));
  for (size_t i = 0; i < view.rows; ++i) {
    std::copy_n(view.Row(i), view.columns, copy.view().Row(i));
  }
  return copy;
}

absl::StatusOr<Matrix> Transposed(MatrixView view, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(Matrix out, Matrix::Create(view.columns, view.rows, item));
  for (size_t i = 0; i < view.rows; ++i) {
    for (size_t j = 0; j < view.columns; ++j) out(j, i) = view(i, j);
  }
  return out;
}

absl::Status CheckFinite(MatrixView values, std::string_view item) {
  for (size_t i = 0; i < values.rows; ++i) {
    // NaN and infinities have all bits of the exponent set. Integers, so that vector units take it.
    const float* const row = values.Row(i);
    uint32_t found = 0;
    for (size_t j = 0; j < values.columns; ++j) {
      uint32_t bits;
      std::memcpy(&bits, &row[j], sizeof bits);
      found |= (bits & 0x7F800000) == 0x7F800000 ? 1u : 0u;
    }
    if (found == 0) continue;
    size_t column = 0;
    while (std::isfinite(values(i, column))) ++column;
    return Refuse(Reason::kMalformed, item,
                  StrCat("row ", i, ", column ", column, " is not a finite number"));
  }
  return absl::OkStatus();
}

std::string_view DTypeName(DType type) {
  switch (type) {
    case DType::kFp32:
      return "fp32";
    case DType::kBf16:
      return "bf16";
    case DType::kFp16:
      return "fp16";
    case DType::kInt8:
      return "int8";
  }
  return "unknown";
}

size_t DTypeSizeBytes(DType type) {
  switch (type) {
    case DType::kFp32:
      return 4;
    case DType::kBf16:
    case DType::kFp16:
      return 2;
    case DType::kInt8:
      return 1;
  }
  return 0;
}

double UnitRoundoff(DType type) {
  switch (type) {
    case DType::kFp32:
      return 0x1p-24;
    case DType::kBf16:
      return 0x1p-8;
    case DType::kFp16:
      return 0x1p-11;
    case DType::kInt8:
      return 1.0 / 254;
  }
  return 1;
}

uint16_t Bf16FromFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

uint16_t Fp16FromFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  if (std::isnan(value)) return sign | 0x7E00;
  const int exponent = static_cast<int>((bits >> 23) & 0xFF) - 127;
  const uint32_t significand = (bits & 0x7FFFFF) | 0x800000;
  if (exponent > 15) return sign | 0x7C00;
  // A carry out of the significand raises the exponent by one, up to infinity, as it should.
  if (exponent >= -14) {
    return static_cast<uint16_t>(sign + ((exponent + 14) << 10) + RoundShift(significand, 13));
  }
  return static_cast<uint16_t>(sign + RoundShift(significand, 13 + (-14 - exponent)));
}

float FloatFromFp16(uint16_t bits) {
  const float sign = (bits & 0x8000) != 0 ? -1.0f : 1.0f;
  const int exponent = (bits >> 10) & 0x1F;
  const int fraction = bits & 0x3FF;
  if (exponent == 0x1F) {
    return fraction != 0 ? std::nanf("") : sign * std::numeric_limits<float>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
}

namespace {

// The two types of which most traffic is, on hosts that lay numbers out as they travel: loops that
// vector units take. False: not of these.
bool PackRows(MatrixView values, DType type, bool& is_too_large, Bytes& out) {
  if (std::endian::native != std::endian::little) return false;
  if (type == DType::kFp32) {
    for (size_t i = 0; i < values.rows; ++i) {
      std::memcpy(&out[4 * i * values.columns], values.Row(i), 4 * values.columns);
    }
    return true;
  }
  if (type != DType::kBf16) return false;
  auto* to = reinterpret_cast<uint16_t*>(out.data());
  uint32_t largest = 0;
  for (size_t i = 0; i < values.rows; ++i, to += values.columns) {
    const float* const row = values.Row(i);
    for (size_t j = 0; j < values.columns; ++j) {
      uint32_t bits;
      std::memcpy(&bits, &row[j], sizeof bits);  // of a finite number
      const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
      largest = std::max(largest, rounded & 0x7F80);
      to[j] = static_cast<uint16_t>(rounded);
    }
  }
  is_too_large = largest == 0x7F80;
  return true;
}

bool UnpackRows(ByteSpan bytes, DType type, Matrix& out) {
  if (std::endian::native != std::endian::little) return false;
  const size_t count = out.values().size();
  if (type == DType::kFp32) {
    if (count != 0) std::memcpy(out.values().data(), bytes.data(), 4 * count);
    return true;
  }
  if (type != DType::kBf16) return false;
  float* const to = out.values().data();
  const uint8_t* const from = bytes.data();
  for (size_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + 2 * i, sizeof bits);
    to[i] = FloatFromBf16(bits);
  }
  return true;
}

}  // namespace

absl::StatusOr<Bytes> PackMatrix(MatrixView values, DType type, std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckShape(values.rows, values.columns, item));
  PAVISE_RETURN_IF_ERROR(CheckFinite(values, item));
  Bytes out;
  const size_t size_bytes = PrefixBytes(type) + values.rows * values.columns * DTypeSizeBytes(type);
  try {
    out.resize(size_bytes);
  } catch (const std::exception&) {
    return MachineFailure(item, "no memory for a message");
  }
  bool is_too_large = false;
  if (size_bytes != 0 && PackRows(values, type, is_too_large, out)) {
    if (is_too_large) return TooLarge(item, DTypeName(type));
    return out;
  }
  out.clear();
  float step = 0;
  if (type == DType::kInt8) {
    float largest = 0;
    for (size_t i = 0; i < values.rows; ++i) {
      for (size_t j = 0; j < values.columns; ++j) {
        largest = std::max(largest, std::abs(values(i, j)));
      }
    }
    step = largest / 127;
    AppendBits(std::bit_cast<uint32_t>(step), out);
  }
  for (size_t i = 0; i < values.rows; ++i) {
    for (size_t j = 0; j < values.columns; ++j) {
      const float value = values(i, j);
      switch (type) {
        case DType::kFp32:
          AppendBits(std::bit_cast<uint32_t>(value), out);
          break;
        case DType::kBf16: {
          const uint16_t bits = Bf16FromFloat(value);
          if (IsInfinite16(bits, 0x7F80)) return TooLarge(item, "bf16");
          AppendBits(bits, out);
          break;
        }
        case DType::kFp16: {
          const uint16_t bits = Fp16FromFloat(value);
          if (IsInfinite16(bits, 0x7C00)) return TooLarge(item, "fp16");
          AppendBits(bits, out);
          break;
        }
        case DType::kInt8: {
          // A step that is denormal is inexact; the limit keeps what it makes of the largest value.
          const float multiple = step == 0 ? 0 : std::nearbyint(value / step);
          out.push_back(
              static_cast<uint8_t>(static_cast<int8_t>(std::clamp(multiple, -127.0f, 127.0f))));
          break;
        }
      }
    }
  }
  return out;
}

absl::StatusOr<Matrix> UnpackMatrix(ByteSpan bytes, DType type, size_t rows, size_t columns,
                                    std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckShape(rows, columns, item));
  const size_t size_bytes = DTypeSizeBytes(type);
  if (size_bytes == 0 || bytes.size() != PrefixBytes(type) + rows * columns * size_bytes) {
    return Refuse(
        Reason::kMalformed, item,
        StrCat(bytes.size(), " bytes are not ", rows, " x ", columns, " of ", DTypeName(type)));
  }
  PAVISE_ASSIGN_OR_RETURN(Matrix out, Matrix::Create(rows, columns, item));
  float step = 0;
  if (type == DType::kInt8) {
    step = std::bit_cast<float>(LoadLittleEndian32(bytes, 0));
    if (!std::isfinite(step) || step < 0) {
      return Refuse(Reason::kMalformed, item, "the int8 scale is negative or not finite");
    }
    bytes = bytes.subspan(sizeof step);
  }
  const bool is_done = UnpackRows(bytes, type, out);
  for (size_t i = 0; i < out.values().size() && !is_done; ++i) {
    float& value = out.values()[i];
    switch (type) {
      case DType::kFp32:
        value = std::bit_cast<float>(LoadLittleEndian32(bytes, 4 * i));
        break;
      case DType::kBf16:
        value = FloatFromBf16(LoadLittleEndian16(bytes, 2 * i));
        break;
      case DType::kFp16:
        value = FloatFromFp16(LoadLittleEndian16(bytes, 2 * i));
        break;
      case DType::kInt8:
        value = step * static_cast<float>(static_cast<int8_t>(bytes[i]));
        break;
    }
  }
  PAVISE_RETURN_IF_ERROR(CheckFinite(out, item));
  return out;
}

}  // namespace pavise::offload
