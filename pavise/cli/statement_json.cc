#include "pavise/cli/statement_json.h"

#include <map>

#include "pavise/base/bytes.h"
#include "pavise/base/strings.h"
#include "pavise/cli/output.h"
#include "pavise/hash/algorithm.h"

#include "absl/strings/str_join.h"

namespace pavise::cli {
namespace {

std::string_view SerializationMethodName(signing::SerializationMethod method) {
  return method == signing::SerializationMethod::kFiles ? "files" : "shards";
}

OrderedJson TensorsJson(const std::vector<signing::TensorDigest>& tensors) {
  OrderedJson array = OrderedJson::array();
  for (const signing::TensorDigest& digest : tensors) {
    array.push_back({{"name", digest.tensor.name},
                     {"dtype", digest.tensor.dtype},
                     {"shape", digest.tensor.shape},
                     {"begin_bytes", digest.tensor.begin_bytes},
                     {"end_bytes", digest.tensor.end_bytes},
                     {"blake3", ToHex(digest.blake3)}});
  }
  return array;
}

}  // namespace

std::string RootDigestText(const signing::Statement& statement) {
  return "sha256:" + ToHex(statement.root);
}

std::vector<FileSummary> FilesOf(const signing::Statement& statement) {
  std::vector<FileSummary> files;
  std::map<std::string, size_t> places;
  for (const signing::Resource& resource : statement.resources) {
    const auto [it, is_new] = places.emplace(resource.path, files.size());
    if (is_new) files.push_back({resource.path, std::nullopt});
    FileSummary& file = files[it->second];
    if (statement.serialization.method == signing::SerializationMethod::kShards) {
      file.size_bytes = std::max(file.size_bytes.value_or(0), resource.end_bytes);
    }
    if (resource.annotation.has_value()) file.size_bytes = resource.annotation->size_bytes;
  }
  return files;
}

OrderedJson StatementSummaryJson(const signing::Statement& statement) {
  const signing::Serialization& serialization = statement.serialization;
  OrderedJson shape = {
      {"method", std::string(SerializationMethodName(serialization.method))},
      {"hash_type", std::string(hash::AlgorithmName(serialization.hash_type))},
  };
  if (serialization.method == signing::SerializationMethod::kShards) {
    shape["shard_size_bytes"] = serialization.shard_size_bytes;
  }
  shape["allow_symlinks"] = serialization.allow_symlinks;
  shape["ignore_paths"] = serialization.ignore_paths;

  const std::vector<FileSummary> files = FilesOf(statement);
  uint64_t known_bytes = 0;
  bool all_known = true;
  for (const FileSummary& file : files) {
    all_known = all_known && file.size_bytes.has_value();
    known_bytes += file.size_bytes.value_or(0);
  }
  OrderedJson summary = {{"model", statement.model_name}};
  summary["model_version"] = statement.model_version.has_value()
                                 ? OrderedJson(*statement.model_version)
                                 : OrderedJson(nullptr);
  summary["root_digest"] = RootDigestText(statement);
  summary["serialization"] = shape;
  summary["files"] = files.size();
  summary["model_bytes"] = all_known ? OrderedJson(known_bytes) : OrderedJson(nullptr);
  return summary;
}

OrderedJson ResourcesJson(const signing::Statement& statement, bool with_tensors) {
  OrderedJson array = OrderedJson::array();
  for (const signing::Resource& resource : statement.resources) {
    OrderedJson entry = {{"name", resource.name},
                         {"algorithm", resource.algorithm},
                         {"digest", ToHex(resource.digest)}};
    if (resource.annotation.has_value()) {
      const signing::FileAnnotation& annotation = *resource.annotation;
      entry["size_bytes"] = annotation.size_bytes;
      entry["blake3"] = ToHex(annotation.blake3);
      if (annotation.tensor_format.has_value()) {
        entry["tensor_format"] = std::string(model::TensorFormatName(*annotation.tensor_format));
        entry["tensor_count"] = annotation.tensors.size();
        if (with_tensors) entry["tensors"] = TensorsJson(annotation.tensors);
      }
    }
    array.push_back(std::move(entry));
  }
  return array;
}

OrderedJson SignerJson(const signing::SignerIdentity& signer) {
  return {{"method", std::string(signing::MethodName(signer.method))},
          {"key_sha256", TextOrNull(signer.key_fingerprint)},
          {"name", TextOrNull(signer.name)},
          {"issuer", TextOrNull(signer.issuer)},
          {"signed_at", signer.signed_at.has_value() ? OrderedJson(FormatUtc(*signer.signed_at))
                                                     : OrderedJson(nullptr)}};
}

std::string SerializationText(const signing::Serialization& serialization) {
  std::string text = StrCat(SerializationMethodName(serialization.method), ", ",
                            hash::AlgorithmName(serialization.hash_type));
  if (serialization.method == signing::SerializationMethod::kShards) {
    StrAppend(&text, ", shards of ", serialization.shard_size_bytes, " bytes");
  }
  StrAppend(&text, "; symbolic links ", serialization.allow_symlinks ? "followed" : "refused");
  if (!serialization.ignore_paths.empty()) {
    StrAppend(&text, "; left out: ", absl::StrJoin(serialization.ignore_paths, ", "));
  }
  return text;
}

std::string ModelText(const signing::Statement& statement) {
  return statement.model_version.has_value()
             ? StrCat(statement.model_name, ", version ", *statement.model_version)
             : statement.model_name;
}

std::string SignerText(const signing::SignerIdentity& signer) {
  std::string text;
  switch (signer.method) {
    case signing::Method::kKey:
      return StrCat("the holder of key ", signer.key_fingerprint);
    case signing::Method::kCertificate:
      text = StrCat(signer.name, ", certified by ", signer.issuer);
      break;
    case signing::Method::kSigstore:
      text = StrCat(signer.name, ", known to ", signer.issuer);
      break;
  }
  if (signer.signed_at.has_value()) StrAppend(&text, ", at ", FormatUtc(*signer.signed_at));
  return text;
}

}  // namespace pavise::cli
