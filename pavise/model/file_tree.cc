#include "pavise/model/file_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace pavise::model {
namespace {

constexpr size_t kMaxFindings = 1000;
constexpr size_t kMaxPathBytes = 4096;
constexpr std::string_view kLinkRemedy =
    "replace the link by what it points to, or allow links when signing and when verifying";

struct DirectoryIdentity {
  dev_t device;
  ino_t inode;
  friend bool operator==(const DirectoryIdentity&, const DirectoryIdentity&) = default;
};

// "a/b" for "./a//b/"; empty for a path that can leave out nothing.
std::string NormalizedIgnorePath(std::string_view path) {
  if (path.empty() || path.front() == '/') return "";
  std::vector<absl::string_view> components;
  for (const absl::string_view component : absl::StrSplit(ToAbsl(path), '/')) {
    if (component.empty() || component == ".") continue;
    if (component == "..") return "";
    components.push_back(component);
  }
  return absl::StrJoin(components, "/");
}

std::string_view KindOf(mode_t mode) {
  if (S_ISFIFO(mode)) return "is a pipe";
  if (S_ISSOCK(mode)) return "is a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "is a device";
  return "is not a regular file";
}

absl::Status RefuseKind(mode_t mode, std::string_view item) {
  return Refuse(Reason::kFileTypeRefused, item, KindOf(mode),
                "a model holds regular files and directories; remove it or leave it out");
}

// The names in an open directory, sorted, without "." and "..".
absl::StatusOr<std::vector<std::string>> ReadNames(const FileDescriptor& directory,
                                                   std::string_view item, uint64_t max_names) {
  // A description of its own: reading must not move the offset of the caller's.
  const int fd = openat(directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return FromErrno(errno, "open the directory", item);
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(fdopendir(fd), closedir);
  if (stream == nullptr) {
    const int error_number = errno;
    close(fd);
    return FromErrno(error_number, "read the directory", item);
  }
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const struct dirent* const entry = readdir(stream.get());
    if (entry == nullptr) {
      if (errno != 0) return FromErrno(errno, "read the directory", item);
      break;
    }
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (names.size() >= max_names) {
      return Refuse(Reason::kLimitExceeded, item,
                    StrCat("holds more than ", max_names, " entries"));
    }
    names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// One listing of a directory. Refusals are collected, a failing machine ends the walk.
class Walk {
 public:
  explicit Walk(const WalkOptions& options) : options_(options) {
    for (const std::string& path : options.ignore_paths) {
      if (std::string normalized = NormalizedIgnorePath(path); !normalized.empty()) {
        ignored_.insert(std::move(normalized));
      }
    }
  }

  absl::StatusOr<std::vector<FileEntry>> ListAll(const FileDescriptor& root,
                                                 std::string_view root_item) {
    struct stat status;
    if (fstat(root.get(), &status) != 0) return FromErrno(errno, "stat", root_item);
    ancestors_.push_back({status.st_dev, status.st_ino});
    PAVISE_RETURN_IF_ERROR(VisitDirectory(root, "", root_item));
    return TakeFiles();
  }

  absl::StatusOr<std::vector<FileEntry>> ListOnly(const FileDescriptor& root,
                                                  std::vector<std::string> paths) {
    std::sort(paths.begin(), paths.end());
    paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
    for (const std::string& path : paths) {
      if (stopped()) break;
      if (path == ".") continue;  // a directory: not a file that is there
      PAVISE_RETURN_IF_ERROR(LookUp(root, path));
    }
    return TakeFiles();
  }

 private:
  bool stopped() const { return limit_reached_ || findings_.size() >= kMaxFindings; }

  absl::StatusOr<std::vector<FileEntry>> TakeFiles() {
    if (!findings_.empty()) return Refuse(std::move(findings_));
    std::sort(files_.begin(), files_.end(),
              [](const FileEntry& a, const FileEntry& b) { return a.path < b.path; });
    return std::move(files_);
  }

  // Keeps a refusal as a finding; hands anything else back.
  absl::Status Note(const absl::Status& status) {
    std::vector<Refusal> refusals = RefusalsOf(status);
    if (refusals.empty()) return status;
    for (Refusal& refusal : refusals) findings_.push_back(std::move(refusal));
    return absl::OkStatus();
  }

  absl::Status NoteLimit(std::string_view item, std::string_view detail) {
    limit_reached_ = true;
    return Note(Refuse(Reason::kLimitExceeded, item, detail, "split the model"));
  }

  // What `name` in `directory` is, links followed where they are allowed; `is_link` says whether
  // one was. nullopt: refused, and noted.
  absl::StatusOr<std::optional<struct stat>> Inspect(const FileDescriptor& directory,
                                                     const std::string& name,
                                                     const std::string& path, bool& is_link) {
    struct stat status;
    if (fstatat(directory.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      PAVISE_RETURN_IF_ERROR(Note(FromErrno(errno, "stat", path)));
      return std::nullopt;
    }
    is_link = S_ISLNK(status.st_mode);
    if (!is_link) return status;
    if (!options_.allow_symlinks) {
      PAVISE_RETURN_IF_ERROR(
          Note(Refuse(Reason::kFileTypeRefused, path, "is a symbolic link", kLinkRemedy)));
      return std::nullopt;
    }
    if (fstatat(directory.get(), name.c_str(), &status, 0) == 0) return status;
    const int error_number = errno;
    absl::Status error = FromErrno(error_number, "follow the link", path);
    if (error_number == ENOENT || error_number == ENOTDIR) {
      error = Refuse(Reason::kFileUnreadable, path, "is a symbolic link to nothing",
                     "remove the link, or put back what it points to");
    } else if (error_number == ELOOP) {
      error = Refuse(Reason::kFileTypeRefused, path, "is a symbolic link that leads to itself",
                     "remove the link");
    }
    PAVISE_RETURN_IF_ERROR(Note(error));
    return std::nullopt;
  }

  absl::Status AddFile(const FileDescriptor& directory, const std::string& name,
                       const std::string& path, const struct stat& status) {
    if (files_.size() >= options_.max_files) {
      return NoteLimit(
          path, StrCat("is file ", files_.size() + 1, ", the limit is ", options_.max_files));
    }
    // Asked, not opened: opening is left to whoever reads, and checked again there.
    if (faccessat(directory.get(), name.c_str(), R_OK, AT_EACCESS) != 0) {
      return Note(FromErrno(errno, "read", path));
    }
    files_.push_back({path, IdentityOf(status)});
    return absl::OkStatus();
  }

  absl::Status VisitDirectory(const FileDescriptor& directory, const std::string& path,
                              std::string_view item) {
    const absl::StatusOr<std::vector<std::string>> names =
        ReadNames(directory, item, options_.max_files + ignored_.size());
    if (!names.ok()) return Note(names.status());
    for (const std::string& name : *names) {
      if (stopped()) return absl::OkStatus();
      const std::string child = path.empty() ? name : StrCat(path, "/", name);
      if (ignored_.contains(child)) continue;
      if (ancestors_.size() > options_.max_depth) {
        return Note(Refuse(Reason::kLimitExceeded, item,
                           StrCat("holds paths of more than ", options_.max_depth, " components"),
                           "flatten the directories"));
      }
      PAVISE_RETURN_IF_ERROR(VisitEntry(directory, name, child));
    }
    return absl::OkStatus();
  }

  absl::Status VisitEntry(const FileDescriptor& directory, const std::string& name,
                          const std::string& path) {
    if (const absl::Status safe = CheckRelativePath(path, Printable(path)); !safe.ok()) {
      return Note(safe);
    }
    bool is_link = false;
    PAVISE_ASSIGN_OR_RETURN(const std::optional<struct stat> status,
                            Inspect(directory, name, path, is_link));
    if (!status.has_value()) return absl::OkStatus();
    if (S_ISREG(status->st_mode)) return AddFile(directory, name, path, *status);
    if (!S_ISDIR(status->st_mode)) return Note(RefuseKind(status->st_mode, path));

    if (++directories_ > options_.max_files) {
      // Links can spell one directory in exponentially many ways.
      return NoteLimit(
          path, StrCat("is directory ", directories_, ", the limit is ", options_.max_files));
    }
    const FileDescriptor child(
        openat(directory.get(), name.c_str(),
               O_RDONLY | O_DIRECTORY | O_CLOEXEC | (is_link ? 0 : O_NOFOLLOW)));
    struct stat opened;
    if (!child.is_open() || fstat(child.get(), &opened) != 0) {
      return Note(FromErrno(errno, "open the directory", path));
    }
    // Of what was opened, not of what was seen before.
    const DirectoryIdentity identity = {opened.st_dev, opened.st_ino};
    if (std::find(ancestors_.begin(), ancestors_.end(), identity) != ancestors_.end()) {
      return Note(Refuse(Reason::kFileTypeRefused, path,
                         is_link ? "is a symbolic link to a directory that contains it"
                                 : "is a directory that contains itself",
                         "remove the link"));
    }
    ancestors_.push_back(identity);
    PAVISE_RETURN_IF_ERROR(VisitDirectory(child, path, path));
    ancestors_.pop_back();
    return absl::OkStatus();
  }

  // Lists `path` if it is a file, without reading any directory.
  absl::Status LookUp(const FileDescriptor& root, const std::string& path) {
    if (const absl::Status safe = CheckRelativePath(path, Printable(path)); !safe.ok()) {
      return Note(safe);
    }
    const std::vector<std::string> components = absl::StrSplit(ToAbsl(path), '/');
    if (components.size() > options_.max_depth) {
      return Note(Refuse(Reason::kLimitExceeded, path,
                         StrCat("has more than ", options_.max_depth, " components")));
    }
    FileDescriptor opened;
    const FileDescriptor* directory = &root;
    std::string prefix;
    for (size_t i = 0; i < components.size(); ++i) {
      const std::string& name = components[i];
      prefix = prefix.empty() ? name : StrCat(prefix, "/", name);
      if (ignored_.contains(prefix)) return absl::OkStatus();
      struct stat entry;
      if (fstatat(directory->get(), name.c_str(), &entry, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT || errno == ENOTDIR) return absl::OkStatus();
        return Note(FromErrno(errno, "stat", prefix));
      }
      bool is_link = false;
      PAVISE_ASSIGN_OR_RETURN(const std::optional<struct stat> status,
                              Inspect(*directory, name, prefix, is_link));
      if (!status.has_value()) return absl::OkStatus();
      const bool is_last = i + 1 == components.size();
      if (is_last) {
        if (S_ISREG(status->st_mode)) return AddFile(*directory, name, path, *status);
        // A directory there means that the file is not.
        if (S_ISDIR(status->st_mode)) return absl::OkStatus();
        return Note(RefuseKind(status->st_mode, path));
      }
      if (!S_ISDIR(status->st_mode)) return absl::OkStatus();
      FileDescriptor next(openat(directory->get(), name.c_str(),
                                 O_PATH | O_DIRECTORY | O_CLOEXEC | (is_link ? 0 : O_NOFOLLOW)));
      if (!next.is_open()) return Note(FromErrno(errno, "open the directory", prefix));
      opened = std::move(next);
      directory = &opened;
    }
    return absl::OkStatus();
  }

  const WalkOptions& options_;
  absl::flat_hash_set<std::string> ignored_;
  std::vector<DirectoryIdentity> ancestors_;  // from the root to the directory being read
  uint64_t directories_ = 0;
  bool limit_reached_ = false;
  std::vector<FileEntry> files_;
  std::vector<Refusal> findings_;
};

}  // namespace

absl::StatusOr<FileTree> FileTree::Open(const std::string& root, const WalkOptions& options) {
  if (root.find('\0') != std::string::npos) {
    return Refuse(Reason::kPathUnsafe, Printable(root), "holds a NUL byte");
  }
  // Looked at before it is opened: opening a pipe waits, opening a device may do anything.
  struct stat status;
  if (stat(root.c_str(), &status) != 0) return FromErrno(errno, "open", root);

  FileTree tree;
  tree.root_ = root;
  tree.name_ = BaseName(root);
  tree.allow_symlinks_ = options.allow_symlinks;
  if (S_ISREG(status.st_mode)) {
    // The directory around the file, so that each OpenFile gives a description of its own.
    const size_t slash = root.rfind('/');
    const std::string parent = slash == std::string::npos ? "." : root.substr(0, slash + 1);
    tree.is_single_file_ = true;
    tree.directory_ = FileDescriptor(open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!tree.directory_.is_open()) return FromErrno(errno, "open the directory of", root);
    PAVISE_ASSIGN_OR_RETURN(
        const FileDescriptor file,
        OpenBeneath(tree.directory_, root.substr(slash + 1), /*follow_links=*/true));
    PAVISE_ASSIGN_OR_RETURN(const FileIdentity identity, IdentityOf(file, root));
    tree.files_.push_back({".", identity});
    return tree;
  }
  if (!S_ISDIR(status.st_mode)) return RefuseKind(status.st_mode, root);

  tree.directory_ = FileDescriptor(open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!tree.directory_.is_open()) return FromErrno(errno, "open the directory", root);
  Walk walk(options);
  if (options.only_paths.has_value()) {
    PAVISE_ASSIGN_OR_RETURN(tree.files_, walk.ListOnly(tree.directory_, *options.only_paths));
  } else {
    PAVISE_ASSIGN_OR_RETURN(tree.files_, walk.ListAll(tree.directory_, root));
  }
  return tree;
}

absl::StatusOr<FileDescriptor> FileTree::OpenFile(const std::string& path) const {
  const auto entry = std::lower_bound(files_.begin(), files_.end(), path,
                                      [](const FileEntry& candidate, const std::string& wanted) {
                                        return candidate.path < wanted;
                                      });
  if (entry == files_.end() || entry->path != path) {
    return Refuse(Reason::kFileMissing, path, "is not a file of the model");
  }
  const std::string& item = is_single_file_ ? root_ : path;
  PAVISE_ASSIGN_OR_RETURN(
      FileDescriptor file,
      is_single_file_
          ? OpenBeneath(directory_, root_.substr(root_.rfind('/') + 1), /*follow_links=*/true)
          : OpenBeneath(directory_, path, allow_symlinks_));
  PAVISE_ASSIGN_OR_RETURN(const FileIdentity identity, IdentityOf(file, item));
  if (!(identity == entry->identity)) {
    return Refuse(Reason::kFileUnstable, item, "changed after the model was listed",
                  "stop the program that writes it and try again");
  }
  return file;
}

absl::Status CheckRelativePath(std::string_view path, std::string_view item) {
  const auto refuse = [&](std::string_view detail) {
    return Refuse(Reason::kPathUnsafe, item, detail, "rename the file");
  };
  if (path.empty()) return refuse("an empty path");
  if (path.size() > kMaxPathBytes) {
    return refuse(StrCat("a path of ", path.size(), " bytes, the limit is ", kMaxPathBytes));
  }
  if (path.front() == '/') return refuse("an absolute path");
  if (path.find('\0') != std::string_view::npos) return refuse("a path that holds a NUL byte");
  if (!IsUtf8(path)) return refuse("a path that is not UTF-8");
  if (path == ".") return absl::OkStatus();
  for (const absl::string_view component : absl::StrSplit(ToAbsl(path), '/')) {
    if (component.empty()) return refuse("a path with an empty component");
    if (component == "." || component == "..") {
      return refuse(StrCat("a path with the component \"", component, "\""));
    }
  }
  return absl::OkStatus();
}

}  // namespace pavise::model
