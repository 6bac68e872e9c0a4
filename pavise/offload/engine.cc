#include "pavise/offload/engine.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <initializer_list>
#include <string>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::offload {
namespace {

absl::Status Malformed(std::string_view item, std::string_view detail) {
  return Refuse(Reason::kMalformed, item, detail, "send what the command asks for");
}

bool IsModulus(int modulus) { return modulus >= 3 && modulus <= 255 && modulus % 2 == 1; }

bool AllFinite(std::initializer_list<float> values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

// As many frames as the layer has moduli, or one of floats.
size_t ShareSize(const std::vector<int>& moduli) { return std::max<size_t>(moduli.size(), 1); }

absl::Status CheckLayer(const WorkerLayer& layer, std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckLayerShape(item, layer.shape));
  if (layer.moduli.size() > kModuli.size() ||
      !std::all_of(layer.moduli.begin(), layer.moduli.end(), IsModulus)) {
    return Malformed(item, "its moduli are not up to four odd numbers from 3 to 255");
  }
  if (!layer.convolution.has_value()) {
    if (layer.shape.taps == 1) return absl::OkStatus();
    return Malformed(item, "taps without a convolution");
  }
  ConvolutionShape one_sample = *layer.convolution;
  one_sample.samples = 1;
  PAVISE_RETURN_IF_ERROR(CheckConvolution(one_sample, item));
  if (one_sample.taps() != layer.shape.taps || one_sample.channels != layer.shape.inputs) {
    return Malformed(item, "its convolution has other taps or channels than its shape");
  }
  return absl::OkStatus();
}

absl::Status CheckUpdate(const SgdStep& step, const KeyShift& shift, const LayerShape& shape,
                         std::string_view item) {
  bool is_finite = AllFinite({step.learning_rate, step.momentum, step.weight_decay});
  for (const std::vector<float>* factors : {&shift.rows, &shift.columns}) {
    is_finite = is_finite && std::all_of(factors->begin(), factors->end(),
                                         [](float v) { return std::isfinite(v); });
  }
  if (!is_finite) return Malformed(item, "a number of the update is not finite");
  if ((!shift.rows.empty() && shift.rows.size() != shape.inputs) ||
      (!shift.columns.empty() && shift.columns.size() != shape.outputs)) {
    return Malformed(item, "a key shift of another length than the layer's sides");
  }
  return absl::OkStatus();
}

Reply ReplyTo(const Request& request) {
  Reply reply;
  reply.command = request.command;
  reply.layer = request.layer;
  reply.version = request.version;
  reply.step = request.step;
  return reply;
}

}  // namespace

// The charge is given back after the memory.
struct WorkerEngine::Held {
  MemoryCharge charge;
  std::unique_ptr<DeviceMatrix> matrix;
};

struct WorkerEngine::KeptStep {
  std::vector<Held> inputs;
  size_t samples = 0;
};

struct WorkerEngine::LayerState {
  WorkerLayer layer;
  uint64_t version = 0;
  uint64_t last_step = 0;
  std::vector<Held> weights;
  std::vector<Held> velocity;  // empty before the first update
  std::vector<Held> gradient;  // the sum since the last update; empty: nothing was added
  std::map<uint64_t, KeptStep> kept;
};

WorkerEngine::WorkerEngine(std::shared_ptr<ComputeDevice> device,
                           std::shared_ptr<MemoryBudget> budget)
    : device_(std::move(device)), budget_(std::move(budget)) {}

WorkerEngine::~WorkerEngine() = default;

absl::StatusOr<Reply> WorkerEngine::Execute(Request request) {
  reply_charges_.clear();
  try {
    return Dispatch(request);
  } catch (const std::exception&) {
    return MachineFailure("request", "no memory");
  }
}

absl::StatusOr<Reply> WorkerEngine::Dispatch(Request& request) {
  switch (request.command) {
    case Command::kPutWeights:
      return PutWeights(request);
    case Command::kForward:
      return Forward(request);
    case Command::kBackward:
      return Backward(request);
    case Command::kUpdate:
      return Update(request);
    case Command::kGetWeights:
      return GetWeights(request);
    case Command::kProduct:
      return Product(request);
    case Command::kForget:
      return Forget(request);
  }
  return Malformed("request", "no such command");
}

absl::StatusOr<WorkerEngine::LayerState*> WorkerEngine::LayerOf(const Request& request) {
  const std::string item = StrCat("layer ", request.layer);
  const auto found = layers_.find(request.layer);
  if (found == layers_.end()) {
    return Refuse(Reason::kStateMissing, item, "the worker has no such layer",
                  "put its weights first");
  }
  if (found->second.version != request.version) {
    return Refuse(
        Reason::kStateMissing, item,
        StrCat("its weights are version ", found->second.version, ", not ", request.version),
        "put the weights that are meant");
  }
  return &found->second;
}

absl::StatusOr<std::vector<WorkerEngine::Held>> WorkerEngine::Receive(
    Request& request, size_t first, const std::vector<int>& moduli, size_t rows, size_t columns,
    bool as_fp32, std::string_view item) {
  std::vector<Held> out;
  for (size_t i = 0; i < ShareSize(moduli); ++i) {
    Frame& frame = request.frames[first + i];
    if (frame.modulus != (moduli.empty() ? 0 : moduli[i])) {
      return Malformed(item, StrCat("residues modulo ", frame.modulus, " where the layer has ",
                                    moduli.empty() ? 0 : moduli[i]));
    }
    if (frame.rows == 0 || frame.columns == 0 || (rows != 0 && frame.rows != rows) ||
        frame.columns != columns) {
      return Malformed(item, StrCat("a frame of ", frame.rows, " x ", frame.columns, ", not ",
                                    rows == 0 ? "any" : StrCat(rows), " x ", columns));
    }
    if (DTypeSizeBytes(frame.type) == 0) return Malformed(item, "no such type of floats");
    PAVISE_ASSIGN_OR_RETURN(const uint64_t size_bytes, FrameSizeBytes(frame, item));
    if (frame.bytes.size() != size_bytes) {
      return Malformed(item,
                       StrCat(frame.bytes.size(), " bytes where its shape takes ", size_bytes));
    }
    if (frame.modulus != 0 && !device_->multiplies_residues()) {
      return Refuse(Reason::kUnsupported, item, "this device multiplies no residues");
    }
    rows = frame.rows;  // all of a share have the same
    MatrixForm form = {frame.type, frame.modulus, frame.rows, frame.columns};
    if (as_fp32 || frame.modulus != 0 || frame.type == DType::kInt8) form.type = DType::kFp32;
    Held held;
    PAVISE_ASSIGN_OR_RETURN(held.charge, budget_->Charge(form.size_bytes(), item));
    PAVISE_ASSIGN_OR_RETURN(held.matrix, device_->Upload(std::move(frame), form.type, item));
    out.push_back(std::move(held));
  }
  return out;
}

absl::StatusOr<std::vector<WorkerEngine::Held>> WorkerEngine::Multiply(
    const Multiplication& multiplication, const std::vector<Held>& a, const std::vector<Held>& b,
    std::string_view item) {
  std::vector<Held> out;
  for (size_t i = 0; i < a.size(); ++i) {
    const MatrixForm& a_form = a[i].matrix->form();
    const MatrixForm& b_form = b[i].matrix->form();
    PAVISE_ASSIGN_OR_RETURN(const MatrixForm form,
                            ResultForm(multiplication, a_form, b_form, item));
    PAVISE_ASSIGN_OR_RETURN(
        const MemoryCharge workspace,
        budget_->Charge(device_->WorkspaceBytes(multiplication, a_form, b_form), item));
    Held held;
    PAVISE_ASSIGN_OR_RETURN(held.charge, budget_->Charge(form.size_bytes(), item));
    PAVISE_ASSIGN_OR_RETURN(held.matrix,
                            device_->Multiply(multiplication, *a[i].matrix, *b[i].matrix, item));
    out.push_back(std::move(held));
  }
  return out;
}

absl::Status WorkerEngine::Send(const std::vector<Held>& results, DType type, std::string_view item,
                                Reply& reply) {
  for (const Held& result : results) {
    const MatrixForm& form = result.matrix->form();
    Frame frame = {type, form.modulus, form.rows, form.columns, {}};
    if (form.modulus != 0) frame.type = DType::kFp32;
    if (DTypeSizeBytes(frame.type) == 0) return Malformed(item, "no such type of replies");
    PAVISE_ASSIGN_OR_RETURN(const uint64_t size_bytes, FrameSizeBytes(frame, item));
    PAVISE_ASSIGN_OR_RETURN(MemoryCharge charge, budget_->Charge(size_bytes, item));
    PAVISE_ASSIGN_OR_RETURN(frame, device_->Download(*result.matrix, frame.type, item));
    reply_charges_.push_back(std::move(charge));
    reply.frames.push_back(std::move(frame));
  }
  return absl::OkStatus();
}

absl::StatusOr<Reply> WorkerEngine::PutWeights(Request& request) {
  const std::string item = StrCat("layer ", request.layer, ": weights");
  const WorkerLayer& layer = request.layer_shape;
  PAVISE_RETURN_IF_ERROR(CheckLayer(layer, item));
  if (layer.convolution.has_value() && !device_->convolves()) {
    return Refuse(Reason::kUnsupported, item, "this device does no convolutions",
                  "send im2col products");
  }
  const auto old = layers_.find(request.layer);
  if (old == layers_.end() && layers_.size() >= kMaxWorkerLayers) {
    return Refuse(Reason::kLimitExceeded, item, StrCat("over ", kMaxWorkerLayers, " layers"),
                  "forget layers");
  }
  if (old != layers_.end() && old->second.version == request.version) {
    return Refuse(Reason::kStateMissing, item,
                  StrCat("version ", request.version, " is there already"), "take a new version");
  }
  const size_t share = ShareSize(layer.moduli);
  const bool has_velocity = layer.moduli.empty() && request.frames.size() == 2;
  if (request.frames.size() != share && !has_velocity) {
    return Malformed(item, StrCat(request.frames.size(), " frames, not ", share));
  }
  LayerState state;
  state.layer = layer;
  state.version = request.version;
  if (old != layers_.end()) state.last_step = old->second.last_step;
  const size_t rows = layer.shape.taps * layer.shape.inputs;
  PAVISE_ASSIGN_OR_RETURN(state.weights, Receive(request, 0, layer.moduli, rows,
                                                 layer.shape.outputs, /*as_fp32=*/true, item));
  if (has_velocity) {
    PAVISE_ASSIGN_OR_RETURN(state.velocity, Receive(request, 1, layer.moduli, rows,
                                                    layer.shape.outputs, /*as_fp32=*/true, item));
  }
  if (old != layers_.end()) kept_steps_ -= old->second.kept.size();
  layers_.insert_or_assign(request.layer, std::move(state));
  return ReplyTo(request);
}

absl::StatusOr<Reply> WorkerEngine::Forward(Request& request) {
  PAVISE_ASSIGN_OR_RETURN(LayerState * state, LayerOf(request));
  const std::string item = StrCat("layer ", request.layer, ", step ", request.step, ": inputs");
  if (request.step <= state->last_step) {
    return Refuse(Reason::kStateMissing, item,
                  StrCat("steps ascend, and the last was ", state->last_step), "take a new step");
  }
  const WorkerLayer& layer = state->layer;
  if (request.frames.size() != ShareSize(layer.moduli)) {
    return Malformed(item, StrCat(request.frames.size(), " frames, not ", ShareSize(layer.moduli)));
  }
  if (request.keep_inputs && kept_steps_ >= kMaxKeptSteps) {
    return Refuse(Reason::kLimitExceeded, item, StrCat("over ", kMaxKeptSteps, " steps are kept"),
                  "do their backward passes, or forget them");
  }
  Multiplication multiplication = {Operation::kPlain, request.operand_type, layer.convolution};
  size_t rows = 0;
  size_t output_rows = 0;
  if (layer.convolution.has_value()) {
    ConvolutionShape& shape = *multiplication.convolution;
    shape.samples = request.samples;
    PAVISE_RETURN_IF_ERROR(CheckConvolution(shape, item));
    rows = shape.samples * shape.height * shape.width;
    output_rows = shape.samples * shape.output_height() * shape.output_width();
  }
  PAVISE_ASSIGN_OR_RETURN(
      std::vector<Held> inputs,
      Receive(request, 0, layer.moduli, rows, layer.shape.inputs, /*as_fp32=*/false, item));
  if (std::max(inputs[0].matrix->form().rows, output_rows) > layer.shape.max_rows) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("over the layer's ", layer.shape.max_rows, " rows"),
                  "send smaller batches, or put the layer with more rows");
  }
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Held> outputs,
                          Multiply(multiplication, inputs, state->weights, item));
  Reply reply = ReplyTo(request);
  PAVISE_RETURN_IF_ERROR(Send(outputs, request.reply_type, item, reply));
  state->last_step = request.step;
  if (request.keep_inputs) {
    state->kept.emplace(request.step, KeptStep{std::move(inputs), request.samples});
    ++kept_steps_;
  }
  return reply;
}

absl::StatusOr<Reply> WorkerEngine::Backward(Request& request) {
  PAVISE_ASSIGN_OR_RETURN(LayerState * state, LayerOf(request));
  const std::string item =
      StrCat("layer ", request.layer, ", step ", request.step, ": output gradients");
  const auto kept = state->kept.find(request.step);
  if (kept == state->kept.end()) {
    return Refuse(Reason::kStateMissing, item, "no inputs of this step are kept",
                  "send them again as a new step");
  }
  const WorkerLayer& layer = state->layer;
  if (request.frames.size() != ShareSize(layer.moduli)) {
    return Malformed(item, StrCat(request.frames.size(), " frames, not ", ShareSize(layer.moduli)));
  }
  Multiplication multiplication = {Operation::kTransposeRight, request.operand_type,
                                   layer.convolution};
  const std::vector<Held>& inputs = kept->second.inputs;
  size_t rows = inputs[0].matrix->form().rows;
  if (layer.convolution.has_value()) {
    ConvolutionShape& shape = *multiplication.convolution;
    shape.samples = kept->second.samples;
    rows = shape.samples * shape.output_height() * shape.output_width();
  }
  PAVISE_ASSIGN_OR_RETURN(
      const std::vector<Held> gradients,
      Receive(request, 0, layer.moduli, rows, layer.shape.outputs, /*as_fp32=*/false, item));
  Reply reply = ReplyTo(request);
  if (request.want_input_gradients) {
    PAVISE_ASSIGN_OR_RETURN(const std::vector<Held> input_gradients,
                            Multiply(multiplication, gradients, state->weights, item));
    PAVISE_RETURN_IF_ERROR(Send(input_gradients, request.reply_type, item, reply));
  }
  multiplication.operation = Operation::kTransposeLeft;
  PAVISE_ASSIGN_OR_RETURN(std::vector<Held> weight_gradients,
                          Multiply(multiplication, inputs, gradients, item));
  for (const Held& gradient : weight_gradients) {
    PAVISE_RETURN_IF_ERROR(device_->CheckFinite(*gradient.matrix, item));
  }
  if (state->gradient.empty()) {
    state->gradient = std::move(weight_gradients);
  } else {
    for (size_t i = 0; i < weight_gradients.size(); ++i) {
      PAVISE_RETURN_IF_ERROR(device_->Add(*state->gradient[i].matrix, *weight_gradients[i].matrix));
    }
  }
  state->kept.erase(kept);
  --kept_steps_;
  return reply;
}

absl::StatusOr<Reply> WorkerEngine::Update(Request& request) {
  PAVISE_ASSIGN_OR_RETURN(LayerState * state, LayerOf(request));
  const std::string item = StrCat("layer ", request.layer, ": update");
  if (!request.frames.empty()) return Malformed(item, "an update has no frames");
  if (state->gradient.empty()) {
    return Refuse(Reason::kStateMissing, item, "no gradient was added since the last update",
                  "do a backward pass first");
  }
  Reply reply = ReplyTo(request);
  if (!request.sgd.has_value()) {
    PAVISE_RETURN_IF_ERROR(Send(state->gradient, DType::kFp32, item, reply));
    state->gradient.clear();
    return reply;
  }
  if (!state->layer.moduli.empty()) {
    return Refuse(Reason::kUnsupported, item, "residues cannot be updated by SGD",
                  "ask for the gradient and put new weights");
  }
  PAVISE_RETURN_IF_ERROR(CheckUpdate(*request.sgd, request.shift, state->layer.shape, item));
  if (request.version == UINT64_MAX) return Malformed(item, "there is no next version");
  if (state->velocity.empty()) {
    const MatrixForm& form = state->weights[0].matrix->form();
    Held velocity;
    PAVISE_ASSIGN_OR_RETURN(velocity.charge, budget_->Charge(form.size_bytes(), item));
    PAVISE_ASSIGN_OR_RETURN(velocity.matrix, device_->Create(form, item));
    state->velocity.push_back(std::move(velocity));
  }
  PAVISE_RETURN_IF_ERROR(device_->Update(*request.sgd, request.shift, *state->gradient[0].matrix,
                                         *state->velocity[0].matrix, *state->weights[0].matrix));
  state->gradient.clear();
  kept_steps_ -= state->kept.size();
  state->kept.clear();
  reply.version = ++state->version;
  return reply;
}

absl::StatusOr<Reply> WorkerEngine::GetWeights(Request& request) {
  PAVISE_ASSIGN_OR_RETURN(LayerState * state, LayerOf(request));
  const std::string item = StrCat("layer ", request.layer, ": weights");
  if (!request.frames.empty()) return Malformed(item, "this command has no frames");
  Reply reply = ReplyTo(request);
  PAVISE_RETURN_IF_ERROR(Send(state->weights, DType::kFp32, item, reply));
  PAVISE_RETURN_IF_ERROR(Send(state->velocity, DType::kFp32, item, reply));
  return reply;
}

absl::StatusOr<Reply> WorkerEngine::Product(Request& request) {
  const std::string item = StrCat("product ", request.step);
  const Frames& frames = request.frames;
  const size_t share = frames.size() / 2;
  if (share < 1 || share > kModuli.size() || frames.size() != 2 * share) {
    return Malformed(item, StrCat(frames.size(), " frames are no two shares"));
  }
  std::vector<int> moduli;
  for (size_t i = 0; i < share; ++i) {
    if (frames[i].modulus == 0 && share == 1) break;
    if (!IsModulus(frames[i].modulus)) return Malformed(item, "a modulus is not odd and 3 to 255");
    moduli.push_back(frames[i].modulus);
  }
  if (static_cast<int>(request.operation) < 0 || request.operation > Operation::kTransposeLeft) {
    return Malformed(item, "no such operation");
  }
  // Shapes are checked by ResultForm.
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Held> a,
                          Receive(request, 0, moduli, frames[0].rows, frames[0].columns,
                                  /*as_fp32=*/false, item));
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Held> b,
                          Receive(request, share, moduli, frames[share].rows, frames[share].columns,
                                  /*as_fp32=*/false, item));
  PAVISE_ASSIGN_OR_RETURN(
      const std::vector<Held> result,
      Multiply({request.operation, request.operand_type, std::nullopt}, a, b, item));
  Reply reply = ReplyTo(request);
  PAVISE_RETURN_IF_ERROR(Send(result, request.reply_type, item, reply));
  return reply;
}

absl::StatusOr<Reply> WorkerEngine::Forget(const Request& request) {
  const auto found = layers_.find(request.layer);
  if (found != layers_.end()) {
    if (request.step == 0) {
      kept_steps_ -= found->second.kept.size();
      layers_.erase(found);
    } else {
      kept_steps_ -= found->second.kept.erase(request.step);
    }
  }
  return ReplyTo(request);
}

}  // namespace pavise::offload
