#include "pavise/hash/opencl/opencl_device.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/digest.h"
#include "pavise/hash/arithmetic/tag.h"
#include "pavise/hash/device_pass.h"
#include "pavise/hash/devices.h"
#include "pavise/hash/opencl/internal/opencl_library.h"
#include "pavise/hash/opencl/internal/tag_paths.h"
#include "pavise/hash/tag.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr Algorithm kSupported[] = {Algorithm::kSha256, Algorithm::kSha384, Algorithm::kBlake3};
constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();
constexpr size_t kMiB = kSubtreeBytes;

// Of blocks (64, 128), padding (55, 56, 111, 112), chunks, tiles and subtrees.
const std::vector<size_t> kLengths = {0,
                                      1,
                                      55,
                                      56,
                                      63,
                                      64,
                                      65,
                                      111,
                                      112,
                                      119,
                                      127,
                                      128,
                                      129,
                                      1023,
                                      1024,
                                      1025,
                                      2047,
                                      2048,
                                      2049,
                                      3 * 1024,
                                      64 * 1024 - 1,
                                      64 * 1024,
                                      64 * 1024 + 1,
                                      kMiB - 1,
                                      kMiB,
                                      kMiB + 1,
                                      3 * kMiB + 5,
                                      17 * kMiB + 123};

// Repeats every 251 bytes, so that swapped blocks show.
Bytes Repeating(size_t size_bytes) {
  Bytes bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<uint8_t>(i % 251);
  return bytes;
}

// By other code: OpenSSL, or the BLAKE3 written for reading.
Bytes Expected(Algorithm algorithm, ByteSpan bytes) {
  if (algorithm == Algorithm::kBlake3) {
    const Digest32 digest = reference::Blake3(bytes);
    return Bytes(digest.begin(), digest.end());
  }
  return *crypto::Digest(algorithm == Algorithm::kSha256 ? crypto::DigestAlgorithm::kSha256
                                                         : crypto::DigestAlgorithm::kSha384,
                         bytes);
}

class OpenClDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (ListOpenClDevices().empty()) {
      const auto device = NewOpenClDevice(0);
      EXPECT_EQ(ReasonOf(device.status()), Reason::kUnsupported) << device.status();
      GTEST_SKIP() << "no OpenCL device: " << device.status();
    }
    Open();
  }

  void Open(const OpenClOptions& options = {}) {
    stream_ = nullptr;
    buffer_ = nullptr;
    auto device = NewOpenClDevice(0, options);
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    auto stream = device_->NewStream();
    ASSERT_TRUE(stream.ok()) << stream.status();
    stream_ = *std::move(stream);
  }

  void Upload(ByteSpan bytes) {
    auto buffer = device_->Upload(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    buffer_ = *std::move(buffer);
  }

  // The digests, back to back.
  absl::StatusOr<Bytes> Digest(Algorithm algorithm, const std::vector<Range>& ranges) {
    Bytes out(ranges.size() * DigestSizeBytes(algorithm), 0xEE);
    PAVISE_RETURN_IF_ERROR(device_->Digest(algorithm, *buffer_, ranges, *stream_, out));
    PAVISE_RETURN_IF_ERROR(stream_->Wait());
    return out;
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Buffer> buffer_;
};

TEST_F(OpenClDeviceTest, SaysWhatItIs) {
  const OpenClDeviceInfo info = ListOpenClDevices()[0];
  EXPECT_EQ(device_->name(), "opencl:0");
  EXPECT_THAT(device_->description(), AllOf(HasSubstr(info.name), HasSubstr(info.platform)));
  EXPECT_GT(info.memory_bytes, 0u);
  for (Algorithm algorithm : kSupported) EXPECT_TRUE(device_->supports(algorithm));
  EXPECT_FALSE(device_->supports(Algorithm::kBlake2b));
  EXPECT_FALSE(device_->supports(static_cast<Algorithm>(9)));
  EXPECT_TRUE(device_->supports_tags());
  EXPECT_THAT(device_->description(), HasSubstr(", tags by "));
}

TEST_F(OpenClDeviceTest, EveryAlgorithmAtEveryBoundary) {
  const Bytes all = Repeating(17 * kMiB + 123 + 7);
  Upload(all);
  size_t executed = 0;
  for (Algorithm algorithm : kSupported) {
    for (size_t length : kLengths) {
      // Every alignment for the short ones.
      for (size_t offset = 0; offset < (length > 3 * kMiB + 5 ? 1 : 5); ++offset) {
        const size_t at = length > 3 * kMiB + 5 ? 7 : offset;
        const auto digest = Digest(algorithm, {{at, length}});
        ASSERT_TRUE(digest.ok()) << digest.status();
        ASSERT_EQ(*digest, Expected(algorithm, ByteSpan(all).subspan(at, length)))
            << AlgorithmName(algorithm) << " of " << length << " bytes at " << at;
        ++executed;
      }
    }
  }
  EXPECT_EQ(executed, 3u * (27 * 5 + 1));
}

// A device of another size takes other groups and slices; the answers must not depend on it.
TEST_F(OpenClDeviceTest, EveryGroupAndSliceSizeGivesTheSameDigests) {
  const Bytes all = Repeating(3 * kMiB + 5 + 3);
  std::vector<Range> ranges;
  for (size_t length : kLengths) {
    if (length <= 3 * kMiB + 5) ranges.push_back({3, length});
  }
  std::map<Algorithm, Bytes> expected;
  for (Algorithm algorithm : kSupported) {
    for (const Range& range : ranges) {
      const Bytes digest =
          Expected(algorithm, ByteSpan(all).subspan(range.offset_bytes, range.size_bytes));
      expected[algorithm].insert(expected[algorithm].end(), digest.begin(), digest.end());
    }
  }
  size_t executed = 0;
  for (const size_t group_chunks : {1u, 2u, 7u, 64u, 1024u}) {
    OpenClOptions options;
    options.group_chunks = group_chunks;
    options.serial_slice_bytes = 128 * group_chunks;
    options.subtrees_a_launch = group_chunks;
    Open(options);
    Upload(all);
    for (Algorithm algorithm : kSupported) {
      // A launch for each 128 bytes of 3 MiB would only test patience.
      if (algorithm != Algorithm::kBlake3 && group_chunks < 64) continue;
      const auto digests = Digest(algorithm, ranges);
      ASSERT_TRUE(digests.ok()) << digests.status();
      EXPECT_EQ(*digests, expected[algorithm]) << AlgorithmName(algorithm) << " " << group_chunks;
      ++executed;
    }
    if (group_chunks < 64) {
      // The short ones, and every border of a slice.
      for (Algorithm algorithm : {Algorithm::kSha256, Algorithm::kSha384}) {
        for (size_t length = 0; length <= 4 * 128 + 1; length += length % 64 == 1 ? 62 : 1) {
          const auto digest = Digest(algorithm, {{3, length}});
          ASSERT_TRUE(digest.ok()) << digest.status();
          ASSERT_EQ(*digest, Expected(algorithm, ByteSpan(all).subspan(3, length))) << length;
        }
        ++executed;
      }
    }
  }
  EXPECT_EQ(executed, 5u * 3);
}

TEST_F(OpenClDeviceTest, ManyRangesInOneBatchKeepTheirOrder) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(StrCat("seed ", seed));
  std::mt19937 random(seed);
  const Bytes all = Repeating(4 * kMiB + 99);
  Upload(all);
  for (size_t count : {0u, 1u, 2u, 5u, 1000u}) {
    std::vector<Range> ranges;
    for (size_t i = 0; i < count; ++i) {
      // Many short ones, some of several subtrees, some empty.
      const uint64_t longest = i % 200 == 0 ? all.size() : 3000;
      const uint64_t size = std::uniform_int_distribution<uint64_t>(0, longest)(random);
      ranges.push_back(
          {std::uniform_int_distribution<uint64_t>(0, all.size() - size)(random), size});
    }
    if (count > 2) ranges[1] = ranges[0];
    for (Algorithm algorithm : kSupported) {
      const auto digests = Digest(algorithm, ranges);
      ASSERT_TRUE(digests.ok()) << digests.status();
      const size_t digest_bytes = DigestSizeBytes(algorithm);
      ASSERT_EQ(digests->size(), count * digest_bytes);
      for (size_t i = 0; i < count; ++i) {
        const auto begin = digests->begin() + static_cast<ptrdiff_t>(i * digest_bytes);
        ASSERT_EQ(Bytes(begin, begin + static_cast<ptrdiff_t>(digest_bytes)),
                  Expected(algorithm,
                           ByteSpan(all).subspan(ranges[i].offset_bytes, ranges[i].size_bytes)))
            << AlgorithmName(algorithm) << " range " << i << " of " << count;
      }
    }
  }
}

TEST_F(OpenClDeviceTest, SmallRangesOnlyTakeSmallGroups) {
  const Bytes all = Repeating(1000 * 1500 + 3);
  Upload(all);
  std::vector<Range> ranges;
  for (size_t i = 0; i < 1000; ++i) ranges.push_back({i * 1500 + i % 4, i * 3 / 2});
  for (Algorithm algorithm : kSupported) {
    const auto digests = Digest(algorithm, ranges);
    ASSERT_TRUE(digests.ok()) << digests.status();
    Bytes expected;
    for (const Range& range : ranges) {
      const Bytes digest =
          Expected(algorithm, ByteSpan(all).subspan(range.offset_bytes, range.size_bytes));
      expected.insert(expected.end(), digest.begin(), digest.end());
    }
    EXPECT_EQ(*digests, expected) << AlgorithmName(algorithm);
  }
}

TEST_F(OpenClDeviceTest, SubtreesAreThoseOfTheWhole) {
  const Bytes all = Repeating(5 * kMiB + 1);
  Upload(all);
  std::vector<SubtreeRange> ranges;
  for (size_t offset = 0; offset < all.size(); offset += kMiB) {
    ranges.push_back({{offset, std::min(kMiB, all.size() - offset)}, offset / kBlake3ChunkBytes});
  }
  std::vector<ChainingValue> values(ranges.size());
  ASSERT_TRUE(device_->Blake3Subtrees(*buffer_, ranges, *stream_, values).ok());
  ASSERT_TRUE(stream_->Wait().ok());
  EXPECT_EQ(Blake3RootFromSubtrees(values), reference::Blake3(all));
  // In another order they are another input.
  std::swap(values[1], values[3]);
  EXPECT_NE(Blake3RootFromSubtrees(values), reference::Blake3(all));
}

TEST_F(OpenClDeviceTest, SubtreesAtAnyPlaceOfAnInput) {
  const Bytes all = Repeating(kMiB + 5);
  Upload(all);
  const std::vector<SubtreeRange> ranges = {{{0, 1}, 0},
                                            {{5, 1024}, 77},
                                            {{1, 2048}, 2},
                                            {{0, 1025}, 4},
                                            {{0, 3000}, uint64_t{1} << 30},
                                            {{0, 64 * 1024}, 64},
                                            {{2, 1000}, (uint64_t{1} << 32) + 3},
                                            {{3, kMiB}, (uint64_t{1} << 32) + 1024},
                                            {{0, 33 * 1024}, uint64_t{1} << 53},
                                            {{1, kMiB - 1}, (uint64_t{1} << 54) - 1024}};
  std::vector<ChainingValue> values(ranges.size());
  ASSERT_TRUE(device_->Blake3Subtrees(*buffer_, ranges, *stream_, values).ok());
  ASSERT_TRUE(stream_->Wait().ok());
  for (size_t i = 0; i < ranges.size(); ++i) {
    EXPECT_EQ(values[i],
              reference::Blake3Subtree(
                  ByteSpan(all).subspan(ranges[i].range.offset_bytes, ranges[i].range.size_bytes),
                  ranges[i].first_chunk))
        << i;
  }
}

TEST_F(OpenClDeviceTest, AFlippedBitAnywhereChangesTheDigest) {
  Bytes bytes = Repeating(2 * kMiB + 3);
  Upload(bytes);
  std::map<Algorithm, Bytes> right;
  for (Algorithm algorithm : kSupported) right[algorithm] = *Digest(algorithm, {{0, bytes.size()}});
  for (size_t at : {size_t{0}, size_t{1023}, size_t{1024}, kMiB - 1, kMiB, bytes.size() - 1}) {
    bytes[at] ^= 0x10;
    Upload(bytes);
    for (Algorithm algorithm : kSupported) {
      EXPECT_NE(*Digest(algorithm, {{0, bytes.size()}}), right[algorithm])
          << AlgorithmName(algorithm) << " at " << at;
    }
    bytes[at] ^= 0x10;
  }
}

TEST_F(OpenClDeviceTest, UploadedBytesAreACopyAndMayBeNone) {
  Bytes host = Repeating(5000);
  const Bytes expected = Expected(Algorithm::kSha256, host);
  Upload(host);
  EXPECT_EQ(buffer_->size_bytes(), 5000u);
  EXPECT_EQ(&buffer_->device(), device_.get());
  host[17] ^= 1;
  EXPECT_EQ(*Digest(Algorithm::kSha256, {{0, 5000}}), expected);
  Upload({});
  for (Algorithm algorithm : kSupported) {
    EXPECT_EQ(*Digest(algorithm, {{0, 0}}), Expected(algorithm, {}));
  }
}

TEST_F(OpenClDeviceTest, ResultsComeWithWaitOrWhenTheStreamGoes) {
  const Bytes all = Repeating(2 * kMiB);
  Upload(all);
  Bytes first(32);
  Bytes second(48);
  {
    // The caller's table may go at once.
    std::vector<Range> ranges = {{0, all.size()}};
    ASSERT_TRUE(device_->Digest(Algorithm::kBlake3, *buffer_, ranges, *stream_, first).ok());
    ranges = {{1, 77}};
    ASSERT_TRUE(device_->Digest(Algorithm::kSha384, *buffer_, ranges, *stream_, second).ok());
  }
  stream_ = nullptr;
  EXPECT_EQ(first, Expected(Algorithm::kBlake3, all));
  EXPECT_EQ(second, Expected(Algorithm::kSha384, ByteSpan(all).subspan(1, 77)));
}

TEST_F(OpenClDeviceTest, WaitingOnAnIdleStreamReturnsAtOnce) {
  EXPECT_TRUE(stream_->Wait().ok());
  Upload({});
  EXPECT_TRUE(device_->Digest(Algorithm::kBlake3, *buffer_, {}, *stream_, {}).ok());
  EXPECT_TRUE(device_->Blake3Subtrees(*buffer_, {}, *stream_, {}).ok());
  EXPECT_TRUE(stream_->Wait().ok());
}

TEST_F(OpenClDeviceTest, ManyThreadsMayUseOneDeviceEachWithItsStream) {
  const Bytes bytes = Repeating(kMiB + 4000);
  std::vector<std::thread> callers;
  std::vector<size_t> right(4, 0);
  for (size_t caller = 0; caller < right.size(); ++caller) {
    callers.emplace_back([&, caller] {
      const auto stream = device_->NewStream().value();
      const auto buffer = device_->Upload(bytes).value();
      for (size_t round = 0; round < 12; ++round) {
        const Algorithm algorithm = kSupported[(caller + round) % 3];
        const Range range = {caller * 10 + round, round % 4 == 0 ? bytes.size() - 200 : 700};
        Bytes out(DigestSizeBytes(algorithm));
        if (device_->Digest(algorithm, *buffer, std::vector<Range>{range}, *stream, out).ok() &&
            stream->Wait().ok() &&
            out == Expected(algorithm,
                            ByteSpan(bytes).subspan(range.offset_bytes, range.size_bytes))) {
          ++right[caller];
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_THAT(right, ::testing::Each(12u));
}

// ---- What is refused ----

TEST_F(OpenClDeviceTest, RefusesRangesOutsideTheBufferAndQueuesNothing) {
  Upload(Repeating(100));
  const std::vector<Range> bad = {{0, 101},         {1, 100},        {100, 1},   {101, 0},
                                  {kHuge, 0},       {kHuge, 1},      {1, kHuge}, {kHuge, kHuge},
                                  {50, kHuge - 49}, {kHuge - 10, 20}};
  size_t executed = 0;
  for (const Range& range : bad) {
    for (Algorithm algorithm : kSupported) {
      Bytes out(2 * DigestSizeBytes(algorithm), 0xEE);
      const std::vector<Range> ranges = {{0, 10}, range};
      EXPECT_EQ(device_->Digest(algorithm, *buffer_, ranges, *stream_, out).code(),
                absl::StatusCode::kInvalidArgument)
          << range.offset_bytes << " + " << range.size_bytes;
      EXPECT_TRUE(stream_->Wait().ok());
      EXPECT_EQ(out, Bytes(out.size(), 0xEE));
      ++executed;
    }
    std::vector<ChainingValue> values(1);
    const std::vector<SubtreeRange> subtrees = {{range, 0}};
    EXPECT_EQ(device_->Blake3Subtrees(*buffer_, subtrees, *stream_, values).code(),
              absl::StatusCode::kInvalidArgument);
    ++executed;
  }
  EXPECT_EQ(executed, 10u * 4);
  // At the very end is inside.
  EXPECT_TRUE(Digest(Algorithm::kBlake3, {{100, 0}, {99, 1}}).ok());
}

TEST_F(OpenClDeviceTest, RefusesTheWrongSizeOfOut) {
  Upload(Repeating(100));
  const std::vector<Range> ranges = {{0, 10}, {0, 20}};
  for (Algorithm algorithm : kSupported) {
    const size_t right = 2 * DigestSizeBytes(algorithm);
    for (size_t wrong : {size_t{0}, right / 2, right - 1, right + 1, right * 2}) {
      Bytes out(wrong);
      EXPECT_EQ(device_->Digest(algorithm, *buffer_, ranges, *stream_, out).code(),
                absl::StatusCode::kInvalidArgument);
    }
  }
  const std::vector<SubtreeRange> subtrees = {{{0, 10}, 0}, {{0, 20}, 1}};
  for (size_t wrong : {0, 1, 3}) {
    std::vector<ChainingValue> values(wrong);
    EXPECT_EQ(device_->Blake3Subtrees(*buffer_, subtrees, *stream_, values).code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(OpenClDeviceTest, RefusesWhatItDoesNotCompute) {
  Upload(Repeating(100));
  const std::vector<Range> ranges = {{0, 10}};
  for (Algorithm algorithm : {Algorithm::kBlake2b, static_cast<Algorithm>(9)}) {
    Bytes out(64);
    const absl::Status status = device_->Digest(algorithm, *buffer_, ranges, *stream_, out);
    EXPECT_EQ(ReasonOf(status), Reason::kUnsupported) << status;
  }
}

TEST_F(OpenClDeviceTest, RefusesRangesThatAreNoSubtree) {
  Upload(Repeating(2 * kMiB));
  const std::vector<SubtreeRange> bad = {
      {{0, 0}, 0},                     // empty
      {{0, kMiB + 1}, 0},              // larger than the largest
      {{0, 2048}, 1},                  // two chunks begin at an even one
      {{0, 1025}, 3},                  // so do two of which the last is short
      {{0, kMiB}, 512},                //
      {{0, 3 * 1024}, 2},              // three are the tail of four
      {{0, 1024}, uint64_t{1} << 54},  // beyond 2^64 bytes
      {{0, 1024}, kHuge},
  };
  size_t executed = 0;
  for (const SubtreeRange& subtree : bad) {
    std::vector<ChainingValue> values(1);
    EXPECT_EQ(
        device_->Blake3Subtrees(*buffer_, std::vector<SubtreeRange>{subtree}, *stream_, values)
            .code(),
        absl::StatusCode::kInvalidArgument)
        << subtree.range.size_bytes << " at chunk " << subtree.first_chunk;
    ++executed;
  }
  EXPECT_EQ(executed, 8u);
}

TEST_F(OpenClDeviceTest, RefusesBuffersAndStreamsOfAnotherDevice) {
  Upload(Repeating(100));
  const auto cpu = OpenDevice("cpu").value();
  const auto cpu_buffer = cpu->Upload(Repeating(100)).value();
  const auto cpu_stream = cpu->NewStream().value();
  // The same hardware, opened twice, is two devices.
  const auto twin = NewOpenClDevice(0).value();
  const auto twin_buffer = twin->Upload(Repeating(100)).value();
  const auto twin_stream = twin->NewStream().value();
  const std::vector<Range> ranges = {{0, 10}};
  const std::vector<SubtreeRange> subtrees = {{{0, 10}, 0}};
  Bytes out(32);
  std::vector<ChainingValue> values(1);
  const auto expect_refused = [&](const Buffer& buffer, Stream& stream) {
    EXPECT_EQ(device_->Digest(Algorithm::kBlake3, buffer, ranges, stream, out).code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(device_->Blake3Subtrees(buffer, subtrees, stream, values).code(),
              absl::StatusCode::kInvalidArgument);
  };
  expect_refused(*cpu_buffer, *stream_);
  expect_refused(*twin_buffer, *stream_);
  expect_refused(*buffer_, *cpu_stream);
  expect_refused(*buffer_, *twin_stream);
  EXPECT_TRUE(device_->Digest(Algorithm::kBlake3, *buffer_, ranges, *stream_, out).ok());
  EXPECT_TRUE(stream_->Wait().ok());
}

TEST_F(OpenClDeviceTest, RefusesDevicesThatAreNotThere) {
  const size_t devices = ListOpenClDevices().size();
  const auto device = NewOpenClDevice(static_cast<unsigned>(devices));
  EXPECT_EQ(ReasonOf(device.status()), Reason::kUnsupported) << device.status();
  EXPECT_THAT(std::string(device.status().message()), HasSubstr(StrCat("opencl:", devices)));
}

TEST_F(OpenClDeviceTest, RefusesImpossibleLimits) {
  const std::vector<OpenClOptions> bad = {{.group_chunks = 0},
                                          {.serial_slice_bytes = 0},
                                          {.serial_slice_bytes = 100},
                                          {.subtrees_a_launch = 0}};
  for (const OpenClOptions& options : bad) {
    EXPECT_EQ(NewOpenClDevice(0, options).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(OpenClLibraryTest, AMachineWithoutALoaderRefusesAndSaysWhatToInstall) {
  const auto library = opencl::OpenLibrary("libpavise-has-no-such-loader.so.1");
  ASSERT_EQ(ReasonOf(library.status()), Reason::kUnsupported) << library.status();
  EXPECT_THAT(RefusalsOf(library.status())[0].remedy, HasSubstr("ocl-icd-libopencl1"));
}

TEST(OpenClLibraryTest, ALoaderWithoutTheFunctionsIsAMachineFailure) {
  const auto library = opencl::OpenLibrary("libc.so.6");
  EXPECT_EQ(library.status().code(), absl::StatusCode::kInternal) << library.status();
}

// ---- Tags ----

using ::testing::Not;

constexpr std::array<uint8_t, 32> kSecret = {7};

// Tags of 3 MiB + 5, the second range on, under two keys.
class OpenClTags {
 public:
  static constexpr size_t kSize = 3 * kMiB + 5;

  absl::Status Run(Device& device) {
    PAVISE_ASSIGN_OR_RETURN(const auto buffer, device.Upload(bytes_));
    PAVISE_ASSIGN_OR_RETURN(const auto stream, device.NewStream());
    const std::array<const TagKey*, 2> keys = {&first_, &second_};
    out_.assign(6, kUntouched);
    PAVISE_RETURN_IF_ERROR(device.Tag(keys, *buffer, {kMiB, kSize - kMiB}, 1, *stream, out_));
    return stream->Wait();
  }

  void ExpectRight() const {
    std::vector<RangeTag> expected;
    for (const TagKey* key : {&first_, &second_}) {
      const auto tags = reference::TagRanges(*key, ByteSpan(bytes_).subspan(kMiB), 1);
      expected.insert(expected.end(), tags.begin(), tags.end());
    }
    EXPECT_EQ(out_, expected);
  }
  void ExpectUntouched() const { EXPECT_THAT(out_, ::testing::Each(kUntouched)); }

 private:
  static constexpr RangeTag kUntouched = {0xEE, 0xEE};
  const Bytes bytes_ = Repeating(kSize);
  const TagKey first_ = TagKey::Derive(kSecret, 1, kSize);
  const TagKey second_ = TagKey::Derive(kSecret, 2, kSize);
  std::vector<RangeTag> out_;
};

TEST_F(OpenClDeviceTest, EveryLaunchSizeGivesTheSameTags) {
  OpenClTags tags;
  for (const size_t ranges_a_launch : {1u, 2u, 3u, 1024u}) {
    Open({.subtrees_a_launch = ranges_a_launch});
    const absl::Status status = tags.Run(*device_);
    ASSERT_TRUE(status.ok()) << status;
    tags.ExpectRight();
  }
}

TEST_F(OpenClDeviceTest, RefusesTagsThatMakeNoSenseAndQueuesNothing) {
  Upload(Repeating(kMiB + 9));
  const TagKey key = TagKey::Derive(kSecret, 1, kMiB + 5);
  const std::array<const TagKey*, 1> keys = {&key};
  std::vector<RangeTag> out(2);
  const auto tag = [&](std::span<const TagKey* const> with, Range range, uint64_t first_range) {
    return device_->Tag(with, *buffer_, range, first_range, *stream_, out).code();
  };
  EXPECT_EQ(tag({}, {0, kMiB + 5}, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tag(keys, {5, kMiB + 5}, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tag(keys, {kHuge, kMiB + 5}, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tag(keys, {0, kMiB + 6}, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tag(keys, {0, kMiB + 5}, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tag(keys, {0, kMiB}, 0), absl::StatusCode::kInvalidArgument);  // one range
  const auto twin = NewOpenClDevice(0).value();
  const auto twin_buffer = twin->Upload(Repeating(kMiB + 9)).value();
  const auto twin_stream = twin->NewStream().value();
  EXPECT_EQ(device_->Tag(keys, *twin_buffer, {0, kMiB + 5}, 0, *stream_, out).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(device_->Tag(keys, *buffer_, {0, kMiB + 5}, 0, *twin_stream, out).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tag(keys, {4, kMiB + 5}, 0), absl::StatusCode::kOk);
  EXPECT_TRUE(stream_->Wait().ok());
}

TEST(OpenClTagPathsTest, WhatADeviceHasTheMostSpecificFirst) {
  using opencl::TagPathsOf;
  const auto names = [](std::string_view extensions, std::vector<size_t> sizes) {
    std::vector<std::string> all;
    for (const opencl::TagPath& path : TagPathsOf(extensions, sizes)) all.push_back(path.name);
    return all;
  };
  const std::string matrix = StrCat(opencl::kMatrixExtension, " ", opencl::kSubGroupSizeExtension);
  const std::vector<std::string> plain = {"plain code"};
  const std::vector<std::string> dot = {"integer dot products", "plain code"};
  EXPECT_EQ(names("", {}), plain);
  EXPECT_EQ(names("  cl_khr_fp64  ", {8}), plain);
  EXPECT_EQ(names("cl_khr_integer_dot_product_2 xcl_khr_integer_dot_product", {}), plain);
  EXPECT_EQ(names("a cl_khr_integer_dot_product", {}), dot);
  EXPECT_EQ(names("cl_khr_integer_dot_product b ", {}), dot);
  EXPECT_EQ(names(opencl::kMatrixExtension, {8}), plain);
  EXPECT_EQ(names(matrix, {}), plain);
  EXPECT_EQ(names(matrix, {32, 64}), plain);
  EXPECT_EQ(names(StrCat(matrix, " cl_khr_integer_dot_product"), {32, 16}),
            (std::vector<std::string>{"matrix engines", "integer dot products", "plain code"}));
  EXPECT_EQ(TagPathsOf(matrix, std::vector<size_t>{8, 16, 32})[0].group_items, 64u);
  EXPECT_EQ(TagPathsOf(matrix, std::vector<size_t>{16, 32})[0].group_items, 128u);
}

// ---- The caller's own memory and queue ----

class OpenClCallerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto library = opencl::OpenLibrary();
    if (!library.ok()) GTEST_SKIP() << "no OpenCL: " << library.status();
    cl_ = *library;
    cl_platform_id platform = nullptr;
    if (cl_.clGetPlatformIDs(1, &platform, nullptr) != CL_SUCCESS ||
        cl_.clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &id_, nullptr) != CL_SUCCESS) {
      GTEST_SKIP() << "no OpenCL device";
    }
    context_ = NewContext();
    queue_ = NewQueue(0);
  }
  void TearDown() override {
    if (queue_ != nullptr) cl_.clReleaseCommandQueue(queue_);
    if (context_ != nullptr) cl_.clReleaseContext(context_);
  }

  cl_context NewContext() {
    cl_int code = CL_SUCCESS;
    const cl_context context = cl_.clCreateContext(nullptr, 1, &id_, nullptr, nullptr, &code);
    EXPECT_EQ(code, CL_SUCCESS);
    return context;
  }
  cl_command_queue NewQueue(cl_command_queue_properties properties) {
    cl_int code = CL_SUCCESS;
    const cl_command_queue queue = cl_.clCreateCommandQueue(context_, id_, properties, &code);
    return code == CL_SUCCESS ? queue : nullptr;
  }
  cl_mem NewMemory(cl_context context, cl_mem_flags flags, size_t size_bytes) {
    cl_int code = CL_SUCCESS;
    const cl_mem memory = cl_.clCreateBuffer(context, flags, size_bytes, nullptr, &code);
    EXPECT_EQ(code, CL_SUCCESS);
    return memory;
  }

  opencl::Library cl_;
  cl_device_id id_ = nullptr;
  cl_context context_ = nullptr;
  cl_command_queue queue_ = nullptr;
};

TEST_F(OpenClCallerTest, WhatTheCallerQueuedIsHashedWhereItLies) {
  const auto device = WrapOpenClQueue(queue_);
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->name(), "opencl:queue");
  const auto stream = (*device)->NewStream().value();
  const Bytes all = Repeating(2 * kMiB + 77);
  cl_mem memory = NewMemory(context_, CL_MEM_READ_WRITE, all.size() + kOpenClPaddingBytes);
  const auto buffer = WrapOpenClBuffer(**device, memory, all.size());
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  EXPECT_EQ((*buffer)->size_bytes(), all.size());
  // The caller may let go of it: the wrapped buffer keeps it.
  cl_.clReleaseMemObject(memory);
  // Not waited for: the hash comes behind it on the same queue.
  ASSERT_EQ(cl_.clEnqueueWriteBuffer(queue_, memory, CL_FALSE, 0, all.size(), all.data(), 0,
                                     nullptr, nullptr),
            CL_SUCCESS);
  size_t executed = 0;
  for (const Algorithm algorithm : kSupported) {
    for (const Range& range : {Range{0, all.size()}, {5, kMiB}, {all.size() - 1, 1}, {3, 0}}) {
      Bytes out(DigestSizeBytes(algorithm), 0xEE);
      ASSERT_TRUE((*device)->Digest(algorithm, **buffer, std::span(&range, 1), *stream, out).ok());
      const absl::Status waited = stream->Wait();
      ASSERT_TRUE(waited.ok()) << waited;
      EXPECT_EQ(out,
                Expected(algorithm, ByteSpan(all).subspan(range.offset_bytes, range.size_bytes)));
      ++executed;
    }
  }
  EXPECT_EQ(executed, 3u * 4);
  const TagKey key = TagKey::Derive(kSecret, 1, all.size());
  const TagKey* const keys[] = {&key};
  std::vector<RangeTag> tags(3);
  ASSERT_TRUE((*device)->Tag(keys, **buffer, {0, all.size()}, 0, *stream, tags).ok());
  ASSERT_TRUE(stream->Wait().ok());
  EXPECT_EQ(tags, reference::TagRanges(key, all, 0));
  // It is the caller's: nothing here writes to it.
  EXPECT_EQ((*device)->CopyIn(all, **buffer, 0, *stream).code(),
            absl::StatusCode::kInvalidArgument);
  // A byte that the caller changes changes the digest.
  Bytes before(32);
  Bytes after(32);
  const Range whole = {0, all.size()};
  ASSERT_TRUE(
      (*device)->Digest(Algorithm::kBlake3, **buffer, std::span(&whole, 1), *stream, before).ok());
  const uint8_t byte = static_cast<uint8_t>(all[kMiB] ^ 1);
  ASSERT_EQ(cl_.clEnqueueWriteBuffer(queue_, memory, CL_FALSE, kMiB, 1, &byte, 0, nullptr, nullptr),
            CL_SUCCESS);
  ASSERT_TRUE(
      (*device)->Digest(Algorithm::kBlake3, **buffer, std::span(&whole, 1), *stream, after).ok());
  ASSERT_TRUE(stream->Wait().ok());
  EXPECT_EQ(before, Expected(Algorithm::kBlake3, all));
  EXPECT_NE(after, before);
}

TEST_F(OpenClCallerTest, WhatCannotBeHashedSafelyIsRefused) {
  const auto device = WrapOpenClQueue(queue_).value();
  constexpr size_t kSize = 4096;
  const auto wrap = [&](cl_mem memory, uint64_t size_bytes) {
    return WrapOpenClBuffer(*device, memory, size_bytes).status();
  };
  const cl_mem memory = NewMemory(context_, CL_MEM_READ_ONLY, kSize);
  EXPECT_TRUE(wrap(memory, kSize - kOpenClPaddingBytes).ok());
  EXPECT_TRUE(wrap(memory, 0).ok());
  for (const uint64_t size : {kSize - kOpenClPaddingBytes + 1, uint64_t{kSize}, kHuge}) {
    EXPECT_EQ(ReasonOf(wrap(memory, size)), Reason::kUnsupported) << size;
  }
  EXPECT_EQ(wrap(nullptr, 0).code(), absl::StatusCode::kInvalidArgument);
  const cl_mem unreadable = NewMemory(context_, CL_MEM_WRITE_ONLY, kSize);
  EXPECT_EQ(wrap(unreadable, 1).code(), absl::StatusCode::kInvalidArgument);
  const cl_context other = NewContext();
  const cl_mem foreign = NewMemory(other, CL_MEM_READ_ONLY, kSize);
  EXPECT_EQ(wrap(foreign, 1).code(), absl::StatusCode::kInvalidArgument);
  const auto cpu = OpenDevice("cpu").value();
  EXPECT_EQ(WrapOpenClBuffer(*cpu, memory, 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WrapOpenClQueue(nullptr).status().code(), absl::StatusCode::kInvalidArgument);
  for (const cl_mem object : {memory, unreadable, foreign}) cl_.clReleaseMemObject(object);
  cl_.clReleaseContext(other);
  const cl_command_queue unordered = NewQueue(CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE);
  if (unordered == nullptr) GTEST_SKIP() << "this device has no queues that run out of order";
  EXPECT_EQ(ReasonOf(WrapOpenClQueue(unordered).status()), Reason::kUnsupported);
  cl_.clReleaseCommandQueue(unordered);
}

// ---- A machine that fails: the real library with one function replaced ----

class FailingOpenClTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto library = opencl::OpenLibrary();
    if (!library.ok()) GTEST_SKIP() << "no OpenCL: " << library.status();
    real_ = *library;
    cl_ = *library;
    const auto devices = opencl::ListDevices(real_);
    ASSERT_TRUE(devices.ok()) << devices.status();
    if (devices->empty()) GTEST_SKIP() << "no OpenCL device";
    calls_ = 0;
    is_open_ = false;
  }

  // A device of cl_. What fails after it is there asks is_open_: opening computes tags too.
  absl::StatusOr<std::unique_ptr<Device>> Open() {
    is_open_ = false;
    auto device = opencl::NewDevice(cl_, 0, {});
    is_open_ = true;
    calls_ = 0;
    return device;
  }

  // Runs a batch of each kind on a device of cl_; the first failure of any step.
  absl::Status Run() {
    PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, Open());
    PAVISE_ASSIGN_OR_RETURN(const auto stream, device->NewStream());
    PAVISE_ASSIGN_OR_RETURN(const auto buffer, device->Upload(bytes_));
    out_.assign(32, 0xEE);
    PAVISE_RETURN_IF_ERROR(
        device->Digest(algorithm_, *buffer, std::vector<Range>{{0, bytes_.size()}}, *stream, out_));
    return stream->Wait();
  }

  // That Run fails as a machine, naming `call` and `code`, and leaves the output alone.
  void ExpectFailure(const std::string& call, const std::string& code) {
    for (Algorithm algorithm : {Algorithm::kSha256, Algorithm::kBlake3}) {
      algorithm_ = algorithm;
      out_.assign(32, 0xEE);
      const absl::Status status = Run();
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
      EXPECT_EQ(ReasonOf(status), std::nullopt);
      EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(call), HasSubstr(code)));
      EXPECT_EQ(out_, Bytes(32, 0xEE)) << "after a failed " << call;
    }
  }

  static opencl::Library real_;
  static int calls_;  // since the device is open
  static bool is_open_;
  opencl::Library cl_;
  Bytes bytes_ = Repeating(5000);
  Bytes out_;
  Algorithm algorithm_ = Algorithm::kSha256;
};

opencl::Library FailingOpenClTest::real_;
int FailingOpenClTest::calls_ = 0;
bool FailingOpenClTest::is_open_ = false;

TEST_F(FailingOpenClTest, WithoutAFailureItWorks) {
  EXPECT_TRUE(Run().ok());
  EXPECT_EQ(out_, Expected(Algorithm::kSha256, bytes_));
}

TEST_F(FailingOpenClTest, Platforms) {
  cl_.clGetPlatformIDs = [](cl_uint, cl_platform_id*, cl_uint*) -> cl_int {
    return CL_OUT_OF_HOST_MEMORY;
  };
  ExpectFailure("clGetPlatformIDs", "CL_OUT_OF_HOST_MEMORY (-6)");
  EXPECT_EQ(opencl::ListDevices(cl_).status().code(), absl::StatusCode::kInternal);
  // The loader's word for "no driver is installed" is a refusal.
  cl_.clGetPlatformIDs = [](cl_uint, cl_platform_id*, cl_uint*) -> cl_int { return -1001; };
  EXPECT_EQ(ReasonOf(Run()), Reason::kUnsupported);
  EXPECT_TRUE(opencl::ListDevices(cl_)->empty());
}

TEST_F(FailingOpenClTest, KernelsThatDoNotBuild) {
  cl_.clBuildProgram = [](auto...) -> cl_int { return CL_BUILD_PROGRAM_FAILURE; };
  ExpectFailure("clBuildProgram of sha256.cl", "CL_BUILD_PROGRAM_FAILURE (-11)");
}

TEST_F(FailingOpenClTest, TheCompilersWordsAreInTheMessage) {
  cl_.clCreateProgramWithSource = [](cl_context context, cl_uint, const char**, const size_t*,
                                     cl_int* code) -> cl_program {
    const char* source = "__kernel void pavise_sha256() { misspelt(); }";
    return real_.clCreateProgramWithSource(context, 1, &source, nullptr, code);
  };
  const absl::Status status = Run();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("clBuildProgram of sha256.cl"));
}

TEST_F(FailingOpenClTest, Context) {
  cl_.clCreateContext = [](const cl_context_properties*, cl_uint, const cl_device_id*, auto, void*,
                           cl_int* code) -> cl_context {
    *code = CL_DEVICE_NOT_AVAILABLE;
    return nullptr;
  };
  ExpectFailure("clCreateContext", "CL_DEVICE_NOT_AVAILABLE (-2)");
}

TEST_F(FailingOpenClTest, Memory) {
  // The first is Upload's, the others are the batch's own.
  static int failing = 0;
  cl_.clCreateBuffer = [](cl_context context, cl_mem_flags flags, size_t size, void* host,
                          cl_int* code) -> cl_mem {
    if (is_open_ && ++calls_ == failing) {
      *code = CL_MEM_OBJECT_ALLOCATION_FAILURE;
      return nullptr;
    }
    return real_.clCreateBuffer(context, flags, size, host, code);
  };
  for (failing = 1; failing <= 3; ++failing) {
    ExpectFailure("clCreateBuffer", "CL_MEM_OBJECT_ALLOCATION_FAILURE (-4)");
  }
}

TEST_F(FailingOpenClTest, UploadOfWhatTheDeviceDoesNotTakeInOnePiece) {
  cl_.clGetDeviceInfo = [](cl_device_id device, cl_device_info what, size_t size, void* value,
                           size_t* needed) -> cl_int {
    if (what != CL_DEVICE_MAX_MEM_ALLOC_SIZE) {
      return real_.clGetDeviceInfo(device, what, size, value, needed);
    }
    *static_cast<cl_ulong*>(value) = 3 * kMiB;
    return CL_SUCCESS;
  };
  bytes_.resize(3 * kMiB);
  EXPECT_EQ(ReasonOf(Run()), Reason::kUnsupported);
  bytes_.resize(2 * kMiB);
  EXPECT_TRUE(Run().ok());
}

TEST_F(FailingOpenClTest, DevicesThatDoNotSuffice) {
  static cl_device_info lacking = 0;
  cl_.clGetDeviceInfo = [](cl_device_id device, cl_device_info what, size_t size, void* value,
                           size_t* needed) -> cl_int {
    const cl_int code = real_.clGetDeviceInfo(device, what, size, value, needed);
    if (what == lacking && value != nullptr) {
      if (what == CL_DEVICE_VERSION) {
        static_cast<char*>(value)[7] = '0';  // "OpenCL 0.0 ..."
      } else if (what == CL_DEVICE_PROFILE) {
        static_cast<char*>(value)[0] = 'E';
      } else {
        *static_cast<cl_bool*>(value) = CL_FALSE;
      }
    }
    return code;
  };
  EXPECT_TRUE(Run().ok());
  size_t executed = 0;
  for (cl_device_info what : {CL_DEVICE_VERSION, CL_DEVICE_PROFILE, CL_DEVICE_AVAILABLE,
                              CL_DEVICE_COMPILER_AVAILABLE, CL_DEVICE_ENDIAN_LITTLE}) {
    lacking = what;
    EXPECT_EQ(ReasonOf(Run()), Reason::kUnsupported) << what;
    ++executed;
  }
  EXPECT_EQ(executed, 5u);
}

TEST_F(FailingOpenClTest, Writing) {
  cl_.clEnqueueWriteBuffer = [](auto... arguments) -> cl_int {
    return is_open_ ? CL_OUT_OF_RESOURCES : real_.clEnqueueWriteBuffer(arguments...);
  };
  ExpectFailure("clEnqueueWriteBuffer", "CL_OUT_OF_RESOURCES (-5)");
}

TEST_F(FailingOpenClTest, Launching) {
  cl_.clEnqueueNDRangeKernel = [](auto... arguments) -> cl_int {
    return is_open_ ? CL_OUT_OF_RESOURCES : real_.clEnqueueNDRangeKernel(arguments...);
  };
  ExpectFailure("queueing pavise_", "CL_OUT_OF_RESOURCES (-5)");
}

TEST_F(FailingOpenClTest, ALaunchInTheMiddleOfABatch) {
  // BLAKE3's second launch: the first is in the queue by then.
  cl_.clEnqueueNDRangeKernel = [](cl_command_queue queue, cl_kernel kernel, cl_uint dimensions,
                                  const size_t* offset, const size_t* global, const size_t* local,
                                  cl_uint waits, const cl_event* list, cl_event* event) -> cl_int {
    if (is_open_ && ++calls_ == 2) return CL_OUT_OF_RESOURCES;
    return real_.clEnqueueNDRangeKernel(queue, kernel, dimensions, offset, global, local, waits,
                                        list, event);
  };
  const auto device = Open().value();
  const auto stream = device->NewStream().value();
  const auto buffer = device->Upload(bytes_).value();
  const std::vector<Range> ranges = {{0, bytes_.size()}};
  out_.assign(32, 0xEE);
  const absl::Status status = device->Digest(Algorithm::kBlake3, *buffer, ranges, *stream, out_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("queueing pavise_blake3_parents"));
  // What comes before the next Wait fails with it.
  Bytes other(32, 0xEE);
  EXPECT_TRUE(device->Digest(Algorithm::kSha256, *buffer, ranges, *stream, other).ok());
  EXPECT_EQ(stream->Wait(), status);
  EXPECT_EQ(out_, Bytes(32, 0xEE));
  EXPECT_EQ(other, Bytes(32, 0xEE));
  EXPECT_TRUE(stream->Wait().ok());
}

TEST_F(FailingOpenClTest, Arguments) {
  cl_.clSetKernelArg = [](auto... arguments) -> cl_int {
    return is_open_ ? CL_INVALID_ARG_SIZE : real_.clSetKernelArg(arguments...);
  };
  ExpectFailure("clSetKernelArg", "CL_INVALID_ARG_SIZE (-51)");
}

TEST_F(FailingOpenClTest, Reading) {
  cl_.clEnqueueReadBuffer = [](auto... arguments) -> cl_int {
    return is_open_ ? CL_OUT_OF_HOST_MEMORY : real_.clEnqueueReadBuffer(arguments...);
  };
  ExpectFailure("clEnqueueReadBuffer", "CL_OUT_OF_HOST_MEMORY (-6)");
}

TEST_F(FailingOpenClTest, ADeviceLostWhileItComputes) {
  cl_.clFinish = [](cl_command_queue queue) -> cl_int {
    real_.clFinish(queue);
    return is_open_ ? CL_OUT_OF_RESOURCES : CL_SUCCESS;
  };
  ExpectFailure("clFinish", "CL_OUT_OF_RESOURCES (-5)");
}

TEST_F(FailingOpenClTest, AKernelThatEndsWithAnError) {
  cl_.clGetEventInfo = [](cl_event event, cl_event_info what, size_t size, void* value,
                          size_t* needed) -> cl_int {
    if (!is_open_) return real_.clGetEventInfo(event, what, size, value, needed);
    *static_cast<cl_int*>(value) = -9999;  // a driver's own word
    return CL_SUCCESS;
  };
  ExpectFailure("opencl:0: ", "error -9999");
}

TEST_F(FailingOpenClTest, AKernelThatDoesNotEnd) {
  cl_.clGetEventInfo = [](cl_event event, cl_event_info what, size_t size, void* value,
                          size_t* needed) -> cl_int {
    if (!is_open_) return real_.clGetEventInfo(event, what, size, value, needed);
    *static_cast<cl_int*>(value) = CL_RUNNING;
    return CL_SUCCESS;
  };
  ExpectFailure("opencl:0: ", "did not complete");
}

// A kernel that is said to have run and wrote nothing: zeros, never what an earlier call left.
TEST_F(FailingOpenClTest, KernelsThatWriteNothingDeliverZeros) {
  static bool is_idle = false;
  is_idle = false;
  cl_.clEnqueueNDRangeKernel = [](cl_command_queue queue, cl_kernel kernel, cl_uint dimensions,
                                  const size_t* offset, const size_t* global, const size_t* local,
                                  cl_uint waits, const cl_event* list, cl_event* event) -> cl_int {
    if (is_idle) {
      // Another command's event in the place of the kernel's.
      cl_context context = nullptr;
      real_.clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof(context), &context, nullptr);
      cl_int code = CL_SUCCESS;
      const cl_mem other = real_.clCreateBuffer(context, CL_MEM_READ_WRITE, 4, nullptr, &code);
      const cl_uint value = 1;
      code = real_.clEnqueueFillBuffer(queue, other, &value, 4, 0, 4, waits, list, event);
      real_.clReleaseMemObject(other);
      return code;
    }
    return real_.clEnqueueNDRangeKernel(queue, kernel, dimensions, offset, global, local, waits,
                                        list, event);
  };
  const auto device = Open().value();
  const auto stream = device->NewStream().value();
  const auto buffer = device->Upload(bytes_).value();
  const std::vector<Range> ranges = {{0, bytes_.size()}};
  const TagKey key = TagKey::Derive(kSecret, 1, bytes_.size());
  const TagKey* const keys[] = {&key};
  size_t executed = 0;
  for (const bool idle : {false, true, false, true}) {
    is_idle = idle;
    for (const Algorithm algorithm : kSupported) {
      Bytes out(DigestSizeBytes(algorithm), 0xEE);
      ASSERT_TRUE(device->Digest(algorithm, *buffer, ranges, *stream, out).ok());
      ASSERT_TRUE(stream->Wait().ok());
      EXPECT_EQ(out, idle ? Bytes(out.size(), 0) : Expected(algorithm, bytes_));
      ++executed;
    }
    std::vector<RangeTag> tags(1, RangeTag{0xEE});
    ASSERT_TRUE(device->Tag(keys, *buffer, ranges[0], 0, *stream, tags).ok());
    ASSERT_TRUE(stream->Wait().ok());
    EXPECT_EQ(tags[0], idle ? RangeTag{} : reference::TagRanges(key, bytes_, 0)[0]);
    ++executed;
  }
  EXPECT_EQ(executed, 4u * 4);
  is_idle = false;
}

// The driver may still write to memory whose end it did not confirm: it is not given back.
TEST_F(FailingOpenClTest, MemoryThatTheDriverMayStillUseIsLeftToIt) {
  static bool is_lost = false;
  static int released = 0;
  is_lost = false;
  cl_.clFinish = [](cl_command_queue queue) -> cl_int {
    real_.clFinish(queue);
    return is_lost ? CL_OUT_OF_RESOURCES : CL_SUCCESS;
  };
  cl_.clReleaseMemObject = [](cl_mem memory) -> cl_int {
    ++released;
    return real_.clReleaseMemObject(memory);
  };
  const auto device = Open().value();
  const auto buffer = device->Upload(bytes_).value();
  const std::vector<Range> ranges = {{0, bytes_.size()}};
  for (const bool lost : {false, true}) {
    is_lost = lost;
    released = 0;
    auto stream = device->NewStream().value();
    Bytes out(32, 0xEE);
    ASSERT_TRUE(device->Digest(Algorithm::kSha256, *buffer, ranges, *stream, out).ok());
    EXPECT_EQ(stream->Wait().ok(), !lost);
    stream = nullptr;
    EXPECT_EQ(released, lost ? 0 : 2) << "the table and the states";
    EXPECT_EQ(out == Bytes(32, 0xEE), lost);
  }
  is_lost = false;
}

// A pass over files on a device that is lost at any call of any kind: no verdict, no buffers.
TEST_F(FailingOpenClTest, ADeviceLostDuringAPass) {
  static int failing = 0;
  static std::string_view kind;
  static const auto kFails = [](std::string_view name) {
    return is_open_ && kind == name && ++calls_ == failing;
  };
  cl_.clEnqueueWriteBuffer = [](auto... arguments) -> cl_int {
    return kFails("write") ? CL_OUT_OF_RESOURCES : real_.clEnqueueWriteBuffer(arguments...);
  };
  cl_.clEnqueueNDRangeKernel = [](auto... arguments) -> cl_int {
    return kFails("kernel") ? CL_OUT_OF_RESOURCES : real_.clEnqueueNDRangeKernel(arguments...);
  };
  cl_.clEnqueueReadBuffer = [](auto... arguments) -> cl_int {
    return kFails("read") ? CL_OUT_OF_RESOURCES : real_.clEnqueueReadBuffer(arguments...);
  };
  cl_.clFinish = [](cl_command_queue queue) -> cl_int {
    const cl_int code = real_.clFinish(queue);
    return kFails("finish") ? CL_OUT_OF_RESOURCES : code;
  };
  const testing::TemporaryDirectory directory;
  const Bytes content = Repeating(17 * kMiB + 5);
  const std::string path = directory.Write("file", AsText(content));
  FileRequest request;
  request.name = "file";
  request.size_bytes = content.size();
  request.tree = true;
  request.open = [&]() -> absl::StatusOr<FileDescriptor> {
    return FileDescriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  };
  size_t losses = 0;
  size_t kinds = 0;
  for (const std::string_view each : {"write", "kernel", "read", "finish"}) {
    kind = each;
    for (failing = 1;; ++failing) {
      ASSERT_LT(failing, 100);
      SCOPED_TRACE(StrCat(each, " ", failing));
      const auto device = Open().value();
      DevicePass pass(*device, {.readers = 1, .references = References::kTags});
      const auto results = pass.Run({request}, nullptr);
      if (results.ok()) {
        ASSERT_TRUE((*results)[0].ok()) << (*results)[0].status();
        EXPECT_EQ((*results)[0]->root, reference::Blake3(content));
        break;
      }
      EXPECT_EQ(ExitCodeOf(results.status()), 3) << results.status();
      EXPECT_TRUE(pass.TakeLoadedFiles().empty());
      ++losses;
    }
    if (failing > 1) ++kinds;
  }
  EXPECT_EQ(kinds, 4u);
  EXPECT_GE(losses, 4u * 2);
}

TEST_F(FailingOpenClTest, AfterAFailureIsReportedTheStreamGoesOn) {
  cl_.clGetEventInfo = [](cl_event event, cl_event_info what, size_t size, void* value,
                          size_t* needed) -> cl_int {
    if (is_open_ && ++calls_ == 1) return CL_OUT_OF_RESOURCES;
    return real_.clGetEventInfo(event, what, size, value, needed);
  };
  const auto device = Open().value();
  const auto stream = device->NewStream().value();
  const auto buffer = device->Upload(bytes_).value();
  const std::vector<Range> ranges = {{0, bytes_.size()}};
  Bytes first(32, 0xEE);
  Bytes second(32, 0xEE);
  ASSERT_TRUE(device->Digest(Algorithm::kSha256, *buffer, ranges, *stream, first).ok());
  ASSERT_TRUE(device->Digest(Algorithm::kBlake3, *buffer, ranges, *stream, second).ok());
  EXPECT_EQ(stream->Wait().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(first, Bytes(32, 0xEE));
  EXPECT_EQ(second, Bytes(32, 0xEE));
  EXPECT_TRUE(stream->Wait().ok());
  ASSERT_TRUE(device->Digest(Algorithm::kSha256, *buffer, ranges, *stream, first).ok());
  EXPECT_TRUE(stream->Wait().ok());
  EXPECT_EQ(first, Expected(Algorithm::kSha256, bytes_));
}

// ---- Tags on such a machine ----

class FailingOpenClTagTest : public FailingOpenClTest {
 protected:
  void SetUp() override {
    FailingOpenClTest::SetUp();
    if (IsSkipped()) return;
    events_.clear();
    // Keeps the order of what is queued, and the keys' memory alive to look into it.
    cl_.clEnqueueNDRangeKernel = [](auto... arguments) -> cl_int {
      if (is_open_) events_.push_back("kernel");
      return is_open_ && failing_ == "kernel" ? CL_OUT_OF_RESOURCES
                                              : real_.clEnqueueNDRangeKernel(arguments...);
    };
    cl_.clEnqueueWriteBuffer = [](auto... arguments) -> cl_int {
      if (is_open_) events_.push_back("write");
      // The first is Upload's.
      return is_open_ && failing_ == "write" && events_.size() > 1
                 ? CL_OUT_OF_RESOURCES
                 : real_.clEnqueueWriteBuffer(arguments...);
    };
    cl_.clEnqueueReadBuffer = [](auto... arguments) -> cl_int {
      if (is_open_) events_.push_back("read");
      return is_open_ && failing_ == "read" ? CL_OUT_OF_RESOURCES
                                            : real_.clEnqueueReadBuffer(arguments...);
    };
    cl_.clEnqueueFillBuffer = [](cl_command_queue queue, cl_mem memory, const void* pattern,
                                 size_t pattern_bytes, size_t offset, size_t size, cl_uint waits,
                                 const cl_event* list, cl_event* event) -> cl_int {
      if (is_open_) {
        events_.push_back("fill");
        if (failing_ == "fill") return CL_OUT_OF_RESOURCES;
        EXPECT_EQ(size, PAVISE_TAG_KEY_BYTES);
      }
      const cl_int code = real_.clEnqueueFillBuffer(queue, memory, pattern, pattern_bytes, offset,
                                                    size, waits, list, event);
      if (is_open_) {
        keys_after_.assign(size, 0xEE);
        EXPECT_EQ(real_.clEnqueueReadBuffer(queue, memory, CL_TRUE, 0, size, keys_after_.data(), 0,
                                            nullptr, nullptr),
                  CL_SUCCESS);
      }
      return code;
    };
  }
  void TearDown() override { failing_.clear(); }

  absl::Status RunTags() {
    PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, Open());
    return tags_.Run(*device);
  }

  static std::vector<std::string> events_;
  static std::string failing_;
  static Bytes keys_after_;
  OpenClTags tags_;
};
std::vector<std::string> FailingOpenClTagTest::events_;
std::string FailingOpenClTagTest::failing_;
Bytes FailingOpenClTagTest::keys_after_;

using Queued = std::vector<std::string>;

TEST_F(FailingOpenClTagTest, KeysAreWipedBeforeTheTagsAreRead) {
  const absl::Status status = RunTags();
  EXPECT_TRUE(status.ok()) << status;
  tags_.ExpectRight();
  // All of the first key's before any of the second's.
  EXPECT_EQ(events_, (Queued{"write", "write", "kernel", "fill", "read", "write", "kernel", "fill",
                             "read"}));
  EXPECT_EQ(keys_after_, Bytes(PAVISE_TAG_KEY_BYTES, 0));
}

TEST_F(FailingOpenClTagTest, KeysAreWipedWhateverFailsBefore) {
  const std::vector<std::pair<std::string, Queued>> cases = {
      {"write", {"write", "write", "fill"}},
      {"kernel", {"write", "write", "kernel", "fill"}},
      {"read", {"write", "write", "kernel", "fill", "read"}},
  };
  size_t executed = 0;
  for (const auto& [failing, queued] : cases) {
    failing_ = failing;
    events_.clear();
    keys_after_.clear();
    const absl::Status status = RunTags();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("CL_OUT_OF_RESOURCES (-5)"));
    EXPECT_EQ(events_, queued);
    EXPECT_EQ(keys_after_, Bytes(PAVISE_TAG_KEY_BYTES, 0)) << failing;
    tags_.ExpectUntouched();
    ++executed;
  }
  EXPECT_EQ(executed, 3u);
}

TEST_F(FailingOpenClTagTest, TagsUnderKeysThatCannotBeWipedAreNotDelivered) {
  failing_ = "fill";
  const absl::Status status = RunTags();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("queueing clEnqueueFillBuffer"));
  EXPECT_EQ(events_, (Queued{"write", "write", "kernel", "fill"}));
  tags_.ExpectUntouched();
}

TEST_F(FailingOpenClTagTest, Memory) {
  static int failing = 0;
  cl_.clCreateBuffer = [](cl_context context, cl_mem_flags flags, size_t size, void* host,
                          cl_int* code) -> cl_mem {
    if (is_open_ && ++calls_ == failing) {
      *code = CL_MEM_OBJECT_ALLOCATION_FAILURE;
      return nullptr;
    }
    return real_.clCreateBuffer(context, flags, size, host, code);
  };
  // Two buffers a key, after Upload's.
  for (failing = 2; failing <= 5; ++failing) {
    events_.clear();
    const absl::Status status = RunTags();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("clCreateBuffer of"));
    EXPECT_EQ(std::count(events_.begin(), events_.end(), "write"), failing <= 3 ? 1 : 2)
        << "a key without memory for its tags went to the device";
    tags_.ExpectUntouched();
  }
}

// Each of the four commands of either key in turn ends with an error, or does not end.
TEST_F(FailingOpenClTagTest, EveryCommandsEndIsLookedAt) {
  static int failing = 0;
  static cl_int state = 0;
  cl_.clGetEventInfo = [](cl_event event, cl_event_info what, size_t size, void* value,
                          size_t* needed) -> cl_int {
    const cl_int code = real_.clGetEventInfo(event, what, size, value, needed);
    if (is_open_ && ++calls_ == failing) *static_cast<cl_int*>(value) = state;
    return code;
  };
  size_t executed = 0;
  for (const cl_int bad : {CL_OUT_OF_RESOURCES, CL_RUNNING, CL_QUEUED}) {
    state = bad;
    for (failing = 1; failing <= 8; ++failing) {
      const absl::Status status = RunTags();
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << failing << status;
      EXPECT_EQ(ReasonOf(status), std::nullopt);
      tags_.ExpectUntouched();
      ++executed;
    }
  }
  EXPECT_EQ(executed, 3u * 8);
  failing = 9;
  EXPECT_TRUE(RunTags().ok());
  tags_.ExpectRight();
}

// ---- Paths that this machine's device may not have: their built-in functions written here ----

class OpenClTagPathTest : public FailingOpenClTest {
 protected:
  // Gives the device these extensions and this smallest sub-group, and puts `prelude` before
  // tag.cl where the build options ask for such a path.
  void Pretend(const std::string& extensions, size_t lanes, const std::string& prelude) {
    extensions_ = extensions;
    lanes_ = lanes;
    prelude_ = prelude;
    cl_.clGetDeviceInfo = [](cl_device_id device, cl_device_info what, size_t size, void* value,
                             size_t* needed) -> cl_int {
      const auto give = [&](const void* from, size_t bytes) {
        if (needed != nullptr) *needed = bytes;
        if (value != nullptr) std::memcpy(value, from, bytes);
        return CL_SUCCESS;
      };
      if (what == CL_DEVICE_EXTENSIONS) return give(extensions_.c_str(), extensions_.size() + 1);
      if (what == 0x4108) return give(&lanes_, sizeof(lanes_));
      return real_.clGetDeviceInfo(device, what, size, value, needed);
    };
    cl_.clCreateProgramWithSource = [](cl_context context, cl_uint, const char** sources,
                                       const size_t*, cl_int* code) -> cl_program {
      std::string source = sources[0];
      if (const size_t at = source.find("__kernel void pavise_tag("); at != source.npos) {
        source = prelude_ + source;
        // A place where the lanes of the sub-groups meet.
        const size_t matrix = source.find("pavise_tag_matrix(__global");
        source.insert(source.find("{", matrix) + 1,
                      "__local int8 meeting_rows[128]; __local uint8 meeting_columns[128];");
      }
      const char* text = source.c_str();
      return real_.clCreateProgramWithSource(context, 1, &text, nullptr, code);
    };
    // Drivers that lack the path may lack its language version.
    cl_.clBuildProgram = [](cl_program program, cl_uint count, const cl_device_id* devices,
                            const char* options, auto notify, void* data) -> cl_int {
      std::string text = options;
      if (const size_t at = text.find("CL3.0"); at != text.npos) text.replace(at, 5, "CL1.2");
      return real_.clBuildProgram(program, count, devices, text.c_str(), notify, data);
    };
  }

  static std::string extensions_;
  static size_t lanes_;
  static std::string prelude_;
  OpenClTags tags_;
};
std::string OpenClTagPathTest::extensions_;
size_t OpenClTagPathTest::lanes_ = 0;
std::string OpenClTagPathTest::prelude_;

constexpr char kDotProduct[] = R"(
static inline int dot_of_test(uint a, uint b) {
  const int4 x = convert_int4(as_uchar4(a)) * convert_int4(as_char4(b));
  return x.x + x.y + x.z + x.w;
}
#define dot_4x8packed_us_int dot_of_test
)";

// Straight from the extension's text: what every lane of a sub-group gives, as bytes of the two
// matrices, meets in local memory.
constexpr char kMatrixProduct[] = R"(
#ifdef PAVISE_TAG_MATRIX_LANES
#if PAVISE_TAG_MATRIX_LANES == 16
typedef short8 test_rows;
#else
typedef int8 test_rows;
#endif
#define get_sub_group_local_id() ((uint)get_local_id(0) % PAVISE_TAG_MATRIX_LANES)
#define get_sub_group_id() ((uint)get_local_id(0) / PAVISE_TAG_MATRIX_LANES)
static inline int8 mad_of_test(test_rows a, uint8 b, int8 sums, __local int8* rows,
                               __local uint8* columns) {
  const uint item = get_local_id(0);
  const uint lane = item % PAVISE_TAG_MATRIX_LANES;
  barrier(CLK_LOCAL_MEM_FENCE);
  *(__local test_rows*)&rows[item] = a;
  columns[item] = b;
  barrier(CLK_LOCAL_MEM_FENCE);
  int result[8] = {sums.s0, sums.s1, sums.s2, sums.s3, sums.s4, sums.s5, sums.s6, sums.s7};
  const uint a_lane = 32 / PAVISE_TAG_MATRIX_LANES;
  for (uint row = 0; row < 8; ++row) {
    for (uint k = 0; k < 32; ++k) {
      __local const char* of_lane = (__local const char*)&rows[item - lane + k / a_lane];
      __local const uchar* column = (__local const uchar*)&columns[item];
      result[row] += (int)of_lane[row * a_lane + k % a_lane] * (int)column[k];
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  return (int8)(result[0], result[1], result[2], result[3], result[4], result[5], result[6],
                result[7]);
}
#define intel_sub_group_i8_u8_matrix_mad_k32(a, b, c) \
  mad_of_test(a, b, c, meeting_rows, meeting_columns)
#endif
)";

std::string MatrixExtensions() {
  return StrCat("cl_khr_fp64 ", opencl::kMatrixExtension, " ", opencl::kSubGroupSizeExtension);
}

TEST_F(OpenClTagPathTest, DotProducts) {
  Pretend("cl_khr_integer_dot_product", 0, kDotProduct);
  const auto device = Open();
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_THAT((*device)->description(),
              AllOf(HasSubstr("tags by integer dot products"), Not(HasSubstr("not by"))));
  ASSERT_TRUE(tags_.Run(**device).ok());
  tags_.ExpectRight();
}

TEST_F(OpenClTagPathTest, MatrixEnginesOfEitherWidth) {
  for (const size_t lanes : {8u, 16u}) {
    Pretend(MatrixExtensions(), lanes, kMatrixProduct);
    const auto device = Open();
    ASSERT_TRUE(device.ok()) << device.status();
    EXPECT_THAT((*device)->description(),
                AllOf(HasSubstr("tags by matrix engines"), Not(HasSubstr("not by"))))
        << lanes;
    ASSERT_TRUE(tags_.Run(**device).ok());
    tags_.ExpectRight();
  }
}

TEST_F(OpenClTagPathTest, APathThatIsWrongOrFailsIsPassedOverAndNamed) {
  // Rows as if they were unsigned: a driver that mistakes one operand's sign.
  std::string wrong = kMatrixProduct;
  wrong.replace(wrong.find("(__local const char*)"), 21, "(__local const uchar*)");
  wrong.replace(wrong.find("__local const char*"), 19, "__local const uchar*");
  Pretend(StrCat(MatrixExtensions(), " cl_khr_integer_dot_product"), 8,
          StrCat(wrong, "#define dot_4x8packed_us_int no_such_function\n"));
  const auto device = Open();
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_THAT((*device)->description(),
              HasSubstr("tags by plain code (not by matrix engines, whose tags are wrong here) "
                        "(not by integer dot products, which fail here)"));
  ASSERT_TRUE(tags_.Run(**device).ok());
  tags_.ExpectRight();
}

TEST_F(OpenClTagPathTest, ADeviceWhosePlainTagsAreWrongIsRefused) {
  Pretend("", 0, "");
  // As if rows were unsigned.
  cl_.clCreateProgramWithSource = [](cl_context context, cl_uint, const char** sources,
                                     const size_t*, cl_int* code) -> cl_program {
    std::string source = sources[0];
    if (const size_t at = source.find("- as_int8("); at != source.npos) source[at] = '+';
    const char* text = source.c_str();
    return real_.clCreateProgramWithSource(context, 1, &text, nullptr, code);
  };
  const auto device = Open();
  EXPECT_EQ(device.status().code(), absl::StatusCode::kInternal) << device.status();
  EXPECT_THAT(std::string(device.status().message()), HasSubstr("wrong tags"));
}

}  // namespace
}  // namespace pavise::hash
