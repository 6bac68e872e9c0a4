#include "pavise/loading/ranks.h"

#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/numbers.h"

namespace pavise::loading {

absl::StatusOr<unsigned> LocalRank() {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}) {
    const char* text = std::getenv(name);
    if (text == nullptr) continue;
    unsigned rank = 0;
    if (absl::SimpleAtoi(text, &rank) && rank < kMostRanks) return rank;
    return UsageError(StrCat(name, " is not the number of a process"));
  }
  return UsageError("no launcher says which of the processes on this machine this is");
}

}  // namespace pavise::loading
