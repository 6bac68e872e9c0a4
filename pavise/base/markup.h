#ifndef PAVISE_BASE_MARKUP_H_
#define PAVISE_BASE_MARKUP_H_

#include <string>
#include <string_view>

namespace pavise {

// `text` as content or quoted attribute of HTML and XML: Printable, and &, <, > and both quotes as
// references.
std::string MarkupText(std::string_view text);

// A text element of an SVG picture; x and y in its units, `attributes` as they are to stand there.
std::string SvgText(double x, double y, std::string_view attributes, std::string_view content);

}  // namespace pavise

#endif  // PAVISE_BASE_MARKUP_H_
