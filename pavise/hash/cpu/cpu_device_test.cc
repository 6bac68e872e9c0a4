#include "pavise/hash/cpu/cpu_device.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/crypto/digest.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash {
namespace {

constexpr Algorithm kAll[] = {Algorithm::kSha256, Algorithm::kSha384, Algorithm::kBlake2b,
                              Algorithm::kBlake3};
constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();

Bytes Repeating(size_t size_bytes) {
  Bytes bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<uint8_t>(i % 251);
  return bytes;
}

// One range, one thread, no device.
Bytes Expected(Algorithm algorithm, ByteSpan bytes) {
  const auto serial = [&](crypto::DigestAlgorithm name) { return *crypto::Digest(name, bytes); };
  switch (algorithm) {
    case Algorithm::kSha256:
      return serial(crypto::DigestAlgorithm::kSha256);
    case Algorithm::kSha384:
      return serial(crypto::DigestAlgorithm::kSha384);
    case Algorithm::kBlake2b:
      return serial(crypto::DigestAlgorithm::kBlake2b512);
    case Algorithm::kBlake3: {
      const Digest32 digest = reference::Blake3(bytes);
      return Bytes(digest.begin(), digest.end());
    }
  }
  return {};
}

struct Fixture {
  explicit Fixture(unsigned threads = 0) : device(NewCpuDevice(threads)) {
    stream = device->NewStream().value();
  }
  std::unique_ptr<Device> device;
  std::unique_ptr<Stream> stream;
};

// Queues, waits, cuts `out` apart.
absl::StatusOr<std::vector<Bytes>> DigestRanges(Fixture& fixture, Algorithm algorithm,
                                                const Buffer& buffer,
                                                const std::vector<Range>& ranges) {
  const size_t size_bytes = DigestSizeBytes(algorithm);
  Bytes out(ranges.size() * size_bytes);
  PAVISE_RETURN_IF_ERROR(fixture.device->Digest(algorithm, buffer, ranges, *fixture.stream, out));
  PAVISE_RETURN_IF_ERROR(fixture.stream->Wait());
  std::vector<Bytes> digests;
  for (size_t i = 0; i < ranges.size(); ++i) {
    digests.emplace_back(out.begin() + static_cast<ptrdiff_t>(i * size_bytes),
                         out.begin() + static_cast<ptrdiff_t>((i + 1) * size_bytes));
  }
  return digests;
}

TEST(CpuDeviceTest, SaysWhatItIs) {
  const auto device = NewCpuDevice(3);
  EXPECT_EQ(device->name(), "cpu");
  EXPECT_EQ(device->description(),
            absl::StrCat("CPU, ", std::string(Blake3Target()), ", 3 threads"));
  EXPECT_EQ(NewCpuDevice(1)->description(),
            absl::StrCat("CPU, ", std::string(Blake3Target()), ", 1 thread"));
  EXPECT_GE(UsableCpus(), 1u);
  EXPECT_TRUE(
      absl::StrContains(NewCpuDevice()->description(), absl::StrCat(" ", UsableCpus(), " thread")));
  for (Algorithm algorithm : kAll) EXPECT_TRUE(device->supports(algorithm));
  EXPECT_FALSE(device->supports(static_cast<Algorithm>(4)));
  EXPECT_FALSE(device->supports(static_cast<Algorithm>(-1)));
}

TEST(CpuDeviceTest, EveryAlgorithmAtEveryBoundary) {
  constexpr size_t kMiB = kSubtreeBytes;
  // Of blocks (64, 128), padding (55, 56, 111, 112), chunks, subtrees and their batches.
  const std::vector<size_t> lengths = {0,           1,
                                       55,          56,
                                       63,          64,
                                       65,          111,
                                       112,         127,
                                       128,         129,
                                       1023,        1024,
                                       1025,        16 * 1024 - 1,
                                       16 * 1024,   16 * 1024 + 1,
                                       kMiB - 1,    kMiB,
                                       kMiB + 1,    2 * kMiB - 1,
                                       2 * kMiB,    2 * kMiB + 1,
                                       3 * kMiB + 5};
  const Bytes all = Repeating(3 * kMiB + 5 + 7);
  size_t executed = 0;
  for (unsigned threads : {1u, 2u, 5u}) {
    Fixture fixture(threads);
    const auto buffer = WrapHostMemory(*fixture.device, all);
    for (Algorithm algorithm : kAll) {
      for (size_t length : lengths) {
        const auto digests = DigestRanges(fixture, algorithm, *buffer, {{7, length}});
        ASSERT_TRUE(digests.ok()) << digests.status();
        ASSERT_EQ(digests->at(0), Expected(algorithm, ByteSpan(all).subspan(7, length)))
            << AlgorithmName(algorithm) << " of " << length << " bytes on " << threads;
        ++executed;
      }
    }
  }
  EXPECT_EQ(executed, 3u * 4 * 25);
}

TEST(CpuDeviceTest, BatchesOfOverlappingRangesKeepTheirOrder) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  const Bytes all = Repeating(4 * kSubtreeBytes + 99);
  for (unsigned threads : {1u, 2u, 5u}) {
    Fixture fixture(threads);
    const auto buffer = WrapHostMemory(*fixture.device, all);
    for (size_t count : {0u, 1u, 2u, 4u, 5u, 6u, 300u}) {
      std::vector<Range> ranges;
      for (size_t i = 0; i < count; ++i) {
        // Many short ones, some of several subtrees, some empty.
        const uint64_t longest = i % 50 == 0 ? all.size() : 3000;
        const uint64_t size = std::uniform_int_distribution<uint64_t>(0, longest)(random);
        ranges.push_back(
            {std::uniform_int_distribution<uint64_t>(0, all.size() - size)(random), size});
      }
      if (count > 2) ranges[1] = ranges[0];
      for (Algorithm algorithm : kAll) {
        const auto digests = DigestRanges(fixture, algorithm, *buffer, ranges);
        ASSERT_TRUE(digests.ok()) << digests.status();
        ASSERT_EQ(digests->size(), count);
        for (size_t i = 0; i < count; ++i) {
          ASSERT_EQ(digests->at(i),
                    Expected(algorithm,
                             ByteSpan(all).subspan(ranges[i].offset_bytes, ranges[i].size_bytes)))
              << AlgorithmName(algorithm) << " range " << i << " of " << count;
        }
      }
    }
  }
}

TEST(CpuDeviceTest, SubtreesAreThoseOfTheWhole) {
  const Bytes all = Repeating(5 * kSubtreeBytes + 1);
  for (unsigned threads : {1u, 2u, 5u}) {
    Fixture fixture(threads);
    const auto buffer = WrapHostMemory(*fixture.device, all);
    std::vector<SubtreeRange> ranges;
    for (size_t offset = 0; offset < all.size(); offset += kSubtreeBytes) {
      ranges.push_back(
          {{offset, std::min(kSubtreeBytes, all.size() - offset)}, offset / kBlake3ChunkBytes});
    }
    std::vector<ChainingValue> values(ranges.size());
    ASSERT_TRUE(fixture.device->Blake3Subtrees(*buffer, ranges, *fixture.stream, values).ok());
    ASSERT_TRUE(fixture.stream->Wait().ok());
    for (size_t i = 0; i < ranges.size(); ++i) {
      EXPECT_EQ(values[i],
                reference::Blake3Subtree(
                    ByteSpan(all).subspan(ranges[i].range.offset_bytes, ranges[i].range.size_bytes),
                    ranges[i].first_chunk));
    }
    EXPECT_EQ(Blake3RootFromSubtrees(values), reference::Blake3(all));
    // In another order they are another input.
    std::swap(values[1], values[3]);
    EXPECT_NE(Blake3RootFromSubtrees(values), reference::Blake3(all));
  }
}

TEST(CpuDeviceTest, SmallSubtreesAtAnyPlaceOfAnInput) {
  Fixture fixture(2);
  const Bytes all = Repeating(64 * 1024);
  const auto buffer = WrapHostMemory(*fixture.device, all);
  const std::vector<SubtreeRange> ranges = {{{0, 1}, 0},
                                            {{5, 1024}, 77},
                                            {{1, 2048}, 2},
                                            {{0, 1025}, 4},
                                            {{0, 3000}, 1u << 30},
                                            {{0, 64 * 1024}, 64},
                                            {{0, 33 * 1024}, (uint64_t{1} << 53)}};
  std::vector<ChainingValue> values(ranges.size());
  ASSERT_TRUE(fixture.device->Blake3Subtrees(*buffer, ranges, *fixture.stream, values).ok());
  ASSERT_TRUE(fixture.stream->Wait().ok());
  for (size_t i = 0; i < ranges.size(); ++i) {
    EXPECT_EQ(values[i],
              reference::Blake3Subtree(
                  ByteSpan(all).subspan(ranges[i].range.offset_bytes, ranges[i].range.size_bytes),
                  ranges[i].first_chunk))
        << i;
  }
}

TEST(CpuDeviceTest, UploadedBytesAreACopy) {
  Fixture fixture(2);
  Bytes host = Repeating(5000);
  const Bytes expected = Expected(Algorithm::kSha256, host);
  const auto uploaded = fixture.device->Upload(host);
  ASSERT_TRUE(uploaded.ok()) << uploaded.status();
  EXPECT_EQ((*uploaded)->size_bytes(), 5000u);
  EXPECT_EQ(&(*uploaded)->device(), fixture.device.get());
  const auto borrowed = WrapHostMemory(*fixture.device, host);
  host[17] ^= 1;
  EXPECT_EQ(DigestRanges(fixture, Algorithm::kSha256, **uploaded, {{0, 5000}})->at(0), expected);
  EXPECT_NE(DigestRanges(fixture, Algorithm::kSha256, *borrowed, {{0, 5000}})->at(0), expected);

  const auto empty = fixture.device->Upload({});
  ASSERT_TRUE(empty.ok()) << empty.status();
  for (Algorithm algorithm : kAll) {
    EXPECT_EQ(DigestRanges(fixture, algorithm, **empty, {{0, 0}})->at(0), Expected(algorithm, {}));
  }
}

TEST(CpuDeviceTest, AFlippedBitAnywhereChangesTheDigest) {
  Fixture fixture(2);
  Bytes bytes = Repeating(2 * kSubtreeBytes + 3);
  const auto buffer = WrapHostMemory(*fixture.device, bytes);
  for (Algorithm algorithm : kAll) {
    std::set<std::string> digests;
    const auto is_new = [&](uint64_t size_bytes) {
      return digests
          .insert(ToHex(DigestRanges(fixture, algorithm, *buffer, {{0, size_bytes}})->at(0)))
          .second;
    };
    EXPECT_TRUE(is_new(bytes.size()));
    EXPECT_TRUE(is_new(bytes.size() - 1));
    for (size_t at : {size_t{0}, size_t{1023}, size_t{1024}, kSubtreeBytes - 1, kSubtreeBytes,
                      bytes.size() - 1}) {
      bytes[at] ^= 0x10;
      EXPECT_TRUE(is_new(bytes.size())) << AlgorithmName(algorithm) << " at " << at;
      bytes[at] ^= 0x10;
    }
  }
}

// ---- What is refused ----

TEST(CpuDeviceTest, RefusesRangesOutsideTheBufferAndQueuesNothing) {
  Fixture fixture(2);
  const Bytes bytes = Repeating(100);
  const auto buffer = WrapHostMemory(*fixture.device, bytes);
  const std::vector<Range> bad = {{0, 101},         {1, 100},        {100, 1},   {101, 0},
                                  {kHuge, 0},       {kHuge, 1},      {1, kHuge}, {kHuge, kHuge},
                                  {50, kHuge - 49}, {kHuge - 10, 20}};
  size_t executed = 0;
  for (const Range& range : bad) {
    for (Algorithm algorithm : kAll) {
      Bytes out(2 * DigestSizeBytes(algorithm), 0xEE);
      const std::vector<Range> ranges = {{0, 10}, range};
      EXPECT_EQ(fixture.device->Digest(algorithm, *buffer, ranges, *fixture.stream, out).code(),
                absl::StatusCode::kInvalidArgument)
          << range.offset_bytes << " + " << range.size_bytes;
      EXPECT_TRUE(fixture.stream->Wait().ok());
      EXPECT_EQ(out, Bytes(out.size(), 0xEE));
      ++executed;
    }
    std::vector<ChainingValue> values(1);
    const std::vector<SubtreeRange> subtrees = {{range, 0}};
    EXPECT_EQ(fixture.device->Blake3Subtrees(*buffer, subtrees, *fixture.stream, values).code(),
              absl::StatusCode::kInvalidArgument);
    ++executed;
  }
  EXPECT_EQ(executed, 10u * 5);
  // At the very end is inside.
  EXPECT_TRUE(DigestRanges(fixture, Algorithm::kBlake3, *buffer, {{100, 0}, {99, 1}}).ok());
}

TEST(CpuDeviceTest, RefusesTheWrongSizeOfOut) {
  Fixture fixture(1);
  const Bytes bytes = Repeating(100);
  const auto buffer = WrapHostMemory(*fixture.device, bytes);
  const std::vector<Range> ranges = {{0, 10}, {0, 20}};
  for (Algorithm algorithm : kAll) {
    const size_t right = 2 * DigestSizeBytes(algorithm);
    for (size_t wrong : {size_t{0}, right / 2, right - 1, right + 1, right * 2}) {
      Bytes out(wrong);
      EXPECT_EQ(fixture.device->Digest(algorithm, *buffer, ranges, *fixture.stream, out).code(),
                absl::StatusCode::kInvalidArgument)
          << AlgorithmName(algorithm) << " " << wrong;
    }
  }
  const std::vector<SubtreeRange> subtrees = {{{0, 10}, 0}, {{0, 20}, 1}};
  for (size_t wrong : {0, 1, 3}) {
    std::vector<ChainingValue> values(wrong);
    EXPECT_EQ(fixture.device->Blake3Subtrees(*buffer, subtrees, *fixture.stream, values).code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(CpuDeviceTest, RefusesWhatItDoesNotSupport) {
  Fixture fixture(1);
  const Bytes bytes = Repeating(100);
  const auto buffer = WrapHostMemory(*fixture.device, bytes);
  const std::vector<Range> ranges = {{0, 10}};
  Bytes out(32);
  const absl::Status status =
      fixture.device->Digest(static_cast<Algorithm>(9), *buffer, ranges, *fixture.stream, out);
  EXPECT_EQ(ReasonOf(status), Reason::kUnsupported) << status;
}

TEST(CpuDeviceTest, RefusesRangesThatAreNoSubtree) {
  Fixture fixture(1);
  const Bytes bytes = Repeating(2 * kSubtreeBytes);
  const auto buffer = WrapHostMemory(*fixture.device, bytes);
  const std::vector<SubtreeRange> bad = {
      {{0, 0}, 0},                     // empty
      {{0, kSubtreeBytes + 1}, 0},     // larger than the largest
      {{0, 2048}, 1},                  // two chunks begin at an even one
      {{0, 1025}, 3},                  // so do two of which the last is short
      {{0, kSubtreeBytes}, 512},       //
      {{0, 3 * 1024}, 2},              // three are the tail of four
      {{0, 1024}, uint64_t{1} << 54},  // beyond 2^64 bytes
      {{0, 1024}, kHuge},
  };
  for (const SubtreeRange& subtree : bad) {
    std::vector<ChainingValue> values(1);
    EXPECT_EQ(
        fixture.device
            ->Blake3Subtrees(*buffer, std::vector<SubtreeRange>{subtree}, *fixture.stream, values)
            .code(),
        absl::StatusCode::kInvalidArgument)
        << subtree.range.size_bytes << " at chunk " << subtree.first_chunk;
  }
}

TEST(CpuDeviceTest, RefusesBuffersAndStreamsOfAnotherDevice) {
  Fixture mine(1);
  Fixture other(1);
  const Bytes bytes = Repeating(100);
  const auto my_buffer = WrapHostMemory(*mine.device, bytes);
  const auto other_buffer = WrapHostMemory(*other.device, bytes);
  const std::vector<Range> ranges = {{0, 10}};
  Bytes out(32);
  EXPECT_EQ(
      mine.device->Digest(Algorithm::kBlake3, *other_buffer, ranges, *mine.stream, out).code(),
      absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(mine.device->Digest(Algorithm::kBlake3, *my_buffer, ranges, *other.stream, out).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(mine.device->Digest(Algorithm::kBlake3, *my_buffer, ranges, *mine.stream, out).ok());
  EXPECT_TRUE(mine.stream->Wait().ok());
}

// ---- Streams ----

TEST(CpuDeviceTest, AStreamRunsItsOperationsInOrder) {
  Fixture fixture(5);
  // The second operation reads what the first writes.
  Bytes memory = Repeating(3 * kSubtreeBytes + 32);
  const size_t input_bytes = 3 * kSubtreeBytes;
  const Bytes first = Expected(Algorithm::kBlake3, ByteSpan(memory).first(input_bytes));
  const Bytes second = Expected(Algorithm::kSha256, first);
  const auto buffer = WrapHostMemory(*fixture.device, memory);
  Bytes out(32);
  ASSERT_TRUE(fixture.device
                  ->Digest(Algorithm::kBlake3, *buffer, std::vector<Range>{{0, input_bytes}},
                           *fixture.stream, std::span(memory).subspan(input_bytes))
                  .ok());
  ASSERT_TRUE(fixture.device
                  ->Digest(Algorithm::kSha256, *buffer, std::vector<Range>{{input_bytes, 32}},
                           *fixture.stream, out)
                  .ok());
  ASSERT_TRUE(fixture.stream->Wait().ok());
  EXPECT_EQ(out, second);
}

TEST(CpuDeviceTest, ADestroyedStreamHasFinished) {
  const Bytes bytes = Repeating(2 * kSubtreeBytes);
  Bytes out(32);
  auto device = NewCpuDevice(3);
  const auto buffer = WrapHostMemory(*device, bytes);
  {
    const auto stream = device->NewStream().value();
    ASSERT_TRUE(device
                    ->Digest(Algorithm::kBlake3, *buffer, std::vector<Range>{{0, bytes.size()}},
                             *stream, out)
                    .ok());
  }
  EXPECT_EQ(out, Expected(Algorithm::kBlake3, bytes));
}

TEST(CpuDeviceTest, ManyThreadsMayUseOneDeviceEachWithItsStream) {
  const auto device = NewCpuDevice(2);
  const Bytes bytes = Repeating(kSubtreeBytes + 4000);
  std::vector<std::thread> callers;
  std::vector<size_t> right(6, 0);
  for (size_t caller = 0; caller < right.size(); ++caller) {
    callers.emplace_back([&, caller] {
      const auto stream = device->NewStream().value();
      const auto buffer = WrapHostMemory(*device, bytes);
      for (size_t round = 0; round < 20; ++round) {
        const Algorithm algorithm = kAll[(caller + round) % 4];
        const Range range = {caller * 10 + round, round % 3 == 0 ? bytes.size() - 200 : 700};
        Bytes out(DigestSizeBytes(algorithm));
        if (device->Digest(algorithm, *buffer, std::vector<Range>{range}, *stream, out).ok() &&
            stream->Wait().ok() &&
            out == Expected(algorithm,
                            ByteSpan(bytes).subspan(range.offset_bytes, range.size_bytes))) {
          ++right[caller];
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_THAT(right, testing::Each(20u));
}

TEST(CpuDeviceTest, WaitingOnAnIdleStreamReturnsAtOnce) {
  Fixture fixture(1);
  EXPECT_TRUE(fixture.stream->Wait().ok());
  EXPECT_TRUE(fixture.stream->Wait().ok());
  const auto buffer = WrapHostMemory(*fixture.device, {});
  EXPECT_TRUE(fixture.device->Digest(Algorithm::kBlake3, *buffer, {}, *fixture.stream, {}).ok());
  EXPECT_TRUE(fixture.device->Blake3Subtrees(*buffer, {}, *fixture.stream, {}).ok());
  EXPECT_TRUE(fixture.stream->Wait().ok());
}

}  // namespace
}  // namespace pavise::hash
