#include <algorithm>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/checks/freivalds.h"
#include "pavise/offload/internal/coordinator_state.h"
#include "pavise/offload/internal/frames.h"
#include "pavise/offload/internal/row_blocks.h"

#include "absl/time/clock.h"

namespace pavise::offload {
namespace {

using internal::CpuTimer;
using internal::FramesOf;
using internal::ShareOf;

// Steps of fewer samples are not made for the sake of overlap: a key mixes samples with each other.
constexpr size_t kLeastSamples = 64;

MatrixView Rows(MatrixView m, size_t first, size_t count) {
  return {m.Row(first), count, m.columns, m.stride};
}

absl::Status CheckGiven(MatrixView m, size_t rows, size_t columns, std::string_view item) {
  if (m.rows == rows && m.columns == columns) return absl::OkStatus();
  return UsageError(StrCat(item, ": ", m.rows, " x ", m.columns, " is not ", rows, " x ", columns));
}

absl::Status NothingReturned(const Reply& reply) {
  if (reply.frames.empty()) return absl::OkStatus();
  return Refuse(Reason::kMalformed, "answer", "it has frames where none were asked for");
}

// Puts parts below each other.
absl::StatusOr<Matrix> Stacked(std::vector<Matrix> parts, std::string_view item) {
  if (parts.size() == 1) return std::move(parts[0]);
  size_t rows = 0;
  for (const Matrix& part : parts) rows += part.rows();
  PAVISE_ASSIGN_OR_RETURN(Matrix out, Matrix::Create(rows, parts[0].columns(), item));
  auto to = out.values().begin();
  for (const Matrix& part : parts) {
    to = std::copy(part.values().begin(), part.values().end(), to);
  }
  return out;
}

void ApplyShift(const KeyShift& shift, Matrix& gradient) {
  if (shift.rows.empty()) return;
  for (size_t i = 0; i < gradient.rows(); ++i) {
    const float row = shift.rows[i % shift.rows.size()];
    for (size_t j = 0; j < gradient.columns(); ++j) gradient(i, j) *= row * shift.columns[j];
  }
}

void AddTo(Matrix& sum, const Matrix& addend) {
  for (size_t i = 0; i < sum.values().size(); ++i) sum.values()[i] += addend.values()[i];
}

}  // namespace

OffloadedLayer::Impl::Impl(Coordinator::State& the_coordinator, LayerSpec the_spec,
                           SecretStream the_stream, SecretStream the_checks)
    : coordinator(the_coordinator),
      spec(std::move(the_spec)),
      stream(std::move(the_stream)),
      checks(std::move(the_checks)) {}
OffloadedLayer::Impl::~Impl() = default;

// ---- Keys and weights ----

absl::Status OffloadedLayer::Impl::Make(LayerState initial) {
  const Scheme& scheme = *coordinator.scheme;
  shape = {spec.inputs, spec.outputs, 1, spec.max_samples};
  if (spec.convolution.has_value()) {
    ConvolutionShape images = *spec.convolution;
    images.samples = spec.max_samples;
    PAVISE_RETURN_IF_ERROR(CheckConvolution(images, spec.item));
    if (images.channels != spec.inputs) {
      return UsageError(StrCat(spec.item, ": its convolution has other channels than the layer"));
    }
    output_positions = images.output_height() * images.output_width();
    input_positions = spec.is_native ? images.height * images.width : output_positions;
    (spec.is_native ? shape.taps : shape.inputs) *= images.taps();
    shape.max_rows = spec.max_samples * std::max(input_positions, output_positions);
  }
  updates_on_worker = spec.updates_on_worker && scheme.updates_encoded_weights(Optimizer::kSgd);
  const size_t rows = shape.taps * shape.inputs;
  PAVISE_RETURN_IF_ERROR(CheckGiven(initial.weights, rows, shape.outputs, spec.item));
  for (Matrix* moment : {&initial.velocity, &initial.second_moment}) {
    if (moment->rows() == 0) continue;
    PAVISE_RETURN_IF_ERROR(CheckGiven(*moment, rows, shape.outputs, spec.item));
    PAVISE_RETURN_IF_ERROR(CheckFinite(*moment, spec.item));
  }
  keys = initial.keys;
  checkpoint_drift = initial.drift_spent;
  report.updates = initial.updates;
  slots = std::vector<Slot>(scheme.workers());
  PAVISE_RETURN_IF_ERROR(TakeKey(initial.weights, initial.velocity));
  if (!updates_on_worker) {
    weights = std::move(initial.weights);
    velocity = std::move(initial.velocity);
    second_moment = std::move(initial.second_moment);
  }
  return absl::OkStatus();
}

absl::Status OffloadedLayer::Impl::TakeKey(MatrixView plain_weights, MatrixView plain_velocity) {
  // Two runs from one state may renew keys at different updates: then under different keys.
  PAVISE_ASSIGN_OR_RETURN(SecretStream key,
                          stream.Derive(StrCat("key ", keys + 1, ", update ", report.updates)));
  PAVISE_ASSIGN_OR_RETURN(auto next,
                          coordinator.scheme->NewLayer(spec.item, shape, std::move(key)));
  if (!next->moduli().empty() && shape.taps != 1) {
    return Refuse(Reason::kUnsupported, spec.item,
                  "convolutions by the worker are not checked in residues",
                  "turn the convolution into a product (im2col)");
  }
  Reset();  // no step outlives its layer's key
  for (Slot& slot : slots) slot.has_served = false;
  layer = std::move(next);
  moduli = layer->moduli();
  ++keys;
  PAVISE_RETURN_IF_ERROR(PutWeights(plain_weights, plain_velocity));
  for (size_t i = 0; i < slots.size(); ++i) PAVISE_RETURN_IF_ERROR(Place(i));
  wants_key = wants_move = false;
  return absl::OkStatus();
}

absl::Status OffloadedLayer::Impl::PutWeights(MatrixView plain_weights, MatrixView plain_velocity) {
  PAVISE_ASSIGN_OR_RETURN(Encoding encoding, layer->EncodeWeights(plain_weights));
  Request request = NewRequest(Command::kPutWeights, 0);
  request.version = version + 1;
  request.layer_shape = {shape, moduli, std::nullopt};
  if (shape.taps != 1 || spec.is_native) request.layer_shape.convolution = spec.convolution;
  std::vector<Frames> frames;
  for (const Share& share : encoding) {
    PAVISE_ASSIGN_OR_RETURN(frames.emplace_back(),
                            FramesOf(share, DType::kFp32, moduli, spec.item));
  }
  if (updates_on_worker && plain_velocity.rows != 0) {
    PAVISE_ASSIGN_OR_RETURN(const Encoding encoded, layer->EncodeWeights(plain_velocity));
    PAVISE_ASSIGN_OR_RETURN(Frames velocity_frames,
                            FramesOf(encoded[0], DType::kFp32, moduli, spec.item));
    frames[0].push_back(std::move(velocity_frames[0]));
  }
  ++version;
  for (size_t i = 0; i < slots.size(); ++i) {
    Slot& slot = slots[i];
    slot.log.clear();
    slot.checkpoint = request;
    slot.checkpoint.frames = std::move(frames[i]);
    if (slot.layer_id != 0) Send(i, slot.checkpoint);
  }
  updates_since_checkpoint = 0;
  if (in_floats()) return MakeSketch();
  weight_shares = std::move(encoding);
  if (vectors.has_value()) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(vectors, checks.Derive("vectors"));
  return absl::OkStatus();
}

absl::Status OffloadedLayer::Impl::BeginBatch(size_t steps, uint64_t known_rows) {
  PAVISE_RETURN_IF_ERROR(Drain());
  if (!open.empty() || gradients != 0) return absl::OkStatus();
  batch_steps = 0;
  const KeyLimits& limits = layer->budget().limits();
  const KeyLimits& spent = layer->budget().spent();
  const bool is_exhausted = std::max(steps, last_batch_steps) > limits.steps - spent.steps ||
                            known_rows > limits.known_equations - spent.known_equations;
  if (!wants_key && !wants_move && (!is_exhausted || spent == KeyLimits{0, 0})) {
    return absl::OkStatus();
  }
  // A worker that holds one matrix under two keys can match them, so that what it saw under one
  // helps it with the other: the next key is for a worker that had none, where there is one.
  bool leaves = wants_move;
  for (size_t i = 0; i < coordinator.pool.size() && slots.size() == 1; ++i) {
    leaves = leaves || (is_exhausted && IsPreferred(0, i));
  }
  if (!updates_on_worker) {
    if (leaves) LeaveWorker(slots[0]);
    return TakeKey(block_of != nullptr ? block_of->weights() : MatrixView(weights), {});
  }
  PAVISE_RETURN_IF_ERROR(TakeCheckpoint());
  PAVISE_ASSIGN_OR_RETURN(const LayerState state, StateOfCheckpoint());
  if (leaves) LeaveWorker(slots[0]);
  return TakeKey(state.weights, state.velocity);
}

absl::Status OffloadedLayer::Impl::TakeCheckpoint() {
  PAVISE_RETURN_IF_ERROR(Drain());
  if (updates_since_checkpoint == 0) return absl::OkStatus();
  const size_t rows = shape.taps * shape.inputs;
  absl::Status budget;
  Frames frames;
  Send(0, NewRequest(Command::kGetWeights, 0));
  const auto accept = [&](const Reply& reply) -> absl::Status {
    if (reply.frames.size() != 2) {
      return Refuse(Reason::kMalformed, "weights", "they are not weights and velocity");
    }
    Share kept[2];
    for (size_t i = 0; i < 2; ++i) {
      PAVISE_ASSIGN_OR_RETURN(kept[i], ShareOf({&reply.frames[i], 1}, DType::kFp32, {}, rows,
                                               shape.outputs, "weights"));
    }
    const absl::Status status = sketch->Resynchronise(kept[0].values, kept[1].values);
    if (ReasonOf(status) == Reason::kLimitExceeded) {
      budget = status;  // the worker did nothing wrong
    } else {
      PAVISE_RETURN_IF_ERROR(status);
    }
    frames = reply.frames;
    return absl::OkStatus();
  };
  PAVISE_RETURN_IF_ERROR(Answer(0, accept));
  PAVISE_RETURN_IF_ERROR(budget);
  Slot& slot = slots[0];
  slot.checkpoint.frames = std::move(frames);
  slot.checkpoint.version = version;
  slot.log.clear();
  updates_since_checkpoint = 0;
  checkpoint_drift = sketch->drift_spent();
  ++report.checkpoints;
  return absl::OkStatus();
}

absl::StatusOr<Matrix> OffloadedLayer::Impl::Decoded(Matrix encoded) const {
  Encoding encoding(1);
  encoding[0].values = std::move(encoded);
  return layer->DecodeWeights(encoding);
}

absl::StatusOr<LayerState> OffloadedLayer::Impl::StateOfCheckpoint() const {
  LayerState state;
  const Frames& frames = slots[0].checkpoint.frames;
  for (size_t i = 0; i < frames.size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(Share share,
                            ShareOf({&frames[i], 1}, DType::kFp32, {}, shape.taps * shape.inputs,
                                    shape.outputs, spec.item));
    PAVISE_ASSIGN_OR_RETURN((i == 0 ? state.weights : state.velocity),
                            Decoded(std::move(share.values)));
  }
  return state;
}

absl::StatusOr<LayerState> OffloadedLayer::Impl::ReplayHere() const {
  const Slot& slot = slots[0];
  const size_t rows = shape.taps * shape.inputs;
  const auto unpacked = [&](const Frame& frame) {
    return UnpackMatrix(frame.bytes, frame.type, frame.rows, frame.columns, spec.item);
  };
  PAVISE_ASSIGN_OR_RETURN(Matrix encoded, unpacked(slot.checkpoint.frames[0]));
  PAVISE_ASSIGN_OR_RETURN(Matrix moment, Matrix::Create(rows, shape.outputs, spec.item));
  if (slot.checkpoint.frames.size() == 2) {
    PAVISE_ASSIGN_OR_RETURN(moment, unpacked(slot.checkpoint.frames[1]));
  }
  PAVISE_ASSIGN_OR_RETURN(Matrix sum, Matrix::Create(rows, shape.outputs, spec.item));
  std::map<uint64_t, const Request*> kept;
  const auto replay = [&](const Request& request) -> absl::Status {
    if (request.command == Command::kForward) kept[request.step] = &request;
    if (request.command == Command::kBackward) {
      PAVISE_ASSIGN_OR_RETURN(Matrix x, unpacked(kept.at(request.step)->frames[0]));
      PAVISE_ASSIGN_OR_RETURN(const Matrix dy, unpacked(request.frames[0]));
      if (spec.is_native) {
        ConvolutionShape images = *spec.convolution;
        images.samples = kept.at(request.step)->samples;
        PAVISE_ASSIGN_OR_RETURN(x, ImageToColumns(images, x, spec.item));
      }
      PAVISE_ASSIGN_OR_RETURN(const Matrix added,
                              coordinator.MultiplyHere(Operation::kTransposeLeft, x, dy));
      AddTo(sum, added);
    }
    if (request.command == Command::kUpdate) {
      ApplyShift(request.shift, sum);
      PAVISE_RETURN_IF_ERROR(ApplySgd(*request.sgd, sum, moment.view(), encoded.view()));
      std::fill(sum.values().begin(), sum.values().end(), 0.0f);
    }
    return absl::OkStatus();
  };
  for (const Request& request : slot.log) PAVISE_RETURN_IF_ERROR(replay(request));
  LayerState state;
  PAVISE_ASSIGN_OR_RETURN(state.weights, Decoded(std::move(encoded)));
  PAVISE_ASSIGN_OR_RETURN(state.velocity, Decoded(std::move(moment)));
  return state;
}

// ---- Workers ----

double OffloadedLayer::Impl::work() const {
  return 2.0 * static_cast<double>(shape.max_rows) * static_cast<double>(shape.taps) *
         static_cast<double>(shape.inputs) * static_cast<double>(shape.outputs);
}

void OffloadedLayer::Impl::LeaveWorker(Slot& slot) {
  if (slot.worker.has_value()) coordinator.pool.worker(*slot.worker).load -= work();
  slot.worker.reset();
  slot.layer_id = 0;
}

bool OffloadedLayer::Impl::CanTake(size_t index, size_t worker) const {
  const Slot& slot = slots[index];
  const WorkerSeat& seat = coordinator.pool.worker(worker).seat;
  if (!coordinator.pool.is_at_work(worker) ||
      (spec.is_native && !seat.connection->description().convolves) ||
      std::find(slot.full.begin(), slot.full.end(), worker) != slot.full.end()) {
    return false;
  }
  if (slots.size() == 1) return true;
  if (seat.operated_by.empty()) return false;  // it may be anybody's
  const auto held = share_of_operator.find(seat.operated_by);
  return held == share_of_operator.end() || held->second == index;
}

bool OffloadedLayer::Impl::IsPreferred(size_t index, size_t worker) const {
  if (!CanTake(index, worker)) return false;
  if (block_of != nullptr && block_of->HasBlockOn(worker, *this)) return false;
  return slots.size() == 1
             ? !holders.contains(worker)
             : share_of_operator.contains(coordinator.pool.worker(worker).seat.operated_by);
}

absl::Status OffloadedLayer::Impl::Place(size_t index) {
  internal::WorkerPool& pool = coordinator.pool;
  Slot& slot = slots[index];
  const absl::Time begin = absl::Now();
  while (true) {
    if (!slot.worker.has_value() || !pool.is_at_work(*slot.worker)) {
      LeaveWorker(slot);
      slot.worker = pool.Choose(work(), [&](size_t i) { return IsPreferred(index, i); });
      if (!slot.worker.has_value()) {
        slot.worker = pool.Choose(work(), [&](size_t i) { return CanTake(index, i); });
      }
      if (!slot.worker.has_value()) return pool.NoneLeft(spec.item);
      pool.worker(*slot.worker).load += work();
      holders.insert(*slot.worker);
      if (slots.size() > 1) {
        share_of_operator.emplace(pool.worker(*slot.worker).seat.operated_by, index);
      }
    }
    slot.layer_id = ++coordinator.last_layer_id;
    const absl::Status status = Replay(slot);
    if (status.ok()) break;
    if (ReasonOf(status) == Reason::kLimitExceeded) {
      slot.full.push_back(*slot.worker);
      LeaveWorker(slot);
    } else if (ReasonOf(status) == Reason::kStateMissing) {
      pool.LoseState(*slot.worker, spec.item, status);
    } else {
      pool.Evict(*slot.worker, spec.item, status);
    }
  }
  // With vectors that no worker saw a refusal by.
  if (in_floats()) PAVISE_RETURN_IF_ERROR(MakeSketch());
  if (slot.has_served) {
    ++report.recoveries;
    report.recovery_seconds += absl::ToDoubleSeconds(absl::Now() - begin);
    wants_key = true;
  }
  slot.has_served = true;
  return absl::OkStatus();
}

absl::Status OffloadedLayer::Impl::Replay(Slot& slot) {
  WorkerConnection& connection = *coordinator.pool.worker(*slot.worker).seat.connection;
  std::deque<InFlight> replayed;
  const auto send = [&](const Request& kept) {
    Request request = kept;
    request.layer = slot.layer_id;
    request.want_input_gradients = false;
    report.sent_bytes += internal::SizeBytes(request.frames);
    InFlight& in_flight = replayed.emplace_back();
    in_flight.request = request;
    in_flight.request.frames.clear();
    in_flight.pending = connection.Send(std::move(request));
  };
  send(slot.checkpoint);
  for (const Request& request : slot.log) send(request);
  // What these say was checked when it was said first; now only their being done matters, which
  // the sketch shows.
  for (const InFlight& in_flight : replayed) {
    PAVISE_ASSIGN_OR_RETURN(
        const Reply reply,
        in_flight.pending->Wait(absl::Now() + coordinator.options.reply_timeout));
    report.received_bytes += internal::SizeBytes(reply.frames);
    PAVISE_RETURN_IF_ERROR(internal::CheckEcho(in_flight.request, reply));
  }
  // The checkpoint is what a kPutWeights in flight would have put.
  std::erase_if(slot.in_flight, [](const InFlight& in_flight) {
    return in_flight.request.command == Command::kPutWeights;
  });
  for (InFlight& in_flight : slot.in_flight) {
    in_flight.request.layer = slot.layer_id;
    report.sent_bytes += internal::SizeBytes(in_flight.request.frames);
    in_flight.pending = connection.Send(in_flight.request);
  }
  return absl::OkStatus();
}

absl::Status OffloadedLayer::Impl::MakeSketch() {
  const Slot& slot = slots[0];
  const auto unpacked = [&](const Frame& frame) {
    return UnpackMatrix(frame.bytes, frame.type, frame.rows, frame.columns, spec.item);
  };
  PAVISE_ASSIGN_OR_RETURN(const Matrix encoded, unpacked(slot.checkpoint.frames[0]));
  Matrix moment;
  if (slot.checkpoint.frames.size() == 2) {
    PAVISE_ASSIGN_OR_RETURN(moment, unpacked(slot.checkpoint.frames[1]));
  }
  WeightSketchOptions options;
  options.type = type();
  options.operand_type = coordinator.options.operand_type;
  options.check = FloatCheck::For(type());
  options.drift_budget = coordinator.options.drift_budget;
  options.drift_spent = checkpoint_drift;
  if (spec.is_native) options.convolution = spec.convolution;
  PAVISE_ASSIGN_OR_RETURN(SecretStream drawn, checks.Derive(StrCat("sketch ", ++sketches)));
  PAVISE_ASSIGN_OR_RETURN(WeightSketch next, WeightSketch::Create(spec.item, encoded, moment,
                                                                  options, std::move(drawn)));
  std::map<uint64_t, const Request*> kept;
  const auto follow = [&](const Request& request) -> absl::Status {
    if (request.command == Command::kForward) kept[request.step] = &request;
    if (request.command == Command::kBackward) {
      PAVISE_ASSIGN_OR_RETURN(const Matrix x, unpacked(kept.at(request.step)->frames[0]));
      PAVISE_ASSIGN_OR_RETURN(const Matrix dy, unpacked(request.frames[0]));
      PAVISE_RETURN_IF_ERROR(next.AddGradient(layer->key_shift(), x, dy));
    }
    if (request.command == Command::kUpdate && request.sgd.has_value()) next.Update(*request.sgd);
    return absl::OkStatus();
  };
  for (const Request& request : slot.log) PAVISE_RETURN_IF_ERROR(follow(request));
  for (const InFlight& in_flight : slot.in_flight) {
    PAVISE_RETURN_IF_ERROR(follow(in_flight.request));
  }
  sketch = std::move(next);
  return absl::OkStatus();
}

void OffloadedLayer::Impl::Send(size_t index, Request request) {
  Slot& slot = slots[index];
  InFlight& in_flight = slot.in_flight.emplace_back();
  has_sent = true;
  request.layer = slot.layer_id;
  in_flight.request = std::move(request);
  if (slot.layer_id == 0) return;
  report.sent_bytes += internal::SizeBytes(in_flight.request.frames);
  in_flight.pending =
      coordinator.pool.worker(*slot.worker).seat.connection->Send(in_flight.request);
}

absl::Status OffloadedLayer::Impl::Answer(size_t index, const Accept& accept) {
  internal::WorkerPool& pool = coordinator.pool;
  Slot& slot = slots[index];
  while (true) {
    if (slot.layer_id == 0 || !pool.is_at_work(*slot.worker)) {
      const bool is_checkpoint = slot.in_flight.front().request.command == Command::kPutWeights;
      PAVISE_RETURN_IF_ERROR(Place(index));
      if (is_checkpoint) return absl::OkStatus();
    }
    InFlight& front = slot.in_flight.front();
    absl::StatusOr<Reply> reply =
        front.pending->Wait(absl::Now() + coordinator.options.reply_timeout);
    absl::Status status = reply.status();
    if (status.ok()) {
      report.received_bytes += internal::SizeBytes(reply->frames);
      status = internal::CheckEcho(front.request, *reply);
      if (status.ok()) status = accept(*reply);
      if (status.ok()) {
        KeepInLog(slot, std::move(front.request));
        slot.in_flight.pop_front();
        return absl::OkStatus();
      }
      pool.Evict(*slot.worker, spec.item, status);
    } else if (ReasonOf(status) == Reason::kLimitExceeded) {
      slot.full.push_back(*slot.worker);
      LeaveWorker(slot);
    } else if (ReasonOf(status) == Reason::kStateMissing) {
      pool.LoseState(*slot.worker, spec.item, status);
    } else {
      pool.Evict(*slot.worker, spec.item, status);
    }
    slot.layer_id = 0;
  }
}

void OffloadedLayer::Impl::KeepInLog(Slot& slot, Request request) {
  switch (request.command) {
    case Command::kForward:
      if (request.keep_inputs) slot.log.push_back(std::move(request));
      return;
    case Command::kBackward:
      slot.log.push_back(std::move(request));
      return;
    case Command::kUpdate:
      if (request.sgd.has_value()) {
        slot.log.push_back(std::move(request));
      } else {
        // The gradient was handed back: nothing is left of its steps.
        std::erase_if(slot.log, [&](const Request& kept) {
          return in_floats() || kept.step == request.step;
        });
      }
      return;
    default:
      return;
  }
}

absl::Status OffloadedLayer::Impl::Drain() {
  for (size_t i = 0; i < slots.size(); ++i) {
    while (!slots[i].in_flight.empty()) PAVISE_RETURN_IF_ERROR(Answer(i, NothingReturned));
    if (slots[i].layer_id == 0 || !coordinator.pool.is_at_work(*slots[i].worker)) {
      PAVISE_RETURN_IF_ERROR(Place(i));
    }
  }
  return absl::OkStatus();
}

void OffloadedLayer::Impl::Reset() {
  open.clear();
  gradients = 0;
  gradient = {};
  for (Slot& slot : slots) {
    for (InFlight& in_flight : slot.in_flight) slot.log.push_back(std::move(in_flight.request));
    slot.in_flight.clear();
    while (!slot.log.empty() &&
           !(slot.log.back().command == Command::kUpdate && slot.log.back().sgd.has_value())) {
      slot.log.pop_back();
    }
    if (slot.layer_id != 0) {
      TellToForget(slot, 0);
      slot.has_served = false;  // what comes next is no worker's fault
    }
    slot.layer_id = 0;
  }
}

void OffloadedLayer::Impl::TellToForget(const Slot& slot, uint64_t step) const {
  if (slot.layer_id == 0 || !coordinator.pool.is_at_work(*slot.worker)) return;
  Request request;
  request.command = Command::kForget;
  request.layer = slot.layer_id;
  request.step = step;
  // Its answer matters to nobody: what was not forgotten is not used again.
  coordinator.pool.worker(*slot.worker).seat.connection->Send(std::move(request));
}

absl::Status OffloadedLayer::Impl::CheckBetweenBatches() const {
  if (open.empty() && gradients == 0) return absl::OkStatus();
  return UsageError(StrCat(spec.item, ": passes are open, or gradients were not applied"));
}

// ---- A batch ----

Request OffloadedLayer::Impl::NewRequest(Command command, uint64_t step) const {
  Request request;
  request.command = command;
  request.version = version;
  request.step = step;
  request.reply_type = type();
  request.operand_type = coordinator.options.operand_type;
  return request;
}

absl::StatusOr<Encoding> OffloadedLayer::Impl::EncodeAndSend(const Request& request, Piece& piece,
                                                             Wire wire, MatrixView plain) {
  Encoding sent(1);
  Request asked = request;
  // Encoded and rounded in one pass over memory.
  if (in_floats() && internal::ReadsInPlace(type())) {
    PAVISE_ASSIGN_OR_RETURN(Frame frame, internal::NewFrame(type(), plain.rows, plain.columns,
                                                            spec.item, coordinator.spare));
    FusedPass pass;
    pass.rows = plain.rows;
    pass.columns = plain.columns;
    pass.in = plain;
    internal::EncodeInto(frame, piece.step->keys(wire), pass);
    PAVISE_RETURN_IF_ERROR(RunPass(pass, coordinator.workspace));
    if (reads_in_place()) {
      PAVISE_RETURN_IF_ERROR(SendFrame(std::move(asked), piece, wire, std::move(frame)));
      return sent;
    }
    PAVISE_ASSIGN_OR_RETURN(
        sent[0].values, UnpackMatrix(frame.bytes, type(), plain.rows, plain.columns, spec.item));
    asked.frames.push_back(std::move(frame));
    Send(0, std::move(asked));
    return sent;
  }
  PAVISE_ASSIGN_OR_RETURN(sent, wire == Wire::kInputs ? piece.step->EncodeInputs(plain)
                                                      : piece.step->EncodeOutputGradients(plain));
  for (size_t i = 0; i < slots.size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(asked.frames, FramesOf(sent[i], type(), moduli, spec.item));
    if (in_floats()) {
      PAVISE_ASSIGN_OR_RETURN(
          sent[i], ShareOf(asked.frames, type(), moduli, plain.rows, plain.columns, spec.item));
    }
    Send(i, asked);
  }
  return sent;
}

size_t OffloadedLayer::Impl::PiecesOf(const CoordinatorOptions& options, size_t samples) {
  return std::clamp<size_t>(samples / kLeastSamples, 1, options.micro_batches);
}

absl::StatusOr<std::vector<OffloadedLayer::Impl::Piece>> OffloadedLayer::Impl::NewPieces(
    size_t samples, Use use, uint64_t known_rows,
    std::span<const std::vector<uint32_t>> groupings) {
  const size_t count = PiecesOf(coordinator.options, samples);
  PAVISE_RETURN_IF_ERROR(BeginBatch(count, known_rows * count));
  // All keys before anything is sent: a budget that is spent costs nothing but the call.
  std::vector<Piece> pieces(count);
  for (size_t i = 0; i < count; ++i) {
    Piece& piece = pieces[i];
    piece.samples = samples * (i + 1) / count - samples * i / count;
    piece.is_training = use == Use::kTraining;
    StepShape step_shape = {piece.samples,
                            input_positions,
                            output_positions,
                            // Which rows are known is not known: each part may have all of them.
                            std::min<uint64_t>(known_rows, piece.samples * input_positions),
                            {}};
    if (!groupings.empty()) step_shape.grouping = groupings[i];
    PAVISE_ASSIGN_OR_RETURN(piece.step, layer->NewStep(step_shape, use));
    piece.id = ++last_step;
    ++batch_steps;
  }
  return pieces;
}

// ---- Layers that read in place ----

bool OffloadedLayer::Impl::reads_in_place() const {
  return in_floats() && internal::ReadsInPlace(type()) && shape.taps == 1 && !spec.is_native;
}

absl::Status OffloadedLayer::Impl::ReadInto(Piece& piece, Wire wire, const Frame& frame) {
  const CpuTimer timer(report.check_cpu_seconds);
  const bool is_forward = wire == Wire::kInputs;
  Piece::Read& read = is_forward ? piece.read_inputs : piece.read_gradients;
  PAVISE_ASSIGN_OR_RETURN(read.sent, sketch->Read(is_forward, layer->key_shift(), piece.is_training,
                                                  internal::ValuesOf(frame)));
  read.sketch = sketches;
  return absl::OkStatus();
}

absl::StatusOr<const Frame*> OffloadedLayer::Impl::FindFrame(const Piece& piece, Wire wire) const {
  const Command command = wire == Wire::kInputs ? Command::kForward : Command::kBackward;
  const auto is_it = [&](const Request& request) {
    return request.step == piece.id && request.command == command;
  };
  const Slot& slot = slots[0];
  for (auto in_flight = slot.in_flight.rbegin(); in_flight != slot.in_flight.rend(); ++in_flight) {
    if (is_it(in_flight->request)) return &in_flight->request.frames[0];
  }
  for (auto request = slot.log.rbegin(); request != slot.log.rend(); ++request) {
    if (is_it(*request)) return &request->frames[0];
  }
  return UsageError(StrCat(spec.item, ": step ", piece.id, " was not sent, or is forgotten"));
}

absl::StatusOr<const WeightSketch::Sent*> OffloadedLayer::Impl::ReadSent(Piece& piece, Wire wire) {
  const Piece::Read& read = wire == Wire::kInputs ? piece.read_inputs : piece.read_gradients;
  if (read.sketch != sketches) {
    PAVISE_ASSIGN_OR_RETURN(const Frame* const frame, FindFrame(piece, wire));
    PAVISE_RETURN_IF_ERROR(ReadInto(piece, wire, *frame));
  }
  return &read.sent;
}

absl::Status OffloadedLayer::Impl::SendFrame(Request request, Piece& piece, Wire wire,
                                             Frame frame) {
  PAVISE_RETURN_IF_ERROR(ReadInto(piece, wire, frame));  // refuses what is not finite
  request.frames.push_back(std::move(frame));
  Send(0, std::move(request));
  if (wire == Wire::kInputs) return absl::OkStatus();
  const CpuTimer timer(report.check_cpu_seconds);
  PAVISE_ASSIGN_OR_RETURN(const Frame* const inputs, FindFrame(piece, Wire::kInputs));
  PAVISE_ASSIGN_OR_RETURN(const Frame* const gradients_sent,
                          FindFrame(piece, Wire::kOutputGradients));
  PAVISE_ASSIGN_OR_RETURN(const WeightSketch::Sent* const left, ReadSent(piece, Wire::kInputs));
  return sketch->AddGradient(layer->key_shift(), internal::ValuesOf(*inputs), *left,
                             internal::ValuesOf(*gradients_sent), piece.read_gradients.sent);
}

absl::StatusOr<Frame> OffloadedLayer::Impl::ReceiveFrame(Piece& piece, Wire wire) {
  const bool is_forward = wire == Wire::kOutputs;
  Frame frame;
  const auto accept = [&](Reply& reply) -> absl::Status {
    PAVISE_RETURN_IF_ERROR(internal::CheckFrame(
        reply.frames, type(), piece.samples * (is_forward ? output_positions : input_positions),
        is_forward ? shape.outputs : shape.inputs, is_forward ? "outputs" : "input gradients"));
    PAVISE_ASSIGN_OR_RETURN(const WeightSketch::Sent* const sent,
                            ReadSent(piece, is_forward ? Wire::kInputs : Wire::kOutputGradients));
    const CpuTimer timer(report.check_cpu_seconds);
    PAVISE_RETURN_IF_ERROR(
        sketch->CheckResult(is_forward, *sent, internal::ValuesOf(reply.frames[0])));
    frame = std::move(reply.frames[0]);
    return absl::OkStatus();
  };
  PAVISE_RETURN_IF_ERROR(Answer(0, accept));
  ++report.checks;
  return frame;
}

absl::StatusOr<Matrix> OffloadedLayer::Impl::Decoded(Piece& piece, Wire wire) {
  PAVISE_ASSIGN_OR_RETURN(Frame frame, ReceiveFrame(piece, wire));
  PAVISE_ASSIGN_OR_RETURN(Matrix values, Matrix::Create(frame.rows, frame.columns, spec.item));
  FusedPass pass;
  pass.rows = frame.rows;
  pass.columns = frame.columns;
  internal::DecodeFrom(frame, piece.step->keys(wire), pass);
  pass.out = values.view();
  PAVISE_RETURN_IF_ERROR(RunPass(pass, coordinator.workspace));
  internal::KeepMemory(std::move(frame), coordinator.spare);
  return values;
}

absl::Status OffloadedLayer::Impl::CheckShare(Operation operation, const Share& a, const Share& b,
                                              const Share& y) {
  for (size_t p = 0; p < moduli.size(); ++p) {
    PAVISE_RETURN_IF_ERROR(CheckModularProduct(operation, a.residues[p].view(),
                                               b.residues[p].view(), y.residues[p].view(),
                                               moduli[p], kModularVectors, *vectors, spec.item));
  }
  return absl::OkStatus();
}

absl::StatusOr<Matrix> OffloadedLayer::Impl::ReceiveOutputs(Piece& piece) {
  if (reads_in_place()) return Decoded(piece, Wire::kOutputs);
  Encoding outputs(slots.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    const auto accept = [&](const Reply& reply) -> absl::Status {
      PAVISE_ASSIGN_OR_RETURN(
          outputs[i], ShareOf(reply.frames, type(), moduli, piece.samples * output_positions,
                              shape.outputs, "outputs"));
      const CpuTimer timer(report.check_cpu_seconds);
      return in_floats()
                 ? sketch->CheckOutputs(piece.inputs[i].values, outputs[i].values)
                 : CheckShare(Operation::kPlain, piece.inputs[i], weight_shares[i], outputs[i]);
    };
    PAVISE_RETURN_IF_ERROR(Answer(i, accept));
    ++report.checks;
  }
  return piece.step->DecodeOutputs(outputs);
}

absl::StatusOr<Matrix> OffloadedLayer::Impl::ReceiveInputGradients(Piece& piece,
                                                                   bool want_input_gradients) {
  if (reads_in_place() && want_input_gradients) return Decoded(piece, Wire::kInputGradients);
  Encoding gradients_encoded(slots.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    if (!want_input_gradients) {
      PAVISE_RETURN_IF_ERROR(Answer(i, NothingReturned));
      continue;
    }
    const auto accept = [&](const Reply& reply) -> absl::Status {
      Share& share = gradients_encoded[i];
      PAVISE_ASSIGN_OR_RETURN(share,
                              ShareOf(reply.frames, type(), moduli, piece.samples * input_positions,
                                      shape.inputs, "input gradients"));
      const Share& sent = piece.output_gradients[i];
      const CpuTimer timer(report.check_cpu_seconds);
      return in_floats() ? sketch->CheckInputGradients(sent.values, share.values)
                         : CheckShare(Operation::kTransposeRight, sent, weight_shares[i], share);
    };
    PAVISE_RETURN_IF_ERROR(Answer(i, accept));
    ++report.checks;
  }
  if (!want_input_gradients) return Matrix();
  return piece.step->DecodeInputGradients(gradients_encoded);
}

absl::Status OffloadedLayer::Impl::ReceiveWeightGradient(const Piece& piece) {
  Encoding handed_back(slots.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    const auto accept = [&](const Reply& reply) -> absl::Status {
      PAVISE_ASSIGN_OR_RETURN(handed_back[i], ShareOf(reply.frames, type(), moduli, shape.inputs,
                                                      shape.outputs, "weight gradients"));
      const CpuTimer timer(report.check_cpu_seconds);
      return CheckShare(Operation::kTransposeLeft, piece.inputs[i], piece.output_gradients[i],
                        handed_back[i]);
    };
    PAVISE_RETURN_IF_ERROR(Answer(i, accept));
    ++report.checks;
  }
  PAVISE_ASSIGN_OR_RETURN(Matrix added, piece.step->DecodeWeightGradients(handed_back));
  if (gradient.rows() == 0) {
    gradient = std::move(added);
  } else {
    AddTo(gradient, added);
  }
  return absl::OkStatus();
}

absl::StatusOr<Outputs> OffloadedLayer::Impl::Forward(MatrixView inputs, Use use,
                                                      uint64_t known_rows) {
  PAVISE_ASSIGN_OR_RETURN(std::vector<Piece> pieces, SendInputs(inputs, use, known_rows));
  return ReceivePass(std::move(pieces), use);
}

absl::StatusOr<std::vector<OffloadedLayer::Impl::Piece>> OffloadedLayer::Impl::SendInputs(
    MatrixView inputs, Use use, uint64_t known_rows) {
  const size_t rows_of_sample =
      spec.convolution.has_value() ? spec.convolution->height * spec.convolution->width : 1;
  const size_t samples = inputs.rows / rows_of_sample;
  PAVISE_RETURN_IF_ERROR(CheckGiven(inputs, samples * rows_of_sample, spec.inputs, spec.item));
  if (samples == 0 || samples > spec.max_samples) {
    return Refuse(Reason::kLimitExceeded, spec.item,
                  StrCat(samples, " samples, not 1 to ", spec.max_samples),
                  "send smaller batches, or make the layer for more samples");
  }
  PAVISE_RETURN_IF_ERROR(CheckFinite(inputs, spec.item));
  PAVISE_ASSIGN_OR_RETURN(std::vector<Piece> pieces, NewPieces(samples, use, known_rows, {}));
  const bool is_training = use == Use::kTraining;
  size_t first = 0;
  for (Piece& piece : pieces) {
    MatrixView part = Rows(inputs, first * rows_of_sample, piece.samples * rows_of_sample);
    first += piece.samples;
    Matrix columns;
    if (spec.convolution.has_value() && !spec.is_native) {
      ConvolutionShape images = *spec.convolution;
      images.samples = piece.samples;
      PAVISE_ASSIGN_OR_RETURN(columns, ImageToColumns(images, part, spec.item));
      part = columns;
    }
    Request request = NewRequest(Command::kForward, piece.id);
    request.keep_inputs = is_training;
    request.samples = piece.samples;
    PAVISE_ASSIGN_OR_RETURN(piece.inputs, EncodeAndSend(request, piece, Wire::kInputs, part));
  }
  return pieces;
}

absl::StatusOr<Outputs> OffloadedLayer::Impl::ReceivePass(std::vector<Piece> pieces, Use use) {
  std::vector<Matrix> parts;
  for (Piece& piece : pieces) {
    PAVISE_ASSIGN_OR_RETURN(parts.emplace_back(), ReceiveOutputs(piece));
  }
  Outputs outputs;
  PAVISE_ASSIGN_OR_RETURN(outputs.values, Stacked(std::move(parts), spec.item));
  if (use == Use::kTraining) {
    outputs.pass = ++last_pass;
    open.emplace(outputs.pass, std::move(pieces));
  }
  return outputs;
}

absl::StatusOr<Matrix> OffloadedLayer::Impl::Backward(uint64_t pass, MatrixView output_gradients,
                                                      bool want_input_gradients) {
  PAVISE_RETURN_IF_ERROR(SendOutputGradients(pass, output_gradients, want_input_gradients));
  return ReceiveGradients(pass, want_input_gradients);
}

absl::Status OffloadedLayer::Impl::SendOutputGradients(uint64_t pass, MatrixView output_gradients,
                                                       bool want_input_gradients) {
  const auto found = open.find(pass);
  if (found == open.end()) {
    return UsageError(StrCat(spec.item, ": no pass ", pass, " is open"));
  }
  std::vector<Piece>& pieces = found->second;
  size_t samples = 0;
  for (const Piece& piece : pieces) samples += piece.samples;
  PAVISE_RETURN_IF_ERROR(
      CheckGiven(output_gradients, samples * output_positions, spec.outputs, spec.item));
  PAVISE_RETURN_IF_ERROR(CheckFinite(output_gradients, spec.item));
  size_t first = 0;
  for (Piece& piece : pieces) {
    const MatrixView part =
        Rows(output_gradients, first * output_positions, piece.samples * output_positions);
    first += piece.samples;
    Request request = NewRequest(Command::kBackward, piece.id);
    request.want_input_gradients = want_input_gradients;
    request.samples = piece.samples;
    PAVISE_ASSIGN_OR_RETURN(piece.output_gradients,
                            EncodeAndSend(request, piece, Wire::kOutputGradients, part));
    ++gradients;
    if (reads_in_place()) continue;
    if (in_floats()) {
      const CpuTimer timer(report.check_cpu_seconds);
      PAVISE_RETURN_IF_ERROR(sketch->AddGradient(layer->key_shift(), piece.inputs[0].values,
                                                 piece.output_gradients[0].values));
      continue;
    }
    for (size_t i = 0; i < slots.size(); ++i) Send(i, NewRequest(Command::kUpdate, piece.id));
  }
  return absl::OkStatus();
}

absl::StatusOr<Matrix> OffloadedLayer::Impl::ReceiveGradients(uint64_t pass,
                                                              bool want_input_gradients) {
  const auto found = open.find(pass);
  std::vector<Piece>& pieces = found->second;
  std::vector<Matrix> parts;
  for (Piece& piece : pieces) {
    PAVISE_ASSIGN_OR_RETURN(Matrix part, ReceiveInputGradients(piece, want_input_gradients));
    if (!in_floats()) PAVISE_RETURN_IF_ERROR(ReceiveWeightGradient(piece));
    if (want_input_gradients && spec.convolution.has_value() && !spec.is_native) {
      ConvolutionShape images = *spec.convolution;
      images.samples = piece.samples;
      PAVISE_ASSIGN_OR_RETURN(part, ColumnsToImage(images, part, spec.item));
    }
    parts.push_back(std::move(part));
  }
  open.erase(found);
  if (!want_input_gradients) return Matrix();
  return Stacked(std::move(parts), spec.item);
}

absl::Status OffloadedLayer::Impl::UpdateOnWorker(const SgdStep& step) {
  Request request = NewRequest(Command::kUpdate, 0);
  request.sgd = step;
  request.shift = layer->key_shift();
  Send(0, std::move(request));
  sketch->Update(step);
  ++version;
  ++updates_since_checkpoint;
  gradients = 0;
  last_batch_steps = batch_steps;
  ++report.updates;
  // Its answer is waited for when the layer is used next.
  uint64_t log_bytes = 0;
  for (const Request& kept : slots[0].log) log_bytes += internal::SizeBytes(kept.frames);
  const uint64_t limit = std::max(coordinator.options.log_limit_bytes,
                                  8 * weights_bytes());  // weights and velocity, four times
  if (updates_since_checkpoint < coordinator.options.updates_per_checkpoint && log_bytes <= limit) {
    return absl::OkStatus();
  }
  return TakeCheckpoint();
}

absl::StatusOr<Matrix> OffloadedLayer::Impl::TakeGradient() {
  Matrix taken;
  const auto accept = [&](const Reply& reply) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(Share share,
                            ShareOf(reply.frames, DType::kFp32, {}, shape.taps * shape.inputs,
                                    shape.outputs, "weight gradients"));
    ApplyShift(layer->key_shift(), share.values);
    PAVISE_RETURN_IF_ERROR(sketch->TakeGradient(share.values));
    taken = std::move(share.values);
    return absl::OkStatus();
  };
  PAVISE_RETURN_IF_ERROR(Answer(0, accept));
  ++report.checks;
  return Decoded(std::move(taken));
}

absl::StatusOr<Matrix> OffloadedLayer::Impl::FetchWeights() {
  PAVISE_RETURN_IF_ERROR(Drain());
  Matrix fetched;
  Send(0, NewRequest(Command::kGetWeights, 0));
  const auto accept = [&](const Reply& reply) -> absl::Status {
    // The velocity may follow.
    const auto frames = std::span(reply.frames).first(std::min<size_t>(reply.frames.size(), 1));
    PAVISE_ASSIGN_OR_RETURN(
        Share share,
        ShareOf(frames, DType::kFp32, {}, shape.taps * shape.inputs, shape.outputs, "weights"));
    PAVISE_RETURN_IF_ERROR(sketch->CheckWeights(share.values));
    fetched = std::move(share.values);
    return absl::OkStatus();
  };
  PAVISE_RETURN_IF_ERROR(Answer(0, accept));
  ++report.checks;
  return Decoded(std::move(fetched));
}

absl::Status OffloadedLayer::Impl::BringUpdatesHere() {
  if (!updates_on_worker) return absl::OkStatus();
  PAVISE_RETURN_IF_ERROR(TakeCheckpoint());
  PAVISE_ASSIGN_OR_RETURN(LayerState state, StateOfCheckpoint());
  weights = std::move(state.weights);
  velocity = std::move(state.velocity);
  updates_on_worker = false;
  return absl::OkStatus();
}

absl::Status OffloadedLayer::Impl::UpdateHere(const std::function<absl::Status()>& apply) {
  if (in_floats()) {
    AskForGradient();
    PAVISE_ASSIGN_OR_RETURN(gradient, TakeGradient());
  }
  PAVISE_RETURN_IF_ERROR(ApplyHere(apply));
  return PutWeights(weights, {});
}

absl::Status OffloadedLayer::Impl::UpdateByCoordinator(std::string_view optimizer,
                                                       const std::function<absl::Status()>& apply) {
  if (blocks != nullptr) return blocks->Update(apply);
  if (!open.empty()) return UsageError(StrCat(spec.item, ": passes are open"));
  if (updates_on_worker) {
    return Refuse(Reason::kUnsupported, spec.item,
                  StrCat(optimizer, " is not linear, and the worker keeps the weights encoded"),
                  "let the coordinator do this layer's updates, or use SGD");
  }
  return gradients == 0 ? absl::OkStatus() : Guarded(UpdateHere(apply));
}

absl::Status OffloadedLayer::Impl::ApplyHere(const std::function<absl::Status()>& apply) {
  for (Matrix* moment : {&velocity, &second_moment}) {
    if (moment->rows() != 0) continue;
    PAVISE_ASSIGN_OR_RETURN(*moment, Matrix::Create(weights.rows(), weights.columns(), spec.item));
  }
  PAVISE_RETURN_IF_ERROR(apply());
  gradient = {};
  gradients = 0;
  last_batch_steps = batch_steps;
  ++report.updates;
  return absl::OkStatus();
}

// ---- What callers see ----

OffloadedLayer::OffloadedLayer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
OffloadedLayer::~OffloadedLayer() = default;

const LayerSpec& OffloadedLayer::spec() const { return impl_->spec; }

absl::StatusOr<Outputs> OffloadedLayer::Forward(MatrixView inputs, Use use, uint64_t known_rows) {
  const CpuTimer timer(impl_->report.coordinator_cpu_seconds);
  if (impl_->coordinator.options.row_blocks > 1) {
    PAVISE_RETURN_IF_ERROR(RowBlocks::Spread(*impl_));
    if (impl_->blocks != nullptr) return impl_->blocks->Forward(inputs, use, known_rows);
  }
  return impl_->Guarded(impl_->Forward(inputs, use, known_rows));
}

absl::StatusOr<Matrix> OffloadedLayer::Backward(uint64_t pass, MatrixView output_gradients,
                                                bool want_input_gradients) {
  const CpuTimer timer(impl_->report.coordinator_cpu_seconds);
  if (impl_->blocks != nullptr) {
    return impl_->blocks->Backward(pass, output_gradients, want_input_gradients);
  }
  return impl_->Guarded(impl_->Backward(pass, output_gradients, want_input_gradients));
}

void OffloadedLayer::Forget(uint64_t pass) {
  if (impl_->blocks != nullptr) return impl_->blocks->Forget(pass);
  impl_->Forget(pass);
}

void OffloadedLayer::Impl::Forget(uint64_t pass) {
  const auto found = open.find(pass);
  if (found == open.end()) return;
  for (const Piece& piece : found->second) {
    for (Slot& slot : slots) {
      std::erase_if(slot.log, [&](const Request& kept) { return kept.step == piece.id; });
      TellToForget(slot, piece.id);
    }
  }
  open.erase(found);
}

void OffloadedLayer::Abandon() {
  if (impl_->blocks != nullptr) return impl_->blocks->Abandon();
  impl_->Reset();
}

absl::Status OffloadedLayer::Update(const SgdStep& step) {
  const CpuTimer timer(impl_->report.coordinator_cpu_seconds);
  const auto apply = [&] {
    return ApplySgd(step, impl_->gradient, impl_->velocity.view(), impl_->weights.view());
  };
  if (impl_->blocks != nullptr) return impl_->blocks->Update(apply);
  if (!impl_->open.empty()) return UsageError(StrCat(spec().item, ": passes are open"));
  if (impl_->gradients == 0) return absl::OkStatus();
  if (impl_->updates_on_worker) return impl_->Guarded(impl_->UpdateOnWorker(step));
  return impl_->Guarded(impl_->UpdateHere(apply));
}

absl::Status OffloadedLayer::Update(const AdamWStep& step) {
  const CpuTimer timer(impl_->report.coordinator_cpu_seconds);
  const auto apply = [&] {
    return ApplyAdamW(step, impl_->report.updates + 1, impl_->gradient, impl_->velocity.view(),
                      impl_->second_moment.view(), impl_->weights.view());
  };
  return impl_->UpdateByCoordinator("AdamW", apply);
}

absl::Status OffloadedLayer::Update(const MuonStep& step) {
  const CpuTimer timer(impl_->report.coordinator_cpu_seconds);
  return impl_->UpdateByCoordinator("Muon", [&] {
    return ApplyMuon(step, impl_->gradient, impl_->velocity.view(), impl_->weights.view(),
                     [&](Operation operation, MatrixView a, MatrixView b) {
                       return impl_->coordinator.MultiplyHere(operation, a, b);
                     });
  });
}

absl::StatusOr<Matrix> OffloadedLayer::Weights() {
  const CpuTimer timer(impl_->report.coordinator_cpu_seconds);
  PAVISE_RETURN_IF_ERROR(impl_->blocks != nullptr ? impl_->blocks->CheckBetweenBatches()
                                                  : impl_->CheckBetweenBatches());
  if (!impl_->updates_on_worker) return CopyOf(impl_->weights, spec().item);
  absl::StatusOr<Matrix> fetched = impl_->FetchWeights();
  if (fetched.ok()) return fetched;
  // Nobody is left to ask.
  impl_->Reset();
  PAVISE_ASSIGN_OR_RETURN(LayerState state, impl_->ReplayHere());
  return std::move(state.weights);
}

absl::StatusOr<LayerState> OffloadedLayer::State() {
  const CpuTimer timer(impl_->report.coordinator_cpu_seconds);
  PAVISE_RETURN_IF_ERROR(impl_->blocks != nullptr ? impl_->blocks->CheckBetweenBatches()
                                                  : impl_->CheckBetweenBatches());
  LayerState state;
  if (impl_->updates_on_worker) {
    const absl::Status status = impl_->TakeCheckpoint();
    if (status.ok()) {
      PAVISE_ASSIGN_OR_RETURN(state, impl_->StateOfCheckpoint());
    } else {
      if (ReasonOf(status) == Reason::kLimitExceeded && impl_->slots[0].layer_id != 0) {
        return status;
      }
      impl_->Reset();
      PAVISE_ASSIGN_OR_RETURN(state, impl_->ReplayHere());
    }
  } else {
    PAVISE_ASSIGN_OR_RETURN(state.weights, CopyOf(impl_->weights, spec().item));
    PAVISE_ASSIGN_OR_RETURN(state.velocity, CopyOf(impl_->velocity, spec().item));
    PAVISE_ASSIGN_OR_RETURN(state.second_moment, CopyOf(impl_->second_moment, spec().item));
  }
  if (impl_->blocks != nullptr) impl_->blocks->WantKeys();
  state.updates = impl_->report.updates;
  state.keys = impl_->keys;
  state.drift_spent = impl_->checkpoint_drift;
  impl_->wants_key = true;
  return state;
}

LayerReport OffloadedLayer::Report() const {
  LayerReport report = impl_->report;
  const internal::WorkerPool& pool = impl_->coordinator.pool;
  report.item = spec().item;
  report.scheme = std::string(impl_->coordinator.scheme->name());
  for (const Impl::Slot& slot : impl_->slots) {
    if (slot.worker.has_value()) report.workers.push_back(pool.name(*slot.worker));
  }
  report.key_budget = impl_->layer->budget().Report();
  report.keys = impl_->keys;
  report.soundness = internal::SoundnessLine(impl_->coordinator.options, impl_->moduli,
                                             impl_->shape.taps * impl_->shape.inputs);
  report.drift_spent =
      impl_->sketch.has_value() ? impl_->sketch->drift_spent() : impl_->checkpoint_drift;
  if (impl_->blocks != nullptr) impl_->blocks->AddTo(report);
  return report;
}

}  // namespace pavise::offload
