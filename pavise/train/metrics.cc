#include "pavise/train/metrics.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::train {
namespace {

constexpr double kMostMetric = 1e100;

absl::StatusOr<double> GetNumber(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const Json* const value, object.Get(key));
  if (!value->is_number()) {
    return Refuse(Reason::kMalformed, object.PathOf(key), "is not a number");
  }
  const double number = value->get<double>();
  // Beyond any float of a trainer; sums and axes of what is below stay finite.
  if (!(std::abs(number) <= kMostMetric)) {
    return Refuse(Reason::kLimitExceeded, object.PathOf(key), "is over 1e100");
  }
  return number;
}

absl::Status ParseLine(ByteSpan line, std::string_view item, Metrics& metrics) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(line, item));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  if (object.Has("loss")) {
    PAVISE_RETURN_IF_ERROR(object.RequireOnly({"step", "epoch", "loss", "learning_rate"}));
    StepMetrics& step = metrics.steps.emplace_back();
    PAVISE_ASSIGN_OR_RETURN(step.step, object.GetUint("step"));
    PAVISE_ASSIGN_OR_RETURN(step.epoch, object.GetUint("epoch"));
    PAVISE_ASSIGN_OR_RETURN(step.loss, GetNumber(object, "loss"));
    PAVISE_ASSIGN_OR_RETURN(step.learning_rate, GetNumber(object, "learning_rate"));
    return absl::OkStatus();
  }
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"epoch", "step", "train_loss", "train_accuracy",
                                             "test_loss", "test_accuracy", "images_per_second"}));
  EpochMetrics& epoch = metrics.epochs.emplace_back();
  PAVISE_ASSIGN_OR_RETURN(epoch.epoch, object.GetUint("epoch"));
  PAVISE_ASSIGN_OR_RETURN(epoch.step, object.GetUint("step"));
  PAVISE_ASSIGN_OR_RETURN(epoch.train_loss, GetNumber(object, "train_loss"));
  PAVISE_ASSIGN_OR_RETURN(epoch.train_accuracy, GetNumber(object, "train_accuracy"));
  PAVISE_ASSIGN_OR_RETURN(epoch.test_loss, GetNumber(object, "test_loss"));
  PAVISE_ASSIGN_OR_RETURN(epoch.test_accuracy, GetNumber(object, "test_accuracy"));
  PAVISE_ASSIGN_OR_RETURN(epoch.images_per_second, GetNumber(object, "images_per_second"));
  return absl::OkStatus();
}

}  // namespace

std::string MetricsLine(const StepMetrics& metrics) {
  OrderedJson json;
  json["step"] = metrics.step;
  json["epoch"] = metrics.epoch;
  json["loss"] = metrics.loss;
  json["learning_rate"] = metrics.learning_rate;
  return DumpJson(json, -1) + "\n";
}

std::string MetricsLine(const EpochMetrics& metrics) {
  OrderedJson json;
  json["epoch"] = metrics.epoch;
  json["step"] = metrics.step;
  json["train_loss"] = metrics.train_loss;
  json["train_accuracy"] = metrics.train_accuracy;
  json["test_loss"] = metrics.test_loss;
  json["test_accuracy"] = metrics.test_accuracy;
  json["images_per_second"] = metrics.images_per_second;
  return DumpJson(json, -1) + "\n";
}

absl::StatusOr<Metrics> ParseMetrics(ByteSpan lines, std::string_view item) {
  Metrics metrics;
  for (size_t number = 1; !lines.empty(); ++number) {
    const std::string name = StrCat(item, ":", number);
    const auto end = std::find(lines.begin(), lines.end(), '\n');
    if (end == lines.end()) return Refuse(Reason::kMalformed, name, "the line does not end");
    const size_t length = static_cast<size_t>(end - lines.begin());
    PAVISE_RETURN_IF_ERROR(ParseLine(lines.first(length), name, metrics));
    lines = lines.subspan(length + 1);
  }
  return metrics;
}

absl::StatusOr<MetricsFile> MetricsFile::Open(const std::string& path, uint64_t keep_bytes) {
  FileDescriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!file.is_open()) return FromErrno(errno, "open", path);
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return FromErrno(errno, "lock", path);
    return Refuse(Reason::kPolicyDenied, path, "another process is training in this folder",
                  "wait for it, or train into another folder");
  }
  PAVISE_ASSIGN_OR_RETURN(const FileIdentity identity, IdentityOf(file, path));
  if (identity.size_bytes < keep_bytes) {
    return Refuse(
        Reason::kContentMismatch, path,
        StrCat("has ", identity.size_bytes, " bytes; the checkpoint was made at ", keep_bytes),
        "restore the file, or train from the beginning in another folder");
  }
  if (ftruncate(file.get(), static_cast<off_t>(keep_bytes)) != 0) {
    return FromErrno(errno, "truncate", path);
  }
  return MetricsFile(std::move(file), path, keep_bytes);
}

absl::Status MetricsFile::Append(const std::string& line) {
  PAVISE_RETURN_IF_ERROR(WriteExactly(file_, size_bytes_, AsBytes(line), path_));
  size_bytes_ += line.size();
  return absl::OkStatus();
}

absl::Status MetricsFile::Sync() {
  return fdatasync(file_.get()) == 0 ? absl::OkStatus() : FromErrno(errno, "flush", path_);
}

}  // namespace pavise::train
