#include "pavise/job/agreement_folder.h"

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/job/internal/folder_entries.h"

namespace pavise::job {
namespace {

constexpr uint64_t kMaxStatementBytes = uint64_t{2} << 20;
constexpr uint64_t kMaxAttachmentBytes = uint64_t{16} << 20;
constexpr uint64_t kMaxFolderBytes = uint64_t{256} << 20;
constexpr size_t kMaxStatements = 4'200;
constexpr size_t kMaxAttachments = 1'024;

bool IsStatement(const std::string& name) {
  const size_t dash = name.find('-');
  if (dash == std::string::npos || dash < 3 || dash > 4 ||
      !std::all_of(name.begin(), name.begin() + static_cast<std::ptrdiff_t>(dash),
                   [](char c) { return c >= '0' && c <= '9'; })) {
    return false;
  }
  const std::string rest = name.substr(dash);
  return rest == "-agreement.json" || rest == "-approval.json" || rest == "-withdrawal.json";
}

}  // namespace

absl::StatusOr<AgreementFolder> AgreementFolder::Read(const std::string& folder) {
  AgreementFolder read;
  uint64_t left = kMaxFolderBytes;
  const auto content = [&](const std::string& path, uint64_t most) -> absl::StatusOr<Bytes> {
    PAVISE_ASSIGN_OR_RETURN(Bytes bytes, internal::ReadEntry(path, std::min(most, left)));
    left -= bytes.size();
    return bytes;
  };
  PAVISE_ASSIGN_OR_RETURN(const auto entries, internal::EntriesOf(folder));
  bool has_attachments = false;
  for (const auto& [name, is_folder] : entries) {
    const std::string path = StrCat(folder, "/", name);
    if (is_folder && name == "attachments") {
      has_attachments = true;
      continue;
    }
    if (is_folder || !IsStatement(name)) {
      return Refuse(Reason::kFileUnsigned, path, "is no statement of the agreement",
                    "remove it, or write the folder anew (pavise policy show --output)");
    }
    if (read.statements_.size() == kMaxStatements) {
      return Refuse(Reason::kLimitExceeded, folder, StrCat("over ", kMaxStatements, " statements"));
    }
    Statement statement{.name = name, .text = {}, .digest = {}};
    PAVISE_ASSIGN_OR_RETURN(statement.text, content(path, kMaxStatementBytes));
    PAVISE_ASSIGN_OR_RETURN(statement.digest, crypto::Sha256(statement.text));
    read.statements_.push_back(std::move(statement));
  }
  if (read.statements_.empty()) {
    return Refuse(Reason::kFileMissing, folder, "holds no statement of an agreement",
                  "let pavise policy show --output write it");
  }
  // 1000-... comes after 999-...
  std::stable_sort(
      read.statements_.begin(), read.statements_.end(),
      [](const Statement& a, const Statement& b) { return a.name.find('-') < b.name.find('-'); });
  if (!has_attachments) return read;
  const std::string below = StrCat(folder, "/attachments");
  PAVISE_ASSIGN_OR_RETURN(const auto files, internal::EntriesOf(below));
  for (const auto& [name, is_folder] : files) {
    const std::string path = StrCat(below, "/", name);
    const absl::StatusOr<Digest32> digest = Digest32FromHex(name, path);
    if (is_folder || !digest.ok() || ToHex(*digest) != name) {
      return Refuse(Reason::kFileUnsigned, path, "is no file that the agreement could pin",
                    "remove it");
    }
    if (read.attachments_.size() == kMaxAttachments) {
      return Refuse(Reason::kLimitExceeded, below, StrCat("over ", kMaxAttachments, " files"));
    }
    PAVISE_ASSIGN_OR_RETURN(Bytes bytes, content(path, kMaxAttachmentBytes));
    PAVISE_ASSIGN_OR_RETURN(const Digest32 actual, crypto::Sha256(bytes));
    if (actual != *digest) {
      return Refuse(Reason::kContentMismatch, path, StrCat("has the digest ", ToHex(actual)),
                    "take the file that the agreement pins");
    }
    read.attachments_.emplace(*digest, std::move(bytes));
  }
  return read;
}

absl::StatusOr<Bytes> AgreementFolder::Read(const Digest32& digest) const {
  const auto found = attachments_.find(digest);
  if (found == attachments_.end()) {
    return Refuse(Reason::kFileMissing, ToHex(digest),
                  "is pinned by the agreement, and is not among its attachments",
                  "write the folder anew (pavise policy show --output)");
  }
  return found->second;
}

absl::StatusOr<policy::AgreementHistory> AgreementFolder::Replay(
    size_t count, const std::function<absl::Time(const Statement&)>& received) const {
  const auto named = [](const Statement& statement, const absl::Status& status) {
    std::vector<Refusal> findings = RefusalsOf(status);
    if (findings.empty()) return status;
    for (Refusal& finding : findings) finding.item = StrCat(statement.name, ": ", finding.item);
    return Refuse(std::move(findings));
  };
  absl::StatusOr<policy::AgreementHistory> history =
      policy::AgreementHistory::Begin(statements_[0].text, received(statements_[0]));
  if (!history.ok()) return named(statements_[0], history.status());
  for (size_t i = 1; i < count && i < statements_.size(); ++i) {
    const absl::Status taken =
        history->Append(statements_[i].text, received(statements_[i])).status();
    if (!taken.ok()) return named(statements_[i], taken);
  }
  return history;
}

}  // namespace pavise::job
