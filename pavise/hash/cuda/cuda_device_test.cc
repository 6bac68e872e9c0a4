#include "pavise/hash/cuda/cuda_device.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/crypto/digest.h"
#include "pavise/hash/blake3.h"
#include "pavise/hash/cpu/cpu_device.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace pavise::hash {
namespace {

constexpr Algorithm kAll[] = {Algorithm::kSha256, Algorithm::kSha384, Algorithm::kBlake3};
constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();
constexpr size_t kMiB = kSubtreeBytes;

Bytes Repeating(size_t size_bytes) {
  Bytes bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<uint8_t>(i % 251);
  return bytes;
}

Bytes Expected(Algorithm algorithm, ByteSpan bytes) {
  if (algorithm == Algorithm::kBlake3) {
    const Digest32 digest = Blake3(bytes);
    return {digest.begin(), digest.end()};
  }
  return *crypto::Digest(algorithm == Algorithm::kSha256 ? crypto::DigestAlgorithm::kSha256
                                                         : crypto::DigestAlgorithm::kSha384,
                         bytes);
}

std::vector<Bytes> Cut(const Bytes& out, size_t digest_bytes) {
  std::vector<Bytes> digests;
  for (size_t at = 0; at < out.size(); at += digest_bytes) {
    digests.emplace_back(out.begin() + static_cast<ptrdiff_t>(at),
                         out.begin() + static_cast<ptrdiff_t>(at + digest_bytes));
  }
  return digests;
}

absl::StatusOr<std::vector<Bytes>> DigestRanges(Device& device, Stream& stream, Algorithm algorithm,
                                                const Buffer& buffer,
                                                const std::vector<Range>& ranges) {
  Bytes out(ranges.size() * DigestSizeBytes(algorithm));
  PAVISE_RETURN_IF_ERROR(device.Digest(algorithm, buffer, ranges, stream, out));
  PAVISE_RETURN_IF_ERROR(stream.Wait());
  return Cut(out, DigestSizeBytes(algorithm));
}

// ---- Without a GPU ----

TEST(CudaDeviceRefusalTest, AGpuThatIsNotThereIsRefusedAndNamed) {
  const auto devices = ListCudaDevices();
  const int count = devices.ok() ? static_cast<int>(devices->size()) : 0;
  if (!devices.ok()) {
    EXPECT_EQ(ReasonOf(devices.status()), Reason::kUnsupported) << devices.status();
  }
  size_t executed = 0;
  for (const int ordinal : {-1, count, count + 7, std::numeric_limits<int>::max()}) {
    const auto device = NewCudaDevice(ordinal);
    ASSERT_FALSE(device.ok());
    EXPECT_EQ(ReasonOf(device.status()), Reason::kUnsupported) << device.status();
    const std::vector<Refusal> refusals = RefusalsOf(device.status());
    ASSERT_EQ(refusals.size(), 1u);
    EXPECT_EQ(refusals[0].item, absl::StrCat("cuda:", ordinal));
    EXPECT_FALSE(refusals[0].remedy.empty());
    ++executed;
  }
  EXPECT_EQ(executed, 4u);
}

TEST(CudaDeviceRefusalTest, OtherDevicesHaveNoCudaStreamsOrMemory) {
  const auto cpu = NewCpuDevice(1);
  const uint8_t byte = 0;
  EXPECT_EQ(WrapCudaStream(*cpu, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WrapDeviceMemory(*cpu, &byte, 1).status().code(), absl::StatusCode::kInvalidArgument);
  Bytes out(32);
  EXPECT_EQ(DigestHostMemory(*cpu, Algorithm::kBlake3, {&byte, 1}, std::vector<Range>{{0, 1}}, out)
                .code(),
            absl::StatusCode::kInvalidArgument);
}

// ---- On every GPU of the machine ----

class CudaDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    auto device = NewCudaDevice(0);
    if (!device.ok()) {
      // A machine failure is one of the test, too.
      ASSERT_EQ(ReasonOf(device.status()), Reason::kUnsupported) << device.status();
      GTEST_SKIP() << "no CUDA device: " << device.status().message();
    }
    device_ = *std::move(device);
    stream_ = device_->NewStream().value();
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
};

TEST_F(CudaDeviceTest, SaysWhatItIs) {
  EXPECT_EQ(device_->name(), "cuda:0");
  EXPECT_TRUE(absl::StrContains(device_->description(), "compute capability"));
  for (const Algorithm algorithm : kAll) EXPECT_TRUE(device_->supports(algorithm));
  EXPECT_FALSE(device_->supports(Algorithm::kBlake2b));
  EXPECT_TRUE(device_->supports_tags());
  // Which of the others it is depends on the machine.
  EXPECT_NE(device_->memory_link().kind, MemoryLink::Kind::kHost);
  EXPECT_FALSE(device_->memory_link().because.empty());
}

TEST_F(CudaDeviceTest, EveryAlgorithmAtEveryBoundaryAndAlignment) {
  const std::vector<size_t> lengths = {
      0,        1,     55,       56,           63,           64,
      65,       111,   112,      127,          128,          129,
      1023,     1024,  1025,     8191,         8192,         8193,
      65535,    65536, 65537,    262143,       262144,       262145,
      kMiB - 1, kMiB,  kMiB + 1, 2 * kMiB + 1, 3 * kMiB + 5, 17 * kMiB + 123};
  const Bytes all = Repeating(17 * kMiB + 123 + 16);
  const auto buffer = device_->Upload(all);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  size_t executed = 0;
  for (const Algorithm algorithm : kAll) {
    for (const size_t offset : {0u, 1u, 4u, 7u, 8u, 13u, 16u}) {
      // One launch for all lengths, and one for each: another plan.
      std::vector<Range> ranges;
      for (const size_t length : lengths) ranges.push_back({offset, length});
      const auto digests = DigestRanges(*device_, *stream_, algorithm, **buffer, ranges);
      ASSERT_TRUE(digests.ok()) << digests.status();
      for (size_t i = 0; i < lengths.size(); ++i) {
        const Bytes expected = Expected(algorithm, ByteSpan(all).subspan(offset, lengths[i]));
        ASSERT_EQ(digests->at(i), expected)
            << AlgorithmName(algorithm) << " of " << lengths[i] << " bytes at " << offset;
        const auto alone = DigestRanges(*device_, *stream_, algorithm, **buffer, {ranges[i]});
        ASSERT_TRUE(alone.ok()) << alone.status();
        ASSERT_EQ(alone->at(0), expected)
            << AlgorithmName(algorithm) << " of " << lengths[i] << " bytes at " << offset;
        ++executed;
      }
    }
  }
  EXPECT_EQ(executed, 3u * 7 * 30);
}

TEST_F(CudaDeviceTest, OneGibibyteAndOneMebibyteRanges) {
  // Enough for the plan of eight chunks a lane, and a tail.
  const Bytes all = Repeating(1024 * kMiB + 12345);
  const auto buffer = device_->Upload(all);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  const auto cpu = NewCpuDevice();
  const auto cpu_stream = cpu->NewStream().value();
  const auto cpu_buffer = WrapHostMemory(*cpu, all);
  std::vector<Range> ranges;
  for (size_t offset = 0; offset < all.size(); offset += kMiB) {
    ranges.push_back({offset, std::min(kMiB, all.size() - offset)});
  }
  for (const Algorithm algorithm : {Algorithm::kSha256, Algorithm::kBlake3}) {
    const auto digests = DigestRanges(*device_, *stream_, algorithm, **buffer, ranges);
    const auto expected = DigestRanges(*cpu, *cpu_stream, algorithm, *cpu_buffer, ranges);
    ASSERT_TRUE(digests.ok()) << digests.status();
    ASSERT_TRUE(expected.ok()) << expected.status();
    EXPECT_EQ(*digests, *expected);
  }
  for (const Range& whole : {Range{0, all.size()}, Range{3, all.size() - 3}}) {
    const auto digest = DigestRanges(*device_, *stream_, Algorithm::kBlake3, **buffer, {whole});
    const auto expected = DigestRanges(*cpu, *cpu_stream, Algorithm::kBlake3, *cpu_buffer, {whole});
    ASSERT_TRUE(digest.ok()) << digest.status();
    ASSERT_TRUE(expected.ok()) << expected.status();
    EXPECT_EQ(*digest, *expected);
  }
}

TEST_F(CudaDeviceTest, AHundredThousandSmallRangesKeepTheirPlaces) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  const Bytes all = Repeating(64 * kMiB);
  const auto buffer = device_->Upload(all);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  std::vector<Range> ranges;
  while (ranges.size() < 100'000) {
    const uint64_t size =
        std::uniform_int_distribution<uint64_t>(0, ranges.size() % 50 == 0 ? 40000 : 2000)(random);
    ranges.push_back({std::uniform_int_distribution<uint64_t>(0, all.size() - size)(random), size});
  }
  for (const Algorithm algorithm : kAll) {
    const auto digests = DigestRanges(*device_, *stream_, algorithm, **buffer, ranges);
    ASSERT_TRUE(digests.ok()) << digests.status();
    ASSERT_EQ(digests->size(), ranges.size());
    for (size_t i = 0; i < ranges.size(); ++i) {
      ASSERT_EQ(digests->at(i), Expected(algorithm, ByteSpan(all).subspan(ranges[i].offset_bytes,
                                                                          ranges[i].size_bytes)))
          << AlgorithmName(algorithm) << " range " << i;
    }
  }
}

TEST_F(CudaDeviceTest, SubtreesAreThoseOfTheWhole) {
  const Bytes all = Repeating(5 * kMiB + 1);
  const auto buffer = device_->Upload(all).value();
  std::vector<SubtreeRange> ranges;
  for (size_t offset = 0; offset < all.size(); offset += kMiB) {
    ranges.push_back({{offset, std::min(kMiB, all.size() - offset)}, offset / kBlake3ChunkBytes});
  }
  std::vector<ChainingValue> values(ranges.size());
  ASSERT_TRUE(device_->Blake3Subtrees(*buffer, ranges, *stream_, values).ok());
  ASSERT_TRUE(stream_->Wait().ok());
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i].range;
    EXPECT_EQ(values[i], Blake3Subtree(ByteSpan(all).subspan(range.offset_bytes, range.size_bytes),
                                       ranges[i].first_chunk));
  }
  EXPECT_EQ(Blake3RootFromSubtrees(values), Blake3(all));
  std::swap(values[1], values[3]);
  EXPECT_NE(Blake3RootFromSubtrees(values), Blake3(all));
}

TEST_F(CudaDeviceTest, OperationsOfAStreamAreAllThereAfterOneWait) {
  const Bytes all = Repeating(3 * kMiB);
  const auto buffer = device_->Upload(all).value();
  std::vector<Bytes> outs;
  size_t executed = 0;
  for (size_t i = 0; i < 60; ++i) outs.emplace_back(DigestSizeBytes(kAll[i % 3]));
  for (size_t i = 0; i < 60; ++i) {
    const std::vector<Range> ranges = {{i, all.size() - 100 * i}};
    ASSERT_TRUE(device_->Digest(kAll[i % 3], *buffer, ranges, *stream_, outs[i]).ok());
  }
  ASSERT_TRUE(stream_->Wait().ok());
  for (size_t i = 0; i < 60; ++i) {
    EXPECT_EQ(outs[i], Expected(kAll[i % 3], ByteSpan(all).subspan(i, all.size() - 100 * i)));
    ++executed;
  }
  EXPECT_EQ(executed, 60u);
}

TEST_F(CudaDeviceTest, ADestroyedStreamHasFinished) {
  const Bytes all = Repeating(2 * kMiB);
  const auto buffer = device_->Upload(all).value();
  Bytes out(32);
  {
    const auto stream = device_->NewStream().value();
    ASSERT_TRUE(
        device_
            ->Digest(Algorithm::kBlake3, *buffer, std::vector<Range>{{0, all.size()}}, *stream, out)
            .ok());
  }
  EXPECT_EQ(out, Expected(Algorithm::kBlake3, all));
}

TEST_F(CudaDeviceTest, TheCallersStreamAndMemory) {
  // The default stream, and memory that is a part of a buffer, as a caller's tensor would be.
  const Bytes all = Repeating(kMiB + 77);
  const auto stream = WrapCudaStream(*device_, nullptr);
  ASSERT_TRUE(stream.ok()) << stream.status();
  const auto buffer = device_->Upload(all).value();
  for (const Algorithm algorithm : kAll) {
    const auto digests = DigestRanges(*device_, **stream, algorithm, *buffer, {{5, kMiB}});
    ASSERT_TRUE(digests.ok()) << digests.status();
    EXPECT_EQ(digests->at(0), Expected(algorithm, ByteSpan(all).subspan(5, kMiB)));
  }
  // Host memory is not device memory.
  EXPECT_FALSE(WrapDeviceMemory(*device_, all.data(), all.size()).ok());
  EXPECT_TRUE(WrapDeviceMemory(*device_, nullptr, 0).ok());
}

TEST_F(CudaDeviceTest, HostMemoryInPiecesHasTheSameDigests) {
  const Bytes all = Repeating(9 * kMiB + 321);
  const std::vector<Range> ranges = {{0, all.size()}, {1, 0},           {3, 100},
                                     {kMiB, 8192},    {7, 5 * kMiB},    {2, 8 * 8192},
                                     {5, 65537},      {kMiB + 1, 4096}, {0, all.size() - 1}};
  size_t executed = 0;
  for (const uint64_t piece_bytes :
       {uint64_t{8192}, uint64_t{100'000}, uint64_t{kMiB}, uint64_t{64} << 20}) {
    for (const Algorithm algorithm : kAll) {
      Bytes out(ranges.size() * DigestSizeBytes(algorithm));
      const absl::Status status =
          DigestHostMemory(*device_, algorithm, all, ranges, out, {.piece_bytes = piece_bytes});
      ASSERT_TRUE(status.ok()) << status;
      const std::vector<Bytes> digests = Cut(out, DigestSizeBytes(algorithm));
      for (size_t i = 0; i < ranges.size(); ++i) {
        EXPECT_EQ(digests[i], Expected(algorithm, ByteSpan(all).subspan(ranges[i].offset_bytes,
                                                                        ranges[i].size_bytes)))
            << AlgorithmName(algorithm) << " range " << i << " in pieces of " << piece_bytes;
        ++executed;
      }
    }
  }
  EXPECT_EQ(executed, 4u * 3 * ranges.size());
  Bytes out(32);
  EXPECT_EQ(DigestHostMemory(*device_, Algorithm::kBlake3, all, std::vector<Range>{{0, 1}}, out,
                             {.piece_bytes = 8191})
                .code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(CudaDeviceTest, AFlippedBitAnywhereChangesTheDigest) {
  Bytes bytes = Repeating(2 * kMiB + 3);
  size_t executed = 0;
  for (const Algorithm algorithm : kAll) {
    const auto digest = [&] {
      const auto buffer = device_->Upload(bytes).value();
      return DigestRanges(*device_, *stream_, algorithm, *buffer, {{0, bytes.size()}})->at(0);
    };
    const Bytes right = digest();
    for (const size_t at :
         {size_t{0}, size_t{1023}, size_t{8192}, kMiB - 1, kMiB, bytes.size() - 1}) {
      bytes[at] ^= 0x10;
      EXPECT_NE(digest(), right) << AlgorithmName(algorithm) << " at " << at;
      bytes[at] ^= 0x10;
      ++executed;
    }
  }
  EXPECT_EQ(executed, 3u * 6);
}

TEST_F(CudaDeviceTest, RefusesRangesOutsideTheBufferAndWrongSizesOfOut) {
  const Bytes bytes = Repeating(100);
  const auto buffer = device_->Upload(bytes).value();
  const std::vector<Range> bad = {{0, 101},   {1, 100},       {100, 1},
                                  {101, 0},   {kHuge, 0},     {1, kHuge},
                                  {kHuge, 1}, {kHuge, kHuge}, {50, kHuge - 49}};
  size_t executed = 0;
  for (const Algorithm algorithm : kAll) {
    for (const Range& range : bad) {
      Bytes out(2 * DigestSizeBytes(algorithm), 0xEE);
      EXPECT_EQ(
          device_->Digest(algorithm, *buffer, std::vector<Range>{{0, 10}, range}, *stream_, out)
              .code(),
          absl::StatusCode::kInvalidArgument);
      EXPECT_TRUE(stream_->Wait().ok());
      EXPECT_EQ(out, Bytes(out.size(), 0xEE));
      ++executed;
    }
    for (const size_t wrong : {size_t{0}, DigestSizeBytes(algorithm) - 1,
                               DigestSizeBytes(algorithm) + 1, 2 * DigestSizeBytes(algorithm)}) {
      Bytes out(wrong);
      EXPECT_EQ(
          device_->Digest(algorithm, *buffer, std::vector<Range>{{0, 10}}, *stream_, out).code(),
          absl::StatusCode::kInvalidArgument);
      ++executed;
    }
  }
  const std::vector<SubtreeRange> no_subtrees = {
      {{0, 0}, 0}, {{0, 101}, 0}, {{0, 10}, uint64_t{1} << 54}, {{0, 10}, kHuge}};
  for (const SubtreeRange& subtree : no_subtrees) {
    std::vector<ChainingValue> values(1);
    EXPECT_EQ(device_->Blake3Subtrees(*buffer, std::vector<SubtreeRange>{subtree}, *stream_, values)
                  .code(),
              absl::StatusCode::kInvalidArgument);
    ++executed;
  }
  EXPECT_EQ(executed, 3u * (9 + 4) + 4);
  Bytes out(64);
  EXPECT_EQ(ReasonOf(device_->Digest(Algorithm::kBlake2b, *buffer, std::vector<Range>{{0, 10}},
                                     *stream_, out)),
            Reason::kUnsupported);
  EXPECT_TRUE(device_->Digest(Algorithm::kBlake3, *buffer, {}, *stream_, {}).ok());
  EXPECT_TRUE(stream_->Wait().ok());
}

TEST_F(CudaDeviceTest, RefusesBuffersAndStreamsOfAnotherDevice) {
  const auto other = NewCudaDevice(0).value();
  const auto cpu = NewCpuDevice(1);
  const Bytes bytes = Repeating(100);
  const auto own_buffer = device_->Upload(bytes).value();
  const auto other_buffer = other->Upload(bytes).value();
  const auto host_buffer = WrapHostMemory(*cpu, bytes);
  const auto other_stream = other->NewStream().value();
  const std::vector<Range> ranges = {{0, 10}};
  Bytes out(32);
  for (const Buffer* buffer : {other_buffer.get(), host_buffer.get()}) {
    EXPECT_EQ(device_->Digest(Algorithm::kBlake3, *buffer, ranges, *stream_, out).code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(device_->Digest(Algorithm::kBlake3, *own_buffer, ranges, *other_stream, out).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(CudaDeviceTest, OutOfMemoryIsAMachineFailureThatLeavesTheDeviceUsable) {
  // A span that is only measured: the allocation fails before anything is read.
  const uint8_t byte = 0;
  const auto buffer = device_->Upload(ByteSpan(&byte, size_t{1} << 45));
  ASSERT_FALSE(buffer.ok());
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(absl::StrContains(buffer.status().message(), "cudaMalloc")) << buffer.status();
  EXPECT_TRUE(absl::StrContains(buffer.status().message(), "cuda:0")) << buffer.status();
  const Bytes bytes = Repeating(1000);
  const auto small = device_->Upload(bytes).value();
  const auto digests =
      DigestRanges(*device_, *stream_, Algorithm::kBlake3, *small, {{0, bytes.size()}});
  ASSERT_TRUE(digests.ok()) << digests.status();
  EXPECT_EQ(digests->at(0), Expected(Algorithm::kBlake3, bytes));
}

TEST_F(CudaDeviceTest, ManyThreadsMayUseOneDeviceEachWithItsStream) {
  const Bytes bytes = Repeating(kMiB + 4000);
  std::vector<std::thread> callers;
  std::vector<size_t> right(6, 0);
  for (size_t caller = 0; caller < right.size(); ++caller) {
    callers.emplace_back([&, caller] {
      const auto stream = device_->NewStream().value();
      const auto buffer = device_->Upload(bytes).value();
      for (size_t round = 0; round < 20; ++round) {
        const Algorithm algorithm = kAll[(caller + round) % 3];
        const Range range = {caller * 10 + round, round % 3 == 0 ? bytes.size() - 200 : 700};
        const auto digests = DigestRanges(*device_, *stream, algorithm, *buffer, {range});
        if (digests.ok() &&
            digests->at(0) == Expected(algorithm, ByteSpan(bytes).subspan(range.offset_bytes,
                                                                          range.size_bytes))) {
          ++right[caller];
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(right, std::vector<size_t>(6, 20));
}

}  // namespace
}  // namespace pavise::hash
