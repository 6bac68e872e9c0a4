#include "pavise/host/cpio_archive.h"

#include <map>
#include <string_view>
#include <utility>

#include "pavise/base/status.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace pavise::host {
namespace {

bool IsSafe(const std::string& path) {
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(path, '/'))) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return path.find('\0') == std::string::npos;
}

uint32_t ModeOf(const ArchiveEntry& entry) {
  switch (entry.kind) {
    case ArchiveEntry::Kind::kDirectory:
      return 0040000 | entry.permissions;
    case ArchiveEntry::Kind::kSymlink:
      return 0120777;
    case ArchiveEntry::Kind::kCharacterDevice:
      return 0020000 | entry.permissions;
    case ArchiveEntry::Kind::kFile:
      break;
  }
  return 0100000 | entry.permissions;
}

void Pad(Bytes& out) { out.resize((out.size() + 3) / 4 * 4); }

void AppendEntry(uint32_t inode, uint32_t mode, const std::string& name, const ArchiveEntry& entry,
                 Bytes& out) {
  const std::string header = absl::StrFormat(
      "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", inode, mode, 0, 0,
      entry.kind == ArchiveEntry::Kind::kDirectory ? 2 : 1, 0, entry.content.size(), 0, 0,
      entry.device_major, entry.device_minor, name.size() + 1, 0);
  out.insert(out.end(), header.begin(), header.end());
  out.insert(out.end(), name.begin(), name.end());
  out.push_back(0);
  Pad(out);
  out.insert(out.end(), entry.content.begin(), entry.content.end());
  Pad(out);
}

}  // namespace

absl::StatusOr<Bytes> WriteCpioArchive(const std::vector<ArchiveEntry>& entries) {
  std::map<std::string, const ArchiveEntry*> sorted;
  for (const ArchiveEntry& entry : entries) {
    if (!IsSafe(entry.path)) {
      return Refuse(Reason::kPathUnsafe, entry.path, "leads out of the image, or is no path",
                    "give a path relative to the image's root");
    }
    if (entry.content.size() > UINT32_MAX) {
      return Refuse(Reason::kLimitExceeded, entry.path,
                    "is larger than the initial file system's format allows (4 GiB)",
                    "put it on the root disk");
    }
    if (!sorted.emplace(entry.path, &entry).second) {
      return Refuse(Reason::kPathUnsafe, entry.path, "stands twice in the image");
    }
  }
  const ArchiveEntry directory{"", ArchiveEntry::Kind::kDirectory, 0755, {}, 0, 0};
  for (const ArchiveEntry& entry : entries) {
    for (size_t slash = entry.path.find('/'); slash != std::string::npos;
         slash = entry.path.find('/', slash + 1)) {
      const auto [at, is_new] = sorted.emplace(entry.path.substr(0, slash), &directory);
      if (at->second->kind != ArchiveEntry::Kind::kDirectory) {
        return Refuse(Reason::kPathUnsafe, entry.path, "lies below something that is no directory");
      }
    }
  }
  Bytes out;
  uint32_t inode = 1;
  for (const auto& [path, entry] : sorted) AppendEntry(inode++, ModeOf(*entry), path, *entry, out);
  AppendEntry(0, 0, "TRAILER!!!", ArchiveEntry{}, out);
  return out;
}

}  // namespace pavise::host
