#include "pavise/offload/memory_budget.h"

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::offload {

MemoryCharge& MemoryCharge::operator=(MemoryCharge&& other) noexcept {
  std::swap(budget_, other.budget_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

MemoryCharge::~MemoryCharge() {
  if (budget_ != nullptr) budget_->used_bytes_.fetch_sub(size_bytes_);
}

absl::StatusOr<MemoryCharge> MemoryBudget::Charge(uint64_t size_bytes, std::string_view item) {
  uint64_t used = used_bytes_.load();
  do {
    if (size_bytes > limit_bytes_ - used) {
      return Refuse(Reason::kLimitExceeded, item,
                    StrCat(HumanBytes(size_bytes), " more than the ", HumanBytes(used),
                           " in use leave the worker's limit of ", HumanBytes(limit_bytes_)),
                    "send smaller batches or fewer layers, or give the worker more memory");
    }
  } while (!used_bytes_.compare_exchange_weak(used, used + size_bytes));
  return MemoryCharge(this, size_bytes);
}

}  // namespace pavise::offload
