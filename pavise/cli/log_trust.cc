#include "pavise/cli/log_trust.h"

#include <cstdint>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kLogGroup = "Whom to believe";
constexpr uint64_t kMostKeyBytes = 4096;

absl::StatusOr<ledger::NoteKey> ReadNoteKey(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path, kMostKeyBytes));
  return ledger::NoteKey::Parse(AsText(text), path);
}

}  // namespace

void LogTrust::Declare(CLI::App& app) {
  AddOption(app, "--log-key", log_key, "FILE", "the log's key, as its broker publishes it",
            kLogGroup)
      ->required();
  AddOption(app, "--cosigner", cosigners, "FILE",
            "the key of an owner or witness who cosigns checkpoints; may be repeated", kLogGroup);
  AddOption(app, "--cosigners-required", required, "N",
            "how many of them must have cosigned the checkpoint [all]", kLogGroup);
}

absl::StatusOr<ledger::CheckpointTrust> LogTrust::Resolve() const {
  PAVISE_ASSIGN_OR_RETURN(ledger::NoteKey log, ReadNoteKey(log_key));
  ledger::CheckpointTrust trust{std::move(log), {}, cosigners.size()};
  for (const std::string& path : cosigners) {
    PAVISE_ASSIGN_OR_RETURN(ledger::NoteKey cosigner, ReadNoteKey(path));
    trust.cosigners.push_back(std::move(cosigner));
  }
  if (!required.empty()) {
    PAVISE_ASSIGN_OR_RETURN(const uint64_t count, ParseCount("--cosigners-required", required));
    if (count > cosigners.size()) {
      return UsageError(StrCat("--cosigners-required: only ", cosigners.size(), " are given"));
    }
    trust.cosigners_required = count;
  }
  return trust;
}

}  // namespace pavise::cli
