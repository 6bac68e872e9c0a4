#include "pavise/broker/http_server.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/ascii.h"
#include "boost/asio/awaitable.hpp"
#include "boost/asio/co_spawn.hpp"
#include "boost/asio/detached.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/network_v6.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/local/stream_protocol.hpp"
#include "boost/asio/redirect_error.hpp"
#include "boost/asio/ssl/context.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/strand.hpp"
#include "boost/asio/thread_pool.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "boost/beast/ssl.hpp"

namespace pavise::broker {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using LocalStream = beast::basic_stream<asio::local::stream_protocol>;
using TlsStream = beast::ssl_stream<beast::tcp_stream>;

constexpr uint64_t kSmallBodyBytes = 64u << 10;
constexpr uint64_t kDefaultBodyBytes = 1u << 20;
constexpr uint64_t kBytesASecond = 64u << 10;
constexpr size_t kBodyStepBytes = 64u << 10;
// What one IPv6 client usually has to itself.
constexpr unsigned short kPeerPrefixBits = 64;
// What is read and thrown away after a refusal, so that the client gets to see it.
constexpr size_t kMostDrainedBytes = 1u << 20;
constexpr absl::Duration kDrainDeadline = absl::Seconds(1);
constexpr absl::Duration kAcceptPause = absl::Milliseconds(50);

std::chrono::steady_clock::duration ToChrono(absl::Duration duration) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      absl::ToChronoNanoseconds(duration));
}

template <typename Stream>
auto& LowestOf(Stream& stream) {
  return beast::get_lowest_layer(stream);
}

HttpResponse Problem(int status, std::string_view title, std::string_view detail) {
  HttpResponse response;
  response.status = status;
  response.content_type = "application/problem+json";
  const OrderedJson body = {
      {"type", "about:blank"}, {"title", title}, {"status", status}, {"detail", detail}};
  response.body = DumpJson(body, -1);
  return response;
}

// What the sender of a header that does not parse is told.
HttpResponse ProblemOf(const error_code& error) {
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return Problem(431, "Request Header Fields Too Large", "the header is longer than is allowed");
  }
  return Problem(400, "Bad Request", "this is not HTTP/1.1");
}

bool IsParseError(const error_code& error) {
  return error.category() == make_error_code(http::error::bad_version).category() &&
         error != http::error::end_of_stream && error != http::error::partial_message;
}

// Bodies are read in steps of ours, since each step is counted.
using Parser = http::request_parser<http::buffer_body>;

struct Head {
  HttpRequest request;
  uint64_t body_bytes = 0;
  bool expects_continue = false;
};

// A request's header as a value, or the answer where there is something wrong with it.
std::optional<HttpResponse> ReadHead(const Parser& parser, Head& head) {
  const auto& message = parser.get();
  if (message.version() != 11) return Problem(400, "Bad Request", "HTTP/1.1 is spoken here");
  const http::verb verb = message.method();
  if (verb != http::verb::get && verb != http::verb::post && verb != http::verb::put &&
      verb != http::verb::delete_) {
    return Problem(501, "Not Implemented", "no such method");
  }
  head.request.method = std::string(message.method_string());
  const std::string target(message.target());
  if (target.empty() || target[0] != '/') {
    return Problem(400, "Bad Request", "the target must begin with /");
  }
  const size_t question = target.find('?');
  head.request.path = target.substr(0, question);
  if (question != std::string::npos) head.request.query = target.substr(question + 1);
  for (const auto& field : message) {
    const auto name = field.name_string();
    const auto value = field.value();
    if (!head.request.headers
             .emplace(absl::AsciiStrToLower(absl::string_view(name.data(), name.size())),
                      std::string(value))
             .second) {
      return Problem(400, "Bad Request", "a header field is there twice");
    }
  }
  if (head.request.headers.contains("transfer-encoding")) {
    return Problem(411, "Length Required", "send a Content-Length");
  }
  head.body_bytes = parser.content_length().value_or(0);
  const auto expect = head.request.headers.find("expect");
  head.expects_continue = expect != head.request.headers.end() &&
                          absl::AsciiStrToLower(expect->second) == "100-continue";
  return std::nullopt;
}

// Who counts as one client.
std::string PeerOf(const asio::ip::address& address) {
  if (!address.is_v6() || address.is_loopback()) return address.to_string();
  const asio::ip::address_v6 v6 = address.to_v6();
  if (v6.is_v4_mapped()) return asio::ip::make_address_v4(asio::ip::v4_mapped, v6).to_string();
  return asio::ip::make_network_v6(v6, kPeerPrefixBits).canonical().to_string();
}

class ConnectionBase {
 public:
  virtual ~ConnectionBase() = default;
  // Both return at once.
  virtual void CloseIfIdle() = 0;
  virtual void Close() = 0;
};

}  // namespace

class HttpServer::State {
 public:
  State(HttpServerOptions options, HttpHandler handler)
      : options_(std::move(options)),
        handler_(std::move(handler)),
        tls_(asio::ssl::context::tls_server),
        workers_(options_.worker_threads),
        guard_(asio::make_work_guard(io_)) {}

  absl::Status Listen();
  void Run();
  void Stop();
  uint16_t port() const { return port_; }
  HttpServerCounters counters() const;

 private:
  template <typename Stream>
  class Connection;

  absl::Status PrepareTls();
  absl::Status ListenOnUnixSocket();
  template <typename Acceptor>
  asio::awaitable<void> AcceptLoop(Acceptor& acceptor);
  template <typename Stream, typename Socket>
  asio::awaitable<void> Serve(std::string peer, Socket socket);
  bool Admit(const std::string& peer);
  void Leave(const std::string& peer);
  // Of large bodies. Whether there is room for as many bytes more.
  bool TakeBodyBytes(const std::string& peer, uint64_t count);
  void GiveBackBodyBytes(const std::string& peer, uint64_t count);
  HttpResponse Handle(const HttpRequest& request) const;

  const HttpServerOptions options_;
  const HttpHandler handler_;
  asio::io_context io_;
  asio::ssl::context tls_;
  bool with_tls_ = false;
  asio::thread_pool workers_;
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  std::optional<asio::ip::tcp::acceptor> tcp_acceptor_;
  std::optional<asio::local::stream_protocol::acceptor> unix_acceptor_;
  uint16_t port_ = 0;
  std::vector<std::thread> threads_;
  std::atomic<bool> stopping_ = false;
  bool stopped_ = false;

  mutable std::mutex mutex_;
  std::condition_variable left_;
  std::map<std::string, uint32_t> peers_;
  std::set<ConnectionBase*> connections_;
  HttpServerCounters counters_;
  uint32_t admitted_ = 0;
  uint64_t body_bytes_ = 0;  // in flight, of large bodies
  std::map<std::string, uint64_t> body_bytes_of_peer_;
};

// One client. Everything but the handler runs on the connection's strand.
template <typename Stream>
class HttpServer::State::Connection final : public ConnectionBase {
 public:
  template <typename... Arguments>
  Connection(State& state, std::string peer, Arguments&&... arguments)
      : state_(state),
        peer_(std::move(peer)),
        stream_(std::forward<Arguments>(arguments)...),
        buffer_(state.options_.max_header_bytes + kSmallBodyBytes) {
    const std::scoped_lock lock(state_.mutex_);
    state_.connections_.insert(this);
  }
  ~Connection() override {
    const std::scoped_lock lock(state_.mutex_);
    state_.connections_.erase(this);
  }

  // Called with the server's lock held, so that the connection is still there; what is posted runs
  // on the strand, where `alive_` says whether it still is.
  void CloseIfIdle() override {
    asio::post(stream_.get_executor(), [this, alive = std::weak_ptr<bool>(alive_)] {
      if (!alive.expired() && idle_) LowestOf(stream_).close();
    });
  }
  void Close() override {
    asio::post(stream_.get_executor(), [this, alive = std::weak_ptr<bool>(alive_)] {
      if (!alive.expired()) LowestOf(stream_).close();
    });
  }

  asio::awaitable<void> Run();

 private:
  static constexpr bool kIsTls = std::is_same_v<Stream, TlsStream>;

  void ExpireAfter(absl::Duration deadline) { LowestOf(stream_).expires_after(ToChrono(deadline)); }
  auto Token() { return asio::redirect_error(asio::use_awaitable, error_); }
  void CountTimeout() {
    if (error_ != beast::error::timeout) return;
    const std::scoped_lock lock(state_.mutex_);
    ++state_.counters_.timed_out;
  }

  asio::awaitable<bool> AwaitRequest(bool is_first);
  asio::awaitable<bool> ServeOne();
  // Whether the body is whole; else the client has its answer, or is gone. `counted`: its bytes
  // that the server's budget holds, to be given back.
  asio::awaitable<bool> ReadBody(Parser& parser, Head& head, uint64_t& counted);
  asio::awaitable<HttpResponse> RunHandler(const HttpRequest& request);
  asio::awaitable<void> Send(const HttpResponse& response, bool keep_alive);
  asio::awaitable<void> Refuse(const HttpResponse& response);

  State& state_;
  const std::string peer_;
  Stream stream_;
  beast::flat_buffer buffer_;
  error_code error_;
  bool idle_ = true;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

template <typename Stream>
asio::awaitable<void> HttpServer::State::Connection<Stream>::Run() {
  ExpireAfter(state_.options_.header_deadline);
  if constexpr (kIsTls) {
    co_await stream_.async_handshake(asio::ssl::stream_base::server, Token());
    if (error_) {
      CountTimeout();
      co_return;
    }
  }
  bool is_first = true;
  while (co_await AwaitRequest(is_first)) {
    is_first = false;
    if (!co_await ServeOne()) break;
  }
  CountTimeout();
}

// Whether a byte of a request is there. The first one's deadline runs since the connection.
template <typename Stream>
asio::awaitable<bool> HttpServer::State::Connection<Stream>::AwaitRequest(bool is_first) {
  if (state_.stopping_) co_return false;
  if (buffer_.size() != 0) {
    ExpireAfter(state_.options_.header_deadline);
    co_return true;
  }
  idle_ = true;
  if (!is_first) ExpireAfter(state_.options_.idle_deadline);
  const size_t count = co_await stream_.async_read_some(buffer_.prepare(4096), Token());
  buffer_.commit(count);
  idle_ = false;
  if (error_) co_return false;
  if (!is_first) ExpireAfter(state_.options_.header_deadline);
  co_return true;
}

// Whether the connection goes on.
template <typename Stream>
asio::awaitable<bool> HttpServer::State::Connection<Stream>::ServeOne() {
  const HttpServerOptions& options = state_.options_;
  Parser parser;
  parser.header_limit(options.max_header_bytes);
  // Ours is the route's, held against the length below. (Boost 1.74 refuses any length under
  // boost::none.)
  parser.body_limit(std::numeric_limits<uint64_t>::max());
  co_await http::async_read_header(stream_, buffer_, parser, Token());
  if (error_) {
    if (IsParseError(error_)) co_await Refuse(ProblemOf(error_));
    co_return false;
  }
  Head head;
  if (const auto problem = ReadHead(parser, head)) {
    co_await Refuse(*problem);
    co_return false;
  }
  const uint64_t limit = options.body_limit != nullptr
                             ? options.body_limit(head.request.method, head.request.path)
                             : kDefaultBodyBytes;
  if (head.body_bytes > limit) {
    co_await Refuse(
        Problem(413, "Payload Too Large", StrCat("at most ", limit, " bytes are taken here")));
    co_return false;
  }
  // Given back when the request is through, whichever way.
  struct Budget {
    State& state;
    const std::string& peer;
    uint64_t counted = 0;
    void GiveBack() { state.GiveBackBodyBytes(peer, std::exchange(counted, 0)); }
    ~Budget() { GiveBack(); }
  } budget{state_, peer_};
  if (head.expects_continue && !parser.is_done()) {
    constexpr std::string_view kGoOn = "HTTP/1.1 100 Continue\r\n\r\n";
    ExpireAfter(options.write_deadline);
    co_await asio::async_write(stream_, asio::buffer(kGoOn.data(), kGoOn.size()), Token());
    if (error_) co_return false;
  }
  if (!co_await ReadBody(parser, head, budget.counted)) co_return false;
  const bool keep_alive = parser.get().keep_alive();
  head.request.peer = peer_;
  const HttpResponse response = co_await RunHandler(head.request);
  // Before the client takes its time over the answer.
  head.request.body = std::string();
  budget.GiveBack();
  const bool goes_on = keep_alive && !state_.stopping_;
  co_await Send(response, goes_on);
  co_return !error_ && goes_on;
}

template <typename Stream>
asio::awaitable<bool> HttpServer::State::Connection<Stream>::ReadBody(Parser& parser, Head& head,
                                                                      uint64_t& counted) {
  std::string& body = head.request.body;
  // Addresses only: memory is taken as bytes arrive.
  body.reserve(head.body_bytes);
  std::vector<char> step(std::min<uint64_t>(head.body_bytes, kBodyStepBytes));
  const auto begun = std::chrono::steady_clock::now();
  while (!parser.is_done()) {
    // What has arrived buys time, what was announced does not.
    const auto arrived = absl::Seconds(static_cast<double>(body.size()) / kBytesASecond);
    LowestOf(stream_).expires_at(begun + ToChrono(state_.options_.body_deadline + arrived));
    parser.get().body() = {step.data(), step.size(), /*more=*/true};
    co_await http::async_read(stream_, buffer_, parser, Token());
    if (error_ == http::error::need_buffer) error_ = {};
    if (error_) {
      if (IsParseError(error_)) co_await Refuse(ProblemOf(error_));
      co_return false;
    }
    const size_t count = step.size() - parser.get().body().size;
    if (head.body_bytes > kSmallBodyBytes) {
      if (!state_.TakeBodyBytes(peer_, count)) {
        HttpResponse busy = Problem(503, "Service Unavailable", "too many large requests at once");
        busy.headers.emplace_back("Retry-After", "5");
        co_await Refuse(busy);
        co_return false;
      }
      counted += count;
    }
    body.append(step.data(), count);
  }
  co_return true;
}

template <typename Stream>
asio::awaitable<HttpResponse> HttpServer::State::Connection<Stream>::RunHandler(
    const HttpRequest& request) {
  HttpResponse response;
  // A deadline is the client's; none runs while the broker works.
  LowestOf(stream_).expires_never();
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(
      [&](auto&& done) {
        asio::post(state_.workers_, [&, done = std::move(done)]() mutable {
          response = state_.Handle(request);
          const auto executor = asio::get_associated_executor(done);
          asio::post(executor, std::move(done));
        });
      },
      asio::use_awaitable);
  co_return response;
}

template <typename Stream>
asio::awaitable<void> HttpServer::State::Connection<Stream>::Send(const HttpResponse& response,
                                                                  bool keep_alive) {
  http::response<http::string_body> message(static_cast<http::status>(response.status), 11);
  message.keep_alive(keep_alive);
  message.set(http::field::cache_control, "no-store");
  if (!response.body.empty()) message.set(http::field::content_type, response.content_type);
  for (const auto& [name, value] : response.headers) message.set(name, value);
  message.body() = response.body;
  message.prepare_payload();
  ExpireAfter(state_.options_.write_deadline + absl::Seconds(response.body.size() / kBytesASecond));
  co_await http::async_write(stream_, message, Token());
  if (error_ || keep_alive) co_return;
  ExpireAfter(kDrainDeadline);
  error_code ignored;
  if constexpr (kIsTls) {
    co_await stream_.async_shutdown(asio::redirect_error(asio::use_awaitable, ignored));
  } else {
    stream_.socket().shutdown(asio::socket_base::shutdown_send, ignored);
  }
}

// Answers what will not be read to its end, and closes. Bytes that are on their way are taken and
// thrown away: closing over them would reset the connection before the client has read the answer.
template <typename Stream>
asio::awaitable<void> HttpServer::State::Connection<Stream>::Refuse(const HttpResponse& response) {
  {
    const std::scoped_lock lock(state_.mutex_);
    ++state_.counters_.malformed;
  }
  co_await Send(response, /*keep_alive=*/false);
  if (error_ || kIsTls) co_return;
  std::array<char, 4096> sink;
  for (size_t drained = 0; drained < kMostDrainedBytes && !error_;) {
    drained += co_await stream_.async_read_some(asio::buffer(sink), Token());
  }
  error_ = {};
}

absl::Status HttpServer::State::PrepareTls() {
  error_code error;
  const auto refuse = [&error](Reason reason, const std::string& file) {
    return pavise::Refuse(reason, file, error.message());
  };
  SSL_CTX* const context = tls_.native_handle();
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context, 0);
  // An encrypted key must not ask on the terminal.
  tls_.set_password_callback([](auto, auto) { return std::string(); }, error);
  for (const std::string& file : {options_.certificate_file, options_.private_key_file}) {
    if (access(file.c_str(), R_OK) != 0) return FromErrno(errno, "opening", file);
  }
  tls_.use_certificate_chain_file(options_.certificate_file, error);
  if (error) return refuse(Reason::kMalformed, options_.certificate_file);
  tls_.use_private_key_file(options_.private_key_file, asio::ssl::context::pem, error);
  if (error) {
    const bool is_other =
        ERR_GET_REASON(static_cast<unsigned long>(error.value())) == X509_R_KEY_VALUES_MISMATCH;
    return refuse(is_other ? Reason::kKeyMismatch : Reason::kMalformed, options_.private_key_file);
  }
  with_tls_ = true;
  return absl::OkStatus();
}

absl::Status HttpServer::State::ListenOnUnixSocket() {
  const std::string& path = options_.unix_socket;
  struct sockaddr_un address;
  if (path.size() >= sizeof(address.sun_path)) {
    return UsageError(StrCat(path, ": longer than a socket's path may be"));
  }
  error_code error;
  const asio::local::stream_protocol::endpoint endpoint(path);
  struct stat status;
  if (lstat(path.c_str(), &status) == 0) {
    asio::local::stream_protocol::socket probe(io_);
    probe.connect(endpoint, error);
    if (!S_ISSOCK(status.st_mode) || error != asio::error::connection_refused) {
      return MachineFailure(path, "is there already, and is no socket left behind");
    }
    unlink(path.c_str());
  }
  unix_acceptor_.emplace(io_);
  unix_acceptor_->open(endpoint.protocol(), error);
  // Nobody else may connect in between: the mode is right from the start.
  const mode_t mask = umask(0117);
  if (!error) unix_acceptor_->bind(endpoint, error);
  umask(mask);
  if (!error) unix_acceptor_->listen(asio::socket_base::max_listen_connections, error);
  if (error) return MachineFailure(path, error.message());
  return absl::OkStatus();
}

absl::Status HttpServer::State::Listen() {
  if (options_.address.empty() == options_.unix_socket.empty()) {
    return UsageError("one of an address and a unix socket is needed");
  }
  if (options_.certificate_file.empty() != options_.private_key_file.empty()) {
    return UsageError("a certificate and its private key go together");
  }
  if (options_.io_threads == 0 || options_.worker_threads == 0) {
    return UsageError("at least one thread of each kind is needed");
  }
  if (!options_.unix_socket.empty()) {
    if (!options_.certificate_file.empty()) return UsageError("no TLS over a unix socket");
    return ListenOnUnixSocket();
  }
  const size_t colon = options_.address.rfind(':');
  std::string host = options_.address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  error_code error;
  const auto ip = asio::ip::make_address(host, error);
  unsigned port = 0;
  if (error || colon == std::string::npos ||
      !absl::SimpleAtoi(options_.address.substr(colon + 1), &port) || port > 65535) {
    return UsageError(StrCat(options_.address, ": an IP address and a port, as 127.0.0.1:8080"));
  }
  if (!options_.certificate_file.empty()) {
    PAVISE_RETURN_IF_ERROR(PrepareTls());
  } else if (!ip.is_loopback()) {
    return UsageError("without a certificate only a loopback address is listened on");
  }
  const asio::ip::tcp::endpoint endpoint(ip, static_cast<uint16_t>(port));
  tcp_acceptor_.emplace(io_);
  tcp_acceptor_->open(endpoint.protocol(), error);
  if (!error) tcp_acceptor_->set_option(asio::socket_base::reuse_address(true), error);
  if (!error) tcp_acceptor_->bind(endpoint, error);
  if (!error) tcp_acceptor_->listen(asio::socket_base::max_listen_connections, error);
  if (error) return MachineFailure(options_.address, error.message());
  port_ = tcp_acceptor_->local_endpoint().port();
  return absl::OkStatus();
}

bool HttpServer::State::Admit(const std::string& peer) {
  const std::scoped_lock lock(mutex_);
  ++counters_.connections;
  if (stopping_ || admitted_ >= options_.max_connections ||
      (!peer.empty() && peers_[peer] >= options_.max_connections_per_peer)) {
    ++counters_.refused;
    if (const auto found = peers_.find(peer); found != peers_.end() && found->second == 0) {
      peers_.erase(found);
    }
    return false;
  }
  ++admitted_;
  if (!peer.empty()) ++peers_[peer];
  return true;
}

void HttpServer::State::Leave(const std::string& peer) {
  const std::scoped_lock lock(mutex_);
  --admitted_;
  if (const auto found = peers_.find(peer); found != peers_.end() && --found->second == 0) {
    peers_.erase(found);
  }
  left_.notify_all();
}

bool HttpServer::State::TakeBodyBytes(const std::string& peer, uint64_t count) {
  const std::scoped_lock lock(mutex_);
  if (count > options_.max_body_bytes_in_flight - body_bytes_) return false;
  if (!peer.empty()) {
    uint64_t& of_peer = body_bytes_of_peer_[peer];
    if (count > options_.max_body_bytes_per_peer - of_peer) {
      if (of_peer == 0) body_bytes_of_peer_.erase(peer);
      return false;
    }
    of_peer += count;
  }
  body_bytes_ += count;
  return true;
}

void HttpServer::State::GiveBackBodyBytes(const std::string& peer, uint64_t count) {
  if (count == 0) return;
  const std::scoped_lock lock(mutex_);
  body_bytes_ -= count;
  const auto found = body_bytes_of_peer_.find(peer);
  if (found != body_bytes_of_peer_.end() && (found->second -= count) == 0) {
    body_bytes_of_peer_.erase(found);
  }
}

HttpResponse HttpServer::State::Handle(const HttpRequest& request) const {
  {
    const std::scoped_lock lock(mutex_);
    ++const_cast<State*>(this)->counters_.requests;
  }
  try {
    return handler_(request);
  } catch (...) {
    return Problem(500, "Internal Server Error", "the request could not be handled");
  }
}

// Parameters by value: they live as long as the coroutine.
template <typename Stream, typename Socket>
asio::awaitable<void> HttpServer::State::Serve(std::string peer, Socket socket) {
  try {
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      Connection<Stream> connection(*this, peer, std::move(socket), tls_);
      co_await connection.Run();
    } else {
      Connection<Stream> connection(*this, peer, std::move(socket));
      co_await connection.Run();
    }
  } catch (...) {
    // No memory for one client: the others go on.
  }
  Leave(peer);
}

template <typename Acceptor>
asio::awaitable<void> HttpServer::State::AcceptLoop(Acceptor& acceptor) {
  using Protocol = typename Acceptor::protocol_type;
  constexpr bool kIsTcp = std::is_same_v<Protocol, asio::ip::tcp>;
  asio::steady_timer pause(io_);
  error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  while (!stopping_) {
    auto strand = asio::make_strand(io_);
    asio::basic_stream_socket<Protocol> socket(strand);
    co_await acceptor.async_accept(socket, token);
    if (stopping_ || error == asio::error::operation_aborted) break;
    if (error) {
      // Out of file descriptors, mostly: connections that close give some back.
      pause.expires_after(ToChrono(kAcceptPause));
      co_await pause.async_wait(token);
      continue;
    }
    std::string peer;
    if constexpr (kIsTcp) {
      const auto endpoint = socket.remote_endpoint(error);
      if (error) continue;
      peer = PeerOf(endpoint.address());
      socket.set_option(asio::ip::tcp::no_delay(true), error);
    }
    if (!Admit(peer)) continue;
    if constexpr (kIsTcp) {
      if (with_tls_) {
        asio::co_spawn(strand, Serve<TlsStream>(peer, std::move(socket)), asio::detached);
      } else {
        asio::co_spawn(strand, Serve<beast::tcp_stream>(peer, std::move(socket)), asio::detached);
      }
    } else {
      asio::co_spawn(strand, Serve<LocalStream>(peer, std::move(socket)), asio::detached);
    }
  }
  acceptor.close(error);
}

void HttpServer::State::Run() {
  if (tcp_acceptor_.has_value()) asio::co_spawn(io_, AcceptLoop(*tcp_acceptor_), asio::detached);
  if (unix_acceptor_.has_value()) asio::co_spawn(io_, AcceptLoop(*unix_acceptor_), asio::detached);
  for (unsigned i = 0; i < options_.io_threads; ++i) {
    threads_.emplace_back([this] { io_.run(); });
  }
}

void HttpServer::State::Stop() {
  if (stopped_) return;
  stopped_ = true;
  stopping_ = true;
  asio::post(io_, [this] {
    error_code ignored;
    if (tcp_acceptor_.has_value()) tcp_acceptor_->close(ignored);
    if (unix_acceptor_.has_value()) unix_acceptor_->close(ignored);
  });
  {
    std::unique_lock lock(mutex_);
    for (ConnectionBase* connection : connections_) connection->CloseIfIdle();
    left_.wait_for(lock, ToChrono(options_.stop_deadline), [this] { return admitted_ == 0; });
    for (ConnectionBase* connection : connections_) connection->Close();
  }
  workers_.join();
  guard_.reset();
  for (std::thread& thread : threads_) thread.join();
  if (!options_.unix_socket.empty()) unlink(options_.unix_socket.c_str());
}

HttpServerCounters HttpServer::State::counters() const {
  const std::scoped_lock lock(mutex_);
  HttpServerCounters counters = counters_;
  counters.open = admitted_;
  return counters;
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options,
                                                              HttpHandler handler) {
  try {
    auto state = std::make_unique<State>(options, std::move(handler));
    PAVISE_RETURN_IF_ERROR(state->Listen());
    state->Run();
    return std::unique_ptr<HttpServer>(new HttpServer(std::move(state)));
  } catch (const std::exception& error) {
    return MachineFailure("HTTP server", error.what());
  }
}

HttpServer::HttpServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
HttpServer::~HttpServer() { Stop(); }
uint16_t HttpServer::port() const { return state_->port(); }
HttpServerCounters HttpServer::counters() const { return state_->counters(); }
void HttpServer::Stop() { state_->Stop(); }

}  // namespace pavise::broker
