#include "pavise/signing/verify.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <memory>
#include <optional>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/statement_json.h"
#include "pavise/cli/verb.h"
#include "pavise/cli/verification_arguments.h"
#include "pavise/hash/device_pass.h"
#include "pavise/hash/devices.h"
#include "pavise/loading/ranked_verification.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_join.h"

namespace pavise::cli {
namespace {

constexpr const char* kScopeGroup = "What is checked";
std::string RangeText(const signing::FileRange& range) {
  return StrCat(range.path, ":", range.begin_bytes, ":", range.end_bytes);
}

// "PATH:BEGIN:END"; the path may hold colons.
absl::StatusOr<signing::FileRange> ParseRange(const std::string& text) {
  const size_t second = text.rfind(':');
  const size_t first =
      second == std::string::npos || second == 0 ? std::string::npos : text.rfind(':', second - 1);
  if (first == std::string::npos || first == 0) {
    return UsageError(StrCat("--range ", text, ": not of the form PATH:BEGIN:END"));
  }
  signing::FileRange range;
  range.path = text.substr(0, first);
  PAVISE_ASSIGN_OR_RETURN(range.begin_bytes,
                          ParseCount("--range", text.substr(first + 1, second - first - 1)));
  PAVISE_ASSIGN_OR_RETURN(range.end_bytes, ParseCount("--range", text.substr(second + 1)));
  if (range.begin_bytes >= range.end_bytes) {
    return UsageError(StrCat("--range ", text, ": is empty; END is the first byte not in it"));
  }
  return range;
}

class VerifyVerb final : public Verb {
 public:
  std::string_view name() const override { return "verify"; }
  std::string_view group() const override { return "Verify"; }
  std::string_view summary() const override {
    return "Check a model against its signature: who signed it, that every file is there, and that "
           "every byte is what was signed.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise verify models/llm --signature llm.sig --public-key key.pub\n"
           "  pavise verify models/llm --certificate-chain root.pem --identity CN=signer,O=Acme\n"
           "  pavise verify models/llm --identity a@example.com --identity-provider "
           "https://accounts.example.com --trusted-root trusted_root.json\n"
           "  pavise verify models/llm --trust trust.yaml --model-name acme/llm\n"
           "  pavise verify models/llm --public-key key.pub --tensors 'model.layers.0.*'\n"
           "  mpirun -n 4 pavise verify models/llm --public-key key.pub\n"
           "\n"
           "Under mpirun, or srun --mpi=pmix, all processes share the reading and reach one "
           "verdict.\n"
           "\n"
           "Exit codes: 0 the model is what was signed, 1 refused, 2 wrong usage, 3 the machine "
           "failed.";
  }

  void Declare(CLI::App& app) override;
  absl::StatusOr<Outcome> Run(const Session& session) override;
  bool RunsInRanks() const override { return !arguments_.no_mpi; }
  std::string RefusalHeadline(const std::vector<Refusal>& findings) const override;

 private:
  absl::StatusOr<signing::VerifyOptions> Resolve(const Session& session) const;

  VerificationArguments arguments_;
  ReadOptions read_;
  std::vector<std::string> ranges_;
  bool all_digests_ = false;
  bool oms_digests_only_ = false;
  bool fips_ = false;
};

void VerifyVerb::Declare(CLI::App& app) {
  arguments_.Declare(app, "check only tensors of these names, and read nothing else (repeatable)",
                     kScopeGroup);
  AddOption(app, "--range", ranges_, "PATH:BEGIN:END",
            "check only these bytes of a file, END excluded; needs the tree file (repeatable)",
            kScopeGroup);
  AddFlag(app, "--all-digests", all_digests_,
          "check every signed digest (OMS, BLAKE3 tree, each tensor), not just the quickest "
          "sufficient one",
          kScopeGroup);
  AddFlag(app, "--oms-digests-only", oms_digests_only_,
          "check the OMS digests, as every other verifier would", kScopeGroup);
  AddFlag(app, "--fips", fips_,
          "FIPS 180-4 and 186-5 algorithms only: OMS digests under sha256; the result names the "
          "provider",
          kScopeGroup);
  read_.Declare(app, /*any_device=*/true);
}

absl::StatusOr<signing::VerifyOptions> VerifyVerb::Resolve(const Session& session) const {
  if (all_digests_ && oms_digests_only_) {
    return UsageError("--all-digests and --oms-digests-only exclude each other");
  }
  PAVISE_ASSIGN_OR_RETURN(signing::VerifyOptions options, arguments_.Resolve());
  for (const std::string& text : ranges_) {
    PAVISE_ASSIGN_OR_RETURN(signing::FileRange range, ParseRange(text));
    options.ranges.push_back(std::move(range));
  }
  options.digests = all_digests_        ? signing::DigestChoice::kAll
                    : oms_digests_only_ ? signing::DigestChoice::kOms
                                        : signing::DigestChoice::kAuto;
  options.fips = fips_;
  PAVISE_ASSIGN_OR_RETURN(options.pass, read_.Resolve(session));
  return options;
}

std::string VerifyVerb::RefusalHeadline(const std::vector<Refusal>& findings) const {
  return arguments_.RefusalHeadline(findings, "was not verified");
}

absl::StatusOr<Outcome> VerifyVerb::Run(const Session& session) {
  PAVISE_RETURN_IF_ERROR(arguments_.model.Resolve());
  PAVISE_ASSIGN_OR_RETURN(signing::VerifyOptions options, Resolve(session));
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<hash::Device> device, read_.OpenDevice());
  std::optional<hash::DevicePass> device_pass;
  if (device != nullptr)
    options.file_pass = &device_pass.emplace(*device, hash::DevicePassOptions());

  const auto begin = std::chrono::steady_clock::now();
  std::vector<loading::RankPart> ranks;
  const auto verify = [&]() -> absl::StatusOr<signing::VerifiedModel> {
    if (session.ranks == nullptr) return signing::ModelVerifier::Verify(options);
    PAVISE_ASSIGN_OR_RETURN(loading::RankedVerification ranked,
                            loading::VerifyInRanks(options, *session.ranks));
    ranks = std::move(ranked.ranks);
    return std::move(ranked.model);
  };
  PAVISE_ASSIGN_OR_RETURN(const signing::VerifiedModel verified, verify());
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const signing::VerifyReport& report = *verified;
  const signing::SignedStatement& statement = report.signed_statement;

  std::vector<std::string> ranges;
  for (const signing::FileRange& range : report.ranges_checked) ranges.push_back(RangeText(range));

  Outcome outcome;
  outcome.verdict = report.partial ? "OK (partial)" : "OK";
  const std::string& model = arguments_.model.model();
  outcome.headline =
      AcceptHeadline(report.partial ? StrCat("the checked parts of ", Printable(model),
                                             " are what was signed; nothing else was read")
                                    : StrCat(Printable(model), " is what was signed"),
                     model, ranks);
  const std::vector<std::string> warnings = WarningsOf(report, ranks);
  std::vector<std::pair<std::string, std::string>> rows =
      SignatureRows(statement, arguments_.files.signature);
  for (auto& row : std::vector<std::pair<std::string, std::string>>{
           {"tensors", report.tensors_checked.empty() ? std::string()
                                                      : StrCat(report.tensors_checked.size(), ": ",
                                                               SomeOf(report.tensors_checked))},
           {"ranges", SomeOf(ranges)},
           {"checked", StrCat(Counted(report.files_checked, "file"), ", ",
                              Throughput(report.bytes_checked, seconds))},
           {"digests", absl::StrJoin(report.digests_read, ", ")},
           {"device", report.device},
           {"sampled", device_pass.has_value()
                           ? StrCat(device_pass->answers_sampled(),
                                    " of its answers, computed again on the CPU")
                           : std::string()},
           {"FIPS", report.fips_provider.value_or("")},
           {"not signed", report.unsigned_files_ignored.empty()
                              ? std::string()
                              : StrCat("ignored: ", SomeOf(report.unsigned_files_ignored))}}) {
    rows.push_back(std::move(row));
  }
  AddRankRows(ranks, /*is_load=*/false, rows);
  for (const std::string& warning : warnings) rows.emplace_back("warning", warning);
  outcome.text = AlignedRows(rows);

  AddSignatureJson(statement, arguments_.model.model(), arguments_.files.signature, outcome.json);
  outcome.json["digests_read"] = report.digests_read;
  outcome.json["partial"] = report.partial;
  outcome.json["files_checked"] = report.files_checked;
  outcome.json["bytes_checked"] = report.bytes_checked;
  if (report.partial) {
    outcome.json["tensors_checked"] = report.tensors_checked;
    outcome.json["ranges_checked"] = ranges;
  }
  outcome.json["unsigned_files_ignored"] = report.unsigned_files_ignored;
  outcome.json["seconds"] = seconds;
  outcome.json["gigabytes_per_second"] = GigabytesPerSecond(report.bytes_checked, seconds);
  outcome.json["device"] = report.device;
  if (device_pass.has_value()) outcome.json["answers_sampled"] = device_pass->answers_sampled();
  outcome.json["sha256_by"] = TextOrNull(report.sha256_by);
  outcome.json["fips_provider"] =
      report.fips_provider.has_value() ? OrderedJson(*report.fips_provider) : OrderedJson(nullptr);
  if (!ranks.empty()) AddRankJson(ranks, /*is_load=*/false, outcome.json);
  outcome.json["warnings"] = warnings;
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewVerifyVerb() { return std::make_unique<VerifyVerb>(); }

}  // namespace pavise::cli
