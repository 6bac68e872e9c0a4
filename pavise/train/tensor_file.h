#ifndef PAVISE_TRAIN_TENSOR_FILE_H_
#define PAVISE_TRAIN_TENSOR_FILE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/model/tensor_table.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Safetensors files of trained models and checkpoints (docs/formats/training.md).
namespace pavise::train {

inline constexpr uint64_t kMaxTensorFileBytes = uint64_t{64} << 30;

struct NamedTensor {
  std::string name;
  std::string dtype;  // safetensors' own: "F32", "I64"
  std::vector<uint64_t> shape;
  ByteSpan bytes;  // little-endian; whoever calls owns them
};

// One of the strings of __metadata__: the SHA-256 of the whole file in hexadecimal, taken with 64
// zeros in its place.
inline constexpr std::string_view kFileDigestKey = "sha256";

// Writes the tensors, wider elements first and then by name, so that all lie aligned; atomically.
// `metadata` gets the file's digest where `with_digest`. `mode`: the file's permission bits. A
// usage error: two tensors of one name, a length that is not that of dtype and shape.
absl::Status WriteTensorFile(const std::string& path, std::vector<NamedTensor> tensors,
                             std::map<std::string, std::string> metadata, bool with_digest,
                             mode_t mode);

struct TensorFile {
  Bytes bytes;
  model::TensorTable table;
  std::map<std::string, std::string> metadata;

  // nullptr: there is none of that name.
  const model::TensorEntry* Find(std::string_view name) const;
  ByteSpan BytesOf(const model::TensorEntry& entry) const {
    return ByteSpan(bytes).subspan(entry.begin_bytes, entry.end_bytes - entry.begin_bytes);
  }
};

// Reads a file that WriteTensorFile wrote with a digest: kMalformed where it is no safetensors
// file, kContentMismatch where the digest is absent or another one.
absl::StatusOr<TensorFile> ReadTensorFile(const std::string& path);

}  // namespace pavise::train

#endif  // PAVISE_TRAIN_TENSOR_FILE_H_
