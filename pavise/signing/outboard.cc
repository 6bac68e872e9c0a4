#include "pavise/signing/outboard.h"

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/model/file_tree.h"

#include "absl/functional/function_ref.h"

namespace pavise::signing {
namespace {

constexpr std::string_view kMagic = "PAVISEOB";
constexpr uint32_t kVersion = 1;
constexpr uint32_t kLog2SubtreeBytes = 20;
static_assert(hash::kSubtreeBytes == size_t{1} << kLog2SubtreeBytes);

constexpr size_t kHeaderBytes = kOutboardHeaderBytes;  // magic, version, log2, hashed_at, count
constexpr size_t kPathLengthBytes = 4;
constexpr size_t kSizeAndRootBytes = 8 + 32;
constexpr size_t kLeastFileBytes = kPathLengthBytes + 1 + kSizeAndRootBytes;
constexpr uint64_t kMaxFiles = 10'000'000;
constexpr uint32_t kMaxPathBytes = 4096;
constexpr uint64_t kMaxSizeBytes = (uint64_t{1} << 53) - 1;  // as in the signed annotation
constexpr size_t kWriteBytes = size_t{1} << 20;

// Chaining values that belong to a file of `size_bytes` (at most kMaxSizeBytes).
uint64_t SubtreeCount(uint64_t size_bytes) {
  if (size_bytes <= hash::kSubtreeBytes) return 0;
  return (size_bytes + hash::kSubtreeBytes - 1) >> kLog2SubtreeBytes;
}

std::string FileItem(std::string_view item, std::string_view path) {
  return StrCat(item, ": ", Printable(path));
}

absl::Status CheckFile(const std::string& path, const OutboardFile& file, std::string_view item) {
  PAVISE_RETURN_IF_ERROR(model::CheckRelativePath(path, FileItem(item, path)));
  if (file.size_bytes > kMaxSizeBytes) {
    return Refuse(Reason::kLimitExceeded, FileItem(item, path), "a size not below 2^53");
  }
  if (file.subtrees.size() != SubtreeCount(file.size_bytes)) {
    return Refuse(Reason::kMalformed, FileItem(item, path),
                  StrCat(file.subtrees.size(), " chaining values where ",
                         SubtreeCount(file.size_bytes), " belong"));
  }
  if (!file.subtrees.empty() && hash::Blake3RootFromSubtrees(file.subtrees) != file.root) {
    return Refuse(Reason::kContentMismatch, FileItem(item, path),
                  "the chaining values do not combine to the root beside them",
                  "sign the model again, or verify without the outboard file");
  }
  return absl::OkStatus();
}

// "." stands alone, and no path is a directory of another.
absl::Status CheckPathsTogether(const std::map<std::string, OutboardFile>& files,
                                std::string_view item) {
  if (files.size() > 1 && files.contains(".")) {
    return Refuse(Reason::kPathUnsafe, item,
                  "\".\" names a single-file model, but other files are listed too");
  }
  for (const auto& [path, file] : files) {
    for (size_t slash = path.find('/'); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
      if (files.contains(path.substr(0, slash))) {
        return Refuse(Reason::kPathUnsafe, item,
                      StrCat("\"", Printable(path.substr(0, slash)),
                             "\" is a file and a directory of \"", Printable(path), "\""));
      }
    }
  }
  return absl::OkStatus();
}

// Hands the bytes to `sink` in pieces of about kWriteBytes.
absl::Status Serialise(const Outboard& outboard, absl::FunctionRef<absl::Status(ByteSpan)> sink) {
  constexpr std::string_view kItem = "outboard";
  if (outboard.files.size() > kMaxFiles) {
    return Refuse(Reason::kLimitExceeded, kItem,
                  StrCat(outboard.files.size(), " files, the limit is ", kMaxFiles));
  }
  uint64_t total_bytes = kHeaderBytes;
  for (const auto& [path, file] : outboard.files) {
    PAVISE_RETURN_IF_ERROR(CheckFile(path, file, kItem));
    total_bytes += OutboardBytesFor(path, file.size_bytes);
  }
  PAVISE_RETURN_IF_ERROR(CheckPathsTogether(outboard.files, kItem));
  if (total_bytes > kMaxOutboardBytes) {
    return Refuse(
        Reason::kLimitExceeded, kItem,
        StrCat(HumanBytes(total_bytes), ", the limit is ", HumanBytes(kMaxOutboardBytes)));
  }

  Bytes buffer(kMagic.begin(), kMagic.end());
  AppendLittleEndian32(kVersion, buffer);
  AppendLittleEndian32(kLog2SubtreeBytes, buffer);
  AppendLittleEndian64(static_cast<uint64_t>(absl::ToUnixNanos(outboard.hashed_at)), buffer);
  AppendLittleEndian64(outboard.files.size(), buffer);
  const auto flush_from = [&](size_t least_bytes) -> absl::Status {
    if (buffer.size() < least_bytes) return absl::OkStatus();
    PAVISE_RETURN_IF_ERROR(sink(buffer));
    buffer.clear();
    return absl::OkStatus();
  };
  for (const auto& [path, file] : outboard.files) {
    AppendLittleEndian32(static_cast<uint32_t>(path.size()), buffer);
    buffer.insert(buffer.end(), path.begin(), path.end());
    AppendLittleEndian64(file.size_bytes, buffer);
    buffer.insert(buffer.end(), file.root.begin(), file.root.end());
    for (const hash::ChainingValue& value : file.subtrees) {
      buffer.insert(buffer.end(), value.begin(), value.end());
      PAVISE_RETURN_IF_ERROR(flush_from(kWriteBytes));
    }
    PAVISE_RETURN_IF_ERROR(flush_from(kWriteBytes));
  }
  return flush_from(1);
}

// Takes fields off the front of the input; the caller checks `left()` first.
class Cursor {
 public:
  explicit Cursor(ByteSpan bytes) : bytes_(bytes) {}

  size_t left() const { return bytes_.size() - offset_; }
  size_t offset() const { return offset_; }
  uint32_t Take32() { return LoadLittleEndian32(bytes_, Advance(4)); }
  uint64_t Take64() { return LoadLittleEndian64(bytes_, Advance(8)); }
  ByteSpan Take(size_t count) { return bytes_.subspan(Advance(count), count); }

 private:
  size_t Advance(size_t count) { return std::exchange(offset_, offset_ + count); }
  ByteSpan bytes_;
  size_t offset_ = 0;
};

absl::Status CutShort(std::string_view item, const Cursor& cursor) {
  return Refuse(
      Reason::kMalformed, item,
      StrCat("cut short: the field at byte ", cursor.offset(), " reaches beyond the end"));
}

}  // namespace

absl::StatusOr<Outboard> ParseOutboard(ByteSpan bytes, std::string_view item) {
  if (bytes.size() > kMaxOutboardBytes) {
    return Refuse(
        Reason::kLimitExceeded, item,
        StrCat(HumanBytes(bytes.size()), ", the limit is ", HumanBytes(kMaxOutboardBytes)));
  }
  Cursor cursor(bytes);
  if (cursor.left() < kHeaderBytes) return CutShort(item, cursor);
  if (AsText(cursor.Take(kMagic.size())) != kMagic) {
    return Refuse(Reason::kMalformed, item, "not an outboard tree file");
  }
  if (const uint32_t version = cursor.Take32(); version != kVersion) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("version ", version, ", this program reads version ", kVersion));
  }
  if (const uint32_t log2 = cursor.Take32(); log2 != kLog2SubtreeBytes) {
    return Refuse(
        Reason::kUnsupported, item,
        StrCat("subtrees of 2^", log2, " bytes, this program reads 2^", kLog2SubtreeBytes));
  }
  Outboard outboard;
  outboard.hashed_at = absl::FromUnixNanos(static_cast<int64_t>(cursor.Take64()));
  const uint64_t count = cursor.Take64();
  if (count > kMaxFiles) {
    return Refuse(Reason::kLimitExceeded, item, StrCat(count, " files, the limit is ", kMaxFiles));
  }
  if (count > cursor.left() / kLeastFileBytes) return CutShort(item, cursor);

  for (uint64_t i = 0; i < count; ++i) {
    if (cursor.left() < kLeastFileBytes) return CutShort(item, cursor);
    const uint32_t path_bytes = cursor.Take32();
    if (path_bytes == 0 || path_bytes > kMaxPathBytes) {
      return Refuse(
          Reason::kMalformed, item,
          StrCat("a path of ", path_bytes, " bytes at byte ", cursor.offset() - kPathLengthBytes));
    }
    if (cursor.left() < path_bytes + kSizeAndRootBytes) return CutShort(item, cursor);
    std::string path(AsText(cursor.Take(path_bytes)));
    if (!outboard.files.empty() && outboard.files.rbegin()->first >= path) {
      return Refuse(Reason::kMalformed, FileItem(item, path),
                    "paths are not in ascending order, or one comes twice");
    }
    OutboardFile file;
    file.size_bytes = cursor.Take64();
    const ByteSpan root = cursor.Take(file.root.size());
    std::copy(root.begin(), root.end(), file.root.begin());
    if (file.size_bytes > kMaxSizeBytes) {
      return Refuse(Reason::kLimitExceeded, FileItem(item, path), "a size not below 2^53");
    }
    const uint64_t subtrees = SubtreeCount(file.size_bytes);
    if (subtrees > cursor.left() / sizeof(hash::ChainingValue)) return CutShort(item, cursor);
    file.subtrees.resize(subtrees);
    for (hash::ChainingValue& value : file.subtrees) {
      const ByteSpan taken = cursor.Take(value.size());
      std::copy(taken.begin(), taken.end(), value.begin());
    }
    PAVISE_RETURN_IF_ERROR(CheckFile(path, file, item));
    outboard.files.emplace_hint(outboard.files.end(), std::move(path), std::move(file));
  }
  if (cursor.left() != 0) {
    return Refuse(Reason::kMalformed, item, StrCat(cursor.left(), " bytes after the last file"));
  }
  PAVISE_RETURN_IF_ERROR(CheckPathsTogether(outboard.files, item));
  return outboard;
}

uint64_t OutboardBytesFor(std::string_view path, uint64_t size_bytes) {
  return kPathLengthBytes + path.size() + kSizeAndRootBytes +
         SubtreeCount(size_bytes) * sizeof(hash::ChainingValue);
}

absl::StatusOr<Outboard> ReadOutboard(const std::string& path, uint64_t max_bytes) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes bytes,
                          ReadFile(path, std::min(max_bytes, kMaxOutboardBytes)));
  return ParseOutboard(bytes, path);
}

absl::Status WriteOutboard(const Outboard& outboard, AtomicFileWriter& writer) {
  return Serialise(outboard, [&](ByteSpan bytes) { return writer.Append(bytes); });
}

absl::StatusOr<Bytes> FormatOutboard(const Outboard& outboard) {
  Bytes out;
  PAVISE_RETURN_IF_ERROR(Serialise(outboard, [&](ByteSpan bytes) {
    out.insert(out.end(), bytes.begin(), bytes.end());
    return absl::OkStatus();
  }));
  return out;
}

}  // namespace pavise::signing
