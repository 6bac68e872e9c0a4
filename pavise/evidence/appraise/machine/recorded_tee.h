#ifndef PAVISE_EVIDENCE_APPRAISE_MACHINE_RECORDED_TEE_H_
#define PAVISE_EVIDENCE_APPRAISE_MACHINE_RECORDED_TEE_H_

#include <optional>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/snp/snp_appraiser.h"

namespace pavise::evidence {

// What tests set aside so that a TEE's report can be appraised that was recorded elsewhere, or
// signed under roots of the test's. No program can make one: the constructor is defined in
// appraise/testing/, which none links, so that no option, file or message leads here.
struct RecordedTee {
  RecordedTee();

  // What the report data are to be in place of the binding value. This waives that the report
  // answers this challenge, that it is for this session key, and that it belongs to the parts
  // before it. All else is asked as ever, and the appraisal's checks name what was waived.
  std::optional<Bytes> report_data;  // 64 bytes
  // In place of the vendors' roots.
  std::vector<SnpRoot> snp_roots;
  std::string intel_root_fingerprint;
};

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_MACHINE_RECORDED_TEE_H_
