#include "pavise/kbs/client.h"

#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <exception>
#include <utility>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwe.h"
#include "pavise/kbs/problem.h"

#include "boost/asio/connect.hpp"
#include "boost/asio/generic/stream_protocol.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/address.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/local/stream_protocol.hpp"
#include "boost/asio/ssl/context.hpp"
#include "boost/beast/core/basic_stream.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/http.hpp"
#include "boost/beast/http/span_body.hpp"
#include "boost/beast/http/vector_body.hpp"
#include "boost/beast/ssl/ssl_stream.hpp"

namespace pavise::kbs {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

using boost::system::error_code;
// One type for TCP and local sockets.
using Stream = beast::basic_stream<asio::generic::stream_protocol>;
using TlsStream = beast::ssl_stream<Stream>;
using Endpoint = asio::generic::stream_protocol::endpoint;

constexpr uint64_t kMaxAuthoritiesBytes = 1 << 20;
constexpr size_t kMaxHeaderBytes = 16 << 10;
constexpr std::string_view kUnixPrefix = "unix:";
constexpr std::string_view kHttpsPrefix = "https://";
constexpr std::string_view kHttpPrefix = "http://";

struct Target {
  enum class Kind { kTls, kPlain, kUnix } kind;
  std::string host;  // or the socket's path
  uint16_t port = 0;
  bool host_is_address = false;
  std::string authority;  // the Host header
  std::string url;
};

bool IsHostCharacter(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '.';
}

absl::StatusOr<Target> ParseBaseUrl(std::string_view url) {
  const auto refuse = [&](std::string_view detail) {
    return UsageError(StrCat("broker URL ", Printable(url), ": ", detail));
  };
  if (url.substr(0, kUnixPrefix.size()) == kUnixPrefix) {
    const std::string_view path = url.substr(kUnixPrefix.size());
    if (path.empty() || path.front() != '/') return refuse("not an absolute path");
    if (path.size() >= sizeof(sockaddr_un{}.sun_path)) return refuse("path too long");
    return Target{Target::Kind::kUnix, std::string(path), 0, false, "localhost", std::string(url)};
  }
  Target target{Target::Kind::kTls};
  target.url = url;
  std::string_view rest = url;
  if (rest.substr(0, kHttpsPrefix.size()) == kHttpsPrefix) {
    rest.remove_prefix(kHttpsPrefix.size());
    target.port = 443;
  } else if (rest.substr(0, kHttpPrefix.size()) == kHttpPrefix) {
    rest.remove_prefix(kHttpPrefix.size());
    target.kind = Target::Kind::kPlain;
    target.port = 80;
  } else {
    return refuse("not https://HOST[:PORT] or unix:/PATH");
  }
  if (!rest.empty() && rest.back() == '/') rest.remove_suffix(1);
  target.authority = rest;
  std::string_view port;
  if (!rest.empty() && rest.front() == '[') {
    const size_t end = rest.find(']');
    if (end == rest.npos) return refuse("no closing ]");
    target.host = rest.substr(1, end - 1);
    port = rest.substr(end + 1);
  } else {
    const size_t colon = std::min(rest.find(':'), rest.size());
    target.host = rest.substr(0, colon);
    port = rest.substr(colon);
    if (target.host.empty() || target.host.size() > 253 ||
        !std::all_of(target.host.begin(), target.host.end(), IsHostCharacter)) {
      return refuse("not a host name");
    }
  }
  if (!port.empty()) {
    const char* end = port.data() + port.size();
    const auto [parsed, error] = std::from_chars(port.data() + 1, end, target.port);
    if (port.front() != ':' || error != std::errc() || parsed != end || target.port == 0) {
      return refuse("not a port");
    }
  }
  error_code error;
  const asio::ip::address address = asio::ip::make_address(target.host, error);
  target.host_is_address = !error;
  if (rest.front() == '[' && !(target.host_is_address && address.is_v6())) {
    return refuse("not an IPv6 address");
  }
  if (target.kind == Target::Kind::kPlain && !(target.host_is_address && address.is_loopback())) {
    return refuse("plain HTTP goes to 127.0.0.1 or [::1] only");
  }
  return target;
}

// A comma before another scheme: one in a socket's path is of the path.
absl::StatusOr<std::vector<Target>> ParseBaseUrls(std::string_view urls) {
  std::vector<Target> targets;
  for (size_t begin = 0; begin <= urls.size();) {
    size_t end = urls.size();
    for (const std::string_view scheme : {kUnixPrefix, kHttpsPrefix, kHttpPrefix}) {
      end = std::min(end, urls.find(StrCat(",", scheme), begin));
    }
    PAVISE_ASSIGN_OR_RETURN(Target target, ParseBaseUrl(urls.substr(begin, end - begin)));
    targets.push_back(std::move(target));
    begin = end + 1;
  }
  if (targets.size() > kMostBrokers) return UsageError("too many brokers");
  for (const Target& target : targets) {
    if (target.kind != targets.front().kind) {
      return UsageError("brokers side by side: addresses of one kind");
    }
  }
  return targets;
}

bool IsToken(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

bool IsVisible(std::string_view text, char lowest) {
  return std::all_of(text.begin(), text.end(),
                     [lowest](char c) { return c >= lowest && c <= '~'; });
}

std::string ErrorText(const error_code& error) { return Printable(error.message()); }

}  // namespace

struct Client::State {
  ClientOptions options;
  std::vector<Target> targets;
  size_t current = 0;
  std::string session_id;
  asio::ssl::context tls{asio::ssl::context::tls_client};
  asio::io_context io;
  // Either of them while there is a connection.
  std::unique_ptr<TlsStream> tls_stream;
  std::unique_ptr<Stream> plain_stream;
  beast::flat_buffer buffer;

  const Target& target() const { return targets[current]; }
  const std::string& item() const { return target().url; }
  void TakeNext() { current = (current + 1) % targets.size(); }
  bool connected() const { return tls_stream != nullptr || plain_stream != nullptr; }
  Stream& lowest() { return tls_stream ? beast::get_lowest_layer(*tls_stream) : *plain_stream; }

  void Disconnect() {
    tls_stream.reset();
    plain_stream.reset();
    buffer.clear();
  }

  // Runs one asynchronous operation to its end: only those know deadlines.
  template <typename Start>
  error_code Run(Start start) {
    error_code result = asio::error::operation_aborted;
    start([&result](const error_code& error, auto&&...) { result = error; });
    io.restart();
    io.run();
    return result;
  }

  absl::Status ConfigureTls();
  absl::StatusOr<std::vector<Endpoint>> Resolve();
  // To the current broker, else to the next one that can be connected to.
  absl::Status Connect();
  absl::Status ConnectToCurrent();
  absl::Status Handshake();
  absl::Status CheckPinnedCertificate();
  bool LooksAlive();
  absl::StatusOr<HttpResponse> Send(http::verb verb, std::string_view method, std::string_view path,
                                    ByteSpan body, const HttpHeaders& headers, bool& unanswered);
  absl::Status ReadError(const error_code& error);
};

absl::Status Client::State::ConfigureTls() {
  SSL_CTX* native = tls.native_handle();
  if (SSL_CTX_set_min_proto_version(native, TLS1_3_VERSION) != 1) {
    return MachineFailure("TLS", "OpenSSL offers no TLS 1.3");
  }
  if (!options.server_certificate.empty()) {
    // Held against the certificate that it must be, after the handshake and before any request.
    SSL_CTX_set_verify(native, SSL_VERIFY_NONE, nullptr);
    return absl::OkStatus();
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes authorities,
                          ReadFile(options.authority_file, kMaxAuthoritiesBytes));
  error_code error;
  tls.add_certificate_authority(asio::buffer(authorities.data(), authorities.size()), error);
  const STACK_OF(X509_OBJECT)* trusted = X509_STORE_get0_objects(SSL_CTX_get_cert_store(native));
  if (error || sk_X509_OBJECT_num(trusted) == 0) {
    return Refuse(Reason::kMalformed, options.authority_file, "no PEM certificates",
                  "give the certificate of the authority that signed the broker's");
  }
  SSL_CTX_set_verify(native, SSL_VERIFY_PEER, nullptr);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Endpoint>> Client::State::Resolve() {
  if (target().kind == Target::Kind::kUnix) {
    return std::vector<Endpoint>{Endpoint(asio::local::stream_protocol::endpoint(target().host))};
  }
  // Bounded by the resolver's own time limits, not by ours.
  error_code error;
  asio::ip::tcp::resolver resolver(io);
  const auto found = resolver.resolve(target().host, std::to_string(target().port),
                                      asio::ip::tcp::resolver::numeric_service, error);
  if (error) return MachineFailure(item(), StrCat("name lookup: ", ErrorText(error)));
  std::vector<Endpoint> endpoints;
  for (const auto& entry : found) endpoints.emplace_back(entry.endpoint());
  return endpoints;
}

absl::Status Client::State::Connect() {
  absl::Status failed;
  for (size_t i = 0; i < targets.size(); ++i, TakeNext()) {
    const absl::Status connected = ConnectToCurrent();
    if (connected.ok()) return connected;
    // That one of them is somebody else is worth more than that another one is away.
    if (failed.ok() || !ReasonOf(failed).has_value()) failed = connected;
  }
  return failed;
}

absl::Status Client::State::ConnectToCurrent() {
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Endpoint> endpoints, Resolve());
  error_code error = asio::error::host_not_found;
  for (const Endpoint& endpoint : endpoints) {
    Disconnect();
    if (target().kind == Target::Kind::kTls) {
      tls_stream = std::make_unique<TlsStream>(io, tls);
    } else {
      plain_stream = std::make_unique<Stream>(io);
    }
    lowest().expires_after(absl::ToChronoNanoseconds(options.connect_timeout));
    error = Run([&](auto handler) { lowest().async_connect(endpoint, std::move(handler)); });
    if (!error) break;
  }
  if (error) {
    Disconnect();
    return MachineFailure(item(), StrCat("no connection: ", ErrorText(error)));
  }
  if (target().kind != Target::Kind::kTls) return absl::OkStatus();
  const absl::Status secured = Handshake();
  if (!secured.ok()) Disconnect();
  return secured;
}

absl::Status Client::State::Handshake() {
  SSL* native = tls_stream->native_handle();
  const Target& host = target();
  if (!host.host_is_address && SSL_set_tlsext_host_name(native, host.host.c_str()) != 1) {
    return MachineFailure(item(), "cannot name the host in the handshake");
  }
  X509_VERIFY_PARAM* checks = SSL_get0_param(native);
  X509_VERIFY_PARAM_set_hostflags(checks, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  const int named = host.host_is_address
                        ? X509_VERIFY_PARAM_set1_ip_asc(checks, host.host.c_str())
                        : X509_VERIFY_PARAM_set1_host(checks, host.host.data(), host.host.size());
  if (named != 1) return MachineFailure(item(), "cannot check the host's name");
  const error_code error = Run([&](auto handler) {
    tls_stream->async_handshake(asio::ssl::stream_base::client, std::move(handler));
  });
  if (!error) return CheckPinnedCertificate();
  const long verdict = SSL_get_verify_result(native);
  if (options.server_certificate.empty() && verdict != X509_V_OK) {
    return Refuse(Reason::kCertificateInvalid, item(),
                  StrCat("the server's certificate: ", X509_verify_cert_error_string(verdict)),
                  "give the authority that signed it, or its own SHA-256");
  }
  if (error.category() == asio::error::get_ssl_category()) {
    return Refuse(Reason::kUnsupported, item(), StrCat("TLS 1.3 handshake: ", ErrorText(error)),
                  "the server must speak TLS 1.3");
  }
  return MachineFailure(item(), StrCat("TLS handshake: ", ErrorText(error)));
}

absl::Status Client::State::CheckPinnedCertificate() {
  if (options.server_certificate.empty()) return absl::OkStatus();
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(
      SSL_get1_peer_certificate(tls_stream->native_handle()), X509_free);
  const int size_bytes = certificate ? i2d_X509(certificate.get(), nullptr) : 0;
  if (size_bytes <= 0) return MachineFailure(item(), "no certificate from the server");
  Bytes der(static_cast<size_t>(size_bytes));
  uint8_t* end = der.data();
  i2d_X509(certificate.get(), &end);
  PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, crypto::Sha256(der));
  if (ToHex(digest) == options.server_certificate) return absl::OkStatus();
  return Refuse(
      Reason::kCertificateInvalid, item(),
      StrCat("the server's certificate is ", ToHex(digest), ", not ", options.server_certificate),
      "if the broker's owner changed it, ask them for the new one's SHA-256");
}

// An idle connection on which something arrived was closed, or is out of step.
bool Client::State::LooksAlive() {
  uint8_t byte = 0;
  const ssize_t got =
      recv(lowest().socket().native_handle(), &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT);
  return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) && buffer.size() == 0;
}

absl::Status Client::State::ReadError(const error_code& error) {
  if (error == http::error::body_limit || error == http::error::header_limit ||
      error == http::error::buffer_overflow) {
    return Refuse(Reason::kLimitExceeded, item(),
                  StrCat("an answer over ", HumanBytes(options.max_response_bytes)));
  }
  if (error == beast::error::timeout) {
    return MachineFailure(
        item(), StrCat("no answer within ", absl::FormatDuration(options.request_timeout)));
  }
  if (error.category() == make_error_code(http::error::bad_version).category() &&
      error != http::error::end_of_stream && error != http::error::partial_message) {
    return Refuse(Reason::kMalformed, item(), StrCat("not an HTTP answer: ", ErrorText(error)));
  }
  return MachineFailure(item(), StrCat("connection lost: ", ErrorText(error)));
}

absl::StatusOr<HttpResponse> Client::State::Send(http::verb verb, std::string_view method,
                                                 std::string_view path, ByteSpan body,
                                                 const HttpHeaders& headers, bool& unanswered) {
  const auto to_beast = [](std::string_view text) {
    return beast::string_view(text.data(), text.size());
  };
  http::request<http::span_body<const uint8_t>> request;
  request.version(11);
  if (verb == http::verb::unknown) {
    request.method_string(to_beast(method));
  } else {
    request.method(verb);
  }
  request.target(to_beast(path));
  request.set(http::field::host, to_beast(target().authority));
  request.set(http::field::user_agent, "pavise/" PAVISE_VERSION);
  request.set(http::field::accept, "application/json");
  if (!session_id.empty()) {
    request.set(http::field::cookie, to_beast(StrCat(kSessionCookie, "=", session_id)));
  }
  if (!body.empty()) {
    request.body() = beast::span<const uint8_t>(body.data(), body.size());
    request.set(http::field::content_type, "application/json");
  }
  for (const auto& [name, value] : headers) request.set(to_beast(name), to_beast(value));
  request.prepare_payload();

  lowest().expires_after(absl::ToChronoNanoseconds(options.request_timeout));
  error_code error = Run([&](auto handler) {
    if (tls_stream) {
      http::async_write(*tls_stream, request, std::move(handler));
    } else {
      http::async_write(*plain_stream, request, std::move(handler));
    }
  });
  // A server that refuses the rest of a body may have said why already.
  const error_code write_error = error;
  http::response_parser<http::vector_body<uint8_t>> parser;
  parser.body_limit(options.max_response_bytes);
  parser.header_limit(kMaxHeaderBytes);
  // In two steps: Beast 1.74 forgets that a Content-Length is over the limit where the body follows
  // in the same buffer.
  const auto read = [&](auto start) {
    return Run([&](auto handler) {
      if (tls_stream) {
        start(*tls_stream, std::move(handler));
      } else {
        start(*plain_stream, std::move(handler));
      }
    });
  };
  error = read([&](auto& stream, auto handler) {
    http::async_read_header(stream, buffer, parser, std::move(handler));
  });
  unanswered = !parser.got_some();
  if (error) return ReadError(write_error && unanswered ? write_error : error);
  const int status = static_cast<int>(parser.get().result_int());
  // Without a length, an answer that was cut short would look whole.
  if (!parser.is_done() && !parser.chunked() && !parser.content_length().has_value()) {
    return Refuse(Reason::kMalformed, item(), "an answer that does not say its length");
  }
  error = read([&](auto& stream, auto handler) {
    http::async_read(stream, buffer, parser, std::move(handler));
  });
  if (error) return ReadError(error);
  const auto& message = parser.get();
  const auto [first, last] = message.equal_range(http::field::set_cookie);
  for (auto cookie = first; cookie != last; ++cookie) {
    PAVISE_ASSIGN_OR_RETURN(
        const std::string id,
        SessionIdOfCookie({cookie->value().data(), cookie->value().size()}, "Set-Cookie"));
    if (!id.empty()) session_id = id;
  }
  const auto type = message[http::field::content_type];
  HttpResponse response{status, {type.data(), type.size()}, {}};
  const bool keep = message.keep_alive() && !write_error;
  response.body = std::move(parser.get().body());
  if (!keep) Disconnect();
  return response;
}

absl::StatusOr<Client> Client::Create(const ClientOptions& options) {
  try {
    auto state = std::make_unique<State>();
    state->options = options;
    PAVISE_ASSIGN_OR_RETURN(state->targets, ParseBaseUrls(options.base_url));
    const bool authority = !options.authority_file.empty();
    const bool pinned = !options.server_certificate.empty();
    switch (state->target().kind) {
      case Target::Kind::kPlain:
        if (!options.allow_plain_loopback) {
          return UsageError("plain HTTP to the broker was not asked for");
        }
        [[fallthrough]];
      case Target::Kind::kUnix:
        if (authority || pinned) return UsageError("no certificate where there is no TLS");
        break;
      case Target::Kind::kTls:
        if (authority == pinned) {
          return UsageError(
              "give the broker's authority or its certificate's SHA-256, one of both");
        }
        if (pinned) {
          const auto digest = Digest32FromHex(options.server_certificate, "certificate");
          if (!digest.ok()) return UsageError("the certificate's SHA-256 is 64 hexadecimal digits");
          state->options.server_certificate = ToHex(*digest);
        }
        PAVISE_RETURN_IF_ERROR(state->ConfigureTls());
        break;
    }
    return Client(std::move(state));
  } catch (const std::exception& error) {
    return MachineFailure(options.base_url, error.what());
  }
}

Client::Client(std::unique_ptr<State> state) : state_(std::move(state)) {}
Client::~Client() = default;
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;

absl::StatusOr<HttpResponse> Client::Exchange(std::string_view method, std::string_view target,
                                              ByteSpan body, const HttpHeaders& headers) {
  if (!IsToken(method) || target.empty() || target.front() != '/' || !IsVisible(target, '!')) {
    return UsageError("a request's method and path are visible ASCII");
  }
  for (const auto& [name, value] : headers) {
    if (!IsToken(name) || !IsVisible(value, ' ')) {
      return UsageError(StrCat("header ", Printable(name), " cannot be sent"));
    }
  }
  State& state = *state_;
  try {
    const http::verb verb = http::string_to_verb({method.data(), method.size()});
    // At most one more attempt: over a connection of its own, where the old one turned out closed.
    for (bool reused = state.connected() && state.LooksAlive();; reused = false) {
      if (!reused) PAVISE_RETURN_IF_ERROR(state.Connect());
      bool unanswered = false;
      auto response = state.Send(verb, method, target, body, headers, unanswered);
      if (response.ok()) return response;
      state.Disconnect();
      const bool has_failed = response.status().code() == absl::StatusCode::kInternal;
      const bool again = reused && unanswered && verb == http::verb::get && has_failed;
      // It took the connection and does not answer on it.
      if (!reused && has_failed) state.TakeNext();
      if (!again) return response;
    }
  } catch (const std::exception& error) {
    state.Disconnect();
    return MachineFailure(state.item(), error.what());
  }
}

absl::StatusOr<HttpResponse> Client::Request(std::string_view method, std::string_view target,
                                             ByteSpan body, const HttpHeaders& headers) {
  PAVISE_ASSIGN_OR_RETURN(HttpResponse response, Exchange(method, target, body, headers));
  if (response.status >= 200 && response.status < 300) return response;
  auto problem = ParseProblem(response.body, response.status, "problem details");
  if (!problem.ok()) problem = Problem{response.status, "", "", "", {}};
  return StatusOf(*problem, StrCat(method, " ", target));
}

absl::StatusOr<Json> Client::RequestJson(std::string_view method, std::string_view target,
                                         ByteSpan body, const HttpHeaders& headers) {
  PAVISE_ASSIGN_OR_RETURN(const HttpResponse response, Request(method, target, body, headers));
  return ParseJson(response.body, StrCat(method, " ", target),
                   {.max_bytes = state_->options.max_response_bytes});
}

const std::string& Client::session_id() const { return state_->session_id; }

absl::Status Client::set_session_id(std::string_view session_id) {
  PAVISE_ASSIGN_OR_RETURN(const std::string id,
                          SessionIdOfCookie(StrCat(kSessionCookie, "=", session_id), "session id"));
  if (id != session_id) return Refuse(Reason::kMalformed, "session id", "not one session id");
  state_->session_id = id;
  return absl::OkStatus();
}

absl::StatusOr<Challenge> Session::Auth(const AuthRequest& request) {
  challenge_.reset();
  token_.clear();
  PAVISE_ASSIGN_OR_RETURN(const HttpResponse response,
                          client_.Request("POST", kAuthPath, AsBytes(FormatAuthRequest(request))));
  PAVISE_ASSIGN_OR_RETURN(challenge_, ParseChallenge(response.body, "challenge"));
  return *challenge_;
}

absl::StatusOr<std::string> Session::Attest(Json primary_evidence) {
  if (!challenge_.has_value()) return UsageError("evidence answers a challenge: call Auth first");
  PAVISE_ASSIGN_OR_RETURN(RuntimeData runtime_data,
                          MakeRuntimeData(challenge_->nonce, key_.public_key()));
  challenge_.reset();  // a nonce is good once
  const Attestation attestation{std::move(runtime_data), std::move(primary_evidence), "", {}};
  const std::string body = FormatAttestation(attestation);
  PAVISE_ASSIGN_OR_RETURN(const HttpResponse response,
                          client_.Request("POST", kAttestPath, AsBytes(body)));
  PAVISE_ASSIGN_OR_RETURN(token_, ParseTokenResponse(response.body, "token"));
  return token_;
}

absl::StatusOr<SecretBytes> Session::Resource(const ResourcePath& path, std::string_view binding) {
  PAVISE_ASSIGN_OR_RETURN(const std::string name, FormatResourcePath(path));
  PAVISE_ASSIGN_OR_RETURN(const Json message,
                          client_.RequestJson("GET", StrCat(kResourcePrefix, name)));
  return crypto::DecryptJwe(message, key_, StrCat("resource ", name), AsBytes(binding));
}

}  // namespace pavise::kbs
