#include "pavise/cli/torch_trainer.h"

#include <memory>
#include <string_view>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/none.h"
#include "pavise/offload/onednn/onednn_products.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/offload/shared.h"
#include "pavise/offload/tempo.h"

namespace pavise::cli {
namespace {

constexpr std::string_view kInProcess = "in-process:";
constexpr uint64_t kMostInProcess = 64;

absl::StatusOr<std::shared_ptr<const offload::Scheme>> NewScheme(std::string_view name) {
  if (name == "none") return offload::NewNoneScheme();
  if (name == "tempo") return offload::NewTempoScheme();
  if (name == "orthogonal") return offload::NewOrthogonalScheme();
  if (name == "shared") return offload::NewSharedScheme();
  return UsageError(StrCat("--scheme: there is no '", name, "'"));
}

// Each counts as an operator of its own: who watches this process sees all of them.
absl::StatusOr<std::vector<offload::WorkerSeat>> ConnectWorkers(const std::string& list) {
  if (!list.starts_with(kInProcess)) {
    return Refuse(Reason::kUnsupported, "--workers",
                  "only in-process:N is connected by this version",
                  "give in-process:1, or as many as the scheme needs");
  }
  PAVISE_ASSIGN_OR_RETURN(const uint64_t count,
                          ParseCount("--workers", list.substr(kInProcess.size())));
  if (count < 1 || count > kMostInProcess)
    return UsageError("--workers: in-process:1 to in-process:64");
  std::vector<offload::WorkerSeat> seats;
  for (uint64_t i = 1; i <= count; ++i) {
    std::unique_ptr<offload::HostProducts> products = offload::NewOneDnnProducts();
    if (products == nullptr) products = offload::NewPlainProducts();
    offload::WorkerOptions options;
    options.name = StrCat("in-process ", i);
    seats.push_back({offload::ConnectInProcess(options, offload::NewCpuDevice(std::move(products))),
                     options.name});
  }
  return seats;
}

class TorchTrainer final : public Trainer {
 public:
  absl::StatusOr<train::OffloadSetting> Connect(const OffloadArguments& arguments) override {
    train::OffloadSetting setting;
    PAVISE_ASSIGN_OR_RETURN(setting.scheme, NewScheme(arguments.scheme));
    PAVISE_ASSIGN_OR_RETURN(setting.workers, ConnectWorkers(arguments.workers));
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
};

}  // namespace

std::unique_ptr<Trainer> NewTorchTrainer() { return std::make_unique<TorchTrainer>(); }

}  // namespace pavise::cli
