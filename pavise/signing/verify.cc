#include "pavise/signing/verify.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "pavise/base/file.h"
#include "pavise/base/glob.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/model/file_tree.h"
#include "pavise/signing/internal/file_digests.h"
#include "pavise/signing/outboard.h"

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"

namespace pavise::signing {
namespace {

using hash::kSubtreeBytes;

constexpr std::string_view kOmsSource = "oms";
constexpr std::string_view kAnnotationSource = "blake3-annotation";
constexpr std::string_view kTensorSource = "tensor-digests";
constexpr std::string_view kOutboardSource = "outboard";
constexpr std::string_view kRestore =
    "restore the file from its source, or sign the model again if the change is yours";
// An outboard file of up to this size is read even where it is larger than it should be, for the
// sake of a better message.
constexpr uint64_t kLeastRead = uint64_t{1} << 20;
// A refusal names this many ranges and tensors of a file, and counts the rest.
constexpr size_t kMostNamed = 8;

// Everything the statement says of one file.
struct SignedFile {
  std::vector<const Resource*> resources;
  const FileAnnotation* annotation = nullptr;
  std::optional<uint64_t> size_bytes;
  const OutboardFile* outboard = nullptr;  // bound to the annotation's root
  const model::FileEntry* entry = nullptr;
  std::string display;  // the name in messages
};

using SignedFiles = std::map<std::string, SignedFile>;

SignedFiles GroupByPath(const Statement& statement) {
  SignedFiles files;
  for (const auto& [path, signed_as] : internal::ResourcesByPath(statement)) {
    SignedFile& file = files[path];
    file.resources = signed_as.resources;
    file.annotation = signed_as.annotation;
    file.display = path;
    if (file.annotation != nullptr) {
      file.size_bytes = file.annotation->size_bytes;
    } else if (statement.serialization.method == SerializationMethod::kShards) {
      file.size_bytes = file.resources.back()->end_bytes;
    }
  }
  return files;
}

std::string DescribeRange(uint64_t begin, uint64_t end) {
  const uint64_t first = begin / kSubtreeBytes;
  const uint64_t last = (end - 1) / kSubtreeBytes;
  return StrCat(
      "bytes ", begin, " to ", end - 1,
      first == last ? StrCat(" (MiB ", first, ")") : StrCat(" (MiB ", first, " to ", last, ")"));
}

std::string DescribeTensor(const model::TensorEntry& tensor) {
  return StrCat(tensor.name, " (", tensor.dtype, " [", absl::StrJoin(tensor.shape, ","),
                "], bytes ", tensor.begin_bytes, " to ",
                tensor.end_bytes == tensor.begin_bytes ? tensor.end_bytes : tensor.end_bytes - 1,
                ")");
}

std::string JoinSome(const std::vector<std::string>& names) {
  if (names.size() <= kMostNamed) return absl::StrJoin(names, ", ");
  return StrCat(absl::StrJoin(names.begin(), names.begin() + kMostNamed, ", "), " and ",
                names.size() - kMostNamed, " more");
}

// The tensors of a file; of one whose tensors the signature does not tell, the file.
std::vector<hash::Range> TensorRanges(const SignedFile& file) {
  if (file.annotation == nullptr) return {{0, file.entry->identity.size_bytes}};
  std::vector<hash::Range> ranges;
  for (const TensorDigest& digest : file.annotation->tensors) {
    const model::TensorEntry& tensor = digest.tensor;
    ranges.push_back({tensor.begin_bytes, tensor.end_bytes - tensor.begin_bytes});
  }
  return ranges;
}

// What was asked of one file's pass.
struct Asked {
  const SignedFile* file;
  bool annotation;   // the BLAKE3 root, against the annotation
  size_t oms_count;  // the first digests of the result
  bool tensors;      // the digests after them
};

// The run of one verification; ModelVerifier::Verify is its only user.
class Verification {
 public:
  explicit Verification(const VerifyOptions& options) : options_(options) {}

  absl::StatusOr<VerifyReport> Run();

 private:
  absl::Status ReadSignature();
  absl::Status ReadOutboardFile();
  absl::Status ListModel();
  absl::Status CheckFileSet();
  absl::Status CheckWholeFiles();
  absl::Status CheckParts();
  absl::Status CheckTensorTable(const SignedFile& file);
  void CompareWholeFile(const Asked& asked, const hash::FileRequest& request,
                        const hash::FileResult& result);
  std::string LocateDamage(const SignedFile& file, const hash::FileResult& result);
  // ", read by rank 1 on HOST", where the pass says so.
  std::string ReadBy(const SignedFile& file, uint64_t begin_bytes, uint64_t end_bytes) const {
    const std::string reader =
        options_.file_pass == nullptr
            ? std::string()
            : options_.file_pass->ReaderOf(file.display, begin_bytes, end_bytes);
    return reader.empty() ? reader : StrCat(", read by ", reader);
  }
  // The pass's results; where it refuses as a whole, the findings so far and its own.
  absl::StatusOr<std::vector<absl::StatusOr<hash::FileResult>>> RunPass(
      const std::vector<hash::FileRequest>& requests, const hash::PassOptions& pass);
  absl::Status AddFindings(const absl::Status& status);
  void AddFinding(Reason reason, const std::string& item, const std::string& detail,
                  std::string_view remedy) {
    findings_.push_back({reason, item, detail, std::string(remedy)});
  }
  bool HoldsSignedFile(const std::string& path) const;
  const Statement& statement() const { return report_.signed_statement.statement; }
  bool BlakeFiles() const {
    return statement().serialization.method == SerializationMethod::kFiles &&
           statement().serialization.hash_type == hash::Algorithm::kBlake3;
  }

  const VerifyOptions& options_;
  VerifyReport report_;
  std::set<std::string, std::less<>> sources_;
  std::vector<Refusal> findings_;
  std::set<std::string> ignored_;  // exists in the model and was left out of the walk
  std::optional<Outboard> outboard_;
  std::string outboard_path_;
  std::unique_ptr<model::FileTree> tree_;
  SignedFiles files_;
};

absl::Status Verification::AddFindings(const absl::Status& status) {
  if (status.ok()) return status;
  std::vector<Refusal> refusals = RefusalsOf(status);
  if (refusals.empty()) return status;
  findings_.insert(findings_.end(), refusals.begin(), refusals.end());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<absl::StatusOr<hash::FileResult>>> Verification::RunPass(
    const std::vector<hash::FileRequest>& requests, const hash::PassOptions& pass) {
  auto results = internal::RunPass(requests, pass, options_.file_pass);
  if (results.ok()) return results;
  PAVISE_RETURN_IF_ERROR(AddFindings(results.status()));
  return Refuse(std::exchange(findings_, {}));
}

absl::Status Verification::ReadSignature() {
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(options_.signature_path, kMaxBundleBytes));
  PAVISE_ASSIGN_OR_RETURN(const Bundle bundle, ParseBundle(text, options_.signature_path));
  PAVISE_ASSIGN_OR_RETURN(
      const VerifiedStatement verified,
      StatementVerifier::Verify(bundle, options_.signature_path, options_.policy, *options_.clock));
  report_.signed_statement = *verified;
  report_.warnings = verified->signer.warnings;
  const Serialization& serialization = statement().serialization;
  if (statement().resources.empty()) {
    return Refuse(Reason::kUnsupported, options_.signature_path,
                  "signs an empty model, which the OMS specification forbids",
                  "sign the model again with its files");
  }
  if (options_.fips) {
    report_.fips_provider = crypto::FipsProviderDescription();
    if (serialization.hash_type != hash::Algorithm::kSha256) {
      return Refuse(Reason::kUnsupported, options_.signature_path,
                    StrCat("its digests are ", hash::AlgorithmName(serialization.hash_type),
                           ", which --fips does not allow"),
                    "sign with --fips, or verify without it");
    }
  }
  files_ = GroupByPath(statement());
  return absl::OkStatus();
}

absl::Status Verification::ReadOutboardFile() {
  const bool annotated = std::any_of(files_.begin(), files_.end(), [](const auto& entry) {
    return entry.second.annotation != nullptr;
  });
  std::string& path = outboard_path_;
  path = options_.outboard_path;
  if (path.empty()) {
    // A file left by an earlier, annotated signature says nothing about this one.
    if (!annotated || options_.fips || options_.digests == DigestChoice::kOms) {
      return absl::OkStatus();
    }
    path = DefaultOutboardPath(options_.signature_path);
    if (access(path.c_str(), F_OK) != 0 && errno == ENOENT) return absl::OkStatus();
  }
  // What this signature's tree takes, and nothing larger, is read.
  uint64_t expected_bytes = kOutboardHeaderBytes;
  for (const auto& [name, file] : files_) {
    if (file.annotation != nullptr) {
      expected_bytes += OutboardBytesFor(name, file.annotation->size_bytes);
    }
  }
  PAVISE_ASSIGN_OR_RETURN(outboard_, ReadOutboard(path, std::max(expected_bytes, kLeastRead)));
  std::vector<Refusal> findings;
  constexpr std::string_view kRemedy =
      "give the outboard file that was written with this signature, or delete it: it only serves "
      "to "
      "locate damage and to verify ranges";
  size_t matched = 0;
  for (auto& [name, file] : files_) {
    if (file.annotation == nullptr) continue;
    const auto it = outboard_->files.find(name);
    if (it == outboard_->files.end() || it->second.root != file.annotation->blake3 ||
        it->second.size_bytes != file.annotation->size_bytes) {
      findings.push_back({Reason::kContentMismatch, path,
                          StrCat("does not belong to this signature: its tree for ", name,
                                 it == outboard_->files.end() ? " is missing" : " differs"),
                          std::string(kRemedy)});
      continue;
    }
    file.outboard = &it->second;
    ++matched;
  }
  if (findings.empty() && matched != outboard_->files.size()) {
    findings.push_back({Reason::kContentMismatch, path,
                        "holds trees of files that this signature does not name",
                        std::string(kRemedy)});
  }
  return findings.empty() ? absl::OkStatus() : Refuse(std::move(findings));
}

bool Verification::HoldsSignedFile(const std::string& path) const {
  std::string directory = path;
  while (!directory.empty() && directory.back() == '/') directory.pop_back();
  if (files_.contains(directory)) return true;
  directory += '/';
  const auto below = files_.lower_bound(directory);
  return below != files_.end() && absl::StartsWith(below->first, directory);
}

absl::Status Verification::ListModel() {
  const Serialization& serialization = statement().serialization;
  // Only what was read as such counts as the signature's own: regular files, so nothing lies below.
  std::vector<std::string> own_files = {options_.signature_path};
  if (outboard_.has_value()) own_files.push_back(outboard_path_);
  const std::vector<std::string> own = OwnFilesInModel(options_.model_path, own_files);
  model::WalkOptions walk;
  walk.allow_symlinks = options_.allow_symlinks && serialization.allow_symlinks;
  walk.ignore_paths = serialization.ignore_paths;
  walk.ignore_paths.insert(walk.ignore_paths.end(), own.begin(), own.end());
  // What the user ignores may hide unsigned files, never signed ones.
  for (const std::string& ignored : options_.ignore_paths) {
    if (!HoldsSignedFile(ignored)) walk.ignore_paths.push_back(ignored);
  }
  if (options_.ignore_unsigned_files) {
    walk.only_paths.emplace();
    for (const auto& [path, file] : files_) walk.only_paths->push_back(path);
  }
  absl::StatusOr<model::FileTree> tree = model::FileTree::Open(options_.model_path, walk);
  if (!tree.ok()) {
    if (options_.allow_symlinks && !serialization.allow_symlinks &&
        ReasonOf(tree.status()) == Reason::kFileTypeRefused) {
      std::vector<Refusal> findings = RefusalsOf(tree.status());
      findings.front().remedy =
          "the signature forbids links: --allow-symlinks counts only where the signer allowed them";
      return Refuse(std::move(findings));
    }
    return tree.status();
  }
  tree_ = std::make_unique<model::FileTree>(*std::move(tree));

  if (!tree_->is_single_file()) {
    for (const std::string& ignored : walk.ignore_paths) {
      const bool is_own = std::find(own.begin(), own.end(), ignored) != own.end();
      struct stat status;
      if (!is_own && lstat(StrCat(options_.model_path, "/", ignored).c_str(), &status) == 0) {
        ignored_.insert(ignored);
      }
    }
  }

  // A model of one file is called "." by the reference tool and by its name in the specification.
  if (tree_->is_single_file() && files_.size() == 1 && files_.begin()->first == tree_->name()) {
    SignedFile file = std::move(files_.begin()->second);
    files_.clear();
    files_.emplace(".", std::move(file));
  }
  if (const auto it = files_.find("."); it != files_.end()) {
    it->second.display = tree_->root();
    if (!tree_->is_single_file()) {
      return Refuse(Reason::kContentMismatch, options_.model_path,
                    "the signature is for a single file, this is a directory",
                    "give the path of the file itself");
    }
  }
  return absl::OkStatus();
}

absl::Status Verification::CheckFileSet() {
  for (auto& [path, file] : files_) {
    file.entry = internal::FindEntry(tree_->files(), path);
    if (file.entry == nullptr) {
      AddFinding(Reason::kFileMissing, file.display, "is signed, but not there",
                 "restore the file from its source");
      continue;
    }
    const uint64_t size_bytes = file.entry->identity.size_bytes;
    if (file.size_bytes.has_value() && *file.size_bytes != size_bytes) {
      AddFinding(Reason::kContentMismatch, file.display,
                 StrCat("is ", size_bytes, " bytes long, ", *file.size_bytes, " were signed"),
                 kRestore);
      file.entry = nullptr;  // nothing more to compare
    }
  }
  for (const model::FileEntry& entry : tree_->files()) {
    if (files_.contains(entry.path)) continue;
    // The shards method has no way to sign an empty file.
    if (statement().serialization.method == SerializationMethod::kShards &&
        entry.identity.size_bytes == 0) {
      ignored_.insert(entry.path);
      continue;
    }
    AddFinding(Reason::kFileUnsigned, entry.path == "." ? tree_->root() : entry.path,
               "is not signed",
               "remove it, or allow it with --ignore-unsigned-files or --ignore-paths");
  }
  return absl::OkStatus();
}

absl::Status Verification::CheckTensorTable(const SignedFile& file) {
  PAVISE_ASSIGN_OR_RETURN(const std::optional<model::TensorTable> table,
                          internal::ReadTable(*tree_, *file.entry));
  const FileAnnotation& annotation = *file.annotation;
  const bool same =
      table.has_value() == annotation.tensor_format.has_value() &&
      (!table.has_value() || (table->format == *annotation.tensor_format &&
                              table->data_begin_bytes == annotation.tensor_data_begin_bytes &&
                              std::equal(table->tensors.begin(), table->tensors.end(),
                                         annotation.tensors.begin(), annotation.tensors.end(),
                                         [](const model::TensorEntry& a, const TensorDigest& b) {
                                           return a == b.tensor;
                                         })));
  if (same) return absl::OkStatus();
  return Refuse(Reason::kContentMismatch, file.display,
                "its header describes other tensors than the signed table", kRestore);
}

// Which MiB ranges and tensors of a changed file are damaged. Reads again what it must; its words
// are for people and carry no verdict.
std::string Verification::LocateDamage(const SignedFile& file, const hash::FileResult& result) {
  const uint64_t size_bytes = file.entry->identity.size_bytes;
  std::vector<std::pair<uint64_t, uint64_t>> damaged;
  if (file.outboard != nullptr && result.subtrees.size() == file.outboard->subtrees.size()) {
    for (size_t i = 0; i < result.subtrees.size(); ++i) {
      if (result.subtrees[i] == file.outboard->subtrees[i]) continue;
      const uint64_t begin = i * kSubtreeBytes;
      const uint64_t end = std::min<uint64_t>(size_bytes, begin + kSubtreeBytes);
      if (!damaged.empty() && damaged.back().second == begin) {
        damaged.back().second = end;
      } else {
        damaged.emplace_back(begin, end);
      }
    }
  }
  const bool located = !damaged.empty();
  if (!located) damaged.emplace_back(0, size_bytes);

  std::string text;
  if (located) {
    std::vector<std::string> ranges;
    for (const auto& [begin, end] : damaged) ranges.push_back(DescribeRange(begin, end));
    text = StrCat(JoinSome(ranges), " differ from what was signed");
  } else {
    text = "differs from what was signed";
  }
  std::set<std::string> readers;
  for (const auto& [begin, end] : damaged) readers.insert(ReadBy(file, begin, end));
  for (const std::string& reader : readers) text += reader;
  const bool read_here = readers == std::set<std::string>{""};
  if (!read_here || file.annotation == nullptr || file.annotation->tensors.empty()) return text;

  hash::FileRequest request = internal::RequestFor(*tree_, *file.entry);
  std::vector<const TensorDigest*> candidates;
  for (const TensorDigest& digest : file.annotation->tensors) {
    const model::TensorEntry& tensor = digest.tensor;
    const bool overlaps = std::any_of(damaged.begin(), damaged.end(), [&](const auto& range) {
      return tensor.begin_bytes < range.second && range.first < tensor.end_bytes;
    });
    if (!overlaps) continue;
    candidates.push_back(&digest);
    request.digests.push_back(
        {hash::Algorithm::kBlake3, {tensor.begin_bytes, tensor.end_bytes - tensor.begin_bytes}});
  }
  hash::PassOptions pass = options_.pass;
  pass.progress = nullptr;
  const auto results = hash::RunFilePass({request}, pass);
  if (!results.ok() || !results->front().ok()) return text;
  std::vector<std::string> tensors;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Bytes& now = results->front()->digests[i];
    if (!std::equal(now.begin(), now.end(), candidates[i]->blake3.begin(),
                    candidates[i]->blake3.end())) {
      tensors.push_back(DescribeTensor(candidates[i]->tensor));
    }
  }
  if (tensors.empty()) {
    StrAppend(&text, "; no tensor is damaged: the change lies in the header or in padding");
  } else {
    StrAppend(&text, tensors.size() == 1 ? "; damaged tensor: " : "; damaged tensors: ",
              JoinSome(tensors));
  }
  return text;
}

void Verification::CompareWholeFile(const Asked& asked, const hash::FileRequest& request,
                                    const hash::FileResult& result) {
  const SignedFile& file = *asked.file;
  const size_t oms_count = asked.oms_count;
  bool tree_matches = true;
  if (asked.annotation) {
    sources_.emplace(kAnnotationSource);
    tree_matches = result.root == file.annotation->blake3;
  }
  bool oms_matches = true;
  const bool oms_is_root = request.tree && BlakeFiles();
  if (oms_count > 0 || oms_is_root) {
    sources_.emplace(kOmsSource);
    const std::vector<Bytes> digests =
        internal::OmsDigestsOf(statement().serialization, result, 0, oms_count);
    oms_matches = digests.size() == file.resources.size();
    for (size_t i = 0; oms_matches && i < digests.size(); ++i) {
      oms_matches = digests[i] == file.resources[i]->digest;
    }
  }
  std::vector<std::string> wrong_tensors;
  if (asked.tensors) {
    if (!file.annotation->tensors.empty()) sources_.emplace(kTensorSource);
    for (size_t i = 0; i < file.annotation->tensors.size(); ++i) {
      const TensorDigest& digest = file.annotation->tensors[i];
      const Bytes& now = result.digests[oms_count + i];
      if (!std::equal(now.begin(), now.end(), digest.blake3.begin(), digest.blake3.end())) {
        wrong_tensors.push_back(DescribeTensor(digest.tensor));
      }
    }
  }
  if (tree_matches && oms_matches && wrong_tensors.empty()) {
    ++report_.files_checked;
    report_.bytes_checked += request.size_bytes;
    return;
  }
  const bool oms_checked = oms_count > 0 && !oms_is_root;
  if ((asked.annotation && oms_checked && tree_matches != oms_matches) ||
      (tree_matches && oms_matches)) {
    AddFinding(Reason::kContentMismatch, file.display,
               StrCat("the signed digests describe different contents: ",
                      !oms_matches    ? file.resources.front()->algorithm + " differs"
                      : !tree_matches ? "the BLAKE3 root differs"
                                      : "the digests differ of " + JoinSome(wrong_tensors)),
               "do not use the model, and ask its signer: no file matches this signature");
    return;
  }
  AddFinding(Reason::kContentMismatch, file.display, LocateDamage(file, result), kRestore);
}

absl::Status Verification::CheckWholeFiles() {
  const DigestChoice choice = options_.fips ? DigestChoice::kOms : options_.digests;
  std::vector<hash::FileRequest> requests;
  std::vector<Asked> asked;
  for (const auto& [path, file] : files_) {
    if (file.entry == nullptr) continue;
    hash::FileRequest request = internal::RequestFor(*tree_, *file.entry);
    request.name = file.display;
    const bool use_tree = choice != DigestChoice::kOms && file.annotation != nullptr;
    if (choice != DigestChoice::kAuto || !use_tree) {
      internal::RequestOmsDigests(statement().serialization, file.entry->identity.size_bytes,
                                  request);
    }
    Asked entry = {&file, use_tree, request.digests.size(), false};
    request.tree = request.tree || use_tree;
    if (options_.file_pass != nullptr) request.kept_whole = TensorRanges(file);
    if (choice == DigestChoice::kAll && file.annotation != nullptr) {
      entry.tensors = true;
      const absl::Status table = CheckTensorTable(file);
      const bool table_differs = !table.ok();
      PAVISE_RETURN_IF_ERROR(AddFindings(table));
      if (table_differs) continue;
      for (const TensorDigest& digest : file.annotation->tensors) {
        request.digests.push_back(
            {hash::Algorithm::kBlake3,
             {digest.tensor.begin_bytes, digest.tensor.end_bytes - digest.tensor.begin_bytes}});
      }
    }
    requests.push_back(std::move(request));
    asked.push_back(entry);
  }
  hash::PassOptions pass =
      choice == DigestChoice::kAll ? internal::OneCopy(options_.pass) : options_.pass;
  if (options_.fips) pass.provider_digests_only = true;
  PAVISE_ASSIGN_OR_RETURN(const auto results, RunPass(requests, pass));
  for (size_t i = 0; i < results.size(); ++i) {
    if (!results[i].ok()) {
      PAVISE_RETURN_IF_ERROR(AddFindings(results[i].status()));
      continue;
    }
    if (!results[i]->sha256_by.empty()) report_.sha256_by = results[i]->sha256_by;
    CompareWholeFile(asked[i], requests[i], *results[i]);
  }
  return absl::OkStatus();
}

// Only the asked tensors and ranges.
absl::Status Verification::CheckParts() {
  report_.partial = true;
  struct TensorPart {
    const SignedFile* file;
    std::vector<const TensorDigest*> tensors;
  };
  struct RangePart {
    const SignedFile* file;
    std::vector<FileRange> ranges;
    std::set<uint64_t> subtrees;  // that they touch
  };
  std::vector<hash::FileRequest> requests;
  std::vector<TensorPart> tensor_parts;
  std::vector<RangePart> range_parts;
  std::set<std::string> unmatched(options_.tensors.begin(), options_.tensors.end());
  std::vector<FileRange> ranges = options_.ranges;

  for (const auto& [path, file] : files_) {
    if (file.annotation == nullptr) continue;
    FileParts chosen;
    if (options_.choose_parts) {
      absl::StatusOr<FileParts> parts = options_.choose_parts(file.display, *file.annotation);
      PAVISE_RETURN_IF_ERROR(AddFindings(parts.status()));
      if (!parts.ok()) continue;
      chosen = *std::move(parts);
    }
    TensorPart part = {&file, {}};
    for (const TensorDigest& digest : file.annotation->tensors) {
      bool wanted = false;
      for (const std::string& glob : options_.tensors) {
        if (!GlobMatches(glob, digest.tensor.name)) continue;
        wanted = true;
        unmatched.erase(glob);
      }
      if (wanted && !chosen.not_whole.contains(digest.tensor.name)) part.tensors.push_back(&digest);
    }
    if ((part.tensors.empty() && chosen.ranges.empty()) || file.entry == nullptr) continue;
    const absl::Status table = CheckTensorTable(file);
    const bool table_differs = !table.ok();
    PAVISE_RETURN_IF_ERROR(AddFindings(table));
    if (table_differs) continue;
    for (const auto& [begin, end] : chosen.ranges) ranges.push_back({path, begin, end});
    if (part.tensors.empty()) continue;
    hash::FileRequest request = internal::RequestFor(*tree_, *file.entry);
    request.name = file.display;
    for (const TensorDigest* digest : part.tensors) {
      request.digests.push_back(
          {hash::Algorithm::kBlake3,
           {digest->tensor.begin_bytes, digest->tensor.end_bytes - digest->tensor.begin_bytes}});
    }
    requests.push_back(std::move(request));
    tensor_parts.push_back(std::move(part));
  }
  for (const std::string& glob : unmatched) {
    AddFinding(Reason::kFileMissing, glob, "no signed tensor has such a name",
               "list the signed tensors with: pavise inspect --tensors");
  }

  std::map<const SignedFile*, size_t> part_of;
  for (const FileRange& range : ranges) {
    const auto it = files_.find(range.path);
    if (it == files_.end()) {
      AddFinding(Reason::kFileMissing, range.path, "no such file is signed",
                 "list the signed files with: pavise inspect");
      continue;
    }
    const SignedFile& file = it->second;
    if (file.entry == nullptr) continue;  // already a finding
    const uint64_t size_bytes = file.entry->identity.size_bytes;
    if (range.begin_bytes >= range.end_bytes || range.end_bytes > size_bytes) {
      return UsageError(StrCat(range.path, ":", range.begin_bytes, ":", range.end_bytes,
                               " is no range of a file of ", size_bytes, " bytes"));
    }
    if (file.annotation == nullptr) {
      AddFinding(Reason::kUnsupported, file.display, "the signature holds no tree for it",
                 "verify the whole model, or have it signed with annotations");
      continue;
    }
    const auto [place, is_first] = part_of.try_emplace(&file, range_parts.size());
    if (is_first) range_parts.push_back({&file, {}, {}});
    RangePart& part = range_parts[place->second];
    part.ranges.push_back(range);
    for (uint64_t i = range.begin_bytes / kSubtreeBytes; i * kSubtreeBytes < range.end_bytes; ++i) {
      part.subtrees.insert(i);
    }
  }
  // One request a file, as ranges may share a MiB.
  std::erase_if(range_parts, [&](const RangePart& part) {
    if (part.file->entry->identity.size_bytes <= kSubtreeBytes || part.file->outboard != nullptr) {
      return false;
    }
    AddFinding(Reason::kFileMissing, DefaultOutboardPath(options_.signature_path),
               StrCat("a part of ", part.file->display,
                      " can only be verified with the outboard tree file"),
               "fetch it from where the signature came from, or verify the whole model");
    return true;
  });
  for (const RangePart& part : range_parts) {
    hash::FileRequest request = internal::RequestFor(*tree_, *part.file->entry);
    request.name = part.file->display;
    if (request.size_bytes <= kSubtreeBytes) {
      request.tree = true;
    } else {
      request.only_subtrees.assign(part.subtrees.begin(), part.subtrees.end());
    }
    requests.push_back(std::move(request));
  }

  PAVISE_ASSIGN_OR_RETURN(const auto results, RunPass(requests, options_.pass));
  for (size_t i = 0; i < results.size(); ++i) {
    if (!results[i].ok()) {
      PAVISE_RETURN_IF_ERROR(AddFindings(results[i].status()));
      continue;
    }
    const hash::FileResult& result = *results[i];
    if (i < tensor_parts.size()) {
      const TensorPart& part = tensor_parts[i];
      sources_.emplace(kTensorSource);
      for (size_t j = 0; j < part.tensors.size(); ++j) {
        const TensorDigest& digest = *part.tensors[j];
        if (!std::equal(result.digests[j].begin(), result.digests[j].end(), digest.blake3.begin(),
                        digest.blake3.end())) {
          AddFinding(Reason::kContentMismatch, part.file->display,
                     StrCat("damaged tensor: ", DescribeTensor(digest.tensor),
                            ReadBy(*part.file, digest.tensor.begin_bytes, digest.tensor.end_bytes)),
                     kRestore);
          continue;
        }
        report_.tensors_checked.push_back(digest.tensor.name);
        report_.bytes_checked += digest.tensor.end_bytes - digest.tensor.begin_bytes;
      }
      continue;
    }
    const RangePart& part = range_parts[i - tensor_parts.size()];
    const hash::FileRequest& request = requests[i];
    std::set<uint64_t> changed;
    if (request.only_subtrees.empty()) {
      sources_.emplace(kAnnotationSource);
      if (result.root == part.file->annotation->blake3) {
        report_.bytes_checked += request.size_bytes;
      } else {
        changed = part.subtrees;
        AddFinding(Reason::kContentMismatch, part.file->display,
                   StrCat(DescribeRange(0, request.size_bytes), " differ from what was signed",
                          ReadBy(*part.file, 0, request.size_bytes)),
                   kRestore);
      }
    } else {
      sources_.emplace(kOutboardSource);
      for (const uint64_t number : request.only_subtrees) {
        const uint64_t begin = number * kSubtreeBytes;
        const uint64_t end = std::min<uint64_t>(request.size_bytes, begin + kSubtreeBytes);
        if (result.subtrees[number] == part.file->outboard->subtrees[number]) {
          report_.bytes_checked += end - begin;
          continue;
        }
        changed.insert(number);
        AddFinding(Reason::kContentMismatch, part.file->display,
                   StrCat(DescribeRange(begin, end), " differ from what was signed",
                          ReadBy(*part.file, begin, end)),
                   kRestore);
      }
    }
    for (const FileRange& range : part.ranges) {
      const auto next = changed.lower_bound(range.begin_bytes / kSubtreeBytes);
      const bool is_sound = next == changed.end() || *next * kSubtreeBytes >= range.end_bytes;
      if (is_sound) report_.ranges_checked.push_back(range);
    }
  }
  std::set<const SignedFile*> touched;
  for (const TensorPart& part : tensor_parts) touched.insert(part.file);
  for (const RangePart& part : range_parts) touched.insert(part.file);
  report_.files_checked = touched.size();
  return absl::OkStatus();
}

absl::StatusOr<VerifyReport> Verification::Run() {
  const bool partial =
      !options_.tensors.empty() || !options_.ranges.empty() || options_.choose_parts;
  if (partial && (options_.digests != DigestChoice::kAuto || options_.fips)) {
    return UsageError(
        "--tensors, --range and --slice rest on BLAKE3 digests of parts: they exclude --fips, "
        "--all-digests and --oms-digests-only");
  }
  if (options_.fips && options_.digests == DigestChoice::kAll) {
    return UsageError("--fips allows the OMS digests only, --all-digests asks for BLAKE3 too");
  }
  if (options_.fips && options_.file_pass != nullptr) {
    return UsageError("--fips hashes with OpenSSL's provider, on the CPU");
  }
  report_.device = options_.file_pass != nullptr ? options_.file_pass->description()
                                                 : internal::DescribeDevice(options_.pass);
  PAVISE_RETURN_IF_ERROR(ReadSignature());
  PAVISE_RETURN_IF_ERROR(ReadOutboardFile());
  PAVISE_RETURN_IF_ERROR(ListModel());
  PAVISE_RETURN_IF_ERROR(CheckFileSet());
  PAVISE_RETURN_IF_ERROR(partial ? CheckParts() : CheckWholeFiles());
  if (!findings_.empty()) return Refuse(std::move(findings_));
  report_.digests_read.assign(sources_.begin(), sources_.end());
  report_.unsigned_files_ignored.assign(ignored_.begin(), ignored_.end());
  return std::move(report_);
}

}  // namespace

absl::StatusOr<VerifiedModel> ModelVerifier::Verify(const VerifyOptions& options) {
  PAVISE_ASSIGN_OR_RETURN(VerifyReport report, Verification(options).Run());
  return VerifiedModel(std::move(report));
}

std::string DefaultOutboardPath(const std::string& signature_path) {
  return signature_path + ".tree";
}

std::vector<std::string> OwnFilesInModel(const std::string& model_path,
                                         const std::vector<std::string>& own_files) {
  const auto resolve = [](const std::string& path) -> std::string {
    char resolved[PATH_MAX];
    return realpath(path.c_str(), resolved) == nullptr ? std::string() : std::string(resolved);
  };
  std::vector<std::string> inside;
  const std::string model = resolve(model_path);
  if (model.empty()) return inside;
  for (const std::string& file : own_files) {
    if (file.empty()) continue;
    // The file may not exist yet; its directory must.
    const size_t slash = file.rfind('/');
    const std::string directory = resolve(slash == std::string::npos ? "."
                                          : slash == 0               ? "/"
                                                                     : file.substr(0, slash));
    if (directory.empty()) continue;
    const std::string full = StrCat(directory == "/" ? "" : directory, "/", file.substr(slash + 1));
    const std::string prefix = model == "/" ? model : model + "/";
    if (absl::StartsWith(full, prefix)) inside.push_back(full.substr(prefix.size()));
  }
  return inside;
}

}  // namespace pavise::signing
