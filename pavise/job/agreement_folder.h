#ifndef PAVISE_JOB_AGREEMENT_FOLDER_H_
#define PAVISE_JOB_AGREEMENT_FOLDER_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/policy/history.h"
#include "pavise/policy/stage_evidence.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::job {

// An agreement's statements and the files that they pin, as `pavise policy show --output` writes
// them: "001-agreement.json", "002-approval.json", ... in the order in which the broker took them,
// and "attachments/SHA-256". In memory; immutable; thread-safe.
class AgreementFolder final : public policy::AttachmentSource {
 public:
  struct Statement {
    std::string name;  // of its file
    Bytes text;
    Digest32 digest{};  // SHA-256 of the text, as ledgers name it
  };

  // kFileMissing: no statement; kFileUnsigned: a file that is neither; kContentMismatch: an
  // attachment under another's digest; kLimitExceeded: 4,200 statements, 1,024 attachments of 16
  // MiB, 256 MiB together; kFileTypeRefused; kFileUnreadable.
  static absl::StatusOr<AgreementFolder> Read(const std::string& folder);

  const std::vector<Statement>& statements() const { return statements_; }
  const std::map<Digest32, Bytes>& attachments() const { return attachments_; }
  absl::StatusOr<Bytes> Read(const Digest32& digest) const override;

  // The history that the first `count` statements make, each received at its time. As
  // AgreementHistory; refusals name the file.
  absl::StatusOr<policy::AgreementHistory> Replay(
      size_t count, const std::function<absl::Time(const Statement&)>& received) const;

 private:
  AgreementFolder() = default;
  std::vector<Statement> statements_;
  std::map<Digest32, Bytes> attachments_;
};

}  // namespace pavise::job

#endif  // PAVISE_JOB_AGREEMENT_FOLDER_H_
