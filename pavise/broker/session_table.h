#ifndef PAVISE_BROKER_SESSION_TABLE_H_
#define PAVISE_BROKER_SESSION_TABLE_H_

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/crypto/keys.h"
#include "pavise/kbs/messages.h"
#include "pavise/policy/stage_evidence.h"

#include "absl/time/time.h"

namespace pavise::broker {

// A challenge that waits for evidence.
struct PendingChallenge {
  kbs::Challenge challenge;
  kbs::Tee tee = kbs::Tee::kPavise;
  kbs::Purpose purpose;
  absl::Time expires;
  std::string source;  // the peer that asked; "" where it is not known
};

// A machine that was appraised and accepted, for one stage of one agreement. Immutable.
struct AttestedSession {
  kbs::Purpose purpose;
  crypto::PublicKey key;  // what secrets are encrypted to
  std::string key_id;
  policy::StageAppraisal appraisal;
  std::string machine;
  std::set<std::string> machines;  // its devices (evidence::PartClaims::machine_ids)
};

// Sessions of machines by their cookies. In memory only: after a restart a machine attests again,
// and goes on with the run that is kept under its session key. Bounded: beyond `max_challenges` the
// oldest challenge is forgotten (beyond a quarter of it from one source, the oldest of that source,
// so that nobody washes away what others are about to answer), beyond `max_attested` the session
// that was not used for longest.
// Thread-safe.
class SessionTable {
 public:
  SessionTable(size_t max_challenges, size_t max_attested)
      : max_challenges_(max_challenges), max_attested_(max_attested) {}

  // One challenge a session: a new one replaces the old, and leaves what is attested.
  void Challenge(const std::string& id, PendingChallenge challenge);
  // The session's challenge, which is thereby used up. nullopt: none, or expired at `now`.
  std::optional<PendingChallenge> TakeChallenge(const std::string& id, absl::Time now);

  // `token_digest`: by which the session is found as well.
  void Attest(const std::string& id, const Digest32& token_digest,
              std::shared_ptr<const AttestedSession> session);
  void Forget(const std::string& id);
  // nullptr: none.
  std::shared_ptr<const AttestedSession> Find(const std::string& id);
  std::shared_ptr<const AttestedSession> FindByToken(const Digest32& token_digest);

  size_t challenges() const;
  size_t attested() const;

 private:
  struct Attested {
    std::string id;
    Digest32 token_digest;
    std::shared_ptr<const AttestedSession> session;
  };
  struct Pending {
    std::string id;
    PendingChallenge challenge;
    std::list<std::string>::iterator of_source;  // where the source is known
  };
  void EraseChallenge(std::list<Pending>::iterator where);
  void EraseAttested(std::list<Attested>::iterator where);

  const size_t max_challenges_;
  const size_t max_attested_;
  mutable std::mutex mutex_;
  std::list<Pending> challenge_order_;  // oldest first
  std::map<std::string, std::list<Pending>::iterator> challenges_;
  std::map<std::string, std::list<std::string>> of_source_;  // ids, oldest first
  std::list<Attested> attested_order_;                       // least recently used first
  std::map<std::string, std::list<Attested>::iterator> attested_;
  std::map<Digest32, std::list<Attested>::iterator> by_token_;
};

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_SESSION_TABLE_H_
