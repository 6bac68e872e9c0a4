#include "pavise/loading/testing/thread_ranks.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "pavise/base/status.h"

namespace pavise::loading::testing {
namespace {

// A room in which all ranks meet, round after round.
class Room {
 public:
  explicit Room(unsigned size) : messages_(size) {}

  absl::StatusOr<std::vector<Bytes>> Meet(unsigned rank, Bytes message) {
    std::unique_lock lock(mutex_);
    // Nobody begins a round before everybody has taken what the last one brought.
    changed_.wait(lock, [&] { return !is_full_ || somebody_left_; });
    if (somebody_left_) return MachineFailure("ranks", "one of them is gone");
    messages_[rank] = std::move(message);
    if (++present_ == messages_.size()) is_full_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return is_full_ || somebody_left_; });
    if (!is_full_) return MachineFailure("ranks", "one of them is gone");
    std::vector<Bytes> all = messages_;
    if (--present_ == 0) is_full_ = false;
    changed_.notify_all();
    return all;
  }

  void Leave() {
    const std::lock_guard lock(mutex_);
    somebody_left_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Bytes> messages_;
  size_t present_ = 0;
  bool is_full_ = false;
  bool somebody_left_ = false;
};

class ThreadRanks final : public RankGroup {
 public:
  ThreadRanks(Room& room, unsigned rank, unsigned size, const Forgery& forgery)
      : room_(room), rank_(rank), size_(size), forgery_(forgery) {}
  unsigned rank() const override { return rank_; }
  unsigned size() const override { return size_; }
  absl::StatusOr<std::vector<Bytes>> AllGather(ByteSpan mine) override {
    Bytes message(mine.begin(), mine.end());
    if (forgery_) forgery_(rank_, round_, message);
    ++round_;
    return room_.Meet(rank_, std::move(message));
  }

 private:
  Room& room_;
  const unsigned rank_;
  const unsigned size_;
  const Forgery& forgery_;
  unsigned round_ = 0;
};

}  // namespace

void RunRanks(unsigned size, const std::function<void(RankGroup& group)>& body,
              const Forgery& forgery) {
  Room room(size);
  std::vector<std::thread> threads;
  for (unsigned rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadRanks group(room, rank, size, forgery);
      body(group);
      room.Leave();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace pavise::loading::testing
