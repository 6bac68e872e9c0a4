#include "pavise/policy/history.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"
#include "pavise/policy/internal/fields.h"

namespace pavise::policy {
namespace {

using AgreementText = std::shared_ptr<const Agreement>;

constexpr size_t kMaxOpenProposals = 4;  // of one stakeholder
constexpr absl::Duration kClockTolerance = absl::Minutes(10);

struct Signer {
  std::string name;  // in the first of the texts that have the key
  std::string key_id;
};

struct CastVote {
  Vote vote = Vote::kAbstain;
  absl::Time signed_at;
  uint64_t order = 0;
};

struct Proposal {
  Digest32 payload{};
  AgreementText text;
  std::string proposer;
  std::string proposer_key;
  absl::Time received;
  std::map<std::string, CastVote> votes;  // by key id

  bool ApprovedBy(const std::string& key_id) const {
    const auto vote = votes.find(key_id);
    return vote != votes.end() && vote->second.vote == Vote::kApprove;
  }
};

// What an asset's owner said last about its use.
struct Consent {
  bool withdrawn = false;
  absl::Time signed_at;
  absl::Time received;
  uint64_t order = 0;
};

std::string SigningKey(const Agreement& text, const std::string& name) {
  return text.stakeholders.at(name).signing_key.Fingerprint();
}

bool OwnsAnything(const Agreement& text, const std::string& name) {
  return std::any_of(text.assets.begin(), text.assets.end(),
                     [&](const auto& asset) { return asset.second.owner == name; });
}

// The envelope's one signature, by a key of one of the texts. Nothing of the payload is read.
absl::StatusOr<Signer> VerifySigner(const crypto::Envelope& envelope, std::string_view type,
                                    const std::vector<AgreementText>& texts,
                                    std::string_view item) {
  if (envelope.signatures.size() != 1) {
    return Refuse(Reason::kMalformed, item, "exactly one signature belongs here");
  }
  const std::string& key_id = envelope.signatures.front().key_id;
  for (const AgreementText& text : texts) {
    const std::string name = text->StakeholderWithKey(key_id);
    if (name.empty()) continue;
    PAVISE_RETURN_IF_ERROR(
        crypto::VerifyEnvelope(envelope, type, text->stakeholders.at(name).signing_key, item));
    return Signer{name, key_id};
  }
  return Refuse(Reason::kSignerUntrusted, StrCat("key ", Printable(key_id)),
                StrCat("signed this ", item, " and is no stakeholder's"),
                "sign with the key that the agreement names for you");
}

// Whether an owner who wrote `rule` for `before` wrote it for `after`, too.
bool IsSameRule(const OwnerRule& rule, const OwnerRule& other, const Agreement& before,
                const Agreement& after) {
  if (!(rule == other)) return false;
  for (const std::string& name : rule.recipients.value_or(std::set<std::string>())) {
    if (name != rule.owner && !(before.stakeholders.at(name).encryption_key ==
                                after.stakeholders.at(name).encryption_key)) {
      return false;
    }
  }
  for (const std::string& name : rule.stages.value_or(std::set<std::string>())) {
    const auto now = after.stages.find(name);
    if (now == after.stages.end()) continue;
    const auto then = before.stages.find(name);
    if (then == before.stages.end() || !(then->second == now->second)) return false;
    for (const std::string& asset : after.AssetsOf(now->second)) {
      if (!(before.assets.at(asset) == after.assets.at(asset))) return false;
    }
  }
  return true;
}

// Who must approve whatever the change rule says: key id -> in words.
using Required = std::map<std::string, std::string>;

Required RequiredForFirst(const Agreement& text) {
  Required required;
  for (const auto& [name, asset] : text.assets) {
    required.emplace(SigningKey(text, asset.owner),
                     StrCat(asset.owner, " must approve: owns ", name));
  }
  return required;
}

Required RequiredForChange(const Agreement& before, const Agreement& after) {
  Required required;
  const auto require = [&](const Agreement& text, const std::string& name, const std::string& why) {
    required.emplace(SigningKey(text, name), StrCat(name, " must approve: ", why));
  };
  for (const auto& [name, asset] : after.assets) {
    const auto then = before.assets.find(name);
    if (then != before.assets.end() && then->second == asset) continue;
    require(after, asset.owner, StrCat("owns ", name, ", which is new or altered"));
    if (then != before.assets.end()) {
      require(before, then->second.owner, StrCat("owns ", name, ", which is altered"));
    }
  }
  for (const auto& [name, rule] : before.rules) {
    const auto now = after.rules.find(name);
    if (now != after.rules.end() && IsSameRule(rule, now->second, before, after)) continue;
    if (!OwnsAnything(after, rule.owner)) continue;
    require(before, rule.owner, StrCat("rule ", name, " is altered or gone"));
  }
  for (const auto& [name, rule] : after.rules) {
    const auto then = before.rules.find(name);
    if (then == before.rules.end() || then->second.owner != rule.owner) {
      require(after, rule.owner, StrCat("rule ", name, " is new"));
    }
  }
  for (const auto& [name, stakeholder] : after.stakeholders) {
    const auto then = before.stakeholders.find(name);
    if (then == before.stakeholders.end()) continue;
    if (!(then->second.signing_key == stakeholder.signing_key) ||
        !(then->second.encryption_key == stakeholder.encryption_key)) {
      require(after, name, "gets other keys, and has to show that it holds them");
    }
  }
  return required;
}

absl::Status CheckDate(absl::Time signed_at, absl::Time received, std::string_view item) {
  if (signed_at <= received + kClockTolerance) return absl::OkStatus();
  return Refuse(Reason::kPolicyDenied, item,
                StrCat("is dated ", internal::EncodeTime(signed_at), ", after it was received"),
                "set the signing machine's clock and sign again");
}

}  // namespace

struct AgreementHistory::State {
  struct Version {
    Digest32 payload{};
    AgreementText text;
    absl::Time since;
  };

  Digest32 id{};
  absl::Time now;
  uint64_t order = 0;
  std::map<uint64_t, Version> in_force;
  std::map<Digest32, Proposal> open;
  std::map<Digest32, std::string> closed;  // what became of it
  std::map<std::string, Consent> consents;
  std::map<std::string, std::set<std::string>> depositors;

  const Version* Current() const { return in_force.empty() ? nullptr : &in_force.rbegin()->second; }
  std::vector<AgreementText> Texts() const {
    std::vector<AgreementText> texts;
    if (const Version* current = Current()) texts.push_back(current->text);
    for (const auto& [payload, proposal] : open) texts.push_back(proposal.text);
    return texts;
  }

  std::vector<std::string> Missing(const Proposal& proposal) const;
  void PutInForce(const Digest32& payload, std::vector<HistoryEvent>& events);
  void Settle(absl::Time time, std::vector<HistoryEvent>& events);

  absl::StatusOr<HistoryEvent> Propose(const crypto::Envelope& envelope);
  absl::Status CountVote(const crypto::Envelope& envelope, std::vector<HistoryEvent>& events);
  absl::StatusOr<HistoryEvent> Withdraw(const crypto::Envelope& envelope);
};

std::vector<std::string> AgreementHistory::State::Missing(const Proposal& proposal) const {
  std::vector<std::string> missing;
  const Version* current = Current();
  if (current != nullptr) {
    const Agreement& before = *current->text;
    uint64_t approvals = 0;
    for (const std::string& name : before.changes.of) {
      if (proposal.ApprovedBy(SigningKey(before, name))) ++approvals;
    }
    if (approvals < before.changes.approvals) {
      missing.push_back(StrCat(before.changes.approvals - approvals,
                               " more approvals by those who decide about changes"));
    }
    const absl::Time end = proposal.received + before.changes.veto_period;
    for (const std::string& name : before.changes.vetoes) {
      if (proposal.votes.contains(SigningKey(before, name)) || now >= end) continue;
      missing.push_back(StrCat(name, " may veto until ", internal::EncodeTime(end)));
    }
  }
  const Required required = current == nullptr ? RequiredForFirst(*proposal.text)
                                               : RequiredForChange(*current->text, *proposal.text);
  for (const auto& [key_id, why] : required) {
    if (!proposal.ApprovedBy(key_id)) missing.push_back(why);
  }
  return missing;
}

void AgreementHistory::State::PutInForce(const Digest32& payload,
                                         std::vector<HistoryEvent>& events) {
  const Proposal proposal = open.at(payload);
  const Version* current = Current();
  std::map<std::string, std::set<std::string>> next_depositors;
  for (const auto& [name, asset] : proposal.text->assets) {
    std::set<std::string>& keys = next_depositors[name];
    keys.insert(SigningKey(*proposal.text, asset.owner));
    const bool stays = current != nullptr && current->text->assets.contains(name) &&
                       current->text->assets.at(name) == asset;
    if (stays) keys.insert(depositors[name].begin(), depositors[name].end());
    // What the owner approved last counts against withdrawals.
    const auto vote = proposal.votes.find(SigningKey(*proposal.text, asset.owner));
    if (vote == proposal.votes.end() || vote->second.vote != Vote::kApprove) continue;
    Consent& consent = consents[name];
    if (vote->second.order > consent.order && vote->second.signed_at > consent.signed_at) {
      consent = {false, vote->second.signed_at, proposal.received, vote->second.order};
    }
  }
  depositors = std::move(next_depositors);
  const uint64_t number = proposal.text->version;
  in_force[number] = {payload, proposal.text, now};
  events.push_back({.kind = HistoryEventKind::kInForce, .version = number, .payload = payload});
  open.erase(payload);
  for (const auto& [other, unused] : open) {
    closed[other] = StrCat("another text became version ", number);
    events.push_back({.kind = HistoryEventKind::kDiscarded, .version = number, .payload = other});
  }
  open.clear();
}

void AgreementHistory::State::Settle(absl::Time time, std::vector<HistoryEvent>& events) {
  now = std::max(now, time);
  const Proposal* first = nullptr;
  for (const auto& [payload, proposal] : open) {
    if ((first == nullptr || proposal.received < first->received) && Missing(proposal).empty()) {
      first = &proposal;
    }
  }
  // Others were made for the version that is replaced, so one round is all.
  if (first != nullptr) PutInForce(Digest32(first->payload), events);
}

absl::StatusOr<HistoryEvent> AgreementHistory::State::Propose(const crypto::Envelope& envelope) {
  constexpr std::string_view kItem = "proposal";
  const Version* current = Current();
  if (current == nullptr) {
    return Refuse(Reason::kBindingMismatch, kItem,
                  "version 1 of this agreement is not in force yet, and another text of it is "
                  "another agreement");
  }
  PAVISE_ASSIGN_OR_RETURN(const Signer signer,
                          VerifySigner(envelope, kAgreementType, {current->text}, kItem));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 payload, crypto::Sha256(envelope.payload));
  for (const auto& [number, version] : in_force) {
    if (version.payload == payload) {
      return Refuse(
          number == in_force.rbegin()->first ? Reason::kPolicyDenied : Reason::kVersionTooOld,
          kItem, StrCat("is version ", number, ", which was in force already"));
    }
  }
  if (open.contains(payload)) return Refuse(Reason::kPolicyDenied, kItem, "is open already");
  if (const auto found = closed.find(payload); found != closed.end()) {
    return Refuse(Reason::kPolicyDenied, kItem, found->second, "propose another text");
  }
  PAVISE_ASSIGN_OR_RETURN(Agreement text, ParseAgreement(envelope.payload, kItem));
  if (text.previous != current->payload) {
    const bool is_old = std::any_of(in_force.begin(), in_force.end(), [&](const auto& version) {
      return text.previous == version.second.payload;
    });
    return Refuse(is_old ? Reason::kVersionTooOld : Reason::kBindingMismatch, kItem,
                  StrCat("does not follow version ", current->text->version, ", which is in force"),
                  "propose it again on top of the version in force");
  }
  if (text.version != current->text->version + 1) {
    return Refuse(Reason::kMalformed, kItem,
                  StrCat("calls itself version ", text.version, " and follows version ",
                         current->text->version));
  }
  const auto of_signer = std::count_if(open.begin(), open.end(), [&](const auto& each) {
    return each.second.proposer_key == signer.key_id;
  });
  if (static_cast<size_t>(of_signer) >= kMaxOpenProposals) {
    return Refuse(Reason::kLimitExceeded, kItem,
                  StrCat(signer.name, " has ", kMaxOpenProposals, " open proposals"),
                  "veto one of your own first");
  }
  const uint64_t number = text.version;
  open[payload] = {.payload = payload,
                   .text = std::make_shared<const Agreement>(std::move(text)),
                   .proposer = signer.name,
                   .proposer_key = signer.key_id,
                   .received = now};
  return HistoryEvent{.kind = HistoryEventKind::kProposed,
                      .version = number,
                      .payload = payload,
                      .stakeholder = signer.name,
                      .key_id = signer.key_id};
}

absl::Status AgreementHistory::State::CountVote(const crypto::Envelope& envelope,
                                                std::vector<HistoryEvent>& events) {
  constexpr std::string_view kItem = "approval";
  PAVISE_ASSIGN_OR_RETURN(Signer signer, VerifySigner(envelope, kApprovalType, Texts(), kItem));
  PAVISE_ASSIGN_OR_RETURN(const Approval approval, ParseApproval(envelope.payload, kItem));
  if (approval.agreement != id) {
    return Refuse(Reason::kBindingMismatch, kItem,
                  StrCat("is of agreement ", ToHex(approval.agreement)),
                  "approve this agreement's own text");
  }
  PAVISE_RETURN_IF_ERROR(CheckDate(approval.time, now, kItem));
  const auto found = open.find(approval.payload);
  if (found == open.end()) {
    for (const auto& [number, version] : in_force) {
      if (version.payload != approval.payload) continue;
      const bool is_current = number == in_force.rbegin()->first;
      return Refuse(is_current ? Reason::kPolicyDenied : Reason::kVersionTooOld, kItem,
                    StrCat("of version ", number,
                           is_current ? ", which is in force already" : ", which was replaced"));
    }
    if (const auto gone = closed.find(approval.payload); gone != closed.end()) {
      return Refuse(Reason::kPolicyDenied, kItem, gone->second);
    }
    return Refuse(Reason::kBindingMismatch, kItem,
                  StrCat("of a text that nobody proposed: ", ToHex(approval.payload)),
                  "approve the proposal's own digest");
  }
  Proposal& proposal = found->second;
  if (approval.version != proposal.text->version) {
    return Refuse(Reason::kBindingMismatch, kItem,
                  StrCat("names version ", approval.version, "; the text is version ",
                         proposal.text->version));
  }
  // By the names of the version in force where it has the key; a key of another proposal is none
  // here.
  const Version* current = Current();
  const std::string name_now =
      current == nullptr ? "" : current->text->StakeholderWithKey(signer.key_id);
  const std::string name_then = proposal.text->StakeholderWithKey(signer.key_id);
  if (name_now.empty() && name_then.empty()) {
    return Refuse(Reason::kSignerUntrusted, StrCat("key ", signer.key_id),
                  "is no stakeholder's of the version in force or of the proposal");
  }
  signer.name = name_now.empty() ? name_then : name_now;
  if (const auto vote = proposal.votes.find(signer.key_id);
      vote != proposal.votes.end() && approval.time <= vote->second.signed_at) {
    return Refuse(Reason::kPolicyDenied, kItem,
                  StrCat(signer.name, " has voted already, at this time or later"),
                  "sign another vote to change it");
  }
  HistoryEvent event = {.kind = HistoryEventKind::kVote,
                        .version = proposal.text->version,
                        .payload = proposal.payload,
                        .stakeholder = signer.name,
                        .key_id = signer.key_id,
                        .vote = approval.vote};
  if (approval.vote == Vote::kVeto) {
    const bool has_veto = signer.key_id == proposal.proposer_key ||
                          (current != nullptr && !name_now.empty() &&
                           current->text->changes.vetoes.contains(name_now));
    if (!has_veto) {
      return Refuse(Reason::kPolicyDenied, kItem,
                    StrCat(signer.name, " has no veto: changes.vetoes does not name it"),
                    "without your approval it may still fail; see what is missing");
    }
    closed[proposal.payload] = StrCat("vetoed by ", signer.name);
    events.push_back(event);
    events.push_back(
        {.kind = HistoryEventKind::kDiscarded, .version = event.version, .payload = event.payload});
    open.erase(found);
    return absl::OkStatus();
  }
  proposal.votes[signer.key_id] = {approval.vote, approval.time, ++order};
  events.push_back(event);
  return absl::OkStatus();
}

absl::StatusOr<HistoryEvent> AgreementHistory::State::Withdraw(const crypto::Envelope& envelope) {
  constexpr std::string_view kItem = "withdrawal";
  const Version* current = Current();
  if (current == nullptr) {
    return Refuse(Reason::kPolicyDenied, kItem, "no version of the agreement is in force");
  }
  PAVISE_ASSIGN_OR_RETURN(const Signer signer,
                          VerifySigner(envelope, kWithdrawalType, {current->text}, kItem));
  PAVISE_ASSIGN_OR_RETURN(const Withdrawal withdrawal, ParseWithdrawal(envelope.payload, kItem));
  if (withdrawal.agreement != id) {
    return Refuse(Reason::kBindingMismatch, kItem,
                  StrCat("is of agreement ", ToHex(withdrawal.agreement)));
  }
  PAVISE_RETURN_IF_ERROR(CheckDate(withdrawal.time, now, kItem));
  for (const std::string& name : withdrawal.assets) {
    const auto asset = current->text->assets.find(name);
    if (asset == current->text->assets.end() || asset->second.owner != signer.name) {
      return Refuse(Reason::kPolicyDenied, StrCat(kItem, " of ", name),
                    StrCat("is no asset of ", signer.name),
                    "withdraw consent for what is your own");
    }
    if (const auto said = consents.find(name);
        said != consents.end() &&
        (withdrawal.time < said->second.signed_at ||
         (said->second.withdrawn && withdrawal.time == said->second.signed_at))) {
      return Refuse(Reason::kPolicyDenied, StrCat(kItem, " of ", name),
                    "is older than what its owner said last, or the same", "sign it again");
    }
  }
  ++order;
  for (const std::string& name : withdrawal.assets) {
    consents[name] = {true, withdrawal.time, now, order};
  }
  return HistoryEvent{.kind = HistoryEventKind::kWithdrawn,
                      .version = current->text->version,
                      .payload = current->payload,
                      .stakeholder = signer.name,
                      .key_id = signer.key_id,
                      .withdrawn = withdrawal.assets};
}

std::string_view HistoryEventKindName(HistoryEventKind kind) {
  switch (kind) {
    case HistoryEventKind::kProposed:
      return "proposed";
    case HistoryEventKind::kVote:
      return "vote";
    case HistoryEventKind::kInForce:
      return "in-force";
    case HistoryEventKind::kWithdrawn:
      return "withdrawn";
    case HistoryEventKind::kDiscarded:
      return "discarded";
  }
  return "";
}

AgreementHistory::AgreementHistory(std::unique_ptr<State> state) : state_(std::move(state)) {}
AgreementHistory::~AgreementHistory() = default;
AgreementHistory::AgreementHistory(AgreementHistory&&) noexcept = default;
AgreementHistory& AgreementHistory::operator=(AgreementHistory&&) noexcept = default;

absl::StatusOr<AgreementHistory> AgreementHistory::Begin(ByteSpan envelope_text,
                                                         absl::Time received) {
  constexpr std::string_view kItem = "proposal";
  PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                          crypto::ParseEnvelope(envelope_text, kItem));
  // The one text that is read before its signature is checked: it names the keys.
  PAVISE_ASSIGN_OR_RETURN(Agreement parsed, ParseAgreement(envelope.payload, kItem));
  const AgreementText text = std::make_shared<const Agreement>(std::move(parsed));
  PAVISE_ASSIGN_OR_RETURN(const Signer signer,
                          VerifySigner(envelope, kAgreementType, {text}, kItem));
  if (text->version != 1) {
    return Refuse(Reason::kBindingMismatch, kItem,
                  StrCat("is version ", text->version, " of an agreement that is not known"),
                  "begin with version 1");
  }
  auto state = std::make_unique<State>();
  PAVISE_ASSIGN_OR_RETURN(state->id, crypto::Sha256(envelope.payload));
  state->now = received;
  state->open[state->id] = {.payload = state->id,
                            .text = text,
                            .proposer = signer.name,
                            .proposer_key = signer.key_id,
                            .received = received};
  return AgreementHistory(std::move(state));
}

absl::StatusOr<std::vector<HistoryEvent>> AgreementHistory::Append(ByteSpan envelope_text,
                                                                   absl::Time received) {
  PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                          crypto::ParseEnvelope(envelope_text, "envelope"));
  // On a copy, so that a refusal leaves no trace, the passing of time included.
  auto next = std::make_unique<State>(*state_);
  std::vector<HistoryEvent> events;
  next->Settle(received, events);
  if (envelope.payload_type == kAgreementType) {
    PAVISE_ASSIGN_OR_RETURN(HistoryEvent event, next->Propose(envelope));
    events.push_back(std::move(event));
  } else if (envelope.payload_type == kApprovalType) {
    PAVISE_RETURN_IF_ERROR(next->CountVote(envelope, events));
  } else if (envelope.payload_type == kWithdrawalType) {
    PAVISE_ASSIGN_OR_RETURN(HistoryEvent event, next->Withdraw(envelope));
    events.push_back(std::move(event));
  } else {
    return Refuse(
        Reason::kUnsupported, "envelope",
        StrCat("holds ", Printable(envelope.payload_type), ", which changes no agreement"));
  }
  next->Settle(received, events);
  state_ = std::move(next);
  return events;
}

std::vector<HistoryEvent> AgreementHistory::Settle(absl::Time now) {
  std::vector<HistoryEvent> events;
  state_->Settle(now, events);
  return events;
}

const Digest32& AgreementHistory::id() const { return state_->id; }
std::string AgreementHistory::IdHex() const { return ToHex(state_->id); }

std::optional<AgreementInForce> AgreementHistory::InForce() const {
  const State::Version* current = state_->Current();
  if (current == nullptr) return std::nullopt;
  AgreementInForceClaims claims = {.id = state_->id,
                                   .payload = current->payload,
                                   .agreement = current->text,
                                   .since = current->since,
                                   .depositors = state_->depositors};
  for (const auto& [number, version] : state_->in_force) claims.versions[number] = version.text;
  for (const auto& [name, consent] : state_->consents) {
    if (consent.withdrawn) claims.withdrawn[name] = consent.received;
  }
  return AgreementInForce(std::move(claims));
}

std::vector<OpenProposal> AgreementHistory::Open() const {
  std::vector<OpenProposal> open;
  for (const auto& [payload, proposal] : state_->open) {
    OpenProposal each = {.version = proposal.text->version,
                         .payload = payload,
                         .agreement = proposal.text,
                         .proposer = proposal.proposer,
                         .received = proposal.received,
                         .missing = state_->Missing(proposal)};
    for (const auto& [key_id, vote] : proposal.votes) each.votes[key_id] = vote.vote;
    open.push_back(std::move(each));
  }
  return open;
}

std::map<std::string, crypto::PublicKey> AgreementHistory::Readers() const {
  std::map<std::string, crypto::PublicKey> readers;
  std::vector<AgreementText> texts = state_->Texts();
  for (const auto& [number, version] : state_->in_force) texts.push_back(version.text);
  for (const AgreementText& text : texts) {
    for (const auto& [name, stakeholder] : text->stakeholders) {
      readers.emplace(stakeholder.signing_key.Fingerprint(), stakeholder.signing_key);
    }
  }
  return readers;
}

absl::StatusOr<VerifiedDeposit> DepositVerifier::Verify(ByteSpan envelope_text,
                                                        const AgreementInForce& agreement,
                                                        std::string_view broker_key_id) {
  constexpr std::string_view kItem = "deposit";
  PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                          crypto::ParseEnvelope(envelope_text, kItem));
  std::vector<AgreementText> texts;
  for (const auto& [number, text] : agreement->versions) texts.push_back(text);
  PAVISE_ASSIGN_OR_RETURN(const Signer signer, VerifySigner(envelope, kDepositType, texts, kItem));
  PAVISE_ASSIGN_OR_RETURN(Deposit deposit, ParseDeposit(envelope.payload, kItem));
  if (deposit.agreement != agreement->id) {
    return Refuse(Reason::kBindingMismatch, kItem,
                  StrCat("is for agreement ", ToHex(deposit.agreement)));
  }
  if (deposit.broker != broker_key_id) {
    return Refuse(Reason::kBindingMismatch, kItem, StrCat("is for the broker key ", deposit.broker),
                  "appraise the broker and deposit the key to the key that it attests");
  }
  const auto asset = agreement->agreement->assets.find(deposit.asset);
  if (asset == agreement->agreement->assets.end()) {
    return Refuse(Reason::kPolicyDenied, StrCat(kItem, " of ", deposit.asset),
                  "is no asset of the version in force");
  }
  if (!agreement->depositors.at(deposit.asset).contains(signer.key_id)) {
    return Refuse(Reason::kSignerUntrusted, StrCat(kItem, " of ", deposit.asset),
                  StrCat("is signed by ", signer.name, "; the owner is ", asset->second.owner),
                  "the owner deposits the key");
  }
  if (deposit.sealed != asset->second.sealed) {
    return Refuse(Reason::kBindingMismatch, StrCat(kItem, " of ", deposit.asset),
                  "is the key of another sealed file than the agreement names");
  }
  return VerifiedDeposit(DepositClaims{std::move(deposit), signer.key_id});
}

absl::StatusOr<VerifiedOutputApproval> OutputApprovalVerifier::Verify(
    ByteSpan envelope_text, const AgreementInForce& agreement) {
  constexpr std::string_view kItem = "output approval";
  PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                          crypto::ParseEnvelope(envelope_text, kItem));
  PAVISE_ASSIGN_OR_RETURN(const Signer signer, VerifySigner(envelope, kOutputApprovalType,
                                                            {agreement->agreement}, kItem));
  PAVISE_ASSIGN_OR_RETURN(OutputApproval approval, ParseOutputApproval(envelope.payload, kItem));
  if (approval.agreement != agreement->id) {
    return Refuse(Reason::kBindingMismatch, kItem,
                  StrCat("is for agreement ", ToHex(approval.agreement)));
  }
  return VerifiedOutputApproval(
      OutputApprovalClaims{std::move(approval), signer.name, signer.key_id});
}

}  // namespace pavise::policy
