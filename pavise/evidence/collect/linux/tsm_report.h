#ifndef PAVISE_EVIDENCE_COLLECT_LINUX_TSM_REPORT_H_
#define PAVISE_EVIDENCE_COLLECT_LINUX_TSM_REPORT_H_

#include <array>
#include <string>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// What a confidential guest's hardware signed.
struct TsmReport {
  std::string provider;  // "sev_guest", "tdx_guest"
  Bytes report;          // SNP report, or TDX quote
  Bytes auxiliary;       // SNP: the certificate table (GHCB 2.0, 4.1.8); else empty
};

// A report over 64 bytes of the caller's, through configfs-tsm (Linux 6.7,
// Documentation/ABI/testing/configfs-tsm). `directory`: where reports are asked for. kUnsupported:
// this machine is no confidential guest, or its kernel has no such interface. kFileUnstable:
// somebody else wrote to the request meanwhile (its generation moved).
absl::StatusOr<TsmReport> CollectTsmReport(
    const std::array<uint8_t, 64>& report_data,
    const std::string& directory = "/sys/kernel/config/tsm/report");

// The same of a request that exists already: of the directory's files inblob, outblob, auxblob,
// provider and generation.
absl::StatusOr<TsmReport> ReadTsmRequest(const std::array<uint8_t, 64>& report_data,
                                         const std::string& request);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_COLLECT_LINUX_TSM_REPORT_H_
