#ifndef PAVISE_OFFLOAD_INTERNAL_MAILBOX_H_
#define PAVISE_OFFLOAD_INTERNAL_MAILBOX_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/offload/worker.h"

namespace pavise::offload::internal {

// One answer, written once by a connection's thread; whoever waits for it may have gone.
class Mailbox {
 public:
  void Put(absl::StatusOr<Reply> reply) {
    const std::scoped_lock lock(mutex_);
    if (reply_.has_value()) return;
    reply_ = std::move(reply);
    there_.notify_all();
  }

  absl::StatusOr<Reply> Wait(absl::Time deadline, std::string_view worker) {
    std::unique_lock lock(mutex_);
    const auto is_there = [this] { return reply_.has_value(); };
    if (deadline == absl::InfiniteFuture()) {
      there_.wait(lock, is_there);
    } else if (!there_.wait_until(lock, absl::ToChronoTime(deadline), is_there)) {
      return MachineFailure(worker, "no answer by the deadline");
    }
    absl::StatusOr<Reply> reply = *std::move(reply_);
    reply_ = UsageError("an answer is waited for once");
    return reply;
  }

 private:
  std::mutex mutex_;
  std::condition_variable there_;
  std::optional<absl::StatusOr<Reply>> reply_;
};

// The waiting side of a mailbox; refusals name `worker`.
class PendingMail final : public PendingReply {
 public:
  PendingMail(std::shared_ptr<Mailbox> mailbox, std::string worker)
      : mailbox_(std::move(mailbox)), worker_(std::move(worker)) {}
  absl::StatusOr<Reply> Wait(absl::Time deadline) override {
    return mailbox_->Wait(deadline, worker_);
  }

 private:
  const std::shared_ptr<Mailbox> mailbox_;
  const std::string worker_;
};

}  // namespace pavise::offload::internal

#endif  // PAVISE_OFFLOAD_INTERNAL_MAILBOX_H_
