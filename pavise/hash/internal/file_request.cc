#include "pavise/hash/internal/file_request.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/numbers.h"

namespace pavise::hash::internal {
absl::Status Unstable(const std::string& name, std::string_view detail) {
  return Refuse(Reason::kFileUnstable, name, detail,
                "stop the program that writes it and try again");
}

absl::Status ValidateRequest(const FileRequest& request) {
  if (!request.open) return UsageError(StrCat(request.name, ": no way to open it"));
  if (request.size_bytes > kMostBytes) {
    return UsageError(StrCat(request.name, ": impossible length"));
  }
  if (!request.only_subtrees.empty()) {
    if (!request.digests.empty()) {
      return UsageError(StrCat(request.name, ": range digests beside only_subtrees"));
    }
    for (size_t i = 0; i < request.only_subtrees.size(); ++i) {
      const uint64_t number = request.only_subtrees[i];
      if (i > 0 && number <= request.only_subtrees[i - 1]) {
        return UsageError(StrCat(request.name, ": only_subtrees is not ascending"));
      }
      // An empty file is its own root, like every short one.
      const uint64_t count =
          std::max<uint64_t>(1, (request.size_bytes + kSubtreeBytes - 1) / kSubtreeBytes);
      if (number >= count) {
        return UsageError(StrCat(request.name, ": subtree ", number, " is past the end"));
      }
    }
  }
  for (const RangeDigestRequest& digest : request.digests) {
    const Range& range = digest.range;
    if (range.offset_bytes > request.size_bytes ||
        range.size_bytes > request.size_bytes - range.offset_bytes) {
      return UsageError(StrCat(request.name, ": range of ", range.size_bytes, " bytes at ",
                               range.offset_bytes, " is past the end"));
    }
  }
  return absl::OkStatus();
}

std::vector<Interval> NeededSpans(const FileRequest& request, uint64_t gap_bytes) {
  std::vector<Interval> wanted;
  if (!request.only_subtrees.empty()) {
    for (const uint64_t number : request.only_subtrees) {
      const uint64_t begin = number * kSubtreeBytes;
      wanted.push_back({begin, std::min(begin + kSubtreeBytes, request.size_bytes)});
    }
  } else if (request.tree) {
    wanted.push_back({0, request.size_bytes});
  } else {
    for (const RangeDigestRequest& digest : request.digests) {
      const Range& range = digest.range;
      wanted.push_back({range.offset_bytes, range.offset_bytes + range.size_bytes});
    }
    std::sort(wanted.begin(), wanted.end(),
              [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  }
  // Only the ranges asked for are read where somebody names them: a reader of single MiB's counts
  // on it.
  if (!request.only_subtrees.empty()) gap_bytes = 0;
  std::vector<Interval> spans;
  for (const Interval& interval : wanted) {
    if (interval.begin == interval.end) continue;
    if (!spans.empty() && interval.begin <= spans.back().end + gap_bytes) {
      spans.back().end = std::max(spans.back().end, interval.end);
    } else {
      spans.push_back(interval);
    }
  }
  return spans;
}

uint64_t CacheableBytes() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  uint64_t memory_bytes = pages > 0 && page_bytes > 0
                              ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page_bytes)
                              : 0;
  // "max" or a number; absent outside a container and at the root.
  std::ifstream limit_file("/sys/fs/cgroup/memory.max");
  std::string text;
  uint64_t limit_bytes = 0;
  if (limit_file >> text && absl::SimpleAtoi(text, &limit_bytes)) {
    memory_bytes = std::min(memory_bytes, limit_bytes);
  }
  return memory_bytes / 4 * 3;
}

absl::StatusOr<OpenedFile> OpenRequest(const FileRequest& request) {
  OpenedFile opened;
  PAVISE_ASSIGN_OR_RETURN(opened.file, request.open());
  struct stat status;
  if (fstat(opened.file.get(), &status) != 0) return FromErrno(errno, "stat", request.name);
  if (!S_ISREG(status.st_mode)) {
    return Refuse(Reason::kFileTypeRefused, request.name, "is not a regular file");
  }
  opened.identity = IdentityOf(status);
  if (opened.identity.size_bytes != request.size_bytes) {
    return Refuse(
        Reason::kContentMismatch, request.name,
        StrCat("is ", opened.identity.size_bytes, " bytes long, not ", request.size_bytes));
  }
  if (request.expected_identity != FileIdentity{} && request.expected_identity != opened.identity) {
    return Unstable(request.name, "changed since it was looked at");
  }
  return opened;
}

absl::Status CheckUnchanged(const FileDescriptor& file, const FileIdentity& identity,
                            const std::string& name, bool direct) {
  PAVISE_ASSIGN_OR_RETURN(const FileIdentity now, IdentityOf(file, name));
  if (now != identity) return Unstable(name, "changed while it was read");
  // The files of /proc and their like state a length of 0 and hold something. (With O_DIRECT, which
  // such files do not offer, a single byte cannot be read.)
  if (uint8_t byte = 0;
      !direct && pread(file.get(), &byte, 1, static_cast<off_t>(now.size_bytes)) > 0) {
    return Refuse(
        Reason::kFileTypeRefused, name,
        StrCat("holds more than the ", now.size_bytes, " bytes that it states as its length"),
        "replace it by a regular file");
  }
  return absl::OkStatus();
}

}  // namespace pavise::hash::internal
