#include "pavise/evidence/appraise/tpm/pcr_json.h"

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

TEST(PcrJsonTest, ComesBackAsItWas) {
  PcrValues values;
  ASSERT_TRUE(values.Set(PcrBank::kSha256, 10, Bytes(32, 0xab)).ok());
  ASSERT_TRUE(values.Set(PcrBank::kSha256, 2, Bytes(32, 1)).ok());
  ASSERT_TRUE(values.Set(PcrBank::kSha1, 0, Bytes(20, 2)).ok());
  const std::string text = FormatPcrValues(values);
  EXPECT_EQ(text.substr(0, 14), "{\"sha1\":{\"0\":\"");
  EXPECT_LT(text.find("\"2\":"), text.find("\"10\":"));
  EXPECT_EQ(ParsePcrValues(AsBytes(text), "values").value(), values);
  EXPECT_EQ(ParsePcrValues(AsBytes("{}"), "values").value(), PcrValues());
}

TEST(PcrJsonTest, OtherSpellingsAreRefused) {
  const std::string digest(64, 'a');
  const auto of = [&](const std::string& index, const std::string& hex) {
    return StrCat("{\"sha256\":{\"", index, "\":\"", hex, "\"}}");
  };
  ASSERT_TRUE(ParsePcrValues(AsBytes(of("1", digest)), "values").ok());
  size_t executed = 0;
  for (const std::string& text :
       {of("01", digest), of("24", digest), of("-1", digest), of("+1", digest), of(" 1", digest),
        of("x", digest), of("1", std::string(64, 'A')), of("1", std::string(62, 'a')), of("1", ""),
        of("1", digest) + " ", " " + of("1", digest), std::string("[]"),
        std::string("{\"sha256\":1}"), std::string("{\"sha257\":{}}"),
        std::string("{\"sha256\":{}}"), std::string()}) {
    EXPECT_EQ(ReasonOf(ParsePcrValues(AsBytes(text), "values").status()), Reason::kMalformed)
        << text;
    ++executed;
  }
  EXPECT_EQ(executed, 16u);
}

}  // namespace
}  // namespace pavise::evidence
