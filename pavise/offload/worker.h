#ifndef PAVISE_OFFLOAD_WORKER_H_
#define PAVISE_OFFLOAD_WORKER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/offload/convolution.h"
#include "pavise/offload/residues.h"
#include "pavise/offload/scheme.h"
#include "pavise/offload/sgd.h"
#include "pavise/offload/tensor.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// What a coordinator asks of a worker, and how, whatever carries it: memory of the same process, or
// gRPC. The coordinator takes every answer for hostile, the worker every request.
namespace pavise::offload {

// A matrix as it travels: floats of `type` as PackMatrix lays them out, or centred residues of an
// odd modulus, one byte each, row by row.
struct Frame {
  DType type = DType::kFp32;
  int modulus = 0;  // not 0: residues
  size_t rows = 0;
  size_t columns = 0;
  Bytes bytes;
};
// One share: a frame of floats, or a frame of residues for each modulus of the layer.
using Frames = std::vector<Frame>;

// What a worker keeps of a layer. All of it is soft state: the coordinator can make it again, and
// has to where a request is refused as kStateMissing.
struct WorkerLayer {
  LayerShape shape;
  std::vector<int> moduli;                      // empty: floats
  std::optional<ConvolutionShape> convolution;  // the worker does the convolution ("native")
};

enum class Command : uint8_t {
  // Weights under a new version; whatever the worker kept of the layer is gone, but for the number
  // of its last step. Frames: weights, and for floats optionally the velocity (fp32).
  kPutWeights,
  // inputs -> outputs. With keep_inputs the worker keeps the inputs for this step's kBackward.
  // Steps of a layer ascend from 1, with or without gaps.
  kForward,
  // output gradients -> input gradients (where wanted). The weight gradient of the kept inputs is
  // added to the step's sum; the inputs are let go.
  kBackward,
  // The weight gradient, summed over all steps since the last update: applied as `sgd` under
  // `shift`
  // (floats; the version becomes one more, which the reply names, and inputs that are still kept
  // are
  // let go), or where there is no `sgd` returned (fp32 or residues) and forgotten.
  kUpdate,
  // -> weights, and the velocity where the layer has one, as they are: fp32 or residues.
  kGetWeights,
  // a, b -> a b, a b^T or a^T b, with nothing kept: attention, and everything without state.
  kProduct,
  // Forgets a step of the layer, or where `step` is 0 the layer; whether it is there or not.
  kForget,
};

struct Request {
  Command command = Command::kProduct;
  uint64_t layer = 0;
  uint64_t version = 0;  // the weights' version that is meant; another is refused as stale
  uint64_t step = 0;     // one batch or micro-batch at this layer; never used twice
  Frames frames;         // kProduct: a, then b (each one frame, or one for each modulus)
  DType reply_type = DType::kFp32;  // of floats in the answer
  // What floats are rounded to before they are multiplied; sums are fp32 and so are the weights
  // that are kept. fp32: not at all. bf16 is what matrix units take: an answer is then off by the
  // weights' rounding as well, for which a check must allow.
  DType operand_type = DType::kFp32;
  WorkerLayer layer_shape;                  // kPutWeights
  size_t samples = 0;                       // of the step, for native convolutions
  bool keep_inputs = false;                 // kForward
  bool want_input_gradients = true;         // kBackward
  std::optional<SgdStep> sgd;               // kUpdate
  KeyShift shift;                           // kUpdate
  Operation operation = Operation::kPlain;  // kProduct
};

// Echoes what it answers, so that an answer of another step is recognised whoever carried it.
struct Reply {
  Command command = Command::kProduct;
  uint64_t layer = 0;
  uint64_t version = 0;
  uint64_t step = 0;
  Frames frames;
};

struct WorkerDescription {
  std::string name;    // as configured; the certificate says who it is
  std::string device;  // "cpu (oneDNN 2.6, 2 threads)"
  uint64_t memory_limit_bytes = 0;
  std::vector<DType> types;          // in which floats may travel
  std::vector<DType> operand_types;  // Request::operand_type
  bool convolves = false;            // native convolutions
  bool multiplies_residues = false;
};

// A request under way. Destroying it gives up waiting.
class PendingReply {
 public:
  virtual ~PendingReply() = default;
  // Once. Refusals are the worker's (their texts are not to be trusted) or of the form of its
  // answer (kMalformed); a machine failure: disconnected, or no answer by the deadline.
  virtual absl::StatusOr<Reply> Wait(absl::Time deadline) = 0;
};

// One worker as the coordinator sees it. Requests are answered in the order in which they were
// sent. Thread-safe.
class WorkerConnection {
 public:
  virtual ~WorkerConnection() = default;
  virtual const WorkerDescription& description() const = 0;
  // The fingerprint of the certificate that it showed; empty where it showed none (in process).
  virtual std::string certificate() const { return {}; }
  // CPU time of the worker's thread so far, where it is this process's (what a device does on other
  // threads is not in it); nullopt: it is another machine's business.
  virtual std::optional<double> cpu_seconds() const { return std::nullopt; }
  virtual std::unique_ptr<PendingReply> Send(Request request) = 0;
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_WORKER_H_
