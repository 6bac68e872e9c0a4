#include "pavise/loading/load.h"

#include <chrono>
#include <memory>

#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/statement_json.h"
#include "pavise/cli/verb.h"
#include "pavise/cli/verification_arguments.h"
#include "pavise/hash/devices.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_join.h"

namespace pavise::cli {
namespace {

constexpr const char* kDeviceGroup = "Device";

class LoadVerb final : public Verb {
 public:
  std::string_view name() const override { return "load"; }
  std::string_view group() const override { return "Verify"; }
  std::string_view summary() const override {
    return "Load a signed model into the memory of a device and hash it there: what is verified is "
           "what a program would run, not what was on the disk a moment before.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise load models/llm --signature llm.sig --public-key key.pub --device opencl:0\n"
           "  pavise load models/llm --trust trust.yaml --model-name acme/llm --device cpu\n"
           "  pavise load models/llm --public-key key.pub --tensors 'model.layers.0.*'\n"
           "\n"
           "The verb measures and reports, and gives the memory back at its end; programs that "
           "keep "
           "the tensors call the library (pavise/loading/load.h).\n"
           "\n"
           "Exit codes: 0 what is in memory is what was signed, 1 refused, 2 wrong usage, 3 the "
           "machine or the device failed.";
  }

  void Declare(CLI::App& app) override {
    arguments_.Declare(app, "load only tensors of these names, and read nothing else (repeatable)",
                       "What is loaded");
    AddOption(app, "--device", device_, "DEVICE",
              "where to: cpu, opencl:N, cuda:N, or auto, the first GPU and without one the CPU "
              "[auto]",
              kDeviceGroup);
    AddOption(app, "--sampled-answers", sampled_answers_, "N",
              "how many of the device's answers, chosen at random, the CPU computes again [8]",
              kDeviceGroup);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override;

  std::string RefusalHeadline(const std::vector<Refusal>& findings) const override {
    return arguments_.RefusalHeadline(findings, "was not loaded");
  }

 private:
  VerificationArguments arguments_;
  std::string device_ = "auto";
  std::string sampled_answers_;
};

absl::StatusOr<Outcome> LoadVerb::Run(const Session& session) {
  PAVISE_RETURN_IF_ERROR(arguments_.model.Resolve());
  loading::LoadOptions options;
  PAVISE_ASSIGN_OR_RETURN(options.verify, arguments_.Resolve());
  options.verify.pass.progress = &session.progress;
  if (!sampled_answers_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(const uint64_t count,
                            ParseCount("--sampled-answers", sampled_answers_));
    if (count > 1'000'000) return UsageError("--sampled-answers: at most 1000000");
    options.pass.sampled_answers = static_cast<unsigned>(count);
  }
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<hash::Device> device, hash::OpenDevice(device_));

  const auto begin = std::chrono::steady_clock::now();
  PAVISE_ASSIGN_OR_RETURN(const loading::VerifiedLoad loaded,
                          loading::Loader::Load(options, *device));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const loading::LoadedModel& model = *loaded;
  const signing::VerifyReport& report = model.report;
  const signing::SignedStatement& statement = report.signed_statement;

  Outcome outcome;
  outcome.verdict = report.partial ? "OK (partial)" : "OK";
  outcome.headline =
      report.partial
          ? StrCat("the loaded tensors of ", Printable(arguments_.model.model()),
                   " are what was signed; nothing else was read")
          : StrCat(Printable(arguments_.model.model()), " is in memory and is what was signed");
  auto rows = SignatureRows(statement, arguments_.files.signature);
  rows.emplace_back("loaded", StrCat(Counted(model.tensors.size(), "tensor"), " of ",
                                     Counted(report.files_checked, "file"), ", ",
                                     Throughput(report.bytes_checked, seconds)));
  rows.emplace_back("digests", absl::StrJoin(report.digests_read, ", "));
  rows.emplace_back("device", report.device);
  rows.emplace_back("channel", StrCat(loading::ChannelName(model.channel), ": ",
                                      loading::ChannelMeaning(model.channel)));
  rows.emplace_back("sampled", StrCat(Counted(model.answers_sampled, "answer"),
                                      " of the device, computed again on the CPU"));
  for (const std::string& warning : report.warnings) rows.emplace_back("warning", warning);
  outcome.text = AlignedRows(rows);

  AddSignatureJson(statement, arguments_.model.model(), arguments_.files.signature, outcome.json);
  outcome.json["partial"] = report.partial;
  outcome.json["digests_read"] = report.digests_read;
  outcome.json["files_checked"] = report.files_checked;
  outcome.json["bytes_checked"] = report.bytes_checked;
  outcome.json["tensors_loaded"] = model.tensors.size();
  outcome.json["device_bytes"] = model.device_bytes;
  outcome.json["device"] = report.device;
  outcome.json["channel"] = loading::ChannelName(model.channel);
  outcome.json["answers_sampled"] = model.answers_sampled;
  outcome.json["seconds"] = seconds;
  outcome.json["gigabytes_per_second"] = GigabytesPerSecond(report.bytes_checked, seconds);
  outcome.json["warnings"] = report.warnings;
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewLoadVerb() { return std::make_unique<LoadVerb>(); }

}  // namespace pavise::cli
