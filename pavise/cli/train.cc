#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>
#include <tuple>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/training.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/keys.h"
#include "pavise/signing/sign.h"

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

namespace pavise::cli {
namespace {

constexpr const char* kDataGroup = "Data";
constexpr const char* kNetworkGroup = "Network and optimizer";
constexpr const char* kRunGroup = "The run";
constexpr const char* kKeyGroup = "Signature";

std::string TimeLeft(double seconds) {
  const auto left = static_cast<uint64_t>(seconds);
  return left >= 3600 ? absl::StrFormat("%d h %02d min", left / 3600, left / 60 % 60)
                      : absl::StrFormat("%d:%02d", left / 60, left % 60);
}

// A line on standard error for each epoch, and on a terminal one that is written over meanwhile.
class ProgressLines final : public train::TrainingObserver {
 public:
  explicit ProgressLines(bool quiet) : quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1) {}

  void OnStep(const train::StepReport& report) override {
    if (quiet_ || !terminal_) return;
    std::fputs(
        absl::StrFormat(
            "\r\x1b[Kepoch %d/%d  step %d/%d  loss %.4f  accuracy %.1f%%  %.0f images/s  %s left",
            report.epoch, report.epochs, report.step, report.steps, report.loss,
            100 * report.accuracy, report.images_per_second, TimeLeft(report.seconds_left))
            .c_str(),
        stderr);
  }
  void OnEpoch(const train::EpochMetrics& epoch) override {
    if (quiet_) return;
    std::fputs(absl::StrFormat("%sepoch %d: loss %.4f, accuracy %.1f%%; test loss %.4f, accuracy "
                               "%.1f%%; %.0f images/s\n",
                               terminal_ ? "\r\x1b[K" : "", epoch.epoch, epoch.train_loss,
                               100 * epoch.train_accuracy, epoch.test_loss,
                               100 * epoch.test_accuracy, epoch.images_per_second)
                   .c_str(),
               stderr);
  }
  void OnWorker(const std::string& what) override {
    if (quiet_) return;
    std::fputs(StrCat(terminal_ ? "\r\x1b[K" : "", Printable(what), "\n").c_str(), stderr);
  }
  void OnProtected(const std::vector<std::string>& offloaded,
                   const std::vector<std::string>& kept) override {
    if (quiet_) return;
    std::fputs(
        StrCat(Counted(offloaded.size(), "layer"), " offloaded, ", kept.size(), " kept here:\n")
            .c_str(),
        stderr);
    for (const std::string& layer : kept)
      std::fputs(StrCat("  ", Printable(layer), "\n").c_str(), stderr);
  }

 private:
  bool quiet_;
  bool terminal_;
};

absl::StatusOr<double> ParseNumber(std::string_view option, const std::string& text) {
  double number = 0;
  if (!absl::SimpleAtod(text, &number)) return UsageError(StrCat(option, ": a number"));
  return number;
}

class TrainVerb final : public Verb {
 public:
  explicit TrainVerb(Trainer* trainer) : trainer_(trainer) {}
  std::string_view name() const override { return "train"; }
  std::string_view group() const override { return "Train"; }
  std::string_view summary() const override {
    return "Train a network on images, on this machine or with workers that nobody trusts, and "
           "sign it.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise train --data pneumoniamnist.npz --output run --network resnet18 --private-key "
           "key.pem\n"
           "  pavise train --data cifar-10-batches-bin --output run --flip --crop 4 "
           "--no-signature\n"
           "  pavise train --data pneumoniamnist.npz --output run --no-signature \\\n"
           "    --mode obfuscated --scheme orthogonal --workers in-process:1\n"
           "\n"
           "Networks: mlp, resnet18, resnet50, vgg11, vgg16, vit_tiny, vit_small, vit_base. Data: "
           "CIFAR-10's "
           "binary files, NPZ as MedMNIST has it, IDX as MNIST has it.\n"
           "A run that was cut off goes on with --resume and the same options, to the same result. "
           "Its "
           "checkpoint holds the weights in the clear, for its owner only.";
  }

  void Declare(CLI::App& app) override;
  absl::StatusOr<Outcome> Run(const Session& session) override;
  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return "nothing was trained to its end";
  }

 private:
  absl::StatusOr<train::TrainingOptions> ResolveOptions() const;
  absl::StatusOr<std::unique_ptr<crypto::Signer>> OpenSigner() const;

  Trainer* trainer_;
  OffloadArguments offload_;
  PasswordOptions password_;
  std::string data_, output_, base_, train_images_, test_images_;
  std::string network_ = "resnet18", epochs_ = "10", batch_size_ = "128", optimizer_ = "sgd";
  std::string learning_rate_, momentum_, weight_decay_ = "0.0005", warmup_steps_ = "0";
  std::string schedule_ = "cosine", seed_ = "1", crop_ = "0", threads_, checkpoint_steps_ = "0";
  std::string private_key_, model_name_;
  bool flip_ = false;
  bool resume_ = false;
  bool no_signature_ = false;
  bool discard_checkpoint_ = false;
};

void TrainVerb::Declare(CLI::App& app) {
  AddOption(app, "--data", data_, "PATH",
            "an .npz file, or a folder with CIFAR-10 or IDX files [$PAVISE_DATA]", kDataGroup);
  AddOption(app, "--train-images", train_images_, "N", "N of them, evenly spaced [all]",
            kDataGroup);
  AddOption(app, "--test-images", test_images_, "N", "N of them, evenly spaced [all]", kDataGroup);
  AddFlag(app, "--flip", flip_, "mirror every other image, at random", kDataGroup);
  AddOption(app, "--crop", crop_, "PIXELS", "move images by up to so many pixels, at random [0]",
            kDataGroup);
  AddOption(app, "--network", network_, "NAME", "see below [resnet18]", kNetworkGroup);
  AddOption(
      app, "--base", base_, "PATH",
      "weights to begin with: a safetensors file, or a folder that `train` wrote [drawn from the "
      "seed]",
      kNetworkGroup);
  AddOption(app, "--epochs", epochs_, "N", "passes over the data [10]", kNetworkGroup);
  AddOption(app, "--batch-size", batch_size_, "N", "images a step [128]", kNetworkGroup);
  AddOption(app, "--optimizer", optimizer_, "sgd|adamw|muon",
            "SGD with momentum; AdamW; Muon for matrices and SGD for the rest [sgd]",
            kNetworkGroup);
  AddOption(app, "--learning-rate", learning_rate_, "X",
            "at its highest [sgd: 0.05, adamw: 0.001, muon: 0.02]", kNetworkGroup);
  AddOption(app, "--momentum", momentum_, "X", "of SGD and Muon [sgd: 0.9, muon: 0.95]",
            kNetworkGroup);
  AddOption(app, "--weight-decay", weight_decay_, "X", "of all parameters [0.0005]", kNetworkGroup);
  AddOption(app, "--warmup-steps", warmup_steps_, "N", "steps in which the learning rate rises [0]",
            kNetworkGroup);
  AddOption(app, "--schedule", schedule_, "cosine|constant",
            "of the learning rate after that [cosine]", kNetworkGroup);
  AddOption(app, "--seed", seed_, "N", "of weights, order and augmentation [1]", kRunGroup);
  AddOption(app, "-o,--output", output_, "FOLDER", "for checkpoint, metrics, curves and model",
            kRunGroup);
  AddFlag(app, "--resume", resume_, "go on from the folder's checkpoint, where there is one",
          kRunGroup);
  AddOption(app, "--checkpoint-steps", checkpoint_steps_, "N",
            "a checkpoint every N steps too, not only after each epoch [0: no]", kRunGroup);
  AddFlag(app, "--discard-checkpoint", discard_checkpoint_,
          "remove it at the end: it holds the offload's secret key, which is not for who gets the "
          "folder",
          kRunGroup);
  AddOption(app, "--threads", threads_, "N", "0: one a CPU [0]", kRunGroup);
  offload_.Declare(app);
  AddOption(app, "--private-key", private_key_, "FILE",
            "signs the model (PEM; P-256, P-384 or P-521)", kKeyGroup);
  password_.Declare(app, kKeyGroup, /*with_password=*/true);
  AddOption(app, "--model-name", model_name_, "NAME", "what the signature calls it [model]",
            kKeyGroup);
  AddFlag(app, "--no-signature", no_signature_, "do not sign the model", kKeyGroup);
}

absl::StatusOr<train::TrainingOptions> TrainVerb::ResolveOptions() const {
  train::TrainingOptions options;
  options.network = network_;
  PAVISE_ASSIGN_OR_RETURN(options.epochs, ParseCount("--epochs", epochs_));
  PAVISE_ASSIGN_OR_RETURN(options.batch_size, ParseCount("--batch-size", batch_size_));
  const bool adam = optimizer_ == "adamw";
  const bool muon = optimizer_ == "muon";
  options.optimizer = adam   ? offload::Optimizer::kAdamW
                      : muon ? offload::Optimizer::kMuon
                             : offload::Optimizer::kSgd;
  PAVISE_ASSIGN_OR_RETURN(options.learning_rate,
                          ParseNumber("--learning-rate", !learning_rate_.empty() ? learning_rate_
                                                         : adam                  ? "0.001"
                                                         : muon                  ? "0.02"
                                                                                 : "0.05"));
  PAVISE_ASSIGN_OR_RETURN(options.momentum, ParseNumber("--momentum", !momentum_.empty() ? momentum_
                                                                      : muon             ? "0.95"
                                                                                         : "0.9"));
  PAVISE_ASSIGN_OR_RETURN(options.weight_decay, ParseNumber("--weight-decay", weight_decay_));
  PAVISE_ASSIGN_OR_RETURN(options.warmup_steps, ParseCount("--warmup-steps", warmup_steps_));
  options.cosine = schedule_ != "constant";
  PAVISE_ASSIGN_OR_RETURN(options.seed, ParseCount("--seed", seed_));
  options.augmentation.flip = flip_;
  PAVISE_ASSIGN_OR_RETURN(options.augmentation.crop_padding, ParseCount("--crop", crop_));
  PAVISE_ASSIGN_OR_RETURN(options.threads, ResolveThreads(threads_));
  options.scheme = offload_.scheme;
  options.convolutions = offload_.convolution_form();
  PAVISE_RETURN_IF_ERROR(train::CheckOptions(options));
  return options;
}

absl::StatusOr<std::unique_ptr<crypto::Signer>> TrainVerb::OpenSigner() const {
  if (private_key_.empty() != no_signature_) {
    return UsageError(no_signature_
                          ? "--private-key and --no-signature exclude each other"
                          : "no key to sign the model with: give --private-key, or --no-signature");
  }
  if (no_signature_) return nullptr;
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes password, password_.Resolve());
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes pem, ReadSecretFile(private_key_, kMaxKeyFileBytes));
  PAVISE_ASSIGN_OR_RETURN(crypto::PrivateKey key,
                          crypto::PrivateKey::FromPem(pem, password, private_key_));
  return std::make_unique<crypto::PrivateKey>(std::move(key));
}

absl::StatusOr<Outcome> TrainVerb::Run(const Session& session) {
  if (trainer_ == nullptr) return NoTrainer();
  if (output_.empty()) return UsageError("no folder for the results: give --output");
  PAVISE_RETURN_IF_ERROR(offload_.Check());
  train::TrainingRequest request;
  PAVISE_ASSIGN_OR_RETURN(request.options, ResolveOptions());
  PAVISE_ASSIGN_OR_RETURN(request.checkpoint_steps,
                          ParseCount("--checkpoint-steps", checkpoint_steps_));
  request.folder = output_;
  request.resume = resume_;
  // Before hours of training, not after them.
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> signer, OpenSigner());
  PAVISE_ASSIGN_OR_RETURN(train::ImageSplits splits, ReadData(data_));
  for (const auto& [option, text, split] :
       {std::tuple("--train-images", &train_images_, &splits.train),
        std::tuple("--test-images", &test_images_, &splits.test)}) {
    if (text->empty()) continue;
    PAVISE_ASSIGN_OR_RETURN(const uint64_t count, ParseCount(option, *text));
    split->Thin(count);
  }
  std::optional<train::TensorFile> base;
  if (!base_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(base, ReadWeights(base_));
    request.base = &*base;
  }
  std::optional<train::OffloadSetting> offload;
  if (offload_.is_obfuscated()) {
    PAVISE_ASSIGN_OR_RETURN(offload, trainer_->Connect(offload_));
    request.offload = &*offload;
  }
  std::error_code error;
  std::filesystem::create_directories(output_, error);
  if (error) return FromErrno(error.value(), "create", output_);
  ProgressLines lines(&session.progress == &NoProgress());
  PAVISE_ASSIGN_OR_RETURN(const train::TrainingResult result,
                          trainer_->Train(request, splits, lines));
  if (discard_checkpoint_) {
    const std::string checkpoint = StrCat(output_, "/checkpoint.safetensors");
    if (unlink(checkpoint.c_str()) != 0) return FromErrno(errno, "remove", checkpoint);
  }

  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat(request.options.network, " is trained");
  std::vector<std::pair<std::string, std::string>> rows = {
      {"data", StrCat(splits.format, ", ", Counted(splits.train.count(), "image"), ", ",
                      splits.classes, " classes")},
      {"steps",
       StrCat(result.steps,
              result.resumed_at_step == 0 ? "" : StrCat(", resumed at ", result.resumed_at_step))},
      {"training", absl::StrFormat("loss %.4f, accuracy %.2f%%", result.last.train_loss,
                                   100 * result.last.train_accuracy)},
      {"test", absl::StrFormat("loss %.4f, accuracy %.2f%%", result.last.test_loss,
                               100 * result.last.test_accuracy)},
      {"model", result.model_folder}};
  std::string signature;
  if (signer != nullptr) {
    signing::SignOptions sign;
    sign.model_path = result.model_folder;
    sign.signature_path = signature = output_ + "/model.sig";
    sign.model_name = model_name_;
    sign.signer = signer.get();
    PAVISE_ASSIGN_OR_RETURN(const signing::SignReport report, signing::SignModel(sign));
    rows.emplace_back("signature", signature);
    rows.emplace_back("signed by", report.key_fingerprint);
  }
  outcome.text = AlignedRows(rows) + result.offload_report;
  outcome.json["network"] = request.options.network;
  outcome.json["mode"] = offload_.mode;
  outcome.json["scheme"] = TextOrNull(offload_.scheme);
  outcome.json["steps"] = result.steps;
  outcome.json["resumed_at_step"] = result.resumed_at_step;
  outcome.json["train_loss"] = result.last.train_loss;
  outcome.json["train_accuracy"] = result.last.train_accuracy;
  outcome.json["test_loss"] = result.last.test_loss;
  outcome.json["test_accuracy"] = result.last.test_accuracy;
  outcome.json["images_per_second"] = result.last.images_per_second;
  outcome.json["model"] = result.model_folder;
  outcome.json["signature"] = TextOrNull(signature);
  outcome.json["report"] = TextOrNull(result.offload_report);
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewTrainVerb(Trainer* trainer) {
  return std::make_unique<TrainVerb>(trainer);
}

}  // namespace pavise::cli
