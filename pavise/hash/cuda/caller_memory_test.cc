// What a program has on a GPU already, allocated and filled with CUDA's runtime on its own stream.
#include <cuda_runtime_api.h>

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/crypto/digest.h"
#include "pavise/hash/blake3.h"
#include "pavise/hash/cuda/cuda_device.h"
#include "pavise/hash/tag.h"

#include "gtest/gtest.h"

namespace pavise::hash {
namespace {

constexpr size_t kMiB = kSubtreeBytes;

class CudaCallerTest : public testing::Test {
 protected:
  void SetUp() override {
    auto device = NewCudaDevice(0);
    if (!device.ok()) {
      ASSERT_EQ(ReasonOf(device.status()), Reason::kUnsupported) << device.status();
      GTEST_SKIP() << "no CUDA device: " << device.status().message();
    }
    device_ = *std::move(device);
    for (size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<uint8_t>(i % 251);
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaMalloc(&memory_, bytes_.size()), cudaSuccess);
  }
  void TearDown() override {
    if (memory_ != nullptr) {
      EXPECT_EQ(cudaFree(memory_), cudaSuccess);
    }
    if (stream_ != nullptr) {
      EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
    }
  }

  Bytes Expected(Algorithm algorithm, const Range& range) const {
    const ByteSpan part = ByteSpan(bytes_).subspan(range.offset_bytes, range.size_bytes);
    if (algorithm == Algorithm::kBlake3) {
      const Digest32 digest = reference::Blake3(part);
      return {digest.begin(), digest.end()};
    }
    return *crypto::Digest(algorithm == Algorithm::kSha256 ? crypto::DigestAlgorithm::kSha256
                                                           : crypto::DigestAlgorithm::kSha384,
                           part);
  }

  std::unique_ptr<Device> device_;
  Bytes bytes_ = Bytes(3 * kMiB + 77);
  cudaStream_t stream_ = nullptr;
  void* memory_ = nullptr;
};

TEST_F(CudaCallerTest, WhatTheCallerQueuedIsHashedWhereItLies) {
  const auto stream = WrapCudaStream(*device_, stream_);
  ASSERT_TRUE(stream.ok()) << stream.status();
  const auto buffer = WrapDeviceMemory(*device_, memory_, bytes_.size());
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  // Not waited for: the hash comes behind it on the same stream.
  ASSERT_EQ(cudaMemsetAsync(memory_, 0xEE, bytes_.size(), stream_), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(memory_, bytes_.data(), bytes_.size(), cudaMemcpyHostToDevice, stream_),
            cudaSuccess);
  size_t executed = 0;
  for (const Algorithm algorithm : {Algorithm::kSha256, Algorithm::kSha384, Algorithm::kBlake3}) {
    for (const Range& range :
         {Range{0, bytes_.size()}, {5, kMiB}, {bytes_.size() - 1, 1}, {3, 0}}) {
      Bytes out(DigestSizeBytes(algorithm), 0xEE);
      ASSERT_TRUE(device_->Digest(algorithm, **buffer, std::span(&range, 1), **stream, out).ok());
      const absl::Status waited = (*stream)->Wait();
      ASSERT_TRUE(waited.ok()) << waited;
      EXPECT_EQ(out, Expected(algorithm, range));
      ++executed;
    }
  }
  EXPECT_EQ(executed, 3u * 4);
  const TagKey key = TagKey::Derive(std::array<uint8_t, 32>{7}, 1, bytes_.size());
  const TagKey* const keys[] = {&key};
  std::vector<RangeTag> tags(4);
  ASSERT_TRUE(device_->Tag(keys, **buffer, {0, bytes_.size()}, 0, **stream, tags).ok());
  ASSERT_TRUE((*stream)->Wait().ok());
  EXPECT_EQ(tags, reference::TagRanges(key, bytes_, 0));
  // A tensor inside the allocation.
  const auto inside = WrapDeviceMemory(*device_, static_cast<const uint8_t*>(memory_) + 4096, kMiB);
  ASSERT_TRUE(inside.ok()) << inside.status();
  const Range whole = {0, kMiB};
  Bytes out(32);
  ASSERT_TRUE(
      device_->Digest(Algorithm::kBlake3, **inside, std::span(&whole, 1), **stream, out).ok());
  ASSERT_TRUE((*stream)->Wait().ok());
  EXPECT_EQ(out, Expected(Algorithm::kBlake3, {4096, kMiB}));
  // A byte that the caller changes changes the digest.
  ASSERT_EQ(cudaMemsetAsync(static_cast<uint8_t*>(memory_) + 5000, 0xFF, 1, stream_), cudaSuccess);
  ASSERT_TRUE(
      device_->Digest(Algorithm::kBlake3, **inside, std::span(&whole, 1), **stream, out).ok());
  ASSERT_TRUE((*stream)->Wait().ok());
  EXPECT_NE(out, Expected(Algorithm::kBlake3, {4096, kMiB}));
}

TEST_F(CudaCallerTest, TheCallersMemoryAndStreamStayTheCallers) {
  {
    const auto stream = WrapCudaStream(*device_, stream_).value();
    const auto buffer = WrapDeviceMemory(*device_, memory_, bytes_.size()).value();
    EXPECT_EQ(device_->CopyIn(bytes_, *buffer, 0, *stream).code(),
              absl::StatusCode::kInvalidArgument);
  }
  // Neither was destroyed with its wrapper.
  EXPECT_EQ(cudaMemsetAsync(memory_, 0, bytes_.size(), stream_), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  // Past the allocation, and memory of the host.
  EXPECT_FALSE(WrapDeviceMemory(*device_, memory_, uint64_t{1} << 45).ok());
  EXPECT_FALSE(WrapDeviceMemory(*device_, bytes_.data(), bytes_.size()).ok());
}

}  // namespace
}  // namespace pavise::hash
