#ifndef PAVISE_EVIDENCE_REFERENCE_SOURCES_H_
#define PAVISE_EVIDENCE_REFERENCE_SOURCES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/reference/reference_values.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// Reference values of files (SHA-256), made where the files lie: this is not appraisal, and reads
// the disk. Links are not followed and not listed: IMA measures the file that a path leads to,
// under that file's own path. Not thread-safe.
struct FileReferences {
  ReferenceValues values;
  uint64_t file_count = 0;
  // What was left out, and why: changed since it was installed, a name that is not UTF-8,
  // unreadable.
  std::vector<std::string> left_out;
};

struct ArchiveLimits {
  uint64_t max_unpacked_bytes = uint64_t{2} << 30;  // all members together
  uint64_t max_members = 1'000'000;
};

// Every regular file below `root`, as prefix + "/" + its path there; `prefix` is where the tree
// will lie on the measured machine ("" for its root). Other file systems below are entered.
absl::StatusOr<FileReferences> ReferencesOfTree(const std::string& root, const std::string& prefix,
                                                const std::string& source);

// An initramfs: one or more newc cpio archives (Linux, Documentation/driver-api/early-userspace/
// buffer-format.rst), each plain or compressed as libarchive reads it (gzip, xz, zstd, ...).
// kMalformed, kLimitExceeded.
absl::StatusOr<FileReferences> ReferencesOfInitramfs(ByteSpan image, std::string_view item,
                                                     const std::string& source,
                                                     const ArchiveLimits& limits = {});

// A Debian binary package (deb(5)). Paths below /bin, /sbin, /lib and /lib64 are listed below /usr,
// where merged systems have them, when `merged_usr`. kMalformed, kLimitExceeded.
absl::StatusOr<FileReferences> ReferencesOfDebianPackage(ByteSpan package, std::string_view item,
                                                         const std::string& source,
                                                         bool merged_usr = true,
                                                         const ArchiveLimits& limits = {});

// The installed packages of the system below `root` ("/" for this machine), by dpkg's database:
// each file that a package's md5sums name is hashed, held against them, and listed under the path
// that it really has. Files that differ are left out. The source of a file is its package and
// version. `packages`: those only; empty: all. kFileMissing: a package that is not installed.
absl::StatusOr<FileReferences> ReferencesOfInstalledPackages(
    const std::string& root, const std::vector<std::string>& packages);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_REFERENCE_SOURCES_H_
