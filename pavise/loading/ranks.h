#ifndef PAVISE_LOADING_RANKS_H_
#define PAVISE_LOADING_RANKS_H_

#include <cstdint>
#include <vector>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

namespace pavise::loading {

// What one rank may send at a time; 32 bytes stand for a MiB of model.
inline constexpr uint64_t kMostRankMessageBytes = uint64_t{4} << 30;
inline constexpr unsigned kMostRanks = 65'536;

// The processes that a launcher started together (mpirun, srun), and this one's place among them.
// Not thread-safe: one thread of each rank calls it.
class RankGroup {
 public:
  virtual ~RankGroup() = default;
  virtual unsigned rank() const = 0;  // below size()
  virtual unsigned size() const = 0;  // 1 to kMostRanks
  // Every rank calls it as often as every other, and each gets what all of them gave, in the order
  // of the ranks. Waits for the slowest. kInternal where the transport fails or a message is longer
  // than kMostRankMessageBytes: this rank can then talk to nobody any more. What a received message
  // says is for the caller to doubt.
  virtual absl::StatusOr<std::vector<Bytes>> AllGather(ByteSpan mine) = 0;
};

// Which of the launcher's processes on this machine this is, from 0 (OMPI_COMM_WORLD_LOCAL_RANK,
// SLURM_LOCALID): what devices are dealt out by. kInvalidArgument where none says.
absl::StatusOr<unsigned> LocalRank();

}  // namespace pavise::loading

#endif  // PAVISE_LOADING_RANKS_H_
