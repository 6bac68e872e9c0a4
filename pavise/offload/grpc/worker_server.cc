#include "pavise/offload/grpc/worker_server.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/engine.h"
#include "pavise/offload/grpc/messages.h"

#include "offload.grpc.pb.h"

namespace pavise::offload {
namespace {

// Requests that wait while one is computed.
constexpr size_t kMaxQueuedRequests = 64;
// Of the memory limit, for requests that are read while others are computed: an eighth.
constexpr uint64_t kReadAheadShare = 8;
constexpr size_t kTransportBytes = size_t{64} << 20;  // a session
constexpr int kKeepaliveMs = 30'000;
constexpr std::chrono::seconds kStopDeadline(10);

grpc::Status StatusOf(const absl::Status& status) {
  return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, std::string(status.message()));
}

// One session: the stream's thread reads requests, another computes and answers.
class CoordinatorSession {
 public:
  using Stream = grpc::ServerReaderWriter<v1::WorkerMessage, v1::ClientMessage>;

  CoordinatorSession(grpc::ServerContext& context, Stream& stream,
                     std::shared_ptr<ComputeDevice> device, std::shared_ptr<MemoryBudget> budget,
                     std::shared_ptr<MemoryBudget> read_ahead)
      : context_(context),
        stream_(stream),
        budget_(budget),
        read_ahead_(std::move(read_ahead)),
        engine_(std::move(device), std::move(budget)) {}

  grpc::Status Run(const WorkerDescription& description) {
    try {
      return Serve(description);
    } catch (const std::exception&) {
      return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "no memory");
    }
  }

  void Stop() {
    const std::scoped_lock lock(mutex_);
    is_closing_ = true;
    if (!is_computing_) context_.TryCancel();
    changed_.notify_all();
  }

 private:
  grpc::Status Serve(const WorkerDescription& description) {
    v1::ClientMessage message;
    if (!stream_.Read(&message)) return grpc::Status::OK;
    if (message.hello().protocol() != kOffloadProtocol) {
      return StatusOf(Refuse(Reason::kUnsupported, "session",
                             StrCat("it begins with no hello of protocol ", kOffloadProtocol)));
    }
    v1::WorkerMessage hello;
    *hello.mutable_hello() = HelloOf(description);
    if (!stream_.Write(hello)) return grpc::Status::OK;
    std::thread computing([this] { Compute(); });
    grpc::Status status;
    try {
      status = ReadRequests();
    } catch (const std::exception&) {
      status = grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "no memory");
    }
    {
      const std::scoped_lock lock(mutex_);
      is_closing_ = true;
    }
    changed_.notify_all();
    computing.join();
    return status;
  }

  grpc::Status ReadRequests() {
    RequestReader reader([this](uint64_t size_bytes) { return Charge(size_bytes); });
    v1::ClientMessage message;
    while (stream_.Read(&message)) {
      absl::StatusOr<std::optional<IncomingRequest>> request = reader.Take(message);
      if (!request.ok()) return StatusOf(request.status());
      if (!request->has_value()) continue;
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return is_closing_ || queue_.size() < kMaxQueuedRequests; });
      if (is_closing_) break;
      queue_.push_back(**std::move(request));
      changed_.notify_all();
    }
    return grpc::Status::OK;
  }

  // Memory for a request. What is read while another is computed has a share of its own, so that it
  // takes nothing from that one; where it does not fit in there it waits until it is the next.
  absl::StatusOr<MemoryCharge> Charge(uint64_t size_bytes) {
    std::unique_lock lock(mutex_);
    while (!is_closing_ && (is_computing_ || !queue_.empty())) {
      absl::StatusOr<MemoryCharge> charge = read_ahead_->Charge(size_bytes, "request");
      if (charge.ok()) return charge;
      changed_.wait(lock);
    }
    return budget_->Charge(size_bytes, "request");
  }

  void Compute() {
    while (true) {
      std::optional<IncomingRequest> next;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return is_closing_ || !queue_.empty(); });
        if (is_closing_) return;
        next.emplace(std::move(queue_.front()));
        queue_.pop_front();
        is_computing_ = true;
      }
      const uint64_t id = next->id;
      const absl::StatusOr<Reply> reply = next->request.ok()
                                              ? engine_.Execute(*std::move(next->request))
                                              : absl::StatusOr<Reply>(next->request.status());
      next.reset();
      const bool is_there = SendReply(
          id, reply, [this](const v1::WorkerMessage& part) { return stream_.Write(part); });
      engine_.ReleaseAnswer();
      const std::scoped_lock lock(mutex_);
      is_computing_ = false;
      if (is_closing_) context_.TryCancel();  // for Stop: the reading thread waits for a message
      if (!is_there) is_closing_ = true;
      changed_.notify_all();
    }
  }

  grpc::ServerContext& context_;
  Stream& stream_;
  const std::shared_ptr<MemoryBudget> budget_;
  const std::shared_ptr<MemoryBudget> read_ahead_;
  WorkerEngine engine_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<IncomingRequest> queue_;
  bool is_computing_ = false;
  bool is_closing_ = false;
};

class GrpcWorkerServer final : public WorkerServer, public v1::Worker::Service {
 public:
  GrpcWorkerServer(const WorkerServerOptions& options, std::shared_ptr<ComputeDevice> device)
      : description_(DescribeWorker(options.worker, *device)),
        max_sessions_(options.max_sessions),
        device_(std::move(device)),
        read_ahead_(
            std::make_shared<MemoryBudget>(options.worker.memory_limit_bytes / kReadAheadShare)),
        budget_(std::make_shared<MemoryBudget>(options.worker.memory_limit_bytes -
                                               read_ahead_->limit_bytes())) {}
  ~GrpcWorkerServer() override { Stop(); }

  absl::Status Listen(const WorkerServerOptions& options) {
    grpc::SslServerCredentialsOptions tls(
        GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    tls.pem_root_certs = options.identity.authorities;
    tls.pem_key_cert_pairs.push_back({std::string(options.identity.private_key.RevealText()),
                                      options.identity.certificate_chain});
    grpc::ServerBuilder builder;
    builder.AddListeningPort(options.address, grpc::SslServerCredentials(tls), &port_);
    for (auto& pair : tls.pem_key_cert_pairs) WipeMemory(pair.private_key);
    builder.RegisterService(this);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    grpc::ResourceQuota quota("pavise-worker");
    quota.Resize(kTransportBytes * (max_sessions_ + 1));
    builder.SetResourceQuota(quota);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMs);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                               kKeepaliveMs / 2);
    // No message is longer after it was received than before.
    builder.AddChannelArgument(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return MachineFailure(options.address, "cannot listen there");
    }
    return absl::OkStatus();
  }

  uint16_t port() const override { return static_cast<uint16_t>(port_); }
  size_t sessions() const override {
    const std::scoped_lock lock(mutex_);
    return open_sessions_;
  }
  uint64_t used_bytes() const override { return budget_->used_bytes() + read_ahead_->used_bytes(); }

  void Stop() override {
    {
      const std::scoped_lock lock(mutex_);
      is_stopping_ = true;
      for (CoordinatorSession* const session : sessions_) session->Stop();
    }
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + kStopDeadline);
  }

 private:
  grpc::Status Session(grpc::ServerContext* context, CoordinatorSession::Stream* stream) override {
    {
      const std::scoped_lock lock(mutex_);
      if (is_stopping_ || open_sessions_ >= max_sessions_) {
        return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                            is_stopping_ ? "the worker is stopping" : "too many sessions");
      }
      ++open_sessions_;
    }
    grpc::Status status;
    {
      CoordinatorSession session(*context, *stream, device_, budget_, read_ahead_);
      {
        const std::scoped_lock lock(mutex_);
        sessions_.insert(&session);
        if (is_stopping_) session.Stop();
      }
      status = session.Run(description_);
      const std::scoped_lock lock(mutex_);
      sessions_.erase(&session);
    }
    // Its memory is free now.
    const std::scoped_lock lock(mutex_);
    --open_sessions_;
    return status;
  }

  const WorkerDescription description_;
  const size_t max_sessions_;
  const std::shared_ptr<ComputeDevice> device_;
  const std::shared_ptr<MemoryBudget> read_ahead_;
  const std::shared_ptr<MemoryBudget> budget_;
  mutable std::mutex mutex_;
  std::set<CoordinatorSession*> sessions_;  // which Stop may end
  size_t open_sessions_ = 0;
  bool is_stopping_ = false;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerServer>> WorkerServer::Start(
    const WorkerServerOptions& options, std::shared_ptr<ComputeDevice> device) {
  PAVISE_RETURN_IF_ERROR(CheckIdentity(options.identity));
  if (options.max_sessions == 0) return UsageError("a worker needs at least one session");
  RequireTls13();
  try {
    auto server = std::make_unique<GrpcWorkerServer>(options, std::move(device));
    PAVISE_RETURN_IF_ERROR(server->Listen(options));
    return server;
  } catch (const std::exception& e) {
    return MachineFailure("worker", e.what());
  }
}

}  // namespace pavise::offload
