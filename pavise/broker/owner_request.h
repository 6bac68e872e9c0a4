#ifndef PAVISE_BROKER_OWNER_REQUEST_H_
#define PAVISE_BROKER_OWNER_REQUEST_H_

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/random.h"
#include "pavise/crypto/keys.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

// Owners' calls are authenticated by signatures: docs/formats/broker_api.md, "Signed requests".
namespace pavise::broker {

inline constexpr std::string_view kRequestType = "application/vnd.pavise.request+json";
inline constexpr std::string_view kRequestHeader = "pavise-request";
// Between the times of owner and broker, in either direction.
inline constexpr absl::Duration kRequestWindow = absl::Seconds(120);

// The call that a signature is for.
struct OwnerCall {
  std::string_view broker;  // key id of the broker's signing key
  std::string_view method;
  std::string_view target;  // path, and query with its "?"
  ByteSpan body;
};

// The header's value for a call made `at`.
absl::StatusOr<std::string> SignOwnerCall(const OwnerCall& call, absl::Time at,
                                          RandomSource& random, crypto::Signer& signer);

struct VerifiedOwnerCall {
  crypto::PublicKey key;
  std::string key_id;
  std::string request_id;
  absl::Time time;
};
// That whoever holds `key` signed exactly this call. Whether they may make it, whether its time is
// right and whether it came before is for others. kMalformed, kLimitExceeded, kUnsupported,
// kSignatureInvalid, kKeyMismatch, kKeyUnsupported; kBindingMismatch: for another call or broker.
absl::StatusOr<VerifiedOwnerCall> VerifyOwnerCall(std::string_view header, const OwnerCall& call);

// kPlatformInsecure: what a broker says whose clock is behind its ledger's newest entry by more
// than the window.
absl::Status ClockBehindLedger(absl::Time newest, absl::Time now);

// Which requests were taken. Thread-safe. Bounded: what is older than the window is forgotten,
// since its time says enough.
class RequestMemory {
 public:
  // `start`: requests from before it are not taken.
  explicit RequestMemory(absl::Time start) : start_(start) {}
  // kPolicyDenied: too old or from the future; kNonceMismatch: taken before; kLimitExceeded: too
  // many in one window; as ClockBehindLedger.
  absl::Status Take(const VerifiedOwnerCall& call, absl::Time now);

 private:
  static constexpr size_t kMostRequests = 200'000;
  static constexpr size_t kMostRequestsOfKey = 10'000;  // so that one owner leaves room for others
  const absl::Time start_;
  std::mutex mutex_;
  std::set<std::string> taken_;
  std::map<std::string, size_t> of_key_;
  std::deque<std::pair<absl::Time, std::string>> order_;  // by when they were taken
};

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_OWNER_REQUEST_H_
