#ifndef PAVISE_EVIDENCE_APPRAISE_TPM_PCR_JSON_H_
#define PAVISE_EVIDENCE_APPRAISE_TPM_PCR_JSON_H_

#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// PCR values as they travel beside a quote (docs/formats/evidence.md, item pcr_values):
// {"sha1":{"10":"<hex>"},"sha256":{"0":"<hex>",...}}, banks in this order and registers in theirs,
// lower-case hexadecimal, no space.
std::string FormatPcrValues(const PcrValues& values);
// Exactly what FormatPcrValues writes; kMalformed for everything else, kLimitExceeded above 64 KiB.
absl::StatusOr<PcrValues> ParsePcrValues(ByteSpan text, std::string_view item);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_TPM_PCR_JSON_H_
