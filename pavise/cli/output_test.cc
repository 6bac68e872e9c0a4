#include "pavise/cli/output.h"

#include "pavise/cli/help.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// A name that would clear the screen and claim success.
constexpr const char* kHostileName = "a\x1b[2J\rOK: all is well\n\x9b.bin";

bool HasControlBytes(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7f;
  });
}

TEST(OutputTest, RowsAreAlignedAndEmptyOnesLeftOut) {
  EXPECT_EQ(
      AlignedRows({{"model", "llm"}, {"left out of this", ""}, {"signed by", "k"}, {"", "l"}}),
      "  model      llm\n"
      "  signed by  k\n"
      "             l\n");
}

TEST(OutputTest, TablesAreAligned) {
  EXPECT_EQ(AlignedTable({{"SIZE", "FILE"}, {"10 B", "\xc3\xa9.txt"}, {"1.50 MiB", "b"}}, {0}),
            "      SIZE  FILE\n"
            "      10 B  \xc3\xa9.txt\n"
            "  1.50 MiB  b\n");
}

TEST(OutputTest, NamesCannotTalkToTheTerminal) {
  for (const std::string& text :
       {AlignedRows({{"file", kHostileName}}), AlignedTable({{kHostileName, "b"}}, {}),
        RenderError(Refuse(Reason::kContentMismatch, kHostileName, kHostileName, kHostileName),
                    "verify", kHostileName, false),
        RenderError(UsageError(kHostileName), "verify", "", false),
        RenderError(MachineFailure(kHostileName, kHostileName), "verify", "", false),
        RenderErrorJson(Refuse(Reason::kContentMismatch, kHostileName, kHostileName), "verify",
                        "h"),
        RenderJson({{"name", "\x7f\xc2\x9b"}})}) {
    EXPECT_FALSE(HasControlBytes(text)) << text;
    EXPECT_EQ(text.find('\x9b'), std::string::npos) << text;
    EXPECT_THAT(text, Not(HasSubstr("\nOK"))) << text;
  }
}

TEST(OutputTest, RefusalLayout) {
  const absl::Status status = Refuse({{Reason::kFileMissing, "a", "is not there", "restore it"},
                                      {Reason::kFileMissing, "b", "is not there", "restore it"},
                                      {Reason::kContentMismatch, "c", "differs", ""}});
  EXPECT_EQ(RenderError(status, "verify", "m does not match", false),
            "REFUSED: m does not match\n"
            "  file-missing      a: is not there\n"
            "  file-missing      b: is not there\n"
            "      what to do: restore it\n"
            "  content-mismatch  c: differs\n");
  EXPECT_THAT(RenderError(status, "verify", "h", true), HasSubstr("\x1b[1;31mREFUSED\x1b[0m: h"));
}

TEST(OutputTest, ManyFindingsAreCutForPeopleAndWholeInJson) {
  std::vector<Refusal> findings;
  for (int i = 0; i < 120; ++i) findings.push_back({Reason::kFileMissing, "f", "is gone", ""});
  const std::string text = RenderError(Refuse(findings), "verify", "h", false);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 52);
  EXPECT_THAT(text, HasSubstr("and 70 more"));
  EXPECT_EQ(Json::parse(RenderErrorJson(Refuse(findings), "verify", "h"))["findings"].size(), 120u);
}

TEST(OutputTest, ErrorsAreTypedInJson) {
  const Json usage = Json::parse(RenderErrorJson(UsageError("odd"), "sign", ""));
  EXPECT_EQ(usage["exit_code"], 2);
  EXPECT_EQ(usage["findings"][0]["reason"], "usage");
  const Json machine = Json::parse(RenderErrorJson(MachineFailure("disk", "broke"), "sign", ""));
  EXPECT_EQ(machine["exit_code"], 3);
  EXPECT_EQ(machine["findings"][0]["reason"], "machine-failure");
  EXPECT_EQ(machine["error"], "disk: broke");
  const Json refusal = Json::parse(
      RenderErrorJson(Refuse(Reason::kRevoked, "key", "is revoked", "ask"), "verify", "h"));
  EXPECT_EQ(refusal, Json::parse(R"({"ok": false, "exit_code": 1, "verb": "verify", "error": "h",
      "findings": [{"reason": "revoked", "item": "key", "detail": "is revoked", "remedy": "ask"}]})"));
}

TEST(OutputTest, Numbers) {
  EXPECT_EQ(Counted(1, "file"), "1 file");
  EXPECT_EQ(Counted(0, "file"), "0 files");
  EXPECT_EQ(Throughput(3'000'000'000, 2), "2.79 GiB in 2.00 s (1.50 GB/s)");
  EXPECT_EQ(Throughput(10, 0.001), "10 B in 0.00 s");
  EXPECT_EQ(GigabytesPerSecond(10, 0), 0);
  EXPECT_EQ(FormatUtc(absl::FromUnixSeconds(0)), "1970-01-01T00:00:00Z");
  EXPECT_EQ(FormatUtc(absl::InfiniteFuture()), "never");
}

TEST(OutputTest, TextIsWrapped) {
  EXPECT_EQ(WrapText("aaa bbb ccc", 7), "aaa bbb\nccc");
  EXPECT_EQ(WrapText("aaaaaaaaaa b", 5), "aaaaaaaaaa\nb");
  EXPECT_EQ(WrapText("", 5), "");
}

}  // namespace
}  // namespace pavise::cli
