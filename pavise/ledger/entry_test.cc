#include "pavise/ledger/entry.h"

#include <set>
#include <string>

#include "pavise/base/canonical_json.h"
#include "pavise/base/json.h"
#include "pavise/base/strings.h"
#include "pavise/ledger/merkle_tree.h"
#include "pavise/ledger/testing/example_entries.h"

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::ledger {
namespace {

using ::testing::EndsWith;
using testing::ExampleEntry;
using ::testing::HasSubstr;
using testing::kAllKinds;
using testing::KeyId;
using ::testing::SizeIs;

absl::StatusOr<LedgerEntry> Parse(const std::string& text) {
  return ParseEntry(AsBytes(text), "entry");
}

std::string Text(const LedgerEntry& entry) {
  const auto text = FormatEntry(entry);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.value_or("");
}

TEST(LedgerEntry, HasOneText) {
  LedgerEntry entry;
  entry.kind = EntryKind::kWithdrawal;
  entry.time = absl::FromUnixMicros(1'767'225'600'000'001);
  entry.salt = {0x0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  entry.agreement = Digest32{};
  entry.sequence = 7;
  entry.actor = KeyId('a');
  entry.owners = {KeyId('a'), KeyId('b')};
  entry.statement = Digest32{};
  const std::string zeros(64, '0');
  EXPECT_EQ(Text(entry),
            StrCat(R"({"actor":")", KeyId('a'), R"(","agreement":")", zeros,
                   R"(","format":"pavise-ledger-entry/1","kind":"withdrawal","owners":[")",
                   KeyId('a'), R"(",")", KeyId('b'),
                   R"("],"salt":"0f0102030405060708090a0b0c0d0e0f","sequence":7,"statement":")",
                   zeros, R"(","time":"2026-01-01T00:00:00.000001Z"})"));
}

TEST(LedgerEntry, EveryKindComesBack) {
  std::set<std::string_view> names;
  for (const EntryKind kind : kAllKinds) {
    const LedgerEntry entry = ExampleEntry(kind);
    const auto parsed = Parse(Text(entry));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, entry) << EntryKindName(kind);
    EXPECT_EQ(*EntryKindFrom(EntryKindName(kind), "kind"), kind);
    names.insert(EntryKindName(kind));
  }
  EXPECT_THAT(names, SizeIs(17));
  EXPECT_EQ(ReasonOf(EntryKindFrom("releases", "kind").status()), Reason::kMalformed);
}

// Every member of every kind is taken away, and every member of other kinds is added. What is still
// accepted is written as it was read; the counts are those of docs/formats/ledger.md's table.
TEST(LedgerEntry, EachKindHasItsMembersAndNoOthers) {
  Json all;
  for (const EntryKind kind : kAllKinds) all.update(Json::parse(Text(ExampleEntry(kind))));
  EXPECT_THAT(all, SizeIs(23));
  size_t needed = 0;
  size_t foreign = 0;
  const auto refused = [](const Json& json) -> size_t {
    const std::string text = *CanonicalJson(json, "entry");
    const auto parsed = Parse(text);
    if (parsed.ok()) {
      EXPECT_EQ(Text(*parsed), text);
      return 0;
    }
    EXPECT_EQ(ExitCodeOf(parsed.status()), 1) << parsed.status();
    return 1;
  };
  for (const EntryKind kind : kAllKinds) {
    const Json json = Json::parse(Text(ExampleEntry(kind)));
    for (const auto& [name, value] : all.items()) {
      Json other = json;
      if (other.erase(name) != 0) {
        needed += refused(other);
      } else {
        other[name] = value;
        foreign += refused(other);
      }
    }
  }
  EXPECT_EQ(needed, 149u);
  EXPECT_EQ(foreign, 169u);
}

TEST(LedgerEntry, RefusesOtherTexts) {
  const std::string text = Text(ExampleEntry(EntryKind::kRelease));
  ASSERT_TRUE(Parse(text).ok());
  const auto changed = [&](const std::string& from, const std::string& to) {
    EXPECT_THAT(text, HasSubstr(from));
    return absl::StrReplaceAll(text, {{from, to}});
  };
  for (const std::string& other : {
           StrCat(" ", text),
           StrCat(text, "\n"),
           text.substr(0, text.size() - 1),
           changed("\"release\"", "\"released\""),
           changed("2026-", "1926-"),
           changed("000001Z", "000001+00:00"),
           changed(".000001Z", "Z"),
           changed(".000001Z", ".0000011Z"),
           changed("\"sequence\":3", "\"sequence\":0"),
           changed("\"sequence\":3", "\"sequence\":3.0"),
           changed("\"sequence\":3", "\"sequence\":-3"),
           changed("\"sequence\":3", "\"sequence\":9007199254740993"),
           changed("\"sequence\":3,", ""),
           changed("\"version\":2", "\"version\":\"2\""),
           changed("\"stage\":\"train\"", "\"stage\":\"\""),
           changed("\"stage\":\"train\"", "\"stage\":\"tra\\u0069n\""),
           changed("\"stage\":\"train\"", "\"stage\":\"tra\\nin\""),
           changed("\"stage\":\"train\"", StrCat("\"stage\":\"", std::string(129, 't'), "\"")),
           changed(KeyId('b'), KeyId('B')),
           changed(KeyId('b'), KeyId('b').substr(1)),
           changed(KeyId('b'), KeyId('a')),  // one owner twice
           changed("\"owners\":", "\"owner\":"),
           std::string("{}"),
           std::string("[]"),
           std::string(),
       }) {
    EXPECT_EQ(ReasonOf(Parse(other).status()), Reason::kMalformed) << other;
  }
  EXPECT_EQ(ReasonOf(Parse(changed("entry/1", "entry/2")).status()), Reason::kUnsupported);
  EXPECT_EQ(ReasonOf(Parse(StrCat(text, std::string(kMaxEntryBytes, ' '))).status()),
            Reason::kLimitExceeded);
}

TEST(LedgerEntry, WritesNothingThatCouldNotBeRead) {
  const auto refused = [](auto change) {
    LedgerEntry entry = ExampleEntry(EntryKind::kRefusal);
    change(entry);
    const auto text = FormatEntry(entry);
    EXPECT_EQ(ExitCodeOf(text.status()), 2) << text.status();
  };
  refused([](LedgerEntry& e) { e.time = absl::FromUnixMicros(-1); });
  refused([](LedgerEntry& e) { e.time = absl::FromUnixNanos(1); });
  refused([](LedgerEntry& e) { e.time = absl::InfiniteFuture(); });
  refused([](LedgerEntry& e) { e.machine = std::string(kMaxEntryTextBytes + 1, 'm'); });
  refused([](LedgerEntry& e) { e.mode.assign(1, '\xff'); });
  refused([](LedgerEntry& e) { e.owners = {KeyId('b'), KeyId('a')}; });
  refused([](LedgerEntry& e) { e.reasons.resize(kMaxEntryReasons + 1, e.reasons[0]); });
  refused([](LedgerEntry& e) { e.reasons[0].reason.clear(); });
  refused([](LedgerEntry& e) { e.sequence = 0; });
  refused([](LedgerEntry& e) { e.agreement.reset(); });
}

TEST(LedgerEntry, ReasonsAreMadeFitToBeWritten) {
  std::vector<Refusal> findings(
      20, {Reason::kMeasurementUnknown, "file\n\x1b[2J", std::string(5000, '"'), "install it"});
  findings[0].detail = StrCat(std::string(252, 'x'), "\xc3\xa4\xc3\xa4\xc3\xa4");
  LedgerEntry entry = ExampleEntry(EntryKind::kRefusal);
  entry.reasons = EntryReasons(findings);
  ASSERT_THAT(entry.reasons, SizeIs(kMaxEntryReasons));
  EXPECT_EQ(entry.reasons[0].reason, "measurement-unknown");
  EXPECT_EQ(entry.reasons[0].rule, "file\\x0a\\x1b[2J");
  EXPECT_EQ(entry.reasons[0].detail, StrCat(std::string(252, 'x'), "..."));
  EXPECT_THAT(entry.reasons[1].detail, EndsWith("\"..."));
  EXPECT_EQ(entry.reasons[1].detail.size(), kMaxEntryTextBytes);
  // The largest refusal there can be is still an entry.
  for (EntryReason& reason : entry.reasons) {
    reason.reason = std::string(kMaxEntryNameBytes, '"');
    reason.rule = reason.detail = std::string(kMaxEntryTextBytes, '"');
  }
  for (size_t i = 0; i < kMaxEntryKeys; ++i) {
    std::string key = KeyId('c');
    key[0] = static_cast<char>('0' + i / 10);
    key[1] = static_cast<char>('0' + i % 10);
    entry.recipients.push_back(key);
  }
  entry.owners = entry.recipients;
  entry.stage = entry.mode = entry.asset = std::string(kMaxEntryNameBytes, '"');
  entry.machine = std::string(kMaxEntryTextBytes, '"');
  EXPECT_TRUE(Parse(Text(entry)).ok());
}

// Entries that differ in their salt only have leaves that have nothing in common.
TEST(LedgerEntry, TheSaltHidesWhatCouldBeGuessed) {
  LedgerEntry entry = ExampleEntry(EntryKind::kApproval);
  const Digest32 leaf = *LeafHash(AsBytes(Text(entry)));
  entry.salt = *NewSalt(SystemRandom());
  EXPECT_NE(*LeafHash(AsBytes(Text(entry))), leaf);
  EXPECT_NE(*NewSalt(SystemRandom()), entry.salt);
}

}  // namespace
}  // namespace pavise::ledger
