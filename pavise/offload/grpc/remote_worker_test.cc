#include "pavise/offload/grpc/remote_worker.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <functional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/grpc/messages.h"
#include "pavise/offload/grpc/worker_server.h"
#include "pavise/offload/testing/frames.h"
#include "pavise/offload/testing/plain_worker.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "offload.grpc.pb.h"

namespace pavise::offload {
namespace {

using crypto::testing::TestCertificate;
using testing::FloatsOf;
using testing::FrameOf;
using ::testing::HasSubstr;
using testing::RandomMatrix;

constexpr char kName[] = "worker.test";

crypto::testing::CertificateOptions LeafOptions(const std::string& name, const std::string& usage) {
  crypto::testing::CertificateOptions options;
  options.common_name = name;
  options.extended_key_usage = usage;
  options.subject_alternative_name = StrCat("DNS:", name);
  return options;
}

struct Authority {
  TestCertificate root = crypto::testing::MakeRoot(crypto::testing::AuthorityOptions("test root"));
  TestCertificate Worker(const std::string& name = kName) const {
    return crypto::testing::Issue(root, LeafOptions(name, "serverAuth"));
  }
  TestCertificate Coordinator() const {
    return crypto::testing::Issue(root, LeafOptions("coordinator.test", "clientAuth"));
  }
};

TlsIdentity IdentityOf(const TestCertificate& certificate, const Authority& other) {
  TlsIdentity identity;
  identity.certificate_chain = certificate.certificate.ToPem();
  identity.private_key = certificate.key.ToPem(SecretBytes()).value();
  identity.authorities = other.root.certificate.ToPem();
  return identity;
}

TlsIdentity Copy(const TlsIdentity& identity) {
  return {identity.certificate_chain, SecretBytes(identity.private_key.RevealText()),
          identity.authorities};
}

std::shared_ptr<const TlsIdentity> Shared(TlsIdentity identity) {
  return std::make_shared<const TlsIdentity>(std::move(identity));
}

absl::Time Soon() { return absl::Now() + absl::Seconds(60); }

Request ProductOf(const Matrix& a, const Matrix& b) {
  Request request;
  request.frames = {FrameOf(a), FrameOf(b)};
  return request;
}

class RemoteWorkerTest : public ::testing::Test {
 protected:
  // OpenSSL writes to sockets that the worker has closed.
  RemoteWorkerTest() { std::signal(SIGPIPE, SIG_IGN); }

  void StartWorker(uint64_t memory_bytes = uint64_t{64} << 20, size_t max_sessions = 4) {
    WorkerServerOptions options;
    options.worker = {.name = "remote", .memory_limit_bytes = memory_bytes};
    options.address = "127.0.0.1:0";
    options.identity = IdentityOf(worker_certificate, coordinators);
    options.max_sessions = max_sessions;
    server = WorkerServer::Start(options, NewCpuDevice(NewPlainProducts())).value();
  }

  RemoteWorkerOptions Options(uint16_t port) const {
    RemoteWorkerOptions options;
    options.address = StrCat("127.0.0.1:", port);
    options.identity = Shared(IdentityOf(coordinator_certificate, workers));
    options.certificate_name = kName;
    return options;
  }
  RemoteWorkerOptions Options() const { return Options(server->port()); }

  std::unique_ptr<WorkerConnection> Connect() { return ConnectToWorker(Options(), Soon()).value(); }

  // That the worker still serves.
  void ExpectServing() {
    const auto worker = Connect();
    const Reply reply =
        worker->Send(ProductOf(RandomMatrix(2, 3, 1), RandomMatrix(3, 4, 2)))->Wait(Soon()).value();
    EXPECT_LT(
        testing::RelativeDifference(
            FloatsOf(reply.frames.at(0)),
            testing::Product64(Operation::kPlain, RandomMatrix(2, 3, 1), RandomMatrix(3, 4, 2))),
        1e-6);
  }

  void WaitForNoSession() {
    while (server->sessions() != 0) std::this_thread::yield();
    EXPECT_EQ(server->used_bytes(), 0u);
  }

  // gRPC's own stub with the coordinator's certificate, for messages that no coordinator sends.
  std::unique_ptr<v1::Worker::Stub> RawStub() const {
    grpc::SslCredentialsOptions tls;
    tls.pem_root_certs = workers.root.certificate.ToPem();
    tls.pem_private_key =
        std::string(coordinator_certificate.key.ToPem(SecretBytes())->RevealText());
    tls.pem_cert_chain = coordinator_certificate.certificate.ToPem();
    grpc::ChannelArguments arguments;
    arguments.SetSslTargetNameOverride(kName);
    return v1::Worker::NewStub(grpc::CreateCustomChannel(StrCat("127.0.0.1:", server->port()),
                                                         grpc::SslCredentials(tls), arguments));
  }

  const Authority workers, coordinators;
  const TestCertificate worker_certificate = workers.Worker();
  const TestCertificate coordinator_certificate = coordinators.Coordinator();
  std::unique_ptr<WorkerServer> server;
};

TEST_F(RemoteWorkerTest, TrainsAsAWorkerInTheProcessDoes) {
  StartWorker();
  const auto remote = Connect();
  const auto local = ConnectInProcess({.name = "remote", .memory_limit_bytes = 64 << 20},
                                      NewCpuDevice(NewPlainProducts()));
  EXPECT_EQ(remote->description().name, "remote");
  EXPECT_EQ(remote->description().device, local->description().device);
  EXPECT_EQ(remote->description().memory_limit_bytes, uint64_t{64} << 20);
  EXPECT_EQ(remote->description().types, local->description().types);
  EXPECT_EQ(remote->description().operand_types, local->description().operand_types);

  Request put;
  put.command = Command::kPutWeights;
  put.layer = 1;
  put.version = 1;
  put.layer_shape.shape = {.inputs = 300, .outputs = 400, .max_rows = 500};
  put.frames = {FrameOf(RandomMatrix(300, 400, 1))};
  Request forward;
  forward.command = Command::kForward;
  forward.layer = 1;
  forward.version = 1;
  forward.step = 1;
  forward.keep_inputs = true;
  forward.frames = {FrameOf(RandomMatrix(500, 300, 2), DType::kBf16)};
  forward.reply_type = DType::kBf16;
  Request backward = forward;
  backward.command = Command::kBackward;
  backward.frames = {FrameOf(RandomMatrix(500, 400, 3))};
  Request stale = backward;
  Request update;
  update.command = Command::kUpdate;
  update.layer = 1;
  update.version = 1;
  update.sgd = SgdStep{.learning_rate = 0.1f, .momentum = 0.9f, .weight_decay = 0.01f};
  update.shift.rows.assign(300, 2.0f);
  update.shift.columns.assign(400, 0.25f);
  Request get;
  get.command = Command::kGetWeights;
  get.layer = 1;
  get.version = 2;
  // All sent before the first answer.
  std::vector<std::unique_ptr<PendingReply>> pending;
  const std::vector<Request> requests = {put, forward, backward, stale, update, get};
  for (const Request& request : requests) pending.push_back(remote->Send(request));
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(i);
    const auto expected = local->Send(requests[i])->Wait(Soon());
    const auto reply = pending[i]->Wait(Soon());
    ASSERT_EQ(reply.ok(), expected.ok()) << reply.status();
    if (!reply.ok()) {
      EXPECT_EQ(RefusalsOf(reply.status()), RefusalsOf(expected.status()));
      EXPECT_EQ(i, 3u);
      continue;
    }
    EXPECT_EQ(reply->version, expected->version);
    ASSERT_EQ(reply->frames.size(), expected->frames.size());
    for (size_t f = 0; f < reply->frames.size(); ++f) {
      EXPECT_EQ(reply->frames[f].bytes, expected->frames[f].bytes);
    }
  }
}

TEST_F(RemoteWorkerTest, OnlyCertificatesOfTheRightAuthoritiesAndNamesAreTaken) {
  StartWorker();
  const Authority strangers;
  const auto refuse = [&](const std::function<void(RemoteWorkerOptions&)>& change) {
    RemoteWorkerOptions options = Options();
    change(options);
    return ConnectToWorker(options, Soon()).status();
  };
  int refused = 0;
  const auto fails = [&](const absl::Status& status) {
    EXPECT_EQ(ExitCodeOf(status), 3) << status;
    ++refused;
  };
  fails(
      refuse([&](auto& o) { o.identity = Shared(IdentityOf(strangers.Coordinator(), workers)); }));
  fails(refuse([&](auto& o) { o.identity = Shared(IdentityOf(workers.Worker(), workers)); }));
  crypto::testing::CertificateOptions expired = LeafOptions("coordinator.test", "clientAuth");
  expired.not_after = absl::FromUnixSeconds(1'700'000'001);
  fails(refuse([&](auto& o) {
    o.identity = Shared(IdentityOf(crypto::testing::Issue(coordinators.root, expired), workers));
  }));
  const auto wrong_use = LeafOptions("coordinator.test", "serverAuth");
  fails(refuse([&](auto& o) {
    o.identity = Shared(IdentityOf(crypto::testing::Issue(coordinators.root, wrong_use), workers));
  }));
  fails(refuse(
      [&](auto& o) { o.identity = Shared(IdentityOf(coordinator_certificate, strangers)); }));
  fails(refuse([&](auto& o) { o.certificate_name = "other.test"; }));
  fails(refuse([&](auto& o) { o.certificate_name = ""; }));
  EXPECT_EQ(refused, 7);
  EXPECT_EQ(ReasonOf(refuse([](auto& o) { o.certificate_fingerprint = std::string(64, '0'); })),
            Reason::kIdentityMismatch);
  EXPECT_EQ(ReasonOf(refuse([&](auto& o) {
              TlsIdentity identity = Copy(*o.identity);
              identity.private_key = strangers.root.key.ToPem(SecretBytes()).value();
              o.identity = Shared(std::move(identity));
            })),
            Reason::kKeyMismatch);
  EXPECT_EQ(ReasonOf(refuse([](auto& o) {
              TlsIdentity identity = Copy(*o.identity);
              identity.authorities = "none";
              o.identity = Shared(std::move(identity));
            })),
            Reason::kMalformed);
  const auto pinned = [&] {
    RemoteWorkerOptions options = Options();
    EXPECT_EQ(ConnectToWorker(options, Soon()).value()->certificate(),
              worker_certificate.certificate.Fingerprint());
    options.certificate_fingerprint = worker_certificate.certificate.Fingerprint();
    return ConnectToWorker(options, Soon());
  }();
  EXPECT_TRUE(pinned.ok()) << pinned.status();
  ExpectServing();
}

// One connection to the worker, whatever is said over it. -1: not connected.
class Socket {
 public:
  explicit Socket(uint16_t port) : descriptor_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  Socket(const Socket&) = delete;
  ~Socket() { close(descriptor_); }
  int descriptor() const { return descriptor_; }

 private:
  const int descriptor_;
};

// TLS by OpenSSL alone, with the coordinator's certificate.
class OpenSslClient {
 public:
  OpenSslClient(uint16_t port, int version, const TestCertificate& certificate)
      : socket_(port), context_(SSL_CTX_new(TLS_client_method())) {
    SSL_CTX_set_min_proto_version(context_, version);
    SSL_CTX_set_max_proto_version(context_, version);
    const std::string pem = certificate.certificate.ToPem();
    BIO* const bio = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
    X509* const leaf = PEM_read_bio_X509(bio, nullptr, nullptr, nullptr);
    SSL_CTX_use_certificate(context_, leaf);
    X509_free(leaf);
    BIO_free(bio);
    const SecretBytes key = certificate.key.ToPem(SecretBytes()).value();
    BIO* const key_bio =
        BIO_new_mem_buf(key.RevealText().data(), static_cast<int>(key.RevealText().size()));
    EVP_PKEY* const native = PEM_read_bio_PrivateKey(key_bio, nullptr, nullptr, nullptr);
    SSL_CTX_use_PrivateKey(context_, native);
    EVP_PKEY_free(native);
    BIO_free(key_bio);
    ssl_ = SSL_new(context_);
    const unsigned char protocols[] = {2, 'h', '2'};
    SSL_set_alpn_protos(ssl_, protocols, sizeof protocols);
    SSL_set_fd(ssl_, socket_.descriptor());
    is_connected_ = SSL_connect(ssl_) == 1;
  }
  ~OpenSslClient() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
    ERR_clear_error();
  }
  bool is_connected() const { return is_connected_; }
  void Write(ByteSpan bytes) { SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size())); }
  // Until the worker closes.
  void Drain() {
    uint8_t buffer[4096];
    while (SSL_read(ssl_, buffer, sizeof buffer) > 0) {
    }
  }

 private:
  Socket socket_;
  SSL_CTX* const context_;
  SSL* ssl_ = nullptr;
  bool is_connected_ = false;
};

TEST_F(RemoteWorkerTest, NothingOlderThanTls13IsSpoken) {
  StartWorker();
  EXPECT_TRUE(
      OpenSslClient(server->port(), TLS1_3_VERSION, coordinator_certificate).is_connected());
  EXPECT_FALSE(
      OpenSslClient(server->port(), TLS1_2_VERSION, coordinator_certificate).is_connected());
  ExpectServing();
}

TEST_F(RemoteWorkerTest, GarbageAtEveryLevelLeavesTheWorkerServing) {
  StartWorker();
  std::mt19937_64 random(5);
  Bytes garbage(1 << 16);
  for (uint8_t& byte : garbage) byte = static_cast<uint8_t>(random());
  {
    const Socket plain(server->port());  // in place of TLS
    EXPECT_GT(send(plain.descriptor(), garbage.data(), garbage.size(), MSG_NOSIGNAL), 0);
  }
  for (const bool preface : {false, true}) {  // in place of HTTP/2, and of its frames
    OpenSslClient client(server->port(), TLS1_3_VERSION, coordinator_certificate);
    ASSERT_TRUE(client.is_connected());
    if (preface) client.Write(AsBytes("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    client.Write(ByteSpan(garbage).first(8192));
    client.Drain();
  }
  // Messages: each session ends with the status, another one goes on.
  const auto bystander = Connect();
  Request request = ProductOf(RandomMatrix(2, 3, 1), RandomMatrix(3, 4, 2));
  v1::ClientMessage hello;
  hello.mutable_hello()->set_protocol(kOffloadProtocol);
  std::vector<v1::ClientMessage> valid = {hello};
  SendRequest(1, request, [&](const v1::ClientMessage& m) {
    valid.push_back(m);
    return true;
  });
  struct Case {
    const char* what;
    size_t at;
    std::function<void(v1::ClientMessage&)> change;
    grpc::StatusCode code;
  };
  const auto invalid = grpc::StatusCode::INVALID_ARGUMENT;
  const std::vector<Case> cases = {
      {"no hello", 0, [&](auto& m) { m = valid[1]; }, invalid},
      {"another protocol", 0, [](auto& m) { m.mutable_hello()->set_protocol(9); }, invalid},
      {"a second hello", 1, [&](auto& m) { m = hello; }, invalid},
      {"a chunk without request", 1, [](auto& m) { m.set_chunk("x"); }, invalid},
      {"another id", 1, [](auto& m) { m.mutable_request()->set_id(9); }, invalid},
      {"a chunk over the frame's end", 2, [](auto& m) { m.mutable_chunk()->push_back('x'); },
       invalid},
      {"a message over any", 2, [](auto& m) { m.set_chunk(std::string(kMaxMessageBytes, 'x')); },
       grpc::StatusCode::RESOURCE_EXHAUSTED},
  };
  int ended = 0;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    const auto stub = RawStub();
    grpc::ClientContext context;
    const auto stream = stub->Session(&context);
    for (size_t i = 0; i <= c.at; ++i) {
      v1::ClientMessage message = valid[i];
      if (i == c.at) c.change(message);
      stream->Write(message);
    }
    v1::WorkerMessage answer;
    while (stream->Read(&answer)) EXPECT_TRUE(answer.has_hello());
    EXPECT_EQ(stream->Finish().error_code(), c.code);
    ++ended;
  }
  EXPECT_EQ(ended, 7);
  EXPECT_TRUE(bystander->Send(request)->Wait(Soon()).ok());
  ExpectServing();
}

// A session that is cut off after each message of its exchange is forgotten, with its memory.
TEST_F(RemoteWorkerTest, SessionsThatAreCutOffAnywhereAreForgotten) {
  StartWorker();
  std::vector<v1::ClientMessage> messages(1);
  messages[0].mutable_hello()->set_protocol(kOffloadProtocol);
  Request put;
  put.command = Command::kPutWeights;
  put.layer = 1;
  put.version = 1;
  put.layer_shape.shape = {.inputs = 256, .outputs = 300, .max_rows = 4};
  put.frames = {FrameOf(RandomMatrix(256, 300, 1))};
  Request forward;
  forward.command = Command::kForward;
  forward.layer = 1;
  forward.version = 1;
  forward.step = 1;
  forward.keep_inputs = true;
  forward.frames = {FrameOf(RandomMatrix(4, 256, 1))};
  Request backward = forward;
  backward.command = Command::kBackward;
  backward.frames = {FrameOf(RandomMatrix(4, 300, 1))};
  uint64_t id = 0;
  for (const Request& request : {put, forward, backward}) {
    SendRequest(++id, request, [&](const v1::ClientMessage& m) {
      messages.push_back(m);
      return true;
    });
  }
  ASSERT_EQ(messages.size(), 1u + 3 + 2 + 2);
  const auto stub = RawStub();
  for (size_t sent = 0; sent <= messages.size(); ++sent) {
    for (const bool reads : {false, true}) {
      grpc::ClientContext context;
      const auto stream = stub->Session(&context);
      for (size_t i = 0; i < sent; ++i) ASSERT_TRUE(stream->Write(messages[i]));
      v1::WorkerMessage answer;
      if (reads && sent > 0) {
        ASSERT_TRUE(stream->Read(&answer));
      }
      context.TryCancel();
      stream->Finish();
      WaitForNoSession();
    }
  }
  ExpectServing();
}

TEST_F(RemoteWorkerTest, TheMemoryLimitHoldsForWhatIsUnderWay) {
  StartWorker(uint64_t{1} << 20);
  const auto worker = Connect();
  // 640 KiB with 256 of operands and 64 of result, twice each: one fits in seven eighths of the
  // limit, which several at a time would not.
  const Request fits = ProductOf(RandomMatrix(128, 256, 1), RandomMatrix(256, 128, 2));
  const Request too_large = ProductOf(RandomMatrix(512, 512, 1), RandomMatrix(512, 8, 2));
  std::vector<std::unique_ptr<PendingReply>> pending;
  for (int i = 0; i < 12; ++i) pending.push_back(worker->Send(i % 4 == 2 ? too_large : fits));
  for (int i = 0; i < 12; ++i) {
    const auto reply = pending[static_cast<size_t>(i)]->Wait(Soon());
    if (i % 4 == 2) {
      EXPECT_EQ(ReasonOf(reply.status()), Reason::kLimitExceeded) << reply.status();
    } else {
      EXPECT_TRUE(reply.ok()) << reply.status();
    }
    EXPECT_LE(server->used_bytes(), uint64_t{1} << 20);
  }
}

TEST_F(RemoteWorkerTest, SessionsHaveABoundAndStoppingEndsThem) {
  StartWorker(uint64_t{64} << 20, 1);
  auto first = Connect();
  const absl::Status second = ConnectToWorker(Options(), Soon()).status();
  EXPECT_EQ(ExitCodeOf(second), 3);
  EXPECT_THAT(std::string(second.message()), HasSubstr("too many sessions"));
  first.reset();
  WaitForNoSession();
  first = Connect();
  server->Stop();
  const auto reply =
      first->Send(ProductOf(RandomMatrix(1, 1, 1), RandomMatrix(1, 1, 1)))->Wait(Soon());
  EXPECT_EQ(ExitCodeOf(reply.status()), 3) << reply.status();
  EXPECT_EQ(ExitCodeOf(ConnectToWorker(Options(), Soon()).status()), 3);
}

TEST_F(RemoteWorkerTest, AWorkerNeedsAWholeIdentity) {
  WorkerServerOptions options;
  options.address = "127.0.0.1:0";
  const auto start = [&](TlsIdentity identity) {
    options.identity = std::move(identity);
    return WorkerServer::Start(options, NewCpuDevice(NewPlainProducts())).status();
  };
  const TlsIdentity whole = IdentityOf(worker_certificate, coordinators);
  EXPECT_TRUE(start(Copy(whole)).ok());
  TlsIdentity identity = Copy(whole);
  identity.authorities.clear();
  EXPECT_EQ(ReasonOf(start(std::move(identity))), Reason::kMalformed)
      << "everybody would be let in";
  identity = Copy(whole);
  identity.private_key = coordinators.root.key.ToPem(SecretBytes()).value();
  EXPECT_EQ(ReasonOf(start(std::move(identity))), Reason::kKeyMismatch);
  identity = Copy(whole);
  identity.certificate_chain.clear();
  EXPECT_EQ(ReasonOf(start(std::move(identity))), Reason::kMalformed);
  StartWorker();
  options.address = StrCat("127.0.0.1:", server->port());
  EXPECT_EQ(ExitCodeOf(start(Copy(whole))), 3) << "taken";
}

// A worker that says hello and then what the test wants.
class LyingWorker final : public v1::Worker::Service {
 public:
  using Stream = grpc::ServerReaderWriter<v1::WorkerMessage, v1::ClientMessage>;
  LyingWorker(const TlsIdentity& identity, std::function<void(Stream&)> after_hello)
      : after_hello_(std::move(after_hello)) {
    RequireTls13();
    grpc::SslServerCredentialsOptions tls(
        GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    tls.pem_root_certs = identity.authorities;
    tls.pem_key_cert_pairs.push_back(
        {std::string(identity.private_key.RevealText()), identity.certificate_chain});
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::SslServerCredentials(tls), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~LyingWorker() override { server_->Shutdown(std::chrono::system_clock::now()); }
  uint16_t port() const { return static_cast<uint16_t>(port_); }

 private:
  grpc::Status Session(grpc::ServerContext*, Stream* stream) override {
    v1::ClientMessage message;
    stream->Read(&message);
    v1::WorkerMessage hello;
    *hello.mutable_hello() = HelloOf({.name = "liar"});
    stream->Write(hello);
    after_hello_(*stream);
    return grpc::Status::OK;
  }

  const std::function<void(Stream&)> after_hello_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

void ReadAll(LyingWorker::Stream& stream) {
  v1::ClientMessage message;
  while (stream.Read(&message)) {
  }
}

TEST_F(RemoteWorkerTest, AWorkerThatNeverAnswersIsGivenUpAtTheDeadline) {
  LyingWorker liar(IdentityOf(worker_certificate, coordinators), ReadAll);
  const auto worker = ConnectToWorker(Options(liar.port()), Soon()).value();
  EXPECT_EQ(worker->description().name, "liar");
  const auto pending = worker->Send(ProductOf(RandomMatrix(1, 1, 1), RandomMatrix(1, 1, 1)));
  EXPECT_EQ(ExitCodeOf(pending->Wait(absl::InfinitePast()).status()), 3);
}

TEST_F(RemoteWorkerTest, AMachineThatNeverSpeaksIsGivenUpAtTheDeadline) {
  const int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(bind(listening, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(listening, 1), 0);
  ASSERT_EQ(getsockname(listening, reinterpret_cast<sockaddr*>(&address), &length), 0);
  const absl::Status status =
      ConnectToWorker(Options(ntohs(address.sin_port)), absl::InfinitePast()).status();
  EXPECT_EQ(ExitCodeOf(status), 3);
  EXPECT_THAT(std::string(status.message()), HasSubstr("deadline"));
  close(listening);
}

TEST_F(RemoteWorkerTest, AnswersThatBreakTheProtocolAreRefusedAndEndTheSession) {
  v1::WorkerMessage reply;
  reply.mutable_reply()->set_id(1);
  reply.mutable_reply()->set_command(static_cast<uint32_t>(Command::kProduct));
  v1::Frame& frame = *reply.mutable_reply()->add_frames();
  frame.set_rows(1);
  frame.set_columns(1);
  frame.set_size_bytes(4);
  v1::WorkerMessage chunk;
  chunk.set_chunk("1234");
  const auto with = [](v1::WorkerMessage message,
                       const std::function<void(v1::WorkerMessage&)>& change) {
    change(message);
    return message;
  };
  struct Case {
    const char* what;
    std::vector<v1::WorkerMessage> messages;
    std::optional<Reason> reason;
  };
  const std::vector<Case> cases = {
      {"nothing: it disconnects", {}, std::nullopt},
      {"half an answer", {reply}, std::nullopt},
      {"a second hello", {with(reply, [](auto& m) { m.mutable_hello(); })}, Reason::kMalformed},
      {"another request's answer",
       {with(reply, [](auto& m) { m.mutable_reply()->set_id(2); })},
       Reason::kMalformed},
      {"another command's answer",
       {with(reply, [](auto& m) { m.mutable_reply()->set_command(0); }), chunk},
       Reason::kMalformed},
      {"another layer's answer",
       {with(reply, [](auto& m) { m.mutable_reply()->set_layer(1); }), chunk},
       Reason::kMalformed},
      {"another version's answer",
       {with(reply, [](auto& m) { m.mutable_reply()->set_version(1); }), chunk},
       Reason::kMalformed},
      {"another step's answer",
       {with(reply, [](auto& m) { m.mutable_reply()->set_step(1); }), chunk},
       Reason::kMalformed},
      {"bytes without an answer", {chunk}, Reason::kMalformed},
      {"a wrong length",
       {with(reply, [](auto& m) { m.mutable_reply()->mutable_frames(0)->set_rows(2); })},
       Reason::kMalformed},
      {"more than was asked for",
       {with(reply,
             [](auto& m) {
               m.mutable_reply()->mutable_frames(0)->set_rows(1 << 20);
               m.mutable_reply()->mutable_frames(0)->set_size_bytes(4 << 20);
             })},
       Reason::kMalformed},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    LyingWorker liar(IdentityOf(worker_certificate, coordinators),
                     [&](LyingWorker::Stream& stream) {
                       v1::ClientMessage message;
                       stream.Read(&message);  // the request, which has come before any answer
                       for (const auto& answer : c.messages) stream.Write(answer);
                       if (c.reason.has_value()) ReadAll(stream);
                     });
    RemoteWorkerOptions options = Options(liar.port());
    options.reply_limit_bytes = 1 << 20;
    const auto worker = ConnectToWorker(options, Soon()).value();
    const Request request = ProductOf(RandomMatrix(1, 1, 1), RandomMatrix(1, 1, 1));
    const absl::Status status = worker->Send(request)->Wait(Soon()).status();
    EXPECT_EQ(ReasonOf(status), c.reason) << status;
    if (!c.reason.has_value()) {
      EXPECT_EQ(ExitCodeOf(status), 3);
    }
    EXPECT_FALSE(worker->Send(request)->Wait(Soon()).ok()) << "the session is over";
  }
}

// Whatever a worker is asked, memory is taken for what an honest answer has and no more.
TEST_F(RemoteWorkerTest, AnswersAreNoLongerThanWhatWasAsked) {
  const Matrix weights = RandomMatrix(8, 4, 1);
  Request put;
  put.command = Command::kPutWeights;
  put.layer = put.version = 1;
  put.layer_shape.shape = {8, 4, 1, 16};
  put.frames = {testing::FrameOf(weights)};
  const auto with = [&](Command command, auto change) {
    Request request;
    request.command = command;
    request.layer = request.version = request.step = 1;
    change(request);
    return request;
  };
  struct Case {
    Request request;
    size_t rows, columns;  // of an honest answer; none
  };
  const Case cases[] = {
      {put, 0, 0},
      {with(Command::kForward,
            [](Request& r) { r.frames = {testing::FrameOf(RandomMatrix(3, 8, 2))}; }),
       3, 4},
      {with(Command::kBackward,
            [](Request& r) { r.frames = {testing::FrameOf(RandomMatrix(3, 4, 2))}; }),
       3, 8},
      {with(Command::kBackward,
            [](Request& r) {
              r.frames = {testing::FrameOf(RandomMatrix(3, 4, 2))};
              r.want_input_gradients = false;
            }),
       0, 0},
      {with(Command::kUpdate, [](Request&) {}), 8, 4},
      {with(Command::kUpdate, [](Request& r) { r.sgd = SgdStep{}; }), 0, 0},
      {with(Command::kGetWeights, [](Request&) {}), 16, 4},
      {with(Command::kForget, [](Request&) {}), 0, 0},
      {with(Command::kForward,
            [](Request& r) {
              r.layer = 2;
              r.frames = {testing::FrameOf(RandomMatrix(3, 8, 2))};
            }),
       0, 0},
      {ProductOf(RandomMatrix(3, 5, 1), RandomMatrix(5, 2, 1)), 3, 2},
  };
  int refused = 0;
  for (const Case& c : cases) {
    for (const bool is_longer : {false, true}) {
      SCOPED_TRACE(StrCat("case ", &c - cases));
      if (!is_longer && c.rows == 0) continue;
      LyingWorker liar(IdentityOf(worker_certificate, coordinators),
                       [&](LyingWorker::Stream& stream) {
                         v1::ClientMessage message;
                         v1::WorkerMessage put_reply;
                         put_reply.mutable_reply()->set_id(1);
                         put_reply.mutable_reply()->set_layer(1);
                         put_reply.mutable_reply()->set_version(1);
                         stream.Read(&message);
                         stream.Write(put_reply);
                         while (message.request().id() != 2 && stream.Read(&message)) {
                         }
                         v1::WorkerMessage answer;
                         v1::ReplyHead& head = *answer.mutable_reply();
                         head.set_id(2);
                         head.set_command(static_cast<uint32_t>(c.request.command));
                         head.set_layer(c.request.layer);
                         head.set_version(c.request.version + (c.request.sgd.has_value() ? 1 : 0));
                         head.set_step(c.request.step);
                         v1::Frame& frame = *head.add_frames();
                         frame.set_rows(c.rows + (is_longer ? 1 : 0));
                         frame.set_columns(std::max<size_t>(c.columns, 1));
                         frame.set_size_bytes(4 * frame.rows() * frame.columns());
                         stream.Write(answer);
                         v1::WorkerMessage chunk;
                         chunk.set_chunk(std::string(frame.size_bytes(), '\0'));
                         stream.Write(chunk);
                         ReadAll(stream);
                       });
      const auto worker = ConnectToWorker(Options(liar.port()), Soon()).value();
      ASSERT_TRUE(worker->Send(put)->Wait(Soon()).ok());
      const absl::Status status = worker->Send(c.request)->Wait(Soon()).status();
      EXPECT_EQ(ReasonOf(status),
                is_longer ? std::optional(Reason::kMalformed) : std::optional<Reason>())
          << status;
      EXPECT_EQ(status.ok(), !is_longer);
      refused += is_longer ? 1 : 0;
    }
  }
  EXPECT_EQ(refused, 10);
}

// The program: one command, a line when it serves, and a clean end.
TEST_F(RemoteWorkerTest, TheProgramServesUntilItIsTold) {
  const pavise::testing::TemporaryDirectory directory;
  const TlsIdentity identity = IdentityOf(worker_certificate, coordinators);
  const std::string certificate = directory.Write("worker.pem", identity.certificate_chain);
  const std::string key = directory.Write("worker.key", identity.private_key.RevealText());
  const std::string authorities = directory.Write("coordinators.pem", identity.authorities);
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  std::vector<std::string> words = {PAVISE_WORKER, "--listen", "127.0.0.1:0", "--cert",
                                    certificate,   "--key",    key,           "--client-ca",
                                    authorities,   "--memory", "1MiB",        "--threads",
                                    "1",           "--name",   "program"};
  const auto start = [&]() -> pid_t {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      dup2(pipe_ends[1], STDOUT_FILENO);
      execv(PAVISE_WORKER, argv.data());
      _exit(127);
    }
    return child;
  };
  const auto end_of = [](pid_t child) {
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  const pid_t child = start();
  ASSERT_GT(child, 0);
  std::string line;
  char byte = 0;
  while (read(pipe_ends[0], &byte, 1) == 1 && byte != '\n') line.push_back(byte);
  unsigned port = 0;
  ASSERT_EQ(std::sscanf(line.c_str(), "pavise-worker program: port %u,", &port), 1) << line;
  EXPECT_THAT(line, HasSubstr("tensors up to 1.00 MiB, 4 sessions"));
  const auto worker = ConnectToWorker(Options(static_cast<uint16_t>(port)), Soon()).value();
  EXPECT_EQ(worker->description().memory_limit_bytes, uint64_t{1} << 20);
  EXPECT_TRUE(
      worker->Send(ProductOf(RandomMatrix(2, 2, 1), RandomMatrix(2, 2, 1)))->Wait(Soon()).ok());
  EXPECT_EQ(kill(child, SIGTERM), 0);
  EXPECT_EQ(end_of(child), 0);

  // No machine has so many GPUs, and no other device takes its place.
  words.insert(words.end(), {"--device", "cuda:9999"});
  EXPECT_EQ(end_of(start()), 1);
  words.back() = "gpu";
  EXPECT_EQ(end_of(start()), 2);
  words.resize(words.size() - 2);
  words[4] = authorities;  // another certificate than the key's
  EXPECT_EQ(end_of(start()), 1);
  words.push_back("--no-such-option");
  EXPECT_EQ(end_of(start()), 2);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

}  // namespace
}  // namespace pavise::offload
