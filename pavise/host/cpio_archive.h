#ifndef PAVISE_HOST_CPIO_ARCHIVE_H_
#define PAVISE_HOST_CPIO_ARCHIVE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

namespace pavise::host {

// One entry of an initial file system; owned by root.
struct ArchiveEntry {
  enum class Kind { kDirectory, kFile, kSymlink, kCharacterDevice };
  std::string path;  // relative, no "." or "..": "usr/bin/pavise-agent"
  Kind kind = Kind::kFile;
  uint32_t permissions = 0644;
  Bytes content;  // of a file, or a link's target
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
};

// An archive in the kernel's initramfs format ("newc", Documentation/driver-api/early-userspace/
// buffer-format.rst), with the directories that the entries need, sorted by path, all times zero:
// the same entries give the same bytes. kPathUnsafe for a path that leaves the root or stands
// twice; kLimitExceeded for files over 4 GiB.
absl::StatusOr<Bytes> WriteCpioArchive(const std::vector<ArchiveEntry>& entries);

}  // namespace pavise::host

#endif  // PAVISE_HOST_CPIO_ARCHIVE_H_
