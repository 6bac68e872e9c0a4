#include "pavise/loading/load.h"

#include <algorithm>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <unordered_set>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/hash/blake3.h"
#include "pavise/loading/internal/rank_message.h"
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

struct ChannelText {
  Channel channel;
  std::string_view name;
  std::string_view meaning;
};
constexpr ChannelText kChannels[] = {
    {Channel::kPlain, "plain",
     "bytes cross a bus in the clear; who controls it or the driver can change them"},
    {Channel::kConfidentialGpu, "confidential-gpu",
     "the driver says that the bus is encrypted; its word only, the GPU is not attested"},
    {Channel::kHostMemory, "host-memory", "the process's own memory"}};

Channel ChannelOf(hash::MemoryLink::Kind link) {
  switch (link) {
    case hash::MemoryLink::Kind::kHost:
      return Channel::kHostMemory;
    case hash::MemoryLink::Kind::kEncryptedUnattested:
      return Channel::kConfidentialGpu;
    case hash::MemoryLink::Kind::kPlain:
      break;
  }
  return Channel::kPlain;
}

// What all ranks must have been asked alike; their shares differ.
void AddLoadFacts(const LoadOptions& options, RankFacts& facts) {
  internal::MessageWriter slices;
  for (const Slice& slice : options.slices) {
    slices.String(AsBytes(slice.tensors));
    slices.Integer(slice.dimension);
    slices.Integer(slice.ranks);
  }
  facts.emplace_back("the slices", ToHex(hash::Blake3(slices.Take())));
  facts.emplace_back("the least channel", ChannelName(options.least_channel));
  facts.emplace_back("the number of sampled answers", StrCat(options.pass.sampled_answers));
  facts.emplace_back("the references kept", StrCat(static_cast<unsigned>(options.pass.references)));
}

// The pass of a rank that proves its own shares, and what it read.
class SharePass final : public hash::FilePass {
 public:
  explicit SharePass(hash::FilePass& inner) : inner_(inner) {}
  absl::StatusOr<std::vector<absl::StatusOr<hash::FileResult>>> Run(
      const std::vector<hash::FileRequest>& files, Progress* progress) override {
    copy_ = CopyDigest(files);
    return inner_.Run(files, progress);
  }
  std::string description() const override { return inner_.description(); }
  const std::string& copy() const { return copy_; }

 private:
  hash::FilePass& inner_;
  std::string copy_;
};

// This rank's part, or all of it.
absl::StatusOr<LoadedModel> LoadPart(const LoadOptions& options, hash::Device& device,
                                     RankPart& part) {
  if (options.verify.fips) {
    return Refuse(Reason::kUnsupported, "--fips", "a load hashes on the device, not with OpenSSL",
                  "verify with: pavise verify --fips");
  }
  const hash::MemoryLink link = device.memory_link();
  const Channel channel = ChannelOf(link.kind);
  if (channel < options.least_channel) {
    return Refuse(Reason::kUnsupported, device.name(),
                  StrCat("the channel to this device is ", ChannelName(channel), ", below ",
                         ChannelName(options.least_channel), ": ", link.because),
                  "name a device that offers it, or accept less with --channel");
  }
  hash::DevicePass pass(device, options.pass);
  SliceSelection slices(options.slices);
  PAVISE_RETURN_IF_ERROR(slices.Validate());
  for (const Slice& slice : options.slices) {
    if (options.ranks == nullptr) break;
    if (slice.rank != options.ranks->rank() || slice.ranks != options.ranks->size()) {
      return UsageError(StrCat("rank ", options.ranks->rank(), " of ", options.ranks->size(),
                               " cannot load the share of rank ", slice.rank, " of ", slice.ranks));
    }
  }
  signing::VerifyOptions verify = options.verify;
  std::optional<RankedPass> ranked;
  // Shares of tensors each rank proves by itself; otherwise the ranks divide the model.
  if (options.ranks != nullptr && options.slices.empty()) {
    ranked.emplace(*options.ranks, pass, RankedPass::Cut::kAroundRanges);
  }
  SharePass alone(pass);
  verify.file_pass = ranked.has_value() ? static_cast<hash::FilePass*>(&*ranked) : &alone;
  if (!options.slices.empty()) {
    verify.choose_parts = [&slices](const std::string& file, const FileAnnotation& signed_as) {
      return slices.PartsOf(file, signed_as);
    };
  }
  PAVISE_ASSIGN_OR_RETURN(const signing::VerifiedModel verified,
                          signing::ModelVerifier::Verify(verify));
  PAVISE_RETURN_IF_ERROR(slices.CheckMatched());
  LoadedModel model;
  model.report = *verified;
  model.files = pass.TakeLoadedFiles();
  model.answers_sampled = pass.answers_sampled();
  part.copy = ranked.has_value() ? ranked->copy() : alone.copy();
  part.bytes_read = ranked.has_value() ? ranked->bytes_read() : model.report.bytes_checked;
  model.channel = channel;
  model.channel_because = link.because;

  const signing::Statement& statement = model.report.signed_statement.statement;
  const auto annotations = AnnotationsOf(statement);
  // A tensor that was asked for was checked in every file that has one of its name.
  const std::unordered_set<std::string> checked(model.report.tensors_checked.begin(),
                                                model.report.tensors_checked.end());
  const bool is_one_file = std::all_of(
      model.files.begin(), model.files.end(),
      [&](const hash::LoadedFile& file) { return file.name == model.files.front().name; });
  std::set<std::pair<std::string, std::string>> handed_out;  // file, tensor
  for (const hash::LoadedFile& file : model.files) {
    if (file.buffer == nullptr) return MachineFailure(file.name, "verified, and not in memory");
    if (channel == Channel::kHostMemory && file.buffer->host_bytes().empty()) {
      return MachineFailure(device.name(), "says that its memory is the host's, and hides it");
    }
    model.device_bytes += file.buffer->size_bytes();
    // A model of one file may be signed as "." and is then called by its path.
    auto annotation = annotations.find(file.name);
    if (annotation == annotations.end() && is_one_file && model.report.files_checked == 1 &&
        annotations.size() == 1) {
      annotation = annotations.begin();
    }
    std::vector<model::TensorEntry> entries;
    model::TensorFormat format = model::TensorFormat::kSafetensors;
    if (annotation != annotations.end()) {
      format = annotation->second->tensor_format.value_or(format);
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
      const Slice* const slice = slices.Find(entry.name);
      // Its bytes may still be here: an empty one lies everywhere, a small one in a slice's MiB.
      if (model.report.partial && slice == nullptr && !checked.contains(entry.name)) continue;
      PAVISE_ASSIGN_OR_RETURN(TensorView view, slice != nullptr ? SliceView(*slice, entry, format)
                                                                : WholeView(entry, format));
      const std::optional<hash::Range> range = file.Find(view.begin_bytes, view.end_bytes);
      if (!range.has_value()) {
        if (model.report.partial) continue;  // in the file's other buffer
        return MachineFailure(entry.name, "verified, and not in memory");
      }
      if (!handed_out.emplace(file.name, entry.name).second) continue;
      model.tensors.push_back({.entry = std::move(entry),
                               .format = format,
                               .file = file.name,
                               .view = std::move(view),
                               .slice = slice != nullptr ? std::optional(*slice) : std::nullopt,
                               .buffer = file.buffer.get(),
                               .buffer_offset_bytes = range->offset_bytes});
    }
  }
  return model;
}

}  // namespace

std::string_view ChannelName(Channel channel) {
  return kChannels[static_cast<size_t>(channel)].name;
}

std::string_view ChannelMeaning(Channel channel) {
  return kChannels[static_cast<size_t>(channel)].meaning;
}

std::optional<Channel> ChannelNamed(std::string_view name) {
  for (const ChannelText& text : kChannels) {
    if (text.name == name) return text.channel;
  }
  return std::nullopt;
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
  absl::StatusOr<LoadedModel> model = [&]() -> absl::StatusOr<LoadedModel> {
    try {
      return LoadPart(options, device, part);
    } catch (const std::exception& error) {
      return MachineFailure("load", error.what());
    }
  }();
  if (options.ranks != nullptr) {
    RankFacts facts;
    if (model.ok()) {
      signing::VerifyReport report = model->report;
      if (!options.slices.empty()) {  // each rank's own
        report.ranges_checked.clear();
        report.bytes_checked = 0;
      }
      facts = VerdictFacts(options.verify, report);
      AddLoadFacts(options, facts);
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
