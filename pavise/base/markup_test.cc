#include "pavise/base/markup.h"

#include "gtest/gtest.h"

namespace pavise {
namespace {

TEST(MarkupTest, NothingInATextIsMarkup) {
  EXPECT_EQ(MarkupText("a < b && \"c\" > 'd'"),
            "a &lt; b &amp;&amp; &quot;c&quot; &gt; &#39;d&#39;");
  EXPECT_EQ(MarkupText("&lt;"), "&amp;lt;");
  EXPECT_EQ(MarkupText("\x1b[31m").find('\x1b'), std::string::npos);
}

TEST(MarkupTest, TextsOfPictures) {
  EXPECT_EQ(SvgText(1, 2.25, "", "</text>"), "<text x=\"1.0\" y=\"2.2\">&lt;/text&gt;</text>\n");
  EXPECT_EQ(SvgText(1, 2, "class=\"a\"", "b"), "<text x=\"1.0\" y=\"2.0\" class=\"a\">b</text>\n");
}

}  // namespace
}  // namespace pavise
