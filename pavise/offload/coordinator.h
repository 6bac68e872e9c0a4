#ifndef PAVISE_OFFLOAD_COORDINATOR_H_
#define PAVISE_OFFLOAD_COORDINATOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pavise/base/random.h"
#include "pavise/offload/adamw.h"
#include "pavise/offload/convolution.h"
#include "pavise/offload/muon.h"
#include "pavise/offload/residues.h"
#include "pavise/offload/scheme.h"
#include "pavise/offload/secret_stream.h"
#include "pavise/offload/sgd.h"
#include "pavise/offload/tensor.h"
#include "pavise/offload/worker.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

// The trusted side of offload: linear layers whose products are done by workers that nobody trusts.
// What goes out is encoded under the scheme, what comes back is checked before it is used:
//
//   result                        floats (`none`, `tempo`, `orthogonal`)    residues (`shared`,
//                                                                           `slalom`)
//   outputs, input gradients      sketch of the weights (checks/)           Freivalds, exact
//   the worker's own updates      the sketch follows them                   there are none
//   weights handed back           sketch                                    never asked for
//   weight gradients handed back  sketch                                    Freivalds, exact
//   Product                       Freivalds                                 Freivalds, exact
//
// A worker that disconnects, does not answer in time, answers another question, in another form or
// with a wrong result is evicted for good, and what it held is made again on another one, from a
// checkpoint and the log of the requests since: the caller sees the right result, later. The next
// worker is shown what the evicted one was shown, under the same key; before the next batch the
// layer gets a new one. Check vectors are drawn anew at once.
namespace pavise::offload {

struct WorkerSeat {
  std::shared_ptr<WorkerConnection> connection;
  // Who can read that worker's memory. Schemes over several workers assume that operators do not
  // collude, so each product's workers have distinct ones, and an operator that held a layer's
  // share is never given another share of it.
  std::string operated_by;
  // What findings and reports call it. Empty: what it calls itself, which may be another's name.
  std::string name = {};
};

// op(a) op(b) by the coordinator itself, at the full speed of its CPU.
using LocalProduct =
    std::function<absl::StatusOr<Matrix>(Operation operation, MatrixView a, MatrixView b)>;

struct CoordinatorOptions {
  // In which floats travel: kFp32, kBf16, kFp16.
  DType type = DType::kBf16;
  // What workers round weights to before they multiply (Request::operand_type); not narrower than
  // `type`. kFp32 is exact; kBf16 is what matrix units take, and what checks then allow for.
  DType operand_type = DType::kFp32;
  // A batch is cut into as many steps, so that encoding, transfers and the worker's products
  // overlap; steps of less than 64 samples are not made for it.
  size_t micro_batches = 1;
  // Of each answer. A worker that is slower is evicted like one that died.
  absl::Duration reply_timeout = absl::Minutes(2);
  // After that many updates by the worker its weights are fetched, checked, and kept as the
  // checkpoint; the log of what was sent since takes memory until then.
  uint64_t updates_per_checkpoint = 16;
  // Of each layer's log; where it is longer, and longer than four checkpoints, the next one is
  // taken at once.
  uint64_t log_limit_bytes = uint64_t{64} << 20;
  // WeightSketchOptions::drift_budget, of each layer, over all its keys.
  double drift_budget = 0.01;
  // A layer's rows are spread over up to so many workers where that is expected to be quicker
  // (docs/decisions/0022): each has the weights, under a key of its own, and a block of each
  // batch's samples. The coordinator then does such a layer's updates. 1: layers stay whole. Of
  // schemes in floats.
  size_t row_blocks = 1;
  // What a block is expected to cost the coordinator besides, for each weight and update: its
  // gradient checked and decoded, the weights encoded and sketched.
  double seconds_per_block_weight = 40e-9;
  // Blocks of one size instead of by measured speed: two runs round alike.
  bool even_blocks = false;
  // For PlanLayer, and for what is left to do where no worker is. Plain loops where it is empty.
  LocalProduct local_product;
  // Of what no coordinator ever repeats (Coordinator::Create). nullptr: SystemRandom().
  RandomSource* random = nullptr;
};

// A layer Y = X W. Images are matrices as convolution.h lays them out.
struct LayerSpec {
  std::string item;  // "blocks.3.mlp.fc1", in refusals and reports; one of a kind
  size_t inputs = 0;
  size_t outputs = 0;
  // The most samples of one pass: rows of X, or images where there is a convolution.
  size_t max_samples = 0;
  // `samples` is not read; `channels` is `inputs`.
  std::optional<ConvolutionShape> convolution;
  // The worker does the convolution, and sees the images' geometry. Else it is a product through
  // ImageToColumns, which hides that, at `taps` times the traffic. The same for 1x1, stride 1.
  bool is_native = false;
  // The worker keeps the weights and does SGD on them, where the scheme lets it. Else the
  // coordinator does the updates, from gradients that are handed back, and encodes weights anew.
  bool updates_on_worker = true;
};

// All that a layer is, in the clear. A layer made of one (AddLayer) goes on where it was taken.
struct LayerState {
  Matrix weights;        // (taps * inputs) x outputs, tap by tap
  Matrix velocity;       // of SGD; AdamW's first moment, Muon's momentum; empty: zeros
  Matrix second_moment;  // of AdamW; empty: zeros
  uint64_t updates = 0;
  uint64_t keys = 0;  // that the layer had: its next one is drawn under this number
  double drift_spent = 0;
};

struct Outputs {
  Matrix values;
  uint64_t pass = 0;  // for Backward; 0 in inference
};

struct LayerReport {
  std::string item;
  std::string scheme;
  std::vector<std::string> workers;  // at present
  std::string key_budget;            // KeyBudget::Report of the key in use
  uint64_t keys = 0;                 // that it has had
  uint64_t checks = 0;               // that passed
  std::string soundness;             // what a check finds, with which probability
  double drift_spent = 0;
  uint64_t updates = 0;
  uint64_t checkpoints = 0;
  uint64_t recoveries = 0;  // from a worker's failure, by checkpoint and log
  double recovery_seconds = 0;
  uint64_t sent_bytes = 0;
  uint64_t received_bytes = 0;
  double coordinator_cpu_seconds = 0;
  double check_cpu_seconds = 0;  // of these, in sketches and Freivalds' checks
};
struct WorkerReport {
  std::string name;
  std::string device;
  std::string operated_by;
  double products_per_second = 0;  // multiplications and additions, measured when it joined
  std::string evicted_because;     // empty: at work
};
struct CoordinatorReport {
  std::vector<LayerReport> layers;
  LayerReport products;  // of Product, together
  std::vector<WorkerReport> workers;
};
// Several lines, for people.
std::string Describe(const CoordinatorReport& report);

// What offloading a layer would cost the coordinator, in CPU time of one thread for one pass
// forward, backward and one update, and what the products would; measured, on its own shapes.
struct LayerPlan {
  bool offloads = false;
  double local_seconds = 0;
  double offload_seconds = 0;
  std::string why;  // "blocks.0.attn.qkv: offloaded, 12 ms instead of 80 ms"
};

class OffloadedLayer;

// Not thread-safe: one thread at a time calls it and its layers. Owns them; must outlive none of
// what it is given.
class Coordinator {
 public:
  // Each worker is asked for a product, which is checked and timed; one that fails is evicted.
  //
  // The keys of schemes in floats, which decide how results are rounded, are expanded from `stream`
  // and a layer's state: what is resumed under the same stream encodes the same batches under the
  // same keys, and must have the same batches. Masks of residues, check vectors and the keys of
  // Product are mixed with fresh random bytes: they serve one coordinator, whatever is resumed.
  //
  // A usage error where an option is out of range; kPolicyDenied: fewer distinct operators than the
  // scheme needs, or one certificate under two operators' names; kUnsupported: the scheme needs
  // residues and too few workers multiply them.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Create(std::shared_ptr<const Scheme> scheme,
                                                             std::vector<WorkerSeat> workers,
                                                             SecretStream stream,
                                                             const CoordinatorOptions& options);
  ~Coordinator();

  // Between batches; takes some layers over before their next batch, where that makes the whole
  // quicker, and is there when another worker fails. A worker that fails its first product is
  // refused.
  absl::Status AddWorker(WorkerSeat worker);

  // By a few small passes of noise on the workers as they are. Without what a transport costs in
  // threads of its own. Refusals of AddLayer and OffloadedLayer.
  absl::StatusOr<LayerPlan> PlanLayer(const LayerSpec& spec, size_t samples);

  // The layer lives as long as the coordinator. Refusals of Scheme::NewLayer; kMalformed: weights
  // that are not finite; a usage error: other shapes than the specification's, an item twice.
  // Where no worker is left, see OffloadedLayer.
  absl::StatusOr<OffloadedLayer*> AddLayer(LayerSpec spec, LayerState initial);

  // a b, a b^T or a^T b with both operands secret, under a key that serves this product alone.
  // kUnsupported under `slalom`, whose second operand is no secret.
  struct Operands {
    MatrixView a;
    MatrixView b;
  };
  absl::StatusOr<Matrix> Product(Operation operation, MatrixView a, MatrixView b);
  // Several at once, over all workers.
  absl::StatusOr<std::vector<Matrix>> Products(Operation operation,
                                               std::span<const Operands> operands);

  CoordinatorReport Report() const;

 private:
  friend class LayerChain;
  friend class OffloadedLayer;
  struct State;
  explicit Coordinator(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// One layer's weights, on workers. A batch is: Forward, Backward (any number of passes), Update.
//
// When no worker is left that could take the layer, a call refuses (a machine failure where all of
// them only disconnected or were late) and names each worker with what it did. The layer is then as
// after its last Update: passes and gradients since are dropped, nothing else is lost. Weights and
// State still answer, by the coordinator's own products, and after AddWorker training goes on.
// kLimitExceeded: the drift budget is spent (checks/weight_sketch.h).
class OffloadedLayer {
 public:
  ~OffloadedLayer();

  // X W. In training the workers keep X, until Backward or Forget. A worker may know `known_rows`
  // rows of X in the clear, which the key is charged for. kKeyExhausted: one batch asks for more
  // than a whole key serves. kMalformed: NaN or infinities in X.
  absl::StatusOr<Outputs> Forward(MatrixView inputs, Use use, uint64_t known_rows = 0);
  // The gradient of X, where it is wanted (else an empty matrix); that of the weights is added to
  // the batch's. Once for each pass; a usage error for another.
  absl::StatusOr<Matrix> Backward(uint64_t pass, MatrixView output_gradients,
                                  bool want_input_gradients);
  // A pass that gets no Backward.
  void Forget(uint64_t pass);
  // Drops the passes and gradients since the last update: a batch that failed elsewhere.
  void Abandon();

  // Does the optimizer's step with the summed gradient; nothing where there was no Backward, as
  // PyTorch does. A usage error while passes are open. AdamW, Muon: kUnsupported where the worker
  // does the updates.
  absl::Status Update(const SgdStep& step);
  absl::Status Update(const AdamWStep& step);
  absl::Status Update(const MuonStep& step);

  // Checked. A usage error while passes are open or gradients were not applied.
  absl::StatusOr<Matrix> Weights();
  // Takes a new key afterwards, so that this run and one resumed from the state take one course.
  absl::StatusOr<LayerState> State();

  const LayerSpec& spec() const;
  LayerReport Report() const;

 private:
  friend class Coordinator;
  friend class LayerChain;
  struct Impl;
  struct RowBlocks;
  explicit OffloadedLayer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_COORDINATOR_H_
