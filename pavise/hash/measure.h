#ifndef PAVISE_HASH_MEASURE_H_
#define PAVISE_HASH_MEASURE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/hash/device.h"

#include "absl/status/statusor.h"

// How many bytes a second a device hashes, tags and copies of what lies in its memory, each timed
// answer held against the CPU's. For `pavise bench hash`, and for programs that choose a device.
namespace pavise::hash {

enum class Measure {
  kBlake3,        // the digest of all bytes as one input
  kBlake3Ranges,  // a digest of each kSubtreeBytes range (the last may be shorter)
  kSha256Ranges,
  kSha384Ranges,
  kTag,         // keyed tags of all ranges
  kTagTwoKeys,  // the same under two keys in one call, as the guard asks for them
  kCopy,        // from one buffer to another: what memory alone can do, read and written
};
inline constexpr Measure kMeasures[] = {
    Measure::kBlake3, Measure::kBlake3Ranges, Measure::kSha256Ranges, Measure::kSha384Ranges,
    Measure::kTag,    Measure::kTagTwoKeys,   Measure::kCopy};
// "blake3", "blake3-1MiB", "sha256-1MiB", "sha384-1MiB", "tag", "tag-2-keys", "copy"; part of
// --json and stable.
std::string_view MeasureName(Measure measure);
std::optional<Measure> MeasureFromName(std::string_view name);

struct Measurement {
  uint64_t bytes_moved = 0;  // that the rate is of: twice the size for kCopy, else the size
  uint64_t median_ns = 0;    // of the runs; wall-clock, from the call to the end of Stream::Wait
  uint64_t least_ns = 0;
  uint64_t runs = 0;
  // Digests, tags or copies that a run gives, and how many of them were computed on the CPU too;
  // every run must give the same.
  uint64_t answers = 0;
  uint64_t answers_checked = 0;

  double gigabytes_per_second() const;  // decimal
};

// Bytes in a device's memory, and the clock. Not thread-safe; the device must outlive it.
//
// The bytes are 0, 1, ..., 250, 0, 1, ...: the period is prime, so that no two aligned blocks of a
// length below it are alike and swapped ones show, and the CPU's answers for any size come from one
// MiB of pattern.
class DeviceMeasurer {
 public:
  // Allocates `size_bytes` (above 0) on the device and fills them through staging memory, the time
  // of which is upload_ns(). Refusal kUnsupported where the device cannot have so much, kInternal
  // where it fails.
  static absl::StatusOr<std::unique_ptr<DeviceMeasurer>> Create(Device& device,
                                                                uint64_t size_bytes);

  // Runs once to warm up and then again and again, at least three times and until `seconds` are
  // over; a first run that took longer than kLongestWarmUpSeconds is the only one, and counts.
  //
  // Checked: all digests; of tags kSampledTags under each key; of a copy the BLAKE3 digest.
  // kInternal for a wrong answer, which it names; kUnsupported for what the device does not
  // compute, and for a copy that finds no room.
  absl::StatusOr<Measurement> Time(Measure measure, double seconds);

  // Of the latest filling, from pinned memory where the device has such; 0 where the device's
  // memory is the host's, to which nothing travels.
  uint64_t upload_ns() const { return upload_ns_; }

  static constexpr double kLongestWarmUpSeconds = 30;
  static constexpr uint64_t kSampledTags = 32;
  // BLAKE3 chaining values that the plain reference computes besides the CPU's own tree.
  static constexpr uint64_t kSampledSubtrees = 8;

 private:
  class Answers;
  DeviceMeasurer(Device& device, uint64_t size_bytes) : device_(device), size_bytes_(size_bytes) {}
  absl::Status Fill();
  absl::StatusOr<Measurement> TimeAnswers(Answers& answers, double seconds);

  Device& device_;
  const uint64_t size_bytes_;
  std::unique_ptr<Buffer> buffer_;
  std::unique_ptr<Stream> stream_;
  uint64_t upload_ns_ = 0;
  std::optional<Digest32> root_;  // by the CPU
};

}  // namespace pavise::hash

#endif  // PAVISE_HASH_MEASURE_H_
