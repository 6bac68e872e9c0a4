#include "pavise/train/tensor_file.h"

#include <algorithm>
#include <utility>

#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"

namespace pavise::train {
namespace {

constexpr size_t kDigestCharacters = 64;

// Where the digest's characters begin in the header's text; npos: there is none.
size_t FindDigest(std::string_view header) {
  const std::string member = StrCat("\"", kFileDigestKey, "\":\"");
  const size_t begin = header.find(member);
  if (begin == std::string_view::npos) return begin;
  const size_t at = begin + member.size();
  return at + kDigestCharacters < header.size() ? at : std::string_view::npos;
}

absl::StatusOr<std::string> DigestOf(ByteSpan header, const std::vector<ByteSpan>& data) {
  PAVISE_ASSIGN_OR_RETURN(crypto::Digester digester,
                          crypto::Digester::Create(crypto::DigestAlgorithm::kSha256));
  PAVISE_RETURN_IF_ERROR(digester.Update(header));
  for (const ByteSpan part : data) PAVISE_RETURN_IF_ERROR(digester.Update(part));
  PAVISE_ASSIGN_OR_RETURN(const Bytes digest, digester.Finish());
  return ToHex(digest);
}

absl::StatusOr<std::map<std::string, std::string>> ReadMetadata(ByteSpan header,
                                                                std::string_view item) {
  JsonLimits limits;
  limits.max_bytes = header.size();
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(header.subspan(8), item, limits));
  std::map<std::string, std::string> metadata;
  const auto found = json.find("__metadata__");
  if (found == json.end()) return metadata;
  for (const auto& [key, value] : found->items()) metadata[key] = value.get<std::string>();
  return metadata;
}

}  // namespace

absl::Status WriteTensorFile(const std::string& path, std::vector<NamedTensor> tensors,
                             std::map<std::string, std::string> metadata, bool with_digest,
                             mode_t mode) {
  const auto width = [](const NamedTensor& tensor) {
    const auto unit = model::SafetensorsElementUnit(tensor.dtype);
    return unit.has_value() ? unit->bytes : 0;
  };
  std::sort(tensors.begin(), tensors.end(), [&](const NamedTensor& a, const NamedTensor& b) {
    return std::pair(width(b), std::string_view(a.name)) <
           std::pair(width(a), std::string_view(b.name));
  });
  if (with_digest) metadata[std::string(kFileDigestKey)] = std::string(kDigestCharacters, '0');
  OrderedJson json;
  if (!metadata.empty()) json["__metadata__"] = metadata;
  std::vector<ByteSpan> data;
  uint64_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    uint64_t elements = 1;
    for (const uint64_t length : tensor.shape) elements *= length;
    if (json.contains(tensor.name) || elements * width(tensor) != tensor.bytes.size()) {
      return UsageError(
          StrCat("tensor ", tensor.name, " appears twice or has another length than its shape"));
    }
    const uint64_t end = offset + tensor.bytes.size();
    json[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
    data.push_back(tensor.bytes);
  }
  std::string text = DumpJson(json, -1);
  text.append((8 - text.size() % 8) % 8, ' ');  // the data begins aligned
  Bytes header;
  AppendLittleEndian64(text.size(), header);
  header.insert(header.end(), text.begin(), text.end());
  if (with_digest) {
    PAVISE_ASSIGN_OR_RETURN(const std::string digest, DigestOf(header, data));
    std::copy(digest.begin(), digest.end(),
              header.begin() + static_cast<ptrdiff_t>(8 + FindDigest(text)));
  }
  PAVISE_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Create(path, mode));
  PAVISE_RETURN_IF_ERROR(writer.Append(header));
  for (const ByteSpan part : data) PAVISE_RETURN_IF_ERROR(writer.Append(part));
  return writer.Commit();
}

const model::TensorEntry* TensorFile::Find(std::string_view name) const {
  for (const model::TensorEntry& entry : table.tensors) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

absl::StatusOr<TensorFile> ReadTensorFile(const std::string& path) {
  TensorFile file;
  PAVISE_ASSIGN_OR_RETURN(file.bytes, ReadFile(path, kMaxTensorFileBytes));
  const ByteSpan bytes = file.bytes;
  PAVISE_ASSIGN_OR_RETURN(const uint64_t header_bytes,
                          model::SafetensorsHeaderBytes(
                              bytes.first(std::min<size_t>(8, bytes.size())), bytes.size(), path));
  PAVISE_ASSIGN_OR_RETURN(
      file.table, model::ParseSafetensorsHeader(bytes.first(header_bytes), bytes.size(), path));
  PAVISE_ASSIGN_OR_RETURN(file.metadata, ReadMetadata(bytes.first(header_bytes), path));

  Bytes header(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(header_bytes));
  const auto stated = file.metadata.find(std::string(kFileDigestKey));
  const size_t at = FindDigest(AsText(header));
  if (stated == file.metadata.end() || at == std::string_view::npos) {
    return Refuse(Reason::kContentMismatch, path, "holds no digest of itself",
                  "give a checkpoint that this program wrote");
  }
  std::fill_n(header.begin() + static_cast<ptrdiff_t>(at), kDigestCharacters, uint8_t{'0'});
  PAVISE_ASSIGN_OR_RETURN(const std::string digest,
                          DigestOf(header, {bytes.subspan(header_bytes)}));
  if (digest != stated->second) {
    return Refuse(Reason::kContentMismatch, path, "is not what was written: its digest differs",
                  "give an undamaged copy, or train from the beginning");
  }
  return file;
}

}  // namespace pavise::train
