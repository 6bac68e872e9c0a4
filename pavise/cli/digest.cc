#include <chrono>
#include <memory>

#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/statement_json.h"
#include "pavise/cli/verb.h"
#include "pavise/signing/sign.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kStatementGroup = "What is digested";

class DigestVerb final : public Verb {
 public:
  std::string_view name() const override { return "digest"; }
  std::string_view group() const override { return "Verify"; }
  std::string_view summary() const override {
    return "Print the root digest that a signature of this model would hold; --json adds every "
           "file's.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise digest models/llm\n"
           "  pavise digest models/llm --hash blake3 --json";
  }

  void Declare(CLI::App& app) override {
    model_.Declare(app, /*with_method=*/false);
    files_.Declare(app, "that is not part of the model");
    selection_.Declare(app);
    AddOption(app, "--hash", hash_, "sha256|blake2b|blake3", "the digest of files [sha256]",
              kStatementGroup);
    AddOption(app, "--method", method_, "files|shards", "one digest a file, or one a shard [files]",
              kStatementGroup);
    AddOption(app, "--shard-size", shard_size_, "SIZE",
              "bytes a shard, or with a unit such as 512MiB [1GB]", kStatementGroup);
    AddFlag(app, "--fips", fips_, "FIPS 180-4 algorithms only: sha256", kStatementGroup);
    read_.Declare(app);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override;

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return StrCat(model_.model(), " was not digested");
  }

 private:
  ModelArguments model_;
  SignatureOptions files_;
  SelectionOptions selection_;
  ReadOptions read_;
  std::string hash_ = "sha256";
  std::string method_ = "files";
  std::string shard_size_;
  bool fips_ = false;
};

absl::StatusOr<Outcome> DigestVerb::Run(const Session& session) {
  PAVISE_RETURN_IF_ERROR(model_.Resolve());
  if (!shard_size_.empty() && method_ != "shards") {
    return UsageError("--shard-size goes with --method shards");
  }
  signing::SignOptions options;
  options.model_path = model_.model();
  options.signature_path = files_.signature;
  options.outboard_path = files_.tree;
  options.serialization.method = method_ == "shards" ? signing::SerializationMethod::kShards
                                                     : signing::SerializationMethod::kFiles;
  options.serialization.hash_type =
      hash::AlgorithmFromName(hash_).value_or(hash::Algorithm::kSha256);
  if (!shard_size_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(options.serialization.shard_size_bytes,
                            ParseSize("--shard-size", shard_size_));
  }
  options.serialization.allow_symlinks = selection_.allow_symlinks;
  PAVISE_ASSIGN_OR_RETURN(options.serialization.ignore_paths,
                          selection_.RelativeTo(model_.model()));
  options.ignore_git_paths = selection_.ignore_git_paths;
  options.annotate = false;  // the root covers the OMS digests only
  options.fips = fips_;
  PAVISE_ASSIGN_OR_RETURN(options.pass, read_.Resolve(session));

  const auto begin = std::chrono::steady_clock::now();
  PAVISE_ASSIGN_OR_RETURN(const signing::SignReport report, signing::DigestModel(options));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();

  Outcome outcome;
  outcome.headline = RootDigestText(report.statement);
  outcome.json = StatementSummaryJson(report.statement);
  outcome.json["model_bytes"] = report.model_bytes;
  outcome.json["model_path"] = model_.model();
  outcome.json["resources"] = ResourcesJson(report.statement, /*with_tensors=*/false);
  outcome.json["seconds"] = seconds;
  outcome.json["gigabytes_per_second"] = GigabytesPerSecond(report.bytes_hashed, seconds);
  outcome.json["device"] = report.device;
  outcome.json["sha256_by"] = TextOrNull(report.sha256_by);
  outcome.json["fips_provider"] =
      report.fips_provider.has_value() ? OrderedJson(*report.fips_provider) : OrderedJson(nullptr);
  outcome.json["warnings"] = report.warnings;
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewDigestVerb() { return std::make_unique<DigestVerb>(); }

}  // namespace pavise::cli
