#ifndef PAVISE_VAULT_INTERNAL_PARALLEL_H_
#define PAVISE_VAULT_INTERNAL_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "pavise/base/status.h"

#include "absl/status/status.h"

namespace pavise::vault::internal {

// Runs `worker` on that many threads (0: one a CPU), the caller's among them, at most one an item.
// Each takes numbers from `next` (below `count`) until it gets none; the error of the lowest number
// that failed is returned, and no new numbers are given out after any.
class Numbers {
 public:
  explicit Numbers(uint64_t count) : count_(count) {}
  bool Take(uint64_t& number) {
    if (stopped_.load(std::memory_order_relaxed)) return false;
    number = next_.fetch_add(1, std::memory_order_relaxed);
    return number < count_;
  }
  void Fail(uint64_t number, absl::Status status) {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    if (status_.ok() || number < failed_) {
      failed_ = number;
      status_ = std::move(status);
    }
  }
  uint64_t count() const { return count_; }
  absl::Status status() const { return status_; }

 private:
  const uint64_t count_;
  std::atomic<uint64_t> next_{0};
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  uint64_t failed_ = 0;
  absl::Status status_;
};

inline absl::Status RunWorkers(unsigned threads, Numbers& numbers,
                               const std::function<void(Numbers&)>& worker) {
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  const uint64_t wanted = std::min<uint64_t>(threads, numbers.count());
  std::vector<std::jthread> others;
  try {
    while (others.size() + 1 < wanted) others.emplace_back([&] { worker(numbers); });
  } catch (const std::system_error&) {
    // Fewer threads do the same work.
  }
  worker(numbers);
  others.clear();
  return numbers.status();
}

}  // namespace pavise::vault::internal

#endif  // PAVISE_VAULT_INTERNAL_PARALLEL_H_
