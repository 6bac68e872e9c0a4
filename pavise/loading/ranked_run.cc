#include "pavise/loading/ranked_run.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <tuple>

#include "pavise/base/bytes.h"
#include "pavise/base/strings.h"
#include "pavise/hash/blake3.h"
#include "pavise/loading/internal/rank_message.h"
#include "pavise/signing/verify.h"

#include "absl/time/time.h"

namespace pavise::loading {
namespace {

using internal::MessageReader;
using internal::MessageWriter;
using internal::RankMessage;
using internal::RankStage;

// A rank that has ended waits for the others' two rounds, and then takes part in the last.
constexpr int kMostRounds = 4;
// A finding names so many ranks, and counts the rest.
constexpr size_t kMostRanksNamed = 4;

std::string HostName() {
  std::array<char, 256> name = {};
  return gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data())
                                                        : std::string("unnamed");
}

std::string TextDigest(MessageWriter& writer) { return ToHex(hash::Blake3(writer.Take())); }

void AddTexts(MessageWriter& writer, const auto& texts) {
  writer.Integer(texts.size());
  for (const std::string& text : texts) writer.String(AsBytes(text));
}

void AddPeriod(MessageWriter& writer, absl::Time from, absl::Time until) {
  for (const absl::Time time : {from, until}) {
    writer.Integer(static_cast<uint64_t>(absl::ToUnixNanos(time)));
  }
}

void AddCertificates(MessageWriter& writer, const std::vector<crypto::Certificate>& certificates) {
  writer.Integer(certificates.size());
  for (const crypto::Certificate& certificate : certificates) writer.String(certificate.der());
}

void AddSigstoreRoot(MessageWriter& writer, const signing::SigstoreTrustedRoot& root) {
  writer.Integer(root.rekor_logs.size());
  for (const signing::TransparencyLog& log : root.rekor_logs) {
    writer.String(log.key.der());
    writer.String(log.log_key_id);
    writer.String(AsBytes(log.base_url));
    AddPeriod(writer, log.valid_from, log.valid_until);
  }
  writer.Integer(root.ct_logs.size());
  for (const crypto::CtLog& log : root.ct_logs) {
    writer.String(log.key.der());
    AddPeriod(writer, log.valid_from, log.valid_until);
  }
  writer.Integer(root.fulcio.size());
  for (const signing::CertificateAuthority& authority : root.fulcio) {
    AddCertificates(writer, authority.chain);
    AddPeriod(writer, authority.valid_from, authority.valid_until);
  }
}

// Everything that decides, as it was read: files of other names that say the same are the same.
std::string PolicyDigest(const signing::TrustPolicy& policy) {
  MessageWriter writer;
  for (const bool flag : {policy.trust_file.empty(), policy.accept_expired_certificates,
                          policy.expected_model_name.has_value()}) {
    writer.Integer(flag ? 1 : 0);
  }
  writer.String(AsBytes(policy.expected_model_name.value_or("")));
  AddTexts(writer, policy.revoked_keys);
  AddTexts(writer, policy.revoked_certificates);
  writer.Integer(policy.rules.size());
  for (const signing::ModelRule& rule : policy.rules) {
    writer.String(AsBytes(rule.model));
    writer.Integer(rule.minimum_version);
    writer.Integer(rule.signers.keys.size());
    for (const signing::TrustedKey& key : rule.signers.keys) writer.String(key.key.der());
    writer.Integer(rule.signers.certificates.size());
    for (const signing::TrustedCertificate& trusted : rule.signers.certificates) {
      AddCertificates(writer, trusted.roots);
      AddTexts(writer, trusted.identities);
    }
    writer.Integer(rule.signers.sigstore.size());
    for (const signing::TrustedSigstore& trusted : rule.signers.sigstore) {
      AddSigstoreRoot(writer, *trusted.root);
      writer.String(AsBytes(trusted.identity));
      writer.String(AsBytes(trusted.issuer));
    }
  }
  return TextDigest(writer);
}

absl::Status Disagreement(std::string_view detail) {
  return Refuse(Reason::kRanksDisagree, "ranks", detail,
                "give every rank the same model, signature and options, or verify on each alone "
                "with --no-mpi");
}

}  // namespace

RankFacts VerdictFacts(const signing::VerifyOptions& options, const signing::VerifyReport& report) {
  MessageWriter asked;
  for (const bool flag : {options.ignore_unsigned_files, options.allow_symlinks, options.fips}) {
    asked.Integer(flag ? 1 : 0);
  }
  asked.Integer(static_cast<uint64_t>(options.digests));
  const auto add_ranges = [](MessageWriter& writer, const std::vector<signing::FileRange>& ranges) {
    writer.Integer(ranges.size());
    for (const signing::FileRange& range : ranges) {
      writer.String(AsBytes(range.path));
      writer.Integer(range.begin_bytes);
      writer.Integer(range.end_bytes);
    }
  };
  AddTexts(asked, options.ignore_paths);
  AddTexts(asked, options.tensors);
  add_ranges(asked, options.ranges);

  MessageWriter found;
  AddTexts(found, report.digests_read);
  AddTexts(found, report.tensors_checked);
  AddTexts(found, report.unsigned_files_ignored);
  add_ranges(found, report.ranges_checked);
  found.Integer(report.files_checked);
  found.Integer(report.bytes_checked);
  MessageWriter signed_by;
  const signing::SignerIdentity& signer = report.signed_statement.signer;
  for (const std::string& text : {signer.key_fingerprint, signer.name, signer.issuer}) {
    signed_by.String(AsBytes(text));
  }
  return {{"the signature", ToHex(report.signed_statement.payload_sha256)},
          {"the signer", TextDigest(signed_by)},
          {"the trust policy", PolicyDigest(options.policy)},
          {"the options", TextDigest(asked)},
          {"the result", TextDigest(found)}};
}

bool ReadOneCopy(const std::vector<RankPart>& parts) {
  if (parts.size() < 2) return true;
  return std::all_of(parts.begin(), parts.end(), [&](const RankPart& part) {
    return !part.copy.empty() && part.copy == parts.front().copy;
  });
}

struct RankedRun::Received {
  std::vector<absl::StatusOr<RankMessage>> messages;

  bool AllRead() const {
    return std::all_of(messages.begin(), messages.end(),
                       [](const auto& message) { return message.ok(); });
  }

  bool AnyOf(bool at_verdict) const {
    return std::any_of(messages.begin(), messages.end(), [&](const auto& message) {
      return message.ok() && (message->stage == RankStage::kVerdict) == at_verdict;
    });
  }
};

RankedRun::RankedRun(RankGroup& group) : group_(group), host_(HostName()), hosts_(group.size()) {}

std::string RankedRun::Label(unsigned rank) const {
  const std::string& host = hosts_[rank];
  return StrCat("rank ", rank, host.empty() ? "" : " on ", host);
}

// Facts that cannot be sent are no facts: then the message says that.
Bytes RankedRun::Serialize(RankMessage message) const {
  absl::StatusOr<Bytes> bytes = internal::SerializeRankMessage(message);
  if (!bytes.ok()) {
    message.status.Update(bytes.status());
    message.facts.clear();
    bytes = internal::SerializeRankMessage(message);
  }
  return *std::move(bytes);
}

absl::StatusOr<RankedRun::Received> RankedRun::Gather(ByteSpan mine) {
  if (!broken_off_.ok()) return broken_off_;
  if (is_cut_off_) return MachineFailure("ranks", "the connection to them is lost");
  absl::StatusOr<std::vector<Bytes>> all = group_.AllGather(mine);
  if (all.ok() && all->size() != size()) {
    all = MachineFailure("ranks", StrCat(all->size(), " messages came of ", size()));
  }
  if (!all.ok()) {
    is_cut_off_ = true;
    return all.status();
  }
  Received received;
  for (unsigned i = 0; i < size(); ++i) {
    received.messages.push_back(internal::ParseRankMessage((*all)[i], Label(i)));
    if (received.messages.back().ok()) hosts_[i] = received.messages.back()->host;
    (*all)[i] = Bytes();
  }
  if (!received.AllRead()) broken_off_ = Merge(received);
  return received;
}

absl::Status RankedRun::Merge(const Received& received) const {
  // Findings in the order in which they first appear, with the ranks that made them.
  std::vector<std::pair<Refusal, std::vector<unsigned>>> findings;
  std::map<std::tuple<Reason, std::string, std::string>, size_t> places;
  std::vector<std::pair<absl::Status, unsigned>> failures;
  bool anybody_follows = false;
  const RankMessage* first = nullptr;
  for (unsigned i = 0; i < size(); ++i) {
    const auto& message = received.messages[i];
    if (message.ok()) {
      anybody_follows = anybody_follows || message->follows;
      if (first == nullptr) first = &*message;
      if (message->follows) continue;
    }
    const absl::Status& status = message.ok() ? message->status : message.status();
    if (status.ok()) continue;
    const std::vector<Refusal> refusals = RefusalsOf(status);
    if (refusals.empty()) failures.emplace_back(status, i);
    for (const Refusal& refusal : refusals) {
      const auto [place, is_new] =
          places.try_emplace({refusal.reason, refusal.item, refusal.detail}, findings.size());
      if (is_new) findings.push_back({refusal, {}});
      std::vector<unsigned>& by = findings[place->second].second;
      if (by.empty() || by.back() != i) by.push_back(i);
    }
  }
  const auto by_whom = [&](const std::vector<unsigned>& ranks) {
    if (ranks.size() == size()) return std::string();
    std::string text;
    for (size_t i = 0; i < std::min(ranks.size(), kMostRanksNamed); ++i) {
      StrAppend(&text, i == 0 ? " (" : ", ", Label(ranks[i]));
    }
    if (ranks.size() > kMostRanksNamed) {
      StrAppend(&text, " and ", ranks.size() - kMostRanksNamed, " more");
    }
    return text + ")";
  };
  if (!findings.empty()) {
    // What only some of them found explains what all of them say.
    std::stable_partition(findings.begin(), findings.end(),
                          [&](const auto& entry) { return entry.second.size() < size(); });
    std::vector<Refusal> refusals;
    for (auto& [refusal, ranks] : findings) {
      refusal.detail += by_whom(ranks);
      refusals.push_back(std::move(refusal));
    }
    return Refuse(std::move(refusals));
  }
  if (!failures.empty()) {
    // A usage error says more than the failures that came of it.
    const auto chosen = std::min_element(
        failures.begin(), failures.end(),
        [](const auto& a, const auto& b) { return ExitCodeOf(a.first) < ExitCodeOf(b.first); });
    const std::string message(FromAbsl(chosen->first.message()));
    std::vector<unsigned> ranks;
    for (const auto& [status, rank] : failures) {
      if (FromAbsl(status.message()) == message) ranks.push_back(rank);
    }
    const std::string text = message + by_whom(ranks);
    return ExitCodeOf(chosen->first) == 2 ? UsageError(text) : MachineFailure("", text);
  }
  if (anybody_follows) return MachineFailure("ranks", "one ended and does not say why");
  for (unsigned i = 0; i < size(); ++i) {
    const RankMessage& message = *received.messages[i];
    if (message.stage != first->stage || message.facts.size() != first->facts.size()) {
      return Disagreement(StrCat(Label(i), " is at another step than ", Label(0)));
    }
    for (size_t j = 0; j < message.facts.size(); ++j) {
      if (message.facts[j] == first->facts[j]) continue;
      return Disagreement(
          StrCat(first->facts[j].first, " of ", Label(i), " is not that of ", Label(0)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Bytes>> RankedRun::Exchange(Round round, const absl::Status& status,
                                                       const RankFacts& facts, ByteSpan payload) {
  RankMessage mine = {round == Round::kRequest ? RankStage::kRequest : RankStage::kResults,
                      host_,
                      false,
                      status,
                      facts,
                      Bytes(payload.begin(), payload.end())};
  PAVISE_ASSIGN_OR_RETURN(Received received, Gather(Serialize(std::move(mine))));
  PAVISE_RETURN_IF_ERROR(broken_off_);
  if (received.AnyOf(/*at_verdict=*/true)) {
    follows_ = true;
    return MachineFailure("ranks", "another rank has ended");
  }
  PAVISE_RETURN_IF_ERROR(Merge(received));
  std::vector<Bytes> payloads;
  for (auto& message : received.messages) payloads.push_back(std::move(message->payload));
  return payloads;
}

absl::StatusOr<std::vector<RankPart>> RankedRun::Conclude(const absl::Status& status,
                                                          const RankFacts& facts,
                                                          const RankPart& mine) {
  if (is_concluded_) return MachineFailure("ranks", "a run has one conclusion");
  is_concluded_ = true;
  MessageWriter part;
  part.Text(mine.device);
  part.Text(mine.copy);
  for (const uint64_t number :
       {mine.bytes_read, mine.tensors, mine.device_bytes, mine.answers_sampled}) {
    part.Integer(number);
  }
  const Bytes message =
      Serialize({RankStage::kVerdict, host_, follows_, status, facts, part.Take()});
  for (int i = 0; i < kMostRounds; ++i) {
    absl::StatusOr<Received> received = Gather(message);
    PAVISE_RETURN_IF_ERROR(broken_off_);
    // A refusal of one's own stands without the others.
    if (!received.ok()) return ExitCodeOf(status) == 1 ? status : received.status();
    if (received->AnyOf(/*at_verdict=*/false)) continue;
    PAVISE_RETURN_IF_ERROR(Merge(*received));
    std::vector<RankPart> parts;
    for (unsigned j = 0; j < size(); ++j) {
      MessageReader reader(received->messages[j]->payload);
      RankPart of_rank;
      of_rank.host = hosts_[j];
      of_rank.device = reader.Text();
      of_rank.copy = reader.Text();
      for (uint64_t* number : {&of_rank.bytes_read, &of_rank.tensors, &of_rank.device_bytes,
                               &of_rank.answers_sampled}) {
        *number = reader.Integer();
      }
      if (!reader.AtEnd()) {
        return Refuse(Reason::kMalformed, Label(j), "sent a message that breaks its form");
      }
      parts.push_back(std::move(of_rank));
    }
    return parts;
  }
  return MachineFailure("ranks", "some do not come to an end");
}

}  // namespace pavise::loading
