#ifndef PAVISE_EVIDENCE_APPRAISE_INTEL_TDX_EVENT_LOG_H_
#define PAVISE_EVIDENCE_APPRAISE_INTEL_TDX_EVENT_LOG_H_

#include <cstdint>
#include <set>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/evidence/appraise/eventlog/event_log_appraiser.h"
#include "pavise/evidence/appraise/intel/quote_appraiser.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// RTMR 0 to 3 under the numbers that event logs give them, 1 to 4, in the SHA-384 bank (UEFI 2.10,
// 38.4.1, table "TDX mapping"; 0 is MRTD, which no event extends).
absl::StatusOr<PcrValues> RtmrValues(const TdReportBody& body);

// Holds the log of a trust domain's boot (the area that ACPI's CCEL table names; Linux:
// /sys/firmware/acpi/tables/data/CCEL) against the RTMRs of a verified quote. All four must replay;
// one without an event is zero. Refusals: as ParseEventLog and EventLogAppraiser; kUnsupported: the
// quote is an SGX enclave's, which has no log.
absl::StatusOr<VerifiedEventLog> AppraiseTdxEventLog(ByteSpan log, const VerifiedIntelQuote& quote,
                                                     CheckList& checks,
                                                     const std::set<uint32_t>& required_rtmrs = {
                                                         0, 1, 2, 3});

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_INTEL_TDX_EVENT_LOG_H_
