#include "pavise/ledger/bundle.h"

#include <string>

#include "pavise/base/json.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/ledger/testing/example_log.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::ledger {
namespace {

using ::testing::ElementsAre;
using testing::ExampleHistory;
using testing::ExampleLog;
using testing::FilledDigest;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::KeyId;
using testing::LogKey;
using testing::LogOf;
using ::testing::SizeIs;

constexpr uint64_t kEntries = 17;

const ExampleLog& TheLog() {
  static const ExampleLog* const log = new ExampleLog(LogOf(ExampleHistory()));
  return *log;
}

absl::StatusOr<VerifiedBundle> Verify(const LedgerBundle& bundle) {
  return BundleVerifier::Verify(bundle, {LogKey(), {}, 0}, "bundle");
}

void ExpectRefused(const LedgerBundle& bundle, std::string_view what,
                   Reason reason = Reason::kTransparencyInvalid) {
  const auto verified = Verify(bundle);
  EXPECT_EQ(ReasonOf(verified.status()), reason) << what;
}

LedgerExtract Extract(const LedgerBundle& bundle) {
  const auto verified = Verify(bundle);
  EXPECT_TRUE(verified.ok()) << verified.status();
  return **verified;
}

TEST(LedgerBundle, ProvesItsEntries) {
  const LedgerBundle bundle = TheLog().BundleAt(kEntries, {0, 3, 16});
  const std::string text = FormatBundle(bundle);
  const auto parsed = ParseBundle(AsBytes(text), "bundle");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(FormatBundle(*parsed), text);
  const LedgerExtract extract = Extract(*parsed);
  ASSERT_THAT(extract.entries, SizeIs(kEntries));
  for (uint64_t i = 0; i < kEntries; ++i) {
    EXPECT_EQ(extract.entries[i].index, i);
    EXPECT_EQ(extract.entries[i].entry, ExampleHistory()[i]);
  }
  EXPECT_THAT(extract.earlier, SizeIs(3));
  EXPECT_THAT(extract.missing, ElementsAre(::testing::Pair(FilledDigest(0xaa), 0u)));
}

// The committed bundle is made in another language, from the format's description alone.
TEST(LedgerBundle, OfAnotherImplementationIsVerified) {
  const std::string folder = StrCat(PAVISE_SOURCE_DIR, "/fuzz/corpus/ledger_bundle_fuzz/");
  const std::string text = crypto::testing::ReadText(folder + "whole.json");
  const auto bundle = ParseBundle(AsBytes(text), "whole.json");
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  const auto verified = BundleVerifier::Verify(
      *bundle, {LogKey(), {testing::CosignerKey(8, "witness.example")}, 1}, "whole.json");
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_THAT((*verified)->entries, SizeIs(kEntries));
  EXPECT_THAT((*verified)->earlier, SizeIs(3));
  EXPECT_THAT(WhoHad(**verified, "scans"), SizeIs(2));
}

TEST(LedgerBundle, SaysHowManyEntriesOfAnAgreementAreMissing) {
  LedgerBundle bundle = TheLog().BundleAt(kEntries);
  bundle.entries.erase(bundle.entries.begin(), bundle.entries.begin() + 2);
  bundle.entries.erase(bundle.entries.begin() + 3);
  EXPECT_EQ(Extract(bundle).missing.at(FilledDigest(0xaa)), 3u);
  bundle.entries.clear();
  EXPECT_THAT(Extract(bundle).missing, IsEmpty());
}

TEST(LedgerBundle, RefusesWhatIsNotInTheLog) {
  const LedgerBundle bundle = TheLog().BundleAt(kEntries, {3, 16});
  size_t hashes = 0;
  for (size_t i = 0; i < bundle.entries.size(); ++i) {
    LedgerBundle changed = bundle;
    LedgerEntry other = ExampleHistory()[i];
    other.time += absl::Microseconds(1);
    changed.entries[i].text = *FormatEntry(other);
    ExpectRefused(changed, "another entry");
    changed = bundle;
    changed.entries[i].index += 100;
    ExpectRefused(changed, "another index");
    changed = bundle;
    std::swap(changed.entries[i].text, changed.entries[(i + 1) % kEntries].text);
    ExpectRefused(changed, "entries exchanged");
    for (size_t h = 0; h < bundle.entries[i].proof.size(); ++h, ++hashes) {
      changed = bundle;
      changed.entries[i].proof[h][h] ^= 1;
      ExpectRefused(changed, "a hash of its proof");
    }
  }
  EXPECT_EQ(hashes, 16u * 5 + 1);
  for (size_t i = 0; i < bundle.earlier.size(); ++i) {
    for (size_t h = 0; h < bundle.earlier[i].proof.size(); ++h) {
      LedgerBundle changed = bundle;
      changed.earlier[i].proof[h][h] ^= 1;
      ExpectRefused(changed, "a hash of a consistency proof");
    }
  }
  LedgerBundle changed = bundle;
  changed.checkpoint = TheLog().CheckpointAt(16);
  ExpectRefused(changed, "an older checkpoint");
  changed.checkpoint = TheLog().CheckpointAt(kEntries, 2);
  ExpectRefused(changed, "another log's key", Reason::kSignerUntrusted);
  changed = bundle;
  changed.earlier[0].note = TheLog().CheckpointAt(3, 2);
  ExpectRefused(changed, "another key's earlier checkpoint", Reason::kSignerUntrusted);
}

// All findings are told, not the first only.
TEST(LedgerBundle, NamesEveryEntryThatIsRefused) {
  LedgerBundle bundle = TheLog().BundleAt(kEntries);
  bundle.entries[2].proof.pop_back();
  bundle.entries[5].text += " ";
  const std::vector<Refusal> findings = RefusalsOf(Verify(bundle).status());
  ASSERT_THAT(findings, SizeIs(2));
  EXPECT_EQ(findings[0].item, "entry 2");
  EXPECT_EQ(findings[1].item, "entry 5");
}

TEST(LedgerBundle, RefusesHistoriesThatCannotBe) {
  std::vector<LedgerEntry> entries = ExampleHistory();
  entries[9].time = entries[8].time - absl::Microseconds(1);
  ExpectRefused(LogOf(entries).BundleAt(kEntries), "time runs backwards");
  entries[9].time = entries[8].time;
  EXPECT_TRUE(Verify(LogOf(entries).BundleAt(kEntries)).ok());
  entries[9].sequence = entries[8].sequence;
  ExpectRefused(LogOf(entries).BundleAt(kEntries), "two entries in one place");
  // In the log, but no entry.
  ExampleLog log = LogOf(ExampleHistory());
  log.AppendText("{}");
  ExpectRefused(log.BundleAt(kEntries + 1), "no entry", Reason::kMalformed);
}

TEST(LedgerBundle, OtherTextsAreRefused) {
  const Json json = Json::parse(FormatBundle(TheLog().BundleAt(kEntries, {3, 16})));
  const auto expect = [&](Reason reason, auto change) {
    Json changed = json;
    change(changed);
    const auto parsed = ParseBundle(AsBytes(changed.dump()), "bundle");
    EXPECT_EQ(ReasonOf(parsed.status()), reason) << parsed.status();
  };
  const auto malformed = [&](auto change) { expect(Reason::kMalformed, change); };
  malformed([](Json& j) { j.erase("checkpoint"); });
  malformed([](Json& j) { j.erase("earlier"); });
  malformed([](Json& j) { j.erase("entries"); });
  malformed([](Json& j) { j["more"] = 1; });
  malformed([](Json& j) { j["checkpoint"] = "x"; });
  malformed([](Json& j) { j["entries"][0]["index"] = -1; });
  malformed([](Json& j) { j["entries"][0]["index"] = 1; });  // twice
  malformed([](Json& j) { j["entries"][0]["more"] = 1; });
  malformed([](Json& j) { j["entries"][0]["entry"] = 1; });
  malformed([](Json& j) { j["entries"][0]["proof"][0] = 1; });
  malformed([](Json& j) { j["entries"][0]["proof"][0] = "AAAA"; });
  malformed([](Json& j) { j["entries"][0] = 1; });
  malformed([](Json& j) { j["earlier"][0]["more"] = 1; });
  malformed([](Json& j) { std::swap(j["earlier"][0], j["earlier"][1]); });
  expect(Reason::kUnsupported, [](Json& j) { j["format"] = "pavise-ledger-bundle/2"; });
  expect(Reason::kLimitExceeded, [](Json& j) {
    j["entries"][0]["proof"] = Json::array_t(97, j["entries"][0]["proof"][0]);
  });
  expect(Reason::kLimitExceeded,
         [](Json& j) { j["earlier"] = Json::array_t(kMaxEarlierCheckpoints + 1, Json::object()); });
}

TEST(LedgerBundle, WhoHadAKey) {
  const LedgerExtract extract = Extract(TheLog().BundleAt(kEntries));
  const auto kinds = [&](std::string_view subject) {
    std::vector<std::string_view> names;
    for (const ProvenEntry* each : WhoHad(extract, subject)) {
      names.push_back(EntryKindName(each->entry.kind));
    }
    return names;
  };
  EXPECT_THAT(kinds("scans"), ElementsAre("release"));
  EXPECT_THAT(kinds(ToHex(FilledDigest(0x5e))), ElementsAre("release"));
  EXPECT_THAT(kinds("model"), ElementsAre("output-released"));
  EXPECT_THAT(kinds(KeyId('a')), ElementsAre("release", "revocation", "output-released"));
  EXPECT_THAT(kinds(KeyId('5')), ElementsAre("release", "revocation"));
  EXPECT_THAT(kinds("tpm:3b7a"), ElementsAre("release"));
  EXPECT_THAT(kinds(KeyId('c')), ElementsAre("output-released"));
  EXPECT_THAT(kinds(std::string(32, '7')), ElementsAre("release", "revocation", "output-released"));
  EXPECT_THAT(kinds("scan"), IsEmpty());
  EXPECT_THAT(kinds(""), IsEmpty());
}

TEST(LedgerViews, OneHistory) {
  const LedgerExtract ten = Extract(TheLog().BundleAt(10));
  const LedgerExtract all = Extract(TheLog().BundleAt(kEntries, {5}));
  const LedgerExtract all_from_ten = Extract(TheLog().BundleAt(kEntries, {10}));
  EXPECT_TRUE(CompareViews(ten, "a", ten, "b", nullptr).ok());
  EXPECT_TRUE(CompareViews(ten, "a", all_from_ten, "b", nullptr).ok());
  EXPECT_TRUE(CompareViews(all_from_ten, "a", ten, "b", nullptr).ok());
  EXPECT_TRUE(CompareViews(ten, "a", all, "b", &all_from_ten).ok());
  // What nobody proved is not taken on trust.
  const absl::Status unproven = CompareViews(ten, "a", all, "b", nullptr);
  EXPECT_EQ(ReasonOf(unproven), Reason::kTransparencyInvalid);
  EXPECT_THAT(RefusalsOf(unproven)[0].remedy, HasSubstr("ask the broker"));
  EXPECT_FALSE(CompareViews(ten, "a", all, "b", &all).ok());
  EXPECT_FALSE(CompareViews(ten, "a", all, "b", &ten).ok());
}

TEST(LedgerViews, AForkIsSeen) {
  std::vector<LedgerEntry> entries = ExampleHistory();
  entries[6].machine = "tpm:another";
  const ExampleLog fork = LogOf(entries);
  const LedgerExtract all = Extract(TheLog().BundleAt(kEntries, {6, 10}));
  const auto refused = [&](const LedgerBundle& theirs, std::string_view remedy) {
    for (const bool swapped : {false, true}) {
      const LedgerExtract other = Extract(theirs);
      const absl::Status status = swapped ? CompareViews(other, "b", all, "a", &all)
                                          : CompareViews(all, "a", other, "b", &all);
      EXPECT_EQ(ReasonOf(status), Reason::kTransparencyInvalid);
      EXPECT_THAT(RefusalsOf(status)[0].remedy, HasSubstr(remedy));
    }
  };
  refused(fork.BundleAt(kEntries), "a fork, proven");
  refused(fork.BundleAt(10), "a fork, proven");        // equal sizes, among the earlier ones
  refused(fork.BundleAt(12, {10}), "a fork, proven");  // also of both
  refused(fork.BundleAt(12), "ask the broker");
  EXPECT_TRUE(CompareViews(all, "a", Extract(fork.BundleAt(6)), "b", nullptr).ok());

  LedgerExtract other_log = all;
  other_log.checkpoint.note.checkpoint.origin = "other.example";
  EXPECT_EQ(ReasonOf(CompareViews(all, "a", other_log, "b", nullptr)), Reason::kIdentityMismatch);
}

}  // namespace
}  // namespace pavise::ledger
