#ifndef PAVISE_BROKER_HTTP_SERVER_H_
#define PAVISE_BROKER_HTTP_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "pavise/broker/http.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::broker {

// Where clients come from, and what each of them may take. A client, a peer, is an address; of IPv6
// the 64 bits of its network. The defaults suit a broker.
struct HttpServerOptions {
  // Exactly one of the two. `address`: an IP address and a port, "127.0.0.1:8080", "[::1]:0"; port
  // 0 is chosen by the system. `unix_socket`: a path; its file is made with mode 0660, and a file
  // that is there is replaced only if it is a socket that nobody listens on.
  std::string address;
  std::string unix_socket;
  // PEM: the server's chain, leaf first, and its key. TLS 1.3 and nothing older. Without them HTTP
  // in the clear, which is a usage error on an address that is not a loopback one.
  std::string certificate_file;
  std::string private_key_file;

  unsigned io_threads = 1;
  // Each holds one request at a time; they wait for the store, so that there are more than CPUs.
  unsigned worker_threads = 64;
  uint32_t max_connections = 4096;
  uint32_t max_connections_per_peer = 256;  // not counted over a unix socket
  uint32_t max_header_bytes = 16u << 10;
  // Of bodies that are being read or handled, as far as they have arrived: all connections
  // together, and those of one peer (not over a unix socket). Bodies up to 64 KiB do not count. A
  // request beyond it gets status 503.
  uint64_t max_body_bytes_in_flight = 512u << 20;
  uint64_t max_body_bytes_per_peer = 128u << 20;
  // The longest body of a route; a longer one gets 413 before any of it is read. nullptr: 1 MiB.
  std::function<uint64_t(std::string_view method, std::string_view path)> body_limit;

  // A client that takes longer is closed: for the TLS handshake and a request's header together,
  // for a body (plus a second for each 64 KiB of it that have arrived), to take a response (plus a
  // second for each 64 KiB of it), and between requests.
  absl::Duration header_deadline = absl::Seconds(10);
  absl::Duration body_deadline = absl::Seconds(10);
  absl::Duration write_deadline = absl::Seconds(10);
  absl::Duration idle_deadline = absl::Seconds(60);
  // How long Stop waits for requests in flight.
  absl::Duration stop_deadline = absl::Seconds(10);
};

// Since the start.
struct HttpServerCounters {
  uint64_t connections = 0;  // accepted
  uint64_t refused = 0;      // closed at once: too many, of one peer or all together
  uint64_t requests = 0;     // handed to the handler
  uint64_t malformed = 0;    // answered by the server itself with a status of 4xx or 503
  uint64_t timed_out = 0;    // closed at a deadline
  uint32_t open = 0;         // now
};

// An HTTP/1.1 server. A request must have a Content-Length where it has a body: chunked bodies get
// status 411, so that two readers can never disagree about where a request ends. Requests on one
// connection are answered one after the other, pipelined ones in order. A header that is there
// twice, a path that does not begin with "/" and HTTP/1.0 get 400. A handler that throws gives 500
// with no detail.
class HttpServer {
 public:
  // Listens when it returns. Usage errors: options that contradict each other; refusals for files
  // that cannot be read or do not parse (kFileUnreadable, kMalformed, kKeyMismatch: the key is not
  // the certificate's); machine failure: the address is taken.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options,
                                                           HttpHandler handler);
  // As Stop.
  ~HttpServer();

  // 0 over a unix socket.
  uint16_t port() const;
  HttpServerCounters counters() const;
  // Takes no more connections, closes idle ones, finishes requests in flight (their connections
  // close after the response), and closes what is left at the deadline. Waits for handlers that
  // run. Idempotent; from one thread.
  void Stop();

 private:
  class State;
  explicit HttpServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_HTTP_SERVER_H_
