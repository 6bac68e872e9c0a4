#ifndef PAVISE_AGENT_REMOTE_FILE_H_
#define PAVISE_AGENT_REMOTE_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Sealed files on a server, for machines without disks of their own: http[s]://HOST[:PORT]/PATH,
// HTTP/1.1 (RFC 9112). Neither the server nor the network is trusted with anything: what is fetched
// is authentic by its own format or not used, and what is sent is sealed or signed. TLS keeps a URL
// that is a secret itself from others on the way, with the authorities that this machine knows. No
// redirects, no proxies. A connection that rests for 60 seconds is given up.
//
// A URL that is none is a usage error, a server that answers with anything but 2xx a refusal
// (kFileMissing), as is one whose certificate is not good (kCertificateInvalid); one that does not
// answer is a machine failure. Any thread.
namespace pavise::agent {

inline constexpr uint64_t kMostRemoteTextBytes = 4096;

// Whether `name` is such a URL rather than a file.
bool IsRemote(std::string_view name);

// Writes the answer's body to the new file `path`, piece by piece, as far as there is room.
absl::Status FetchFile(const std::string& url, const std::string& path);
// A short text. kLimitExceeded: over kMostRemoteTextBytes.
absl::StatusOr<std::string> FetchText(const std::string& url);
// Send with PUT.
absl::Status PutFile(const std::string& path, const std::string& url);
absl::Status PutText(std::string_view text, const std::string& url);

}  // namespace pavise::agent

#endif  // PAVISE_AGENT_REMOTE_FILE_H_
