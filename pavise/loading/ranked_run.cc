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
  const auto add_texts = [](MessageWriter& writer, const std::vector<std::string>& texts) {
    writer.Integer(texts.size());
    for (const std::string& text : texts) writer.String(AsBytes(text));
  };
  const auto add_ranges = [](MessageWriter& writer, const std::vector<signing::FileRange>& ranges) {
    writer.Integer(ranges.size());
    for (const signing::FileRange& range : ranges) {
      writer.String(AsBytes(range.path));
      writer.Integer(range.begin_bytes);
      writer.Integer(range.end_bytes);
    }
  };
  add_texts(asked, options.ignore_paths);
  add_texts(asked, options.tensors);
  add_ranges(asked, options.ranges);

  MessageWriter found;
  add_texts(found, report.digests_read);
  add_texts(found, report.tensors_checked);
  add_texts(found, report.unsigned_files_ignored);
  add_ranges(found, report.ranges_checked);
  found.Integer(report.files_checked);
  found.Integer(report.bytes_checked);
  const signing::SignerIdentity& signer = report.signed_statement.signer;
  return {{"the signature", ToHex(report.signed_statement.payload_sha256)},
          {"the signer", StrCat(signer.key_fingerprint, " ", signer.name, " ", signer.issuer)},
          {"the options", TextDigest(asked)},
          {"the result", TextDigest(found)}};
}

struct RankedRun::Received {
  std::vector<absl::StatusOr<RankMessage>> messages;

  bool AnyOf(bool at_verdict) const {
    return std::any_of(messages.begin(), messages.end(), [&](const auto& message) {
      return message.ok() && (message->stage == RankStage::kVerdict) == at_verdict;
    });
  }
};

RankedRun::RankedRun(RankGroup& group) : group_(group), hosts_(group.size()) {
  hosts_[group.rank()] = HostName();
}

std::string RankedRun::Label(unsigned rank) const {
  const std::string& host = hosts_[rank];
  return StrCat("rank ", rank, host.empty() ? "" : " on ", host);
}

absl::StatusOr<RankedRun::Received> RankedRun::Gather(ByteSpan mine) {
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
                      hosts_[rank()],
                      false,
                      status,
                      facts,
                      Bytes(payload.begin(), payload.end())};
  PAVISE_ASSIGN_OR_RETURN(Received received, Gather(internal::SerializeRankMessage(mine)));
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
  for (const uint64_t number :
       {mine.bytes_read, mine.tensors, mine.device_bytes, mine.answers_sampled}) {
    part.Integer(number);
  }
  const Bytes message = internal::SerializeRankMessage(
      {RankStage::kVerdict, hosts_[rank()], follows_, status, facts, part.Take()});
  for (int i = 0; i < kMostRounds; ++i) {
    absl::StatusOr<Received> received = Gather(message);
    // A refusal of one's own stands without the others.
    if (!received.ok()) return ExitCodeOf(status) == 1 ? status : received.status();
    if (received->AnyOf(/*at_verdict=*/false)) continue;
    PAVISE_RETURN_IF_ERROR(Merge(*received));
    std::vector<RankPart> parts;
    for (unsigned j = 0; j < size(); ++j) {
      MessageReader reader(received->messages[j]->payload);
      RankPart of_rank = {hosts_[j], reader.Text()};
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
