#ifndef PAVISE_HASH_INTERNAL_MAPPED_FILE_H_
#define PAVISE_HASH_INTERNAL_MAPPED_FILE_H_

#include <cstdint>
#include <memory>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"

#include "absl/status/statusor.h"

namespace pavise::hash::internal {

// A file's pages mapped for reading. A page that the kernel cannot supply (the file was truncated
// under the mapping, or its disk failed) raises SIGBUS; here it reads as zeros instead and raises
// faulted(), so whoever reads bytes() must ask faulted() afterwards and throw the result away.
//
// The first mapping installs a handler of SIGBUS for the whole process. Faults outside these
// mappings go to the handler (or default action) that was there before; a program that installs its
// own handler later must chain to this one likewise.
//
// Thread-safe. Does not own the file descriptor, which must outlive it.
class MappedFile {
 public:
  // Maps the first `size_bytes` (not 0) of `file`. Machine failure when the file system cannot map
  // files, address space is exhausted or all kMaximumMappings are in use.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Map(const FileDescriptor& file,
                                                         uint64_t size_bytes,
                                                         std::string_view item);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  ByteSpan bytes() const { return {data_, size_bytes_}; }

  // True once any page could not be supplied; never false again.
  bool faulted() const;

  // Starts reading [offset, offset + size) from the disk, unless the start of the range is in the
  // page cache already. Returns without waiting; a hint, so it has no errors.
  void Prefetch(uint64_t offset_bytes, uint64_t size_bytes) const;

  // Makes the pages of a range that is about to be read accessible in one call, where the kernel
  // can (Linux 5.14), instead of by a fault every 64 KiB. Waits for the disk as reading would.
  void Populate(uint64_t offset_bytes, uint64_t size_bytes) const;

  // Gives back the page tables of a range (page-aligned inwards) that nobody will read again: for a
  // file of 1 TB they take 2 GiB.
  void Release(uint64_t offset_bytes, uint64_t size_bytes);

  static constexpr int kMaximumMappings = 1024;

 private:
  MappedFile(int fd, uint8_t* data, uint64_t size_bytes, int slot)
      : fd_(fd), data_(data), size_bytes_(size_bytes), slot_(slot) {}
  int fd_;
  uint8_t* data_;
  uint64_t size_bytes_;
  int slot_;
};

}  // namespace pavise::hash::internal

#endif  // PAVISE_HASH_INTERNAL_MAPPED_FILE_H_
