#include "pavise/agent/internal/destination_proxy.h"

#include <errno.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <chrono>
#include <exception>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"

namespace pavise::agent::internal {
namespace {

constexpr uint32_t kMostConnections = 64;
constexpr size_t kMostHeadBytes = 8192;
constexpr time_t kSetupSeconds = 10;
constexpr std::chrono::milliseconds kPause(50);
constexpr std::string_view kEnd = "\r\n\r\n";
constexpr std::string_view kOk = "HTTP/1.1 200 OK\r\n\r\n";
constexpr std::string_view kForbidden = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
constexpr std::string_view kNotAllowed =
    "HTTP/1.1 405 Method Not Allowed\r\nAllow: CONNECT\r\nContent-Length: 0\r\n\r\n";
constexpr std::string_view kBadGateway = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";

// For a socket's next calls; 0: as long as they take.
void LimitTime(int socket, time_t seconds) {
  const timeval limit = {seconds, 0};
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

bool SendAll(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return true;
}

// Up to the end of a request's head, and what came behind it. nullopt: too long, or gone.
std::optional<std::string> ReadHead(int socket) {
  std::string head;
  std::array<char, 1024> buffer;
  while (head.find(kEnd) == std::string::npos) {
    const ssize_t count = recv(socket, buffer.data(), buffer.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0 || head.size() + static_cast<size_t>(count) > kMostHeadBytes)
      return std::nullopt;
    head.append(buffer.data(), static_cast<size_t>(count));
  }
  return head;
}

// "host:port" of the request, in lower case; nullopt: no CONNECT.
std::optional<std::string> DestinationOf(std::string_view head) {
  absl::string_view line(head.data(), head.find("\r\n"));
  if (!absl::ConsumePrefix(&line, "CONNECT ") || !absl::ConsumeSuffix(&line, " HTTP/1.1")) {
    return std::nullopt;
  }
  return absl::AsciiStrToLower(line);
}

FileDescriptor ConnectTo(const std::string& destination) {
  const size_t colon = destination.rfind(':');
  std::string host = destination.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), destination.c_str() + colon + 1, &hints, &found) != 0) return {};
  FileDescriptor connected;
  for (const addrinfo* each = found; each != nullptr && !connected.is_open();
       each = each->ai_next) {
    FileDescriptor attempt(socket(each->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!attempt.is_open()) continue;
    LimitTime(attempt.get(), kSetupSeconds);  // of connect(2), too
    if (connect(attempt.get(), each->ai_addr, each->ai_addrlen) == 0) {
      connected = std::move(attempt);
    }
  }
  freeaddrinfo(found);
  return connected;
}

// Until one side ends or is shut down.
void Carry(int from, int to) {
  std::array<char, 16384> buffer;
  while (true) {
    const ssize_t count = recv(from, buffer.data(), buffer.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0 || !SendAll(to, {buffer.data(), static_cast<size_t>(count)})) break;
  }
  shutdown(to, SHUT_WR);
}

}  // namespace

// A socket that the destructor can shut down, so that nobody waits on it.
class DestinationProxy::Registered {
 public:
  Registered(DestinationProxy& proxy, FileDescriptor socket)
      : proxy_(proxy), socket_(std::move(socket)) {
    const std::scoped_lock lock(proxy_.mutex_);
    if (!socket_.is_open()) return;
    proxy_.open_.insert(socket_.get());
    if (proxy_.stopping_) shutdown(socket_.get(), SHUT_RDWR);
  }
  ~Registered() {
    const std::scoped_lock lock(proxy_.mutex_);
    proxy_.open_.erase(socket_.get());
  }
  Registered(const Registered&) = delete;
  Registered& operator=(const Registered&) = delete;
  bool is_open() const { return socket_.is_open(); }
  int get() const { return socket_.get(); }

 private:
  DestinationProxy& proxy_;
  const FileDescriptor socket_;
};

DestinationProxy::DestinationProxy(FileDescriptor listener, std::set<std::string> destinations)
    : listener_(std::move(listener)),
      destinations_(std::move(destinations)),
      acceptor_([this] { Accept(); }) {}

DestinationProxy::~DestinationProxy() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
    shutdown(listener_.get(), SHUT_RDWR);
    for (const int socket : open_) shutdown(socket, SHUT_RDWR);
  }
  acceptor_.join();
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [this] { return serving_ == 0; });
}

void DestinationProxy::Accept() {
  while (true) {
    FileDescriptor client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    std::unique_lock lock(mutex_);
    if (stopping_) return;
    if (!client.is_open()) {
      // Out of descriptors, mostly: connections that end give some back.
      ended_.wait_for(lock, kPause);
      continue;
    }
    if (serving_ == kMostConnections) continue;
    try {
      ++serving_;
      std::thread([this, socket = std::move(client)]() mutable {
        Serve(std::move(socket));
      }).detach();
    } catch (const std::exception&) {
      --serving_;
    }
  }
}

void DestinationProxy::Serve(FileDescriptor socket) {
  const auto serve = [&](const Registered& client) {
    LimitTime(client.get(), kSetupSeconds);
    const std::optional<std::string> head = ReadHead(client.get());
    if (!head.has_value()) return;
    const std::optional<std::string> destination = DestinationOf(*head);
    if (!destination.has_value() || !destinations_.contains(*destination)) {
      SendAll(client.get(), destination.has_value() ? kForbidden : kNotAllowed);
      return;
    }
    const Registered server(*this, ConnectTo(*destination));
    if (!server.is_open()) {
      SendAll(client.get(), kBadGateway);
      return;
    }
    const std::string_view behind = std::string_view(*head).substr(head->find(kEnd) + kEnd.size());
    if (!SendAll(client.get(), kOk) || !SendAll(server.get(), behind)) return;
    LimitTime(client.get(), 0);
    LimitTime(server.get(), 0);
    std::thread back([&] { Carry(server.get(), client.get()); });
    Carry(client.get(), server.get());
    back.join();
  };
  try {
    const Registered client(*this, std::move(socket));
    serve(client);
  } catch (const std::exception&) {
    // No memory or no thread for one connection: it is closed.
  }
  const std::scoped_lock lock(mutex_);
  --serving_;
  ended_.notify_all();
}

}  // namespace pavise::agent::internal
