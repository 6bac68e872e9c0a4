#include "pavise/signing/internal/file_digests.h"

#include <algorithm>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/hash/blake3.h"
#include "pavise/hash/cpu/cpu_device.h"

namespace pavise::signing::internal {

std::map<std::string, FileResources> ResourcesByPath(const Statement& statement) {
  std::map<std::string, FileResources> files;
  for (const Resource& resource : statement.resources) {
    FileResources& file = files[resource.path];
    file.resources.push_back(&resource);
    if (resource.annotation.has_value()) file.annotation = &*resource.annotation;
  }
  // A statement may list shards in the order of their names' code points ("a:10:15" before
  // "a:5:10").
  for (auto& [path, file] : files) {
    std::sort(file.resources.begin(), file.resources.end(),
              [](const Resource* a, const Resource* b) { return a->begin_bytes < b->begin_bytes; });
  }
  return files;
}

hash::FileRequest RequestFor(const model::FileTree& tree, const model::FileEntry& entry) {
  hash::FileRequest request;
  request.name = entry.path == "." ? tree.root() : entry.path;
  request.open = [&tree, path = entry.path] { return tree.OpenFile(path); };
  request.size_bytes = entry.identity.size_bytes;
  request.expected_identity = entry.identity;
  return request;
}

std::vector<hash::Range> ShardsOf(uint64_t size_bytes, uint64_t shard_size_bytes) {
  std::vector<hash::Range> shards;
  for (uint64_t begin = 0; begin < size_bytes;) {
    const uint64_t length = std::min(shard_size_bytes, size_bytes - begin);
    shards.push_back({begin, length});
    begin += length;
  }
  return shards;
}

void RequestOmsDigests(const Serialization& serialization, uint64_t size_bytes,
                       hash::FileRequest& request) {
  if (serialization.method == SerializationMethod::kShards) {
    for (const hash::Range& shard : ShardsOf(size_bytes, serialization.shard_size_bytes)) {
      request.digests.push_back({serialization.hash_type, shard});
    }
  } else if (serialization.hash_type == hash::Algorithm::kBlake3) {
    request.tree = true;
  } else {
    request.digests.push_back({serialization.hash_type, {0, size_bytes}});
  }
}

std::vector<Bytes> OmsDigestsOf(const Serialization& serialization, const hash::FileResult& result,
                                size_t first, size_t count) {
  if (serialization.method == SerializationMethod::kFiles &&
      serialization.hash_type == hash::Algorithm::kBlake3) {
    return {Bytes(result.root.begin(), result.root.end())};
  }
  const auto begin = result.digests.begin() + static_cast<ptrdiff_t>(first);
  return {begin, begin + static_cast<ptrdiff_t>(count)};
}

absl::StatusOr<std::optional<model::TensorTable>> ReadTable(const model::FileTree& tree,
                                                            const model::FileEntry& entry) {
  PAVISE_ASSIGN_OR_RETURN(const FileDescriptor file, tree.OpenFile(entry.path));
  PAVISE_ASSIGN_OR_RETURN(const FileIdentity identity, IdentityOf(file, entry.path));
  if (!(identity == entry.identity)) {
    return Refuse(Reason::kFileUnstable, entry.path, "changed while the model was read",
                  "stop the program that writes it and try again");
  }
  // A single-file model is called "."; its format shows in the name it has on disk.
  const std::string name = entry.path == "." ? tree.root() : entry.path;
  return model::ReadTensorTable(file, name, identity.size_bytes);
}

uint64_t BytesRead(const hash::FileRequest& request) {
  if (!request.only_subtrees.empty()) {
    uint64_t bytes = 0;
    for (const uint64_t index : request.only_subtrees) {
      bytes +=
          std::min<uint64_t>(hash::kSubtreeBytes, request.size_bytes - index * hash::kSubtreeBytes);
    }
    return bytes;
  }
  if (request.tree) return request.size_bytes;
  uint64_t bytes = 0;
  for (const hash::RangeDigestRequest& digest : request.digests) bytes += digest.range.size_bytes;
  return std::min(bytes, request.size_bytes);
}

absl::StatusOr<std::vector<absl::StatusOr<hash::FileResult>>> RunPass(
    const std::vector<hash::FileRequest>& requests, const hash::PassOptions& options,
    hash::FilePass* elsewhere) {
  const auto run = [&] {
    return elsewhere != nullptr ? elsewhere->Run(requests, options.progress)
                                : hash::RunFilePass(requests, options);
  };
  if (options.progress == nullptr) return run();
  uint64_t total_bytes = 0;
  for (const hash::FileRequest& request : requests) total_bytes += BytesRead(request);
  options.progress->Start("hashing", total_bytes);
  auto results = run();
  options.progress->Finish();
  return results;
}

hash::PassOptions OneCopy(hash::PassOptions options) {
  if (options.mode == hash::ReadMode::kAuto) options.mode = hash::ReadMode::kBuffered;
  return options;
}

std::string DescribeDevice(const hash::PassOptions& options) {
  const unsigned threads = options.threads == 0 ? hash::UsableCpus() : options.threads;
  return StrCat("CPU, ", hash::Blake3Target(), ", ", threads,
                threads == 1 ? " thread" : " threads");
}

const model::FileEntry* FindEntry(const std::vector<model::FileEntry>& files,
                                  const std::string& path) {
  const auto it = std::lower_bound(
      files.begin(), files.end(), path,
      [](const model::FileEntry& entry, const std::string& wanted) { return entry.path < wanted; });
  return it != files.end() && it->path == path ? &*it : nullptr;
}

}  // namespace pavise::signing::internal
