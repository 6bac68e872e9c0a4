#ifndef PAVISE_LOADING_LOAD_H_
#define PAVISE_LOADING_LOAD_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/hash/device.h"
#include "pavise/hash/device_pass.h"
#include "pavise/loading/ranked_run.h"
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

// The way from the trusted CPU to the device's memory.
enum class Channel {
  kHostMemory,  // none: the buffers are the process's own memory
  kPlain,       // a bus in the clear: whoever controls it, or the device's driver, can change bytes
};
std::string_view ChannelName(Channel channel);  // "host-memory", "plain"
// What it does and does not protect, for people.
std::string_view ChannelMeaning(Channel channel);

struct LoadOptions {
  // What is verified, and against whom (file_pass is the loader's to set). With `tensors` only
  // those are read, proven and handed out.
  signing::VerifyOptions verify;
  hash::DevicePassOptions pass;
  // Not nullptr: all ranks of the run load together, each its share of the tensors (whole ones) to
  // its own device. Load concludes the run.
  RankedRun* ranks = nullptr;
};

// One tensor in device memory. Views of the LoadedModel's buffers: valid as long as that.
struct LoadedTensor {
  model::TensorEntry entry;  // its range is that in the file
  std::string file;
  const hash::Buffer* buffer = nullptr;
  uint64_t buffer_offset_bytes = 0;

  uint64_t size_bytes() const { return entry.end_bytes - entry.begin_bytes; }
};

// A model in a device's memory. Move-only; the device must outlive it.
struct LoadedModel {
  signing::VerifyReport report;
  std::vector<hash::LoadedFile> files;
  std::vector<LoadedTensor> tensors;  // in the order of the files, then of the bytes
  uint64_t device_bytes = 0;
  uint64_t answers_sampled = 0;
  Channel channel = Channel::kPlain;
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
  // tensor table cannot be read, kUnsupported for `fips` and for what the device cannot hold or
  // compute, kInternal where the device fails or disagrees with the CPU. In each case nothing is
  // handed out and the device's memory is given back. With `ranks` those of RankedPass and
  // RankedRun too, and no rank loads where another refuses.
  //
  // Tensors come from the signed table; of files signed without one (by other tools) from the
  // safetensors header in the verified bytes. Files of other formats have none. What a
  // partial load read along without being asked is in no buffer.
  static absl::StatusOr<VerifiedLoad> Load(const LoadOptions& options, hash::Device& device);
};

}  // namespace pavise::loading

#endif  // PAVISE_LOADING_LOAD_H_
