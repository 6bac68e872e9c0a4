#ifndef PAVISE_CLI_TRUST_FOLDER_H_
#define PAVISE_CLI_TRUST_FOLDER_H_

#include <string>

#include "pavise/evidence/appraise/machine/machine_appraiser.h"

#include "absl/status/statusor.h"

namespace pavise::cli {

// Endorsements on disk, for appraisals without a network: the files that
// evidence/appraise/machine/trust_files.h names; others beside them are not read. A file that does
// not parse refuses the whole folder.
absl::StatusOr<evidence::MachineTrust> ReadTrustFolder(const std::string& folder);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_TRUST_FOLDER_H_
