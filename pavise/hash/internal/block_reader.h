#ifndef PAVISE_HASH_INTERNAL_BLOCK_READER_H_
#define PAVISE_HASH_INTERNAL_BLOCK_READER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"

namespace pavise::hash::internal {

// One read into the caller's memory, which must stay valid until its result was delivered.
struct BlockRead {
  int fd = -1;
  uint64_t offset_bytes = 0;
  uint8_t* data = nullptr;
  // At most 1 GiB.
  uint32_t size_bytes = 0;
  // 1, or under O_DIRECT the alignment that offset, size and `data` keep: a count that is not a
  // multiple of it is the end of the file.
  uint32_t alignment_bytes = 1;
  // Comes back with the result.
  void* context = nullptr;
};

struct BlockReadResult {
  void* context = nullptr;
  // Fewer than asked for at the end of the file, or on an error.
  uint32_t size_bytes = 0;
  // 0 or an errno.
  int error_number = 0;
  // The ring itself broke down while the kernel may still be writing into the buffer: its memory
  // must not be used or freed any more.
  bool buffer_lost = false;
};

// Reads files in the background. Reads cut short by the kernel are continued; interrupted ones are
// repeated. Thread-safe.
class BlockReader {
 public:
  // Called once for each read, in any order, on a thread of the reader; may call Submit, must not
  // destroy the reader.
  using Done = std::function<void(const BlockReadResult&)>;

  // Delivers the results of everything submitted, then returns.
  virtual ~BlockReader() = default;
  // How it reads, for results to print: "io_uring", "pread threads".
  virtual std::string_view name() const = 0;
  virtual void Submit(const BlockRead& read) = 0;
};

// A ring with up to `depth` reads in flight; further ones wait for their turn. kUnimplemented where
// the kernel, a security policy or the memory-lock limit refuses io_uring; machine failure for
// other errors.
absl::StatusOr<std::unique_ptr<BlockReader>> NewUringReader(unsigned depth, BlockReader::Done done);

// `threads` threads (at least one is started) calling pread(2).
absl::StatusOr<std::unique_ptr<BlockReader>> NewThreadReader(unsigned threads,
                                                             BlockReader::Done done);

// io_uring, or pread threads where that is refused (kUnimplemented).
absl::StatusOr<std::unique_ptr<BlockReader>> NewBlockReader(unsigned depth, BlockReader::Done done);

}  // namespace pavise::hash::internal

#endif  // PAVISE_HASH_INTERNAL_BLOCK_READER_H_
