#ifndef PAVISE_LOADING_LOAD_H_
#define PAVISE_LOADING_LOAD_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/hash/device.h"
#include "pavise/hash/device_pass.h"
#include "pavise/loading/ranked_run.h"
#include "pavise/loading/slice.h"
#include "pavise/model/tensor_table.h"
#include "pavise/signing/verify.h"

#include "absl/status/statusor.h"

// From a signature and a model on disk to tensors in the memory that will use them, whose bytes
// were hashed *there*. Nothing is handed out before all of it is verified.
//
// Against whom: whoever may write the files, before, during and after the load (what was verified
// is what the buffers hold), and a device that computes or copies wrongly without meaning to. Not
// against a device that lies on purpose, nor against who controls the channel to it; the Channel in
// the result says which it is.
namespace pavise::loading {

// The way from the trusted CPU to the device's memory, the weakest first.
enum class Channel {
  // A bus in the clear: whoever controls it, or the device's driver, can change bytes.
  kPlain,
  // The GPU's driver says that confidential computing is on for it, so that what crosses the bus is
  // encrypted and authenticated. It is the driver's word and no evidence: a compromised driver, or
  // who puts another library in NVML's place, says the same. Only attestation of the GPU, appraised
  // by somebody who trusts neither, makes it worth more than kPlain against these.
  kConfidentialGpu,
  kHostMemory,  // none: the buffers are the process's own memory
};
// "plain", "confidential-gpu", "host-memory"; and back, nullopt for anything else.
std::string_view ChannelName(Channel channel);
std::optional<Channel> ChannelNamed(std::string_view name);
// What it does and does not protect, for people.
std::string_view ChannelMeaning(Channel channel);

struct LoadOptions {
  // What is verified, and against whom (file_pass and choose_parts are the loader's to set). With
  // `tensors` only those are read, proven and handed out.
  signing::VerifyOptions verify;
  // Of tensors that match one, this rank's share instead of the whole, and without verify.tensors
  // nothing else. At most one may match a tensor. Read and kept are the MiB of the file from the
  // share's first byte to its last, proven by the outboard tree, which must be at hand. Of
  // dimension 0, 1/ranks of the tensor; of a later one nearly all of it, since other ranks' rows
  // lie between.
  std::vector<Slice> slices;
  hash::DevicePassOptions pass;
  // A device that offers less is refused before anything is read.
  Channel least_channel = Channel::kPlain;
  // Not nullptr: all ranks of the run load together, each to its own device, and Load concludes the
  // run. Without `slices` they share the model: each proves a part of it, with whole tensors. With
  // slices, each of which must be this rank's, every rank proves its own.
  RankedRun* ranks = nullptr;
};

// One tensor in device memory. Views of the LoadedModel's buffers: valid as long as that.
struct LoadedTensor {
  model::TensorEntry entry;  // as signed: of the whole tensor; its range is that in the file
  model::TensorFormat format = model::TensorFormat::kSafetensors;
  std::string file;
  // What of the tensor this is. Every byte from its first to its last was proven, those between a
  // share's rows too.
  TensorView view;
  std::optional<Slice> slice;
  const hash::Buffer* buffer = nullptr;
  uint64_t buffer_offset_bytes = 0;  // of the view's first byte

  uint64_t size_bytes() const { return view.end_bytes - view.begin_bytes; }
};

// A model in a device's memory. Move-only; the device must outlive it.
struct LoadedModel {
  signing::VerifyReport report;
  std::vector<hash::LoadedFile> files;  // one may appear twice: for whole tensors, and for slices
  std::vector<LoadedTensor> tensors;    // in the order of the files, then of the bytes
  uint64_t device_bytes = 0;
  uint64_t answers_sampled = 0;
  Channel channel = Channel::kPlain;
  std::string channel_because;  // who says so: hash::MemoryLink::because
  // Of a load by several ranks, what each holds; else empty. `files`, `tensors` and what counts
  // them are this rank's own; the report is of the whole model.
  std::vector<RankPart> ranks;

  // nullptr: there is none of that name, or one in each of several files.
  const LoadedTensor* Find(std::string_view name) const;
  // The one in that file.
  const LoadedTensor* Find(std::string_view file, std::string_view name) const;
};

class Loader;
using VerifiedLoad = Verified<LoadedModel, Loader>;

// The only way to a VerifiedLoad. Stateless.
class Loader {
 public:
  // The refusals of signing::ModelVerifier::Verify; besides kMalformed where a verified file's
  // tensor table cannot be read, kUnsupported for `fips`, for a channel below
  // `least_channel` and for what the device cannot hold, compute or read, kInternal where the
  // device fails or disagrees with the CPU or memory runs out. In each case nothing is
  // handed out and the device's memory is given back. With `ranks` those of RankedPass and
  // RankedRun too, and no rank loads where another refuses.
  //
  // Slices: besides the refusals of SliceSelection, kFileMissing without the outboard tree.
  //
  // Tensors come from the signed table; of files signed without one (by other tools) from the
  // safetensors header in the verified bytes. Files of other formats have none. What a
  // partial load read along without proving it is in no buffer.
  static absl::StatusOr<VerifiedLoad> Load(const LoadOptions& options, hash::Device& device);
};

}  // namespace pavise::loading

#endif  // PAVISE_LOADING_LOAD_H_
