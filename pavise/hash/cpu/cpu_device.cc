#include "pavise/hash/cpu/cpu_device.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <functional>
#include <limits>
#include <mutex>
#include <new>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/crypto/digest.h"
#include "pavise/hash/cpu/range_tagger.h"
#include "pavise/hash/internal/batch_checks.h"
#include "pavise/hash/internal/file_request.h"
#include "pavise/hash/internal/plain_staging.h"

#include "absl/strings/str_cat.h"

namespace pavise::hash {
namespace {

constexpr std::array kAlgorithms = {Algorithm::kSha256, Algorithm::kSha384, Algorithm::kBlake2b,
                                    Algorithm::kBlake3};
// More threads than any machine this runs on has: a bound on a number that comes from an option.
constexpr unsigned kMaxThreads = 1024;

// The serial algorithms' counterpart in OpenSSL; nothing for BLAKE3.
std::optional<crypto::DigestAlgorithm> SerialAlgorithm(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kSha256:
      return crypto::DigestAlgorithm::kSha256;
    case Algorithm::kSha384:
      return crypto::DigestAlgorithm::kSha384;
    case Algorithm::kBlake2b:
      return crypto::DigestAlgorithm::kBlake2b512;
    case Algorithm::kBlake3:
      break;
  }
  return std::nullopt;
}

// Threads that live as long as the device. Thread-safe.
class ThreadPool {
 public:
  // Starts as many of `threads` as the system allows, maybe none.
  explicit ThreadPool(unsigned threads) {
    try {
      threads_.reserve(threads);
      while (threads_.size() < threads) threads_.emplace_back([this] { Work(); });
    } catch (const std::exception&) {
      // Fewer threads do the same work; description() says how many there are.
    }
  }
  // Does what is queued first.
  ~ThreadPool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  size_t threads() const { return threads_.size(); }

  void Submit(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    changed_.notify_one();
  }

 private:
  void Work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      const std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

// What one thread keeps from task to task of an operation.
struct TaskContext {
  std::optional<crypto::Digester> digester;
};

// One call of Digest, Blake3Subtrees or Tag: `tasks` independent pieces of work, taken in order by
// whichever thread is free.
class Operation {
 public:
  virtual ~Operation() = default;
  virtual size_t tasks() const = 0;
  virtual absl::Status Run(size_t task, TaskContext& context) = 0;
};

// Runs a stream's operations one after the other, each on all threads. Shared by the stream and the
// jobs in the pool; thread-safe.
class OperationQueue : public std::enable_shared_from_this<OperationQueue> {
 public:
  // `pool` outlives every operation: the stream keeps it, and waits before it goes.
  explicit OperationQueue(ThreadPool* pool) : pool_(pool) {}

  void Add(std::unique_ptr<Operation> operation) {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(operation));
    if (waiting_.size() == 1) StartFront();
  }

  absl::Status Wait() {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return waiting_.empty(); });
    has_failed_ = false;
    return std::exchange(failure_, absl::OkStatus());
  }

 private:
  // With mutex_ held. Drops operations that cannot be started, with a failure.
  void StartFront() {
    while (!waiting_.empty()) {
      Operation* operation = waiting_.front().get();
      const size_t wanted = std::min(pool_->threads(), std::max<size_t>(operation->tasks(), 1));
      next_task_ = 0;
      // Runners that are already at work wait for mutex_ before they look at this.
      runners_left_ = 0;
      try {
        for (; runners_left_ < wanted; ++runners_left_) {
          pool_->Submit([self = shared_from_this(), operation] { self->RunTasks(*operation); });
        }
      } catch (const std::exception& error) {
        if (runners_left_ == 0) {
          Fail(MachineFailure("cpu", error.what()));
          waiting_.pop_front();
          continue;
        }
      }
      return;
    }
    idle_.notify_all();
  }

  // With mutex_ held.
  void Fail(const absl::Status& status) {
    has_failed_ = true;
    failure_.Update(status);
  }

  void RunTasks(Operation& operation) {
    absl::Status status = absl::OkStatus();
    try {
      TaskContext context;
      // After a failure, and until it is reported by Wait, this stream computes nothing.
      while (status.ok() && !has_failed_) {
        const size_t task = next_task_.fetch_add(1);
        if (task >= operation.tasks()) break;
        status = operation.Run(task, context);
      }
    } catch (const std::exception& error) {
      status = MachineFailure("cpu", error.what());
    }
    const std::lock_guard lock(mutex_);
    if (!status.ok()) Fail(status);
    if (--runners_left_ > 0) return;
    waiting_.pop_front();
    StartFront();
  }

  ThreadPool* pool_;
  std::mutex mutex_;
  std::condition_variable idle_;
  std::deque<std::unique_ptr<Operation>> waiting_;  // the first is running
  absl::Status failure_;
  size_t runners_left_ = 0;
  std::atomic<size_t> next_task_ = 0;
  std::atomic<bool> has_failed_ = false;
};

class CpuStream final : public Stream {
 public:
  CpuStream(const Device& device, std::shared_ptr<ThreadPool> pool)
      : device_(device), pool_(std::move(pool)) {
    queue_ = std::make_shared<OperationQueue>(pool_.get());
  }
  ~CpuStream() override { queue_->Wait().IgnoreError(); }

  absl::Status Wait() override { return queue_->Wait(); }

  const Device& device() const { return device_; }
  OperationQueue& queue() { return *queue_; }

 private:
  const Device& device_;
  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<OperationQueue> queue_;
};

// Host memory, its own or borrowed.
class CpuBuffer final : public Buffer {
 public:
  CpuBuffer(const Device& device, ByteSpan bytes) : device_(device), bytes_(bytes) {}
  CpuBuffer(const Device& device, Pages owned, size_t size_bytes)
      : device_(device), owned_(std::move(owned)), bytes_(owned_.get(), size_bytes) {}

  uint64_t size_bytes() const override { return bytes_.size(); }
  const Device& device() const override { return device_; }
  ByteSpan bytes() const { return bytes_; }
  // Borrowed memory is the caller's to write.
  std::span<uint8_t> host_bytes() override {
    return owned_ == nullptr ? std::span<uint8_t>() : std::span(owned_.get(), bytes_.size());
  }
  NativeMemory native_memory() const override {
    if (owned_ == nullptr) return {};
    return {NativeMemory::Kind::kHost, owned_.get()};
  }

 private:
  const Device& device_;
  Pages owned_;
  ByteSpan bytes_;
};

ByteSpan BytesOf(ByteSpan buffer, const Range& range) {
  return buffer.subspan(static_cast<size_t>(range.offset_bytes),
                        static_cast<size_t>(range.size_bytes));
}

// A task for each kSubtreeBytes.
class Copy final : public Operation {
 public:
  Copy(ByteSpan from, std::span<uint8_t> to) : from_(from), to_(to) {}

  size_t tasks() const override { return (from_.size() + kSubtreeBytes - 1) / kSubtreeBytes; }

  absl::Status Run(size_t task, TaskContext&) override {
    const size_t begin = task * kSubtreeBytes;
    const ByteSpan piece = from_.subspan(begin, std::min(kSubtreeBytes, from_.size() - begin));
    std::copy(piece.begin(), piece.end(), to_.subspan(begin).begin());
    return absl::OkStatus();
  }

 private:
  const ByteSpan from_;
  const std::span<uint8_t> to_;
};

// A task for each range: a serial chain has no parallelism inside.
class SerialDigests final : public Operation {
 public:
  SerialDigests(crypto::DigestAlgorithm algorithm, ByteSpan buffer, std::span<const Range> ranges,
                std::span<uint8_t> out)
      : algorithm_(algorithm),
        buffer_(buffer),
        ranges_(ranges.begin(), ranges.end()),
        out_(out),
        order_(ranges.size()) {
    // The longest first, so that no thread is left alone with a long one at the end.
    std::iota(order_.begin(), order_.end(), size_t{0});
    std::stable_sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
      return ranges_[a].size_bytes > ranges_[b].size_bytes;
    });
  }

  size_t tasks() const override { return ranges_.size(); }

  absl::Status Run(size_t task, TaskContext& context) override {
    const size_t i = order_[task];
    if (!context.digester.has_value()) {
      PAVISE_ASSIGN_OR_RETURN(context.digester, crypto::Digester::Create(algorithm_));
    }
    PAVISE_RETURN_IF_ERROR(context.digester->Update(BytesOf(buffer_, ranges_[i])));
    PAVISE_ASSIGN_OR_RETURN(const Bytes digest, context.digester->Finish());
    const size_t size_bytes = crypto::DigestSizeBytes(algorithm_);
    if (digest.size() != size_bytes) return MachineFailure("cpu", "a digest has the wrong length");
    std::copy(digest.begin(), digest.end(), out_.subspan(i * size_bytes).begin());
    return absl::OkStatus();
  }

 private:
  const crypto::DigestAlgorithm algorithm_;
  const ByteSpan buffer_;
  const std::vector<Range> ranges_;
  const std::span<uint8_t> out_;
  std::vector<size_t> order_;
};

// A task for each kSubtreeBytes of each range; whoever ends a range's last one joins them.
class Blake3Digests final : public Operation {
 public:
  Blake3Digests(ByteSpan buffer, std::span<const Range> ranges, std::span<uint8_t> out)
      : buffer_(buffer), ranges_(ranges.begin(), ranges.end()), out_(out) {
    first_task_.reserve(ranges_.size() + 1);
    size_t tasks = 0;
    size_t trees = 0;
    for (const Range& range : ranges_) {
      first_task_.push_back(tasks);
      tasks += SubtreesIn(range);
      if (SubtreesIn(range) > 1) ++trees;
    }
    first_task_.push_back(tasks);
    trees_.reserve(trees);
    tree_of_range_.resize(ranges_.size(), 0);
    for (size_t i = 0; i < ranges_.size(); ++i) {
      if (SubtreesIn(ranges_[i]) == 1) continue;
      tree_of_range_[i] = trees_.size();
      trees_.push_back(std::make_unique<Tree>(SubtreesIn(ranges_[i])));
    }
  }

  size_t tasks() const override { return first_task_.back(); }

  absl::Status Run(size_t task, TaskContext& /*context*/) override {
    // Every range has at least one task, so first_task_ ascends strictly.
    const auto after = std::upper_bound(first_task_.begin(), first_task_.end(), task);
    const size_t i = static_cast<size_t>(after - first_task_.begin()) - 1;
    const ByteSpan bytes = BytesOf(buffer_, ranges_[i]);
    if (SubtreesIn(ranges_[i]) == 1) {
      Write(i, Blake3(bytes));
      return absl::OkStatus();
    }
    Tree& tree = *trees_[tree_of_range_[i]];
    const size_t subtree = task - first_task_[i];
    const size_t offset = subtree * kSubtreeBytes;
    tree.subtrees[subtree] =
        Blake3Subtree(bytes.subspan(offset, std::min(kSubtreeBytes, bytes.size() - offset)),
                      offset / kBlake3ChunkBytes);
    if (tree.left.fetch_sub(1) == 1) {
      Write(i, Blake3RootFromSubtrees(tree.subtrees));
      tree.subtrees = {};
    }
    return absl::OkStatus();
  }

 private:
  struct Tree {
    explicit Tree(size_t count) : subtrees(count), left(count) {}
    std::vector<ChainingValue> subtrees;
    std::atomic<size_t> left;
  };

  static size_t SubtreesIn(const Range& range) {
    if (range.size_bytes == 0) return 1;
    return static_cast<size_t>((range.size_bytes - 1) / kSubtreeBytes + 1);
  }

  void Write(size_t i, const Digest32& digest) {
    std::copy(digest.begin(), digest.end(), out_.subspan(i * digest.size()).begin());
  }

  const ByteSpan buffer_;
  const std::vector<Range> ranges_;
  const std::span<uint8_t> out_;
  std::vector<size_t> first_task_;  // of each range, and the number of all
  std::vector<size_t> tree_of_range_;
  std::vector<std::unique_ptr<Tree>> trees_;
};

class SubtreeChainingValues final : public Operation {
 public:
  SubtreeChainingValues(ByteSpan buffer, std::span<const SubtreeRange> ranges,
                        std::span<ChainingValue> out)
      : buffer_(buffer), ranges_(ranges.begin(), ranges.end()), out_(out) {}

  size_t tasks() const override { return ranges_.size(); }

  absl::Status Run(size_t task, TaskContext& /*context*/) override {
    out_[task] = Blake3Subtree(BytesOf(buffer_, ranges_[task].range), ranges_[task].first_chunk);
    return absl::OkStatus();
  }

 private:
  const ByteSpan buffer_;
  const std::vector<SubtreeRange> ranges_;
  const std::span<ChainingValue> out_;
};

// A task for each range, under all keys.
class RangeTags final : public Operation {
 public:
  RangeTags(std::span<const TagKey* const> keys, ByteSpan bytes, uint64_t first_range,
            std::span<RangeTag> out)
      : tagger_(keys),
        keys_(keys.size()),
        bytes_(bytes),
        first_range_(first_range),
        ranges_(out.size() / keys.size()),
        out_(out) {}

  size_t tasks() const override { return ranges_; }

  absl::Status Run(size_t task, TaskContext& /*context*/) override {
    const size_t begin = task * kTagRangeBytes;
    const ByteSpan range = bytes_.subspan(begin, std::min(kTagRangeBytes, bytes_.size() - begin));
    const auto tags = tagger_.Tag(range, first_range_ + task);
    for (size_t k = 0; k < keys_; ++k) out_[k * ranges_ + task] = tags[k];
    return absl::OkStatus();
  }

 private:
  const internal::RangeTagger tagger_;
  const size_t keys_;
  const ByteSpan bytes_;
  const uint64_t first_range_;
  const size_t ranges_;
  const std::span<RangeTag> out_;
};

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(unsigned threads) : pool_(std::make_shared<ThreadPool>(threads)) {
    // What OpenSSL's loaded providers lack (BLAKE2b under a FIPS provider) is not offered.
    for (Algorithm algorithm : kAlgorithms) {
      const auto serial = SerialAlgorithm(algorithm);
      supported_[static_cast<size_t>(algorithm)] =
          !serial.has_value() || crypto::Digester::Create(*serial).ok();
    }
  }

  std::string name() const override { return "cpu"; }

  std::string description() const override {
    const size_t threads = pool_->threads();
    return absl::StrCat("CPU, ", std::string(Blake3Target()), ", ", threads,
                        threads == 1 ? " thread" : " threads");
  }

  bool supports(Algorithm algorithm) const override {
    const size_t i = static_cast<size_t>(algorithm);
    return i < supported_.size() && supported_[i];
  }

  MemoryLink memory_link() const override {
    return {MemoryLink::Kind::kHost, "the memory is the process's own"};
  }

  absl::StatusOr<std::unique_ptr<Stream>> NewStream() override {
    if (pool_->threads() == 0) return MachineFailure(name(), "no thread could be started");
    return std::make_unique<CpuStream>(*this, pool_);
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Upload(ByteSpan host) override {
    PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, Allocate(host.size()));
    std::copy(host.begin(), host.end(), buffer->host_bytes().begin());
    return buffer;
  }

  uint64_t memory_bytes() const override { return internal::CacheableBytes(); }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(uint64_t size_bytes) override {
    if (size_bytes > memory_bytes()) {
      return Refuse(Reason::kUnsupported, name(),
                    absl::StrCat("this machine has no memory for ", HumanBytes(size_bytes)),
                    "name another device, or load fewer tensors");
    }
    Pages memory = AllocatePages(size_bytes);
    if (memory == nullptr) return NoMemory(size_bytes);
    return std::make_unique<CpuBuffer>(*this, std::move(memory), size_bytes);
  }

  absl::StatusOr<std::unique_ptr<Staging>> AllocateStaging(size_t size_bytes) override {
    std::unique_ptr<Staging> staging = NewPlainStaging(size_bytes);
    if (staging == nullptr) return NoMemory(size_bytes);
    return staging;
  }

  // Copies are made at once, when everything queued before them is done.
  absl::Status CopyIn(ByteSpan host, Buffer& buffer, uint64_t offset_bytes,
                      Stream& stream) override {
    PAVISE_RETURN_IF_ERROR(OwnBytes(buffer).status());
    PAVISE_ASSIGN_OR_RETURN(OperationQueue * queue, OwnQueue(stream));
    const std::span<uint8_t> bytes = buffer.host_bytes();
    if (bytes.size() != buffer.size_bytes()) return UsageError("cpu: the buffer is borrowed");
    PAVISE_RETURN_IF_ERROR(
        CheckCopy(name(), {offset_bytes, host.size()}, bytes.size(), host.size()));
    PAVISE_RETURN_IF_ERROR(queue->Wait());
    std::copy(host.begin(), host.end(), bytes.subspan(offset_bytes).begin());
    return absl::OkStatus();
  }

  absl::Status CopyOut(const Buffer& buffer, Range range, Stream& stream,
                       std::span<uint8_t> host) override {
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, OwnBytes(buffer));
    PAVISE_ASSIGN_OR_RETURN(OperationQueue * queue, OwnQueue(stream));
    PAVISE_RETURN_IF_ERROR(CheckCopy(name(), range, bytes.size(), host.size()));
    PAVISE_RETURN_IF_ERROR(queue->Wait());
    const ByteSpan from = BytesOf(bytes, range);
    std::copy(from.begin(), from.end(), host.begin());
    return absl::OkStatus();
  }

  absl::Status CopyWithin(const Buffer& from, Range range, Buffer& to, uint64_t offset_bytes,
                          Stream& stream) override {
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan source, OwnBytes(from));
    PAVISE_RETURN_IF_ERROR(OwnBytes(to).status());
    PAVISE_ASSIGN_OR_RETURN(OperationQueue * queue, OwnQueue(stream));
    PAVISE_RETURN_IF_ERROR(CheckCopyWithin(name(), from, range, to, offset_bytes));
    const std::span<uint8_t> target = to.host_bytes();
    if (target.size() != to.size_bytes()) return UsageError("cpu: the buffer is borrowed");
    try {
      queue->Add(std::make_unique<Copy>(BytesOf(source, range),
                                        target.subspan(offset_bytes, range.size_bytes)));
    } catch (const std::exception& error) {
      return MachineFailure(name(), error.what());
    }
    return absl::OkStatus();
  }

  absl::Status Digest(Algorithm algorithm, const Buffer& buffer, std::span<const Range> ranges,
                      Stream& stream, std::span<uint8_t> out) override {
    if (!supports(algorithm)) {
      return Refuse(
          Reason::kUnsupported, name(),
          absl::StrCat("this device does not compute ", std::string(AlgorithmName(algorithm))),
          "name another device or another algorithm");
    }
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, OwnBytes(buffer));
    PAVISE_ASSIGN_OR_RETURN(OperationQueue * queue, OwnQueue(stream));
    PAVISE_RETURN_IF_ERROR(
        CheckDigestBatch(name(), ranges, bytes.size(), DigestSizeBytes(algorithm), out.size()));
    try {
      if (const auto serial = SerialAlgorithm(algorithm); serial.has_value()) {
        queue->Add(std::make_unique<SerialDigests>(*serial, bytes, ranges, out));
      } else {
        queue->Add(std::make_unique<Blake3Digests>(bytes, ranges, out));
      }
    } catch (const std::exception& error) {
      return MachineFailure(name(), error.what());
    }
    return absl::OkStatus();
  }

  absl::Status Blake3Subtrees(const Buffer& buffer, std::span<const SubtreeRange> ranges,
                              Stream& stream, std::span<ChainingValue> out) override {
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, OwnBytes(buffer));
    PAVISE_ASSIGN_OR_RETURN(OperationQueue * queue, OwnQueue(stream));
    PAVISE_RETURN_IF_ERROR(CheckSubtreeBatch(name(), ranges, bytes.size(), out.size()));
    try {
      queue->Add(std::make_unique<SubtreeChainingValues>(bytes, ranges, out));
    } catch (const std::exception& error) {
      return MachineFailure(name(), error.what());
    }
    return absl::OkStatus();
  }

  bool supports_tags() const override { return true; }

  absl::Status Tag(std::span<const TagKey* const> keys, const Buffer& buffer, Range range,
                   uint64_t first_range, Stream& stream, std::span<RangeTag> out) override {
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, OwnBytes(buffer));
    PAVISE_ASSIGN_OR_RETURN(OperationQueue * queue, OwnQueue(stream));
    PAVISE_RETURN_IF_ERROR(CheckCopy(name(), range, bytes.size(), range.size_bytes));
    PAVISE_RETURN_IF_ERROR(CheckTagCall(keys, range.size_bytes, first_range, out.size()).status());
    try {
      queue->Add(std::make_unique<RangeTags>(keys, BytesOf(bytes, range), first_range, out));
    } catch (const std::exception& error) {
      return MachineFailure(name(), error.what());
    }
    return absl::OkStatus();
  }

 private:
  absl::Status NoMemory(uint64_t size_bytes) const {
    return MachineFailure(name(), absl::StrCat("no memory for ", HumanBytes(size_bytes)));
  }

  absl::StatusOr<ByteSpan> OwnBytes(const Buffer& buffer) const {
    const auto* own = dynamic_cast<const CpuBuffer*>(&buffer);
    if (own == nullptr || &own->device() != this) {
      return UsageError("cpu: the buffer belongs to another device");
    }
    return own->bytes();
  }

  absl::StatusOr<OperationQueue*> OwnQueue(Stream& stream) const {
    auto* own = dynamic_cast<CpuStream*>(&stream);
    if (own == nullptr || &own->device() != this) {
      return UsageError("cpu: the stream belongs to another device");
    }
    return &own->queue();
  }

  std::shared_ptr<ThreadPool> pool_;
  std::array<bool, kAlgorithms.size()> supported_ = {};
};

}  // namespace

unsigned UsableCpus() {
  // The mask's size is not known beforehand on machines of more than 1,024 CPUs.
  for (size_t cpus = CPU_SETSIZE; cpus <= (size_t{1} << 20); cpus *= 2) {
    cpu_set_t* mask = CPU_ALLOC(cpus);
    if (mask == nullptr) break;
    const size_t mask_bytes = CPU_ALLOC_SIZE(cpus);
    const int result = sched_getaffinity(0, mask_bytes, mask);
    const int error = errno;
    const int count = result == 0 ? CPU_COUNT_S(mask_bytes, mask) : 0;
    CPU_FREE(mask);
    if (result == 0) return static_cast<unsigned>(std::max(count, 1));
    if (error != EINVAL) break;
  }
  return 1;
}

std::unique_ptr<Device> NewCpuDevice(unsigned threads) {
  return std::make_unique<CpuDevice>(std::min(threads == 0 ? UsableCpus() : threads, kMaxThreads));
}

std::unique_ptr<Buffer> WrapHostMemory(const Device& cpu_device, ByteSpan host) {
  return std::make_unique<CpuBuffer>(cpu_device, host);
}

}  // namespace pavise::hash
