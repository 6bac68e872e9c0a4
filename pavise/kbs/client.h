#ifndef PAVISE_KBS_CLIENT_H_
#define PAVISE_KBS_CLIENT_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/crypto/keys.h"
#include "pavise/kbs/messages.h"
#include "pavise/kbs/resource_path.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::kbs {

inline constexpr size_t kMostBrokers = 16;

struct ClientOptions {
  // "https://host[:port]", "unix:/absolute/path" (HTTP without TLS, the socket's permissions guard
  // it), or with `allow_plain_loopback` "http://127.0.0.1:port", "http://[::1]:port". Or several of
  // them, separated by commas: brokers side by side on one store. The first is used until it cannot
  // be reached or does not answer, then the next, round and round. At most kMostBrokers.
  std::string base_url;
  // Whom each https server must be; exactly one of the two.
  std::string authority_file;  // PEM certificates of the authorities to trust; host name checked
  std::string
      server_certificate;  // hex SHA-256 of the server's certificate (DER): that one, no other
  bool allow_plain_loopback = false;
  absl::Duration connect_timeout = absl::Seconds(10);
  absl::Duration request_timeout = absl::Seconds(60);  // from the first byte sent to the last read
  uint64_t max_response_bytes = 16u << 20;
};

struct HttpResponse {
  int status = 0;
  std::string content_type;
  Bytes body;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// One connection to a broker, kept alive over requests and made anew when the server closed it. TLS
// 1.3 only. Where the next broker takes a dead one's place, it knows no session: its answers say so
// (kEvidenceMissing, kNonceMismatch), and the caller attests again. Keeps the session cookie
// (kbs-session-id) and no other. Not thread-safe.
class Client {
 public:
  // Connects to nothing yet. Usage errors: an option that makes no sense; refusals of reading the
  // authorities' file.
  static absl::StatusOr<Client> Create(const ClientOptions& options);
  ~Client();
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;

  // `target` is a path with optional query: printable ASCII without spaces. A body is sent as
  // application/json unless `headers` name another type. A request that was sent and not answered
  // is sent again only where `method` is GET. Any status is returned. kCertificateInvalid: not the
  // server that the options ask for (of several: none could be connected to, and one was another);
  // kLimitExceeded: a longer response; kMalformed: not HTTP.
  // Machine failures: no connection, connection lost, time over.
  absl::StatusOr<HttpResponse> Exchange(std::string_view method, std::string_view target,
                                        ByteSpan body = {}, const HttpHeaders& headers = {});
  // The same for a 2xx answer; any other is returned as its problem details say (StatusOf in
  // problem.h): the broker's reasons and remedies are this call's.
  absl::StatusOr<HttpResponse> Request(std::string_view method, std::string_view target,
                                       ByteSpan body = {}, const HttpHeaders& headers = {});
  // A 2xx answer's body as JSON.
  absl::StatusOr<Json> RequestJson(std::string_view method, std::string_view target,
                                   ByteSpan body = {}, const HttpHeaders& headers = {});

  // The session cookie's value, "" before auth. Setting it resumes a session.
  const std::string& session_id() const;
  absl::Status set_session_id(std::string_view session_id);

 private:
  struct State;
  explicit Client(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// One attested session: auth, attest, then resources. Borrows the client and the session key, which
// must outlive it. Not thread-safe.
class Session {
 public:
  Session(Client& client, const crypto::PrivateKey& key) : client_(client), key_(key) {}

  // Begins (or begins anew: re-attestation) and returns the challenge, whose nonce the evidence
  // must answer for public_key() of the session key.
  absl::StatusOr<Challenge> Auth(const AuthRequest& request);
  // Sends evidence that answers the last challenge: the JSON value of composite evidence for
  // Tee::kPavise. Returns the token. A usage error before Auth.
  absl::StatusOr<std::string> Attest(Json primary_evidence);
  // The secret, unwrapped with the session key. `binding`: what it must be bound to (for Pavise's
  // broker, ReleaseBinding). Refusals of the broker, and of DecryptJwe.
  absl::StatusOr<SecretBytes> Resource(const ResourcePath& path, std::string_view binding = {});

  const std::string& token() const { return token_; }  // "" before Attest

 private:
  Client& client_;
  const crypto::PrivateKey& key_;
  std::optional<Challenge> challenge_;
  std::string token_;
};

}  // namespace pavise::kbs

#endif  // PAVISE_KBS_CLIENT_H_
