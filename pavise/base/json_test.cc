#include "pavise/base/json.h"

#include <limits>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<Json> Parse(std::string_view text, const JsonLimits& limits = {}) {
  return ParseJson(AsBytes(text), "input", limits);
}

std::optional<Reason> ReasonFor(std::string_view text, const JsonLimits& limits = {}) {
  return ReasonOf(Parse(text, limits).status());
}

TEST(ParseJsonTest, ReadsEveryKindOfValue) {
  const absl::StatusOr<Json> value =
      Parse(R"( {"a":[1,-2,3.5,true,false,null,"x"],"b":{"c":{}},"d":"\u00e9\ud83d\udee1\n"} )");
  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ((*value)["a"].size(), 7u);
  EXPECT_EQ((*value)["a"][0], 1u);
  EXPECT_EQ((*value)["a"][1], -2);
  EXPECT_EQ((*value)["a"][2], 3.5);
  EXPECT_TRUE((*value)["a"][5].is_null());
  EXPECT_TRUE((*value)["b"]["c"].empty());
  EXPECT_EQ((*value)["d"], "\xc3\xa9\xf0\x9f\x9b\xa1\n");
  for (const char* scalar : {"1", "\"x\"", "true", "null", "[]", "{}", " 1\t\r\n"}) {
    EXPECT_TRUE(Parse(scalar).ok()) << scalar;
  }
}

TEST(ParseJsonTest, NestedContainersKeepTheirMembers) {
  const absl::StatusOr<Json> value = Parse(R"([[1,[2,[3]]],{"a":[{"b":[4]},5]},6])");
  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ(value->dump(), R"([[1,[2,[3]]],{"a":[{"b":[4]},5]},6])");
}

TEST(ParseJsonTest, RefusesWhatIsNotJson) {
  const std::vector<std::string> bad = {
      "", " ", "{", "[", "}", "]", "\"", "\"abc", "{\"a\"}", "{\"a\":}", "{a:1}", "{'a':1}",
      "{\"a\":1,}", "[1,]", "[,1]", "[1 2]", "{\"a\":1 \"b\":2}", "{1:2}", "tru", "TRUE", "nul",
      "None", "undefined", "\x01", "[1}", "{\"a\":1]",
      // Comments.
      "// x\n1", "/* x */1", "1 // x", "[1,/*x*/2]", "# x\n1",
      // Numbers that JSON does not have.
      "01", "-01", "00", "+1", ".5", "1.", "1.e5", "1e", "1e+", "-", "0x10", "1_000", "NaN",
      "Infinity", "-Infinity", "1,000",
      // Strings.
      "\"\\x41\"", "\"\\u12\"", "\"\\u123g\"", "\"\\\"", "\"a\nb\"", "\"a\tb\"", "\"\\ud800\"",
      "\"\\udc00\"", "\"\\ud800\\u0041\"", "\"\\ud800x\""};
  for (const std::string& text : bad) EXPECT_EQ(ReasonFor(text), Reason::kMalformed) << text;
}

TEST(ParseJsonTest, RefusesTextAfterTheValue) {
  for (const char* text :
       {"{}x", "{}{}", "1 2", "[]]", "null,", "{}\n{}", "\"a\"\"b\"", "{}/**/"}) {
    EXPECT_EQ(ReasonFor(text), Reason::kMalformed) << text;
  }
}

TEST(ParseJsonTest, RefusesByteOrderMarksNulsAndOtherEncodings) {
  EXPECT_EQ(ReasonFor("\xef\xbb\xbf{}"), Reason::kMalformed);
  EXPECT_EQ(ReasonFor("{}\xef\xbb\xbf"), Reason::kMalformed);
  EXPECT_EQ(ReasonFor("\xff\xfe{\0}\0"), Reason::kMalformed);
  EXPECT_EQ(ReasonFor(std::string_view("{}\0", 3)), Reason::kMalformed);
  EXPECT_EQ(ReasonFor(std::string_view("{}\0garbage", 10)), Reason::kMalformed);
  EXPECT_EQ(ReasonFor(std::string_view("\"a\0b\"", 5)), Reason::kMalformed);
  EXPECT_EQ(ReasonFor(std::string_view("\0{}", 3)), Reason::kMalformed);
  EXPECT_EQ(ReasonFor(std::string_view("{\0\"\0a\0", 6)), Reason::kMalformed);
}

TEST(ParseJsonTest, RefusesStringsThatAreNotUtf8) {
  for (const char* text : {"\"\x80\"", "\"\xc0\xaf\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "\"\xff\"",
                           "\"\xf4\x90\x80\x80\"", "{\"\xc3\":1}", "\"\xe2\x82\""}) {
    EXPECT_EQ(ReasonFor(text), Reason::kMalformed) << text;
  }
  EXPECT_EQ(Parse("\"\xc3\xa9\"")->get<std::string>(), "\xc3\xa9");
}

TEST(ParseJsonTest, RefusesDuplicateKeys) {
  for (const char* text :
       {R"({"a":1,"a":1})", R"({"a":1,"b":2,"a":3})", R"({"a":1,"\u0061":2})", R"({"":1,"":2})",
        R"([{"x":{"a":{},"a":[]}}])", R"({"a":{"b":1},"a":{"c":1}})"}) {
    const absl::Status status = Parse(text).status();
    EXPECT_EQ(ReasonOf(status), Reason::kMalformed) << text;
    EXPECT_THAT(RefusalsOf(status)[0].detail, HasSubstr("duplicate key")) << text;
  }
  EXPECT_TRUE(Parse(R"({"a":{"a":1},"b":{"a":1},"A":1})").ok());
}

TEST(ParseJsonTest, NumbersKeepTheirValueOrAreRefused) {
  EXPECT_EQ(Parse("18446744073709551615")->get<uint64_t>(), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(Parse("-9223372036854775808")->get<int64_t>(), std::numeric_limits<int64_t>::min());
  EXPECT_TRUE(Parse("1.5e300")->is_number_float());
  // Too large for an integer: a floating number, which no reader of integers takes.
  EXPECT_TRUE(Parse("18446744073709551616")->is_number_float());
  EXPECT_EQ(ReasonFor("1e999"), Reason::kMalformed);
  EXPECT_EQ(ReasonFor("-1e999"), Reason::kMalformed);
  EXPECT_EQ(ReasonFor("[1e309]"), Reason::kMalformed);
  EXPECT_EQ(ReasonFor(std::string(400, '9')), Reason::kMalformed);
}

TEST(ParseJsonTest, DepthIsBounded) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  JsonLimits limits;
  limits.max_depth = 3;
  EXPECT_TRUE(Parse(nested(3), limits).ok());
  EXPECT_EQ(ReasonFor(nested(4), limits), Reason::kLimitExceeded);
  EXPECT_TRUE(Parse(nested(32)).ok());
  EXPECT_EQ(ReasonFor(nested(33)), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonFor(nested(1'000'000)), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonFor(std::string(1'000'000, '[')), Reason::kLimitExceeded);
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_EQ(ReasonFor(objects), Reason::kLimitExceeded);
}

TEST(ParseJsonTest, CountAndSizeAreBounded) {
  JsonLimits limits;
  limits.max_values = 4;
  EXPECT_TRUE(Parse("[1,2,3]", limits).ok());
  EXPECT_EQ(ReasonFor("[1,2,3,4]", limits), Reason::kLimitExceeded);
  EXPECT_TRUE(Parse(R"({"a":1,"b":{"c":2}})", limits).ok());
  EXPECT_EQ(ReasonFor(R"({"a":1,"b":{"c":2},"d":3})", limits), Reason::kLimitExceeded);
  limits = {};
  limits.max_bytes = 7;
  EXPECT_TRUE(Parse("[1,2,3]", limits).ok());
  EXPECT_EQ(ReasonFor("[1,2,3] ", limits), Reason::kLimitExceeded);
}

TEST(ParseJsonTest, EveryTruncationIsRefused) {
  const std::string text = R"({"a":[1,{"b":"c\u00e9"}],"d":null,"e":-1.5e3})";
  ASSERT_TRUE(Parse(text).ok());
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_EQ(ReasonFor(text.substr(0, size)), Reason::kMalformed) << size;
  }
}

TEST(ParseJsonTest, RefusalsNameTheInput) {
  EXPECT_EQ(RefusalsOf(Parse("{").status())[0].item, "input");
  EXPECT_THAT(RefusalsOf(Parse("[1,x]").status())[0].detail, HasSubstr("byte"));
}

class JsonObjectTest : public ::testing::Test {
 protected:
  JsonObjectTest()
      : value_(*Parse(R"({"s":"text","n":7,"zero":0,"negative":-1,"f":8.0,"half":8.5,"t":true,
                          "o":{"deep":{"x":1}},"a":[1],"null":null,"minus":-0.0,
                          "exact":9007199254740992.0,"large":9007199254740994.0,
                          "max":18446744073709551615,"beyond":18446744073709551616})")),
        object_(*JsonObject::From(value_, "root")) {}

  template <typename T>
  static void ExpectMalformedAt(const absl::StatusOr<T>& result, const std::string& path) {
    ASSERT_EQ(ReasonOf(result.status()), Reason::kMalformed) << path;
    EXPECT_EQ(RefusalsOf(result.status())[0].item, path);
  }

  Json value_;
  JsonObject object_;
};

TEST_F(JsonObjectTest, ReadsTypedMembers) {
  EXPECT_EQ(*object_.GetString("s"), "text");
  EXPECT_EQ(*object_.GetUint("n"), 7u);
  EXPECT_EQ(*object_.GetUint("zero"), 0u);
  EXPECT_EQ(*object_.GetUint("max"), std::numeric_limits<uint64_t>::max());
  EXPECT_TRUE(*object_.GetBool("t"));
  EXPECT_EQ((*object_.GetArray("a"))->size(), 1u);
  EXPECT_EQ(*object_.GetObject("o")->GetObject("deep")->GetUint("x"), 1u);
  EXPECT_EQ(object_.GetObject("o")->GetObject("deep")->path(), "root.o.deep");
  EXPECT_TRUE(object_.Has("null"));
  EXPECT_FALSE(object_.Has("missing"));
  EXPECT_EQ(object_.Find("missing"), nullptr);
}

TEST_F(JsonObjectTest, MissingMembersAreNamed) {
  ExpectMalformedAt(object_.Get("missing"), "root.missing");
  ExpectMalformedAt(object_.GetString("missing"), "root.missing");
  ExpectMalformedAt(object_.GetUint("missing"), "root.missing");
  ExpectMalformedAt(object_.GetObject("o")->GetBool("y"), "root.o.y");
}

TEST_F(JsonObjectTest, MembersOfAnotherTypeAreNamed) {
  for (const char* key : {"n", "t", "o", "a", "null"}) {
    ExpectMalformedAt(object_.GetString(key), StrCat("root.", key));
  }
  for (const char* key : {"s", "t", "o", "a", "null", "negative", "f", "half", "minus", "beyond"}) {
    ExpectMalformedAt(object_.GetUint(key), StrCat("root.", key));
  }
  for (const char* key : {"s", "n", "o", "a", "null", "zero"}) {
    ExpectMalformedAt(object_.GetBool(key), StrCat("root.", key));
  }
  for (const char* key : {"s", "n", "o", "t", "null"}) {
    ExpectMalformedAt(object_.GetArray(key), StrCat("root.", key));
  }
  for (const char* key : {"s", "n", "a", "t", "null"}) {
    ExpectMalformedAt(object_.GetObject(key), StrCat("root.", key));
  }
}

TEST_F(JsonObjectTest, FloatingSpellingsOfIntegersOnlyWhereAllowed) {
  EXPECT_EQ(*object_.GetUint("f", /*accept_float=*/true), 8u);
  EXPECT_EQ(*object_.GetUint("exact", /*accept_float=*/true), uint64_t{1} << 53);
  EXPECT_EQ(*object_.GetUint("n", /*accept_float=*/true), 7u);
  for (const char* key : {"half", "large", "beyond", "negative", "s", "null"}) {
    ExpectMalformedAt(object_.GetUint(key, /*accept_float=*/true), StrCat("root.", key));
  }
}

TEST_F(JsonObjectTest, UnknownMembersAreNamed) {
  const Json value = *Parse(R"({"a":1,"b\u001b[2J":2})");
  const JsonObject object = *JsonObject::From(value, "root");
  EXPECT_TRUE(object.RequireOnly({"a", "b\x1b[2J", "c"}).ok());
  const absl::Status status = object.RequireOnly({"a", "c"});
  EXPECT_EQ(ReasonOf(status), Reason::kMalformed);
  EXPECT_EQ(RefusalsOf(status)[0].item, "root.b\\x1b[2J");
}

TEST_F(JsonObjectTest, OnlyObjectsHaveMembers) {
  for (const char* text : {"1", "[]", "\"{}\"", "null", "true"}) {
    const Json value = *Parse(text);
    EXPECT_EQ(ReasonOf(JsonObject::From(value, "root").status()), Reason::kMalformed) << text;
  }
}

TEST(DumpJsonTest, KeepsOrderAndReplacesWhatIsNotText) {
  OrderedJson value;
  value["z"] = 1;
  value["a"] = "bad\xff";
  EXPECT_EQ(DumpJson(value, -1), "{\"z\":1,\"a\":\"bad\xef\xbf\xbd\"}");
  EXPECT_EQ(DumpJson(value), "{\n  \"z\": 1,\n  \"a\": \"bad\xef\xbf\xbd\"\n}");
}

}  // namespace
}  // namespace pavise
