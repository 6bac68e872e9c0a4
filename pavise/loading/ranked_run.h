#ifndef PAVISE_LOADING_RANKED_RUN_H_
#define PAVISE_LOADING_RANKED_RUN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/loading/ranks.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::signing {
struct VerifyOptions;
struct VerifyReport;
}  // namespace pavise::signing

namespace pavise::loading::internal {
struct RankMessage;
}  // namespace pavise::loading::internal

namespace pavise::loading {

// What one rank did, for results to print.
struct RankPart {
  std::string host;
  // Which files of which machine it read (CopyDigest); empty where it cannot tell.
  std::string copy;
  std::string device;
  uint64_t bytes_read = 0;
  // Of a load.
  uint64_t tensors = 0;
  uint64_t device_bytes = 0;
  uint64_t answers_sampled = 0;
};

// Things that all ranks must say alike, with the names that a refusal calls them by.
using RankFacts = std::vector<std::pair<std::string, std::string>>;
// Whether all ranks are known to have read the same files of the same machine. Else each may have
// read its part of a copy of its own, and the verdict is on the parts that were read.
bool ReadOneCopy(const std::vector<RankPart>& parts);
// What must be the same on all ranks at the end: the signed payload, the signer, the trust policy
// (whatever spelling it came from), the options that decide, and the result. What may be long
// stands in it as a digest.
RankFacts VerdictFacts(const signing::VerifyOptions& options, const signing::VerifyReport& report);

// One run of a verb on all ranks, from the first message to the one verdict. The ranks exchange
// messages in rounds in which every rank takes part; one whose run has ended says so in its next
// message, and all others then end too, so that no rank waits for one that has gone. Only Conclude
// makes an accept, and only where every rank accepted the same. A message that cannot be read ends
// the run for all in its round, since nobody knows whether its sender will speak again: ranks of
// two versions, which cannot read each other, leave in the same one. Not thread-safe; the group
// must outlive it.
//
// Against whom: ranks that see other files, signatures or options, that fail, that die (the
// launcher ends the rest) and that compute wrongly without meaning to. Not against a rank whose
// program lies on purpose, nor against who controls the network between them.
class RankedRun {
 public:
  explicit RankedRun(RankGroup& group);

  unsigned rank() const { return group_.rank(); }
  unsigned size() const { return group_.size(); }
  // "rank 2 on HOST", as far as the rank has said where it runs.
  std::string Label(unsigned rank) const;

  // One round before the end: `request` first, then the results. Every rank's payload, in their
  // order, where all ranks are well. Otherwise the same refusal or failure on each: what the ranks
  // reported, with the rank named that said it; kRanksDisagree where facts differ; kMalformed.
  // Where a rank has ended already, kInternal, which Conclude replaces by what that rank says.
  enum class Round { kRequest, kResults };
  absl::StatusOr<std::vector<Bytes>> Exchange(Round round, const absl::Status& status,
                                              const RankFacts& facts, ByteSpan payload);

  // The last word, once in a run, whatever became of it: `status` is this rank's own outcome. All
  // ranks return the same: what each did where all accepted and all facts are alike, else all that
  // any of them has against it. A refusal goes before a usage error, that before a failure.
  absl::StatusOr<std::vector<RankPart>> Conclude(const absl::Status& status, const RankFacts& facts,
                                                 const RankPart& mine);
  bool is_concluded() const { return is_concluded_; }
  // The transport failed: nobody can speak for this rank but itself.
  bool is_cut_off() const { return is_cut_off_; }

 private:
  struct Received;
  absl::StatusOr<Received> Gather(ByteSpan mine);
  absl::Status Merge(const Received& received) const;
  Bytes Serialize(internal::RankMessage message) const;

  RankGroup& group_;
  const std::string host_;
  std::vector<std::string> hosts_;  // as heard, this rank's too: all call each alike
  absl::Status broken_off_;         // a message could not be read: no more rounds
  bool follows_ = false;
  bool is_concluded_ = false;
  bool is_cut_off_ = false;
};

}  // namespace pavise::loading

#endif  // PAVISE_LOADING_RANKED_RUN_H_
