#include "pavise/offload/tensor.h"

#include <bit>
#include <cmath>
#include <limits>

#include "pavise/base/status.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::offload {
namespace {

Matrix Of(size_t rows, size_t columns, std::vector<float> values) {
  Matrix matrix = Matrix::Create(rows, columns, "test").value();
  std::copy(values.begin(), values.end(), matrix.values().begin());
  return matrix;
}

TEST(TensorTest, ShapesAreBoundedBeforeTheyAreAllocated) {
  EXPECT_EQ(ReasonOf(Matrix::Create(1 << 20, 1 << 13, "x").status()), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(Matrix::Create(SIZE_MAX, 2, "x").status()), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(UnpackMatrix({}, DType::kFp32, SIZE_MAX, SIZE_MAX, "x").status()),
            Reason::kLimitExceeded);
  EXPECT_TRUE(Matrix::Create(0, SIZE_MAX, "x").ok());
}

// Every bit pattern of 16 bits is its own rounding, and between neighbours the nearer one is taken,
// of equally near ones the even one.
TEST(TensorTest, SixteenBitTypesRoundToNearestEven) {
  int compared = 0;
  const auto hold = [&](auto from_float, auto to_float, uint16_t infinity) {
    for (uint32_t bits = 0; bits < infinity; ++bits) {
      const uint16_t low = static_cast<uint16_t>(bits);
      const float a = to_float(low);
      ASSERT_EQ(from_float(a), low);
      ASSERT_EQ(from_float(-a), low | 0x8000);
      if (bits + 1 == infinity) break;
      const float b = to_float(static_cast<uint16_t>(bits + 1));
      const float middle = static_cast<float>((double{a} + double{b}) / 2);
      const uint16_t even = static_cast<uint16_t>(bits + (bits & 1));
      ASSERT_EQ(from_float(middle), even) << bits;
      ASSERT_EQ(from_float(std::nextafter(middle, 0.0f)), low) << bits;
      ASSERT_EQ(from_float(std::nextafter(middle, INFINITY)), bits + 1) << bits;
      ++compared;
    }
  };
  hold(Bf16FromFloat, FloatFromBf16, 0x7F80);
  hold(Fp16FromFloat, FloatFromFp16, 0x7C00);
  EXPECT_EQ(compared, 0x7F80 - 1 + 0x7C00 - 1);
  EXPECT_EQ(Fp16FromFloat(65519.9f), 0x7BFF);
  EXPECT_EQ(Fp16FromFloat(65520.0f), 0x7C00);
  EXPECT_EQ(Bf16FromFloat(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_TRUE(std::isnan(FloatFromFp16(Fp16FromFloat(NAN))));
  EXPECT_TRUE(std::isnan(FloatFromBf16(Bf16FromFloat(NAN))));
  EXPECT_EQ(FloatFromFp16(0xFC00), -std::numeric_limits<float>::infinity());
}

TEST(TensorTest, MessagesRoundTripWithinTheStatedError) {
  const Matrix values = Of(2, 3, {1.0f, -0.333333f, 3e-3f, 100.5f, -7.25f, 0.0f});
  for (const DType type : {DType::kFp32, DType::kBf16, DType::kFp16, DType::kInt8}) {
    const Bytes bytes = PackMatrix(values, type, "x").value();
    EXPECT_EQ(bytes.size(), 6 * DTypeSizeBytes(type) + (type == DType::kInt8 ? 4 : 0));
    const Matrix back = UnpackMatrix(bytes, type, 2, 3, "x").value();
    for (size_t i = 0; i < 6; ++i) {
      const double size = type == DType::kInt8 ? 100.5 : std::abs(values.values()[i]);
      EXPECT_LE(std::abs(back.values()[i] - values.values()[i]), UnitRoundoff(type) * size * 1.001)
          << DTypeName(type) << " " << i;
    }
  }
}

TEST(TensorTest, AViewOfColumnsIsPackedWithoutItsGaps) {
  const Matrix values = Of(2, 3, {1, 2, 3, 4, 5, 6});
  const MatrixView right = {&values.values()[1], 2, 2, 3};
  const Bytes bytes = PackMatrix(right, DType::kFp32, "x").value();
  EXPECT_EQ(UnpackMatrix(bytes, DType::kFp32, 2, 2, "x").value(), Of(2, 2, {2, 3, 5, 6}));
}

TEST(TensorTest, WhatIsNoNumberIsRefusedBothWays) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    const Matrix values = Of(1, 2, {1, bad});
    for (const DType type : {DType::kFp32, DType::kBf16, DType::kFp16, DType::kInt8}) {
      const auto packed = PackMatrix(values, type, "activations");
      EXPECT_EQ(ReasonOf(packed.status()), Reason::kMalformed);
      EXPECT_THAT(RefusalsOf(packed.status())[0].detail, testing::HasSubstr("row 0, column 1"));
    }
    Bytes wide;
    AppendLittleEndian32(std::bit_cast<uint32_t>(bad), wide);
    EXPECT_EQ(ReasonOf(UnpackMatrix(wide, DType::kFp32, 1, 1, "x").status()), Reason::kMalformed);
    Bytes scaled = wide;
    scaled.push_back(1);
    EXPECT_EQ(ReasonOf(UnpackMatrix(scaled, DType::kInt8, 1, 1, "x").status()), Reason::kMalformed);
    const uint16_t half = Fp16FromFloat(bad);
    const Bytes narrow = {static_cast<uint8_t>(half), static_cast<uint8_t>(half >> 8)};
    EXPECT_EQ(ReasonOf(UnpackMatrix(narrow, DType::kFp16, 1, 1, "x").status()), Reason::kMalformed);
  }
  EXPECT_EQ(ReasonOf(PackMatrix(Of(1, 1, {65520}), DType::kFp16, "x").status()),
            Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(PackMatrix(Of(1, 1, {3.4e38f}), DType::kBf16, "x").status()),
            Reason::kLimitExceeded);
}

TEST(TensorTest, AnotherLengthThanTheShapeTakesIsRefused) {
  const Bytes bytes(12);
  EXPECT_TRUE(UnpackMatrix(bytes, DType::kFp32, 1, 3, "x").ok());
  EXPECT_EQ(ReasonOf(UnpackMatrix(bytes, DType::kFp32, 1, 2, "x").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(UnpackMatrix(bytes, DType::kFp32, 2, 2, "x").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(UnpackMatrix(bytes, DType::kBf16, 1, 3, "x").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(UnpackMatrix(bytes, static_cast<DType>(9), 1, 3, "x").status()),
            Reason::kMalformed);
}

}  // namespace
}  // namespace pavise::offload
