#include "pavise/broker/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/testing/test_certificates.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::broker {
namespace {

using ::pavise::testing::TemporaryDirectory;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

// A client that sends what it is told, well-formed or not. A server that keeps silent for 20 s ends
// the reading, and with it the test.
class RawClient {
 public:
  // `from`: the last byte of its own address, 127.0.0.from.
  explicit RawClient(uint16_t port, uint32_t from = 1)
      : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    struct sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + from);
    EXPECT_EQ(bind(socket_.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)),
              0);
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    Connect(reinterpret_cast<struct sockaddr*>(&address), sizeof(address));
  }
  explicit RawClient(const std::string& path)
      : socket_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    struct sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    Connect(reinterpret_cast<struct sockaddr*>(&address), sizeof(address));
  }

  int descriptor() const { return socket_.get(); }
  bool Send(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t count = send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (count <= 0) return false;
      text.remove_prefix(static_cast<size_t>(count));
    }
    return true;
  }
  // Until the server closes.
  std::string ReadAll() const {
    std::string text;
    char buffer[4096];
    ssize_t count = 0;
    while ((count = recv(socket_.get(), buffer, sizeof(buffer), 0)) > 0) {
      text.append(buffer, static_cast<size_t>(count));
    }
    if (count < 0 && errno == EAGAIN) ADD_FAILURE() << "the server neither answers nor closes";
    return text;
  }
  // Until `end` was read.
  std::string ReadUntil(std::string_view end) const {
    std::string text;
    char c = 0;
    while (text.find(end) == std::string::npos && recv(socket_.get(), &c, 1, 0) == 1) text += c;
    return text;
  }
  std::string Ask(std::string_view request) const {
    EXPECT_TRUE(Send(request));
    return ReadAll();
  }

 private:
  void Connect(const struct sockaddr* address, socklen_t size) {
    const struct timeval timeout = {20, 0};
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    EXPECT_EQ(connect(socket_.get(), address, size), 0);
  }
  FileDescriptor socket_;
};

HttpResponse Echo(const HttpRequest& request) {
  HttpResponse response;
  response.content_type = "text/plain";
  response.body = StrCat(request.method, " ", request.path, "?", request.query, " [", request.body,
                         "] from ", request.peer);
  return response;
}

HttpServerOptions Loopback() {
  HttpServerOptions options;
  options.address = "127.0.0.1:0";
  options.worker_threads = 4;
  return options;
}

std::unique_ptr<HttpServer> StartServer(const HttpServerOptions& options,
                                        HttpHandler handler = Echo) {
  auto server = HttpServer::Start(options, std::move(handler));
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

std::string Get(std::string_view path) {
  return StrCat("GET ", path, " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
}

TEST(HttpServerTest, AnswersAndCloses) {
  const auto server = StartServer(Loopback());
  const std::string answer = RawClient(server->port()).Ask(Get("/a/b?c=d"));
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("\r\n\r\nGET /a/b?c=d [] from 127.0.0.1"));
  EXPECT_THAT(answer, HasSubstr("Cache-Control: no-store"));
  EXPECT_EQ(server->counters().requests, 1u);
  EXPECT_EQ(server->counters().malformed, 0u);
}

TEST(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  const auto server = StartServer(Loopback());
  std::string requests;
  for (int i = 0; i < 20; ++i) {
    StrAppend(&requests, "POST /", i, " HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nb", i % 10);
  }
  const std::string answer = RawClient(server->port()).Ask(requests + Get("/last"));
  size_t at = 0;
  for (int i = 0; i < 20; ++i) {
    at = answer.find(StrCat("POST /", i, "? [b", i % 10, "]"), at);
    ASSERT_NE(at, std::string::npos) << i;
  }
  EXPECT_NE(answer.find("GET /last?", at), std::string::npos);
  EXPECT_EQ(server->counters().requests, 21u);
  EXPECT_EQ(server->counters().connections, 1u);
}

TEST(HttpServerTest, SendsGoOnWhereTheClientWaitsForIt) {
  const auto server = StartServer(Loopback());
  const RawClient client(server->port());
  ASSERT_TRUE(
      client.Send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
                  "Connection: close\r\n\r\n"));
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_THAT(client.Ask("ab"), HasSubstr("[ab]"));
}

TEST(HttpServerTest, RefusesWhatIsNotARequest) {
  const struct {
    std::string request;
    int status;
  } kCases[] = {
      {"hello\r\n\r\n", 400},
      {"GET / HTTP/1.0\r\n\r\n", 400},
      {"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 400},
      {"GET a HTTP/1.1\r\nHost: h\r\n\r\n", 400},
      {"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: h\r\nHOST: g\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 411},
      {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 411},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1048577\r\n\r\n", 413},
      {StrCat("GET / HTTP/1.1\r\nHost: ", std::string(20'000, 'h'), "\r\n\r\n"), 431},
      {"BREW / HTTP/1.1\r\nHost: h\r\n\r\n", 501},
      {"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", 501},
  };
  const auto server = StartServer(Loopback());
  for (const auto& each : kCases) {
    const std::string answer = RawClient(server->port()).Ask(each.request);
    EXPECT_THAT(answer, StartsWith(StrCat("HTTP/1.1 ", each.status, " ")))
        << each.request.substr(0, 80);
    EXPECT_THAT(answer, HasSubstr("application/problem+json"));
  }
  EXPECT_EQ(server->counters().requests, 0u);
  EXPECT_EQ(server->counters().malformed, std::size(kCases));
}

TEST(HttpServerTest, BodiesHaveALimitARouteAndAllTogether) {
  HttpServerOptions options = Loopback();
  options.body_limit = [](std::string_view, std::string_view path) -> uint64_t {
    return path == "/large" ? 200'000 : 10;
  };
  options.max_body_bytes_in_flight = 150'000;
  const auto server = StartServer(options);
  const auto post = [&](std::string_view path, size_t size) {
    return RawClient(server->port())
        .Ask(StrCat("POST ", path, " HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: ",
                    size, "\r\n\r\n", std::string(size, 'x')));
  };
  EXPECT_THAT(post("/small", 10), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(post("/small", 11), StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(post("/large", 140'000), StartsWith("HTTP/1.1 200 "));
  // Twice: the first is given back.
  EXPECT_THAT(post("/large", 140'000), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(post("/large", 160'000), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(post("/large", 200'001), StartsWith("HTTP/1.1 413 "));
}

std::string Large(size_t size) {
  return StrCat("POST /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: ", size,
                "\r\n\r\n");
}

// A body that is announced and does not come holds no room that another's could have.
TEST(HttpServerTest, AnnouncedBodiesHoldNoMemory) {
  HttpServerOptions options = Loopback();
  options.body_limit = [](std::string_view, std::string_view) -> uint64_t { return 200'000; };
  options.max_body_bytes_in_flight = 200'000;
  const auto server = StartServer(options);
  std::vector<std::unique_ptr<RawClient>> announcing;
  for (int i = 0; i < 20; ++i) {
    announcing.push_back(std::make_unique<RawClient>(server->port()));
    // The answer shows that the announcement was read.
    ASSERT_TRUE(announcing.back()->Send(
        "POST /large HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\nExpect: 100-continue"
        "\r\n\r\n"));
    ASSERT_THAT(announcing.back()->ReadUntil("\r\n\r\n"), HasSubstr("100 Continue"));
  }
  EXPECT_THAT(RawClient(server->port()).Ask(StrCat(Large(200'000), std::string(200'000, 'x'))),
              StartsWith("HTTP/1.1 200 "));
}

TEST(HttpServerTest, OnePeerDoesNotHoldAllMemoryForBodies) {
  HttpServerOptions options = Loopback();
  options.body_limit = [](std::string_view, std::string_view) -> uint64_t { return 200'000; };
  options.max_body_bytes_in_flight = 300'000;
  options.max_body_bytes_per_peer = 200'000;
  std::mutex mutex;
  std::condition_variable changed;
  bool entered = false;
  bool go_on = false;
  const auto server = StartServer(options, [&](const HttpRequest& request) {
    if (request.peer == "127.0.0.1") {
      std::unique_lock lock(mutex);
      entered = true;
      changed.notify_all();
      changed.wait(lock, [&] { return go_on; });
    }
    return Echo(request);
  });
  const auto post = [&](uint32_t from, size_t size) {
    return RawClient(server->port(), from).Ask(StrCat(Large(size), std::string(size, 'x')));
  };
  const RawClient greedy(server->port());
  ASSERT_TRUE(greedy.Send(StrCat(Large(150'000), std::string(150'000, 'x'))));
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return entered; });
  }
  EXPECT_THAT(post(1, 100'000), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(post(2, 100'000), StartsWith("HTTP/1.1 200 "));
  // All together.
  EXPECT_THAT(post(2, 160'000), StartsWith("HTTP/1.1 503 "));
  {
    const std::scoped_lock lock(mutex);
    go_on = true;
  }
  changed.notify_all();
  EXPECT_THAT(greedy.ReadAll(), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(post(1, 200'000), StartsWith("HTTP/1.1 200 "));
}

// What was announced buys no time: at this pace 20 MB would take days.
TEST(HttpServerTest, ClosesWhoSendsALargeBodySlowly) {
  HttpServerOptions options = Loopback();
  options.body_limit = [](std::string_view, std::string_view) -> uint64_t { return 20'000'000; };
  options.body_deadline = absl::Milliseconds(200);
  const auto server = StartServer(options);
  const RawClient dripping(server->port());
  ASSERT_TRUE(dripping.Send(Large(20'000'000)));
  for (int i = 0; i < 200 && dripping.Send("a"); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_THAT(dripping.ReadAll(), IsEmpty());
  EXPECT_EQ(server->counters().timed_out, 1u);
  EXPECT_EQ(server->counters().requests, 0u);
}

TEST(HttpServerTest, ClosesClientsThatTakeTooLong) {
  HttpServerOptions options = Loopback();
  options.header_deadline = absl::Milliseconds(200);
  options.body_deadline = absl::Milliseconds(200);
  options.idle_deadline = absl::Milliseconds(200);
  const auto server = StartServer(options);
  // Nothing at all, half a header, half a body, and nothing after a request.
  EXPECT_THAT(RawClient(server->port()).ReadAll(), IsEmpty());
  EXPECT_THAT(RawClient(server->port()).Ask("GET / HTTP/1.1\r\nHost"), IsEmpty());
  EXPECT_THAT(
      RawClient(server->port()).Ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc"),
      IsEmpty());
  EXPECT_THAT(RawClient(server->port()).Ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
              StartsWith("HTTP/1.1 200 "));
  // A byte now and then does not move the deadline.
  const RawClient dripping(server->port());
  for (int i = 0; i < 200 && dripping.Send("a"); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  dripping.ReadAll();
  EXPECT_EQ(server->counters().timed_out, 5u);
  EXPECT_EQ(server->counters().requests, 1u);
}

TEST(HttpServerTest, HundredsOfSilentClientsDoNotKeepOthersOut) {
  HttpServerOptions options = Loopback();
  options.max_connections = 2000;
  options.max_connections_per_peer = 2000;
  const auto server = StartServer(options);
  std::vector<std::unique_ptr<RawClient>> silent;
  for (int i = 0; i < 400; ++i) {
    silent.push_back(std::make_unique<RawClient>(server->port()));
    ASSERT_TRUE(silent.back()->Send(i % 2 == 0 ? "" : "GET / HTTP/1.1\r\nX: "));
  }
  EXPECT_THAT(RawClient(server->port()).Ask(Get("/")), StartsWith("HTTP/1.1 200 "));
}

TEST(HttpServerTest, ConnectionsAreLimitedAPeerAndAllTogether) {
  for (const bool per_peer : {true, false}) {
    HttpServerOptions options = Loopback();
    (per_peer ? options.max_connections_per_peer : options.max_connections) = 3;
    const auto server = StartServer(options);
    std::vector<std::unique_ptr<RawClient>> held;
    for (int i = 0; i < 3; ++i) {
      held.push_back(std::make_unique<RawClient>(server->port()));
      ASSERT_TRUE(held.back()->Send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n"));
      EXPECT_THAT(held.back()->ReadUntil("/held"), Not(IsEmpty()));
    }
    RawClient turned_away(server->port());
    turned_away.Send(Get("/"));
    EXPECT_THAT(turned_away.ReadAll(), IsEmpty());
    EXPECT_EQ(server->counters().refused, 1u);
    held.pop_back();
    // The server notices when it reads.
    for (int i = 0; i < 1000 && server->counters().open == 3; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_THAT(RawClient(server->port()).Ask(Get("/")), StartsWith("HTTP/1.1 200 "));
  }
}

TEST(HttpServerTest, AHandlerThatThrowsSaysNothingOfWhy) {
  const auto server = StartServer(
      Loopback(), [](const HttpRequest&) -> HttpResponse { throw std::runtime_error("canary"); });
  const std::string answer = RawClient(server->port()).Ask(Get("/"));
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 500 "));
  EXPECT_THAT(answer, Not(HasSubstr("canary")));
}

TEST(HttpServerTest, StopFinishesWhatIsInFlight) {
  std::mutex mutex;
  std::condition_variable changed;
  bool entered = false;
  bool go_on = false;
  const auto server = StartServer(Loopback(), [&](const HttpRequest& request) {
    std::unique_lock lock(mutex);
    entered = true;
    changed.notify_all();
    changed.wait(lock, [&] { return go_on; });
    return Echo(request);
  });
  const RawClient working(server->port());
  const RawClient idle(server->port());
  ASSERT_TRUE(working.Send("GET /working HTTP/1.1\r\nHost: h\r\n\r\n"));
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return entered; });
  }
  std::thread stopping([&] { server->Stop(); });
  EXPECT_THAT(idle.ReadAll(), IsEmpty());
  {
    const std::scoped_lock lock(mutex);
    go_on = true;
    changed.notify_all();
  }
  const std::string answer = working.ReadAll();
  stopping.join();
  EXPECT_THAT(answer, HasSubstr("/working"));
  EXPECT_THAT(answer, HasSubstr("Connection: close"));
  EXPECT_EQ(server->counters().open, 0u);
}

TEST(HttpServerTest, StopDoesNotWaitForASlowClient) {
  HttpServerOptions options = Loopback();
  options.stop_deadline = absl::Milliseconds(100);
  const auto server = StartServer(options);
  const RawClient slow(server->port());
  ASSERT_TRUE(slow.Send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nab"));
  EXPECT_THAT(RawClient(server->port()).Ask(Get("/")), StartsWith("HTTP/1.1 200 "));
  server->Stop();
  slow.ReadAll();
  EXPECT_EQ(server->counters().open, 0u);
}

TEST(HttpServerTest, ServesAUnixSocket) {
  const TemporaryDirectory directory;
  HttpServerOptions options;
  options.unix_socket = directory / "broker.sock";
  {
    const auto server = StartServer(options);
    EXPECT_THAT(RawClient(options.unix_socket).Ask(Get("/u")), HasSubstr("GET /u"));
    // Another server does not take a socket that is in use.
    EXPECT_EQ(ExitCodeOf(HttpServer::Start(options, Echo).status()), 3);
  }
  EXPECT_NE(access(options.unix_socket.c_str(), F_OK), 0);
  // Nor a file that is no socket.
  directory.Write("broker.sock", "precious");
  EXPECT_EQ(ExitCodeOf(HttpServer::Start(options, Echo).status()), 3);
  EXPECT_EQ(pavise::testing::ContentOf(options.unix_socket), "precious");
}

struct TlsFiles {
  TlsFiles() {
    crypto::testing::CertificateOptions options;
    options.subject_alternative_name = "DNS:localhost,IP:127.0.0.1";
    options.extended_key_usage = "serverAuth";
    const crypto::testing::TestCertificate server = crypto::testing::MakeRoot(options);
    certificate = directory.Write("server.pem", crypto::testing::ChainPem({server.certificate}));
    key = directory.Write("server.key", server.key.ToPem(SecretBytes())->RevealText());
  }
  TemporaryDirectory directory;
  std::string certificate;
  std::string key;
};

// "" where the handshake fails.
std::string AskOverTls(uint16_t port, int version, std::string_view request) {
  const RawClient client(port);
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()),
                                                                  SSL_CTX_free);
  SSL_CTX_set_max_proto_version(context.get(), version);
  const std::unique_ptr<SSL, decltype(&SSL_free)> tls(SSL_new(context.get()), SSL_free);
  SSL_set_fd(tls.get(), client.descriptor());
  if (SSL_connect(tls.get()) != 1) return "";
  SSL_write(tls.get(), request.data(), static_cast<int>(request.size()));
  std::string answer;
  char buffer[4096];
  int count = 0;
  while ((count = SSL_read(tls.get(), buffer, sizeof(buffer))) > 0) {
    answer.append(buffer, static_cast<size_t>(count));
  }
  return answer;
}

TEST(HttpServerTest, SpeaksTls13AndNothingOlder) {
  const TlsFiles files;
  HttpServerOptions options = Loopback();
  options.certificate_file = files.certificate;
  options.private_key_file = files.key;
  options.header_deadline = absl::Milliseconds(500);
  const auto server = StartServer(options);
  EXPECT_THAT(AskOverTls(server->port(), TLS1_3_VERSION, Get("/tls")), HasSubstr("GET /tls"));
  EXPECT_THAT(AskOverTls(server->port(), TLS1_3_VERSION, "nonsense\r\n\r\n"),
              StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(AskOverTls(server->port(), TLS1_2_VERSION, Get("/tls")), IsEmpty());
  EXPECT_THAT(RawClient(server->port()).Ask(Get("/plain")), Not(HasSubstr("200 OK")));
  // No handshake at all.
  EXPECT_THAT(RawClient(server->port()).ReadAll(), IsEmpty());
  EXPECT_EQ(server->counters().requests, 1u);
}

TEST(HttpServerTest, RefusesOptionsThatDoNotGoTogether) {
  const TlsFiles files;
  const TlsFiles others;
  const auto status = [](auto change) {
    HttpServerOptions options = Loopback();
    change(options);
    return HttpServer::Start(options, Echo).status();
  };
  EXPECT_TRUE(status([](HttpServerOptions&) {}).ok());
  EXPECT_EQ(ExitCodeOf(status([](auto& options) { options.address = ""; })), 2);
  EXPECT_EQ(ExitCodeOf(status([](auto& options) { options.address = "localhost:1"; })), 2);
  EXPECT_EQ(ExitCodeOf(status([](auto& options) { options.address = "127.0.0.1"; })), 2);
  EXPECT_EQ(ExitCodeOf(status([](auto& options) { options.address = "127.0.0.1:65536"; })), 2);
  EXPECT_EQ(ExitCodeOf(status([](auto& options) { options.unix_socket = "/s"; })), 2);
  // In the clear for everybody.
  EXPECT_EQ(ExitCodeOf(status([](auto& options) { options.address = "0.0.0.0:0"; })), 2);
  EXPECT_EQ(ExitCodeOf(status([&](auto& o) { o.certificate_file = files.certificate; })), 2);
  const auto tls = [&](const std::string& certificate, const std::string& key) {
    return ReasonOf(status([&](auto& options) {
      options.certificate_file = certificate;
      options.private_key_file = key;
    }));
  };
  EXPECT_EQ(tls(files.certificate, files.key), std::nullopt);
  EXPECT_EQ(tls(files.certificate, "/nowhere"), Reason::kFileUnreadable);
  EXPECT_EQ(tls("/nowhere", files.key), Reason::kFileUnreadable);
  EXPECT_EQ(tls(files.key, files.key), Reason::kMalformed);
  EXPECT_EQ(tls(files.certificate, files.certificate), Reason::kMalformed);
  EXPECT_EQ(tls(files.certificate, others.key), Reason::kKeyMismatch);
}

}  // namespace
}  // namespace pavise::broker
