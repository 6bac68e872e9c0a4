#include "pavise/offload/in_process.h"

#include <pthread.h>
#include <time.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/offload/engine.h"
#include "pavise/offload/internal/mailbox.h"

namespace pavise::offload {
namespace {

using internal::Mailbox;
using internal::PendingMail;

class InProcessConnection final : public WorkerConnection {
 public:
  InProcessConnection(const WorkerOptions& options, std::shared_ptr<ComputeDevice> device)
      : description_(DescribeWorker(options, *device)),
        engine_(std::move(device), std::make_shared<MemoryBudget>(options.memory_limit_bytes)),
        thread_([this] { Run(); }) {}

  ~InProcessConnection() override {
    {
      const std::scoped_lock lock(mutex_);
      is_closing_ = true;
    }
    changed_.notify_all();
    thread_.join();
    for (const Queued& queued : queue_) {
      queued.mailbox->Put(MachineFailure(description_.name, "the connection was closed"));
    }
  }

  const WorkerDescription& description() const override { return description_; }

  std::optional<double> cpu_seconds() const override {
    clockid_t clock = 0;
    timespec now = {};
    // The thread lives as long as this object, so that its clock is never another's.
    if (pthread_getcpuclockid(const_cast<std::thread&>(thread_).native_handle(), &clock) != 0 ||
        clock_gettime(clock, &now) != 0) {
      return std::nullopt;
    }
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  }

  std::unique_ptr<PendingReply> Send(Request request) override {
    auto mailbox = std::make_shared<Mailbox>();
    {
      const std::scoped_lock lock(mutex_);
      queue_.push_back({std::move(request), mailbox});
    }
    changed_.notify_all();
    return std::make_unique<PendingMail>(std::move(mailbox), description_.name);
  }

 private:
  struct Queued {
    Request request;
    std::shared_ptr<Mailbox> mailbox;
  };

  void Run() {
    while (true) {
      Queued next;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return is_closing_ || !queue_.empty(); });
        if (is_closing_) return;
        next = std::move(queue_.front());
        queue_.pop_front();
      }
      next.mailbox->Put(engine_.Execute(std::move(next.request)));
    }
  }

  const WorkerDescription description_;
  WorkerEngine engine_;  // the thread's
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Queued> queue_;
  bool is_closing_ = false;
  std::thread thread_;
};

}  // namespace

WorkerDescription DescribeWorker(const WorkerOptions& options, const ComputeDevice& device) {
  WorkerDescription description;
  description.name = options.name;
  description.device = std::string(device.name());
  description.memory_limit_bytes = options.memory_limit_bytes;
  description.types = {DType::kFp32, DType::kBf16, DType::kFp16, DType::kInt8};
  for (const DType type : description.types) {
    if (device.multiplies(type)) description.operand_types.push_back(type);
  }
  description.convolves = device.convolves();
  description.multiplies_residues = device.multiplies_residues();
  return description;
}

std::unique_ptr<WorkerConnection> ConnectInProcess(const WorkerOptions& options,
                                                   std::shared_ptr<ComputeDevice> device) {
  return std::make_unique<InProcessConnection>(options, std::move(device));
}

}  // namespace pavise::offload
