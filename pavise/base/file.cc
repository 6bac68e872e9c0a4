#include "pavise/base/file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "pavise/base/atomic_directory.h"
#include "pavise/base/internal/unfinished_paths.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_split.h"

namespace pavise {
namespace {

constexpr int kReadFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

int64_t Nanoseconds(const struct timespec& time) {
  return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

absl::Status RequireRegular(int fd, std::string_view item) {
  struct stat status;
  if (fstat(fd, &status) != 0) return FromErrno(errno, "stat", item);
  if (S_ISREG(status.st_mode)) return absl::OkStatus();
  return Refuse(Reason::kFileTypeRefused, item,
                S_ISDIR(status.st_mode) ? "is a directory where a file belongs"
                                        : "is a pipe, socket or device, not a regular file",
                "give a regular file");
}

absl::Status RefuseNul(std::string_view path) {
  if (path.find('\0') == std::string_view::npos) return absl::OkStatus();
  return Refuse(Reason::kPathUnsafe, Printable(path), "holds a NUL byte");
}

// One component after the other, so that no link is followed whatever is renamed meanwhile. (As
// openat2 with RESOLVE_NO_SYMLINKS, which older kernels and some sandboxes do not have.)
absl::StatusOr<FileDescriptor> OpenWithoutLinks(const FileDescriptor& root,
                                                const std::string& path) {
  FileDescriptor opened;
  int directory = root.get();
  size_t begin = 0;
  while (true) {
    const size_t slash = path.find('/', begin);
    const bool is_last = slash == std::string::npos;
    const std::string name = path.substr(begin, is_last ? slash : slash - begin);
    const int flags = is_last ? kReadFlags : O_PATH | O_DIRECTORY | O_CLOEXEC;
    FileDescriptor next(openat(directory, name.c_str(), flags | O_NOFOLLOW));
    if (!next.is_open()) {
      const int error_number = errno;
      // Asked for a directory, the kernel says of a link only that it is none.
      struct stat status;
      if (error_number == ENOTDIR &&
          fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
          S_ISLNK(status.st_mode)) {
        return FromErrno(ELOOP, "open", path);
      }
      if (error_number == ENXIO) {
        return Refuse(Reason::kFileTypeRefused, path, "is a socket, not a file");
      }
      return FromErrno(error_number, "open", path);
    }
    if (is_last) return next;
    opened = std::move(next);
    directory = opened.get();
    begin = slash + 1;
  }
}

}  // namespace

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    Close();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void FileDescriptor::Close() noexcept {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

FileIdentity IdentityOf(const struct stat& status) {
  return {static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino),
          static_cast<uint64_t>(status.st_size), Nanoseconds(status.st_mtim),
          Nanoseconds(status.st_ctim)};
}

absl::StatusOr<FileIdentity> IdentityOf(const FileDescriptor& file, std::string_view item) {
  struct stat status;
  if (fstat(file.get(), &status) != 0) return FromErrno(errno, "stat", item);
  return IdentityOf(status);
}

absl::StatusOr<FileDescriptor> OpenRegularFile(const std::string& path) {
  PAVISE_RETURN_IF_ERROR(RefuseNul(path));
  FileDescriptor file(open(path.c_str(), kReadFlags));
  if (!file.is_open()) {
    if (errno == ENXIO) return Refuse(Reason::kFileTypeRefused, path, "is a socket, not a file");
    return FromErrno(errno, "open", path);
  }
  PAVISE_RETURN_IF_ERROR(RequireRegular(file.get(), path));
  return file;
}

absl::StatusOr<FileDescriptor> OpenBeneath(const FileDescriptor& root, const std::string& path,
                                           bool follow_links) {
  if (path.empty() || path.front() == '/' || path.find('\0') != std::string::npos) {
    return Refuse(Reason::kPathUnsafe, path, "not a relative path");
  }
  for (const absl::string_view component : absl::StrSplit(path, '/')) {
    if (component == "..") return Refuse(Reason::kPathUnsafe, path, "holds \"..\"");
  }
  if (!follow_links) {
    PAVISE_ASSIGN_OR_RETURN(FileDescriptor file, OpenWithoutLinks(root, path));
    PAVISE_RETURN_IF_ERROR(RequireRegular(file.get(), path));
    return file;
  }
  FileDescriptor file(openat(root.get(), path.c_str(), kReadFlags));
  if (!file.is_open()) {
    if (errno == ENXIO) return Refuse(Reason::kFileTypeRefused, path, "is a socket, not a file");
    return FromErrno(errno, "open", path);
  }
  PAVISE_RETURN_IF_ERROR(RequireRegular(file.get(), path));
  return file;
}

namespace {

// Fills `bytes` also where it fails, so that the caller can wipe them.
absl::Status ReadWhole(const std::string& path, uint64_t max_bytes, Bytes& bytes) {
  PAVISE_ASSIGN_OR_RETURN(const FileDescriptor file, OpenRegularFile(path));
  PAVISE_ASSIGN_OR_RETURN(const FileIdentity before, IdentityOf(file, path));
  if (before.size_bytes > max_bytes) {
    return Refuse(
        Reason::kLimitExceeded, path,
        StrCat("is ", HumanBytes(before.size_bytes), ", the limit is ", HumanBytes(max_bytes)));
  }
  bytes.resize(before.size_bytes);
  PAVISE_RETURN_IF_ERROR(ReadExactly(file, 0, bytes, path));
  PAVISE_ASSIGN_OR_RETURN(const FileIdentity after, IdentityOf(file, path));
  if (!(before == after)) {
    return Refuse(Reason::kFileUnstable, path, "changed while it was read",
                  "stop the program that writes it and try again");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Bytes> ReadFile(const std::string& path, uint64_t max_bytes) {
  Bytes bytes;
  PAVISE_RETURN_IF_ERROR(ReadWhole(path, max_bytes, bytes));
  return bytes;
}

absl::StatusOr<SecretBytes> ReadSecretFile(const std::string& path, uint64_t max_bytes) {
  Bytes bytes;
  const absl::Status status = ReadWhole(path, max_bytes, bytes);
  SecretBytes secret(std::move(bytes));
  if (!status.ok()) return status;
  return secret;
}

absl::Status ReadExactly(const FileDescriptor& file, uint64_t offset_bytes, std::span<uint8_t> out,
                         std::string_view item) {
  while (!out.empty()) {
    const size_t wanted = std::min<size_t>(out.size(), 1u << 30);
    const ssize_t got = pread(file.get(), out.data(), wanted, static_cast<off_t>(offset_bytes));
    if (got < 0) {
      if (errno == EINTR) continue;
      return FromErrno(errno, "read", item);
    }
    if (got == 0) {
      return Refuse(Reason::kFileUnstable, item,
                    StrCat("ends at byte ", offset_bytes, ", before the length it had"),
                    "stop the program that writes it and try again");
    }
    out = out.subspan(static_cast<size_t>(got));
    offset_bytes += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

absl::Status WriteExactly(const FileDescriptor& file, uint64_t offset_bytes, ByteSpan bytes,
                          std::string_view item) {
  while (!bytes.empty()) {
    const ssize_t written =
        pwrite(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes));
    if (written < 0) {
      if (errno == EINTR) continue;
      return FromErrno(errno, "write", item);
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset_bytes += static_cast<uint64_t>(written);
  }
  return absl::OkStatus();
}

absl::StatusOr<AtomicFileWriter> AtomicFileWriter::Create(const std::string& path, mode_t mode) {
  if (path.empty()) return UsageError("an empty file name");
  PAVISE_RETURN_IF_ERROR(RefuseNul(path));
  std::string temporary = StrCat(path, ".tmp-XXXXXX");
  FileDescriptor file(mkostemp(temporary.data(), O_CLOEXEC));
  if (!file.is_open()) return FromErrno(errno, "create beside it", path);
  AtomicFileWriter writer(std::move(file), path, std::move(temporary));
  writer.slot_ = internal::RememberUnfinished(writer.temporary_);
  if (fchmod(writer.file_.get(), mode) != 0) return FromErrno(errno, "set permissions", path);
  return writer;
}

AtomicFileWriter::AtomicFileWriter(AtomicFileWriter&& other) noexcept
    : file_(std::move(other.file_)),
      path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      prepared_(other.prepared_),
      slot_(std::exchange(other.slot_, -1)) {}

AtomicFileWriter::~AtomicFileWriter() {
  if (!temporary_.empty()) unlink(temporary_.c_str());
  internal::ForgetUnfinished(slot_);
}

absl::Status AtomicFileWriter::Append(ByteSpan bytes) {
  prepared_ = false;
  while (!bytes.empty()) {
    const ssize_t written = write(file_.get(), bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return FromErrno(errno, "write", path_);
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status AtomicFileWriter::WriteAt(uint64_t offset_bytes, ByteSpan bytes) {
  PAVISE_RETURN_IF_ERROR(WriteExactly(file_, offset_bytes, bytes, path_));
  // The kernel begins to bring them to the disk, so that Prepare finds little to do. A hint: what
  // it could not do, Prepare does, and reports.
  (void)sync_file_range(file_.get(), static_cast<off64_t>(offset_bytes),
                        static_cast<off64_t>(bytes.size()), SYNC_FILE_RANGE_WRITE);
  return absl::OkStatus();
}

absl::Status AtomicFileWriter::Prepare() {
  if (prepared_) return absl::OkStatus();
  if (fsync(file_.get()) != 0) return FromErrno(errno, "flush", path_);
  prepared_ = true;
  return absl::OkStatus();
}

absl::Status AtomicFileWriter::Commit() {
  PAVISE_RETURN_IF_ERROR(Prepare());
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return FromErrno(errno, "rename to", path_);
  temporary_.clear();
  internal::ForgetUnfinished(std::exchange(slot_, -1));
  return FlushDirectoryOf(path_);
}

absl::Status WriteFileAtomically(const std::string& path, ByteSpan bytes, mode_t mode) {
  PAVISE_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Create(path, mode));
  PAVISE_RETURN_IF_ERROR(writer.Append(bytes));
  return writer.Commit();
}

std::string BaseName(const std::string& path) {
  std::string trimmed = path;
  while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
  std::string name = trimmed.substr(trimmed.rfind('/') + 1);
  if (name.empty() || name == "." || name == "..") {
    char resolved[PATH_MAX];
    if (realpath(path.c_str(), resolved) != nullptr) {
      const std::string whole(resolved);
      name = whole.substr(whole.rfind('/') + 1);
    }
  }
  return name;
}

}  // namespace pavise
