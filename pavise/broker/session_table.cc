#include "pavise/broker/session_table.h"

#include <algorithm>
#include <iterator>

namespace pavise::broker {

void SessionTable::EraseChallenge(std::list<Pending>::iterator where) {
  if (const auto mine = of_source_.find(where->challenge.source); mine != of_source_.end()) {
    mine->second.erase(where->of_source);
    if (mine->second.empty()) of_source_.erase(mine);
  }
  challenges_.erase(where->id);
  challenge_order_.erase(where);
}

void SessionTable::Challenge(const std::string& id, PendingChallenge challenge) {
  const std::scoped_lock lock(mutex_);
  if (const auto found = challenges_.find(id); found != challenges_.end()) {
    EraseChallenge(found->second);
  }
  const std::string source = challenge.source;
  if (const auto mine = of_source_.find(source);
      mine != of_source_.end() && mine->second.size() >= std::max<size_t>(max_challenges_ / 4, 1)) {
    EraseChallenge(challenges_.at(mine->second.front()));
  }
  while (challenges_.size() >= max_challenges_) EraseChallenge(challenge_order_.begin());
  challenge_order_.push_back({id, std::move(challenge), {}});
  challenges_[id] = std::prev(challenge_order_.end());
  if (source.empty()) return;
  std::list<std::string>& mine = of_source_[source];
  mine.push_back(id);
  challenge_order_.back().of_source = std::prev(mine.end());
}

std::optional<PendingChallenge> SessionTable::TakeChallenge(const std::string& id, absl::Time now) {
  const std::scoped_lock lock(mutex_);
  const auto found = challenges_.find(id);
  if (found == challenges_.end()) return std::nullopt;
  PendingChallenge challenge = found->second->challenge;
  EraseChallenge(found->second);
  if (challenge.expires < now) return std::nullopt;
  return challenge;
}

void SessionTable::EraseAttested(std::list<Attested>::iterator where) {
  attested_.erase(where->id);
  by_token_.erase(where->token_digest);
  attested_order_.erase(where);
}

void SessionTable::Attest(const std::string& id, const Digest32& token_digest,
                          std::shared_ptr<const AttestedSession> session) {
  const std::scoped_lock lock(mutex_);
  if (const auto found = attested_.find(id); found != attested_.end()) EraseAttested(found->second);
  while (attested_.size() >= max_attested_) EraseAttested(attested_order_.begin());
  attested_order_.push_back({id, token_digest, std::move(session)});
  attested_[id] = std::prev(attested_order_.end());
  by_token_[token_digest] = std::prev(attested_order_.end());
}

void SessionTable::Forget(const std::string& id) {
  const std::scoped_lock lock(mutex_);
  if (const auto found = attested_.find(id); found != attested_.end()) EraseAttested(found->second);
}

std::shared_ptr<const AttestedSession> SessionTable::Find(const std::string& id) {
  const std::scoped_lock lock(mutex_);
  const auto found = attested_.find(id);
  if (found == attested_.end()) return nullptr;
  attested_order_.splice(attested_order_.end(), attested_order_, found->second);
  return found->second->session;
}

std::shared_ptr<const AttestedSession> SessionTable::FindByToken(const Digest32& token_digest) {
  const std::scoped_lock lock(mutex_);
  const auto found = by_token_.find(token_digest);
  if (found == by_token_.end()) return nullptr;
  attested_order_.splice(attested_order_.end(), attested_order_, found->second);
  return found->second->session;
}

size_t SessionTable::challenges() const {
  const std::scoped_lock lock(mutex_);
  return challenges_.size();
}

size_t SessionTable::attested() const {
  const std::scoped_lock lock(mutex_);
  return attested_.size();
}

}  // namespace pavise::broker
