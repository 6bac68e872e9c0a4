#ifndef PAVISE_BASE_GLOB_H_
#define PAVISE_BASE_GLOB_H_

#include <string>
#include <string_view>

namespace pavise {

// Shell pattern over a whole string, fnmatch(3) without FNM_PATHNAME: `*` also crosses "/" and ".",
// so that "model.layers.3.*" names a layer. A pattern without * ? [ is an exact name.
bool GlobMatches(const std::string& pattern, const std::string& text);

}  // namespace pavise

#endif  // PAVISE_BASE_GLOB_H_
