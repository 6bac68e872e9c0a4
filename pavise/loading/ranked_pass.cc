#include "pavise/loading/ranked_pass.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <optional>
#include <queue>
#include <set>
#include <tuple>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/hash/blake3.h"
#include "pavise/loading/internal/rank_message.h"

#include "absl/strings/str_join.h"

namespace pavise::loading {
namespace {

using hash::ChainingValue;
using hash::FileRequest;
using hash::FileResult;
using hash::kSubtreeBytes;
using hash::Range;
using hash::RangeDigestRequest;
using internal::MessageReader;
using internal::MessageWriter;

// All files together; sums and products with it below do not overflow.
constexpr uint64_t kMostBytes = uint64_t{1} << 62;
// The names that FileResult::sha256_by may have, by their number in messages.
constexpr std::string_view kSha256By[] = {"", "OpenSSL", "SHA instructions"};

uint64_t SubtreesOf(uint64_t size_bytes) {
  return (size_bytes + kSubtreeBytes - 1) / kSubtreeBytes;
}

// The subtrees whose chaining values the request asks for; none for a file that is its own root.
std::vector<uint64_t> SubtreesAsked(const FileRequest& request) {
  if (request.size_bytes <= kSubtreeBytes) return {};
  if (!request.only_subtrees.empty() || !request.tree) return request.only_subtrees;
  std::vector<uint64_t> all(SubtreesOf(request.size_bytes));
  for (uint64_t i = 0; i < all.size(); ++i) all[i] = i;
  return all;
}

bool IsOwnRoot(const FileRequest& request) {
  return (request.tree || !request.only_subtrees.empty()) && request.size_bytes <= kSubtreeBytes;
}

uint64_t BytesOf(const FileRequest& request) {
  if (!request.only_subtrees.empty()) {
    uint64_t bytes = 0;
    for (const uint64_t number : request.only_subtrees) {
      bytes += std::min<uint64_t>(kSubtreeBytes, request.size_bytes - number * kSubtreeBytes);
    }
    return bytes;
  }
  if (request.tree) return request.size_bytes;
  uint64_t bytes = 0;
  for (const RangeDigestRequest& digest : request.digests) bytes += digest.range.size_bytes;
  return std::min(bytes, request.size_bytes);
}

// What must be alike on all ranks before anything is divided. Only then does everybody's arithmetic
// agree; so bounds that the inner pass would refuse are looked at here too.
absl::StatusOr<std::string> RequestDigest(const std::vector<FileRequest>& files,
                                          RankedPass::Cut cut) {
  MessageWriter writer;
  writer.Integer(static_cast<uint64_t>(cut));
  uint64_t total_bytes = 0;
  const auto add_range = [&](const FileRequest& file, const Range& range) {
    writer.Integer(range.offset_bytes);
    writer.Integer(range.size_bytes);
    return range.offset_bytes <= file.size_bytes &&
           range.size_bytes <= file.size_bytes - range.offset_bytes;
  };
  for (const FileRequest& file : files) {
    bool inside = file.size_bytes <= kMostBytes - total_bytes;
    if (inside) total_bytes += file.size_bytes;
    writer.String(AsBytes(file.name));
    writer.Integer(file.size_bytes);
    writer.Integer(file.tree ? 1 : 0);
    writer.Integer(file.only_subtrees.size());
    for (const uint64_t number : file.only_subtrees) {
      writer.Integer(number);
      inside = inside && number < std::max<uint64_t>(1, SubtreesOf(file.size_bytes));
    }
    writer.Integer(file.digests.size());
    for (const RangeDigestRequest& digest : file.digests) {
      writer.Integer(static_cast<uint64_t>(digest.algorithm));
      inside = add_range(file, digest.range) && inside;
    }
    writer.Integer(file.kept_whole.size());
    for (const Range& range : file.kept_whole) inside = add_range(file, range) && inside;
    if (!inside) return UsageError(StrCat(file.name, ": a range past the end"));
  }
  return ToHex(hash::Blake3(writer.Take()));
}

// The place nearest to `offset` that lies inside none of the ranges.
uint64_t NearestCut(std::vector<Range> ranges, uint64_t offset) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.offset_bytes < b.offset_bytes; });
  uint64_t begin = 0;
  uint64_t end = 0;
  for (const Range& range : ranges) {
    if (range.offset_bytes >= end) {
      if (offset > begin && offset < end) break;
      begin = range.offset_bytes;
    }
    end = std::max(end, range.offset_bytes + range.size_bytes);
  }
  if (offset <= begin || offset >= end) return offset;
  return offset - begin < end - offset ? begin : end;
}

void WriteResult(const FileRequest& request, const absl::StatusOr<FileResult>& result,
                 MessageWriter& writer) {
  writer.Status(result.status());
  if (!result.ok()) return;
  const auto by = std::find(std::begin(kSha256By), std::end(kSha256By), result->sha256_by);
  writer.Integer(by == std::end(kSha256By) ? 0 : static_cast<uint64_t>(by - std::begin(kSha256By)));
  if (IsOwnRoot(request)) writer.Raw(result->root);
  for (const uint64_t number : SubtreesAsked(request)) writer.Raw(result->subtrees[number]);
  for (const Bytes& digest : result->digests) writer.Raw(digest);
}

// Exactly what WriteResult writes for that request.
absl::StatusOr<FileResult> ReadResult(const FileRequest& request, MessageReader& reader) {
  PAVISE_RETURN_IF_ERROR(reader.Status());
  FileResult result;
  result.sha256_by = kSha256By[std::min<uint64_t>(reader.Integer(), std::size(kSha256By) - 1)];
  const auto read_value = [&](ChainingValue& value) {
    const ByteSpan bytes = reader.Raw(value.size());
    std::copy(bytes.begin(), bytes.end(), value.begin());
  };
  if (IsOwnRoot(request)) read_value(result.root);
  const std::vector<uint64_t> numbers = SubtreesAsked(request);
  if (!numbers.empty()) result.subtrees.resize(SubtreesOf(request.size_bytes));
  for (const uint64_t number : numbers) read_value(result.subtrees[number]);
  for (const RangeDigestRequest& digest : request.digests) {
    const ByteSpan bytes = reader.Raw(hash::DigestSizeBytes(digest.algorithm));
    result.digests.emplace_back(bytes.begin(), bytes.end());
  }
  return result;
}

// The bar that one rank shows for all of them.
class ScaledProgress final : public Progress {
 public:
  ScaledProgress(Progress& progress, uint64_t all_bytes, uint64_t own_bytes)
      : progress_(progress),
        factor_(own_bytes == 0 ? 0
                               : static_cast<double>(all_bytes) / static_cast<double>(own_bytes)) {}
  void Start(std::string_view, uint64_t) override {}
  void Advance(uint64_t bytes) override {
    progress_.Advance(static_cast<uint64_t>(static_cast<double>(bytes) * factor_));
  }
  void Finish() override {}

 private:
  Progress& progress_;
  const double factor_;
};

}  // namespace

std::string CopyDigest(const std::vector<FileRequest>& files) {
  // Device numbers mean something below one running kernel only.
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  if (boot.empty()) return {};
  MessageWriter writer;
  writer.String(AsBytes(boot));
  for (const FileRequest& file : files) {
    const FileIdentity& identity = file.expected_identity;
    if (identity == FileIdentity{}) return {};
    writer.String(AsBytes(file.name));
    for (const uint64_t number : {identity.device, identity.inode, identity.size_bytes,
                                  static_cast<uint64_t>(identity.modified_ns),
                                  static_cast<uint64_t>(identity.changed_ns)}) {
      writer.Integer(number);
    }
  }
  return ToHex(hash::Blake3(writer.Take()));
}

// What one rank does of one file.
struct RankedPass::Share {
  unsigned rank = 0;
  size_t file = 0;
  FileRequest request;
  std::vector<size_t> digests;  // which of the file's those of `request` are
};

RankedPass::RankedPass(RankedRun& run, hash::FilePass& inner, Cut cut)
    : run_(run), inner_(inner), cut_(cut) {}

RankedPass::~RankedPass() = default;

std::string RankedPass::description() const {
  return StrCat(run_.size(),
                run_.size() == 1 ? " rank, " : " ranks, this one: ", inner_.description());
}

void RankedPass::DivideTrees(const std::vector<FileRequest>& files,
                             const std::vector<size_t>& trees, std::vector<Share>& shares) {
  uint64_t total_bytes = 0;
  for (const size_t i : trees) total_bytes += files[i].size_bytes;
  // Where on the line each rank's stretch begins, ascending.
  const uint64_t ranks = run_.size();
  std::vector<uint64_t> cuts = {0};
  size_t at = 0;
  uint64_t file_begin = 0;
  for (uint64_t rank = 1; rank < ranks && !trees.empty(); ++rank) {
    const uint64_t wanted = total_bytes / ranks * rank + total_bytes % ranks * rank / ranks;
    while (at + 1 < trees.size() && wanted >= file_begin + files[trees[at]].size_bytes) {
      file_begin += files[trees[at++]].size_bytes;
    }
    uint64_t offset = (wanted - file_begin) / kSubtreeBytes * kSubtreeBytes;
    if (cut_ == Cut::kAroundRanges) offset = NearestCut(files[trees[at]].kept_whole, offset);
    cuts.push_back(std::max(cuts.back(), file_begin + offset));
  }
  cuts.resize(ranks + 1, total_bytes);

  file_begin = 0;
  for (const size_t i : trees) {
    const FileRequest& file = files[i];
    const uint64_t file_end = file_begin + file.size_bytes;
    for (unsigned rank = 0; rank < ranks; ++rank) {
      const uint64_t begin = std::max(cuts[rank], file_begin);
      const uint64_t end = std::min(cuts[rank + 1], file_end);
      if (begin >= end) continue;
      Share share = {rank, i, file, {}};
      const uint64_t first = (begin - file_begin) / kSubtreeBytes;
      const uint64_t last = SubtreesOf(end - file_begin);
      if (last - first < SubtreesOf(file.size_bytes)) {
        share.request.tree = false;
        for (uint64_t j = first; j < last; ++j) share.request.only_subtrees.push_back(j);
      }
      shares.push_back(std::move(share));
      owners_[file.name].stretches.push_back({rank, begin - file_begin, end - file_begin});
    }
    file_begin = file_end;
  }
}

std::vector<RankedPass::Share> RankedPass::Divide(const std::vector<FileRequest>& files) {
  owners_.clear();
  std::vector<size_t> trees;
  // Files (kWhole) and single digests, each for one rank.
  constexpr size_t kWhole = SIZE_MAX;
  std::vector<std::tuple<uint64_t, size_t, size_t>> units;  // bytes, file, digest
  for (size_t i = 0; i < files.size(); ++i) {
    const FileRequest& file = files[i];
    const bool has_tree = file.tree || !file.only_subtrees.empty();
    if (file.tree && file.digests.empty() && file.only_subtrees.empty() &&
        file.size_bytes > kSubtreeBytes) {
      trees.push_back(i);
    } else if (has_tree || (cut_ == Cut::kAroundRanges && !file.kept_whole.empty())) {
      units.emplace_back(BytesOf(file), i, kWhole);
    } else {
      for (size_t j = 0; j < file.digests.size(); ++j) {
        units.emplace_back(file.digests[j].range.size_bytes, i, j);
      }
    }
  }
  std::vector<Share> shares;
  DivideTrees(files, trees, shares);

  std::stable_sort(units.begin(), units.end(),
                   [](const auto& a, const auto& b) { return std::get<0>(a) > std::get<0>(b); });
  using Load = std::pair<uint64_t, unsigned>;  // bytes, rank
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (unsigned rank = 0; rank < run_.size(); ++rank) loads.emplace(0, rank);
  std::map<std::pair<unsigned, size_t>, size_t> places;  // of the share of a rank and file
  for (const auto& [bytes, file, digest] : units) {
    auto [load_bytes, rank] = loads.top();
    Owners& owners = owners_[files[file].name];
    if (digest == kWhole) {
      shares.push_back({rank, file, files[file], {}});
      for (size_t j = 0; j < files[file].digests.size(); ++j) shares.back().digests.push_back(j);
      owners.stretches.push_back({rank, 0, files[file].size_bytes});
    } else {
      const Range& range = files[file].digests[digest].range;
      const auto key = std::make_pair(range.offset_bytes, range.offset_bytes + range.size_bytes);
      // Equal ranges stay together.
      rank = owners.digests.try_emplace(key, rank).first->second;
      const auto [place, is_new] = places.try_emplace({rank, file}, shares.size());
      if (is_new) {
        shares.push_back({rank, file, files[file], {}});
        shares.back().request.digests.clear();
      }
      Share& share = shares[place->second];
      share.request.digests.push_back(files[file].digests[digest]);
      share.digests.push_back(digest);
    }
    if (rank == loads.top().second) {
      loads.pop();
      loads.emplace(load_bytes + bytes, rank);
    }
  }
  return shares;
}

absl::StatusOr<std::vector<absl::StatusOr<FileResult>>> RankedPass::Run(
    const std::vector<FileRequest>& files, Progress* progress) {
  const absl::StatusOr<std::string> digest = RequestDigest(files, cut_);
  PAVISE_RETURN_IF_ERROR(run_.Exchange(RankedRun::Round::kRequest, digest.status(),
                                       {{"the list of files", digest.value_or("")}}, {})
                             .status());
  copy_ = CopyDigest(files);
  const std::vector<Share> shares = Divide(files);
  std::vector<FileRequest> own;
  uint64_t all_bytes = 0;
  bytes_read_ = 0;
  for (const Share& share : shares) {
    const uint64_t bytes = BytesOf(share.request);
    all_bytes += bytes;
    if (share.rank != run_.rank()) continue;
    own.push_back(share.request);
    bytes_read_ += bytes;
  }
  std::optional<ScaledProgress> scaled;
  if (progress != nullptr) scaled.emplace(*progress, all_bytes, bytes_read_);
  auto found = inner_.Run(own, scaled.has_value() ? &*scaled : nullptr);
  if (found.ok() && found->size() != own.size()) {
    found = MachineFailure(inner_.description(), "a pass without all its results");
  }
  MessageWriter writer;
  for (size_t i = 0; found.ok() && i < own.size(); ++i) WriteResult(own[i], (*found)[i], writer);
  PAVISE_ASSIGN_OR_RETURN(
      const std::vector<Bytes> payloads,
      run_.Exchange(RankedRun::Round::kResults, found.status(), {}, writer.Take()));

  // From here on every rank does the same with the same.
  std::vector<MessageReader> readers(payloads.begin(), payloads.end());
  struct Merged {
    FileResult result;
    std::vector<Refusal> findings;
    std::vector<unsigned> subtree_from;  // the rank, and one more; 0: nobody
  };
  std::vector<Merged> merged(files.size());
  for (size_t i = 0; i < files.size(); ++i) {
    const size_t subtrees = SubtreesAsked(files[i]).empty() ? 0 : SubtreesOf(files[i].size_bytes);
    merged[i].result.identity = files[i].expected_identity;
    merged[i].result.subtrees.resize(subtrees);
    merged[i].subtree_from.resize(subtrees);
    merged[i].result.digests.resize(files[i].digests.size());
  }
  for (const Share& share : shares) {
    const absl::StatusOr<FileResult> part = ReadResult(share.request, readers[share.rank]);
    Merged& file = merged[share.file];
    if (!part.ok()) {
      std::vector<Refusal> findings = RefusalsOf(part.status());
      if (findings.empty()) {
        return MachineFailure(run_.Label(share.rank), StrCat(files[share.file].name, ": ",
                                                             FromAbsl(part.status().message())));
      }
      for (Refusal& finding : findings) {
        StrAppend(&finding.detail, " (", run_.Label(share.rank), ")");
        file.findings.push_back(std::move(finding));
      }
      continue;
    }
    if (!part->sha256_by.empty()) file.result.sha256_by = part->sha256_by;
    if (IsOwnRoot(share.request)) file.result.root = part->root;
    for (const uint64_t number : SubtreesAsked(share.request)) {
      unsigned& from = file.subtree_from[number];
      if (from != 0 && file.result.subtrees[number] != part->subtrees[number]) {
        file.findings.push_back({Reason::kRanksDisagree, files[share.file].name,
                                 StrCat(run_.Label(from - 1), " and ", run_.Label(share.rank),
                                        " read different bytes in its MiB ", number),
                                 "give every rank the same file, and look for the one at fault "
                                 "with --no-mpi"});
      }
      file.result.subtrees[number] = part->subtrees[number];
      from = share.rank + 1;
    }
    for (size_t j = 0; j < share.digests.size(); ++j) {
      file.result.digests[share.digests[j]] = part->digests[j];
    }
  }
  for (unsigned rank = 0; rank < run_.size(); ++rank) {
    if (readers[rank].AtEnd()) continue;
    return Refuse(Reason::kMalformed, run_.Label(rank), "sent results that are not of its share");
  }
  std::vector<absl::StatusOr<FileResult>> results;
  for (size_t i = 0; i < files.size(); ++i) {
    if (!merged[i].findings.empty()) {
      results.push_back(Refuse(std::move(merged[i].findings)));
      continue;
    }
    FileResult& result = merged[i].result;
    for (const uint64_t number : SubtreesAsked(files[i])) {
      if (merged[i].subtree_from[number] != 0) continue;
      return MachineFailure(files[i].name, "a part that no rank was to read");
    }
    if (files[i].tree && files[i].only_subtrees.empty() && !result.subtrees.empty()) {
      result.root = hash::Blake3RootFromSubtrees(result.subtrees);
    }
    results.push_back(std::move(result));
  }
  return results;
}

std::string RankedPass::ReaderOf(const std::string& name, uint64_t begin_bytes,
                                 uint64_t end_bytes) const {
  const auto found = owners_.find(name);
  if (found == owners_.end()) return {};
  std::set<unsigned> ranks;
  for (const Stretch& stretch : found->second.stretches) {
    if (stretch.begin_bytes < end_bytes && begin_bytes < stretch.end_bytes) {
      ranks.insert(stretch.rank);
    }
  }
  for (const auto& [range, rank] : found->second.digests) {
    if (range.first < end_bytes && begin_bytes < range.second) ranks.insert(rank);
  }
  return absl::StrJoin(ranks, " and ",
                       [&](std::string* out, unsigned rank) { *out += run_.Label(rank); });
}

bool RankedPass::Owns(const std::string& name, uint64_t begin_bytes, uint64_t end_bytes) const {
  const auto found = owners_.find(name);
  if (found == owners_.end()) return false;
  // Before the stretches: of a file that was asked for by ranges too, one rank's stretch is the
  // whole file, of which it read those ranges only.
  const auto digest = found->second.digests.find({begin_bytes, end_bytes});
  if (digest != found->second.digests.end()) return digest->second == run_.rank();
  for (const Stretch& stretch : found->second.stretches) {
    if (stretch.begin_bytes <= begin_bytes && end_bytes <= stretch.end_bytes) {
      return stretch.rank == run_.rank();
    }
  }
  return false;
}

}  // namespace pavise::loading
