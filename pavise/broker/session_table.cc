#include "pavise/broker/session_table.h"

namespace pavise::broker {

void SessionTable::Challenge(const std::string& id, PendingChallenge challenge) {
  const std::scoped_lock lock(mutex_);
  if (const auto found = challenges_.find(id); found != challenges_.end()) {
    challenge_order_.erase(found->second);
    challenges_.erase(found);
  }
  while (challenges_.size() >= max_challenges_) {
    challenges_.erase(challenge_order_.front().first);
    challenge_order_.pop_front();
  }
  challenge_order_.emplace_back(id, std::move(challenge));
  challenges_[id] = std::prev(challenge_order_.end());
}

std::optional<PendingChallenge> SessionTable::TakeChallenge(const std::string& id, absl::Time now) {
  const std::scoped_lock lock(mutex_);
  const auto found = challenges_.find(id);
  if (found == challenges_.end()) return std::nullopt;
  PendingChallenge challenge = std::move(found->second->second);
  challenge_order_.erase(found->second);
  challenges_.erase(found);
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
