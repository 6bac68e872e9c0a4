#ifndef PAVISE_CLI_TRAINING_H_
#define PAVISE_CLI_TRAINING_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/audit/torch/recorded_run.h"
#include "pavise/cli/verb.h"
#include "pavise/train/tensor_file.h"
#include "pavise/train/torch/modes.h"
#include "pavise/train/torch/training.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// What `train`, `infer`, `audit` and `bench modes` share. They are in pavise-train alone, which
// links libtorch; pavise-all has them for its help, completion and manual.
namespace pavise::cli {

// Whether products are done by workers, and by which: --mode, --scheme, --workers and what goes
// with them.
struct OffloadArguments {
  std::string mode = "tee";
  std::string scheme;
  std::string workers;
  std::string worker_ca, certificate, key;
  std::string wire = "bf16";
  std::string micro_batches = "1";
  std::string row_blocks;
  std::string convolutions = "im2col";
  std::string least_width = "32";
  bool no_attention = false;
  bool plan = false;
  // Of a CPU that serves workers within this process; 0: as OMP_NUM_THREADS or the machine says.
  int worker_threads = 0;

  void Declare(CLI::App& app);
  // All of them but the mode and the scheme.
  void DeclareWorkers(CLI::App& app);
  bool is_obfuscated() const { return mode == "obfuscated"; }
  // Usage errors: a scheme or workers without --mode obfuscated, or the mode without these.
  absl::Status Check() const;
  train::ConvolutionForm convolution_form() const {
    return convolutions == "native" ? train::ConvolutionForm::kNative
                                    : train::ConvolutionForm::kIm2col;
  }
};

// What needs libtorch and workers.
class Trainer {
 public:
  virtual ~Trainer() = default;
  // The workers, connected. The arguments were checked.
  virtual absl::StatusOr<train::OffloadSetting> Connect(const OffloadArguments& arguments) = 0;
  virtual absl::StatusOr<train::TrainingResult> Train(const train::TrainingRequest& request,
                                                      const train::ImageSplits& splits,
                                                      train::TrainingObserver& observer) = 0;
  virtual absl::StatusOr<train::InferenceResult> Infer(const loading::VerifiedLoad& model,
                                                       const train::ImageDataset& images,
                                                       uint64_t batch_size, unsigned threads,
                                                       const train::OffloadSetting* offload,
                                                       const train::WeightsGuard* guard) = 0;
  // train::CompareModes.
  virtual absl::StatusOr<std::vector<train::ModeFigures>> Compare(
      const train::ModesRequest& request, const train::ImageSplits& splits,
      const std::function<void(std::string_view mode, uint64_t round)>& on_turn) = 0;
  // audit::RecordRun under the scheme of that name, with workers in this process.
  virtual absl::StatusOr<audit::RecordedRun> Record(
      const std::string& scheme, audit::RunRequest request, const train::ImageSplits& splits,
      const std::function<void(std::string_view)>& on_phase) = 0;
};

// `trainer` outlives the verb. nullptr: the verb is for its help only.
std::unique_ptr<Verb> NewTrainVerb(Trainer* trainer);
std::unique_ptr<Verb> NewInferVerb(Trainer* trainer);
std::unique_ptr<Verb> NewAuditVerb(Trainer* trainer);
// `bench modes`: one training job in every trust mode that this machine offers, in turns
// (train::CompareModes), with what each costs, whom it trusts and what it leaks. A mode that is not
// offered has a row that says why.
std::unique_ptr<Verb> NewModesBench(Trainer* trainer);
// `bench` with that below it.
std::unique_ptr<Verb> NewBenchVerb(std::unique_ptr<Verb> modes);
// The failure of a verb without a trainer.
absl::Status NoTrainer();

// "--data", else $PAVISE_DATA; a usage error where there is neither.
absl::StatusOr<train::ImageSplits> ReadData(const std::string& option);
// The safetensors file at `path`, or in the folder there.
absl::StatusOr<train::TensorFile> ReadWeights(const std::string& path);
// Images to run where the user gave none: noise of 3 x 32 x 32 pixels in ten classes that it has
// nothing to do with.
train::ImageSplits SyntheticImages(size_t count);
// Of "--threads" as ParseThreads has it: the number that is meant.
absl::StatusOr<unsigned> ResolveThreads(const std::string& option);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_TRAINING_H_
