#ifndef PAVISE_TRAIN_METRICS_H_
#define PAVISE_TRAIN_METRICS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// What a training run reports, as JSON lines (docs/formats/training.md), and as curves.
namespace pavise::train {

inline constexpr uint64_t kMaxMetricsBytes = uint64_t{1} << 30;

struct StepMetrics {
  uint64_t step = 0;   // from 1
  uint64_t epoch = 0;  // from 1
  double loss = 0;
  double learning_rate = 0;
};

struct EpochMetrics {
  uint64_t epoch = 0;
  uint64_t step = 0;  // the last one of the epoch
  double train_loss = 0;
  double train_accuracy = 0;  // of the epoch's own batches, as they were seen
  double test_loss = 0;
  double test_accuracy = 0;
  double images_per_second = 0;
};

struct Metrics {
  std::vector<StepMetrics> steps;
  std::vector<EpochMetrics> epochs;
};

std::string MetricsLine(const StepMetrics& metrics);
std::string MetricsLine(const EpochMetrics& metrics);
// kMalformed: a line that is none of the two, or a last line without its end.
absl::StatusOr<Metrics> ParseMetrics(ByteSpan lines, std::string_view item);

// The file that a run appends to. One run at a time has it. Not thread-safe.
class MetricsFile {
 public:
  // Keeps the first `keep_bytes` of what is there, and drops what was written after the checkpoint
  // that a run goes on from. kContentMismatch: there are fewer; kPolicyDenied: another process
  // trains there; or the refusals of FromErrno.
  static absl::StatusOr<MetricsFile> Open(const std::string& path, uint64_t keep_bytes);

  absl::Status Append(const std::string& line);
  // Makes what was appended durable.
  absl::Status Sync();
  uint64_t size_bytes() const { return size_bytes_; }

 private:
  MetricsFile(FileDescriptor file, std::string path, uint64_t size_bytes)
      : file_(std::move(file)), path_(std::move(path)), size_bytes_(size_bytes) {}
  FileDescriptor file_;
  std::string path_;
  uint64_t size_bytes_;
};

// Loss by step and accuracy by epoch, side by side, as one SVG 1.1 picture that follows the
// reader's light or dark scheme; lines differ in dashes as well as in colour.
std::string RenderCurves(std::string_view title, const Metrics& metrics);

}  // namespace pavise::train

#endif  // PAVISE_TRAIN_METRICS_H_
