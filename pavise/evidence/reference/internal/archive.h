#ifndef PAVISE_EVIDENCE_REFERENCE_INTERNAL_ARCHIVE_H_
#define PAVISE_EVIDENCE_REFERENCE_INTERNAL_ARCHIVE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::evidence::internal {

// libarchive, over bytes in memory. kMalformed where it cannot read them, kLimitExceeded.
//
// The whole of compressed data (gzip, xz, lzma, bzip2, zstd, lz4, or none). No program is started.
absl::StatusOr<Bytes> Decompress(ByteSpan bytes, uint64_t max_bytes, std::string_view item);

// Calls `member` with each regular file of an ar or (compressed) tar archive, in order; a hard link
// comes with no content and `link`, the name of the file that it is.
struct ArchiveMember {
  std::string path;
  std::string link;
  Bytes content;
};
absl::Status ReadArchive(ByteSpan bytes, uint64_t max_bytes, uint64_t max_members,
                         std::string_view item,
                         const std::function<absl::Status(ArchiveMember)>& member);

}  // namespace pavise::evidence::internal

#endif  // PAVISE_EVIDENCE_REFERENCE_INTERNAL_ARCHIVE_H_
