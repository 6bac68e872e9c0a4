#include "pavise/loading/guard.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <set>
#include <span>
#include <thread>
#include <utility>

#include "pavise/base/secret_bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/hash/blake3.h"
#include "pavise/hash/tag.h"
#include "pavise/hash/tag_chain.h"

namespace pavise::loading {
namespace {

using hash::Blake3Reference;
using hash::RangeTag;
using hash::TagChain;
using hash::TagKey;

constexpr uint64_t kMiB = uint64_t{1} << 20;
static_assert(hash::kTagRangeBytes == kMiB && hash::kSubtreeBytes == kMiB);
// A finding's words name this many tensors and count the rest.
constexpr size_t kMostNamed = 8;
constexpr size_t kMostRangesPerSlice = 4096;
// Beyond it the end of the rest leaves the clock's range.
constexpr absl::Duration kLongestRest = absl::Hours(24 * 365);
constexpr std::string_view kRemedy =
    "stop using the model and load it again; look for what writes to this memory";

class SystemGuardClock final : public GuardClock {
 public:
  absl::Duration Now() const override {
    return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  }
};

// [begin, end) of a file.
struct Stretch {
  uint64_t begin = 0;
  uint64_t end = 0;
};

std::string DescribeStretch(const Stretch& stretch) {
  const uint64_t first = stretch.begin / kMiB;
  const uint64_t last = (stretch.end - 1) / kMiB;
  return StrCat(
      "bytes ", stretch.begin, " to ", stretch.end - 1,
      first == last ? StrCat(" (MiB ", first, ")") : StrCat(" (MiB ", first, " to ", last, ")"));
}

void StopTheProcess(const GuardFinding& finding) {
  std::fprintf(stderr, "pavise guard: %s\npavise guard: the process is stopped\n",
               Printable(finding.status.ToString()).c_str());
  std::fflush(stderr);
  std::abort();
}

// What is checked under one key or of one file: the ranges 0 to `ranges` of it.
struct Object {
  const hash::LoadedFile* file = nullptr;
  const hash::LoadedSpan* span = nullptr;       // kTag
  TagChain* chain = nullptr;                    // kTag
  std::span<const Blake3Reference> references;  // kBlake3
  size_t first = 0;                             // its first range among those of all objects
  size_t ranges = 0;

  Stretch StretchOf(size_t range) const {
    if (chain != nullptr) {
      const uint64_t begin = range * kMiB;
      return {span->file_begin_bytes + begin,
              span->file_begin_bytes + std::min(begin + kMiB, span->size_bytes)};
    }
    const Blake3Reference& reference = references[range];
    return {reference.file_begin_bytes, reference.file_begin_bytes + reference.size_bytes};
  }
};

}  // namespace

std::string_view GuardHashName(GuardHash hash) {
  return hash == GuardHash::kTag ? "tag" : "blake3";
}

hash::References ReferencesFor(GuardHash hash) {
  return hash == GuardHash::kTag ? hash::References::kTags : hash::References::kBlake3;
}

const GuardClock& SteadyGuardClock() {
  static const SystemGuardClock clock;
  return clock;
}

class Guard::Work {
 public:
  Work(const LoadedModel& model, hash::Device& device, GuardOptions options)
      : model_(model), device_(device), options_(std::move(options)) {
    if (!options_.on_mismatch) options_.on_mismatch = StopTheProcess;
  }
  ~Work() {
    {
      const std::lock_guard lock(stop_mutex_);
      stopping_ = true;
    }
    stop_.notify_all();
    if (thread_.joinable()) thread_.join();
    for (TagChain* chain : acquired_) chain->Release();
  }

  absl::Status Prepare();
  absl::Status StartThread();
  absl::Duration Step();
  GuardReport Report() const;

 private:
  // A number of ranges of one object that are read at a time.
  struct Slice {
    size_t object = 0;
    size_t first = 0;  // of the object
    size_t count = 0;
  };

  bool tags() const { return options_.hash == GuardHash::kTag; }
  absl::Status AddObjects(const hash::LoadedFile& file);
  absl::Status BeginPass();
  // matches[i]: range slice.first + i is what it was. A failure is the device's; `matches` then
  // ends with the last range that was compared before it.
  absl::Status Check(const Slice& slice, std::vector<bool>& matches);
  absl::Status CheckTags(const Slice& slice, std::vector<bool>& matches);
  absl::Status CheckBlake3(const Slice& slice, std::vector<bool>& matches);
  absl::Status CheckSamples(const Slice& slice, const std::vector<bool>& matches);
  absl::StatusOr<Bytes> CopyOut(const Object& object, const Stretch& stretch);
  absl::Status Disagreement(const Object& object, const Stretch& stretch) const;
  GuardFinding ChangedFinding(const Object& object, const Stretch& stretch) const;
  GuardFinding CannotVouch(const Slice& slice, absl::Status status) const;
  void Tell(GuardFinding finding);

  const LoadedModel& model_;
  hash::Device& device_;
  GuardOptions options_;
  std::vector<TagChain*> acquired_;
  std::vector<Object> objects_;
  std::unique_ptr<hash::Stream> stream_;

  // Held for a whole slice: what follows is the slice's.
  std::mutex step_mutex_;
  size_t object_ = 0;  // where the next slice begins
  size_t range_ = 0;
  std::optional<TagKey> old_key_;  // of objects_[object_], from its first slice to its last
  std::optional<TagKey> next_key_;
  std::vector<RangeTag> next_tags_;
  std::vector<RangeTag> slice_tags_;  // of the slice, under the next key, then under the old
  std::vector<hash::ChainingValue> slice_values_;
  std::set<size_t> sampled_;  // of this pass, among all ranges
  // Already told of and not seen sound since.
  std::vector<bool> told_;

  // Held briefly: what Report reads.
  mutable std::mutex report_mutex_;
  GuardReport report_;
  absl::Duration started_;
  absl::Duration busy_;
  size_t checked_in_pass_ = 0;
  // When the last slice with the range began; at first, the start.
  std::vector<absl::Duration> checked_at_;
  bool stopped_ = false;  // for good: it cannot vouch

  std::mutex stop_mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread thread_;
};

absl::Status Guard::Work::AddObjects(const hash::LoadedFile& file) {
  if (file.spans.empty()) return absl::OkStatus();
  if (&file.buffer->device() != &device_) {
    return UsageError("guard: the model lies in the memory of another device");
  }
  const absl::Status nothing_kept =
      UsageError(StrCat("guard: the load kept nothing to check ", file.name,
                        " by: set LoadOptions::pass.references to ReferencesFor(hash)"));
  if (tags()) {
    if (file.tags.size() != file.spans.size()) return nothing_kept;
    for (size_t i = 0; i < file.spans.size(); ++i) {
      TagChain* const chain = file.tags[i].get();
      // First: the rest of a chain belongs to who has it.
      if (!chain->Acquire()) return UsageError("guard: another guard is at work on this load");
      acquired_.push_back(chain);
      if (!chain->has_tags()) return nothing_kept;
      objects_.push_back({.file = &file,
                          .span = &file.spans[i],
                          .chain = chain,
                          .ranges = static_cast<size_t>(chain->ranges())});
    }
    return absl::OkStatus();
  }
  if (file.blake3.empty()) return nothing_kept;
  objects_.push_back({.file = &file, .references = file.blake3, .ranges = file.blake3.size()});
  return absl::OkStatus();
}

absl::Status Guard::Work::Prepare() {
  const double share = options_.share_of_time;
  // Written so that NaN is refused too.
  if (!(share >= GuardOptions::kLeastShare && share <= 1)) {
    return UsageError(StrCat("guard: share_of_time is ", GuardOptions::kLeastShare, " to 1"));
  }
  if (options_.ranges_per_slice == 0 || options_.ranges_per_slice > kMostRangesPerSlice) {
    return UsageError(StrCat("guard: ranges_per_slice is 1 to ", kMostRangesPerSlice));
  }
  if (tags() && !device_.supports_tags()) {
    return Refuse(Reason::kUnsupported, device_.name(), "this device computes no tags",
                  "use --guard-hash blake3, or name another device");
  }
  if (!tags() && !device_.supports(hash::Algorithm::kBlake3)) {
    return Refuse(Reason::kUnsupported, device_.name(), "this device does not compute blake3",
                  "use --guard-hash tag, or name another device");
  }
  for (const hash::LoadedFile& file : model_.files) PAVISE_RETURN_IF_ERROR(AddObjects(file));
  report_.hash = options_.hash;
  for (Object& object : objects_) {
    object.first = report_.ranges;
    report_.ranges += object.ranges;
    for (size_t i = 0; i < object.ranges; ++i) {
      const Stretch stretch = object.StretchOf(i);
      report_.bytes += stretch.end - stretch.begin;
    }
  }
  PAVISE_ASSIGN_OR_RETURN(stream_, device_.NewBackgroundStream());
  started_ = options_.clock->Now();
  checked_at_.assign(report_.ranges, started_);
  told_.assign(report_.ranges, false);
  return absl::OkStatus();
}

absl::Status Guard::Work::StartThread() {
  try {
    thread_ = std::thread([this] {
      while (true) {
        const absl::Duration rest = Step();
        std::unique_lock lock(stop_mutex_);
        const auto stops = [this] { return stopping_; };
        if (rest == absl::InfiniteDuration()) {
          stop_.wait(lock, stops);
        } else {
          stop_.wait_for(lock, absl::ToChronoNanoseconds(std::min(rest, kLongestRest)), stops);
        }
        if (stopping_) return;
      }
    });
  } catch (const std::exception& error) {
    return MachineFailure("guard", error.what());
  }
  return absl::OkStatus();
}

absl::Status Guard::Work::BeginPass() {
  sampled_.clear();
  const size_t wanted = std::min<size_t>(options_.sampled_ranges, report_.ranges);
  while (sampled_.size() < wanted) {
    uint64_t number = 0;
    std::array<uint8_t, sizeof(number)> bytes;
    PAVISE_RETURN_IF_ERROR(options_.random->Fill(bytes));
    std::memcpy(&number, bytes.data(), sizeof(number));
    // The bias of the remainder is below 2^-30 for any model.
    size_t index = number % report_.ranges;
    while (sampled_.contains(index)) index = (index + 1) % report_.ranges;
    sampled_.insert(index);
  }
  return absl::OkStatus();
}

absl::Status Guard::Work::CheckTags(const Slice& slice, std::vector<bool>& matches) {
  const Object& object = objects_[slice.object];
  TagChain& chain = *object.chain;
  if (slice.first == 0) {
    old_key_ = chain.CommittedKey();
    next_key_ = chain.IssueKey();
    next_tags_.assign(object.ranges, RangeTag{});
  }
  const uint64_t begin = slice.first * kMiB;
  const hash::Range range = {
      object.span->buffer_offset_bytes + begin,
      std::min<uint64_t>(slice.count * kMiB, object.span->size_bytes - begin)};
  slice_tags_.assign(2 * slice.count, RangeTag{});
  // The next key's tags first: a byte that changes between the two readings then differs from what
  // was committed under the old key, and is found now. The other way round the change would be
  // committed as it is, and never be found.
  const TagKey* const keys[] = {&*next_key_, &*old_key_};
  absl::Status status =
      device_.Tag(keys, *object.file->buffer, range, slice.first, *stream_, slice_tags_);
  status.Update(stream_->Wait());
  PAVISE_RETURN_IF_ERROR(status);
  for (size_t i = 0; i < slice.count; ++i) {
    const RangeTag& next_tag = slice_tags_[i];
    const RangeTag& old_tag = slice_tags_[slice.count + i];
    // Under two keys: equal once in 2^256, or of a device that writes nothing.
    if (ConstantTimeEquals(old_tag, next_tag))
      return Disagreement(object, object.StretchOf(slice.first + i));
    matches.push_back(chain.Matches(slice.first + i, old_tag));
    if (!matches.back()) chain.Condemn(slice.first + i);
    next_tags_[slice.first + i] = next_tag;
  }
  return absl::OkStatus();
}

absl::Status Guard::Work::CheckBlake3(const Slice& slice, std::vector<bool>& matches) {
  const Object& object = objects_[slice.object];
  std::vector<hash::SubtreeRange> subtrees;
  std::vector<hash::Range> roots;
  for (size_t i = 0; i < slice.count; ++i) {
    const Blake3Reference& reference = object.references[slice.first + i];
    const std::optional<hash::Range> range = object.file->Find(
        reference.file_begin_bytes, reference.file_begin_bytes + reference.size_bytes);
    if (!range.has_value()) return MachineFailure(object.file->name, "a range is not loaded");
    if (reference.is_root) {
      roots.push_back(*range);
    } else {
      subtrees.push_back({*range, reference.first_chunk});
    }
  }
  std::vector<hash::ChainingValue> values(subtrees.size());
  Bytes digests(roots.size() * sizeof(Digest32));
  absl::Status status;
  if (!subtrees.empty()) {
    status = device_.Blake3Subtrees(*object.file->buffer, subtrees, *stream_, values);
  }
  if (status.ok() && !roots.empty()) {
    status =
        device_.Digest(hash::Algorithm::kBlake3, *object.file->buffer, roots, *stream_, digests);
  }
  status.Update(stream_->Wait());
  PAVISE_RETURN_IF_ERROR(status);
  slice_values_.resize(slice.count);
  size_t subtree = 0;
  size_t root = 0;
  for (size_t i = 0; i < slice.count; ++i) {
    const Blake3Reference& reference = object.references[slice.first + i];
    if (reference.is_root) {
      const ByteSpan digest =
          ByteSpan(digests).subspan(root++ * sizeof(Digest32), sizeof(Digest32));
      std::copy(digest.begin(), digest.end(), slice_values_[i].begin());
    } else {
      slice_values_[i] = values[subtree++];
    }
    matches.push_back(slice_values_[i] == reference.value);
  }
  return absl::OkStatus();
}

absl::StatusOr<Bytes> Guard::Work::CopyOut(const Object& object, const Stretch& stretch) {
  const std::optional<hash::Range> range = object.file->Find(stretch.begin, stretch.end);
  if (!range.has_value()) return MachineFailure(object.file->name, "a range is not loaded");
  Bytes bytes(stretch.end - stretch.begin);
  absl::Status status = device_.CopyOut(*object.file->buffer, *range, *stream_, bytes);
  status.Update(stream_->Wait());
  PAVISE_RETURN_IF_ERROR(status);
  return bytes;
}

absl::Status Guard::Work::Disagreement(const Object& object, const Stretch& stretch) const {
  return MachineFailure(
      device_.name(),
      StrCat("gives another ", tags() ? "tag" : "digest", " than the CPU: of ", object.file->name,
             ", ", DescribeStretch(stretch),
             "; either these bytes changed meanwhile, or the device computes wrongly: do not trust "
             "what it holds"));
}

// Ranges that do not match are findings already.
absl::Status Guard::Work::CheckSamples(const Slice& slice, const std::vector<bool>& matches) {
  const Object& object = objects_[slice.object];
  for (auto sample = sampled_.lower_bound(object.first + slice.first);
       sample != sampled_.end() && *sample < object.first + slice.first + slice.count; ++sample) {
    const size_t range = *sample - object.first;
    const size_t i = range - slice.first;
    if (!matches[i]) continue;
    const Stretch stretch = object.StretchOf(range);
    PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, CopyOut(object, stretch));
    bool agrees = true;
    if (tags()) {
      PAVISE_ASSIGN_OR_RETURN(const auto old_tags, hash::TagRanges(*old_key_, bytes, range));
      PAVISE_ASSIGN_OR_RETURN(const auto next_tags, hash::TagRanges(*next_key_, bytes, range));
      agrees = ConstantTimeEquals(next_tags.front(), slice_tags_[i]) &&
               ConstantTimeEquals(old_tags.front(), slice_tags_[slice.count + i]);
    } else {
      const Blake3Reference& reference = object.references[range];
      agrees = slice_values_[i] == (reference.is_root
                                        ? hash::Blake3(bytes)
                                        : hash::Blake3Subtree(bytes, reference.first_chunk));
    }
    if (!agrees) return Disagreement(object, stretch);
    const std::lock_guard lock(report_mutex_);
    ++report_.samples;
  }
  return absl::OkStatus();
}

absl::Status Guard::Work::Check(const Slice& slice, std::vector<bool>& matches) {
  if (slice.object == 0 && slice.first == 0) PAVISE_RETURN_IF_ERROR(BeginPass());
  PAVISE_RETURN_IF_ERROR(tags() ? CheckTags(slice, matches) : CheckBlake3(slice, matches));
  PAVISE_RETURN_IF_ERROR(CheckSamples(slice, matches));
  if (tags() && slice.first + slice.count == objects_[slice.object].ranges) {
    PAVISE_RETURN_IF_ERROR(objects_[slice.object].chain->Commit(std::move(next_tags_)));
    next_tags_.clear();
    old_key_.reset();
    next_key_.reset();
  }
  return absl::OkStatus();
}

GuardFinding Guard::Work::ChangedFinding(const Object& object, const Stretch& stretch) const {
  GuardFinding finding;
  finding.kind = GuardFinding::Kind::kChanged;
  finding.file = object.file->name;
  finding.begin_bytes = stretch.begin;
  finding.end_bytes = stretch.end;
  for (const LoadedTensor& tensor : model_.tensors) {
    if (tensor.buffer == object.file->buffer.get() && tensor.view.begin_bytes < stretch.end &&
        stretch.begin < tensor.view.end_bytes) {
      finding.tensors.push_back(tensor.entry.name);
    }
  }
  std::string detail = StrCat(DescribeStretch(stretch), " changed in the memory of ",
                              device_.name(), " since they were verified");
  for (size_t i = 0; i < std::min(finding.tensors.size(), kMostNamed); ++i) {
    StrAppend(&detail,
              i > 0                         ? ", "
              : finding.tensors.size() == 1 ? "; tensor "
                                            : "; tensors ",
              finding.tensors[i]);
  }
  if (finding.tensors.size() > kMostNamed) {
    StrAppend(&detail, " and ", finding.tensors.size() - kMostNamed, " more");
  }
  if (finding.tensors.empty()) StrAppend(&detail, "; no loaded tensor lies there");
  finding.status = Refuse(Reason::kContentMismatch, finding.file, detail, kRemedy);
  return finding;
}

GuardFinding Guard::Work::CannotVouch(const Slice& slice, absl::Status status) const {
  const Object& object = objects_[slice.object];
  GuardFinding finding;
  finding.kind = GuardFinding::Kind::kCannotVouch;
  finding.file = object.file->name;
  finding.begin_bytes = object.StretchOf(slice.first).begin;
  finding.end_bytes = object.StretchOf(slice.first + slice.count - 1).end;
  finding.status = std::move(status);
  return finding;
}

void Guard::Work::Tell(GuardFinding finding) {
  {
    const std::lock_guard lock(report_mutex_);
    report_.vouches = false;
    report_.last_finding = finding;
  }
  options_.on_mismatch(finding);
}

absl::Duration Guard::Work::Step() {
  const std::lock_guard step_lock(step_mutex_);
  if (objects_.empty() || stopped_) return absl::InfiniteDuration();
  const Object& object = objects_[object_];
  const Slice slice = {object_, range_,
                       std::min(options_.ranges_per_slice, object.ranges - range_)};
  std::vector<bool> matches;
  const absl::Duration begin = options_.clock->Now();
  absl::Status status;
  try {
    status = Check(slice, matches);
  } catch (const std::exception& error) {
    status = MachineFailure("guard", error.what());
  }
  const absl::Duration end = options_.clock->Now();

  std::vector<GuardFinding> findings;
  {
    const std::lock_guard lock(report_mutex_);
    busy_ += end - begin;
    std::optional<Stretch> changed;
    const auto end_stretch = [&] {
      if (changed.has_value()) findings.push_back(ChangedFinding(object, *changed));
      changed.reset();
    };
    // What was found before a failure is told before it.
    for (size_t i = 0; i < matches.size(); ++i) {
      const size_t number = object.first + slice.first + i;
      if (status.ok()) {
        report_.longest_unchecked = std::max(report_.longest_unchecked, end - checked_at_[number]);
        checked_at_[number] = begin;
      }
      if (matches[i]) {
        end_stretch();
        told_[number] = false;
        continue;
      }
      if (told_[number]) {
        end_stretch();
        continue;
      }
      told_[number] = true;
      ++report_.ranges_changed;
      const Stretch stretch = object.StretchOf(slice.first + i);
      if (changed.has_value() && changed->end == stretch.begin) {
        changed->end = stretch.end;
      } else {
        end_stretch();
        changed = stretch;
      }
    }
    end_stretch();
    if (status.ok()) {
      report_.ranges_checked += slice.count;
      checked_in_pass_ += slice.count;
      range_ += slice.count;
      if (range_ == object.ranges) {
        range_ = 0;
        if (++object_ == objects_.size()) {
          object_ = 0;
          checked_in_pass_ = 0;
          ++report_.passes_completed;
        }
      }
    } else {
      stopped_ = true;
    }
  }
  if (!status.ok()) {
    old_key_.reset();
    next_key_.reset();
    findings.push_back(CannotVouch(slice, std::move(status)));
  }
  for (GuardFinding& finding : findings) Tell(std::move(finding));
  if (stopped_) return absl::InfiniteDuration();
  return (end - begin) * ((1 - options_.share_of_time) / options_.share_of_time);
}

GuardReport Guard::Work::Report() const {
  const std::lock_guard lock(report_mutex_);
  GuardReport report = report_;
  const absl::Duration now = options_.clock->Now();
  report.running = now - started_;
  if (report.ranges == 0) {
    report.coverage = 1;
    return report;
  }
  report.coverage = static_cast<double>(checked_in_pass_) / static_cast<double>(report.ranges);
  // Ranges are read in turn: the next one was read the longest ago.
  report.now_unchecked = now - checked_at_[objects_[object_].first + range_];
  if (report.running > absl::ZeroDuration()) {
    report.share_of_time = absl::FDivDuration(busy_, report.running);
  }
  return report;
}

Guard::Guard(std::unique_ptr<Work> work) : work_(std::move(work)) {}
Guard::~Guard() = default;

absl::StatusOr<std::unique_ptr<Guard>> Guard::Start(const VerifiedLoad& load, hash::Device& device,
                                                    GuardOptions options) {
  try {
    const bool own_thread = options.own_thread;
    auto work = std::make_unique<Work>(*load, device, std::move(options));
    PAVISE_RETURN_IF_ERROR(work->Prepare());
    if (own_thread) PAVISE_RETURN_IF_ERROR(work->StartThread());
    return std::unique_ptr<Guard>(new Guard(std::move(work)));
  } catch (const std::exception& error) {
    return MachineFailure("guard", error.what());
  }
}

GuardReport Guard::Report() const { return work_->Report(); }

absl::Duration Guard::Step() { return work_->Step(); }

}  // namespace pavise::loading
