#include "pavise/agent/remote_file.h"

#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <limits>
#include <memory>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/address.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/ssl/context.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "boost/beast/http.hpp"
#include "boost/beast/ssl/ssl_stream.hpp"

namespace pavise::agent {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

using boost::system::error_code;

using TlsStream = beast::ssl_stream<beast::tcp_stream>;

constexpr std::string_view kPlainScheme = "http://";
constexpr std::string_view kTlsScheme = "https://";
constexpr std::chrono::seconds kMostRest{60};
constexpr uint32_t kMaxHeaderBytes = 16 << 10;

struct Place {
  bool tls = false;
  std::string authority;  // the Host header
  std::string host;
  std::string port;
  std::string target;
};

absl::StatusOr<Place> ParseUrl(const std::string& url) {
  const auto refuse = [&] {
    return UsageError(StrCat(Printable(url), ": not http[s]://HOST[:PORT]/PATH"));
  };
  if (!IsRemote(url) || std::any_of(url.begin(), url.end(), [](char c) {
        return c <= ' ' || c > '~' || c == '#' || c == '@';
      })) {
    return refuse();
  }
  Place place;
  place.tls = absl::StartsWith(url, ToAbsl(kTlsScheme));
  const size_t begin = (place.tls ? kTlsScheme : kPlainScheme).size();
  const size_t path = url.find('/', begin);
  if (path == std::string::npos) return refuse();
  place.authority = url.substr(begin, path - begin);
  place.target = url.substr(path);
  const size_t colon = std::min(place.authority.find(':'), place.authority.size());
  place.host = place.authority.substr(0, colon);
  place.port = colon < place.authority.size() ? place.authority.substr(colon + 1)
               : place.tls                    ? "443"
                                              : "80";
  uint32_t port = 0;
  if (place.host.empty() || !absl::SimpleAtoi(place.port, &port) || port == 0 || port > 65535) {
    return refuse();
  }
  return place;
}

// One request and its answer, over a connection of their own.
class Exchange {
 public:
  explicit Exchange(const std::string& url) : url_(url) {}

  template <typename Request, typename Answer>
  absl::Status Run(http::request<Request>& request, http::response_parser<Answer>& answer) {
    PAVISE_ASSIGN_OR_RETURN(const Place place, ParseUrl(url_));
    request.version(11);
    request.target(place.target);
    request.set(http::field::host, place.authority);
    request.set(http::field::user_agent, "pavise/" PAVISE_VERSION);
    request.prepare_payload();
    PAVISE_RETURN_IF_ERROR(Connect(place));
    http::request_serializer<Request> serializer(request);
    while (!serializer.is_done()) {
      const error_code error = Wait([&](auto& stream, auto handler) {
        http::async_write_some(stream, serializer, std::move(handler));
      });
      if (error) return Lost(error);
    }
    answer.header_limit(kMaxHeaderBytes);
    beast::flat_buffer buffer;
    error_code error = Wait([&](auto& stream, auto handler) {
      http::async_read_header(stream, buffer, answer, std::move(handler));
    });
    if (error) return Lost(error);
    const int status = static_cast<int>(answer.get().result_int());
    if (status < 200 || status > 299) {
      return Refuse(Reason::kFileMissing, url_, StrCat("the server answers with status ", status),
                    "have it served there");
    }
    // Without a length, an answer that was cut short would look whole.
    if (!answer.is_done() && !answer.chunked() && !answer.content_length().has_value()) {
      return Refuse(Reason::kMalformed, url_, "an answer that does not say its length");
    }
    while (!answer.is_done()) {
      error = Wait([&](auto& stream, auto handler) {
        http::async_read_some(stream, buffer, answer, std::move(handler));
      });
      if (error) return Lost(error);
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Connect(const Place& place) {
    error_code error;
    asio::ip::tcp::resolver resolver(io_);
    const auto found = resolver.resolve(place.host, place.port, error);
    if (error) return Lost(error);
    if (place.tls) PAVISE_RETURN_IF_ERROR(PrepareTls(place.host));
    error = WaitFor([&](auto handler) { lowest().async_connect(found, std::move(handler)); });
    if (error) return Lost(error);
    if (!place.tls) return absl::OkStatus();
    error = WaitFor([&](auto handler) {
      tls_stream_->async_handshake(asio::ssl::stream_base::client, std::move(handler));
    });
    const long verdict = SSL_get_verify_result(tls_stream_->native_handle());
    if (verdict != X509_V_OK) {
      return Refuse(Reason::kCertificateInvalid, url_,
                    StrCat("the server's certificate: ", X509_verify_cert_error_string(verdict)),
                    "have this machine know its authority, or use http://");
    }
    return error ? Lost(error) : absl::OkStatus();
  }
  // Certificates of the authorities that this machine knows: whatever they are worth, no more rests
  // on them than the secrecy of the URL.
  absl::Status PrepareTls(const std::string& host) {
    error_code error;
    tls_.set_default_verify_paths(error);
    tls_.set_verify_mode(asio::ssl::verify_peer, error);
    X509_VERIFY_PARAM* checks = SSL_CTX_get0_param(tls_.native_handle());
    error_code no_address;
    asio::ip::make_address(host, no_address);
    const int named = no_address ? X509_VERIFY_PARAM_set1_host(checks, host.data(), host.size())
                                 : X509_VERIFY_PARAM_set1_ip_asc(checks, host.c_str());
    tls_stream_ = std::make_unique<TlsStream>(io_, tls_);
    if (error || named != 1 ||
        SSL_set_min_proto_version(tls_stream_->native_handle(), TLS1_2_VERSION) != 1 ||
        (no_address && SSL_set_tlsext_host_name(tls_stream_->native_handle(), host.c_str()) != 1)) {
      return MachineFailure(url_, "TLS cannot be set up");
    }
    return absl::OkStatus();
  }
  beast::tcp_stream& lowest() {
    return tls_stream_ ? beast::get_lowest_layer(*tls_stream_) : plain_stream_;
  }
  // One asynchronous operation to its end: only those know deadlines.
  template <typename Start>
  error_code WaitFor(Start start) {
    error_code result = asio::error::operation_aborted;
    lowest().expires_after(kMostRest);
    start([&result](const error_code& error, auto&&...) { result = error; });
    io_.restart();
    io_.run();
    return result;
  }
  template <typename Start>
  error_code Wait(Start start) {
    return WaitFor([&](auto handler) {
      if (tls_stream_) {
        start(*tls_stream_, std::move(handler));
      } else {
        start(plain_stream_, std::move(handler));
      }
    });
  }
  absl::Status Lost(const error_code& error) const {
    if (error == http::error::body_limit || error == http::error::header_limit) {
      return Refuse(Reason::kLimitExceeded, url_, "an answer that is too long");
    }
    return MachineFailure(url_, Printable(error.message()));
  }

  const std::string url_;
  asio::io_context io_;
  asio::ssl::context tls_{asio::ssl::context::tls_client};
  beast::tcp_stream plain_stream_{io_};
  std::unique_ptr<TlsStream> tls_stream_;  // in its place
};

template <typename Body>
absl::Status Put(http::request<Body>& request, const std::string& url) {
  request.method(http::verb::put);
  http::response_parser<http::string_body> answer;
  answer.body_limit(kMostRemoteTextBytes);
  return Exchange(url).Run(request, answer);
}

}  // namespace

bool IsRemote(std::string_view name) {
  return absl::StartsWith(ToAbsl(name), ToAbsl(kPlainScheme)) ||
         absl::StartsWith(ToAbsl(name), ToAbsl(kTlsScheme));
}

absl::Status FetchFile(const std::string& url, const std::string& path) {
  try {
    http::request<http::empty_body> request;
    request.method(http::verb::get);
    http::response_parser<http::file_body> answer;
    // Not none, which Beast 1.74 takes for less than any length.
    answer.body_limit(std::numeric_limits<uint64_t>::max());
    error_code error;
    answer.get().body().open(path.c_str(), beast::file_mode::write_new, error);
    if (error) return MachineFailure(path, Printable(error.message()));
    return Exchange(url).Run(request, answer);
  } catch (const std::exception& error) {
    return MachineFailure(url, error.what());
  }
}

absl::StatusOr<std::string> FetchText(const std::string& url) {
  try {
    http::request<http::empty_body> request;
    request.method(http::verb::get);
    http::response_parser<http::string_body> answer;
    answer.body_limit(kMostRemoteTextBytes);
    PAVISE_RETURN_IF_ERROR(Exchange(url).Run(request, answer));
    return std::move(answer.get().body());
  } catch (const std::exception& error) {
    return MachineFailure(url, error.what());
  }
}

absl::Status PutFile(const std::string& path, const std::string& url) {
  try {
    http::request<http::file_body> request;
    error_code error;
    request.body().open(path.c_str(), beast::file_mode::scan, error);
    if (error) return MachineFailure(path, Printable(error.message()));
    return Put(request, url);
  } catch (const std::exception& error) {
    return MachineFailure(url, error.what());
  }
}

absl::Status PutText(std::string_view text, const std::string& url) {
  try {
    http::request<http::string_body> request;
    request.body() = text;
    return Put(request, url);
  } catch (const std::exception& error) {
    return MachineFailure(url, error.what());
  }
}

}  // namespace pavise::agent
