#include "pavise/loading/internal/launch.h"

#include <cstdlib>
#include <string_view>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/loading/ranks.h"

#include "absl/strings/numbers.h"

namespace pavise::loading::internal {
namespace {

absl::StatusOr<unsigned> CountIn(const char* name, const char* text) {
  unsigned count = 0;
  if (absl::SimpleAtoi(text, &count) && count >= 1 && count <= kMostRanks) return count;
  return Refuse(Reason::kUnsupported, name, StrCat("is not a number from 1 to ", kMostRanks),
                "start it with mpirun or srun --mpi=pmix, or give --no-mpi");
}

}  // namespace

absl::Status NoWayToSpeak(std::string_view why) {
  return Refuse(
      Reason::kUnsupported, "mpi",
      StrCat("several processes were started together and cannot speak to each other: ", why),
      "install Open MPI 4 or 5 (Debian: libopenmpi3) and start with mpirun or srun "
      "--mpi=pmix; or give --no-mpi, and each process verifies everything by itself");
}

absl::StatusOr<unsigned> LaunchedRanks() {
  if (const char* size = std::getenv("OMPI_COMM_WORLD_SIZE"); size != nullptr) {
    return CountIn("OMPI_COMM_WORLD_SIZE", size);
  }
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (std::getenv("PMIX_RANK") != nullptr) {
    return tasks == nullptr ? 0U : CountIn("SLURM_STEP_NUM_TASKS", tasks);
  }
  if (tasks == nullptr) return 1U;
  PAVISE_ASSIGN_OR_RETURN(const unsigned count, CountIn("SLURM_STEP_NUM_TASKS", tasks));
  if (count > 1) return NoWayToSpeak("srun started them without --mpi=pmix");
  return count;
}

}  // namespace pavise::loading::internal
