#ifndef PAVISE_OFFLOAD_MEMORY_BUDGET_H_
#define PAVISE_OFFLOAD_MEMORY_BUDGET_H_

#include <atomic>
#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace pavise::offload {

class MemoryBudget;

// Bytes that are in use until this is destroyed. The budget must outlive it.
class MemoryCharge {
 public:
  MemoryCharge() = default;
  MemoryCharge(MemoryCharge&& other) noexcept { *this = std::move(other); }
  MemoryCharge& operator=(MemoryCharge&& other) noexcept;
  ~MemoryCharge();

  uint64_t size_bytes() const { return size_bytes_; }

 private:
  friend MemoryBudget;
  MemoryCharge(MemoryBudget* budget, uint64_t size_bytes)
      : budget_(budget), size_bytes_(size_bytes) {}

  MemoryBudget* budget_ = nullptr;
  uint64_t size_bytes_ = 0;
};

// What tensors may take, of one worker with all its sessions: charged before they are allocated.
// Thread-safe.
class MemoryBudget {
 public:
  explicit MemoryBudget(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  uint64_t limit_bytes() const { return limit_bytes_; }
  uint64_t used_bytes() const { return used_bytes_.load(std::memory_order_relaxed); }
  // kLimitExceeded where less is left; `item` is what the memory would be for.
  absl::StatusOr<MemoryCharge> Charge(uint64_t size_bytes, std::string_view item);

 private:
  friend MemoryCharge;
  const uint64_t limit_bytes_;
  std::atomic<uint64_t> used_bytes_ = 0;
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_MEMORY_BUDGET_H_
