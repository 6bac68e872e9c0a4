// What device.h promises, held against every device of this machine: one list of batches, one
// comparison with code that shares nothing with any device.
#include <unistd.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/hash/cuda/cuda_device.h"
#include "pavise/hash/devices.h"
#include "pavise/hash/opencl/opencl_device.h"
#include "pavise/hash/tag.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash {
namespace {

constexpr Algorithm kAll[] = {Algorithm::kSha256, Algorithm::kSha384, Algorithm::kBlake2b,
                              Algorithm::kBlake3};
constexpr size_t kMiB = kSubtreeBytes;

std::vector<std::string> DeviceNames() {
  std::vector<std::string> names = {"cpu"};
  for (size_t i = 0; i < ListOpenClDevices().size(); ++i) names.push_back(StrCat("opencl:", i));
  const auto gpus = ListCudaDevices();
  for (size_t i = 0; gpus.ok() && i < gpus->size(); ++i) {
    names.push_back(StrCat("cuda:", (*gpus)[i].ordinal));
  }
  return names;
}

Bytes Repeating(size_t size_bytes) {
  Bytes bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<uint8_t>(i % 251);
  return bytes;
}

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

// Batches that mix every length at which some block, chunk or subtree ends, aligned and not.
std::vector<std::vector<Range>> Batches() {
  std::vector<std::vector<Range>> batches(1);  // the first is empty
  std::vector<Range>& boundaries = batches.emplace_back();
  for (const uint64_t length :
       {0u,   1u,    55u,   56u,   63u,   64u,   65u,   111u,  112u,   127u,   128u,
        129u, 1023u, 1024u, 1025u, 2047u, 2048u, 2049u, 3072u, 65535u, 65536u, 65537u}) {
    for (const uint64_t offset : {0u, 1u, 2u, 3u, 4099u}) boundaries.push_back({offset, length});
  }
  std::vector<Range>& large = batches.emplace_back();
  for (const uint64_t length : {kMiB - 1, kMiB, kMiB + 1, 2 * kMiB, 3 * kMiB + 5}) {
    large.push_back({length % 4, length});
  }
  std::vector<Range>& many = batches.emplace_back();
  for (uint64_t i = 0; i < 1000; ++i) many.push_back({i * 997, i * i % 1999});
  batches.push_back({{4 * kMiB, 0}, {4 * kMiB - 1, 1}, {7, 700}});
  return batches;
}

TEST(DeviceContractTest, EveryDeviceGivesTheDigestsOfTheReference) {
  const Bytes all = Repeating(4 * kMiB);
  const std::vector<std::vector<Range>> batches = Batches();
  std::map<Algorithm, std::vector<Bytes>> expected;
  for (Algorithm algorithm : kAll) {
    for (const std::vector<Range>& ranges : batches) {
      Bytes& digests = expected[algorithm].emplace_back();
      for (const Range& range : ranges) {
        const Bytes digest =
            Expected(algorithm, ByteSpan(all).subspan(range.offset_bytes, range.size_bytes));
        digests.insert(digests.end(), digest.begin(), digest.end());
      }
    }
  }
  for (const std::string& name : DeviceNames()) {
    SCOPED_TRACE(name);
    const auto device = OpenDevice(name);
    ASSERT_TRUE(device.ok()) << device.status();
    EXPECT_EQ((*device)->name(), name);
    const auto stream = (*device)->NewStream().value();
    const auto buffer = (*device)->Upload(all).value();
    size_t digests_compared = 0;
    size_t algorithms = 0;
    for (Algorithm algorithm : kAll) {
      if (!(*device)->supports(algorithm)) continue;
      ++algorithms;
      for (size_t batch = 0; batch < batches.size(); ++batch) {
        Bytes out(expected[algorithm][batch].size(), 0xEE);
        ASSERT_TRUE((*device)->Digest(algorithm, *buffer, batches[batch], *stream, out).ok());
        const absl::Status waited = stream->Wait();
        ASSERT_TRUE(waited.ok()) << waited;
        ASSERT_EQ(out, expected[algorithm][batch])
            << AlgorithmName(algorithm) << ", batch " << batch;
        digests_compared += batches[batch].size();
      }
    }
    EXPECT_TRUE((*device)->supports(Algorithm::kBlake3));
    EXPECT_GE(algorithms, 3u);
    EXPECT_EQ(digests_compared, algorithms * (0 + 22 * 5 + 5 + 1000 + 3));
    RecordProperty(StrCat("digests on ", name), StrCat(digests_compared));
  }
}

TEST(DeviceContractTest, EveryDeviceGivesTheSubtreesOfTheReference) {
  const Bytes all = Repeating(2 * kMiB + 9);
  std::vector<SubtreeRange> ranges;
  for (const uint64_t length : {size_t{1}, size_t{1024}, size_t{1025}, size_t{2048}, size_t{3000},
                                size_t{65537}, kMiB - 1, kMiB}) {
    for (const uint64_t first_chunk :
         {uint64_t{0}, uint64_t{1024}, uint64_t{1} << 32, (uint64_t{1} << 54) - 1024}) {
      ranges.push_back({{length % 5, length}, first_chunk});
    }
  }
  for (const std::string& name : DeviceNames()) {
    SCOPED_TRACE(name);
    const auto device = OpenDevice(name).value();
    const auto stream = device->NewStream().value();
    const auto buffer = device->Upload(all).value();
    std::vector<ChainingValue> values(ranges.size());
    ASSERT_TRUE(device->Blake3Subtrees(*buffer, ranges, *stream, values).ok());
    ASSERT_TRUE(stream->Wait().ok());
    size_t compared = 0;
    for (size_t i = 0; i < ranges.size(); ++i) {
      ASSERT_EQ(values[i],
                reference::Blake3Subtree(
                    ByteSpan(all).subspan(ranges[i].range.offset_bytes, ranges[i].range.size_bytes),
                    ranges[i].first_chunk))
          << i;
      ++compared;
    }
    EXPECT_EQ(compared, 8u * 4);
  }
}

TEST(DeviceContractTest, EveryDeviceGivesTheTagsOfTheReference) {
  constexpr size_t kBlock = kTagBlockBytes;
  constexpr std::array<uint8_t, 32> kSecret = {3, 1, 4};
  const Bytes all = Repeating(17 * kMiB + 123 + 4099);
  struct Case {
    uint64_t first_range;
    Range range;
    std::vector<TagKey> keys;
    std::vector<RangeTag> expected;  // under each key
  };
  std::vector<Case> cases;
  for (const size_t size : {size_t{0}, size_t{1}, kBlock - 1, kBlock, kBlock + 1, kMiB - 1, kMiB,
                            kMiB + 1, 3 * kMiB + 5, 17 * kMiB + 123}) {
    for (const uint64_t first_range : {uint64_t{0}, uint64_t{2}, uint64_t{1} << 33}) {
      for (const size_t offset : {0, 4, 4099}) {
        // The longest once only.
        if (size > 3 * kMiB + 5 && (first_range != 2 || offset != 4099)) continue;
        Case& one = cases.emplace_back(first_range, Range{offset, size});
        for (const uint64_t pass : {7u, 8u}) {
          one.keys.push_back(TagKey::Derive(kSecret, pass, first_range * kTagRangeBytes + size));
          const std::vector<RangeTag> tags = reference::TagRanges(
              one.keys.back(), ByteSpan(all).subspan(offset, size), first_range);
          one.expected.insert(one.expected.end(), tags.begin(), tags.end());
        }
      }
    }
  }
  ASSERT_EQ(cases.size(), 9u * 3 * 3 + 1);
  size_t devices = 0;
  for (const std::string& name : DeviceNames()) {
    SCOPED_TRACE(name);
    const auto device = OpenDevice(name).value();
    if (!device->supports_tags()) continue;
    ++devices;
    const auto stream = device->NewStream().value();
    const auto buffer = device->Upload(all).value();
    size_t calls = 0;
    size_t tags_compared = 0;
    for (const Case& one : cases) {
      const std::array<const TagKey*, 2> both = {&one.keys[0], &one.keys[1]};
      for (const size_t keys : {1u, 2u}) {
        SCOPED_TRACE(StrCat(one.range.size_bytes, " bytes at ", one.range.offset_bytes, ", range ",
                            one.first_range, ", keys ", keys));
        std::vector<RangeTag> out(one.expected.size() / 2 * keys, RangeTag{0xEE});
        const absl::Status queued = device->Tag(std::span(both).first(keys), *buffer, one.range,
                                                one.first_range, *stream, out);
        ASSERT_TRUE(queued.ok()) << queued;
        const absl::Status waited = stream->Wait();
        ASSERT_TRUE(waited.ok()) << waited;
        const auto end = one.expected.begin() + static_cast<ptrdiff_t>(out.size());
        ASSERT_EQ(out, std::vector<RangeTag>(one.expected.begin(), end));
        ++calls;
        tags_compared += out.size();
      }
    }
    EXPECT_EQ(calls, 2u * (9 * 3 * 3 + 1));
    // Of nothing no tag, of six sizes up to a MiB one each, of the others 2, 4 and 18.
    EXPECT_EQ(tags_compared, 3u * (3 * 3 * (0 + 6 + 2 + 4) + 18));
    RecordProperty(StrCat("tags on ", name), StrCat(tags_compared));
  }
  EXPECT_GE(devices, 1u);
}

TEST(DeviceContractTest, EveryDeviceNamesItsMemory) {
  for (const std::string& name : DeviceNames()) {
    SCOPED_TRACE(name);
    const auto device = OpenDevice(name);
    ASSERT_TRUE(device.ok()) << device.status();
    const auto buffer = (*device)->Allocate(1000);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    const NativeMemory memory = (*buffer)->native_memory();
    EXPECT_NE(memory.handle, nullptr);
    const std::string number = StrCat(":", memory.ordinal);
    switch (memory.kind) {
      case NativeMemory::Kind::kHost:
        EXPECT_EQ(name, "cpu");
        EXPECT_EQ(memory.handle, (*buffer)->host_bytes().data());
        break;
      case NativeMemory::Kind::kCuda:
        EXPECT_EQ(name, "cuda" + number);
        break;
      case NativeMemory::Kind::kOpenCl:
        EXPECT_EQ(name, "opencl" + number);
        break;
      case NativeMemory::Kind::kNone:
        ADD_FAILURE() << "no name";
    }
  }
}

TEST(DeviceContractTest, EveryDeviceRefusesWhatMakesNoSense) {
  const Bytes all = Repeating(4096);
  for (const std::string& name : DeviceNames()) {
    SCOPED_TRACE(name);
    const auto device = OpenDevice(name).value();
    const auto stream = device->NewStream().value();
    const auto buffer = device->Upload(all).value();
    Bytes out(32, 0xEE);
    const auto digest = [&](Algorithm algorithm, Range range, std::span<uint8_t> into) {
      return device->Digest(algorithm, *buffer, std::vector<Range>{range}, *stream, into).code();
    };
    EXPECT_EQ(digest(Algorithm::kBlake3, {1, 4096}, out), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(digest(Algorithm::kBlake3, {~uint64_t{0}, 2}, out),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(digest(Algorithm::kBlake3, {0, 5}, std::span(out).first(31)),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(digest(static_cast<Algorithm>(9), {0, 5}, out),
              absl::StatusCode::kFailedPrecondition);
    std::vector<ChainingValue> values(1);
    for (const SubtreeRange& subtree :
         {SubtreeRange{{0, 0}, 0}, SubtreeRange{{0, 2048}, 1}, SubtreeRange{{0, 4097}, 0}}) {
      EXPECT_EQ(device->Blake3Subtrees(*buffer, std::vector<SubtreeRange>{subtree}, *stream, values)
                    .code(),
                absl::StatusCode::kInvalidArgument);
    }
    EXPECT_TRUE(stream->Wait().ok());
    EXPECT_EQ(out, Bytes(32, 0xEE));
  }
}

// One range of a GiB, the length at which 32-bit counts of bits and of bytes times eight are over.
TEST(DeviceContractTest, OneGibibyteInOneRange) {
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  const auto available_bytes = static_cast<uint64_t>(sysconf(_SC_AVPHYS_PAGES)) *
                               static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  if (available_bytes < 4 * kGiB) {
    GTEST_SKIP() << "4 GiB of free memory are needed, not " << HumanBytes(available_bytes);
  }
  // Of bytes i mod 251; by Python's hashlib and blake3.
  const std::map<Algorithm, std::string> expected = {
      {Algorithm::kSha256, "9cc5601236c455c6af19a76e64d2d95953a93b10eeb8b8b756a57090e1499b3e"},
      {Algorithm::kBlake3, "fdd1b11e6c414398802ad14ccc876ac57f2859595cc9723b5e997b395e87166b"}};
  const Bytes all = Repeating(kGiB);
  size_t devices = 0;
  std::string skipped;
  for (const std::string& name : DeviceNames()) {
    SCOPED_TRACE(name);
    const auto device = OpenDevice(name).value();
    const auto buffer = device->Upload(all);
    if (ReasonOf(buffer.status()) == Reason::kUnsupported) {
      StrAppend(&skipped, skipped.empty() ? "" : "; ", buffer.status().message());
      continue;
    }
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    const auto stream = device->NewStream().value();
    for (const auto& [algorithm, digest] : expected) {
      const Range whole = {0, kGiB};
      Bytes out(DigestSizeBytes(algorithm));
      ASSERT_TRUE(device->Digest(algorithm, **buffer, std::span(&whole, 1), *stream, out).ok());
      const absl::Status waited = stream->Wait();
      ASSERT_TRUE(waited.ok()) << waited;
      EXPECT_EQ(ToHex(out), digest) << AlgorithmName(algorithm);
    }
    ++devices;
  }
  EXPECT_GE(devices, 1u);
  if (!skipped.empty()) GTEST_SKIP() << skipped;
}

TEST(DevicesTest, NamesOfDevicesThatAreNotThereOrMakeNoSense) {
  for (const char* name :
       {"", "CPU", "cpu:0", "gpu", "opencl", "opencl:", "opencl:-1", "opencl:+1", "opencl: 1",
        "opencl:01", "opencl:1x", "opencl:99999999999", "cuda:", "cuda:x"}) {
    EXPECT_EQ(OpenDevice(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_EQ(ReasonOf(OpenDevice("cuda:4000000000").status()), Reason::kUnsupported);
  EXPECT_EQ(ReasonOf(OpenDevice("opencl:4000000000").status()), Reason::kUnsupported);
}

TEST(DevicesTest, AutoIsAGpuOrElseTheCpu) {
  std::string expected = "cpu";
  const std::vector<OpenClDeviceInfo> devices = ListOpenClDevices();
  for (size_t i = devices.size(); i-- > 0;) {
    if (devices[i].kind == OpenClDeviceInfo::Kind::kGpu) expected = StrCat("opencl:", i);
  }
  const auto gpus = ListCudaDevices();
  if (gpus.ok() && !gpus->empty()) expected = StrCat("cuda:", gpus->front().ordinal);
  const auto device = OpenDevice("auto");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->name(), expected);
}

}  // namespace
}  // namespace pavise::hash
