#ifndef PAVISE_VAULT_INTERNAL_PLACED_BUFFER_H_
#define PAVISE_VAULT_INTERNAL_PLACED_BUFFER_H_

#include <cstdint>
#include <memory>
#include <new>
#include <span>

#include "pavise/base/secret_bytes.h"

namespace pavise::vault::internal {

// Memory for bytes that are read from or written to some place of a file, at the same position
// within a page as there. The kernel copies between pages of files and memory with `rep movsb`, of
// which AMD's Zen 4 makes up to ten times as much work where both lie at a little different
// positions (glibc's bug 30994; measured: docs/benchmarks.md). Wiped when it goes. Not thread-safe.
class PlacedBuffer {
 public:
  explicit PlacedBuffer(size_t size_bytes)
      : size_bytes_(size_bytes + kPageBytes),
        bytes_(static_cast<uint8_t*>(operator new (size_bytes_, std::align_val_t{kPageBytes}))) {}
  ~PlacedBuffer() { WipeMemory(std::span(bytes_.get(), size_bytes_)); }
  PlacedBuffer(const PlacedBuffer&) = delete;
  PlacedBuffer& operator=(const PlacedBuffer&) = delete;

  // `size_bytes` (at most those asked for) that go to, or come from, that offset.
  std::span<uint8_t> At(uint64_t file_offset_bytes, size_t size_bytes) {
    return std::span(bytes_.get(), size_bytes_).subspan(file_offset_bytes % kPageBytes, size_bytes);
  }

 private:
  static constexpr size_t kPageBytes = 4096;
  struct Free {
    void operator()(uint8_t* bytes) const { operator delete (bytes, std::align_val_t{kPageBytes}); }
  };
  size_t size_bytes_;
  std::unique_ptr<uint8_t[], Free> bytes_;
};

}  // namespace pavise::vault::internal

#endif  // PAVISE_VAULT_INTERNAL_PLACED_BUFFER_H_
