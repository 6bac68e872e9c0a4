#ifndef PAVISE_LOADING_RANKED_VERIFICATION_H_
#define PAVISE_LOADING_RANKED_VERIFICATION_H_

#include <vector>

#include "pavise/loading/ranked_run.h"
#include "pavise/signing/verify.h"

#include "absl/status/statusor.h"

namespace pavise::loading {

struct RankedVerification {
  signing::VerifiedModel model;
  std::vector<RankPart> ranks;
};

// signing::ModelVerifier::Verify by all ranks of the run, which this concludes: each reads its
// share (RankedPass, cut anywhere) with `options.file_pass`, or without one on its CPU as
// `options.pass` says, and all return the same verdict. Beside the refusals of Verify, RankedPass
// and RankedRun: kUnsupported for `fips`.
absl::StatusOr<RankedVerification> VerifyInRanks(const signing::VerifyOptions& options,
                                                 RankedRun& run);

}  // namespace pavise::loading

#endif  // PAVISE_LOADING_RANKED_VERIFICATION_H_
