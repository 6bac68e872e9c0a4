#include "pavise/base/canonical_json.h"

#include <string>

#include "pavise/base/status.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise {
namespace {

std::string Canonical(std::string_view text) {
  return *CanonicalJson(*ParseJson(AsBytes(text), "test"), "test");
}

// RFC 8785, section 3.2.2, less its floating-point numbers, and section 3.2.3.
TEST(CanonicalJsonTest, MatchesTheStandard) {
  EXPECT_EQ(
      Canonical(R"({
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false] })"),
      "{\"literals\":[null,true,false],\"string\":\"\u20ac$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}");
  EXPECT_EQ(Canonical(R"({
      "\u20ac": "Euro Sign",
      "\r": "Carriage Return",
      "\ufb33": "Hebrew Letter Dalet With Dagesh",
      "1": "One",
      "\ud83d\ude00": "Emoji: Grinning Face",
      "\u0080": "Control",
      "\u00f6": "Latin Small Letter O With Diaeresis" })"),
            "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\xc2\x80\":\"Control\","
            "\"\u00f6\":\"Latin Small Letter O With Diaeresis\",\"\u20ac\":\"Euro Sign\","
            "\"\U0001f600\":\"Emoji: Grinning Face\","
            "\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}");
}

TEST(CanonicalJsonTest, WritesEveryOtherKind) {
  EXPECT_EQ(Canonical(" [ ] "), "[]");
  EXPECT_EQ(Canonical("{}"), "{}");
  EXPECT_EQ(Canonical(R"({"ab":1,"a":2,"":[{"b":0,"a":-1}]})"),
            R"({"":[{"a":-1,"b":0}],"a":2,"ab":1})");
  EXPECT_EQ(Canonical("[9007199254740991,-9007199254740991,-0]").substr(0, 35),
            "[9007199254740991,-9007199254740991");
  EXPECT_EQ(Canonical(R"("\b\t\n\f\r\u001f\u007f")"), "\"\\b\\t\\n\\f\\r\\u001f\x7f\"");
}

TEST(CanonicalJsonTest, RefusesWhatHasNoPlainSpelling) {
  for (const char* text : {"1.5", "9007199254740992", "-9007199254740992", "18446744073709551615",
                           "[1e3]", R"({"a":{"b":0.0}})"}) {
    const auto parsed = ParseJson(AsBytes(text), "test");
    EXPECT_EQ(ReasonOf(CanonicalJson(*parsed, "test").status()), Reason::kUnsupported) << text;
  }
  EXPECT_EQ(ReasonOf(CanonicalJson(Json("\xff"), "test").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(CanonicalJson(Json{{"\xc3", 1}}, "test").status()), Reason::kMalformed);
  Json deep = Json::array();
  for (int i = 0; i < 70; ++i) deep = Json::array({deep});
  EXPECT_EQ(ReasonOf(CanonicalJson(deep, "test").status()), Reason::kLimitExceeded);
}

}  // namespace
}  // namespace pavise
