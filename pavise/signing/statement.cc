#include "pavise/signing/statement.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/model/file_tree.h"

#include "absl/strings/numbers.h"

namespace pavise::signing {
namespace {

constexpr std::string_view kStatementType = "https://in-toto.io/Statement/v1";
constexpr std::string_view kPredicateType = "https://model_signing/signature/v1.0";
constexpr std::string_view kPredicateType020 = "https://model_signing/Digests/v0.1";

constexpr uint64_t kMaxResources = 10'000'000;
constexpr uint64_t kMaxTensors = 4'000'000;  // a file
constexpr uint64_t kMaxJsonValues = 16'000'000;
constexpr size_t kMaxNameBytes = 4096;  // model name, ignored path
constexpr size_t kMaxDtypeBytes = 64;
constexpr size_t kMaxDimensions = 1024;
// Lengths and offsets stay exact in readers that keep numbers as doubles (RFC 7493, 2.2).
constexpr uint64_t kMaxLength = (uint64_t{1} << 53) - 1;
constexpr uint64_t kAnnotationVersion = 1;

constexpr JsonLimits kStatementLimits{
    .max_bytes = kMaxStatementBytes, .max_depth = 16, .max_values = kMaxJsonValues};

// The hash types of OMS; SHA-384 is none of them.
std::optional<hash::Algorithm> HashTypeFromName(std::string_view name) {
  const std::optional<hash::Algorithm> algorithm = hash::AlgorithmFromName(name);
  if (algorithm == hash::Algorithm::kSha384) return std::nullopt;
  return algorithm;
}

bool HasNul(std::string_view text) { return text.find('\0') != std::string_view::npos; }

// Text that is shown to people and handed to C interfaces.
absl::Status CheckText(std::string_view text, size_t min_bytes, size_t max_bytes,
                       std::string_view path) {
  if (text.size() < min_bytes) return Refuse(Reason::kMalformed, path, "is empty");
  if (text.size() > max_bytes) {
    return Refuse(Reason::kLimitExceeded, path, StrCat("longer than ", max_bytes, " bytes"));
  }
  if (HasNul(text)) return Refuse(Reason::kMalformed, path, "holds a NUL character");
  if (!IsUtf8(text)) return Refuse(Reason::kMalformed, path, "not UTF-8");
  return absl::OkStatus();
}

// ---- Rules that hold for a statement that is read and for one that is written ----

// Checks everything that depends on resources only; makes the paths of members as it goes.
class StatementChecker {
 public:
  StatementChecker(const Statement& statement, std::string_view item)
      : statement_(statement),
        serialization_(statement.serialization),
        sharded_(serialization_.method == SerializationMethod::kShards),
        item_(item) {}

  absl::Status Check() {
    PAVISE_RETURN_IF_ERROR(CheckHead());
    const std::vector<Resource>& resources = statement_.resources;
    if (resources.size() > kMaxResources) {
      return Refuse(Reason::kLimitExceeded, StrCat(item_, ".predicate.resources"),
                    StrCat(resources.size(), " entries, the limit is ", kMaxResources));
    }
    for (size_t i = 0; i < resources.size(); ++i) PAVISE_RETURN_IF_ERROR(CheckResource(i));
    SortByPath();
    PAVISE_RETURN_IF_ERROR(CheckFiles());
    return CheckPathsTogether();
  }

 private:
  std::string ResourcePath(size_t index, std::string_view member = "") const {
    return StrCat(item_, statement_.is_release_020 ? ".subject[" : ".predicate.resources[", index,
                  "]", member.empty() ? "" : ".", member);
  }

  absl::Status CheckHead() const {
    // Release 0.2.0 does not name its model.
    if (!statement_.is_release_020) {
      PAVISE_RETURN_IF_ERROR(
          CheckText(statement_.model_name, 1, kMaxNameBytes, StrCat(item_, ".subject[0].name")));
    }
    if (statement_.model_version.value_or(0) > kMaxLength) {
      return Refuse(Reason::kLimitExceeded,
                    StrCat(item_, ".subject[0].annotations.pavise.model_version"),
                    "not below 2^53");
    }
    const std::string path = StrCat(item_, ".predicate.serialization");
    if (serialization_.hash_type == hash::Algorithm::kSha384) {
      return Refuse(Reason::kUnsupported, StrCat(path, ".hash_type"), "not a hash type of OMS");
    }
    if (sharded_ &&
        (serialization_.shard_size_bytes == 0 || serialization_.shard_size_bytes > kMaxLength)) {
      return Refuse(Reason::kMalformed, StrCat(path, ".shard_size"), "not between 1 and 2^53 - 1");
    }
    for (size_t i = 0; i < serialization_.ignore_paths.size(); ++i) {
      PAVISE_RETURN_IF_ERROR(CheckText(serialization_.ignore_paths[i], 1, kMaxNameBytes,
                                       StrCat(path, ".ignore_paths[", i, "]")));
    }
    return absl::OkStatus();
  }

  absl::Status CheckResource(size_t index) const {
    const Resource& resource = statement_.resources[index];
    PAVISE_RETURN_IF_ERROR(model::CheckRelativePath(resource.path, ResourcePath(index, "name")));
    if (resource.digest.size() != hash::DigestSizeBytes(serialization_.hash_type)) {
      return Refuse(Reason::kMalformed, ResourcePath(index, "digest"),
                    StrCat("a digest of ", resource.digest.size(), " bytes where ",
                           hash::DigestSizeBytes(serialization_.hash_type), " belong"));
    }
    if (sharded_ && resource.end_bytes > kMaxLength) {
      return Refuse(Reason::kLimitExceeded, ResourcePath(index, "name"), "ends beyond 2^53");
    }
    if (resource.annotation.has_value()) {
      return CheckAnnotation(*resource.annotation, ResourcePath(index, "annotations.pavise"));
    }
    return absl::OkStatus();
  }

  static absl::Status CheckAnnotation(const FileAnnotation& annotation, std::string_view path) {
    if (annotation.size_bytes > kMaxLength) {
      return Refuse(Reason::kLimitExceeded, StrCat(path, ".length"), "not below 2^53");
    }
    const std::vector<TensorDigest>& tensors = annotation.tensors;
    if (!annotation.tensor_format.has_value()) {
      if (tensors.empty()) return absl::OkStatus();
      return Refuse(Reason::kMalformed, path, "tensors without a format");
    }
    if (annotation.tensor_data_begin_bytes > annotation.size_bytes) {
      return Refuse(Reason::kMalformed, StrCat(path, ".tensors.data_begin"),
                    "lies beyond the end of the file");
    }
    const std::string entries = StrCat(path, ".tensors.entries");
    if (tensors.size() > kMaxTensors) {
      return Refuse(Reason::kLimitExceeded, entries,
                    StrCat(tensors.size(), " tensors, the limit is ", kMaxTensors));
    }
    uint64_t end_of_previous = annotation.tensor_data_begin_bytes;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const model::TensorEntry& tensor = tensors[i].tensor;
      const auto at = [&](std::string_view member) { return StrCat(entries, "[", i, "]", member); };
      PAVISE_RETURN_IF_ERROR(CheckText(tensor.name, 0, kMaxStatementBytes, at(".name")));
      PAVISE_RETURN_IF_ERROR(CheckText(tensor.dtype, 1, kMaxDtypeBytes, at(".dtype")));
      if (tensor.shape.size() > kMaxDimensions) {
        return Refuse(Reason::kLimitExceeded, at(".shape"),
                      StrCat("more than ", kMaxDimensions, " dimensions"));
      }
      for (const uint64_t dimension : tensor.shape) {
        if (dimension > kMaxLength) {
          return Refuse(Reason::kLimitExceeded, at(".shape"), "not below 2^53");
        }
      }
      if (tensor.begin_bytes > tensor.end_bytes || tensor.end_bytes > annotation.size_bytes ||
          tensor.begin_bytes < annotation.tensor_data_begin_bytes) {
        return Refuse(Reason::kMalformed, at(""),
                      StrCat("tensor \"", Printable(tensor.name), "\" at [", tensor.begin_bytes,
                             ", ", tensor.end_bytes, ") lies outside the data of its file"));
      }
      if (i > 0) {
        const model::TensorEntry& previous = tensors[i - 1].tensor;
        if (std::tie(previous.begin_bytes, previous.name) >=
            std::tie(tensor.begin_bytes, tensor.name)) {
          return Refuse(
              Reason::kMalformed, at(""),
              StrCat("tensor \"", Printable(tensor.name), "\" is out of order (begin, then name)"));
        }
      }
      // An empty range overlaps nothing.
      if (tensor.begin_bytes == tensor.end_bytes) continue;
      if (tensor.begin_bytes < end_of_previous) {
        return Refuse(Reason::kMalformed, at(""),
                      StrCat("tensor \"", Printable(tensor.name), "\" overlaps another tensor"));
      }
      end_of_previous = tensor.end_bytes;
    }
    std::vector<std::string_view> names;
    names.reserve(tensors.size());
    for (const TensorDigest& tensor : tensors) names.push_back(tensor.tensor.name);
    std::sort(names.begin(), names.end());
    if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end()) {
      return Refuse(Reason::kMalformed, entries,
                    StrCat("two tensors named \"", Printable(*twice), "\""));
    }
    return absl::OkStatus();
  }

  void SortByPath() {
    order_.resize(statement_.resources.size());
    for (size_t i = 0; i < order_.size(); ++i) order_[i] = i;
    std::sort(order_.begin(), order_.end(), [this](size_t a, size_t b) {
      const Resource& left = statement_.resources[a];
      const Resource& right = statement_.resources[b];
      return std::tie(left.path, left.begin_bytes, a) < std::tie(right.path, right.begin_bytes, b);
    });
  }

  // One file at a time: its only resource, or its shards from the first to the last.
  absl::Status CheckFiles() {
    for (size_t first = 0; first < order_.size();) {
      size_t last = first;
      const std::string& path = statement_.resources[order_[first]].path;
      while (last + 1 < order_.size() && statement_.resources[order_[last + 1]].path == path) {
        ++last;
      }
      PAVISE_RETURN_IF_ERROR(sharded_ ? CheckShards(first, last) : CheckSingle(first, last));
      PAVISE_RETURN_IF_ERROR(CheckAgreement(first, last));
      paths_.push_back(path);
      first = last + 1;
    }
    return absl::OkStatus();
  }

  absl::Status CheckSingle(size_t first, size_t last) const {
    if (first == last) return absl::OkStatus();
    return Refuse(
        Reason::kMalformed, ResourcePath(order_[first + 1], "name"),
        StrCat("\"", Printable(statement_.resources[order_[first]].path), "\" is listed twice"));
  }

  absl::Status CheckShards(size_t first, size_t last) const {
    uint64_t expected_begin = 0;
    for (size_t i = first; i <= last; ++i) {
      const Resource& shard = statement_.resources[order_[i]];
      const uint64_t size =
          shard.end_bytes > shard.begin_bytes ? shard.end_bytes - shard.begin_bytes : 0;
      const bool fits = i < last ? size == serialization_.shard_size_bytes
                                 : size > 0 && size <= serialization_.shard_size_bytes;
      if (shard.begin_bytes != expected_begin || !fits) {
        return Refuse(Reason::kMalformed, ResourcePath(order_[i], "name"),
                      StrCat("shard [", shard.begin_bytes, ", ", shard.end_bytes, ") of \"",
                             Printable(shard.path), "\": shards must cover a file from 0 on ",
                             "in steps of ", serialization_.shard_size_bytes));
      }
      expected_begin = shard.end_bytes;
    }
    return absl::OkStatus();
  }

  // Where two signed values speak of the same bytes, they must say the same.
  absl::Status CheckAgreement(size_t first, size_t last) const {
    for (size_t i = first + 1; i <= last; ++i) {
      if (statement_.resources[order_[i]].annotation.has_value()) {
        return Refuse(Reason::kMalformed, ResourcePath(order_[i], "annotations.pavise"),
                      "belongs to a file's first shard only");
      }
    }
    const Resource& resource = statement_.resources[order_[first]];
    if (!resource.annotation.has_value()) return absl::OkStatus();
    const FileAnnotation& annotation = *resource.annotation;
    if (sharded_ && statement_.resources[order_[last]].end_bytes != annotation.size_bytes) {
      return Refuse(Reason::kMalformed, ResourcePath(order_[first], "annotations.pavise.length"),
                    StrCat(annotation.size_bytes, ", but the shards end at ",
                           statement_.resources[order_[last]].end_bytes));
    }
    if (serialization_.hash_type == hash::Algorithm::kBlake3 && first == last &&
        !std::equal(annotation.blake3.begin(), annotation.blake3.end(), resource.digest.begin(),
                    resource.digest.end())) {
      return Refuse(Reason::kMalformed, ResourcePath(order_[first], "annotations.pavise.blake3"),
                    "differs from the BLAKE3 digest of the same file");
    }
    return absl::OkStatus();
  }

  // No path may be a directory of another; "." stands alone. `paths_` is sorted and unique.
  absl::Status CheckPathsTogether() const {
    if (paths_.size() > 1 && std::binary_search(paths_.begin(), paths_.end(), ".")) {
      return Refuse(Reason::kPathUnsafe, StrCat(item_, ".predicate.resources"),
                    "\".\" names a single-file model, but other files are listed too");
    }
    for (const std::string_view path : paths_) {
      for (size_t slash = path.find('/'); slash != std::string_view::npos;
           slash = path.find('/', slash + 1)) {
        const std::string_view directory = path.substr(0, slash);
        if (std::binary_search(paths_.begin(), paths_.end(), directory)) {
          return Refuse(Reason::kPathUnsafe, StrCat(item_, ".predicate.resources"),
                        StrCat("\"", Printable(directory), "\" is a file and a directory of \"",
                               Printable(path), "\""));
        }
      }
    }
    return absl::OkStatus();
  }

  const Statement& statement_;
  const Serialization& serialization_;
  const bool sharded_;
  const std::string_view item_;
  std::vector<size_t> order_;            // resources by path, then begin
  std::vector<std::string_view> paths_;  // of files, ascending
};

absl::StatusOr<Digest32> RootOf(const std::vector<Resource>& resources) {
  PAVISE_ASSIGN_OR_RETURN(crypto::Digester digester,
                          crypto::Digester::Create(crypto::DigestAlgorithm::kSha256));
  for (const Resource& resource : resources) {
    PAVISE_RETURN_IF_ERROR(digester.Update(resource.digest));
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes digest, digester.Finish());
  Digest32 root;
  if (digest.size() != root.size()) return MachineFailure("SHA-256", "not 32 bytes");
  std::copy(digest.begin(), digest.end(), root.begin());
  return root;
}

// ---- Reading ----

// Digests have one spelling: lower case.
absl::StatusOr<std::string> GetHexText(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(std::string hex, object.GetString(key));
  if (hex.empty()) return Refuse(Reason::kMalformed, object.PathOf(key), "is empty");
  if (std::any_of(hex.begin(), hex.end(), [](char c) { return c >= 'A' && c <= 'F'; })) {
    return Refuse(Reason::kMalformed, object.PathOf(key), "upper-case hexadecimal digits");
  }
  return hex;
}

absl::StatusOr<Bytes> GetHex(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const std::string hex, GetHexText(object, key));
  return FromHex(hex, object.PathOf(key));
}

absl::StatusOr<Digest32> GetHex32(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const std::string hex, GetHexText(object, key));
  return Digest32FromHex(hex, object.PathOf(key));
}

absl::StatusOr<uint64_t> GetLength(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t value, object.GetUint(key));
  if (value > kMaxLength) {
    return Refuse(Reason::kLimitExceeded, object.PathOf(key), "not below 2^53");
  }
  return value;
}

absl::Status CheckVersion(const JsonObject& annotation) {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t version, annotation.GetUint("version"));
  if (version != kAnnotationVersion) {
    return Refuse(Reason::kUnsupported, annotation.PathOf("version"),
                  StrCat("version ", version, ", this program reads version ", kAnnotationVersion),
                  "verify with a newer version of this program");
  }
  return absl::OkStatus();
}

// The member `annotations.pavise`, where there is one.
absl::StatusOr<std::optional<JsonObject>> FindPaviseAnnotation(const JsonObject& descriptor) {
  if (!descriptor.Has("annotations")) return std::nullopt;
  PAVISE_ASSIGN_OR_RETURN(const JsonObject annotations, descriptor.GetObject("annotations"));
  if (!annotations.Has("pavise")) return std::nullopt;
  PAVISE_ASSIGN_OR_RETURN(JsonObject pavise, annotations.GetObject("pavise"));
  return std::optional<JsonObject>(std::move(pavise));
}

absl::StatusOr<TensorDigest> ReadTensor(const Json& value, std::string_view path) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(value, path));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"name", "dtype", "shape", "begin", "end", "blake3"}));
  TensorDigest digest;
  model::TensorEntry& tensor = digest.tensor;
  PAVISE_ASSIGN_OR_RETURN(tensor.name, object.GetString("name"));
  PAVISE_ASSIGN_OR_RETURN(tensor.dtype, object.GetString("dtype"));
  PAVISE_ASSIGN_OR_RETURN(const Json* shape, object.GetArray("shape"));
  if (shape->size() > kMaxDimensions) {
    return Refuse(Reason::kLimitExceeded, object.PathOf("shape"),
                  StrCat("more than ", kMaxDimensions, " dimensions"));
  }
  for (const Json& dimension : *shape) {
    if (!dimension.is_number_unsigned()) {
      return Refuse(Reason::kMalformed, object.PathOf("shape"), "not non-negative integers");
    }
    tensor.shape.push_back(dimension.get<uint64_t>());
  }
  PAVISE_ASSIGN_OR_RETURN(tensor.begin_bytes, GetLength(object, "begin"));
  PAVISE_ASSIGN_OR_RETURN(tensor.end_bytes, GetLength(object, "end"));
  PAVISE_ASSIGN_OR_RETURN(digest.blake3, GetHex32(object, "blake3"));
  return digest;
}

absl::Status ReadTensors(const JsonObject& object, FileAnnotation& annotation) {
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"format", "data_begin", "entries"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string format, object.GetString("format"));
  annotation.tensor_format = model::TensorFormatFromName(format);
  if (!annotation.tensor_format.has_value()) {
    return Refuse(Reason::kUnsupported, object.PathOf("format"),
                  StrCat("unknown tensor format \"", Printable(format), "\""));
  }
  PAVISE_ASSIGN_OR_RETURN(annotation.tensor_data_begin_bytes, GetLength(object, "data_begin"));
  PAVISE_ASSIGN_OR_RETURN(const Json* entries, object.GetArray("entries"));
  if (entries->size() > kMaxTensors) {
    return Refuse(Reason::kLimitExceeded, object.PathOf("entries"),
                  StrCat(entries->size(), " tensors, the limit is ", kMaxTensors));
  }
  annotation.tensors.reserve(entries->size());
  for (size_t i = 0; i < entries->size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(
        TensorDigest tensor,
        ReadTensor((*entries)[i], StrCat(object.PathOf("entries"), "[", i, "]")));
    annotation.tensors.push_back(std::move(tensor));
  }
  return absl::OkStatus();
}

absl::StatusOr<FileAnnotation> ReadFileAnnotation(const JsonObject& object) {
  PAVISE_RETURN_IF_ERROR(CheckVersion(object));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"version", "length", "blake3", "stamp", "tensors"}));
  FileAnnotation annotation;
  PAVISE_ASSIGN_OR_RETURN(annotation.size_bytes, GetLength(object, "length"));
  PAVISE_ASSIGN_OR_RETURN(annotation.blake3, GetHex32(object, "blake3"));
  if (object.Has("stamp")) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject stamp, object.GetObject("stamp"));
    PAVISE_RETURN_IF_ERROR(stamp.RequireOnly({"place", "content"}));
    FileStamp& read = annotation.stamp.emplace();
    PAVISE_ASSIGN_OR_RETURN(read.place, GetHex32(stamp, "place"));
    PAVISE_ASSIGN_OR_RETURN(read.content, GetHex32(stamp, "content"));
  }
  if (object.Has("tensors")) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject tensors, object.GetObject("tensors"));
    PAVISE_RETURN_IF_ERROR(ReadTensors(tensors, annotation));
  }
  return annotation;
}

absl::StatusOr<Serialization> ReadSerialization(const JsonObject& object) {
  PAVISE_RETURN_IF_ERROR(
      object.RequireOnly({"method", "hash_type", "shard_size", "allow_symlinks", "ignore_paths"}));
  Serialization serialization;
  PAVISE_ASSIGN_OR_RETURN(const std::string method, object.GetString("method"));
  if (method == "files") {
    serialization.method = SerializationMethod::kFiles;
  } else if (method == "shards") {
    serialization.method = SerializationMethod::kShards;
  } else {
    return Refuse(Reason::kUnsupported, object.PathOf("method"),
                  StrCat("unknown serialization method \"", Printable(method), "\""));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string hash_type, object.GetString("hash_type"));
  const std::optional<hash::Algorithm> algorithm = HashTypeFromName(hash_type);
  if (!algorithm.has_value()) {
    return Refuse(Reason::kUnsupported, object.PathOf("hash_type"),
                  StrCat("unknown hash type \"", Printable(hash_type), "\""));
  }
  serialization.hash_type = *algorithm;
  if (serialization.method == SerializationMethod::kShards) {
    // The reference tool's statements have passed through a double: 8.0.
    PAVISE_ASSIGN_OR_RETURN(serialization.shard_size_bytes,
                            object.GetUint("shard_size", /*accept_float=*/true));
  } else if (object.Has("shard_size")) {
    return Refuse(Reason::kMalformed, object.PathOf("shard_size"),
                  "has no meaning with the method \"files\"");
  }
  PAVISE_ASSIGN_OR_RETURN(serialization.allow_symlinks, object.GetBool("allow_symlinks"));
  if (object.Has("ignore_paths")) {
    PAVISE_ASSIGN_OR_RETURN(const Json* paths, object.GetArray("ignore_paths"));
    for (size_t i = 0; i < paths->size(); ++i) {
      if (!(*paths)[i].is_string()) {
        return Refuse(Reason::kMalformed, StrCat(object.PathOf("ignore_paths"), "[", i, "]"),
                      "not a string");
      }
      serialization.ignore_paths.push_back((*paths)[i].get<std::string>());
    }
  }
  return serialization;
}

// "path:start:end". The path itself may hold colons; the offsets have one spelling each.
absl::Status ReadShardName(Resource& resource, std::string_view path) {
  const std::string_view name = resource.name;
  const size_t second = name.rfind(':');
  const size_t first =
      second == std::string_view::npos || second == 0 ? second : name.rfind(':', second - 1);
  if (second == std::string_view::npos || second == 0 || first == std::string_view::npos) {
    return Refuse(Reason::kMalformed, path,
                  StrCat("\"", Printable(name), "\" is not path:start:end"));
  }
  const std::string_view begin = name.substr(first + 1, second - first - 1);
  const std::string_view end = name.substr(second + 1);
  if (!absl::SimpleAtoi(ToAbsl(begin), &resource.begin_bytes) ||
      !absl::SimpleAtoi(ToAbsl(end), &resource.end_bytes) ||
      StrCat(resource.begin_bytes) != begin || StrCat(resource.end_bytes) != end) {
    return Refuse(Reason::kMalformed, path,
                  StrCat("the offsets of \"", Printable(name), "\" are not integers"));
  }
  resource.path = std::string(name.substr(0, first));
  return absl::OkStatus();
}

// "sha256"; of shards also the reference tool's "sha256-sharded-<shard size>".
absl::Status CheckAlgorithm(const Resource& resource, const Serialization& serialization,
                            std::string_view path) {
  const std::string_view expected = hash::AlgorithmName(serialization.hash_type);
  if (resource.algorithm == expected) return absl::OkStatus();
  if (serialization.method == SerializationMethod::kShards &&
      resource.algorithm == StrCat(expected, "-sharded-", serialization.shard_size_bytes)) {
    return absl::OkStatus();
  }
  const std::string_view base =
      std::string_view(resource.algorithm).substr(0, resource.algorithm.find('-'));
  return Refuse(HashTypeFromName(base).has_value() ? Reason::kMalformed : Reason::kUnsupported,
                path,
                StrCat("\"", Printable(resource.algorithm), "\" does not belong to ",
                       serialization.method == SerializationMethod::kShards ? "shards" : "files",
                       " hashed with ", expected));
}

absl::StatusOr<Resource> ReadResource(const Json& value, const Serialization& serialization,
                                      std::string_view path) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(value, path));
  Resource resource;
  PAVISE_ASSIGN_OR_RETURN(resource.name, object.GetString("name"));
  if (serialization.method == SerializationMethod::kShards) {
    PAVISE_RETURN_IF_ERROR(ReadShardName(resource, object.PathOf("name")));
  } else {
    resource.path = resource.name;
  }
  PAVISE_ASSIGN_OR_RETURN(resource.algorithm, object.GetString("algorithm"));
  PAVISE_RETURN_IF_ERROR(CheckAlgorithm(resource, serialization, object.PathOf("algorithm")));
  PAVISE_ASSIGN_OR_RETURN(resource.digest, GetHex(object, "digest"));
  PAVISE_ASSIGN_OR_RETURN(const std::optional<JsonObject> annotation, FindPaviseAnnotation(object));
  if (annotation.has_value()) {
    PAVISE_ASSIGN_OR_RETURN(resource.annotation, ReadFileAnnotation(*annotation));
  }
  return resource;
}

absl::Status CheckResourceCount(const Json& array, std::string_view path) {
  if (array.size() <= kMaxResources) return absl::OkStatus();
  return Refuse(Reason::kLimitExceeded, path,
                StrCat(array.size(), " entries, the limit is ", kMaxResources));
}

absl::Status ReadSubject(const Json& subjects, std::string_view path, Statement& statement) {
  if (subjects.size() != 1) {
    return Refuse(Reason::kMalformed, path,
                  StrCat(subjects.size(), " subjects where exactly one belongs"));
  }
  PAVISE_ASSIGN_OR_RETURN(const JsonObject subject,
                          JsonObject::From(subjects[0], StrCat(path, "[0]")));
  PAVISE_ASSIGN_OR_RETURN(statement.model_name, subject.GetString("name"));
  // Digests of other names are in-toto's to have and nobody's to check.
  PAVISE_ASSIGN_OR_RETURN(const JsonObject digest, subject.GetObject("digest"));
  PAVISE_ASSIGN_OR_RETURN(statement.root, GetHex32(digest, "sha256"));
  PAVISE_ASSIGN_OR_RETURN(const std::optional<JsonObject> annotation,
                          FindPaviseAnnotation(subject));
  if (annotation.has_value()) {
    PAVISE_RETURN_IF_ERROR(CheckVersion(*annotation));
    PAVISE_RETURN_IF_ERROR(annotation->RequireOnly({"version", "model_version"}));
    PAVISE_ASSIGN_OR_RETURN(statement.model_version, GetLength(*annotation, "model_version"));
  }
  return absl::OkStatus();
}

absl::Status ReadPredicate(const JsonObject& predicate, Statement& statement) {
  PAVISE_RETURN_IF_ERROR(predicate.RequireOnly({"serialization", "resources"}));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject serialization, predicate.GetObject("serialization"));
  PAVISE_ASSIGN_OR_RETURN(statement.serialization, ReadSerialization(serialization));
  PAVISE_ASSIGN_OR_RETURN(const Json* resources, predicate.GetArray("resources"));
  const std::string path = predicate.PathOf("resources");
  PAVISE_RETURN_IF_ERROR(CheckResourceCount(*resources, path));
  statement.resources.reserve(resources->size());
  for (size_t i = 0; i < resources->size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(
        Resource resource,
        ReadResource((*resources)[i], statement.serialization, StrCat(path, "[", i, "]")));
    statement.resources.push_back(std::move(resource));
  }
  return absl::OkStatus();
}

// Release 0.2.0: the subjects are the files, hashed one by one with SHA-256; the predicate says
// nothing.
absl::Status ReadSubjects020(const Json& subjects, std::string_view path, Statement& statement) {
  if (subjects.empty()) return Refuse(Reason::kMalformed, path, "no subject");
  PAVISE_RETURN_IF_ERROR(CheckResourceCount(subjects, path));
  for (size_t i = 0; i < subjects.size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject subject,
                            JsonObject::From(subjects[i], StrCat(path, "[", i, "]")));
    Resource resource;
    PAVISE_ASSIGN_OR_RETURN(resource.name, subject.GetString("name"));
    resource.path = resource.name;
    resource.algorithm = "sha256";
    PAVISE_ASSIGN_OR_RETURN(const JsonObject digest, subject.GetObject("digest"));
    PAVISE_ASSIGN_OR_RETURN(resource.digest, GetHex(digest, "sha256"));
    // That release wrote every digest under the name "sha256" and the truth in an annotation.
    if (subject.Has("annotations")) {
      PAVISE_ASSIGN_OR_RETURN(const JsonObject annotations, subject.GetObject("annotations"));
      if (annotations.Has("actual_hash_algorithm")) {
        PAVISE_ASSIGN_OR_RETURN(const std::string algorithm,
                                annotations.GetString("actual_hash_algorithm"));
        if (algorithm != "file-sha256" && algorithm != "sha256") {
          return Refuse(Reason::kUnsupported, annotations.PathOf("actual_hash_algorithm"),
                        StrCat("\"", Printable(algorithm), "\" is not SHA-256 of a file"),
                        "have the model signed again with a current release");
        }
      }
    }
    statement.resources.push_back(std::move(resource));
  }
  return absl::OkStatus();
}

// ---- Writing ----

void AppendString(std::string_view text, std::string& out) {
  // The text was checked to be UTF-8, so the library has nothing to throw at.
  out += Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

void AppendMember(std::string_view key, std::string_view value, std::string& out) {
  StrAppend(&out, "\"", key, "\":");
  AppendString(value, out);
}

void AppendTensor(const TensorDigest& digest, std::string& out) {
  const model::TensorEntry& tensor = digest.tensor;
  out += '{';
  AppendMember("name", tensor.name, out);
  out += ',';
  AppendMember("dtype", tensor.dtype, out);
  out += ",\"shape\":[";
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    StrAppend(&out, i == 0 ? "" : ",", tensor.shape[i]);
  }
  StrAppend(&out, "],\"begin\":", tensor.begin_bytes, ",\"end\":", tensor.end_bytes,
            ",\"blake3\":\"", ToHex(digest.blake3), "\"}");
}

void AppendFileAnnotation(const FileAnnotation& annotation, std::string& out) {
  StrAppend(&out, ",\"annotations\":{\"pavise\":{\"version\":", kAnnotationVersion,
            ",\"length\":", annotation.size_bytes, ",\"blake3\":\"", ToHex(annotation.blake3),
            "\"");
  if (annotation.stamp.has_value()) {
    StrAppend(&out, ",\"stamp\":{\"place\":\"", ToHex(annotation.stamp->place), "\",\"content\":\"",
              ToHex(annotation.stamp->content), "\"}");
  }
  if (annotation.tensor_format.has_value()) {
    out += ",\"tensors\":{";
    AppendMember("format", model::TensorFormatName(*annotation.tensor_format), out);
    StrAppend(&out, ",\"data_begin\":", annotation.tensor_data_begin_bytes, ",\"entries\":[");
    for (size_t i = 0; i < annotation.tensors.size(); ++i) {
      if (i > 0) out += ',';
      AppendTensor(annotation.tensors[i], out);
    }
    out += "]}";
  }
  out += "}}";
}

void AppendSerialization(const Serialization& serialization, std::string& out) {
  const bool sharded = serialization.method == SerializationMethod::kShards;
  StrAppend(&out, "{\"method\":\"", sharded ? "shards" : "files", "\",\"hash_type\":\"",
            hash::AlgorithmName(serialization.hash_type), "\"");
  if (sharded) StrAppend(&out, ",\"shard_size\":", serialization.shard_size_bytes);
  StrAppend(&out, ",\"allow_symlinks\":", serialization.allow_symlinks ? "true" : "false");
  if (!serialization.ignore_paths.empty()) {
    out += ",\"ignore_paths\":[";
    for (size_t i = 0; i < serialization.ignore_paths.size(); ++i) {
      if (i > 0) out += ',';
      AppendString(serialization.ignore_paths[i], out);
    }
    out += ']';
  }
  out += '}';
}

// At least as many JSON values as the text of `statement` will hold.
uint64_t CountValues(const Statement& statement) {
  uint64_t count = 32 + statement.serialization.ignore_paths.size();
  for (const Resource& resource : statement.resources) {
    count += 4;
    if (!resource.annotation.has_value()) continue;
    count += 12;
    for (const TensorDigest& tensor : resource.annotation->tensors) {
      count += 7 + tensor.tensor.shape.size();
    }
  }
  return count;
}

}  // namespace

absl::StatusOr<Statement> ParseStatement(ByteSpan payload, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(payload, item, kStatementLimits));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"_type", "subject", "predicateType", "predicate"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string type, object.GetString("_type"));
  if (type != kStatementType) {
    return Refuse(Reason::kUnsupported, object.PathOf("_type"),
                  StrCat("\"", Printable(type), "\" where \"", kStatementType, "\" belongs"));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string predicate_type, object.GetString("predicateType"));
  PAVISE_ASSIGN_OR_RETURN(const Json* subjects, object.GetArray("subject"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject predicate, object.GetObject("predicate"));

  Statement statement;
  if (predicate_type == kPredicateType) {
    PAVISE_RETURN_IF_ERROR(ReadSubject(*subjects, object.PathOf("subject"), statement));
    PAVISE_RETURN_IF_ERROR(ReadPredicate(predicate, statement));
  } else if (predicate_type == kPredicateType020) {
    statement.is_release_020 = true;
    PAVISE_RETURN_IF_ERROR(ReadSubjects020(*subjects, object.PathOf("subject"), statement));
  } else {
    return Refuse(Reason::kUnsupported, object.PathOf("predicateType"),
                  StrCat("\"", Printable(predicate_type), "\" is not a model signature"));
  }
  PAVISE_RETURN_IF_ERROR(StatementChecker(statement, item).Check());

  PAVISE_ASSIGN_OR_RETURN(const Digest32 root, RootOf(statement.resources));
  if (statement.is_release_020) {
    statement.root = root;
  } else if (statement.root != root) {
    return Refuse(Reason::kMalformed, StrCat(item, ".subject[0].digest.sha256"),
                  StrCat(ToHex(statement.root), ", but the resources listed make ", ToHex(root)));
  }
  return statement;
}

absl::StatusOr<std::string> FormatStatement(Statement& statement) {
  constexpr std::string_view kItem = "statement";
  if (statement.is_release_020) {
    return Refuse(Reason::kUnsupported, kItem, "the format of release 0.2.0 is only read");
  }
  if (statement.resources.empty()) {
    return Refuse(Reason::kMalformed, kItem, "a model without files cannot be signed",
                  "name a model that holds at least one file (with shards: one that is not empty)");
  }
  const Serialization& serialization = statement.serialization;
  const bool sharded = serialization.method == SerializationMethod::kShards;
  // Before anything moves, so that a refusal leaves the statement as it was.
  PAVISE_RETURN_IF_ERROR(StatementChecker(statement, kItem).Check());
  if (const uint64_t values = CountValues(statement); values > kMaxJsonValues) {
    return Refuse(Reason::kLimitExceeded, kItem,
                  StrCat("too many files and tensors for one statement (", values,
                         " JSON values, the limit is ", kMaxJsonValues, ")"));
  }

  // The order of bytes in UTF-8 is the order of code points.
  std::sort(statement.resources.begin(), statement.resources.end(),
            [](const Resource& a, const Resource& b) {
              return std::tie(a.path, a.begin_bytes) < std::tie(b.path, b.begin_bytes);
            });
  for (Resource& resource : statement.resources) {
    const std::string_view hash = hash::AlgorithmName(serialization.hash_type);
    if (sharded) {
      resource.name = StrCat(resource.path, ":", resource.begin_bytes, ":", resource.end_bytes);
      // What the reference tool compares with; the specification has the bare name here.
      resource.algorithm = StrCat(hash, "-sharded-", serialization.shard_size_bytes);
    } else {
      resource.name = resource.path;
      resource.algorithm = std::string(hash);
    }
  }
  PAVISE_ASSIGN_OR_RETURN(statement.root, RootOf(statement.resources));

  std::string out = StrCat("{\"_type\":\"", kStatementType, "\",\"subject\":[{");
  AppendMember("name", statement.model_name, out);
  StrAppend(&out, ",\"digest\":{\"sha256\":\"", ToHex(statement.root), "\"}");
  if (statement.model_version.has_value()) {
    StrAppend(&out, ",\"annotations\":{\"pavise\":{\"version\":", kAnnotationVersion,
              ",\"model_version\":", *statement.model_version, "}}");
  }
  StrAppend(&out, "}],\"predicateType\":\"", kPredicateType,
            "\",\"predicate\":{\"serialization\":");
  AppendSerialization(serialization, out);
  out += ",\"resources\":[";
  for (size_t i = 0; i < statement.resources.size(); ++i) {
    const Resource& resource = statement.resources[i];
    out += i == 0 ? "{" : ",{";
    AppendMember("name", resource.name, out);
    StrAppend(&out, ",\"algorithm\":\"", resource.algorithm, "\",\"digest\":\"",
              ToHex(resource.digest), "\"");
    if (resource.annotation.has_value()) AppendFileAnnotation(*resource.annotation, out);
    out += '}';
    if (out.size() > kMaxStatementBytes) break;
  }
  out += "]}}";
  if (out.size() > kMaxStatementBytes) {
    return Refuse(Reason::kLimitExceeded, kItem,
                  StrCat("longer than ", HumanBytes(kMaxStatementBytes)),
                  "sign the model in parts");
  }
  return out;
}

}  // namespace pavise::signing
