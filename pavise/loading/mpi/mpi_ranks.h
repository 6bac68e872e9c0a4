#ifndef PAVISE_LOADING_MPI_MPI_RANKS_H_
#define PAVISE_LOADING_MPI_MPI_RANKS_H_

#include <memory>

#include "pavise/loading/ranks.h"

#include "absl/status/statusor.h"

namespace pavise::loading {

// The ABI of Open MPI 4 and 5.
inline constexpr const char* kOpenMpiLibrary = "libmpi.so.40";

// The ranks that mpirun or srun started this process among: nullptr where no launcher did, or only
// this one, and then nothing of MPI is touched. The library is opened at run time. Once in a
// process; destroying the group ends MPI, after every rank has come so far. Where the transport has
// failed, or an exception is on its way, it ends the job instead (MPI_Abort, exit code 3), since
// the other ranks would wait for ever.
//
// Refusals, kUnsupported each: a launcher started several processes and there is no Open MPI
// library, it sees another number of processes, or it is not the launcher's (srun without
// --mpi=pmix); this program was built without MPI. Otherwise each process would give a verdict of
// its own and call it that of all. kInternal where MPI fails.
//
// What decides is in the environment: OMPI_COMM_WORLD_SIZE, PMIX_RANK, SLURM_STEP_NUM_TASKS; and
// Open MPI reads from there where its peers and plug-ins are. Who controls it chooses whom this
// process joins: call this only where it is trusted as PATH is.
//
// Does not return where Open MPI fails to start: its default error handler, which cannot be
// replaced before MPI_Init, ends the process by _exit(1). Waits for ever for a process that the
// launcher started and that ended well without coming here.
absl::StatusOr<std::unique_ptr<RankGroup>> JoinLaunchedRanks(const char* library = kOpenMpiLibrary);

}  // namespace pavise::loading

#endif  // PAVISE_LOADING_MPI_MPI_RANKS_H_
