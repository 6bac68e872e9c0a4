#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>

#include "pavise/agent/provenance.h"
#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/guard_report.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/training.h"
#include "pavise/cli/verb.h"
#include "pavise/cli/verification_arguments.h"
#include "pavise/hash/devices.h"
#include "pavise/loading/load.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_format.h"

namespace pavise::cli {
namespace {

constexpr const char* kDataGroup = "Data";
constexpr const char* kGuardGroup = "Guard";

class InferVerb final : public Verb {
 public:
  explicit InferVerb(Trainer* trainer) : trainer_(trainer) {}
  std::string_view name() const override { return "infer"; }
  std::string_view group() const override { return "Train"; }
  std::string_view summary() const override {
    return "Run a model that `train` wrote on images: verified first, on this machine or with "
           "workers.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise infer run/model --signature run/model.sig --public-key key.pub --data "
           "pneumoniamnist.npz\n"
           "  pavise infer run/model --signature run/model.sig --public-key key.pub --data "
           "cifar-10-batches-bin \\\n"
           "    --mode obfuscated --scheme orthogonal --workers in-process:1 --predictions "
           "predictions.csv";
  }

  void Declare(CLI::App& app) override {
    // The whole model is used: --tensors is not offered.
    arguments_.Declare(app, "", "");
    AddOption(app, "--data", data_, "PATH",
              "an .npz file, or a folder with CIFAR-10 or IDX files [$PAVISE_DATA]", kDataGroup);
    AddOption(app, "--split", split_, "test|train", "which images [test]", kDataGroup);
    AddOption(app, "--images", images_, "N", "N of them, evenly spaced [all]", kDataGroup);
    AddOption(app, "--predictions", predictions_, "FILE",
              "to write: image, label, prediction, probability (CSV)", kDataGroup);
    AddOption(app, "--batch-size", batch_size_, "N", "images at once [128]", kDataGroup);
    AddOption(app, "--threads", threads_, "N", "0: one a CPU [0]", kDataGroup);
    AddOption(app, "--guard-hash", guard_hash_, "tag|blake3|none",
              "the weights in memory are checked again between batches, and all of them once more "
              "after the last one; tag: by keyed tags; blake3: by the signed tree, which also "
              "holds against who reads this memory; none: they are not [tag]",
              kGuardGroup);
    AddOption(app, "--guard-share", guard_share_, "PERCENT", "of the time that it may take [1]",
              kGuardGroup);
    offload_.Declare(app);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override;

  std::string RefusalHeadline(const std::vector<Refusal>& findings) const override {
    if (is_loaded_) return StrCat(Printable(arguments_.model.model()), " gave no predictions");
    return arguments_.RefusalHeadline(findings, "was not run");
  }

 private:
  Trainer* trainer_;
  VerificationArguments arguments_;
  OffloadArguments offload_;
  std::string data_, images_, predictions_, threads_;
  std::string split_ = "test";
  std::string batch_size_ = "128";
  std::string guard_hash_ = "tag", guard_share_;
  bool is_loaded_ = false;
};

// For the run that this is a part of, where it asks.
absl::Status Tell(std::string_view text) {
  const char* const file = std::getenv(std::string(agent::kResidentWeightsVariable).c_str());
  return file == nullptr ? absl::OkStatus() : WriteFileAtomically(file, AsBytes(text));
}

absl::Status StateGuard(const loading::GuardReport& report) {
  // A model without bytes has none that were checked.
  if (report.ranges == 0) return absl::OkStatus();
  const agent::ResidentWeights weights = {
      std::string(loading::GuardHashName(report.hash)),
      std::min(report.passes_completed, agent::ResidentWeights::kMost),
      std::min(report.ranges, agent::ResidentWeights::kMost)};
  return Tell(agent::FormatResidentWeights(weights));
}

absl::StatusOr<Outcome> InferVerb::Run(const Session& session) {
  if (trainer_ == nullptr) return NoTrainer();
  PAVISE_RETURN_IF_ERROR(arguments_.model.Resolve());
  PAVISE_RETURN_IF_ERROR(offload_.Check());
  if (!arguments_.tensors.empty()) return UsageError("--tensors: the whole model is run");
  PAVISE_ASSIGN_OR_RETURN(const uint64_t batch_size, ParseCount("--batch-size", batch_size_));
  if (batch_size < 1 || batch_size > 65'536) return UsageError("--batch-size: 1 to 65536");
  PAVISE_ASSIGN_OR_RETURN(const unsigned threads, ResolveThreads(threads_));
  loading::LoadOptions load;
  PAVISE_ASSIGN_OR_RETURN(load.verify, arguments_.Resolve());
  load.verify.pass.progress = &session.progress;
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<hash::Device> device, hash::OpenDevice("cpu"));
  train::WeightsGuard guard;
  guard.device = device.get();
  guard.options.hash =
      guard_hash_ == "blake3" ? loading::GuardHash::kBlake3 : loading::GuardHash::kTag;
  if (!guard_share_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(guard.options.share_of_time, ParseGuardShare(guard_share_));
  }
  bool is_changed = false;
  guard.options.on_mismatch = [&](const loading::GuardFinding& finding) {
    is_changed |= finding.kind == loading::GuardFinding::Kind::kChanged;
  };
  const bool is_guarded = guard_hash_ != "none";
  if (is_guarded) load.pass.references = loading::ReferencesFor(guard.options.hash);
  PAVISE_ASSIGN_OR_RETURN(const loading::VerifiedLoad model, loading::Loader::Load(load, *device));
  is_loaded_ = true;
  PAVISE_ASSIGN_OR_RETURN(train::ImageSplits splits, ReadData(data_));
  train::ImageDataset& images = split_ == "train" ? splits.train : splits.test;
  if (!images_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(const uint64_t count, ParseCount("--images", images_));
    images.Thin(count);
  }
  std::optional<train::OffloadSetting> offload;
  if (offload_.is_obfuscated()) {
    PAVISE_ASSIGN_OR_RETURN(offload, trainer_->Connect(offload_));
  }
  const absl::StatusOr<train::InferenceResult> inferred =
      trainer_->Infer(model, images, batch_size, threads, offload.has_value() ? &*offload : nullptr,
                      is_guarded ? &guard : nullptr);
  // What was found is said in any case.
  if (is_changed) (void)Tell(agent::FormatResidentWeights({}));
  PAVISE_RETURN_IF_ERROR(inferred.status());
  const train::InferenceResult& result = *inferred;
  if (!predictions_.empty()) {
    std::string csv = "image,label,prediction,probability\n";
    for (size_t i = 0; i < result.predictions.size(); ++i) {
      StrAppend(&csv, i, ",", static_cast<unsigned>(images.labels[i]), ",",
                result.predictions[i].label, ",",
                absl::StrFormat("%.6f", result.predictions[i].probability), "\n");
    }
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(predictions_, AsBytes(csv)));
  }
  if (result.guarded.has_value()) PAVISE_RETURN_IF_ERROR(StateGuard(*result.guarded));
  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat(Printable(arguments_.model.model()), " is what was signed, and ran on ",
                            Counted(result.images, "image"));
  auto rows = SignatureRows(model->report.signed_statement, arguments_.files.signature);
  rows.emplace_back("network", result.network);
  rows.emplace_back("accuracy",
                    absl::StrFormat("%.2f%%, loss %.4f", 100 * result.accuracy, result.loss));
  rows.emplace_back("rate", absl::StrFormat("%.0f images/s", result.images_per_second));
  if (result.guarded.has_value()) AddGuardRows(*result.guarded, rows);
  rows.emplace_back("predictions", predictions_);
  outcome.text = AlignedRows(rows) + result.offload_report;
  AddSignatureJson(model->report.signed_statement, arguments_.model.model(),
                   arguments_.files.signature, outcome.json);
  outcome.json["network"] = result.network;
  outcome.json["images"] = result.images;
  outcome.json["accuracy"] = result.accuracy;
  outcome.json["loss"] = result.loss;
  outcome.json["images_per_second"] = result.images_per_second;
  outcome.json["guard"] =
      result.guarded.has_value() ? GuardJson(*result.guarded) : OrderedJson(nullptr);
  outcome.json["predictions"] = TextOrNull(predictions_);
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewInferVerb(Trainer* trainer) {
  return std::make_unique<InferVerb>(trainer);
}

}  // namespace pavise::cli
