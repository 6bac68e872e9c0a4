#include "pavise/base/bytes.h"

#include <limits>
#include <random>
#include <string>
#include <vector>

#include "pavise/base/status.h"

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise {
namespace {

using ::testing::ElementsAre;

Bytes AllBytes() {
  Bytes bytes(256);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i);
  return bytes;
}

TEST(HexTest, RoundTrips) {
  EXPECT_EQ(ToHex({}), "");
  EXPECT_EQ(ToHex(Bytes{0x00, 0x0f, 0xf0, 0xff}), "000ff0ff");
  EXPECT_EQ(*FromHex("000fF0Ff", "x"), (Bytes{0x00, 0x0f, 0xf0, 0xff}));
  EXPECT_EQ(*FromHex("", "x"), Bytes());
  EXPECT_EQ(*FromHex(ToHex(AllBytes()), "x"), AllBytes());
}

TEST(HexTest, RefusesAnythingElse) {
  for (const std::string& text :
       {std::string("0"), std::string("abc"), std::string("0g"), std::string("g0"),
        std::string("0x00"), std::string(" 00"), std::string("00 "), std::string("00\n"),
        std::string("0 0 "), std::string("-1"), std::string("\0\0", 2), std::string("\xff\xff"),
        std::string("@@"), std::string("``"), std::string("//"), std::string("::")}) {
    const absl::Status status = FromHex(text, "the digest").status();
    EXPECT_EQ(ReasonOf(status), Reason::kMalformed) << text;
    EXPECT_EQ(RefusalsOf(status)[0].item, "the digest");
  }
}

TEST(HexTest, DigestsHaveExactly32Bytes) {
  const std::string hex(64, 'a');
  EXPECT_EQ(Digest32FromHex(hex, "x")->front(), 0xaa);
  EXPECT_EQ(ReasonOf(Digest32FromHex(hex.substr(2), "x").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(Digest32FromHex(hex + "aa", "x").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(Digest32FromHex("", "x").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(Digest32FromHex(hex.substr(1), "x").status()), Reason::kMalformed);
}

// RFC 4648 section 10.
TEST(Base64Test, MatchesTheStandard) {
  const std::vector<std::pair<std::string, std::string>> vectors = {{"", ""},
                                                                    {"f", "Zg=="},
                                                                    {"fo", "Zm8="},
                                                                    {"foo", "Zm9v"},
                                                                    {"foob", "Zm9vYg=="},
                                                                    {"fooba", "Zm9vYmE="},
                                                                    {"foobar", "Zm9vYmFy"}};
  size_t executed = 0;
  for (const auto& [plain, encoded] : vectors) {
    EXPECT_EQ(ToBase64(AsBytes(plain)), encoded);
    EXPECT_EQ(AsText(*FromBase64(encoded, "x")), plain);
    ++executed;
  }
  EXPECT_EQ(executed, 7u);
  EXPECT_EQ(*FromBase64(ToBase64(AllBytes()), "x"), AllBytes());
  EXPECT_EQ(ToBase64(Bytes{0xfb, 0xff}), "+/8=");
}

TEST(Base64Test, RefusesEveryOtherSpelling) {
  for (const std::string& text :
       {std::string("Zg"), std::string("Zg="), std::string("Zg==="), std::string("Z"),
        std::string("="), std::string("===="), std::string("Zm8=Zm8="), std::string("Zh=="),
        std::string("Zm9="), std::string("Zg==\n"), std::string(" Zg=="), std::string("Z g=="),
        std::string("Zm9v\r\n"), std::string("-_8="), std::string("Zm9v."), std::string("Zg.."),
        std::string("Zm9v\0", 5), std::string("\xff\xff\xff\xff")}) {
    const absl::Status status = FromBase64(text, "the payload").status();
    EXPECT_EQ(ReasonOf(status), Reason::kMalformed) << text;
    EXPECT_EQ(RefusalsOf(status)[0].item, "the payload");
  }
}

// Against a second implementation: the spelling that is taken is the one that it would write.
TEST(Base64Test, TakesWhatEncodesToItself) {
  constexpr std::string_view kCharacters = "AQgw059zZ+/-_=. ";
  std::mt19937 random(1);
  size_t accepted = 0;
  size_t accepted_url = 0;
  for (int i = 0; i < 300'000; ++i) {
    std::string text;
    for (uint32_t left = random() % 10; left > 0; --left) {
      text += kCharacters[random() % kCharacters.size()];
    }
    std::string decoded;
    const bool is_good =
        absl::Base64Unescape(text, &decoded) && absl::Base64Escape(decoded) == text;
    const auto bytes = FromBase64(text, "x");
    ASSERT_EQ(bytes.ok(), is_good) << text;
    if (is_good) {
      ASSERT_EQ(AsText(*bytes), decoded) << text;
    }
    accepted += is_good;
    const bool is_good_url =
        absl::WebSafeBase64Unescape(text, &decoded) && absl::WebSafeBase64Escape(decoded) == text;
    const auto url_bytes = FromBase64Url(text, "x");
    ASSERT_EQ(url_bytes.ok(), is_good_url) << text;
    if (is_good_url) {
      ASSERT_EQ(AsText(*url_bytes), decoded) << text;
    }
    accepted_url += is_good_url;
  }
  EXPECT_GT(accepted, 30'000u);
  EXPECT_GT(accepted_url, 30'000u);
}

TEST(Base64UrlTest, HasOneSpelling) {
  EXPECT_EQ(ToBase64Url(Bytes{0xfb, 0xff}), "-_8");
  EXPECT_EQ(ToBase64Url({}), "");
  for (size_t size = 0; size < 5; ++size) {
    const Bytes bytes(size, 0xfe);
    EXPECT_EQ(*FromBase64Url(ToBase64Url(bytes), "x"), bytes);
  }
  EXPECT_EQ(*FromBase64Url(ToBase64Url(AllBytes()), "x"), AllBytes());
  for (const std::string& text :
       {std::string("+/8"), std::string("-_8="), std::string("-_9"), std::string("A"),
        std::string("-_8 "), std::string("-_8\n"), std::string("-_8\0", 4), std::string("Zg..")}) {
    EXPECT_EQ(ReasonOf(FromBase64Url(text, "x").status()), Reason::kMalformed) << text;
  }
}

// RFC 3629 and the edges of Unicode's table 3-7.
TEST(Utf8Test, AcceptsWellFormedText) {
  for (const std::string& text :
       {std::string(), std::string("abc"), std::string("\0", 1), std::string("\x7f"),
        std::string("\xc2\x80"), std::string("\xdf\xbf"), std::string("\xe0\xa0\x80"),
        std::string("\xed\x9f\xbf"), std::string("\xee\x80\x80"), std::string("\xef\xbf\xbf"),
        std::string("\xf0\x90\x80\x80"), std::string("\xf4\x8f\xbf\xbf"),
        std::string("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x9b\xa1z")}) {
    EXPECT_TRUE(IsUtf8(text)) << Printable(text);
  }
}

TEST(Utf8Test, RefusesIllFormedText) {
  for (const std::string& text : {std::string("\x80"),
                                  std::string("\xbf"),
                                  std::string("\xc0\x80"),
                                  std::string("\xc1\xbf"),
                                  std::string("\xc2"),
                                  std::string("\xc2\x41"),
                                  std::string("\xc2\xc0"),
                                  std::string("\xe0\x80\x80"),
                                  std::string("\xe0\x9f\xbf"),
                                  std::string("\xe2\x82"),
                                  std::string("\xe2\x28\xa1"),
                                  std::string("\xed\xa0\x80"),
                                  std::string("\xed\xbf\xbf"),
                                  std::string("\xf0\x80\x80\x80"),
                                  std::string("\xf0\x8f\xbf\xbf"),
                                  std::string("\xf4\x90\x80\x80"),
                                  std::string("\xf5\x80\x80\x80"),
                                  std::string("\xf0\x9f\x9b"),
                                  std::string("\xf8\x88\x80\x80\x80"),
                                  std::string("\xfe"),
                                  std::string("\xff"),
                                  std::string("ok\xc3"),
                                  std::string("\xc3\xa9\xa9")}) {
    EXPECT_FALSE(IsUtf8(text)) << Printable(text);
  }
}

TEST(PrintableTest, LeavesReadableTextAlone) {
  for (const char* text : {"", "model.safetensors", "a b", "\xc3\xa9t\xc3\xa9",
                           "\xe6\xa8\xa1\xe5\x9e\x8b", "\xf0\x9f\x9b\xa1", "a\\b", "~!@#$%^&*()"}) {
    EXPECT_EQ(Printable(text), text);
  }
}

TEST(PrintableTest, ShowsWhatATerminalWouldObey) {
  EXPECT_EQ(Printable("\x1b[2Jgone"), "\\x1b[2Jgone");
  EXPECT_EQ(Printable("\x1b]0;title\x07"), "\\x1b]0;title\\x07");
  EXPECT_EQ(Printable("good\rbad\n"), "good\\x0dbad\\x0a");
  EXPECT_EQ(Printable(std::string("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(Printable("\t\b\x7f"), "\\x09\\x08\\x7f");
  EXPECT_EQ(Printable("\xc2\x9b"
                      "31m"),
            "\\xc2\\x9b31m");  // CSI as a C1 control
  EXPECT_EQ(Printable("\xe2\x80\xae"
                      "txt.exe"),
            "\\xe2\\x80\\xaetxt.exe");                               // right-to-left
  EXPECT_EQ(Printable("\xe2\x80\x8b"), "\\xe2\\x80\\x8b");           // zero width
  EXPECT_EQ(Printable("\xe2\x81\xa6"), "\\xe2\\x81\\xa6");           // isolate
  EXPECT_EQ(Printable("\xd8\x9c"), "\\xd8\\x9c");                    // Arabic letter mark
  EXPECT_EQ(Printable("\xef\xbb\xbf"), "\\xef\\xbb\\xbf");           // byte order mark
  EXPECT_EQ(Printable("\xf3\xa0\x81\x81"), "\\xf3\\xa0\\x81\\x81");  // tag letter
  EXPECT_EQ(Printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(Printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");
}

TEST(PrintableTest, NeverLetsAControlThrough) {
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; ++second) {
      const std::string text = {static_cast<char>(first), static_cast<char>(second)};
      const std::string shown = Printable(text);
      EXPECT_TRUE(IsUtf8(shown));
      for (const char c : shown) {
        EXPECT_FALSE(static_cast<uint8_t>(c) < 0x20 || c == 0x7f) << first << " " << second;
      }
    }
  }
}

TEST(HumanBytesTest, NamesTheUnit) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1024), "1.00 KiB");
  EXPECT_EQ(HumanBytes(1536), "1.50 KiB");
  EXPECT_EQ(HumanBytes(10u << 20), "10.0 MiB");
  EXPECT_EQ(HumanBytes(uint64_t{100} << 30), "100 GiB");
  EXPECT_EQ(HumanBytes(std::numeric_limits<uint64_t>::max()), "16.0 EiB");
}

TEST(LittleEndianTest, RoundTrips) {
  Bytes bytes;
  AppendLittleEndian32(0x01020304, bytes);
  AppendLittleEndian64(0x0102030405060708, bytes);
  EXPECT_THAT(bytes, ElementsAre(4, 3, 2, 1, 8, 7, 6, 5, 4, 3, 2, 1));
  EXPECT_EQ(LoadLittleEndian32(bytes, 0), 0x01020304u);
  EXPECT_EQ(LoadLittleEndian64(bytes, 4), 0x0102030405060708u);
  EXPECT_EQ(LoadLittleEndian64(Bytes(9, 0xff), 1), std::numeric_limits<uint64_t>::max());
}

}  // namespace
}  // namespace pavise
