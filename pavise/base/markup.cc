#include "pavise/base/markup.h"

#include "pavise/base/bytes.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace pavise {

std::string MarkupText(std::string_view text) {
  return absl::StrReplaceAll(
      Printable(text),
      {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

std::string SvgText(double x, double y, std::string_view attributes, std::string_view content) {
  return StrCat(absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\"", x, y), attributes.empty() ? "" : " ",
                attributes, ">", MarkupText(content), "</text>\n");
}

}  // namespace pavise
