#include "pavise/signing/diff.h"

#include <algorithm>
#include <memory>

#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/signature_file.h"
#include "pavise/cli/statement_json.h"
#include "pavise/cli/verb.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

std::string_view ChangeName(signing::Change change) {
  switch (change) {
    case signing::Change::kAdded:
      return "added";
    case signing::Change::kRemoved:
      return "removed";
    case signing::Change::kChanged:
      break;
  }
  return "changed";
}

OrderedJson EntriesJson(const std::vector<signing::DiffEntry>& entries) {
  OrderedJson array = OrderedJson::array();
  for (const signing::DiffEntry& entry : entries) {
    array.push_back({{"change", std::string(ChangeName(entry.change))},
                     {"name", entry.name},
                     {"detail", entry.detail}});
  }
  return array;
}

std::string EntriesText(std::string_view what, const std::vector<signing::DiffEntry>& entries,
                        std::string_view and_unchanged) {
  const auto count = [&](signing::Change change) {
    return std::count_if(entries.begin(), entries.end(),
                         [&](const signing::DiffEntry& entry) { return entry.change == change; });
  };
  std::string text = StrCat(what, ": ", count(signing::Change::kAdded), " added, ",
                            count(signing::Change::kRemoved), " removed, ",
                            count(signing::Change::kChanged), " changed", and_unchanged, "\n");
  std::vector<std::vector<std::string>> rows;
  for (const signing::DiffEntry& entry : entries) {
    rows.push_back({std::string(ChangeName(entry.change)), entry.name, entry.detail});
  }
  return text + AlignedTable(rows, {});
}

class DiffVerb final : public Verb {
 public:
  std::string_view name() const override { return "diff"; }
  std::string_view group() const override { return "Verify"; }
  std::string_view summary() const override {
    return "Compare two signatures: files and tensors added, removed and changed. The models "
           "themselves are not read.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise diff llm-v1.sig llm-v2.sig\n"
           "  pavise diff llm-v1.sig llm-v2.sig --public-key key.pub --json";
  }

  void Declare(CLI::App& app) override {
    AddOption(app, "OLD", old_, "FILE", "the earlier signature file", "Arguments")->required();
    AddOption(app, "NEW", new_, "FILE", "the later signature file", "Arguments")->required();
    trust_.Declare(app);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override;

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return StrCat(old_, " and ", new_, " were not compared");
  }

 private:
  std::string old_;
  std::string new_;
  TrustOptions trust_;
};

absl::StatusOr<Outcome> DiffVerb::Run(const Session&) {
  PAVISE_ASSIGN_OR_RETURN(const SignatureFile before, ReadSignatureFile(old_, trust_));
  PAVISE_ASSIGN_OR_RETURN(const SignatureFile after, ReadSignatureFile(new_, trust_));
  const signing::StatementDiff diff = signing::DiffStatements(before.statement, after.statement);

  Outcome outcome;
  const bool verified = before.signer.has_value() && after.signer.has_value();
  if (verified) {
    outcome.verdict = "OK";
    outcome.headline = "both signatures are good; the models' files were not looked at";
  } else {
    outcome.text = std::string(kNotVerified);
  }
  const bool renamed = before.statement.model_name != after.statement.model_name ||
                       before.statement.model_version != after.statement.model_version;
  if (renamed) {
    StrAppend(&outcome.text, "Model: ", Printable(ModelText(before.statement)), " -> ",
              Printable(ModelText(after.statement)), "\n");
  }
  StrAppend(
      &outcome.text, EntriesText("Files", diff.files, ""),
      EntriesText("Tensors", diff.tensors, StrCat(", ", diff.tensors_unchanged, " unchanged")));
  for (const std::string& note : diff.notes) {
    StrAppend(&outcome.text, "note: ", Printable(note), "\n");
  }
  outcome.json = {
      {"old", {{"signature", old_}, {"statement", StatementSummaryJson(before.statement)}}},
      {"new", {{"signature", new_}, {"statement", StatementSummaryJson(after.statement)}}},
      {"verified", verified},
      {"identical", diff.files.empty() && diff.tensors.empty() && !renamed &&
                        before.statement.root == after.statement.root},
      {"files", EntriesJson(diff.files)},
      {"tensors", EntriesJson(diff.tensors)},
      {"tensors_unchanged", diff.tensors_unchanged},
      {"notes", diff.notes}};
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewDiffVerb() { return std::make_unique<DiffVerb>(); }

}  // namespace pavise::cli
