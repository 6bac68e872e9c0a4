// What the contract's tests (engine_test.cc), which run on an emulated GPU as on every device, do
// not see: memory and its account, transfers of several pieces, sessions side by side.
#include "pavise/offload/cuda/gpu_device.h"

#include <array>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/cuda/testing/emulated_gpu.h"
#include "pavise/offload/devices.h"
#include "pavise/offload/testing/frames.h"
#include "pavise/offload/testing/plain_worker.h"

#include "gtest/gtest.h"

namespace pavise::offload::cuda {
namespace {

using testing::EmulatedGpu;
using testing::FloatsOf;
using testing::FrameOf;
using testing::RandomMatrix;

constexpr GpuLimits kSmallLimits = {.sum_elements = 1000, .column_elements = 600};
constexpr Operation kOperations[] = {Operation::kPlain, Operation::kTransposeRight,
                                     Operation::kTransposeLeft};

ResidueMatrix RandomResidues(size_t rows, size_t columns, int modulus) {
  ResidueMatrix matrix = ResidueMatrix::Create(rows, columns, "test").value();
  std::mt19937 random(static_cast<uint32_t>(rows * 1000 + columns));
  for (int8_t& value : matrix.values()) {
    value = static_cast<int8_t>(static_cast<int>(random() % static_cast<uint32_t>(modulus)) -
                                modulus / 2);
  }
  return matrix;
}

TEST(GpuDeviceTest, MultiplyingTakesTheWorkspaceThatItSaysAndGivesItBack) {
  int compared = 0;
  const ConvolutionShape shape = {.samples = 5,
                                  .height = 6,
                                  .width = 5,
                                  .channels = 3,
                                  .kernel_height = 3,
                                  .kernel_width = 3,
                                  .stride = 2,
                                  .padding = 1};
  const size_t outputs = shape.samples * shape.output_height() * shape.output_width();
  for (const bool convolves : {false, true}) {
    const auto gpu = std::make_shared<EmulatedGpu>(convolves);
    const auto device = NewGpuDevice(gpu, kSmallLimits);
    for (const bool is_convolution : {false, true}) {
      for (const Operation operation : kOperations) {
        const bool left = operation == Operation::kTransposeLeft;
        const bool right = operation == Operation::kTransposeRight;
        std::array<size_t, 4> sizes;  // rows and columns of both operands
        if (is_convolution) {
          const size_t inputs = shape.samples * shape.height * shape.width;
          sizes = {right ? outputs : inputs, right ? size_t{4} : size_t{3},
                   left ? outputs : size_t{27}, 4};
        } else {
          sizes = {left ? size_t{9} : size_t{40}, left ? size_t{40} : size_t{9},
                   right ? size_t{33} : size_t{9}, right ? size_t{9} : size_t{33}};
        }
        std::vector<std::pair<Frame, Frame>> operands;
        for (const DType type : {DType::kFp32, DType::kBf16, DType::kFp16}) {
          operands.emplace_back(FrameOf(RandomMatrix(sizes[0], sizes[1], 1), type),
                                FrameOf(RandomMatrix(sizes[2], sizes[3], 2)));
        }
        operands.emplace_back(FrameOf(RandomResidues(sizes[0], sizes[1], 251), 251),
                              FrameOf(RandomResidues(sizes[2], sizes[3], 251), 251));
        for (const auto& [a_frame, b_frame] : operands) {
          for (const DType type : {DType::kFp32, DType::kBf16, DType::kFp16}) {
            SCOPED_TRACE(StrCat(convolves, " ", is_convolution, " ", static_cast<int>(operation),
                                " ", a_frame.modulus, " ", DTypeName(a_frame.type), " ",
                                DTypeName(type)));
            Multiplication multiplication = {operation, type, std::nullopt};
            if (is_convolution) multiplication.convolution = shape;
            const auto a = device->Upload(a_frame, a_frame.type, "a").value();
            const auto b = device->Upload(b_frame, b_frame.type, "b").value();
            const uint64_t before = gpu->allocated_bytes();
            (void)gpu->TakePeakBytes();
            const auto product = device->Multiply(multiplication, *a, *b, "product").value();
            EXPECT_EQ(gpu->TakePeakBytes() - before,
                      device->WorkspaceBytes(multiplication, a->form(), b->form()) +
                          product->form().size_bytes());
            EXPECT_EQ(gpu->allocated_bytes() - before, product->form().size_bytes());
            ++compared;
          }
        }
      }
    }
    EXPECT_EQ(gpu->convolutions(), convolves ? 3u * 3 * 3 : 0u);
    EXPECT_EQ(gpu->allocated_bytes(), 0u);
  }
  EXPECT_EQ(compared, 2 * 2 * 3 * 4 * 3);
}

// Of three pieces and a bit, and at each edge of the first two.
TEST(GpuDeviceTest, TransfersOfSeveralPiecesArriveWhole) {
  const auto gpu = std::make_shared<EmulatedGpu>(false);
  const auto device = NewGpuDevice(gpu);
  constexpr size_t kPiece = GpuStream::kPieceBytes / sizeof(float);
  int compared = 0;
  for (const size_t count :
       {kPiece - 1, kPiece, kPiece + 1, 2 * kPiece, 2 * kPiece + 1, 3 * kPiece + 17}) {
    SCOPED_TRACE(count);
    const Matrix values = RandomMatrix(1, count, count);
    for (const DType type : {DType::kFp32, DType::kBf16, DType::kFp16, DType::kInt8}) {
      const Frame frame = FrameOf(values, type);
      const auto matrix = device->Upload(frame, DType::kFp32, "test").value();
      EXPECT_EQ(device->Download(*matrix, DType::kFp32, "test").value().bytes,
                FrameOf(FloatsOf(frame)).bytes)
          << DTypeName(type);
      // What was rounded once stays as it is; of int8 the step is made anew.
      EXPECT_EQ(device->Download(*matrix, type, "test").value().bytes,
                FrameOf(FloatsOf(frame), type).bytes)
          << DTypeName(type);
      ++compared;
    }
    const Frame residues = FrameOf(RandomResidues(1, count, 239), 239);
    EXPECT_EQ(device
                  ->Download(*device->Upload(residues, DType::kFp32, "test").value(), DType::kFp32,
                             "test")
                  .value()
                  .bytes,
              residues.bytes);
    // What is not a number is found in the last piece, too, and named.
    Frame broken = FrameOf(values);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(broken.bytes.data() + broken.bytes.size() - sizeof nan, &nan, sizeof nan);
    const absl::Status status = device->Upload(broken, DType::kFp32, "test").status();
    EXPECT_EQ(ReasonOf(status), Reason::kMalformed);
    EXPECT_NE(std::string(status.message()).find(StrCat("row 0, column ", count - 1)),
              std::string::npos)
        << status;
    Frame strange = residues;
    strange.bytes.back() = 120;
    EXPECT_EQ(ReasonOf(device->Upload(strange, DType::kFp32, "test").status()), Reason::kMalformed);
  }
  EXPECT_EQ(compared, 6 * 4);
  EXPECT_EQ(gpu->allocated_bytes(), 0u);
}

TEST(GpuDeviceTest, AnswersThatAreNotFiniteAreRefusedInEveryType) {
  const auto device = NewGpuDevice(std::make_shared<EmulatedGpu>(false));
  Matrix values = Matrix::Create(3, 2, "test").value();
  values(1, 0) = 3e38f;
  const auto a = device->Upload(FrameOf(values), DType::kFp32, "a").value();
  for (const DType type : {DType::kFp32, DType::kBf16, DType::kFp16, DType::kInt8}) {
    SCOPED_TRACE(DTypeName(type));
    const auto product =
        device
            ->Multiply({Operation::kTransposeRight, DType::kFp32, std::nullopt}, *a, *a, "product")
            .value();
    const absl::Status status = device->Download(*product, type, "product").status();
    EXPECT_EQ(ReasonOf(status), Reason::kMalformed) << status;
    EXPECT_NE(std::string(status.message()).find("row 1, column 1"), std::string::npos) << status;
    EXPECT_EQ(device->CheckFinite(*product, "product"),
              device->Download(*product, DType::kFp32, "product").status());
    EXPECT_TRUE(device->CheckFinite(*a, "a").ok());
  }
}

TEST(GpuDeviceTest, WithoutMemoryTheMachineFailsAndNothingIsKept) {
  const auto gpu = std::make_shared<EmulatedGpu>(false);
  const auto device = NewGpuDevice(gpu);
  const auto a = device->Upload(FrameOf(RandomMatrix(32, 32, 1)), DType::kFp32, "a").value();
  const uint64_t held = gpu->allocated_bytes();
  // Room for a converted operand, not for two.
  gpu->set_memory_bytes(held + 32 * 32 * 2);
  const absl::Status status =
      device->Multiply({Operation::kPlain, DType::kBf16, std::nullopt}, *a, *a, "product").status();
  EXPECT_EQ(ExitCodeOf(status), 3) << status;
  EXPECT_EQ(gpu->allocated_bytes(), held);
  EXPECT_FALSE(device->Create({DType::kFp32, 0, 1024, 1024}, "test").ok());
  EXPECT_EQ(gpu->allocated_bytes(), held);
}

// More sessions than streams, each with answers of its own.
TEST(GpuDeviceTest, SessionsSideBySideGetTheirOwnAnswers) {
  const auto device = NewGpuDevice(std::make_shared<EmulatedGpu>(false));
  std::vector<std::thread> threads;
  std::vector<int> right_answers(kStreams + 3);
  for (size_t t = 0; t < right_answers.size(); ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 20; ++i) {
        const Matrix values = RandomMatrix(17, 23, 100 * t + i);
        const auto matrix = device->Upload(FrameOf(values), DType::kFp32, "test");
        if (!matrix.ok() || !device->Add(**matrix, **matrix).ok()) continue;
        const auto frame = device->Download(**matrix, DType::kFp32, "test");
        if (!frame.ok()) continue;
        const Matrix sum = FloatsOf(*frame);
        bool is_right = true;
        for (size_t e = 0; e < values.values().size(); ++e) {
          is_right &= sum.values()[e] == 2 * values.values()[e];
        }
        right_answers[t] += is_right ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right_answers, std::vector<int>(right_answers.size(), 20));
}

TEST(GpuRuntimeTest, ResidueProductsHaveTheFormOfInt8Units) {
  for (const uint64_t rows : {1, 31, 32, 33, 4097}) {
    for (const uint64_t inner : {1, 31, 32, 33, 1000}) {
      for (const uint64_t columns : {1, 32, 33, 3000}) {
        SCOPED_TRACE(StrCat(rows, " ", inner, " ", columns));
        const ResidueGemm gemm = ResidueGemmOf(rows, inner, columns, 10000);
        for (const auto& [padded, size] :
             {std::pair{gemm.padded_rows, rows}, std::pair{gemm.padded_inner, inner},
              std::pair{gemm.padded_columns, columns}}) {
          EXPECT_EQ(padded % 32, 0u);
          EXPECT_GE(padded, size);
          EXPECT_LT(padded, size + 32);
        }
        EXPECT_EQ(gemm.rows_at_once % 32, 0u);
        EXPECT_GE(gemm.rows_at_once, 32u);
        EXPECT_LE(gemm.rows_at_once, gemm.padded_rows);
        EXPECT_TRUE(gemm.rows_at_once == 32 || gemm.rows_at_once * gemm.padded_columns <= 10000);
        const Gemm part = gemm.ForRows(gemm.rows_at_once);
        EXPECT_TRUE(part.first_transposed);
        EXPECT_FALSE(part.second_transposed);
        EXPECT_EQ(part.m, gemm.padded_columns);
        EXPECT_EQ(part.n, gemm.rows_at_once);
        EXPECT_EQ(part.k, gemm.padded_inner);
      }
    }
  }
}

TEST(OpenComputeDeviceTest, OnlyNamesOfDevicesOpenOne) {
  EXPECT_TRUE(OpenComputeDevice("cpu", 1).ok());
  for (const char* name : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda:99999999", "CPU"}) {
    EXPECT_EQ(ExitCodeOf(OpenComputeDevice(name).status()), 2) << name;
  }
  // No machine has so many: refused with and without CUDA, never replaced.
  EXPECT_EQ(ReasonOf(OpenComputeDevice("cuda:9999").status()), Reason::kUnsupported);
}

}  // namespace
}  // namespace pavise::offload::cuda
