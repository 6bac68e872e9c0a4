#ifndef PAVISE_KBS_TESTING_TEST_SERVER_H_
#define PAVISE_KBS_TESTING_TEST_SERVER_H_

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "pavise/crypto/testing/test_certificates.h"

namespace pavise::kbs::testing {

// An HTTP server for tests of clients: one connection at a time, answers as bytes, so that it can
// misbehave. On a free port of 127.0.0.1, with or without TLS, or on a unix socket.
class TestServer {
 public:
  struct Request {
    int connection = 0;  // counted from 1
    std::string method;
    std::string target;
    std::map<std::string, std::string> headers;  // names in lower case
    std::string body;
  };
  // The bytes to send. "" closes the connection without an answer; kSilence keeps it open without
  // one, until the client goes. After an answer with "Connection: close" the server closes.
  using Handler = std::function<std::string(const Request&)>;
  static constexpr std::string_view kSilence = "silence";

  struct Options {
    const crypto::testing::TestCertificate* certificate = nullptr;  // nullptr: no TLS
    bool only_tls_1_2 = false;
    std::string unix_path;  // "": TCP
  };

  // Aborts where it cannot listen.
  TestServer(const Options& options, Handler handler);
  ~TestServer();
  TestServer(const TestServer&) = delete;
  TestServer& operator=(const TestServer&) = delete;

  int port() const { return port_; }
  // What arrived so far.
  std::vector<Request> requests();

 private:
  struct Tls;
  void Serve();
  void ServeConnection(int socket, int number);

  Handler handler_;
  int listener_ = -1;
  int port_ = 0;
  std::unique_ptr<Tls> tls_;
  std::mutex mutex_;
  std::vector<Request> requests_;  // guarded by mutex_
  std::thread thread_;
};

// "HTTP/1.1 200 OK" with a length and these headers ("A: b\r\n" each).
std::string HttpAnswer(int status, std::string_view body, std::string_view headers = "");

}  // namespace pavise::kbs::testing

#endif  // PAVISE_KBS_TESTING_TEST_SERVER_H_
