#ifndef PAVISE_BASE_ATOMIC_DIRECTORY_H_
#define PAVISE_BASE_ATOMIC_DIRECTORY_H_

#include <string>

#include "pavise/base/file.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise {

// Makes a directory, readable by its owner only, beside its final name and renames it at Commit: it
// appears whole or not at all. The temporary goes, with all below it, with an uncommitted object
// and by the signals of RemoveUnfinishedFilesOnSignals. A process that is killed leaves it behind,
// as "NAME.unfinished-XXXXXX"; the next Create of that name removes it and logs a warning. (A
// leftover is a directory of this user with that name and mode 01700 that no process has locked.)
// Not thread-safe, but files may be made below root() from many threads.
class AtomicDirectory {
 public:
  // A usage error where `path` exists.
  static absl::StatusOr<AtomicDirectory> Create(std::string path);
  ~AtomicDirectory();
  AtomicDirectory(AtomicDirectory&&) noexcept;
  AtomicDirectory& operator=(AtomicDirectory&&) = delete;

  const FileDescriptor& root() const { return root_; }

  // Renames, flushes the directory above. That what is below root() is on the disk is the caller's
  // matter. A usage error where the path exists by now.
  absl::Status Commit();

 private:
  AtomicDirectory(std::string path, std::string temporary);
  std::string path_;
  std::string temporary_;  // empty once renamed or moved from
  FileDescriptor root_;    // holds the lock
  int place_ = -1;         // among the unfinished paths
};

// Makes the entries of a directory durable. A file system that cannot is passed over.
absl::Status FlushDirectory(const FileDescriptor& directory, std::string_view item);
absl::Status FlushDirectoryOf(const std::string& path);

}  // namespace pavise

#endif  // PAVISE_BASE_ATOMIC_DIRECTORY_H_
