#ifndef PAVISE_MODEL_FILE_TREE_H_
#define PAVISE_MODEL_FILE_TREE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/file.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::model {

struct WalkOptions {
  // Follow symbolic links (loops and dangling links are still refused). Without it any link is
  // kFileTypeRefused.
  bool allow_symlinks = false;
  // Relative to the model, "/"-separated; a directory leaves out everything below it. "./a", "a/"
  // and "a//b" are understood as "a" and "a/b"; an absolute path, or one with "..", leaves out
  // nothing, and so does "." (the model itself). What is left out is not even opened.
  std::vector<std::string> ignore_paths;
  // Set: only these files are looked for (relative paths); whatever else lies there is not looked
  // at, and one of these that is not there is no finding, it is just not listed.
  std::optional<std::vector<std::string>> only_paths;
  // More files, or more directories, than this are refused.
  uint64_t max_files = 10'000'000;
  // Components of a path.
  uint32_t max_depth = 256;
};

struct FileEntry {
  std::string path;  // relative, "/"-separated, byte-exact; "." for a single-file model
  FileIdentity identity;
};

// A model on disk: a directory of files, or one file. Holds the directory open, so that what is
// listed and what is opened lie below the same directory whatever is renamed meanwhile.
// Thread-safe after Open.
class FileTree {
 public:
  // Lists every regular file, sorted by the bytes of the path. Findings, all of them in one status:
  // links (kFileTypeRefused), pipes, sockets and devices (kFileTypeRefused), unreadable directories
  // and files (kFileUnreadable), link loops, names that are not UTF-8 (kPathUnsafe), too many or
  // too deep (kLimitExceeded). At most 1,000 findings, then the walk stops. Empty directories are
  // nothing.
  //
  // Where links are allowed, what a link points to is listed under the link's path, inside the
  // model or not; a directory that contains itself (kFileTypeRefused) and a link to nothing
  // (kFileUnreadable) are findings.
  //
  // `root` itself may be a link, also where links are not allowed: its name comes from the user,
  // not from the model. A regular file as `root` is a model of one file, listed as "." whatever the
  // options leave out or ask for.
  static absl::StatusOr<FileTree> Open(const std::string& root, const WalkOptions& options);

  const std::vector<FileEntry>& files() const { return files_; }
  bool is_single_file() const { return is_single_file_; }
  // The last component of the model's path.
  const std::string& name() const { return name_; }
  const std::string& root() const { return root_; }

  // Opens one listed file ("." for a single-file model) for reading, beneath the root. A path that
  // is not listed is kFileMissing, a file that is not the listed one any more kFileUnstable.
  absl::StatusOr<FileDescriptor> OpenFile(const std::string& path) const;

 private:
  FileTree() = default;
  std::string root_;
  std::string name_;
  FileDescriptor directory_;
  bool is_single_file_ = false;
  bool allow_symlinks_ = false;
  std::vector<FileEntry> files_;
};

// A path that a signature may name: relative, UTF-8, no empty, "." or ".." component, no NUL, at
// most 4,096 bytes. A backslash is a character like any other (POSIX). "." alone is allowed
// (single-file model). kPathUnsafe.
absl::Status CheckRelativePath(std::string_view path, std::string_view item);

}  // namespace pavise::model

#endif  // PAVISE_MODEL_FILE_TREE_H_
