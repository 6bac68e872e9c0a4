#include "pavise/hash/device_pass.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/hash/blake3.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/hash/internal/file_request.h"

namespace pavise::hash {
namespace {

constexpr unsigned kMostReaders = 8;

// The spans of the file cut into pieces, with their places in one buffer. Spans under a tree begin
// at a subtree, so their pieces hold whole subtrees.
std::vector<LoadedSpan> PlaceSpans(const FileRequest& request) {
  std::vector<LoadedSpan> placed;
  uint64_t offset = 0;
  for (const internal::Interval& span : internal::NeededSpans(request, /*gap_bytes=*/0)) {
    placed.push_back({span.begin, span.end - span.begin, offset});
    offset += span.end - span.begin;
    offset = (offset + kLoadedSpanAlignment - 1) / kLoadedSpanAlignment * kLoadedSpanAlignment;
  }
  return placed;
}

Bytes DigestOnCpu(Algorithm algorithm, ByteSpan bytes) {
  const auto serial = [&]() -> std::optional<crypto::DigestAlgorithm> {
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
  }();
  if (!serial.has_value()) {
    const Digest32 digest = Blake3(bytes);
    return Bytes(digest.begin(), digest.end());
  }
  return crypto::Digest(*serial, bytes).value_or(Bytes());
}

uint64_t SubtreesIn(uint64_t size_bytes) {
  return (size_bytes + kSubtreeBytes - 1) / kSubtreeBytes;
}

bool HasSubtreeValues(const FileRequest& request) {
  return (request.tree || !request.only_subtrees.empty()) && request.size_bytes > kSubtreeBytes;
}

}  // namespace

std::optional<Range> LoadedFile::Find(uint64_t begin_bytes, uint64_t end_bytes) const {
  if (buffer == nullptr || begin_bytes > end_bytes) return std::nullopt;
  for (const LoadedSpan& span : spans) {
    if (begin_bytes < span.file_begin_bytes ||
        end_bytes > span.file_begin_bytes + span.size_bytes) {
      continue;
    }
    return Range{span.buffer_offset_bytes + (begin_bytes - span.file_begin_bytes),
                 end_bytes - begin_bytes};
  }
  // An empty stretch needs no bytes.
  if (begin_bytes == end_bytes && end_bytes <= size_bytes) return Range{0, 0};
  return std::nullopt;
}

void LoadedFile::Clear() {
  buffer = nullptr;
  tags.clear();
  blake3.clear();
}

struct DevicePass::Reader {
  std::unique_ptr<Staging> staging;
  std::unique_ptr<Stream> stream;  // goes first: it waits for what still uses the staging
};

namespace {

// The first tags of a span, which several readers make under one key.
struct SpanTags {
  std::mutex mutex;
  std::shared_ptr<const TagKey> key;  // from the span's first piece to its last
  uint64_t pieces_left = 0;
  std::vector<RangeTag> tags;
};

}  // namespace

struct DevicePass::Piece {
  LoadedSpan stretch;
  size_t span = 0;           // it is part of
  uint64_t first_range = 0;  // of the span: pieces are whole ranges, but for the span's last
};

struct DevicePass::FileWork {
  const FileRequest* request = nullptr;
  FileDescriptor file;
  std::unique_ptr<DirectFile> direct;  // goes before `file`; nullptr: through staging
  LoadedFile* loaded = nullptr;
  FileResult result;
  std::vector<std::unique_ptr<SpanTags>> tags;  // one a span, with References::kTags
};

DevicePass::DevicePass(Device& device, const DevicePassOptions& options)
    : device_(device), options_(options) {}

DevicePass::~DevicePass() = default;

std::string DevicePass::description() const { return device_.description(); }

std::vector<LoadedFile> DevicePass::TakeLoadedFiles() { return std::exchange(loaded_, {}); }

absl::Status DevicePass::Prepare() {
  if (!readers_.empty()) return absl::OkStatus();
  if (options_.direct_reads != DirectReads::kOff) {
    absl::StatusOr<std::unique_ptr<DirectReader>> reader = device_.NewDirectReader();
    const bool is_absent = ReasonOf(reader.status()) == Reason::kUnsupported;
    const bool must = options_.direct_reads == DirectReads::kOn;
    if (!reader.ok() && (must || !is_absent)) return reader.status();
    if (reader.ok() && (must || (*reader)->bypasses_host())) direct_reader_ = *std::move(reader);
  }
  const unsigned count =
      options_.readers > 0 ? options_.readers : std::min(UsableCpus() + 1, kMostReaders);
  for (unsigned i = 0; i < count; ++i) {
    auto reader = std::make_unique<Reader>();
    PAVISE_ASSIGN_OR_RETURN(reader->stream, device_.NewStream());
    readers_.push_back(std::move(reader));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<absl::StatusOr<FileResult>>> DevicePass::Run(
    const std::vector<FileRequest>& files, Progress* progress) {
  loaded_.clear();
  for (const FileRequest& file : files) {
    PAVISE_RETURN_IF_ERROR(internal::ValidateRequest(file));
    for (const RangeDigestRequest& digest : file.digests) {
      if (device_.supports(digest.algorithm)) continue;
      return Refuse(Reason::kUnsupported, device_.name(),
                    StrCat("this device does not compute ", AlgorithmName(digest.algorithm)),
                    "use --device cpu");
    }
  }
  if (options_.references == References::kTags && !device_.supports_tags()) {
    return Refuse(Reason::kUnsupported, device_.name(), "this device computes no tags",
                  "use --guard-hash blake3, or name another device");
  }
  if (options_.references == References::kBlake3 && !device_.supports(Algorithm::kBlake3)) {
    return Refuse(Reason::kUnsupported, device_.name(), "this device does not compute blake3",
                  "use --guard-hash tag, or name another device");
  }
  // Lengths may be the attacker's: known to fit before anything is allocated.
  uint64_t needed_bytes = 0;
  for (const FileRequest& file : files) {
    for (const LoadedSpan& span : PlaceSpans(file)) {
      needed_bytes += std::min(span.size_bytes, internal::kMostBytes - needed_bytes);
    }
  }
  if (needed_bytes > device_.memory_bytes()) {
    return Refuse(Reason::kUnsupported, device_.name(),
                  StrCat("has ", HumanBytes(device_.memory_bytes()), " for models, and this takes ",
                         HumanBytes(needed_bytes)),
                  "load fewer tensors, or name another device");
  }
  const auto run = [&]() -> absl::StatusOr<std::vector<absl::StatusOr<FileResult>>> {
    PAVISE_RETURN_IF_ERROR(Prepare());
    bool refused = false;
    std::vector<absl::StatusOr<FileResult>> results;
    loaded_.resize(files.size());
    for (size_t i = 0; i < files.size(); ++i) {
      loaded_[i].name = files[i].name;
      loaded_[i].size_bytes = files[i].size_bytes;
      absl::StatusOr<FileResult> result = RunFile(files[i], progress, loaded_[i]);
      // What is no finding about this file is the end of the run.
      if (!result.ok() && !ReasonOf(result.status()).has_value()) return result.status();
      refused = refused || !result.ok();
      results.push_back(std::move(result));
      // Nothing will be handed out any more; the other files are read for their findings only.
      for (size_t j = 0; refused && j <= i; ++j) loaded_[j].Clear();
    }
    if (refused) return results;
    PAVISE_RETURN_IF_ERROR(Sample(files, results));
    if (options_.references != References::kBlake3) {
      for (LoadedFile& loaded : loaded_) loaded.blake3.clear();
    }
    return results;
  };
  try {
    auto results = run();
    if (!results.ok()) loaded_.clear();
    return results;
  } catch (const std::exception& error) {
    loaded_.clear();
    return MachineFailure(device_.name(), error.what());
  }
}

absl::StatusOr<FileResult> DevicePass::RunFile(const FileRequest& request, Progress* progress,
                                               LoadedFile& loaded) {
  FileWork work;
  work.request = &request;
  work.loaded = &loaded;
  PAVISE_ASSIGN_OR_RETURN(internal::OpenedFile opened, internal::OpenRequest(request));
  work.file = std::move(opened.file);
  work.result.identity = opened.identity;
  loaded.spans = PlaceSpans(request);
  const uint64_t buffer_bytes = loaded.spans.empty() ? 0
                                                     : loaded.spans.back().buffer_offset_bytes +
                                                           loaded.spans.back().size_bytes;
  PAVISE_ASSIGN_OR_RETURN(loaded.buffer, device_.Allocate(std::max<uint64_t>(buffer_bytes, 1)));
  if (direct_reader_ != nullptr && !loaded.spans.empty()) {
    absl::StatusOr<std::unique_ptr<DirectFile>> direct = direct_reader_->Open(work.file);
    const bool is_absent = ReasonOf(direct.status()) == Reason::kUnsupported;
    if (!direct.ok() && (options_.direct_reads == DirectReads::kOn || !is_absent)) {
      return direct.status();
    }
    if (direct.ok()) work.direct = *std::move(direct);
  }
  if (HasSubtreeValues(request)) work.result.subtrees.resize(SubtreesIn(request.size_bytes));
  if (options_.references == References::kTags) {
    for (const LoadedSpan& span : loaded.spans) {
      PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<TagChain> chain,
                              TagChain::Create(span.size_bytes, *options_.random));
      auto tags = std::make_unique<SpanTags>();
      tags->tags.resize(chain->ranges());
      tags->pieces_left = (span.size_bytes + kPieceBytes - 1) / kPieceBytes;
      loaded.tags.push_back(std::move(chain));
      work.tags.push_back(std::move(tags));
    }
  }

  PAVISE_RETURN_IF_ERROR(LoadPieces(work, progress));
  for (size_t i = 0; i < work.tags.size(); ++i) {
    PAVISE_RETURN_IF_ERROR(loaded.tags[i]->Commit(std::move(work.tags[i]->tags)));
  }
  PAVISE_RETURN_IF_ERROR(HashLoaded(work));
  PAVISE_RETURN_IF_ERROR(
      internal::CheckUnchanged(work.file, work.result.identity, request.name, /*direct=*/false));
  work.result.read_by = work.direct != nullptr                ? direct_reader_->name()
                        : loaded.buffer->host_bytes().empty() ? "read, copied"
                                                              : "read";
  loaded.read_by = work.result.read_by;
  return std::move(work.result);
}

absl::Status DevicePass::LoadPieces(FileWork& work, Progress* progress) {
  static_assert(kPieceBytes % kTagRangeBytes == 0);
  std::vector<Piece> pieces;
  for (size_t i = 0; i < work.loaded->spans.size(); ++i) {
    const LoadedSpan& span = work.loaded->spans[i];
    for (uint64_t done = 0; done < span.size_bytes; done += kPieceBytes) {
      pieces.push_back(
          {{span.file_begin_bytes + done, std::min(kPieceBytes, span.size_bytes - done),
            span.buffer_offset_bytes + done},
           i,
           done / kTagRangeBytes});
    }
  }
  const bool needs_staging = work.direct == nullptr && work.loaded->buffer->host_bytes().empty();
  std::atomic<size_t> next{0};
  std::mutex mutex;
  absl::Status failure;
  const auto read_pieces = [&](Reader& reader) {
    for (size_t piece = next++; piece < pieces.size(); piece = next++) {
      absl::Status status;
      try {
        if (needs_staging && reader.staging == nullptr) {
          absl::StatusOr<std::unique_ptr<Staging>> staging = device_.AllocateStaging(kPieceBytes);
          status = staging.status();
          if (staging.ok()) reader.staging = *std::move(staging);
        }
        if (status.ok()) status = LoadPiece(work, pieces[piece], reader);
        if (status.ok() && progress != nullptr) {
          progress->Advance(pieces[piece].stretch.size_bytes);
        }
      } catch (const std::exception& error) {
        status = MachineFailure(device_.name(), error.what());
      }
      if (!status.ok()) {
        next = pieces.size();
        const std::lock_guard lock(mutex);
        if (failure.ok()) failure = std::move(status);
        return;
      }
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(readers_.size(), pieces.size()); ++i) {
    try {
      threads.emplace_back(read_pieces, std::ref(*readers_[i]));
    } catch (const std::exception&) {
      break;  // fewer readers do the same work
    }
  }
  read_pieces(*readers_[0]);
  for (std::thread& thread : threads) thread.join();
  return failure;
}

// As ReadExactly, to the piece's place in device memory.
absl::Status DevicePass::ReadDirectly(FileWork& work, const LoadedSpan& piece) {
  uint64_t done = 0;
  while (done < piece.size_bytes) {
    const uint64_t left = piece.size_bytes - done;
    PAVISE_ASSIGN_OR_RETURN(const uint64_t got,
                            work.direct->Read(piece.file_begin_bytes + done, *work.loaded->buffer,
                                              {piece.buffer_offset_bytes + done, left}));
    if (got > left) {
      return MachineFailure(device_.name(), StrCat(direct_reader_->name(), " says that it read ",
                                                   got, " bytes, of ", left));
    }
    if (got == 0) {
      return internal::Unstable(
          work.request->name,
          StrCat("ends at byte ", piece.file_begin_bytes + done, ", before the length it had"));
    }
    done += got;
  }
  return absl::OkStatus();
}

absl::Status DevicePass::LoadPiece(FileWork& work, const Piece& cut, Reader& reader) {
  const LoadedSpan& piece = cut.stretch;
  Buffer& buffer = *work.loaded->buffer;
  std::span<uint8_t> target = buffer.host_bytes();
  if (work.direct != nullptr) {
    PAVISE_RETURN_IF_ERROR(ReadDirectly(work, piece));
  } else {
    target = target.empty() ? reader.staging->bytes().first(piece.size_bytes)
                            : target.subspan(piece.buffer_offset_bytes, piece.size_bytes);
    PAVISE_RETURN_IF_ERROR(
        ReadExactly(work.file, piece.file_begin_bytes, target, work.request->name));
  }
  // From here on queued work reads the staging and `buffer` and writes what is named below: nothing
  // of it may outlive this call, however it ends.
  std::shared_ptr<const TagKey> key;
  std::vector<SubtreeRange> ranges;
  struct WaitAtTheEnd {
    Stream& stream;
    ~WaitAtTheEnd() { stream.Wait().IgnoreError(); }
  } const wait_at_the_end{*reader.stream};
  absl::Status status;
  if (work.direct == nullptr && buffer.host_bytes().empty()) {
    status = device_.CopyIn(target, buffer, piece.buffer_offset_bytes, *reader.stream);
  }
  // Tags before digests; References has the reason.
  if (status.ok() && !work.tags.empty()) {
    SpanTags& tags = *work.tags[cut.span];
    {
      const std::lock_guard lock(tags.mutex);
      if (tags.key == nullptr) {
        tags.key = std::make_shared<const TagKey>(work.loaded->tags[cut.span]->IssueKey());
      }
      key = tags.key;
    }
    const TagKey* const keys[] = {key.get()};
    status =
        device_.Tag(keys, buffer, {piece.buffer_offset_bytes, piece.size_bytes}, cut.first_range,
                    *reader.stream,
                    std::span(tags.tags).subspan(cut.first_range, TagRangeCount(piece.size_bytes)));
  }
  if (status.ok() && HasSubtreeValues(*work.request)) {
    for (uint64_t done = 0; done < piece.size_bytes; done += kSubtreeBytes) {
      ranges.push_back({{piece.buffer_offset_bytes + done,
                         std::min<uint64_t>(kSubtreeBytes, piece.size_bytes - done)},
                        (piece.file_begin_bytes + done) / kBlake3ChunkBytes});
    }
    const uint64_t first = piece.file_begin_bytes / kSubtreeBytes;
    const auto out = std::span(work.result.subtrees).subspan(first, ranges.size());
    status = device_.Blake3Subtrees(buffer, ranges, *reader.stream, out);
  }
  status.Update(reader.stream->Wait());
  if (key != nullptr && status.ok()) {
    // After a failed piece the key stays: no second one is ever issued here for the span.
    SpanTags& tags = *work.tags[cut.span];
    const std::lock_guard lock(tags.mutex);
    if (--tags.pieces_left == 0) tags.key = nullptr;
  }
  return status;
}

// BLAKE3 of every stretch of a request without a tree that has digests, ahead of them: what the
// guard compares with, and what Sample takes its samples from.
absl::Status DevicePass::RecordBlake3(FileWork& work) {
  LoadedFile& loaded = *work.loaded;
  std::vector<SubtreeRange> subtrees;
  std::vector<size_t> subtree_places;
  std::vector<Range> roots;
  std::vector<size_t> root_places;
  for (const RangeDigestRequest& digest : work.request->digests) {
    const uint64_t begin = digest.range.offset_bytes;
    const uint64_t size_bytes = digest.range.size_bytes;
    const std::optional<Range> range = loaded.Find(begin, begin + size_bytes);
    if (!range.has_value()) {
      return MachineFailure(loaded.name, "the pass did not load what it is to hash");
    }
    for (uint64_t done = 0; done < size_bytes; done += kSubtreeBytes) {
      const Range part = {range->offset_bytes + done,
                          std::min<uint64_t>(kSubtreeBytes, size_bytes - done)};
      const bool is_root = size_bytes <= kSubtreeBytes;
      const uint64_t first_chunk = done / kBlake3ChunkBytes;
      if (is_root) {
        roots.push_back(part);
        root_places.push_back(loaded.blake3.size());
      } else {
        subtrees.push_back({part, first_chunk});
        subtree_places.push_back(loaded.blake3.size());
      }
      loaded.blake3.push_back({begin + done, part.size_bytes, is_root, first_chunk, {}});
    }
  }
  Stream& stream = *readers_[0]->stream;
  std::vector<ChainingValue> values(subtrees.size());
  Bytes digests(roots.size() * sizeof(Digest32));
  absl::Status status;
  if (!subtrees.empty()) {
    status = device_.Blake3Subtrees(*loaded.buffer, subtrees, stream, values);
  }
  if (status.ok() && !roots.empty()) {
    status = device_.Digest(Algorithm::kBlake3, *loaded.buffer, roots, stream, digests);
  }
  status.Update(stream.Wait());
  PAVISE_RETURN_IF_ERROR(status);
  for (size_t i = 0; i < values.size(); ++i) loaded.blake3[subtree_places[i]].value = values[i];
  for (size_t i = 0; i < roots.size(); ++i) {
    const ByteSpan digest = ByteSpan(digests).subspan(i * sizeof(Digest32), sizeof(Digest32));
    std::copy(digest.begin(), digest.end(), loaded.blake3[root_places[i]].value.begin());
  }
  return absl::OkStatus();
}

// The digests that need more than one piece.
absl::Status DevicePass::HashLoaded(FileWork& work) {
  const FileRequest& request = *work.request;
  LoadedFile& loaded = *work.loaded;
  Stream& stream = *readers_[0]->stream;
  const bool keeps_blake3 = options_.references == References::kBlake3;
  const bool has_tree = request.tree || !request.only_subtrees.empty();
  const bool records_blake3 = !has_tree && device_.supports(Algorithm::kBlake3) &&
                              (keeps_blake3 || options_.sampled_answers > 0);
  if (HasSubtreeValues(request)) {
    if (request.only_subtrees.empty()) {
      work.result.root = Blake3RootFromSubtrees(work.result.subtrees);
    }
    for (const LoadedSpan& span : loaded.spans) {
      if (!keeps_blake3) break;
      for (uint64_t done = 0; done < span.size_bytes; done += kSubtreeBytes) {
        const uint64_t begin = span.file_begin_bytes + done;
        loaded.blake3.push_back({begin, std::min<uint64_t>(kSubtreeBytes, span.size_bytes - done),
                                 false, begin / kBlake3ChunkBytes,
                                 work.result.subtrees[begin / kSubtreeBytes]});
      }
    }
  } else if (has_tree) {
    const Range whole = {0, request.size_bytes};
    absl::Status status = device_.Digest(Algorithm::kBlake3, *loaded.buffer, std::span(&whole, 1),
                                         stream, work.result.root);
    status.Update(stream.Wait());
    PAVISE_RETURN_IF_ERROR(status);
    if (keeps_blake3 && request.size_bytes > 0) {
      loaded.blake3.push_back({0, request.size_bytes, true, 0, work.result.root});
    }
  } else if (records_blake3) {
    PAVISE_RETURN_IF_ERROR(RecordBlake3(work));
  }

  work.result.digests.resize(request.digests.size());
  // Digests whose parts were just recorded: made of these, so that there is one reading.
  if (records_blake3) {
    size_t next = 0;
    for (size_t i = 0; i < request.digests.size(); ++i) {
      const size_t first = next;
      next += SubtreesIn(request.digests[i].range.size_bytes);
      if (request.digests[i].algorithm != Algorithm::kBlake3 || next == first) continue;
      std::vector<ChainingValue> values;
      for (size_t j = first; j < next; ++j) values.push_back(loaded.blake3[j].value);
      const Digest32 root =
          loaded.blake3[first].is_root ? values.front() : Blake3RootFromSubtrees(values);
      work.result.digests[i].assign(root.begin(), root.end());
    }
  }
  for (const Algorithm algorithm :
       {Algorithm::kSha256, Algorithm::kSha384, Algorithm::kBlake2b, Algorithm::kBlake3}) {
    std::vector<size_t> which;
    std::vector<Range> ranges;
    for (size_t i = 0; i < request.digests.size(); ++i) {
      const RangeDigestRequest& digest = request.digests[i];
      if (digest.algorithm != algorithm || !work.result.digests[i].empty()) continue;
      const std::optional<Range> range = loaded.Find(
          digest.range.offset_bytes, digest.range.offset_bytes + digest.range.size_bytes);
      if (!range.has_value()) {
        return MachineFailure(request.name, "the pass did not load what it is to hash");
      }
      which.push_back(i);
      ranges.push_back(*range);
    }
    if (ranges.empty()) continue;
    const size_t digest_bytes = DigestSizeBytes(algorithm);
    Bytes out(ranges.size() * digest_bytes);
    absl::Status status = device_.Digest(algorithm, *loaded.buffer, ranges, stream, out);
    status.Update(stream.Wait());
    PAVISE_RETURN_IF_ERROR(status);
    for (size_t i = 0; i < which.size(); ++i) {
      const auto begin = out.begin() + static_cast<std::ptrdiff_t>(i * digest_bytes);
      work.result.digests[which[i]].assign(begin,
                                           begin + static_cast<std::ptrdiff_t>(digest_bytes));
    }
  }
  return absl::OkStatus();
}

absl::Status DevicePass::Sample(const std::vector<FileRequest>& files,
                                const std::vector<absl::StatusOr<FileResult>>& results) {
  // All answers are numbered: of each file its loaded subtrees, then its short digests and root,
  // then its tags.
  enum class Kind { kSubtree, kDigest, kTag };
  struct Answer {
    size_t file;
    Range range;  // of the file
    Kind kind;
    Algorithm algorithm;
    ByteSpan answer;
    uint64_t number = 0;  // of the first chunk, or of the tag
    const TagChain* tags = nullptr;
  };
  std::vector<Answer> answers;
  for (size_t i = 0; i < files.size(); ++i) {
    if (!results[i].ok()) continue;
    const FileRequest& request = files[i];
    const FileResult& result = *results[i];
    const auto add_subtree = [&](uint64_t number) {
      const uint64_t begin = number * kSubtreeBytes;
      answers.push_back({i,
                         {begin, std::min<uint64_t>(kSubtreeBytes, request.size_bytes - begin)},
                         Kind::kSubtree,
                         Algorithm::kBlake3,
                         result.subtrees[number],
                         begin / kBlake3ChunkBytes});
    };
    if (HasSubtreeValues(request)) {
      if (request.only_subtrees.empty()) {
        for (uint64_t number = 0; number < result.subtrees.size(); ++number) add_subtree(number);
      } else {
        for (const uint64_t number : request.only_subtrees) add_subtree(number);
      }
    } else if (request.tree || !request.only_subtrees.empty()) {
      answers.push_back(
          {i, {0, request.size_bytes}, Kind::kDigest, Algorithm::kBlake3, result.root});
    }
    const LoadedFile& loaded = loaded_[i];
    const bool has_tree = request.tree || !request.only_subtrees.empty();
    if (!has_tree) {
      for (const Blake3Reference& part : loaded.blake3) {
        answers.push_back({i,
                           {part.file_begin_bytes, part.size_bytes},
                           part.is_root ? Kind::kDigest : Kind::kSubtree,
                           Algorithm::kBlake3,
                           part.value,
                           part.first_chunk});
      }
    }
    for (size_t j = 0; j < request.digests.size(); ++j) {
      const RangeDigestRequest& digest = request.digests[j];
      if (digest.range.size_bytes > kMostSampledBytes) continue;
      answers.push_back({i, digest.range, Kind::kDigest, digest.algorithm, result.digests[j]});
    }
    for (size_t j = 0; j < loaded.tags.size(); ++j) {
      const TagChain& tags = *loaded.tags[j];
      for (uint64_t number = 0; number < tags.ranges(); ++number) {
        const uint64_t begin = number * kTagRangeBytes;
        answers.push_back({i,
                           {loaded.spans[j].file_begin_bytes + begin,
                            std::min<uint64_t>(kTagRangeBytes, loaded.spans[j].size_bytes - begin)},
                           Kind::kTag,
                           Algorithm::kBlake3,
                           tags.tags()[number],
                           number,
                           &tags});
      }
    }
  }
  std::set<size_t> chosen;
  const size_t wanted = std::min<size_t>(options_.sampled_answers, answers.size());
  while (chosen.size() < wanted) {
    uint64_t number = 0;
    std::array<uint8_t, sizeof(number)> bytes;
    PAVISE_RETURN_IF_ERROR(options_.random->Fill(bytes));
    std::memcpy(&number, bytes.data(), sizeof(number));
    // The bias of the remainder is below 2^-30 for any model.
    size_t index = number % answers.size();
    while (chosen.contains(index)) index = (index + 1) % answers.size();
    chosen.insert(index);
  }
  Stream& stream = *readers_[0]->stream;
  for (const size_t index : chosen) {
    const Answer& answer = answers[index];
    const LoadedFile& loaded = loaded_[answer.file];
    const std::optional<Range> range =
        loaded.Find(answer.range.offset_bytes, answer.range.offset_bytes + answer.range.size_bytes);
    if (!range.has_value()) return MachineFailure(loaded.name, "a hashed range is not loaded");
    Bytes bytes(answer.range.size_bytes);
    absl::Status status = device_.CopyOut(*loaded.buffer, *range, stream, bytes);
    status.Update(stream.Wait());
    PAVISE_RETURN_IF_ERROR(status);
    Bytes expected;
    if (answer.kind == Kind::kTag) {
      PAVISE_ASSIGN_OR_RETURN(const std::vector<RangeTag> tags,
                              TagRanges(answer.tags->CommittedKey(), bytes, answer.number));
      expected.assign(tags.front().begin(), tags.front().end());
    } else if (answer.kind == Kind::kSubtree) {
      const ChainingValue value = Blake3Subtree(bytes, answer.number);
      expected.assign(value.begin(), value.end());
    } else {
      expected = DigestOnCpu(answer.algorithm, bytes);
    }
    if (!std::equal(expected.begin(), expected.end(), answer.answer.begin(), answer.answer.end())) {
      return MachineFailure(
          device_.name(),
          StrCat("computed a wrong ", answer.kind == Kind::kTag ? "tag" : "digest", ": of ",
                 loaded.name, ", ", answer.range.size_bytes, " bytes at ",
                 answer.range.offset_bytes, ", the CPU says otherwise; do not use this device"));
    }
    ++answers_sampled_;
  }
  return absl::OkStatus();
}

}  // namespace pavise::hash
