#include "pavise/vault/format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "pavise/base/status.h"

namespace pavise::vault {
namespace {

Header SomeHeader() {
  Header header{.payload_bytes = 1000, .is_padded = true, .name = "llm"};
  header.salt.fill(1);
  header.commitment.fill(2);
  header.statement_sha256.emplace().fill(3);
  return header;
}

TEST(FormatTest, AHeaderHasOneText) {
  const std::string text = FormatHeader(SomeHeader(), "x").value();
  EXPECT_EQ(ParseHeader(AsBytes(text), "x").value(), SomeHeader());
  Header bare{.payload_bytes = kMaxPayloadBytes};
  EXPECT_EQ(ParseHeader(AsBytes(FormatHeader(bare, "x").value()), "x").value(), bare);

  const auto refused = [](const Json& json) {
    return ReasonOf(ParseHeader(AsBytes(json.dump()), "x").status());
  };
  const Json good = Json::parse(text);
  EXPECT_EQ(refused(good), std::nullopt);
  for (const char* name : {"format", "commitment", "padded", "payload_bytes", "salt"}) {
    Json json = good;
    json.erase(name);
    EXPECT_EQ(refused(json), Reason::kMalformed) << name;
  }
  for (const auto& [name, value] : {std::pair<const char*, Json>("more", 1),
                                    {"salt", "00"},
                                    {"salt", std::string(64, 'A')},
                                    {"padded", 1},
                                    {"payload_bytes", -1},
                                    {"payload_bytes", 1.0},
                                    {"name", ""},
                                    {"name", std::string(1025, 'x')},
                                    {"statement_sha256", ""}}) {
    Json json = good;
    json[name] = value;
    EXPECT_EQ(refused(json), Reason::kMalformed) << name << value;
  }
  Json json = good;
  json["format"] = "pavise-sealed/2";
  EXPECT_EQ(refused(json), Reason::kUnsupported);
  for (const uint64_t size_bytes : {uint64_t{0}, kMaxPayloadBytes + 1}) {
    json = good;
    json["payload_bytes"] = size_bytes;
    EXPECT_EQ(refused(json), Reason::kLimitExceeded) << size_bytes;
  }
  EXPECT_EQ(ReasonOf(ParseHeader(AsBytes(text + " "), "x").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(ParseHeader(AsBytes(good.dump(1)), "x").status()), Reason::kMalformed);
}

TEST(FormatTest, RecipientsAreListedOnce) {
  const Recipient first{std::string(64, 'a'), {{"tag", "x"}}};
  const Recipient second{std::string(64, 'b'), Json::object()};
  const std::string text = FormatRecipients({first, second});
  const auto read = ParseRecipients(AsBytes(text), "x").value();
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[0].key_id, first.key_id);
  EXPECT_EQ(read[0].message, first.message);
  EXPECT_TRUE(ParseRecipients(AsBytes("[]"), "x")->empty());
  const auto refused = [](const std::string& json) {
    return ReasonOf(ParseRecipients(AsBytes(json), "x").status());
  };
  EXPECT_EQ(refused(FormatRecipients({first, first})), Reason::kMalformed);
  EXPECT_EQ(refused(FormatRecipients({{"abc", Json::object()}})), Reason::kMalformed);
  EXPECT_EQ(refused(FormatRecipients({{std::string(64, 'A'), Json::object()}})),
            Reason::kMalformed);
  EXPECT_EQ(refused(FormatRecipients({{std::string(64, 'a'), "x"}})), Reason::kMalformed);
  EXPECT_EQ(refused("{}"), Reason::kMalformed);
  EXPECT_EQ(refused("[1]"), Reason::kMalformed);
  EXPECT_EQ(refused(text + "x"), Reason::kMalformed);
  EXPECT_EQ(refused(FormatRecipients(std::vector<Recipient>(kMaxRecipients + 1, first))),
            Reason::kLimitExceeded);
}

TEST(FormatTest, ThePrefixIsRefusedWhereItIsNotOurs) {
  const Bytes good = FormatPrefix({.header_bytes = 300, .recipients_bytes = 2});
  ASSERT_EQ(good.size(), kPrefixBytes);
  EXPECT_EQ(ParsePrefix(good, "x")->header_bytes, 300u);
  EXPECT_EQ(ParsePrefix(good, "x")->recipients_bytes, 2u);
  Bytes other = good;
  other[0] ^= 1;
  EXPECT_EQ(ReasonOf(ParsePrefix(other, "x").status()), Reason::kMalformed);
  other = good;
  other[8] = 2;
  EXPECT_EQ(ReasonOf(ParsePrefix(other, "x").status()), Reason::kUnsupported);
  other = good;
  other[15] = 1;
  EXPECT_EQ(ReasonOf(ParsePrefix(other, "x").status()), Reason::kLimitExceeded);
  other = good;
  other[19] = 1;
  EXPECT_EQ(ReasonOf(ParsePrefix(other, "x").status()), Reason::kLimitExceeded);
  EXPECT_FALSE(ParsePrefix(ByteSpan(good).first(19), "x").ok());
}

absl::StatusOr<Index> RoundTrip(Index index) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, FormatIndex(index, "x"));
  EXPECT_EQ(LoadLittleEndian64(bytes, 0), bytes.size() - kIndexLengthBytes);
  auto read = ParseIndex(ByteSpan(bytes).subspan(kIndexLengthBytes), "x");
  EXPECT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, index);
  return read;
}

std::optional<Reason> PathsRefused(const std::vector<std::string>& paths) {
  // Written without the checks, as somebody else may.
  Bytes bytes;
  AppendLittleEndian64(0, bytes);
  AppendLittleEndian64(paths.size(), bytes);
  for (const std::string& path : paths) {
    bytes.push_back(static_cast<uint8_t>(path.size()));
    bytes.push_back(static_cast<uint8_t>(path.size() >> 8));
    bytes.insert(bytes.end(), path.begin(), path.end());
    bytes.push_back(0);
    AppendLittleEndian64(1, bytes);
  }
  return ReasonOf(ParseIndex(bytes, "x").status());
}

TEST(FormatTest, AnIndexTellsWhereFilesLie) {
  const Index index = RoundTrip({.signature_bytes = 100,
                                 .files = {{"a", 5, false}, {"a.b", 0, true}, {"b/c", 7, false}}})
                          .value();
  EXPECT_EQ(index.signature_offset_bytes, 8u + 16 + 3 * 11 + 1 + 3 + 3);
  EXPECT_EQ(index.files[0].offset_bytes, index.signature_offset_bytes + 100);
  EXPECT_EQ(index.files[2].offset_bytes, index.files[0].offset_bytes + 5);
  EXPECT_EQ(index.end_bytes, index.files[2].offset_bytes + 7);
  EXPECT_TRUE(RoundTrip({}).ok());
}

TEST(FormatTest, NoPathLeadsOut) {
  int refused = 0;
  for (const std::string& path :
       {std::string(), std::string("/a"), std::string("../a"), std::string("a/../../b"),
        std::string("."), std::string("./a"), std::string("a//b"), std::string("a/"),
        std::string("a/."), std::string("a\0b", 3), std::string("\xff"), std::string(4097, 'a'),
        std::string(256, 'a')}) {
    EXPECT_EQ(PathsRefused({path}), Reason::kPathUnsafe) << path;
    ++refused;
  }
  EXPECT_EQ(refused, 13);
  EXPECT_EQ(PathsRefused({"b", "a"}), Reason::kMalformed);
  EXPECT_EQ(PathsRefused({"a", "a"}), Reason::kMalformed);
  EXPECT_EQ(PathsRefused({"a", "a/b"}), Reason::kMalformed);
  EXPECT_EQ(PathsRefused({"a", "a.b", "a/b/c"}), Reason::kMalformed);
  EXPECT_EQ(PathsRefused({"a", "a.b", "b/a", "c\\..\\d", "..a"}), Reason::kMalformed);
  EXPECT_EQ(PathsRefused({"..a", "a", "a.b", "b/a", "c\\..\\d"}), std::nullopt);
}

TEST(FormatTest, AnIndexHasNoOtherForm) {
  Index index{.files = {{"a", 5, false}, {"b", 6, true}}};
  const Bytes whole = FormatIndex(index, "x").value();
  const ByteSpan bytes = ByteSpan(whole).subspan(kIndexLengthBytes);
  for (size_t size_bytes = 0; size_bytes < bytes.size(); ++size_bytes) {
    EXPECT_EQ(ReasonOf(ParseIndex(bytes.first(size_bytes), "x").status()), Reason::kMalformed);
  }
  Bytes other(bytes.begin(), bytes.end());
  other.push_back(0);
  EXPECT_EQ(ReasonOf(ParseIndex(other, "x").status()), Reason::kMalformed);
  other.pop_back();
  other[8] = 0xff;  // more files than there is room for
  EXPECT_EQ(ReasonOf(ParseIndex(other, "x").status()), Reason::kMalformed);
  other.assign(bytes.begin(), bytes.end());
  other[16 + 2 + 1] = 2;  // flags
  EXPECT_EQ(ReasonOf(ParseIndex(other, "x").status()), Reason::kMalformed);
  other.assign(bytes.begin(), bytes.end());
  other[16 + 2 + 1 + 1 + 7] = 0x80;  // a size whose sum would wrap around
  EXPECT_EQ(ReasonOf(ParseIndex(other, "x").status()), Reason::kLimitExceeded);
  Index huge{.files = {{"a", kMaxPayloadBytes, false}}};
  EXPECT_EQ(ReasonOf(FormatIndex(huge, "x").status()), Reason::kLimitExceeded);
  Index signature{.signature_bytes = kMaxSignatureBytes + 1};
  EXPECT_EQ(ReasonOf(FormatIndex(signature, "x").status()), Reason::kLimitExceeded);
}

TEST(FormatTest, SegmentsCoverThePayload) {
  for (const uint64_t size_bytes :
       {uint64_t{1}, kSegmentBytes - 1, kSegmentBytes, kSegmentBytes + 1, 5 * kSegmentBytes}) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < SegmentCount(size_bytes); ++i) sum += SegmentSize(size_bytes, i);
    EXPECT_EQ(sum, size_bytes);
    EXPECT_GT(SegmentSize(size_bytes, SegmentCount(size_bytes) - 1), 0u);
  }
}

// The paper's algorithm 1, computed by another program.
TEST(FormatTest, PaddingIsThatOfPadme) {
  int executed = 0;
  for (const auto& [size_bytes, padded] : {std::pair(0ull, 0ull),
                                           {1, 1},
                                           {2, 2},
                                           {7, 7},
                                           {9, 10},
                                           {100, 104},
                                           {1000, 1024},
                                           {1'000'000, 1'015'808},
                                           {1ull << 40, 1ull << 40},
                                           {(1ull << 40) + 1, 1'116'691'496'960}}) {
    EXPECT_EQ(PaddedSize(size_bytes), padded) << size_bytes;
    ++executed;
  }
  EXPECT_EQ(executed, 10);
  for (uint64_t size_bytes = 1; size_bytes < 100'000; ++size_bytes) {
    const uint64_t padded = PaddedSize(size_bytes);
    ASSERT_GE(padded, size_bytes);
    ASSERT_LE(padded - size_bytes, size_bytes * 12 / 100);
    ASSERT_EQ(PaddedSize(padded), padded);
  }
}

}  // namespace
}  // namespace pavise::vault
