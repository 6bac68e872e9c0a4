#ifndef PAVISE_BROKER_HTTP_H_
#define PAVISE_BROKER_HTTP_H_

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

// Requests and responses as the broker's handlers see them: values, no sockets.
namespace pavise::broker {

struct HttpRequest {
  std::string method;  // "GET", "POST"
  std::string path;    // as sent, from the first "/", without the query; not decoded
  std::string query;   // without "?"
  std::map<std::string, std::string> headers;  // names in lower case; each at most once
  std::string body;
  // The client's address, without its port; of IPv6 its network of 64 bits, "2001:db8::/64". ""
  // over a unix socket.
  std::string peer;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
};

// Called on any of the server's worker threads, several at a time. May block.
using HttpHandler = std::function<HttpResponse(const HttpRequest&)>;

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_HTTP_H_
