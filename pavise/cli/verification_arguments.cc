#include "pavise/cli/verification_arguments.h"

#include <algorithm>
#include <iterator>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/output.h"
#include "pavise/cli/statement_json.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_join.h"

namespace pavise::cli {
namespace {

// The result for people names this many parts and ignored files, and counts the rest.
constexpr size_t kMostNamed = 10;
// So many ranks on the line of the verdict; rows follow.
constexpr size_t kMostOnTheLine = 4;

}  // namespace

std::string AcceptHeadline(const std::string& alone, const std::string& model,
                           const std::vector<loading::RankPart>& ranks) {
  if (ranks.empty()) return alone;
  std::string text =
      loading::ReadOneCopy(ranks)
          ? alone
          : StrCat("the parts of ", Printable(model), " that ", Counted(ranks.size(), "rank"),
                   " read are what was signed; no rank read its copy as a whole");
  StrAppend(&text, " (by ", Counted(ranks.size(), "rank"), ": ");
  for (size_t i = 0; i < std::min(ranks.size(), kMostOnTheLine); ++i) {
    StrAppend(&text, i == 0 ? "" : ", ", "rank ", i, " on ", Printable(ranks[i].host));
  }
  if (ranks.size() > kMostOnTheLine) {
    StrAppend(&text, " and ", ranks.size() - kMostOnTheLine, " more");
  }
  return text + ")";
}

std::vector<std::string> WarningsOf(const signing::VerifyReport& report,
                                    const std::vector<loading::RankPart>& ranks) {
  std::vector<std::string> warnings = report.warnings;
  if (!loading::ReadOneCopy(ranks)) {
    warnings.push_back(
        "each rank read its part of a copy of its own, or cannot tell: what a copy holds elsewhere "
        "was not looked at; --no-mpi verifies each copy");
  }
  return warnings;
}

void AddRankRows(const std::vector<loading::RankPart>& ranks, bool is_load,
                 std::vector<std::pair<std::string, std::string>>& rows) {
  uint64_t tensors = 0;
  for (const loading::RankPart& part : ranks) tensors += part.tensors;
  for (size_t i = 0; i < std::min(ranks.size(), kMostNamed); ++i) {
    const loading::RankPart& part = ranks[i];
    rows.emplace_back(
        i == 0 ? "ranks" : "",
        StrCat("rank ", i, " of ", ranks.size(), " on ", part.host,
               is_load ? StrCat(" holds ", part.tensors, " of ", Counted(tensors, "tensor"), ", ",
                                HumanBytes(part.device_bytes))
                       : StrCat(" read ", HumanBytes(part.bytes_read)),
               "; ", part.device));
  }
  if (ranks.size() > kMostNamed) {
    rows.emplace_back("", StrCat("and ", ranks.size() - kMostNamed, " more"));
  }
}

void AddRankJson(const std::vector<loading::RankPart>& ranks, bool is_load, OrderedJson& json) {
  OrderedJson& list = json["ranks"] = OrderedJson::array();
  for (const loading::RankPart& part : ranks) {
    OrderedJson entry = {{"host", Printable(part.host)},
                         {"device", Printable(part.device)},
                         {"bytes_read", part.bytes_read}};
    if (is_load) {
      entry["tensors_loaded"] = part.tensors;
      entry["device_bytes"] = part.device_bytes;
      entry["answers_sampled"] = part.answers_sampled;
    }
    list.push_back(std::move(entry));
  }
  json["one_copy"] = loading::ReadOneCopy(ranks);
}

std::string SomeOf(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kMostNamed);
  std::string text =
      absl::StrJoin(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", ");
  if (shown < names.size()) StrAppend(&text, " and ", names.size() - shown, " more");
  return text;
}

void VerificationArguments::Declare(CLI::App& app, const std::string& tensors_meaning,
                                    const std::string& tensors_group) {
  model.Declare(app, /*with_method=*/true);
  trust.Declare(app);
  files.Declare(app, "to check");
  selection.Declare(app);
  AddFlag(app, "--ignore-unsigned-files,!--no-ignore-unsigned-files", ignore_unsigned_files,
          "accept files that are not signed", "Files");
  AddOption(app, "--tensors", tensors, "GLOB", tensors_meaning, tensors_group);
  AddFlag(app, "--no-mpi", no_mpi,
          "started by mpirun or srun: each process by itself, instead of one run of all", "Ranks");
}

absl::StatusOr<signing::VerifyOptions> VerificationArguments::Resolve() const {
  signing::VerifyOptions options;
  options.model_path = model.model();
  options.signature_path = files.signature;
  options.outboard_path = files.tree;
  options.tensors = tensors;
  options.ignore_unsigned_files = ignore_unsigned_files;
  options.allow_symlinks = selection.allow_symlinks;
  PAVISE_ASSIGN_OR_RETURN(options.policy, trust.Resolve(model.method(), BaseName(model.model())));
  PAVISE_ASSIGN_OR_RETURN(options.ignore_paths, selection.RelativeTo(model.model()));
  if (selection.ignore_git_paths) {
    options.ignore_paths.insert(options.ignore_paths.end(), std::begin(signing::kGitPaths),
                                std::end(signing::kGitPaths));
  }
  return options;
}

std::string VerificationArguments::RefusalHeadline(const std::vector<Refusal>& findings,
                                                   const std::string& not_done) const {
  // It has no name yet where a rank refuses before its arguments were looked at.
  const std::string name = model.model().empty() ? "the model" : model.model();
  const std::string otherwise = StrCat(name, " ", not_done);
  if (findings.empty()) return otherwise;
  const Refusal& first = findings.front();
  const bool about_signature_files = first.item == files.signature ||
                                     first.item == signing::DefaultOutboardPath(files.signature) ||
                                     (!files.tree.empty() && first.item == files.tree);
  switch (first.reason) {
    case Reason::kContentMismatch:
    case Reason::kFileMissing:
    case Reason::kFileUnsigned:
      return about_signature_files ? otherwise : StrCat(name, " does not match its signature");
    case Reason::kSignatureInvalid:
    case Reason::kSignerUntrusted:
    case Reason::kKeyMismatch:
    case Reason::kCertificateInvalid:
    case Reason::kIdentityMismatch:
    case Reason::kTransparencyInvalid:
    case Reason::kRevoked:
    case Reason::kVersionTooOld:
    case Reason::kPolicyDenied:
      return StrCat("the signature of ", name, " is not accepted");
    default:
      return otherwise;
  }
}

std::vector<std::pair<std::string, std::string>> SignatureRows(
    const signing::SignedStatement& statement, const std::string& signature_path) {
  return {{"model", ModelText(statement.statement)},
          {"signed by", SignerText(statement.signer)},
          {"signature", signature_path}};
}

void AddSignatureJson(const signing::SignedStatement& statement, const std::string& model_path,
                      const std::string& signature_path, OrderedJson& json) {
  json = StatementSummaryJson(statement.statement);
  json["model_path"] = model_path;
  json["signature"] = signature_path;
  json["payload_sha256"] = ToHex(statement.payload_sha256);
  json["signer"] = SignerJson(statement.signer);
}

}  // namespace pavise::cli
