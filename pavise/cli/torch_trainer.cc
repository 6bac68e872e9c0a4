#include "pavise/cli/torch_trainer.h"

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/offload/devices.h"
#include "pavise/offload/grpc/remote_worker.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/scheme_named.h"

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace pavise::cli {
namespace {

constexpr std::string_view kInProcess = "in-process:";
constexpr uint64_t kMostWorkers = 64;
constexpr uint64_t kInProcessMemoryBytes = uint64_t{64} << 30;
#ifdef PAVISE_HAS_GRPC
constexpr uint64_t kMaxPemBytes = uint64_t{1} << 20;
constexpr absl::Duration kConnectTimeout = absl::Seconds(20);
#endif

std::unique_ptr<offload::WorkerConnection> NewInProcessWorker(
    const std::string& name, std::shared_ptr<offload::ComputeDevice> device) {
  offload::WorkerOptions options;
  options.name = name;
  // This process's own memory, or its GPU's: what does not fit fails there.
  options.memory_limit_bytes = kInProcessMemoryBytes;
  return offload::ConnectInProcess(options, std::move(device));
}

// N[@DEVICE]. Each counts as an operator of its own: who watches this process sees all of them.
absl::StatusOr<std::vector<offload::WorkerSeat>> InProcessWorkers(std::string_view list) {
  const size_t at = list.find('@');
  const std::string_view device_name = at == list.npos ? "cpu" : list.substr(at + 1);
  PAVISE_ASSIGN_OR_RETURN(const uint64_t count,
                          ParseCount("--workers", std::string(list.substr(0, at))));
  if (count < 1 || count > kMostWorkers)
    return UsageError("--workers: in-process:1 to in-process:64");
  // A device serves all of them.
  PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<offload::ComputeDevice> device,
                          offload::OpenComputeDevice(device_name));
  std::vector<offload::WorkerSeat> seats;
  for (uint64_t i = 1; i <= count; ++i) {
    const std::string name = StrCat("in-process ", i);
    seats.push_back({NewInProcessWorker(name, device), name});
  }
  return seats;
}

#ifdef PAVISE_HAS_GRPC
// ADDRESS[=OPERATOR],... Workers whose operator is not named count as one operator's: a scheme that
// rests on operators that do not collude then refuses them.
absl::StatusOr<std::vector<offload::WorkerSeat>> RemoteWorkers(const OffloadArguments& arguments) {
  if (arguments.worker_ca.empty() || arguments.certificate.empty() || arguments.key.empty()) {
    return UsageError(
        "workers at addresses need --worker-ca, and --cert and --key for them to admit this "
        "machine");
  }
  auto identity = std::make_shared<offload::TlsIdentity>();
  PAVISE_ASSIGN_OR_RETURN(const Bytes chain, ReadFile(arguments.certificate, kMaxPemBytes));
  PAVISE_ASSIGN_OR_RETURN(identity->private_key, ReadSecretFile(arguments.key, kMaxPemBytes));
  PAVISE_ASSIGN_OR_RETURN(const Bytes authorities, ReadFile(arguments.worker_ca, kMaxPemBytes));
  identity->certificate_chain = std::string(AsText(chain));
  identity->authorities = std::string(AsText(authorities));
  std::vector<offload::WorkerSeat> seats;
  for (const absl::string_view entry : absl::StrSplit(ToAbsl(arguments.workers), ',')) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(entry, absl::MaxSplits('=', 1));
    if (parts.first.empty()) return UsageError("--workers: an address is empty");
    if (seats.size() == kMostWorkers) return UsageError("--workers: at most 64");
    offload::RemoteWorkerOptions options;
    options.address = parts.first;
    options.identity = identity;
    PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<offload::WorkerConnection> connection,
                            offload::ConnectToWorker(options, absl::Now() + kConnectTimeout));
    seats.push_back({std::move(connection), parts.second, parts.first});
  }
  return seats;
}
#else
absl::StatusOr<std::vector<offload::WorkerSeat>> RemoteWorkers(const OffloadArguments&) {
  return Refuse(Reason::kUnsupported, "--workers", "this build has no gRPC: only in-process:N",
                "build with gRPC (PAVISE_GRPC), or give in-process:1");
}
#endif

absl::StatusOr<std::vector<offload::WorkerSeat>> ConnectWorkers(const OffloadArguments& arguments) {
  const std::string_view list = arguments.workers;
  return list.starts_with(kInProcess) ? InProcessWorkers(list.substr(kInProcess.size()))
                                      : RemoteWorkers(arguments);
}

class TorchTrainer final : public Trainer {
 public:
  absl::StatusOr<train::OffloadSetting> Connect(const OffloadArguments& arguments) override {
    train::OffloadSetting setting;
    PAVISE_ASSIGN_OR_RETURN(setting.scheme, offload::NewSchemeNamed(arguments.scheme));
    PAVISE_ASSIGN_OR_RETURN(setting.workers, ConnectWorkers(arguments));
    setting.options.type = arguments.wire == "fp32"   ? offload::DType::kFp32
                           : arguments.wire == "fp16" ? offload::DType::kFp16
                                                      : offload::DType::kBf16;
    PAVISE_ASSIGN_OR_RETURN(const uint64_t parts,
                            ParseCount("--micro-batches", arguments.micro_batches));
    PAVISE_ASSIGN_OR_RETURN(const uint64_t width,
                            ParseCount("--least-width", arguments.least_width));
    if (width > offload::kMaxDimension) return UsageError("--least-width: at most 16777216");
    setting.options.micro_batches = parts;
    setting.least_width = static_cast<int64_t>(width);
    setting.attention = !arguments.no_attention;
    setting.plan = arguments.plan;
    return setting;
  }
  absl::StatusOr<train::TrainingResult> Train(const train::TrainingRequest& request,
                                              const train::ImageSplits& splits,
                                              train::TrainingObserver& observer) override {
    return train::Train(request, splits, observer);
  }
  absl::StatusOr<train::InferenceResult> Infer(const loading::VerifiedLoad& model,
                                               const train::ImageDataset& images,
                                               uint64_t batch_size, unsigned threads,
                                               const train::OffloadSetting* offload) override {
    return train::Infer(model, images, batch_size, threads, offload);
  }
  absl::StatusOr<audit::RecordedRun> Record(
      const std::string& scheme, audit::RunRequest request, const train::ImageSplits& splits,
      const std::function<void(std::string_view)>& on_phase) override {
    PAVISE_ASSIGN_OR_RETURN(request.scheme, offload::NewSchemeNamed(scheme));
    PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<offload::ComputeDevice> device,
                            offload::OpenComputeDevice("cpu"));
    request.new_worker = [device](const std::string& name) {
      return NewInProcessWorker(name, device);
    };
    return audit::RecordRun(request, splits.train, splits.classes, on_phase);
  }
};

}  // namespace

std::unique_ptr<Trainer> NewTorchTrainer() { return std::make_unique<TorchTrainer>(); }

}  // namespace pavise::cli
