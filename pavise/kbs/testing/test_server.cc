#include "pavise/kbs/testing/test_server.h"

#include <arpa/inet.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "pavise/base/secret_bytes.h"
#include "pavise/base/strings.h"

namespace pavise::kbs::testing {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

// A connection's bytes, in the clear or not.
class Channel {
 public:
  Channel(int socket, SSL* ssl) : socket_(socket), ssl_(ssl) {}
  // False at the end of the connection.
  bool Read(std::string& into) {
    char buffer[16384];
    const long got = ssl_ != nullptr ? SSL_read(ssl_, buffer, sizeof(buffer))
                                     : recv(socket_, buffer, sizeof(buffer), 0);
    if (got <= 0) return false;
    into.append(buffer, static_cast<size_t>(got));
    return true;
  }
  void Write(std::string_view text) {
    while (!text.empty()) {
      const long sent = ssl_ != nullptr
                            ? SSL_write(ssl_, text.data(), static_cast<int>(text.size()))
                            : send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      text.remove_prefix(static_cast<size_t>(sent));
    }
  }

 private:
  int socket_;
  SSL* ssl_;
};

std::string_view NextLine(std::string_view& text) {
  const size_t end = text.find("\r\n");
  Require(end != text.npos);
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end + 2);
  return line;
}

// Takes one request off the front of `buffer`; false when the connection ended before.
bool ReadRequest(Channel& channel, std::string& buffer, TestServer::Request& request) {
  size_t head_size;
  while ((head_size = buffer.find("\r\n\r\n")) == buffer.npos) {
    if (!channel.Read(buffer)) return false;
  }
  const std::string head = buffer.substr(0, head_size + 2);
  buffer.erase(0, head_size + 4);
  std::string_view rest = head;
  const std::string_view first = NextLine(rest);
  const size_t space = first.find(' ');
  request.method = first.substr(0, space);
  request.target = first.substr(space + 1, first.rfind(' ') - space - 1);
  while (!rest.empty()) {
    const std::string_view line = NextLine(rest);
    const size_t colon = line.find(": ");
    std::string name(line.substr(0, colon));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    request.headers[name] = line.substr(colon + 2);
  }
  const auto length = request.headers.find("content-length");
  const size_t size = length == request.headers.end() ? 0 : std::stoul(length->second);
  while (buffer.size() < size) {
    if (!channel.Read(buffer)) return false;
  }
  request.body = buffer.substr(0, size);
  buffer.erase(0, size);
  return true;
}

}  // namespace

struct TestServer::Tls {
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context{SSL_CTX_new(TLS_server_method()),
                                                            SSL_CTX_free};
};

TestServer::TestServer(const Options& options, Handler handler) : handler_(std::move(handler)) {
  if (options.certificate != nullptr) {
    tls_ = std::make_unique<Tls>();
    SSL_CTX* context = tls_->context.get();
    const std::string certificate = options.certificate->certificate.ToPem();
    const SecretBytes key = options.certificate->key.ToPem(SecretBytes()).value();
    const std::unique_ptr<BIO, decltype(&BIO_free)> certificate_bio(
        BIO_new_mem_buf(certificate.data(), static_cast<int>(certificate.size())), BIO_free);
    const std::unique_ptr<BIO, decltype(&BIO_free)> key_bio(
        BIO_new_mem_buf(key.Reveal().data(), static_cast<int>(key.size_bytes())), BIO_free);
    const std::unique_ptr<X509, decltype(&X509_free)> x509(
        PEM_read_bio_X509(certificate_bio.get(), nullptr, nullptr, nullptr), X509_free);
    const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> native_key(
        PEM_read_bio_PrivateKey(key_bio.get(), nullptr, nullptr, nullptr), EVP_PKEY_free);
    Require(SSL_CTX_use_certificate(context, x509.get()) == 1);
    Require(SSL_CTX_use_PrivateKey(context, native_key.get()) == 1);
    if (options.only_tls_1_2) SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION);
    std::signal(SIGPIPE, SIG_IGN);  // OpenSSL writes to the socket itself
  }
  if (options.unix_path.empty()) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    Require(bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0);
    Require(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port_ = ntohs(address.sin_port);
  } else {
    listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    Require(options.unix_path.size() < sizeof(address.sun_path));
    std::memcpy(address.sun_path, options.unix_path.data(), options.unix_path.size());
    Require(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  }
  Require(listen(listener_, 16) == 0);
  thread_ = std::thread([this] { Serve(); });
}

TestServer::~TestServer() {
  shutdown(listener_, SHUT_RDWR);
  thread_.join();
  close(listener_);
}

std::vector<TestServer::Request> TestServer::requests() {
  const std::lock_guard lock(mutex_);
  return requests_;
}

void TestServer::Serve() {
  for (int number = 1;; ++number) {
    const int connection = accept(listener_, nullptr, nullptr);
    if (connection < 0) return;
    ServeConnection(connection, number);
    close(connection);
  }
}

void TestServer::ServeConnection(int socket, int number) {
  std::unique_ptr<SSL, decltype(&SSL_free)> ssl(nullptr, SSL_free);
  if (tls_ != nullptr) {
    ssl.reset(SSL_new(tls_->context.get()));
    SSL_set_fd(ssl.get(), socket);
    if (SSL_accept(ssl.get()) != 1) return;
  }
  Channel channel(socket, ssl.get());
  std::string buffer;
  for (;;) {
    Request request;
    request.connection = number;
    if (!ReadRequest(channel, buffer, request)) return;
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    const std::string answer = handler_(request);
    if (answer.empty()) return;
    if (answer == kSilence) {
      while (channel.Read(buffer)) {
      }
      return;
    }
    channel.Write(answer);
    if (answer.find("Connection: close") != answer.npos) return;
  }
}

std::string HttpAnswer(int status, std::string_view body, std::string_view headers) {
  return StrCat("HTTP/1.1 ", status, " Answer\r\nContent-Length: ", body.size(), "\r\n", headers,
                "\r\n", body);
}

}  // namespace pavise::kbs::testing
