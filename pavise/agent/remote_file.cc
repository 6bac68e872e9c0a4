#include "pavise/agent/remote_file.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <limits>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "boost/beast/http.hpp"

namespace pavise::agent {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

using boost::system::error_code;

constexpr std::string_view kScheme = "http://";
constexpr std::chrono::seconds kMostRest{60};
constexpr uint32_t kMaxHeaderBytes = 16 << 10;

struct Place {
  std::string authority;  // the Host header
  std::string host;
  std::string port;
  std::string target;
};

absl::StatusOr<Place> ParseUrl(const std::string& url) {
  const auto refuse = [&] {
    return UsageError(StrCat(Printable(url), ": not http://HOST[:PORT]/PATH"));
  };
  if (!IsRemote(url) || std::any_of(url.begin(), url.end(), [](char c) {
        return c <= ' ' || c > '~' || c == '#' || c == '@';
      })) {
    return refuse();
  }
  const size_t path = url.find('/', kScheme.size());
  if (path == std::string::npos) return refuse();
  Place place;
  place.authority = url.substr(kScheme.size(), path - kScheme.size());
  place.target = url.substr(path);
  const size_t colon = std::min(place.authority.find(':'), place.authority.size());
  place.host = place.authority.substr(0, colon);
  place.port = colon < place.authority.size() ? place.authority.substr(colon + 1) : "80";
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
      const error_code error = Wait(
          [&](auto handler) { http::async_write_some(stream_, serializer, std::move(handler)); });
      if (error) return Lost(error);
    }
    answer.header_limit(kMaxHeaderBytes);
    beast::flat_buffer buffer;
    error_code error = Wait([&](auto handler) {
      http::async_read_header(stream_, buffer, answer, std::move(handler));
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
      error = Wait([&](auto handler) {
        http::async_read_some(stream_, buffer, answer, std::move(handler));
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
    error = Wait([&](auto handler) { stream_.async_connect(found, std::move(handler)); });
    return error ? Lost(error) : absl::OkStatus();
  }
  // One asynchronous operation to its end: only those know deadlines.
  template <typename Start>
  error_code Wait(Start start) {
    error_code result = asio::error::operation_aborted;
    stream_.expires_after(kMostRest);
    start([&result](const error_code& error, auto&&...) { result = error; });
    io_.restart();
    io_.run();
    return result;
  }
  absl::Status Lost(const error_code& error) const {
    if (error == http::error::body_limit || error == http::error::header_limit) {
      return Refuse(Reason::kLimitExceeded, url_, "an answer that is too long");
    }
    return MachineFailure(url_, Printable(error.message()));
  }

  const std::string url_;
  asio::io_context io_;
  beast::tcp_stream stream_{io_};
};

template <typename Body>
absl::Status Put(http::request<Body>& request, const std::string& url) {
  request.method(http::verb::put);
  http::response_parser<http::string_body> answer;
  answer.body_limit(kMostRemoteTextBytes);
  return Exchange(url).Run(request, answer);
}

}  // namespace

bool IsRemote(std::string_view name) { return absl::StartsWith(ToAbsl(name), ToAbsl(kScheme)); }

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
