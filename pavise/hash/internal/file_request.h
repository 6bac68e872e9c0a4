#ifndef PAVISE_HASH_INTERNAL_FILE_REQUEST_H_
#define PAVISE_HASH_INTERNAL_FILE_REQUEST_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/hash/file_pass.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// What every pass over files does with a FileRequest, wherever it hashes.
namespace pavise::hash::internal {

// Beyond any file (off_t is signed); sums of two offsets do not overflow.
inline constexpr uint64_t kMostBytes = uint64_t{1} << 62;

// [begin, end)
struct Interval {
  uint64_t begin = 0;
  uint64_t end = 0;

  bool empty() const { return begin >= end; }
};

// kFileUnstable.
absl::Status Unstable(const std::string& name, std::string_view detail);

// kInvalidArgument where a request contradicts itself.
absl::Status ValidateRequest(const FileRequest& request);

// Reading over a hole of this size is cheaper than a request of its own.
inline constexpr uint64_t kGapBytes = uint64_t{64} << 10;

// The parts of the file that the request needs, ascending; holes of up to `gap_bytes` are filled.
std::vector<Interval> NeededSpans(const FileRequest& request, uint64_t gap_bytes = kGapBytes);

// How much may stay in memory: three quarters of the machine's, or of the process's cgroup.
uint64_t CacheableBytes();

struct OpenedFile {
  FileDescriptor file;
  FileIdentity identity;
};
// Opens the file, which must be regular, of the length and the identity that the request states.
// The findings of RunFilePass.
absl::StatusOr<OpenedFile> OpenRequest(const FileRequest& request);

// That the file is the one that was opened, unwritten, and ends where it says (`direct`: opened
// with O_DIRECT, which reads no single byte). kFileUnstable, kFileTypeRefused.
absl::Status CheckUnchanged(const FileDescriptor& file, const FileIdentity& identity,
                            const std::string& name, bool direct);

}  // namespace pavise::hash::internal

#endif  // PAVISE_HASH_INTERNAL_FILE_REQUEST_H_
