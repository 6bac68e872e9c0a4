#include "pavise/loading/load.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <unordered_set>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/loading/ranked_pass.h"

namespace pavise::loading {
namespace {

using signing::FileAnnotation;

// The annotation of each signed file that has one, by path.
std::map<std::string, const FileAnnotation*> AnnotationsOf(const signing::Statement& statement) {
  std::map<std::string, const FileAnnotation*> annotations;
  for (const signing::Resource& resource : statement.resources) {
    if (resource.annotation.has_value()) annotations[resource.path] = &*resource.annotation;
  }
  return annotations;
}

absl::StatusOr<Bytes> ReadBack(hash::Device& device, const hash::LoadedFile& file, uint64_t begin,
                               uint64_t end) {
  const std::optional<hash::Range> range = file.Find(begin, end);
  if (!range.has_value()) return MachineFailure(file.name, "its header is not loaded");
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<hash::Stream> stream, device.NewStream());
  Bytes bytes(end - begin);
  absl::Status status = device.CopyOut(*file.buffer, *range, *stream, bytes);
  status.Update(stream->Wait());
  if (!status.ok()) return status;
  return bytes;
}

// Of a file that was signed without a table: out of the verified bytes, not out of the file again.
absl::StatusOr<std::vector<model::TensorEntry>> TensorsInBytes(hash::Device& device,
                                                               const hash::LoadedFile& file) {
  constexpr uint64_t kLengthBytes = 8;
  const bool is_safetensors =
      model::DetectTensorFormat(file.name, {}) == std::optional(model::TensorFormat::kSafetensors);
  if (!is_safetensors) return std::vector<model::TensorEntry>();
  if (file.size_bytes < kLengthBytes) {
    return Refuse(Reason::kMalformed, file.name, "is too short for a safetensors file");
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes length, ReadBack(device, file, 0, kLengthBytes));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t header_bytes,
                          model::SafetensorsHeaderBytes(length, file.size_bytes, file.name));
  PAVISE_ASSIGN_OR_RETURN(const Bytes header, ReadBack(device, file, 0, header_bytes));
  PAVISE_ASSIGN_OR_RETURN(model::TensorTable table,
                          model::ParseSafetensorsHeader(header, file.size_bytes, file.name));
  return std::move(table.tensors);
}

// This rank's part, or all of it.
absl::StatusOr<LoadedModel> LoadPart(const LoadOptions& options, hash::Device& device,
                                     RankPart& part) {
  if (options.verify.fips) {
    return Refuse(Reason::kUnsupported, "--fips", "a load hashes on the device, not with OpenSSL",
                  "verify with: pavise verify --fips");
  }
  hash::DevicePass pass(device, options.pass);
  signing::VerifyOptions verify = options.verify;
  std::optional<RankedPass> ranked;
  if (options.ranks != nullptr) {
    ranked.emplace(*options.ranks, pass, RankedPass::Cut::kAroundRanges);
  }
  verify.file_pass = ranked.has_value() ? static_cast<hash::FilePass*>(&*ranked) : &pass;
  PAVISE_ASSIGN_OR_RETURN(const signing::VerifiedModel verified,
                          signing::ModelVerifier::Verify(verify));
  LoadedModel model;
  model.report = *verified;
  model.files = pass.TakeLoadedFiles();
  model.answers_sampled = pass.answers_sampled();
  if (ranked.has_value()) part.bytes_read = ranked->bytes_read();
  model.channel = Channel::kHostMemory;

  const signing::Statement& statement = model.report.signed_statement.statement;
  const auto annotations = AnnotationsOf(statement);
  // A tensor that was asked for was checked in every file that has one of its name.
  const std::unordered_set<std::string> checked(model.report.tensors_checked.begin(),
                                                model.report.tensors_checked.end());
  for (const hash::LoadedFile& file : model.files) {
    if (file.buffer == nullptr) return MachineFailure(file.name, "verified, and not in memory");
    if (file.buffer->host_bytes().empty()) model.channel = Channel::kPlain;
    model.device_bytes += file.buffer->size_bytes();
    // A model of one file may be signed as "." and is then called by its path.
    auto annotation = annotations.find(file.name);
    if (annotation == annotations.end() && model.report.files_checked == 1 &&
        annotations.size() == 1) {
      annotation = annotations.begin();
    }
    std::vector<model::TensorEntry> entries;
    if (annotation != annotations.end()) {
      for (const signing::TensorDigest& tensor : annotation->second->tensors) {
        entries.push_back(tensor.tensor);
      }
    } else if (!model.report.partial) {
      PAVISE_ASSIGN_OR_RETURN(entries, TensorsInBytes(device, file));
    }
    for (model::TensorEntry& entry : entries) {
      if (ranked.has_value() && !ranked->Owns(file.name, entry.begin_bytes, entry.end_bytes)) {
        continue;
      }
      const std::optional<hash::Range> range = file.Find(entry.begin_bytes, entry.end_bytes);
      if (!range.has_value()) {
        if (model.report.partial) continue;  // not asked for
        return MachineFailure(entry.name, "verified, and not in memory");
      }
      // An empty one lies everywhere.
      if (model.report.partial && !checked.contains(entry.name)) continue;
      model.tensors.push_back(
          {std::move(entry), file.name, file.buffer.get(), range->offset_bytes});
    }
  }
  return model;
}

}  // namespace

std::string_view ChannelName(Channel channel) {
  return channel == Channel::kHostMemory ? "host-memory" : "plain";
}

std::string_view ChannelMeaning(Channel channel) {
  return channel == Channel::kHostMemory
             ? "the process's own memory"
             : "bytes cross a bus in the clear; who controls it or the driver can change them";
}

const LoadedTensor* LoadedModel::Find(std::string_view name) const {
  const LoadedTensor* found = nullptr;
  for (const LoadedTensor& tensor : tensors) {
    if (tensor.entry.name != name) continue;
    if (found != nullptr) return nullptr;
    found = &tensor;
  }
  return found;
}

const LoadedTensor* LoadedModel::Find(std::string_view file, std::string_view name) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const LoadedTensor& tensor) {
    return tensor.entry.name == name && tensor.file == file;
  });
  return found == tensors.end() ? nullptr : &*found;
}

absl::StatusOr<VerifiedLoad> Loader::Load(const LoadOptions& options, hash::Device& device) {
  RankPart part;
  part.device = device.description();
  absl::StatusOr<LoadedModel> model = LoadPart(options, device, part);
  if (options.ranks != nullptr) {
    RankFacts facts;
    if (model.ok()) {
      facts = VerdictFacts(options.verify, model->report);
      part.tensors = model->tensors.size();
      part.device_bytes = model->device_bytes;
      part.answers_sampled = model->answers_sampled;
    }
    PAVISE_ASSIGN_OR_RETURN(std::vector<RankPart> ranks,
                            options.ranks->Conclude(model.status(), facts, part));
    if (model.ok()) model->ranks = std::move(ranks);
  }
  if (!model.ok()) return model.status();
  return VerifiedLoad(*std::move(model));
}

}  // namespace pavise::loading
