#include "pavise/cli/torch_trainer.h"

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/offload/devices.h"
#include "pavise/offload/grpc/remote_worker.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/onednn/onednn_products.h"
#include "pavise/offload/scheme_named.h"

#include "absl/strings/ascii.h"
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
constexpr uint64_t kMaxListBytes = uint64_t{1} << 16;
constexpr absl::Duration kConnectTimeout = absl::Seconds(20);
// Training waits for it.
constexpr absl::Duration kJoinTimeout = absl::Seconds(5);
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
absl::StatusOr<std::vector<offload::WorkerSeat>> InProcessWorkers(std::string_view list,
                                                                  int threads) {
  const size_t at = list.find('@');
  const std::string_view device_name = at == list.npos ? "cpu" : list.substr(at + 1);
  PAVISE_ASSIGN_OR_RETURN(const uint64_t count,
                          ParseCount("--workers", std::string(list.substr(0, at))));
  if (count < 1 || count > kMostWorkers)
    return UsageError("--workers: in-process:1 to in-process:64");
  // A device serves all of them.
  PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<offload::ComputeDevice> device,
                          offload::OpenComputeDevice(device_name, threads));
  std::vector<offload::WorkerSeat> seats;
  for (uint64_t i = 1; i <= count; ++i) {
    const std::string name = StrCat("in-process ", i);
    seats.push_back({NewInProcessWorker(name, device), name});
  }
  return seats;
}

#ifdef PAVISE_HAS_GRPC
// ADDRESS[=OPERATOR]. Workers whose operator is not named count as one operator's: a scheme that
// rests on operators that do not collude then refuses them.
struct Listed {
  std::string address;
  std::string operated_by;
};

absl::StatusOr<std::vector<Listed>> ParseList(std::string_view text, char separator) {
  std::vector<Listed> list;
  for (const absl::string_view line : absl::StrSplit(ToAbsl(text), separator)) {
    const absl::string_view entry =
        absl::StripAsciiWhitespace(line.substr(0, separator == '\n' ? line.find('#') : line.npos));
    if (entry.empty() && separator == '\n') continue;
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(entry, absl::MaxSplits('=', 1));
    if (parts.first.empty()) return UsageError("--workers: an address is empty");
    if (list.size() == kMostWorkers) return UsageError("--workers: at most 64");
    list.push_back({parts.first, parts.second});
  }
  if (list.empty()) return UsageError("--workers: there are none");
  return list;
}

// Where remote workers come from: a list, or a file that may grow while it is used.
class RemoteWorkers {
 public:
  static absl::StatusOr<std::shared_ptr<RemoteWorkers>> Create(const OffloadArguments& arguments) {
    if (arguments.worker_ca.empty() || arguments.certificate.empty() || arguments.key.empty()) {
      return UsageError(
          "workers at addresses need --worker-ca, and --cert and --key for them to admit this "
          "machine");
    }
    auto workers = std::make_shared<RemoteWorkers>();
    auto identity = std::make_shared<offload::TlsIdentity>();
    PAVISE_ASSIGN_OR_RETURN(const Bytes chain, ReadFile(arguments.certificate, kMaxPemBytes));
    PAVISE_ASSIGN_OR_RETURN(identity->private_key, ReadSecretFile(arguments.key, kMaxPemBytes));
    PAVISE_ASSIGN_OR_RETURN(const Bytes authorities, ReadFile(arguments.worker_ca, kMaxPemBytes));
    identity->certificate_chain = std::string(AsText(chain));
    identity->authorities = std::string(AsText(authorities));
    workers->identity_ = std::move(identity);
    if (arguments.workers.starts_with('@')) workers->path_ = arguments.workers.substr(1);
    workers->list_ = arguments.workers;
    return workers;
  }

  bool may_grow() const { return !path_.empty(); }

  // All that are listed now.
  absl::StatusOr<std::vector<offload::WorkerSeat>> Connect() {
    PAVISE_ASSIGN_OR_RETURN(const std::vector<Listed> list, Read());
    std::vector<offload::WorkerSeat> seats;
    for (const Listed& listed : list) {
      PAVISE_ASSIGN_OR_RETURN(seats.emplace_back(), ConnectTo(listed, kConnectTimeout));
    }
    return seats;
  }

  // Those that the file lists and that are not connected, where it was changed. Lines that are
  // gone change nothing.
  train::NewWorkers Poll() {
    train::NewWorkers came;
    std::error_code error;
    const auto changed = std::filesystem::last_write_time(path_, error);
    if (error || changed == changed_) return came;
    const absl::StatusOr<std::vector<Listed>> list = Read();
    if (!list.ok()) {
      came.failures.emplace_back(FromAbsl(list.status().message()));
      return came;
    }
    for (const Listed& listed : *list) {
      if (connected_.contains(listed.address)) continue;
      absl::StatusOr<offload::WorkerSeat> seat = ConnectTo(listed, kJoinTimeout);
      if (seat.ok()) {
        came.seats.push_back(*std::move(seat));
      } else {
        came.failures.push_back(
            StrCat(FromAbsl(seat.status().message()), " (tried again when ", path_, " changes)"));
      }
    }
    return came;
  }

 private:
  absl::StatusOr<std::vector<Listed>> Read() {
    if (path_.empty()) return ParseList(list_, ',');
    std::error_code ignored;
    // Before it is read: what is written meanwhile is a change.
    changed_ = std::filesystem::last_write_time(path_, ignored);
    PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path_, kMaxListBytes));
    return ParseList(AsText(text), '\n');
  }

  absl::StatusOr<offload::WorkerSeat> ConnectTo(const Listed& listed, absl::Duration timeout) {
    offload::RemoteWorkerOptions options;
    options.address = listed.address;
    options.identity = identity_;
    // Of a contained run, whose one way out it is.
    if (const char* const proxy = std::getenv("PAVISE_WORKER_PROXY")) options.proxy = proxy;
    PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<offload::WorkerConnection> connection,
                            offload::ConnectToWorker(options, absl::Now() + timeout));
    connected_.insert(listed.address);
    return offload::WorkerSeat{std::move(connection), listed.operated_by, listed.address};
  }

  std::shared_ptr<const offload::TlsIdentity> identity_;
  std::string list_;
  std::string path_;
  std::filesystem::file_time_type changed_;
  std::set<std::string> connected_;
};
#endif

// Into the setting.
absl::Status ConnectWorkers(const OffloadArguments& arguments, train::OffloadSetting& setting) {
  const std::string_view list = arguments.workers;
  const bool is_in_process = list.starts_with(kInProcess);
  setting.options.row_blocks = is_in_process ? 1 : kMostWorkers;
  if (!arguments.row_blocks.empty()) {
    PAVISE_ASSIGN_OR_RETURN(setting.options.row_blocks,
                            ParseCount("--row-blocks", arguments.row_blocks));
  }
  if (is_in_process) {
    PAVISE_ASSIGN_OR_RETURN(setting.workers, InProcessWorkers(list.substr(kInProcess.size()),
                                                              arguments.worker_threads));
    return absl::OkStatus();
  }
#ifdef PAVISE_HAS_GRPC
  PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<RemoteWorkers> remote,
                          RemoteWorkers::Create(arguments));
  PAVISE_ASSIGN_OR_RETURN(setting.workers, remote->Connect());
  if (remote->may_grow()) setting.new_workers = [remote] { return remote->Poll(); };
  return absl::OkStatus();
#else
  return Refuse(Reason::kUnsupported, "--workers", "this build has no gRPC: only in-process:N",
                "build with gRPC (PAVISE_GRPC), or give in-process:1");
#endif
}

class TorchTrainer final : public Trainer {
 public:
  absl::StatusOr<train::OffloadSetting> Connect(const OffloadArguments& arguments) override {
    train::OffloadSetting setting;
    PAVISE_ASSIGN_OR_RETURN(setting.scheme, offload::NewSchemeNamed(arguments.scheme));
    PAVISE_RETURN_IF_ERROR(ConnectWorkers(arguments, setting));
    // Products that stay here.
    if (std::shared_ptr<offload::HostProducts> products = offload::NewOneDnnProducts()) {
      setting.options.local_product =
          [products](offload::Operation operation, offload::MatrixView a,
                     offload::MatrixView b) -> absl::StatusOr<offload::Matrix> {
        const bool left = operation == offload::Operation::kTransposeLeft;
        const bool right = operation == offload::Operation::kTransposeRight;
        PAVISE_ASSIGN_OR_RETURN(offload::Matrix out,
                                offload::Matrix::Create(left ? a.columns : a.rows,
                                                        right ? b.rows : b.columns, "product"));
        PAVISE_RETURN_IF_ERROR(products->Floats(operation, a, b, /*add=*/false, out.view()));
        return out;
      };
    }
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
                                               const train::OffloadSetting* offload,
                                               const train::WeightsGuard* guard) override {
    return train::Infer(model, images, batch_size, threads, offload, guard);
  }
  absl::StatusOr<std::vector<train::ModeFigures>> Compare(
      const train::ModesRequest& request, const train::ImageSplits& splits,
      const std::function<void(std::string_view mode, uint64_t round)>& on_turn) override {
    return train::CompareModes(request, splits, on_turn);
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
