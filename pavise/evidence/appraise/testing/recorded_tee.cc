#include "pavise/evidence/appraise/machine/recorded_tee.h"

#include "pavise/evidence/appraise/intel/quote_appraiser.h"

namespace pavise::evidence {

RecordedTee::RecordedTee()
    : snp_roots(PinnedSnpRoots()), intel_root_fingerprint(kIntelRootFingerprint) {}

}  // namespace pavise::evidence
