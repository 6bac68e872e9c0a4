#include "pavise/cli/trust_folder.h"

#include <filesystem>
#include <map>
#include <system_error>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/evidence/appraise/machine/trust_files.h"

namespace pavise::cli {

namespace fs = std::filesystem;

absl::StatusOr<evidence::MachineTrust> ReadTrustFolder(const std::string& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    return Refuse(Reason::kFileUnreadable, folder, "is no folder",
                  "give the folder with the endorsements (docs/formats/appraisal_policy.md)");
  }
  std::map<std::string, Bytes> files;
  for (const char* part : {"tpm", "amd", "intel", "intel/tdx", "intel/sgx", "nvidia"}) {
    const fs::path below = fs::path(folder) / part;
    if (!fs::exists(below, error)) continue;
    for (fs::directory_iterator it(below, error), end; !error && it != end; it.increment(error)) {
      const std::string name = (fs::path(part) / it->path().filename()).string();
      if (!it->is_regular_file(error) || !evidence::IsTrustFile(name)) continue;
      PAVISE_ASSIGN_OR_RETURN(files[name],
                              ReadFile(it->path().string(), evidence::kMaxTrustFileBytes));
    }
    if (error) return FromErrno(error.value(), "reading", below.string());
  }
  return evidence::ParseTrustFiles(files, folder);
}

}  // namespace pavise::cli
