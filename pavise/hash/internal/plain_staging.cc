#include "pavise/hash/internal/plain_staging.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace pavise::hash {
namespace {

constexpr uint64_t kPageBytes = 4096;

class PlainStaging final : public Staging {
 public:
  PlainStaging(Pages memory, size_t size_bytes)
      : memory_(std::move(memory)), size_bytes_(size_bytes) {}
  std::span<uint8_t> bytes() override { return {memory_.get(), size_bytes_}; }

 private:
  Pages memory_;
  size_t size_bytes_;
};

}  // namespace

Pages AllocatePages(uint64_t size_bytes) {
  if (size_bytes > std::numeric_limits<size_t>::max() - kPageBytes) return nullptr;
  const uint64_t rounded =
      (std::max<uint64_t>(size_bytes, 1) + kPageBytes - 1) / kPageBytes * kPageBytes;
  return Pages(static_cast<uint8_t*>(std::aligned_alloc(kPageBytes, rounded)));
}

std::unique_ptr<Staging> NewPlainStaging(size_t size_bytes) {
  Pages memory = AllocatePages(size_bytes);
  if (memory == nullptr) return nullptr;
  return std::make_unique<PlainStaging>(std::move(memory), size_bytes);
}

}  // namespace pavise::hash
