#include "pavise/base/glob.h"

#include <fnmatch.h>

namespace pavise {

bool GlobMatches(const std::string& pattern, const std::string& text) {
  // One search a character: find_first_of would start one a byte.
  constexpr auto kNone = std::string::npos;
  if (pattern.find('*') == kNone && pattern.find('?') == kNone && pattern.find('[') == kNone) {
    return pattern == text;
  }
  // fnmatch stops at NUL: a name that holds one matches nothing.
  if (text.find('\0') != std::string::npos || pattern.find('\0') != std::string::npos) return false;
  return fnmatch(pattern.c_str(), text.c_str(), FNM_NOESCAPE) == 0;
}

}  // namespace pavise
