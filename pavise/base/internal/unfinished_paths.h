#ifndef PAVISE_BASE_INTERNAL_UNFINISHED_PATHS_H_
#define PAVISE_BASE_INTERNAL_UNFINISHED_PATHS_H_

#include <string>

namespace pavise::internal {

// Paths that RemoveUnfinishedFilesOnSignals' handler removes, a directory with all below it. The
// place is -1 where there is no room for it or the path is too long: that one outlives a signal.
// Thread-safe.
int RememberUnfinished(const std::string& path);
void ForgetUnfinished(int place);

}  // namespace pavise::internal

#endif  // PAVISE_BASE_INTERNAL_UNFINISHED_PATHS_H_
