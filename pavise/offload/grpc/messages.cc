#include "pavise/offload/grpc/messages.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <limits>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/compute_device.h"

#include "offload.pb.h"

namespace pavise::offload {
namespace {

absl::Status Malformed(std::string_view detail) {
  return Refuse(Reason::kMalformed, "message", detail);
}

// Reasons that a worker may give; another is not its to give.
constexpr Reason kWorkerReasons[] = {Reason::kMalformed, Reason::kLimitExceeded,
                                     Reason::kUnsupported, Reason::kStateMissing};

std::string Shortened(std::string_view text) { return std::string(text.substr(0, kMaxTextBytes)); }

void SetFrame(const Frame& frame, v1::Frame& out) {
  out.set_type(static_cast<uint32_t>(frame.type));
  out.set_modulus(static_cast<uint32_t>(frame.modulus));
  out.set_rows(frame.rows);
  out.set_columns(frame.columns);
  out.set_size_bytes(frame.bytes.size());
}

// Values out of range stay so: the engine refuses them by name.
DType TypeOf(uint32_t type) { return static_cast<DType>(std::min<uint32_t>(type, 255)); }
int ModulusOf(uint32_t modulus) { return static_cast<int>(std::min<uint32_t>(modulus, 1 << 16)); }

Frame FrameOf(const v1::Frame& frame) {
  return {TypeOf(frame.type()), ModulusOf(frame.modulus()), frame.rows(), frame.columns(), {}};
}

void SetConvolution(const ConvolutionShape& shape, v1::Convolution& out) {
  out.set_samples(shape.samples);
  out.set_height(shape.height);
  out.set_width(shape.width);
  out.set_channels(shape.channels);
  out.set_kernel_height(shape.kernel_height);
  out.set_kernel_width(shape.kernel_width);
  out.set_stride(shape.stride);
  out.set_padding(shape.padding);
}

ConvolutionShape ConvolutionOf(const v1::Convolution& shape) {
  return {.samples = shape.samples(),
          .height = shape.height(),
          .width = shape.width(),
          .channels = shape.channels(),
          .kernel_height = shape.kernel_height(),
          .kernel_width = shape.kernel_width(),
          .stride = shape.stride(),
          .padding = shape.padding()};
}

void SetLayer(const WorkerLayer& layer, v1::Layer& out) {
  out.set_inputs(layer.shape.inputs);
  out.set_outputs(layer.shape.outputs);
  out.set_taps(layer.shape.taps);
  out.set_max_rows(layer.shape.max_rows);
  for (const int modulus : layer.moduli) out.add_moduli(static_cast<uint32_t>(modulus));
  if (layer.convolution.has_value()) SetConvolution(*layer.convolution, *out.mutable_convolution());
}

WorkerLayer LayerOf(const v1::Layer& layer) {
  WorkerLayer out;
  out.shape = {layer.inputs(), layer.outputs(), layer.taps(), layer.max_rows()};
  for (const uint32_t modulus : layer.moduli()) out.moduli.push_back(ModulusOf(modulus));
  if (layer.has_convolution()) out.convolution = ConvolutionOf(layer.convolution());
  return out;
}

Request RequestOf(const v1::RequestHead& head) {
  Request request;
  request.command = static_cast<Command>(std::min<uint32_t>(head.command(), 255));
  request.layer = head.layer();
  request.version = head.version();
  request.step = head.step();
  for (const v1::Frame& frame : head.frames()) request.frames.push_back(FrameOf(frame));
  request.reply_type = TypeOf(head.reply_type());
  request.operand_type = TypeOf(head.operand_type());
  if (head.has_layer_shape()) request.layer_shape = LayerOf(head.layer_shape());
  request.samples = head.samples();
  request.keep_inputs = head.keep_inputs();
  request.want_input_gradients = head.want_input_gradients();
  if (head.has_sgd()) {
    request.sgd =
        SgdStep{head.sgd().learning_rate(), head.sgd().momentum(), head.sgd().weight_decay()};
  }
  request.operation = static_cast<Operation>(std::min<uint32_t>(head.operation(), 255));
  return request;
}

v1::RequestHead HeadOf(uint64_t id, const Request& request) {
  v1::RequestHead head;
  head.set_id(id);
  head.set_command(static_cast<uint32_t>(request.command));
  head.set_layer(request.layer);
  head.set_version(request.version);
  head.set_step(request.step);
  for (const Frame& frame : request.frames) SetFrame(frame, *head.add_frames());
  head.set_reply_type(static_cast<uint32_t>(request.reply_type));
  head.set_operand_type(static_cast<uint32_t>(request.operand_type));
  if (request.command == Command::kPutWeights) {
    SetLayer(request.layer_shape, *head.mutable_layer_shape());
  }
  head.set_samples(request.samples);
  head.set_keep_inputs(request.keep_inputs);
  head.set_want_input_gradients(request.want_input_gradients);
  if (request.sgd.has_value()) {
    head.mutable_sgd()->set_learning_rate(request.sgd->learning_rate);
    head.mutable_sgd()->set_momentum(request.sgd->momentum);
    head.mutable_sgd()->set_weight_decay(request.sgd->weight_decay);
  }
  head.set_shift_rows(request.shift.rows.size());
  head.set_shift_columns(request.shift.columns.size());
  head.set_operation(static_cast<uint32_t>(request.operation));
  return head;
}

std::vector<float> FloatsOf(const Bytes& bytes) {
  std::vector<float> floats(bytes.size() / sizeof(float));
  if (!floats.empty()) std::memcpy(floats.data(), bytes.data(), floats.size() * sizeof(float));
  return floats;
}

template <typename Message>
bool SendBytes(ByteSpan bytes, Message& message, const std::function<bool(const Message&)>& send) {
  while (!bytes.empty()) {
    const size_t size_bytes = std::min(bytes.size(), kMaxChunkBytes);
    message.set_chunk(bytes.data(), size_bytes);
    if (!send(message)) return false;
    bytes = bytes.subspan(size_bytes);
  }
  return true;
}

ByteSpan BytesOf(const std::vector<float>& floats) {
  return {reinterpret_cast<const uint8_t*>(floats.data()), floats.size() * sizeof(float)};
}

// Why the worker says no, in words that are not to be trusted; the reason is one that it may give.
absl::Status RefusalOf(const v1::Refusal& refusal) {
  const std::optional<Reason> reason = ReasonFromName(refusal.reason());
  if (!reason.has_value() || std::find(std::begin(kWorkerReasons), std::end(kWorkerReasons),
                                       *reason) == std::end(kWorkerReasons)) {
    return Malformed("a refusal for a reason that a worker does not give");
  }
  return Refuse(*reason, Shortened(refusal.item()), Shortened(refusal.detail()),
                Shortened(refusal.remedy()));
}

absl::StatusOr<std::vector<DType>> TypesOf(const google::protobuf::RepeatedField<uint32_t>& types) {
  std::vector<DType> out;
  for (const uint32_t type : types) {
    if (type > static_cast<uint32_t>(DType::kInt8) || out.size() > 3) {
      return Malformed("no such types");
    }
    out.push_back(static_cast<DType>(type));
  }
  return out;
}

}  // namespace

void BodyReader::Expect(Bytes* buffer, uint64_t size_bytes) {
  if (is_done()) {
    parts_.clear();
    next_ = 0;
  }
  if (size_bytes > 0) parts_.push_back({buffer, size_bytes});
}

absl::Status BodyReader::Append(std::string_view chunk) {
  if (is_done()) return Malformed("bytes that nothing announced");
  Part& part = parts_[next_];
  if (chunk.empty() || chunk.size() > kMaxChunkBytes || chunk.size() > part.left_bytes) {
    return Malformed(
        StrCat("a chunk of ", chunk.size(), " bytes where ", part.left_bytes, " are to come"));
  }
  if (part.buffer != nullptr) {
    try {
      part.buffer->insert(part.buffer->end(), chunk.begin(), chunk.end());
    } catch (const std::exception&) {
      return MachineFailure("message", "no memory for its bytes");
    }
  }
  part.left_bytes -= chunk.size();
  if (part.left_bytes == 0) ++next_;
  return absl::OkStatus();
}

absl::Status RequestReader::Begin(const v1::RequestHead& head) {
  if (head.id() != next_id_) return Malformed(StrCat("request ", head.id(), ", not ", next_id_));
  ++next_id_;
  if (head.frames_size() > static_cast<int>(kMaxFrames)) return Malformed("too many frames");
  if (head.layer_shape().moduli_size() > static_cast<int>(kModuli.size()) + 1) {
    return Malformed("too many moduli");
  }
  if (head.shift_rows() > kMaxDimension || head.shift_columns() > kMaxDimension) {
    return Malformed("a key shift longer than any layer's side");
  }
  uint64_t size_bytes = (head.shift_rows() + head.shift_columns()) * sizeof(float);
  for (const v1::Frame& frame : head.frames()) {
    if (frame.size_bytes() > kMaxElements * sizeof(float) + sizeof(float)) {
      return Malformed("a frame longer than any");
    }
    size_bytes += frame.size_bytes();
  }
  request_ = RequestOf(head);
  absl::StatusOr<MemoryCharge> charge = charge_(size_bytes);
  incoming_ = IncomingRequest{head.id(), Request(), MemoryCharge()};
  const bool is_taken = charge.ok();
  if (is_taken) {
    incoming_->charge = *std::move(charge);
  } else {
    incoming_->request = charge.status();
  }
  body_ = BodyReader();
  shift_rows_.clear();
  shift_columns_.clear();
  try {
    const auto expect = [&](Bytes& buffer, uint64_t part_bytes) {
      if (is_taken) buffer.reserve(part_bytes);
      body_.Expect(is_taken ? &buffer : nullptr, part_bytes);
    };
    for (int i = 0; i < head.frames_size(); ++i) {
      expect(request_.frames[static_cast<size_t>(i)].bytes, head.frames(i).size_bytes());
    }
    expect(shift_rows_, head.shift_rows() * sizeof(float));
    expect(shift_columns_, head.shift_columns() * sizeof(float));
  } catch (const std::exception&) {
    return MachineFailure("message", "no memory for its bytes");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<IncomingRequest>> RequestReader::Take(
    const v1::ClientMessage& message) {
  switch (message.kind_case()) {
    case v1::ClientMessage::kRequest:
      if (incoming_.has_value()) return Malformed("a request inside another");
      PAVISE_RETURN_IF_ERROR(Begin(message.request()));
      break;
    case v1::ClientMessage::kChunk:
      PAVISE_RETURN_IF_ERROR(body_.Append(message.chunk()));
      break;
    default:
      return Malformed("neither a request nor a chunk");
  }
  if (!body_.is_done()) return std::nullopt;
  std::optional<IncomingRequest> done = std::exchange(incoming_, std::nullopt);
  if (done->request.ok()) {
    request_.shift.rows = FloatsOf(shift_rows_);
    request_.shift.columns = FloatsOf(shift_columns_);
    done->request = std::move(request_);
  }
  request_ = Request();
  return done;
}

absl::StatusOr<std::optional<IncomingReply>> ReplyReader::Take(const v1::WorkerMessage& message,
                                                               uint64_t asked_bytes) {
  if (message.kind_case() == v1::WorkerMessage::kChunk) {
    PAVISE_RETURN_IF_ERROR(body_.Append(message.chunk()));
  } else if (message.kind_case() == v1::WorkerMessage::kReply) {
    const v1::ReplyHead& head = message.reply();
    if (incoming_.has_value()) return Malformed("a reply inside another");
    if (head.id() != next_id_) return Malformed(StrCat("reply ", head.id(), ", not ", next_id_));
    ++next_id_;
    if (head.frames_size() > static_cast<int>(kMaxFrames)) return Malformed("too many frames");
    incoming_ = IncomingReply{head.id(), Reply()};
    if (head.has_refusal()) {
      incoming_->reply = RefusalOf(head.refusal());
    } else if (!head.failure().empty()) {
      incoming_->reply = MachineFailure("worker", Shortened(head.failure()));
    }
    if (!incoming_->reply.ok()) {
      if (head.frames_size() != 0) return Malformed("a refusal with frames");
    } else {
      Reply& reply = *incoming_->reply;
      reply.command = static_cast<Command>(std::min<uint32_t>(head.command(), 255));
      reply.layer = head.layer();
      reply.version = head.version();
      reply.step = head.step();
      uint64_t size_bytes = 0;
      for (const v1::Frame& frame : head.frames()) {
        const Frame& added = reply.frames.emplace_back(FrameOf(frame));
        PAVISE_ASSIGN_OR_RETURN(const uint64_t expected_bytes, FrameSizeBytes(added, "reply"));
        if (frame.size_bytes() != expected_bytes || added.modulus > 255 ||
            DTypeSizeBytes(added.type) == 0) {
          return Malformed("a frame whose length is not its shape's");
        }
        size_bytes += expected_bytes;
        if (size_bytes > asked_bytes) return Malformed("frames longer than what was asked for");
        if (size_bytes > limit_bytes_) {
          return Refuse(Reason::kLimitExceeded, "reply", StrCat("over ", limit_bytes_, " bytes"),
                        "allow longer replies");
        }
      }
      body_ = BodyReader();
      for (int i = 0; i < head.frames_size(); ++i) {
        body_.Expect(&reply.frames[static_cast<size_t>(i)].bytes, head.frames(i).size_bytes());
      }
    }
  } else {
    return Malformed("neither a reply nor a chunk");
  }
  if (!body_.is_done()) return std::nullopt;
  return std::exchange(incoming_, std::nullopt);
}

bool SendRequest(uint64_t id, const Request& request,
                 const std::function<bool(const v1::ClientMessage&)>& send) {
  v1::ClientMessage message;
  *message.mutable_request() = HeadOf(id, request);
  if (!send(message)) return false;
  for (const Frame& frame : request.frames) {
    if (!SendBytes(frame.bytes, message, send)) return false;
  }
  return SendBytes(BytesOf(request.shift.rows), message, send) &&
         SendBytes(BytesOf(request.shift.columns), message, send);
}

bool SendReply(uint64_t id, const absl::StatusOr<Reply>& reply,
               const std::function<bool(const v1::WorkerMessage&)>& send) {
  v1::WorkerMessage message;
  v1::ReplyHead& head = *message.mutable_reply();
  head.set_id(id);
  if (reply.ok()) {
    head.set_command(static_cast<uint32_t>(reply->command));
    head.set_layer(reply->layer);
    head.set_version(reply->version);
    head.set_step(reply->step);
    for (const Frame& frame : reply->frames) SetFrame(frame, *head.add_frames());
    if (!send(message)) return false;
    return std::all_of(reply->frames.begin(), reply->frames.end(),
                       [&](const Frame& frame) { return SendBytes(frame.bytes, message, send); });
  }
  const std::vector<Refusal> refusals = RefusalsOf(reply.status());
  if (refusals.empty()) {
    // What failed on this machine is not the coordinator's to know.
    head.set_failure("the worker's machine failed");
  } else {
    head.mutable_refusal()->set_reason(std::string(ReasonName(refusals[0].reason)));
    head.mutable_refusal()->set_item(Shortened(refusals[0].item));
    head.mutable_refusal()->set_detail(Shortened(refusals[0].detail));
    head.mutable_refusal()->set_remedy(Shortened(refusals[0].remedy));
  }
  return send(message);
}

v1::WorkerHello HelloOf(const WorkerDescription& description) {
  v1::WorkerHello hello;
  hello.set_protocol(kOffloadProtocol);
  hello.set_name(Shortened(description.name));
  hello.set_device(Shortened(description.device));
  hello.set_memory_limit_bytes(description.memory_limit_bytes);
  for (const DType type : description.types) hello.add_types(static_cast<uint32_t>(type));
  for (const DType type : description.operand_types) {
    hello.add_operand_types(static_cast<uint32_t>(type));
  }
  hello.set_convolves(description.convolves);
  hello.set_multiplies_residues(description.multiplies_residues);
  return hello;
}

absl::StatusOr<WorkerDescription> DescriptionOf(const v1::WorkerHello& hello) {
  if (hello.protocol() != kOffloadProtocol) {
    return Refuse(Reason::kUnsupported, "worker",
                  StrCat("it speaks protocol ", hello.protocol(), ", not ", kOffloadProtocol),
                  "run workers and coordinator of one version");
  }
  WorkerDescription out;
  out.name = Shortened(hello.name());
  out.device = Shortened(hello.device());
  out.memory_limit_bytes = hello.memory_limit_bytes();
  PAVISE_ASSIGN_OR_RETURN(out.types, TypesOf(hello.types()));
  PAVISE_ASSIGN_OR_RETURN(out.operand_types, TypesOf(hello.operand_types()));
  out.convolves = hello.convolves();
  out.multiplies_residues = hello.multiplies_residues();
  return out;
}

}  // namespace pavise::offload
