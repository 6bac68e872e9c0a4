#include "pavise/policy/history.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/policy/testing/test_agreement.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::policy {
namespace {

using ::testing::Contains;
using testing::Deposited;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::InForceHistory;
using ::testing::IsEmpty;
using testing::kTestTime;
using testing::NextOf;
using testing::Payload;
using testing::Proposed;
using ::testing::SizeIs;
using testing::StakeholderOf;
using testing::ThreeOwners;
using testing::Voted;
using testing::Withdrawn;

const EvidenceRules kRules = {.policy = {1}, .files = {}, .anchors = {}};
constexpr std::string_view kBroker =
    "00000000000000000000000000000000000000000000000000000000000000b0";

uint64_t VersionOf(const AgreementHistory& history) {
  const auto in_force = history.InForce();
  return in_force.has_value() ? (*in_force)->agreement->version : 0;
}

// Version 2 of three owners' agreement, altered; tells the version in force after these votes.
struct Change {
  explicit Change(
      const std::function<void(Agreement&)>& alter,
      const std::function<void(Agreement&)>& before = [](Agreement&) {})
      : first(ThreeOwners(kRules)),
        history((before(first), InForceHistory(first))),
        next(NextOf(Payload(first))) {
    alter(next);
    const auto events = history.Append(Proposed(next, "vendor"), Later());
    EXPECT_TRUE(events.ok()) << events.status();
  }
  absl::Time Later() { return now += absl::Minutes(1); }
  absl::Status Vote(const std::string& name, policy::Vote vote = policy::Vote::kApprove) {
    const absl::Time at = Later();
    return history.Append(Voted(history, next, name, at, vote), at).status();
  }
  uint64_t After(const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      const absl::Status status = Vote(name);
      EXPECT_TRUE(status.ok()) << name << ": " << status;
    }
    return VersionOf(history);
  }

  absl::Time now = kTestTime;
  Agreement first;
  AgreementHistory history;
  Agreement next;
};

void MoreRuns(Agreement& agreement) { agreement.stages["train"].limits.runs = 9; }

TEST(AgreementHistoryTest, NeedsEveryOwnerAtFirst) {
  const Agreement agreement = ThreeOwners(kRules);
  auto history = AgreementHistory::Begin(Proposed(agreement, "clinic-a"), kTestTime);
  ASSERT_TRUE(history.ok()) << history.status();
  EXPECT_EQ(history->id(), testing::DigestOf(Payload(agreement)));
  for (const char* name : {"clinic-a", "clinic-b"}) {
    ASSERT_TRUE(history->Append(Voted(*history, agreement, name, kTestTime), kTestTime).ok());
    EXPECT_EQ(history->InForce(), std::nullopt);
  }
  EXPECT_THAT(history->Open()[0].missing, ElementsAre(HasSubstr("vendor must approve")));
  const auto events = history->Append(Voted(*history, agreement, "vendor", kTestTime), kTestTime);
  ASSERT_TRUE(events.ok()) << events.status();
  ASSERT_THAT(*events, SizeIs(2));
  EXPECT_EQ((*events)[1].kind, HistoryEventKind::kInForce);
  EXPECT_EQ(VersionOf(*history), 1u);
}

TEST(AgreementHistoryTest, RefusesWhoHasNoSay) {
  const Agreement agreement = ThreeOwners(kRules);
  EXPECT_EQ(ReasonOf(AgreementHistory::Begin(Proposed(agreement, "stranger"), kTestTime).status()),
            Reason::kSignerUntrusted);
  AgreementHistory history =
      AgreementHistory::Begin(Proposed(agreement, "vendor"), kTestTime).value();
  EXPECT_EQ(
      ReasonOf(
          history.Append(Voted(history, agreement, "stranger", kTestTime), kTestTime).status()),
      Reason::kSignerUntrusted);
  // A stranger's signature under an owner's key id.
  Bytes forged = Voted(history, agreement, "stranger", kTestTime);
  std::string text(AsText(forged));
  const std::string key = testing::SigningKey("stranger").public_key().Fingerprint();
  text.replace(text.find(key), key.size(),
               testing::SigningKey("vendor").public_key().Fingerprint());
  EXPECT_EQ(ReasonOf(history.Append(AsBytes(text), kTestTime).status()), Reason::kSignatureInvalid);
  // A version that follows another is no beginning.
  EXPECT_EQ(
      ReasonOf(AgreementHistory::Begin(Proposed(NextOf(Payload(agreement)), "vendor"), kTestTime)
                   .status()),
      Reason::kBindingMismatch);
  EXPECT_THAT(history.Open()[0].votes, IsEmpty());
}

TEST(AgreementHistoryTest, VotesCannotBeReplayed) {
  Change change(MoreRuns);
  // Of another agreement, between the same people.
  Agreement other = ThreeOwners(kRules);
  other.name = "another";
  const AgreementHistory elsewhere = InForceHistory(other);
  EXPECT_EQ(ReasonOf(change.history
                         .Append(Voted(elsewhere, change.next, "clinic-a", kTestTime), change.now)
                         .status()),
            Reason::kBindingMismatch);
  // Of a text that nobody proposed, of the version in force.
  Agreement unproposed = change.next;
  unproposed.stages["train"].limits.runs = 100;
  EXPECT_EQ(
      ReasonOf(change.history
                   .Append(Voted(change.history, unproposed, "clinic-a", kTestTime), change.now)
                   .status()),
      Reason::kBindingMismatch);
  EXPECT_EQ(
      ReasonOf(change.history
                   .Append(Voted(change.history, change.first, "clinic-a", kTestTime), change.now)
                   .status()),
      Reason::kPolicyDenied);
  // The same again, and one from the future.
  const Bytes vote = Voted(change.history, change.next, "clinic-a", kTestTime);
  EXPECT_TRUE(change.history.Append(vote, change.now).ok());
  EXPECT_EQ(ReasonOf(change.history.Append(vote, change.now).status()), Reason::kPolicyDenied);
  EXPECT_EQ(ReasonOf(change.history
                         .Append(Voted(change.history, change.next, "clinic-b",
                                       change.now + absl::Hours(1)),
                                 change.now)
                         .status()),
            Reason::kPolicyDenied);
  EXPECT_EQ(VersionOf(change.history), 1u);
}

TEST(AgreementHistoryTest, ChangesNeedAsManyAsTheVersionInForceSays) {
  Change change(MoreRuns);
  EXPECT_EQ(change.After({"clinic-a"}), 1u);
  EXPECT_EQ(change.After({"clinic-b"}), 2u);
  // The proposal's own rule does not count.
  Change lenient([](Agreement& next) { next.changes.approvals = 1; });
  EXPECT_EQ(lenient.After({"vendor"}), 1u);
  EXPECT_EQ(lenient.After({"clinic-b"}), 2u);
  // An abstention is no approval, and can be changed.
  Change abstained(MoreRuns);
  EXPECT_TRUE(abstained.Vote("clinic-a", Vote::kAbstain).ok());
  EXPECT_EQ(abstained.After({"vendor"}), 1u);
  EXPECT_EQ(abstained.After({"clinic-a"}), 2u);
}

TEST(AgreementHistoryTest, RefusesDowngradesAndForks) {
  Change change(MoreRuns);
  const Bytes rival = [&] {
    Agreement other = change.next;
    other.stages["train"].limits.runs = 10;
    return Proposed(other, "clinic-a");
  }();
  ASSERT_TRUE(change.history.Append(rival, change.Later()).ok());
  ASSERT_EQ(change.After({"clinic-a", "vendor"}), 2u);
  EXPECT_THAT(change.history.Open(), IsEmpty());
  EXPECT_EQ(ReasonOf(change.history.Append(rival, change.Later()).status()), Reason::kPolicyDenied);
  EXPECT_EQ(ReasonOf(change.history.Append(Proposed(change.first, "vendor"), change.now).status()),
            Reason::kVersionTooOld);
  EXPECT_EQ(ReasonOf(change.Vote("clinic-b")), Reason::kPolicyDenied);
  Agreement stale = NextOf(Payload(change.first));
  stale.stages["train"].limits.runs = 11;
  EXPECT_EQ(ReasonOf(change.history.Append(Proposed(stale, "vendor"), change.now).status()),
            Reason::kVersionTooOld);
  Agreement jump = NextOf(Payload(change.next));
  jump.version = 7;
  EXPECT_EQ(ReasonOf(change.history.Append(Proposed(jump, "vendor"), change.now).status()),
            Reason::kMalformed);
}

TEST(AgreementHistoryTest, OwnersDecideAboutTheirOwn) {
  // An asset that is altered, one that is new, one that changes hands: 2 of 3 is not enough.
  Change altered([](Agreement& next) { next.assets["scans-b"].sealed[0] ^= 1; });
  EXPECT_EQ(altered.After({"vendor", "clinic-a"}), 1u);
  EXPECT_EQ(altered.After({"clinic-b"}), 2u);
  Change added([](Agreement& next) {
    next.assets["more-b"] = next.assets["scans-b"];
    next.assets["more-b"].sealed[0] ^= 1;
  });
  EXPECT_EQ(added.After({"vendor", "clinic-a"}), 1u);
  Change taken([](Agreement& next) { next.assets["scans-b"].owner = "vendor"; });
  EXPECT_EQ(taken.After({"vendor", "clinic-a"}), 1u);
  EXPECT_EQ(taken.After({"clinic-b"}), 2u);
  // A rule of clinic-b's, and what it names.
  const auto with_rule = [](Agreement& first) {
    OwnerRule rule;
    rule.owner = "clinic-b";
    rule.stages = {"train"};
    rule.recipients = {"vendor"};
    first.rules["of-b"] = rule;
  };
  const std::vector<std::function<void(Agreement&)>> alterations = {
      [](Agreement& next) { next.rules.clear(); },
      [](Agreement& next) { next.rules["of-b"].stages->insert("audit"); },
      [](Agreement& next) { next.rules["of-b"].recipients->insert("clinic-a"); },
      [](Agreement& next) { next.stages["train"].command = {"/bin/sh"}; },
      [](Agreement& next) { next.assets["trainer"].statement[0] ^= 1; },
      [](Agreement& next) {
        next.stakeholders.erase("vendor");
        next.stakeholders.emplace(
            "vendor", Stakeholder{testing::SigningKey("vendor").public_key(),
                                  testing::EncryptionKey("vendor, replaced").public_key()});
      },
  };
  for (size_t i = 0; i < alterations.size(); ++i) {
    Change rule(alterations[i], with_rule);
    EXPECT_EQ(rule.After({"vendor", "clinic-a"}), 1u) << i;
    EXPECT_EQ(rule.After({"clinic-b"}), 2u) << i;
  }
  // What it does not name is the others' to change; and it may be left out with all that is its
  // owner's.
  Change beside([](Agreement& next) { next.stages["audit"].limits.runs = 9; }, with_rule);
  EXPECT_EQ(beside.After({"vendor", "clinic-a"}), 2u);
  Change without(
      [](Agreement& next) {
        next.assets.erase("scans-b");
        next.stages["train"].inputs.erase("scans-b");
        next.rules.clear();
      },
      with_rule);
  EXPECT_EQ(without.After({"vendor"}), 1u);
  EXPECT_EQ(without.After({"clinic-a"}), 2u);
}

TEST(AgreementHistoryTest, ALostKeyIsReplacedByTheChangeRuleAlone) {
  const auto replace = [](Agreement& next) {
    next.stakeholders.erase("clinic-b");
    next.stakeholders.emplace("clinic-b", StakeholderOf("clinic-b, anew"));
  };
  Change change(replace);
  EXPECT_EQ(change.After({"vendor"}), 1u);
  // The new key shows that it is held, and is no second vote of the old rule.
  EXPECT_EQ(change.After({"clinic-b, anew"}), 1u);
  EXPECT_EQ(change.After({"clinic-a"}), 2u);
  const auto in_force = *change.history.InForce();
  const auto deposit = DepositVerifier::Verify(
      Deposited(change.history, "scans-b", "clinic-b", kBroker), in_force, kBroker);
  EXPECT_TRUE(deposit.ok()) << deposit.status();
  // From now on the old key says nothing.
  EXPECT_EQ(ReasonOf(change.history
                         .Append(Withdrawn(change.history, {"scans-b"}, "clinic-b", change.now),
                                 change.now)
                         .status()),
            Reason::kSignerUntrusted);
  // Without the new key's word nothing happens.
  Change silent(replace);
  EXPECT_EQ(silent.After({"vendor", "clinic-a"}), 1u);
}

TEST(AgreementHistoryTest, AVetoEndsAProposalAndSilenceOnlyDelaysIt) {
  const auto with_veto = [](Agreement& first) {
    first.changes.vetoes = {"clinic-b"};
    first.changes.veto_period = absl::Hours(48);
  };
  Change vetoed(MoreRuns, with_veto);
  EXPECT_EQ(vetoed.After({"vendor"}), 1u);
  EXPECT_EQ(ReasonOf(vetoed.Vote("clinic-a", Vote::kVeto)), Reason::kPolicyDenied);
  EXPECT_EQ(vetoed.After({"clinic-a"}), 1u);
  EXPECT_TRUE(vetoed.Vote("clinic-b", Vote::kVeto).ok());
  EXPECT_EQ(ReasonOf(vetoed.Vote("clinic-b")), Reason::kPolicyDenied);
  EXPECT_THAT(vetoed.history.Settle(vetoed.now + absl::Hours(100)), IsEmpty());
  EXPECT_EQ(VersionOf(vetoed.history), 1u);

  Change answered(MoreRuns, with_veto);
  EXPECT_EQ(answered.After({"vendor", "clinic-a"}), 1u);
  EXPECT_TRUE(answered.Vote("clinic-b", Vote::kAbstain).ok());
  EXPECT_EQ(VersionOf(answered.history), 2u);

  Change silent(MoreRuns, with_veto);
  EXPECT_EQ(silent.After({"vendor", "clinic-a"}), 1u);
  EXPECT_THAT(silent.history.Settle(silent.now + absl::Hours(40)), IsEmpty());
  EXPECT_THAT(silent.history.Settle(silent.now + absl::Hours(48)), SizeIs(1));
  EXPECT_EQ(VersionOf(silent.history), 2u);
}

TEST(AgreementHistoryTest, WithdrawalHoldsUntilTheOwnerApprovesLater) {
  Change change(MoreRuns);
  // Approved before the withdrawal: does not restore consent.
  ASSERT_TRUE(change.Vote("clinic-a").ok());
  const absl::Time at = change.Later();
  const Bytes withdrawal = Withdrawn(change.history, {"scans-a"}, "clinic-a", at);
  ASSERT_TRUE(change.history.Append(withdrawal, at).ok());
  EXPECT_THAT((*change.history.InForce())->withdrawn, SizeIs(1));
  ASSERT_EQ(change.After({"vendor"}), 2u);
  EXPECT_THAT((*change.history.InForce())->withdrawn, SizeIs(1));
  // Not theirs; again; of a version that is in force.
  EXPECT_EQ(
      ReasonOf(
          change.history.Append(Withdrawn(change.history, {"base"}, "clinic-a", at), at).status()),
      Reason::kPolicyDenied);
  EXPECT_EQ(ReasonOf(change.history.Append(withdrawal, at).status()), Reason::kPolicyDenied);

  Agreement third = NextOf(Payload(change.next));
  third.stages["train"].limits.runs = 10;
  ASSERT_TRUE(change.history.Append(Proposed(third, "vendor"), change.Later()).ok());
  // An approval that was signed before the withdrawal and kept back.
  EXPECT_TRUE(
      change.history
          .Append(Voted(change.history, third, "clinic-a", at - absl::Minutes(1)), change.Later())
          .ok());
  const absl::Time vote = change.Later();
  ASSERT_TRUE(change.history.Append(Voted(change.history, third, "clinic-b", vote), vote).ok());
  ASSERT_EQ(VersionOf(change.history), 3u);
  EXPECT_THAT((*change.history.InForce())->withdrawn, SizeIs(1));

  Agreement fourth = NextOf(Payload(third));
  fourth.stages["train"].limits.runs = 11;
  ASSERT_TRUE(change.history.Append(Proposed(fourth, "vendor"), change.Later()).ok());
  for (const char* name : {"clinic-b", "clinic-a"}) {
    const absl::Time when = change.Later();
    ASSERT_TRUE(change.history.Append(Voted(change.history, fourth, name, when), when).ok());
  }
  ASSERT_EQ(VersionOf(change.history), 4u);
  EXPECT_THAT((*change.history.InForce())->withdrawn, IsEmpty());
  // The old withdrawal, replayed.
  EXPECT_EQ(ReasonOf(change.history.Append(withdrawal, change.Later()).status()),
            Reason::kPolicyDenied);
}

TEST(AgreementHistoryTest, DepositsAreTheOwnersForThisFileAndBroker) {
  const Agreement agreement = ThreeOwners(kRules);
  const AgreementHistory history = InForceHistory(agreement);
  const auto in_force = *history.InForce();
  const auto reason = [&](const Bytes& envelope, std::string_view broker = kBroker) {
    return ReasonOf(DepositVerifier::Verify(envelope, in_force, broker).status());
  };
  EXPECT_EQ(reason(Deposited(history, "scans-a", "clinic-a", kBroker)), std::nullopt);
  EXPECT_EQ(reason(Deposited(history, "scans-a", "clinic-b", kBroker)), Reason::kSignerUntrusted);
  EXPECT_EQ(reason(Deposited(history, "scans-a", "stranger", kBroker)), Reason::kSignerUntrusted);
  EXPECT_EQ(reason(Deposited(history, "scans-c", "clinic-a", kBroker)), Reason::kPolicyDenied);
  EXPECT_EQ(reason(Deposited(history, "scans-a", "clinic-a", kBroker), std::string(64, '1')),
            Reason::kBindingMismatch);
  EXPECT_EQ(reason(Voted(history, agreement, "clinic-a", kTestTime)), Reason::kUnsupported);
  Agreement other = agreement;
  other.name = "another";
  EXPECT_EQ(reason(Deposited(InForceHistory(other), "scans-a", "clinic-a", kBroker)),
            Reason::kBindingMismatch);
  Agreement resealed = agreement;
  resealed.assets["scans-a"].sealed[0] ^= 1;
  const AgreementHistory another = InForceHistory(resealed);
  EXPECT_EQ(ReasonOf(DepositVerifier::Verify(Deposited(another, "scans-a", "clinic-a", kBroker),
                                             *another.InForce(), kBroker)
                         .status()),
            Reason::kBindingMismatch);
}

TEST(AgreementHistoryTest, OpenProposalsAreLimited) {
  Change change(MoreRuns);
  for (uint64_t runs = 20; runs < 23; ++runs) {
    Agreement other = change.next;
    other.stages["train"].limits.runs = runs;
    EXPECT_TRUE(change.history.Append(Proposed(other, "vendor"), change.now).ok());
  }
  Agreement fifth = change.next;
  fifth.stages["train"].limits.runs = 30;
  EXPECT_EQ(ReasonOf(change.history.Append(Proposed(fifth, "vendor"), change.now).status()),
            Reason::kLimitExceeded);
  EXPECT_TRUE(change.history.Append(Proposed(fifth, "clinic-a"), change.now).ok());
  // Whoever proposed may take it back.
  EXPECT_TRUE(change.Vote("vendor", Vote::kVeto).ok());
  EXPECT_THAT(change.history.Open(), SizeIs(4));
}

// Every subset of the approvals that put a wider version in force: one approval less never leads
// to a later version, which allows more.
TEST(AgreementHistoryTest, RemovingAnApprovalNeverEnlargesWhatIsAllowed) {
  const std::vector<std::string> names = {"vendor", "clinic-a", "clinic-b", "clinic-b, anew"};
  const std::vector<std::function<void(Agreement&)>> widenings = {
      MoreRuns,
      [](Agreement& next) { next.assets["base"].sealed[0] ^= 1; },
      [](Agreement& next) {
        next.stakeholders.erase("clinic-b");
        next.stakeholders.emplace("clinic-b", StakeholderOf("clinic-b, anew"));
      },
  };
  size_t cases = 0;
  for (size_t widening = 0; widening < widenings.size(); ++widening) {
    std::vector<uint64_t> reached(1u << names.size());
    for (size_t subset = 0; subset < reached.size(); ++subset) {
      Change change(widenings[widening]);
      for (size_t i = 0; i < names.size(); ++i) {
        // Refused votes (of keys without a say, after the decision) count for nothing.
        if ((subset >> i & 1) != 0) (void)change.Vote(names[i]).ok();
      }
      reached[subset] = VersionOf(change.history);
      for (size_t i = 0; i < names.size(); ++i) {
        if ((subset >> i & 1) == 0) continue;
        EXPECT_LE(reached[subset & ~(size_t{1} << i)], reached[subset])
            << widening << " " << subset;
        ++cases;
      }
    }
    EXPECT_THAT(reached, Contains(1u));
    EXPECT_EQ(reached.back(), 2u);
  }
  EXPECT_EQ(cases, 3u * 32u);
}

}  // namespace
}  // namespace pavise::policy
