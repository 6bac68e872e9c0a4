#ifndef PAVISE_OFFLOAD_INTERNAL_COORDINATOR_STATE_H_
#define PAVISE_OFFLOAD_INTERNAL_COORDINATOR_STATE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/offload/checks/weight_sketch.h"
#include "pavise/offload/coordinator.h"
#include "pavise/offload/fused_pass.h"
#include "pavise/offload/internal/worker_pool.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload::internal {

// Adds the CPU time of this thread between its making and its end.
class CpuTimer {
 public:
  explicit CpuTimer(double& seconds);
  ~CpuTimer();
  CpuTimer(const CpuTimer&) = delete;
  CpuTimer& operator=(const CpuTimer&) = delete;

 private:
  double& seconds_;
  const double begin_;
};

// What checks of products with sums of `inner` terms find.
std::string SoundnessLine(const CoordinatorOptions& options, std::span<const int> moduli,
                          size_t inner);

}  // namespace pavise::offload::internal

namespace pavise::offload {

struct Coordinator::State {
  State(std::shared_ptr<const Scheme> the_scheme, const CoordinatorOptions& the_options,
        SecretStream the_stream, SecretStream the_fresh, internal::WorkerPool the_pool)
      : scheme(std::move(the_scheme)),
        options(the_options),
        stream(std::move(the_stream)),
        fresh(std::move(the_fresh)),
        pool(std::move(the_pool)) {}

  const std::shared_ptr<const Scheme> scheme;
  const CoordinatorOptions options;
  SecretStream stream;  // of the keys of layers in floats
  SecretStream fresh;   // that no other coordinator has
  internal::WorkerPool pool;
  FusedWorkspace workspace;
  std::vector<Bytes> spare;  // memory for requests (internal/frames.h)
  std::map<std::string, std::unique_ptr<OffloadedLayer>> layers;
  uint64_t last_layer_id = 0;  // at workers; each placement has one of its own
  uint64_t products = 0;
  uint64_t layers_made = 0;  // or tried
  uint64_t chains = 0;
  LayerReport product_report;

  absl::StatusOr<Matrix> MultiplyHere(Operation operation, MatrixView a, MatrixView b) const;
};

struct OffloadedLayer::Impl {
  // A request that was sent; a slot's are answered in order.
  struct InFlight {
    Request request;
    std::unique_ptr<PendingReply> pending;  // none: to be sent when the slot is made again
  };
  // One of the workers that the layer is on, and what it takes to make it again on another.
  struct Slot {
    std::optional<size_t> worker;
    uint64_t layer_id = 0;     // at that worker; 0: it is not there
    bool has_served = false;   // made before: the next time is a recovery
    std::vector<size_t> full;  // workers that had no room for it
    Request checkpoint;        // kPutWeights
    std::vector<Request> log;  // since then: what changed what the worker keeps, and was answered
    std::deque<InFlight> in_flight;
  };
  // A part of a batch, with a key of its own.
  struct Piece {
    uint64_t id = 0;  // the workers' step
    size_t samples = 0;
    std::unique_ptr<Step> step;
    // As they travelled, but for layers that read in place: there the slot's log has them, and
    // these are what the sketch with that number made of them.
    Encoding inputs;
    Encoding output_gradients;
    struct Read {
      WeightSketch::Sent sent;
      uint64_t sketch = 0;
    };
    Read read_inputs;
    Read read_gradients;
    bool is_training = false;
  };
  // Not OK: what the worker did wrong. May take the frames.
  using Accept = std::function<absl::Status(Reply& reply)>;

  Impl(Coordinator::State& the_coordinator, LayerSpec the_spec, SecretStream the_stream,
       SecretStream the_checks);
  ~Impl();

  // ---- Keys and weights ----
  absl::Status Make(LayerState initial);
  // A new key, the weights under it, on workers.
  absl::Status TakeKey(MatrixView plain_weights, MatrixView plain_velocity);
  absl::Status PutWeights(MatrixView plain_weights, MatrixView plain_velocity);
  absl::Status BeginBatch(size_t steps, uint64_t known_rows);
  absl::Status TakeCheckpoint();
  absl::StatusOr<Matrix> FetchWeights();
  // The checkpoint, decoded.
  absl::StatusOr<LayerState> StateOfCheckpoint() const;
  // What checkpoint and log make, by this machine's products.
  absl::StatusOr<LayerState> ReplayHere() const;
  absl::StatusOr<Matrix> Decoded(Matrix encoded) const;

  // ---- Workers ----
  double work() const;
  void LeaveWorker(Slot& slot);
  bool CanTake(size_t index, size_t worker) const;
  // One that never held the layer; of shares one whose operator has seen this share already, so
  // that others are left for the shares that they may see.
  bool IsPreferred(size_t index, size_t worker) const;
  // Makes the slot on a worker: checkpoint, log, and what is in flight.
  absl::Status Place(size_t index);
  absl::Status Replay(Slot& slot);
  absl::Status MakeSketch();
  void Send(size_t index, Request request);
  // The answer to what is in flight the longest, accepted; whatever that takes.
  absl::Status Answer(size_t index, const Accept& accept);
  void KeepInLog(Slot& slot, Request request);
  // Answers of which nothing is needed. Afterwards the layer is on workers.
  absl::Status Drain();
  // As after the last update.
  void Reset();
  // After a failure that came when something had been sent, or when nobody was there to send it to.
  template <typename T>
  T Guarded(T result) {
    bool is_placed = true;
    for (const Slot& slot : slots) is_placed = is_placed && slot.layer_id != 0;
    if (!result.ok() && (has_sent || !is_placed)) Reset();
    has_sent = false;
    return result;
  }
  void TellToForget(const Slot& slot, uint64_t step) const;
  absl::Status CheckBetweenBatches() const;

  // ---- A batch ----
  Request NewRequest(Command command, uint64_t step) const;
  // Encodes under the piece's keys, sends, and returns what travelled.
  absl::StatusOr<Encoding> EncodeAndSend(const Request& request, Piece& piece, Wire wire,
                                         MatrixView plain);
  // Keys for a batch, one step after another; nothing is sent. Steps of several layers that are
  // given the same groupings can be fused (layer_chain.h).
  absl::StatusOr<std::vector<Piece>> NewPieces(size_t samples, Use use, uint64_t known_rows,
                                               std::span<const std::vector<uint32_t>> groupings);
  static size_t PiecesOf(const CoordinatorOptions& options, size_t samples);

  // ---- Layers that read in place ----
  bool reads_in_place() const;
  // Sends X' or dY', of which the gradient's sketch is made.
  absl::Status SendFrame(Request request, Piece& piece, Wire wire, Frame frame);
  // Y' or dX', checked.
  absl::StatusOr<Frame> ReceiveFrame(Piece& piece, Wire wire);
  // What was sent of the piece.
  absl::StatusOr<const Frame*> FindFrame(const Piece& piece, Wire wire) const;
  // By the sketch in use: it may be another one than when it was sent.
  absl::StatusOr<const WeightSketch::Sent*> ReadSent(Piece& piece, Wire wire);
  absl::Status ReadInto(Piece& piece, Wire wire, const Frame& frame);
  absl::StatusOr<Matrix> Decoded(Piece& piece, Wire wire);

  absl::Status CheckShare(Operation operation, const Share& a, const Share& b, const Share& y);
  absl::StatusOr<Matrix> ReceiveOutputs(Piece& piece);
  absl::StatusOr<Matrix> ReceiveInputGradients(Piece& piece, bool want_input_gradients);
  absl::Status ReceiveWeightGradient(const Piece& piece);
  absl::StatusOr<Outputs> Forward(MatrixView inputs, Use use, uint64_t known_rows);
  absl::StatusOr<Matrix> Backward(uint64_t pass, MatrixView output_gradients,
                                  bool want_input_gradients);
  // Their halves: what several workers are asked for before the first answer is waited for.
  absl::StatusOr<std::vector<Piece>> SendInputs(MatrixView inputs, Use use, uint64_t known_rows);
  absl::StatusOr<Outputs> ReceivePass(std::vector<Piece> pieces, Use use);
  absl::Status SendOutputGradients(uint64_t pass, MatrixView output_gradients,
                                   bool want_input_gradients);
  absl::StatusOr<Matrix> ReceiveGradients(uint64_t pass, bool want_input_gradients);
  void Forget(uint64_t pass);
  absl::Status UpdateOnWorker(const SgdStep& step);
  // The batch's gradient in the clear, of schemes in floats: asked for, and taken.
  void AskForGradient() { Send(0, NewRequest(Command::kUpdate, 0)); }
  absl::StatusOr<Matrix> TakeGradient();
  // Between batches: what the worker kept is kept here from now on.
  absl::Status BringUpdatesHere();
  absl::Status UpdateHere(const std::function<absl::Status()>& apply);
  // Of optimizers that no worker does.
  absl::Status UpdateByCoordinator(std::string_view optimizer,
                                   const std::function<absl::Status()>& apply);
  // With `gradient`; workers are not told.
  absl::Status ApplyHere(const std::function<absl::Status()>& apply);

  bool in_floats() const { return moduli.empty(); }
  uint64_t weights_bytes() const {
    return uint64_t{shape.taps} * shape.inputs * shape.outputs * sizeof(float);
  }
  DType type() const { return coordinator.options.type; }

  Coordinator::State& coordinator;
  const LayerSpec spec;
  SecretStream stream;          // of this layer's keys
  SecretStream checks;          // of its check vectors, which no other run has
  LayerShape shape;             // of what workers multiply
  size_t input_positions = 1;   // rows of X for each sample, as workers see it
  size_t output_positions = 1;  // rows of Y
  bool updates_on_worker = false;

  std::unique_ptr<Layer> layer;
  std::vector<int> moduli;
  uint64_t keys = 0;
  bool wants_key = false;   // before the next batch
  bool wants_move = false;  // with that key, to the worker that would be done first
  std::vector<Slot> slots;
  std::set<size_t> holders;  // workers that ever held it
  bool has_sent = false;     // in this call
  // Operators that ever held a share, and which; of schemes over several workers.
  std::map<std::string, size_t> share_of_operator;
  Encoding weight_shares;  // of schemes in residues: what Freivalds needs

  std::optional<WeightSketch> sketch;  // of schemes in floats
  uint64_t sketches = 0;
  double checkpoint_drift = 0;
  std::optional<SecretStream> vectors;  // of schemes in residues

  uint64_t version = 0;
  uint64_t last_step = 0;
  uint64_t last_pass = 0;
  std::map<uint64_t, std::vector<Piece>> open;  // passes
  uint64_t batch_steps = 0;                     // since the last update
  uint64_t last_batch_steps = 0;
  uint64_t gradients = 0;  // steps whose gradient was added since the last update
  uint64_t updates_since_checkpoint = 0;

  // Of layers that the coordinator updates.
  Matrix weights;
  Matrix velocity;
  Matrix second_moment;
  Matrix gradient;

  // Of layers whose rows are spread, this one has the first block.
  std::unique_ptr<RowBlocks> blocks;
  // Of the layer whose block this one has; nullptr: it is no other layer's block.
  const RowBlocks* block_of = nullptr;
  std::vector<LayerReport> retired;  // of blocks that are no more
  uint64_t blocks_made = 0;
  size_t workers_seen = 0;   // when it was last thought about
  bool stays_whole = false;  // of plans

  LayerReport report;
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_INTERNAL_COORDINATOR_STATE_H_
