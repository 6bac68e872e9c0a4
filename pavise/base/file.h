#ifndef PAVISE_BASE_FILE_H_
#define PAVISE_BASE_FILE_H_

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/secret_bytes.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise {

// An open file descriptor, closed when it goes.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() { Close(); }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }

 private:
  void Close() noexcept;
  int fd_ = -1;
};

// What tells that a file is still the one that was opened, with the content it had then: any write
// through any path changes ctime.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size_bytes = 0;
  int64_t modified_ns = 0;
  int64_t changed_ns = 0;

  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

FileIdentity IdentityOf(const struct stat& status);
absl::StatusOr<FileIdentity> IdentityOf(const FileDescriptor& file, std::string_view item);

// Opens a regular file for reading (links followed; a directory, pipe, socket or device is refused
// with kFileTypeRefused and never waited on).
absl::StatusOr<FileDescriptor> OpenRegularFile(const std::string& path);

// Opens `path` for reading below the directory `root`. An absolute path and one with ".." are
// refused (kPathUnsafe), so is whatever is no regular file (kFileTypeRefused). Symbolic links, in
// any component, are refused (kFileTypeRefused) unless `follow_links`; a followed link may lead out
// of the directory, as the reference tool's --allow-symlinks lets it.
absl::StatusOr<FileDescriptor> OpenBeneath(const FileDescriptor& root, const std::string& path,
                                           bool follow_links);

// The whole file. kLimitExceeded when it is larger than `max_bytes` (nothing is read then).
absl::StatusOr<Bytes> ReadFile(const std::string& path, uint64_t max_bytes);
// The same; what was read is wiped also where the reading fails.
absl::StatusOr<SecretBytes> ReadSecretFile(const std::string& path, uint64_t max_bytes);

// Reads exactly `out.size()` bytes at `offset_bytes`; a shorter file is kFileUnstable (its length
// was known before).
absl::Status ReadExactly(const FileDescriptor& file, uint64_t offset_bytes, std::span<uint8_t> out,
                         std::string_view item);

// Writes all of `bytes` at `offset_bytes`.
absl::Status WriteExactly(const FileDescriptor& file, uint64_t offset_bytes, ByteSpan bytes,
                          std::string_view item);

// Writes a file beside its final name and renames it over that name at Commit: a crash, a full
// disk or a refusal leaves the old file whole. The temporary goes with an uncommitted writer; a
// crash leaves it behind, as "NAME.tmp-XXXXXX". A symbolic link under the final name is replaced,
// not followed. Not thread-safe.
class AtomicFileWriter {
 public:
  // `mode`: permission bits of the final file (0600 for secrets), not widened by the umask.
  static absl::StatusOr<AtomicFileWriter> Create(const std::string& path, mode_t mode = 0644);
  ~AtomicFileWriter();
  AtomicFileWriter(AtomicFileWriter&&) noexcept;
  AtomicFileWriter& operator=(AtomicFileWriter&&) = delete;

  absl::Status Append(ByteSpan bytes);
  // Writes at an offset, for writers that never Append; may be called from several threads at once.
  absl::Status WriteAt(uint64_t offset_bytes, ByteSpan bytes);
  // Flushes to the disk and makes the bytes durable under the temporary name: after an OK, only
  // the rename is left, which no full disk can stop.
  absl::Status Prepare();
  // Prepare (if not done), rename, flush the directory.
  absl::Status Commit();

 private:
  AtomicFileWriter(FileDescriptor file, std::string path, std::string temporary)
      : file_(std::move(file)), path_(std::move(path)), temporary_(std::move(temporary)) {}
  FileDescriptor file_;
  std::string path_;
  std::string temporary_;  // empty once renamed or moved from
  bool prepared_ = false;
  int slot_ = -1;  // where the signal handler finds the temporary name
};

// From now on SIGINT, SIGTERM and SIGHUP remove what AtomicFileWriters and AtomicDirectories began
// before they end the process as they always did. For programs; libraries leave signals alone.
void RemoveUnfinishedFilesOnSignals();

// AtomicFileWriter over one buffer.
absl::Status WriteFileAtomically(const std::string& path, ByteSpan bytes, mode_t mode = 0644);

// The last component; "model" for "/a/model/". For "." or ".." the resolved directory's name.
std::string BaseName(const std::string& path);

}  // namespace pavise

#endif  // PAVISE_BASE_FILE_H_
