#include "pavise/evidence/reference/internal/archive.h"

#include <archive.h>
#include <archive_entry.h>

#include <memory>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::evidence::internal {
namespace {

struct FreeArchive {
  void operator()(archive* reader) const { archive_read_free(reader); }
};
using OwnedArchive = std::unique_ptr<archive, FreeArchive>;

// Each by name: "all" includes formats that libarchive hands to programs that it finds in the path.
absl::Status SupportFilters(archive* reader) {
  // ARCHIVE_WARN says that it would start a program.
  for (const auto support : {archive_read_support_filter_gzip, archive_read_support_filter_xz,
                             archive_read_support_filter_lzma, archive_read_support_filter_bzip2,
                             archive_read_support_filter_zstd, archive_read_support_filter_lz4}) {
    if (support(reader) != ARCHIVE_OK) {
      return MachineFailure("libarchive",
                            "was built without one of gzip, xz, lzma, bzip2, zstd, lz4");
    }
  }
  return absl::OkStatus();
}

absl::Status Failure(archive* reader, std::string_view item) {
  const char* text = archive_error_string(reader);
  return Refuse(Reason::kMalformed, item,
                StrCat("cannot be unpacked: ", Printable(text == nullptr ? "unknown" : text)));
}

// The current member's content; `left` shrinks by it.
absl::StatusOr<Bytes> ReadContent(archive* reader, uint64_t& left, std::string_view item) {
  constexpr size_t kStepBytes = 1u << 18;
  Bytes content;
  size_t size = 0;
  while (true) {
    content.resize(size + kStepBytes);
    const la_ssize_t read = archive_read_data(reader, content.data() + size, kStepBytes);
    if (read < 0) return Failure(reader, item);
    if (static_cast<uint64_t>(read) > left) {
      return Refuse(Reason::kLimitExceeded, item, "unpacks to more than the limit");
    }
    left -= static_cast<uint64_t>(read);
    size += static_cast<size_t>(read);
    if (read == 0) break;
  }
  content.resize(size);
  return content;
}

}  // namespace

absl::StatusOr<Bytes> Decompress(ByteSpan bytes, uint64_t max_bytes, std::string_view item) {
  const OwnedArchive reader(archive_read_new());
  if (reader == nullptr) return MachineFailure(item, "out of memory");
  PAVISE_RETURN_IF_ERROR(SupportFilters(reader.get()));
  archive_read_support_format_raw(reader.get());
  archive_entry* entry = nullptr;
  if (archive_read_open_memory(reader.get(), bytes.data(), bytes.size()) != ARCHIVE_OK ||
      archive_read_next_header(reader.get(), &entry) != ARCHIVE_OK) {
    return Failure(reader.get(), item);
  }
  return ReadContent(reader.get(), max_bytes, item);
}

absl::Status ReadArchive(ByteSpan bytes, uint64_t max_bytes, uint64_t max_members,
                         std::string_view item,
                         const std::function<absl::Status(ArchiveMember)>& member) {
  const OwnedArchive reader(archive_read_new());
  if (reader == nullptr) return MachineFailure(item, "out of memory");
  PAVISE_RETURN_IF_ERROR(SupportFilters(reader.get()));
  archive_read_support_format_ar(reader.get());
  archive_read_support_format_tar(reader.get());
  if (archive_read_open_memory(reader.get(), bytes.data(), bytes.size()) != ARCHIVE_OK) {
    return Failure(reader.get(), item);
  }
  for (uint64_t count = 0;; ++count) {
    archive_entry* entry = nullptr;
    const int result = archive_read_next_header(reader.get(), &entry);
    if (result == ARCHIVE_EOF) return absl::OkStatus();
    if (result != ARCHIVE_OK) return Failure(reader.get(), item);
    if (count == max_members) {
      return Refuse(Reason::kLimitExceeded, item, StrCat("more than ", max_members, " members"));
    }
    const char* path = archive_entry_pathname(entry);
    const char* link = archive_entry_hardlink(entry);
    if (path == nullptr || (link == nullptr && archive_entry_filetype(entry) != AE_IFREG)) continue;
    ArchiveMember found{path, link == nullptr ? "" : link, {}};
    if (link == nullptr) {
      PAVISE_ASSIGN_OR_RETURN(found.content, ReadContent(reader.get(), max_bytes, item));
    }
    PAVISE_RETURN_IF_ERROR(member(std::move(found)));
  }
}

}  // namespace pavise::evidence::internal
