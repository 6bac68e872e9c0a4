#include "pavise/hash/file_pass.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/hash/cpu/sha256_pair.h"
#include "pavise/hash/internal/block_reader.h"
#include "pavise/hash/internal/file_request.h"
#include "pavise/hash/internal/mapped_file.h"

// How a pass works.
//
// A file's bytes are cut into *pieces*. All BLAKE3 work of a piece is one task that any thread may
// run, in any order. Serial digests need their bytes in order: the digests of a file that do not
// overlap form a *strand*, which takes one piece after the other, one thread at a time. A file with
// serial digests of disjoint ranges (shards) is cut into several *lanes*, each a stretch of the
// file with its own pieces and strands, so that shards run side by side. A piece goes when its
// tasks are done, and pieces are limited in number, which bounds the memory.
//
// The threads share one lock and one queue. The strand with the most bytes left goes first: it is
// what decides when the pass ends. Where the CPU has SHA instructions and there are more strands
// than threads, a thread takes a second SHA-256 strand along and advances both together
// (sha256_pair.h), until one of them is at the end of its piece.
//
// A BLAKE3 range starts anywhere, so its 1 MiB subtrees may cross from one piece into the next. In
// a mapped file that is of no concern, the bytes lie side by side. Between two buffers the bytes
// around the border are copied into a *seam*; whoever brings its second side hashes what crosses
// there. Pieces are never shorter than a subtree except alone, so nothing crosses two borders.
namespace pavise::hash {
namespace {

using internal::BlockRead;
using internal::BlockReader;
using internal::BlockReadResult;
using internal::CacheableBytes;
using internal::CheckUnchanged;
using internal::Interval;
using internal::kMostBytes;
using internal::MappedFile;
using internal::NeededSpans;
using internal::OpenedFile;
using internal::OpenRequest;
using internal::Sha256Stream;
using internal::Unstable;

constexpr uint64_t kPieceBytes = uint64_t{4} << 20;
// A piece of a mapped file without serial digests is claimed, touched and done with by one thread,
// so its size costs nothing but balance. Measured alike from 1 to 4 MiB.
constexpr uint64_t kMappedTreePieceBytes = uint64_t{2} << 20;
// Lanes shorter than this would open more strands than threads can serve.
constexpr uint64_t kLaneBytes = uint64_t{16} << 20;
constexpr int64_t kPrefetchBytes = int64_t{32} << 20;
// Files larger than this give back the page tables of their mapping in steps of this.
constexpr uint64_t kGranuleBytes = uint64_t{256} << 20;
// Each may be a mapping, of which there are MappedFile::kMaximumMappings in the process.
constexpr uint64_t kMostOpenFiles = 256;
// What O_DIRECT asks of offsets, lengths and memory on every file system known to us.
constexpr uint64_t kBlockBytes = 4096;

uint64_t AlignDown(uint64_t value, uint64_t alignment) { return value / alignment * alignment; }
uint64_t AlignUp(uint64_t value, uint64_t alignment) {
  return AlignDown(value + alignment - 1, alignment);
}

struct FreeMemory {
  void operator()(uint8_t* memory) const { std::free(memory); }
};
using AlignedMemory = std::unique_ptr<uint8_t, FreeMemory>;

AlignedMemory AllocateAligned(uint64_t size_bytes) {
  AlignedMemory memory(
      static_cast<uint8_t*>(std::aligned_alloc(kBlockBytes, AlignUp(size_bytes, kBlockBytes))));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

crypto::DigestAlgorithm SerialAlgorithm(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kSha384:
      return crypto::DigestAlgorithm::kSha384;
    case Algorithm::kBlake2b:
      return crypto::DigestAlgorithm::kBlake2b512;
    case Algorithm::kSha256:
    case Algorithm::kBlake3:
      break;
  }
  return crypto::DigestAlgorithm::kSha256;
}

Bytes FinishSha256(Sha256Stream& stream) {
  const Digest32 digest = stream.Finish();
  return Bytes(digest.begin(), digest.end());
}

// One BLAKE3 input: the whole file (its tree) or a range.
struct TreeInput {
  uint64_t begin = 0;
  uint64_t end = 0;
  bool is_file_tree = false;
  bool want_root = false;
  std::vector<size_t> results;  // the requests whose digest this is

  // Filled by the tasks; each subtree has one writer, the last of them goes on to the root.
  std::vector<ChainingValue> subtrees;
  std::atomic<uint64_t> pending{0};
  Digest32 root = {};
  bool subtrees_sized = false;  // guarded by the pass's lock

  uint64_t size_bytes() const { return end - begin; }
  bool is_own_root() const { return size_bytes() <= kSubtreeBytes; }
};

// One serial digest.
struct Chain {
  uint64_t begin = 0;
  uint64_t end = 0;
  Algorithm algorithm = Algorithm::kSha256;
  size_t result = 0;
};

// Serial digests of one algorithm over ranges that do not overlap, in their order. One task at a
// time works on it.
struct Strand {
  Algorithm algorithm = Algorithm::kSha256;
  std::vector<Chain> chains;
  size_t next_chain = 0;
  uint64_t position = 0;  // what lies before it is done with
  Sha256Stream sha256;    // instead of the digester where Pass::UsesShaInstructions
  std::optional<crypto::Digester> digester;
  // Guarded by the pass's lock:
  uint64_t next_piece = 0;
  bool running = false;
};

// The bytes around a border between two buffers, for the subtrees that cross it.
struct Seam {
  uint64_t border = 0;
  uint64_t begin = 0;
  uint64_t end = 0;
  AlignedMemory bytes;
  std::vector<std::pair<TreeInput*, uint64_t>> crossing;  // input, number of its subtree
  std::atomic<int> missing_sides{2};
  int users_left = 2;  // guarded by the pass's lock: the pieces on its two sides
};

struct Lane;

struct Piece {
  Lane* lane = nullptr;
  uint64_t begin = 0;
  uint64_t end = 0;
  // BLAKE3 inputs: those that began before it, and those that begin in it.
  std::vector<uint32_t> carried;
  uint32_t first_new = 0;
  uint32_t end_new = 0;
  bool has_tree_task = false;
  Seam* left_seam = nullptr;
  Seam* right_seam = nullptr;

  // The bytes from `begin` on, and how far they may be read.
  const uint8_t* data = nullptr;
  uint64_t data_end = 0;

  // Guarded by the pass's lock:
  int buffer = -1;
  bool direct = false;  // read under O_DIRECT
  bool loaded = false;
  bool retired = false;
  size_t tasks_left = 0;
};

struct FileWork;

struct Lane {
  FileWork* file = nullptr;
  std::vector<Interval> spans;  // what is to be read, ascending
  std::vector<Strand> strands;

  // Guarded by the pass's lock (small files: their one thread):
  size_t span = 0;
  uint64_t position = 0;
  std::vector<uint32_t> carried;  // inputs that began before `position` and go on
  uint32_t next_input = 0;
  uint64_t unclaimed_bytes = 0;
  // Mapped files: how far the disk was asked to read ahead, and by how much that leads the claims.
  size_t prefetch_span = 0;
  uint64_t prefetch_position = 0;
  int64_t prefetch_lead_bytes = 0;
  std::deque<std::unique_ptr<Piece>> pieces;  // claimed; completed ones leave from the front
  uint64_t first_piece = 0;                   // number of pieces.front()
  size_t in_flight = 0;

  bool exhausted() const { return span == spans.size(); }
};

enum class Method { kMapped, kInline, kReader };

// A file that is open.
struct FileWork {
  size_t index = 0;
  const FileRequest* request = nullptr;
  FileDescriptor file;
  FileIdentity identity;
  Method method = Method::kInline;
  std::shared_ptr<MappedFile> mapping;

  std::deque<TreeInput> inputs;  // by begin
  TreeInput* file_tree = nullptr;
  std::vector<Bytes> digests;
  std::deque<Lane> lanes;

  std::atomic<bool> failed{false};
  std::atomic<bool> direct{false};
  // Guarded by the pass's lock:
  absl::Status failure;
  size_t lanes_left = 0;
  std::map<uint64_t, std::unique_ptr<Seam>> seams;  // by border
  std::vector<uint64_t> granule_bytes_left;
  std::vector<bool> granule_released;
};

// About how much of the file is read; overlapping ranges count more than once.
uint64_t NeededBytes(const FileRequest& request) {
  uint64_t bytes = request.only_subtrees.size() * kSubtreeBytes;
  for (const RangeDigestRequest& digest : request.digests) {
    bytes += std::min(digest.range.size_bytes, kMostBytes - bytes);
  }
  const bool all = request.tree && request.only_subtrees.empty();
  return all ? request.size_bytes : std::min(bytes, request.size_bytes);
}

// Fills `inputs` with every BLAKE3 digest asked for, equal ranges once.
void PlanInputs(FileWork& work) {
  const FileRequest& request = *work.request;
  struct Wanted {
    uint64_t begin, end;
    std::optional<size_t> result;
  };
  std::vector<Wanted> wanted;
  const bool tree = request.tree || !request.only_subtrees.empty();
  if (tree) wanted.push_back({0, request.size_bytes, std::nullopt});
  for (size_t i = 0; i < request.digests.size(); ++i) {
    const RangeDigestRequest& digest = request.digests[i];
    if (digest.algorithm != Algorithm::kBlake3) continue;
    wanted.push_back(
        {digest.range.offset_bytes, digest.range.offset_bytes + digest.range.size_bytes, i});
  }
  std::sort(wanted.begin(), wanted.end(), [](const Wanted& a, const Wanted& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  for (const Wanted& want : wanted) {
    if (work.inputs.empty() || work.inputs.back().begin != want.begin ||
        work.inputs.back().end != want.end) {
      TreeInput& input = work.inputs.emplace_back();
      input.begin = want.begin;
      input.end = want.end;
      input.want_root = true;
      input.pending = (input.size_bytes() + kSubtreeBytes - 1) / kSubtreeBytes;
    }
    TreeInput& input = work.inputs.back();
    if (want.result.has_value()) {
      input.results.push_back(*want.result);
    } else {
      input.is_file_tree = true;
      work.file_tree = &input;
      if (!request.only_subtrees.empty() && !input.is_own_root()) {
        input.want_root = false;
        input.pending = request.only_subtrees.size();
      }
    }
  }
}

// Cuts the spans where no serial digest crosses, into stretches of at least kLaneBytes.
void PlanLanes(FileWork& work) {
  const FileRequest& request = *work.request;
  const std::vector<Interval> spans = NeededSpans(request);
  std::vector<Chain> chains;
  for (size_t i = 0; i < request.digests.size(); ++i) {
    const RangeDigestRequest& digest = request.digests[i];
    if (digest.algorithm == Algorithm::kBlake3 || digest.range.size_bytes == 0) continue;
    chains.push_back({digest.range.offset_bytes,
                      digest.range.offset_bytes + digest.range.size_bytes, digest.algorithm, i});
  }
  std::sort(chains.begin(), chains.end(), [](const Chain& a, const Chain& b) {
    return std::tie(a.begin, a.end, a.result) < std::tie(b.begin, b.end, b.result);
  });

  std::vector<uint64_t> cuts = {0};
  uint64_t reached = 0;
  for (const Chain& chain : chains) {
    if (reached > 0 && reached <= chain.begin && chain.begin - cuts.back() >= kLaneBytes &&
        request.size_bytes - chain.begin >= kLaneBytes) {
      cuts.push_back(chain.begin);
    }
    reached = std::max(reached, chain.end);
  }
  cuts.push_back(request.size_bytes);

  size_t span = 0;
  size_t chain = 0;
  uint32_t input = 0;
  std::vector<uint32_t> carried;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    const uint64_t begin = cuts[i];
    const uint64_t end = cuts[i + 1];
    Lane lane;
    lane.file = &work;
    while (span < spans.size() && spans[span].begin < end) {
      const Interval part = {std::max(begin, spans[span].begin), std::min(end, spans[span].end)};
      lane.spans.push_back(part);
      lane.unclaimed_bytes += part.end - part.begin;
      if (spans[span].end > end) break;  // goes on in the next lane
      ++span;
    }
    for (; chain < chains.size() && chains[chain].begin < end; ++chain) {
      auto strand = std::find_if(lane.strands.begin(), lane.strands.end(), [&](const Strand& s) {
        return s.algorithm == chains[chain].algorithm && s.chains.back().end <= chains[chain].begin;
      });
      if (strand == lane.strands.end()) {
        strand = lane.strands.emplace(strand);
        strand->algorithm = chains[chain].algorithm;
      }
      strand->chains.push_back(chains[chain]);
    }
    lane.carried = carried;
    lane.next_input = input;
    for (; input < work.inputs.size() && work.inputs[input].begin < end; ++input) {
      if (work.inputs[input].size_bytes() > 0) carried.push_back(input);
    }
    std::erase_if(carried, [&](uint32_t number) { return work.inputs[number].end <= end; });
    if (lane.spans.empty()) continue;
    lane.position = lane.spans.front().begin;
    lane.prefetch_position = lane.position;
    work.lanes.push_back(std::move(lane));
  }
  work.lanes_left = work.lanes.size();
}

// Where the piece that starts at `begin` ends.
uint64_t CutPiece(uint64_t begin, uint64_t span_end, uint64_t piece_bytes, bool seams) {
  const uint64_t left = span_end - begin;
  if (left <= piece_bytes) return span_end;
  // Between buffers the rest must not be shorter than a subtree.
  const uint64_t most = seams ? std::min(piece_bytes, left - kSubtreeBytes) : piece_bytes;
  return AlignDown(begin + most, kSubtreeBytes);
}

class Pass {
 public:
  Pass(const std::vector<FileRequest>& files, const PassOptions& options);
  absl::StatusOr<std::vector<absl::StatusOr<FileResult>>> Run();

 private:
  // A strand and the piece that it is at.
  struct StrandStep {
    Piece* piece = nullptr;
    Strand* strand = nullptr;
  };
  struct Task {
    enum class Kind { kNone, kFinish, kOpen, kLoad, kPrefetch, kSerial, kSha256Pair, kTree };
    Kind kind = Kind::kNone;
    FileWork* file = nullptr;
    size_t file_index = 0;
    Piece* piece = nullptr;
    StrandStep step;         // kSerial, kSha256Pair
    StrandStep second_step;  // kSha256Pair
    // What to ask the disk for first, of which lane; the task counts as one of its pieces, so that
    // the file stays open.
    Lane* lane = nullptr;
    std::vector<Interval> prefetch = {};
  };
  struct Buffer {
    AlignedMemory memory;
    bool used = false;
    bool lost = false;  // the kernel may still write into it
  };
  // Granules of a mapping whose page tables may go.
  struct Released {
    std::shared_ptr<MappedFile> mapping;
    std::vector<size_t> granules;
  };

  // Under the lock:
  Task Pick();
  void Refill();
  Task PickOpen();
  Task PickSerial();
  StrandStep TakeStep(bool for_sha_instructions);
  static Piece* WaitingFor(const Lane& lane, const Strand& strand);
  Task PickClaim(bool only_starving_strands);
  Task PlanPrefetch(Lane& lane);
  void Publish(Piece& piece);
  Released Retire(Piece& piece);
  void Fail(FileWork& work, absl::Status failure);
  void Stop(absl::Status status);
  void Store(size_t index, absl::StatusOr<FileResult> result);
  AlignedMemory TakeSeamMemory();

  // Under the lock, or while the file belongs to one thread:
  void SizeSubtrees(TreeInput& input);
  Piece& Claim(Lane& lane);
  Seam* SeamAt(FileWork& work, uint64_t border, const std::vector<uint32_t>& crossing);

  // Without the lock:
  void Work() noexcept;
  void RunTask(const Task& task);
  void Open(size_t index);
  absl::StatusOr<std::unique_ptr<FileWork>> OpenFile(size_t index);
  absl::Status ChooseMethod(FileWork& work);
  absl::Status RunEmptyRanges(FileWork& work);
  void RunSmall(FileWork& work);
  void Load(Piece& piece);
  void Loaded(const BlockReadResult& result) noexcept;
  absl::Status RunTree(Piece& piece);
  void HashInput(Piece& piece, TreeInput& input);
  void DepositSeam(Piece& piece, Seam& seam);
  void HashSubtree(FileWork& work, TreeInput& input, uint64_t number, const uint8_t* data);
  bool UsesShaInstructions(Algorithm algorithm) const {
    return sha_instructions_ && algorithm == Algorithm::kSha256;
  }
  static Interval NextRange(const StrandStep& step);
  static ByteSpan BytesAt(const Piece& piece, const Interval& range);
  absl::Status Advance(const StrandStep& step, uint64_t position);
  absl::Status RunStrand(const StrandStep& step);
  void RunSha256Pair(const StrandStep& a, const StrandStep& b);
  void Finish(FileWork& work);
  absl::StatusOr<FileResult> ResultOf(FileWork& work);
  absl::Status FaultOf(const FileWork& work) const;
  void StepDone(const StrandStep& step, absl::Status status);
  void TaskDone(Piece& piece, absl::Status status, Strand* strand);
  void AdvanceProgress(uint64_t bytes);

  const std::vector<FileRequest>& files_;
  const PassOptions& options_;
  const bool sha_instructions_;  // SHA-256 by Sha256Stream, not by OpenSSL
  unsigned threads_;
  ReadMode mode_;
  size_t busy_lanes_;  // enough to give every thread work
  size_t open_limit_;
  size_t lane_limit_;
  size_t piece_limit_;
  const absl::Status out_of_memory_ = MachineFailure("memory", "exhausted while hashing files");

  std::mutex mutex_;
  std::condition_variable work_available_;
  size_t idle_ = 0;
  size_t threads_on_strands_ = 0;
  absl::Status pass_failure_;
  bool stopping_ = false;
  std::vector<absl::StatusOr<FileResult>> results_;
  size_t files_left_;
  std::vector<size_t> open_order_;
  size_t next_open_ = 0;
  size_t opening_ = 0;
  std::map<size_t, std::unique_ptr<FileWork>> open_files_;  // by index
  std::deque<Lane*> waiting_lanes_;
  std::vector<Lane*> active_lanes_;
  std::deque<Piece*> tree_tasks_;
  std::deque<FileWork*> finished_files_;
  size_t pieces_in_flight_ = 0;
  std::vector<Buffer> buffers_;
  std::vector<AlignedMemory> seam_memory_;

  std::string_view reader_name_;
  std::string_view reader_direct_name_;
  // Destroyed first: it delivers what is in flight, into buffers_.
  std::unique_ptr<BlockReader> reader_;
};

Pass::Pass(const std::vector<FileRequest>& files, const PassOptions& options)
    : files_(files),
      options_(options),
      sha_instructions_(!options.provider_digests_only && internal::Sha256PairAvailable()),
      mode_(options.mode),
      files_left_(files.size()) {
  uint64_t total_bytes = 0;
  uint64_t units = 0;  // that could occupy a thread each
  bool pairs = false;
  for (const FileRequest& file : files) {
    for (const RangeDigestRequest& digest : file.digests) {
      pairs = pairs || UsesShaInstructions(digest.algorithm);
    }
    const uint64_t bytes = NeededBytes(file);
    total_bytes += std::min(bytes, kMostBytes - total_bytes);
    units += 1 + bytes / kSubtreeBytes;
  }
  if (mode_ == ReadMode::kAuto && total_bytes > CacheableBytes()) mode_ = ReadMode::kDirect;

  threads_ = options.threads != 0 ? options.threads : UsableCpus();
  threads_ = static_cast<unsigned>(std::clamp<uint64_t>(units, 1, std::max(threads_, 1u)));

  const bool buffered = mode_ == ReadMode::kBuffered || mode_ == ReadMode::kDirect;
  const uint64_t most_buffers =
      std::clamp<uint64_t>(options.buffer_bytes / (kPieceBytes + 2 * kBlockBytes), 2, 4096);
  // Mapped pieces cost no memory of ours; their number keeps the fast digests near the slow ones,
  // so that both find the bytes in the cache.
  piece_limit_ = buffered ? most_buffers : std::max<uint64_t>(4 * threads_, 8);
  lane_limit_ = std::min<size_t>(2 * threads_, std::max<size_t>(piece_limit_ / 2, 1));
  busy_lanes_ = std::min<size_t>(pairs ? 2 * threads_ : threads_, lane_limit_);
  buffers_.resize(most_buffers);

  struct rlimit descriptors = {};
  uint64_t descriptor_limit = 1024;
  if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0) descriptor_limit = descriptors.rlim_cur;
  open_limit_ = static_cast<size_t>(std::max<uint64_t>(
      1, std::min<uint64_t>(std::clamp<uint64_t>(2 * threads_, 8, kMostOpenFiles),
                            descriptor_limit / 4)));

  results_.reserve(files.size());
  for (const FileRequest& file : files) {
    results_.emplace_back(MachineFailure(file.name, "was not hashed"));
  }
  // Large files first, so that no single one is left over at the end; small ones stay in their
  // order, which is the directory's.
  for (size_t i = 0; i < files.size(); ++i) open_order_.push_back(i);
  const auto rank = [&](size_t i) {
    return files_[i].size_bytes < kLaneBytes ? 0 : files_[i].size_bytes;
  };
  std::stable_sort(open_order_.begin(), open_order_.end(),
                   [&](size_t a, size_t b) { return rank(a) > rank(b); });
}

absl::StatusOr<std::vector<absl::StatusOr<FileResult>>> Pass::Run() {
  if (mode_ == ReadMode::kBuffered || mode_ == ReadMode::kDirect) {
    PAVISE_ASSIGN_OR_RETURN(
        reader_, internal::NewBlockReader(static_cast<unsigned>(piece_limit_),
                                          [this](const BlockReadResult& r) { Loaded(r); }));
    reader_name_ = reader_->name();
    reader_direct_name_ =
        reader_name_ == "io_uring" ? "io_uring, O_DIRECT" : "pread threads, O_DIRECT";
  }
  std::vector<std::thread> workers;
  try {
    workers.reserve(threads_);
    for (unsigned i = 1; i < threads_; ++i) workers.emplace_back([this] { Work(); });
  } catch (const std::exception& error) {
    std::lock_guard lock(mutex_);
    Stop(MachineFailure("worker threads", error.what()));
  }
  Work();
  for (std::thread& worker : workers) worker.join();
  reader_.reset();
  for (Buffer& buffer : buffers_) {
    if (buffer.lost) (void)buffer.memory.release();
  }
  PAVISE_RETURN_IF_ERROR(pass_failure_);
  return std::move(results_);
}

void Pass::Work() noexcept {
  try {
    std::unique_lock lock(mutex_);
    while (!stopping_ && files_left_ > 0) {
      const Task task = Pick();
      if (task.kind == Task::Kind::kNone) {
        ++idle_;
        work_available_.wait(lock);
        --idle_;
        continue;
      }
      // Whoever finds work wakes the next one to look for more: a task that ends makes any number
      // of others possible, but its thread only takes one.
      if (idle_ > 0) work_available_.notify_one();
      lock.unlock();
      RunTask(task);
      lock.lock();
      if (task.step.strand != nullptr) --threads_on_strands_;
    }
    work_available_.notify_all();
  } catch (const std::bad_alloc&) {
    std::lock_guard lock(mutex_);
    Stop(out_of_memory_);
  } catch (const std::exception& error) {
    std::lock_guard lock(mutex_);
    Stop(MachineFailure("file pass", error.what()));
  }
}

void Pass::Stop(absl::Status status) {
  if (pass_failure_.ok()) pass_failure_ = std::move(status);
  stopping_ = true;
  work_available_.notify_all();
}

void Pass::Fail(FileWork& work, absl::Status failure) {
  if (!ReasonOf(failure).has_value()) {
    Stop(std::move(failure));
    return;
  }
  if (work.failed) return;
  work.failure = std::move(failure);
  work.failed = true;
}

void Pass::Store(size_t index, absl::StatusOr<FileResult> result) {
  if (!result.ok() && !ReasonOf(result.status()).has_value()) {
    Stop(result.status());
    return;
  }
  results_[index] = std::move(result);
  if (--files_left_ == 0) work_available_.notify_all();
}

void Pass::AdvanceProgress(uint64_t bytes) {
  if (bytes > 0 && options_.progress != nullptr) options_.progress->Advance(bytes);
}

// ---- What to do next ----

Pass::Task Pass::Pick() {
  Refill();
  if (!finished_files_.empty()) {
    FileWork* work = finished_files_.front();
    finished_files_.pop_front();
    return {.kind = Task::Kind::kFinish, .file = work};
  }
  // Enough lanes for every thread first, then their work, then more lanes than that.
  size_t lanes = waiting_lanes_.size() + opening_;
  for (const Lane* lane : active_lanes_) lanes += lane->exhausted() ? 0 : 1;
  if (lanes < busy_lanes_) {
    if (Task task = PickOpen(); task.kind != Task::Kind::kNone) return task;
  }
  const bool reads_ahead = mode_ == ReadMode::kBuffered || mode_ == ReadMode::kDirect;
  if (reads_ahead) {
    if (Task task = PickClaim(false); task.kind != Task::Kind::kNone) return task;
  }
  // Before the strands are picked, so that there are two to pick from.
  if (Task task = PickClaim(true); task.kind != Task::Kind::kNone) return task;
  if (Task task = PickSerial(); task.kind != Task::Kind::kNone) return task;
  if (!tree_tasks_.empty()) {
    Piece* piece = tree_tasks_.front();
    tree_tasks_.pop_front();
    return {.kind = Task::Kind::kTree, .piece = piece};
  }
  if (Task task = PickClaim(false); task.kind != Task::Kind::kNone) return task;
  return PickOpen();
}

// Retires lanes that are done with and moves waiting ones up.
void Pass::Refill() {
  std::erase_if(active_lanes_, [&](Lane* lane) {
    FileWork& work = *lane->file;
    if (lane->in_flight > 0 || !(lane->exhausted() || work.failed)) return false;
    if (--work.lanes_left == 0) finished_files_.push_back(&work);
    return true;
  });
  while (active_lanes_.size() < lane_limit_ && !waiting_lanes_.empty()) {
    Lane* lane = waiting_lanes_.front();
    waiting_lanes_.pop_front();
    if (lane->file->failed) {
      if (--lane->file->lanes_left == 0) finished_files_.push_back(lane->file);
      continue;
    }
    active_lanes_.push_back(lane);
  }
}

Pass::Task Pass::PickOpen() {
  if (next_open_ == open_order_.size() || open_files_.size() + opening_ >= open_limit_) return {};
  ++opening_;
  return {.kind = Task::Kind::kOpen, .file_index = open_order_[next_open_++]};
}

Pass::Task Pass::PickSerial() {
  Task task = {.kind = Task::Kind::kSerial, .step = TakeStep(false)};
  if (task.step.strand == nullptr) return {};
  ++threads_on_strands_;
  if (!UsesShaInstructions(task.step.strand->algorithm)) return task;
  // Two strands are done sooner on two threads than on one: a second one is taken along only if
  // enough of them wait for all threads that have none.
  size_t waiting = 0;
  for (const Lane* lane : active_lanes_) {
    for (const Strand& strand : lane->strands) waiting += WaitingFor(*lane, strand) != nullptr;
  }
  if (waiting <= threads_ - threads_on_strands_) return task;
  task.second_step = TakeStep(true);
  if (task.second_step.strand != nullptr) task.kind = Task::Kind::kSha256Pair;
  return task;
}

// The loaded piece that the strand could go on with; nullptr if it is running or has none.
Piece* Pass::WaitingFor(const Lane& lane, const Strand& strand) {
  const uint64_t ahead = strand.next_piece - lane.first_piece;
  if (strand.running || ahead >= lane.pieces.size() || !lane.pieces[ahead]->loaded) return nullptr;
  return lane.pieces[ahead].get();
}

// A waiting strand of the lane with the most bytes left; from now on it is running.
Pass::StrandStep Pass::TakeStep(bool for_sha_instructions) {
  Lane* best_lane = nullptr;
  StrandStep best;
  for (Lane* lane : active_lanes_) {
    // Bytes left of a lane: not yet claimed, which is close enough.
    if (best_lane != nullptr && lane->unclaimed_bytes <= best_lane->unclaimed_bytes) continue;
    for (Strand& strand : lane->strands) {
      Piece* piece = WaitingFor(*lane, strand);
      if (piece == nullptr) continue;
      if (for_sha_instructions && !UsesShaInstructions(strand.algorithm)) continue;
      best_lane = lane;
      best = {.piece = piece, .strand = &strand};
      break;
    }
  }
  if (best.strand != nullptr) best.strand->running = true;
  return best;
}

// The next piece of the lane that has the fewest on their way, then of the longest.
Pass::Task Pass::PickClaim(bool only_starving_strands) {
  if (pieces_in_flight_ >= piece_limit_) return {};
  Lane* best = nullptr;
  for (Lane* lane : active_lanes_) {
    if (lane->exhausted() || lane->file->failed) continue;
    if (only_starving_strands && (lane->strands.empty() || lane->in_flight > 0)) continue;
    if (best == nullptr || lane->in_flight < best->in_flight ||
        (lane->in_flight == best->in_flight && lane->unclaimed_bytes > best->unclaimed_bytes)) {
      best = lane;
    }
  }
  if (best == nullptr) return {};
  int buffer = -1;
  if (best->file->method != Method::kMapped) {
    for (size_t i = 0; i < buffers_.size() && buffer < 0; ++i) {
      if (!buffers_[i].used) buffer = static_cast<int>(i);
    }
    if (buffer < 0) return {};
    if (buffers_[static_cast<size_t>(buffer)].memory == nullptr) {
      buffers_[static_cast<size_t>(buffer)].memory = AllocateAligned(kPieceBytes + 2 * kBlockBytes);
    }
    buffers_[static_cast<size_t>(buffer)].used = true;
  }
  Piece& piece = Claim(*best);
  piece.buffer = buffer;
  ++pieces_in_flight_;
  if (best->file->method != Method::kMapped) return {.kind = Task::Kind::kLoad, .piece = &piece};

  Task task = PlanPrefetch(*best);
  if (best->strands.empty()) {
    // No one else needs this piece: the thread that claims it hashes it.
    piece.loaded = true;
    task.kind = Task::Kind::kTree;
    task.piece = &piece;
  } else {
    Publish(piece);
    task.kind = Task::Kind::kPrefetch;
    ++best->in_flight;
  }
  return task;
}

// What of a mapped lane the disk should be asked for now.
Pass::Task Pass::PlanPrefetch(Lane& lane) {
  Task task;
  task.lane = &lane;
  while (lane.prefetch_span < lane.spans.size() && lane.prefetch_lead_bytes < kPrefetchBytes) {
    const uint64_t begin = lane.prefetch_position;
    const uint64_t span_end = lane.spans[lane.prefetch_span].end;
    const uint64_t end = std::min(span_end, AlignUp(begin + 1, kPieceBytes));
    task.prefetch.push_back({begin, end});
    lane.prefetch_lead_bytes += static_cast<int64_t>(end - begin);
    lane.prefetch_position = end;
    if (end == span_end && ++lane.prefetch_span < lane.spans.size()) {
      lane.prefetch_position = lane.spans[lane.prefetch_span].begin;
    }
  }
  return task;
}

void Pass::Publish(Piece& piece) {
  piece.loaded = true;
  if (piece.has_tree_task) tree_tasks_.push_back(&piece);
}

// ---- Cutting pieces ----

void Pass::SizeSubtrees(TreeInput& input) {
  if (input.subtrees_sized || input.is_own_root()) return;
  input.subtrees.resize((input.size_bytes() + kSubtreeBytes - 1) / kSubtreeBytes);
  input.subtrees_sized = true;
}

Piece& Pass::Claim(Lane& lane) {
  FileWork& work = *lane.file;
  const bool mapped = work.method == Method::kMapped;
  auto owned = std::make_unique<Piece>();
  Piece& piece = *owned;
  piece.lane = &lane;
  piece.begin = lane.position;
  piece.end =
      CutPiece(lane.position, lane.spans[lane.span].end,
               mapped && lane.strands.empty() ? kMappedTreePieceBytes : kPieceBytes, !mapped);

  // The lane in which an input begins may come later than this one.
  if (lane.first_piece + lane.pieces.size() == 0) {
    for (const uint32_t number : lane.carried) SizeSubtrees(work.inputs[number]);
  }
  piece.carried = lane.carried;
  if (!mapped) piece.left_seam = SeamAt(work, piece.begin, lane.carried);
  piece.first_new = lane.next_input;
  while (lane.next_input < work.inputs.size() && work.inputs[lane.next_input].begin < piece.end) {
    TreeInput& input = work.inputs[lane.next_input];
    SizeSubtrees(input);
    if (input.end > piece.end) lane.carried.push_back(lane.next_input);
    ++lane.next_input;
  }
  piece.end_new = lane.next_input;
  std::erase_if(lane.carried,
                [&](uint32_t number) { return work.inputs[number].end <= piece.end; });
  if (!mapped) piece.right_seam = SeamAt(work, piece.end, lane.carried);

  piece.has_tree_task =
      lane.strands.empty() || !piece.carried.empty() || piece.first_new != piece.end_new;
  piece.tasks_left = lane.strands.size() + (piece.has_tree_task ? 1 : 0);
  if (mapped) {
    piece.data = work.mapping->bytes().data() + piece.begin;
    piece.data_end = work.mapping->bytes().size();
  }

  lane.unclaimed_bytes -= piece.end - piece.begin;
  lane.prefetch_lead_bytes -= static_cast<int64_t>(piece.end - piece.begin);
  lane.position = piece.end;
  if (piece.end == lane.spans[lane.span].end && ++lane.span < lane.spans.size()) {
    lane.position = lane.spans[lane.span].begin;
  }
  ++lane.in_flight;
  lane.pieces.push_back(std::move(owned));
  return piece;
}

// The seam at `border` for those of the inputs `crossing` it that have a subtree on both sides;
// nullptr when there is none. The pieces left and right of it find the same one.
Seam* Pass::SeamAt(FileWork& work, uint64_t border, const std::vector<uint32_t>& crossing) {
  if (const auto found = work.seams.find(border); found != work.seams.end()) {
    return found->second.get();
  }
  std::unique_ptr<Seam> seam;
  for (const uint32_t number : crossing) {
    TreeInput& input = work.inputs[number];
    const uint64_t inside = border - input.begin;
    if (inside % kSubtreeBytes == 0) continue;
    const uint64_t begin = border - inside % kSubtreeBytes;
    const uint64_t end = std::min(begin + kSubtreeBytes, input.end);
    if (seam == nullptr) {
      seam = std::make_unique<Seam>();
      seam->border = border;
      seam->begin = begin;
      seam->end = end;
      seam->bytes = TakeSeamMemory();
    }
    seam->begin = std::min(seam->begin, begin);
    seam->end = std::max(seam->end, end);
    seam->crossing.emplace_back(&input, inside / kSubtreeBytes);
  }
  if (seam == nullptr) return nullptr;
  return work.seams.emplace(border, std::move(seam)).first->second.get();
}

AlignedMemory Pass::TakeSeamMemory() {
  if (seam_memory_.empty()) return AllocateAligned(2 * kSubtreeBytes);
  AlignedMemory memory = std::move(seam_memory_.back());
  seam_memory_.pop_back();
  return memory;
}

// ---- Running tasks ----

void Pass::RunTask(const Task& task) {
  for (const Interval& ahead : task.prefetch) {
    task.lane->file->mapping->Prefetch(ahead.begin, ahead.end - ahead.begin);
  }
  switch (task.kind) {
    case Task::Kind::kNone:
      return;
    case Task::Kind::kPrefetch: {
      std::lock_guard lock(mutex_);
      --task.lane->in_flight;
      return;
    }
    case Task::Kind::kFinish:
      Finish(*task.file);
      return;
    case Task::Kind::kOpen:
      Open(task.file_index);
      return;
    case Task::Kind::kLoad:
      Load(*task.piece);
      return;
    case Task::Kind::kSerial:
      StepDone(task.step, RunStrand(task.step));
      return;
    case Task::Kind::kSha256Pair:
      RunSha256Pair(task.step, task.second_step);
      return;
    case Task::Kind::kTree:
      TaskDone(*task.piece, RunTree(*task.piece), nullptr);
      return;
  }
}

// A strand that is not at the end of its piece goes on there when it is picked again.
void Pass::StepDone(const StrandStep& step, absl::Status status) {
  const FileWork& work = *step.piece->lane->file;
  if (status.ok() && work.mapping != nullptr && work.mapping->faulted()) status = FaultOf(work);
  if (status.ok() && !work.failed && !NextRange(step).empty()) {
    std::lock_guard lock(mutex_);
    step.strand->running = false;
    return;
  }
  TaskDone(*step.piece, std::move(status), step.strand);
}

void Pass::TaskDone(Piece& piece, absl::Status status, Strand* strand) {
  {
    std::lock_guard lock(mutex_);
    if (!status.ok()) Fail(*piece.lane->file, std::move(status));
    if (strand != nullptr) {
      strand->running = false;
      ++strand->next_piece;
    } else {
      // The tree task is what fills the seams.
      for (Seam* seam : {piece.left_seam, piece.right_seam}) {
        if (seam == nullptr || --seam->users_left > 0) continue;
        seam_memory_.push_back(std::move(seam->bytes));
        piece.lane->file->seams.erase(seam->border);
      }
    }
    if (--piece.tasks_left > 0) return;
  }
  // Before the piece is retired: all of a file was reported when its result is made.
  AdvanceProgress(piece.end - piece.begin);
  Released released;
  {
    std::lock_guard lock(mutex_);
    released = Retire(piece);
  }
  for (const size_t granule : released.granules) {
    released.mapping->Release(granule * kGranuleBytes, kGranuleBytes);
  }
}

// All tasks of the piece are over.
Pass::Released Pass::Retire(Piece& piece) {
  Released released;
  Lane& lane = *piece.lane;
  FileWork& work = *lane.file;
  piece.retired = true;
  if (piece.buffer >= 0) buffers_[static_cast<size_t>(piece.buffer)].used = false;
  --pieces_in_flight_;
  --lane.in_flight;
  if (!work.granule_bytes_left.empty()) {
    const size_t first = piece.begin / kGranuleBytes;
    const size_t last = (piece.end - 1) / kGranuleBytes;
    for (size_t granule = first; granule <= last; ++granule) {
      const uint64_t begin = std::max(piece.begin, granule * kGranuleBytes);
      const uint64_t end = std::min(piece.end, (granule + 1) * kGranuleBytes);
      work.granule_bytes_left[granule] -= end - begin;
    }
    // A subtree that starts at the end of a granule reads on into the next one.
    const size_t count = work.granule_bytes_left.size();
    for (size_t granule = first; granule <= std::min(last + 1, count - 1); ++granule) {
      if (work.granule_released[granule] || work.granule_bytes_left[granule] > 0 ||
          (granule > 0 && work.granule_bytes_left[granule - 1] > 0)) {
        continue;
      }
      work.granule_released[granule] = true;
      released.granules.push_back(granule);
      released.mapping = work.mapping;
    }
  }
  while (!lane.pieces.empty() && lane.pieces.front()->retired) {
    lane.pieces.pop_front();
    ++lane.first_piece;
  }
  return released;
}

void Pass::Load(Piece& piece) {
  FileWork& work = *piece.lane->file;
  uint8_t* memory = buffers_[static_cast<size_t>(piece.buffer)].memory.get();
  if (work.method == Method::kInline) {
    piece.data = memory;
    piece.data_end = piece.end;
    absl::Status status =
        ReadExactly(work.file, piece.begin, {memory, static_cast<size_t>(piece.end - piece.begin)},
                    work.request->name);
    std::lock_guard lock(mutex_);
    if (!status.ok()) Fail(work, std::move(status));
    Publish(piece);
    return;
  }
  piece.direct = work.direct;
  const uint64_t begin = piece.direct ? AlignDown(piece.begin, kBlockBytes) : piece.begin;
  const uint64_t end = piece.direct ? AlignUp(piece.end, kBlockBytes) : piece.end;
  piece.data = memory + (piece.begin - begin);
  piece.data_end = piece.end;
  reader_->Submit({.fd = work.file.get(),
                   .offset_bytes = begin,
                   .data = memory,
                   .size_bytes = static_cast<uint32_t>(end - begin),
                   .alignment_bytes = piece.direct ? static_cast<uint32_t>(kBlockBytes) : 1,
                   .context = &piece});
}

// On a thread of the reader.
void Pass::Loaded(const BlockReadResult& result) noexcept {
  Piece& piece = *static_cast<Piece*>(result.context);
  FileWork& work = *piece.lane->file;
  Buffer& buffer = buffers_[static_cast<size_t>(piece.buffer)];
  try {
    if (result.error_number == EINVAL && piece.direct) {
      // The file system took the flag but not our alignment.
      const int flags = fcntl(work.file.get(), F_GETFL);
      if (flags >= 0 && fcntl(work.file.get(), F_SETFL, flags & ~O_DIRECT) == 0) {
        work.direct = false;
        Load(piece);
        return;
      }
    }
    const uint64_t needed_bytes =
        static_cast<uint64_t>(piece.data - buffer.memory.get()) + piece.end - piece.begin;
    absl::Status status;
    if (result.error_number != 0) {
      status = FromErrno(result.error_number, "read", work.request->name);
    } else if (result.size_bytes < needed_bytes) {
      status = Unstable(work.request->name, "ends before the length it had");
    }
    std::lock_guard lock(mutex_);
    buffer.lost = result.buffer_lost;
    if (result.buffer_lost) Stop(MachineFailure(reader_name_, "broke down"));
    if (!status.ok()) Fail(work, std::move(status));
    Publish(piece);
    work_available_.notify_one();
  } catch (const std::exception&) {
    std::lock_guard lock(mutex_);
    Stop(out_of_memory_);
  }
}

absl::Status Pass::RunTree(Piece& piece) {
  FileWork& work = *piece.lane->file;
  if (work.failed) return absl::OkStatus();
  for (const uint32_t number : piece.carried) HashInput(piece, work.inputs[number]);
  for (uint32_t number = piece.first_new; number < piece.end_new; ++number) {
    HashInput(piece, work.inputs[number]);
  }
  if (piece.left_seam != nullptr) DepositSeam(piece, *piece.left_seam);
  if (piece.right_seam != nullptr) DepositSeam(piece, *piece.right_seam);
  return work.mapping != nullptr && work.mapping->faulted() ? FaultOf(work) : absl::OkStatus();
}

// Hashes the subtrees of `input` that start in the piece and lie in its readable bytes.
void Pass::HashInput(Piece& piece, TreeInput& input) {
  FileWork& work = *piece.lane->file;
  const uint64_t from = std::max(piece.begin, input.begin);
  const uint64_t until = std::min(piece.end, input.end);
  for (uint64_t number = (from - input.begin + kSubtreeBytes - 1) / kSubtreeBytes;; ++number) {
    const uint64_t begin = input.begin + number * kSubtreeBytes;
    if (begin >= until || std::min(begin + kSubtreeBytes, input.end) > piece.data_end) return;
    // After a fault the rest is zeros.
    if (work.mapping != nullptr && work.mapping->faulted()) return;
    HashSubtree(work, input, number, piece.data + (begin - piece.begin));
  }
}

void Pass::DepositSeam(Piece& piece, Seam& seam) {
  const bool is_left_side = seam.border == piece.end;
  const uint64_t begin = is_left_side ? seam.begin : seam.border;
  const uint64_t end = is_left_side ? seam.border : seam.end;
  // Cannot be, as pieces are cut; if it were, the digest stays pending and the file fails.
  if (begin < piece.begin || end > piece.end) return;
  std::memcpy(seam.bytes.get() + (begin - seam.begin), piece.data + (begin - piece.begin),
              end - begin);
  if (seam.missing_sides.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  for (const auto& [input, number] : seam.crossing) {
    const uint64_t subtree_begin = input->begin + number * kSubtreeBytes;
    HashSubtree(*piece.lane->file, *input, number, seam.bytes.get() + (subtree_begin - seam.begin));
  }
}

void Pass::HashSubtree(FileWork& work, TreeInput& input, uint64_t number, const uint8_t* data) {
  const uint64_t begin = number * kSubtreeBytes;
  const ByteSpan bytes = {data, std::min<uint64_t>(kSubtreeBytes, input.size_bytes() - begin)};
  if (input.is_own_root()) {
    input.root = Blake3(bytes);
  } else {
    input.subtrees[number] = Blake3Subtree(bytes, begin / kBlake3ChunkBytes);
  }
  if (input.pending.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  if (!input.is_own_root()) {
    if (input.want_root) input.root = Blake3RootFromSubtrees(input.subtrees);
    if (!input.is_file_tree) std::vector<ChainingValue>().swap(input.subtrees);
  }
  for (const size_t result : input.results) {
    work.digests[result].assign(input.root.begin(), input.root.end());
  }
}

// What the strand hashes next: of its next chain, what the piece still holds. Empty when the strand
// is done with the piece.
Interval Pass::NextRange(const StrandStep& step) {
  const Strand& strand = *step.strand;
  if (strand.next_chain == strand.chains.size()) return {};
  const Chain& chain = strand.chains[strand.next_chain];
  return {std::max({step.piece->begin, chain.begin, strand.position}),
          std::min(step.piece->end, chain.end)};
}

// The bytes of a range of the piece, about to be read.
ByteSpan Pass::BytesAt(const Piece& piece, const Interval& range) {
  const FileWork& work = *piece.lane->file;
  const uint64_t size_bytes = range.end - range.begin;
  if (work.mapping != nullptr) work.mapping->Populate(range.begin, size_bytes);
  return {piece.data + (range.begin - piece.begin), size_bytes};
}

// The strand has hashed everything before `position`.
absl::Status Pass::Advance(const StrandStep& step, uint64_t position) {
  Strand& strand = *step.strand;
  strand.position = position;
  const Chain& chain = strand.chains[strand.next_chain];
  if (position < chain.end) return absl::OkStatus();
  Bytes& digest = step.piece->lane->file->digests[chain.result];
  if (UsesShaInstructions(strand.algorithm)) {
    digest = FinishSha256(strand.sha256);
  } else {
    PAVISE_ASSIGN_OR_RETURN(digest, strand.digester->Finish());
  }
  ++strand.next_chain;
  return absl::OkStatus();
}

absl::Status Pass::RunStrand(const StrandStep& step) {
  if (step.piece->lane->file->failed) return absl::OkStatus();
  Strand& strand = *step.strand;
  for (Interval next = NextRange(step); !next.empty(); next = NextRange(step)) {
    const ByteSpan bytes = BytesAt(*step.piece, next);
    if (UsesShaInstructions(strand.algorithm)) {
      strand.sha256.Update(bytes);
    } else {
      if (!strand.digester.has_value()) {
        PAVISE_ASSIGN_OR_RETURN(strand.digester,
                                crypto::Digester::Create(SerialAlgorithm(strand.algorithm)));
      }
      PAVISE_RETURN_IF_ERROR(strand.digester->Update(bytes));
    }
    PAVISE_RETURN_IF_ERROR(Advance(step, next.end));
  }
  return absl::OkStatus();
}

// Both strands side by side until one is done with its piece or its file has failed. The other is
// left where it is then, and may find another partner.
void Pass::RunSha256Pair(const StrandStep& a, const StrandStep& b) {
  absl::Status status_a;
  absl::Status status_b;
  while (status_a.ok() && status_b.ok() && !a.piece->lane->file->failed &&
         !b.piece->lane->file->failed) {
    Interval next_a = NextRange(a);
    Interval next_b = NextRange(b);
    if (next_a.empty() || next_b.empty()) break;
    const uint64_t size_bytes = std::min(next_a.end - next_a.begin, next_b.end - next_b.begin);
    next_a.end = next_a.begin + size_bytes;
    next_b.end = next_b.begin + size_bytes;
    internal::UpdatePair(a.strand->sha256, BytesAt(*a.piece, next_a), b.strand->sha256,
                         BytesAt(*b.piece, next_b));
    status_a = Advance(a, next_a.end);
    status_b = Advance(b, next_b.end);
  }
  StepDone(a, std::move(status_a));
  StepDone(b, std::move(status_b));
}

// ---- Opening and finishing files ----

void Pass::Open(size_t index) {
  auto work = OpenFile(index);
  if (!work.ok()) {
    std::lock_guard lock(mutex_);
    --opening_;
    Store(index, work.status());
    return;
  }
  if ((*work)->method != Method::kReader && (*work)->identity.size_bytes <= kSubtreeBytes) {
    RunSmall(**work);
    return;
  }
  std::lock_guard lock(mutex_);
  --opening_;
  FileWork* opened = open_files_.emplace(index, *std::move(work)).first->second.get();
  if (opened->lanes.empty()) finished_files_.push_back(opened);
  for (Lane& lane : opened->lanes) waiting_lanes_.push_back(&lane);
}

absl::StatusOr<std::unique_ptr<FileWork>> Pass::OpenFile(size_t index) {
  auto work = std::make_unique<FileWork>();
  const FileRequest& request = files_[index];
  work->index = index;
  work->request = &request;
  PAVISE_ASSIGN_OR_RETURN(OpenedFile opened, OpenRequest(request));
  work->file = std::move(opened.file);
  work->identity = opened.identity;
  PAVISE_RETURN_IF_ERROR(ChooseMethod(*work));
  work->digests.resize(request.digests.size());
  PlanInputs(*work);
  PlanLanes(*work);
  PAVISE_RETURN_IF_ERROR(RunEmptyRanges(*work));
  if (work->mapping != nullptr && request.size_bytes > 4 * kGranuleBytes) {
    work->granule_bytes_left.resize((request.size_bytes + kGranuleBytes - 1) / kGranuleBytes);
    work->granule_released.resize(work->granule_bytes_left.size());
    for (const Lane& lane : work->lanes) {
      for (const Interval& span : lane.spans) {
        for (uint64_t begin = span.begin; begin < span.end;) {
          const uint64_t end = std::min(span.end, AlignDown(begin, kGranuleBytes) + kGranuleBytes);
          work->granule_bytes_left[begin / kGranuleBytes] += end - begin;
          begin = end;
        }
      }
    }
  }
  return work;
}

absl::Status Pass::ChooseMethod(FileWork& work) {
  const uint64_t size_bytes = work.identity.size_bytes;
  if (size_bytes == 0) return absl::OkStatus();
  switch (mode_) {
    case ReadMode::kAuto: {
      if (size_bytes <= kSubtreeBytes) return absl::OkStatus();
      auto mapping = MappedFile::Map(work.file, size_bytes, work.request->name);
      // Not every file system maps; plain reads see the same bytes.
      if (!mapping.ok()) return absl::OkStatus();
      work.mapping = *std::move(mapping);
      work.method = Method::kMapped;
      return absl::OkStatus();
    }
    case ReadMode::kMapped: {
      PAVISE_ASSIGN_OR_RETURN(work.mapping,
                              MappedFile::Map(work.file, size_bytes, work.request->name));
      work.method = Method::kMapped;
      return absl::OkStatus();
    }
    case ReadMode::kDirect: {
      const int flags = fcntl(work.file.get(), F_GETFL);
      work.direct = flags >= 0 && fcntl(work.file.get(), F_SETFL, flags | O_DIRECT) == 0;
      break;
    }
    case ReadMode::kBuffered:
      break;
  }
  work.method = Method::kReader;
  return absl::OkStatus();
}

absl::Status Pass::RunEmptyRanges(FileWork& work) {
  for (TreeInput& input : work.inputs) {
    if (input.size_bytes() > 0) continue;
    input.root = Blake3({});
    for (const size_t result : input.results) {
      work.digests[result].assign(input.root.begin(), input.root.end());
    }
  }
  for (size_t i = 0; i < work.request->digests.size(); ++i) {
    const RangeDigestRequest& digest = work.request->digests[i];
    if (digest.algorithm == Algorithm::kBlake3 || digest.range.size_bytes > 0) continue;
    if (UsesShaInstructions(digest.algorithm)) {
      Sha256Stream empty;
      work.digests[i] = FinishSha256(empty);
      continue;
    }
    PAVISE_ASSIGN_OR_RETURN(work.digests[i], crypto::Digest(SerialAlgorithm(digest.algorithm), {}));
  }
  return absl::OkStatus();
}

// A file of one piece or few, from beginning to end on this thread.
void Pass::RunSmall(FileWork& work) {
  AlignedMemory memory;
  uint64_t done_bytes = 0;
  absl::Status status;
  for (Lane& lane : work.lanes) {
    while (status.ok() && !lane.exhausted()) {
      Piece& piece = Claim(lane);
      const uint64_t size_bytes = piece.end - piece.begin;
      if (work.method == Method::kInline) {
        if (memory == nullptr) memory = AllocateAligned(work.identity.size_bytes);
        piece.data = memory.get();
        piece.data_end = piece.end;
        status = ReadExactly(work.file, piece.begin,
                             {memory.get(), static_cast<size_t>(size_bytes)}, work.request->name);
      }
      if (status.ok() && piece.has_tree_task) status = RunTree(piece);
      for (Strand& strand : lane.strands) {
        if (status.ok()) status = RunStrand({.piece = &piece, .strand = &strand});
      }
      lane.pieces.pop_front();
      ++lane.first_piece;
      done_bytes += size_bytes;
    }
  }
  absl::StatusOr<FileResult> result = status.ok() ? ResultOf(work) : status;
  AdvanceProgress(done_bytes);
  std::lock_guard lock(mutex_);
  --opening_;
  Store(work.index, std::move(result));
}

void Pass::Finish(FileWork& work) {
  absl::StatusOr<FileResult> result = ResultOf(work);
  std::unique_ptr<FileWork> closed;  // after the lock: unmapping a large file takes a while
  std::lock_guard lock(mutex_);
  Store(work.index, std::move(result));
  const auto found = open_files_.find(work.index);
  closed = std::move(found->second);
  open_files_.erase(found);
}

// Why a page could not be read.
absl::Status Pass::FaultOf(const FileWork& work) const {
  PAVISE_ASSIGN_OR_RETURN(const FileIdentity now, IdentityOf(work.file, work.request->name));
  if (now != work.identity) return Unstable(work.request->name, "changed while it was read");
  return MachineFailure(work.request->name, "a page cannot be read from its disk");
}

absl::StatusOr<FileResult> Pass::ResultOf(FileWork& work) {
  const std::string& name = work.request->name;
  if (work.failed) return work.failure;
  if (work.mapping != nullptr && work.mapping->faulted()) return FaultOf(work);
  PAVISE_RETURN_IF_ERROR(CheckUnchanged(work.file, work.identity, name, work.direct));

  // A digest that was not computed must never look like one.
  for (const TreeInput& input : work.inputs) {
    if (input.pending > 0) return MachineFailure(name, "the pass left a tree unfinished");
  }
  for (size_t i = 0; i < work.digests.size(); ++i) {
    if (work.digests[i].size() != DigestSizeBytes(work.request->digests[i].algorithm)) {
      return MachineFailure(name, "the pass left a digest unfinished");
    }
  }
  FileResult result;
  result.identity = work.identity;
  if (work.file_tree != nullptr) {
    result.root = work.file_tree->root;
    result.subtrees = std::move(work.file_tree->subtrees);
  }
  result.digests = std::move(work.digests);
  for (const RangeDigestRequest& digest : work.request->digests) {
    if (digest.algorithm != Algorithm::kSha256) continue;
    result.sha256_by = sha_instructions_ ? "SHA instructions" : "OpenSSL";
  }
  switch (work.method) {
    case Method::kMapped:
      result.read_by = "mmap";
      break;
    case Method::kInline:
      result.read_by = "read";
      break;
    case Method::kReader:
      result.read_by = work.direct ? reader_direct_name_ : reader_name_;
      break;
  }
  return result;
}

}  // namespace

absl::StatusOr<std::vector<absl::StatusOr<FileResult>>> RunFilePass(
    const std::vector<FileRequest>& files, const PassOptions& options) {
  for (const FileRequest& file : files) PAVISE_RETURN_IF_ERROR(internal::ValidateRequest(file));
  try {
    Pass pass(files, options);
    return pass.Run();
  } catch (const std::exception& error) {
    return MachineFailure("file pass", error.what());
  }
}

}  // namespace pavise::hash
