#ifndef PAVISE_JOB_INTERNAL_FOLDER_ENTRIES_H_
#define PAVISE_JOB_INTERNAL_FOLDER_ENTRIES_H_

#include <cstdint>
#include <map>
#include <string>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

namespace pavise::job::internal {

// What lies directly in a folder, by name: true is a folder, false a regular file. Links and
// special files are refused (kFileTypeRefused); kLimitExceeded: over 8,192.
absl::StatusOr<std::map<std::string, bool>> EntriesOf(const std::string& folder);
// A regular file; a link is refused.
absl::StatusOr<Bytes> ReadEntry(const std::string& path, uint64_t max_bytes);
// One hard copy of a file whose reading may take long: regular files only, made durable.
absl::Status CopyEntry(const std::string& from, const std::string& to);

}  // namespace pavise::job::internal

#endif  // PAVISE_JOB_INTERNAL_FOLDER_ENTRIES_H_
