#include "pavise/job/internal/folder_entries.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::job::internal {
namespace {

constexpr size_t kMaxEntries = 8'192;
constexpr uint64_t kPieceBytes = uint64_t{4} << 20;

}  // namespace

absl::StatusOr<std::map<std::string, bool>> EntriesOf(const std::string& folder) {
  std::map<std::string, bool> entries;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end;
       at.increment(error)) {
    const std::filesystem::file_status status = at->symlink_status(error);
    if (error) break;
    const bool is_folder = std::filesystem::is_directory(status);
    if (!is_folder && !std::filesystem::is_regular_file(status)) {
      return Refuse(Reason::kFileTypeRefused, at->path().string(),
                    "is neither a file nor a folder");
    }
    if (entries.size() == kMaxEntries) {
      return Refuse(Reason::kLimitExceeded, folder, StrCat("has over ", kMaxEntries, " entries"));
    }
    entries.emplace(at->path().filename().string(), is_folder);
  }
  if (error) return FromErrno(error.value(), "list", folder);
  return entries;
}

absl::StatusOr<Bytes> ReadEntry(const std::string& path, uint64_t max_bytes) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) return FromErrno(errno, "stat", path);
  if (!S_ISREG(status.st_mode)) {
    return Refuse(Reason::kFileTypeRefused, path, "is no regular file");
  }
  return ReadFile(path, max_bytes);
}

absl::Status CopyEntry(const std::string& from, const std::string& to) {
  PAVISE_ASSIGN_OR_RETURN(const FileDescriptor file, OpenRegularFile(from));
  PAVISE_ASSIGN_OR_RETURN(const FileIdentity identity, IdentityOf(file, from));
  PAVISE_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Create(to));
  Bytes piece(std::min(kPieceBytes, identity.size_bytes));
  for (uint64_t at = 0; at < identity.size_bytes; at += piece.size()) {
    piece.resize(std::min<uint64_t>(piece.size(), identity.size_bytes - at));
    PAVISE_RETURN_IF_ERROR(ReadExactly(file, at, piece, from));
    PAVISE_RETURN_IF_ERROR(writer.Append(piece));
  }
  return writer.Commit();
}

}  // namespace pavise::job::internal
