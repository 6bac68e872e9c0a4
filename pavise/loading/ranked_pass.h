#ifndef PAVISE_LOADING_RANKED_PASS_H_
#define PAVISE_LOADING_RANKED_PASS_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "pavise/hash/file_pass.h"
#include "pavise/loading/ranked_run.h"

#include "absl/status/statusor.h"

namespace pavise::loading {

// A digest of the names and identities (FileRequest::expected_identity) of the files and of the
// kernel that runs (boot_id): ranks with the same one read the same files of the same machine.
// Empty where one of these is not known.
std::string CopyDigest(const std::vector<hash::FileRequest>& files);

// A pass over the files of a model that is divided among the ranks of a run: each reads and hashes
// its share with `inner`, all exchange what they found, and every rank makes the same results of
// it. Not thread-safe; run and inner pass must outlive it.
//
// The division follows from the requests alone, so that every rank knows everybody's share: files
// of which only the BLAKE3 tree is asked lie end to end on a line, which is cut into as many equal
// stretches as there are ranks; digests of ranges are dealt out one by one, largest first, and
// everything else file by file.
//
// What was read is what the ranks read: where each has a disk of its own, no rank's copy is proven
// as a whole.
class RankedPass final : public hash::FilePass {
 public:
  enum class Cut {
    kAtSubtrees,    // at any multiple of kSubtreeBytes: nothing is read twice
    kAroundRanges,  // between the requests' kept_whole; the kSubtreeBytes range of a cut is read by
                    // both its neighbours, who must find the same in it. Files with such ranges of
                    // which digests are asked go to one rank.
  };
  RankedPass(RankedRun& run, hash::FilePass& inner, Cut cut);
  ~RankedPass() override;

  // As `inner`; findings name the rank that made them. kRanksDisagree where the ranks were asked
  // different things or two of them read different bytes in the same place; kMalformed for results
  // that are not those of the share; and what RankedRun::Exchange returns.
  absl::StatusOr<std::vector<absl::StatusOr<hash::FileResult>>> Run(
      const std::vector<hash::FileRequest>& files, Progress* progress) override;
  std::string description() const override;
  std::string ReaderOf(const std::string& name, uint64_t begin_bytes,
                       uint64_t end_bytes) const override;

  // Whether bytes [begin, end) of that file lie in this rank's share of the latest Run, and in that
  // of no rank before it.
  bool Owns(const std::string& name, uint64_t begin_bytes, uint64_t end_bytes) const;
  uint64_t bytes_read() const { return bytes_read_; }  // of the latest Run
  const std::string& copy() const { return copy_; }    // CopyDigest of its files

 private:
  struct Share;
  struct Stretch {
    unsigned rank;
    uint64_t begin_bytes;
    uint64_t end_bytes;
  };
  // Whose share is what of one file.
  struct Owners {
    std::vector<Stretch> stretches;  // in the order of the ranks
    // Of digests that were dealt out: the rank of each range.
    std::map<std::pair<uint64_t, uint64_t>, unsigned> digests;
  };
  std::vector<Share> Divide(const std::vector<hash::FileRequest>& files);
  void DivideTrees(const std::vector<hash::FileRequest>& files, const std::vector<size_t>& trees,
                   std::vector<Share>& shares);

  RankedRun& run_;
  hash::FilePass& inner_;
  const Cut cut_;
  std::map<std::string, Owners> owners_;
  uint64_t bytes_read_ = 0;
  std::string copy_;
};

}  // namespace pavise::loading

#endif  // PAVISE_LOADING_RANKED_PASS_H_
