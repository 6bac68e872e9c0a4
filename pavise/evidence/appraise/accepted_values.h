#ifndef PAVISE_EVIDENCE_APPRAISE_ACCEPTED_VALUES_H_
#define PAVISE_EVIDENCE_APPRAISE_ACCEPTED_VALUES_H_

#include <optional>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/check_list.h"

namespace pavise::evidence {

// The values that a field may have. nullopt: the caller asks nothing of the field here (the claims
// carry it). An empty list is no wildcard: nothing is accepted.
using AcceptedValues = std::optional<std::vector<Bytes>>;

// Records whether `seen` is one of `accepted`. kMeasurementUnknown: the list is empty;
// kMeasurementMismatch: another value. What nobody asked for is recorded as seen, and as such.
void CheckAcceptedValue(std::string_view name, ByteSpan seen, const AcceptedValues& accepted,
                        CheckList& checks);

// Records whether `seen` is exactly the challenge's value: kNonceMismatch.
void CheckReportData(ByteSpan seen, ByteSpan expected, CheckList& checks);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_ACCEPTED_VALUES_H_
