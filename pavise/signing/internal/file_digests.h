#ifndef PAVISE_SIGNING_INTERNAL_FILE_DIGESTS_H_
#define PAVISE_SIGNING_INTERNAL_FILE_DIGESTS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "pavise/hash/file_pass.h"
#include "pavise/model/file_tree.h"
#include "pavise/model/tensor_table.h"
#include "pavise/signing/statement.h"

#include "absl/status/statusor.h"

// What signing and verifying have in common: which digests to ask of each file.
namespace pavise::signing::internal {

// What a statement says of one file.
struct FileResources {
  std::vector<const Resource*> resources;  // one, or its shards from the first to the last
  const FileAnnotation* annotation = nullptr;
};

// By path. The statement must outlive it.
std::map<std::string, FileResources> ResourcesByPath(const Statement& statement);

// The request for one listed file, without any digest asked for yet. `tree` must outlive the pass.
hash::FileRequest RequestFor(const model::FileTree& tree, const model::FileEntry& entry);

// The shards that the OMS method `shards` cuts a file into.
std::vector<hash::Range> ShardsOf(uint64_t size_bytes, uint64_t shard_size_bytes);

// Asks for the OMS digests of one file: the tree's root for whole files under BLAKE3, else a range
// digest for the file or each shard (none for an empty file in the shards method).
void RequestOmsDigests(const Serialization& serialization, uint64_t size_bytes,
                       hash::FileRequest& request);
// Those digests, in order, from the result; `first` is the index of the first of them in
// FileResult::digests.
std::vector<Bytes> OmsDigestsOf(const Serialization& serialization, const hash::FileResult& result,
                                size_t first, size_t count);

// Reads the tensor table of a listed file, of the very file that was listed (identity checked).
absl::StatusOr<std::optional<model::TensorTable>> ReadTable(const model::FileTree& tree,
                                                            const model::FileEntry& entry);

// The bytes of the file that the request makes the pass read, overlapping ranges counted twice.
uint64_t BytesRead(const hash::FileRequest& request);

// RunFilePass, or `elsewhere` where that is given, between the Start and Finish of the progress.
absl::StatusOr<std::vector<absl::StatusOr<hash::FileResult>>> RunPass(
    const std::vector<hash::FileRequest>& requests, const hash::PassOptions& options,
    hash::FilePass* elsewhere = nullptr);

// Where several digests of the same bytes are signed or compared: unless the caller chose a way of
// reading, all of them are computed from one private copy. Through a shared mapping two digests may
// see different bytes of a file that is written meanwhile, and the kernel does not update a file's
// times for every write through somebody else's mapping.
hash::PassOptions OneCopy(hash::PassOptions options);

// "CPU, AVX3_SPR, 2 threads": what hashed, for results.
std::string DescribeDevice(const hash::PassOptions& options);

// Finds an entry by path; nullptr when absent. `files` ascending by path.
const model::FileEntry* FindEntry(const std::vector<model::FileEntry>& files,
                                  const std::string& path);

}  // namespace pavise::signing::internal

#endif  // PAVISE_SIGNING_INTERNAL_FILE_DIGESTS_H_
