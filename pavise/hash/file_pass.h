#ifndef PAVISE_HASH_FILE_PASS_H_
#define PAVISE_HASH_FILE_PASS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/progress.h"
#include "pavise/hash/algorithm.h"
#include "pavise/hash/blake3.h"
#include "pavise/hash/device.h"

#include "absl/status/statusor.h"

// One pass over many files that computes everything asked of each: each byte is read once, and all
// digests see it.
namespace pavise::hash {

// The digest of a byte range of a file under a serial algorithm (SHA-2, BLAKE2b), or BLAKE3.
struct RangeDigestRequest {
  Algorithm algorithm = Algorithm::kSha256;
  Range range;
};

struct FileRequest {
  std::string name;  // for messages
  // Opens the file for reading; called once, on a worker thread.
  std::function<absl::StatusOr<FileDescriptor>()> open;
  // The length it must have (known from a directory walk or a signature).
  uint64_t size_bytes = 0;
  // The identity it must have when opened; all-zero: not checked.
  FileIdentity expected_identity;

  // Compute the BLAKE3 tree: root and, above kSubtreeBytes, the chaining value of every
  // kSubtreeBytes range.
  bool tree = false;
  // If not empty, only these kSubtreeBytes ranges (ascending indices) are read and only their
  // chaining values filled; the root is left zero. Not with `digests`. A file of up to
  // kSubtreeBytes has no such ranges: there {0} gives the root.
  std::vector<uint64_t> only_subtrees;
  // Digests of ranges, in any order, overlapping or not. Without `tree` only these ranges are read.
  std::vector<RangeDigestRequest> digests;
  // Ranges that stay in one place each (tensors), for a FilePass that divides files among several.
  std::vector<Range> kept_whole;
};

struct FileResult {
  FileIdentity identity;  // at open; the same at the end, else the pass was refused
  Digest32 root = {};     // when asked for
  // One for each kSubtreeBytes range; empty for files of up to kSubtreeBytes (and no tree).
  std::vector<ChainingValue> subtrees;
  std::vector<Bytes> digests;  // in the order of the request
  // How the bytes were read, for results to print: "mmap", "read", "io_uring", "pread threads",
  // the last two with ", O_DIRECT" where that was in force. By a DevicePass: "read", "read,
  // copied", or its DirectReader's name.
  std::string_view read_by;
  // Who computed the SHA-256 digests: "OpenSSL", or "SHA instructions" for our own code; empty
  // where none were asked for. All other serial digests are OpenSSL's.
  std::string_view sha256_by;
};

// In kMapped the digests of a file read the same pages, but at slightly different times: another
// program that writes while the pass runs is caught by the file's change time, as far as the kernel
// keeps it: writes through somebody else's mapping may be stamped late, and before Linux 6.13 two
// writes within one clock tick (4 ms) look like one. In kBuffered and kDirect all digests are
// computed from one private copy, so that two digests never describe different bytes.
//
// Which is the default was measured (2 cores, AVX-512, kernel 6.18, ext4, a cached file of 4 GiB,
// one thread): pages read through a mapping 9.6 GB/s; pread into a buffer that stays in the cache
// 7.8 GB/s, which a mapping avoids altogether while hashing hides its own cost.
enum class ReadMode {
  kAuto,  // mapped while the files fit in memory (those of up to kSubtreeBytes are read, also what
          // cannot be mapped), direct (O_DIRECT) above that
  kMapped,    // mmap, with truncation under our feet turned into a refusal
  kBuffered,  // io_uring where the kernel allows it, else threads with pread
  kDirect,    // as kBuffered, past the page cache where the file system can
};

struct PassOptions {
  unsigned threads = 0;  // 0: UsableCpus()
  ReadMode mode = ReadMode::kAuto;
  // Advance is called with every piece that is done with; Start and Finish are the caller's.
  Progress* progress = nullptr;
  // Upper bound of read buffers, all threads together; at least two buffers of 4 MiB are used.
  uint64_t buffer_bytes = uint64_t{64} << 20;
  // All SHA-2 and BLAKE2b digests come from OpenSSL's providers, as the FIPS profile promises.
  // Otherwise SHA-256 is our own code where the CPU has instructions for it, since a thread can
  // then advance two digests at once.
  bool provider_digests_only = false;
};

// Runs the pass; results in the order of `files`. A file that cannot be opened, whose length
// differs or which changed while it was read is a finding (kFileUnreadable or what `open` said,
// kContentMismatch with both lengths, kFileUnstable) for that file, in its place in the returned
// vector; the others are still hashed. I/O errors of the machine and exhausted memory end the pass
// (kInternal), requests that contradict themselves are a usage error (kInvalidArgument).
//
// Keeps at most max(2 x threads, 8) files open, and no more than a quarter of RLIMIT_NOFILE.
// Private memory: buffer_bytes, up to half of that again for ranges that cross buffers, and the
// results.
absl::StatusOr<std::vector<absl::StatusOr<FileResult>>> RunFilePass(
    const std::vector<FileRequest>& files, const PassOptions& options);

// Where else a pass may run: what verification is given to hash on a device instead (DevicePass).
class FilePass {
 public:
  virtual ~FilePass() = default;
  // As RunFilePass. Start and Finish of `progress`, which may be nullptr, are the caller's.
  virtual absl::StatusOr<std::vector<absl::StatusOr<FileResult>>> Run(
      const std::vector<FileRequest>& files, Progress* progress) = 0;
  // What hashes, for results to print.
  virtual std::string description() const = 0;
  // Who read bytes [begin, end) of that file in the latest Run, for findings to name: "rank 1 on
  // HOST". Empty: this process itself, which can then look at them again.
  virtual std::string ReaderOf(const std::string& name, uint64_t begin_bytes,
                               uint64_t end_bytes) const {
    (void)name, (void)begin_bytes, (void)end_bytes;
    return {};
  }
};

}  // namespace pavise::hash

#endif  // PAVISE_HASH_FILE_PASS_H_
