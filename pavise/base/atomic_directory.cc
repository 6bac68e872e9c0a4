#include "pavise/base/atomic_directory.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "pavise/base/internal/unfinished_paths.h"
#include "pavise/base/log.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kInfix = ".unfinished-";
constexpr size_t kRandomCharacters = 6;  // mkdtemp's
// The sticky bit means nothing where nobody else may write: here it marks what is unfinished.
constexpr mode_t kUnfinishedMode = S_ISVTX | S_IRWXU;
constexpr int kDirectoryFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

bool IsUnfinishedName(std::string_view name, std::string_view final_name) {
  return name.size() == final_name.size() + kInfix.size() + kRandomCharacters &&
         name.starts_with(final_name) && name.substr(final_name.size()).starts_with(kInfix) &&
         std::ranges::all_of(name.substr(name.size() - kRandomCharacters),
                             [](unsigned char c) { return std::isalnum(c) != 0; });
}

// What killed processes left of this name. Another process's, alive, holds its lock.
void RemoveLeftovers(const std::string& path) {
  const fs::path whole(path);
  const std::string name = whole.filename().string();
  std::error_code error;
  std::vector<fs::path> found;
  const fs::path above = whole.has_parent_path() ? whole.parent_path() : fs::path(".");
  for (fs::directory_iterator it(above, error), end; !error && it != end; it.increment(error)) {
    if (IsUnfinishedName(it->path().filename().string(), name)) found.push_back(it->path());
  }
  for (const fs::path& leftover : found) {
    const FileDescriptor directory(open(leftover.c_str(), kDirectoryFlags));
    struct stat status;
    if (!directory.is_open() || fstat(directory.get(), &status) != 0 ||
        status.st_uid != geteuid() || (status.st_mode & 07777) != kUnfinishedMode ||
        flock(directory.get(), LOCK_EX | LOCK_NB) != 0) {
      continue;
    }
    std::error_code failed;
    fs::remove_all(leftover, failed);
    Log(LogLevel::kWarning,
        failed ? StrCat(leftover.string(),
                        " is left of a process that was killed, and stays: ", failed.message())
               : StrCat("removed ", leftover.string(), ", left by a process that was killed"));
  }
}

}  // namespace

absl::StatusOr<AtomicDirectory> AtomicDirectory::Create(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  if (path.empty()) return UsageError("an empty directory name");
  struct stat status;
  if (lstat(path.c_str(), &status) == 0) {
    return UsageError(StrCat(path, " exists: give the name of a new directory"));
  }
  RemoveLeftovers(path);
  std::string temporary = StrCat(path, kInfix, std::string(kRandomCharacters, 'X'));
  if (mkdtemp(temporary.data()) == nullptr) return FromErrno(errno, "create", path);
  AtomicDirectory directory(std::move(path), std::move(temporary));
  directory.root_ = FileDescriptor(open(directory.temporary_.c_str(), kDirectoryFlags));
  if (!directory.root_.is_open()) return FromErrno(errno, "open", directory.temporary_);
  // Locked before it is marked, so that nobody takes it for a leftover. Where there are no locks,
  // it is not marked.
  if (flock(directory.root_.get(), LOCK_EX | LOCK_NB) == 0 &&
      fchmod(directory.root_.get(), kUnfinishedMode) != 0) {
    return FromErrno(errno, "set permissions", directory.temporary_);
  }
  return directory;
}

AtomicDirectory::AtomicDirectory(std::string path, std::string temporary)
    : path_(std::move(path)),
      temporary_(std::move(temporary)),
      place_(internal::RememberUnfinished(temporary_)) {}

AtomicDirectory::AtomicDirectory(AtomicDirectory&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      root_(std::move(other.root_)),
      place_(std::exchange(other.place_, -1)) {}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  internal::ForgetUnfinished(place_);
}

absl::Status AtomicDirectory::Commit() {
  if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) != 0) {
    if (errno == EEXIST) return UsageError(StrCat(path_, " exists by now"));
    return FromErrno(errno, "rename to", path_);
  }
  temporary_.clear();
  internal::ForgetUnfinished(std::exchange(place_, -1));
  if (fchmod(root_.get(), S_IRWXU) != 0) return FromErrno(errno, "set permissions", path_);
  return FlushDirectoryOf(path_);
}

absl::Status FlushDirectory(const FileDescriptor& directory, std::string_view item) {
  // EINVAL: a file system that cannot flush directories; nothing more can be done there.
  if (!directory.is_open() || (fsync(directory.get()) != 0 && errno != EINVAL)) {
    return FromErrno(errno, "flush", item);
  }
  return absl::OkStatus();
}

absl::Status FlushDirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string above = slash == std::string::npos ? "."
                            : slash == 0               ? "/"
                                                       : path.substr(0, slash);
  const FileDescriptor directory(open(above.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return FlushDirectory(directory, StrCat("the directory of ", path));
}

}  // namespace pavise
