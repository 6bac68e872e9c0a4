#include "pavise/audit/audit.h"

#include <unistd.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/training.h"
#include "pavise/cli/verb.h"

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

namespace pavise::cli {
namespace {

using audit::AttackResult;
using audit::AuditReport;
using audit::Verdict;

constexpr const char* kRunGroup = "The run that is attacked";
constexpr const char* kAdversaryGroup = "What the adversary has besides";
constexpr const char* kReportGroup = "Report";

std::string Percent(double share) { return absl::StrFormat("%.1f%%", 100 * share); }

// What an attack got, as a sentence.
std::string InWords(const AttackResult& attack) {
  return StrCat(attack.attack, " recovers ", Percent(attack.share), " of ", attack.recovers, " (",
                Percent(attack.chance), " by chance), with ",
                attack.needs == "nothing" ? "the traffic alone" : "the traffic and " + attack.needs,
                ", and its profile says nothing of it");
}

// A heading for each thing that adversaries have, and below it their attacks.
std::string Table(const AuditReport& report) {
  std::vector<std::vector<std::string>> rows = {
      {"the adversary has", "share", "chance", "bare", "verdict", "recovered"}};
  std::vector<std::pair<std::string, std::string>> not_run;
  std::string_view group;
  for (const AttackResult& attack : report.attacks) {
    if (attack.verdict == Verdict::kNotRun) {
      not_run.emplace_back(attack.attack, attack.why);
      continue;
    }
    if (attack.needs != group) {
      group = attack.needs;
      rows.push_back(
          {group == "nothing" ? "the traffic alone" : StrCat("and ", group), "", "", "", "", ""});
    }
    rows.push_back({"  " + attack.attack, Percent(attack.share), Percent(attack.chance),
                    Percent(attack.unprotected), std::string(audit::VerdictName(attack.verdict)),
                    attack.recovers});
  }
  std::string text = StrCat("\n", AlignedTable(rows, {1, 2, 3}),
                            "\n  share: of the layer where most was recovered; chance: by the same "
                            "attack on noise, or without\n  the traffic; bare: of the same run "
                            "without a scheme\n");
  if (!not_run.empty()) text += "\nNot run:\n" + AlignedRows(not_run);
  return text;
}

class AuditVerb final : public Verb {
 public:
  explicit AuditVerb(Trainer* trainer) : trainer_(trainer) {}
  std::string_view name() const override { return "audit"; }
  std::string_view group() const override { return "Train"; }
  std::string_view summary() const override {
    return "Record what a worker sees of your own network under a scheme, and attack it.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise audit --scheme tempo --network resnet18 --data pneumoniamnist.npz\n"
           "  pavise audit --scheme orthogonal --network vit_tiny --model run/model --base "
           "public.safetensors \\\n"
           "    --data cifar-10-batches-bin --report-json audit.json\n"
           "\n"
           "Runs a few steps twice, without protection and under the scheme, with a worker in this "
           "process; attacks\nthe worker's view of some layers; and holds what was recovered "
           "against what the scheme says of itself.\nRefuses where an attack gets further than "
           "that. "
           "What no attack recovered is not proven safe.";
  }

  void Declare(CLI::App& app) override;
  absl::StatusOr<Outcome> Run(const Session& session) override;
  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return leaks_more_ ? StrCat(scheme_, " leaks more than it states")
                       : "the audit did not run to its end";
  }

 private:
  absl::StatusOr<audit::RunRequest> ResolveRequest() const;

  Trainer* trainer_;
  std::string scheme_, network_ = "mlp", model_, base_, assumed_base_, data_, report_;
  std::string steps_ = "3", batch_size_ = "32", layers_ = "4", use_ = "training", wire_ = "bf16";
  std::string learning_rate_ = "0.01", least_width_ = "32", seed_ = "1", threads_;
  std::string convolutions_ = "im2col";
  bool no_attention_ = false;
  bool leaks_more_ = false;
};

void AuditVerb::Declare(CLI::App& app) {
  AddOption(app, "--scheme", scheme_, "none|tempo|orthogonal|shared", "what is attacked",
            kRunGroup);
  AddOption(app, "--network", network_, "NAME",
            "mlp, resnet18, resnet50, vgg11, vgg16, vit_tiny, vit_small or vit_base [mlp]",
            kRunGroup);
  AddOption(app, "--model", model_, "PATH",
            "its weights: a safetensors file, or a folder that `train` wrote [drawn from the seed]",
            kRunGroup);
  AddOption(app, "--data", data_, "PATH",
            "an .npz file, or a folder with CIFAR-10 or IDX files [$PAVISE_DATA, else noise]",
            kRunGroup);
  AddOption(app, "--use", use_, "training|inference", "[training]", kRunGroup);
  AddOption(app, "--steps", steps_, "N", "batches; the third has the images of the first [3]",
            kRunGroup);
  AddOption(app, "--batch-size", batch_size_, "N", "images a step [32]", kRunGroup);
  AddOption(app, "--layers", layers_, "N", "layers to attack, evenly spaced [4]", kRunGroup);
  AddOption(app, "--learning-rate", learning_rate_, "X", "of SGD, between the steps [0.01]",
            kRunGroup);
  AddOption(app, "--wire", wire_, "bf16|fp16|fp32", "how numbers travel [bf16]", kRunGroup);
  AddOption(app, "--least-width", least_width_, "N",
            "layers with fewer inputs or outputs stay on the coordinator [32]", kRunGroup);
  AddOption(app, "--convolutions", convolutions_, "native|im2col",
            "k x k convolutions: by the workers, or as products [im2col]", kRunGroup);
  AddFlag(app, "--no-attention", no_attention_, "the products of attention stay on this machine",
          kRunGroup);
  AddOption(app, "--seed", seed_, "N", "of weights and keys [1]", kRunGroup);
  AddOption(app, "--threads", threads_, "N", "0: one a CPU [0]", kRunGroup);
  AddOption(app, "--base", base_, "PATH",
            "a public model of the network, that the weights were fine-tuned from",
            kAdversaryGroup);
  AddOption(app, "--assume-base", assumed_base_, "PERCENT",
            "a base that is so far from the weights: 1 for one percent of their norm",
            kAdversaryGroup);
  AddOption(app, "--report-json", report_, "FILE", "to write: all results, also of a refusal",
            kReportGroup);
}

absl::StatusOr<audit::RunRequest> AuditVerb::ResolveRequest() const {
  if (scheme_.empty()) return UsageError("no scheme to attack: give --scheme");
  if (!base_.empty() && !assumed_base_.empty()) {
    return UsageError("--base and --assume-base exclude each other");
  }
  audit::RunRequest request;
  request.network = network_;
  request.use = use_ == "inference" ? offload::Use::kInference : offload::Use::kTraining;
  request.type = wire_ == "fp32"   ? offload::DType::kFp32
                 : wire_ == "fp16" ? offload::DType::kFp16
                                   : offload::DType::kBf16;
  PAVISE_ASSIGN_OR_RETURN(request.steps, ParseCount("--steps", steps_));
  PAVISE_ASSIGN_OR_RETURN(request.batch_size, ParseCount("--batch-size", batch_size_));
  PAVISE_ASSIGN_OR_RETURN(request.max_layers, ParseCount("--layers", layers_));
  PAVISE_ASSIGN_OR_RETURN(request.seed, ParseCount("--seed", seed_));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t width, ParseCount("--least-width", least_width_));
  if (width > offload::kMaxDimension) return UsageError("--least-width: at most 16777216");
  request.least_width = static_cast<int64_t>(width);
  request.convolutions =
      convolutions_ == "native" ? train::ConvolutionForm::kNative : train::ConvolutionForm::kIm2col;
  request.attention = !no_attention_;
  PAVISE_ASSIGN_OR_RETURN(request.threads, ResolveThreads(threads_));
  if (!absl::SimpleAtod(learning_rate_, &request.learning_rate) ||
      !(request.learning_rate >= 0 && request.learning_rate <= 10)) {
    return UsageError("--learning-rate: 0 to 10");
  }
  double percent = 0;
  if (!assumed_base_.empty() &&
      (!absl::SimpleAtod(assumed_base_, &percent) || !(percent > 0 && percent <= 100))) {
    return UsageError("--assume-base: above 0, and at most 100");
  }
  request.assumed_base_distance = percent / 100;
  return request;
}

absl::StatusOr<Outcome> AuditVerb::Run(const Session& session) {
  if (trainer_ == nullptr) return NoTrainer();
  PAVISE_ASSIGN_OR_RETURN(audit::RunRequest request, ResolveRequest());
  const bool is_quiet = &session.progress == &NoProgress();
  const bool is_terminal = isatty(STDERR_FILENO) == 1;
  const auto say = [&](std::string_view what) {
    if (is_quiet) return;
    std::fputs(
        StrCat(is_terminal ? "\r\x1b[K" : "", Printable(what), is_terminal ? "" : "\n").c_str(),
        stderr);
  };
  std::optional<train::TensorFile> model, base;
  if (!model_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(model, ReadWeights(model_));
    request.model = &*model;
  }
  if (!base_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(base, ReadWeights(base_));
    request.base = &*base;
  }
  train::ImageSplits splits;
  if (data_.empty() && std::getenv("PAVISE_DATA") == nullptr) {
    splits = SyntheticImages(2 * std::min<uint64_t>(request.batch_size, 4096));
  } else {
    PAVISE_ASSIGN_OR_RETURN(splits, ReadData(data_));
  }
  splits.train.Thin(2 * std::min<uint64_t>(request.batch_size, 4096));
  PAVISE_ASSIGN_OR_RETURN(const audit::RecordedRun run,
                          trainer_->Record(scheme_, request, splits, say));
  PAVISE_ASSIGN_OR_RETURN(const AuditReport report,
                          audit::RunAttacks(run.scheme->leakage(request.use), run.layers,
                                            [&](std::string_view layer, std::string_view attack) {
                                              if (is_terminal) say(StrCat(layer, ": ", attack));
                                            }));
  if (is_terminal) say("");
  OrderedJson json = audit::ReportJson(report);
  json["network"] = request.network;
  json["model"] = TextOrNull(model_);
  json["data"] = splits.format;
  json["steps"] = request.steps;
  json["batch_size"] = request.batch_size;
  json["wire"] = wire_;
  json["convolutions"] = convolutions_;
  json["seed"] = request.seed;
  json["assumption"] = run.scheme->leakage(request.use).assumption;
  json["not_attacked"] = run.not_attacked;
  if (!report_.empty()) {
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(report_, AsBytes(DumpJson(json) + "\n")));
  }

  std::vector<Refusal> findings;
  size_t held = 0, broken = 0;
  for (const AttackResult& attack : report.attacks) {
    held += attack.verdict == Verdict::kHeld;
    broken += attack.verdict == Verdict::kBrokenAsStated;
    if (attack.verdict != Verdict::kBrokenBeyondProfile) continue;
    findings.push_back({Reason::kPolicyDenied, attack.layer, InWords(attack),
                        "use another scheme, or do not rely on what this one claims to hide"});
  }
  std::vector<std::pair<std::string, std::string>> rows = {
      {"run", StrCat(request.network, model_.empty() ? "" : " of " + model_, ", ",
                     Counted(request.steps, "step"), " of ", request.batch_size, " images (",
                     splits.format, "), ", wire_)}};
  for (const std::string& layer : report.layers)
    rows.emplace_back(&layer == &report.layers[0] ? "attacked" : "", layer);
  rows.emplace_back("not attacked", Counted(run.not_attacked.size(), "other layer"));
  rows.emplace_back("assumes", std::string(run.scheme->leakage(request.use).assumption));
  Outcome outcome;
  outcome.verdict = "OK";
  outcome.text = AlignedRows(rows) + Table(report);
  if (!findings.empty()) {
    leaks_more_ = true;
    if (!is_quiet) std::fputs(outcome.text.c_str(), stderr);
    return Refuse(std::move(findings));
  }
  outcome.headline = StrCat(
      scheme_, ", ", offload::UseName(request.use), ": ",
      broken == 0 ? "no attack got further than chance"
                  : StrCat(Counted(broken, "attack"), " got further than chance, as it states"),
      "; ", held, " did not");
  outcome.json = std::move(json);
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewAuditVerb(Trainer* trainer) {
  return std::make_unique<AuditVerb>(trainer);
}

}  // namespace pavise::cli
