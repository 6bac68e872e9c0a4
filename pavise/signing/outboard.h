#ifndef PAVISE_SIGNING_OUTBOARD_H_
#define PAVISE_SIGNING_OUTBOARD_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/hash/blake3.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// The outboard tree file (docs/formats/outboard.md): the chaining values of every 1 MiB range of
// the signed files. It carries no authority: each file's values must combine to the BLAKE3 root
// that the signature holds before any of them is believed.
namespace pavise::signing {

// The largest outboard file that is read: the values of some 32 TiB of model.
inline constexpr uint64_t kMaxOutboardBytes = uint64_t{1} << 30;

struct OutboardFile {
  uint64_t size_bytes = 0;
  Digest32 root = {};
  // One a kSubtreeBytes range; empty for files of up to kSubtreeBytes.
  std::vector<hash::ChainingValue> subtrees;
};

struct Outboard {
  // When the pass that computed it began. For people; nothing rests on it.
  absl::Time hashed_at;
  std::map<std::string, OutboardFile> files;  // by path
};

inline constexpr uint64_t kOutboardHeaderBytes = 32;
// What one file takes after the header.
uint64_t OutboardBytesFor(std::string_view path, uint64_t size_bytes);

// Serialises to `writer`, in pieces. What ParseOutboard would refuse is refused here too, before
// anything is written, with the same reasons.
absl::Status WriteOutboard(const Outboard& outboard, AtomicFileWriter& writer);

// The same bytes in memory.
absl::StatusOr<Bytes> FormatOutboard(const Outboard& outboard);

// Reads the whole file, checks form, and that every file's values combine to the root beside them.
// The caller compares that root *and the size* with the signed ones: values of larger subtrees
// under a smaller size combine to the same root. kMalformed, kContentMismatch, kPathUnsafe,
// kUnsupported (version, subtree size), kLimitExceeded. Private memory: the file and its values, 64
// bytes a MiB of model.
absl::StatusOr<Outboard> ReadOutboard(const std::string& path,
                                      uint64_t max_bytes = kMaxOutboardBytes);
absl::StatusOr<Outboard> ParseOutboard(ByteSpan bytes, std::string_view item);

}  // namespace pavise::signing

#endif  // PAVISE_SIGNING_OUTBOARD_H_
