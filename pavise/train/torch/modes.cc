#include "pavise/train/torch/modes.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/model/tensor_table.h"
#include "pavise/train/tensor_file.h"

#include "absl/strings/str_format.h"

namespace pavise::train {
namespace {

using Clock = std::chrono::steady_clock;

// Small enough that later gradients hardly feel earlier steps; and so small that no weight moves.
constexpr double kRate = 1e-3;
constexpr double kNoRate = 1e-30;
// A tensor that goes less far than this part of what the farthest goes is not compared: its
// gradient may be nothing but rounding (a bias before a normalisation).
constexpr double kLeastWay = 0.01;

double ProcessCpuSeconds() {
  timespec now = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Traffic {
  std::atomic<uint64_t> sent_bytes = 0;
  std::atomic<uint64_t> received_bytes = 0;
};

uint64_t SizeBytes(const offload::Frames& frames) {
  uint64_t bytes = 0;
  for (const offload::Frame& frame : frames) bytes += frame.bytes.size();
  return bytes;
}

// Counts what passes through.
class CountingConnection final : public offload::WorkerConnection {
 public:
  CountingConnection(std::shared_ptr<offload::WorkerConnection> worker,
                     std::shared_ptr<Traffic> traffic)
      : worker_(std::move(worker)), traffic_(std::move(traffic)) {}
  const offload::WorkerDescription& description() const override { return worker_->description(); }
  std::string certificate() const override { return worker_->certificate(); }
  std::optional<double> cpu_seconds() const override { return worker_->cpu_seconds(); }
  std::unique_ptr<offload::PendingReply> Send(offload::Request request) override {
    traffic_->sent_bytes += SizeBytes(request.frames);
    return std::make_unique<Pending>(worker_->Send(std::move(request)), traffic_);
  }

 private:
  class Pending final : public offload::PendingReply {
   public:
    Pending(std::unique_ptr<offload::PendingReply> reply, std::shared_ptr<Traffic> traffic)
        : reply_(std::move(reply)), traffic_(std::move(traffic)) {}
    absl::StatusOr<offload::Reply> Wait(absl::Time deadline) override {
      absl::StatusOr<offload::Reply> reply = reply_->Wait(deadline);
      if (reply.ok()) traffic_->received_bytes += SizeBytes(reply->frames);
      return reply;
    }

   private:
    const std::unique_ptr<offload::PendingReply> reply_;
    const std::shared_ptr<Traffic> traffic_;
  };
  const std::shared_ptr<offload::WorkerConnection> worker_;
  const std::shared_ptr<Traffic> traffic_;
};

// Everything that is counted, at one moment.
struct Reading {
  Clock::time_point time;
  double process_cpu_seconds = 0;
  std::optional<double> worker_cpu_seconds;
  uint64_t sent_bytes = 0;
  uint64_t received_bytes = 0;
};

class Meter final : public TrainingObserver {
 public:
  explicit Meter(uint64_t batch_size) : batch_size_(batch_size), begin_(Clock::now()) {}

  void Watch(std::vector<offload::WorkerSeat>& seats) {
    for (offload::WorkerSeat& seat : seats) {
      seat.connection = std::make_shared<CountingConnection>(std::move(seat.connection), traffic_);
      workers_.push_back(seat.connection);
    }
  }
  void OnProtected(const std::vector<std::string>& offloaded,
                   const std::vector<std::string>&) override {
    offloaded_layers_ = offloaded.size();
  }
  void OnStep(const StepReport& report) override {
    last_ = Read();
    if (report.step == 1) first_ = last_;
    losses_.push_back(report.loss);
  }

  const std::vector<double>& losses() const { return losses_; }
  size_t offloaded_layers() const { return offloaded_layers_; }
  ModeTurn Turn() const {
    ModeTurn turn;
    turn.images = (losses_.size() - 1) * batch_size_;
    turn.seconds = std::chrono::duration<double>(last_.time - first_.time).count();
    turn.setup_seconds = std::chrono::duration<double>(first_.time - begin_).count();
    turn.coordinator_cpu_seconds = last_.process_cpu_seconds - first_.process_cpu_seconds;
    if (last_.worker_cpu_seconds.has_value() && first_.worker_cpu_seconds.has_value()) {
      turn.worker_cpu_seconds = *last_.worker_cpu_seconds - *first_.worker_cpu_seconds;
      turn.coordinator_cpu_seconds -= *turn.worker_cpu_seconds;
    }
    turn.sent_bytes = last_.sent_bytes - first_.sent_bytes;
    turn.received_bytes = last_.received_bytes - first_.received_bytes;
    turn.setup_sent_bytes = first_.sent_bytes;
    turn.setup_received_bytes = first_.received_bytes;
    return turn;
  }

 private:
  Reading Read() const {
    Reading now;
    now.time = Clock::now();
    now.process_cpu_seconds = ProcessCpuSeconds();
    now.worker_cpu_seconds = 0;
    for (const auto& worker : workers_) {
      const std::optional<double> seconds = worker->cpu_seconds();
      now.worker_cpu_seconds = seconds.has_value() && now.worker_cpu_seconds.has_value()
                                   ? std::optional(*now.worker_cpu_seconds + *seconds)
                                   : std::nullopt;
    }
    now.sent_bytes = traffic_->sent_bytes;
    now.received_bytes = traffic_->received_bytes;
    return now;
  }

  const uint64_t batch_size_;
  const Clock::time_point begin_;
  const std::shared_ptr<Traffic> traffic_ = std::make_shared<Traffic>();
  std::vector<std::shared_ptr<offload::WorkerConnection>> workers_;
  size_t offloaded_layers_ = 0;
  Reading first_;
  Reading last_;
  std::vector<double> losses_;
};

using Tensors = std::vector<std::vector<float>>;

// The parameters of the model that Train wrote. Running statistics are no gradients'.
absl::StatusOr<Tensors> ReadParameters(const std::string& model_folder) {
  const std::string path = model_folder + "/model.safetensors";
  PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(path, kMaxTensorFileBytes));
  const ByteSpan file = bytes;
  PAVISE_ASSIGN_OR_RETURN(const uint64_t header_bytes,
                          model::SafetensorsHeaderBytes(
                              file.first(std::min<size_t>(file.size(), 8)), file.size(), path));
  PAVISE_ASSIGN_OR_RETURN(
      const model::TensorTable table,
      model::ParseSafetensorsHeader(file.first(header_bytes), file.size(), path));
  Tensors tensors;
  for (const model::TensorEntry& entry : table.tensors) {
    if (entry.dtype != "F32" || entry.name.find("running_") != std::string::npos) continue;
    const uint64_t size_bytes = entry.end_bytes - entry.begin_bytes;
    tensors.emplace_back(size_bytes / sizeof(float));
    std::memcpy(tensors.back().data(), bytes.data() + entry.begin_bytes, size_bytes);
  }
  return tensors;
}

double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return std::sqrt(sum);
}

// ModeTurn::update_difference. All are parameters of one network.
double UpdateDifference(const Tensors& run, const Tensors& tee, const Tensors& begin) {
  std::vector<double> ways;  // how far each went
  for (size_t i = 0; i < begin.size(); ++i) ways.push_back(Distance(tee.at(i), begin[i]));
  const double longest = *std::max_element(ways.begin(), ways.end());
  double most = 0;
  for (size_t i = 0; i < begin.size(); ++i) {
    if (ways[i] < kLeastWay * longest) continue;
    const double distance = Distance(run.at(i), tee[i]);
    if (distance > 0) most = std::max(most, distance / ways[i]);
  }
  return most;
}

struct RunResult {
  ModeTurn turn;
  size_t offloaded_layers = 0;
  std::vector<double> losses;
  Tensors parameters;
};

absl::StatusOr<RunResult> RunOnce(const ModesRequest& request, const Mode& mode,
                                  const ImageSplits& splits, double rate) {
  TrainingRequest training;
  training.options = request.options;
  training.options.epochs = 1;
  training.options.warmup_steps = 0;
  training.options.cosine = false;
  training.options.learning_rate = rate;
  training.options.weight_decay = 0;
  training.options.threads = mode.threads;
  training.options.scheme = mode.scheme;
  training.folder = request.folder + "/run";
  std::error_code error;
  std::filesystem::create_directory(training.folder, error);
  if (error) return FromErrno(error.value(), "create", training.folder);
  Meter meter(training.options.batch_size);
  std::optional<OffloadSetting> offload;
  if (mode.connect) {
    PAVISE_ASSIGN_OR_RETURN(offload, mode.connect());
    meter.Watch(offload->workers);
    training.offload = &*offload;
  }
  const absl::StatusOr<TrainingResult> trained = Train(training, splits, meter);
  absl::StatusOr<Tensors> parameters =
      trained.ok() ? ReadParameters(trained->model_folder) : trained.status();
  std::filesystem::remove_all(training.folder, error);
  PAVISE_RETURN_IF_ERROR(parameters.status());
  return RunResult{meter.Turn(), meter.offloaded_layers(), meter.losses(), *std::move(parameters)};
}

bool IsNotOffered(const absl::Status& status) {
  return ReasonOf(status) == Reason::kUnsupported || ReasonOf(status) == Reason::kPolicyDenied;
}

// Into the turn; a machine failure where they are too far apart.
absl::Status Compare(const Mode& mode, const RunResult& tee, const Tensors& begin, RunResult& run) {
  ModeTurn& turn = run.turn;
  for (size_t i = 0; i < run.losses.size(); ++i) {
    const double difference = std::abs(run.losses[i] - tee.losses.at(i));
    turn.loss_difference = std::max(turn.loss_difference, difference);
    if (difference > kMostLossDifference * std::max(1.0, std::abs(tee.losses[i]))) {
      return MachineFailure(
          mode.name,
          absl::StrFormat("a wrong answer: the loss of step %d is %.4f, and in the clear "
                          "%.4f; nothing is told of its speed",
                          i + 1, run.losses[i], tee.losses[i]));
    }
  }
  turn.update_difference = UpdateDifference(run.parameters, tee.parameters, begin);
  if (turn.update_difference <= kMostUpdateDifference) return absl::OkStatus();
  return MachineFailure(
      mode.name, absl::StrFormat(
                     "a wrong answer: trained weights are off by %.0f%% of the way that they go in "
                     "the clear; nothing is told of its speed",
                     100 * turn.update_difference));
}

}  // namespace

absl::StatusOr<std::vector<ModeFigures>> CompareModes(
    const ModesRequest& request, const ImageSplits& splits,
    const std::function<void(std::string_view mode, uint64_t round)>& on_turn) {
  if (request.modes.empty() || request.modes[0].connect || request.rounds == 0) {
    return UsageError("modes: the first one has no workers, and there is at least one round");
  }
  if (BatchesOf(splits.train.count(), request.options.batch_size) < 2 ||
      splits.train.count() % request.options.batch_size != 0) {
    return UsageError("modes: two or more whole batches of images");
  }
  std::vector<ModeFigures> figures(request.modes.size());
  // Where all begin. It warms the machine up, too.
  on_turn("warming up", 0);
  ImageSplits one_batch = splits;
  one_batch.train.Thin(request.options.batch_size);
  PAVISE_ASSIGN_OR_RETURN(const RunResult begin,
                          RunOnce(request, request.modes[0], one_batch, kNoRate));
  for (uint64_t round = 1; round <= request.rounds; ++round) {
    RunResult tee;
    for (size_t i = 0; i < request.modes.size(); ++i) {
      if (!figures[i].why_not.empty()) continue;
      const Mode& mode = request.modes[i];
      on_turn(mode.name, round);
      absl::StatusOr<RunResult> run = RunOnce(request, mode, splits, kRate);
      if (!run.ok() && round == 1 && i > 0 && IsNotOffered(run.status())) {
        const std::vector<Refusal> found = RefusalsOf(run.status());
        figures[i].why_not = StrCat(found.at(0).item, ": ", found[0].detail);
        continue;
      }
      PAVISE_RETURN_IF_ERROR(run.status());
      if (i == 0) tee = *run;
      PAVISE_RETURN_IF_ERROR(Compare(mode, tee, begin.parameters, *run));
      figures[i].offloaded_layers = run->offloaded_layers;
      figures[i].turns.push_back(run->turn);
    }
  }
  return figures;
}

}  // namespace pavise::train
