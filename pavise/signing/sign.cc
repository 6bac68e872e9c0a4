#include "pavise/signing/sign.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>
#include <utility>

#include "pavise/base/file.h"
#include "pavise/base/glob.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/model/file_tree.h"
#include "pavise/signing/bundle.h"
#include "pavise/signing/internal/file_digests.h"
#include "pavise/signing/outboard.h"
#include "pavise/signing/verify.h"

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace pavise::signing {
namespace {

using hash::kSubtreeBytes;

constexpr uint64_t kMostShards = 500'000;
// Kernels stamp files with a clock that lags by up to a timer tick; files written this shortly
// before they were hashed get no stamp.
constexpr absl::Duration kTimestampSlack = absl::Milliseconds(20);

// What the previous signature and its outboard file say of one file.
struct PreviousFile {
  internal::FileResources signed_as;
  const OutboardFile* outboard = nullptr;
};

struct Previous {
  Statement statement;
  Outboard outboard;
  std::map<std::string, PreviousFile> files;
};

// How one file's digests come about, and where the pass puts them.
struct FilePlan {
  enum class Kind { kWhole, kChangedTensors, kReused } kind = Kind::kWhole;
  const model::FileEntry* entry = nullptr;
  FileStamp stamp;
  bool keep_stamp = false;
  std::optional<model::TensorTable> table;
  const PreviousFile* previous = nullptr;

  size_t request = 0;    // kWhole: index into the pass's requests
  size_t oms_count = 0;  // the first digests of that request
  // kChangedTensors: `request` is for chaining values; of the second pass:
  size_t digest_request = 0;
  std::vector<size_t> tensors;  // indices into the table, one digest each
  std::vector<size_t> shards;   // indices of the shards hashed again, after the tensors
};

std::string ModelName(const SignOptions& options) {
  return options.model_name.empty() ? BaseName(options.model_path) : options.model_name;
}

std::vector<std::string> IgnoredPaths(const SignOptions& options, const std::string& outboard) {
  std::set<std::string> ignored(options.serialization.ignore_paths.begin(),
                                options.serialization.ignore_paths.end());
  if (options.ignore_git_paths) ignored.insert(std::begin(kGitPaths), std::end(kGitPaths));
  std::vector<std::string> own_files = {options.signature_path};
  if (options.annotate) own_files.push_back(outboard);
  for (std::string& own : OwnFilesInModel(options.model_path, own_files)) {
    ignored.insert(std::move(own));
  }
  return {ignored.begin(), ignored.end()};
}

absl::StatusOr<Previous> ReadPrevious(const SignOptions& options) {
  const IncrementalOptions& incremental = *options.incremental;
  const std::string& path = incremental.previous_signature_path;
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path, kMaxBundleBytes));
  PAVISE_ASSIGN_OR_RETURN(const Bundle bundle, ParseBundle(text, path));
  const absl::Status own = options.signer->public_key().Verify(
      PreAuthenticationEncoding(bundle.payload_type, bundle.payload), bundle.signature, path);
  if (!own.ok()) {
    return Refuse(Reason::kSignatureInvalid, path,
                  "was not signed with this key: its digests cannot be reused",
                  "sign without --incremental");
  }
  Previous previous;
  PAVISE_ASSIGN_OR_RETURN(previous.statement, ParseStatement(bundle.payload, path));
  PAVISE_ASSIGN_OR_RETURN(previous.outboard,
                          ReadOutboard(incremental.previous_outboard_path.empty()
                                           ? DefaultOutboardPath(path)
                                           : incremental.previous_outboard_path));
  for (auto& [name, signed_as] : internal::ResourcesByPath(previous.statement)) {
    PreviousFile& file = previous.files[name];
    const auto it = previous.outboard.files.find(name);
    if (signed_as.annotation != nullptr && it != previous.outboard.files.end() &&
        it->second.root == signed_as.annotation->blake3 &&
        it->second.size_bytes == signed_as.annotation->size_bytes) {
      file.outboard = &it->second;
    }
    file.signed_as = std::move(signed_as);
  }
  return previous;
}

bool SameSerialization(const Serialization& a, const Serialization& b) {
  return a.method == b.method && a.hash_type == b.hash_type &&
         (a.method == SerializationMethod::kFiles || a.shard_size_bytes == b.shard_size_bytes);
}

// Whether a write after `hashed_at` is sure to show in the file's times.
bool TimesWillTell(const FileIdentity& identity, absl::Time hashed_at) {
  const int64_t limit = absl::ToUnixNanos(hashed_at - kTimestampSlack);
  return identity.modified_ns < limit && identity.changed_ns < limit;
}

FileStamp StampOf(const FileIdentity& identity) {
  FileStamp stamp;
  Bytes place;
  AppendLittleEndian64(identity.device, place);
  AppendLittleEndian64(identity.inode, place);
  stamp.place = hash::Blake3DeriveKey("pavise stamp v1: device and inode", place);
  Bytes content = place;
  AppendLittleEndian64(identity.size_bytes, content);
  AppendLittleEndian64(static_cast<uint64_t>(identity.modified_ns), content);
  AppendLittleEndian64(static_cast<uint64_t>(identity.changed_ns), content);
  stamp.content =
      hash::Blake3DeriveKey("pavise stamp v1: device, inode, size, mtime and ctime", content);
  return stamp;
}

bool SameLayout(const model::TensorTable& table, const FileAnnotation& annotation) {
  return annotation.tensor_format == table.format &&
         annotation.tensor_data_begin_bytes == table.data_begin_bytes &&
         std::equal(
             table.tensors.begin(), table.tensors.end(), annotation.tensors.begin(),
             annotation.tensors.end(),
             [](const model::TensorEntry& a, const TensorDigest& b) { return a == b.tensor; });
}

// Plans to hash only the changed tensors' MiB ranges of a file that was written; false where the
// whole file must be hashed.
bool PlanChangedTensors(const SignOptions& options, FilePlan& plan, hash::FileRequest base,
                        std::vector<hash::FileRequest>& requests) {
  const std::vector<std::string>& globs = options.incremental->changed_tensors;
  const PreviousFile& previous = *plan.previous;
  const uint64_t size_bytes = plan.entry->identity.size_bytes;
  const bool whole_file_digest = options.serialization.method == SerializationMethod::kFiles &&
                                 options.serialization.hash_type != hash::Algorithm::kBlake3;
  if (globs.empty() || whole_file_digest || size_bytes <= kSubtreeBytes ||
      !plan.table.has_value() || previous.signed_as.annotation->size_bytes != size_bytes ||
      !SameLayout(*plan.table, *previous.signed_as.annotation) ||
      // What is taken over must be of this very file: another one with the same layout may hold
      // other tensors.
      !previous.signed_as.annotation->stamp.has_value() ||
      previous.signed_as.annotation->stamp->place != plan.stamp.place) {
    return false;
  }
  // The header may have changed where the layout did not (metadata).
  std::set<uint64_t> subtrees;
  const auto cover = [&](uint64_t begin, uint64_t end) {
    for (uint64_t i = begin / kSubtreeBytes; i * kSubtreeBytes < end; ++i) subtrees.insert(i);
  };
  bool any = false;
  for (const model::TensorEntry& tensor : plan.table->tensors) {
    if (std::any_of(globs.begin(), globs.end(),
                    [&](const std::string& glob) { return GlobMatches(glob, tensor.name); })) {
      any = true;
      cover(tensor.begin_bytes, tensor.end_bytes);
    }
  }
  if (!any) return false;
  cover(0, plan.table->data_begin_bytes);

  hash::FileRequest values = std::move(base);
  values.only_subtrees.assign(subtrees.begin(), subtrees.end());
  plan.kind = FilePlan::Kind::kChangedTensors;
  plan.request = requests.size();
  requests.push_back(std::move(values));
  return true;
}

// Asks for the digests of what lies in the ranges that turned out to have changed: every tensor
// that shares one of them, declared or not (a neighbour's digest must not be older than the
// chaining value over its bytes), and every shard.
void PlanDigestsOfChanges(const SignOptions& options, const model::FileTree& tree,
                          const std::vector<uint64_t>& hashed_subtrees,
                          const hash::FileResult& values, FilePlan& plan,
                          std::vector<hash::FileRequest>& requests) {
  std::set<uint64_t> changed;
  for (const uint64_t number : hashed_subtrees) {
    if (values.subtrees[number] != plan.previous->outboard->subtrees[number]) {
      changed.insert(number);
    }
  }
  const auto touched = [&](uint64_t begin, uint64_t end) {
    const auto it = changed.lower_bound(begin / kSubtreeBytes);
    return it != changed.end() && *it * kSubtreeBytes < end && begin < end;
  };
  hash::FileRequest digests = internal::RequestFor(tree, *plan.entry);
  for (size_t i = 0; i < plan.table->tensors.size(); ++i) {
    const model::TensorEntry& tensor = plan.table->tensors[i];
    if (!touched(tensor.begin_bytes, tensor.end_bytes)) continue;
    plan.tensors.push_back(i);
    digests.digests.push_back(
        {hash::Algorithm::kBlake3, {tensor.begin_bytes, tensor.end_bytes - tensor.begin_bytes}});
  }
  if (options.serialization.method == SerializationMethod::kShards) {
    const std::vector<hash::Range> shards =
        internal::ShardsOf(plan.entry->identity.size_bytes, options.serialization.shard_size_bytes);
    for (size_t i = 0; i < shards.size(); ++i) {
      if (!touched(shards[i].offset_bytes, shards[i].offset_bytes + shards[i].size_bytes)) continue;
      plan.shards.push_back(i);
      digests.digests.push_back({options.serialization.hash_type, shards[i]});
    }
  }
  plan.digest_request = requests.size();
  requests.push_back(std::move(digests));
}

absl::StatusOr<FilePlan> PlanFile(const SignOptions& options, const model::FileTree& tree,
                                  const model::FileEntry& entry, const Previous* previous,
                                  absl::Time hashed_at, std::vector<hash::FileRequest>& requests) {
  FilePlan plan;
  plan.entry = &entry;
  plan.stamp = StampOf(entry.identity);
  plan.keep_stamp = TimesWillTell(entry.identity, hashed_at);
  if (previous != nullptr) {
    const auto it = previous->files.find(entry.path);
    if (it != previous->files.end() && it->second.outboard != nullptr) {
      plan.previous = &it->second;
      const FileAnnotation& annotation = *it->second.signed_as.annotation;
      if (annotation.size_bytes == entry.identity.size_bytes && annotation.stamp == plan.stamp) {
        plan.kind = FilePlan::Kind::kReused;
        return plan;
      }
    }
  }
  if (options.annotate) {
    PAVISE_ASSIGN_OR_RETURN(plan.table, internal::ReadTable(tree, entry));
  }
  if (options.serialization.method == SerializationMethod::kShards &&
      entry.identity.size_bytes / options.serialization.shard_size_bytes > kMostShards) {
    return Refuse(Reason::kLimitExceeded, entry.path,
                  StrCat("makes more than ", kMostShards, " shards"),
                  "choose a larger --shard-size");
  }
  hash::FileRequest request = internal::RequestFor(tree, entry);
  if (plan.previous != nullptr && PlanChangedTensors(options, plan, request, requests)) {
    return plan;
  }
  internal::RequestOmsDigests(options.serialization, entry.identity.size_bytes, request);
  plan.oms_count = request.digests.size();
  if (options.annotate) {
    request.tree = true;
    if (plan.table.has_value()) {
      for (const model::TensorEntry& tensor : plan.table->tensors) {
        request.digests.push_back({hash::Algorithm::kBlake3,
                                   {tensor.begin_bytes, tensor.end_bytes - tensor.begin_bytes}});
      }
    }
  }
  plan.request = requests.size();
  requests.push_back(std::move(request));
  return plan;
}

Digest32 ToDigest32(const Bytes& bytes) {
  Digest32 digest = {};
  std::copy_n(bytes.begin(), std::min(bytes.size(), digest.size()), digest.begin());
  return digest;
}

FileAnnotation NewAnnotation(const FilePlan& plan, const hash::FileResult& result,
                             size_t first_tensor_digest) {
  FileAnnotation annotation;
  annotation.size_bytes = plan.entry->identity.size_bytes;
  annotation.blake3 = result.root;
  if (plan.keep_stamp) annotation.stamp = plan.stamp;
  if (plan.table.has_value()) {
    annotation.tensor_format = plan.table->format;
    annotation.tensor_data_begin_bytes = plan.table->data_begin_bytes;
    for (size_t i = 0; i < plan.table->tensors.size(); ++i) {
      annotation.tensors.push_back(
          {plan.table->tensors[i], ToDigest32(result.digests[first_tensor_digest + i])});
    }
  }
  return annotation;
}

// The OMS resources of one file from its digests, the annotation on the first.
void AddResources(const SignOptions& options, const FilePlan& plan, std::vector<Bytes> digests,
                  std::optional<FileAnnotation> annotation, Statement& statement) {
  const Serialization& serialization = options.serialization;
  const bool sharded = serialization.method == SerializationMethod::kShards;
  const uint64_t size_bytes = plan.entry->identity.size_bytes;
  for (size_t i = 0; i < digests.size(); ++i) {
    Resource resource;
    resource.path = plan.entry->path;
    resource.digest = std::move(digests[i]);
    if (sharded) {
      resource.begin_bytes = i * serialization.shard_size_bytes;
      resource.end_bytes =
          std::min(size_bytes, resource.begin_bytes + serialization.shard_size_bytes);
    }
    if (i == 0) resource.annotation = std::move(annotation);
    statement.resources.push_back(std::move(resource));
  }
}

struct Hashed {
  SignReport report;
  Outboard outboard;
  std::string payload;
};

void AddReusedFile(const SignOptions& options, const FilePlan& plan, Hashed& hashed) {
  std::vector<Bytes> digests;
  for (const Resource* resource : plan.previous->signed_as.resources)
    digests.push_back(resource->digest);
  AddResources(options, plan, std::move(digests), *plan.previous->signed_as.annotation,
               hashed.report.statement);
  hashed.outboard.files[plan.entry->path] = *plan.previous->outboard;
  ++hashed.report.files_reused;
}

void AddChangedFile(const SignOptions& options, const FilePlan& plan,
                    const hash::FileRequest& values_request, const hash::FileResult& values,
                    const hash::FileResult& digests, Hashed& hashed) {
  OutboardFile outboard = *plan.previous->outboard;
  for (const uint64_t number : values_request.only_subtrees) {
    outboard.subtrees[number] = values.subtrees[number];
  }
  outboard.root = hash::Blake3RootFromSubtrees(outboard.subtrees);

  FileAnnotation annotation = *plan.previous->signed_as.annotation;
  annotation.blake3 = outboard.root;
  annotation.stamp.reset();
  if (plan.keep_stamp) annotation.stamp = plan.stamp;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    annotation.tensors[plan.tensors[i]].blake3 = ToDigest32(digests.digests[i]);
  }
  std::vector<Bytes> oms;
  if (options.serialization.method == SerializationMethod::kFiles) {
    oms.emplace_back(outboard.root.begin(), outboard.root.end());
  } else {
    for (const Resource* resource : plan.previous->signed_as.resources)
      oms.push_back(resource->digest);
    for (size_t i = 0; i < plan.shards.size(); ++i) {
      oms[plan.shards[i]] = digests.digests[plan.tensors.size() + i];
    }
  }
  AddResources(options, plan, std::move(oms), std::move(annotation), hashed.report.statement);
  hashed.outboard.files[plan.entry->path] = std::move(outboard);
}

void AddHashedFile(const SignOptions& options, const FilePlan& plan, hash::FileResult&& result,
                   Hashed& hashed) {
  std::vector<Bytes> oms = internal::OmsDigestsOf(options.serialization, result, 0, plan.oms_count);
  std::optional<FileAnnotation> annotation;
  if (options.annotate) {
    annotation = NewAnnotation(plan, result, plan.oms_count);
  }
  // The shards method does not sign empty files.
  if (options.annotate && !oms.empty()) {
    hashed.outboard.files[plan.entry->path] = {plan.entry->identity.size_bytes, result.root,
                                               std::move(result.subtrees)};
  }
  AddResources(options, plan, std::move(oms), std::move(annotation), hashed.report.statement);
}

absl::Status CheckOptions(const SignOptions& options) {
  const Serialization& serialization = options.serialization;
  if (serialization.method == SerializationMethod::kShards && serialization.shard_size_bytes == 0) {
    return UsageError("a shard size of 0");
  }
  if (serialization.hash_type == hash::Algorithm::kSha384) {
    return UsageError("OMS knows sha256, blake2b and blake3, not sha384");
  }
  if (options.fips && serialization.hash_type != hash::Algorithm::kSha256) {
    return UsageError(
        StrCat("--fips allows sha256 only, not ", hash::AlgorithmName(serialization.hash_type)));
  }
  if (options.incremental.has_value() && (!options.annotate || options.fips)) {
    return UsageError("incremental signing needs the annotations and the outboard tree");
  }
  return absl::OkStatus();
}

// One pass in which every file must succeed; counts the bytes.
absl::StatusOr<std::vector<hash::FileResult>> RunWholePass(
    const std::vector<hash::FileRequest>& requests, const SignOptions& options,
    SignReport& report) {
  for (const hash::FileRequest& request : requests) {
    report.bytes_hashed += internal::BytesRead(request);
  }
  hash::PassOptions pass = internal::OneCopy(options.pass);
  if (options.fips) pass.provider_digests_only = true;
  PAVISE_ASSIGN_OR_RETURN(std::vector<absl::StatusOr<hash::FileResult>> passed,
                          internal::RunPass(requests, pass));
  std::vector<Refusal> findings;
  std::vector<hash::FileResult> results;
  for (absl::StatusOr<hash::FileResult>& result : passed) {
    if (result.ok()) {
      if (!result->sha256_by.empty()) report.sha256_by = result->sha256_by;
      results.push_back(*std::move(result));
      continue;
    }
    std::vector<Refusal> refusals = RefusalsOf(result.status());
    if (refusals.empty()) return result.status();
    findings.insert(findings.end(), refusals.begin(), refusals.end());
  }
  if (!findings.empty()) return Refuse(std::move(findings));
  return results;
}

absl::StatusOr<Hashed> HashModel(const SignOptions& options) {
  PAVISE_RETURN_IF_ERROR(CheckOptions(options));
  const std::string outboard_path = options.outboard_path.empty()
                                        ? DefaultOutboardPath(options.signature_path)
                                        : options.outboard_path;
  Hashed hashed;
  SignReport& report = hashed.report;
  report.device = internal::DescribeDevice(options.pass);
  if (options.fips) report.fips_provider = crypto::FipsProviderDescription();

  Statement& statement = report.statement;
  statement.serialization = options.serialization;
  statement.serialization.ignore_paths = IgnoredPaths(options, outboard_path);
  statement.model_version = options.model_version;

  std::optional<Previous> previous;
  if (options.incremental.has_value()) {
    PAVISE_ASSIGN_OR_RETURN(previous, ReadPrevious(options));
    const std::string name = ModelName(options);
    if (previous->statement.model_name != name) {
      return Refuse(Reason::kContentMismatch, options.incremental->previous_signature_path,
                    StrCat("is for the model \"", Printable(previous->statement.model_name),
                           "\", not \"", Printable(name), "\""),
                    "sign without --incremental");
    }
    if (!SameSerialization(previous->statement.serialization, options.serialization)) {
      report.warnings.push_back(
          "the previous signature uses another method, hash or shard size: everything is hashed");
      previous.reset();
    }
  }
  model::WalkOptions walk;
  walk.allow_symlinks = options.serialization.allow_symlinks;
  walk.ignore_paths = statement.serialization.ignore_paths;
  PAVISE_ASSIGN_OR_RETURN(const model::FileTree tree,
                          model::FileTree::Open(options.model_path, walk));
  hashed.outboard.hashed_at = options.clock->Now();
  if (std::any_of(tree.files().begin(), tree.files().end(), [&](const model::FileEntry& entry) {
        return !TimesWillTell(entry.identity, hashed.outboard.hashed_at);
      })) {
    // Fresh from the trainer: a moment later its times will tell.
    absl::SleepFor(kTimestampSlack);
    hashed.outboard.hashed_at = options.clock->Now();
  }
  statement.model_name = ModelName(options);

  std::vector<hash::FileRequest> requests;
  std::vector<FilePlan> plans;
  std::vector<Refusal> findings;
  for (const model::FileEntry& entry : tree.files()) {
    report.model_bytes += entry.identity.size_bytes;
    absl::StatusOr<FilePlan> plan =
        PlanFile(options, tree, entry, previous.has_value() ? &*previous : nullptr,
                 hashed.outboard.hashed_at, requests);
    if (plan.ok()) {
      plans.push_back(*std::move(plan));
      continue;
    }
    std::vector<Refusal> refusals = RefusalsOf(plan.status());
    if (refusals.empty()) return plan.status();
    findings.insert(findings.end(), refusals.begin(), refusals.end());
  }
  if (!findings.empty()) return Refuse(std::move(findings));

  PAVISE_ASSIGN_OR_RETURN(std::vector<hash::FileResult> results,
                          RunWholePass(requests, options, report));
  std::vector<hash::FileRequest> digest_requests;
  for (FilePlan& plan : plans) {
    if (plan.kind != FilePlan::Kind::kChangedTensors) continue;
    PlanDigestsOfChanges(options, tree, requests[plan.request].only_subtrees, results[plan.request],
                         plan, digest_requests);
  }
  PAVISE_ASSIGN_OR_RETURN(const std::vector<hash::FileResult> digest_results,
                          RunWholePass(digest_requests, options, report));

  for (const FilePlan& plan : plans) {
    switch (plan.kind) {
      case FilePlan::Kind::kReused:
        AddReusedFile(options, plan, hashed);
        break;
      case FilePlan::Kind::kChangedTensors:
        AddChangedFile(options, plan, requests[plan.request], results[plan.request],
                       digest_results[plan.digest_request], hashed);
        break;
      case FilePlan::Kind::kWhole:
        AddHashedFile(options, plan, std::move(results[plan.request]), hashed);
        break;
    }
  }
  if (options.serialization.method == SerializationMethod::kShards) {
    for (const model::FileEntry& entry : tree.files()) {
      if (entry.identity.size_bytes > 0) continue;
      report.warnings.push_back(
          StrCat(Printable(entry.path), " is empty: the shards method does not sign it"));
    }
  }
  if (statement.resources.empty()) {
    return Refuse(Reason::kFileMissing, options.model_path,
                  "holds no bytes to sign: the OMS specification forbids empty models",
                  "check the path and --ignore-paths");
  }
  PAVISE_ASSIGN_OR_RETURN(hashed.payload, FormatStatement(statement));
  return hashed;
}

// An output may replace an older output and nothing else: neither a model's file or a key that was
// named by mistake, nor a device.
absl::Status CheckOutput(const std::string& path, std::string_view what, std::string_view start) {
  struct stat status;
  if (lstat(path.c_str(), &status) != 0) {
    return errno == ENOENT ? absl::OkStatus() : FromErrno(errno, "stat", path);
  }
  constexpr std::string_view kRemedy = "name another file, or remove this one first";
  if (!S_ISREG(status.st_mode)) {
    return Refuse(Reason::kFileTypeRefused, path,
                  StrCat("is not a regular file; ", what, " would replace it"), kRemedy);
  }
  if (status.st_size == 0) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const FileDescriptor file, OpenRegularFile(path));
  Bytes first(std::min<uint64_t>(static_cast<uint64_t>(status.st_size), start.size()));
  PAVISE_RETURN_IF_ERROR(ReadExactly(file, 0, first, path));
  if (AsText(first) == start) return absl::OkStatus();
  return Refuse(Reason::kFileTypeRefused, path,
                StrCat("exists and does not look like ", what, ", which would replace it"),
                kRemedy);
}

absl::Status CheckOutputs(const SignOptions& options, const std::string& outboard_path) {
  if (options.signature_path == outboard_path) {
    return UsageError("the signature and the tree cannot be one file");
  }
  PAVISE_RETURN_IF_ERROR(CheckOutput(options.signature_path, "a signature file", "{"));
  if (options.annotate) {
    PAVISE_RETURN_IF_ERROR(CheckOutput(outboard_path, "an outboard tree file", "PAVISEOB"));
  }
  // An unwritable place is refused before hours of hashing, not after.
  const size_t slash = options.signature_path.rfind('/');
  const std::string directory = slash == std::string::npos ? "."
                                : slash == 0               ? "/"
                                             : options.signature_path.substr(0, slash);
  if (access(directory.c_str(), W_OK) != 0) return FromErrno(errno, "write to", directory);
  return absl::OkStatus();
}

absl::Status CheckSigner(const SignOptions& options) {
  if (options.signer == nullptr) return UsageError("no key to sign with");
  if (options.serialization.method == SerializationMethod::kShards &&
      options.serialization.hash_type == hash::Algorithm::kBlake3) {
    return UsageError(
        "BLAKE3 shards are not signed: the reference tool hashes whole files under that name and "
        "would "
        "refuse them; --method files is as parallel, a BLAKE3 digest being a tree");
  }
  const crypto::PublicKey& key = options.signer->public_key();
  if (!crypto::IsOmsKey(key.type())) {
    return Refuse(Reason::kKeyUnsupported, crypto::KeyTypeName(key.type()),
                  "OMS signs with P-256, P-384 and P-521 keys only",
                  "make a key with: pavise keygen --curve p256");
  }
  if (options.certificate_chain.empty()) return absl::OkStatus();
  const crypto::Certificate& leaf = options.certificate_chain.front();
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey leaf_key, leaf.public_key());
  if (!(leaf_key == key)) {
    return Refuse(Reason::kKeyMismatch, leaf.subject(),
                  "the signing certificate is for another key",
                  "give the certificate that was issued for this private key");
  }
  if (!leaf.MaySignModels()) {
    return Refuse(Reason::kCertificateInvalid, leaf.subject(),
                  "allows neither digital signatures (KeyUsage) nor code signing (EKU)",
                  "ask for a certificate with one of them");
  }
  const absl::Time now = options.clock->Now();
  if (now < leaf.not_before() || now > leaf.not_after()) {
    return Refuse(Reason::kCertificateInvalid, leaf.subject(),
                  StrCat("is valid from ", absl::FormatTime(leaf.not_before()), " to ",
                         absl::FormatTime(leaf.not_after())),
                  "renew the certificate");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SignReport> DigestModel(const SignOptions& options) {
  PAVISE_ASSIGN_OR_RETURN(Hashed hashed, HashModel(options));
  return std::move(hashed.report);
}

absl::StatusOr<SignReport> SignModel(const SignOptions& options_in) {
  SignOptions options = options_in;
  if (options.fips) options.annotate = false;
  PAVISE_RETURN_IF_ERROR(CheckSigner(options));
  const std::string outboard_path = options.outboard_path.empty()
                                        ? DefaultOutboardPath(options.signature_path)
                                        : options.outboard_path;
  PAVISE_RETURN_IF_ERROR(CheckOutputs(options, outboard_path));
  PAVISE_ASSIGN_OR_RETURN(Hashed hashed, HashModel(options));

  Bundle bundle;
  bundle.payload_type = std::string(kInTotoPayloadType);
  bundle.payload.assign(hashed.payload.begin(), hashed.payload.end());
  if (options.certificate_chain.empty()) {
    bundle.method = Method::kKey;
    bundle.key_hint = options.signer->public_key().OmsHint();
  } else {
    bundle.method = Method::kCertificate;
    for (const crypto::Certificate& certificate : options.certificate_chain) {
      bundle.certificates.push_back(certificate.der());
    }
  }
  const Bytes to_sign = PreAuthenticationEncoding(bundle.payload_type, bundle.payload);
  PAVISE_ASSIGN_OR_RETURN(bundle.signature, options.signer->Sign(to_sign));
  // A faulty token or a flipped bit in memory must not go out as a signature.
  PAVISE_RETURN_IF_ERROR(
      options.signer->public_key().Verify(to_sign, bundle.signature, "the fresh signature"));

  const std::string text = FormatBundle(bundle);
  if (text.size() > kMaxBundleBytes) {
    return Refuse(Reason::kLimitExceeded, options.signature_path,
                  StrCat("would be ", HumanBytes(text.size()), ", the limit is ",
                         HumanBytes(kMaxBundleBytes)),
                  "sign with fewer, larger files, or --no-annotations");
  }
  PAVISE_ASSIGN_OR_RETURN(AtomicFileWriter signature_writer,
                          AtomicFileWriter::Create(options.signature_path));
  PAVISE_RETURN_IF_ERROR(signature_writer.Append(AsBytes(text)));
  PAVISE_RETURN_IF_ERROR(signature_writer.Prepare());
  hashed.report.key_fingerprint = options.signer->public_key().Fingerprint();
  if (options.annotate) {
    PAVISE_ASSIGN_OR_RETURN(AtomicFileWriter outboard_writer,
                            AtomicFileWriter::Create(outboard_path));
    PAVISE_RETURN_IF_ERROR(WriteOutboard(hashed.outboard, outboard_writer));
    PAVISE_RETURN_IF_ERROR(outboard_writer.Prepare());
    // Both are on the disk; a crash between the renames leaves a pair that verify refuses.
    PAVISE_RETURN_IF_ERROR(outboard_writer.Commit());
    hashed.report.outboard_path = outboard_path;
  }
  PAVISE_RETURN_IF_ERROR(signature_writer.Commit());
  return std::move(hashed.report);
}

}  // namespace pavise::signing
