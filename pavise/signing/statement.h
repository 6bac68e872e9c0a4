#ifndef PAVISE_SIGNING_STATEMENT_H_
#define PAVISE_SIGNING_STATEMENT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/hash/algorithm.h"
#include "pavise/model/tensor_table.h"

#include "absl/status/statusor.h"

// The signed statement: in-toto Statement v1 with the OMS predicate v1.0, and Pavise's annotations
// (docs/formats/annotations.md).
namespace pavise::signing {

// The longest statement that is read or written: its base64 and a certificate chain fit into a
// bundle (kMaxBundleBytes).
inline constexpr uint64_t kMaxStatementBytes = uint64_t{90} << 20;

struct TensorDigest {
  model::TensorEntry tensor;
  Digest32 blake3 = {};
};

// What a signer recognises a file by when signing again (docs/decisions/0002): digests, so that a
// signature tells nothing of the signer's machine that a reader could use.
struct FileStamp {
  Digest32 place = {};    // of device and inode: the same file
  Digest32 content = {};  // of these, size, mtime and ctime: not written since

  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

// What Pavise signs of a file besides its OMS digest: `annotations.pavise` of its resource
// descriptor (in the shards method: of the file's first shard).
struct FileAnnotation {
  uint64_t size_bytes = 0;
  Digest32 blake3 = {};  // root
  // Of no meaning to a verifier. Absent where the file was written too shortly before it was hashed
  // for its times to tell.
  std::optional<FileStamp> stamp;
  std::optional<model::TensorFormat> tensor_format;
  uint64_t tensor_data_begin_bytes = 0;
  std::vector<TensorDigest> tensors;  // ascending by begin, then name
};

// One entry of predicate.resources.
struct Resource {
  std::string name;       // as written: "a/b", "a/b:0:1000", "."
  std::string path;       // "a/b"; "." for a single-file model
  std::string algorithm;  // as written: "sha256", "sha256-sharded-1000", ...
  Bytes digest;
  // shards only: [begin, end) of the file.
  uint64_t begin_bytes = 0;
  uint64_t end_bytes = 0;
  std::optional<FileAnnotation> annotation;
};

// What the reference tool leaves out by default, at the top of a model only.
inline constexpr std::string_view kGitPaths[] = {".git", ".gitattributes", ".github", ".gitignore"};

enum class SerializationMethod { kFiles, kShards };

struct Serialization {
  SerializationMethod method = SerializationMethod::kFiles;
  hash::Algorithm hash_type = hash::Algorithm::kSha256;
  uint64_t shard_size_bytes = 1'000'000'000;  // shards only
  bool allow_symlinks = false;
  std::vector<std::string> ignore_paths;
};

struct Statement {
  std::string model_name;  // subject[0].name
  Digest32 root = {};      // SHA-256 over the raw resource digests in listed order
  // subject[0].annotations.pavise.model_version: counts up, for the trust policy's minimum.
  std::optional<uint64_t> model_version;
  Serialization serialization;
  std::vector<Resource> resources;
  // Predicate https://model_signing/Digests/v0.1 of release 0.2.0.
  bool is_release_020 = false;
};

// Parses and checks all that can be checked without the files (docs/formats/annotations.md): the
// types, the single subject, safe and unique names, digest lengths, the root against the digests in
// their listed order, shards that cover each file from 0 without gaps or overlaps, annotations
// (sizes, ranges inside the file, unique tensor names, agreement with the digests). Unknown members
// are refused, except in resource descriptors, the subject, its digest set and their annotations
// (in-toto ResourceDescriptor: any further field), where ours (`annotations.pavise`) is strict.
// Resources stay in the order listed; there may be none. kMalformed, kPathUnsafe, kUnsupported
// (hash, method, predicate, annotation version), kLimitExceeded.
absl::StatusOr<Statement> ParseStatement(ByteSpan payload, std::string_view item);

// The statement as JSON text: what gets signed. Fills in names, algorithms and the root; resources
// are put in the order of the code points of their names (files: path; shards: path, then offset).
// The rules of ParseStatement hold here too, with the same reasons, and leave the statement as it
// was; besides, a statement without resources (kMalformed) and one of release 0.2.0 (kUnsupported)
// are never written.
absl::StatusOr<std::string> FormatStatement(Statement& statement);

}  // namespace pavise::signing

#endif  // PAVISE_SIGNING_STATEMENT_H_
