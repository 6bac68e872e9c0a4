#include "pavise/offload/grpc/remote_worker.h"

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/x509.h"
#include "pavise/offload/grpc/messages.h"
#include "pavise/offload/internal/mailbox.h"

#include "offload.grpc.pb.h"

namespace pavise::offload {
namespace {

using internal::Mailbox;
using internal::PendingMail;

constexpr int kKeepaliveMs = 30'000;

std::shared_ptr<grpc::Channel> NewChannel(const RemoteWorkerOptions& options) {
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = options.identity->authorities;
  tls.pem_private_key = std::string(options.identity->private_key.RevealText());
  tls.pem_cert_chain = options.identity->certificate_chain;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, options.proxy.empty() ? 0 : 1);
  if (!options.proxy.empty()) {
    arguments.SetString(GRPC_ARG_HTTP_PROXY, StrCat("http://", options.proxy));
  }
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1);
  if (!options.certificate_name.empty()) {
    arguments.SetSslTargetNameOverride(options.certificate_name);
  }
  const auto credentials = grpc::SslCredentials(tls);
  WipeMemory(tls.pem_private_key);
  return grpc::CreateCustomChannel(options.address, credentials, arguments);
}

// The stream's constructor would wait for a connection, whatever the caller's deadline is.
grpc::ClientContext* WithoutWaiting(grpc::ClientContext& context) {
  context.set_initial_metadata_corked(true);
  return &context;
}

// How long answers may be, by what was asked: what a worker sends beyond that is not taken into
// memory.
class AnswerBounds {
 public:
  // In the order in which requests are sent.
  uint64_t Of(const Request& request) {
    const Frames& frames = request.frames;
    const auto bytes = [&](uint64_t shares, uint64_t rows, uint64_t columns, DType type) {
      const bool in_residues = !frames.empty() && frames[0].modulus != 0;
      const uint64_t step_bytes = type == DType::kInt8 ? sizeof(float) : 0;
      return shares * (rows * columns * (in_residues ? 1 : DTypeSizeBytes(type)) + step_bytes);
    };
    if (request.command == Command::kPutWeights) layers_[request.layer] = request.layer_shape;
    if (request.command == Command::kProduct && frames.size() >= 2) {
      const size_t shares = frames.size() / 2;
      const Frame& a = frames[0];
      const Frame& b = frames[shares];
      return bytes(shares, request.operation == Operation::kTransposeLeft ? a.columns : a.rows,
                   request.operation == Operation::kTransposeRight ? b.rows : b.columns,
                   request.reply_type);
    }
    const auto found = layers_.find(request.layer);
    if (found == layers_.end()) return 0;  // there is nothing but a refusal to it
    const WorkerLayer layer = found->second;
    const LayerShape& shape = layer.shape;
    const uint64_t weights_bytes = shape.taps * shape.inputs * shape.outputs *
                                   (layer.moduli.empty() ? sizeof(float) : layer.moduli.size());
    switch (request.command) {
      case Command::kForward:
        // Within max_rows, which bounds rows of inputs and of outputs.
        return bytes(
            frames.size(),
            layer.convolution.has_value() || frames.empty() ? shape.max_rows : frames[0].rows,
            shape.outputs, request.reply_type);
      case Command::kBackward:
        if (!request.want_input_gradients || frames.empty()) return 0;
        return bytes(frames.size(), layer.convolution.has_value() ? shape.max_rows : frames[0].rows,
                     shape.inputs, request.reply_type);
      case Command::kUpdate:
        return request.sgd.has_value() ? 0 : weights_bytes;
      case Command::kGetWeights:
        return 2 * weights_bytes;  // and the velocity
      case Command::kForget:
        if (request.step == 0) layers_.erase(found);
        return 0;
      default:
        return 0;
    }
  }

 private:
  std::map<uint64_t, WorkerLayer> layers_;
};

class RemoteWorker final : public WorkerConnection {
 public:
  explicit RemoteWorker(const RemoteWorkerOptions& options)
      : address_(options.address),
        certificate_fingerprint_(options.certificate_fingerprint),
        stub_(v1::Worker::NewStub(NewChannel(options))),
        stream_(stub_->Session(WithoutWaiting(context_))),
        reader_(options.reply_limit_bytes),
        reading_([this] { Read(); }) {}

  ~RemoteWorker() override {
    {
      const std::scoped_lock lock(mutex_);
      is_closing_ = true;
    }
    changed_.notify_all();
    context_.TryCancel();
    if (writing_.joinable()) writing_.join();
    reading_.join();
  }

  // Waits for the worker's hello; nothing else was sent.
  absl::Status Begin(absl::Time deadline) {
    std::unique_lock lock(mutex_);
    const auto is_settled = [this] { return is_open_ || end_.has_value(); };
    if (deadline == absl::InfiniteFuture()) {
      changed_.wait(lock, is_settled);
    } else if (!changed_.wait_until(lock, absl::ToChronoTime(deadline), is_settled)) {
      return MachineFailure(address_, "no hello of a worker by the deadline");
    }
    if (end_.has_value()) return *end_;
    writing_ = std::thread([this] { Write(); });
    return absl::OkStatus();
  }

  // Whether the session ended without a connection. After Begin.
  bool was_not_reached() const {
    const std::scoped_lock lock(mutex_);
    return was_not_reached_;
  }

  const WorkerDescription& description() const override { return description_; }
  std::string certificate() const override { return certificate_; }

  std::unique_ptr<PendingReply> Send(Request request) override {
    auto mailbox = std::make_shared<Mailbox>();
    {
      const std::scoped_lock lock(mutex_);
      if (end_.has_value()) {
        mailbox->Put(*end_);
      } else {
        queue_.push_back({std::move(request), mailbox});
      }
    }
    changed_.notify_all();
    return std::make_unique<PendingMail>(std::move(mailbox), address_);
  }

 private:
  struct Queued {
    Request request;
    std::shared_ptr<Mailbox> mailbox;
  };
  // What the next answer is to echo.
  struct Awaited {
    Awaited(const Queued& queued, uint64_t the_answer_bytes)
        : answer_bytes(the_answer_bytes),
          command(queued.request.command),
          layer(queued.request.layer),
          version(queued.request.version +
                  (command == Command::kUpdate && queued.request.sgd.has_value() ? 1 : 0)),
          step(queued.request.step),
          mailbox(queued.mailbox) {}
    bool Matches(const Reply& reply) const {
      return reply.command == command && reply.layer == layer && reply.version == version &&
             reply.step == step;
    }
    uint64_t answer_bytes;
    Command command;
    uint64_t layer, version, step;
    std::shared_ptr<Mailbox> mailbox;
  };

  absl::Status CheckCertificate() {
    const auto peer = context_.auth_context()->FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME);
    if (peer.size() == 1) {
      PAVISE_ASSIGN_OR_RETURN(const std::vector<crypto::Certificate> certificate,
                              crypto::Certificate::ListFromPem(
                                  std::string_view(peer[0].data(), peer[0].size()), "worker"));
      certificate_ = certificate[0].Fingerprint();
    }
    if (certificate_fingerprint_.empty() || certificate_ == certificate_fingerprint_) {
      return absl::OkStatus();
    }
    return Refuse(Reason::kIdentityMismatch, address_,
                  StrCat("its certificate is ", certificate_, ", not ", certificate_fingerprint_),
                  "name the worker's own certificate");
  }

  absl::Status ReadHello() {
    v1::ClientMessage hello;
    hello.mutable_hello()->set_protocol(kOffloadProtocol);
    v1::WorkerMessage message;
    stream_->Write(hello);
    if (!stream_->Read(&message)) return MachineFailure(address_, "");
    PAVISE_RETURN_IF_ERROR(CheckCertificate());
    if (!message.has_hello()) {
      return Refuse(Reason::kMalformed, address_, "its first message is no hello");
    }
    PAVISE_ASSIGN_OR_RETURN(description_, DescriptionOf(message.hello()));
    const std::scoped_lock lock(mutex_);
    is_open_ = true;
    changed_.notify_all();
    return absl::OkStatus();
  }

  absl::Status ReadReplies() {
    v1::WorkerMessage message;
    while (stream_->Read(&message)) {
      uint64_t asked_bytes = 0;
      {
        const std::scoped_lock lock(mutex_);
        if (awaiting_.empty()) {
          return Refuse(Reason::kMalformed, address_, "it answers what nobody asked");
        }
        asked_bytes = awaiting_.front().answer_bytes;
      }
      PAVISE_ASSIGN_OR_RETURN(std::optional<IncomingReply> reply,
                              reader_.Take(message, asked_bytes));
      if (!reply.has_value()) continue;
      const std::scoped_lock lock(mutex_);
      if (reply->reply.ok() && !awaiting_.front().Matches(*reply->reply)) {
        return Refuse(Reason::kMalformed, address_, "it answers what nobody asked");
      }
      awaiting_.front().mailbox->Put(std::move(reply->reply));
      awaiting_.pop_front();
    }
    return MachineFailure(address_, "");
  }

  void Read() {
    absl::Status end;
    try {
      end = ReadHello();
      // A stream that ended before has the worker's reason, for which Begin's deadline waits.
      if (end.ok()) {
        end = ReadReplies();
        context_.TryCancel();
      } else if (ExitCodeOf(end) != 3) {
        context_.TryCancel();
      }
    } catch (const std::exception&) {
      end = MachineFailure(address_, "no memory for its answer");
      context_.TryCancel();
    }
    {
      // Finish must be the stream's last call.
      std::unique_lock lock(mutex_);
      is_closing_ = true;
      changed_.notify_all();
      changed_.wait(lock, [this] { return !is_writing_; });
    }
    const grpc::Status status = stream_->Finish();
    if (ExitCodeOf(end) == 3) {
      end = MachineFailure(address_,
                           StrCat("the session ended: ",
                                  status.ok() ? "closed" : status.error_message().substr(0, 512)));
    }
    const std::scoped_lock lock(mutex_);
    end_ = end;
    was_not_reached_ = status.error_code() == grpc::StatusCode::UNAVAILABLE &&
                       status.error_message().starts_with("failed to connect");
    for (const Awaited& awaited : awaiting_) awaited.mailbox->Put(end);
    for (const Queued& queued : queue_) queued.mailbox->Put(end);
    awaiting_.clear();
    queue_.clear();
    changed_.notify_all();
  }

  void Write() {
    uint64_t id = 0;
    while (true) {
      Queued next;
      {
        std::unique_lock lock(mutex_);
        is_writing_ = false;
        changed_.notify_all();
        changed_.wait(lock, [this] { return is_closing_ || !queue_.empty(); });
        if (is_closing_) return;
        next = std::move(queue_.front());
        queue_.pop_front();
        awaiting_.emplace_back(next, bounds_.Of(next.request));
        is_writing_ = true;
      }
      // Where the worker has gone, the reading thread finds out.
      SendRequest(++id, next.request,
                  [this](const v1::ClientMessage& part) { return stream_->Write(part); });
    }
  }

  const std::string address_;
  const std::string certificate_fingerprint_;
  const std::unique_ptr<v1::Worker::Stub> stub_;
  grpc::ClientContext context_;
  const std::unique_ptr<grpc::ClientReaderWriter<v1::ClientMessage, v1::WorkerMessage>> stream_;
  ReplyReader reader_;             // the reading thread's
  WorkerDescription description_;  // written before is_open_
  std::string certificate_;        // likewise

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Queued> queue_;
  std::deque<Awaited> awaiting_;
  AnswerBounds bounds_;  // the writing thread's
  bool is_open_ = false;
  bool was_not_reached_ = false;
  bool is_writing_ = false;
  bool is_closing_ = false;
  std::optional<absl::Status> end_;
  std::thread writing_;
  std::thread reading_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerConnection>> ConnectToWorker(
    const RemoteWorkerOptions& options, absl::Time deadline) {
  if (options.identity == nullptr) return UsageError("a worker is reached with a certificate only");
  PAVISE_RETURN_IF_ERROR(CheckIdentity(*options.identity));
  RequireTls13();
  try {
    auto worker = std::make_unique<RemoteWorker>(options);
    absl::Status begun = worker->Begin(deadline);
    // Seen now and then behind a containment's proxy: gRPC gave up a connection that was being
    // made, by an errno of something else. Nothing was sent, so that asking once more is nobody's
    // replay.
    if (!begun.ok() && worker->was_not_reached()) {
      worker = std::make_unique<RemoteWorker>(options);
      begun = worker->Begin(deadline);
    }
    PAVISE_RETURN_IF_ERROR(begun);
    return worker;
  } catch (const std::exception& e) {
    return MachineFailure(options.address, e.what());
  }
}

}  // namespace pavise::offload
