#ifndef PAVISE_BROKER_SERVICE_H_
#define PAVISE_BROKER_SERVICE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/clock.h"
#include "pavise/base/json.h"
#include "pavise/base/random.h"
#include "pavise/broker/broker_keys.h"
#include "pavise/broker/http.h"
#include "pavise/broker/metrics.h"
#include "pavise/broker/store.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/appraise/composite/composite_evidence.h"
#include "pavise/evidence/appraise/machine/recorded_tee.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::broker {

// Collects evidence of the machine that the broker runs on. Called by one thread at a time.
class BrokerAttester {
 public:
  virtual ~BrokerAttester() = default;
  virtual absl::StatusOr<evidence::CompositeEvidence> Collect(
      const Digest32& nonce, const crypto::PublicKey& encryption_key) = 0;
};

// Everything that is not a null pointer outlives the service.
struct ServiceOptions {
  Store* store = nullptr;
  const Clock* clock = nullptr;        // nullptr: SystemClock()
  RandomSource* random = nullptr;      // nullptr: SystemRandom()
  BrokerAttester* attester = nullptr;  // nullptr: this broker cannot attest itself
  Metrics* metrics = nullptr;          // nullptr: nothing is counted
  // One event a call. Holds no secrets, no bodies and nothing that a client can choose at length.
  // Called by any thread.
  std::function<void(const OrderedJson&)> log;
  // Key ids of those who may bring a first version of an agreement; empty: anybody.
  std::set<std::string> proposers;
  uint64_t max_evidence_bytes = 32u << 20;
  size_t max_challenges = 65'536;
  size_t max_sessions = 4'096;
  absl::Duration challenge_lifetime = absl::Minutes(5);
  // Statements of one agreement that are taken, ever: by one key, and by all. Withdrawals of
  // consent are taken beyond it.
  size_t statements_of_key = 1'000;
  size_t statements_of_agreement = 4'000;
  // Refused attestations and releases of one agreement and peer that are answered in a minute;
  // beyond it 429, and nothing is looked at.
  uint32_t refusals_a_minute = 60;
  // Refusals that get a ledger entry and a decision of their own in an hour: of one source (a peer,
  // or a stakeholder), and of one agreement. Of the others an entry says how many they were.
  uint32_t refusals_recorded_of_source = 10;
  uint32_t refusals_recorded_of_agreement = 30;
  // New agreements that one key may ever bring, and one peer in an hour. Not where `proposers` says
  // who may.
  size_t agreements_of_key = 100;
  uint32_t agreements_an_hour = 20;
  // Of an agreement's attachments, until one of its versions is in force.
  uint64_t proposed_attachment_bytes = 64u << 20;
  const evidence::RecordedTee* recorded_tee = nullptr;  // tests' alone
};

// The broker behind its HTTP server: requests in, responses out, no sockets
// (docs/formats/broker_api.md). A key leaves only in a response that is made after the transaction
// that holds the decision, the run's counters and the ledger entry is durable. Time is the clock's,
// but never before the newest entry's: a clock that is set back revives nothing. Thread-safe.
class Service {
 public:
  // A new broker's keys and its first ledger entry. kPolicyDenied: there is one already.
  static absl::Status Initialize(const ServiceOptions& options, const std::string& name);
  // A new key for that use, and a ledger entry of it; for a broker that is not running.
  static absl::StatusOr<RotatedKey> Rotate(const ServiceOptions& options, BrokerKeyUse use);

  // Reads the keys and appends a ledger entry of the start. kFileMissing: not initialized.
  static absl::StatusOr<std::unique_ptr<Service>> Create(const ServiceOptions& options);
  ~Service();

  // Never throws, never fails: what goes wrong is in the response.
  HttpResponse Handle(const HttpRequest& request);
  // For HttpServerOptions::body_limit.
  uint64_t BodyLimit(std::string_view method, std::string_view path) const;
  // Brings gauges up to date.
  void UpdateMetrics();

  const BrokerKeys& keys() const;

 private:
  class State;
  explicit Service(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// What the JWE of a deposit or an output is bound to, so that nobody can pass another's off as
// theirs: `additional` of crypto::EncryptJwe. `depositor`: key id of who signs the deposit. Without
// it, an asset's next owner could sign again what the one before had encrypted.
std::string DepositBinding(std::string_view agreement, std::string_view asset,
                           const Digest32& sealed, std::string_view depositor);
std::string OutputBinding(std::string_view run, std::string_view output, const Digest32& sealed);

// The nonce of the evidence by which a broker answers an owner's `challenge`. It holds the keys
// that the evidence's session key says nothing of: `signing` (the token key's id) and `ledger` (the
// note key's text), so that owners know whose checkpoints and whose tokens they see.
absl::StatusOr<Digest32> BrokerEvidenceNonce(const Digest32& challenge, std::string_view signing,
                                             std::string_view ledger);

// For programs that serve, before they start threads: what a request's evidence took in memory (a
// megabyte or two) stays with the process for the next one, where the C library would give it back
// to the kernel and take it again page by page. At most 8 MiB for each of the library's arenas, of
// which it makes up to 8 for each CPU. Changes the whole process; without effect but for glibc.
void KeepRequestMemory();

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_SERVICE_H_
