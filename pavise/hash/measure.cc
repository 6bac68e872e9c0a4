#include "pavise/hash/measure.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <exception>
#include <thread>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/hash/blake3.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/hash/tag.h"

namespace pavise::hash {
namespace {

constexpr uint64_t kPeriodBytes = 251;
// Whole periods, so that all blocks that travel are the same and the staging is filled once.
constexpr uint64_t kFillBytes = kPeriodBytes << 16;
constexpr uint64_t kFewestRuns = 3;
constexpr uint64_t kMostRuns = 1000;

uint64_t NanosecondsSince(std::chrono::steady_clock::time_point begin) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin)
          .count());
}

// Up to kSubtreeBytes of the pattern from any offset on. Immutable.
class Pattern {
 public:
  Pattern() : bytes_(kSubtreeBytes + kPeriodBytes) {
    for (size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<uint8_t>(i % kPeriodBytes);
  }
  ByteSpan At(const Range& range) const {
    return ByteSpan(bytes_).subspan(range.offset_bytes % kPeriodBytes, range.size_bytes);
  }

 private:
  Bytes bytes_;
};

std::vector<Range> RangesOf(uint64_t size_bytes) {
  std::vector<Range> ranges;
  for (uint64_t offset = 0; offset < size_bytes; offset += kSubtreeBytes) {
    ranges.push_back({offset, std::min<uint64_t>(kSubtreeBytes, size_bytes - offset)});
  }
  return ranges;
}

// Up to `wanted` numbers below `count`, evenly spread, with the first and the last.
std::vector<uint64_t> Sample(uint64_t count, uint64_t wanted) {
  std::vector<uint64_t> sample;
  wanted = std::min(wanted, count);
  for (uint64_t i = 0; i < wanted; ++i) {
    sample.push_back(wanted == 1 ? 0 : i * (count - 1) / (wanted - 1));
  }
  return sample;
}

// The digest of the whole, by the CPU's tree on all CPUs, of which the plain reference confirms
// some leaves.
absl::StatusOr<Digest32> RootByCpu(uint64_t size_bytes, uint64_t sampled) {
  const Pattern pattern;
  const std::vector<Range> ranges = RangesOf(size_bytes);
  if (ranges.size() == 1) return reference::Blake3(pattern.At(ranges[0]));
  std::vector<ChainingValue> values(ranges.size());
  std::atomic<size_t> next{0};
  const auto hash_ranges = [&] {
    for (size_t i = next++; i < ranges.size(); i = next++) {
      values[i] = Blake3Subtree(pattern.At(ranges[i]), ranges[i].offset_bytes / kBlake3ChunkBytes);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < UsableCpus(); ++i) {
    try {
      threads.emplace_back(hash_ranges);
    } catch (const std::exception&) {
      break;  // fewer threads do the same work
    }
  }
  hash_ranges();
  for (std::thread& thread : threads) thread.join();
  for (const uint64_t i : Sample(ranges.size(), sampled)) {
    if (values[i] != reference::Blake3Subtree(pattern.At(ranges[i]),
                                              ranges[i].offset_bytes / kBlake3ChunkBytes)) {
      return MachineFailure("cpu", StrCat("disagrees with the reference about MiB ", i));
    }
  }
  return Blake3RootFromSubtrees(values);
}

// By code that no device runs: OpenSSL, or the plain BLAKE3 written for reading.
absl::StatusOr<Bytes> DigestByReference(Algorithm algorithm, ByteSpan bytes) {
  if (algorithm == Algorithm::kBlake3) {
    const Digest32 digest = reference::Blake3(bytes);
    return Bytes(digest.begin(), digest.end());
  }
  return crypto::Digest(algorithm == Algorithm::kSha256 ? crypto::DigestAlgorithm::kSha256
                                                        : crypto::DigestAlgorithm::kSha384,
                        bytes);
}

absl::Status WrongAnswer(const Device& device, Measure measure, uint64_t number) {
  return MachineFailure(MeasureName(measure), StrCat("a wrong answer from ", device.name(), " (",
                                                     device.description(), "): number ", number));
}

Algorithm AlgorithmOf(Measure measure) {
  return measure == Measure::kSha256Ranges   ? Algorithm::kSha256
         : measure == Measure::kSha384Ranges ? Algorithm::kSha384
                                             : Algorithm::kBlake3;
}

}  // namespace

std::string_view MeasureName(Measure measure) {
  switch (measure) {
    case Measure::kBlake3:
      return "blake3";
    case Measure::kBlake3Ranges:
      return "blake3-1MiB";
    case Measure::kSha256Ranges:
      return "sha256-1MiB";
    case Measure::kSha384Ranges:
      return "sha384-1MiB";
    case Measure::kTag:
      return "tag";
    case Measure::kTagTwoKeys:
      return "tag-2-keys";
    case Measure::kCopy:
      return "copy";
  }
  return "";
}

std::optional<Measure> MeasureFromName(std::string_view name) {
  for (const Measure measure : kMeasures) {
    if (MeasureName(measure) == name) return measure;
  }
  return std::nullopt;
}

double Measurement::gigabytes_per_second() const {
  return median_ns == 0 ? 0 : static_cast<double>(bytes_moved) / static_cast<double>(median_ns);
}

// What one measure asks of the device, and what it must answer.
class DeviceMeasurer::Answers {
 public:
  virtual ~Answers() = default;
  virtual absl::Status Queue(Stream& stream) = 0;
  // Forgets what the latest run gave, so that a run that writes nothing is found out.
  virtual absl::Status Clear() = 0;
  // Of the first run: against the CPU. Sets `answers` and `answers_checked`.
  virtual absl::Status Check(Measurement& measurement) = 0;
  // Of a later one: against the first.
  virtual absl::Status CheckAgain() = 0;
};

namespace {

// Answers of fixed size in one array, a first run's copy of which later runs are compared with.
class ArrayAnswers {
 public:
  explicit ArrayAnswers(size_t size_bytes) : out(size_bytes) {}
  void Forget() { std::fill(out.begin(), out.end(), uint8_t{0}); }
  // The first answer, of `each` bytes, that differs from the first run's.
  std::optional<uint64_t> FirstChange(size_t each) const {
    const auto change = std::mismatch(out.begin(), out.end(), first_.begin()).first;
    if (change == out.end()) return std::nullopt;
    return static_cast<uint64_t>(change - out.begin()) / each;
  }
  void Remember() { first_ = out; }
  Bytes out;

 private:
  Bytes first_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceMeasurer>> DeviceMeasurer::Create(Device& device,
                                                                       uint64_t size_bytes) {
  if (size_bytes == 0) return UsageError("nothing to measure: 0 bytes");
  if (size_bytes > device.memory_bytes()) {
    return Refuse(Reason::kUnsupported, device.name(),
                  StrCat("has ", HumanBytes(device.memory_bytes()), ", and this takes ",
                         HumanBytes(size_bytes)),
                  "measure smaller sizes");
  }
  std::unique_ptr<DeviceMeasurer> measurer(new DeviceMeasurer(device, size_bytes));
  PAVISE_ASSIGN_OR_RETURN(measurer->buffer_, device.Allocate(size_bytes));
  PAVISE_ASSIGN_OR_RETURN(measurer->stream_, device.NewStream());
  PAVISE_RETURN_IF_ERROR(measurer->Fill());
  return measurer;
}

absl::Status DeviceMeasurer::Fill() {
  const uint64_t block_bytes = std::min(kFillBytes, size_bytes_);
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<Staging> staging,
                          device_.AllocateStaging(block_bytes));
  const std::span<uint8_t> block = staging->bytes();
  for (size_t i = 0; i < block.size(); ++i) block[i] = static_cast<uint8_t>(i % kPeriodBytes);
  const auto begin = std::chrono::steady_clock::now();
  absl::Status status;
  for (uint64_t offset = 0; offset < size_bytes_ && status.ok(); offset += block_bytes) {
    const uint64_t size_bytes = std::min(block_bytes, size_bytes_ - offset);
    status = device_.CopyIn(block.first(size_bytes), *buffer_, offset, *stream_);
  }
  status.Update(stream_->Wait());
  upload_ns_ = buffer_->host_bytes().empty() ? NanosecondsSince(begin) : 0;
  return status;
}

absl::StatusOr<Measurement> DeviceMeasurer::TimeAnswers(Answers& answers, double seconds) {
  std::vector<uint64_t> times;
  const auto run = [&]() -> absl::Status {
    PAVISE_RETURN_IF_ERROR(answers.Clear());
    const auto begin = std::chrono::steady_clock::now();
    absl::Status status = answers.Queue(*stream_);
    status.Update(stream_->Wait());
    times.push_back(NanosecondsSince(begin));
    return status;
  };
  Measurement measurement;
  measurement.bytes_moved = size_bytes_;
  PAVISE_RETURN_IF_ERROR(run());
  PAVISE_RETURN_IF_ERROR(answers.Check(measurement));
  if (static_cast<double>(times[0]) < kLongestWarmUpSeconds * 1e9) {
    times.clear();
    const auto begin = std::chrono::steady_clock::now();
    while (times.size() < kMostRuns &&
           (times.size() < kFewestRuns ||
            static_cast<double>(NanosecondsSince(begin)) < seconds * 1e9)) {
      PAVISE_RETURN_IF_ERROR(run());
      PAVISE_RETURN_IF_ERROR(answers.CheckAgain());
    }
  }
  std::sort(times.begin(), times.end());
  measurement.runs = times.size();
  measurement.median_ns = times[times.size() / 2];
  measurement.least_ns = times.front();
  return measurement;
}

absl::StatusOr<Measurement> DeviceMeasurer::Time(Measure measure, double seconds) {
  const std::vector<Range> mebibytes = RangesOf(size_bytes_);
  const auto root = [&]() -> absl::StatusOr<Digest32> {
    if (!root_.has_value()) {
      PAVISE_ASSIGN_OR_RETURN(root_, RootByCpu(size_bytes_, kSampledSubtrees));
    }
    return *root_;
  };

  class Digests final : public Answers {
   public:
    Digests(DeviceMeasurer& measurer, Measure measure, std::vector<Range> ranges)
        : measurer_(measurer),
          measure_(measure),
          ranges_(std::move(ranges)),
          each_(DigestSizeBytes(AlgorithmOf(measure))),
          array_(ranges_.size() * each_) {}
    absl::Status Queue(Stream& stream) override {
      return measurer_.device_.Digest(AlgorithmOf(measure_), *measurer_.buffer_, ranges_, stream,
                                      array_.out);
    }
    absl::Status Clear() override {
      array_.Forget();
      return absl::OkStatus();
    }
    absl::Status Check(Measurement& measurement) override {
      measurement.answers = measurement.answers_checked = ranges_.size();
      if (measure_ == Measure::kBlake3) {
        if (!std::equal(array_.out.begin(), array_.out.end(), measurer_.root_->begin())) {
          return WrongAnswer(measurer_.device_, measure_, 0);
        }
      } else {
        PAVISE_RETURN_IF_ERROR(CheckRanges());
      }
      array_.Remember();
      return absl::OkStatus();
    }
    absl::Status CheckAgain() override {
      const auto change = array_.FirstChange(each_);
      return change.has_value() ? WrongAnswer(measurer_.device_, measure_, *change)
                                : absl::OkStatus();
    }

   private:
    // Whole ranges have as many contents as the pattern has phases.
    absl::Status CheckRanges() const {
      const Pattern pattern;
      std::array<Bytes, kPeriodBytes> of_phase;
      for (size_t i = 0; i < ranges_.size(); ++i) {
        const bool is_whole = ranges_[i].size_bytes == kSubtreeBytes;
        Bytes last;
        Bytes& expected = is_whole ? of_phase[ranges_[i].offset_bytes % kPeriodBytes] : last;
        if (expected.empty()) {
          PAVISE_ASSIGN_OR_RETURN(expected,
                                  DigestByReference(AlgorithmOf(measure_), pattern.At(ranges_[i])));
        }
        if (!std::equal(expected.begin(), expected.end(),
                        array_.out.begin() + static_cast<std::ptrdiff_t>(i * each_))) {
          return WrongAnswer(measurer_.device_, measure_, i);
        }
      }
      return absl::OkStatus();
    }

    DeviceMeasurer& measurer_;
    const Measure measure_;
    const std::vector<Range> ranges_;
    const size_t each_;
    ArrayAnswers array_;
  };

  class Tags final : public Answers {
   public:
    Tags(DeviceMeasurer& measurer, Measure measure, std::vector<Range> ranges)
        : measurer_(measurer), measure_(measure), ranges_(std::move(ranges)) {
      // A benchmark has no secret: what is tagged is public.
      constexpr std::array<uint8_t, 32> kSecret = {1, 2, 3};
      keys_.push_back(TagKey::Derive(kSecret, 1, measurer.size_bytes_));
      if (measure == Measure::kTagTwoKeys) {
        keys_.push_back(TagKey::Derive(kSecret, 2, measurer.size_bytes_));
      }
      tags_.resize(ranges_.size() * keys_.size());
    }
    absl::Status Queue(Stream& stream) override {
      std::vector<const TagKey*> keys;
      for (const TagKey& key : keys_) keys.push_back(&key);
      return measurer_.device_.Tag(keys, *measurer_.buffer_, {0, measurer_.size_bytes_}, 0, stream,
                                   tags_);
    }
    absl::Status Clear() override {
      std::fill(tags_.begin(), tags_.end(), RangeTag{});
      return absl::OkStatus();
    }
    absl::Status Check(Measurement& measurement) override {
      const Pattern pattern;
      const std::vector<uint64_t> sample = Sample(ranges_.size(), kSampledTags);
      for (size_t key = 0; key < keys_.size(); ++key) {
        for (const uint64_t i : sample) {
          if (tags_[key * ranges_.size() + i] !=
              reference::TagRanges(keys_[key], pattern.At(ranges_[i]), i)[0]) {
            return WrongAnswer(measurer_.device_, measure_, key * ranges_.size() + i);
          }
        }
      }
      measurement.answers = tags_.size();
      measurement.answers_checked = keys_.size() * sample.size();
      first_ = tags_;
      return absl::OkStatus();
    }
    absl::Status CheckAgain() override {
      const auto change = std::mismatch(tags_.begin(), tags_.end(), first_.begin()).first;
      if (change == tags_.end()) return absl::OkStatus();
      return WrongAnswer(measurer_.device_, measure_,
                         static_cast<uint64_t>(change - tags_.begin()));
    }

   private:
    DeviceMeasurer& measurer_;
    const Measure measure_;
    const std::vector<Range> ranges_;
    std::vector<TagKey> keys_;
    std::vector<RangeTag> tags_;
    std::vector<RangeTag> first_;
  };

  class Copies final : public Answers {
   public:
    Copies(DeviceMeasurer& measurer, std::unique_ptr<Buffer> target)
        : measurer_(measurer), target_(std::move(target)) {}
    absl::Status Queue(Stream& stream) override {
      return measurer_.device_.CopyWithin(*measurer_.buffer_, {0, measurer_.size_bytes_}, *target_,
                                          0, stream);
    }
    // Its ends: fresh memory may still hold the bytes of an earlier copy.
    absl::Status Clear() override {
      constexpr std::array<uint8_t, 1> kOther = {255};
      for (const uint64_t offset : {uint64_t{0}, measurer_.size_bytes_ - 1}) {
        PAVISE_RETURN_IF_ERROR(
            measurer_.device_.CopyIn(kOther, *target_, offset, *measurer_.stream_));
      }
      return measurer_.stream_->Wait();
    }
    absl::Status Check(Measurement& measurement) override {
      measurement.bytes_moved = 2 * measurer_.size_bytes_;
      measurement.answers = measurement.answers_checked = 1;
      return CheckAgain();
    }
    absl::Status CheckAgain() override {
      const Range whole = {0, measurer_.size_bytes_};
      Digest32 digest = {};
      absl::Status status = measurer_.device_.Digest(
          Algorithm::kBlake3, *target_, std::span(&whole, 1), *measurer_.stream_, digest);
      status.Update(measurer_.stream_->Wait());
      PAVISE_RETURN_IF_ERROR(status);
      return digest == *measurer_.root_ ? absl::OkStatus()
                                        : WrongAnswer(measurer_.device_, Measure::kCopy, 0);
    }

   private:
    DeviceMeasurer& measurer_;
    const std::unique_ptr<Buffer> target_;
  };

  try {
    switch (measure) {
      case Measure::kBlake3: {
        PAVISE_RETURN_IF_ERROR(root().status());
        Digests digests(*this, measure, {{0, size_bytes_}});
        return TimeAnswers(digests, seconds);
      }
      case Measure::kBlake3Ranges:
      case Measure::kSha256Ranges:
      case Measure::kSha384Ranges: {
        Digests digests(*this, measure, mebibytes);
        return TimeAnswers(digests, seconds);
      }
      case Measure::kTag:
      case Measure::kTagTwoKeys: {
        Tags tags(*this, measure, mebibytes);
        return TimeAnswers(tags, seconds);
      }
      case Measure::kCopy: {
        if (size_bytes_ > device_.memory_bytes() / 2) {
          return Refuse(Reason::kUnsupported, device_.name(),
                        StrCat("has no room for a copy of ", HumanBytes(size_bytes_)),
                        "measure smaller sizes");
        }
        PAVISE_RETURN_IF_ERROR(root().status());
        PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> target, device_.Allocate(size_bytes_));
        Copies copies(*this, std::move(target));
        return TimeAnswers(copies, seconds);
      }
    }
  } catch (const std::exception& error) {
    return MachineFailure(device_.name(), error.what());
  }
  return UsageError("no such measure");
}

}  // namespace pavise::hash
