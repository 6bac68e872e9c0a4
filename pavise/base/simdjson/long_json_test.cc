#include "pavise/base/simdjson/long_json.h"

#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/same_json.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise {
namespace {

using pavise::testing::SameJson;

// Whether it was accepted, by both or by none.
bool SameAsParseJson(std::string_view text, const JsonLimits& limits = {}) {
  const absl::StatusOr<Json> value = ParseLongJson(AsBytes(text), "input", limits);
  const absl::StatusOr<Json> plain = ParseJson(AsBytes(text), "input", limits);
  EXPECT_EQ(value.status(), plain.status()) << text.substr(0, 200);
  if (value.ok() && plain.ok()) {
    EXPECT_TRUE(SameJson(*value, *plain)) << text.substr(0, 200);
  }
  return value.ok();
}

const std::string kGood =
    R"({"a":[1,{"b":"cé"},[],{}],"d":null,"e":-1.5e3,"f":true,"g":-7,"h":18446744073709551615})";

TEST(ParseLongJsonTest, ReadsWhatParseJsonReads) {
  EXPECT_TRUE(SameAsParseJson(kGood));
  EXPECT_TRUE(SameAsParseJson(StrCat(R"({"long":")", std::string(300'000, 'A'), R"("})")));
  EXPECT_EQ((*ParseLongJson(AsBytes(kGood), "input"))["a"][1]["b"], "cé");
  // Escapes, other roots and spellings that simdjson takes otherwise or not at all.
  for (const char* text :
       {R"({"a\u0062":"\n\ud83d\udee1"})", " {\"a\":1}", "[1]", "7", "\"x\"", R"({"a":-0})",
        R"({"a":[0,-0.0]})", R"({"a":18446744073709551616})", R"({"a":-9223372036854775808})",
        R"({"a":-9223372036854775809})", R"({"a":1e-400,"b":4.9e-324,"c":0.1,"d":1E+2})",
        R"({"a":123456789012345678901234567890})", "{}\n", "{\r\n\t}"}) {
    EXPECT_TRUE(SameAsParseJson(text)) << text;
  }
}

TEST(ParseLongJsonTest, RefusesWhatParseJsonRefuses) {
  const std::vector<std::string> bad = {"",
                                        "{",
                                        "{}x",
                                        "{}{}",
                                        "{\"a\"}",
                                        "{\"a\":}",
                                        "{\"a\":1,}",
                                        "{\"a\":[1,]}",
                                        "{\"a\":[1 2]}",
                                        "{\"a\":1 \"b\":2}",
                                        "{1:2}",
                                        "{\"a\":tru}",
                                        "{\"a\":truee}",
                                        "{\"a\":nul}",
                                        "{\"a\":01}",
                                        "{\"a\":-01}",
                                        "{\"a\":+1}",
                                        "{\"a\":.5}",
                                        "{\"a\":1.}",
                                        "{\"a\":1e}",
                                        "{\"a\":-}",
                                        "{\"a\":0x10}",
                                        "{\"a\":NaN}",
                                        "{\"a\":Infinity}",
                                        "{\"a\":1e999}",
                                        "{\"a\":-1e999}",
                                        "{\"a\":1]",
                                        "{\"a\":[1}}",
                                        "{'a':1}",
                                        "{a:1}",
                                        "// x\n{}",
                                        "{/*x*/}",
                                        "{} // x",
                                        "{\"a\":\"b\nc\"}",
                                        "{\"a\":\"b\tc\"}",
                                        "{\"a\":\"\\x41\"}",
                                        "{\"a\":\"\\ud800\"}",
                                        "{\"a\":\"\\udc00\"}",
                                        "{\"a\":1,\"a\":1}",
                                        "{\"a\":1,\"\\u0061\":1}",
                                        "{\"x\":[{\"a\":{},\"a\":[]}]}",
                                        "\xef\xbb\xbf{}",
                                        "{}\xef\xbb\xbf",
                                        "{\"a\":\"\x80\"}",
                                        "{\"a\":\"\xc0\xaf\"}",
                                        "{\"a\":\"\xed\xa0\x80\"}",
                                        "{\"a\":\"\xf4\x90\x80\x80\"}",
                                        "{\"\xc3\":1}",
                                        std::string("{}\0", 3),
                                        std::string("{\0}", 3),
                                        std::string("{\"a\":\"\0\"}", 9),
                                        std::string("{\"a\":1\0}", 8)};
  for (const std::string& text : bad) EXPECT_FALSE(SameAsParseJson(text)) << text;
  for (size_t size = 0; size < kGood.size(); ++size) {
    EXPECT_FALSE(SameAsParseJson(kGood.substr(0, size))) << size;
  }
}

TEST(ParseLongJsonTest, EveryByteChangedAtEveryPlace) {
  size_t accepted = 0;
  for (size_t place = 0; place < kGood.size(); ++place) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string text = kGood;
      text[place] = static_cast<char>(byte);
      accepted += SameAsParseJson(text);
    }
  }
  // Both kinds were there.
  EXPECT_GT(accepted, kGood.size());
  EXPECT_LT(accepted, kGood.size() * 255);
}

TEST(ParseLongJsonTest, PiecesInAnyOrder) {
  const std::vector<std::string> pieces = {"{",     "}",     "[",    "]",    ",",  ":",
                                           "\"a\"", "\"b\"", "\"\"", "0",    "-0", "1",
                                           "-1",    "1.5",   "true", "null", " ",  "\"é\""};
  std::mt19937 random(1);
  size_t accepted = 0;
  for (int i = 0; i < 200'000; ++i) {
    std::string text = "{\"k\":";
    for (uint32_t left = random() % 7; left > 0; --left) text += pieces[random() % pieces.size()];
    text += "}";
    accepted += SameAsParseJson(text);
  }
  EXPECT_GT(accepted, 1000u);
}

TEST(ParseLongJsonTest, LimitsAreTheSame) {
  JsonLimits limits = {.max_bytes = kGood.size()};
  EXPECT_TRUE(SameAsParseJson(kGood, limits));
  limits.max_bytes = kGood.size() - 1;
  EXPECT_FALSE(SameAsParseJson(kGood, limits));
  for (uint64_t values = 1; values < 16; ++values) {
    EXPECT_EQ(SameAsParseJson(kGood, {.max_values = values}), values >= 12) << values;
  }
  for (uint32_t depth = 1; depth < 6; ++depth) {
    EXPECT_EQ(SameAsParseJson(kGood, {.max_depth = depth}), depth >= 3) << depth;
  }
  EXPECT_FALSE(SameAsParseJson(StrCat("{\"a\":", std::string(1'000'000, '['))));
  // Longer than what simdjson is given.
  EXPECT_TRUE(SameAsParseJson(StrCat(R"({"long":")", std::string(5u << 20, 'A'), R"("})")));
}

}  // namespace
}  // namespace pavise
