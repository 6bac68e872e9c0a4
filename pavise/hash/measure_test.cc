#include "pavise/hash/measure.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/hash/opencl/opencl_device.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = kSubtreeBytes;

// The CPU with faults on demand: each may change what a call gave, of which it is told the number.
class FaultyDevice final : public Device {
 public:
  struct Faults {
    std::function<void(int call, std::span<uint8_t>)> digest;
    std::function<void(int call, std::span<RangeTag>)> tag;
    bool drops_copies = false;
    // Of CopyIn: writes the block somewhere else.
    uint64_t shift_bytes = 0;
    uint64_t memory_bytes = uint64_t{1} << 40;
  };
  explicit FaultyDevice(Faults faults) : faults_(std::move(faults)) {}

  std::string name() const override { return "faulty:0"; }
  std::string description() const override { return "a faulty device"; }
  bool supports(Algorithm algorithm) const override { return cpu_->supports(algorithm); }
  absl::StatusOr<std::unique_ptr<Stream>> NewStream() override { return cpu_->NewStream(); }
  absl::StatusOr<std::unique_ptr<Buffer>> Upload(ByteSpan host) override {
    return cpu_->Upload(host);
  }
  uint64_t memory_bytes() const override { return faults_.memory_bytes; }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(uint64_t size_bytes) override {
    return cpu_->Allocate(size_bytes);
  }
  absl::StatusOr<std::unique_ptr<Staging>> AllocateStaging(size_t size_bytes) override {
    return cpu_->AllocateStaging(size_bytes);
  }
  absl::Status CopyIn(ByteSpan host, Buffer& buffer, uint64_t offset_bytes,
                      Stream& stream) override {
    return cpu_->CopyIn(host.subspan(faults_.shift_bytes), buffer, offset_bytes, stream);
  }
  absl::Status CopyOut(const Buffer& buffer, Range range, Stream& stream,
                       std::span<uint8_t> host) override {
    return cpu_->CopyOut(buffer, range, stream, host);
  }
  absl::Status CopyWithin(const Buffer& from, Range range, Buffer& to, uint64_t offset_bytes,
                          Stream& stream) override {
    if (faults_.drops_copies) return absl::OkStatus();
    return cpu_->CopyWithin(from, range, to, offset_bytes, stream);
  }
  absl::Status Digest(Algorithm algorithm, const Buffer& buffer, std::span<const Range> ranges,
                      Stream& stream, std::span<uint8_t> out) override {
    PAVISE_RETURN_IF_ERROR(cpu_->Digest(algorithm, buffer, ranges, stream, out));
    PAVISE_RETURN_IF_ERROR(stream.Wait());
    if (faults_.digest) faults_.digest(digest_calls_++, out);
    return absl::OkStatus();
  }
  absl::Status Blake3Subtrees(const Buffer& buffer, std::span<const SubtreeRange> ranges,
                              Stream& stream, std::span<ChainingValue> out) override {
    return cpu_->Blake3Subtrees(buffer, ranges, stream, out);
  }
  bool supports_tags() const override { return true; }
  absl::Status Tag(std::span<const TagKey* const> keys, const Buffer& buffer, Range range,
                   uint64_t first_range, Stream& stream, std::span<RangeTag> out) override {
    PAVISE_RETURN_IF_ERROR(cpu_->Tag(keys, buffer, range, first_range, stream, out));
    PAVISE_RETURN_IF_ERROR(stream.Wait());
    if (faults_.tag) faults_.tag(tag_calls_++, out);
    return absl::OkStatus();
  }

 private:
  Faults faults_;
  int digest_calls_ = 0;
  int tag_calls_ = 0;
  std::unique_ptr<Device> cpu_ = NewCpuDevice(2);
};

void ExpectWrongAnswer(const absl::StatusOr<Measurement>& result, const std::string& text) {
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(ExitCodeOf(result.status()), 3) << result.status();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(text));
}

TEST(MeasureTest, EveryMeasureOfARightDeviceIsCheckedAndCounted) {
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(NewCpuDevice(2));
  if (!ListOpenClDevices().empty()) devices.push_back(NewOpenClDevice(0).value());
  for (const auto& device : devices) {
    for (const uint64_t size_bytes : {uint64_t{1}, kMiB, 3 * kMiB + 5}) {
      SCOPED_TRACE(device->name() + " " + std::to_string(size_bytes));
      const auto measurer = DeviceMeasurer::Create(*device, size_bytes);
      ASSERT_TRUE(measurer.ok()) << measurer.status();
      EXPECT_EQ((*measurer)->upload_ns() == 0, device->name() == "cpu");
      const uint64_t ranges = (size_bytes + kMiB - 1) / kMiB;
      size_t measured = 0;
      for (const Measure measure : kMeasures) {
        SCOPED_TRACE(MeasureName(measure));
        const auto result = (*measurer)->Time(measure, 0);
        ASSERT_TRUE(result.ok()) << result.status();
        const bool is_whole = measure == Measure::kBlake3 || measure == Measure::kCopy;
        EXPECT_EQ(result->answers, is_whole                          ? 1
                                   : measure == Measure::kTagTwoKeys ? 2 * ranges
                                                                     : ranges);
        EXPECT_EQ(result->answers_checked, result->answers);
        EXPECT_EQ(result->runs, 3u);
        EXPECT_GT(result->least_ns, 0u);
        EXPECT_GE(result->median_ns, result->least_ns);
        EXPECT_EQ(result->bytes_moved, measure == Measure::kCopy ? 2 * size_bytes : size_bytes);
        ++measured;
      }
      EXPECT_EQ(measured, 7u);
    }
  }
  if (devices.size() == 1) GTEST_SKIP() << "no OpenCL device: the CPU alone was tried";
}

TEST(MeasureTest, AWrongDigestIsNoRate) {
  constexpr uint64_t kSize = 2 * kMiB + 7;
  // The first run, checked against the CPU, and a later one, checked against the first.
  for (const int call : {0, 2}) {
    for (const Measure measure : {Measure::kBlake3, Measure::kBlake3Ranges, Measure::kSha256Ranges,
                                  Measure::kSha384Ranges}) {
      SCOPED_TRACE(MeasureName(measure));
      FaultyDevice device({.digest = [&](int number, std::span<uint8_t> out) {
        if (number == call) out.back() ^= 1;
      }});
      const auto measurer = DeviceMeasurer::Create(device, kSize).value();
      ExpectWrongAnswer(measurer->Time(measure, 0),
                        measure == Measure::kBlake3 ? "number 0" : "number 2");
    }
    FaultyDevice device({.tag = [&](int number, std::span<RangeTag> out) {
      if (number == call) out.back()[0] ^= 0x80;
    }});
    const auto measurer = DeviceMeasurer::Create(device, kSize).value();
    ExpectWrongAnswer(measurer->Time(Measure::kTagTwoKeys, 0), "number 5");
  }
}

TEST(MeasureTest, SwappedAnswersAndMissingOnesAreNoRate) {
  FaultyDevice swapping({.digest = [](int, std::span<uint8_t> out) {
    std::swap_ranges(out.begin(), out.begin() + 32, out.begin() + 32);
  }});
  ExpectWrongAnswer(
      DeviceMeasurer::Create(swapping, 2 * kMiB).value()->Time(Measure::kSha256Ranges, 0),
      "number 0");
  FaultyDevice idle({.digest = [](int number, std::span<uint8_t> out) {
    if (number > 0) std::fill(out.begin(), out.end(), uint8_t{0});
  }});
  ExpectWrongAnswer(DeviceMeasurer::Create(idle, 2 * kMiB).value()->Time(Measure::kSha256Ranges, 0),
                    "number 0");
  FaultyDevice dropping({.drops_copies = true});
  ExpectWrongAnswer(DeviceMeasurer::Create(dropping, 2 * kMiB).value()->Time(Measure::kCopy, 0),
                    "copy");
}

TEST(MeasureTest, WhatTheDeviceCannotHoldIsRefused) {
  FaultyDevice small({.memory_bytes = 3 * kMiB});
  const auto refused = DeviceMeasurer::Create(small, 3 * kMiB + 1);
  EXPECT_EQ(ReasonOf(refused.status()), Reason::kUnsupported);
  const auto measurer = DeviceMeasurer::Create(small, 2 * kMiB).value();
  EXPECT_EQ(ReasonOf(measurer->Time(Measure::kCopy, 0).status()), Reason::kUnsupported);
  EXPECT_TRUE(measurer->Time(Measure::kBlake3, 0).ok());
  EXPECT_EQ(ExitCodeOf(DeviceMeasurer::Create(small, 0).status()), 2);
  // Bytes that land elsewhere: the length of the copy no longer fits, or its digest does not.
  FaultyDevice shifting({.shift_bytes = 1});
  const auto shifted = DeviceMeasurer::Create(shifting, 2 * kMiB);
  ASSERT_TRUE(shifted.ok()) << shifted.status();
  ExpectWrongAnswer((*shifted)->Time(Measure::kBlake3, 0), "number 0");
}

TEST(MeasureTest, NamesAreOneToOne) {
  size_t names = 0;
  for (const Measure measure : kMeasures) {
    EXPECT_EQ(MeasureFromName(MeasureName(measure)), measure);
    ++names;
  }
  EXPECT_EQ(names, 7u);
  EXPECT_EQ(MeasureFromName("blake2b"), std::nullopt);
}

}  // namespace
}  // namespace pavise::hash
