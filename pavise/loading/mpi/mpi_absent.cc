#include "pavise/base/status.h"
#include "pavise/loading/internal/launch.h"
#include "pavise/loading/mpi/mpi_ranks.h"

namespace pavise::loading {

absl::StatusOr<std::unique_ptr<RankGroup>> JoinLaunchedRanks(const char*) {
  PAVISE_ASSIGN_OR_RETURN(const unsigned launched, internal::LaunchedRanks());
  if (launched == 1) return nullptr;
  return internal::NoWayToSpeak("this program was built without Open MPI's headers");
}

}  // namespace pavise::loading
